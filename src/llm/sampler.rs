//! Choosing the next token from logits.
//!
//! Knows logits and a row's seed. The random numbers of a row depend on its seed and its position only, so neither
//! order nor batch nor shard changes a row. Knows nothing of slots, text or how the logits were made.

use serde::{Deserialize, Serialize};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keeps at most this many tokens; 0 keeps all.
    pub top_k: usize,
    /// Divides (or multiplies) the logits of tokens that were already generated; 1 is off.
    pub repetition_penalty: f32,
    /// An answer repeats at most so many words of its prompt in a row, words with a capital letter not counted; 0 is off.
    /// No setting of what learns from its own answers: those must be the model's.
    #[serde(skip)]
    pub max_copied_words: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, repetition_penalty: 1.0, max_copied_words: 0 }
    }
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chosen {
    /// Token id.
    pub token: u32,
    /// Natural-log probability under the model's unmodified distribution (no temperature, truncation or penalty).
    pub logprob: f64,
}

/// Chooses the `position`-th new token (counted from 0) of a row from its logits (`[vocab]`).
///
/// `generated` are the row's new tokens so far, for the repetition penalty. The order of the rules is penalty,
/// temperature, top-k, top-p; greedy ties go to the lowest id. `None` where the logits are empty or not all finite.
pub fn choose(
    logits: &[f32],
    sampling: &Sampling,
    generated: &[u32],
    seed: &[u8; 32],
    position: u64,
) -> Option<Chosen> {
    choose_beside(logits, sampling, None, &[], generated, seed, position)
}

/// As [`choose`], with tokens that are `held_back`: none of them is chosen while there is another. With `among`, in
/// ascending order, one of these tokens is chosen, and the probability is that under the model's distribution over them: what
/// could not be otherwise is certain. `None` also where there are none.
pub fn choose_beside(
    logits: &[f32],
    sampling: &Sampling,
    among: Option<&[u32]>,
    held_back: &[u32],
    generated: &[u32],
    seed: &[u8; 32],
    position: u64,
) -> Option<Chosen> {
    let max = finite_max(logits)?;
    let mut penalised = penalise(logits, sampling.repetition_penalty, generated);
    if !held_back.is_empty() {
        let values = penalised.get_or_insert_with(|| logits.to_vec());
        // Finite, as everything here; nothing that a model says comes near it.
        held_back.iter().for_each(|&token| values.get_mut(token as usize).into_iter().for_each(|value| *value = -1e30));
    }
    if let Some(among) = among {
        // Ids outside of the vocabulary are the last ones, so places stay what they are.
        let of = |values: &[f32]| among.iter().filter_map(|&id| values.get(id as usize).copied()).collect::<Vec<f32>>();
        let (own, shaped) = (of(logits), of(penalised.as_deref().unwrap_or(logits)));
        let log_total = log_sum_exp(&own, finite_max(&own)?);
        let place = place_of(&shaped, finite_max(&shaped)?, sampling, seed, position)?;
        return Some(Chosen { token: *among.get(place)?, logprob: f64::from(own[place]) - log_total });
    }
    let log_total = log_sum_exp(logits, max);
    let token = match &penalised {
        Some(values) => place_of(values, finite_max(values)?, sampling, seed, position)?,
        None => place_of(logits, max, sampling, seed, position)?,
    };
    Some(Chosen { token: token as u32, logprob: f64::from(logits[token]) - log_total })
}

/// The place of the chosen one among shaped logits, given their maximum.
fn place_of(shaped: &[f32], max: f32, sampling: &Sampling, seed: &[u8; 32], position: u64) -> Option<usize> {
    if sampling.temperature > 0.0 {
        Some(draw(shaped, max, sampling, uniform(seed, position)))
    } else {
        shaped.iter().position(|&logit| logit == max)
    }
}

/// Natural-log probability of `token` under the softmax of `logits` (`[vocab]`); `None` where the logits are not all
/// finite or the token is outside of them.
pub fn log_prob(logits: &[f32], token: u32) -> Option<f64> {
    let logit = *logits.get(token as usize)?;
    let max = finite_max(logits)?;
    Some(f64::from(logit) - log_sum_exp(logits, max))
}

/// The random number of a row at a position, uniform in `[0, 1)`: a pure function of its arguments.
pub fn uniform(seed: &[u8; 32], position: u64) -> f64 {
    let digest = blake3::keyed_hash(seed, &position.to_le_bytes());
    let mut word = [0; 8];
    word.copy_from_slice(&digest.as_bytes()[..8]);
    // The upper 53 bits: every value is exactly representable and below 1.
    (u64::from_le_bytes(word) >> 11) as f64 / (1u64 << 53) as f64
}

/// Values per step of the vectorised loops.
const LANES: usize = 16;

/// The largest value, or `None` where there is none or one is NaN or infinite.
fn finite_max(values: &[f32]) -> Option<f32> {
    const EXPONENT: u32 = 0x7f80_0000;
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut broken = [0u32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            max[lane] = if chunk[lane] > max[lane] { chunk[lane] } else { max[lane] };
            broken[lane] |= u32::from(chunk[lane].to_bits() & EXPONENT == EXPONENT);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        max[lane] = if value > max[lane] { value } else { max[lane] };
        broken[lane] |= u32::from(value.to_bits() & EXPONENT == EXPONENT);
    }
    let max = max.into_iter().fold(f32::NEG_INFINITY, f32::max);
    (broken == [0; LANES] && max.is_finite()).then_some(max)
}

/// `ln(sum(exp(values)))`, given their maximum.
fn log_sum_exp(values: &[f32], max: f32) -> f64 {
    // Blocks keep the f32 partial sums short, so that the result is good to about 1e-7 for any vocabulary.
    const BLOCK: usize = 64 * LANES;
    let mut total = 0.0f64;
    for block in values.chunks(BLOCK) {
        let mut sums = [0.0f32; LANES];
        let chunks = block.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for lane in 0..LANES {
                sums[lane] += exp_of_negative(chunk[lane] - max);
            }
        }
        for (lane, &value) in rest.iter().enumerate() {
            sums[lane] += exp_of_negative(value - max);
        }
        total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
    }
    f64::from(max) + total.ln()
}

/// `exp(x)` for `x <= 0`, relative error below 3e-7, written without branches so that the compiler vectorises it. The
/// C library's `expf` would take ten times as long and differ between hosts.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(power)
}

/// A copy of the logits in which repeating a token is less likely, or `None` where nothing changes.
fn penalise(logits: &[f32], penalty: f32, generated: &[u32]) -> Option<Vec<f32>> {
    if penalty == 1.0 || penalty <= 0.0 || penalty.is_nan() || generated.is_empty() {
        return None;
    }
    let mut changed = logits.to_vec();
    for &token in generated {
        // Read from the original, so that a repeated token is penalised once.
        if let Some(&logit) = logits.get(token as usize) {
            changed[token as usize] = if logit > 0.0 { logit / penalty } else { logit * penalty };
        }
    }
    Some(changed)
}

/// Draws an index from the softmax of `logits / temperature` after top-k and top-p; `at` is uniform in `[0, 1)`.
fn draw(logits: &[f32], max: f32, sampling: &Sampling, at: f64) -> usize {
    let weights: Vec<f32> = logits.iter().map(|&logit| exp_of_negative((logit - max) / sampling.temperature)).collect();
    let weight = |id: u32| f64::from(weights[id as usize]);
    let total: f64 = weights.chunks(LANES).map(|chunk| f64::from(chunk.iter().sum::<f32>())).sum();
    let (top_k, top_p) = (sampling.top_k, f64::from(sampling.top_p.max(0.0)));
    if top_k == 0 && top_p >= 1.0 {
        return pick(at * total, (0..logits.len() as u32).map(|id| (id, weight(id))));
    }

    // Sorting the whole vocabulary would cost more than the rest: the likely tokens nearly always suffice.
    let mut ids: Vec<u32> = Vec::new();
    for least in [1e-2, 1e-4, 1e-8, 0.0] {
        ids = (0..logits.len() as u32).filter(|&id| weights[id as usize] >= least).collect();
        let enough = match top_k {
            0 => ids.iter().map(|&id| weight(id)).sum::<f64>() >= top_p * total,
            k => ids.len() >= k,
        };
        if enough {
            break;
        }
    }
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if top_k > 0 && top_k < ids.len() {
        ids.select_nth_unstable_by(top_k, order);
        ids.truncate(top_k);
    }
    ids.sort_unstable_by(order);
    let kept = |ids: &[u32]| ids.iter().map(|&id| weight(id)).sum::<f64>();
    if top_p < 1.0 {
        let wanted = top_p * if top_k > 0 { kept(&ids) } else { total };
        let mut reached = 0.0;
        let last = ids.iter().position(|&id| {
            reached += weight(id);
            reached >= wanted
        });
        ids.truncate(last.map_or(ids.len(), |last| last + 1));
    }
    pick(at * kept(&ids), ids.iter().map(|&id| (id, weight(id))))
}

/// The first id at which the running sum of the weights passes `left`.
fn pick(mut left: f64, weighted: impl Iterator<Item = (u32, f64)>) -> usize {
    let mut last = 0;
    for (id, weight) in weighted {
        if left < weight {
            return id as usize;
        }
        left -= weight;
        // Rounding can exhaust the total: then take the last token with a positive weight.
        if weight > f64::EPSILON {
            last = id as usize;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn exact_softmax(logits: &[f32]) -> Vec<f64> {
        let max = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
        let exps: Vec<f64> = logits.iter().map(|&x| (f64::from(x) - max).exp()).collect();
        let total: f64 = exps.iter().sum();
        exps.iter().map(|e| e / total).collect()
    }

    fn seed(n: u64) -> [u8; 32] {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    #[test]
    fn greedy_takes_the_largest_and_ties_go_to_the_lowest_id() {
        let greedy = Sampling::default();
        let chosen = choose(&[0.5, 2.0, -1.0, 2.0], &greedy, &[], &seed(0), 0).unwrap();
        assert_eq!(chosen.token, 1);
        assert!((chosen.logprob - exact_softmax(&[0.5, 2.0, -1.0, 2.0])[1].ln()).abs() < 1e-6);
        assert_eq!(choose(&[0.0; 100], &greedy, &[], &seed(1), 7).unwrap().token, 0);
    }

    #[test]
    fn greedy_ignores_the_seed_and_sampling_follows_it() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.37).sin()).collect();
        let hot = Sampling { temperature: 1.5, ..Sampling::default() };
        let pick = |sampling: &Sampling, n: u64, at: u64| choose(&logits, sampling, &[], &seed(n), at).unwrap().token;
        assert!((0..50).all(|n| pick(&Sampling::default(), n, n) == pick(&Sampling::default(), 0, 0)));
        assert!((0..50).all(|n| pick(&hot, n, 3) == pick(&hot, n, 3)));
        let distinct: std::collections::BTreeSet<u32> = (0..200).map(|n| pick(&hot, n, 0)).collect();
        assert!(distinct.len() > 20, "{} of 50 tokens in 200 draws", distinct.len());
    }

    #[test]
    fn nothing_is_chosen_from_broken_logits() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 20, 36] {
                let mut logits = vec![0.25; 37];
                logits[at] = bad;
                assert_eq!(choose(&logits, &Sampling::default(), &[], &seed(0), 0), None);
                assert_eq!(log_prob(&logits, 1), None);
            }
        }
        assert_eq!(choose(&[], &Sampling::default(), &[], &seed(0), 0), None);
        assert_eq!(log_prob(&[0.0, 1.0], 2), None);
    }

    #[test]
    fn repetition_penalty_moves_greedy_on_and_leaves_the_reported_probability_alone() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let logits = [1.0, 3.0, 2.0, -0.5];
        let chosen = choose(&logits, &sampling, &[1, 1], &seed(0), 2).unwrap();
        assert_eq!(chosen.token, 2);
        assert!((chosen.logprob - exact_softmax(&logits)[2].ln()).abs() < 1e-6);
        let all_negative = choose(&[-1.0, -1.5], &sampling, &[0], &seed(0), 1).unwrap();
        assert_eq!(all_negative.token, 1);
    }

    #[test]
    fn one_of_the_allowed_tokens_is_chosen_and_what_is_forced_is_certain() {
        let logits = [4.0f32, 1.0, 3.0, -2.0, 2.0];
        let among = |sampling: &Sampling, ids: &[u32], held: &[u32], n| {
            choose_beside(&logits, sampling, Some(ids), held, &[], &seed(n), n)
        };
        let greedy = Sampling::default();
        let chosen = among(&greedy, &[1, 3, 4], &[], 0).unwrap();
        assert_eq!(chosen.token, 4);
        assert!((chosen.logprob - exact_softmax(&[1.0, -2.0, 2.0])[2].ln()).abs() < 1e-6);
        let forced = among(&greedy, &[3, 9], &[3], 0).unwrap();
        assert!(forced.token == 3 && forced.logprob.abs() < 1e-6, "{forced:?}");
        assert_eq!(among(&greedy, &[1, 4], &[4], 0).unwrap().token, 1);
        assert_eq!((among(&greedy, &[], &[], 0), among(&greedy, &[9], &[], 0)), (None, None));
        let hot = Sampling { temperature: 5.0, ..greedy };
        let drawn: std::collections::BTreeSet<u32> =
            (0..300).map(|n| among(&hot, &[1, 3], &[], n).unwrap().token).collect();
        assert!(drawn.into_iter().eq([1, 3]));
        let all = [0, 1, 2, 3, 4];
        assert!((0..50).all(|n| among(&hot, &all, &[], n) == choose(&logits, &hot, &[], &seed(n), n)));
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        let sampling = Sampling { temperature: 0.7, ..Sampling::default() };
        let expected = exact_softmax(&logits.map(|x| x / 0.7));
        let mut counts = [0u32; 4];
        let draws = 20_000;
        for n in 0..draws {
            counts[choose(&logits, &sampling, &[], &seed(9), n).unwrap().token as usize] += 1;
        }
        for (count, p) in counts.iter().zip(&expected) {
            assert!((f64::from(*count) / draws as f64 - p).abs() < 0.015, "{counts:?} against {expected:?}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits: Vec<f32> = (0..1000).map(|i| if i < 5 { 5.0 - i as f32 } else { -20.0 }).collect();
        let draw = |sampling: Sampling| -> std::collections::BTreeSet<u32> {
            (0..500).map(|n| choose(&logits, &sampling, &[], &seed(3), n).unwrap().token).collect()
        };
        let hot = Sampling { temperature: 5.0, ..Sampling::default() };
        assert!(draw(Sampling { top_k: 2, ..hot }).into_iter().eq([0, 1]));
        assert!(draw(Sampling { top_k: 1, ..hot }).into_iter().eq([0]));
        let sharp = Sampling { temperature: 1.0, top_p: 0.9, ..Sampling::default() };
        assert!(draw(sharp).into_iter().eq([0, 1, 2]));
        assert!(draw(Sampling { top_p: 0.0, ..sharp }).into_iter().eq([0]));
    }

    #[test]
    fn a_flat_nucleus_larger_than_the_first_selection_is_kept() {
        let logits = vec![1.0f32; 2000];
        let sampling = Sampling { temperature: 1.0, top_p: 0.5, ..Sampling::default() };
        let drawn: Vec<u32> = (0..3000).map(|n| choose(&logits, &sampling, &[], &seed(4), n).unwrap().token).collect();
        assert!(drawn.iter().all(|&token| token < 1001));
        assert!(drawn.iter().any(|&token| token > 900));
    }

    proptest! {
        #[test]
        fn log_probabilities_match_an_exact_softmax(
            logits in proptest::collection::vec(-60.0f32..60.0, 1..3000),
            pick in any::<proptest::sample::Index>(),
        ) {
            let token = pick.index(logits.len());
            let max = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
            let total: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
            let exact = f64::from(logits[token]) - max - total.ln();
            prop_assert!((log_prob(&logits, token as u32).unwrap() - exact).abs() < 1e-6);
        }

        #[test]
        fn the_fast_exponential_is_close(x in -87.0f32..=0.0) {
            let exact = f64::from(x).exp();
            prop_assert!((f64::from(exp_of_negative(x)) - exact).abs() <= 3e-7 * exact);
        }

        #[test]
        fn a_drawn_token_lies_within_the_cuts(
            logits in proptest::collection::vec(-8.0f32..8.0, 1..600),
            temperature in 0.1f32..3.0, top_p in 0.05f32..1.0, top_k in 0usize..40, n in any::<u64>(),
        ) {
            let sampling = Sampling { temperature, top_p, top_k, ..Sampling::default() };
            let token = choose(&logits, &sampling, &[], &seed(n), 0).unwrap().token as usize;
            let larger = logits.iter().filter(|&&l| l > logits[token]).count();
            prop_assert!(top_k == 0 || larger < top_k);
            let scaled: Vec<f32> = logits.iter().map(|l| l / temperature).collect();
            let before: f64 = exact_softmax(&scaled).iter().zip(&logits)
                .filter(|(_, l)| **l > logits[token]).map(|(p, _)| p).sum();
            prop_assert!(before <= f64::from(top_p) + 1e-4);
        }

        #[test]
        fn uniform_numbers_lie_in_the_unit_interval(n in any::<u64>(), position in any::<u64>()) {
            let x = uniform(&seed(n), position);
            prop_assert!((0.0..1.0).contains(&x));
        }
    }
}
