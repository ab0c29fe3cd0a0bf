//! `curec export`: every event gets the newest feature rows that were true before or at its moment, and no other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float32Array, Int32Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float32Type, Int32Type, TimestampMicrosecondType};
use curec::config::{Job, parse_moment};
use curec::error::Kind;
use curec::feature::Entity;
use curec::operate::export::{Exported, Options, export};
use curec::operate::feast;
use curec::table::contract::Contract;
use curec::table::lease::{Holder, Lease};
use curec::table::partition::Publisher;
use curec::table::store::Location;
use curec::table::write::Stamp;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Encoding;

use crate::common;
use crate::ranker_loader::Batches;

/// 2026-01-02 00:00 UTC.
const T: i64 = 1_767_312_000_000_000;
const DAY: i64 = 86_400_000_000;
const WIDTH: usize = 4;

#[derive(Debug, Clone, PartialEq)]
struct Event {
    user: String,
    item: String,
    event: Option<&'static str>,
    rating: Option<f32>,
    at: i64,
}

/// A feature row; `value` is spread over its vector.
#[derive(Debug, Clone, PartialEq)]
struct Feature {
    key: String,
    at: i64,
    created: i64,
    /// `None`: the row says that it is missing.
    value: Option<f32>,
}

impl Feature {
    fn vector(&self) -> Vec<f32> {
        (0..WIDTH).map(|i| self.value.map_or(0.0, |v| v + i as f32 / 8.0)).collect()
    }
}

fn feature(key: &str, at: i64, value: f32) -> Feature {
    // Some rows are there and say that they are missing.
    Feature { key: key.into(), at, created: at, value: (value != 0.0).then_some(value) }
}

fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

/// A folder with a log, a warehouse and a job.
struct Place {
    folder: tempfile::TempDir,
    /// Published rows by table, in the order of the partitions.
    published: BTreeMap<&'static str, Vec<Vec<Feature>>>,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap(), published: BTreeMap::new() }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    fn text(&self, relative: &str) -> String {
        self.path(relative).display().to_string()
    }

    fn job(&self, more: &str) -> Job {
        let root = self.folder.path().display();
        let text = format!(
            "name = 'test'\nwarehouse = '{root}/warehouse'\n[input]\ninteraction = '{root}/input'\nitem = '{root}/none'\n\
             [model]\ngenerator = 'g'\nencoder = 'e'\n{more}"
        );
        Job::parse(&text, "job.toml", &[], &BTreeMap::new()).unwrap()
    }

    /// Writes the log as the one file `name` of the input's folder.
    fn log(&self, name: &str, events: &[Event]) {
        let text = |values: Vec<Option<&str>>| Arc::new(StringArray::from(values)) as ArrayRef;
        let rating = Float32Array::from(events.iter().map(|e| e.rating).collect::<Vec<_>>());
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("user_id", text(events.iter().map(|e| Some(e.user.as_str())).collect()), true),
            ("item_id", text(events.iter().map(|e| Some(e.item.as_str())).collect()), true),
            ("event", text(events.iter().map(|e| e.event).collect()), true),
            ("rating", Arc::new(rating) as ArrayRef, true),
            ("event_timestamp", times(events.iter().map(|e| e.at)), true),
        ]);
        common::write(&self.path("input").join(name), &batch.unwrap());
    }

    /// Publishes a partition of a feature table.
    async fn publish(&mut self, entity: Entity, dt: &str, contract: &Contract, mut rows: Vec<Feature>) {
        rows.sort_by(|a, b| (&a.key, a.at).cmp(&(&b.key, b.at)));
        let field = Arc::new(Field::new("item", DataType::Float32, true));
        let values = Float32Array::from_iter_values(rows.iter().flat_map(Feature::vector));
        let vectors = FixedSizeListArray::try_new(field, WIDTH as i32, Arc::new(values), None).unwrap();
        let mut columns = vec![
            (entity.key(), Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.key))) as ArrayRef, true),
            ("event_timestamp", times(rows.iter().map(|r| r.at)), true),
            ("created_timestamp", times(rows.iter().map(|r| r.created)), true),
            ("embedding", Arc::new(vectors), true),
            (
                "n_reasons",
                Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| i32::from(r.value.is_some()) * 2))),
                true,
            ),
            ("mean_score", Arc::new(rows.iter().map(|r| r.value).collect::<Float32Array>()), true),
            ("missing", Arc::new(rows.iter().map(|r| Some(r.value.is_none())).collect::<BooleanArray>()), true),
            (
                "source",
                Arc::new(StringArray::from_iter_values(
                    rows.iter().map(|r| if r.value.is_some() { "reason" } else { "none" }),
                )),
                true,
            ),
        ];
        if entity == Entity::Item {
            columns.push(("words", common::words(rows.len()), true));
        }
        let batch = RecordBatch::try_from_iter_with_nullable(columns);
        let root = Location::parse(&self.text("warehouse")).unwrap();
        let publisher = Publisher::new(root.clone(), "run");
        let lease = Lease::acquire(&root, dt, Holder::here("run"), Duration::from_secs(60)).await.unwrap();
        let stamp = Stamp { fingerprint: format!("f-{dt}"), parts: BTreeMap::new(), created_timestamp: T };
        let rows_in = futures::stream::iter([Ok(batch.unwrap())]);
        let staged = publisher.stage(contract, dt, &stamp, rows_in).await.unwrap();
        publisher.publish(&lease, staged).await.unwrap();
        lease.release().await.unwrap();
        self.published.entry(entity.table()).or_default().push(rows);
    }

    fn options(&self, out: &str) -> Options {
        Options {
            out: self.text(out),
            from: None,
            to: None,
            features: Entity::ALL.to_vec(),
            overwrite: false,
            allow_later_training: false,
        }
    }

    /// The row that the definition picks for an entity at a moment.
    fn wanted(&self, entity: Entity, key: &str, at: i64) -> Option<Feature> {
        let days = self.published.get(entity.table())?;
        let rows = days.iter().enumerate().flat_map(|(day, rows)| rows.iter().map(move |row| (day, row)));
        let found = rows.filter(|(_, row)| row.key == key && row.at <= at);
        found.max_by_key(|(day, row)| (row.at, row.created, *day)).map(|(_, row)| row.clone())
    }
}

/// All rows of an export in its own order.
fn read(folder: &Path) -> RecordBatch {
    let record: Exported = serde_json::from_slice(&std::fs::read(folder.join("_export.json")).unwrap()).unwrap();
    let mut batches = Vec::new();
    let mut schema = None;
    for file in &record.files {
        let file = std::fs::File::open(folder.join(&file.name)).unwrap();
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        schema = Some(builder.schema().clone());
        batches.extend(builder.build().unwrap().map(|b| b.unwrap()));
    }
    let all = concat_batches(&schema.unwrap(), &batches).unwrap();
    assert_eq!(all.num_rows() as u64, record.rows);
    all
}

fn names(done: &Exported) -> Vec<String> {
    done.files.iter().map(|f| f.name.clone()).collect()
}

/// Holds every exported row against the definition.
fn compare(place: &Place, exported: &RecordBatch, events: &[Event], entities: &[Entity]) {
    let mut events = events.to_vec();
    let rank = |e: &Event| (e.at, e.user.clone(), e.item.clone(), e.event.is_none(), e.event);
    events.sort_by(|a, b| {
        let null_last = |r: Option<f32>| (r.is_none(), r.unwrap_or(0.0));
        rank(a).cmp(&rank(b)).then(null_last(a.rating).partial_cmp(&null_last(b.rating)).unwrap())
    });
    let column = |name: &str| exported.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    let text = |name: &str, i: usize| {
        let column = column(name).as_string::<i32>();
        column.is_valid(i).then(|| column.value(i).to_string())
    };
    let moment = |name: &str, i: usize| {
        let column = column(name).as_primitive::<TimestampMicrosecondType>();
        column.is_valid(i).then(|| column.value(i))
    };
    let number = |name: &str, i: usize| {
        let column = column(name).as_primitive::<Float32Type>();
        column.is_valid(i).then(|| column.value(i))
    };
    assert_eq!(exported.num_rows(), events.len());
    for (i, event) in events.iter().enumerate() {
        assert_eq!(text("user_id", i).as_ref(), Some(&event.user), "row {i}");
        assert_eq!(text("item_id", i).as_ref(), Some(&event.item), "row {i}");
        assert_eq!(text("event", i).as_deref(), event.event, "row {i}");
        assert_eq!(number("rating", i), event.rating, "row {i}");
        assert_eq!(moment("event_timestamp", i), Some(event.at), "row {i}");
        for entity in entities {
            let key = if *entity == Entity::Item { &event.item } else { &event.user };
            let wanted = place.wanted(*entity, key, event.at);
            let name = |column: &str| format!("{}_{column}", entity.name());
            let vector = column(&name("embedding")).as_fixed_size_list().value(i);
            let vector = vector.as_primitive::<Float32Type>().values().to_vec();
            let said = (
                moment(&name("event_timestamp"), i),
                moment(&name("created_timestamp"), i),
                vector,
                column(&name("n_reasons")).as_primitive::<Int32Type>().value(i),
                number(&name("mean_score"), i),
                column(&name("missing")).as_boolean().value(i),
            );
            let wanted = match &wanted {
                Some(row) => {
                    let reasons = if row.value.is_some() { 2 } else { 0 };
                    (Some(row.at), Some(row.created), row.vector(), reasons, row.value, row.value.is_none())
                }
                None => (None, None, vec![0.0; WIDTH], 0, None, true),
            };
            assert_eq!(said, wanted, "row {i}, {entity:?} of {event:?}");
        }
    }
}

const ITEMS: [&str; 8] =
    ["plain", "it's", "\"quoted\"", "'; drop table item; --", "%2F/../x", "日本 語", " ", "never seen"];

/// Repeatable numbers that look random.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            values.swap(i, self.below(i + 1));
        }
    }
}

/// Events around every moment at which features change, to the microsecond.
fn events(n: usize) -> Vec<Event> {
    let mut draw = Draw(7);
    let moments: Vec<i64> = (0..5).flat_map(|day| [-DAY / 2, -1, 0, 1, DAY / 3].map(|by| T + day * DAY + by)).collect();
    (0..n)
        .map(|_| Event {
            user: format!("u'{}", draw.below(6)),
            item: ITEMS[draw.below(ITEMS.len())].into(),
            event: [Some("click"), Some("buy"), None][draw.below(3)],
            rating: [None, Some(1.0), Some(4.5)][draw.below(3)],
            at: moments[draw.below(moments.len())],
        })
        .collect()
}

/// Four days of features with everything that may happen to an entity.
async fn world() -> Place {
    let mut place = Place::new();
    let item = Contract::builtin("item_feature").unwrap();
    let user = Contract::builtin("user_feature").unwrap();
    let rows = |items: &[usize], at: i64, value: f32| {
        items.iter().map(|i| feature(ITEMS[*i], at, value + *i as f32)).collect()
    };
    place.publish(Entity::Item, "2026-01-01", &item, rows(&[0, 1, 2, 3, 4, 5], T, 10.0)).await;
    // Items 1 and 3 are not in the later days: they keep their first row. Item 6 comes new. 0.0 says `missing`.
    place.publish(Entity::Item, "2026-01-02", &item, rows(&[0, 2, 4, 6], T + DAY, -2.0)).await;
    // A day that mixes moments, and brings one item twice.
    let mut mixed: Vec<Feature> = rows(&[0, 4], T + 2 * DAY, 30.0);
    mixed.extend(rows(&[0, 5], T + 3 * DAY, 40.0));
    mixed.push(feature(ITEMS[2], T + 2 * DAY + 1, 35.0));
    place.publish(Entity::Item, "2026-01-03", &item, mixed).await;
    // The same moments again: of two rows the one created later counts, and of equal ones that of the later partition.
    let mut again: Vec<Feature> = rows(&[0, 5], T + 3 * DAY, 50.0);
    again[0].created += DAY;
    place.publish(Entity::Item, "2026-01-04", &item, again).await;
    let rows = |users: &[usize], at: i64| {
        users.iter().map(|u| feature(&format!("u'{u}"), at, 100.0 + *u as f32 + (at - T) as f32 / DAY as f32)).collect()
    };
    place.publish(Entity::User, "2026-01-01", &user, rows(&[0, 1, 2], T)).await;
    place.publish(Entity::User, "2026-01-02", &user, rows(&[1, 3], T + DAY)).await;
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_has_the_newest_row_before_it_and_no_later_one() {
    let place = world().await;
    let log = events(600);
    place.log("a.parquet", &log);
    let done = export(&place.job(""), &place.options("out")).await.unwrap();
    assert_eq!(done.rows, 600);
    let all = read(&place.path("out"));
    compare(&place, &all, &log, &Entity::ALL);
    let without = done.features["item_feature"].without;
    assert_eq!(without, log.iter().filter(|e| place.wanted(Entity::Item, &e.item, e.at).is_none()).count() as u64);
    assert!(without > 0 && without < 600);
    assert_eq!(done.features["item_feature"].partitions["2026-01-02"], "f-2026-01-02");

    // To the microsecond: the first features are true from T on, not before.
    let since = all.column_by_name("item_event_timestamp").unwrap();
    let moments = all.column_by_name("event_timestamp").unwrap().as_primitive::<TimestampMicrosecondType>();
    let at = |moment: i64| (0..all.num_rows()).filter(move |i| moments.value(*i) == moment);
    assert!(at(T - 1).count() > 0 && at(T - 1).all(|i| since.is_null(i)));
    assert!(at(T).any(|i| since.is_valid(i)));

    // What is read is what the Rust loader sees.
    let mut rows = 0;
    for batch in Batches::open(&place.path("out"), 64).unwrap() {
        let batch = batch.unwrap();
        let n = batch.item_ids.len();
        assert!(n <= 64 && batch.user_ids.len() == n && batch.item_width == WIDTH);
        let part = all.slice(rows, n);
        let vectors = part.column_by_name("item_embedding").unwrap().as_fixed_size_list().clone();
        let vectors: Vec<f32> =
            (0..n).flat_map(|i| vectors.value(i).as_primitive::<Float32Type>().values().to_vec()).collect();
        assert_eq!(batch.item_vectors, vectors);
        for i in 0..n {
            let wanted = place.wanted(Entity::Item, &batch.item_ids[i], batch.moments[i]);
            assert_eq!(batch.item_missing[i], wanted.as_ref().is_none_or(|row| row.value.is_none()));
            assert_eq!(batch.item_age[i], wanted.map(|row| batch.moments[i] - row.at));
            assert_eq!(batch.ratings[i].is_nan(), part.column_by_name("rating").unwrap().is_null(i));
        }
        rows += n;
    }
    assert_eq!(rows, 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_the_log_does_not_change_a_byte() {
    let place = world().await;
    let mut log = events(300);
    place.log("a.parquet", &log);
    let first = export(&place.job(""), &place.options("out")).await.unwrap();
    let mut draw = Draw(1);
    for round in 0..4 {
        draw.shuffle(&mut log);
        let cut = 1 + draw.below(log.len() - 1);
        place.log("a.parquet", &log[..cut]);
        place.log("b.parquet", &log[cut..]);
        let again = export(&place.job(""), &place.options(&format!("out{round}"))).await.unwrap();
        assert_eq!(again.files, first.files, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_and_one_kind_of_features() {
    let place = world().await;
    let log = events(300);
    place.log("a.parquet", &log);
    let (from, to) = (T + DAY, T + 2 * DAY);
    let moment = |at: i64| chrono::DateTime::from_timestamp_micros(at);
    let options = Options { from: moment(from), to: moment(to), features: vec![Entity::User], ..place.options("out") };
    let done = export(&place.job(""), &options).await.unwrap();
    let within: Vec<Event> = log.iter().filter(|e| (from..to).contains(&e.at)).cloned().collect();
    assert!(!within.is_empty() && within.len() < log.len());
    assert_eq!(done.rows, within.len() as u64);
    let all = read(&place.path("out"));
    compare(&place, &all, &within, &[Entity::User]);
    assert!(all.column_by_name("item_embedding").is_none());

    // Nothing in the range: a file without rows, for its columns.
    let late = Options { from: moment(T + 400 * DAY), to: None, ..place.options("empty") };
    assert_eq!(export(&place.job(""), &late).await.unwrap().rows, 0);
    assert!(read(&place.path("empty")).column_by_name("user_embedding").is_some());
    let turned = Options { from: moment(to), to: moment(from), ..place.options("turned") };
    assert_eq!(export(&place.job(""), &turned).await.unwrap_err().kind(), Kind::Usage);
    assert_eq!(parse_moment("--from", "yesterday").unwrap_err().kind(), Kind::Usage);
}

/// More days, rows and row groups than are held at once: stale batches are given up, groups span days and files.
#[tokio::test(flavor = "multi_thread")]
async fn many_days_are_joined_a_few_at_a_time() {
    const DAYS: i64 = 14;
    const ENTITIES: usize = 8000;
    let mut place = Place::new();
    let schemas = place.path("schemas");
    std::fs::create_dir_all(&schemas).unwrap();
    let text = std::fs::read_to_string(common::project().join("schemas/item_feature.toml")).unwrap();
    let small = "[writer]\nrow_group_bytes = 1048576\nfile_bytes = 1048576\n";
    let text = text.replace("[writer]\n", small);
    assert!(text.contains(small));
    std::fs::write(schemas.join("item_feature.toml"), &text).unwrap();
    let contract = Contract::parse(&text, "item_feature.toml").unwrap();
    for day in 0..DAYS {
        let at = T + day * DAY;
        let mut rows: Vec<Feature> =
            (0..ENTITIES).map(|i| feature(&format!("i{i:05}"), at, 1.0 + day as f32 + (i % 97) as f32)).collect();
        // One that is seen on this day only, and whose batch is stale but for it.
        rows.push(feature(&format!("only{day:02}"), at, 500.0 + day as f32));
        place.publish(Entity::Item, &format!("2026-01-{:02}", day + 1), &contract, rows).await;
    }
    let mut draw = Draw(3);
    let log: Vec<Event> = (0..14_000)
        .map(|n| {
            let at = T - DAY / 2 + (n as i64) * (DAYS + 1) * DAY / 14_000;
            let item = match draw.below(4) {
                0 => format!("only{:02}", draw.below(DAYS as usize)),
                _ => format!("i{:05}", draw.below(ENTITIES + 5)),
            };
            Event { user: format!("u{}", n % 50), item, event: None, rating: Some(n as f32), at }
        })
        .collect();
    place.log("a.parquet", &log);
    let job = place.job(&format!("[project]\nschemas = '{}'\n", schemas.display()));
    let options = Options { features: vec![Entity::Item], ..place.options("out") };
    let done = export(&job, &options).await.unwrap();
    // By key, or the definition takes minutes.
    let mut by_key: BTreeMap<&str, Vec<&Feature>> = BTreeMap::new();
    for row in place.published["item_feature"].iter().flatten() {
        by_key.entry(&row.key).or_default().push(row);
    }
    let all = read(&place.path("out"));
    let since = all.column_by_name("item_event_timestamp").unwrap().as_primitive::<TimestampMicrosecondType>();
    let vectors = all.column_by_name("item_embedding").unwrap().as_fixed_size_list();
    assert_eq!(all.num_rows(), log.len());
    for (i, event) in log.iter().enumerate() {
        let rows = by_key.get(event.item.as_str()).into_iter().flatten();
        let wanted = rows.filter(|row| row.at <= event.at).max_by_key(|row| row.at);
        assert_eq!(since.is_valid(i).then(|| since.value(i)), wanted.map(|row| row.at), "row {i}: {event:?}");
        let vector = vectors.value(i).as_primitive::<Float32Type>().values().to_vec();
        assert_eq!(vector, wanted.map_or(vec![0.0; WIDTH], |row| row.vector()), "row {i}: {event:?}");
    }
    let groups: Vec<i64> = done
        .files
        .iter()
        .flat_map(|f| {
            let file = std::fs::File::open(place.path("out").join(&f.name)).unwrap();
            let metadata = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().metadata().clone();
            metadata.row_groups().iter().map(|g| g.num_rows()).collect::<Vec<_>>()
        })
        .collect();
    assert!(groups.len() >= 2, "{groups:?}");
    assert!(groups[..groups.len() - 1].iter().all(|rows| rows == &groups[0] && rows % 1024 == 0), "{groups:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_encoded_as_the_feature_contracts_say() {
    let place = world().await;
    place.log("a.parquet", &events(100));
    let done = export(&place.job(""), &place.options("out")).await.unwrap();
    let file = std::fs::File::open(place.path("out").join(&done.files[0].name)).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let group = builder.metadata().row_group(0);
    for name in ["item_embedding", "user_embedding"] {
        let leaf = group.columns().iter().find(|c| c.column_path().string().starts_with(name)).unwrap();
        // Spark's own reader knows no byte streams.
        assert!(leaf.encodings().all(|e| matches!(e, Encoding::PLAIN | Encoding::RLE)), "{name}");
        assert!(leaf.statistics().is_none() && leaf.dictionary_page_offset().is_none(), "{name}");
        let field = builder.schema().field_with_name(name).unwrap();
        assert!(matches!(field.data_type(), DataType::FixedSizeList(f, 4) if !f.is_nullable()) && !field.is_nullable());
    }
    let sorted: Vec<i32> = group.sorting_columns().unwrap().iter().map(|s| s.column_idx).collect();
    assert_eq!(sorted, [4, 0, 1]);
    let bytes = std::fs::read(place.path("out").join(&done.files[0].name)).unwrap();
    assert_eq!(blake3::hash(&bytes).to_hex().to_string(), done.files[0].blake3);
    assert_eq!(bytes.len() as u64, done.files[0].bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_replaced_on_request_only() {
    let place = world().await;
    let log = events(100);
    place.log("a.parquet", &log);
    let job = place.job("");
    let first = export(&job, &place.options("out")).await.unwrap();
    let listing = || {
        let mut found: Vec<String> = std::fs::read_dir(place.path("out"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        found
    };
    let mut wanted = names(&first);
    wanted.insert(0, "_export.json".into());
    assert_eq!(listing(), wanted, "something is left over");
    let refused = export(&job, &place.options("out")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Usage);
    assert!(refused.explain().contains("--overwrite"), "{}", refused.explain());

    place.log("a.parquet", &log[..50]);
    let options = Options { overwrite: true, ..place.options("out") };
    let second = export(&job, &options).await.unwrap();
    assert_ne!(names(&second), names(&first));
    let mut wanted = names(&second);
    wanted.insert(0, "_export.json".into());
    assert_eq!(listing(), wanted);
    compare(&place, &read(&place.path("out")), &log[..50], &Entity::ALL);

    // What a killed export has left is no export.
    std::fs::create_dir_all(place.path("killed/_staging")).unwrap();
    std::fs::write(place.path("killed/_staging/part-00000.parquet"), "half").unwrap();
    export(&job, &place.options("killed")).await.unwrap();
    assert!(!place.path("killed/_staging").exists());

    // Folders with anything else in them, files, and the warehouse are nobody's to overwrite.
    std::fs::create_dir_all(place.path("home")).unwrap();
    std::fs::write(place.path("home/letter.txt"), "dear").unwrap();
    for out in ["home", "home/letter.txt", "warehouse", "warehouse/item_feature", "input", ""] {
        let options = Options { overwrite: true, ..place.options(out) };
        assert_eq!(export(&job, &options).await.unwrap_err().kind(), Kind::Usage, "{out:?}");
    }
    assert_eq!(std::fs::read_to_string(place.path("home/letter.txt")).unwrap(), "dear");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_published_features_it_says_what_to_do() {
    let mut place = Place::new();
    place.log("a.parquet", &events(10));
    let job = place.job("");
    let none = export(&job, &place.options("out")).await.unwrap_err();
    assert_eq!(none.kind(), Kind::Input);
    assert!(none.explain().contains("item_feature") && none.explain().contains("curec run"), "{}", none.explain());
    let contract = Contract::builtin("item_feature").unwrap();
    place.publish(Entity::Item, "2026-01-01", &contract, vec![feature("plain", T, 1.0)]).await;
    let one = export(&job, &place.options("out")).await.unwrap_err();
    assert!(one.explain().contains("--features item"), "{}", one.explain());
    assert!(!place.path("out").exists(), "a refused export leaves nothing");
    export(&job, &Options { features: vec![Entity::Item], ..place.options("out") }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_vanished_feature_file_leaves_the_old_export() {
    let place = world().await;
    place.log("a.parquet", &events(100));
    let job = place.job("");
    export(&job, &place.options("out")).await.unwrap();
    let before = read(&place.path("out"));
    let folder = place.path("warehouse/item_feature/dt=2026-01-02");
    let file = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "parquet"))
        .unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let again = Options { overwrite: true, ..place.options("out") };
    // As long as before, and nothing but zeros.
    std::fs::write(&file, vec![0; bytes.len()]).unwrap();
    assert_eq!(export(&job, &again).await.unwrap_err().kind(), Kind::Input);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(export(&job, &again).await.unwrap_err().kind(), Kind::Temporary);
    assert_eq!(read(&place.path("out")), before);
    assert!(!place.path("out/_staging").exists());
    std::fs::write(&file, bytes).unwrap();
    export(&job, &again).await.unwrap();
    assert_eq!(read(&place.path("out")), before);
}

#[test]
fn feast_gets_quoted_names_and_array_types() {
    let place = Place::new();
    let text = feast::definition(&place.job(""), &Entity::ALL).unwrap();
    for part in [
        "item = Entity(name=\"item\", join_keys=[\"item_id\"], value_type=ValueType.STRING)",
        "timestamp_field=\"event_timestamp\"",
        "created_timestamp_column=\"created_timestamp\"",
        "name=\"embedding\",\n            dtype=Array(Float32)",
        "from feast.types import Array, Bool, Float32, Int32, String",
        "FeatureService(name=\"test\", features=[item_feature, user_feature])",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(text.contains(&format!("path={}", serde_json::json!(place.text("warehouse/item_feature")))), "{text}");
    assert!(!feast::definition(&place.job(""), &[Entity::User]).unwrap().contains("item_feature"));
    assert!(!text.contains("DeltaFormat"), "{text}");
    let with_log = feast::definition(&place.job("[publish]\ndelta = true\n"), &Entity::ALL).unwrap();
    assert!(with_log.contains("\nfrom feast.data_format import DeltaFormat\n"), "{with_log}");
    assert_eq!(with_log.matches("\n    file_format=DeltaFormat(),\n    timestamp_field=").count(), 2, "{with_log}");
}
