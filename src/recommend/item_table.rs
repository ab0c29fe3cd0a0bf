//! The item vectors of a model of the next item: what an item's own events taught, and what its text says.
//!
//! Knows ids, how often training met each item, and vectors of texts; knows nothing of how these were made or of what looks
//! at the result. A text is read in one of two ways.
//!
//! **As the base** ([`How::Base`]): v_i = W x_i + m_i δ_i with m_i = \[n_i > 0\] n_i / (n_i + k), and without a text
//! v_i = \[n_i > 0\] δ_i. The text x_i places the item, a vector δ_i of its own corrects that as far as its n_i training
//! events allow; an item that training never met has the text alone. So that W learns to place items at all, δ_i is left out of some training steps (whole vectors, each with the
//! same probability), and its length can be bounded (Let-It-Go, arXiv 2507.19473).
//!
//! **Beside the id** ([`How::Experts`]): v_i = \[n_i > 0\] δ_i + what [`Adaptor`] makes of x_i (KAR, arXiv 2306.10933).
//!
//! **Softmax.** Items that training never met can be left out of the softmax that is trained: they are no answers there, and
//! as wrong answers to every question they would all be pushed down, so that no new item could ever be recommended. All
//! items are scored.

use std::sync::Arc;

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::llm::device::ComputeDevice;
use crate::llm::ops::from_vec;
use crate::network::layers::Pass;
use crate::network::parameters::{Init, Parameters, Slot};
use crate::network::random::Random;
use crate::recommend::adaptor::{Adaptor, AdaptorConfig, Content, Vectors};
use crate::recommend::softmax_loss::{Judged, Loss};

/// The stream that items of a drawn softmax come from, apart from what a loss draws.
const DRAWN: u64 = u64::MAX;

/// How a text takes part in an item's vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It is the vector's base.
    Base,
    /// It is added to the id's vector, through an adaptor with experts.
    #[default]
    Experts,
}

/// How item vectors are made and learned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// How a text takes part.
    pub how: How,
    /// Share of the items with a text whose own vector is left out of a training step; of [`How::Base`] alone.
    pub delta_dropout: f64,
    /// Greatest length of an item's own vector where it has a text; 0 is no bound. Of [`How::Base`] alone.
    pub delta_bound: f64,
    /// k: the own vector of an item with a text counts n / (n + k) after n training events; of [`How::Base`] alone.
    pub seen_weight: f64,
    /// Whether items that training never met are left out of the softmax that is trained.
    pub seen_only: bool,
    /// Whether who ranks asks validation by how much to raise the scores of items with a text that training never met. No part of
    /// a model, which knows nothing of validation, nor of its fingerprint.
    #[serde(skip_serializing)]
    pub raise_unseen: bool,
    /// Whether who trains lets validation choose between this and readings that leave own vectors free ([`Reading::free`]). No part
    /// of a model either.
    #[serde(skip_serializing)]
    pub or_free: bool,
    /// Whether who ranks adds what neighbours by common users say, as far as validation likes it. No part of a model.
    #[serde(skip_serializing)]
    pub near_ids: bool,
    /// Whether who ranks adds how near an item's text is to those of the history, as far as validation likes it. No part of a model.
    #[serde(skip_serializing)]
    pub near_texts: bool,
}

impl Default for Reading {
    /// As RecBole and KAR do: ids of all items, experts beside them, the softmax over all items.
    fn default() -> Self {
        Reading {
            how: How::Experts,
            delta_dropout: 0.0,
            delta_bound: 0.0,
            seen_weight: 0.0,
            seen_only: false,
            raise_unseen: false,
            or_free: false,
            near_ids: false,
            near_texts: false,
        }
    }
}

impl Reading {
    /// The same with own vectors that are free: without a bound, in full from an item's first event on, and left out of this share
    /// of the steps. Where texts say little about who takes an item, a bound keeps a model from learning it from the events.
    pub fn free(self, delta_dropout: f64) -> Reading {
        Reading { delta_dropout, delta_bound: 0.0, seen_weight: 0.0, ..self }
    }

    /// Whether never-met items have a vector of their own all the same: without counts it is not known which these are.
    fn is_plain(&self) -> bool {
        self.how == How::Experts && !self.seen_only
    }
}

/// Item vectors and what takes part in them: see the module.
#[derive(Debug, Clone)]
pub struct ItemTable {
    catalogue: usize,
    reading: Reading,
    own: Slot,
    /// `[catalogue, 1]`: 1 for an item that training met, else 0; nothing where that is not known.
    weight: Option<Tensor<2>>,
    /// Items that training met, ascending; nothing where all take part in the softmax.
    seen: Option<Arc<Vec<u32>>>,
    /// Of the training events each item's share, where these are known.
    frequencies: Option<Arc<Vec<f64>>>,
    /// See [`ItemTable::drawing`].
    negatives: usize,
    base: Option<Base>,
    adaptor: Option<Adaptor>,
    digest: String,
}

/// Texts as the base.
#[derive(Debug, Clone)]
struct Base {
    /// `[catalogue, inputs]`; zeros where there is none.
    vectors: Tensor<2>,
    /// Which items had a text in training.
    present: Vec<bool>,
    /// n / (n + k) of every item.
    shares: Vec<f32>,
    /// `[inputs, width]`.
    projection: Slot,
}

impl ItemTable {
    /// Adds the table's weights to a model of `width`; without `content` ids are all there is.
    ///
    /// # Errors
    /// `Kind::Config` for a reading that makes no table, or one that wants to know what training met where `content` does not say;
    /// `Kind::Input` where the content does not fit the catalogue.
    pub fn new(
        parameters: &mut Parameters,
        content: Option<Arc<Content>>,
        [catalogue, width]: [usize; 2],
        reading: Reading,
        experts: AdaptorConfig,
    ) -> Result<Self> {
        let Reading { delta_dropout, delta_bound, seen_weight, .. } = reading;
        // No number is in no range.
        let is_right = (0.0..=1.0).contains(&delta_dropout) && delta_bound >= 0.0 && seen_weight >= 0.0;
        if !is_right {
            return Err(Error::new(
                Kind::Config,
                "an item's own vector has a dropout from 0 to 1, and a bound and a weight from 0",
            )
            .with("delta_dropout", delta_dropout)
            .with("delta_bound", delta_bound)
            .with("seen_weight", seen_weight));
        }
        let own = parameters.add("item_embedding", [catalogue, width], Init::Normal(0.02));
        let counts = content.as_ref().and_then(|content| content.seen.as_ref());
        let (weight, seen) = match counts {
            _ if reading.is_plain() => (None, None),
            None => {
                return Err(Error::new(
                    Kind::Config,
                    "a table that tells seen items from others wants their numbers of events",
                ));
            }
            Some(counts) if counts.len() != catalogue => {
                return Err(Error::new(
                    Kind::Input,
                    "there must be a number of events for every item of the catalogue",
                )
                .with("numbers", counts.len())
                .with("items", catalogue));
            }
            Some(counts) => {
                let met = counts.iter().map(|n| f32::from(*n > 0)).collect();
                let weight = from_vec(met, [catalogue, 1], parameters.device());
                let seen: Vec<u32> = (0..catalogue as u32).filter(|item| counts[*item as usize] > 0).collect();
                let some = reading.seen_only && seen.len() < catalogue && !seen.is_empty();
                (Some(weight), some.then(|| Arc::new(seen)))
            }
        };
        let frequencies = counts.map(|counts| {
            let all = counts.iter().map(|n| f64::from(*n)).sum::<f64>().max(1.0);
            Arc::new(counts.iter().map(|n| f64::from(*n) / all).collect())
        });
        let digest = content.as_ref().map_or_else(|| "none".to_owned(), |content| content.digest());
        let (mut base, mut adaptor) = (None, None);
        if let Some(content) = content {
            let texts = content.items.as_ref().filter(|_| reading.how == How::Base);
            if let Some(texts) = texts.filter(|texts| texts.len() != catalogue) {
                return Err(Error::new(
                    Kind::Input,
                    "there must be one feature vector for every item of the catalogue",
                )
                .with("vectors", texts.len())
                .with("items", catalogue));
            }
            // Where no item has a text there is no base, and ids are read as they are without one.
            if let Some(texts) = texts.filter(|texts| (0..texts.len()).any(|item| texts.has(item))) {
                let projection = parameters.add("text_projection", [texts.width(), width], Init::Normal(0.02));
                let vectors = base_of(texts, parameters, &|_| true);
                let present = (0..texts.len()).map(|item| texts.has(item)).collect();
                let share = |n: &u32| (f64::from(*n) / (f64::from(*n) + seen_weight).max(1.0)) as f32;
                let shares = content.seen.iter().flatten().map(share).collect();
                base = Some(Base { vectors, present, shares, projection });
            }
            let beside = match reading.how {
                How::Experts => content,
                How::Base => Arc::new(Content { items: None, histories: content.histories.clone(), seen: None }),
            };
            if beside.items.is_some() || beside.histories.is_some() {
                adaptor = Some(Adaptor::new(parameters, beside, catalogue, width, experts)?);
            }
        }
        Ok(ItemTable { catalogue, reading, own, weight, seen, frequencies, negatives: 0, base, adaptor, digest })
    }

    /// Whether the softmax of a batch with so many targets is over drawn items.
    pub fn draws(&self, targets: usize) -> bool {
        let pool = self.seen.as_ref().map_or(self.catalogue, |seen| seen.len());
        self.negatives > 0 && self.negatives + targets < pool
    }

    /// Where the softmax has more items than these together, let it be over all targets and `negatives` items drawn uniformly, with replacement;
    /// 0: over all. From each item's score the logarithm of its chance to be among them is taken, so that the model learns the
    /// scores of a softmax over all (Bengio and Senecal, Adaptive importance sampling, 2008).
    pub fn drawing(self, negatives: usize) -> Self {
        ItemTable { negatives, ..self }
    }

    /// Tells whether two tables read the same features: see [`Content::digest`].
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The vectors `[catalogue, width]`: what goes into a model, and what its states are compared with.
    pub fn forward(&self, pass: &mut Pass) -> Tensor<2> {
        let mut own = pass.leaves.at(self.own);
        if let Some(weight) = &self.weight {
            own = own * weight.clone();
        }
        if let Some(base) = &self.base {
            own = self.held(pass, own, base);
            own = own + base.vectors.clone().matmul(pass.leaves.at(base.projection));
        }
        self.adaptor.as_ref().map_or_else(|| own.clone(), |adaptor| adaptor.add_to_items(pass, own.clone()))
    }

    /// Own vectors within their bound, as far as events allow, and in training some of them left out. What has no text has nothing
    /// else, and is left as it is.
    fn held(&self, pass: &mut Pass, own: Tensor<2>, base: &Base) -> Tensor<2> {
        let Reading { delta_dropout, delta_bound, seen_weight, .. } = self.reading;
        let mut held = own;
        if delta_bound > 0.0 {
            let lengths = (held.clone() * held.clone()).sum_dim(1).clamp_min(1e-12).sqrt();
            let scale = lengths.recip().mul_scalar(delta_bound).clamp_max(1.0);
            let bounded = pass.constant(base.present.iter().map(|p| f32::from(*p)).collect(), [self.catalogue, 1]);
            held = held * (scale.sub_scalar(1.0) * bounded).add_scalar(1.0);
        }
        if seen_weight > 0.0 {
            let shares =
                base.present.iter().zip(&base.shares).map(|(has, share)| if *has { *share } else { 1.0 }).collect();
            held = held * pass.constant(shares, [self.catalogue, 1]);
        }
        if pass.trains() && delta_dropout > 0.0 {
            let mut random = pass.stream();
            let keep = |has: &bool| f32::from(!has || random.uniform() >= delta_dropout);
            let kept = base.present.iter().map(keep).collect();
            held = held * pass.constant(kept, [self.catalogue, 1]);
        }
        held
    }

    /// Other vectors of texts in the place of those that were learned from, which must have the same width: what a night has
    /// written since. They count in scores from now on.
    ///
    /// # Errors
    /// `Kind::Input` where they do not fit.
    pub fn refresh(&mut self, parameters: &Parameters, texts: &Vectors) -> Result<()> {
        let fits = |dims: [usize; 2]| dims == [texts.len(), texts.width()];
        let unfit = || {
            Error::new(Kind::Input, "texts can only be refreshed by others of the same width, one an item")
                .with("vectors", texts.len())
                .with("width", texts.width())
        };
        match (&mut self.base, &mut self.adaptor) {
            (Some(base), _) if fits(base.vectors.dims()) => {
                // Of an item that training met without a text, training knows nothing with one.
                let is_read = |item: usize| base.present[item] || base.shares[item] == 0.0;
                base.vectors = base_of(texts, parameters, &is_read);
                Ok(())
            }
            (None, Some(adaptor)) => adaptor.refresh_items(parameters, texts),
            (None, None) => Ok(()),
            _ => Err(unfit()),
        }
    }

    /// Judges `hidden` `[n, columns]` by the items of the softmax, as [`Loss::judge`]; `table` `[catalogue, columns]` begins with what
    /// [`ItemTable::forward`] gives. The derivative by the table is over all items.
    ///
    /// # Errors
    /// As [`Loss::judge`]; `Kind::Internal` where a target is none of the items that training met.
    pub fn judge(
        &self,
        loss: Loss,
        hidden: Tensor<2>,
        table: Tensor<2>,
        targets: &[u32],
        stream: &Random,
        device: &ComputeDevice,
    ) -> Result<Judged> {
        let ([catalogue, columns], [n, _]) = (table.dims(), hidden.dims());
        let negatives = self.negatives;
        let pool = self.seen.as_ref().map_or(catalogue, |seen| seen.len());
        let is_drawn = self.draws(targets.len());
        if self.seen.is_none() && !is_drawn {
            return loss.judge(hidden, table, targets, stream, device);
        }
        let nth = |place: usize| self.seen.as_ref().map_or(place as u32, |seen| seen[place]);
        let mut items: Vec<u32> = match is_drawn {
            false => (0..pool).map(nth).collect(),
            true => {
                let mut random = stream.child(DRAWN);
                targets.iter().copied().chain((0..negatives).map(|_| nth(random.below(pool)))).collect()
            }
        };
        items.sort_unstable();
        items.dedup();
        let is_known = |target: &u32| self.seen.as_ref().is_none_or(|seen| seen.binary_search(target).is_ok());
        let place = |target: &u32| items.binary_search(target).ok().filter(|_| is_known(target)).map(|p| p as u32);
        let places: Vec<u32> = targets
            .iter()
            .map(place)
            .collect::<Option<_>>()
            .ok_or_else(|| Error::new(Kind::Internal, "a target of training is no item that training met"))?;
        let rows: Vec<i32> = items.iter().map(|item| *item as i32).collect();
        let at: Tensor<1, Int> = Tensor::from_data(TensorData::new(rows, [items.len()]), &device.burn);
        let (mut own, mut states) = (table.select(0, at.clone()), hidden);
        if is_drawn {
            let missed = (1.0 - 1.0 / pool as f64).powi(negatives as i32);
            let frequency = |item: &u32| self.frequencies.as_ref().map_or(0.0, |of| of[*item as usize]);
            let chance = |item: &u32| 1.0 - missed * (1.0 - frequency(item)).powi(targets.len() as i32);
            let corrections = items.iter().map(|item| -chance(item).ln() as f32).collect();
            own = Tensor::cat(vec![own, from_vec(corrections, [items.len(), 1], device)], 1);
            states = Tensor::cat(vec![states, Tensor::ones([n, 1], &device.burn)], 1);
        }
        let judged = loss.judge(states, own, &places, stream, device)?;
        let all: Tensor<2> = Tensor::zeros([catalogue, columns], &device.burn);
        let on_table = judged.table.narrow(1, 0, columns);
        Ok(Judged {
            table: all.select_assign(0, at, on_table, IndexingUpdateOp::Add),
            hidden: judged.hidden.narrow(1, 0, columns),
            ..judged
        })
    }

    /// What history vectors add to the tokens that see them, `[rows.len(), width]`; nothing where no token sees one.
    pub fn histories(&self, pass: &Pass, rows: &[Option<u32>]) -> Option<Tensor<2>> {
        self.adaptor.as_ref()?.histories(pass, rows)
    }

    /// The history vector for a user of whom `known` events are known: what [`ItemTable::histories`] takes.
    pub fn latest(&self, user: u32, known: usize) -> Option<u32> {
        self.adaptor.as_ref()?.latest(user, known)
    }
}

/// Vectors as a tensor; zeros for those that are not read.
fn base_of(texts: &Vectors, parameters: &Parameters, is_read: &dyn Fn(usize) -> bool) -> Tensor<2> {
    let none = vec![0.0; texts.width()];
    let row = |item: usize| if is_read(item) { texts.row(item).to_vec() } else { none.clone() };
    let values = (0..texts.len()).flat_map(row).collect();
    from_vec(values, [texts.len(), texts.width()], parameters.device())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::llm::ops::into_vec;

    const SIZES: [usize; 2] = [4, 3];

    /// Items 0 and 1 were met, item 2 never; item 3 was and has no text.
    fn content(texts: [f32; 3]) -> Arc<Content> {
        let items = Vectors::new(1, vec![texts[0], texts[1], texts[2], 9.0], vec![true, true, true, false]).unwrap();
        Arc::new(Content { items: Some(items), histories: None, seen: Some(vec![6, 2, 0, 1]) })
    }

    fn base() -> Reading {
        Reading { how: How::Base, seen_only: true, ..Reading::default() }
    }

    fn table(reading: Reading) -> (Parameters, ItemTable) {
        let mut parameters = Parameters::new(5, &ComputeDevice::cpu());
        let experts = AdaptorConfig::published();
        let table = ItemTable::new(&mut parameters, Some(content([1.0, -1.0, 2.0])), SIZES, reading, experts).unwrap();
        (parameters, table)
    }

    /// Rows of the table, of the own vectors, and of W.
    fn rows(parameters: &Parameters, table: &ItemTable, mut pass: Pass) -> [Vec<Vec<f32>>; 3] {
        let split = |values: Vec<f32>| values.chunks(SIZES[1]).map(<[f32]>::to_vec).collect::<Vec<_>>();
        let read = |name: &str| split(parameters.read(parameters.slot(name).unwrap()).unwrap());
        [split(into_vec(table.forward(&mut pass)).unwrap()), read("item_embedding"), read("text_projection")]
    }

    fn near(a: &[f32], b: impl Iterator<Item = f32>) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
    }

    #[test]
    fn the_text_places_an_item_and_its_own_events_correct_that() {
        let (parameters, table) = table(Reading { seen_weight: 2.0, ..base() });
        let [all, own, w] = rows(&parameters, &table, Pass::scoring(&parameters));
        for (item, (text, weight)) in [(1.0, 0.75), (-1.0, 0.5), (2.0, 0.0), (0.0, 1.0)].into_iter().enumerate() {
            let expected = own[item].iter().zip(&w[0]).map(|(own, w)| text * w + weight * own);
            assert!(near(&all[item], expected), "{item}: {:?}", all[item]);
        }
    }

    #[test]
    fn own_vectors_are_bounded_and_left_out_where_there_is_a_text() {
        let (mut parameters, table) = table(Reading { delta_bound: 0.5, ..base() });
        let slot = parameters.slot("item_embedding").unwrap();
        parameters.write(slot, vec![3.0, 0.0, 4.0, 0.0, 0.1, 0.0, 7.0, 7.0, 7.0, 3.0, 0.0, 4.0]).unwrap();
        let [all, _, w] = rows(&parameters, &table, Pass::scoring(&parameters));
        let plus =
            |text: f32, own: [f32; 3]| w[0].iter().zip(own).map(move |(w, own)| text * w + own).collect::<Vec<_>>();
        assert!(near(&all[0], plus(1.0, [0.3, 0.0, 0.4]).into_iter()), "{:?}", all[0]);
        assert!(near(&all[1], plus(-1.0, [0.0, 0.1, 0.0]).into_iter()), "{:?}", all[1]);
        assert!(near(&all[2], plus(2.0, [0.0; 3]).into_iter()), "{:?}", all[2]);
        assert!(near(&all[3], [3.0, 0.0, 4.0].into_iter()), "nothing bounds what has no text: {:?}", all[3]);

        let (parameters, table) = self::table(Reading { delta_dropout: 1.0, ..base() });
        let [trained, own, w] = rows(&parameters, &table, Pass::training(&parameters, Random::new(1, "dropout")));
        assert!(near(&trained[0], w[0].iter().copied()) && near(&trained[3], own[3].iter().copied()));
        let [scored, ..] = rows(&parameters, &table, Pass::scoring(&parameters));
        assert!(near(&scored[0], w[0].iter().zip(&own[0]).map(|(w, own)| w + own)), "only training leaves it out");
    }

    /// An item that training never met is no wrong answer: its text does not move the loss, and nothing moves it.
    #[test]
    fn unseen_items_take_no_part_in_the_softmax() {
        let judged = |reading: Reading, text: f32| {
            let mut parameters = Parameters::new(5, &ComputeDevice::cpu());
            let content = content([1.0, -1.0, text]);
            let table =
                ItemTable::new(&mut parameters, Some(content), SIZES, reading, AdaptorConfig::published()).unwrap();
            let mut pass = Pass::training(&parameters, Random::new(1, "loss"));
            let vectors = table.forward(&mut pass);
            let hidden = from_vec(vec![1.0, 2.0, 3.0, -1.0, 0.5, 0.0], [2, 3], &ComputeDevice::cpu());
            let (stream, device) = (Random::new(1, "judge"), ComputeDevice::cpu());
            let judged = table.judge(Loss::CrossEntropy, hidden, vectors.inner(), &[3, 1], &stream, &device).unwrap();
            (judged.value, into_vec(judged.table).unwrap())
        };
        let (value, gradient) = judged(base(), 2.0);
        assert_eq!(judged(base(), 50.0).0, value);
        assert!(gradient[6..9].iter().all(|g| *g == 0.0) && gradient[9..].iter().any(|g| *g != 0.0), "{gradient:?}");
        let all = Reading { seen_only: false, ..base() };
        assert!(judged(all, 50.0).0 != judged(all, 2.0).0 && judged(all, 2.0).1[6..9].iter().any(|g| *g != 0.0));
    }

    /// In the mean over draws the derivative goes where that of the softmax over all goes; without the correction the two have a
    /// correlation of 0.982 and 0.986 here.
    #[test]
    fn a_drawn_softmax_learns_what_one_over_all_does() {
        let (items, width, n, device) = (400, 3, 24, ComputeDevice::cpu());
        let counts: Vec<u32> = (0..items as u32).map(|item| if item % 9 == 0 { 40 } else { item % 3 }).collect();
        let events: Vec<u32> = (0..items as u32).flat_map(|item| vec![item; counts[item as usize] as usize]).collect();
        let mut random = Random::new(7, "table");
        let mut normal = |n: usize, by: f64| (0..n).map(|_| (random.normal() * by) as f32).collect::<Vec<f32>>();
        let (vectors, states) = (normal(items * width, 0.5), normal(n * width, 1.0));
        for reading in [Reading::default(), base()] {
            let judged = |negatives: usize, seed: u64| {
                let mut parameters = Parameters::new(5, &device);
                let content = Arc::new(Content { seen: Some(counts.clone()), ..Content::default() });
                let experts = AdaptorConfig::published();
                let table = ItemTable::new(&mut parameters, Some(content), [items, width], reading, experts);
                let tensor = |values: &Vec<f32>, rows: usize| from_vec(values.clone(), [rows, width], &device);
                let mut random = Random::new(seed, "targets");
                let targets: Vec<u32> = (0..n).map(|_| events[random.below(events.len())]).collect();
                let (hidden, vectors, stream) =
                    (tensor(&states, n), tensor(&vectors, items), Random::new(seed, "judge"));
                let table = table.unwrap().drawing(negatives);
                let judged = table.judge(Loss::CrossEntropy, hidden, vectors, &targets, &stream, &device).unwrap();
                (judged.value, into_vec(judged.table).unwrap())
            };
            assert_eq!(judged(items, 0), judged(0, 0), "as many as there are is all");
            let mean = |negatives: usize| {
                let mut sums = vec![0.0; items * width];
                for seed in 0..300 {
                    let (_, on_table) = judged(negatives, seed);
                    sums.iter_mut().zip(on_table).for_each(|(sum, g)| *sum += f64::from(g) / 300.0);
                }
                sums
            };
            let (all, drawn) = (mean(0), mean(150));
            assert!(all != drawn, "not all are drawn");
            let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let alike = product(&all, &drawn) / (product(&all, &all) * product(&drawn, &drawn)).sqrt();
            assert!(alike > 0.995, "{alike}");
            let unmet = (0..items).filter(|item| reading.seen_only && counts[*item] == 0);
            assert!(unmet.into_iter().all(|item| drawn[item * width..][..width].iter().all(|g| *g == 0.0)));
        }
    }

    #[test]
    fn texts_are_refreshed_in_scores() {
        let (parameters, mut table) = table(base());
        let [before, ..] = rows(&parameters, &table, Pass::scoring(&parameters));
        let later = Vectors::new(1, vec![1.0, -1.0, -3.0, 5.0], vec![true; 4]).unwrap();
        table.refresh(&parameters, &later).unwrap();
        let [after, own, w] = rows(&parameters, &table, Pass::scoring(&parameters));
        assert!(after[..2] == before[..2] && near(&after[2], w[0].iter().map(|w| -3.0 * w)));
        assert!(near(&after[3], own[3].iter().copied()), "training met it without a text");
        assert!(table.refresh(&parameters, &Vectors::new(2, vec![0.0; 8], vec![true; 4]).unwrap()).is_err());
    }

    #[test]
    fn what_makes_no_table_is_refused() {
        let mut parameters = Parameters::new(5, &ComputeDevice::cpu());
        let mut refused = |content: Option<Arc<Content>>, reading: Reading| {
            ItemTable::new(&mut parameters, content, SIZES, reading, AdaptorConfig::published()).unwrap_err().kind()
        };
        assert_eq!(refused(None, base()), Kind::Config);
        let short = Content { seen: Some(vec![1]), ..Content::default() };
        assert_eq!(refused(Some(Arc::new(short)), base()), Kind::Input);
        assert_eq!(refused(Some(content([0.0; 3])), Reading { delta_dropout: f64::NAN, ..base() }), Kind::Config);
        assert_eq!(refused(Some(content([0.0; 3])), Reading { delta_bound: -1.0, ..base() }), Kind::Config);
    }
}
