//! What neighbours add to a model's scores. A model that learns a vector for each item from its few events does not see that two
//! rare items share their users, and one that projects texts does not see that two texts are nearly alike; their neighbours tell it
//! outright.
//!
//! To a model's score of an item is added a · item-kNN + b · EASE and, for a model that reads texts, c · nearness of texts; for one that
//! reads words also d · nearness of their topics + e · that of the words themselves. Each is a sum over the items of the history with
//! weight 1 / (k + 1) for the one k steps back; texts are as near as the cosine of their vectors, and no item speaks for itself.
//! Validation chooses the numbers at an arm's first training of each origin, and EASE's price on weights once an origin, by EASE
//! alone: what a model of ids is compared with has the same of ids.
//!
//! Knows training events, cases and vectors of texts; knows nothing of arms or of how a model was trained.

use std::collections::BTreeSet;

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::error::Result;
use crate::evaluate::arms::Nearness;
use crate::evaluate::baseline::ItemNeighbours;
use crate::evaluate::ease::Ease;
use crate::llm::device::ComputeDevice;
use crate::llm::ops::{from_vec, into_vec};
use crate::recommend::adaptor::Vectors;
use crate::recommend::fit::mean_ndcg;
use crate::recommend::metrics::{Catalogue, Options, Scorer};
use crate::recommend::split::{Case, Part, Split, Target};

/// Neighbours of an item in item-kNN.
pub(super) const NEIGHBOURS: usize = 100;
/// EASE's prices on squared weights that are tried.
pub(super) const EASE: [f64; 3] = [10.0, 100.0, 500.0];
/// Items of EASE at most.
pub(super) const EASE_ITEMS: usize = 3000;
/// Items of a history that are looked at, the latest.
const LATEST: usize = 50;
/// What validation chooses each number from besides 0, in nats.
const WEIGHTS: [f32; 9] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
/// How often all numbers are gone through.
const ROUNDS: usize = 3;
/// Scores of each kind that are held while numbers are chosen: with more cases than that allows, every so many-th is asked.
const HELD: usize = 1 << 25;
/// Cases whose scores are computed together.
const AT_ONCE: usize = 256;

/// What common users tell of items, as of an origin.
pub(super) struct ByUsers {
    knn: ItemNeighbours,
    ease: Ease,
}

impl ByUsers {
    /// From the events of an origin that may be trained on.
    ///
    /// # Errors
    /// What ranking says.
    pub(super) fn new(split: &Split) -> Result<Self> {
        let (train, catalogue) = (split.train(), split.train_counts().len());
        let valid = split.cases(Part::Valid, Target::Successive);
        let valid = some_of(&valid, catalogue);
        let mut best: Option<(f64, Ease)> = None;
        for price in EASE {
            let ease = Ease::new(train, catalogue, price, EASE_ITEMS)?;
            let since = Catalogue::since(split.first_seen());
            let score = mean_ndcg(&mut Fading(&ease), &valid, since, Options::default())?;
            if best.as_ref().is_none_or(|(so_far, _)| score > *so_far) {
                best = Some((score, ease));
            }
        }
        let ease = match best {
            Some((_, ease)) => ease,
            None => Ease::new(train, catalogue, EASE[0], EASE_ITEMS)?,
        };
        Ok(ByUsers { knn: ItemNeighbours::new(train, catalogue, NEIGHBOURS), ease })
    }
}

/// EASE with the weights that it has beside a model.
struct Fading<'a>(&'a Ease);

impl Scorer for Fading<'_> {
    fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        let Some(catalogue) = scores.len().checked_div(cases.len()) else { return Ok(()) };
        scores.fill(0.0);
        let rows = scores.par_chunks_exact_mut(catalogue.max(1)).zip(cases);
        rows.for_each(|(scores, case)| self.0.add(&latest(case.history), 1.0, scores));
        Ok(())
    }
}

/// Every so many-th case, so that their scores of all items can be held.
pub(super) fn some_of<'a>(cases: &[Case<'a>], catalogue: usize) -> Vec<Case<'a>> {
    let most = (HELD / catalogue.max(1)).max(1);
    cases.iter().step_by(cases.len().div_ceil(most).max(1)).copied().collect()
}

/// What speaks beside a model: common users by item-kNN and by EASE, texts, topics of words, shared words.
const VOICES: [&str; 5] = ["item-kNN", "EASE", "texts", "topics", "words"];

/// The numbers that what [`VOICES`] say is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Mix([f32; VOICES.len()]);

impl std::fmt::Display for Mix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = VOICES.iter().zip(self.0).filter(|(_, by)| *by != 0.0).map(|(voice, by)| format!("{voice} {by}"));
        write!(f, "{}", told.collect::<Vec<String>>().join(", "))
    }
}

/// Vectors of texts at length one.
struct ByTexts {
    /// `[width, catalogue]`; zeros where there is no text.
    units: Tensor<2>,
    /// The same, row by row of an item.
    rows: Vec<f32>,
    width: usize,
    device: ComputeDevice,
}

impl ByTexts {
    fn new(texts: &Vectors, device: &ComputeDevice) -> Self {
        let unit = |item: usize| {
            let row = texts.row(item);
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter().map(move |v| if length > 0.0 { v / length } else { 0.0 })
        };
        let rows: Vec<f32> = (0..texts.len()).flat_map(unit).collect();
        let units = from_vec(rows.clone(), [texts.len(), texts.width()], device).transpose();
        ByTexts { units, rows, width: texts.width(), device: device.clone() }
    }

    /// The nearness of all items to weighted histories, case by case.
    fn nearness(&self, histories: &[Vec<(u32, f32)>]) -> Result<Vec<f32>> {
        let mut sums = vec![0.0; histories.len() * self.width];
        for (sum, history) in sums.chunks_exact_mut(self.width).zip(histories) {
            for (item, weight) in history {
                let row = &self.rows[*item as usize * self.width..][..self.width];
                sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += weight * v);
            }
        }
        let sums = from_vec(sums, [histories.len(), self.width], &self.device);
        let mut near = into_vec(sums.matmul(self.units.clone()))?;
        let catalogue = (self.rows.len() / self.width).max(1);
        for (near, history) in near.chunks_exact_mut(catalogue).zip(histories) {
            // As with common users, no item speaks for itself.
            for (item, weight) in history {
                let row = &self.rows[*item as usize * self.width..][..self.width];
                near[*item as usize] -= weight * row.iter().map(|v| v * v).sum::<f32>();
            }
        }
        Ok(near)
    }
}

/// What texts and words say.
#[derive(Default)]
struct Said {
    /// By the vectors of texts, and by the topics of words.
    dense: [Option<ByTexts>; 2],
    words: Option<ItemNeighbours>,
}

impl Said {
    fn new(near: &Nearness, device: &ComputeDevice) -> Self {
        let dense = |vectors: &Vectors| ByTexts::new(vectors, device);
        let topics = near.words.as_ref().map(|words| dense(&words.topics));
        let words = near.words.as_ref().map(|words| words.shared.clone());
        Said { dense: [near.texts.as_ref().map(dense), topics], words }
    }
}

/// What neighbours say beside a model, as much as the numbers let them.
pub(super) struct Near<'a, M> {
    pub(super) model: M,
    users: Option<&'a ByUsers>,
    /// Nothing where texts are not asked.
    said: Option<Said>,
    mix: Mix,
    device: ComputeDevice,
}

impl<'a, M: Scorer> Near<'a, M> {
    /// A model alone, until numbers are set; without `near` texts are not asked.
    pub(super) fn new(model: M, users: Option<&'a ByUsers>, near: Option<&Nearness>, device: &ComputeDevice) -> Self {
        let said = near.map(|near| Said::new(near, device));
        Near { model, users, said, mix: Mix::default(), device: device.clone() }
    }

    /// With these numbers.
    pub(super) fn mixed(self, mix: Mix) -> Self {
        Near { mix, ..self }
    }

    /// Other texts in the place of those of before.
    pub(super) fn refresh(&mut self, near: &Nearness) {
        if self.said.is_some() {
            self.said = Some(Said::new(near, &self.device));
        }
    }

    /// Which of [`VOICES`] are there.
    fn voices(&self) -> [bool; VOICES.len()] {
        let users = self.users.is_some();
        let has = |of: &dyn Fn(&Said) -> bool| self.said.as_ref().is_some_and(of);
        let dense = |at: usize| has(&|said| said.dense[at].is_some());
        [users, users, dense(0), dense(1), has(&|said| said.words.is_some())]
    }

    /// The numbers that rank the validation part of `split` best by NDCG@10: one after the other is changed while that helps, and
    /// stays where nothing is better.
    ///
    /// # Errors
    /// What the model and the ranking say.
    pub(super) fn choose(&mut self, split: &Split) -> Result<Mix> {
        let parts = self.voices();
        let (catalogue, valid) = (split.train_counts().len(), split.cases(Part::Valid, Target::Successive));
        let cases = some_of(&valid, catalogue);
        if cases.is_empty() || !parts.contains(&true) {
            return Ok(Mix::default());
        }
        let mut held = vec![vec![0.0; cases.len() * catalogue]];
        self.model.score(&cases, &mut held[0])?;
        for (part, is_there) in parts.into_iter().enumerate() {
            let mut scores = Vec::new();
            if is_there {
                scores = vec![0.0; cases.len() * catalogue];
                let mut mix = Mix::default();
                mix.0[part] = 1.0;
                self.add(mix, &cases, &mut scores)?;
            }
            held.push(scores);
        }
        let since = Catalogue::since(split.first_seen());
        let score = |mix: Mix| mean_ndcg(&mut Held::new(&held, mix), &cases, since, Options::default());
        let mut best = Mix::default();
        let mut reached = score(best)?;
        for _ in 0..ROUNDS {
            let before = best;
            for part in (0..parts.len()).filter(|part| parts[*part]) {
                let from = best;
                for weight in [0.0].into_iter().chain(WEIGHTS).filter(|weight| *weight != from.0[part]) {
                    let mut other = from;
                    other.0[part] = weight;
                    let score = score(other)?;
                    if score > reached {
                        (best, reached) = (other, score);
                    }
                }
            }
            if best == before {
                break;
            }
        }
        Ok(best)
    }

    /// Adds what neighbours say of all items.
    fn add(&self, Mix(mix): Mix, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        let Some(catalogue) = scores.len().checked_div(cases.len()) else { return Ok(()) };
        let [knn, ease, texts, topics, words] = mix;
        for (cases, scores) in cases.chunks(AT_ONCE).zip(scores.chunks_mut(AT_ONCE * catalogue.max(1))) {
            let histories: Vec<Vec<(u32, f32)>> = cases.iter().map(|case| latest(case.history)).collect();
            let shared = self.said.as_ref().and_then(|said| said.words.as_ref());
            let lists = [(self.users.map(|users| &users.knn), knn), (shared, words)];
            let ease = self.users.map(|users| &users.ease).filter(|_| ease != 0.0).map(|of| (of, ease));
            let rows = scores.par_chunks_exact_mut(catalogue.max(1)).zip(&histories);
            rows.for_each(|(scores, history)| {
                for (list, by) in lists.iter().filter(|(_, by)| *by != 0.0) {
                    list.iter().for_each(|list| list.add(history, *by, scores));
                }
                ease.iter().for_each(|(ease, by)| ease.add(history, *by, scores));
            });
            let dense = self.said.iter().flat_map(|said| said.dense.iter().zip([texts, topics]));
            for (by_texts, by) in dense.filter(|(_, by)| *by != 0.0) {
                let Some(by_texts) = by_texts else { continue };
                let nearness = by_texts.nearness(&histories)?;
                scores.iter_mut().zip(nearness).for_each(|(score, near)| *score += by * near);
            }
        }
        Ok(())
    }
}

impl<M: Scorer> Scorer for Near<'_, M> {
    fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        self.model.score(cases, scores)?;
        self.add(self.mix, cases, scores)
    }
}

/// The latest items of a history, each once, where it was last, with what it counts.
fn latest(history: &[u32]) -> Vec<(u32, f32)> {
    let mut met = BTreeSet::new();
    let steps_back = history.iter().rev().take(LATEST).enumerate();
    steps_back.filter(|(_, item)| met.insert(**item)).map(|(k, item)| (*item, 1.0 / (k as f32 + 1.0))).collect()
}

/// Scores of a model and then, if they are there, of item-kNN, EASE and texts, case by case; what is asked for in turn is their sum.
pub(super) struct Held<'a> {
    parts: &'a [Vec<f32>],
    mix: Mix,
    at: usize,
}

impl<'a> Held<'a> {
    pub(super) fn new(parts: &'a [Vec<f32>], mix: Mix) -> Self {
        Held { parts, mix, at: 0 }
    }
}

impl Scorer for Held<'_> {
    fn score(&mut self, _cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        scores.copy_from_slice(&self.parts[0][self.at..][..scores.len()]);
        for (part, by) in self.parts[1..].iter().zip(self.mix.0).filter(|(_, by)| *by != 0.0) {
            let said = &part[self.at..][..scores.len()];
            scores.par_iter_mut().zip(said).for_each(|(score, said)| *score += by * said);
        }
        self.at += scores.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::evaluate::arms::WordNearness;
    use crate::evaluate::baseline::tests::{Fixed, case, events};
    use crate::recommend::data::{Event, Log};
    use crate::recommend::split::temporal;

    #[test]
    fn each_neighbour_counts_as_much_as_its_number_says() {
        let train = events(&[(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 2)]);
        let users = ByUsers { knn: ItemNeighbours::new(&train, 4, 10), ease: Ease::new(&train, 4, 0.5, 10).unwrap() };
        let texts =
            Vectors::new(2, vec![2.0, 0.0, 0.0, 3.0, 1.0, 1.0, 0.0, 0.0], vec![true, true, true, false]).unwrap();
        let device = ComputeDevice::cpu();
        let shared = ItemNeighbours::of([vec![(3, 0.5)], vec![], vec![], vec![]].into_par_iter(), 10);
        let topics = Vectors::new(1, vec![1.0, 0.0, 0.0, -1.0], vec![true; 4]).unwrap();
        let said = Nearness { texts: Some(texts), words: Some(WordNearness { topics, shared }) };
        let near = |[knn, ease, texts]: [f32; 3], [topics, words]: [f32; 2]| {
            Near::new(Fixed(vec![9.0; 4]), Some(&users), Some(&said), &device)
                .mixed(Mix([knn, ease, texts, topics, words]))
        };
        let all = |mix, words, history: &[u32]| {
            let mut scores = [0.0; 4];
            near(mix, words).score(&[case(history)], &mut scores).unwrap();
            scores.map(|score| score - 9.0)
        };
        let scores = |mix, history: &[u32]| all(mix, [0.0; 2], history);
        assert_eq!(all([0.0; 3], [2.0, 0.0], &[0]), [0.0, 0.0, 0.0, -2.0]);
        assert_eq!(all([0.0; 3], [0.0, 3.0], &[0]), [0.0, 0.0, 0.0, 1.5]);
        let is_near = |ours: [f32; 4], wanted: [f32; 4]| ours.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5);
        assert_eq!(scores([0.0; 3], &[0, 2]), [0.0; 4]);
        // Item 2 is the latest, item 0 a step before; an item met twice counts where it was last.
        let knn = scores([2.0, 0.0, 0.0], &[0, 2]);
        assert!(is_near(knn, [1.0, 2.0, 0.5, 0.0]), "{knn:?}");
        assert_eq!(scores([2.0, 0.0, 0.0], &[2, 0, 2]), knn);
        let texts = scores([0.0, 0.0, 4.0], &[0, 2]);
        let half = 0.5_f32.sqrt();
        assert!(is_near(texts, [4.0 * half, 4.0 * half, 2.0 * half, 0.0]), "{texts:?}");
        let (ease, sum) = (scores([0.0, 3.0, 0.0], &[0, 2]), scores([2.0, 3.0, 4.0], &[0, 2]));
        assert!(ease[1] > 0.0 && is_near(sum, [0, 1, 2, 3].map(|i| knn[i] + ease[i] + texts[i])), "{ease:?} {sum:?}");
        assert_eq!(Mix([0.5, 0.0, 0.0, 2.0, 0.0]).to_string(), "item-kNN 0.5, topics 2");
    }

    #[test]
    fn refreshed_texts_take_the_place_of_others() {
        let of = |values: [f32; 3]| {
            let texts = Vectors::new(1, values.to_vec(), vec![true, true, values[2] != 0.0]).unwrap();
            Nearness { texts: Some(texts), words: None }
        };
        let device = ComputeDevice::cpu();
        let mut near = Near::new(Fixed(vec![0.0; 3]), None, Some(&of([1.0, -1.0, 0.0])), &device)
            .mixed(Mix([0.0, 0.0, 1.0, 0.0, 0.0]));
        let mut scores = [0.0; 3];
        near.score(&[case(&[0])], &mut scores).unwrap();
        assert_eq!(scores, [0.0, -1.0, 0.0], "no item speaks for itself");
        near.refresh(&of([1.0, -1.0, 5.0]));
        near.score(&[case(&[0])], &mut scores).unwrap();
        assert_eq!(scores, [0.0, -1.0, 1.0], "what is new is near to what it is like");
    }

    #[test]
    fn held_scores_are_handed_out_in_turn() {
        let parts = [vec![1.0, 2.0, 3.0, 4.0], vec![10.0, 20.0, 30.0, 40.0], Vec::new(), vec![0.5; 4]];
        let mut held = Held::new(&parts, Mix([1.0, 0.0, 2.0, 0.0, 0.0]));
        let mut scores = [0.0; 2];
        held.score(&[case(&[0])], &mut scores).unwrap();
        assert_eq!(scores, [12.0, 23.0]);
        held.score(&[case(&[0])], &mut scores).unwrap();
        assert_eq!(scores, [34.0, 45.0]);
        assert_eq!(some_of(&[case(&[0]); 10], HELD / 4).len(), 4);
        assert_eq!(some_of(&[case(&[0]); 10], 4).len(), 10);
    }

    #[test]
    fn validation_takes_what_helps_and_nothing_else() {
        let ids = |n: usize| (0..n).map(|i| format!("{i:03}")).collect::<Vec<String>>();
        // Each user takes both items of a pair, one after the other.
        let event = |t: u32| Event { user: t / 2, item: t / 2 % 10 * 2 + t % 2, rating: None, timestamp: i64::from(t) };
        let log = Log::new(ids(40), ids(20), (0..80).map(event).collect()).unwrap();
        let split = temporal(&log, 0.8, 0.8).unwrap();
        let (users, device) = (ByUsers::new(&split).unwrap(), ComputeDevice::cpu());
        let rows = (0..20).flat_map(|item| (0..10).map(move |i| f32::from(u8::from(i == item / 2)))).collect();
        let texts = Vectors::new(10, rows, vec![true; 20]).unwrap();
        let of = |users, texts: Option<&Vectors>| {
            let near = texts.map(|texts| Nearness { texts: Some(texts.clone()), words: None });
            Near::new(Fixed(vec![0.0; 20]), users, near.as_ref(), &device).choose(&split).unwrap()
        };
        assert_eq!(of(None, Some(&texts)), Mix([0.0, 0.0, 0.5, 0.0, 0.0]));
        assert_eq!(of(Some(&users), None), Mix([0.5, 0.0, 0.0, 0.0, 0.0]));
        let nothing = Vectors::new(10, vec![0.0; 200], vec![false; 20]).unwrap();
        assert_eq!((of(None, Some(&nothing)), of(None, None)), (Mix::default(), Mix::default()));
    }
}
