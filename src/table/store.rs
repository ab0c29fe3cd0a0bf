//! Where bytes lie: one [`Location`] for a folder or object on local disk, in memory (tests) or on S3.
//!
//! Knows URLs and object stores, and offers the one primitive that publishing needs everywhere: *put if nothing has
//! changed since I looked*. Knows nothing of Parquet, contracts or partitions. Reads no environment variable: `config`
//! passes the AWS variables in as [`StoreOptions`]. Repeating failed requests is object_store's business; what repetition
//! makes of a conditional put is ours.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::memory::InMemory;
use object_store::path::{Path, PathPart};
use object_store::{ClientConfigKey, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig, UpdateVersion};
use url::Url;

use crate::config::Job;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::printable;
use crate::table::credentials;
use crate::table::durable;
use crate::table::faults::{self, FailPoint};
use crate::table::file_lock::Lock;
use crate::table::redact::{Scrubbed, redact, remember};
use crate::table::store_error::{fail, is_missing, missing};
use crate::table::traffic::Watched;

/// What is needed to open a store besides its URL.
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
    /// How many times a request is retried after a failure that may be temporary.
    pub max_retries: usize,
    /// No request is retried after this time.
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
    /// When it was written, according to the store.
    pub last_modified: chrono::DateTime<chrono::Utc>,
    /// The store's tag for its content, where it has one.
    pub e_tag: Option<String>,
}

impl Entry {
    /// The same as object_store has it, for readers that would otherwise ask the store for it.
    pub fn meta(&self) -> object_store::ObjectMeta {
        let (location, e_tag) = (self.location.path.clone(), self.e_tag.clone());
        object_store::ObjectMeta { location, last_modified: self.last_modified, size: self.size, e_tag, version: None }
    }
}

/// Which version of an object was read; what [`Location::put_if`] compares with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    e_tag: Option<String>,
    version: Option<String>,
}

/// In-memory stores by name, so that tests can open one store in several places, like a bucket.
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
        // Both are ordinary characters of a key, as in the AWS tools: these URLs have no queries or fragments.
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
        Self::assemble(durable::open(), "file://", path)
    }

    fn assemble(store: Arc<dyn ObjectStore>, base: &str, path: Path) -> Result<Self> {
        let base = Url::parse(&format!("{base}/")).context(Kind::Internal, || format!("base URL {base}"))?;
        Ok(Self::at(store, Arc::new(base), path))
    }

    /// A location of a store that a test has made; `text` is a folder of it, `memory://name/prefix`.
    #[cfg(test)]
    pub(crate) fn on(store: Arc<dyn ObjectStore>, text: &str) -> Result<Self> {
        Ok(Location { store, ..Self::parse(text)? })
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

    /// The URL of the store alone (`file:///`, `s3://bucket/`), under which query engines register it.
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
    /// `true` means that the object holds these bytes now. Two writers of the same bytes may both get `true`: a writer
    /// that must be the only one writes something unique, such as a run id.
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

    /// A conditional put. A request whose response was lost may have succeeded; its retry is then refused because of
    /// its own effect. So after a refusal or a lost response the object is read to see what happened.
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
            // A bucket that does not exist refuses everything.
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
    /// A local path as a path, everything else as a URL: what a person would type.
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

#[cfg(test)]
mod tests;
