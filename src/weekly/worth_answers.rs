//! Several answers to the question about each item, or each user's history, by the model in question and, beside them, the one that a
//! night would publish; each paid for once, and what the job's checks say of them.
//!
//! An answer stands in a file under a key of all that it follows from: model, adapter, prompt, sampling, seed and the positions
//! that question and answer must fit into. What stands there is asked by no run again; the model is loaded only where an answer
//! is missing. Knows questions, the engine and the checks of a night; knows nothing of worths.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::cancel::CancelToken;
use crate::config::CheckSpec;
use crate::error::{Error, Kind, Result};
use crate::generate::format;
use crate::generate::models::Models;
use crate::generate::prompt::Fingerprint;
use crate::generate::row::{Finish, Request};
use crate::llm::device;
use crate::llm::sampler::Sampling;
use crate::reward::names::Vocabulary;
use crate::reward::score::{Refusal, Scored, score};
use crate::telemetry::{Progress, Voice};
use crate::weekly::asking::{self, Pending};
use crate::weekly::teacher_log::{Line, Log};
use crate::weekly::weekly_file::WorthSpec;
use crate::weekly::worth_data::Item;
use crate::worth::whose::Whose;

/// An answer to the question about an item, or a user's history.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// The place of the item, or user, among those that were asked about.
    pub(super) item: usize,
    /// Which of its answers.
    pub(super) sample: usize,
    /// What the model wrote after the stem; none where it failed.
    pub(super) text: Option<String>,
    /// The reason in it; none where the format is broken.
    pub(super) reason: Option<String>,
    /// Why the checks refuse it; none where it is accepted.
    pub(super) refusal: Option<Refusal>,
    /// How it ended, as in the table `response`.
    pub(super) finish: Option<String>,
    /// Sum of natural-log likelihoods of its tokens.
    pub(super) logprob_sum: Option<f64>,
    /// Its tokens.
    pub(super) completion_tokens: i64,
}

impl Answer {
    /// The reason, if the checks accept it.
    pub(super) fn accepted(&self) -> Option<&str> {
        self.reason.as_deref().filter(|_| self.refusal.is_none())
    }

    /// Whether the model ended it; else it was cut.
    pub(super) fn is_finished(&self) -> bool {
        self.finish.as_deref() == Some(Finish::Stop.name())
    }
}

/// All answers, and what they cost over all runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answers {
    /// By item, or user, and sample.
    pub(super) all: Vec<Answer>,
    /// Of each item, what a night publishes; none where the checks refuse it, and the night has the evidence, and none where a
    /// night was not to be asked.
    pub(super) nights: Vec<Option<Answer>>,
    /// Tokens of the questions.
    pub(super) prompt_tokens: u64,
    /// And of the answers.
    pub(super) completion_tokens: u64,
    /// Refused answers by why.
    pub(super) refused: BTreeMap<String, usize>,
}

/// What is asked, and what answers are held against.
pub(super) struct Asking<'a> {
    pub(super) models: &'a Arc<Models>,
    /// What the items are.
    pub(super) whose: Whose,
    pub(super) items: &'a Arc<Vec<Item>>,
    pub(super) of: &'a WorthSpec,
    /// How often a night asks at most; 0: what it publishes is not asked for.
    pub(super) attempts: u32,
    pub(super) check: &'a CheckSpec,
    pub(super) vocabulary: &'a Vocabulary,
}

impl Asking<'_> {
    /// The answers to all questions. Those that are not in `file` are asked for and appended to it.
    ///
    /// # Errors
    /// `Kind::Temporary` where the device fails or the file cannot be written, `Kind::Interrupted` after a signal: what was
    /// answered is kept.
    pub(super) async fn answers(&self, file: &Path, voice: Voice, stop: &CancelToken) -> Result<Answers> {
        let mut log = Log::open(file)?;
        let answers = self.asked(&mut log, voice, stop).await;
        let with = self.models.clone();
        device::guarded_blocking("leaving the model", move || {
            with.stop_engine();
            Ok(())
        })
        .await?;
        answers
    }

    async fn asked(&self, log: &mut Log, voice: Voice, stop: &CancelToken) -> Result<Answers> {
        let (with, about, spec) = (self.models.clone(), self.items.clone(), self.of.clone());
        let planned = device::guarded_blocking("reading the model", move || plan(&with, &about, &spec));
        let lines = self.lines(stop.or(planned).await?, log, voice, stop).await?;
        let mut answers = checked(self.items, &lines, self.of.samples, self.check, self.vocabulary);
        let mut paid = HashSet::new();
        for attempt in 1..=self.attempts {
            let is_open = |place: &usize| answers.nights.get(*place).is_some_and(Option::is_none);
            let open: Vec<usize> = (0..self.items.len()).filter(is_open).collect();
            let (with, about, places) = (self.models.clone(), self.items.clone(), open.clone());
            let planned =
                device::guarded_blocking("reading the model", move || plan_of_a_night(&with, &about, &places, attempt));
            let lines = self.lines(stop.or(planned).await?, log, voice, stop).await?;
            for (place, line) in open.into_iter().zip(&lines) {
                if paid.insert(line.question.clone()) {
                    answers.prompt_tokens += line.prompt_tokens;
                    answers.completion_tokens += line.completion_tokens;
                }
                let Some(item) = self.items.get(place) else { continue };
                let answer = looked_at(place, 0, item, line, self.check, self.vocabulary);
                if let (Some(slot), Some(_)) = (answers.nights.get_mut(place), answer.accepted()) {
                    *slot = Some(answer);
                }
            }
        }
        Ok(answers)
    }

    /// The lines of the answers, in their order; those that do not stand in the file yet are asked for.
    async fn lines(
        &self,
        mut pending: Vec<Pending>,
        log: &mut Log,
        voice: Voice,
        stop: &CancelToken,
    ) -> Result<Vec<Line>> {
        let keys: Vec<String> = pending.iter().map(|one| one.key.clone()).collect();
        // Of two questions in the same words one is asked.
        let mut new = HashSet::new();
        pending.retain(|one| !log.holds(&one.key) && new.insert(one.key.clone()));
        if !pending.is_empty() {
            let (answers, waiting) = (keys.len(), pending.len());
            match (self.whose, self.items.len()) {
                (Whose::Items, items) => tracing::info!(items, answers, pending = waiting, "asking about items"),
                (Whose::Histories, users) => {
                    tracing::info!(users, answers, pending = waiting, "asking about histories")
                }
            }
            let with = self.models.clone();
            let engine = device::guarded_blocking("loading the model", move || with.engine()).await?;
            stop.check()?;
            let progress = Progress::begin(voice, "answer", pending.len() as u64, "questions", "tokens");
            let outcome = asking::ask(&engine, pending, log, &progress, stop).await;
            progress.finish();
            outcome?;
        }
        let line = |key: &String| {
            let found = log.line(key).cloned();
            found.ok_or_else(|| Error::new(Kind::Internal, "an answer that was asked for is missing"))
        };
        keys.iter().map(line).collect()
    }
}

/// Every answer as it is asked for, by item, or user, and sample.
fn plan(models: &Models, items: &[Item], of: &WorthSpec) -> Result<Vec<Pending>> {
    let (of_model, positions) = (&models.generator()?.fingerprint, models.engine_options().max_positions);
    let mut pending = Vec::with_capacity(items.len() * of.samples);
    for item in items {
        let request = models.request(0, &item.prompt, &item.stem)?;
        for sample in 0..of.samples {
            let follows_from = fingerprint(of_model, sample, of);
            let key = follows_from.prompt_key(&request.prompt);
            let (sampling, seed) = (follows_from.sampling, follows_from.row_seed(&key));
            let request = Request { sampling, seed, ..request.clone() };
            // What was too long, or was cut, is not so where there is more room.
            let key = format!("{key}/{positions}");
            pending.push(Pending { key, example_id: item.id.clone(), sample, request, tag: None });
        }
    }
    Ok(pending)
}

/// The answers of a night's attempt at the items of these places.
fn plan_of_a_night(models: &Models, items: &[Item], places: &[usize], attempt: u32) -> Result<Vec<Pending>> {
    let (of_model, positions) = (&models.generator()?.fingerprint, models.engine_options().max_positions);
    let of_item = |item: &Item| -> Result<Pending> {
        let request = models.request_again(0, &item.prompt, &item.stem, attempt)?;
        let key = of_model.prompt_key(&request.prompt);
        let key = if attempt > 1 { format!("{key}/{attempt}/{positions}") } else { format!("{key}/{positions}") };
        Ok(Pending { key, example_id: item.id.clone(), sample: 0, request, tag: None })
    };
    places.iter().filter_map(|place| items.get(*place)).map(of_item).collect()
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

/// Lines, `samples` of each item, as answers that the checks have looked at. What nights publish is not among them.
pub(super) fn checked(
    items: &[Item],
    lines: &[Line],
    samples: usize,
    check: &CheckSpec,
    vocabulary: &Vocabulary,
) -> Answers {
    let mut found = Answers { nights: vec![None; items.len()], ..Answers::default() };
    let mut paid = HashSet::new();
    for (place, (item, lines)) in items.iter().zip(lines.chunks(samples.max(1))).enumerate() {
        for (sample, line) in lines.iter().enumerate() {
            if paid.insert(line.question.as_str()) {
                found.prompt_tokens += line.prompt_tokens;
                found.completion_tokens += line.completion_tokens;
            }
            let answer = looked_at(place, sample, item, line, check, vocabulary);
            if let Some(why) = answer.refusal {
                *found.refused.entry(why.as_str().to_owned()).or_default() += 1;
            }
            found.all.push(answer);
        }
    }
    found
}

/// A line as an answer that the checks have looked at.
fn looked_at(
    place: usize,
    sample: usize,
    item: &Item,
    line: &Line,
    check: &CheckSpec,
    vocabulary: &Vocabulary,
) -> Answer {
    let reason = line.answer_text.as_deref().and_then(|text| format::reason_text(&item.stem, text));
    let completion_tokens = i64::try_from(line.completion_tokens).unwrap_or(i64::MAX);
    let row = Scored {
        reason: reason.as_deref(),
        error: (line.answer_text.is_some() && reason.is_none()).then_some("bad_format"),
        finish: line.finish.as_deref(),
        logprob_sum: line.logprob_sum,
        completion_tokens,
        ..Scored::from_evidence(&item.evidence)
    };
    let refusal = score(&row, check, vocabulary).refusal;
    let (text, finish, logprob_sum) = (line.answer_text.clone(), line.finish.clone(), line.logprob_sum);
    Answer { item: place, sample, text, reason, refusal, finish, logprob_sum, completion_tokens }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Job;
    use crate::generate::prompt::Evidence;
    use crate::weekly::weekly_file;

    /// The tiny models; `more` are keys of `[model]`.
    pub(crate) fn tiny(more: &str) -> Arc<Models> {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");
        let text = format!(
            "name = 'n'\n[input]\ninteraction = 'a'\nitem = 'b'\n\
             [model]\ngenerator = '{models}/tiny-qwen3'\nencoder = '{models}/tiny-bert'\n{more}\n"
        );
        Models::new(&Job::parse(&text, "job.toml", &[], &BTreeMap::new()).unwrap()).unwrap()
    }

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
            form: String::new(),
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
    fn where_there_is_more_room_answers_are_others() {
        let item = Item {
            id: "i".into(),
            evidence: Evidence::default(),
            prompt: "why".into(),
            stem: "<think>".into(),
            prompt_key: String::new(),
            said: "i".into(),
        };
        let planned = |positions: usize| {
            let (models, items) = (tiny(&format!("max_positions = {positions}")), std::slice::from_ref(&item));
            let mut all = plan(&models, items, &spec()).unwrap();
            all.extend([1, 2].map(|attempt| plan_of_a_night(&models, items, &[0], attempt).unwrap().remove(0)));
            all.into_iter().map(|one| (one.key, one.request.seed)).unzip::<_, _, Vec<_>, Vec<_>>()
        };
        let (few, many) = (planned(200), planned(256));
        assert!(few.0.iter().all(|key| !many.0.contains(key)), "{few:?}");
        assert_eq!(few.1, many.1, "the same words, where both have room");
        assert_eq!(few, planned(200));
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
            prompt_key: String::new(),
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
        assert_eq!(found.refused, BTreeMap::from([("bad_format".into(), 1), ("ungrounded".into(), 1)]));
        assert_eq!((found.prompt_tokens, found.completion_tokens), (30, 15));
        assert_eq!((found.nights.as_slice(), found.all[0].completion_tokens), (&[None, None][..], 5));
        assert!(found.all.iter().all(Answer::is_finished));
        let cut = Line { finish: Some("length".into()), ..line("e", Some(good)) };
        assert!(!checked(&[item("i")], &[cut], 1, &check, &Vocabulary::new(["Crime"])).all[0].is_finished());
        let failed = checked(&[item("i")], &[line("d", None)], 1, &check, &Vocabulary::new(["Crime"]));
        assert_eq!(failed.all[0].refusal, Some(Refusal::Error));
    }
}
