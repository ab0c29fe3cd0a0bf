//! The store of the local disk: a write that was acknowledged survives a power cut.
//!
//! Reads and lists through object_store's own local store, which syncs nothing; writes on its own, in the order that
//! [`crate::disk`] describes. Two kinds of places need less. Nothing relies on a file in `_staging` until it is copied to
//! its place, and the copy syncs it. A lease means nothing after a power cut, which ends the process that held it; it only
//! must never be half written. Knows nothing of tables.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::path::{Path as LocalPath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, MultipartUpload, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, UploadPart,
};

use crate::disk;
use crate::table::write_layer::{WriteLayer, Writes};

/// The store of the local disk.
pub(crate) fn open() -> Arc<dyn ObjectStore> {
    let disk = Arc::new(LocalFileSystem::new());
    Arc::new(WriteLayer::new(Durable { disk: Arc::clone(&disk) }, disk))
}

/// How the local disk is written.
#[derive(Debug)]
struct Durable {
    disk: Arc<LocalFileSystem>,
}

/// How much of a file must be synced before a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing yet.
    Nothing,
    /// Its content before its name.
    Content,
    /// Both, before anything else is written.
    All,
}

impl Needs {
    fn of(location: &Path) -> Needs {
        let is_in = |folder: &str| location.parts().any(|part| part.as_ref() == folder);
        match (is_in("_staging"), is_in("_leases")) {
            (true, _) => Needs::Nothing,
            (_, true) => Needs::Content,
            _ => Needs::All,
        }
    }

    fn make_folder(self, path: &LocalPath) -> std::io::Result<()> {
        let folder = disk::folder_of(path);
        if self == Needs::Nothing { std::fs::create_dir_all(folder) } else { disk::make_folder(&folder) }
    }

    /// Call it once everything is written to `file`, which is not used again.
    fn close(self, file: File) -> std::io::Result<()> {
        if self == Needs::Nothing { Ok(()) } else { disk::sync_file(&file) }
    }

    /// Call it once the file has its name.
    fn finish(self, path: &LocalPath) -> std::io::Result<()> {
        if self != Needs::All {
            return Ok(());
        }
        disk::sync_folder(&disk::folder_of(path))?;
        disk::settle()
    }
}

/// A new file beside `target`, hidden from listings, and where it is.
fn begin(target: &LocalPath, needs: Needs) -> std::io::Result<(File, PathBuf)> {
    // A file may have been removed from another folder: that must reach the disk before what is written now.
    if needs == Needs::All {
        disk::settle()?;
    }
    for number in 1u64.. {
        let part = part_of(target, number);
        match File::options().read(true).write(true).create_new(true).open(&part) {
            Ok(file) => {
                disk::written(&part);
                return Ok((file, part));
            }
            Err(e) if e.kind() == ErrorKind::NotFound => needs.make_folder(target)?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

fn part_of(target: &LocalPath, number: u64) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(format!("#{number}"));
    PathBuf::from(name)
}

/// Gives a finished part the name `target`.
fn name(part: &LocalPath, target: &LocalPath, new: bool, needs: Needs) -> std::io::Result<()> {
    if new {
        disk::link(part, target)?;
        let _ = std::fs::remove_file(part);
    } else {
        disk::rename(part, target)?;
    }
    needs.finish(target)
}

fn put(target: &LocalPath, payload: &PutPayload, new: bool, needs: Needs) -> std::io::Result<()> {
    let (mut file, part) = begin(target, needs)?;
    let done = payload
        .iter()
        .try_for_each(|bytes| file.write_all(bytes))
        .and_then(|()| needs.close(file))
        .and_then(|()| name(&part, target, new, needs));
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

/// A copy is a hard link: a file that has its name never changes.
fn copy(from: &LocalPath, to: &LocalPath, new: bool, needs: Needs) -> std::io::Result<()> {
    let source = File::open(from)?;
    disk::settle()?;
    needs.close(source)?;
    if new {
        return match disk::link(from, to) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                needs.make_folder(to)?;
                disk::link(from, to)
            }
            done => done,
        }
        .and_then(|()| needs.finish(to));
    }
    for number in 1u64.. {
        let part = part_of(to, number);
        match std::fs::hard_link(from, &part) {
            Ok(()) => {
                return disk::rename(&part, to)
                    .inspect_err(|_| _ = std::fs::remove_file(&part))
                    .and_then(|()| needs.finish(to));
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) if e.kind() == ErrorKind::NotFound && from.exists() => needs.make_folder(to)?,
            Err(e) => return Err(e),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

fn failed(error: std::io::Error, path: &LocalPath) -> object_store::Error {
    let (kind, path) = (error.kind(), path.display().to_string());
    let source = Box::new(error);
    match kind {
        ErrorKind::NotFound => object_store::Error::NotFound { path, source },
        ErrorKind::AlreadyExists => object_store::Error::AlreadyExists { path, source },
        _ => object_store::Error::Generic { store: "local disk", source },
    }
}

/// Runs disk work on a thread where it blocks no asynchronous task.
async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(&LocalPath) -> std::io::Result<T> + Send + 'static,
) -> object_store::Result<T> {
    let work = move || work(&path).map_err(|e| failed(e, &path));
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}

/// The error for what only remote stores offer.
fn unsupported(what: &str) -> object_store::Error {
    object_store::Error::NotImplemented { operation: what.into(), implementer: "the local disk".into() }
}

impl fmt::Display for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("local disk")
    }
}

#[async_trait::async_trait]
impl Writes for Durable {
    const REMOVED_AT_ONCE: usize = 10;

    async fn put(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> object_store::Result<PutResult> {
        let new = match opts.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => return Err(unsupported("a put of a version")),
        };
        if !opts.attributes.is_empty() {
            return Err(unsupported("attributes"));
        }
        let needs = Needs::of(location);
        let target = self.disk.path_to_filesystem(location)?;
        blocking(target, move |target| put(target, &payload, new, needs)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn upload(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        if !opts.attributes.is_empty() {
            return Err(unsupported("attributes"));
        }
        let needs = Needs::of(location);
        let target = self.disk.path_to_filesystem(location)?;
        let (file, part) = blocking(target.clone(), move |target| begin(target, needs)).await?;
        let open = Arc::new(Open { file: Mutex::new(Some(file)), part });
        Ok(Box::new(Upload { open, target, needs, offset: 0 }))
    }

    async fn remove(&self, location: &Path) -> object_store::Result<()> {
        let is_staged = Needs::of(location) == Needs::Nothing;
        let remove = move |path: &LocalPath| match is_staged {
            true => std::fs::remove_file(path),
            false => disk::remove(path),
        };
        blocking(self.disk.path_to_filesystem(location)?, remove).await
    }

    async fn copy(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        let (needs, new) = (Needs::of(to), matches!(options.mode, CopyMode::Create));
        let (from, to) = (self.disk.path_to_filesystem(from)?, self.disk.path_to_filesystem(to)?);
        blocking(from, move |from| copy(from, &to, new, needs)).await
    }

    async fn rename(&self, _: &Path, _: &Path, _: RenameOptions) -> object_store::Result<()> {
        // Nothing here renames objects, so the drill's record of unsynced changes need not cover it.
        Err(unsupported("rename"))
    }
}

#[derive(Debug)]
struct Open {
    /// None once it is closed.
    file: Mutex<Option<File>>,
    part: PathBuf,
}

impl Open {
    fn with<T>(&self, work: impl FnOnce(&mut Option<File>) -> std::io::Result<T>) -> std::io::Result<T> {
        work(&mut self.file.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Already gone where the upload was completed.
        let _ = std::fs::remove_file(&self.part);
    }
}

#[derive(Debug)]
struct Upload {
    open: Arc<Open>,
    target: PathBuf,
    needs: Needs,
    offset: u64,
}

fn closed() -> std::io::Error {
    std::io::Error::other("the upload has ended")
}

#[async_trait::async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (offset, open) = (self.offset, Arc::clone(&self.open));
        self.offset += data.content_length() as u64;
        let write = move |_: &LocalPath| {
            open.with(|file| {
                let file = file.as_mut().ok_or_else(closed)?;
                file.seek(SeekFrom::Start(offset))?;
                data.iter().try_for_each(|bytes| file.write_all(bytes))
            })
        };
        Box::pin(blocking(self.target.clone(), write))
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let (open, needs) = (Arc::clone(&self.open), self.needs);
        let close = move |target: &LocalPath| {
            open.with(|file| needs.close(file.take().ok_or_else(closed)?))?;
            name(&open.part, target, false, needs)
        };
        blocking(self.target.clone(), close).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.open
            .with(|file| {
                file.take();
                Ok(())
            })
            .map_err(|e| failed(e, &self.target))?;
        let _ = std::fs::remove_file(&self.open.part);
        Ok(())
    }
}
