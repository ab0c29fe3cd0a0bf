//! A model with its adapter merged, as a directory that Hugging Face's transformers load.
//!
//! Weights are written one tensor at a time, so that there is no second copy of the model in memory. Knows nothing of
//! where models come from.

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::Path;

use half::f16;
use safetensors::tensor::{Dtype, View, serialize_to_file};
use serde_json::{Value, json};

use crate::error::{Context, Error, Kind, Result};
use crate::llm::adapter::{Adapter, Precision};
use crate::llm::decoder_config::{DecoderConfig, Family};
use crate::llm::file::read_json;
use crate::llm::weights::ModelFiles;
use crate::whole_folder::new_folder;

/// Files next to the weights that are copied unchanged.
const COMPANIONS: [&str; 8] = [
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// Writes the model into a new folder; returns what is missing for transformers.
///
/// # Errors
/// `Kind::Usage` where the folder is not empty; `Kind::Model` where a tensor cannot be read or does not fit 16 bits;
/// `Kind::Temporary` for the disk's.
pub fn write(base: &ModelFiles, adapter: Option<&Adapter>, out: &Path, precision: Precision) -> Result<Vec<String>> {
    let mut lacks = Vec::new();
    new_folder(out, |dir| {
        weights(base, adapter, &dir.join("model.safetensors"), precision)?;
        let dtype = if precision == Precision::F32 { "float32" } else { "float16" };
        let mut config = match base.directory() {
            Some(from) => {
                for name in COMPANIONS.iter().filter(|name| from.join(name).exists()) {
                    std::fs::copy(from.join(name), dir.join(name))
                        .context(Kind::Temporary, || format!("cannot copy {name}"))?;
                }
                read_json(&from.join("config.json"))?.unwrap_or_default()
            }
            None => {
                lacks = tokenizer_of_gguf(base, dir)?;
                config_json(base.config())
            }
        };
        // transformers 5 reads the first, older ones the second.
        config["dtype"] = dtype.into();
        config["torch_dtype"] = dtype.into();
        put(dir, "config.json", &config)
    })?;
    Ok(lacks)
}

fn put(dir: &Path, name: &str, value: &Value) -> Result<()> {
    std::fs::write(dir.join(name), format!("{value:#}\n")).context(Kind::Temporary, || format!("cannot write {name}"))
}

/// A tensor that is read only when it is written.
struct Lazy<'a> {
    base: &'a ModelFiles,
    adapter: Option<&'a Adapter>,
    name: String,
    shape: Vec<usize>,
    precision: Precision,
    /// The first error: the library's trait cannot return one.
    failed: &'a RefCell<Option<Error>>,
}

impl Lazy<'_> {
    fn bytes(&self) -> Result<Vec<u8>> {
        let mut tensor = self.base.tensor(&self.name)?;
        if let Some(adapter) = self.adapter {
            tensor = adapter.merge(&self.name, tensor);
        }
        match self.precision {
            Precision::F32 => Ok(tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Precision::F16 if tensor.data.iter().any(|v| v.is_finite() && !f16::from_f32(*v).is_finite()) => {
                Err(Error::new(Kind::Model, "a weight is too large for 16 bits")
                    .with("tensor", &self.name)
                    .hint("write the model with 32 bits"))
            }
            Precision::F16 => Ok(tensor.data.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()),
        }
    }
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        if self.precision == Precision::F32 { Dtype::F32 } else { Dtype::F16 }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.failed.borrow().is_some() {
            return Cow::Owned(Vec::new());
        }
        Cow::Owned(self.bytes().unwrap_or_else(|e| {
            *self.failed.borrow_mut() = Some(e);
            Vec::new()
        }))
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * if self.precision == Precision::F32 { 4 } else { 2 }
    }
}

fn weights(base: &ModelFiles, adapter: Option<&Adapter>, file: &Path, precision: Precision) -> Result<()> {
    let failed = RefCell::new(None);
    let views: Vec<(String, Lazy<'_>)> = base
        .config()
        .tensors()
        .into_iter()
        .map(|(name, shape)| (name.clone(), Lazy { base, adapter, name, shape, precision, failed: &failed }))
        .collect();
    let about = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    let written = serialize_to_file(views, Some(about), file);
    match failed.into_inner() {
        Some(e) => Err(e),
        None => written.context(Kind::Temporary, || format!("cannot write `{}`", file.display())),
    }
}

/// A decoder's configuration as Hugging Face's config.json has it.
pub fn config_json(c: &DecoderConfig) -> Value {
    let (kind, class) = match c.family {
        Family::Llama => ("llama", "LlamaForCausalLM"),
        Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        Family::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
    };
    json!({
        "architectures": [class],
        "model_type": kind,
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": c.max_positions,
        "rms_norm_eps": c.rms_eps,
        "rope_theta": c.rope_theta,
        "tie_word_embeddings": c.tie_embeddings,
        "bos_token_id": c.bos_id,
        "eos_token_id": c.eos_ids,
    })
}

/// tokenizer.json and tokenizer_config.json of a GGUF file's vocabulary; returns what they lack.
fn tokenizer_of_gguf(base: &ModelFiles, dir: &Path) -> Result<Vec<String>> {
    let tokenizer = base.tokenizer()?;
    put(dir, "tokenizer.json", &tokenizer.to_json()?)?;
    let mut about = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": base.config().max_positions,
    });
    for role in ["bos", "eos"] {
        if let Some(token) = base.gguf_token(role) {
            about[format!("{role}_token")] = token.into();
        }
    }
    let mut lacks = Vec::new();
    match base.chat_template() {
        Ok(template) => about["chat_template"] = template.source().into(),
        Err(_) => lacks.push("the GGUF file has no chat template that can be read".to_owned()),
    }
    if base.config().add_bos {
        lacks.push("tokenizer.json puts no beginning-of-text token before a text: add bos_token yourself".to_owned());
    }
    put(dir, "tokenizer_config.json", &about)?;
    Ok(lacks)
}
