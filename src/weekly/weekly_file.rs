//! The weekly file: what improves the model, and how.
//!
//! Knows its keys and what they may hold; the steps themselves are in the modules after this one, whose settings are read
//! straight into their own types. Every key stands in `src/config/weekly.toml` with its default and its meaning.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{self, WatchSpec, is_address};
use crate::directory_lock::DirectoryLock;
use crate::error::{Error, Kind, Result};
use crate::learn::lessons;
use crate::learn::supervised;
use crate::learn::worth::Prices;
use crate::llm::adapter::{AdapterShape, TARGETS};
use crate::resolved::Resolved;
use crate::reward::judge::Limits;
use crate::reward::train::Plan;
use crate::settings::{self, Form, Layers};
use crate::weekly::examples::Size;
use crate::worth::whose::{TAUGHT_BY_HISTORIES, TAUGHT_BY_WORTH};

/// The defaults with their documentation, as a weekly file.
pub const DEFAULTS: &str = include_str!("../config/weekly.toml");

const FORM: Form = Form {
    what: "the weekly file",
    file: "the weekly file",
    defaults: DEFAULTS,
    optional: &["gate", "registry"],
    hint: "`curec config --weekly` prints every key with its default and meaning",
};

/// The weekly file.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)] // every key is documented once, in config/weekly.toml
pub struct Spec {
    pub name: String,
    pub job: PathBuf,
    pub set: Vec<String>,
    pub out: String,
    pub device: String,
    pub examples: ExamplesSpec,
    pub align: AlignSpec,
    pub reward: RewardSpec,
    pub reinforce: ReinforceSpec,
    pub worth: WorthSpec,
    pub projection: ProjectionSpec,
    pub gate: Option<GateSpec>,
    pub registry: Option<RegistrySpec>,
    pub watch: WatchSpec,
}

/// `[examples]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[allow(missing_docs)]
pub struct ExamplesSpec {
    #[serde(flatten)]
    pub size: Size,
    pub measured: usize,
}

/// `[align]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[allow(missing_docs)]
pub struct AlignSpec {
    #[serde(flatten)]
    pub shape: AdapterShape,
    #[serde(flatten)]
    pub learning: supervised::Config,
    pub validated: usize,
    pub written: Vec<PathBuf>,
    pub teacher: String,
    pub teacher_model: String,
    pub teacher_tokens: u64,
    pub teacher_at_once: usize,
    pub teacher_samples: usize,
    pub teacher_temperature: f32,
}

/// `[reward]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[allow(missing_docs)]
pub struct RewardSpec {
    pub max_examples: u64,
    pub rows_per_user: u64,
    pub generated: usize,
    pub hidden: usize,
    #[serde(flatten)]
    pub plan: Plan,
    pub resamples: usize,
    #[serde(flatten)]
    pub limits: Limits,
    pub seed: u64,
    pub second_seed: u64,
}

/// `[reinforce]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[allow(missing_docs)]
pub struct ReinforceSpec {
    pub method: String,
    pub from: String,
    pub rank: usize,
    pub alpha: f64,
    #[serde(flatten)]
    pub learning: lessons::Config,
    #[serde(flatten)]
    pub prices: Prices,
    pub forbidden: Vec<String>,
    pub checked: usize,
}

/// `[worth]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[allow(missing_docs)]
pub struct WorthSpec {
    pub set: Vec<String>,
    pub from: String,
    pub most_items: usize,
    pub samples: usize,
    pub temperature: f32,
    pub top_p: f32,
    pub most_events: usize,
    pub least_events: usize,
    pub negatives: usize,
    pub nearest: usize,
    pub folds: usize,
    pub ridge: f64,
    pub prior: f64,
    pub valid_quantile: f64,
    pub hidden: usize,
    pub length: usize,
    pub dropout: f64,
    pub batch: usize,
    pub epochs: usize,
    pub patience: usize,
    pub learning_rates: Vec<f64>,
    pub seed: u64,
    // Of histories alone: what is measured of items does not follow from these.
    #[serde(skip_serializing)]
    pub history_set: Vec<String>,
    #[serde(skip_serializing)]
    pub most_users: usize,
    #[serde(skip_serializing)]
    pub max_users: usize,
}

/// `[projection]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[allow(missing_docs)]
pub struct ProjectionSpec {
    pub name: String,
    pub events: i64,
    pub history: i64,
    pub max_users: usize,
    pub folds: usize,
    pub ridge: f64,
    pub shrinkage: f64,
    pub prior: f64,
    pub least_judged: usize,
    pub least_learned: usize,
    pub least_gain: f64,
    pub margin: f64,
    pub resamples: usize,
    pub seed: u64,
}

/// `[gate]`
#[derive(Debug, Clone, Deserialize, Serialize)]
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
        self.as_they_come().into_iter().chain([warehouse]).collect()
    }

    /// The same with the job's own warehouse, for stages that read what nights have published.
    pub fn as_they_come(&self) -> Vec<String> {
        let own = ["model.adapter=", "model.projection=", "correct.judge="];
        self.set.iter().cloned().chain(own.map(str::to_owned)).collect()
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
            Error::new(Kind::Config, format!("the weekly file has no [{section}]")).hint(
                "the whole run needs [gate] and [registry]; `curec config --weekly` prints every key with its meaning",
            )
        };
        Ok((
            self.gate.as_ref().ok_or_else(|| missing("gate"))?,
            self.registry.as_ref().ok_or_else(|| missing("registry"))?,
        ))
    }
}

/// Reads a weekly file.
///
/// # Errors
/// `Kind::Config` with everything that is wrong, each with its line.
pub fn load(path: &Path) -> Result<Spec> {
    Ok(resolve(path)?.0)
}

/// Reads a weekly file, and where each of its values came from.
///
/// # Errors
/// As [`load`].
pub fn resolve(path: &Path) -> Result<(Spec, Resolved)> {
    let text = settings::read_text(path, "the weekly file", "jobs/weekly.toml is one")?;
    parse(&text, &path.display().to_string(), &config::environment())
}

/// The same for text; `env` stands for the environment.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, file: &str, env: &BTreeMap<String, String>) -> Result<(Spec, Resolved)> {
    let mut layers = Layers::read(&FORM, text, file)?;
    layers.expand(env);
    let spec: Option<Spec> = layers.build();
    if let Some(spec) = &spec {
        validate(spec, &mut layers);
    }
    let resolved = layers.finish()?;
    let spec = spec.ok_or_else(|| Error::new(Kind::Internal, "the weekly file has no settings"))?;
    Ok((spec, resolved))
}

/// Checks what types cannot say.
fn validate(spec: &Spec, p: &mut Layers<'_>) {
    for (key, value) in [("name", &spec.name), ("out", &spec.out)] {
        p.demand(!value.is_empty(), key, "must be set");
    }
    p.demand(!spec.job.as_os_str().is_empty(), "job", "must be set");
    if spec.out.contains("://") {
        p.problem("out", format!("checkpoints need a folder of this machine, not {}", spec.out));
    }
    p.demand(spec.examples.size.max_examples > 0, "examples.max", "must be positive");
    validate_align(&spec.align, p);
    validate_reward(&spec.reward, p);
    validate_reinforce(&spec.reinforce, p);
    validate_worth(&spec.worth, p);
    validate_projection(&spec.projection, p);
    for (key, why) in spec.watch.problems() {
        p.problem(key, why);
    }
    if let Some(gate) = &spec.gate {
        validate_gate(gate, p);
    }
    if let Some(registry) = &spec.registry {
        p.demand(!registry.name.is_empty(), "registry.name", "must not be empty");
        let is_own = registry.name.is_empty() || registry.name != spec.projection.name;
        p.demand(is_own, "projection.name", "is the adapters' in [registry]; a projection has a name of its own");
    }
}

fn is_above_zero(x: f64) -> bool {
    x.is_finite() && x > 0.0
}

fn is_not_negative(x: f64) -> bool {
    x.is_finite() && x >= 0.0
}

fn validate_align(align: &AlignSpec, p: &mut Layers<'_>) {
    let AlignSpec { shape, learning, .. } = align;
    for (key, value) in [
        ("align.rank", shape.rank),
        ("align.epochs", learning.epochs),
        ("align.batch_tokens", learning.batch_tokens),
        ("align.micro_batch_tokens", learning.micro_batch_tokens),
        ("align.validated", align.validated),
        ("align.teacher_at_once", align.teacher_at_once),
        ("align.teacher_samples", align.teacher_samples),
    ] {
        p.demand(value > 0, key, "must be positive");
    }
    p.demand(align.teacher_tokens > 0, "align.teacher_tokens", "must be positive");
    for (key, value) in [("align.alpha", shape.alpha), ("align.learning_rate", learning.learning_rate)] {
        p.demand(is_above_zero(value), key, "must be above 0");
    }
    for (key, value) in [("align.warmup", learning.warmup), ("align.dropout", shape.dropout)] {
        p.demand((0.0..1.0).contains(&value), key, "must be in [0, 1)");
    }
    let targets = &shape.targets;
    if targets.is_empty() || targets.iter().any(|t| !TARGETS.contains(&t.as_str())) {
        let (known, got) = (TARGETS.join(", "), targets.join(", "));
        p.problem("align.targets", format!("name one or more of {known}, not `{got}`"));
    }
    // The first answer is greedy as it is: others like it would tell nothing.
    let is_warm = is_above_zero(f64::from(align.teacher_temperature));
    p.demand(is_warm, "align.teacher_temperature", "must be above 0");
    if is_address(&align.teacher) {
        let named = !align.teacher_model.is_empty();
        p.demand(named, "align.teacher_model", "name the model that the endpoint is to use");
    }
}

fn validate_reward(reward: &RewardSpec, p: &mut Layers<'_>) {
    let RewardSpec { plan, limits, .. } = reward;
    for (key, value) in [
        ("reward.epochs", plan.epochs),
        ("reward.patience", plan.patience),
        ("reward.batch", plan.batch),
        ("reward.hidden", reward.hidden),
        ("reward.resamples", reward.resamples),
    ] {
        p.demand(value > 0, key, "must be positive");
    }
    for (key, value) in [("reward.max_examples", reward.max_examples), ("reward.rows_per_user", reward.rows_per_user)] {
        p.demand(value > 0, key, "must be positive");
    }
    p.demand(is_above_zero(plan.learning_rate), "reward.learning_rate", "must be above 0");
    p.demand(plan.folds >= 2, "reward.folds", "a judge judges users it did not learn from, so two or more");
    for (key, value) in [
        ("reward.unknown", plan.unknown),
        ("reward.null_dropout", plan.null_dropout),
        ("reward.validation", plan.validation),
    ] {
        p.demand((0.0..1.0).contains(&value), key, "must be in [0, 1)");
    }
    for (key, value) in [
        ("reward.weight_decay", plan.weight_decay),
        ("reward.margin_weight", plan.margin_weight),
        ("reward.margin", plan.margin),
        ("reward.anchor_weight", plan.anchor_weight),
    ] {
        p.demand(is_not_negative(value), key, "must not be below 0");
    }
    for (key, value) in [("reward.shuffled", limits.shuffled), ("reward.probe", limits.probe)] {
        p.demand(value > 0.0, key, "must be above 0");
    }
    let own = reward.seed != reward.second_seed;
    p.demand(own, "reward.second_seed", "the second judge needs a seed of its own");
}

/// Whether a name is that of a folder which stands in `out`.
fn is_folder(name: &str) -> bool {
    !(name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.'))
}

fn validate_reinforce(reinforce: &ReinforceSpec, p: &mut Layers<'_>) {
    let ReinforceSpec { learning, prices, from, .. } = reinforce;
    p.demand(is_folder(from), "reinforce.from", "name a folder that stands in `out`");
    for (key, value) in [
        ("reinforce.rank", reinforce.rank),
        ("reinforce.rounds", learning.rounds),
        ("reinforce.prompts", learning.prompts),
        ("reinforce.step_prompts", learning.step_prompts),
        ("reinforce.epochs", learning.epochs),
        ("reinforce.micro_batch_tokens", learning.micro_batch_tokens),
        ("reinforce.max_words", prices.max_words),
        ("reinforce.checked", reinforce.checked),
    ] {
        p.demand(value > 0, key, "must be positive");
    }
    let enough = learning.answers >= 2;
    p.demand(enough, "reinforce.answers", "one alone is neither better nor worse, so two or more");
    for (key, value) in [
        ("reinforce.alpha", reinforce.alpha),
        ("reinforce.learning_rate", learning.learning_rate),
        ("reinforce.lambda", learning.lambda),
        ("reinforce.most_weight", learning.most_weight),
        ("reinforce.ratio_clip", learning.grpo.ratio_clip),
        ("reinforce.dpo_beta", learning.dpo_beta),
    ] {
        p.demand(is_above_zero(value), key, "must be above 0");
    }
    for (key, value) in [
        ("reinforce.clip", learning.clip),
        ("reinforce.kl", learning.grpo.kl),
        ("reinforce.anchor", learning.anchor),
        ("reinforce.min_deviation", learning.min_deviation),
        ("reinforce.rank_weight", prices.rank),
        ("reinforce.gain_weight", prices.gain),
        ("reinforce.ungrounded_weight", prices.ungrounded),
        ("reinforce.overlong_weight", prices.overlong),
        ("reinforce.repetition_weight", prices.repetition),
    ] {
        p.demand(is_not_negative(value), key, "must not be below 0");
    }
    for (key, value) in [("reinforce.min_gain", learning.min_gain), ("reinforce.floor", prices.floor)] {
        p.demand(value.is_finite(), key, "must be a number");
    }
    p.demand((0.0..1.0).contains(&learning.warmup), "reinforce.warmup", "must be in [0, 1)");
    let sampling = &learning.sampling;
    let is_warm = is_above_zero(f64::from(sampling.temperature));
    p.demand(is_warm, "reinforce.temperature", "must be above 0: greedy answers are all alike");
    p.demand(sampling.top_p > 0.0 && sampling.top_p <= 1.0, "reinforce.top_p", "must be in (0, 1]");
    let penalty = is_above_zero(f64::from(sampling.repetition_penalty));
    p.demand(penalty, "reinforce.repetition_penalty", "must be above 0");
}

/// Folds beyond which maps only take longer.
const MOST_FOLDS: usize = 100;
/// Prices of weights between which a map is neither the rounding of its rows nor their mean alone.
const RIDGES: RangeInclusive<f64> = 1e-6..=1e6;

fn validate_worth(worth: &WorthSpec, p: &mut Layers<'_>) {
    for (key, value) in [
        ("worth.most_items", worth.most_items),
        ("worth.most_users", worth.most_users),
        ("worth.max_users", worth.max_users),
        ("worth.most_events", worth.most_events),
        ("worth.least_events", worth.least_events),
        ("worth.negatives", worth.negatives),
        ("worth.hidden", worth.hidden),
        ("worth.length", worth.length),
        ("worth.batch", worth.batch),
        ("worth.epochs", worth.epochs),
        ("worth.patience", worth.patience),
    ] {
        p.demand(value > 0, key, "must be positive");
    }
    p.demand(worth.samples >= 2, "worth.samples", "one alone is neither better nor worse, so two or more");
    let is_taught = [TAUGHT_BY_WORTH, TAUGHT_BY_HISTORIES].contains(&worth.from.as_str());
    let is_from = worth.from.is_empty() || (is_folder(&worth.from) && !is_taught);
    let from = format!(
        "name a folder that stands in `out`, not {TAUGHT_BY_WORTH} or {TAUGHT_BY_HISTORIES}, or nothing for the job's adapter"
    );
    p.demand(is_from, "worth.from", from);
    for (key, set) in [("worth.set", &worth.set), ("worth.history_set", &worth.history_set)] {
        p.demand(set.iter().all(|pair| pair.contains('=')), key, "write each as key=value");
    }
    let rates = &worth.learning_rates;
    let are_rates = !rates.is_empty() && rates.iter().all(|rate| is_above_zero(*rate));
    p.demand(are_rates, "worth.learning_rates", "name one or more, each above 0");
    p.demand(worth.least_events <= worth.most_events, "worth.least_events", "must be at most worth.most_events");
    p.demand(worth.nearest >= worth.negatives, "worth.nearest", "must be at least worth.negatives");
    let folds = (2..=MOST_FOLDS).contains(&worth.folds);
    p.demand(folds, "worth.folds", format!("an item is mapped by what it did not teach, so 2 to {MOST_FOLDS}"));
    let (least, most) = (*RIDGES.start(), *RIDGES.end());
    p.demand(RIDGES.contains(&worth.ridge), "worth.ridge", format!("must be from {least} to {most}"));
    p.demand(is_not_negative(worth.prior), "worth.prior", "must not be below 0");
    let is_share = worth.valid_quantile > 0.0 && worth.valid_quantile < 1.0;
    p.demand(is_share, "worth.valid_quantile", "must be between 0 and 1");
    p.demand((0.0..1.0).contains(&worth.dropout), "worth.dropout", "must be in [0, 1)");
    let is_warm = is_above_zero(f64::from(worth.temperature));
    p.demand(is_warm, "worth.temperature", "must be above 0: greedy answers are all alike");
    p.demand(worth.top_p > 0.0 && worth.top_p <= 1.0, "worth.top_p", "must be in (0, 1]");
}

fn validate_projection(projection: &ProjectionSpec, p: &mut Layers<'_>) {
    p.demand(projection.events >= 2, "projection.events", "items go together where there are two, so two or more");
    let folds = (2..=MOST_FOLDS).contains(&projection.folds);
    p.demand(folds, "projection.folds", format!("a map is for those it did not learn from, so 2 to {MOST_FOLDS}"));
    p.demand(projection.history > 0, "projection.history", "must be positive");
    for (key, value) in [
        ("projection.max_users", projection.max_users),
        ("projection.least_judged", projection.least_judged),
        ("projection.least_learned", projection.least_learned),
        ("projection.resamples", projection.resamples),
    ] {
        p.demand(value > 0, key, "must be positive");
    }
    let (least, most) = (*RIDGES.start(), *RIDGES.end());
    p.demand(RIDGES.contains(&projection.ridge), "projection.ridge", format!("must be from {least} to {most}"));
    p.demand(projection.least_gain.is_finite(), "projection.least_gain", "must be a number");
    for (key, value) in [
        ("projection.shrinkage", projection.shrinkage),
        ("projection.prior", projection.prior),
        ("projection.margin", projection.margin),
    ] {
        p.demand(is_not_negative(value), key, "must not be below 0");
    }
}

fn validate_gate(gate: &GateSpec, p: &mut Layers<'_>) {
    p.demand(gate.questions > 0, "gate.questions", "must be positive");
    for (key, value) in [("gate.format", gate.format), ("gate.grounded", gate.grounded)] {
        p.demand((0.0..=1.0).contains(&value), key, "must be in [0, 1]");
    }
    for (key, value) in [
        ("gate.distinct2_margin", gate.distinct2_margin),
        ("gate.gain_margin", gate.gain_margin),
        ("gate.ndcg_margin", gate.ndcg_margin),
    ] {
        p.demand(is_not_negative(value), key, "must be 0 or more");
    }
    let are_pairs = gate.adapted.iter().all(|pair| pair.contains('='));
    p.demand(are_pairs, "gate.adapted", "write each as key=value");
}

#[cfg(test)]
mod tests;
