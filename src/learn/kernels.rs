//! What training on the CPU needs beside [`crate::llm::kernels`]: products whose sum runs over tokens, attention over whole
//! sequences, and the gradients of attention, norms and activations.
//!
//! Knows numbers only. As there, every result is one chain of sums in a fixed order, whatever the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use crate::llm::kernels::{
    Heads, Isa, MAX_PANEL, MAX_TILE_ROWS, Shared, exp, exponentials, fma, for_tiles, per_isa, tile,
};

/// `c = a · b`: `a` is `[m, k]` at a stride, `b` `[k, n]` and `c` `[m, n]` at strides that are whole panels.
struct Product {
    m: usize,
    k: usize,
    n: usize,
}

impl Product {
    /// On this thread.
    fn run(&self, isa: Isa, (a, lda): (&[f32], usize), (b, ldb): (&[f32], usize), (c, ldc): (&mut [f32], usize)) {
        let (m, k, nr) = (self.m, self.k, isa.panel());
        if m == 0 || k == 0 || self.n == 0 {
            return;
        }
        let panels = self.n.div_ceil(nr);
        assert!(a.len() >= (m - 1) * lda + k && ldb >= panels * nr && ldc >= panels * nr, "matrices must be whole");
        assert!(b.len() >= k * ldb && c.len() >= m * ldc, "matrices must be whole");
        for p in 0..panels {
            for_tiles(m, isa.tile_rows(), |first, height| {
                let (a, b) = (&a[first * lda..], &b[p * nr..]);
                let c = &mut c[first * ldc + p * nr..];
                // SAFETY: the lengths were checked above; `isa` was detected.
                unsafe { tile(isa, height)(k, a.as_ptr(), lda, b.as_ptr(), ldb, c.as_mut_ptr(), ldc) };
            });
        }
    }
}

/// `c = a · b` for an `a` `[m, k]` of few rows and a wide `b` `[k, n]`: what sums over tokens.
///
/// # Panics
/// Where a slice has another length.
pub fn sum_over_rows(isa: Isa, a: &[f32], b: &[f32], n: usize) -> Vec<f32> {
    let k = b.len() / n.max(1);
    assert!(k > 0 && b.len() == k * n && a.len().is_multiple_of(k), "matrices must be whole");
    let (m, nr) = (a.len() / k, isa.panel());
    let mut c = vec![0f32; m * n];
    let target = Shared(c.as_mut_ptr());
    (0..n.div_ceil(nr)).into_par_iter().for_each(|p| {
        let columns = nr.min(n - p * nr);
        // Copied together: a panel is read once for every tile.
        let mut panel = vec![0f32; k * nr];
        for (line, row) in panel.chunks_exact_mut(nr).zip(b.chunks_exact(n)) {
            line[..columns].copy_from_slice(&row[p * nr..][..columns]);
        }
        let mut part = [0f32; MAX_TILE_ROWS * MAX_PANEL];
        for_tiles(m, isa.tile_rows(), |first, height| {
            let a = &a[first * k..];
            // SAFETY: `a` holds `height` rows of `k`, the panel `k` lines, `part` a tile; `isa` was detected.
            unsafe { tile(isa, height)(k, a.as_ptr(), k, panel.as_ptr(), nr, part.as_mut_ptr(), nr) };
            for i in 0..height {
                // SAFETY: every task writes columns of its own.
                let row = unsafe { std::slice::from_raw_parts_mut(target.at((first + i) * n + p * nr), columns) };
                row.copy_from_slice(&part[i * nr..][..columns]);
            }
        });
    });
    c
}

/// The transpose of `[rows, columns]`.
pub fn transpose(x: &[f32], columns: usize) -> Vec<f32> {
    let rows = x.len() / columns.max(1);
    let mut out = vec![0f32; x.len()];
    for (i, row) in x.chunks_exact(columns.max(1)).enumerate() {
        row.iter().enumerate().for_each(|(j, v)| out[j * rows + i] = *v);
    }
    out
}

#[inline(always)]
fn norm_back_body<const FMA: bool>(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
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
per_isa!(norm_back, norm_back_body, (x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]));

/// Adds to `dx` what a root-mean-square norm of `x` gives back for `dy`; all `[n, weight.len()]`.
pub fn rms_norm_back(isa: Isa, x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
    assert!(x.len() == dy.len() && x.len() == dx.len(), "rows must fit");
    let chunk = ROWS_PER_TASK * weight.len();
    let tasks = dx.par_chunks_mut(chunk).zip(dy.par_chunks(chunk)).zip(x.par_chunks(chunk));
    tasks.for_each(|((dx, dy), x)| norm_back(isa, x, weight, eps, dy, dx));
}

#[inline(always)]
fn swiglu_back_body<const FMA: bool>(gate_up: &mut [f32], width: usize, dy: &[f32]) {
    for (both, dy) in gate_up.chunks_exact_mut(2 * width).zip(dy.chunks_exact(width)) {
        let (gate, up) = both.split_at_mut(width);
        for ((g, u), dy) in gate.iter_mut().zip(up).zip(dy) {
            let sigmoid = 1.0 / (1.0 + exp::<FMA>(-*g));
            let silu = *g * sigmoid;
            // silu' = σ + silu · (1 − σ)
            *g = dy * *u * fma::<FMA>(silu, 1.0 - sigmoid, sigmoid);
            *u = dy * silu;
        }
    }
}
per_isa!(swiglu_rows_back, swiglu_back_body, (gate_up: &mut [f32], width: usize, dy: &[f32]));

/// Turns `gate_up` `[n, 2 · width]` into its gradient, given that of `silu(gate) · up`.
pub fn swiglu_back(isa: Isa, gate_up: &mut [f32], width: usize, dy: &[f32]) {
    assert!(gate_up.len() == 2 * dy.len(), "rows must fit");
    let chunk = ROWS_PER_TASK * width;
    let tasks = gate_up.par_chunks_mut(2 * chunk).zip(dy.par_chunks(chunk));
    tasks.for_each(|(gate_up, dy)| swiglu_rows_back(isa, gate_up, width, dy));
}

const ROWS_PER_TASK: usize = 16;

/// Attention within packed sequences, each token over those before it and itself.
pub struct Attention<'a> {
    /// Instructions.
    pub isa: Isa,
    /// Heads of a row.
    pub heads: Heads,
    /// Rows of each sequence, one sequence after the other.
    pub sequences: &'a [Range<usize>],
}

/// Query rows that are worked on at a time; keys after the last of them are not looked at.
const BLOCK: usize = 48;

/// One key head of one sequence with its neighbours, copied together and padded to whole panels.
struct HeadOf {
    length: usize,
    width: usize,
    /// `length` and `width` in whole panels.
    padded: (usize, usize),
    /// `[length, padded width]`.
    keys: Vec<f32>,
    values: Vec<f32>,
    /// `[width, padded length]`.
    keys_across: Vec<f32>,
    values_across: Vec<f32>,
}

impl HeadOf {
    fn new(isa: Isa, heads: Heads, head: usize, qkv: &[f32]) -> Self {
        let (row, width, nr) = (heads.row(), heads.width, isa.panel());
        let length = qkv.len() / row;
        let padded = (length.next_multiple_of(nr), width.next_multiple_of(nr));
        let copy = |first: usize| {
            let (mut along, mut across) = (vec![0f32; length * padded.1], vec![0f32; width * padded.0]);
            for (i, row) in qkv.chunks_exact(row).enumerate() {
                let values = &row[first..first + width];
                along[i * padded.1..][..width].copy_from_slice(values);
                values.iter().enumerate().for_each(|(d, v)| across[d * padded.0 + i] = *v);
            }
            (along, across)
        };
        let (keys, keys_across) = copy((heads.queries + head) * width);
        let (values, values_across) = copy((heads.queries + heads.keys + head) * width);
        HeadOf { length, width, padded, keys, values, keys_across, values_across }
    }

    /// Odds of a block of scaled queries `[rows, padded width]` from row `first` on, `[rows, padded length]`, and a row's sum.
    fn odds(&self, isa: Isa, first: usize, queries: &[f32], odds: &mut [f32]) -> Vec<f32> {
        let (columns, wide) = self.padded;
        let rows = queries.len() / wide;
        let seen = first + rows;
        Product { m: rows, k: self.width, n: seen }.run(
            isa,
            (queries, wide),
            (&self.keys_across, columns),
            (odds, columns),
        );
        let looked_at = seen.next_multiple_of(isa.panel());
        let lines = odds.chunks_exact_mut(columns).take(rows).enumerate();
        lines.map(|(i, line)| exponentials(isa, &mut line[..looked_at], first + i + 1)).collect()
    }
}

/// Copies a head of some rows, each value times `scale`; `[rows, padded]`.
fn head_rows(rows: &[f32], stride: usize, first: usize, width: usize, padded: usize, scale: f32) -> Vec<f32> {
    let mut out = vec![0f32; rows.len() / stride * padded];
    for (out, row) in out.chunks_exact_mut(padded).zip(rows.chunks_exact(stride)) {
        out.iter_mut().zip(&row[first..first + width]).for_each(|(o, v)| *o = v * scale);
    }
    out
}

impl Attention<'_> {
    fn tasks(&self) -> Vec<(Range<usize>, usize)> {
        // Every task writes rows and heads of its own.
        let is_apart = self.sequences.windows(2).all(|w| w[0].end <= w[1].start);
        assert!(is_apart && self.heads.queries.is_multiple_of(self.heads.keys), "sequences must not overlap");
        self.sequences.iter().flat_map(|rows| (0..self.heads.keys).map(move |head| (rows.clone(), head))).collect()
    }

    fn scale(&self) -> f32 {
        1.0 / (self.heads.width as f32).sqrt()
    }

    /// `qkv` `[n, heads.row()]`, queries and keys turned, to `[n, queries · width]`.
    pub fn forward(&self, qkv: &[f32]) -> Vec<f32> {
        let Heads { queries, keys, width } = self.heads;
        let (row, out_row, shared) = (self.heads.row(), queries * width, queries / keys);
        let mut out = vec![0f32; qkv.len() / row * out_row];
        let target = Shared(out.as_mut_ptr());
        self.tasks().into_par_iter().for_each(|(rows, head)| {
            let qkv = &qkv[rows.start * row..rows.end * row];
            let of = HeadOf::new(self.isa, self.heads, head, qkv);
            let (columns, wide) = of.padded;
            let (mut odds, mut seen) = (vec![0f32; BLOCK * columns], vec![0f32; BLOCK * wide]);
            for query in head * shared..(head + 1) * shared {
                for first in (0..of.length).step_by(BLOCK) {
                    let last = (first + BLOCK).min(of.length);
                    let q = head_rows(&qkv[first * row..last * row], row, query * width, width, wide, self.scale());
                    let sums = of.odds(self.isa, first, &q, &mut odds);
                    Product { m: last - first, k: last, n: width }.run(
                        self.isa,
                        (&odds, columns),
                        (&of.values, wide),
                        (&mut seen, wide),
                    );
                    for (i, sum) in sums.iter().enumerate() {
                        let at = (rows.start + first + i) * out_row + query * width;
                        // SAFETY: every task writes heads and rows of its own.
                        let out = unsafe { std::slice::from_raw_parts_mut(target.at(at), width) };
                        out.iter_mut().zip(&seen[i * wide..]).for_each(|(o, v)| *o = v / sum);
                    }
                }
            }
        });
        out
    }

    /// The gradient of `qkv`, given that of what [`Attention::forward`] gave, which is `seen`.
    pub fn back(&self, qkv: &[f32], seen: &[f32], dy: &[f32]) -> Vec<f32> {
        let Heads { queries, keys, width } = self.heads;
        let (row, out_row, shared) = (self.heads.row(), queries * width, queries / keys);
        let isa = self.isa;
        assert!(dy.len() * row == qkv.len() * out_row && seen.len() == dy.len(), "rows must fit");
        let mut out = vec![0f32; qkv.len()];
        let target = Shared(out.as_mut_ptr());
        self.tasks().into_par_iter().for_each(|(rows, head)| {
            let of_outputs = rows.start * out_row..rows.end * out_row;
            let (qkv, seen, dy) = (&qkv[rows.start * row..rows.end * row], &seen[of_outputs.clone()], &dy[of_outputs]);
            let of = HeadOf::new(isa, self.heads, head, qkv);
            let (columns, wide) = of.padded;
            let (mut odds, mut slopes) = (vec![0f32; BLOCK * columns], vec![0f32; BLOCK * columns]);
            let (mut dq, mut part) = (vec![0f32; BLOCK * wide], vec![0f32; of.length * wide]);
            let (mut dk, mut dv) = (vec![0f32; of.length * wide], vec![0f32; of.length * wide]);
            let put = |first: usize, at: usize, values: &[f32], scale: f32| {
                for (i, values) in values.chunks_exact(wide).enumerate() {
                    let at = (rows.start + first + i) * row + at;
                    // SAFETY: every task writes heads and rows of its own.
                    let out = unsafe { std::slice::from_raw_parts_mut(target.at(at), width) };
                    out.iter_mut().zip(values).for_each(|(o, v)| *o = v * scale);
                }
            };
            for query in head * shared..(head + 1) * shared {
                for first in (0..of.length).step_by(BLOCK) {
                    let last = (first + BLOCK).min(of.length);
                    let m = last - first;
                    let q = head_rows(&qkv[first * row..last * row], row, query * width, width, wide, self.scale());
                    let of_block = first * out_row..last * out_row;
                    let dy = head_rows(&dy[of_block.clone()], out_row, query * width, width, wide, 1.0);
                    let sums = of.odds(isa, first, &q, &mut odds);
                    let product = Product { m, k: width, n: last };
                    product.run(isa, (&dy, wide), (&of.values_across, columns), (&mut slopes, columns));
                    for (i, sum) in sums.iter().enumerate() {
                        let seen = &seen[(first + i) * out_row + query * width..][..width];
                        let along: f32 = seen.iter().zip(&dy[i * wide..]).map(|(s, d)| s * d).sum();
                        let range = i * columns..i * columns + last;
                        slope_row(isa, &mut odds[range.clone()], &mut slopes[range], 1.0 / sum, along);
                    }
                    let product = Product { m, k: last, n: width };
                    product.run(isa, (&slopes, columns), (&of.keys, wide), (&mut dq, wide));
                    put(first, query * width, &dq[..m * wide], self.scale());
                    for (weights, right, sum) in [(&slopes, &q, &mut dk), (&odds, &dy, &mut dv)] {
                        let mut across = vec![0f32; last * m];
                        for i in 0..m {
                            let line = &weights[i * columns..][..last];
                            line.iter().enumerate().for_each(|(j, v)| across[j * m + i] = *v);
                        }
                        let product = Product { m: last, k: m, n: width };
                        product.run(isa, (&across, m), (right, wide), (&mut part, wide));
                        sum.iter_mut().zip(&part[..last * wide]).for_each(|(s, p)| *s += p);
                    }
                }
            }
            put(0, (queries + head) * width, &dk, 1.0);
            put(0, (queries + keys + head) * width, &dv, 1.0);
        });
        out
    }
}

#[inline(always)]
fn slope_row_body<const FMA: bool>(odds: &mut [f32], slopes: &mut [f32], share: f32, along: f32) {
    for (p, s) in odds.iter_mut().zip(slopes) {
        *p *= share;
        *s = *p * (*s - along);
    }
}
per_isa!(slope_row, slope_row_body, (odds: &mut [f32], slopes: &mut [f32], share: f32, along: f32));

#[inline(always)]
fn likelihood_body<const FMA: bool>(logits: &mut [f32], largest: f32) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    for chunk in logits.chunks_mut(LANES) {
        for (sum, v) in sums.iter_mut().zip(chunk) {
            *v = exp::<FMA>(*v - largest);
            *sum += *v;
        }
    }
    sums.iter().sum()
}
per_isa!(exponentials_below, likelihood_body, (logits: &mut [f32], largest: f32) -> f32);

/// Turns values into `e^(v − largest)`; returns their sum.
pub fn odds_below(isa: Isa, values: &mut [f32], largest: f32) -> f32 {
    exponentials_below(isa, values, largest)
}
