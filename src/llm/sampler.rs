//! Choosing the next token from logits.
//!
//! Knows logits and a row's seed. The random numbers of a row depend on its seed and its position only, so order, batch
//! and shard never change a row.

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// At most so many tokens; 0 keeps all.
    pub top_k: usize,
    /// Divides (or multiplies) the logits of tokens that were generated already; 1 is off.
    pub repetition_penalty: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, repetition_penalty: 1.0 }
    }
}
