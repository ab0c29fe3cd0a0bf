//! Parse, run, turn the error into the exit code; nothing else.

fn main() {}
