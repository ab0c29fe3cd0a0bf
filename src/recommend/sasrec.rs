//! SASRec (Kang and McAuley 2018, arXiv 1808.09781) in the shape of RecBole's: learned positions, a causal transformer with
//! norms after each branch and GELU, item embeddings that are also the output layer, cross-entropy over the whole catalogue.
//!
//! Knows sequences of dense ids. Knows nothing of splits or metrics.
//!
//! **Training.** RecBole makes one training sequence of every prefix and learns its last position. The same targets are
//! learned here from all positions at once ([`Rows::Packed`]): every epoch the users, in a new order, stand one after the
//! other and are cut into rows of `length` tokens, so no token is padding and every event but a user's first is a target
//! exactly once. A token sees its own user's tokens of its row; where the cuts fall differs from epoch to epoch, so
//! contexts of every length are seen. One pass gives `length` targets where prefixes give one; [`Rows::Prefixes`] does as
//! RecBole does, for comparison.
//!
//! **Scoring** takes the last `length` items of a history, from position 0 on; what follows them is padding, which the
//! causal mask hides.
//!
//! On the CPU the transformer is differentiated by hand ([`Transformer::learn`]), elsewhere by Burn.

use std::sync::Arc;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::llm::device::ComputeDevice;
use crate::llm::ops::into_vec;
use crate::network::layers::Pass;
use crate::network::parameters::{Init, Parameters, Slot};
use crate::network::random::Random;
use crate::recommend::adaptor::{AdaptorConfig, Content, Vectors};
use crate::recommend::fit::{Model, Sequence, Step};
use crate::recommend::item_table::{ItemTable, Reading};
use crate::recommend::metrics::Scorer;
use crate::recommend::softmax_loss::{Loss, inject};
use crate::recommend::split::Case;
use crate::recommend::transformer::{Sizes, Transformer};

/// How sequences become rows of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rows {
    #[default]
    /// All positions of packed rows are learned.
    Packed,
    /// One row for every prefix, whose last position is learned.
    Prefixes,
}

/// Sizes and the like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Width of embeddings and hidden states.
    pub hidden: usize,
    /// Width inside the feed-forward layers.
    pub inner: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads; divides `hidden`.
    pub heads: usize,
    /// Most items of a history that are looked at.
    pub length: usize,
    /// Dropout after the embedding and after each branch.
    pub dropout: f64,
    /// Dropout of attention probabilities, where it is not that of the branches. No setting of an evaluation.
    #[serde(skip_deserializing)]
    pub attention_dropout: Option<f64>,
    /// What is learned. No setting of an evaluation.
    #[serde(skip_deserializing)]
    pub loss: Loss,
    /// How sequences become rows. No setting of an evaluation.
    #[serde(skip_deserializing)]
    pub rows: Rows,
    /// Targets of a batch.
    pub batch: usize,
    /// Sizes of the adaptor, where there are features.
    pub adaptor: AdaptorConfig,
    /// How item vectors are made. An evaluation says so for all its models at once.
    #[serde(skip_deserializing)]
    pub reading: Reading,
}

impl Config {
    /// RecBole's: what tests and measurements compare with.
    pub fn recbole() -> Self {
        Config {
            hidden: 64,
            inner: 256,
            layers: 2,
            heads: 2,
            length: 50,
            dropout: 0.5,
            attention_dropout: None,
            loss: Loss::CrossEntropy,
            rows: Rows::Packed,
            batch: 2048,
            adaptor: AdaptorConfig::published(),
            reading: Reading::default(),
        }
    }
}

/// See the module.
#[derive(Clone)]
pub struct SasRec {
    config: Config,
    parameters: Parameters,
    catalogue: usize,
    items: ItemTable,
    positions: Slot,
    transformer: Transformer,
}

/// Rows of tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Dense ids, `[rows, length]`; padding holds item 0.
    pub items: Vec<u32>,
    /// Place of every token in its sequence; 0 for padding.
    pub positions: Vec<u32>,
    /// History vectors of the tokens.
    pub histories: Vec<Option<u32>>,
    /// Which tokens are asked for what comes next, ascending.
    pub asked: Vec<u32>,
    /// What does, for every one asked.
    pub targets: Vec<u32>,
}

impl SasRec {
    /// A model with first weights drawn from `seed`, as RecBole's: normal with deviation 0.02, biases zero.
    ///
    /// # Errors
    /// `Kind::Config` for sizes that make no model; `Kind::Input` where the features do not fit the catalogue.
    pub fn new(
        catalogue: usize,
        config: Config,
        content: Option<Arc<Content>>,
        seed: u64,
        device: &ComputeDevice,
    ) -> Result<Self> {
        let Config { hidden, inner, length, heads, .. } = config;
        if [catalogue, hidden, inner, length, heads, config.batch].contains(&0) || !hidden.is_multiple_of(heads) {
            return Err(Error::new(Kind::Config, "SASRec's sizes must be positive, and `heads` must divide `hidden`")
                .with("hidden", hidden)
                .with("heads", heads)
                .with("length", length));
        }
        let init = Init::Normal(0.02);
        let mut parameters = Parameters::new(seed, device);
        let sizes = [catalogue, hidden];
        let items = ItemTable::new(&mut parameters, content, sizes, config.reading, config.adaptor)?;
        let positions = parameters.add("position_embedding", [length, hidden], init);
        let sizes = Sizes {
            hidden,
            inner,
            layers: config.layers,
            heads,
            length,
            dropout: config.dropout,
            attention_dropout: config.attention_dropout.unwrap_or(config.dropout),
        };
        let transformer = Transformer::new(&mut parameters, sizes, init);
        Ok(SasRec { config, parameters, catalogue, items, positions, transformer })
    }

    /// Sizes and the like.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What goes into the first norm, `[tokens, hidden]`.
    fn embed(&self, pass: &Pass, table: Tensor<2>, batch: &Batch) -> Tensor<2> {
        let places = pass.leaves.at(self.positions).select(0, pass.indices(&batch.positions));
        let x = table.select(0, pass.indices(&batch.items)) + places;
        match self.items.histories(pass, &batch.histories) {
            None => x,
            Some(histories) => x + histories,
        }
    }

    /// Hidden states of all tokens: `[tokens, hidden]`.
    ///
    /// # Errors
    /// `Kind::Internal` where a token lies outside the catalogue or the row.
    pub fn hidden(&self, pass: &mut Pass, batch: &Batch) -> Result<Tensor<2>> {
        self.check(batch)?;
        let table = self.items.forward(pass);
        let x = self.embed(pass, table, batch);
        Ok(self.transformer.forward(pass, x, &batch.positions))
    }

    fn check(&self, batch: &Batch) -> Result<()> {
        let (n, length) = (batch.items.len(), self.config.length);
        let fits = n.is_multiple_of(length)
            && batch.positions.len() == n
            && batch.histories.len() == n
            && batch.items.iter().all(|i| (*i as usize) < self.catalogue)
            && batch.positions.iter().enumerate().all(|(i, p)| *p as usize <= i % length)
            && batch.asked.iter().all(|a| (*a as usize) < n);
        if fits { Ok(()) } else { Err(Error::new(Kind::Internal, "a batch does not fit the model")) }
    }

    /// The rows that score histories: each asked at its last token.
    fn questions(&self, cases: &[Case<'_>]) -> Batch {
        let length = self.config.length;
        let mut batch = Batch::empty();
        for case in cases {
            let from = case.history.len().saturating_sub(length);
            let history = &case.history[from..];
            for (place, item) in history.iter().enumerate() {
                batch.push(*item, place, self.latest(case.user, from + place + 1));
            }
            batch.pad(length);
            batch.asked.push((batch.items.len() - length + history.len() - 1) as u32);
        }
        batch
    }

    fn latest(&self, user: u32, known: usize) -> Option<u32> {
        self.items.latest(user, known)
    }

    /// Every event but a user's first as a target, from the token before it, in packed rows.
    fn packed(&self, data: &[Sequence<'_>], random: &mut Random) -> Vec<Batch> {
        let length = self.config.length;
        let mut order: Vec<&Sequence<'_>> = data.iter().filter(|s| s.items.len() > 1).collect();
        random.shuffle(&mut order);
        let rows = self.config.batch.div_ceil(length);
        let (mut batches, mut batch) = (Vec::new(), Batch::empty());
        for sequence in order {
            let mut place = 0;
            for (i, pair) in sequence.items.windows(2).enumerate() {
                if batch.items.len().is_multiple_of(length) {
                    place = 0;
                    if batch.items.len() == rows * length {
                        batches.push(std::mem::replace(&mut batch, Batch::empty()));
                    }
                }
                batch.asked.push(batch.items.len() as u32);
                batch.targets.push(pair[1]);
                batch.push(pair[0], place, self.latest(sequence.user, i + 1));
                place += 1;
            }
        }
        if !batch.asked.is_empty() {
            batch.pad(length);
            batches.push(batch);
        }
        random.shuffle(&mut batches);
        batches
    }

    /// Every event but a user's first as the target of the row that holds all that came before it.
    fn prefixes(&self, data: &[Sequence<'_>], random: &mut Random) -> Vec<Batch> {
        let length = self.config.length;
        let mut targets: Vec<(usize, usize)> =
            data.iter().enumerate().flat_map(|(s, sequence)| (1..sequence.items.len()).map(move |i| (s, i))).collect();
        random.shuffle(&mut targets);
        let batch_of = |targets: &[(usize, usize)]| {
            let mut batch = Batch::empty();
            for (s, i) in targets {
                let sequence = &data[*s];
                let from = i.saturating_sub(length);
                for (place, item) in sequence.items[from..*i].iter().enumerate() {
                    batch.push(*item, place, self.latest(sequence.user, from + place + 1));
                }
                batch.asked.push(batch.items.len() as u32 - 1);
                batch.targets.push(sequence.items[*i]);
                batch.pad(length);
            }
            batch
        };
        targets.chunks(self.config.batch).map(batch_of).collect()
    }
}

impl Batch {
    /// No row.
    pub fn empty() -> Self {
        Batch {
            items: Vec::new(),
            positions: Vec::new(),
            histories: Vec::new(),
            asked: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Adds a token.
    pub fn push(&mut self, item: u32, place: usize, history: Option<u32>) {
        self.items.push(item);
        self.positions.push(place as u32);
        self.histories.push(history);
    }

    /// Fills the last row up; an empty batch gets a row of padding.
    pub fn pad(&mut self, length: usize) {
        loop {
            if !self.items.is_empty() && self.items.len().is_multiple_of(length) {
                return;
            }
            self.push(0, 0, None);
        }
    }
}

impl Model for SasRec {
    type Batch = Batch;

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    fn fingerprint(&self) -> Result<Fingerprint> {
        let mut made = Fingerprint::new("sasrec", 1);
        made.add("items", self.catalogue).add_settings("config", &self.config)?;
        made.add("features", self.items.digest());
        Ok(made)
    }

    fn batches(&self, data: &[Sequence<'_>], random: &mut Random) -> Vec<Batch> {
        match self.config.rows {
            Rows::Packed => self.packed(data, random),
            Rows::Prefixes => self.prefixes(data, random),
        }
    }

    fn learn(&self, pass: &mut Pass, batch: &Batch) -> Result<Step> {
        self.check(batch)?;
        let device = pass.device().clone();
        let (stream, sequences) = (pass.stream(), batch.items.len() / self.config.length);
        let table = self.items.forward(pass);
        let x = self.embed(pass, table.clone(), batch);
        let plain = table.clone().inner();
        let judge = |hidden| self.items.judge(self.config.loss, hidden, plain, &batch.targets, &stream, &device);
        let (loss, value) = if device.is_host {
            let judged = self.transformer.learn(pass, x.clone().inner(), &batch.positions, &batch.asked, judge)?;
            let mut loss = inject(x, judged.input) + inject(table, judged.table);
            for (slot, gradient) in judged.weights {
                loss = loss + inject(pass.leaves.at(slot), gradient);
            }
            (loss, judged.value)
        } else {
            let hidden = self.transformer.forward(pass, x, &batch.positions).select(0, pass.indices(&batch.asked));
            let judged = judge(hidden.clone().inner())?;
            (inject(hidden, judged.hidden) + inject(table, judged.table), judged.value)
        };
        Ok(Step { loss, value, targets: batch.targets.len(), sequences })
    }

    fn refresh(&mut self, texts: &Vectors) -> Result<()> {
        self.items.refresh(&self.parameters, texts)
    }
}

impl Scorer for SasRec {
    fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        if cases.iter().any(|case| case.history.is_empty()) {
            return Err(Error::new(Kind::Internal, "a case without a history cannot be scored"));
        }
        let mut pass = Pass::scoring(&self.parameters);
        let table = self.items.forward(&mut pass);
        for (cases, scores) in cases.chunks(256).zip(scores.chunks_mut(256 * self.catalogue)) {
            let batch = self.questions(cases);
            self.check(&batch)?;
            let x = self.embed(&pass, table.clone(), &batch);
            let hidden = self.transformer.forward(&mut pass, x, &batch.positions).select(0, pass.indices(&batch.asked));
            scores.copy_from_slice(&into_vec(hidden.matmul(table.clone().transpose()))?);
        }
        Ok(())
    }
}
