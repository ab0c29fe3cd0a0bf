//! New tokens per second of SmolLM2-135M: `cargo bench --bench generation -- [rows] [prompt] [new] [threads]`, default
//! 32 rows, 128 prompt tokens, 64 new ones, two threads; no shared prefix. Prints one JSON line.
//!
//! `CUREC_HOME` (default `.curec`) holds the model, `CUREC_DEVICE` (default `cpu`) names the device.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::time::Instant;

use curec::llm::decoder::{CausalLm, Decoder, RowStep, WantLogits};
use curec::llm::device;
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
    let path = home.join("models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        return println!("skipped: {} is not here (ci/quickstart.sh fetches it)", path.display());
    }
    let name = std::env::var("CUREC_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let device = device::open(&name).unwrap();
    let started = Instant::now();
    let files = ModelFiles::open(&path).unwrap();
    let mut model = CausalLm::load(&files, &device, rows, prompt + new).unwrap();
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
}

/// The most memory that the process has held, where the system tells.
fn peak_rss_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024
}
