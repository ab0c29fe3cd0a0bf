//! The causal decoder that learns: frozen weights, low-rank adapters beside them (Hu et al. 2022, "LoRA"), differentiated.
//!
//! Knows tensors and packed token ids; knows nothing of losses, files or texts. The same families and the same arithmetic as
//! [`crate::llm::decoder`], by Burn's generic operations on any device, without a cache.
//!
//! All sequences of a batch are folded into one `[tokens, width]` matrix, so that every linear layer is one product; only
//! attention looks at sequences one by one. Frozen weights stay as Hugging Face stores them, `[out, in]`: Burn's product
//! reads both `x·Wᵀ` and, backwards, `dY·W` through strides. Layers with the same input are not fused: taking their
//! outputs apart again costs the backward pass more (a matrix of zeros a part) than the larger product saves. Frozen
//! tensors are outside autodiff, so neither their gradients nor their inputs are kept; what precedes the first adapter is
//! not tracked at all, and without the adapter nothing is. Beyond the last attention only positions that predict a target
//! go on.

use std::collections::BTreeMap;

use burn::tensor::{Int, Tensor, activation};

use crate::error::{Error, Kind, Result};
use crate::learn::packing::Batch;
use crate::llm::adapter::{Adapter, AdapterShape, TARGETS};
use crate::llm::device::ComputeDevice;
use crate::llm::ops::from_vec;
use crate::llm::weights::{DecoderConfig, HostTensor, ModelFiles};
use crate::network::layers::Pass;
use crate::network::parameters::{Init, Parameters, Slot};
use crate::network::random::Random;

/// A decoder of the Llama family with an adapter that trains.
pub struct TrainableLm {
    config: DecoderConfig,
    shape: AdapterShape,
    parameters: Parameters,
    /// `[vocabulary, width]`.
    table: Tensor<2>,
    /// The same where the model ties them.
    head: Tensor<2>,
    layers: Vec<Layer>,
    /// `[1, width]`, as all norms.
    norm: Tensor<2>,
}

struct Layer {
    attention_norm: Tensor<2>,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    query_norm: Option<Tensor<2>>,
    key_norm: Option<Tensor<2>>,
    mlp_norm: Tensor<2>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

struct Linear {
    name: String,
    /// `[out, in]`.
    weight: Tensor<2>,
    /// `[1, out]`.
    bias: Option<Tensor<2>>,
    /// A `[rank, in]` and B `[out, rank]`.
    adapter: Option<(Slot, Slot)>,
}

/// Whether and how adapters take part in a pass.
#[derive(Clone, Copy)]
struct Use {
    adapter: bool,
    scale: f64,
    dropout: f64,
}

/// What all layers of a pass share.
struct Plan {
    /// `[tokens, 1, 2, head width / 2]`: cosines for both halves of a head.
    cos: Tensor<4>,
    /// The same of sines, the first half's negative.
    sin: Tensor<4>,
    groups: Vec<Group>,
    /// Where each token's result stands below the groups' results; none where they stand in order.
    order: Option<Tensor<1, Int>>,
    /// Positions that predict a target.
    rows: Tensor<1, Int>,
}

/// Sequences that are attended together, padded to the longest. A padded place repeats its sequence's last token; it stands
/// behind all queries that count and its own result is taken by none, so its gradient is exactly zero.
struct Group {
    sequences: usize,
    length: usize,
    /// Tokens of the group; none where it is the whole batch without padding.
    tokens: Option<Tensor<1, Int>>,
    /// `[1, 1, length, 1, length]`: zero where a query may look, very negative elsewhere.
    mask: Tensor<5>,
    /// `[1, 1, length, 1]`.
    ones: Tensor<4>,
}

/// Targets whose logits are in memory at a time.
const JUDGED_AT_ONCE: usize = 256;

/// A sequence joins a group whose longest is at most so much longer: padding costs attention only.
const GROUP_SLACK: f64 = 1.25;

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
        // The hand-written kernels carry no gradients.
        let device = ComputeDevice { is_host: false, ..device.clone() };
        let mut parameters = Parameters::new(seed, &device);
        let shapes: BTreeMap<String, Vec<usize>> = config.tensors().into_iter().collect();
        let get = |name: &str| -> Result<Tensor<2>> {
            let found = tensor(name)?;
            let wanted = shapes.get(name).cloned().unwrap_or_default();
            if found.shape != wanted || found.data.len() != wanted.iter().product::<usize>() {
                return Err(Error::new(Kind::Model, "a tensor has another shape than the model's configuration says")
                    .with("tensor", name)
                    .with("has", format!("{:?}", found.shape))
                    .with("needs", format!("{wanted:?}")));
            }
            let matrix = match wanted[..] {
                [rows, columns] => [rows, columns],
                _ => [1, found.data.len()],
            };
            Ok(from_vec(found.data, matrix, &device))
        };
        let mut layers = Vec::with_capacity(config.layers);
        for i in 0..config.layers {
            let name = |part: &str| format!("model.layers.{i}.{part}");
            let head_norm = |part: &str| match config.qk_norm {
                true => get(&name(&format!("self_attn.{part}.weight"))).map(Some),
                false => Ok(None),
            };
            let mut linear = |part: &str, has_bias: bool| -> Result<Linear> {
                let name = name(part);
                let weight = get(&format!("{name}.weight"))?;
                let bias = if has_bias { Some(get(&format!("{name}.bias"))?) } else { None };
                let is_target = shape.targets.iter().any(|t| part.ends_with(t.as_str()));
                let [outputs, inputs] = weight.dims();
                let adapter = is_target.then(|| {
                    // As PEFT: Kaiming's bound for a = √5.
                    let bound = Init::Uniform(1.0 / (inputs as f32).sqrt());
                    let a = parameters.add(&format!("{name}.lora_A"), [shape.rank, inputs], bound);
                    let b = parameters.add(&format!("{name}.lora_B"), [outputs, shape.rank], Init::Constant(0.0));
                    (a, b)
                });
                Ok(Linear { name, weight, bias, adapter })
            };
            layers.push(Layer {
                attention_norm: get(&name("input_layernorm.weight"))?,
                query: linear("self_attn.q_proj", config.qkv_bias)?,
                key: linear("self_attn.k_proj", config.qkv_bias)?,
                value: linear("self_attn.v_proj", config.qkv_bias)?,
                output: linear("self_attn.o_proj", false)?,
                query_norm: head_norm("q_norm")?,
                key_norm: head_norm("k_norm")?,
                mlp_norm: get(&name("post_attention_layernorm.weight"))?,
                gate: linear("mlp.gate_proj", false)?,
                up: linear("mlp.up_proj", false)?,
                down: linear("mlp.down_proj", false)?,
            });
        }
        let table = get("model.embed_tokens.weight")?;
        let head = if config.tie_embeddings { table.clone() } else { get("lm_head.weight")? };
        let norm = get("model.norm.weight")?;
        Ok(TrainableLm { config: config.clone(), shape: shape.clone(), parameters, table, head, layers, norm })
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

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|l| [&l.query, &l.key, &l.value, &l.output, &l.gate, &l.up, &l.down])
    }

    /// The adapter of now.
    ///
    /// # Errors
    /// `Kind::Temporary` where the device fails.
    pub fn adapter(&self) -> Result<Adapter> {
        let mut tensors = BTreeMap::new();
        for linear in self.linears() {
            let (Some((a, b)), [outputs, inputs]) = (linear.adapter, linear.weight.dims()) else { continue };
            let host = |slot, shape: [usize; 2]| -> Result<HostTensor> {
                Ok(HostTensor { shape: shape.to_vec(), data: self.parameters.read(slot)? })
            };
            let pair = (host(a, [self.shape.rank, inputs])?, host(b, [outputs, self.shape.rank])?);
            tensors.insert(linear.name.clone(), pair);
        }
        Ok(Adapter { shape: self.shape.clone(), tensors })
    }

    /// Goes on from another adapter of the same shape.
    ///
    /// # Errors
    /// `Kind::Config` where a module is missing or has another shape, or the adapter has others.
    pub fn set_adapter(&mut self, adapter: &Adapter) -> Result<()> {
        let wrong = |name: &str| {
            Error::new(Kind::Config, "the adapter does not fit the one that is trained")
                .with("module", name)
                .hint("set the adapter's rank and targets to those of the adapter to begin with")
        };
        let slots: Vec<_> =
            self.linears().filter_map(|l| l.adapter.map(|(a, b)| (l.name.clone(), l.weight.dims(), a, b))).collect();
        if slots.len() != adapter.tensors.len() {
            return Err(wrong("all"));
        }
        for (name, [outputs, inputs], a, b) in slots {
            let (from_a, from_b) = adapter.tensors.get(&name).ok_or_else(|| wrong(&name))?;
            if from_a.shape != [self.shape.rank, inputs] || from_b.shape != [outputs, self.shape.rank] {
                return Err(wrong(&name));
            }
            self.parameters.write(a, from_a.data.clone())?;
            self.parameters.write(b, from_b.data.clone())?;
        }
        Ok(())
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
        let plan = self.plan(pass, batch);
        let mut x = self.table.clone().select(0, pass.indices(&batch.tokens));
        let last = self.layers.len().saturating_sub(1);
        for (i, layer) in self.layers.iter().enumerate() {
            let normed = self.rms_norm(x.clone(), &layer.attention_norm);
            let mut seen = self.attend(pass, layer, normed, &plan, with);
            if i == last {
                (x, seen) = (x.select(0, plan.rows.clone()), seen.select(0, plan.rows.clone()));
            }
            x = x + layer.output.forward(pass, seen, with);
            let normed = self.rms_norm(x.clone(), &layer.mlp_norm);
            let gate = layer.gate.forward(pass, normed.clone(), with);
            let up = layer.up.forward(pass, normed, with);
            x = x + layer.down.forward(pass, activation::silu(gate) * up, with);
        }
        Ok(self.judge(pass, self.rms_norm(x, &self.norm), &batch.targets))
    }

    /// The log-probabilities of targets by the normed hidden states `x` that predict them.
    ///
    /// With respect to a hidden state, the logarithm has the gradient `W[target] − Σ p W`, and the second part can be had
    /// going forwards. So nothing as wide as the vocabulary is differentiated or kept: what is tracked is the product with
    /// that gradient, moved to the right value.
    fn judge(&self, pass: &Pass, x: Tensor<2>, targets: &[u32]) -> Tensor<1> {
        let n = targets.len();
        let of_targets = self.head.clone().select(0, pass.indices(targets));
        let hidden = x.clone().inner();
        let (mut totals, mut expected) = (Vec::new(), Vec::new());
        for first in (0..n).step_by(JUDGED_AT_ONCE) {
            let part = hidden.clone().narrow(0, first, JUDGED_AT_ONCE.min(n - first));
            let logits = part.matmul(self.head.clone().transpose());
            let largest = logits.clone().max_dim(1);
            let odds = (logits - largest.clone()).exp();
            let sum = odds.clone().sum_dim(1);
            if x.is_tracked() {
                expected.push(odds.matmul(self.head.clone()) / sum.clone());
            }
            totals.push(sum.log() + largest);
        }
        let logprobs = (hidden * of_targets.clone()).sum_dim(1) - Tensor::cat(totals, 0);
        if !x.is_tracked() {
            return logprobs.reshape([n]);
        }
        let product = (x * (of_targets - Tensor::cat(expected, 0))).sum_dim(1);
        let shift = logprobs - product.clone().inner();
        (product + shift).reshape([n])
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

    fn plan(&self, pass: &Pass, batch: &Batch) -> Plan {
        let (tokens, half) = (batch.tokens.len(), self.config.head_dim / 2);
        let (mut cos, mut sin) = (Vec::with_capacity(tokens * half * 2), Vec::with_capacity(tokens * half * 2));
        for position in batch.lengths.iter().flat_map(|n| 0..*n) {
            let angle =
                |i: usize| position as f64 / self.config.rope_theta.powf(2.0 * i as f64 / self.config.head_dim as f64);
            let turns: Vec<(f32, f32)> = (0..half).map(|i| (angle(i).cos() as f32, angle(i).sin() as f32)).collect();
            cos.extend(turns.iter().chain(&turns).map(|t| t.0));
            sin.extend(turns.iter().map(|t| -t.1).chain(turns.iter().map(|t| t.1)));
        }
        let shape = [tokens, 1, 2, half];
        let (groups, order) = groups(pass, &batch.lengths);
        Plan {
            cos: pass.constant(cos, shape),
            sin: pass.constant(sin, shape),
            groups,
            order,
            rows: pass.indices(&batch.rows),
        }
    }

    /// `x / √(mean(x²) + ε) · weight`.
    fn rms_norm(&self, x: Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
        let scale = x.clone().square().mean_dim(1).add_scalar(self.config.rms_eps).sqrt().recip();
        x * scale * weight.clone()
    }

    /// Turns heads by their token's position: `(a, b)` becomes `(a cos − b sin, b cos + a sin)`.
    fn turn(&self, x: Tensor<2>, norm: Option<&Tensor<2>>, plan: &Plan) -> Tensor<2> {
        let ([tokens, row], width) = (x.dims(), self.config.head_dim);
        let heads = row / width;
        let x = match norm {
            Some(norm) => self.rms_norm(x.reshape([tokens * heads, width]), norm),
            None => x,
        };
        let x = x.reshape([tokens, heads, 2, width / 2]);
        let turned = x.clone() * plan.cos.clone() + x.flip([2]) * plan.sin.clone();
        turned.reshape([tokens, row])
    }

    fn attend(&self, pass: &mut Pass, layer: &Layer, x: Tensor<2>, plan: &Plan, with: Use) -> Tensor<2> {
        let DecoderConfig { heads, kv_heads: kv, head_dim: width, .. } = self.config;
        let shared = heads / kv;
        let scale = 1.0 / (width as f64).sqrt();
        let q = layer.query.forward(pass, x.clone(), with);
        let q = self.turn(q, layer.query_norm.as_ref(), plan).mul_scalar(scale);
        let k = layer.key.forward(pass, x.clone(), with);
        let k = self.turn(k, layer.key_norm.as_ref(), plan);
        let v = layer.value.forward(pass, x, with);
        let mut results = Vec::with_capacity(plan.groups.len());
        for group in &plan.groups {
            let (s, n) = (group.sequences, group.length);
            let of = |x: &Tensor<2>| match &group.tokens {
                Some(tokens) => x.clone().select(0, tokens.clone()),
                None => x.clone(),
            };
            // [s, kv, n · shared, width]: queries that share keys stand below each other, so keys are not repeated.
            let q = of(&q).reshape([s, n, kv, shared, width]).permute([0, 2, 1, 3, 4]);
            let q = q.reshape([s, kv, n * shared, width]);
            let k = of(&k).reshape([s, n, kv, width]).permute([0, 2, 3, 1]);
            let v = of(&v).reshape([s, n, kv, width]).permute([0, 2, 1, 3]);
            let scores = q.matmul(k).reshape([s, kv, n, shared, n]) + group.mask.clone();
            let largest = scores.clone().inner().max_dim(4);
            let odds = (scores - largest).exp().reshape([s, kv, n * shared, n]);
            // Divided after the product, which is narrower; summed by a product, whose gradient is one pass and not two.
            let total = odds.clone().matmul(group.ones.clone());
            let seen = (odds.matmul(v) * total.recip()).reshape([s, kv, n, shared, width]);
            results.push(seen.permute([0, 2, 1, 3, 4]).reshape([s * n, heads * width]));
        }
        let seen = match results.len() {
            1 => results.remove(0),
            _ => Tensor::cat(results, 0),
        };
        match &plan.order {
            Some(order) => seen.select(0, order.clone()),
            None => seen,
        }
    }
}

impl Linear {
    /// `x·Wᵀ + b + alpha / rank · (dropout(x)·Aᵀ)·Bᵀ`.
    fn forward(&self, pass: &mut Pass, x: Tensor<2>, with: Use) -> Tensor<2> {
        let y = x.clone().matmul(self.weight.clone().transpose());
        let y = match &self.bias {
            Some(bias) => y + bias.clone(),
            None => y,
        };
        let Some((a, b)) = self.adapter.filter(|_| with.adapter) else { return y };
        let narrow = pass.dropout(x, with.dropout).matmul(pass.leaves.at(a).transpose()).mul_scalar(with.scale);
        y + narrow.matmul(pass.leaves.at(b).transpose())
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

/// Sequences in groups of about the same length, and where each token's result stands below the groups' results.
fn groups(pass: &Pass, lengths: &[usize]) -> (Vec<Group>, Option<Tensor<1, Int>>) {
    let firsts: Vec<usize> = lengths.iter().scan(0, |at, n| Some(std::mem::replace(at, *at + n))).collect();
    let tokens: usize = lengths.iter().sum();
    let mut by_length: Vec<usize> = (0..lengths.len()).filter(|i| lengths[*i] > 0).collect();
    by_length.sort_by_key(|i| (std::cmp::Reverse(lengths[*i]), *i));
    let mut parts: Vec<Vec<usize>> = Vec::new();
    for i in by_length {
        match parts.last_mut() {
            Some(part) if lengths[part[0]] as f64 <= lengths[i] as f64 * GROUP_SLACK => part.push(i),
            _ => parts.push(vec![i]),
        }
    }
    let (mut groups, mut order, mut results) = (Vec::new(), vec![0u32; tokens], 0);
    for part in &parts {
        let length = lengths[part[0]];
        let mut taken = Vec::with_capacity(part.len() * length);
        for i in part {
            for j in 0..lengths[*i] {
                order[firsts[*i] + j] = (results + taken.len() + j) as u32;
            }
            taken.extend((0..length).map(|j| (firsts[*i] + j.min(lengths[*i] - 1)) as u32));
        }
        results += taken.len();
        let is_all = taken.iter().copied().eq(0..tokens as u32);
        let mask = (0..length * length).map(|i| if i % length <= i / length { 0.0 } else { -1e30 }).collect();
        groups.push(Group {
            sequences: part.len(),
            length,
            tokens: (!is_all).then(|| pass.indices(&taken)),
            mask: pass.constant(mask, [1, 1, length, 1, length]),
            ones: pass.constant(vec![1.0; length], [1, 1, length, 1]),
        });
    }
    let is_in_order = results == tokens && order.iter().copied().eq(0..tokens as u32);
    (groups, (!is_in_order).then(|| pass.indices(&order)))
}
