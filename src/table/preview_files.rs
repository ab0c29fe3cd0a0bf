//! Which files of a place a preview looks at.
//!
//! Knows folders, endings of names, and `*` in paths. Reads no file.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Kind, Result};
use crate::paths;
use crate::table::listing::{Lake, list_parquet};
use crate::table::store::{Entry, Location, StoreOptions};

/// Ends of names of text files that hold rows.
const TEXTS: [&str; 9] = ["csv", "tsv", "psv", "txt", "inter", "item", "json", "jsonl", "ndjson"];

/// What follows such an end where gzip has packed the file.
const PACKED: &str = ".gz";

/// The files of an input.
pub(super) struct Found {
    /// The folder, or the file itself.
    pub(super) root: Location,
    /// The files.
    pub(super) entries: Vec<Entry>,
    /// What a job can name: a file or a folder. `None` where only some files of a folder were asked for.
    pub(super) place: Option<String>,
    /// The files that were asked for: a path or URL, perhaps with `*`; local ones are absolute.
    pub(super) asked: String,
    /// What lies beside and is not read, one sentence each.
    pub(super) notes: Vec<String>,
}

/// The files of a place: a file, a folder, or those that a pattern names.
///
/// # Errors
/// Where the place cannot be opened or listed, or holds nothing that can be read.
pub(super) async fn find(text: &str, options: &StoreOptions) -> Result<Found> {
    // URLs are as they are.
    let asked = if text.contains("://") { text.to_owned() } else { paths::absolute(Path::new(text))? };
    let pattern = split_pattern(&asked).filter(|_| asked.contains("://") || !Path::new(&asked).exists());
    let Some((folder, pattern)) = pattern else {
        let root = Location::parse_with(&asked, options)?;
        let (entries, notes) = entries_of(&root).await?;
        // Of a folder of text files the files are named, for who converts them.
        let is_folder = entries.first().is_some_and(|e| e.location.path() != root.path());
        let ending = entries.first().map(|e| ending(e.location.name())).filter(|e| is_text(e));
        let place = Some(asked.clone());
        let asked = match ending.filter(|_| is_folder) {
            Some(ending) => format!("{}/**/*.{ending}", asked.trim_end_matches('/')),
            None => asked,
        };
        return Ok(Found { place, root, entries, asked, notes });
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
    Ok(Found { root, entries, place, asked, notes: Vec::new() })
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

/// The end of a name behind its last point, in small letters; of a packed file `csv.gz`.
fn ending(name: &str) -> String {
    let name = name.to_lowercase();
    let (plain, packed) = match name.strip_suffix(PACKED) {
        Some(plain) => (plain, PACKED),
        None => (name.as_str(), ""),
    };
    plain.rsplit_once('.').map(|(_, ending)| format!("{ending}{packed}")).unwrap_or_default()
}

/// Whether files with such an ending hold rows as text.
fn is_text(ending: &str) -> bool {
    TEXTS.contains(&ending.strip_suffix(PACKED).unwrap_or(ending))
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

/// The Parquet files of a place, as a job reads them; where there are none, its text files of one kind. And what lies beside.
async fn entries_of(root: &Location) -> Result<(Vec<Entry>, Vec<String>)> {
    let refused = match list_parquet(root).await {
        Ok(listing) => return Ok((listing.files, listing.warnings)),
        Err(e) if matches!(e.kind(), Kind::Input | Kind::NotArrived) => e,
        Err(e) => return Err(e),
    };
    let all = root.list().await?;
    let is_lake = |e: &Entry| Lake::of(&e.location.relative_to(root).unwrap_or_default()).is_some();
    let mut entries = visible(root).await?;
    entries.retain(|e| is_text(&ending(e.location.name())));
    entries.sort_by(|a, b| a.location.path().cmp(b.location.path()));
    let Some(kind) = entries.first().map(|e| ending(e.location.name())).filter(|_| !all.iter().any(is_lake)) else {
        return Err(refused);
    };
    let texts = entries.len();
    entries.retain(|e| ending(e.location.name()) == kind);
    let others = texts - entries.len();
    let note = (others > 0).then(|| format!("{others} file(s) beside the .{kind} files are not read"));
    Ok((entries, note.into_iter().collect()))
}

#[cfg(test)]
mod tests {
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
}
