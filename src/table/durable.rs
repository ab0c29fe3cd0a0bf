//! The store of the local disk: what it has answered for is there after a power cut.
//!
//! Reads and lists as object_store's own, which syncs nothing; writes itself, in the order that [`crate::disk`] tells. Two
//! kinds of places need less. What lies in `_staging` is relied on by nothing until it is copied to its place, and the
//! copy brings it to the disk. A lease says nothing after a power cut, which ends whoever held it; it is only never
//! half of one. Knows nothing of tables.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::path::{Path as LocalPath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, UploadPart,
};

use crate::disk;

/// The local disk.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    inner: Arc<LocalFileSystem>,
}

/// How much of a file must be on the disk.
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

    /// Once everything is written to `file`, which is not read again.
    fn close(self, file: File) -> std::io::Result<()> {
        if self == Needs::Nothing { Ok(()) } else { disk::sync_file(&file) }
    }

    /// Once it has its name.
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
    // The folder that lost a file may be another one: its loss comes before what is written now.
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

/// The copy is the same file under one more name: nothing changes a file that has its name.
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

/// Does disk work where it keeps nobody waiting.
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

/// What only stores elsewhere can keep.
fn unsupported(what: &str) -> object_store::Error {
    object_store::Error::NotImplemented { operation: what.into(), implementer: "the local disk".into() }
}

impl fmt::Display for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("local disk")
    }
}

#[async_trait::async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Durable {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        let new = match opts.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => return Err(unsupported("a put of a version")),
        };
        if !opts.attributes.is_empty() {
            return Err(unsupported("attributes"));
        }
        let needs = Needs::of(location);
        let target = self.inner.path_to_filesystem(location)?;
        blocking(target, move |target| put(target, &payload, new, needs)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        if !opts.attributes.is_empty() {
            return Err(unsupported("attributes"));
        }
        let needs = Needs::of(location);
        let target = self.inner.path_to_filesystem(location)?;
        let (file, part) = blocking(target.clone(), move |target| begin(target, needs)).await?;
        let open = Arc::new(Open { file: Mutex::new(Some(file)), part });
        Ok(Box::new(Upload { open, target, needs, offset: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[std::ops::Range<u64>],
    ) -> object_store::Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let names = Arc::clone(&self.inner);
        let delete = move |location: object_store::Result<Path>| {
            let names = Arc::clone(&names);
            let path = location.and_then(|location| Ok((names.path_to_filesystem(&location)?, location)));
            async move {
                let (path, location) = path?;
                let is_staged = Needs::of(&location) == Needs::Nothing;
                let remove = move |path: &LocalPath| match is_staged {
                    true => std::fs::remove_file(path),
                    false => disk::remove(path),
                };
                blocking(path, remove).await.map(|()| location)
            }
        };
        locations.map(delete).buffered(10).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        let (needs, new) = (Needs::of(to), matches!(options.mode, CopyMode::Create));
        let (from, to) = (self.inner.path_to_filesystem(from)?, self.inner.path_to_filesystem(to)?);
        blocking(from, move |from| copy(from, &to, new, needs)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        // Nothing here renames objects: the log of what the drill would take need not know how.
        let _ = (from, to, options);
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
        // Gone already where it got its name.
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
