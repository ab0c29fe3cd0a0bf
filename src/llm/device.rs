//! Which device a model runs on: the text of a job's `device` becomes a Burn device.
//!
//! Knows device names and what this build can open. Knows nothing of models. A new backend is one more arm in [`open`].

use burn::tensor::Device;

use crate::error::{Error, Kind, Result};

/// An opened device.
#[derive(Debug, Clone)]
pub struct ComputeDevice {
    /// What it is, as in a job file: `cpu`, `wgpu:0`, `cuda:1`.
    pub name: String,
    /// Burn's handle.
    pub burn: Device,
    /// Whether tensors lie in host memory and no gradients are asked for, so that the hand-written kernels may be used.
    pub is_host: bool,
}

impl ComputeDevice {
    /// The CPU with the hand-written kernels.
    pub fn cpu() -> Self {
        ComputeDevice { name: "cpu".to_owned(), burn: Device::flex(), is_host: true }
    }

    /// The CPU through Burn's generic operations only: slow, and what the kernels are compared with.
    pub fn cpu_reference() -> Self {
        ComputeDevice { name: "cpu".to_owned(), burn: Device::flex(), is_host: false }
    }

    /// The same device with gradients; the generic operations are used on it.
    pub fn autodiff(&self) -> Self {
        ComputeDevice { name: self.name.clone(), burn: self.burn.clone().autodiff(), is_host: false }
    }
}

/// Opens `auto`, `cpu`, `wgpu`, `wgpu:N` or `cuda:N`.
///
/// `auto` takes the first real GPU that this build can drive, else the CPU; a software Vulkan driver does not count.
///
/// # Errors
///
/// [`Kind::Config`] where the text is none of these, names a backend that this build lacks, or names a device that this
/// machine lacks.
pub fn open(spec: &str) -> Result<ComputeDevice> {
    let (backend, index) = match spec.split_once(':') {
        None => (spec, None),
        Some((backend, index)) => {
            let index = index.parse::<usize>().map_err(|e| unknown(spec).source(e))?;
            (backend, Some(index))
        }
    };
    match (backend, index) {
        ("auto", None) => Ok(automatic()),
        ("cpu", None) => Ok(ComputeDevice::cpu()),
        ("wgpu", index) => open_wgpu(spec, index),
        ("cuda", index) => open_cuda(spec, index.unwrap_or(0)),
        _ => Err(unknown(spec)),
    }
}

fn unknown(spec: &str) -> Error {
    Error::new(Kind::Config, format!("unknown device `{spec}`"))
        .hint("use auto, cpu, wgpu, wgpu:N or cuda:N")
        .with("this build has", built_in())
}

/// The backends of this build, for messages.
fn built_in() -> &'static str {
    match (cfg!(feature = "wgpu"), cfg!(feature = "cuda")) {
        (true, true) => "cpu, wgpu, cuda",
        (true, false) => "cpu, wgpu",
        (false, true) => "cpu, cuda",
        (false, false) => "cpu",
    }
}

#[cfg(not(all(feature = "wgpu", feature = "cuda")))]
fn not_built(spec: &str, feature: &str) -> Error {
    Error::new(Kind::Config, format!("device `{spec}` needs a build with `--features {feature}`"))
        .with("this build has", built_in())
        .hint("set `device = \"auto\"`, or build with that feature")
}

/// Whether the system shows a graphics card at all; asking its drivers takes time and makes some of them talk.
#[cfg(feature = "wgpu")]
fn may_have_a_gpu() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let render_nodes = std::fs::read_dir("/dev/dri")
        .map(|nodes| nodes.flatten().any(|node| node.file_name().to_string_lossy().starts_with("renderD")));
    render_nodes.unwrap_or(false) || ["/dev/nvidia0", "/dev/dxg"].iter().any(|node| std::path::Path::new(node).exists())
}

fn automatic() -> ComputeDevice {
    #[cfg(feature = "cuda")]
    if let Ok(device) = open_cuda("cuda:0", 0) {
        return device;
    }
    #[cfg(feature = "wgpu")]
    if may_have_a_gpu() {
        use burn::tensor::DeviceKind::{DiscreteGpu, IntegratedGpu};
        for kind in [DiscreteGpu(0), IntegratedGpu(0)] {
            if let Ok(burn) = wgpu_by_kind(kind) {
                return ComputeDevice { name: "wgpu:0".to_owned(), burn, is_host: false };
            }
        }
    }
    ComputeDevice::cpu()
}

#[cfg(feature = "wgpu")]
fn open_wgpu(spec: &str, index: Option<usize>) -> Result<ComputeDevice> {
    use burn::tensor::DeviceKind;
    let kinds = match index {
        None => vec![DeviceKind::DefaultDevice, DeviceKind::Cpu],
        Some(0) => {
            vec![DeviceKind::DiscreteGpu(0), DeviceKind::IntegratedGpu(0), DeviceKind::VirtualGpu(0), DeviceKind::Cpu]
        }
        Some(n) => vec![DeviceKind::DiscreteGpu(n), DeviceKind::IntegratedGpu(n), DeviceKind::VirtualGpu(n)],
    };
    let mut first = None;
    for kind in kinds {
        match wgpu_by_kind(kind) {
            Ok(burn) => return Ok(ComputeDevice { name: spec.to_owned(), burn, is_host: false }),
            Err(e) => first = first.or(Some(e)),
        }
    }
    let error = Error::new(Kind::Config, format!("device `{spec}` cannot be opened"))
        .hint("check the graphics driver (Vulkan, Metal or DX12), or set `device = \"cpu\"`");
    Err(match first {
        Some(cause) => error.source(cause),
        None => error,
    })
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu(spec: &str, _index: Option<usize>) -> Result<ComputeDevice> {
    Err(not_built(spec, "wgpu"))
}

/// Burn opens a wgpu adapter once per process; later calls get the first handle again.
#[cfg(feature = "wgpu")]
fn wgpu_by_kind(kind: burn::tensor::DeviceKind) -> std::result::Result<Device, String> {
    use std::collections::HashMap;
    use std::sync::{Mutex, OnceLock, PoisonError};
    type Opened = HashMap<burn::tensor::DeviceKind, std::result::Result<Device, String>>;
    static OPENED: OnceLock<Mutex<Opened>> = OnceLock::new();
    let mut opened = OPENED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    opened
        .entry(kind.clone())
        .or_insert_with(|| Device::wgpu_options().device_kind(kind).init().map_err(|e| e.to_string()))
        .clone()
}

#[cfg(feature = "cuda")]
fn open_cuda(spec: &str, index: usize) -> Result<ComputeDevice> {
    let burn = Device::cuda(index);
    // Burn opens the card at its first use and panics where there is none.
    let probe = std::panic::catch_unwind(|| {
        burn::tensor::Tensor::<1>::zeros([1], &Device::cuda(index)).try_into_data().map_err(|e| format!("{e:?}"))
    });
    match probe {
        Ok(Ok(_)) => Ok(ComputeDevice { name: spec.to_owned(), burn, is_host: false }),
        _ => Err(Error::new(Kind::Config, format!("device `{spec}` cannot be opened"))
            .hint("check the NVIDIA driver and CUDA toolkit, or set `device = \"cpu\"`")),
    }
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(spec: &str, _index: usize) -> Result<ComputeDevice> {
    Err(not_built(spec, "cuda"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_wrong_device_is_refused_with_what_there_is() {
        for spec in ["", "gpu", "cpu:1", "wgpu:x", "cuda:-1", "auto:0"] {
            let e = open(spec).unwrap_err();
            assert_eq!(e.kind(), Kind::Config, "{spec}");
            assert!(e.explain().contains("cpu"), "{}", e.explain());
        }
        assert!(open("cpu").unwrap().is_host);
        assert!(!open("auto").unwrap().name.is_empty());
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_backend_that_was_not_built_in_is_named() {
        let text = open("cuda:0").unwrap_err().explain();
        assert!(text.contains("--features cuda"), "{text}");
    }
}
