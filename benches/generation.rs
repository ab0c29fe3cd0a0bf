//! New tokens per second of SmolLM2-135M: `cargo bench --bench generation -- [rows] [prompt] [new] [threads]`, default
//! 32 rows, 128 prompt tokens, 64 new ones, two threads; no shared prefix. Prints one JSON line for the decoder alone
//! and one for the whole engine: batcher, sampler, log-probabilities, detokenizer.
//!
//! `CUREC_HOME` (default `.curec`) holds the model, `CUREC_MODEL` names another one; `CUREC_DEVICE` (default `cpu`) names the
//! device.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "fences are for the product")]

use std::path::PathBuf;
use std::time::Instant;

use curec::generate::device_thread::EngineOptions;
use curec::generate::engine::Engine;
use curec::generate::row::Request;
use curec::llm::decoder::{CausalLm, Decoder, RowStep, WantLogits};
use curec::llm::device;
use curec::llm::sampler::Sampling;
use curec::llm::weights::ModelFiles;

/// Tokens of one step, as the batcher would take them.
const STEP_TOKENS: usize = 512;

fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best as u32
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let number = |i: usize, default: usize| numbers.get(i).copied().unwrap_or(default);
    let (rows, prompt, new, threads) = (number(0, 32), number(1, 128), number(2, 64), number(3, 2));
    let home = std::env::var_os("CUREC_HOME").map_or_else(|| PathBuf::from(".curec"), PathBuf::from);
    let default = home.join("models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    let path = std::env::var_os("CUREC_MODEL").map_or(default, PathBuf::from);
    if !path.exists() {
        return println!("skipped: {} is not here (ci/quickstart.sh fetches it)", path.display());
    }
    let name = std::env::var("CUREC_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let device = device::open(&name).unwrap();
    let started = Instant::now();
    let files = ModelFiles::open(&path).unwrap();
    let mut model = CausalLm::load(&files, None, &device, rows, prompt + new).unwrap();
    model.set_threads(threads).unwrap();
    let load = started.elapsed().as_secs_f64();

    let vocab = model.vocab_size() as u32;
    let prompts: Vec<Vec<u32>> = (0..rows as u32)
        .map(|r| (0..prompt as u32).map(|i| 20 + (r * 7919 + i * 104_729 + i * i * r) % (vocab - 20)).collect())
        .collect();
    let started = Instant::now();
    let mut next = vec![0u32; rows];
    let together = (STEP_TOKENS / prompt).max(1);
    for (chunk, some) in prompts.chunks(together).enumerate() {
        let steps: Vec<RowStep> = some
            .iter()
            .enumerate()
            .map(|(i, tokens)| RowStep { slot: chunk * together + i, start: 0, tokens, want_logits: WantLogits::Last })
            .collect();
        let logits = model.step(&steps).unwrap();
        for i in 0..some.len() {
            next[chunk * together + i] = best(logits.row(i));
        }
    }
    let prefill = started.elapsed().as_secs_f64();
    let started = Instant::now();
    for i in 1..new {
        let tokens = next.clone();
        let steps: Vec<RowStep> = (0..rows)
            .map(|r| RowStep { slot: r, start: prompt + i - 1, tokens: &tokens[r..=r], want_logits: WantLogits::Last })
            .collect();
        let logits = model.step(&steps).unwrap();
        for (r, next) in next.iter_mut().enumerate() {
            *next = best(logits.row(r));
        }
    }
    let decode = started.elapsed().as_secs_f64();
    println!(
        "{{\"device\":\"{name}\",\"rows\":{rows},\"prompt\":{prompt},\"new\":{new},\"threads\":{threads},\
         \"load_s\":{load:.2},\"prefill_s\":{prefill:.2},\"decode_s\":{decode:.2},\"prefill_tokens_per_s\":{:.0},\
         \"decode_tokens_per_s\":{:.0},\"new_tokens_per_s\":{:.1},\"peak_rss_mb\":{}}}",
        (rows * prompt) as f64 / prefill,
        (rows * (new - 1)) as f64 / decode,
        (rows * new) as f64 / (prefill + decode),
        peak_rss_mb()
    );

    let options = EngineOptions { slots: rows, max_step_tokens: STEP_TOKENS, max_positions: prompt + new, threads };
    // No token ends a row, so that every row has its full length, as with the peers.
    let digest = String::new();
    let engine =
        Engine::from_parts(Box::new(model), files.tokenizer().unwrap(), None, digest, Vec::new(), options).unwrap();
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
        tokens += answer.map_or(0, |a| a.completion_tokens as usize);
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{{\"engine\":true,\"device\":\"{name}\",\"rows\":{rows},\"prompt\":{prompt},\"new\":{new},\"threads\":{threads},\
         \"tokens\":{tokens},\"seconds\":{seconds:.2},\"new_tokens_per_s\":{:.1},\"peak_rss_mb\":{}}}",
        tokens as f64 / seconds,
        peak_rss_mb()
    );
}

/// The most memory that the process has held, where the system tells.
fn peak_rss_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024
}
