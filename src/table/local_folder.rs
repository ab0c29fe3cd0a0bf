//! What folders on the local disk need and other stores do not: locks, and a look at files that a crash left half written.
//!
//! Knows how the local store names files while it writes them. Knows nothing of what the files hold.

use std::path::PathBuf;

use crate::error::{Error, Kind, Result};
use crate::table::file_lock::Lock;
use crate::table::store::Location;

/// Keeps other processes from switching or removing files below the folder that holds `folder`, until the lock is
/// dropped. `None` on stores that have no locks.
///
/// # Errors
/// `Kind::Busy` when another process holds the lock for too long; `Kind::Temporary` for errors of the disk.
pub(crate) async fn lock_folder(folder: &Location) -> Result<Option<Lock>> {
    match folder.local_path() {
        Some(path) => Lock::of_folder(path).await.map(Some),
        None => Ok(None),
    }
}

/// Files below a local folder that a process was writing when it died, with their sizes: the store writes `name#1` and
/// renames it, and hides such names from listings. Nothing elsewhere, and nothing of leases.
///
/// # Errors
/// `Kind::Temporary` when a folder cannot be read.
pub(crate) async fn torn_uploads(root: &Location) -> Result<Vec<(PathBuf, u64)>> {
    const WRITTEN: [&str; 9] =
        ["part-", "seg-", "_commit.json", "manifest", "report", "measures", "index", "0000", "_last_checkpoint"];
    let is_torn = |name: &str| {
        let suffix = name.rsplit_once('#').map(|(_, suffix)| suffix);
        let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        suffix.is_some_and(is_number) && WRITTEN.iter().any(|begin| name.starts_with(begin))
    };
    let (mut folders, mut found) = (Vec::from_iter(root.local_path()), Vec::new());
    while let Some(folder) = folders.pop() {
        let unreadable =
            |e| Error::new(Kind::Temporary, "cannot read a folder").with("folder", folder.display()).source(e);
        let mut entries = match tokio::fs::read_dir(&folder).await {
            // Runs remove folders meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(unreadable)?,
        };
        while let Some(entry) = entries.next_entry().await.map_err(unreadable)? {
            let Ok(meta) = entry.metadata().await else { continue };
            if meta.is_dir() {
                folders.push(entry.path());
            } else if is_torn(&entry.file_name().to_string_lossy()) {
                found.push((entry.path(), meta.len()));
            }
        }
    }
    Ok(found)
}
