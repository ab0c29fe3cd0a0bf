//! Chronological correction from outside: nights with a judge. A reason is corrected by the outcomes of the interval after
//! it, counts from that interval's end on, and changes nothing where no judge is set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use curec::llm::device;
use curec::llm::encoder_files::EncoderFiles;
use curec::reward::judge::{Gates, Judge};
use curec::reward::model::{Config, RewardModel};
use curec::reward::saved::{Catalogue, SavedJudge};
use curec::statistics::{Contrast, Interval};
use serde_json::Value;

use crate::common::{self, Event, World, expect_code, fixture, january, stderr, summary};

const CORRECTION: [&str; 2] = ["correction_prompt", "reason_correction"];

/// A judge of random weights that knows some of the items, as a folder.
fn write_judge(world: &World) {
    let encoder = EncoderFiles::open(&fixture("tiny-bert")).unwrap();
    let items: BTreeMap<String, Vec<String>> =
        (0..12).map(|i| (format!("i{i:02}"), vec![["Crime", "Comedy"][i % 2].to_string()])).collect();
    let catalogue = Catalogue::new(&items).unwrap();
    let config = Config {
        reason: encoder.dimension(),
        projection: 8,
        hidden: 8,
        attention: [8, 4],
        network: [8, 4],
        length: 10,
    };
    let device = device::open("cpu").unwrap();
    let model = |seed| RewardModel::new(catalogue.attributes().clone(), config.clone(), seed, &device).unwrap();
    let judge = Judge::of(vec![model(1), model(2)], 3).unwrap();
    let none = Interval { mean: 0.0, low: 0.0, high: 0.0 };
    let contrast = Contrast { interval: none, p: 1.0, users: 1 };
    let gates = Gates { auc: 0.5, auc_without: 0.5, difference: contrast, shuffled: contrast, probe: none, gain: none };
    SavedJudge::new(judge, catalogue, encoder.digest(), gates, true).write(&world.path("judge")).unwrap();
}

/// A world with a judge, and a job that corrects whatever gains by it.
pub(crate) fn world() -> World {
    let world = World::new();
    write_judge(&world);
    let template = "=== user\n{{ extra | join(' ') }}\n=== assistant\nThe user likes\n";
    std::fs::write(world.path("rewrite.j2"), template).unwrap();
    let root = world.path("");
    let root = root.display().to_string();
    let root = root.trim_end_matches('/');
    world.write_job(&format!(
        "[correct]\njudge = \"{root}/judge\"\ntemplate = \"{root}/rewrite.j2\"\nrewrites = 2\nkeep_gain = 1e6\n\
         min_improvement = 0.0\n"
    ));
    world
}

/// Runs the night of a day in January into a warehouse.
fn night(world: &World, warehouse: &str, day: u32, more: &[&str]) -> Value {
    let (start, end) = (format!("2026-01-{day:02}"), format!("2026-01-{:02}", day + 1));
    let warehouse = format!("warehouse={}", world.path(warehouse).display());
    let mut args = vec!["run", "job.toml", "--interval-start", &start, "--interval-end", &end, "--set", &warehouse];
    args.extend(more);
    let out = world.curec(&args);
    expect_code(&out, 0);
    summary(&out)
}

const OFF: [&str; 2] = ["--set", "correct.judge="];

/// All rows of a table's day, by the user.
fn rows(world: &World, warehouse: &str, table: &str, day: u32) -> Vec<Value> {
    let warehouse = format!("warehouse={}", world.path(warehouse).display());
    let query = format!("select * from {table} where dt = '2026-01-{day:02}' order by 1, 2, 3");
    let out = world.curec(&["sql", "--job", "job.toml", "--set", &warehouse, "--format", "json", &query]);
    assert!(out.status.success(), "{query}\n{}", stderr(&out));
    common::stdout(&out).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn users(rows: &[Value]) -> BTreeSet<String> {
    rows.iter().map(|r| r["user_id"].as_str().unwrap().to_string()).collect()
}

/// Data files below a warehouse by their digest, answers aside.
fn files(world: &World, warehouse: &str) -> BTreeMap<String, String> {
    let root = world.path(warehouse);
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().to_string();
            if path.is_dir() {
                folders.extend((!name.starts_with('_') && name != "response").then_some(path));
            } else if name.ends_with(".parquet") {
                let digest = blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string();
                found.insert(path.strip_prefix(&root).unwrap().display().to_string(), digest);
            }
        }
    }
    found
}

#[test]
fn reasons_are_corrected_by_what_came_after_them_and_count_from_then_on() {
    let world = world();
    for day in 18..=20 {
        night(&world, "on", day, &[]);
        night(&world, "off", day, &OFF);
    }

    // Where it is off nothing of it is there; where it is on, it touches nothing but the users' features.
    let (on, off) = (files(&world, "on"), files(&world, "off"));
    assert!(CORRECTION.iter().all(|table| !world.path("off").join(table).exists()));
    let untouched = |files: &BTreeMap<String, String>| {
        let mut files = files.clone();
        files.retain(|name, _| !name.starts_with("user_feature/") && !CORRECTION.iter().any(|t| name.starts_with(t)));
        files
    };
    assert_eq!(untouched(&on), untouched(&off));

    // The first night has no reason to correct, and no feature differs.
    assert!(rows(&world, "on", "reason_correction", 18).is_empty());
    assert_eq!(rows(&world, "on", "user_feature", 18), rows(&world, "off", "user_feature", 18));

    let mut fates = BTreeSet::new();
    for day in 19..=20 {
        let corrected = rows(&world, "on", "reason_correction", day);
        assert!(corrected.len() > 3, "{corrected:?}");
        let earlier = rows(&world, "on", "reason", day - 1);
        let prompts = rows(&world, "on", "correction_prompt", day);
        assert!(!prompts.is_empty());
        for row in &corrected {
            let moment = |name: &str| row[name].as_str().unwrap().to_string();
            assert!(moment("as_of").starts_with(&format!("2026-01-{}", day + 1)), "{row}");
            assert!(moment("from_as_of").starts_with(&format!("2026-01-{day}")), "{row}");
            let from = earlier.iter().find(|r| r["user_id"] == row["user_id"] && r["kind"] == "history").unwrap();
            assert_eq!(from["prompt_key"], row["corrected_from"]);
            let fate = row["correction"].as_str().unwrap();
            fates.insert(fate.to_string());
            let gain = |name: &str| row[name].as_f64().unwrap();
            match fate {
                "kept" => {
                    assert_eq!((&from["reason"], gain("gain_before")), (&row["reason"], gain("gain_after")), "{row}")
                }
                "dropped" => assert!(row["reason"].is_null() && row["gain_after"].is_null(), "{row}"),
                _ => assert!(gain("gain_after") > gain("gain_before") && row["reason"] != from["reason"], "{row}"),
            }
            if fate == "rewritten" {
                let asked = |p: &&Value| p["user_id"] == row["user_id"] && p["prompt_key"] == row["prompt_key"];
                assert!(prompts.iter().any(|p| asked(&p)), "{row}");
            }
            assert!(row["judge"].as_str().is_some_and(|judge| judge.len() == 32), "{row}");
            // Likes never outnumber what was not liked: without unmet items praise alone would gain.
            assert!(row["n_outcomes"].as_i64() >= row["n_met"].as_i64());
        }

        // A corrected reason is one more behind the features of the very users, from the interval's end on.
        let (with, without) = (rows(&world, "on", "user_feature", day), rows(&world, "off", "user_feature", day));
        assert_eq!(users(&with), users(&without));
        let stands: Vec<Value> = corrected.iter().filter(|r| !r["reason"].is_null()).cloned().collect();
        let stands = users(&stands);
        for (with, without) in with.iter().zip(&without) {
            let more = i64::from(stands.contains(with["user_id"].as_str().unwrap()));
            let n = |row: &Value| row["n_reasons"].as_i64().unwrap();
            assert_eq!(n(with), n(without) + more, "{with}");
            assert!(more == 1 || with == without, "{with} {without}");
        }
        assert!(with != without, "no feature was changed");
    }
    assert!(fates.contains("rewritten") || fates.contains("template"), "nothing was corrected: {fates:?}");

    // The same again, paid for already; and up to date.
    let again = night(&world, "on", 20, &["--full"]);
    assert_eq!(again["generated"], 0);
    assert_eq!(files(&world, "on"), on);
    assert_eq!(night(&world, "on", 20, &[])["status"], "nothing_to_do");

    // Rules of another kind make other corrections, and nothing else but features is made again.
    let kept = night(&world, "on", 20, &["--set", "correct.keep_gain=-1e6"]);
    assert_eq!((&kept["status"], &kept["generated"]), (&Value::from("published"), &Value::from(0)));
    let all = rows(&world, "on", "reason_correction", 20);
    assert!(all.iter().any(|r| r["correction"] == "kept"), "{all:?}");
    let asked = users(&rows(&world, "on", "correction_prompt", 20));
    let kept: Vec<Value> = all.into_iter().filter(|r| r["correction"] == "kept").collect();
    assert!(users(&kept).is_disjoint(&asked), "what is kept was asked for again");
}

#[test]
fn labels_from_t_on_change_no_bit_of_what_is_corrected_or_used_at_t() {
    let world = world();
    // t: 20 January, the end of the second night.
    let t = january(20, 0);
    let tables = ["user_feature", "item_feature", "reason_correction", "correction_prompt", "reason", "reason_score"];
    let run = |name: &str, change: &dyn Fn(&mut Event)| {
        let mut events = common::events();
        events.iter_mut().for_each(change);
        let file = format!("{name}/interaction.parquet");
        common::write_events(&world.path(&file), &events);
        let input = format!("input.interaction={}", world.path(&file).display());
        let warehouse = format!("warehouse-{name}");
        for day in 18..=19 {
            night(&world, &warehouse, day, &["--set", &input]);
        }
        let of = |day| tables.map(|table| (table, rows(&world, &warehouse, table, day)));
        (of(18), of(19))
    };
    let turned = |event: &mut Event| event.rating = event.rating.map(|r| 7.0 - r);
    let expected = run("base", &|_| {});
    assert!(expected.1.iter().all(|(_, rows)| !rows.is_empty()), "nothing to compare");
    let after = run("after", &|e| {
        if e.at >= Some(t) {
            turned(e)
        }
    });
    assert_eq!(after, expected, "labels from t on");
    let gone = run("gone", &|e| {
        if e.at >= Some(t) {
            e.item = "i17".into();
            e.at = e.at.map(|at| at + 86_400_000);
        }
    });
    assert_eq!(gone, expected, "other events from t on");

    // The control: labels of the second interval correct its reasons, and reach no feature of before.
    let within = run("within", &|e| {
        if e.at >= Some(january(19, 0)) && e.at < Some(t) {
            turned(e)
        }
    });
    assert_eq!(within.0, expected.0, "a feature knew the interval after it");
    let of = |nights: &[(&str, Vec<Value>); 6]| -> Vec<Value> {
        nights[2].1.iter().map(|r| Value::from(vec![r["user_id"].clone(), r["gain_before"].clone()])).collect()
    };
    assert_ne!(of(&within.1), of(&expected.1), "no judgement shows the labels");
    // What is asked for follows from the forecast alone, whatever the outcomes.
    assert_eq!(within.1[3].1, expected.1[3].1, "a rewrite's prompt knew the outcomes");
}

#[test]
fn a_forgotten_user_has_no_correction_and_a_judge_of_another_encoder_is_refused() {
    let world = world();
    for day in 18..=19 {
        night(&world, "warehouse", day, &[]);
    }
    let before = rows(&world, "warehouse", "reason_correction", 19);
    let user = before[0]["user_id"].as_str().unwrap();
    expect_code(&world.curec(&["forget", "job.toml", "--user-id", user]), 0);
    for table in CORRECTION {
        let left = rows(&world, "warehouse", table, 19);
        assert!(!users(&left).contains(user), "{table}");
    }
    assert_eq!(rows(&world, "warehouse", "reason_correction", 19).len(), before.len() - 1);

    let path = world.path("judge/judge.json");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("Crime", "Krime")).unwrap();
    let out = world.run(&[]);
    assert!(!out.status.success() && stderr(&out).contains("changed after it was written"), "{}", stderr(&out));
    std::fs::remove_dir_all(world.path("judge")).unwrap();
    let out = world.run(&[]);
    assert!(!out.status.success() && stderr(&out).contains("there is no judge here"), "{}", stderr(&out));
}

/// Digests of what files hold but for their footers, which name fingerprints.
fn pages(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    let (body, tail) = bytes.split_at(bytes.len() - 8);
    let footer = u32::from_le_bytes(tail[..4].try_into().unwrap()) as usize;
    blake3::hash(&body[..body.len() - footer]).to_hex().to_string()
}

/// What a change of the house must keep: the pages of a night's files are those that another version's binary publishes.
/// `CUREC_OTHER_BIN=<binary> cargo test --profile ci --test cli -- --ignored another_version`.
#[test]
#[ignore = "needs the binary of another version in CUREC_OTHER_BIN"]
fn another_version_publishes_the_same_bytes() {
    let other = std::env::var("CUREC_OTHER_BIN").expect("CUREC_OTHER_BIN names a binary");
    let world = world();
    let published = |warehouse: &str| -> Vec<(String, String)> {
        let root = world.path(warehouse);
        let of_file = |name: &String| (name.rsplit_once('/').unwrap().0.to_owned(), pages(&root.join(name)));
        files(&world, warehouse).keys().map(of_file).collect()
    };
    for (name, more) in [("on", &[][..]), ("off", &OFF[..])] {
        for day in 18..=20 {
            night(&world, name, day, more);
            let (start, end) = (format!("2026-01-{day:02}"), format!("2026-01-{:02}", day + 1));
            let warehouse = format!("warehouse={}", world.path(&format!("other-{name}")).display());
            let mut command = std::process::Command::new(&other);
            command.current_dir(world.path("")).args(["run", "job.toml", "--interval-start", &start]);
            command.args(["--interval-end", &end, "--set", &warehouse]).args(more);
            expect_code(&command.output().unwrap(), 0);
        }
        let (ours, theirs) = (published(name), published(&format!("other-{name}")));
        assert!(ours.len() >= 21, "{ours:?}");
        assert_eq!(ours, theirs, "corrections {name}");
    }
}
