//! Sentences per second of all-MiniLM-L6-v2: `cargo bench --bench encoder -- [sentences] [tokens] [batches] [threads]`,
//! default 64 sentences of 32 tokens, 8 times, two threads. Prints one JSON line.
//!
//! `CUREC_HOME` (default `.curec`) holds the model, `CUREC_DEVICE` (default `cpu`) names the device.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "fences are for the product")]

use std::path::PathBuf;
use std::time::Instant;

use curec::llm::device;
use curec::llm::encoder::SentenceEncoder;

/// Words that are one token each.
const WORDS: &[&str] = &["film", "music", "story", "people", "city", "night", "world", "love", "war", "family", "game"];

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let number = |i: usize, default: usize| numbers.get(i).copied().unwrap_or(default);
    let (sentences, tokens, batches, threads) = (number(0, 64), number(1, 32), number(2, 8), number(3, 2));
    let home = std::env::var_os("CUREC_HOME").map_or_else(|| PathBuf::from(".curec"), PathBuf::from);
    let path = home.join("models/minilm");
    if !path.exists() {
        return println!("skipped: {} is not here (ci/fetch.sh gets it)", path.display());
    }
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let name = std::env::var("CUREC_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let encoder = SentenceEncoder::load(&path, &device::open(&name).unwrap()).unwrap();
    // [CLS] and [SEP] are two of the tokens.
    let sentence = |s: usize| (0..tokens - 2).map(|i| WORDS[(s * 7 + i * i + i) % WORDS.len()]).collect::<Vec<_>>();
    let texts: Vec<String> = (0..sentences).map(|s| sentence(s).join(" ")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_eq!(encoder.token_ids(texts[0]).unwrap().len(), tokens);
    encoder.embed(&texts).unwrap();
    for repetition in 0..3 {
        let started = Instant::now();
        for _ in 0..batches {
            encoder.embed(&texts).unwrap();
        }
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{{\"device\":\"{name}\",\"sentences\":{sentences},\"tokens\":{tokens},\"threads\":{threads},\
             \"repetition\":{repetition},\"sentences_per_s\":{:.1}}}",
            (batches * sentences) as f64 / seconds
        );
    }
}
