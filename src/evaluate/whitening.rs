//! Content vectors made narrow: principal components, each scaled to variance one, the scale and the directions learned
//! from some of the vectors and applied to all.
//!
//! Knows vectors only. Used before the adaptor, which learns faster from independent inputs of like size
//! (Su et al., arXiv 2103.15316).

use crate::error::{Error, Kind, Result};

/// Rotations stop when what stands beside the diagonal is so small against what stands on it.
const OFF_DIAGONAL: f64 = 1e-18;
/// Sweeps after which a matrix is given up; a dozen is usual.
const MAX_SWEEPS: usize = 60;
/// Directions with a smaller share of the largest variance hold nothing but rounding.
const NEGLIGIBLE: f64 = 1e-9;

/// A learned projection.
#[derive(Debug, Clone, PartialEq)]
pub struct Whitening {
    mean: Vec<f64>,
    /// `[kept, input]`, the direction of the largest variance first, divided by its deviation.
    directions: Vec<Vec<f64>>,
    width: usize,
}

impl Whitening {
    /// Learns from `fitted`, all of one width, a projection to `width` values. Where there are fewer directions with
    /// variance, the last values are zero.
    ///
    /// # Errors
    /// `Kind::Input` for fewer than two vectors, different widths, or values that are not numbers.
    pub fn fit(fitted: &[&[f32]], width: usize) -> Result<Self> {
        let input = fitted.first().map_or(0, |v| v.len());
        let is_sound = |v: &&[f32]| v.len() == input && v.iter().all(|x| x.is_finite());
        if fitted.len() < 2 || input == 0 || !fitted.iter().all(is_sound) {
            return Err(Error::new(
                Kind::Input,
                "principal components want two vectors of one width or more, all finite",
            )
            .with("vectors", fitted.len()));
        }
        let n = fitted.len() as f64;
        let mut mean = vec![0.0; input];
        for vector in fitted {
            mean.iter_mut().zip(*vector).for_each(|(m, x)| *m += f64::from(*x) / n);
        }
        let mut covariance = vec![vec![0.0; input]; input];
        for vector in fitted {
            let centred: Vec<f64> = vector.iter().zip(&mean).map(|(x, m)| f64::from(*x) - m).collect();
            for (row, a) in covariance.iter_mut().zip(&centred) {
                row.iter_mut().zip(&centred).for_each(|(c, b)| *c += a * b / (n - 1.0));
            }
        }
        let mut found = eigen(covariance);
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        let least = found.first().map_or(0.0, |f| f.0) * NEGLIGIBLE;
        let kept = found.into_iter().take(width).filter(|(variance, _)| *variance > least && *variance > 0.0);
        let directions = kept
            .map(|(variance, mut direction)| {
                // Of the two directions along a line, the one whose largest part is positive: the same on every machine.
                let largest = direction.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(1.0);
                let scale = largest.signum() / variance.sqrt();
                direction.iter_mut().for_each(|x| *x *= scale);
                direction
            })
            .collect();
        Ok(Whitening { mean, directions, width })
    }

    /// Projects a vector; its mean over what was fitted is zero, its variance one. A vector of another width counts as
    /// cut or filled up with means.
    pub fn apply(&self, vector: &[f32]) -> Vec<f32> {
        let centred: Vec<f64> = self.mean.iter().zip(vector).map(|(m, x)| f64::from(*x) - m).collect();
        let mut out: Vec<f32> =
            self.directions.iter().map(|d| d.iter().zip(&centred).map(|(a, b)| a * b).sum::<f64>() as f32).collect();
        out.resize(self.width, 0.0);
        out
    }
}

/// Eigenvalues and eigenvectors of a symmetric matrix, in no order: Jacobi's cyclic rotations (Golub and Van Loan, Matrix
/// Computations, 8.5), which are slow for large matrices and exact for small ones.
fn eigen(mut a: Vec<Vec<f64>>) -> Vec<(f64, Vec<f64>)> {
    let n = a.len();
    // Row j is the j-th eigenvector, so that rotations work on whole rows.
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..MAX_SWEEPS {
        let (mut off, mut on) = (0.0, 0.0);
        for (i, row) in a.iter().enumerate() {
            on += row[i] * row[i];
            off += row[i + 1..].iter().map(|x| x * x).sum::<f64>();
        }
        if off <= OFF_DIAGONAL * on {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = a[p][q];
                if apq * apq <= OFF_DIAGONAL * (a[p][p] * a[q][q]).abs() / n as f64 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in &mut a {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                rotate(&mut a, p, q, c, s);
                rotate(&mut vectors, p, q, c, s);
            }
        }
    }
    vectors.into_iter().enumerate().map(|(i, vector)| (a[i][i], vector)).collect()
}

/// Turns rows `p < q` into each other.
fn rotate(rows: &mut [Vec<f64>], p: usize, q: usize, c: f64, s: f64) {
    let (head, tail) = rows.split_at_mut(q);
    for (x, y) in head[p].iter_mut().zip(&mut tail[0]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::needless_range_loop)]
    use super::*;
    use crate::network::random::Random;

    #[test]
    fn eigenvectors_make_the_matrix_again() {
        let n = 24;
        let mut random = Random::new(1, "matrix");
        let mut matrix = vec![vec![0.0; n]; n];
        for i in 0..n {
            for j in 0..=i {
                (matrix[i][j], matrix[j][i]) = {
                    let x = random.normal();
                    (x, x)
                };
            }
        }
        let found = eigen(matrix.clone());
        for i in 0..n {
            for j in 0..n {
                let again: f64 = found.iter().map(|(value, vector)| value * vector[i] * vector[j]).sum();
                assert!((again - matrix[i][j]).abs() < 1e-9, "{i} {j}: {again} for {}", matrix[i][j]);
                let product: f64 = found[i].1.iter().zip(&found[j].1).map(|(a, b)| a * b).sum();
                assert!((product - f64::from(u8::from(i == j))).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn whitened_vectors_are_uncorrelated_and_of_variance_one() {
        let mut random = Random::new(2, "vectors");
        let vectors: Vec<Vec<f32>> = (0..500)
            .map(|_| {
                let [a, b, c] = [random.normal(), random.normal(), random.normal()];
                [5.0 + 3.0 * a, a + 0.1 * b, b - 7.0, c, a + c].map(|x| x as f32).to_vec()
            })
            .collect();
        let fitted: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
        let whitening = Whitening::fit(&fitted, 4).unwrap();
        let out: Vec<Vec<f32>> = vectors.iter().map(|v| whitening.apply(v)).collect();
        for i in 0..4 {
            for j in 0..4 {
                let moment = |of: &dyn Fn(&Vec<f32>) -> f64| out.iter().map(of).sum::<f64>() / 499.0;
                let covariance = moment(&|v| f64::from(v[i]) * f64::from(v[j]));
                // Three directions have variance; the fourth value is zero.
                let expected = f64::from(u8::from(i == j && i < 3));
                assert!((covariance - expected).abs() < 1e-3, "{i} {j}: {covariance}");
                assert!(moment(&|v| f64::from(v[i])).abs() < 1e-3);
            }
        }
        assert_eq!(whitening, Whitening::fit(&fitted, 4).unwrap());
    }

    #[test]
    fn a_projection_learns_from_what_it_is_shown_alone() {
        let (shown, other) = ([[1.0_f32, 0.0], [-1.0, 0.0], [0.0, 2.0]], [1e6_f32, -3.0]);
        let fitted: Vec<&[f32]> = shown.iter().map(|v| v.as_slice()).collect();
        let whitening = Whitening::fit(&fitted, 2).unwrap();
        assert!(whitening.apply(&other)[0].abs() > 1e5 || whitening.apply(&other)[1].abs() > 1e5);
        assert!(Whitening::fit(&fitted[..1], 2).is_err());
        assert!(Whitening::fit(&[&[f32::NAN], &[1.0]], 1).is_err());
        assert!(Whitening::fit(&[&[1.0, 2.0], &[1.0]], 1).is_err());
        let same = Whitening::fit(&[&[1.0], &[1.0]], 2).unwrap();
        assert_eq!(same.apply(&[1.0]), [0.0, 0.0], "no direction has variance");
    }
}
