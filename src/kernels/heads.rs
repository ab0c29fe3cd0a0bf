//! What every attention shares: how heads lie in a row, rotary positions, copies of one head.
//!
//! Knows numbers only.

/// How heads lie in a row: first the query heads, then the key heads, then the value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads; divides `queries`.
    pub keys: usize,
    /// Width of a head.
    pub width: usize,
}

impl Heads {
    /// Width of a row of queries, keys and values.
    pub fn row(&self) -> usize {
        (self.queries + 2 * self.keys) * self.width
    }
}

/// Cosines and sines of the rotary embedding, `[positions, width / 2]` each.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Half of the head's width.
    pub half: usize,
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
}

impl Rope {
    /// The table for heads of `width`, positions below `positions`.
    pub fn new(width: usize, positions: usize, theta: f64) -> Self {
        let half = width / 2;
        let angle = |i: usize| {
            // In f32, as the models were trained and as transformers computes it.
            let frequency = 1.0 / theta.powf((2 * (i % half)) as f64 / width as f64);
            f64::from((i / half) as f32 * frequency as f32)
        };
        let cos = (0..positions * half).map(|i| angle(i).cos() as f32).collect();
        let sin = (0..positions * half).map(|i| angle(i).sin() as f32).collect();
        Rope { half, cos, sin }
    }

    /// Turns one head of a query or a key by its position.
    #[inline(always)]
    pub(crate) fn turn(&self, head: &mut [f32], position: usize) {
        let cos = &self.cos[position * self.half..][..self.half];
        let sin = &self.sin[position * self.half..][..self.half];
        let (a, b) = head.split_at_mut(self.half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            let (x, y) = (*a, *b);
            *a = x * cos - y * sin;
            *b = y * cos + x * sin;
        }
    }

    /// Turns a head the other way round: also the backward pass of [`Rope::turn`].
    #[inline(always)]
    pub(crate) fn turn_back(&self, head: &mut [f32], position: usize) {
        let cos = &self.cos[position * self.half..][..self.half];
        let sin = &self.sin[position * self.half..][..self.half];
        let (a, b) = head.split_at_mut(self.half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            let (x, y) = (*a, *b);
            *a = x * cos + y * sin;
            *b = y * cos - x * sin;
        }
    }
}

/// One head of some rows, each value times `scale`: `[rows, padded]`, zeros behind each row's `width` values.
///
/// `rows` is `[rows, stride]`; the head's values start at `first` of each row.
#[inline(always)]
pub(crate) fn along(rows: &[f32], stride: usize, first: usize, width: usize, padded: usize, scale: f32) -> Vec<f32> {
    let mut out = vec![0f32; rows.len() / stride * padded];
    for (out, row) in out.chunks_exact_mut(padded).zip(rows.chunks_exact(stride)) {
        out.iter_mut().zip(&row[first..first + width]).for_each(|(o, v)| *o = v * scale);
    }
    out
}

/// The transpose of [`along`], `[width, padded]`: the rows of a channel stand side by side, zeros behind them.
#[inline(always)]
pub(crate) fn across(rows: &[f32], stride: usize, first: usize, width: usize, padded: usize, scale: f32) -> Vec<f32> {
    let mut out = vec![0f32; width * padded];
    for (i, row) in rows.chunks_exact(stride).enumerate() {
        for (channel, value) in row[first..first + width].iter().enumerate() {
            out[channel * padded + i] = value * scale;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::arithmetic::noise;

    #[test]
    fn copies_of_a_head_are_each_others_transposes() {
        let (x, stride) = (noise(5 * 12, 1), 12);
        let (along, across) = (along(&x, stride, 3, 4, 6, 0.5), across(&x, stride, 3, 4, 8, 0.5));
        for row in 0..5 {
            for channel in 0..4 {
                assert_eq!(along[row * 6 + channel], x[row * stride + 3 + channel] * 0.5);
                assert_eq!(along[row * 6 + channel], across[channel * 8 + row]);
            }
            assert_eq!(along[row * 6 + 4..row * 6 + 6], [0.0; 2]);
        }
    }

    #[test]
    fn turning_back_undoes_turning() {
        let (rope, x) = (Rope::new(8, 10, 10_000.0), noise(8, 2));
        let mut turned = x.clone();
        rope.turn(&mut turned, 7);
        assert_ne!(turned, x);
        rope.turn_back(&mut turned, 7);
        assert!(turned.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
