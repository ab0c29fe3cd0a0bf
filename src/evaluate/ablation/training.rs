//! What is asked for, and how one arm is trained: every learning rate is tried, the best by validation kept.
//!
//! Knows arms, plans and checkpoints; knows nothing of what is measured afterwards.

use std::path::PathBuf;

use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::evaluate::arm::Arm;
use crate::evaluate::arms::Data;
use crate::evaluate::results::{Contrasted, Measurement};
use crate::llm::device::ComputeDevice;
use crate::recommend::din;
use crate::recommend::fit::{Model, Plan, Trained};
use crate::recommend::item_table::Reading;
use crate::recommend::log_linear;
use crate::recommend::sasrec;
use crate::recommend::split::Target;

/// A recommender's sizes and the budget that every arm has: a section of an evaluation's file.
#[derive(Debug, Clone, Deserialize)]
pub struct Training<C> {
    /// Sizes.
    #[serde(flatten)]
    pub config: C,
    /// All are tried; validation chooses.
    pub learning_rates: Vec<f64>,
    /// Further widths of item vectors and states that are tried, of models of the next item; validation chooses.
    #[serde(default)]
    pub widths: Vec<usize>,
    /// Epochs, patience and the like. Its rate and its checkpoint are not looked at.
    #[serde(flatten)]
    pub plan: Plan,
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// In this order.
    pub arms: Vec<Arm>,
    /// Trainings of every arm: seeds 0, 1, 2 and so on.
    pub seeds: u64,
    /// Which held-out events are ranked.
    pub targets: Vec<Target>,
    /// How often users are drawn anew.
    pub resamples: usize,
    /// Of intervals, between 0 and 1.
    pub confidence: f64,
    /// How models of the next item read vectors, in the arms that do not say otherwise.
    pub reading: Reading,
    /// SASRec, where it is asked for.
    pub sasrec: Option<Training<sasrec::Config>>,
    /// The log-linear model, where it is asked for.
    pub log_linear: Option<Training<log_linear::Config>>,
    /// DIN, where it is asked for.
    pub din: Option<Training<din::Config>>,
    /// A folder for checkpoints: an evaluation that was killed goes on where it was.
    pub checkpoints: Option<PathBuf>,
    /// Where to train.
    pub device: ComputeDevice,
}

/// What was found on one data set.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Metrics by arm.
    pub measurements: Vec<Measurement>,
    /// Differences between arms.
    pub contrasts: Vec<Contrasted>,
}

/// The name of a target in tables.
pub fn target_name(target: Target) -> &'static str {
    match target {
        Target::Last => "last",
        Target::First => "first",
        Target::Successive => "successive",
    }
}

/// What goes on around an evaluation.
pub struct Around<'a> {
    /// Is told of each training's end.
    pub say: &'a mut dyn FnMut(String),
    /// Asked before every epoch and after every training; what it refuses with ends the evaluation.
    pub go_on: &'a dyn Fn() -> Result<()>,
}

/// Trains with every learning rate and keeps what validates best.
pub(super) fn best<M: Model>(
    evaluation: &Evaluation,
    what: &str,
    rates: &[f64],
    plan: &Plan,
    make: &dyn Fn() -> Result<M>,
    train: &mut dyn FnMut(&mut M, &Plan) -> Result<Trained>,
) -> Result<(M, Trained, f64)> {
    let mut best: Option<(M, Trained, f64)> = None;
    for rate in rates {
        let checkpoint =
            evaluation.checkpoints.as_ref().map(|folder| folder.join(format!("{what}-{rate}.safetensors")));
        let mut model = make()?;
        let trained = train(&mut model, &Plan { learning_rate: *rate, checkpoint, ..plan.clone() })?;
        if best.as_ref().is_none_or(|(_, so_far, _)| trained.best_score > so_far.best_score) {
            best = Some((model, trained, *rate));
        }
    }
    best.ok_or_else(|| Error::new(Kind::Config, "an evaluation wants a learning rate or more"))
}

/// An arm in the names of checkpoints. With vectors of histories, or with those of other texts, it is another training than without.
pub(super) fn told_name(data: &Data<'_>, arm: Arm, origin: usize) -> String {
    let suffix = if data.histories_of(arm, origin).is_some() { "-histories" } else { "" };
    let of = match (arm, arm.texts_of(data.arms)) {
        (Arm::Random | Arm::Leak, Some(Arm::Evidence)) => "-of-A2r",
        (Arm::Shuffled, Some(Arm::Corrected)) => "-of-A6",
        // With sampled reasons there is more to choose from.
        (arm, _) if arm.corrects_items() && data.arms.contains(&Arm::Sampled) => "-of-A4s",
        _ => "",
    };
    format!("{}{of}{suffix}", arm.code())
}

pub(super) fn story(
    data: &Data<'_>,
    recommender: &str,
    arm: Arm,
    origin: usize,
    seed: u64,
    trained: &Trained,
    (rate, form): (f64, &str),
) -> String {
    let label = data.origins.get(origin).filter(|_| data.origins.len() > 1);
    let origin = label.map_or_else(String::new, |origin| format!(" at {}", origin.label));
    format!(
        "{}{origin} {recommender} {} seed {seed}: validation {:.4} in epoch {} of {}, rate {rate}{}{form}, {:.0} s",
        data.name,
        arm.code(),
        trained.best_score,
        trained.best_epoch,
        trained.epochs.len(),
        if form.is_empty() { "" } else { ", form " },
        trained.epochs.iter().map(|e| e.seconds).sum::<f64>(),
    )
}
