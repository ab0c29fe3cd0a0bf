//! The commands in README and in the documents, typed by the Python test that takes them out of the pages.

use crate::common::{World, any_python, python_tests};

#[test]
fn the_commands_of_the_documents_are_the_command_lines_and_the_guides_run() {
    let Some(python) = any_python() else { return };
    let world = World::new();
    python_tests(&python, "test_commands.py", &[("CUREC_WORLD", world.path(""))]);
}
