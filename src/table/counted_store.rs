//! A store for tests that counts how often its callers have to wait for it, one answer after the other.
//!
//! Every request waits for the next round, and a round begins when nothing but requests is left to wait for. With a latency of
//! 30 ms a hundred rounds would take three seconds, whatever the machine. Knows nothing of tables.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use tokio::sync::watch;

/// So often does the work get a turn without asking for anything before a round begins.
const QUIET_TURNS: usize = 50;

/// The requests of a store: how many, and who waits.
#[derive(Debug)]
pub(crate) struct Rounds {
    round: watch::Sender<usize>,
    requests: AtomicUsize,
    waiting: AtomicUsize,
    most: AtomicUsize,
}

impl Rounds {
    /// Waits for the next round.
    async fn pass(&self) {
        let mut round = self.round.subscribe();
        self.requests.fetch_add(1, Ordering::SeqCst);
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(waiting, Ordering::SeqCst);
        let _ = round.changed().await;
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Does some work, round by round. For a runtime of one thread.
    pub(crate) async fn drive<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let (mut seen, mut quiet) = (0, 0);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::task::yield_now() => {}
            }
            let requests = self.requests.load(Ordering::SeqCst);
            quiet = if requests == seen { quiet + 1 } else { 0 };
            seen = requests;
            if quiet >= QUIET_TURNS && self.waiting.load(Ordering::SeqCst) > 0 {
                self.round.send_modify(|round| *round += 1);
                quiet = 0;
            }
        }
    }

    /// Rounds so far.
    pub(crate) fn rounds(&self) -> usize {
        *self.round.borrow()
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// The most requests that waited at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// Objects in memory, and what asking for them costs.
#[derive(Debug)]
pub(crate) struct CountedStore {
    inner: Arc<InMemory>,
    rounds: Arc<Rounds>,
}

impl CountedStore {
    /// The same objects twice: to write them without waiting, and to read them round by round.
    pub(crate) fn twice() -> (Arc<dyn ObjectStore>, Arc<dyn ObjectStore>, Arc<Rounds>) {
        let (inner, round) = (Arc::new(InMemory::new()), watch::Sender::new(0));
        let (requests, waiting, most) = Default::default();
        let rounds = Arc::new(Rounds { round, requests, waiting, most });
        let counted = CountedStore { inner: Arc::clone(&inner), rounds: Arc::clone(&rounds) };
        (inner, Arc::new(counted), rounds)
    }
}

impl fmt::Display for CountedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counted {}", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for CountedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.rounds.pass().await;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.rounds.pass().await;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.rounds.pass().await;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<bytes::Bytes>> {
        self.rounds.pass().await;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let (rounds, found) = (Arc::clone(&self.rounds), self.inner.list(prefix));
        let first = async move {
            rounds.pass().await;
            found
        };
        futures::stream::once(first).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.rounds.pass().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.rounds.pass().await;
        self.inner.copy_opts(from, to, options).await
    }
}
