//! The examples of `examples/` as their READMEs have them: `tests/python/test_examples.py` runs the commands with this binary and
//! the tiny models.

use std::process::Command;

use crate::common::{project, stderr, stdout};

#[test]
fn the_examples_do_what_their_readmes_say() {
    let Some(python) = std::env::var_os("CUREC_PYTHON") else {
        println!("skipped: no Python with DuckDB (CUREC_PYTHON; ci/test.sh makes one)");
        return;
    };
    let out = Command::new(python)
        .args(["-m", "unittest", "-v", "tests/python/test_examples.py"])
        .current_dir(project())
        .env("CUREC_BIN", env!("CARGO_BIN_EXE_curec"))
        .env_remove("CUREC_EXAMPLES_HOME")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let told = stderr(&out);
    assert!(out.status.success(), "{}{told}", stdout(&out));
    assert!(!told.contains("CUREC_BIN is not set"), "{told}");
    // What was left out, for want of PyTorch or Feast, is told in the test's output.
    told.lines().filter(|line| line.contains("skipped")).for_each(|line| println!("{line}"));
}
