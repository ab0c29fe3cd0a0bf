//! The loops of training that are not matrix products, forwards and backwards, on plain slices in host memory.
//!
//! Knows numbers only. Every function exists twice, compiled for AVX2 with FMA, chosen when the program runs, and for any
//! processor. Work is spread over rayon in blocks whose size does not depend on the number of threads, and sums over
//! blocks are made in order: the same input gives the same bits.

use rayon::prelude::*;

use crate::network::random::Random;

/// Rows of a block: one task, and one partial sum.
const BLOCK: usize = 64;
const LANES: usize = 8;

/// Defines `$name`, which runs `$body` as compiled for the machine.
macro_rules! compiled {
    ($(#[$doc:meta])* $vis:vis $name:ident = $body:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)?) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn fused($($arg: $type),*) $(-> $out)? {
                    $body::<true>($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the function asks for exactly the features that were just detected.
                    return unsafe { fused($($arg),*) };
                }
            }
            $body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}

pub(super) use compiled;

/// `a · b + c`; a fused operation would be a slow library call where the machine has none.
#[inline(always)]
pub(super) fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// e to the power of `x`, to about two units in the last place; NaN stays NaN. Coefficients as in Cephes' `expf`.
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Comparisons this way round let NaN through.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    // Adding 1.5 · 2^23 rounds to a whole number and leaves it in the low bits.
    let shifted = fma::<FUSED>(x, std::f32::consts::LOG2_E, 12_582_912.0);
    let n = shifted - 12_582_912.0;
    let r = fma::<FUSED>(n, -0.693_359_4, x);
    let r = fma::<FUSED>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = fma::<FUSED>(p, r, c);
    }
    let y = fma::<FUSED>(p, r * r, r) + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// A sum in strands that a compiler keeps in one vector; its order depends on the length only.
#[inline(always)]
pub(super) fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut strands = [0.0f32; LANES];
    let whole = n / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        for (lane, s) in strands.iter_mut().enumerate() {
            *s += f(i + lane);
        }
    }
    let rest: f32 = (whole..n).map(f).sum();
    strands.iter().sum::<f32>() + rest
}

/// Exponentials of `x` less its maximum, in place; returns the maximum and the sum.
#[inline(always)]
pub(super) fn exponentials<const FUSED: bool>(x: &mut [f32]) -> (f32, f32) {
    let mut strands = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let most = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    for chunk in chunks {
        for (s, v) in strands.iter_mut().zip(chunk) {
            *s = if *v > *s { *v } else { *s };
        }
    }
    let most = strands.iter().fold(most, |a, b| a.max(*b));
    for v in x.iter_mut() {
        *v = exp::<FUSED>(*v - most);
    }
    (most, sum(x.len(), |i| x[i]))
}

// ---------------------------------------------------------------------------------------------------------------------
// Losses over the catalogue
// ---------------------------------------------------------------------------------------------------------------------

compiled! {
    /// −log softmax of the target; the logits become `scale` times its derivative.
    pub cross_entropy = cross_entropy_body(logits: &mut [f32], target: usize, scale: f32) -> f64
}

#[inline(always)]
fn cross_entropy_body<const FUSED: bool>(logits: &mut [f32], target: usize, scale: f32) -> f64 {
    let aimed = logits[target];
    let (most, total) = exponentials::<FUSED>(logits);
    let share = scale / total;
    logits.iter_mut().for_each(|v| *v *= share);
    logits[target] -= scale;
    f64::from(total).ln() + f64::from(most) - f64::from(aimed)
}

/// Generalised binary cross-entropy of the target and the drawn items; the logits become `scale` times its derivative.
pub fn binary(logits: &mut [f32], target: usize, drawn: &[u32], beta: f32, scale: f32) -> f64 {
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let share = 1.0 / (drawn.len() + 1) as f64;
    let (aimed, beta) = (f64::from(logits[target]), f64::from(beta));
    let away: Vec<f64> = drawn.iter().map(|i| f64::from(logits[*i as usize])).collect();
    logits.fill(0.0);
    let scale = f64::from(scale) * share;
    for (item, logit) in drawn.iter().zip(&away) {
        logits[*item as usize] += (scale * sigmoid(*logit)) as f32;
    }
    logits[target] -= (scale * beta * sigmoid(-aimed)) as f32;
    share * (beta * softplus(-aimed) + away.iter().map(|x| softplus(*x)).sum::<f64>())
}

// ---------------------------------------------------------------------------------------------------------------------
// Dropout, residual and norm
// ---------------------------------------------------------------------------------------------------------------------

/// Dropout that can be drawn again: the backward pass draws the masks of the forward pass once more instead of keeping
/// them.
#[derive(Debug, Clone)]
pub struct Noise {
    /// Where the masks come from.
    pub stream: Random,
    /// Share of values set to zero.
    pub probability: f64,
}

impl Noise {
    pub(super) fn mask(&self, block: usize, mask: &mut [f32]) {
        self.stream.child(block as u64).dropout(mask, self.probability);
    }

    pub(super) fn is_silent(&self) -> bool {
        self.probability <= 0.0
    }
}

/// What a norm keeps for its backward pass.
#[derive(Debug)]
pub struct Normed {
    /// The normalised rows, before weight and shift.
    rows: Vec<f32>,
    /// 1 / σ of every row.
    scales: Vec<f32>,
}

/// Layer norm of `dropout(branch + bias) + residual`; an empty residual is none. Returns the rows, `[n, width]`.
pub fn add_norm(
    mut branch: Vec<f32>,
    bias: &[f32],
    noise: &Noise,
    residual: &[f32],
    weight: &[f32],
    shift: &[f32],
    epsilon: f32,
) -> (Vec<f32>, Normed) {
    let width = weight.len();
    let rows = branch.len() / width;
    let (mut out, mut scales) = (vec![0.0; branch.len()], vec![0.0; rows]);
    let blocks = branch.par_chunks_mut(BLOCK * width).zip(out.par_chunks_mut(BLOCK * width));
    blocks.zip(scales.par_chunks_mut(BLOCK)).enumerate().for_each(|(block, ((branch, out), scales))| {
        let mut mask = vec![1.0; if noise.is_silent() { 0 } else { branch.len() }];
        noise.mask(block, &mut mask);
        let residual = residual.get(block * BLOCK * width..).unwrap_or_default();
        add_norm_rows(branch, bias, &mask, residual, weight, shift, epsilon, out, scales);
    });
    (out, Normed { rows: branch, scales })
}

compiled! {
    add_norm_rows = add_norm_rows_body(x: &mut [f32], bias: &[f32], mask: &[f32], residual: &[f32], weight: &[f32],
        shift: &[f32], epsilon: f32, out: &mut [f32], scales: &mut [f32])
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn add_norm_rows_body<const FUSED: bool>(
    x: &mut [f32],
    bias: &[f32],
    mask: &[f32],
    residual: &[f32],
    weight: &[f32],
    shift: &[f32],
    epsilon: f32,
    out: &mut [f32],
    scales: &mut [f32],
) {
    let width = weight.len();
    let rows = x.chunks_exact_mut(width).zip(out.chunks_exact_mut(width)).zip(scales).enumerate();
    for (i, ((x, out), scale)) in rows {
        let at = i * width;
        if !bias.is_empty() {
            x.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
        if !mask.is_empty() {
            x.iter_mut().zip(&mask[at..at + width]).for_each(|(x, m)| *x *= m);
        }
        if !residual.is_empty() {
            x.iter_mut().zip(&residual[at..at + width]).for_each(|(x, r)| *x += r);
        }
        let mean = sum(width, |i| x[i]) / width as f32;
        let variance = sum(width, |i| (x[i] - mean) * (x[i] - mean)) / width as f32;
        *scale = 1.0 / (variance + epsilon).sqrt();
        for (((x, out), w), s) in x.iter_mut().zip(out).zip(weight).zip(shift) {
            *x = (*x - mean) * *scale;
            *out = fma::<FUSED>(*x, *w, *s);
        }
    }
}

/// What comes back through a norm.
pub struct NormGradient {
    /// With respect to what was normalised, which is also the residual's.
    pub input: Vec<f32>,
    /// With respect to the weight and the shift.
    pub weight: Vec<f32>,
    /// See `weight`.
    pub shift: Vec<f32>,
}

/// The backward pass of [`add_norm`]'s norm.
pub fn norm_backward(gradient: &[f32], normed: &Normed, weight: &[f32]) -> NormGradient {
    let width = weight.len();
    let mut input = vec![0.0; gradient.len()];
    let blocks = input.par_chunks_mut(BLOCK * width).zip(gradient.par_chunks(BLOCK * width));
    let blocks = blocks.zip(normed.rows.par_chunks(BLOCK * width)).zip(normed.scales.par_chunks(BLOCK));
    let sums: Vec<Vec<f32>> = blocks
        .map(|(((input, gradient), rows), scales)| {
            let mut sums = vec![0.0; 2 * width];
            norm_backward_rows(gradient, rows, scales, weight, input, &mut sums);
            sums
        })
        .collect();
    let sums = total(sums, 2 * width);
    NormGradient { input, weight: sums[..width].to_vec(), shift: sums[width..].to_vec() }
}

compiled! {
    norm_backward_rows = norm_backward_rows_body(gradient: &[f32], rows: &[f32], scales: &[f32], weight: &[f32],
        input: &mut [f32], sums: &mut [f32])
}

#[inline(always)]
fn norm_backward_rows_body<const FUSED: bool>(
    gradient: &[f32],
    rows: &[f32],
    scales: &[f32],
    weight: &[f32],
    input: &mut [f32],
    sums: &mut [f32],
) {
    let width = weight.len();
    let (on_weight, on_shift) = sums.split_at_mut(width);
    let lines = gradient.chunks_exact(width).zip(rows.chunks_exact(width)).zip(input.chunks_exact_mut(width));
    for (((g, x), out), scale) in lines.zip(scales) {
        for i in 0..width {
            on_weight[i] = fma::<FUSED>(g[i], x[i], on_weight[i]);
            on_shift[i] += g[i];
            out[i] = g[i] * weight[i];
        }
        let mean = sum(width, |i| out[i]) / width as f32;
        let along = sum(width, |i| out[i] * x[i]) / width as f32;
        for (out, x) in out.iter_mut().zip(x) {
            *out = (*out - mean - x * along) * scale;
        }
    }
}

/// Partial sums of blocks, added in order.
pub(super) fn total(parts: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(s, p)| *s += p);
    }
    sums
}

/// `gradient` through the dropout, and its sums by column: the derivative by the branch and by the bias before it.
pub fn dropout_backward(gradient: &[f32], noise: &Noise, width: usize) -> (Vec<f32>, Vec<f32>) {
    let mut out = gradient.to_vec();
    let blocks = out.par_chunks_mut(BLOCK * width).enumerate();
    let sums: Vec<Vec<f32>> = blocks
        .map(|(block, out)| {
            if !noise.is_silent() {
                let mut mask = vec![0.0; out.len()];
                noise.mask(block, &mut mask);
                out.iter_mut().zip(&mask).for_each(|(g, m)| *g *= m);
            }
            columns(out, width)
        })
        .collect();
    (out, total(sums, width))
}

/// The forward half of [`dropout_backward`].
pub fn dropout(x: &mut [f32], noise: &Noise, width: usize) {
    if noise.is_silent() {
        return;
    }
    x.par_chunks_mut(BLOCK * width).enumerate().for_each(|(block, x)| {
        let mut mask = vec![0.0; x.len()];
        noise.mask(block, &mut mask);
        x.iter_mut().zip(&mask).for_each(|(x, m)| *x *= m);
    });
}

/// Adds rows, in place: one row to all, or as many as there are.
pub fn add_rows(x: &mut [f32], rows: &[f32]) {
    if rows.is_empty() {
        return;
    }
    if rows.len() == x.len() {
        let blocks = x.par_chunks_mut(BLOCK * BLOCK).zip(rows.par_chunks(BLOCK * BLOCK));
        blocks.for_each(|(x, rows)| x.iter_mut().zip(rows).for_each(|(x, r)| *x += r));
    } else {
        let blocks = x.par_chunks_mut(BLOCK * rows.len());
        blocks.for_each(|x| {
            for x in x.chunks_exact_mut(rows.len()) {
                x.iter_mut().zip(rows).for_each(|(x, r)| *x += r);
            }
        });
    }
}

pub(super) fn columns(x: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    for row in x.chunks_exact(width) {
        sums.iter_mut().zip(row).for_each(|(s, v)| *s += v);
    }
    sums
}

// ---------------------------------------------------------------------------------------------------------------------
// GELU
// ---------------------------------------------------------------------------------------------------------------------

/// GELU of `x + bias` (x Φ(x), not the tanh approximation), and in `x` its derivative.
pub fn gelu(x: &mut [f32], bias: &[f32]) -> Vec<f32> {
    let width = bias.len();
    let mut out = vec![0.0; x.len()];
    let blocks = x.par_chunks_mut(BLOCK * width).zip(out.par_chunks_mut(BLOCK * width));
    blocks.for_each(|(x, out)| gelu_rows(x, bias, out));
    out
}

compiled! { gelu_rows = gelu_rows_body(x: &mut [f32], bias: &[f32], out: &mut [f32]) }

#[inline(always)]
fn gelu_rows_body<const FUSED: bool>(x: &mut [f32], bias: &[f32], out: &mut [f32]) {
    // Φ through the complementary error function of Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7), which
    // shares its exponential with the density that the derivative needs.
    const A: [f32; 4] = [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6];
    for (x, out) in x.chunks_exact_mut(bias.len()).zip(out.chunks_exact_mut(bias.len())) {
        for ((x, out), b) in x.iter_mut().zip(out).zip(bias) {
            let v = *x + b;
            let size = v.abs();
            let bell = exp::<FUSED>(-0.5 * v * v);
            let t = 1.0 / fma::<FUSED>(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2, size, 1.0);
            let mut p = 1.061_405_4;
            for a in A {
                p = fma::<FUSED>(p, t, a);
            }
            let tail = 0.5 * p * t * bell;
            let cumulative = if v < 0.0 { tail } else { 1.0 - tail };
            *out = v * cumulative;
            *x = fma::<FUSED>(v * bell, 0.398_942_3, cumulative);
        }
    }
}

/// `gradient` times the derivative that [`gelu`] left, in place; returns the sums by column.
pub fn gelu_backward(gradient: &mut [f32], derivative: &[f32], width: usize) -> Vec<f32> {
    let blocks = gradient.par_chunks_mut(BLOCK * width).zip(derivative.par_chunks(BLOCK * width));
    let sums: Vec<Vec<f32>> = blocks
        .map(|(gradient, derivative)| {
            gradient.iter_mut().zip(derivative).for_each(|(g, d)| *g *= d);
            columns(gradient, width)
        })
        .collect();
    total(sums, width)
}
