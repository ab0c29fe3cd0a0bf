//! `curec learn worth`: what reasons of items, or of users' histories, are worth to a recommender that knows what they describe by
//! them alone, whether that may be a reward, and where it may, an adapter that has learned the best of several answers.
//!
//! Learned from and shown is what was before the interval; what users took in it is the reward. Half of the users choose an
//! item's best answer (half of the items a user's), the other half say whether the choice is worth anything. Only then something is
//! taught, by the supervised path of `learn align`. Of items the halves say as well what is to stand in the place of the reasons
//! that nights publish; where that is confirmed it is written, and a night may read it. Nothing is published, and no night is needed.
//!
//! Knows jobs, folders and the order of the steps; what is read is in [`crate::weekly::worth_data`], what is asked in
//! [`crate::weekly::worth_answers`], what is measured in [`crate::weekly::worth_fit`], what must hold in
//! [`crate::worth::gates`] and [`crate::worth::correction`], what is written in
//! [`crate::weekly::worth_rows`], and how it is taught in [`crate::weekly::worth_teach`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cancel::CancelToken;
use crate::config::{Interval, Job};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::llm::adapter::Adapter;
use crate::llm::device;
use crate::night::learned::Learned;
use crate::night::prepare::{Prepared, prepare};
use crate::registry::card::Check;
use crate::telemetry::Voice;
use crate::weekly::examples;
use crate::weekly::weekly_file::Spec;
use crate::weekly::worth_answers::Asking;
use crate::weekly::worth_data::{Data, Item, data};
use crate::weekly::worth_fit::Work;
use crate::weekly::worth_rows;
use crate::weekly::worth_teach::{Lessons, Taught, forget_taught, lessons, remove, teach};
use crate::worth::choice::Chosen;
use crate::worth::correction::Correction;
use crate::worth::gates::Gates;
use crate::worth::recommender::{DRAWN, Recommender};
use crate::worth::whose::{Count, Whose};

/// What is to stand in the place of items' reasons, in `out`: rows of `item_choice`, which a nightly job may name.
pub const CHOICES: &str = "item_choice.parquet";
/// Answers as they come, in `out`.
const ANSWERS: &str = "worth_answers.jsonl";
/// Among the keys of a job that learns: no adapter, whatever the job's own is.
const AS_IT_COMES: &str = "model.adapter=";

/// A finished run: the record [`Whose::record`].
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
    /// Items that have evidence; or users who have, of those who are learned from and asked about.
    pub described: usize,
    /// Items, or users, that were asked about.
    #[serde(flatten)]
    pub asked: Count,
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
    /// What the best of an item's answers, or a user's, are worth to the half that did not choose.
    pub chosen: Chosen,
    /// Whether choices for the items' reasons are confirmed; they are written where the gates hold as well. Of items alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<Correction>,
    /// The share of the interval's events whose item was judged, so that it could have had another text. Of items alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<f64>,
    /// None where nothing was.
    pub taught: Option<Taught>,
}

impl Done {
    /// Whether choices for the items' reasons were written.
    pub fn is_corrected(&self) -> bool {
        self.gates.passed && self.correction.as_ref().is_some_and(|correction| correction.holds)
    }

    /// The conditions that do not hold; whether the choices are worth something is asked where the gates hold.
    fn failing(&self) -> Vec<&Check> {
        let failing: Vec<&Check> = self.gates.gate.iter().filter(|check| !check.holds).collect();
        let corrections = self.correction.iter().flat_map(|correction| &correction.gate);
        let choices = std::iter::once(&self.chosen.gate).chain(corrections);
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
        let is_confirmed = self.correction.as_ref().is_none_or(|correction| correction.holds);
        let whose = self.asked.whose();
        let what = match (self.gates.passed, self.chosen.gate.holds, is_confirmed) {
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
            .with("record", out.join(whose.record()).display())
            .with("reasons", out.join(whose.table()).display());
        if let Some(taught) = &self.taught {
            error = error.with("adapter", taught.adapter.display());
        }
        if self.is_corrected() {
            error = error.with("choices", out.join(CHOICES).display());
        }
        let described = whose.described();
        let hint = format!("a longer interval, more {described}, more samples or a higher temperature may tell more");
        Err(error.hint(hint))
    }

    /// Whether what this tells of is still there.
    fn stands(&self, out: &Path) -> bool {
        let is_taught = |taught: &Taught| Adapter::digest(&taught.adapter).is_ok_and(|digest| digest == taught.digest);
        let whose = self.asked.whose();
        out.join(whose.table()).exists()
            && (whose != Whose::Items || out.join(CHOICES).exists() == self.is_corrected())
            && self.taught.as_ref().map_or(!self.passed, is_taught)
    }
}

/// Measures what reasons are worth and, where that may be a reward, teaches the best of several answers; of items it says what is to
/// stand in the place of the reasons that nights publish. Record, table and choices go to `out`, what is taught to
/// [`Whose::taught`] there; choices of before that are not confirmed again are removed. A run makes the evidence anew; where it
/// then finds its own record, made from the same, it asks and measures nothing and repeats what the record says.
///
/// # Errors
/// `Kind::Config` where there is no adapter to ask, or it has learned from the interval; `Kind::NotArrived` and `Kind::Input` where
/// there is nothing to measure by; `Kind::Audit` where a gate does not hold, after record and table were written;
/// `Kind::Interrupted` after a signal, with all answers kept; what inputs, models and the disk say.
pub async fn worth(spec: &Spec, whose: Whose, interval: Interval, voice: Voice, stop: &CancelToken) -> Result<Done> {
    let out = spec.folder()?;
    let record = out.join(whose.record());
    let job = Job::load(&spec.job, &keys(spec, whose, &out)?)?;
    let prepared = prepare(&job, interval).await?;
    check_learned(whose, &prepared)?;
    let read = Arc::new(stop.or(data(&prepared, &spec.worth, whose)).await?);
    let made_from = made_from(spec, whose, &prepared, &read)?;
    let before = std::fs::read(&record).ok().and_then(|bytes| serde_json::from_slice::<Done>(&bytes).ok());
    if let Some(done) = before.filter(|done| done.made_from == made_from && done.stands(&out)) {
        tracing::info!(record = %record.display(), "nothing has changed: the record stands");
        return done.verdict(&out);
    }
    stop.check()?;

    let models = prepared.models.clone();
    let (most, attempts) = match whose {
        Whose::Items => (spec.worth.most_items, u32::try_from(job.spec.sampling.attempts).unwrap_or(u32::MAX)),
        // Nothing is to stand in the place of what nights publish of histories.
        Whose::Histories => (spec.worth.most_users, 0),
    };
    let asked = read.asked(most).into_iter().filter_map(|place| read.items.get(place).cloned());
    let asked: Arc<Vec<Item>> = Arc::new(asked.collect());
    let asking = Asking {
        models: &models,
        whose,
        items: &asked,
        of: &spec.worth,
        attempts,
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
    // A record that is cut short here must not leave an adapter or choices of which it tells nothing.
    forget_taught(whose, &out)?;
    let choices = out.join(CHOICES);
    if whose == Whose::Items {
        remove(&choices)?;
    }
    examples::replace(&out.join(whose.table()), &[worth_rows::worths(whose, &asked, &answers, &measured)?], &record)?;
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
        asked: whose.count(asked.len()),
        answers: answers.all.len(),
        accepted: answers.all.iter().filter(|answer| answer.accepted().is_some()).count(),
        refused: answers.refused.clone(),
        prompt_tokens: answers.prompt_tokens,
        completion_tokens: answers.completion_tokens,
        gates: measured.gates.clone(),
        chosen: measured.chosen.clone(),
        correction: measured.correction.clone(),
        reach: (whose == Whose::Items).then(|| read.share_of_events(&judged)),
        taught: None,
    };
    if done.is_corrected() {
        let rows = worth_rows::choices(&asked, &answers, &measured.choices, interval.end)?;
        examples::replace(&choices, &[rows], &record)?;
    }
    if done.passed {
        let questions = lessons(spec, &asked, &answers, &measured)?;
        let learned = learned_in(interval, &prepared.learned);
        let lessons = Lessons { whose, learned, questions };
        done.taught = Some(teach(spec, lessons, models, &out, voice, stop).await?);
    }
    let text = serde_json::to_string_pretty(&done).context(Kind::Internal, || "the record of worths".into())?;
    disk::write_whole(&record, text + "\n")
        .context(Kind::Temporary, || format!("cannot write into `{}`", out.display()))?;
    done.verdict(&out)
}

/// The job's keys while its adapter, or that of a folder of `out`, is asked about items, or histories.
fn keys(spec: &Spec, whose: Whose, out: &Path) -> Result<Vec<String>> {
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
    // What this is to replace says nothing of what the model writes.
    keys.push("correct.item_choices=".to_owned());
    let questions = if whose == Whose::Items { &of.set } else { &of.history_set };
    keys.extend(questions.iter().cloned());
    Ok(keys)
}

/// Refuses an interval from which the model that answers has learned, unless the job allows it.
fn check_learned(whose: Whose, prepared: &Prepared) -> Result<()> {
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
        .hint(format!(
            "take an interval that begins when the learning ended, or an adapter that learned from earlier events ([worth] \
             from), or add \"model.allow_later_training=true\" to [worth] {}: worths are then measured all the same",
            if whose == Whose::Items { "set" } else { "history_set" }
        )))
}

/// From when until when the adapter that is taught has learned: what it goes on from may know of more than the interval.
fn learned_in(interval: Interval, begun: &Learned) -> Interval {
    let end = begun.adapter.max(begun.generator).map_or(interval.end, |until| until.max(interval.end));
    Interval { end, ..interval }
}

/// Digest of everything that a run follows from.
fn made_from(spec: &Spec, whose: Whose, prepared: &Prepared, read: &Data) -> Result<String> {
    let mut made = Fingerprint::new("worth", 3);
    if whose == Whose::Histories {
        made.add("of", whose).add("most users", spec.worth.most_users).add("learned from", spec.worth.max_users);
    }
    let Prepared { models, interval, job, .. } = prepared;
    made.add("interval", format!("{}/{}", interval.start.to_rfc3339(), interval.end.to_rfc3339()));
    made.add("read", read.digest()?).add("drawn", DRAWN);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::llm::adapter::FILES;
    use crate::worth::whose::TAUGHT_BY_WORTH;

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
            let correction = confirmed.correction.as_mut().unwrap();
            correction.holds = true;
            correction.gate.iter_mut().for_each(|check| check.holds = true);
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
        std::fs::write(out.path().join("item_worth.parquet"), "").unwrap();
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
        taught.correction.as_mut().unwrap().holds = true;
        assert!(taught.stands(out.path()));
    }

    /// The same of histories, for which nothing is corrected.
    fn done_of_histories(gates: [bool; 2], is_chosen: bool) -> Done {
        let mut done = done(gates, is_chosen, None);
        done.asked = Count::Users(1);
        (done.correction, done.reach) = (None, None);
        done
    }

    #[test]
    fn a_record_of_histories_tells_of_users_and_corrects_nothing() {
        let record = serde_json::to_value(done_of_histories([true, false], false)).unwrap();
        assert_eq!(record["users"], 1, "{record:#}");
        assert!(["items", "correction", "reach"].iter().all(|key| record.get(key).is_none()), "{record:#}");
        let read: Done = serde_json::from_value(record).unwrap();
        assert_eq!(read.asked.whose(), Whose::Histories);
        let of_items = serde_json::to_value(done([true, false], false, None)).unwrap();
        assert_eq!((&of_items["items"], &of_items["reach"]), (&json!(1), &json!(0.5)), "{of_items:#}");

        let told = |done: Done| done.verdict(Path::new("work")).unwrap_err().explain();
        let of_gates = told(read);
        assert!(of_gates.contains("may not be a reward, and nothing was learned"), "{of_gates}");
        assert!(of_gates.contains("second >= 9 (found 7)") && of_gates.contains("more users"), "{of_gates}");
        assert!(of_gates.contains("history_worth.json") && of_gates.contains("history_worth.parquet"), "{of_gates}");
        let of_choice = told(done_of_histories([true, true], false));
        assert!(of_choice.contains("no more than the others") && !of_choice.contains("no choice"), "{of_choice}");
        assert!(done_of_histories([true, true], true).verdict(Path::new("work")).is_ok());
    }

    #[test]
    fn a_record_of_histories_does_not_look_at_choices_for_items() {
        let out = tempfile::tempdir().unwrap();
        let refused = done_of_histories([true, false], true);
        std::fs::write(out.path().join(CHOICES), "").unwrap();
        std::fs::write(out.path().join("item_worth.parquet"), "").unwrap();
        assert!(!refused.stands(out.path()), "the table is that of items");
        std::fs::write(out.path().join("history_worth.parquet"), "").unwrap();
        assert!(refused.stands(out.path()));
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
}
