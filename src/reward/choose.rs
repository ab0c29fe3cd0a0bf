//! Which text stands in a reason's place once it is known what it was to foretell: step 4a of the method's design (D4),
//! chronological correction after R4ec's refinement (arXiv 2507.17249).
//!
//! A reason that told enough stays. Else the clean candidate with the largest `gain − mu · edit` takes its place, if it gains
//! more than `tau` over the reason; mu keeps rewrites from wandering off for nothing. Knows gains and words; knows nothing
//! of where either comes from.

use crate::reward::language::words;

/// When a reason is let stand and what may replace it; nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// tau_ok: a clean reason that gains as much stays.
    pub keep_gain: f64,
    /// tau: what a candidate must gain over the reason, and more.
    pub min_improvement: f64,
    /// mu: what a candidate pays for being altogether different.
    pub edit_weight: f64,
}

/// A text that a reason may become.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Mean information gain over the outcomes, in nats.
    pub gain: f64,
    /// See [`edit`].
    pub edit: f64,
    /// Whether it passes the checks.
    pub is_clean: bool,
}

/// What becomes of a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// It stays.
    Kept,
    /// The candidate at this place replaces it.
    Replaced(usize),
    /// It fails the checks, and no candidate is good enough.
    Dropped,
}

/// What the table of corrections says of a reason: the values of `correction` in the contract of reason_correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    /// It stays as it was.
    Kept,
    /// The language model wrote another.
    Rewritten,
    /// The words of a template over its evidence replace it.
    Template,
    /// It fails the checks, and nothing else was better.
    Dropped,
}

impl Correction {
    /// All of them, in the contract's order.
    pub const ALL: [Correction; 4] =
        [Correction::Kept, Correction::Rewritten, Correction::Template, Correction::Dropped];

    /// The value of the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Correction::Kept => "kept",
            Correction::Rewritten => "rewritten",
            Correction::Template => "template",
            Correction::Dropped => "dropped",
        }
    }
}

/// Whether a reason needs no candidates.
pub fn stands(reason: &Candidate, rule: &Rule) -> bool {
    reason.is_clean && reason.gain >= rule.keep_gain
}

/// What becomes of `reason`; of equal candidates the first is taken. A gain that is no number never wins.
pub fn choose(reason: &Candidate, candidates: &[Candidate], rule: &Rule) -> Choice {
    if stands(reason, rule) {
        return Choice::Kept;
    }
    let mut best: Option<(usize, f64)> = None;
    for (place, candidate) in candidates.iter().enumerate() {
        let value = candidate.gain - rule.edit_weight * candidate.edit;
        let is_better = best.is_none_or(|(_, other)| value > other);
        if candidate.is_clean && candidate.gain > reason.gain + rule.min_improvement && is_better {
            best = Some((place, value));
        }
    }
    match best {
        Some((place, _)) => Choice::Replaced(place),
        None if reason.is_clean => Choice::Kept,
        None => Choice::Dropped,
    }
}

/// Levenshtein's distance over words, as a share of the longer text: 0 for the same words, 1 for none in common.
pub fn edit(a: &str, b: &str) -> f64 {
    let (a, b) = (words(a), words(b));
    let longer = a.len().max(b.len());
    if longer == 0 {
        return 0.0;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, of_a) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, of_b) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(of_a != of_b)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()] as f64 / longer as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::table::contract::Contract;

    const RULE: Rule = Rule { keep_gain: 0.0, min_improvement: 0.1, edit_weight: 0.05 };

    fn clean(gain: f64, edit: f64) -> Candidate {
        Candidate { gain, edit, is_clean: true }
    }

    fn unclean(gain: f64) -> Candidate {
        Candidate { gain, edit: 0.0, is_clean: false }
    }

    #[test]
    fn the_contract_lists_every_correction() {
        let contract = Contract::builtin("reason_correction").unwrap();
        let values = contract.column("correction").unwrap().values.clone().unwrap();
        assert_eq!(values, Correction::ALL.map(Correction::as_str));
    }

    #[test]
    fn a_clean_reason_that_tells_enough_stays_whatever_else_there_is() {
        assert_eq!(choose(&clean(0.0, 0.0), &[clean(9.0, 0.0)], &RULE), Choice::Kept);
        assert_eq!(choose(&unclean(5.0), &[clean(5.2, 1.0)], &RULE), Choice::Replaced(0), "it must be clean");
    }

    #[test]
    fn a_candidate_must_gain_more_than_tau() {
        let reason = clean(-0.5, 0.0);
        assert_eq!(choose(&reason, &[clean(-0.4, 0.0)], &RULE), Choice::Kept, "exactly tau is not more");
        assert_eq!(choose(&reason, &[clean(-0.39, 0.0)], &RULE), Choice::Replaced(0));
        assert_eq!(choose(&reason, &[clean(-0.39, 1.0)], &RULE), Choice::Replaced(0), "edits only rank");
        assert_eq!(choose(&reason, &[], &RULE), Choice::Kept);
        assert_eq!(choose(&reason, &[clean(f64::NAN, 0.0)], &RULE), Choice::Kept);
    }

    #[test]
    fn edits_cost_mu_and_the_first_of_equals_is_taken() {
        let reason = clean(-1.0, 0.0);
        assert_eq!(choose(&reason, &[clean(0.04, 1.0), clean(0.0, 0.0)], &RULE), Choice::Replaced(1));
        assert_eq!(choose(&reason, &[clean(0.06, 1.0), clean(0.0, 0.0)], &RULE), Choice::Replaced(0));
        assert_eq!(choose(&reason, &[clean(0.5, 0.5), clean(0.5, 0.5)], &RULE), Choice::Replaced(0));
        let free = Rule { edit_weight: 0.0, ..RULE };
        assert_eq!(choose(&reason, &[clean(0.0, 0.0), clean(0.04, 1.0)], &free), Choice::Replaced(1));
    }

    #[test]
    fn what_is_not_clean_never_wins() {
        assert_eq!(choose(&clean(-1.0, 0.0), &[unclean(9.0), clean(0.0, 0.0)], &RULE), Choice::Replaced(1));
        assert_eq!(choose(&clean(-1.0, 0.0), &[unclean(9.0)], &RULE), Choice::Kept);
        assert_eq!(choose(&unclean(-1.0), &[unclean(9.0)], &RULE), Choice::Dropped);
        assert_eq!(choose(&unclean(1.0), &[clean(1.0, 0.0)], &RULE), Choice::Dropped, "no better than what is dropped");
    }

    #[test]
    fn edits_are_a_share_of_words() {
        assert_eq!(edit("They like Heat.", "they like heat"), 0.0);
        assert_eq!(edit("a b c d", "a b x d"), 0.25);
        assert_eq!(edit("a b", "c d"), 1.0);
        assert_eq!((edit("", ""), edit("", "a")), (0.0, 1.0));
        assert_eq!(edit("a b c", "a c"), edit("a c", "a b c"));
    }
}
