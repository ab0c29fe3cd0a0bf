//! `curec learn reward` on a tiny model: whole, killed in between, with gates that let it pass and one that does not.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{World, expect_code, stderr, summary, write_items};

/// Short titles: the tiny model knows nearly one token a letter and has 256 positions.
fn world() -> World {
    let world = World::new();
    let items: Vec<_> = (0..18).map(|i| (format!("i{i:02}"), Some(format!("F{i}")))).collect();
    write_items(&world.path("input/item.parquet"), &items);
    world
}

/// A weekly file that leaves its work in `out`, and of which the probe may have this AUC.
fn weekly(world: &World, out: &str, probe: f64) -> String {
    let text = format!(
        "name = \"weekly\"\njob = \"job.toml\"\nset = []\nout = \"{out}\"\ndevice = \"cpu\"\n\
         [examples]\nmax = 300\npairs_per_user = 2\nmeasured = 4\n\
         [align]\nrank = 2\nalpha = 4.0\ndropout = 0.1\ntargets = [\"q_proj\"]\nlearning_rate = 0.01\nwarmup = 0.1\n\
         epochs = 1\nmax_steps = 0\nbatch_tokens = 1024\nmicro_batch_tokens = 512\nclip = 1.0\nvalidate_every = 10\n\
         patience = 0\ncheckpoint_every = 1\nseed = 3\n\
         [reward]\nmax_examples = 80\nrows_per_user = 4\ngenerated = 40\nepochs = 3\nbatch = 16\nhidden = 8\nfolds = 2\n\
         resamples = 50\nshuffled = 2.0\nprobe = {probe:?}\nneeds_gain = false\n"
    );
    let file = format!("{out}.toml");
    std::fs::write(world.path(&file), text).unwrap();
    file
}

fn arguments(file: &str) -> [&str; 7] {
    ["learn", "reward", file, "--interval-start", "2026-01-12", "--interval-end", "2026-01-20"]
}

const FILES: [&str; 9] = [
    "reward.json",
    "reward_answer.parquet",
    "reward_example.parquet",
    "reward/judge/judge.json",
    "reward/judge/fold-0.safetensors",
    "reward/judge/fold-1.safetensors",
    "reward/second/judge.json",
    "reward/second/fold-0.safetensors",
    "reward/second/fold-1.safetensors",
];

#[test]
fn judges_are_trained_again_to_the_same_bytes_and_a_gate_that_fails_ends_with_1() {
    let world = world();
    let file = weekly(&world, "whole", 1.1);
    let out = world.curec(&arguments(&file));
    expect_code(&out, 0);
    let done = summary(&out);
    assert_eq!(done["status"], "rewarded");
    assert!(
        done["texts"]["template"].as_u64().unwrap() > 0 && done["texts"]["zero_shot"].as_u64().unwrap() > 0,
        "{done}"
    );
    assert_ne!(done["judge"], done["second"]);

    let file = weekly(&world, "killed", 1.1);
    let kept = world.path("killed/reward_answer.parquet");
    let mut child = world.command(&arguments(&file)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !kept.exists() && begun.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(kept.exists(), "it was not killed after an answer");
    assert!(!world.path("killed/reward.json").exists(), "it was killed too late to prove anything");
    expect_code(&world.curec(&arguments(&file)), 0);
    for file in FILES {
        let of = |out: &str| std::fs::read(world.path(out).join(file)).unwrap();
        assert!(of("whole") == of("killed"), "{file}");
    }

    let file = weekly(&world, "whole", 1e-6);
    let out = world.curec(&arguments(&file));
    expect_code(&out, 1);
    assert!(stderr(&out).contains("not fit to judge") && stderr(&out).contains("probe"), "{}", stderr(&out));
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.path("whole/reward.json")).unwrap()).unwrap();
    assert_eq!(record["passed"], false, "{record}");
    assert!(world.path("whole/reward/judge/judge.json").exists());
}

#[test]
fn judges_that_cannot_be_trained_are_refused_with_what_to_do() {
    let world = world();
    let file = weekly(&world, "work", 1.1);
    let text = std::fs::read_to_string(world.path(&file)).unwrap();
    for (from, to, says) in [
        ("folds = 2", "folds = 1", "folds"),
        ("folds = 2", "folds = 2\nsecond_seed = 0", "second_seed"),
        ("hidden = 8", "hiden = 8", "hiden"),
    ] {
        std::fs::write(world.path(&file), text.replace(from, to)).unwrap();
        let out = world.curec(&arguments(&file));
        expect_code(&out, 2);
        assert!(stderr(&out).contains(says), "{to}: {}", stderr(&out));
    }
    std::fs::write(world.path(&file), &text).unwrap();
    let out =
        world.curec(&["learn", "reward", &file, "--interval-start", "2025-01-01", "--interval-end", "2025-01-02"]);
    expect_code(&out, 75);
    assert!(stderr(&out).contains("nothing to learn from"), "{}", stderr(&out));
}
