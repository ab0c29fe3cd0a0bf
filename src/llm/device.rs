//! Which device a model runs on: the job's `device` setting becomes a Burn device. Also classifies the errors of
//! devices.
//!
//! Knows device names, what this build can open, and the messages by which drivers report a lost device or one out of
//! memory. Knows nothing of models. A new backend is one more arm in [`open`].

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::Device;

use crate::error::{Context, Error, Kind, Result};

/// An opened device.
#[derive(Debug, Clone)]
pub struct ComputeDevice {
    /// Its name, as in a job file: `cpu`, `wgpu:0`, `cuda:1`.
    pub name: String,
    /// Burn's handle.
    pub burn: Device,
    /// Whether tensors are in host memory and no gradients are needed, so that the hand-written kernels may be used.
    pub is_host: bool,
}

impl ComputeDevice {
    /// The CPU with the hand-written kernels.
    pub fn cpu() -> Self {
        ComputeDevice { name: "cpu".to_owned(), burn: Device::flex(), is_host: true }
    }

    /// The CPU through Burn's generic operations only: slow, the reference for the kernels.
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
/// `auto` takes the first real GPU that this build supports, else the CPU; a software Vulkan driver does not count.
///
/// # Errors
///
/// [`Kind::Config`] where the text is none of these, names a backend that this build lacks, or names a device that this
/// machine lacks; [`Kind::Temporary`] where the device exists and cannot be opened now.
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

/// Whether the system has a graphics card at all; querying its drivers takes time and makes some of them print
/// messages.
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
            match wgpu_by_kind(kind) {
                Ok(burn) => return ComputeDevice { name: "wgpu:0".to_owned(), burn, is_host: false },
                Err(why) if unopened("auto", &why).kind() == Kind::Temporary => {
                    tracing::warn!(error = why, "there is a graphics card, but it cannot be opened; using the CPU");
                }
                Err(_) => {}
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
    let mut absent = String::new();
    for kind in kinds {
        match wgpu_by_kind(kind) {
            Ok(burn) => return Ok(ComputeDevice { name: spec.to_owned(), burn, is_host: false }),
            Err(why) => {
                let error = unopened(spec, &why);
                // A device that exists and fails is the one that was asked for: do not silently use the next one.
                if error.kind() == Kind::Temporary {
                    return Err(error);
                }
                absent = if absent.is_empty() { why } else { absent };
            }
        }
    }
    Err(unopened(spec, &absent))
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
    // Burn opens the card on first use and panics if there is none.
    let probe = catch_unwind(|| {
        burn::tensor::Tensor::<1>::zeros([1], &Device::cuda(index)).try_into_data().map_err(|e| format!("{e:?}"))
    });
    match probe.unwrap_or_else(|panic| Err(panic_text(panic.as_ref()))) {
        Ok(_) => Ok(ComputeDevice { name: spec.to_owned(), burn, is_host: false }),
        Err(why) => Err(unopened(spec, &why)),
    }
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(spec: &str, _index: usize) -> Result<ComputeDevice> {
    Err(not_built(spec, "cuda"))
}

/// The error for a device that does not open: [`Kind::Config`] where the driver's message means that there is no such
/// device or that it can never work, else [`Kind::Temporary`].
#[cfg_attr(not(any(feature = "wgpu", feature = "cuda")), allow(dead_code))]
fn unopened(spec: &str, why: &str) -> Error {
    const ABSENT: [&str; 10] = [
        // wgpu
        "no adapter available",
        "is unavailable in this build",
        "invalid wgpu configuration",
        "unsupported",
        "limit",
        // CUDA
        "invalid_device",
        "invalid device",
        "no_device",
        "no cuda",
        "dynamically load",
    ];
    let words = why.to_ascii_lowercase();
    if !is_out_of_memory(why) && ABSENT.iter().any(|sign| words.contains(sign)) {
        return Error::new(Kind::Config, format!("there is no device `{spec}` that could be used on this machine"))
            .with("this build has", built_in())
            .source(why)
            .hint("see which there are with `nvidia-smi -L` or `vulkaninfo --summary`; or set `device = \"cpu\"`");
    }
    Error::new(Kind::Temporary, format!("device `{spec}` cannot be opened now"))
        .source(why)
        .hint("is another process using it? Check its driver; run it again, or set `device = \"cpu\"`")
}

/// Whether an error message means that the device ran out of memory. Burn and the drivers have no error type for that.
pub fn is_out_of_memory(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["out of memory", "outofmemory", "out_of_memory", "memory allocation of"].iter().any(|sign| words.contains(sign))
}

/// Whether an error message means that the device itself failed (lost or out of memory), so that the next run may
/// succeed.
pub fn is_fault(words: &str) -> bool {
    const LOST: [&str; 11] = [
        "device lost",
        "device is lost",
        "device was lost",
        "device_lost",
        "devicelost",
        "device hung",
        "cuda_error",
        "cublas_status",
        "vk_error",
        // Left over from a driver thread that died earlier.
        "recverror",
        "closed channel",
    ];
    let lower = words.to_ascii_lowercase();
    is_out_of_memory(words) || LOST.iter().any(|sign| lower.contains(sign))
}

/// The error for a device that failed while `doing` something; of a kind other than [`Kind::Temporary`] only where the
/// message does not report a device failure.
pub fn failed(doing: &str, why: &str, otherwise: Kind) -> Error {
    if is_fault(why) {
        return Error::new(Kind::Temporary, format!("the device failed while {doing}"))
            .source(why)
            .hint("finished work is kept: run the same command again; where it is out of memory, lower [model] slots");
    }
    Error::new(otherwise, format!("{doing} panicked: {why}"))
}

/// The message of a panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

/// Runs work that uses a device. Burn panics when a device fails: that becomes a temporary error.
///
/// # Errors
/// The work's own; [`Kind::Temporary`] where the device failed; [`Kind::Internal`] for every other panic.
pub fn guarded<T>(doing: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Err(e)) if matches!(e.kind(), Kind::Internal | Kind::Model) && is_fault(&e.explain()) => {
            Err(failed(doing, &e.explain(), e.kind()))
        }
        Ok(done) => done,
        Err(panic) => Err(failed(doing, &panic_text(panic.as_ref()), Kind::Internal)),
    }
}

/// As [`guarded`], on a thread that may block.
///
/// # Errors
/// As [`guarded`].
pub async fn guarded_blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(move || guarded(doing, work));
    done.await.context(Kind::Internal, || format!("{doing} was interrupted"))?
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
    fn a_device_that_is_not_there_is_a_mistake_and_one_that_fails_may_come_back() {
        for (kind, why) in [
            (Kind::Config, "No adapter available for WgpuDevice { kind: DiscreteGpu(9) }: none"),
            (Kind::Config, "Unable to request a wgpu device: Limit 'max_buffer_size' value 1 is better than allowed 0"),
            (
                Kind::Config,
                "called `Result::unwrap()` on an `Err` value: DriverError(CUDA_ERROR_INVALID_DEVICE, \"..\")",
            ),
            (Kind::Config, "DriverError(CUDA_ERROR_NO_DEVICE, \"no CUDA-capable device is detected\")"),
            (Kind::Config, "Unable to dynamically load the \"cuda\" shared library"),
            (Kind::Temporary, "Unable to request a wgpu device: not enough resources"),
            (Kind::Temporary, "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")"),
            (Kind::Temporary, "DriverError(CUDA_ERROR_DEVICE_UNAVAILABLE, \"all are busy\")"),
            (Kind::Temporary, "whatever a new driver says"),
        ] {
            let e = unopened("cuda:9", why);
            assert_eq!(e.kind(), kind, "{why}");
            assert!(e.message().contains("cuda:9") && e.explain().contains(why));
        }
        // An index beyond the last wgpu adapter.
        #[cfg(feature = "wgpu")]
        assert_eq!(open("wgpu:99").unwrap_err().kind(), Kind::Config);
    }

    #[tokio::test]
    async fn a_panic_of_the_device_is_an_error_that_may_pass() {
        for (kind, why) in [
            (Kind::Temporary, "wgpu error: Validation Error: Parent device is lost"),
            (Kind::Temporary, "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)"),
            (Kind::Temporary, "wgpu error: Out of Memory"),
            (Kind::Internal, "index out of bounds: the len is 3"),
        ] {
            let e = guarded_blocking("embedding", move || -> Result<()> { panic!("{why}") }).await.unwrap_err();
            assert_eq!(e.kind(), kind, "{why}");
            assert!(e.explain().contains(why) && e.message().contains("embedding"), "{}", e.explain());
        }
        let said = || Err(Error::new(Kind::Internal, "a tensor cannot be read").source("device lost"));
        assert_eq!(guarded::<()>("embedding", said).unwrap_err().kind(), Kind::Temporary);
        let said = || Err(Error::new(Kind::Config, "out of memory_limit"));
        assert_eq!(guarded::<()>("embedding", said).unwrap_err().kind(), Kind::Config);
        assert_eq!(guarded("embedding", || Ok(7)).unwrap(), 7);
    }

    #[test]
    fn out_of_memory_is_recognised() {
        assert!(is_out_of_memory("Allocation failed: Out of Memory (wgpu)"));
        assert!(is_out_of_memory("CUDA_ERROR_OUT_OF_MEMORY"));
        assert!(!is_out_of_memory("shape mismatch in memory layout"));
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_backend_that_was_not_built_in_is_named() {
        let text = open("cuda:0").unwrap_err().explain();
        assert!(text.contains("--features cuda"), "{text}");
    }
}
