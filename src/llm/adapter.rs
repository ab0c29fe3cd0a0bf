//! Low-rank adapters (LoRA, Hu et al. 2022) in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Knows their files, shapes and how an adapter is added to a weight. Knows nothing of training, devices or tables.
//! Adapters with unsupported parts (DoRA, ranks by layer, trained biases, whole modules) are rejected.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use half::f16;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::llm::decoder_config::DecoderConfig;
use crate::llm::file::read_json;
use crate::llm::tensor_files::{HostTensor, TensorFiles};

/// The linear layers that can have an adapter.
pub const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The files of an adapter.
pub const FILES: [&str; 2] = [CONFIG, WEIGHTS];
/// Prefix of every tensor name.
const PREFIX: &str = "base_model.model.";

/// Shape of an adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterShape {
    /// Width of the bottleneck.
    pub rank: usize,
    /// The adapter's output is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// Dropout of the adapter's input while it trains.
    pub dropout: f64,
    /// Which of [`TARGETS`], in every layer.
    pub targets: Vec<String>,
}

/// An adapter in host memory.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Its shape.
    pub shape: AdapterShape,
    /// A `[rank, in]` and B `[out, rank]` of every module, by its Hugging Face name, such as
    /// `model.layers.0.self_attn.q_proj`.
    pub tensors: BTreeMap<String, (HostTensor, HostTensor)>,
}

/// Number format of written weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 16 bits: half the size, for adapters that are published.
    F16,
}

impl Adapter {
    /// Reads a folder and checks it against its model.
    ///
    /// # Errors
    /// [`Kind::Model`] where a file is missing or broken, where the adapter is of a kind that is not supported, or where it
    /// was made for another model.
    pub fn read(dir: &Path, model: &DecoderConfig) -> Result<Adapter> {
        let in_dir = |e: Error| e.with("adapter", dir.display());
        let config = read_json(&dir.join(CONFIG)).map_err(in_dir)?.ok_or_else(|| {
            in_dir(Error::new(Kind::Model, format!("the adapter's folder has no {CONFIG}"))).hint(
                match checkpoint_in(dir) {
                    Some(inner) => format!("there is one in `{inner}` below it: name that folder"),
                    None => {
                        "name a folder in PEFT's format, as `curec learn align` and PEFT's save_pretrained write it"
                            .into()
                    }
                },
            )
        })?;
        let mut shape = shape_of(&config).map_err(in_dir)?;
        let file = dir.join(WEIGHTS);
        if !file.exists() {
            return Err(in_dir(Error::new(Kind::Model, format!("the adapter's folder has no {WEIGHTS}")))
                .hint("save the adapter as safetensors, not as adapter_model.bin"));
        }
        let files = TensorFiles::open_file(&file).map_err(in_dir)?;
        let tensors = tensors_of(&files, model, shape.rank).map_err(in_dir)?;
        all_there(&config, model, &tensors).map_err(in_dir)?;
        let targets: BTreeSet<&str> = tensors.keys().filter_map(|name| name.rsplit('.').next()).collect();
        shape.targets = TARGETS.iter().filter(|t| targets.contains(*t)).map(|t| (*t).to_owned()).collect();
        Ok(Adapter { shape, tensors })
    }

    /// Writes a folder that PEFT reads; `base` names its base model. Each file is written atomically.
    ///
    /// # Errors
    /// [`Kind::Temporary`] where the disk fails.
    pub fn write(&self, dir: &Path, base: &str, precision: Precision) -> Result<()> {
        let failed = || format!("cannot write the adapter into `{}`", dir.display());
        std::fs::create_dir_all(dir).context(Kind::Temporary, failed)?;
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.shape.rank,
            "lora_alpha": self.shape.alpha,
            "lora_dropout": self.shape.dropout,
            "target_modules": self.shape.targets,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "use_dora": false,
            "use_rslora": false,
        });
        let mut stored = Vec::new();
        for (module, (a, b)) in &self.tensors {
            for (part, tensor) in [("lora_A", a), ("lora_B", b)] {
                let bytes: Vec<u8> = match precision {
                    Precision::F32 => tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    Precision::F16 => tensor.data.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                };
                stored.push((format!("{PREFIX}{module}.{part}.weight"), tensor.shape.clone(), bytes));
            }
        }
        let dtype = if precision == Precision::F32 { Dtype::F32 } else { Dtype::F16 };
        let views: Result<Vec<(&str, TensorView<'_>)>, _> = stored
            .iter()
            .map(|(name, shape, bytes)| TensorView::new(dtype, shape.clone(), bytes).map(|v| (name.as_str(), v)))
            .collect();
        let views = views.context(Kind::Internal, failed)?;
        let weights = safetensors::serialize(views, None).context(Kind::Internal, failed)?;
        let config = format!("{config:#}\n").into_bytes();
        // The configuration last: a folder that has one is complete.
        for (name, bytes) in [(WEIGHTS, weights), (CONFIG, config)] {
            disk::write_whole(&dir.join(name), &bytes).context(Kind::Temporary, failed)?;
        }
        Ok(())
    }

    /// Digest of a folder's two files.
    ///
    /// # Errors
    /// [`Kind::Model`] where one cannot be read.
    pub fn digest(dir: &Path) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for name in FILES {
            let path = dir.join(name);
            let bytes = std::fs::read(&path).map_err(|e| {
                Error::new(Kind::Model, "cannot read the adapter").with("file", path.display()).source(e)
            })?;
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
        }
        Ok(hasher.finalize().to_hex()[..32].to_owned())
    }

    /// One adapter equal to the sum of both: their ranks are concatenated, `[A₁; A₂]` and `[B₁, B₂]`. This one's values
    /// stay unchanged; the other's B is multiplied by the ratio of its scale to this one's. A layer that one of them
    /// lacks is filled with zeros.
    pub fn beside(&self, other: &Adapter) -> Adapter {
        let (first, second) = (self.shape.rank, other.shape.rank);
        let scale = |shape: &AdapterShape| shape.alpha / shape.rank as f64;
        let ratio = (scale(&other.shape) / scale(&self.shape)) as f32;
        let modules: BTreeSet<&String> = self.tensors.keys().chain(other.tensors.keys()).collect();
        let joined = |name: &String| {
            let (ours, theirs) = (self.tensors.get(name), other.tensors.get(name));
            let (a, b) = ours.or(theirs)?;
            let (inputs, outputs) = (*a.shape.get(1)?, *b.shape.first()?);
            let zeros = |rank: usize| (vec![0.0; rank * inputs], vec![0.0; outputs * rank]);
            let values = |(a, b): &(HostTensor, HostTensor)| (a.data.clone(), b.data.clone());
            let (mut a, b1) = ours.map_or_else(|| zeros(first), values);
            let (a2, b2) = theirs.map_or_else(|| zeros(second), values);
            a.extend(a2);
            let rows = b1.chunks(first.max(1)).zip(b2.chunks(second.max(1)));
            let b = rows.flat_map(|(b1, b2)| b1.iter().copied().chain(b2.iter().map(move |v| v * ratio))).collect();
            let rank = first + second;
            let pair =
                (HostTensor { shape: vec![rank, inputs], data: a }, HostTensor { shape: vec![outputs, rank], data: b });
            Some((name.clone(), pair))
        };
        let is_target = |t: &&str| [self, other].iter().any(|adapter| adapter.shape.targets.iter().any(|own| own == t));
        let shape = AdapterShape {
            rank: first + second,
            alpha: scale(&self.shape) * (first + second) as f64,
            dropout: self.shape.dropout,
            targets: TARGETS.iter().filter(|t| is_target(t)).map(|t| (*t).to_owned()).collect(),
        };
        Adapter { shape, tensors: modules.into_iter().filter_map(joined).collect() }
    }

    /// Whether [`Adapter::merge`] changes the tensor `name`.
    pub fn changes(&self, name: &str) -> bool {
        name.strip_suffix(".weight").is_some_and(|module| self.tensors.contains_key(module))
    }

    /// The weight `name` `[out, in]` with the adapter added, `W + alpha / rank · B · A`; any other tensor unchanged.
    pub fn merge(&self, name: &str, mut tensor: HostTensor) -> HostTensor {
        let Some((a, b)) = name.strip_suffix(".weight").and_then(|module| self.tensors.get(module)) else {
            return tensor;
        };
        let (Some(&inputs), scale) = (a.shape.get(1), (self.shape.alpha / self.shape.rank as f64) as f32) else {
            return tensor;
        };
        let rows = tensor.data.par_chunks_exact_mut(inputs.max(1)).zip(b.data.par_chunks_exact(self.shape.rank));
        rows.for_each(|(row, b)| {
            for (b, a) in b.iter().zip(a.data.chunks_exact(inputs)) {
                row.iter_mut().zip(a).for_each(|(w, a)| *w += scale * b * a);
            }
        });
        tensor
    }
}

/// Rank and alpha of a configuration that describes plain low-rank adapters.
fn shape_of(config: &Value) -> Result<AdapterShape> {
    let refused = |what: &str| {
        Error::new(Kind::Model, format!("adapters with {what} are not supported"))
            .with("file", CONFIG)
            .hint("train a plain LoRA adapter, or merge it into the model with PEFT and name the merged model")
    };
    if config["peft_type"] != "LORA" {
        return Err(refused(&format!("peft_type {}", config["peft_type"])));
    }
    let is_set = |key: &str| match &config[key] {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty() && text != "none",
        _ => true,
    };
    for key in [
        "use_dora",
        "fan_in_fan_out",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
        "bias",
        "lora_bias",
        "trainable_token_indices",
        "target_parameters",
        "layer_replication",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        "velora_config",
        "use_qalora",
        "use_bdlora",
    ] {
        if is_set(key) {
            return Err(refused(&format!("{key} = {}", config[key])));
        }
    }
    // The others, such as PiSSA, subtract their initial values from the model's weights.
    if config["init_lora_weights"].as_str().is_some_and(|how| !["gaussian", "eva", "orthogonal"].contains(&how)) {
        return Err(refused(&format!("init_lora_weights = {}", config["init_lora_weights"])));
    }
    let number = |key: &'static str| {
        config[key].as_f64().filter(|n| n.is_finite() && *n > 0.0).ok_or_else(|| {
            Error::new(Kind::Model, format!("{key} is no positive number")).with("file", CONFIG).with(key, &config[key])
        })
    };
    let rank = number("r")?;
    if rank.fract() != 0.0 || rank > 65_536.0 {
        return Err(Error::new(Kind::Model, "r is no rank that an adapter can have")
            .with("file", CONFIG)
            .with("r", rank));
    }
    // Rank-stabilised adapters are divided by the square root of the rank (Kalajdzievski 2023); this is converted to
    // the equivalent alpha.
    let alpha = number("lora_alpha")? * if config["use_rslora"] == true { rank.sqrt() } else { 1.0 };
    let dropout = config["lora_dropout"].as_f64().unwrap_or(0.0);
    Ok(AdapterShape { rank: rank as usize, alpha, dropout, targets: Vec::new() })
}

/// The layer that a tensor belongs to, by its Hugging Face name, and which part of it the tensor is. Trainers write
/// names with and without PEFT's prefix, the adapter's own name (`.default`), and the model's wrappers (`_orig_mod.`,
/// `module.`).
fn module_of(name: &str) -> (String, String) {
    let mut bare = name;
    while let Some(rest) = [PREFIX, "_orig_mod.", "module."].iter().find_map(|wrapper| bare.strip_prefix(wrapper)) {
        bare = rest;
    }
    let bare = bare.replace("._orig_mod.", ".");
    let at = bare.find(".lora_").or_else(|| bare.rfind('.')).unwrap_or(bare.len());
    let (module, part) = bare.split_at(at);
    let part = part.trim_start_matches('.');
    let part = part.strip_suffix(".default.weight").map_or_else(|| part.to_owned(), |half| format!("{half}.weight"));
    (module.to_owned(), part)
}

/// Every tensor of the file, checked against the model's layers.
fn tensors_of(
    files: &TensorFiles,
    model: &DecoderConfig,
    rank: usize,
) -> Result<BTreeMap<String, (HostTensor, HostTensor)>> {
    let layers: BTreeMap<String, Vec<usize>> = model.tensors().into_iter().collect();
    let other = |name: &str| {
        Error::new(Kind::Model, "the adapter was not made for this model")
            .with("tensor", name)
            .hint("name the model that the adapter was trained on")
    };
    let cannot = |what: String, name: &str| {
        Error::new(Kind::Model, format!("adapters with {what} are not supported"))
            .with("tensor", name)
            .with("supported", TARGETS.join(", "))
            .hint("train a plain LoRA adapter of these layers, or merge it into the model with PEFT and name the merged model")
    };
    let mut halves: BTreeMap<String, [Option<HostTensor>; 2]> = BTreeMap::new();
    for name in files.names() {
        let (module, part) = module_of(name);
        let last = module.rsplit('.').next().unwrap_or_default();
        let of_layer = layers.get(&format!("{module}.weight")).map(Vec::as_slice);
        // A tied output layer has no tensor of its own.
        let is_known = of_layer.is_some() || module == "lm_head";
        let half = match part.as_str() {
            "lora_A.weight" => 0,
            "lora_B.weight" => 1,
            _ if !is_known => return Err(other(name)),
            "weight" | "bias" => return Err(cannot(format!("whole tensors of {last} (modules_to_save, bias)"), name)),
            part if part.starts_with("lora_magnitude") => return Err(cannot("magnitudes (DoRA)".to_owned(), name)),
            part => return Err(cannot(format!("{part} of {last}"), name)),
        };
        let Some([outputs, inputs]) = of_layer.filter(|_| TARGETS.contains(&last)) else {
            return Err(if is_known { cannot(format!("a part for {last}"), name) } else { other(name) });
        };
        let needs = if half == 0 { [rank, *inputs] } else { [*outputs, rank] };
        let tensor = files.tensor(name)?;
        if tensor.shape != needs {
            let found = |e: Error| e.with("has", format!("{:?}", tensor.shape)).with("needs", format!("{needs:?}"));
            // The dimension that is not the rank shows whether the tensor fits this model.
            return Err(match tensor.shape.get(1 - half) == needs.get(1 - half) && tensor.shape.len() == 2 {
                true => found(
                    Error::new(Kind::Model, format!("the adapter has a layer of another rank than r = {rank}"))
                        .with("tensor", name)
                        .hint("its configuration belongs to other weights, or it has ranks by layer, which are not supported"),
                ),
                false => found(other(name)),
            });
        }
        if tensor.data.iter().any(|v| !v.is_finite()) {
            return Err(Error::new(Kind::Model, "the adapter holds a value that is no number")
                .with("tensor", name)
                .hint("its training diverged; train it again with a smaller learning rate"));
        }
        if halves.entry(module).or_default()[half].replace(tensor).is_some() {
            return Err(Error::new(Kind::Model, "the adapter has a layer's tensor twice, under two names")
                .with("tensor", name)
                .hint("save it with PEFT's save_pretrained, which writes each once"));
        }
    }
    if halves.is_empty() {
        return Err(Error::new(Kind::Model, "the adapter has no tensors"));
    }
    let whole = |(module, halves): (String, [Option<HostTensor>; 2])| match halves {
        [Some(a), Some(b)] => Ok((module, (a, b))),
        _ => Err(Error::new(Kind::Model, "the adapter lacks one of a layer's two tensors").with("layer", module)),
    };
    halves.into_iter().map(whole).collect()
}

/// Where the adapter probably is if the folder has none: a checkpoint that a trainer left in it.
fn checkpoint_in(dir: &Path) -> Option<String> {
    let entries = std::fs::read_dir(dir).ok()?.filter_map(|e| Some(e.ok()?.path()));
    let mut names: Vec<String> = entries
        .filter(|path| path.join(CONFIG).is_file())
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    // checkpoint-1000 after checkpoint-200.
    names.sort_by_key(|name| (name.len(), name.clone()));
    names.pop()
}

/// Rejects an adapter without tensors for a layer that its configuration lists by name. Patterns are not checked.
fn all_there(
    config: &Value,
    model: &DecoderConfig,
    tensors: &BTreeMap<String, (HostTensor, HostTensor)>,
) -> Result<()> {
    if !config["exclude_modules"].is_null() {
        return Ok(());
    }
    let listed = config["target_modules"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let listed: Vec<&str> = listed.filter(|target| TARGETS.contains(target)).collect();
    for (name, _) in model.tensors() {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        let is_listed = module.rsplit('.').next().is_some_and(|last| listed.contains(&last));
        if is_listed && !tensors.contains_key(module) {
            return Err(Error::new(Kind::Model, "the adapter lacks a layer that its configuration lists")
                .with("layer", module)
                .hint("copy the adapter again; its weights belong to another configuration or model"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
