//! `curec sql` on a terminal, by the Python test that has one.

use crate::common::{World, any_python, python_tests};

#[test]
fn a_person_can_type_queries() {
    let Some(python) = any_python() else { return };
    let world = World::new();
    python_tests(&python, "test_sql_shell.py", &[("CUREC_JOB", world.path("job.toml"))]);
}
