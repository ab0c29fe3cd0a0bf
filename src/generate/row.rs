//! A row: the question or request to the model, the progress of its answer, and the final answer or error.
//!
//! Knows tokens, stop texts and log-probabilities of one row. Knows nothing of slots, batches or other rows.

use crate::error::Result;
use crate::generate::copying::Copying;
use crate::llm::grammar::Guide;
use crate::llm::sampler::{self, Sampling};

/// The least temperature at which a refused answer is asked for again.
pub(super) const AGAIN_TEMPERATURE: f32 = 0.7;
/// The nucleus that it is drawn from then.
pub(super) const AGAIN_TOP_P: f32 = 0.9;

/// One row to generate for, or to score.
#[derive(Debug, Clone)]
pub struct Request {
    /// The caller's id of the row.
    pub id: u64,
    /// Prompt, token ids.
    pub prompt: Vec<u32>,
    /// Maximum number of new tokens; not used by a scored row.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Seed of the row.
    pub seed: [u8; 32],
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Score these tokens after the prompt instead of generating.
    pub score: Option<Vec<u32>>,
    /// What the answer is held to; a scored row is held to nothing.
    pub guide: Option<Guide>,
}

/// Why a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end-of-text token, a stop text, or the end of a form that the answer is held to.
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
    /// The request's id.
    pub id: u64,
    /// Generated (or scored) tokens, without the end-of-text token but with those of a stop text.
    pub tokens: Vec<u32>,
    /// Their text, cut before a stop text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Sum of natural-log probabilities of the tokens under the model's unmodified distribution.
    pub logprob_sum: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Prompt tokens whose prefill was shared with another row. Depends on scheduling.
    pub cached_tokens: u32,
    /// Tokens generated (the end-of-text token included) or scored.
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
    /// The prompt has no tokens: it is blank except for control tokens.
    Empty,
    /// The tokens are not valid UTF-8 text.
    InvalidUtf8,
    /// The device failed.
    Device(String),
    /// The endpoint refuses this prompt, and what it says of it.
    ServerRefused(String),
    /// The endpoint fails on this prompt and answers others, and what it says of it.
    ServerError(String),
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
            RowError::ServerRefused(_) => "server_refused",
            RowError::ServerError(_) => "server_error",
            RowError::Cancelled => "cancelled",
        }
    }
}

impl std::fmt::Display for RowError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RowError::TooLong { tokens, limit } => write!(f, "prompt and answer need {tokens} tokens, {limit} fit"),
            RowError::Empty => f.write_str("the prompt says nothing"),
            RowError::InvalidUtf8 => f.write_str("the answer is not valid UTF-8"),
            RowError::Device(why) => write!(f, "the device failed: {why}"),
            RowError::ServerRefused(what) => write!(f, "the endpoint refused the prompt: {what}"),
            RowError::ServerError(what) => write!(f, "the endpoint failed on the prompt: {what}"),
            RowError::Cancelled => f.write_str("stopped before the row was done"),
        }
    }
}

/// A prompt to be answered, by whichever model.
#[derive(Debug, Clone)]
pub struct Question {
    /// The question.
    pub prompt: String,
    /// How the answer begins.
    pub stem: String,
    /// 1 the first time; more where the answers before it were refused.
    pub attempt: u32,
}

/// What a model wrote.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its text, after the stem.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Sum of the log-likelihoods of its tokens; none where a server does not tell them.
    pub logprob_sum: Option<f64>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of those, such as were at hand.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
}

impl From<Completion> for Written {
    fn from(completion: Completion) -> Written {
        let Completion { text, finish, logprob_sum, prompt_tokens, cached_tokens, completion_tokens, .. } = completion;
        let logprob_sum = Some(logprob_sum);
        Written { text, finish, logprob_sum, prompt_tokens, cached_tokens, completion_tokens }
    }
}

/// What became of a question.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The question's place among those that were asked together.
    pub id: usize,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// What was written, or why nothing was.
    pub result: Result<Written, RowError>,
}

/// A request's id and its result.
pub type Answer = (u64, Result<Completion, RowError>);

/// Text of token ids: all that the batcher needs of a tokenizer.
pub trait Detokenize: Send + Sync {
    /// The text of `ids` without special tokens; bytes that are not (yet) UTF-8 come out as U+FFFD.
    fn decode(&self, ids: &[u32]) -> Result<String>;
}

/// The replacement character for bytes that are not UTF-8.
pub(super) const NOT_UTF8: char = '\u{FFFD}';

/// One row, from its arrival to its answer.
pub(super) struct Row {
    pub(super) ticket: u64,
    pub(super) id: u64,
    /// The model's input: the prompt, then the generated tokens (or all scored tokens but the last).
    pub(super) ids: Vec<u32>,
    pub(super) prompt_len: usize,
    pub(super) score: Option<Vec<u32>>,
    pub(super) scored: usize,
    pub(super) max_new_tokens: usize,
    pub(super) sampling: Sampling,
    pub(super) seed: [u8; 32],
    pub(super) stop: Vec<String>,
    pub(super) logprob_sum: f64,
    /// `None` until the row is started for the first time.
    pub(super) cached_tokens: Option<u32>,
    pub(super) deferred: u32,
    pub(super) slot: usize,
    /// Where the answer must not copy; `None` until its first token.
    pub(super) copying: Option<Copying>,
    /// What the answer is held to.
    pub(super) guide: Option<Guide>,
}

/// Why a row ended, before its answer is made.
pub(super) enum End {
    Token,
    /// The form that the answer is held to is filled in.
    Whole,
    StopText(String),
    Length,
    Failed(RowError),
}

impl Row {
    pub(super) fn generated(&self) -> &[u32] {
        if self.score.is_some() { &[] } else { &self.ids[self.prompt_len..] }
    }

    /// Tokens that the next one must not be.
    pub(super) fn held_back(&self) -> Vec<u32> {
        let held = |copying: &Copying| copying.held_back(&self.ids[..self.prompt_len], self.generated());
        self.copying.as_ref().map(held).unwrap_or_default()
    }

    /// Reads the prompt's words where the answer must not copy them; a tokenizer that cannot tell them holds nothing back.
    pub(super) fn read_words(&mut self, text: &dyn Detokenize) {
        let most = self.sampling.max_copied_words;
        if most > 0 && self.score.is_none() && self.copying.is_none() {
            let prompt = &self.ids[..self.prompt_len];
            let words = Copying::of(prompt, most, |ids| text.decode(ids));
            self.copying = Some(words.unwrap_or_else(|_| Copying::none(prompt)));
        }
    }

    /// Looks up what the next token may be, where the answer is held to a form.
    pub(super) fn look(&mut self) {
        self.guide.iter_mut().for_each(Guide::look);
    }

    /// The next token, from its logits.
    pub(super) fn choose(&self, logits: &[f32]) -> Option<sampler::Chosen> {
        let new = self.generated();
        let position = new.len() as u64;
        let choose = |among: Option<&[u32]>, said: &[u32]| {
            sampler::choose_beside(logits, &self.sampling, among, &self.held_back(), said, &self.seed, position)
        };
        match &self.guide {
            Some(guide) => choose(Some(guide.allowed()), &guide.said(new)),
            None => choose(None, new),
        }
    }

    /// Why no token could be chosen.
    pub(super) fn nothing_chosen(&self) -> RowError {
        let why = self.guide.as_ref().and_then(Guide::failure);
        let of_form = why.map(|why| format!("the answer cannot be held to its form: {why}"));
        RowError::Device(of_form.unwrap_or_else(|| "the model's logits are not finite".into()))
    }

    /// How many positions may be copied from another slot: at least one must be computed for the first logits.
    pub(super) fn shareable(&self) -> &[u32] {
        let end = if self.score.is_some() { self.prompt_len } else { self.ids.len() };
        &self.ids[..end - 1]
    }

    pub(super) fn finish(self, finish: Finish, text: Result<String, RowError>, ended_by_token: bool) -> Answer {
        let tokens = match self.score {
            Some(score) => score,
            None => self.ids[self.prompt_len..].to_vec(),
        };
        let completion = text.map(|text| Completion {
            id: self.id,
            text,
            finish,
            logprob_sum: self.logprob_sum,
            prompt_tokens: self.prompt_len as u32,
            cached_tokens: self.cached_tokens.unwrap_or(0),
            completion_tokens: tokens.len() as u32 + u32::from(ended_by_token),
            tokens,
        });
        (self.id, completion)
    }

    /// Adds the next token; returns whether the row has ended.
    pub(super) fn take(&mut self, chosen: sampler::Chosen, eos_ids: &[u32], text: &dyn Detokenize) -> Option<End> {
        if let Some(score) = &self.score {
            self.logprob_sum += chosen.logprob;
            self.scored += 1;
            return (self.scored == score.len()).then_some(End::Length);
        }
        if eos_ids.contains(&chosen.token) {
            return Some(End::Token);
        }
        self.ids.push(chosen.token);
        self.logprob_sum += chosen.logprob;
        match self.guide.as_mut().map(|guide| guide.take(chosen.token)) {
            Some(Ok(true)) => return Some(End::Whole),
            Some(Err(why)) => return Some(End::Failed(RowError::Device(why))),
            Some(Ok(false)) | None => {}
        }
        if !self.stop.is_empty() {
            // Decodes all tokens again: a character may span several of them, and answers are short.
            match text.decode(self.generated()) {
                Ok(mut text) => {
                    if let Some(cut) = self.stop.iter().filter_map(|stop| text.find(stop)).min() {
                        text.truncate(cut);
                        return Some(End::StopText(text));
                    }
                }
                Err(_) => return Some(End::Failed(RowError::InvalidUtf8)),
            }
        }
        (self.generated().len() >= self.max_new_tokens).then_some(End::Length)
    }

    /// The answer's text; an unfinished character at its end is cut off.
    pub(super) fn text(&self, text: &dyn Detokenize) -> Result<String, RowError> {
        match &self.score {
            Some(score) => text.decode(score).map_err(|_| RowError::InvalidUtf8),
            None => {
                let mut decoded = text.decode(self.generated()).map_err(|_| RowError::InvalidUtf8)?;
                decoded.truncate(decoded.trim_end_matches(NOT_UTF8).len());
                whole(decoded)
            }
        }
    }
}

/// The text, unless it holds bytes that are not UTF-8.
pub(super) fn whole(text: String) -> Result<String, RowError> {
    if text.contains(NOT_UTF8) { Err(RowError::InvalidUtf8) } else { Ok(text) }
}
