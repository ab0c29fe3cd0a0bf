//! Token-budget batches over a decoder's slots.
//!
//! Every step runs at most `max_step_tokens` tokens: first one token of every decoding row, then chunks of the waiting
//! prompts. A slot is refilled as soon as its row is done. A slot keeps its cached tokens until they are overwritten,
//! so a prompt starts from a copy of the longest prefix that any slot holds. A row whose prefix is being prefilled by
//! another row waits for it instead of computing it again.
//!
//! Scheduling decides when a token is computed and how much of a prompt was cached, never which token is generated.
//! Knows token ids, slots and shared prefixes. Knows nothing of threads, SQL, tokenizers or where prompts come from.

use std::collections::{HashSet, VecDeque};

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::generate::row::{Answer, Detokenize, End, Finish, Request, Row, RowError, whole};
use crate::llm::decoder::{Decoder, RowStep, WantLogits};
use crate::llm::sampler;

/// Limits of the batcher.
#[derive(Debug, Clone)]
pub struct BatcherOptions {
    /// Tokens per step over all rows, at least 1.
    pub max_step_tokens: usize,
    /// Tokens that end a text.
    pub eos_ids: Vec<u32>,
}

/// Counters since the batcher was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens of the rows that were started.
    pub prompt_tokens: u64,
    /// How many of them were copied instead of prefilled.
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

/// Shorter common prefixes are prefilled again: a copy would cost more.
const MIN_SHARED: usize = 8;
/// Maximum number of positions of one scored row whose logits are in memory at a time ...
const SCORE_CHUNK: usize = 64;
/// ... and of all scored rows of a step: 48 MiB at a vocabulary of 49152.
const MAX_STEP_SCORES: usize = 256;
/// How often a row waits for another row's prefill of their common prefix before it starts on its own.
const MAX_DEFERRED: u32 = 256;

/// A slot of the decoder's cache and its content.
#[derive(Default)]
struct Slot {
    /// The tokens whose positions are cached.
    tokens: Vec<u32>,
    busy: bool,
    /// Length of the longest prefix that other rows have shared with this slot, or that the next waiting row will
    /// share.
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
    /// Tickets of the rows in the current step.
    in_step: Vec<u64>,
    done: Vec<Answer>,
    usage: Usage,
    clock: u64,
    next_ticket: u64,
}

impl Batcher {
    /// Creates a batcher for `decoder`, whose slots must be empty.
    pub fn new(decoder: &dyn Decoder, options: BatcherOptions) -> Self {
        let max_step_tokens = options.max_step_tokens.max(1);
        // A step must have room for one token of every row, or decoding rows could starve the others.
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

    /// Queues rows. Rows that cannot be run are answered at once; the others are grouped by common prefix, the group
    /// with the oldest row first, behind all rows that are already waiting. Ids should be unique among the rows in
    /// flight, or [`Batcher::cancel`] cannot distinguish them.
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
    /// What the decoder says. The rows stay as they were before the step; the caller continues with [`Batcher::shrink`]
    /// or [`Batcher::fail_step`].
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
            return Err(Error::new(Kind::Internal, "the decoder returned logits of the wrong shape")
                .with("wanted", format!("{positions} x {}", self.vocab))
                .with("got", format!("{} of vocabulary {}", logits.data.len(), logits.vocab)));
        }
        self.usage.steps += 1;
        self.clock += 1;
        self.advance(&parts, &logits.data, text);
        Ok(())
    }

    /// The answers since the last call; every request is answered exactly once.
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

    /// Counters so far.
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

    /// Called when the device is out of memory: halves the slots in use and the tokens per step. The rows in flight
    /// keep their generated tokens and are restarted. Returns `false` if only one slot is left.
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

    /// The request as a row, or its answer if nothing has to be run or it cannot be run.
    fn row(&mut self, request: Request) -> std::result::Result<Row, Answer> {
        let Request { id, prompt, max_new_tokens, sampling, seed, stop, score, guide } = request;
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
            guide: guide.filter(|_| score.is_none()),
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
            copying: None,
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
        // Rows behind this window are not considered: in a long queue the search would cost more than it saves.
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
            // The queue is sorted by prefix, so the next row shares the longest prefix with this one.
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
    /// once the rows in flight have finished their prefill.
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
    /// Prefers a slot that already holds the prefix, then the one that has been idle longest. The last copy of a shared
    /// prefix is overwritten only if every free slot holds such a copy.
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

    /// Plans the step: decoding rows first, then prompts and scored rows in order of admission.
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

    /// Processes the step's results: chosen tokens, scores, finished rows.
    fn advance(&mut self, parts: &[Part], logits: &[f32], text: &dyn Detokenize) {
        let mut jobs = Vec::new();
        let answering: HashSet<usize> = parts.iter().filter(|part| wanted(part) > 0).map(|part| part.row).collect();
        let rows = self.active.par_iter_mut().enumerate().filter(|(at, _)| answering.contains(at));
        rows.for_each(|(_, row)| {
            row.read_words(text);
            row.look();
        });
        for part in parts {
            jobs.extend((0..wanted(part)).map(|offset| (part, offset)));
        }
        let chosen: Vec<Option<sampler::Chosen>> = jobs
            .par_iter()
            .zip(logits.par_chunks(self.vocab.max(1)))
            .map(|(&(part, offset), logits)| {
                let row = &self.active[part.row];
                match &row.score {
                    None => row.choose(logits),
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
                        // The cause of the broken logits may be in the cache, so no other row may start from it.
                        slot.tokens.clear();
                        slot.hot = 0;
                        Some(End::Failed(row.nothing_chosen()))
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
                End::Whole => {
                    let text = row.text(text);
                    row.finish(Finish::Stop, text, false)
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
mod tests;
