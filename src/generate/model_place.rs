//! Where a job's model is: on this machine, on an object store, or what a registry has promoted.
//!
//! Knows locations, downloads and the registry. Knows nothing of what is in a model.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tokio::runtime::RuntimeFlavor;

use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::registry::card::Card;
use crate::registry::versions::{self, Registry};
use crate::table::fetch::{fetch, is_there};
use crate::table::store::{Location, StoreOptions};

/// Where a model is, and its local path once that is known.
pub(super) struct Place {
    key: &'static str,
    source: Source,
    cache: PathBuf,
    path: OnceLock<PathBuf>,
    /// The card of what a registry has promoted.
    pub(super) card: OnceLock<Card>,
}

enum Source {
    At(Location),
    /// What is promoted under a name at first use; a run keeps that version.
    Promoted(Registry, String),
}

impl Place {
    pub(super) fn new(job: &Job, key: &'static str, text: &str) -> Result<Place> {
        let (path, card, cache) = (OnceLock::new(), OnceLock::new(), job.cache_dir.clone());
        if let Some(name) = text.strip_prefix(versions::SCHEME) {
            let source = Source::Promoted(Registry::of(job)?, name.to_owned());
            return Ok(Place { key, source, cache, path, card });
        }
        let source = Location::parse_with(text, &StoreOptions::of(job)).map_err(|e| e.with("key", key))?;
        if let Some(local) = source.local_path() {
            // As written in the job file, so that messages name what the user knows.
            path.get_or_init(|| if text.contains("://") { local } else { PathBuf::from(text) });
        }
        Ok(Place { key, source: Source::At(source), cache, path, card })
    }

    pub(super) async fn fetch(&self) -> Result<&Path> {
        let path = match self.path.get() {
            Some(path) => path,
            None => {
                let fetched = self.bring().await.map_err(|e| e.with("key", self.key))?;
                self.path.get_or_init(|| fetched)
            }
        };
        self.there(path)?;
        Ok(path)
    }

    fn there(&self, path: &Path) -> Result<()> {
        match path.exists() {
            true => Ok(()),
            false => Err(Error::new(Kind::Model, format!("{} does not exist", self.key))
                .with("path", path.display())
                .hint("name a Hugging Face directory or a GGUF file; ci/fetch.sh gets the quickstart's models")),
        }
    }

    /// Looks whether the model is there and fetches nothing; its path where it is on this machine.
    pub(super) async fn look(&self) -> Result<Option<PathBuf>> {
        if let Some(path) = self.path.get() {
            self.there(path)?;
            return Ok(Some(path.clone()));
        }
        let source = match &self.source {
            Source::At(source) => source.clone(),
            Source::Promoted(registry, name) => registry.adapter(&registry.promoted(name).await?),
        };
        match source.local_path() {
            Some(path) => self.there(&path).map(|()| Some(path)),
            None => is_there(&source).await.map(|()| None),
        }
    }

    async fn bring(&self) -> Result<PathBuf> {
        let (registry, name) = match &self.source {
            Source::At(source) => return fetch(source, &self.cache).await,
            Source::Promoted(registry, name) => (registry, name),
        };
        // Of two concurrent lookups the first result counts.
        let card = match self.card.get() {
            Some(card) => card,
            None => {
                let card = registry.promoted(name).await?;
                self.card.get_or_init(|| card)
            }
        };
        let (path, version) = (registry.fetch_adapter(card, &self.cache).await?, &card.version);
        tracing::info!(name, version, "the promoted adapter");
        Ok(path)
    }

    /// The local path. Downloads the model first if needed, as in an ad-hoc query.
    pub(super) fn path(&self) -> Result<&Path> {
        if let Some(path) = self.path.get() {
            return Ok(path);
        }
        let handle = tokio::runtime::Handle::try_current().ok();
        match handle.filter(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread) {
            Some(handle) => tokio::task::block_in_place(|| handle.block_on(self.fetch())),
            None => Err(Error::new(Kind::Internal, "a model was used before it was downloaded").with("key", self.key)),
        }
    }
}
