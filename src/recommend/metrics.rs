//! What a ranking is worth: full ranking over the whole catalogue, never over a sample (KDD'20, "On Sampled Metrics").
//!
//! Knows cases and scores; knows nothing of how a score came to be, of users' texts or of intervals.
//!
//! **Ties.** The target loses every tie: its rank is one more than the number of other candidates whose score is at
//! least as high, so that a model that scores everything alike earns nothing. Lists of recommended items break ties by
//! the smaller dense id. A score that is not a number counts as minus infinity.
//!
//! **Masks.** With [`Options::mask_seen`] the items of the history are no candidates, nor are those that a [`Catalogue`] has
//! from a later moment on; the target always is one, also where the user had it before.

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

impl Ranked {
    /// Whether the target is among the first `k`: 1 or 0. With one target this is also the hit rate.
    pub fn recall(&self, k: u32) -> f64 {
        f64::from(u8::from(self.rank <= k))
    }

    /// `1 / log2(rank + 1)` within the first `k`, else 0: NDCG with one relevant item, whose ideal gain is 1.
    pub fn ndcg(&self, k: u32) -> f64 {
        self.recall(k) / (f64::from(self.rank) + 1.0).log2()
    }

    /// `1 / rank`, over all candidates.
    pub fn reciprocal_rank(&self) -> f64 {
        1.0 / f64::from(self.rank)
    }
}

/// The items that can be ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Catalogue<'a> {
    items: usize,
    since: Option<&'a [i64]>,
}

impl<'a> Catalogue<'a> {
    /// All of so many items are candidates of every case.
    pub fn all(items: usize) -> Self {
        Catalogue { items, since: None }
    }

    /// An item is a candidate of the cases at its moment in `since` (microseconds since 1970) or later: a shop ranks what it
    /// sells at that moment, and nothing that comes next year.
    pub fn since(since: &'a [i64]) -> Self {
        Catalogue { items: since.len(), since: Some(since) }
    }

    /// Number of items, of all times.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Whether an item is there at a moment.
    fn holds(&self, item: usize, moment: i64) -> bool {
        self.since.is_none_or(|since| since[item] <= moment)
    }
}

/// Ranks every case; in the order of the cases.
///
/// # Errors
/// What the scorer says; `Kind::Internal` where the catalogue is empty or an id lies outside it.
pub fn rank_cases(
    scorer: &mut dyn Scorer,
    cases: &[Case<'_>],
    candidates: Catalogue<'_>,
    options: Options,
) -> Result<Vec<Ranked>> {
    let catalogue = candidates.len();
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
            let mut masked: Vec<u32> =
                (0..catalogue as u32).filter(|item| !candidates.holds(*item as usize, case.timestamp)).collect();
            masked.extend(if options.mask_seen { case.history } else { &[] });
            let (rank, top) = rank(scores, case.target, &masked, options.top);
            Ranked { user: case.user, target: case.target, rank, top }
        }));
    }
    Ok(ranked)
}

/// The target's rank among all items but the `masked` ones, from 1, and the best `top` candidates; see the module for
/// ties. Overwrites masked scores and scores that are not numbers. `target` and `masked` are below `scores.len()`.
pub fn rank(scores: &mut [f32], target: u32, masked: &[u32], top: usize) -> (u32, Vec<u32>) {
    // Adding zero makes one zero of two, which the order of the list would tell apart.
    scores.iter_mut().for_each(|s| *s = if s.is_nan() { f32::NEG_INFINITY } else { *s + 0.0 });
    let own = scores[target as usize];
    // A masked item is told from one that scored minus infinity by a value that no score has any more.
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
    // A list that is kept for every case must not keep room for the whole catalogue.
    best.shrink_to_fit();
    (at_least as u32, best)
}

/// How often training events met an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Never: it came after the cut, or nobody ever took it.
    Unseen,
    /// 1 to 4 times.
    To4,
    /// 5 to 19 times.
    To19,
    /// 20 to 99 times.
    To99,
    /// 100 times or more.
    More,
}

impl Tier {
    /// All of them, the least seen first.
    pub const ALL: [Tier; 5] = [Tier::Unseen, Tier::To4, Tier::To19, Tier::To99, Tier::More];

    /// The tier of an item with so many training events.
    pub fn of(count: u32) -> Tier {
        match count {
            0 => Tier::Unseen,
            1..=4 => Tier::To4,
            5..=19 => Tier::To19,
            20..=99 => Tier::To99,
            _ => Tier::More,
        }
    }

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Unseen => "0",
            Tier::To4 => "1-4",
            Tier::To19 => "5-19",
            Tier::To99 => "20-99",
            Tier::More => "100+",
        }
    }
}

/// Means over cases, every case with the same weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Means {
    /// Number of cases.
    pub cases: usize,
    /// `(k, Recall@k)`; 0 without cases.
    pub recall: Vec<(u32, f64)>,
    /// `(k, NDCG@k)`.
    pub ndcg: Vec<(u32, f64)>,
    /// Mean reciprocal rank, not cut off.
    pub mrr: f64,
}

impl Means {
    /// Over all cases given, for every `k` of `cutoffs`.
    pub fn of<'a>(ranked: impl IntoIterator<Item = &'a Ranked>, cutoffs: &[u32]) -> Self {
        let ranked: Vec<&Ranked> = ranked.into_iter().collect();
        let mean =
            |value: &dyn Fn(&Ranked) -> f64| ranked.iter().map(|r| value(r)).sum::<f64>() / ranked.len().max(1) as f64;
        let at = |value: fn(&Ranked, u32) -> f64| cutoffs.iter().map(|k| (*k, mean(&|r| value(r, *k)))).collect();
        Means {
            cases: ranked.len(),
            recall: at(Ranked::recall),
            ndcg: at(Ranked::ndcg),
            mrr: mean(&Ranked::reciprocal_rank),
        }
    }
}

/// Share of the catalogue that stands in at least one list.
pub fn coverage<'a>(lists: impl IntoIterator<Item = &'a [u32]>, catalogue: usize) -> f64 {
    let shown = exposure(lists, catalogue);
    shown.iter().filter(|n| **n > 0).count() as f64 / catalogue.max(1) as f64
}

/// Gini index of how often the items of the catalogue are recommended, as RecBole computes it: 0 where all are equally
/// often, towards 1 where few items fill all lists; 0 without lists.
pub fn gini<'a>(lists: impl IntoIterator<Item = &'a [u32]>, catalogue: usize) -> f64 {
    let mut shown = exposure(lists, catalogue);
    shown.sort_unstable();
    let (n, total) = (catalogue as f64, shown.iter().sum::<u64>() as f64);
    if total == 0.0 {
        return 0.0;
    }
    let weighted: f64 = shown.iter().enumerate().map(|(i, x)| (2.0 * (i as f64 + 1.0) - n - 1.0) * *x as f64).sum();
    weighted / (n * total)
}

fn exposure<'a>(lists: impl IntoIterator<Item = &'a [u32]>, catalogue: usize) -> Vec<u64> {
    let mut shown = vec![0; catalogue];
    lists.into_iter().flatten().for_each(|i| shown[*i as usize] += 1);
    shown
}

/// Mean over the lists of the mean number of training events of their items (RecBole's `AveragePopularity`, on counts
/// of the training part); 0 without lists. Empty lists are left out.
pub fn average_popularity<'a>(lists: impl IntoIterator<Item = &'a [u32]>, train_counts: &[u32]) -> f64 {
    let (mut sum, mut n) = (0.0, 0_u64);
    for list in lists.into_iter().filter(|list| !list.is_empty()) {
        sum += list.iter().map(|i| f64::from(train_counts[*i as usize])).sum::<f64>() / list.len() as f64;
        n += 1;
    }
    sum / n.max(1) as f64
}

/// How much more popular the recommended items are than those of the users' own histories, relative:
/// `(GAP(lists) - GAP(histories)) / GAP(histories)` with GAP = [`average_popularity`] (Abdollahpouri et al., RecSys
/// 2020, over cases). 0 is neutral, 1 twice as popular; not a number where the histories hold no item of the training
/// part.
pub fn popularity_lift<'a>(
    lists: impl IntoIterator<Item = &'a [u32]>,
    cases: &[Case<'_>],
    train_counts: &[u32],
) -> f64 {
    let lists = average_popularity(lists, train_counts);
    let histories = average_popularity(cases.iter().map(|c| c.history), train_counts);
    if histories == 0.0 { f64::NAN } else { (lists - histories) / histories }
}

/// Mean of `-ln p` of what was true. Probabilities are kept away from 0 and 1 by the smallest step of an `f64`, as
/// scikit-learn does; `None` without cases.
pub fn log_loss(probabilities: &[f64], labels: &[bool]) -> Option<f64> {
    let n = probabilities.len().min(labels.len());
    let of_true = |(p, label): (&f64, &bool)| {
        let p = p.clamp(f64::EPSILON, 1.0 - f64::EPSILON);
        if *label { p } else { 1.0 - p }
    };
    (n > 0).then(|| -probabilities.iter().zip(labels).map(of_true).map(f64::ln).sum::<f64>() / n as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::statistics::auc;
    use serde_json::Value;

    /// tests/fixtures/metrics/make.py says which packages computed what.
    fn expected(section: &str) -> Value {
        let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/metrics/expected.json")).unwrap();
        all[section].clone()
    }

    fn ids(value: &Value) -> Vec<u32> {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn near(ours: f64, theirs: &Value) {
        let theirs = theirs.as_f64().unwrap();
        assert!((ours - theirs).abs() < 1e-6, "{ours} is not {theirs}");
    }

    struct Table(Vec<Vec<f32>>, usize);

    impl Scorer for Table {
        fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
            for row in scores.chunks_mut(scores.len() / cases.len()) {
                row.copy_from_slice(&self.0[self.1]);
                self.1 += 1;
            }
            Ok(())
        }
    }

    #[test]
    fn rankings_are_worth_what_ranx_and_recbole_say() {
        let given = expected("ranking");
        let histories: Vec<Vec<u32>> = given["cases"].as_array().unwrap().iter().map(|c| ids(&c["history"])).collect();
        let cases: Vec<Case<'_>> = given["cases"]
            .as_array()
            .unwrap()
            .iter()
            .zip(&histories)
            .map(|(case, history)| Case {
                user: case["user"].as_u64().unwrap() as u32,
                history,
                target: case["target"].as_u64().unwrap() as u32,
                rating: None,
                timestamp: 0,
            })
            .collect();
        let scores: Vec<Vec<f32>> = serde_json::from_value(given["scores"].clone()).unwrap();
        let (catalogue, top) = (scores[0].len(), given["top"].as_u64().unwrap() as usize);
        // A batch that does not divide the number of cases.
        let options = Options { mask_seen: true, top, batch: 5 };
        let ranked = rank_cases(&mut Table(scores, 0), &cases, Catalogue::all(catalogue), options).unwrap();
        for (ranked, list) in ranked.iter().zip(given["lists"].as_array().unwrap()) {
            assert_eq!(ranked.top, ids(list));
        }
        let (means, ranx) = (Means::of(&ranked, &[1, 5, 10]), &given["expected"]["ranx"]);
        for (k, value) in &means.recall {
            near(*value, &ranx[format!("recall@{k}")]);
        }
        for (k, value) in &means.ndcg[1..] {
            near(*value, &ranx[format!("ndcg@{k}")]);
        }
        near(means.mrr, &ranx["mrr"]);
        let (lists, recbole) = (|| ranked.iter().map(|r| r.top.as_slice()), &given["expected"]["recbole"]);
        let counts = ids(&given["train_counts"]);
        near(coverage(lists(), catalogue), &recbole["itemcoverage"]);
        near(gini(lists(), catalogue), &recbole["giniindex"]);
        near(average_popularity(lists(), &counts), &recbole["averagepopularity"]);
        let own = average_popularity(cases.iter().map(|c| c.history), &counts);
        near(popularity_lift(lists(), &cases, &counts), &Value::from(14.4375 / own - 1.0));
    }

    #[test]
    fn classification_is_worth_what_scikit_learn_says() {
        let given = expected("classification");
        let labels: Vec<bool> = serde_json::from_value(given["labels"].clone()).unwrap();
        let scores: Vec<f64> = serde_json::from_value(given["scores"].clone()).unwrap();
        near(auc(&scores, &labels).unwrap(), &given["expected"]["sklearn"]["roc_auc"]);
        near(log_loss(&scores, &labels).unwrap(), &given["expected"]["sklearn"]["log_loss"]);
        assert_eq!(auc(&[0.5, 0.7], &[true, true]), None, "one class has no order");
        assert_eq!(log_loss(&[], &[]), None);
    }

    #[test]
    fn the_target_loses_every_tie_and_lists_prefer_the_smaller_id() {
        assert_eq!(rank(&mut [1.0; 4], 1, &[], 2), (4, vec![0, 1]), "scoring all alike earns nothing");
        assert_eq!(rank(&mut [0.0, -0.0, 2.0, 1.0], 1, &[], 3), (4, vec![2, 3, 0]), "both zeros are the same");
        assert_eq!(rank(&mut [-0.0, 0.0], 1, &[], 1), (2, vec![0]));
        assert_eq!(rank(&mut [3.0, 2.0, 1.0, 0.0], 2, &[0], 9), (2, vec![1, 2, 3]), "seen items are no candidates");
        assert_eq!(rank(&mut [3.0, 2.0, 1.0, 0.0], 2, &[0, 2], 9).0, 2, "the target always is one");
        let nan = f32::NAN;
        assert_eq!(rank(&mut [nan, 2.0, nan, 0.0], 0, &[], 4), (4, vec![1, 3, 0, 2]), "not a number is the worst");
        assert_eq!(rank(&mut [nan, f32::NEG_INFINITY, 1.0], 2, &[1], 0), (1, vec![]));
        let (_, top) = rank(&mut vec![1.0; 10_000], 1, &[], 10);
        assert!(top.capacity() < 100, "a kept list is as long as it says: {}", top.capacity());
    }

    #[test]
    fn tiers_follow_the_training_counts() {
        use Tier::{More, To4, To19, To99, Unseen};
        let tiers = [0, 1, 4, 5, 19, 20, 99, 100, u32::MAX].map(Tier::of);
        assert_eq!(tiers, [Unseen, To4, To4, To19, To19, To99, To99, More, More]);
        assert!(Tier::ALL.is_sorted());
    }

    #[test]
    fn what_is_not_there_yet_is_no_candidate() {
        let case = |timestamp| Case { user: 0, history: &[0], target: 1, rating: None, timestamp };
        let since = [0, 7, 9, 5];
        let scores = || Table(vec![vec![9.0, 1.0, 8.0, 2.0]; 3], 0);
        let cases = [case(4), case(8), case(9)];
        let ranked = rank_cases(&mut scores(), &cases, Catalogue::since(&since), Options::default()).unwrap();
        // The target is one even before its time, as the first event of an item is what brings it.
        let told: Vec<(u32, &[u32])> = ranked.iter().map(|r| (r.rank, r.top.as_slice())).collect();
        assert_eq!(told, [(1, &[1][..]), (2, &[3, 1][..]), (3, &[2, 3, 1][..])]);
        let all = rank_cases(&mut scores(), &cases, Catalogue::all(4), Options::default()).unwrap();
        assert!(all.iter().all(|r| r.top == [2, 3, 1]));
    }

    #[test]
    fn an_item_outside_the_catalogue_is_refused() {
        let case = Case { user: 0, history: &[3], target: 0, rating: None, timestamp: 0 };
        let refused =
            rank_cases(&mut Table(vec![vec![0.0; 3]], 0), &[case], Catalogue::all(3), Options::default()).unwrap_err();
        assert_eq!(refused.kind(), Kind::Internal);
    }
}
