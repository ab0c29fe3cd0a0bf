//! The causal decoder: the interface that the batcher uses, and the Burn model behind it.
//!
//! Knows nothing of tokenizers, prompts, SQL or files.

use std::sync::Arc;

use crate::error::{Context, Error, Kind, Result};
use crate::kernels::cached_attention::Span;
use crate::kernels::heads::Heads;
use crate::llm::adapter::Adapter;
use crate::llm::decoder_config::DecoderConfig;
use crate::llm::device::ComputeDevice;
use crate::llm::kv_cache::KvCache;
use crate::llm::ops::{self, Attention, Embedding, Linear, QkNorms, RmsNorm};
use crate::llm::tensor_files::{HostTensor, KeptTensor};
use crate::llm::weights::ModelFiles;

/// Which positions of a row's step need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantLogits {
    /// None: the step only fills the cache.
    None,
    /// The last position.
    Last,
    /// Every position, in order.
    All,
}

/// One row's part of a step: `tokens` are appended to the row's slot at position `start`.
#[derive(Debug, Clone, Copy)]
pub struct RowStep<'a> {
    /// The cache slot.
    pub slot: usize,
    /// How many positions of the slot are already filled; later ones are overwritten.
    pub start: usize,
    /// At least one token.
    pub tokens: &'a [u32],
    /// Which logits are returned.
    pub want_logits: WantLogits,
}

/// Logits of the wanted positions, in the order of the rows and, within a row, of its positions.
#[derive(Debug, Clone)]
pub struct Logits {
    /// Values per position.
    pub vocab: usize,
    /// `[positions, vocab]`, row-major.
    pub data: Vec<f32>,
}

impl Logits {
    /// The logits of the `i`-th wanted position, or an empty slice where there is none.
    pub fn row(&self, i: usize) -> &[f32] {
        self.data.get(i * self.vocab..(i + 1) * self.vocab).unwrap_or(&[])
    }
}

/// The interface between batcher and model.
pub trait Decoder: Send {
    /// Values in a row of logits.
    fn vocab_size(&self) -> usize;
    /// Positions that one slot can hold.
    fn max_positions(&self) -> usize;
    /// Rows that can be in flight.
    fn slots(&self) -> usize;
    /// Runs the rows' tokens through the model in one pass. A slot appears in at most one row of a step.
    fn step(&mut self, rows: &[RowStep]) -> Result<Logits>;
    /// Copies the first `len` cached positions of slot `from` to slot `to`.
    fn copy_prefix(&mut self, from: usize, to: usize, len: usize) -> Result<()>;
}

/// A decoder of the Llama family: Llama, Qwen2, Qwen3; one definition for every device.
#[derive(Debug)]
pub struct CausalLm {
    config: DecoderConfig,
    device: ComputeDevice,
    embedding: Embedding,
    layers: Vec<Layer>,
    attention: Attention,
    norm: RmsNorm,
    head: Linear,
    cache: KvCache,
    pool: Option<Arc<rayon::ThreadPool>>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: RmsNorm,
    qkv: Linear,
    qk_norms: Option<QkNorms>,
    output: Linear,
    mlp_norm: RmsNorm,
    gate_up: Linear,
    down: Linear,
}

impl CausalLm {
    /// Loads a model onto a device, with a cache of `slots` times `positions` (at most the model's limit). An adapter
    /// is merged into the weights, so it costs no speed. On the CPU what it does not change keeps the bits that its file has.
    ///
    /// # Errors
    ///
    /// [`Kind::Model`] where a tensor is missing or has another shape than the configuration says.
    pub fn load(
        files: &ModelFiles,
        adapter: Option<&Adapter>,
        device: &ComputeDevice,
        slots: usize,
        positions: usize,
    ) -> Result<Self> {
        let tensor = |name: &str| -> Result<KeptTensor> {
            match adapter {
                Some(adapter) if adapter.changes(name) => Ok(adapter.merge(name, files.tensor(name)?).into()),
                _ => files.kept(name),
            }
        };
        Self::from_tensors(files.config(), tensor, device, slots, positions)
    }

    /// The same from any source of tensors, by their Hugging Face names.
    ///
    /// # Errors
    ///
    /// [`Kind::Model`] where a tensor is missing or has another shape than the configuration says.
    pub fn from_tensors<T: Into<KeptTensor>>(
        config: &DecoderConfig,
        tensor: impl Fn(&str) -> Result<T>,
        device: &ComputeDevice,
        slots: usize,
        positions: usize,
    ) -> Result<Self> {
        let c = config;
        if c.kv_heads == 0 || !c.heads.is_multiple_of(c.kv_heads) || c.head_dim == 0 || !c.head_dim.is_multiple_of(2) {
            return Err(Error::new(Kind::Model, "the model's attention heads do not fit each other")
                .with("heads", c.heads)
                .with("key heads", c.kv_heads)
                .with("width", c.head_dim));
        }
        let positions = positions.min(c.max_positions).max(1);
        let slots = slots.max(1);
        let heads = Heads { queries: c.heads, keys: c.kv_heads, width: c.head_dim };
        let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let get = |name: &str, shape: &[usize]| -> Result<KeptTensor> {
            let found: KeptTensor = tensor(name)?.into();
            if found.shape != shape || found.matrix.len() != shape.iter().product::<usize>() {
                return Err(Error::new(Kind::Model, "a tensor has another shape than the model's configuration says")
                    .with("tensor", name)
                    .with("has", format!("{:?}", found.shape))
                    .with("needs", format!("{shape:?}")));
            }
            Ok(found)
        };
        let norm =
            |name: &str, width: usize| Ok::<_, Error>(RmsNorm::new(get(name, &[width])?.widened(), c.rms_eps, device));
        let (d, ffn) = (c.hidden_size, c.intermediate_size);

        let mut layers = Vec::with_capacity(c.layers);
        for i in 0..c.layers {
            let name = |part: &str| format!("model.layers.{i}.{part}");
            let projection = |part: &str, outputs: usize| -> Result<(KeptTensor, Option<HostTensor>)> {
                let weight = get(&name(&format!("self_attn.{part}.weight")), &[outputs, d])?;
                let bias = match c.qkv_bias {
                    true => Some(get(&name(&format!("self_attn.{part}.bias")), &[outputs])?.widened()),
                    false => None,
                };
                Ok((weight, bias))
            };
            let qkv =
                vec![projection("q_proj", q_width)?, projection("k_proj", kv_width)?, projection("v_proj", kv_width)?];
            let gate = get(&name("mlp.gate_proj.weight"), &[ffn, d])?;
            let up = get(&name("mlp.up_proj.weight"), &[ffn, d])?;
            layers.push(Layer {
                attention_norm: norm(&name("input_layernorm.weight"), d)?,
                qkv: Linear::fused(qkv, device)?,
                qk_norms: match c.qk_norm {
                    true => Some(QkNorms {
                        query: norm(&name("self_attn.q_norm.weight"), c.head_dim)?,
                        key: norm(&name("self_attn.k_norm.weight"), c.head_dim)?,
                    }),
                    false => None,
                },
                output: Linear::new(get(&name("self_attn.o_proj.weight"), &[d, q_width])?, None, device)?,
                mlp_norm: norm(&name("post_attention_layernorm.weight"), d)?,
                gate_up: Linear::fused(vec![(gate, None), (up, None)], device)?,
                down: Linear::new(get(&name("mlp.down_proj.weight"), &[d, ffn])?, None, device)?,
            });
        }
        let table = get("model.embed_tokens.weight", &[c.vocab_size, d])?;
        let (embedding, head) = if c.tie_embeddings {
            Embedding::tied(table, device)?
        } else {
            let head = get("lm_head.weight", &[c.vocab_size, d])?;
            (Embedding::new(table, device)?, Linear::new(head, None, device)?)
        };
        Ok(CausalLm {
            config: c.clone(),
            device: device.clone(),
            embedding,
            layers,
            attention: Attention::new(heads, positions, c.rope_theta, device),
            norm: norm("model.norm.weight", d)?,
            head,
            cache: KvCache::new(device, heads, c.layers, slots, positions),
            pool: None,
        })
    }

    /// Runs steps on a thread pool of this size; 0 uses the process's shared pool.
    ///
    /// # Errors
    ///
    /// [`Kind::Temporary`] where the threads cannot be started.
    pub fn set_threads(&mut self, threads: usize) -> Result<()> {
        self.pool = match threads {
            0 => None,
            threads => {
                let pool =
                    rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("llm-{i}")).build();
                Some(Arc::new(pool.context(Kind::Temporary, || "threads for the model cannot be started".to_owned())?))
            }
        };
        Ok(())
    }

    /// The model's configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Validates a step before anything is written.
    fn check(&self, rows: &[RowStep<'_>]) -> Result<()> {
        let wrong = |what: &str, row: &RowStep<'_>| {
            Err(Error::new(Kind::Internal, what)
                .with("slot", row.slot)
                .with("start", row.start)
                .with("tokens", row.tokens.len()))
        };
        let mut used = vec![false; self.cache.slots()];
        for row in rows {
            match used.get_mut(row.slot) {
                None => return wrong("a step names a slot that the cache does not have", row),
                Some(used) if *used => return wrong("a step names a slot twice", row),
                Some(used) => *used = true,
            }
            if row.tokens.is_empty() {
                return wrong("a row of a step has no tokens", row);
            }
            if row.start + row.tokens.len() > self.cache.positions() {
                return wrong("a row of a step is longer than its slot", row);
            }
        }
        Ok(())
    }

    fn run(&mut self, rows: &[RowStep<'_>]) -> Result<Logits> {
        let vocab = self.config.vocab_size;
        let (mut tokens, mut spans, mut wanted) = (Vec::new(), Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let (first, count) = (tokens.len(), row.tokens.len());
            spans.push(Span { slot: row.slot, start: row.start, first, tokens: count });
            tokens.extend_from_slice(row.tokens);
            match row.want_logits {
                WantLogits::None => {}
                WantLogits::Last => wanted.push(first + count - 1),
                WantLogits::All => wanted.extend(first..first + count),
            }
        }
        let plan = self.attention.plan(&spans);
        let mut x = self.embedding.forward(&tokens)?;
        let layout = self.cache.layout();
        let last = self.layers.len().saturating_sub(1);
        for (i, (layer, cache)) in self.layers.iter().zip(self.cache.layers_mut()).enumerate() {
            let qkv = layer.qkv.forward(layer.attention_norm.forward(&x)?)?;
            let mut attended = self.attention.forward(qkv, layer.qk_norms.as_ref(), cache, &layout, &plan)?;
            if i == last {
                // After the last layer's keys and values only the wanted positions are needed.
                if wanted.is_empty() {
                    return Ok(Logits { vocab, data: Vec::new() });
                }
                attended = ops::select_rows(attended, &wanted, &self.device)?;
                x = ops::select_rows(x, &wanted, &self.device)?;
            }
            x = layer.output.forward_add(attended, x)?;
            let gate_up = layer.gate_up.forward(layer.mlp_norm.forward(&x)?)?;
            x = layer.down.forward_add(ops::swiglu(gate_up, &self.device)?, x)?;
        }
        let logits = self.head.forward(self.norm.forward(&x)?)?;
        Ok(Logits { vocab, data: ops::into_vec(logits)? })
    }
}

impl Decoder for CausalLm {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_positions(&self) -> usize {
        self.cache.positions()
    }

    fn slots(&self) -> usize {
        self.cache.slots()
    }

    fn step(&mut self, rows: &[RowStep]) -> Result<Logits> {
        self.check(rows)?;
        if rows.is_empty() {
            return Ok(Logits { vocab: self.config.vocab_size, data: Vec::new() });
        }
        match self.pool.clone() {
            Some(pool) => pool.install(|| self.run(rows)),
            None => self.run(rows),
        }
    }

    fn copy_prefix(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        self.cache.copy_prefix(from, to, len)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::llm::decoder_config::Family;

    fn config(family: Family) -> DecoderConfig {
        DecoderConfig {
            family,
            vocab_size: 101,
            hidden_size: 40,
            intermediate_size: 56,
            layers: 3,
            heads: 6,
            kv_heads: 2,
            head_dim: 12,
            rope_theta: 10_000.0,
            rms_eps: 1e-5,
            max_positions: 100,
            tie_embeddings: family != Family::Qwen3,
            qkv_bias: family == Family::Qwen2,
            qk_norm: family == Family::Qwen3,
            eos_ids: vec![2],
            bos_id: None,
            add_bos: false,
        }
    }

    /// A tensor whose values depend on its name only.
    fn tensor(c: &DecoderConfig, name: &str) -> HostTensor {
        let (d, q, kv) = (c.hidden_size, c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let shape = match name.rsplit('.').nth(1).unwrap() {
            "embed_tokens" | "lm_head" => vec![c.vocab_size, d],
            "q_proj" => vec![q, d],
            "k_proj" | "v_proj" => vec![kv, d],
            "o_proj" => vec![d, q],
            "gate_proj" | "up_proj" => vec![c.intermediate_size, d],
            "down_proj" => vec![d, c.intermediate_size],
            "q_norm" | "k_norm" => vec![c.head_dim],
            _ => vec![d],
        };
        let shape = if name.ends_with(".bias") { shape[..1].to_vec() } else { shape };
        let mut state =
            name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let data = (0..shape.iter().product())
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let x = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
                if name.contains("norm") { 1.0 + 0.3 * x } else { 0.4 * x }
            })
            .collect();
        HostTensor { shape, data }
    }

    fn model(family: Family, device: &ComputeDevice, slots: usize) -> CausalLm {
        let c = config(family);
        CausalLm::from_tensors(&c, |name| Ok(tensor(&c, name)), device, slots, 64).unwrap()
    }

    fn tokens(n: usize, seed: usize) -> Vec<u32> {
        (0..n).map(|i| ((i * i * 31 + i * 17 + seed * 13 + 5) % 101) as u32).collect()
    }

    fn row<'a>(slot: usize, start: usize, tokens: &'a [u32], want_logits: WantLogits) -> RowStep<'a> {
        RowStep { slot, start, tokens, want_logits }
    }

    const FAMILIES: [Family; 3] = [Family::Llama, Family::Qwen2, Family::Qwen3];

    #[test]
    fn kernels_and_generic_operations_agree_step_by_step() {
        for family in FAMILIES {
            let mut fast = model(family, &ComputeDevice::cpu(), 4);
            let mut slow = model(family, &ComputeDevice::cpu_reference(), 4);
            fast.set_threads(2).unwrap();
            let (a, b, c) = (tokens(23, 1), tokens(7, 2), tokens(40, 3));
            let steps: Vec<Vec<RowStep<'_>>> = vec![
                vec![row(1, 0, &a[..20], WantLogits::All), row(3, 0, &b[..1], WantLogits::Last)],
                vec![row(0, 0, &c[..33], WantLogits::None), row(3, 1, &b[1..2], WantLogits::Last)],
                vec![
                    row(3, 2, &b[2..3], WantLogits::Last),
                    row(1, 20, &a[20..21], WantLogits::None),
                    row(0, 33, &c[33..], WantLogits::Last),
                ],
                vec![row(1, 21, &a[21..], WantLogits::All), row(3, 3, &b[3..], WantLogits::All)],
                vec![row(1, 0, &b, WantLogits::Last)],
            ];
            for (i, step) in steps.iter().enumerate() {
                let (x, y) = (fast.step(step).unwrap(), slow.step(step).unwrap());
                assert_eq!(x.data.len(), y.data.len());
                let worst = x.data.iter().zip(&y.data).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-3, "{family:?} step {i}: off by {worst}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_company_and_after_a_copied_prefix() {
        for family in FAMILIES {
            let mut model = model(family, &ComputeDevice::cpu(), 6);
            let (a, b) = (tokens(41, 1), tokens(30, 9));
            let whole = model.step(&[row(0, 0, &a, WantLogits::All)]).unwrap();
            let last = whole.row(40).to_vec();
            let beside = model
                .step(&[
                    row(2, 0, &b, WantLogits::Last),
                    row(1, 0, &a, WantLogits::Last),
                    row(4, 0, &b[..3], WantLogits::Last),
                ])
                .unwrap();
            assert_eq!(beside.row(1), last);
            for i in 0..41 {
                let logits = model
                    .step(&[
                        row(3, i, &a[i..=i], WantLogits::Last),
                        row(2, i % 30, &b[i % 30..=i % 30], WantLogits::Last),
                    ])
                    .unwrap();
                assert_eq!(logits.row(0), whole.row(i), "{family:?} position {i}");
            }
            model.copy_prefix(3, 5, 17).unwrap();
            assert_eq!(model.step(&[row(5, 17, &a[17..], WantLogits::Last)]).unwrap().data, last);
        }
    }

    #[test]
    fn a_prefix_is_copied_on_every_kind_of_device() {
        for device in [ComputeDevice::cpu(), ComputeDevice::cpu_reference()] {
            let mut model = model(Family::Llama, &device, 3);
            let a = tokens(30, 4);
            let want = model.step(&[row(0, 0, &a, WantLogits::Last)]).unwrap().data;
            model.copy_prefix(0, 2, 21).unwrap();
            let got = model.step(&[row(2, 21, &a[21..], WantLogits::Last)]).unwrap().data;
            let worst = got.iter().zip(&want).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{}: off by {worst}", device.name);
            assert!(model.copy_prefix(0, 3, 1).is_err());
            assert!(model.copy_prefix(0, 1, 65).is_err());
        }
    }

    #[test]
    fn wrong_steps_are_refused_before_anything_is_written() {
        let mut model = model(Family::Llama, &ComputeDevice::cpu(), 2);
        let a = tokens(65, 1);
        for rows in [
            vec![row(2, 0, &a[..1], WantLogits::Last)],
            vec![row(0, 0, &a[..1], WantLogits::Last), row(0, 1, &a[..1], WantLogits::Last)],
            vec![row(0, 0, &[], WantLogits::Last)],
            vec![row(0, 0, &a, WantLogits::Last)],
            vec![row(0, 0, &[101], WantLogits::Last)],
        ] {
            assert_eq!(model.step(&rows).unwrap_err().kind(), Kind::Internal);
        }
        assert!(model.step(&[]).unwrap().data.is_empty());
        assert_eq!((model.slots(), model.max_positions(), model.vocab_size()), (2, 64, 101));
    }

    #[test]
    fn a_tensor_of_another_shape_is_named() {
        let c = config(Family::Llama);
        let wrong = |name: &str| {
            let mut t = tensor(&c, name);
            if name == "model.layers.1.mlp.up_proj.weight" {
                t.shape.swap(0, 1);
            }
            Ok(t)
        };
        let e = CausalLm::from_tensors(&c, wrong, &ComputeDevice::cpu(), 1, 8).unwrap_err();
        assert_eq!(e.kind(), Kind::Model);
        assert!(e.to_string().contains("layers.1.mlp.up_proj"), "{e}");
    }
}
