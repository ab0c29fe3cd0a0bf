//! Configuration of a causal decoder: its family, sizes and special tokens, and the tensors that follow from them.
//!
//! Knows Hugging Face's names. Knows nothing of files or devices.

use crate::error::{Error, Kind, Result};

/// The decoder families that curec runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3, SmolLM.
    Llama,
    /// Qwen2 and Qwen2.5: Llama with biases on q, k and v.
    Qwen2,
    /// Qwen3: Llama with RMS norms on the heads of q and k.
    Qwen3,
}

/// Configuration of a causal decoder.
#[derive(Debug, Clone)]
pub struct DecoderConfig {
    /// Family.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Epsilon of the RMS norms.
    pub rms_eps: f64,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
    /// Whether the output projection is the embedding.
    pub tie_embeddings: bool,
    /// Whether q, k and v have biases (Qwen2).
    pub qkv_bias: bool,
    /// Whether the heads of q and k are normed (Qwen3).
    pub qk_norm: bool,
    /// Tokens that end a text.
    pub eos_ids: Vec<u32>,
    /// The token that begins a text, if the model has one.
    pub bos_id: Option<u32>,
    /// Whether the tokenizer prepends it.
    pub add_bos: bool,
}

/// The supported models, for hints.
pub(super) const SUPPORTED: &str = "supported are Llama, Qwen2 and Qwen3, as a GGUF file or a Hugging Face directory";

impl DecoderConfig {
    /// Rejects impossible sizes, so that later arithmetic cannot overflow.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |message: String| Err(Error::new(Kind::Model, message).hint("correct the model's configuration"));
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_positions),
        ];
        for (name, n) in sizes {
            let limit = if name == "num_hidden_layers" { 1 << 10 } else { 1 << 24 };
            if n == 0 || n > limit {
                return bad(format!("{name} is {n}, not between 1 and {limit}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return bad(format!(
                "num_attention_heads {} is not a multiple of num_key_value_heads {}",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad(format!("head_dim {} is odd, which rotary positions do not allow", self.head_dim));
        }
        if !(self.rms_eps.is_finite() && self.rms_eps >= 0.0 && self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return bad(format!("rms_norm_eps {} or rope_theta {} is no usable number", self.rms_eps, self.rope_theta));
        }
        match self.eos_ids.iter().chain(&self.bos_id).find(|&&id| id as usize >= self.vocab_size) {
            Some(id) => bad(format!("the special token {id} lies outside the vocabulary of {}", self.vocab_size)),
            None => Ok(()),
        }
    }

    /// Name and shape of every tensor of such a decoder, by Hugging Face's names.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (d, ffn) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, d]),
            ("model.norm.weight".to_owned(), vec![d]),
        ];
        if !self.tie_embeddings {
            all.push(("lm_head.weight".to_owned(), vec![self.vocab_size, d]));
        }
        for layer in 0..self.layers {
            let mut add =
                |name: &str, shape: &[usize]| all.push((format!("model.layers.{layer}.{name}"), shape.into()));
            add("input_layernorm.weight", &[d]);
            add("self_attn.q_proj.weight", &[q, d]);
            add("self_attn.k_proj.weight", &[kv, d]);
            add("self_attn.v_proj.weight", &[kv, d]);
            add("self_attn.o_proj.weight", &[d, q]);
            if self.qkv_bias {
                add("self_attn.q_proj.bias", &[q]);
                add("self_attn.k_proj.bias", &[kv]);
                add("self_attn.v_proj.bias", &[kv]);
            }
            if self.qk_norm {
                add("self_attn.q_norm.weight", &[self.head_dim]);
                add("self_attn.k_norm.weight", &[self.head_dim]);
            }
            add("post_attention_layernorm.weight", &[d]);
            add("mlp.gate_proj.weight", &[ffn, d]);
            add("mlp.up_proj.weight", &[ffn, d]);
            add("mlp.down_proj.weight", &[d, ffn]);
        }
        all
    }
}
