//! What packages are made of: manual pages, completions, and a wheel that carries the binary.

use std::fs;
use std::process::Command;

use crate::common::{self, World, expect_code, stderr, stdout};

#[test]
fn each_command_has_a_manual_page() {
    let world = World::new();
    let out = world.curec(&["man", "--out", "share/man1"]);
    expect_code(&out, 0);
    let written = stdout(&out);
    for name in ["curec", "curec-run", "curec-man", "curec-learn-align", "curec-models-promote"] {
        assert!(written.lines().any(|line| line == format!("share/man1/{name}.1")), "{name}: {written}");
    }
    assert!(!written.contains("help"), "{written}");
    let page = |name: &str| fs::read_to_string(world.path(&format!("share/man1/{name}.1"))).unwrap();
    let (all, run) = (page("curec"), page("curec-run"));
    assert!(all.contains(".SH \"EXIT STATUS\"\n0 published") && all.contains("curec\\-run(1)"), "{all}");
    assert!(all.contains(&format!(".TH curec 1 \"\" \"curec {}\" curec\n", env!("CARGO_PKG_VERSION"))), "{all}");
    assert!(run.contains(".SH EXAMPLES\n.nf\ncurec run jobs/nightly.toml \\-\\-interval\\-start"), "{run}");
    assert!(run.contains("\\fB\\-\\-lookback\\fR"), "{run}");

    // Written again they are the same bytes.
    expect_code(&world.curec(&["man", "--out", "share/man1"]), 0);
    assert_eq!(page("curec-run"), run);

    // groff reads each without a complaint.
    if !Command::new("groff").arg("--version").output().is_ok_and(|out| out.status.success()) {
        println!("skipped: groff was not found, so no page was laid out");
        return;
    }
    for path in written.lines() {
        let out = Command::new("groff").args(["-man", "-Wbreak", "-Tutf8"]).arg(world.path(path)).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{path}: {}", stderr(&out));
        let struck_once = struck_once(&stdout(&out));
        assert!(struck_once.contains("SYNOPSIS"), "{path}: {struck_once}");
    }
}

/// Bold letters are struck twice where groff is set up so, as on Debian: `S`, backspace, `S`.
fn struck_once(text: &str) -> String {
    text.split('\u{8}').map(|part| part.strip_suffix(|_: char| true).unwrap_or(part)).collect::<String>()
        + text.chars().last().map(String::from).unwrap_or_default().as_str()
}

#[test]
fn pages_go_to_a_folder_alone() {
    let world = World::new();
    fs::write(world.path("taken"), "").unwrap();
    let out = world.curec(&["man", "--out", "taken"]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("cannot make the folder") && stderr(&out).contains("taken"), "{}", stderr(&out));
    expect_code(&world.curec(&["man"]), 2);
}

#[test]
fn shells_get_their_completions() {
    let world = World::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let out = world.curec(&["completions", shell]);
        expect_code(&out, 0);
        assert!(stdout(&out).contains("interval-start"), "{shell}: {}", stdout(&out));
        if shell == "bash" {
            fs::write(world.path("curec.bash"), stdout(&out)).unwrap();
            let out = Command::new("bash").arg("-n").arg(world.path("curec.bash")).output().unwrap();
            assert!(out.status.success(), "{}", stderr(&out));
        }
    }
}

#[test]
fn a_wheel_carries_the_binary() {
    let python = std::env::var_os("CUREC_PYTHON").unwrap_or_else(|| "python3".into());
    if !Command::new(&python).args(["-m", "pip", "--version"]).output().is_ok_and(|out| out.status.success()) {
        println!("skipped: no Python with pip (CUREC_PYTHON)");
        return;
    }
    let out = Command::new(python)
        .args(["-m", "unittest", "-v", "-k", "a_binary_becomes", "tests/python/test_packages.py"])
        .current_dir(common::project())
        .env("CUREC_BIN", env!("CARGO_BIN_EXE_curec"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(out.status.success() && stderr(&out).contains("Ran 1 test"), "{}{}", stdout(&out), stderr(&out));
}
