//! Reinforcement: rounds of sampling several answers of each prompt, judging them, and learning from the difference.
//!
//! ```text
//! a round: balanced prompts ─▶ answers by the current policy ─▶ their rewards ─▶ steps of Adam ─▶ a checkpoint
//! ```
//!
//! What each method learns from a group of answers stands in [`lessons`](crate::learn::lessons).
//!
//! **The reference** of a divergence is the model with which reinforcement began, the aligned one: its adapter is merged into
//! the frozen base ([`Base`](crate::learn::rollout::Base)), what trains is a fresh adapter beside it, and without that one the model is the
//! reference. Were the bare base the reference, the divergence would pull the alignment itself away. The two adapters are
//! put together afterwards ([`Adapter::beside`](crate::llm::adapter::Adapter::beside)).
//!
//! Knows prompts, answers and their rewards; knows nothing of tables. A round's prompts, answers and steps depend on
//! the seed, the round and the adapter alone, and a checkpoint stands whole or not at all after every round: what was
//! killed and started again gives the same weights as what was not (on the CPU, bit by bit).

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::learn::curve::{Round, deviation, mean, resume, save, share, terciles, variety, write_curve};
use crate::learn::lessons::{Config, Method, Unit, anchors, gradient, units};
use crate::learn::optimise::Schedule;
use crate::learn::packing::{self, Batch, Example};
use crate::learn::rollout::{Policy, Prompt, Sampled, Sampler, interrupted};
use crate::learn::supervised::{Surroundings, begun_at};
use crate::learn::trainable::TrainableLm;
use crate::learn::worth::{Check, Worth, diverged};
use crate::llm::ops::into_vec;
use crate::network::random::Random;
use crate::telemetry::Progress;

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
    /// In order.
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

/// Computes the reward of each answer, in order.
pub type Worths<'a> = dyn Fn(&[(&Prompt, &Sampled)]) -> Result<Vec<Worth>> + 'a;

/// Learns from the rewards of the policy's own answers, and leaves the best adapter in the model.
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
    let progress = Progress::begin(around.voice, "reinforce", left, "rounds", "tokens");
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::learn::lessons::tests::config;

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
}
