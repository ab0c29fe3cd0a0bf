//! The cron lines with the real binary: what `jobs/nightly.cron` and `jobs/weekly.cron` run are command lines that curec
//! understands.
//!
//! Dates, lock, log and retries are checked with a stub in `tests/python/test_schedule.py`; a stub takes any flag.

use std::path::Path;
use std::process::Command;

#[test]
fn the_cron_lines_are_command_lines_that_curec_understands() {
    understands("nightly");
    understands("weekly");
}

fn understands(job: &str) {
    if !cfg!(target_os = "linux") || Command::new("flock").arg("--version").output().is_err() {
        println!("skipped: the cron line needs flock and GNU date");
        return;
    }
    let crontab = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("jobs/{job}.cron"));
    let crontab = std::fs::read_to_string(crontab).unwrap();
    let variable = |name: &str| format!("{}_{name}", job.to_uppercase());
    let line = crontab.lines().find(|l| l.starts_with(|c: char| c.is_ascii_digit())).expect("a schedule");
    // Five fields, then the command, in which cron turns \% into %.
    let command = line.splitn(6, ' ').last().unwrap().replace("\\%", "%");

    // A folder without the job file: the flags must be understood, and the missing file is what is complained about.
    let folder = tempfile::tempdir().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_curec"));
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", binary.parent().unwrap().display());
    let log = folder.path().join("log");
    let status = Command::new("/bin/sh")
        .args(["-c", &command])
        .env("PATH", path)
        .env(variable("DIR"), folder.path())
        .env(variable("LOG"), &log)
        .env(variable("LOCK"), folder.path().join("lock"))
        .env(variable("DONE"), folder.path().join("done"))
        .status()
        .unwrap();
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains(&format!("jobs/{job}.toml")) && log.contains("exit code 2"), "{log}");
    assert!(!log.contains("Usage:"), "curec does not know a flag of the cron line: {log}");
    assert!(folder.path().join("done").exists(), "a wrong configuration ends the rounds");
}
