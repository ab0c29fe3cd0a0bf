//! `curec learn reward`: from an interval's outcomes and reasons about them to two judges that were not there when it
//! happened.
//!
//! Every text is written without the outcome: [`Asked`] has none. A judge learns from four kinds of texts, so that it stays
//! fit while the language model changes: what the evidence says, what the model answers as it comes and with the alignment's
//! adapter, and what is said of somebody else. Knows jobs, models and files; leaves learning to [`crate::reward::train`].
//! Everything is kept in the file's folder `out`: killed, it goes on where it was, and no answer is paid for twice.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;

use crate::cancel::CancelToken;
use crate::columns::{at, column, text, text_lists};
use crate::config::{Interval, Job};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::generate::answers::Examples;
use crate::generate::format;
use crate::generate::models::Models;
use crate::generate::prompt::Evidence;
use crate::generate::row::RowError;
use crate::llm::adapter::Adapter;
use crate::llm::device;
use crate::night::tables::like_threshold;
use crate::night::verify::nothing_to_learn;
use crate::query::session::Param;
use crate::query::texts;
use crate::reward::example::{Past, RewardExample};
use crate::reward::judge::{Around, Gates, Judge};
use crate::reward::model::Config;
use crate::reward::saved::{self, Catalogue, SavedJudge, user_number};
use crate::reward::train::Trained;
use crate::table::write::write_local;
use crate::telemetry::Voice;
use crate::weekly::examples;
use crate::weekly::weekly_file::{RewardSpec, Spec};

/// The table of the examples.
const EXAMPLES: &str = "reward_example";

/// Answers between two looks at whether to stop.
const ANSWERS: usize = 32;

/// Texts that are encoded between two looks at whether to stop.
const TEXTS: usize = 512;

/// A user and an item as a text may know them: without the outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Digest of user and item.
    pub example_id: String,
    /// The user.
    pub user_id: String,
    /// The item.
    pub item_id: String,
    /// What a reason may lean on; its verdict is `mixed`.
    pub evidence: Evidence,
    /// The question for the language model.
    pub prompt: String,
    /// With this the answer begins.
    pub stem: String,
}

/// What became of it.
struct Outcome {
    label: bool,
    sampled: bool,
    time: i64,
    history: Vec<(String, bool, i64)>,
}

/// Texts about an [`Asked`], all written without the outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blind {
    /// What the evidence says.
    pub template: String,
    /// What another user's evidence says of another item, with this item's name; `None` where that is the same.
    pub corrupted: Option<String>,
}

/// One of the two judges.
#[derive(Debug, Clone, Serialize)]
pub struct JudgeRecord {
    /// Decides first weights, folds and order.
    pub seed: u64,
    /// Of its models and items.
    pub digest: String,
    /// How fit it is to judge.
    pub gates: Gates,
    /// Whether it passes all gates.
    pub passed: bool,
    /// The folds' curves.
    pub folds: Vec<Trained>,
}

/// A finished training: `reward.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// Whether both judges pass.
    pub passed: bool,
    /// First moment of the interval.
    pub interval_start: String,
    /// First moment after it.
    pub interval_end: String,
    /// Users and items that were learned from.
    pub examples: usize,
    /// Of those, liked.
    pub liked: usize,
    /// Of those, never met by the user.
    pub sampled: usize,
    /// Items with a number of their own.
    pub items: usize,
    /// Texts by kind.
    pub texts: BTreeMap<String, usize>,
    /// Answers of the model that broke the format, by kind; they were read as they are.
    pub broken: BTreeMap<String, usize>,
    /// Digest of the encoder.
    pub encoder: String,
    /// Digest of the language model.
    pub model: String,
    /// Digest of the adapter; empty where there was none.
    pub adapter: String,
    /// How far others' reasons may move AUC.
    pub limit_shuffled: f64,
    /// The highest AUC of the probe.
    pub limit_probe: f64,
    /// Whether reasons must tell more than nothing.
    pub needs_gain: bool,
    /// The reward.
    pub judge: JudgeRecord,
    /// The one that watches.
    pub second: JudgeRecord,
}

/// Makes the interval's examples and texts, trains the judge and the second judge, and measures both.
///
/// # Errors
/// What the job's inputs, the models and the disk say; `Kind::Interrupted` after a signal, with everything so far kept;
/// `Kind::Audit` where a gate fails, after all was written.
pub async fn reward(spec: &Spec, interval: Interval, _voice: Voice, stop: &CancelToken) -> Result<Done> {
    let out = PathBuf::from(&spec.out);
    let of = &spec.reward;
    std::fs::create_dir_all(out.join("reward"))
        .map_err(|e| Error::new(Kind::Config, "cannot make the folder").with("folder", out.display()).source(e))?;
    let overrides = spec.overrides();
    let job = Job::load(&spec.job, &overrides)?;
    let adapter = out.join("adapter");
    let adapter = adapter.join("adapter_config.json").exists().then_some(adapter);
    let taught = taught_users(&out, adapter.as_deref())?;
    let (rows, catalogue, titles) = rows(&job, interval, of, &out).await?;
    let asked: Vec<Asked> = rows.iter().map(asked).collect::<Result<Vec<_>>>()?.concat();
    let mut outcomes = Vec::with_capacity(asked.len());
    for batch in &rows {
        outcomes.extend(outcomes_of(batch)?);
    }
    stop.check()?;

    let blind = blind_texts(&asked)?;
    let mut texts: BTreeMap<String, usize> = BTreeMap::new();
    texts.insert("template".into(), blind.len());
    texts.insert("corrupted".into(), blind.iter().filter(|b| b.corrupted.is_some()).count());
    let mut broken = BTreeMap::new();
    let mut reasons: Vec<Vec<String>> = blind.iter().map(|b| vec![b.template.clone()]).collect();
    let mut kept = Kept::open(out.join("reward_answer.parquet"))?;
    let with = adapter.as_ref().map(|dir| dir.display().to_string());
    for (kind, adapter) in [("zero_shot", Some(String::new())), ("sft", with)] {
        let Some(adapter) = adapter else { continue };
        let job = Job::load(&spec.job, &[overrides.as_slice(), &[format!("model.adapter={adapter}")]].concat())?;
        // Ids are digests, so the first ones are a fair sample. The adapter has learned verdicts of some users: what it writes
        // of them may tell their outcomes.
        let is_blind = |i: &usize| kind != "sft" || !taught.contains(&asked[*i].user_id);
        let few: Vec<usize> = (0..asked.len()).filter(is_blind).take(of.generated).collect();
        let of_few: Vec<&Asked> = few.iter().map(|i| &asked[*i]).collect();
        let answers = answers(&job, &of_few, &mut kept, stop).await?;
        broken.insert(kind.to_owned(), answers.iter().flatten().filter(|a| format::parse(a).is_err()).count());
        let told: Vec<Option<String>> = answers.iter().map(|a| a.as_deref().and_then(reason_of)).collect();
        texts.insert(kind.to_owned(), told.iter().flatten().count());
        few.iter().zip(told).for_each(|(i, reason)| reasons[*i].extend(reason));
    }

    let models = Models::new(&job)?;
    models.fetch().await?;
    let (encoder, model) = (models.encoder_files()?.digest().to_owned(), models.generator()?.fingerprint.model.clone());
    let corrupted = blind.into_iter().map(|b| b.corrupted).collect();
    let cases = Cases { asked, outcomes, reasons, corrupted };
    let (all, stopped, encoder_of) = (spec.clone(), stop.clone(), encoder.clone());
    let items = catalogue.len();
    let trained = device::guarded_blocking("training", move || {
        let vectors = encode(&models, cases.texts(), &stopped)?;
        let catalogue =
            with_titles(catalogue, &titles, encode(&models, titles.values().map(String::as_str), &stopped)?)?;
        let judges = train(&all, &cases, &vectors, &catalogue, &encoder_of, &stopped)?;
        Ok::<_, Error>((judges, cases.outcomes))
    });
    let ([judge, second], outcomes) = trained.await?;

    let done = Done {
        passed: judge.passed && second.passed,
        interval_start: interval.start.to_rfc3339(),
        interval_end: interval.end.to_rfc3339(),
        examples: outcomes.len(),
        liked: outcomes.iter().filter(|o| o.label).count(),
        sampled: outcomes.iter().filter(|o| o.sampled).count(),
        items,
        texts,
        broken,
        encoder,
        model,
        adapter: adapter.as_deref().map(Adapter::digest).transpose()?.unwrap_or_default(),
        limit_shuffled: of.limits.shuffled,
        limit_probe: of.limits.probe,
        needs_gain: of.limits.needs_gain,
        judge,
        second,
    };
    let record = out.join("reward.json");
    let text = serde_json::to_string_pretty(&done).context(Kind::Internal, || "the record of the training".into())?;
    disk::write_whole(&record, text + "\n")
        .context(Kind::Temporary, || format!("cannot write into `{}`", out.display()))?;
    for (name, judge) in [("judge", &done.judge), ("second", &done.second)] {
        judge.gates.check(of.limits).map_err(|e| e.with("of", name).with("record", record.display()))?;
    }
    Ok(done)
}

/// Users whose verdicts the adapter has learned, as the alignment's examples in `out` tell; none where there are none.
///
/// # Errors
/// `Kind::Config` where they are not the adapter's.
fn taught_users(out: &Path, adapter: Option<&Path>) -> Result<HashSet<String>> {
    let (mut found, path) = (HashSet::new(), out.join("alignment_example.parquet"));
    let Some(adapter) = adapter.filter(|_| path.exists()) else { return Ok(found) };
    let record = out.join("align.json");
    let told = std::fs::read(&record).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let digest = Adapter::digest(adapter)?;
    if told.is_none_or(|record| record["digest"].as_str() != Some(&digest)) {
        return Err(Error::new(
            Kind::Config,
            "the alignment has not ended: nobody knows what its adapter has learned from",
        )
        .with("record", record.display())
        .with("adapter", adapter.display())
        .hint("run `curec learn align` again, or remove the adapter to go without it"));
    }
    for batch in examples::read(&path)? {
        let (part, user) = (text(&batch, "part")?, text(&batch, "user_id")?);
        found.extend(
            (0..batch.num_rows()).filter(|i| part.value(*i) == "train").filter_map(|i| at(&user, i)).map(str::to_owned),
        );
    }
    Ok(found)
}

/// Rows of `reward_example`, the items that are known when the interval begins, and the titles of those that have one.
type Rows = (Vec<RecordBatch>, Catalogue, BTreeMap<String, String>);

/// Rows, items and titles; the rows are written into the folder `out` as well.
async fn rows(job: &Job, interval: Interval, of: &RewardSpec, out: &Path) -> Result<Rows> {
    let (session, graph) = examples::evidence_for(job, interval, EXAMPLES).await?;
    let contract = graph.contract(EXAMPLES)?;
    let whole = |n: u64| Param::Int(i64::try_from(n).unwrap_or(i64::MAX));
    let params = [
        ("interval_start", Param::Timestamp(interval.start.timestamp_micros())),
        ("interval_end", Param::Timestamp(interval.end.timestamp_micros())),
        ("like_threshold", like_threshold(&job.spec.history, graph.contract("interaction")?)),
        ("title_chars", Param::Int(job.spec.history.title_chars)),
        ("rows_per_user", whole(of.rows_per_user)),
        ("max_examples", whole(of.max_examples)),
    ];
    let rows: Vec<RecordBatch> =
        graph.definition(EXAMPLES)?.run(&session, contract, &params).await?.try_collect().await?;
    if rows.iter().all(|batch| batch.num_rows() == 0) {
        let needs = "the interval needs users who meet new items, and enough events before it";
        return Err(nothing_to_learn(job, interval, &session, "there is nothing to make examples of", needs).await?);
    }
    examples::replace(&out.join("reward_example.parquet"), &rows, &out.join("reward.json"))?;
    let (mut items, mut titles) = (BTreeMap::new(), BTreeMap::new());
    for batch in session.sql(texts::AUDIENCE_ITEMS, &[]).await?.collect().await? {
        let [ids, names] = [text(&batch, "item_id")?, text(&batch, "title")?];
        let categories = text_lists(&batch, "categories")?;
        items.extend(ids.iter().flatten().map(str::to_owned).zip(categories));
        let titled = ids.iter().flatten().zip(names.iter());
        titles.extend(titled.filter_map(|(id, title)| Some((id.to_owned(), title?.to_owned()))));
    }
    Ok((rows, Catalogue::new(&items)?, titles))
}

/// The questions of a batch of `reward_example`; neither labels nor what follows from them is read.
///
/// # Errors
/// `Kind::Internal` where a column is missing.
pub fn asked(batch: &RecordBatch) -> Result<Vec<Asked>> {
    let [id, user, item] = [text(batch, "example_id")?, text(batch, "user_id")?, text(batch, "item_id")?];
    let [subject, prompt, stem] = [text(batch, "subject")?, text(batch, "prompt_text")?, text(batch, "answer_stem")?];
    let [liked, disliked] = [text_lists(batch, "liked")?, text_lists(batch, "disliked")?];
    let [related, attributes] = [text_lists(batch, "related")?, text_lists(batch, "attributes")?];
    let own = |array: &StringArray, row| at(array, row).unwrap_or_default().to_owned();
    let row = |row: usize| Asked {
        example_id: own(&id, row),
        user_id: own(&user, row),
        item_id: own(&item, row),
        evidence: Evidence {
            kind: "pair".into(),
            subject: at(&subject, row).map(str::to_owned),
            verdict: "mixed".into(),
            liked: liked[row].clone(),
            disliked: disliked[row].clone(),
            related: related[row].clone(),
            attributes: attributes[row].clone(),
            ..Evidence::default()
        },
        prompt: own(&prompt, row),
        stem: own(&stem, row),
    };
    Ok((0..batch.num_rows()).map(row).collect())
}

fn outcomes_of(batch: &RecordBatch) -> Result<Vec<Outcome>> {
    let flag = |name| Ok::<BooleanArray, Error>(column(batch, name, &DataType::Boolean)?.as_boolean().clone());
    let (label, sampled) = (flag("label")?, flag("sampled")?);
    let times = column(batch, "event_timestamp", &DataType::Int64)?;
    let times = times.as_primitive::<Int64Type>();
    let lacks = || Error::new(Kind::Internal, "a history lacks a column");
    let lists = batch.column_by_name("history").and_then(|c| c.as_list_opt::<i32>()).ok_or_else(lacks)?;
    let events = lists.values().as_struct_opt().ok_or_else(lacks)?;
    let part = |name, to: &DataType| {
        let column = events.column_by_name(name).ok_or_else(lacks)?;
        cast(column, to).context(Kind::Internal, || format!("cannot read {name} of a history"))
    };
    let (items, liked) = (part("item_id", &DataType::Utf8)?, part("liked", &DataType::Boolean)?);
    let moments = part("event_timestamp", &DataType::Int64)?;
    let (items, liked, moments) = (items.as_string::<i32>(), liked.as_boolean(), moments.as_primitive::<Int64Type>());
    let offsets = lists.value_offsets();
    let row = |row: usize| Outcome {
        label: label.value(row),
        sampled: sampled.value(row),
        time: times.value(row),
        history: (offsets[row] as usize..offsets[row + 1] as usize)
            .map(|i| (items.value(i).to_owned(), liked.value(i), moments.value(i)))
            .collect(),
    };
    Ok((0..batch.num_rows()).map(row).collect())
}

/// What the evidence says, and what it does not: the donor of a corrupted text is the next example in the order of digests
/// that has another user and another item.
///
/// # Errors
/// `Kind::Config` for a template that cannot be rendered.
pub fn blind_texts(asked: &[Asked]) -> Result<Vec<Blind>> {
    let examples = Examples::new()?;
    let mut all = Vec::with_capacity(asked.len());
    for (place, own) in asked.iter().enumerate() {
        let others = asked.iter().cycle().skip(place + 1).take(asked.len().saturating_sub(1).min(64));
        let donor = others.into_iter().find(|other| other.user_id != own.user_id && other.item_id != own.item_id);
        let template = examples.blind_reason(&own.evidence, &own.example_id)?;
        let corrupted = match donor {
            Some(donor) => {
                let evidence = Evidence { subject: own.evidence.subject.clone(), ..donor.evidence.clone() };
                Some(examples.blind_reason(&evidence, &own.example_id)?)
            }
            None => None,
        };
        all.push(Blind { corrupted: corrupted.filter(|text| *text != template), template });
    }
    Ok(all)
}

/// The reason of an answer; of one that broke the format what it says.
fn reason_of(answer: &str) -> Option<String> {
    let reason = format::parse(answer).map_or_else(|_| format::clean(answer), |answer| answer.reason.to_owned());
    let reason = reason.trim();
    (!reason.is_empty()).then(|| reason.to_owned())
}

/// Answers by prompt's key, on disk, so that each is paid for once. `None`: the prompt cannot be answered.
struct Kept {
    path: PathBuf,
    answers: BTreeMap<String, Option<String>>,
}

impl Kept {
    fn open(path: PathBuf) -> Result<Kept> {
        let mut answers = BTreeMap::new();
        if path.exists() {
            let broken = || format!("cannot read the answers kept in `{}`; remove the file", path.display());
            let file = std::fs::File::open(&path).context(Kind::Input, broken)?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|b| b.build());
            for batch in reader.context(Kind::Input, broken)? {
                let batch = batch.context(Kind::Input, broken)?;
                let (keys, texts) = (text(&batch, "prompt_key")?, text(&batch, "answer")?);
                for row in 0..batch.num_rows() {
                    answers.insert(keys.value(row).to_owned(), at(&texts, row).map(str::to_owned));
                }
            }
        }
        Ok(Kept { path, answers })
    }

    fn write(&self) -> Result<()> {
        let fields =
            [("prompt_key", false), ("answer", true)].map(|(name, null)| Field::new(name, DataType::Utf8, null));
        let keys: StringArray = self.answers.keys().map(Some).collect();
        let texts: StringArray = self.answers.values().map(Option::as_deref).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), vec![Arc::new(keys), Arc::new(texts)]);
        write_local(&self.path, &[batch.context(Kind::Internal, || "the answers that are kept".into())?])
    }
}

/// What the job's model answers, stem included.
async fn answers(job: &Job, asked: &[&Asked], kept: &mut Kept, stop: &CancelToken) -> Result<Vec<Option<String>>> {
    let models = Models::new(job)?;
    models.fetch().await?;
    let generator = models.generator()?;
    let key = |a: &&Asked| Ok(generator.fingerprint.prompt_key(&generator.tokenize(&a.prompt, &a.stem)?));
    let keys: Vec<String> = asked.iter().map(key).collect::<Result<_>>()?;
    let mut pending: BTreeMap<&str, &Asked> = BTreeMap::new();
    for (key, asked) in keys.iter().zip(asked).filter(|(key, _)| !kept.answers.contains_key(*key)) {
        pending.insert(key, asked);
    }
    let pending: Vec<(&str, &Asked)> = pending.into_iter().collect();
    for batch in pending.chunks(ANSWERS) {
        stop.check()?;
        let requests: Result<Vec<_>> =
            batch.iter().zip(0..).map(|((_, a), id)| models.request(id, &a.prompt, &a.stem)).collect();
        for ((key, asked), answer) in batch.iter().zip(models.run(requests?).await?) {
            let answer = match answer {
                Ok(answer) => Some(format!("{}{}", asked.stem, answer.text)),
                Err(e @ (RowError::Device(_) | RowError::Cancelled)) => {
                    return Err(Error::new(Kind::Temporary, "the model stopped answering").source(e.to_string()));
                }
                Err(_) => None,
            };
            kept.answers.insert((*key).to_owned(), answer);
        }
        kept.write()?;
        tracing::info!(answers = batch.len(), "reasons written");
    }
    models.stop_engine();
    Ok(keys.iter().map(|key| kept.answers.get(key).cloned().flatten()).collect())
}

/// Everything that is learned from, one of each for an example.
struct Cases {
    asked: Vec<Asked>,
    outcomes: Vec<Outcome>,
    reasons: Vec<Vec<String>>,
    corrupted: Vec<Option<String>>,
}

impl Cases {
    fn texts(&self) -> impl Iterator<Item = &str> {
        self.reasons.iter().flatten().chain(self.corrupted.iter().flatten()).map(String::as_str)
    }
}

/// The catalogue with its titles' vectors.
fn with_titles(
    catalogue: Catalogue,
    titles: &BTreeMap<String, String>,
    vectors: HashMap<String, Vec<f32>>,
) -> Result<Catalogue> {
    let Some(width) = vectors.values().next().map(Vec::len) else { return Ok(catalogue) };
    let of = |(item, title): (&String, &String)| Some((item.clone(), vectors.get(title)?.clone()));
    catalogue.with_titles(width, &titles.iter().filter_map(of).collect())
}

/// Vectors of texts.
fn encode<'a>(
    models: &Models,
    texts: impl Iterator<Item = &'a str>,
    stop: &CancelToken,
) -> Result<HashMap<String, Vec<f32>>> {
    let texts: Vec<&str> = texts.collect::<BTreeSet<&str>>().into_iter().collect();
    let mut vectors = HashMap::with_capacity(texts.len());
    for texts in texts.chunks(TEXTS) {
        stop.check()?;
        vectors.extend(texts.iter().map(|t| (*t).to_owned()).zip(models.embed(texts)?));
    }
    Ok(vectors)
}

/// Trains both judges and writes them.
fn train(
    spec: &Spec,
    cases: &Cases,
    vectors: &HashMap<String, Vec<f32>>,
    catalogue: &Catalogue,
    encoder: &str,
    stop: &CancelToken,
) -> Result<[JudgeRecord; 2]> {
    let (of, folder) = (&spec.reward, Path::new(&spec.out).join("reward"));
    let vector = |text: &String| {
        let vector = vectors.get(text).map(Vec::as_slice);
        vector.ok_or_else(|| Error::new(Kind::Internal, "a text was not encoded"))
    };
    let past = |o: &Outcome| -> Vec<Past> {
        let event = |(item, liked, time): &(String, bool, i64)| Past {
            item: catalogue.number(item),
            liked: *liked,
            time: *time,
        };
        o.history.iter().map(event).collect()
    };
    let histories: Vec<Vec<Past>> = cases.outcomes.iter().map(past).collect();
    let mut rows = Vec::with_capacity(histories.len());
    for (place, (asked, outcome)) in cases.asked.iter().zip(&cases.outcomes).enumerate() {
        let who = (user_number(&asked.user_id), catalogue.number(&asked.item_id));
        let reasons: Vec<&[f32]> = cases.reasons[place].iter().map(vector).collect::<Result<_>>()?;
        let corrupted: Vec<&[f32]> = cases.corrupted[place].iter().map(vector).collect::<Result<_>>()?;
        rows.push(RewardExample::new(who, &histories[place], reasons, corrupted, outcome.label, outcome.time)?);
    }
    let rows: Vec<&RewardExample<'_>> = rows.iter().collect();
    let reason = vectors.values().next().map_or(0, Vec::len);
    let config = Config::new(reason, of.hidden);
    let device = device::open(&spec.device)?;
    let checkpoints = checkpoints(&folder.join("checkpoints"), spec, cases, catalogue, encoder)?;
    let one = |name: &str, seed: u64| -> Result<JudgeRecord> {
        let directory = checkpoints.join(name);
        let around = Around { directory: Some(&directory), go_on: &|| stop.check() };
        let judge = Judge::train_in(&rows, catalogue.attributes(), &config, &of.plan, &around, seed, &device)?;
        stop.check()?;
        let gates = judge.gates(&rows, of.resamples)?;
        let folds = judge.trained().to_vec();
        let at = folder.join(name);
        let passed = gates.check(of.limits).is_ok();
        SavedJudge::new(judge, catalogue.clone(), encoder, gates, passed).write(&at)?;
        let digest = saved::digest(&at)?;
        Ok(JudgeRecord { seed, digest, gates, passed, folds })
    };
    Ok([one("judge", of.seed)?, one("second", of.second_seed)?])
}

/// The folder of this training's checkpoints; those of others go.
fn checkpoints(folder: &Path, spec: &Spec, cases: &Cases, catalogue: &Catalogue, encoder: &str) -> Result<PathBuf> {
    let mut hasher = blake3::Hasher::new();
    let mut field = |text: &str| _ = hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    let mut made = Fingerprint::new("judges", 1);
    made.add("encoder", encoder).add("attributes", catalogue.attributes().digest());
    field(&made.add_settings("reward", &spec.reward)?.digest());
    for (asked, outcome) in cases.asked.iter().zip(&cases.outcomes) {
        for text in [&asked.example_id, &outcome.label.to_string(), &outcome.time.to_string()] {
            field(text);
        }
        field(&outcome.history.len().to_string());
        for (item, liked, time) in &outcome.history {
            field(item);
            field(&format!("{liked} {time}"));
        }
    }
    cases.texts().for_each(field);
    let own = folder.join(&hasher.finalize().to_hex()[..16]);
    let failed = || format!("cannot make the folder `{}`", own.display());
    std::fs::create_dir_all(&own).context(Kind::Temporary, failed)?;
    for entry in std::fs::read_dir(folder).context(Kind::Temporary, failed)?.flatten() {
        if entry.path() != own && entry.path().is_dir() {
            std::fs::remove_dir_all(entry.path()).context(Kind::Temporary, failed)?;
        }
    }
    Ok(own)
}
