//! How a tensor's values are stored in a file, and how they become f32.
//!
//! Knows the block formats of llama.cpp and plain floats. Knows nothing of files or of a tensor's use.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::kernels::narrow::{Half, Matrix, Quantised};

/// Blocks that a thread takes at once.
const BLOCKS_PER_TASK: usize = 1024;

/// How a tensor's values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Brain floats.
    Bf16,
    /// 32 values: scale, 4 bits each.
    Q4_0,
    /// 32 values: scale, minimum, 4 bits each.
    Q4_1,
    /// 32 values: scale, 5 bits each.
    Q5_0,
    /// 32 values: scale, minimum, 5 bits each.
    Q5_1,
    /// 32 values: scale, 8 bits each.
    Q8_0,
    /// 256 values in 8 groups with 6-bit scales and minima, 4 bits each.
    Q4K,
    /// As Q4_K with 5 bits each.
    Q5K,
    /// 256 values in 16 groups with 8-bit scales, 6 bits each.
    Q6K,
}

impl Format {
    /// The supported formats, for error messages.
    pub const SUPPORTED: &'static str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K";

    pub(super) fn from_id(id: u32) -> Option<Format> {
        Some(match id {
            0 => Format::F32,
            1 => Format::F16,
            2 => Format::Q4_0,
            3 => Format::Q4_1,
            6 => Format::Q5_0,
            7 => Format::Q5_1,
            8 => Format::Q8_0,
            12 => Format::Q4K,
            13 => Format::Q5K,
            14 => Format::Q6K,
            30 => Format::Bf16,
            _ => return None,
        })
    }

    /// Values in a block and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Format::F32 => (1, 4),
            Format::F16 | Format::Bf16 => (1, 2),
            Format::Q4_0 => (32, 18),
            Format::Q4_1 => (32, 20),
            Format::Q5_0 => (32, 22),
            Format::Q5_1 => (32, 24),
            Format::Q8_0 => (32, 34),
            Format::Q4K => (256, 144),
            Format::Q5K => (256, 176),
            Format::Q6K => (256, 210),
        }
    }

    /// Dequantises whole blocks; if `bytes` and `out` hold different numbers of blocks, the smaller counts.
    pub fn dequantise(self, bytes: &[u8], out: &mut [f32]) {
        let (values, size) = self.block();
        out.par_chunks_mut(values * BLOCKS_PER_TASK).zip(bytes.par_chunks(size * BLOCKS_PER_TASK)).for_each(
            |(out, bytes)| {
                for (y, b) in out.chunks_exact_mut(values).zip(bytes.chunks_exact(size)) {
                    self.dequantise_block(b, y);
                }
            },
        );
    }

    /// A matrix of `columns` columns, whole blocks each row, in fewer than 32 bits where the file has fewer. What it holds is what
    /// [`Format::dequantise`] gives.
    pub fn matrix(self, bytes: &[u8], columns: usize) -> Matrix {
        let (values, size) = self.block();
        let count = bytes.len() / size * values;
        let full = || {
            let mut out = vec![0.0; count];
            self.dequantise(bytes, &mut out);
            Matrix::Full(out)
        };
        let halves = || bytes.par_chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect::<Vec<u16>>();
        let Some(groups) = self.groups() else {
            return match self {
                Format::Bf16 => Matrix::Halves(Half::Brain, halves()),
                Format::F16 => match halves() {
                    halves if halves.par_iter().all(|bits| f16::from_bits(*bits).is_finite()) => {
                        Matrix::Halves(Half::Binary16, halves)
                    }
                    _ => full(),
                },
                _ => full(),
            };
        };
        if columns == 0 || !columns.is_multiple_of(values) {
            return full();
        }
        let in_block = values / groups.size;
        let mut quants = vec![0i8; count];
        let mut scales = vec![0f32; count / groups.size];
        let mut minima = vec![0f32; scales.len()];
        quants
            .par_chunks_mut(values * BLOCKS_PER_TASK)
            .zip(scales.par_chunks_mut(in_block * BLOCKS_PER_TASK))
            .zip(minima.par_chunks_mut(in_block * BLOCKS_PER_TASK))
            .zip(bytes.par_chunks(size * BLOCKS_PER_TASK))
            .for_each(|(((quants, scales), minima), bytes)| {
                let parts = quants.chunks_exact_mut(values).zip(scales.chunks_exact_mut(in_block));
                let parts = parts.zip(minima.chunks_exact_mut(in_block)).zip(bytes.chunks_exact(size));
                for (((quants, scales), minima), b) in parts {
                    self.split_block(b, quants, scales, minima);
                }
            });
        if !groups.has_minimum {
            minima = Vec::new();
        }
        Matrix::Quantised(Quantised {
            columns,
            group: groups.size,
            four_bits_from: groups.four_bits_from,
            quants,
            scales,
            minima,
        })
    }

    /// How its blocks are made of groups; nothing for plain floats.
    fn groups(self) -> Option<Groups> {
        let (size, four_bits_from, has_minimum) = match self {
            Format::F32 | Format::F16 | Format::Bf16 => return None,
            Format::Q4_0 => (32, Some(-8), false),
            Format::Q4_1 | Format::Q4K => (32, Some(0), true),
            Format::Q5_0 | Format::Q5_1 | Format::Q5K => (32, None, true),
            Format::Q8_0 => (32, None, false),
            Format::Q6K => (16, None, false),
        };
        Some(Groups { size, four_bits_from, has_minimum })
    }

    /// One block; `b` and `y` have the sizes of [`Format::block`].
    fn dequantise_block(self, b: &[u8], y: &mut [f32]) {
        let Some(groups) = self.groups() else {
            y[0] = match self {
                Format::F16 => half_at(b, 0),
                Format::Bf16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
                _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            };
            return;
        };
        let (mut quants, mut scales, mut minima) = ([0i8; 256], [0f32; 16], [0f32; 16]);
        self.split_block(b, &mut quants[..y.len()], &mut scales, &mut minima);
        for (at, (y, quants)) in y.chunks_exact_mut(groups.size).zip(quants.chunks_exact(groups.size)).enumerate() {
            for (y, quant) in y.iter_mut().zip(quants) {
                *y = f32::from(*quant) * scales[at];
                if groups.has_minimum {
                    *y += minima[at];
                }
            }
        }
    }

    /// One block of a format with groups: its quants, and scale and minimum of each group.
    fn split_block(self, b: &[u8], quants: &mut [i8], scales: &mut [f32], minima: &mut [f32]) {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => {}
            Format::Q4_0 | Format::Q4_1 => {
                let (least, at) = if self == Format::Q4_1 { (0, 4) } else { (-8, 2) };
                scales[0] = half_at(b, 0);
                minima[0] = if self == Format::Q4_1 { half_at(b, 2) } else { 0.0 };
                for (j, &q) in b[at..at + 16].iter().enumerate() {
                    quants[j] = (q & 0xf) as i8 + least;
                    quants[j + 16] = (q >> 4) as i8 + least;
                }
            }
            Format::Q5_0 | Format::Q5_1 => {
                let d = half_at(b, 0);
                let (m, at) = if self == Format::Q5_1 { (half_at(b, 2), 4) } else { (-16.0 * d, 2) };
                (scales[0], minima[0]) = (d, m);
                let high = u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
                for (j, &q) in b[at + 4..at + 20].iter().enumerate() {
                    let bit = |k: usize| ((high >> k & 1) << 4) as u8;
                    quants[j] = (q & 0xf | bit(j)) as i8;
                    quants[j + 16] = (q >> 4 | bit(j + 16)) as i8;
                }
            }
            Format::Q8_0 => {
                scales[0] = half_at(b, 0);
                for (quant, &q) in quants.iter_mut().zip(&b[2..34]) {
                    *quant = q as i8;
                }
            }
            Format::Q4K | Format::Q5K => {
                let (d, min, packed) = (half_at(b, 0), half_at(b, 2), &b[4..16]);
                let (high, low) = if self == Format::Q5K { b[16..].split_at(32) } else { (&[] as &[u8], &b[16..]) };
                for (group, quants) in quants.chunks_exact_mut(32).enumerate() {
                    let (scale, minimum) = scale_and_min(group, packed);
                    (scales[group], minima[group]) = (d * scale, -(min * minimum));
                    for (l, quant) in quants.iter_mut().enumerate() {
                        let byte = low[group / 2 * 32 + l];
                        let bits = if group % 2 == 0 { byte & 0xf } else { byte >> 4 };
                        let fifth = high.get(l).map_or(0, |h| (h >> group & 1) << 4);
                        *quant = (bits | fifth) as i8;
                    }
                }
            }
            Format::Q6K => {
                let d = half_at(b, 208);
                for (scale, &s) in scales.iter_mut().zip(&b[192..208]) {
                    *scale = d * f32::from(s as i8);
                }
                for (n, quants) in quants.chunks_exact_mut(128).enumerate() {
                    let (ql, qh) = (&b[64 * n..64 * n + 64], &b[128 + 32 * n..]);
                    for l in 0..32 {
                        let quant = |low: u8, shift: u8| (low | (qh[l] >> shift & 3) << 4) as i8 - 32;
                        quants[l] = quant(ql[l] & 0xf, 0);
                        quants[l + 32] = quant(ql[l + 32] & 0xf, 2);
                        quants[l + 64] = quant(ql[l] >> 4, 4);
                        quants[l + 96] = quant(ql[l + 32] >> 4, 6);
                    }
                }
            }
        }
    }
}

/// How a block is made of groups: `value = quant · scale + minimum`.
#[derive(Debug, Clone, Copy)]
struct Groups {
    /// Values that share scale and minimum.
    size: usize,
    /// The least quant where all fit 4 bits from there on.
    four_bits_from: Option<i8>,
    has_minimum: bool,
}

/// The 16-bit float at byte `at`.
fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// The 6-bit scale and minimum of group `j` of a Q4_K or Q5_K block, packed into 12 bytes.
fn scale_and_min(j: usize, q: &[u8]) -> (f32, f32) {
    if j < 4 {
        (f32::from(q[j] & 63), f32::from(q[j + 4] & 63))
    } else {
        (f32::from(q[j + 4] & 0xf | q[j - 4] >> 6 << 4), f32::from(q[j + 4] >> 4 | q[j] >> 6 << 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_hold_what_their_blocks_say() {
        const ALL: [Format; 11] = [
            Format::F32,
            Format::F16,
            Format::Bf16,
            Format::Q4_0,
            Format::Q4_1,
            Format::Q5_0,
            Format::Q5_1,
            Format::Q8_0,
            Format::Q4K,
            Format::Q5K,
            Format::Q6K,
        ];
        for format in ALL {
            let (values, size) = format.block();
            let (rows, columns) = (6, 512);
            let mut bytes: Vec<u8> = (0..rows * columns / values * size).map(|i| (i * 37 % 251) as u8).collect();
            // Exponents that no float lacks: all is finite.
            let tops: &[usize] = match format {
                Format::F32 => &[3],
                Format::F16 | Format::Bf16 | Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[1],
                Format::Q6K => &[209],
                _ => &[1, 3],
            };
            for block in bytes.chunks_exact_mut(size) {
                tops.iter().for_each(|at| block[*at] = 0xac);
            }
            let mut exact = vec![0.0; rows * columns];
            format.dequantise(&bytes, &mut exact);
            let matrix = format.matrix(&bytes, columns);
            assert_eq!(matches!(matrix, Matrix::Full(_)), format == Format::F32, "{format:?}");
            assert_eq!(matrix.len(), exact.len());
            let widened = matrix.widened();
            assert!(widened.iter().zip(&exact).all(|(a, b)| a.to_bits() == b.to_bits()), "{format:?}");
            assert!(exact.iter().all(|x| x.is_finite()) && exact.iter().any(|x| *x != exact[0]), "{format:?}");
        }
        let infinite = f16::INFINITY.to_le_bytes();
        assert_eq!(Format::F16.matrix(&infinite, 1), Matrix::Full(vec![f32::INFINITY]));
    }

    #[test]
    fn five_and_six_bit_blocks_follow_their_definition() {
        // Scale 1, all quants at their middle: zero.
        let one = f16::from_f32(1.0).to_le_bytes();
        let mut y = [9.0f32; 256];
        let mut b = vec![0u8; 22];
        b[..2].copy_from_slice(&one);
        b[2..6].fill(0xff);
        Format::Q5_0.dequantise(&b, &mut y[..32]);
        assert!(y[..32].iter().all(|&x| x == 0.0));
        b[6] = 0x21;
        Format::Q5_0.dequantise(&b, &mut y[..32]);
        assert_eq!((y[0], y[16]), (1.0, 2.0));

        let mut b = vec![0u8; 210];
        b[128..192].fill(0b1010_1010);
        b[192..208].fill(1);
        b[208..].copy_from_slice(&one);
        b[0] = 0x31;
        Format::Q6K.dequantise(&b, &mut y);
        assert_eq!((y[0], y[64], y[1]), (1.0, 3.0, 0.0));

        let mut b = vec![0u8; 144];
        b[..2].copy_from_slice(&one);
        b[4] = 2;
        b[5] = 3;
        b[16] = 0x54;
        Format::Q4K.dequantise(&b, &mut y);
        assert_eq!((y[0], y[32], y[1]), (8.0, 15.0, 0.0));
    }
}
