//! Matrix products: on weights that are packed once, on matrices at a stride, and sums over tokens.
//!
//! Knows numbers only: no tensors, layers or models. Work is spread over the rayon pool that the caller is in.
//!
//! **Every result depends on its own row only.** Each output is one chain of multiply-adds over `k` in ascending order,
//! whatever the number of rows and whichever tile computes it. So a row gives the same bits alone, in a batch, and in
//! chunks.

use rayon::prelude::*;

use crate::kernels::isa::Isa;
use crate::kernels::narrow::{Matrix, Panels, STRETCH, in_panels};
use crate::kernels::tile::{MAX_PANEL, MAX_TILE_ROWS, Shared, for_tiles, tile, tile_onto};

/// Most rows for which a stretch is widened once: with their sums they stay in the second-level cache.
const NARROW_ROWS: usize = 192;

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
    parts: Vec<Part>,
}

/// Outputs that are kept in one form.
#[derive(Debug)]
struct Part {
    /// The first of them.
    first: usize,
    outputs: usize,
    panels: Form,
}

#[derive(Debug)]
enum Form {
    Full(Vec<f32>),
    Narrow(Panels),
}

impl Packed {
    /// Packs matrices of `inputs` columns that stand below each other.
    ///
    /// # Panics
    /// Where a part is no multiple of `inputs` long.
    pub fn new(isa: Isa, inputs: usize, parts: &[&[f32]]) -> Self {
        assert!(inputs > 0 && parts.iter().all(|p| p.len().is_multiple_of(inputs)), "weights must be whole rows");
        let (outputs, panels) = full(isa, inputs, parts);
        Packed { isa, inputs, outputs, parts: vec![Part { first: 0, outputs, panels: Form::Full(panels) }] }
    }

    /// Packs matrices of `inputs` columns that stand below each other, each in the form in which it is kept. Products have the same
    /// bits as those of the same values in f32.
    ///
    /// # Panics
    /// Where a part is no multiple of `inputs` long.
    pub fn kept(isa: Isa, inputs: usize, matrices: &[Matrix]) -> Self {
        assert!(inputs > 0 && matrices.iter().all(|p| p.len().is_multiple_of(inputs)), "weights must be whole rows");
        let mut packed = Packed { isa, inputs, outputs: 0, parts: Vec::new() };
        for same in matrices.chunk_by(|a, b| matches!((a, b), (Matrix::Full(_), Matrix::Full(_)))) {
            let (outputs, panels) = match same {
                [Matrix::Halves(half, values)] => {
                    (values.len() / inputs, Form::Narrow(Panels::halves(isa, inputs, *half, values)))
                }
                [Matrix::Quantised(q)] => {
                    assert!(q.columns == inputs, "weights must be whole rows");
                    (q.quants.len() / inputs, Form::Narrow(Panels::quantised(isa, q)))
                }
                same => {
                    let slices: Vec<&[f32]> = same.iter().map(Matrix::full).collect();
                    let (outputs, panels) = full(isa, inputs, &slices);
                    (outputs, Form::Full(panels))
                }
            };
            packed.parts.push(Part { first: packed.outputs, outputs, panels });
            packed.outputs += outputs;
        }
        packed
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
        Packed { isa, inputs, outputs, parts: vec![Part { first: 0, outputs, panels: Form::Full(panels) }] }
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

    /// How many bytes the weights take.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        let of = |part: &Part| match &part.panels {
            Form::Full(panels) => panels.len() * 4,
            Form::Narrow(panels) => panels.bytes(),
        };
        self.parts.iter().map(of).sum()
    }

    /// Copies one row of the unpacked matrix: for embeddings that are also the output layer.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (k, nr) = (self.inputs, self.isa.panel());
        let part = &self.parts[self.parts.partition_point(|part| part.first + part.outputs <= row)];
        let (p, column) = ((row - part.first) / nr, (row - part.first) % nr);
        let mut take = |from: usize, lines: &[f32]| {
            for (out, line) in out.iter_mut().skip(from).zip(lines.chunks_exact(nr)) {
                *out = line[column];
            }
        };
        match &part.panels {
            Form::Full(panels) => take(0, &panels[p * nr * k..][..nr * k]),
            Form::Narrow(panels) => {
                let mut lines = vec![0f32; STRETCH.min(k) * nr];
                for from in (0..k).step_by(STRETCH) {
                    let lines = &mut lines[..STRETCH.min(k - from) * nr];
                    panels.widen(self.isa, p, from, lines);
                    take(from, lines);
                }
            }
        }
    }

    /// `c = a · Wᵀ + bias`, or added to `c`; `a` is `[m, inputs]`, `c` `[m, outputs]`.
    ///
    /// # Panics
    /// Where a slice has another length.
    pub fn product(&self, a: &[f32], bias: Option<&[f32]>, c: &mut [f32], into: Into) {
        let (k, n) = (self.inputs, self.outputs);
        assert!(a.len().is_multiple_of(k), "the input must be whole rows");
        let m = a.len() / k;
        assert!(c.len() == m * n && bias.is_none_or(|b| b.len() == n), "the output must fit");
        if m == 0 {
            return;
        }
        let (c, epilogue) = (Shared::new(c), Epilogue { bias, into });
        for part in &self.parts {
            match &part.panels {
                Form::Full(panels) => self.full_product(part, panels, a, epilogue, c),
                Form::Narrow(panels) => self.narrow_product(part, panels, a, epilogue, c),
            }
        }
    }

    fn full_product(&self, part: &Part, panels: &[f32], a: &[f32], epilogue: Epilogue<'_>, c: Shared) {
        let (k, n, nr) = (self.inputs, self.outputs, self.isa.panel());
        let m = a.len() / k;
        // A block of input rows stays in a core's second-level cache while panels pass by.
        let most = self.isa.tile_rows();
        let block = ((512 * 1024 / 4 / k) / most * most).max(most);
        let blocks = m.div_ceil(block);
        let block = m.div_ceil(blocks);
        let count = part.outputs.div_ceil(nr);
        (0..blocks * count).into_par_iter().for_each(|task| {
            let (first, p) = (task / count * block, task % count);
            let rows = block.min(m - first);
            let b = panels[p * nr * k..][..nr * k].as_ptr();
            let columns = nr.min(part.outputs - p * nr);
            let column = part.first + p * nr;
            let mut sums = [0f32; MAX_TILE_ROWS * MAX_PANEL];
            for_tiles(rows, most, |tile_first, height| {
                let row = first + tile_first;
                let a = &a[row * k..(row + height) * k];
                let f = tile(self.isa, height);
                if columns == nr && epilogue.is_plain() {
                    // SAFETY: `a` holds `height` rows of `k`, `b` a whole panel; the task's rows and columns of `c`, of
                    // which there are `m` by `n`, are nobody else's.
                    return unsafe { f(k, a.as_ptr(), k, b, nr, c.at(row * n + column), n) };
                }
                // SAFETY: `a` holds `height` rows of `k`, `b` a whole panel, `sums` the largest tile.
                unsafe { f(k, a.as_ptr(), k, b, nr, sums.as_mut_ptr(), nr) };
                for i in 0..height {
                    // SAFETY: the task's rows and columns of `c`, of which there are `m` by `n`, are nobody else's.
                    let target = unsafe { c.part((row + i) * n + column, columns) };
                    epilogue.apply(&mut sums[i * nr..i * nr + columns], column, target);
                }
            });
        });
    }

    /// As [`Packed::full_product`]: a stretch of a panel is widened once for many rows, and sums go on from stretch to stretch.
    fn narrow_product(&self, part: &Part, panels: &Panels, a: &[f32], epilogue: Epilogue<'_>, c: Shared) {
        let (k, n, nr) = (self.inputs, self.outputs, self.isa.panel());
        let m = a.len() / k;
        let most = self.isa.tile_rows();
        let blocks = m.div_ceil(NARROW_ROWS);
        let block = m.div_ceil(blocks);
        let count = part.outputs.div_ceil(nr);
        let buffers = || (vec![0f32; STRETCH.min(k) * nr], vec![0f32; block * nr]);
        (0..blocks * count).into_par_iter().for_each_init(buffers, |(lines, sums), task| {
            let (first, p) = (task / count * block, task % count);
            let rows = block.min(m - first);
            let columns = nr.min(part.outputs - p * nr);
            let column = part.first + p * nr;
            for from in (0..k).step_by(STRETCH) {
                let length = STRETCH.min(k - from);
                let lines = &mut lines[..length * nr];
                panels.widen(self.isa, p, from, lines);
                for_tiles(rows, most, |tile_first, height| {
                    let row = first + tile_first;
                    let a = &a[row * k + from..][..(height - 1) * k + length];
                    let sums = &mut sums[tile_first * nr..(tile_first + height) * nr];
                    let f = if from == 0 { tile(self.isa, height) } else { tile_onto(self.isa, height) };
                    // SAFETY: `a` holds `height` rows of `length` at a stride of `k`, `lines` as many lines of a panel, `sums`
                    // as many rows of one.
                    unsafe { f(length, a.as_ptr(), k, lines.as_ptr(), nr, sums.as_mut_ptr(), nr) };
                });
            }
            for (i, sums) in sums.chunks_exact_mut(nr).take(rows).enumerate() {
                // SAFETY: the task's rows and columns of `c`, of which there are `m` by `n`, are nobody else's.
                let target = unsafe { c.part((first + i) * n + column, columns) };
                epilogue.apply(&mut sums[..columns], column, target);
            }
        });
    }
}

/// Rows of weights that stand below each other in panels, and how many they are.
fn full(isa: Isa, inputs: usize, parts: &[&[f32]]) -> (usize, Vec<f32>) {
    let rows: Vec<&[f32]> = parts.iter().flat_map(|p| p.chunks_exact(inputs)).collect();
    (rows.len(), in_panels(isa, inputs, &rows))
}

/// What is done with whole sums.
#[derive(Debug, Clone, Copy)]
struct Epilogue<'a> {
    /// `[outputs]`.
    bias: Option<&'a [f32]>,
    into: Into,
}

impl Epilogue<'_> {
    /// Whether sums are written as they are.
    fn is_plain(self) -> bool {
        self.bias.is_none() && self.into == Into::Set
    }

    /// Puts the sums of the columns from `column` on into `target`.
    fn apply(self, sums: &mut [f32], column: usize, target: &mut [f32]) {
        if let Some(bias) = self.bias {
            for (s, b) in sums.iter_mut().zip(&bias[column..]) {
                *s += b;
            }
        }
        match self.into {
            Into::Set => target.copy_from_slice(sums),
            Into::Add => {
                for (t, s) in target.iter_mut().zip(sums.iter()) {
                    *t += *s;
                }
            }
        }
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
    use half::{bf16, f16};

    use super::*;
    use crate::kernels::arithmetic::noise;
    use crate::kernels::narrow::{Half, Quantised};

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

    /// Values in groups of 32 or 16, as files have them.
    fn quantised(rows: usize, columns: usize, group: usize, four_bits_from: Option<i8>, has_minimum: bool) -> Matrix {
        let groups = rows * columns / group;
        let quant = |(at, x): (usize, &f32)| match four_bits_from {
            Some(least) => least + (at * 7 % 16) as i8,
            None => (x * 127.0) as i8,
        };
        Matrix::Quantised(Quantised {
            columns,
            group,
            four_bits_from,
            quants: noise(rows * columns, 5).iter().enumerate().map(quant).collect(),
            scales: noise(groups, 6).iter().map(|x| x / 100.0).collect(),
            minima: if has_minimum { noise(groups, 7) } else { Vec::new() },
        })
    }

    fn halves(half: Half, rows: usize, columns: usize) -> Matrix {
        let bits = |x: &f32| match half {
            Half::Binary16 => f16::from_f32(*x).to_bits(),
            Half::Brain => bf16::from_f32(*x).to_bits(),
        };
        Matrix::Halves(half, noise(rows * columns, 8).iter().map(bits).collect())
    }

    #[test]
    fn weights_in_fewer_bits_give_the_bits_of_their_values() {
        for isa in Isa::available() {
            for k in [32, 256, 576, 1536] {
                let matrices = [
                    quantised(40, k, 32, Some(-8), false),
                    quantised(33, k, 32, Some(0), true),
                    Matrix::Full(noise(5 * k, 9)),
                    Matrix::Full(noise(20 * k, 10)),
                    quantised(7, k, 16, None, false),
                    halves(Half::Binary16, 16, k),
                    quantised(17, k, 32, None, true),
                    halves(Half::Brain, 3, k),
                ];
                let values: Vec<Vec<f32>> = matrices.iter().map(|m| m.clone().widened()).collect();
                let slices: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
                let (kept, full) = (Packed::kept(isa, k, &matrices), Packed::new(isa, k, &slices));
                let n = full.outputs();
                assert_eq!((kept.outputs(), kept.inputs()), (n, k));
                assert!(kept.bytes() < full.bytes(), "{isa:?} {k}");
                let (mut row, mut exact) = (vec![9.0; k], vec![0.0; k]);
                for at in 0..n {
                    kept.row(at, &mut row);
                    full.row(at, &mut exact);
                    assert!(row.iter().zip(&exact).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa:?} {k} {at}");
                }
                let bias = noise(n, 11);
                for m in [1, 5, 13, 200, 401] {
                    let a = noise(m * k, 12);
                    for (bias, into) in [(None, Into::Set), (Some(bias.as_slice()), Into::Set), (None, Into::Add)] {
                        let [mut got, mut wanted] = [vec![0.25; m * n], vec![0.25; m * n]];
                        kept.product(&a, bias, &mut got, into);
                        full.product(&a, bias, &mut wanted, into);
                        assert!(got.iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa:?} {k} {m}");
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
