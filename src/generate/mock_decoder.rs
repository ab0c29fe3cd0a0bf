//! A decoder without weights, for tests: its logits are a hash of the slot's content, so a wrong cache gives wrong
//! tokens. [`reference`] computes one row alone, slowly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::error::Result;
use crate::generate::copying::Copying;
use crate::generate::row::{Completion, Detokenize, Finish, NOT_UTF8, Request, RowError};
use crate::llm::decoder::{Decoder, Logits, RowStep, WantLogits};
use crate::llm::sampler::{self, Sampling};

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
        guide: None,
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
        let held_back = match request.sampling.max_copied_words {
            0 => Vec::new(),
            most => Copying::of(prompt, most, |ids| MockText.decode(ids)).unwrap().held_back(prompt, new),
        };
        let chosen = sampler::choose_beside(&logits, &request.sampling, None, &held_back, new, &request.seed, i as u64);
        let chosen = chosen.ok_or_else(broken)?;
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
