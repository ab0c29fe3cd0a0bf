//! MovieLens sets in RecBole's atomic files.
//!
//! Knows their columns and how their titles are written.

use std::path::{Path, PathBuf};

use crate::epoch::EpochUnit;
use crate::error::{Error, Kind, Result};
use crate::operate::import::frames::apart;
use crate::operate::import::rows::{interaction_frame, item_rows};
use crate::operate::import::separated::Source;
use crate::operate::import::times::Timestamps;
use crate::operate::import::titles::{movie_title, split_categories};
use crate::operate::import::writing::{ImportReport, Output};

/// Imports RecBole's atomic files (`*.inter`, `*.item`) of a MovieLens set from `dir` into `out/interaction.parquet`
/// and `out/item.parquet`, with the descriptions of a file of their own where one is given. Titles are written as people say
/// them: `Matrix, The` of 1999 becomes `The Matrix (1999)`.
///
/// # Errors
/// `Kind::Input` naming file and line for missing files and bad lines; `Kind::Temporary` where writing fails.
pub fn import(dir: &Path, descriptions: Option<&Path>, out: &Path) -> Result<ImportReport> {
    apart(|| read_and_write(dir, descriptions, out))
}

fn read_and_write(dir: &Path, descriptions: Option<&Path>, out: &Path) -> Result<ImportReport> {
    let inter = only_file(dir, "inter")?;
    let items = only_file(dir, "item")?;
    let mut names = Atomic::open(&inter)?;
    let source = Source::open(&inter, b'\t', None)?;
    let frame = interaction_frame(
        &source,
        &names.need("user_id")?,
        &names.need("item_id")?,
        names.find(&["rating"]).as_deref(),
        None,
        &names.need("timestamp")?,
        Timestamps::Counted(EpochUnit::Seconds),
    )?;
    names = Atomic::open(&items)?;
    let (title, year) = (names.find(&["movie_title", "title"]), names.find(&["release_year", "year"]));
    let columns = [
        ("item_id", Some(names.need("item_id")?)),
        ("title", title),
        ("release_year", year),
        ("categories", names.find(&["class", "genre", "genres"])),
    ];
    let source = Source::open(&items, b'\t', None)?;
    let items = item_rows(&source, &columns, |row| {
        let (title, year) = movie_title(row.title.as_deref(), row.release_year_text.as_deref());
        row.title = title;
        row.release_year = year;
        row.categories = split_categories(row.categories_text.as_deref(), ' ');
        Ok(())
    })?;
    let mut output = Output::new(out)?;
    output.interactions(frame)?;
    output.items(items, descriptions)?;
    output.publish()
}

/// The header of one of RecBole's atomic files: `name:type` by name.
struct Atomic {
    source: Source,
    header: Vec<String>,
}

impl Atomic {
    fn open(path: &Path) -> Result<Self> {
        let source = Source::open(path, b'\t', None)?;
        Ok(Atomic { header: source.header()?, source })
    }

    fn find(&self, names: &[&str]) -> Option<String> {
        let bare = |full: &String| full.split(':').next().unwrap_or_default().to_owned();
        names.iter().find_map(|name| self.header.iter().find(|full| bare(full) == *name).cloned())
    }

    fn need(&self, name: &str) -> Result<String> {
        self.find(&[name]).ok_or_else(|| self.source.missing(name, &self.header))
    }
}

fn only_file(dir: &Path, extension: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).map_err(|e| {
        Error::new(Kind::Input, "cannot read the folder")
            .with("file", dir.display())
            .source(e)
            .hint("name the folder that holds RecBole's .inter and .item files")
    })?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        n => Err(Error::new(Kind::Input, format!("{n} files end in .{extension}, one is wanted"))
            .with("file", dir.display())),
    }
}
