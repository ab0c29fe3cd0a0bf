//! `curec learn align`: from an interval's examples to an adapter, and how good its answers are.
//!
//! Knows jobs, tokenizer and engine; leaves examples to [`crate::weekly::examples`] and training to
//! [`crate::learn::supervised`]. Everything is kept in the file's folder `out`: a training that was killed goes on where it was.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::cancel::CancelToken;
use crate::columns::{text, text_lists};
use crate::config::{self, Interval, Job};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::generate::format;
use crate::generate::models::Models;
use crate::generate::row::{Completion, RowError};
use crate::learn::packing::Example;
use crate::learn::rollout::Base;
use crate::learn::supervised::{self, Surroundings};
use crate::learn::trainable::TrainableLm;
use crate::llm::adapter::{Adapter, Precision};
use crate::llm::device;
use crate::night::warehouse;
use crate::query::texts;
use crate::registry::card::Sample;
use crate::reward::checks;
use crate::reward::names::Vocabulary;
use crate::reward::text_metrics::{bleu, distinct, tokens};
use crate::telemetry::Voice;
use crate::weekly::examples;
use crate::weekly::question::{Question, questions};
use crate::weekly::teacher::{self, Account, Source, Taught};
use crate::weekly::teacher_endpoint::Endpoint;
use crate::weekly::teacher_model::{self, Manner};
use crate::weekly::weekly_file::Spec;
use crate::weekly::written;

/// How good answers to held-out questions are: the exit measures of alignment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Questions asked; users and items that trained nothing.
    pub questions: usize,
    /// Share of answers in the format that was taught.
    pub format: f64,
    /// Share of those whose reasons name nothing but their evidence.
    pub grounded: f64,
    /// Questions of whether a user likes an item.
    pub verdicts: usize,
    /// Share of those whose verdict is the outcome.
    pub right: f64,
    /// Share of those where the outcome is a like: what always saying yes would be right in.
    #[serde(default)]
    pub likes: f64,
    /// BLEU-4 of the answers against the templates' own, times 100: how well the templates were learned, no more.
    pub bleu4: f64,
    /// Different word pairs over all word pairs of the reasons. Of two models side by side each answer is cut to the length of
    /// the other's ([`side_by_side`]): the longer a text, the fewer of its pairs are new.
    pub distinct2: f64,
    /// Share of the answers that name a title of the catalogue that does not stand in their question; none where titles are
    /// not known.
    #[serde(default)]
    pub foreign_titles: Option<f64>,
}

/// So many answers stand in the record.
const SAMPLES: usize = 20;
/// In this order.
const TASKS: [&str; 5] = ["pair", "item", "history", "choose", "rewrite"];

/// An alignment that ended well.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// First moment of the interval.
    pub interval_start: String,
    /// First moment after it.
    pub interval_end: String,
    /// The adapter's folder, in PEFT's format.
    pub adapter: PathBuf,
    /// Its digest.
    pub digest: String,
    /// Examples that trained.
    pub examples: usize,
    /// Tokens of an epoch.
    pub tokens: usize,
    /// Steps of Adam.
    pub steps: usize,
    /// The step whose weights were kept.
    pub best_step: usize,
    /// Mean −log p of held-out answers before.
    pub loss_before: Option<f64>,
    /// And after.
    pub loss_after: Option<f64>,
    /// Tokens that passed through the model in a second of training.
    pub tokens_per_second: f64,
    /// The model as it comes.
    pub before: Measures,
    /// With the adapter.
    pub after: Measures,
    /// What became of a teacher's answers, where there was one.
    pub teacher: Option<Account>,
    /// Held-out questions and what the model with the adapter answers, evenly over tasks.
    pub samples: Vec<Sample>,
}

/// Makes the interval's examples, trains an adapter on them, and asks it what it was not trained on.
///
/// # Errors
/// What the job's inputs, the model and the disk say; `Kind::Interrupted` after a signal, with a checkpoint kept.
pub async fn align(spec: &Spec, interval: Interval, voice: Voice, stop: &CancelToken) -> Result<Done> {
    let out = PathBuf::from(&spec.out);
    std::fs::create_dir_all(&out)
        .map_err(|e| Error::new(Kind::Config, "cannot make the folder").with("folder", out.display()).source(e))?;
    let mut overrides = spec.overrides();
    let job = Job::load(&spec.job, &overrides)?;
    if !spec.align.teacher.is_empty() {
        // Before there is work that would be in vain.
        Source::of(&spec.align.teacher)?;
    }
    let rows = examples::examples(&job, interval, spec.examples.size, None).await?;
    examples::replace(&out.join("alignment_example.parquet"), &rows, &out.join("align.json"))?;
    stop.check()?;

    let models = Models::new(&job)?;
    models.fetch().await?;
    let vocabulary = vocabulary(&rows, &job.spec.check.language)?;
    let vocabulary = vocabulary.with_titles(titles(&job).await?.iter().map(String::as_str));
    let mut questions = questions(&rows)?;
    let teacher = match spec.align.teacher.as_str() {
        "" => None,
        _ => Some(teach(spec, &mut questions, &vocabulary, voice, stop).await?),
    };
    for file in &spec.align.written {
        questions.extend(written::read(file)?);
    }
    let questions = Arc::new(questions);
    let held_out = measured(&questions, spec.examples.measured);
    let said_before = stop.or(answers(&models, &held_out)).await?;
    models.stop_engine();

    let adapter = out.join("adapter");
    let (of_training, taught, folder, stopped) = (spec.clone(), questions.clone(), out.clone(), stop.clone());
    let work = move || {
        let course = Course { begun: None, adapter: "adapter", name: "align" };
        train(&of_training, &models, &taught, &course, &folder, voice, &stopped)
    };
    let trained = device::guarded_blocking("training", work).await?;

    overrides.push(format!("model.adapter={}", adapter.display()));
    let models = Models::new(&Job::load(&spec.job, &overrides)?)?;
    models.fetch().await?;
    let said = stop.or(answers(&models, &held_out)).await?;
    let [before, after] = side_by_side(&held_out, [&said_before, &said], &vocabulary);
    let (curve, account) = (&trained.curve, &trained.account);
    let trained_on: Vec<_> = curve.iter().filter(|r| r.step > 0).collect();
    let seconds: f64 = trained_on.iter().map(|r| r.tokens as f64 / r.tokens_per_second).sum();
    let done = Done {
        interval_start: interval.start.to_rfc3339(),
        interval_end: interval.end.to_rfc3339(),
        digest: Adapter::digest(&adapter)?,
        adapter,
        examples: account.examples,
        tokens: account.tokens,
        steps: trained_on.len(),
        best_step: trained.best_step,
        loss_before: curve.first().and_then(|r| r.validation_loss),
        loss_after: trained.best_loss,
        tokens_per_second: trained_on.iter().map(|r| r.tokens as f64).sum::<f64>() / seconds.max(1e-9),
        before,
        after,
        teacher,
        samples: samples(&held_out, &said),
    };
    let text = serde_json::to_string_pretty(&done).context(Kind::Internal, || "the record of the training".into())?;
    disk::write_whole(&out.join("align.json"), text + "\n")
        .context(Kind::Temporary, || format!("cannot write into `{}`", out.display()))?;
    Ok(done)
}

/// Where a training begins, and the names of what it leaves in its folder.
pub(crate) struct Course<'a> {
    /// The adapter that it goes on from; none: the model as it comes.
    pub(crate) begun: Option<&'a Adapter>,
    /// The folder of the adapter that it writes: what it began with and what it learned in one.
    pub(crate) adapter: &'a str,
    /// Begins the names of checkpoint and curve.
    pub(crate) name: &'a str,
}

/// Trains an adapter on the questions' answers by the settings of `[align]` and writes it into the folder `out`. `models` are
/// those that it begins with.
///
/// # Errors
/// As [`supervised::align`].
pub(crate) fn train(
    spec: &Spec,
    models: &Arc<Models>,
    questions: &[Question],
    course: &Course<'_>,
    out: &Path,
    voice: Voice,
    stop: &CancelToken,
) -> Result<supervised::Aligned> {
    let files = models.generator_files()?;
    let end = *files.config().eos_ids.first().ok_or_else(|| {
        Error::new(Kind::Model, "the model names no token that ends an answer")
            .hint("set eos_token_id in its configuration")
    })?;
    let generator = models.generator()?;
    let (mut train, mut valid) = (Vec::new(), Vec::new());
    for question in questions {
        let prompt = generator.tokenize(&question.prompt, &question.stem)?;
        let mut answer = generator.tokenizer.encode_text(&question.answer)?;
        answer.push(end);
        let into = if question.is_held_out { &mut valid } else { &mut train };
        into.push(Example { prompt, answer, weights: Vec::new() });
    }
    let a = &spec.align;
    let step = valid.len().div_ceil(a.validated.max(1)).max(1);
    let valid: Vec<Example> = valid.into_iter().step_by(step).collect();
    let device = device::open(&spec.device)?;
    let mut lm = match course.begun {
        Some(begun) => Base::load(&files, Some(begun))?.trainable(&a.shape, a.learning.seed, &device)?,
        None => TrainableLm::load(&files, &a.shape, a.learning.seed, &device)?,
    };
    let model = generator.fingerprint.model_name();
    let around = Surroundings {
        checkpoint: Some(out.join(format!("{}.safetensors", course.name))),
        curve: Some(out.join(format!("{}.jsonl", course.name))),
        model: &model,
        voice,
        stop: &|| stop.is_requested(),
    };
    let trained = supervised::align(&mut lm, &train, &valid, &a.learning, &around)?;
    let learned = lm.adapter()?;
    let whole = course.begun.map_or_else(|| learned.clone(), |begun| begun.beside(&learned));
    whole.write(&out.join(course.adapter), &files.name(), Precision::F16)?;
    Ok(trained)
}

/// What reasons may name besides titles.
pub(crate) fn vocabulary(rows: &[RecordBatch], language: &str) -> Result<Vocabulary> {
    let mut all: Vec<String> = Vec::new();
    for batch in rows {
        let (task, attributes) = (text(batch, "task")?, text_lists(batch, "attributes")?);
        // A choice has titles there: what goes with each of the four.
        let told = attributes.into_iter().enumerate().filter(|(row, _)| task.value(*row) != "choose");
        all.extend(told.flat_map(|(_, attributes)| attributes));
    }
    Ok(Vocabulary::new(all.iter().map(String::as_str)).in_language(language))
}

/// At most so many of the held-out ones, evenly over all kinds, by which they are sorted.
pub(crate) fn measured(questions: &[Question], most: usize) -> Vec<&Question> {
    let held_out: Vec<&Question> = questions.iter().filter(|q| q.is_held_out).collect();
    let step = held_out.len().div_ceil(most.max(1)).max(1);
    held_out.into_iter().step_by(step).collect()
}

/// The job of the file with the teacher in the generator's place: a model that curec runs.
///
/// # Errors
/// As [`Job::load`].
pub(crate) fn teachers_job(spec: &Spec) -> Result<Job> {
    let mut overrides = spec.overrides();
    overrides.push(format!("model.generator={}", spec.align.teacher));
    Job::load(&spec.job, &overrides)
}

/// Puts a teacher's answers, from a file, an endpoint or a model, where the templates' stood in questions that train.
pub(crate) async fn teach(
    spec: &Spec,
    questions: &mut [Question],
    vocabulary: &Vocabulary,
    voice: Voice,
    stop: &CancelToken,
) -> Result<Account> {
    let a = &spec.align;
    let verdict = |q: &Question| format::parse(&format!("{}{}", q.stem, q.answer)).ok().and_then(|t| t.verdict);
    let put = |q: &Question| teacher::Asked {
        id: q.id.clone(),
        prompt: q.prompt.clone(),
        stem: q.stem.clone(),
        verdict: verdict(q),
    };
    let asked: Vec<_> = questions.iter().filter(|q| !q.is_held_out).map(put).collect();
    let answers = match Source::of(&a.teacher)? {
        Source::File(path) => teacher::read(path)?,
        Source::Endpoint(address) => {
            let key = config::endpoint_key();
            let endpoint = Endpoint::new(address, &a.teacher_model, key, a.teacher_tokens, a.teacher_at_once)?;
            endpoint.ask(&asked, &spec.folder()?.join("teacher.jsonl"), stop).await?
        }
        Source::Model(_) => {
            let manner = Manner {
                samples: a.teacher_samples,
                temperature: a.teacher_temperature,
                max_tokens: usize::try_from(a.teacher_tokens).unwrap_or(usize::MAX),
            };
            let file = spec.folder()?.join("teacher_answers.jsonl");
            teacher_model::ask(&teachers_job(spec)?, &asked, manner, &file, voice, stop).await?
        }
    };
    let train = questions.iter_mut().filter(|q| !q.is_held_out);
    let account = teacher::teach(train.map(taught), &answers, vocabulary);
    tracing::info!(given = account.given, taken = account.taken, "a teacher's answers");
    Ok(account)
}

fn taught(question: &mut Question) -> Taught<'_> {
    let Question { id, stem, evidence, facts, prose, answer, .. } = question;
    Taught { id, stem, evidence, facts, prose, answer }
}

/// The catalogue's titles; none where the job has no items.
pub(crate) async fn titles(job: &Job) -> Result<Vec<String>> {
    if job.spec.input.item.is_empty() {
        return Ok(Vec::new());
    }
    let session = warehouse::session_of(job).await?;
    let rows = session.sql(texts::CATALOGUE_TITLES, &[]).await?.collect().await?;
    let mut found = Vec::new();
    for batch in &rows {
        found.extend(text(batch, "title")?.iter().flatten().map(str::to_owned));
    }
    Ok(found)
}

/// Evenly over tasks, each task's first ones first, as far as there are so many.
pub(crate) fn samples(questions: &[&Question], said: &[String]) -> Vec<Sample> {
    let of_task = |task: &str| (0..questions.len()).filter(|i| questions[*i].task == task).collect::<Vec<usize>>();
    let by_task = TASKS.map(of_task);
    let rounds = (0..questions.len()).flat_map(|round| by_task.iter().filter_map(move |of| of.get(round).copied()));
    let mut chosen: Vec<usize> = rounds.take(SAMPLES).collect();
    let place = |i: &usize| (TASKS.iter().position(|task| *task == questions[*i].task), *i);
    chosen.sort_by_key(place);
    let sample = |i: usize| Sample {
        task: questions[i].task.clone(),
        question: questions[i].prompt.clone(),
        answer: format!("{}{}", questions[i].stem, said[i]),
    };
    chosen.into_iter().map(sample).collect()
}

/// What the model writes after each question's stem; nothing where it fails.
pub(crate) async fn answers(models: &Arc<Models>, questions: &[&Question]) -> Result<Vec<String>> {
    let requests: Result<Vec<_>> =
        questions.iter().enumerate().map(|(i, q)| models.request(i as u64, &q.prompt, &q.stem)).collect();
    let answers = models.run(requests?).await?;
    let said = |answer: &std::result::Result<Completion, RowError>| answer.as_ref().map_or("", |a| &a.text).to_owned();
    Ok(answers.iter().map(said).collect())
}

/// How good answers are.
pub(crate) fn measures(questions: &[&Question], said: &[String], vocabulary: &Vocabulary) -> Measures {
    let words = |text: &str| tokens(text).into_iter().map(str::to_owned).collect::<Vec<String>>();
    let pairs: Vec<_> = said.iter().zip(questions).map(|(said, q)| (words(said), words(&q.answer))).collect();
    let (mut formed, mut grounded, mut verdicts, mut likes, mut right, mut foreign) = (0, 0, 0, 0, 0, 0);
    for (said, question) in said.iter().zip(questions) {
        foreign += usize::from(!vocabulary.foreign_titles(said, &question.prompt).is_empty());
        let [said, taught] = [said, &question.answer].map(|text| format!("{}{text}", question.stem));
        let (said, taught) = (format::parse(&said).ok(), format::parse(&taught).ok());
        if let Some(answer) = &said {
            formed += 1;
            let evidence: Vec<&str> = question.evidence.iter().map(String::as_str).collect();
            grounded += usize::from(checks::grounding(answer.reason, &evidence, vocabulary) >= 1.0);
        }
        // A choice's answer ends in a verdict too, which is always yes.
        if let Some(outcome) = taught.and_then(|t| t.verdict).filter(|_| question.asked.is_some()) {
            verdicts += 1;
            likes += usize::from(outcome);
            right += usize::from(said.and_then(|a| a.verdict) == Some(outcome));
        }
    }
    let share = |n: usize, of: usize| n as f64 / of.max(1) as f64;
    Measures {
        questions: questions.len(),
        format: share(formed, questions.len()),
        grounded: share(grounded, formed),
        verdicts,
        right: share(right, verdicts),
        likes: share(likes, verdicts),
        foreign_titles: vocabulary.knows_titles().then(|| share(foreign, questions.len())),
        bleu4: bleu(&pairs, 4),
        distinct2: distinct(&reasons(questions, said), 2),
    }
}

/// The words of the reasons. Tags, notes and verdicts are the format's; of an answer that broke it everything is read as the
/// reason.
fn reasons(questions: &[&Question], said: &[String]) -> Vec<Vec<String>> {
    let words = |(said, question): (&String, &&Question)| {
        let whole = format!("{}{said}", question.stem);
        let reason = format::parse(&whole).map_or_else(|_| format::clean(said), |answer| answer.reason.to_owned());
        tokens(&reason).into_iter().map(str::to_owned).collect()
    };
    said.iter().zip(questions).map(words).collect()
}

/// How good the answers of two models to the same questions are; diversity over texts of the same length.
pub(crate) fn side_by_side(questions: &[&Question], said: [&[String]; 2], vocabulary: &Vocabulary) -> [Measures; 2] {
    let [mut a, mut b] = said.map(|said| reasons(questions, said));
    for (a, b) in a.iter_mut().zip(&mut b) {
        let shorter = a.len().min(b.len());
        a.truncate(shorter);
        b.truncate(shorter);
    }
    let [of_a, of_b] = said.map(|said| measures(questions, said, vocabulary));
    [Measures { distinct2: distinct(&a, 2), ..of_a }, Measures { distinct2: distinct(&b, 2), ..of_b }]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::weekly::question::Asked;

    fn question(task: &str, n: usize) -> Question {
        Question {
            id: format!("{task}{n}"),
            task: task.into(),
            is_held_out: true,
            prompt: format!("About Alpha, {task} {n}"),
            stem: "<think>".into(),
            answer: String::new(),
            evidence: vec!["Alpha".into()],
            facts: vec!["Alpha".into()],
            prose: Vec::new(),
            asked: None,
        }
    }

    #[test]
    fn samples_are_even_over_tasks_and_in_order() {
        let mut all: Vec<Question> = (0..30).map(|n| question("pair", n)).collect();
        all.extend((0..3).map(|n| question("rewrite", n)));
        all.insert(4, question("item", 0));
        let questions: Vec<&Question> = all.iter().collect();
        let said: Vec<String> = all.iter().map(|q| format!("{} said", q.id)).collect();
        let found = samples(&questions, &said);
        let count = |task: &str| found.iter().filter(|s| s.task == task).count();
        assert_eq!((found.len(), count("pair"), count("item"), count("rewrite")), (20, 16, 1, 3));
        assert_eq!(found[0].answer, "<think>pair0 said");
        assert_eq!(found.iter().map(|s| s.task.as_str()).collect::<Vec<_>>()[15..18], ["pair", "item", "rewrite"]);
        assert!(samples(&[], &[]).is_empty());
    }

    #[test]
    fn titles_of_the_catalogue_that_were_not_asked_about_are_counted() {
        let all = [question("pair", 0), question("pair", 1)];
        let questions: Vec<&Question> = all.iter().collect();
        let said = ["they like Alpha".to_owned(), "they like Omega Point (1999)".to_owned()];
        let vocabulary = Vocabulary::new([]).with_titles(["Alpha", "Omega Point (1999)"]);
        assert_eq!(measures(&questions, &said, &vocabulary).foreign_titles, Some(0.5));
        assert_eq!(measures(&questions, &said, &Vocabulary::new([])).foreign_titles, None);
    }

    #[test]
    fn diversity_is_compared_over_texts_of_one_length() {
        let all = [question("pair", 0), question("pair", 1)];
        let questions: Vec<&Question> = all.iter().collect();
        // Repeats itself once it is long; and one in the format, of which the reason alone counts.
        let long = ["a b c a b c a b c", "d e f d e f d e f"].map(str::to_owned);
        let short = ["x</think><reason>a b c</reason>", "x</think><reason>a b c</reason>"].map(str::to_owned);
        let [of_long, of_short] = side_by_side(&questions, [&long, &short], &Vocabulary::new([]));
        assert_eq!((of_long.distinct2, of_short.distinct2), (1.0, 0.5));
        assert!(measures(&questions, &long, &Vocabulary::new([])).distinct2 < 0.5);
        assert_eq!((of_long.format, of_short.format), (0.0, 1.0));
    }

    #[test]
    fn verdicts_are_those_of_pairs() {
        let asked = |label| Some(Asked { user: "u".into(), item: "i".into(), label, time: 0 });
        let answer = |verdict: &str| format!("x</think><reason>So it is.</reason><verdict>{verdict}</verdict>");
        let of = |n, asked: Option<Asked>| {
            let verdict = if asked.as_ref().is_none_or(|a| a.label) { "yes" } else { "no" };
            Question { asked, answer: answer(verdict), ..question("pair", n) }
        };
        let all = [of(0, asked(true)), of(1, asked(false)), of(2, asked(false)), of(3, None)];
        let questions: Vec<&Question> = all.iter().collect();
        let said = ["yes", "yes", "no", "yes"].map(answer);
        let found = measures(&questions, &said, &Vocabulary::new([]));
        assert_eq!((found.verdicts, found.right, found.likes), (3, 2.0 / 3.0, 1.0 / 3.0));
    }
}
