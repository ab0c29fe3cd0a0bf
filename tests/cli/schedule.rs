//! The cron line with the real binary: what `jobs/nightly.cron` runs is a command line that curec understands.
//!
//! Dates, lock, log and retries are checked with a stub in `tests/python/test_schedule.py`; a stub takes any flag.

use std::path::Path;
use std::process::Command;

#[test]
fn the_cron_line_is_a_command_line_that_curec_understands() {
    if !cfg!(target_os = "linux") || Command::new("flock").arg("--version").output().is_err() {
        println!("skipped: the cron line needs flock and GNU date");
        return;
    }
    let crontab = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs/nightly.cron")).unwrap();
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
        .env("NIGHTLY_DIR", folder.path())
        .env("NIGHTLY_LOG", &log)
        .env("NIGHTLY_LOCK", folder.path().join("lock"))
        .env("NIGHTLY_DONE", folder.path().join("done"))
        .status()
        .unwrap();
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("jobs/nightly.toml") && log.contains("exit code 2"), "{log}");
    assert!(!log.contains("Usage:"), "curec does not know a flag of the cron line: {log}");
    assert!(folder.path().join("done").exists(), "a wrong configuration ends the night");
}
