//! Lists the contracts in `schemas/`, the table definitions in `sql/` and the saved queries in `sql/queries/`, so that adding a
//! file adds it to the binary.
//!
//! Knows three folders; knows nothing of what the files mean.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "cargo talks to it by variables and lines")]

use std::fmt::Write;
use std::path::Path;
use std::{env, error, fs};

fn main() -> Result<(), Box<dyn error::Error>> {
    let root = env::var("CARGO_MANIFEST_DIR")?;
    let mut code = String::new();
    let lists = [("CONTRACTS", "schemas", "toml"), ("DEFINITIONS", "sql", "sql"), ("QUERIES", "sql/queries", "sql")];
    for (constant, folder, extension) in lists {
        let folder = Path::new(&root).join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if let (Some(name), true) = (path.file_stem(), path.extension().is_some_and(|e| e == extension)) {
                files.push((name.to_string_lossy().into_owned(), path.display().to_string()));
            }
        }
        files.sort();
        writeln!(code, "pub(crate) const {constant}: &[(&str, &str)] = &[")?;
        for (name, path) in &files {
            writeln!(code, "    ({name:?}, include_str!({path:?})),")?;
        }
        writeln!(code, "];")?;
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("tables.rs"), code)?;
    Ok(())
}
