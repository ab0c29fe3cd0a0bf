//! The commands in README and in the documents, typed by the Python test that takes them out of the pages.

use std::process::Command;

use crate::common::{self, World, stderr, stdout};

#[test]
fn the_commands_of_the_documents_are_the_command_lines_and_the_guides_run() {
    let python = std::env::var_os("CUREC_PYTHON").unwrap_or_else(|| "python3".into());
    if !Command::new(&python).arg("--version").output().is_ok_and(|out| out.status.success()) {
        println!("skipped: no Python (CUREC_PYTHON)");
        return;
    }
    let world = World::new();
    let out = Command::new(python)
        .args(["-m", "unittest", "-v", "tests/python/test_commands.py"])
        .current_dir(common::project())
        .env("CUREC_BIN", env!("CARGO_BIN_EXE_curec"))
        .env("CUREC_WORLD", world.path(""))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", stdout(&out), stderr(&out));
    assert!(!stderr(&out).contains("skipped"), "{}", stderr(&out));
}
