//! Sentence encoders of the BERT family: texts to vectors.
//!
//! Knows Burn; the model's files are [`EncoderFiles`]'s. Knows nothing of tables. On the CPU the tokens of a batch's
//! sentences stand below each other without padding and hand-written loops do what is not a matrix product; on other
//! devices sentences are padded and everything is one of Burn's generic operations.

use std::path::Path;

use burn::tensor::{Tensor, activation};
use rayon::prelude::*;

use crate::error::Result;
use crate::llm::device::ComputeDevice;
use crate::llm::encoder_files::{EncoderFiles, Pooling, Reading};
use crate::llm::ops::{Linear, from_vec, into_vec};
use crate::llm::tensor_files::HostTensor;
use crate::llm::tokenizer::Tokenizer;

/// Tokens in a batch: enough for the matrix products, few enough to stay near the caches.
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

impl SentenceEncoder {
    /// Opens a model directory as [`EncoderFiles::open`] does and loads its weights.
    ///
    /// # Errors
    /// As [`EncoderFiles::open`].
    pub fn load(dir: &Path, device: &ComputeDevice) -> Result<SentenceEncoder> {
        Self::from_files(&EncoderFiles::open(dir)?, device)
    }

    /// Loads the weights of a directory that is open.
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
            parts.into_par_iter().for_each(|(qkv, out)| host::attention(qkv, out, heads, head_dim, scale));
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
        x.par_chunks_mut(1 << 14).for_each(host::gelu);
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
            let width = self.weight.len();
            let residual = residual.map(into_vec).transpose()?.unwrap_or_default();
            let mut x = into_vec(x)?;
            let rows = 16 * width;
            x.par_chunks_mut(rows).enumerate().for_each(|(i, x)| {
                let residual = residual.get(i * rows..i * rows + x.len()).unwrap_or(&[]);
                host::add_norm(x, residual, &self.weight, &self.bias, self.eps);
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

/// Loops over host memory, compiled twice: for AVX2 with FMA, chosen at run time, and for any machine.
mod host {
    /// `a * b + c`; a fused operation would be a slow library call where the machine has none.
    #[inline(always)]
    fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
        if FUSED { a.mul_add(b, c) } else { a * b + c }
    }

    /// Defines `$name`, which runs `$body` as compiled for the machine.
    macro_rules! dispatch {
        ($(#[$doc:meta])* $name:ident = $body:ident($($arg:ident: $type:ty),*)) => {
            $(#[$doc])*
            pub(super) fn $name($($arg: $type),*) {
                #[cfg(target_arch = "x86_64")]
                {
                    #[target_feature(enable = "avx2,fma")]
                    fn fused($($arg: $type),*) {
                        $body::<true>($($arg),*);
                    }
                    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                        // SAFETY: the function asks for exactly the features that were just detected.
                        return unsafe { fused($($arg),*) };
                    }
                }
                $body::<{ cfg!(target_arch = "aarch64") }>($($arg),*);
            }
        };
    }

    dispatch! {
        /// GELU in place: x Φ(x).
        gelu = gelu_body(x: &mut [f32])
    }

    dispatch! {
        /// Layer norm of `x + residual` (empty: none) in place, row by row.
        add_norm = add_norm_body(x: &mut [f32], residual: &[f32], weight: &[f32], bias: &[f32], eps: f32)
    }

    dispatch! {
        /// One sentence's attention: `[tokens, 3, heads, head_dim]` to `[tokens, heads, head_dim]`.
        attention = attention_body(qkv: &[f32], out: &mut [f32], heads: usize, head_dim: usize, scale: f32)
    }

    #[inline(always)]
    fn gelu_body<const FUSED: bool>(x: &mut [f32]) {
        for x in x {
            *x = 0.5 * *x * (1.0 + erf::<FUSED>(*x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }

    /// A rational approximation (Eigen's) within a few units in the last place; no branches, so loops vectorise.
    #[inline(always)]
    fn erf<const FUSED: bool>(x: f32) -> f32 {
        const P: [f32; 7] = [
            -2.726_142_3e-10,
            2.770_681_4e-8,
            -2.101_024e-6,
            -5.692_506_4e-5,
            -7.349_906_3e-4,
            -2.954_6e-3,
            -1.609_603_3e-2,
        ];
        const Q: [f32; 5] = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_473_9e-2];
        let x = x.clamp(-4.0, 4.0);
        let square = x * x;
        let mut p = P[0];
        for &c in &P[1..] {
            p = fma::<FUSED>(p, square, c);
        }
        let mut q = Q[0];
        for &c in &Q[1..] {
            q = fma::<FUSED>(q, square, c);
        }
        x * p / q
    }

    /// e^x for x <= 0 within a few units in the last place; no branches.
    #[inline(always)]
    fn exp<const FUSED: bool>(x: f32) -> f32 {
        let x = x.max(-87.0);
        let n = (x * std::f32::consts::LOG2_E).round_ties_even();
        let r = fma::<FUSED>(n, -0.693_359_4, x);
        let r = fma::<FUSED>(n, 2.121_944_4e-4, r);
        let mut p = 1.987_569_1e-4;
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
            p = fma::<FUSED>(p, r, c);
        }
        let p = fma::<FUSED>(p, r * r, r) + 1.0;
        p * f32::from_bits(((n as i32 + 127) << 23) as u32)
    }

    /// A sum in eight strands, which a compiler may keep in one vector.
    #[inline(always)]
    fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
        let mut strands = [0.0f32; 8];
        let chunks = x.chunks_exact(8);
        let rest: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
        for chunk in chunks {
            for (s, &v) in strands.iter_mut().zip(chunk) {
                *s += f(v);
            }
        }
        strands.iter().sum::<f32>() + rest
    }

    #[inline(always)]
    fn add_norm_body<const FUSED: bool>(x: &mut [f32], residual: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
        let width = weight.len();
        x.iter_mut().zip(residual).for_each(|(x, r)| *x += r);
        for x in x.chunks_exact_mut(width) {
            let mean = sum(x, |v| v) / width as f32;
            let variance = sum(x, |v| (v - mean) * (v - mean)) / width as f32;
            let scale = 1.0 / (variance + eps).sqrt();
            for ((x, w), b) in x.iter_mut().zip(weight).zip(bias) {
                *x = fma::<FUSED>((*x - mean) * scale, *w, *b);
            }
        }
    }

    #[inline(always)]
    fn attention_body<const FUSED: bool>(qkv: &[f32], out: &mut [f32], heads: usize, head_dim: usize, scale: f32) {
        let width = heads * head_dim;
        let tokens = out.len() / width;
        let mut keys = vec![0.0f32; head_dim * tokens];
        let mut weights = vec![0.0f32; tokens];
        for head in 0..heads {
            let part = |token: usize, which: usize| {
                let at = token * 3 * width + which * width + head * head_dim;
                &qkv[at..at + head_dim]
            };
            // Keys transposed: then the scores of one query against all keys are sums of whole vectors.
            for token in 0..tokens {
                for (d, &k) in part(token, 1).iter().enumerate() {
                    keys[d * tokens + token] = k * scale;
                }
            }
            for (token, out) in out.chunks_exact_mut(width).enumerate() {
                weights.fill(0.0);
                for (&q, keys) in part(token, 0).iter().zip(keys.chunks_exact(tokens)) {
                    weights.iter_mut().zip(keys).for_each(|(w, &k)| *w = fma::<FUSED>(q, k, *w));
                }
                let largest = weights.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
                weights.iter_mut().for_each(|w| *w = exp::<FUSED>(*w - largest));
                let total = sum(&weights, |v| v);
                let out = &mut out[head * head_dim..(head + 1) * head_dim];
                for (other, &w) in weights.iter().enumerate() {
                    let w = w / total;
                    out.iter_mut().zip(part(other, 2)).for_each(|(o, &v)| *o = fma::<FUSED>(w, v, *o));
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn gelu_and_exp_follow_their_definitions() {
            // Φ by its series, in f64.
            let phi = |x: f64| {
                let (mut term, mut total, mut k) = (x, x, 1.0);
                while term.abs() > 1e-18 {
                    term *= x * x / (2.0 * k + 1.0);
                    total += term;
                    k += 1.0;
                }
                0.5 + total * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
            };
            for i in -600..=600i32 {
                let x = i as f32 / 100.0;
                let exact = f64::from(x) * phi(f64::from(x));
                let mut fast = [x];
                gelu(&mut fast);
                let mut portable = [x];
                gelu_body::<false>(&mut portable);
                for y in [fast[0], portable[0]] {
                    assert!((f64::from(y) - exact).abs() < 2e-6, "{x}: {y} {exact}");
                }
                let x = -(i.unsigned_abs() as f32) / 8.0;
                let exact = f64::from(x).exp();
                for y in [exp::<false>(x), exp::<true>(x)] {
                    assert!((f64::from(y) - exact).abs() <= 1e-6 * exact, "{x}: {y} {exact}");
                }
            }
        }

        #[test]
        fn fused_and_portable_attention_agree() {
            let (tokens, heads, head_dim) = (11, 2, 12);
            let qkv: Vec<f32> = (0..tokens * 3 * 24).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
            let (mut a, mut b) = (vec![0.0; tokens * 24], vec![0.0; tokens * 24]);
            attention(&qkv, &mut a, heads, head_dim, 0.3);
            attention_body::<false>(&qkv, &mut b, heads, head_dim, 0.3);
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }
}

#[cfg(test)]
mod tests;
