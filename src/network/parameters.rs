//! Weights: their names, initial values, Adam's steps, and their files.
//!
//! Knows tensors and safetensors. Knows nothing of their use. All weights are matrices; a bias is one row. A weight's
//! initial values depend on the seed and its own name only, so adding a part to a model does not change the initial
//! values of the others.

use std::collections::HashMap;
use std::path::Path;

use burn::optim::{Adam, AdamConfig, AdamState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{Gradients, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::llm::device::ComputeDevice;
use crate::llm::ops::{from_vec, into_vec};
use crate::network::random::Random;

/// Index of a weight in its [`Parameters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

/// Initialisation of a weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// The same value everywhere.
    Constant(f32),
    /// Normal around zero with this standard deviation.
    Normal(f32),
    /// Uniform in ±√(6 / (rows + columns)) (Glorot and Bengio 2010).
    Glorot,
    /// Uniform in ± this.
    Uniform(f32),
}

/// A named set of weights and the optimizer's state.
#[derive(Clone)]
pub struct Parameters {
    entries: Vec<Entry>,
    device: ComputeDevice,
    seed: u64,
    adam: Adam,
    decay: f64,
}

#[derive(Clone)]
struct Entry {
    name: String,
    value: Tensor<2>,
    state: Option<AdamState<2>>,
}

/// The weights as one pass of a model sees them.
pub struct Leaves(Vec<Tensor<2>>);

impl Leaves {
    /// The weight.
    pub fn at(&self, slot: Slot) -> Tensor<2> {
        self.0[slot.0].clone()
    }
}

/// The gradients of several backward passes, added up, in the order of the slots. Weights that no loss reached have none.
#[derive(Default)]
pub struct Accumulated(Vec<Option<Tensor<2>>>);

impl Accumulated {
    /// Adds the gradients of a pass over `leaves`.
    pub fn add(&mut self, leaves: Leaves, mut gradients: Gradients) {
        self.0.resize(leaves.0.len(), None);
        for (sum, leaf) in self.0.iter_mut().zip(leaves.0) {
            let Some(gradient) = leaf.grad_remove(&mut gradients) else { continue };
            let gradient = gradient.inner();
            *sum = Some(match sum.take() {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        }
    }

    /// Adds a weight's gradient, row by row.
    pub fn add_values(&mut self, leaves: &Leaves, slot: Slot, values: Vec<f32>, device: &ComputeDevice) {
        self.0.resize(leaves.0.len(), None);
        let gradient = from_vec(values, leaves.0[slot.0].dims(), device);
        let sum = &mut self.0[slot.0];
        *sum = Some(match sum.take() {
            Some(sum) => sum + gradient,
            None => gradient,
        });
    }

    /// Adds all gradients of another one.
    pub fn merge(&mut self, other: Accumulated) {
        self.0.resize(self.0.len().max(other.0.len()), None);
        for (sum, gradient) in self.0.iter_mut().zip(other.0) {
            *sum = match (sum.take(), gradient) {
                (Some(sum), Some(gradient)) => Some(sum + gradient),
                (sum, gradient) => sum.or(gradient),
            };
        }
    }

    /// A weight's gradient so far.
    pub fn at(&self, slot: Slot) -> Option<Tensor<2>> {
        self.0.get(slot.0).cloned().flatten()
    }

    /// The Euclidean norm over all weights.
    ///
    /// # Errors
    /// `Kind::Temporary` where the device fails.
    pub fn norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for gradient in self.0.iter().flatten() {
            sum += into_vec(gradient.clone())?.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>();
        }
        Ok(sum.sqrt())
    }

    /// Multiplies all of them.
    pub fn scale(&mut self, factor: f64) {
        for gradient in self.0.iter_mut() {
            *gradient = gradient.take().map(|g| g.mul_scalar(factor));
        }
    }
}

/// Saved values: see [`Parameters::values`].
#[derive(Clone)]
pub struct Values(Vec<Tensor<2>>);

impl Parameters {
    /// None yet. Adam with β = (0.9, 0.999) and ε = 1e-8, as PyTorch's default.
    pub fn new(seed: u64, device: &ComputeDevice) -> Self {
        let adam = AdamConfig::new().with_epsilon(1e-8).build();
        Parameters { entries: Vec::new(), device: device.clone(), seed, adam, decay: 0.0 }
    }

    /// Decoupled weight decay: every step first subtracts `learning_rate · decay` of each weight: AdamW (Loshchilov and
    /// Hutter 2019). No decay by default.
    pub fn set_weight_decay(&mut self, decay: f64) {
        self.decay = decay;
    }

    /// Adds a weight `[rows, columns]`.
    pub fn add(&mut self, name: &str, shape: [usize; 2], init: Init) -> Slot {
        let mut random = Random::new(self.seed, name);
        let n = shape[0] * shape[1];
        let mut uniform =
            |bound: f64| (0..n).map(|_| ((2.0 * random.uniform() - 1.0) * bound) as f32).collect::<Vec<f32>>();
        let values = match init {
            Init::Constant(value) => vec![value; n],
            Init::Normal(deviation) => (0..n).map(|_| random.normal() as f32 * deviation).collect(),
            Init::Glorot => uniform((6.0 / (shape[0] + shape[1]).max(1) as f64).sqrt()),
            Init::Uniform(bound) => uniform(f64::from(bound)),
        };
        let value = from_vec(values, shape, &self.device);
        self.entries.push(Entry { name: name.to_owned(), value, state: None });
        Slot(self.entries.len() - 1)
    }

    /// The weights' device.
    pub fn device(&self) -> &ComputeDevice {
        &self.device
    }

    /// The seed of their initial values.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Number of scalar values.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|e| e.value.dims().iter().product::<usize>()).sum()
    }

    /// The weights with gradient tracking.
    pub fn leaves(&self) -> Leaves {
        Leaves(self.entries.iter().map(|e| e.value.clone().autodiff().require_grad()).collect())
    }

    /// The weights as constants.
    pub fn constants(&self) -> Leaves {
        Leaves(self.entries.iter().map(|e| e.value.clone()).collect())
    }

    /// One step of Adam. Weights that the loss did not reach stay as they are.
    pub fn step(&mut self, leaves: Leaves, gradients: Gradients, learning_rate: f64) {
        let mut accumulated = Accumulated::default();
        accumulated.add(leaves, gradients);
        self.step_by(accumulated, learning_rate);
    }

    /// One step of Adam by gradients of one or more passes. Weights without one stay as they are.
    pub fn step_by(&mut self, gradients: Accumulated, learning_rate: f64) {
        for (entry, gradient) in self.entries.iter_mut().zip(gradients.0) {
            let Some(gradient) = gradient else { continue };
            let value = match self.decay {
                0.0 => entry.value.clone(),
                decay => entry.value.clone() * (1.0 - learning_rate * decay),
            };
            let (value, state) = self.adam.step(learning_rate, value, gradient, entry.state.take());
            (entry.value, entry.state) = (value, state);
        }
    }

    /// The current values.
    pub fn values(&self) -> Values {
        Values(self.entries.iter().map(|e| e.value.clone()).collect())
    }

    /// Restores values; the optimizer's state stays.
    pub fn set_values(&mut self, values: &Values) {
        for (entry, value) in self.entries.iter_mut().zip(&values.0) {
            entry.value = value.clone();
        }
    }

    /// The weight with this name.
    pub fn slot(&self, name: &str) -> Option<Slot> {
        self.entries.iter().position(|e| e.name == name).map(Slot)
    }

    /// Names of all weights, in the order of their slots.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|e| e.name.as_str())
    }

    /// Sets the values of a weight, row by row.
    ///
    /// # Errors
    /// `Kind::Internal` where there are more or fewer.
    pub fn write(&mut self, slot: Slot, values: Vec<f32>) -> Result<()> {
        let shape = self.entries[slot.0].value.dims();
        if values.len() != shape[0] * shape[1] {
            return Err(Error::new(Kind::Internal, "a weight was given another number of values"));
        }
        self.entries[slot.0].value = from_vec(values, shape, &self.device);
        Ok(())
    }

    /// The values of a weight, row by row.
    ///
    /// # Errors
    /// `Kind::Temporary` where the device fails.
    pub fn read(&self, slot: Slot) -> Result<Vec<f32>> {
        into_vec(self.entries[slot.0].value.clone())
    }

    /// Writes the values and `metadata` as a safetensors file, atomically.
    ///
    /// # Errors
    /// `Kind::Temporary` where the device or the disk fails.
    pub fn save(&self, path: &Path, metadata: HashMap<String, String>) -> Result<()> {
        write(path, self.tensors("", |e| Some(e.value.clone()))?, metadata)
    }

    /// Reads what [`Parameters::save`] wrote, or any safetensors file with these names and shapes; returns its metadata.
    ///
    /// # Errors
    /// `Kind::Model` where the file is missing, broken or made for another model.
    pub fn load(&mut self, path: &Path) -> Result<HashMap<String, String>> {
        let file = Stored::open(path)?;
        let values = self.entries.iter().map(|e| file.tensor(&e.name, &e.value, &self.device));
        let values = Values(values.collect::<Result<_>>()?);
        self.set_values(&values);
        Ok(file.metadata)
    }

    /// Writes everything needed to resume training: values, the optimizer's state, the `best` values so far, and
    /// `metadata`.
    ///
    /// # Errors
    /// As [`Parameters::save`].
    pub fn save_checkpoint(&self, path: &Path, best: &Values, mut metadata: HashMap<String, String>) -> Result<()> {
        let mut tensors = self.tensors("value/", |e| Some(e.value.clone()))?;
        for (entry, best) in self.entries.iter().zip(&best.0) {
            tensors.push(HostMatrix::new(format!("best/{}", entry.name), best.clone())?);
        }
        let moment = |e: &Entry| e.state.as_ref().map(|s| s.momentum.moment_1.clone());
        tensors.extend(self.tensors("moment_1/", moment)?);
        let moment = |e: &Entry| e.state.as_ref().map(|s| s.momentum.moment_2.clone());
        tensors.extend(self.tensors("moment_2/", moment)?);
        for (entry, state) in self.entries.iter().filter_map(|e| e.state.as_ref().map(|s| (e, s))) {
            metadata.insert(format!("steps/{}", entry.name), state.momentum.time.to_string());
        }
        write(path, tensors, metadata)
    }

    /// Reads what [`Parameters::save_checkpoint`] wrote; returns the best values and the metadata.
    ///
    /// # Errors
    /// As [`Parameters::load`].
    pub fn load_checkpoint(&mut self, path: &Path) -> Result<(Values, HashMap<String, String>)> {
        let file = Stored::open(path)?;
        let (mut entries, mut best) = (Vec::new(), Vec::new());
        for e in &self.entries {
            let read = |part: &str| file.tensor(&format!("{part}/{}", e.name), &e.value, &self.device);
            let steps = file.metadata.get(&format!("steps/{}", e.name)).and_then(|s| s.parse().ok());
            let state = match steps {
                None => None,
                Some(n) => Some(AdamState::new(AdaptiveMomentumState::new(n, read("moment_1")?, read("moment_2")?))),
            };
            entries.push(Entry { name: e.name.clone(), value: read("value")?, state });
            best.push(read("best")?);
        }
        self.entries = entries;
        Ok((Values(best), file.metadata))
    }

    fn tensors(&self, prefix: &str, part: impl Fn(&Entry) -> Option<Tensor<2>>) -> Result<Vec<HostMatrix>> {
        let parts = self.entries.iter().filter_map(|e| part(e).map(|t| (e, t)));
        parts.map(|(e, t)| HostMatrix::new(format!("{prefix}{}", e.name), t)).collect()
    }
}

/// A matrix to be written.
struct HostMatrix {
    name: String,
    shape: [usize; 2],
    bytes: Vec<u8>,
}

impl HostMatrix {
    fn new(name: String, tensor: Tensor<2>) -> Result<Self> {
        let shape = tensor.dims();
        let bytes = into_vec(tensor)?.into_iter().flat_map(f32::to_le_bytes).collect();
        Ok(HostMatrix { name, shape, bytes })
    }
}

/// Writes a temporary file and renames it, so that the file is always complete.
fn write(path: &Path, tensors: Vec<HostMatrix>, metadata: HashMap<String, String>) -> Result<()> {
    let failed = || format!("cannot write `{}`", path.display());
    let views: Result<Vec<(&str, TensorView<'_>)>, _> = tensors
        .iter()
        .map(|t| TensorView::new(Dtype::F32, t.shape.to_vec(), &t.bytes).map(|view| (t.name.as_str(), view)))
        .collect();
    let views = views.context(Kind::Internal, failed)?;
    let bytes = safetensors::serialize(views, Some(metadata)).context(Kind::Internal, failed)?;
    disk::write_whole(path, &bytes).context(Kind::Temporary, failed)
}

/// A safetensors file in memory.
struct Stored {
    path: String,
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl Stored {
    fn open(path: &Path) -> Result<Self> {
        let broken = || format!("cannot read the weights in `{}`", path.display());
        let bytes = std::fs::read(path).context(Kind::Model, broken)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).context(Kind::Model, broken)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Stored { path: path.display().to_string(), bytes, metadata })
    }

    /// A tensor in the shape of `like`.
    fn tensor(&self, name: &str, like: &Tensor<2>, device: &ComputeDevice) -> Result<Tensor<2>> {
        let broken = |what: &str| Error::new(Kind::Model, what).with("tensor", name).with("file", &self.path);
        let file = SafeTensors::deserialize(&self.bytes).map_err(|e| broken("the weights are broken").source(e))?;
        let view = file.tensor(name).map_err(|e| broken("a weight is missing").source(e))?;
        let shape = like.dims();
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            return Err(broken("a weight has another shape or type than the model")
                .with("has", format!("{:?} {:?}", view.dtype(), view.shape()))
                .with("needs", format!("F32 {shape:?}")));
        }
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(from_vec(values.collect(), shape, device))
    }
}
