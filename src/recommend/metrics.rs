//! What a ranking is worth: full ranking over the whole catalogue, never over a sample (KDD'20, "On Sampled Metrics").
//!
//! Knows cases and scores; knows nothing of how a score came to be, of users' texts or of intervals.
//!
//! **Ties.** The target loses every tie: its rank is one more than the number of other candidates whose score is at least as high, so
//! that a model that scores everything alike earns nothing. Lists of recommended items break ties by the smaller dense id. A score
//! that is not a number counts as minus infinity. [`auc`] counts a tie as a half, as scikit-learn does.
//!
//! **Masks.** With [`Options::mask_seen`] the items of the history are no candidates; the target always is one, also where the
//! user had it before.

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::recommend::split::Case;

/// Scores the catalogue for cases.
pub trait Scorer {
    /// Fills `scores` (row-major, `cases.len()` × catalogue) with one score for every item; higher is better.
    /// `target`, `rating` and `timestamp` of a case may not be looked at.
    ///
    /// # Errors
    /// Whatever keeps the model from scoring.
    fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()>;
}

/// How cases are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether items of the history are left out of the candidates.
    pub mask_seen: bool,
    /// Length of the lists kept for coverage, Gini and popularity.
    pub top: usize,
    /// Cases scored at a time: bounds the memory to `batch` × catalogue × 4 bytes.
    pub batch: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { mask_seen: true, top: 10, batch: 256 }
    }
}

/// What became of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranked {
    /// Dense id of the user.
    pub user: u32,
    /// Dense id of the item that came.
    pub target: u32,
    /// Rank of the target among the candidates, from 1.
    pub rank: u32,
    /// The best candidates, the best first: at most `Options::top`.
    pub top: Vec<u32>,
}

/// Ranks every case; in the order of the cases.
///
/// # Errors
/// What the scorer says; `Kind::Internal` where `catalogue` is 0 or an id lies outside it.
pub fn rank_cases(
    scorer: &mut dyn Scorer,
    cases: &[Case<'_>],
    catalogue: usize,
    options: Options,
) -> Result<Vec<Ranked>> {
    let outside = |case: &Case<'_>| case.history.iter().chain([&case.target]).any(|i| *i as usize >= catalogue);
    if catalogue == 0 || cases.iter().any(outside) {
        return Err(
            Error::new(Kind::Internal, "a case names an item that the catalogue lacks").with("catalogue", catalogue)
        );
    }
    let batch = options.batch.max(1);
    let mut scores = vec![0.0; batch.min(cases.len()) * catalogue];
    let mut ranked = Vec::with_capacity(cases.len());
    for chunk in cases.chunks(batch) {
        let scores = &mut scores[..chunk.len() * catalogue];
        scorer.score(chunk, scores)?;
        ranked.par_extend(chunk.par_iter().zip(scores.par_chunks_mut(catalogue)).map(|(case, scores)| {
            let seen = if options.mask_seen { case.history } else { &[] };
            let (rank, top) = rank(scores, case.target, seen, options.top);
            Ranked { user: case.user, target: case.target, rank, top }
        }));
    }
    Ok(ranked)
}

/// The target's rank among all items but the `masked` ones, from 1, and the best `top` candidates; see the module for ties.
/// Overwrites masked scores and scores that are not numbers.
pub fn rank(scores: &mut [f32], target: u32, masked: &[u32], top: usize) -> (u32, Vec<u32>) {
    let own = scores[target as usize];
    let own = if own.is_nan() { f32::NEG_INFINITY } else { own };
    scores.iter_mut().filter(|s| s.is_nan()).for_each(|s| *s = f32::NEG_INFINITY);
    // A masked item is told from one that scored minus infinity by a value that the line above has made impossible.
    masked.iter().for_each(|i| scores[*i as usize] = f32::NAN);
    scores[target as usize] = own;
    let at_least = scores.iter().filter(|s| **s >= own).count();
    let mut best: Vec<u32> = (0..scores.len() as u32).filter(|i| !scores[*i as usize].is_nan()).collect();
    let order = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    if best.len() > top && top > 0 {
        best.select_nth_unstable_by(top - 1, order);
    }
    best.truncate(top);
    best.sort_unstable_by(order);
    (at_least as u32, best)
}
