//! Delta tables as inputs: the log says which files count, and what is not read is refused by name.

use std::path::Path;

use curec::error::{Error, Kind};
use curec::table::contract::Contract;
use curec::table::input::{InputTable, check_input, open_input};
use curec::table::store::Location;

use crate::common::{events, write_events};

const PROTOCOL: &str = r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#;

fn metadata(configuration: &str) -> String {
    format!(
        r#"{{"metaData":{{"id":"1","format":{{"provider":"parquet","options":{{}}}},"schemaString":"{{}}","partitionColumns":["dt"],"configuration":{{{configuration}}}}}}}"#
    )
}

/// A line that adds a file of a day.
fn add(path: &str, more: &str) -> String {
    format!(
        r#"{{"add":{{"path":"{path}","partitionValues":{{"dt":"2026-01-20"}},"size":1,"modificationTime":1,"dataChange":true{more}}}}}"#
    )
}

/// Writes a version of a table's log.
fn commit(table: &Path, version: u64, lines: &[&str]) {
    std::fs::create_dir_all(table.join("_delta_log")).unwrap();
    std::fs::write(table.join(format!("_delta_log/{version:020}.json")), lines.join("\n")).unwrap();
}

async fn open(table: &Path) -> Result<InputTable, Error> {
    let contract = Contract::builtin("interaction").unwrap();
    open_input(&contract, &Location::parse(table.to_str().unwrap()).unwrap()).await
}

async fn rows(table: &Path) -> u64 {
    let input = open(table).await.unwrap();
    let report = check_input(&Contract::builtin("interaction").unwrap(), &input).await.unwrap();
    assert_eq!(report.rows, input.rows());
    report.rows
}

#[tokio::test]
async fn only_the_files_that_the_log_counts_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (table, log) = (dir.path().join("log"), events());
    let (old, new) = ("dt=2026-01-20/part 0.parquet", "dt=2026-01-20/part-1.parquet");
    write_events(&table.join(old), &log[..10]);
    write_events(&table.join(new), &log[..4]);
    write_events(&table.join("part-2.parquet"), &log[20..23]);
    // What a writer left that died before its version, and what another one left beside.
    write_events(&table.join("dt=2026-01-20/orphan.parquet"), &log[..10]);
    std::fs::write(table.join("notes.txt"), "no rows").unwrap();
    commit(&table, 0, &[PROTOCOL, &metadata(""), &add("dt=2026-01-20/part%200.parquet", "")]);
    assert_eq!(rows(&table).await, 10);
    let before = open(&table).await.unwrap().digest();

    // Rows that were deleted stay deleted.
    let remove = r#"{"remove":{"path":"dt=2026-01-20/part%200.parquet","dataChange":true}}"#;
    let undated = add("part-2.parquet", "").replace("\"2026-01-20\"", "null");
    commit(&table, 1, &[remove, &add(new, ""), &undated]);
    assert_eq!(rows(&table).await, 4 + 3);
    let input = open(&table).await.unwrap();
    assert_ne!(input.digest(), before);
    let days: Vec<_> = input.files.iter().map(|file| file.partition.clone()).collect();
    let day = |value: Option<&str>| vec![("dt".to_owned(), value.map(str::to_owned))];
    assert_eq!(days, [day(Some("2026-01-20")), day(None)]);
    assert_eq!(input.hive_columns, ["dt"]);
    assert!(input.warnings.iter().all(|warning| !warning.contains("notes.txt")), "{:?}", input.warnings);

    // A version without any change of files, and one that takes away all of them.
    commit(&table, 2, &[r#"{"commitInfo":{"operation":"OPTIMIZE"}}"#]);
    assert_eq!(rows(&table).await, 7);
    let all = [remove.replace("part%200", "part-1"), remove.replace("dt=2026-01-20/part%200", "part-2")];
    commit(&table, 3, &[&all[0], &all[1]]);
    assert_eq!(open(&table).await.unwrap_err().kind(), Kind::NotArrived);
}

#[tokio::test]
async fn what_is_not_read_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let features = |reader: &str| {
        format!(
            r#"{{"protocol":{{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":[{reader}],"writerFeatures":[{reader}]}}}}"#
        )
    };
    let vector = r#","deletionVector":{"storageType":"u","pathOrInlineDv":"ab^-aqEH.-t@S}K{vb[*k^","offset":4,"sizeInBytes":40,"cardinality":6}"#;
    let mapped = metadata(r#""delta.columnMapping.mode":"name""#);
    let other = metadata("").replace("\"parquet\"", "\"orc\"");
    let (plain, file) = (metadata(""), add("a.parquet", ""));
    let deleted = add("a.parquet", vector);
    let outside = add("s3://lake/other/a.parquet", "");
    let above = add("../other/a.parquet", "");
    let gone = add("b.parquet", "");
    let cases: [(&str, [&str; 3], &str); 8] = [
        ("vectors", [&features("\"deletionVectors\""), &plain, &deleted], "the feature deletionVectors"),
        ("mapping", [&features("\"columnMapping\""), &mapped, &file], "the feature columnMapping"),
        ("unknown", [&features("\"variantType\""), &plain, &file], "the feature variantType"),
        ("format", [PROTOCOL, &other, &file], "the feature format orc"),
        ("outside", [PROTOCOL, &plain, &outside], "outside of its folder"),
        ("above", [PROTOCOL, &plain, &above], "outside of its folder"),
        ("gone", [PROTOCOL, &plain, &gone], "is not there"),
        ("torn", [PROTOCOL, &plain, "{\"add\":"], "the Delta log is damaged"),
    ];
    for (name, lines, says) in cases {
        let table = dir.path().join(name);
        write_events(&table.join("a.parquet"), &events()[..5]);
        commit(&table, 0, &lines);
        let error = open(&table).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{name}: {error}");
        let told = error.explain();
        assert!(told.contains(says) && told.contains(name) && told.contains("what to do"), "{name}: {told}");
    }
    // A feature that no file uses hides nothing.
    let table = dir.path().join("vectors");
    commit(&table, 1, &[&file]);
    assert_eq!(rows(&table).await, 5);
}
