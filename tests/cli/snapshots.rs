//! Items as dated snapshots: a night reads the latest that it may know, and no other.

use crate::common::{World, expect_code, stderr, summary, write_items};

/// The catalogue with other titles.
fn snapshot(world: &World, day: &str, title: &str) {
    let items: Vec<_> = (0..18).map(|i| (format!("i{i:02}"), Some(format!("{title} {i}")))).collect();
    write_items(&world.path(&format!("input/items/dt={day}/part-0.parquet")), &items);
}

/// A night of January 2026 over the snapshots.
fn night(world: &World, day: u32, more: &[&str]) -> std::process::Output {
    let (start, end) = (format!("2026-01-{day:02}"), format!("2026-01-{:02}", day + 1));
    let items = format!("input.item={}", world.path("input/items").display());
    let mut args: Vec<&str> =
        vec!["run", "job.toml", "--interval-start", &start, "--interval-end", &end, "--set", &items];
    args.extend(more);
    world.curec(&args)
}

const LATEST: [&str; 2] = ["--set", "input.item_snapshot=latest"];

/// How many prompts about items of a day hold a word.
fn prompts(world: &World, day: u32, word: &str) -> i64 {
    let rows = world.sql(&format!(
        "select count(*) as n from reason_prompt where kind = 'item' and dt = '2026-01-{day:02}' and prompt_text like '%{word}%'"
    ));
    rows[0]["n"].as_i64().unwrap()
}

#[test]
fn a_night_reads_the_latest_snapshot_that_it_may_know() {
    let world = World::new();
    snapshot(&world, "2026-01-10", "Early");
    snapshot(&world, "2026-01-19", "Later");
    expect_code(&night(&world, 18, &LATEST), 0);
    assert!(prompts(&world, 18, "Early") > 0 && prompts(&world, 18, "Later") == 0);
    expect_code(&night(&world, 19, &LATEST), 0);
    assert!(prompts(&world, 19, "Later") > 0 && prompts(&world, 19, "Early") == 0);

    // A new snapshot leaves the nights before it alone.
    snapshot(&world, "2026-01-20", "Newest");
    for day in [18, 19] {
        let again = night(&world, day, &LATEST);
        expect_code(&again, 0);
        assert_eq!(summary(&again)["status"], "nothing_to_do");
    }
    expect_code(&night(&world, 20, &LATEST), 0);
    assert!(prompts(&world, 20, "Newest") > 0);

    // Before the first one there is nothing to read.
    let early = night(&world, 10, &LATEST);
    expect_code(&early, 0);
    assert!(prompts(&world, 10, "Early") > 0);
    let early = night(&world, 9, &LATEST);
    expect_code(&early, 1);
    assert!(
        stderr(&early).contains("every snapshot of the items is of a day after the interval"),
        "{}",
        stderr(&early)
    );
    // A lookback that reaches it leaves it alone.
    let lookback =
        night(&world, 10, &["--lookback", "1", "--set", "interval.lookback_missing=true", LATEST[0], LATEST[1]]);
    expect_code(&lookback, 0);
    let looked = &summary(&lookback)["lookback"][0];
    assert!(looked["dt"] == "2026-01-09" && looked["status"] == "no_snapshot", "{looked}");

    // Commands without an interval read the latest of all.
    let items = format!("input.item={}", world.path("input/items").display());
    let query = "select count(*) as n, min(title) as title from item";
    let sql: Vec<&str> = ["sql", "--job", "job.toml", "--set", items.as_str()].into_iter().chain(LATEST).collect();
    let out = world.curec(&[&sql[..], &["--format", "json", query]].concat());
    expect_code(&out, 0);
    assert_eq!(summary(&out), serde_json::json!({ "n": 18, "title": "Newest 0" }));
}

#[test]
fn a_snapshot_that_a_night_does_not_read_is_not_opened() {
    let world = World::new();
    snapshot(&world, "2026-01-17", "Early");
    snapshot(&world, "2026-01-18", "Early");
    expect_code(&night(&world, 18, &LATEST), 0);
    snapshot(&world, "2026-01-19", "Later");
    // Neither the one before nor the one after can be read any more.
    snapshot(&world, "2026-01-20", "Newest");
    for day in ["2026-01-17", "2026-01-20"] {
        let file = world.path(&format!("input/items/dt={day}/part-0.parquet"));
        std::fs::write(file, "not Parquet").unwrap();
    }
    expect_code(&night(&world, 19, &LATEST), 0);
    assert!(prompts(&world, 19, "Later") > 0 && prompts(&world, 19, "Early") == 0);
    // A lookback opens those of the days that were published: 17 was not, 18 reads its own.
    let lookback = night(&world, 19, &["--lookback", "2", LATEST[0], LATEST[1]]);
    expect_code(&lookback, 0);
    let looked = &summary(&lookback)["lookback"];
    assert_eq!([&looked[0]["status"], &looked[1]["status"]], ["not_published", "up_to_date"], "{looked}");
    let broken = night(&world, 20, &LATEST);
    expect_code(&broken, 1);
    let told = stderr(&broken);
    assert!(told.contains("not a Parquet file") && told.contains("dt=2026-01-20"), "{told}");
}

#[test]
fn what_is_no_snapshot_is_refused() {
    let world = World::new();
    snapshot(&world, "2026-01-10", "Early");
    snapshot(&world, "2026-01-19", "Later");
    // Read as one table, every item stands twice.
    let both = night(&world, 20, &[]);
    expect_code(&both, 1);
    assert!(stderr(&both).contains("the same key stands twice"), "{}", stderr(&both));
    write_items(&world.path("input/items/undated.parquet"), &[("i00".to_owned(), None)]);
    let undated = night(&world, 20, &LATEST);
    expect_code(&undated, 2);
    let told = stderr(&undated);
    assert!(told.contains("undated.parquet") && told.contains("PARTITION_BY"), "{told}");
}
