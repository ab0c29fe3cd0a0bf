//! Temporary files: spilled rows, downloads in progress, partly written files. They are removed when the process ends.
//!
//! A process has one folder of its own in each place where it spills, `curec-<process>-<time>`, readable only by its
//! user. It holds a file in that folder locked as long as it lives. Whoever can take the lock knows that the owner is
//! dead, also where process ids do not tell: in other containers and under other users that share the place. A process
//! that makes such a folder first removes the folders of dead processes beside it. Knows nothing of the files' content.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::io::{Read, Result, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

/// Prefix of the folders' names.
const PREFIX: &str = "curec-";
/// Suffix of folders whose lock is not held yet.
const UNREADY: &str = ".new";
/// The file that the owner holds locked.
const OWNER: &str = ".owner";
/// Content of that file: a folder whose file holds anything else is not ours.
const MARK: &[u8] = b"curec: temporary files of a running process; removed when it has ended\n";
/// A folder that is not locked after this time never will be.
const MAKING: Duration = Duration::from_secs(600);

/// This process's folders by the place they are in.
static OWN: LazyLock<Mutex<BTreeMap<PathBuf, Weak<Scratch>>>> = LazyLock::new(Mutex::default);
/// Files and folders that this process is still writing.
static PARTIAL: LazyLock<Mutex<BTreeSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// A temporary folder of this process; removed with its last reference.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    #[allow(dead_code)]
    owner: File,
}

impl Scratch {
    /// This process's folder in `place`, created if missing. Removes the folders of dead processes there.
    ///
    /// # Errors
    /// I/O errors.
    pub fn within(place: &Path) -> Result<Arc<Scratch>> {
        let place = std::path::absolute(place)?;
        let mut own = locked(&OWN);
        if let Some(scratch) = own.get(&place).and_then(Weak::upgrade)
            && scratch.folder.is_dir()
        {
            return Ok(scratch);
        }
        std::fs::create_dir_all(&place)?;
        sweep(&place);
        let scratch = Arc::new(Scratch::make(&place)?);
        own.insert(place, Arc::downgrade(&scratch));
        Ok(scratch)
    }

    fn make(place: &Path) -> Result<Scratch> {
        let folder = place.join(unique());
        // Under another name until the lock is held, or a concurrent sweep would take it for a dead process's.
        let unready = with_suffix(&folder, UNREADY);
        DirBuilder::new().mode(0o700).create(&unready)?;
        let ready = || -> Result<File> {
            let mut owner = File::options().write(true).create_new(true).mode(0o600).open(unready.join(OWNER))?;
            // On a file system without locks no other process gets it either, so the folder is never swept.
            let _ = owner.try_lock();
            owner.write_all(MARK)?;
            std::fs::rename(&unready, &folder)?;
            Ok(owner)
        };
        match ready() {
            Ok(owner) => Ok(Scratch { folder, owner }),
            Err(e) => {
                let _ = std::fs::remove_dir_all(&unready);
                Err(e)
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// An unused path in it.
    pub fn entry(&self) -> PathBuf {
        self.folder.join(unique())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// A file or folder that is written next to its final name. Removed when this is dropped or a signal ends the process;
/// after a rename to the final name there is nothing left to remove.
#[derive(Debug)]
pub struct Partial(PathBuf);

impl Partial {
    /// Registers `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Partial {
        let path = path.into();
        locked(&PARTIAL).insert(path.clone());
        Partial(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        locked(&PARTIAL).remove(&self.0);
        remove_whatever(&self.0);
    }
}

/// What [`sweep`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Folders of dead processes.
    pub folders: usize,
    /// Bytes of the files in them.
    pub bytes: u64,
}

/// Removes the folders of dead processes in `place`, and nothing else. Folders that cannot be read or removed, such as
/// another user's, stay.
pub fn sweep(place: &Path) -> Swept {
    let mut swept = Swept::default();
    let Ok(entries) = std::fs::read_dir(place) else { return swept };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = name.to_string_lossy().starts_with(PREFIX) && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_ours {
            continue;
        }
        let folder = entry.path();
        // Checked before locking: taking the lock would disturb the process that is creating the folder.
        if name.to_string_lossy().ends_with(UNREADY) && !is_older(&folder, MAKING) {
            continue;
        }
        match owner_of_dead(&folder) {
            // Held until the folder is removed.
            Some(_owner) => {
                let bytes = bytes_in(&folder);
                remove(&folder);
                if !folder.exists() {
                    swept.folders += 1;
                    swept.bytes += bytes;
                }
            }
            // A process died just before the end of removing it: removed only if empty.
            None if !folder.join(OWNER).exists() && is_older(&folder, MAKING) => _ = std::fs::remove_dir(&folder),
            None => {}
        }
    }
    swept
}

/// Removes all temporary files of this process, before it exits without unwinding.
pub fn clean() {
    for path in std::mem::take(&mut *locked(&PARTIAL)) {
        remove_whatever(&path);
    }
    let own = std::mem::take(&mut *locked(&OWN));
    for scratch in own.into_values().filter_map(|scratch| scratch.upgrade()) {
        // Other threads may still be spilling into it.
        for _ in 0..50 {
            remove(&scratch.folder);
            if !scratch.folder.exists() {
                break;
            }
            #[expect(clippy::disallowed_methods, reason = "the process ends; no runtime is left to wait on")]
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The lock of a folder whose owner is dead.
fn owner_of_dead(folder: &Path) -> Option<File> {
    // Links and pipes of that name are not opened. Network file systems need write access for a lock.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut owner = File::options().read(true).write(true).custom_flags(flags).open(folder.join(OWNER)).ok()?;
    if !owner.metadata().is_ok_and(|meta| meta.is_file()) || owner.try_lock().is_err() {
        return None;
    }
    let mut mark = Vec::new();
    Read::by_ref(&mut owner).take(MARK.len() as u64 + 1).read_to_end(&mut mark).ok()?;
    // Its owner may have died before it wrote the mark.
    let is_ours = mark == MARK || (mark.is_empty() && folder.to_string_lossy().ends_with(UNREADY));
    is_ours.then_some(owner)
}

/// Removes a folder, the owner's file last: a folder that is removed only in part is still known as a dead process's.
fn remove(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name() != OWNER) {
        remove_whatever(&entry.path());
    }
    let is_empty = std::fs::read_dir(folder).is_ok_and(|entries| entries.flatten().all(|e| e.file_name() == OWNER));
    if is_empty && std::fs::remove_file(folder.join(OWNER)).is_ok() {
        let _ = std::fs::remove_dir(folder);
    }
}

/// Removes a file, a link (not its target) or a folder with its content.
fn remove_whatever(path: &Path) {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return };
    let _ = if meta.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}

fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_in(&entry.path()),
        Ok(meta) if entry.file_name() != OWNER => meta.len(),
        _ => 0,
    });
    sizes.sum()
}

fn is_older(folder: &Path, age: Duration) -> bool {
    let modified = std::fs::symlink_metadata(folder).and_then(|meta| meta.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|old| old > age))
}

/// A name that no other process makes, on this machine or another that shares the disk.
pub(crate) fn unique() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{PREFIX}{}-{now:x}-{number}", std::process::id())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// The folder of a process that was killed while it spilled.
    fn dead(place: &Path, name: &str) -> PathBuf {
        let folder = place.join(name);
        std::fs::create_dir_all(folder.join("datafusion-x")).unwrap();
        std::fs::write(folder.join(OWNER), MARK).unwrap();
        std::fs::write(folder.join("datafusion-x/spilled"), "u07 rated i01").unwrap();
        folder
    }

    fn names(place: &Path) -> Vec<String> {
        let mut all: Vec<_> =
            std::fs::read_dir(place).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn what_the_dead_left_goes_and_what_others_hold_stays() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        let living = dead(place, "curec-1-a-0");
        let lock = File::options().write(true).open(living.join(OWNER)).unwrap();
        lock.try_lock().unwrap();
        dead(place, "curec-2-b-0");
        // Entries that only look like ours: no mark, another name, no folder, a link out of the place.
        std::fs::create_dir(place.join("curec-weekly")).unwrap();
        std::fs::write(place.join("curec-weekly/.owner"), "process 7").unwrap();
        std::fs::create_dir(place.join("curec-mine")).unwrap();
        std::fs::write(place.join("curec-mine/adapter"), "weights").unwrap();
        std::fs::write(place.join("curec-notes"), "text").unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let linked = dead(elsewhere.path(), "curec-3-c-0");
        std::os::unix::fs::symlink(&linked, place.join("curec-3-c-0")).unwrap();
        // One that is being created.
        dead(place, "curec-4-d-0.new");

        let own = Scratch::within(place).unwrap();
        assert_eq!(std::fs::metadata(own.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(Arc::ptr_eq(&own, &Scratch::within(place).unwrap()));
        let mut stay =
            vec!["curec-1-a-0", "curec-3-c-0", "curec-4-d-0.new", "curec-mine", "curec-notes", "curec-weekly"];
        let name = own.path().file_name().unwrap().to_str().unwrap().to_owned();
        stay.push(&name);
        stay.sort_unstable();
        assert_eq!(names(place), stay);
        assert!(linked.join("datafusion-x/spilled").exists(), "a link was followed");

        // Folders of living processes stay, this one's included; those of dead ones are removed.
        assert_eq!(sweep(place), Swept::default());
        drop(lock);
        assert_eq!(sweep(place), Swept { folders: 1, bytes: 13 });
        std::fs::write(own.path().join("spilled"), "rows").unwrap();
        let folder = own.path().to_path_buf();
        drop(own);
        assert!(!folder.exists());
    }

    #[test]
    fn a_link_in_a_dead_folder_is_removed_and_not_followed() {
        let (place, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(kept.path().join("file"), "kept").unwrap();
        let folder = dead(place.path(), "curec-5-e-0");
        std::os::unix::fs::symlink(kept.path(), folder.join("out")).unwrap();
        std::os::unix::fs::symlink(kept.path().join("file"), folder.join("datafusion-x/out")).unwrap();
        assert_eq!(sweep(place.path()).folders, 1);
        assert_eq!(names(place.path()), [""; 0]);
        assert_eq!(std::fs::read_to_string(kept.path().join("file")).unwrap(), "kept");
        // A lock file that is a link does not count.
        let folder = dead(place.path(), "curec-6-f-0");
        std::fs::write(kept.path().join("mark"), MARK).unwrap();
        std::fs::remove_file(folder.join(OWNER)).unwrap();
        std::os::unix::fs::symlink(kept.path().join("mark"), folder.join(OWNER)).unwrap();
        assert_eq!(sweep(place.path()).folders, 0);
    }

    #[test]
    fn a_half_goes_unless_it_got_its_name() {
        let place = tempfile::tempdir().unwrap();
        for renamed in [false, true] {
            let (half, whole) = (place.path().join("a.part"), place.path().join("a"));
            let partial = Partial::new(&half);
            std::fs::write(partial.path(), "rows").unwrap();
            if renamed {
                std::fs::rename(&half, &whole).unwrap();
            }
            drop(partial);
            assert!(!half.exists());
            assert_eq!(whole.exists(), renamed);
        }
    }
}
