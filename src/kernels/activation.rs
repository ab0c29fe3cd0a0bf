//! Activations: SwiGLU with its gradient, GELU alone, and GELU with its derivative.
//!
//! Knows numbers only; every value depends on its own inputs.

use rayon::prelude::*;

use crate::kernels::arithmetic::{erf, exp, fma};
use crate::kernels::isa::{Isa, per_isa};
use crate::kernels::rows::{TRAINED_ROWS, rows_per_task};

#[inline(always)]
fn swiglu_body<const FMA: bool>(gate_up: &[f32], width: usize, out: &mut [f32]) {
    for (both, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gate, up) = both.split_at(width);
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + exp::<FMA>(-g)) * u;
        }
    }
}

per_isa! { fn swiglu_rows = swiglu_body::<ROUNDS_TWICE>(gate_up: &[f32], width: usize, out: &mut [f32]) }

/// `silu(gate) · up` of every row; `gate_up` is `[n, 2 · width]`, gates first, `out` `[n, width]`.
///
/// # Panics
/// Where the slices do not fit each other.
pub fn swiglu(isa: Isa, gate_up: &[f32], width: usize, out: &mut [f32]) {
    assert!(gate_up.len() == 2 * out.len() && out.len().is_multiple_of(width), "rows must be whole");
    let chunk = rows_per_task(width) * width;
    let tasks = out.par_chunks_mut(chunk).zip(gate_up.par_chunks(2 * chunk));
    tasks.for_each(|(out, gate_up)| swiglu_rows(isa, gate_up, width, out));
}

#[inline(always)]
fn swiglu_back_body<const FMA: bool>(gate_up: &mut [f32], width: usize, dy: &[f32]) {
    for (both, dy) in gate_up.chunks_exact_mut(2 * width).zip(dy.chunks_exact(width)) {
        let (gate, up) = both.split_at_mut(width);
        for ((g, u), dy) in gate.iter_mut().zip(up).zip(dy) {
            let sigmoid = 1.0 / (1.0 + exp::<FMA>(-*g));
            let silu = *g * sigmoid;
            // silu' = σ + silu · (1 − σ)
            *g = dy * *u * fma::<FMA>(silu, 1.0 - sigmoid, sigmoid);
            *u = dy * silu;
        }
    }
}

per_isa! { fn swiglu_back_rows = swiglu_back_body::<ROUNDS_TWICE>(gate_up: &mut [f32], width: usize, dy: &[f32]) }

/// Replaces `gate_up` `[n, 2 · width]` by its gradient, given that of [`swiglu`]'s output.
///
/// # Panics
/// Where the slices do not fit each other.
pub fn swiglu_back(isa: Isa, gate_up: &mut [f32], width: usize, dy: &[f32]) {
    assert!(gate_up.len() == 2 * dy.len(), "rows must fit");
    let chunk = TRAINED_ROWS * width;
    let tasks = gate_up.par_chunks_mut(2 * chunk).zip(dy.par_chunks(chunk));
    tasks.for_each(|(gate_up, dy)| swiglu_back_rows(isa, gate_up, width, dy));
}

#[inline(always)]
fn gelu_body<const FMA: bool>(x: &mut [f32]) {
    for x in x {
        *x = 0.5 * *x * (1.0 + erf::<FMA>(*x * std::f32::consts::FRAC_1_SQRT_2));
    }
}

per_isa! {
    /// GELU in place, x Φ(x), on this thread.
    pub(crate) fn gelu = gelu_body::<FUSES_ON_ARM>(x: &mut [f32])
}

#[inline(always)]
fn gelu_with_derivative_body<const FMA: bool>(x: &mut [f32], bias: &[f32], out: &mut [f32]) {
    // Φ through the complementary error function of Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7), which
    // shares its exponential with the density that the derivative needs.
    const A: [f32; 4] = [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6];
    for (x, out) in x.chunks_exact_mut(bias.len()).zip(out.chunks_exact_mut(bias.len())) {
        for ((x, out), b) in x.iter_mut().zip(out).zip(bias) {
            let v = *x + b;
            let size = v.abs();
            let bell = exp::<FMA>(-0.5 * v * v);
            let t = 1.0 / fma::<FMA>(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2, size, 1.0);
            let mut p = 1.061_405_4;
            for a in A {
                p = fma::<FMA>(p, t, a);
            }
            let tail = 0.5 * p * t * bell;
            let cumulative = if v < 0.0 { tail } else { 1.0 - tail };
            *out = v * cumulative;
            *x = fma::<FMA>(v * bell, 0.398_942_3, cumulative);
        }
    }
}

per_isa! {
    /// GELU of `x + bias`, x Φ(x), into `out`, and its derivative into `x`; on this thread.
    pub(crate) fn gelu_with_derivative = gelu_with_derivative_body::<FUSES_ON_ARM>(
        x: &mut [f32], bias: &[f32], out: &mut [f32],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::arithmetic::noise;

    #[test]
    fn swiglu_is_right() {
        for isa in Isa::available() {
            for width in [1, 8, 31, 64, 100, 576] {
                let both = noise(2 * 9 * width, 6);
                let mut out = vec![0.0; 9 * width];
                swiglu(isa, &both, width, &mut out);
                for (both, out) in both.chunks(2 * width).zip(out.chunks(width)) {
                    for i in 0..width {
                        let (g, u) = (f64::from(both[i]), f64::from(both[width + i]));
                        assert!((f64::from(out[i]) - g / (1.0 + (-g).exp()) * u).abs() < 1e-6);
                    }
                }
            }
        }
    }

    #[test]
    fn gelu_follows_its_definition_and_has_the_right_derivative() {
        // Φ by its series, in f64.
        let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let phi = |x: f64| {
            let (mut term, mut total, mut k) = (x, x, 1.0);
            while term.abs() > 1e-18 {
                term *= x * x / (2.0 * k + 1.0);
                total += term;
                k += 1.0;
            }
            0.5 + total * density(x)
        };
        for isa in Isa::available() {
            for i in -600..=600i32 {
                let x = i as f32 / 100.0;
                let wide = f64::from(x);
                let exact = wide * phi(wide);
                let mut plain = [x];
                gelu(isa, &mut plain);
                assert!((f64::from(plain[0]) - exact).abs() < 2e-6, "{isa:?} {x}: {} {exact}", plain[0]);
                let (mut slope, mut out) = ([x - 0.5], [0.0]);
                gelu_with_derivative(isa, &mut slope, &[0.5], &mut out);
                assert!((f64::from(out[0]) - exact).abs() < 3e-6, "{isa:?} {x}: {} {exact}", out[0]);
                let exact = phi(wide) + wide * density(wide);
                assert!((f64::from(slope[0]) - exact).abs() < 3e-6, "{isa:?} {x}: {} {exact}", slope[0]);
            }
        }
    }
}
