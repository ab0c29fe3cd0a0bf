//! The space of co-consumption: items as vectors, near each other where the same users have met them.
//!
//! Positive pointwise mutual information of pairs, shrunk by how often a pair was met, and its leading eigenvectors,
//! each scaled by the root of its eigenvalue: word vectors made of items (Levy and Goldberg 2014, arXiv 1402.3722;
//! Barkan and Koenigstein 2016, arXiv 1603.04259). The eigenvectors come from randomised subspace iteration (Halko,
//! Martinsson and Tropp 2011, algorithm 4.4). The same pairs and seed give the same bits on any number of threads: each
//! column is worked out by one of them.
//!
//! Knows numbers of items and weights of pairs; knows nothing of texts, ids or logs.

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::network::random::Random;
use crate::project::linear::{dot, eigen};

/// Values of a vector of this space, and of the column that is published.
pub const WIDTH: usize = 32;

/// Weights of pairs are whole numbers of this, so that their sums do not depend on the order.
pub const UNIT: f64 = 1e6;

/// Directions beside those that are kept, which make these more exact.
const BESIDE: usize = 16;
/// Times that the matrix is applied.
const ROUNDS: usize = 8;
/// Directions shorter than this share of what they were are rounding.
const NEGLIGIBLE: f64 = 1e-10;

/// How often two items were met by the same user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// One item's number.
    pub a: u32,
    /// The other's, which is greater.
    pub b: u32,
    /// Sum over users, in millionths ([`UNIT`]); a user of n items gives each of the pairs 1/n.
    pub weight: i64,
}

/// A symmetric matrix: what stands in each row.
struct Rows {
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f64>,
}

impl Rows {
    /// Of `ln(c · C / (c_a · c_b))` where that is above 0, times `c / (c + shrinkage)`; `c` is a pair's weight, `c_a`
    /// and `c_b` are those of all pairs of its items, `C` that of all.
    fn new(items: usize, pairs: &[Pair], shrinkage: f64) -> Rows {
        let mut sums = vec![0_i64; items];
        for pair in pairs {
            sums[pair.a as usize] += pair.weight;
            sums[pair.b as usize] += pair.weight;
        }
        let all = sums.iter().sum::<i64>() as f64;
        let value = |pair: &Pair| {
            let [a, b] = [pair.a, pair.b].map(|item| sums[item as usize] as f64);
            let c = pair.weight as f64;
            ((c / a) * (all / b)).ln().max(0.0) * c / (c + shrinkage * UNIT)
        };
        let mut starts = vec![0; items + 1];
        for pair in pairs {
            starts[pair.a as usize + 1] += 1;
            starts[pair.b as usize + 1] += 1;
        }
        for item in 0..items {
            starts[item + 1] += starts[item];
        }
        let mut next = starts.clone();
        let (mut columns, mut values) = (vec![0; pairs.len() * 2], vec![0.0; pairs.len() * 2]);
        for pair in pairs {
            for (row, column) in [(pair.a, pair.b), (pair.b, pair.a)] {
                let place = &mut next[row as usize];
                (columns[*place], values[*place]) = (column, value(pair));
                *place += 1;
            }
        }
        Rows { starts, columns, values }
    }

    /// The matrix times a column.
    fn times(&self, column: &[f64]) -> Vec<f64> {
        let row = |bounds: &[usize]| {
            let range = bounds[0]..bounds[1];
            let parts = self.columns[range.clone()].iter().zip(&self.values[range]);
            parts.map(|(other, value)| value * column[*other as usize]).sum()
        };
        self.starts.windows(2).map(row).collect()
    }
}

/// Makes columns perpendicular and of length 1 (Gram and Schmidt, modified, twice); a column that lies in those before
/// it becomes zero.
fn orthonormal(columns: &mut [Vec<f64>]) {
    for _ in 0..2 {
        for i in 0..columns.len() {
            let (done, later) = columns.split_at_mut(i + 1);
            let own = &mut done[i];
            let length = dot(own, own).sqrt();
            let scale = if length > NEGLIGIBLE { 1.0 / length } else { 0.0 };
            own.iter_mut().for_each(|x| *x *= scale);
            let own = &*own;
            later.par_iter_mut().for_each(|other| {
                let along = dot(own, other);
                other.iter_mut().zip(own).for_each(|(x, y)| *x -= along * y);
            });
        }
    }
}

/// At most `kept` leading eigenvectors of a symmetric matrix of `n` rows, each of length 1 with its eigenvalue, which is above 0; the
/// largest first. `times` is the matrix times a column.
pub fn leading(n: usize, kept: usize, seed: u64, times: &(dyn Fn(&[f64]) -> Vec<f64> + Sync)) -> Vec<(f64, Vec<f64>)> {
    let first = |column: usize| {
        let mut random = Random::numbered(seed, column as u64);
        (0..n).map(|_| random.normal()).collect()
    };
    let mut columns: Vec<Vec<f64>> = (0..(kept + BESIDE).min(n)).into_par_iter().map(first).collect();
    orthonormal(&mut columns);
    for _ in 0..ROUNDS {
        columns = columns.par_iter().map(|column| times(column)).collect();
        // Scaled first, so that what is negligible does not depend on how large the matrix is.
        let longest = columns.iter().map(|c| dot(c, c)).fold(0.0, f64::max).sqrt();
        if longest > 0.0 {
            columns.iter_mut().flatten().for_each(|x| *x /= longest);
        }
        orthonormal(&mut columns);
    }
    let applied: Vec<Vec<f64>> = columns.par_iter().map(|column| times(column)).collect();
    // Symmetric to the last bit: the mean of both ways.
    let both = |(a, applied_a): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
        columns.iter().zip(&applied).map(|(b, applied_b)| (dot(a, applied_b) + dot(b, applied_a)) / 2.0).collect()
    };
    let within: Vec<Vec<f64>> = columns.par_iter().zip(&applied).map(both).collect();
    let mut found = eigen(within);
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let least = found.first().map_or(0.0, |(value, _)| *value) * NEGLIGIBLE;
    let positive = found.into_iter().take(kept).filter(|(value, _)| *value > least && *value > 0.0);
    let directed = |(value, parts): (f64, Vec<f64>)| {
        let mut direction = vec![0.0; n];
        for (column, part) in columns.iter().zip(parts) {
            direction.iter_mut().zip(column).for_each(|(to, x)| *to += part * x);
        }
        // Of the two directions along a line, the one whose largest part is positive: the same on every machine.
        let largest = direction.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(1.0);
        direction.iter_mut().for_each(|x| *x *= largest.signum());
        (value, direction)
    };
    positive.map(directed).collect()
}

/// A vector of [`WIDTH`] values for each item, one after the other; zeros for an item without a pair that says
/// something. Where there are fewer directions, the last values are zeros. The mean square of the lengths of those that
/// are not zero is 1.
///
/// # Errors
/// `Kind::Internal` for pairs of items that are not there, or that do not weigh anything.
pub fn item_vectors(items: usize, pairs: &[Pair], shrinkage: f64, seed: u64) -> Result<Vec<f64>> {
    let is_sound = |pair: &Pair| pair.a < pair.b && (pair.b as usize) < items && pair.weight > 0;
    if !pairs.iter().all(is_sound) {
        return Err(Error::new(Kind::Internal, "pairs of items are not what they should be"));
    }
    let rows = Rows::new(items, pairs, shrinkage);
    let kept = leading(items, WIDTH, seed, &|column| rows.times(column));
    let mut vectors = vec![0.0; items * WIDTH];
    for (place, (value, direction)) in kept.iter().enumerate() {
        let scale = value.sqrt();
        for (vector, x) in vectors.chunks_exact_mut(WIDTH).zip(direction) {
            vector[place] = x * scale;
        }
    }
    // Items without a pair have rounding in them.
    for (item, vector) in vectors.chunks_exact_mut(WIDTH).enumerate() {
        if rows.starts[item] == rows.starts[item + 1] {
            vector.fill(0.0);
        }
    }
    let lengths: Vec<f64> = vectors.chunks_exact(WIDTH).map(|v| dot(v, v)).filter(|length| *length > 0.0).collect();
    if !lengths.is_empty() {
        let scale = (lengths.iter().sum::<f64>() / lengths.len() as f64).sqrt();
        vectors.iter_mut().for_each(|x| *x /= scale);
    }
    Ok(vectors)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Two groups of items that nobody mixes, but for one pair.
    fn pairs(items: u32) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for a in 0..items {
            for b in a + 1..items {
                let is_mixed = (a < items / 2) != (b < items / 2);
                if !is_mixed || (a, b) == (0, items - 1) {
                    pairs.push(Pair { a, b, weight: if is_mixed { 100_000 } else { 2_000_000 + i64::from(a * b) } });
                }
            }
        }
        pairs
    }

    fn cosine(vectors: &[f64], a: usize, b: usize) -> f64 {
        let of = |item: usize| &vectors[item * WIDTH..(item + 1) * WIDTH];
        dot(of(a), of(b)) / (dot(of(a), of(a)) * dot(of(b), of(b))).sqrt()
    }

    #[test]
    fn items_that_go_together_are_near_each_other() {
        let vectors = item_vectors(20, &pairs(20), 0.5, 1).unwrap();
        assert!(cosine(&vectors, 1, 2) > cosine(&vectors, 1, 12) + 0.3);
        assert!(cosine(&vectors, 11, 12) > cosine(&vectors, 1, 12) + 0.3);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| item_vectors(60, &pairs(60), 0.5, 7).unwrap())
        };
        let one = with(1);
        assert!(one.iter().zip(with(3)).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    #[test]
    fn who_was_met_alone_has_no_place() {
        let vectors = item_vectors(22, &pairs(20), 0.5, 1).unwrap();
        assert!(vectors[20 * WIDTH..].iter().all(|x| *x == 0.0));
        assert!(item_vectors(3, &[], 0.5, 1).unwrap().iter().all(|x| *x == 0.0));
        assert!(item_vectors(0, &[], 0.5, 1).unwrap().is_empty());
        assert!(item_vectors(2, &[Pair { a: 0, b: 2, weight: 1 }], 0.5, 1).is_err());
        let square = |v: &[f64]| dot(v, v);
        let mean = vectors[..20 * WIDTH].chunks_exact(WIDTH).map(square).sum::<f64>() / 20.0;
        assert!((mean - 1.0).abs() < 1e-9, "{mean}");
    }
}
