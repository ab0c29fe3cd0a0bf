//! Model files: one GGUF file or a Hugging Face directory, seen the same way.
//!
//! Knows names, shapes and digests of tensors and what a decoder's configuration says. Knows nothing of devices.

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
