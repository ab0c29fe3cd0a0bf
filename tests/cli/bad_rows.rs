//! `[input] max_bad_fraction` with the real binary: a night over a log with bad rows is the night over the log without them.

use crate::common::{Event, World, events, expect_code, items, stderr, summary, write_events, write_items};

/// A bad row after every hundredth good one: no time, no id, a rating that is no number, in turn.
fn with_bad_rows(good: &[Event]) -> Vec<Event> {
    let mut all = Vec::new();
    for (n, event) in good.iter().enumerate() {
        if n % 100 == 50 {
            let mut bad = event.clone();
            bad.item = "i07".into();
            match n / 100 {
                0 => bad.at = None,
                1 => bad.user = String::new(),
                _ => bad.rating = Some(f32::NAN),
            }
            all.push(bad);
        }
        all.push(event.clone());
    }
    all
}

/// A table's rows as JSON, in the order of the table.
fn rows(world: &World, table: &str, key: &str) -> Vec<serde_json::Value> {
    world.sql(&format!("select * from {table} order by {key}"))
}

const ALLOWED: [&str; 2] = ["--set", "input.max_bad_fraction=0.02"];

#[test]
fn bad_rows_do_not_cost_the_night_where_the_job_allows_some() {
    let clean = World::new();
    expect_code(&clean.run(&[]), 0);

    let world = World::new();
    let log = with_bad_rows(&events());
    write_events(&world.path("input/interaction.parquet"), &log);
    let refused = world.run(&[]);
    expect_code(&refused, 1);
    for part in
        ["max_bad_fraction", &format!("3 of {}", log.len()), "1 not_null(event_timestamp)", "row: 50", "quarantine"]
    {
        assert!(stderr(&refused).contains(part), "{part:?} is not in: {}", stderr(&refused));
    }
    assert!(world.published().is_empty());

    let out = world.run(&ALLOWED);
    expect_code(&out, 0);
    let told = &summary(&out)["bad_rows"]["interaction"];
    assert_eq!(told["rows"], 3);
    let kinds = serde_json::json!({"not_null(event_timestamp)": 1, "min_length(user_id)": 1, "finite(rating)": 1});
    assert_eq!(told["kinds"], kinds);
    let folder = world.path("warehouse/_runs").join(summary(&out)["run_id"].as_str().unwrap());
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(
        (&manifest["inputs"]["interaction"]["bad_rows"], &manifest["inputs"]["interaction"]["left_out"]),
        (&kinds, &3.into())
    );
    assert!(std::fs::read_to_string(folder.join("report.html")).unwrap().contains("rows break the contract"));
    for (table, key) in [("user_history", "user_id"), ("item_feature", "item_id"), ("user_feature", "user_id")] {
        assert_eq!(rows(&world, table, key), rows(&clean, table, key), "{table}");
    }

    let run_id = summary(&out)["run_id"].as_str().unwrap().to_owned();
    let kept = world.sql(&format!("select * from quarantine where run_id = '{run_id}'"));
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().all(|row| row["table_name"] == "interaction" && row["severity"] == "warn"));

    // The same rows everywhere the job reads its log, and all of them where it allows none.
    let good = log.len() as u64 - 3;
    let count = |more: &[&str]| {
        let args = ["sql", "--job", "job.toml", "--format", "json", "select count(*) as n from interaction"];
        let out = world.curec(&[&args[..], more].concat());
        expect_code(&out, 0);
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()["n"].as_u64().unwrap()
    };
    assert_eq!((count(&ALLOWED), count(&[])), (good, good + 3));
    let export = world.curec(&[&["export", "job.toml", "--out", "out"], &ALLOWED[..]].concat());
    expect_code(&export, 0);
    assert_eq!(summary(&export)["rows"], good);

    // Another limit is no other table; no limit at all is, and refuses.
    let again = world.run(&["--set", "input.max_bad_fraction=0.5"]);
    expect_code(&again, 0);
    assert_eq!(summary(&again)["status"], "nothing_to_do");
    expect_code(&world.run(&[]), 1);
    expect_code(&world.run(&["--set", "input.max_bad_fraction=1.5"]), 2);
}

#[test]
fn the_quarantine_keeps_twenty_bad_rows_and_forgets_users() {
    let world = World::new();
    let mut log = events();
    for (n, event) in log.iter_mut().enumerate().filter(|(n, _)| n % 4 == 0) {
        match n % 8 {
            0 => event.rating = Some(f32::INFINITY),
            _ => event.at = None,
        }
    }
    write_events(&world.path("input/interaction.parquet"), &log);
    write_items(&world.path("input/item.parquet"), &items());
    let out = world.run(&["--set", "input.max_bad_fraction=0.3"]);
    expect_code(&out, 0);
    let kept = world.sql("select * from quarantine");
    assert_eq!(kept.len(), 20);
    let row: serde_json::Value = serde_json::from_str(kept[0]["failing_row"].as_str().unwrap()).unwrap();
    assert!(row["at"].as_str().unwrap().contains("interaction.parquet"), "{row}");
    let user = row["user_id"].as_str().unwrap();
    expect_code(&world.curec(&["forget", "job.toml", "--user-id", user]), 0);
    assert!(!world.sql("select * from quarantine").iter().any(|row| row.to_string().contains(user)));
}
