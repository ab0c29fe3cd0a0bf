//! Kernels that go over rows: norms, activations, softmax, each with its gradient.

use std::hint::black_box;

use crate::kernels::activation::{gelu, gelu_with_derivative, swiglu, swiglu_back};
use crate::kernels::norm::{add_layer_norm, layer_norm, layer_norm_back, rms_norm, rms_norm_back};
use crate::kernels::softmax::{cross_entropy, exponentials, exponentials_less, softmax_back};
use crate::{Workload, noise};

const EPS: f32 = 1e-5;

pub(crate) const ALL: &[Workload] = &[
    ("rms-norm", |isa| {
        let [rows, width] = black_box([64, 576]);
        let (x, weight, mut out) = (noise(rows * width, 1), noise(width, 2), vec![0.0; rows * width]);
        Box::new(move || rms_norm(isa, &x, &weight, EPS, &mut out))
    }),
    ("rms-norm-back", |isa| {
        let [rows, width] = black_box([64, 576]);
        let (x, weight, dy) = (noise(rows * width, 1), noise(width, 2), noise(rows * width, 3));
        let mut dx = vec![0.0; rows * width];
        Box::new(move || rms_norm_back(isa, &x, &weight, EPS, &dy, &mut dx))
    }),
    ("add-layer-norm", |isa| {
        let [rows, width] = black_box([64, 384]);
        let (mut x, residual) = (noise(rows * width, 1), noise(rows * width, 2));
        let (weight, bias) = (noise(width, 3), noise(width, 4));
        Box::new(move || add_layer_norm(isa, &mut x, &residual, &weight, &bias, EPS))
    }),
    ("layer-norm", |isa| {
        let [rows, width] = black_box([64, 64]);
        let (mut x, mask, residual) = (noise(rows * width, 1), noise(rows * width, 2), noise(rows * width, 3));
        let (bias, weight, shift) = (noise(width, 4), noise(width, 5), noise(width, 6));
        let (mut out, mut scales) = (vec![0.0; rows * width], vec![0.0; rows]);
        Box::new(move || {
            layer_norm(isa, &mut x, &bias, &mask, &residual, &weight, &shift, EPS, &mut out, &mut scales);
        })
    }),
    ("layer-norm-back", |isa| {
        let [rows, width] = black_box([64, 64]);
        let (gradient, x, scales, weight) =
            (noise(rows * width, 1), noise(rows * width, 2), noise(rows, 3), noise(width, 4));
        let (mut input, mut sums) = (vec![0.0; rows * width], vec![0.0; 2 * width]);
        Box::new(move || layer_norm_back(isa, &gradient, &x, &scales, &weight, &mut input, &mut sums))
    }),
    ("swiglu", |isa| {
        let [rows, width] = black_box([16, 1536]);
        let (gate_up, mut out) = (noise(rows * 2 * width, 1), vec![0.0; rows * width]);
        Box::new(move || swiglu(isa, &gate_up, width, &mut out))
    }),
    ("swiglu-back", |isa| {
        let [rows, width] = black_box([16, 1536]);
        let (mut gate_up, dy) = (noise(rows * 2 * width, 1), noise(rows * width, 2));
        Box::new(move || swiglu_back(isa, &mut gate_up, width, &dy))
    }),
    ("gelu", |isa| {
        let mut x = noise(black_box(16 * 1536), 1);
        Box::new(move || gelu(isa, &mut x))
    }),
    ("gelu-with-derivative", |isa| {
        let [rows, width] = black_box([64, 256]);
        let (mut x, bias, mut out) = (noise(rows * width, 1), noise(width, 2), vec![0.0; rows * width]);
        Box::new(move || gelu_with_derivative(isa, &mut x, &bias, &mut out))
    }),
    ("softmax-short", |isa| {
        let [rows, width] = black_box([32, 224]);
        let mut scores = noise(rows * width, 1);
        // As in attention: later rows see more.
        Box::new(move || {
            for (i, scores) in scores.chunks_exact_mut(width).enumerate() {
                black_box(exponentials(isa, scores, width - 31 + i));
            }
        })
    }),
    ("softmax-vocabulary", |isa| {
        let mut logits = noise(black_box(49_152), 1);
        Box::new(move || {
            black_box(exponentials_less(isa, &mut logits, 1.0));
        })
    }),
    ("softmax-back", |isa| {
        let width = black_box(10_000);
        let (mut weights, mut slopes) = (noise(width, 1), noise(width, 2));
        Box::new(move || softmax_back(isa, &mut weights, &mut slopes, 0.1, 0.2))
    }),
    ("cross-entropy", |isa| {
        let (mut logits, target) = (noise(black_box(10_007), 1), black_box(4_711));
        Box::new(move || {
            black_box(cross_entropy(isa, &mut logits, target, 0.5));
        })
    }),
];
