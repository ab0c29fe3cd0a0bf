//! What is learned from a group of answers, by each method, and the gradient of one step.
//!
//! | method | learns from |
//! |---|---|
//! | best-of-n | the best answer of a prompt, by supervised learning, if its verdict is right and its gain above a least: with 0, the filter round of STaR and R4ec |
//! | weighted | all answers that pass the gate, weighted by exp(R/λ) |
//! | grpo | all answers by their advantage within the group, held near the reference (Shao et al. 2024) |
//! | dpo | the best answer of a prompt against its worst (Rafailov et al. 2023) |
//!
//! Knows prompts, answers and their rewards; knows nothing of sampling, rounds or checkpoints.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::learn::curve::deviation;
use crate::learn::loss::{self, Grpo};
use crate::learn::optimise::Accumulation;
use crate::learn::packing::{self, Batch, Example};
use crate::learn::rollout::{Prompt, Sampled};
use crate::learn::trainable::TrainableLm;
use crate::learn::worth::Worth;
use crate::llm::sampler::Sampling;
use crate::network::layers::Pass;
use crate::network::random::Random;

/// What is learned from a group of answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The best answer that is right and has a gain.
    #[default]
    BestOfN,
    /// Answers weighted by their rewards.
    Weighted,
    /// Group-relative policy optimisation.
    Grpo,
    /// The best answer against the worst.
    Dpo,
}

impl Method {
    /// All of them, the cheapest first.
    pub const ALL: [Method; 4] = [Method::BestOfN, Method::Weighted, Method::Grpo, Method::Dpo];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Method::BestOfN => "best-of-n",
            Method::Weighted => "weighted",
            Method::Grpo => "grpo",
            Method::Dpo => "dpo",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let names = Method::ALL.map(Method::name).join(", ");
        Method::ALL.into_iter().find(|m| m.name() == text).ok_or_else(|| format!("must be one of {names}"))
    }
}

/// How to sample, what to learn and how fast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What is learned. No setting: it is chosen for each reinforcement.
    #[serde(skip)]
    pub method: Method,
    /// Rounds.
    pub rounds: usize,
    /// Prompts of a round.
    pub prompts: usize,
    /// Answers of a prompt.
    pub answers: usize,
    /// How they are chosen.
    #[serde(flatten)]
    pub sampling: Sampling,
    /// Prompts of a step of Adam.
    pub step_prompts: usize,
    /// How often a round's answers are learned.
    pub epochs: usize,
    /// Adam's highest learning rate, which rises and falls over the rounds.
    pub learning_rate: f64,
    /// Share of the rounds during which it rises.
    pub warmup: f64,
    /// Largest norm of a step's gradient; 0 cuts nothing.
    pub clip: f64,
    /// Most tokens that pass through the model at a time.
    pub micro_batch_tokens: usize,
    /// best-of-n: the gain that an answer must exceed, nats.
    pub min_gain: f64,
    /// All others: a group whose rewards deviate no more is skipped.
    pub min_deviation: f64,
    /// weighted: λ.
    pub lambda: f64,
    /// weighted: the largest weight.
    pub most_weight: f64,
    /// grpo: ε and β.
    #[serde(flatten)]
    pub grpo: Grpo,
    /// dpo: β.
    pub dpo_beta: f64,
    /// Weight of the taught answers' `−log p`, which all methods may add.
    pub anchor: f64,
    /// Rounds from one check to the next; 0 checks at the beginning and the end only.
    pub check_every: usize,
    /// Checks without a new best after which it stops; 0 never does.
    pub patience: usize,
    /// How answers of a check are chosen. No setting: as a night chooses them.
    #[serde(skip)]
    pub check_sampling: Sampling,
    /// Decides prompts, answers and dropout.
    pub seed: u64,
}

/// Answers that are learned together, a pair of them for dpo.
#[derive(Debug, Clone, Default)]
pub(super) struct Unit {
    pub(super) examples: Vec<Example>,
    /// Weight, or advantage.
    pub(super) value: f32,
    /// Their targets' log-probabilities by the policy that wrote them; empty where that is the current policy.
    pub(super) old: Vec<f32>,
}

/// What is learned from the answers of a prompt; nothing where they are too much alike or none is good enough.
pub(super) fn units(prompt: &Prompt, group: &[Sampled], worth: &[Worth], config: &Config) -> Vec<Unit> {
    // An answer that was cut off is incomplete: its reward says nothing of its tokens.
    let whole: Vec<usize> = (0..group.len()).filter(|i| !group[*i].is_cut && !group[*i].tokens.is_empty()).collect();
    let example =
        |i: usize| Example { prompt: prompt.tokens.clone(), answer: group[i].tokens.clone(), weights: Vec::new() };
    let unit = |i: usize, value: f32| Unit { examples: vec![example(i)], value, old: Vec::new() };
    let better = |best: Option<usize>, i: usize| match best {
        Some(best) if worth[best].reward >= worth[i].reward => Some(best),
        _ => Some(i),
    };
    let passed = || whole.iter().copied().filter(|i| worth[*i].passed);
    if config.method == Method::BestOfN {
        let good = passed().filter(|i| worth[*i].is_right && worth[*i].gain > config.min_gain);
        return good.fold(None, better).map(|i| unit(i, 1.0)).into_iter().collect();
    }
    if deviation(worth) <= config.min_deviation {
        return Vec::new();
    }
    match config.method {
        Method::BestOfN => Vec::new(),
        Method::Weighted => {
            let chosen: Vec<usize> = passed().collect();
            let rewards: Vec<f64> = chosen.iter().map(|i| worth[*i].reward).collect();
            let weights = loss::exponential_weights(&rewards, config.lambda, config.most_weight);
            chosen.into_iter().zip(weights).map(|(i, weight)| unit(i, weight)).collect()
        }
        Method::Grpo => {
            let advantages = loss::advantages(&worth.iter().map(|w| w.reward).collect::<Vec<_>>());
            whole.into_iter().map(|i| unit(i, advantages[i])).collect()
        }
        Method::Dpo => {
            let best = passed().fold(None, better);
            let worst = whole.iter().copied().min_by(|a, b| worth[*a].reward.total_cmp(&worth[*b].reward));
            let pair = best.zip(worst).filter(|(b, w)| worth[*b].reward - worth[*w].reward > config.min_deviation);
            let unit = |(b, w)| Unit { examples: vec![example(b), example(w)], value: 1.0, old: Vec::new() };
            pair.map(unit).into_iter().collect()
        }
    }
}

/// The taught answers that the model can read.
pub(super) fn anchors(prompts: &[&Prompt], config: &Config, longest: usize) -> Vec<Example> {
    let anchored = prompts.iter().filter(|p| config.anchor > 0.0 && !p.taught.is_empty());
    anchored
        .map(|p| Example { prompt: p.tokens.clone(), answer: p.taught.clone(), weights: Vec::new() })
        .filter(|example| example.tokens() <= longest)
        .collect()
}

/// The gradient of one step.
pub(super) fn gradient(
    lm: &TrainableLm,
    units: &[&Unit],
    anchors: &[Example],
    config: &Config,
    random: &Random,
) -> Result<Accumulation> {
    let mut accumulation = Accumulation::default();
    // Every answer counts by its value, however long it is.
    let total = match config.method {
        Method::BestOfN | Method::Weighted => units.iter().map(|u| f64::from(u.value)).sum::<f64>(),
        Method::Grpo | Method::Dpo => units.len() as f64,
    };
    let mut passes = 0..;
    let mut stream = || random.child(passes.next().unwrap_or_default());
    for part in filled(units, config.micro_batch_tokens) {
        let batch = Batch::new(part.iter().flat_map(|unit| &unit.examples))?;
        let mut pass = lm.training(stream());
        let logprobs = lm.target_logprobs(&mut pass, &batch, true)?;
        let reference = match config.method {
            Method::Grpo if config.grpo.kl == 0.0 => None,
            Method::Grpo | Method::Dpo => Some(lm.target_logprobs(&mut lm.scoring(), &batch, false)?),
            _ => None,
        };
        let per_target = |value: &dyn Fn(&Unit, usize) -> f32| -> Vec<f32> {
            let lengths = part.iter().flat_map(|unit| unit.examples.iter().map(move |e| (*unit, e.answer.len())));
            lengths.flat_map(|(unit, n)| std::iter::repeat_n(value(unit, n), n)).collect()
        };
        let constant = |pass: &Pass, values: Vec<f32>| {
            let n = values.len();
            pass.constant(values, [n])
        };
        let loss = match (config.method, reference) {
            (Method::Dpo, Some(reference)) => {
                let pairs: Vec<_> = batch.spans.chunks_exact(2).map(|two| (two[0].clone(), two[1].clone())).collect();
                loss::dpo(logprobs, reference, &pairs, config.dpo_beta, units.len())
            }
            (Method::Grpo, reference) => {
                let old: Vec<f32> = part.iter().flat_map(|unit| unit.old.iter().copied()).collect();
                let now = logprobs.clone().inner();
                let old = if old.len() == batch.targets.len() { constant(&pass, old) } else { now.clone() };
                let advantages = constant(&pass, per_target(&|unit, _| unit.value));
                let weights = constant(&pass, per_target(&|_, n| (1.0 / (total * n as f64)) as f32));
                loss::grpo(logprobs, old, reference.unwrap_or(now), advantages, weights, config.grpo)
            }
            _ => {
                let weight = |unit: &Unit, n: usize| (f64::from(unit.value) / (total * n as f64)) as f32;
                loss::weighted(logprobs, constant(&pass, per_target(&weight)))
            }
        };
        accumulation.add(pass, loss)?;
    }
    for part in packing::batches(anchors, config.micro_batch_tokens) {
        let batch = Batch::new(part.iter().map(|i| &anchors[*i]))?;
        let mut pass = lm.training(stream());
        let logprobs = lm.target_logprobs(&mut pass, &batch, true)?;
        let weight = |n: usize| (config.anchor / (anchors.len() * n) as f64) as f32;
        let weights: Vec<f32> =
            part.iter().map(|i| anchors[*i].answer.len()).flat_map(|n| std::iter::repeat_n(weight(n), n)).collect();
        let n = weights.len();
        let weights = pass.constant(weights, [n]);
        accumulation.add(pass, loss::weighted(logprobs, weights))?;
    }
    Ok(accumulation)
}

/// Units in batches of at most so many tokens, the long ones first.
fn filled<'a>(units: &[&'a Unit], limit: usize) -> Vec<Vec<&'a Unit>> {
    let tokens = |unit: &Unit| unit.examples.iter().map(Example::tokens).sum::<usize>();
    let mut order = units.to_vec();
    order.sort_by_key(|unit| std::cmp::Reverse(tokens(unit)));
    let (mut parts, mut held) = (Vec::<Vec<&Unit>>::new(), 0);
    for unit in order {
        let n = tokens(unit);
        match parts.last_mut() {
            Some(part) if held + n <= limit => part.push(unit),
            _ => {
                parts.push(vec![unit]);
                held = 0;
            }
        }
        held += n;
    }
    parts
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn worth(reward: f64, gain: f64, is_right: bool) -> Worth {
        Worth { reward, gain, passed: reward > -1.0, is_right, ..Worth::default() }
    }

    /// Settings for tests.
    pub(crate) fn config() -> Config {
        Config {
            method: Method::BestOfN,
            rounds: 8,
            prompts: 32,
            answers: 8,
            sampling: Sampling { temperature: 1.0, top_p: 0.95, ..Sampling::default() },
            step_prompts: 16,
            epochs: 1,
            learning_rate: 1e-4,
            warmup: 0.05,
            clip: 1.0,
            micro_batch_tokens: 512,
            min_gain: 0.0,
            min_deviation: 0.02,
            lambda: 0.4,
            most_weight: 5.0,
            grpo: Grpo { ratio_clip: 0.2, kl: 0.04 },
            dpo_beta: 0.1,
            anchor: 0.0,
            check_every: 1,
            patience: 3,
            check_sampling: Sampling::default(),
            seed: 0,
        }
    }

    fn group(n: usize) -> Vec<Sampled> {
        (0..n).map(|i| Sampled { tokens: vec![i as u32 + 10], ..Sampled::default() }).collect()
    }

    fn chosen(method: Method, group: &[Sampled], worth: &[Worth]) -> Vec<(Vec<u32>, f32)> {
        let prompt = Prompt { tokens: vec![1], ..Prompt::default() };
        let config = Config { method, min_gain: 0.0, lambda: 0.5, most_weight: 2.0, ..config() };
        let first = |unit: Unit| (unit.examples.iter().flat_map(|e| e.answer.clone()).collect(), unit.value);
        units(&prompt, group, worth, &config).into_iter().map(first).collect()
    }

    #[test]
    fn best_of_n_keeps_what_is_right_and_gains() {
        let worth = [worth(0.9, 0.9, false), worth(0.8, 0.0, true), worth(0.2, 0.3, true), worth(0.1, 0.4, true)];
        assert_eq!(chosen(Method::BestOfN, &group(4), &worth), [(vec![12], 1.0)]);
        let mut cut = group(4);
        cut[2].is_cut = true;
        assert_eq!(chosen(Method::BestOfN, &cut, &worth), [(vec![13], 1.0)]);
        assert!(chosen(Method::BestOfN, &group(2), &worth[..2]).is_empty());
    }

    #[test]
    fn groups_of_like_rewards_teach_nothing() {
        let alike = [worth(0.50, 0.5, true), worth(0.51, 0.5, true), worth(0.52, 0.5, true)];
        for method in [Method::Weighted, Method::Grpo, Method::Dpo] {
            assert!(chosen(method, &group(3), &alike).is_empty(), "{method}");
        }
        assert_eq!(chosen(Method::BestOfN, &group(3), &alike), [(vec![12], 1.0)]);
    }

    #[test]
    fn every_method_takes_its_part_of_a_group() {
        let worth = [worth(0.5, 0.5, true), worth(-1.0, 0.0, false), worth(0.0, 0.1, true), worth(-0.5, 0.0, true)];
        let weighted = chosen(Method::Weighted, &group(4), &worth);
        let want = [(10, 2.0), (12, 1.0), (13, (-1f32).exp())];
        assert_eq!(weighted.len(), 3, "what is gated is not imitated");
        for ((tokens, weight), (token, value)) in weighted.iter().zip(want) {
            assert!(tokens == &[token] && (weight - value).abs() < 1e-6, "{weighted:?}");
        }
        let grpo = chosen(Method::Grpo, &group(4), &worth);
        assert!(grpo.len() == 4 && grpo.iter().map(|(_, a)| a).sum::<f32>().abs() < 1e-5);
        assert!(grpo[0].1 > 0.0 && grpo[1].1 < 0.0);
        assert_eq!(chosen(Method::Dpo, &group(4), &worth), [(vec![10, 11], 1.0)]);
        let mut cut = group(4);
        cut[1].is_cut = true;
        assert_eq!(chosen(Method::Grpo, &cut, &worth).len(), 3);
        assert_eq!(chosen(Method::Dpo, &cut, &worth), [(vec![10, 13], 1.0)]);
    }

    #[test]
    fn methods_have_names() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
            assert_eq!(serde_json::to_value(method).unwrap(), method.name());
        }
        assert!("ppo".parse::<Method>().unwrap_err().contains("best-of-n"));
    }
}
