//! The registry as a whole: versions added, promoted, rolled back, fetched and exported.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use chrono::{DateTime, Utc};

use super::*;
use crate::llm::adapter::AdapterShape;
use crate::llm::tensor_files::HostTensor;
use crate::registry::card::{Check, Trained};
use crate::registry::promotions::{Action, PROMOTED};
use crate::registry::versions::{Parts, list_text};

fn base() -> ModelFiles {
    ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tiny-qwen3")).unwrap()
}

/// An adapter of the tiny model's first query projection.
fn adapter(dir: &Path, value: f32) {
    let name = "model.layers.0.self_attn.q_proj";
    let shape = base().config().tensors().into_iter().find(|(n, _)| n.starts_with(name)).unwrap().1;
    let filled = |shape: [usize; 2]| HostTensor { data: vec![value; shape[0] * shape[1]], shape: shape.to_vec() };
    let tensors = [(name.to_owned(), (filled([1, shape[1]]), filled([shape[0], 1])))].into_iter().collect();
    // No targets are listed: only one layer has tensors.
    let shape = AdapterShape { rank: 1, alpha: 1.0, dropout: 0.0, targets: Vec::new() };
    Adapter { shape, tensors }.write(dir, "tiny-qwen3", Precision::F32).unwrap();
}

fn passed(holds: bool) -> Trained {
    let gate = vec![Check { what: "format >= 0.98".into(), value: 0.99, holds }];
    Trained { gate, seeds: vec![7], ..Trained::default() }
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap()
}

#[tokio::test]
async fn versions_are_added_promoted_and_rolled_back() {
    let (dir, base) = (tempfile::tempdir().unwrap(), base());
    for url in [format!("{}/registry", dir.path().display()), "memory://registry-versions/a".to_owned()] {
        let registry = Registry::open(&url, &StoreOptions::default()).unwrap();
        assert!(registry.list(None).await.unwrap().is_empty());
        let none = registry.promoted("writer").await.unwrap_err();
        assert_eq!(none.kind(), Kind::Config);
        assert!(none.explain().contains("models promote writer"), "{none:?}");

        let mut versions = Vec::new();
        for (i, trained) in [passed(true), passed(true), passed(false)].into_iter().enumerate() {
            let folder = dir.path().join(format!("adapter-{i}"));
            adapter(&folder, i as f32 + 1.0);
            let card = registry.add("writer", &folder, &base, trained.clone(), at(100)).await.unwrap();
            let again = registry.add("writer", &folder, &base, trained, at(200)).await.unwrap();
            assert_eq!(card, again, "the same is found again");
            assert!(card.version.starts_with(&format!("000{}-", i + 1)), "{}", card.version);
            versions.push(card.version);
        }
        assert_eq!(registry.find("writer", "latest").await.unwrap().version, versions[2]);
        assert_eq!(registry.find("writer", "2").await.unwrap().version, versions[1]);
        assert_eq!(registry.find("writer", "000").await.unwrap_err().kind(), Kind::Usage);
        assert_eq!(registry.find("writer", "4").await.unwrap_err().kind(), Kind::Usage);
        assert_eq!(registry.find("../writer", "1").await.unwrap_err().kind(), Kind::Usage);

        let current = async || registry.promoted("writer").await.unwrap().version;
        registry.promote("writer", "1", "first", false, at(1)).await.unwrap();
        assert_eq!(registry.rollback("writer", "", at(2)).await.unwrap_err().kind(), Kind::Config);
        registry.promote("writer", "2", "better", false, at(3)).await.unwrap();
        registry.promote("writer", "2", "again", false, at(4)).await.unwrap();
        assert_eq!(current().await, versions[1]);
        let refused = registry.promote("writer", "3", "", false, at(5)).await.unwrap_err();
        assert_eq!(refused.kind().exit_code(), 1);
        assert!(refused.to_string().contains("format >= 0.98"), "{refused}");
        registry.promote("writer", "3", "I know better", true, at(6)).await.unwrap();
        assert_eq!(current().await, versions[2]);
        registry.rollback("writer", "worse", at(7)).await.unwrap();
        assert_eq!(current().await, versions[1]);
        // Not back to the one that was just given up.
        registry.rollback("writer", "worse still", at(8)).await.unwrap();
        assert_eq!(current().await, versions[0]);
        let history = registry.promotions("writer").await.unwrap().history;
        let told: Vec<_> = history.iter().map(|p| (p.action, p.forced, p.at.timestamp())).collect();
        let (up, down) = (Action::Promote, Action::Rollback);
        assert_eq!(told, [(up, false, 1), (up, false, 3), (up, true, 6), (down, false, 7), (down, false, 8)]);
        let listed = registry.list(None).await.unwrap();
        let promoted: Vec<bool> = listed.iter().map(|l| l.promoted).collect();
        assert_eq!(promoted, [true, false, false]);
        assert!(list_text(&listed).contains("gate: fails"));
    }
}

#[tokio::test]
async fn half_a_version_is_none_and_is_finished_by_adding_again() {
    let (dir, base) = (tempfile::tempdir().unwrap(), base());
    let folder = dir.path().join("adapter");
    adapter(&folder, 1.0);
    let registry = Registry::open("memory://registry-half/", &StoreOptions::default()).unwrap();
    let card = registry.add("writer", &folder, &base, passed(true), at(1)).await.unwrap();
    let whole = registry.root.child("writer").child(&card.version);
    whole.child(CARD).delete().await.unwrap();
    assert!(registry.list(Some("writer")).await.unwrap().is_empty());
    let again = registry.add("writer", &folder, &base, passed(true), at(2)).await.unwrap();
    assert_eq!((again.version, again.adapter.clone()), (card.version, card.adapter));
    assert_eq!(again.adapter, Adapter::digest(&folder).unwrap());
}

#[tokio::test]
async fn a_name_is_one_of_adapters_or_one_of_projections() {
    let (dir, base) = (tempfile::tempdir().unwrap(), base());
    let (folder, maps) = (dir.path().join("adapter"), dir.path().join("projection"));
    adapter(&folder, 1.0);
    std::fs::create_dir(&maps).unwrap();
    std::fs::write(maps.join("maps.safetensors"), "maps").unwrap();
    let registry = Registry::open("memory://registry-kinds", &StoreOptions::default()).unwrap();
    let project = async |name: &str| registry.add_projection(name, &maps, "d", "e", passed(true), at(1)).await;
    let adapt = async |name: &str| registry.add(name, &folder, &base, passed(true), at(1)).await;
    adapt("writer").await.unwrap();
    let card = project("map").await.unwrap();
    assert_eq!(project("map").await.unwrap(), card);
    for (told, others) in [(project("writer").await, "adapters"), (adapt("map").await, "projections")] {
        let told = told.unwrap_err();
        assert_eq!(told.kind(), Kind::Usage);
        assert!(told.explain().contains(&format!("the name of {others}")), "{told:?}");
    }
}

#[tokio::test]
async fn an_export_holds_files_against_their_digests() {
    let (dir, base) = (tempfile::tempdir().unwrap(), base());
    let folder = dir.path().join("adapter");
    adapter(&folder, 1.0);
    let registry = Registry::open("memory://registry-export", &StoreOptions::default()).unwrap();
    let card = registry.add("writer", &folder, &base, passed(true), at(1)).await.unwrap();
    let out = dir.path().join("out");
    registry.export(&card, &out).await.unwrap();
    assert_eq!(Adapter::digest(&out).unwrap(), card.adapter);
    assert_eq!(registry.export(&card, &out).await.unwrap_err().kind(), Kind::Usage);
    assert!(!out.join(REWARD).exists() && registry.judge(&card).is_none());
    registry.adapter(&card).child(FILES[1]).put(Bytes::from_static(b"else")).await.unwrap();
    let e = registry.export(&card, &dir.path().join("other")).await.unwrap_err();
    assert!(e.to_string().contains("not those that its card names"), "{e}");
    assert!(!dir.path().join("other").exists());
}

#[tokio::test]
async fn a_version_holds_the_reward_model_that_goes_with_it() {
    let (dir, base) = (tempfile::tempdir().unwrap(), base());
    let (folder, reward) = (dir.path().join("adapter"), dir.path().join("judge"));
    adapter(&folder, 1.0);
    std::fs::create_dir(&reward).unwrap();
    for (file, text) in [("judge.json", "{}"), ("fold-0.safetensors", "weights"), (".part", "half")] {
        std::fs::write(reward.join(file), text).unwrap();
    }
    for url in [dir.path().join("registry").display().to_string(), "memory://registry-reward".to_owned()] {
        let registry = Registry::open(&url, &StoreOptions::default()).unwrap();
        let parts = Parts { adapter: &folder, reward: Some(&reward), encoder: Some("e5") };
        let card = registry.add_parts("writer", parts, &base, passed(true), at(1)).await.unwrap();
        let alone = registry.add("writer", &folder, &base, passed(true), at(1)).await.unwrap();
        assert_ne!(alone.version, card.version);
        assert_eq!(card.encoder.as_deref(), Some("e5"));
        assert!(card.readme().contains("encoder `e5`") && !alone.readme().contains("encoder"));
        assert!(!alone.json().unwrap().contains("encoder"), "cards of before are as they were");
        assert_eq!(registry.find("writer", &card.version).await.unwrap(), card);

        let name = if url.starts_with("memory") { "a" } else { "b" };
        let (cache, out) = (dir.path().join(format!("cache-{name}")), dir.path().join(format!("out-{name}")));
        let there = registry.fetch_judge(&card, &cache).await.unwrap();
        assert_eq!(std::fs::read_to_string(there.join("fold-0.safetensors")).unwrap(), "weights");
        assert_eq!(registry.fetch_judge(&alone, &cache).await.unwrap_err().kind(), Kind::Config);
        assert_eq!(Adapter::digest(&registry.fetch_adapter(&card, &cache).await.unwrap()).unwrap(), card.adapter);
        registry.export(&card, &out).await.unwrap();
        assert_eq!(std::fs::read_to_string(out.join("reward/judge.json")).unwrap(), "{}");
        assert!(!out.join("reward/.part").exists());

        registry.judge(&card).unwrap().child("judge.json").put(Bytes::from_static(b"[]")).await.unwrap();
        let e = registry.fetch_judge(&card, &cache).await.unwrap_err();
        assert!(e.to_string().contains("not those that its card names"), "{e}");
    }
}

#[tokio::test]
async fn a_projection_is_a_version_like_an_adapter_and_neither_is_taken_for_the_other() {
    let (dir, base) = (tempfile::tempdir().unwrap(), base());
    let (folder, made) = (dir.path().join("adapter"), dir.path().join("projection"));
    adapter(&folder, 1.0);
    std::fs::create_dir(&made).unwrap();
    for (file, text) in [("projection.json", "{}"), ("maps.safetensors", "maps")] {
        std::fs::write(made.join(file), text).unwrap();
    }
    for url in [dir.path().join("registry").display().to_string(), "memory://registry-projection".to_owned()] {
        let registry = Registry::open(&url, &StoreOptions::default()).unwrap();
        let writer = registry.add("writer", &folder, &base, passed(true), at(1)).await.unwrap();
        let card = registry.add_projection("map", &made, "d1", "e5", passed(true), at(1)).await.unwrap();
        let again = registry.add_projection("map", &made, "d1", "e5", passed(true), at(2)).await.unwrap();
        assert_eq!(card, again, "the same is found again");
        assert_eq!((card.projection.as_deref(), card.encoder.as_deref()), (Some("d1"), Some("e5")));
        assert!(card.readme().contains("A projection") && !card.readme().contains("LoRA"));
        let e = registry.add_projection("writer", &made, "d1", "e5", passed(true), at(1)).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Usage);
        registry.promote("map", "latest", "", false, at(3)).await.unwrap();
        assert_eq!(registry.promoted("map").await.unwrap(), card);

        let name = if url.starts_with("memory") { "a" } else { "b" };
        let (cache, out) = (dir.path().join(format!("cache-{name}")), dir.path().join(format!("out-{name}")));
        let there = registry.fetch_projection(&card, &cache).await.unwrap();
        assert_eq!(std::fs::read_to_string(there.join("maps.safetensors")).unwrap(), "maps");
        assert_eq!(registry.fetch_projection(&writer, &cache).await.unwrap_err().kind(), Kind::Config);
        assert_eq!(registry.fetch_adapter(&card, &cache).await.unwrap_err().kind(), Kind::Config);
        registry.export(&card, &out).await.unwrap();
        assert!(out.join("projection.json").exists() && out.join("card.json").exists());
    }
}

#[tokio::test]
async fn nothing_in_a_registry_leads_out_of_it() {
    let (dir, base) = (tempfile::tempdir().unwrap(), base());
    let folder = dir.path().join("adapter");
    adapter(&folder, 1.0);
    for url in [dir.path().join("registry").display().to_string(), "memory://registry-paths".to_owned()] {
        let registry = Registry::open(&url, &StoreOptions::default()).unwrap();
        let card = registry.add("writer", &folder, &base, passed(true), at(1)).await.unwrap();
        let there = registry.root.child("writer").child(&card.version).child(CARD);
        let mut of_files = card.clone();
        of_files.files.insert("reward/../../../../secret".into(), String::new());
        for (changed, says) in [
            (Card { name: "../writer".into(), ..card.clone() }, "the card is that of"),
            (Card { version: "/etc".into(), ..card.clone() }, "the card is that of"),
            (of_files, "out of its folder"),
        ] {
            there.put(Bytes::from(changed.json().unwrap())).await.unwrap();
            let e = registry.find("writer", "latest").await.unwrap_err();
            assert!(e.kind() == Kind::Model && e.explain().contains(says), "{}", e.explain());
        }
        there.put(Bytes::from(card.json().unwrap())).await.unwrap();
        registry.promote("writer", "latest", "", false, at(2)).await.unwrap();
        let promoted = registry.root.child("writer").child(PROMOTED);
        let text = String::from_utf8(promoted.get().await.unwrap().unwrap().to_vec()).unwrap();
        promoted.put(text.replace(&card.version, "../../elsewhere").into()).await.unwrap();
        let e = registry.promoted("writer").await.unwrap_err();
        assert!(e.explain().contains("out of its folder"), "{}", e.explain());
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_in_a_registry_stays_inside() {
    use std::os::unix::fs::symlink;
    let (dir, base) = (tempfile::tempdir().unwrap(), base());
    let (folder, root) = (dir.path().join("adapter"), dir.path().join("registry"));
    adapter(&folder, 1.0);
    let link = dir.path().join("link");
    std::fs::create_dir(&root).unwrap();
    symlink(&root, &link).unwrap();
    let registry = Registry::open(&link.display().to_string(), &StoreOptions::default()).unwrap();
    let card = registry.add("writer", &folder, &base, passed(true), at(1)).await.unwrap();
    registry.fetch_adapter(&card, dir.path()).await.unwrap();
    let weights = root.join("writer").join(&card.version).join("adapter").join(FILES[1]);
    std::fs::remove_file(&weights).unwrap();
    symlink(folder.join(FILES[1]), &weights).unwrap();
    for e in [
        registry.fetch_adapter(&card, dir.path()).await.unwrap_err(),
        registry.export(&card, &dir.path().join("out")).await.unwrap_err(),
    ] {
        assert!(e.kind() == Kind::Model && e.explain().contains("a link leads out"), "{}", e.explain());
    }
}
