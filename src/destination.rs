//! A path that a command writes its output to.
//!
//! Pipes, devices and the process's own streams are written to directly. A regular file is replaced atomically, by a
//! temporary file that is renamed; a link to it stays. Knows nothing of what is written.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, IsTerminal, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::scratch::Partial;

/// Links that are followed before they count as a loop.
const LINKS: usize = 40;

/// A path that was checked to be writable, as far as that can be checked in advance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// As the user gave it.
    path: PathBuf,
    way: Way,
}

/// How to write there.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Stdout,
    Stderr,
    /// A pipe or device.
    Stream(PathBuf),
    /// A regular file, or nothing yet.
    Replace(PathBuf),
    /// A regular file in a folder where no file can be created, such as one that is mounted by itself.
    InPlace(PathBuf),
}

impl Destination {
    /// Looks at what is at a path and checks whether it can be written; changes nothing.
    ///
    /// # Errors
    /// `Kind::Usage` for folders, sockets, circular links, missing parent folders, and paths without write permission.
    pub fn find(path: &Path) -> Result<Destination> {
        let unusable = |e: std::io::Error| unusable(path, e);
        let way = find(path).map_err(unusable)?;
        let found = Destination { path: path.to_path_buf(), way };
        match &found.way {
            Way::Stdout | Way::Stderr => Ok(found),
            Way::Stream(at) | Way::InPlace(at) => may_write(at).map_err(unusable).map(|()| found),
            Way::Replace(target) => match probe(target) {
                Ok(()) => Ok(found),
                Err(e) => match target.exists() && may_write(target).is_ok() {
                    true => Ok(Destination { way: Way::InPlace(target.clone()), ..found }),
                    false => Err(unusable(e)),
                },
            },
        }
    }

    /// Whether it is the process's own standard output.
    pub fn is_stdout(&self) -> bool {
        self.way == Way::Stdout
    }

    /// The path as the user gave it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for writing. A regular file stays as it was until [`Opened::finish`].
    ///
    /// Opening a pipe blocks until a reader opens it.
    ///
    /// # Errors
    /// `Kind::Usage` where it cannot be opened.
    pub fn open(&self) -> Result<Opened> {
        let sink = match &self.way {
            Way::Stdout => Ok(Sink::Stdout),
            Way::Stderr => Ok(Sink::Stderr),
            Way::Stream(at) => OpenOptions::new().append(true).open(at).map(|file| Sink::File(BufWriter::new(file))),
            Way::InPlace(at) => {
                let file = OpenOptions::new().write(true).truncate(true).open(at);
                file.map(|file| Sink::File(BufWriter::new(file)))
            }
            Way::Replace(target) => {
                let beside = disk::beside(target);
                let mut options = OpenOptions::new();
                options.read(true).write(true).create_new(true);
                if let Ok(before) = std::fs::metadata(target) {
                    // The new file must not be readable by users who may not read the old one.
                    options.mode(before.permissions().mode() & 0o777);
                }
                let open = options.open(beside.path()).inspect(|file| {
                    // Marks it as in use; on a file system without locks no other process gets the lock either.
                    let _ = file.try_lock();
                });
                open.map(|file| Sink::Beside { file: BufWriter::new(file), beside, target: target.clone() })
            }
        };
        Ok(Opened { path: self.path.clone(), sink: sink.map_err(|e| unusable(&self.path, e))? })
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// As [`Destination::open`] and [`Opened::finish`].
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut opened = self.open()?;
        opened.write_all(bytes).map_err(|e| failed(&self.path, e))?;
        opened.finish()
    }
}

/// An open destination; a temporary file is removed if it is dropped before [`Opened::finish`].
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    Stderr,
    File(BufWriter<File>),
    Beside { file: BufWriter<File>, beside: Partial, target: PathBuf },
}

impl Opened {
    /// Whether it is a terminal.
    pub fn is_terminal(&self) -> bool {
        match &self.sink {
            Sink::Stdout => std::io::stdout().is_terminal(),
            Sink::Stderr => std::io::stderr().is_terminal(),
            Sink::File(file) => file.get_ref().is_terminal(),
            Sink::Beside { .. } => false,
        }
    }

    /// Flushes, and renames a temporary file to its final name.
    ///
    /// # Errors
    /// `Kind::BrokenPipe` if the reader has closed the pipe, else `Kind::Temporary`.
    pub fn finish(mut self) -> Result<()> {
        let done = self.flush().and_then(|()| match &mut self.sink {
            Sink::Beside { file, beside, target } => replace(file.get_mut(), beside.path(), target),
            _ => Ok(()),
        });
        done.map_err(|e| failed(&self.path, e))
    }
}

impl Write for Opened {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.sink {
            Sink::Stdout => std::io::stdout().write(bytes),
            Sink::Stderr => std::io::stderr().write(bytes),
            Sink::File(file) | Sink::Beside { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.sink {
            Sink::Stdout => std::io::stdout().flush(),
            Sink::Stderr => std::io::stderr().flush(),
            Sink::File(file) | Sink::Beside { file, .. } => file.flush(),
        }
    }
}

/// Replaces a file by the temporary one, or overwrites its content if it cannot be replaced.
fn replace(file: &mut File, beside: &Path, target: &Path) -> std::io::Result<()> {
    if let Ok(before) = std::fs::metadata(target) {
        // Best effort: writing the file matters more than its permissions.
        let _ = file.set_permissions(before.permissions());
    }
    disk::written(beside);
    disk::sync_file(file)?;
    let Err(e) = disk::rename(beside, target) else { return disk::sync_folder(&disk::folder_of(target)) };
    // Mounted by itself, or another user's file in a sticky folder.
    if !matches!(e.kind(), ErrorKind::ResourceBusy | ErrorKind::CrossesDevices | ErrorKind::PermissionDenied) {
        return Err(e);
    }
    let mut into = OpenOptions::new().write(true).truncate(true).open(target).map_err(|_| e)?;
    file.rewind()?;
    std::io::copy(file, &mut into).map(|_| ())
}

/// Resolves links by hand: the last target may not exist yet, and links to open files of a process are no paths.
fn find(path: &Path) -> std::io::Result<Way> {
    let mut at = std::path::absolute(path)?;
    for _ in 0..LINKS {
        match own_stream(&at) {
            Some(1) => return Ok(Way::Stdout),
            Some(2) => return Ok(Way::Stderr),
            Some(_) => return Ok(Way::Stream(at)),
            None => {}
        }
        let kind = match std::fs::symlink_metadata(&at) {
            Ok(found) => found.file_type(),
            Err(e) if e.kind() == ErrorKind::NotFound && at.file_name().is_some() => return Ok(Way::Replace(at)),
            Err(e) => return Err(e),
        };
        if kind.is_symlink() {
            let to = std::fs::read_link(&at)?;
            at = at.parent().unwrap_or(Path::new("/")).join(to);
        } else if kind.is_file() {
            return Ok(Way::Replace(at));
        } else if kind.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        } else if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
            return Ok(Way::Stream(at));
        } else {
            return Err(std::io::Error::other("it is a socket"));
        }
    }
    Err(std::io::Error::other("its links lead round in a circle"))
}

/// The file descriptor of this process that a path names, such as `/dev/stdout`. Opening such a path again would
/// overwrite what was written before.
fn own_stream(at: &Path) -> Option<u32> {
    match at.to_str()? {
        "/dev/stdout" => Some(1),
        "/dev/stderr" => Some(2),
        text => {
            let own = format!("/proc/{}/fd/", std::process::id());
            let of = ["/dev/fd/", "/proc/self/fd/", "/proc/thread-self/fd/", &own];
            of.iter().find_map(|folder| text.strip_prefix(folder))?.parse().ok()
        }
    }
}

/// Whether a file can be created next to another.
fn probe(target: &Path) -> std::io::Result<()> {
    let beside = disk::beside(target);
    OpenOptions::new().write(true).create_new(true).open(beside.path()).map(|_| ())
}

/// Whether permissions allow writing; a pipe is not opened for this, as its reader would notice.
fn may_write(at: &Path) -> std::io::Result<()> {
    let path = CString::new(at.as_os_str().as_bytes())?;
    // SAFETY: `path` ends with a null byte and lives until the call returns.
    match unsafe { libc::access(path.as_ptr(), libc::W_OK) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn unusable(path: &Path, e: std::io::Error) -> Error {
    let hint = match e.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => "make its folder first",
        ErrorKind::IsADirectory => "name a file in this folder",
        _ => "name a file, pipe or device that may be written",
    };
    Error::new(Kind::Usage, "cannot write there").with("file", path.display()).hint(hint).source(e)
}

fn failed(path: &Path, e: std::io::Error) -> Error {
    let kind = if e.kind() == ErrorKind::BrokenPipe { Kind::BrokenPipe } else { Kind::Temporary };
    Error::new(kind, "cannot write").with("file", path.display()).source(e)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let found = Destination::find(&path).unwrap();
        assert!(names(folder.path()).is_empty(), "looking changes nothing");
        found.write(b"first").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let mut half = Destination::find(&path).unwrap().open().unwrap();
        half.write_all(b"half").unwrap();
        half.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        drop(half);
        assert_eq!(names(folder.path()), ["out"], "what is given up is removed");
        Destination::find(&path).unwrap().write(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn links_stay_and_what_they_lead_to_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("real")).unwrap();
        std::fs::write(at("real/file"), "old").unwrap();
        symlink("real/file", at("link")).unwrap();
        symlink("link", at("second")).unwrap();
        symlink("real/new", at("dangling")).unwrap();
        for (link, target) in [("link", "real/file"), ("second", "real/file"), ("dangling", "real/new")] {
            Destination::find(&at(link)).unwrap().write(link.as_bytes()).unwrap();
            assert!(std::fs::symlink_metadata(at(link)).unwrap().is_symlink(), "{link}");
            assert_eq!(std::fs::read_to_string(at(target)).unwrap(), link);
        }
        assert_eq!(names(&at("real")), ["file", "new"]);
        symlink("b", at("a")).unwrap();
        symlink("a", at("b")).unwrap();
        for (name, says) in [("a", "circle"), ("real", "folder"), ("nowhere/file", "folder"), ("link/file", "folder")] {
            let e = Destination::find(&at(name)).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage, "{name}");
            assert!(e.explain().contains(says) && e.explain().contains(name), "{}", e.explain());
        }
    }

    #[test]
    fn devices_and_own_streams_are_written_to() {
        let null = Destination::find(Path::new("/dev/null")).unwrap();
        assert_eq!(null.way, Way::Stream("/dev/null".into()));
        null.write(b"x").unwrap();
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        for (path, way) in [("/dev/stdout", Way::Stdout), ("/proc/self/fd/2", Way::Stderr), ("/dev/fd/1", Way::Stdout)]
        {
            assert_eq!(Destination::find(Path::new(path)).unwrap().way, way, "{path}");
        }
    }

    #[test]
    fn a_pipe_stays_one_and_its_reader_gets_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let found = Destination::find(&path).unwrap();
        let from = path.clone();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            File::open(from).unwrap().read_to_string(&mut text).unwrap();
            text
        });
        found.write(b"through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(std::fs::metadata(&path).unwrap().file_type().is_fifo());
        assert_eq!(names(folder.path()), ["pipe"]);
    }
}
