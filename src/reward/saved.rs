//! A judge on disk, with the items that it knows: what reinforcement, correction and gates ask what a reason is worth.
//!
//! ```text
//! judge.json               encoder, seed, sizes, item ids, attributes, gates, and the digests of the others
//! titles.safetensors       the vectors of the items' titles, where the judge knows them
//! fold-<k>.safetensors     the model of fold k, which judges that fold's users and learned from the others
//! ```
//!
//! Ids of users and items are texts here and numbers in the models: a user's number is a digest of the id, so that the fold
//! needs no table; an item's is its place among the known ones, which begin at 1. **Item 0 is an unknown item**: training
//! puts it in the place of others now and then ([`Plan::unknown`](crate::reward::train::Plan)), and it has no attributes.
//! Knows vectors of texts; knows nothing of texts, tables, or of how judges are trained.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::llm::device::ComputeDevice;
use crate::reward::example::{Attributes, Past, RewardExample};
use crate::reward::judge::{Gates, Judge};
use crate::reward::model::{Config, Judged, RewardModel};
use crate::whole_folder::replace_folder;

/// The number of an item that a judge does not know.
pub const UNKNOWN: u32 = 0;

/// The number of a user: the first four bytes of the id's digest. Two users of one number share a fold, nothing else.
pub fn user_number(user_id: &str) -> u32 {
    let digest = blake3::hash(user_id.as_bytes());
    digest.as_bytes().iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The items that a judge knows, and their attributes.
#[derive(Debug, Clone)]
pub struct Catalogue {
    items: Vec<String>,
    names: Vec<String>,
    numbers: HashMap<String, u32>,
    attributes: Arc<Attributes>,
}

impl Catalogue {
    /// Items by id with the names of their attributes.
    ///
    /// # Errors
    /// `Kind::Internal` for more items than there are numbers.
    pub fn new(items: &BTreeMap<String, Vec<String>>) -> Result<Catalogue> {
        let names: BTreeSet<&String> = items.values().flatten().collect();
        let numbers: HashMap<&String, u32> = names.iter().zip(0..).map(|(name, number)| (*name, number)).collect();
        let of_item = |of: &Vec<String>| -> Vec<u32> {
            let distinct: BTreeSet<u32> = of.iter().filter_map(|name| numbers.get(name).copied()).collect();
            distinct.into_iter().collect()
        };
        let of_items = items.values().map(of_item).collect();
        Self::of(items.keys().cloned().collect(), names.into_iter().cloned().collect(), of_items)
    }

    fn of(items: Vec<String>, names: Vec<String>, of_items: Vec<Vec<u32>>) -> Result<Catalogue> {
        if u32::try_from(items.len()).is_err() || of_items.len() != items.len() {
            return Err(Error::new(
                Kind::Internal,
                "there is not one number and one list of attributes for every item",
            ));
        }
        let numbers = items.iter().cloned().zip(UNKNOWN + 1..).collect();
        let attributes = std::iter::once(Vec::new()).chain(of_items).collect();
        Ok(Catalogue { attributes: Arc::new(Attributes::new(attributes, names.len())?), items, names, numbers })
    }

    /// The same with the vectors of the items' titles, all of one `width`; an item that is not named has none.
    ///
    /// # Errors
    /// `Kind::Input` for a vector of another width, or with values that are no numbers.
    pub fn with_titles(self, width: usize, titles: &HashMap<String, Vec<f32>>) -> Result<Catalogue> {
        let none = vec![0.0; width];
        let of = |item: &String| titles.get(item).unwrap_or(&none).iter().copied();
        let values = none.iter().copied().chain(self.items.iter().flat_map(of)).collect();
        let attributes = Arc::unwrap_or_clone(self.attributes).with_titles(width, values)?;
        Ok(Catalogue { attributes: Arc::new(attributes), ..self })
    }

    /// The number of an item, [`UNKNOWN`] where there is none.
    pub fn number(&self, item_id: &str) -> u32 {
        self.numbers.get(item_id).copied().unwrap_or(UNKNOWN)
    }

    /// By numbers.
    pub fn attributes(&self) -> &Arc<Attributes> {
        &self.attributes
    }

    /// Number of known items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether every item is an unknown one.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// A judge with the items that it knows.
pub struct SavedJudge {
    judge: Judge,
    catalogue: Catalogue,
    encoder: String,
    gates: Gates,
    passed: bool,
}

/// One past event of a case. An item that the judge does not know is [`UNKNOWN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastEvent<'a> {
    /// The item.
    pub item_id: &'a str,
    /// What became of it.
    pub liked: bool,
    /// When, in the unit of [`Case::time`].
    pub time: i64,
}

/// A user and an item at a time, what became of it, and what is to be judged.
#[derive(Debug, Clone)]
pub struct Case<'a> {
    /// The user, whose fold's model judges.
    pub user_id: &'a str,
    /// The item.
    pub item_id: &'a str,
    /// Strictly before `time`, in order; only its end is read.
    pub history: &'a [PastEvent<'a>],
    /// Whether the user liked the item.
    pub label: bool,
    /// When it was.
    pub time: i64,
    /// Vectors of the reasons alone, by the judge's encoder.
    pub texts: Vec<&'a [f32]>,
}

/// `judge.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    format: u32,
    /// Of everything else but the gates.
    digest: String,
    encoder: String,
    seed: u64,
    config: Config,
    /// Digests of the folds' files.
    folds: Vec<String>,
    /// Digest of the titles' file, where there is one.
    titles: Option<String>,
    gates: Gates,
    passed: bool,
    attributes: Vec<String>,
    items: Vec<String>,
    attributes_of_items: Vec<Vec<u32>>,
}

const FORMAT: u32 = 2;
const ABOUT: &str = "judge.json";
const TITLES: &str = "titles.safetensors";
/// The tensor in it.
const TITLE: &str = "title";

fn file_of(fold: usize) -> String {
    format!("fold-{fold}.safetensors")
}

fn digest_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_string()
}

impl About {
    /// Gates are no part of it: their numbers may not survive being read.
    fn digest(&self) -> Result<String> {
        let About { format, encoder, seed, config, folds, titles, attributes, items, attributes_of_items, .. } = self;
        let all = (format, encoder, seed, config, folds, titles, attributes, items, attributes_of_items);
        let all = serde_json::to_vec(&all);
        Ok(digest_of(&all.context(Kind::Internal, || "a judge's description".into())?))
    }

    fn read(dir: &Path) -> Result<About> {
        let path = dir.join(ABOUT);
        let text = std::fs::read(&path).map_err(|e| {
            Error::new(Kind::Model, "there is no judge here")
                .with("file", path.display())
                .hint(
                    "`curec learn reward` trains one, into reward/judge and reward/second of the weekly file's folder",
                )
                .source(e)
        })?;
        let about: About = serde_json::from_slice(&text)
            .map_err(|e| broken("the judge's description cannot be read", &path).source(e))?;
        if about.format != FORMAT {
            return Err(broken("the judge was written by another version", &path).with("format", about.format));
        }
        if about.digest()? != about.digest {
            return Err(broken("the judge's description was changed after it was written", &path));
        }
        Ok(about)
    }
}

/// Writes the titles' vectors, where there are some, and gives the file's digest.
fn write_titles(attributes: &Attributes, path: &Path) -> Result<Option<String>> {
    if attributes.width() == 0 {
        return Ok(None);
    }
    let failed = || format!("cannot write `{}`", path.display());
    let bytes: Vec<u8> = attributes.titles().iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![attributes.items(), attributes.width()], &bytes);
    let view = view.context(Kind::Internal, failed)?;
    let bytes = safetensors::serialize([(TITLE, view)], None).context(Kind::Internal, failed)?;
    disk::write_whole(path, &bytes).context(Kind::Temporary, failed)?;
    Ok(Some(digest_of(&bytes)))
}

/// Width and values of what [`write_titles`] wrote.
fn read_titles(path: &Path, digest: &str) -> Result<(usize, Vec<f32>)> {
    let bytes = std::fs::read(path).map_err(|e| broken("the judge's titles are missing", path).source(e))?;
    if digest_of(&bytes) != digest {
        return Err(broken("the judge's titles are not what was written", path));
    }
    let cannot = |e| broken("the judge's titles cannot be read", path).source(e);
    let file = SafeTensors::deserialize(&bytes).map_err(cannot)?;
    let titles = file.tensor(TITLE).map_err(cannot)?;
    let width = titles.shape().get(1).copied().unwrap_or_default();
    let value = |v: &[u8]| v.try_into().map_or(f32::NAN, f32::from_le_bytes);
    Ok((width, titles.data().chunks_exact(4).map(value).collect()))
}

fn broken(what: &str, path: &Path) -> Error {
    Error::new(Kind::Model, what)
        .with("file", path.display())
        .hint("remove the judge's folder and train it anew with `curec learn reward`")
}

/// What a judge in a folder is known by: equal for equal models over equal items.
///
/// # Errors
/// `Kind::Model` where there is none, or its description was changed.
pub fn digest(dir: &Path) -> Result<String> {
    Ok(About::read(dir)?.digest)
}

impl SavedJudge {
    /// A judge that was trained with the catalogue's numbers and attributes on vectors of `encoder`, a digest; what was
    /// measured of it, and whether that was enough.
    pub fn new(judge: Judge, catalogue: Catalogue, encoder: &str, gates: Gates, passed: bool) -> Self {
        SavedJudge { judge, catalogue, encoder: encoder.to_owned(), gates, passed }
    }

    /// Lets the judge judge where it passed its gates.
    ///
    /// # Errors
    /// `Kind::Audit` where it did not.
    pub fn check(&self) -> Result<()> {
        match self.passed {
            true => Ok(()),
            false => {
                Err(Error::new(Kind::Audit, "the judge did not pass its gates: what it says of reasons tells nothing")
                    .with("gain", format!("{:.4}", self.gates.difference.interval.mean))
                    .with("shuffled", format!("{:.4}", self.gates.shuffled.interval.mean))
                    .with("probe", format!("{:.4}", self.gates.probe.mean))
                    .hint("train a better one with `curec learn reward`; its report tells which gate failed"))
            }
        }
    }

    /// Writes it into a folder; a judge that is there is replaced. The folder stands whole or not at all.
    ///
    /// # Errors
    /// `Kind::Usage` where the folder holds something that is no judge; `Kind::Temporary` for the device's and the disk's.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let failed = || format!("cannot write the judge `{}`", dir.display());
        let of = |item: u32| self.catalogue.attributes.of(item).to_vec();
        let config = self.judge.config().ok_or_else(|| Error::new(Kind::Internal, "a judge without a model"))?;
        replace_folder(dir, "judge", ABOUT, |at| {
            let mut folds = Vec::new();
            for (fold, model) in self.judge.models().iter().enumerate() {
                let path = at.join(file_of(fold));
                model.parameters().save(&path, HashMap::new())?;
                folds.push(digest_of(&std::fs::read(&path).context(Kind::Temporary, failed)?));
            }
            let titles = write_titles(self.catalogue.attributes(), &at.join(TITLES))?;
            let mut about = About {
                format: FORMAT,
                digest: String::new(),
                encoder: self.encoder.clone(),
                seed: self.judge.seed(),
                config: config.clone(),
                folds,
                titles,
                gates: self.gates,
                passed: self.passed,
                attributes: self.catalogue.names.clone(),
                items: self.catalogue.items.clone(),
                attributes_of_items: (1..=self.catalogue.len() as u32).map(of).collect(),
            };
            about.digest = about.digest()?;
            let text = serde_json::to_string(&about).context(Kind::Internal, failed)?;
            disk::write_whole(&at.join(ABOUT), text + "\n").context(Kind::Temporary, failed)
        })
    }

    /// Reads what [`SavedJudge::write`] wrote.
    ///
    /// # Errors
    /// `Kind::Model` where there is none, a file is missing, or one is not what was written.
    pub fn read(dir: &Path, device: &ComputeDevice) -> Result<SavedJudge> {
        let about = About::read(dir)?;
        let mut catalogue = Catalogue::of(about.items, about.attributes, about.attributes_of_items)?;
        if let Some(digest) = &about.titles {
            let (width, titles) = read_titles(&dir.join(TITLES), digest)?;
            let attributes = Arc::unwrap_or_clone(catalogue.attributes).with_titles(width, titles)?;
            catalogue.attributes = Arc::new(attributes);
        }
        let mut models = Vec::new();
        for (fold, digest) in about.folds.iter().enumerate() {
            let path = dir.join(file_of(fold));
            let bytes = std::fs::read(&path).map_err(|e| broken("a fold of the judge is missing", &path).source(e))?;
            if digest_of(&bytes) != *digest {
                return Err(broken("a fold of the judge is not what was written", &path));
            }
            let mut model = RewardModel::new(catalogue.attributes.clone(), about.config.clone(), 0, device)?;
            model.parameters_mut().load(&path)?;
            models.push(model);
        }
        let judge = Judge::of(models, about.seed)?;
        Ok(SavedJudge { judge, catalogue, encoder: about.encoder, gates: about.gates, passed: about.passed })
    }

    /// Digest of the encoder whose vectors it reads.
    pub fn encoder(&self) -> &str {
        &self.encoder
    }

    /// What was measured of it when it was trained.
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// The items that it knows.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// For each case, for each of its texts: the information gain `log p(label | text) − log p(label | no text)`, in nats, by
    /// the model of the fold that the user belongs to, which learned from other folds' users only.
    ///
    /// # Errors
    /// As [`SavedJudge::judged`].
    pub fn gains(&self, cases: &[Case<'_>]) -> Result<Vec<Vec<f64>>> {
        let gains = |of: Vec<Judged>| of.iter().map(|j| f64::from(j.gain)).collect();
        Ok(self.judged(cases)?.into_iter().map(gains).collect())
    }

    /// As [`SavedJudge::gains`], with the logits that the gains come from.
    ///
    /// # Errors
    /// `Kind::Input` where a history is not strictly before its case or out of order, or a vector has another width or a
    /// value that is no number; `Kind::Temporary` where the device fails.
    pub fn judged(&self, cases: &[Case<'_>]) -> Result<Vec<Vec<Judged>>> {
        // A case without texts needs no judgement.
        let asked: Vec<usize> = (0..cases.len()).filter(|at| !cases[*at].texts.is_empty()).collect();
        let histories: Vec<Vec<Past>> = asked.iter().map(|at| self.past(cases[*at].history)).collect();
        let mut examples = Vec::with_capacity(asked.len());
        for (case, history) in asked.iter().map(|at| &cases[*at]).zip(&histories) {
            let who = (user_number(case.user_id), self.catalogue.number(case.item_id));
            let example = RewardExample::new(who, history, case.texts.clone(), Vec::new(), case.label, case.time);
            examples.push(example.map_err(|e| e.with("user_id", case.user_id).with("item_id", case.item_id))?);
        }
        let examples: Vec<&RewardExample<'_>> = examples.iter().collect();
        let texts: Vec<Vec<Option<&[f32]>>> =
            examples.iter().map(|e| e.reasons().iter().copied().map(Some).collect()).collect();
        let mut all = vec![Vec::new(); cases.len()];
        asked.into_iter().zip(self.judge.judge(&examples, &texts)?).for_each(|(at, judged)| all[at] = judged);
        Ok(all)
    }

    /// f_0 of items for the user of a case, at its time and with its history, by the model of the user's fold; neither the
    /// case's own item nor its texts are looked at. It depends on nothing but case and items.
    ///
    /// # Errors
    /// `Kind::Input` where the history is not strictly before the case or out of order; `Kind::Temporary` where the device
    /// fails.
    pub fn without(&self, case: &Case<'_>, items: &[&str]) -> Result<Vec<f64>> {
        let (user, history) = (user_number(case.user_id), self.past(case.history));
        let example = |item: &&str| {
            let example = RewardExample::bare((user, self.catalogue.number(item)), &history, case.label, case.time);
            example.map_err(|e| e.with("user_id", case.user_id).with("item_id", *item))
        };
        let examples: Vec<RewardExample<'_>> = items.iter().map(example).collect::<Result<_>>()?;
        let examples: Vec<&RewardExample<'_>> = examples.iter().collect();
        let judged = self.judge.judge(&examples, &vec![vec![None]; items.len()])?;
        Ok(judged.iter().flatten().map(|j| f64::from(j.without)).collect())
    }

    fn past(&self, history: &[PastEvent<'_>]) -> Vec<Past> {
        let number = |event: &PastEvent<'_>| Past {
            item: self.catalogue.number(event.item_id),
            liked: event.liked,
            time: event.time,
        };
        history.iter().map(number).collect()
    }
}
