//! Content vectors made narrow: principal components, each scaled to variance one, the scale and the directions learned
//! from some of the vectors and applied to all.
//!
//! Knows vectors only. Used before the adaptor, which learns faster from independent inputs of like size
//! (Su et al., arXiv 2103.15316).

use crate::error::{Error, Kind, Result};
use crate::project::linear::eigen;

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::needless_range_loop)]
    use super::*;
    use crate::network::random::Random;

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
