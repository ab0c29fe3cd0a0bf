//! A data set of an evaluation: its log, its cut, and the vectors of what its arms say.
//!
//! Knows jobs and their tables: every arm with texts of its own has nights of the job, with the arm's keys, in a warehouse of
//! its own. What one of them has paid for the next does not pay for again. Leaves to [`crate::evaluate::arm_text`] which text an arm
//! takes, and to [`crate::evaluate::history_nights`] which nights describe histories; trains nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use chrono::{DateTime, Days, NaiveTime, Utc};

use crate::cancel::CancelToken;
use crate::config::{Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::evaluate::arm_text::{self, About};
use crate::evaluate::arms::{Arm, ItemVectors};
use crate::evaluate::evaluation_file::{DataSpec, Spec, TextSpec};
use crate::evaluate::history_blocks::HistoryVectors;
use crate::evaluate::history_nights::{self, HistoriesSpec, Nights};
use crate::evaluate::results::{Measurement, Results};
use crate::evaluate::text_quality::{self, Asked, References};
use crate::llm::device;
use crate::night::correct::Corrector;
use crate::night::learned::learned_until;
use crate::night::prepare::prepare;
use crate::night::run::{self, Options};
use crate::night::tables::locate;
use crate::night::warehouse;
use crate::query::texts;
use crate::recommend::data::Log;
use crate::recommend::split::{Split, temporal};
use crate::reward::names::Vocabulary;
use crate::table::segment::segments;
use crate::table::store::Location;
use crate::table::write::write_local;
use crate::telemetry::Voice;

/// A data set: its job, its log and its cut.
pub(crate) struct Source {
    pub(crate) name: String,
    job: Job,
    overrides: Vec<String>,
    texts: Vec<TextSpec>,
    file: PathBuf,
    folder: PathBuf,
    log: Log,
    pub(crate) split: Split,
    interval: Interval,
    /// Warehouses whose answers are paid for, in the order in which they were run.
    paid: Mutex<Vec<Location>>,
}

/// What makes an arm's texts: a folder for its warehouse and the job's keys.
#[derive(Debug, Clone)]
struct Keys {
    folder: PathBuf,
    overrides: Vec<String>,
}

impl Source {
    pub(crate) async fn open(spec: &Spec, data: &DataSpec, work: &Path) -> Result<Self> {
        let folder = work.join(&data.name);
        // The nightly job's own warehouse is none of an evaluation's business.
        let mut overrides = data.set.clone();
        overrides.push(format!("warehouse={}", folder.join("warehouse").display()));
        // Arms are made of items and histories.
        overrides.push("input.pair=".into());
        let job = Job::load(&data.job, &overrides)?;
        let item = match job.spec.input.item.as_str() {
            "" => None,
            text => Some(locate(&job, text)?),
        };
        let input = &job.spec.input;
        let log = Log::read(&locate(&job, &input.interaction)?, item.as_ref(), input.max_bad_fraction).await?;
        let split = temporal(&log, spec.split.train_quantile, spec.split.valid_quantile)
            .map_err(|e| e.with("data", &data.name))?;
        if let Some(until) = spec.learned_until.filter(|until| split.valid_from() < *until) {
            return Err(held_out(&split, until).with("data", &data.name));
        }
        let interval = last_day_before(split.valid_from())?;
        let (name, texts, file) = (data.name.clone(), data.text.clone(), data.job.clone());
        let paid = Mutex::default();
        Ok(Source { name, job, overrides, texts, file, folder, log, split, interval, paid })
    }

    pub(crate) fn describe(&self) -> String {
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

    /// Whether models, adapters and judges of all arms are there and fit, and have not learned from what is held out, as far as
    /// records beside them tell.
    ///
    /// # Errors
    /// What a night would say after hours.
    pub(crate) async fn check(&self, arms: &[Arm]) -> Result<()> {
        make_folder(&self.folder)?;
        for arm in wanted(arms) {
            for keys in self.nights_of(arm).await? {
                let of = |e: Error| e.with("data", &self.name).with("arm", arm.code());
                let job = Job::load(&self.file, &keys.overrides).map_err(of)?;
                let mut learned = Vec::new();
                if !matches!(arm, Arm::Attributes | Arm::Templates) {
                    learned.push(("model.adapter", &job.spec.model.adapter));
                }
                if arm.corrects() {
                    learned.push(("correct.judge", &job.spec.correct.judge));
                }
                for (key, named) in learned {
                    let until = learned_until(&job, named).await.map_err(of)?.map(|until| until.timestamp_micros());
                    if let Some(until) = until.filter(|until| self.split.valid_from() < *until) {
                        return Err(of(held_out(&self.split, until)).with(key, named));
                    }
                }
                let prepared = prepare(&job, self.interval).await.map_err(of)?;
                let opened = device::guarded_blocking("reading models", move || {
                    prepared.models.generator()?;
                    match prepared.is_correcting() {
                        true => Corrector::open(&prepared, Vocabulary::default()).map(|_| ()),
                        false => Ok(()),
                    }
                });
                opened.await.map_err(of)?;
            }
        }
        Ok(())
    }

    /// Sentence vectors of the texts of all arms that have some; what the texts are like goes into `results`.
    pub(crate) async fn vectors(
        &self,
        arms: &[Arm],
        voice: Voice,
        stop: &CancelToken,
        results: &mut Results,
    ) -> Result<BTreeMap<Arm, ItemVectors>> {
        let wanted = wanted(arms);
        let mut found = BTreeMap::new();
        if wanted.is_empty() {
            return Ok(found);
        }
        // The others' evidence is this job's, whoever makes texts of it.
        self.run(&self.job, self.interval, voice, stop).await?;
        let session = warehouse::session_of(&self.job).await?;
        let references = match self.job.spec.input.review.as_str() {
            "" => None,
            _ => Some(text_quality::references(&session, self.split.valid_from()).await?),
        };
        for arm in wanted {
            stop.check()?;
            let (mut texts, mut asked) = (Vec::new(), Vec::new());
            for keys in self.nights_of(arm).await? {
                stop.check()?;
                let job = Job::load(&self.file, &keys.overrides)?;
                self.run(&job, self.interval, voice, stop).await?;
                let session = warehouse::session_of(&job).await?;
                texts.extend(arm_text::texts(&session, arm, About::Items, self.interval).await?);
                asked.extend(text_quality::asked(&session, self.interval).await?);
            }
            // Several texts of an item stand next to each other.
            texts.sort_by(|(a, _), (b, _)| a.cmp(b));
            results.measurements.extend(self.measure(arm, &texts, &asked, references.as_ref()));
            let told = history_nights::pooled(&self.job, texts).await?;
            let vectors: ItemVectors = self.log.items().iter().map(|item| told.get(item).cloned()).collect();
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
    pub(crate) async fn histories(
        &self,
        spec: &HistoriesSpec,
        arms: &[Arm],
        voice: Voice,
        stop: &CancelToken,
        results: &mut Results,
    ) -> Result<BTreeMap<Arm, HistoryVectors>> {
        let nights = Nights::new(spec, &self.split, self.interval.end, &self.folder)?;
        results.facts.push((format!("{}, histories as of", self.name), nights.describe()));
        let mut found = BTreeMap::new();
        let mut wanted: Vec<Arm> = arms.iter().filter_map(|arm| arm.histories_of(arms)).collect();
        wanted.sort();
        wanted.dedup();
        for arm in wanted {
            let Some(Keys { folder, overrides }) = self.nights_of(arm).await?.into_iter().next() else { continue };
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
            let session = warehouse::session_of(&job).await?;
            let mut texts = Vec::new();
            for interval in nights.intervals() {
                let told = arm_text::texts(&session, arm, About::Histories, *interval).await?;
                texts.push((interval.end.timestamp_micros(), told));
            }
            let told = history_nights::vectors(&job, &self.log, texts).await?;
            let users = users_of(arms, |a| a.histories_of(arms) == Some(arm));
            let of = format!("{}, histories: {} ({users})", self.name, what_of(arm));
            results.facts.push((of, history_nights::coverage(&told, &self.split)));
            if arm.corrects()
                && let Some(corrections) = history_nights::corrections(&session).await?
            {
                results.facts.push((format!("{}, corrections ({})", self.name, arm.code()), corrections));
            }
            found.insert(arm, told);
        }
        Ok(found)
    }

    /// What an arm's texts are like.
    fn measure(
        &self,
        arm: Arm,
        texts: &[(String, String)],
        asked: &[Asked],
        references: Option<&References>,
    ) -> Vec<Measurement> {
        let is_generated = !matches!(arm, Arm::Attributes | Arm::Templates | Arm::Beside);
        text_quality::measure(&self.name, arm, texts, asked, is_generated, references)
    }

    /// The nights that make an arm's texts; one, but of what is sampled several times.
    async fn nights_of(&self, arm: Arm) -> Result<Vec<Keys>> {
        let own = |folder: &str, set: Vec<String>| {
            let folder = self.folder.join(folder);
            let overrides = self.overrides.iter().cloned().chain(set);
            let overrides = overrides.chain([format!("warehouse={}", folder.join("warehouse").display())]).collect();
            Keys { folder, overrides }
        };
        Ok(match arm {
            Arm::Anonymous => {
                vec![own("anonymous", vec![format!("input.item={}", self.anonymous().await?.display())])]
            }
            // The name that its warehouse had before there were others.
            Arm::Aligned | Arm::Beside => vec![own("aligned", self.set_of(Arm::Aligned))],
            Arm::Sampled => {
                let samples = self.texts.iter().find(|text| text.arm == arm.code()).map_or(0, |text| text.samples);
                let seeded = |seed: u64| {
                    let set = self.set_of(arm).into_iter().chain([format!("sampling.seed={seed}")]).collect();
                    own(&format!("{}-{seed}", arm.code()), set)
                };
                (0..samples).map(seeded).collect()
            }
            arm if arm.wants_keys() => vec![own(arm.code(), self.set_of(arm))],
            _ => vec![Keys { folder: self.folder.clone(), overrides: self.overrides.clone() }],
        })
    }

    fn set_of(&self, arm: Arm) -> Vec<String> {
        self.texts.iter().filter(|text| text.arm == arm.code()).flat_map(|text| text.set.clone()).collect()
    }

    async fn run(&self, job: &Job, interval: Interval, voice: Voice, stop: &CancelToken) -> Result<()> {
        let root = locate(job, &job.spec.warehouse)?;
        self.lend(&root).await?;
        let options = Options { full: false, retry_failed: false, allow_empty: true, voice };
        run::run(job, interval, options, stop.clone()).await.map_err(|e| e.with("data", &self.name))?;
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        if !paid.iter().any(|other| other.to_string() == root.to_string()) {
            paid.push(root);
        }
        Ok(())
    }

    /// Gives a warehouse that has no answers yet those of the ones before it: answers are known by the fingerprint of model,
    /// adapter, prompt and sampling, so what fits is an answer that need not be paid for again. Cut short, less is lent.
    async fn lend(&self, root: &Location) -> Result<()> {
        const STORE: &str = "response";
        if !segments(root, STORE).await?.is_empty() {
            return Ok(());
        }
        let paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut lent = BTreeSet::new();
        for other in &paid {
            for entry in segments(other, STORE).await? {
                // What was lent to it before lies there under the same name.
                if lent.insert(entry.location.name().to_owned()) {
                    entry.location.copy_to(&root.child(STORE).child(entry.location.name())).await?;
                }
            }
        }
        Ok(())
    }

    /// A file of the items under titles that say nothing.
    async fn anonymous(&self) -> Result<PathBuf> {
        let folder = self.folder.join("anonymous");
        make_folder(&folder)?;
        let session = warehouse::session_of(&self.job).await?;
        let rows = session.sql(texts::ITEM_CATEGORIES, &[]).await?.collect().await?;
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
        Arm::Beside => "the evidence and the accepted reasons of the aligned model",
        Arm::Sampled => "several sampled reasons of the aligned model",
        Arm::BestOf => "accepted reasons of the model aligned with the best of several",
        Arm::Weighted => "accepted reasons of the model that learned from weighted answers",
        Arm::Reinforced => "accepted reasons of the reinforced model",
        Arm::Corrected => "accepted reasons after correction",
        Arm::CorrectedAligned => "accepted reasons of the aligned model after correction",
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

/// The refusal of what has learned from events of the held-out part, which begins before `until` (microseconds since 1970).
fn held_out(split: &Split, until: i64) -> Error {
    let day = |micros| DateTime::<Utc>::from_timestamp_micros(micros).map_or_else(String::new, |t| t.to_rfc3339());
    Error::new(Kind::Config, "an evaluation must not hold out what was learned from")
        .with("held out from", day(split.valid_from()))
        .with("learned until", day(until))
        .hint(
            "learn from an interval that ends earlier, evaluate on a later log, or raise the quantiles of [split]; what has \
             learned from another log altogether may be copied to where no record (card.json, align.json, reward.json) is",
        )
}

/// Makes a folder, and those above it.
///
/// # Errors
/// `Kind::Config` where it cannot be made.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path)
        .map_err(|e| Error::new(Kind::Config, "cannot make the folder").with("folder", path.display()).source(e))
}
