//! The reward model: how much a reason tells of a label beyond what the user's history and the item tell.
//!
//! Shaped as DIN (Zhou et al. 2018, arXiv 1706.06978): a history of `s_j = e_{i_j} + A a_{i_j} + e_{y_j}` is attended to
//! twice, once by the item and once by the reason, so that a reason that is not anchored in the history retrieves nothing:
//!
//! ```text
//! e_i = E[i] + T g(title of i)    h_z = Norm(MLP(g(z)))    v_1 = attend(e_i, s)    v_2 = attend(W h_z, s)
//! f(u, i, z) = MLP([v_1, v_2, e_i, h_z, v_1 * e_i, v_2 * h_z, e_i * h_z]) + b_i
//! ```
//!
//! The titles' vectors and the last product let it see whether a reason is about this item and this history at all, which
//! item ids alone cannot tell: without them a reason about another user moved the logit.
//!
//! f_0 is `f` with a learned null in the place of h_z. The information gain of a reason is
//! `log p(y | f(z)) − log p(y | f_0)`: what item, popularity and user tell cancels out.
//!
//! Knows dense ids and reasons as vectors. Knows nothing of texts, tables, or of how it is trained.

use std::sync::Arc;

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::llm::device::ComputeDevice;
use crate::llm::ops::into_vec;
use crate::network::layers::{Linear, Norm, Pass, Prelu};
use crate::network::parameters::{Init, Parameters, Slot};
use crate::reward::example::{Attributes, RewardExample};

/// Sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Width of a reason's vector.
    pub reason: usize,
    /// Width between the two layers that project a reason.
    pub projection: usize,
    /// Width of item vectors, and of a projected reason: the two are multiplied with the history's.
    pub hidden: usize,
    /// Widths of an attention's two hidden layers.
    pub attention: [usize; 2],
    /// Widths of the network's two hidden layers.
    pub network: [usize; 2],
    /// Most events of a history that are looked at.
    pub length: usize,
}

impl Config {
    /// For reasons of this width and item vectors of that one; the other sizes are fixed.
    pub fn new(reason: usize, hidden: usize) -> Self {
        Config { reason, projection: 128, hidden, attention: [32, 16], network: [128, 64], length: 20 }
    }
}

/// Weighs a history by an MLP of (q, k, q∘k) without softmax and sums it.
#[derive(Debug, Clone, Copy)]
struct Attend {
    of_query: Slot,
    of_key: Slot,
    of_product: Linear,
    slopes: [Prelu; 2],
    second: Linear,
    weight: Linear,
}

impl Attend {
    fn new(p: &mut Parameters, name: &str, hidden: usize, [first, second]: [usize; 2]) -> Self {
        Attend {
            of_query: p.add(&format!("{name}.query"), [hidden, first], Init::Glorot),
            of_key: p.add(&format!("{name}.key"), [hidden, first], Init::Glorot),
            of_product: Linear::new(p, &format!("{name}.product"), hidden, first, Init::Glorot),
            slopes: [
                Prelu::new(p, &format!("{name}.slope.0"), first),
                Prelu::new(p, &format!("{name}.slope.1"), second),
            ],
            second: Linear::new(p, &format!("{name}.second"), first, second, Init::Glorot),
            weight: Linear::new(p, &format!("{name}.weight"), second, 1, Init::Glorot),
        }
    }

    /// Queries `[n · each, d]` over keys `[n · length, d]`, of which `present` `[n, 1, length]` count; `[n · each, d]`.
    fn forward(&self, pass: &Pass, queries: Tensor<2>, keys: Tensor<2>, present: Tensor<3>) -> Tensor<2> {
        let ([rows, d], [n, _, length]) = (queries.dims(), present.dims());
        let each = rows / n;
        let of_queries = queries.clone().matmul(pass.leaves.at(self.of_query));
        let [_, width] = of_queries.dims();
        let of_keys = keys.clone().matmul(pass.leaves.at(self.of_key)).reshape([n, 1, length, width]);
        let product = queries.reshape([n, each, 1, d]) * keys.clone().reshape([n, 1, length, d]);
        let product = self.of_product.forward(pass, product.reshape([rows * length, d]));
        let sums = product.reshape([n, each, length, width]) + of_keys + of_queries.reshape([n, each, 1, width]);
        let first = self.slopes[0].forward(pass, sums.reshape([rows * length, width]));
        let second = self.slopes[1].forward(pass, self.second.forward(pass, first));
        let weights = self.weight.forward(pass, second).reshape([n, each, length]) * present;
        weights.matmul(keys.reshape([n, length, d])).reshape([rows, d])
    }
}

/// The reward model; its formula stands at the top of this file.
#[derive(Clone)]
pub struct RewardModel {
    config: Config,
    attributes: Arc<Attributes>,
    parameters: Parameters,
    items: Slot,
    bias: Slot,
    title: Option<Slot>,
    attribute: Slot,
    outcome: Slot,
    null: Slot,
    projection: [Linear; 2],
    norm: Norm,
    query: Slot,
    by_item: Attend,
    by_reason: Attend,
    network: [Linear; 2],
    slopes: [Prelu; 2],
    logit: Linear,
}

/// What a pass judges: examples, texts, and which texts stand for which example.
pub(crate) struct Batch<'a> {
    /// The examples.
    pub examples: Vec<&'a RewardExample<'a>>,
    /// Reasons' vectors, one after the other.
    pub texts: Vec<f32>,
    /// `[examples, each]`: numbers of texts; the number of texts itself is the null.
    pub places: Vec<u32>,
}

/// The model's judgement of one reason.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// f(z).
    pub logit: f32,
    /// f_0.
    pub without: f32,
    /// Information gain about the example's label, in nats; exactly 0 for no reason.
    pub gain: f32,
}

impl RewardModel {
    /// A model with first weights drawn from `seed`.
    ///
    /// # Errors
    /// `Kind::Config` for sizes that make no model.
    pub fn new(attributes: Arc<Attributes>, config: Config, seed: u64, device: &ComputeDevice) -> Result<Self> {
        let Config { reason, projection, hidden: d, attention, network, length } = config;
        let sizes = [attributes.items(), reason, projection, d, length];
        if sizes.iter().chain(&attention).chain(&network).any(|n| *n == 0) {
            return Err(Error::new(Kind::Config, "the reward model's sizes must be positive"));
        }
        let mut p = Parameters::new(seed, device);
        let small = Init::Normal(0.05);
        Ok(RewardModel {
            items: p.add("item_embedding", [attributes.items(), d], small),
            bias: p.add("item_bias", [attributes.items(), 1], Init::Constant(0.0)),
            title: (attributes.width() > 0).then(|| p.add("title", [attributes.width(), d], Init::Glorot)),
            // One kind at least, so that the table is never empty.
            attribute: p.add("attribute_embedding", [attributes.kinds().max(1), d], small),
            outcome: p.add("outcome_embedding", [2, d], small),
            null: p.add("null_reason", [1, d], small),
            projection: [
                Linear::new(&mut p, "reason.0", reason, projection, Init::Glorot),
                Linear::new(&mut p, "reason.1", projection, d, Init::Glorot),
            ],
            norm: Norm::new(&mut p, "reason.norm", d),
            query: p.add("reason.query", [d, d], Init::Glorot),
            by_item: Attend::new(&mut p, "attention.item", d, attention),
            by_reason: Attend::new(&mut p, "attention.reason", d, attention),
            network: [
                Linear::new(&mut p, "network.0", 7 * d, network[0], Init::Glorot),
                Linear::new(&mut p, "network.1", network[0], network[1], Init::Glorot),
            ],
            slopes: [
                Prelu::new(&mut p, "network.slope.0", network[0]),
                Prelu::new(&mut p, "network.slope.1", network[1]),
            ],
            logit: Linear::new(&mut p, "network.logit", network[1], 1, Init::Glorot),
            config,
            attributes,
            parameters: p,
        })
    }

    /// Its weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// See [`RewardModel::parameters`].
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Its sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The items' attributes.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Refuses an example that names an unknown item or whose vectors are no vectors of the model's.
    fn fits<'r>(&self, example: &RewardExample<'_>, mut reasons: impl Iterator<Item = &'r [f32]>) -> Result<()> {
        let known = |item: u32| (item as usize) < self.attributes.items();
        let bad = |why: &str| Error::new(Kind::Input, why).with("user", example.user()).with("item", example.item());
        if !known(example.item()) || !example.history().iter().all(|past| known(past.item)) {
            return Err(bad("an example names an item without attributes").with("items", self.attributes.items()));
        }
        if let Some(odd) = reasons.find(|r| r.len() != self.config.reason || r.iter().any(|v| !v.is_finite())) {
            return Err(bad("a reason's vector has another width than the model's, or a value that is no number")
                .with("width", odd.len())
                .with("needs", self.config.reason));
        }
        Ok(())
    }

    /// Refuses examples that the model cannot learn from, see [`RewardModel::judge`].
    pub(crate) fn check(&self, examples: &[&RewardExample<'_>]) -> Result<()> {
        examples.iter().try_for_each(|e| self.fits(e, e.reasons().iter().chain(e.corrupted()).copied()))
    }

    /// Logits of a batch that fits, `[examples, each]`.
    pub(crate) fn logits(&self, pass: &Pass, batch: &Batch<'_>) -> Tensor<2> {
        let Config { reason, length, .. } = self.config;
        let n = batch.examples.len();
        let each = batch.places.len() / n;
        let candidates: Vec<u32> = batch.examples.iter().map(|e| e.item()).collect();
        let candidates = pass.indices(&candidates);
        let table = self.table(pass);
        let items = table.clone().select(0, candidates.clone());
        let bias = pass.leaves.at(self.bias).select(0, candidates);

        let (keys, present) = self.history(pass, table, &batch.examples);
        let present = pass.constant(present, [n, 1, length]);
        let null = pass.leaves.at(self.null);
        let h = if batch.texts.is_empty() {
            null
        } else {
            let texts = pass.constant(batch.texts.clone(), [batch.texts.len() / reason, reason]);
            let first = activation::relu(self.projection[0].forward(pass, texts));
            Tensor::cat(vec![self.norm.forward(pass, self.projection[1].forward(pass, first)), null], 0)
        };
        let h = h.select(0, pass.indices(&batch.places));
        let by_item = self.by_item.forward(pass, items.clone(), keys.clone(), present.clone());
        let by_reason = self.by_reason.forward(pass, h.clone().matmul(pass.leaves.at(self.query)), keys, present);
        let repeat = |x: Tensor<2>| {
            let [_, width] = x.dims();
            x.reshape([n, 1, width]).repeat_dim(1, each).reshape([n * each, width])
        };
        let (by_item, items, bias) = (repeat(by_item), repeat(items), repeat(bias));
        let of_item = by_item.clone() * items.clone();
        let [of_reason, of_both] = [by_reason.clone() * h.clone(), items.clone() * h.clone()];
        let all = Tensor::cat(vec![by_item, by_reason, items, h, of_item, of_reason, of_both], 1);
        let first = self.slopes[0].forward(pass, self.network[0].forward(pass, all));
        let second = self.slopes[1].forward(pass, self.network[1].forward(pass, first));
        (self.logit.forward(pass, second) + bias).reshape([n, each])
    }

    /// `e` of every item, `[items, d]`.
    fn table(&self, pass: &Pass) -> Tensor<2> {
        let items = pass.leaves.at(self.items);
        let Some(title) = self.title else { return items };
        let titles =
            pass.constant(self.attributes.titles().to_vec(), [self.attributes.items(), self.attributes.width()]);
        items + titles.matmul(pass.leaves.at(title))
    }

    /// `s` of every example, `[n · length, d]`, and which of it is there.
    fn history(&self, pass: &Pass, table: Tensor<2>, examples: &[&RewardExample<'_>]) -> (Tensor<2>, Vec<f32>) {
        let Config { hidden: d, length, .. } = self.config;
        let rows = examples.len() * length;
        let (mut items, mut outcomes, mut present) = (vec![0; rows], vec![0; rows], vec![0.0; rows]);
        for (row, example) in examples.iter().enumerate() {
            let tail = &example.history()[example.history().len().saturating_sub(length)..];
            for (place, past) in tail.iter().enumerate() {
                let at = (row + 1) * length - tail.len() + place;
                (items[at], outcomes[at], present[at]) = (past.item, u32::from(past.liked), 1.0);
            }
        }
        let of = |at: usize| self.attributes.of(items[at]);
        // An item's attributes are averaged, so that one with many does not outweigh its own vector.
        let most = (0..rows).map(|at| of(at).len()).max().unwrap_or(0);
        let mut keys =
            table.select(0, pass.indices(&items)) + pass.leaves.at(self.outcome).select(0, pass.indices(&outcomes));
        if most > 0 {
            let (mut ids, mut shares) = (vec![0; rows * most], vec![0.0; rows * most]);
            for at in 0..rows {
                for (k, id) in of(at).iter().enumerate() {
                    (ids[at * most + k], shares[at * most + k]) = (*id, 1.0 / of(at).len() as f32);
                }
            }
            let attributes = pass.leaves.at(self.attribute).select(0, pass.indices(&ids));
            let shares = pass.constant(shares, [rows, 1, most]);
            keys = keys + shares.matmul(attributes.reshape([rows, most, d])).reshape([rows, d]);
        }
        (keys, present)
    }

    /// Judges reasons for examples: `asked[n]` are vectors of reasons for `examples[n]`, whose own reasons are not
    /// looked at; `None` is no reason. In the shape of `asked`.
    ///
    /// # Errors
    /// `Kind::Input` for an item that the model does not know, or a vector of another width or with values that are no
    /// numbers; `Kind::Internal` where there is not one list for every example; `Kind::Temporary` where the device fails.
    pub fn judge(&self, examples: &[&RewardExample<'_>], asked: &[Vec<Option<&[f32]>>]) -> Result<Vec<Vec<Judged>>> {
        if examples.len() != asked.len() {
            return Err(Error::new(Kind::Internal, "there is not one list of reasons for every example"));
        }
        for (example, asked) in examples.iter().zip(asked) {
            self.fits(example, asked.iter().flatten().copied())?;
        }
        let pass = Pass::scoring(&self.parameters);
        let mut out = Vec::with_capacity(examples.len());
        for (examples, asked) in examples.chunks(CHUNK).zip(asked.chunks(CHUNK)) {
            let each = asked.iter().map(Vec::len).max().unwrap_or(0) + 1;
            let count = asked.iter().flatten().flatten().count() as u32;
            let (mut texts, mut places, mut next) = (Vec::new(), vec![count; examples.len() * each], 0);
            for (row, asked) in asked.iter().enumerate() {
                // The first place stays the null.
                for (k, reason) in asked.iter().enumerate() {
                    let Some(reason) = reason else { continue };
                    texts.extend_from_slice(reason);
                    places[row * each + k + 1] = next;
                    next += 1;
                }
            }
            let batch = Batch { examples: examples.to_vec(), texts, places };
            let logits = into_vec(self.logits(&pass, &batch))?;
            for ((example, asked), logits) in examples.iter().zip(asked).zip(logits.chunks(each)) {
                let without = logits[0];
                let judged = asked.iter().zip(&logits[1..]).map(|(reason, logit)| {
                    let logit = if reason.is_some() { *logit } else { without };
                    Judged { logit, without, gain: gain(example.label(), logit, without) }
                });
                out.push(judged.collect());
            }
        }
        Ok(out)
    }
}

/// Examples scored at a time.
const CHUNK: usize = 256;

/// `log p(label | logit) − log p(label | without)`.
pub fn gain(label: bool, logit: f32, without: f32) -> f32 {
    let log_p = |logit: f32| {
        let x = f64::from(if label { logit } else { -logit });
        x.min(0.0) - (-x.abs()).exp().ln_1p()
    };
    (log_p(logit) - log_p(without)) as f32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::network::random::Random;
    use crate::reward::example::Past;

    fn model() -> RewardModel {
        let attributes = Attributes::new(vec![vec![0], vec![], vec![1, 2], vec![0, 2]], 3).unwrap();
        let config = Config { reason: 5, projection: 7, hidden: 6, attention: [4, 3], network: [8, 4], length: 3 };
        RewardModel::new(Arc::new(attributes), config, 3, &ComputeDevice::cpu()).unwrap()
    }

    fn vectors(n: usize) -> Vec<Vec<f32>> {
        let mut random = Random::new(1, "reasons");
        (0..n).map(|_| (0..5).map(|_| random.normal() as f32).collect()).collect()
    }

    fn past(item: u32, liked: bool, time: i64) -> Past {
        Past { item, liked, time }
    }

    #[test]
    fn a_history_that_is_not_strictly_before_is_refused() {
        let z = vectors(1);
        let build = |times: [i64; 2]| {
            let history = times.map(|t| past(0, true, t));
            RewardExample::new((1, 2), &history, vec![&z[0]], vec![], true, 10).map(|_| ()).map_err(|e| e.kind())
        };
        assert_eq!(build([8, 9]), Ok(()));
        assert_eq!(build([8, 10]), Err(Kind::Input));
        assert_eq!(build([9, 8]), Err(Kind::Input));
        assert!(RewardExample::new((1, 2), &[], vec![], vec![], true, 10).is_err());
    }

    #[test]
    fn gains_are_differences_of_log_probabilities() {
        assert_eq!(gain(true, 0.7, 0.7), 0.0);
        let p = |x: f64| 1.0 / (1.0 + (-x).exp());
        let near = |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 1e-6, "{a} is not {b}");
        near(gain(true, 1.5, -0.5), p(1.5).ln() - p(-0.5).ln());
        near(gain(false, 1.5, -0.5), (1.0 - p(1.5)).ln() - (1.0 - p(-0.5)).ln());
        assert!((gain(true, -200.0, 0.0) + 200.0 - std::f32::consts::LN_2).abs() < 1e-4, "far logits stay numbers");
    }

    #[test]
    fn no_reason_gains_nothing_and_many_reasons_are_judged_as_each_alone() {
        let (model, z) = (model(), vectors(3));
        let history = [past(0, true, 1), past(3, false, 2)];
        let first = RewardExample::new((0, 2), &history, vec![&z[0]], vec![], true, 9).unwrap();
        let second = RewardExample::new((1, 1), &[], vec![&z[1]], vec![], false, 9).unwrap();
        let asked = vec![vec![Some(z[0].as_slice()), None, Some(z[2].as_slice())], vec![Some(z[1].as_slice())]];
        let all = model.judge(&[&first, &second], &asked).unwrap();
        assert_eq!((all[0].len(), all[1].len()), (3, 1));
        assert_eq!((all[0][1].gain, all[0][1].logit), (0.0, all[0][1].without));
        assert!(all[0][0].gain != 0.0 && all[0][0].logit != all[0][2].logit);
        let alone = |example: &RewardExample<'_>, z: &[f32]| model.judge(&[example], &[vec![Some(z)]]).unwrap()[0][0];
        for (many, one) in [(all[0][0], alone(&first, &z[0])), (all[0][2], alone(&first, &z[2]))] {
            assert!((many.logit - one.logit).abs() < 1e-5 && (many.gain - one.gain).abs() < 1e-5);
        }
        assert!((all[1][0].logit - alone(&second, &z[1]).logit).abs() < 1e-5);
        let none = model.judge(&[&first], &[vec![None]]).unwrap();
        assert_eq!(none[0][0].gain, 0.0);
    }

    #[test]
    fn outcomes_and_attributes_of_the_history_count_and_its_far_past_does_not() {
        let (model, z) = (model(), vectors(1));
        let of = |model: &RewardModel, history: &[Past]| {
            let example = RewardExample::new((0, 2), history, vec![&z[0]], vec![], true, 9).unwrap();
            model.judge(&[&example], &[vec![Some(&z[0])]]).unwrap()[0][0].logit
        };
        let base = [past(0, true, 1), past(1, true, 2), past(2, true, 3), past(3, true, 4)];
        let (mut far, mut near) = (base, base);
        (far[0].liked, near[3].liked) = (false, false);
        assert_eq!(of(&model, &base), of(&model, &far), "the length is 3");
        assert_ne!(of(&model, &base), of(&model, &near));
        let mut bare = model.clone();
        bare.attributes = Arc::new(Attributes::new(vec![vec![]; 4], 3).unwrap());
        assert_ne!(of(&model, &base), of(&bare, &base));
    }

    #[test]
    fn titles_of_the_item_and_of_the_history_count() {
        let z = vectors(1);
        let of = |titles: Vec<f32>| {
            let attributes = Attributes::new(vec![vec![]; 4], 1).unwrap().with_titles(2, titles).unwrap();
            let config = model().config().clone();
            let model = RewardModel::new(Arc::new(attributes), config, 3, &ComputeDevice::cpu()).unwrap();
            let history = [past(0, true, 1)];
            let example = RewardExample::new((0, 2), &history, vec![&z[0]], vec![], true, 9).unwrap();
            model.judge(&[&example], &[vec![Some(&z[0])]]).unwrap()[0][0].logit
        };
        let base = of(vec![0.5; 8]);
        for (at, counts) in [(0, true), (4, true), (6, false)] {
            let mut titles = vec![0.5; 8];
            titles[at] = -2.0;
            assert_eq!(of(titles) != base, counts, "value {at}");
        }
        let bare = Attributes::new(vec![vec![]; 4], 1).unwrap();
        for odd in [vec![0.5; 7], vec![f32::NAN; 8]] {
            assert_eq!(bare.clone().with_titles(2, odd).unwrap_err().kind(), Kind::Input);
        }
        assert_ne!(bare.digest(), bare.clone().with_titles(2, vec![0.0; 8]).unwrap().digest());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (model, z) = (model(), vectors(1));
        let unknown = RewardExample::new((0, 4), &[], vec![&z[0]], vec![], true, 9).unwrap();
        let known = RewardExample::new((0, 1), &[], vec![&z[0]], vec![], true, 9).unwrap();
        let kind = |e: &RewardExample<'_>, z: &[f32]| model.judge(&[e], &[vec![Some(z)]]).unwrap_err().kind();
        assert_eq!(kind(&unknown, &z[0]), Kind::Input);
        assert_eq!(kind(&known, &z[0][1..]), Kind::Input);
        assert_eq!(kind(&known, &[f32::NAN; 5]), Kind::Input);
        assert!(Attributes::new(vec![vec![3]], 3).is_err());
    }
}
