//! What vectors of items are worth as they stand: whether they find what users take next.
//!
//! A user is the sum of the vectors of what was met last, or a vector of one's own; every item that has a vector and
//! was not met is ranked by the product with it; measured is the rank of what was met next. No model is trained, so
//! that the vectors alone tell.
//!
//! Knows vectors and numbers of items; knows nothing of texts, maps or logs.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::statistics::{Interval, paired_bootstrap};

const CONFIDENCE: f64 = 0.95;
/// Items of a short list.
const SHORT: f64 = 10.0;

/// Vectors of one width, one after the other.
#[derive(Debug, Clone, Default)]
pub struct Vectors {
    width: usize,
    values: Vec<f32>,
}

impl Vectors {
    /// Of `width` values each; one that is narrower is filled up with zeros, one that is wider cut.
    pub fn new(width: usize, vectors: impl IntoIterator<Item = Vec<f32>>) -> Vectors {
        let mut values = Vec::new();
        for mut vector in vectors {
            vector.resize(width, 0.0);
            values.extend(vector);
        }
        Vectors { width, values }
    }

    /// The vector of an item.
    pub fn of(&self, item: usize) -> &[f32] {
        &self.values[item * self.width..(item + 1) * self.width]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// Each scaled so that the mean square of the lengths is 1; zeros stay.
    pub fn of_mean_length_one(&self) -> Vectors {
        let square = self.values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
        let n = self.iter().count().max(1) as f64;
        let scale = if square > 0.0 { (n / square).sqrt() } else { 0.0 };
        let values = self.values.iter().map(|x| (f64::from(*x) * scale) as f32).collect();
        Vectors { width: self.width, values }
    }

    /// Each followed by the other's of the same item.
    pub fn beside(&self, other: &Vectors) -> Vectors {
        let both = self.iter().zip(other.iter()).map(|(a, b)| a.iter().chain(b).copied().collect());
        Vectors::new(self.width + other.width, both)
    }

    /// The sum of some of them.
    pub fn sum(&self, items: &[usize]) -> Vec<f64> {
        let mut sum = vec![0.0; self.width];
        for item in items {
            sum.iter_mut().zip(self.of(*item)).for_each(|(to, x)| *to += f64::from(*x));
        }
        sum
    }
}

/// A user whose next items are asked for, all by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// What the user met last.
    pub history: Vec<usize>,
    /// Everything that the user had met, ascending: it is not ranked.
    pub met: Vec<usize>,
    /// What the user met next, for the first time.
    pub next: Vec<usize>,
}

/// How many items stand before each next item, of those that were not met, by user and next item; of items with the
/// same product half count. A user of whom nothing is known (`None`) has all products alike.
pub fn ranks(vectors: &Vectors, users: &[Asked], profile: impl Fn(usize) -> Option<Vec<f64>> + Sync) -> Vec<f64> {
    let of_user = |(number, user): (usize, &Asked)| -> Vec<f64> {
        let profile = profile(number).unwrap_or_else(|| vec![0.0; vectors.width]);
        let product = |vector: &[f32]| vector.iter().zip(&profile).map(|(x, p)| f64::from(*x) * p).sum::<f64>();
        let products: Vec<f64> = vectors.iter().map(product).collect();
        let rank = |next: &usize| {
            let own = products[*next];
            let others =
                products.iter().enumerate().filter(|(item, _)| item != next && user.met.binary_search(item).is_err());
            others
                .map(|(_, other)| {
                    if *other > own {
                        1.0
                    } else if *other == own {
                        0.5
                    } else {
                        0.0
                    }
                })
                .sum()
        };
        user.next.iter().map(rank).collect()
    };
    users.par_iter().enumerate().map(of_user).collect::<Vec<_>>().concat()
}

/// Means over next items.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Of 1 / rank, where the first rank is 1.
    pub mrr: f64,
    /// Of whether it is among the first ten.
    pub recall_10: f64,
}

fn reciprocal(rank: &f64) -> f64 {
    1.0 / (1.0 + rank)
}

/// The means of ranks; 0 for none.
pub fn found(ranks: &[f64]) -> Found {
    let n = ranks.len().max(1) as f64;
    Found {
        mrr: ranks.iter().map(reciprocal).sum::<f64>() / n,
        recall_10: ranks.iter().filter(|rank| **rank < SHORT).count() as f64 / n,
    }
}

/// Mean reciprocal rank of the first less that of the second, with its 95 % interval over users; `users` says whose
/// each rank is.
///
/// # Errors
/// As [`paired_bootstrap`].
pub fn difference(first: &[f64], second: &[f64], users: &[u32], resamples: usize, seed: u64) -> Result<Interval> {
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| reciprocal(a) - reciprocal(b)).collect();
    Ok(paired_bootstrap(&[differences.as_slice()], users, resamples, CONFIDENCE, seed)?.interval)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_near_the_last_items_comes_first() {
        let vectors = Vectors::new(2, [vec![1.0, 0.0], vec![0.9, 0.1], vec![0.0, 1.0], vec![0.1, 0.9], vec![0.0]]);
        let user = Asked { history: vec![0], met: vec![0], next: vec![1, 2, 4] };
        let by_history = |_: usize| Some(vectors.sum(&user.history));
        // The item without a vector and the third have the same product.
        assert_eq!(ranks(&vectors, std::slice::from_ref(&user), by_history), [0.0, 2.5, 2.5]);
        assert_eq!(ranks(&vectors, std::slice::from_ref(&user), |_| None), [1.5, 1.5, 1.5]);
        let means = found(&[0.0, 1.0, 9.5, 30.0]);
        assert!((means.mrr - (1.0 + 0.5 + 1.0 / 10.5 + 1.0 / 31.0) / 4.0).abs() < 1e-12);
        assert_eq!(means.recall_10, 0.75);
        let interval = difference(&[0.0; 4], &[1.0; 4], &[0, 0, 1, 2], 50, 1).unwrap();
        assert_eq!((interval.mean, interval.low, interval.high), (0.5, 0.5, 0.5));
    }

    #[test]
    fn vectors_stand_beside_each_other_and_are_scaled_alike() {
        let vectors = Vectors::new(2, [vec![3.0, 4.0], vec![0.0, 0.0]]);
        let scaled = vectors.of_mean_length_one();
        assert!((scaled.of(0)[0] - 0.6 * 2.0_f32.sqrt()).abs() < 1e-6);
        assert_eq!(vectors.beside(&vectors).of(0), [3.0, 4.0, 3.0, 4.0]);
        assert!(Vectors::new(2, [vec![0.0; 2]]).of_mean_length_one().of(0).iter().all(|x| *x == 0.0));
    }
}
