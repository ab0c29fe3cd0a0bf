//! The decoder that learns, on the CPU by hand-written kernels: the forward pass, which keeps what the backward pass
//! needs, and the gradients of the adapter.
//!
//! Knows slices, frozen weights and adapters; knows nothing of losses: it takes the gradient of the targets'
//! log-probabilities and gives those of A and B. The same arithmetic as [`crate::learn::trainable`]'s generic
//! operations, with which it is compared. Frozen weights are packed twice, for `x · Wᵀ` and for `dY · W`: memory for
//! speed. Results do not depend on the number of threads.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::activation::{swiglu, swiglu_back};
use crate::kernels::arithmetic::largest;
use crate::kernels::heads::{Heads, Rope};
use crate::kernels::isa::Isa;
use crate::kernels::norm::{rms_norm, rms_norm_back};
use crate::kernels::packed_attention::Attention;
use crate::kernels::product::{Into, Packed, sum_over_rows, transpose};
use crate::kernels::rows::{add, multiply, select, spread};
use crate::kernels::softmax::exponentials_less;
use crate::learn::packing::Batch;
use crate::llm::decoder_config::DecoderConfig;
use crate::llm::tensor_files::HostTensor;
use crate::network::layers::dropout_mask;
use crate::network::parameters::Slot;
use crate::network::random::Random;

/// Rows of the vocabulary that are worked on at a time: sums over the vocabulary are made part by part, in this order.
const VOCABULARY_PART: usize = 1024;

/// Targets whose logits are in memory at a time.
const JUDGED_AT_ONCE: usize = 256;

/// The frozen model.
pub struct HostLm {
    isa: Isa,
    config: DecoderConfig,
    heads: Heads,
    /// `[vocabulary, width]`, in parts, and each part's transpose.
    head: Vec<(Packed, Packed)>,
    /// The embedding, where the head is another matrix.
    table: Option<Packed>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
}

struct Layer {
    attention_norm: Vec<f32>,
    head_norms: Option<[Vec<f32>; 2]>,
    qkv: Group,
    output: Group,
    mlp_norm: Vec<f32>,
    gate_up: Group,
    down: Group,
}

/// Linear layers of the same input; their outputs stand side by side.
struct Group {
    forward: Packed,
    back: Packed,
    bias: Option<Vec<f32>>,
    parts: Vec<Part>,
}

struct Part {
    outputs: Range<usize>,
    adapter: Option<(Slot, Slot)>,
}

/// The adapter of a pass.
pub struct Lora<'a> {
    /// Reads a weight: A `[rank, inputs]` or B `[outputs, rank]`.
    pub read: &'a dyn Fn(Slot) -> Result<Vec<f32>>,
    /// Width.
    pub rank: usize,
    /// What `B · A` is multiplied by.
    pub scale: f32,
    /// How often an input is dropped.
    pub dropout: f64,
    /// Draws for dropout, in the order of the linear layers.
    pub stream: &'a mut dyn FnMut() -> Random,
}

/// A group's adapters in a pass, packed.
struct Adapted {
    /// One for all parts, or one for each where dropout draws for each.
    inputs: Vec<Narrow>,
    /// B of all parts, block by block: `[outputs, ranks]`.
    wide: Packed,
    wide_back: Packed,
    ranks: usize,
    rank: usize,
    scale: f32,
    dropout: f64,
}

struct Narrow {
    a: Packed,
    a_back: Packed,
    columns: Range<usize>,
    stream: Option<Random>,
}

/// What a layer keeps for the backward pass; rows below each other.
struct Trace {
    x: Vec<f32>,
    /// Queries and keys before their norms, where they have any.
    raw: Option<Vec<f32>>,
    qkv: Vec<f32>,
    /// Input of the output projection.
    seen: Vec<f32>,
    middle: Vec<f32>,
    gate_up: Vec<f32>,
    /// Inputs times A, for each group.
    narrow: [Vec<f32>; 4],
}

/// All that the backward pass needs.
pub struct Tape {
    lm: Arc<HostLm>,
    layers: Vec<(Trace, [Option<Adapted>; 4])>,
    positions: Vec<usize>,
    sequences: Vec<Range<usize>>,
    rope: Rope,
    rows: Vec<usize>,
    /// Input of the last norm, and the derivative of each target's log-probability by its output.
    last: Vec<f32>,
    slopes: Vec<f32>,
}

impl HostLm {
    /// Packs a model. `slots` are the adapters' weights by the Hugging Face name of the module.
    ///
    /// # Errors
    /// Those of `tensor`.
    pub fn new(
        config: &DecoderConfig,
        tensor: impl Fn(&str) -> Result<HostTensor>,
        slots: &BTreeMap<String, (Slot, Slot)>,
    ) -> Result<HostLm> {
        let (isa, width) = (Isa::detect(), config.hidden_size);
        let heads = Heads { queries: config.heads, keys: config.kv_heads, width: config.head_dim };
        let get = |name: &str| tensor(name).map(|t| t.data);
        let group = |layer: usize, inputs: usize, parts: &[&str], has_bias: bool| -> Result<Group> {
            let (mut weights, mut biases, mut found, mut outputs) = (Vec::new(), Vec::new(), Vec::new(), 0);
            for part in parts {
                let name = format!("model.layers.{layer}.{part}");
                let weight = get(&format!("{name}.weight"))?;
                if has_bias {
                    biases.extend(get(&format!("{name}.bias"))?);
                }
                let rows = weight.len() / inputs;
                found.push(Part { outputs: outputs..outputs + rows, adapter: slots.get(&name).copied() });
                outputs += rows;
                weights.extend(weight);
            }
            Ok(Group {
                forward: Packed::new(isa, inputs, &[&weights]),
                back: Packed::transposed(isa, outputs, &weights),
                bias: has_bias.then_some(biases),
                parts: found,
            })
        };
        let layer = |i: usize| -> Result<Layer> {
            let norm = |part: &str| get(&format!("model.layers.{i}.{part}.weight"));
            let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
            Ok(Layer {
                attention_norm: norm("input_layernorm")?,
                head_norms: match config.qk_norm {
                    true => Some([norm("self_attn.q_norm")?, norm("self_attn.k_norm")?]),
                    false => None,
                },
                qkv: group(i, width, &qkv, config.qkv_bias)?,
                output: group(i, heads.queries * heads.width, &["self_attn.o_proj"], false)?,
                mlp_norm: norm("post_attention_layernorm")?,
                gate_up: group(i, width, &["mlp.gate_proj", "mlp.up_proj"], false)?,
                down: group(i, config.intermediate_size, &["mlp.down_proj"], false)?,
            })
        };
        let table = get("model.embed_tokens.weight")?;
        let untied = if config.tie_embeddings { None } else { Some(get("lm_head.weight")?) };
        let parts = untied.as_ref().unwrap_or(&table).chunks(VOCABULARY_PART * width);
        Ok(HostLm {
            isa,
            config: config.clone(),
            heads,
            head: parts.map(|p| (Packed::new(isa, width, &[p]), Packed::transposed(isa, p.len() / width, p))).collect(),
            table: untied.is_some().then(|| Packed::new(isa, width, &[&table])),
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            norm: get("model.norm.weight")?,
        })
    }

    fn eps(&self) -> f32 {
        self.config.rms_eps as f32
    }

    fn normed(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; x.len()];
        rms_norm(self.isa, x, weight, self.eps(), &mut out);
        out
    }

    /// The log-probability of every target of a batch that was checked, and the tape for the backward pass where
    /// `tracked`.
    ///
    /// # Errors
    /// Those of the adapter's reader.
    pub fn target_logprobs(
        self: &Arc<Self>,
        batch: &Batch,
        mut lora: Option<Lora<'_>>,
        tracked: bool,
    ) -> Result<(Vec<f32>, Option<Tape>)> {
        let width = self.config.hidden_size;
        let positions: Vec<usize> = batch.lengths.iter().flat_map(|n| 0..*n).collect();
        let sequences: Vec<Range<usize>> =
            batch.lengths.iter().scan(0, |at, n| Some(std::mem::replace(at, *at + n)..*at)).collect();
        let rope =
            Rope::new(self.heads.width, batch.lengths.iter().copied().max().unwrap_or(0), self.config.rope_theta);
        let rows: Vec<usize> = batch.rows.iter().map(|r| *r as usize).collect();
        let mut x = vec![0f32; batch.tokens.len() * width];
        x.par_chunks_mut(width).zip(&batch.tokens).for_each(|(out, token)| match &self.table {
            Some(table) => table.row(*token as usize, out),
            None => self.head_row(*token as usize, out),
        });
        let mut layers = Vec::with_capacity(if tracked { self.layers.len() } else { 0 });
        for (i, layer) in self.layers.iter().enumerate() {
            let mut adapted = |group: &Group| match &mut lora {
                Some(lora) => Adapted::new(self.isa, group, lora),
                None => Ok(None),
            };
            let adapted =
                [adapted(&layer.qkv)?, adapted(&layer.output)?, adapted(&layer.gate_up)?, adapted(&layer.down)?];
            let (mut qkv, narrow_qkv) = layer.qkv.forward(adapted[0].as_ref(), &self.normed(&x, &layer.attention_norm));
            let raw = (layer.head_norms.is_some() && tracked).then(|| qkv.clone());
            self.turn(layer, &mut qkv, &rope, &positions);
            let mut seen = Attention { isa: self.isa, heads: self.heads, sequences: &sequences }.forward(&qkv);
            let mut before = x;
            let mut whole = None;
            if i + 1 == self.layers.len() {
                // After the last attention only positions that predict a target are needed.
                whole = Some((std::mem::take(&mut before), std::mem::take(&mut seen)));
                if let Some((x, all)) = &whole {
                    (before, seen) = (select(x, width, &rows), select(all, all.len() / positions.len(), &rows));
                }
            }
            let (attended, narrow_output) = layer.output.forward(adapted[1].as_ref(), &seen);
            let mut middle = before.clone();
            add(&mut middle, &attended);
            let (gate_up, narrow_gate) =
                layer.gate_up.forward(adapted[2].as_ref(), &self.normed(&middle, &layer.mlp_norm));
            let mut hidden = vec![0f32; gate_up.len() / 2];
            swiglu(self.isa, &gate_up, self.config.intermediate_size, &mut hidden);
            let (added, narrow_down) = layer.down.forward(adapted[3].as_ref(), &hidden);
            x = middle.clone();
            add(&mut x, &added);
            if tracked {
                // Of the last layer, all rows of attention's input and output.
                let (before, seen) = whole.unwrap_or((before, seen));
                let narrow = [narrow_qkv, narrow_output, narrow_gate, narrow_down];
                layers.push((Trace { x: before, raw, qkv, seen, middle, gate_up, narrow }, adapted));
            }
        }
        let hidden = self.normed(&x, &self.norm);
        let (logprobs, slopes) = self.judge(&hidden, &batch.targets, tracked);
        let tape =
            tracked.then(|| Tape { lm: self.clone(), layers, positions, sequences, rope, rows, last: x, slopes });
        Ok((logprobs, tape))
    }

    fn head_row(&self, token: usize, out: &mut [f32]) {
        self.head[token / VOCABULARY_PART].0.row(token % VOCABULARY_PART, out);
    }

    /// Log-probabilities of targets by the normed hidden states that predict them, and their derivatives by these
    /// states, `W[target] − Σ p W`.
    fn judge(&self, hidden: &[f32], targets: &[u32], tracked: bool) -> (Vec<f32>, Vec<f32>) {
        let width = self.config.hidden_size;
        let mut logprobs = Vec::with_capacity(targets.len());
        let mut slopes = Vec::with_capacity(if tracked { hidden.len() } else { 0 });
        for (hidden, targets) in hidden.chunks(JUDGED_AT_ONCE * width).zip(targets.chunks(JUDGED_AT_ONCE)) {
            let n = targets.len();
            let mut parts: Vec<Vec<f32>> = self
                .head
                .iter()
                .map(|(part, _)| {
                    let mut logits = vec![0f32; n * part.outputs()];
                    part.product(hidden, None, &mut logits, Into::Set);
                    logits
                })
                .collect();
            let most: Vec<f32> = (0..n)
                .into_par_iter()
                .map(|row| {
                    let of = |part: &Vec<f32>| {
                        let outputs = part.len() / n;
                        largest(&part[row * outputs..][..outputs])
                    };
                    parts.iter().map(of).fold(f32::NEG_INFINITY, f32::max)
                })
                .collect();
            let of_targets: Vec<f32> = targets
                .iter()
                .enumerate()
                .map(|(row, target)| {
                    let (part, column) = (*target as usize / VOCABULARY_PART, *target as usize % VOCABULARY_PART);
                    parts[part][row * (parts[part].len() / n) + column]
                })
                .collect();
            let sums: Vec<Vec<f32>> = parts
                .par_iter_mut()
                .map(|part| {
                    let outputs = part.len() / n;
                    let rows = part.chunks_exact_mut(outputs).zip(&most);
                    rows.map(|(logits, most)| exponentials_less(self.isa, logits, *most)).collect()
                })
                .collect();
            let totals: Vec<f32> = (0..n).map(|row| sums.iter().map(|of| of[row]).sum()).collect();
            logprobs.extend((0..n).map(|row| of_targets[row] - most[row] - totals[row].ln()));
            if !tracked {
                continue;
            }
            let mut expected = vec![0f32; n * width];
            for (exponentials, (_, part)) in parts.iter().zip(&self.head) {
                part.product(exponentials, None, &mut expected, Into::Add);
            }
            let mut row = vec![0f32; width];
            for (i, target) in targets.iter().enumerate() {
                self.head_row(*target as usize, &mut row);
                slopes.extend(row.iter().zip(&expected[i * width..]).map(|(w, e)| w - e / totals[i]));
            }
        }
        (logprobs, slopes)
    }

    /// Norms the heads of queries and keys, where the model does, and turns them by their positions.
    fn turn(&self, layer: &Layer, qkv: &mut [f32], rope: &Rope, positions: &[usize]) {
        let Heads { queries, keys, width } = self.heads;
        qkv.par_chunks_mut(self.heads.row()).zip(positions).for_each(|(row, position)| {
            let mut normed = vec![0f32; width];
            for (h, head) in row[..(queries + keys) * width].chunks_exact_mut(width).enumerate() {
                if let Some([query, key]) = &layer.head_norms {
                    let weight = if h < queries { query } else { key };
                    rms_norm(self.isa, head, weight, self.eps(), &mut normed);
                    head.copy_from_slice(&normed);
                }
                rope.turn(head, *position);
            }
        });
    }

    /// The backward pass of [`HostLm::turn`].
    fn turn_back(&self, layer: &Layer, raw: Option<&[f32]>, d_qkv: &mut [f32], rope: &Rope, positions: &[usize]) {
        let Heads { queries, keys, width } = self.heads;
        let row_width = self.heads.row();
        d_qkv.par_chunks_mut(row_width).zip(positions).enumerate().for_each(|(i, (row, position))| {
            let mut before = vec![0f32; width];
            for (h, head) in row[..(queries + keys) * width].chunks_exact_mut(width).enumerate() {
                rope.turn_back(head, *position);
                if let (Some([query, key]), Some(raw)) = (&layer.head_norms, raw) {
                    let weight = if h < queries { query } else { key };
                    before.fill(0.0);
                    let x = &raw[i * row_width + h * width..][..width];
                    rms_norm_back(self.isa, x, weight, self.eps(), head, &mut before);
                    head.copy_from_slice(&before);
                }
            }
        });
    }
}

impl Tape {
    /// The gradients of the adapter's weights, given that of every target's log-probability.
    pub fn back(self, of_targets: &[f32]) -> Vec<(Slot, Vec<f32>)> {
        let Tape { lm, layers, positions, sequences, rope, rows, last, slopes } = self;
        let (isa, width) = (lm.isa, lm.config.hidden_size);
        let first = lm.layers.iter().position(|l| {
            [&l.qkv, &l.output, &l.gate_up, &l.down].iter().any(|g| g.parts.iter().any(|p| p.adapter.is_some()))
        });
        let Some(first) = first else { return Vec::new() };
        let mut found = Vec::new();
        let mut of_hidden = slopes;
        for (row, slope) in of_hidden.chunks_exact_mut(width).zip(of_targets) {
            row.iter_mut().for_each(|v| *v *= slope);
        }
        let mut dx = vec![0f32; last.len()];
        rms_norm_back(isa, &last, &lm.norm, lm.eps(), &of_hidden, &mut dx);
        let traces = lm.layers.iter().zip(layers).enumerate().skip(first).rev();
        for (i, (layer, (trace, adapted))) in traces {
            let is_last = i + 1 == lm.layers.len();
            let mut hidden = vec![0f32; trace.gate_up.len() / 2];
            swiglu(isa, &trace.gate_up, lm.config.intermediate_size, &mut hidden);
            let d_hidden = layer.down.back(adapted[3].as_ref(), &hidden, &trace.narrow[3], &dx, &mut found);
            let mut d_gate_up = trace.gate_up;
            swiglu_back(isa, &mut d_gate_up, lm.config.intermediate_size, &d_hidden);
            let normed = lm.normed(&trace.middle, &layer.mlp_norm);
            let d_normed = layer.gate_up.back(adapted[2].as_ref(), &normed, &trace.narrow[2], &d_gate_up, &mut found);
            rms_norm_back(isa, &trace.middle, &layer.mlp_norm, lm.eps(), &d_normed, &mut dx);
            let seen_width = lm.heads.queries * lm.heads.width;
            let mut d_seen = match is_last {
                true => {
                    let read = select(&trace.seen, seen_width, &rows);
                    layer.output.back(adapted[1].as_ref(), &read, &trace.narrow[1], &dx, &mut found)
                }
                false => layer.output.back(adapted[1].as_ref(), &trace.seen, &trace.narrow[1], &dx, &mut found),
            };
            if is_last {
                dx = spread(&dx, width, &rows, positions.len());
                d_seen = spread(&d_seen, seen_width, &rows, positions.len());
            }
            let attention = Attention { isa, heads: lm.heads, sequences: &sequences };
            let mut d_qkv = attention.back(&trace.qkv, &trace.seen, &d_seen);
            lm.turn_back(layer, trace.raw.as_deref(), &mut d_qkv, &rope, &positions);
            let normed = lm.normed(&trace.x, &layer.attention_norm);
            if i == first {
                // No layer before it has an adapter.
                layer.qkv.gradients(adapted[0].as_ref(), &normed, &trace.narrow[0], &d_qkv, &mut found);
                break;
            }
            let d_normed = layer.qkv.back(adapted[0].as_ref(), &normed, &trace.narrow[0], &d_qkv, &mut found);
            rms_norm_back(isa, &trace.x, &layer.attention_norm, lm.eps(), &d_normed, &mut dx);
        }
        found
    }
}

impl Group {
    /// `x · Wᵀ + b + scale · (dropout(x) · Aᵀ) · Bᵀ`, and the narrow product.
    fn forward(&self, adapted: Option<&Adapted>, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let n = x.len() / self.forward.inputs();
        let mut y = vec![0f32; n * self.forward.outputs()];
        self.forward.product(x, self.bias.as_deref(), &mut y, Into::Set);
        let Some(adapted) = adapted else { return (y, Vec::new()) };
        let mut narrow = vec![0f32; n * adapted.ranks];
        for part in &adapted.inputs {
            let dropped = adapted.dropped(part, x);
            let mut of_part = vec![0f32; n * part.columns.len()];
            part.a.product(dropped.as_deref().unwrap_or(x), None, &mut of_part, Into::Set);
            let rows = narrow.chunks_exact_mut(adapted.ranks).zip(of_part.chunks_exact(part.columns.len()));
            rows.for_each(|(all, of_part)| {
                all[part.columns.clone()].iter_mut().zip(of_part).for_each(|(a, v)| *a = v * adapted.scale);
            });
        }
        adapted.wide.product(&narrow, None, &mut y, Into::Add);
        (y, narrow)
    }

    /// Finds the gradients of A and B; returns that of the narrow product, scaled.
    fn gradients(
        &self,
        adapted: Option<&Adapted>,
        x: &[f32],
        narrow: &[f32],
        dy: &[f32],
        found: &mut Vec<(Slot, Vec<f32>)>,
    ) -> Vec<f32> {
        let Some(adapted) = adapted else { return Vec::new() };
        let (inputs, outputs, rank) = (self.forward.inputs(), self.forward.outputs(), adapted.rank);
        let isa = self.isa();
        let n = dy.len() / outputs;
        let mut d_narrow = vec![0f32; n * adapted.ranks];
        adapted.wide_back.product(dy, None, &mut d_narrow, Into::Set);
        d_narrow.iter_mut().for_each(|v| *v *= adapted.scale);
        let of_b = sum_over_rows(isa, &transpose(narrow, adapted.ranks), dy, outputs);
        let across = transpose(&d_narrow, adapted.ranks);
        let mut of_a = vec![0f32; adapted.ranks * inputs];
        for part in &adapted.inputs {
            let dropped = adapted.dropped(part, x);
            let rows = &across[part.columns.start * n..part.columns.end * n];
            let of_part = sum_over_rows(isa, rows, dropped.as_deref().unwrap_or(x), inputs);
            of_a[part.columns.start * inputs..part.columns.end * inputs].copy_from_slice(&of_part);
        }
        let with = self.parts.iter().filter_map(|p| p.adapter.map(|slots| (p, slots))).enumerate();
        for (i, (part, (a, b))) in with {
            found.push((a, of_a[i * rank * inputs..(i + 1) * rank * inputs].to_vec()));
            let lines: Vec<&[f32]> = of_b[i * rank * outputs..(i + 1) * rank * outputs].chunks_exact(outputs).collect();
            found.push((b, part.outputs.clone().flat_map(|o| lines.iter().map(move |line| line[o])).collect()));
        }
        d_narrow
    }

    /// The same, and the gradient of the input.
    fn back(
        &self,
        adapted: Option<&Adapted>,
        x: &[f32],
        narrow: &[f32],
        dy: &[f32],
        found: &mut Vec<(Slot, Vec<f32>)>,
    ) -> Vec<f32> {
        let mut dx = vec![0f32; dy.len() / self.forward.outputs() * self.forward.inputs()];
        self.back.product(dy, None, &mut dx, Into::Set);
        let d_narrow = self.gradients(adapted, x, narrow, dy, found);
        let Some(adapted) = adapted else { return dx };
        for part in &adapted.inputs {
            let of_part: Vec<f32> = d_narrow
                .chunks_exact(adapted.ranks)
                .flat_map(|row| row[part.columns.clone()].iter().copied())
                .collect();
            match adapted.mask(part, dx.len()) {
                None => part.a_back.product(&of_part, None, &mut dx, Into::Add),
                Some(mask) => {
                    let mut of_input = vec![0f32; dx.len()];
                    part.a_back.product(&of_part, None, &mut of_input, Into::Set);
                    multiply(&mut of_input, &mask);
                    add(&mut dx, &of_input);
                }
            }
        }
        dx
    }

    fn isa(&self) -> Isa {
        self.forward.isa()
    }
}

impl Adapted {
    /// None where no part has an adapter.
    fn new(isa: Isa, group: &Group, lora: &mut Lora<'_>) -> Result<Option<Adapted>> {
        let (inputs, outputs, rank) = (group.forward.inputs(), group.forward.outputs(), lora.rank);
        let with: Vec<(&Part, (Slot, Slot))> = group.parts.iter().filter_map(|p| Some((p, p.adapter?))).collect();
        if with.is_empty() {
            return Ok(None);
        }
        let ranks = rank * with.len();
        let (mut of_a, mut wide) = (Vec::with_capacity(ranks * inputs), vec![0f32; outputs * ranks]);
        let mut streams = Vec::new();
        for (i, (part, (a, b))) in with.iter().enumerate() {
            of_a.extend((lora.read)(*a)?);
            let b = (lora.read)(*b)?;
            for (row, o) in b.chunks_exact(rank).zip(part.outputs.clone()) {
                wide[o * ranks + i * rank..][..rank].copy_from_slice(row);
            }
            streams.push((lora.dropout > 0.0).then(|| (lora.stream)()));
        }
        let narrow = |columns: Range<usize>, stream: Option<Random>| {
            let a = &of_a[columns.start * inputs..columns.end * inputs];
            Narrow {
                a: Packed::new(isa, inputs, &[a]),
                a_back: Packed::transposed(isa, columns.len(), a),
                columns,
                stream,
            }
        };
        let inputs = match lora.dropout > 0.0 {
            true => streams.into_iter().enumerate().map(|(i, s)| narrow(i * rank..(i + 1) * rank, s)).collect(),
            false => vec![narrow(0..ranks, None)],
        };
        Ok(Some(Adapted {
            inputs,
            wide_back: Packed::transposed(isa, outputs, &wide),
            wide: Packed::new(isa, ranks, &[&wide]),
            ranks,
            rank,
            scale: lora.scale,
            dropout: lora.dropout,
        }))
    }

    fn mask(&self, part: &Narrow, len: usize) -> Option<Vec<f32>> {
        part.stream.as_ref().map(|stream| dropout_mask(len, self.dropout, stream))
    }

    /// The part's input after dropout, where there is any.
    fn dropped(&self, part: &Narrow, x: &[f32]) -> Option<Vec<f32>> {
        let mut mask = self.mask(part, x.len())?;
        multiply(&mut mask, x);
        Some(mask)
    }
}
