//! Weights in fewer than 32 bits, as model files keep them: packed in panels, and widened to f32 a stretch at a time.
//!
//! Knows numbers only: no file formats, tensors or layers. A widened value has the very bits that its definition gives in f32, so a
//! product does not depend on how its weights are kept.

use rayon::prelude::*;

use crate::kernels::isa::{Isa, Level, per_isa};

/// Lines of a panel that are widened together: they stay in a core's first-level cache.
pub(super) const STRETCH: usize = 256;

/// A matrix `[rows, columns]` in groups of columns: `value = quant · scale + minimum`, rounded after each step.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantised {
    /// Columns of the matrix; whole groups.
    pub columns: usize,
    /// Columns that share a scale and a minimum; a divisor of 256.
    pub group: usize,
    /// The least quant, where all of them fit 4 bits from there on.
    pub four_bits_from: Option<i8>,
    /// `[rows, columns]`.
    pub quants: Vec<i8>,
    /// `[rows, columns / group]`.
    pub scales: Vec<f32>,
    /// As many as scales; empty where nothing is added.
    pub minima: Vec<f32>,
}

/// What the bits of a 16-bit float mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// IEEE's binary16. Infinities and NaN are not widened rightly: keep such matrices in f32.
    Binary16,
    /// The upper half of an f32 (bfloat16).
    Brain,
}

/// A matrix in the form in which it is kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Matrix {
    /// Row by row.
    Full(Vec<f32>),
    /// Row by row, 16 bits each.
    Halves(Half, Vec<u16>),
    /// In groups with a scale.
    Quantised(Quantised),
}

impl Matrix {
    /// How many values it holds.
    pub fn len(&self) -> usize {
        match self {
            Matrix::Full(values) => values.len(),
            Matrix::Halves(_, values) => values.len(),
            Matrix::Quantised(quantised) => quantised.quants.len(),
        }
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its values where they are kept in f32; else none.
    pub fn full(&self) -> &[f32] {
        if let Matrix::Full(values) = self { values } else { &[] }
    }

    /// Its values in f32, row by row.
    pub fn widened(self) -> Vec<f32> {
        match self {
            Matrix::Full(values) => values,
            Matrix::Halves(half, values) => values.into_par_iter().map(|v| half.widen(v)).collect(),
            Matrix::Quantised(q) => {
                let minimum = |group: usize| q.minima.get(group).copied();
                let value = |(at, quant): (usize, &i8)| {
                    let product = f32::from(*quant) * q.scales[at / q.group];
                    minimum(at / q.group).map_or(product, |minimum| product + minimum)
                };
                q.quants.par_iter().enumerate().map(value).collect()
            }
        }
    }
}

impl Half {
    /// One value in f32.
    #[inline(always)]
    fn widen(self, bits: u16) -> f32 {
        match self {
            Half::Brain => f32::from_bits(u32::from(bits) << 16),
            Half::Binary16 => {
                const EXPONENT: u32 = 0x7c00 << 13;
                let shifted = (u32::from(bits) & 0x7fff) << 13;
                let rebased = shifted + ((127 - 15) << 23);
                // Of numbers without a leading one it is taken off again.
                let small = f32::from_bits(rebased + (1 << 23)) - f32::from_bits(113 << 23);
                let magnitude = if shifted & EXPONENT == 0 { small.to_bits() } else { rebased };
                f32::from_bits(magnitude | (u32::from(bits) & 0x8000) << 16)
            }
        }
    }
}

/// Panels of a [`Matrix`] that is kept in fewer bits: for each panel of rows of the matrix, its columns one after the other.
#[derive(Debug)]
pub(super) struct Panels {
    inputs: usize,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// `[panels][inputs][panel]`.
    Halves(Half, Vec<u16>),
    Groups {
        group: usize,
        four_bits_from: Option<i8>,
        /// `[panels][inputs][panel]`; or half of that where two quants share a byte, those of the first and of the second half of a
        /// group.
        quants: Vec<u8>,
        /// `[panels][inputs / group][panel]`.
        scales: Vec<f32>,
        /// As scales, or empty.
        minima: Vec<f32>,
    },
}

impl Panels {
    /// Packs 16-bit floats `[outputs, inputs]`.
    pub(super) fn halves(isa: Isa, inputs: usize, half: Half, values: &[u16]) -> Self {
        Panels { inputs, kept: Kept::Halves(half, in_panels(isa, inputs, &rows(values, inputs))) }
    }

    /// Packs a matrix `[outputs, inputs]` in groups.
    ///
    /// # Panics
    /// Where it is not whole.
    pub(super) fn quantised(isa: Isa, q: &Quantised) -> Self {
        let (inputs, group) = (q.columns, q.group);
        let is_group = group > 0 && STRETCH.is_multiple_of(group) && inputs.is_multiple_of(group);
        assert!(is_group, "a matrix must be whole groups");
        let groups = inputs / group;
        let is_whole = q.quants.len() / inputs * groups == q.scales.len();
        assert!(is_whole && (q.minima.is_empty() || q.minima.len() == q.scales.len()), "every group has its scale");
        let bytes: Vec<u8> = match q.four_bits_from {
            None => in_panels(isa, inputs, &rows(&q.quants, inputs)).into_iter().map(|quant| quant as u8).collect(),
            Some(least) => {
                assert!(group.is_multiple_of(2), "quants of four bits come in pairs");
                let half = group / 2 * isa.panel();
                let lines = in_panels(isa, inputs, &rows(&q.quants, inputs));
                let mut pairs = vec![0u8; lines.len() / 2];
                let low = |quant: i8| quant.wrapping_sub(least) as u8 & 0xf;
                pairs.par_chunks_mut(half).zip(lines.par_chunks(2 * half)).for_each(|(pairs, group)| {
                    for (at, pair) in pairs.iter_mut().enumerate() {
                        *pair = low(group[at]) | low(group[at + half]) << 4;
                    }
                });
                pairs
            }
        };
        Panels {
            inputs,
            kept: Kept::Groups {
                group,
                four_bits_from: q.four_bits_from,
                quants: bytes,
                scales: in_panels(isa, groups, &rows(&q.scales, groups)),
                minima: in_panels(isa, groups, &rows(&q.minima, groups)),
            },
        }
    }

    /// How many bytes it takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        match &self.kept {
            Kept::Halves(_, values) => values.len() * 2,
            Kept::Groups { quants, scales, minima, .. } => quants.len() + (scales.len() + minima.len()) * 4,
        }
    }

    /// Widens a stretch of panel `p` from column `from` on: `lines` is `[columns][panel]`. Both ends lie on whole groups.
    pub(super) fn widen(&self, isa: Isa, p: usize, from: usize, lines: &mut [f32]) {
        let nr = isa.panel();
        let (start, count) = (p * self.inputs + from, lines.len() / nr);
        match &self.kept {
            Kept::Halves(half, values) => {
                let values = &values[start * nr..(start + count) * nr];
                match half {
                    Half::Binary16 => widen_binary16(isa, values, lines),
                    Half::Brain => widen_brain(isa, values, lines),
                }
            }
            Kept::Groups { group, four_bits_from, quants, scales, minima } => {
                let of = |at: usize| if four_bits_from.is_some() { at * nr / 2 } else { at * nr };
                let quants = &quants[of(start)..of(start + count)];
                let first = (p * (self.inputs / group) + from / group) * nr;
                let scales = &scales[first..first + count / group * nr];
                let minima = minima.get(first..first + count / group * nr).unwrap_or(&[]);
                match (four_bits_from, nr) {
                    (Some(least), 32) => widen_fours_32(isa, quants, *least, scales, minima, *group, lines),
                    (Some(least), _) => widen_fours_16(isa, quants, *least, scales, minima, *group, lines),
                    (None, 32) => widen_bytes_32(isa, quants, scales, minima, *group, lines),
                    (None, _) => widen_bytes_16(isa, quants, scales, minima, *group, lines),
                }
            }
        }
    }
}

/// Rows of `columns` values in panels, `[panels][columns][panel]`; the last panel is filled up.
pub(super) fn in_panels<T: Copy + Default + Send + Sync>(isa: Isa, columns: usize, rows: &[&[T]]) -> Vec<T> {
    let nr = isa.panel();
    let mut panels = vec![T::default(); rows.len().div_ceil(nr) * nr * columns];
    panels.par_chunks_mut((nr * columns).max(1)).zip(rows.par_chunks(nr)).for_each(|(panel, rows)| {
        for (j, row) in rows.iter().enumerate() {
            for (k, value) in row.iter().enumerate() {
                panel[k * nr + j] = *value;
            }
        }
    });
    panels
}

/// The rows of a matrix.
fn rows<T>(values: &[T], columns: usize) -> Vec<&[T]> {
    values.chunks_exact(columns).collect()
}

/// Widens binary16, by the processor's own instruction where it has one.
fn widen_binary16(isa: Isa, values: &[u16], out: &mut [f32]) {
    let rest = match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 => {
            let whole = values.len().min(out.len()) / 8 * 8;
            // SAFETY: an `Isa` of these levels exists only where the processor has AVX2 and F16C; both slices hold `whole` values.
            unsafe { binary16_f16c(whole, values.as_ptr(), out.as_mut_ptr()) };
            whole
        }
        _ => 0,
    };
    out[rest..].iter_mut().zip(&values[rest..]).for_each(|(out, v)| *out = Half::Binary16.widen(*v));
}

/// `whole` values, a multiple of eight.
///
/// # Safety
/// Both pointers must hold `whole` values; the processor must have AVX2 and F16C.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
unsafe fn binary16_f16c(whole: usize, values: *const u16, out: *mut f32) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    for at in (0..whole).step_by(8) {
        // SAFETY: the caller promises `whole` values in both, and eight from `at` on are among them.
        unsafe { _mm256_storeu_ps(out.add(at), _mm256_cvtph_ps(_mm_loadu_si128(values.add(at).cast()))) };
    }
}

#[inline(always)]
fn brain<const FMA: bool>(values: &[u16], out: &mut [f32]) {
    out.iter_mut().zip(values).for_each(|(out, v)| *out = Half::Brain.widen(*v));
}

/// Lines of `NR` quants, a byte each.
#[inline(always)]
fn bytes<const NR: usize>(quants: &[u8], scales: &[f32], minima: &[f32], group: usize, out: &mut [f32]) {
    let (lines, _) = out.as_chunks_mut::<NR>();
    let (quants, _) = quants.as_chunks::<NR>();
    let (scales, _) = scales.as_chunks::<NR>();
    let (minima, _) = minima.as_chunks::<NR>();
    for (at, (lines, quants)) in lines.chunks_mut(group).zip(quants.chunks(group)).enumerate() {
        let scales = &scales[at];
        for (line, quants) in lines.iter_mut().zip(quants) {
            widen_line(line, |j| quants[j] as i8, scales, minima.get(at));
        }
    }
}

/// Lines of `NR` quants of four bits: a byte holds those of a line in the first half of its group, and of the one as far into the
/// second half.
#[inline(always)]
fn fours<const NR: usize>(quants: &[u8], least: i8, scales: &[f32], minima: &[f32], group: usize, out: &mut [f32]) {
    let (lines, _) = out.as_chunks_mut::<NR>();
    let (quants, _) = quants.as_chunks::<NR>();
    let (scales, _) = scales.as_chunks::<NR>();
    let (minima, _) = minima.as_chunks::<NR>();
    for (at, (lines, quants)) in lines.chunks_mut(group).zip(quants.chunks(group / 2)).enumerate() {
        let scales = &scales[at];
        let (low, high) = lines.split_at_mut(group / 2);
        for ((low, high), quants) in low.iter_mut().zip(high).zip(quants) {
            widen_line(low, |j| (quants[j] & 0xf) as i8 + least, scales, minima.get(at));
            widen_line(high, |j| (quants[j] >> 4) as i8 + least, scales, minima.get(at));
        }
    }
}

/// One line: rounded after the multiplication, and after the addition where there is one.
#[inline(always)]
fn widen_line<const NR: usize>(
    line: &mut [f32; NR],
    quant: impl Fn(usize) -> i8,
    scales: &[f32; NR],
    minima: Option<&[f32; NR]>,
) {
    match minima {
        Some(minima) => {
            for j in 0..NR {
                line[j] = f32::from(quant(j)) * scales[j] + minima[j];
            }
        }
        None => {
            for j in 0..NR {
                line[j] = f32::from(quant(j)) * scales[j];
            }
        }
    }
}

#[inline(always)]
fn bytes_32<const FMA: bool>(quants: &[u8], scales: &[f32], minima: &[f32], group: usize, out: &mut [f32]) {
    bytes::<32>(quants, scales, minima, group, out);
}

#[inline(always)]
fn bytes_16<const FMA: bool>(quants: &[u8], scales: &[f32], minima: &[f32], group: usize, out: &mut [f32]) {
    bytes::<16>(quants, scales, minima, group, out);
}

#[inline(always)]
fn fours_32<const FMA: bool>(quants: &[u8], least: i8, scales: &[f32], minima: &[f32], group: usize, out: &mut [f32]) {
    fours::<32>(quants, least, scales, minima, group, out);
}

#[inline(always)]
fn fours_16<const FMA: bool>(quants: &[u8], least: i8, scales: &[f32], minima: &[f32], group: usize, out: &mut [f32]) {
    fours::<16>(quants, least, scales, minima, group, out);
}

per_isa! { fn widen_brain = brain::<ROUNDS_TWICE>(values: &[u16], out: &mut [f32]) }
per_isa! {
    fn widen_bytes_32 = bytes_32::<ROUNDS_TWICE>(quants: &[u8], scales: &[f32], minima: &[f32], group: usize, out: &mut [f32])
}
per_isa! {
    fn widen_bytes_16 = bytes_16::<ROUNDS_TWICE>(quants: &[u8], scales: &[f32], minima: &[f32], group: usize, out: &mut [f32])
}
per_isa! {
    fn widen_fours_32 = fours_32::<ROUNDS_TWICE>(
        quants: &[u8], least: i8, scales: &[f32], minima: &[f32], group: usize, out: &mut [f32],
    )
}
per_isa! {
    fn widen_fours_16 = fours_16::<ROUNDS_TWICE>(
        quants: &[u8], least: i8, scales: &[f32], minima: &[f32], group: usize, out: &mut [f32],
    )
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn sixteen_bits_widen_as_they_are_defined() {
        // All at once, too: by the processor's instruction where there is one.
        let finite: Vec<u16> = (0..=u16::MAX).filter(|bits| f16::from_bits(*bits).is_finite()).collect();
        for isa in Isa::available() {
            let mut out = vec![9.0; finite.len() - 3];
            widen_binary16(isa, &finite[..out.len()], &mut out);
            let exact = finite.iter().map(|bits| f16::from_bits(*bits).to_f32().to_bits());
            assert!(out.iter().map(|x| x.to_bits()).eq(exact.take(out.len())), "{isa:?}");
        }
        for bits in 0..=u16::MAX {
            let float = f16::from_bits(bits);
            if float.is_finite() {
                assert_eq!(Half::Binary16.widen(bits).to_bits(), float.to_f32().to_bits(), "{bits:#x}");
            }
            let brain = bf16::from_bits(bits).to_f32();
            assert!(brain.is_nan() || Half::Brain.widen(bits).to_bits() == brain.to_bits(), "{bits:#x}");
        }
    }
}
