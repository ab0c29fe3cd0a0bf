//! Folders that stand whole or not at all, whatever dies while they are written.
//!
//! Knows local folders; knows nothing of what they hold.

use std::path::Path;

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::scratch::Partial;

/// Creates and fills a folder atomically.
///
/// # Errors
/// `Kind::Usage` where it is not empty; errors from `fill`; `Kind::Temporary` for the disk's.
pub fn new_folder(out: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let failed = || format!("cannot write `{}`", out.display());
    let name = out.file_name().map(|n| n.to_string_lossy().into_owned());
    let is_free = !out.exists() || std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    let Some(name) = name.filter(|_| is_free) else {
        return Err(Error::new(Kind::Usage, "the folder is there already and holds something")
            .with("folder", out.display())
            .hint("name a folder that does not exist"));
    };
    let part = Partial::new(out.with_file_name(format!(".{name}.part-{}", std::process::id())));
    std::fs::create_dir_all(part.path()).context(Kind::Temporary, failed)?;
    fill(part.path())?;
    disk::finish_folder(part.path(), out).context(Kind::Temporary, failed)
}

/// As [`new_folder`], in place of a folder of the same kind: one that has the file `mark`. `what` is the kind, for people.
///
/// # Errors
/// `Kind::Usage` where the folder holds something else; errors from `fill`; `Kind::Temporary` for the disk's.
pub fn replace_folder(dir: &Path, what: &str, mark: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let failed = || format!("cannot write the {what} `{}`", dir.display());
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = |what: &str| dir.with_file_name(format!(".{name}.{what}-{}", std::process::id()));
    let (fresh, aside) = (beside("new"), beside("old"));
    new_folder(&fresh, fill)?;
    let put = || -> Result<()> {
        // Moved as a whole: a kill while its files go one by one would leave a folder that is neither.
        if dir.join(mark).exists() {
            let _ = std::fs::remove_dir_all(&aside);
            disk::rename(dir, &aside).context(Kind::Temporary, failed)?;
        }
        disk::finish_folder(&fresh, dir).map_err(|e| {
            if !dir.exists() {
                // What was there before stays in use.
                let _ = disk::rename(&aside, dir);
            }
            let is_full = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
            Error::new(if is_full { Kind::Usage } else { Kind::Temporary }, failed())
                .hint(format!("the folder must be a {what}'s, or not exist"))
                .source(e)
        })
    };
    let done = put();
    let _ = std::fs::remove_dir_all(&aside);
    if done.is_err() {
        // Its own error is the one to tell.
        let _ = std::fs::remove_dir_all(&fresh);
    }
    done
}
