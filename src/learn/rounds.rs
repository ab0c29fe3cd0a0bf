//! Reinforcement: rounds of sampling several answers of each prompt, judging them, and learning from the difference.
//!
//! ```text
//! a round: balanced prompts ─▶ answers by the policy of now ─▶ what each is worth ─▶ steps of Adam ─▶ a checkpoint
//! ```
//!
//! | method | learns from |
//! |---|---|
//! | best-of-n | the best answer of a prompt, by supervised learning, if its verdict is right and its gain above a least: with 0, the filter round of STaR and R4ec |
//! | weighted | all answers that pass the gate, weighted by exp(R/λ) |
//! | grpo | all answers by their advantage within the group, held near the reference (Shao et al. 2024) |
//! | dpo | the best answer of a prompt against its worst (Rafailov et al. 2023) |
//!
//! **The reference** of a divergence is the model with which reinforcement began, the aligned one: its adapter is merged into
//! the frozen base ([`rollout::Base`]), what trains is a fresh adapter beside it, and without that one the model is the
//! reference. Were the bare base the reference, the divergence would pull the alignment itself away. The two adapters are
//! put together afterwards ([`Adapter::beside`](crate::llm::adapter::Adapter::beside)).
//!
//! Knows prompts, answers and what they are worth; knows nothing of tables. A round's prompts, answers and steps depend on
//! the seed, the round and the adapter alone, and a checkpoint stands whole or not at all after every round: what was
//! killed and started again gives the same weights as what was not (on the CPU, bit by bit).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::learn::loss::{self, Grpo};
use crate::learn::optimise::{Accumulation, Schedule};
use crate::learn::packing::{self, Batch, Example};
use crate::learn::rollout::{Policy, Prompt, Sampled, Sampler, interrupted};
use crate::learn::supervised::{Surroundings, begun_at};
use crate::learn::trainable::TrainableLm;
use crate::learn::worth::{Check, Worth, diverged};
use crate::llm::ops::into_vec;
use crate::llm::sampler::Sampling;
use crate::network::layers::Pass;
use crate::network::parameters::Values;
use crate::network::random::Random;
use crate::telemetry::Progress;

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

/// A round of the curve.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Round {
    /// From 1.
    pub round: usize,
    /// Steps of Adam.
    pub steps: usize,
    /// Mean over them.
    pub loss: f64,
    /// Mean over them, before it was cut.
    pub gradient_norm: f64,
    /// Adam's.
    pub learning_rate: f64,
    /// Groups that were learned from.
    pub learned: usize,
    /// Groups that were not: rewards too much alike, or no answer good enough.
    pub skipped: usize,
    /// Mean reward of all answers.
    pub reward: f64,
    /// Mean standard deviation of rewards within a group.
    pub deviation: f64,
    /// Mean gain, nats.
    pub gain: f64,
    /// Mean change of reciprocal ranks, with the sign that it is rewarded by.
    #[serde(default)]
    pub rank: f64,
    /// Mean gain by the second judge.
    pub second: f64,
    /// Mean tokens of an answer.
    pub length: f64,
    /// Share that passes the gate.
    pub format: f64,
    /// Share of yes among verdicts.
    pub yes: f64,
    /// Different word pairs over all answers.
    pub distinct2: f64,
    /// Different answers over all.
    pub unique: f64,
    /// Mean reward by popularity, the least popular third first.
    pub terciles: [Option<f64>; 3],
    /// Prompt tokens that were sampled from, and those that were not prefilled again.
    pub prompt_tokens: u64,
    /// See `prompt_tokens`.
    pub cached_tokens: u64,
    /// Tokens of all answers.
    pub tokens: u64,
    /// Of sampling alone.
    pub tokens_per_second: f64,
}

/// A line of the curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// What was learned.
    Round(Round),
    /// What it came to.
    Check(Check),
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// All rounds are done.
    Finished,
    /// The second judge found nothing better for some checks.
    Patience,
    /// The reward rose and the second judge fell: the reward was being gamed.
    Diverged,
}

/// A finished reinforcement. The model holds the adapter that the second judge likes best.
#[derive(Debug, Clone, PartialEq)]
pub struct Reinforced {
    /// The first first.
    pub rounds: Vec<Round>,
    /// The first one is from before anything was learned.
    pub checks: Vec<Check>,
    /// The round after which the adapter is kept; 0 for none that is better than the beginning.
    pub best_round: usize,
    /// Why it ended.
    pub ended: Ended,
}

impl Reinforced {
    /// The check of the kept adapter.
    pub fn best(&self) -> Option<&Check> {
        self.checks.iter().find(|c| c.round == self.best_round)
    }
}

/// What answers are worth, one for each.
pub type Worths<'a> = dyn Fn(&[(&Prompt, &Sampled)]) -> Result<Vec<Worth>> + 'a;

/// Answers that are learned together, a pair of them for dpo.
#[derive(Debug, Clone, Default)]
struct Unit {
    examples: Vec<Example>,
    /// Weight, or advantage.
    value: f32,
    /// Their targets' log-probabilities by the policy that wrote them; none where it is the policy of now.
    old: Vec<f32>,
}

struct State {
    rounds: Vec<Round>,
    checks: Vec<Check>,
    best: Values,
}

/// Learns from what the policy's own answers are worth, and leaves the best adapter in it.
///
/// # Errors
/// `Kind::Interrupted` where it was stopped; finished rounds are kept where a checkpoint is named. `Kind::Input` where there
/// is nothing to ask, or learning diverges; `Kind::Config` where the checkpoint belongs to another reinforcement; what
/// judging, the device and the disk say.
pub fn reinforce(
    lm: &mut TrainableLm,
    sampler: &Sampler,
    (train, held_out): (&[Prompt], &[Prompt]),
    worths: &Worths<'_>,
    config: &Config,
    around: &Surroundings<'_>,
) -> Result<Reinforced> {
    let longest = sampler.longest_prompt();
    let fits = |prompt: &&Prompt| !prompt.tokens.is_empty() && prompt.tokens.len() <= longest;
    let (kept, checked): (Vec<&Prompt>, Vec<&Prompt>) =
        (train.iter().filter(fits).collect(), held_out.iter().filter(fits).collect());
    let left_out = train.len() + held_out.len() - kept.len() - checked.len();
    if left_out > 0 {
        tracing::warn!(left_out, longest, "prompts leave no room for an answer");
    }
    if kept.is_empty() || config.answers == 0 || config.prompts == 0 {
        return Err(Error::new(Kind::Input, "there is nothing to reinforce with: no prompt leaves room for an answer")
            .with("prompts", train.len())
            .with("longest", format!("{longest} tokens"))
            .hint("raise model.max_positions, or look at the table of examples"));
    }
    let told = |prompts: &[&Prompt]| -> Vec<Example> {
        let told = |p: &&Prompt| Example { prompt: p.tokens.clone(), answer: p.taught.clone(), weights: Vec::new() };
        prompts.iter().map(told).collect()
    };
    let mut purpose = Fingerprint::new("reinforce", 2);
    purpose.add("learned by", config.method).add_settings("check sampling", &config.check_sampling)?;
    purpose.add_settings("config", config)?.add_settings("shape", lm.shape())?.add("begun at", begun_at(lm)?);
    purpose.add("model", around.model).add("prompts", packing::digest(&[&told(&kept), &told(&checked)]));
    let purpose = purpose.digest();
    let mut state = resume(lm, around, &purpose)?;
    let checking = |lm: &TrainableLm, round| check(lm, sampler, &checked, worths, config, round, around.stop);
    if state.checks.is_empty() && !checked.is_empty() {
        state.checks.push(checking(lm, 0)?);
    }
    let left = config.rounds.saturating_sub(state.rounds.len()) as u64;
    let progress = Progress::begin(around.voice, "reinforce", left, "tokens");
    let warmup = (config.warmup * config.rounds as f64).round() as usize;
    let schedule = Schedule { learning_rate: config.learning_rate, warmup, steps: config.rounds };
    let mut ended = over(&state.checks, config);
    while ended.is_none() && state.rounds.len() < config.rounds {
        if (around.stop)() {
            return Err(interrupted().with("rounds", format!("{} of {}", state.rounds.len(), config.rounds)));
        }
        let at = state.rounds.len();
        let round = learn_round(lm, sampler, &kept, worths, config, (at, schedule.at(at)), around.stop)
            .map_err(|e| e.with("round", at + 1))?;
        progress.advance(1, round.tokens);
        tracing::info!(
            round = at + 1,
            of = config.rounds,
            reward = round.reward,
            second = round.second,
            format = round.format,
            "learned from answers"
        );
        state.rounds.push(round);
        let done = state.rounds.len();
        let is_due = done == config.rounds || (config.check_every > 0 && done.is_multiple_of(config.check_every));
        if checked.is_empty() {
            state.best = lm.parameters().values();
        } else if is_due {
            state.checks.push(checking(lm, done)?);
            if best_of(&state.checks) == Some(done) {
                state.best = lm.parameters().values();
            }
        }
        ended = over(&state.checks, config);
        save(lm, &state, around, &purpose)?;
    }
    progress.finish();
    write_curve(&state, around)?;
    match ended {
        Some(Ended::Diverged) => tracing::warn!(
            kept = best_of(&state.checks),
            "stopped: the reward rises while the second judge's gain falls; the reward is being gamed"
        ),
        Some(Ended::Patience) => tracing::info!("stopped: the second judge finds nothing better"),
        _ => {}
    }
    lm.parameters_mut().set_values(&state.best);
    let best_round = best_of(&state.checks).unwrap_or(state.rounds.len());
    let ended = ended.unwrap_or(Ended::Finished);
    Ok(Reinforced { rounds: state.rounds, checks: state.checks, best_round, ended })
}

/// The round of the first check with the highest gain by the second judge.
fn best_of(checks: &[Check]) -> Option<usize> {
    let better = |best: Option<&Check>, check: &Check| best.is_none_or(|best| check.second > best.second);
    checks.iter().fold(None, |best, check| if better(best, check) { Some(check) } else { best }).map(|c| c.round)
}

/// Whether to stop before all rounds are done.
fn over(checks: &[Check], config: &Config) -> Option<Ended> {
    if diverged(checks) {
        return Some(Ended::Diverged);
    }
    let best = best_of(checks)?;
    let stale = checks.iter().filter(|c| c.round > best).count();
    (config.patience > 0 && stale >= config.patience).then_some(Ended::Patience)
}

/// A round's prompts: outcomes in turn, thirds of popularity in turn, within both in an order that begins anew when all
/// have been asked.
fn draw<'a>(train: &[&'a Prompt], n: usize, seed: u64, round: usize) -> Vec<&'a Prompt> {
    let mut strata: BTreeMap<(usize, bool), Vec<usize>> = BTreeMap::new();
    for (at, prompt) in train.iter().enumerate() {
        strata.entry((prompt.tercile, prompt.label)).or_default().push(at);
    }
    let strata: Vec<Vec<usize>> = strata.into_values().collect();
    let place = |drawn: usize| {
        let stratum = drawn % strata.len();
        let (members, nth) = (&strata[stratum], drawn / strata.len());
        let mut order = members.clone();
        let random = Random::new(seed, "prompts").child(stratum as u64);
        random.child((nth / members.len()) as u64).shuffle(&mut order);
        train[order[nth % order.len()]]
    };
    (round * n..(round + 1) * n).map(place).collect()
}

fn row_seed(seed: u64, what: &str, round: usize, prompt: usize, answer: usize) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(what.as_bytes());
    for number in [seed, round as u64, prompt as u64, answer as u64] {
        hasher.update(&number.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

fn judged(worths: &Worths<'_>, answers: &[(&Prompt, &Sampled)]) -> Result<Vec<Worth>> {
    let found = worths(answers)?;
    if found.len() != answers.len() || found.iter().any(|w| !(w.reward.is_finite() && w.second.is_finite())) {
        return Err(Error::new(Kind::Internal, "an answer has no reward that is a number"));
    }
    Ok(found)
}

fn learn_round(
    lm: &mut TrainableLm,
    sampler: &Sampler,
    train: &[&Prompt],
    worths: &Worths<'_>,
    config: &Config,
    (at, learning_rate): (usize, f64),
    stop: &dyn Fn() -> bool,
) -> Result<Round> {
    let prompts = draw(train, config.prompts, config.seed, at);
    let policy: Policy<'_> = sampler.policy(&lm.adapter()?)?;
    let started = Instant::now();
    let seed = |prompt, answer| row_seed(config.seed, "round", at, prompt, answer);
    let groups = policy.sample(&prompts, config.answers, config.sampling, seed, stop)?;
    let (usage, seconds) = (policy.usage(), started.elapsed().as_secs_f64());
    drop(policy);
    let answers: Vec<(&Prompt, &Sampled)> =
        prompts.iter().zip(&groups).flat_map(|(p, group)| group.iter().map(|answer| (*p, answer))).collect();
    let worth = judged(worths, &answers)?;
    let of_groups: Vec<&[Worth]> = worth.chunks(config.answers).collect();

    let mut lessons: Vec<Vec<Unit>> =
        (0..prompts.len()).map(|i| units(prompts[i], &groups[i], of_groups[i], config)).collect();
    let learned = lessons.iter().filter(|units| !units.is_empty()).count();
    let step_prompts = config.step_prompts.clamp(1, prompts.len());
    if config.method == Method::Grpo && (config.epochs > 1 || step_prompts < prompts.len()) {
        for unit in lessons.iter_mut().flatten() {
            let batch = Batch::new(&unit.examples)?;
            unit.old = into_vec(lm.target_logprobs(&mut lm.scoring(), &batch, true)?)?;
        }
    }
    let dropout = Random::new(config.seed, "dropout").child(at as u64);
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for epoch in 0..config.epochs {
        let parts = lessons.chunks(step_prompts).zip(prompts.chunks(step_prompts));
        for (i, (units, asked)) in parts.enumerate() {
            if stop() {
                return Err(interrupted());
            }
            let units: Vec<&Unit> = units.iter().flatten().collect();
            let anchors = anchors(asked, config, lm.config().max_positions);
            if units.is_empty() && anchors.is_empty() {
                continue;
            }
            let random = dropout.child(epoch as u64).child(i as u64);
            let stepped = gradient(lm, &units, &anchors, config, &random)?.step(
                lm.parameters_mut(),
                learning_rate,
                config.clip,
            )?;
            losses.push(stepped.loss);
            norms.push(stepped.gradient_norm);
        }
    }
    let texts: Vec<&str> = answers.iter().map(|(_, a)| a.text.as_str()).collect();
    let (distinct2, unique) = variety(&texts);
    Ok(Round {
        round: at + 1,
        steps: losses.len(),
        loss: mean(losses),
        gradient_norm: mean(norms),
        learning_rate,
        learned,
        skipped: prompts.len() - learned,
        reward: mean(worth.iter().map(|w| w.reward)),
        deviation: mean(of_groups.iter().map(|group| deviation(group))),
        gain: mean(worth.iter().map(|w| w.gain)),
        rank: mean(worth.iter().map(|w| w.rank)),
        second: mean(worth.iter().map(|w| w.second)),
        length: mean(answers.iter().map(|(_, a)| a.tokens.len() as f64)),
        format: share(worth.iter().map(|w| w.passed)),
        yes: share(worth.iter().filter_map(|w| w.verdict)),
        distinct2,
        unique,
        terciles: terciles(&answers, &worth),
        prompt_tokens: usage.prompt_tokens,
        cached_tokens: usage.cached_tokens,
        tokens: usage.completion_tokens,
        tokens_per_second: usage.completion_tokens as f64 / seconds.max(1e-9),
    })
}

/// What is learned from the answers of a prompt; nothing where they are too much alike or none is good enough.
fn units(prompt: &Prompt, group: &[Sampled], worth: &[Worth], config: &Config) -> Vec<Unit> {
    // An answer that was cut off is not over: what it is worth says nothing of its tokens.
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
fn anchors(prompts: &[&Prompt], config: &Config, longest: usize) -> Vec<Example> {
    let anchored = prompts.iter().filter(|p| config.anchor > 0.0 && !p.taught.is_empty());
    anchored
        .map(|p| Example { prompt: p.tokens.clone(), answer: p.taught.clone(), weights: Vec::new() })
        .filter(|example| example.tokens() <= longest)
        .collect()
}

/// The gradient of one step.
fn gradient(
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

/// One answer of every held-out prompt, and what all of them come to.
fn check(
    lm: &TrainableLm,
    sampler: &Sampler,
    prompts: &[&Prompt],
    worths: &Worths<'_>,
    config: &Config,
    round: usize,
    stop: &dyn Fn() -> bool,
) -> Result<Check> {
    let policy = sampler.policy(&lm.adapter()?)?;
    // The same seeds at every check: what differs is the policy.
    let seed = |prompt, answer| row_seed(config.seed, "check", 0, prompt, answer);
    let groups = policy.sample(prompts, 1, config.check_sampling, seed, stop)?;
    drop(policy);
    let answers: Vec<(&Prompt, &Sampled)> =
        prompts.iter().zip(&groups).flat_map(|(p, group)| group.iter().map(|answer| (*p, answer))).collect();
    let worth = judged(worths, &answers)?;
    let said: Vec<Example> = answers
        .iter()
        .filter(|(_, a)| !a.tokens.is_empty())
        .map(|(p, a)| Example { prompt: p.tokens.clone(), answer: a.tokens.clone(), weights: Vec::new() })
        .collect();
    let mut divergences = Vec::new();
    for part in packing::batches(&said, config.micro_batch_tokens) {
        if stop() {
            return Err(interrupted());
        }
        let batch = Batch::new(part.iter().map(|i| &said[*i]))?;
        let by = |with_adapter| into_vec(lm.target_logprobs(&mut lm.scoring(), &batch, with_adapter)?);
        let apart = |(now, reference): (f32, f32)| {
            let d = f64::from(reference - now);
            d.exp() - d - 1.0
        };
        divergences.extend(by(true)?.into_iter().zip(by(false)?).map(apart));
    }
    let texts: Vec<&str> = answers.iter().map(|(_, a)| a.text.as_str()).collect();
    let (distinct2, unique) = variety(&texts);
    let asked = |w: &&Worth| w.verdict.is_some();
    Ok(Check {
        round,
        // Compared again after they were written and read: nine places survive that.
        reward: nine(mean(worth.iter().map(|w| w.reward))),
        gain: mean(worth.iter().map(|w| w.gain)),
        rank: mean(worth.iter().map(|w| w.rank)),
        second: nine(mean(worth.iter().map(|w| w.second))),
        kl: mean(divergences),
        length: mean(answers.iter().map(|(_, a)| a.tokens.len() as f64)),
        distinct2,
        unique,
        format: share(worth.iter().map(|w| w.passed)),
        grounded: share(worth.iter().filter(|w| w.passed).map(|w| w.grounded)),
        yes: share(worth.iter().filter_map(|w| w.verdict)),
        right: share(worth.iter().filter(asked).map(|w| w.is_right)),
        terciles: terciles(&answers, &worth),
    })
}

fn nine(x: f64) -> f64 {
    (x * 1e9).round() / 1e9
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (n, sum) = values.into_iter().fold((0usize, 0.0), |(n, sum), v| (n + 1, sum + v));
    sum / n.max(1) as f64
}

fn share(values: impl IntoIterator<Item = bool>) -> f64 {
    mean(values.into_iter().map(|v| if v { 1.0 } else { 0.0 }))
}

/// The population's.
fn deviation(worth: &[Worth]) -> f64 {
    let middle = mean(worth.iter().map(|w| w.reward));
    mean(worth.iter().map(|w| (w.reward - middle).powi(2))).sqrt()
}

/// Shares of different word pairs and of different texts.
fn variety(texts: &[&str]) -> (f64, f64) {
    let (mut pairs, mut of, mut whole) = (HashSet::new(), 0usize, HashSet::new());
    for text in texts {
        let words: Vec<&str> = text.split_whitespace().collect();
        of += words.len().saturating_sub(1);
        pairs.extend(words.windows(2).map(|two| (two[0], two[1])));
        whole.insert(*text);
    }
    (pairs.len() as f64 / of.max(1) as f64, whole.len() as f64 / texts.len().max(1) as f64)
}

fn terciles(answers: &[(&Prompt, &Sampled)], worth: &[Worth]) -> [Option<f64>; 3] {
    [0, 1, 2].map(|tercile| {
        let of: Vec<f64> =
            answers.iter().zip(worth).filter(|((p, _), _)| p.tercile == tercile).map(|(_, w)| w.reward).collect();
        (!of.is_empty()).then(|| mean(of))
    })
}

/// Rounds and checks in the order of time, one JSON object a line.
fn lines(state: &State) -> Result<String> {
    let mut all: Vec<(usize, Line)> = state.rounds.iter().map(|r| (r.round, Line::Round(r.clone()))).collect();
    all.extend(state.checks.iter().map(|c| (c.round, Line::Check(c.clone()))));
    all.sort_by_key(|(round, line)| (*round, matches!(line, Line::Check(_))));
    let lines: std::result::Result<Vec<String>, _> = all.iter().map(|(_, line)| serde_json::to_string(line)).collect();
    Ok(lines.context(Kind::Internal, || "the curve cannot be written".to_owned())?.join("\n"))
}

fn write_curve(state: &State, around: &Surroundings<'_>) -> Result<()> {
    let Some(path) = &around.curve else { return Ok(()) };
    disk::write_whole(path, lines(state)? + "\n")
        .context(Kind::Temporary, || format!("cannot write `{}`", path.display()))
}

fn save(lm: &TrainableLm, state: &State, around: &Surroundings<'_>, purpose: &str) -> Result<()> {
    write_curve(state, around)?;
    let Some(path) = &around.checkpoint else { return Ok(()) };
    let metadata = [("purpose", purpose.to_owned()), ("curve", lines(state)?)];
    let metadata: HashMap<String, String> = metadata.map(|(key, value)| (key.to_owned(), value)).into();
    lm.parameters().save_checkpoint(path, &state.best, metadata)
}

/// The state to begin with: the checkpoint's where there is one.
fn resume(lm: &mut TrainableLm, around: &Surroundings<'_>, purpose: &str) -> Result<State> {
    let begun = lm.parameters().values();
    let Some(path) = around.checkpoint.as_ref().filter(|path| path.exists()) else {
        return Ok(State { rounds: Vec::new(), checks: Vec::new(), best: begun });
    };
    let broken = |what: &str| {
        Error::new(Kind::Config, what)
            .with("file", path.display())
            .hint("remove the file to reinforce from the start, or name another folder `out`")
    };
    let (best, metadata) = lm.parameters_mut().load_checkpoint(path)?;
    let entry = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
    if entry("purpose") != purpose {
        lm.parameters_mut().set_values(&begun);
        return Err(broken("the checkpoint belongs to another reinforcement"));
    }
    let lines: std::result::Result<Vec<Line>, _> = entry("curve").lines().map(serde_json::from_str).collect();
    let mut state = State { rounds: Vec::new(), checks: Vec::new(), best };
    for line in lines.map_err(|e| broken("the checkpoint's state cannot be read").source(e))? {
        match line {
            Line::Round(round) => state.rounds.push(round),
            Line::Check(check) => state.checks.push(check),
        }
    }
    tracing::info!(round = state.rounds.len(), file = %path.display(), "reinforcement goes on");
    Ok(state)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn worth(reward: f64, gain: f64, is_right: bool) -> Worth {
        Worth { reward, gain, passed: reward > -1.0, is_right, ..Worth::default() }
    }

    fn config() -> Config {
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
    fn prompts_are_drawn_in_balance_and_all_of_them_are_asked() {
        let train: Vec<Prompt> =
            (0..60).map(|i| Prompt { number: i, label: i % 10 == 0, tercile: i % 3, ..Prompt::default() }).collect();
        let train: Vec<&Prompt> = train.iter().collect();
        let round = draw(&train, 12, 7, 0);
        assert_eq!(round.iter().filter(|p| p.label).count(), 6);
        for tercile in 0..3 {
            assert_eq!(round.iter().filter(|p| p.tercile == tercile).count(), 4);
        }
        let numbers = |round| draw(&train, 12, 7, round).iter().map(|p| p.number).collect::<Vec<_>>();
        assert_eq!(numbers(3), numbers(3));
        assert_ne!(numbers(0), numbers(1));
        let all: HashSet<usize> = (0..9).flat_map(numbers).collect();
        assert_eq!(all.len(), 60);
    }

    #[test]
    fn it_is_over_when_the_judge_says_so() {
        let checks = |seconds: &[f64]| -> Vec<Check> {
            let check = |(round, second): (usize, &f64)| Check { round, second: *second, ..Check::default() };
            seconds.iter().enumerate().map(check).collect()
        };
        let config = Config { patience: 2, ..config() };
        assert_eq!(over(&checks(&[0.1, 0.3, 0.2]), &config), None);
        assert_eq!(over(&checks(&[0.1, 0.3, 0.2, 0.3]), &config), Some(Ended::Patience));
        assert_eq!(best_of(&checks(&[0.1, 0.3, 0.2, 0.3])), Some(1));
        assert_eq!(over(&[], &config), None);
        let mut gamed = checks(&[0.4, 0.3, 0.2, 0.1]);
        gamed.iter_mut().for_each(|c| c.reward = c.round as f64);
        assert_eq!(over(&gamed, &Config { patience: 0, ..config }), Some(Ended::Diverged));
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
