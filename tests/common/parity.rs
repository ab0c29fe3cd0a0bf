//! The decoder against logits and greedy answers of transformers: what the parity tests and `benches/gpu.rs` share.
//!
//! Knows where the goldens are and how they are written. Knows nothing of tolerances: whoever calls decides what is close.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use curec::llm::decoder::{CausalLm, Decoder, RowStep, WantLogits};
use safetensors::SafeTensors;
use serde_json::Value;

/// A prompt with what transformers makes of it.
pub struct Case {
    pub name: String,
    pub tokens: Vec<u32>,
    /// Logits of the last position.
    pub last: Vec<f32>,
    /// Logits of all positions, where they were kept.
    pub all: Option<Vec<f32>>,
    /// The greedy continuation.
    pub greedy: Vec<u32>,
}

/// How far a model is from a case.
pub struct Difference {
    /// The largest difference of a logit, at the prompt's positions that the case has.
    pub largest: f32,
    /// Tokens of the continuation that the model would have chosen too, given those before. All of them agree exactly where its own
    /// greedy answer is the same.
    pub agreed: usize,
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// The tiny random models of a folder with their cases, in order of their names.
pub fn tiny_models(folder: &Path) -> Vec<(PathBuf, Vec<Case>)> {
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
        // Sentence encoders have no prompts.
        let Some(prompts) = expected["prompts"].as_array() else { continue };
        let case = |(i, prompt): (usize, &Value)| Case {
            name: format!("prompt {i}"),
            tokens: ids(&prompt["ids"]),
            last: floats(&prompt["logits_last"]),
            all: None,
            greedy: ids(&prompt["greedy_ids"]),
        };
        found.push((path, prompts.iter().enumerate().map(case).collect()));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(found.len() >= 3, "the tiny models are missing");
    found
}

/// SmolLM2's cases from the folder of the goldens.
pub fn smollm2(goldens: &Path) -> Vec<Case> {
    let cases: Value = serde_json::from_slice(&std::fs::read(goldens.join("smollm2_goldens.json")).unwrap()).unwrap();
    let bytes = std::fs::read(goldens.join("smollm2_logits.safetensors")).unwrap();
    let logits = SafeTensors::deserialize(&bytes).unwrap();
    let golden = |name: String| -> Option<Vec<f32>> {
        let tensor = logits.tensor(&name).ok()?;
        Some(tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
    };
    let case = |case: &Value| {
        let name = case["name"].as_str().unwrap().to_owned();
        Case {
            tokens: ids(&case["token_ids"]),
            last: golden(format!("{name}.last_logits")).unwrap(),
            all: golden(format!("{name}.all_logits")),
            greedy: ids(&case["greedy32_ids_ignoring_eos"]),
            name,
        }
    };
    cases["prompts"].as_array().unwrap().iter().map(case).collect()
}

/// The largest difference between two rows of logits; infinite where one is no number, which `f32::max` would leave out.
fn apart(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len(), "another number of logits");
    let differences = got.iter().zip(want).map(|(a, b)| (a - b).abs());
    differences.map(|x| if x.is_nan() { f32::INFINITY } else { x }).fold(0.0, f32::max)
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

/// Runs a case in a slot: its prompt in one step, its continuation a token a step.
pub fn compare(model: &mut CausalLm, slot: usize, case: &Case) -> Difference {
    let mut step = |start: usize, tokens: &[u32], want_logits: WantLogits| {
        model.step(&[RowStep { slot, start, tokens, want_logits }]).unwrap().data
    };
    let (mut logits, largest) = match &case.all {
        Some(all) => {
            let got = step(0, &case.tokens, WantLogits::All);
            let last = got[got.len() - case.last.len()..].to_vec();
            let worst = apart(&got, all).max(apart(&last, &case.last));
            (last, worst)
        }
        None => {
            let last = step(0, &case.tokens, WantLogits::Last);
            let worst = apart(&last, &case.last);
            (last, worst)
        }
    };
    let mut agreed = 0;
    for (i, token) in case.greedy.iter().enumerate() {
        agreed += usize::from(best(&logits) == *token);
        logits = step(case.tokens.len() + i, &[*token], WantLogits::Last);
    }
    Difference { largest, agreed }
}

/// The largest difference after the prompts where all of them are one step, a slot each.
pub fn compare_together(model: &mut CausalLm, cases: &[Case]) -> f32 {
    let want_logits = WantLogits::Last;
    let slots = cases.iter().enumerate();
    let rows: Vec<RowStep> =
        slots.map(|(slot, case)| RowStep { slot, start: 0, tokens: &case.tokens, want_logits }).collect();
    let logits = model.step(&rows).unwrap();
    cases.iter().enumerate().map(|(i, case)| apart(logits.row(i), &case.last)).fold(0.0, f32::max)
}
