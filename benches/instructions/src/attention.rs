//! Attention: over the key-value cache, over packed sequences with its gradient, and of short sequences by plain loops.

use std::hint::black_box;

use crate::kernels::cached_attention::{CacheLayout, HeadNorms, Place, Span, append, attend, cut};
use crate::kernels::heads::{Heads, Rope};
use crate::kernels::packed_attention::Attention;
use crate::kernels::row_attention::{attend_row, attend_row_back, attend_sentence};
use crate::{Isa, Work, Workload, noise};

/// SmolLM2-135M's.
const HEADS: Heads = Heads { queries: 9, keys: 3, width: 64 };
/// Positions of a slot.
const POSITIONS: usize = 256;

pub(crate) const ALL: &[Workload] = &[
    ("append", appended),
    ("attend-prefill", |isa| attended(isa, 1, 0, 96)),
    ("attend-decode", |isa| attended(isa, 8, 200, 1)),
    ("packed-attention", |isa| packed(isa, false)),
    ("packed-attention-back", |isa| packed(isa, true)),
    ("attend-sentence", sentence),
    ("attend-row", |isa| row(isa, false)),
    ("attend-row-back", |isa| row(isa, true)),
];

/// Keys and values of a prefill into the cache, with norms of heads and rotary positions.
fn appended(isa: Isa) -> Work {
    let (heads, tokens) = black_box((HEADS, 64));
    let (layout, rope) = (CacheLayout::new(isa, heads, POSITIONS), Rope::new(heads.width, POSITIONS, 10_000.0));
    let places: Vec<Place> = (0..tokens).map(|position| Place { slot: 0, position }).collect();
    let (query, key) = (noise(heads.width, 1), noise(heads.width, 2));
    let mut qkv = noise(tokens * heads.row(), 3);
    let mut keys = vec![0.0; heads.keys * layout.keys_per_head()];
    let mut values = vec![0.0; heads.keys * layout.values_per_head()];
    Box::new(move || {
        let norms = Some(HeadNorms { query: &query, key: &key, eps: 1e-5 });
        append(&layout, &rope, norms, &places, &mut qkv, &mut keys, &mut values);
    })
}

/// A step of `slots` rows with `tokens` each, after `start` others; no two rows are equally long.
fn attended(isa: Isa, slots: usize, start: usize, tokens: usize) -> Work {
    let (heads, slots, start, tokens) = black_box((HEADS, slots, start, tokens));
    let layout = CacheLayout::new(isa, heads, POSITIONS);
    let span = |slot| Span { slot, start: start + 5 * slot, first: slot * tokens, tokens };
    let spans = cut(&(0..slots).map(span).collect::<Vec<_>>());
    let qkv = noise(slots * tokens * heads.row(), 1);
    let keys = noise(slots * heads.keys * layout.keys_per_head(), 2);
    let values = noise(slots * heads.keys * layout.values_per_head(), 3);
    let mut out = vec![0.0; slots * tokens * heads.queries * heads.width];
    Box::new(move || attend(&layout, &spans, &qkv, &keys, &values, &mut out))
}

/// Three sequences of which one has a single token.
fn packed(isa: Isa, is_backward: bool) -> Work {
    let (heads, is_backward) = black_box((HEADS, is_backward));
    let sequences = vec![0..60, 60..61, 61..90];
    let (qkv, width) = (noise(90 * heads.row(), 1), heads.queries * heads.width);
    let (attended, dy) = (noise(90 * width, 2), noise(90 * width, 3));
    Box::new(move || {
        let attention = Attention { isa, heads, sequences: &sequences };
        black_box(if is_backward { attention.back(&qkv, &attended, &dy) } else { attention.forward(&qkv) });
    })
}

/// A sentence of 32 tokens in a layer of MiniLM.
fn sentence(isa: Isa) -> Work {
    let [tokens, heads, width] = black_box([32, 12, 32]);
    let (qkv, mut out) = (noise(tokens * 3 * heads * width, 1), vec![0.0; tokens * heads * width]);
    Box::new(move || attend_sentence(isa, &qkv, &mut out, heads, width, 0.177))
}

/// A row of packed histories in a layer of a recommender that learns.
fn row(isa: Isa, is_backward: bool) -> Work {
    let ([heads, width], is_backward) = black_box(([2, 64], is_backward));
    let positions: Vec<u32> = (0..30).chain(0..20).collect();
    let length = positions.len();
    let area = heads * length * length;
    let (qkv, gradient, mask) = (noise(length * 3 * width, 1), noise(length * width, 2), noise(area, 3));
    let (mut out, mut probabilities) = (vec![0.0; length * width], noise(area, 4));
    let mut back = vec![0.0; qkv.len()];
    Box::new(move || {
        if is_backward {
            attend_row_back(isa, &gradient, &qkv, &probabilities, &positions, heads, width, &mask, &mut back);
        } else {
            probabilities.fill(0.0);
            attend_row(isa, &qkv, &positions, heads, width, &mask, &mut out, &mut probabilities);
        }
    })
}
