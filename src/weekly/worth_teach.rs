//! From the best answers about items, or histories, to an adapter that has learned them.
//!
//! Knows questions, answers, the supervised path of `learn align` and the folder of what is taught: what an earlier run has
//! taught goes, what is taught says until when it has learned, and a training that was killed goes on. Knows nothing of why
//! these answers are the best.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cancel::CancelToken;
use crate::config::Interval;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::generate::models::Models;
use crate::generate::prompt::Evidence;
use crate::llm::adapter::{Adapter, FILES};
use crate::llm::device;
use crate::night::learned::TAUGHT;
use crate::telemetry::Voice;
use crate::weekly::align::{self, Course};
use crate::weekly::question::Question;
use crate::weekly::weekly_file::Spec;
use crate::weekly::worth_answers::Answers;
use crate::weekly::worth_data::Item;
use crate::weekly::worth_fit::Measured;
use crate::weekly::written;
use crate::worth::whose::Whose;

/// Of 256 items, or users, so many are not taught: they tell when to stop.
const HELD_OUT: u8 = 26;

/// Begins the names of a training's checkpoint and curve.
fn course(whose: Whose) -> &'static str {
    match whose {
        Whose::Items => "worth-align",
        Whose::Histories => "worth-histories-align",
    }
}

/// What is to be taught.
pub(super) struct Lessons {
    /// Whose reasons they are.
    pub(super) whose: Whose,
    /// From when until when these and what they go on from have learned.
    pub(super) learned: Interval,
    /// Questions with their answers.
    pub(super) questions: Vec<Question>,
}

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

/// The chosen answers as questions with what is taught, and the written examples as they stand.
pub(super) fn lessons(spec: &Spec, items: &[Item], answers: &Answers, measured: &Measured) -> Result<Vec<Question>> {
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

/// A question with the answer that is taught.
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
pub(super) fn remove(file: &Path) -> Result<()> {
    match disk::remove(file) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(Error::new(Kind::Temporary, "cannot remove a file of before").with("file", file.display()).source(e))
        }
        _ => Ok(()),
    }
}

/// Removes the adapter that an earlier run has taught.
pub(super) fn forget_taught(whose: Whose, out: &Path) -> Result<()> {
    FILES.iter().try_for_each(|name| remove(&out.join(whose.taught()).join(name)))
}

/// What the adapter of [`Whose::taught`] has learned from, beside it.
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

/// Trains on from the adapter that was asked. What an earlier run has taught is gone before anything is learned.
pub(super) async fn teach(
    spec: &Spec,
    lessons: Lessons,
    models: Arc<Models>,
    out: &Path,
    voice: Voice,
    stop: &CancelToken,
) -> Result<Taught> {
    let Lessons { whose, learned, questions } = lessons;
    let adapter = out.join(whose.taught());
    let (told, checkpoint) = (adapter.join(TAUGHT), out.join(format!("{}.safetensors", course(whose))));
    forget_taught(whose, out)?;
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
        let course = Course { begun: begun.as_ref(), adapter: whose.taught(), name: course(whose) };
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
    use std::collections::BTreeMap;

    use super::*;
    use crate::weekly::weekly_file;
    use crate::weekly::worth_answers::tests::tiny;

    /// An adapter of the tiny model.
    const BEGUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adapters/tiny-qwen3");

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
        let lessons = Lessons { whose: Whose::Items, learned, questions: (0..3).map(question).collect() };
        teach(&spec, lessons, models, out, Voice::Quiet, stop).await
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
        let (adapter, checkpoint) = (out.join(Whose::Items.taught()), out.join("worth-align.safetensors"));
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

        forget_taught(Whose::Items, out).unwrap();
        assert!(FILES.iter().all(|name| !adapter.join(name).exists()));
        forget_taught(Whose::Items, out).unwrap();
    }
}
