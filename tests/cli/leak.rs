//! Nothing at or after t leaves a trace in a night whose interval ends at t: the binary reads two logs that differ from t
//! on, each into a warehouse of its own, and publishes the same.
//!
//! Where an input file holds events of both sides, its digest differs, and with it the fingerprint in the footers and
//! the names of the published files: then rows are compared, every column bit by bit. Where the events from t on lie in
//! files of their own, a run does not even read them, and bytes and commit records are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array,
};
use arrow::compute::{concat_batches, sort_to_indices, take};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use curec::network::random::Random;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::common::{self, World, expect_code, january};
use crate::night::TABLES;

/// t: 15 January 2026, 00:00, the end of the interval. A quarter of the log comes later.
fn t() -> i64 {
    january(15, 0)
}

const DT: &str = "dt=2026-01-14";
/// What a night's evidence and prompts stand in: every one of them shows a single label.
const EVIDENCE: [&str; 4] = ["user_history", "item_audience", "reason_prompt", "reason"];
/// What of a response follows from its prompt; the rest tells who paid for it, and when.
const ANSWER: [&str; 7] =
    ["prompt_key", "text", "error", "finish", "logprob_sum", "prompt_tokens", "completion_tokens"];

/// A row of the log.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    user: String,
    item: String,
    kind: Option<&'static str>,
    rating: Option<f32>,
    /// Milliseconds since 1970.
    at: i64,
}

fn row(user: &str, item: &str, rating: f32, at: i64) -> Row {
    Row { user: user.into(), item: item.into(), kind: Some("rating"), rating: Some(rating), at }
}

/// The common log; before it an event of the year 1, at the border one a millisecond before t and one at t.
fn base() -> Vec<Row> {
    let mut rows: Vec<Row> =
        common::events().iter().map(|e| row(&e.user, &e.item, e.rating.unwrap(), e.at.unwrap())).collect();
    rows.push(row("u00", "i05", 4.0, -62_135_596_800_000));
    rows.push(row("last", "i02", 5.0, t() - 7_200_000));
    rows.push(row("last", "i00", 5.0, t() - 1));
    rows.push(row("last", "i01", 5.0, t()));
    rows
}

fn write_log(path: &Path, rows: &[Row]) {
    let utc = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let schema = Schema::new(vec![
        Field::new("user_id", DataType::Utf8, false),
        Field::new("item_id", DataType::Utf8, false),
        Field::new("event", DataType::Utf8, true),
        Field::new("rating", DataType::Float32, true),
        Field::new("timestamp", utc, false),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.user))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.item))),
        Arc::new(rows.iter().map(|r| r.kind).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| r.rating).collect::<Float32Array>()),
        Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|r| r.at)).with_timezone("UTC")),
    ];
    common::write(path, &RecordBatch::try_new(Arc::new(schema), columns).unwrap());
}

/// What a night leaves: every published table's rows in their order, and the answers by prompt.
type Rows = BTreeMap<&'static str, RecordBatch>;

/// Runs the night into the warehouse `name`.
fn night(world: &World, name: &str, interaction: &str, more: &[&str]) -> Rows {
    let root = world.path(name);
    let warehouse = format!("warehouse={}", root.display());
    let interaction = format!("input.interaction={}", world.path(interaction).display());
    let mut args = vec!["run", "job.toml", "--interval-start", "2026-01-14", "--interval-end", "2026-01-15"];
    args.extend(["--set", &warehouse, "--set", &interaction]);
    args.extend(more);
    expect_code(&world.curec(&args), 0);
    let mut found: Rows = TABLES.iter().map(|table| (*table, rows(&root.join(table).join(DT)).unwrap())).collect();
    let answers = rows(&root.join("response")).unwrap();
    let at: Vec<usize> = ANSWER.iter().map(|name| answers.schema().index_of(name).unwrap()).collect();
    let answers = answers.project(&at).unwrap();
    let order: UInt32Array = sort_to_indices(answers.column(0), None, None).unwrap();
    let sorted = answers.columns().iter().map(|c| take(c, &order, None).unwrap()).collect();
    found.insert("response", RecordBatch::try_new(answers.schema(), sorted).unwrap());
    found
}

/// All rows of a folder's Parquet files, without what footers say besides.
fn rows(folder: &Path) -> Option<RecordBatch> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "parquet"));
    files.sort();
    let mut batches = Vec::new();
    for file in files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(file).unwrap()).unwrap();
        batches.extend(reader.build().unwrap().map(|batch| batch.unwrap()));
    }
    concat_batches(&batches.first()?.schema(), &batches).ok()
}

/// The columns of tables in which two nights differ, in any bit.
fn differences(one: &Rows, other: &Rows) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (table, ours) in one {
        let theirs = &other[table];
        assert_eq!(ours.schema().fields(), theirs.schema().fields(), "{table}");
        for (field, (a, b)) in ours.schema().fields().iter().zip(ours.columns().iter().zip(theirs.columns())) {
            // Arrays of floats are compared by their bytes.
            if a.to_data() != b.to_data() {
                found.insert(format!("{table}.{}", field.name()));
            }
        }
    }
    found
}

fn tables(differences: &BTreeSet<String>) -> BTreeSet<&str> {
    differences.iter().filter_map(|d| d.split_once('.')).map(|(table, _)| table).collect()
}

fn text(batch: &RecordBatch, column: &str) -> Vec<String> {
    let column = batch.column_by_name(column).unwrap().as_string::<i32>();
    column.iter().flatten().map(str::to_owned).collect()
}

/// Changes the events from t on; the first argument holds them.
type Change = fn(&mut Vec<Row>, &mut Random);

/// Puts one label of all rows into another order.
fn shuffle<T: Clone>(rows: &mut [Row], random: &mut Random, label: fn(&mut Row) -> &mut T) {
    let mut labels: Vec<T> = rows.iter_mut().map(|r| label(r).clone()).collect();
    random.shuffle(&mut labels);
    rows.iter_mut().zip(labels).for_each(|(row, value)| *label(row) = value);
}

/// Labels that change hands or change, then events that are others altogether. Moments differ from row to row, so that
/// no change makes a key stand twice.
const CHANGES: [(&str, Change); 6] = [
    ("ratings", |rows, random| shuffle(rows, random, |r| &mut r.rating)),
    ("kinds and ratings that are none", |rows, random| {
        for row in rows.iter_mut() {
            row.kind = [None, Some("click"), Some("purchase"), Some("rating")][random.below(4)];
            row.rating = [None, Some(-3.5), Some(1e30), Some(5.0)][random.below(4)];
        }
    }),
    ("items", |rows, random| shuffle(rows, random, |r| &mut r.item)),
    ("users", |rows, random| shuffle(rows, random, |r| &mut r.user)),
    ("all of them gone", |rows, _| rows.clear()),
    ("new users and items, the end of time, rows turned round", |rows, random| {
        for n in 0..200_i64 {
            let (user, item) = (format!("u{}", 10 + random.below(40)), format!("i{}", 10 + random.below(30)));
            rows.push(row(&user, &item, 1.0 + random.below(5) as f32, t() + 7_000_000 + n));
        }
        // The last millisecond of the year 9999.
        rows.push(row("u00", "i00", 1.0, 253_402_300_799_999));
        rows.push(row("new", "unknown", 5.0, t()));
        rows.reverse();
    }),
];

#[test]
fn what_happens_from_t_on_changes_no_bit_of_a_night() {
    let world = World::new();
    let (past, future): (Vec<Row>, Vec<Row>) = base().into_iter().partition(|r| r.at < t());
    assert!(past.len() > 100 && future.len() > 50, "{} {}", past.len(), future.len());
    let run = |name: &str, rows: &[Row]| {
        let file = format!("{name}.parquet");
        write_log(&world.path(&file), rows);
        night(&world, &format!("warehouse-{name}"), &file, &[])
    };
    let expected = run("base", &[past.as_slice(), &future].concat());
    assert!(expected.values().all(|table| table.num_rows() > 10), "nothing to compare");
    for (n, (what, change)) in CHANGES.iter().enumerate() {
        let mut random = Random::new(n as u64, "leak");
        let mut other = future.clone();
        change(&mut other, &mut random);
        assert_ne!(other, future, "{what}");
        // Later events first in half of the files.
        let rows = if n % 2 == 0 { [past.as_slice(), &other].concat() } else { [other.as_slice(), &past].concat() };
        let found = differences(&expected, &run(&n.to_string(), &rows));
        assert!(found.is_empty(), "{what}: {found:?}");
    }

    // The controls: one label a millisecond before t, and all labels before t.
    let mut one = past.clone();
    one.iter_mut().find(|r| r.at == t() - 1).unwrap().rating = Some(1.0);
    let found = differences(&expected, &run("one", &[one.as_slice(), &future].concat()));
    let missing: Vec<_> = EVIDENCE.iter().chain(&["response"]).filter(|t| !tables(&found).contains(*t)).collect();
    assert!(missing.is_empty(), "{missing:?} do not show a label: {found:?}");
    assert!(found.contains("reason_prompt.prompt_text") && found.contains("user_history.recent"), "{found:?}");
    let mut all = past.clone();
    shuffle(&mut all, &mut Random::new(0, "control"), |r| &mut r.rating);
    let found = differences(&expected, &run("all", &[all.as_slice(), &future].concat()));
    let missing: Vec<_> = expected.keys().filter(|table| !tables(&found).contains(*table)).collect();
    assert!(missing.is_empty(), "{missing:?} do not show labels: {found:?}");
    for feature in ["item_feature.embedding", "user_feature.embedding"] {
        assert!(found.contains(feature), "{feature} does not show labels: {found:?}");
    }
}

/// Published data files and commit records by their bytes, without what differs from run to run.
fn published(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for table in TABLES {
        for file in std::fs::read_dir(root.join(table).join(DT)).unwrap().map(|e| e.unwrap().path()) {
            let name = format!("{table}/{}", file.file_name().unwrap().to_string_lossy());
            let bytes = std::fs::read(&file).unwrap();
            let content = match name.ends_with("/_commit.json") {
                false => blake3::hash(&bytes).to_hex().to_string(),
                true => {
                    let mut record: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                    for changing in ["run_id", "lease_epoch"] {
                        record.as_object_mut().unwrap().remove(changing).expect(changing);
                    }
                    record.to_string()
                }
            };
            found.insert(name, content);
        }
    }
    found
}

#[test]
fn events_from_t_on_in_files_of_their_own_change_no_byte_of_a_night() {
    let world = World::new();
    let (past, mut future): (Vec<Row>, Vec<Row>) = base().into_iter().partition(|r| r.at < t());
    let run = |name: &str, past: &[Row], future: &[Row]| {
        write_log(&world.path(&format!("{name}/a.parquet")), past);
        write_log(&world.path(&format!("{name}/b.parquet")), future);
        let warehouse = format!("warehouse-{name}");
        night(&world, &warehouse, name, &[]);
        published(&world.path(&warehouse))
    };
    let expected = run("base", &past, &future);
    assert!(TABLES.iter().all(|table| expected.contains_key(&format!("{table}/_commit.json"))), "{expected:?}");
    shuffle(&mut future, &mut Random::new(1, "leak"), |r| &mut r.rating);
    shuffle(&mut future, &mut Random::new(2, "leak"), |r| &mut r.item);
    assert_eq!(run("other", &past, &future), expected);
    let mut past = past;
    past.iter_mut().find(|r| r.at == t() - 1).unwrap().rating = Some(1.0);
    assert_ne!(run("control", &past, &future), expected);
}

/// Items have no moment: what the catalogue says of an item that nobody had before t may not show either. Its
/// categories are left as they are, since the checks of reasons read those of the whole catalogue.
#[test]
fn reviews_and_titles_that_belong_to_later_events_reach_no_prompt() {
    const MARK: &str = "Zyzzyva";
    let world = World::new();
    let mut rows = base();
    rows.push(row("u01", "later", 5.0, t() + 3));
    rows.push(row("u02", "later", 5.0, t() + 4));
    write_log(&world.path("log.parquet"), &rows);
    let item = |title: &str| {
        let mut items = common::items();
        items.push(("later".into(), Some(title.into())));
        common::write_items(&world.path("input/item.parquet"), &items);
    };
    let review = |rating: f32, text: &str| {
        let utc = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let schema = Schema::new(vec![
            Field::new("user_id", DataType::Utf8, false),
            Field::new("item_id", DataType::Utf8, false),
            Field::new("timestamp", utc, false),
            Field::new("rating", DataType::Float32, true),
            Field::new("summary", DataType::Utf8, true),
            Field::new("text", DataType::Utf8, true),
        ]);
        // The first is known before t and is the same in both.
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["u00", "u01", "u02"])),
            Arc::new(StringArray::from(vec!["i00", "i01", "i02"])),
            Arc::new(TimestampMillisecondArray::from(vec![t() - 1, t(), t() + 9]).with_timezone("UTC")),
            Arc::new(Float32Array::from(vec![5.0, rating, rating])),
            Arc::new(StringArray::from(vec!["Fine", text, text])),
            Arc::new(StringArray::from(vec!["A fine film.", text, text])),
        ];
        common::write(&world.path("review.parquet"), &RecordBatch::try_new(Arc::new(schema), columns).unwrap());
    };
    let input = format!("input.review={}", world.path("review.parquet").display());
    let run = |name: &str| night(&world, name, "log.parquet", &["--set", &input]);

    item("Later Film");
    review(4.0, "I liked it.");
    let expected = run("warehouse-one");
    item(MARK);
    review(1.0, MARK);
    let other = run("warehouse-two");
    assert_eq!(differences(&expected, &other), BTreeSet::new());
    let prompts = text(&other["reason_prompt"], "prompt_text");
    assert!(prompts.len() > 10 && prompts.iter().all(|p| !p.contains(MARK)), "{prompts:?}");

    // The control: the title of an item that somebody had in time is in a prompt.
    let mut items = common::items();
    items[0].1 = Some(MARK.into());
    items.push(("later".into(), Some(MARK.into())));
    common::write_items(&world.path("input/item.parquet"), &items);
    let prompts = text(&run("warehouse-control")["reason_prompt"], "prompt_text");
    assert!(prompts.iter().any(|p| p.contains(MARK)), "{prompts:?}");
}
