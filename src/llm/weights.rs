//! Model files: one GGUF file or a Hugging Face directory, seen the same way.
//!
//! Knows names, shapes and digests of tensors and what a decoder's configuration says. Knows nothing of devices. All of
//! a model's tensors are checked when it is opened, before any is read.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::error::{Context, Error, Kind, Result};
use crate::llm::chat::ChatTemplate;
use crate::llm::gguf::{Format, Gguf, map_file};
use crate::llm::tokenizer::{BpeVocabulary, Tokenizer};
use crate::paths;

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

/// What a model file can be, for hints.
const SUPPORTED: &str = "supported are Llama, Qwen2 and Qwen3, as a GGUF file or a Hugging Face directory";

impl DecoderConfig {
    /// Refuses sizes that no model can have, so that what follows need not fear overflow.
    fn check(&self) -> Result<()> {
        let bad = |message: String| Err(Error::new(Kind::Model, message).hint("mend the model's configuration"));
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

/// A model on disk, opened: headers are read and checked, weights stay in the memory map until asked for.
#[derive(Debug)]
pub struct ModelFiles {
    path: PathBuf,
    config: DecoderConfig,
    source: Source,
    found_ends: Vec<u32>,
    digest: OnceLock<String>,
}

#[derive(Debug)]
enum Source {
    Gguf(Gguf),
    Directory(TensorFiles),
}

impl ModelFiles {
    /// Opens a GGUF file, a Hugging Face directory, or a directory that holds nothing but one GGUF file.
    ///
    /// # Errors
    /// `Kind::Model` where a file is missing, truncated or not supported, or a tensor is missing or has another shape.
    pub fn open(path: &Path) -> Result<ModelFiles> {
        let path = resolve(path)?;
        let (config, source) = if path.is_dir() {
            let files = TensorFiles::open(&path)?;
            let config = directory_config(&path, &files)?;
            (config, Source::Directory(files))
        } else {
            if path.extension().is_some_and(|e| e == "safetensors") {
                return Err(Error::new(Kind::Model, "a safetensors file alone is not a model")
                    .with("file", path.display())
                    .hint("name the directory that holds it together with config.json and tokenizer.json"));
            }
            let gguf = Gguf::open(&path)?;
            whole_gguf(&gguf).map_err(|e| e.with("file", path.display()))?;
            let config = gguf_config(&gguf).map_err(|e| e.with("file", path.display()))?;
            (config, Source::Gguf(gguf))
        };
        let mut files = ModelFiles { path, config, source, found_ends: Vec::new(), digest: OnceLock::new() };
        files.check_tensors()?;
        files.find_ends()?;
        Ok(files)
    }

    /// Adds the ends of a turn that the configuration does not name: what the tokenizer's own files call the end, and the
    /// token that the chat template writes after an answer. The template's comes first: it is what an answer ends with.
    fn find_ends(&mut self) -> Result<()> {
        // A template that does not parse is an error where it is asked for.
        let after = self.chat_template().map(|t| t.after_answer()).unwrap_or_default();
        let after = after.trim_start();
        let (mut of_template, mut of_tokenizer) = (None, Vec::new());
        match &self.source {
            Source::Gguf(gguf) => {
                let types = gguf.i32s("tokenizer.ggml.token_type").unwrap_or_default();
                let tokens = gguf.strs("tokenizer.ggml.tokens").unwrap_or_default();
                // Control tokens and those that users added.
                let added = tokens.iter().enumerate().filter(|(i, _)| matches!(types.get(*i), Some(3 | 4)));
                let fits = added.filter(|(_, token)| !token.is_empty() && after.starts_with(token.as_str()));
                of_template = fits.max_by_key(|(_, token)| token.len()).and_then(|(i, _)| u32::try_from(i).ok());
            }
            Source::Directory(_) => {
                let added = TokenizerOutline::read(&self.path)?.unwrap_or_default().added_tokens;
                let fits = added.iter().filter(|t| !t.content.is_empty() && after.starts_with(t.content.as_str()));
                of_template = of_template.or(fits.max_by_key(|t| t.content.len()).map(|t| t.id));
                let about = [
                    read_json(&self.path.join("tokenizer_config.json"))?.unwrap_or_default(),
                    read_json(&self.path.join("special_tokens_map.json"))?.unwrap_or_default(),
                ];
                let eos: Vec<&str> = about.iter().filter_map(|file| special_token(file, "eos_token")).collect();
                of_tokenizer.extend(added.iter().filter(|t| eos.contains(&t.content.as_str())).map(|t| t.id));
            }
        }
        let is_new = |id: &u32| !self.config.eos_ids.contains(id) && (*id as usize) < self.config.vocab_size;
        let of_template = of_template.filter(is_new);
        of_tokenizer.retain(|id| is_new(id) && of_template != Some(*id));
        of_tokenizer.dedup();
        self.found_ends = of_template.into_iter().chain(of_tokenizer.iter().copied()).collect();
        self.config.eos_ids =
            of_template.into_iter().chain(self.config.eos_ids.iter().copied()).chain(of_tokenizer).collect();
        Ok(())
    }

    /// Ends of a turn that the configuration does not name and its tokenizer's files do, with which generation ends too.
    pub fn found_ends(&self) -> &[u32] {
        &self.found_ends
    }

    /// Where the model lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's or folder's name alone: what may be told elsewhere.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What the decoder looks like.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The folder of a model that is one in Hugging Face's layout.
    pub fn directory(&self) -> Option<&Path> {
        matches!(self.source, Source::Directory(_)).then_some(self.path.as_path())
    }

    /// The text of a special token as a GGUF file names it, such as `bos` or `eos`.
    pub(crate) fn gguf_token(&self, role: &str) -> Option<&str> {
        let Source::Gguf(gguf) = &self.source else { return None };
        let id = gguf.u32(&format!("tokenizer.ggml.{role}_token_id"))?;
        gguf.strs("tokenizer.ggml.tokens")?.get(id as usize).map(String::as_str)
    }

    fn check_tensors(&self) -> Result<()> {
        let mut wrong = Vec::new();
        for (name, expected) in self.config.tensors() {
            match self.shape(&name) {
                None => wrong.push(format!("{name} is missing")),
                Some(found) if found != expected => wrong.push(format!("{name} is {found:?}, not {expected:?}")),
                Some(_) => {}
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let more = if wrong.len() > 4 { format!("; and {} more", wrong.len() - 4) } else { String::new() };
        wrong.truncate(4);
        Err(Error::new(Kind::Model, format!("the weights do not fit the configuration: {}{more}", wrong.join("; ")))
            .with("file", self.path.display())
            .hint("the model is incomplete or its configuration belongs to another: fetch all of its files again"))
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        match &self.source {
            Source::Gguf(gguf) => gguf.info(&gguf_name(name)?).map(|i| i.shape.as_slice()),
            Source::Directory(files) => files.shape(name),
        }
    }

    /// One tensor by its Hugging Face name (`model.layers.0.self_attn.q_proj.weight`), as f32.
    ///
    /// # Errors
    /// `Kind::Model` where the model has no such tensor.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let gguf = match &self.source {
            Source::Directory(files) => return files.tensor(name),
            Source::Gguf(gguf) => gguf,
        };
        let stored = gguf_name(name).unwrap_or_else(|| name.to_owned());
        let mut data = gguf.values(&stored)?;
        let shape = gguf.info(&stored).map(|i| i.shape.clone()).unwrap_or_default();
        if self.config.family == Family::Llama {
            let heads = match name.rsplit('.').nth(1) {
                Some("q_proj") => Some(self.config.heads),
                Some("k_proj") => Some(self.config.kv_heads),
                _ => None,
            };
            if let Some(heads) = heads {
                data = unpermute(&data, heads, self.config.head_dim);
            }
        }
        Ok(HostTensor { shape, data })
    }

    /// BLAKE3 over every file of the model that decides its output, 32 hex digits; computed once. The name and place
    /// of the model do not matter.
    ///
    /// # Errors
    /// `Kind::Model` where a file cannot be read.
    pub fn digest(&self) -> Result<String> {
        if let Some(digest) = self.digest.get() {
            return Ok(digest.clone());
        }
        let mut hasher = blake3::Hasher::new();
        match &self.source {
            Source::Gguf(gguf) => digest_bytes(&mut hasher, "gguf", gguf.bytes()),
            Source::Directory(files) => files.digest(
                &mut hasher,
                &self.path,
                &[
                    "chat_template.jinja",
                    "config.json",
                    "generation_config.json",
                    "special_tokens_map.json",
                    "tokenizer.json",
                    "tokenizer_config.json",
                ],
            )?,
        }
        let mut digest = hasher.finalize().to_hex().to_string();
        digest.truncate(32);
        Ok(self.digest.get_or_init(|| digest).clone())
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// `Kind::Model` where it is missing, of an unknown type, or larger than the model's embedding.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let (tokenizer, file) = match &self.source {
            Source::Directory(_) => {
                let file = self.path.join("tokenizer.json");
                (Tokenizer::from_json(&map_file(&file)?), file)
            }
            Source::Gguf(gguf) => (gguf_tokenizer(gguf), self.path.clone()),
        };
        let tokenizer = tokenizer.map_err(|e| e.with("file", file.display()))?;
        if tokenizer.vocab_size() > self.config.vocab_size {
            return Err(Error::new(
                Kind::Model,
                format!(
                    "the tokenizer does not fit the model: it has {} tokens, the model's embedding {}",
                    tokenizer.vocab_size(),
                    self.config.vocab_size
                ),
            )
            .with("file", file.display())
            .hint("take the tokenizer from where the model came from"));
        }
        Ok(tokenizer)
    }

    /// The model's chat template.
    ///
    /// # Errors
    /// `Kind::Model` where the model has none or it does not parse.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        let none = || {
            Error::new(Kind::Model, "the model has no chat template")
                .with("file", self.path.display())
                .hint("use an instruction-tuned model, or add chat_template.jinja to its directory")
        };
        match &self.source {
            Source::Gguf(gguf) => {
                let source = gguf.str("tokenizer.chat_template").ok_or_else(none)?;
                let tokens = gguf.strs("tokenizer.ggml.tokens").unwrap_or_default();
                let text = |key: &str| gguf.u32(key).and_then(|id| tokens.get(id as usize)).map_or("", String::as_str);
                let (bos, eos) = (text("tokenizer.ggml.bos_token_id"), text("tokenizer.ggml.eos_token_id"));
                ChatTemplate::new(source, bos, eos)
            }
            Source::Directory(_) => {
                let about = read_json(&self.path.join("tokenizer_config.json"))?.unwrap_or_default();
                let special = read_json(&self.path.join("special_tokens_map.json"))?.unwrap_or_default();
                let text = |key: &str| {
                    special_token(&about, key).or_else(|| special_token(&special, key)).unwrap_or_default().to_owned()
                };
                let source = match read_text(&self.path.join("chat_template.jinja"))? {
                    Some(source) => source,
                    None => directory_template(&about).ok_or_else(none)?,
                };
                ChatTemplate::new(&source, &text("bos_token"), &text("eos_token"))
            }
        }
        .map_err(|e| e.with("file", self.path.display()))
    }
}

/// The file or directory that `path` means.
fn resolve(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        return Err(Error::new(Kind::Model, "the model does not exist")
            .with("file", path.display())
            .hint("check the path; ci/quickstart.sh fetches the models of the examples"));
    }
    if !path.is_dir() || path.join("config.json").exists() {
        return Ok(path.to_owned());
    }
    let entries = std::fs::read_dir(path).context(Kind::Model, || format!("cannot list {}", path.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(Error::new(Kind::Model, "the directory holds several GGUF files")
            .with("file", path.display())
            .hint("name one of them; parts of a split model (-00001-of-00003) must be joined first")),
        (None, _) => Err(Error::new(Kind::Model, "the directory has no config.json and no GGUF file")
            .with("file", path.display())
            .hint(SUPPORTED)),
    }
}

/// The safetensors files of a directory: one, or several with an index.
pub(crate) struct TensorFiles {
    shards: Vec<Shard>,
    tensors: HashMap<String, Place>,
}

struct Shard {
    path: PathBuf,
    map: Mmap,
}

struct Place {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// In the shard's file.
    range: std::ops::Range<usize>,
}

impl fmt::Debug for TensorFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorFiles").field("shards", &self.shards.len()).field("tensors", &self.tensors.len()).finish()
    }
}

impl TensorFiles {
    /// Maps the directory's weights and reads their headers.
    pub(crate) fn open(dir: &Path) -> Result<TensorFiles> {
        const SINGLE: &str = "model.safetensors";
        let index_path = dir.join("model.safetensors.index.json");
        let names: BTreeSet<String> = if dir.join(SINGLE).exists() {
            BTreeSet::from([SINGLE.to_owned()])
        } else if let Some(index) = read_json(&index_path)? {
            let bad = || {
                Error::new(Kind::Model, "the index has no weight_map of file names in its own directory")
                    .with("file", index_path.display())
                    .hint("fetch the model again")
            };
            let map = index["weight_map"].as_object().ok_or_else(bad)?;
            let plain = |v: &Value| match v.as_str() {
                Some(name) => paths::plain(name)
                    .map(str::to_owned)
                    .map_err(|e| e.with("file", index_path.display()).with("key", "weight_map")),
                None => Err(bad()),
            };
            map.values().map(plain).collect::<Result<_>>()?
        } else {
            return Err(Error::new(Kind::Model, "the model directory has no model.safetensors and no index of shards")
                .with("file", dir.display())
                .hint("only safetensors and GGUF weights can be read, not pytorch_model.bin"));
        };

        Self::open_all(names.into_iter().map(|name| dir.join(name)))
    }

    /// Maps one safetensors file.
    pub(crate) fn open_file(path: &Path) -> Result<TensorFiles> {
        Self::open_all([path.to_owned()])
    }

    fn open_all(paths: impl IntoIterator<Item = PathBuf>) -> Result<TensorFiles> {
        let mut files = TensorFiles { shards: Vec::new(), tensors: HashMap::new() };
        for path in paths {
            let map = map_file(&path)?;
            files.add(&map).map_err(|e| e.with("file", path.display()))?;
            files.shards.push(Shard { path, map });
        }
        Ok(files)
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Adds the directory of the file whose bytes these are, as the next shard.
    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let damaged = "the safetensors file is truncated or damaged";
        let hint = "fetch the model again";
        let (header, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|e| Error::new(Kind::Model, damaged).hint(hint).source(e))?;
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let start = header.saturating_add(8);
            let range = start.saturating_add(from)..start.saturating_add(to);
            if bytes.get(range.clone()).is_none() {
                return Err(Error::new(Kind::Model, damaged).with("tensor", name).hint(hint));
            }
            let place = Place { shard: self.shards.len(), dtype: info.dtype, shape: info.shape.clone(), range };
            if self.tensors.insert(name.clone(), place).is_some() {
                return Err(Error::new(Kind::Model, "two shards hold the same tensor").with("tensor", name).hint(hint));
            }
        }
        Ok(())
    }

    /// A tensor's shape.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|p| p.shape.as_slice())
    }

    /// A tensor as f32.
    pub(crate) fn tensor(&self, name: &str) -> Result<HostTensor> {
        let place = self.tensors.get(name);
        let Some((place, shard)) = place.and_then(|p| Some((p, self.shards.get(p.shard)?))) else {
            return Err(Error::new(Kind::Model, "the model lacks a tensor").with("tensor", name));
        };
        let format = match place.dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::Bf16,
            other => {
                return Err(Error::new(Kind::Model, format!("tensors of type {other:?} are not supported"))
                    .with("tensor", name)
                    .with("file", shard.path.display())
                    .hint("save the model as float32, float16 or bfloat16"));
            }
        };
        let bytes = shard.map.get(place.range.clone()).unwrap_or(&[]);
        let mut data = vec![0.0; bytes.len() / format.block().1];
        if place.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(data.len()) {
            return Err(Error::new(Kind::Model, "a tensor's shape does not fit its data")
                .with("tensor", name)
                .with("file", shard.path.display()));
        }
        format.dequantise(bytes, &mut data);
        Ok(HostTensor { shape: place.shape.clone(), data })
    }

    /// Feeds the weights and those of `names` that exist in `dir` into a hasher.
    pub(crate) fn digest(&self, hasher: &mut blake3::Hasher, dir: &Path, names: &[&str]) -> Result<()> {
        for name in names {
            let path = dir.join(name);
            if path.exists() {
                digest_bytes(hasher, name, &map_file(&path)?);
            }
        }
        for shard in &self.shards {
            digest_bytes(hasher, &shard.path.file_name().unwrap_or_default().to_string_lossy(), &shard.map);
        }
        Ok(())
    }
}

/// Feeds a named file into a hasher, hashing its parts in parallel.
fn digest_bytes(hasher: &mut blake3::Hasher, name: &str, bytes: &[u8]) {
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    let parts: Vec<blake3::Hash> = bytes.par_chunks(1 << 22).map(blake3::hash).collect();
    for part in parts {
        hasher.update(part.as_bytes());
    }
}

/// A text file's content; `None` where there is no such file.
fn read_text(path: &Path) -> Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = map_file(path)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|e| Error::new(Kind::Model, "the file is not UTF-8").with("file", path.display()).source(e))?;
    Ok(Some(text.to_owned()))
}

/// A JSON file's content; `None` where there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let value = serde_json::from_slice(&map_file(path)?).map_err(|e| {
        Error::new(Kind::Model, "the file is not valid JSON")
            .with("file", path.display())
            .hint("it may be truncated: fetch the model again")
            .source(e)
    })?;
    Ok(Some(value))
}

/// The `default` template of a tokenizer_config.json, which holds one or a list of named ones.
fn directory_template(about: &Value) -> Option<String> {
    let templates = about.get("chat_template")?;
    let named = |t: &&Value| t["name"] == "default";
    let one = templates.as_array().and_then(|all| all.iter().find(named)).map_or(templates, |t| &t["template"]);
    one.as_str().map(str::to_owned)
}

/// A special token of a tokenizer_config.json or special_tokens_map.json, such as `eos_token`.
fn special_token<'a>(file: &'a Value, key: &str) -> Option<&'a str> {
    file[key].as_str().or_else(|| file[key]["content"].as_str())
}

/// The small part of a tokenizer.json: the vocabulary is read when the tokenizer is asked for.
#[derive(Default, serde::Deserialize)]
struct TokenizerOutline {
    post_processor: Option<Value>,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

/// A token that a tokenizer.json adds to its vocabulary.
#[derive(serde::Deserialize)]
struct Added {
    id: u32,
    content: String,
}

impl TokenizerOutline {
    /// A directory's; `None` where it has no tokenizer.json.
    fn read(dir: &Path) -> Result<Option<TokenizerOutline>> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            return Ok(None);
        }
        serde_json::from_slice(&map_file(&path)?).map(Some).map_err(|e| {
            Error::new(Kind::Model, "the file is no tokenizer")
                .with("file", path.display())
                .hint("fetch tokenizer.json again")
                .source(e)
        })
    }
}

/// A configuration file's values, read with errors that name the key.
pub(crate) struct ConfigFile {
    path: PathBuf,
    value: Value,
}

impl ConfigFile {
    /// Reads a file that must exist.
    pub(crate) fn open(path: PathBuf) -> Result<ConfigFile> {
        match read_json(&path)? {
            Some(value) if value.is_object() => Ok(ConfigFile { path, value }),
            Some(_) => Err(Error::new(Kind::Model, "the file is not a JSON object").with("file", path.display())),
            None => Err(Error::new(Kind::Model, "the model directory lacks a file")
                .with("file", path.display())
                .hint("fetch all files of the model")),
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The raw value; `None` where absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    /// A whole number of things.
    pub(crate) fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        let number = self.get(key).map(|v| v.as_u64().and_then(|n| usize::try_from(n).ok()));
        match number {
            Some(Some(n)) => Ok(n),
            Some(None) => Err(self.wrong(key, "a whole number that is not negative")),
            None => default.ok_or_else(|| self.wrong(key, "given")),
        }
    }

    /// A number.
    pub(crate) fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            Some(v) => v.as_f64().ok_or_else(|| self.wrong(key, "a number")),
            None => Ok(default),
        }
    }

    /// True or false.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false"))).transpose()
    }

    /// Token ids: one or a list.
    fn ids(&self, key: &str) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let all = match value {
            Value::Array(list) => list.iter().map(one).collect(),
            single => one(single).map(|id| vec![id]),
        };
        all.map(Some).ok_or_else(|| self.wrong(key, "a token id or a list of token ids"))
    }

    /// The error for a key that must be something else.
    pub(crate) fn wrong(&self, key: &str, must_be: &str) -> Error {
        Error::new(Kind::Model, format!("'{key}' must be {must_be}"))
            .with("file", self.path.display())
            .hint("mend the model's configuration, or fetch it again")
    }
}

/// The configuration that a Hugging Face directory states.
fn directory_config(dir: &Path, files: &TensorFiles) -> Result<DecoderConfig> {
    let c = ConfigFile::open(dir.join("config.json"))?;
    let refuse =
        |what: String, hint: &str| Error::new(Kind::Model, what).with("file", c.path.display()).hint(hint.to_owned());
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
    config.check().map_err(|e| e.with("file", c.path.display()))?;
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

/// Refuses a file that is one part of a model split in several.
fn whole_gguf(gguf: &Gguf) -> Result<()> {
    match gguf.u32("split.count").unwrap_or(1) {
        0 | 1 => Ok(()),
        parts => Err(Error::new(Kind::Model, format!("the model is split: this is one of its {parts} parts")).hint(
            "join the parts: llama-gguf-split --merge FIRST_PART WHOLE.gguf, from llama.cpp; then name the whole file",
        )),
    }
}

/// The configuration that a GGUF file's metadata states.
fn gguf_config(gguf: &Gguf) -> Result<DecoderConfig> {
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
    // llama.cpp takes a factor without a type as linear; 0 and 1 scale nothing.
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
        // llama.cpp's default where the file does not say: only the Llama 3 vocabularies prepend it.
        add_bos: gguf
            .bool("tokenizer.ggml.add_bos_token")
            .unwrap_or_else(|| matches!(gguf.str("tokenizer.ggml.pre"), Some("llama-bpe" | "llama3" | "llama-v3"))),
    };
    config.check()?;
    Ok(config)
}

/// The tokenizer in a GGUF file's metadata.
fn gguf_tokenizer(gguf: &Gguf) -> Result<Tokenizer> {
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
fn gguf_name(name: &str) -> Option<String> {
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
fn unpermute(data: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
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
