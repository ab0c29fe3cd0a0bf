//! The operations of a transformer on `[tokens, width]` tensors: on the CPU by hand-written kernels, elsewhere by
//! Burn's generic operations, which also carry gradients.
//!
//! Knows tensors and weights. Knows nothing of model families, layers or files. Sequences are flattened: a step's
//! tokens of all rows are concatenated, so that every linear layer is one matrix product.

use std::sync::Arc;

use burn::tensor::activation::{silu, softmax};
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

use crate::error::{Context, Error, Kind, Result};
use crate::kernels::activation;
use crate::kernels::cached_attention::{self, CacheLayout, HeadNorms, Place, Span};
use crate::kernels::heads::{Heads, Rope};
use crate::kernels::isa::Isa;
use crate::kernels::narrow::Matrix;
use crate::kernels::norm;
use crate::kernels::product::{self, Packed};
use crate::llm::device::ComputeDevice;
use crate::llm::kv_cache::{DeviceLayer, LayerCache};
use crate::llm::tensor_files::{HostTensor, KeptTensor};

/// The values of a tensor; no copy if it is in host memory and has no other owner.
///
/// # Errors
///
/// [`Kind::Temporary`] where the device fails.
pub fn into_vec<const D: usize>(x: Tensor<D>) -> Result<Vec<f32>> {
    let data = x.try_into_data().context(Kind::Temporary, || "the device failed to hand over a tensor".to_owned())?;
    data.try_into_vec::<f32>().context(Kind::Internal, || "a tensor is not made of f32".to_owned())
}

/// A tensor from values in row-major order; no copy on the CPU.
pub fn from_vec<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &ComputeDevice) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), &device.burn)
}

/// Whole numbers on the device.
fn indices(values: Vec<i32>, device: &ComputeDevice) -> Tensor<1, Int> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), &device.burn)
}

/// The given rows of a tensor, in the given order.
///
/// # Errors
///
/// [`Kind::Internal`] where there is no such row; [`Kind::Temporary`] where the device fails.
pub fn select_rows(x: Tensor<2>, rows: &[usize], device: &ComputeDevice) -> Result<Tensor<2>> {
    let [n, width] = x.dims();
    if rows.iter().any(|r| *r >= n) {
        return Err(Error::new(Kind::Internal, "a row outside a tensor was asked for"));
    }
    if !device.is_host {
        return Ok(x.select(0, indices(rows.iter().map(|r| *r as i32).collect(), device)));
    }
    let values = into_vec(x)?;
    let mut out = Vec::with_capacity(rows.len() * width);
    for row in rows {
        out.extend_from_slice(&values[row * width..][..width]);
    }
    Ok(from_vec(out, [rows.len(), width], device))
}

// ---------------------------------------------------------------------------------------------------------------------
// Linear layers
// ---------------------------------------------------------------------------------------------------------------------

/// `x · Wᵀ + b`. The only place where weights are applied, so that adapters have one place to go.
#[derive(Debug, Clone)]
pub struct Linear {
    inputs: usize,
    outputs: usize,
    device: ComputeDevice,
    weights: Weights,
}

#[derive(Debug, Clone)]
enum Weights {
    Host { packed: Arc<Packed>, bias: Option<Arc<Vec<f32>>> },
    Device(Box<DeviceWeights>),
}

#[derive(Debug, Clone)]
struct DeviceWeights {
    /// `[out, in]`.
    weight: Tensor<2>,
    /// `[1, out]`.
    bias: Option<Tensor<2>>,
}

impl Linear {
    /// A layer from a weight `[out, in]` and a bias `[out]`. On the CPU a weight keeps the form that it comes in.
    ///
    /// # Errors
    ///
    /// [`Kind::Model`] where the shapes do not fit.
    pub fn new(weight: impl Into<KeptTensor>, bias: Option<HostTensor>, device: &ComputeDevice) -> Result<Self> {
        Self::fused(vec![(weight, bias)], device)
    }

    /// Several layers with the same input as one; their outputs are concatenated, in order.
    ///
    /// # Errors
    ///
    /// [`Kind::Model`] where the shapes do not fit, or where some have a bias and some have none.
    pub fn fused<T: Into<KeptTensor>>(parts: Vec<(T, Option<HostTensor>)>, device: &ComputeDevice) -> Result<Self> {
        let parts: Vec<(KeptTensor, Option<HostTensor>)> = parts.into_iter().map(|(w, b)| (w.into(), b)).collect();
        let inputs = parts.first().and_then(|(w, _)| w.shape.get(1)).copied().unwrap_or(0);
        let (mut outputs, mut biases, mut with_bias) = (0, Vec::new(), 0);
        for (weight, bias) in &parts {
            let [rows, columns] = weight.shape[..] else {
                return Err(Error::new(Kind::Model, "the weight of a linear layer must have two dimensions"));
            };
            if inputs == 0 || columns != inputs || weight.matrix.len() != rows * columns {
                return Err(Error::new(Kind::Model, "the weights of a linear layer do not fit each other"));
            }
            outputs += rows;
            if let Some(bias) = bias {
                with_bias += 1;
                biases.extend_from_slice(&bias.data);
            }
        }
        if with_bias > 0 && (with_bias != parts.len() || biases.len() != outputs) {
            return Err(Error::new(Kind::Model, "the bias of a linear layer does not fit its weight"));
        }
        let bias = (with_bias > 0).then_some(biases);
        let weights = if device.is_host {
            let matrices: Vec<Matrix> = parts.into_iter().map(|(w, _)| w.matrix).collect();
            let packed = Arc::new(Packed::kept(Isa::detect(), inputs, &matrices));
            Weights::Host { packed, bias: bias.map(Arc::new) }
        } else {
            let data: Vec<f32> = parts.into_iter().flat_map(|(w, _)| w.matrix.widened()).collect();
            Weights::Device(Box::new(DeviceWeights {
                weight: from_vec(data, [outputs, inputs], device),
                bias: bias.map(|b| from_vec(b, [1, outputs], device)),
            }))
        };
        Ok(Linear { inputs, outputs, device: device.clone(), weights })
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `[n, inputs]` to `[n, outputs]`.
    ///
    /// # Errors
    ///
    /// [`Kind::Internal`] where the width is wrong; [`Kind::Temporary`] where the device fails.
    pub fn forward(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        let rows = self.rows(&x)?;
        match &self.weights {
            Weights::Host { packed, bias } => {
                let mut out = vec![0f32; rows * self.outputs];
                packed.product(&into_vec(x)?, bias.as_ref().map(|b| b.as_slice()), &mut out, product::Into::Set);
                Ok(from_vec(out, [rows, self.outputs], &self.device))
            }
            Weights::Device(device) => {
                let y = x.matmul(device.weight.clone().transpose());
                Ok(match &device.bias {
                    Some(bias) => y + bias.clone(),
                    None => y,
                })
            }
        }
    }

    /// `residual + forward(x)`, without an intermediate tensor on the CPU.
    ///
    /// # Errors
    ///
    /// As [`Linear::forward`].
    pub fn forward_add(&self, x: Tensor<2>, residual: Tensor<2>) -> Result<Tensor<2>> {
        let rows = self.rows(&x)?;
        match &self.weights {
            Weights::Host { packed, bias } => {
                let mut out = into_vec(residual)?;
                packed.product(&into_vec(x)?, bias.as_ref().map(|b| b.as_slice()), &mut out, product::Into::Add);
                Ok(from_vec(out, [rows, self.outputs], &self.device))
            }
            Weights::Device(_) => Ok(residual + self.forward(x)?),
        }
    }

    fn rows(&self, x: &Tensor<2>) -> Result<usize> {
        let [rows, width] = x.dims();
        if width != self.inputs {
            return Err(Error::new(Kind::Internal, "a linear layer was given another width")
                .with("has", width)
                .with("needs", self.inputs));
        }
        Ok(rows)
    }
}

/// Token embedding; shares its memory with the output layer if the model ties them.
#[derive(Debug)]
pub struct Embedding {
    device: ComputeDevice,
    table: Table,
    vocabulary: usize,
}

#[derive(Debug)]
enum Table {
    /// Rows one after the other.
    Host(HostTensor),
    /// Packed, since it is the output layer too or kept in fewer bits.
    Packed(Arc<Packed>),
    Device(Box<Tensor<2>>),
}

impl Embedding {
    /// The embedding `[vocabulary, width]` alone.
    ///
    /// # Errors
    ///
    /// [`Kind::Model`] where the table has the wrong shape.
    pub fn new(table: KeptTensor, device: &ComputeDevice) -> Result<Self> {
        let [vocabulary, width] = table.shape[..] else {
            return Err(Error::new(Kind::Model, "an embedding must have two dimensions"));
        };
        if width == 0 || table.matrix.len() != vocabulary * width {
            return Err(Error::new(Kind::Model, "an embedding has another size than its shape says"));
        }
        let table = match table.matrix {
            Matrix::Full(values) if device.is_host => Table::Host(HostTensor { shape: table.shape, data: values }),
            narrow if device.is_host => Table::Packed(Arc::new(Packed::kept(Isa::detect(), width, &[narrow]))),
            matrix => Table::Device(Box::new(from_vec(matrix.widened(), [vocabulary, width], device))),
        };
        Ok(Embedding { device: device.clone(), table, vocabulary })
    }

    /// The embedding that is also the output layer, once in memory.
    ///
    /// # Errors
    ///
    /// [`Kind::Model`] where the table has the wrong shape.
    pub fn tied(table: KeptTensor, device: &ComputeDevice) -> Result<(Self, Linear)> {
        let head = Linear::new(table, None, device)?;
        let table = match &head.weights {
            Weights::Host { packed, .. } => Table::Packed(packed.clone()),
            Weights::Device(device) => Table::Device(Box::new(device.weight.clone())),
        };
        Ok((Embedding { device: device.clone(), table, vocabulary: head.outputs }, head))
    }

    /// `[tokens]` to `[tokens, width]`.
    ///
    /// # Errors
    ///
    /// [`Kind::Internal`] where a token is outside the vocabulary.
    pub fn forward(&self, tokens: &[u32]) -> Result<Tensor<2>> {
        if let Some(token) = tokens.iter().find(|t| **t as usize >= self.vocabulary) {
            return Err(Error::new(Kind::Internal, "a token is outside the model's vocabulary").with("token", token));
        }
        let width = match &self.table {
            Table::Device(table) => {
                let tokens = indices(tokens.iter().map(|t| *t as i32).collect(), &self.device);
                return Ok(table.as_ref().clone().select(0, tokens));
            }
            Table::Host(table) => table.data.len() / self.vocabulary.max(1),
            Table::Packed(packed) => packed.inputs(),
        };
        let mut out = vec![0f32; tokens.len() * width];
        for (token, out) in tokens.iter().zip(out.chunks_exact_mut(width)) {
            match &self.table {
                Table::Host(table) => out.copy_from_slice(&table.data[*token as usize * width..][..width]),
                Table::Packed(packed) => packed.row(*token as usize, out),
                Table::Device(_) => {}
            }
        }
        Ok(from_vec(out, [tokens.len(), width], &self.device))
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Norms and activations
// ---------------------------------------------------------------------------------------------------------------------

/// `x / √(mean(x²) + eps) · weight`.
#[derive(Debug)]
pub struct RmsNorm {
    eps: f32,
    device: ComputeDevice,
    /// Always on the host: the attention kernels apply the head norms themselves.
    weight: Vec<f32>,
    on_device: Option<Tensor<2>>,
}

impl RmsNorm {
    /// A norm with a weight `[width]`.
    pub fn new(weight: HostTensor, eps: f64, device: &ComputeDevice) -> Self {
        let weight = weight.data;
        let on_device = (!device.is_host).then(|| from_vec(weight.clone(), [1, weight.len()], device));
        RmsNorm { eps: eps as f32, device: device.clone(), weight, on_device }
    }

    /// `[n, width]` to `[n, width]`.
    ///
    /// # Errors
    ///
    /// [`Kind::Internal`] where the width is wrong; [`Kind::Temporary`] where the device fails.
    pub fn forward(&self, x: &Tensor<2>) -> Result<Tensor<2>> {
        let [rows, width] = x.dims();
        if width != self.weight.len() {
            return Err(Error::new(Kind::Internal, "a norm was given another width"));
        }
        if let Some(weight) = &self.on_device {
            let scale = x.clone().square().mean_dim(1).add_scalar(self.eps).sqrt().recip();
            return Ok(x.clone() * scale * weight.clone());
        }
        let x = into_vec(x.clone())?;
        let mut out = vec![0f32; x.len()];
        norm::rms_norm(Isa::detect(), &x, &self.weight, self.eps, &mut out);
        Ok(from_vec(out, [rows, width], &self.device))
    }
}

/// `silu(gate) · up`; `gate_up` is `[n, 2 · width]`, gates first.
///
/// # Errors
///
/// [`Kind::Temporary`] where the device fails.
pub fn swiglu(gate_up: Tensor<2>, device: &ComputeDevice) -> Result<Tensor<2>> {
    let [rows, both] = gate_up.dims();
    let width = both / 2;
    if !device.is_host {
        let gate = gate_up.clone().slice([0..rows, 0..width]);
        let up = gate_up.slice([0..rows, width..both]);
        return Ok(silu(gate) * up);
    }
    let gate_up = into_vec(gate_up)?;
    let mut out = vec![0f32; rows * width];
    activation::swiglu(Isa::detect(), &gate_up, width, &mut out);
    Ok(from_vec(out, [rows, width], device))
}

// ---------------------------------------------------------------------------------------------------------------------
// Attention
// ---------------------------------------------------------------------------------------------------------------------

/// Causal attention with rotary positions over a key-value cache; heads of queries may share heads of keys.
#[derive(Debug)]
pub struct Attention {
    heads: Heads,
    positions: usize,
    device: ComputeDevice,
    rope: Rope,
    /// Cosines and sines on the device, `[positions, width / 2]`.
    tables: Option<(Tensor<2>, Tensor<2>)>,
}

/// Norms of the heads of queries and keys (Qwen3).
#[derive(Debug)]
pub struct QkNorms {
    /// For queries.
    pub query: RmsNorm,
    /// For keys.
    pub key: RmsNorm,
}

/// Shared by all layers of a step: the tokens' positions and attention masks.
#[derive(Debug)]
pub struct Plan {
    places: Vec<Place>,
    pieces: Vec<Span>,
    on_device: Option<DevicePlan>,
}

#[derive(Debug)]
struct DevicePlan {
    /// Lines of the cache that the step's tokens fill.
    lines: Tensor<1, Int>,
    /// `[tokens, 1, width / 2]`.
    cos: Tensor<3>,
    sin: Tensor<3>,
    groups: Vec<Group>,
    /// Row of each token's result in the concatenated padded results of the groups.
    order: Tensor<1, Int>,
}

/// Rows of a step that are attended together, padded to the same number of queries and of keys.
#[derive(Debug)]
struct Group {
    rows: usize,
    queries: usize,
    keys: usize,
    query_tokens: Tensor<1, Int>,
    key_lines: Tensor<1, Int>,
    /// `[rows, 1, queries, 1, keys]`: zero where a query may attend, very negative elsewhere.
    mask: Tensor<5>,
}

impl Attention {
    /// Attention for slots of `positions`.
    pub fn new(heads: Heads, positions: usize, theta: f64, device: &ComputeDevice) -> Self {
        let rope = Rope::new(heads.width, positions, theta);
        let shape = [positions, rope.half];
        let table = |values: &Vec<f32>| from_vec(values.clone(), shape, device);
        let tables = (!device.is_host).then(|| (table(&rope.cos), table(&rope.sin)));
        Attention { heads, positions, device: device.clone(), rope, tables }
    }

    /// Prepares a step; spans cover the step's tokens in order.
    pub fn plan(&self, spans: &[Span]) -> Plan {
        let places: Vec<Place> =
            spans.iter().flat_map(|s| (0..s.tokens).map(|i| Place { slot: s.slot, position: s.start + i })).collect();
        let on_device = self.tables.as_ref().map(|(cos, sin)| {
            let positions = indices(places.iter().map(|p| p.position as i32).collect(), &self.device);
            let lines = places.iter().map(|p| (p.slot * self.positions + p.position) as i32).collect();
            // One new token is the common case; padding such rows to a prompt's length would waste most of the
            // computation.
            let (single, several): (Vec<Span>, Vec<Span>) = spans.iter().partition(|s| s.tokens == 1);
            let (mut groups, mut order, mut padded) = (Vec::new(), vec![0i32; places.len()], 0);
            for spans in [single, several].iter().filter(|s| !s.is_empty()) {
                let group = self.group(spans);
                for (r, span) in spans.iter().enumerate() {
                    for i in 0..span.tokens {
                        order[span.first + i] = (padded + r * group.queries + i) as i32;
                    }
                }
                padded += group.rows * group.queries;
                groups.push(group);
            }
            DevicePlan {
                lines: indices(lines, &self.device),
                cos: cos.clone().select(0, positions.clone()).unsqueeze_dim(1),
                sin: sin.clone().select(0, positions).unsqueeze_dim(1),
                groups,
                order: indices(order, &self.device),
            }
        });
        Plan { places, pieces: cached_attention::cut(spans), on_device }
    }

    fn group(&self, spans: &[Span]) -> Group {
        let queries = spans.iter().map(|s| s.tokens).max().unwrap_or(0);
        let keys = spans.iter().map(|s| s.start + s.tokens).max().unwrap_or(0);
        let (mut query_tokens, mut key_lines, mut mask) = (Vec::new(), Vec::new(), Vec::new());
        for span in spans {
            query_tokens.extend((0..queries).map(|i| (span.first + i.min(span.tokens - 1)) as i32));
            let end = span.start + span.tokens;
            key_lines.extend((0..keys).map(|p| (span.slot * self.positions + p.min(end - 1)) as i32));
            for i in 0..queries {
                let reach = span.start + i.min(span.tokens - 1);
                mask.extend((0..keys).map(|p| if p <= reach { 0.0 } else { -1e30f32 }));
            }
        }
        Group {
            rows: spans.len(),
            queries,
            keys,
            query_tokens: indices(query_tokens, &self.device),
            key_lines: indices(key_lines, &self.device),
            mask: from_vec(mask, [spans.len(), 1, queries, 1, keys], &self.device),
        }
    }

    /// Writes the step's keys and values to a layer's cache and attends; `qkv` is `[tokens, heads.row()]`, the result
    /// `[tokens, query heads · width]`.
    ///
    /// # Errors
    ///
    /// [`Kind::Internal`] where cache and model are on different devices; [`Kind::Temporary`] where the device fails.
    pub fn forward(
        &self,
        qkv: Tensor<2>,
        norms: Option<&QkNorms>,
        cache: &mut LayerCache,
        layout: &CacheLayout,
        plan: &Plan,
    ) -> Result<Tensor<2>> {
        match (cache, &plan.on_device) {
            (LayerCache::Host { keys, values }, None) => {
                let tokens = plan.places.len();
                let width = self.heads.queries * self.heads.width;
                let mut qkv = into_vec(qkv)?;
                let mut out = vec![0f32; tokens * width];
                let norms = norms.map(|n| HeadNorms { query: &n.query.weight, key: &n.key.weight, eps: n.query.eps });
                cached_attention::append(layout, &self.rope, norms, &plan.places, &mut qkv, keys, values);
                cached_attention::attend(layout, &plan.pieces, &qkv, keys, values, &mut out);
                Ok(from_vec(out, [tokens, width], &self.device))
            }
            (LayerCache::Device(cache), Some(on_device)) => self.forward_generic(qkv, norms, cache, on_device),
            _ => Err(Error::new(Kind::Internal, "the key-value cache lies on another device than the model")),
        }
    }

    fn forward_generic(
        &self,
        qkv: Tensor<2>,
        norms: Option<&QkNorms>,
        cache: &mut DeviceLayer,
        plan: &DevicePlan,
    ) -> Result<Tensor<2>> {
        let Heads { queries: heads, keys: kv, width } = self.heads;
        let tokens = qkv.dims()[0];
        let part = |from: usize, count: usize| qkv.clone().slice([0..tokens, from * width..(from + count) * width]);
        let turned = |x: Tensor<2>, count: usize, norm: Option<&RmsNorm>| -> Result<Tensor<2>> {
            let x = match norm {
                Some(norm) => norm.forward(&x.reshape([tokens * count, width]))?.reshape([tokens, count, width]),
                None => x.reshape([tokens, count, width]),
            };
            let half = width / 2;
            let a = x.clone().slice([0..tokens, 0..count, 0..half]);
            let b = x.slice([0..tokens, 0..count, half..width]);
            let (cos, sin) = (plan.cos.clone(), plan.sin.clone());
            let first = a.clone() * cos.clone() - b.clone() * sin.clone();
            let second = b * cos + a * sin;
            Ok(Tensor::cat(vec![first, second], 2).reshape([tokens, count * width]))
        };
        let q = turned(part(0, heads), heads, norms.map(|n| &n.query))?;
        let k = turned(part(heads, kv), kv, norms.map(|n| &n.key))?;
        let v = part(heads + kv, kv);
        let DeviceLayer { keys, values } = cache;
        keys.inplace(|all| all.select_assign(0, plan.lines.clone(), k, IndexingUpdateOp::Assign));
        values.inplace(|all| all.select_assign(0, plan.lines.clone(), v, IndexingUpdateOp::Assign));

        let shared = heads / kv;
        let mut results = Vec::with_capacity(plan.groups.len());
        for g in &plan.groups {
            let (rows, n, m) = (g.rows, g.queries, g.keys);
            // [rows, kv, n · shared, width]: queries that share keys are stacked, so keys are not repeated.
            let q = q.clone().select(0, g.query_tokens.clone()).reshape([rows, n, kv, shared, width]);
            let q = q.permute([0, 2, 1, 3, 4]).reshape([rows, kv, n * shared, width]);
            let lines = |all: &Tensor<2>| all.clone().select(0, g.key_lines.clone()).reshape([rows, m, kv, width]);
            let k = lines(keys).permute([0, 2, 3, 1]);
            let v = lines(values).permute([0, 2, 1, 3]);
            let scores = q.matmul(k).mul_scalar(1.0 / (width as f32).sqrt()).reshape([rows, kv, n, shared, m]);
            let weights = softmax(scores + g.mask.clone(), 4).reshape([rows, kv, n * shared, m]);
            let out = weights.matmul(v).reshape([rows, kv, n, shared, width]);
            results.push(out.permute([0, 2, 1, 3, 4]).reshape([rows * n, heads * width]));
        }
        Ok(Tensor::cat(results, 0).select(0, plan.order.clone()))
    }
}
