//! Advisory locks on local files and folders, held for milliseconds while a file is switched.
//!
//! Knows paths on the local disk. Knows nothing of stores, tables or leases.

use std::fs::TryLockError;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::disk;
use crate::error::{Error, Kind, Result};

/// How long to wait for a lock; a process that is not stopped holds it for milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// An advisory lock on a local file or folder; the system releases it when the process dies.
pub(crate) struct Lock(#[allow(dead_code)] std::fs::File);

impl Lock {
    /// Locks the folder that holds a local object; creates it where there is none.
    pub(crate) async fn of_folder(object: PathBuf) -> Result<Self> {
        let folder = object.parent().map(std::path::Path::to_path_buf).unwrap_or(object);
        disk::make_folder(&folder).map_err(|e| unlockable(&folder, e))?;
        let handle = std::fs::File::open(&folder).map_err(|e| unlockable(&folder, e))?;
        Lock::take(handle, &folder).await
    }

    /// Locks a local object as it is now, and no other in its folder; `None` where there is none. Objects are replaced
    /// by renaming, so after a wait the locked file may no longer be the object. That is harmless if versions are
    /// compared next: only the holder of a version's own file can replace that version.
    pub(crate) async fn of_object(object: &std::path::Path) -> Result<Option<Self>> {
        // Network file systems lock a file exclusively only if it is open for writing; others let readers do so too.
        let opened = match std::fs::File::options().read(true).write(true).open(object) {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => std::fs::File::open(object),
            opened => opened,
        };
        match opened {
            Ok(handle) => Lock::take(handle, object).await.map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unlockable(object, e)),
        }
    }

    async fn take(handle: std::fs::File, path: &std::path::Path) -> Result<Self> {
        let started = Instant::now();
        loop {
            match handle.try_lock() {
                Ok(()) => return Ok(Lock(handle)),
                Err(TryLockError::Error(e)) => return Err(unlockable(path, e)),
                Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(Kind::Busy, "another process is switching files here and does not go on")
                        .with("path", path.display())
                        .hint("if it is stopped, let it go on or end it (`fuser` tells which one), then run again"));
                }
            }
        }
    }
}

fn unlockable(path: &std::path::Path, error: std::io::Error) -> Error {
    Error::new(Kind::Temporary, "cannot lock a file or folder").with("path", path.display()).source(error)
}
