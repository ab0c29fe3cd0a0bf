//! Matrix products: on weights that are packed once, on matrices at a stride, and sums over tokens.
//!
//! Knows numbers only: no tensors, layers or models. Work is spread over the rayon pool that the caller is in.
//!
//! **Every result depends on its own row only.** Each output is one chain of multiply-adds over `k` in ascending order,
//! whatever the number of rows and whichever tile computes it. So a row gives the same bits alone, in a batch, and in
//! chunks.

use rayon::prelude::*;

use crate::kernels::isa::Isa;
use crate::kernels::tile::{MAX_PANEL, MAX_TILE_ROWS, Shared, for_tiles, tile};

/// Where a product goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// Overwrites the target.
    Set,
    /// Adds to the target, after the whole sum is made.
    Add,
}

/// Constant weights `[outputs, inputs]`, packed once: panels of columns, each `[inputs][panel]` without gaps.
#[derive(Debug)]
pub struct Packed {
    isa: Isa,
    inputs: usize,
    outputs: usize,
    panels: Vec<f32>,
}

impl Packed {
    /// Packs matrices of `inputs` columns that stand below each other.
    ///
    /// # Panics
    /// Where a part is no multiple of `inputs` long.
    pub fn new(isa: Isa, inputs: usize, parts: &[&[f32]]) -> Self {
        let nr = isa.panel();
        assert!(inputs > 0 && parts.iter().all(|p| p.len().is_multiple_of(inputs)), "weights must be whole rows");
        let rows: Vec<&[f32]> = parts.iter().flat_map(|p| p.chunks_exact(inputs)).collect();
        let mut panels = vec![0f32; rows.len().div_ceil(nr) * nr * inputs];
        panels.par_chunks_mut(nr * inputs).zip(rows.par_chunks(nr)).for_each(|(panel, rows)| {
            for (j, row) in rows.iter().enumerate() {
                for (k, value) in row.iter().enumerate() {
                    panel[k * nr + j] = *value;
                }
            }
        });
        Packed { isa, inputs, outputs: rows.len(), panels }
    }

    /// Packs the transpose of a matrix `[inputs, outputs]`.
    ///
    /// # Panics
    /// Where the matrix is not `inputs` whole rows.
    pub fn transposed(isa: Isa, inputs: usize, matrix: &[f32]) -> Self {
        let nr = isa.panel();
        assert!(inputs > 0 && matrix.len().is_multiple_of(inputs), "a matrix must be whole rows");
        let outputs = matrix.len() / inputs;
        let mut panels = vec![0f32; outputs.div_ceil(nr) * nr * inputs];
        panels.par_chunks_mut(nr * inputs).enumerate().for_each(|(p, panel)| {
            let columns = nr.min(outputs - p * nr);
            for (line, row) in panel.chunks_exact_mut(nr).zip(matrix.chunks_exact(outputs)) {
                line[..columns].copy_from_slice(&row[p * nr..][..columns]);
            }
        });
        Packed { isa, inputs, outputs, panels }
    }

    /// The instructions that it was packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Copies one row of the unpacked matrix: for embeddings that are also the output layer.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let nr = self.isa.panel();
        let panel = &self.panels[(row / nr) * nr * self.inputs..][..nr * self.inputs];
        for (k, out) in out.iter_mut().enumerate().take(self.inputs) {
            *out = panel[k * nr + row % nr];
        }
    }

    /// `c = a · Wᵀ + bias`, or added to `c`; `a` is `[m, inputs]`, `c` `[m, outputs]`.
    ///
    /// # Panics
    /// Where a slice has another length.
    pub fn product(&self, a: &[f32], bias: Option<&[f32]>, c: &mut [f32], into: Into) {
        let (k, n, nr) = (self.inputs, self.outputs, self.isa.panel());
        assert!(a.len().is_multiple_of(k), "the input must be whole rows");
        let m = a.len() / k;
        assert!(c.len() == m * n && bias.is_none_or(|b| b.len() == n), "the output must fit");
        if m == 0 {
            return;
        }
        // A block of input rows stays in a core's second-level cache while panels pass by.
        let most = self.isa.tile_rows();
        let block = ((512 * 1024 / 4 / k) / most * most).max(most);
        let blocks = m.div_ceil(block);
        let block = m.div_ceil(blocks);
        let panels = n.div_ceil(nr);
        let c = Shared::new(c);
        (0..blocks * panels).into_par_iter().for_each(|task| {
            let (first, p) = (task / panels * block, task % panels);
            let rows = block.min(m - first);
            let b = self.panels[p * nr * k..][..nr * k].as_ptr();
            let columns = nr.min(n - p * nr);
            let mut part = [0f32; MAX_TILE_ROWS * MAX_PANEL];
            for_tiles(rows, most, |tile_first, height| {
                let row = first + tile_first;
                let a = &a[row * k..(row + height) * k];
                let direct = columns == nr && bias.is_none() && into == Into::Set;
                let f = tile(self.isa, height);
                if direct {
                    // SAFETY: `a` holds `height` rows of `k`, `b` a whole panel; the task's rows and columns of `c`, of
                    // which there are `m` by `n`, are nobody else's.
                    return unsafe { f(k, a.as_ptr(), k, b, nr, c.at(row * n + p * nr), n) };
                }
                // SAFETY: `a` holds `height` rows of `k`, `b` a whole panel, `part` the largest tile.
                unsafe { f(k, a.as_ptr(), k, b, nr, part.as_mut_ptr(), nr) };
                for i in 0..height {
                    // SAFETY: the task's rows and columns of `c`, of which there are `m` by `n`, are nobody else's.
                    let target = unsafe { c.part((row + i) * n + p * nr, columns) };
                    let sum = &mut part[i * nr..i * nr + columns];
                    if let Some(bias) = bias {
                        for (s, b) in sum.iter_mut().zip(&bias[p * nr..]) {
                            *s += b;
                        }
                    }
                    match into {
                        Into::Set => target.copy_from_slice(sum),
                        Into::Add => {
                            for (t, s) in target.iter_mut().zip(sum.iter()) {
                                *t += *s;
                            }
                        }
                    }
                }
            });
        });
    }
}

/// `c = a · b`: `a` is `[m, k]` at a stride, `b` `[k, n]` and `c` `[m, n]` at strides that are whole panels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    /// Rows of `a` and `c`.
    pub(crate) m: usize,
    /// Columns of `a`, rows of `b`.
    pub(crate) k: usize,
    /// Columns of `b` and `c`.
    pub(crate) n: usize,
}

impl Product {
    /// Computes the product on this thread; each matrix comes with its stride.
    pub(crate) fn run(
        &self,
        isa: Isa,
        (a, lda): (&[f32], usize),
        (b, ldb): (&[f32], usize),
        (c, ldc): (&mut [f32], usize),
    ) {
        let (m, k, nr) = (self.m, self.k, isa.panel());
        if m == 0 || k == 0 || self.n == 0 {
            return;
        }
        let panels = self.n.div_ceil(nr);
        assert!(a.len() >= (m - 1) * lda + k && ldb >= panels * nr && ldc >= panels * nr, "matrices must be whole");
        assert!(b.len() >= k * ldb && c.len() >= m * ldc, "matrices must be whole");
        for p in 0..panels {
            for_tiles(m, isa.tile_rows(), |first, height| {
                let (a, b) = (&a[first * lda..], &b[p * nr..]);
                let c = &mut c[first * ldc + p * nr..];
                // SAFETY: the lengths checked above hold `height` rows of `a` and `c` and `k` rows of `b`, a whole
                // panel wide from column `p · nr` on; `c` is borrowed for this call alone.
                unsafe { tile(isa, height)(k, a.as_ptr(), lda, b.as_ptr(), ldb, c.as_mut_ptr(), ldc) };
            });
        }
    }
}

/// `c = a · b` for an `a` `[m, k]` of few rows and a wide `b` `[k, n]`: what sums over tokens.
///
/// # Panics
/// Where a slice has another length.
pub fn sum_over_rows(isa: Isa, a: &[f32], b: &[f32], n: usize) -> Vec<f32> {
    let k = b.len() / n.max(1);
    assert!(k > 0 && b.len() == k * n && a.len().is_multiple_of(k), "matrices must be whole");
    let (m, nr) = (a.len() / k, isa.panel());
    let mut c = vec![0f32; m * n];
    let target = Shared::new(&mut c);
    (0..n.div_ceil(nr)).into_par_iter().for_each(|p| {
        let columns = nr.min(n - p * nr);
        // Copied together: a panel is read once for every tile.
        let mut panel = vec![0f32; k * nr];
        for (line, row) in panel.chunks_exact_mut(nr).zip(b.chunks_exact(n)) {
            line[..columns].copy_from_slice(&row[p * nr..][..columns]);
        }
        let mut part = [0f32; MAX_TILE_ROWS * MAX_PANEL];
        for_tiles(m, isa.tile_rows(), |first, height| {
            let a = &a[first * k..];
            // SAFETY: `a` holds `height` rows of `k`, the panel `k` rows, `part` the largest tile.
            unsafe { tile(isa, height)(k, a.as_ptr(), k, panel.as_ptr(), nr, part.as_mut_ptr(), nr) };
            for i in 0..height {
                // SAFETY: each task writes columns of its own of the `m` rows of `n`.
                let row = unsafe { target.part((first + i) * n + p * nr, columns) };
                row.copy_from_slice(&part[i * nr..][..columns]);
            }
        });
    });
    c
}

/// The transpose of `[rows, columns]`.
pub fn transpose(x: &[f32], columns: usize) -> Vec<f32> {
    let rows = x.len() / columns.max(1);
    let mut out = vec![0f32; x.len()];
    for (i, row) in x.chunks_exact(columns.max(1)).enumerate() {
        row.iter().enumerate().for_each(|(j, v)| out[j * rows + i] = *v);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::arithmetic::noise;

    #[test]
    fn products_are_right_and_a_row_does_not_depend_on_its_neighbours() {
        for isa in Isa::available() {
            for (k, n) in [(1, 1), (7, 5), (64, 33), (100, 96), (576, 70), (1537, 48)] {
                let (w, bias) = (noise(n * k, 1), noise(n, 2));
                let packed = Packed::new(isa, k, &[&w[..k], &w[k..]]);
                let a = noise(50 * k, 3);
                let mut row = vec![0.0; k];
                packed.row(n / 2, &mut row);
                assert_eq!(row, w[n / 2 * k..][..k], "{isa:?}");
                let alone: Vec<f32> = a
                    .chunks(k)
                    .flat_map(|a| {
                        let mut c = vec![1.0; n];
                        packed.product(a, Some(&bias), &mut c, Into::Set);
                        c
                    })
                    .collect();
                for m in [1, 2, 3, 11, 12, 13, 25, 50] {
                    let mut c = vec![0.5; m * n];
                    packed.product(&a[..m * k], Some(&bias), &mut c, Into::Set);
                    assert!(c.iter().zip(&alone).all(|(x, y)| x.to_bits() == y.to_bits()), "{isa:?} {m} {n} {k}");
                    let mut plain = vec![0.0; m * n];
                    packed.product(&a[..m * k], None, &mut plain, Into::Set);
                    let mut added = vec![2.0; m * n];
                    packed.product(&a[..m * k], None, &mut added, Into::Add);
                    for i in 0..m * n {
                        let (r, j) = (i / n, i % n);
                        let exact: f64 = (0..k).map(|p| f64::from(a[r * k + p]) * f64::from(w[j * k + p])).sum();
                        assert!((f64::from(plain[i]) - exact).abs() < 1e-4, "{isa:?} {m} {n} {k}");
                        assert_eq!(added[i].to_bits(), (2.0 + plain[i]).to_bits());
                        assert_eq!(c[i].to_bits(), (plain[i] + bias[j]).to_bits());
                    }
                }
            }
        }
    }

    #[test]
    fn sums_over_rows_and_products_at_a_stride_are_right() {
        for isa in Isa::available() {
            for (m, k, n) in [(1, 1, 1), (5, 7, 40), (30, 33, 70)] {
                let (a, b) = (noise(m * k, 1), noise(k * n, 2));
                let exact = |i: usize, j: usize| -> f64 {
                    (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j])).sum()
                };
                let c = sum_over_rows(isa, &a, &b, n);
                let stride = n.next_multiple_of(isa.panel());
                let mut wide = vec![0.0; k * stride];
                wide.chunks_mut(stride).zip(b.chunks(n)).for_each(|(wide, b)| wide[..n].copy_from_slice(b));
                let mut strided = vec![0.0; m * stride];
                Product { m, k, n }.run(isa, (&a, k), (&wide, stride), (&mut strided, stride));
                for i in 0..m {
                    for j in 0..n {
                        assert!((f64::from(c[i * n + j]) - exact(i, j)).abs() < 1e-4, "{isa:?} {m} {k} {n}");
                        assert_eq!(c[i * n + j].to_bits(), strided[i * stride + j].to_bits());
                    }
                }
                assert_eq!(transpose(&transpose(&a, k), m), a);
            }
        }
    }
}
