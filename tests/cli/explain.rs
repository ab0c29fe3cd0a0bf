//! `curec explain` as its users meet it: one reason beside its evidence, and what is said where there is none.

use std::process::{Command, Output};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::common::{self, World, expect_code, items, stderr, stdout, write_items};

fn explain(world: &World, more: &[&str]) -> Output {
    world.curec(&[&["explain", "job.toml"], more].concat())
}

fn shown(world: &World, more: &[&str]) -> String {
    let out = explain(world, more);
    expect_code(&out, 0);
    assert!(!is_steering(&stdout(&out)), "{:?}", stdout(&out));
    stdout(&out)
}

fn json(world: &World, more: &[&str]) -> Value {
    let text = shown(world, &[more, &["--json"]].concat());
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn is_steering(text: &str) -> bool {
    text.chars().any(|c| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2028}'))
}

/// What is refused, for a person.
fn refused(world: &World, more: &[&str]) -> String {
    let out = explain(world, more);
    expect_code(&out, 2);
    assert!(stdout(&out).is_empty(), "{}", stdout(&out));
    assert!(!is_steering(&stderr(&out)), "{:?}", stderr(&out));
    stderr(&out)
}

/// Two nights, the 19th and the 20th of January.
fn two_nights() -> World {
    let world = World::new();
    for (start, end) in [("2026-01-19", "2026-01-20"), ("2026-01-20", "2026-01-21")] {
        let out = world.curec(&["run", "job.toml", "--interval-start", start, "--interval-end", end]);
        expect_code(&out, 0);
    }
    world
}

#[test]
fn a_reason_stands_beside_its_evidence_and_its_origin() {
    let world = two_nights();
    let text = shown(&world, &["--item-id", "i04"]);
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("item `i04`, Film Number 4 (1974); day 2026-01-20, events before 2026-01-21"), "{text}");
    let mut from = 0;
    for heading in ["evidence", "checks", "feature", "from", "prompt"] {
        let at =
            text[from..].find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading} after {from}: {text}"));
        from += at;
    }
    for part in [
        "  verdict",
        "  subject",
        "  attributes",
        "  score",
        "grounding",
        "concreteness",
        "prompt_tokens",
        "item_feature",
        "norm",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("accepted") && text.contains("Film Number 4") && !text.contains("correction"), "{text}");

    let told = json(&world, &["--item-id", "i04"]);
    let row = &world.sql(
        "select r.reason, r.prompt_tokens, r.prompt_key, s.score, s.accepted, p.prompt_text, p.attributes, a.model_digest \
         from reason as r join reason_score as s on s.item_id = r.item_id and s.dt = r.dt \
         join reason_prompt as p on p.item_id = r.item_id and p.dt = r.dt join response as a on a.prompt_key = r.prompt_key \
         where r.item_id = 'i04' and r.dt = '2026-01-20'",
    )[0];
    assert_eq!((&told["kind"], &told["id"], &told["dt"]), (&"item".into(), &"i04".into(), &"2026-01-20".into()));
    assert_eq!((&told["reason"], &told["accepted"]), (&row["reason"], &row["accepted"]), "{told}");
    assert_eq!(told["checks"]["score"], row["score"], "{told}");
    assert_eq!(told["tokens"]["prompt_tokens"], row["prompt_tokens"], "{told}");
    assert_eq!(told["evidence"]["attributes"], row["attributes"], "{told}");
    assert_eq!(told["prompt"]["text"], row["prompt_text"], "{told}");
    assert_eq!(
        (&told["from"]["prompt_key"], &told["from"]["model_digest"]),
        (&row["prompt_key"], &row["model_digest"])
    );
    assert!(told["from"]["run_id"].as_str().is_some_and(|id| id.starts_with("test-")), "{told}");
    assert!(told["from"]["fingerprint"].is_string() && told["used"].is_object(), "{told}");
    let embedding = &told["feature"]["embedding"];
    assert_eq!(embedding["first"].as_array().unwrap().len(), 3, "{told}");
    // Of a refused reason nothing comes into a feature.
    assert_eq!(embedding["norm"].as_f64().unwrap() > 0.0, told["accepted"] == true, "{told}");
    assert!(embedding["width"].as_u64().unwrap() > 3, "{told}");
    // A random model's words come from nowhere, but for the titles in its stem.
    assert!(told["unsupported"].is_array() && told["correction"].is_null(), "{told}");

    // A user, and the day before.
    let user = shown(&world, &["--user-id", "u03"]);
    assert!(user.starts_with("user `u03`; day 2026-01-20") && user.contains("  liked"), "{user}");
    assert!(user.contains("user_feature"), "{user}");
    let before = json(&world, &["--user-id", "u03", "--at", "2026-01-19T12:00:00Z"]);
    assert_eq!((&before["kind"], &before["dt"]), (&"history".into(), &"2026-01-19".into()), "{before}");

    // A partition of before one of its columns is read without it.
    let folder = world.path("warehouse/reason_prompt/dt=2026-01-19");
    let files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    for file in files.filter(|file| file.extension().is_some_and(|end| end == "parquet")) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&file).unwrap()).unwrap();
        let batch = reader.build().unwrap().next().unwrap().unwrap();
        let is_kept = |i: &usize| batch.schema().field(*i).name() != "attributes";
        let kept: Vec<usize> = (0..batch.num_columns()).filter(is_kept).collect();
        common::write(&file, &batch.project(&kept).unwrap());
    }
    let older = json(&world, &["--user-id", "u03", "--at", "2026-01-19"]);
    assert_eq!((&older["reason"], &older["evidence"]["liked"]), (&before["reason"], &before["evidence"]["liked"]));
    assert!(older["evidence"]["attributes"].is_null() && !before["evidence"]["attributes"].is_null(), "{older}");
}

#[test]
fn a_user_s_correction_is_told_with_what_it_came_from() {
    let world = crate::correct::world();
    for (start, end) in [("2026-01-18", "2026-01-19"), ("2026-01-19", "2026-01-20")] {
        expect_code(&world.curec(&["run", "job.toml", "--interval-start", start, "--interval-end", end]), 0);
    }
    let corrections = "select c.user_id, c.correction, c.reason, c.gain_before, r.reason as before from reason_correction as c \
                       join reason as r on r.user_id = c.user_id and r.prompt_key = c.corrected_from and r.as_of = c.from_as_of \
                       order by c.user_id limit 1";
    let row = &world.sql(corrections)[0];
    let user = ["--user-id", row["user_id"].as_str().unwrap()];
    let told = json(&world, &user);
    let correction = &told["correction"];
    for name in ["correction", "reason", "gain_before"] {
        assert_eq!(correction[name], row[name], "{name}: {told}");
    }
    assert_eq!(correction["from"], row["before"], "{told}");
    let text = shown(&world, &user);
    assert!(text.contains("\ncorrection\n") && text.contains("known from 2026-01-20"), "{text}");
    // The night before knew of none.
    assert!(json(&world, &[&user[..], &["--at", "2026-01-18"]].concat())["correction"].is_null());
}

#[test]
fn an_id_without_a_reason_is_told_what_was_looked_at() {
    let world = World::new();
    assert!(refused(&world, &["--item-id", "i04"]).contains("nothing is published yet"));
    expect_code(&world.run(&[]), 0);
    let said = refused(&world, &["--item-id", "i99"]);
    for part in
        ["no reason about the item `i99`", "2026-01-20", "the catalogue does not know it", "no event", "curec sql"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = refused(&world, &["--user-id", "nobody"]);
    assert!(said.contains("the user `nobody`") && !said.contains("catalogue"), "{said}");
    let said = refused(&world, &["--item-id", "i04", "--at", "2026-01-19"]);
    assert!(said.contains("at or before") && said.contains("first day: 2026-01-20"), "{said}");
    assert!(refused(&world, &["--item-id", "i04", "--at", "yesterday"]).contains("--at is not a date"));
    // One that the log knows and the interval does not.
    let narrow = ["run", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21", "--set"];
    expect_code(&world.curec(&[&narrow[..], &["history.max_items=1"]].concat()), 0);
    let said: Vec<String> = (0..18)
        .map(|i| explain(&world, &["--item-id", &format!("i{i:02}")]))
        .filter(|out| !out.status.success())
        .map(|out| stderr(&out))
        .collect();
    assert!(said.len() > 10 && said.iter().all(|said| said.contains("the catalogue knows it")), "{said:?}");
    assert!(said.iter().all(|said| said.contains("event(s) of it") && said.contains("item_active_days")), "{said:?}");

    expect_code(&explain(&world, &[]), 2);
    expect_code(&explain(&world, &["--item-id", "i04", "--user-id", "u03"]), 2);
}

#[test]
fn an_id_and_a_title_steer_no_terminal() {
    let world = World::new();
    let hostile = "i04\x1b[2J\u{9b}1m\u{202e}\nerror: all is well' or ''='";
    let said = refused(&world, &["--item-id", hostile]);
    assert!(said.contains("nothing is published"), "{said}");
    let mut all = items();
    all[4].1 = Some("A\x1b[2J\u{202e}\u{2028}B *x* (1974)".into());
    write_items(&world.path("input/item.parquet"), &all);
    expect_code(&world.run(&[]), 0);
    let said = refused(&world, &["--item-id", hostile]);
    assert!(said.contains("`i04\\u{1b}[2J") && said.contains("\\u{a}error: all is well"), "{said}");
    assert!(!said.lines().any(|line| line.starts_with("error: all is well")), "{said}");
    for id in ["' or ''='", "$id", "", "-1", "%", "i04 "] {
        assert!(refused(&world, &["--item-id", id]).contains("no reason about the item"), "{id}");
    }
    shown(&world, &["--item-id", "i04"]);
    json(&world, &["--item-id", "i04"]);
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let world = World::new();
    expect_code(&world.run(&[]), 0);
    // In a pipe there are none.
    let piped = shown(&world, &["--item-id", "i04"]);
    assert!(piped.contains("*used by the reason*, ?in no evidence?"), "{piped}");
    if Command::new("script").arg("--version").output().is_err() {
        return println!("skipped: script (util-linux) is not here");
    }
    let on_terminal = |no_colour: &str| {
        let command = format!("{} explain job.toml --item-id i04", env!("CARGO_BIN_EXE_curec"));
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).current_dir(world.path(""));
        let out = script.env("NO_COLOR", no_colour).env("TERM", "xterm").output().unwrap();
        expect_code(&out, 0);
        stdout(&out)
    };
    let coloured = on_terminal("");
    assert!(coloured.contains("\x1b[1mused by the reason\x1b[0m"), "{coloured:?}");
    let plain = on_terminal("1");
    assert!(!plain.contains('\x1b') && plain.contains("*used by the reason*"), "{plain:?}");
}
