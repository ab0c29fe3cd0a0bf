//! Building blocks of networks: a pass, linear layers, norms, dropout, embedding lookups.
//!
//! Knows tensors and weights; knows nothing of what they are for. Every linear layer takes `[n, width]`, so that it is
//! one matrix product, whatever `n` counts.

use burn::tensor::{Distribution, Int, Tensor, TensorData, activation, module};
use rayon::prelude::*;

use crate::error::Result;
use crate::llm::device::ComputeDevice;
use crate::llm::ops::{from_vec, into_vec};
use crate::network::parameters::{Accumulated, Init, Leaves, Parameters, Slot};
use crate::network::random::Random;

/// One pass of a model: its weights, and its random numbers if it trains.
pub struct Pass {
    /// The weights.
    pub leaves: Leaves,
    device: ComputeDevice,
    random: Option<Random>,
    outside: Vec<Outside>,
}

/// Backward function: from the gradient of values to those of weights.
type Back = Box<dyn FnOnce(Vec<f32>) -> Vec<(Slot, Vec<f32>)>>;

/// Values that were computed by hand.
struct Outside {
    values: Tensor<1>,
    back: Back,
}

impl Pass {
    /// A pass that is differentiated, with dropout.
    pub fn training(parameters: &Parameters, random: Random) -> Self {
        Pass {
            leaves: parameters.leaves(),
            device: parameters.device().clone(),
            random: Some(random),
            outside: Vec::new(),
        }
    }

    /// A pass without gradients and without randomness.
    pub fn scoring(parameters: &Parameters) -> Self {
        Pass { leaves: parameters.constants(), device: parameters.device().clone(), random: None, outside: Vec::new() }
    }

    /// Wraps values that were computed by hand from the weights, for further use; `back` turns their gradient into
    /// those of the weights.
    pub fn outside(&mut self, values: Vec<f32>, back: Back) -> Tensor<1> {
        let n = values.len();
        let values = from_vec(values, [n], &self.device).autodiff().require_grad();
        self.outside.push(Outside { values: values.clone(), back });
        values
    }

    /// Differentiates a loss by the weights.
    ///
    /// # Errors
    /// `Kind::Temporary` where the device fails.
    pub fn gradients(self, loss: Tensor<1>) -> Result<Accumulated> {
        let mut gradients = loss.backward();
        let mut found = Accumulated::default();
        for Outside { values, back } in self.outside {
            let Some(gradient) = values.grad_remove(&mut gradients) else { continue };
            for (slot, values) in back(into_vec(gradient.inner())?) {
                found.add_values(&self.leaves, slot, values, &self.device);
            }
        }
        found.add(self.leaves, gradients);
        Ok(found)
    }

    /// Where the pass runs.
    pub fn device(&self) -> &ComputeDevice {
        &self.device
    }

    /// Whether gradients are tracked.
    pub fn trains(&self) -> bool {
        self.random.is_some()
    }

    /// The pass's random stream; a fixed one if it does not train.
    pub fn stream(&mut self) -> Random {
        match &mut self.random {
            Some(random) => Random::new(random.bits(), "pass"),
            None => Random::new(0, "pass"),
        }
    }

    /// Sets values to zero with `probability` and scales the others up; no change if the pass does not train.
    pub fn dropout<const D: usize>(&mut self, x: Tensor<D>, probability: f64) -> Tensor<D> {
        if !self.trains() || probability <= 0.0 {
            return x;
        }
        let (shape, stream) = (x.dims(), self.stream());
        let mask = if self.device.name == "cpu" {
            from_vec(dropout_mask(shape.iter().product(), probability, &stream), shape, &self.device)
        } else {
            let kept = Tensor::random(shape, Distribution::Bernoulli(1.0 - probability), &self.device.burn);
            kept / (1.0 - probability)
        };
        x * mask
    }

    /// Whole numbers on the pass's device.
    pub fn indices(&self, values: &[u32]) -> Tensor<1, Int> {
        let values: Vec<i32> = values.iter().map(|v| *v as i32).collect();
        let n = values.len();
        Tensor::from_data(TensorData::new(values, [n]), &self.device.burn)
    }

    /// A constant matrix.
    pub fn constant<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        from_vec(values, shape, &self.device)
    }
}

/// A dropout mask, computed in parallel; depends on the stream only.
pub fn dropout_mask(len: usize, probability: f64, stream: &Random) -> Vec<f32> {
    let mut mask = vec![0.0; len];
    let chunks = mask.par_chunks_mut(8192).enumerate();
    chunks.for_each(|(i, chunk)| stream.child(i as u64).dropout(chunk, probability));
    mask
}

/// `x · W + b`.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// `[inputs, outputs]`.
    pub weight: Slot,
    /// `[1, outputs]`.
    pub bias: Slot,
}

impl Linear {
    /// Adds `<name>.weight` and `<name>.bias`; the bias is initialised to zero.
    pub fn new(parameters: &mut Parameters, name: &str, inputs: usize, outputs: usize, init: Init) -> Self {
        let weight = parameters.add(&format!("{name}.weight"), [inputs, outputs], init);
        let bias = parameters.add(&format!("{name}.bias"), [1, outputs], Init::Constant(0.0));
        Linear { weight, bias }
    }

    /// `[n, inputs]` to `[n, outputs]`.
    pub fn forward(&self, pass: &Pass, x: Tensor<2>) -> Tensor<2> {
        x.matmul(pass.leaves.at(self.weight)) + pass.leaves.at(self.bias)
    }
}

/// `x` above zero, `a · x` below, with an `a` for every channel, initially 0.25.
#[derive(Debug, Clone, Copy)]
pub struct Prelu(Slot);

impl Prelu {
    /// Adds the slopes `name`, `[1, width]`.
    pub fn new(parameters: &mut Parameters, name: &str, width: usize) -> Self {
        Prelu(parameters.add(name, [1, width], Init::Constant(0.25)))
    }

    /// `[n, width]` to `[n, width]`.
    pub fn forward(&self, pass: &Pass, x: Tensor<2>) -> Tensor<2> {
        activation::relu(x.clone()) - activation::relu(-x) * pass.leaves.at(self.0)
    }
}

/// Layer norm of every row.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// `[1, width]`.
    pub scale: Slot,
    /// `[1, width]`.
    pub shift: Slot,
}

/// Epsilon of layer norms, as in RecBole.
pub const NORM_EPSILON: f64 = 1e-12;

impl Norm {
    /// Adds `<name>.weight`, ones, and `<name>.bias`, zeros.
    pub fn new(parameters: &mut Parameters, name: &str, width: usize) -> Self {
        let scale = parameters.add(&format!("{name}.weight"), [1, width], Init::Constant(1.0));
        let shift = parameters.add(&format!("{name}.bias"), [1, width], Init::Constant(0.0));
        Norm { scale, shift }
    }

    /// `[n, width]` to `[n, width]`.
    pub fn forward(&self, pass: &Pass, x: Tensor<2>) -> Tensor<2> {
        let [_, width] = x.dims();
        let row = |slot| pass.leaves.at(slot).reshape([width]);
        module::layer_norm(x, row(self.scale), Some(row(self.shift)), NORM_EPSILON)
    }
}
