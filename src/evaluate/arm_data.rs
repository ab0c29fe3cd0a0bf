//! A data set of an evaluation at one origin: its log, its cut, and the vectors of what its arms say, as of the origin and as nights
//! after it remade them.
//!
//! Knows jobs and their tables: every arm with texts of its own has nights of the job, with the arm's keys, in a warehouse of
//! its own. What one of them has paid for the next does not pay for again. Leaves to [`crate::evaluate::arm_text`] which text an arm
//! takes, and to [`crate::evaluate::history_nights`] which nights describe histories; trains nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use chrono::{DateTime, Utc};

use crate::cancel::CancelToken;
use crate::config::{Interval, Job, MAX_LOOKBACK_DAYS};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::evaluate::arm::Arm;
use crate::evaluate::arm_text::{self, About};
use crate::evaluate::arms::{Origin, Remade, Texts};
use crate::evaluate::collaborative::ItemVectors;
use crate::evaluate::evaluation_file::{DataSpec, Spec, TextSpec};
use crate::evaluate::history_blocks::HistoryVectors;
use crate::evaluate::history_nights::{self, HistoriesSpec, Nights};
use crate::evaluate::logged_items::LoggedItems;
use crate::evaluate::origin_nights::nights;
use crate::evaluate::published;
use crate::evaluate::results::{Measurement, Results};
use crate::evaluate::text_quality::{self, Asked, References};
use crate::evaluate::word_space::ItemWords;
use crate::llm::device;
use crate::night::correct::Corrector;
use crate::night::learned::learned_until;
use crate::night::prepare::prepare;
use crate::night::run::{self, Options};
use crate::night::tables::{items_at, locate, open_log};
use crate::night::warehouse;
use crate::query::texts;
use crate::recommend::data::Log;
use crate::recommend::split::{Split, rolling};
use crate::reward::names::Vocabulary;
use crate::table::segment::segments;
use crate::table::store::Location;
use crate::table::write::write_local;
use crate::telemetry::Voice;
use crate::watch::places::Watch;

/// A data set at an origin: its job, its log and its cut.
pub(crate) struct Source {
    /// The data set's.
    data: String,
    /// With the origin, where there are several.
    pub(crate) name: String,
    /// The origin: the share of all events that lie before its test part.
    label: String,
    job: Job,
    overrides: Vec<String>,
    texts: Vec<TextSpec>,
    pub(super) file: PathBuf,
    folder: PathBuf,
    pub(super) log: Arc<Log>,
    pub(super) split: Split,
    /// The night before the origin, then those that remake texts after it.
    pub(super) nights: Vec<Interval>,
    /// Whether its texts themselves are measured: those of one origin are.
    is_measured: bool,
    /// Where its items are cut to those of the log; nothing where a job's own file is read.
    catalogue: Option<LoggedItems>,
    /// Warehouses whose answers are paid for, in the order in which they were run.
    paid: Arc<Mutex<Vec<Location>>>,
}

/// What was said at an origin, of items by arm, of histories by arm, and the words of items.
#[derive(Debug, Default)]
pub(crate) struct ToldThere {
    pub(crate) texts: BTreeMap<Arm, Texts>,
    pub(crate) histories: BTreeMap<Arm, HistoryVectors>,
    pub(crate) words: Option<Remade<ItemWords>>,
}

/// What makes an arm's texts: a folder for its warehouse and the job's keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub(super) folder: PathBuf,
    pub(super) overrides: Vec<String>,
}

impl Source {
    /// A data set at each of its origins.
    ///
    /// # Errors
    /// As [`Job::load`], [`Log::read`] and [`rolling`]; `Kind::Config` where something held out was learned from.
    pub(crate) async fn open(spec: &Spec, data: &DataSpec, work: &Path) -> Result<Vec<Source>> {
        let whole = work.join(&data.name);
        let job_of = |folder: &Path| {
            // The nightly job's own warehouse is none of an evaluation's business.
            let mut overrides = data.set.clone();
            overrides.push(format!("warehouse={}", folder.join("warehouse").display()));
            // Arms are made of items and histories, and say themselves what vectors are of.
            overrides.push("input.pair=".into());
            overrides.push("feature.vector_of=reason".into());
            Ok::<_, Error>((Job::load(&data.job, &overrides)?, overrides))
        };
        let (job, _) = job_of(&whole)?;
        // Items that nobody ever meets are no candidates.
        let log = Log::of(&[open_log(&job).await?]).await?;
        let splits =
            rolling(&log, &spec.split.origins, spec.split.valid_quantile).map_err(|e| e.with("data", &data.name))?;
        let (log, paid, n) = (Arc::new(log), Arc::default(), splits.len());
        // Columns that become attributes stand in the job's own file alone.
        let is_cut = !job.spec.input.item.is_empty() && job.spec.evidence.attributes.0.is_empty();
        let catalogue = is_cut.then(|| LoggedItems::new(job.clone(), whole.join("items.parquet")));
        let mut found = Vec::with_capacity(n);
        for (at, (split, origin)) in splits.into_iter().zip(&spec.split.origins).enumerate() {
            if let Some(until) = spec.learned_until.filter(|until| split.valid_from() < *until) {
                return Err(held_out(&split, until).with("data", &data.name));
            }
            let (name, folder) = match n {
                1 => (data.name.clone(), whole.clone()),
                _ => (format!("{} at {origin}", data.name), whole.join(format!("origin-{origin}"))),
            };
            let (mut job, mut overrides) = job_of(&folder)?;
            if let Some(catalogue) = &catalogue {
                overrides.extend(items_at(&job, catalogue.file()));
                job = Job::load(&data.job, &overrides)?;
            }
            let nights = nights(&split, spec.split.refreshes)?;
            let (texts, file) = (data.text.clone(), data.job.clone());
            let (log, paid) = (Arc::clone(&log), Arc::clone(&paid));
            let (is_measured, catalogue) = (at + 1 == n, catalogue.clone());
            let data = data.name.clone();
            found.push(Source {
                data,
                name,
                label: origin.to_string(),
                job,
                overrides,
                texts,
                file,
                folder,
                log,
                split,
                nights,
                is_measured,
                catalogue,
                paid,
            });
        }
        Ok(found)
    }

    /// It with what was said there of items and of histories.
    pub(crate) fn origin(&self, told: ToldThere) -> Origin<'_> {
        let ToldThere { texts, histories, words } = told;
        Origin::new(self.label.clone(), &self.split, self.items(), texts, histories).with_words(words)
    }

    /// The words of items as the evidence's nights publish them, where an arm reads them.
    pub(crate) async fn words(&self, arms: &[Arm], results: &mut Results) -> Result<Option<Remade<ItemWords>>> {
        if !arms.iter().any(|arm| arm.has_words()) {
            return Ok(None);
        }
        let mut moments = Vec::with_capacity(self.nights.len());
        for keys in self.nights_of(Arm::Evidence).await? {
            let session = warehouse::session_of(&Job::load(&self.file, &keys.overrides)?).await?;
            for night in &self.nights {
                moments.push(published::words(&session, night.end, self.items()).await?);
            }
        }
        let mut moments = moments.into_iter();
        let first = moments.next().unwrap_or_default();
        let of = first.iter().filter(|words| !words.is_empty()).count();
        let n = first.iter().map(Vec::len).sum::<usize>();
        let users = users_of(arms, |arm| arm.has_words());
        results
            .facts
            .push((format!("{}, words ({users})", self.name), format!("{n} of {of} of {} items", first.len())));
        let starts = self.nights.iter().skip(1).map(|night| night.end.timestamp_micros());
        Ok(Some(Remade { first, later: starts.zip(moments).collect() }))
    }

    /// Id texts of the items.
    pub(super) fn items(&self) -> &[String] {
        self.log.items()
    }

    /// A rating of at least this is a like, as the job has it.
    pub(crate) fn liked(&self) -> f32 {
        self.job.spec.history.liked()
    }

    /// Nights of other moments must not stand in the folder: what they published would be taken for this one's.
    fn own_nights(&self) -> Result<()> {
        let ends: Vec<String> = self.nights.iter().map(|night| night.end.to_rfc3339()).collect();
        let (file, ends) = (self.folder.join("nights"), ends.join("\n"));
        match std::fs::read_to_string(&file) {
            Ok(before) if before == ends => Ok(()),
            Ok(before) => {
                let days =
                    |ends: &str| ends.lines().map(|end| end.get(..10).unwrap_or(end)).collect::<Vec<_>>().join(", ");
                Err(Error::new(Kind::Config, "the folder holds texts of other nights")
                    .with("folder", self.folder.display())
                    .with("holds", days(&before))
                    .with("wanted", days(&ends))
                    .hint(
                        "give [split] the origins, valid_quantile and refreshes of before; or name another `out`, which keeps what is \
                         here and pays for all answers anew; or remove the folder. Where [split] is what it was, the log has changed",
                    ))
            }
            Err(_) => disk::write_whole(&file, ends.as_bytes())
                .context(Kind::Config, || format!("cannot write `{}`", file.display())),
        }
    }

    /// The night before the origin.
    fn interval(&self) -> Result<Interval> {
        self.nights.first().copied().ok_or_else(|| Error::new(Kind::Internal, "an origin has no night"))
    }

    pub(crate) fn describe(&self) -> String {
        let moment =
            |micros| DateTime::<Utc>::from_timestamp_micros(micros).map_or_else(String::new, |t| t.to_rfc3339());
        let ends: Vec<String> = self.nights.iter().map(|night| night.end.format("%Y-%m-%d").to_string()).collect();
        let until = match self.split.test_until() {
            i64::MAX => String::new(),
            until => format!(" to before {}", moment(until)),
        };
        format!(
            "{} events of {} users on {} items; {} for training, valid from {}, test from {}{until}, texts as of {}",
            self.log.events().len(),
            self.log.users().len(),
            self.log.items().len(),
            self.split.train().len(),
            moment(self.split.valid_from()),
            moment(self.split.test_from()),
            ends.join(", "),
        )
    }

    /// Whether models, adapters and judges of all arms are there and fit, and have not learned from what is held out, as far as
    /// records beside them tell.
    ///
    /// # Errors
    /// What a night would say after hours.
    pub(crate) async fn check(&self, arms: &[Arm]) -> Result<()> {
        make_folder(&self.folder)?;
        self.own_nights()?;
        if let Some(catalogue) = &self.catalogue {
            catalogue.write().await.map_err(|e| e.with("data", &self.name))?;
        }
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
                let prepared = prepare(&job, self.interval()?).await.map_err(of)?;
                let opened = device::guarded_blocking("reading models", move || {
                    prepared.models.model_name()?;
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
    ) -> Result<BTreeMap<Arm, Texts>> {
        let mut found = BTreeMap::new();
        let scalars = published::scalar_columns(&self.job)?;
        for arm in wanted(arms) {
            stop.check()?;
            let nights = self.nights_of(arm).await?;
            // Texts of an item, by night and by which of the arm's nights said it.
            let mut said: Vec<BTreeMap<String, Vec<String>>> = vec![BTreeMap::new(); self.nights.len()];
            let (mut moments, mut measured, mut asked) = (Vec::new(), Vec::new(), Vec::new());
            for keys in &nights {
                for (at, interval) in self.nights.iter().enumerate() {
                    stop.check()?;
                    let job = Job::load(&self.file, &self.night_keys(keys, at))?;
                    self.run(&job, *interval, voice, stop).await?;
                    let session = warehouse::session_of(&job).await?;
                    if arm == Arm::Scalars {
                        moments.push(published::scalars(&session, &scalars, interval.end, self.items()).await?);
                    } else if arm.is_published() {
                        moments.push(published::vectors(&session, interval.end, self.items()).await?);
                    }
                    if !arm.is_published() || (at == 0 && self.measures(arm)) {
                        for (item, text) in arm_text::texts(&session, arm, About::Items, *interval).await? {
                            if at == 0 {
                                measured.push((item.clone(), text.clone()));
                            }
                            said[at].entry(item).or_default().push(text);
                        }
                    }
                    if at == 0 {
                        asked.extend(text_quality::asked(&session, *interval).await?);
                    }
                }
            }
            if self.measures(arm) {
                measured.sort_by(|(a, _), (b, _)| a.cmp(b));
                let references = self.references().await?;
                results.measurements.extend(self.measure(arm, &measured, &asked, references.as_ref()));
            }
            if !arm.is_published() {
                moments = self.pooled(said).await?;
            }
            let mut moments = moments.into_iter();
            let first = moments.next().unwrap_or_default();
            let n = first.iter().flatten().count();
            let has = |a: Arm| a.texts_of(arms) == Some(arm) || (arm == Arm::Scalars && a.has_scalars());
            results.facts.push((
                format!("{}, {} ({})", self.name, arm.texts(), users_of(arms, has)),
                format!("{n} of {} items", first.len()),
            ));
            if arm == Arm::Scalars {
                let told = scalars.told(&first, &|item| self.split.train_counts()[item] > 0);
                results.facts.push((format!("{}, what the scalar columns tell", self.name), told));
            }
            let starts = self.nights.iter().skip(1).map(|night| night.end.timestamp_micros());
            found.insert(arm, Texts { first, later: starts.zip(moments).collect() });
        }
        Ok(found)
    }

    /// Vectors of texts by night; an item of which a night says nothing keeps what was said before.
    async fn pooled(&self, said: Vec<BTreeMap<String, Vec<String>>>) -> Result<Vec<ItemVectors>> {
        let (mut moments, mut known) = (Vec::new(), BTreeMap::new());
        for said in said {
            let texts =
                said.into_iter().flat_map(|(item, texts)| texts.into_iter().map(move |text| (item.clone(), text)));
            known.extend(history_nights::pooled(&self.job, texts.collect()).await?);
            moments.push(self.items().iter().map(|item| known.get(item).cloned()).collect());
        }
        Ok(moments)
    }

    /// Whether an arm's texts are measured here as texts. Those of A4r are the reasons of A4 and the evidence.
    fn measures(&self, arm: Arm) -> bool {
        self.is_measured && arm.is_text() && !matches!(arm, Arm::Evidence | Arm::AlignedBoth)
    }

    /// What people wrote in the held-out parts, where there are reviews.
    async fn references(&self) -> Result<Option<References>> {
        match self.job.spec.input.review.as_str() {
            "" => Ok(None),
            _ => {
                let session = warehouse::session_of(&self.job).await?;
                Ok(Some(text_quality::references(&session, self.split.valid_from()).await?))
            }
        }
    }

    /// The keys of one of an arm's nights: those after the first write anew of what had events since the one before.
    fn night_keys(&self, keys: &Keys, at: usize) -> Vec<String> {
        let mut overrides = keys.overrides.clone();
        if let Some(night) = self.nights.get(at).filter(|_| at > 0) {
            overrides.push(format!("history.item_active_days={}", (night.end - night.start).num_days().max(1)));
            // Nights differ in their length, and what was told before the longest is not new.
            overrides.push("audit.row_count_band=0.0".into());
            overrides.push(format!("correct.days={MAX_LOOKBACK_DAYS}"));
        }
        overrides
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
        let nights = Nights::new(spec, &self.split, self.interval()?.end, &self.folder)?;
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
            let of = format!("{}, histories: {} ({users})", self.name, arm.texts());
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
        text_quality::measure(&self.data, arm, texts, asked, is_generated, references)
    }

    /// The nights that make an arm's texts; one, but of what is sampled several times.
    pub(super) async fn nights_of(&self, arm: Arm) -> Result<Vec<Keys>> {
        let own = |folder: &str, set: Vec<String>| {
            let folder = self.folder.join(folder);
            let overrides = self.overrides.iter().cloned().chain(set);
            let overrides = overrides.chain([format!("warehouse={}", folder.join("warehouse").display())]).collect();
            Keys { folder, overrides }
        };
        Ok(match arm {
            // Nobody writes reasons: what the prompts would hold is all that is asked for.
            Arm::Attributes | Arm::Templates | Arm::Evidence | Arm::Scalars => {
                let question = history_nights::no_question(&self.folder)?;
                let set = [
                    format!("prompt.item={}", question.display()),
                    format!("prompt.history={}", question.display()),
                    "sampling.max_new_tokens=2".into(),
                    "sampling.attempts=1".into(),
                    "budget.max_failed_fraction=1.0".into(),
                ];
                vec![own("evidence", set.into())]
            }
            Arm::Anonymous => {
                vec![own("anonymous", items_at(&self.job, &self.anonymous().await?))]
            }
            // The name that its warehouse had before there were others.
            Arm::Aligned | Arm::Beside => vec![own("aligned", self.set_of(Arm::Aligned))],
            Arm::AlignedBoth => {
                let both = "feature.vector_of=both".to_owned();
                vec![own(arm.code(), self.set_of(Arm::Aligned).into_iter().chain([both]).collect())]
            }
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

    /// Runs a night, with what others have paid for.
    pub(super) async fn run(&self, job: &Job, interval: Interval, voice: Voice, stop: &CancelToken) -> Result<()> {
        let root = locate(job, &job.spec.warehouse)?;
        self.lend(&root).await?;
        let options = Options {
            full: false,
            retry_failed: false,
            allow_empty: true,
            voice,
            // Whoever watches the job is not told of nights that a measurement needs.
            watch: Watch::default(),
            lookback_code: 0,
        };
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

/// The arms that have nights of their own, where `arms` are run.
fn wanted(arms: &[Arm]) -> Vec<Arm> {
    let mut wanted: Vec<Arm> =
        arms.iter().filter_map(|arm| arm.texts_of(arms)).filter(|arm| arm.has_nights()).collect();
    wanted.extend(arms.iter().any(|arm| arm.has_scalars()).then_some(Arm::Scalars));
    wanted.sort();
    wanted.dedup();
    wanted
}

/// The arms that have the texts of one.
pub(super) fn users_of(arms: &[Arm], uses: impl Fn(Arm) -> bool) -> String {
    arms.iter().copied().filter(|arm| uses(*arm)).map(Arm::code).collect::<Vec<_>>().join(", ")
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
