//! A store that reads and lists like another one, and writes in its own way.
//!
//! Both the local disk ([`crate::table::durable`]) and the drills ([`crate::table::faults`]) are such stores; what they
//! do differently is [`Writes`]. Knows object_store's trait. Knows nothing of disks, drills or tables.

use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions,
};

/// Everything that changes a store; each method takes what object_store's method of the longer name takes.
#[async_trait::async_trait]
pub(crate) trait Writes: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// How many objects are removed at the same time.
    const REMOVED_AT_ONCE: usize;

    /// Writes a whole object.
    async fn put(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> object_store::Result<PutResult>;

    /// Begins to write an object in parts.
    async fn upload(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>>;

    /// Removes one object.
    async fn remove(&self, location: &Path) -> object_store::Result<()>;

    /// Copies one object.
    async fn copy(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()>;

    /// Renames one object.
    async fn rename(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()>;
}

/// The store that writes by `writes` and reads from `inner`.
#[derive(Debug)]
pub(crate) struct WriteLayer<W> {
    writes: Arc<W>,
    inner: Arc<dyn ObjectStore>,
}

impl<W: Writes> WriteLayer<W> {
    /// `writes` must write where `inner` reads.
    pub(crate) fn new(writes: W, inner: Arc<dyn ObjectStore>) -> Self {
        WriteLayer { writes: Arc::new(writes), inner }
    }
}

impl<W: Writes> fmt::Display for WriteLayer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.writes.fmt(f)
    }
}

#[async_trait::async_trait]
#[deny(clippy::missing_trait_methods)]
impl<W: Writes> ObjectStore for WriteLayer<W> {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.writes.put(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.writes.upload(location, opts).await
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
        let writes = Arc::clone(&self.writes);
        let remove = move |location: object_store::Result<Path>| {
            let writes = Arc::clone(&writes);
            async move {
                let location = location?;
                writes.remove(&location).await.map(|()| location)
            }
        };
        locations.map(remove).buffered(W::REMOVED_AT_ONCE).boxed()
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
        self.writes.copy(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        self.writes.rename(from, to, options).await
    }
}
