//! The tiny encoder with changed configuration files: what is honoured and what is rejected.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::error::Kind;

/// A copy of the tiny encoder, in which files are replaced.
fn with(files: &[(&str, Value)]) -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tiny-bert");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    for name in [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
    }
    for (name, value) in files {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    dir
}

fn load(files: &[(&str, Value)]) -> SentenceEncoder {
    SentenceEncoder::load(with(files).path(), &ComputeDevice::cpu()).unwrap()
}

const POOLING: &str = "1_Pooling/config.json";

#[test]
fn configurations_of_new_and_old_sentence_transformers_mean_the_same() {
    let texts = ["film", "People who like Fargo also like Pulp Fiction. People who like Fargo also like Alien."];
    let old = load(&[]);
    let new = |mode: Value| {
        load(&[
            (POOLING, json!({"embedding_dimension": 32, "pooling_mode": mode, "include_prompt": true})),
            ("sentence_bert_config.json", json!({"transformer_task": "feature-extraction"})),
            ("tokenizer_config.json", json!({"model_max_length": 24})),
            (
                "modules.json",
                json!([
                    {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
                    {"path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
                    {"path": "2_Normalize", "type": "sentence_transformers.sentence_transformer.modules.normalize.Normalize"},
                ]),
            ),
        ])
    };
    for mode in [json!("mean"), json!(["mean"])] {
        let new = new(mode);
        assert_eq!((old.max_tokens(), new.max_tokens()), (24, 24));
        assert_eq!(old.embed(&texts).unwrap(), new.embed(&texts).unwrap());
    }
    let first = load(&[(POOLING, json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}))]);
    assert_eq!(first.embed(&texts).unwrap(), new(json!("cls")).embed(&texts).unwrap());
    assert_ne!(first.embed(&texts).unwrap(), old.embed(&texts).unwrap());
}

#[test]
fn what_cannot_be_followed_is_refused_by_name() {
    let modules = |last: &[&str]| {
        let all =
            last.iter().map(|kind| json!({"path": if *kind == "Pooling" { "1_Pooling" } else { "" }, "type": kind}));
        ("modules.json", Value::Array(all.collect()))
    };
    let placed =
        |path: &str| ("modules.json", json!([{"path": "", "type": "Transformer"}, {"path": path, "type": "Pooling"}]));
    let prompts = |c: Value| ("config_sentence_transformers.json", c);
    for (file, says) in [
        ((POOLING, json!({"pooling_mode": "max"})), "by max"),
        ((POOLING, json!({"pooling_mode": ["cls", "mean"]})), "cls together with mean"),
        (
            (POOLING, json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true})),
            "cls together with mean",
        ),
        ((POOLING, json!({"pooling_mode_weightedmean_tokens": true})), "weightedmean"),
        (
            (POOLING, json!({"pooling_mode_mean_tokens": true, "pooling_mode_lasttoken": true})),
            "mean together with lasttoken",
        ),
        ((POOLING, json!({})), "without a mode"),
        ((POOLING, json!({"pooling_mode": "mean", "embedding_dimension": 33})), "embedding_dimension"),
        (("sentence_bert_config.json", json!({"transformer_task": "fill-mask"})), "transformer_task"),
        (modules(&["Transformer", "Pooling", "Dense"]), "Dense"),
        (modules(&["Transformer"]), "order of modules Transformer"),
        (modules(&["Transformer", "Normalize", "Pooling"]), "order of modules"),
        (placed("../1_Pooling"), "out of its folder"),
        (placed("/etc"), "out of its folder"),
        (prompts(json!({"prompts": {"a": "b"}, "default_prompt_name": "c"})), "default_prompt_name"),
    ] {
        let dir = with(&[file]);
        let e = EncoderFiles::open(dir.path()).unwrap_err();
        assert!(e.kind() == Kind::Model && e.explain().contains(says), "{says}: {}", e.explain());
    }
    let dir = with(&[
        (POOLING, json!({"pooling_mode": "mean", "include_prompt": false})),
        prompts(json!({"prompts": {"a": "b "}, "default_prompt_name": "a"})),
    ]);
    let e = EncoderFiles::open(dir.path()).unwrap_err();
    assert!(e.explain().contains("include_prompt"), "{}", e.explain());
}

#[test]
fn the_default_prompt_stands_before_every_text_and_is_part_of_the_digest() {
    let config = |prompt: &str, default: Value| {
        let config = json!({"prompts": {"document": prompt}, "default_prompt_name": default});
        load(&[("config_sentence_transformers.json", config)])
    };
    let (without, with) = (load(&[]), config("film ", json!("document")));
    assert_eq!(with.embed(&["alien"]).unwrap(), without.embed(&["film alien"]).unwrap());
    assert_ne!(with.embed(&["alien"]).unwrap(), without.embed(&["alien"]).unwrap());
    let unused = config("film ", Value::Null);
    assert_eq!(unused.embed(&["alien"]).unwrap(), without.embed(&["alien"]).unwrap());
    assert_eq!(unused.digest(), without.digest());
    let digests = [without.digest(), with.digest(), config("people ", json!("document")).digest()].map(str::to_owned);
    assert!(digests[0] != digests[1] && digests[1] != digests[2]);
    let lower = load(&[("sentence_bert_config.json", json!({"max_seq_length": 24, "do_lower_case": true}))]);
    assert_eq!(lower.embed(&["ALIEN"]).unwrap(), lower.embed(&["alien"]).unwrap());
}

#[test]
fn the_tokenizers_limit_counts_where_no_other_is_stated() {
    let none = ("sentence_bert_config.json", json!({"max_seq_length": null}));
    let limit = |n: Value| load(&[none.clone(), ("tokenizer_config.json", json!({"model_max_length": n}))]);
    let (twelve, twenty) = (limit(json!(12)), limit(json!(20)));
    assert_eq!((twelve.max_tokens(), twenty.max_tokens()), (12, 20));
    assert_ne!(twelve.digest(), twenty.digest());
    let endless = limit(json!(1e30));
    assert!(
        endless.max_tokens() > 24
            && endless.digest() == load(&[none.clone(), ("tokenizer_config.json", json!({}))]).digest()
    );
}
