//! What the benches of generation share: prompts, and how fast a decoder and the whole engine answer them.
//!
//! Knows decoders and clocks. Knows nothing of devices, files or reports.

use std::time::{Duration, Instant};

use curec::generate::device_thread::EngineOptions;
use curec::generate::engine::Engine;
use curec::generate::row::{Request, RowError};
use curec::llm::decoder::{CausalLm, Decoder, RowStep, WantLogits};
use curec::llm::sampler::Sampling;
use curec::llm::tokenizer::Tokenizer;

/// Tokens of one step, as the batcher would take them.
const STEP_TOKENS: usize = 512;

/// Tokens that were computed, and the seconds that they took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timed {
    pub(crate) tokens: usize,
    pub(crate) seconds: f64,
}

impl Timed {
    /// Tokens per second.
    pub(crate) fn rate(self) -> f64 {
        self.tokens as f64 / self.seconds
    }
}

/// Prompts of `length` tokens that share no prefix; `benches/peers/hf_generate.py` makes the same ones.
pub(crate) fn prompts(rows: usize, length: usize, vocab: usize) -> Vec<Vec<u32>> {
    let range = vocab as u32 - 20;
    let token = |r: u32, i: u32| 20 + (r * 7919 + i * 104_729 + i * i * r) % range;
    (0..rows as u32).map(|r| (0..length as u32).map(|i| token(r, i)).collect()).collect()
}

/// Fills the cache with prompts, a slot each, for about `limit` at most: the time, and the next token of each row that was
/// reached, else 0.
pub(crate) fn prefill(model: &mut CausalLm, prompts: &[Vec<u32>], limit: Duration) -> (Timed, Vec<u32>) {
    let started = Instant::now();
    let mut next = vec![0u32; prompts.len()];
    let together = (STEP_TOKENS / prompts[0].len()).max(1);
    let mut tokens = 0;
    for (chunk, some) in prompts.chunks(together).enumerate() {
        if chunk > 0 && started.elapsed() > limit {
            break;
        }
        let steps: Vec<RowStep> = some
            .iter()
            .enumerate()
            .map(|(i, tokens)| RowStep { slot: chunk * together + i, start: 0, tokens, want_logits: WantLogits::Last })
            .collect();
        let logits = model.step(&steps).unwrap();
        for i in 0..some.len() {
            next[chunk * together + i] = best(logits.row(i));
        }
        tokens += some.iter().map(Vec::len).sum::<usize>();
    }
    (Timed { tokens, seconds: started.elapsed().as_secs_f64() }, next)
}

/// `steps` more tokens of every row, the most likely one each time, for about `limit` at most. Rows that were not prefilled
/// cost the same as the others.
pub(crate) fn decode(model: &mut CausalLm, start: usize, mut next: Vec<u32>, steps: usize, limit: Duration) -> Timed {
    let started = Instant::now();
    let mut tokens = 0;
    for i in 0..steps {
        if i > 0 && started.elapsed() > limit {
            break;
        }
        let last = next.clone();
        let rows: Vec<RowStep> = (0..last.len())
            .map(|r| RowStep { slot: r, start: start + i, tokens: &last[r..=r], want_logits: WantLogits::Last })
            .collect();
        let logits = model.step(&rows).unwrap();
        for (r, next) in next.iter_mut().enumerate() {
            *next = best(logits.row(r));
        }
        tokens += next.len();
    }
    Timed { tokens, seconds: started.elapsed().as_secs_f64() }
}

/// The whole engine: batcher, sampler, log-probabilities, detokenizer.
pub(crate) fn engine(
    model: CausalLm,
    tokenizer: Tokenizer,
    prompts: Vec<Vec<u32>>,
    new: usize,
    threads: usize,
) -> Timed {
    let max_positions = model.max_positions();
    let options = EngineOptions { slots: prompts.len(), max_step_tokens: STEP_TOKENS, max_positions, threads };
    // No token ends a row, so that every row has its full length, as with the peers.
    let engine = Engine::from_parts(Box::new(model), tokenizer, None, String::new(), Vec::new(), options).unwrap();
    let request = |(id, prompt): (usize, Vec<u32>)| Request {
        id: id as u64,
        prompt,
        max_new_tokens: new,
        sampling: Sampling::default(),
        seed: [0; 32],
        stop: Vec::new(),
        score: None,
        guide: None,
    };
    let started = Instant::now();
    let mut answers = engine.submit_blocking(prompts.into_iter().enumerate().map(request).collect()).unwrap();
    let mut tokens = 0;
    while let Some((_, answer)) = answers.blocking_recv() {
        tokens += match answer {
            // Random weights write what is no text; its tokens were computed all the same.
            Err(RowError::InvalidUtf8) => new,
            answer => answer.unwrap().completion_tokens as usize,
        };
    }
    Timed { tokens, seconds: started.elapsed().as_secs_f64() }
}

/// The most memory that the process has held, where the system tells; else 0.
pub(crate) fn peak_rss_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best as u32
}
