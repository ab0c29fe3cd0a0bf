//! Low-rank adapters (LoRA, Hu et al. 2022) in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Knows their files, shapes and how one is added to a weight. Knows nothing of training, devices or tables. What would
//! change the model in a way that is not understood here (DoRA, ranks by layer, trained biases, whole modules) is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;

use half::f16;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::error::{Context, Error, Kind, Result};
use crate::llm::weights::{DecoderConfig, HostTensor, TensorFiles, read_json};

/// The linear layers that can have an adapter.
pub const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The files of an adapter.
pub const FILES: [&str; 2] = [CONFIG, WEIGHTS];
/// Begins the name of every tensor.
const PREFIX: &str = "base_model.model.";

/// What an adapter looks like.
#[derive(Debug, Clone, PartialEq)]
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
    /// What it looks like.
    pub shape: AdapterShape,
    /// A `[rank, in]` and B `[out, rank]` of every module, by its Hugging Face name, such as
    /// `model.layers.0.self_attn.q_proj`.
    pub tensors: BTreeMap<String, (HostTensor, HostTensor)>,
}

/// What the weights hold is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 16 bits: half the size, for adapters that are handed on.
    F16,
}

impl Adapter {
    /// Reads a folder and holds it against the model that it is for.
    ///
    /// # Errors
    /// [`Kind::Model`] where a file is missing or broken, where the adapter is of a kind that is not supported, or where it
    /// was made for another model.
    pub fn read(dir: &Path, model: &DecoderConfig) -> Result<Adapter> {
        let in_dir = |e: Error| e.with("adapter", dir.display());
        let config = read_json(&dir.join(CONFIG)).map_err(in_dir)?.ok_or_else(|| {
            in_dir(Error::new(Kind::Model, format!("the adapter's folder has no {CONFIG}")))
                .hint("name a folder in PEFT's format, as `curec learn align` and PEFT's save_pretrained write it")
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

    /// Writes a folder that PEFT reads; `base` names the model that it is for. Each file stands whole or not at all.
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
            let part = dir.join(format!("{name}.part"));
            let put = || -> std::io::Result<()> {
                let mut file = std::fs::File::create(&part)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                std::fs::rename(&part, dir.join(name))
            };
            put().context(Kind::Temporary, failed)?;
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

    /// One adapter that adds what both add: their ranks side by side, `[A₁; A₂]` and `[B₁, B₂]`. This one's values stay as
    /// they are; the other's B is scaled by what its own scale is to this one's. Where one has no such layer, zeros stand.
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

    /// The weight `name` `[out, in]` with the adapter added, `W + alpha / rank · B · A`; any other tensor as it is.
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

/// Rank and alpha of a configuration that means nothing but plain low-rank adapters.
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
    // The others, such as PiSSA, take what they begin with out of the model's own weights.
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
    // Rank-stabilised adapters are divided by the rank's root (Kalajdzievski 2023); the same number, said in another way.
    let alpha = number("lora_alpha")? * if config["use_rslora"] == true { rank.sqrt() } else { 1.0 };
    let dropout = config["lora_dropout"].as_f64().unwrap_or(0.0);
    Ok(AdapterShape { rank: rank as usize, alpha, dropout, targets: Vec::new() })
}

/// Every tensor of the file, held against the model's layers.
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
    let mut halves: BTreeMap<String, [Option<HostTensor>; 2]> = BTreeMap::new();
    for name in files.names() {
        let known = name.strip_prefix(PREFIX).and_then(|rest| {
            let parts = [".lora_A.weight", ".lora_B.weight"];
            parts.iter().enumerate().find_map(|(i, part)| Some((rest.strip_suffix(part)?, i)))
        });
        let Some((module, half)) = known else { return Err(other(name)) };
        let is_target = module.rsplit('.').next().is_some_and(|last| TARGETS.contains(&last));
        let Some([outputs, inputs]) = layers.get(&format!("{module}.weight")).map(Vec::as_slice).filter(|_| is_target)
        else {
            return Err(other(name));
        };
        let needs = if half == 0 { [rank, *inputs] } else { [*outputs, rank] };
        let tensor = files.tensor(name)?;
        if tensor.shape != needs {
            return Err(other(name).with("has", format!("{:?}", tensor.shape)).with("needs", format!("{needs:?}")));
        }
        if tensor.data.iter().any(|v| !v.is_finite()) {
            return Err(Error::new(Kind::Model, "the adapter holds a value that is no number")
                .with("tensor", name)
                .hint("its training diverged; train it again with a smaller learning rate"));
        }
        halves.entry(module.to_owned()).or_default()[half] = Some(tensor);
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

/// Refuses an adapter without tensors for what its configuration lists; patterns are taken at the tensors' word.
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
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::llm::weights::Family;

    fn model() -> DecoderConfig {
        DecoderConfig {
            family: Family::Llama,
            vocab_size: 11,
            hidden_size: 8,
            intermediate_size: 6,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            rope_theta: 1e4,
            rms_eps: 1e-5,
            max_positions: 16,
            tie_embeddings: true,
            qkv_bias: false,
            qk_norm: false,
            eos_ids: vec![2],
            bos_id: None,
            add_bos: false,
        }
    }

    fn tensor(rows: usize, columns: usize, seed: f32) -> HostTensor {
        let data = (0..rows * columns).map(|i| (i as f32 * 0.37 + seed).sin()).collect();
        HostTensor { shape: vec![rows, columns], data }
    }

    fn adapter() -> Adapter {
        let shape =
            AdapterShape { rank: 3, alpha: 6.0, dropout: 0.05, targets: vec!["k_proj".into(), "down_proj".into()] };
        let tensors = (0..2).flat_map(|i| {
            let name = |part: &str| format!("model.layers.{i}.{part}");
            [
                (name("self_attn.k_proj"), (tensor(3, 8, 0.1), tensor(4, 3, i as f32))),
                (name("mlp.down_proj"), (tensor(3, 6, 0.2), tensor(8, 3, 5.0))),
            ]
        });
        Adapter { shape, tensors: tensors.collect() }
    }

    #[test]
    fn adapters_side_by_side_add_what_both_add() {
        let first = adapter();
        let mut second = adapter();
        second.shape =
            AdapterShape { rank: 2, alpha: 1.0, dropout: 0.0, targets: vec!["k_proj".into(), "q_proj".into()] };
        second.tensors = (0..2)
            .flat_map(|i| {
                let name = |part: &str| format!("model.layers.{i}.self_attn.{part}");
                [
                    (name("k_proj"), (tensor(2, 8, 0.7), tensor(4, 2, 1.5 + i as f32))),
                    (name("q_proj"), (tensor(2, 8, 0.9), tensor(8, 2, 2.5))),
                ]
            })
            .collect();
        let both = first.beside(&second);
        assert_eq!(both.shape.rank, 5);
        assert_eq!(both.shape.targets, ["q_proj", "k_proj", "down_proj"]);
        assert_eq!(both.tensors.len(), 6);
        for (name, shape) in model().tensors() {
            let [rows, columns] = shape[..] else { continue };
            let weight = tensor(rows, columns, 3.0);
            let want = second.merge(&name, first.merge(&name, weight.clone()));
            let got = both.merge(&name, weight);
            let off = want.data.iter().zip(&got.data).map(|(w, g)| (w - g).abs()).fold(0f32, f32::max);
            assert!(off < 1e-5, "{name}: {off}");
        }
        let dir = tempfile::tempdir().unwrap();
        both.write(dir.path(), "base", Precision::F32).unwrap();
        let read = Adapter::read(dir.path(), &model()).unwrap();
        assert_eq!((read.shape.rank, read.shape.alpha, read.tensors.len()), (5, both.shape.alpha, 6));
    }

    fn written() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        adapter().write(dir.path(), "a/model", Precision::F32).unwrap();
        dir
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = written();
        let read = Adapter::read(dir.path(), &model()).unwrap();
        assert_eq!(read.shape, adapter().shape);
        assert_eq!(format!("{:?}", read.tensors), format!("{:?}", adapter().tensors));
        let digest = Adapter::digest(dir.path()).unwrap();
        assert_eq!(digest.len(), 32);
        adapter().write(dir.path(), "a/model", Precision::F16).unwrap();
        assert_ne!(Adapter::digest(dir.path()).unwrap(), digest);
        let half = Adapter::read(dir.path(), &model()).unwrap();
        let pairs = read.tensors.values().zip(half.tensors.values());
        let worst = pairs.flat_map(|(x, y)| x.1.data.iter().zip(&y.1.data)).map(|(x, y)| (x - y).abs());
        assert!(worst.fold(0.0, f32::max) < 1e-3);
    }

    #[test]
    fn a_merged_weight_is_the_weight_and_the_product() {
        let (adapter, weight) = (adapter(), tensor(4, 8, 9.0));
        let merged = adapter.merge("model.layers.1.self_attn.k_proj.weight", weight.clone());
        let (a, b) = &adapter.tensors["model.layers.1.self_attn.k_proj"];
        for (i, got) in merged.data.iter().enumerate() {
            let (row, column) = (i / 8, i % 8);
            let product: f32 = (0..3).map(|k| b.data[row * 3 + k] * a.data[k * 8 + column]).sum();
            assert!((got - (weight.data[i] + 2.0 * product)).abs() < 1e-5);
        }
        let other = adapter.merge("model.layers.1.self_attn.q_proj.weight", weight.clone());
        assert_eq!(other.data, weight.data);
        assert_eq!(adapter.merge("model.norm.weight", tensor(1, 8, 0.0)).data, tensor(1, 8, 0.0).data);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let dir = written();
        let config = std::fs::read_to_string(dir.path().join(CONFIG)).unwrap();
        for (from, to, says) in [
            ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
            ("\"LORA\"", "\"IA3\"", "IA3"),
            ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
            ("\"fan_in_fan_out\": false", "\"modules_to_save\": [\"lm_head\"]", "modules_to_save"),
            ("\"bias\": \"none\"", "\"init_lora_weights\": \"pissa\"", "pissa"),
            ("\"use_dora\": false", "\"layer_replication\": [[0, 1]]", "layer_replication"),
            ("\"r\": 3", "\"r\": 2", "not made for this model"),
            ("\"r\": 3", "\"r\": 0", "r is no positive number"),
            ("\"r\": 3", "\"r\": 2.5", "no rank"),
            ("{", "", "JSON"),
        ] {
            assert!(config.contains(from), "{from}");
            std::fs::write(dir.path().join(CONFIG), config.replacen(from, to, 1)).unwrap();
            let e = Adapter::read(dir.path(), &model()).unwrap_err();
            assert_eq!(e.kind(), Kind::Model, "{to}");
            assert!(e.to_string().contains(says), "{to}: {e}");
        }
        // The same adapter, its strength said in another way.
        let rank_stabilised = config.replace("\"use_rslora\": false", "\"use_rslora\": true");
        std::fs::write(dir.path().join(CONFIG), rank_stabilised).unwrap();
        let read = Adapter::read(dir.path(), &model()).unwrap();
        assert!((read.shape.alpha - 6.0 * 3.0_f64.sqrt()).abs() < 1e-9);

        std::fs::write(dir.path().join(CONFIG), &config).unwrap();
        let wider = DecoderConfig { hidden_size: 10, ..model() };
        assert!(Adapter::read(dir.path(), &wider).unwrap_err().to_string().contains("not made for this model"));
        let shallower = DecoderConfig { layers: 1, ..model() };
        assert!(Adapter::read(dir.path(), &shallower).is_err());
        let deeper = DecoderConfig { layers: 3, ..model() };
        assert!(Adapter::read(dir.path(), &deeper).unwrap_err().to_string().contains("lacks a layer"));
        let mut broken = adapter();
        broken.tensors.values_mut().next().unwrap().0.data[0] = f32::NAN;
        broken.write(dir.path(), "", Precision::F32).unwrap();
        assert!(Adapter::read(dir.path(), &model()).unwrap_err().to_string().contains("no number"));
        std::fs::remove_file(dir.path().join(WEIGHTS)).unwrap();
        assert!(Adapter::read(dir.path(), &model()).unwrap_err().to_string().contains(WEIGHTS));
        assert!(Adapter::read(&dir.path().join("nowhere"), &model()).unwrap_err().to_string().contains(CONFIG));
    }
}
