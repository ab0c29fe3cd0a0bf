//! Softmax and what is made of it: exponentials with their sum, cross-entropy with its derivative.
//!
//! Knows numbers only. The functions differ in the order in which they sum, as results that were published or learned
//! depend on it: by 32 lanes and halves for the decoder, by 16 lanes where it learns, by 8 strands elsewhere.

use crate::kernels::arithmetic::{LANES, exp, largest, strand_sum, tree_sum};
use crate::kernels::isa::per_isa;

#[inline(always)]
fn exponentials_body<const FMA: bool>(scores: &mut [f32], len: usize) -> f32 {
    let (scores, rest) = scores.split_at_mut(len);
    rest.fill(0.0);
    let most = largest(scores);
    let mut acc = [0f32; LANES];
    let mut chunks = scores.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            chunk[i] = exp::<FMA>(chunk[i] - most);
            acc[i] += chunk[i];
        }
    }
    for (acc, s) in acc.iter_mut().zip(chunks.into_remainder()) {
        *s = exp::<FMA>(*s - most);
        *acc += *s;
    }
    tree_sum(acc)
}

per_isa! {
    /// Turns the first `len` scores into exponentials, less their maximum, and the rest into zeros; returns the sum.
    pub(crate) fn exponentials = exponentials_body::<ROUNDS_TWICE>(scores: &mut [f32], len: usize) -> f32
}

#[inline(always)]
fn exponentials_less_body<const FMA: bool>(values: &mut [f32], most: f32) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    for chunk in values.chunks_mut(LANES) {
        for (sum, v) in sums.iter_mut().zip(chunk) {
            *v = exp::<FMA>(*v - most);
            *sum += *v;
        }
    }
    sums.iter().sum()
}

per_isa! {
    /// Turns values into `e^(v − most)`; returns their sum.
    pub(crate) fn exponentials_less = exponentials_less_body::<ROUNDS_TWICE>(values: &mut [f32], most: f32) -> f32
}

#[inline(always)]
fn softmax_back_body<const FMA: bool>(weights: &mut [f32], slopes: &mut [f32], share: f32, along: f32) {
    for (p, s) in weights.iter_mut().zip(slopes) {
        *p *= share;
        *s = *p * (*s - along);
    }
}

per_isa! {
    /// The backward pass of a softmax: `weights` are exponentials and become probabilities by `share`, one over their
    /// sum; `slopes` are the gradients of the probabilities and become those of the scores. `along` is the sum of the
    /// products of both.
    pub(crate) fn softmax_back = softmax_back_body::<ROUNDS_TWICE>(
        weights: &mut [f32], slopes: &mut [f32], share: f32, along: f32,
    )
}

/// Turns `x` into exponentials, less the maximum, by an exponential of the caller's; returns the maximum and the sum.
#[inline(always)]
pub(crate) fn exponentials_by(x: &mut [f32], exp: impl Fn(f32) -> f32) -> (f32, f32) {
    let most = largest(x);
    for v in x.iter_mut() {
        *v = exp(*v - most);
    }
    (most, strand_sum(x, |v| v))
}

#[inline(always)]
fn cross_entropy_body<const FMA: bool>(logits: &mut [f32], target: usize, scale: f32) -> f64 {
    let aimed = logits[target];
    let (most, total) = exponentials_by(logits, exp::<FMA>);
    let share = scale / total;
    logits.iter_mut().for_each(|v| *v *= share);
    logits[target] -= scale;
    f64::from(total).ln() + f64::from(most) - f64::from(aimed)
}

per_isa! {
    /// −log softmax of the target; the logits become `scale` times its derivative.
    pub(crate) fn cross_entropy = cross_entropy_body::<FUSES_ON_ARM>(
        logits: &mut [f32], target: usize, scale: f32,
    ) -> f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::arithmetic::noise;
    use crate::kernels::isa::Isa;

    #[test]
    fn every_sum_of_exponentials_is_right() {
        for isa in Isa::available() {
            for n in [1, 7, 16, 33, 100, 1000] {
                let x = noise(n, 8);
                let most = x.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
                let exact = x.iter().map(|v| f64::from(v - most).exp()).sum::<f64>();
                let (mut a, mut b) = (x.clone(), x.clone());
                a.push(3.0);
                for got in [exponentials(isa, &mut a, n), exponentials_less(isa, &mut b, most)] {
                    assert!((f64::from(got) / exact - 1.0).abs() < 1e-5, "{isa:?} {n}: {got} {exact}");
                }
                assert_eq!((&a[..n], a[n]), (&b[..], 0.0), "{isa:?} {n}");
                let mut c = x.clone();
                let loss = cross_entropy(isa, &mut c, n / 2, 2.0);
                let want = exact.ln() + f64::from(most) - f64::from(x[n / 2]);
                assert!((loss - want).abs() < 1e-5, "{isa:?} {n}: {loss} {want}");
                assert!(c.iter().map(|v| f64::from(*v)).sum::<f64>().abs() < 1e-5, "{isa:?} {n}");
            }
        }
    }
}
