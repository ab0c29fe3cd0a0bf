//! `curec models`, and nights with an adapter out of the registry.

use std::path::PathBuf;
use std::process::Output;

use crate::common::{World, expect_code, fixture, project, stderr, stdout, summary};
use serde_json::{Value, json};

/// The fixture's adapter, as PEFT wrote it.
fn adapter() -> PathBuf {
    project().join("tests/fixtures/adapters/tiny-qwen3")
}

/// A world whose job has a registry, and an adapter that differs from the fixture's in its strength.
fn world() -> (World, PathBuf) {
    let world = World::new();
    world.write_job(&format!("[project]\nregistry = \"{}\"\n", world.path("registry").display()));
    let other = world.path("other");
    std::fs::create_dir(&other).unwrap();
    let config = std::fs::read_to_string(adapter().join("adapter_config.json")).unwrap();
    assert!(config.contains("\"lora_alpha\": 6"));
    std::fs::write(other.join("adapter_config.json"), config.replace("\"lora_alpha\": 6", "\"lora_alpha\": 3"))
        .unwrap();
    let weights = "adapter_model.safetensors";
    std::fs::copy(adapter().join(weights), other.join(weights)).unwrap();
    (world, other)
}

fn models(world: &World, args: &[&str]) -> Output {
    world.curec(&[&["models"][..], args, &["--job", "job.toml"]].concat())
}

/// Adds an adapter whose gate is as told; its version.
fn add(world: &World, folder: &std::path::Path, gate: Option<bool>) -> String {
    let gate: Vec<Value> =
        gate.into_iter().map(|holds| json!({"what": "format >= 0.98", "value": 0.5, "holds": holds})).collect();
    let about =
        json!({"interval": ["2026-01-01", "2026-01-20"], "metrics": {"bleu4": 12.5}, "seeds": [7], "gate": gate});
    std::fs::write(world.path("about.json"), about.to_string()).unwrap();
    let folder = folder.display().to_string();
    let out = models(world, &["add", "writer", "--adapter", &folder, "--about", "about.json"]);
    expect_code(&out, 0);
    stdout(&out).trim().strip_prefix("writer ").unwrap().to_owned()
}

fn promoted(world: &World) -> Value {
    let out = models(world, &["show", "writer"]);
    expect_code(&out, 0);
    serde_json::from_str::<Value>(&stdout(&out)).unwrap()["promoted"].clone()
}

#[test]
fn versions_are_listed_promoted_and_rolled_back() {
    let (world, other) = world();
    let out = models(&world, &["list"]);
    expect_code(&out, 0);
    assert_eq!(stdout(&out), "no versions\n");
    let (first, second) = (add(&world, &adapter(), Some(true)), add(&world, &other, Some(false)));
    assert_eq!(add(&world, &adapter(), Some(true)), first, "the same is the same version");
    expect_code(&models(&world, &["promote", "writer", &first, "--why", "the first"]), 0);

    let refused = models(&world, &["promote", "writer", "latest"]);
    expect_code(&refused, 1);
    assert!(stderr(&refused).contains("format >= 0.98 (found 0.5)"), "{}", stderr(&refused));
    assert_eq!(promoted(&world), first.as_str());
    expect_code(&models(&world, &["promote", "writer", "latest", "--force"]), 0);
    assert_eq!(promoted(&world), second.as_str());

    let out = models(&world, &["list", "--json"]);
    let lines: Vec<Value> = stdout(&out).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let told: Vec<_> = lines.iter().map(|l| (l["version"].clone(), l["promoted"].clone())).collect();
    assert_eq!(told, [(json!(first), json!(false)), (json!(second), json!(true))]);
    assert_eq!((&lines[0]["trained"]["metrics"]["bleu4"], &lines[0]["trained"]["seeds"]), (&json!(12.5), &json!([7])));

    expect_code(&models(&world, &["rollback", "writer"]), 0);
    assert_eq!(promoted(&world), first.as_str());
    expect_code(&models(&world, &["rollback", "writer"]), 2);
    let shown: Value = serde_json::from_str(&stdout(&models(&world, &["show", "writer", "1"]))).unwrap();
    let actions: Vec<&str> =
        shown["history"].as_array().unwrap().iter().map(|p| p["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["promote", "promote", "rollback"]);
    assert_eq!((&shown["history"][0]["why"], &shown["history"][1]["forced"]), (&json!("the first"), &json!(true)));

    // A registry is also found without a job; a gate that nobody asked does not hold.
    let registry = world.path("registry").display().to_string();
    let fresh = world.path("fresh");
    std::fs::create_dir(&fresh).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(other.join(file), fresh.join(file)).unwrap();
    }
    let third = add(&world, &fresh, None);
    assert_ne!(third, second, "another story is another version");
    expect_code(&world.curec(&["models", "promote", "writer", &third, "--registry", &registry]), 1);
    for (wrong, says) in [
        (vec!["show", "writer", "9"], "no version `9`"),
        (vec!["show", "nobody"], "no version `latest` of `nobody`"),
        (vec!["show", "nobody", "promoted"], "no version of `nobody` is promoted"),
        (vec!["show", "../writer"], "no name of a model"),
    ] {
        let out = models(&world, &wrong);
        expect_code(&out, 2);
        assert!(stderr(&out).contains(says), "{wrong:?}: {}", stderr(&out));
    }
    let wrong_base = fixture("tiny-qwen2").display().to_string();
    let folder = adapter().display().to_string();
    let out = models(&world, &["add", "writer", "--adapter", &folder, "--model", &wrong_base]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("not made for this model"), "{}", stderr(&out));
}

#[test]
fn a_run_uses_what_is_promoted_and_pays_anew_when_that_changes() {
    let (world, other) = world();
    let run = |adapter: &str| world.run(&["--set", &format!("model.adapter={adapter}")]);
    let plain = world.run(&[]);
    expect_code(&plain, 0);
    assert!(summary(&plain)["generated"].as_u64().unwrap() > 0);

    let nothing = run("registry:writer");
    expect_code(&nothing, 2);
    assert!(stderr(&nothing).contains("curec models promote writer"), "{}", stderr(&nothing));

    let (first, second) = (add(&world, &adapter(), Some(true)), add(&world, &other, Some(true)));
    expect_code(&models(&world, &["promote", "writer", &first]), 0);
    let with = run("registry:writer");
    expect_code(&with, 0);
    assert_eq!(summary(&with)["generated"], summary(&plain)["generated"], "all was paid for anew");
    let generator = |run: &Value| {
        let out = world.curec(&["runs", "show", "job.toml", run["run_id"].as_str().unwrap(), "--json"]);
        expect_code(&out, 0);
        serde_json::from_str::<Value>(&stdout(&out)).unwrap()["models"]["generator"].as_str().unwrap().to_owned()
    };
    let base = generator(&summary(&plain));
    let card = |version: &str| {
        let shown: Value = serde_json::from_str(&stdout(&models(&world, &["show", "writer", version]))).unwrap();
        shown["card"].clone()
    };
    let named = |version: &str| format!("{base}+{}", card(version)["adapter"].as_str().unwrap());
    assert_eq!(card(&first)["base_model"], base.as_str());
    assert_eq!(generator(&summary(&with)), named(&first));
    let again = run("registry:writer");
    expect_code(&again, 0);
    assert_eq!(summary(&again)["status"], "nothing_to_do");

    expect_code(&models(&world, &["promote", "writer", &second]), 0);
    let changed = run("registry:writer");
    expect_code(&changed, 0);
    assert_eq!(summary(&changed)["generated"], summary(&plain)["generated"]);
    assert_eq!(generator(&summary(&changed)), named(&second));

    // Back: the answers of before are there, and the folder itself is the same adapter.
    expect_code(&models(&world, &["rollback", "writer"]), 0);
    let back = run("registry:writer");
    expect_code(&back, 0);
    assert_eq!((&summary(&back)["status"], &summary(&back)["generated"]), (&json!("published"), &json!(0)));
    let named_by_folder = run(&adapter().display().to_string());
    expect_code(&named_by_folder, 0);
    assert_eq!(summary(&named_by_folder)["status"], "nothing_to_do");

    let weights = world.path("registry/writer").join(&first).join("adapter/adapter_model.safetensors");
    std::fs::copy(fixture("tiny-qwen3/model.safetensors"), weights).unwrap();
    let damaged = run("registry:writer");
    expect_code(&damaged, 2);
    assert!(stderr(&damaged).contains("not those that its card names"), "{}", stderr(&damaged));
}

#[test]
fn versions_are_exported_alone_and_merged() {
    let (world, _) = world();
    let version = add(&world, &adapter(), Some(true));
    expect_code(&models(&world, &["promote", "writer", "1"]), 0);
    expect_code(&models(&world, &["export", "writer", "--out", "alone"]), 0);
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let (was, is) = (std::fs::read(adapter().join(file)).unwrap(), std::fs::read(world.path("alone").join(file)));
        assert!(was == is.unwrap(), "{file} is another");
    }
    assert!(std::fs::read_to_string(world.path("alone/README.md")).unwrap().contains(&version));
    expect_code(&models(&world, &["export", "writer", "--out", "alone"]), 2);

    expect_code(&models(&world, &["export", "writer", "--merged", "--out", "merged"]), 0);
    let merged = world.path("merged");
    let files = ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"];
    assert!(files.iter().all(|file| merged.join(file).exists()), "{merged:?}");
    // It writes what model and adapter write.
    let texts = |more: &[&str]| {
        let query = "select kind, user_id, item_id, reason from reason order by 1, 2, 3";
        expect_code(&world.run(more), 0);
        world.sql(query)
    };
    let set = |key: &str, value: &std::path::Path| format!("{key}={}", value.display());
    let beside = texts(&["--set", &set("model.adapter", &adapter())]);
    let inside = texts(&["--set", &set("model.generator", &merged)]);
    assert!(!beside.is_empty());
    assert_eq!(beside, inside);
    assert_ne!(texts(&[]), inside);
}

#[test]
fn a_day_is_not_written_by_a_model_that_learned_from_later_events() {
    let (world, _) = world();
    let of_day = |command: &str, day: u32, more: &[&str]| {
        let (start, end) = (format!("2026-01-{day}"), format!("2026-01-{}", day + 1));
        world.curec(&[&[command, "job.toml", "--interval-start", &start, "--interval-end", &end][..], more].concat())
    };
    let export = |more: &[&str]| world.curec(&[&["export", "job.toml", "--out", "exported"][..], more].concat());
    expect_code(&of_day("run", 17, &[]), 0);
    let version = add(&world, &adapter(), Some(true));
    expect_code(&models(&world, &["promote", "writer", &version]), 0);
    let adapter = ["--set", "model.adapter=registry:writer"];
    let allow = [&adapter[..], &["--set", "model.allow_later_training=true"]].concat();

    // It learned from events before the 20th.
    for command in ["run", "plan"] {
        let refused = of_day(command, 18, &adapter);
        expect_code(&refused, 2);
        for part in
            ["model.adapter has learned from events after", "2026-01-20", "allow_later_training", "earlier events"]
        {
            assert!(stderr(&refused).contains(part), "{command}, {part}: {}", stderr(&refused));
        }
    }
    assert!(!world.path("warehouse/item_feature/dt=2026-01-18").exists());

    // A day that stands is not made again by it, and keeps no other day from being made.
    let back = of_day("run", 19, &[&adapter[..], &["--lookback", "2"]].concat());
    expect_code(&back, 0);
    let stays = &summary(&back)["lookback"][0];
    assert_eq!((&stays["dt"], &stays["status"]), (&json!("2026-01-17"), &json!("learned_later")), "{stays}");
    let planned = of_day("plan", 19, &[&adapter[..], &["--lookback", "2"]].concat());
    expect_code(&planned, 0);
    assert!(stdout(&planned).contains("dt=2026-01-17 stays as it is"), "{}", stdout(&planned));
    expect_code(&export(&[]), 0);

    let allowed = of_day("run", 18, &allow);
    expect_code(&allowed, 0);
    assert_eq!(summary(&allowed)["learned_later"], json!({"model.adapter": "2026-01-20T00:00:00+00:00"}));
    let record = std::fs::read_to_string(world.path("warehouse/item_feature/dt=2026-01-18/_commit.json")).unwrap();
    assert!(record.contains("learned from later events: model.adapter"), "{record}");
    let refused = export(&["--overwrite"]);
    expect_code(&refused, 2);
    for part in ["item_feature/dt=2026-01-18", "user_feature/dt=2026-01-18", "--allow-later-training"] {
        assert!(stderr(&refused).contains(part), "{part}: {}", stderr(&refused));
    }
    // Events before the day, and events after all that the model has learned from, are joined to nothing that knows more.
    expect_code(&export(&["--overwrite", "--to", "2026-01-19"]), 0);
    expect_code(&export(&["--overwrite", "--from", "2026-01-20"]), 0);
    expect_code(&export(&["--overwrite", "--allow-later-training"]), 0);
    let exported: Value = serde_json::from_slice(&std::fs::read(world.path("exported/_export.json")).unwrap()).unwrap();
    assert_eq!(
        exported["features"]["item_feature"]["learned_later"],
        json!({"2026-01-18": "2026-01-20T00:00:00+00:00"}),
        "{exported}"
    );

    // Nobody knows of a folder without a record.
    let unknown = of_day("run", 18, &["--set", &format!("model.adapter={}", self::adapter().display())]);
    expect_code(&unknown, 0);
    assert!(stderr(&unknown).contains("no record beside it tells"), "{}", stderr(&unknown));
}
