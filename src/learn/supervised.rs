//! Aligning by supervised fine-tuning: steps over packed examples, validation, early stopping, checkpoints, the curve.
//!
//! Knows examples as token ids and what each target counts, so that weighted answers (best of several, by reward) train the
//! same way. A step's batches and its dropout depend on the seed and the step's number alone, and a checkpoint stands whole
//! or not at all: a training that was stopped and started again gives the same weights as one that was not (on the CPU, bit
//! by bit).

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::learn::loss;
use crate::learn::optimise::{Accumulation, Schedule, Stepped};
use crate::learn::packing::{self, Account, Batch, Example, Sizes};
use crate::learn::trainable::TrainableLm;
use crate::network::layers::Pass;
use crate::network::parameters::Values;
use crate::network::random::Random;
use crate::telemetry::{Progress, Voice};

/// How long, how fast and how evenly to learn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Adam's highest learning rate.
    pub learning_rate: f64,
    /// Share of the steps during which it rises.
    pub warmup: f64,
    /// How often every example is seen.
    pub epochs: usize,
    /// Fewer steps than the epochs have, where above 0.
    pub max_steps: usize,
    /// Most tokens that a step learns from.
    pub batch_tokens: usize,
    /// Most tokens that pass through the model at a time: memory grows with it, about 2 MB a token at 135M parameters.
    /// Longer examples are left out.
    pub micro_batch_tokens: usize,
    /// Largest norm of a step's gradient; 0 cuts nothing.
    pub clip: f64,
    /// Steps from one validation to the next; 0 validates at the beginning and the end only.
    pub validate_every: usize,
    /// Validations without a new best after which training stops; 0 never stops early.
    pub patience: usize,
    /// Steps from one checkpoint to the next; 0 keeps one when stopped and at the end only.
    pub checkpoint_every: usize,
    /// Decides the order of examples and dropout.
    pub seed: u64,
}

/// Where a training keeps what, and whom it listens to.
pub struct Surroundings<'a> {
    /// The state; a training that finds one there goes on with it.
    pub checkpoint: Option<PathBuf>,
    /// The curve, one JSON object a line.
    pub curve: Option<PathBuf>,
    /// Digest of the frozen model's files.
    pub model: &'a str,
    /// How to speak.
    pub voice: Voice,
    /// Whether to stop; asked before every step.
    pub stop: &'a dyn Fn() -> bool,
}

/// A step of the curve. Step 0 is the validation before anything was learned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// From 1.
    pub step: usize,
    /// From 0.
    pub epoch: usize,
    /// Weighted mean over the step's targets (of step 0: of validation's).
    pub loss: f64,
    /// Adam's.
    pub learning_rate: f64,
    /// Before it was cut.
    pub gradient_norm: f64,
    /// Tokens that passed through the model.
    pub tokens: usize,
    /// Targets learned.
    pub targets: usize,
    /// Without validation.
    pub tokens_per_second: f64,
    /// Weighted mean over the validation targets, where there was a validation.
    pub validation_loss: Option<f64>,
}

/// A finished training. The model holds the best weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Aligned {
    /// All steps, the first first.
    pub curve: Vec<Record>,
    /// The step with the lowest validation loss, 0 for the weights of the beginning; the last one without validation.
    pub best_step: usize,
    /// That loss.
    pub best_loss: Option<f64>,
    /// What an epoch holds.
    pub account: Account,
}

/// What a checkpoint holds beside the weights.
struct State {
    curve: Vec<Record>,
    done: usize,
    best_step: usize,
    best_loss: f64,
    /// Validations since the best.
    stale: usize,
    best: Values,
}

/// Trains the adapter on the examples and leaves the best weights in it.
///
/// # Errors
/// `Kind::Interrupted` where it was stopped, after a checkpoint; `Kind::Input` where there is nothing to learn from, or
/// learning diverges; `Kind::Config` where the checkpoint belongs to another training; what the device and the disk say.
pub fn align(
    lm: &mut TrainableLm,
    train: &[Example],
    valid: &[Example],
    config: &Config,
    around: &Surroundings<'_>,
) -> Result<Aligned> {
    let limit = config.micro_batch_tokens.min(lm.config().max_positions);
    let (train, account) = packing::fitting(train, limit)?;
    let (valid, validation) = packing::fitting(valid, limit)?;
    if account.left_out + validation.left_out > 0 {
        let left_out = account.left_out + validation.left_out;
        tracing::warn!(left_out, limit, "examples are longer than the limit of tokens");
    }
    if train.iter().map(Example::weight).sum::<f64>() <= 0.0 {
        return Err(Error::new(Kind::Input, "there is nothing to learn from: no example fits and counts")
            .with("longest", format!("{limit} tokens"))
            .with("left out", account.left_out)
            .hint("raise micro_batch_tokens, or look at the table of examples"));
    }
    let sizes = Sizes { step: config.batch_tokens.max(1), batch: config.micro_batch_tokens.max(1) };
    let of_epoch = |epoch| packing::steps(&train, sizes, config.seed, epoch);
    let all: usize = (0..config.epochs).map(|epoch| of_epoch(epoch).len()).sum();
    let total = if config.max_steps > 0 { all.min(config.max_steps) } else { all };
    let warmup = (config.warmup * total as f64).round() as usize;
    let schedule = Schedule { learning_rate: config.learning_rate, warmup, steps: total };
    let mut purpose = Fingerprint::new("align", 1);
    purpose.add_settings("config", config)?.add_settings("shape", lm.shape())?.add("begun at", begun_at(lm)?);
    purpose.add("model", around.model).add("data", packing::digest(&[&train, &valid]));
    let purpose = purpose.digest();
    let mut state = resume(lm, around, &purpose)?;
    if state.curve.is_empty() && !valid.is_empty() {
        let loss = validate(lm, &valid, config.micro_batch_tokens)?;
        state.best_loss = loss;
        state.curve.push(Record {
            step: 0,
            epoch: 0,
            loss,
            learning_rate: 0.0,
            gradient_norm: 0.0,
            tokens: 0,
            targets: 0,
            tokens_per_second: 0.0,
            validation_loss: Some(loss),
        });
    }
    let progress = Progress::begin(around.voice, "align", total.saturating_sub(state.done) as u64, "steps", "tokens");
    let dropout = Random::new(config.seed, "dropout");
    let is_over = |state: &State| config.patience > 0 && state.stale >= config.patience;
    let numbered = (0..config.epochs).flat_map(|epoch| of_epoch(epoch).into_iter().map(move |step| (epoch, step)));
    for (at, (epoch, step)) in numbered.enumerate().take(total) {
        if at < state.done {
            continue;
        }
        if is_over(&state) {
            break;
        }
        if (around.stop)() {
            save(lm, &state, around, &purpose)?;
            return Err(Error::new(Kind::Interrupted, "training was stopped by a signal")
                .with("step", format!("{} of {total}", state.done))
                .hint("progress is kept where a checkpoint is named; run the same command again"));
        }
        let started = Instant::now();
        let examples: Vec<Vec<&Example>> = step.iter().map(|b| b.iter().map(|i| &train[*i]).collect()).collect();
        let learning_rate = schedule.at(at);
        let stepped = learn(lm, &examples, learning_rate, config.clip, &dropout.child(at as u64))
            .map_err(|e| e.with("step", at + 1))?;
        let flat = || examples.iter().flatten();
        let tokens = flat().map(|e| e.tokens()).sum();
        let mut record = Record {
            step: at + 1,
            epoch,
            loss: stepped.loss,
            learning_rate,
            gradient_norm: stepped.gradient_norm,
            tokens,
            targets: flat().map(|e| e.answer.len()).sum(),
            tokens_per_second: tokens as f64 / started.elapsed().as_secs_f64().max(1e-9),
            validation_loss: None,
        };
        progress.advance(1, tokens as u64);
        state.done = at + 1;
        let is_due = |every: usize| state.done == total || (every > 0 && state.done.is_multiple_of(every));
        let is_kept = is_due(config.checkpoint_every);
        if valid.is_empty() {
            state.best_step = state.done;
        } else if is_due(config.validate_every) {
            let loss = validate(lm, &valid, config.micro_batch_tokens)?;
            record.validation_loss = Some(loss);
            tracing::info!(step = state.done, of = total, loss = record.loss, validation_loss = loss, "validated");
            state.stale += 1;
            if loss < state.best_loss {
                (state.best_step, state.best_loss, state.stale) = (state.done, loss, 0);
                state.best = lm.parameters().values();
            }
        }
        state.curve.push(record);
        if valid.is_empty() && is_kept {
            state.best = lm.parameters().values();
        }
        if is_kept || is_over(&state) {
            save(lm, &state, around, &purpose)?;
        }
    }
    progress.finish();
    if valid.is_empty() {
        state.best = lm.parameters().values();
    }
    write_curve(&state.curve, around)?;
    lm.parameters_mut().set_values(&state.best);
    let best_loss = (!valid.is_empty()).then_some(state.best_loss);
    Ok(Aligned { curve: state.curve, best_step: state.best_step, best_loss, account })
}

/// One step of Adam on the weighted mean over the targets of all `batches`, whose gradients are added up.
///
/// # Errors
/// What [`TrainableLm::target_logprobs`] and [`Accumulation`] say.
pub fn learn(
    lm: &mut TrainableLm,
    batches: &[Vec<&Example>],
    learning_rate: f64,
    clip: f64,
    random: &Random,
) -> Result<Stepped> {
    accumulate(lm, batches, random)?.step(lm.parameters_mut(), learning_rate, clip)
}

/// The gradient of that step.
///
/// # Errors
/// As [`learn`].
pub fn accumulate(lm: &TrainableLm, batches: &[Vec<&Example>], random: &Random) -> Result<Accumulation> {
    let weight: f64 = batches.iter().flatten().map(|e| e.weight()).sum();
    let mut accumulation = Accumulation::default();
    for (i, examples) in batches.iter().enumerate() {
        let batch = Batch::new(examples.iter().copied())?;
        let mut pass = lm.training(random.child(i as u64));
        let logprobs = lm.target_logprobs(&mut pass, &batch, true)?;
        let weights = weights_of(&pass, &batch, weight);
        accumulation.add(pass, loss::weighted(logprobs, weights))?;
    }
    Ok(accumulation)
}

/// The weighted mean of `−log p` over the examples' targets.
///
/// # Errors
/// What [`TrainableLm::target_logprobs`] says; `Kind::Input` where the loss is no number; `Kind::Temporary` where the device
/// fails.
pub fn validate(lm: &TrainableLm, examples: &[Example], batch_tokens: usize) -> Result<f64> {
    let weight: f64 = examples.iter().map(Example::weight).sum();
    let mut sum = 0.0;
    for part in packing::batches(examples, batch_tokens) {
        let batch = Batch::new(part.iter().map(|i| &examples[*i]))?;
        let mut pass = lm.scoring();
        let logprobs = crate::llm::ops::into_vec(lm.target_logprobs(&mut pass, &batch, true)?)?;
        sum -= logprobs.iter().zip(&batch.weights).map(|(p, w)| f64::from(*p) * f64::from(*w)).sum::<f64>();
    }
    let loss = if weight > 0.0 { sum / weight } else { 0.0 };
    match loss.is_finite() {
        true => Ok(loss),
        false => Err(Error::new(Kind::Input, "training diverged: the validation loss is no number")
            .hint("lower the learning rate")),
    }
}

fn weights_of(pass: &Pass, batch: &Batch, total: f64) -> burn::tensor::Tensor<1> {
    let scale = if total > 0.0 { 1.0 / total } else { 0.0 };
    let weights: Vec<f32> = batch.weights.iter().map(|w| (f64::from(*w) * scale) as f32).collect();
    let n = weights.len();
    pass.constant(weights, [n])
}

/// Tells whether two trainings begin with the same adapter.
pub(crate) fn begun_at(lm: &TrainableLm) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let names: Vec<String> = lm.parameters().names().map(str::to_owned).collect();
    for name in names {
        let Some(slot) = lm.parameters().slot(&name) else { continue };
        hasher.update(name.as_bytes());
        lm.parameters().read(slot)?.iter().for_each(|v| {
            hasher.update(&v.to_bits().to_le_bytes());
        });
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}

fn lines(curve: &[Record]) -> Result<String> {
    let lines: std::result::Result<Vec<String>, _> = curve.iter().map(serde_json::to_string).collect();
    Ok(lines.context(Kind::Internal, || "the curve cannot be written".to_owned())?.join("\n"))
}

fn write_curve(curve: &[Record], around: &Surroundings<'_>) -> Result<()> {
    let Some(path) = &around.curve else { return Ok(()) };
    disk::write_whole(path, lines(curve)? + "\n")
        .context(Kind::Temporary, || format!("cannot write `{}`", path.display()))
}

fn save(lm: &TrainableLm, state: &State, around: &Surroundings<'_>, purpose: &str) -> Result<()> {
    write_curve(&state.curve, around)?;
    let Some(path) = &around.checkpoint else { return Ok(()) };
    let metadata = [
        ("purpose", purpose.to_owned()),
        ("done", state.done.to_string()),
        ("best_step", state.best_step.to_string()),
        ("best_loss", state.best_loss.to_string()),
        ("stale", state.stale.to_string()),
        ("curve", lines(&state.curve)?),
    ];
    let metadata: HashMap<String, String> = metadata.map(|(key, value)| (key.to_owned(), value)).into();
    lm.parameters().save_checkpoint(path, &state.best, metadata)
}

/// The state to begin with: the checkpoint's where there is one.
fn resume(lm: &mut TrainableLm, around: &Surroundings<'_>, purpose: &str) -> Result<State> {
    let best = lm.parameters().values();
    let fresh = State { curve: Vec::new(), done: 0, best_step: 0, best_loss: f64::INFINITY, stale: 0, best };
    let Some(path) = around.checkpoint.as_ref().filter(|path| path.exists()) else { return Ok(fresh) };
    let broken = |what: &str| {
        Error::new(Kind::Config, what)
            .with("file", path.display())
            .hint("remove the file to train from the start, or name another checkpoint")
    };
    let begun = lm.parameters().values();
    let (best, metadata) = lm.parameters_mut().load_checkpoint(path)?;
    let entry = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
    if entry("purpose") != purpose {
        lm.parameters_mut().set_values(&begun);
        return Err(broken("the checkpoint belongs to another training"));
    }
    let curve: std::result::Result<Vec<Record>, _> = entry("curve").lines().map(serde_json::from_str).collect();
    let numbers = (entry("done").parse(), entry("best_step").parse(), entry("stale").parse());
    match (curve, numbers, entry("best_loss").parse()) {
        (Ok(curve), (Ok(done), Ok(best_step), Ok(stale)), Ok(best_loss)) => {
            tracing::info!(step = done, file = %path.display(), "training goes on");
            Ok(State { curve, done, best_step, best_loss, stale, best })
        }
        _ => Err(broken("the checkpoint's state cannot be read")),
    }
}
