//! Norms of rows, forwards and backwards: by the root of the mean square, and by mean and variance.
//!
//! Knows numbers only. Sums are made by lanes, counted from the row's start, so that a row's bits depend on that row
//! alone.

use rayon::prelude::*;

use crate::kernels::arithmetic::{LANES, fma, strand_dot, strand_sum, tree_sum};
use crate::kernels::isa::{Isa, per_isa};
use crate::kernels::rows::{TRAINED_ROWS, rows_per_task};

// ---------------------------------------------------------------------------------------------------------------------
// Root mean square
// ---------------------------------------------------------------------------------------------------------------------

#[inline(always)]
fn sum_of_squares<const FMA: bool>(x: &[f32]) -> f32 {
    let mut acc = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            acc[i] = fma::<FMA>(chunk[i], chunk[i], acc[i]);
        }
    }
    for (acc, x) in acc.iter_mut().zip(rest) {
        *acc = fma::<FMA>(*x, *x, *acc);
    }
    tree_sum(acc)
}

#[inline(always)]
fn rms_norm_body<const FMA: bool>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let scale = 1.0 / (sum_of_squares::<FMA>(x) / width as f32 + eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
    }
}

per_isa! {
    /// [`rms_norm`] of a few rows, on this thread.
    pub(crate) fn rms_norm_rows = rms_norm_body::<ROUNDS_TWICE>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])
}

/// Root-mean-square norm of every row: `x / √(mean(x²) + eps) · weight`; `x` and `out` are `[n, weight.len()]`.
///
/// # Panics
/// Where the slices do not fit each other.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(x.len() == out.len() && x.len().is_multiple_of(width), "rows must be whole");
    let chunk = rows_per_task(width) * width;
    out.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(out, x)| rms_norm_rows(isa, x, weight, eps, out));
}

#[inline(always)]
fn rms_norm_back_body<const FMA: bool>(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
    const LANES: usize = 16;
    let width = weight.len();
    let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
    for ((x, dy), dx) in rows {
        let (mut squares, mut along) = ([0f32; LANES], [0f32; LANES]);
        let chunks = x.chunks(LANES).zip(dy.chunks(LANES)).zip(weight.chunks(LANES));
        for ((x, dy), w) in chunks {
            for i in 0..x.len() {
                squares[i] = fma::<FMA>(x[i], x[i], squares[i]);
                along[i] = fma::<FMA>(x[i] * w[i], dy[i], along[i]);
            }
        }
        let (squares, along) = (squares.iter().sum::<f32>(), along.iter().sum::<f32>());
        let scale = 1.0 / (squares / width as f32 + eps).sqrt();
        let pull = along * scale * scale * scale / width as f32;
        for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
            *dx += fma::<FMA>(-pull, *x, scale * w * dy);
        }
    }
}

per_isa! {
    fn rms_norm_back_rows = rms_norm_back_body::<ROUNDS_TWICE>(
        x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32],
    )
}

/// Adds to `dx` the gradient of [`rms_norm`]'s input `x`, given that of its output, `dy`; all are `[n, weight.len()]`.
///
/// # Panics
/// Where the slices do not fit each other.
pub fn rms_norm_back(isa: Isa, x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
    assert!(x.len() == dy.len() && x.len() == dx.len(), "rows must fit");
    let chunk = TRAINED_ROWS * weight.len();
    let tasks = dx.par_chunks_mut(chunk).zip(dy.par_chunks(chunk)).zip(x.par_chunks(chunk));
    tasks.for_each(|((dx, dy), x)| rms_norm_back_rows(isa, x, weight, eps, dy, dx));
}

// ---------------------------------------------------------------------------------------------------------------------
// Mean and variance
// ---------------------------------------------------------------------------------------------------------------------

/// Mean and 1 / σ of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let width = x.len();
    let mean = strand_sum(x, |v| v) / width as f32;
    let variance = strand_sum(x, |v| (v - mean) * (v - mean)) / width as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

#[inline(always)]
fn add_layer_norm_body<const FMA: bool>(x: &mut [f32], residual: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
    x.iter_mut().zip(residual).for_each(|(x, r)| *x += r);
    for x in x.chunks_exact_mut(weight.len()) {
        let (mean, scale) = moments(x, eps);
        for ((x, w), b) in x.iter_mut().zip(weight).zip(bias) {
            *x = fma::<FMA>((*x - mean) * scale, *w, *b);
        }
    }
}

per_isa! {
    /// Layer norm of `x + residual` (empty: none) in place, row by row, on this thread.
    pub(crate) fn add_layer_norm = add_layer_norm_body::<FUSES_ON_ARM>(
        x: &mut [f32], residual: &[f32], weight: &[f32], bias: &[f32], eps: f32,
    )
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn layer_norm_body<const FMA: bool>(
    x: &mut [f32],
    bias: &[f32],
    mask: &[f32],
    residual: &[f32],
    weight: &[f32],
    shift: &[f32],
    eps: f32,
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
        let (mean, inverse) = moments(x, eps);
        *scale = inverse;
        for (((x, out), w), s) in x.iter_mut().zip(out).zip(weight).zip(shift) {
            *x = (*x - mean) * *scale;
            *out = fma::<FMA>(*x, *w, *s);
        }
    }
}

per_isa! {
    /// Layer norm of `(x + bias) · mask + residual` into `out`, where an empty slice means none; on this thread.
    ///
    /// Leaves in `x` the normalised rows before weight and shift, and in `scales` 1 / σ of each: what
    /// [`layer_norm_back`] needs.
    pub(crate) fn layer_norm = layer_norm_body::<FUSES_ON_ARM>(
        x: &mut [f32], bias: &[f32], mask: &[f32], residual: &[f32], weight: &[f32], shift: &[f32], eps: f32,
        out: &mut [f32], scales: &mut [f32],
    )
}

#[inline(always)]
fn layer_norm_back_body<const FMA: bool>(
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
            on_weight[i] = fma::<FMA>(g[i], x[i], on_weight[i]);
            on_shift[i] += g[i];
            out[i] = g[i] * weight[i];
        }
        let mean = strand_sum(out, |v| v) / width as f32;
        let along = strand_dot(out, x) / width as f32;
        for (out, x) in out.iter_mut().zip(x) {
            *out = (*out - mean - x * along) * scale;
        }
    }
}

per_isa! {
    /// The backward pass of [`layer_norm`], from what it left, on this thread: sets `input` to the gradient of what was
    /// normalised, and adds those of weight and shift, one after the other, to `sums` `[2 · width]`.
    pub(crate) fn layer_norm_back = layer_norm_back_body::<FUSES_ON_ARM>(
        gradient: &[f32], rows: &[f32], scales: &[f32], weight: &[f32], input: &mut [f32], sums: &mut [f32],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::arithmetic::noise;

    #[test]
    fn root_mean_square_norms_are_right() {
        for isa in Isa::available() {
            for width in [1, 8, 31, 64, 100, 576] {
                let (x, w) = (noise(9 * width, 4), noise(width, 5));
                let mut out = vec![0.0; x.len()];
                rms_norm(isa, &x, &w, 1e-5, &mut out);
                for (x, out) in x.chunks(width).zip(out.chunks(width)) {
                    let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
                    let scale = 1.0 / (mean + 1e-5).sqrt();
                    for i in 0..width {
                        assert!((f64::from(out[i]) - f64::from(x[i]) * scale * f64::from(w[i])).abs() < 2e-6);
                    }
                }
            }
        }
    }

    /// Both layer norms against the definition, and the same bits on every instruction set that fuses.
    #[test]
    fn layer_norms_are_right_and_the_same_on_every_vector_width() {
        for width in [1, 8, 31, 64, 100] {
            let (x, residual) = (noise(5 * width, 1), noise(5 * width, 2));
            let (weight, shift) = (noise(width, 3), noise(width, 4));
            let mut fused: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut in_place = x.clone();
                add_layer_norm(isa, &mut in_place, &residual, &weight, &shift, 1e-5);
                let (mut kept, mut out, mut scales) = (x.clone(), vec![0.0; x.len()], vec![0.0; 5]);
                layer_norm(isa, &mut kept, &[], &[], &residual, &weight, &shift, 1e-5, &mut out, &mut scales);
                assert_eq!(in_place, out, "{isa:?} {width}");
                for (row, out) in out.chunks(width).enumerate() {
                    let sum: Vec<f64> =
                        (0..width).map(|i| f64::from(x[row * width + i] + residual[row * width + i])).collect();
                    let mean = sum.iter().sum::<f64>() / width as f64;
                    let variance = sum.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
                    for i in 0..width {
                        let want = (sum[i] - mean) / (variance + 1e-5).sqrt() * f64::from(weight[i]);
                        assert!((f64::from(out[i]) - want - f64::from(shift[i])).abs() < 1e-5, "{isa:?} {width}");
                    }
                }
                if isa.level() != crate::kernels::isa::Level::Portable {
                    assert_eq!(fused.get_or_insert_with(|| out.clone()), &out, "{isa:?} {width}");
                }
            }
        }
    }
}
