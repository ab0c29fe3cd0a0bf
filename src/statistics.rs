//! Statistical inference: AUC, bootstrap intervals over users, intervals over seeds, and corrections for multiple
//! comparisons.
//!
//! Knows numbers only, not what they measure. All functions are pure: the same seed gives the same bits on any number
//! of threads.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::network::random::Random;

/// Default number of bootstrap resamples.
pub const RESAMPLES: usize = 10_000;

/// An estimate with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A paired difference over users.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Contrast {
    /// Mean difference over cases and its percentile interval.
    pub interval: Interval,
    /// Two-sided p-value for no difference; see [`paired_bootstrap`].
    pub p: f64,
    /// Number of users, the units of resampling.
    pub users: usize,
}

/// Mean of `differences` (arm minus baseline; one slice for every training, with one value per case) with a percentile
/// bootstrap over users and trainings: users are drawn with replacement, each with all its cases, and so are trainings,
/// each with the differences of all users, and the mean over cases is computed again (Cameron, Gelbach and Miller 2008,
/// pairs cluster bootstrap; Owen 2007, pigeonhole bootstrap, for the two crossed). Without resampling trainings, two
/// equal arms could appear different because of their seeds. A single training is not resampled. The interval runs
/// between the `(1 - confidence) / 2` quantiles, interpolated as NumPy does. The p-value is twice the smaller share of
/// resamples on one side of 0 (0 itself counted on both), with one added to both counts so that it is never 0 (Davison
/// and Hinkley 1997), and at most 1.
///
/// `users` names the user of every case in any order. The same seed draws the same users in every call with the same
/// number of users, so that several metrics share their resamples.
///
/// # Errors
/// `Kind::Internal` for slices of different lengths, no case, differences that are not numbers, no resample, or a
/// confidence outside (0, 1).
pub fn paired_bootstrap(
    differences: &[&[f64]],
    users: &[u32],
    resamples: usize,
    confidence: f64,
    seed: u64,
) -> Result<Contrast> {
    let bad = |why: &str| Err(Error::new(Kind::Internal, format!("a bootstrap cannot be made: {why}")));
    if differences.is_empty() || users.is_empty() || differences.iter().any(|d| d.len() != users.len()) {
        return bad("there are no cases, or not one user for every case");
    }
    if !differences.iter().all(|d| d.iter().all(|v| v.is_finite())) {
        return bad("a difference is not a number");
    }
    if resamples == 0 || !(confidence > 0.0 && confidence < 1.0) {
        return bad("resamples must be positive and the confidence between 0 and 1");
    }
    let clusters = Clusters::new(differences, users);
    let means = (0..resamples as u64)
        .into_par_iter()
        .map(|i| {
            let mut random = Random::numbered(seed, i);
            let drawn: Vec<usize> = (0..clusters.users()).map(|_| random.below(clusters.users())).collect();
            clusters.mean(drawn.into_iter(), &trainings(&mut random, differences.len()))
        })
        .collect();
    let estimate = clusters.mean(0..clusters.users(), &vec![1; differences.len()]);
    Ok(percentiles(estimate, means, confidence, clusters.users()))
}

/// Number of draws of each of `n` trainings.
fn trainings(random: &mut Random, n: usize) -> Vec<u32> {
    let mut weights = vec![0; n];
    match n {
        1 => weights[0] = 1,
        _ => (0..n).for_each(|_| weights[random.below(n)] += 1),
    }
    weights
}

/// Sums and counts by user.
struct Clusters {
    /// `[users, trainings]`.
    sums: Vec<f64>,
    cases: Vec<f64>,
    trainings: usize,
}

impl Clusters {
    fn new(differences: &[&[f64]], users: &[u32]) -> Self {
        let mut order: Vec<usize> = (0..users.len()).collect();
        // A stable sort, so that a user's sum does not depend on the order of equal keys.
        order.sort_by_key(|case| users[*case]);
        let (mut sums, mut cases) = (Vec::new(), Vec::new());
        for of_user in order.chunk_by(|a, b| users[*a] == users[*b]) {
            sums.extend(differences.iter().map(|d| of_user.iter().map(|case| d[*case]).sum::<f64>()));
            cases.push(of_user.len() as f64);
        }
        Clusters { sums, cases, trainings: differences.len() }
    }

    fn users(&self) -> usize {
        self.cases.len()
    }

    /// Mean over the cases of the drawn users, weighted by training; the weights sum to the number of trainings.
    fn mean(&self, drawn: impl Iterator<Item = usize>, weights: &[u32]) -> f64 {
        let (mut sum, mut cases) = (0.0, 0.0);
        for user in drawn {
            let row = &self.sums[user * self.trainings..(user + 1) * self.trainings];
            sum += row.iter().zip(weights).map(|(s, w)| s * f64::from(*w)).sum::<f64>();
            cases += self.cases[user];
        }
        sum / cases / self.trainings as f64
    }
}

/// The interval and the p-value of resampled means.
fn percentiles(estimate: f64, mut means: Vec<f64>, confidence: f64, users: usize) -> Contrast {
    let resamples = means.len();
    means.sort_unstable_by(f64::total_cmp);
    let side = |n: usize| (n + 1) as f64 / (resamples + 1) as f64;
    let (below, above) = (means.partition_point(|m| *m <= 0.0), resamples - means.partition_point(|m| *m < 0.0));
    let tail = (1.0 - confidence) / 2.0;
    let interval = Interval { mean: estimate, low: quantile(&means, tail), high: quantile(&means, 1.0 - tail) };
    Contrast { interval, p: (2.0 * side(below).min(side(above))).min(1.0), users }
}

/// Area under the ROC curve: how often a positive scores above a negative, a tie counted as a half. `None` where one of
/// the classes is empty. Scores must be numbers; if the slices differ in length, the shorter counts.
pub fn auc(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let mut pairs: Vec<(f64, bool)> = scores.iter().map(|s| s + 0.0).zip(labels.iter().copied()).collect();
    pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let positives = pairs.iter().filter(|p| p.1).count() as f64;
    let negatives = pairs.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return None;
    }
    let (mut below, mut wins) = (0.0, 0.0);
    for tied in pairs.chunk_by(|a, b| a.0 == b.0) {
        let here = tied.iter().filter(|p| p.1).count() as f64;
        let others = tied.len() as f64 - here;
        wins += here * (below + others / 2.0);
        below += others;
    }
    Some(wins / (positives * negatives))
}

/// Of every case, the [`auc`] over all cases of its user; `None` where the user's labels are all alike. `users` names
/// the user of every case in any order. Scores must be numbers; if the slices differ in length, the shortest counts.
pub fn auc_by_user(scores: &[f64], labels: &[bool], users: &[u32]) -> Vec<Option<f64>> {
    let cases = scores.len().min(labels.len()).min(users.len());
    let mut order: Vec<usize> = (0..cases).collect();
    order.sort_by_key(|case| users[*case]);
    let mut found = vec![None; cases];
    for of_user in order.chunk_by(|a, b| users[*a] == users[*b]) {
        let scores: Vec<f64> = of_user.iter().map(|case| scores[*case]).collect();
        let labels: Vec<bool> = of_user.iter().map(|case| labels[*case]).collect();
        let own = auc(&scores, &labels);
        of_user.iter().for_each(|case| found[*case] = own);
    }
    found
}

/// Mean of the users' AUCs, each weighted by the user's cases, over users with both labels (GAUC; Zhou et al. 2018,
/// Deep Interest Network, section 5): unlike [`auc`], it sees only how a user's own cases are ordered. `None` where no
/// user has both. Arguments as of [`auc_by_user`].
pub fn grouped_auc(scores: &[f64], labels: &[bool], users: &[u32]) -> Option<f64> {
    // Every case counts its user's AUC once: that is the weight.
    let known: Vec<f64> = auc_by_user(scores, labels, users).into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

/// Spearman's rank correlation, ties at their mean rank; `None` for fewer than two pairs or where one side is constant.
/// Values must be numbers; if the slices differ in length, the shorter counts.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len().min(b.len());
    let (a, b) = (ranks(&a[..n]), ranks(&b[..n]));
    let middle = (n as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - middle) * (y - middle)).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (n > 1 && scale > 0.0).then(|| product(&a, &b) / scale)
}

/// The rank of every value, from 0; ties get their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    // Adding zero turns -0.0 into 0.0.
    let mut order: Vec<(f64, usize)> = values.iter().enumerate().map(|(i, v)| (v + 0.0, i)).collect();
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut ranks, mut below) = (vec![0.0; values.len()], 0);
    for tied in order.chunk_by(|a, b| a.0 == b.0) {
        tied.iter().for_each(|(_, i)| ranks[*i] = below as f64 + (tied.len() as f64 - 1.0) / 2.0);
        below += tied.len();
    }
    ranks
}

/// The difference of two AUCs, arm minus baseline, with the intervals of [`paired_bootstrap`]: users and trainings are
/// resampled, and both AUCs are computed again. `scores` holds the arm's and the baseline's scores of every case, one
/// pair of slices for every training; the difference is the mean over trainings. A resample without positives or
/// without negatives has no AUC and counts as a difference of 0.
///
/// # Errors
/// As [`paired_bootstrap`]; also where all `labels` are equal.
pub fn paired_bootstrap_auc(
    scores: &[[&[f64]; 2]],
    labels: &[bool],
    users: &[u32],
    resamples: usize,
    confidence: f64,
    seed: u64,
) -> Result<Contrast> {
    let bad = |why: &str| Err(Error::new(Kind::Internal, format!("a bootstrap cannot be made: {why}")));
    let all = || scores.iter().flatten();
    if scores.is_empty() || labels.len() != users.len() || all().any(|s| s.len() != labels.len()) {
        return bad("there are no seeds, or not one score, label and user for every case");
    }
    if all().any(|s| s.iter().any(|v| !v.is_finite())) || !labels.contains(&true) || !labels.contains(&false) {
        return bad("a score is not a number, or all labels are alike");
    }
    if resamples == 0 || !(confidence > 0.0 && confidence < 1.0) {
        return bad("resamples must be positive and the confidence between 0 and 1");
    }
    let mut ids = users.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let place: Vec<usize> = users.iter().map(|u| ids.partition_point(|id| id < u)).collect();
    let orders: Vec<[Ordered; 2]> = scores.iter().map(|pair| pair.map(|s| Ordered::new(s, labels, &place))).collect();
    let difference = |weights: &[u32], trainings: &[u32]| {
        let of = |[arm, other]: &[Ordered; 2]| arm.auc(weights).zip(other.auc(weights)).map_or(0.0, |(a, b)| a - b);
        let drawn = orders.iter().zip(trainings).filter(|(_, times)| **times > 0);
        drawn.map(|(pair, times)| of(pair) * f64::from(*times)).sum::<f64>() / orders.len() as f64
    };
    let means = (0..resamples as u64)
        .into_par_iter()
        .map(|i| {
            let mut random = Random::numbered(seed, i);
            let mut weights = vec![0_u32; ids.len()];
            (0..ids.len()).for_each(|_| weights[random.below(ids.len())] += 1);
            difference(&weights, &trainings(&mut random, orders.len()))
        })
        .collect();
    Ok(percentiles(difference(&vec![1; ids.len()], &vec![1; orders.len()]), means, confidence, ids.len()))
}

/// Cases in ascending order of a score: index of the user, label, and where a new score begins.
struct Ordered(Vec<(u32, bool, bool)>);

impl Ordered {
    fn new(scores: &[f64], labels: &[bool], place: &[usize]) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // Adding zero turns -0.0 into 0.0.
        order.sort_by(|a, b| (scores[*a] + 0.0).total_cmp(&(scores[*b] + 0.0)));
        let starts = |i: usize| i == 0 || scores[order[i]] != scores[order[i - 1]];
        Ordered((0..order.len()).map(|i| (place[order[i]] as u32, labels[order[i]], starts(i))).collect())
    }

    /// As [`auc`], with every case weighted by the draws of its user.
    fn auc(&self, weights: &[u32]) -> Option<f64> {
        // Twice the wins, so that a tie counts as an integer.
        let (mut below, mut negatives, mut positives_here, mut positives, mut wins) =
            (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
        let mut negatives_here = 0_u64;
        for (place, label, starts) in &self.0 {
            if *starts {
                wins += positives_here * (2 * below + negatives_here);
                below += negatives_here;
                (positives_here, negatives_here) = (0, 0);
            }
            let weight = u64::from(weights[*place as usize]);
            if *label {
                positives_here += weight;
                positives += weight;
            } else {
                negatives_here += weight;
                negatives += weight;
            }
        }
        wins += positives_here * (2 * below + negatives_here);
        (positives > 0 && negatives > 0).then(|| wins as f64 / (2.0 * positives as f64 * negatives as f64))
    }
}

/// The quantile of ascending values, interpolated between the two nearest (NumPy's and R's default, type 7). NaN for no
/// values.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    sorted[low] + part * (sorted[(low + 1).min(last)] - sorted[low])
}

/// Holm's step-down adjustment of p-values, in their order; monotone and at most 1. Controls the family-wise error rate
/// (Holm 1979).
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let (mut adjusted, mut highest) = (vec![0.0; p.len()], 0.0_f64);
    for (place, i) in order.into_iter().enumerate() {
        highest = highest.max(p[i] * (p.len() - place) as f64).min(1.0);
        adjusted[i] = highest;
    }
    adjusted
}

/// Mean over runs that differ only in their seed, with Student's t interval. One run has no interval: its ends are NaN.
///
/// # Errors
/// `Kind::Internal` without values or for a confidence outside (0, 1).
pub fn over_seeds(values: &[f64], confidence: f64) -> Result<Interval> {
    if values.is_empty() || !(confidence > 0.0 && confidence < 1.0) {
        return Err(Error::new(Kind::Internal, "an interval over seeds needs values and a confidence between 0 and 1"));
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() == 1 {
        return Ok(Interval { mean, low: f64::NAN, high: f64::NAN });
    }
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = t_quantile(values.len() as u32 - 1, confidence) * (variance / n).sqrt();
    Ok(Interval { mean, low: mean - half, high: mean + half })
}

/// The `t` with `P(|T| <= t) = confidence` for whole degrees of freedom, by bisection of [`t_inside`].
fn t_quantile(degrees: u32, confidence: f64) -> f64 {
    let mut high = 1.0;
    while t_inside(high, degrees) < confidence && high < 1e12 {
        high *= 2.0;
    }
    let mut low = 0.0;
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if t_inside(middle, degrees) < confidence { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// `P(|T| <= t)` of Student's distribution in closed form (Abramowitz and Stegun 26.7.3 and 26.7.4).
fn t_inside(t: f64, degrees: u32) -> f64 {
    let angle = (t / f64::from(degrees).sqrt()).atan();
    let (sine, square) = (angle.sin(), angle.cos().powi(2));
    let (odd, first) = (degrees % 2 == 1, degrees % 2);
    // The series 1 + (1/2) c^2 + (1·3)/(2·4) c^4 ... of even, 1 + (2/3) c^2 + (2·4)/(3·5) c^4 ... of odd degrees.
    let (mut term, mut series) = (1.0, 1.0);
    for k in 1..(degrees - first) / 2 {
        let k = f64::from(2 * k + first);
        term *= (k - 1.0) / k * square;
        series += term;
    }
    match (odd, degrees) {
        (false, _) => sine * series,
        (true, 1) => 2.0 * angle / std::f64::consts::PI,
        (true, _) => 2.0 / std::f64::consts::PI * (angle + sine * angle.cos() * series),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::Value;

    fn expected() -> Value {
        let all: Value = serde_json::from_str(include_str!("../tests/fixtures/metrics/expected.json")).unwrap();
        all["statistics"].clone()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn near(ours: f64, theirs: &Value, tolerance: f64) {
        let theirs = theirs.as_f64().unwrap();
        assert!((ours - theirs).abs() < tolerance, "{ours} is not {theirs}");
    }

    #[test]
    fn spearman_is_pearson_of_ranks() {
        assert_eq!(spearman(&[1.0, 2.0, 30.0], &[0.1, 0.2, 0.25]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        // scipy.stats.spearmanr([1, 2, 2, 4], [1, 3, 2, 4]) is 0.9486832980505138.
        assert!(
            (spearman(&[1.0, 2.0, 2.0, 4.0], &[1.0, 3.0, 2.0, 4.0]).unwrap() - 0.948_683_298_050_513_8).abs() < 1e-12
        );
        assert_eq!(spearman(&[0.0, -0.0], &[1.0, 2.0]), None, "a constant has no order");
        assert_eq!(spearman(&[1.0], &[1.0]), None);
    }

    #[test]
    fn the_grouped_auc_weighs_users_by_their_cases() {
        // User 4 loses one of four pairs, user 2 its only one; user 9 has likes alone.
        let (scores, users) = ([0.9, 0.2, 0.1, 0.8, 0.5, 0.4, 0.3], [4, 2, 4, 2, 4, 9, 4]);
        let labels = [true, true, false, false, false, true, true];
        let known = auc_by_user(&scores, &labels, &users);
        assert_eq!(known, [Some(0.75), Some(0.0), Some(0.75), Some(0.0), Some(0.75), None, Some(0.75)]);
        assert_eq!(grouped_auc(&scores, &labels, &users), Some(4.0 * 0.75 / 6.0));
        assert_eq!(grouped_auc(&scores, &labels, &[1; 7]), auc(&scores, &labels), "one user is all of them");
        assert_eq!(grouped_auc(&scores, &labels, &[0, 1, 2, 3, 4, 5, 6]), None, "alone no case has an order");
        assert_eq!(grouped_auc(&[], &[], &[]), None);
    }

    #[test]
    fn intervals_over_seeds_are_scipys() {
        for case in expected()["seeds"].as_array().unwrap() {
            let ours = over_seeds(&numbers(&case["values"]), case["confidence"].as_f64().unwrap()).unwrap();
            near(ours.low, &case["low"], 1e-9);
            near(ours.high, &case["high"], 1e-9);
        }
        let one = over_seeds(&[0.5], 0.95).unwrap();
        assert!(one.mean == 0.5 && one.low.is_nan() && one.high.is_nan(), "one run has no interval");
        assert_eq!(over_seeds(&[], 0.95).unwrap_err().kind(), Kind::Internal);
    }

    #[test]
    fn holm_is_statsmodels() {
        let given = &expected()["holm"];
        for (ours, theirs) in holm(&numbers(&given["p"])).into_iter().zip(given["statsmodels"].as_array().unwrap()) {
            near(ours, theirs, 1e-12);
        }
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn quantiles_are_numpys() {
        let given = &expected()["quantiles"];
        let mut values = numbers(&given["values"]);
        values.sort_unstable_by(f64::total_cmp);
        for (q, theirs) in given["numpy"].as_object().unwrap() {
            near(quantile(&values, q.parse().unwrap()), theirs, 1e-12);
        }
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn one_case_a_user_is_scipys_bootstrap() {
        let given = &expected()["bootstrap"];
        let differences = numbers(&given["differences"]);
        let users: Vec<u32> = (0..differences.len() as u32).rev().collect();
        let ours = paired_bootstrap(&[&differences], &users, 100_000, 0.95, 3).unwrap();
        // The two random generators differ: the ends scatter by about 0.0015.
        near(ours.interval.low, &given["scipy"]["low"], 0.006);
        near(ours.interval.high, &given["scipy"]["high"], 0.006);
        assert!((ours.interval.mean - differences.iter().sum::<f64>() / 40.0).abs() < 1e-12);
        assert!(ours.p < 0.05, "zero lies outside the interval");
    }

    #[test]
    fn users_are_drawn_whole() {
        // Three users: sums 3, 0 and -1 over 3, 1 and 2 cases. All 27 draws by hand: of users (a, b, c) with
        // multiplicities summing to 3 the mean is (3a - c) / (3a + b + 2c).
        let (differences, users) = ([1.0, -0.5, 1.0, 0.0, 1.0, -0.5], [7, 2, 7, 4, 7, 2]);
        let ours = paired_bootstrap(&[&differences], &users, 60_000, 0.8, 1).unwrap();
        assert_eq!(ours.users, 3);
        let mut exact = Vec::new();
        for draw in 0..27 {
            let (mut sum, mut cases) = (0.0, 0.0);
            for user in [draw % 3, draw / 3 % 3, draw / 9] {
                (sum, cases) = (sum + [3.0, 0.0, -1.0][user], cases + [3.0, 1.0, 2.0][user]);
            }
            exact.push(sum / cases);
        }
        exact.sort_unstable_by(f64::total_cmp);
        // Of 27 equally likely means the 3rd and the 25th stand at the ends of 80 %, well inside their steps.
        assert!((ours.interval.low - exact[2]).abs() < 1e-12 && (ours.interval.high - exact[24]).abs() < 1e-12);
        let below = exact.iter().filter(|m| **m <= 1e-15).count() as f64 / 27.0;
        assert!((ours.p - 2.0 * below).abs() < 0.02, "{} is not {}", ours.p, 2.0 * below);
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_on_any_number_of_threads() {
        let differences: Vec<f64> = (0..500).map(|i| f64::from(i % 7) / 7.0 - 0.4).collect();
        let users: Vec<u32> = (0..500).map(|i| i % 31).collect();
        let run = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| paired_bootstrap(&[&differences], &users, 999, 0.95, seed).unwrap())
        };
        assert_eq!(run(1, 5), run(3, 5));
        assert_ne!(run(1, 5), run(1, 6));
    }

    #[test]
    fn no_difference_is_no_finding_and_nonsense_is_refused() {
        let none = paired_bootstrap(&[&[0.0; 6]], &[0, 1, 2, 0, 1, 2], 100, 0.95, 0).unwrap();
        assert_eq!((none.p, none.interval), (1.0, Interval { mean: 0.0, low: 0.0, high: 0.0 }));
        for (differences, users) in [(vec![], vec![]), (vec![1.0], vec![0, 1]), (vec![f64::NAN], vec![0])] {
            assert_eq!(paired_bootstrap(&[&differences], &users, 10, 0.95, 0).unwrap_err().kind(), Kind::Internal);
        }
    }

    #[test]
    fn the_luck_of_one_seed_is_no_difference() {
        let users: Vec<u32> = (0..200).collect();
        let (lucky, even, small) = (vec![1.0; 200], vec![0.0; 200], vec![0.2; 200]);
        let draw = |by_seed: &[&[f64]]| paired_bootstrap(by_seed, &users, 4000, 0.95, 0).unwrap();
        let luck = draw(&[&lucky, &even, &even, &even, &even]);
        assert!((luck.interval.mean - 0.2).abs() < 1e-12 && luck.interval.low == 0.0 && luck.p > 0.3, "{luck:?}");
        let same = draw(&[small.as_slice(); 5]);
        assert!((same.interval.low - 0.2).abs() < 1e-12 && same.p < 0.001, "{same:?}");
        assert!(paired_bootstrap(&[&small, &small[1..]], &users, 10, 0.95, 0).is_err());
    }

    #[test]
    fn the_bootstrap_of_auc_draws_users_with_all_their_cases() {
        let mut random = Random::new(5, "cases");
        let users: Vec<u32> = (0..300).map(|_| 10 * random.below(40) as u32).collect();
        let labels: Vec<bool> = (0..300).map(|_| random.below(3) == 0).collect();
        // Rounded, so that there are ties.
        let mut scores = |signal: f64| -> Vec<f64> {
            labels.iter().map(|l| (4.0 * (random.normal() + signal * f64::from(u8::from(*l)))).round()).collect()
        };
        let (good, bad, other) = (scores(1.5), scores(0.0), scores(0.5));
        let of = |s: &[f64]| auc(s, &labels).unwrap();
        let draw = |pairs: &[[&[f64]; 2]]| paired_bootstrap_auc(pairs, &labels, &users, 2000, 0.95, 1).unwrap();
        let clear = draw(&[[&good, &bad]]);
        assert!((clear.interval.mean - (of(&good) - of(&bad))).abs() < 1e-12);
        assert!(clear.interval.low > 0.0 && clear.p < 0.01 && clear.interval.low < clear.interval.mean, "{clear:?}");
        let none = draw(&[[&bad, &bad]]);
        assert_eq!((none.interval.mean, none.interval.low, none.interval.high, none.p), (0.0, 0.0, 0.0, 1.0));
        let seeds = draw(&[[&good, &bad], [&other, &bad]]);
        assert!((seeds.interval.mean - ((of(&good) + of(&other)) / 2.0 - of(&bad))).abs() < 1e-12);
        // A draw is the AUC over the drawn users' cases: here by hand, with every user drawn twice but the first.
        let place: Vec<usize> = users.iter().map(|u| *u as usize / 10).collect();
        let weights: Vec<u32> = (0..40).map(|u| if u == 0 { 0 } else { 2 }).collect();
        let kept: Vec<usize> = (0..300).filter(|i| place[*i] != 0).flat_map(|i| [i, i]).collect();
        let by_hand = auc(
            &kept.iter().map(|i| good[*i]).collect::<Vec<_>>(),
            &kept.iter().map(|i| labels[*i]).collect::<Vec<_>>(),
        );
        let weighted = Ordered::new(&good, &labels, &place).auc(&weights).unwrap();
        assert!((weighted - by_hand.unwrap()).abs() < 1e-12);
        assert!(paired_bootstrap_auc(&[[&good, &bad]], &[true; 300], &users, 10, 0.95, 1).is_err());
    }
}
