//! Durable local files: a file and its name are on the disk before anything that relies on it is written.
//!
//! A file is synced before it is renamed to its final name, its folder after that, and folders with removed files
//! before the next file is written. Knows paths and the simulated power loss ([`watch`], [`lose`]); knows nothing of
//! the content.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Result, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::scratch::{self, Partial};

/// An unlocked partial file that is younger may be about to be locked.
const YOUNG: Duration = Duration::from_secs(60);

/// Folders whose own directory entries are known to be on the disk.
static KNOWN: LazyLock<Mutex<BTreeSet<PathBuf>>> = LazyLock::new(Mutex::default);
/// Folders from which files were removed since the last sync.
static UNSYNCED: LazyLock<Mutex<BTreeSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// Writes a file atomically, replacing whatever is there.
///
/// # Errors
/// I/O errors.
pub fn write_whole(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    let partial = beside(path);
    File::create_new(partial.path())?.write_all(bytes.as_ref())?;
    finish(partial.path(), path)
}

/// The temporary path where a file is written before it is renamed to `path`; nothing is there yet. Partial files that
/// killed processes left there are removed: a process that is still writing one holds it locked.
pub fn beside(path: &Path) -> Partial {
    let prefix = format!(".{}.partial-", path.file_name().unwrap_or_default().to_string_lossy());
    remove_partial_files(&folder_of(path), &prefix);
    Partial::new(path.with_file_name(format!("{prefix}{}", scratch::unique())))
}

/// Removes files with that prefix that no process holds locked. Young ones stay: between creation and locking a file
/// looks like a dead process's.
fn remove_partial_files(folder: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)) {
        let is_old =
            |meta: &std::fs::Metadata| meta.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > YOUNG));
        // Links are not followed: only our own files are opened.
        if !entry.metadata().is_ok_and(|meta| meta.is_file() && is_old(&meta)) {
            continue;
        }
        let is_free = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if is_free {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Renames a written file to its final name, durably. A reader sees either the old file of that name or this one.
///
/// # Errors
/// I/O errors.
pub fn finish(partial: &Path, path: &Path) -> Result<()> {
    written(partial);
    sync_file(&File::open(partial)?)?;
    rename(partial, path)?;
    sync_folder(&folder_of(path))
}

/// As [`finish`], for a folder with its content.
///
/// # Errors
/// I/O errors.
pub fn finish_folder(partial: &Path, path: &Path) -> Result<()> {
    sync_tree(partial)?;
    rename(partial, path)?;
    sync_folder(&folder_of(path))
}

/// Syncs a folder and its content to the disk; links are not followed.
///
/// # Errors
/// I/O errors.
pub fn sync_tree(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            sync_file(&File::open(entry.path())?)?;
        }
    }
    sync_folder(folder)
}

/// The folder that holds a file.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Creates a folder and its missing parents.
///
/// # Errors
/// I/O errors.
pub fn make_folder(path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Ok(()) => {
            named(path, None);
            sync_folder(&folder_of(path))
        }
        Err(e) if e.kind() == ErrorKind::NotFound && path.parent().is_some() => {
            make_folder(&folder_of(path))?;
            match std::fs::create_dir(path) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
                _ => {
                    named(path, None);
                    sync_folder(&folder_of(path))
                }
            }
        }
        Err(_) if path.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// Syncs a file's content to the disk.
///
/// # Errors
/// I/O errors.
pub fn sync_file(file: &File) -> Result<()> {
    if LIES.load(Ordering::Relaxed) {
        return Ok(());
    }
    file.sync_all()?;
    let id = inode(file)?;
    note(|loss| loss.files.remove(&id));
    Ok(())
}

/// Syncs a folder's entries to the disk, and once per process the entries of the folder itself and its parents.
///
/// # Errors
/// I/O errors.
pub fn sync_folder(folder: &Path) -> Result<()> {
    locked(&UNSYNCED).remove(folder);
    sync_names(folder)?;
    let mut next = folder;
    while locked(&KNOWN).insert(next.to_path_buf()) {
        let Some(above) = next.parent().filter(|above| !above.as_os_str().is_empty()) else { break };
        // Some parents may not be opened by us; those have existed for long.
        let _ = sync_names(above);
        next = above;
    }
    Ok(())
}

fn sync_names(folder: &Path) -> Result<()> {
    if LIES.load(Ordering::Relaxed) {
        return Ok(());
    }
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some network file systems sync entries by themselves and do not support the call. A folder that may be written
        // but not read cannot be opened at all; a file renamed into it must not count as failed.
        Err(e)
            if !matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::PermissionDenied) =>
        {
            return Err(e);
        }
        _ => {}
    }
    note(|loss| loss.keep_names(folder));
    Ok(())
}

/// Renames a file or folder, replacing whatever is there.
///
/// # Errors
/// I/O errors.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    let before = kept_aside(to)?;
    std::fs::rename(from, to)?;
    moved(from, to);
    named(to, before);
    Ok(())
}

/// Makes a hard link to a file.
///
/// # Errors
/// `AlreadyExists`; other I/O errors.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    std::fs::hard_link(from, to)?;
    moved(from, to);
    named(to, None);
    Ok(())
}

/// Removes a file. Its folder is synced before the next file is written ([`settle`]).
///
/// # Errors
/// I/O errors.
pub fn remove(path: &Path) -> Result<()> {
    let before = kept_aside(path)?;
    std::fs::remove_file(path)?;
    named(path, before);
    thinned(&folder_of(path));
    Ok(())
}

/// Records that files of a folder were removed.
pub fn thinned(folder: &Path) {
    locked(&UNSYNCED).insert(folder.to_path_buf());
}

/// Syncs all removals so far to the disk.
///
/// # Errors
/// I/O errors.
pub fn settle() -> Result<()> {
    let folders = std::mem::take(&mut *locked(&UNSYNCED));
    let mut done = Ok(());
    for folder in folders {
        match sync_folder(&folder) {
            // The folder itself was removed since.
            Err(e) if e.kind() != ErrorKind::NotFound => {
                thinned(&folder);
                done = Err(e);
            }
            _ => {}
        }
    }
    done
}

// ------------------------------------------------------------------------------------------------------------- drill

/// What a power loss would destroy, while it is recorded.
static LOSS: Mutex<Option<Loss>> = Mutex::new(None);
/// Whether [`LOSS`] holds a value.
static WATCHED: AtomicBool = AtomicBool::new(false);
/// Whether syncs are skipped silently, as by a disk that lies.
static LIES: AtomicBool = AtomicBool::new(false);

/// Changes that are not on the disk yet.
#[derive(Debug, Default)]
struct Loss {
    /// Files with unsynced content, by device and inode, with one of their paths.
    files: BTreeMap<(u64, u64), PathBuf>,
    /// Unsynced directory entries, oldest first, each with a path that keeps the previous file.
    names: Vec<(PathBuf, Option<PathBuf>)>,
    kept: u64,
}

impl Loss {
    fn keep_names(&mut self, folder: &Path) {
        let is_in = |path: &Path| folder_of(path) == folder;
        self.names.retain(|(path, before)| {
            if is_in(path) {
                before.iter().for_each(|before| _ = std::fs::remove_file(before));
            }
            !is_in(path)
        });
    }

    fn take(&mut self, names_too: bool) {
        for path in self.files.values() {
            let halve = || -> Result<()> {
                let file = File::options().write(true).open(path)?;
                file.set_len(file.metadata()?.len() / 2)
            };
            let _ = halve();
        }
        for (path, before) in self.names.iter().rev() {
            match before {
                Some(before) if names_too => _ = std::fs::rename(before, path),
                Some(before) => _ = std::fs::remove_file(before),
                None if names_too && path.is_dir() => _ = std::fs::remove_dir_all(path),
                None if names_too => _ = std::fs::remove_file(path),
                None => {}
            }
        }
    }
}

/// Starts to record what a power loss would destroy. With `lies` nothing is synced from now on; a drill must detect it.
pub(crate) fn watch(lies: bool) {
    locked(&LOSS).get_or_insert_default();
    WATCHED.store(true, Ordering::SeqCst);
    LIES.store(lies, Ordering::SeqCst);
}

/// Simulates a power loss: halves files with unsynced content and, with `names_too`, undoes unsynced directory
/// entries. This process changes no file after that.
pub(crate) fn lose(names_too: bool) {
    let mut loss = locked(&LOSS);
    if let Some(loss) = &mut *loss {
        loss.take(names_too);
    }
    // Threads that would change a file block here until the process ends.
    std::mem::forget(loss);
}

/// Records that a file's content is not on the disk.
pub fn written(path: &Path) {
    note(|loss| {
        if let Ok(id) = File::open(path).and_then(|file| inode(&file)) {
            loss.files.insert(id, path.to_path_buf());
        }
    });
}

fn moved(from: &Path, to: &Path) {
    note(|loss| {
        loss.files.values_mut().filter(|path| *path == from).for_each(|path| *path = to.to_path_buf());
    });
}

fn named(path: &Path, before: Option<PathBuf>) {
    note(|loss| loss.names.push((path.to_path_buf(), before)));
}

/// Hard-links a file that is about to be replaced or removed; does nothing unless losses are recorded.
fn kept_aside(path: &Path) -> Result<Option<PathBuf>> {
    let Some(number) = path.is_file().then(|| note(|loss| (loss.kept, loss.kept += 1).0)).flatten() else {
        return Ok(None);
    };
    let mut name = path.as_os_str().to_owned();
    // Hidden from listings, as partial files are.
    name.push(format!("#9{number:09}"));
    let kept = PathBuf::from(name);
    std::fs::hard_link(path, &kept)?;
    Ok(Some(kept))
}

/// Applies a change to [`LOSS`]; does nothing unless losses are recorded.
fn note<T>(change: impl FnOnce(&mut Loss) -> T) -> Option<T> {
    if !WATCHED.load(Ordering::Relaxed) {
        return None;
    }
    locked(&LOSS).as_mut().map(change)
}

fn inode(file: &File) -> Result<(u64, u64)> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
