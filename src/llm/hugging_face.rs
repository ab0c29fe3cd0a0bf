//! A decoder's configuration from the files of a Hugging Face directory.
//!
//! Knows config.json, generation_config.json, tokenizer_config.json and the outline of tokenizer.json. Of the weights
//! it only knows whether there is an output projection.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::llm::decoder_config::{DecoderConfig, Family, SUPPORTED};
use crate::llm::file::{ConfigFile, map_file, read_json};
use crate::llm::tensor_files::TensorFiles;

/// The `default` template of a tokenizer_config.json, which contains one template or a list of named ones.
pub(super) fn directory_template(about: &Value) -> Option<String> {
    let templates = about.get("chat_template")?;
    let named = |t: &&Value| t["name"] == "default";
    let one = templates.as_array().and_then(|all| all.iter().find(named)).map_or(templates, |t| &t["template"]);
    one.as_str().map(str::to_owned)
}

/// A special token of a tokenizer_config.json or special_tokens_map.json, such as `eos_token`.
pub(super) fn special_token<'a>(file: &'a Value, key: &str) -> Option<&'a str> {
    file[key].as_str().or_else(|| file[key]["content"].as_str())
}

/// The small part of a tokenizer.json: the vocabulary is read when the tokenizer is needed.
#[derive(Default, serde::Deserialize)]
pub(super) struct TokenizerOutline {
    pub(super) post_processor: Option<Value>,
    #[serde(default)]
    pub(super) added_tokens: Vec<Added>,
}

/// A token that a tokenizer.json adds to its vocabulary.
#[derive(serde::Deserialize)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
}

impl TokenizerOutline {
    /// Reads a directory's tokenizer.json; `None` if it has none.
    pub(super) fn read(dir: &Path) -> Result<Option<TokenizerOutline>> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            return Ok(None);
        }
        serde_json::from_slice(&map_file(&path)?).map(Some).map_err(|e| {
            Error::new(Kind::Model, "the file is not a tokenizer")
                .with("file", path.display())
                .hint("fetch tokenizer.json again")
                .source(e)
        })
    }
}

/// The configuration in a Hugging Face directory.
pub(super) fn directory_config(dir: &Path, files: &TensorFiles) -> Result<DecoderConfig> {
    let c = ConfigFile::open(dir.join("config.json"))?;
    let refuse =
        |what: String, hint: &str| Error::new(Kind::Model, what).with("file", c.path().display()).hint(hint.to_owned());
    let model_type = c.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
    let family = match model_type {
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        other => return Err(refuse(format!("the architecture '{other}' is not supported"), SUPPORTED)),
    };
    if c.get("quantization_config").is_some() {
        return Err(refuse(
            "quantised safetensors are not supported".to_owned(),
            "take the model in float32, float16 or bfloat16, or as GGUF",
        ));
    }
    if let Some(act) = c.get("hidden_act").filter(|&a| a != "silu") {
        return Err(refuse(format!("the activation {act} is not supported"), SUPPORTED));
    }
    for key in
        ["mlp_bias", "use_sliding_window"].into_iter().chain((family != Family::Qwen2).then_some("attention_bias"))
    {
        if c.flag(key)? == Some(true) {
            return Err(refuse(format!("'{key}' is not supported"), SUPPORTED));
        }
    }

    // transformers 5 moved rope_theta and the scaling into rope_parameters.
    let parameters = c.get("rope_parameters");
    for (key, scaling) in [("rope_scaling", c.get("rope_scaling")), ("rope_parameters", parameters)] {
        let Some(scaling) = scaling else { continue };
        let of = |key: &str| scaling.get(key).filter(|v| !v.is_null());
        let kind = match (of("rope_type").or_else(|| of("type")), of("factor")) {
            (Some(kind), _) => kind.as_str().unwrap_or("(none)"),
            (None, Some(_)) => "(none)",
            (None, None) => "default",
        };
        if kind != "default" && !(kind == "linear" && of("factor").is_some_and(|f| f.as_f64() == Some(1.0))) {
            return Err(refuse(
                format!("{key} of type '{kind}' is not supported, only unscaled rotary positions"),
                "take a model without position scaling",
            ));
        }
    }
    let rope_theta = match parameters.and_then(|p| p.get("rope_theta")) {
        Some(theta) => theta.as_f64().ok_or_else(|| c.wrong("rope_parameters.rope_theta", "a number"))?,
        None => c.number("rope_theta", 10_000.0)?,
    };

    let hidden_size = c.size("hidden_size", None)?;
    let heads = c.size("num_attention_heads", None)?;
    let head_dim = match (c.get("head_dim"), family) {
        (Some(_), _) => c.size("head_dim", None)?,
        (None, Family::Qwen3) => 128,
        (None, _) if heads == 0 || !hidden_size.is_multiple_of(heads) => {
            return Err(refuse(
                format!("hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}"),
                "mend the model's configuration",
            ));
        }
        (None, _) => hidden_size / heads,
    };
    let generation = dir.join("generation_config.json");
    let generation = if generation.exists() { ConfigFile::open(generation)?.ids("eos_token_id")? } else { None };
    let eos_ids = match generation {
        Some(ids) => ids,
        None => c.ids("eos_token_id")?.unwrap_or_default(),
    };
    let bos_id = c.ids("bos_token_id")?.and_then(|ids| ids.first().copied());
    let untied = files.shape("lm_head.weight").is_some();
    let config = DecoderConfig {
        family,
        vocab_size: c.size("vocab_size", None)?,
        hidden_size,
        intermediate_size: c.size("intermediate_size", None)?,
        layers: c.size("num_hidden_layers", None)?,
        heads,
        kv_heads: c.size("num_key_value_heads", Some(heads))?,
        head_dim,
        rope_theta,
        rms_eps: c.number("rms_norm_eps", 1e-6)?,
        max_positions: c.size("max_position_embeddings", Some(if family == Family::Llama { 2048 } else { 32_768 }))?,
        tie_embeddings: c.flag("tie_word_embeddings")?.unwrap_or(!untied),
        qkv_bias: family == Family::Qwen2,
        qk_norm: family == Family::Qwen3,
        eos_ids,
        bos_id,
        add_bos: directory_adds_bos(dir)?,
    };
    config.check().map_err(|e| e.with("file", c.path().display()))?;
    Ok(config)
}

/// Whether a directory's tokenizer prepends a BOS: by its configuration, else by its post-processor.
fn directory_adds_bos(dir: &Path) -> Result<bool> {
    let about = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
    if let Some(add) = about["add_bos_token"].as_bool() {
        return Ok(add);
    }
    let Some(bos) = special_token(&about, "bos_token") else { return Ok(false) };
    let Some(outline) = TokenizerOutline::read(dir)? else { return Ok(false) };
    let processor = outline.post_processor.unwrap_or_default();
    let steps = processor["processors"].as_array().cloned().unwrap_or_else(|| vec![processor]);
    Ok(steps.iter().any(|step| step["single"][0]["SpecialToken"]["id"] == bos))
}
