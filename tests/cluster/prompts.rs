//! Prompts that executors answer: each is paid for once, whoever is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;

use serde_json::Value;

use crate::common::{expect_code, stderr, summary};
use crate::night::{Night, generated, signal, wait_for};
use crate::processes::Processes;

/// Small files and small commits, none by the clock: an executor's changes of the store are a receipt and a segment for every
/// two answers, in turn.
const OFTEN: [&str; 3] = ["model.slots=2", "response.flush_rows=2", "response.flush_seconds=600"];

/// The same, with answers that take long enough for something to happen meanwhile.
const SLOW: [&str; 4] =
    ["model.slots=1", "response.flush_rows=2", "response.flush_seconds=600", "sampling.max_new_tokens=100"];

fn set<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    settings.iter().flat_map(|setting| ["--set", *setting]).collect()
}

/// The flags of a run on a cluster.
fn there<'a>(processes: &'a Processes, settings: &[&'a str], room: &'a mut String) -> Vec<&'a str> {
    *room = format!("query.scheduler={}", processes.scheduler);
    [&["--engine", "ballista", "--set", room.as_str()][..], &set(settings)].concat()
}

/// What one process makes of the night: commit records, which name files by their digests, and what the run told. Nothing of it
/// is left.
fn of_one_process(night: &Night, settings: &[&str]) -> (BTreeMap<String, Value>, Value) {
    let out = night.run(&set(settings)).output().unwrap();
    expect_code(&out, 0);
    let made = (night.records(), summary(&out));
    night.clear();
    made
}

/// Answers of the manifest's run that were paid for twice.
fn paid_twice(out: &Output) -> u64 {
    let manifest = std::path::Path::new(summary(out)["report"].as_str().unwrap()).with_file_name("manifest.json");
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    manifest["usage"]["paid_twice"].as_u64().unwrap_or(0)
}

/// The different prompts that have an answer, and how many answers there are.
fn answered(night: &Night) -> (usize, usize) {
    let answers = night.answers();
    (answers.iter().collect::<BTreeSet<_>>().len(), answers.len())
}

/// Segments of answers that a process has written, by the list of its changes.
fn segments(night: &Night, log: &str) -> usize {
    let changes = std::fs::read_to_string(night.world.path(log)).unwrap_or_default();
    changes.lines().filter(|line| line.contains("response/seg-") && !line.contains("_staging")).count()
}

#[test]
fn executors_answer_and_those_for_tables_alone_do_not() {
    let night = Night::on_disk();
    let (records, told) = of_one_process(&night, &OFTEN);
    let mut processes = Processes::of(&night.world, 0);
    let count = |log: &str| format!("count:{}", night.world.path(log).display());
    processes.add(&night.world, &["--tables-only"], &[("CUREC_FAIL_POINT", &count("tables"))]);
    processes.add(&night.world, &[], &[("CUREC_FAIL_POINT", &count("prompts"))]);
    let mut room = String::new();
    let out = night.run(&there(&processes, &OFTEN, &mut room)).output().unwrap();
    expect_code(&out, 0);
    assert_eq!(night.records(), records);
    for name in ["generated", "prompt_tokens", "completion_tokens", "failed_prompts"] {
        assert_eq!(summary(&out)[name], told[name], "{name}");
    }
    assert_eq!((segments(&night, "tables"), paid_twice(&out)), (0, 0));
    assert_eq!(segments(&night, "prompts"), generated(&out).div_ceil(2));
    assert_eq!(answered(&night), (generated(&out), generated(&out)));
}

/// Kills the only executor at a change of the store and starts another one: so many answers are paid for twice.
fn killed_at(point: &str, twice: u64) {
    let night = Night::on_disk();
    let (records, told) = of_one_process(&night, &OFTEN);
    let mut processes = Processes::of(&night.world, 0);
    processes.add(&night.world, &[], &[("CUREC_FAIL_POINT", point)]);
    let mut room = String::new();
    let run = night.run(&there(&processes, &OFTEN, &mut room)).spawn().unwrap();
    processes.wait(1);
    let kept = answered(&night).0;
    assert!(kept >= 2, "killed {point}");
    processes.add(&night.world, &[], &[]);
    let out = run.wait_with_output().unwrap();
    expect_code(&out, 0);
    assert_eq!(night.records(), records, "killed {point}");
    let prompts = told["generated"].as_u64().unwrap();
    assert_eq!(
        (generated(&out) as u64, paid_twice(&out)),
        (prompts + twice, twice),
        "killed {point}: {}",
        stderr(&out)
    );
    assert_eq!(answered(&night), (prompts as usize, prompts as usize), "killed {point}");
    assert_eq!(stderr(&out).contains("paid for twice"), twice > 0, "{}", stderr(&out));
}

#[test]
fn an_executor_that_is_killed_between_two_commits_costs_none_of_them() {
    killed_at("after:4", 0);
}

#[test]
fn an_executor_that_is_killed_within_a_commit_has_it_paid_twice_and_told() {
    killed_at("after:3", 2);
}

#[test]
fn what_a_killed_client_has_paid_for_is_not_paid_again() {
    let night = Night::on_disk();
    let (records, told) = of_one_process(&night, &SLOW);
    let processes = Processes::of(&night.world, 2);
    let mut room = String::new();
    let flags = there(&processes, &SLOW, &mut room);
    let mut run = night.run(&flags).spawn().unwrap();
    wait_for("something is answered", || answered(&night).0 > 0);
    run.kill().unwrap();
    run.wait().unwrap();
    let (kept, prompts) = (answered(&night).0, told["generated"].as_u64().unwrap() as usize);
    let out = night.run(&flags).output().unwrap();
    expect_code(&out, 0);
    assert!(generated(&out) <= prompts - kept, "{} of {prompts} again, {kept} were kept", generated(&out));
    assert_eq!(night.records(), records);
    let (different, all) = answered(&night);
    // An executor that did not know yet that its client is gone may have committed once more.
    assert!(different == prompts && all - different <= 4, "{all} answers to {different} of {prompts} prompts");
}

#[test]
fn a_signal_ends_the_executors_work_and_keeps_what_was_answered() {
    let night = Night::on_disk();
    let (records, told) = of_one_process(&night, &SLOW);
    let processes = Processes::of(&night.world, 2);
    let mut room = String::new();
    let flags = there(&processes, &SLOW, &mut room);
    let run = night.run(&flags).spawn().unwrap();
    wait_for("something is answered", || answered(&night).0 > 0);
    signal(&run, "-TERM");
    let out = run.wait_with_output().unwrap();
    if out.status.code() != Some(0) {
        expect_code(&out, 75);
        assert!(night.records().is_empty());
    }
    let (kept, prompts) = (answered(&night).0, told["generated"].as_u64().unwrap() as usize);
    let out = night.run(&flags).output().unwrap();
    expect_code(&out, 0);
    assert_eq!((generated(&out), answered(&night)), (prompts - kept, (prompts, prompts)));
    assert_eq!(night.records(), records);
}

#[test]
fn a_cap_and_the_failure_budget_are_held_from_the_client() {
    let night = Night::on_disk();
    let (records, told) = of_one_process(&night, &OFTEN);
    let processes = Processes::of(&night.world, 2);
    let tokens = |told: &Value| told["prompt_tokens"].as_u64().unwrap() + told["completion_tokens"].as_u64().unwrap();
    let cap = format!("budget.max_tokens={}", tokens(&told) / 3);
    let mut room = String::new();
    let out = night.run(&there(&processes, &[&OFTEN[..], &[cap.as_str()]].concat(), &mut room)).output().unwrap();
    expect_code(&out, 0);
    let first = summary(&out);
    let [paid, unpaid] = ["generated", "unpaid"].map(|name| first[name].as_u64().unwrap());
    assert!(tokens(&first) >= tokens(&told) / 3 && paid > 0 && unpaid > 0, "{first}");
    assert_eq!(paid + unpaid, told["generated"].as_u64().unwrap());
    let out = night.run(&there(&processes, &OFTEN, &mut room)).output().unwrap();
    expect_code(&out, 0);
    assert_eq!(generated(&out) as u64, unpaid);
    assert_eq!(night.records(), records);

    // Too few positions for any prompt: every one fails.
    night.clear();
    let narrow = [&OFTEN[..], &["model.max_positions=16"]].concat();
    let out = night.run(&there(&processes, &narrow, &mut room)).output().unwrap();
    expect_code(&out, 1);
    assert_eq!(summary(&out)["status"], "budget");
    assert!(night.records().is_empty());
}
