//! The way from events to features, as counts: what came in, who is active, what was asked and answered, what was accepted.
//!
//! Knows the manifest alone. A step that the run did not come to is left out.

use crate::night::manifest::Manifest;

/// A step with what it is a share of.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What is counted.
    pub name: &'static str,
    /// How many.
    pub n: u64,
    /// The share, and of what.
    pub share: Option<(f64, &'static str)>,
    /// What else is worth knowing.
    pub note: String,
}

/// The steps of a run, in order; empty where it made no table.
pub fn steps(m: &Manifest) -> Vec<Step> {
    if m.tables.is_empty() {
        return Vec::new();
    }
    let rows = |table: &str| m.tables.iter().find(|t| t.table == table).map(|t| t.rows);
    let mut all = Vec::new();
    let mut push = |name, n: u64, of: Option<(u64, &'static str)>, note: String| {
        let share = of.filter(|(whole, _)| *whole > 0).map(|(whole, what)| ((n as f64 / whole as f64).min(1.0), what));
        all.push(Step { name, n, share, note });
    };
    if let Some(log) = m.inputs.get("interaction").filter(|log| log.rows > 0) {
        push("events in the log", log.rows, None, String::new());
        push("good rows", log.rows.saturating_sub(log.left_out), Some((log.rows, "the log")), String::new());
    }
    for (name, table) in [("active users", "user_history"), ("active items", "item_audience")] {
        if let Some(n) = rows(table) {
            push(name, n, None, String::new());
        }
    }
    let prompts = rows("reason_prompt").unwrap_or(m.usage.prompts);
    if prompts > 0 {
        push("prompts", prompts, None, String::new());
    }
    // A run that kept the answers of before has asked nothing; the answers tell how many different prompts there are.
    let all_usage = m.usage_all.clone().unwrap_or_default();
    let distinct = match m.usage.distinct_prompts {
        0 => all_usage.answered + all_usage.failed,
        n => n,
    };
    if distinct > 0 {
        push("different prompts", distinct, Some((prompts, "the prompts")), String::new());
        let from_before = if m.usage.distinct_prompts == 0 { distinct } else { m.usage.answered_before };
        push("answered by earlier runs", from_before, Some((distinct, "different prompts")), String::new());
        let paid = m.usage.generated.saturating_sub(m.usage.asked_again + m.usage.paid_twice);
        let again = told(m.usage.asked_again, "refused ones were asked again");
        push("paid for by this run", paid, Some((distinct, "different prompts")), again);
        let failed = told(m.failed_prompts, "failed");
        push("prompts with an answer", all_usage.answered, Some((distinct, "different prompts")), failed);
    }
    if m.reasons.total() > 0 {
        let accepted = m.reasons.accepted.values().sum();
        push("reasons accepted", accepted, Some((m.reasons.total(), "all reasons")), String::new());
    }
    let features = [("features of items", "item_feature"), ("features of users", "user_feature")];
    for (name, table) in features.into_iter().chain([("features of pairs", "pair_feature")]) {
        if let Some(n) = rows(table) {
            push(name, n, None, String::new());
        }
    }
    all
}

/// A number with what it counts; nothing for none.
fn told(n: u64, what: &str) -> String {
    if n == 0 { String::new() } else { format!("{n} {what}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::night::manifest::{InputRecord, TableRecord, UsageAll};

    fn table(name: &str, rows: u64) -> TableRecord {
        TableRecord { table: name.into(), rows, ..TableRecord::default() }
    }

    fn night() -> Manifest {
        let mut m = Manifest::default();
        m.inputs.insert("interaction".into(), InputRecord { rows: 1000, left_out: 10, ..InputRecord::default() });
        m.tables = [("user_history", 20), ("item_audience", 30), ("reason_prompt", 50), ("item_feature", 30)]
            .map(|(name, rows)| table(name, rows))
            .to_vec();
        m.usage_all = Some(UsageAll { answered: 39, failed: 1, ..UsageAll::default() });
        m.failed_prompts = 1;
        m.reasons.by_kind.insert("item".into(), 50);
        m.reasons.accepted.insert("item".into(), 25);
        m
    }

    fn found(m: &Manifest) -> Vec<(&'static str, u64, Option<f64>)> {
        steps(m).into_iter().map(|s| (s.name, s.n, s.share.map(|(share, _)| share))).collect()
    }

    #[test]
    fn counts_go_from_events_to_features() {
        let mut m = night();
        m.usage.distinct_prompts = 40;
        m.usage.answered_before = 30;
        m.usage.generated = 12;
        m.usage.asked_again = 2;
        let expected = [
            ("events in the log", 1000, None),
            ("good rows", 990, Some(0.99)),
            ("active users", 20, None),
            ("active items", 30, None),
            ("prompts", 50, None),
            ("different prompts", 40, Some(0.8)),
            ("answered by earlier runs", 30, Some(0.75)),
            ("paid for by this run", 10, Some(0.25)),
            ("prompts with an answer", 39, Some(0.975)),
            ("reasons accepted", 25, Some(0.5)),
            ("features of items", 30, None),
        ];
        assert_eq!(found(&m), expected);
        let notes: Vec<String> = steps(&m).into_iter().map(|s| s.note).filter(|note| !note.is_empty()).collect();
        assert_eq!(notes, ["2 refused ones were asked again", "1 failed"]);
    }

    #[test]
    fn a_run_that_asked_nothing_has_all_from_before_and_one_without_tables_has_no_steps() {
        let steps_of = found(&night());
        assert!(steps_of.contains(&("answered by earlier runs", 40, Some(1.0))), "{steps_of:?}");
        assert!(steps_of.contains(&("paid for by this run", 0, Some(0.0))), "{steps_of:?}");
        assert!(steps(&Manifest::default()).is_empty());
    }
}
