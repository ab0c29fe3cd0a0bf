//! The job: what a person wrote ([`JobSpec`]) and what it means ([`Job`]).
//!
//! Layers `config/job.toml` < job file < `CUREC_*` variables < `--set` flags, checks what the values may be, and is the only
//! file that reads environment variables. Opens no file but the job file; reading is left to [`crate::settings`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::settings::{Form, Layers, Place, Resolved, read_text};
use crate::undated::is_undated;

/// The defaults with their documentation, as a job file.
pub const DEFAULTS: &str = include_str!("config/job.toml");

/// The job file.
const FORM: Form = Form {
    what: "the job",
    file: "the job file",
    defaults: DEFAULTS,
    optional: &[],
    hint: "`curec config` prints every key with its default and meaning",
};

/// The longest lookback, ten years.
pub const MAX_LOOKBACK_DAYS: u64 = 3660;

/// A job as written, after layering: every key has a value of the right type.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // every key is documented once, in config/job.toml
pub struct JobSpec {
    pub name: String,
    pub warehouse: String,
    pub input: InputSpec,
    pub interval: IntervalSpec,
    pub history: HistorySpec,
    pub pairs: PairsSpec,
    pub evidence: EvidenceSpec,
    pub model: ModelSpec,
    pub prompt: PromptSpec,
    pub sampling: SamplingSpec,
    pub check: CheckSpec,
    pub correct: CorrectSpec,
    pub budget: BudgetSpec,
    pub response: ResponseSpec,
    pub audit: AuditSpec,
    pub resources: ResourcesSpec,
    pub publish: PublishSpec,
    pub store: StoreSpec,
    pub price: PriceSpec,
    pub project: ProjectSpec,
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize, Serialize)]
        #[serde(deny_unknown_fields)]
        #[allow(missing_docs)] // every key is documented once, in config/job.toml
        pub struct $name { $(pub $field: $type),* }
    };
}

section!(/// `[input]`
InputSpec {
    interaction: String, item: String, review: String, pair: String, late_days: u64, max_bad_fraction: f64,
});
section!(/// `[interval]`
IntervalSpec { empty: String, lookback_days: u64, lookback_missing: bool });

impl IntervalSpec {
    /// What an interval is whose events, or whose input, are not there.
    pub fn late(&self) -> Kind {
        if self.empty == "refuse" { Kind::Input } else { Kind::NotArrived }
    }
}

section!(/// `[history]`
HistorySpec {
    like_threshold: f64, events: i64, max_pair_events: i64, min_support: i64, title_chars: i64,
    user_active_days: i64, items: String, item_active_days: i64, max_users: i64, max_items: i64,
});
section!(/// `[pairs]`
PairsSpec { max_per_user: i64, max: i64 });
section!(/// `[evidence]`
EvidenceSpec { attributes: NamedTexts, undated: bool, tokens: usize });
section!(/// `[model]`
ModelSpec {
    generator: String, adapter: String, encoder: String, projection: String, cache_dir: String, device: String, threads: usize, slots: usize, max_step_tokens: usize,
    max_positions: usize, allow_later_training: bool,
});
section!(/// `[prompt]`
PromptSpec { item: String, history: String, pair: String });
section!(/// `[sampling]`
SamplingSpec {
    max_new_tokens: usize, temperature: f32, top_p: f32, top_k: usize, repetition_penalty: f32, max_copied_words: usize, attempts: usize,
    seed: u64,
});
section!(/// `[check]`
CheckSpec {
    min_mean_logprob: f64, min_grounding: f64, max_repetition: f64, min_words: usize, max_words: usize,
    min_language: f64, language: String, require_finished: bool, min_concrete: usize, max_copied_words: usize,
});
section!(/// `[correct]`
CorrectSpec {
    judge: String, template: String, days: u64, rewrites: usize, max_outcomes: i64, keep_gain: f64,
    min_improvement: f64, edit_weight: f64,
});
section!(/// `[budget]`
BudgetSpec { max_failed_fraction: f64, max_failed_rows: u64 });
section!(/// `[response]`
ResponseSpec { flush_rows: usize, flush_seconds: f64 });
section!(/// `[audit]`
AuditSpec { row_count_band: f64, quarantine_days: i64 });
section!(/// `[resources]`
ResourcesSpec { memory_limit: String, spill_dir: String });
section!(/// `[publish]`
PublishSpec { lease_seconds: f64, grace_seconds: f64, replaces: String });
section!(/// `[store]`
StoreSpec { timeout_seconds: f64, connect_seconds: f64, max_retries: usize, retry_seconds: f64 });
section!(/// `[price]`
PriceSpec { prompt_tokens_million: f64, completion_tokens_million: f64 });
section!(/// `[project]`
ProjectSpec { sql: String, schemas: String, registry: String });

impl EvidenceSpec {
    /// The columns that [`is_undated`] knows among those that become attributes.
    pub fn undated_columns(&self) -> impl Iterator<Item = &str> {
        self.attributes.0.iter().map(|(column, _)| column.as_str()).filter(|column| is_undated(column))
    }
}

/// Texts by name, in the order in which the settings have them. Fingerprints tell the order too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedTexts(pub Vec<(String, String)>);

impl Serialize for NamedTexts {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_seq(&self.0)
    }
}

impl<'de> Deserialize<'de> for NamedTexts {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let texts = toml::Table::deserialize(from)?;
        let pair = |(name, text): (String, toml::Value)| match text {
            toml::Value::String(text) => Ok((name, text)),
            _ => Err(serde::de::Error::custom(format!("{name} must be a string"))),
        };
        texts.into_iter().map(pair).collect::<std::result::Result<_, _>>().map(NamedTexts)
    }
}

/// The longest label of an attribute, in characters.
const MAX_LABEL: usize = 30;

impl HistorySpec {
    /// The least rating that is a like, as ratings are held: `float32`. Rounded as they are, so that a rating of just the
    /// threshold is a like.
    pub fn liked(&self) -> f32 {
        self.like_threshold as f32
    }
}

/// A half-open interval `[start, end)` of event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// First moment that belongs to it.
    pub start: DateTime<Utc>,
    /// First moment after it.
    pub end: DateTime<Utc>,
}

impl Interval {
    /// Parses two ISO dates or date-times (UTC where no offset is given).
    pub fn parse(start: &str, end: &str) -> Result<Self> {
        let (start, end) = (parse_moment("--interval-start", start)?, parse_moment("--interval-end", end)?);
        if start >= end {
            return Err(Error::new(Kind::Usage, "the interval is empty: its start is not before its end")
                .with("interval-start", start.to_rfc3339())
                .with("interval-end", end.to_rfc3339())
                .hint("the end is exclusive: for the day 2026-11-21 pass 2026-11-21 and 2026-11-22"));
        }
        if [start, end].iter().any(|moment| moment.time() != chrono::NaiveTime::MIN) {
            return Err(Error::new(Kind::Usage, "the interval must begin and end at midnight UTC")
                .with("interval-start", start.to_rfc3339())
                .with("interval-end", end.to_rfc3339())
                .hint("partitions are days: two intervals within one day would replace each other"));
        }
        Ok(Interval { start, end })
    }

    /// The partition's date: the start's.
    pub fn dt(&self) -> String {
        self.start.format("%Y-%m-%d").to_string()
    }

    /// The intervals of the same length that lie, in part at least, in the `days` before this one; oldest first.
    pub fn lookback(&self, days: u64) -> Vec<Interval> {
        let length = self.end - self.start;
        let n = days.div_ceil(u64::try_from(length.num_days()).unwrap_or(1).max(1));
        let back = |k: i32| {
            let by = length.checked_mul(k)?;
            Some(Interval { start: self.start.checked_sub_signed(by)?, end: self.end.checked_sub_signed(by)? })
        };
        (1..=i32::try_from(n).unwrap_or(i32::MAX)).rev().filter_map(back).collect()
    }
}

/// Parses an ISO date or date-time, UTC where no offset is given; `flag` is what an error names.
///
/// # Errors
/// [`Kind::Usage`] for anything else.
pub fn parse_moment(flag: &'static str, text: &str) -> Result<DateTime<Utc>> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|d| d.and_hms_opt(0, 0, 0));
    let naive = date
        .or_else(|| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok())
        .or_else(|| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok());
    if let Some(naive) = naive {
        return Ok(naive.and_utc());
    }
    DateTime::parse_from_rfc3339(text).map(|d| d.with_timezone(&Utc)).map_err(|e| {
        Error::new(Kind::Usage, format!("{flag} is not a date: `{text}`"))
            .hint("use 2026-11-21 or 2026-11-21T00:00:00Z")
            .source(e)
    })
}

/// A job, validated and resolved for nothing in particular: no file was opened for it yet.
#[derive(Clone)]
pub struct Job {
    /// The layered settings.
    pub spec: JobSpec,
    /// Where the job file was read.
    pub origin: String,
    /// `resources.memory_limit` in bytes.
    pub memory_limit: usize,
    /// The same settings as `section.key` and value, for the manifest.
    pub settings: BTreeMap<String, String>,
    /// The same settings with where each came from.
    pub resolved: Resolved,
    /// The variables that stores are opened with: the standard AWS ones, and `CUREC_FAIL_POINT` for drills.
    pub aws: BTreeMap<String, String>,
    /// Where models from stores are kept on this machine.
    pub cache_dir: PathBuf,
}

impl std::fmt::Debug for Job {
    /// Of the variables only the names: some are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("spec", &self.spec)
            .field("origin", &self.origin)
            .field("memory_limit", &self.memory_limit)
            .field("aws", &self.aws.keys().collect::<Vec<_>>())
            .field("cache_dir", &self.cache_dir)
            .finish()
    }
}

impl Job {
    /// Reads and validates a job file, with the environment and `overrides` (`key=value`) on top.
    ///
    /// # Errors
    /// [`Kind::Config`] with every problem of the file, each with its line.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Job> {
        let text = read_text(path, "the job file", "pass the path of a job file, for example jobs/nightly.toml")?;
        Job::parse(&text, &path.display().to_string(), overrides, &environment())
    }

    /// The same for text; `env` stands for the environment.
    pub fn parse(text: &str, origin: &str, overrides: &[String], env: &BTreeMap<String, String>) -> Result<Job> {
        let mut layers = Layers::read(&FORM, text, origin)?;
        for (name, value) in env {
            let key = match name.strip_prefix("CUREC_") {
                Some("WAREHOUSE") => "warehouse".to_string(),
                Some(rest) if rest.contains("__") => rest.to_lowercase().replace("__", "."),
                _ => continue,
            };
            layers.set(&key, value, name, Place::Variable(name.clone()));
        }
        for pair in overrides {
            match pair.split_once('=') {
                Some((key, value)) => layers.set(key.trim(), value.trim(), "--set", Place::Flag),
                None => layers.problem_of_flag(format!("--set {pair}: write it as key=value")),
            }
        }
        layers.expand(env);
        let spec: Option<JobSpec> = layers.build();
        let memory_limit = spec.as_ref().map_or(0, |s| validate(s, &mut layers));
        let resolved = layers.finish()?;
        let spec = spec.ok_or_else(|| Error::new(Kind::Internal, "the job has no settings"))?;
        let aws = of_stores(env);
        let cache_dir = cache_dir(&spec.model.cache_dir, env);
        let settings = resolved.texts();
        Ok(Job { spec, origin: origin.to_string(), memory_limit, settings, resolved, aws, cache_dir })
    }
}

/// The process's environment.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
}

/// The key of a teacher's endpoint, under the name that such endpoints' clients use.
pub fn teacher_key() -> Option<String> {
    environment().remove("OPENAI_API_KEY").map(|key| without_line_end(&key)).filter(|key| !key.is_empty())
}

/// The variables of the process's environment that stores are opened with.
pub fn store_variables() -> BTreeMap<String, String> {
    of_stores(&environment())
}

fn of_stores(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let belongs = |name: &str| name.starts_with("AWS_") || name == "CUREC_FAIL_POINT";
    env.iter().filter(|(name, _)| belongs(name)).map(|(k, v)| (k.clone(), without_line_end(v))).collect()
}

/// A variable that was read from a mounted file often ends as the file does, with the end of a line.
fn without_line_end(value: &str) -> String {
    value.trim_matches(|c: char| c.is_ascii_whitespace()).to_owned()
}

/// Whether the environment allows colours on a terminal: `NO_COLOR` is empty or not set, and the terminal knows some.
pub fn allows_colours() -> bool {
    let env = environment();
    env.get("NO_COLOR").is_none_or(String::is_empty) && env.get("TERM").is_none_or(|term| term != "dumb")
}

/// Where temporary files go unless the job says so.
pub fn temporary_folder() -> PathBuf {
    std::env::temp_dir()
}

/// Every place where a job's commands keep temporary files.
pub fn temporary_places(job: &Job) -> Vec<PathBuf> {
    let spill = &job.spec.resources.spill_dir;
    let named = (!spill.is_empty()).then(|| PathBuf::from(spill));
    named.into_iter().chain([temporary_folder(), job.cache_dir.clone()]).collect()
}

/// `[model] cache_dir`, or the user's own cache.
fn cache_dir(given: &str, env: &BTreeMap<String, String>) -> PathBuf {
    let named = |name: &str| env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match given {
        "" => named("XDG_CACHE_HOME")
            .or_else(|| Some(named("HOME")?.join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("curec/models"),
        given => PathBuf::from(given),
    }
}

/// Parses `512 MiB`, `2 GB`, `1073741824`.
pub fn parse_bytes(text: &str) -> Option<usize> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..split].parse().ok()?;
    let unit: f64 = match text[split..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "kib" => 1024.0,
        "mb" => 1e6,
        "mib" => 1024.0 * 1024.0,
        "gb" => 1e9,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number * unit;
    (0.0..1e18).contains(&bytes).then_some(bytes as usize)
}

/// Checks what types cannot say; returns the memory limit in bytes.
fn validate(s: &JobSpec, p: &mut Layers<'_>) -> usize {
    let name_ok = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if s.name.is_empty() || !s.name.chars().all(name_ok) {
        p.problem("name", format!("must be letters, digits, - and _, got `{}`", s.name));
    }
    for (key, value) in [
        ("warehouse", &s.warehouse),
        ("input.interaction", &s.input.interaction),
        ("input.item", &s.input.item),
        ("model.generator", &s.model.generator),
        ("model.encoder", &s.model.encoder),
    ] {
        if value.is_empty() {
            p.problem(key, "must be set");
        }
    }
    for (key, value, low, high) in [
        ("input.late_days", s.input.late_days as f64, 0.0, 100_000.0),
        ("input.max_bad_fraction", s.input.max_bad_fraction, 0.0, 1.0),
        ("interval.lookback_days", s.interval.lookback_days as f64, 0.0, MAX_LOOKBACK_DAYS as f64),
        ("history.like_threshold", s.history.like_threshold, -1e9, 1e9),
        ("history.events", s.history.events as f64, 1.0, 10_000.0),
        ("history.max_pair_events", s.history.max_pair_events as f64, 2.0, 10_000.0),
        ("history.min_support", s.history.min_support as f64, 1.0, 1e9),
        ("history.title_chars", s.history.title_chars as f64, 8.0, 1_000.0),
        ("history.user_active_days", s.history.user_active_days as f64, 0.0, 100_000.0),
        ("history.item_active_days", s.history.item_active_days as f64, 0.0, 100_000.0),
        ("history.max_users", s.history.max_users as f64, 0.0, 1e12),
        ("history.max_items", s.history.max_items as f64, 0.0, 1e12),
        ("pairs.max_per_user", s.pairs.max_per_user as f64, 0.0, 1e12),
        ("pairs.max", s.pairs.max as f64, 0.0, 1e12),
        ("model.threads", s.model.threads as f64, 0.0, 1024.0),
        ("model.slots", s.model.slots as f64, 1.0, 4096.0),
        ("model.max_step_tokens", s.model.max_step_tokens as f64, s.model.slots as f64, 1e6),
        ("model.max_positions", s.model.max_positions as f64, 16.0, 1e6),
        ("evidence.tokens", s.evidence.tokens as f64, 16.0, 1e6),
        ("sampling.max_new_tokens", s.sampling.max_new_tokens as f64, 1.0, s.model.max_positions as f64),
        ("sampling.temperature", f64::from(s.sampling.temperature), 0.0, 10.0),
        ("sampling.top_p", f64::from(s.sampling.top_p), 1e-6, 1.0),
        ("sampling.repetition_penalty", f64::from(s.sampling.repetition_penalty), 0.1, 10.0),
        ("sampling.attempts", s.sampling.attempts as f64, 1.0, 16.0),
        ("check.min_mean_logprob", s.check.min_mean_logprob, -1e9, 0.0),
        ("check.min_grounding", s.check.min_grounding, 0.0, 1.0),
        ("check.max_repetition", s.check.max_repetition, 0.0, 1.0),
        ("check.min_language", s.check.min_language, 0.0, 1.0),
        ("correct.days", s.correct.days as f64, 1.0, MAX_LOOKBACK_DAYS as f64),
        ("correct.rewrites", s.correct.rewrites as f64, 0.0, 64.0),
        ("correct.max_outcomes", s.correct.max_outcomes as f64, 1.0, 1000.0),
        ("correct.keep_gain", s.correct.keep_gain, -1e9, 1e9),
        ("correct.min_improvement", s.correct.min_improvement, 0.0, 1e9),
        ("correct.edit_weight", s.correct.edit_weight, 0.0, 1e9),
        ("budget.max_failed_fraction", s.budget.max_failed_fraction, 0.0, 1.0),
        ("response.flush_rows", s.response.flush_rows as f64, 1.0, 1e9),
        ("response.flush_seconds", s.response.flush_seconds, 0.01, 3600.0),
        ("audit.row_count_band", s.audit.row_count_band, 0.0, 1e9),
        ("audit.quarantine_days", s.audit.quarantine_days as f64, 0.0, 100_000.0),
        ("price.prompt_tokens_million", s.price.prompt_tokens_million, 0.0, 1e12),
        ("price.completion_tokens_million", s.price.completion_tokens_million, 0.0, 1e12),
        ("publish.lease_seconds", s.publish.lease_seconds, 1.0, 86_400.0),
        ("publish.grace_seconds", s.publish.grace_seconds, 0.0, 86_400.0),
        ("store.timeout_seconds", s.store.timeout_seconds, 0.1, 3600.0),
        ("store.connect_seconds", s.store.connect_seconds, 0.1, 3600.0),
        ("store.max_retries", s.store.max_retries as f64, 0.0, 1000.0),
        // Signed requests are made again as they are, and a signature ages.
        ("store.retry_seconds", s.store.retry_seconds, 0.0, 300.0),
    ] {
        if !(low..=high).contains(&value) {
            p.problem(key, format!("must be between {low} and {high}, got {value}"));
        }
    }
    if s.audit.row_count_band != 0.0 && s.audit.row_count_band < 1.0 {
        p.problem("audit.row_count_band", "must be 0 (off) or a factor of at least 1");
    }
    for (key, value) in [
        ("prompt.item", &s.prompt.item),
        ("prompt.history", &s.prompt.history),
        ("prompt.pair", &s.prompt.pair),
        ("correct.template", &s.correct.template),
        ("project.sql", &s.project.sql),
        ("project.schemas", &s.project.schemas),
        ("model.cache_dir", &s.model.cache_dir),
        ("resources.spill_dir", &s.resources.spill_dir),
    ] {
        // The value may hold a credential: only its scheme is told.
        if let Some((scheme, _)) = value.split_once("://") {
            p.problem(key, format!("must be a path on this machine, not a {scheme}:// URL; copy it here first"));
        }
    }
    let promoted = [
        ("model.adapter", &s.model.adapter),
        ("model.projection", &s.model.projection),
        ("correct.judge", &s.correct.judge),
    ];
    for (key, value) in promoted {
        if value.starts_with("registry:") && s.project.registry.is_empty() {
            p.problem(key, "names what a registry has promoted, but project.registry is not set");
        }
    }
    if !matches!(s.interval.empty.as_str(), "wait" | "refuse" | "publish") {
        p.problem("interval.empty", format!("must be wait, refuse or publish, got `{}`", s.interval.empty));
    }
    if !matches!(s.history.items.as_str(), "active" | "new" | "all") {
        p.problem("history.items", format!("must be active, new or all, got `{}`", s.history.items));
    }
    for (column, label) in &s.evidence.attributes.0 {
        let key = format!("evidence.attributes.{column}");
        let is_line = !label.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
        let fits = !label.trim().is_empty() && label.chars().count() <= MAX_LABEL;
        p.demand(is_line && fits, &key, format!("must be a label of one line and 1 to {MAX_LABEL} characters"));
        p.demand(column != "attributes", &key, "this column's texts are taken as they are; leave it out");
    }
    for column in s.evidence.undated_columns().filter(|_| !s.evidence.undated) {
        let why = "looks like what a crawl counted, and nobody knows when: it may hold what happened after the day that is \
                   built, and flatter every measurement. Leave it out, give the column another name if it is something else, or \
                   allow it: evidence.undated = true";
        p.problem(&format!("evidence.attributes.{column}"), why);
    }
    if s.check.min_words > s.check.max_words {
        p.problem("check.min_words", "must not be larger than check.max_words");
    }
    let device = s.model.device.as_str();
    let is_number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    let numbered = ["wgpu:", "cuda:"].iter().any(|kind| device.strip_prefix(kind).is_some_and(is_number));
    if !matches!(device, "auto" | "cpu" | "wgpu" | "cuda") && !numbered {
        p.problem("model.device", format!("must be auto, cpu, wgpu, wgpu:N or cuda:N, got `{device}`"));
    }
    let memory = parse_bytes(s.resources.memory_limit.trim()).filter(|b| *b >= 16 << 20);
    if memory.is_none() {
        let got = &s.resources.memory_limit;
        p.problem("resources.memory_limit", format!("must be a size of at least 16 MiB such as `2 GiB`, got `{got}`"));
    }
    memory.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = "name = 'n'\n[input]\ninteraction = 'a'\nitem = 'b'\n[model]\ngenerator = 'g'\nencoder = 'e'\n";

    fn parse(text: &str, overrides: &[&str], env: &[(&str, &str)]) -> Result<Job> {
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        Job::parse(text, "job.toml", &overrides, &env)
    }

    #[test]
    fn layers_stack_in_order() {
        assert_eq!(parse(GOOD, &[], &[]).unwrap().spec.model.slots, 32);
        let file = format!("{GOOD}slots = 8\n");
        assert_eq!(parse(&file, &[], &[]).unwrap().spec.model.slots, 8);
        let env = [("CUREC_MODEL__SLOTS", "4")];
        assert_eq!(parse(&file, &[], &env).unwrap().spec.model.slots, 4);
        let job = parse(&file, &["model.slots=2"], &env).unwrap();
        assert_eq!(job.spec.model.slots, 2);
        assert_eq!((job.settings["model.slots"].as_str(), job.settings["name"].as_str()), ("2", "n"));
    }

    #[test]
    fn all_problems_come_at_once_with_lines() {
        let text = "name = 3\nwarehouse = 'w'\n[model]\ndevise = 'cpu'\nslots = 'many'\n[check]\nmin_grounding = 7\n";
        let e = parse(text, &["nothing.here=1"], &[]).unwrap_err();
        let text = e.explain();
        assert_eq!(e.kind().exit_code(), 2);
        assert!(text.contains("job.toml:1: name: must be a string, got integer"), "{text}");
        assert!(text.contains("job.toml:4: model.devise: unknown key; did you mean `device`?"), "{text}");
        assert!(text.contains("job.toml:5: model.slots: must be a whole number, got string"), "{text}");
        assert!(text.contains("job.toml:7: check.min_grounding: must be between 0 and 1, got 7"), "{text}");
        assert!(text.contains("--set: unknown key `nothing.here`"), "{text}");
        assert!(text.contains("input.interaction: must be set"), "{text}");
        let text =
            parse(&format!("{GOOD}threads = -1\nslots = -2\n"), &["model.device.x=1"], &[]).unwrap_err().explain();
        assert!(text.contains("job.toml:8: model.threads: must not be negative"), "{text}");
        assert!(text.contains("job.toml:9: model.slots") && text.contains("unknown key `model.device.x`"), "{text}");
    }

    #[test]
    fn variables_expand() {
        let text = GOOD.replace("'a'", "'${HOME_DIR}/x'").replace("'b'", "'${MISSING:-dflt}/y'");
        let job = parse(&text, &[], &[("HOME_DIR", "/h")]).unwrap();
        assert_eq!(job.spec.input.interaction, "/h/x");
        assert_eq!(job.spec.input.item, "dflt/y");
        assert!(parse(&text, &[], &[]).unwrap_err().explain().contains("HOME_DIR"));
    }

    #[test]
    fn what_is_read_from_this_machine_only_says_so() {
        let text = format!("{GOOD}cache_dir = 's3://b/c'\n[project]\nsql = 's3://k:hunter2@b/sql'\n");
        let told = parse(&text, &["prompt.item=s3://b/i.j2"], &[]).unwrap_err().explain();
        for key in ["model.cache_dir: must be a path", "job.toml:10: project.sql: must be a path", "prompt.item: must"]
        {
            assert!(told.contains(key), "{told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }

    #[test]
    fn the_cache_is_the_users_own_and_no_secret_is_shown() {
        let dir = |env: &[(&str, &str)]| parse(GOOD, &[], env).unwrap().cache_dir.display().to_string();
        assert_eq!(dir(&[("HOME", "/h")]), "/h/.cache/curec/models");
        assert_eq!(dir(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/curec/models");
        let job = parse(GOOD, &["model.cache_dir=/c"], &[("AWS_SECRET_ACCESS_KEY", "hunter2")]).unwrap();
        assert_eq!(job.cache_dir, PathBuf::from("/c"));
        assert!(job.aws.contains_key("AWS_SECRET_ACCESS_KEY") && !format!("{job:?}").contains("hunter2"));
        // As a mounted file gives it.
        let job = parse(GOOD, &[], &[("AWS_SECRET_ACCESS_KEY", "hunter2\r\n")]).unwrap();
        assert_eq!(job.aws["AWS_SECRET_ACCESS_KEY"], "hunter2");
    }

    #[test]
    fn sizes_and_intervals() {
        assert_eq!(parse_bytes("2 GiB"), Some(2 << 30));
        assert_eq!(parse_bytes("512MB"), Some(512_000_000));
        assert_eq!(parse_bytes("lots"), None);
        let i = Interval::parse("1998-04-20", "1998-04-21").unwrap();
        assert_eq!(i.dt(), "1998-04-20");
        assert_eq!(Interval::parse("1998-04-21", "1998-04-21").unwrap_err().kind(), Kind::Usage);
        let back = |i: Interval, days| i.lookback(days).iter().map(Interval::dt).collect::<Vec<_>>().join(" ");
        assert_eq!(back(i, 3), "1998-04-17 1998-04-18 1998-04-19");
        assert_eq!(back(i, 0), "");
        let week = Interval::parse("1998-04-20", "1998-04-27").unwrap();
        assert_eq!(back(week, 8), "1998-04-06 1998-04-13", "whole intervals of the same length");
        assert!(week.lookback(8).iter().all(|i| (i.end - i.start).num_days() == 7));
        assert!(Interval::parse("yesterday", "1998-04-21").is_err());
        assert!(Interval::parse("1998-04-20T12:00:00Z", "1998-04-21").unwrap_err().explain().contains("midnight"));
    }

    #[test]
    fn labels_of_attributes_keep_their_order_and_are_held_against_their_rules() {
        let file =
            format!("{GOOD}[evidence]\nattributes = {{ directors = 'Director', 'a b' = 'With', age = 'Rated' }}\n");
        let pairs = |job: &Job| job.spec.evidence.attributes.0.clone();
        let pair = |column: &str, label: &str| (column.to_owned(), label.to_owned());
        let job =
            parse(&file, &["evidence.attributes.price=Costs"], &[("CUREC_EVIDENCE__ATTRIBUTES__AGE", "For")]).unwrap();
        let found = [pair("directors", "Director"), pair("a b", "With"), pair("age", "For"), pair("price", "Costs")];
        assert_eq!(pairs(&job), found);
        assert_eq!(job.settings["evidence.attributes.directors"], "Director");
        let printed = job.resolved.print(&str::to_owned);
        for line in ["[evidence.attributes]\n", "\"a b\" = \"With\"  # line 9\n", "price = \"Costs\"  # --set\n"] {
            assert!(printed.contains(line), "{line}: {printed}");
        }
        assert_eq!(pairs(&parse(&printed, &[], &[]).unwrap()), found);
        assert!(parse(GOOD, &[], &[]).unwrap().resolved.print(&str::to_owned).contains("attributes = {}  # default\n"));

        let wrong = format!("{GOOD}[evidence.attributes]\na = 1\n");
        let told = parse(&wrong, &[], &[]).unwrap_err().explain();
        assert!(told.contains("job.toml:9: evidence.attributes.a: must be a string, got integer"), "{told}");
        let long = "x".repeat(31);
        for label in ["", " ", "two\\nlines", &long] {
            let told =
                parse(&format!("{GOOD}[evidence.attributes]\na = \"{label}\"\n"), &[], &[]).unwrap_err().explain();
            assert!(told.contains("job.toml:9: evidence.attributes.a: must be a label"), "{told}");
        }
        assert!(parse(&format!("{GOOD}[evidence.attributes]\na = '{}'\n", &long[1..]), &[], &[]).is_ok());
        assert!(parse(&format!("{GOOD}[evidence.attributes]\nattributes = 'A'\n"), &[], &[]).is_err());
    }

    #[test]
    fn what_a_crawl_left_undated_is_refused_unless_the_job_says_otherwise() {
        let file = format!("{GOOD}[evidence]\nattributes = {{ brand = 'By', Sales_Rank = 'Rank' }}\n");
        let refused = parse(&file, &[], &[]).unwrap_err();
        let told = refused.explain();
        assert_eq!(refused.kind(), Kind::Config);
        assert!(
            told.contains("job.toml:9: evidence.attributes.Sales_Rank: looks like") && !told.contains("brand"),
            "{told}"
        );
        let allowed = parse(&file, &["evidence.undated=true"], &[]).unwrap();
        assert_eq!(allowed.spec.evidence.undated_columns().collect::<Vec<_>>(), ["Sales_Rank"]);
    }

    #[test]
    fn not_toml_names_the_line() {
        let e = parse("name = 'n'\n[input\n", &[], &[]).unwrap_err().explain();
        assert!(e.contains("line: 2"), "{e}");
    }
}
