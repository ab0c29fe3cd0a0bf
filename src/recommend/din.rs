//! DIN, the deep interest network (Zhou et al. 2018, arXiv 1706.06978), in KAR's form: a candidate attends to the history, and
//! a network judges the pair.
//!
//! Knows sequences of dense ids. Knows nothing of splits or metrics. A candidate with vector `q` weighs a history item `k` by an
//! MLP of (q, k, q∘k) without softmax; the weighted sum of the history is the interest `v`, and an MLP of (v, q, v∘q) and an item bias
//! give the logit. The paper also feeds q − k; its first layer is linear, so that adds nothing that q and k do not span.
//! Activations are PReLU, the paper's simpler choice: its Dice depends on what else is in the batch.
//!
//! Every item can be a candidate, so that DIN can rank the whole catalogue: what depends on the history alone is worked out once,
//! what depends on the item alone too.

use std::sync::Arc;

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::llm::device::ComputeDevice;
use crate::llm::ops::into_vec;
use crate::network::layers::{Linear, Pass, Prelu};
use crate::network::parameters::{Init, Parameters, Slot};
use crate::network::random::Random;
use crate::recommend::adaptor::{Adaptor, AdaptorConfig, Content, Vectors};
use crate::recommend::fit::{Model, Sequence, Step};
use crate::recommend::metrics::Scorer;
use crate::recommend::split::Case;

/// What is a yes and what is a no.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Labels {
    /// Every event is a yes; as many items drawn uniformly from those that the user has no training event with are noes.
    Sampled {
        /// Noes for every yes.
        negatives: usize,
    },
    /// An event is a yes if it was rated at least so, else a no; events without a rating are left out.
    Rated {
        /// The least rating of a yes.
        #[serde(rename = "like_threshold")]
        liked: f32,
    },
}

/// Sizes and the like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Width of item vectors.
    pub hidden: usize,
    /// Widths of the attention's two hidden layers.
    pub attention: [usize; 2],
    /// Widths of the network's two hidden layers.
    pub network: [usize; 2],
    /// Most items of a history that are looked at.
    pub length: usize,
    /// Dropout after the network's hidden layers.
    pub dropout: f64,
    /// What is a yes and what is a no.
    #[serde(flatten)]
    pub labels: Labels,
    /// Events of a batch.
    pub batch: usize,
    /// Sizes of the adaptor, where there are features.
    pub adaptor: AdaptorConfig,
}

impl Config {
    /// What tests and measurements use; an evaluation's file names its own.
    pub fn published() -> Self {
        Config {
            hidden: 32,
            attention: [32, 16],
            network: [200, 80],
            length: 20,
            dropout: 0.0,
            labels: Labels::Sampled { negatives: 4 },
            batch: 256,
            adaptor: AdaptorConfig::published(),
        }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Din {
    config: Config,
    parameters: Parameters,
    catalogue: usize,
    items: Slot,
    bias: Slot,
    of_candidate: Slot,
    of_history: Slot,
    of_product: Linear,
    attention: [Prelu; 2],
    second: Linear,
    weight: Linear,
    interest: Slot,
    item: Slot,
    product: Linear,
    user: Option<Slot>,
    network: [Prelu; 2],
    deep: Linear,
    logit: Linear,
    adaptor: Option<Adaptor>,
}

/// Events to learn from, or to be asked about.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Items before the event, the latest last, `[events, length]`; padding before them holds item 0.
    pub histories: Vec<u32>,
    /// 1 for an item, 0 for padding.
    pub present: Vec<f32>,
    /// History vector of every event.
    pub vectors: Vec<Option<u32>>,
    /// `[events, candidates]`.
    pub candidates: Vec<u32>,
    /// 1 for yes, 0 for no.
    pub labels: Vec<f32>,
}

impl Din {
    /// A model with first weights drawn from `seed`.
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
        let Config { hidden, attention, network, length, .. } = config;
        let sizes = [catalogue, hidden, attention[0], attention[1], network[0], network[1], length, config.batch];
        if sizes.contains(&0) {
            return Err(Error::new(Kind::Config, "DIN's sizes must be positive"));
        }
        let mut p = Parameters::new(seed, device);
        let items = p.add("item_embedding", [catalogue, hidden], Init::Normal(0.05));
        let bias = p.add("item_bias", [catalogue, 1], Init::Constant(0.0));
        let of_candidate = p.add("attention.candidate", [hidden, attention[0]], Init::Glorot);
        let of_history = p.add("attention.history", [hidden, attention[0]], Init::Glorot);
        let of_product = Linear::new(&mut p, "attention.product", hidden, attention[0], Init::Glorot);
        let slopes = [
            Prelu::new(&mut p, "attention.slope.0", attention[0]),
            Prelu::new(&mut p, "attention.slope.1", attention[1]),
        ];
        let second = Linear::new(&mut p, "attention.second", attention[0], attention[1], Init::Glorot);
        let weight = Linear::new(&mut p, "attention.weight", attention[1], 1, Init::Glorot);
        let interest = p.add("network.interest", [hidden, network[0]], Init::Glorot);
        let item = p.add("network.item", [hidden, network[0]], Init::Glorot);
        let product = Linear::new(&mut p, "network.product", hidden, network[0], Init::Glorot);
        let network_slopes =
            [Prelu::new(&mut p, "network.slope.0", network[0]), Prelu::new(&mut p, "network.slope.1", network[1])];
        let deep = Linear::new(&mut p, "network.deep", network[0], network[1], Init::Glorot);
        let logit = Linear::new(&mut p, "network.logit", network[1], 1, Init::Glorot);
        let has_users = content.as_ref().is_some_and(|c| c.histories.is_some());
        let user = has_users.then(|| p.add("network.user", [hidden, network[0]], Init::Glorot));
        let adaptor = match content {
            None => None,
            Some(content) => Some(Adaptor::new(&mut p, content, catalogue, hidden, config.adaptor)?),
        };
        Ok(Din {
            config,
            parameters: p,
            catalogue,
            items,
            bias,
            of_candidate,
            of_history,
            of_product,
            attention: slopes,
            second,
            weight,
            interest,
            item,
            product,
            user,
            network: network_slopes,
            deep,
            logit,
            adaptor,
        })
    }

    fn table(&self, pass: &Pass) -> Tensor<2> {
        let table = pass.leaves.at(self.items);
        self.adaptor.as_ref().map_or_else(|| table.clone(), |adaptor| adaptor.add_to_items(pass, table.clone()))
    }

    /// What the user's history vector adds to the network's first layer, `[events, network]`.
    fn user(&self, pass: &Pass, vectors: &[Option<u32>]) -> Option<Tensor<2>> {
        let (slot, adaptor) = (self.user?, self.adaptor.as_ref()?);
        adaptor.histories(pass, vectors).map(|x| x.matmul(pass.leaves.at(slot)))
    }

    /// Attention weights from the first layer's sums, `[n, attention]` to `[n, 1]`.
    fn weigh(&self, pass: &Pass, sums: Tensor<2>) -> Tensor<2> {
        let first = self.attention[0].forward(pass, sums);
        let second = self.attention[1].forward(pass, self.second.forward(pass, first));
        self.weight.forward(pass, second)
    }

    /// Logits from interests, candidates (both `[n, hidden]`), their biases and what the users add to the first layer.
    fn judge(
        &self,
        pass: &mut Pass,
        interest: Tensor<2>,
        item: Tensor<2>,
        bias: Tensor<2>,
        user: Option<Tensor<2>>,
    ) -> Tensor<2> {
        let dropout = self.config.dropout;
        let product = self.product.forward(pass, interest.clone() * item.clone());
        let mut sums =
            product + interest.matmul(pass.leaves.at(self.interest)) + item.matmul(pass.leaves.at(self.item));
        if let Some(user) = user {
            sums = sums + user;
        }
        let first = self.network[0].forward(pass, sums);
        let first = pass.dropout(first, dropout);
        let second = self.network[1].forward(pass, self.deep.forward(pass, first));
        let second = pass.dropout(second, dropout);
        self.logit.forward(pass, second) + bias
    }

    /// Logits of all candidates of a batch, `[events · candidates, 1]`.
    ///
    /// # Errors
    /// `Kind::Internal` for a batch that does not fit the model.
    pub fn logits(&self, pass: &mut Pass, batch: &Batch) -> Result<Tensor<2>> {
        let Config { hidden, length, attention: [width, _], .. } = self.config;
        let events = batch.vectors.len();
        let each = batch.candidates.len() / events.max(1);
        let known = batch.histories.iter().chain(&batch.candidates).all(|i| (*i as usize) < self.catalogue);
        let sizes = [batch.histories.len(), batch.present.len()] == [events * length; 2];
        if !known || !sizes || each == 0 || batch.candidates.len() != events * each {
            return Err(Error::new(Kind::Internal, "a batch does not fit the model"));
        }
        let table = self.table(pass);
        let keys = table.clone().select(0, pass.indices(&batch.histories));
        let candidates = pass.indices(&batch.candidates);
        let queries = table.select(0, candidates.clone());
        let bias = pass.leaves.at(self.bias).select(0, candidates);
        let of_keys = keys.clone().matmul(pass.leaves.at(self.of_history)).reshape([events, 1, length, width]);
        let of_queries = queries.clone().matmul(pass.leaves.at(self.of_candidate)).reshape([events, each, 1, width]);
        let keys = keys.reshape([events, 1, length, hidden]);
        let product = queries.clone().reshape([events, each, 1, hidden]) * keys.clone();
        let product = self.of_product.forward(pass, product.reshape([events * each * length, hidden]));
        let sums = product.reshape([events, each, length, width]) + of_keys + of_queries;
        let weights = self.weigh(pass, sums.reshape([events * each * length, width]));
        let present = pass.constant(batch.present.clone(), [events, 1, length]);
        let weights = weights.reshape([events, each, length]) * present;
        let interest = weights.matmul(keys.reshape([events, length, hidden])).reshape([events * each, hidden]);
        let user = self.user(pass, &batch.vectors).map(|user| {
            let repeated: Vec<u32> = (0..events as u32).flat_map(|e| std::iter::repeat_n(e, each)).collect();
            user.select(0, pass.indices(&repeated))
        });
        Ok(self.judge(pass, interest, queries, bias, user))
    }

    /// The probability that a case's user says yes to its target: what AUC and LogLoss want.
    ///
    /// # Errors
    /// `Kind::Temporary` where the device fails.
    pub fn predict(&self, cases: &[Case<'_>]) -> Result<Vec<f32>> {
        let mut pass = Pass::scoring(&self.parameters);
        let mut out = Vec::with_capacity(cases.len());
        for cases in cases.chunks(1024) {
            let mut batch = Batch::empty();
            for case in cases {
                self.push(&mut batch, case.user, case.history);
                batch.candidates.push(case.target);
            }
            out.extend(into_vec(activation::sigmoid(self.logits(&mut pass, &batch)?))?);
        }
        Ok(out)
    }

    /// Adds the event after a history; the candidates are the caller's.
    fn push(&self, batch: &mut Batch, user: u32, history: &[u32]) {
        let length = self.config.length;
        let tail = &history[history.len().saturating_sub(length)..];
        let padding = length - tail.len();
        batch.histories.extend(std::iter::repeat_n(0, padding).chain(tail.iter().copied()));
        batch.present.extend(std::iter::repeat_n(0.0, padding).chain(std::iter::repeat_n(1.0, tail.len())));
        batch.vectors.push(self.adaptor.as_ref().and_then(|adaptor| adaptor.latest(user, history.len())));
    }
}

impl Batch {
    fn empty() -> Self {
        Batch {
            histories: Vec::new(),
            present: Vec::new(),
            vectors: Vec::new(),
            candidates: Vec::new(),
            labels: Vec::new(),
        }
    }
}

impl Model for Din {
    type Batch = Batch;

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    fn fingerprint(&self) -> Result<Fingerprint> {
        let mut made = Fingerprint::new("din", 1);
        made.add("items", self.catalogue).add_settings("config", &self.config)?;
        made.add("features", self.adaptor.as_ref().map_or_else(|| "none".to_owned(), |a| a.digest()));
        Ok(made)
    }

    fn batches(&self, data: &[Sequence<'_>], random: &mut Random) -> Vec<Batch> {
        let is_asked = |sequence: &Sequence<'_>, i: usize| match self.config.labels {
            Labels::Sampled { .. } => true,
            Labels::Rated { .. } => sequence.ratings[i].is_some(),
        };
        let mut events: Vec<(usize, usize)> = data
            .iter()
            .enumerate()
            .flat_map(|(s, sequence)| (1..sequence.items.len()).map(move |i| (s, i)))
            .filter(|(s, i)| is_asked(&data[*s], *i))
            .collect();
        random.shuffle(&mut events);
        let seen: Vec<Vec<u32>> = data
            .iter()
            .map(|sequence| {
                let mut seen = sequence.items.to_vec();
                seen.sort_unstable();
                seen.dedup();
                seen
            })
            .collect();
        let mut batches = Vec::new();
        for events in events.chunks(self.config.batch) {
            let mut batch = Batch::empty();
            for (s, i) in events {
                let sequence = &data[*s];
                self.push(&mut batch, sequence.user, &sequence.items[..*i]);
                batch.candidates.push(sequence.items[*i]);
                match self.config.labels {
                    Labels::Rated { liked } => {
                        batch.labels.push(f32::from(sequence.ratings[*i].is_some_and(|r| r >= liked)));
                    }
                    Labels::Sampled { negatives } => {
                        batch.labels.push(1.0);
                        for _ in 0..negatives {
                            batch.candidates.push(unseen(self.catalogue, &seen[*s], random));
                            batch.labels.push(0.0);
                        }
                    }
                }
            }
            batches.push(batch);
        }
        batches
    }

    fn learn(&self, pass: &mut Pass, batch: &Batch) -> Result<Step> {
        let n = batch.labels.len();
        let logits = self.logits(pass, batch)?;
        let labels = pass.constant(batch.labels.clone(), [n, 1]);
        let softplus = activation::relu(logits.clone()) + (-logits.clone().abs()).exp().log1p();
        let loss = (softplus - logits * labels).mean();
        let value = into_vec(loss.clone().inner())?.first().copied().unwrap_or(f32::NAN);
        Ok(Step { loss, value: f64::from(value), targets: batch.vectors.len(), sequences: batch.vectors.len() })
    }

    fn refresh(&mut self, texts: &Vectors) -> Result<()> {
        match &mut self.adaptor {
            None => Ok(()),
            Some(adaptor) => adaptor.refresh_items(&self.parameters, texts),
        }
    }
}

/// An item that is not among the seen ones, uniformly; any item where all are.
fn unseen(catalogue: usize, seen: &[u32], random: &mut Random) -> u32 {
    let others = catalogue.saturating_sub(seen.len());
    if others == 0 {
        return random.below(catalogue) as u32;
    }
    // The n-th of the others: every seen item up to it moves it on by one.
    let mut item = random.below(others) as u32;
    for s in seen {
        if *s > item {
            break;
        }
        item += 1;
    }
    item
}

/// Values of the attention's first layer held at a time while scoring.
const CHUNK: usize = 1 << 22;

impl Scorer for Din {
    fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        if cases.iter().any(|case| case.history.is_empty()) {
            return Err(Error::new(Kind::Internal, "a case without a history cannot be scored"));
        }
        let Config { hidden, length, attention: [width, _], .. } = self.config;
        let mut pass = Pass::scoring(&self.parameters);
        let (table, bias) = (self.table(&pass), pass.leaves.at(self.bias));
        let of_items = table.clone().matmul(pass.leaves.at(self.of_candidate)).reshape([1, self.catalogue, width]);
        let product = pass.leaves.at(self.of_product.weight).reshape([1, hidden, width]);
        for (case, scores) in cases.iter().zip(scores.chunks_exact_mut(self.catalogue)) {
            let history = &case.history[case.history.len().saturating_sub(length)..];
            let latest = self.adaptor.as_ref().and_then(|adaptor| adaptor.latest(case.user, case.history.len()));
            let keys = table.clone().select(0, pass.indices(history));
            let of_keys = keys.clone().matmul(pass.leaves.at(self.of_history)) + pass.leaves.at(self.of_product.bias);
            let of_keys = of_keys.reshape([history.len(), 1, width]);
            // (q∘k)·W = q·(diag(k)·W): one small matrix for every history item instead of a product for every pair.
            let turned = keys.clone().reshape([history.len(), hidden, 1]) * product.clone();
            let user = self.user(&pass, &[latest]);
            let items = (CHUNK / (width * history.len().max(1))).clamp(1, self.catalogue);
            for (i, scores) in scores.chunks_mut(items).enumerate() {
                let (from, n) = (i * items, scores.len());
                let queries = table.clone().narrow(0, from, n);
                let sums = queries.clone().reshape([1, n, hidden]).matmul(turned.clone())
                    + of_items.clone().narrow(1, from, n)
                    + of_keys.clone();
                let weights = self.weigh(&pass, sums.reshape([history.len() * n, width]));
                let interest = weights.reshape([history.len(), n]).transpose().matmul(keys.clone());
                let bias = bias.clone().narrow(0, from, n);
                let logits = self.judge(&mut pass, interest, queries, bias, user.clone());
                scores.copy_from_slice(&into_vec(logits)?);
            }
        }
        Ok(())
    }
}
