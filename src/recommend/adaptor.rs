//! Content features on their way into a recommender: KAR's hybrid-expert adaptor (arXiv 2306.10933) with an output gate
//! that begins at zero.
//!
//! Knows vectors and who they belong to; knows nothing of how they were made. A field `m` (items; histories) with input `x`
//! gives `o = a_m · Σ_e softmax(x W_m)_e · F_e(x)` over experts shared by the fields and experts of its own, each an MLP of
//! two layers. At `a_m` = 0, where training begins, a model gives exactly what it gives without features, so features can
//! only be learned to help. Where there is no vector the result is zero.

use std::sync::Arc;

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::llm::ops::from_vec;
use crate::network::layers::{Linear, Pass};
use crate::network::parameters::{Init, Parameters, Slot};

/// Vectors by number, some of which may be missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    width: usize,
    values: Vec<f32>,
    present: Vec<bool>,
}

impl Vectors {
    /// `values` is `[present.len(), width]`; those of missing vectors are not looked at.
    ///
    /// # Errors
    /// `Kind::Input` where the sizes do not fit or a value is not a number.
    pub fn new(width: usize, mut values: Vec<f32>, present: Vec<bool>) -> Result<Self> {
        if width == 0 || values.len() != width * present.len() {
            return Err(Error::new(Kind::Input, "feature vectors do not have the width that they should")
                .with("width", width)
                .with("vectors", present.len())
                .with("values", values.len()));
        }
        for (row, (values, present)) in values.chunks_exact_mut(width).zip(&present).enumerate() {
            if !present {
                values.fill(0.0);
            } else if values.iter().any(|v| !v.is_finite()) {
                return Err(
                    Error::new(Kind::Input, "a feature vector holds a value that is no number").with("row", row)
                );
            }
        }
        Ok(Vectors { width, values, present })
    }

    /// Number of vectors, missing ones included.
    pub fn len(&self) -> usize {
        self.present.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// Values of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether a vector is there.
    pub fn has(&self, n: usize) -> bool {
        self.present[n]
    }

    /// The values of one vector; all zero where it is missing.
    pub fn row(&self, n: usize) -> &[f32] {
        &self.values[n * self.width..(n + 1) * self.width]
    }
}

/// Vectors of users' histories, and from when each may be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Histories {
    vectors: Vectors,
    starts: Vec<usize>,
    rows: Vec<Option<u32>>,
}

impl Histories {
    /// `latest[user][n]` is the vector that may be used once `n` of the user's events are known, for `n` from 0 to their
    /// number: it must have been made from those `n` events alone.
    ///
    /// # Errors
    /// `Kind::Input` where a vector is named that is not there.
    pub fn new(vectors: Vectors, latest: &[Vec<Option<u32>>]) -> Result<Self> {
        let rows: Vec<Option<u32>> = latest.iter().flatten().copied().collect();
        if rows.iter().flatten().any(|row| *row as usize >= vectors.len()) {
            return Err(Error::new(Kind::Input, "a history's vector is not there").with("vectors", vectors.len()));
        }
        let mut starts = vec![0];
        latest.iter().for_each(|l| starts.push(starts[starts.len() - 1] + l.len()));
        Ok(Histories { vectors, starts, rows })
    }

    /// The vector to use for a user of whom `known` events are known; none where it is missing.
    pub fn latest(&self, user: u32, known: usize) -> Option<u32> {
        let user = user as usize;
        let (from, to) = (*self.starts.get(user)?, *self.starts.get(user + 1)?);
        let row = (*self.rows.get(from..to)?.get(known)?)?;
        self.vectors.present[row as usize].then_some(row)
    }
}

/// What is known of items and users beside their ids. Both kinds of vectors have the same width.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Content {
    /// One vector for every item of the catalogue.
    pub items: Option<Vectors>,
    /// Vectors of users' histories.
    pub histories: Option<Histories>,
    /// Number of training events of every item of the catalogue, where a model is to know it.
    pub seen: Option<Vec<u32>>,
}

impl Content {
    /// Tells whether two trainings read the same features: blake3 over all vectors, bit by bit, over who has which, and over
    /// what is known to have been seen how often; 32 hex digits.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        // Lengths stand before what they count, so that no two contents give the same bytes.
        let number = |hasher: &mut blake3::Hasher, n: usize| {
            hasher.update(&(n as u64).to_le_bytes());
        };
        for vectors in [self.items.as_ref(), self.histories.as_ref().map(|h| &h.vectors)] {
            // No vectors have width 0, which vectors cannot have.
            number(&mut hasher, vectors.map_or(0, |v| v.width));
            let Some(vectors) = vectors else { continue };
            number(&mut hasher, vectors.len());
            vectors.present.iter().for_each(|p| {
                hasher.update(&[u8::from(*p)]);
            });
            vectors.values.iter().for_each(|v| {
                hasher.update(&v.to_le_bytes());
            });
        }
        if let Some(histories) = &self.histories {
            number(&mut hasher, histories.starts.len());
            histories.starts.iter().for_each(|start| number(&mut hasher, *start));
            // Row numbers begin at 1, so that 0 is none.
            histories.rows.iter().for_each(|row| number(&mut hasher, row.map_or(0, |r| r as usize + 1)));
        }
        if let Some(seen) = &self.seen {
            hasher.update(b"seen");
            seen.iter().for_each(|n| number(&mut hasher, *n as usize));
        }
        hasher.finalize().to_hex()[..32].to_string()
    }
}

/// Sizes of an [`Adaptor`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdaptorConfig {
    /// Experts that all fields share.
    pub shared: usize,
    /// Experts of each field's own.
    pub own: usize,
    /// Width between an expert's two layers.
    pub hidden: usize,
}

impl AdaptorConfig {
    /// What tests and measurements use; an evaluation's file names its own.
    pub fn published() -> Self {
        AdaptorConfig { shared: 2, own: 3, hidden: 64 }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Adaptor {
    content: Arc<Content>,
    items: Option<Field>,
    histories: Option<Field>,
}

#[derive(Debug, Clone)]
struct Field {
    /// `[vectors, width]`; missing ones are zero.
    vectors: Tensor<2>,
    /// `[vectors, 1]`: 1 where there is a vector.
    present: Tensor<2>,
    gate: Linear,
    experts: Vec<[Linear; 2]>,
    /// `[1, 1]`.
    output: Slot,
}

impl Adaptor {
    /// Adds the adaptor's weights, for results of `width`.
    ///
    /// # Errors
    /// `Kind::Input` where the fields differ in width or the items are not as many as the catalogue.
    pub fn new(
        parameters: &mut Parameters,
        content: Arc<Content>,
        catalogue: usize,
        width: usize,
        config: AdaptorConfig,
    ) -> Result<Self> {
        let fields = [content.items.as_ref(), content.histories.as_ref().map(|h| &h.vectors)];
        let widths: Vec<usize> = fields.iter().flatten().map(|v| v.width).collect();
        if widths.windows(2).any(|w| w[0] != w[1]) {
            return Err(Error::new(Kind::Input, "item and history features must have the same width"));
        }
        if let Some(items) = content.items.as_ref().filter(|items| items.len() != catalogue) {
            return Err(Error::new(Kind::Input, "there must be one feature vector for every item of the catalogue")
                .with("vectors", items.len())
                .with("items", catalogue));
        }
        let inputs = widths.first().copied().unwrap_or(1);
        let expert = |parameters: &mut Parameters, name: String| {
            [
                Linear::new(parameters, &format!("{name}.0"), inputs, config.hidden, Init::Glorot),
                Linear::new(parameters, &format!("{name}.1"), config.hidden, width, Init::Glorot),
            ]
        };
        let shared: Vec<[Linear; 2]> =
            (0..config.shared).map(|e| expert(parameters, format!("adaptor.shared.{e}"))).collect();
        let mut field = |name: &str, vectors: &Vectors| {
            let mut experts = shared.clone();
            experts.extend((0..config.own).map(|e| expert(parameters, format!("adaptor.{name}.{e}"))));
            let gate = Linear::new(parameters, &format!("adaptor.{name}.gate"), inputs, experts.len(), Init::Glorot);
            let output = parameters.add(&format!("adaptor.{name}.output"), [1, 1], Init::Constant(0.0));
            let (vectors, present) = tensors(vectors, parameters);
            Field { vectors, present, gate, experts, output }
        };
        let items = content.items.as_ref().map(|v| field("item", v));
        let histories = content.histories.as_ref().map(|h| field("history", &h.vectors));
        Ok(Adaptor { content, items, histories })
    }

    /// The features that it reads: see [`Content::digest`].
    pub fn digest(&self) -> String {
        self.content.digest()
    }

    /// Other vectors of items in the place of those that were learned from, of the same width.
    ///
    /// # Errors
    /// `Kind::Input` where they do not fit.
    pub fn refresh_items(&mut self, parameters: &Parameters, items: &Vectors) -> Result<()> {
        let Some(field) = &mut self.items else { return Ok(()) };
        if field.vectors.dims() != [items.len(), items.width] {
            return Err(Error::new(
                Kind::Input,
                "features can only be refreshed by others of the same width, one an item",
            )
            .with("vectors", items.len())
            .with("width", items.width));
        }
        (field.vectors, field.present) = tensors(items, parameters);
        Ok(())
    }

    /// `table` `[catalogue, width]` with what the items' vectors add.
    pub fn add_to_items(&self, pass: &Pass, table: Tensor<2>) -> Tensor<2> {
        match &self.items {
            None => table,
            Some(field) => table + field.forward(pass, field.vectors.clone(), field.present.clone()),
        }
    }

    /// The history vector for a user of whom `known` events are known: what [`Adaptor::histories`] takes.
    pub fn latest(&self, user: u32, known: usize) -> Option<u32> {
        self.content.histories.as_ref().and_then(|h| h.latest(user, known))
    }

    /// What the given history vectors add, `[rows.len(), width]`; nothing where no row has one.
    pub fn histories(&self, pass: &Pass, rows: &[Option<u32>]) -> Option<Tensor<2>> {
        let field = self.histories.as_ref()?;
        let mut distinct: Vec<u32> = rows.iter().flatten().copied().collect();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.is_empty() {
            return None;
        }
        let at = pass.indices(&distinct);
        let results =
            field.forward(pass, field.vectors.clone().select(0, at.clone()), field.present.clone().select(0, at));
        let place = |row: u32| distinct.partition_point(|d| *d < row) as u32;
        let places: Vec<u32> = rows.iter().map(|row| row.map_or(0, place)).collect();
        let there = rows.iter().map(|row| f32::from(row.is_some())).collect();
        Some(results.select(0, pass.indices(&places)) * pass.constant(there, [rows.len(), 1]))
    }
}

/// Vectors `[vectors, width]`, missing ones zero, and `[vectors, 1]`: 1 where there is one.
fn tensors(vectors: &Vectors, parameters: &Parameters) -> (Tensor<2>, Tensor<2>) {
    let device = parameters.device();
    let present = vectors.present.iter().map(|p| f32::from(*p)).collect();
    let values = from_vec(vectors.values.clone(), [vectors.len(), vectors.width], device);
    (values, from_vec(present, [vectors.len(), 1], device))
}

impl Field {
    fn forward(&self, pass: &Pass, x: Tensor<2>, present: Tensor<2>) -> Tensor<2> {
        let weights = activation::softmax(self.gate.forward(pass, x.clone()), 1);
        let mut sum: Option<Tensor<2>> = None;
        for (e, [first, second]) in self.experts.iter().enumerate() {
            let result = second.forward(pass, activation::relu(first.forward(pass, x.clone())));
            let part = result * weights.clone().narrow(1, e, 1);
            sum = Some(match sum {
                None => part,
                Some(sum) => sum + part,
            });
        }
        match sum {
            None => Tensor::zeros([x.dims()[0], 1], &pass.device().burn),
            Some(sum) => sum * present * pass.leaves.at(self.output),
        }
    }
}
