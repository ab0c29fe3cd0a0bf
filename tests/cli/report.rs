//! The reports of some nights, and the page over all runs: what they tell, and how a browser shows them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common;
use crate::common::{World, expect_code, stderr, stdout, summary};
use crate::night::Night;

/// The report of a run as JSON.
fn details(page: &Path) -> Value {
    let text = std::fs::read_to_string(page.with_file_name("report.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["details"].clone()
}

fn night(night: &Night, day: u32, more: &[&str]) -> PathBuf {
    let out = night.run_of(day, more).output().unwrap();
    expect_code(&out, 0);
    let report = summary(&out)["report"].as_str().unwrap().to_owned();
    // A bucket's objects are files too.
    match report.strip_prefix("s3://lake/") {
        Some(below) => night.world.path("s3/lake").join(below),
        None => report.into(),
    }
}

fn lines(runs: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(runs.join("index.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["runs"].as_array().unwrap().clone()
}

fn nights_are_held_against_those_before(nights: &Night) {
    let first = night(nights, 17, &[]);
    assert_eq!(details(&first)["before"].as_array().unwrap().len(), 0);
    assert!(std::fs::read_to_string(&first).unwrap().contains("no run before to compare with"));
    night(nights, 18, &[]);
    let third = night(nights, 19, &["--set", "check.min_words=6"]);
    let found = details(&third);
    let days: Vec<&str> = found["before"].as_array().unwrap().iter().map(|run| run["dt"].as_str().unwrap()).collect();
    assert_eq!(days, ["2026-01-17", "2026-01-18"], "oldest first");
    assert_eq!(found["note"], Value::Null, "{found}");
    assert!(found["before"][1].get("mean_vector").is_none(), "a report has no use for them");
    assert_eq!(found["measures"]["moved"]["against"], "2026-01-18");
    assert!(found["measures"]["moved"]["common"].as_u64() > Some(0), "{found}");
    let distance = found["measures"]["distance"].as_f64().unwrap();
    assert!((0.0..=2.0).contains(&distance), "{distance}");
    let versions = &found["versions"];
    assert_eq!(versions["against"], "2026-01-18");
    assert!(versions["common"].as_u64() > Some(0) && versions["same"].as_u64() <= versions["common"].as_u64());
    for changed in versions["changed"].as_array().unwrap() {
        assert!(changed["before"] != changed["reason"] && changed["entity"].is_string(), "{changed}");
    }
    let page = std::fs::read_to_string(&third).unwrap();
    assert!(page.contains("From events to features") && page.contains("reasons accepted"), "{page}");
    assert!(page.contains("2026-01-17, 2026-01-18") && page.contains("<polyline"), "{page}");
    for refusal in found["refusals"].as_array().unwrap() {
        assert!(page.contains(&format!("<b>{}</b>", refusal["refusal"].as_str().unwrap())), "{refusal}");
    }

    // The same day again, with other reasons: the version before is the one that it takes the place of, and no later day
    // tells of an earlier one.
    let again = night(nights, 18, &["--set", "sampling.max_new_tokens=9"]);
    let found = details(&again);
    assert_eq!(found["versions"]["against"], "2026-01-18");
    assert_eq!(found["before"].as_array().unwrap().len(), 1);

    let runs = third.parent().unwrap().parent().unwrap();
    let (rows, page) = (lines(runs), std::fs::read_to_string(runs.join("index.html")).unwrap());
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row["status"] == "published" && row["has_report"] == true), "{rows:?}");
    for row in &rows {
        let link = format!("{}/report.html", row["run_id"].as_str().unwrap());
        assert!(page.contains(&format!("href=\"{link}\"")) && runs.join(&link).exists(), "{link}");
    }
}

#[test]
fn on_disk_nights_are_held_against_those_before() {
    nights_are_held_against_those_before(&Night::on_disk());
}

#[test]
fn in_a_bucket_nights_are_held_against_those_before() {
    nights_are_held_against_those_before(&Night::in_bucket());
}

#[test]
fn what_cannot_be_read_of_before_fails_no_run() {
    let nights = Night::on_disk();
    let first = night(&nights, 18, &[]);
    let runs = first.parent().unwrap().parent().unwrap().to_owned();
    // A line that is none, numbers that are none, and a version whose reasons are torn.
    std::fs::write(runs.join("index.json"), "{\"format\": 1, \"runs\": [7").unwrap();
    std::fs::write(first.with_file_name("measures.json"), "torn").unwrap();
    let second = night(&nights, 19, &[]);
    assert_eq!(details(&second)["before"].as_array().unwrap().len(), 0);
    let reasons = nights.warehouse().join("reason/dt=2026-01-19");
    for entry in std::fs::read_dir(&reasons).unwrap().map(|e| e.unwrap().path()) {
        if entry.extension().is_some_and(|e| e == "parquet") {
            std::fs::write(&entry, "torn").unwrap();
        }
    }
    let third = night(&nights, 20, &[]);
    let note = details(&third)["note"].as_str().unwrap().to_owned();
    assert!(note.contains("the version before") && std::fs::read_to_string(&third).unwrap().contains(&note), "{note}");
    assert_eq!(lines(&runs).len(), 3);
}

#[test]
fn a_run_that_fails_has_a_line_and_no_numbers_for_those_after() {
    let nights = Night::on_disk();
    let page = night(&nights, 19, &[]);
    let runs = page.parent().unwrap().parent().unwrap().to_owned();
    std::fs::write(nights.input("item.parquet"), "torn").unwrap();
    let out = nights.run(&[]).output().unwrap();
    assert_ne!(out.status.code(), Some(0));
    let id = summary(&out)["run_id"].as_str().unwrap().to_owned();
    let rows = lines(&runs);
    assert_eq!((rows.len(), rows[0]["run_id"].as_str()), (2, Some(id.as_str())), "{rows:?}");
    assert_ne!(rows[0]["status"], "published");
    assert!(!runs.join(&id).join("measures.json").exists());
    let index = std::fs::read_to_string(runs.join("index.html")).unwrap();
    assert!(!index.contains(&format!("{id}/report.html")) && index.matches("<tr>").count() == 3, "{index}");
}

#[test]
fn a_browser_shows_the_pages_on_phones_and_screens_by_day_and_by_night() {
    let python = std::env::var_os("CUREC_PYTHON").unwrap_or_else(|| "python3".into());
    let nights = Night::on_disk();
    let world: &World = &nights.world;
    let mut items = common::items();
    items[0].1 = Some("<script>alert(1)</script> \u{202e}turned\u{2066} & \"quoted\"".into());
    items[1].1 = Some("Averylongtitlewithoutanyroomforabreak".repeat(4));
    common::write_items(&world.path("input/item.parquet"), &items);
    let mut pages: Vec<PathBuf> = [17, 18, 19].map(|day| night(&nights, day, &[])).to_vec();
    pages.push(pages[0].parent().unwrap().parent().unwrap().join("index.html"));
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        assert!(!text.contains("<script") && !text.contains(['\u{202e}', '\u{2066}']), "{}", page.display());
    }
    let out = std::process::Command::new(python)
        .args(["-m", "unittest", "-v", "tests/python/test_pages.py"])
        .current_dir(common::project())
        .env("CUREC_PAGES", std::env::join_paths(&pages).unwrap())
        .output();
    let Ok(out) = out else {
        println!("skipped: no Python to look at the pages with (CUREC_PYTHON)");
        return;
    };
    assert!(out.status.success(), "{}{}", stdout(&out), stderr(&out));
    if stderr(&out).contains("skipped") {
        println!("skipped: no Chromium to look at the pages with (CUREC_CHROMIUM)");
    }
}
