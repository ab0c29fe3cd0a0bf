//! The operations of a transformer on `[tokens, width]` tensors: on the CPU by hand-written kernels, elsewhere by Burn's
//! generic operations.
//!
//! Knows tensors and weights. Knows nothing of model families, layers or files. Sequences are folded: a step's tokens of
//! all rows stand below each other, so that every linear layer is one matrix product.

use burn::tensor::{Tensor, TensorData};

use crate::error::{Context, Error, Kind, Result};
use crate::llm::device::ComputeDevice;
use crate::llm::weights::HostTensor;

/// `x · Wᵀ + b`.
#[derive(Debug)]
pub struct Linear {
    inputs: usize,
    outputs: usize,
    weight: Tensor<2>,
    bias: Option<Tensor<2>>,
}

impl Linear {
    /// A layer from a weight `[out, in]` and a bias `[out]`.
    ///
    /// # Errors
    ///
    /// [`Kind::Model`] where the shapes do not fit.
    pub fn new(weight: HostTensor, bias: Option<HostTensor>, device: &ComputeDevice) -> Result<Self> {
        Self::fused(vec![(weight, bias)], device)
    }

    /// Several layers with the same input as one; their outputs stand side by side, in order.
    ///
    /// # Errors
    ///
    /// [`Kind::Model`] where the shapes do not fit, or where some have a bias and some have none.
    pub fn fused(parts: Vec<(HostTensor, Option<HostTensor>)>, device: &ComputeDevice) -> Result<Self> {
        let inputs = parts.first().and_then(|(w, _)| w.shape.get(1)).copied().unwrap_or(0);
        let (mut outputs, mut weights, mut biases) = (0, Vec::new(), Vec::new());
        for (weight, bias) in parts {
            let [rows, columns] = weight.shape[..] else {
                return Err(Error::new(Kind::Model, "the weight of a linear layer must have two dimensions"));
            };
            if columns != inputs || weight.data.len() != rows * columns {
                return Err(Error::new(Kind::Model, "the weights of a linear layer do not fit each other"));
            }
            outputs += rows;
            weights.extend(weight.data);
            if let Some(bias) = bias {
                biases.extend(bias.data);
            }
        }
        if !biases.is_empty() && biases.len() != outputs {
            return Err(Error::new(Kind::Model, "the bias of a linear layer does not fit its weight"));
        }
        let bias = (!biases.is_empty())
            .then(|| Tensor::from_data(TensorData::new(biases, [1, outputs]), &device.burn));
        let weight = Tensor::from_data(TensorData::new(weights, [outputs, inputs]), &device.burn);
        Ok(Linear { inputs, outputs, weight, bias })
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `[n, inputs]` to `[n, outputs]`.
    ///
    /// # Errors
    ///
    /// [`Kind::Internal`] where the device fails to hand over its data.
    pub fn forward(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        let y = x.matmul(self.weight.clone().transpose());
        Ok(match &self.bias {
            Some(bias) => y + bias.clone(),
            None => y,
        })
    }
}

/// The values of a tensor; no copy where it lies in host memory and has no other owner.
///
/// # Errors
///
/// [`Kind::Temporary`] where the device fails.
pub fn into_vec<const D: usize>(x: Tensor<D>) -> Result<Vec<f32>> {
    let data = x.try_into_data().context(Kind::Temporary, || "the device failed to hand over a tensor".to_owned())?;
    data.try_into_vec::<f32>().context(Kind::Internal, || "a tensor is not made of f32".to_owned())
}

/// A tensor from values in row-major order; no copy on the CPU.
pub fn from_vec<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &ComputeDevice) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), &device.burn)
}
