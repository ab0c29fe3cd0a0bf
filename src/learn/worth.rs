//! What an answer is worth to reinforcement: the gate, the price list, and when judge and reward go separate ways.
//!
//! Knows numbers and texts of one answer; knows nothing of models, tokens or tables. The gate is conditional: a broken
//! format costs everything and a whole one earns nothing, so that there is no bonus to be had by form alone.

use serde::{Deserialize, Serialize};

use crate::generate::format;
use crate::reward::checks;
use crate::reward::language::{self, normalise};
use crate::reward::names::{Vocabulary, without_names};

/// What counts how much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// Of the information gain, clipped to one nat either way.
    #[serde(rename = "gain_weight")]
    pub gain: f64,
    /// Of the change of the item's reciprocal rank, see [`rank_gain`].
    #[serde(rename = "rank_weight")]
    pub rank: f64,
    /// Of the share of mentions that the evidence does not hold.
    #[serde(rename = "ungrounded_weight")]
    pub ungrounded: f64,
    /// Of the share of words beyond the longest reason, at most all of them.
    #[serde(rename = "overlong_weight")]
    pub overlong: f64,
    /// Of the share of repeated three-word sequences.
    #[serde(rename = "repetition_weight")]
    pub repetition: f64,
    /// What an answer is worth that does not pass the gate.
    pub floor: f64,
    /// Words of a reason that cost nothing.
    pub max_words: usize,
}

/// What the gate holds an answer against.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// With this the answer began.
    pub stem: &'a str,
    /// Whether a verdict was asked for.
    pub wants_verdict: bool,
    /// Title of what was asked about.
    pub subject: &'a str,
    /// Everything that the answer may name.
    pub evidence: &'a [String],
    /// Words that must not stand in a reason: they would tell the outcome and not why.
    pub forbidden: &'a [String],
}

/// An answer that passed the gate.
#[derive(Debug, Clone, PartialEq)]
pub struct Passed {
    /// What is encoded and judged.
    pub reason: String,
    /// What it says will become of it.
    pub verdict: Option<bool>,
    /// Share of mentions that the evidence does not hold.
    pub ungrounded: f64,
    /// Share of words beyond the longest, at most 1.
    pub overlong: f64,
    /// Share of repeated three-word sequences.
    pub repetition: f64,
}

/// Occurrences of a title that a reason may have: more is copying.
const MOST_COPIES: usize = 2;
/// Words besides the title that a reason has at least: less is copying.
const FEWEST_WORDS: usize = 3;

/// The conditional gate: the format is whole, with a verdict exactly where one was asked for, no forbidden word stands in the
/// reason, and the reason is no copy of what was asked about.
pub fn gate(text: &str, asked: &Asked<'_>, prices: &Prices, vocabulary: &Vocabulary) -> Option<Passed> {
    let whole = format!("{}{text}", asked.stem);
    let answer = format::parse(&whole).ok()?;
    if answer.verdict.is_some() != asked.wants_verdict {
        return None;
    }
    let evidence: Vec<&str> = asked.evidence.iter().map(String::as_str).collect();
    // A forbidden word in a title that was shown is the title's.
    let own_words = format!(" {} ", normalise(&without_names(answer.reason, &evidence)));
    let says = |phrase: &str| !phrase.is_empty() && own_words.contains(&format!(" {phrase} "));
    if asked.forbidden.iter().any(|word| says(&normalise(word))) {
        return None;
    }
    let [said, title] = [answer.reason, asked.subject].map(language::words);
    let words = said.len();
    let copies = if title.is_empty() { 0 } else { said.windows(title.len()).filter(|some| *some == title).count() };
    let own = words.saturating_sub(copies * title.len());
    if copies > MOST_COPIES || own < FEWEST_WORDS {
        return None;
    }
    let length = language::word_count(answer.reason);
    let beyond = length.saturating_sub(prices.max_words) as f64 / prices.max_words.max(1) as f64;
    Some(Passed {
        ungrounded: 1.0 - checks::grounding(answer.reason, &evidence, vocabulary),
        overlong: beyond.min(1.0),
        repetition: checks::repetition(answer.reason),
        verdict: answer.verdict,
        reason: answer.reason.to_owned(),
    })
}

/// Items that an item is ranked among; fewer where there are no more.
pub const NEGATIVES: usize = 50;

/// The place of a score among others, from 1; what scores the same stands before it, so that nothing is won by a tie.
pub fn rank(score: f64, others: &[f64]) -> usize {
    1 + others.iter().filter(|other| **other >= score).count()
}

/// What a reason does to the reciprocal rank of its item among `others`, which are scored without one:
/// `1 / rank(with) − 1 / rank(without)`, between -1 and 1, and 0 where there are no others.
///
/// Where the user did not like the item it counts the other way round. Taken as it is, it would pay for praise whatever came
/// of it: as the information gain does, it must reward what is true of the outcome.
pub fn rank_gain(with: f64, without: f64, others: &[f64], liked: bool) -> f64 {
    let reciprocal = |score| 1.0 / rank(score, others) as f64;
    let (with, without) = (reciprocal(with), reciprocal(without));
    if liked { with - without } else { without - with }
}

/// `w_i clip(gain, −1, 1) + w_k rank − w_u ungrounded − w_o overlong − w_r repetition`, where `rank` is a [`rank_gain`]; the
/// floor for what did not pass the gate.
pub fn reward(passed: Option<&Passed>, gain: f64, rank: f64, prices: &Prices) -> f64 {
    let Some(passed) = passed else { return prices.floor };
    prices.gain * gain.clamp(-1.0, 1.0) + prices.rank * rank
        - prices.ungrounded * passed.ungrounded
        - prices.overlong * passed.overlong
        - prices.repetition * passed.repetition
}

/// What was found of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Worth {
    /// The reward.
    pub reward: f64,
    /// Information gain by the judge that rewards, nats; 0 of what did not pass.
    pub gain: f64,
    /// What it does to the rank of its item by that judge, see [`rank_gain`]; 0 where that is not asked for.
    pub rank: f64,
    /// The gain by the second judge, which rewards nothing.
    pub second: f64,
    /// Whether it passed the gate.
    pub passed: bool,
    /// Whether it names nothing but evidence.
    pub grounded: bool,
    /// What it says will become of it.
    pub verdict: Option<bool>,
    /// Whether that is so; `true` where no verdict was asked for.
    pub is_right: bool,
}

/// Answers to held-out prompts by the policy of a moment, as the nightly job asks them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Check {
    /// Rounds learned before.
    pub round: usize,
    /// Mean reward, by the judge that rewards.
    pub reward: f64,
    /// Mean gain by that judge, nats.
    pub gain: f64,
    /// Mean change of reciprocal ranks by that judge, with the sign that it is rewarded by.
    #[serde(default)]
    pub rank: f64,
    /// Mean gain by the second judge over the same answers.
    pub second: f64,
    /// Mean divergence from the reference over the answers' tokens, by the low-variance estimate, nats.
    pub kl: f64,
    /// Mean tokens of an answer.
    pub length: f64,
    /// Different word pairs over all of them.
    pub distinct2: f64,
    /// Different answers over all.
    pub unique: f64,
    /// Share that passes the gate.
    pub format: f64,
    /// Share of those that name nothing but evidence.
    pub grounded: f64,
    /// Share of yes among verdicts.
    pub yes: f64,
    /// Share of verdicts that are right.
    pub right: f64,
    /// Mean reward by the popularity of the item, the least popular third first; `None` for an empty third.
    pub terciles: [Option<f64>; 3],
}

/// Checks over which a falling judge is a trend.
pub const FALLS: usize = 3;

/// Whether the reward is being gamed: over the last three checks the reward rose by more than a tenth (of itself, or of
/// 0.1 where it is smaller) while the second judge's gain fell every time.
pub fn diverged(checks: &[Check]) -> bool {
    let Some(last) = checks.len().checked_sub(FALLS + 1).map(|from| &checks[from..]) else { return false };
    let (Some(first), Some(now)) = (last.first(), last.last()) else { return false };
    let rises = now.reward - first.reward > 0.1 * first.reward.abs().max(0.1);
    rises && last.windows(2).all(|two| two[1].second < two[0].second)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn prices() -> Prices {
        Prices { gain: 1.0, rank: 0.05, ungrounded: 0.2, overlong: 0.1, repetition: 0.2, floor: -1.0, max_words: 48 }
    }

    fn judged(text: &str) -> Option<Passed> {
        let evidence = ["Heat (1995)", "Ronin (1998)", "Crime"].map(str::to_owned);
        let forbidden = ["stars".to_owned()];
        let asked = Asked {
            stem: format::STEM,
            wants_verdict: true,
            subject: "Heat (1995)",
            evidence: &evidence,
            forbidden: &forbidden,
        };
        gate(text, &asked, &Prices { max_words: 10, ..prices() }, &Vocabulary::new(["Crime", "Drama"]))
    }

    fn answer(reason: &str) -> String {
        format::render("notes", reason, Some(true))
    }

    #[test]
    fn the_gate_lets_whole_answers_through_and_nothing_else() {
        let passed = judged(&answer("The user likes Ronin (1998), which is crime as well.")).unwrap();
        assert_eq!((passed.verdict, passed.ungrounded, passed.overlong), (Some(true), 0.0, 0.0));
        assert_eq!(passed.reason, "The user likes Ronin (1998), which is crime as well.");
        for broken in [
            "",
            "notes</think><reason>It goes with Ronin (1998).</reason>",
            "notes</think><reason>It goes with Ronin (1998).</reason><verdict>maybe</verdict>",
            "notes</think><reason>It goes with Ronin (1998).</reason><verdict>yes</verdict> and more",
            &answer("It has five stars by its users."),
            &answer("Heat (1995)"),
            &answer("Heat (1995) and Heat (1995), and then Heat (1995) again."),
        ] {
            assert_eq!(judged(broken), None, "{broken}");
        }
    }

    #[test]
    fn rewards_are_gains_less_faults_and_the_floor_for_the_broken() {
        let prices = prices();
        let passed = |ungrounded, overlong, repetition| Passed {
            reason: String::new(),
            verdict: None,
            ungrounded,
            overlong,
            repetition,
        };
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} instead of {b}");
        close(reward(None, 0.9, 1.0, &prices), -1.0);
        close(reward(Some(&passed(0.0, 0.0, 0.0)), 0.3, 0.0, &prices), 0.3);
        close(reward(Some(&passed(0.0, 0.0, 0.0)), 0.3, -0.5, &prices), 0.275);
        close(reward(Some(&passed(0.0, 0.0, 0.0)), 0.3, -0.5, &Prices { rank: 0.0, ..prices.clone() }), 0.3);
        close(reward(Some(&passed(0.0, 0.0, 0.0)), 7.0, 0.0, &prices), 1.0);
        close(reward(Some(&passed(0.0, 0.0, 0.0)), -7.0, 0.0, &prices), -1.0);
        close(reward(Some(&passed(0.5, 1.0, 0.25)), 0.4, 0.0, &prices), 0.4 - 0.1 - 0.1 - 0.05);
        // Half of "Ronin (1998), drama" is invented, and every word beyond ten costs.
        let found = judged(&answer("The user likes Ronin (1998) and drama.")).unwrap();
        close(found.ungrounded, 0.5);
        let long = judged(&answer(&["so they say"; 5].join(" "))).unwrap();
        close(long.overlong, 0.5);
        assert!(long.repetition > 0.5);
    }

    #[test]
    fn a_tie_ranks_last_and_nobody_ranks_first_among_none() {
        let others = [0.3, 0.5, 0.5, 0.9];
        for (score, expected) in [(1.0, 1), (0.9, 2), (0.6, 2), (0.5, 4), (0.4, 4), (0.3, 5), (-1.0, 5)] {
            assert_eq!(rank(score, &others), expected, "{score}");
        }
        assert_eq!(rank(0.0, &[]), 1);
    }

    #[test]
    fn to_lift_an_item_is_worth_something_if_it_was_liked_and_costs_if_it_was_not() {
        let others = [0.3, 0.5, 0.5, 0.9];
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} instead of {b}");
        // From the fourth place to the second.
        close(rank_gain(0.6, 0.4, &others, true), 0.25);
        close(rank_gain(0.6, 0.4, &others, false), -0.25);
        close(rank_gain(0.4, 0.6, &others, true), -0.25);
        close(rank_gain(0.4, 0.6, &others, false), 0.25);
        // Past nobody, and among nobody.
        close(rank_gain(0.8, 0.6, &others, true), 0.0);
        close(rank_gain(0.8, 0.6, &[], false), 0.0);
    }

    #[test]
    fn a_rising_reward_and_a_falling_judge_are_told_apart_from_all_else() {
        let checks = |pairs: &[(f64, f64)]| -> Vec<Check> {
            pairs
                .iter()
                .map(|(reward, second)| Check { reward: *reward, second: *second, ..Check::default() })
                .collect()
        };
        assert!(diverged(&checks(&[(0.1, 0.30), (0.2, 0.20), (0.3, 0.10), (0.4, 0.05)])));
        assert!(diverged(&checks(&[(0.0, 0.9), (-0.5, 0.30), (-0.4, 0.20), (-0.4, 0.10), (-0.3, 0.05)])));
        // Too few, a reward that does not rise, and a judge that recovers.
        assert!(!diverged(&checks(&[(0.2, 0.20), (0.3, 0.10), (0.4, 0.05)])));
        assert!(!diverged(&checks(&[(0.40, 0.30), (0.41, 0.20), (0.40, 0.10), (0.43, 0.05)])));
        assert!(!diverged(&checks(&[(0.1, 0.30), (0.2, 0.20), (0.3, 0.25), (0.4, 0.05)])));
    }
}
