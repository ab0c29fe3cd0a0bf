//! The curve of a reinforcement: the figures of every round and every check, and the files that keep them.
//!
//! Knows answers' rewards as numbers, the curve's file and the checkpoint. Knows nothing of sampling or learning.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::learn::rollout::{Prompt, Sampled};
use crate::learn::supervised::Surroundings;
use crate::learn::trainable::TrainableLm;
use crate::learn::worth::{Check, Worth};
use crate::network::parameters::Values;

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
    /// What was measured.
    Check(Check),
}

pub(super) struct State {
    pub(super) rounds: Vec<Round>,
    pub(super) checks: Vec<Check>,
    /// The adapter of the best check so far.
    pub(super) best: Values,
}

pub(super) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (n, sum) = values.into_iter().fold((0usize, 0.0), |(n, sum), v| (n + 1, sum + v));
    sum / n.max(1) as f64
}

pub(super) fn share(values: impl IntoIterator<Item = bool>) -> f64 {
    mean(values.into_iter().map(|v| if v { 1.0 } else { 0.0 }))
}

/// The population's.
pub(super) fn deviation(worth: &[Worth]) -> f64 {
    let middle = mean(worth.iter().map(|w| w.reward));
    mean(worth.iter().map(|w| (w.reward - middle).powi(2))).sqrt()
}

/// Shares of different word pairs and of different texts.
pub(super) fn variety(texts: &[&str]) -> (f64, f64) {
    let (mut pairs, mut of, mut whole) = (HashSet::new(), 0usize, HashSet::new());
    for text in texts {
        let words: Vec<&str> = text.split_whitespace().collect();
        of += words.len().saturating_sub(1);
        pairs.extend(words.windows(2).map(|two| (two[0], two[1])));
        whole.insert(*text);
    }
    (pairs.len() as f64 / of.max(1) as f64, whole.len() as f64 / texts.len().max(1) as f64)
}

pub(super) fn terciles(answers: &[(&Prompt, &Sampled)], worth: &[Worth]) -> [Option<f64>; 3] {
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

pub(super) fn write_curve(state: &State, around: &Surroundings<'_>) -> Result<()> {
    let Some(path) = &around.curve else { return Ok(()) };
    disk::write_whole(path, lines(state)? + "\n")
        .context(Kind::Temporary, || format!("cannot write `{}`", path.display()))
}

pub(super) fn save(lm: &TrainableLm, state: &State, around: &Surroundings<'_>, purpose: &str) -> Result<()> {
    write_curve(state, around)?;
    let Some(path) = &around.checkpoint else { return Ok(()) };
    let metadata = [("purpose", purpose.to_owned()), ("curve", lines(state)?)];
    let metadata: HashMap<String, String> = metadata.map(|(key, value)| (key.to_owned(), value)).into();
    lm.parameters().save_checkpoint(path, &state.best, metadata)
}

/// The state to begin with: the checkpoint's where there is one.
pub(super) fn resume(lm: &mut TrainableLm, around: &Surroundings<'_>, purpose: &str) -> Result<State> {
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
