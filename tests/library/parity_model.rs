//! The decoder against transformers: tiny random models of every family on every device of this machine, and
//! SmolLM2-135M on the CPU.
//!
//! `CUREC_SHARED` (default `../shared`) holds the goldens, `CUREC_HOME` (default `.curec`) the models; what is absent is
//! skipped with a reason. `CUREC_TEST_DEVICE` runs the big model on another device (`ci/gpu.sh`).

use std::path::{Path, PathBuf};

use curec::llm::decoder::{CausalLm, Decoder, RowStep, WantLogits};
use curec::llm::device::{self, ComputeDevice};
use curec::llm::weights::ModelFiles;
use serde_json::Value;

const TOLERANCE: f32 = 2e-3;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A path of the environment, or its default beside or inside the package.
fn place(variable: &str, default: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| PathBuf::from(default), PathBuf::from);
    if path.is_absolute() { path } else { root().join(path) }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
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

fn step(model: &mut CausalLm, slot: usize, start: usize, tokens: &[u32], want: WantLogits) -> Vec<f32> {
    model.step(&[RowStep { slot, start, tokens, want_logits: want }]).unwrap().data
}

/// The greedy continuation of what a slot holds, from its last logits.
fn greedy(model: &mut CausalLm, slot: usize, mut position: usize, mut logits: Vec<f32>, count: usize) -> Vec<u32> {
    let mut tokens = Vec::new();
    while tokens.len() < count {
        let token = best(&logits);
        tokens.push(token);
        logits = step(model, slot, position, &[token], WantLogits::Last);
        position += 1;
    }
    tokens
}

fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= TOLERANCE, "{what}: a logit is off by {worst}");
    println!("{what}: largest difference {worst:.2e}");
}

fn tiny_models() -> Vec<(PathBuf, Value)> {
    let folder = root().join("tests/fixtures/models");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let expected = if path.is_dir() {
            path.join("expected.json")
        } else if path.extension().is_some_and(|e| e == "gguf") {
            path.with_extension("gguf.json")
        } else {
            continue;
        };
        let expected: Value = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
        if expected.get("prompts").is_some_and(|p| p[0].get("greedy_ids").is_some()) {
            found.push((path, expected));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(found.len() >= 3, "the fixtures are missing");
    found
}

fn check_tiny(path: &Path, expected: &Value, device: &ComputeDevice) {
    let files = ModelFiles::open(path).unwrap();
    let mut model = CausalLm::load(&files, None, device, 3, 128).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    for (i, prompt) in expected["prompts"].as_array().unwrap().iter().enumerate() {
        let tokens = ids(&prompt["ids"]);
        let want = ids(&prompt["greedy_ids"]);
        // Slots are used again without clearing, so that what an earlier row left behind would show.
        let slot = i % 2;
        let logits = step(&mut model, slot, 0, &tokens, WantLogits::Last);
        assert_close(&format!("{name} on {}, prompt {i}", device.name), &logits, &floats(&prompt["logits_last"]));
        let got = greedy(&mut model, slot, tokens.len(), logits, want.len());
        assert_eq!(got, want, "{name} on {}, prompt {i}", device.name);
    }
}

#[test]
fn tiny_models_agree_with_transformers_on_the_cpu() {
    for (path, expected) in tiny_models() {
        check_tiny(&path, &expected, &ComputeDevice::cpu());
    }
}

#[test]
fn tiny_models_agree_with_transformers_through_generic_operations() {
    for (path, expected) in tiny_models() {
        check_tiny(&path, &expected, &ComputeDevice::cpu_reference());
    }
}

#[test]
fn the_generic_operations_run_on_a_device_with_gradients() {
    for (path, expected) in tiny_models() {
        check_tiny(&path, &expected, &ComputeDevice::cpu().autodiff());
    }
}

#[test]
fn tiny_models_agree_with_transformers_on_wgpu() {
    let device = match device::open("wgpu") {
        Ok(device) => device,
        Err(e) => return println!("skipped: {}", e.explain()),
    };
    for (path, expected) in tiny_models() {
        check_tiny(&path, &expected, &device);
    }
}

/// SmolLM2 with its goldens, or why not.
fn smollm2(device: &ComputeDevice, slots: usize) -> Result<(CausalLm, Value, PathBuf), String> {
    let model = place("CUREC_HOME", ".curec").join("models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    let goldens = place("CUREC_SHARED", "../shared").join("goldens");
    for needed in [&model, &goldens] {
        if !needed.exists() {
            return Err(format!("{} is not here (ci/quickstart.sh fetches the model)", needed.display()));
        }
    }
    let cases: Value = serde_json::from_slice(&std::fs::read(goldens.join("smollm2_goldens.json")).unwrap()).unwrap();
    let files = ModelFiles::open(&model).unwrap();
    Ok((CausalLm::load(&files, None, device, slots, 256).unwrap(), cases, goldens.join("smollm2_logits.safetensors")))
}

#[test]
fn smollm2_agrees_with_transformers() {
    let device = match std::env::var("CUREC_TEST_DEVICE") {
        Ok(name) => device::open(&name).unwrap(),
        Err(_) => ComputeDevice::cpu(),
    };
    let (mut model, goldens, logits) = match smollm2(&device, 2) {
        Ok(found) => found,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let bytes = std::fs::read(logits).unwrap();
    let logits = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let golden = |name: &str| -> Vec<f32> {
        let data = logits.tensor(name).unwrap();
        data.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    for (i, case) in goldens["prompts"].as_array().unwrap().iter().enumerate() {
        let name = case["name"].as_str().unwrap();
        let tokens = ids(&case["token_ids"]);
        let all = step(&mut model, i % 2, 0, &tokens, WantLogits::All);
        let last = all[all.len() - model.vocab_size()..].to_vec();
        assert_close(name, &last, &golden(&format!("{name}.last_logits")));
        if let Ok(want) = logits.tensor(&format!("{name}.all_logits")) {
            assert_eq!(want.data().len(), all.len() * 4);
            assert_close(&format!("{name}, all positions"), &all, &golden(&format!("{name}.all_logits")));
        }
        let want = ids(&case["greedy32_ids_ignoring_eos"]);
        assert_eq!(greedy(&mut model, i % 2, tokens.len(), last, want.len()), want, "{name}");
    }
}

#[test]
fn a_row_of_smollm2_has_the_same_bits_alone_in_a_batch_and_in_chunks() {
    let (mut model, goldens, _) = match smollm2(&ComputeDevice::cpu(), 8) {
        Ok(found) => found,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let prompts: Vec<Vec<u32>> = goldens["prompts"].as_array().unwrap().iter().map(|p| ids(&p["token_ids"])).collect();
    let row = prompts.iter().max_by_key(|p| p.len()).unwrap().clone();
    let alone = step(&mut model, 0, 0, &row, WantLogits::Last);

    let want_logits = WantLogits::Last;
    let mut rows = vec![RowStep { slot: 5, start: 0, tokens: &row, want_logits }];
    for (i, tokens) in prompts.iter().enumerate() {
        rows.insert(i / 2, RowStep { slot: i, start: 0, tokens, want_logits });
    }
    let logits = model.step(&rows).unwrap();
    let at = rows.iter().position(|r| r.slot == 5).unwrap();
    assert!(logits.row(at) == alone, "a batch changes the row");

    let (first, second) = row.split_at(row.len() / 3);
    step(&mut model, 6, 0, first, WantLogits::None);
    model.copy_prefix(6, 7, first.len()).unwrap();
    let chunked = step(&mut model, 6, first.len(), second, WantLogits::Last);
    assert!(chunked == alone, "chunks change the row");
    let copied = step(&mut model, 7, first.len(), second, WantLogits::Last);
    assert!(copied == alone, "a copied prefix changes the row");
}
