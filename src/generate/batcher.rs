//! Token-budget batches over a decoder's slots.
//!
//! Every step runs at most `max_step_tokens` tokens: first one token of every row that is decoding, then chunks of the
//! prompts that wait. A slot is refilled as soon as its row is done. What a slot has cached stays there until it is
//! overwritten, so a prompt starts from a copy of the longest prefix that any slot holds, and a row whose prefix is
//! just being prefilled by another one waits for it instead of doing it again.
//!
//! Scheduling decides when a token is computed and how much of a prompt was cached, never which token comes out.
//! Knows token ids, slots and shared prefixes. Knows nothing of threads, SQL, tokenizers or where prompts come from.

use std::collections::VecDeque;

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::llm::decoder::{Decoder, RowStep, WantLogits};
use crate::llm::sampler::{self, Sampling};

/// One row to generate for, or to score.
#[derive(Debug, Clone)]
pub struct Request {
    /// The caller's number for the row.
    pub id: u64,
    /// Prompt, token ids.
    pub prompt: Vec<u32>,
    /// At most so many new tokens; not used by a row that is scored.
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
    /// Generated (or scored) tokens, without the end-of-text token; those of a stop text are among them.
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
    /// The prompt has no tokens: it says nothing besides white space and control tokens.
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
            RowError::Empty => f.write_str("the prompt says nothing"),
            RowError::InvalidUtf8 => f.write_str("the answer is not valid UTF-8"),
            RowError::Device(why) => write!(f, "the device failed: {why}"),
            RowError::Cancelled => f.write_str("stopped before the row was done"),
        }
    }
}

/// A request's number and what became of it.
pub type Answer = (u64, Result<Completion, RowError>);

/// Text of token ids: the one thing that the batcher asks of a tokenizer.
pub trait Detokenize: Send + Sync {
    /// The text of `ids` without special tokens; bytes that are not (yet) UTF-8 come out as U+FFFD.
    fn decode(&self, ids: &[u32]) -> Result<String>;
}

/// What the batcher may use.
#[derive(Debug, Clone)]
pub struct BatcherOptions {
    /// Tokens per step over all rows, at least 1.
    pub max_step_tokens: usize,
    /// Tokens that end a text.
    pub eos_ids: Vec<u32>,
}

/// Counts since the batcher was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens of the rows that were started.
    pub prompt_tokens: u64,
    /// Those of them that were copied instead of prefilled.
    pub cached_tokens: u64,
    /// Tokens generated or scored.
    pub completion_tokens: u64,
    /// Rows answered with a completion.
    pub rows_done: u64,
    /// Rows answered with an error.
    pub rows_failed: u64,
    /// Passes through the model.
    pub steps: u64,
}

/// A shorter common prefix is not worth a copy.
const MIN_SHARED: usize = 8;
/// Positions of one scored row whose logits are held at a time ...
const SCORE_CHUNK: usize = 64;
/// ... and of all scored rows of a step: 48 MiB at a vocabulary of 49152.
const MAX_STEP_SCORES: usize = 256;
/// How often a row gives way to a prefix that is being prefilled before it starts on its own.
const MAX_DEFERRED: u32 = 256;
/// What stands in decoded text for bytes that are not UTF-8.
const NOT_UTF8: char = '\u{FFFD}';

/// One row, from its arrival to its answer.
struct Row {
    ticket: u64,
    id: u64,
    /// What is fed to the model: the prompt, then the generated tokens (or all scored tokens but the last).
    ids: Vec<u32>,
    prompt_len: usize,
    score: Option<Vec<u32>>,
    scored: usize,
    max_new_tokens: usize,
    sampling: Sampling,
    seed: [u8; 32],
    stop: Vec<String>,
    logprob_sum: f64,
    /// `None` until the row is started for the first time.
    cached_tokens: Option<u32>,
    deferred: u32,
    slot: usize,
}

impl Row {
    fn generated(&self) -> &[u32] {
        if self.score.is_some() { &[] } else { &self.ids[self.prompt_len..] }
    }

    /// How many positions may come from another slot: at least one must be computed for the first logits.
    fn shareable(&self) -> &[u32] {
        let end = if self.score.is_some() { self.prompt_len } else { self.ids.len() };
        &self.ids[..end - 1]
    }

    fn finish(self, finish: Finish, text: Result<String, RowError>, ended_by_token: bool) -> Answer {
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
}

/// A slot of the decoder's cache and what is in it.
#[derive(Default)]
struct Slot {
    /// The tokens whose positions are cached.
    tokens: Vec<u32>,
    busy: bool,
    /// Length of the longest prefix that other rows shared with this slot, or that the next waiting one will.
    hot: usize,
    last_used: u64,
}

/// A row's part of the step being planned.
struct Part {
    /// Index into the active rows.
    row: usize,
    len: usize,
    want: WantLogits,
}

/// Continuous batching over the slots of one decoder.
pub struct Batcher {
    max_step_tokens: usize,
    eos_ids: Vec<u32>,
    positions: usize,
    vocab: usize,
    slots: Vec<Slot>,
    waiting: VecDeque<Row>,
    /// In order of admission.
    active: Vec<Row>,
    /// Tickets of the rows that the step under way touches.
    in_step: Vec<u64>,
    done: Vec<Answer>,
    usage: Usage,
    clock: u64,
    next_ticket: u64,
}

impl Batcher {
    /// A batcher for `decoder`, whose slots it assumes to be empty.
    pub fn new(decoder: &dyn Decoder, options: BatcherOptions) -> Self {
        let max_step_tokens = options.max_step_tokens.max(1);
        // A step must be able to hold one token of every row, or decoding rows could starve the others.
        let slots = decoder.slots().clamp(1, max_step_tokens);
        Batcher {
            max_step_tokens,
            eos_ids: options.eos_ids,
            positions: decoder.max_positions(),
            vocab: decoder.vocab_size(),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            waiting: VecDeque::new(),
            active: Vec::new(),
            in_step: Vec::new(),
            done: Vec::new(),
            usage: Usage::default(),
            clock: 0,
            next_ticket: 0,
        }
    }

    /// Takes rows in. Those that cannot be run are answered at once; the others are put in groups of a common prefix,
    /// the group that holds the oldest row first, behind all rows that wait already. Ids should be unique among the
    /// rows in flight, or [`Batcher::cancel`] cannot tell them apart.
    pub fn push(&mut self, requests: Vec<Request>) {
        let mut rows = Vec::with_capacity(requests.len());
        for request in requests {
            match self.row(request) {
                Ok(row) => rows.push(row),
                Err(answer) => self.answer(answer),
            }
        }
        rows.sort_by(|a, b| a.ids.cmp(&b.ids));
        let mut groups: Vec<Vec<Row>> = Vec::new();
        for row in rows {
            match groups.last_mut() {
                Some(group) if group.last().is_some_and(|last| common_prefix(&last.ids, &row.ids) >= MIN_SHARED) => {
                    group.push(row);
                }
                _ => groups.push(vec![row]),
            }
        }
        groups.sort_by_key(|group| group.iter().map(|row| row.ticket).min());
        self.waiting.extend(groups.into_iter().flatten());
    }

    /// Runs one step: fills free slots, runs the model once, and answers the rows that are done.
    ///
    /// # Errors
    /// What the decoder says. The rows stay as they were before the step; the caller goes on with
    /// [`Batcher::shrink`] or [`Batcher::fail_step`].
    pub fn step(&mut self, decoder: &mut dyn Decoder, text: &dyn Detokenize) -> Result<()> {
        self.admit(decoder)?;
        let parts = self.plan();
        self.in_step = parts.iter().map(|part| self.active[part.row].ticket).collect();
        if parts.is_empty() {
            return Ok(());
        }
        let rows: Vec<RowStep<'_>> = parts
            .iter()
            .map(|part| {
                let row = &self.active[part.row];
                let start = self.slots[row.slot].tokens.len();
                let tokens = &row.ids[start..start + part.len];
                RowStep { slot: row.slot, start, tokens, want_logits: part.want }
            })
            .collect();
        let logits = decoder.step(&rows)?;
        let positions: usize = parts.iter().map(wanted).sum();
        if logits.vocab != self.vocab || logits.data.len() != positions * self.vocab {
            return Err(Error::new(Kind::Internal, "the decoder returned logits of another shape than asked for")
                .with("wanted", format!("{positions} x {}", self.vocab))
                .with("got", format!("{} of vocabulary {}", logits.data.len(), logits.vocab)));
        }
        self.usage.steps += 1;
        self.clock += 1;
        self.advance(&parts, &logits.data, text);
        Ok(())
    }

    /// The answers since the last call, every request exactly once.
    pub fn drain(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.done)
    }

    /// Whether no row is in flight.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty() && self.waiting.is_empty()
    }

    /// Rows that have not been started.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Slots that rows may use.
    pub fn slots_in_use(&self) -> usize {
        self.slots.len()
    }

    /// Counts so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Answers the rows in flight whose id is `chosen` with [`RowError::Cancelled`].
    pub fn cancel(&mut self, chosen: impl Fn(u64) -> bool) {
        self.fail(|row| chosen(row.id).then_some(RowError::Cancelled));
    }

    /// Answers every row in flight with `error`.
    pub fn fail_all(&mut self, error: &RowError) {
        self.fail(|_| Some(error.clone()));
    }

    /// Answers the rows of the step that failed last with [`RowError::Device`], and forgets what their slots held.
    /// Returns how many there were.
    pub fn fail_step(&mut self, why: &str) -> usize {
        let tickets = std::mem::take(&mut self.in_step);
        for row in self.active.iter().filter(|row| tickets.contains(&row.ticket)) {
            self.slots[row.slot].tokens.clear();
        }
        let before = self.active.len() + self.waiting.len();
        self.fail(|row| tickets.contains(&row.ticket).then(|| RowError::Device(why.to_owned())));
        before - self.active.len() - self.waiting.len()
    }

    /// For a device without enough memory: halves the slots in use and the tokens per step. The rows in flight keep
    /// what they generated and are started anew. `false` where only one slot is left.
    pub fn shrink(&mut self) -> bool {
        if self.slots.len() <= 1 {
            return false;
        }
        let slots = self.slots.len() / 2;
        self.slots = (0..slots).map(|_| Slot::default()).collect();
        self.max_step_tokens = (self.max_step_tokens / 2).max(slots);
        for mut row in self.active.drain(..).rev() {
            if row.score.is_some() {
                (row.scored, row.logprob_sum) = (0, 0.0);
            }
            self.waiting.push_front(row);
        }
        true
    }

    fn fail(&mut self, why: impl Fn(&Row) -> Option<RowError>) {
        let mut failed = Vec::new();
        for row in std::mem::take(&mut self.active) {
            match why(&row) {
                Some(error) => {
                    self.release(row.slot);
                    failed.push((row.id, Err(error)));
                }
                None => self.active.push(row),
            }
        }
        self.waiting.retain(|row| match why(row) {
            Some(error) => {
                failed.push((row.id, Err(error)));
                false
            }
            None => true,
        });
        failed.into_iter().for_each(|answer| self.answer(answer));
    }

    fn answer(&mut self, answer: Answer) {
        match answer.1 {
            Ok(_) => self.usage.rows_done += 1,
            Err(_) => self.usage.rows_failed += 1,
        }
        self.done.push(answer);
    }

    fn release(&mut self, slot: usize) {
        self.slots[slot].busy = false;
        self.slots[slot].last_used = self.clock;
    }

    /// The request as a row, or its answer where nothing has to be run or nothing can be.
    fn row(&mut self, request: Request) -> std::result::Result<Row, Answer> {
        let Request { id, prompt, max_new_tokens, sampling, seed, stop, score } = request;
        let prompt_len = prompt.len();
        let new_tokens = score.as_ref().map_or(max_new_tokens, Vec::len);
        let needed = prompt_len.saturating_add(new_tokens);
        if prompt.is_empty() {
            return Err((id, Err(RowError::Empty)));
        }
        if needed > self.positions {
            return Err((id, Err(RowError::TooLong { tokens: needed, limit: self.positions })));
        }
        if let Some(token) = prompt.iter().chain(score.iter().flatten()).find(|&&token| token as usize >= self.vocab) {
            let why = format!("token {token} is outside of the model's vocabulary of {}", self.vocab);
            return Err((id, Err(RowError::Device(why))));
        }
        let mut ids = prompt;
        if let Some(score) = &score {
            ids.extend(score.iter().take(new_tokens.saturating_sub(1)));
        }
        self.next_ticket += 1;
        let row = Row {
            ticket: self.next_ticket,
            id,
            ids,
            prompt_len,
            score,
            scored: 0,
            max_new_tokens,
            sampling,
            seed,
            stop: stop.into_iter().filter(|stop| !stop.is_empty()).collect(),
            logprob_sum: 0.0,
            cached_tokens: None,
            deferred: 0,
            slot: 0,
        };
        if new_tokens == 0 { Err(row.finish(Finish::Length, Ok(String::new()), false)) } else { Ok(row) }
    }

    /// Tokens of an active row that are not in its slot yet.
    fn pending(&self, row: &Row) -> usize {
        row.ids.len() - self.slots[row.slot].tokens.len()
    }

    /// Starts waiting rows while there are free slots and the step's budget lasts.
    fn admit(&mut self, decoder: &mut dyn Decoder) -> Result<()> {
        let mut budget =
            self.active.iter().fold(self.max_step_tokens, |left, row| left.saturating_sub(self.pending(row)));
        // Rows behind this window are not looked at: in a long queue that would cost more than it finds.
        let mut window = (4 * self.slots.len()).max(64);
        let mut at = 0;
        while budget > 0 && window > 0 && at < self.waiting.len() && self.slots.iter().any(|slot| !slot.busy) {
            window -= 1;
            let (shared, donor, soon) = self.longest_prefix(&self.waiting[at]);
            if soon >= shared + MIN_SHARED && self.waiting[at].deferred < MAX_DEFERRED {
                self.waiting[at].deferred += 1;
                at += 1;
                continue;
            }
            self.in_step = vec![self.waiting[at].ticket];
            let Some(slot) = self.place(decoder, at, shared, donor)? else { break };
            let Some(mut row) = self.waiting.remove(at) else { break };
            row.slot = slot;
            self.slots[slot].busy = true;
            // The queue is sorted by prefix, so the next row is the one that shares most with this one.
            let wanted_next = self.waiting.get(at).map_or(0, |next| common_prefix(next.shareable(), &row.ids));
            if wanted_next >= MIN_SHARED {
                self.slots[slot].hot = self.slots[slot].hot.max(wanted_next);
            }
            if row.cached_tokens.is_none() {
                let cached = shared.min(row.prompt_len - 1);
                row.cached_tokens = Some(cached as u32);
                self.usage.prompt_tokens += row.prompt_len as u64;
                self.usage.cached_tokens += cached as u64;
            }
            budget = budget.saturating_sub(self.pending(&row));
            self.active.push(row);
        }
        Ok(())
    }

    /// The longest usable prefix of `row` that a slot has cached, that slot, and the longest one that will be cached
    /// when the rows in flight are through their prefill.
    fn longest_prefix(&self, row: &Row) -> (usize, usize, usize) {
        let (mut shared, mut donor) = (0, 0);
        for (i, slot) in self.slots.iter().enumerate() {
            let common = common_prefix(row.shareable(), &slot.tokens);
            if common > shared {
                (shared, donor) = (common, i);
            }
        }
        let soon = self.active.iter().map(|other| common_prefix(row.shareable(), &other.ids)).max().unwrap_or(0);
        (if shared < MIN_SHARED { 0 } else { shared }, donor, soon)
    }

    /// Chooses a free slot for the waiting row and puts the shared prefix into it; `None` where no slot is free.
    ///
    /// Best is a slot that holds the prefix already, then the one that was idle for longest; but the last copy of a
    /// prefix that rows have shared is overwritten only when every free slot holds such a copy.
    fn place(
        &mut self,
        decoder: &mut dyn Decoder,
        waiting: usize,
        shared: usize,
        donor: usize,
    ) -> Result<Option<usize>> {
        let wanted = &self.waiting[waiting].ids[..shared];
        let free = (0..self.slots.len()).filter(|&i| !self.slots[i].busy).min_by_key(|&i| {
            let slot = &self.slots[i];
            let in_place = shared > 0 && slot.tokens.starts_with(wanted);
            let kept = if in_place { shared } else { 0 };
            let loses_hot = slot.hot > kept && {
                let hot = &slot.tokens[..slot.hot.min(slot.tokens.len())];
                !self.slots.iter().enumerate().any(|(j, other)| j != i && other.tokens.starts_with(hot))
            };
            (loses_hot, !in_place, slot.last_used)
        });
        let Some(target) = free else { return Ok(None) };
        if shared > 0 && self.slots[target].tokens.starts_with(wanted) {
            self.slots[target].tokens.truncate(shared);
        } else {
            self.slots[target].tokens.clear();
            if shared > 0 {
                decoder.copy_prefix(donor, target, shared)?;
                self.slots[target].tokens = self.slots[donor].tokens[..shared].to_vec();
                self.slots[donor].hot = self.slots[donor].hot.max(shared);
                self.slots[donor].last_used = self.clock;
            }
        }
        self.slots[target].hot = shared;
        Ok(Some(target))
    }

    /// What the step runs: decoding rows first, then prompts and scored rows in order of admission.
    fn plan(&self) -> Vec<Part> {
        let mut budget = self.max_step_tokens;
        let mut scores = MAX_STEP_SCORES;
        let mut parts = Vec::with_capacity(self.active.len());
        let decoding = |row: &Row| row.score.is_none() && self.pending(row) == 1;
        for (i, _) in self.active.iter().enumerate().filter(|(_, row)| decoding(row)) {
            if budget > 0 {
                parts.push(Part { row: i, len: 1, want: WantLogits::Last });
                budget -= 1;
            }
        }
        for (i, row) in self.active.iter().enumerate().filter(|(_, row)| !decoding(row)) {
            let cached = self.slots[row.slot].tokens.len();
            let pending = row.ids.len() - cached;
            let (len, want) = if row.score.is_none() {
                let len = pending.min(budget);
                (len, if len == pending { WantLogits::Last } else { WantLogits::None })
            } else if cached < row.prompt_len - 1 {
                ((row.prompt_len - 1 - cached).min(budget), WantLogits::None)
            } else {
                let len = pending.min(SCORE_CHUNK).min(scores).min(budget);
                scores -= len;
                (len, WantLogits::All)
            };
            if len > 0 {
                parts.push(Part { row: i, len, want });
                budget -= len;
            }
        }
        parts
    }

    /// Takes the step's results in: chosen tokens, scores, rows that are done.
    fn advance(&mut self, parts: &[Part], logits: &[f32], text: &dyn Detokenize) {
        let mut jobs = Vec::new();
        for part in parts {
            jobs.extend((0..wanted(part)).map(|offset| (part, offset)));
        }
        let chosen: Vec<Option<sampler::Chosen>> = jobs
            .par_iter()
            .zip(logits.par_chunks(self.vocab.max(1)))
            .map(|(&(part, offset), logits)| {
                let row = &self.active[part.row];
                match &row.score {
                    None => {
                        let new = row.generated();
                        sampler::choose(logits, &row.sampling, new, &row.seed, new.len() as u64)
                    }
                    Some(score) => {
                        let token = *score.get(row.scored + offset)?;
                        Some(sampler::Chosen { token, logprob: sampler::log_prob(logits, token)? })
                    }
                }
            })
            .collect();

        let mut chosen = chosen.into_iter();
        let mut ends: Vec<Option<End>> = (0..self.active.len()).map(|_| None).collect();
        for part in parts {
            let row = &mut self.active[part.row];
            let slot = &mut self.slots[row.slot];
            let start = slot.tokens.len();
            slot.tokens.extend_from_slice(&row.ids[start..start + part.len]);
            for chosen in chosen.by_ref().take(wanted(part)) {
                if ends[part.row].is_some() {
                    continue;
                }
                ends[part.row] = match chosen {
                    Some(chosen) => {
                        self.usage.completion_tokens += 1;
                        row.take(chosen, &self.eos_ids, text)
                    }
                    None => {
                        // Whatever broke the logits may stand in the cache; no other row may start from it.
                        slot.tokens.clear();
                        slot.hot = 0;
                        Some(End::Failed(RowError::Device("the model's logits are not finite".into())))
                    }
                };
            }
        }
        for (row, end) in std::mem::take(&mut self.active).into_iter().zip(ends) {
            let Some(end) = end else {
                self.active.push(row);
                continue;
            };
            self.release(row.slot);
            let answer = match end {
                End::Failed(error) => (row.id, Err(error)),
                End::Token => {
                    let text = row.text(text);
                    row.finish(Finish::Stop, text, true)
                }
                End::StopText(text) => row.finish(Finish::Stop, whole(text), false),
                End::Length => {
                    let text = row.text(text);
                    row.finish(Finish::Length, text, false)
                }
            };
            self.answer(answer);
        }
    }
}

/// How a row came to its end.
enum End {
    Token,
    StopText(String),
    Length,
    Failed(RowError),
}

impl Row {
    /// Takes the next token in; says whether the row has ended.
    fn take(&mut self, chosen: sampler::Chosen, eos_ids: &[u32], text: &dyn Detokenize) -> Option<End> {
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
        if !self.stop.is_empty() {
            // All tokens anew: a character may span several of them, and the answers are short.
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
    fn text(&self, text: &dyn Detokenize) -> Result<String, RowError> {
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
fn whole(text: String) -> Result<String, RowError> {
    if text.contains(NOT_UTF8) { Err(RowError::InvalidUtf8) } else { Ok(text) }
}

/// Positions whose logits a part asks for.
fn wanted(part: &Part) -> usize {
    match part.want {
        WantLogits::None => 0,
        WantLogits::Last => 1,
        WantLogits::All => part.len,
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
pub(crate) mod mock {
    //! A decoder without weights: its logits are a hash of what the slot holds, so a wrong cache gives wrong tokens.
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::llm::decoder::Logits;

    pub(crate) const VOCAB: usize = 48;
    pub(crate) const EOS: u32 = 0;
    /// After this token the logits are NaN.
    pub(crate) const POISON: u32 = 47;

    pub(crate) struct MockDecoder {
        pub(crate) slots: Vec<Vec<u32>>,
        pub(crate) positions: usize,
        /// Tokens of every step.
        pub(crate) steps: Vec<usize>,
        pub(crate) copied: usize,
        /// Called before every step with its number and its rows; may fail or panic.
        pub(crate) before: Box<dyn FnMut(usize, usize) -> Result<()> + Send>,
    }

    impl MockDecoder {
        pub(crate) fn new(slots: usize, positions: usize) -> Self {
            let before = Box::new(|_, _| Ok(()));
            MockDecoder { slots: vec![Vec::new(); slots], positions, steps: Vec::new(), copied: 0, before }
        }
    }

    pub(crate) fn pseudo_logits(ids: &[u32]) -> Vec<f32> {
        if ids.contains(&POISON) {
            return vec![f32::NAN; VOCAB];
        }
        let mut hasher = blake3::Hasher::new();
        for id in ids {
            hasher.update(&id.to_le_bytes());
        }
        let mut bytes = vec![0; VOCAB];
        hasher.finalize_xof().fill(&mut bytes);
        let mut logits: Vec<f32> = bytes.iter().map(|&b| f32::from(b) / 32.0 - 4.0).collect();
        logits[POISON as usize] = -20.0;
        logits
    }

    impl Decoder for MockDecoder {
        fn vocab_size(&self) -> usize {
            VOCAB
        }
        fn max_positions(&self) -> usize {
            self.positions
        }
        fn slots(&self) -> usize {
            self.slots.len()
        }
        fn step(&mut self, rows: &[RowStep<'_>]) -> Result<Logits> {
            self.steps.push(rows.iter().map(|row| row.tokens.len()).sum());
            (self.before)(self.steps.len(), rows.len())?;
            let mut seen = vec![false; self.slots.len()];
            let mut data = Vec::new();
            for row in rows {
                assert!(!std::mem::replace(&mut seen[row.slot], true), "a slot stands twice in a step");
                assert!(!row.tokens.is_empty());
                let slot = &mut self.slots[row.slot];
                assert!(row.start <= slot.len(), "a gap in the cache");
                slot.truncate(row.start);
                for (i, &token) in row.tokens.iter().enumerate() {
                    slot.push(token);
                    let last = i + 1 == row.tokens.len();
                    if row.want_logits == WantLogits::All || (last && row.want_logits == WantLogits::Last) {
                        data.extend(pseudo_logits(slot));
                    }
                }
                assert!(slot.len() <= self.positions, "a slot overflows");
            }
            Ok(Logits { vocab: VOCAB, data })
        }
        fn copy_prefix(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
            assert!(from != to && len <= self.slots[from].len());
            self.slots[to] = self.slots[from][..len].to_vec();
            self.copied += len;
            Ok(())
        }
    }

    /// Bytes of tokens: letters, and the two halves of `é`.
    pub(crate) struct MockText;

    fn bytes(id: u32) -> Vec<u8> {
        match id {
            0 => Vec::new(),
            45 => vec![0xC3],
            46 => vec![0xA9],
            id => vec![b'a' + (id % 20) as u8],
        }
    }

    impl Detokenize for MockText {
        fn decode(&self, ids: &[u32]) -> Result<String> {
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| bytes(id)).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
    }

    pub(crate) fn request(id: u64, prompt: &[u32], max_new_tokens: usize) -> Request {
        Request {
            id,
            prompt: prompt.to_vec(),
            max_new_tokens,
            sampling: Sampling::default(),
            seed: *blake3::hash(&id.to_le_bytes()).as_bytes(),
            stop: Vec::new(),
            score: None,
        }
    }

    /// The slow reference: one row, no cache, no batch, no chunks.
    pub(crate) fn reference(request: &Request, positions: usize) -> Result<Completion, RowError> {
        let (prompt, n) = (&request.prompt, request.score.as_ref().map_or(request.max_new_tokens, Vec::len));
        if prompt.is_empty() {
            return Err(RowError::Empty);
        }
        if prompt.len() + n > positions {
            return Err(RowError::TooLong { tokens: prompt.len() + n, limit: positions });
        }
        let broken = || RowError::Device("the model's logits are not finite".into());
        let mut ids = prompt.clone();
        let (mut sum, mut finish, mut by_token, mut cut) = (0.0, Finish::Length, false, None);
        for i in 0..n {
            let logits = pseudo_logits(&ids);
            if let Some(score) = &request.score {
                sum += sampler::log_prob(&logits, score[i]).ok_or_else(broken)?;
                ids.push(score[i]);
                continue;
            }
            let new = &ids[prompt.len()..];
            let chosen =
                sampler::choose(&logits, &request.sampling, new, &request.seed, i as u64).ok_or_else(broken)?;
            if chosen.token == EOS {
                (finish, by_token) = (Finish::Stop, true);
                break;
            }
            sum += chosen.logprob;
            ids.push(chosen.token);
            let text = MockText.decode(&ids[prompt.len()..]).unwrap();
            cut = request.stop.iter().filter_map(|stop| text.find(stop)).min();
            if let Some(cut) = cut {
                finish = Finish::Stop;
                if text[..cut].contains(NOT_UTF8) {
                    return Err(RowError::InvalidUtf8);
                }
                break;
            }
        }
        let tokens = ids[prompt.len()..].to_vec();
        let mut text = MockText.decode(&tokens).unwrap();
        match cut {
            Some(cut) => text.truncate(cut),
            None if request.score.is_none() => {
                text = text.trim_end_matches(NOT_UTF8).to_owned();
                if text.contains(NOT_UTF8) {
                    return Err(RowError::InvalidUtf8);
                }
            }
            None => {}
        }
        Ok(Completion {
            id: request.id,
            completion_tokens: tokens.len() as u32 + u32::from(by_token),
            tokens,
            text,
            finish,
            logprob_sum: sum,
            prompt_tokens: prompt.len() as u32,
            cached_tokens: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::mock::*;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn batcher(decoder: &MockDecoder, max_step_tokens: usize) -> Batcher {
        Batcher::new(decoder, BatcherOptions { max_step_tokens, eos_ids: vec![EOS] })
    }

    fn run(batcher: &mut Batcher, decoder: &mut MockDecoder) -> Vec<Answer> {
        let mut answers = Vec::new();
        for _ in 0..100_000 {
            if batcher.is_idle() {
                answers.extend(batcher.drain());
                return answers;
            }
            batcher.step(decoder, &MockText).unwrap();
            answers.extend(batcher.drain());
        }
        panic!("the batcher does not come to an end");
    }

    /// The answers by id, without what depends on scheduling. Panics where an id is answered twice.
    fn by_id(answers: Vec<Answer>) -> BTreeMap<u64, String> {
        let mut map = BTreeMap::new();
        for (id, answer) in answers {
            let answer = answer.map(|completion| Completion { cached_tokens: 0, ..completion });
            assert!(map.insert(id, format!("{answer:?}")).is_none(), "{id} was answered twice");
        }
        map
    }

    fn expected(requests: &[Request], positions: usize) -> BTreeMap<u64, String> {
        by_id(requests.iter().map(|request| (request.id, reference(request, positions))).collect())
    }

    fn template(n: usize) -> Vec<u32> {
        (0..n).map(|i| 1 + (i * 7 % 40) as u32).collect()
    }

    fn with_template(n: usize, tail: &[u32]) -> Vec<u32> {
        [template(n), tail.to_vec()].concat()
    }

    #[test]
    fn a_shared_prefix_is_prefilled_once() {
        let requests: Vec<Request> =
            (0..20).map(|i| request(i, &with_template(60, &[i as u32 + 1, 3, 5]), 6)).collect();
        let mut decoder = MockDecoder::new(8, 128);
        let mut batcher = batcher(&decoder, 64);
        batcher.push(requests.clone());
        let answers = run(&mut batcher, &mut decoder);
        let mut cached = answers.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.cached_tokens));
        assert!(cached.clone().filter(|&tokens| tokens == 0).count() <= 1 && cached.all(|tokens| tokens % 60 == 0));
        assert_eq!(batcher.usage().cached_tokens, 19 * 60);
        assert_eq!(batcher.usage().prompt_tokens, 20 * 63);
        assert!(decoder.steps.iter().sum::<usize>() as u64 <= 60 + 20 * 3 + batcher.usage().completion_tokens);
        assert_eq!(by_id(answers), expected(&requests, 128));
    }

    #[test]
    fn the_same_prompt_again_costs_one_token_of_prefill() {
        let mut decoder = MockDecoder::new(2, 64);
        let mut batcher = batcher(&decoder, 64);
        batcher.push(vec![request(0, &template(40), 1)]);
        run(&mut batcher, &mut decoder);
        batcher.push(vec![request(1, &template(40), 1)]);
        let answers = run(&mut batcher, &mut decoder);
        assert_eq!(answers[0].1.as_ref().unwrap().cached_tokens, 39);
        assert_eq!(decoder.steps, [40, 1]);
        assert_eq!(decoder.copied, 0, "it was continued in place");
    }

    #[test]
    fn nested_prefixes_are_shared_level_by_level() {
        let mut requests = Vec::new();
        for group in 0..4u32 {
            for row in 0..4u32 {
                let middle: Vec<u32> = (0..20).map(|i| 1 + (group * 11 + i * 3) % 40).collect();
                let tail = [&middle[..], &[row + 1, row + 2]].concat();
                requests.push(request(u64::from(group * 4 + row), &with_template(30, &tail), 2));
            }
        }
        requests.reverse();
        let mut decoder = MockDecoder::new(6, 64);
        let mut batcher = batcher(&decoder, 40);
        batcher.push(requests.clone());
        let answers = run(&mut batcher, &mut decoder);
        assert_eq!(by_id(answers), expected(&requests, 64));
        assert_eq!(batcher.usage().prompt_tokens - batcher.usage().cached_tokens, 30 + 4 * 20 + 16 * 2);
    }

    #[test]
    fn the_last_copy_of_a_hot_prefix_survives_other_rows() {
        let mut decoder = MockDecoder::new(4, 64);
        let mut batcher = batcher(&decoder, 64);
        batcher.push((0..3).map(|i| request(i, &with_template(30, &[i as u32 + 1]), 2)).collect());
        run(&mut batcher, &mut decoder);
        for i in 0..12 {
            let other: Vec<u32> = (0..12).map(|j| 1 + (i * 5 + j * j) % 40).collect();
            batcher.push(vec![request(10 + u64::from(i), &other, 2)]);
            run(&mut batcher, &mut decoder);
        }
        batcher.push(vec![request(99, &with_template(30, &[9]), 2)]);
        assert_eq!(run(&mut batcher, &mut decoder)[0].1.as_ref().unwrap().cached_tokens, 30);
    }

    #[test]
    fn long_prompts_are_chunked_and_decoding_goes_on_beside_them() {
        let mut decoder = MockDecoder::new(2, 300);
        let mut batcher = batcher(&decoder, 16);
        let requests = vec![request(0, &[1, 2, 3], 8), request(1, &with_template(200, &[4]), 2)];
        batcher.push(requests.clone());
        let answers = run(&mut batcher, &mut decoder);
        assert!(decoder.steps.iter().all(|&tokens| tokens <= 16));
        assert_eq!(answers[0].0, 0, "the short row does not wait for the long prompt");
        assert_eq!(by_id(answers), expected(&requests, 300));
    }

    #[test]
    fn rows_that_cannot_run_are_answered_before_any_work() {
        let mut decoder = MockDecoder::new(2, 10);
        let mut batcher = batcher(&decoder, 16);
        let scored = Request { score: Some(vec![1; 6]), ..request(3, &[1; 5], 0) };
        let stranger = Request { score: Some(vec![VOCAB as u32]), ..request(4, &[1; 5], 0) };
        batcher.push(vec![
            request(0, &[], 4),
            request(1, &[1; 5], 6),
            request(2, &[1], usize::MAX),
            scored,
            stranger,
            request(5, &[1; 10], 0),
        ]);
        assert!(batcher.is_idle());
        let answers: BTreeMap<u64, _> = batcher.drain().into_iter().collect();
        assert_eq!(*answers[&0].as_ref().unwrap_err(), RowError::Empty);
        assert_eq!(*answers[&1].as_ref().unwrap_err(), RowError::TooLong { tokens: 11, limit: 10 });
        assert_eq!(*answers[&2].as_ref().unwrap_err(), RowError::TooLong { tokens: usize::MAX, limit: 10 });
        assert_eq!(*answers[&3].as_ref().unwrap_err(), RowError::TooLong { tokens: 11, limit: 10 });
        assert!(matches!(answers[&4].as_ref().unwrap_err(), RowError::Device(why) if why.contains("vocabulary")));
        assert!(answers[&5].as_ref().unwrap().tokens.is_empty());
        assert!(run(&mut batcher, &mut decoder).is_empty());
        assert!(decoder.steps.is_empty());
    }

    #[test]
    fn broken_logits_fail_their_row_only_and_leave_no_trace() {
        let mut decoder = MockDecoder::new(3, 64);
        let mut batcher = batcher(&decoder, 64);
        let mut poisoned = template(20);
        poisoned[19] = POISON;
        let requests = vec![
            request(0, &poisoned, 4),
            request(1, &template(20), 4),
            Request { score: Some(vec![3, POISON, 5, 6]), ..request(2, &template(12), 0) },
            request(3, &[5, 6], 4),
        ];
        batcher.push(requests.clone());
        let answers = run(&mut batcher, &mut decoder);
        assert_eq!(by_id(answers), expected(&requests, 64));
        assert_eq!(batcher.usage().rows_failed, 2);
        assert!(batcher.slots.iter().all(|slot| !slot.tokens.contains(&POISON)));
    }

    #[test]
    fn cancelled_rows_are_answered_once_and_their_slots_go_on() {
        let mut decoder = MockDecoder::new(2, 64);
        let mut batcher = batcher(&decoder, 8);
        let requests: Vec<Request> = (0..9).map(|i| request(i, &[i as u32 + 1, 2, 3], 20)).collect();
        batcher.push(requests.clone());
        batcher.step(&mut decoder, &MockText).unwrap();
        batcher.step(&mut decoder, &MockText).unwrap();
        batcher.cancel(|id| id % 2 == 0);
        let answers = run(&mut batcher, &mut decoder);
        let cancelled = answers.iter().filter(|(_, answer)| matches!(answer, Err(RowError::Cancelled))).count();
        assert_eq!(cancelled, 5);
        let (kept, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(id, _)| id % 2 == 1);
        assert_eq!(others.len(), 5);
        let odd: Vec<Request> = requests.into_iter().filter(|request| request.id % 2 == 1).collect();
        assert_eq!(by_id(kept), expected(&odd, 64));
    }

    #[test]
    fn a_row_is_not_starved_by_later_ones() {
        let mut decoder = MockDecoder::new(2, 64);
        let mut batcher = batcher(&decoder, 8);
        batcher.push((0..2).map(|i| request(i, &with_template(30, &[1]), 4)).collect());
        batcher.push(vec![request(7, &with_template(24, &[40, 41]), 3)]);
        for i in 0..200 {
            batcher.push(vec![request(100 + i, &with_template(24, &[40, i as u32 % 40 + 1]), 4)]);
            batcher.step(&mut decoder, &MockText).unwrap();
            if batcher.drain().iter().any(|(id, _)| *id == 7) {
                assert!(i < 40, "{i} steps");
                return;
            }
        }
        panic!("the row was starved");
    }

    #[test]
    fn shrinking_restarts_rows_without_changing_them() {
        let requests: Vec<Request> = (0..12)
            .map(|i| Request {
                score: (i % 3 == 0).then(|| template(100)),
                sampling: Sampling { temperature: 1.0, ..Sampling::default() },
                ..request(i, &with_template(20, &[i as u32 + 1]), 12)
            })
            .collect();
        let mut decoder = MockDecoder::new(8, 128);
        let mut batcher = batcher(&decoder, 32);
        batcher.push(requests.clone());
        let mut answers = Vec::new();
        let mut halvings = 0;
        while !batcher.is_idle() {
            batcher.step(&mut decoder, &MockText).unwrap();
            answers.extend(batcher.drain());
            if decoder.steps.len().is_multiple_of(6) && batcher.shrink() {
                halvings += 1;
            }
        }
        assert_eq!((halvings, batcher.slots_in_use()), (3, 1));
        assert_eq!(by_id(answers), expected(&requests, 128));
    }

    #[test]
    fn a_failed_step_fails_its_rows_and_no_others() {
        let requests: Vec<Request> = (0..6).map(|i| request(i, &[i as u32 + 1, 2], 5)).collect();
        let mut decoder = MockDecoder::new(3, 64);
        decoder.before = Box::new(|step, _| match step {
            2 => Err(Error::new(Kind::Temporary, "the device hiccuped")),
            _ => Ok(()),
        });
        let mut batcher = batcher(&decoder, 16);
        batcher.push(requests.clone());
        batcher.step(&mut decoder, &MockText).unwrap();
        assert!(batcher.step(&mut decoder, &MockText).is_err());
        let failed = batcher.fail_step("the device hiccuped");
        assert!(failed > 0 && failed <= 3);
        let answers = run(&mut batcher, &mut decoder);
        assert_eq!(answers.len(), 6);
        let (bad, good): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, answer)| answer.is_err());
        let (hit, bad): (Vec<_>, Vec<_>) =
            bad.into_iter().partition(|(_, answer)| matches!(answer, Err(RowError::Device(_))));
        assert_eq!(hit.len(), failed);
        let all = expected(&requests, 64);
        assert!(by_id([good, bad].concat()).into_iter().all(|(id, answer)| all[&id] == answer));
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let prompt = (0usize..40, proptest::collection::vec(prop_oneof![40 => 1u32..4, 1 => Just(POISON)], 0..16))
            .prop_map(|(shared, tail)| with_template(shared, &tail));
        let sampling = prop_oneof![
            3 => Just(Sampling::default()),
            2 => (0.3f32..2.0, 0.2f32..1.0, 0usize..10, 1.0f32..1.5).prop_map(|(temperature, top_p, top_k, penalty)| {
                Sampling { temperature, top_p, top_k, repetition_penalty: penalty }
            }),
        ];
        let stop =
            proptest::collection::vec(prop_oneof!["[a-t]{1,2}", Just("é".to_owned()), Just(String::new())], 0..2);
        let score = proptest::option::weighted(0.25, proptest::collection::vec(1u32..47, 0..90));
        (prompt, 0usize..14, sampling, stop, score, any::<[u8; 32]>()).prop_map(
            |(prompt, max_new_tokens, sampling, stop, score, seed)| Request {
                id: 0,
                prompt,
                max_new_tokens,
                sampling,
                seed,
                // An empty stop text would match everywhere in the reference.
                stop: if score.is_some() { Vec::new() } else { stop.into_iter().filter(|s| !s.is_empty()).collect() },
                score,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
        /// Every request is answered exactly once, and as the naive reference answers it, whatever the order of
        /// arrival, the number of slots and the budget; and no step exceeds either.
        #[test]
        fn scheduling_never_changes_an_answer(
            mut requests in proptest::collection::vec(any_request(), 1..30),
            order in any::<u64>(),
            slots in 1usize..7,
            max_step_tokens in 1usize..48,
            arrivals in proptest::collection::vec((1usize..8, 0usize..6), 0..8),
        ) {
            let positions = 120;
            for (id, request) in requests.iter_mut().enumerate() {
                request.id = id as u64;
            }
            let expected = expected(&requests, positions);
            requests.sort_by_key(|request| blake3::hash(&(request.id ^ order).to_le_bytes()).as_bytes()[..8].to_vec());
            let mut decoder = MockDecoder::new(slots, positions);
            let mut most_rows = 0;
            let mut batcher = batcher(&decoder, max_step_tokens);
            let mut answers = Vec::new();
            for (rows, steps) in arrivals {
                batcher.push(requests.drain(..rows.min(requests.len())).collect());
                for _ in 0..steps {
                    batcher.step(&mut decoder, &MockText).unwrap();
                    most_rows = most_rows.max(batcher.active.len());
                }
            }
            batcher.push(requests);
            answers.extend(run(&mut batcher, &mut decoder));
            prop_assert!(decoder.steps.iter().all(|&tokens| tokens >= 1 && tokens <= max_step_tokens));
            prop_assert!(most_rows <= slots);
            let usage = batcher.usage();
            prop_assert_eq!(usage.rows_done + usage.rows_failed, expected.len() as u64);
            for (_, answer) in &answers {
                if let Ok(completion) = answer {
                    prop_assert!(completion.cached_tokens < completion.prompt_tokens.max(1));
                }
            }
            prop_assert_eq!(by_id(answers), expected);
        }
    }
}
