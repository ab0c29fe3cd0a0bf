//! Adapters that are read, written, merged and refused, over a model of a few numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::llm::decoder_config::Family;

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
    let shape = AdapterShape { rank: 3, alpha: 6.0, dropout: 0.05, targets: vec!["k_proj".into(), "down_proj".into()] };
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
    second.shape = AdapterShape { rank: 2, alpha: 1.0, dropout: 0.0, targets: vec!["k_proj".into(), "q_proj".into()] };
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
        ("\"r\": 3", "\"r\": 2", "another rank than r = 2"),
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
    // The same adapter with its scale written in another way.
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
    let outer = tempfile::tempdir().unwrap();
    for name in ["checkpoint-90", "checkpoint-100"] {
        adapter().write(&outer.path().join(name), "", Precision::F32).unwrap();
    }
    let e = Adapter::read(outer.path(), &model()).unwrap_err();
    assert!(e.explain().contains("`checkpoint-100`"), "{}", e.explain());
    assert!(Adapter::read(&dir.path().join("nowhere"), &model()).unwrap_err().to_string().contains(CONFIG));
}

/// The adapter with other tensors: `change` gets the names and values.
fn rewritten(change: impl Fn(Vec<(String, Vec<usize>)>) -> Vec<(String, Vec<usize>)>) -> tempfile::TempDir {
    let dir = written();
    let bytes = std::fs::read(dir.path().join(WEIGHTS)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let zeros = vec![0u8; 4096];
    let of = |(name, shape): &(String, Vec<usize>)| {
        let size = 4 * shape.iter().product::<usize>();
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), &zeros[..size]).unwrap())
    };
    let all = change(file.tensors().into_iter().map(|(n, t)| (n, t.shape().to_vec())).collect());
    let text = safetensors::serialize(all.iter().map(of), None).unwrap();
    std::fs::write(dir.path().join(WEIGHTS), text).unwrap();
    dir
}

#[test]
fn names_of_other_trainers_mean_the_same_layers() {
    let want: Vec<String> = adapter().tensors.into_keys().collect();
    for (from, to) in [
        ("base_model.model.", ""),
        ("base_model.model.", "base_model.model._orig_mod."),
        ("base_model.model.", "module.base_model.model."),
        (".weight", ".default.weight"),
    ] {
        let dir = rewritten(|all| all.into_iter().map(|(n, s)| (n.replace(from, to), s)).collect());
        let read = Adapter::read(dir.path(), &model()).unwrap();
        assert_eq!(read.tensors.into_keys().collect::<Vec<_>>(), want, "{to}");
    }
    let dir = rewritten(|mut all| {
        let (name, shape) = all[0].clone();
        all.push((name.replace(".weight", ".default.weight"), shape));
        all
    });
    assert!(Adapter::read(dir.path(), &model()).unwrap_err().to_string().contains("twice"));
}

#[test]
fn an_adapter_of_this_model_is_refused_for_what_it_holds() {
    for (name, shape, says) in [
        ("base_model.model.model.embed_tokens.lora_embedding_A", vec![3, 11], "lora_embedding_A of embed_tokens"),
        ("base_model.model.lm_head.lora_A.weight", vec![3, 8], "a part for lm_head"),
        ("base_model.model.lm_head.weight", vec![11, 8], "whole tensors of lm_head (modules_to_save"),
        ("base_model.model.model.embed_tokens.weight", vec![11, 8], "whole tensors of embed_tokens"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", vec![8], "DoRA"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", vec![8], "lora_B.bias of q_proj"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", vec![5, 8], "another rank"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", vec![8, 5], "another rank"),
    ] {
        let dir = rewritten(|mut all| {
            all.push((name.to_owned(), shape.clone()));
            all
        });
        let e = Adapter::read(dir.path(), &model()).unwrap_err();
        assert!(e.explain().contains(says) && !e.explain().contains("not made for"), "{name}: {}", e.explain());
    }
    let dir = rewritten(|mut all| {
        all.push(("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight".to_owned(), vec![3, 8]));
        all
    });
    assert!(Adapter::read(dir.path(), &model()).unwrap_err().to_string().contains("not made for this model"));
}
