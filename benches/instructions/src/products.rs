//! Matrix products: of a decoder's layer, by how its weights are kept and by how many rows it gets; packing; the products of training.

use std::hint::black_box;

use crate::kernels::narrow::{Half, Matrix, Quantised};
use crate::kernels::product::{Into, Packed, Product, sum_over_rows};
use crate::{Isa, Work, Workload, noise};

/// Rows of a prefill: many tiles, and few enough for one stretch of narrow weights.
const PREFILL: usize = 32;
/// Rows of a decoder's step that has one sequence.
const DECODE: usize = 1;
/// A layer of SmolLM2-135M: its width, and that of its gates.
const LAYER: [usize; 2] = [576, 1536];

pub(crate) const ALL: &[Workload] = &[
    ("product-prefill-f32", |isa| product(isa, full, PREFILL)),
    ("product-prefill-f16", |isa| product(isa, binary16, PREFILL)),
    ("product-prefill-bf16", |isa| product(isa, brain, PREFILL)),
    ("product-prefill-q8", |isa| product(isa, eight_bits, PREFILL)),
    ("product-prefill-q4", |isa| product(isa, four_bits, PREFILL)),
    ("product-prefill-q4-minima", |isa| product(isa, four_bits_with_minima, PREFILL)),
    ("product-decode-f32", |isa| product(isa, full, DECODE)),
    ("product-decode-f16", |isa| product(isa, binary16, DECODE)),
    ("product-decode-bf16", |isa| product(isa, brain, DECODE)),
    ("product-decode-q8", |isa| product(isa, eight_bits, DECODE)),
    ("product-decode-q4", |isa| product(isa, four_bits, DECODE)),
    ("product-decode-q4-minima", |isa| product(isa, four_bits_with_minima, DECODE)),
    ("product-edges", edges),
    ("product-strided", strided),
    ("pack-f32", |isa| pack(isa, full)),
    ("pack-f16", |isa| pack(isa, binary16)),
    ("pack-q4", |isa| pack(isa, four_bits)),
    ("sum-over-rows", sums),
];

/// A layer's product with `rows` rows.
fn product(isa: Isa, kept: fn(usize, usize) -> Matrix, rows: usize) -> Work {
    let ([inputs, outputs], rows) = black_box((LAYER, rows));
    let packed = Packed::kept(isa, inputs, &[kept(outputs, inputs)]);
    let (a, mut c) = (noise(rows * inputs, 1), vec![0.0; rows * outputs]);
    Box::new(move || packed.product(&a, None, &mut c, Into::Set))
}

/// Added to the target, with a bias; the last panel and the last tile are not whole.
fn edges(isa: Isa) -> Work {
    let [rows, inputs, outputs] = black_box([13, 384, 1001]);
    let packed = Packed::kept(isa, inputs, &[full(outputs, inputs)]);
    let (a, bias, mut c) = (noise(rows * inputs, 1), noise(outputs, 2), vec![0.0; rows * outputs]);
    Box::new(move || packed.product(&a, Some(&bias), &mut c, Into::Add))
}

/// A product of two matrices that were not packed, as attention's.
fn strided(isa: Isa) -> Work {
    let [m, k, n] = black_box([48usize, 64, 200]);
    let stride = n.next_multiple_of(isa.panel());
    let (a, b, mut c) = (noise(m * k, 1), noise(k * stride, 2), vec![0.0; m * stride]);
    Box::new(move || Product { m, k, n }.run(isa, (&a, k), (&b, stride), (&mut c, stride)))
}

/// A layer's weights on their way from a file into panels.
fn pack(isa: Isa, kept: fn(usize, usize) -> Matrix) -> Work {
    let [inputs, outputs] = black_box(LAYER);
    let matrices = [kept(outputs, inputs)];
    Box::new(move || {
        black_box(Packed::kept(isa, inputs, &matrices));
    })
}

/// The gradient of a low-rank adapter's weights.
fn sums(isa: Isa) -> Work {
    let [rank, tokens, width] = black_box([8, 96, 576]);
    let (a, b) = (noise(rank * tokens, 1), noise(tokens * width, 2));
    Box::new(move || {
        black_box(sum_over_rows(isa, &a, &b, width));
    })
}

fn full(rows: usize, columns: usize) -> Matrix {
    Matrix::Full(noise(rows * columns, 3))
}

/// Normal numbers of one size and both signs.
fn binary16(rows: usize, columns: usize) -> Matrix {
    let bits = |x: &f32| (x.to_bits() >> 16) as u16 & 0x83ff | 14 << 10;
    Matrix::Halves(Half::Binary16, noise(rows * columns, 3).iter().map(bits).collect())
}

fn brain(rows: usize, columns: usize) -> Matrix {
    Matrix::Halves(Half::Brain, noise(rows * columns, 3).iter().map(|x| (x.to_bits() >> 16) as u16).collect())
}

fn eight_bits(rows: usize, columns: usize) -> Matrix {
    quantised(rows, columns, None, false)
}

fn four_bits(rows: usize, columns: usize) -> Matrix {
    quantised(rows, columns, Some(-8), false)
}

fn four_bits_with_minima(rows: usize, columns: usize) -> Matrix {
    quantised(rows, columns, Some(0), true)
}

/// In groups of 32, as files have them.
fn quantised(rows: usize, columns: usize, four_bits_from: Option<i8>, has_minima: bool) -> Matrix {
    let group = 32;
    let groups = rows * columns / group;
    let quant = |x: &f32| match four_bits_from {
        Some(least) => least + ((x + 1.0) * 7.5) as i8,
        None => (x * 127.0) as i8,
    };
    Matrix::Quantised(Quantised {
        columns,
        group,
        four_bits_from,
        quants: noise(rows * columns, 3).iter().map(quant).collect(),
        scales: noise(groups, 4),
        minima: if has_minima { noise(groups, 5) } else { Vec::new() },
    })
}
