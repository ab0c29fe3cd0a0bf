//! The first rows of some files of a place, before anything is known of their columns: what a mapping is proposed from.
//!
//! Knows Parquet files and texts on a store, folders, and `*` in paths. Knows nothing of contracts, or of how texts hold rows.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema};
use futures::TryStreamExt;
use futures::future::FutureExt;
use object_store::ObjectStoreExt;

use crate::error::{Context, Error, Kind, Result};
use crate::table::listing::{Lake, list_parquet};
use crate::table::parquet_file::{damaged, open_parquet, torn};
use crate::table::source::hive_values;
use crate::table::store::{Entry, Location, StoreOptions};
use crate::table::store_error::fail;

/// Rows are taken from so many places of the files at most: files, and row groups where there are fewer files.
const PARTS: usize = 8;
/// So many rows of each place at most.
const ROWS: usize = 500;
/// So many bytes of a text file at most.
const TEXT_BYTES: u64 = 512 << 10;

/// Ends of names of text files that hold rows.
const TEXTS: [&str; 9] = ["csv", "tsv", "psv", "txt", "inter", "item", "json", "jsonl", "ndjson"];

/// Some rows of an input.
#[derive(Debug)]
pub struct Preview {
    /// What a job can name: a file or a folder. `None` where only some files of a folder were asked for.
    pub place: Option<String>,
    /// The files that were asked for: a path or URL, perhaps with `*`; local ones are absolute.
    pub asked: String,
    /// How many files there are.
    pub files: usize,
    /// Whether these are all rows of all files.
    pub is_whole: bool,
    /// The rows.
    pub rows: PreviewRows,
}

/// Rows as the files hold them.
#[derive(Debug)]
pub enum PreviewRows {
    /// Of Parquet files: all of their columns, and those of their paths as texts, which are named.
    Parquet {
        /// The rows.
        batch: RecordBatch,
        /// The columns that stand in the paths.
        in_path: Vec<String>,
    },
    /// The beginnings of text files, whole lines.
    Texts(Vec<String>),
}

/// Looks at a file, a folder or files that a pattern such as `logs/*.csv` names, here or on S3. At most 4,000 rows are read of
/// Parquet files, and the first 512 KiB of eight text files.
///
/// # Errors
/// `Kind::Input` where nothing is there, or nothing that can be read, naming it; `Kind::Config` for a place that cannot be
/// opened; the store's own errors.
pub async fn preview(text: &str, options: &StoreOptions) -> Result<Preview> {
    let found = find(text, options).await.map_err(|e| match e.kind() {
        // Nobody waits for a file here.
        Kind::NotArrived => e.of_kind(Kind::Input),
        _ => e,
    })?;
    let Found { root, entries, place, asked } = found;
    let Some(first) = entries.first() else {
        return Err(Error::new(Kind::Input, "no file is there")
            .with("file", asked)
            .hint("check the path or the pattern"));
    };
    let files = entries.len();
    if is_parquet(first).await? {
        let (batch, in_path, is_whole) = parquet_rows(&entries, &root).await?;
        return Ok(Preview { place, asked, files, is_whole, rows: PreviewRows::Parquet { batch, in_path } });
    }
    let chosen = spread(files, PARTS);
    let (mut texts, mut is_whole) = (Vec::new(), chosen.len() == files);
    for entry in chosen.into_iter().filter_map(|place| entries.get(place)) {
        let (text, is_cut) = text_of(entry).await?;
        is_whole &= !is_cut;
        texts.push(text);
    }
    Ok(Preview { place, asked, files, is_whole, rows: PreviewRows::Texts(texts) })
}

/// The files of an input.
struct Found {
    /// The folder, or the file itself.
    root: Location,
    entries: Vec<Entry>,
    place: Option<String>,
    asked: String,
}

async fn find(text: &str, options: &StoreOptions) -> Result<Found> {
    let asked = absolute(text)?;
    let pattern = split_pattern(&asked).filter(|_| asked.contains("://") || !Path::new(&asked).exists());
    let Some((folder, pattern)) = pattern else {
        let root = Location::parse_with(&asked, options)?;
        let entries = entries_of(&root).await?;
        // Of a folder of text files the files are named, for who converts them.
        let is_folder = entries.first().is_some_and(|e| e.location.path() != root.path());
        let ending = entries.first().map(|e| ending(e.location.name())).filter(|e| TEXTS.contains(&e.as_str()));
        let asked = match ending.filter(|_| is_folder) {
            Some(ending) => format!("{}/**/*.{ending}", asked.trim_end_matches('/')),
            None => asked,
        };
        return Ok(Found { place: Some(absolute(text)?), root, entries, asked });
    };
    let root = Location::parse_with(folder, options)?;
    let wanted: Vec<&str> = pattern.split('/').collect();
    let mut entries = visible(&root).await?;
    entries.retain(|e| {
        let relative = e.location.relative_to(&root).unwrap_or_default();
        matches(&wanted, &relative.split('/').collect::<Vec<_>>())
    });
    // Where the pattern names all that a job would read of the folder, the job can name the folder.
    let all = list_parquet(&root).await.map(|listing| listing.files).unwrap_or_default();
    let of =
        |entries: &[Entry]| -> BTreeSet<String> { entries.iter().map(|e| e.location.path().to_string()).collect() };
    let place = (!all.is_empty() && of(&all) == of(&entries)).then(|| folder.to_owned());
    Ok(Found { root, entries, place, asked })
}

/// A path that does not depend on the current folder; URLs are as they are.
fn absolute(text: &str) -> Result<String> {
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    let path = std::path::absolute(text).context(Kind::Usage, || format!("cannot resolve the path `{text}`"))?;
    Ok(path.display().to_string())
}

/// The folder before the first part of a path that holds a `*`, and the rest.
fn split_pattern(text: &str) -> Option<(&str, &str)> {
    let star = text.find('*')?;
    let cut = text[..star].rfind('/').map_or(0, |slash| slash + 1);
    Some((&text[..cut], &text[cut..]))
}

/// Whether the parts of a path are those of a pattern; `**` stands for any number of them.
fn matches(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if *first == "**" => {
            matches(rest, path) || path.split_first().is_some_and(|(_, tail)| matches(pattern, tail))
        }
        (Some((first, rest)), Some((name, tail))) => fits(first, name) && matches(rest, tail),
        _ => false,
    }
}

/// Whether a name is one of a pattern's, in which `*` stands for any characters.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts: Vec<&str> = pattern.split('*').collect();
    let Some(last) = parts.pop() else { return false };
    let Some((first, between)) = parts.split_first() else { return name == last };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn ending(name: &str) -> String {
    name.rsplit_once('.').map(|(_, ending)| ending.to_lowercase()).unwrap_or_default()
}

/// All files below a place that are not hidden and hold anything.
async fn visible(root: &Location) -> Result<Vec<Entry>> {
    let mut entries = root.list().await?;
    entries.retain(|e| {
        let relative = e.location.relative_to(root).unwrap_or_default();
        e.size > 0 && !relative.split('/').any(|part| part.starts_with('_') || part.starts_with('.'))
    });
    Ok(entries)
}

/// The Parquet files of a place, as a job reads them; where there are none, its text files of one kind.
async fn entries_of(root: &Location) -> Result<Vec<Entry>> {
    let refused = match list_parquet(root).await {
        Ok(listing) => return Ok(listing.files),
        Err(e) if matches!(e.kind(), Kind::Input | Kind::NotArrived) => e,
        Err(e) => return Err(e),
    };
    let all = root.list().await?;
    let is_lake = |e: &Entry| Lake::of(&e.location.relative_to(root).unwrap_or_default()).is_some();
    let mut entries = visible(root).await?;
    entries.retain(|e| TEXTS.contains(&ending(e.location.name()).as_str()));
    let Some(kind) = entries.first().map(|e| ending(e.location.name())).filter(|_| !all.iter().any(is_lake)) else {
        return Err(refused);
    };
    entries.retain(|e| ending(e.location.name()) == kind);
    Ok(entries)
}

async fn is_parquet(entry: &Entry) -> Result<bool> {
    let at = &entry.location;
    if entry.size == 0 {
        return Err(Error::new(Kind::Input, "the file is empty").with("file", at));
    }
    let start = at.store().get_range(at.path(), 0..entry.size.min(4)).await.map_err(|e| fail(&e, "read", at))?;
    Ok(&start[..] == b"PAR1")
}

/// At most `most` of `n` places, the first and the last among them.
fn spread(n: usize, most: usize) -> Vec<usize> {
    if n <= most {
        return (0..n).collect();
    }
    (0..most).map(|i| i * (n - 1) / (most - 1).max(1)).collect()
}

/// The beginning of a text file, and whether there is more of it.
async fn text_of(entry: &Entry) -> Result<(String, bool)> {
    let at = &entry.location;
    let end = entry.size.min(TEXT_BYTES);
    let bytes = match end {
        0 => bytes::Bytes::new(),
        _ => at.store().get_range(at.path(), 0..end).await.map_err(|e| fail(&e, "read", at))?,
    };
    let refused = |what: &str, hint: &str| Error::new(Kind::Input, what).with("file", at).hint(hint);
    match &bytes[..] {
        [0x1f, 0x8b, ..] => return Err(refused("the file is compressed", "unpack it first, with gunzip")),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err(refused("the file is UTF-16", "save it as UTF-8")),
        _ => {}
    }
    let is_cut = end < entry.size;
    let whole = match is_cut {
        true => bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1),
        false => bytes.len(),
    };
    let text = std::str::from_utf8(&bytes[..whole]).map_err(|_| {
        refused(
            "the file is neither Parquet nor text in UTF-8",
            "name Parquet, CSV or JSON lines; convert others, for example: iconv -f LATIN1 -t UTF-8",
        )
    })?;
    Ok((text.trim_start_matches('\u{feff}').to_owned(), is_cut))
}

/// A column that is put together from pieces of several files.
struct Pieces {
    name: String,
    kind: DataType,
    arrays: Vec<ArrayRef>,
}

/// Columns of several files, row by row; a file that lacks a column, or has it in another type, has nulls.
#[derive(Default)]
struct Union {
    columns: Vec<Pieces>,
    rows: usize,
}

impl Union {
    fn add(&mut self, columns: &[(String, ArrayRef)], rows: usize) {
        for (name, array) in columns {
            if !self.columns.iter().any(|c| c.name == *name) {
                let kind = array.data_type().clone();
                let arrays = vec![new_null_array(&kind, self.rows)];
                self.columns.push(Pieces { name: name.clone(), kind, arrays });
            }
        }
        for column in &mut self.columns {
            let found = columns.iter().find(|(name, array)| *name == column.name && *array.data_type() == column.kind);
            column
                .arrays
                .push(found.map_or_else(|| new_null_array(&column.kind, rows), |(_, array)| Arc::clone(array)));
        }
        self.rows += rows;
    }

    fn batch(self) -> Result<RecordBatch> {
        let broken = || "sampled rows do not go together".to_owned();
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        for Pieces { name, kind, arrays: pieces } in self.columns {
            let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
            arrays.push(concat(&pieces).context(Kind::Internal, broken)?);
            fields.push(Field::new(name, kind, true));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
            .context(Kind::Internal, broken)
    }
}

/// The first rows of some row groups of some files, the names of columns in their paths, and whether these are all rows.
async fn parquet_rows(entries: &[Entry], root: &Location) -> Result<(RecordBatch, Vec<String>, bool)> {
    let chosen = spread(entries.len(), PARTS);
    let groups_each = (PARTS / chosen.len().max(1)).max(1);
    let mut is_whole = chosen.len() == entries.len();
    let (mut union, mut in_path) = (Union::default(), Vec::new());
    for entry in chosen.into_iter().filter_map(|place| entries.get(place)) {
        let builder = open_parquet(&entry.location, entry.size).await?;
        let groups = builder.metadata().num_row_groups();
        // A file without rows has columns all the same.
        let empty = RecordBatch::new_empty(Arc::clone(builder.schema()));
        let path = hive_values(&entry.location, root);
        let mut batches = vec![empty];
        let some = spread(groups, groups_each);
        is_whole &= some.len() == groups;
        for group in some {
            let rows = builder.metadata().row_group(group).num_rows();
            is_whole &= usize::try_from(rows).is_ok_and(|rows| rows <= ROWS);
            let builder = open_parquet(&entry.location, entry.size).await?;
            let builder = builder.with_row_groups(vec![group]).with_limit(ROWS).with_batch_size(ROWS);
            let stream = std::panic::catch_unwind(AssertUnwindSafe(|| builder.build()));
            let mut stream = stream.unwrap_or_else(|_| Err(torn())).map_err(|e| damaged(&e, &entry.location))?;
            loop {
                let next = AssertUnwindSafe(stream.try_next()).catch_unwind().await.unwrap_or_else(|_| Err(torn()));
                match next.map_err(|e| damaged(&e, &entry.location))? {
                    Some(batch) => batches.push(batch),
                    None => break,
                }
            }
        }
        for batch in batches {
            let schema = batch.schema();
            let fields = schema.fields().iter().map(|f| f.name().clone());
            let mut columns: Vec<(String, ArrayRef)> = fields.zip(batch.columns().iter().cloned()).collect();
            for (name, value) in &path {
                if columns.iter().any(|(known, _)| known == name) {
                    continue;
                }
                let texts = StringArray::from(vec![value.as_deref(); batch.num_rows()]);
                columns.push((name.clone(), Arc::new(texts)));
                if !in_path.contains(name) {
                    in_path.push(name.clone());
                }
            }
            union.add(&columns, batch.num_rows());
        }
    }
    Ok((union.batch()?, in_path, is_whole))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patterns_name_files_by_the_parts_of_their_paths() {
        let named = |pattern: &str, path: &str| {
            matches(&pattern.split('/').collect::<Vec<_>>(), &path.split('/').collect::<Vec<_>>())
        };
        assert_eq!(split_pattern("/a/b*/c.csv"), Some(("/a/", "b*/c.csv")));
        assert_eq!((split_pattern("s3://b/*.csv"), split_pattern("/a/b")), (Some(("s3://b/", "*.csv")), None));
        for (pattern, path) in [
            ("*.csv", "a.csv"),
            ("a*c*.csv", "abcd.csv"),
            ("dt=*/*.parquet", "dt=1/x.parquet"),
            ("**/*.csv", "a.csv"),
            ("**/*.csv", "a/b/c.csv"),
        ] {
            assert!(named(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [("*.csv", "a.csv.gz"), ("*.csv", "a/b.csv"), ("a*a", "a"), ("b*.csv", "a.csv")] {
            assert!(!named(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn places_are_spread_from_the_first_to_the_last() {
        assert_eq!(spread(3, 8), [0, 1, 2]);
        assert_eq!(spread(10, 4), [0, 3, 6, 9]);
        assert_eq!(spread(5, 1), [0]);
        assert!(spread(0, 8).is_empty());
    }

    #[tokio::test]
    async fn texts_of_a_folder_are_of_one_kind() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str| folder.path().join(name);
        std::fs::write(of("a.csv"), "x,y\n1,2\n").unwrap();
        std::fs::write(of("b.csv"), "x,y\n3,4\n").unwrap();
        std::fs::write(of("notes.md"), "no rows").unwrap();
        let at = folder.path().display().to_string();
        let found = preview(&at, &StoreOptions::default()).await.unwrap();
        assert_eq!((found.files, found.is_whole), (2, true));
        assert!(found.asked.ends_with("/**/*.csv"), "{}", found.asked);
        let PreviewRows::Texts(texts) = found.rows else { unreachable!() };
        assert_eq!(texts, ["x,y\n1,2\n", "x,y\n3,4\n"]);
        let one = preview(&format!("{at}/b*.csv"), &StoreOptions::default()).await.unwrap();
        assert_eq!((one.files, one.place), (1, None));
        std::fs::write(of("packed.csv"), [0x1f, 0x8b, 8, 0]).unwrap();
        let packed = preview(&of("packed.csv").display().to_string(), &StoreOptions::default()).await.unwrap_err();
        assert!(packed.message().contains("compressed"), "{packed}");
        let none = preview(&of("none.csv").display().to_string(), &StoreOptions::default()).await.unwrap_err();
        assert_eq!(none.kind(), Kind::Input);
    }
}
