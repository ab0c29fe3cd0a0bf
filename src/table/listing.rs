//! What lies below an input's location: its Parquet files, and what must not be passed over in silence beside them.
//!
//! A store's listing of a local folder leaves out links that lead nowhere, devices and pipes; here each of them is an
//! error that names it. Of a Delta table those files are listed that its log counts; other table formats whose log says
//! which files count are refused: reading all of their files brings deleted rows back. Knows names, links, folders and
//! Delta logs. Knows nothing of what is in the files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use object_store::path::Path as ObjectPath;

use crate::error::{Context, Error, Kind, Result};
use crate::paths;
use crate::table::delta_log::{FOLDER, Log};
use crate::table::parquet_file::conversion;
use crate::table::source::{PathColumn, hive_values};
use crate::table::store::{Entry, Location};
use crate::table::store_error::missing;

/// The Parquet files of an input, and what is worth knowing about the rest.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// In the order of their paths.
    pub files: Vec<Entry>,
    /// The values of the partition columns of a Delta table, by its files' paths; of other inputs the paths tell them.
    pub partitions: BTreeMap<ObjectPath, Vec<PathColumn>>,
    /// One sentence each.
    pub warnings: Vec<String>,
}

/// A file of an input that is listed and not opened.
#[derive(Debug, Clone)]
pub(crate) struct ListedFile {
    /// The file.
    pub entry: Entry,
    /// Values of the partition columns, as its path or the log of its Delta table tells them; `None`: null.
    pub partition: Vec<PathColumn>,
}

/// At most `most` of `n` places, evenly over all of them, the first and the last among them.
pub(crate) fn spread(n: usize, most: usize) -> Vec<usize> {
    if n <= most {
        return (0..n).collect();
    }
    (0..most).map(|i| i * (n - 1) / (most - 1).max(1)).collect()
}

/// An input whose files are listed; none is opened.
#[derive(Debug, Clone)]
pub(crate) struct ListedInput {
    /// What the job named: a file or a folder.
    pub location: Location,
    /// In the order of their paths.
    pub files: Vec<ListedFile>,
    /// One sentence each.
    pub warnings: Vec<String>,
}

/// Lists an input and opens none of its files.
///
/// # Errors
/// As [`list_parquet`].
pub(crate) async fn list_input(at: &Location) -> Result<ListedInput> {
    let Listing { files, mut partitions, warnings } = list_parquet(at).await?;
    let listed = files.into_iter().map(|entry| {
        let told = partitions.remove(entry.location.path());
        let partition = told.unwrap_or_else(|| hive_values(&entry.location, at));
        ListedFile { entry, partition }
    });
    Ok(ListedInput { location: at.clone(), files: listed.collect(), warnings })
}

/// Names looked at in a folder beside an input: the files that tell come first there.
const FEW: usize = 1000;

/// Whether a file or folder of that name is none of the input's: `_SUCCESS`, `_temporary`, `.part-0.crc`.
fn is_hidden(name: &str) -> bool {
    name.starts_with('_') || name.starts_with('.')
}

fn is_parquet(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".parquet")
}

/// The Parquet files at a location: one file, or all below a folder that are not hidden; of a Delta table those that count.
///
/// # Errors
/// `Kind::NotArrived` where nothing is there yet; `Kind::Input` where a part cannot be read, for tables of Iceberg and Hudi,
/// and for Delta tables that are damaged or use what is not read; `Kind::Config` where a part may not be read; the store's own errors.
pub(crate) async fn list_parquet(at: &Location) -> Result<Listing> {
    let local = at.local_path();
    // The local store answers a question about a folder with an I/O error; the disk knows better.
    if let Some(path) = &local {
        let lacking = || match path.parent().is_some_and(Path::is_dir) {
            true => not_arrived("there is no such file or folder yet", at),
            false => missing(at).hint("check the path under [input] in the job file: its folder is not there either"),
        };
        let meta = match std::fs::metadata(path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(lacking());
            }
            // Permissions and the like: the store tells them.
            Err(_) => None,
            Ok(meta) => Some(meta),
        };
        if meta.as_ref().is_some_and(|m| !m.is_file() && !m.is_dir()) {
            return Err(no_regular_file(path));
        }
        if meta.is_none_or(|m| m.is_file()) {
            let entry = at.head().await?.ok_or_else(lacking)?;
            return Ok(Listing { files: vec![entry], ..Listing::default() });
        }
    } else if let Some(entry) = at.head().await? {
        return Ok(Listing { files: vec![entry], ..Listing::default() });
    }
    let of = |e: &Entry| e.location.relative_to(at).unwrap_or_default();
    let (found, mut names): (Vec<Entry>, Vec<String>) = match local {
        Some(path) => {
            let root = path.clone();
            let walk = tokio::task::spawn_blocking(move || walk(&path));
            let walk = walk.await.context(Kind::Internal, || "a folder could not be listed".into())??;
            let hidden = walk.hidden.iter().map(|p| p.strip_prefix(&root).unwrap_or(p).display().to_string());
            let hidden = hidden.collect();
            (walk.files.iter().map(|(path, meta)| local_entry(at, path, meta)).collect::<Result<_>>()?, hidden)
        }
        None => {
            let (hidden, found): (Vec<_>, Vec<_>) =
                at.list().await?.into_iter().partition(|e| of(e).split('/').any(is_hidden));
            (found, hidden.iter().map(of).collect())
        }
    };
    names.extend(found.iter().map(of));
    if names.iter().any(|name| name.split('/').next() == Some(FOLDER)) {
        return list_delta(at, found).await;
    }
    let lake = match names.iter().find_map(|name| Lake::of(name)) {
        Some(lake) => Some(lake),
        None => around(at).await,
    };
    if let Some(lake) = lake {
        return Err(lake.refusal(at));
    }
    let (mut files, others): (Vec<Entry>, Vec<Entry>) = found.into_iter().partition(|e| is_parquet(e.location.name()));
    // Empty objects stand for folders on some stores.
    let mut others = others.into_iter().filter(|e| e.size > 0);
    let other = others.next();
    let rest = others.count();
    if files.is_empty() {
        return Err(match &other {
            None if names.is_empty() => not_arrived("the folder is empty", at),
            // What other tools leave while they write.
            None => not_arrived("the folder holds no .parquet file yet", at),
            Some(e) => {
                let name = e.location.name();
                let message = format!("the folder holds no .parquet file (but {} other, such as {name})", rest + 1);
                let error = Error::new(Kind::Input, message).with("file", at);
                error.hint(conversion(name))
            }
        });
    }
    files.sort_by(|a, b| a.location.path().cmp(b.location.path()));
    let warnings = other
        .iter()
        .map(|e| format!("{} file(s) beside the .parquet files are not read, such as {}", rest + 1, e.location));
    Ok(Listing { warnings: warnings.collect(), files, ..Listing::default() })
}

/// The files of a Delta table that its log counts, found among those of its folder.
async fn list_delta(at: &Location, found: Vec<Entry>) -> Result<Listing> {
    let log = Log::read(at).await?.ok_or_else(|| not_arrived("the Delta table has no version yet", at))?;
    log.demand_readable(at)?;
    if log.files.is_empty() {
        return Err(not_arrived("the Delta table holds no file yet", at));
    }
    let relative = |entry: Entry| (entry.location.relative_to(at).unwrap_or_default(), entry);
    let mut there: BTreeMap<String, Entry> = found.into_iter().map(relative).collect();
    let mut listing = Listing::default();
    for (path, file) in log.files {
        let damaged = |what: &str, hint: &str| {
            Error::new(Kind::Input, what.to_owned())
                .with("file", at)
                .with("path", format!("{path:?}"))
                .with("version", log.version)
                .hint(hint.to_owned())
        };
        if path.contains("://") || paths::relative(&path).is_err() {
            let hint = "write its current rows to a table of its own, or to plain Parquet files";
            return Err(damaged(
                "the Delta table counts a file outside of its folder, which curec does not read",
                hint,
            ));
        }
        let entry = match there.remove(&path) {
            Some(entry) => Some(entry),
            // In a folder whose name looks hidden.
            None => at.child(&path).head().await?,
        };
        let entry = entry.ok_or_else(|| {
            damaged(
                "a file that the Delta table counts is not there",
                "restore it, or run again where somebody has just rewritten the table",
            )
        })?;
        let value =
            |name: &String| file.partition_values.get(name).cloned().flatten().filter(|value| !value.is_empty());
        let values = log.metadata.partition_columns.iter().map(|name| (name.clone(), value(name)));
        listing.partitions.insert(entry.location.path().clone(), values.collect());
        listing.files.push(entry);
    }
    listing.files.sort_by(|a, b| a.location.path().cmp(b.location.path()));
    Ok(listing)
}

/// The error for an input that most likely comes later.
fn not_arrived(what: &str, at: &Location) -> Error {
    Error::new(Kind::NotArrived, what)
        .with("file", at)
        .hint("run again when it has arrived; if it should be there, check the path under [input] in the job file")
}

fn local_entry(at: &Location, path: &Path, meta: &std::fs::Metadata) -> Result<Entry> {
    let unusable = |e| {
        let error = Error::new(Kind::Input, "a file's name cannot be used").with("file", path.display());
        error.hint("give it a name in UTF-8 without control characters").source(e)
    };
    let location = at.sibling(ObjectPath::from_absolute_path(path).map_err(unusable)?);
    let last_modified = meta.modified().unwrap_or(std::time::UNIX_EPOCH).into();
    Ok(Entry { location, size: meta.len(), last_modified, e_tag: None })
}

/// What [`walk`] found: files with their sizes, hidden names it did not look into.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Every file that is not hidden, links followed.
    pub files: Vec<(PathBuf, std::fs::Metadata)>,
    /// Hidden files and folders.
    pub hidden: Vec<PathBuf>,
}

impl Walk {
    /// Its Parquet files, sorted.
    pub(crate) fn parquet(&self) -> Vec<PathBuf> {
        let names = self.files.iter().map(|(path, _)| path).filter(|p| is_parquet(&p.to_string_lossy()));
        let mut names: Vec<PathBuf> = names.cloned().collect();
        names.sort();
        names
    }
}

/// All files below a local folder, links followed.
///
/// # Errors
/// `Kind::Input` for a link that leads nowhere or around in a circle and for what is neither file nor folder;
/// `Kind::Config` where permissions are lacking; `Kind::Temporary` for faults of the disk.
pub(crate) fn walk(root: &Path) -> Result<Walk> {
    let mut found = Walk::default();
    let real = root.canonicalize().map_err(|e| unlisted(root, e, false))?;
    visit(root, &mut vec![real], &mut found)?;
    Ok(found)
}

/// `around`: the real places of the folders around this one and of itself.
fn visit(folder: &Path, around: &mut Vec<PathBuf>, found: &mut Walk) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|e| unlisted(folder, e, false))? {
        let entry = entry.map_err(|e| unlisted(folder, e, false))?;
        let (path, name) = (entry.path(), entry.file_name());
        if is_hidden(&name.to_string_lossy()) {
            found.hidden.push(path);
            continue;
        }
        let is_link = entry.file_type().is_ok_and(|t| t.is_symlink());
        let meta = match std::fs::metadata(&path) {
            Ok(meta) => meta,
            // A writer's temporary file that has its final name by now, or is gone.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !is_link && !is_parquet(&name.to_string_lossy()) => {
                continue;
            }
            Err(e) => return Err(unlisted(&path, e, is_link)),
        };
        if meta.is_file() {
            found.files.push((path, meta));
            continue;
        }
        if !meta.is_dir() {
            return Err(no_regular_file(&path));
        }
        let real = match (is_link, around.last()) {
            (false, Some(parent)) => parent.join(&name),
            _ => path.canonicalize().map_err(|e| unlisted(&path, e, is_link))?,
        };
        if around.contains(&real) {
            let error = Error::new(Kind::Input, "a link leads back to a folder around it").with("file", path.display());
            return Err(error.with("target", real.display()).hint(REMOVE));
        }
        around.push(real);
        visit(&path, around, found)?;
        around.pop();
    }
    Ok(())
}

const REMOVE: &str = "fix it, or remove it if it is not part of the input";

fn no_regular_file(path: &Path) -> Error {
    Error::new(Kind::Input, "neither a file nor a folder").with("file", path.display()).hint(REMOVE)
}

/// The error for a part of a folder that cannot be looked at.
fn unlisted(path: &Path, error: io::Error, is_link: bool) -> Error {
    let (kind, message, hint) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            Kind::Config,
            "not allowed to read a part of the input",
            "give the user that runs curec the right to read it (folders: r and x)",
        ),
        io::ErrorKind::NotFound if is_link => (Kind::Input, "a link leads nowhere", REMOVE),
        // In a circle, say.
        _ if is_link => (Kind::Input, "a link cannot be followed", REMOVE),
        io::ErrorKind::NotFound => (
            Kind::Temporary,
            "a part of the input went away while it was listed",
            "run again when whoever writes there has finished",
        ),
        _ => (Kind::Temporary, "a part of the input cannot be listed", "is the disk or network share in order?"),
    };
    Error::new(kind, message).with("file", path.display()).hint(hint).source(error)
}

/// A table format that keeps a log of which of its files count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lake {
    format: &'static str,
    /// The path that tells.
    sign: String,
}

impl Lake {
    /// By the path of something that lies in the folder.
    pub(crate) fn of(path: &str) -> Option<Lake> {
        let parts: Vec<&str> = path.split('/').collect();
        let format = match parts.as_slice() {
            parts if parts.contains(&"_delta_log") => "Delta",
            parts if parts.iter().any(|p| *p == ".hoodie" || p.starts_with(".hoodie_partition_metadata")) => "Hudi",
            [.., "metadata", name] if name.ends_with(".metadata.json") => "Iceberg",
            _ => return None,
        };
        Some(Lake { format, sign: path.to_owned() })
    }

    /// Why the folder is not read.
    pub(crate) fn refusal(&self, at: impl std::fmt::Display) -> Error {
        let Lake { format, sign } = self;
        if *format == "Delta" {
            let message = "the folder is a part of a Delta table, or holds some: their logs say which files count, and \
                           reading all files would bring deleted rows back";
            let error = Error::new(Kind::Input, message).with("file", at).with("log", sign);
            return error.hint(format!("name the folder that holds {FOLDER}"));
        }
        let hint = match *format {
            "Hudi" => format!("spark.read.format(\"hudi\").load(\"{at}\").write.parquet(\"plain\")"),
            _ => format!("COPY (FROM {}_scan('{at}')) TO 'plain.parquet' in DuckDB", format.to_ascii_lowercase()),
        };
        let message = format!(
            "the folder is a {format} table: its log says which files count, curec does not read it, and reading all \
             files would bring deleted rows back"
        );
        let error = Error::new(Kind::Input, message).with("file", at).with("log", sign);
        error.hint(format!("write its current rows to plain Parquet files and name those: {hint}"))
    }
}

/// The table format of a folder around: the location may be one partition of a table (`dt=2026-01-20`) or its `data`.
async fn around(at: &Location) -> Option<Lake> {
    let mut table = at.clone();
    while table.name().contains('=') || table.name() == "data" {
        table = table.sibling(table.path().parent()?);
        for name in ["_delta_log", ".hoodie", "metadata"] {
            let log = table.child(name);
            let mut entries = log.store().list(Some(log.path())).take(FEW);
            // What may not be listed is not told by this location's own listing either.
            while let Some(Ok(entry)) = entries.next().await {
                if let Some(lake) = Lake::of(entry.location.as_ref()) {
                    return Some(lake);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_cannot_be_listed_is_told_by_what_is_wrong() {
        let told = |kind: io::ErrorKind, is_link| {
            let error = unlisted(Path::new("/in/dt=1"), kind.into(), is_link);
            assert!(error.explain().contains("/in/dt=1") && error.explain().contains("what to do"), "{error:?}");
            (error.kind(), error.message().to_owned())
        };
        assert_eq!(told(io::ErrorKind::PermissionDenied, false).0, Kind::Config);
        assert_eq!(told(io::ErrorKind::PermissionDenied, true).0, Kind::Config);
        assert_eq!(told(io::ErrorKind::NotFound, true), (Kind::Input, "a link leads nowhere".into()));
        assert_eq!(told(io::ErrorKind::Other, true), (Kind::Input, "a link cannot be followed".into()));
        assert_eq!(told(io::ErrorKind::NotFound, false).0, Kind::Temporary);
        assert_eq!(told(io::ErrorKind::TimedOut, false).0, Kind::Temporary);
    }

    #[test]
    fn places_are_spread_from_the_first_to_the_last() {
        assert_eq!(spread(3, 8), [0, 1, 2]);
        assert_eq!(spread(10, 4), [0, 3, 6, 9]);
        assert_eq!(spread(5, 1), [0]);
        assert!(spread(0, 8).is_empty());
    }

    #[test]
    fn table_formats_are_known_by_their_logs() {
        let format = |path: &str| Lake::of(path).map(|lake| lake.format);
        assert_eq!(format("log/_delta_log/00000000000000000000.json"), Some("Delta"));
        assert_eq!(format("/lake/log/_delta_log"), Some("Delta"));
        assert_eq!(format("log/.hoodie/hoodie.properties"), Some("Hudi"));
        assert_eq!(format("log/dt=1/.hoodie_partition_metadata"), Some("Hudi"));
        assert_eq!(format("log/metadata/00001-abc.metadata.json"), Some("Iceberg"));
        for plain in ["log/metadata/a.parquet", "log/a.metadata.json", "log/_SUCCESS", "log/my_delta_log/a.parquet"] {
            assert_eq!(format(plain), None, "{plain}");
        }
    }
}
