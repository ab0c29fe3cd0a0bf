//! How a tensor's values are stored in a file, and how they become f32.
//!
//! Knows the block formats of llama.cpp and plain floats. Knows nothing of files or of a tensor's use.

use half::{bf16, f16};
use rayon::prelude::*;

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
        const BLOCKS_PER_TASK: usize = 1024;
        let (values, size) = self.block();
        out.par_chunks_mut(values * BLOCKS_PER_TASK).zip(bytes.par_chunks(size * BLOCKS_PER_TASK)).for_each(
            |(out, bytes)| {
                for (y, b) in out.chunks_exact_mut(values).zip(bytes.chunks_exact(size)) {
                    self.dequantise_block(b, y);
                }
            },
        );
    }

    /// One block; `b` and `y` have the sizes of [`Format::block`].
    fn dequantise_block(self, b: &[u8], y: &mut [f32]) {
        let half_at = |i: usize| f16::from_le_bytes([b[i], b[i + 1]]).to_f32();
        match self {
            Format::F32 => y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Format::F16 => y[0] = half_at(0),
            Format::Bf16 => y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Format::Q4_0 => {
                let d = half_at(0);
                for (j, &q) in b[2..18].iter().enumerate() {
                    y[j] = (f32::from(q & 0xf) - 8.0) * d;
                    y[j + 16] = (f32::from(q >> 4) - 8.0) * d;
                }
            }
            Format::Q4_1 => {
                let (d, m) = (half_at(0), half_at(2));
                for (j, &q) in b[4..20].iter().enumerate() {
                    y[j] = f32::from(q & 0xf) * d + m;
                    y[j + 16] = f32::from(q >> 4) * d + m;
                }
            }
            Format::Q5_0 | Format::Q5_1 => {
                let d = half_at(0);
                let (m, at) = if self == Format::Q5_1 { (half_at(2), 4) } else { (-16.0 * d, 2) };
                let high = u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
                for (j, &q) in b[at + 4..at + 20].iter().enumerate() {
                    let bit = |k: usize| ((high >> k & 1) << 4) as u8;
                    y[j] = f32::from(q & 0xf | bit(j)) * d + m;
                    y[j + 16] = f32::from(q >> 4 | bit(j + 16)) * d + m;
                }
            }
            Format::Q8_0 => {
                let d = half_at(0);
                for (y, &q) in y.iter_mut().zip(&b[2..34]) {
                    *y = f32::from(q as i8) * d;
                }
            }
            Format::Q4K | Format::Q5K => {
                let (d, min, scales) = (half_at(0), half_at(2), &b[4..16]);
                let (high, quants) = if self == Format::Q5K { b[16..].split_at(32) } else { (&[] as &[u8], &b[16..]) };
                for (pair, (y, q)) in y.chunks_exact_mut(64).zip(quants.chunks_exact(32)).enumerate() {
                    let (low, upper) = y.split_at_mut(32);
                    for (is, y) in [(2 * pair, low), (2 * pair + 1, upper)] {
                        let (sc, m) = scale_and_min(is, scales);
                        let (d, m) = (d * sc, min * m);
                        for (l, y) in y.iter_mut().enumerate() {
                            let bits = if is % 2 == 0 { q[l] & 0xf } else { q[l] >> 4 };
                            let fifth = high.get(l).map_or(0, |h| (h >> is & 1) << 4);
                            *y = d * f32::from(bits | fifth) - m;
                        }
                    }
                }
            }
            Format::Q6K => {
                let d = half_at(208);
                for (n, y) in y.chunks_exact_mut(128).enumerate() {
                    let (ql, qh, sc) = (&b[64 * n..64 * n + 64], &b[128 + 32 * n..], &b[192 + 8 * n..]);
                    for l in 0..32 {
                        let scale = |k: usize| d * f32::from(sc[l / 16 + k] as i8);
                        let quant = |low: u8, shift: u8| f32::from((low | (qh[l] >> shift & 3) << 4) as i8 - 32);
                        y[l] = scale(0) * quant(ql[l] & 0xf, 0);
                        y[l + 32] = scale(2) * quant(ql[l + 32] & 0xf, 2);
                        y[l + 64] = scale(4) * quant(ql[l] >> 4, 4);
                        y[l + 96] = scale(6) * quant(ql[l + 32] >> 4, 6);
                    }
                }
            }
        }
    }
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
