//! Runs and mistakes on a terminal, by the Python test that has one.

use std::process::Command;

use crate::common::{self, World, stderr, stdout};

#[test]
fn a_person_sees_tables_and_places_and_no_json() {
    let python = std::env::var_os("CUREC_PYTHON").unwrap_or_else(|| "python3".into());
    if !Command::new(&python).arg("--version").output().is_ok_and(|out| out.status.success()) {
        println!("skipped: no Python (CUREC_PYTHON)");
        return;
    }
    let world = World::new();
    let out = Command::new(python)
        .args(["-m", "unittest", "-v", "tests/python/test_terminal.py"])
        .current_dir(common::project())
        .env("CUREC_BIN", env!("CARGO_BIN_EXE_curec"))
        .env("CUREC_JOB", world.path("job.toml"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", stdout(&out), stderr(&out));
    assert!(!stderr(&out).contains("skipped"), "{}", stderr(&out));
}
