//! EASE, the linear item-to-item recommender: a baseline with a closed form and no content.
//!
//! Knows training events; knows nothing of content.

use std::cmp::Reverse;

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::evaluate::baseline::{each_once, who_had_what};
use crate::project::linear::inverse;
use crate::recommend::data::Event;
use crate::recommend::metrics::Scorer;
use crate::recommend::split::Case;

/// EASE, the embarrassingly shallow autoencoder (Steck 2019, arXiv 1905.03375): the weights that best tell each item of
/// a user from the user's other items, by least squares with a price on squared weights. With `X` the binary matrix of
/// users and items and `P = (XᵀX + λI)⁻¹`, item `i` of a history says `-P_ij / P_jj` for item `j`, and nothing for
/// itself. An item's score is the sum over the items of the history, each counted once. Items that are not among the
/// most frequent say nothing and score 0, like items without training events: they are as good as any unknown item.
#[derive(Debug, Clone)]
pub struct Ease {
    /// Items that have weights, ascending.
    items: Vec<u32>,
    /// Of every item of the catalogue, its place among `items`.
    places: Vec<Option<usize>>,
    /// `[items, items]`, by the item of the history.
    weights: Vec<f32>,
}

impl Ease {
    /// From the events that may be trained on, with `regularisation` (λ, in users) on the diagonal. Only the
    /// `most_items` items that most users had get weights (ties by the smaller id): memory grows with their square (16
    /// bytes a pair while the inverse is made, 4 in the end), time with their cube. The same bits on any number of
    /// threads.
    ///
    /// # Errors
    /// `Kind::Internal` for a regularisation that is not above 0, or so large or small that there is no inverse.
    pub fn new(train: &[Event], catalogue: usize, regularisation: f64, most_items: usize) -> Result<Self> {
        if regularisation.is_nan() || regularisation <= 0.0 {
            return Err(Error::new(Kind::Internal, "EASE wants a regularisation above 0").with("given", regularisation));
        }
        let (of_user, of_item) = who_had_what(train, catalogue);
        let mut items: Vec<u32> = (0..catalogue as u32).filter(|item| !of_item[*item as usize].is_empty()).collect();
        // A stable sort: the smaller id stays first.
        items.sort_by_key(|item| Reverse(of_item[*item as usize].len()));
        items.truncate(most_items);
        items.sort_unstable();
        let mut places = vec![None; catalogue];
        items.iter().enumerate().for_each(|(place, item)| places[*item as usize] = Some(place));

        let (n, row) = (items.len(), items.len().max(1));
        let mut gram = vec![0.0_f64; n * n];
        gram.par_chunks_exact_mut(row).zip(&items).enumerate().for_each(|(place, (together, item))| {
            for user in &of_item[*item as usize] {
                for other in of_user[*user as usize].iter().filter_map(|other| places[*other as usize]) {
                    together[other] += 1.0;
                }
            }
            together[place] += regularisation;
        });
        let inverse = inverse(gram, n)?;
        let diagonal: Vec<f64> = (0..n).map(|i| inverse[i * n + i]).collect();
        let mut weights = vec![0.0_f32; n * n];
        let rows = weights.par_chunks_exact_mut(row).zip(inverse.par_chunks_exact(row));
        rows.enumerate().for_each(|(place, (to, from))| {
            for ((weight, value), own) in to.iter_mut().zip(from).zip(&diagonal) {
                *weight = (-value / own) as f32;
            }
            to[place] = 0.0;
        });
        Ok(Ease { items, places, weights })
    }

    /// Adds to the scores of all items `by` times what the items of a history say, each times its weight.
    pub(super) fn add(&self, history: &[(u32, f32)], by: f32, scores: &mut [f32]) {
        let n = self.items.len();
        let known = history.iter().filter_map(|(item, weight)| Some((self.places[*item as usize]?, by * weight)));
        for (place, by) in known {
            for (item, weight) in self.items.iter().zip(&self.weights[place * n..(place + 1) * n]) {
                scores[*item as usize] += by * weight;
            }
        }
    }
}

impl Scorer for Ease {
    fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        let rows = scores.par_chunks_exact_mut(self.places.len().max(1));
        rows.zip(cases).for_each(|(scores, case)| {
            scores.fill(0.0);
            self.add(&each_once(case.history), 1.0, scores);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::evaluate::baseline::tests::{case, events};

    /// Audiences of 3, 3, 3, 2 and 0 users; user 0 had item 0 twice.
    fn train() -> Vec<Event> {
        events(&[(0, 0), (0, 1), (0, 2), (0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (2, 3), (3, 0), (3, 3), (4, 2)])
    }

    fn near(ours: &[f32], wanted: &[f32]) {
        assert!(ours.len() == wanted.len() && ours.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{ours:?}");
    }

    /// The weights by NumPy: `p = inv(x.T @ x + 0.5 * eye(4))`, `b = -p / diag(p)`.
    #[test]
    fn weights_are_the_closed_form() {
        let mut model = Ease::new(&train(), 5, 0.5, 100).unwrap();
        let by_numpy = [
            [0.0, 0.432_432_4, -0.099_290_8, 0.193_548_4],
            [0.567_375_9, 0.0, 0.567_375_9, 0.064_516_1],
            [-0.099_290_8, 0.432_432_4, 0.0, 0.193_548_4],
            [0.212_766, 0.054_054_1, 0.212_766, 0.0],
        ];
        near(&model.weights, by_numpy.as_flattened());
        let mut scores = [9.0; 10];
        model.score(&[case(&[0]), case(&[2, 0, 2, 4])], &mut scores).unwrap();
        near(&scores[..5], &[0.0, 0.432_432_4, -0.099_290_8, 0.193_548_4, 0.0]);
        near(&scores[5..], &[-0.099_290_8, 0.864_864_9, -0.099_290_8, 0.387_096_8, 0.0]);
        assert_eq!((scores[0], scores[4]), (0.0, 0.0), "no item speaks for itself, and nobody knows item 4");
    }

    #[test]
    fn the_rarer_items_are_left_out() {
        let mut model = Ease::new(&train(), 5, 0.5, 3).unwrap();
        assert_eq!(model.items, [0, 1, 2]);
        let mut scores = [9.0; 5];
        model.score(&[case(&[0, 3])], &mut scores).unwrap();
        near(&scores, &[0.0, 0.444_444_4, -0.060_606_1, 0.0, 0.0]);
        assert_eq!(Ease::new(&train(), 5, 0.5, 2).unwrap().items, [0, 1], "of equals the smaller id");
        for mut nothing in [Ease::new(&train(), 5, 0.5, 0).unwrap(), Ease::new(&[], 5, 0.5, 9).unwrap()] {
            nothing.score(&[case(&[0, 3])], &mut scores).unwrap();
            assert_eq!(scores, [0.0; 5]);
        }
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Ease::new(&train(), 5, bad, 9).unwrap_err().kind(), Kind::Internal, "{bad}");
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_threads_and_no_item_speaks_for_itself() {
        let pairs: Vec<(u32, u32)> = (0..3000_u32).map(|i| (i % 211, i * i % 97)).collect();
        let train = events(&pairs);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Ease::new(&train, 97, 2.0, 90).unwrap())
        };
        let (one, three) = (run(1), run(3));
        assert_eq!(one.weights, three.weights);
        let n = one.items.len();
        assert!(n > 40 && (0..n).all(|i| one.weights[i * n + i] == 0.0), "{n}");
    }
}
