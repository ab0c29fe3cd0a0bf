//! Causal attention over whole sequences that stand one after the other, forwards and backwards: for the decoder that
//! learns.
//!
//! Knows numbers only. Everything that is a matrix product runs on register tiles. Every result is one chain of sums in
//! a fixed order, whatever the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::heads::{Heads, across, along};
use crate::kernels::isa::Isa;
use crate::kernels::product::Product;
use crate::kernels::softmax::{exponentials, softmax_back};
use crate::kernels::tile::Shared;

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

/// The keys and values of one key head over one sequence, copied together and padded to whole panels.
struct KeyHead {
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

impl KeyHead {
    fn new(isa: Isa, heads: Heads, head: usize, qkv: &[f32]) -> Self {
        let (row, width, nr) = (heads.row(), heads.width, isa.panel());
        let length = qkv.len() / row;
        let padded = (length.next_multiple_of(nr), width.next_multiple_of(nr));
        let copy = |first: usize| {
            (along(qkv, row, first, width, padded.1, 1.0), across(qkv, row, first, width, padded.0, 1.0))
        };
        let (keys, keys_across) = copy((heads.queries + head) * width);
        let (values, values_across) = copy((heads.queries + heads.keys + head) * width);
        KeyHead { length, width, padded, keys, values, keys_across, values_across }
    }

    /// Exponentials of the scores of a block of scaled queries `[rows, padded width]` from row `first` on, into
    /// `[rows, padded length]`; returns each row's sum.
    fn exponentials(&self, isa: Isa, first: usize, queries: &[f32], exps: &mut [f32]) -> Vec<f32> {
        let (columns, wide) = self.padded;
        let rows = queries.len() / wide;
        let visible = first + rows;
        Product { m: rows, k: self.width, n: visible }.run(
            isa,
            (queries, wide),
            (&self.keys_across, columns),
            (exps, columns),
        );
        let used = visible.next_multiple_of(isa.panel());
        let lines = exps.chunks_exact_mut(columns).take(rows).enumerate();
        lines.map(|(i, line)| exponentials(isa, &mut line[..used], first + i + 1)).collect()
    }
}

impl Attention<'_> {
    fn tasks(&self) -> Vec<(Range<usize>, usize)> {
        // Every task writes rows and heads of its own: unsafe code below relies on it.
        let is_apart = self.sequences.windows(2).all(|w| w[0].end <= w[1].start)
            && self.sequences.iter().all(|rows| rows.start <= rows.end);
        assert!(is_apart && self.heads.queries.is_multiple_of(self.heads.keys), "sequences must not overlap");
        self.sequences.iter().flat_map(|rows| (0..self.heads.keys).map(move |head| (rows.clone(), head))).collect()
    }

    fn scale(&self) -> f32 {
        1.0 / (self.heads.width as f32).sqrt()
    }

    /// `qkv` `[n, heads.row()]`, queries and keys turned, to `[n, queries · width]`.
    ///
    /// # Panics
    /// Where sequences overlap or lie outside `qkv`, or heads of queries cannot share those of keys evenly.
    pub fn forward(&self, qkv: &[f32]) -> Vec<f32> {
        let Heads { queries, keys, width } = self.heads;
        let (row, out_row, shared) = (self.heads.row(), queries * width, queries / keys);
        let mut out = vec![0f32; qkv.len() / row * out_row];
        let target = Shared::new(&mut out);
        self.tasks().into_par_iter().for_each(|(rows, head)| {
            let qkv = &qkv[rows.start * row..rows.end * row];
            let of = KeyHead::new(self.isa, self.heads, head, qkv);
            let (columns, wide) = of.padded;
            let (mut exps, mut attended) = (vec![0f32; BLOCK * columns], vec![0f32; BLOCK * wide]);
            for query in head * shared..(head + 1) * shared {
                for first in (0..of.length).step_by(BLOCK) {
                    let last = (first + BLOCK).min(of.length);
                    let q = along(&qkv[first * row..last * row], row, query * width, width, wide, self.scale());
                    let sums = of.exponentials(self.isa, first, &q, &mut exps);
                    Product { m: last - first, k: last, n: width }.run(
                        self.isa,
                        (&exps, columns),
                        (&of.values, wide),
                        (&mut attended, wide),
                    );
                    for (i, sum) in sums.iter().enumerate() {
                        let at = (rows.start + first + i) * out_row + query * width;
                        // SAFETY: sequences do not overlap and lie in `qkv`; each task has one and a key head with its
                        // query heads, so that this part of `out` is the task's own.
                        let out = unsafe { target.part(at, width) };
                        out.iter_mut().zip(&attended[i * wide..]).for_each(|(o, v)| *o = v / sum);
                    }
                }
            }
        });
        out
    }

    /// The gradient of `qkv`, given `dy`, that of `attended`, which [`Attention::forward`] returned.
    ///
    /// # Panics
    /// As [`Attention::forward`], and where the slices do not fit each other.
    pub fn back(&self, qkv: &[f32], attended: &[f32], dy: &[f32]) -> Vec<f32> {
        let Heads { queries, keys, width } = self.heads;
        let (row, out_row, shared) = (self.heads.row(), queries * width, queries / keys);
        let isa = self.isa;
        assert!(dy.len() * row == qkv.len() * out_row && attended.len() == dy.len(), "rows must fit");
        let mut out = vec![0f32; qkv.len()];
        let target = Shared::new(&mut out);
        self.tasks().into_par_iter().for_each(|(rows, head)| {
            let of_outputs = rows.start * out_row..rows.end * out_row;
            let (qkv, attended, dy) =
                (&qkv[rows.start * row..rows.end * row], &attended[of_outputs.clone()], &dy[of_outputs]);
            let of = KeyHead::new(isa, self.heads, head, qkv);
            let (columns, wide) = of.padded;
            let (mut exps, mut slopes) = (vec![0f32; BLOCK * columns], vec![0f32; BLOCK * columns]);
            let (mut dq, mut part) = (vec![0f32; BLOCK * wide], vec![0f32; of.length * wide]);
            let (mut dk, mut dv) = (vec![0f32; of.length * wide], vec![0f32; of.length * wide]);
            let put = |first: usize, at: usize, values: &[f32], scale: f32| {
                for (i, values) in values.chunks_exact(wide).enumerate() {
                    let at = (rows.start + first + i) * row + at;
                    // SAFETY: sequences do not overlap and lie in `qkv`; each task has one and a key head with its
                    // query heads, so that this part of `out` is the task's own.
                    let out = unsafe { target.part(at, width) };
                    out.iter_mut().zip(values).for_each(|(o, v)| *o = v * scale);
                }
            };
            for query in head * shared..(head + 1) * shared {
                for first in (0..of.length).step_by(BLOCK) {
                    let last = (first + BLOCK).min(of.length);
                    let m = last - first;
                    let q = along(&qkv[first * row..last * row], row, query * width, width, wide, self.scale());
                    let of_block = first * out_row..last * out_row;
                    let dy = along(&dy[of_block.clone()], out_row, query * width, width, wide, 1.0);
                    let sums = of.exponentials(isa, first, &q, &mut exps);
                    let product = Product { m, k: width, n: last };
                    product.run(isa, (&dy, wide), (&of.values_across, columns), (&mut slopes, columns));
                    for (i, sum) in sums.iter().enumerate() {
                        let attended = &attended[(first + i) * out_row + query * width..][..width];
                        let dot: f32 = attended.iter().zip(&dy[i * wide..]).map(|(s, d)| s * d).sum();
                        let range = i * columns..i * columns + last;
                        softmax_back(isa, &mut exps[range.clone()], &mut slopes[range], 1.0 / sum, dot);
                    }
                    let product = Product { m, k: last, n: width };
                    product.run(isa, (&slopes, columns), (&of.keys, wide), (&mut dq, wide));
                    put(first, query * width, &dq[..m * wide], self.scale());
                    for (weights, right, sum) in [(&slopes, &q, &mut dk), (&exps, &dy, &mut dv)] {
                        let mut turned = vec![0f32; last * m];
                        for i in 0..m {
                            let line = &weights[i * columns..][..last];
                            line.iter().enumerate().for_each(|(j, v)| turned[j * m + i] = *v);
                        }
                        let product = Product { m: last, k: m, n: width };
                        product.run(isa, (&turned, m), (right, wide), (&mut part, wide));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::arithmetic::noise;
    use crate::kernels::cached_attention::{CacheLayout, Place, Span, append, attend};
    use crate::kernels::heads::Rope;

    #[test]
    fn packed_sequences_attend_as_the_decoder_does() {
        let heads = Heads { queries: 4, keys: 2, width: 24 };
        let lengths = [60, 1, 17];
        for isa in Isa::available() {
            let (mut sequences, mut places, mut spans, mut first) = (Vec::new(), Vec::new(), Vec::new(), 0);
            for (slot, tokens) in lengths.into_iter().enumerate() {
                sequences.push(first..first + tokens);
                spans.push(Span { slot, start: 0, first, tokens });
                places.extend((0..tokens).map(|position| Place { slot, position }));
                first += tokens;
            }
            let mut qkv = noise(first * heads.row(), 3);
            let (layout, rope) = (CacheLayout::new(isa, heads, 60), Rope::new(heads.width, 60, 10_000.0));
            let mut keys = vec![0.0; lengths.len() * heads.keys * layout.keys_per_head()];
            let mut values = vec![0.0; lengths.len() * heads.keys * layout.values_per_head()];
            append(&layout, &rope, None, &places, &mut qkv, &mut keys, &mut values);
            let mut want = vec![0.0; first * heads.queries * heads.width];
            attend(&layout, &spans, &qkv, &keys, &values, &mut want);
            let got = Attention { isa, heads, sequences: &sequences }.forward(&qkv);
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5), "{isa:?}");
        }
    }

    #[test]
    #[should_panic(expected = "sequences must not overlap")]
    fn overlapping_sequences_are_refused() {
        let heads = Heads { queries: 1, keys: 1, width: 4 };
        let attention = Attention { isa: Isa::detect(), heads, sequences: &[0..3, 2..4] };
        attention.forward(&noise(4 * heads.row(), 1));
    }
}
