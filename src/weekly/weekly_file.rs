//! The weekly file: what improves the model, and how.
//!
//! Knows its keys and what they may hold; the steps themselves are in the modules after this one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config;
use crate::directory_lock::DirectoryLock;
use crate::error::{Error, Kind, Result};
use crate::llm::adapter::TARGETS;
use crate::weekly::teacher_endpoint;

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
    #[serde(default)]
    pub reinforce: ReinforceSpec,
    pub gate: Option<GateSpec>,
    pub registry: Option<RegistrySpec>,
}

/// `[examples]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ExamplesSpec {
    pub max: u64,
    pub pairs_per_user: u64,
    pub measured: usize,
}

/// `[align]`
#[derive(Debug, Clone, Deserialize, Serialize)]
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
    #[serde(default = "validated")]
    pub validated: usize,
    #[serde(default)]
    pub teacher: String,
    #[serde(default)]
    pub teacher_model: String,
    #[serde(default = "teacher_tokens")]
    pub teacher_tokens: u64,
    #[serde(default = "teacher_at_once")]
    pub teacher_at_once: usize,
}

fn validated() -> usize {
    400
}

fn teacher_tokens() -> u64 {
    200
}

fn teacher_at_once() -> usize {
    8
}

/// `[reward]`
#[derive(Debug, Clone, Deserialize, Serialize)]
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
    /// For a weekly file from before this section.
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

/// `[reinforce]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct ReinforceSpec {
    pub method: String,
    pub from: String,
    pub rank: usize,
    pub alpha: f64,
    pub rounds: usize,
    pub prompts: usize,
    pub answers: usize,
    pub temperature: f32,
    pub top_p: f32,
    pub step_prompts: usize,
    pub epochs: usize,
    pub learning_rate: f64,
    pub warmup: f64,
    pub clip: f64,
    pub micro_batch_tokens: usize,
    pub max_words: usize,
    pub rank_weight: f64,
    pub forbidden: Vec<String>,
    pub min_gain: f64,
    pub min_deviation: f64,
    pub lambda: f64,
    pub most_weight: f64,
    pub ratio_clip: f64,
    pub kl: f64,
    pub dpo_beta: f64,
    pub anchor: f64,
    pub checked: usize,
    pub check_every: usize,
    pub patience: usize,
    pub seed: u64,
}

impl Default for ReinforceSpec {
    /// As jobs/weekly.toml has it.
    fn default() -> Self {
        ReinforceSpec {
            method: "best-of-n".into(),
            from: "adapter".into(),
            rank: 8,
            alpha: 16.0,
            rounds: 6,
            prompts: 32,
            answers: 4,
            temperature: 1.0,
            top_p: 0.95,
            step_prompts: 16,
            epochs: 1,
            learning_rate: 1e-4,
            warmup: 0.05,
            clip: 0.3,
            micro_batch_tokens: 512,
            max_words: 48,
            rank_weight: 0.05,
            forbidden: ["rating", "rated", "stars", "verdict"].map(str::to_owned).to_vec(),
            min_gain: 0.0,
            min_deviation: 0.02,
            lambda: 0.4,
            most_weight: 5.0,
            ratio_clip: 0.2,
            kl: 0.04,
            dpo_beta: 0.1,
            anchor: 0.05,
            checked: 48,
            check_every: 1,
            patience: 3,
            seed: 0,
        }
    }
}

impl ReinforceSpec {
    fn problem(&self) -> Option<&'static str> {
        let sizes = [self.rank, self.rounds, self.prompts, self.step_prompts, self.epochs, self.micro_batch_tokens];
        let above_zero =
            [self.alpha, self.learning_rate, self.lambda, self.most_weight, self.ratio_clip, self.dpo_beta];
        let from_zero = [self.clip, self.kl, self.anchor, self.min_deviation, self.rank_weight];
        match self {
            r if r.from.is_empty() || r.from.contains(['/', '\\']) || r.from.starts_with('.') => {
                Some("[reinforce] from: name a folder that stands in `out`")
            }
            _ if sizes.contains(&0) => {
                Some("[reinforce] rank, rounds, prompts, step_prompts, epochs and micro_batch_tokens must be positive")
            }
            r if r.answers < 2 => Some("[reinforce] answers: one alone is neither better nor worse, so two or more"),
            r if r.max_words == 0 || r.checked == 0 => Some("[reinforce] max_words and checked must be positive"),
            _ if above_zero.iter().any(|x| !(x.is_finite() && *x > 0.0)) => {
                Some("[reinforce] alpha, learning_rate, lambda, most_weight, ratio_clip and dpo_beta must be above 0")
            }
            _ if from_zero.iter().any(|x| !(x.is_finite() && *x >= 0.0)) => {
                Some("[reinforce] clip, kl, anchor, min_deviation and rank_weight must not be below 0")
            }
            r if !r.min_gain.is_finite() || !(0.0..1.0).contains(&r.warmup) => {
                Some("[reinforce] min_gain must be a number and warmup in [0, 1)")
            }
            r if !(r.temperature.is_finite() && r.temperature > 0.0 && r.top_p > 0.0 && r.top_p <= 1.0) => {
                Some("[reinforce] temperature must be above 0 and top_p in (0, 1]: greedy answers are all alike")
            }
            _ => None,
        }
    }
}

/// `[gate]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct GateSpec {
    pub questions: usize,
    pub format: f64,
    pub grounded: f64,
    pub distinct2_margin: f64,
    pub gain_margin: f64,
    pub evaluation: String,
    pub adapted: Vec<String>,
    pub ndcg_margin: f64,
}

/// `[registry]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct RegistrySpec {
    pub name: String,
}

impl Spec {
    /// The folder `out`, made where it is not there.
    ///
    /// # Errors
    /// `Kind::Config` where it cannot be made.
    pub fn folder(&self) -> Result<PathBuf> {
        let out = PathBuf::from(&self.out);
        let failed = |e| Error::new(Kind::Config, "cannot make the folder").with("folder", out.display()).source(e);
        std::fs::create_dir_all(&out).map_err(failed)?;
        Ok(out)
    }

    /// The job's keys while the model learns: the model as it comes, whatever the job uses, and nothing corrected.
    pub fn overrides(&self) -> Vec<String> {
        let warehouse = format!("warehouse={}", PathBuf::from(&self.out).join("warehouse").display());
        let own = [warehouse, "model.adapter=".to_owned(), "correct.judge=".to_owned()];
        self.set.iter().cloned().chain(own).collect()
    }

    /// Takes the folder `out` for this process alone.
    ///
    /// # Errors
    /// As [`DirectoryLock::take`]; as [`Spec::folder`].
    pub fn hold(&self) -> Result<DirectoryLock> {
        DirectoryLock::take(&self.folder()?)
    }

    /// `[gate]` and `[registry]`, which the whole run needs.
    ///
    /// # Errors
    /// `Kind::Config` where one is not there.
    pub fn gate(&self) -> Result<(&GateSpec, &RegistrySpec)> {
        let missing = |section| {
            Error::new(Kind::Config, format!("the weekly file has no [{section}]"))
                .hint("the whole run needs [gate] and [registry]; jobs/weekly.toml has every key with its meaning")
        };
        Ok((
            self.gate.as_ref().ok_or_else(|| missing("gate"))?,
            self.registry.as_ref().ok_or_else(|| missing("registry"))?,
        ))
    }
}

/// What is wrong with `[gate]` and `[registry]`.
fn problem_of_gate(spec: &Spec) -> Option<String> {
    let share = |x: f64| (0.0..=1.0).contains(&x);
    let margin = |x: f64| x.is_finite() && x >= 0.0;
    match &spec.gate {
        Some(g) if !share(g.format) || !share(g.grounded) => {
            Some("[gate] format and grounded must be in [0, 1]".into())
        }
        Some(g) if ![g.distinct2_margin, g.gain_margin, g.ndcg_margin].into_iter().all(margin) => {
            Some("[gate] distinct2_margin, gain_margin and ndcg_margin must be 0 or more".into())
        }
        Some(g) if g.questions == 0 => Some("[gate] questions must be positive".into()),
        Some(g) if g.adapted.iter().any(|pair| !pair.contains('=')) => {
            Some("[gate] adapted: write each as key=value".into())
        }
        _ => match &spec.registry {
            Some(r) if r.name.is_empty() => Some("[registry] name must not be empty".into()),
            _ => None,
        },
    }
}

/// Reads a weekly file.
///
/// # Errors
/// `Kind::Config`.
pub fn load(path: &Path) -> Result<Spec> {
    let in_file = |e: Error| e.with("file", path.display());
    let text = config::read_text(path, "the weekly file", "jobs/weekly.toml is one")?;
    let mut spec: Spec = toml::from_str(&text).map_err(|e| {
        in_file(Error::new(Kind::Config, format!("the weekly file is wrong: {}", e.to_string().trim_end())))
            .hint("jobs/weekly.toml has every key with its meaning")
    })?;
    let env = config::environment();
    let evaluation = spec.gate.as_mut().map(|g| &mut g.evaluation);
    for text in [&mut spec.out, &mut spec.device, &mut spec.align.teacher].into_iter().chain(evaluation) {
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
        _ if teacher_endpoint::is_address(&a.teacher) && a.teacher_model.is_empty() => {
            Some("[align] teacher_model: name the model that the endpoint is to use".into())
        }
        _ if a.teacher_tokens == 0 || a.teacher_at_once == 0 => {
            Some("[align] teacher_tokens and teacher_at_once must be positive".into())
        }
        _ if a.validated == 0 => Some("[align] validated must be positive".into()),
        _ if a.epochs == 0 || a.batch_tokens == 0 || a.micro_batch_tokens == 0 => {
            Some("[align] epochs, batch_tokens and micro_batch_tokens must be positive".into())
        }
        s => s.reward.problem().or_else(|| s.reinforce.problem()).map(str::to_owned).or_else(|| problem_of_gate(s)),
    };
    match problem {
        Some(what) => Err(in_file(Error::new(Kind::Config, what))),
        None => Ok(spec),
    }
}
