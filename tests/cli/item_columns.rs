//! `[evidence] attributes` with the real binary: queries see them, tables are built again when they change, and what a crawl
//! left undated is refused or warned of.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

use crate::common::{World, expect_code, items, stderr, stdout, summary, write};

fn world() -> World {
    let world = World::new();
    let items = items();
    let ids: StringArray = items.iter().map(|(id, _)| Some(id.as_str())).collect();
    let titles: StringArray = items.iter().map(|(_, title)| title.as_deref()).collect();
    let makers: StringArray = (0..items.len()).map(|i| (i % 2 == 0).then_some("Ada")).collect();
    let ranks: Int64Array = (0..items.len() as i64).map(Some).collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("item_id", Arc::new(ids)),
        ("title", Arc::new(titles)),
        ("maker", Arc::new(makers)),
        ("sales_rank", Arc::new(ranks)),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap();
    write(&world.path("input/item.parquet"), &batch);
    world
}

#[test]
fn attributes_are_seen_and_tables_follow_their_setting() {
    let world = world();
    expect_code(&world.run(&[]), 0);
    world.write_job("[evidence.attributes]\nmaker = \"By\"\n");
    let rows = world.sql("select item_id, attributes from item order by item_id limit 2");
    assert_eq!(rows[0]["attributes"], serde_json::json!(["By: Ada"]));
    assert!(rows[1].get("attributes").is_none_or(serde_json::Value::is_null), "{}", rows[1]);

    let plan = world.curec(&["plan", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"]);
    assert!(stdout(&plan).contains("settings [evidence] attributes"), "{}", stdout(&plan));
    assert_eq!(summary(&world.run(&[]))["status"], "published");
    assert_eq!(summary(&world.run(&[]))["status"], "nothing_to_do");
    assert_eq!(summary(&world.run(&["--set", "evidence.attributes.maker=From"]))["status"], "published");

    let missing = world.run(&["--set", "evidence.attributes.makers=By"]);
    expect_code(&missing, 2);
    assert!(stderr(&missing).contains("no file has the column makers"), "{}", stderr(&missing));
}

#[test]
fn undated_columns_need_a_word_and_are_told() {
    let world = world();
    let named = ["--set", "evidence.attributes.sales_rank=Rank"];
    let refused = world.run(&named);
    expect_code(&refused, 2);
    assert!(stderr(&refused).contains("evidence.attributes.sales_rank: looks like"), "{}", stderr(&refused));
    let out = world.run(&[&named[..], &["--set", "evidence.undated=true"]].concat());
    expect_code(&out, 0);
    let warnings = stderr(&out).lines().filter(|line| line.contains("undated columns are attributes")).count();
    assert_eq!(warnings, 1, "{}", stderr(&out));
    let folder = world.path("warehouse/_runs").join(summary(&out)["run_id"].as_str().unwrap());
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert!(manifest["inputs"]["item"]["notes"].to_string().contains("sales_rank"), "{manifest}");
}
