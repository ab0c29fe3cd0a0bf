//! Brings files that must be mapped into memory, such as models, from a store to this machine's disk, once.
//!
//! What was fetched lies in a cache folder under a name made of the source's URL, tags and sizes: a changed source is
//! another name, and an equal one is found without a byte being moved. A download is written into a folder of this process
//! ([`crate::scratch`]) and renamed whole, so that one that broke off is never taken for the real thing and two processes may fetch at once. Nothing is evicted: the
//! folder may be removed whenever no run needs it. Knows nothing of models but which files belong to one.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange};
use tokio::io::AsyncWriteExt;

use crate::error::{Error, Kind, Result};
use crate::paths;
use crate::scratch::{Partial, Scratch};
use crate::table::redact::redact;
use crate::table::store::{Entry, Location};
use crate::table::store_error::fail;

/// Bytes of one request. Small enough to arrive well within a request's time limit on a slow line.
const PIECE: u64 = 8 << 20;

/// Pieces under way at a time.
const AT_ONCE: usize = 4;

/// The local path of a model: that of a local one, or of a copy in `cache` of the folder or object at `source`.
///
/// Of a folder, those files are taken that a model is read from: JSON, safetensors, templates and texts; not the same
/// weights in other formats.
///
/// # Errors
/// `Kind::Model` where there is nothing at `source`; `Kind::Temporary` when it changes meanwhile or the disk is full; the store's.
pub async fn fetch(source: &Location, cache: &Path) -> Result<PathBuf> {
    if let Some(path) = source.local_path() {
        return Ok(path);
    }
    let (entries, is_folder) = files_of(source).await?;
    let target = cache.join(cache_name(source, &entries));
    let inside = |target: &Path| if is_folder { target.to_path_buf() } else { target.join(source.name()) };
    if target.is_dir() {
        return Ok(inside(&target));
    }
    let started = Instant::now();
    let bytes: u64 = entries.iter().map(|e| e.size).sum();
    tracing::info!(model = source.url(), files = entries.len(), bytes, cache = %cache.display(), "fetching");
    // What dead processes left of their downloads goes with it.
    let scratch = Scratch::within(cache).map_err(|e| unwritable(e, cache))?;
    let beside = Partial::new(scratch.entry());
    make_folder(beside.path()).await?;
    let mut progress = Progress { bytes, done: 0, said: Instant::now() };
    for entry in &entries {
        let name = match is_folder {
            true => entry.location.relative_to(source).unwrap_or_default(),
            false => source.name().to_owned(),
        };
        download(entry, &beside.path().join(name), &mut progress).await?;
    }
    match tokio::fs::rename(beside.path(), &target).await {
        // Another process was faster: its copy is as good.
        Err(_) if target.is_dir() => {}
        renamed => renamed.map_err(|e| unwritable(e, &target))?,
    }
    tracing::info!(model = source.url(), bytes, seconds = started.elapsed().as_secs_f64().round(), "fetched");
    Ok(inside(&target))
}

/// Looks whether there is a model at `source`, on a store; fetches nothing.
///
/// # Errors
/// As [`fetch`].
pub async fn is_there(source: &Location) -> Result<()> {
    files_of(source).await.map(drop)
}

/// The objects of a model, and whether they are a folder's.
async fn files_of(source: &Location) -> Result<(Vec<Entry>, bool)> {
    const KINDS: [&str; 5] = ["json", "safetensors", "jinja", "txt", "model"];
    let belongs = |e: &Entry| e.location.name().rsplit_once('.').is_some_and(|(_, kind)| KINDS.contains(&kind));
    let all = source.list().await?;
    let (found, is_folder) = match all.is_empty() {
        true => (source.head().await?.into_iter().collect::<Vec<_>>(), false),
        false => (all.into_iter().filter(belongs).collect(), true),
    };
    // A name in a listing must not lead out of the cache.
    for entry in found.iter().filter(|_| is_folder) {
        paths::relative(&entry.location.relative_to(source).unwrap_or_default())
            .map_err(|e| e.with("path", redact(source.url())))?;
    }
    if found.is_empty() || paths::plain(source.name()).is_err() {
        return Err(Error::new(Kind::Model, "there is no model")
            .with("path", redact(source.url()))
            .hint("name a folder with config.json, tokenizer.json and model.safetensors, or a GGUF file"));
    }
    Ok((found, is_folder))
}

/// Changes with everything that tells one content from another without reading it.
fn cache_name(source: &Location, entries: &[Entry]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    add(source.url());
    for entry in entries {
        add(entry.location.url());
        add(&entry.size.to_string());
        match &entry.e_tag {
            Some(tag) => add(tag),
            None => add(&entry.last_modified.to_rfc3339()),
        }
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = source.name().chars().take(80).map(plain).collect();
    format!("{}-{}", name.trim_start_matches('.'), &hasher.finalize().to_hex().as_str()[..16])
}

struct Progress {
    bytes: u64,
    done: u64,
    said: Instant,
}

impl Progress {
    fn advance(&mut self, bytes: usize) {
        self.done += bytes as u64;
        if self.said.elapsed() > Duration::from_secs(5) {
            self.said = Instant::now();
            tracing::info!(done = self.done, bytes = self.bytes, "fetching");
        }
    }
}

async fn download(entry: &Entry, path: &Path, progress: &mut Progress) -> Result<()> {
    if let Some(folder) = path.parent() {
        make_folder(folder).await?;
    }
    let mut file = tokio::fs::File::create(path).await.map_err(|e| unwritable(e, path))?;
    let starts = (0..entry.size).step_by(PIECE as usize);
    let (store, at) = (entry.location.store(), &entry.location);
    let pieces = futures::stream::iter(starts.map(|start| {
        let options = GetOptions {
            range: Some(GetRange::Bounded(start..(start + PIECE).min(entry.size))),
            if_match: entry.e_tag.clone(),
            ..GetOptions::default()
        };
        let store = &store;
        async move { store.get_opts(at.path(), options).await?.bytes().await }
    }));
    let mut pieces = pieces.buffered(AT_ONCE);
    while let Some(piece) = pieces.try_next().await.map_err(|e| match e {
        object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. } => {
            Error::new(Kind::Temporary, "a model's file was replaced while it was fetched").with("file", at)
        }
        e => fail(&e, "read", at),
    })? {
        file.write_all(&piece).await.map_err(|e| unwritable(e, path))?;
        progress.advance(piece.len());
    }
    file.sync_all().await.map_err(|e| unwritable(e, path))?;
    let size = file.metadata().await.map_err(|e| unwritable(e, path))?.len();
    if size != entry.size {
        let message = format!("{size} bytes of a model's file arrived, not {}", entry.size);
        return Err(Error::new(Kind::Temporary, message).with("file", at));
    }
    Ok(())
}

async fn make_folder(path: &Path) -> Result<()> {
    tokio::fs::create_dir_all(path).await.map_err(|e| unwritable(e, path))
}

fn unwritable(error: std::io::Error, path: &Path) -> Error {
    let lasting = [std::io::ErrorKind::PermissionDenied, std::io::ErrorKind::ReadOnlyFilesystem];
    let kind = if lasting.contains(&error.kind()) { Kind::Config } else { Kind::Temporary };
    Error::new(kind, "cannot write to the model cache")
        .with("file", path.display())
        .hint("set [model] cache_dir to a folder with room for the models")
        .source(error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    async fn put(at: &Location, text: &str) {
        at.put(text.to_owned().into()).await.unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut all: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[tokio::test]
    async fn a_folder_is_fetched_once_and_again_when_it_changes() {
        let cache = tempfile::tempdir().unwrap();
        let model = Location::parse("memory://fetch/models/tiny").unwrap();
        put(&model.child("config.json"), "{}").await;
        put(&model.child("1_Pooling/config.json"), "{\"a\": 1}").await;
        put(&model.child("pytorch_model.bin"), "the same weights once more").await;
        let big = "w".repeat(PIECE as usize * 2 + 17);
        put(&model.child("model.safetensors"), &big).await;

        let (first, second) = tokio::join!(fetch(&model, cache.path()), fetch(&model, cache.path()));
        let first = first.unwrap();
        assert_eq!(first, second.unwrap());
        assert_eq!(names(cache.path()).len(), 1, "{:?}", names(cache.path()));
        assert_eq!(names(&first), ["1_Pooling", "config.json", "model.safetensors"]);
        assert_eq!(std::fs::read_to_string(first.join("model.safetensors")).unwrap(), big);

        // Found without being read: what lies in the cache is taken.
        std::fs::write(first.join("config.json"), "{\"touched\": 1}").unwrap();
        assert_eq!(fetch(&model, cache.path()).await.unwrap(), first);
        put(&model.child("config.json"), "[]").await;
        let changed = fetch(&model, cache.path()).await.unwrap();
        assert_ne!(changed, first);
        assert_eq!(std::fs::read_to_string(changed.join("config.json")).unwrap(), "[]");
    }

    #[tokio::test]
    async fn an_object_and_what_is_not_there() {
        let cache = tempfile::tempdir().unwrap();
        let root = Location::parse("memory://fetch-object/m").unwrap();
        put(&root.child("model.gguf"), "GGUF").await;
        let path = fetch(&root.child("model.gguf"), cache.path()).await.unwrap();
        assert_eq!(path.file_name().unwrap(), "model.gguf");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "GGUF");
        let e = fetch(&root.child("nothing"), cache.path()).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Model, "{e}");
        let local = Location::parse("/somewhere/model").unwrap();
        assert_eq!(fetch(&local, cache.path()).await.unwrap(), PathBuf::from("/somewhere/model"));

        // A cache that cannot be written names the setting.
        std::fs::write(cache.path().join("file"), "").unwrap();
        let e = fetch(&root.child("model.gguf"), &cache.path().join("file")).await.unwrap_err();
        assert!(e.explain().contains("cache_dir"), "{e:?}");
    }
}
