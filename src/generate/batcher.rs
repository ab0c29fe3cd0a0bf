//! Token-budget batches over a decoder's slots.
//!
//! Knows token ids, slots and shared prefixes. Knows nothing of threads, SQL or where prompts come from.

use crate::llm::sampler::Sampling;

/// One row to generate for, or to score.
#[derive(Debug, Clone)]
pub struct Request {
    /// The caller's number for the row.
    pub id: u64,
    /// Prompt, token ids.
    pub prompt: Vec<u32>,
    /// At most so many new tokens.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Seed of the row.
    pub seed: [u8; 32],
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Score these tokens after the prompt instead of generating.
    pub score: Option<Vec<u32>>,
}

/// Why a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end-of-text token or a stop text.
    Stop,
    /// `max_new_tokens`.
    Length,
}

impl Finish {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// A finished row.
#[derive(Debug, Clone)]
pub struct Completion {
    /// The request's number.
    pub id: u64,
    /// Generated (or scored) tokens, without the end-of-text token.
    pub tokens: Vec<u32>,
    /// Their text, cut before a stop text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Sum of natural-log probabilities of the tokens under the model's unmodified distribution.
    pub logprob_sum: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Prompt tokens whose prefill was shared with another row.
    pub cached_tokens: u32,
    /// Tokens generated, the end-of-text token included.
    pub completion_tokens: u32,
}

/// Why a row failed. Never stops a run by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowError {
    /// Prompt and answer do not fit the context.
    TooLong {
        /// Tokens needed.
        tokens: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// The prompt has no tokens.
    Empty,
    /// The tokens are not valid UTF-8 text.
    InvalidUtf8,
    /// The device failed.
    Device(String),
    /// The run was stopped before the row was done.
    Cancelled,
}

impl RowError {
    /// Stable code for the `error` column.
    pub fn code(&self) -> &'static str {
        match self {
            RowError::TooLong { .. } => "too_long",
            RowError::Empty => "empty",
            RowError::InvalidUtf8 => "invalid_utf8",
            RowError::Device(_) => "device_error",
            RowError::Cancelled => "cancelled",
        }
    }
}

impl std::fmt::Display for RowError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RowError::TooLong { tokens, limit } => write!(f, "prompt and answer need {tokens} tokens, {limit} fit"),
            RowError::Empty => f.write_str("the prompt is empty"),
            RowError::InvalidUtf8 => f.write_str("the answer is not valid UTF-8"),
            RowError::Device(why) => write!(f, "the device failed: {why}"),
            RowError::Cancelled => f.write_str("stopped before the row was done"),
        }
    }
}
