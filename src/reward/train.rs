//! How a reward model learns: the loss, the epochs, when to stop, and checkpoints.
//!
//! An epoch's randomness depends on the seed and its number alone, and a checkpoint is written after every epoch, whole or
//! not at all. Knows examples; knows nothing of texts, tables, or of which users a model may judge.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::{Tensor, activation};
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::llm::ops::into_vec;
use crate::network::layers::Pass;
use crate::network::parameters::Values;
use crate::network::random::Random;
use crate::reward::example::{Past, RewardExample};
use crate::reward::model::{Batch, Judged, RewardModel};

/// How long, how fast and on what to learn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Most epochs.
    pub epochs: usize,
    /// Epochs without a new best after which training stops.
    pub patience: usize,
    /// AdamW's.
    pub learning_rate: f64,
    /// AdamW's.
    pub weight_decay: f64,
    /// Examples of a batch.
    pub batch: usize,
    /// How often the null stands for a reason, so that f_0 is calibrated.
    pub null_dropout: f64,
    /// How often item 0 stands for an item, of histories too, so that it is one that nothing is known of; 0 where item 0
    /// is an item as any other.
    pub unknown: f64,
    /// l_s, weight of the margin against wrong reasons.
    pub margin_weight: f64,
    /// m, in nats.
    pub margin: f64,
    /// l_0, weight of keeping wrong reasons at f_0.
    pub anchor_weight: f64,
    /// Folds of users; at least two.
    pub folds: usize,
    /// Share of the other folds' users whose examples only tell when to stop.
    pub validation: f64,
}

/// What an epoch brought: both mean over examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Epoch {
    /// The whole loss.
    pub loss: f64,
    /// Cross-entropy with the reasons plus that without, over the validation examples, where there are any.
    pub validation: Option<f64>,
}

/// A finished training. The model holds the best weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trained {
    /// All epochs, in order.
    pub epochs: Vec<Epoch>,
    /// The best epoch, from 1; the last one where there was no validation.
    pub best_epoch: usize,
}

/// A reason of another user and another item, where there is one among 64 draws; else of any other example.
pub(super) fn others_reason<'a>(examples: &[&'a RewardExample<'a>], of: usize, random: &mut Random) -> &'a [f32] {
    let own = examples[of];
    let mut donor = examples[(of + 1) % examples.len()];
    for _ in 0..64 {
        let drawn = examples[random.below(examples.len())];
        if drawn.user() != own.user() && drawn.item() != own.item() {
            donor = drawn;
            break;
        }
    }
    donor.reasons()[random.below(donor.reasons().len())]
}

/// `−log p(label)` for logits, elementwise.
pub(super) fn cross_entropy(logits: Tensor<2>, labels: Tensor<2>) -> Tensor<2> {
    let softplus = activation::relu(logits.clone()) + (-logits.clone().abs()).exp().log1p();
    softplus - logits * labels
}

/// The loss of some of the examples: `BCE(y, f(z)) + BCE(y, f_0) + l_s · max(0, m − (Δ(z) − sg Δ(w))) + l_0 · (f(w) − sg f_0)²`,
/// where w is a corrupted reason of the example as often as another's, if it has one. There is no margin where the null
/// stands for z: there is nothing that could be better than w. Only z is pushed by the margin: a w that is pushed too learns to
/// mislead, and others' reasons then move AUC, which the gates forbid.
fn loss(
    model: &RewardModel,
    pass: &mut Pass,
    examples: &[&RewardExample<'_>],
    chosen: &[usize],
    plan: &Plan,
) -> Tensor<1> {
    let (n, mut random) = (chosen.len(), pass.stream());
    let (mut texts, mut wrong, mut places, mut kept) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let null = 2 * n as u32;
    for (row, at) in chosen.iter().enumerate() {
        let example = examples[*at];
        texts.extend_from_slice(example.reasons()[random.below(example.reasons().len())]);
        let other = others_reason(examples, *at, &mut random);
        let corrupted = example.corrupted();
        let takes_corrupted = random.below(2) == 0 && !corrupted.is_empty();
        wrong.extend_from_slice(if takes_corrupted { corrupted[random.below(corrupted.len())] } else { other });
        let is_kept = random.unit() >= plan.null_dropout;
        kept.push(f32::from(is_kept));
        places.extend([if is_kept { row as u32 } else { null }, null, (n + row) as u32]);
    }
    texts.extend(wrong);
    let mut hidden = Vec::new();
    if plan.unknown > 0.0 {
        let mut hide = |item: u32| if random.unit() < plan.unknown { 0 } else { item };
        for example in chosen.iter().map(|at| examples[*at]) {
            let history = example.history().iter().map(|past| Past { item: hide(past.item), ..*past });
            hidden.push((history.collect::<Vec<Past>>(), hide(example.item())));
        }
    }
    let chosen: Vec<&RewardExample<'_>> = chosen.iter().map(|at| examples[*at]).collect();
    let hidden: Vec<RewardExample<'_>> =
        chosen.iter().zip(&hidden).map(|(example, (history, item))| example.of_items(*item, history)).collect();
    let chosen = if hidden.is_empty() { chosen } else { hidden.iter().collect() };
    let labels = chosen.iter().map(|e| f32::from(e.label())).collect();
    let (labels, kept) = (pass.constant(labels, [n, 1]), pass.constant(kept, [n, 1]));
    let logits = model.logits(pass, &Batch { examples: chosen, texts, places });
    let [with, without, wrong] = [0, 1, 2].map(|k| logits.clone().narrow(1, k, 1));
    let of = |logits: &Tensor<2>| cross_entropy(logits.clone(), labels.clone());
    let entropy = of(&with);
    // Δ(z) − Δ(w): what f_0 tells is in both.
    let margin = activation::relu(entropy.clone() - of(&wrong).detach() + plan.margin) * kept;
    let anchor = (wrong - without.clone().detach()).powi_scalar(2);
    (entropy + of(&without) + margin * plan.margin_weight + anchor * plan.anchor_weight).mean()
}

struct State {
    epochs: Vec<Epoch>,
    best_epoch: usize,
    best: Values,
}

impl State {
    fn best_score(&self) -> Option<f64> {
        self.epochs.get(self.best_epoch.checked_sub(1)?)?.validation
    }
}

/// Trains a model on `train` until `valid` gets no better, and leaves the best weights in it. With a `checkpoint` it goes on
/// with the training that the file holds, if it is this one, and gives the weights of one that was never interrupted.
///
/// # Errors
/// `Kind::Input` where there is too little to learn from, an example does not fit the model, or learning diverges;
/// `Kind::Config` where the checkpoint belongs to another training; what the device and the disk say.
pub fn fit(
    model: &mut RewardModel,
    train: &[&RewardExample<'_>],
    valid: &[&RewardExample<'_>],
    plan: &Plan,
    checkpoint: Option<&Path>,
) -> Result<Trained> {
    model.check(train)?;
    model.check(valid)?;
    if !(train.iter().any(|e| e.label()) && train.iter().any(|e| !e.label())) {
        return Err(Error::new(Kind::Input, "a reward model needs examples that were liked and ones that were not")
            .with("examples", train.len()));
    }
    model.parameters_mut().set_weight_decay(plan.weight_decay);
    let purpose = purpose(model, train, valid, plan)?;
    let mut state = resume(model, checkpoint, &purpose)?;
    let random = Random::new(model.parameters().seed(), "epochs");
    let is_over = |state: &State| !valid.is_empty() && state.epochs.len() >= state.best_epoch + plan.patience.max(1);
    while state.epochs.len() < plan.epochs && (state.epochs.is_empty() || !is_over(&state)) {
        let random = random.child(state.epochs.len() as u64);
        let loss = learn_epoch(model, train, plan, &random)?;
        let validation = if valid.is_empty() { None } else { Some(validate(model, valid)?) };
        tracing::debug!(epoch = state.epochs.len() + 1, loss, validation, "epoch");
        let is_best = match (validation, state.best_score()) {
            (Some(now), Some(best)) => now < best,
            _ => true,
        };
        state.epochs.push(Epoch { loss, validation });
        if is_best {
            (state.best_epoch, state.best) = (state.epochs.len(), model.parameters().values());
        }
        if let Some(path) = checkpoint {
            model.parameters().save_checkpoint(path, &state.best, metadata(&state, &purpose))?;
        }
    }
    model.parameters_mut().set_values(&state.best);
    Ok(Trained { epochs: state.epochs, best_epoch: state.best_epoch })
}

fn learn_epoch(model: &mut RewardModel, train: &[&RewardExample<'_>], plan: &Plan, random: &Random) -> Result<f64> {
    let mut order: Vec<usize> = (0..train.len()).collect();
    random.child(0).shuffle(&mut order);
    let mut sum = 0.0;
    for (i, chosen) in order.chunks(plan.batch.max(1)).enumerate() {
        let mut pass = Pass::training(model.parameters(), random.child(i as u64 + 1));
        let loss = loss(model, &mut pass, train, chosen, plan);
        let value = into_vec(loss.clone().inner())?.first().copied().unwrap_or(f32::NAN);
        if !value.is_finite() {
            return Err(Error::new(Kind::Input, "the reward model's training diverged: the loss is no number")
                .with("batch", i)
                .hint("lower the learning rate"));
        }
        model.parameters_mut().step(pass.leaves, loss.backward(), plan.learning_rate);
        sum += f64::from(value) * chosen.len() as f64;
    }
    Ok(sum / train.len() as f64)
}

/// Every example's own reasons.
pub(super) fn own_reasons<'a>(examples: &[&RewardExample<'a>]) -> Vec<Vec<Option<&'a [f32]>>> {
    examples.iter().map(|e| e.reasons().iter().copied().map(Some).collect()).collect()
}

fn validate(model: &RewardModel, valid: &[&RewardExample<'_>]) -> Result<f64> {
    let judged = model.judge(valid, &own_reasons(valid))?;
    let of = |(example, judged): (&&RewardExample<'_>, &Vec<Judged>)| {
        let entropy = |logit: f32| {
            let x = f64::from(if example.label() { logit } else { -logit });
            (-x).max(0.0) + (-x.abs()).exp().ln_1p()
        };
        judged.iter().map(|j| entropy(j.logit) + entropy(j.without)).sum::<f64>() / judged.len().max(1) as f64
    };
    Ok(valid.iter().zip(&judged).map(of).sum::<f64>() / valid.len() as f64)
}

/// Everything that makes two trainings differ, but for the number of epochs, which may be raised.
fn purpose(
    model: &RewardModel,
    train: &[&RewardExample<'_>],
    valid: &[&RewardExample<'_>],
    plan: &Plan,
) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    // Lengths stand before what they count, so that no two data sets give the same bytes.
    hasher.update(model.attributes().digest().as_bytes());
    for examples in [train, valid] {
        hasher.update(&(examples.len() as u64).to_le_bytes());
        for e in examples {
            hasher.update(format!("{} {} {} {};", e.user(), e.item(), e.label(), e.time()).as_bytes());
            for count in [e.history().len(), e.reasons().len(), e.corrupted().len()] {
                hasher.update(&(count as u64).to_le_bytes());
            }
            for past in e.history() {
                hasher.update(&past.item.to_le_bytes()).update(&past.time.to_le_bytes());
                hasher.update(&[u8::from(past.liked)]);
            }
            for value in e.reasons().iter().chain(e.corrupted()).copied().flatten() {
                hasher.update(&value.to_le_bytes());
            }
        }
    }
    let plan = Plan { epochs: 0, ..plan.clone() };
    let mut purpose = Fingerprint::new("reward model", 1);
    purpose.add_settings("config", model.config())?.add_settings("plan", &plan)?;
    purpose.add("seed", model.parameters().seed()).add("data", &hasher.finalize().to_hex()[..32]);
    Ok(purpose.digest())
}

fn metadata(state: &State, purpose: &str) -> HashMap<String, String> {
    let line = |e: &Epoch| format!("{} {}", e.loss, e.validation.map_or("-".to_owned(), |v| v.to_string()));
    let epochs: Vec<String> = state.epochs.iter().map(line).collect();
    let entries =
        [("purpose", purpose.to_owned()), ("epochs", epochs.join("\n")), ("best", state.best_epoch.to_string())];
    entries.map(|(key, value)| (key.to_owned(), value)).into()
}

/// The state to begin with: the checkpoint's where there is one.
fn resume(model: &mut RewardModel, checkpoint: Option<&Path>, purpose: &str) -> Result<State> {
    let Some(path) = checkpoint.filter(|path| path.exists()) else {
        return Ok(State { epochs: Vec::new(), best_epoch: 0, best: model.parameters().values() });
    };
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
        let (loss, validation) = line.split_once(' ')?;
        let validation = if validation == "-" { None } else { Some(validation.parse().ok()?) };
        Some(Epoch { loss: loss.parse().ok()?, validation })
    };
    let epochs: Option<Vec<Epoch>> = entry("epochs").lines().map(epoch).collect();
    match (epochs, entry("best").parse::<usize>()) {
        (Some(epochs), Ok(best_epoch)) if (1..=epochs.len()).contains(&best_epoch) => {
            tracing::info!(epochs = epochs.len(), file = %path.display(), "training goes on");
            Ok(State { epochs, best_epoch, best })
        }
        _ => Err(broken("the checkpoint's state cannot be read")),
    }
}
