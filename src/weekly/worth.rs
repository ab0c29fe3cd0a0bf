//! `curec learn worth`: what reasons of items are worth to a recommender that knows their items by them alone, whether that may
//! be a reward, and where it may, an adapter that has learned the best of several answers.
//!
//! Learned from and shown is what was before the interval; what users took in it is the reward. Half of the users choose an
//! item's best answer, the other half say whether the choice is worth anything. Only then something is taught, by the
//! supervised path of `learn align`. The halves say as well what is to stand in the place of the reasons that nights publish; where
//! that is confirmed it is written, and a night may read it. Nothing is published, and no night is needed.
//!
//! Knows jobs, folders and the order of the steps; what is read is in [`crate::weekly::worth_data`], what is asked in
//! [`crate::weekly::worth_answers`], what is measured in [`crate::weekly::worth_fit`], what must hold in
//! [`crate::weekly::worth_gates`] and [`crate::weekly::worth_correction`], and what is written in
//! [`crate::weekly::worth_rows`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cancel::CancelToken;
use crate::config::{Interval, Job};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::generate::models::Models;
use crate::generate::prompt::Evidence;
use crate::llm::adapter::{Adapter, FILES};
use crate::llm::device;
use crate::night::learned::{Learned, TAUGHT};
use crate::night::prepare::{Prepared, prepare};
use crate::registry::card::Check;
use crate::telemetry::Voice;
use crate::weekly::align::{self, Course};
use crate::weekly::examples;
use crate::weekly::question::Question;
use crate::weekly::weekly_file::{Spec, TAUGHT_BY_WORTH};
use crate::weekly::worth_answers::{Answers, Asking};
use crate::weekly::worth_choice::Chosen;
use crate::weekly::worth_correction::Correction;
use crate::weekly::worth_data::{Data, Item, data};
use crate::weekly::worth_fit::{Measured, Recommender, Work};
use crate::weekly::worth_gates::Gates;
use crate::weekly::worth_rows;
use crate::weekly::written;

/// The record, in `out`.
pub const RECORD: &str = "worth.json";
/// All answers with their worths, in `out`.
pub const TABLE: &str = "item_worth.parquet";
/// What is to stand in the place of items' reasons, in `out`: rows of `item_choice`, which a nightly job may name.
pub const CHOICES: &str = "item_choice.parquet";
/// Answers as they come, in `out`.
const ANSWERS: &str = "worth_answers.jsonl";
/// Begins the names of the training's checkpoint and curve.
const COURSE: &str = "worth-align";
/// Of 256 items so many are not taught: they tell when to stop.
const HELD_OUT: u8 = 26;
/// Among the keys of a job that learns: no adapter, whatever the job's own is.
const AS_IT_COMES: &str = "model.adapter=";

/// What was taught.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Taught {
    /// The adapter's folder, in PEFT's format: what it began with and what it learned in one.
    pub adapter: PathBuf,
    /// Its digest.
    pub digest: String,
    /// Examples that trained: chosen answers, and what is written beside them.
    pub examples: usize,
    /// The step whose weights were kept.
    pub best_step: usize,
    /// Mean −log p of held-out answers before.
    pub loss_before: Option<f64>,
    /// And after.
    pub loss_after: Option<f64>,
}

/// A finished run: `worth.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// Whether all gates hold and the choice is worth something: then something was taught.
    pub passed: bool,
    /// First moment of the interval.
    pub interval_start: String,
    /// First moment of its second block.
    pub next_block: String,
    /// First moment after it.
    pub interval_end: String,
    /// Digest of all that this follows from.
    pub made_from: String,
    /// Digest of the encoder.
    pub encoder: String,
    /// Digest of the language model.
    pub model: String,
    /// Digest of the adapter that answered; empty where there was none.
    pub begun_with: String,
    /// What says what reasons are worth.
    pub recommender: Recommender,
    /// Events of the two blocks of the interval, of users of whom something is known.
    pub events: [usize; 2],
    /// Items that have evidence.
    pub described: usize,
    /// Items that were asked about.
    pub items: usize,
    /// Answers to their questions.
    pub answers: usize,
    /// Of those, accepted by the job's checks.
    pub accepted: usize,
    /// Refused ones by why.
    pub refused: BTreeMap<String, usize>,
    /// Tokens of the questions, over all runs.
    pub prompt_tokens: u64,
    /// And of the answers.
    pub completion_tokens: u64,
    /// Whether worths may be a reward.
    pub gates: Gates,
    /// What the best of an item's answers are worth to the users who did not choose.
    pub chosen: Chosen,
    /// Whether choices for the items' reasons are confirmed; they are written where the gates hold as well.
    pub correction: Correction,
    /// The share of the interval's events whose item was judged, so that it could have had another text.
    pub reach: f64,
    /// None where nothing was.
    pub taught: Option<Taught>,
}

impl Done {
    /// Whether choices for the items' reasons were written.
    pub fn is_corrected(&self) -> bool {
        self.gates.passed && self.correction.holds
    }

    /// The conditions that do not hold; whether the choices are worth something is asked where the gates hold.
    fn failing(&self) -> Vec<&Check> {
        let failing: Vec<&Check> = self.gates.gate.iter().filter(|check| !check.holds).collect();
        let choices = std::iter::once(&self.chosen.gate).chain(&self.correction.gate);
        match failing.is_empty() {
            true => choices.filter(|check| !check.holds).collect(),
            false => failing,
        }
    }

    /// The record, or what is refused.
    fn verdict(self, out: &Path) -> Result<Done> {
        let failing: Vec<String> = self.failing().into_iter().map(Check::told).collect();
        if failing.is_empty() {
            return Ok(self);
        }
        let what = match (self.gates.passed, self.chosen.gate.holds, self.correction.holds) {
            (false, _, _) => "what reasons are worth to a recommender may not be a reward, and nothing was learned",
            (_, false, true) => "the best of several reasons is worth no more than the others, and nothing was learned",
            (_, false, false) => {
                "the best of several reasons is worth no more than the others, and nothing was learned; what would take the place \
                 of items' reasons is not confirmed, and no choice was written"
            }
            (_, true, _) => {
                "what would take the place of items' reasons is not confirmed, and no choice was written; the best of several \
                 reasons was learned"
            }
        };
        let mut error = Error::new(Kind::Audit, format!("{what}: {}", failing.join("; ")))
            .with("record", out.join(RECORD).display())
            .with("reasons", out.join(TABLE).display());
        if let Some(taught) = &self.taught {
            error = error.with("adapter", taught.adapter.display());
        }
        if self.is_corrected() {
            error = error.with("choices", out.join(CHOICES).display());
        }
        Err(error.hint("a longer interval, more items, more samples or a higher temperature may tell more"))
    }

    /// Whether what this tells of is still there.
    fn stands(&self, out: &Path) -> bool {
        let is_taught = |taught: &Taught| Adapter::digest(&taught.adapter).is_ok_and(|digest| digest == taught.digest);
        out.join(TABLE).exists()
            && out.join(CHOICES).exists() == self.is_corrected()
            && self.taught.as_ref().map_or(!self.passed, is_taught)
    }
}

/// Measures what reasons of items are worth and, where that may be a reward, teaches the best of several answers and says what is
/// to stand in the place of the reasons that nights publish. Record, table and choices go to `out`, what is taught to
/// `adapter-worth` there; choices of before that are not confirmed again are removed. A run makes the evidence anew; where it then
/// finds its own record, made from the same, it asks and measures nothing and repeats what the record says.
///
/// # Errors
/// `Kind::Config` where there is no adapter to ask, or it has learned from the interval; `Kind::NotArrived` and `Kind::Input` where
/// there is nothing to measure by; `Kind::Audit` where a gate does not hold, after record and table were written;
/// `Kind::Interrupted` after a signal, with all answers kept; what inputs, models and the disk say.
pub async fn worth(spec: &Spec, interval: Interval, voice: Voice, stop: &CancelToken) -> Result<Done> {
    let out = spec.folder()?;
    let job = Job::load(&spec.job, &keys(spec, &out)?)?;
    let prepared = prepare(&job, interval).await?;
    check_learned(&prepared)?;
    let read = Arc::new(stop.or(data(&prepared, &spec.worth)).await?);
    let made_from = made_from(spec, &prepared, &read)?;
    let before = std::fs::read(out.join(RECORD)).ok().and_then(|bytes| serde_json::from_slice::<Done>(&bytes).ok());
    if let Some(done) = before.filter(|done| done.made_from == made_from && done.stands(&out)) {
        tracing::info!(record = %out.join(RECORD).display(), "nothing has changed: the record stands");
        return done.verdict(&out);
    }
    stop.check()?;

    let models = prepared.models.clone();
    let asked = read.asked(spec.worth.most_items).into_iter().filter_map(|place| read.items.get(place).cloned());
    let asked: Arc<Vec<Item>> = Arc::new(asked.collect());
    let asking = Asking {
        models: &models,
        items: &asked,
        of: &spec.worth,
        attempts: u32::try_from(job.spec.sampling.attempts).unwrap_or(u32::MAX),
        check: &job.spec.check,
        vocabulary: &read.vocabulary,
    };
    let answers = Arc::new(asking.answers(&out.join(ANSWERS), voice, stop).await?);
    stop.check()?;

    let (of, with, about, given, known, stopped) =
        (spec.clone(), models.clone(), asked.clone(), answers.clone(), read.clone(), stop.clone());
    let measure = move || {
        let device = device::open(&of.device)?;
        let (models, data, items, answers) = (&*with, &*known, about.as_slice(), &*given);
        let work = Work { models, data, items, answers, of: &of.worth, device: &device };
        work.measure(voice, &stopped)
    };
    let measured = device::guarded_blocking("measuring what reasons are worth", measure).await?;
    // A record that is cut short here must not leave an adapter of which it tells nothing.
    forget_taught(&out)?;
    examples::replace(&out.join(TABLE), &[worth_rows::worths(&asked, &answers, &measured)?], &out.join(RECORD))?;
    let judged = measured.choices.iter().filter_map(|one| asked.get(one.item).map(|item| item.id.as_str()));
    let judged: BTreeSet<&str> = judged.collect();
    let generator = models.generator()?;
    let mut done = Done {
        passed: measured.gates.passed && measured.chosen.gate.holds,
        interval_start: interval.start.to_rfc3339(),
        next_block: read.next_block(),
        interval_end: interval.end.to_rfc3339(),
        made_from,
        encoder: models.encoder_files()?.digest().to_owned(),
        model: generator.fingerprint.model.clone(),
        begun_with: generator.fingerprint.adapter.clone(),
        recommender: measured.recommender.clone(),
        events: read.blocks().map(|cases| cases.len()),
        described: read.items.len(),
        items: asked.len(),
        answers: answers.all.len(),
        accepted: answers.all.iter().filter(|answer| answer.accepted().is_some()).count(),
        refused: answers.refused.clone(),
        prompt_tokens: answers.prompt_tokens,
        completion_tokens: answers.completion_tokens,
        gates: measured.gates.clone(),
        chosen: measured.chosen.clone(),
        correction: measured.correction.clone(),
        reach: read.share_of_events(&judged),
        taught: None,
    };
    let choices = out.join(CHOICES);
    if done.is_corrected() {
        let rows = worth_rows::choices(&asked, &answers, &measured.choices, interval.end)?;
        examples::replace(&choices, &[rows], &out.join(RECORD))?;
    } else if choices.exists() {
        // Those of another interval: no night is to go on with what this one does not confirm.
        disk::remove(&choices).context(Kind::Temporary, || format!("cannot remove `{}`", choices.display()))?;
    }
    if done.passed {
        let questions = lessons(spec, &asked, &answers, &measured)?;
        let learned = learned_in(interval, &prepared.learned);
        done.taught = Some(teach(spec, learned, models, questions, &out, voice, stop).await?);
    }
    let text = serde_json::to_string_pretty(&done).context(Kind::Internal, || "the record of worths".into())?;
    disk::write_whole(&out.join(RECORD), text + "\n")
        .context(Kind::Temporary, || format!("cannot write into `{}`", out.display()))?;
    done.verdict(&out)
}

/// The job's keys while its adapter, or that of a folder of `out`, is asked about items.
fn keys(spec: &Spec, out: &Path) -> Result<Vec<String>> {
    let of = &spec.worth;
    let mut keys = spec.overrides();
    if let Some(at) = keys.iter().rposition(|key| key == AS_IT_COMES) {
        keys.remove(at);
    }
    if !of.from.is_empty() {
        let from = out.join(&of.from);
        if !from.join("adapter_config.json").exists() {
            return Err(Error::new(Kind::Config, "there is no adapter to ask")
                .with("key", "worth.from")
                .with("folder", from.display())
                .hint(
                    "run `curec learn align` first, name another folder of `out`, or \"\" for the job's own adapter",
                ));
        }
        keys.push(format!("{AS_IT_COMES}{}", from.display()));
    }
    keys.extend(of.set.iter().cloned());
    Ok(keys)
}

/// Refuses an interval from which the model that answers has learned, unless the job allows it.
fn check_learned(prepared: &Prepared) -> Result<()> {
    let Prepared { job, interval, learned, .. } = prepared;
    let places = [("model.generator", learned.generator), ("model.adapter", learned.adapter)];
    let later =
        places.into_iter().filter_map(|(place, until)| Some((place, until.filter(|until| *until > interval.start)?)));
    let Some((place, until)) = later.max_by_key(|(_, until)| *until) else { return Ok(()) };
    let what = format!("{place} has learned from events after the interval's start, which are to judge what it writes");
    if job.spec.model.allow_later_training {
        tracing::warn!(learned_until = %until.to_rfc3339(), "{what}");
        return Ok(());
    }
    Err(Error::new(Kind::Config, what)
        .with("learned until", until.to_rfc3339())
        .with("interval begins", interval.start.to_rfc3339())
        .hint(
            "take an interval that begins when the learning ended, or an adapter that learned from earlier events ([worth] \
             from), or add \"model.allow_later_training=true\" to [worth] set: worths are then measured all the same",
        ))
}

/// From when until when the adapter that is taught has learned: what it goes on from may know of more than the interval.
fn learned_in(interval: Interval, begun: &Learned) -> Interval {
    let end = begun.adapter.max(begun.generator).map_or(interval.end, |until| until.max(interval.end));
    Interval { end, ..interval }
}

/// Digest of everything that a run follows from.
fn made_from(spec: &Spec, prepared: &Prepared, read: &Data) -> Result<String> {
    let mut made = Fingerprint::new("worth", 2);
    let Prepared { models, interval, job, .. } = prepared;
    made.add("interval", format!("{}/{}", interval.start.to_rfc3339(), interval.end.to_rfc3339()));
    made.add("read", read.digest()?);
    // No prompt at all: what is left of its key is model, adapter and how answers are made.
    made.add("answers", models.generator()?.fingerprint.prompt_key(&[]));
    made.add("attempts", job.spec.sampling.attempts.to_string());
    made.add("positions", models.engine_options().max_positions);
    made.add("encoder", models.encoder_files()?.digest());
    made.add_settings("worth", &spec.worth)?.add_settings("check", &job.spec.check)?;
    made.add_settings("shape", &spec.align.shape)?.add_settings("learning", &spec.align.learning)?;
    made.add("validated", spec.align.validated);
    for file in &spec.align.written {
        let bytes = std::fs::read(file).map_err(|e| {
            Error::new(Kind::Config, "cannot read the written examples")
                .with("key", "align.written")
                .with("file", file.display())
                .source(e)
        })?;
        made.add(format!("written {}", file.display()), blake3::hash(&bytes).to_hex());
    }
    Ok(made.digest())
}

/// The chosen answers as questions with what is taught, and the written examples as they stand.
fn lessons(spec: &Spec, items: &[Item], answers: &Answers, measured: &Measured) -> Result<Vec<Question>> {
    let chosen = measured.places.iter().filter_map(|place| {
        let answer = answers.all.get(*place)?;
        Some(lesson(items.get(answer.item)?, answer.text.clone()?))
    });
    let mut questions: Vec<Question> = chosen.collect();
    for file in &spec.align.written {
        questions.extend(written::read(file)?);
    }
    Ok(questions)
}

/// An item's question with the answer that is taught.
fn lesson(item: &Item, answer: String) -> Question {
    let Evidence { kind, subject, liked, disliked, related, attributes, content, praise, fault, keywords, .. } =
        item.evidence.clone();
    let prose: Vec<String> = [content, praise, fault].concat();
    let names = [liked, disliked, related, attributes, keywords].concat().into_iter();
    let facts: Vec<String> = names.chain(prose.iter().cloned()).chain(subject).collect();
    Question {
        id: item.id.clone(),
        task: kind,
        is_held_out: blake3::hash(item.id.as_bytes()).as_bytes()[0] < HELD_OUT,
        prompt: item.prompt.clone(),
        stem: item.stem.clone(),
        answer,
        evidence: facts.clone(),
        facts,
        prose,
        asked: None,
    }
}

/// Removes a file where it is there.
fn remove(file: &Path) -> Result<()> {
    match disk::remove(file) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(Error::new(Kind::Temporary, "cannot remove a file of before").with("file", file.display()).source(e))
        }
        _ => Ok(()),
    }
}

/// Removes the adapter that an earlier run has taught.
fn forget_taught(out: &Path) -> Result<()> {
    FILES.iter().try_for_each(|name| remove(&out.join(TAUGHT_BY_WORTH).join(name)))
}

/// What the adapter of [`TAUGHT_BY_WORTH`] has learned from, beside it.
#[derive(Serialize, Deserialize)]
struct LearnedFrom {
    interval_start: String,
    interval_end: String,
    /// Digest of the training: see [`training`].
    training: String,
}

/// Tells whether two trainings are one: digest of the questions and answers, of what is begun with and of the settings.
fn training(spec: &Spec, models: &Models, questions: &[Question]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for Question { prompt, stem, answer, is_held_out, .. } in questions {
        for part in [prompt, stem, answer] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        hasher.update(&[u8::from(*is_held_out)]);
    }
    let mut made = Fingerprint::new("taught by worth", 1);
    made.add("questions", hasher.finalize().to_hex()).add("model", models.generator()?.fingerprint.model_name());
    made.add_settings("shape", &spec.align.shape)?.add_settings("learning", &spec.align.learning)?;
    made.add("validated", spec.align.validated);
    Ok(made.digest())
}

/// Trains on from the adapter that was asked; until when that and this have learned, `learned` says. What an earlier run has
/// taught is gone before anything is learned.
async fn teach(
    spec: &Spec,
    learned: Interval,
    models: Arc<Models>,
    questions: Vec<Question>,
    out: &Path,
    voice: Voice,
    stop: &CancelToken,
) -> Result<Taught> {
    let adapter = out.join(TAUGHT_BY_WORTH);
    let (told, checkpoint) = (adapter.join(TAUGHT), out.join(format!("{COURSE}.safetensors")));
    forget_taught(out)?;
    let training = training(spec, &models, &questions)?;
    let before = std::fs::read(&told).ok().and_then(|bytes| serde_json::from_slice::<LearnedFrom>(&bytes).ok());
    if before.is_none_or(|before| before.training != training) {
        // A training that was killed has left its state, and no other can go on with that.
        remove(&checkpoint)?;
    }
    let (interval_start, interval_end) = (learned.start.to_rfc3339(), learned.end.to_rfc3339());
    let from = LearnedFrom { interval_start, interval_end, training };
    let from = serde_json::to_string_pretty(&from).context(Kind::Internal, || "the record of a training".into())?;
    let failed = || format!("cannot write into `{}`", adapter.display());
    // Before the adapter: a night must know until when it has learned.
    std::fs::create_dir_all(&adapter).context(Kind::Temporary, failed)?;
    disk::write_whole(&told, from + "\n").context(Kind::Temporary, failed)?;
    let (of, folder, stopped) = (spec.clone(), out.to_owned(), stop.clone());
    let work = move || {
        let begun = match models.adapter_path()? {
            Some(path) => Some(Adapter::read(path, models.generator_files()?.config())?),
            None => None,
        };
        let course = Course { begun: begun.as_ref(), adapter: TAUGHT_BY_WORTH, name: COURSE };
        align::train(&of, &models, &questions, &course, &folder, voice, &stopped)
    };
    let trained = device::guarded_blocking("training", work).await?;
    remove(&checkpoint)?;
    Ok(Taught {
        digest: Adapter::digest(&adapter)?,
        adapter,
        examples: trained.account.examples,
        best_step: trained.best_step,
        loss_before: trained.curve.first().and_then(|step| step.validation_loss),
        loss_after: trained.best_loss,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::weekly::weekly_file;
    use crate::weekly::worth_answers::tests::tiny;

    /// An adapter of the tiny model.
    const BEGUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adapters/tiny-qwen3");

    /// A record in which these conditions of the gates hold, whether the choice is worth something, and no choice for nights is
    /// confirmed.
    fn done(gates: [bool; 2], is_chosen: bool, taught: Option<&Path>) -> Done {
        let check = |what: &str, holds: bool| json!({"what": what, "value": 7.0, "holds": holds});
        let passed = gates.iter().all(|holds| *holds);
        let taught = taught.map(|adapter| json!({"adapter": adapter, "digest": "d", "examples": 1, "best_step": 1}));
        let record = json!({
            "passed": passed && is_chosen,
            "interval_start": "a", "next_block": "b", "interval_end": "c",
            "made_from": "m", "encoder": "e", "model": "l", "begun_with": "",
            "recommender": {"events": 1, "items": 1, "learning_rate": 0.1, "best_epoch": 1, "ndcg": 0.5},
            "events": [1, 1], "described": 1, "items": 1, "answers": 2, "accepted": 1, "refused": {"empty": 1},
            "prompt_tokens": 1, "completion_tokens": 1,
            "gates": {
                "passed": passed, "items": 1, "reasons": 2, "is_told_apart": true,
                "gate": [check("first >= 9", gates[0]), check("second >= 9", gates[1])],
            },
            "chosen": {"items": 1, "gate": check("choice > 0", is_chosen)},
            "correction": {
                "holds": false, "items": 1, "kept": 1, "rewritten": 0, "evidence": 0, "deals": 9, "p": 1.0,
                "gate": [check("gain > 0", false), check("by chance <= 0.05", true)],
            },
            "reach": 0.5,
            "taught": taught,
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn a_refusal_names_what_does_not_hold() {
        let told = |gates, is_chosen| {
            let error = done(gates, is_chosen, None).verdict(Path::new("work")).unwrap_err();
            assert_eq!(error.kind(), Kind::Audit);
            error.explain()
        };
        let of_gates = told([true, false], false);
        assert!(of_gates.contains("may not be a reward") && of_gates.contains("second >= 9 (found 7)"), "{of_gates}");
        // Where worths are no reward, what is chosen by them means nothing.
        assert!(
            !of_gates.contains("first") && !of_gates.contains("choice") && !of_gates.contains("gain"),
            "{of_gates}"
        );
        let of_choice = told([true, true], false);
        assert!(of_choice.contains("no more than the others") && of_choice.contains("choice > 0"), "{of_choice}");
        assert!(of_choice.contains("worth.json") && of_choice.contains("item_worth.parquet"), "{of_choice}");
        assert!(of_choice.contains("no choice was written") && of_choice.contains("gain > 0"), "{of_choice}");
        let of_correction = told([true, true], true);
        assert!(
            of_correction.contains("is not confirmed") && !of_correction.contains("no more than"),
            "{of_correction}"
        );
        assert!(
            !of_correction.contains("item_choice.parquet") && !of_correction.contains("by chance"),
            "{of_correction}"
        );
        let confirmed = |is_chosen| {
            let mut confirmed = done([true, true], is_chosen, None);
            confirmed.correction.holds = true;
            confirmed.correction.gate.iter_mut().for_each(|check| check.holds = true);
            confirmed.verdict(Path::new("work"))
        };
        assert!(confirmed(true).is_ok());
        let told = confirmed(false).unwrap_err().explain();
        assert!(told.contains("nothing was learned") && told.contains("item_choice.parquet"), "{told}");
        assert!(!told.contains("is not confirmed"), "{told}");
    }

    #[test]
    fn a_record_stands_while_all_that_it_tells_of_is_there() {
        let out = tempfile::tempdir().unwrap();
        let (refused, passed) = (done([true, false], true, None), done([true, true], true, None));
        assert!(!refused.stands(out.path()), "there is no table");
        std::fs::write(out.path().join(TABLE), "").unwrap();
        assert!(refused.stands(out.path()) && !passed.stands(out.path()), "what passed was to be taught");
        let adapter = out.path().join(TAUGHT_BY_WORTH);
        assert!(!done([true, true], true, Some(&adapter)).stands(out.path()), "the adapter is not there");
        std::fs::create_dir(&adapter).unwrap();
        FILES.iter().for_each(|name| std::fs::write(adapter.join(name), "").unwrap());
        let mut taught = done([true, true], true, Some(&adapter));
        assert!(!taught.stands(out.path()), "it is another one");
        taught.taught.as_mut().unwrap().digest = Adapter::digest(&adapter).unwrap();
        assert!(taught.stands(out.path()));
        std::fs::write(out.path().join(CHOICES), "").unwrap();
        assert!(!taught.stands(out.path()), "they are not confirmed");
        taught.correction.holds = true;
        assert!(taught.stands(out.path()));
    }

    #[test]
    fn a_lesson_is_the_question_with_the_answer_that_was_chosen() {
        let item = |id: &str| Item {
            id: id.into(),
            evidence: Evidence {
                kind: "item".into(),
                subject: Some("Heat (1995)".into()),
                praise: vec!["So tense.".into()],
                ..Evidence::default()
            },
            prompt: "why".into(),
            stem: "<think>".into(),
            prompt_key: String::new(),
            said: String::new(),
        };
        let lesson_of = |id: &str| lesson(&item(id), "a</think><reason>b</reason>".into());
        let of = lesson_of("i1");
        assert_eq!((of.task.as_str(), of.prompt.as_str(), of.stem.as_str()), ("item", "why", "<think>"));
        assert_eq!(of.answer, "a</think><reason>b</reason>");
        assert_eq!((of.facts.len(), of.prose.as_slice()), (2, &["So tense.".to_owned()][..]));
        let held_out = (0..400).filter(|n| lesson_of(&format!("i{n}")).is_held_out).count();
        assert!((20..=60).contains(&held_out), "a tenth: {held_out}");
    }

    #[test]
    fn what_was_begun_with_may_have_learned_for_longer() {
        let of = |start: &str, end: &str| Interval::parse(start, end).unwrap();
        let interval = of("2026-01-12", "2026-01-20");
        let until = |generator: Option<&str>, adapter: Option<&str>| {
            let [generator, adapter] = [generator, adapter].map(|end| end.map(|end| of("2026-01-01", end).end));
            learned_in(interval, &Learned { generator, adapter, ..Learned::default() })
        };
        assert_eq!([until(None, None), until(Some("2026-01-12"), Some("2026-01-20"))], [interval; 2]);
        let longer = of("2026-01-12", "2026-01-22");
        assert_eq!(until(Some("2026-01-21"), Some("2026-01-22")), longer);
        assert_eq!(until(Some("2026-01-22"), None), longer);
    }

    /// Teaches this as the answer to three questions, one of which is held out; begun with the adapter, or without one.
    async fn taught(adapter: &str, answer: &str, out: &Path, stop: &CancelToken) -> Result<Taught> {
        let text = "name = 'w'\njob = 'job.toml'\nout = 'work'\ndevice = 'cpu'\n\
                    [align]\nrank = 3\nalpha = 6.0\ntargets = ['q_proj', 'v_proj']\nlearning_rate = 0.01\nepochs = 3\n\
                    max_steps = 0\nbatch_tokens = 64\nmicro_batch_tokens = 256\nvalidate_every = 1\ncheckpoint_every = 1\n";
        let spec = weekly_file::parse(text, "weekly.toml", &BTreeMap::new()).unwrap().0;
        let question = |n: usize| Question {
            id: format!("i{n}"),
            task: "item".into(),
            is_held_out: n == 0,
            prompt: format!("why {n}"),
            stem: "<think>".into(),
            answer: answer.to_owned(),
            evidence: Vec::new(),
            facts: Vec::new(),
            prose: Vec::new(),
            asked: None,
        };
        let learned = Interval::parse("2026-01-12", "2026-01-20").unwrap();
        let models = tiny(&format!("adapter = '{adapter}'"));
        teach(&spec, learned, models, (0..3).map(question).collect(), out, Voice::Quiet, stop).await
    }

    /// The width of a written adapter.
    fn rank(adapter: &Path) -> usize {
        let files = tiny("").generator_files().unwrap();
        Adapter::read(adapter, files.config()).unwrap().shape.rank
    }

    #[tokio::test]
    async fn a_course_goes_on_after_a_kill_and_another_one_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let (adapter, checkpoint) = (out.join(TAUGHT_BY_WORTH), out.join(format!("{COURSE}.safetensors")));
        let (go, stop) = (CancelToken::default(), CancelToken::default());
        stop.request();
        let first = taught(BEGUN, "a crime story", out, &go).await.unwrap();
        assert_eq!((first.examples, &first.digest), (2, &Adapter::digest(&adapter).unwrap()));
        assert!(first.best_step > 0 && first.loss_after < first.loss_before, "{first:?}");
        assert_eq!(rank(&adapter), rank(Path::new(BEGUN)) + 3, "what it began with is part of it");
        let told: LearnedFrom = serde_json::from_slice(&std::fs::read(adapter.join(TAUGHT)).unwrap()).unwrap();
        assert_eq!(told.interval_end, "2026-01-20T00:00:00+00:00");
        assert!(!checkpoint.exists(), "the state goes with the end");

        // Of another choice that was cut short nothing but its state is left, and the moment until when it will have learned.
        let killed = taught(BEGUN, "a war film", out, &stop).await.unwrap_err();
        assert_eq!(killed.kind(), Kind::Interrupted);
        assert!(checkpoint.exists() && adapter.join(TAUGHT).exists());
        assert!(
            FILES.iter().all(|name| !adapter.join(name).exists()),
            "the weights of before are not what it tells of"
        );

        // A third one does not go on with that state.
        let third = taught(BEGUN, "a comedy", out, &go).await.unwrap();
        assert!(third.digest != first.digest && !checkpoint.exists());

        // The same one goes on with its own, to the same weights.
        taught(BEGUN, "a crime story", out, &stop).await.unwrap_err();
        assert!(checkpoint.exists());
        let again = taught(BEGUN, "a crime story", out, &go).await.unwrap();
        assert_eq!((again.digest.as_str(), again.best_step), (first.digest.as_str(), first.best_step));

        // Without an adapter it begins with the model as it comes.
        assert_ne!(taught("", "a crime story", out, &go).await.unwrap().digest, first.digest);
        assert_eq!(rank(&adapter), 3);

        forget_taught(out).unwrap();
        assert!(FILES.iter().all(|name| !adapter.join(name).exists()));
        forget_taught(out).unwrap();
    }
}
