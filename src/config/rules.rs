//! What the values of a job may be, where their types do not say it.
//!
//! Knows the settings, and tells all that is wrong with them at once. Opens nothing.

use crate::config::endpoint_rules;
use crate::config::interval::MAX_LOOKBACK_DAYS;
use crate::config::meaning::Meaning;
use crate::config::spec::{JobSpec, PromptSpec};
use crate::epoch::EpochUnit;
use crate::settings::Layers;

/// The longest label of an attribute, in characters.
const MAX_LABEL: usize = 30;

/// Checks what types cannot say; returns the memory limit in bytes.
pub(super) fn validate(s: &JobSpec, p: &mut Layers<'_>) -> usize {
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
    // Only curec's own engine has a cache to which an answer must fit.
    let longest_answer = if s.model.endpoint().is_some() { 1e6 } else { s.model.max_positions as f64 };
    for (key, value, low, high) in [
        ("input.late_days", s.input.late_days as f64, 0.0, 100_000.0),
        ("input.max_bad_fraction", s.input.max_bad_fraction, 0.0, 1.0),
        ("interval.lookback_days", s.interval.lookback_days as f64, 0.0, MAX_LOOKBACK_DAYS as f64),
        ("events.like_quantile", s.events.like_quantile, 0.0, 0.99),
        ("events.like_values", s.events.like_values as f64, 1.0, 1e6),
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
        ("model.endpoint_at_once", s.model.endpoint_at_once as f64, 1.0, 4096.0),
        ("model.endpoint_timeout_seconds", s.model.endpoint_timeout_seconds, 0.1, 86_400.0),
        ("model.endpoint_retry_seconds", s.model.endpoint_retry_seconds, 0.0, 86_400.0),
        ("evidence.tokens", s.evidence.tokens as f64, 16.0, 1e6),
        ("sampling.max_new_tokens", s.sampling.max_new_tokens as f64, 1.0, longest_answer),
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
        ("budget.max_tokens", s.budget.max_tokens as f64, 0.0, 1e15),
        ("budget.max_minutes", s.budget.max_minutes, 0.0, 1e6),
        ("budget.max_cost", s.budget.max_cost, 0.0, 1e12),
        ("response.flush_rows", s.response.flush_rows as f64, 1.0, 1e9),
        ("response.flush_seconds", s.response.flush_seconds, 0.01, 3600.0),
        ("audit.row_count_band", s.audit.row_count_band, 0.0, 1e9),
        ("audit.quarantine_days", s.audit.quarantine_days as f64, 0.0, 100_000.0),
        ("price.prompt_tokens_million", s.price.prompt_tokens_million, 0.0, 1e12),
        ("price.completion_tokens_million", s.price.completion_tokens_million, 0.0, 1e12),
        ("query.partitions", s.query.partitions as f64, 2.0, 100_000.0),
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
        ("model.tokenizer", &s.model.tokenizer),
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
    if !matches!(s.feature.vector_of.as_str(), "reason" | "evidence" | "both") {
        p.problem("feature.vector_of", format!("must be reason, evidence or both, got `{}`", s.feature.vector_of));
    }
    if !matches!(s.budget.on_reached.as_str(), "publish" | "stop") {
        p.problem("budget.on_reached", format!("must be publish or stop, got `{}`", s.budget.on_reached));
    }
    let is_free = s.price.prompt_tokens_million == 0.0 && s.price.completion_tokens_million == 0.0;
    p.demand(s.budget.max_cost == 0.0 || !is_free, "budget.max_cost", "needs a price in [price]");
    let fields = s.prompt.fields();
    for (at, name) in fields.iter().enumerate() {
        let is_known = PromptSpec::FIELDS.contains(name);
        p.demand(is_known, "prompt.fields", format!("may name {}; got `{name}`", PromptSpec::FIELDS.join(", ")));
        p.demand(!fields[..at].contains(name), "prompt.fields", format!("names {name} twice"));
    }
    let least = if fields.is_empty() { 0 } else { PromptSpec::PART_TOKENS * (fields.len() + 1) };
    let why = format!("must be at least {least} with so many prompt.fields: an answer that is cut off is refused");
    p.demand(s.sampling.max_new_tokens >= least, "sampling.max_new_tokens", why);
    let unit = s.input.timestamp_unit.as_str();
    if !unit.is_empty() && EpochUnit::parse(unit).is_none() {
        p.problem("input.timestamp_unit", format!("must be empty, s, ms, us or ns, got `{unit}`"));
    }
    let snapshot = s.input.item_snapshot.as_str();
    if !matches!(snapshot, "" | "latest") {
        p.problem("input.item_snapshot", format!("must be empty or latest, got `{snapshot}`"));
    }
    let meanings = s.events.meaning.0.iter().map(|(event, meaning)| (format!("events.meaning.{event}"), meaning));
    for (key, meaning) in meanings.chain([("events.other".to_owned(), &s.events.other)]) {
        let known = Meaning::parse(meaning).is_some();
        p.demand(known, &key, format!("must be {}, got `{meaning}`", Meaning::NAMES));
    }
    let is_label = |label: &str| {
        let is_line = !label.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
        is_line && !label.trim().is_empty() && label.chars().count() <= MAX_LABEL
    };
    let a_label = format!("must be a label of one line and 1 to {MAX_LABEL} characters");
    for (key, label) in s.evidence.own_labels() {
        p.demand(is_label(label), &format!("evidence.{key}"), &a_label);
    }
    let mark = s.evidence.decimal_mark.as_str();
    let is_mark = matches!(mark, "." | "," | "·" | "٫");
    p.demand(is_mark, "evidence.decimal_mark", format!("must be . or , (or · or ٫), got `{mark}`"));
    for (column, label) in &s.evidence.attributes.0 {
        let key = format!("evidence.attributes.{column}");
        p.demand(is_label(label), &key, &a_label);
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
    for (key, why) in s.watch.problems() {
        p.problem(key, why);
    }
    for (key, why) in s.query.problems() {
        p.problem(key, why);
    }
    let device = s.model.device.as_str();
    let is_number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    let numbered = ["wgpu:", "cuda:"].iter().any(|kind| device.strip_prefix(kind).is_some_and(is_number));
    if !matches!(device, "auto" | "cpu" | "wgpu" | "cuda") && !numbered {
        p.problem("model.device", format!("must be auto, cpu, wgpu, wgpu:N or cuda:N, got `{device}`"));
    }
    endpoint_rules::validate(s, p);
    let memory = parse_bytes(s.resources.memory_limit.trim()).filter(|b| *b >= 16 << 20);
    if memory.is_none() {
        let got = &s.resources.memory_limit;
        p.problem("resources.memory_limit", format!("must be a size of at least 16 MiB such as `2 GiB`, got `{got}`"));
    }
    memory.unwrap_or_default()
}

/// Parses `512 MiB`, `2 GB`, `1073741824`; `None` for what is no size.
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

#[cfg(test)]
mod tests;
