//! Where bytes lie: one [`Location`] for a folder or object on local disk, in memory (tests) or on S3.
//!
//! Knows URLs, object stores and their errors, and offers the one primitive that publishing needs everywhere: *put if
//! nothing has changed since I looked*. Knows nothing of Parquet, contracts or partitions. Reads no environment
//! variable: `config` passes the AWS variables in as [`StoreOptions`]. No error that leaves here holds a credential.
//! Repeating failed requests is object_store's business, what repetition makes of a conditional put is ours.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::TryLockError;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use arrow::error::ArrowError;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::memory::InMemory;
use object_store::path::{Path, PathPart};
use object_store::{ClientConfigKey, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig, UpdateVersion};
use parquet::errors::ParquetError;
use url::Url;

use crate::config::Job;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::printable;
use crate::table::credentials;
use crate::table::durable::Durable;
use crate::table::faults::{self, FailPoint};
use crate::table::redact::{Scrubbed, redact, remember};
use crate::table::traffic::Watched;

/// What a store needs to be opened and an URL does not say.
#[derive(Clone)]
pub struct StoreOptions {
    /// The standard AWS variables by their names in the environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP` ...; and `CUREC_FAIL_POINT`, the drill
    /// of [`crate::table::faults`]. Others are ignored.
    pub vars: BTreeMap<String, String>,
    /// Longest time for one request and its answer.
    pub timeout: Duration,
    /// Longest time for a connection.
    pub connect_timeout: Duration,
    /// How often a request is made again that failed in a way that may pass.
    pub max_retries: usize,
    /// No request is made again after so long.
    pub retry_timeout: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            vars: BTreeMap::new(),
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            max_retries: 10,
            retry_timeout: Duration::from_secs(180),
        }
    }
}

impl StoreOptions {
    /// The options of a job's stores: its variables and its `[store]`.
    pub fn of(job: &Job) -> Self {
        let store = &job.spec.store;
        StoreOptions {
            vars: job.aws.clone(),
            timeout: Duration::from_secs_f64(store.timeout_seconds),
            connect_timeout: Duration::from_secs_f64(store.connect_seconds),
            max_retries: store.max_retries,
            retry_timeout: Duration::from_secs_f64(store.retry_seconds),
        }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions").field("vars", &self.vars.keys().collect::<Vec<_>>()).finish()
    }
}

/// A folder or an object on a store. Cheap to clone; children share the store's connections.
#[derive(Clone)]
pub struct Location {
    store: Arc<dyn ObjectStore>,
    /// `file://`, `memory://name` or `s3://bucket`: what names the store itself.
    base: Arc<Url>,
    path: Path,
    url: String,
}

/// One object of a listing.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it is.
    pub location: Location,
    /// Bytes.
    pub size: u64,
    /// When the store says that it was written.
    pub last_modified: chrono::DateTime<chrono::Utc>,
    /// The store's tag for its content, where it has one.
    pub e_tag: Option<String>,
}

/// Which version of an object was read; what [`Location::put_if`] compares with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    e_tag: Option<String>,
    version: Option<String>,
}

/// In-memory stores by name: a process's tests name one store from several places, as they would a bucket.
static MEMORY: LazyLock<Mutex<BTreeMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

impl Location {
    /// Opens a path, `file://`, `memory://name/prefix` or `s3://bucket/prefix` without any store options.
    ///
    /// # Errors
    /// `Kind::Config` when the text is no location that curec can open.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_with(text, &StoreOptions::default())
    }

    /// As [`Location::parse`], with credentials and endpoint for S3. Opens no connection.
    ///
    /// # Errors
    /// `Kind::Config` when the text is no location that curec can open.
    pub fn parse_with(text: &str, options: &StoreOptions) -> Result<Self> {
        remember(&options.vars);
        let mut found = Self::open(text, options)?;
        if let Some(point) = options.vars.get(faults::VARIABLE) {
            found.store = FailPoint::parse(point)?.around(found.store);
        }
        Ok(found)
    }

    fn open(text: &str, options: &StoreOptions) -> Result<Self> {
        let bad = |why: &str| Error::new(Kind::Config, format!("{why}: {}", redact(text)));
        if text.is_empty() {
            return Err(Error::new(Kind::Config, "a location is empty").hint("name a path or an s3:// URL"));
        }
        let Some((scheme, _)) = text.split_once("://") else {
            let absolute = std::path::absolute(text).context(Kind::Config, || format!("cannot resolve {text}"))?;
            return Self::local(absolute);
        };
        // In a path they are characters like others, as the AWS tools take them: nothing here knows queries or fragments.
        let escaped = text.replace('#', "%23").replace('?', "%3F");
        let url = Url::parse(&escaped).context(Kind::Config, || format!("not a valid URL: {}", redact(text)))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("credentials do not belong into an URL").hint("use the standard AWS variables"));
        }
        match scheme {
            "file" => Self::local(url.to_file_path().map_err(|()| bad("not a local file URL"))?),
            "memory" => {
                let name = url.host_str().unwrap_or_default().to_owned();
                let store = {
                    let mut stores = MEMORY.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    Arc::clone(stores.entry(name.clone()).or_default())
                };
                let path = Path::from_url_path(url.path()).context(Kind::Config, || redact(text))?;
                Self::assemble(store, &format!("memory://{name}"), path)
            }
            "s3" | "s3a" => {
                let bucket = url.host_str().filter(|b| !b.is_empty()).ok_or_else(|| bad("the URL names no bucket"))?;
                let mut builder = AmazonS3Builder::new().with_bucket_name(bucket);
                for (name, value) in &options.vars {
                    if name.starts_with("AWS_") && value.chars().any(char::is_control) {
                        return Err(Error::new(
                            Kind::Config,
                            format!("the variable {name} holds a line end or another control character"),
                        )
                        .hint("set it to the value alone; a line end at its very end is left out"));
                    }
                    if let Ok(key) = name.to_ascii_lowercase().parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                for (key, time) in [
                    (ClientConfigKey::Timeout, options.timeout),
                    (ClientConfigKey::ConnectTimeout, options.connect_timeout),
                ] {
                    builder = builder.with_config(AmazonS3ConfigKey::Client(key), format!("{}ms", time.as_millis()));
                }
                let retry = RetryConfig {
                    max_retries: options.max_retries,
                    retry_timeout: options.retry_timeout,
                    ..RetryConfig::default()
                };
                let builder = builder.with_retry(retry).with_http_connector(Watched);
                let builder = credentials::of(builder, &options.vars)?;
                let store = builder.build().map_err(|e| {
                    Error::new(Kind::Config, format!("cannot open the S3 bucket {bucket}"))
                        .source(Scrubbed::new(&e))
                        .hint(
                            "set AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_ENDPOINT_URL elsewhere)",
                        )
                })?;
                let path = Path::from_url_path(url.path()).context(Kind::Config, || redact(text))?;
                Self::assemble(Arc::new(store), &format!("s3://{bucket}"), path)
            }
            _ => Err(bad("curec cannot open this kind of URL").hint("use a path, file://, s3:// or memory:// (tests)")),
        }
    }

    fn local(absolute: PathBuf) -> Result<Self> {
        // `a/../b` would otherwise be refused by the store as an invalid segment.
        let mut clean = PathBuf::new();
        for part in absolute.components() {
            match part {
                std::path::Component::ParentDir => {
                    clean.pop();
                }
                std::path::Component::CurDir => {}
                other => clean.push(other),
            }
        }
        let path = Path::from_absolute_path(&clean).map_err(|e| {
            Error::new(Kind::Config, "not a usable local path")
                .with("file", clean.display())
                .hint("a path may not hold control characters")
                .source(printable::line(&e.to_string()).into_owned())
        })?;
        Self::assemble(Arc::new(Durable::default()), "file://", path)
    }

    fn assemble(store: Arc<dyn ObjectStore>, base: &str, path: Path) -> Result<Self> {
        let base = Url::parse(&format!("{base}/")).context(Kind::Internal, || format!("base URL {base}"))?;
        Ok(Self::at(store, Arc::new(base), path))
    }

    fn at(store: Arc<dyn ObjectStore>, base: Arc<Url>, path: Path) -> Self {
        let url = format!("{}/{path}", base.as_str().trim_end_matches('/'));
        let url = if base.scheme() == "file" { format!("file:///{path}") } else { url };
        Location { store, base, path, url }
    }

    /// A location below this one; `relative` may hold several segments divided by `/`.
    pub fn child(&self, relative: &str) -> Self {
        let mut path = self.path.clone();
        for part in relative.split('/').filter(|p| !p.is_empty()) {
            path = path.join(PathPart::from(part));
        }
        Self::at(Arc::clone(&self.store), Arc::clone(&self.base), path)
    }

    /// The location of an object of the same store.
    pub fn sibling(&self, path: Path) -> Self {
        Self::at(Arc::clone(&self.store), Arc::clone(&self.base), path)
    }

    /// The URL as text, such as `s3://bucket/prefix/a.parquet`; local ones read `file:///...`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL of the store alone (`file:///`, `s3://bucket/`): what an engine registers the store under.
    pub fn store_url(&self) -> &Url {
        &self.base
    }

    /// The path on this machine's disk, for local locations. Not by way of the URL: a name may hold `%`, `?` or `#`.
    pub fn local_path(&self) -> Option<PathBuf> {
        (self.base.scheme() == "file").then(|| PathBuf::from(format!("/{}", self.path)))
    }

    /// The store.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// The path inside the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last segment of the path.
    pub fn name(&self) -> &str {
        self.path.filename().unwrap_or_default()
    }

    /// The path relative to `root`, when this location lies in or below it.
    pub fn relative_to(&self, root: &Location) -> Option<String> {
        let parts = self.path.prefix_match(&root.path)?;
        Some(parts.map(|p| p.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
    }

    /// Writes the whole object, atomically, over whatever is there.
    ///
    /// # Errors
    /// As [`fail`].
    pub async fn put(&self, bytes: Bytes) -> Result<()> {
        self.store.put(&self.path, bytes.into()).await.map_err(|e| fail(&e, "write", self))?;
        Ok(())
    }

    /// Writes the object only if there is none; `false` when there is one with other bytes.
    ///
    /// # Errors
    /// As [`fail`].
    pub async fn put_new(&self, bytes: Bytes) -> Result<bool> {
        self.put_once(PutMode::Create, bytes, "create").await
    }

    /// Writes the object only if it is still as it was `seen` (`None`: only if there is none); `false` when another
    /// writer came first. Compare-and-swap on every store: conditional put by tag on S3 and in memory, an advisory lock on
    /// the object on local disk.
    ///
    /// `true` says that the object holds these bytes now. Where two writers may bring the same bytes, both can hear it: who
    /// needs to be the only one writes something that is only his, such as a run id.
    ///
    /// # Errors
    /// As [`fail`].
    pub async fn put_if(&self, seen: Option<&Version>, bytes: Bytes) -> Result<bool> {
        let Some(seen) = seen else {
            return self.put_new(bytes).await;
        };
        if let Some(path) = self.local_path() {
            let Some(_lock) = Lock::of_object(&path).await? else { return Ok(false) };
            return match self.get_versioned().await? {
                Some((_, now)) if now == *seen => self.put(bytes).await.map(|()| true),
                Some((now, _)) => Ok(now == bytes),
                None => Ok(false),
            };
        }
        let mode = PutMode::Update(UpdateVersion { e_tag: seen.e_tag.clone(), version: seen.version.clone() });
        self.put_once(mode, bytes, "update").await
    }

    /// A conditional put. A request whose answer was lost may have been carried out: made again, it is refused because of
    /// its own effect. So a refusal or a lost answer is only believed after a look at the object.
    async fn put_once(&self, mode: PutMode, bytes: Bytes, doing: &str) -> Result<bool> {
        use object_store::Error as E;
        let Err(e) = self.store.put_opts(&self.path, bytes.clone().into(), PutOptions::from(mode)).await else {
            return Ok(true);
        };
        let refused = matches!(e, E::AlreadyExists { .. } | E::Precondition { .. } | E::NotFound { .. });
        let error = fail(&e, doing, self);
        if !refused && error.kind() != Kind::Temporary {
            return Err(error);
        }
        match self.get().await {
            Ok(Some(now)) if now == bytes => Ok(true),
            // A bucket that is not there refuses everything.
            Ok(_) if refused && error.kind() != Kind::Config => Ok(false),
            Err(unread) if refused => Err(unread),
            _ => Err(error),
        }
    }

    /// The whole object, or `None` where there is none.
    ///
    /// # Errors
    /// As [`fail`].
    pub async fn get(&self) -> Result<Option<Bytes>> {
        Ok(self.get_versioned().await?.map(|(bytes, _)| bytes))
    }

    /// The whole object and its version, or `None` where there is none.
    ///
    /// # Errors
    /// As [`fail`].
    pub async fn get_versioned(&self) -> Result<Option<(Bytes, Version)>> {
        let found = match self.store.get(&self.path).await {
            Ok(found) => found,
            Err(e) if is_missing(&e) => return Ok(None),
            Err(e) => return Err(fail(&e, "read", self)),
        };
        let version = Version { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        let bytes = found.bytes().await.map_err(|e| fail(&e, "read", self))?;
        Ok(Some((bytes, version)))
    }

    /// The object's size and times, or `None` where there is no object.
    ///
    /// # Errors
    /// As [`fail`].
    pub async fn head(&self) -> Result<Option<Entry>> {
        match self.store.head(&self.path).await {
            Ok(meta) => Ok(Some(self.entry(meta))),
            Err(e) if is_missing(&e) => Ok(None),
            Err(e) => Err(fail(&e, "look at", self)),
        }
    }

    /// Every object below this location, at any depth, in the order of their paths. Empty where there is nothing.
    ///
    /// # Errors
    /// As [`fail`].
    pub async fn list(&self) -> Result<Vec<Entry>> {
        let found = self.store.list(Some(&self.path)).try_collect::<Vec<_>>().await;
        let mut metas = match found {
            Ok(metas) => metas,
            Err(e) if is_missing(&e) => Vec::new(),
            Err(e) => return Err(fail(&e, "list", self)),
        };
        metas.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(metas.into_iter().map(|meta| self.entry(meta)).collect())
    }

    fn entry(&self, meta: object_store::ObjectMeta) -> Entry {
        let location = self.sibling(meta.location);
        Entry { location, size: meta.size, last_modified: meta.last_modified, e_tag: meta.e_tag }
    }

    /// Removes the object; removing what is not there succeeds.
    ///
    /// # Errors
    /// As [`fail`].
    pub async fn delete(&self) -> Result<()> {
        match self.store.delete(&self.path).await {
            Ok(()) => Ok(()),
            Err(e) if is_missing(&e) => Ok(()),
            Err(e) => Err(fail(&e, "remove", self)),
        }
    }

    /// Copies the object, over whatever is at `target`. Server-side within one store, streamed through otherwise.
    ///
    /// # Errors
    /// As [`fail`].
    pub async fn copy_to(&self, target: &Location) -> Result<()> {
        if Arc::ptr_eq(&self.store, &target.store) || (self.base == target.base && self.base.scheme() != "memory") {
            return self.store.copy(&self.path, &target.path).await.map_err(|e| fail(&e, "copy", self));
        }
        let bytes = self.get().await?.ok_or_else(|| missing(self))?;
        target.put(bytes).await
    }

    /// blake3 over the object's bytes as 64 hex digits, streamed.
    ///
    /// # Errors
    /// As [`fail`]; `Kind::Input` where there is no object.
    pub async fn digest(&self) -> Result<String> {
        let found = self.store.get(&self.path).await.map_err(|e| fail(&e, "read", self))?;
        let mut hasher = blake3::Hasher::new();
        let mut stream = found.into_stream();
        while let Some(bytes) = stream.try_next().await.map_err(|e| fail(&e, "read", self))? {
            hasher.update(&bytes);
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

impl PartialEq for Location {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url
    }
}

impl Eq for Location {}

impl fmt::Display for Location {
    /// A local path as a path, everything else as an URL: what a person would type.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.local_path() {
            Some(path) => write!(f, "{}", path.display()),
            None => f.write_str(&self.url),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({})", self.url)
    }
}

/// How long to wait for a lock, which is held for milliseconds by whoever is not stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// An advisory lock on a local file or folder; gone with the process that dies.
pub(crate) struct Lock(#[allow(dead_code)] std::fs::File);

impl Lock {
    /// Of the folder that holds a local object, made where there is none.
    async fn of_folder(object: PathBuf) -> Result<Self> {
        let folder = object.parent().map(std::path::Path::to_path_buf).unwrap_or(object);
        disk::make_folder(&folder).map_err(|e| unlockable(&folder, e))?;
        let handle = std::fs::File::open(&folder).map_err(|e| unlockable(&folder, e))?;
        Lock::take(handle, &folder).await
    }

    /// Of a local object as it lies there now, and of no other in its folder; `None` where there is none. Objects are
    /// replaced by renaming, so who waited may hold what is no longer the object. That does no harm to who then compares
    /// versions: a version can be replaced only by who holds its own file.
    async fn of_object(object: &std::path::Path) -> Result<Option<Self>> {
        // Network file systems lock a file for him alone who could write it; others let a reader.
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

/// Keeps other processes from switching or removing files below the folder that holds `folder`, as long as the answer
/// lives. `None` on stores that have no locks.
///
/// # Errors
/// `Kind::Busy` when another process keeps it for long; `Kind::Temporary` for the disk's.
pub(crate) async fn lock_folder(folder: &Location) -> Result<Option<Lock>> {
    match folder.local_path() {
        Some(path) => Lock::of_folder(path).await.map(Some),
        None => Ok(None),
    }
}

/// Files below a local folder that a process was writing when it died, with their sizes: the store writes `name#1` and
/// renames it, and hides such names from listings. Nothing elsewhere, and nothing of leases.
///
/// # Errors
/// `Kind::Temporary` when a folder cannot be read.
pub(crate) async fn torn_uploads(root: &Location) -> Result<Vec<(PathBuf, u64)>> {
    const WRITTEN: [&str; 5] = ["part-", "seg-", "_commit.json", "manifest", "report"];
    let is_torn = |name: &str| {
        let suffix = name.rsplit_once('#').map(|(_, suffix)| suffix);
        let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        suffix.is_some_and(is_number) && WRITTEN.iter().any(|begin| name.starts_with(begin))
    };
    let (mut folders, mut found) = (Vec::from_iter(root.local_path()), Vec::new());
    while let Some(folder) = folders.pop() {
        let unreadable =
            |e| Error::new(Kind::Temporary, "cannot read a folder").with("folder", folder.display()).source(e);
        let mut entries = match tokio::fs::read_dir(&folder).await {
            // Runs remove folders meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(unreadable)?,
        };
        while let Some(entry) = entries.next_entry().await.map_err(unreadable)? {
            let Ok(meta) = entry.metadata().await else { continue };
            if meta.is_dir() {
                folders.push(entry.path());
            } else if is_torn(&entry.file_name().to_string_lossy()) {
                found.push((entry.path(), meta.len()));
            }
        }
    }
    Ok(found)
}

/// Removes a folder and all in it; on local disk also what the store's listing hides, such as torn uploads.
pub(crate) async fn remove_folder(folder: &Location) -> Result<()> {
    for entry in folder.list().await? {
        entry.location.delete().await?;
    }
    if let Some(path) = folder.local_path() {
        match tokio::fs::remove_dir_all(&path).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::new(Kind::Temporary, "cannot remove a folder").with("file", folder).source(e));
            }
            _ => disk::thinned(&disk::folder_of(&path)),
        }
    }
    Ok(())
}

/// Whether a store or disk fault stands anywhere behind an error, which may pass, unlike damaged data.
pub fn is_store_fault(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| e.source()).any(|e| {
        let hidden = match (e.downcast_ref::<ParquetError>(), e.downcast_ref::<ArrowError>()) {
            (Some(ParquetError::External(inner)), _) | (_, Some(ArrowError::ExternalError(inner))) => Some(&**inner),
            _ => None,
        };
        e.is::<object_store::Error>() || e.is::<std::io::Error>() || hidden.is_some_and(|e| is_store_fault(e))
    })
}

/// The error for an object that has to be there and is not.
pub fn missing(at: &Location) -> Error {
    Error::new(Kind::Input, "no such file or folder").with("file", at)
}

/// Turns a store's error into curec's: `Kind::Input` for a missing object, `Kind::Config` for permissions, credentials and
/// locations that cannot work, `Kind::Temporary` for everything that may pass.
pub fn fail(error: &object_store::Error, doing: &str, at: &Location) -> Error {
    use object_store::Error as E;
    let text = Scrubbed::new(error);
    let kind = match error {
        // Said as "not found" or, to a listing, as any refusal.
        _ if names_no_bucket(&text) => Kind::Config,
        _ if credentials::are_missing(error) => return credentials::missing(at),
        // An upload whose completion was carried out but not answered, or that a lifecycle rule has removed.
        E::NotFound { .. } if text.to_string().contains("NoSuchUpload") => Kind::Temporary,
        E::NotFound { .. } => Kind::Input,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } | E::InvalidPath { .. } => Kind::Config,
        E::NotImplemented { .. } | E::NotSupported { .. } | E::UnknownConfigurationKey { .. } => Kind::Config,
        _ if io_kind(error).is_some_and(is_lasting) => Kind::Config,
        _ => Kind::Temporary,
    };
    let message = match kind {
        Kind::Input => "no such file or folder".to_owned(),
        Kind::Config => format!("not allowed to {doing}, or the location cannot work"),
        _ => format!("could not {doing}"),
    };
    let wrapped = Error::new(kind, message).with("file", at).source(text);
    match kind {
        Kind::Config => wrapped.hint("check the path, its permissions and, for S3, credentials, region and endpoint"),
        Kind::Temporary if io_kind(error).is_some_and(is_full) => wrapped.hint(FULL),
        _ => wrapped,
    }
}

/// What to do where [`is_full`].
pub(crate) const FULL: &str =
    "the disk or quota is full: make room and run the same command again; what was finished is kept";

/// Whether there is no room left.
pub(crate) fn is_full(kind: std::io::ErrorKind) -> bool {
    matches!(kind, std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Whether there is no such object; a bucket that does not exist is another matter.
fn is_missing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) && !names_no_bucket(&Scrubbed::new(error))
}

fn names_no_bucket(text: &Scrubbed) -> bool {
    text.to_string().contains("NoSuchBucket")
}

/// The first I/O error in the chain: the local store wraps permissions and full disks into its generic error.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        next = e.source();
    }
    None
}

fn is_lasting(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind as K;
    matches!(kind, K::PermissionDenied | K::NotADirectory | K::IsADirectory | K::ReadOnlyFilesystem | K::InvalidInput)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn locations_say_where_they_are() {
        let local = Location::parse("/tmp/a b/../w").unwrap();
        assert_eq!(local.local_path().unwrap(), PathBuf::from("/tmp/w"));
        assert_eq!(local.child("t/dt=2026-11-21/x.parquet").to_string(), "/tmp/w/t/dt=2026-11-21/x.parquet");
        let spaced = Location::parse("/tmp/a b%/c").unwrap();
        assert_eq!(spaced.local_path().unwrap(), PathBuf::from("/tmp/a b%/c"));
        // A child's name is encoded where a store could not hold it, on disk as elsewhere.
        assert_eq!(spaced.child("50%").local_path().unwrap(), PathBuf::from("/tmp/a b%/c/50%25"));
        // In URLs too a question mark and a hash belong to the name; percent escapes are read.
        let url = Location::parse("file:///tmp/a?b#c/d%20e").unwrap();
        assert_eq!(url.local_path().unwrap(), PathBuf::from("/tmp/a?b#c/d e"));
        let marked = Location::parse("/tmp/a?b#c/50%25").unwrap();
        assert_eq!(marked.local_path().unwrap(), PathBuf::from("/tmp/a?b#c/50%25"));
        let memory = Location::parse("memory://where/w").unwrap();
        assert_eq!(memory.url(), "memory://where/w");
        assert_eq!(memory.child("a/b").relative_to(&memory).unwrap(), "a/b");
        let vars = [("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];
        let vars = vars.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let options = StoreOptions { vars, ..StoreOptions::default() };
        let s3 = Location::parse_with("s3://bucket/pre/fix", &options).unwrap();
        assert_eq!(s3.child("a.parquet").url(), "s3://bucket/pre/fix/a.parquet");
        let marked = Location::parse_with("s3://bucket/team#1/what?x=1", &options).unwrap();
        assert_eq!(marked.path().as_ref(), "team#1/what?x=1");
        assert!(!format!("{options:?}{s3:?}").contains("hunter2"));
    }

    #[test]
    fn what_cannot_be_opened_is_a_configuration_error() {
        for text in ["", "ftp://host/x", "s3:///nobucket"] {
            let e = Location::parse(text).unwrap_err();
            assert_eq!(e.kind(), Kind::Config, "{text}");
        }
        let e = Location::parse("s3://key:hunter2@bucket/x").unwrap_err();
        assert!(!e.explain().contains("hunter2"), "{}", e.explain());
    }

    fn options(vars: &[(&str, &str)]) -> StoreOptions {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        StoreOptions { vars, ..StoreOptions::default() }
    }

    #[tokio::test]
    async fn where_there_are_no_credentials_the_variables_are_named_at_once() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let started = Instant::now();
        let metadata = format!("http://{nobody}");
        let at = Location::parse_with("s3://bucket/w", &options(&[("AWS_METADATA_ENDPOINT", &metadata)])).unwrap();
        for error in [
            at.child("x").get().await.unwrap_err(),
            at.child("x").put_new(Bytes::from_static(b"1")).await.unwrap_err(),
            at.list().await.unwrap_err(),
            Location::parse_with("s3://bucket/w", &options(&[("AWS_EC2_METADATA_DISABLED", "true")])).unwrap_err(),
        ] {
            assert_eq!(error.kind(), Kind::Config, "{error:?}");
            assert!(error.explain().contains("AWS_ACCESS_KEY_ID"), "{}", error.explain());
        }
        assert!(started.elapsed() < Duration::from_secs(5), "it took {:?}", started.elapsed());
    }

    #[test]
    fn a_control_character_in_a_variable_is_refused_by_its_name() {
        let vars = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "hunter2\nhunter3")];
        let error = Location::parse_with("s3://bucket/w", &options(&vars)).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.explain().contains("AWS_SECRET_ACCESS_KEY"), "{}", error.explain());
        assert!(!error.explain().contains("hunter"), "{}", error.explain());
    }

    async fn compare_and_swap(root: Location) {
        let at = root.child("x/_commit.json");
        assert!(at.get().await.unwrap().is_none());
        assert!(at.put_if(None, Bytes::from_static(b"1")).await.unwrap());
        assert!(!at.put_if(None, Bytes::from_static(b"2")).await.unwrap());
        let (bytes, seen) = at.get_versioned().await.unwrap().unwrap();
        assert_eq!(&bytes[..], b"1");
        assert!(at.put_if(Some(&seen), Bytes::from_static(b"22")).await.unwrap());
        assert!(!at.put_if(Some(&seen), Bytes::from_static(b"333")).await.unwrap());
        assert_eq!(at.get().await.unwrap().unwrap(), Bytes::from_static(b"22"));
        let copy = root.child("y/copy");
        at.copy_to(&copy).await.unwrap();
        assert_eq!(root.list().await.unwrap().len(), 2);
        assert_eq!(copy.digest().await.unwrap(), blake3::hash(b"22").to_hex().to_string());
        copy.delete().await.unwrap();
        copy.delete().await.unwrap();
        assert!(copy.head().await.unwrap().is_none());
        assert!(root.child("nothing here").list().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn compare_and_swap_in_memory() {
        compare_and_swap(Location::parse("memory://cas/w").unwrap()).await;
    }

    #[tokio::test]
    async fn compare_and_swap_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        compare_and_swap(Location::parse(folder.path().to_str().unwrap()).unwrap()).await;
    }
}
