//! Attention of short sequences by plain loops: of a sentence over itself, and of a row of packed histories, forwards
//! and backwards.
//!
//! Knows numbers only. Sequences are short and heads narrow here, so that products by register tiles would not pay.
//! Keys are transposed first: the scores of one query against all keys are then sums of whole vectors. One row or
//! sentence is worked on by one thread; its bits depend on its own tokens only.

use crate::kernels::arithmetic::{add_scaled, exp, exp_in_encoder, strand_dot};
use crate::kernels::heads::across;
use crate::kernels::isa::per_isa;
use crate::kernels::softmax::exponentials_by;

#[inline(always)]
fn attend_sentence_body<const FMA: bool>(qkv: &[f32], out: &mut [f32], heads: usize, head_dim: usize, scale: f32) {
    let width = heads * head_dim;
    let (row, tokens) = (3 * width, out.len() / width);
    let mut weights = vec![0.0f32; tokens];
    for head in 0..heads {
        let at = head * head_dim;
        let keys = across(qkv, row, width + at, head_dim, tokens, scale);
        for (token, out) in out.chunks_exact_mut(width).enumerate() {
            weights.fill(0.0);
            for (&q, keys) in qkv[token * row + at..][..head_dim].iter().zip(keys.chunks_exact(tokens)) {
                add_scaled::<FMA>(&mut weights, q, keys);
            }
            let (_, total) = exponentials_by(&mut weights, exp_in_encoder::<FMA>);
            let out = &mut out[at..at + head_dim];
            for (qkv, &w) in qkv.chunks_exact(row).zip(&weights) {
                add_scaled::<FMA>(out, w / total, &qkv[2 * width + at..][..head_dim]);
            }
        }
    }
}

per_isa! {
    /// Attention of one sentence, every token over all of it: `[tokens, 3, heads, head_dim]` to
    /// `[tokens, heads, head_dim]`, added to `out`.
    pub(crate) fn attend_sentence = attend_sentence_body::<FUSES_ON_ARM>(
        qkv: &[f32], out: &mut [f32], heads: usize, head_dim: usize, scale: f32,
    )
}

/// `out[j] += Σ_c x[c] · turned[c][j]` for the tokens of `seen`.
#[inline(always)]
fn products<const FMA: bool>(x: &[f32], turned: &[f32], seen: std::ops::Range<usize>, out: &mut [f32]) {
    let length = turned.len() / x.len();
    for (x, line) in x.iter().zip(turned.chunks_exact(length)) {
        add_scaled::<FMA>(out, *x, &line[seen.clone()]);
    }
}

#[inline(always)]
fn attend_row_body<const FMA: bool>(
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
        let keys = across(qkv, row, width + h * head, head, length, 1.0);
        for (i, position) in positions.iter().enumerate() {
            let seen = i - *position as usize..i + 1;
            let line = (h * length + i) * length;
            let p = &mut probabilities[line + seen.start..line + seen.end];
            products::<FMA>(&qkv[i * row + h * head..][..head], &keys, seen.clone(), p);
            p.iter_mut().for_each(|p| *p *= scale);
            let (_, all) = exponentials_by(p, exp::<FMA>);
            p.iter_mut().for_each(|p| *p /= all);
            let out = &mut out[i * width + h * head..][..head];
            for (j, p) in seen.zip(p) {
                let kept = mask.get(line + j).map_or(*p, |m| *p * m);
                add_scaled::<FMA>(out, kept, &qkv[j * row + 2 * width + h * head..][..head]);
            }
        }
    }
}

per_isa! {
    /// Causal attention of one row of packed sequences. `qkv` is `[length, 3 · width]`, queries first; `positions`
    /// count from the start of a token's sequence and say how far back it looks; `mask` is the dropout of the
    /// probabilities, empty for none. Adds the heads' results to `out` `[length, width]` and the probabilities, before
    /// dropout, to `probabilities` `[heads, length, length]`; both must be zero before.
    pub(crate) fn attend_row = attend_row_body::<FUSES_ON_ARM>(
        qkv: &[f32], positions: &[u32], heads: usize, width: usize, mask: &[f32], out: &mut [f32],
        probabilities: &mut [f32],
    )
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn attend_row_back_body<const FMA: bool>(
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
        let values = across(qkv, row, 2 * width + h * head, head, length, 1.0);
        for (i, position) in positions.iter().enumerate() {
            let seen = i - *position as usize..i + 1;
            let line = (h * length + i) * length;
            let p = &probabilities[line + seen.start..line + seen.end];
            let gradient = &gradient[i * width + h * head..][..head];
            let scores = &mut on_scores[..p.len()];
            scores.fill(0.0);
            products::<FMA>(gradient, &values, seen.clone(), scores);
            if !mask.is_empty() {
                scores.iter_mut().zip(&mask[line + seen.start..]).for_each(|(s, m)| *s *= m);
            }
            let along = strand_dot(scores, p);
            scores.iter_mut().zip(p).for_each(|(s, p)| *s = (*s - along) * p * scale);
            for ((j, p), s) in seen.zip(p).zip(scores) {
                let kept = mask.get(line + j).map_or(*p, |m| *p * m);
                let (query, key, value) =
                    (i * row + h * head, j * row + width + h * head, j * row + 2 * width + h * head);
                add_scaled::<FMA>(&mut out[value..][..head], kept, gradient);
                add_scaled::<FMA>(&mut out[query..][..head], *s, &qkv[key..][..head]);
                add_scaled::<FMA>(&mut out[key..][..head], *s, &qkv[query..][..head]);
            }
        }
    }
}

per_isa! {
    /// The backward pass of [`attend_row`]: adds the gradient of `qkv` to `out`, given that of its results and the
    /// probabilities that it left.
    pub(crate) fn attend_row_back = attend_row_back_body::<FUSES_ON_ARM>(
        gradient: &[f32], qkv: &[f32], probabilities: &[f32], positions: &[u32], heads: usize, width: usize,
        mask: &[f32], out: &mut [f32],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::arithmetic::noise;
    use crate::kernels::isa::{Isa, Level};

    #[test]
    fn fused_and_portable_attention_agree() {
        let (tokens, heads, head_dim) = (11, 2, 12);
        let qkv: Vec<f32> = (0..tokens * 3 * 24).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
        let mut portable = vec![0.0; tokens * 24];
        attend_sentence_body::<false>(&qkv, &mut portable, heads, head_dim, 0.3);
        let mut fused: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let mut out = vec![0.0; tokens * 24];
            attend_sentence(isa, &qkv, &mut out, heads, head_dim, 0.3);
            assert!(out.iter().zip(&portable).all(|(a, b)| (a - b).abs() < 1e-5), "{isa:?}");
            if isa.level() != Level::Portable {
                assert_eq!(fused.get_or_insert_with(|| out.clone()), &out, "{isa:?}");
            }
        }
    }

    /// Forwards and backwards give the same bits on every instruction set that fuses, and nearly the same elsewhere.
    #[test]
    fn rows_attend_alike_on_every_instruction_set() {
        let (heads, width) = (2, 24);
        let positions = [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0];
        let (length, area) = (positions.len(), heads * positions.len() * positions.len());
        let (qkv, gradient, mask) = (noise(length * 3 * width, 1), noise(length * width, 2), noise(area, 3));
        let run = |isa: Isa| {
            let (mut out, mut probabilities) = (vec![0.0; length * width], vec![0.0; area]);
            attend_row(isa, &qkv, &positions, heads, width, &mask, &mut out, &mut probabilities);
            let mut back = vec![0.0; qkv.len()];
            attend_row_back(isa, &gradient, &qkv, &probabilities, &positions, heads, width, &mask, &mut back);
            [out, probabilities, back].concat()
        };
        let all: Vec<(Isa, Vec<f32>)> = Isa::available().into_iter().map(|isa| (isa, run(isa))).collect();
        for (isa, values) in &all {
            assert!(values.iter().zip(&all[0].1).all(|(a, b)| (a - b).abs() < 1e-5), "{isa:?}");
            assert!(isa.level() == Level::Portable || *values == all[0].1, "{isa:?}");
        }
    }
}
