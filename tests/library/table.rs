//! Tables end to end on disk and in memory: contracts, publishing, leases, segments, importers, inspect.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float32Array, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Float32Type, Int32Type};
use bytes::Bytes;
use curec::error::{Kind, Result};
use curec::operate::import;
use curec::operate::import::csv::CsvMapping;
use curec::operate::inspect::inspect;
use curec::table::contract::{Contract, builtin_names};
use curec::table::input::{check_input, open_input};
use curec::table::lease::{Holder, Lease};
use curec::table::partition::{CommitRecord, Publisher, append_segment, commit_record, gc, missing_file, segments};
use curec::table::published::partitions;
use curec::table::store::Location;
use curec::table::write::Stamp;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Encoding;

use crate::common::{shared, words};

const AS_OF: i64 = 893_116_800_000_000;
const DT: &str = "1998-04-20";

fn stamp(fingerprint: &str) -> Stamp {
    let parts = BTreeMap::from([("model".to_owned(), "m1".to_owned())]);
    Stamp { fingerprint: fingerprint.into(), parts, created_timestamp: AS_OF }
}

fn times(rows: usize) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(vec![AS_OF; rows]).with_timezone("UTC"))
}

/// item_feature rows with vectors of width 8; types as SQL makes them: nullable, list where the contract has a vector.
fn features(from: usize, rows: usize) -> RecordBatch {
    let ids: StringArray = (from..from + rows).map(|i| Some(format!("i{i:07}"))).collect();
    let values: Float32Array = (0..rows * 8).map(|i| Some(((from * 8 + i) as f32).sin())).collect();
    let field = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors = FixedSizeListArray::try_new(field, 8, Arc::new(values), None).unwrap();
    RecordBatch::try_from_iter_with_nullable([
        ("n_reasons", Arc::new(Int64Array::from(vec![2; rows])) as ArrayRef, true),
        ("item_id", Arc::new(ids), true),
        ("event_timestamp", times(rows), true),
        ("created_timestamp", times(rows), true),
        ("embedding", Arc::new(vectors), true),
        ("mean_score", Arc::new(Float32Array::from(vec![0.5; rows])), true),
        ("missing", Arc::new(BooleanArray::from(vec![false; rows])), true),
        ("source", Arc::new(StringArray::from(vec!["reason"; rows])), true),
        ("words", words(rows), true),
    ])
    .unwrap()
}

fn stream(batches: Vec<RecordBatch>) -> impl futures::Stream<Item = Result<RecordBatch>> {
    futures::stream::iter(batches.into_iter().map(Ok))
}

async fn lease(root: &Location, run: &str) -> Lease {
    Lease::acquire(root, "job.1998-04-20.1998-04-21", Holder::here(run), Duration::from_secs(60)).await.unwrap()
}

fn parquet_names(root: &Location, table: &str) -> Vec<String> {
    let folder = root.child(table).child(&format!("dt={DT}")).local_path().unwrap();
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|n| n.ends_with(".parquet")).collect();
    names.sort();
    names
}

#[test]
fn every_contract_is_sound() {
    let names: Vec<&str> = builtin_names().collect();
    assert_eq!(names.len(), 46);
    for name in names {
        let contract = Contract::builtin(name).unwrap();
        assert_eq!(contract.name, name);
        assert_eq!(contract.arrow_schema(Some(384)).fields().len(), contract.columns.len());
        assert!(contract.columns.iter().all(|c| !c.description.is_empty()), "{name}");
        assert!(contract.sorted_by.is_empty() || contract.sorted_by == contract.grain, "{name}");
    }
    let feature = Contract::builtin("item_feature").unwrap();
    let schema = feature.arrow_schema(Some(384));
    let embedding = schema.field_with_name("embedding").unwrap();
    assert!(!embedding.is_nullable());
    assert!(matches!(embedding.data_type(), DataType::FixedSizeList(f, 384) if !f.is_nullable() && f.name() == "item"));
    assert_eq!(Contract::builtin("nothing").unwrap_err().kind(), Kind::Config);
}

#[test]
fn a_value_that_is_added_is_allowed_and_makes_nothing_anew() {
    let text = |values: &str| {
        format!(
            "name = \"t\"\nversion = \"1.0\"\nrole = \"derived\"\ngrain = [\"id\"]\nsorted_by = [\"id\"]\n\
             partition_by = \"dt\"\n[[column]]\nname = \"id\"\ntype = \"utf8\"\nnullable = false\n{values}"
        )
    };
    let parse = |values: &str| Contract::parse(&text(values), "t.toml").unwrap();
    let (before, added) = (parse("values = [\"a\"]\n"), parse("values = [\"a\"]\nadded_values = [\"b\"] # why\n"));
    assert_eq!(added.columns[0].values, Some(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(added.digest(), before.digest());
    assert_ne!(parse("values = [\"a\", \"b\"]\n").digest(), before.digest());
}

async fn publish_and_republish(root: Location) {
    let contract = Contract::builtin("item_feature").unwrap();
    let publisher = Publisher::new(root.clone(), "run-1");
    let held = lease(&root, "run-1").await;
    assert!(commit_record(&root, "item_feature", DT).await.unwrap().is_none());

    let whole = stream(vec![features(0, 20_000)]);
    let staged = publisher.stage(&contract, DT, &stamp("f1"), whole).await.unwrap();
    assert_eq!((staged.rows, staged.files.len()), (20_000, 1));
    assert!(commit_record(&root, "item_feature", DT).await.unwrap().is_none());
    let first = publisher.publish(&held, staged).await.unwrap();
    assert_eq!(first.rows(), 20_000);
    assert_eq!(commit_record(&root, "item_feature", DT).await.unwrap().as_ref(), Some(&first));
    assert!(publisher.staging().list().await.unwrap().is_empty());
    let file = root.child("item_feature").child(&format!("dt={DT}")).child(&first.files[0].name);
    assert_eq!(file.digest().await.unwrap(), first.files[0].blake3);
    assert!(first.files[0].name.contains(&first.files[0].blake3[..16]));

    // The same rows, cut otherwise, by another run: the same bytes, and nothing changes.
    held.release().await.unwrap();
    let held = lease(&root, "run-2").await;
    let publisher = Publisher::new(root.clone(), "run-2");
    let cut = stream(vec![features(0, 1), features(1, 9_000), features(9_001, 0), features(9_001, 10_999)]);
    let staged = publisher.stage(&contract, DT, &stamp("f1"), cut).await.unwrap();
    assert_eq!(publisher.publish(&held, staged).await.unwrap(), first);

    // Other rows replace them; the old file goes.
    let staged = publisher.stage(&contract, DT, &stamp("f2"), stream(vec![features(0, 10)])).await.unwrap();
    let second = publisher.publish(&held, staged).await.unwrap();
    assert_eq!((second.rows(), second.run_id.as_str()), (10, "run-2"));
    assert!(file.head().await.unwrap().is_none());
    assert_eq!(partitions(&root, "item_feature").await.unwrap(), [second]);

    // No rows clear the partition.
    let staged = publisher.stage(&contract, DT, &stamp("f3"), stream(vec![])).await.unwrap();
    let third = publisher.publish(&held, staged).await.unwrap();
    assert!(third.files.is_empty());
    let left = root.child("item_feature").list().await.unwrap();
    assert_eq!(left.iter().map(|e| e.location.name()).collect::<Vec<_>>(), ["_commit.json"]);
}

#[tokio::test]
async fn publishing_replaces_a_partition_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    publish_and_republish(Location::parse(dir.path().to_str().unwrap()).unwrap()).await;
    assert!(!dir.path().join("_staging/run-2/item_feature").exists());
}

#[tokio::test]
async fn publishing_replaces_a_partition_in_memory() {
    publish_and_republish(Location::parse("memory://publish/w").unwrap()).await;
}

#[tokio::test]
async fn published_files_are_encoded_as_the_contract_says() {
    let dir = tempfile::tempdir().unwrap();
    let root = Location::parse(dir.path().to_str().unwrap()).unwrap();
    let contract = Contract::builtin("item_feature").unwrap();
    let publisher = Publisher::new(root.clone(), "run");
    let staged = publisher.stage(&contract, DT, &stamp("f"), stream(vec![features(0, 3000)])).await.unwrap();
    let held = lease(&root, "run").await;
    publisher.publish(&held, staged).await.unwrap();
    let names = parquet_names(&root, "item_feature");
    let path = root.child("item_feature").child(&format!("dt={DT}")).child(&names[0]).local_path().unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap()).unwrap();
    let metadata = builder.metadata().clone();
    assert_eq!(builder.schema().fields(), contract.arrow_schema(Some(8)).fields());
    let group = metadata.row_group(0);
    let leaf = |path: &str| group.columns().iter().find(|c| c.column_path().string() == path).unwrap();
    let vector = leaf("embedding.list.item");
    // Spark's own reader knows no byte streams.
    assert!(vector.encodings().all(|e| matches!(e, Encoding::PLAIN | Encoding::RLE)));
    assert!(vector.dictionary_page_offset().is_none() && vector.statistics().is_none());
    assert!(leaf("item_id").statistics().is_some());
    assert_eq!(group.sorting_columns().unwrap().iter().map(|s| s.column_idx).collect::<Vec<_>>(), [0, 1]);
    let footer = metadata.file_metadata().key_value_metadata().unwrap();
    let value = |key: &str| footer.iter().find(|kv| kv.key == key).and_then(|kv| kv.value.clone()).unwrap();
    assert_eq!(value("curec.table"), "item_feature");
    assert_eq!(value("curec.contract_version"), "1.3");
    assert_eq!(value("curec.fingerprint"), "f");
    assert_eq!(value("curec.vector_width"), "8");
    assert_eq!(value("curec.created_timestamp"), AS_OF.to_string());
    let batch = builder.build().unwrap().next().unwrap().unwrap();
    let wanted = features(0, 3000);
    let read = batch.column_by_name("embedding").unwrap().as_fixed_size_list().values().clone();
    let made = wanted.column_by_name("embedding").unwrap().as_fixed_size_list().values().clone();
    let made = &made.as_primitive::<Float32Type>().values()[..batch.num_rows() * 8];
    assert_eq!(&read.as_primitive::<Float32Type>().values()[..], made);

    // The independent reader sees the fixed width.
    let seen = inspect(&root.child("item_feature").local_path().unwrap(), 3).unwrap();
    assert_eq!((seen.rows, seen.files), (3000, 1));
    let column = |name: &str| seen.columns.iter().find(|c| c.name == name).unwrap();
    assert_eq!(column("embedding").data_type, "array[f32, 8]");
    assert_eq!(column("item_id").distinct, Some(3000));
    assert_eq!(column("item_id").min.as_deref(), Some("i0000000"));
    assert_eq!(column("missing").nulls, 0);
    assert!(seen.to_string().contains("array[f32, 8]"), "{seen}");
}

#[tokio::test]
async fn files_are_split_by_bytes_the_same_way_every_time() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/item_feature.toml")).unwrap();
    let text = format!("{text}row_group_bytes = 200000\nfile_bytes = 300000\n");
    let contract = Contract::parse(&text, "item_feature.toml").unwrap();
    let publisher = Publisher::new(Location::parse("memory://split/w").unwrap(), "run");
    let one = publisher.stage(&contract, DT, &stamp("f"), stream(vec![features(0, 60_000)])).await.unwrap();
    let pieces = (0..60).map(|i| features(i * 1000, 1000)).collect();
    let other = publisher.stage(&contract, DT, &stamp("f"), stream(pieces)).await.unwrap();
    assert!(one.files.len() > 1, "{}", one.files.len());
    assert_eq!(one.rows, 60_000);
    let names = |s: &curec::table::partition::StagedTable| s.files.iter().map(|f| f.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
}

#[tokio::test]
async fn rows_that_break_the_contract_are_not_staged() {
    let root = Location::parse("memory://broken/w").unwrap();
    let publisher = Publisher::new(root.clone(), "run");
    let contract = Contract::builtin("item_feature").unwrap();
    let replaced = |name: &str, array: ArrayRef| {
        let batch = features(0, 3);
        let columns = batch.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
        RecordBatch::try_from_iter_with_nullable(columns.iter().map(|c| {
            let column = if c == name { Arc::clone(&array) } else { Arc::clone(batch.column_by_name(c).unwrap()) };
            (c.as_str(), column, true)
        }))
        .unwrap()
    };
    let values = Float32Array::from([vec![0.0; 23], vec![f32::NAN]].concat());
    let field = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors = FixedSizeListArray::try_new(field, 8, Arc::new(values), None).unwrap();
    let cases: Vec<(RecordBatch, Kind, &[&str])> = vec![
        (
            replaced("item_id", Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]))),
            Kind::Audit,
            &["null", "item_id", "row: 1"],
        ),
        (
            replaced("item_id", Arc::new(StringArray::from(vec!["a", "b", "b"]))),
            Kind::Audit,
            &["twice", "row: 2", "item_id=b"],
        ),
        (
            replaced("item_id", Arc::new(StringArray::from(vec!["b", "a", "c"]))),
            Kind::Internal,
            &["order", "row: 1", "item_id=a"],
        ),
        (
            replaced("n_reasons", Arc::new(Int32Array::from(vec![1, 2, -1]))),
            Kind::Audit,
            &["-1 is less than 0", "n_reasons", "row: 2"],
        ),
        (replaced("embedding", Arc::new(vectors)), Kind::Audit, &["NaN", "embedding", "row: 2"]),
        (features(0, 3).project(&[0, 1]).unwrap(), Kind::Internal, &["lack", "event_timestamp"]),
    ];
    for (batch, kind, names) in cases {
        let error = publisher.stage(&contract, DT, &stamp("f"), stream(vec![batch])).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.explain());
        for name in names {
            assert!(error.explain().contains(name), "{name:?} is not in {}", error.explain());
        }
        assert!(root.list().await.unwrap().is_empty());
    }
    let failing =
        futures::stream::iter(vec![Ok(features(0, 3)), Err(curec::error::Error::new(Kind::Temporary, "gone"))]);
    assert_eq!(publisher.stage(&contract, DT, &stamp("f"), failing).await.unwrap_err().kind(), Kind::Temporary);
    assert!(root.list().await.unwrap().is_empty());
    assert_eq!(publisher.stage(&contract, "../x", &stamp("f"), stream(vec![])).await.unwrap_err().kind(), Kind::Usage);
}

#[tokio::test]
async fn nested_columns_survive_staging() {
    let contract = Contract::builtin("user_history").unwrap();
    let DataType::List(item) = contract.column("recent").unwrap().column_type.arrow(0) else { panic!() };
    let DataType::Struct(fields) = item.data_type().clone() else { panic!() };
    let structs = StructArray::new(
        fields,
        vec![
            Arc::new(StringArray::from(vec!["7"])),
            Arc::new(StringArray::from(vec![None::<&str>])),
            Arc::new(Float32Array::from(vec![4.0])),
            Arc::new(BooleanArray::from(vec![true])),
            times(1),
        ],
        None,
    );
    let offsets = arrow::buffer::OffsetBuffer::new(vec![0, 1].into());
    let recent = ListArray::new(item, offsets, Arc::new(structs), None);
    let mut list = arrow::array::ListBuilder::new(arrow::array::LargeStringBuilder::new());
    list.values().append_value("Heat (1995)");
    list.append(true);
    let titles: ArrayRef = Arc::new(list.finish());
    let before: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![AS_OF - 1]).with_timezone("UTC"));
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("user_id", Arc::new(StringArray::from(vec!["1"])) as ArrayRef, true),
        ("as_of", times(1), true),
        ("n_events", Arc::new(Int64Array::from(vec![1])), true),
        ("n_likes", Arc::new(Int64Array::from(vec![1])), true),
        ("n_dislikes", Arc::new(Int64Array::from(vec![0])), true),
        ("mean_rating", Arc::new(arrow::array::Float64Array::from(vec![4.0])), true),
        ("last_event_timestamp", before, true),
        ("recent", Arc::new(recent), true),
        ("liked_titles", Arc::clone(&titles), true),
        ("disliked_titles", Arc::clone(&titles), true),
        ("top_categories", titles, true),
    ])
    .unwrap();
    let publisher = Publisher::new(Location::parse("memory://nested/w").unwrap(), "run");
    let staged = publisher.stage(&contract, DT, &stamp("f"), stream(vec![batch])).await.unwrap();
    assert_eq!((staged.rows, staged.schema), (1, contract.arrow_schema(None)));
}

#[tokio::test]
async fn a_commit_record_of_any_bytes_is_an_error_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let root = Location::parse(dir.path().to_str().unwrap()).unwrap();
    let at = root.child(&format!("reason/dt={DT}/_commit.json"));
    let good = CommitRecord {
        format: 1,
        table: "reason".into(),
        contract_version: "1.0".into(),
        dt: DT.into(),
        files: vec![],
        fingerprint: "f".into(),
        parts: BTreeMap::new(),
        created_timestamp: AS_OF,
        run_id: "r".into(),
        lease_epoch: 1,
    };
    let json = serde_json::to_string(&good).unwrap();
    at.put(Bytes::from(json.clone())).await.unwrap();
    assert_eq!(commit_record(&root, "reason", DT).await.unwrap(), Some(good));
    let evil = json.replace("\"files\":[]", r#""files":[{"name":"../../x.parquet","rows":1,"bytes":1,"blake3":"a"}]"#);
    let cases = [
        (String::new(), Kind::Input),
        ("null".into(), Kind::Input),
        (json[..json.len() - 5].to_owned(), Kind::Input),
        (json.replace("\"format\":1", "\"format\":2"), Kind::Config),
        (json.replace("run_id", "runid"), Kind::Input),
        (json.replace(DT, "1998-04-21"), Kind::Input),
        (evil, Kind::Input),
        ("[".repeat(100_000), Kind::Input),
    ];
    for (text, kind) in cases {
        at.put(Bytes::from(text.clone())).await.unwrap();
        let error = commit_record(&root, "reason", DT).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", &text[..text.len().min(60)]);
        assert!(error.explain().contains("_commit.json"), "{}", error.explain());
    }
}

async fn leases_fence(root: Location) {
    let name = "job.a.b";
    let take = |run: &str, ttl: u64| Lease::acquire(&root, name, other_host(run), Duration::from_millis(ttl));
    let first = take("run-1", 60_000).await.unwrap();
    let error = take("run-2", 60_000).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().contains("run-1") && error.to_string().contains("elsewhere"), "{error}");
    first.renew().await.unwrap();
    first.check().await.unwrap();
    first.release().await.unwrap();
    assert_eq!(first.check().await.unwrap_err().kind(), Kind::Busy);

    // A holder that sleeps through its time is overtaken and cannot publish any more.
    let slow = take("run-3", 30).await.unwrap();
    let contract = Contract::builtin("item_feature").unwrap();
    let publisher = Publisher::new(root.clone(), "run-3");
    let staged = publisher.stage(&contract, DT, &stamp("slow"), stream(vec![features(0, 5)])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(slow.check().await.unwrap_err().kind(), Kind::Busy);
    let next = take("run-4", 60_000).await.unwrap();
    assert!(next.epoch > slow.epoch);
    assert_eq!(slow.renew().await.unwrap_err().kind(), Kind::Busy);
    assert_eq!(publisher.publish(&slow, staged).await.unwrap_err().kind(), Kind::Busy);
    assert!(commit_record(&root, "item_feature", DT).await.unwrap().is_none());
    let publisher = Publisher::new(root.clone(), "run-4");
    let staged = publisher.stage(&contract, DT, &stamp("next"), stream(vec![features(0, 6)])).await.unwrap();
    publisher.publish(&next, staged).await.unwrap();
    assert_eq!(commit_record(&root, "item_feature", DT).await.unwrap().unwrap().run_id, "run-4");

    next.release().await.unwrap();

    // However often the loser tries, the winner keeps it.
    let loser = take("run-6", 1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let winner = take("run-7", 60_000).await.unwrap();
    for _ in 0..2 {
        assert_eq!(loser.renew().await.unwrap_err().kind(), Kind::Busy);
        assert_eq!(loser.release().await.unwrap_err().kind(), Kind::Busy);
        winner.check().await.unwrap();
    }

    // Another interval is another lease.
    Lease::acquire(&root, "job.b.c", other_host("run-5"), Duration::from_secs(60)).await.unwrap();
}

/// A holder of whom this machine cannot tell whether it lives.
fn other_host(run: &str) -> Holder {
    Holder { host: "elsewhere".into(), pid: 1, run_id: run.into(), process: String::new() }
}

#[tokio::test]
async fn leases_fence_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    leases_fence(Location::parse(dir.path().to_str().unwrap()).unwrap()).await;
}

#[tokio::test]
async fn leases_fence_in_memory() {
    leases_fence(Location::parse("memory://lease/w").unwrap()).await;
}

#[tokio::test]
async fn a_dead_process_of_this_machine_does_not_keep_its_lease() {
    let root = Location::parse("memory://dead/w").unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let mut holder = Holder::here("run-1");
    assert!(!holder.process.is_empty());
    child.wait().unwrap();
    holder.pid = child.id();
    let ttl = Duration::from_secs(3600);
    Lease::acquire(&root, "j", holder, ttl).await.unwrap();
    let second = Lease::acquire(&root, "j", Holder::here("run-2"), ttl).await.unwrap();
    // This process lives.
    assert_eq!(Lease::acquire(&root, "j", Holder::here("run-3"), ttl).await.unwrap_err().kind(), Kind::Busy);
    second.check().await.unwrap();
}

#[tokio::test]
async fn one_of_many_gets_the_lease() {
    let dir = tempfile::tempdir().unwrap();
    let root = Location::parse(dir.path().to_str().unwrap()).unwrap();
    for _ in 0..5 {
        let tries = (0..8).map(|i| {
            let (root, holder) = (root.clone(), other_host(&format!("run-{i}")));
            tokio::spawn(async move { Lease::acquire(&root, "j", holder, Duration::from_secs(60)).await })
        });
        let got: Vec<_> = futures::future::join_all(tries).await.into_iter().filter_map(|r| r.unwrap().ok()).collect();
        assert_eq!(got.len(), 1);
        got[0].release().await.unwrap();
    }
}

fn responses(keys: &[&str]) -> RecordBatch {
    let n = keys.len();
    let none = || Arc::new(StringArray::from(vec![None::<&str>; n])) as ArrayRef;
    let zero = || Arc::new(Int64Array::from(vec![0; n])) as ArrayRef;
    RecordBatch::try_from_iter_with_nullable([
        ("prompt_key", Arc::new(StringArray::from(keys.to_vec())) as ArrayRef, true),
        ("attempt", Arc::new(Int64Array::from(vec![1; n])), true),
        ("accepted", Arc::new(BooleanArray::from(vec![None::<bool>; n])), true),
        ("text", Arc::new(StringArray::from(vec!["because"; n])), true),
        ("error", none(), true),
        ("error_detail", none(), true),
        ("finish", Arc::new(StringArray::from(vec!["stop"; n])), true),
        ("logprob_sum", Arc::new(arrow::array::Float64Array::from(vec![-1.0; n])), true),
        ("prompt_tokens", zero(), true),
        ("cached_tokens", zero(), true),
        ("completion_tokens", zero(), true),
        ("model_digest", Arc::new(StringArray::from(vec!["m"; n])), true),
        ("created_timestamp", times(n), true),
        ("run_id", none(), true),
        ("seconds", Arc::new(arrow::array::Float64Array::from(vec![None::<f64>; n])), true),
    ])
    .unwrap()
}

#[tokio::test]
async fn segments_are_appended_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = Location::parse(dir.path().to_str().unwrap()).unwrap();
    let contract = Contract::builtin("response").unwrap();
    let first = append_segment(&root, &contract, &responses(&["a", "b"])).await.unwrap().unwrap();
    let again = append_segment(&root, &contract, &responses(&["a", "b"])).await.unwrap().unwrap();
    assert_eq!(first, again);
    append_segment(&root, &contract, &responses(&["c"])).await.unwrap().unwrap();
    assert_eq!(append_segment(&root, &contract, &responses(&[])).await.unwrap(), None);
    assert_eq!(segments(&root, "response").await.unwrap().len(), 2);
    let seen = inspect(&dir.path().join("response"), 5).unwrap();
    assert_eq!((seen.rows, seen.files), (3, 2));
    let mut bad = responses(&["a"]).columns().to_vec();
    bad[contract.columns.iter().position(|column| column.name == "finish").unwrap()] =
        Arc::new(StringArray::from(vec!["because"]));
    let bad = RecordBatch::try_new(responses(&["a"]).schema(), bad).unwrap();
    let error = append_segment(&root, &contract, &bad).await.unwrap_err();
    assert!(error.explain().contains("finish") && error.explain().contains("stop, length"), "{}", error.explain());
}

#[tokio::test]
async fn gc_removes_what_dead_runs_left_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = Location::parse(dir.path().to_str().unwrap()).unwrap();
    let contract = Contract::builtin("item_feature").unwrap();
    let publisher = Publisher::new(root.clone(), "run-1");
    let staged = publisher.stage(&contract, DT, &stamp("f"), stream(vec![features(0, 5)])).await.unwrap();
    let held = lease(&root, "run-1").await;
    let record = publisher.publish(&held, staged).await.unwrap();
    append_segment(&root, &Contract::builtin("response").unwrap(), &responses(&["a"])).await.unwrap();
    let dead = Publisher::new(root.clone(), "dead");
    dead.stage(&contract, DT, &stamp("f"), stream(vec![features(0, 7)])).await.unwrap();
    let orphan = root.child(&format!("item_feature/dt={DT}/part-00000-0123456789abcdef.parquet"));
    orphan.put(Bytes::from_static(b"orphan")).await.unwrap();
    let other = root.child(&format!("item_feature/dt={DT}/notes.txt"));
    other.put(Bytes::from_static(b"mine")).await.unwrap();
    // What a process leaves that dies while the store writes a file; the store hides such names.
    let torn = [format!("item_feature/dt={DT}/{}#0", record.files[0].name), "response/seg-01.parquet#1".to_owned()];
    for file in torn.iter().map(String::as_str).chain(["item_feature/notes#1"]) {
        std::fs::write(dir.path().join(file), b"half").unwrap();
    }

    // While a run is at work only what dead runs staged goes.
    let report = gc(&root).await.unwrap();
    assert_eq!((report.staged_files, report.orphans), (1, 0));
    assert_eq!(report.live_runs, ["run-1"]);
    assert!(!dir.path().join("_staging/dead").exists());
    held.release().await.unwrap();
    let report = gc(&root).await.unwrap();
    assert_eq!((report.staged_files, report.orphans, report.bytes), (0, 3, 14));
    assert!(torn.iter().all(|f| !dir.path().join(f).exists()) && dir.path().join("item_feature/notes#1").exists());
    assert_eq!(missing_file(&root, &record).await.unwrap(), None);
    assert!(orphan.head().await.unwrap().is_none() && other.head().await.unwrap().is_some());
    assert_eq!(parquet_names(&root, "item_feature"), [record.files[0].name.clone()]);
    assert_eq!(segments(&root, "response").await.unwrap().len(), 1);

    root.child(&format!("item_feature/dt={DT}/{}", record.files[0].name))
        .put(Bytes::from_static(b"cut"))
        .await
        .unwrap();
    assert_eq!(missing_file(&root, &record).await.unwrap().as_ref(), Some(&record.files[0].name));
}

// ------------------------------------------------------------------------------------------------------- importers

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

async fn accepted(table: &str, path: &Path) -> u64 {
    let contract = Contract::builtin(table).unwrap();
    let input = open_input(&contract, &Location::parse(path.to_str().unwrap()).unwrap()).await.unwrap();
    let report = check_input(&contract, &input).await.unwrap();
    assert!(report.warnings.iter().all(|w| w.contains("no title")), "{:?}", report.warnings);
    report.rows
}

fn read(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(|b| b.unwrap()).collect();
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

fn strings(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    batch.column_by_name(name).unwrap().as_string::<i32>().iter().map(|s| s.map(str::to_owned)).collect()
}

const INTER: &str = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t377\t1\t878887116.0\n";
const ITEM: &str = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n242\tMatrix, The\t1999\tAction Sci-Fi\n302\t\"Quoted\" title\t1995\tFilm-Noir\n267\tunkonwn\tunkonwn\tunknown\n";

fn atomic(inter: &str, item: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("ml.inter"), inter);
    write(&dir.path().join("ml.item"), item);
    let out = dir.path().join("out");
    (dir, out)
}

#[tokio::test]
async fn movielens_becomes_inputs_that_the_contracts_accept() {
    let (dir, out) = atomic(INTER, ITEM);
    let report = import::movielens::import(dir.path(), None, &out).unwrap();
    assert_eq!(report.items_without_title, 1);
    assert_eq!(accepted("interaction", &out.join("interaction.parquet")).await, 3);
    assert_eq!(accepted("item", &out.join("item.parquet")).await, 3);
    let inter = read(&out.join("interaction.parquet"));
    assert_eq!(strings(&inter, "user_id"), ["22", "196", "186"].map(|s| Some(s.to_owned())));
    let micros = inter.column_by_name("event_timestamp").unwrap();
    assert_eq!(micros.as_primitive::<arrow::datatypes::TimestampMicrosecondType>().value(0), 878_887_116_000_000);
    let item = read(&out.join("item.parquet"));
    let titles = [Some("The Matrix (1999)"), None, Some("\"Quoted\" title (1995)")];
    assert_eq!(strings(&item, "title"), titles.map(|t| t.map(str::to_owned)));
    assert_eq!(item.column_by_name("release_year").unwrap().as_primitive::<Int32Type>().value(0), 1999);
    let categories = item.column_by_name("categories").unwrap().as_list::<i32>();
    assert_eq!(categories.value(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["Action", "Sci-Fi"]);
    assert_eq!(categories.value(1).len(), 0);

    // Whatever the order of the lines, the bytes are the same.
    let bytes = std::fs::read(out.join("interaction.parquet")).unwrap();
    let mut lines: Vec<&str> = INTER.lines().collect();
    lines[1..].reverse();
    let (dir, out) = atomic(&(lines.join("\n") + "\n"), ITEM);
    import::movielens::import(dir.path(), None, &out).unwrap();
    assert_eq!(std::fs::read(out.join("interaction.parquet")).unwrap(), bytes);
}

#[test]
fn a_bad_line_is_named_and_nothing_is_left() {
    let inter = |line: &str| format!("{INTER}{line}\n");
    let item = |line: &str| format!("{ITEM}{line}\n");
    let cases = [
        (inter("1\t2\t3"), item(""), "ml.inter", 5, "3 fields"),
        (inter("1\t2\t3\t4\t5"), ITEM.into(), "ml.inter", 5, "5 fields"),
        (inter("1\t2\tgood\t881250949"), ITEM.into(), "ml.inter", 5, "good"),
        (inter("1\t2\tNaN\t881250949"), ITEM.into(), "ml.inter", 5, "NaN"),
        (inter("1\t2\tinf\t881250949"), ITEM.into(), "ml.inter", 5, "inf"),
        (inter("1\t2\t3\tnever"), ITEM.into(), "ml.inter", 5, "never"),
        (inter("1\t2\t3\t1e30"), ITEM.into(), "ml.inter", 5, "1e30"),
        (inter("1\t2\t3\t"), ITEM.into(), "ml.inter", 5, "timestamp is empty"),
        (inter("\t2\t3\t881250949"), ITEM.into(), "ml.inter", 5, "user is empty"),
        (INTER.into(), item("\tx\t1999\tDrama"), "ml.item", 5, "item is empty"),
        (INTER.into(), item("242\tx\t1999\tDrama"), "ml.item", 5, "twice"),
        (INTER.into(), item("5\tx\t1999"), "ml.item", 5, "3 fields"),
    ];
    for (inter, item, file, line, what) in cases {
        let (dir, out) = atomic(&inter, &item);
        let error = import::movielens::import(dir.path(), None, &out).unwrap_err();
        let said = error.explain();
        assert_eq!(error.kind(), Kind::Input);
        for name in [file, what, &format!("line: {line}")] {
            assert!(said.contains(name), "{name:?} is not in {said}");
        }
        let left = std::fs::read_dir(&out).map(|d| d.count()).unwrap_or(0);
        assert_eq!(left, 0, "{said}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(import::movielens::import(dir.path(), None, dir.path()).unwrap_err().explain().contains(".inter"));
    let (dir, out) = atomic("user_id:token\tx:token\n1\t2\n", ITEM);
    assert!(import::movielens::import(dir.path(), None, &out).unwrap_err().explain().contains("item_id"));
}

#[tokio::test]
async fn repeated_lines_are_dropped_and_contradictions_refused() {
    let (dir, out) = atomic(&format!("{INTER}196\t242\t3\t881250949\n"), ITEM);
    assert_eq!(import::movielens::import(dir.path(), None, &out).unwrap().duplicates, 1);
    assert_eq!(accepted("interaction", &out.join("interaction.parquet")).await, 3);
    let (dir, out) = atomic(&format!("{INTER}196\t242\t5\t881250949\n"), ITEM);
    let error = import::movielens::import(dir.path(), None, &out).unwrap_err();
    assert!(error.explain().contains("user_id=196, item_id=242"), "{}", error.explain());
}

#[tokio::test]
async fn csv_is_imported_by_its_mapping() {
    let dir = tempfile::tempdir().unwrap();
    let (ratings, movies, out) =
        (dir.path().join("ratings.csv"), dir.path().join("movies.csv"), dir.path().join("out"));
    write(&ratings, "userId,movieId,rating,timestamp\r\n1,7,4.5,1000\r\n2,8,,2000\r\n");
    write(
        &movies,
        "movieId,title,genres\n7,\"Matrix, The (1999)\",Action|Sci-Fi\n8,\"Say \"\"hi\"\",\nyou\",(no genres listed)\n",
    );
    let mapping = CsvMapping::parse("user_id=userId,item_id=movieId,categories=genres,turn_articles=true").unwrap();
    import::csv::import(&ratings, Some(&movies), None, &mapping, &out).unwrap();
    assert_eq!(accepted("interaction", &out.join("interaction.parquet")).await, 2);
    assert_eq!(accepted("item", &out.join("item.parquet")).await, 2);
    let item = read(&out.join("item.parquet"));
    assert_eq!(strings(&item, "title")[0].as_deref(), Some("The Matrix (1999)"));
    assert_eq!(strings(&item, "title")[1].as_deref(), Some("Say \"hi\",\nyou"));
    assert!(read(&out.join("interaction.parquet")).column_by_name("rating").unwrap().is_null(1));

    write(&ratings, "user,item,when\n1,7,2026-11-21T10:00:00Z\n1,8,2026-11-21 11:00:00\n1,9,soon\n");
    let mapping = CsvMapping::parse("user_id=user,item_id=item,event_timestamp=when,time_unit=text").unwrap();
    let error = import::csv::import(&ratings, None, None, &mapping, &out).unwrap_err();
    assert!(error.explain().contains("line: 4") && error.explain().contains("soon"), "{}", error.explain());
    write(&ratings, "user,item,when\n1,7,2026-11-21T10:00:00Z\n1,8,2026-11-21 11:00:00\n");
    import::csv::import(&ratings, None, None, &mapping, &out).unwrap();
    assert_eq!(accepted("interaction", &out.join("interaction.parquet")).await, 2);
    let error = import::csv::import(&ratings, None, None, &CsvMapping::default(), &out).unwrap_err();
    assert!(error.explain().contains("user_id") && error.explain().contains("ratings.csv"), "{}", error.explain());
    write(&movies, "movieId,title\n7,\"two\nlines\"\n8,\n,x\n");
    let mapping = CsvMapping::parse("user_id=user,item_id=movieId,event_timestamp=when,time_unit=text").unwrap();
    write(&ratings, "user,movieId,when\n1,7,2026-11-21\n");
    let error = import::csv::import(&ratings, Some(&movies), None, &mapping, &out).unwrap_err();
    assert!(error.explain().contains("line: 5"), "rows and lines differ: {}", error.explain());
}

#[tokio::test]
async fn csv_is_read_as_other_tools_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, out) = (dir.path().join("log.csv"), dir.path().join("out"));
    let file = out.join("interaction.parquet");
    let import = |text: &str, mapping: &str| {
        std::fs::write(&log, text).unwrap();
        import::csv::import(&log, None, None, &CsvMapping::parse(mapping).unwrap(), &out)
    };
    let items = || strings(&read(&file), "item_id").into_iter().flatten().collect::<Vec<_>>();
    let head = "user_id,item_id,rating,timestamp\n";
    // A mark within a field is an inch; empty lines, a byte order mark and Windows line ends say nothing.
    let odd = "\u{feff}\"user_id\",item_id,rating,timestamp\r\n1,7\" tablet,5,1000\r\n\r\n1,\"a, \"\"b\"\"\",NULL,\"2000\"\r\n\n\r\n";
    import(odd, "").unwrap();
    assert_eq!(items(), ["7\" tablet", "a, \"b\""]);
    assert!(read(&file).column_by_name("rating").unwrap().is_null(1));
    import(&format!("{head}1,\"x,5,1000\n1,y\",\\N,2000\n"), "quote=none").unwrap();
    assert_eq!(items(), ["\"x", "y\""]);
    // Linear however long the file is, and the line is named.
    let rows: String = (0..60_000).map(|i| format!("u{i},i\",5,{i}\n")).collect();
    import(&format!("{head}{rows}"), "").unwrap();
    let rows = rows.replace('"', "");
    for open in ["u,\"i,5,2", "u,i,5,\"2"] {
        let error = import(&format!("{head}u,i,5,1\n\n{open}\n{rows}"), "").unwrap_err().explain();
        assert!(error.contains("line: 4") && error.contains("quote=none"), "{error}");
    }
    let error = import(&format!("{head}u,i,5,1\n\n\nu,i,5\n"), "").unwrap_err().explain();
    assert!(error.contains("line: 5") && error.contains("3 fields"), "{error}");
    let error = import(&format!("{head}u,i,4/5,1\n"), "").unwrap_err().explain();
    assert!(error.contains("line: 2") && error.contains("4/5"), "{error}");
    for (bytes, what) in [
        (&[0x1f, 0x8b, 8, 0][..], "its gzip data"),
        (&[0xff, 0xfe, b'u', 0], "UTF-16"),
        (b"user_id,item_id,timestamp\nu,caf\xe9,1\n", "iconv"),
        (b"user_id,item_id,item_id,timestamp\nu,i,i,1\n", "twice"),
        (b"user_id,item_id,timestamp\ru,i,1\r", "log.csv"),
        (b"", "no header line"),
    ] {
        std::fs::write(&log, bytes).unwrap();
        let error = import::csv::import(&log, None, None, &CsvMapping::default(), &out).unwrap_err().explain();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn packed_files_are_imported_like_plain_ones() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let pack = |name: &str, text: &str| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(text.as_bytes()).unwrap();
        let bytes = packed.finish().unwrap();
        std::fs::write(path(name), &bytes).unwrap();
        bytes
    };
    let log: String = (0..5_000).map(|i| format!("u{},\"i, {i}\",4,{i}\n", i % 7)).collect();
    let log = format!("user_id,item_id,rating,timestamp\n{log}");
    std::fs::write(path("log.csv"), &log).unwrap();
    let bytes = pack("log.csv.gz", &log);
    let csv = |name: &str| import::csv::import(&path(name), None, None, &CsvMapping::default(), &path("out"));
    let written = |table: &str| std::fs::read(path("out").join(format!("{table}.parquet"))).unwrap();
    csv("log.csv").unwrap();
    let plain = written("interaction");
    csv("log.csv.gz").unwrap();
    assert_eq!(written("interaction"), plain);

    // Half of a file is an error that names it, whatever was read before.
    std::fs::write(path("half.csv.gz"), &bytes[..bytes.len() / 2]).unwrap();
    let error = csv("half.csv.gz").unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(
        error.explain().contains("half.csv.gz") && error.explain().contains("its gzip data"),
        "{}",
        error.explain()
    );
    assert_eq!(written("interaction"), plain);
    // A bad line is named as in the plain file.
    pack("bad.csv.gz", "user_id,item_id,rating,timestamp\nu,i,5,1\nu,i,x,1\n");
    let error = csv("bad.csv.gz").unwrap_err().explain();
    assert!(error.contains("bad.csv.gz") && error.contains("line: 3"), "{error}");

    let review = r#"{"reviewerID": "u", "asin": "B1", "reviewText": "Good", "overall": 5.0, "summary": "S", "unixReviewTime": 7}"#;
    let reviews: String = (0..500).map(|i| review.replace("B1", &format!("B{i}")) + "\n").collect();
    std::fs::write(path("r.json"), &reviews).unwrap();
    let bytes = pack("r.json.gz", &reviews);
    let jsonl = |name: &str| import::jsonl::import(&path(name), None, None, &path("out"));
    jsonl("r.json").unwrap();
    let plain = (written("interaction"), written("review"));
    jsonl("r.json.gz").unwrap();
    assert_eq!((written("interaction"), written("review")), plain);
    std::fs::write(path("half.json.gz"), &bytes[..bytes.len() - 6]).unwrap();
    let error = jsonl("half.json.gz").unwrap_err().explain();
    assert!(error.contains("half.json.gz") && error.contains("its gzip data"), "{error}");
}

#[tokio::test]
async fn amazon_json_lines_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let (reviews, meta, out) = (dir.path().join("r.json"), dir.path().join("m.json"), dir.path().join("out"));
    let line = |user: &str, time: i64| {
        format!(
            r#"{{"reviewerID": "{user}", "asin": "B1", "helpful": [0, 0], "reviewText": "Good", "overall": 5.0, "summary": "S", "unixReviewTime": {time}}}"#
        )
    };
    write(&reviews, &format!("{}\n{}\n", line("U2", 1_400_000_000), line("U1", 1_300_000_000)));
    write(
        &meta,
        "{\"asin\": \"B1\", \"title\": \"Strings\", \"categories\": [[\"Music\", \"Guitar\"], [\"Music\"]], \"brand\": \"E\", \
          \"price\": 12.99, \"salesRank\": {\"Music\": 3}}\n\
         {\"asin\": \"B2\", \"category\": [\"Music\"], \"description\": [\"two\", \"parts\"], \"price\": \"$1,100.00\"}\n",
    );
    // A name is a name: beside it lies what it would match as a pattern.
    let odd = dir.path().join("[r]*.json");
    std::fs::rename(&reviews, &odd).unwrap();
    write(&dir.path().join("r2.json"), &line("U3", 1));
    let report = import::jsonl::import(&odd, Some(&meta), None, &out).unwrap();
    std::fs::rename(&odd, &reviews).unwrap();
    assert_eq!(report.items_without_title, 1);
    assert_eq!(accepted("interaction", &out.join("interaction.parquet")).await, 2);
    assert_eq!(accepted("review", &out.join("review.parquet")).await, 2);
    assert_eq!(accepted("item", &out.join("item.parquet")).await, 2);
    assert_eq!(strings(&read(&out.join("review.parquet")), "user_id")[0].as_deref(), Some("U1"));
    let item = read(&out.join("item.parquet"));
    assert_eq!(strings(&item, "description")[1].as_deref(), Some("two parts"));
    let prices = item.column_by_name("price").unwrap().as_primitive::<Float32Type>();
    assert_eq!((prices.value(0), prices.value(1)), (12.99, 1100.0));
    let categories = item.column_by_name("categories").unwrap().as_list::<i32>();
    assert_eq!(categories.value(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["Music", "Guitar"]);
    write(&reviews, &format!("{}\n{{\"reviewerID\": \"U\"\n", line("U2", 1)));
    let error = import::jsonl::import(&reviews, None, None, &out).unwrap_err();
    assert!(error.explain().contains("line: 2") && error.explain().contains("r.json"), "{}", error.explain());
    write(&reviews, &format!("\u{feff}{}\n", line("U1", 1_300_000_000)));
    import::jsonl::import(&reviews, None, None, &out).unwrap();
    for (line, what) in [(line("U1", 1_300_000_000_000), "seconds"), ("{'asin': 'B1'}".into(), "Python")] {
        write(&reviews, &line);
        let error = import::jsonl::import(&reviews, None, None, &out).unwrap_err().explain();
        assert!(error.contains("line: 1") && error.contains(what), "{error}");
    }
}

#[tokio::test]
async fn descriptions_of_a_file_of_their_own_replace_those_of_the_items() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (log, films, said, out) = (path("log.csv"), path("films.csv"), path("said.csv"), path("out"));
    write(&log, "user_id,item_id,timestamp\nu,1,1000\n");
    write(&films, "item_id,title,description,people,price\n1,A,old,Ann|Bo,$3\n2,B,kept,,\n3,C,,Cy,1.5\n");
    let import = |file: &Path| import::csv::import(&log, Some(&films), Some(file), &CsvMapping::default(), &out);
    let descriptions = || {
        let found = strings(&read(&out.join("item.parquet")), "description");
        found.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>()
    };
    write(&said, "title,description,item_id\nA,\"new,\ntwo lines\",1\nB, ,2\nC,first,3\nD,of nothing,4\n");
    assert_eq!(import(&said).unwrap().unknown_descriptions, 1);
    assert_eq!(descriptions(), ["new,\ntwo lines", "kept", "first"]);
    assert_eq!(accepted("item", &out.join("item.parquet")).await, 3);
    let item = read(&out.join("item.parquet"));
    let people = item.column_by_name("people").unwrap().as_list::<i32>();
    assert_eq!(people.value(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["Ann", "Bo"]);
    assert!(people.is_null(1) && item.column_by_name("attributes").unwrap().null_count() == 3);
    assert_eq!(item.column_by_name("price").unwrap().as_primitive::<Float32Type>().value(0), 3.0);

    let parquet = |ids: ArrayRef, texts: &str| {
        let file = path("said.parquet");
        let n = ids.len();
        let text: ArrayRef = Arc::new(StringArray::from(vec!["from Parquet"; n]));
        let batch = RecordBatch::try_from_iter([("item_id", ids), (texts, text)]).unwrap();
        let mut writer =
            parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&file).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        file
    };
    assert_eq!(
        import(&parquet(Arc::new(Int64Array::from(vec![2, 9])), "description")).unwrap().unknown_descriptions,
        1
    );
    assert_eq!(descriptions(), ["old", "from Parquet", ""]);

    let refused = |file: &Path, parts: &[&str]| {
        let error = import(file).unwrap_err();
        let told = error.explain();
        assert_eq!(error.kind(), Kind::Input, "{told}");
        parts.iter().for_each(|part| assert!(told.contains(part), "{part}: {told}"));
    };
    refused(
        &parquet(Arc::new(Int64Array::from(vec![2, 3, 2])), "description"),
        &["twice", "row: 2", "row 0", "item_id=2"],
    );
    refused(
        &parquet(Arc::new(Int64Array::from(vec![2])), "text"),
        &["description is missing", "item_id, text", "said.parquet"],
    );
    refused(&parquet(Arc::new(Float32Array::from(vec![2.0])), "description"), &["wrong type", "column: item_id"]);
    for (bytes, parts) in [
        (&b"item_id,description\n1,a\n2,b\n1,c\n"[..], &["twice", "line: 4", "line 2", "said.csv"][..]),
        (b"item_id,text\n1,a\n", &["description is missing", "item_id, text"]),
        (b"item_id,description\n1,caf\xe9\n", &["UTF-8", "line: 2"]),
        (b"item_id,description\n,x\n", &["item is empty", "line: 2"]),
        (b"item_id,description\n1\n", &["1 fields", "line: 2"]),
        (b"PAR1 but cut off", &["cannot be read", "said.csv"]),
        (b"", &["no header line"]),
    ] {
        std::fs::write(&said, bytes).unwrap();
        refused(&said, parts);
    }
    refused(&path("gone.csv"), &["gone.csv"]);
    assert_eq!(descriptions(), ["old", "from Parquet", ""], "what was imported before stays");
    for error in [
        import::csv::import(&log, None, Some(&said), &CsvMapping::default(), &out).unwrap_err(),
        import::jsonl::import(&log, None, Some(&said), &out).unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Usage);
    }
    write(&films, "item_id,price\n1,about 3\n");
    let told = import::csv::import(&log, Some(&films), None, &CsvMapping::default(), &out).unwrap_err().explain();
    assert!(told.contains("no price") && told.contains("line: 2"), "{told}");
    let (dir, out) = atomic(INTER, ITEM);
    write(&dir.path().join("said.csv"), "item_id,description\n242,A hacker.\n");
    import::movielens::import(dir.path(), Some(&dir.path().join("said.csv")), &out).unwrap();
    assert_eq!(strings(&read(&out.join("item.parquet")), "description")[0].as_deref(), Some("A hacker."));
}

#[tokio::test]
async fn recbole_s_movielens_100k_is_imported_whole() {
    let home = std::env::var_os("CUREC_HOME").map_or_else(|| PathBuf::from(".curec"), PathBuf::from);
    let Some(dir) = std::env::var_os("CUREC_ML100K").map(PathBuf::from).or_else(|| find_inter(&home)) else {
        println!("skipped: no ml-100k.inter below {} (set CUREC_ML100K)", home.display());
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let report = import::movielens::import(&dir, None, out.path()).unwrap();
    assert_eq!((report.duplicates, report.items_without_title), (0, 1));
    assert_eq!(accepted("interaction", &out.path().join("interaction.parquet")).await, 100_000);
    assert_eq!(accepted("item", &out.path().join("item.parquet")).await, 1_682);
    let item = read(&out.path().join("item.parquet"));
    let titles = strings(&item, "title");
    let left = titles.iter().flatten().filter(|t| t.contains(", The (") || t.contains(", A (")).collect::<Vec<_>>();
    assert!(left.is_empty(), "{left:?}");
    assert!(titles.contains(&Some("The Silence of the Lambs (1991)".into())));
    assert!(titles.contains(&Some("Land Before Time III: The Time of the Great Giving (1995)".into())));
    let Some(shared) = shared("data/movielens-100k/interactions.parquet") else { return };
    let theirs = read(&shared);
    assert_eq!(theirs.num_rows(), read(&out.path().join("interaction.parquet")).num_rows());
}

fn find_inter(folder: &Path) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find_inter(&path) {
                return Some(found);
            }
        } else if path.file_name()? == "ml-100k.inter" {
            return Some(folder.to_path_buf());
        }
    }
    None
}

#[test]
fn inspect_names_what_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.parquet");
    assert!(inspect(&file, 5).unwrap_err().explain().contains("x.parquet"));
    write(&file, "no parquet");
    assert!(inspect(&file, 5).unwrap_err().explain().contains("x.parquet"));
    std::fs::remove_file(&file).unwrap();
    assert!(inspect(dir.path(), 5).unwrap_err().explain().contains("no .parquet file"));
}
