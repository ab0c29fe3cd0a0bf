//! The learning decoder against transformers + peft (tests/fixtures/make_gradients.py), and what its training promises:
//! packing, accumulation and interruption change nothing, and it learns.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use curec::error::Kind;
use curec::learn::loss::{self, Grpo};
use curec::learn::optimise::Accumulation;
use curec::learn::packing::{Batch, Example};
use curec::learn::supervised::{Config, Record, Surroundings, accumulate, align, validate};
use curec::learn::trainable::TrainableLm;
use curec::llm::adapter::{AdapterShape, TARGETS};
use curec::llm::decoder::{CausalLm, Decoder, RowStep, WantLogits};
use curec::llm::device::ComputeDevice;
use curec::llm::ops::into_vec;
use curec::llm::weights::ModelFiles;
use curec::network::parameters::Accumulated;
use curec::network::random::Random;
use curec::telemetry::Voice;
use safetensors::SafeTensors;
use serde_json::Value;

const TOLERANCE: f64 = 1e-3;
const MODELS: [&str; 3] = ["tiny-llama-sharded", "tiny-qwen2", "tiny-qwen3"];

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// What PyTorch found for one model.
struct Golden {
    bytes: Vec<u8>,
    case: Value,
}

impl Golden {
    fn open(model: &str) -> Golden {
        let bytes = std::fs::read(fixtures().join(format!("gradients/{model}.safetensors"))).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let case = serde_json::from_str(&header.metadata().as_ref().unwrap()["case"]).unwrap();
        Golden { bytes, case }
    }

    fn values(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let data = file.tensor(name).unwrap();
        data.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn examples(&self) -> Vec<Example> {
        let example = |e: &Value| Example { prompt: ids(&e["prompt"]), answer: ids(&e["answer"]), weights: Vec::new() };
        self.case["examples"].as_array().unwrap().iter().map(example).collect()
    }

    /// The model with the fixture's adapter.
    fn model(&self, name: &str) -> TrainableLm {
        let alpha = self.case["alpha"].as_f64().unwrap();
        let mut lm = begin(name, &shape(self.case["rank"].as_u64().unwrap() as usize, alpha));
        for (slot_name, golden) in names(&lm) {
            let slot = lm.parameters().slot(&slot_name).unwrap();
            lm.parameters_mut().write(slot, self.values(&golden)).unwrap();
        }
        lm
    }

    fn loss(&self, kind: &str) -> f64 {
        self.case["losses"][kind].as_f64().unwrap()
    }
}

/// Names of the adapter's weights here and in the fixture.
fn names(lm: &TrainableLm) -> Vec<(String, String)> {
    let golden = |n: &str| n.replace(".lora_A", ".a").replace(".lora_B", ".b");
    lm.parameters().names().map(|n| (n.to_owned(), golden(n))).collect()
}

fn shape(rank: usize, alpha: f64) -> AdapterShape {
    AdapterShape { rank, alpha, dropout: 0.0, targets: TARGETS.map(str::to_owned).to_vec() }
}

fn begin(model: &str, shape: &AdapterShape) -> TrainableLm {
    begin_on(model, shape, &ComputeDevice::cpu())
}

fn begin_on(model: &str, shape: &AdapterShape, device: &ComputeDevice) -> TrainableLm {
    let files = ModelFiles::open(&fixtures().join("models").join(model)).unwrap();
    TrainableLm::load(&files, shape, 11, device).unwrap()
}

fn assert_number(what: &str, got: f64, want: f64) {
    assert!((got - want).abs() <= TOLERANCE * want.abs(), "{what}: {got} instead of {want}");
}

/// Relative to the tensor's own length.
fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let length = |x: &mut dyn Iterator<Item = f32>| x.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let (off, all) = (length(&mut got.iter().zip(want).map(|(g, w)| g - w)), length(&mut want.iter().copied()));
    assert!(all > 0.0 && off <= TOLERANCE * all, "{what}: off by {off} of {all}");
}

fn gradient(lm: &TrainableLm, gradients: &Accumulated, name: &str) -> Vec<f32> {
    into_vec(gradients.at(lm.parameters().slot(name).unwrap()).unwrap()).unwrap()
}

fn assert_gradients(what: &str, lm: &TrainableLm, golden: &Golden, kind: &str, gradients: &Accumulated) {
    let names = names(lm);
    assert_eq!(names.len(), 2 * 7 * lm.config().layers);
    for (name, stored) in names {
        let want = golden.values(&format!("{kind}.{stored}"));
        assert_close(&format!("{what} {kind} {name}"), &gradient(lm, gradients, &name), &want);
    }
}

/// The gradient of one step; every inner list is one batch.
fn sft(lm: &TrainableLm, batches: &[Vec<&Example>]) -> Accumulation {
    accumulate(lm, batches, &Random::new(1, "test")).unwrap()
}

/// The gradients' values, weight by weight.
fn all_gradients(lm: &TrainableLm, accumulation: &Accumulation) -> Vec<Vec<f32>> {
    names(lm).iter().map(|(name, _)| gradient(lm, accumulation.gradients(), name)).collect()
}

#[test]
fn supervised_loss_and_gradients_are_pytorchs() {
    for model in MODELS {
        let golden = Golden::open(model);
        let (mut lm, examples) = (golden.model(model), golden.examples());
        let batch = Batch::new(&examples).unwrap();
        for (with_adapter, key) in [(true, "logprobs"), (false, "reference")] {
            let got = lm.target_logprobs(&mut lm.scoring(), &batch, with_adapter).unwrap();
            assert_close(&format!("{model} {key}"), &into_vec(got).unwrap(), &floats(&golden.case[key]));
        }
        let accumulation = sft(&lm, &[examples.iter().collect()]);
        assert_gradients(model, &lm, &golden, "sft", accumulation.gradients());
        let loss = validate(&lm, &examples, 12).unwrap();
        assert_number(&format!("{model} validation"), loss, golden.loss("sft"));
        let stepped = accumulation.step(lm.parameters_mut(), 1e-3, 1.0).unwrap();
        assert_number(&format!("{model} sft"), stepped.loss, golden.loss("sft"));
    }
}

/// The generic operations are what other devices run; the kernels draw the same dropout.
#[test]
fn the_kernels_gradients_are_those_of_the_generic_operations() {
    let examples: Vec<Example> = [(70, 30), (3, 5), (41, 1)]
        .iter()
        .map(|(prompt, answer)| Example {
            prompt: (0..*prompt).map(|i| (i * 7 + prompt) % 250).collect(),
            answer: (0..*answer).map(|i| (i * 11 + 3) % 250).collect(),
            weights: (0..*answer).map(|i| i as f32 - 1.5).collect(),
        })
        .collect();
    let some = ["k_proj", "v_proj", "o_proj", "up_proj"].map(str::to_owned).to_vec();
    for model in MODELS {
        for (dropout, targets) in
            [(0.0, TARGETS.map(str::to_owned).to_vec()), (0.2, shape(1, 1.0).targets), (0.1, some.clone())]
        {
            let shape = AdapterShape { dropout, targets, ..shape(3, 7.0) };
            let [host, generic] = [ComputeDevice::cpu(), ComputeDevice::cpu_reference()].map(|device| {
                let mut lm = begin_on(model, &shape, &device);
                for (name, _) in names(&lm).iter().filter(|(name, _)| name.ends_with("lora_B")) {
                    let slot = lm.parameters().slot(name).unwrap();
                    let n = lm.parameters().read(slot).unwrap().len();
                    let mut random = Random::new(5, name);
                    lm.parameters_mut().write(slot, (0..n).map(|_| 0.3 * random.normal() as f32).collect()).unwrap();
                }
                let step = sft(&lm, &[examples.iter().collect(), vec![&examples[1]]]);
                names(&lm)
                    .into_iter()
                    .map(|(name, _)| (gradient(&lm, step.gradients(), &name), name))
                    .collect::<Vec<_>>()
            });
            assert_eq!(host.len(), 2 * shape.targets.len() * 2, "{model}");
            for ((host, name), (generic, _)) in host.iter().zip(&generic) {
                assert_close(&format!("{model} {dropout} {name}"), host, generic);
            }
        }
    }
}

#[test]
fn grpo_and_dpo_are_pytorchs() {
    for model in MODELS {
        let golden = Golden::open(model);
        let lm = golden.model(model);
        let batch = Batch::new(&golden.examples()).unwrap();
        let mut pass = lm.training(Random::new(1, "test"));
        let logprobs = lm.target_logprobs(&mut pass, &batch, true).unwrap();
        let reference = lm.target_logprobs(&mut pass, &batch, false).unwrap();
        let vector = |key: &str| {
            let values = floats(&golden.case[key]);
            let n = values.len();
            pass.constant(values, [n])
        };
        let number = |key: &str| golden.case[key].as_f64().unwrap();
        let settings = Grpo { ratio_clip: number("clip"), kl: number("kl") };
        let pairs = [(batch.spans[0].clone(), batch.spans[1].clone())];
        let dpo = loss::dpo(logprobs.clone().inner(), reference.clone(), &pairs, 0.1, 1);
        assert_number(&format!("{model} dpo"), f64::from(into_vec(dpo).unwrap()[0]), golden.loss("dpo"));
        let (old, advantages, weights) = (vector("old"), vector("advantages"), vector("weights"));
        let loss = loss::grpo(logprobs, old, reference, advantages, weights, settings);
        let mut accumulation = Accumulation::default();
        accumulation.add(pass, loss.clone()).unwrap();
        let value = f64::from(into_vec(loss.inner()).unwrap()[0]);
        assert_number(&format!("{model} grpo"), value, golden.loss("grpo"));
        assert_gradients(model, &lm, &golden, "grpo", accumulation.gradients());
    }
}

#[test]
fn the_learning_decoder_is_the_generating_one() {
    for model in MODELS {
        let files = ModelFiles::open(&fixtures().join("models").join(model)).unwrap();
        let mut generating = CausalLm::load(&files, None, &ComputeDevice::cpu(), 1, 64).unwrap();
        let lm = begin(model, &shape(2, 4.0));
        let example = Example { prompt: vec![7, 8, 200], answer: vec![31, 5, 2], weights: Vec::new() };
        // B is zero, so the adapter says nothing yet.
        let batch = Batch::new([&example]).unwrap();
        let got = into_vec(lm.target_logprobs(&mut lm.scoring(), &batch, true).unwrap()).unwrap();
        let step = RowStep { slot: 0, start: 0, tokens: &batch.tokens, want_logits: WantLogits::All };
        let logits = generating.step(&[step]).unwrap();
        for (i, target) in example.answer.iter().enumerate() {
            let row = logits.row(example.prompt.len() - 1 + i);
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            let total = row.iter().map(|l| f64::from(l - largest).exp()).sum::<f64>().ln() as f32 + largest;
            assert!((got[i] - (row[*target as usize] - total)).abs() < 2e-3, "{model} {i}");
        }
    }
}

#[test]
fn what_is_masked_or_padded_or_of_another_sequence_has_no_gradient() {
    for model in MODELS {
        let golden = Golden::open(model);
        let lm = golden.model(model);
        let mut examples = golden.examples();
        examples.truncate(2);
        let alone = all_gradients(&lm, &sft(&lm, &[vec![&examples[0]]]));

        // A second sequence whose targets count nothing: exactly nothing flows, whatever it says.
        let zeros = vec![0.0; examples[1].answer.len()];
        examples[1].weights = zeros.clone();
        let nothing = all_gradients(&lm, &sft(&lm, &[vec![&examples[1]]]));
        assert!(nothing.iter().flatten().all(|g| *g == 0.0), "{model}: a masked target has a gradient");
        let beside = all_gradients(&lm, &sft(&lm, &[vec![&examples[0], &examples[1]]]));
        let mut other = examples[1].clone();
        other.prompt.iter_mut().for_each(|t| *t += 1);
        other.answer.iter_mut().for_each(|t| *t += 1);
        let changed = all_gradients(&lm, &sft(&lm, &[vec![&examples[0], &other]]));
        assert_eq!(beside, changed, "{model}: a masked sequence's words reach another's gradient");
        for (i, (a, b)) in alone.iter().zip(&beside).enumerate() {
            assert_close(&format!("{model} weight {i}"), b, a);
        }

        // Padded: the same sequences in one group (9 and 10 tokens pad) and in groups of their own.
        let mut near = examples[0].clone();
        near.prompt.insert(0, 4);
        let together = all_gradients(&lm, &sft(&lm, &[vec![&examples[0], &near]]));
        let apart = all_gradients(&lm, &sft(&lm, &[vec![&examples[0]], vec![&near]]));
        for (i, (a, b)) in together.iter().zip(&apart).enumerate() {
            assert_close(&format!("{model} padded, weight {i}"), a, b);
        }
    }
}

#[test]
fn accumulated_batches_equal_one() {
    let golden = Golden::open("tiny-qwen3");
    let lm = golden.model("tiny-qwen3");
    let mut examples = golden.examples();
    examples[0].weights = vec![0.5, 2.0, 1.0, 0.1];
    let one = all_gradients(&lm, &sft(&lm, &[examples.iter().collect()]));
    let several = all_gradients(&lm, &sft(&lm, &[vec![&examples[1]], vec![&examples[2], &examples[0]]]));
    for (i, (a, b)) in one.iter().zip(&several).enumerate() {
        assert_close(&format!("weight {i}"), b, a);
    }
}

/// Ten prompts with an answer each that nothing but learning by heart can tell.
fn ten() -> Vec<Example> {
    let mut random = Random::new(3, "ten");
    let mut tokens = |n: usize| -> Vec<u32> { (0..n).map(|_| 3 + random.below(290) as u32).collect() };
    (0..10).map(|i| Example { prompt: tokens(4 + i % 5), answer: tokens(3 + i % 3), weights: Vec::new() }).collect()
}

fn config() -> Config {
    Config {
        learning_rate: 1e-2,
        epochs: 30,
        batch_tokens: 60,
        micro_batch_tokens: 30,
        validate_every: 20,
        patience: 0,
        checkpoint_every: 7,
        seed: 5,
        warmup: 0.05,
        max_steps: 0,
        clip: 1.0,
    }
}

fn around<'a>(checkpoint: Option<&Path>, stop: &'a dyn Fn() -> bool) -> Surroundings<'a> {
    let curve = checkpoint.map(|path| path.with_extension("jsonl"));
    Surroundings { checkpoint: checkpoint.map(Path::to_owned), curve, model: "tiny", voice: Voice::Quiet, stop }
}

fn weights(lm: &TrainableLm) -> Vec<Vec<u32>> {
    let read = |name: &str| lm.parameters().read(lm.parameters().slot(name).unwrap()).unwrap();
    lm.parameters().names().map(|n| read(n).into_iter().map(f32::to_bits).collect()).collect()
}

#[test]
fn a_tiny_model_learns_ten_examples_by_heart() {
    let examples = ten();
    let mut lm = begin("tiny-llama-sharded", &shape(8, 16.0));
    let learned = align(&mut lm, &examples, &examples, &config(), &around(None, &|| false)).unwrap();
    let (first, last) = (learned.curve[0].loss, learned.best_loss.unwrap());
    assert!(first > 4.0 && last < 0.5, "from {first} to {last}");
    assert_eq!(learned.curve.last().unwrap().validation_loss.map(|l| l >= last), Some(true));
    let kept = validate(&lm, &examples, 1000).unwrap();
    assert!((kept - last).abs() < 1e-3, "the best weights are not the ones that are left: {kept}, {last}");
    assert_eq!(learned.account.examples, 10);
    let rates: Vec<f64> = learned.curve[1..].iter().map(|r| r.learning_rate).collect();
    assert!(rates[0] < 5e-3 && rates.iter().copied().fold(0.0, f64::max) <= 1e-2 && rates[rates.len() - 1] < 1e-4);
}

#[test]
fn a_stopped_training_goes_on_to_the_same_bits() {
    let examples = ten();
    let shape = AdapterShape { dropout: 0.1, ..shape(4, 8.0) };
    let config = Config { max_steps: 24, validate_every: 5, ..config() };
    let folder = tempfile::tempdir().unwrap();
    let whole_at = folder.path().join("whole.safetensors");
    let mut whole = begin("tiny-qwen2", &shape);
    let train = &examples[..8];
    let want = align(&mut whole, train, &examples, &config, &around(Some(&whole_at), &|| false)).unwrap();
    assert!(want.best_step > 0 && want.curve.len() == 25);

    let at = folder.path().join("stopped.safetensors");
    for stops_after in [1usize, 8, 11] {
        let left = Cell::new(stops_after);
        let stop = || {
            let n = left.get();
            left.set(n.saturating_sub(1));
            n == 0
        };
        let mut lm = begin("tiny-qwen2", &shape);
        let e = align(&mut lm, train, &examples, &config, &around(Some(&at), &stop)).unwrap_err();
        assert_eq!(e.kind(), Kind::Interrupted, "{}", e.explain());
    }
    let mut lm = begin("tiny-qwen2", &shape);
    let got = align(&mut lm, train, &examples, &config, &around(Some(&at), &|| false)).unwrap();
    assert_eq!(weights(&lm), weights(&whole));
    assert_eq!((got.best_step, got.best_loss), (want.best_step, want.best_loss));
    for (got, want) in got.curve.iter().zip(&want.curve) {
        let exact = |r: &Record| (r.step, r.epoch, r.tokens, r.targets, r.validation_loss.is_some());
        assert_eq!(exact(got), exact(want));
        assert!((got.loss - want.loss).abs() < 1e-12 && (got.gradient_norm - want.gradient_norm).abs() < 1e-9);
    }
    // The last weights and Adam's memory too, not only the best weights.
    let last = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<(String, Vec<u8>)> =
            file.tensors().into_iter().map(|(name, t)| (name, t.data().to_vec())).collect();
        tensors.sort();
        tensors
    };
    assert!(last(&at) == last(&whole_at), "the states differ");
    let lines = std::fs::read_to_string(at.with_extension("jsonl")).unwrap();
    let lines: Vec<Record> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.iter().map(|r| r.step).eq(0..25));

    // Finished: nothing is learned again. And the state is nobody else's.
    let mut again = begin("tiny-qwen2", &shape);
    align(&mut again, train, &examples, &config, &around(Some(&at), &|| true)).unwrap();
    assert_eq!(weights(&again), weights(&whole));
    let mut other = begin("tiny-qwen2", &shape);
    let config = Config { learning_rate: 1e-3, ..config };
    let e = align(&mut other, train, &examples, &config, &around(Some(&at), &|| false)).unwrap_err();
    assert_eq!(e.kind(), Kind::Config);
    assert_eq!(weights(&other), weights(&begin("tiny-qwen2", &shape)));
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let mut lm = begin("tiny-qwen2", &shape(2, 4.0));
    let mut learn = |example: Example, config: Config| {
        align(&mut lm, &[example], &[], &config, &around(None, &|| false)).unwrap_err()
    };
    let good = ten().remove(0);
    for bad in [
        Example { answer: Vec::new(), ..good.clone() },
        Example { answer: vec![9999], ..good.clone() },
        Example { weights: vec![f32::NAN; good.answer.len()], ..good.clone() },
    ] {
        assert_eq!(learn(bad, config()).kind(), Kind::Input);
    }
    let e = learn(good, Config { micro_batch_tokens: 2, ..config() });
    assert!(e.kind() == Kind::Input && e.explain().contains("micro_batch_tokens"), "{}", e.explain());
    let files = ModelFiles::open(&fixtures().join("models/tiny-qwen2")).unwrap();
    for shape in [shape(0, 1.0), AdapterShape { targets: vec!["lm_head".to_owned()], ..shape(2, 4.0) }] {
        let e = TrainableLm::load(&files, &shape, 1, &ComputeDevice::cpu()).err().unwrap();
        assert_eq!(e.kind(), Kind::Config);
    }
}

#[test]
fn an_adapter_comes_out_in_its_shapes() {
    let adapter = Golden::open("tiny-qwen2").model("tiny-qwen2").adapter().unwrap();
    let (a, b) = &adapter.tensors["model.layers.1.mlp.down_proj"];
    assert_eq!((&a.shape[..], &b.shape[..]), (&[3, 56][..], &[64, 3][..]));
}
