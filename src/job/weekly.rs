//! The weekly file: what improves the model, and how.
//!
//! Knows its keys and what they may hold; the steps themselves are in the modules after this one.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config;
use crate::error::{Error, Kind, Result};
use crate::llm::adapter::TARGETS;

/// The weekly file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // every key is documented in jobs/weekly.toml
pub struct Spec {
    pub name: String,
    pub job: PathBuf,
    #[serde(default)]
    pub set: Vec<String>,
    pub out: String,
    pub device: String,
    pub examples: ExamplesSpec,
    pub align: AlignSpec,
    #[serde(default)]
    pub reward: RewardSpec,
}

/// `[examples]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ExamplesSpec {
    pub max: u64,
    pub pairs_per_user: u64,
    pub measured: usize,
}

/// `[align]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AlignSpec {
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub targets: Vec<String>,
    pub learning_rate: f64,
    pub warmup: f64,
    pub epochs: usize,
    pub max_steps: usize,
    pub batch_tokens: usize,
    pub micro_batch_tokens: usize,
    pub clip: f64,
    pub validate_every: usize,
    pub patience: usize,
    pub checkpoint_every: usize,
    pub seed: u64,
}

/// `[reward]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct RewardSpec {
    pub max_examples: u64,
    pub rows_per_user: u64,
    pub generated: usize,
    pub epochs: usize,
    pub patience: usize,
    pub learning_rate: f64,
    pub batch: usize,
    pub hidden: usize,
    pub folds: usize,
    pub unknown: f64,
    pub resamples: usize,
    pub shuffled: f64,
    pub probe: f64,
    pub needs_gain: bool,
    pub seed: u64,
    pub second_seed: u64,
}

impl Default for RewardSpec {
    /// As jobs/weekly.toml has it: a weekly file from before this section stays one.
    fn default() -> Self {
        RewardSpec {
            max_examples: 6000,
            rows_per_user: 20,
            generated: 96,
            epochs: 8,
            patience: 2,
            learning_rate: 1e-3,
            batch: 256,
            hidden: 32,
            folds: 4,
            unknown: 0.02,
            resamples: 1000,
            shuffled: 0.002,
            probe: 0.65,
            needs_gain: true,
            seed: 0,
            second_seed: 1,
        }
    }
}

impl RewardSpec {
    fn problem(&self) -> Option<&'static str> {
        let sizes = [self.epochs, self.patience, self.batch, self.hidden, self.resamples];
        match self {
            _ if sizes.contains(&0) => Some("[reward] epochs, patience, batch, hidden and resamples must be positive"),
            r if r.max_examples == 0 || r.rows_per_user == 0 => {
                Some("[reward] max_examples and rows_per_user must be positive")
            }
            r if !(r.learning_rate.is_finite() && r.learning_rate > 0.0) => {
                Some("[reward] learning_rate must be above 0")
            }
            r if r.folds < 2 => Some("[reward] folds: a judge judges users it did not learn from, so two or more"),
            r if !(0.0..1.0).contains(&r.unknown) => Some("[reward] unknown must be in [0, 1)"),
            r if !(r.shuffled > 0.0 && r.probe > 0.0) => Some("[reward] shuffled and probe must be above 0"),
            r if r.seed == r.second_seed => Some("[reward] second_seed: the second judge needs a seed of its own"),
            _ => None,
        }
    }
}

/// Reads a weekly file.
///
/// # Errors
/// `Kind::Config`.
pub fn load(path: &Path) -> Result<Spec> {
    let in_file = |e: Error| e.with("file", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| {
        in_file(Error::new(Kind::Config, "cannot read the weekly file")).hint("jobs/weekly.toml is one").source(e)
    })?;
    let mut spec: Spec = toml::from_str(&text).map_err(|e| {
        in_file(Error::new(Kind::Config, format!("the weekly file is wrong: {}", e.to_string().trim_end())))
            .hint("jobs/weekly.toml has every key with its meaning")
    })?;
    let env = config::environment();
    for text in [&mut spec.out, &mut spec.device] {
        *text = config::expand_text(text, &env)
            .map_err(|name| Error::new(Kind::Config, format!("the variable {name} is not set and has no default")))
            .map_err(in_file)?;
    }
    let a = &spec.align;
    let share = |x: f64| (0.0..1.0).contains(&x);
    let problem = match &spec {
        s if s.out.contains("://") => Some(format!("out: checkpoints need a folder of this machine, not {}", s.out)),
        s if s.examples.max == 0 => Some("[examples] max must be positive".to_owned()),
        _ if !(a.learning_rate.is_finite() && a.learning_rate > 0.0) => {
            Some("[align] learning_rate must be above 0".into())
        }
        _ if !share(a.warmup) || !share(a.dropout) => Some("[align] warmup and dropout must be in [0, 1)".into()),
        _ if a.rank == 0 || !(a.alpha.is_finite() && a.alpha > 0.0) => {
            Some("[align] rank and alpha must be above 0".into())
        }
        _ if a.targets.is_empty() || a.targets.iter().any(|t| !TARGETS.contains(&t.as_str())) => {
            Some(format!("[align] targets: name one or more of {}, not {:?}", TARGETS.join(", "), a.targets))
        }
        _ if a.epochs == 0 || a.batch_tokens == 0 || a.micro_batch_tokens == 0 => {
            Some("[align] epochs, batch_tokens and micro_batch_tokens must be positive".into())
        }
        s => s.reward.problem().map(str::to_owned),
    };
    match problem {
        Some(what) => Err(in_file(Error::new(Kind::Config, what))),
        None => Ok(spec),
    }
}
