//! `[publish] delta = true` seen from outside: a log beside every published table, true whenever a run has ended, also
//! one that ends what a killed one had begun.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::common::{World, expect_code, python_tests, python_with, stderr, summary};
use crate::night::Night;

const DELTA: [&str; 2] = ["--set", "publish.delta=true"];

/// The lines of all versions of a table's log, in order of their versions; none where there is no log.
fn versions(table: &Path) -> Vec<Vec<Value>> {
    let Ok(entries) = std::fs::read_dir(table.join("_delta_log")) else { return Vec::new() };
    let mut paths: Vec<_> =
        entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    paths.sort();
    let lines = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    paths.iter().map(lines).collect()
}

/// The files that a table's log counts.
fn counted(table: &Path) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for version in versions(table) {
        for action in &version {
            if let Some(path) = action["remove"]["path"].as_str() {
                assert!(files.remove(path), "{path} is removed and was not there");
            }
        }
        files.extend(version.iter().filter_map(|action| action["add"]["path"].as_str()).map(str::to_owned));
    }
    files
}

/// Every published table's log counts the files that are there, no more and no less. Returns the numbers of versions.
fn expect_true(world: &World, warehouse: &Path) -> BTreeMap<String, usize> {
    let mut there: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for table in std::fs::read_dir(warehouse).unwrap().map(|e| e.unwrap()) {
        let name = table.file_name().into_string().unwrap();
        let has_days = std::fs::read_dir(table.path())
            .is_ok_and(|mut inside| inside.any(|e| e.unwrap().file_name().to_string_lossy().starts_with("dt=")));
        if has_days && !name.starts_with('_') {
            there.insert(name, BTreeSet::new());
        }
    }
    for (path, _) in world.published() {
        let (table, file) = path.split_once('/').unwrap();
        there.get_mut(table).unwrap().insert(file.to_owned());
    }
    assert!(there.contains_key("item_feature") && there.contains_key("user_feature"), "{there:?}");
    for (table, files) in &there {
        let folder = warehouse.join(table);
        assert!(folder.join("_delta_log/00000000000000000000.json").is_file(), "{table} has no log");
        assert_eq!(&counted(&folder), files, "{table}");
    }
    there.into_keys().map(|table| (table.clone(), versions(&warehouse.join(table)).len())).collect()
}

#[test]
fn logs_are_begun_kept_and_followed() {
    let world = World::new();
    expect_code(&world.run(&[]), 0);
    assert!(!world.path("warehouse/item_feature/_delta_log").exists());

    // Days that stand already get into the log, also where there is nothing to do.
    let again = world.run(&DELTA);
    expect_code(&again, 0);
    assert_eq!(summary(&again)["status"], "nothing_to_do");
    let first = expect_true(&world, &world.path("warehouse"));
    assert!(first.values().all(|versions| *versions == 1), "{first:?}");

    // The same rows again add nothing.
    expect_code(&world.run(&[&DELTA[..], &["--full"]].concat()), 0);
    assert_eq!(expect_true(&world, &world.path("warehouse")), first);

    // Another night is another version; whether the job asks for logs or not, those that are there stay true.
    let mut night: Vec<&str> =
        vec!["run", "job.toml", "--interval-start", "2026-01-19", "--interval-end", "2026-01-20"];
    expect_code(&world.curec(&night), 0);
    let second = expect_true(&world, &world.path("warehouse"));
    assert_eq!(second["item_feature"], 2);
    let log = versions(&world.path("warehouse/item_feature"));
    assert!(log[1].iter().all(|action| action.get("remove").is_none()), "{log:?}");
    night.extend(DELTA);
    expect_code(&world.curec(&night), 0);
    assert_eq!(expect_true(&world, &world.path("warehouse")), second);

    // Users who are forgotten leave the log with the files that had their rows.
    expect_code(&world.curec(&["forget", "job.toml", "--user-id", "u03"]), 0);
    let third = expect_true(&world, &world.path("warehouse"));
    assert!(third["user_feature"] > second["user_feature"], "{third:?}");
    expect_code(&world.curec(&["gc", "job.toml"]), 0);
    assert_eq!(expect_true(&world, &world.path("warehouse")), third);

    other_readers_agree(&world);
}

/// delta-rs and DuckDB over the same tables, where Python has them.
fn other_readers_agree(world: &World) {
    let Some(python) = python_with("deltalake and DuckDB") else { return };
    python_tests(&python, "test_delta.py", &[("CUREC_DELTA_WAREHOUSE", world.path("warehouse"))]);
}

#[test]
fn a_log_that_a_killed_run_left_behind_is_repaired_by_the_next() {
    let whole = Night::on_disk();
    let (_, changes) = whole.count_changes(&DELTA);
    let expected = expect_true(&whole.world, &whole.warehouse());
    let of_logs: Vec<u64> = changes.iter().filter(|c| c.kind.ends_with("log version")).map(|c| c.number).collect();
    assert_eq!(of_logs.len(), expected.len(), "every table's log is one change: {changes:?}");
    // Before the first log, before one in the middle, and after the last.
    let points = [
        format!("before:{}", of_logs[0]),
        format!("before:{}", of_logs[of_logs.len() / 2]),
        format!("after:{}", of_logs[of_logs.len() - 1]),
    ];
    for point in points {
        let night = Night::on_disk();
        let killed = night.run_failing(&point, &DELTA).output().unwrap();
        assert_eq!(killed.status.code(), None, "{point}: it was to be killed: {}", stderr(&killed));
        expect_code(&night.run(&DELTA).output().unwrap(), 0);
        assert_eq!(expect_true(&night.world, &night.warehouse()), expected, "{point}");
    }
}

/// Makes Delta tables of the inputs as other tools would: two versions of the items, of which one deletes rows, and a log in
/// days with a checkpoint whose versions before it are gone.
const WRITE_INPUTS: &str = r#"
import pathlib, sys
import deltalake, pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
root = pathlib.Path(sys.argv[1])
items = pq.read_table(root / "item.parquet")
extra = items.slice(0, 1).set_column(0, items.schema.field(0), pa.array(["gone"], items.schema.field(0).type))
deltalake.write_deltalake(root / "items", pa.concat_tables([items, extra]))
deltalake.DeltaTable(root / "items").delete("item_id = 'gone'")
log = pq.read_table(root / "interaction.parquet")
moments = log.column("timestamp").cast(pa.timestamp("us", tz="UTC"))
log = log.set_column(log.schema.get_field_index("timestamp"), "timestamp", moments)
log = log.append_column("dt", pc.strftime(moments, format="%Y-%m-%d"))
half = log.num_rows // 2
deltalake.write_deltalake(root / "log", log.slice(0, half), partition_by=["dt"])
deltalake.write_deltalake(root / "log", log.slice(half), mode="append")
deltalake.DeltaTable(root / "log").create_checkpoint()
for version in range(2):
    (root / "log" / "_delta_log" / f"{version:020}.json").unlink()
"#;

#[test]
fn tables_of_other_writers_are_inputs() {
    let Some(python) = python_with("deltalake") else { return };
    let world = World::new();
    let counts = "select (select count(*) from interaction) as events, (select count(*) from item) as items, \
                  (select count(*) from item where item_id = 'gone') as gone";
    let plain = world.sql(counts);
    let out = std::process::Command::new(python).args(["-c", WRITE_INPUTS]).arg(world.path("input")).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    let (log, items) = (world.path("input/log"), world.path("input/items"));
    let inputs = [format!("input.interaction={}", log.display()), format!("input.item={}", items.display())];
    let sets: [&str; 4] = ["--set", &inputs[0], "--set", &inputs[1]];
    let ask = [&["sql", "--job", "job.toml", "--format", "json"][..], &sets, &[counts]].concat();
    let out = world.curec(&ask);
    expect_code(&out, 0);
    assert_eq!(vec![summary(&out)], plain);
    assert_eq!((&plain[0]["items"], &plain[0]["gone"]), (&serde_json::json!(18), &serde_json::json!(0)));
    let out = world.run(&sets);
    expect_code(&out, 0);
    assert_eq!(summary(&out)["rows"]["item_feature"], 18);
}
