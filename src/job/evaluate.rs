//! `curec learn evaluate`: what content features are worth to a recommender, arm by arm, with its intervals.
//!
//! Knows the evaluation's file, jobs and their tables; leaves training and statistics to [`crate::recommend::ablation`].
//! The vectors come from the nightly pipeline itself, run for the last midnight before the first held-out event, so
//! nothing that is asked for later can stand in them; those of histories from nights in training as well, each seen by later
//! events alone. Everything is kept in the evaluation's folder: an evaluation that
//! was killed goes on where it was.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use chrono::{DateTime, Days, NaiveTime, Utc};
use serde::Deserialize;

use crate::config::{self, Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::generate::models::Models;
use crate::job::arm_text::{self, About};
use crate::job::evaluation_histories::{self, HistoriesSpec, Nights};
use crate::job::evaluation_page;
use crate::job::evaluation_text::{self, References};
use crate::job::record::now;
use crate::job::run::{self, Options};
use crate::job::stop::Stop;
use crate::job::tables::locate;
use crate::llm::device;
use crate::query::session::Session;
use crate::recommend::ablation::{self, Evaluation, Training, target_name};
use crate::recommend::arms::{Arm, Data, ItemVectors};
use crate::recommend::data::Log;
use crate::recommend::din::{self, Labels};
use crate::recommend::histories::HistoryVectors;
use crate::recommend::results::{Measurement, Results};
use crate::recommend::sasrec;
use crate::recommend::split::{Split, Target, temporal};
use crate::recommend::train::Plan;
use crate::table::write::write_local;
use crate::telemetry::Voice;

/// An evaluation's file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // every key is documented in jobs/ablation.toml
pub struct Spec {
    pub name: String,
    pub out: String,
    #[serde(default)]
    pub markdown: String,
    pub arms: Vec<String>,
    pub seeds: u64,
    pub targets: Vec<String>,
    pub resamples: usize,
    pub confidence: f64,
    pub device: String,
    pub split: SplitSpec,
    pub histories: Option<HistoriesSpec>,
    pub sasrec: Option<SasRecSpec>,
    pub din: Option<DinSpec>,
    pub data: Vec<DataSpec>,
    /// What its page says besides, from whoever runs it.
    #[serde(skip)]
    pub facts: Vec<(String, String)>,
}

/// `[split]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SplitSpec {
    pub train_quantile: f64,
    pub valid_quantile: f64,
}

/// `[sasrec]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SasRecSpec {
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub length: usize,
    pub dropout: f64,
    pub batch: usize,
    pub epochs: usize,
    pub patience: usize,
    pub learning_rates: Vec<f64>,
}

/// `[din]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct DinSpec {
    pub hidden: usize,
    pub length: usize,
    pub dropout: f64,
    pub batch: usize,
    pub like_threshold: f32,
    pub epochs: usize,
    pub patience: usize,
    pub learning_rates: Vec<f64>,
}

/// `[[data]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct DataSpec {
    pub name: String,
    pub job: PathBuf,
    #[serde(default)]
    pub set: Vec<String>,
    #[serde(default)]
    pub aligned: Vec<String>,
    #[serde(default)]
    pub text: Vec<TextSpec>,
}

/// `[[data.text]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct TextSpec {
    pub arm: String,
    pub set: Vec<String>,
}

/// An evaluation that ended well.
pub struct Done {
    /// What was found.
    pub results: Results,
    /// The page for people.
    pub page: PathBuf,
    /// The same for a person, some lines.
    pub story: String,
}

/// Reads an evaluation's file, with every problem named.
///
/// # Errors
/// `Kind::Config`.
pub fn load(path: &Path) -> Result<Spec> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::new(Kind::Config, "cannot read the evaluation's file")
            .with("file", path.display())
            .hint("jobs/ablation.toml is one")
            .source(e)
    })?;
    let mut spec: Spec = toml::from_str(&text).map_err(|e| {
        Error::new(Kind::Config, format!("the evaluation's file is wrong: {}", e.to_string().trim_end()))
            .with("file", path.display())
            .hint("jobs/ablation.toml has every key with its meaning")
    })?;
    let bad = |what: String| Err(Error::new(Kind::Config, what).with("file", path.display()));
    let env = config::environment();
    for text in [&mut spec.out, &mut spec.markdown, &mut spec.device] {
        *text = config::expand_text(text, &env)
            .map_err(|name| Error::new(Kind::Config, format!("the variable {name} is not set and has no default")))
            .map_err(|e| e.with("file", path.display()))?;
    }
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if let Some(name) = spec.data.iter().map(|d| &d.name).chain([&spec.name]).find(|name| !is_name(name)) {
        return bad(format!("a name may hold letters, digits, - and _ alone: {name:?}"));
    }
    let mut names: Vec<&String> = spec.data.iter().map(|d| &d.name).collect();
    names.sort();
    if names.is_empty() || names.windows(2).any(|w| w[0] == w[1]) {
        return bad("[[data]]: there must be one data set or more, each with a name of its own".into());
    }
    if spec.seeds == 0 || spec.resamples == 0 || !(spec.confidence > 0.0 && spec.confidence < 1.0) {
        return bad("seeds and resamples must be positive, confidence between 0 and 1".into());
    }
    if spec.sasrec.is_none() && spec.din.is_none() {
        return bad("there must be a [sasrec] or a [din]".into());
    }
    if spec.out.contains("://") {
        return bad(format!("out: checkpoints need a folder of this machine, not {}", spec.out));
    }
    let rates = [spec.sasrec.as_ref().map(|s| &s.learning_rates), spec.din.as_ref().map(|d| &d.learning_rates)];
    if rates.into_iter().flatten().any(|rates| rates.is_empty() || rates.iter().any(|r| r.is_nan() || *r <= 0.0)) {
        return bad("learning_rates: name one or more, each above 0".into());
    }
    if spec.histories.as_ref().is_some_and(|h| h.blocks == 0 || h.blocks > 1000) {
        return bad("[histories] blocks: between 1 and 1000".into());
    }
    let arms = arms(&spec)?;
    targets(&spec)?;
    for data in &mut spec.data {
        if !data.aligned.is_empty() {
            data.text.push(TextSpec { arm: Arm::Aligned.code().into(), set: std::mem::take(&mut data.aligned) });
        }
        let named = |arm: &str| data.text.iter().filter(|text| text.arm == arm).count();
        if let Some(arm) = arms.iter().find(|arm| arm.wants_keys() && named(arm.code()) != 1) {
            return bad(format!(
                "[[data]] {0}: arm {1} needs one `[[data.text]]` with arm = \"{1}\" and set = [the keys that name the \
                 adapter and its templates]",
                data.name,
                arm.code()
            ));
        }
        let known = |arm: &str| Arm::ALL.iter().any(|one| one.wants_keys() && one.code() == arm);
        if let Some(text) = data.text.iter().find(|text| !known(&text.arm) || text.set.is_empty()) {
            return bad(format!(
                "[[data.text]] of {}: arm {:?} is none of A4, A5a, A5 and A6, or its `set` is empty",
                data.name, text.arm
            ));
        }
    }
    Ok(spec)
}

fn arms(spec: &Spec) -> Result<Vec<Arm>> {
    let known = |name: &String| {
        Arm::ALL.into_iter().find(|arm| arm.code() == name).ok_or_else(|| {
            let all: Vec<&str> = Arm::ALL.iter().map(|arm| arm.code()).collect();
            Error::new(Kind::Config, format!("there is no arm {name:?}")).hint(format!("arms: {}", all.join(", ")))
        })
    };
    let mut found: Vec<Arm> = spec.arms.iter().map(known).collect::<Result<_>>()?;
    found.sort();
    found.dedup();
    match found.first() {
        Some(Arm::NoText) => Ok(found),
        _ => Err(Error::new(Kind::Config, "A0 must be among the arms: the others are compared with it")),
    }
}

fn targets(spec: &Spec) -> Result<Vec<Target>> {
    let all = [Target::Last, Target::First, Target::Successive];
    let known = |name: &String| {
        all.into_iter().find(|target| target_name(*target) == name).ok_or_else(|| {
            Error::new(Kind::Config, format!("there is no target {name:?}")).hint("targets: last, first, successive")
        })
    };
    match spec.targets.is_empty() {
        true => Err(Error::new(Kind::Config, "targets: name one or more of last, first, successive")),
        false => spec.targets.iter().map(known).collect(),
    }
}

/// Runs an evaluation: texts and vectors, trainings, statistics, tables and pages.
///
/// # Errors
/// As [`run::run`] for the texts, and [`ablation::evaluate`] for what is learned from them; `Kind::Interrupted` after a
/// signal.
pub async fn evaluate(spec: &Spec, voice: Voice, stop: &Stop) -> Result<Done> {
    let out = PathBuf::from(&spec.out);
    let work = out.join("work");
    make_folder(&work)?;
    let arms = arms(spec)?;
    let evaluation = Evaluation {
        arms: arms.clone(),
        seeds: spec.seeds,
        targets: targets(spec)?,
        resamples: spec.resamples,
        confidence: spec.confidence,
        sasrec: spec.sasrec.as_ref().map(|s| sasrec_of(s, voice)),
        din: spec.din.as_ref().map(|s| din_of(s, voice)),
        checkpoints: Some(work.clone()),
        device: device::open(&spec.device)?,
    };
    let mut results = Results {
        title: format!("Ablation: {}", spec.name),
        created: now(),
        facts: facts(spec),
        measurements: Vec::new(),
        contrasts: Vec::new(),
        notes: notes(spec),
    };
    for data in &spec.data {
        stop.check()?;
        let source = Source::open(spec, data, &work).await?;
        results.facts.push((data.name.clone(), source.describe()));
        let vectors = source.vectors(&arms, voice, stop, &mut results).await?;
        let histories = match &spec.histories {
            Some(of) => source.histories(of, &arms, voice, stop, &mut results).await?,
            None => BTreeMap::new(),
        };
        let (evaluation, stop) = (evaluation.clone(), stop.clone());
        let liked = spec.din.as_ref().map_or(LIKED, |din| din.like_threshold);
        let found = tokio::task::spawn_blocking(move || {
            let Source { name, split, .. } = &source;
            let data = Data { name, split, liked, texts: vectors, histories, arms: &evaluation.arms };
            ablation::evaluate(&data, &evaluation, &mut |line| {
                tracing::info!("{line}");
                stop.check()
            })
        })
        .await
        .context(Kind::Internal, || "the evaluation was interrupted".into())??;
        results.measurements.extend(found.measurements);
        results.contrasts.extend(found.contrasts);
    }
    let page = write(spec, &results, &out)?;
    let story = story(&results, &page);
    Ok(Done { results, page, story })
}

/// A rating of at least this is a like where no [din] says otherwise.
const LIKED: f32 = 4.0;

/// What is said of items and of histories, where these have no vectors.
const ALONE: [&str; 2] = [
    "Every arm has the same recommender with the same weights in number and first values, the same batches and the same \
     search; it differs in the vectors of its items alone. An item without a vector gets exactly zero from the adaptor.",
    "Items without an event before the cut have no vector in any arm. Users' histories have no vectors but in A9.",
];

/// The same where histories have vectors.
const WITH_HISTORIES: [&str; 2] = [
    "Every arm has the same recommender with the same weights in number and first values, the same batches and the same \
     search; it differs in the vectors of its items and its users' histories alone. What has no vector gets exactly zero from \
     the adaptor.",
    "Items without an event before the cut have no vector in any arm. Users' histories are described at several midnights of \
     the training period and at the last one before the first held-out event, from events before that midnight, by nights \
     of the arm's own job that are run in the order of time; an event sees its user's newest description as of a moment \
     that is not after it, and a user without one has no vector. Their whitening is their own. Histories of A6 are those of \
     its nights after correction: what is said anew and what the outcomes of a block made of the reason before it, from \
     the block's end on; the reasons of its items are not corrected. Its judge is not trained here: it must know nothing of \
     held-out events. A7 gives histories to other users of the same midnight. A9 is given the answer instead.",
];

const NOTES: [&str; 6] = [
    "Vectors: texts of the nightly pipeline as of the last midnight before the first held-out event, through the sentence \
     encoder and a whitening to 64 values that is fitted on items with training events. A2 is the evidence that the \
     prompts hold (title, attributes, co-consumed titles by PMI), written down without a language model; A3 the accepted \
     reasons that a language model made of the same evidence.",
    "Full ranking over the whole catalogue, items of the history left out, the target loses ties. DIN: whether a user \
     likes what the user met, by rating.",
    "Intervals of arms are Student's t over trainings that differ in their seed; those of differences are percentiles of a \
     paired bootstrap over users and trainings, so that the luck of seeds is in them. Holm corrects within a data set, \
     recommender, target, metric and tier.",
    "A9 is given the answer with the question. It is never a result: where NDCG or AUC over all cases do not jump, the \
     yardstick is broken.",
    "The texts themselves: grounding and format are over all answers, the rest over the texts that an arm encodes. \
     References of BLEU and ROUGE-L are the sentences of the item's own reviews in the held-out period (3 to 60 words, at \
     most 256): corpus BLEU of many references, lower case, words alone; ROUGE-L's best F1. They are higher than those of \
     papers with one reference a text, and not comparable with them; `shuffled` holds the same texts against another \
     item's references.",
    "agreement is a proxy of human agreement, no more: the mean over users of Spearman's correlation between the cosine of \
     an item's text with the texts of the user's likes and the scores of A0, which knows no texts; 0 is chance.",
];

fn notes(spec: &Spec) -> Vec<String> {
    let [first, third] = if spec.histories.is_some() { WITH_HISTORIES } else { ALONE };
    let [second, others @ ..] = NOTES;
    [first, second, third].into_iter().chain(others).map(str::to_owned).collect()
}

fn sasrec_of(s: &SasRecSpec, voice: Voice) -> Training<sasrec::Config> {
    let config = sasrec::Config {
        hidden: s.hidden,
        inner: s.inner,
        layers: s.layers,
        heads: s.heads,
        length: s.length,
        dropout: s.dropout,
        attention_dropout: s.dropout,
        batch: s.batch,
        ..sasrec::Config::default()
    };
    let plan = Plan { epochs: s.epochs, patience: s.patience, voice, ..Plan::default() };
    Training { config, learning_rates: s.learning_rates.clone(), plan }
}

fn din_of(s: &DinSpec, voice: Voice) -> Training<din::Config> {
    let config = din::Config {
        hidden: s.hidden,
        length: s.length,
        dropout: s.dropout,
        batch: s.batch,
        labels: Labels::Rated { liked: s.like_threshold },
        ..din::Config::default()
    };
    let plan = Plan { epochs: s.epochs, patience: s.patience, voice, ..Plan::default() };
    Training { config, learning_rates: s.learning_rates.clone(), plan }
}

fn facts(spec: &Spec) -> Vec<(String, String)> {
    let mut facts = vec![
        ("curec".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("arms".to_owned(), spec.arms.join(", ")),
        ("seeds".to_owned(), spec.seeds.to_string()),
        (
            "split".to_owned(),
            format!("global, at quantiles {} and {} of it", spec.split.train_quantile, spec.split.valid_quantile),
        ),
        (
            "bootstrap".to_owned(),
            format!("{} resamples of users and trainings, {} intervals", spec.resamples, spec.confidence),
        ),
        ("device".to_owned(), spec.device.clone()),
    ];
    facts.extend(spec.facts.iter().cloned());
    if let Some(s) = &spec.sasrec {
        let budget = budget(&s.learning_rates, s.epochs, s.patience);
        facts.push((
            "SASRec".into(),
            format!(
                "width {}, {} layers, {} heads, {} items, dropout {}, full softmax; {budget}",
                s.hidden, s.layers, s.heads, s.length, s.dropout
            ),
        ));
    }
    if let Some(s) = &spec.din {
        let budget = budget(&s.learning_rates, s.epochs, s.patience);
        facts.push((
            "DIN".into(),
            format!(
                "width {}, {} items, dropout {}, likes from {}; {budget}",
                s.hidden, s.length, s.dropout, s.like_threshold
            ),
        ));
    }
    facts
}

fn budget(rates: &[f64], epochs: usize, patience: usize) -> String {
    format!("learning rates {rates:?}, at most {epochs} epochs, patience {patience}")
}

/// A data set: its job, its log and its cut.
struct Source {
    name: String,
    job: Job,
    overrides: Vec<String>,
    texts: Vec<TextSpec>,
    file: PathBuf,
    folder: PathBuf,
    log: Log,
    split: Split,
    interval: Interval,
}

impl Source {
    async fn open(spec: &Spec, data: &DataSpec, work: &Path) -> Result<Self> {
        let folder = work.join(&data.name);
        make_folder(&folder)?;
        // The nightly job's own warehouse is none of an evaluation's business.
        let mut overrides = data.set.clone();
        overrides.push(format!("warehouse={}", folder.join("warehouse").display()));
        let job = Job::load(&data.job, &overrides)?;
        let item = match job.spec.input.item.as_str() {
            "" => None,
            text => Some(locate(&job, text)?),
        };
        let log = Log::read(&locate(&job, &job.spec.input.interaction)?, item.as_ref()).await?;
        let split = temporal(&log, spec.split.train_quantile, spec.split.valid_quantile)
            .map_err(|e| e.with("data", &data.name))?;
        let interval = last_day_before(split.valid_from())?;
        let (name, texts, file) = (data.name.clone(), data.text.clone(), data.job.clone());
        Ok(Source { name, job, overrides, texts, file, folder, log, split, interval })
    }

    fn describe(&self) -> String {
        let moment =
            |micros| DateTime::<Utc>::from_timestamp_micros(micros).map_or_else(String::new, |t| t.to_rfc3339());
        format!(
            "{} events of {} users on {} items; {} for training, valid from {}, test from {}, texts as of {}",
            self.log.events().len(),
            self.log.users().len(),
            self.log.items().len(),
            self.split.train().len(),
            moment(self.split.valid_from()),
            moment(self.split.test_from()),
            self.interval.end.to_rfc3339(),
        )
    }

    /// Sentence vectors of the texts of all arms that have some; what the texts are like goes into `results`.
    async fn vectors(
        &self,
        arms: &[Arm],
        voice: Voice,
        stop: &Stop,
        results: &mut Results,
    ) -> Result<BTreeMap<Arm, ItemVectors>> {
        let wanted = wanted(arms);
        let mut found = BTreeMap::new();
        if wanted.is_empty() {
            return Ok(found);
        }
        // The others' evidence is this job's, whoever makes texts of it.
        self.run(&self.job, self.interval, voice, stop).await?;
        let session = run::session_of(&self.job).await?;
        let references = match self.job.spec.input.review.as_str() {
            "" => None,
            _ => Some(evaluation_text::references(&session, self.split.valid_from()).await?),
        };
        for arm in wanted {
            stop.check()?;
            let job = self.job_of(arm).await?;
            let other;
            let session = match &job {
                None => &session,
                Some(job) => {
                    self.run(job, self.interval, voice, stop).await?;
                    other = run::session_of(job).await?;
                    &other
                }
            };
            let texts = arm_text::texts(session, arm, About::Items, self.interval).await?;
            results.measurements.extend(self.measure(arm, &texts, session, references.as_ref()).await?);
            let vectors = self.embed(job.as_ref().unwrap_or(&self.job), texts).await?;
            let n = vectors.iter().flatten().count();
            results.facts.push((
                format!("{}, {} ({})", self.name, what_of(arm), users_of(arms, |a| a.texts_of(arms) == Some(arm))),
                format!("{n} of {} items", vectors.len()),
            ));
            found.insert(arm, vectors);
        }
        Ok(found)
    }

    /// Vectors of users' histories by arm with texts, from nights of the arm's job; who has some goes into `results`.
    async fn histories(
        &self,
        spec: &HistoriesSpec,
        arms: &[Arm],
        voice: Voice,
        stop: &Stop,
        results: &mut Results,
    ) -> Result<BTreeMap<Arm, HistoryVectors>> {
        let nights = Nights::new(spec, &self.split, self.interval.end, &self.folder)?;
        results.facts.push((format!("{}, histories as of", self.name), nights.describe()));
        let mut found = BTreeMap::new();
        for arm in wanted(arms) {
            let (folder, overrides) = match self.keys_of(arm).await? {
                Some((folder, overrides)) => (folder, overrides),
                None => (self.folder.clone(), self.overrides.clone()),
            };
            let warehouse = nights.warehouse(&folder);
            let mut job = None;
            for interval in nights.intervals() {
                stop.check()?;
                let keys: Vec<String> = overrides.iter().cloned().chain(nights.keys(*interval, &warehouse)).collect();
                let night = Job::load(&self.file, &keys)?;
                self.run(&night, *interval, voice, stop).await?;
                job = Some(night);
            }
            let Some(job) = job else { continue };
            let session = run::session_of(&job).await?;
            let mut texts = Vec::new();
            for interval in nights.intervals() {
                let told = arm_text::texts(&session, arm, About::Histories, *interval).await?;
                texts.push((interval.end.timestamp_micros(), told));
            }
            let told = evaluation_histories::vectors(&job, &self.log, texts).await?;
            let users = users_of(arms, |a| a.histories_of(arms) == Some(arm));
            let of = format!("{}, histories: {} ({users})", self.name, what_of(arm));
            results.facts.push((of, evaluation_histories::coverage(&told, &self.split)));
            if arm == Arm::Corrected
                && let Some(corrections) = evaluation_histories::corrections(&session).await?
            {
                results.facts.push((format!("{}, corrections (A6)", self.name), corrections));
            }
            found.insert(arm, told);
        }
        Ok(found)
    }

    /// What an arm's texts are like.
    async fn measure(
        &self,
        arm: Arm,
        texts: &[(String, String)],
        session: &Session,
        references: Option<&References>,
    ) -> Result<Vec<Measurement>> {
        let asked = evaluation_text::asked(session, self.interval).await?;
        let is_generated = !matches!(arm, Arm::Attributes | Arm::Templates);
        Ok(evaluation_text::measure(&self.name, arm, texts, &asked, is_generated, references))
    }

    /// The job that makes an arm's texts, where it is not the evaluation's own.
    async fn job_of(&self, arm: Arm) -> Result<Option<Job>> {
        match self.keys_of(arm).await? {
            Some((_, overrides)) => Job::load(&self.file, &overrides).map(Some),
            None => Ok(None),
        }
    }

    /// That job's folder and keys.
    async fn keys_of(&self, arm: Arm) -> Result<Option<(PathBuf, Vec<String>)>> {
        let (folder, set) = match arm {
            Arm::Anonymous => {
                ("anonymous".to_owned(), vec![format!("input.item={}", self.anonymous().await?.display())])
            }
            // The name that its warehouse had before there were others.
            Arm::Aligned => ("aligned".to_owned(), self.set_of(arm)),
            arm if arm.wants_keys() => (arm.code().to_owned(), self.set_of(arm)),
            _ => return Ok(None),
        };
        let folder = self.folder.join(folder);
        let overrides = self.overrides.iter().cloned().chain(set);
        let overrides = overrides.chain([format!("warehouse={}", folder.join("warehouse").display())]).collect();
        Ok(Some((folder, overrides)))
    }

    fn set_of(&self, arm: Arm) -> Vec<String> {
        self.texts.iter().filter(|text| text.arm == arm.code()).flat_map(|text| text.set.clone()).collect()
    }

    async fn run(&self, job: &Job, interval: Interval, voice: Voice, stop: &Stop) -> Result<()> {
        let options = Options { full: false, retry_failed: false, allow_empty: true, voice };
        run::run(job, interval, options, stop.clone()).await.map(|_| ()).map_err(|e| e.with("data", &self.name))
    }

    /// A file of the items under titles that say nothing.
    async fn anonymous(&self) -> Result<PathBuf> {
        let folder = self.folder.join("anonymous");
        make_folder(&folder)?;
        let session = run::session_of(&self.job).await?;
        let rows = session.sql("select item_id, categories from item order by item_id", &[]).await?.collect().await?;
        let mut n = 0;
        let mut renamed = Vec::new();
        for batch in rows {
            let titles: ArrayRef =
                Arc::new(StringArray::from_iter_values((0..batch.num_rows()).map(|i| format!("Item {}", n + i))));
            n += batch.num_rows();
            let columns =
                [("item_id", batch.column(0).clone()), ("title", titles), ("categories", batch.column(1).clone())];
            renamed.push(
                RecordBatch::try_from_iter_with_nullable(
                    columns.map(|(name, column)| (name, column, name != "item_id")),
                )
                .context(Kind::Internal, || "items without titles".into())?,
            );
        }
        let path = folder.join("item.parquet");
        write_local(&path, &renamed)?;
        Ok(path)
    }

    /// The texts' vectors, in the order of the catalogue.
    async fn embed(&self, job: &Job, texts: Vec<(String, String)>) -> Result<ItemVectors> {
        let models = Models::new(job)?;
        models.fetch().await?;
        let vectors = tokio::task::spawn_blocking(move || -> Result<HashMap<String, Vec<f32>>> {
            let sentences: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
            let vectors = models.embed(&sentences)?;
            Ok(texts.iter().map(|(item, _)| item.clone()).zip(vectors).collect())
        })
        .await
        .context(Kind::Internal, || "embedding was interrupted".into())??;
        Ok(self.log.items().iter().map(|item| vectors.get(item).cloned()).collect())
    }
}

/// The arms that have texts of their own, where `arms` are run.
fn wanted(arms: &[Arm]) -> Vec<Arm> {
    let mut wanted: Vec<Arm> = arms.iter().filter_map(|arm| arm.texts_of(arms)).collect();
    wanted.sort();
    wanted.dedup();
    wanted
}

/// The arms that have the texts of one.
fn users_of(arms: &[Arm], uses: impl Fn(Arm) -> bool) -> String {
    arms.iter().copied().filter(|arm| uses(*arm)).map(Arm::code).collect::<Vec<_>>().join(", ")
}

/// An arm's texts, for people.
fn what_of(arm: Arm) -> &'static str {
    match arm {
        Arm::Attributes => "attributes",
        Arm::ZeroShot => "accepted reasons",
        Arm::Aligned => "accepted reasons of the aligned model",
        Arm::Templates => "the templates' reasons",
        Arm::BestOf => "accepted reasons of the model aligned with the best of several",
        Arm::Reinforced => "accepted reasons of the reinforced model",
        Arm::Corrected => "accepted reasons after correction",
        Arm::Anonymous => "accepted reasons without titles",
        Arm::NoText | Arm::Random | Arm::Shuffled | Arm::Leak => "texts of another arm",
    }
}

/// The day that ends with the last midnight (UTC) at or before a moment.
fn last_day_before(micros: i64) -> Result<Interval> {
    let day = DateTime::<Utc>::from_timestamp_micros(micros).map(|t| t.with_time(NaiveTime::MIN));
    let end = day.and_then(|d| d.single());
    match end.and_then(|end| Some((end.checked_sub_days(Days::new(1))?, end))) {
        Some((start, end)) => Ok(Interval { start, end }),
        None => Err(Error::new(Kind::Input, "the split's cut lies outside the calendar").with("microseconds", micros)),
    }
}

/// Tables, markdown and page, each whole or not at all.
fn write(spec: &Spec, results: &Results, out: &Path) -> Result<PathBuf> {
    for (name, batch) in results.tables()? {
        write_local(&out.join(format!("{name}.parquet")), &[batch])?;
    }
    let markdown = results.markdown();
    let mut files = vec![(out.join("ABLATION.md"), markdown.clone())];
    if !spec.markdown.is_empty() {
        files.push((PathBuf::from(&spec.markdown), markdown));
    }
    let page = out.join("report.html");
    files.push((page.clone(), evaluation_page::page(results)?));
    for (path, text) in files {
        let partial = path.with_extension("partial");
        let failed = |e| Error::new(Kind::Config, "cannot write what was found").with("file", path.display()).source(e);
        std::fs::write(&partial, text).map_err(failed)?;
        std::fs::rename(&partial, &path).map_err(failed)?;
    }
    Ok(page)
}

/// The contrasts that matter, in lines.
fn story(results: &Results, page: &Path) -> String {
    let main = |metric: &str| matches!(metric, "ndcg@10" | "auc");
    let lines = results.contrasts.iter().filter(|c| c.tier == "all" && main(&c.metric)).map(|c| {
        format!(
            "{:<22} {:<7} {:<11} {:<8} {:>3} - {:<3} {:+.4} [{:+.4}, {:+.4}]  p {:.4}",
            c.data,
            c.recommender,
            c.target,
            c.metric,
            c.arm,
            c.against,
            c.contrast.interval.mean,
            c.contrast.interval.low,
            c.contrast.interval.high,
            c.p_holm
        )
    });
    lines.chain([format!("Page: {}", page.display())]).collect::<Vec<_>>().join("\n")
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path)
        .map_err(|e| Error::new(Kind::Config, "cannot make the folder").with("folder", path.display()).source(e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn loaded(arms: &str, of_data: &str) -> Result<Spec> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        let text = format!(
            "name = \"x\"\nout = \"work\"\narms = {arms}\nseeds = 1\ntargets = [\"last\"]\nresamples = 10\n\
             confidence = 0.95\ndevice = \"cpu\"\n[split]\ntrain_quantile = 0.9\nvalid_quantile = 0.9\n\
             [din]\nhidden = 8\nlength = 5\ndropout = 0.0\nbatch = 8\nlike_threshold = 4.0\nepochs = 1\npatience = 1\n\
             learning_rates = [0.001]\n[[data]]\nname = \"d\"\njob = \"job.toml\"\n{of_data}\n"
        );
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    #[test]
    fn arms_of_other_models_say_which() {
        let text = |arm: &str| format!("[[data.text]]\narm = \"{arm}\"\nset = [\"model.adapter=x\"]");
        let arms = "[\"A0\", \"A4\", \"A4b\", \"A5\"]";
        let spec = loaded(arms, &format!("aligned = [\"model.adapter=y\"]\n{}", text("A5"))).unwrap();
        let named: Vec<(&str, &str)> = spec.data[0].text.iter().map(|t| (t.arm.as_str(), t.set[0].as_str())).collect();
        assert_eq!(named, [("A5", "model.adapter=x"), ("A4", "model.adapter=y")]);
        for (of_data, says) in [
            (text("A5"), "arm A4 needs"),
            (format!("aligned = [\"a=b\"]\n{0}\n{0}", text("A5")), "arm A5 needs"),
            (format!("aligned = [\"a=b\"]\n{}\n{}", text("A5"), text("A3")), "A3"),
            (format!("{}\n{}\n[[data.text]]\narm = \"A6\"\nset = []", text("A4"), text("A5")), "A6"),
        ] {
            let told = loaded(arms, &of_data).unwrap_err().to_string();
            assert!(told.contains(says), "{told}");
        }
        assert!(loaded("[\"A0\", \"A3\"]", "").is_ok());
    }

    #[test]
    fn notes_say_of_histories_what_is_true() {
        let section = |keys: &str| loaded("[\"A0\"]", &format!("[histories]\n{keys}"));
        let (without, with) = (loaded("[\"A0\"]", "").unwrap(), section("blocks = 3\nmax_users = 0").unwrap());
        let says = |spec: &Spec| notes(spec).iter().any(|note| note.contains("have no vectors but in A9"));
        assert_eq!((says(&without), says(&with)), (true, false));
        assert_eq!((notes(&without).len(), notes(&with).len()), (8, 8));
        for (keys, says) in [
            ("blocks = 0\nmax_users = 1", "between 1"),
            ("blocks = 3", "max_users"),
            ("blocks = 3\nmax_users = -1", "-1"),
        ] {
            let told = section(keys).unwrap_err().to_string();
            assert!(told.contains(says), "{told}");
        }
    }
}
