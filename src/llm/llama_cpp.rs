//! A decoder's configuration from GGUF metadata, and llama.cpp's names and layout of its tensors.
//!
//! Knows llama.cpp's conventions. Knows nothing of the container's bytes.

use crate::error::{Error, Kind, Result};
use crate::kernels::narrow::{Matrix, Quantised};
use crate::llm::decoder_config::{DecoderConfig, Family, SUPPORTED};
use crate::llm::gguf::Gguf;
use crate::llm::tokenizer::{BpeVocabulary, Tokenizer};

/// Rejects a file that is one part of a split model.
pub(super) fn whole_gguf(gguf: &Gguf) -> Result<()> {
    match gguf.u32("split.count").unwrap_or(1) {
        0 | 1 => Ok(()),
        parts => Err(Error::new(Kind::Model, format!("the model is split: this is one of its {parts} parts")).hint(
            "join the parts: llama-gguf-split --merge FIRST_PART WHOLE.gguf, from llama.cpp; then name the whole file",
        )),
    }
}

/// The configuration in a GGUF file's metadata.
pub(super) fn gguf_config(gguf: &Gguf) -> Result<DecoderConfig> {
    let arch = gguf.str("general.architecture").ok_or_else(|| gguf.missing("key", "general.architecture"))?;
    let family = match arch {
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        other => {
            return Err(Error::new(Kind::Model, format!("the architecture '{other}' is not supported")).hint(SUPPORTED));
        }
    };
    let key = |name: &str| format!("{arch}.{name}");
    let size = |name: &str| gguf.u32(&key(name)).map(|n| n as usize);
    let need = |name: &str| size(name).ok_or_else(|| gguf.missing("key", &key(name)));
    let refuse = |what: String| Err(Error::new(Kind::Model, what).hint(SUPPORTED));
    if size("expert_count").unwrap_or(0) > 0 {
        return refuse("mixtures of experts are not supported".to_owned());
    }
    // llama.cpp treats a factor without a type as linear; 0 and 1 mean no scaling.
    let factor = ["rope.scaling.factor", "rope.scale_linear"].iter().find_map(|name| gguf.f64(&key(name)));
    let is_scaled = factor.is_some_and(|f| f != 0.0 && f != 1.0);
    let scaling = match gguf.str(&key("rope.scaling.type")) {
        Some("none") => None,
        Some("linear") | None => is_scaled.then_some("linear"),
        other => other,
    };
    if scaling.is_some() || gguf.info("rope_freqs.weight").is_some() {
        let kind = scaling.unwrap_or("llama3");
        return refuse(format!("rope scaling of type '{kind}' is not supported, only unscaled rotary positions"));
    }

    let (hidden_size, heads) = (need("embedding_length")?, need("attention.head_count")?);
    let head_dim = match size("attention.key_length") {
        Some(n) => n,
        None if heads == 0 || !hidden_size.is_multiple_of(heads) => {
            return refuse(format!("embedding_length {hidden_size} is not a multiple of head_count {heads}"));
        }
        None => hidden_size / heads,
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if size(name).is_some_and(|n| n != head_dim) {
            return refuse(format!("{} differs from the heads' width {head_dim}", key(name)));
        }
    }
    let embedding = gguf.info("token_embd.weight").ok_or_else(|| gguf.missing("tensor", "token_embd.weight"))?;
    let id = |name: &str| gguf.u32(&format!("tokenizer.ggml.{name}"));
    let mut eos_ids: Vec<u32> = ["eos_token_id", "eot_token_id", "eom_token_id"].into_iter().filter_map(id).collect();
    eos_ids.sort_unstable();
    eos_ids.dedup();
    let config = DecoderConfig {
        family,
        vocab_size: embedding.shape.first().copied().unwrap_or(0),
        hidden_size,
        intermediate_size: need("feed_forward_length")?,
        layers: need("block_count")?,
        heads,
        kv_heads: size("attention.head_count_kv").unwrap_or(heads),
        head_dim,
        rope_theta: gguf.f64(&key("rope.freq_base")).unwrap_or(10_000.0),
        rms_eps: gguf
            .f64(&key("attention.layer_norm_rms_epsilon"))
            .ok_or_else(|| gguf.missing("key", &key("attention.layer_norm_rms_epsilon")))?,
        max_positions: need("context_length")?,
        tie_embeddings: gguf.info("output.weight").is_none(),
        qkv_bias: family == Family::Qwen2,
        qk_norm: family == Family::Qwen3,
        eos_ids,
        bos_id: id("bos_token_id"),
        // llama.cpp's default if the file does not say: only the Llama 3 vocabularies prepend it.
        add_bos: gguf
            .bool("tokenizer.ggml.add_bos_token")
            .unwrap_or_else(|| matches!(gguf.str("tokenizer.ggml.pre"), Some("llama-bpe" | "llama3" | "llama-v3"))),
    };
    config.check()?;
    Ok(config)
}

/// The tokenizer in a GGUF file's metadata.
pub(super) fn gguf_tokenizer(gguf: &Gguf) -> Result<Tokenizer> {
    let model = gguf.str("tokenizer.ggml.model").unwrap_or("(none)");
    if model != "gpt2" {
        return Err(Error::new(Kind::Model, format!("the GGUF tokenizer type '{model}' is not supported, only gpt2"))
            .hint("use the model's Hugging Face directory with its tokenizer.json"));
    }
    let strs = |name: &str| gguf.strs(name).ok_or_else(|| gguf.missing("key", name));
    let types = "tokenizer.ggml.token_type";
    Tokenizer::from_bpe(&BpeVocabulary {
        tokens: strs("tokenizer.ggml.tokens")?,
        types: &gguf.i32s(types).ok_or_else(|| gguf.missing("key", types))?,
        merges: strs("tokenizer.ggml.merges")?,
        pre: gguf.str("tokenizer.ggml.pre").unwrap_or("default"),
    })
}

/// llama.cpp's name for a Hugging Face tensor name.
pub(super) fn gguf_name(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let module = match module {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{module}.{kind}"))
}

/// Undoes llama.cpp's permutation of q and k rows: it stores the two halves of a head interleaved.
pub(super) fn unpermute(matrix: Matrix, heads: usize, head_dim: usize) -> Matrix {
    match matrix {
        Matrix::Full(values) => Matrix::Full(unpermuted(&values, heads, head_dim)),
        Matrix::Halves(half, values) => Matrix::Halves(half, unpermuted(&values, heads, head_dim)),
        Matrix::Quantised(q) => Matrix::Quantised(Quantised {
            quants: unpermuted(&q.quants, heads, head_dim),
            scales: unpermuted(&q.scales, heads, head_dim),
            minima: unpermuted(&q.minima, heads, head_dim),
            ..q
        }),
    }
}

/// The rows of a head in their order, whatever stands in a row.
fn unpermuted<T: Copy>(data: &[T], heads: usize, head_dim: usize) -> Vec<T> {
    let width = data.len() / (heads * head_dim);
    let mut out = Vec::with_capacity(data.len());
    for head in 0..heads {
        for row in 0..head_dim {
            let stored = head * head_dim + 2 * (row % (head_dim / 2)) + row / (head_dim / 2);
            out.extend_from_slice(&data[stored * width..(stored + 1) * width]);
        }
    }
    out
}
