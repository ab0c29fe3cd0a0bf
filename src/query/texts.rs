//! The queries that make no table, each in a file of its own: `sql/query/<name>.sql`.
//!
//! Knows their texts only: what a query returns, reads and needs stands at the head of its file. Whoever runs one says
//! where its tables come from.

/// Keys of all different prompts that are asked.
pub const ASKED_PROMPTS: &str = include_str!("../../sql/query/asked_prompts.sql");
/// Every attribute of the catalogue as prompts show it, cut at `$title_chars`.
pub const CATALOGUE_ATTRIBUTES: &str = include_str!("../../sql/query/catalogue_attributes.sql");
/// How many corrections there are of each outcome, with mean gains.
pub const CORRECTION_TALLY: &str = include_str!("../../sql/query/correction_tally.sql");
/// Keys of all different prompts that were asked and have failed.
pub const FAILED_PROMPTS: &str = include_str!("../../sql/query/failed_prompts.sql");
/// One row if there is an event between `$interval_start` and `$interval_end`.
pub const INTERVAL_EVENT: &str = include_str!("../../sql/query/interval_event.sql");
/// Prompts to ask: those without a response, or with errors only.
pub const PENDING_PROMPTS: &str = include_str!("../../sql/query/pending_prompts.sql");
/// Rewrites to ask for: those without a response, or with errors only.
pub const PENDING_REWRITES: &str = include_str!("../../sql/query/pending_rewrites.sql");
/// One row per row of reason_prompt.
pub const PROMPTS: &str = include_str!("../../sql/query/prompts.sql");
/// Scores and lengths, for histograms.
pub const REASON_MEASURES: &str = include_str!("../../sql/query/reason_measures.sql");
/// How many reasons there are of each kind and refusal.
pub const REASON_TALLY: &str = include_str!("../../sql/query/reason_tally.sql");
/// Reasons for the report: accepted or refused ones, as `$accepted` says.
pub const REPORT_SAMPLES: &str = include_str!("../../sql/query/report_samples.sql");
/// How many items have events and no row in `item`, and one of them.
pub const UNKNOWN_ITEMS: &str = include_str!("../../sql/query/unknown_items.sql");
/// What was paid for a night's prompts.
pub const USAGE: &str = include_str!("../../sql/query/usage.sql");
/// Runs that have asked a night's prompts.
pub const USAGE_RUNS: &str = include_str!("../../sql/query/usage_runs.sql");
/// Seconds that were spent on a night's prompts.
pub const USAGE_SECONDS: &str = include_str!("../../sql/query/usage_seconds.sql");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_that_are_asked_and_prompts_that_wait_have_the_same_condition() {
        let condition = |text: &str| text.split_once("where\n    p.subject").map(|(_, rest)| rest.trim().to_owned());
        let pending = condition(PENDING_PROMPTS).and_then(|c| c.split_once("\ngroup by").map(|(c, _)| c.to_owned()));
        assert!(pending.is_some());
        assert_eq!(condition(ASKED_PROMPTS), pending);
    }
}
