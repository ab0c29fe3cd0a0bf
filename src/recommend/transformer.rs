//! SASRec's transformer, twice: by Burn's generic operations, which any device runs and Burn differentiates, and for training
//! in host memory, differentiated by hand: the same numbers (tests compare them) in a fraction of the time.
//!
//! Knows embedded tokens and their places; knows nothing of items. By hand, matrix products are Burn's, what stands between
//! them is fused into few loops ([`crate::recommend::host`]), and dropout masks are drawn twice rather than kept.
//!
//! Rows hold `length` tokens; sequences stand in a row one after the other, and a token's position says how many before it
//! are its own sequence's: those and itself it sees. Tokens without meaning have position 0 and are seen by no other.

use burn::tensor::{Tensor, activation};

use crate::error::Result;
use crate::llm::device::ComputeDevice;
use crate::llm::ops::{from_vec, into_vec};
use crate::network::layers::{Linear, NORM_EPSILON, Norm, Pass};
use crate::network::parameters::{Init, Parameters, Slot};
use crate::recommend::attention::{Shape, attend, attend_backward};
use crate::recommend::host::{self, Noise, Normed};
use crate::recommend::softmax_loss::Judged;

/// Measures of a transformer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Width of hidden states.
    pub hidden: usize,
    /// Width inside the feed-forward layers.
    pub inner: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads; divides `hidden`.
    pub heads: usize,
    /// Tokens of a row.
    pub length: usize,
    /// Dropout after the embedding and after each branch.
    pub dropout: f64,
    /// Dropout of attention probabilities.
    pub attention_dropout: f64,
}

/// The weights of a causal transformer with a norm after the embedding and after each branch, as RecBole's.
#[derive(Debug, Clone)]
pub struct Transformer {
    sizes: Sizes,
    norm: Norm,
    layers: Vec<Layer>,
}

/// The weights of one transformer layer.
#[derive(Debug, Clone)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// A loss and all its derivatives.
pub struct Learned {
    /// Mean over the targets.
    pub value: f64,
    /// With respect to the embedded tokens, `[tokens, hidden]`.
    pub input: Tensor<2>,
    /// With respect to the item table, as an output layer.
    pub table: Tensor<2>,
    /// With respect to the transformer's own weights.
    pub weights: Vec<(Slot, Tensor<2>)>,
}

/// Weights of a linear layer, `[inputs, outputs]` and `[outputs]`, on the host.
struct HostLinear {
    weight: Tensor<2>,
    bias: Vec<f32>,
}

/// What a layer keeps for its backward pass.
struct Kept {
    input: Tensor<2>,
    qkv: Vec<f32>,
    probabilities: Vec<f32>,
    seen: Tensor<2>,
    attention_norm: Normed,
    middle: Tensor<2>,
    derivative: Vec<f32>,
    inner: Tensor<2>,
    norm: Normed,
    noises: [Noise; 3],
}

/// The pass with its weights at hand.
struct Work<'a> {
    pass: &'a Pass,
    device: ComputeDevice,
    hidden: usize,
    gradients: Vec<(Slot, Tensor<2>)>,
}

impl Transformer {
    /// Adds the weights; linear layers begin as `init` says.
    pub fn new(parameters: &mut Parameters, sizes: Sizes, init: Init) -> Self {
        let Sizes { hidden, inner, .. } = sizes;
        let norm = Norm::new(parameters, "norm", hidden);
        let layer = |i: usize| {
            let mut linear = |name: &str, inputs, outputs| {
                Linear::new(parameters, &format!("layer.{i}.{name}"), inputs, outputs, init)
            };
            let (query, key) = (linear("query", hidden, hidden), linear("key", hidden, hidden));
            let (value, output) = (linear("value", hidden, hidden), linear("output", hidden, hidden));
            let (up, down) = (linear("up", hidden, inner), linear("down", inner, hidden));
            let attention_norm = Norm::new(parameters, &format!("layer.{i}.attention_norm"), hidden);
            let norm = Norm::new(parameters, &format!("layer.{i}.norm"), hidden);
            Layer { query, key, value, output, attention_norm, up, down, norm }
        };
        Transformer { sizes, norm, layers: (0..sizes.layers).map(layer).collect() }
    }

    /// Hidden states of embedded tokens `x`, both `[tokens, hidden]`, by Burn's generic operations.
    pub fn forward(&self, pass: &mut Pass, x: Tensor<2>, positions: &[u32]) -> Tensor<2> {
        let Sizes { hidden, heads, length, dropout, attention_dropout, .. } = self.sizes;
        let rows = positions.len() / length;
        let mask = pass.constant(causal_mask(positions, length), [rows, 1, length, length]);
        let scale = 1.0 / ((hidden / heads) as f64).sqrt();
        let apart = |x: Tensor<2>| x.reshape([rows, length, heads, hidden / heads]).swap_dims(1, 2);
        let x = self.norm.forward(pass, x);
        let mut x = pass.dropout(x, dropout);
        for layer in &self.layers {
            let [query, key, value] =
                [layer.query, layer.key, layer.value].map(|linear| apart(linear.forward(pass, x.clone())));
            let scores = query.matmul(key.transpose()).mul_scalar(scale) + mask.clone();
            let weights = pass.dropout(activation::softmax(scores, 3), attention_dropout);
            let seen = weights.matmul(value).swap_dims(1, 2).reshape([rows * length, hidden]);
            let branch = layer.output.forward(pass, seen);
            let branch = pass.dropout(branch, dropout);
            x = layer.attention_norm.forward(pass, branch + x);
            let inner = activation::gelu(layer.up.forward(pass, x.clone()));
            let branch = layer.down.forward(pass, inner);
            let branch = pass.dropout(branch, dropout);
            x = layer.norm.forward(pass, branch + x);
        }
        x
    }

    /// In host memory: passes the embedded tokens `x` through the model, has the asked ones judged, and goes all the way back.
    ///
    /// # Errors
    /// What `judge` says; `Kind::Temporary` where a tensor cannot be read.
    pub fn learn(
        &self,
        pass: &mut Pass,
        x: Tensor<2>,
        positions: &[u32],
        asked: &[u32],
        judge: impl FnOnce(Tensor<2>) -> Result<Judged>,
    ) -> Result<Learned> {
        let config = &self.sizes;
        let shape = Shape { heads: config.heads, width: config.hidden, length: config.length };
        let tokens = positions.len();
        let mut noise = |probability| Noise { stream: pass.stream(), probability };
        let first = noise(config.dropout);
        let noises: Vec<[Noise; 3]> = (0..config.layers)
            .map(|_| [noise(config.attention_dropout), noise(config.dropout), noise(config.dropout)])
            .collect();
        let device = pass.device().clone();
        let mut work = Work { pass, device, hidden: config.hidden, gradients: Vec::new() };

        let silent = Noise { stream: first.stream.clone(), probability: 0.0 };
        let (mut x, embedding_norm) = work.add_norm(into_vec(x)?, &[], &silent, &[], &self.norm)?;
        host::dropout(&mut x, &first, config.hidden);
        let mut kept = Vec::new();
        for (layer, noises) in self.layers.iter().zip(noises) {
            let (out, keep) = work.forward(layer, x, positions, shape, noises)?;
            x = out;
            kept.push(keep);
        }

        let hidden = from_vec(x, [tokens, config.hidden], &work.device);
        let asks_all = asked.len() == tokens;
        let chosen = if asks_all { hidden } else { hidden.select(0, work.pass.indices(asked)) };
        let judged = judge(chosen)?;
        let mut gradient = if asks_all { into_vec(judged.hidden)? } else { spread(judged.hidden, asked, tokens)? };

        for (layer, kept) in self.layers.iter().zip(kept).rev() {
            gradient = work.backward(layer, kept, gradient, positions, shape)?;
        }
        let (gradient, _) = host::dropout_backward(&gradient, &first, config.hidden);
        let gradient = work.norm_backward(&gradient, &embedding_norm, &self.norm)?;
        let input = from_vec(gradient, [tokens, config.hidden], &work.device);
        Ok(Learned { value: judged.value, input, table: judged.table, weights: work.gradients })
    }
}

/// `[rows, 1, length, length]`: 0 where a token may look, very negative elsewhere.
fn causal_mask(positions: &[u32], length: usize) -> Vec<f32> {
    let mut mask = vec![-1e9; positions.len() * length];
    for (i, (line, position)) in mask.chunks_exact_mut(length).zip(positions).enumerate() {
        let at = i % length;
        line[at - *position as usize..=at].fill(0.0);
    }
    mask
}

/// Rows at their tokens, zeros elsewhere.
fn spread(rows: Tensor<2>, at: &[u32], tokens: usize) -> Result<Vec<f32>> {
    let [_, width] = rows.dims();
    let rows = into_vec(rows)?;
    let mut out = vec![0.0; tokens * width];
    for (row, at) in rows.chunks_exact(width).zip(at) {
        out[*at as usize * width..][..width].copy_from_slice(row);
    }
    Ok(out)
}

impl Work<'_> {
    fn matrix(&self, values: Vec<f32>, width: usize) -> Tensor<2> {
        let rows = values.len() / width;
        from_vec(values, [rows, width], &self.device)
    }

    fn row(&self, slot: Slot) -> Result<Vec<f32>> {
        into_vec(self.pass.leaves.at(slot).inner())
    }

    fn linear(&self, linear: &Linear) -> Result<HostLinear> {
        Ok(HostLinear { weight: self.pass.leaves.at(linear.weight).inner(), bias: self.row(linear.bias)? })
    }

    /// Queries, keys and values as one layer.
    fn qkv(&self, layer: &Layer) -> Result<HostLinear> {
        let parts = [&layer.query, &layer.key, &layer.value];
        let weight = Tensor::cat(parts.map(|p| self.pass.leaves.at(p.weight).inner()).to_vec(), 1);
        let bias = Tensor::cat(parts.map(|p| self.pass.leaves.at(p.bias).inner()).to_vec(), 1);
        Ok(HostLinear { weight, bias: into_vec(bias)? })
    }

    fn add_norm(
        &self,
        branch: Vec<f32>,
        bias: &[f32],
        noise: &Noise,
        residual: &[f32],
        norm: &Norm,
    ) -> Result<(Vec<f32>, Normed)> {
        let (weight, shift) = (self.row(norm.scale)?, self.row(norm.shift)?);
        Ok(host::add_norm(branch, bias, noise, residual, &weight, &shift, NORM_EPSILON as f32))
    }

    fn norm_backward(&mut self, gradient: &[f32], normed: &Normed, norm: &Norm) -> Result<Vec<f32>> {
        let back = host::norm_backward(gradient, normed, &self.row(norm.scale)?);
        self.bias_gradient(norm.scale, back.weight);
        self.bias_gradient(norm.shift, back.shift);
        Ok(back.input)
    }

    fn bias_gradient(&mut self, slot: Slot, gradient: Vec<f32>) {
        let width = gradient.len();
        let gradient = self.matrix(gradient, width);
        self.gradients.push((slot, gradient));
    }

    fn forward(
        &mut self,
        layer: &Layer,
        x: Vec<f32>,
        positions: &[u32],
        shape: Shape,
        noises: [Noise; 3],
    ) -> Result<(Vec<f32>, Kept)> {
        let hidden = self.hidden;
        let input = self.matrix(x, hidden);
        let qkv = self.qkv(layer)?;
        let mut values = into_vec(input.clone().matmul(qkv.weight))?;
        host::add_rows(&mut values, &qkv.bias);
        let (seen, probabilities) = attend(&values, positions, shape, &noises[0]);
        let seen = self.matrix(seen, hidden);
        let output = self.linear(&layer.output)?;
        let branch = into_vec(seen.clone().matmul(output.weight))?;
        let residual = into_vec(input.clone())?;
        let (middle, attention_norm) =
            self.add_norm(branch, &output.bias, &noises[1], &residual, &layer.attention_norm)?;
        let (up, down) = (self.linear(&layer.up)?, self.linear(&layer.down)?);
        let residual = middle.clone();
        let middle = self.matrix(middle, hidden);
        let mut derivative = into_vec(middle.clone().matmul(up.weight))?;
        let inner = host::gelu(&mut derivative, &up.bias);
        let inner = self.matrix(inner, up.bias.len());
        let branch = into_vec(inner.clone().matmul(down.weight))?;
        let (out, norm) = self.add_norm(branch, &down.bias, &noises[2], &residual, &layer.norm)?;
        let kept =
            Kept { input, qkv: values, probabilities, seen, attention_norm, middle, derivative, inner, norm, noises };
        Ok((out, kept))
    }

    /// From the gradient by the layer's output, the one by its input.
    fn backward(
        &mut self,
        layer: &Layer,
        kept: Kept,
        gradient: Vec<f32>,
        positions: &[u32],
        shape: Shape,
    ) -> Result<Vec<f32>> {
        let hidden = self.hidden;
        let mut residual = self.norm_backward(&gradient, &kept.norm, &layer.norm)?;
        let (branch, bias) = host::dropout_backward(&residual, &kept.noises[2], hidden);
        self.bias_gradient(layer.down.bias, bias);
        let mut inner = into_vec(self.linear_backward(&layer.down, kept.inner, self.matrix(branch, hidden)))?;
        let width = inner.len() / (residual.len() / hidden);
        let bias = host::gelu_backward(&mut inner, &kept.derivative, width);
        self.bias_gradient(layer.up.bias, bias);
        let inner = self.matrix(inner, width);
        let through = self.linear_backward(&layer.up, kept.middle, inner);
        host::add_rows(&mut residual, &into_vec(through)?);

        let mut residual = self.norm_backward(&residual, &kept.attention_norm, &layer.attention_norm)?;
        let (branch, bias) = host::dropout_backward(&residual, &kept.noises[1], hidden);
        self.bias_gradient(layer.output.bias, bias);
        let seen = self.linear_backward(&layer.output, kept.seen, self.matrix(branch, hidden));
        let (qkv, bias) =
            attend_backward(&into_vec(seen)?, &kept.qkv, &kept.probabilities, positions, shape, &kept.noises[0]);
        let on_qkv = self.matrix(qkv, 3 * hidden);
        let on_weights = kept.input.transpose().matmul(on_qkv.clone());
        for (i, linear) in [&layer.query, &layer.key, &layer.value].into_iter().enumerate() {
            self.gradients.push((linear.weight, on_weights.clone().narrow(1, i * hidden, hidden)));
            self.bias_gradient(linear.bias, bias[i * hidden..][..hidden].to_vec());
        }
        let through = on_qkv.matmul(self.qkv(layer)?.weight.transpose());
        host::add_rows(&mut residual, &into_vec(through)?);
        Ok(residual)
    }

    /// Keeps the gradient by the weight; returns the one by the input.
    fn linear_backward(&mut self, linear: &Linear, input: Tensor<2>, gradient: Tensor<2>) -> Tensor<2> {
        self.gradients.push((linear.weight, input.transpose().matmul(gradient.clone())));
        gradient.matmul(self.pass.leaves.at(linear.weight).inner().transpose())
    }
}
