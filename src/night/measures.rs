//! What a run is measured by, small enough to be kept beside its manifest; and tonight's numbers held against those of the
//! runs before.
//!
//! Plain data and arithmetic. Knows nothing of where runs are kept, or of how a page shows them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::night::manifest::Manifest;

/// How many runs tonight is held against.
pub const LAST_RUNS: usize = 7;
/// From so many runs on, a number outside their range is worth a look.
const RUNS_FOR_A_RANGE: usize = 3;
/// Refusals whose rates are compared.
const REFUSALS: usize = 5;
/// Steps of a vector's component, for sums that do not depend on their order.
const STEPS: f64 = 1e9;
/// A vector has moved where the cosine distance to what it was is more than this; rounding on another device is less.
const MOVED: f64 = 1e-4;

/// A run in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Measures {
    /// The run.
    pub run_id: String,
    /// Its partition.
    pub dt: String,
    /// Digest of the sentence encoder: mean vectors of two encoders are not compared.
    pub encoder: String,
    /// Reasons asked for.
    pub reasons: u64,
    /// Of those, accepted ones.
    pub accepted: u64,
    /// Refused ones, by the reason for refusal.
    pub refused: BTreeMap<String, u64>,
    /// Mean score.
    pub score: Option<f64>,
    /// Mean length of a reason in words.
    pub words: Option<f64>,
    /// Answers that the run paid for.
    pub generated: u64,
    /// Prompt tokens that it paid for.
    pub prompt_tokens: u64,
    /// New tokens.
    pub completion_tokens: u64,
    /// Seconds from start to end.
    pub seconds: f64,
    /// Cosine distance between the mean of the items' vectors and the mean of the last runs' means.
    pub distance: Option<f64>,
    /// The items' vectors beside those of the version before.
    pub moved: Option<Moved>,
    /// Mean of the items' vectors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mean_vector: Vec<f64>,
}

/// Vectors beside those of the version before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Moved {
    /// The partition of the version before.
    pub against: String,
    /// Items that have a vector in both.
    pub common: u64,
    /// Of those, items whose vector is another one.
    pub moved: u64,
    /// Mean cosine distance over the common ones.
    pub mean_distance: f64,
}

impl Moved {
    /// The share of the common items whose vector moved; none where no item is common.
    pub fn share(&self) -> Option<f64> {
        (self.common > 0).then(|| self.moved as f64 / self.common as f64)
    }
}

impl Measures {
    /// Its name in `_runs/<run id>/`.
    pub const NAME: &str = "measures.json";

    /// What a manifest tells, with means over `scores` and `lengths`.
    pub fn of(manifest: &Manifest, dt: &str, [score, words]: [Option<f64>; 2]) -> Measures {
        Measures {
            run_id: manifest.run_id.clone(),
            dt: dt.to_owned(),
            encoder: manifest.models.get("encoder").cloned().unwrap_or_default(),
            reasons: manifest.reasons.total(),
            accepted: manifest.reasons.accepted.values().sum(),
            refused: manifest.reasons.refused.clone(),
            score,
            words,
            generated: manifest.usage.generated,
            prompt_tokens: manifest.usage.prompt_tokens,
            completion_tokens: manifest.usage.completion_tokens,
            ..Measures::default()
        }
    }

    /// Reads what a run has left; nothing where it is damaged or of another version: it only helps to compare.
    pub fn parse(bytes: &[u8]) -> Option<Measures> {
        serde_json::from_slice(bytes).ok().filter(|found: &Measures| !found.run_id.is_empty())
    }

    /// The share of reasons that was accepted; none where there were no reasons.
    pub fn acceptance(&self) -> Option<f64> {
        self.share(self.accepted)
    }

    fn share(&self, n: u64) -> Option<f64> {
        (self.reasons > 0).then(|| n as f64 / self.reasons as f64)
    }

    fn refusal(&self, code: &str) -> Option<f64> {
        self.share(self.refused.get(code).copied().unwrap_or(0))
    }

    /// Holds the mean vector against those of the runs before that have one of the same encoder.
    pub fn measure_distance(&mut self, before: &[Measures]) {
        let is_comparable = |run: &&Measures| {
            run.encoder == self.encoder
                && !run.mean_vector.is_empty()
                && run.mean_vector.len() == self.mean_vector.len()
        };
        let comparable: Vec<&Measures> = before.iter().filter(is_comparable).collect();
        let mut mean = vec![0.0; self.mean_vector.len()];
        for run in &comparable {
            mean.iter_mut().zip(&run.mean_vector).for_each(|(sum, value)| *sum += value);
        }
        self.distance = if comparable.is_empty() { None } else { cosine_distance(&self.mean_vector, &mean) };
    }
}

/// The mean of finite values; none where there are none.
fn mean(values: &[f64]) -> Option<f64> {
    let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    (!finite.is_empty()).then(|| finite.iter().sum::<f64>() / finite.len() as f64)
}

/// One less the cosine of the angle between two vectors; none where one of them has no direction.
pub fn cosine_distance(a: &[f64], b: &[f64]) -> Option<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    let is_pair = a.len() == b.len() && norms.is_finite() && norms > 0.0;
    is_pair.then(|| (1.0 - dot(a, b) / norms).clamp(0.0, 2.0))
}

/// Sums vectors in whole steps, so that the order in which they come cannot change a bit of their mean.
#[derive(Debug, Default)]
pub struct VectorMean {
    sums: Vec<i128>,
    n: u64,
}

impl VectorMean {
    /// Adds a vector; one of another width than the first, or with a number that is none, is passed over.
    pub fn push(&mut self, vector: &[f32]) {
        if self.n == 0 {
            self.sums = vec![0; vector.len()];
        }
        if vector.len() != self.sums.len() || vector.iter().any(|v| !v.is_finite()) {
            return;
        }
        self.sums.iter_mut().zip(vector).for_each(|(sum, v)| *sum += (f64::from(*v) * STEPS).round() as i128);
        self.n += 1;
    }

    /// The mean, to six decimals; empty where there was no vector.
    pub fn finish(self) -> Vec<f64> {
        let of = |sum: i128| (sum as f64 / self.n as f64 / STEPS * 1e6).round() / 1e6;
        if self.n == 0 { Vec::new() } else { self.sums.into_iter().map(of).collect() }
    }
}

/// Counts the vectors that have moved.
#[derive(Debug, Default)]
pub struct MovedCount {
    common: u64,
    moved: u64,
    distances: i128,
}

impl MovedCount {
    /// An item's vector now and before; a pair without two directions of one width is passed over.
    pub fn push(&mut self, now: &[f32], before: &[f32]) {
        let wide = |vector: &[f32]| vector.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
        let Some(distance) = cosine_distance(&wide(now), &wide(before)) else { return };
        self.common += 1;
        self.moved += u64::from(distance > MOVED);
        self.distances += (distance * STEPS).round() as i128;
    }

    /// What was counted, against the partition `against`.
    pub fn finish(self, against: &str) -> Moved {
        let mean_distance = self.distances as f64 / STEPS / self.common.max(1) as f64;
        Moved { against: against.to_owned(), common: self.common, moved: self.moved, mean_distance }
    }
}

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A share, in percent.
    Share,
    /// A whole number.
    Count,
    /// One decimal.
    Tenths,
    /// Three decimals.
    Number,
    /// A distance of vectors.
    Distance,
}

/// A number of tonight beside those of the last runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    /// What is measured.
    pub name: String,
    /// How it is written.
    pub unit: Unit,
    /// Tonight's.
    pub tonight: Option<f64>,
    /// Those of the last runs that have it, oldest first.
    pub before: Vec<f64>,
}

impl Drift {
    /// The mean of the last runs; none where none has the number.
    pub fn mean(&self) -> Option<f64> {
        mean(&self.before)
    }

    /// The lowest and the highest of the last runs.
    pub fn range(&self) -> Option<(f64, f64)> {
        let wider = |(low, high): (f64, f64), v: &f64| (low.min(*v), high.max(*v));
        let first = *self.before.first()?;
        Some(self.before.iter().fold((first, first), wider))
    }

    /// Whether tonight lies outside the range of runs that are enough to make one.
    pub fn is_outside(&self) -> bool {
        let is_out = |(now, (low, high)): (f64, (f64, f64))| now < low || now > high;
        self.before.len() >= RUNS_FOR_A_RANGE && self.tonight.zip(self.range()).is_some_and(is_out)
    }
}

/// What tonight is held against the last runs by, `before` oldest first: acceptance, the refusals that are most frequent,
/// scores, lengths, vectors, and what was paid.
pub fn drifts(tonight: &Measures, before: &[Measures]) -> Vec<Drift> {
    let drift = |name: &str, unit: Unit, of: &dyn Fn(&Measures) -> Option<f64>| {
        let before = before.iter().filter_map(of).filter(|v| v.is_finite()).collect();
        Drift { name: name.to_owned(), unit, tonight: of(tonight).filter(|v| v.is_finite()), before }
    };
    let mut all = vec![drift("reasons accepted", Unit::Share, &Measures::acceptance)];
    for code in frequent(tonight, before) {
        all.push(drift(&format!("refused: {code}"), Unit::Share, &|m| m.refusal(&code)));
    }
    all.extend([
        drift("mean score", Unit::Number, &|m| m.score),
        drift("mean length, words", Unit::Tenths, &|m| m.words),
        drift("items whose vector moved", Unit::Share, &|m| m.moved.as_ref()?.share()),
        drift("mean distance of items' vectors to those before", Unit::Distance, &|m| {
            m.moved.as_ref().filter(|moved| moved.common > 0).map(|moved| moved.mean_distance)
        }),
        drift("distance of the mean vector to the last runs'", Unit::Distance, &|m| m.distance),
        drift("reasons", Unit::Count, &|m| Some(m.reasons as f64)),
        drift("answers paid for", Unit::Count, &|m| Some(m.generated as f64)),
        drift("new tokens", Unit::Count, &|m| Some(m.completion_tokens as f64)),
        drift("seconds", Unit::Count, &|m| Some(m.seconds)),
    ]);
    all.retain(|drift| drift.tonight.is_some() || !drift.before.is_empty());
    all
}

/// The refusals with the highest rates, tonight or in the mean of the runs before.
fn frequent(tonight: &Measures, before: &[Measures]) -> Vec<String> {
    let codes: BTreeSet<&String> = before.iter().chain([tonight]).flat_map(|m| m.refused.keys()).collect();
    let rate = |code: &str| {
        let of_before: Vec<f64> = before.iter().filter_map(|m| m.refusal(code)).collect();
        tonight.refusal(code).unwrap_or(0.0).max(mean(&of_before).unwrap_or(0.0))
    };
    let mut rates: Vec<(f64, &String)> = codes.into_iter().map(|code| (rate(code), code)).collect();
    rates.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    rates.into_iter().take(REFUSALS).map(|(_, code)| code.clone()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run(accepted: u64, ungrounded: u64, vector: &[f64]) -> Measures {
        Measures {
            run_id: "r".into(),
            encoder: "e".into(),
            reasons: 100,
            accepted,
            refused: BTreeMap::from([("ungrounded".to_owned(), ungrounded)]),
            mean_vector: vector.to_vec(),
            ..Measures::default()
        }
    }

    #[test]
    fn a_number_outside_the_range_of_enough_runs_stands_out() {
        let before: Vec<Measures> = [80, 82, 84].map(|accepted| run(accepted, 100 - accepted, &[])).to_vec();
        let acceptance = |tonight: u64, before: &[Measures]| drifts(&run(tonight, 5, &[]), before).remove(0);
        let found = acceptance(60, &before);
        assert_eq!((found.tonight, found.mean(), found.range()), (Some(0.6), Some(0.82), Some((0.8, 0.84))));
        assert!(found.is_outside() && acceptance(90, &before).is_outside());
        assert!(!acceptance(82, &before).is_outside() && !acceptance(84, &before).is_outside());
        assert!(!acceptance(60, &before[..2]).is_outside(), "two runs are no range");
        assert!(acceptance(60, &[]).range().is_none());
        let names: Vec<String> = drifts(&run(82, 5, &[]), &before).into_iter().map(|d| d.name).collect();
        assert!(names.contains(&"refused: ungrounded".to_owned()) && !names.contains(&"mean score".to_owned()));
    }

    #[test]
    fn the_most_frequent_refusals_are_compared_even_where_tonight_has_none() {
        let mut tonight = run(100, 0, &[]);
        tonight.refused = (0..9).map(|n| (format!("code{n}"), n)).collect();
        let codes = frequent(&tonight, &[run(50, 50, &[])]);
        assert_eq!(codes, ["ungrounded", "code8", "code7", "code6", "code5"]);
        let none = Measures::default();
        assert_eq!((none.acceptance(), none.refusal("x")), (None, None));
    }

    #[test]
    fn distances_are_measured_to_runs_of_the_same_encoder_alone() {
        let mut tonight = run(1, 0, &[1.0, 0.0]);
        tonight.measure_distance(&[run(1, 0, &[0.0, 2.0]), run(1, 0, &[0.0, 4.0])]);
        assert_eq!(tonight.distance, Some(1.0));
        let other = Measures { encoder: "other".into(), ..run(1, 0, &[0.0, 1.0]) };
        tonight.measure_distance(&[other, run(1, 0, &[1.0]), run(1, 0, &[])]);
        assert_eq!(tonight.distance, None);
        assert_eq!(cosine_distance(&[1.0, 1.0], &[0.0, 0.0]), None);
        assert_eq!(cosine_distance(&[1.0], &[1.0, 0.0]), None);
    }

    #[test]
    fn a_mean_does_not_depend_on_the_order_and_passes_over_what_is_no_vector() {
        let vectors: Vec<Vec<f32>> = (0..50).map(|n| vec![0.1 * n as f32, -0.3, 1e-3 * n as f32]).collect();
        let of = |vectors: &[Vec<f32>]| {
            let mut mean = VectorMean::default();
            vectors.iter().for_each(|v| mean.push(v));
            mean.finish()
        };
        let mut turned = vectors.clone();
        turned.reverse();
        turned.extend([vec![f32::NAN, 0.0, 0.0], vec![1.0]]);
        assert_eq!(of(&vectors), of(&turned));
        assert_eq!(of(&vectors)[1], -0.3);
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn moved_vectors_are_counted() {
        let mut count = MovedCount::default();
        count.push(&[1.0, 0.0], &[2.0, 0.0]);
        count.push(&[1.0, 0.0], &[0.0, 1.0]);
        count.push(&[1.0, 0.0], &[0.0, 0.0]);
        count.push(&[1.0], &[0.0, 1.0]);
        let found = count.finish("2026-01-19");
        assert_eq!((found.common, found.moved, found.mean_distance), (2, 1, 0.5));
        assert_eq!((found.share(), Moved::default().share()), (Some(0.5), None));
    }

    #[test]
    fn measures_read_back_and_damaged_ones_are_nothing() {
        let measures = run(7, 3, &[0.5]);
        assert_eq!(Measures::parse(&serde_json::to_vec(&measures).unwrap()), Some(measures));
        assert!(Measures::parse(b"{\"run_id\": ").is_none() && Measures::parse(b"{}").is_none());
    }
}
