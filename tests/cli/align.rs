//! `curec learn align` on a tiny model, whole and killed in between, and a night that runs with what it left.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{World, expect_code, stderr, summary, write_items};
use crate::night::signal;

/// Short titles: the tiny model knows nearly one token a letter and has 256 positions.
fn world() -> World {
    let world = World::new();
    let items: Vec<_> = (0..18).map(|i| (format!("i{i:02}"), Some(format!("F{i}")))).collect();
    write_items(&world.path("input/item.parquet"), &items);
    world
}

/// A weekly file that leaves its work in `out`.
fn weekly(world: &World, out: &str, epochs: usize) -> String {
    let text = format!(
        "name = \"weekly\"\njob = \"job.toml\"\nset = []\nout = \"{out}\"\ndevice = \"cpu\"\n\
         [examples]\nmax = 300\npairs_per_user = 2\nmeasured = 4\n\
         [align]\nrank = 2\nalpha = 4.0\ndropout = 0.1\ntargets = [\"q_proj\", \"v_proj\", \"down_proj\"]\n\
         learning_rate = 0.01\nwarmup = 0.1\nepochs = {epochs}\nmax_steps = 0\nbatch_tokens = 1024\n\
         micro_batch_tokens = 512\nclip = 1.0\nvalidate_every = 10\npatience = 0\ncheckpoint_every = 1\nseed = 3\n"
    );
    let file = format!("{out}.toml");
    std::fs::write(world.path(&file), text).unwrap();
    file
}

fn arguments(file: &str) -> [&str; 7] {
    ["learn", "align", file, "--interval-start", "2026-01-12", "--interval-end", "2026-01-20"]
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_killed_alignment_goes_on_to_the_same_adapter_and_a_night_runs_with_it() {
    let world = world();
    let file = weekly(&world, "whole", 12);
    let out = world.curec(&arguments(&file));
    expect_code(&out, 0);
    let done = summary(&out);
    assert_eq!(done["status"], "aligned");
    let loss = |when: &str| done[when].as_f64().unwrap();
    assert!(loss("loss_after") < 0.9 * loss("loss_before"), "{done}");
    for file in ["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "align.jsonl", "align.json"] {
        assert!(world.path("whole").join(file).exists(), "{file}");
    }
    assert!(world.path("whole/alignment_example.parquet").exists());
    let record: serde_json::Value = serde_json::from_slice(&bytes(&world.path("whole/align.json"))).unwrap();
    let samples = record["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 4, "all that is measured, where it is less than twenty");
    assert!(samples.iter().all(|s| s["answer"].as_str().unwrap().starts_with("<think>")), "{samples:?}");
    assert!(done.get("samples").is_none() && record["teacher"].is_null());
    assert!(record["after"]["foreign_titles"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{record}");

    let file = weekly(&world, "killed", 12);
    let checkpoint = world.path("killed/align.safetensors");
    let mut child = world.command(&arguments(&file)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !checkpoint.exists() && begun.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(checkpoint.exists(), "it was not killed in training");
    assert!(!world.path("killed/adapter/adapter_config.json").exists(), "it was killed too late to prove anything");
    let out = world.curec(&arguments(&file));
    expect_code(&out, 0);
    assert!(stderr(&out).contains("training goes on"), "{}", stderr(&out));
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        let of = |out: &str| bytes(&world.path(out).join("adapter").join(file));
        assert!(of("whole") == of("killed"), "{file}");
    }

    // Another model's answers are other answers, and are paid for anew.
    expect_code(&world.run(&[]), 0);
    let adapter = format!("model.adapter={}", world.path("whole/adapter").display());
    expect_code(&world.run(&["--set", &adapter]), 0);
    let answers =
        "select model_digest, count(*) as n from response group by model_digest order by length(model_digest)";
    let answers = world.sql(answers);
    assert_eq!(answers.len(), 2, "{answers:?}");
    let name = |row: usize| answers[row]["model_digest"].as_str().unwrap().to_owned();
    let digest = done["digest"].as_str().unwrap();
    assert_eq!(name(1), format!("{}+{digest}", name(0)));
    assert_eq!(answers[0]["n"], answers[1]["n"]);
}

#[test]
fn a_signal_keeps_a_checkpoint_and_the_same_command_goes_on() {
    let world = world();
    let file = weekly(&world, "whole", 12);
    expect_code(&world.curec(&arguments(&file)), 0);
    assert!(std::fs::read_to_string(world.path("whole/report.html")).unwrap().contains("<polyline"));
    let file = weekly(&world, "stopped", 12);
    let checkpoint = world.path("stopped/align.safetensors");
    // A record of another alignment would tell of examples that are not there any more.
    std::fs::create_dir(world.path("stopped")).unwrap();
    std::fs::write(world.path("stopped/align.json"), "{}").unwrap();
    let child = world.command(&arguments(&file)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !checkpoint.exists() && begun.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, "-TERM");
    let out = child.wait_with_output().unwrap();
    expect_code(&out, 75);
    assert!(stderr(&out).contains("run the same command again"), "{}", stderr(&out));
    assert!(!world.path("stopped/align.json").exists(), "it was stopped too late to prove anything");
    let out = world.curec(&arguments(&file));
    expect_code(&out, 0);
    assert!(stderr(&out).contains("training goes on"), "{}", stderr(&out));
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        let of = |out: &str| bytes(&world.path(out).join("adapter").join(file));
        assert!(of("whole") == of("stopped"), "{file}");
    }
}

#[test]
fn what_cannot_be_aligned_is_refused_with_what_to_do() {
    let world = world();
    let file = weekly(&world, "work", 1);
    let text = std::fs::read_to_string(world.path(&file)).unwrap();
    for (from, to, says) in [
        ("rank = 2", "rank = 0", "rank"),
        ("learning_rate = 0.01", "learning_rate = -1.0", "learning_rate"),
        ("\"q_proj\"", "\"lm_head\"", "lm_head"),
        ("seed = 3", "sead = 3", "sead"),
        ("seed = 3", "seed = 3\nvalidated = 0", "validated"),
        ("seed = 3", "seed = 3\nteacher = \"nowhere.parquet\"", "teacher"),
        ("out = \"work\"", "out = \"s3://bucket/work\"", "folder of this machine"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(world.path(&file), text.replace(from, to)).unwrap();
        let out = world.curec(&arguments(&file));
        expect_code(&out, 2);
        assert!(stderr(&out).contains(says), "{to}: {}", stderr(&out));
    }
    std::fs::write(world.path(&file), &text).unwrap();
    let out = world.curec(&["learn", "align", &file, "--interval-start", "2025-01-01", "--interval-end", "2025-01-02"]);
    expect_code(&out, 75);
    assert!(stderr(&out).contains("nothing to learn from"), "{}", stderr(&out));

    let out = world.run(&["--set", "model.adapter=nowhere"]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("model.adapter") && stderr(&out).contains("nowhere"), "{}", stderr(&out));
}
