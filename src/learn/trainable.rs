//! The causal decoder that learns: frozen weights, low-rank adapters beside them (Hu et al. 2022, "LoRA"), differentiated.
//!
//! Knows the adapter's weights and what it computes, a batch's log-probabilities; by hand on the CPU
//! ([`crate::learn::host`]) and by Burn's generic operations elsewhere ([`crate::learn::generic`]). Knows nothing of
//! losses, files or texts.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::Tensor;

use crate::error::{Error, Kind, Result};
use crate::learn::generic::{GenericLm, Use};
use crate::learn::host::{HostLm, Lora};
use crate::learn::packing::Batch;
use crate::llm::adapter::{Adapter, AdapterShape, TARGETS};
use crate::llm::decoder_config::DecoderConfig;
use crate::llm::device::ComputeDevice;
use crate::llm::tensor_files::HostTensor;
use crate::llm::weights::ModelFiles;
use crate::network::layers::Pass;
use crate::network::parameters::{Init, Parameters, Slot};
use crate::network::random::Random;

/// A decoder of the Llama family with an adapter that trains.
pub struct TrainableLm {
    config: DecoderConfig,
    shape: AdapterShape,
    parameters: Parameters,
    modules: Vec<Module>,
    frozen: Frozen,
}

/// The frozen weights, and who computes with them.
enum Frozen {
    Host(Arc<HostLm>),
    Generic(Box<GenericLm>),
}

/// A linear layer with an adapter.
struct Module {
    name: String,
    outputs: usize,
    inputs: usize,
    a: Slot,
    b: Slot,
}

impl TrainableLm {
    /// Loads a model and begins an adapter: B is zero, so the model begins as it comes.
    ///
    /// # Errors
    /// `Kind::Model` where a tensor is missing or has another shape; `Kind::Config` for an adapter that no model can have.
    pub fn load(files: &ModelFiles, shape: &AdapterShape, seed: u64, device: &ComputeDevice) -> Result<Self> {
        Self::from_tensors(files.config(), |name| files.tensor(name), shape, seed, device)
    }

    /// The same from any source of tensors, by their Hugging Face names.
    ///
    /// # Errors
    /// As [`TrainableLm::load`].
    pub fn from_tensors(
        config: &DecoderConfig,
        tensor: impl Fn(&str) -> Result<HostTensor>,
        shape: &AdapterShape,
        seed: u64,
        device: &ComputeDevice,
    ) -> Result<Self> {
        check(shape)?;
        let is_host = device.is_host;
        // Losses go through generic operations in any case.
        let device = ComputeDevice { is_host: false, ..device.clone() };
        let mut parameters = Parameters::new(seed, &device);
        let shapes: BTreeMap<String, Vec<usize>> = config.tensors().into_iter().collect();
        let get = |name: &str| -> Result<HostTensor> {
            let found = tensor(name)?;
            let wanted = shapes.get(name).cloned().unwrap_or_default();
            if found.shape != wanted || found.data.len() != wanted.iter().product::<usize>() {
                return Err(Error::new(Kind::Model, "a tensor has another shape than the model's configuration says")
                    .with("tensor", name)
                    .with("has", format!("{:?}", found.shape))
                    .with("needs", format!("{wanted:?}")));
            }
            Ok(found)
        };
        let mut modules = Vec::new();
        for (i, target) in (0..config.layers).flat_map(|i| TARGETS.map(|target| (i, target))) {
            let block = if ["q_proj", "k_proj", "v_proj", "o_proj"].contains(&target) { "self_attn" } else { "mlp" };
            let name = format!("model.layers.{i}.{block}.{target}");
            let Some([outputs, inputs]) = shapes.get(&format!("{name}.weight")).map(Vec::as_slice) else { continue };
            if shape.targets.iter().any(|t| t == target) {
                // As PEFT: Kaiming's bound for a = √5.
                let bound = Init::Uniform(1.0 / (*inputs as f32).sqrt());
                let a = parameters.add(&format!("{name}.lora_A"), [shape.rank, *inputs], bound);
                let b = parameters.add(&format!("{name}.lora_B"), [*outputs, shape.rank], Init::Constant(0.0));
                modules.push(Module { name, outputs: *outputs, inputs: *inputs, a, b });
            }
        }
        let slots = modules.iter().map(|m| (m.name.clone(), (m.a, m.b))).collect();
        let frozen = match is_host {
            true => Frozen::Host(Arc::new(HostLm::new(config, get, &slots)?)),
            false => Frozen::Generic(Box::new(GenericLm::new(config, get, &slots, &device)?)),
        };
        Ok(TrainableLm { config: config.clone(), shape: shape.clone(), parameters, modules, frozen })
    }

    /// What the model looks like.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// What the adapter looks like.
    pub fn shape(&self) -> &AdapterShape {
        &self.shape
    }

    /// The adapter's weights: `<module>.lora_A` and `<module>.lora_B`.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// See [`TrainableLm::parameters`].
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// The adapter of now.
    ///
    /// # Errors
    /// `Kind::Temporary` where the device fails.
    pub fn adapter(&self) -> Result<Adapter> {
        let mut tensors = BTreeMap::new();
        for module in &self.modules {
            let host = |slot, shape: [usize; 2]| -> Result<HostTensor> {
                Ok(HostTensor { shape: shape.to_vec(), data: self.parameters.read(slot)? })
            };
            let a = host(module.a, [self.shape.rank, module.inputs])?;
            tensors.insert(module.name.clone(), (a, host(module.b, [module.outputs, self.shape.rank])?));
        }
        Ok(Adapter { shape: self.shape.clone(), tensors })
    }

    /// A pass that is differentiated; dropout draws from `random`.
    pub fn training(&self, random: Random) -> Pass {
        Pass::training(&self.parameters, random)
    }

    /// A pass without gradients.
    pub fn scoring(&self) -> Pass {
        Pass::scoring(&self.parameters)
    }

    /// The natural logarithm of the probability of every target of the batch, `[targets]`. Without the adapter it is the
    /// model as it comes, a constant: the reference of a divergence.
    ///
    /// # Errors
    /// `Kind::Input` where the batch is empty, a sequence is longer than the model can read, or a token is not in the
    /// vocabulary.
    pub fn target_logprobs(&self, pass: &mut Pass, batch: &Batch, with_adapter: bool) -> Result<Tensor<1>> {
        self.check(batch)?;
        let with = Use {
            adapter: with_adapter,
            scale: self.shape.alpha / self.shape.rank as f64,
            dropout: self.shape.dropout,
        };
        let host = match &self.frozen {
            Frozen::Generic(lm) => return Ok(lm.target_logprobs(pass, batch, with)),
            Frozen::Host(lm) => lm,
        };
        let tracked = pass.trains() && with.adapter;
        let (read, mut stream) = (|slot| self.parameters.read(slot), || pass.stream());
        let lora = with.adapter.then_some(Lora {
            read: &read,
            rank: self.shape.rank,
            scale: with.scale as f32,
            dropout: if tracked { with.dropout } else { 0.0 },
            stream: &mut stream,
        });
        let (logprobs, tape) = host.target_logprobs(batch, lora, tracked)?;
        Ok(match tape {
            Some(tape) => pass.outside(logprobs, Box::new(move |of_targets| tape.back(&of_targets))),
            None => {
                let n = logprobs.len();
                pass.constant(logprobs, [n])
            }
        })
    }

    fn check(&self, batch: &Batch) -> Result<()> {
        let limit = self.config.max_positions;
        if let Some(length) = batch.lengths.iter().find(|n| **n > limit) {
            return Err(Error::new(Kind::Input, format!("an example has {length} tokens, the model reads {limit}"))
                .hint("leave it out, or shorten its prompt"));
        }
        let vocabulary = self.config.vocab_size;
        if let Some(token) = batch.tokens.iter().chain(&batch.targets).find(|t| **t as usize >= vocabulary) {
            return Err(Error::new(Kind::Input, "a token is outside the model's vocabulary")
                .with("token", token)
                .hint("make the examples' tokens by this model's tokenizer"));
        }
        let fits = batch.lengths.iter().sum::<usize>() == batch.tokens.len()
            && batch.rows.len() == batch.targets.len()
            && batch.rows.iter().all(|r| (*r as usize) < batch.tokens.len());
        match fits && !batch.targets.is_empty() {
            true => Ok(()),
            false => Err(Error::new(Kind::Input, "a batch has no targets, or ones that it cannot have")),
        }
    }
}

fn check(shape: &AdapterShape) -> Result<()> {
    let wrong = |what: String| Err(Error::new(Kind::Config, what).hint("mend the adapter's configuration"));
    if shape.rank == 0 || !(shape.alpha.is_finite() && shape.alpha > 0.0) {
        return wrong(format!("an adapter of rank {} and alpha {} learns nothing", shape.rank, shape.alpha));
    }
    if !(0.0..1.0).contains(&shape.dropout) {
        return wrong(format!("a dropout of {} is not in [0, 1)", shape.dropout));
    }
    match shape.targets.iter().find(|t| !TARGETS.contains(&t.as_str())) {
        Some(target) => wrong(format!("no linear layer is called `{target}`; there are {}", TARGETS.join(", "))),
        None if shape.targets.is_empty() => wrong("an adapter without targets learns nothing".to_owned()),
        None => Ok(()),
    }
}
