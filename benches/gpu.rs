//! What a device does with decoders: the program of `ci/gpu.sh`, which runs a process for each step. Prints one JSON line a figure.
//!
//!     gpu device [MB]                                      what it is, what it computes in, how fast it copies MB (default 512)
//!     gpu parity [MODEL GOLDENS]                           the tiny models, or SmolLM2, against transformers
//!     gpu speed NAME MODEL ROWS PROMPT NEW SECONDS         tokens per second and peak memory, decoder and whole engine
//!     gpu config MODEL                                     its config.json, for transformers
//!
//! MODEL is a GGUF file, a folder, or a shape with random weights: `shape:135M`, `shape:1.5B`, `shape:tiny`. `CUREC_DEVICE` (default
//! `wgpu`) names the device. A run takes about SECONDS and loading; where that is too little it computes less, and its rates are
//! those of what it has computed. Knows nothing of other steps or engines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "fences are for the product")]

#[path = "../tests/common/parity.rs"]
mod parity;
#[path = "shared/speed.rs"]
mod speed;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use burn::tensor::{FloatDType, Tensor};
use curec::error::Result;
use curec::kernels::narrow::{Half, Matrix};
use curec::llm::decoder::{CausalLm, Decoder};
use curec::llm::decoder_config::{DecoderConfig, Family};
use curec::llm::device::{self, ComputeDevice};
use curec::llm::merged::config_json;
use curec::llm::tensor_files::KeptTensor;
use curec::llm::weights::ModelFiles;
use serde_json::json;
use speed::Timed;

/// Where the tiny models are, from the repository's root, in which `ci/gpu.sh` and cargo start this program.
const TINY: &str = "tests/fixtures/models";
/// How far a logit may be off: of weights in 32 bits, and of narrower ones.
const LIMITS: (f32, f32) = (2e-3, 2e-2);
/// The first repetition is a warm-up: kernels are compiled and tuned in it.
const REPETITIONS: u32 = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["device"] => about(&opened(), 512),
        ["device", mb] => about(&opened(), number(mb)),
        ["parity"] => parity_of_tiny_models(&opened()),
        ["parity", model, goldens] => parity_of_smollm2(&opened(), model, Path::new(goldens)),
        ["speed", name, model, rows, prompt, new, seconds] => {
            speed_of(&opened(), name, model, [number(rows), number(prompt), number(new)], number(seconds) as f64);
        }
        ["config", model] => println!("{:#}", config_json(&Model::open(model).config)),
        _ => println!("gpu: see ci/gpu.sh, or the first lines of benches/gpu.rs"),
    }
}

fn opened() -> ComputeDevice {
    device::open(&std::env::var("CUREC_DEVICE").unwrap_or_else(|_| "wgpu".to_owned())).unwrap()
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is no whole number"))
}

// ---------------------------------------------------------------------------------------------------------------------
// The device
// ---------------------------------------------------------------------------------------------------------------------

fn about(device: &ComputeDevice, mb: usize) {
    let (name, is_software) = identity(device);
    let mut computes_in = vec!["f32"];
    for (name, dtype) in [("f16", FloatDType::F16), ("bf16", FloatDType::BF16)] {
        if device.burn.supports_dtype(dtype) {
            computes_in.push(name);
        }
    }
    let line = json!({
        "figure": "device",
        "device": device.name,
        "name": name,
        "is_software": is_software,
        "computes_in": computes_in,
        "copies_gb_per_s": copies_gb_per_s(device, mb),
    });
    println!("{line}");
}

/// The device's own name, and whether it is this machine's processor and no card.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn identity(device: &ComputeDevice) -> (String, bool) {
    match device.burn.identity() {
        Some(found) => (found.name, found.physical.is_none()),
        None => (device.name.clone(), true),
    }
}

#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
fn identity(device: &ComputeDevice) -> (String, bool) {
    (device.name.clone(), true)
}

/// How many GB a second the device's memory moves: the best of several rounds in which a number is added to every value of a large
/// tensor, which reads and writes each once.
fn copies_gb_per_s(device: &ComputeDevice, mb: usize) -> f64 {
    const TIMES: usize = 20;
    let values = mb * (1 << 20) / 4;
    let mut x = Tensor::<1>::zeros([values], &device.burn);
    let mut best = 0f64;
    for _ in 0..4 {
        device.burn.sync().unwrap();
        let started = Instant::now();
        for _ in 0..TIMES {
            x = x.add_scalar(1.0f32);
            // So that additions are not made one.
            device.burn.flush().unwrap();
        }
        device.burn.sync().unwrap();
        best = best.max((TIMES * 2 * 4 * values) as f64 / started.elapsed().as_secs_f64() / 1e9);
    }
    best
}

/// Memory of the device: what its allocator holds, at most so far, and what the card's driver says is used.
#[derive(Default)]
struct Memory {
    reserved: Option<u64>,
}

impl Memory {
    /// Looks at what the allocator holds now. It keeps what it has reserved, so a look after a piece of work is enough.
    fn look(&mut self, device: &ComputeDevice) {
        device.burn.sync().unwrap();
        self.reserved = self.reserved.max(device.burn.memory_pool_usage().map(|usage| usage.bytes_reserved));
    }

    fn peak_mb(&self) -> Option<u64> {
        self.reserved.map(|bytes| bytes >> 20)
    }
}

/// Memory in use on the fullest card, in MB, by whichever processes; none where there is no `nvidia-smi`.
fn card_used_mb() -> Option<u64> {
    let asked = Command::new("nvidia-smi").args(["--query-gpu=memory.used", "--format=csv,noheader,nounits"]).output();
    let said = String::from_utf8(asked.ok()?.stdout).ok()?;
    said.lines().filter_map(|line| line.trim().parse().ok()).max()
}

// ---------------------------------------------------------------------------------------------------------------------
// Models
// ---------------------------------------------------------------------------------------------------------------------

/// A model's files, or a shape alone.
struct Model {
    config: DecoderConfig,
    files: Option<ModelFiles>,
}

impl Model {
    fn open(model: &str) -> Model {
        match model.strip_prefix("shape:") {
            Some(shape) => Model { config: shape_of(shape), files: None },
            None => {
                let files = ModelFiles::open(Path::new(model)).unwrap();
                Model { config: files.config().clone(), files: Some(files) }
            }
        }
    }

    /// Loads it, with the bytes that a value takes on the device: of weights and cache together, 4 where the device does not tell.
    fn load(&self, device: &ComputeDevice, slots: usize, positions: usize) -> (CausalLm, f64) {
        let before = in_use(device);
        let model = match &self.files {
            Some(files) => CausalLm::load(files, None, device, slots, positions).unwrap(),
            None => self.random(device, slots, positions),
        };
        let held = in_use(device).zip(before).map(|(after, before)| after.saturating_sub(before));
        let cached = slots * model.max_positions() * self.cached_values();
        let values = self.config.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>();
        let bytes = held.map_or(4.0, |held| held as f64 / (values + cached) as f64);
        (model, (bytes * 10.0).round() / 10.0)
    }

    /// Random weights, as a file in bf16 would have them: none is needed to see how fast a shape is.
    fn random(&self, device: &ComputeDevice, slots: usize, positions: usize) -> CausalLm {
        let shapes: HashMap<String, Vec<usize>> = self.config.tensors().into_iter().collect();
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        // Of a prime length, so that rows differ.
        let some: Vec<u16> = (0..65_521)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let x = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
                ((0.035 * x).to_bits() >> 16) as u16
            })
            .collect();
        let one = (1f32.to_bits() >> 16) as u16;
        let tensor = |name: &str| -> Result<KeptTensor> {
            let shape = shapes[name].clone();
            let count: usize = shape.iter().product();
            let values = match name.contains("norm") {
                true => vec![one; count],
                false => some.iter().copied().cycle().take(count).collect(),
            };
            Ok(KeptTensor { shape, matrix: Matrix::Halves(Half::Brain, values) })
        };
        CausalLm::from_tensors(&self.config, tensor, device, slots, positions).unwrap()
    }

    /// Values that the cache has for a position.
    fn cached_values(&self) -> usize {
        2 * self.config.layers * self.config.kv_heads * self.config.head_dim
    }

    /// Values that a decoding step must read for this many rows of a length: weights once, of an embedding that is not the output
    /// layer the rows' own lines, and the cache.
    fn values_read(&self, rows: usize, length: f64) -> f64 {
        let is_read = |name: &str| self.config.tie_embeddings || name != "model.embed_tokens.weight";
        let tensors = self.config.tensors();
        let weights =
            tensors.iter().filter(|(name, _)| is_read(name)).map(|(_, shape)| shape.iter().product::<usize>());
        weights.sum::<usize>() as f64 + rows as f64 * length * self.cached_values() as f64
    }
}

/// Bytes that live tensors take, where the device tells.
fn in_use(device: &ComputeDevice) -> Option<u64> {
    device.burn.sync().unwrap();
    device.burn.memory_pool_usage().map(|usage| usage.bytes_in_use)
}

/// The sizes of SmolLM2-135M, of Qwen2.5-1.5B, and tiny ones of the latter's family.
fn shape_of(name: &str) -> DecoderConfig {
    let (family, [vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim]) = match name {
        "135M" => (Family::Llama, [49_152, 576, 1536, 30, 9, 3, 64]),
        "1.5B" => (Family::Qwen2, [151_936, 1536, 8960, 28, 12, 2, 128]),
        "tiny" => (Family::Qwen2, [304, 64, 56, 2, 4, 2, 16]),
        _ => panic!("no shape `{name}`: 135M, 1.5B or tiny"),
    };
    DecoderConfig {
        family,
        vocab_size,
        hidden_size,
        intermediate_size,
        layers,
        heads,
        kv_heads,
        head_dim,
        rope_theta: 1e6,
        rms_eps: 1e-6,
        max_positions: 4096,
        tie_embeddings: true,
        qkv_bias: family == Family::Qwen2,
        qk_norm: false,
        eos_ids: vec![2],
        bos_id: None,
        add_bos: false,
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Parity
// ---------------------------------------------------------------------------------------------------------------------

fn parity_of_tiny_models(device: &ComputeDevice) {
    for (path, cases) in parity::tiny_models(Path::new(TINY)) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        parity_of(device, &name, &Model::open(path.to_str().unwrap()), 128, &cases);
    }
}

fn parity_of_smollm2(device: &ComputeDevice, model: &str, goldens: &Path) {
    parity_of(device, "SmolLM2-135M", &Model::open(model), 256, &parity::smollm2(goldens));
}

fn parity_of(device: &ComputeDevice, name: &str, model: &Model, positions: usize, cases: &[parity::Case]) {
    let (mut decoder, value_bytes) = model.load(device, cases.len(), positions);
    let is_narrow = value_bytes < 3.0;
    let limit = if is_narrow { LIMITS.1 } else { LIMITS.0 };
    let line = |case: &str, largest: f32, agreed: Option<usize>, of: Option<usize>| {
        // JSON has no infinity.
        let shown = largest.is_finite().then_some(largest);
        let is_ok = largest <= limit && (is_narrow || agreed == of);
        let line = json!({
            "figure": "parity", "model": name, "case": case, "value_bytes": value_bytes, "largest": shown, "limit": limit,
            "agreed": agreed, "of": of, "ok": is_ok,
        });
        println!("{line}");
    };
    for (i, case) in cases.iter().enumerate() {
        let found = parity::compare(&mut decoder, i, case);
        line(&case.name, found.largest, Some(found.agreed), Some(case.greedy.len()));
    }
    line("all in one step", parity::compare_together(&mut decoder, cases), None, None);
}

// ---------------------------------------------------------------------------------------------------------------------
// Speed
// ---------------------------------------------------------------------------------------------------------------------

fn speed_of(device: &ComputeDevice, name: &str, model: &str, [rows, prompt, new]: [usize; 3], seconds: f64) {
    let started = Instant::now();
    let model = Model::open(model);
    let (mut decoder, value_bytes) = model.load(device, rows, prompt + new);
    let load = started.elapsed().as_secs_f64();
    let mut memory = Memory::default();
    memory.look(device);

    let prompts = speed::prompts(rows, prompt, model.config.vocab_size);
    let limit = Duration::from_secs_f64(seconds / f64::from(2 * REPETITIONS));
    let started = Instant::now();
    let mut cold = 0.0;
    let mut best: Option<(f64, Timed, Timed, bool)> = None;
    for repetition in 0..REPETITIONS {
        if repetition > 0 && started.elapsed().as_secs_f64() > seconds {
            break;
        }
        let (prefill, next) = speed::prefill(&mut decoder, &prompts, limit);
        memory.look(device);
        let decode = speed::decode(&mut decoder, prompt, next, new - 1, limit);
        memory.look(device);
        let whole = (rows * prompt) as f64 / prefill.rate() + (rows * (new - 1)) as f64 / decode.rate();
        if repetition == 0 {
            cold = whole;
        }
        // The cold one counts only where there was no time for another.
        if repetition <= 1 || best.is_none_or(|(least, ..)| whole < least) {
            best = Some((whole, prefill, decode, repetition > 0));
        }
    }
    let (whole, prefill, decode, is_warm) = best.unwrap();
    let steps = decode.tokens / rows;
    let length = prompt as f64 + steps as f64 / 2.0;
    let read = model.values_read(rows, length) * value_bytes * steps as f64 / decode.seconds / 1e9;
    let line = json!({
        "figure": "speed",
        "what": "decoder",
        "model": name,
        "rows": rows,
        "prompt": prompt,
        "new": new,
        "value_bytes": value_bytes,
        "prefill_tokens_per_s": prefill.rate(),
        "decode_tokens_per_s": decode.rate(),
        "new_tokens_per_s": (rows * new) as f64 / whole,
        "prefilled": prefill.tokens,
        "decode_steps": steps,
        "is_warm": is_warm,
        "cold_s": cold,
        "load_s": load,
        "reads_gb_per_s": read,
        "device_peak_mb": memory.peak_mb(),
        "card_used_mb": card_used_mb(),
        "process_peak_mb": speed::peak_rss_mb(),
    });
    println!("{line}");

    let Some(files) = &model.files else { return };
    if whole > seconds {
        // It answers all rows wholly or not at all.
        let step = format!("engine {name} x {rows}");
        return println!("{}", json!({"figure": "skipped", "step": step, "why": "too slow"}));
    }
    let engine = speed::engine(decoder, files.tokenizer().unwrap(), prompts, new, 0);
    let line = json!({
        "figure": "speed",
        "what": "engine",
        "model": name,
        "rows": rows,
        "prompt": prompt,
        "new": new,
        "tokens": engine.tokens,
        "new_tokens_per_s": engine.rate(),
        "process_peak_mb": speed::peak_rss_mb(),
    });
    println!("{line}");
}
