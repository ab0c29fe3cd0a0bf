//! A teacher that curec itself runs: a model of this machine, or one that is fetched to it, asked every question with the job's
//! device and slots.
//!
//! Knows the model, the sampling of several answers to a question, and which of them there are; leaves asking to
//! [`crate::weekly::asking`]. The first answer of a question is greedy, the others are sampled with a seed of the example's id
//! and the answer's number: what a question is answered depends on nothing that is asked beside it. The model is loaded only
//! where an answer is missing, and is gone from memory when its last answer is there. Which answer is taught is decided in
//! [`crate::weekly::teacher`].

use std::collections::HashSet;
use std::path::Path;

use crate::cancel::CancelToken;
use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::generate::device_thread::EngineOptions;
use crate::generate::engine::Engine;
use crate::generate::models::Models;
use crate::generate::prompt::Fingerprint;
use crate::generate::row::Request;
use crate::llm::device;
use crate::llm::sampler::Sampling;
use crate::telemetry::{Progress, Voice};
use crate::weekly::asking::{self, Pending};
use crate::weekly::teacher::{Answers, Asked};
use crate::weekly::teacher_log::Log;

/// Tokens of question and answer that a teacher reads whatever the job allows its own, shorter, questions.
const POSITIONS: usize = 2048;
/// Sampled answers keep to the likeliest tokens of this probability.
const TOP_P: f32 = 0.95;

/// How a question is answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Manner {
    /// Answers to a question.
    pub samples: usize,
    /// Of all but the first, which is greedy.
    pub temperature: f32,
    /// Most tokens of an answer.
    pub max_tokens: usize,
}

/// Everything that is to be asked.
struct Plan {
    /// `example_id` and key of each answer, in the order of questions and samples.
    keys: Vec<(String, String)>,
    pending: Vec<Pending>,
    /// Tokens of the longest question with its answer, and how many the model reads.
    longest: usize,
    positions: usize,
}

/// The answers of the model that is the generator of `job`; those that are not in `file` are asked for and appended to it.
///
/// # Errors
/// `Kind::Model` where there is no such model; `Kind::Config` where it answers nothing; `Kind::Temporary` where the device
/// fails, `Kind::Interrupted` after a signal: what was answered is kept.
pub async fn ask(
    job: &Job,
    questions: &[Asked],
    manner: Manner,
    file: &Path,
    voice: Voice,
    stop: &CancelToken,
) -> Result<Answers> {
    let of_teacher = |e: Error| e.with("key", "align.teacher");
    let models = Models::new(job).map_err(of_teacher)?;
    stop.or(models.fetch()).await.map_err(of_teacher)?;
    let mut log = Log::open(file)?;
    let (of, asked) = (models.clone(), questions.to_vec());
    let planned = device::guarded_blocking("reading the teacher", move || plan(&of, &asked, manner));
    let Plan { keys, mut pending, longest, positions } = planned.await.map_err(of_teacher)?;
    // Of two questions in the same words one is asked.
    let mut new = HashSet::new();
    pending.retain(|answer| !log.holds(&answer.key) && new.insert(answer.key.clone()));
    tracing::info!(questions = questions.len(), pending = pending.len(), "asking the teacher");
    if !pending.is_empty() {
        stop.check()?;
        let options = EngineOptions { max_positions: longest, ..models.engine_options().clone() };
        let (path, on) = (models.generator_files()?.path().to_owned(), models.device().to_owned());
        let load = move || {
            let engine = Engine::start(&path, None, &on, options)?;
            engine.load_blocking()?;
            Ok(engine)
        };
        let engine = device::guarded_blocking("loading the teacher", load).await.map_err(of_teacher)?;
        let progress = Progress::begin(voice, "teach", pending.len() as u64, "questions", "tokens");
        let outcome = asking::ask(&engine, pending, &mut log, &progress, stop).await;
        progress.finish();
        // Its memory is the training's now.
        drop(engine);
        outcome?;
    }
    let found = log.answers(keys.iter().map(|(id, key)| (id.as_str(), key.as_str())));
    // Those that do not fit have no key.
    let found = Answers { unanswered: questions.len().saturating_sub(found.texts.len()), ..found };
    if found.texts.is_empty() && !questions.is_empty() {
        return Err(Error::new(Kind::Config, "the teacher answered no question")
            .with("teacher", &job.spec.model.generator)
            .with("tokens it reads", positions)
            .hint("question and answer must fit: lower [align] teacher_tokens, or name a model that reads more"));
    }
    Ok(found)
}

/// Every answer's key, and the requests of those that fit.
fn plan(models: &Models, questions: &[Asked], manner: Manner) -> Result<Plan> {
    let of_model = &models.generator()?.fingerprint;
    let own = models.generator_files()?.config().max_positions;
    let positions = own.min(models.engine_options().max_positions.max(POSITIONS));
    let mut plan = Plan { keys: Vec::new(), pending: Vec::new(), longest: 0, positions };
    for question in questions {
        let request = models.request(0, &question.text(), &question.stem)?;
        let needed = request.prompt.len().saturating_add(manner.max_tokens);
        if request.prompt.is_empty() || needed > positions {
            tracing::warn!(example_id = question.id, needed, positions, "a question does not fit the teacher");
            continue;
        }
        plan.longest = plan.longest.max(needed);
        for sample in 0..manner.samples {
            let follows_from = fingerprint(of_model, question, sample, manner);
            let key = follows_from.prompt_key(&request.prompt);
            plan.keys.push((question.id.clone(), key.clone()));
            let request = Request {
                id: 0,
                prompt: request.prompt.clone(),
                max_new_tokens: manner.max_tokens,
                sampling: follows_from.sampling,
                seed: follows_from.row_seed(&key),
                stop: follows_from.stop,
                score: None,
                guide: None,
            };
            let tag = Some(question.last_tag().to_owned());
            plan.pending.push(Pending { key, example_id: question.id.clone(), sample, request, tag });
        }
    }
    Ok(plan)
}

/// Everything that an answer follows from besides its prompt. A greedy one knows no seed: the same question is the same answer.
fn fingerprint(of_model: &Fingerprint, question: &Asked, sample: usize, manner: Manner) -> Fingerprint {
    let sampled = sample > 0;
    let (temperature, top_p) = if sampled { (manner.temperature, TOP_P) } else { (0.0, 1.0) };
    let mut seed = [0; 8];
    if sampled {
        let digest = blake3::hash(format!("{} {sample}", question.id).as_bytes());
        seed.copy_from_slice(&digest.as_bytes()[..8]);
    }
    Fingerprint {
        sampling: Sampling { temperature, top_p, ..Sampling::default() },
        max_new_tokens: manner.max_tokens,
        stop: vec![question.last_tag().to_owned()],
        form: String::new(),
        seed: u64::from_le_bytes(seed),
        ..of_model.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_follows_from_its_question_its_model_and_its_sampling() {
        let of = |model: &str| Fingerprint {
            model: model.into(),
            adapter: String::new(),
            sampling: Sampling::default(),
            max_new_tokens: 1,
            stop: Vec::new(),
            ends: Vec::new(),
            form: String::new(),
            seed: 9,
        };
        let asked = |id: &str, verdict| Asked { id: id.into(), prompt: "x".into(), stem: "<think>".into(), verdict };
        let manner = Manner { samples: 4, temperature: 0.8, max_tokens: 20 };
        let key = |model: &str, id: &str, verdict, sample, manner| {
            fingerprint(&of(model), &asked(id, verdict), sample, manner).prompt_key(&[1, 2, 3])
        };
        let first = key("m", "a", None, 0, manner);
        let warmer = Manner { temperature: 1.0, ..manner };
        // The greedy answer depends on no seed and no temperature.
        assert_eq!((&first, &first), (&key("m", "b", None, 0, manner), &key("m", "a", None, 0, warmer)));
        let others = [
            key("m", "a", None, 1, manner),
            key("m", "a", None, 2, manner),
            key("m", "b", None, 1, manner),
            key("m", "a", None, 1, warmer),
            key("n", "a", None, 0, manner),
            key("m", "a", Some(true), 0, manner),
            key("m", "a", None, 0, Manner { max_tokens: 21, ..manner }),
        ];
        let different: HashSet<&String> = others.iter().chain([&first]).collect();
        assert_eq!(different.len(), others.len() + 1);
        assert_eq!(key("m", "a", None, 1, manner), others[0]);
    }
}
