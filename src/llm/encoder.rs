//! Sentence encoders of the BERT family: texts to vectors.
//!
//! Knows Burn; the model's files are [`EncoderFiles`]'s. Knows nothing of tables. On the CPU the sentences of a batch
//! are concatenated without padding, and hand-written kernels compute everything that is not a matrix product. On other
//! devices sentences are padded and all operations are Burn's generic ones.

use std::path::Path;

use burn::tensor::{Tensor, activation};
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::activation::gelu;
use crate::kernels::isa::Isa;
use crate::kernels::norm::add_layer_norm;
use crate::kernels::row_attention::attend_sentence;
use crate::llm::device::ComputeDevice;
use crate::llm::encoder_files::{EncoderFiles, Pooling, Reading};
use crate::llm::ops::{Linear, from_vec, into_vec};
use crate::llm::tensor_files::HostTensor;
use crate::llm::tokenizer::Tokenizer;

/// Tokens in a batch: enough for efficient matrix products, few enough for the CPU caches.
const BATCH_TOKENS: usize = 2048;

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
    /// `[vocabulary, width]`, in host memory: a lookup needs no device.
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

impl SentenceEncoder {
    /// Opens a model directory as [`EncoderFiles::open`] does and loads its weights.
    ///
    /// # Errors
    /// As [`EncoderFiles::open`].
    pub fn load(dir: &Path, device: &ComputeDevice) -> Result<SentenceEncoder> {
        Self::from_files(&EncoderFiles::open(dir)?, device)
    }

    /// Loads the weights of an open directory.
    ///
    /// # Errors
    /// As [`EncoderFiles::open`].
    pub fn from_files(files: &EncoderFiles, device: &ComputeDevice) -> Result<SentenceEncoder> {
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
            digest: files.digest.clone(),
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

    /// The longest text in tokens, `[CLS]` and `[SEP]` included; longer texts are truncated.
    pub fn max_tokens(&self) -> usize {
        self.reading.max_tokens
    }

    /// Token ids of a text as the model reads them, with the default prompt before it, truncated to
    /// [`SentenceEncoder::max_tokens`].
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
            // Sorted by length, so the last is a batch's longest: take as many as fit the budget when padded to it.
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

    /// `[tokens, 3 width]` (q, k and v side by side) to `[tokens, width]`; every sentence attends to itself only.
    fn attention(&self, qkv: Tensor<2>, batch: &Batch) -> Result<Tensor<2>> {
        let (width, heads) = (self.width, self.heads);
        let head_dim = width / heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        if self.device.is_host {
            let qkv = into_vec(qkv)?;
            let mut out = vec![0.0; batch.tokens * width];
            // Sentences are contiguous, so each output slice can go to its own thread.
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

/// Where the sentences of a batch are in the flattened `[tokens, width]`.
struct Batch {
    /// First token and length of each sentence.
    rows: Vec<(usize, usize)>,
    tokens: usize,
    /// Distance in tokens from one sentence to the next, if padded.
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

#[cfg(test)]
mod tests;
