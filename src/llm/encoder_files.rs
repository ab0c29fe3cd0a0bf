//! A sentence encoder's directory: its configuration files, including those of sentence-transformers.
//!
//! Knows config.json, modules.json, the pooling configuration and the settings of text preprocessing. All of it is
//! checked before any weight is read. Knows nothing of devices.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::llm::file::{ConfigFile, map_file, read_json};
use crate::llm::tensor_files::{HostTensor, TensorFiles};
use crate::llm::tokenizer::Tokenizer;
use crate::paths;

/// How the tokens' vectors become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooling {
    Mean,
    FirstToken,
}

/// A sentence encoder's directory, opened: headers are read and checked, weights are
/// only hashed.
#[derive(Debug)]
pub struct EncoderFiles {
    dir: PathBuf,
    tensors: TensorFiles,
    pub(super) heads: usize,
    pub(super) width: usize,
    inner: usize,
    pub(super) layers: usize,
    words: usize,
    positions: usize,
    types: usize,
    pub(super) eps: f32,
    pub(super) reading: Reading,
    pub(super) pooling: Pooling,
    pub(super) normalise: bool,
    pub(super) digest: String,
}

impl EncoderFiles {
    /// Opens a model directory: config.json, tokenizer.json, model.safetensors and, where they exist, modules.json, the
    /// pooling's config.json, sentence_bert_config.json, config_sentence_transformers.json and tokenizer_config.json.
    ///
    /// # Errors
    /// `Kind::Model` where a file is missing, damaged or asks for something that is not supported.
    pub fn open(dir: &Path) -> Result<EncoderFiles> {
        if !dir.is_dir() {
            return Err(Error::new(Kind::Model, "the sentence encoder's directory does not exist")
                .with("file", dir.display())
                .hint("name a directory with config.json, tokenizer.json and model.safetensors"));
        }
        let config = ConfigFile::open(dir.join("config.json"))?;
        for (key, supported) in
            [("model_type", "bert"), ("hidden_act", "gelu"), ("position_embedding_type", "absolute")]
        {
            if config.get(key).map_or(key == "model_type", |v| v != supported) {
                return Err(config.wrong(key, &format!("\"{supported}\": only BERT's own kind is supported")));
            }
        }
        let size = |key: &str, limit: usize| match config.size(key, None)? {
            n if (1..=limit).contains(&n) => Ok(n),
            _ => Err(config.wrong(key, &format!("between 1 and {limit}"))),
        };
        let (width, heads) = (size("hidden_size", 1 << 20)?, size("num_attention_heads", 1 << 20)?);
        if !width.is_multiple_of(heads) {
            return Err(config.wrong("hidden_size", &format!("a multiple of num_attention_heads {heads}")));
        }
        let positions = size("max_position_embeddings", 1 << 24)?;
        let Modules { pooling, without_prompt, normalise, files: of_modules } = Modules::read(dir, width)?;
        let reading = Reading::of(dir, positions)?;
        if without_prompt && !reading.prompt.is_empty() {
            let file = dir.join(of_modules.first().map_or("modules.json", String::as_str));
            return Err(unsupported(
                "pooling without the prompt (include_prompt = false) beside a default prompt",
                &file,
            ));
        }
        let tensors = TensorFiles::open(dir)?;
        let mut hasher = blake3::Hasher::new();
        let mut names =
            vec!["1_Pooling/config.json", "config.json", "modules.json", "sentence_bert_config.json", "tokenizer.json"];
        names.extend(of_modules.iter().map(String::as_str).filter(|name| *name != "1_Pooling/config.json"));
        tensors.digest(&mut hasher, dir, &names)?;
        reading.digest(&mut hasher);
        let mut digest = hasher.finalize().to_hex().to_string();
        digest.truncate(32);
        let files = EncoderFiles {
            tensors,
            heads,
            width,
            inner: size("intermediate_size", 1 << 20)?,
            layers: size("num_hidden_layers", 1 << 10)?,
            words: size("vocab_size", 1 << 24)?,
            positions,
            types: config.size("type_vocab_size", Some(2))?,
            eps: config.number("layer_norm_eps", 1e-12)? as f32,
            reading,
            pooling,
            normalise,
            dir: dir.to_owned(),
            digest,
        };
        files.check()?;
        Ok(files)
    }

    /// Rejects missing tensors and wrong shapes before any tensor is read.
    fn check(&self) -> Result<()> {
        let mut wrong = Vec::new();
        for (name, shape) in self.expected() {
            match self.tensors.shape(&self.full(&name)) {
                None => wrong.push(format!("{name} is missing")),
                Some(found) if found != shape => wrong.push(format!("{name} is {found:?}, not {shape:?}")),
                Some(_) => {}
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let more = if wrong.len() > 4 { format!("; and {} more", wrong.len() - 4) } else { String::new() };
        wrong.truncate(4);
        Err(Error::new(Kind::Model, format!("the weights do not fit config.json: {}{more}", wrong.join("; ")))
            .with("file", self.dir.display())
            .hint("the model is incomplete or its configuration belongs to another: fetch all of its files again"))
    }

    /// Name and shape of every tensor.
    fn expected(&self) -> Vec<(String, Vec<usize>)> {
        let (d, inner) = (self.width, self.inner);
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[usize]| all.push((name, shape.to_vec()));
        for (name, rows) in [("word", self.words), ("position", self.positions), ("token_type", self.types)] {
            add(format!("embeddings.{name}_embeddings.weight"), &[rows, d]);
        }
        let mut layer = |name: String, weight: &[usize]| {
            add(format!("{name}.weight"), weight);
            add(format!("{name}.bias"), &weight[..1]);
        };
        layer("embeddings.LayerNorm".to_owned(), &[d]);
        for n in 0..self.layers {
            let square =
                ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"];
            for name in square {
                layer(format!("encoder.layer.{n}.{name}"), &[d, d]);
            }
            layer(format!("encoder.layer.{n}.attention.output.LayerNorm"), &[d]);
            layer(format!("encoder.layer.{n}.intermediate.dense"), &[inner, d]);
            layer(format!("encoder.layer.{n}.output.dense"), &[d, inner]);
            layer(format!("encoder.layer.{n}.output.LayerNorm"), &[d]);
        }
        all
    }

    /// The name in the file: models with a head prefix it with `bert.`.
    fn full(&self, name: &str) -> String {
        let prefixed = self.tensors.shape("bert.embeddings.word_embeddings.weight").is_some();
        format!("{}{name}", if prefixed { "bert." } else { "" })
    }

    pub(super) fn tensor(&self, name: &str) -> Result<HostTensor> {
        self.tensors.tensor(&self.full(name)).map_err(|e| e.with("file", self.dir.display()))
    }

    /// The weight and the bias of a layer.
    pub(super) fn pair(&self, name: &str) -> Result<(HostTensor, HostTensor)> {
        Ok((self.tensor(&format!("{name}.weight"))?, self.tensor(&format!("{name}.bias"))?))
    }

    /// Width of a sentence's vector.
    pub fn dimension(&self) -> usize {
        self.width
    }

    /// BLAKE3 over every file of the model that decides its output, 32 hex digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn tokenizer(&self) -> Result<Tokenizer> {
        let file = self.dir.join("tokenizer.json");
        let tokenizer = Tokenizer::from_json(&map_file(&file)?).map_err(|e| e.with("file", file.display()))?;
        let size = tokenizer.vocab_size();
        if size > self.words {
            let message = format!(
                "the tokenizer does not fit the model: it has {size} tokens, the model's embedding {}",
                self.words
            );
            return Err(Error::new(Kind::Model, message)
                .with("file", file.display())
                .hint("take the tokenizer from where the model came from"));
        }
        let (before, after) = tokenizer.frame();
        if self.reading.max_tokens <= before.len() + after.len() {
            let message = format!("a limit of {} tokens leaves none for the text", self.reading.max_tokens);
            return Err(Error::new(Kind::Model, message).with("file", self.dir.display()).hint(
                "mend max_seq_length in sentence_bert_config.json, or model_max_length in tokenizer_config.json",
            ));
        }
        Ok(tokenizer)
    }
}

fn unsupported(what: &str, path: &Path) -> Error {
    Error::new(Kind::Model, format!("{what} is not supported"))
        .with("file", path.display())
        .hint("supported are a BERT transformer, mean or first-token pooling, and normalisation")
}

/// Text preprocessing, as configured by sentence-transformers' files.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reading {
    /// Token limit, including the special tokens around a text.
    pub(super) max_tokens: usize,
    /// Whether `max_tokens` comes from the tokenizer's configuration.
    of_tokenizer: bool,
    lower_case: bool,
    /// Prefix of every text.
    prompt: String,
}

impl Reading {
    fn of(dir: &Path, positions: usize) -> Result<Reading> {
        let mut reading = Reading { max_tokens: positions, ..Reading::default() };
        let path = dir.join("sentence_bert_config.json");
        let mut stated = None;
        if path.exists() {
            let config = ConfigFile::open(path.clone())?;
            let plain = [("transformer_task", "feature-extraction"), ("module_output_name", "token_embeddings")];
            for (key, plain) in plain {
                if let Some(other) = config.get(key).filter(|v| *v != plain) {
                    return Err(unsupported(&format!("{key} = {other}"), &path));
                }
            }
            reading.lower_case = config.flag("do_lower_case")?.unwrap_or(false);
            if config.get("max_seq_length").is_some() {
                stated = Some(config.size("max_seq_length", None)?);
            }
        }
        // By default the tokenizer's limit applies, as in sentence-transformers; it may be 1e30.
        let tokenizer = dir.join("tokenizer_config.json");
        if stated.is_none() && tokenizer.exists() {
            let limit = ConfigFile::open(tokenizer)?.number("model_max_length", positions as f64)?;
            if limit >= 1.0 && limit < positions as f64 {
                (stated, reading.of_tokenizer) = (Some(limit as usize), true);
            }
        }
        reading.max_tokens = stated.map_or(positions, |n| n.min(positions));

        let path = dir.join("config_sentence_transformers.json");
        let Some(config) = read_json(&path)? else { return Ok(reading) };
        match &config["default_prompt_name"] {
            Value::Null => {}
            name => {
                let prompt = name.as_str().and_then(|name| config["prompts"][name].as_str()).ok_or_else(|| {
                    Error::new(Kind::Model, format!("default_prompt_name {name} is none of the prompts"))
                        .with("file", path.display())
                        .hint("add the prompt of that name to prompts, or set default_prompt_name to null")
                })?;
                reading.prompt = prompt.to_owned();
            }
        }
        Ok(reading)
    }

    /// Hashes the settings that the digested files do not contain, if any.
    fn digest(&self, hasher: &mut blake3::Hasher) {
        let mut add = |what: &str, value: &str| {
            hasher.update(what.as_bytes()).update(&(value.len() as u64).to_le_bytes()).update(value.as_bytes());
        };
        if self.of_tokenizer {
            add("model_max_length", &self.max_tokens.to_string());
        }
        if self.lower_case {
            add("do_lower_case", "true");
        }
        if !self.prompt.is_empty() {
            add("prompt", &self.prompt);
        }
    }

    /// The text that is tokenized for `text`.
    pub(super) fn whole<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let text = match self.prompt.is_empty() {
            true => Cow::Borrowed(text),
            false => Cow::Owned(format!("{}{text}", self.prompt)),
        };
        if self.lower_case { Cow::Owned(text.to_lowercase()) } else { text }
    }
}

/// The modules after the transformer, from modules.json; by default mean pooling and normalisation.
struct Modules {
    pooling: Pooling,
    /// The tokens of the prompt are not pooled.
    without_prompt: bool,
    normalise: bool,
    /// The configuration files that were read, relative to the model's directory.
    files: Vec<String>,
}

impl Modules {
    fn read(dir: &Path, width: usize) -> Result<Modules> {
        let path = dir.join("modules.json");
        let mut found = Modules { pooling: Pooling::Mean, without_prompt: false, normalise: true, files: Vec::new() };
        let Some(modules) = read_json(&path)? else { return Ok(found) };
        let modules = modules.as_array().ok_or_else(|| unsupported("a modules.json that is no list", &path))?;
        let mut kinds = Vec::new();
        for module in modules {
            let kind = module["type"].as_str().unwrap_or("(none)");
            let folder = module["path"].as_str().unwrap_or_default();
            kinds.push(kind.rsplit('.').next().unwrap_or_default());
            match kinds.last().copied() {
                Some("Transformer") if folder.is_empty() => {}
                Some("Transformer") => {
                    return Err(unsupported(&format!("a transformer in a folder of its own, {folder:?},"), &path));
                }
                Some("Normalize") => {}
                Some("Pooling") => {
                    // The path comes from the model's files: it must not lead out of its directory.
                    let folder = paths::relative(folder).map_err(|e| e.with("file", path.display()))?;
                    let name = format!("{folder}/config.json");
                    (found.pooling, found.without_prompt) = pooling(ConfigFile::open(dir.join(&name))?, width)?;
                    found.files.push(name);
                }
                _ => return Err(unsupported(&format!("the module '{kind}'"), &path)),
            }
        }
        found.normalise = match kinds[..] {
            ["Transformer", "Pooling"] => false,
            ["Transformer", "Pooling", "Normalize"] => true,
            _ => return Err(unsupported(&format!("the order of modules {}", kinds.join(", ")), &path)),
        };
        Ok(found)
    }
}

/// The pooling mode of a configuration, and whether it excludes the prompt.
fn pooling(config: ConfigFile, width: usize) -> Result<(Pooling, bool)> {
    // Before sentence-transformers 5.4: one switch for each mode.
    const SWITCHES: [(&str, &str); 6] = [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("pooling_mode_weightedmean_tokens", "weightedmean"),
        ("pooling_mode_lasttoken", "lasttoken"),
    ];
    let mut modes: Vec<&str> = Vec::new();
    match config.get("pooling_mode") {
        Some(Value::Array(list)) => modes.extend(list.iter().map(|v| v.as_str().unwrap_or("(none)"))),
        Some(one) => modes.push(one.as_str().unwrap_or("(none)")),
        None => {
            for (key, mode) in SWITCHES {
                if config.flag(key)? == Some(true) {
                    modes.push(mode);
                }
            }
        }
    }
    for key in ["embedding_dimension", "word_embedding_dimension"] {
        if config.get(key).is_some() && config.size(key, None)? != width {
            return Err(config.wrong(key, &format!("{width}, the transformer's hidden_size")));
        }
    }
    let pooling = match modes[..] {
        ["mean"] => Pooling::Mean,
        ["cls"] => Pooling::FirstToken,
        [] => return Err(unsupported("pooling without a mode", config.path())),
        _ => return Err(unsupported(&format!("pooling by {}", modes.join(" together with ")), config.path())),
    };
    Ok((pooling, config.flag("include_prompt")? == Some(false)))
}
