//! Training: epochs of batches, Adam, validation by full ranking, early stopping, checkpoints.
//!
//! Knows models by the trait [`Model`] only. An epoch's randomness depends on the seed and the epoch's number alone, and a
//! checkpoint is written after every epoch, whole or not at all: a training that was killed and started again gives the same
//! weights as one that was not. On the CPU the same seed gives the same bits; on a GPU sums are made in no fixed order.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Tensor;
use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::network::layers::Pass;
use crate::network::parameters::{Parameters, Values};
use crate::network::random::Random;
use crate::recommend::adaptor::Vectors;
use crate::recommend::metrics::{Catalogue, Options, Scorer, rank_cases};
use crate::recommend::split::{Case, Split};
use crate::telemetry::{Progress, Voice};

/// One user's training events, in time order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sequence<'a> {
    /// Dense id.
    pub user: u32,
    /// Dense ids of the items.
    pub items: &'a [u32],
    /// Their ratings.
    pub ratings: &'a [Option<f32>],
}

/// All users' events that may be trained on; users without any are left out.
pub fn sequences(split: &Split) -> Vec<Sequence<'_>> {
    let lines = split.timelines();
    let of = |user| {
        let line = lines.before(user, split.valid_from());
        Sequence { user, items: line.items, ratings: line.ratings }
    };
    (0..lines.users()).map(of).filter(|s| !s.items.is_empty()).collect()
}

/// A recommender that learns from batches by gradients.
pub trait Model: Scorer {
    /// What one step learns from.
    type Batch;

    /// Its weights.
    fn parameters(&self) -> &Parameters;

    /// See [`Model::parameters`].
    fn parameters_mut(&mut self) -> &mut Parameters;

    /// Everything that makes two models of this kind differ, but for weights: a checkpoint belongs to one fingerprint.
    /// Of content features it holds a digest.
    ///
    /// # Errors
    /// `Kind::Internal` for settings that have no serialised form.
    fn fingerprint(&self) -> Result<Fingerprint>;

    /// An epoch's batches, in order.
    fn batches(&self, data: &[Sequence<'_>], random: &mut Random) -> Vec<Self::Batch>;

    /// The loss of a batch.
    ///
    /// # Errors
    /// `Kind::Internal` for a batch that is not the model's; `Kind::Temporary` where the device fails.
    fn learn(&self, pass: &mut Pass, batch: &Self::Batch) -> Result<Step>;

    /// Other vectors of items' texts in the place of those that were learned from, of the same width: what was written since. They
    /// count in scores from now on. Nothing where the model reads none.
    ///
    /// # Errors
    /// `Kind::Input` where they do not fit.
    fn refresh(&mut self, texts: &Vectors) -> Result<()>;
}

/// What one step found.
pub struct Step {
    /// To be differentiated; its value may mean nothing.
    pub loss: Tensor<1>,
    /// The loss, mean over the targets.
    pub value: f64,
    /// Targets learned.
    pub targets: usize,
    /// Sequences passed through the model for them.
    pub sequences: usize,
}

/// How long and how fast to learn.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Plan {
    /// Most epochs.
    pub epochs: usize,
    /// Validations without a new best after which training stops.
    pub patience: usize,
    /// Epochs from one validation to the next.
    pub validate_every: usize,
    /// Adam's. No setting of an evaluation, which tries several.
    #[serde(skip)]
    pub learning_rate: f64,
    /// How validation ranks. No setting of an evaluation.
    #[serde(skip)]
    pub ranking: Options,
    /// Where to keep the state; a training that finds one there goes on with it.
    #[serde(skip)]
    pub checkpoint: Option<PathBuf>,
    /// How to speak.
    #[serde(skip)]
    pub voice: Voice,
}

impl Plan {
    /// A plan without a checkpoint that validates after every epoch.
    pub fn new(epochs: usize, patience: usize, learning_rate: f64) -> Self {
        let (ranking, voice) = (Options::default(), Voice::Quiet);
        Plan { epochs, patience, validate_every: 1, learning_rate, ranking, checkpoint: None, voice }
    }
}

/// What an epoch brought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Epoch {
    /// Mean loss of its targets.
    pub loss: f64,
    /// What validation made of it, such as NDCG@10, where there was one.
    pub score: Option<f64>,
    /// Targets learned.
    pub targets: usize,
    /// Sequences passed through the model.
    pub sequences: usize,
    /// Time for learning, without validation.
    pub seconds: f64,
}

/// A finished training. The model holds the best weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// All epochs, the first first.
    pub epochs: Vec<Epoch>,
    /// The best epoch, from 1; the last one where there were no validation cases.
    pub best_epoch: usize,
    /// Its score on the validation cases.
    pub best_score: f64,
}

/// What a checkpoint holds beside the weights.
struct State {
    epochs: Vec<Epoch>,
    best_epoch: usize,
    best_score: f64,
    best: Values,
}

/// Trains a model and leaves the weights of the best epoch in it: the one with the best NDCG@10 over `valid`, or the last
/// where there is no case.
///
/// # Errors
/// `Kind::Input` where there is nothing to learn from, or learning diverges; `Kind::Config` where the checkpoint belongs to
/// another training or has more epochs than the plan; what the model, the ranking and the disk say.
pub fn fit<M: Model>(
    model: &mut M,
    data: &[Sequence<'_>],
    valid: &[Case<'_>],
    catalogue: Catalogue<'_>,
    plan: &Plan,
) -> Result<Trained> {
    fit_by(model, data, valid, plan, &|| Ok(()), &mut |model| mean_ndcg(model, valid, catalogue, plan.ranking))
}

/// Mean NDCG@10 over cases, by full ranking; no number where there is none.
///
/// # Errors
/// What the model and the ranking say.
pub fn mean_ndcg(
    model: &mut dyn Scorer,
    cases: &[Case<'_>],
    catalogue: Catalogue<'_>,
    options: Options,
) -> Result<f64> {
    let ranked = rank_cases(model, cases, catalogue, options)?;
    Ok(ranked.iter().map(|r| r.ndcg(10)).sum::<f64>() / ranked.len() as f64)
}

/// As [`fit`], with the best epoch the one of the best `score`; higher is better. Nothing is scored where `valid`, which
/// the score is of, is empty. `go_on` is asked before every epoch; what it refuses with ends the training, whose checkpoint
/// holds all epochs until then.
///
/// # Errors
/// As [`fit`], and what `go_on` and `score` say.
pub fn fit_by<M: Model>(
    model: &mut M,
    data: &[Sequence<'_>],
    valid: &[Case<'_>],
    plan: &Plan,
    go_on: &dyn Fn() -> Result<()>,
    score: &mut dyn FnMut(&mut M) -> Result<f64>,
) -> Result<Trained> {
    let mut purpose = model.fingerprint()?;
    purpose
        .add("data", digest(data, valid))
        .add("seed", model.parameters().seed())
        .add("learning_rate", plan.learning_rate)
        .add("validate_every", plan.validate_every)
        .add("patience", plan.patience);
    let purpose = purpose.digest();
    let mut state = resume(model, plan, &purpose)?;
    let random = Random::new(model.parameters().seed(), "epochs");
    let total: usize = data.iter().map(|s| s.items.len().saturating_sub(1)).sum();
    let left = plan.epochs.saturating_sub(state.epochs.len());
    let progress = Progress::begin(plan.voice, "train", (total * left) as u64, "targets", "targets");
    while state.epochs.len() < plan.epochs && !is_over(&state, valid, plan) {
        go_on()?;
        let mut epoch = learn_epoch(model, data, &random.child(state.epochs.len() as u64), plan, &progress)?;
        let number = state.epochs.len() + 1;
        let is_due = number.is_multiple_of(plan.validate_every.max(1)) || number == plan.epochs;
        if is_due && !valid.is_empty() {
            let score = score(model)?;
            epoch.score = Some(score);
            tracing::debug!(epoch = number, loss = epoch.loss, score, "epoch");
        }
        state.epochs.push(epoch);
        if valid.is_empty() || epoch.score.is_some_and(|score| state.best_epoch == 0 || score > state.best_score) {
            state.best_epoch = number;
            state.best_score = epoch.score.unwrap_or(0.0);
            state.best = model.parameters().values();
        }
        if let Some(path) = &plan.checkpoint {
            model.parameters().save_checkpoint(path, &state.best, metadata(&state, &purpose))?;
        }
    }
    progress.finish();
    model.parameters_mut().set_values(&state.best);
    Ok(Trained { epochs: state.epochs, best_epoch: state.best_epoch, best_score: state.best_score })
}

/// Tells whether two trainings learn from the same events and stop by the same cases: blake3 over all of them, ratings
/// bit by bit; 32 hex digits.
fn digest(data: &[Sequence<'_>], valid: &[Case<'_>]) -> String {
    let mut hasher = blake3::Hasher::new();
    // Lengths stand before what they count, so that no two data sets give the same bytes.
    let number = |hasher: &mut blake3::Hasher, n: u64| {
        hasher.update(&n.to_le_bytes());
    };
    let items = |hasher: &mut blake3::Hasher, items: &[u32]| {
        number(hasher, items.len() as u64);
        items.iter().for_each(|item| {
            hasher.update(&item.to_le_bytes());
        });
    };
    // No 32 bits of a rating reach the bit that tells none.
    let rating = |hasher: &mut blake3::Hasher, rating: Option<f32>| {
        number(hasher, rating.map_or(1 << 32, |r| u64::from(r.to_bits())));
    };
    number(&mut hasher, data.len() as u64);
    for sequence in data {
        number(&mut hasher, u64::from(sequence.user));
        items(&mut hasher, sequence.items);
        number(&mut hasher, sequence.ratings.len() as u64);
        sequence.ratings.iter().for_each(|r| rating(&mut hasher, *r));
    }
    for case in valid {
        number(&mut hasher, u64::from(case.user));
        items(&mut hasher, case.history);
        items(&mut hasher, &[case.target]);
        rating(&mut hasher, case.rating);
        number(&mut hasher, case.timestamp as u64);
    }
    hasher.finalize().to_hex()[..32].to_string()
}

fn is_over(state: &State, valid: &[Case<'_>], plan: &Plan) -> bool {
    let since = state.epochs.iter().skip(state.best_epoch).filter(|e| e.score.is_some()).count();
    !valid.is_empty() && since >= plan.patience.max(1)
}

fn learn_epoch<M: Model>(
    model: &mut M,
    data: &[Sequence<'_>],
    random: &Random,
    plan: &Plan,
    progress: &Progress,
) -> Result<Epoch> {
    let started = Instant::now();
    let batches = model.batches(data, &mut random.child(0));
    let (mut loss, mut targets, mut sequences) = (0.0, 0, 0);
    for (i, batch) in batches.iter().enumerate() {
        let mut pass = Pass::training(model.parameters(), random.child(i as u64 + 1));
        let step = model.learn(&mut pass, batch)?;
        if !step.value.is_finite() {
            return Err(Error::new(Kind::Input, "training diverged: the loss is no number")
                .with("batch", i)
                .hint("lower the learning rate"));
        }
        model.parameters_mut().step(pass.leaves, step.loss.backward(), plan.learning_rate);
        loss += step.value * step.targets as f64;
        (targets, sequences) = (targets + step.targets, sequences + step.sequences);
        progress.advance(step.targets as u64, step.targets as u64);
    }
    if targets == 0 {
        return Err(Error::new(Kind::Input, "there is nothing to learn from: no user has two training events"));
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Epoch { loss: loss / targets as f64, score: None, targets, sequences, seconds })
}

fn metadata(state: &State, purpose: &str) -> HashMap<String, String> {
    let line = |e: &Epoch| {
        let score = e.score.map_or("-".to_owned(), |n| n.to_string());
        format!("{} {score} {} {} {}", e.loss, e.targets, e.sequences, e.seconds)
    };
    let epochs: Vec<String> = state.epochs.iter().map(line).collect();
    [
        ("purpose", purpose.to_owned()),
        ("epochs", epochs.join("\n")),
        ("best_epoch", state.best_epoch.to_string()),
        ("best_score", state.best_score.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The state to begin with: the checkpoint's where there is one.
fn resume<M: Model>(model: &mut M, plan: &Plan, purpose: &str) -> Result<State> {
    let fresh = State { epochs: Vec::new(), best_epoch: 0, best_score: 0.0, best: model.parameters().values() };
    let Some(path) = plan.checkpoint.as_ref().filter(|path| path.exists()) else { return Ok(fresh) };
    let broken = |what: &str| {
        Error::new(Kind::Config, what)
            .with("file", path.display())
            .hint("remove the file to train from the start, or name another checkpoint")
    };
    let (best, metadata) = model.parameters_mut().load_checkpoint(path)?;
    let entry = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
    if entry("purpose") != purpose {
        return Err(broken("the checkpoint belongs to another training"));
    }
    let epoch = |line: &str| -> Option<Epoch> {
        let [loss, score, targets, sequences, seconds] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
        let score = if score == "-" { None } else { Some(score.parse().ok()?) };
        let (targets, sequences) = (targets.parse().ok()?, sequences.parse().ok()?);
        Some(Epoch { loss: loss.parse().ok()?, score, targets, sequences, seconds: seconds.parse().ok()? })
    };
    let epochs: Option<Vec<Epoch>> = entry("epochs").lines().map(epoch).collect();
    match (epochs, entry("best_epoch").parse(), entry("best_score").parse()) {
        // Its best epoch may be one that the others do not get.
        (Some(epochs), ..) if epochs.len() > plan.epochs => {
            Err(broken("the checkpoint has learned for more epochs than are allowed now")
                .hint("allow as many, or remove the checkpoints (of other arms and seeds too) to train from the start"))
        }
        (Some(epochs), Ok(best_epoch), Ok(best_score)) => {
            tracing::info!(epochs = epochs.len(), file = %path.display(), "training goes on");
            Ok(State { epochs, best_epoch, best_score, best })
        }
        _ => Err(broken("the checkpoint's state cannot be read")),
    }
}
