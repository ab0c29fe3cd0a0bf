//! Arithmetic that every kernel shares: multiply-add, the exponential, the error function, sums in a fixed order.
//!
//! Knows single numbers and slices. Everything is inlined into the loops of other files, where the compiler turns it
//! into vector instructions; there are no branches and no calls.

/// Lanes of [`tree_sum`].
pub(crate) const LANES: usize = 32;
/// Lanes of [`strand_sum`].
const STRANDS: usize = 8;

/// `a · b + c`, in one rounding where the processor can: elsewhere a fused operation would be a slow library call.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Adding it rounds a small number to a whole one and leaves that in the low bits: 1.5 · 2^23.
const ROUNDER: f32 = 12_582_912.0;

/// e to the power of `x`, to about two units in the last place; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Comparisons this way round let NaN through.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    power::<FMA>(x, fma::<FMA>(x, std::f32::consts::LOG2_E, ROUNDER), 1.398_199_9e-3)
}

/// e to the power of `x` ≤ 0 as the sentence encoder has it; NaN counts as −87.
///
/// It rounds `x · log2(e)` before it looks for the nearest whole number, and one coefficient is the next float. The
/// last bit differs from that of [`exp`] for a few arguments, and published vectors depend on it.
#[inline(always)]
pub(crate) fn exp_in_encoder<const FMA: bool>(x: f32) -> f32 {
    let x = x.max(-87.0);
    power::<FMA>(x, x * std::f32::consts::LOG2_E + ROUNDER, 1.398_2e-3)
}

/// e^x from `shifted`, which is `x · log2(e)` rounded by [`ROUNDER`]; the polynomial is that of Cephes' `expf`.
#[inline(always)]
fn power<const FMA: bool>(x: f32, shifted: f32, fifth: f32) -> f32 {
    let n = shifted - ROUNDER;
    let r = fma::<FMA>(n, -0.693_359_4, x);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [fifth, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = fma::<FMA>(p, r, c);
    }
    let y = fma::<FMA>(p, r * r, r) + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// The error function: a rational approximation (Eigen's) within a few units in the last place.
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    const P: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const Q: [f32; 5] = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_473_9e-2];
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut p = P[0];
    for &c in &P[1..] {
        p = fma::<FMA>(p, square, c);
    }
    let mut q = Q[0];
    for &c in &Q[1..] {
        q = fma::<FMA>(q, square, c);
    }
    x * p / q
}

/// Adds up lanes by halves.
#[inline(always)]
pub(crate) fn tree_sum(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `Σ f(x)` in eight strands, which a compiler keeps in one vector; its order depends on the length only.
#[inline(always)]
pub(crate) fn strand_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut strands = [0.0f32; STRANDS];
    let chunks = x.chunks_exact(STRANDS);
    let rest: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
    for chunk in chunks {
        for (s, &v) in strands.iter_mut().zip(chunk) {
            *s += f(v);
        }
    }
    strands.iter().sum::<f32>() + rest
}

/// `Σ a · b` in the order of [`strand_sum`], each product rounded.
#[inline(always)]
pub(crate) fn strand_dot(a: &[f32], b: &[f32]) -> f32 {
    let mut strands = [0.0f32; STRANDS];
    let (a, b) = (a.chunks_exact(STRANDS), b.chunks_exact(STRANDS));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for ((s, a), b) in strands.iter_mut().zip(a).zip(b) {
            *s += a * b;
        }
    }
    strands.iter().sum::<f32>() + rest
}

/// The largest value; minus infinity where there is none. NaN is passed over.
#[inline(always)]
pub(crate) fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane = if *v > *lane { *v } else { *lane };
    }
    lanes.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
}

/// `out += factor · x`.
#[inline(always)]
pub(crate) fn add_scaled<const FMA: bool>(out: &mut [f32], factor: f32, x: &[f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = fma::<FMA>(factor, *x, *out));
}

/// Numbers in -1..1 that look random and are the same everywhere.
#[cfg(test)]
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_close_and_keep_nan() {
        for x in [-100.0f32, -87.0, -20.5, -1.0, -1e-6, 0.0, 0.3, 1.0, 10.25, 80.0] {
            for got in [exp::<true>(x), exp::<false>(x)] {
                let want = f64::from(x.max(-87.0)).exp();
                assert!((f64::from(got) / want - 1.0).abs() < 4e-7, "{x}: {got} {want}");
            }
        }
        assert!(exp::<true>(f32::NAN).is_nan());
        assert!(exp::<true>(1000.0).is_finite());
    }

    #[test]
    fn the_encoders_exponential_follows_the_definition() {
        for i in -600..=600i32 {
            let x = -(i.unsigned_abs() as f32) / 8.0;
            let exact = f64::from(x).exp();
            for y in [exp_in_encoder::<false>(x), exp_in_encoder::<true>(x)] {
                assert!((f64::from(y) - exact).abs() <= 1e-6 * exact, "{x}: {y} {exact}");
            }
        }
    }

    /// The bits of `exp_in_encoder` as they were when the first vectors were published: rounding by the library.
    #[test]
    fn the_encoders_exponential_keeps_its_bits() {
        fn before<const FMA: bool>(x: f32) -> f32 {
            let x = x.max(-87.0);
            let n = (x * std::f32::consts::LOG2_E).round_ties_even();
            let r = fma::<FMA>(n, -0.693_359_4, x);
            let r = fma::<FMA>(n, 2.121_944_4e-4, r);
            let mut p = 1.987_569_1e-4;
            for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
                p = fma::<FMA>(p, r, c);
            }
            let p = fma::<FMA>(p, r * r, r) + 1.0;
            p * f32::from_bits(((n as i32 + 127) << 23) as u32)
        }
        // Some of those for which `exp` gives another last bit, and a walk over all magnitudes.
        let known = [-1.7463045e-1f32, -2.0187129e-1, -2.2764878e-1, -3.4099716e-1, -4.6579674e-1, f32::NAN];
        let walk = ((-0.0f32).to_bits()..(-100.0f32).to_bits()).step_by(10_007).map(f32::from_bits);
        for x in known.into_iter().chain(walk) {
            assert_eq!(exp_in_encoder::<true>(x).to_bits(), before::<true>(x).to_bits(), "{x}");
            assert_eq!(exp_in_encoder::<false>(x).to_bits(), before::<false>(x).to_bits(), "{x}");
        }
    }
}
