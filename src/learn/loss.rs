//! Losses over log-probabilities of targets: supervised, weighted, GRPO, DPO.
//!
//! Knows vectors of log-probabilities, one number a target; knows nothing of models, texts or rewards' origins. Every loss
//! is a sum, with weights that the caller has divided by the whole step's total, so that gradients of batches add up to the
//! step's. A target of weight zero has a gradient of exactly zero.

use std::ops::Range;

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// What [`advantages`] adds to the standard deviation, as TRL does.
pub const ADVANTAGE_EPSILON: f64 = 1e-4;

/// `Σ −w · log p`: supervised fine-tuning where all weights are alike.
pub fn weighted(logprobs: Tensor<1>, weights: Tensor<1>) -> Tensor<1> {
    (logprobs * weights).sum().neg()
}

/// Rewards of one prompt's answers, normalised within the group: `(R − mean) / (std + ε)` with the sample's standard
/// deviation (Shao et al. 2024, "DeepSeekMath"); zeros for fewer than two.
pub fn advantages(rewards: &[f64]) -> Vec<f32> {
    let n = rewards.len() as f64;
    if rewards.len() < 2 {
        return vec![0.0; rewards.len()];
    }
    let mean = rewards.iter().sum::<f64>() / n;
    let deviation = (rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    rewards.iter().map(|r| ((r - mean) / (deviation + ADVANTAGE_EPSILON)) as f32).collect()
}

/// Weights of offline answers: `min(exp(R / λ), most)`.
pub fn exponential_weights(rewards: &[f64], lambda: f64, most: f64) -> Vec<f32> {
    rewards.iter().map(|r| (r / lambda).exp().min(most) as f32).collect()
}

/// How the answers of a step share its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Every answer counts the same, however long.
    Answer,
    /// Every token counts the same.
    Token,
}

/// Weights of targets that sum to one over the answers that are not cut off; those that are count nothing.
/// `lengths` are targets per answer.
pub fn shares(lengths: &[usize], truncated: &[bool], share: Share) -> Vec<f32> {
    let kept = |i: usize| !truncated.get(i).copied().unwrap_or(false) && lengths[i] > 0;
    let all: Vec<usize> = (0..lengths.len()).filter(|i| kept(*i)).collect();
    let total = match share {
        Share::Answer => all.len(),
        Share::Token => all.iter().map(|i| lengths[*i]).sum(),
    };
    let weight = |i: usize| match (kept(i), share) {
        (false, _) => 0.0,
        (true, Share::Answer) => 1.0 / (total * lengths[i]) as f64,
        (true, Share::Token) => 1.0 / total as f64,
    };
    (0..lengths.len()).flat_map(|i| std::iter::repeat_n(weight(i) as f32, lengths[i])).collect()
}

/// Measures of group-relative policy optimisation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Grpo {
    /// How far the ratio of new to old probability counts: within 1 ± this.
    pub ratio_clip: f64,
    /// Weight of the divergence from the reference.
    pub kl: f64,
}

/// `Σ w (−min(ρA, clip(ρ, 1 − ε, 1 + ε) A) + β KL)` with `ρ = p / p_old` and the low-variance estimate
/// `KL = exp(d) − d − 1`, `d = log p_ref − log p` (Schulman). All are `[targets]`; `old` and `reference` are constants.
pub fn grpo(
    logprobs: Tensor<1>,
    old: Tensor<1>,
    reference: Tensor<1>,
    advantages: Tensor<1>,
    weights: Tensor<1>,
    settings: Grpo,
) -> Tensor<1> {
    let ratio = (logprobs.clone() - old).exp();
    let clipped = ratio.clone().clamp(1.0 - settings.ratio_clip, 1.0 + settings.ratio_clip);
    let gain = (ratio * advantages.clone()).min_pair(clipped * advantages);
    let loss = match settings.kl == 0.0 {
        true => gain.neg(),
        false => low_variance_kl(logprobs, reference).mul_scalar(settings.kl) - gain,
    };
    (loss * weights).sum()
}

/// `exp(d) − d − 1` with `d = log p_ref − log p`, target by target.
pub fn low_variance_kl(logprobs: Tensor<1>, reference: Tensor<1>) -> Tensor<1> {
    let d = reference - logprobs;
    (d.clone().exp() - d).sub_scalar(1.0)
}

/// `Σ −log σ(β [log π/π_ref (chosen) − log π/π_ref (rejected)])` over pairs of answers, given by their targets' spans
/// (Rafailov et al. 2023), divided by `total` pairs.
pub fn dpo(
    logprobs: Tensor<1>,
    reference: Tensor<1>,
    pairs: &[(Range<usize>, Range<usize>)],
    beta: f64,
    total: usize,
) -> Tensor<1> {
    let [n] = logprobs.dims();
    let mut signs = vec![0f32; n * pairs.len()];
    for (i, (chosen, rejected)) in pairs.iter().enumerate() {
        chosen.clone().for_each(|t| signs[t * pairs.len() + i] += 1.0);
        rejected.clone().for_each(|t| signs[t * pairs.len() + i] -= 1.0);
    }
    let signs = burn::tensor::TensorData::new(signs, [n, pairs.len()]);
    let signs = Tensor::<2>::from_data(signs, &reference.device());
    let margins = (logprobs - reference).reshape([1, n]).matmul(signs).mul_scalar(beta);
    activation::log_sigmoid(margins).sum().mul_scalar(-1.0 / total.max(1) as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::llm::device::ComputeDevice;
    use crate::llm::ops::{from_vec, into_vec};

    fn vector(values: &[f32]) -> Tensor<1> {
        from_vec(values.to_vec(), [values.len()], &ComputeDevice::cpu())
    }

    /// A loss and its gradient.
    fn learn(at: &[f32], loss: impl FnOnce(Tensor<1>) -> Tensor<1>) -> (f32, Vec<f32>) {
        let leaf = vector(at).autodiff().require_grad();
        let loss = loss(leaf.clone());
        let mut gradients = loss.backward();
        let gradient = leaf.grad_remove(&mut gradients).unwrap().inner();
        (into_vec(loss.inner()).unwrap()[0], into_vec(gradient).unwrap())
    }

    #[test]
    fn advantages_are_normalised_within_the_group() {
        let got = advantages(&[1.0, 2.0, 3.0]);
        assert!((got[0] + 0.9999).abs() < 1e-6 && got[1] == 0.0 && (got[2] - 0.9999).abs() < 1e-6, "{got:?}");
        assert_eq!(advantages(&[0.3, 0.3]), [0.0, 0.0]);
        assert_eq!(advantages(&[5.0]), [0.0]);
        assert_eq!(exponential_weights(&[0.0, 1.0], 0.5, 5.0), [1.0, 5.0]);
    }

    #[test]
    fn shares_sum_to_one_without_the_truncated() {
        let got = shares(&[2, 1, 3], &[false, true, false], Share::Answer);
        assert_eq!(got, [0.25, 0.25, 0.0, 1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0]);
        assert_eq!(shares(&[2, 1, 3], &[false, true, false], Share::Token), [0.2, 0.2, 0.0, 0.2, 0.2, 0.2]);
        assert_eq!(shares(&[2], &[true], Share::Token), [0.0, 0.0]);
    }

    #[test]
    fn the_clip_stops_the_gradient_on_the_side_of_the_gain_only() {
        let ratios = [1.5f32.ln(), 0.5f32.ln(), 1.5f32.ln(), 0.5f32.ln(), 0.0];
        let grpo = |logprobs| {
            grpo(
                logprobs,
                vector(&[0.0; 5]),
                vector(&[0.0; 5]),
                vector(&[1.0, 1.0, -1.0, -1.0, 1.0]),
                vector(&[1.0, 1.0, 1.0, 1.0, 0.0]),
                Grpo { ratio_clip: 0.2, kl: 0.0 },
            )
        };
        let (loss, gradient) = learn(&ratios, grpo);
        assert!((loss - (-1.2 - 0.5 + 1.5 + 0.8)).abs() < 1e-5, "{loss}");
        assert!(gradient[0] == 0.0 && gradient[3] == 0.0 && gradient[4] == 0.0, "{gradient:?}");
        assert!((gradient[1] + 0.5).abs() < 1e-5 && (gradient[2] - 1.5).abs() < 1e-5, "{gradient:?}");
    }

    #[test]
    fn the_divergence_is_zero_at_the_reference_and_pulls_towards_it() {
        let kl = |logprobs| low_variance_kl(logprobs, vector(&[-1.0, -1.0])).sum();
        let (value, gradient) = learn(&[-1.0, -2.0], kl);
        assert!((value - (1f32.exp() - 2.0)).abs() < 1e-5 && gradient[0] == 0.0);
        assert!((gradient[1] - (1.0 - 1f32.exp())).abs() < 1e-5, "{gradient:?}");
    }

    #[test]
    fn dpo_raises_the_chosen_and_lowers_the_rejected() {
        let at = [-1.0, -2.0, -3.0, -0.5];
        let dpo = |logprobs| dpo(logprobs, vector(&[-1.0; 4]), &[(0..2, 2..4)], 0.1, 1);
        let (loss, gradient) = learn(&at, dpo);
        let margin = 0.1f32 * ((-1.0 - 2.0 + 2.0) - (-3.5 + 2.0));
        let sigmoid = 1.0 / (1.0 + (-margin).exp());
        assert!((loss + sigmoid.ln()).abs() < 1e-5, "{loss}");
        let slope = 0.1 * (1.0 - sigmoid);
        let want = [-slope, -slope, slope, slope];
        assert!(gradient.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6), "{gradient:?}");
    }

    #[test]
    fn a_weight_of_zero_gives_a_gradient_of_exactly_zero() {
        let (loss, gradient) = learn(&[-1.0, -7.0], |l| weighted(l, vector(&[0.5, 0.0])));
        assert_eq!((loss, gradient), (0.5, vec![-0.5, 0.0]));
    }
}
