//! Random numbers that depend only on a seed and a name or number, so that computations can be repeated and resumed,
//! and the order of work does not matter.
//!
//! SplitMix64 (Steele, Lea, Flood 2014): a few multiplications per number, with random access. Knows nothing of its
//! use. Not cryptographically secure.

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Random {
    /// The stream of a seed and a name; streams with other names are independent.
    pub fn new(seed: u64, name: &str) -> Self {
        let name =
            name.bytes().fold(0xCBF2_9CE4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
        Random(mix(mix(seed.wrapping_add(STEP)) ^ name))
    }

    /// The stream of a seed and a number, for numerous streams without names.
    pub fn numbered(seed: u64, number: u64) -> Self {
        // Both are mixed, so that neighbouring seeds and numbers do not give shifted copies of one stream.
        Random(mix(mix(seed.wrapping_add(STEP)) ^ number.wrapping_mul(STEP)))
    }

    /// The `n`-th stream derived from this one.
    pub fn child(&self, n: u64) -> Self {
        Random(mix(self.0 ^ mix(n.wrapping_add(STEP))))
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number in `0..n`; 0 for `n` = 0. The bias is below 2^-32 for `n` below 2^32.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// A number in (0, 1).
    pub fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number of the standard normal distribution (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Shuffles values (Fisher and Yates).
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            values.swap(i, self.below(i + 1));
        }
    }

    /// A dropout mask: every value is 0 with `probability`, else 1 / (1 − probability); probabilities are rounded to 1
    /// / 65536.
    pub fn dropout(&mut self, mask: &mut [f32], probability: f64) {
        let threshold = (probability.clamp(0.0, 1.0) * 65536.0).round() as u64;
        let scale = 65536.0 / (65536 - threshold.min(65535)) as f32;
        for four in mask.chunks_mut(4) {
            let mut bits = self.bits();
            for value in four {
                *value = if bits & 0xFFFF < threshold { 0.0 } else { scale };
                bits >>= 16;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_name() {
        let draw = |seed, name| (0..4).map(|_| 0).scan(Random::new(seed, name), |r, _: i32| Some(r.bits())).collect();
        let (a, b, c, d): (Vec<u64>, Vec<u64>, Vec<u64>, Vec<u64>) =
            (draw(1, "x"), draw(1, "x"), draw(2, "x"), draw(1, "y"));
        assert_eq!(a, b);
        assert!(a != c && a != d && c != d);
        assert_ne!(Random::new(1, "x").child(0).bits(), Random::new(1, "x").child(1).bits());
        let numbered = |seed, number| Random::numbered(seed, number).bits();
        assert_eq!(numbered(1, 2), numbered(1, 2));
        assert!(
            numbered(1, 2) != numbered(1, 3) && numbered(1, 2) != numbered(2, 2) && numbered(1, 2) != numbered(2, 1)
        );
    }

    #[test]
    fn numbers_have_the_moments_that_they_should() {
        let mut random = Random::new(7, "moments");
        let n = 100_000i64;
        let normals: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let mean = normals.iter().sum::<f64>() / n as f64;
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let mut seen = [0i64; 7];
        (0..n).for_each(|_| seen[random.below(7)] += 1);
        assert!(seen.iter().all(|s| (s - n / 7).abs() < 600), "{seen:?}");
        let mut mask = vec![0.0; n as usize + 3];
        random.dropout(&mut mask, 0.2);
        let kept = mask.iter().filter(|m| **m > 0.0).count() as f64 / mask.len() as f64;
        let mean = mask.iter().sum::<f32>() / mask.len() as f32;
        assert!((kept - 0.8).abs() < 0.01 && (mean - 1.0).abs() < 0.01, "{kept} {mean}");
        random.dropout(&mut mask, 0.0);
        assert!(mask.iter().all(|m| *m == 1.0));
        let mut order: Vec<usize> = (0..50).collect();
        random.shuffle(&mut order);
        assert!(!order.is_sorted());
        order.sort_unstable();
        assert!(order.into_iter().eq(0..50));
    }
}
