//! A log-linear model of the next item: the state of a user is a weighted sum of the vectors of the last items met, turned by a
//! matrix; an item's score is its product with the item's vector, and scores become probabilities by a softmax (FPMC's factorised
//! transition, Rendle et al. 2010, over several steps back, without the user's own factor).
//!
//! s = C · Σ_k a_k v(item k steps back) + c, with a weight a_k for every step back, learned, that begins at 1 / (k + 1). To an item's
//! score is added a number of its own, which begins at the logarithm of its share of the training events where these are known: a
//! model begins as popularity and learns what differs from it. On logs of little order it is as good as a transformer and many times
//! faster: an evaluation takes the better of the two.
//!
//! Knows sequences of dense ids; knows nothing of splits or metrics. Every event but a user's first is a target, from the `length`
//! events before it.

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

/// Events that every item counts more than it had: an item that training never met is rarer than all others, and not impossible.
const PRIOR: f64 = 0.5;
/// Cases whose states are computed together.
const AT_ONCE: usize = 256;

/// Sizes and the like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Width of item vectors and states.
    pub hidden: usize,
    /// Most items of a history that are looked at.
    pub length: usize,
    /// Dropout of the summed vectors.
    pub dropout: f64,
    /// Targets of a batch.
    pub batch: usize,
    /// Items that the trained softmax has besides the targets of its batch, drawn anew for each; 0 is all. Part of the fingerprint where
    /// it matters.
    #[serde(skip_serializing)]
    pub negatives: usize,
    /// Sizes of the adaptor, where there are features that one reads.
    pub adaptor: AdaptorConfig,
    /// How item vectors are made. An evaluation says so for all its models at once.
    #[serde(skip_deserializing)]
    pub reading: Reading,
}

/// See the module.
#[derive(Clone)]
pub struct LogLinear {
    config: Config,
    parameters: Parameters,
    catalogue: usize,
    items: ItemTable,
    /// `[length, 1]`: a.
    steps: Slot,
    /// `[hidden, hidden]`: C.
    turn: Slot,
    /// `[1, hidden]`: c.
    shift: Slot,
    /// `[catalogue, 1]`: what is added to each item's scores.
    bias: Slot,
}

/// Targets, and what came before each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Dense ids `[targets, length]`, the latest first; what is missing is item 0 and stands in no sum.
    before: Vec<u32>,
    /// Number of items that are there, for every target.
    known: Vec<usize>,
    histories: Vec<Option<u32>>,
    targets: Vec<u32>,
}

impl LogLinear {
    /// A model with first weights drawn from `seed`: vectors normal with deviation 0.02, C the identity, c zero, items' own
    /// numbers by their popularity.
    ///
    /// # Errors
    /// `Kind::Config` for sizes that make no model; as [`ItemTable::new`].
    pub fn new(
        catalogue: usize,
        config: Config,
        content: Option<Arc<Content>>,
        seed: u64,
        device: &ComputeDevice,
    ) -> Result<Self> {
        let Config { hidden, length, batch, dropout, .. } = config;
        if [catalogue, hidden, length, batch].contains(&0) || !(0.0..1.0).contains(&dropout) {
            return Err(Error::new(
                Kind::Config,
                "a log-linear model wants positive sizes and a dropout from 0 to below 1",
            )
            .with("hidden", hidden)
            .with("length", length)
            .with("batch", batch)
            .with("dropout", dropout));
        }
        let mut parameters = Parameters::new(seed, device);
        let counts = content.as_ref().and_then(|content| content.seen.clone());
        let items = ItemTable::new(&mut parameters, content, [catalogue, hidden], config.reading, config.adaptor)?
            .drawing(config.negatives);
        let steps = parameters.add("steps", [length, 1], Init::Constant(0.0));
        let turn = parameters.add("turn", [hidden, hidden], Init::Constant(0.0));
        let shift = parameters.add("shift", [1, hidden], Init::Constant(0.0));
        parameters.write(steps, (0..length).map(|k| 1.0 / (k as f32 + 1.0)).collect())?;
        let bias = parameters.add("bias", [catalogue, 1], Init::Constant(0.0));
        if let Some(counts) = counts {
            let all = counts.iter().map(|n| f64::from(*n) + PRIOR).sum::<f64>();
            parameters.write(bias, counts.iter().map(|n| ((f64::from(*n) + PRIOR) / all).ln() as f32).collect())?;
        }
        let identity = |i: usize| f32::from(u8::from(i / hidden == i % hidden));
        parameters.write(turn, (0..hidden * hidden).map(identity).collect())?;
        Ok(LogLinear { config, parameters, catalogue, items, steps, turn, shift, bias })
    }

    /// Item vectors with each item's number behind them: `[catalogue, hidden + 1]`.
    fn table(&self, pass: &mut Pass) -> Tensor<2> {
        Tensor::cat(vec![self.items.forward(pass), pass.leaves.at(self.bias)], 1)
    }

    /// The states before each target, with a one behind them: `[targets, hidden + 1]`.
    fn states(&self, pass: &mut Pass, table: Tensor<2>, batch: &Batch) -> Tensor<2> {
        let (length, n) = (self.config.length, batch.known.len());
        let there: Vec<f32> =
            batch.known.iter().flat_map(|known| (0..length).map(move |k| f32::from(k < *known))).collect();
        // Each vector times its step's weight, which is 0 where nothing is.
        let steps = pass.leaves.at(self.steps).transpose() * pass.constant(there, [n, length]);
        let vectors = table.narrow(1, 0, self.config.hidden).select(0, pass.indices(&batch.before));
        let vectors = vectors * steps.reshape([n * length, 1]);
        let summed = vectors.reshape([n, length, self.config.hidden]).sum_dim(1).reshape([n, self.config.hidden]);
        let summed = match self.items.histories(pass, &batch.histories) {
            None => summed,
            Some(histories) => summed + histories,
        };
        let summed = pass.dropout(summed, self.config.dropout);
        let states = summed.matmul(pass.leaves.at(self.turn)) + pass.leaves.at(self.shift);
        Tensor::cat(vec![states, pass.constant(vec![1.0; n], [n, 1])], 1)
    }

    /// Adds what came before an event: the latest of `history`, which holds all that is known of `user`.
    fn push(&self, batch: &mut Batch, user: u32, history: &[u32]) {
        let length = self.config.length;
        let latest = history.iter().rev().take(length);
        batch.known.push(latest.len());
        batch.histories.push(self.items.latest(user, history.len()));
        batch.before.extend(latest);
        batch.before.resize(batch.known.len() * length, 0);
    }

    /// What came before cases.
    fn asked(&self, cases: &[Case<'_>]) -> Result<Batch> {
        let mut batch = Batch::default();
        cases.iter().for_each(|case| self.push(&mut batch, case.user, case.history));
        self.check(&batch)?;
        Ok(batch)
    }

    /// The vectors of all items as scores are made with them, `[catalogue, hidden]`, row by row.
    ///
    /// # Errors
    /// `Kind::Temporary` where the device fails.
    pub fn vectors(&self) -> Result<Vec<f32>> {
        into_vec(self.items.forward(&mut Pass::scoring(&self.parameters)))
    }

    /// The states before cases, `[cases, hidden]`, row by row: the product of one with an item's vector is the item's
    /// score, less the item's own number. Of a case only user and history are looked at.
    ///
    /// # Errors
    /// `Kind::Internal` where a history has an item that is not there; `Kind::Temporary` where the device fails.
    pub fn states_before(&self, cases: &[Case<'_>]) -> Result<Vec<f32>> {
        let mut pass = Pass::scoring(&self.parameters);
        let table = self.items.forward(&mut pass);
        let mut states = Vec::with_capacity(cases.len() * self.config.hidden);
        for cases in cases.chunks(AT_ONCE) {
            let batch = self.asked(cases)?;
            let states_and_ones = self.states(&mut pass, table.clone(), &batch);
            states.extend(into_vec(states_and_ones.narrow(1, 0, self.config.hidden))?);
        }
        Ok(states)
    }

    fn check(&self, batch: &Batch) -> Result<()> {
        let fits = batch.before.len() == batch.known.len() * self.config.length
            && batch.before.iter().chain(&batch.targets).all(|item| (*item as usize) < self.catalogue);
        if fits { Ok(()) } else { Err(Error::new(Kind::Internal, "a batch does not fit the model")) }
    }
}

impl Model for LogLinear {
    type Batch = Batch;

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    fn fingerprint(&self) -> Result<Fingerprint> {
        let mut made = Fingerprint::new("log-linear", 1);
        made.add("items", self.catalogue).add_settings("config", &self.config)?;
        made.add("features", self.items.digest());
        if self.items.draws(1) {
            made.add("negatives", self.config.negatives);
        }
        Ok(made)
    }

    fn batches(&self, data: &[Sequence<'_>], random: &mut Random) -> Vec<Batch> {
        let mut targets: Vec<(usize, usize)> =
            data.iter().enumerate().flat_map(|(s, sequence)| (1..sequence.items.len()).map(move |i| (s, i))).collect();
        random.shuffle(&mut targets);
        let batch_of = |targets: &[(usize, usize)]| {
            let mut batch = Batch::default();
            for (s, i) in targets {
                let Sequence { user, items, .. } = data[*s];
                self.push(&mut batch, user, &items[..*i]);
                batch.targets.push(items[*i]);
            }
            batch
        };
        targets.chunks(self.config.batch).map(batch_of).collect()
    }

    fn learn(&self, pass: &mut Pass, batch: &Batch) -> Result<Step> {
        self.check(batch)?;
        let (stream, device) = (pass.stream(), pass.device().clone());
        let table = self.table(pass);
        let states = self.states(pass, table.clone(), batch);
        let (plain, of_states) = (table.clone().inner(), states.clone().inner());
        let judged = self.items.judge(Loss::CrossEntropy, of_states, plain, &batch.targets, &stream, &device)?;
        let loss = inject(states, judged.hidden) + inject(table, judged.table);
        Ok(Step { loss, value: judged.value, targets: batch.targets.len(), sequences: batch.targets.len() })
    }

    fn refresh(&mut self, texts: &Vectors) -> Result<()> {
        self.items.refresh(&self.parameters, texts)
    }
}

impl Scorer for LogLinear {
    fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        let mut pass = Pass::scoring(&self.parameters);
        let table = self.table(&mut pass);
        for (cases, scores) in cases.chunks(AT_ONCE).zip(scores.chunks_mut(AT_ONCE * self.catalogue)) {
            let batch = self.asked(cases)?;
            let states = self.states(&mut pass, table.clone(), &batch);
            scores.copy_from_slice(&into_vec(states.matmul(table.clone().transpose()))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::recommend::fit::{Plan, fit};
    use crate::recommend::item_table::How;
    use crate::recommend::metrics::{Catalogue, Options, rank_cases};

    fn config() -> Config {
        Config {
            hidden: 8,
            length: 3,
            dropout: 0.0,
            batch: 32,
            negatives: 0,
            adaptor: AdaptorConfig::published(),
            reading: Reading::default(),
        }
    }

    fn case(history: &[u32], target: u32) -> Case<'_> {
        Case { user: 0, history, target, rating: None, timestamp: 0 }
    }

    /// Users who go round a ring of six items, so that each says which comes next.
    fn rounds() -> Vec<Vec<u32>> {
        (0..24).map(|user| (0..8).map(|step| (user + step) % 6).collect()).collect()
    }

    fn sequences(rows: &[Vec<u32>]) -> Vec<Sequence<'_>> {
        rows.iter().enumerate().map(|(user, items)| Sequence { user: user as u32, items, ratings: &[] }).collect()
    }

    #[test]
    fn a_state_is_the_weighted_sum_of_the_last_items() {
        let mut model = LogLinear::new(4, config(), None, 3, &ComputeDevice::cpu()).unwrap();
        let slot = model.parameters.slot("item_embedding").unwrap();
        let one_hot = |item: usize| (0..8).map(move |i| f32::from(u8::from(i == item)));
        model.parameters.write(slot, (0..4).flat_map(one_hot).collect()).unwrap();
        let mut scores = [0.0; 8];
        // Four steps back is too far.
        model.score(&[case(&[3, 0, 1, 1], 2), case(&[2], 2)], &mut scores).unwrap();
        let expected = [1.0 / 3.0, 1.5, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        assert!(scores.iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{scores:?}");
    }

    #[test]
    fn it_begins_as_popularity() {
        let content = Content { seen: Some(vec![7, 0, 99, 20]), ..Content::default() };
        let mut model = LogLinear::new(4, config(), Some(Arc::new(content)), 3, &ComputeDevice::cpu()).unwrap();
        let mut scores = [0.0; 4];
        model.score(&[case(&[0, 1], 2)], &mut scores).unwrap();
        let order = |a: usize, b: usize| scores[a] < scores[b];
        assert!(order(1, 0) && order(0, 3) && order(3, 2), "{scores:?}");
        assert!((scores.iter().map(|s| s.exp()).sum::<f32>() - 1.0).abs() < 0.05, "{scores:?}");
    }

    #[test]
    fn scores_are_products_of_states_and_vectors() {
        let mut model = LogLinear::new(4, config(), None, 3, &ComputeDevice::cpu()).unwrap();
        let mut cases = vec![case(&[2], 2); AT_ONCE];
        cases.extend([case(&[3, 0, 1, 1], 2), case(&[], 0)]);
        let (vectors, states) = (model.vectors().unwrap(), model.states_before(&cases).unwrap());
        assert_eq!((vectors.len(), states.len()), (4 * 8, cases.len() * 8));
        let mut scores = vec![0.0; cases.len() * 4];
        model.score(&cases, &mut scores).unwrap();
        for (state, scores) in states.chunks(8).zip(scores.chunks(4)) {
            for (vector, score) in vectors.chunks(8).zip(scores) {
                let product: f32 = state.iter().zip(vector).map(|(s, v)| s * v).sum();
                assert!((product - score).abs() < 1e-6, "{product} is not {score}");
            }
        }
        assert!(states[states.len() - 8..].iter().all(|s| *s == 0.0), "nothing is known, and c is zero at first");
        assert!(model.states_before(&[]).unwrap().is_empty());
        assert_eq!(model.states_before(&[case(&[4], 0)]).unwrap_err().kind(), Kind::Internal);
    }

    #[test]
    fn it_learns_what_comes_next_and_the_same_bits_each_time() {
        let rows = rounds();
        let learned = || {
            let mut model = LogLinear::new(6, config(), None, 1, &ComputeDevice::cpu()).unwrap();
            let trained = fit(&mut model, &sequences(&rows), &[], Catalogue::all(6), &Plan::new(60, 1, 0.03)).unwrap();
            (trained.epochs[59].loss, model)
        };
        let ((loss, mut model), (again, _)) = (learned(), learned());
        assert!(loss < 0.2 && loss.to_bits() == again.to_bits(), "{loss} {again}");
        let ranked = rank_cases(
            &mut model,
            &[case(&[4, 5], 0), case(&[2], 3)],
            Catalogue::all(6),
            Options { mask_seen: false, ..Options::default() },
        );
        assert!(ranked.unwrap().iter().all(|r| r.rank == 1));
    }

    /// Two tastes, each with its items; a seventh item of the first taste that nobody met. Its text alone can place it.
    #[test]
    fn an_item_that_nobody_met_is_found_by_its_text() {
        let mut random = Random::new(2, "tastes");
        let rows: Vec<Vec<u32>> =
            (0..60_usize).map(|user| (0..10).map(|_| (user % 2 * 3 + random.below(3)) as u32).collect()).collect();
        let texts = (0..7).map(|item| if (3..6).contains(&item) { -1.0 } else { 1.0 }).collect();
        let texts = Vectors::new(1, texts, vec![true; 7]).unwrap();
        let content = Content { items: Some(texts), histories: None, seen: Some(vec![1, 1, 1, 1, 1, 1, 0]) };
        let reading = Reading { how: How::Base, delta_dropout: 0.3, seen_only: true, ..Reading::default() };
        let config = Config { reading, ..config() };
        let mut model = LogLinear::new(7, config, Some(Arc::new(content)), 4, &ComputeDevice::cpu()).unwrap();
        fit(&mut model, &sequences(&rows), &[], Catalogue::all(7), &Plan::new(30, 1, 0.03)).unwrap();
        let mut scores = [0.0; 14];
        model.score(&[case(&[0, 1, 2], 6), case(&[3, 4, 5], 6)], &mut scores).unwrap();
        let best_of = |scores: &[f32]| scores.iter().copied().fold(f32::MIN, f32::max);
        assert!(scores[6] > best_of(&scores[3..6]), "the others' taste comes after it: {scores:?}");
        assert!(scores[13] < best_of(&scores[10..13]), "who has another taste does not get it: {scores:?}");
    }

    #[test]
    fn sizes_that_make_no_model_are_refused() {
        for config in
            [Config { hidden: 0, ..config() }, Config { length: 0, ..config() }, Config { dropout: 1.0, ..config() }]
        {
            let refused = LogLinear::new(4, config, None, 0, &ComputeDevice::cpu()).err().unwrap();
            assert_eq!(refused.kind(), Kind::Config);
        }
    }
}
