//! New tokens per second of SmolLM2-135M: `cargo bench --bench generation -- [rows] [prompt] [new] [threads]`, default
//! 32 rows, 128 prompt tokens, 64 new ones, two threads; no shared prefix. Prints one JSON line for the decoder alone
//! and one for the whole engine: batcher, sampler, log-probabilities, detokenizer.
//!
//! `CUREC_HOME` (default `.curec`) holds the model, `CUREC_MODEL` names another one; `CUREC_DEVICE` (default `cpu`) names the
//! device.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "fences are for the product")]

#[path = "shared/speed.rs"]
mod speed;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use curec::llm::decoder::{CausalLm, Decoder};
use curec::llm::device;
use curec::llm::weights::ModelFiles;

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

    let prompts = speed::prompts(rows, prompt, model.vocab_size());
    let (prefill, next) = speed::prefill(&mut model, &prompts, Duration::MAX);
    let decode = speed::decode(&mut model, prompt, next, new.saturating_sub(1), Duration::MAX);
    println!(
        "{{\"device\":\"{name}\",\"rows\":{rows},\"prompt\":{prompt},\"new\":{new},\"threads\":{threads},\
         \"load_s\":{load:.2},\"prefill_s\":{:.2},\"decode_s\":{:.2},\"prefill_tokens_per_s\":{:.0},\
         \"decode_tokens_per_s\":{:.0},\"new_tokens_per_s\":{:.1},\"peak_rss_mb\":{}}}",
        prefill.seconds,
        decode.seconds,
        prefill.rate(),
        decode.rate(),
        (rows * new) as f64 / (prefill.seconds + decode.seconds),
        speed::peak_rss_mb()
    );

    let engine = speed::engine(model, files.tokenizer().unwrap(), prompts, new, threads);
    println!(
        "{{\"engine\":true,\"device\":\"{name}\",\"rows\":{rows},\"prompt\":{prompt},\"new\":{new},\"threads\":{threads},\
         \"tokens\":{},\"seconds\":{:.2},\"new_tokens_per_s\":{:.1},\"peak_rss_mb\":{}}}",
        engine.tokens,
        engine.seconds,
        engine.rate(),
        speed::peak_rss_mb()
    );
}
