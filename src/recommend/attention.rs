//! Causal self-attention of packed sequences in host memory, forwards and backwards.
//!
//! Knows rows and the dropout that each draws; the loops are [`crate::kernels::row_attention`]. A row holds `length`
//! tokens; sequences stand in it one after the other, and a token sees the tokens of its own sequence up to itself: its
//! position says how many. Bits depend on a row's own tokens only.

use rayon::prelude::*;

use crate::kernels::isa::Isa;
use crate::kernels::row_attention::{attend_row, attend_row_back};
use crate::kernels::rows::{column_sums, sum_of_parts};
use crate::recommend::host::Noise;

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
    let isa = Isa::detect();
    let (tokens, area) = (positions.len(), heads * length * length);
    let (mut out, mut probabilities) = (vec![0.0; tokens * width], vec![0.0; tokens / length * area]);
    let rows = out.par_chunks_exact_mut(length * width).zip(probabilities.par_chunks_exact_mut(area));
    let rows = rows.zip(qkv.par_chunks_exact(length * 3 * width)).zip(positions.par_chunks_exact(length));
    rows.enumerate().for_each(|(row, (((out, probabilities), qkv), positions))| {
        let mask = mask(noise, row, area);
        attend_row(isa, qkv, positions, heads, width, &mask, out, probabilities);
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
    let isa = Isa::detect();
    let area = heads * length * length;
    let mut out = vec![0.0; qkv.len()];
    let rows = out.par_chunks_exact_mut(length * 3 * width).zip(qkv.par_chunks_exact(length * 3 * width));
    let rows = rows.zip(gradient.par_chunks_exact(length * width)).zip(probabilities.par_chunks_exact(area));
    let sums: Vec<Vec<f32>> = rows
        .zip(positions.par_chunks_exact(length))
        .enumerate()
        .map(|(row, ((((out, qkv), gradient), probabilities), positions))| {
            let mask = mask(noise, row, area);
            attend_row_back(isa, gradient, qkv, probabilities, positions, heads, width, &mask, out);
            column_sums(out, 3 * width)
        })
        .collect();
    (out, sum_of_parts(sums, 3 * width))
}

/// A row's dropout; empty for none.
fn mask(noise: &Noise, row: usize, area: usize) -> Vec<f32> {
    let mut mask = vec![0.0; if noise.is_silent() { 0 } else { area }];
    noise.mask(row, &mut mask);
    mask
}
