//! An exclusive lock on a local folder, held by one process at a time.
//!
//! Knows one lock file. Knows nothing of the folder's other files, nor of warehouses, whose days have leases.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::Path;

use crate::error::{Error, Kind, Result};

/// An exclusive lock on a folder; released when it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DirectoryLock(#[allow(dead_code)] File);

impl DirectoryLock {
    /// Locks a folder for this process by the file `lock` in it: two processes that train in one folder would mix their
    /// files.
    ///
    /// # Errors
    /// `Kind::Busy` naming the holder; `Kind::Config` where the folder cannot be written.
    pub fn take(folder: &Path) -> Result<DirectoryLock> {
        let path = folder.join("lock");
        let failed = |e: std::io::Error| {
            Error::new(Kind::Config, "cannot lock the folder `out`").with("file", path.display()).source(e)
        };
        // Not truncated when opened: its content names the holder.
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = std::fs::read_to_string(&path).unwrap_or_default();
                return Err(Error::new(Kind::Busy, "another process learns in this folder")
                    .with("folder", folder.display())
                    .with("holder", holder.trim())
                    .hint("wait for it, or name another `out`; the lock goes with its process"));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        let write = |file: &mut File| -> std::io::Result<()> {
            file.set_len(0)?;
            writeln!(file, "process {}", std::process::id())
        };
        write(&mut file).map_err(failed)?;
        Ok(DirectoryLock(file))
    }
}
