//! Sentence encoders of the BERT family: texts to vectors.
//!
//! Knows a Hugging Face directory with sentence-transformers' extras, and Burn. Knows nothing of tables. On the CPU the
//! tokens of a batch's sentences stand below each other without padding and hand-written loops do what is not a matrix
//! product; on other devices sentences are padded and everything is one of Burn's generic operations.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, activation};
use rayon::prelude::*;
use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::kernels::activation::gelu;
use crate::kernels::isa::Isa;
use crate::kernels::norm::add_layer_norm;
use crate::kernels::row_attention::attend_sentence;
use crate::llm::device::ComputeDevice;
use crate::llm::file::map_file;
use crate::llm::file::{ConfigFile, read_json};
use crate::llm::ops::{Linear, from_vec, into_vec};
use crate::llm::tensor_files::{HostTensor, TensorFiles};
use crate::llm::tokenizer::Tokenizer;
use crate::paths;

/// Tokens in a batch: enough for the matrix products, few enough to stay near the caches.
const BATCH_TOKENS: usize = 2048;

/// What becomes of the tokens' vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pooling {
    Mean,
    FirstToken,
}

/// A sentence encoder, loaded.
#[derive(Debug)]
pub struct SentenceEncoder {
    device: ComputeDevice,
    tokenizer: Tokenizer,
    heads: usize,
    width: usize,
    reading: Reading,
    pooling: Pooling,
    normalise: bool,
    /// `[vocabulary, width]`, in host memory: looking a row up needs no device.
    words: HostTensor,
    /// `[positions, width]`, with the vector of token type 0 added.
    positions: HostTensor,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    digest: String,
}

#[derive(Debug)]
struct Layer {
    qkv: Linear,
    attention_out: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    output_norm: Norm,
}

/// A sentence encoder's directory, opened: headers are read and checked, weights are
/// only hashed.
#[derive(Debug)]
pub struct EncoderFiles {
    dir: PathBuf,
    tensors: TensorFiles,
    heads: usize,
    width: usize,
    inner: usize,
    layers: usize,
    words: usize,
    positions: usize,
    types: usize,
    eps: f32,
    reading: Reading,
    pooling: Pooling,
    normalise: bool,
    digest: String,
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

    /// Refuses missing tensors and wrong shapes, before any is read.
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

    /// The name in the file: models with a head put `bert.` before it.
    fn full(&self, name: &str) -> String {
        let prefixed = self.tensors.shape("bert.embeddings.word_embeddings.weight").is_some();
        format!("{}{name}", if prefixed { "bert." } else { "" })
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        self.tensors.tensor(&self.full(name)).map_err(|e| e.with("file", self.dir.display()))
    }

    /// The weight and the bias of a layer.
    fn pair(&self, name: &str) -> Result<(HostTensor, HostTensor)> {
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

    fn tokenizer(&self) -> Result<Tokenizer> {
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

impl SentenceEncoder {
    /// Opens a model directory as [`EncoderFiles::open`] does and loads its weights.
    ///
    /// # Errors
    /// As [`EncoderFiles::open`].
    pub fn load(dir: &Path, device: &ComputeDevice) -> Result<SentenceEncoder> {
        let files = EncoderFiles::open(dir)?;
        let tokenizer = files.tokenizer()?;
        let norm = |name: &str| -> Result<Norm> {
            let (weight, bias) = files.pair(name)?;
            Ok(Norm::new(weight, bias, files.eps, device))
        };
        let part = |name: &str| files.pair(name).map(|(weight, bias)| (weight, Some(bias)));
        let linear = |name: &str| part(name).and_then(|(weight, bias)| Linear::new(weight, bias, device));
        let layer = |n: usize| -> Result<Layer> {
            let at = |name: &str| format!("encoder.layer.{n}.{name}");
            let qkv = ["query", "key", "value"].map(|s| part(&at(&format!("attention.self.{s}"))));
            Ok(Layer {
                qkv: Linear::fused(qkv.into_iter().collect::<Result<_>>()?, device)?,
                attention_out: linear(&at("attention.output.dense"))?,
                attention_norm: norm(&at("attention.output.LayerNorm"))?,
                up: linear(&at("intermediate.dense"))?,
                down: linear(&at("output.dense"))?,
                output_norm: norm(&at("output.LayerNorm"))?,
            })
        };
        let mut positions = files.tensor("embeddings.position_embeddings.weight")?;
        let types = files.tensor("embeddings.token_type_embeddings.weight")?;
        for position in positions.data.chunks_exact_mut(files.width) {
            position.iter_mut().zip(&types.data).for_each(|(p, t)| *p += t);
        }
        Ok(SentenceEncoder {
            device: device.clone(),
            tokenizer,
            heads: files.heads,
            width: files.width,
            reading: files.reading.clone(),
            pooling: files.pooling,
            normalise: files.normalise,
            words: files.tensor("embeddings.word_embeddings.weight")?,
            positions,
            embedding_norm: norm("embeddings.LayerNorm")?,
            layers: (0..files.layers).map(layer).collect::<Result<_>>()?,
            digest: files.digest,
        })
    }

    /// Width of a sentence's vector.
    pub fn dimension(&self) -> usize {
        self.width
    }

    /// BLAKE3 over every file of the model that decides its output, 32 hex digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The longest text in tokens, `[CLS]` and `[SEP]` included; what is longer is cut.
    pub fn max_tokens(&self) -> usize {
        self.reading.max_tokens
    }

    /// Token ids of a text as the model reads them, the default prompt before it, cut to [`SentenceEncoder::max_tokens`].
    ///
    /// # Errors
    /// `Kind::Internal` where the tokenizer library fails.
    pub fn token_ids(&self, text: &str) -> Result<Vec<u32>> {
        let (before, after) = self.tokenizer.frame();
        let mut ids = self.tokenizer.encode_text(&self.reading.whole(text))?;
        ids.truncate(self.reading.max_tokens - before.len() - after.len());
        Ok([before, &ids, after].concat())
    }

    /// One vector of [`SentenceEncoder::dimension`] values per text, in order. Special tokens in texts are data.
    ///
    /// # Errors
    /// `Kind::Temporary` where the device fails, `Kind::Internal` where the tokenizer library fails.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let tokens = texts.par_iter().map(|text| self.token_ids(text)).collect::<Result<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| tokens[i].len());

        let mut vectors = vec![Vec::new(); texts.len()];
        let mut rest = order.as_slice();
        while let Some(&first) = rest.first() {
            // Sorted, so a batch's longest is its last: as many as fit the budget when padded to it.
            let mut n = 1;
            while n < rest.len() && tokens[rest[n]].len() * (n + 1) <= BATCH_TOKENS.max(tokens[first].len()) {
                n += 1;
            }
            let (batch, later) = rest.split_at(n);
            let sentences: Vec<&[u32]> = batch.iter().map(|&i| tokens[i].as_slice()).collect();
            for (&i, vector) in batch.iter().zip(self.embed_batch(&sentences)?) {
                vectors[i] = vector;
            }
            rest = later;
        }
        Ok(vectors)
    }

    fn embed_batch(&self, sentences: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let width = self.width;
        let batch = Batch::new(sentences, !self.device.is_host);
        let mut x = vec![0.0; batch.tokens * width];
        for (&(start, _), ids) in batch.rows.iter().zip(sentences) {
            let positions = self.positions.data.chunks_exact(width);
            for ((&id, position), out) in ids.iter().zip(positions).zip(x[start * width..].chunks_exact_mut(width)) {
                let word = &self.words.data[id as usize * width..(id as usize + 1) * width];
                out.iter_mut().zip(word).zip(position).for_each(|((o, w), p)| *o = w + p);
            }
        }

        let mut x = from_vec(x, [batch.tokens, width], &self.device);
        x = self.embedding_norm.forward(x, None, &self.device)?;
        for layer in &self.layers {
            let attended = self.attention(layer.qkv.forward(x.clone())?, &batch)?;
            x = layer.attention_norm.forward(layer.attention_out.forward(attended)?, Some(x), &self.device)?;
            let inner = self.gelu(layer.up.forward(x.clone())?)?;
            x = layer.output_norm.forward(layer.down.forward(inner)?, Some(x), &self.device)?;
        }
        let x = into_vec(x)?;
        Ok(batch.rows.iter().map(|&(start, len)| self.pool(&x[start * width..(start + len) * width])).collect())
    }

    /// One vector from a sentence's `[tokens, width]`.
    fn pool(&self, tokens: &[f32]) -> Vec<f32> {
        let mut vector = vec![0.0f32; self.width];
        match self.pooling {
            Pooling::FirstToken => vector.copy_from_slice(&tokens[..self.width]),
            Pooling::Mean => {
                for token in tokens.chunks_exact(self.width) {
                    vector.iter_mut().zip(token).for_each(|(v, t)| *v += t);
                }
                let n = (tokens.len() / self.width) as f32;
                vector.iter_mut().for_each(|v| *v /= n);
            }
        }
        if self.normalise {
            let norm = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12) as f32;
            vector.iter_mut().for_each(|v| *v /= norm);
        }
        vector
    }

    /// `[tokens, 3 width]` (q, k and v side by side) to `[tokens, width]`; every sentence sees itself only.
    fn attention(&self, qkv: Tensor<2>, batch: &Batch) -> Result<Tensor<2>> {
        let (width, heads) = (self.width, self.heads);
        let head_dim = width / heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        if self.device.is_host {
            let qkv = into_vec(qkv)?;
            let mut out = vec![0.0; batch.tokens * width];
            // Sentences follow each other without gaps, so their outputs can be handed to threads one by one.
            let mut rest = out.as_mut_slice();
            let mut parts = Vec::with_capacity(batch.rows.len());
            for &(start, len) in &batch.rows {
                let (part, later) = rest.split_at_mut(len * width);
                parts.push((&qkv[start * 3 * width..(start + len) * 3 * width], part));
                rest = later;
            }
            let isa = Isa::detect();
            parts.into_par_iter().for_each(|(qkv, out)| attend_sentence(isa, qkv, out, heads, head_dim, scale));
            return Ok(from_vec(out, [batch.tokens, width], &self.device));
        }
        let (b, t) = (batch.rows.len(), batch.padded_to);
        let part = |i: usize| {
            let x = qkv.clone().slice([0..b * t, i * width..(i + 1) * width]);
            x.reshape([b, t, heads, head_dim]).swap_dims(1, 2)
        };
        let mask = batch.rows.iter().flat_map(|&(_, len)| (0..t).map(move |j| if j < len { 0.0 } else { -1e30 }));
        let mask: Tensor<4> = from_vec(mask.collect(), [b, 1, 1, t], &self.device);
        let scores = part(0).matmul(part(1).transpose()) * scale + mask;
        let out = activation::softmax(scores, 3).matmul(part(2));
        Ok(out.swap_dims(1, 2).reshape([b * t, width]))
    }

    /// GELU by its definition with erf.
    fn gelu(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        if !self.device.is_host {
            return Ok(activation::gelu(x));
        }
        let shape = x.dims();
        let mut x = into_vec(x)?;
        let isa = Isa::detect();
        x.par_chunks_mut(1 << 14).for_each(|x| gelu(isa, x));
        Ok(from_vec(x, shape, &self.device))
    }
}

/// Where the sentences of a batch stand in the folded `[tokens, width]`.
struct Batch {
    /// First token and length of each sentence.
    rows: Vec<(usize, usize)>,
    tokens: usize,
    /// Tokens from one sentence to the next, where they are padded.
    padded_to: usize,
}

impl Batch {
    fn new(sentences: &[&[u32]], padded: bool) -> Batch {
        let padded_to = sentences.iter().map(|s| s.len()).max().unwrap_or(0);
        let mut tokens = 0;
        let rows = sentences
            .iter()
            .map(|s| {
                let start = tokens;
                tokens += if padded { padded_to } else { s.len() };
                (start, s.len())
            })
            .collect();
        Batch { rows, tokens, padded_to }
    }
}

/// Layer normalisation, on the host and on the device.
#[derive(Debug)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    device_weight: Tensor<2>,
    device_bias: Tensor<2>,
    eps: f32,
}

impl Norm {
    fn new(weight: HostTensor, bias: HostTensor, eps: f32, device: &ComputeDevice) -> Norm {
        let width = weight.data.len();
        Norm {
            device_weight: from_vec(weight.data.clone(), [1, width], device),
            device_bias: from_vec(bias.data.clone(), [1, width], device),
            weight: weight.data,
            bias: bias.data,
            eps,
        }
    }

    /// The norm of `x + residual`.
    fn forward(&self, x: Tensor<2>, residual: Option<Tensor<2>>, device: &ComputeDevice) -> Result<Tensor<2>> {
        let shape = x.dims();
        if device.is_host {
            let (isa, width) = (Isa::detect(), self.weight.len());
            let residual = residual.map(into_vec).transpose()?.unwrap_or_default();
            let mut x = into_vec(x)?;
            let rows = 16 * width;
            x.par_chunks_mut(rows).enumerate().for_each(|(i, x)| {
                let residual = residual.get(i * rows..i * rows + x.len()).unwrap_or(&[]);
                add_layer_norm(isa, x, residual, &self.weight, &self.bias, self.eps);
            });
            return Ok(from_vec(x, shape, device));
        }
        let x = match residual {
            Some(residual) => x + residual,
            None => x,
        };
        let centred = x.clone() - x.mean_dim(1);
        let variance = centred.clone().powi_scalar(2).mean_dim(1);
        Ok(centred / (variance + self.eps).sqrt() * self.device_weight.clone() + self.device_bias.clone())
    }
}

fn unsupported(what: &str, path: &Path) -> Error {
    Error::new(Kind::Model, format!("{what} is not supported"))
        .with("file", path.display())
        .hint("supported are a BERT transformer, mean or first-token pooling, and normalisation")
}

/// How a text is read, by the files of sentence-transformers.
#[derive(Debug, Clone, Default, PartialEq)]
struct Reading {
    /// With what frames a text.
    max_tokens: usize,
    /// Whether the tokenizer's configuration says so.
    of_tokenizer: bool,
    lower_case: bool,
    /// Stands before every text.
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
        // Where it is not stated, the tokenizer's limit counts, as sentence-transformers has it; that may be 1e30.
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

    /// Feeds what the files of the digest do not tell into a hasher; nothing where they tell all.
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

    /// What is read for a text.
    fn whole<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let text = match self.prompt.is_empty() {
            true => Cow::Borrowed(text),
            false => Cow::Owned(format!("{}{text}", self.prompt)),
        };
        if self.lower_case { Cow::Owned(text.to_lowercase()) } else { text }
    }
}

/// What follows the transformer, by modules.json; mean pooling and normalised where there is none.
struct Modules {
    pooling: Pooling,
    /// The tokens of the prompt are not pooled.
    without_prompt: bool,
    normalise: bool,
    /// The configurations that say so, in the model's directory.
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
                    // The path is the model's word: it must not lead out of its directory.
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

/// What a pooling's configuration asks for, and whether it leaves the prompt out.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    /// A copy of the tiny encoder, in which files are replaced.
    fn with(files: &[(&str, Value)]) -> tempfile::TempDir {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tiny-bert");
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        for name in [
            "1_Pooling/config.json",
            "config.json",
            "model.safetensors",
            "modules.json",
            "sentence_bert_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
        }
        for (name, value) in files {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        }
        dir
    }

    fn load(files: &[(&str, Value)]) -> SentenceEncoder {
        SentenceEncoder::load(with(files).path(), &ComputeDevice::cpu()).unwrap()
    }

    const POOLING: &str = "1_Pooling/config.json";

    #[test]
    fn configurations_of_new_and_old_sentence_transformers_mean_the_same() {
        let texts = ["film", "People who like Fargo also like Pulp Fiction. People who like Fargo also like Alien."];
        let old = load(&[]);
        let new = |mode: Value| {
            load(&[
                (POOLING, json!({"embedding_dimension": 32, "pooling_mode": mode, "include_prompt": true})),
                ("sentence_bert_config.json", json!({"transformer_task": "feature-extraction"})),
                ("tokenizer_config.json", json!({"model_max_length": 24})),
                (
                    "modules.json",
                    json!([
                        {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
                        {"path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
                        {"path": "2_Normalize", "type": "sentence_transformers.sentence_transformer.modules.normalize.Normalize"},
                    ]),
                ),
            ])
        };
        for mode in [json!("mean"), json!(["mean"])] {
            let new = new(mode);
            assert_eq!((old.max_tokens(), new.max_tokens()), (24, 24));
            assert_eq!(old.embed(&texts).unwrap(), new.embed(&texts).unwrap());
        }
        let first = load(&[(POOLING, json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}))]);
        assert_eq!(first.embed(&texts).unwrap(), new(json!("cls")).embed(&texts).unwrap());
        assert_ne!(first.embed(&texts).unwrap(), old.embed(&texts).unwrap());
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_name() {
        let modules = |last: &[&str]| {
            let all = last
                .iter()
                .map(|kind| json!({"path": if *kind == "Pooling" { "1_Pooling" } else { "" }, "type": kind}));
            ("modules.json", Value::Array(all.collect()))
        };
        let placed = |path: &str| {
            ("modules.json", json!([{"path": "", "type": "Transformer"}, {"path": path, "type": "Pooling"}]))
        };
        let prompts = |c: Value| ("config_sentence_transformers.json", c);
        for (file, says) in [
            ((POOLING, json!({"pooling_mode": "max"})), "by max"),
            ((POOLING, json!({"pooling_mode": ["cls", "mean"]})), "cls together with mean"),
            (
                (POOLING, json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true})),
                "cls together with mean",
            ),
            ((POOLING, json!({"pooling_mode_weightedmean_tokens": true})), "weightedmean"),
            (
                (POOLING, json!({"pooling_mode_mean_tokens": true, "pooling_mode_lasttoken": true})),
                "mean together with lasttoken",
            ),
            ((POOLING, json!({})), "without a mode"),
            ((POOLING, json!({"pooling_mode": "mean", "embedding_dimension": 33})), "embedding_dimension"),
            (("sentence_bert_config.json", json!({"transformer_task": "fill-mask"})), "transformer_task"),
            (modules(&["Transformer", "Pooling", "Dense"]), "Dense"),
            (modules(&["Transformer"]), "order of modules Transformer"),
            (modules(&["Transformer", "Normalize", "Pooling"]), "order of modules"),
            (placed("../1_Pooling"), "out of its folder"),
            (placed("/etc"), "out of its folder"),
            (prompts(json!({"prompts": {"a": "b"}, "default_prompt_name": "c"})), "default_prompt_name"),
        ] {
            let dir = with(&[file]);
            let e = EncoderFiles::open(dir.path()).unwrap_err();
            assert!(e.kind() == Kind::Model && e.explain().contains(says), "{says}: {}", e.explain());
        }
        let dir = with(&[
            (POOLING, json!({"pooling_mode": "mean", "include_prompt": false})),
            prompts(json!({"prompts": {"a": "b "}, "default_prompt_name": "a"})),
        ]);
        let e = EncoderFiles::open(dir.path()).unwrap_err();
        assert!(e.explain().contains("include_prompt"), "{}", e.explain());
    }

    #[test]
    fn the_default_prompt_stands_before_every_text_and_is_part_of_the_digest() {
        let config = |prompt: &str, default: Value| {
            let config = json!({"prompts": {"document": prompt}, "default_prompt_name": default});
            load(&[("config_sentence_transformers.json", config)])
        };
        let (without, with) = (load(&[]), config("film ", json!("document")));
        assert_eq!(with.embed(&["alien"]).unwrap(), without.embed(&["film alien"]).unwrap());
        assert_ne!(with.embed(&["alien"]).unwrap(), without.embed(&["alien"]).unwrap());
        let unused = config("film ", Value::Null);
        assert_eq!(unused.embed(&["alien"]).unwrap(), without.embed(&["alien"]).unwrap());
        assert_eq!(unused.digest(), without.digest());
        let digests =
            [without.digest(), with.digest(), config("people ", json!("document")).digest()].map(str::to_owned);
        assert!(digests[0] != digests[1] && digests[1] != digests[2]);
        let lower = load(&[("sentence_bert_config.json", json!({"max_seq_length": 24, "do_lower_case": true}))]);
        assert_eq!(lower.embed(&["ALIEN"]).unwrap(), lower.embed(&["alien"]).unwrap());
    }

    #[test]
    fn the_tokenizers_limit_counts_where_no_other_is_stated() {
        let none = ("sentence_bert_config.json", json!({"max_seq_length": null}));
        let limit = |n: Value| load(&[none.clone(), ("tokenizer_config.json", json!({"model_max_length": n}))]);
        let (twelve, twenty) = (limit(json!(12)), limit(json!(20)));
        assert_eq!((twelve.max_tokens(), twenty.max_tokens()), (12, 20));
        assert_ne!(twelve.digest(), twenty.digest());
        let endless = limit(json!(1e30));
        assert!(
            endless.max_tokens() > 24
                && endless.digest() == load(&[none.clone(), ("tokenizer_config.json", json!({}))]).digest()
        );
    }
}
