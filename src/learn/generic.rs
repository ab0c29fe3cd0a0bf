//! The frozen decoder by Burn's generic operations, on any device.
//!
//! Knows tensors and packed token ids; knows nothing of losses, files or texts. The same families and the same arithmetic as
//! [`crate::llm::decoder`], without a cache.
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

use crate::error::Result;
use crate::learn::packing::Batch;
use crate::llm::decoder_config::DecoderConfig;
use crate::llm::device::ComputeDevice;
use crate::llm::ops::from_vec;
use crate::llm::tensor_files::HostTensor;
use crate::network::layers::Pass;
use crate::network::parameters::Slot;

/// The frozen weights.
pub struct GenericLm {
    config: DecoderConfig,
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
    /// `[out, in]`.
    weight: Tensor<2>,
    /// `[1, out]`.
    bias: Option<Tensor<2>>,
    /// A `[rank, in]` and B `[out, rank]`.
    adapter: Option<(Slot, Slot)>,
}

/// Whether and how adapters take part in a pass.
#[derive(Debug, Clone, Copy)]
pub struct Use {
    /// Whether at all.
    pub adapter: bool,
    /// What `B · A` is multiplied by.
    pub scale: f64,
    /// How often an input is dropped in training.
    pub dropout: f64,
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

impl GenericLm {
    /// Puts a model on a device. `slots` are the adapters' weights by the Hugging Face name of the module.
    ///
    /// # Errors
    /// What `tensor` says.
    pub fn new(
        config: &DecoderConfig,
        tensor: impl Fn(&str) -> Result<HostTensor>,
        slots: &BTreeMap<String, (Slot, Slot)>,
        device: &ComputeDevice,
    ) -> Result<Self> {
        let get = |name: &str| -> Result<Tensor<2>> {
            let HostTensor { shape, data } = tensor(name)?;
            let matrix = match shape[..] {
                [rows, columns] => [rows, columns],
                _ => [1, data.len()],
            };
            Ok(from_vec(data, matrix, device))
        };
        let layer = |i: usize| -> Result<Layer> {
            let name = |part: &str| format!("model.layers.{i}.{part}");
            let head_norm = |part: &str| match config.qk_norm {
                true => get(&name(&format!("self_attn.{part}.weight"))).map(Some),
                false => Ok(None),
            };
            let linear = |part: &str, has_bias: bool| -> Result<Linear> {
                let name = name(part);
                let bias = if has_bias { Some(get(&format!("{name}.bias"))?) } else { None };
                Ok(Linear { weight: get(&format!("{name}.weight"))?, bias, adapter: slots.get(&name).copied() })
            };
            Ok(Layer {
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
            })
        };
        let table = get("model.embed_tokens.weight")?;
        let head = if config.tie_embeddings { table.clone() } else { get("lm_head.weight")? };
        let layers = (0..config.layers).map(layer).collect::<Result<_>>()?;
        Ok(GenericLm { config: config.clone(), table, head, layers, norm: get("model.norm.weight")? })
    }

    /// The log-probability of every target of a batch that was checked, `[targets]`.
    pub fn target_logprobs(&self, pass: &mut Pass, batch: &Batch, with: Use) -> Tensor<1> {
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
        self.judge(pass, self.rms_norm(x, &self.norm), &batch.targets)
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
