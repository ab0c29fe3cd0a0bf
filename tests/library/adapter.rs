//! Adapters against transformers + peft (tests/fixtures/make_adapter.py), beside GGUF weights, and merged into a directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use curec::llm::adapter::{Adapter, AdapterShape, Precision};
use curec::llm::decoder::{CausalLm, Decoder, RowStep, WantLogits};
use curec::llm::device::ComputeDevice;
use curec::llm::merged;
use curec::llm::tensor_files::HostTensor;
use curec::llm::tokenizer::Piece;
use curec::llm::weights::ModelFiles;
use serde_json::Value;

use crate::common::{fixture, project};

const MODELS: [&str; 2] = ["tiny-qwen3", "tiny-llama-sharded"];

fn adapter_of(name: &str) -> PathBuf {
    project().join("tests/fixtures/adapters").join(name)
}

/// The fixture's prompts and their last logits.
fn prompts(name: &str) -> Vec<(Vec<u32>, Vec<f32>)> {
    let text = std::fs::read_to_string(adapter_of(name).join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let numbers = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<f64>>();
    let prompt = |p: &Value| {
        let ids = numbers(&p["ids"]).into_iter().map(|x| x as u32).collect();
        (ids, numbers(&p["logits_last"]).into_iter().map(|x| x as f32).collect())
    };
    expected["prompts"].as_array().unwrap().iter().map(prompt).collect()
}

fn logits(files: &ModelFiles, adapter: Option<&Adapter>, device: &ComputeDevice, ids: &[u32]) -> Vec<f32> {
    let mut model = CausalLm::load(files, adapter, device, 1, 64).unwrap();
    model.step(&[RowStep { slot: 0, start: 0, tokens: ids, want_logits: WantLogits::Last }]).unwrap().data
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn adapters_of_peft_give_the_logits_of_peft() {
    for name in MODELS {
        let files = ModelFiles::open(&fixture(name)).unwrap();
        let adapter = Adapter::read(&adapter_of(name), files.config()).unwrap();
        for device in [ComputeDevice::cpu(), ComputeDevice::cpu_reference()] {
            for (ids, want) in prompts(name) {
                let off = worst(&logits(&files, Some(&adapter), &device, &ids), &want);
                assert!(off < 1e-4, "{name} on {}: a logit is off by {off}", device.name);
                assert!(worst(&logits(&files, None, &device, &ids), &want) > 0.5, "{name}: the adapter does nothing");
            }
        }
    }
}

/// An adapter of every attention layer of the tiny GGUF model.
fn for_gguf(files: &ModelFiles) -> Adapter {
    let values = |n: usize, seed: f32| (0..n).map(|i| 0.2 * (i as f32 * 0.61 + seed).sin()).collect();
    let shape = AdapterShape { rank: 2, alpha: 4.0, dropout: 0.0, targets: vec!["q_proj".into(), "k_proj".into()] };
    let tensors = files.config().tensors().into_iter().filter_map(|(name, shape)| {
        let module = name.strip_suffix(".weight").filter(|m| m.ends_with("q_proj") || m.ends_with("k_proj"))?;
        let (a, b) = ([2, shape[1]], [shape[0], 2]);
        let of = |s: [usize; 2], seed| HostTensor { shape: s.to_vec(), data: values(s[0] * s[1], seed) };
        Some((module.to_owned(), (of(a, 0.3), of(b, 1.1))))
    });
    Adapter { tensors: tensors.collect(), shape }
}

#[test]
fn merged_directories_give_the_logits_of_model_and_adapter() {
    let device = ComputeDevice::cpu();
    let ids = [5, 77, 140, 9, 23];
    for name in MODELS.into_iter().chain(["tiny-llama.gguf"]) {
        let files = ModelFiles::open(&fixture(name)).unwrap();
        let adapter = match name.ends_with("gguf") {
            true => for_gguf(&files),
            false => Adapter::read(&adapter_of(name), files.config()).unwrap(),
        };
        let want = logits(&files, Some(&adapter), &device, &ids);
        assert!(worst(&want, &logits(&files, None, &device, &ids)) > 0.1, "{name}: the adapter does nothing");
        let folder = tempfile::tempdir().unwrap();
        for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::F16, 0.05)] {
            let out = folder.path().join(format!("{precision:?}"));
            merged::write(&files, Some(&adapter), &out, precision).unwrap();
            let merged = ModelFiles::open(&out).unwrap();
            let off = worst(&logits(&merged, None, &device, &ids), &want);
            assert!(off < tolerance, "{name} {precision:?}: a logit is off by {off}");

            // The tokenizer went along.
            let pieces = [
                Piece::Control("<|im_start|>"),
                Piece::Text("The user would like Alien, 1979."),
                Piece::Control("<|im_end|>"),
            ];
            let [was, is] = [&files, &merged].map(|m| m.tokenizer().unwrap().encode(&pieces).unwrap());
            assert_eq!(was, is, "{name}");
            assert_eq!(was[0], 1, "{name}: a control token is one token");
            let [was, is] = [&files, &merged].map(|m| m.chat_template().unwrap().source().to_owned());
            assert_eq!(was, is, "{name}");
            assert_eq!(files.config().eos_ids, merged.config().eos_ids, "{name}");
        }
        assert!(merged::write(&files, None, &folder.path().join("F32"), Precision::F32).is_err(), "over what is there");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "something was left behind");
    }
}

/// What tests/python/test_adapter.py loads with transformers and peft.
#[test]
fn transformers_and_peft_load_what_is_written() {
    let Some(python) = std::env::var_os("CUREC_PEFT_PYTHON") else {
        println!("skipped: CUREC_PEFT_PYTHON names no Python with transformers and peft");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let write = |case: &str, path: &Path, adapter: &Adapter, files: &ModelFiles, base: &Path| {
        let at = folder.path().join(case);
        std::fs::create_dir(&at).unwrap();
        merged::write(files, Some(adapter), &at.join("merged"), Precision::F32).unwrap();
        adapter.write(&at.join("adapter"), &base.display().to_string(), Precision::F32).unwrap();
        let ids = [5, 77, 140, 9, 23];
        let tokens = files.tokenizer().unwrap().encode_text("The user would like Alien, 1979.").unwrap();
        let expected = serde_json::json!({
            "base": base,
            "ids": ids,
            "logits_last": logits(files, Some(adapter), &ComputeDevice::cpu(), &ids),
            "text": "The user would like Alien, 1979.",
            "tokens": tokens,
            "from": path,
        });
        std::fs::write(at.join("expected.json"), expected.to_string()).unwrap();
    };
    for name in MODELS {
        let path = fixture(name);
        let files = ModelFiles::open(&path).unwrap();
        write(name, &path, &Adapter::read(&adapter_of(name), files.config()).unwrap(), &files, &path);
    }
    // PEFT reads no GGUF: the adapter goes beside the plain model as curec writes it.
    let path = fixture("tiny-llama.gguf");
    let files = ModelFiles::open(&path).unwrap();
    let base = folder.path().join("tiny-llama-base");
    merged::write(&files, None, &base, Precision::F32).unwrap();
    write("tiny-llama.gguf", &path, &for_gguf(&files), &files, &base);

    let test = project().join("tests/python/test_adapter.py");
    let out = Command::new(python).arg(test).arg("-v").env("CUREC_ADAPTERS", folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !said.contains("skipped"), "{said}");
}
