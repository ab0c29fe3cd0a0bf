//! A judge: one reward model for every fold of users, and whether it is fit to be a reward.
//!
//! Every user belongs to one of K folds, and the model of a fold learns from the other folds' users only: all scores are out
//! of fold. A second judge is the same with another seed, which gives other first weights and other folds.
//! [`Gates`] say whether reasons tell anything (they may tell nothing), whether others' reasons tell nothing, and whether
//! they spell out the label. Knows examples; knows nothing of texts or tables, or of how one model learns.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::llm::device::ComputeDevice;
use crate::llm::ops::into_vec;
use crate::network::layers::{Linear, Pass};
use crate::network::parameters::{Init, Parameters};
use crate::network::random::Random;
use crate::reward::example::{Attributes, RewardExample};
use crate::reward::model::{Config, Judged, RewardModel};
use crate::reward::train::{Plan, Trained, cross_entropy, fit, others_reason, own_reasons};
use crate::statistics::{Contrast, Interval, auc, paired_bootstrap, paired_bootstrap_auc};

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
