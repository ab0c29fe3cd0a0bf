//! Causal attention of a decoder's step over the key-value cache: how the cache is laid out, how a step's keys and
//! values get into it, and what its queries read from it.
//!
//! Knows numbers, slots and positions; knows no models. Scores and weighted sums are products by register tiles. **A
//! row's bits depend on that row and its own past only**, whatever stands in the step beside it.

use rayon::prelude::*;

use crate::kernels::heads::{Heads, Rope};
use crate::kernels::isa::Isa;
use crate::kernels::norm::rms_norm_rows;
use crate::kernels::rows::MIN_TASK;
use crate::kernels::softmax::exponentials;
use crate::kernels::tile::{MAX_TILE_ROWS, Shared, for_tiles, tile};

/// How one layer's keys and values lie in the cache.
///
/// Keys stand in blocks of [`Isa::panel`] positions, `[slot][head][block][width][position in block]`, so that scores
/// are a product with packed weights; values stand as `[slot][head][position][padded width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLayout {
    /// The instruction set whose panels it has.
    pub isa: Isa,
    /// Heads of the model.
    pub heads: Heads,
    /// Blocks in a slot.
    pub blocks: usize,
}

impl CacheLayout {
    /// The layout for slots of at least so many positions.
    pub fn new(isa: Isa, heads: Heads, positions: usize) -> Self {
        CacheLayout { isa, heads, blocks: positions.div_ceil(isa.panel()) }
    }

    fn positions(&self) -> usize {
        self.blocks * self.isa.panel()
    }

    fn padded(&self) -> usize {
        self.heads.width.next_multiple_of(self.isa.panel())
    }

    /// Values of one head's keys in one slot.
    pub fn keys_per_head(&self) -> usize {
        self.positions() * self.heads.width
    }

    /// Values of one head's values in one slot.
    pub fn values_per_head(&self) -> usize {
        self.positions() * self.padded()
    }

    /// How much of a head's keys holds the first `len` positions.
    pub fn keys_prefix(&self, len: usize) -> usize {
        len.div_ceil(self.isa.panel()) * self.isa.panel() * self.heads.width
    }

    /// How much of a head's values holds the first `len` positions.
    pub fn values_prefix(&self, len: usize) -> usize {
        len * self.padded()
    }
}

/// A token's place in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Slot.
    pub slot: usize,
    /// Position in the slot.
    pub position: usize,
}

/// Tokens of one row that follow each other: `tokens` rows of the step from `first` on, at `slot` from `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Slot.
    pub slot: usize,
    /// Position of the first token.
    pub start: usize,
    /// Row of the first token in the step.
    pub first: usize,
    /// How many tokens.
    pub tokens: usize,
}

/// Norms of the heads of queries and keys.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorms<'a> {
    /// Weight for queries, one head wide.
    pub query: &'a [f32],
    /// Weight for keys, one head wide.
    pub key: &'a [f32],
    /// Epsilon.
    pub eps: f32,
}

/// Norms and turns the queries and keys of a step, and writes keys and values into the cache.
///
/// `qkv` is `[places.len(), heads.row()]`; its queries are changed in place, ready for [`attend`].
///
/// # Panics
/// Where a place lies outside the cache or stands twice in a step, or a slice has another length.
pub fn append(
    layout: &CacheLayout,
    rope: &Rope,
    norms: Option<HeadNorms<'_>>,
    places: &[Place],
    qkv: &mut [f32],
    keys: &mut [f32],
    values: &mut [f32],
) {
    let (heads, nr, padded) = (layout.heads, layout.isa.panel(), layout.padded());
    let (width, row) = (heads.width, heads.row());
    let (per_keys, per_values) = (layout.keys_per_head(), layout.values_per_head());
    assert!(qkv.len() == places.len() * row, "rows must be whole");
    let slots = keys.len() / (per_keys * heads.keys).max(1);
    assert!(values.len() == slots * heads.keys * per_values, "keys and values must have the same slots");
    assert!(places.iter().all(|p| p.slot < slots && p.position < layout.positions()), "places must be in the cache");
    assert!(are_distinct(places), "a place must stand once in a step");
    let (keys, values) = (Shared::new(keys), Shared::new(values));
    let rows = (MIN_TASK / 4 / row).max(1);
    qkv.par_chunks_mut(rows * row).zip(places.par_chunks(rows)).for_each(|(qkv, places)| {
        let mut normed = vec![0f32; width];
        for (qkv, place) in qkv.chunks_exact_mut(row).zip(places) {
            let (turned, new_values) = qkv.split_at_mut((heads.queries + heads.keys) * width);
            for (h, head) in turned.chunks_exact_mut(width).enumerate() {
                if let Some(norms) = norms {
                    let weight = if h < heads.queries { norms.query } else { norms.key };
                    rms_norm_rows(layout.isa, head, weight, norms.eps, &mut normed);
                    head.copy_from_slice(&normed);
                }
                rope.turn(head, place.position);
            }
            let new_keys = &turned[heads.queries * width..];
            for (h, (key, value)) in new_keys.chunks_exact(width).zip(new_values.chunks_exact(width)).enumerate() {
                let head = place.slot * heads.keys + h;
                let block = head * per_keys + place.position / nr * nr * width + place.position % nr;
                let line = head * per_values + place.position * padded;
                for (d, key) in key.iter().enumerate() {
                    // SAFETY: slot and position were checked to be in the cache, and each place to stand once in the
                    // step, so that this column of the block is written by this task alone.
                    unsafe { *keys.at(block + d * nr) = *key };
                }
                // SAFETY: as for the key: the row lies in the cache and is this task's own.
                unsafe { values.part(line, width) }.copy_from_slice(value);
            }
        }
    });
}

fn are_distinct(places: &[Place]) -> bool {
    let mut sorted: Vec<(usize, usize)> = places.iter().map(|p| (p.slot, p.position)).collect();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| pair[0] != pair[1])
}

/// Cuts spans so that their work spreads over threads.
pub fn cut(spans: &[Span]) -> Vec<Span> {
    const PIECE: usize = 32;
    let mut pieces = Vec::with_capacity(spans.len());
    for span in spans {
        for done in (0..span.tokens).step_by(PIECE) {
            pieces.push(Span {
                start: span.start + done,
                first: span.first + done,
                tokens: PIECE.min(span.tokens - done),
                ..*span
            });
        }
    }
    pieces
}

/// Causal attention of a step's queries over the cache, which holds the step's own keys already (see [`append`]).
///
/// `qkv` is `[n, heads.row()]`, `out` `[n, queries · width]`; spans cover every row once, in order.
///
/// # Panics
/// Where a span lies outside the step or the cache or overlaps the one before it, or a slice has another length.
pub fn attend(layout: &CacheLayout, spans: &[Span], qkv: &[f32], keys: &[f32], values: &[f32], out: &mut [f32]) {
    let (heads, nr, padded, isa) = (layout.heads, layout.isa.panel(), layout.padded(), layout.isa);
    let (width, row) = (heads.width, heads.row());
    let group = heads.queries / heads.keys;
    let out_row = heads.queries * width;
    assert!(qkv.len() / row * out_row == out.len() && qkv.len().is_multiple_of(row), "rows must be whole");
    let (per_keys, per_values) = (layout.keys_per_head(), layout.values_per_head());
    let scale = 1.0 / (width as f32).sqrt();
    let n = out.len() / out_row;
    assert!(
        spans.iter().all(|s| s.first + s.tokens <= n && s.start + s.tokens <= layout.positions()),
        "spans must fit"
    );
    assert!(spans.windows(2).all(|s| s[0].first + s[0].tokens <= s[1].first), "spans must not overlap");
    let out = Shared::new(out);
    let most = isa.tile_rows();
    (0..spans.len() * heads.keys).into_par_iter().for_each_init(Vec::<f32>::new, |scratch, task| {
        let (span, h) = (spans[task / heads.keys], task % heads.keys);
        let head = span.slot * heads.keys + h;
        let keys = &keys[head * per_keys..][..per_keys];
        let values = &values[head * per_values..][..per_values];
        // Scores are as wide as whole blocks.
        let widest = (span.start + span.tokens).next_multiple_of(nr);
        // What is read was written before, so what an earlier task left need not be cleared.
        let rows = most.min(span.tokens * group);
        let needed = rows * (width + widest + padded);
        if scratch.len() < needed {
            scratch.resize(needed, 0.0);
        }
        let (queries, scratch) = scratch.split_at_mut(rows * width);
        let (scores, sums) = scratch.split_at_mut(rows * widest);
        // A tile's rows are the group's heads of one token after the other.
        for_tiles(span.tokens * group, most, |first, height| {
            let place = |i: usize| (span.first + (first + i) / group, (first + i) % group);
            let reach = |i: usize| span.start + (first + i) / group + 1;
            for i in 0..height {
                let (token, g) = place(i);
                let query = &qkv[token * row + (h * group + g) * width..][..width];
                for (q, x) in queries[i * width..].iter_mut().zip(query) {
                    *q = x * scale;
                }
            }
            let len = reach(height - 1);
            let f = tile(isa, height);
            for block in 0..len.div_ceil(nr) {
                let keys = &keys[block * nr * width..][..nr * width];
                // SAFETY: `keys` is a whole block, `queries` holds `height` rows; a row of scores is whole blocks wide,
                // and this block is one of them.
                unsafe {
                    f(width, queries.as_ptr(), width, keys.as_ptr(), nr, scores[block * nr..].as_mut_ptr(), widest)
                };
            }
            let mut norm = [0f32; MAX_TILE_ROWS];
            for i in 0..height {
                norm[i] = 1.0 / exponentials(isa, &mut scores[i * widest..][..len], reach(i));
            }
            for column in (0..padded).step_by(nr) {
                let values = &values[column..];
                // SAFETY: the slot holds `len` positions, which the spans were checked for; `column` and a panel lie
                // inside the padded width of values and sums; `scores` holds `height` rows.
                unsafe {
                    f(len, scores.as_ptr(), widest, values.as_ptr(), padded, sums[column..].as_mut_ptr(), padded)
                };
            }
            for i in 0..height {
                let (token, g) = place(i);
                // SAFETY: spans lie in the step and do not overlap, and each task has a key head with its query heads:
                // this part is the task's own.
                let out = unsafe { out.part(token * out_row + (h * group + g) * width, width) };
                for (o, s) in out.iter_mut().zip(&sums[i * padded..]) {
                    *o = s * norm[i];
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::arithmetic::noise;

    /// Attention of one row in f64, from unturned queries, keys and values.
    fn exact(heads: Heads, rope: &Rope, qkv: &[f32]) -> Vec<f64> {
        let (width, row) = (heads.width, heads.row());
        let n = qkv.len() / row;
        let head = |t: usize, h: usize, turn: bool| -> Vec<f64> {
            let mut x = qkv[t * row + h * width..][..width].to_vec();
            if turn {
                rope.turn(&mut x, t);
            }
            x.into_iter().map(f64::from).collect()
        };
        let mut out = Vec::new();
        for t in 0..n {
            for h in 0..heads.queries {
                let kv = h / (heads.queries / heads.keys);
                let q = head(t, h, true);
                let dot = |p: usize| -> f64 {
                    head(p, heads.queries + kv, true).iter().zip(&q).map(|(a, b)| a * b).sum::<f64>()
                        / (width as f64).sqrt()
                };
                let weights: Vec<f64> = (0..=t).map(|p| dot(p).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..width {
                    let value = |p: usize| head(p, heads.queries + heads.keys + kv, false)[d];
                    out.push((0..=t).map(|p| weights[p] * value(p)).sum::<f64>() / total);
                }
            }
        }
        out
    }

    #[test]
    fn attention_is_right_whole_in_chunks_and_beside_others() {
        for isa in Isa::available() {
            for heads in [
                Heads { queries: 9, keys: 3, width: 64 },
                Heads { queries: 4, keys: 1, width: 16 },
                Heads { queries: 2, keys: 2, width: 24 },
            ] {
                let (n, row) = (75, heads.row());
                let layout = CacheLayout::new(isa, heads, 80);
                let rope = Rope::new(heads.width, 80, 10_000.0);
                let qkv = noise(n * row, 7);
                let want = exact(heads, &rope, &qkv);
                let run = |slots: usize, slot: usize, chunks: &[usize]| -> Vec<f32> {
                    // Whatever a slot held before, even what is not a number, must not show.
                    let mut keys = vec![f32::NAN; slots * heads.keys * layout.keys_per_head()];
                    let mut values = vec![f32::NAN; slots * heads.keys * layout.values_per_head()];
                    let (mut out, mut start) = (Vec::new(), 0);
                    for &tokens in chunks {
                        let mut spans = Vec::new();
                        let (mut step, mut places) = (Vec::new(), Vec::new());
                        for s in 0..slots {
                            let tokens = if s == slot { tokens } else { 1 };
                            spans.push(Span { slot: s, start, first: places.len(), tokens });
                            places.extend((0..tokens).map(|i| Place { slot: s, position: start + i }));
                            match s == slot {
                                true => step.extend_from_slice(&qkv[start * row..(start + tokens) * row]),
                                false => step.extend(noise(row, 100 + s as u64)),
                            }
                        }
                        let mut attended = vec![0.0; places.len() * heads.queries * heads.width];
                        append(&layout, &rope, None, &places, &mut step, &mut keys, &mut values);
                        if slots > 1 && start > 0 {
                            // Neighbours of this test have no past; give them some.
                            for s in (0..slots).filter(|s| *s != slot) {
                                let size = heads.keys * layout.keys_per_head();
                                keys[s * size..(s + 1) * size].fill(0.25);
                                let size = heads.keys * layout.values_per_head();
                                values[s * size..(s + 1) * size].fill(0.25);
                            }
                        }
                        attend(&layout, &cut(&spans), &step, &keys, &values, &mut attended);
                        let first = spans[slot].first * heads.queries * heads.width;
                        out.extend_from_slice(&attended[first..][..tokens * heads.queries * heads.width]);
                        start += tokens;
                    }
                    out
                };
                let whole = run(1, 0, &[n]);
                for (got, want) in whole.iter().zip(&want) {
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{isa:?} {heads:?}: {got} {want}");
                }
                for (slots, slot, chunks) in
                    [(1, 0, vec![1; n]), (1, 0, vec![10, 33, 32]), (3, 1, vec![40, 1, 34]), (2, 1, vec![n])]
                {
                    let other = run(slots, slot, &chunks);
                    let same = whole.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same && whole.len() == other.len(), "{isa:?} {heads:?} {slots} {chunks:?}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "a place must stand once in a step")]
    fn a_place_that_stands_twice_is_refused() {
        let heads = Heads { queries: 1, keys: 1, width: 4 };
        let layout = CacheLayout::new(Isa::detect(), heads, 4);
        let (mut keys, mut values) = (vec![0.0; layout.keys_per_head()], vec![0.0; layout.values_per_head()]);
        let places = [Place { slot: 0, position: 1 }; 2];
        let rope = Rope::new(4, 4, 10_000.0);
        append(&layout, &rope, None, &places, &mut noise(2 * heads.row(), 1), &mut keys, &mut values);
    }
}
