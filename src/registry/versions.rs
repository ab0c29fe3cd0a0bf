//! Versions of adapters and of projections, and which one is in use.
//!
//! A registry is a folder on local disk or on S3: `<name>/<version>/` holds `adapter/` in PEFT's format, `reward/`
//! where it has a reward model, or `projection/` in place of both, `card.json` and README.md, and never changes; a
//! version is complete when its card is there, which is written last. A name has versions of one kind. `<name>/promoted.json`
//! is the history of promotions. Knows nothing of how adapters, reward models and projections are made.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use chrono::{DateTime, SubsecRound, Utc};
use serde::Serialize;

use crate::config::Job;
use crate::error::{Context, Error, Kind, Result};
use crate::llm::adapter::{Adapter, FILES};
use crate::llm::weights::ModelFiles;
use crate::paths;
use crate::registry::card::{Card, PROJECTION, REWARD, Trained, parse};
use crate::registry::promotions::{Action, PROMOTED, Promotion, Promotions, overtaken};
use crate::table::store::{Location, StoreOptions};

/// The file that is written last: a version is complete when it has one.
pub(super) const CARD: &str = "card.json";
/// The card for people.
pub(super) const README: &str = "README.md";
/// How `[model] adapter` names what is promoted here: `registry:<name>`.
pub const SCHEME: &str = "registry:";

/// What a version is made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The adapter's folder, in PEFT's format.
    pub adapter: &'a Path,
    /// The folder of the reward model that goes with it.
    pub reward: Option<&'a Path>,
    /// Digest of the sentence encoder whose vectors the reward model reads.
    pub encoder: Option<&'a str>,
}

/// A version in a listing.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Whether it is in use.
    pub promoted: bool,
    /// Its card.
    #[serde(flatten)]
    pub card: Card,
}

/// Lines of a listing, for people.
pub fn list_text(found: &[Listed]) -> String {
    if found.is_empty() {
        return "no versions\n".to_owned();
    }
    let line = |l: &Listed| {
        let gate = match &l.card {
            card if card.gate_holds() => "holds",
            card if card.trained.gate.is_empty() => "not asked",
            _ => "fails",
        };
        let data = l.card.trained.interval.as_ref().map_or("-".to_owned(), |[from, to]| format!("{from}..{to}"));
        let Card { name, version, created, .. } = &l.card;
        let promoted = if l.promoted { "promoted" } else { "-" };
        format!("{name}  {version}  {promoted}  gate: {gate}  data: {data}  {}\n", created.format("%Y-%m-%dT%H:%MZ"))
    };
    found.iter().map(line).collect()
}

/// Lines of a listing, one JSON object each.
///
/// # Errors
/// `Kind::Internal`.
pub fn list_json(found: &[Listed]) -> Result<String> {
    let line = |l: &Listed| serde_json::to_string(l).context(Kind::Internal, || "a card as JSON".into());
    found.iter().map(|l| Ok(line(l)? + "\n")).collect()
}

/// A folder of versions.
#[derive(Debug, Clone)]
pub struct Registry {
    pub(super) root: Location,
}

impl Registry {
    /// The registry at a path or URL.
    ///
    /// # Errors
    /// `Kind::Config` where that is no location.
    pub fn open(text: &str, options: &StoreOptions) -> Result<Registry> {
        Ok(Registry { root: Location::parse_with(text, options)? })
    }

    /// A job's registry.
    ///
    /// # Errors
    /// `Kind::Config` where the job names none.
    pub fn of(job: &Job) -> Result<Registry> {
        match job.spec.project.registry.as_str() {
            "" => Err(Error::new(Kind::Config, "the job names no registry")
                .with("key", "project.registry")
                .hint("set [project] registry to the folder or s3:// URL of the registry")),
            text => Registry::open(text, &StoreOptions::of(job)).map_err(|e| e.with("key", "project.registry")),
        }
    }

    /// Adds the adapter in the folder `dir` alone; see [`Registry::add_parts`].
    ///
    /// # Errors
    /// As [`Registry::add_parts`].
    pub async fn add(
        &self,
        name: &str,
        dir: &Path,
        base: &ModelFiles,
        trained: Trained,
        now: DateTime<Utc>,
    ) -> Result<Card> {
        self.add_parts(name, Parts { adapter: dir, reward: None, encoder: None }, base, trained, now).await
    }

    /// Adds an adapter, and the reward model that goes with it, as a version of `name`. Returns the existing version if
    /// there is one with the same files and the same card. After a crash, add it again.
    ///
    /// # Errors
    /// `Kind::Usage` for an invalid name, and for that of projections; `Kind::Model` where the adapter does not fit its
    /// base, or a file cannot be read; the store's.
    pub async fn add_parts(
        &self,
        name: &str,
        parts: Parts<'_>,
        base: &ModelFiles,
        trained: Trained,
        now: DateTime<Utc>,
    ) -> Result<Card> {
        self.check_kind(name, false).await?;
        let dir = parts.adapter;
        Adapter::read(dir, base.config())?;
        let mut bytes = Vec::new();
        for file in FILES {
            let read = std::fs::read(dir.join(file)).context(Kind::Model, || format!("cannot read {file}"))?;
            bytes.push((format!("adapter/{file}"), Bytes::from(read)));
        }
        if let Some(reward) = parts.reward {
            bytes.extend(files_of(REWARD, "reward model", reward)?);
        }
        let card = Card {
            name: name.to_owned(),
            version: String::new(),
            created: DateTime::UNIX_EPOCH,
            base_model: base.digest()?,
            adapter: Adapter::digest(dir)?,
            encoder: parts.encoder.map(str::to_owned),
            projection: None,
            trained,
            files: BTreeMap::new(),
        };
        self.put(card, bytes, now).await
    }

    /// Adds the projection in the folder `dir`, of a digest and for vectors of `encoder`, as a version of `name`. Returns
    /// the existing version if there is one with the same files and the same card. After a crash, add it again.
    ///
    /// # Errors
    /// `Kind::Usage` for an invalid name, and for that of adapters; `Kind::Model` where a file cannot be read; the store's.
    pub async fn add_projection(
        &self,
        name: &str,
        dir: &Path,
        digest: &str,
        encoder: &str,
        trained: Trained,
        now: DateTime<Utc>,
    ) -> Result<Card> {
        self.check_kind(name, true).await?;
        let bytes = files_of(PROJECTION, "projection", dir)?;
        let card = Card {
            name: name.to_owned(),
            version: String::new(),
            created: DateTime::UNIX_EPOCH,
            base_model: String::new(),
            adapter: String::new(),
            encoder: Some(encoder.to_owned()),
            projection: Some(digest.to_owned()),
            trained,
            files: BTreeMap::new(),
        };
        self.put(card, bytes, now).await
    }

    /// Refuses a name that cannot be one, and one under which versions of the other kind are kept: adapters, or projections.
    ///
    /// # Errors
    /// `Kind::Usage` where it is one of these; `Kind::Input` for a damaged card; the store's.
    pub async fn check_kind(&self, name: &str, is_projection: bool) -> Result<()> {
        check_name(name)?;
        // All versions of a name are of one kind.
        let folders = self.folders(name).await?;
        let Some((newest, _)) = folders.iter().rev().find(|(_, is_whole)| **is_whole) else { return Ok(()) };
        if self.card(name, newest).await?.projection.is_some() == is_projection {
            return Ok(());
        }
        let (others, own) = if is_projection { ("adapters", "projection") } else { ("projections", "adapter") };
        Err(Error::new(Kind::Usage, format!("`{name}` is the name of {others} in the registry"))
            .with("registry", &self.root)
            .hint(format!("give the {own} a name of its own")))
    }

    /// Puts a version's files where they belong, its card last; `card` lacks its files, its version and its moment.
    async fn put(&self, mut card: Card, bytes: Vec<(String, Bytes)>, now: DateTime<Utc>) -> Result<Card> {
        let name = &card.name.clone();
        let digest = |b: &Bytes| blake3::hash(b).to_hex().to_string();
        card.files = bytes.iter().map(|(file, b)| (file.clone(), digest(b))).collect();
        let identity = digest(&Bytes::from(card.json()?));
        let identity = &identity[..8];
        let folders = self.folders(name).await?;
        let number = |version: &str| version.split('-').next().and_then(|n| n.parse::<u32>().ok());
        card.version = match folders.iter().find(|(version, _)| version.rsplit('-').next() == Some(identity)) {
            Some((version, true)) => return self.card(name, version).await,
            Some((version, false)) => version.clone(),
            None => {
                let last = folders.keys().filter_map(|version| number(version)).max().unwrap_or(0);
                format!("{:04}-{identity}", last + 1)
            }
        };
        card.created = now.trunc_subsecs(0);
        let at = self.root.child(name).child(&card.version);
        let readme = Bytes::from(card.readme());
        for (file, bytes) in bytes.into_iter().chain([(README.to_owned(), readme)]) {
            if !at.child(&file).put_new(bytes).await? {
                return Err(Error::new(Kind::Input, "a version that is not whole holds another file")
                    .with("file", at.child(&file))
                    .hint("remove the version's folder; it has no card and nothing uses it"));
            }
        }
        match at.child(CARD).put_new(Bytes::from(card.json()?)).await? {
            true => Ok(card),
            // Another process added the same at the same time.
            false => self.card(name, &card.version).await,
        }
    }

    /// The versions of a name, the oldest first, and whether they are complete.
    async fn folders(&self, name: &str) -> Result<BTreeMap<String, bool>> {
        let root = self.root.child(name);
        let mut found = BTreeMap::new();
        for entry in root.list().await? {
            let relative = entry.location.relative_to(&root).unwrap_or_default();
            if let Some((version, file)) = relative.split_once('/') {
                *found.entry(version.to_owned()).or_insert(false) |= file == CARD;
            }
        }
        Ok(found)
    }

    /// A version's card, checked against its place: the card of another version, or one with files elsewhere, is
    /// refused.
    async fn card(&self, name: &str, version: &str) -> Result<Card> {
        let at = self.held(&[name, version, CARD])?;
        let bytes = at.get().await?.ok_or_else(|| {
            Error::new(Kind::Config, format!("the registry has no version {version} of {name}"))
                .with("file", &at)
                .hint("`curec models list` lists them")
        })?;
        let card: Card = parse(&bytes, &at)?;
        if (card.name.as_str(), card.version.as_str()) != (name, version) {
            return Err(Error::new(Kind::Model, format!("the card is that of {:?} {:?}", card.name, card.version))
                .with("file", &at)
                .hint("versions never change: restore it from a backup of the registry"));
        }
        for file in card.files.keys() {
            paths::relative(file).map_err(|e| e.with("file", &at))?;
        }
        Ok(card)
    }

    /// The location of a file by the parts of its path, none of which may lead out of the registry, by name or by link.
    pub(super) fn held(&self, parts: &[&str]) -> Result<Location> {
        let path = parts.join("/");
        let of_registry = |e: Error| e.with("registry", &self.root);
        let location = self.root.child(paths::relative(&path).map_err(of_registry)?);
        if let Some(root) = self.root.local_path() {
            paths::inside(&root, &path).map_err(of_registry)?;
        }
        Ok(location)
    }

    /// All complete versions, by name and number; with `of`, those of one name.
    ///
    /// # Errors
    /// `Kind::Input` for a damaged card; the store's.
    pub async fn list(&self, of: Option<&str>) -> Result<Vec<Listed>> {
        let names = match of {
            Some(name) => vec![name.to_owned()],
            None => {
                let below = self.root.list().await?;
                let first = |relative: String| relative.split_once('/').map(|(name, _)| name.to_owned());
                let mut names: Vec<String> =
                    below.iter().filter_map(|e| first(e.location.relative_to(&self.root)?)).collect();
                names.dedup();
                names
            }
        };
        let mut found = Vec::new();
        for name in names.iter().filter(|name| check_name(name).is_ok()) {
            let promotions = self.promotions(name).await?;
            for (version, _) in self.folders(name).await?.into_iter().filter(|(_, whole)| *whole) {
                let card = self.card(name, &version).await?;
                found.push(Listed { promoted: promotions.current() == Some(&version), card });
            }
        }
        Ok(found)
    }

    /// A version by its number or the beginning of its id, or the `latest` or the `promoted` one.
    ///
    /// # Errors
    /// `Kind::Usage` where none or several fit; `Kind::Config` where none is promoted; the store's.
    pub async fn find(&self, name: &str, wanted: &str) -> Result<Card> {
        check_name(name)?;
        if wanted == "promoted" {
            return self.promoted(name).await;
        }
        let whole: Vec<String> = self.folders(name).await?.into_iter().filter(|(_, w)| *w).map(|(v, _)| v).collect();
        let fitting: Vec<&String> = match wanted {
            "latest" => whole.last().into_iter().collect(),
            _ => {
                let is_number = |v: &str| {
                    let number = v.split('-').next().and_then(|n| n.parse::<u32>().ok());
                    number.is_some() && number == wanted.parse().ok()
                };
                whole.iter().filter(|v| !wanted.is_empty() && (v.starts_with(wanted) || is_number(v))).collect()
            }
        };
        match fitting[..] {
            [version] => self.card(name, version).await,
            [] => Err(Error::new(Kind::Usage, format!("the registry has no version `{wanted}` of `{name}`"))
                .with("registry", &self.root)
                .hint("`curec models list` lists them; `latest` and `promoted` are short for one")),
            _ => Err(Error::new(Kind::Usage, format!("{} versions of `{name}` begin with `{wanted}`", fitting.len()))
                .hint("write more of it")),
        }
    }

    /// The history of promotions; empty where there was none.
    ///
    /// # Errors
    /// `Kind::Input` where it is damaged; the store's.
    pub async fn promotions(&self, name: &str) -> Result<Promotions> {
        check_name(name)?;
        Promotions::read(&self.held(&[name, PROMOTED])?).await
    }

    /// The card of the version in use.
    ///
    /// # Errors
    /// `Kind::Config` where none is; the store's.
    pub async fn promoted(&self, name: &str) -> Result<Card> {
        check_name(name)?;
        match self.promotions(name).await?.current() {
            Some(version) => self.card(name, version).await,
            None => Err(Error::new(Kind::Config, format!("no version of `{name}` is promoted"))
                .with("registry", &self.root)
                .hint(format!("`curec models promote {name} VERSION` promotes one; `curec models list` lists them"))),
        }
    }

    /// Puts a version into use; does nothing where it is in use already.
    ///
    /// # Errors
    /// `Kind::Audit` where the card's gate does not hold, unless `force`; `Kind::Busy` where another promotion came in
    /// between; as [`Registry::find`]; the store's.
    pub async fn promote(&self, name: &str, wanted: &str, why: &str, force: bool, now: DateTime<Utc>) -> Result<Card> {
        let card = self.find(name, wanted).await?;
        let gate = &card.trained.gate;
        if !card.gate_holds() && !force {
            let failed: Vec<String> =
                gate.iter().filter(|c| !c.holds).map(|c| format!("{} (found {})", c.what, c.value)).collect();
            let what = match failed.is_empty() {
                true => "its gate was not asked".to_owned(),
                false => format!("its gate does not hold: {}", failed.join("; ")),
            };
            return Err(Error::new(Kind::Audit, format!("{name} {} is not promoted: {what}", card.version))
                .hint("train a better one; --force promotes it all the same, and the history says so"));
        }
        let forced = !card.gate_holds();
        Promotions::append(&self.root.child(name).child(PROMOTED), |promotions| {
            let is_new = promotions.current() != Some(&card.version);
            let version = card.version.clone();
            let at = now.trunc_subsecs(0);
            Ok(is_new.then(|| Promotion { at, action: Action::Promote, version, why: why.to_owned(), forced }))
        })
        .await?;
        Ok(card)
    }

    /// Puts the version before the current one into use again.
    ///
    /// # Errors
    /// `Kind::Config` where there is none; `Kind::Busy` where another promotion came in between; the store's.
    pub async fn rollback(&self, name: &str, why: &str, now: DateTime<Utc>) -> Result<Card> {
        check_name(name)?;
        let back_to = |promotions: &Promotions| {
            let stack = promotions.stack();
            stack.len().checked_sub(2).and_then(|i| stack.get(i)).map(|v| (*v).to_owned()).ok_or_else(|| {
                Error::new(Kind::Config, format!("there is no version of `{name}` to go back to"))
                    .with("registry", &self.root)
                    .hint("`curec models show` tells the history of promotions")
            })
        };
        let card = self.card(name, &back_to(&self.promotions(name).await?)?).await?;
        Promotions::append(&self.root.child(name).child(PROMOTED), |promotions| {
            let version = back_to(promotions)?;
            if version != card.version {
                return Err(overtaken());
            }
            let at = now.trunc_subsecs(0);
            Ok(Some(Promotion { at, action: Action::Rollback, version, why: why.to_owned(), forced: false }))
        })
        .await?;
        Ok(card)
    }
}

/// The files of a folder, under their paths in the folder `at` of a version, by name.
fn files_of(at: &str, what: &str, dir: &Path) -> Result<Vec<(String, Bytes)>> {
    let failed = || format!("cannot read the {what} in `{}`", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).context(Kind::Model, failed)? {
        let path = entry.context(Kind::Model, failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && !name.starts_with('.') {
            found.push((format!("{at}/{name}"), Bytes::from(std::fs::read(&path).context(Kind::Model, failed)?)));
        }
    }
    found.sort();
    match found.is_empty() {
        true => Err(Error::new(Kind::Model, format!("the {what}'s folder is empty")).with("folder", dir.display())),
        false => Ok(found),
    }
}

/// Refuses names that are not one plain folder name.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !name.is_empty() && !name.starts_with('.') && name.chars().all(plain) {
        true => Ok(()),
        false => Err(Error::new(Kind::Usage, format!("`{name}` is no name of a model"))
            .hint("use letters, digits, -, _ and ., not a dot at the beginning")),
    }
}
