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
        _ => None,
    };
    match problem {
        Some(what) => Err(in_file(Error::new(Kind::Config, what))),
        None => Ok(spec),
    }
}
