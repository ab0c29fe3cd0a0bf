//! Causal self-attention of packed sequences in host memory, forwards and backwards.
//!
//! Knows numbers only. A row holds `length` tokens; sequences stand in it one after the other, and a token sees the tokens
//! of its own sequence up to itself: its position says how many. Bits depend on a row's own tokens only.

use rayon::prelude::*;

use crate::recommend::host::{Noise, columns, compiled, exponentials, fma, sum, total};

/// Measures of the attention.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Number of heads.
    pub heads: usize,
    /// Width of all heads together.
    pub width: usize,
    /// Tokens of a row.
    pub length: usize,
}

/// Attends. `qkv` is `[tokens, 3 · width]`, queries first; `positions` count from the start of a token's sequence.
/// Returns the heads' results `[tokens, width]` and the probabilities `[rows, heads, length, length]` before dropout.
pub fn attend(qkv: &[f32], positions: &[u32], shape: Shape, noise: &Noise) -> (Vec<f32>, Vec<f32>) {
    let Shape { heads, width, length } = shape;
    let (tokens, area) = (positions.len(), heads * length * length);
    let (mut out, mut probabilities) = (vec![0.0; tokens * width], vec![0.0; tokens / length * area]);
    let rows = out.par_chunks_exact_mut(length * width).zip(probabilities.par_chunks_exact_mut(area));
    let rows = rows.zip(qkv.par_chunks_exact(length * 3 * width)).zip(positions.par_chunks_exact(length));
    rows.enumerate().for_each(|(row, (((out, probabilities), qkv), positions))| {
        let mask = mask(noise, row, area);
        attend_row(qkv, positions, heads, width, &mask, out, probabilities);
    });
    (out, probabilities)
}

/// From the gradient by the results, the gradient by `qkv`, and its sums by column.
pub fn attend_backward(
    gradient: &[f32],
    qkv: &[f32],
    probabilities: &[f32],
    positions: &[u32],
    shape: Shape,
    noise: &Noise,
) -> (Vec<f32>, Vec<f32>) {
    let Shape { heads, width, length } = shape;
    let area = heads * length * length;
    let mut out = vec![0.0; qkv.len()];
    let rows = out.par_chunks_exact_mut(length * 3 * width).zip(qkv.par_chunks_exact(length * 3 * width));
    let rows = rows.zip(gradient.par_chunks_exact(length * width)).zip(probabilities.par_chunks_exact(area));
    let sums: Vec<Vec<f32>> = rows
        .zip(positions.par_chunks_exact(length))
        .enumerate()
        .map(|(row, ((((out, qkv), gradient), probabilities), positions))| {
            let mask = mask(noise, row, area);
            attend_backward_row(gradient, qkv, probabilities, positions, heads, width, &mask, out);
            columns(out, 3 * width)
        })
        .collect();
    (out, total(sums, 3 * width))
}

/// A row's dropout; empty for none.
fn mask(noise: &Noise, row: usize, area: usize) -> Vec<f32> {
    let mut mask = vec![0.0; if noise.is_silent() { 0 } else { area }];
    noise.mask(row, &mut mask);
    mask
}

/// `[length, width]` of one head's keys or values, turned, so that the tokens of a channel stand side by side.
#[inline(always)]
fn turned(qkv: &[f32], from: usize, row: usize, head: usize) -> Vec<f32> {
    let length = qkv.len() / row;
    let mut out = vec![0.0; head * length];
    for (token, values) in qkv.chunks_exact(row).enumerate() {
        for (channel, value) in values[from..from + head].iter().enumerate() {
            out[channel * length + token] = *value;
        }
    }
    out
}

/// `out[j] += Σ_c x[c] · turned[c][j]` for the tokens of `seen`.
#[inline(always)]
fn products<const FUSED: bool>(x: &[f32], turned: &[f32], seen: std::ops::Range<usize>, out: &mut [f32]) {
    let length = turned.len() / x.len();
    for (x, line) in x.iter().zip(turned.chunks_exact(length)) {
        for (out, value) in out.iter_mut().zip(&line[seen.clone()]) {
            *out = fma::<FUSED>(*x, *value, *out);
        }
    }
}

/// `out += factor · x`.
#[inline(always)]
fn add<const FUSED: bool>(out: &mut [f32], factor: f32, x: &[f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = fma::<FUSED>(factor, *x, *out));
}

compiled! {
    attend_row = attend_row_body(qkv: &[f32], positions: &[u32], heads: usize, width: usize, mask: &[f32],
        out: &mut [f32], probabilities: &mut [f32])
}

#[inline(always)]
fn attend_row_body<const FUSED: bool>(
    qkv: &[f32],
    positions: &[u32],
    heads: usize,
    width: usize,
    mask: &[f32],
    out: &mut [f32],
    probabilities: &mut [f32],
) {
    let (row, head, length) = (3 * width, width / heads, positions.len());
    let scale = 1.0 / (head as f32).sqrt();
    for h in 0..heads {
        let keys = turned(qkv, width + h * head, row, head);
        for (i, position) in positions.iter().enumerate() {
            let seen = i - *position as usize..i + 1;
            let line = (h * length + i) * length;
            let p = &mut probabilities[line + seen.start..line + seen.end];
            products::<FUSED>(&qkv[i * row + h * head..][..head], &keys, seen.clone(), p);
            p.iter_mut().for_each(|p| *p *= scale);
            let (_, all) = exponentials::<FUSED>(p);
            p.iter_mut().for_each(|p| *p /= all);
            let out = &mut out[i * width + h * head..][..head];
            for (j, p) in seen.zip(p) {
                let kept = mask.get(line + j).map_or(*p, |m| *p * m);
                add::<FUSED>(out, kept, &qkv[j * row + 2 * width + h * head..][..head]);
            }
        }
    }
}

compiled! {
    attend_backward_row = attend_backward_row_body(gradient: &[f32], qkv: &[f32], probabilities: &[f32],
        positions: &[u32], heads: usize, width: usize, mask: &[f32], out: &mut [f32])
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn attend_backward_row_body<const FUSED: bool>(
    gradient: &[f32],
    qkv: &[f32],
    probabilities: &[f32],
    positions: &[u32],
    heads: usize,
    width: usize,
    mask: &[f32],
    out: &mut [f32],
) {
    let (row, head, length) = (3 * width, width / heads, positions.len());
    let scale = 1.0 / (head as f32).sqrt();
    let mut on_scores = vec![0.0; length];
    for h in 0..heads {
        let values = turned(qkv, 2 * width + h * head, row, head);
        for (i, position) in positions.iter().enumerate() {
            let seen = i - *position as usize..i + 1;
            let line = (h * length + i) * length;
            let p = &probabilities[line + seen.start..line + seen.end];
            let gradient = &gradient[i * width + h * head..][..head];
            let scores = &mut on_scores[..p.len()];
            scores.fill(0.0);
            products::<FUSED>(gradient, &values, seen.clone(), scores);
            if !mask.is_empty() {
                scores.iter_mut().zip(&mask[line + seen.start..]).for_each(|(s, m)| *s *= m);
            }
            let along = sum(p.len(), |j| scores[j] * p[j]);
            scores.iter_mut().zip(p).for_each(|(s, p)| *s = (*s - along) * p * scale);
            for ((j, p), s) in seen.zip(p).zip(scores) {
                let kept = mask.get(line + j).map_or(*p, |m| *p * m);
                add::<FUSED>(&mut out[j * row + 2 * width + h * head..][..head], kept, gradient);
                add::<FUSED>(&mut out[i * row + h * head..][..head], *s, &qkv[j * row + width + h * head..][..head]);
                add::<FUSED>(&mut out[j * row + width + h * head..][..head], *s, &qkv[i * row + h * head..][..head]);
            }
        }
    }
}
