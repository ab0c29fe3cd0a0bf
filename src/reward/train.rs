//! How a reward model learns, which models may judge whom, and whether it is fit to be a reward.
//!
//! Every user belongs to one of K folds, and the model of a fold learns from the other folds' users only: all scores are out
//! of fold. A second judge is the same with another seed, which gives other first weights and other folds. An epoch's
//! randomness depends on the seed and its number alone, and a checkpoint is written after every epoch, whole or not at all.
//! [`Gates`] say whether reasons tell anything (they may tell nothing), whether others' reasons tell nothing, and whether
//! they spell out the label. Knows examples; knows nothing of texts or tables.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::llm::device::ComputeDevice;
use crate::llm::ops::into_vec;
use crate::network::layers::{Linear, Pass};
use crate::network::parameters::{Init, Parameters, Values};
use crate::network::random::Random;
use crate::reward::model::{Attributes, Batch, Config, Judged, Past, RewardExample, RewardModel};
use crate::statistics::{Contrast, Interval, auc, paired_bootstrap, paired_bootstrap_auc};

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
    /// All epochs, the first first.
    pub epochs: Vec<Epoch>,
    /// The best epoch, from 1; the last one where there was no validation.
    pub best_epoch: usize,
}

/// A reason of another user and another item, where there is one among 64 draws; else of any other example.
fn others_reason<'a>(examples: &[&'a RewardExample<'a>], of: usize, random: &mut Random) -> &'a [f32] {
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
fn cross_entropy(logits: Tensor<2>, labels: Tensor<2>) -> Tensor<2> {
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
fn own_reasons<'a>(examples: &[&RewardExample<'a>]) -> Vec<Vec<Option<&'a [f32]>>> {
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

/// What a training of a judge touches besides its models.
pub struct Around<'a> {
    /// Holds a checkpoint for every fold.
    pub directory: Option<&'a Path>,
    /// Asked before every fold: an error ends the training, with the folds before kept in `directory`.
    pub go_on: &'a dyn Fn() -> Result<()>,
}

/// One model for every fold of users, which learned from the users of the other folds.
pub struct Judge {
    models: Vec<RewardModel>,
    trained: Vec<Trained>,
    seed: u64,
}

/// The fold of a user: users' numbers need not be dense.
fn fold_of(user: u32, folds: usize, seed: u64) -> usize {
    Random::new(seed, "folds").child(u64::from(user)).below(folds)
}

impl Judge {
    /// Trains one model for each fold. `directory`, where given, holds a checkpoint for every fold. A second judge is one of
    /// another seed.
    ///
    /// # Errors
    /// `Kind::Config` for fewer than two folds; as [`fit`].
    pub fn train(
        examples: &[&RewardExample<'_>],
        attributes: &Arc<Attributes>,
        config: &Config,
        plan: &Plan,
        directory: Option<&Path>,
        seed: u64,
        device: &ComputeDevice,
    ) -> Result<Self> {
        Self::train_in(examples, attributes, config, plan, &Around { directory, go_on: &|| Ok(()) }, seed, device)
    }

    /// As [`Judge::train`], and may be asked to stop.
    ///
    /// # Errors
    /// As [`Judge::train`]; what `around.go_on` says.
    pub fn train_in(
        examples: &[&RewardExample<'_>],
        attributes: &Arc<Attributes>,
        config: &Config,
        plan: &Plan,
        around: &Around<'_>,
        seed: u64,
        device: &ComputeDevice,
    ) -> Result<Self> {
        let directory = around.directory;
        if plan.folds < 2 {
            return Err(Error::new(
                Kind::Config,
                "a reward model judges users that it did not learn from: folds must be \
                two or more",
            )
            .with("folds", plan.folds));
        }
        if let Some(directory) = directory {
            let failed = || format!("cannot make the folder `{}`", directory.display());
            std::fs::create_dir_all(directory).context(Kind::Temporary, failed)?;
        }
        let (mut models, mut trained) = (Vec::new(), Vec::new());
        for fold in 0..plan.folds {
            (around.go_on)()?;
            let validates = |user: u32| {
                Random::new(seed, "validation").child(fold as u64).child(u64::from(user)).unit() < plan.validation
            };
            let known = examples.iter().copied().filter(|e| fold_of(e.user(), plan.folds, seed) != fold);
            let (valid, train): (Vec<_>, Vec<_>) = known.partition(|e| validates(e.user()));
            let first = Random::new(seed, "models").child(fold as u64).bits();
            let mut model = RewardModel::new(attributes.clone(), config.clone(), first, device)?;
            let checkpoint: Option<PathBuf> = directory.map(|d| d.join(format!("fold-{fold}.safetensors")));
            let of_fold = fit(&mut model, &train, &valid, plan, checkpoint.as_deref())?;
            tracing::info!(fold, epochs = of_fold.epochs.len(), best = of_fold.best_epoch, "reward model trained");
            models.push(model);
            trained.push(of_fold);
        }
        Ok(Judge { models, trained, seed })
    }

    /// A judge of one model for every fold, as [`Judge::models`] gave them to a judge of this seed.
    ///
    /// # Errors
    /// `Kind::Config` for fewer than two.
    pub fn of(models: Vec<RewardModel>, seed: u64) -> Result<Self> {
        if models.len() < 2 {
            return Err(Error::new(Kind::Config, "a judge has two folds or more").with("folds", models.len()));
        }
        Ok(Judge { models, trained: Vec::new(), seed })
    }

    /// The folds' models.
    pub fn models(&self) -> &[RewardModel] {
        &self.models
    }

    /// The seed, which decides the folds.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The models' sizes.
    pub fn config(&self) -> Option<&Config> {
        self.models.first().map(RewardModel::config)
    }

    /// The fold of a user, whose model has not learned from this user.
    pub fn fold(&self, user: u32) -> usize {
        fold_of(user, self.models.len(), self.seed)
    }

    /// How the folds' trainings went; empty for a judge that was read.
    pub fn trained(&self) -> &[Trained] {
        &self.trained
    }

    /// As [`RewardModel::judge`], every example by the model of its user's fold.
    ///
    /// # Errors
    /// As [`RewardModel::judge`].
    pub fn judge(&self, examples: &[&RewardExample<'_>], asked: &[Vec<Option<&[f32]>>]) -> Result<Vec<Vec<Judged>>> {
        if examples.len() != asked.len() {
            return Err(Error::new(Kind::Internal, "there is not one list of reasons for every example"));
        }
        let mut out = vec![Vec::new(); examples.len()];
        for (fold, model) in self.models.iter().enumerate() {
            let rows: Vec<usize> = (0..examples.len()).filter(|row| self.fold(examples[*row].user()) == fold).collect();
            let of_fold: Vec<&RewardExample<'_>> = rows.iter().map(|row| examples[*row]).collect();
            let asked: Vec<Vec<Option<&[f32]>>> = rows.iter().map(|row| asked[*row].clone()).collect();
            rows.into_iter().zip(model.judge(&of_fold, &asked)?).for_each(|(row, judged)| out[row] = judged);
        }
        Ok(out)
    }

    /// Measures what [`Gates`] say, over all reasons of `examples`, by models that do not know their users.
    ///
    /// # Errors
    /// `Kind::Input` where all labels are alike; as [`RewardModel::judge`].
    pub fn gates(&self, examples: &[&RewardExample<'_>], resamples: usize) -> Result<Gates> {
        let mut random = Random::new(self.seed, "gates");
        let mut asked = own_reasons(examples);
        for (row, asked) in asked.iter_mut().enumerate() {
            let own = asked.len();
            asked.extend((0..own * OTHERS).map(|_| Some(others_reason(examples, row, &mut random))));
        }
        let judged = self.judge(examples, &asked)?;
        let (mut with, mut without, mut shuffled, mut gains) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut labels, mut users) = (Vec::new(), Vec::new());
        for (example, judged) in examples.iter().zip(&judged) {
            let (own, others) = judged.split_at(judged.len() / (1 + OTHERS));
            for own in own {
                with.push(f64::from(own.logit));
                without.push(f64::from(own.without));
                gains.push(f64::from(own.gain));
                labels.push(example.label());
                users.push(example.user());
            }
            shuffled.extend(others.iter().map(|other| f64::from(other.logit)));
        }
        let of = |scores: &[f64]| {
            auc(scores, &labels).ok_or_else(|| Error::new(Kind::Input, "all examples have the same label"))
        };
        let (auc_with, auc_without) = (of(&with)?, of(&without)?);
        let contrast =
            |a: &[f64], b: &[f64]| paired_bootstrap_auc(&[[a, b]], &labels, &users, resamples, CONFIDENCE, self.seed);
        let probe = contrast(&self.probe(examples)?, &vec![0.0; labels.len()])?.interval;
        Ok(Gates {
            auc: auc_with,
            auc_without,
            difference: contrast(&with, &without)?,
            shuffled: {
                let (without, labels, users) = (each(&without), each(&labels), each(&users));
                paired_bootstrap_auc(&[[&shuffled, &without]], &labels, &users, resamples, CONFIDENCE, self.seed)?
            },
            // Against a constant, whose AUC is a half.
            probe: Interval { mean: probe.mean + 0.5, low: probe.low + 0.5, high: probe.high + 0.5 },
            gain: paired_bootstrap(&[&gains], &users, resamples, CONFIDENCE, self.seed)?.interval,
        })
    }

    /// Logits of a linear probe from reasons alone to labels, for every reason of every example, out of fold.
    fn probe(&self, examples: &[&RewardExample<'_>]) -> Result<Vec<f64>> {
        let Some(first) = self.models.first() else { return Ok(Vec::new()) };
        let (width, device) = (first.config().reason, first.parameters().device());
        let cases: Vec<(usize, &[f32], bool)> =
            examples.iter().flat_map(|e| e.reasons().iter().map(|r| (self.fold(e.user()), *r, e.label()))).collect();
        let mut out = vec![0.0; cases.len()];
        for fold in 0..self.models.len() {
            let (mut known, asked): (Vec<usize>, Vec<usize>) = (0..cases.len()).partition(|i| cases[*i].0 != fold);
            if known.is_empty() {
                continue;
            }
            let n = known.len() as f64;
            // Standardised, so that one rate of learning fits any encoder.
            let moment =
                |k: usize, f: &dyn Fn(f64) -> f64| known.iter().map(|i| f(f64::from(cases[*i].1[k]))).sum::<f64>() / n;
            let scale: Vec<(f64, f64)> = (0..width)
                .map(|k| {
                    let mean = moment(k, &|v| v);
                    (mean, moment(k, &|v| (v - mean).powi(2)).sqrt().max(1e-6))
                })
                .collect();
            let rows = |of: &[usize]| -> Vec<f32> {
                let standard =
                    |(v, (mean, deviation)): (&f32, &(f64, f64))| ((f64::from(*v) - mean) / deviation) as f32;
                of.iter().flat_map(|i| cases[*i].1.iter().zip(&scale).map(standard)).collect()
            };
            let mut parameters = Parameters::new(self.seed, device);
            parameters.set_weight_decay(1e-2);
            let linear = Linear::new(&mut parameters, "probe", width, 1, Init::Constant(0.0));
            let random = Random::new(self.seed, "probe").child(fold as u64);
            for epoch in 0..PROBE_EPOCHS {
                random.child(epoch).shuffle(&mut known);
                for batch in known.chunks(256) {
                    let pass = Pass::training(&parameters, random.clone());
                    let x = pass.constant(rows(batch), [batch.len(), width]);
                    let labels = batch.iter().map(|i| f32::from(cases[*i].2)).collect();
                    let labels = pass.constant(labels, [batch.len(), 1]);
                    let loss = cross_entropy(linear.forward(&pass, x), labels).mean();
                    parameters.step(pass.leaves, loss.backward(), 1e-2);
                }
            }
            let pass = Pass::scoring(&parameters);
            for asked in asked.chunks(4096) {
                let x = pass.constant(rows(asked), [asked.len(), width]);
                let logits = into_vec(linear.forward(&pass, x))?;
                asked.iter().zip(logits).for_each(|(i, logit)| out[*i] = f64::from(logit));
            }
        }
        Ok(out)
    }
}

/// Every value as often as others' reasons are drawn for it.
fn each<T: Copy>(values: &[T]) -> Vec<T> {
    values.iter().flat_map(|value| [*value; OTHERS]).collect()
}

/// Others' reasons that are drawn for every reason: which ones is noise in AUC.
const OTHERS: usize = 4;
const CONFIDENCE: f64 = 0.95;
const PROBE_EPOCHS: u64 = 10;

/// How much the gates let pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// How far others' reasons may move AUC, either way.
    pub shuffled: f64,
    /// The highest AUC of the probe.
    pub probe: f64,
    /// Whether AUC with the reasons must be above that without.
    pub needs_gain: bool,
}

/// Whether a judge may reward reasons: all out of fold, with 95 % bootstrap intervals over users.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gates {
    /// AUC of f(z).
    pub auc: f64,
    /// AUC of f_0.
    pub auc_without: f64,
    /// AUC of f(z) less that of f_0: must be above 0, its interval too.
    pub difference: Contrast,
    /// AUC with another's reason less that of f_0: must be close to 0.
    pub shuffled: Contrast,
    /// AUC of a linear probe that sees reasons only: high where they spell out the label.
    pub probe: Interval,
    /// Mean information gain, in nats.
    pub gain: Interval,
}

impl Gates {
    /// Lets the judge pass, or tells all gates that it fails and what to do.
    ///
    /// # Errors
    /// `Kind::Audit` where a gate fails.
    pub fn check(&self, limits: Limits) -> Result<()> {
        let shown = |i: Interval| format!("{:.4} [{:.4}, {:.4}]", i.mean, i.low, i.high);
        let gates = [
            (
                "gain",
                !limits.needs_gain || self.difference.interval.low > 0.0,
                shown(self.difference.interval),
                "reasons tell no more of the labels than history and item do: check that the vectors belong to their \
                 pairs, write better reasons, or give more examples",
            ),
            (
                "shuffled",
                self.shuffled.interval.mean.abs() < limits.shuffled,
                shown(self.shuffled.interval),
                "reasons of other users and items move the judgement: give more examples or train longer, so that the \
                 model learns to ignore them",
            ),
            (
                "probe",
                self.probe.mean < limits.probe,
                shown(self.probe),
                "reasons alone tell the label: keep verdicts, feelings and labels out of prompts and out of the text that \
                 is encoded",
            ),
        ];
        let failed: Vec<_> = gates.into_iter().filter(|(_, passes, _, _)| !passes).collect();
        if failed.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = failed.iter().map(|(name, ..)| *name).collect();
        let hints: Vec<&str> = failed.iter().map(|(.., hint)| *hint).collect();
        let message = format!("the reward model is not fit to judge reasons; it fails: {}", names.join(", "));
        let error = Error::new(Kind::Audit, message).hint(hints.join("; "));
        Err(failed.into_iter().fold(error, |error, (name, _, value, _)| error.with(name, value)))
    }
}
