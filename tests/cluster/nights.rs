//! Nights whose tables are made on a cluster: the same bytes as in one process, and nothing left behind.

use std::collections::BTreeMap;

use crate::common::{expect_code, stderr};
use crate::night::{Night, generated, wait_for};
use crate::processes::Processes;

/// Settings by which inputs are filtered: functions that hold what a job says travel with the plans.
const FILTERED: [&str; 3] = ["input.max_bad_fraction=0.5", "events.meaning.rating=none", "events.other=drop"];

/// Published data files by their bytes.
fn data_files(night: &Night) -> BTreeMap<String, String> {
    let mut files = night.published_bytes();
    files.retain(|name, _| name.ends_with(".parquet"));
    files
}

fn flags<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    settings.iter().flat_map(|setting| ["--set", *setting]).collect()
}

/// Runs the night anew on a cluster and holds it against what one process has published.
fn same_as_local(night: &Night, scheduler: &str, settings: &[&str], what: &str) {
    let (records, bytes) = (night.records(), data_files(night));
    night.clear();
    let scheduler = format!("query.scheduler={scheduler}");
    let more =
        [&["--engine", "ballista", "--set", &scheduler, "--set", "query.partitions=5"][..], &flags(settings)].concat();
    let out = night.run(&more).output().unwrap();
    expect_code(&out, 0);
    assert!(!stderr(&out).contains("cannot be sent"), "{what}: not every query went there\n{}", stderr(&out));
    assert!(generated(&out) > 0, "{what}");
    assert_eq!(night.records(), records, "{what}");
    assert_eq!(data_files(night), bytes, "{what}");
    let left = night.leftovers();
    let is_clean = night.is_bucket() || !night.warehouse().join("_staging").exists();
    assert!(left.is_empty() && is_clean, "{what} left {left:?}");
}

#[test]
fn one_two_and_three_executors_make_the_same_bytes_as_one_process() {
    let night = Night::on_disk();
    for (settings, most) in [(&[][..], 3), (&FILTERED[..], 1)] {
        night.clear();
        expect_code(&night.run(&flags(settings)).output().unwrap(), 0);
        for executors in 1..=most {
            let processes = Processes::of(&night.world, executors);
            same_as_local(&night, &processes.scheduler, settings, &format!("{executors} executors, {settings:?}"));
        }
    }
    same_as_local(&night, "standalone", &FILTERED, "a cluster in the run's own process");
}

#[test]
fn an_executor_that_is_killed_costs_time_and_no_row() {
    let night = Night::on_disk();
    expect_code(&night.run(&[]).output().unwrap(), 0);
    let (records, bytes) = (night.records(), data_files(&night));
    night.clear();
    let mut processes = Processes::of(&night.world, 2);
    let scheduler = format!("query.scheduler={}", processes.scheduler);
    let more = ["--engine", "ballista", "--set", &scheduler];
    let run = night.run(&more).spawn().unwrap();
    wait_for("the night has begun to make tables", || night.files().iter().any(|file| file.starts_with("_staging/")));
    processes.kill(1);
    let out = run.wait_with_output().unwrap();
    if !out.status.success() {
        // It had the rows that the run was about to read: another try finds only the other one.
        expect_code(&out, 75);
        expect_code(&night.run(&more).output().unwrap(), 0);
    }
    assert_eq!(night.records(), records);
    assert_eq!(data_files(&night), bytes);
}

#[test]
fn a_bucket_is_read_and_written_by_all_processes() {
    let night = Night::in_bucket();
    expect_code(&night.run(&[]).output().unwrap(), 0);
    // The executor in the run's own process has its variables.
    same_as_local(&night, "standalone", &[], "a bucket");
}

#[test]
fn a_cluster_that_is_not_there_is_temporary_and_publishes_nothing() {
    let night = Night::on_disk();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let scheduler = format!("query.scheduler=df://127.0.0.1:{port}");
    let out = night.run(&["--engine", "ballista", "--set", &scheduler]).output().unwrap();
    expect_code(&out, 75);
    assert!(stderr(&out).contains(&format!("127.0.0.1:{port}")), "{}", stderr(&out));
    assert!(night.world.published().is_empty());
    // The same without the cluster, which has left nothing in the way.
    expect_code(&night.run(&[]).output().unwrap(), 0);
    for bad in ["host:50050", "http://host:50050", "df://host"] {
        let out = night.run(&["--engine", "ballista", "--set", &format!("query.scheduler={bad}")]).output().unwrap();
        expect_code(&out, 2);
        assert!(stderr(&out).contains("query.scheduler: must be df://host:port or standalone"), "{}", stderr(&out));
    }
}

#[test]
fn processes_stop_when_they_are_told_to_and_leave_nothing() {
    let night = Night::on_disk();
    let mut processes = Processes::of(&night.world, 2);
    let scheduler = format!("query.scheduler={}", processes.scheduler);
    expect_code(&night.run(&["--engine", "ballista", "--set", &scheduler]).output().unwrap(), 0);
    for number in [1, 2, 0] {
        assert_eq!(processes.stop(number), Some(0), "process {number}");
    }
    let left: Vec<_> = std::fs::read_dir(night.world.path("tmp")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}
