//! `curec export` with the real binary after real nights: rows as `curec sql` joins them, the Python loader, Feast, a bucket,
//! and being killed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::common::{self, World, expect_code, stderr, stdout, summary};
use crate::s3::Bucket;

fn night(world: &World, day: u32) {
    let (start, end) = (format!("2026-01-{day:02}"), format!("2026-01-{:02}", day + 1));
    expect_code(&world.curec(&["run", "job.toml", "--interval-start", &start, "--interval-end", &end]), 0);
}

/// The data files that an export lists.
fn files(folder: &Path) -> Vec<String> {
    let record: Value = serde_json::from_slice(&std::fs::read(folder.join("_export.json")).unwrap()).unwrap();
    record["files"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap().to_string()).collect()
}

/// Rows of an export as JSON objects, in its own order, as `curec sql --format json` prints rows.
fn rows(folder: &Path) -> Vec<Value> {
    let mut json = Vec::new();
    for name in files(folder) {
        let file = std::fs::File::open(folder.join(name)).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let mut writer = arrow::json::WriterBuilder::new()
                .with_explicit_nulls(true)
                .build::<_, arrow::json::writer::LineDelimited>(&mut json);
            writer.write(&batch.unwrap()).unwrap();
            writer.finish().unwrap();
        }
    }
    String::from_utf8(json).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The same by the definition: all pairs, of which the newest feature row is kept.
const BY_HAND: &str = "with \
    i as (select *, row_number() over (order by event_timestamp, user_id, item_id) as n from interaction), \
    a as (select i.n, f.*, row_number() over (partition by i.n order by f.event_timestamp desc) as place \
        from i join item_feature f on f.item_id = i.item_id and f.event_timestamp <= i.event_timestamp), \
    b as (select i.n, f.*, row_number() over (partition by i.n order by f.event_timestamp desc) as place \
        from i join user_feature f on f.user_id = i.user_id and f.event_timestamp <= i.event_timestamp) \
    select i.user_id, i.item_id, i.event, i.rating, i.event_timestamp, \
        a.event_timestamp as item_event_timestamp, a.embedding as item_embedding, a.mean_score as item_mean_score, \
        coalesce(a.missing, true) as item_missing, coalesce(a.n_reasons, 0) as item_n_reasons, \
        b.event_timestamp as user_event_timestamp, b.embedding as user_embedding, coalesce(b.missing, true) as user_missing \
    from i left join (select * from a where place = 1) as a on a.n = i.n \
    left join (select * from b where place = 1) as b on b.n = i.n order by i.n";

#[test]
fn an_export_is_what_sql_joins_by_hand() {
    let world = World::new();
    for day in [5, 12, 19] {
        night(&world, day);
    }
    let out = world.curec(&["export", "job.toml", "--out", "training"]);
    expect_code(&out, 0);
    let said = summary(&out);
    let wanted = world.sql(BY_HAND);
    assert_eq!((&said["status"], &said["rows"]), (&"exported".into(), &wanted.len().into()), "{said}");
    let exported = rows(&world.path("training"));
    assert_eq!(exported.len(), wanted.len());
    let mut moments = BTreeSet::new();
    for (mine, theirs) in exported.iter().zip(&wanted) {
        for (name, value) in theirs.as_object().unwrap() {
            match &mine[name] {
                // Where SQL has no row the export has zeros.
                Value::Array(vector) if value.is_null() => {
                    assert!(vector.len() == 32 && vector.iter().all(|v| v.as_f64() == Some(0.0)), "{name} of {mine}");
                }
                said => assert_eq!(said, value, "{name} of {mine}"),
            }
        }
        moments.insert(mine["item_event_timestamp"].to_string());
    }
    assert!(moments.len() >= 3 && moments.contains("null"), "the log does not span the nights: {moments:?}");

    // The Python loader reads what was just written.
    match std::env::var_os("CUREC_PYTHON") {
        None => println!("skipped: no Python with pyarrow (CUREC_PYTHON; ci/test.sh makes one)"),
        Some(python) => {
            let out = Command::new(python)
                .args(["-m", "unittest", "-v", "tests/python/test_ranker_loader.py"])
                .current_dir(common::project())
                .env("CUREC_EXPORT", world.path("training"))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .output()
                .unwrap();
            assert!(out.status.success(), "{}{}", stdout(&out), stderr(&out));
            assert!(!stderr(&out).contains("pyarrow is not installed"), "{}", stderr(&out));
        }
    }

    // A folder that is taken, a range that is none, and no folder at all.
    let out = world.curec(&["export", "job.toml", "--out", "training"]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("--overwrite"), "{}", stderr(&out));
    let before = files(&world.path("training"));
    expect_code(&world.curec(&["export", "job.toml", "--out", "training", "--overwrite"]), 0);
    assert_eq!(files(&world.path("training")), before);
    for args in [
        &["export", "job.toml"][..],
        &["export", "job.toml", "--out", "x", "--from", "tomorrow"],
        &["export", "job.toml", "--out", "x", "--from", "2026-01-20", "--to", "2026-01-19"],
        &["export", "job.toml", "--out", "x", "--feast"],
        &["export", "job.toml", "--out", "x", "--features", "pair"],
        &["export", "job.toml", "--out", "warehouse/training"],
    ] {
        expect_code(&world.curec(args), 2);
    }
    let args =
        ["export", "job.toml", "--out", "day", "--from", "2026-01-20", "--to", "2026-01-21", "--features", "item"];
    expect_code(&world.curec(&args), 0);
    let day = rows(&world.path("day"));
    assert!(!day.is_empty() && day.len() < exported.len());
    assert!(day.iter().all(|row| row["item_event_timestamp"] != Value::Null && row.get("user_missing").is_none()));
}

#[test]
fn feast_text_is_python_whatever_the_warehouse_is_called() {
    let world = World::new();
    let name = "a\"); import os #'\\ \u{e9}";
    let out = world.curec(&["export", "job.toml", "--feast", "--set", &format!("warehouse={name}")]);
    expect_code(&out, 0);
    let program = "import ast, json, sys\n\
        tree = ast.parse(sys.stdin.buffer.read().decode('utf-8'))\n\
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]\n\
        print(json.dumps([k.value.value for n in calls for k in n.keywords if k.arg == 'path']))\n";
    let python = std::env::var_os("CUREC_PYTHON").unwrap_or_else(|| "python3".into());
    let file = world.path("repo.py");
    std::fs::write(&file, &out.stdout).unwrap();
    let input = std::fs::File::open(&file).unwrap();
    let Ok(parsed) = Command::new(python).args(["-c", program]).stdin(input).output() else {
        println!("skipped: no Python");
        return;
    };
    assert!(parsed.status.success(), "{}{}", stdout(&out), stderr(&parsed));
    let paths: Vec<String> = serde_json::from_str(stdout(&parsed).trim()).unwrap();
    assert_eq!(paths.len(), 2);
    assert!(paths[0].ends_with("/item_feature") && paths[0].contains("import os"), "{paths:?}");
}

#[test]
fn a_bucket_gets_the_bytes_that_a_disk_gets() {
    let bucket = Bucket::new();
    expect_code(&bucket.run("curec"), 0);
    let args = ["export", "job.toml", "--out", "s3://lake/training"];
    let out = bucket.command(&args, "curec").output().unwrap();
    expect_code(&out, 0);
    let there = bucket.world.path("s3/lake/training");
    assert!(!there.join("_staging").exists() || crate::s3::files(&there.join("_staging")).is_empty());
    let local = World::new();
    expect_code(&local.run(&[]), 0);
    expect_code(&local.curec(&["export", "job.toml", "--out", "training"]), 0);
    // Names carry the content's hash.
    assert_eq!(files(&there), files(&local.path("training")));
    expect_code(&bucket.command(&args, "curec").output().unwrap(), 2);
    let again = bucket.command(&[&args[..], &["--overwrite"]].concat(), "curec").output().unwrap();
    expect_code(&again, 0);
    assert_eq!(files(&there), files(&local.path("training")));
}

#[test]
fn killed_anywhere_no_half_file_has_a_final_name() {
    let world = World::new();
    expect_code(&world.run(&[]), 0);
    let export = |out: &str, point: &str| {
        let mut command = world.command(&["export", "job.toml", "--out", out, "--overwrite"]);
        if !point.is_empty() {
            command.env("CUREC_FAIL_POINT", point);
        }
        command.output().unwrap()
    };
    expect_code(&export("whole", ""), 0);
    let whole = files(&world.path("whole"));
    let log = world.path("changes");
    expect_code(&export("counted", &format!("count:{}", log.display())), 0);
    let changes = std::fs::read_to_string(&log).unwrap().lines().count();
    // The file, its copy, the record, and the staged file's end.
    assert!((4..20).contains(&changes), "{changes} changes");
    for number in 1..=changes {
        let out = format!("killed{number}");
        let killed = export(&out, &format!("before:{number}"));
        assert_ne!(killed.status.code(), Some(0), "{number}: {}", stdout(&killed));
        let folder = world.path(&out);
        let there: Vec<String> = std::fs::read_dir(&folder)
            .map(|found| found.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        for name in there.iter().filter(|name| name.starts_with("part-")) {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            let digest = blake3::hash(&bytes).to_hex().to_string();
            assert!(name.contains(&digest[..16]), "{number}: {name} is torn");
        }
        if there.iter().any(|name| name == "_export.json") {
            assert_eq!(files(&folder), whole, "{number}");
        }
        expect_code(&export(&out, ""), 0);
        assert_eq!(rows(&folder), rows(&world.path("whole")), "{number}");
        assert!(!folder.join("_staging").exists(), "{number}");
    }
}
