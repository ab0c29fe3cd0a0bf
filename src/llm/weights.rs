//! Model files: one GGUF file or a Hugging Face directory, seen the same way.
//!
//! Knows names, shapes and digests of tensors and what a decoder's configuration says. Knows nothing of devices.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::llm::chat::ChatTemplate;
use crate::llm::tokenizer::Tokenizer;

/// A tensor in host memory, row-major, in Hugging Face's layout (`[out, in]` for a linear layer).
#[derive(Debug, Clone)]
pub struct HostTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub data: Vec<f32>,
}

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

/// What a causal decoder looks like.
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

/// A model on disk, opened: headers are read and checked, weights stay in the memory map until asked for.
#[derive(Debug)]
pub struct ModelFiles {
    path: PathBuf,
    config: DecoderConfig,
}

impl ModelFiles {
    /// Opens a GGUF file or a Hugging Face directory.
    ///
    /// # Errors
    /// `Kind::Model` where a file is missing, truncated or not supported, or a tensor is missing or has another shape.
    pub fn open(path: &Path) -> Result<ModelFiles> {
        Err(Error::new(Kind::Internal, "opening models is not written yet").with("file", path.display()))
    }

    /// Where the model lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the decoder looks like.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// One tensor by its Hugging Face name (`model.layers.0.self_attn.q_proj.weight`), as f32.
    ///
    /// # Errors
    /// `Kind::Model` where the model has no such tensor.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        Err(Error::new(Kind::Internal, "reading tensors is not written yet").with("tensor", name))
    }

    /// BLAKE3 over every file of the model, 32 hex digits; computed once.
    ///
    /// # Errors
    /// `Kind::Model` where a file cannot be read.
    pub fn digest(&self) -> Result<String> {
        Err(Error::new(Kind::Internal, "digests are not written yet"))
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// `Kind::Model` where it is missing, of an unknown type, or larger than the model's embedding.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Err(Error::new(Kind::Internal, "tokenizers are not written yet"))
    }

    /// The model's chat template.
    ///
    /// # Errors
    /// `Kind::Model` where the model has none or it does not parse.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        Err(Error::new(Kind::Internal, "chat templates are not written yet"))
    }
}
