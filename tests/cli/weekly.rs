//! `curec learn weekly` on a tiny model: whole, killed in every stage, refused, with another interval, on S3, and a night
//! that reads what it promoted.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{World, expect_code, stderr, stdout, summary, write_items};
use crate::night::signal;
use crate::s3::{Bucket, variables};

/// Reinforcement for real, of a size for a tiny model, which learns by the anchor alone: no answer of it is in the format.
const REINFORCED: (&str, &str) = (
    "method = \"none\"",
    "method = \"best-of-n\"\nrank = 2\nalpha = 4.0\nrounds = 12\nprompts = 4\nanswers = 2\nstep_prompts = 2\nanchor = 0.5\n\
     checked = 4\ncheck_every = 4\npatience = 0",
);

const STAGES: [&str; 6] = ["align", "reward", "reinforce", "evaluate", "gate", "promote"];

/// Short titles: the tiny model knows nearly one token a letter and has 256 positions.
fn short_titles(world: &World) {
    let items: Vec<_> = (0..18).map(|i| (format!("i{i:02}"), Some(format!("F{i}")))).collect();
    write_items(&world.path("input/item.parquet"), &items);
}

pub(crate) fn world() -> World {
    let world = World::new();
    short_titles(&world);
    world
}

/// A weekly file with its work in `out`, whose gates let everything pass, with `changes` of its lines.
pub(crate) fn weekly(world: &World, out: &str, set: &[String], changes: &[(&str, &str)]) -> String {
    let mut text = format!(
        "name = \"weekly\"\njob = \"job.toml\"\nset = {set:?}\nout = \"{out}\"\ndevice = \"cpu\"\n\
         [examples]\nmax = 300\npairs_per_user = 2\nmeasured = 4\n\
         [align]\nrank = 2\nalpha = 4.0\ndropout = 0.1\ntargets = [\"q_proj\", \"v_proj\", \"down_proj\"]\n\
         learning_rate = 0.01\nwarmup = 0.1\nepochs = 4\nmax_steps = 0\nbatch_tokens = 1024\n\
         micro_batch_tokens = 512\nclip = 1.0\nvalidate_every = 10\npatience = 0\ncheckpoint_every = 1\nseed = 3\n\
         [reward]\nmax_examples = 200\nrows_per_user = 6\ngenerated = 4\nepochs = 2\npatience = 1\nlearning_rate = 0.001\n\
         batch = 32\nhidden = 4\nfolds = 2\nunknown = 0.1\nresamples = 20\nshuffled = 10.0\nprobe = 2.0\n\
         needs_gain = false\nseed = 5\nsecond_seed = 6\n\
         [reinforce]\nmethod = \"none\"\nseed = 7\n\
         [gate]\nquestions = 1000\nformat = 0.0\ngrounded = 0.0\ndistinct2_margin = 1.0\ngain_margin = 100.0\n\
         evaluation = \"\"\nadapted = []\nndcg_margin = 1.0\n\
         [registry]\nname = \"writer\"\n"
    );
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let file = format!("{out}.toml");
    std::fs::write(world.path(&file), text).unwrap();
    file
}

/// A registry in a folder of the world.
pub(crate) fn registry_in(world: &World, name: &str) -> Vec<String> {
    vec![format!("project.registry={}", world.path(name).display())]
}

pub(crate) fn arguments(file: &str) -> [&str; 7] {
    ["learn", "weekly", file, "--interval-start", "2026-01-12", "--interval-end", "2026-01-20"]
}

fn record(world: &World, out: &str) -> Value {
    let bytes = std::fs::read(world.path(out).join("weekly.json")).unwrap_or_else(|_| b"{}".to_vec());
    serde_json::from_slice(&bytes).unwrap()
}

fn step(record: &Value, stage: &str) -> Value {
    let steps = record["steps"].as_array().cloned().unwrap_or_default();
    steps.into_iter().find(|step| step["stage"] == stage).unwrap_or_default()
}

fn show(world: &World, registry: &str, version: &str) -> Value {
    let registry = world.path(registry).display().to_string();
    let out = world.curec(&["models", "show", "writer", version, "--registry", &registry]);
    expect_code(&out, 0);
    serde_json::from_str(&stdout(&out)).unwrap()
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn wait_for(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(240), "{what} never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn killed_in_every_stage_it_goes_on_to_the_same_version_and_does_nothing_twice() {
    let world = world();
    let file = weekly(&world, "whole", &registry_in(&world, "registry-whole"), &[REINFORCED]);
    let out = world.curec(&arguments(&file));
    expect_code(&out, 0);
    let done = summary(&out);
    assert_eq!((&done["status"], &done["did"], &done["before"]), (&json!("promoted"), &json!(STAGES), &Value::Null));
    let version = done["version"].as_str().unwrap();
    let shown = show(&world, "registry-whole", "promoted");
    assert_eq!((&shown["promoted"], &shown["card"]["version"]), (&json!(version), &json!(version)));
    let card = &shown["card"];
    assert_eq!(card["trained"]["interval"], json!(["2026-01-12", "2026-01-20"]));
    assert_eq!(card["trained"]["seeds"], json!([3, 5, 6, 7]));
    assert_eq!(card["trained"]["gate"].as_array().unwrap().len(), 4, "{card:#}");
    assert!(card["trained"]["metrics"]["ndcg"].as_str().unwrap().contains("not asked"), "{card:#}");
    assert!(card["trained"]["metrics"]["judge"]["questions"].as_u64().unwrap() > 0, "{card:#}");
    assert!(
        bytes(&world.path("whole/adapter/adapter_model.safetensors"))
            != bytes(&world.path("whole/adapter-best-of-n/adapter_model.safetensors"))
    );
    assert!(card["files"]["reward/judge.json"].is_string() && card["encoder"].is_string(), "{card:#}");
    let page = std::fs::read_to_string(world.path("whole/report.html")).unwrap();
    assert!(page.contains("<polyline") && page.contains("distinct2") && page.contains("promote"), "{page}");

    let before = record(&world, "whole");
    let again = world.curec(&arguments(&file));
    expect_code(&again, 0);
    assert_eq!((&summary(&again)["did"], &summary(&again)["version"]), (&json!([]), &done["version"]));
    assert_eq!(record(&world, "whole"), before);

    let file = weekly(&world, "killed", &registry_in(&world, "registry-killed"), &[REINFORCED]);
    for stage in STAGES {
        let known = record(&world, "killed");
        let mut child = world.command(&arguments(&file)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for(stage, || !step(&record(&world, "killed"), stage).is_null());
        child.kill().unwrap();
        child.wait().unwrap();
        let now = record(&world, "killed");
        for stage in STAGES.iter().filter(|stage| step(&known, stage)["finished"] == true) {
            assert_eq!(step(&known, stage), step(&now, stage), "{stage} was done again");
        }
    }
    let out = world.curec(&arguments(&file));
    expect_code(&out, 0);
    assert_eq!(summary(&out)["version"], version, "another story: {:#}", show(&world, "registry-killed", "latest"));
    for file in [
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "reward/judge/judge.json",
        "adapter-best-of-n/adapter_model.safetensors",
        "adapter-best-of-n/adapter_config.json",
        "evaluate.json",
    ] {
        let of = |out: &str| bytes(&world.path(out).join(file));
        assert!(of("whole") == of("killed"), "{file}");
    }
    let versions = std::fs::read_dir(world.path("registry-killed/writer")).unwrap();
    assert_eq!(versions.filter(|e| e.as_ref().unwrap().path().is_dir()).count(), 1, "every kill made a version");
}

#[test]
fn what_changes_redoes_what_depends_on_it_and_a_gate_that_fails_promotes_nothing() {
    let world = world();
    let set = registry_in(&world, "registry");
    let run = |changes: &[(&str, &str)]| world.curec(&arguments(&weekly(&world, "work", &set, changes)));
    let first = run(&[]);
    expect_code(&first, 0);
    let version = summary(&first)["version"].clone();
    let known = record(&world, "work");

    let strict = [("format = 0.0", "format = 0.98")];
    for round in 0..2 {
        let refused = run(&strict);
        expect_code(&refused, 1);
        assert_eq!(summary(&refused)["status"], "audit");
        assert!(
            stderr(&refused).contains("format >= 0.98") && stderr(&refused).contains("models show"),
            "{}",
            stderr(&refused)
        );
        let shown = show(&world, "registry", "latest");
        assert_eq!(shown["promoted"], version, "round {round}");
        assert!(shown["card"]["version"].as_str().unwrap().starts_with("0002-"), "{shown:#}");
        let now = record(&world, "work");
        for stage in &STAGES[..4] {
            assert_eq!(step(&known, stage), step(&now, stage), "{stage} was done again");
        }
        assert!(step(&now, "gate")["refused"].is_string() && step(&now, "promote").is_null(), "{now:#}");
        let page = std::fs::read_to_string(world.path("work/report.html")).unwrap();
        assert!(page.contains("does not hold"), "{page}");
    }
    // Back to what held: the same version is found again.
    let back = run(&[]);
    expect_code(&back, 0);
    assert_eq!((&summary(&back)["did"], &summary(&back)["version"]), (&json!(["gate", "promote"]), &version));

    // What is gone is made again, and nothing before it.
    std::fs::remove_file(world.path("work/evaluate.json")).unwrap();
    let mended = run(&[]);
    expect_code(&mended, 0);
    assert_eq!(summary(&mended)["did"], json!(["evaluate", "gate", "promote"]));
    assert_eq!(summary(&mended)["version"], version);
    // As after an alignment for another interval that was cut short: whose examples lie there nobody knows.
    std::fs::remove_file(world.path("work/align.json")).unwrap();
    let mended = run(&[]);
    expect_code(&mended, 0);
    assert_eq!(
        (&summary(&mended)["did"], &summary(&mended)["version"]),
        (&json!(["align", "gate", "promote"]), &version)
    );
    let known = record(&world, "work");

    // A judge that is not good enough ends the run before anything is compared.
    let judged = run(&[("needs_gain = false", "needs_gain = true"), ("probe = 2.0", "probe = 0.000001")]);
    expect_code(&judged, 1);
    assert!(
        stderr(&judged).contains("probe") && stderr(&judged).contains("nothing is promoted"),
        "{}",
        stderr(&judged)
    );
    let now = record(&world, "work");
    assert_eq!(step(&known, "align"), step(&now, "align"));
    assert!(step(&now, "reward")["refused"].is_string(), "{now:#}");
    assert_eq!(show(&world, "registry", "latest")["promoted"], version);

    // Another interval is another run; it is compared with what is in use.
    let file = weekly(&world, "work", &set, &[]);
    let mut other = arguments(&file);
    other[4] = "2026-01-11";
    let out = world.curec(&other);
    expect_code(&out, 0);
    assert_eq!((&summary(&out)["did"], &summary(&out)["before"]), (&json!(STAGES), &version));
    assert_ne!(summary(&out)["version"], version);
    assert!(
        show(&world, "registry", "promoted")["card"]["trained"]["gate"].to_string().contains(version.as_str().unwrap())
    );

    // A night reads what is promoted.
    let registry = &set[0];
    let night = world.run(&["--set", registry, "--set", "model.adapter=registry:writer"]);
    expect_code(&night, 0);
    let adapter = show(&world, "registry", "promoted")["card"]["adapter"].as_str().unwrap().to_owned();
    let answered = world.sql("select distinct model_digest from response");
    assert!(
        answered.len() == 1 && answered[0]["model_digest"].as_str().unwrap().ends_with(&format!("+{adapter}")),
        "{answered:?}"
    );

    // What was rolled back is not said to be in use, and is not brought back.
    let at = world.path("registry").display().to_string();
    expect_code(&world.curec(&["models", "rollback", "writer", "--registry", &at]), 0);
    let out = world.curec(&other);
    expect_code(&out, 1);
    assert!(stderr(&out).contains("not in use any more"), "{}", stderr(&out));
    assert_eq!(show(&world, "registry", "latest")["promoted"], version);
    // A registry that knows nothing of it is told.
    let file = weekly(&world, "work", &registry_in(&world, "elsewhere"), &[]);
    let mut other = arguments(&file);
    other[4] = "2026-01-11";
    let out = world.curec(&other);
    expect_code(&out, 0);
    assert_eq!(show(&world, "elsewhere", "promoted")["promoted"], summary(&out)["version"]);
}

#[test]
fn recommenders_have_a_say_where_an_evaluation_is_named() {
    let world = world();
    let evaluation = "name = \"gate\"\nout = \"unused\"\narms = [\"A0\"]\nseeds = 1\ntargets = [\"last\"]\nresamples = 50\n\
                      confidence = 0.95\ndevice = \"cpu\"\n[split]\norigins = [0.8]\nvalid_quantile = 0.8\n\
                      [sasrec]\nhidden = 8\ninner = 8\nlayers = 1\nheads = 1\nlength = 10\ndropout = 0.1\nbatch = 64\nepochs = 1\n\
                      patience = 1\nlearning_rates = [0.01]\n[[data]]\nname = \"tiny\"\njob = \"job.toml\"\n";
    std::fs::write(world.path("evaluation.toml"), evaluation).unwrap();
    let set = registry_in(&world, "registry");
    let named = ("evaluation = \"\"", "evaluation = \"evaluation.toml\"");
    let file = weekly(&world, "work", &set, &[named]);
    // What was learned from must not be held out.
    let out = world.curec(&arguments(&file));
    expect_code(&out, 2);
    assert!(stderr(&out).contains("learned until") && !world.path("work/align.json").exists(), "{}", stderr(&out));
    let late = evaluation.replace("[0.8]", "[0.97]").replace("quantile = 0.8", "quantile = 0.97");
    std::fs::write(world.path("evaluation.toml"), late).unwrap();
    let mut earlier = arguments(&file);
    (earlier[4], earlier[6]) = ("2026-01-11", "2026-01-19");
    let out = world.curec(&earlier);
    expect_code(&out, 0);
    let gate = summary(&out)["gate"].as_array().unwrap().clone();
    let said: Vec<&str> = gate.iter().map(|check| check["what"].as_str().unwrap()).collect();
    assert!(said.iter().any(|what| what.starts_with("NDCG@10 on tiny (last)")), "{said:?}");
    assert!(world.path("work/evaluation/report.html").exists() && !world.path("unused").exists());

    // Nor what the version in use has learned from, which may be later than what the candidate does.
    std::fs::write(world.path("evaluation.toml"), evaluation).unwrap();
    let mut before = earlier;
    before[6] = "2026-01-14";
    let out = world.curec(&before);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("learned until: 2026-01-19"), "{}", stderr(&out));

    // A file without SASRec is refused before anything is learned.
    let without = evaluation.replace("[sasrec]", "[din]");
    std::fs::write(world.path("evaluation.toml"), without).unwrap();
    let out = world.curec(&arguments(&weekly(&world, "other", &set, &[named])));
    expect_code(&out, 2);
    assert!(!world.path("other/align.json").exists());
}

fn on_s3(bucket: &Bucket, args: &[&str]) -> Output {
    let mut command = bucket.world.command(args);
    command.envs(variables(&bucket.server.endpoint)).env("XDG_CACHE_HOME", bucket.world.path("cache"));
    command.output().unwrap()
}

#[test]
fn a_registry_on_s3_is_added_to_and_read_from() {
    let bucket = Bucket::new();
    short_titles(&bucket.world);
    std::fs::rename(bucket.world.path("input/item.parquet"), bucket.world.path("s3/logs/input/item.parquet")).unwrap();
    let set = [
        "project.registry=s3://lake/registry",
        "input.interaction=s3://logs/input/interaction.parquet",
        "input.item=s3://logs/input/item.parquet",
    ]
    .map(str::to_owned);
    let file = weekly(&bucket.world, "work", &set, &[]);
    let out = on_s3(&bucket, &arguments(&file));
    expect_code(&out, 0);
    let version = summary(&out)["version"].as_str().unwrap().to_owned();
    let at = bucket.world.path("s3/lake/registry/writer").join(&version);
    for file in ["card.json", "adapter/adapter_model.safetensors", "reward/judge.json", "reward/fold-0.safetensors"] {
        assert!(at.join(file).exists(), "{file}");
    }
    let again = on_s3(&bucket, &arguments(&file));
    expect_code(&again, 0);
    assert_eq!(summary(&again)["did"], json!([]));

    let night = ["run", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
    let set = set.iter().flat_map(|pair| ["--set", pair.as_str()]);
    let night: Vec<&str> = night.into_iter().chain(set).chain(["--set", "model.adapter=registry:writer"]).collect();
    expect_code(&on_s3(&bucket, &night), 0);
    let exported = ["models", "export", "writer", "--out", "exported", "--registry", "s3://lake/registry"];
    expect_code(&on_s3(&bucket, &exported), 0);
    assert!(
        bytes(&bucket.world.path("exported/reward/judge.json"))
            == bytes(&bucket.world.path("work/reward/judge/judge.json"))
    );
}

#[test]
fn one_process_works_in_a_folder_and_a_signal_keeps_what_is_done() {
    let world = world();
    let file = weekly(&world, "work", &registry_in(&world, "registry"), &[("epochs = 4", "epochs = 40")]);
    std::fs::create_dir(world.path("work")).unwrap();
    let lock = std::fs::File::create(world.path("work/lock")).unwrap();
    lock.lock().unwrap();
    for command in ["weekly", "align"] {
        let mut arguments = arguments(&file);
        arguments[1] = command;
        let out = world.curec(&arguments);
        expect_code(&out, 75);
        assert!(stderr(&out).contains("another process learns in this folder"), "{}", stderr(&out));
    }
    drop(lock);

    let child = world.command(&arguments(&file)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a checkpoint", || world.path("work/align.safetensors").exists());
    signal(&child, "-TERM");
    let out = child.wait_with_output().unwrap();
    expect_code(&out, 75);
    assert_eq!(summary(&out)["status"], "interrupted");
    assert_eq!(step(&record(&world, "work"), "align")["finished"], false);
    let again = world.curec(&arguments(&file));
    expect_code(&again, 0);
    assert!(stderr(&again).contains("training goes on"), "{}", stderr(&again));
}

#[test]
fn a_weekly_file_that_cannot_be_run_is_refused_with_what_to_do() {
    let world = world();
    let set = registry_in(&world, "registry");
    for (change, says) in [
        (("format = 0.0", "format = 1.5"), "gate.format"),
        (("gain_margin = 100.0", "gain_margin = -1.0"), "gain_margin"),
        (("questions = 1000", "questions = 0"), "questions"),
        (("adapted = []", "adapted = [\"prompt.item\"]"), "key=value"),
        (("evaluation = \"\"", "evaluation = \"nowhere.toml\""), "nowhere.toml"),
        (("[registry]\nname = \"writer\"\n", ""), "[registry]"),
        (("name = \"writer\"", "name = \"../writer\""), "no name of a model"),
    ] {
        let out = world.curec(&arguments(&weekly(&world, "work", &set, &[change])));
        expect_code(&out, 2);
        assert!(stderr(&out).contains(says), "{change:?}: {}", stderr(&out));
        assert!(!world.path("work/align.json").exists(), "{change:?}");
    }
    let out = world.curec(&arguments(&weekly(&world, "work", &[], &[])));
    expect_code(&out, 2);
    assert!(stderr(&out).contains("project.registry"), "{}", stderr(&out));
}
