//! The parts of training a transformer that are not matrix products, forwards and backwards, on slices in host memory:
//! norms with dropout and residual, GELU, sums by column.
//!
//! Knows blocks of rows and which random numbers each draws; the loops are [`crate::kernels`]. Work is spread over
//! rayon in blocks whose size does not depend on the number of threads, and sums over blocks are made in order: the
//! same input gives the same bits.

use rayon::prelude::*;

use crate::kernels::activation::gelu_with_derivative;
use crate::kernels::isa::Isa;
use crate::kernels::norm::{layer_norm, layer_norm_back};
use crate::kernels::rows::{add, add_to_each, column_sums, sum_of_parts};
use crate::network::random::Random;

/// Rows of a block: one task, and one partial sum.
const BLOCK: usize = 64;

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
    let (isa, width) = (Isa::detect(), weight.len());
    let rows = branch.len() / width;
    let (mut out, mut scales) = (vec![0.0; branch.len()], vec![0.0; rows]);
    let blocks = branch.par_chunks_mut(BLOCK * width).zip(out.par_chunks_mut(BLOCK * width));
    blocks.zip(scales.par_chunks_mut(BLOCK)).enumerate().for_each(|(block, ((branch, out), scales))| {
        let mut mask = vec![1.0; if noise.is_silent() { 0 } else { branch.len() }];
        noise.mask(block, &mut mask);
        let residual = residual.get(block * BLOCK * width..).unwrap_or_default();
        layer_norm(isa, branch, bias, &mask, residual, weight, shift, epsilon, out, scales);
    });
    (out, Normed { rows: branch, scales })
}

/// The gradients of a norm.
pub struct NormGradient {
    /// With respect to the norm's input, which is also the residual's.
    pub input: Vec<f32>,
    /// With respect to the weight and the shift.
    pub weight: Vec<f32>,
    /// See `weight`.
    pub shift: Vec<f32>,
}

/// The backward pass of [`add_norm`]'s norm.
pub fn norm_backward(gradient: &[f32], normed: &Normed, weight: &[f32]) -> NormGradient {
    let (isa, width) = (Isa::detect(), weight.len());
    let mut input = vec![0.0; gradient.len()];
    let blocks = input.par_chunks_mut(BLOCK * width).zip(gradient.par_chunks(BLOCK * width));
    let blocks = blocks.zip(normed.rows.par_chunks(BLOCK * width)).zip(normed.scales.par_chunks(BLOCK));
    let sums: Vec<Vec<f32>> = blocks
        .map(|(((input, gradient), rows), scales)| {
            let mut sums = vec![0.0; 2 * width];
            layer_norm_back(isa, gradient, rows, scales, weight, input, &mut sums);
            sums
        })
        .collect();
    let sums = sum_of_parts(sums, 2 * width);
    NormGradient { input, weight: sums[..width].to_vec(), shift: sums[width..].to_vec() }
}

/// `gradient` after dropout's backward pass, and its sums by column: the gradients of the branch and of the bias before
/// it.
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
            column_sums(out, width)
        })
        .collect();
    (out, sum_of_parts(sums, width))
}

/// Dropout, in place.
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

/// Adds rows, in place: one row to all, or as many as there are; nothing where `rows` is empty.
pub fn add_rows(x: &mut [f32], rows: &[f32]) {
    if rows.len() == x.len() { add(x, rows) } else { add_to_each(x, rows) }
}

/// GELU of `x + bias` (x Φ(x), not the tanh approximation), and in `x` its derivative.
pub fn gelu(x: &mut [f32], bias: &[f32]) -> Vec<f32> {
    let (isa, width) = (Isa::detect(), bias.len());
    let mut out = vec![0.0; x.len()];
    let blocks = x.par_chunks_mut(BLOCK * width).zip(out.par_chunks_mut(BLOCK * width));
    blocks.for_each(|(x, out)| gelu_with_derivative(isa, x, bias, out));
    out
}

/// `gradient` times the derivative that [`gelu`] left, in place; returns the sums by column.
pub fn gelu_backward(gradient: &mut [f32], derivative: &[f32], width: usize) -> Vec<f32> {
    let blocks = gradient.par_chunks_mut(BLOCK * width).zip(derivative.par_chunks(BLOCK * width));
    let sums: Vec<Vec<f32>> = blocks
        .map(|(gradient, derivative)| {
            gradient.iter_mut().zip(derivative).for_each(|(g, d)| *g *= d);
            column_sums(gradient, width)
        })
        .collect();
    sum_of_parts(sums, width)
}
