//! A version's files on this machine: fetched for use, exported, or merged into the language model.
//!
//! Every file is checked against the digests of its card. Knows [`Registry`]. Knows nothing of which version is in use,
//! except where a job asks for the one in use.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::config::Job;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::llm::adapter::{Adapter, FILES, Precision};
use crate::llm::merged;
use crate::llm::weights::ModelFiles;
use crate::registry::card::{Card, PROJECTION, REWARD};
use crate::registry::versions::{CARD, README, Registry, SCHEME};
use crate::table::fetch::fetch;
use crate::table::store::{Location, StoreOptions};
use crate::whole_folder::new_folder;

impl Registry {
    /// Where the adapter of a version lies, in PEFT's format.
    pub fn adapter(&self, card: &Card) -> Location {
        self.root.child(&card.name).child(&card.version).child("adapter")
    }

    /// Fetches a version's adapter into the cache, checks it against its card, and returns the folder.
    ///
    /// # Errors
    /// `Kind::Model` where the files are not the card's; as [`fetch`].
    pub async fn fetch_adapter(&self, card: &Card, cache: &Path) -> Result<PathBuf> {
        let at = self.adapter(card);
        if card.projection.is_some() {
            return Err(Error::new(
                Kind::Config,
                format!("{} {} is a projection and no adapter", card.name, card.version),
            )
            .hint("name it in [model] projection"));
        }
        for file in FILES {
            self.held(&[&card.name, &card.version, "adapter", file])?;
        }
        let path = fetch(&at, cache).await?;
        match Adapter::digest(&path)? == card.adapter {
            true => Ok(path),
            false => Err(damaged(&at)),
        }
    }

    /// Where the reward model of a version lies, if it has one.
    pub fn judge(&self, card: &Card) -> Option<Location> {
        let at = self.root.child(&card.name).child(&card.version).child(REWARD);
        card.reward_files().next().map(|_| at)
    }

    /// Fetches a version's reward model into the cache, checks it against its card, and returns the folder.
    ///
    /// # Errors
    /// `Kind::Config` where the version has none; `Kind::Model` where the files are not the card's; as [`fetch`].
    pub async fn fetch_judge(&self, card: &Card, cache: &Path) -> Result<PathBuf> {
        let Some(at) = self.judge(card) else {
            return Err(Error::new(Kind::Config, format!("{} {} has no reward model", card.name, card.version))
                .hint("`curec learn weekly` adds versions with one; name the folder of a reward model instead"));
        };
        self.fetch_folder(card, REWARD, &at, cache).await
    }

    /// Fetches a version's projection into the cache, checks it against its card, and returns the folder.
    ///
    /// # Errors
    /// `Kind::Config` where the version is an adapter; `Kind::Model` where the files are not the card's; as [`fetch`].
    pub async fn fetch_projection(&self, card: &Card, cache: &Path) -> Result<PathBuf> {
        if card.projection.is_none() {
            return Err(Error::new(Kind::Config, format!("{} {} is no projection", card.name, card.version))
                .hint("`curec learn project` adds versions that are; name the folder of a projection instead"));
        }
        let at = self.root.child(&card.name).child(&card.version).child(PROJECTION);
        self.fetch_folder(card, PROJECTION, &at, cache).await
    }

    /// Fetches a folder of a version, which lies at `at`, and checks its files against the card.
    async fn fetch_folder(&self, card: &Card, folder: &str, at: &Location, cache: &Path) -> Result<PathBuf> {
        for (file, _) in card.files_in(folder) {
            self.held(&[&card.name, &card.version, file])?;
        }
        let path = fetch(at, cache).await?;
        for (file, wanted) in card.files_in(folder) {
            let read = std::fs::read(path.join(file.trim_start_matches(folder).trim_start_matches('/')));
            if read.map_or(true, |bytes| blake3::hash(&bytes).to_hex().as_str() != wanted) {
                return Err(damaged(at).with("of", file));
            }
        }
        Ok(path)
    }

    /// Copies a version's adapter or projection, card and README, and its reward model (`reward/`), into a folder that
    /// does not exist yet, and checks the files against their digests.
    ///
    /// # Errors
    /// `Kind::Input` for damaged files; `Kind::Usage` where the folder holds something; the store's and the disk's.
    pub async fn export(&self, card: &Card, out: &Path) -> Result<()> {
        let mut files = vec![(CARD.to_owned(), Bytes::from(card.json()?)), (README.to_owned(), card.readme().into())];
        let own: Vec<String> = match card.projection {
            Some(_) => card.files_in(PROJECTION).map(|(path, _)| path.to_owned()).collect(),
            None => FILES.map(|file| format!("adapter/{file}")).into(),
        };
        for path in own.iter().map(String::as_str).chain(card.reward_files().map(|(path, _)| path)) {
            let at = self.held(&[&card.name, &card.version, path])?;
            let bytes = at.get().await?.unwrap_or_default();
            if card.files.get(path).map(String::as_str) != Some(blake3::hash(&bytes).to_hex().as_str()) {
                return Err(damaged(&at));
            }
            let inside = path.strip_prefix("adapter/").or_else(|| path.strip_prefix("projection/")).unwrap_or(path);
            files.push((inside.to_owned(), bytes));
        }
        new_folder(out, |dir| {
            if card.reward_files().next().is_some() {
                let reward = dir.join(REWARD);
                std::fs::create_dir(&reward)
                    .context(Kind::Temporary, || format!("cannot make {}", reward.display()))?;
            }
            for (file, bytes) in &files {
                std::fs::write(dir.join(file), bytes).context(Kind::Temporary, || format!("cannot write {file}"))?;
            }
            Ok(())
        })
    }

    /// Writes the language model with a version merged into it as a Hugging Face directory; returns what that lacks.
    ///
    /// # Errors
    /// As [`Registry::export`] and [`merged::write`].
    pub async fn export_merged(
        &self,
        card: &Card,
        base: &ModelFiles,
        out: &Path,
        precision: Precision,
    ) -> Result<Vec<String>> {
        let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let beside = out.with_file_name(format!(".{name}.adapter-{}", std::process::id()));
        self.export(card, &beside).await?;
        let written = Adapter::read(&beside, base.config()).and_then(|a| merged::write(base, Some(&a), out, precision));
        // The registry has a copy.
        let _ = std::fs::remove_dir_all(&beside);
        let mut lacks = written?;
        // The card says which interval the weights were trained on.
        disk::write_whole(&out.join(CARD), card.json()?).context(Kind::Temporary, || format!("cannot write {CARD}"))?;
        if base.digest()? != card.base_model {
            lacks.push("the adapter was trained on other weights than these, of the same shapes".to_owned());
        }
        Ok(lacks)
    }
}

/// The folder of a reward model that a job names: a path, a URL, or `registry:<name>` for that of the version in use,
/// which is returned with its card.
///
/// # Errors
/// `Kind::Config` where the job has no registry, nothing is promoted, or what is has no reward model; as [`fetch`].
pub async fn judge(job: &Job, text: &str) -> Result<(PathBuf, Option<Card>)> {
    match text.strip_prefix(SCHEME) {
        Some(name) => {
            let registry = Registry::of(job)?;
            let card = registry.promoted(name).await?;
            Ok((registry.fetch_judge(&card, &job.cache_dir).await?, Some(card)))
        }
        None => Ok((fetch(&Location::parse_with(text, &StoreOptions::of(job))?, &job.cache_dir).await?, None)),
    }
}

/// The folder of a projection that a job names: a path, a URL, or `registry:<name>` for that of the version in use,
/// which is returned with its card.
///
/// # Errors
/// `Kind::Config` where the job has no registry, nothing is promoted, or what is is no projection; as [`fetch`].
pub async fn projection(job: &Job, text: &str) -> Result<(PathBuf, Option<Card>)> {
    match text.strip_prefix(SCHEME) {
        Some(name) => {
            let registry = Registry::of(job)?;
            let card = registry.promoted(name).await?;
            let folder = registry.fetch_projection(&card, &job.cache_dir).await?;
            tracing::info!(name, version = card.version, "the promoted projection");
            Ok((folder, Some(card)))
        }
        None => Ok((fetch(&Location::parse_with(text, &StoreOptions::of(job))?, &job.cache_dir).await?, None)),
    }
}

/// The error for a version whose files are not those that its card names.
fn damaged(at: &Location) -> Error {
    Error::new(Kind::Model, "the version's files are not those that its card names")
        .with("file", at)
        .hint("versions never change: restore it, or promote another")
}

#[cfg(test)]
mod tests;
