//! Versions of adapters, and which one is in use.
//!
//! A registry is a folder here or on S3: `<name>/<version>/` holds `adapter/` in PEFT's format, `reward/` where it has a
//! reward model, `card.json` and README.md, and never changes; a version is whole when its card is there, which is written
//! last. `<name>/promoted.json` is the history of promotions, changed by conditional puts. Knows nothing of how adapters
//! and reward models come about.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, SubsecRound, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{Job, parse_moment};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::llm::adapter::{Adapter, FILES, Precision};
use crate::llm::merged::{self, new_folder};
use crate::llm::weights::ModelFiles;
use crate::paths;
use crate::table::fetch::fetch;
use crate::table::store::{Location, StoreOptions};

const CARD: &str = "card.json";
const README: &str = "README.md";
const PROMOTED: &str = "promoted.json";
/// The folder of a version that holds its reward model.
const REWARD: &str = "reward";

/// How `[model] adapter` names what is promoted here: `registry:<name>`.
pub const SCHEME: &str = "registry:";

/// One condition of the gate that a version passes before it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was asked, such as `format >= 0.98`.
    pub what: String,
    /// What was found.
    pub value: f64,
    /// Whether that suffices.
    pub holds: bool,
}

/// How a version came about, as those who trained it tell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trained {
    /// First day of the data, and the first day after it.
    pub interval: Option<[String; 2]>,
    /// Measures by name.
    pub metrics: Map<String, Value>,
    /// Seeds of the training.
    pub seeds: Vec<u64>,
    /// The gate; holds when it has conditions and all of them hold.
    pub gate: Vec<Check>,
    /// What it answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
}

impl Trained {
    /// The end of the interval that it has learned from, where that is told.
    pub fn learned_until(&self) -> Option<DateTime<Utc>> {
        self.interval.as_ref().and_then(|[_, end]| parse_moment("interval", end).ok())
    }
}

/// A question that trained nothing, and what the model answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// What is asked, such as `pair`.
    pub task: String,
    /// The prompt.
    pub question: String,
    /// The answer, its stem included.
    pub answer: String,
}

/// Text of the data as a Markdown quotation that shows it as it is: every line is one, no markup, no HTML, no link.
fn quoted(text: &str) -> String {
    let mut out = String::new();
    for line in text.trim().lines() {
        // Two spaces keep the end of a line.
        out += if out.is_empty() { "> " } else { "  \n> " };
        let mut is_number = true;
        for c in line.trim().chars() {
            match c {
                c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => out.push(' '),
                // A number with one of these begins a list.
                '.' | ')' if is_number => out.extend(['\\', c]),
                '.' | ')' | ',' | ';' | '\'' | '"' | '?' | '%' | '/' => out.push(c),
                c if c.is_ascii_punctuation() => out.extend(['\\', c]),
                c => out.push(c),
            }
            is_number &= c.is_ascii_digit();
        }
    }
    out
}

impl Trained {
    /// Reads a JSON file.
    ///
    /// # Errors
    /// `Kind::Usage` where it is none of these.
    pub fn read(path: &Path) -> Result<Trained> {
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(Kind::Usage, "cannot read what is told of the training")
                .with("file", path.display())
                .hint("it may hold interval, metrics, seeds, gate and samples; `curec models add --help` tells their form")
                .source(e)
        };
        let bytes = std::fs::read(path).map_err(|e| failed(e.into()))?;
        serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))
    }
}

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

/// What is known of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// The model's name in the registry.
    pub name: String,
    /// Its number and the beginning of its digest: `0003-1a2b3c4d`.
    pub version: String,
    /// When it was added.
    pub created: DateTime<Utc>,
    /// Digest of the model that the adapter is for.
    pub base_model: String,
    /// Digest of the adapter, as fingerprints and manifests have it.
    pub adapter: String,
    /// Digest of the sentence encoder that its reward model reads, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
    /// How it came about.
    pub trained: Trained,
    /// BLAKE3 of every file, by its path in the version.
    pub files: BTreeMap<String, String>,
}

impl Card {
    /// Whether the gate was asked and all of it holds.
    pub fn gate_holds(&self) -> bool {
        !self.trained.gate.is_empty() && self.trained.gate.iter().all(|check| check.holds)
    }

    /// The files of its reward model, by their path in the version; none where it has none.
    fn reward_files(&self) -> impl Iterator<Item = (&str, &str)> {
        let inside = |file: &str| file.strip_prefix(REWARD).is_some_and(|rest| rest.starts_with('/'));
        self.files.iter().filter(move |(file, _)| inside(file)).map(|(file, digest)| (file.as_str(), digest.as_str()))
    }

    /// The card as indented JSON.
    ///
    /// # Errors
    /// `Kind::Internal`.
    pub fn json(&self) -> Result<String> {
        to_json(self)
    }

    /// The card for people, as Markdown.
    pub fn readme(&self) -> String {
        let Card { name, version, base_model, adapter, trained, .. } = self;
        let mut text = format!(
            "---\nlibrary_name: peft\ntags: [lora]\n---\n\n# {name} {version}\n\nA LoRA adapter in PEFT's format that \
             makes a language model write reasons for recommendations.\n\n| | |\n|---|---|\n| base model (digest) | \
             `{base_model}` |\n| adapter (digest) | `{adapter}` |\n"
        );
        // Writing to a String cannot fail.
        if self.reward_files().next().is_some() {
            let encoder = self.encoder.as_deref().unwrap_or("not told");
            let _ = writeln!(text, "| reward model | `{REWARD}/`, reads vectors of the encoder `{encoder}` |");
        }
        if let Some([start, end]) = &trained.interval {
            let _ = writeln!(text, "| data | from {start} to before {end} |");
        }
        let seeds: Vec<String> = trained.seeds.iter().map(u64::to_string).collect();
        let _ = writeln!(text, "| seeds | {} |", if seeds.is_empty() { "not told".into() } else { seeds.join(", ") });
        let _ = writeln!(text, "\n## Gate\n");
        for Check { what, value, holds } in &trained.gate {
            let _ = writeln!(text, "* {what}: {value}, {}", if *holds { "holds" } else { "does **not** hold" });
        }
        if trained.gate.is_empty() {
            let _ = writeln!(text, "Not asked.");
        }
        let metrics = serde_json::to_string_pretty(&trained.metrics).unwrap_or_default();
        let _ = write!(text, "\n## Measures\n\n```json\n{metrics}\n```\n");
        if !trained.samples.is_empty() {
            let _ = writeln!(text, "\n## Samples\n\nHeld-out questions and what the model answers, as they came.");
        }
        for (i, Sample { task, question, answer }) in trained.samples.iter().enumerate() {
            let task: String = task.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
            let (question, answer) = (quoted(question), quoted(answer));
            let _ = write!(text, "\n### {}. {task}\n\n{question}\n\nAnswer:\n\n{answer}\n", i + 1);
        }
        text
    }
}

/// What a promotion was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A version came into use.
    Promote,
    /// The one before it came into use again.
    Rollback,
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// When.
    pub at: DateTime<Utc>,
    /// What was done.
    pub action: Action,
    /// The version in use from then on.
    pub version: String,
    /// Why.
    pub why: String,
    /// Whether the gate was overruled.
    pub forced: bool,
}

/// A name's history of promotions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotions {
    /// Oldest first.
    pub history: Vec<Promotion>,
}

impl Promotions {
    /// The version in use.
    pub fn current(&self) -> Option<&str> {
        self.stack().pop()
    }

    /// The version in use and those that rolling back leads to, which it takes off one by one.
    fn stack(&self) -> Vec<&str> {
        let mut stack = Vec::new();
        for promotion in &self.history {
            match promotion.action {
                Action::Promote => stack.push(promotion.version.as_str()),
                Action::Rollback => _ = stack.pop(),
            }
        }
        stack
    }
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
    root: Location,
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

    /// Adds an adapter, and the reward model that goes with it, as a version of `name`; one that is there already, with
    /// equal files and an equal story, is found again. Killed, do it again.
    ///
    /// # Errors
    /// `Kind::Usage` for an impossible name; `Kind::Model` where the adapter does not fit its base, or a file cannot be read;
    /// the store's.
    pub async fn add_parts(
        &self,
        name: &str,
        parts: Parts<'_>,
        base: &ModelFiles,
        trained: Trained,
        now: DateTime<Utc>,
    ) -> Result<Card> {
        check_name(name)?;
        let dir = parts.adapter;
        Adapter::read(dir, base.config())?;
        let mut bytes = Vec::new();
        for file in FILES {
            let read = std::fs::read(dir.join(file)).context(Kind::Model, || format!("cannot read {file}"))?;
            bytes.push((format!("adapter/{file}"), Bytes::from(read)));
        }
        if let Some(reward) = parts.reward {
            bytes.extend(files_of_reward(reward)?);
        }
        let digest = |b: &Bytes| blake3::hash(b).to_hex().to_string();
        let mut card = Card {
            name: name.to_owned(),
            version: String::new(),
            created: DateTime::UNIX_EPOCH,
            base_model: base.digest()?,
            adapter: Adapter::digest(dir)?,
            encoder: parts.encoder.map(str::to_owned),
            trained,
            files: bytes.iter().map(|(file, b)| (file.clone(), digest(b))).collect(),
        };
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

    /// The versions of a name, the oldest first, and whether they are whole.
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

    /// A version's card. What it says is held against where it lies: a card of another version, or one whose files lie
    /// elsewhere, is none.
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

    /// The place of a file by the parts of its path, none of which leads out of the registry, by its name or by a link.
    fn held(&self, parts: &[&str]) -> Result<Location> {
        let path = parts.join("/");
        let of_registry = |e: Error| e.with("registry", &self.root);
        let location = self.root.child(paths::relative(&path).map_err(of_registry)?);
        if let Some(root) = self.root.local_path() {
            paths::inside(&root, &path).map_err(of_registry)?;
        }
        Ok(location)
    }

    /// All whole versions, by name and number; of one name alone where one is given.
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
        let at = self.held(&[name, PROMOTED])?;
        let Some(bytes) = at.get().await? else { return Ok(Promotions::default()) };
        let promotions: Promotions = parse(&bytes, &at)?;
        for promotion in &promotions.history {
            paths::plain(&promotion.version).map_err(|e| e.with("file", &at))?;
        }
        Ok(promotions)
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

    /// Where the adapter of a version lies, in PEFT's format.
    pub fn adapter(&self, card: &Card) -> Location {
        self.root.child(&card.name).child(&card.version).child("adapter")
    }

    /// The folder with a version's adapter, brought to this machine and held against its card.
    ///
    /// # Errors
    /// `Kind::Model` where the files are not the card's; as [`fetch`].
    pub async fn fetch_adapter(&self, card: &Card, cache: &Path) -> Result<PathBuf> {
        let at = self.adapter(card);
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

    /// The folder with a version's reward model, brought to this machine and held against its card.
    ///
    /// # Errors
    /// `Kind::Config` where the version has none; `Kind::Model` where the files are not the card's; as [`fetch`].
    pub async fn fetch_judge(&self, card: &Card, cache: &Path) -> Result<PathBuf> {
        let Some(at) = self.judge(card) else {
            return Err(Error::new(Kind::Config, format!("{} {} has no reward model", card.name, card.version))
                .hint("`curec learn weekly` adds versions with one; name the folder of a reward model instead"));
        };
        for (file, _) in card.reward_files() {
            self.held(&[&card.name, &card.version, file])?;
        }
        let path = fetch(&at, cache).await?;
        for (file, wanted) in card.reward_files() {
            let read = std::fs::read(path.join(file.trim_start_matches(REWARD).trim_start_matches('/')));
            if read.map_or(true, |bytes| blake3::hash(&bytes).to_hex().as_str() != wanted) {
                return Err(damaged(&at).with("of", file));
            }
        }
        Ok(path)
    }

    /// Brings a version into use; one that is in use stays so.
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
        self.change(name, |promotions| {
            let is_new = promotions.current() != Some(&card.version);
            let version = card.version.clone();
            let at = now.trunc_subsecs(0);
            Ok(is_new.then(|| Promotion { at, action: Action::Promote, version, why: why.to_owned(), forced }))
        })
        .await?;
        Ok(card)
    }

    /// Brings the version into use again that was before the one in use.
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
        self.change(name, |promotions| {
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

    /// Appends to the history, if it is still as `next` saw it.
    async fn change(&self, name: &str, next: impl FnOnce(&Promotions) -> Result<Option<Promotion>>) -> Result<()> {
        let at = self.root.child(name).child(PROMOTED);
        let seen = at.get_versioned().await?;
        let mut promotions: Promotions = match &seen {
            Some((bytes, _)) => parse(bytes, &at)?,
            None => Promotions::default(),
        };
        let Some(promotion) = next(&promotions)? else { return Ok(()) };
        promotions.history.push(promotion);
        let bytes = Bytes::from(to_json(&promotions)?);
        match at.put_if(seen.as_ref().map(|(_, version)| version), bytes).await? {
            true => Ok(()),
            false => Err(overtaken().with("file", &at)),
        }
    }

    /// Copies a version's adapter, card and README, and its reward model into `reward/`, into a folder that does not exist
    /// yet, holding its files against their digests.
    ///
    /// # Errors
    /// `Kind::Input` for damaged files; `Kind::Usage` where the folder holds something; the store's and the disk's.
    pub async fn export(&self, card: &Card, out: &Path) -> Result<()> {
        let mut files = vec![(CARD.to_owned(), Bytes::from(card.json()?)), (README.to_owned(), card.readme().into())];
        let adapter = FILES.map(|file| format!("adapter/{file}"));
        for path in adapter.iter().map(String::as_str).chain(card.reward_files().map(|(path, _)| path)) {
            let at = self.held(&[&card.name, &card.version, path])?;
            let bytes = at.get().await?.unwrap_or_default();
            if card.files.get(path).map(String::as_str) != Some(blake3::hash(&bytes).to_hex().as_str()) {
                return Err(damaged(&at));
            }
            files.push((path.trim_start_matches("adapter/").to_owned(), bytes));
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

    /// Writes the language model with a version merged as a Hugging Face directory; says what that has to do without.
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
        // It lies in the registry.
        let _ = std::fs::remove_dir_all(&beside);
        let mut lacks = written?;
        // It tells until when the weights have learned.
        disk::write_whole(&out.join(CARD), card.json()?).context(Kind::Temporary, || format!("cannot write {CARD}"))?;
        if base.digest()? != card.base_model {
            lacks.push("the adapter was trained on other weights than these, of the same shapes".to_owned());
        }
        Ok(lacks)
    }
}

/// The folder of a reward model that a job names: a path, a URL, or `registry:<name>` for that of the version in use, whose
/// card comes with it.
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

/// The files of a reward model's folder, under their paths in a version, by name.
fn files_of_reward(dir: &Path) -> Result<Vec<(String, Bytes)>> {
    let failed = || format!("cannot read the reward model in `{}`", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).context(Kind::Model, failed)? {
        let path = entry.context(Kind::Model, failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && !name.starts_with('.') {
            found.push((format!("{REWARD}/{name}"), Bytes::from(std::fs::read(&path).context(Kind::Model, failed)?)));
        }
    }
    found.sort();
    match found.is_empty() {
        true => Err(Error::new(Kind::Model, "the reward model's folder is empty").with("folder", dir.display())),
        false => Ok(found),
    }
}

/// The error for a version whose files are not those that its card names.
fn damaged(at: &Location) -> Error {
    Error::new(Kind::Model, "the version's files are not those that its card names")
        .with("file", at)
        .hint("versions never change: restore it, or promote another")
}

fn overtaken() -> Error {
    Error::new(Kind::Busy, "another promotion came in between").hint("look at `curec models show` and decide again")
}

fn to_json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).context(Kind::Internal, || "a record of the registry".into())?;
    Ok(text + "\n")
}

fn parse<T: DeserializeOwned>(bytes: &[u8], at: &Location) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::new(Kind::Input, "a record of the registry is damaged")
            .with("file", at)
            .hint("restore it from a backup of the registry")
            .source(e)
    })
}

/// Refuses names that are no single plain folder.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !name.is_empty() && !name.starts_with('.') && name.chars().all(plain) {
        true => Ok(()),
        false => Err(Error::new(Kind::Usage, format!("`{name}` is no name of a model"))
            .hint("use letters, digits, -, _ and ., not a dot at the beginning")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::llm::adapter::AdapterShape;
    use crate::llm::tensor_files::HostTensor;

    fn base() -> ModelFiles {
        ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tiny-qwen3")).unwrap()
    }

    /// An adapter of the tiny model's first query projection.
    fn adapter(dir: &Path, value: f32) {
        let name = "model.layers.0.self_attn.q_proj";
        let shape = base().config().tensors().into_iter().find(|(n, _)| n.starts_with(name)).unwrap().1;
        let filled = |shape: [usize; 2]| HostTensor { data: vec![value; shape[0] * shape[1]], shape: shape.to_vec() };
        let tensors = [(name.to_owned(), (filled([1, shape[1]]), filled([shape[0], 1])))].into_iter().collect();
        // No targets are listed: only one layer has tensors.
        let shape = AdapterShape { rank: 1, alpha: 1.0, dropout: 0.0, targets: Vec::new() };
        Adapter { shape, tensors }.write(dir, "tiny-qwen3", Precision::F32).unwrap();
    }

    #[test]
    fn samples_are_shown_as_they_are() {
        let evil = "# Title\n1. <script>x</script> [l](http://e) `f` *g*\r\n\n- end";
        let sample = Sample { task: "pa#ir".into(), question: evil.into(), answer: evil.into() };
        let trained = Trained { samples: vec![sample.clone(), sample], ..Trained::default() };
        let card = Card {
            name: "x".into(),
            version: "0001-ab".into(),
            created: DateTime::UNIX_EPOCH,
            base_model: "b".into(),
            adapter: "a".into(),
            encoder: None,
            trained,
            files: BTreeMap::new(),
        };
        let text = card.readme();
        assert!(!text.contains(" <script") && !text.contains("](") && !text.contains("http://"), "{text}");
        let headings: Vec<&str> = text.lines().filter(|l| l.starts_with('#')).collect();
        assert_eq!(headings[headings.len() - 3..], ["## Samples", "### 1. pair", "### 2. pair"]);
        assert!(text.contains("> \\# Title  \n> 1\\. \\<script\\>"), "{text}");
        assert!(text.contains("\n> \\- end"), "{text}");
        let back: Trained = serde_json::from_str(&serde_json::to_string(&card.trained).unwrap()).unwrap();
        assert_eq!(back, card.trained);
        assert!(!serde_json::to_string(&Trained::default()).unwrap().contains("samples"), "old cards keep their bytes");
    }

    fn passed(holds: bool) -> Trained {
        let gate = vec![Check { what: "format >= 0.98".into(), value: 0.99, holds }];
        Trained { gate, seeds: vec![7], ..Trained::default() }
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    #[tokio::test]
    async fn versions_are_added_promoted_and_rolled_back() {
        let (dir, base) = (tempfile::tempdir().unwrap(), base());
        for url in [format!("{}/registry", dir.path().display()), "memory://registry-versions/a".to_owned()] {
            let registry = Registry::open(&url, &StoreOptions::default()).unwrap();
            assert!(registry.list(None).await.unwrap().is_empty());
            let none = registry.promoted("writer").await.unwrap_err();
            assert_eq!(none.kind(), Kind::Config);
            assert!(none.explain().contains("models promote writer"), "{none:?}");

            let mut versions = Vec::new();
            for (i, trained) in [passed(true), passed(true), passed(false)].into_iter().enumerate() {
                let folder = dir.path().join(format!("adapter-{i}"));
                adapter(&folder, i as f32 + 1.0);
                let card = registry.add("writer", &folder, &base, trained.clone(), at(100)).await.unwrap();
                let again = registry.add("writer", &folder, &base, trained, at(200)).await.unwrap();
                assert_eq!(card, again, "the same is found again");
                assert!(card.version.starts_with(&format!("000{}-", i + 1)), "{}", card.version);
                versions.push(card.version);
            }
            assert_eq!(registry.find("writer", "latest").await.unwrap().version, versions[2]);
            assert_eq!(registry.find("writer", "2").await.unwrap().version, versions[1]);
            assert_eq!(registry.find("writer", "000").await.unwrap_err().kind(), Kind::Usage);
            assert_eq!(registry.find("writer", "4").await.unwrap_err().kind(), Kind::Usage);
            assert_eq!(registry.find("../writer", "1").await.unwrap_err().kind(), Kind::Usage);

            let current = async || registry.promoted("writer").await.unwrap().version;
            registry.promote("writer", "1", "first", false, at(1)).await.unwrap();
            assert_eq!(registry.rollback("writer", "", at(2)).await.unwrap_err().kind(), Kind::Config);
            registry.promote("writer", "2", "better", false, at(3)).await.unwrap();
            registry.promote("writer", "2", "again", false, at(4)).await.unwrap();
            assert_eq!(current().await, versions[1]);
            let refused = registry.promote("writer", "3", "", false, at(5)).await.unwrap_err();
            assert_eq!(refused.kind().exit_code(), 1);
            assert!(refused.to_string().contains("format >= 0.98"), "{refused}");
            registry.promote("writer", "3", "I know better", true, at(6)).await.unwrap();
            assert_eq!(current().await, versions[2]);
            registry.rollback("writer", "worse", at(7)).await.unwrap();
            assert_eq!(current().await, versions[1]);
            // Not back to the one that was just given up.
            registry.rollback("writer", "worse still", at(8)).await.unwrap();
            assert_eq!(current().await, versions[0]);
            let history = registry.promotions("writer").await.unwrap().history;
            let told: Vec<_> = history.iter().map(|p| (p.action, p.forced, p.at.timestamp())).collect();
            let (up, down) = (Action::Promote, Action::Rollback);
            assert_eq!(told, [(up, false, 1), (up, false, 3), (up, true, 6), (down, false, 7), (down, false, 8)]);
            let listed = registry.list(None).await.unwrap();
            let promoted: Vec<bool> = listed.iter().map(|l| l.promoted).collect();
            assert_eq!(promoted, [true, false, false]);
            assert!(list_text(&listed).contains("gate: fails"));
        }
    }

    #[tokio::test]
    async fn half_a_version_is_none_and_is_finished_by_adding_again() {
        let (dir, base) = (tempfile::tempdir().unwrap(), base());
        let folder = dir.path().join("adapter");
        adapter(&folder, 1.0);
        let registry = Registry::open("memory://registry-half/", &StoreOptions::default()).unwrap();
        let card = registry.add("writer", &folder, &base, passed(true), at(1)).await.unwrap();
        let whole = registry.root.child("writer").child(&card.version);
        whole.child(CARD).delete().await.unwrap();
        assert!(registry.list(Some("writer")).await.unwrap().is_empty());
        let again = registry.add("writer", &folder, &base, passed(true), at(2)).await.unwrap();
        assert_eq!((again.version, again.adapter.clone()), (card.version, card.adapter));
        assert_eq!(again.adapter, Adapter::digest(&folder).unwrap());
    }

    #[tokio::test]
    async fn an_export_holds_files_against_their_digests() {
        let (dir, base) = (tempfile::tempdir().unwrap(), base());
        let folder = dir.path().join("adapter");
        adapter(&folder, 1.0);
        let registry = Registry::open("memory://registry-export", &StoreOptions::default()).unwrap();
        let card = registry.add("writer", &folder, &base, passed(true), at(1)).await.unwrap();
        let out = dir.path().join("out");
        registry.export(&card, &out).await.unwrap();
        assert_eq!(Adapter::digest(&out).unwrap(), card.adapter);
        assert_eq!(registry.export(&card, &out).await.unwrap_err().kind(), Kind::Usage);
        assert!(!out.join(REWARD).exists() && registry.judge(&card).is_none());
        registry.adapter(&card).child(FILES[1]).put(Bytes::from_static(b"else")).await.unwrap();
        let e = registry.export(&card, &dir.path().join("other")).await.unwrap_err();
        assert!(e.to_string().contains("not those that its card names"), "{e}");
        assert!(!dir.path().join("other").exists());
    }

    #[tokio::test]
    async fn a_version_holds_the_reward_model_that_goes_with_it() {
        let (dir, base) = (tempfile::tempdir().unwrap(), base());
        let (folder, reward) = (dir.path().join("adapter"), dir.path().join("judge"));
        adapter(&folder, 1.0);
        std::fs::create_dir(&reward).unwrap();
        for (file, text) in [("judge.json", "{}"), ("fold-0.safetensors", "weights"), (".part", "half")] {
            std::fs::write(reward.join(file), text).unwrap();
        }
        for url in [dir.path().join("registry").display().to_string(), "memory://registry-reward".to_owned()] {
            let registry = Registry::open(&url, &StoreOptions::default()).unwrap();
            let parts = Parts { adapter: &folder, reward: Some(&reward), encoder: Some("e5") };
            let card = registry.add_parts("writer", parts, &base, passed(true), at(1)).await.unwrap();
            let alone = registry.add("writer", &folder, &base, passed(true), at(1)).await.unwrap();
            assert_ne!(alone.version, card.version);
            assert_eq!(card.encoder.as_deref(), Some("e5"));
            assert!(card.readme().contains("encoder `e5`") && !alone.readme().contains("encoder"));
            assert!(!alone.json().unwrap().contains("encoder"), "cards of before are as they were");
            assert_eq!(registry.find("writer", &card.version).await.unwrap(), card);

            let name = if url.starts_with("memory") { "a" } else { "b" };
            let (cache, out) = (dir.path().join(format!("cache-{name}")), dir.path().join(format!("out-{name}")));
            let there = registry.fetch_judge(&card, &cache).await.unwrap();
            assert_eq!(std::fs::read_to_string(there.join("fold-0.safetensors")).unwrap(), "weights");
            assert_eq!(registry.fetch_judge(&alone, &cache).await.unwrap_err().kind(), Kind::Config);
            assert_eq!(Adapter::digest(&registry.fetch_adapter(&card, &cache).await.unwrap()).unwrap(), card.adapter);
            registry.export(&card, &out).await.unwrap();
            assert_eq!(std::fs::read_to_string(out.join("reward/judge.json")).unwrap(), "{}");
            assert!(!out.join("reward/.part").exists());

            registry.judge(&card).unwrap().child("judge.json").put(Bytes::from_static(b"[]")).await.unwrap();
            let e = registry.fetch_judge(&card, &cache).await.unwrap_err();
            assert!(e.to_string().contains("not those that its card names"), "{e}");
        }
    }

    #[tokio::test]
    async fn nothing_in_a_registry_leads_out_of_it() {
        let (dir, base) = (tempfile::tempdir().unwrap(), base());
        let folder = dir.path().join("adapter");
        adapter(&folder, 1.0);
        for url in [dir.path().join("registry").display().to_string(), "memory://registry-paths".to_owned()] {
            let registry = Registry::open(&url, &StoreOptions::default()).unwrap();
            let card = registry.add("writer", &folder, &base, passed(true), at(1)).await.unwrap();
            let there = registry.root.child("writer").child(&card.version).child(CARD);
            let mut of_files = card.clone();
            of_files.files.insert("reward/../../../../secret".into(), String::new());
            for (changed, says) in [
                (Card { name: "../writer".into(), ..card.clone() }, "the card is that of"),
                (Card { version: "/etc".into(), ..card.clone() }, "the card is that of"),
                (of_files, "out of its folder"),
            ] {
                there.put(Bytes::from(changed.json().unwrap())).await.unwrap();
                let e = registry.find("writer", "latest").await.unwrap_err();
                assert!(e.kind() == Kind::Model && e.explain().contains(says), "{}", e.explain());
            }
            there.put(Bytes::from(card.json().unwrap())).await.unwrap();
            registry.promote("writer", "latest", "", false, at(2)).await.unwrap();
            let promoted = registry.root.child("writer").child(PROMOTED);
            let text = String::from_utf8(promoted.get().await.unwrap().unwrap().to_vec()).unwrap();
            promoted.put(text.replace(&card.version, "../../elsewhere").into()).await.unwrap();
            let e = registry.promoted("writer").await.unwrap_err();
            assert!(e.explain().contains("out of its folder"), "{}", e.explain());
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_link_in_a_registry_stays_inside() {
        use std::os::unix::fs::symlink;
        let (dir, base) = (tempfile::tempdir().unwrap(), base());
        let (folder, root) = (dir.path().join("adapter"), dir.path().join("registry"));
        adapter(&folder, 1.0);
        let link = dir.path().join("link");
        std::fs::create_dir(&root).unwrap();
        symlink(&root, &link).unwrap();
        let registry = Registry::open(&link.display().to_string(), &StoreOptions::default()).unwrap();
        let card = registry.add("writer", &folder, &base, passed(true), at(1)).await.unwrap();
        registry.fetch_adapter(&card, dir.path()).await.unwrap();
        let weights = root.join("writer").join(&card.version).join("adapter").join(FILES[1]);
        std::fs::remove_file(&weights).unwrap();
        symlink(folder.join(FILES[1]), &weights).unwrap();
        for e in [
            registry.fetch_adapter(&card, dir.path()).await.unwrap_err(),
            registry.export(&card, &dir.path().join("out")).await.unwrap_err(),
        ] {
            assert!(e.kind() == Kind::Model && e.explain().contains("a link leads out"), "{}", e.explain());
        }
    }
}
