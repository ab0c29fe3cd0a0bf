//! Local files that outlive a power cut: what was answered for is on the disk, with its name, before anything is written
//! that relies on it.
//!
//! A file is synced before it gets its name, its folder after that, and folders that lost files before the next file is
//! written. Knows paths and the drill that takes the power away ([`watch`], [`lose`]); knows nothing of what is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Result, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::scratch::{self, Partial};

/// An unlocked half that is younger may be about to be locked.
const YOUNG: Duration = Duration::from_secs(60);

/// Folders whose own names are known to be on the disk.
static KNOWN: LazyLock<Mutex<BTreeSet<PathBuf>>> = LazyLock::new(Mutex::default);
/// Folders that have lost files since they were synced.
static THINNED: LazyLock<Mutex<BTreeSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// Writes a file of this name whole or not at all, over whatever is there.
///
/// # Errors
/// The disk's.
pub fn write_whole(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    let partial = beside(path);
    File::create_new(partial.path())?.write_all(bytes.as_ref())?;
    finish(partial.path(), path)
}

/// The place where a file is written before it gets the name `path`; nothing is there yet. Halves that killed processes
/// left beside it are removed: who still writes one holds it locked.
pub fn beside(path: &Path) -> Partial {
    let prefix = format!(".{}.partial-", path.file_name().unwrap_or_default().to_string_lossy());
    remove_halves(&folder_of(path), &prefix);
    Partial::new(path.with_file_name(format!("{prefix}{}", scratch::unique())))
}

/// Removes files of that prefix that nobody holds locked. Young ones stay: between its making and its lock a file looks
/// like a dead process's.
fn remove_halves(folder: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)) {
        let is_old =
            |meta: &std::fs::Metadata| meta.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > YOUNG));
        // Links are not followed: only files of ours are opened.
        if !entry.metadata().is_ok_and(|meta| meta.is_file() && is_old(&meta)) {
            continue;
        }
        let is_free = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if is_free {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Gives a written file its name. Where there is one of that name, it is either that or this one, at any moment.
///
/// # Errors
/// The disk's.
pub fn finish(partial: &Path, path: &Path) -> Result<()> {
    written(partial);
    sync_file(&File::open(partial)?)?;
    rename(partial, path)?;
    sync_folder(&folder_of(path))
}

/// As [`finish`], for a folder with all that is in it.
///
/// # Errors
/// The disk's.
pub fn finish_folder(partial: &Path, path: &Path) -> Result<()> {
    sync_tree(partial)?;
    rename(partial, path)?;
    sync_folder(&folder_of(path))
}

/// Brings all that is in a folder to the disk; links are not followed.
///
/// # Errors
/// The disk's.
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

/// Makes a folder and those above it where there are none.
///
/// # Errors
/// The disk's.
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

/// Brings a file's content to the disk.
///
/// # Errors
/// The disk's.
pub fn sync_file(file: &File) -> Result<()> {
    if LIES.load(Ordering::Relaxed) {
        return Ok(());
    }
    file.sync_all()?;
    let id = inode(file)?;
    note(|loss| loss.files.remove(&id));
    Ok(())
}

/// Brings the names in a folder to the disk, and the folder's own, once in a process.
///
/// # Errors
/// The disk's.
pub fn sync_folder(folder: &Path) -> Result<()> {
    locked(&THINNED).remove(folder);
    sync_names(folder)?;
    let mut next = folder;
    while locked(&KNOWN).insert(next.to_path_buf()) {
        let Some(above) = next.parent().filter(|above| !above.as_os_str().is_empty()) else { break };
        // Not all of them are ours to open, and those have stood there for long.
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
        // Some network file systems keep names without being asked and know no such call. A folder that may be written but
        // not read cannot be opened at all; what has its name there must not count as failed.
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

/// Gives a file or folder another name, over whatever has it.
///
/// # Errors
/// The disk's.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    let before = kept_aside(to)?;
    std::fs::rename(from, to)?;
    moved(from, to);
    named(to, before);
    Ok(())
}

/// Gives a file one more name, that nothing has.
///
/// # Errors
/// `AlreadyExists`; the disk's.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    std::fs::hard_link(from, to)?;
    moved(from, to);
    named(to, None);
    Ok(())
}

/// Removes a file. Its folder is synced before the next file is written ([`settle`]).
///
/// # Errors
/// The disk's.
pub fn remove(path: &Path) -> Result<()> {
    let before = kept_aside(path)?;
    std::fs::remove_file(path)?;
    named(path, before);
    thinned(&folder_of(path));
    Ok(())
}

/// Notes that files of a folder were removed.
pub fn thinned(folder: &Path) {
    locked(&THINNED).insert(folder.to_path_buf());
}

/// Brings all removals so far to the disk.
///
/// # Errors
/// The disk's.
pub fn settle() -> Result<()> {
    let folders = std::mem::take(&mut *locked(&THINNED));
    let mut done = Ok(());
    for folder in folders {
        match sync_folder(&folder) {
            // It was removed since, with what was in it.
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

/// What the power would take, while it is watched.
static LOSS: Mutex<Option<Loss>> = Mutex::new(None);
/// Whether there is something in [`LOSS`].
static WATCHED: AtomicBool = AtomicBool::new(false);
/// Whether nothing is synced although it was asked for.
static LIES: AtomicBool = AtomicBool::new(false);

/// Changes that are not on the disk yet.
#[derive(Debug, Default)]
struct Loss {
    /// Files whose content is not, by device and inode, under a name that each has.
    files: BTreeMap<(u64, u64), PathBuf>,
    /// Names that are not, in the order of time, with a name for what was there before.
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

/// Begins to note what a power cut would take. With `lies` nothing is synced from now on: what a drill must find.
pub(crate) fn watch(lies: bool) {
    locked(&LOSS).get_or_insert_default();
    WATCHED.store(true, Ordering::SeqCst);
    LIES.store(lies, Ordering::SeqCst);
}

/// Takes everything that is not on the disk: content (halved), and with `names_too` also names. No file is changed by this
/// process any more.
pub(crate) fn lose(names_too: bool) {
    let mut loss = locked(&LOSS);
    if let Some(loss) = &mut *loss {
        loss.take(names_too);
    }
    // Whoever would note a change waits for the end of the process.
    std::mem::forget(loss);
}

/// Notes that a file's content is not on the disk.
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

/// A second name for what is about to lose its own; nothing unless it is watched.
fn kept_aside(path: &Path) -> Result<Option<PathBuf>> {
    let Some(number) = path.is_file().then(|| note(|loss| (loss.kept, loss.kept += 1).0)).flatten() else {
        return Ok(None);
    };
    let mut name = path.as_os_str().to_owned();
    // Hidden from listings, as halves of files are.
    name.push(format!("#9{number:09}"));
    let kept = PathBuf::from(name);
    std::fs::hard_link(path, &kept)?;
    Ok(Some(kept))
}

/// Does it with what the power would take; nothing unless it is watched.
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
