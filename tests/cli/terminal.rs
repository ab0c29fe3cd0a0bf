//! Runs and mistakes on a terminal, by the Python test that has one.

use crate::common::{World, any_python, python_tests};

#[test]
fn a_person_sees_tables_and_places_and_no_json() {
    let Some(python) = any_python() else { return };
    let world = World::new();
    python_tests(&python, "test_terminal.py", &[("CUREC_JOB", world.path("job.toml"))]);
}
