//! The causal decoder: what a batcher asks of it, and the Burn model behind it.
//!
//! Knows nothing of tokenizers, prompts, SQL or files.

use crate::error::Result;

/// Which positions of a row's step need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantLogits {
    /// None: the step only fills the cache.
    None,
    /// The last position.
    Last,
    /// Every position, in order.
    All,
}

/// One row's part of a step: `tokens` are appended to the row's slot at position `start`.
#[derive(Debug, Clone, Copy)]
pub struct RowStep<'a> {
    /// The cache slot.
    pub slot: usize,
    /// How many positions of the slot are already filled; later ones are overwritten.
    pub start: usize,
    /// At least one token.
    pub tokens: &'a [u32],
    /// Which logits come back.
    pub want_logits: WantLogits,
}

/// Logits of the wanted positions, in the order of the rows and, within a row, of its positions.
#[derive(Debug, Clone)]
pub struct Logits {
    /// Values per position.
    pub vocab: usize,
    /// `[positions, vocab]`, row-major.
    pub data: Vec<f32>,
}

impl Logits {
    /// The logits of the `i`-th wanted position, or an empty slice where there is none.
    pub fn row(&self, i: usize) -> &[f32] {
        self.data.get(i * self.vocab..(i + 1) * self.vocab).unwrap_or(&[])
    }
}

/// What the batcher needs of a model, and no more.
pub trait Decoder: Send {
    /// Values in a row of logits.
    fn vocab_size(&self) -> usize;
    /// Positions that one slot can hold.
    fn max_positions(&self) -> usize;
    /// Rows that can be in flight.
    fn slots(&self) -> usize;
    /// Runs the rows' tokens through the model in one pass. A slot stands in at most one row of a step.
    fn step(&mut self, rows: &[RowStep]) -> Result<Logits>;
    /// Copies the first `len` cached positions of slot `from` to slot `to`.
    fn copy_prefix(&mut self, from: usize, to: usize, len: usize) -> Result<()>;
}
