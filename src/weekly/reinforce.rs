//! `curec learn reinforce`: from the aligned adapter to one whose reasons tell the judge more, and the record of it.
//!
//! Prompts are the pairs of `alignment_example` whose history stands in `reward_example`: what an answer is worth needs the
//! outcome and what the user did before. Items' and histories' questions are no prompts: no single outcome tells what their
//! reasons are worth. The judge that rewards is `reward/judge` of the folder `out`, the one that watches `reward/second`;
//! both judge out of fold. The first also ranks a prompt's item among [`Negatives`], whose scores without a reason are the
//! same for all answers. Knows jobs, files and models; leaves learning to [`crate::learn::rounds`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use serde::Serialize;

use crate::cancel::CancelToken;
use crate::columns::{at, column, text};
use crate::config::{Interval, Job};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::generate::models::Models;
use crate::learn::curve;
use crate::learn::lessons::{Config, Method};
use crate::learn::rollout::{Base, Prompt, Sampled, Sampler};
use crate::learn::rounds::{self, Ended, Reinforced};
use crate::learn::supervised::Surroundings;
use crate::learn::worth::{self, Asked, Check, Prices, Worth};
use crate::llm::adapter::{Adapter, AdapterShape, Precision};
use crate::llm::device;
use crate::reward::names::Vocabulary;
use crate::reward::saved::{self, Case, PastEvent, SavedJudge, UNKNOWN};
use crate::telemetry::Voice;
use crate::weekly::align;
use crate::weekly::examples;
use crate::weekly::negatives::Negatives;
use crate::weekly::question;
use crate::weekly::weekly_file::Spec;

/// A reinforcement that ended well: `reinforce-<method>.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// What was learned.
    pub method: Method,
    /// The adapter's folder, in PEFT's format: alignment and reinforcement in one.
    pub adapter: PathBuf,
    /// Its digest.
    pub digest: String,
    /// Digest of the adapter that it began with.
    pub begun_with: String,
    /// Digests of the judge that rewarded and of the one that watched.
    pub judges: [String; 2],
    /// First moment of the interval.
    pub interval_start: String,
    /// First moment after it.
    pub interval_end: String,
    /// Prompts that trained.
    pub prompts: usize,
    /// Prompts that were asked at checks alone, of other users.
    pub held_out: usize,
    /// Pairs without a history in `reward_example`.
    pub without_history: usize,
    /// Rounds of learning.
    pub rounds: usize,
    /// Why it ended.
    pub ended: Ended,
    /// The same in words.
    pub message: &'static str,
    /// The round after which the adapter is kept; 0 for the one that it began with.
    pub best_round: usize,
    /// Groups of answers that were learned from, and that were not.
    pub learned: usize,
    /// See `learned`.
    pub skipped: usize,
    /// Tokens of answers in a second of sampling.
    pub tokens_per_second: f64,
    /// Share of the prompts' tokens that was not prefilled again.
    pub shared: f64,
    /// Held-out answers before.
    pub before: Option<Check>,
    /// And by the adapter that is kept.
    pub after: Option<Check>,
}

/// The folder of the adapter that a reinforcement begins with.
///
/// # Errors
/// `Kind::Config` where it is the one that the method writes.
pub(crate) fn begin(spec: &Spec, method: Method) -> Result<PathBuf> {
    if spec.reinforce.from == format!("adapter-{method}") {
        return Err(Error::new(Kind::Config, "a reinforcement cannot take the place of what it begins with")
            .with("[reinforce] from", &spec.reinforce.from)
            .hint("move the folder to another name, or choose another method"));
    }
    Ok(Path::new(&spec.out).join(&spec.reinforce.from))
}

/// Reinforces the adapter that the file names by the method and writes the new one into `adapter-<method>`.
///
/// # Errors
/// `Kind::Config` where there is no aligned adapter, or the judges read another encoder's vectors; `Kind::Model` where there
/// are no judges; `Kind::Interrupted` after a signal, with finished rounds kept; what inputs, models and the disk say.
pub async fn reinforce(
    spec: &Spec,
    interval: Interval,
    method: Method,
    voice: Voice,
    stop: &CancelToken,
) -> Result<Done> {
    let out = PathBuf::from(&spec.out);
    let begin = begin(spec, method)?;
    if !begin.join("adapter_config.json").exists() {
        return Err(Error::new(Kind::Config, "there is no adapter to reinforce")
            .with("folder", begin.display())
            .hint("run `curec learn align` first, or name another folder of `out` in [reinforce] from"));
    }
    let overrides = spec.overrides();
    let job = Job::load(&spec.job, &overrides)?;
    let pairs = out.join("alignment_example.parquet");
    is_of(&out.join("align.json"), interval, "align")?;
    let outcomes = out.join("reward_example.parquet");
    if !outcomes.exists() {
        return Err(Error::new(Kind::Config, "there are no histories to judge answers by")
            .with("file", outcomes.display())
            .hint("run `curec learn reward` for the same interval first"));
    }
    let judged: [String; 2] = {
        let record = is_of(&out.join("reward.json"), interval, "reward")?;
        ["judge", "second"].map(|name| record[name]["digest"].as_str().unwrap_or_default().to_owned())
    };
    if judged != [saved::digest(&out.join("reward/judge"))?, saved::digest(&out.join("reward/second"))?] {
        return Err(Error::new(Kind::Config, "the judges are not those that reward.json tells of")
            .with("folder", out.join("reward").display())
            .hint("run `curec learn reward` again: it may have been cut short"));
    }
    let (rows, outcomes) = (examples::read(&pairs)?, examples::read(&outcomes)?);
    stop.check()?;
    let vocabulary = align::vocabulary(&rows, &job.spec.check.language)?;
    let mut taught = HashMap::new();
    if !spec.align.teacher.is_empty() {
        // The anchor is what the adapter was taught, not what the templates say.
        let mut all = question::questions(&rows)?;
        align::teach(spec, &mut all, &vocabulary, voice, stop).await?;
        taught.extend(all.into_iter().map(|q| (q.id, q.answer)));
    }
    let (questions, without_history) = questions(&rows, &histories(&outcomes)?, &taught)?;
    let users: BTreeSet<&str> = questions.iter().map(|q| q.user_id.as_str()).collect();
    let negatives = match spec.reinforce.prices.rank > 0.0 {
        true => Some(Negatives::read(&job, interval, &users).await?),
        false => None,
    };
    stop.check()?;
    let models = Models::new(&job)?;
    models.fetch().await?;
    let (of, folder, stopped) = (spec.clone(), out.clone(), stop.clone());
    let work = move || {
        let it = Work {
            spec: &of,
            out: &folder,
            models: &models,
            questions: &questions,
            vocabulary: &vocabulary,
            negatives: negatives.as_ref(),
            scored: RefCell::default(),
        };
        it.run(method, voice, &stopped)
    };
    let ran = device::guarded_blocking("reinforcing", work).await?;

    let adapter = out.join(format!("adapter-{method}"));
    let learned = &ran.learned;
    let sum = |of: &dyn Fn(&curve::Round) -> f64| learned.rounds.iter().map(of).sum::<f64>();
    let seconds = sum(&|r| r.tokens as f64 / r.tokens_per_second.max(1e-9));
    let done = Done {
        method,
        digest: Adapter::digest(&adapter)?,
        adapter,
        begun_with: Adapter::digest(&begin)?,
        judges: [saved::digest(&out.join("reward/judge"))?, saved::digest(&out.join("reward/second"))?],
        interval_start: interval.start.to_rfc3339(),
        interval_end: interval.end.to_rfc3339(),
        prompts: ran.prompts,
        held_out: ran.held_out,
        without_history,
        rounds: learned.rounds.len(),
        ended: learned.ended,
        message: match learned.ended {
            Ended::Finished => "all rounds are done",
            Ended::Patience => "the second judge found nothing better for as many checks as `patience` says",
            Ended::Diverged => "the reward rose while the second judge's gain fell: the reward is being gamed",
        },
        best_round: learned.best_round,
        learned: learned.rounds.iter().map(|r| r.learned).sum(),
        skipped: learned.rounds.iter().map(|r| r.skipped).sum(),
        tokens_per_second: sum(&|r| r.tokens as f64) / seconds.max(1e-9),
        shared: sum(&|r| r.cached_tokens as f64) / sum(&|r| r.prompt_tokens as f64).max(1.0),
        before: learned.checks.first().cloned(),
        after: learned.best().cloned(),
    };
    let text = serde_json::to_string_pretty(&done).context(Kind::Internal, || "the record of it".into())?;
    disk::write_whole(&out.join(format!("reinforce-{method}.json")), text + "\n")
        .context(Kind::Temporary, || format!("cannot write into `{}`", out.display()))?;
    Ok(done)
}

/// A pair with its outcome and all that judging an answer needs.
struct Question {
    user_id: String,
    item_id: String,
    is_held_out: bool,
    label: bool,
    prompt: String,
    stem: String,
    taught: String,
    subject: String,
    evidence: Vec<String>,
    past: Past,
    tercile: usize,
}

/// Events before a pair's outcome, and when that was.
#[derive(Clone)]
struct Past {
    time: i64,
    events: Vec<(String, bool, i64)>,
}

/// What runs on a thread of its own.
struct Work<'a> {
    spec: &'a Spec,
    out: &'a Path,
    models: &'a Arc<Models>,
    questions: &'a [Question],
    vocabulary: &'a Vocabulary,
    /// `None`: ranks count nothing.
    negatives: Option<&'a Negatives>,
    /// By question, see [`Work::scores`].
    scored: RefCell<HashMap<usize, Vec<f64>>>,
}

/// What it came to.
struct Ran {
    learned: Reinforced,
    prompts: usize,
    held_out: usize,
}

impl Work<'_> {
    fn run(&self, method: Method, voice: Voice, stop: &CancelToken) -> Result<Ran> {
        let (r, out, models) = (&self.spec.reinforce, self.out, self.models);
        let compute = device::open(&self.spec.device)?;
        let judges = ["judge", "second"].map(|name| SavedJudge::read(&out.join("reward").join(name), &compute));
        let [judge, second] = judges;
        let judges = [judge?, second?];
        judges.iter().try_for_each(SavedJudge::check)?;
        let encoder = models.encoder_files()?.digest();
        if let Some(other) = judges.iter().map(SavedJudge::encoder).find(|digest| *digest != encoder) {
            return Err(Error::new(Kind::Config, "the judges read another encoder's vectors")
                .with("theirs", other)
                .with("model.encoder", encoder)
                .hint("run `curec learn reward` again"));
        }
        let (files, generator) = (models.generator_files()?, models.generator()?);
        let begun = Adapter::read(&out.join(&r.from), files.config())?;
        let (train, held_out) = self.prompts()?;
        let shape = AdapterShape { rank: r.rank, alpha: r.alpha, dropout: 0.0, targets: begun.shape.targets.clone() };
        let sampler = Sampler {
            base: Base::load(&files, Some(&begun))?,
            tokenizer: generator.tokenizer.clone(),
            device: device::open(models.device())?,
            options: models.engine_options().clone(),
            max_new_tokens: generator.fingerprint.max_new_tokens,
            stop: generator.fingerprint.stop.clone(),
        };
        let mut lm = sampler.base.trainable(&shape, r.learning.seed, &compute)?;
        let check_sampling = generator.fingerprint.sampling;
        let config = Config { method, check_sampling, ..r.learning.clone() };
        let prices = &r.prices;
        let worths = |answers: &[(&Prompt, &Sampled)]| self.worths(&judges, prices, answers);
        // Other judges, other rewards: their digests belong to what a checkpoint is for.
        let digests = ["judge", "second"].map(|name| saved::digest(&out.join("reward").join(name)));
        let [of_judge, of_second] = digests;
        let print = &generator.fingerprint;
        let mut model = Fingerprint::new("reinforced model", 1);
        model
            .add("model", &print.model)
            .add("max_new_tokens", print.max_new_tokens)
            .add_settings("stop", &print.stop)?;
        model.add("adapter", Adapter::digest(&out.join(&r.from))?).add("judge", of_judge?).add("second", of_second?);
        model.add_settings("prices", prices)?.add_settings("forbidden", &r.forbidden)?;
        model.add("negatives", self.negatives.map(Negatives::digest).unwrap_or_default());
        let model = model.digest();
        let around = Surroundings {
            checkpoint: Some(out.join(format!("reinforce-{method}.safetensors"))),
            curve: Some(out.join(format!("reinforce-{method}.jsonl"))),
            model: &model,
            voice,
            stop: &|| stop.is_requested(),
        };
        let learned = rounds::reinforce(&mut lm, &sampler, (&train, &held_out), &worths, &config, &around)?;
        let both = begun.beside(&lm.adapter()?);
        both.write(&out.join(format!("adapter-{method}")), &files.name(), Precision::F16)?;
        Ok(Ran { learned, prompts: train.len(), held_out: held_out.len() })
    }

    /// The questions that train, and those that are asked at checks; both numbered by their places.
    fn prompts(&self) -> Result<(Vec<Prompt>, Vec<Prompt>)> {
        let (files, generator) = (self.models.generator_files()?, self.models.generator()?);
        let end = files.config().eos_ids.first().copied();
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for (number, question) in self.questions.iter().enumerate() {
            let tokens = generator.tokenize(&question.prompt, &question.stem)?;
            let mut taught = generator.tokenizer.encode_text(&question.taught)?;
            taught.extend(end);
            let prompt = Prompt { number, tokens, taught, label: question.label, tercile: question.tercile };
            if question.is_held_out { held_out.push(prompt) } else { train.push(prompt) }
        }
        // Ids of examples are digests, so every n-th is a fair sample.
        let step = held_out.len().div_ceil(self.spec.reinforce.checked.max(1)).max(1);
        Ok((train, held_out.into_iter().step_by(step).collect()))
    }

    /// What answers are worth: the gate, the reason's vector, both judges' gains, ranks, the price list.
    fn worths(&self, judges: &[SavedJudge; 2], prices: &Prices, answers: &[(&Prompt, &Sampled)]) -> Result<Vec<Worth>> {
        let question = |prompt: &Prompt| {
            let found = self.questions.get(prompt.number);
            found.ok_or_else(|| Error::new(Kind::Internal, "an answer to no question"))
        };
        let mut passed = Vec::with_capacity(answers.len());
        for (prompt, answer) in answers {
            let q = question(prompt)?;
            let asked = Asked {
                stem: &q.stem,
                wants_verdict: true,
                subject: &q.subject,
                evidence: &q.evidence,
                forbidden: &self.spec.reinforce.forbidden,
            };
            passed.push(worth::gate(&answer.text, &asked, prices, self.vocabulary));
        }
        let texts: BTreeMap<&str, usize> = passed.iter().flatten().map(|p| (p.reason.as_str(), 0)).collect();
        let texts: Vec<&str> = texts.into_keys().collect();
        let places: HashMap<&str, usize> = texts.iter().enumerate().map(|(i, text)| (*text, i)).collect();
        let vectors = if texts.is_empty() { Vec::new() } else { self.models.embed(&texts)? };

        // Answers of one question are one case.
        let mut of_questions: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, (prompt, _)) in answers.iter().enumerate().filter(|(i, _)| passed[*i].is_some()) {
            of_questions.entry(prompt.number).or_default().push(i);
        }
        let histories: Vec<Vec<PastEvent<'_>>> = of_questions.keys().map(|n| self.questions[*n].past.of()).collect();
        let vector = |i: &usize| {
            let place = passed[*i].as_ref().and_then(|p| places.get(p.reason.as_str()));
            place.and_then(|at| vectors.get(*at)).map(Vec::as_slice)
        };
        let case = |((number, members), history): ((&usize, &Vec<usize>), _)| {
            let q = &self.questions[*number];
            let texts = members.iter().filter_map(vector).collect();
            Case { user_id: &q.user_id, item_id: &q.item_id, history, label: q.label, time: q.past.time, texts }
        };
        let cases: Vec<Case<'_>> = of_questions.iter().zip(histories.iter().map(Vec::as_slice)).map(case).collect();
        // Where nothing passed the gate there is nothing to judge.
        let mut found = vec![[0.0; 3]; answers.len()];
        let [judge, second] = judges;
        let (judged, watched) = match cases.is_empty() {
            true => (Vec::new(), Vec::new()),
            false => (judge.judged(&cases)?, second.gains(&cases)?),
        };
        let by_both = judged.into_iter().zip(watched);
        for (((number, members), case), (judged, watched)) in of_questions.iter().zip(&cases).zip(by_both) {
            let scores = self.scores(judge, *number, case)?;
            for ((i, judged), second) in members.iter().zip(judged).zip(watched) {
                let with = f64::from(judged.logit);
                let of = |(own, others): (&f64, &[f64])| worth::rank_gain(with, *own, others, case.label);
                found[*i] = [f64::from(judged.gain), scores.split_first().map_or(0.0, of), second];
            }
        }
        let worth = |(i, (prompt, _)): (usize, &(&Prompt, &Sampled))| {
            let (passed, [gain, rank, second]) = (passed[i].as_ref(), found[i]);
            let verdict = passed.and_then(|p| p.verdict);
            Worth {
                reward: worth::reward(passed, gain, rank, prices),
                gain,
                rank,
                second,
                passed: passed.is_some(),
                grounded: passed.is_some_and(|p| p.ungrounded <= 0.0),
                verdict,
                is_right: verdict == Some(prompt.label),
            }
        };
        Ok(answers.iter().enumerate().map(worth).collect())
    }

    /// f_0 of a question's item and, after it, of its negatives; nothing where ranks count nothing. A question is scored once,
    /// and alone: what is computed beside it may move the last bits, and a reinforcement that was killed and goes on meets
    /// questions in another company.
    fn scores(&self, judge: &SavedJudge, number: usize, case: &Case<'_>) -> Result<Vec<f64>> {
        let Some(negatives) = self.negatives else { return Ok(Vec::new()) };
        if let Some(scores) = self.scored.borrow().get(&number) {
            return Ok(scores.clone());
        }
        let is_known = |item: &str| judge.catalogue().number(item) != UNKNOWN;
        let mut items = vec![case.item_id];
        items.extend(negatives.near(case.user_id, case.item_id, is_known));
        let scores = judge.without(case, &items)?;
        self.scored.borrow_mut().insert(number, scores.clone());
        Ok(scores)
    }
}

impl Past {
    fn of(&self) -> Vec<PastEvent<'_>> {
        self.events.iter().map(|(item_id, liked, time)| PastEvent { item_id, liked: *liked, time: *time }).collect()
    }
}

/// The record that a stage leaves when it ends, if it is of this interval.
fn is_of(path: &Path, interval: Interval, stage: &str) -> Result<serde_json::Value> {
    let hint = format!("run `curec learn {stage}` for this interval first");
    let record: Option<serde_json::Value> =
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let record = record.ok_or_else(|| {
        Error::new(Kind::Config, "a stage before this one has not ended").with("record", path.display()).hint(&hint)
    })?;
    let days = [interval.start, interval.end].map(|moment| moment.to_rfc3339());
    match ["interval_start", "interval_end"].iter().zip(&days).all(|(key, day)| record[*key].as_str() == Some(day)) {
        true => Ok(record),
        false => Err(Error::new(Kind::Config, "a stage before this one was for another interval")
            .with("record", path.display())
            .with("interval", days.join("/"))
            .hint(hint)),
    }
}

/// What every user did before every item.
fn histories(rows: &[RecordBatch]) -> Result<HashMap<(String, String), Past>> {
    let lacks = || Error::new(Kind::Internal, "a history lacks a column");
    let mut found = HashMap::new();
    for batch in rows {
        let (users, items) = (text(batch, "user_id")?, text(batch, "item_id")?);
        let times = column(batch, "event_timestamp", &DataType::Int64)?;
        let times = times.as_primitive::<Int64Type>();
        let lists = batch.column_by_name("history").and_then(|c| c.as_list_opt::<i32>()).ok_or_else(lacks)?;
        let events = lists.values().as_struct_opt().ok_or_else(lacks)?;
        let part = |name, to: &DataType| {
            let column = events.column_by_name(name).ok_or_else(lacks)?;
            cast(column, to).context(Kind::Internal, || format!("cannot read {name} of a history"))
        };
        let (of, liked) = (part("item_id", &DataType::Utf8)?, part("liked", &DataType::Boolean)?);
        let moments = part("event_timestamp", &DataType::Int64)?;
        let (of, liked, moments) = (of.as_string::<i32>(), liked.as_boolean(), moments.as_primitive::<Int64Type>());
        let offsets = lists.value_offsets();
        for row in 0..batch.num_rows() {
            let events = (offsets[row] as usize..offsets[row + 1] as usize)
                .map(|i| (of.value(i).to_owned(), liked.value(i), moments.value(i)));
            let past = Past { time: times.value(row), events: events.collect() };
            found.insert((users.value(row).to_owned(), items.value(row).to_owned()), past);
        }
    }
    Ok(found)
}

/// The pairs that have a history, and how many have none. `taught` has other answers than the templates', by `example_id`.
fn questions(
    rows: &[RecordBatch],
    histories: &HashMap<(String, String), Past>,
    taught: &HashMap<String, String>,
) -> Result<(Vec<Question>, usize)> {
    // How often an item stands in histories: its popularity among those who are judged.
    let mut popularity: HashMap<&str, usize> = HashMap::new();
    for (item, ..) in histories.values().flat_map(|past| &past.events) {
        *popularity.entry(item).or_default() += 1;
    }
    let (mut found, mut without) = (Vec::new(), 0);
    for batch in rows {
        let [task, part, user, item] = ["task", "part", "user_id", "item_id"].map(|name| text(batch, name));
        let (task, part, user, item, ids) = (task?, part?, user?, item?, text(batch, "example_id")?);
        let [prompt, stem, answer, subject] =
            ["prompt_text", "answer_stem", "answer_text", "subject"].map(|name| text(batch, name));
        let (prompt, stem, answer, subject) = (prompt?, stem?, answer?, subject?);
        let label = column(batch, "label", &DataType::Boolean)?;
        let label = label.as_boolean();
        let evidence = question::evidence(batch)?;
        for row in (0..batch.num_rows()).filter(|row| task.value(*row) == "pair" && label.is_valid(*row)) {
            let [user_id, item_id, subject] =
                [&user, &item, &subject].map(|c| at(c, row).unwrap_or_default().to_owned());
            let Some(past) = histories.get(&(user_id.clone(), item_id.clone())) else {
                without += 1;
                continue;
            };
            let named = evidence[row].facts.iter().chain(&evidence[row].beside);
            found.push(Question {
                is_held_out: part.value(row) == "valid",
                label: label.value(row),
                prompt: prompt.value(row).to_owned(),
                stem: stem.value(row).to_owned(),
                taught: taught.get(ids.value(row)).map_or(answer.value(row), String::as_str).to_owned(),
                evidence: named.cloned().collect(),
                past: past.clone(),
                tercile: 0,
                user_id,
                item_id,
                subject,
            });
        }
    }
    let count = |q: &Question| popularity.get(q.item_id.as_str()).copied().unwrap_or(0);
    let mut counts: Vec<usize> = found.iter().map(count).collect();
    counts.sort_unstable();
    let bound = |third: usize| counts.get(counts.len() * third / 3).copied().unwrap_or(0);
    let (first, second) = (bound(1), bound(2));
    for question in &mut found {
        let n = popularity.get(question.item_id.as_str()).copied().unwrap_or(0);
        question.tercile = usize::from(n >= first) + usize::from(n >= second);
    }
    if found.is_empty() {
        return Err(Error::new(Kind::Input, "there is no pair to reinforce with")
            .with("pairs without a history", without)
            .hint("raise max and pairs_per_user of [examples], and max_examples of [reward]"));
    }
    Ok((found, without))
}
