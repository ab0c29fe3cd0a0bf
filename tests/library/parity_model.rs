//! The decoder against transformers: tiny random models of every family on every device of this machine, and
//! SmolLM2-135M on the CPU.
//!
//! `CUREC_SHARED` (default `../shared`) holds the goldens, `CUREC_HOME` (default `.curec`) the models; what is absent is
//! skipped with a reason. `ci/gpu.sh` does the same on a GPU, with the big model as well.

use std::path::{Path, PathBuf};

use curec::llm::decoder::{CausalLm, Decoder, RowStep, WantLogits};
use curec::llm::device::{self, ComputeDevice};
use curec::llm::weights::ModelFiles;

use crate::parity::{self, Case};

const TOLERANCE: f32 = 2e-3;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A path of the environment, or its default beside or inside the package.
fn place(variable: &str, default: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| PathBuf::from(default), PathBuf::from);
    if path.is_absolute() { path } else { root().join(path) }
}

fn step(model: &mut CausalLm, slot: usize, start: usize, tokens: &[u32], want: WantLogits) -> Vec<f32> {
    model.step(&[RowStep { slot, start, tokens, want_logits: want }]).unwrap().data
}

fn tiny_models() -> Vec<(PathBuf, Vec<Case>)> {
    parity::tiny_models(&root().join("tests/fixtures/models"))
}

fn assert_close(what: &str, difference: f32) {
    assert!(difference <= TOLERANCE, "{what}: a logit is off by {difference}");
    println!("{what}: largest difference {difference:.2e}");
}

fn check(what: &str, model: &mut CausalLm, cases: &[Case]) {
    for (i, case) in cases.iter().enumerate() {
        let what = format!("{what}, {}", case.name);
        // Slots are used again without clearing, so that what an earlier row left behind would show.
        let found = parity::compare(model, i % 2, case);
        assert_close(&what, found.largest);
        assert_eq!(found.agreed, case.greedy.len(), "{what}: the greedy answer is another");
    }
}

fn check_tiny(path: &Path, cases: &[Case], device: &ComputeDevice) {
    let files = ModelFiles::open(path).unwrap();
    let mut model = CausalLm::load(&files, None, device, cases.len(), 128).unwrap();
    let what = format!("{} on {}", path.file_name().unwrap().to_string_lossy(), device.name);
    check(&what, &mut model, cases);
    assert_close(&format!("{what}, all prompts in one step"), parity::compare_together(&mut model, cases));
}

#[test]
fn tiny_models_agree_with_transformers_on_the_cpu() {
    for (path, cases) in tiny_models() {
        check_tiny(&path, &cases, &ComputeDevice::cpu());
    }
}

#[test]
fn tiny_models_agree_with_transformers_through_generic_operations() {
    for (path, cases) in tiny_models() {
        check_tiny(&path, &cases, &ComputeDevice::cpu_reference());
    }
}

#[test]
fn the_generic_operations_run_on_a_device_with_gradients() {
    for (path, cases) in tiny_models() {
        check_tiny(&path, &cases, &ComputeDevice::cpu().autodiff());
    }
}

#[test]
fn tiny_models_agree_with_transformers_on_wgpu() {
    let device = match device::open("wgpu") {
        Ok(device) => device,
        Err(e) => return println!("skipped: {}", e.explain()),
    };
    for (path, cases) in tiny_models() {
        check_tiny(&path, &cases, &device);
    }
}

/// SmolLM2 with its goldens, or why not.
fn smollm2(slots: usize) -> Result<(CausalLm, Vec<Case>), String> {
    let model = place("CUREC_HOME", ".curec").join("models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    let goldens = place("CUREC_SHARED", "../shared").join("goldens");
    for needed in [&model, &goldens] {
        if !needed.exists() {
            return Err(format!("{} is not here (ci/quickstart.sh fetches the model)", needed.display()));
        }
    }
    let files = ModelFiles::open(&model).unwrap();
    Ok((CausalLm::load(&files, None, &ComputeDevice::cpu(), slots, 256).unwrap(), parity::smollm2(&goldens)))
}

#[test]
fn smollm2_agrees_with_transformers() {
    match smollm2(2) {
        Ok((mut model, cases)) => check("SmolLM2", &mut model, &cases),
        Err(reason) => println!("skipped: {reason}"),
    }
}

#[test]
fn a_row_of_smollm2_has_the_same_bits_alone_in_a_batch_and_in_chunks() {
    let (mut model, cases) = match smollm2(8) {
        Ok(found) => found,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let row = cases.iter().map(|case| &case.tokens).max_by_key(|tokens| tokens.len()).unwrap().clone();
    let alone = step(&mut model, 0, 0, &row, WantLogits::Last);

    let want_logits = WantLogits::Last;
    let mut rows = vec![RowStep { slot: 5, start: 0, tokens: &row, want_logits }];
    for (i, case) in cases.iter().enumerate() {
        rows.insert(i / 2, RowStep { slot: i, start: 0, tokens: &case.tokens, want_logits });
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
