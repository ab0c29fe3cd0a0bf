//! The key-value cache: keys and values of each slot's earlier positions.
//!
//! Knows slots, positions and heads. Knows nothing of tokens or of which slot is in use; positions beyond a row's
//! length hold stale values, which attention never reads.

use burn::tensor::Tensor;

use crate::error::{Error, Kind, Result};
use crate::kernels::cached_attention::CacheLayout;
use crate::kernels::heads::Heads;
use crate::kernels::isa::Isa;
use crate::llm::device::ComputeDevice;

/// Keys and values of one layer.
#[derive(Debug)]
pub enum LayerCache {
    /// In host memory, as [`CacheLayout`] says.
    Host {
        /// Keys, in blocks.
        keys: Vec<f32>,
        /// Values, in lines.
        values: Vec<f32>,
    },
    /// On a device.
    Device(Box<DeviceLayer>),
}

/// Keys and values on a device, `[slots · positions, key heads · width]` each.
#[derive(Debug)]
pub struct DeviceLayer {
    /// Keys.
    pub keys: Tensor<2>,
    /// Values.
    pub values: Tensor<2>,
}

/// The cache of a model.
#[derive(Debug)]
pub struct KvCache {
    layout: CacheLayout,
    slots: usize,
    positions: usize,
    layers: Vec<LayerCache>,
}

impl KvCache {
    /// An empty cache of `slots` times `positions` for every layer. Host memory is committed as positions are filled.
    pub fn new(device: &ComputeDevice, heads: Heads, layers: usize, slots: usize, positions: usize) -> Self {
        let layout = CacheLayout::new(Isa::detect(), heads, positions);
        let layer = || {
            if device.is_host {
                LayerCache::Host {
                    keys: vec![0.0; slots * heads.keys * layout.keys_per_head()],
                    values: vec![0.0; slots * heads.keys * layout.values_per_head()],
                }
            } else {
                let shape = [slots * positions, heads.keys * heads.width];
                LayerCache::Device(Box::new(DeviceLayer {
                    keys: Tensor::zeros(shape, &device.burn),
                    values: Tensor::zeros(shape, &device.burn),
                }))
            }
        };
        KvCache { layout, slots, positions, layers: (0..layers).map(|_| layer()).collect() }
    }

    /// Rows that can be in flight.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Positions of a slot.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Layout of host memory.
    pub fn layout(&self) -> CacheLayout {
        self.layout
    }

    /// The layers, in the model's order.
    pub fn layers_mut(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }

    /// Copies the first `len` positions of slot `from` to slot `to`.
    ///
    /// # Errors
    ///
    /// [`Kind::Internal`] where a slot or the length is outside the cache.
    pub fn copy_prefix(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        if from >= self.slots || to >= self.slots || len > self.positions {
            return Err(Error::new(Kind::Internal, "a prefix outside the key-value cache was asked for")
                .with("from", from)
                .with("to", to)
                .with("length", len));
        }
        if from == to || len == 0 {
            return Ok(());
        }
        let (layout, heads) = (self.layout, self.layout.heads.keys);
        for layer in &mut self.layers {
            match layer {
                LayerCache::Host { keys, values } => {
                    for head in 0..heads {
                        let (from, to) = (from * heads + head, to * heads + head);
                        let (size, prefix) = (layout.keys_per_head(), layout.keys_prefix(len));
                        keys.copy_within(from * size..from * size + prefix, to * size);
                        let (size, prefix) = (layout.values_per_head(), layout.values_prefix(len));
                        values.copy_within(from * size..from * size + prefix, to * size);
                    }
                }
                LayerCache::Device(layer) => {
                    let DeviceLayer { keys, values } = layer.as_mut();
                    let (source, target) = (from * self.positions, to * self.positions);
                    for part in [keys, values] {
                        let width = part.dims()[1];
                        let prefix = part.clone().slice([source..source + len, 0..width]);
                        part.inplace(|part| part.slice_assign([target..target + len, 0..width], prefix));
                    }
                }
            }
        }
        Ok(())
    }
}
