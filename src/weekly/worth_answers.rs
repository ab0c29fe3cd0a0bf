//! Several answers to each item's question by the model in question, each paid for once, and what the job's checks say of them.
//!
//! An answer stands in a file under a key of all that it follows from: model, adapter, prompt, sampling and seed. What stands
//! there is asked by no run again; the model is loaded only where an answer is missing. Knows questions, the engine and the
//! checks of a night; knows nothing of worths.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::cancel::CancelToken;
use crate::config::CheckSpec;
use crate::error::{Error, Kind, Result};
use crate::generate::format;
use crate::generate::models::Models;
use crate::generate::prompt::Fingerprint;
use crate::generate::row::Request;
use crate::llm::device;
use crate::llm::sampler::Sampling;
use crate::reward::names::Vocabulary;
use crate::reward::score::{Refusal, Scored, score};
use crate::telemetry::{Progress, Voice};
use crate::weekly::asking::{self, Pending};
use crate::weekly::teacher_log::{Line, Log};
use crate::weekly::weekly_file::WorthSpec;
use crate::weekly::worth_data::Item;

/// An answer to an item's question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// The place of the item among those that were asked about.
    pub(super) item: usize,
    /// Which of its answers.
    pub(super) sample: usize,
    /// What the model wrote after the stem; none where it failed.
    pub(super) text: Option<String>,
    /// The reason in it; none where the format is broken.
    pub(super) reason: Option<String>,
    /// Why the checks refuse it; none where it is accepted.
    pub(super) refusal: Option<Refusal>,
}

impl Answer {
    /// The reason, if the checks accept it.
    pub(super) fn accepted(&self) -> Option<&str> {
        self.reason.as_deref().filter(|_| self.refusal.is_none())
    }
}

/// All answers, and what they cost over all runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answers {
    /// By item and sample.
    pub(super) all: Vec<Answer>,
    /// Tokens of the questions.
    pub(super) prompt_tokens: u64,
    /// And of the answers.
    pub(super) completion_tokens: u64,
}

impl Answers {
    /// Refused answers by why.
    pub(super) fn refused(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for refusal in self.all.iter().filter_map(|answer| answer.refusal) {
            *found.entry(refusal.as_str().to_owned()).or_default() += 1;
        }
        found
    }
}

/// The answers to the questions of `items`. Those that are not in `file` are asked for and appended to it.
///
/// # Errors
/// `Kind::Temporary` where the device fails or the file cannot be written, `Kind::Interrupted` after a signal: what was
/// answered is kept.
pub(super) async fn ask(
    models: &Arc<Models>,
    items: &Arc<Vec<Item>>,
    of: &WorthSpec,
    file: &Path,
    voice: Voice,
    stop: &CancelToken,
) -> Result<Vec<Line>> {
    let mut log = Log::open(file)?;
    let (with, about, spec) = (models.clone(), items.clone(), of.clone());
    let planned = device::guarded_blocking("reading the model", move || plan(&with, &about, &spec));
    let mut pending = stop.or(planned).await?;
    let keys: Vec<String> = pending.iter().map(|one| one.key.clone()).collect();
    // Of two questions in the same words one is asked.
    let mut new = HashSet::new();
    pending.retain(|one| !log.holds(&one.key) && new.insert(one.key.clone()));
    if !pending.is_empty() {
        tracing::info!(items = items.len(), answers = keys.len(), pending = pending.len(), "asking about items");
        let with = models.clone();
        let engine = device::guarded_blocking("loading the model", move || with.engine()).await?;
        stop.check()?;
        let progress = Progress::begin(voice, "answer", pending.len() as u64, "tokens");
        let outcome = asking::ask(&engine, pending, &mut log, &progress, stop).await;
        progress.finish();
        drop(engine);
        let with = models.clone();
        device::guarded_blocking("leaving the model", move || {
            with.stop_engine();
            Ok(())
        })
        .await?;
        outcome?;
    }
    let line = |key: &String| {
        let found = log.line(key).cloned();
        found.ok_or_else(|| Error::new(Kind::Internal, "an answer that was asked for is missing"))
    };
    keys.iter().map(line).collect()
}

/// Every answer as it is asked for, by item and sample.
fn plan(models: &Models, items: &[Item], of: &WorthSpec) -> Result<Vec<Pending>> {
    let of_model = &models.generator()?.fingerprint;
    let mut pending = Vec::with_capacity(items.len() * of.samples);
    for item in items {
        let request = models.request(0, &item.prompt, &item.stem)?;
        for sample in 0..of.samples {
            let follows_from = fingerprint(of_model, sample, of);
            let key = follows_from.prompt_key(&request.prompt);
            let (sampling, seed) = (follows_from.sampling, follows_from.row_seed(&key));
            let request = Request { sampling, seed, ..request.clone() };
            pending.push(Pending { key, example_id: item.id.clone(), sample, request, tag: None });
        }
    }
    Ok(pending)
}

/// Everything that an answer follows from besides its prompt.
fn fingerprint(of_model: &Fingerprint, sample: usize, of: &WorthSpec) -> Fingerprint {
    let mut seed = [0; 8];
    let digest = blake3::hash(format!("{} {sample}", of.seed).as_bytes());
    seed.copy_from_slice(&digest.as_bytes()[..8]);
    Fingerprint {
        sampling: Sampling { temperature: of.temperature, top_p: of.top_p, ..of_model.sampling },
        seed: u64::from_le_bytes(seed),
        ..of_model.clone()
    }
}

/// Lines, `samples` of each item, as answers that the checks have looked at.
pub(super) fn checked(
    items: &[Item],
    lines: &[Line],
    samples: usize,
    check: &CheckSpec,
    vocabulary: &Vocabulary,
) -> Answers {
    let mut found = Answers::default();
    let mut paid = HashSet::new();
    for (place, (item, lines)) in items.iter().zip(lines.chunks(samples.max(1))).enumerate() {
        for (sample, line) in lines.iter().enumerate() {
            if paid.insert(line.question.as_str()) {
                found.prompt_tokens += line.prompt_tokens;
                found.completion_tokens += line.completion_tokens;
            }
            let reason = line.answer_text.as_deref().and_then(|text| format::reason_text(&item.stem, text));
            let row = Scored {
                reason: reason.as_deref(),
                error: (line.answer_text.is_some() && reason.is_none()).then_some("bad_format"),
                finish: line.finish.as_deref(),
                logprob_sum: line.logprob_sum,
                completion_tokens: i64::try_from(line.completion_tokens).unwrap_or(i64::MAX),
                ..Scored::from_evidence(&item.evidence)
            };
            let refusal = score(&row, check, vocabulary).refusal;
            found.all.push(Answer { item: place, sample, text: line.answer_text.clone(), reason, refusal });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::generate::prompt::Evidence;
    use crate::weekly::weekly_file;

    fn spec() -> WorthSpec {
        let text = "name = 'w'\njob = 'job.toml'\nout = 'work'\n";
        weekly_file::parse(text, "weekly.toml", &BTreeMap::new()).unwrap().0.worth
    }

    #[test]
    fn an_answer_follows_from_its_question_its_model_its_number_and_its_sampling() {
        let of = |model: &str| Fingerprint {
            model: model.into(),
            adapter: String::new(),
            sampling: Sampling { repetition_penalty: 1.5, ..Sampling::default() },
            max_new_tokens: 1,
            stop: Vec::new(),
            ends: Vec::new(),
            seed: 9,
        };
        let key = |model: &str, sample, spec: &WorthSpec, prompt: &[u32]| {
            let made = fingerprint(&of(model), sample, spec);
            assert_eq!((made.sampling.repetition_penalty, made.sampling.temperature), (1.5, spec.temperature));
            made.prompt_key(prompt)
        };
        let plain = spec();
        let first = key("m", 0, &plain, &[1]);
        let others = [
            key("m", 1, &plain, &[1]),
            key("n", 0, &plain, &[1]),
            key("m", 0, &plain, &[2]),
            key("m", 0, &WorthSpec { seed: 1, ..plain.clone() }, &[1]),
            key("m", 0, &WorthSpec { temperature: 0.5, ..plain.clone() }, &[1]),
        ];
        let different: HashSet<&String> = others.iter().chain([&first]).collect();
        assert_eq!(different.len(), others.len() + 1);
        // What is done with answers changes none.
        assert_eq!(first, key("m", 0, &WorthSpec { samples: 3, folds: 2, ..plain.clone() }, &[1]));
    }

    #[test]
    fn answers_are_held_against_the_checks_and_tokens_count_once() {
        let item = |id: &str| Item {
            id: id.into(),
            evidence: Evidence {
                kind: "item".into(),
                subject: Some("Heat (1995)".into()),
                verdict: "like".into(),
                attributes: vec!["Crime".into()],
                ..Evidence::default()
            },
            prompt: "why".into(),
            stem: "<think>".into(),
            said: "Heat (1995) Crime".into(),
        };
        let line = |key: &str, text: Option<&str>| Line {
            question: key.into(),
            example_id: String::new(),
            sample: 0,
            answer_text: text.map(str::to_owned),
            finish: Some("stop".into()),
            logprob_sum: Some(-1.0),
            prompt_tokens: 10,
            completion_tokens: 5,
            micros: 0,
        };
        let check = CheckSpec {
            min_mean_logprob: -2.0,
            min_grounding: 1.0,
            max_repetition: 0.2,
            min_words: 4,
            max_words: 30,
            min_language: 0.2,
            language: "en".into(),
            require_finished: true,
            min_concrete: 1,
            max_copied_words: 8,
        };
        let good = "crime</think><reason>People like Heat because it is a crime story.</reason>";
        let wrong = "crime</think><reason>People like Heat because of Titanic.</reason>";
        let lines = [line("a", Some(good)), line("b", Some("crime")), line("a", Some(good)), line("c", Some(wrong))];
        let found = checked(&[item("i"), item("j")], &lines, 2, &check, &Vocabulary::new(["Crime"]));
        let places: Vec<(usize, usize)> = found.all.iter().map(|answer| (answer.item, answer.sample)).collect();
        assert_eq!(places, [(0, 0), (0, 1), (1, 0), (1, 1)]);
        let accepted: Vec<Option<&str>> = found.all.iter().map(Answer::accepted).collect();
        let reason = Some("People like Heat because it is a crime story.");
        assert_eq!(accepted, [reason, None, reason, None]);
        assert_eq!(found.refused(), BTreeMap::from([("bad_format".into(), 1), ("ungrounded".into(), 1)]));
        assert_eq!((found.prompt_tokens, found.completion_tokens), (30, 15));
        let failed = checked(&[item("i")], &[line("d", None)], 1, &check, &Vocabulary::new(["Crime"]));
        assert_eq!(failed.all[0].refusal, Some(Refusal::Error));
    }
}
