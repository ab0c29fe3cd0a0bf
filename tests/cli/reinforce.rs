//! `curec learn reinforce` on a tiny model, after alignment and judges: whole, killed in between, and refused.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{World, expect_code, stderr, summary, write_items};

/// Short titles: the tiny model knows nearly one token a letter and has 256 positions.
fn world() -> World {
    let world = World::new();
    let items: Vec<_> = (0..18).map(|i| (format!("i{i:02}"), Some(format!("F{i}")))).collect();
    write_items(&world.path("input/item.parquet"), &items);
    world
}

/// A weekly file that leaves its work in `out`.
fn weekly(world: &World, out: &str) -> String {
    let text = format!(
        "name = \"weekly\"\njob = \"job.toml\"\nset = []\nout = \"{out}\"\ndevice = \"cpu\"\n\
         [examples]\nmax = 300\npairs_per_user = 2\nmeasured = 4\n\
         [align]\nrank = 2\nalpha = 4.0\ndropout = 0.0\ntargets = [\"q_proj\", \"v_proj\"]\nlearning_rate = 0.01\n\
         warmup = 0.1\nepochs = 1\nmax_steps = 0\nbatch_tokens = 1024\nmicro_batch_tokens = 512\nclip = 1.0\n\
         validate_every = 10\npatience = 0\ncheckpoint_every = 1\nseed = 3\n\
         [reward]\nmax_examples = 400\nrows_per_user = 20\ngenerated = 4\nepochs = 2\nbatch = 16\nhidden = 8\nfolds = 2\n\
         resamples = 50\nshuffled = 2.0\nprobe = 1.1\nneeds_gain = false\n\
         [reinforce]\nrank = 3\nalpha = 6.0\nrounds = 40\nprompts = 4\nanswers = 2\nstep_prompts = 2\nanchor = 0.5\n\
         checked = 4\ncheck_every = 20\npatience = 0\n"
    );
    let file = format!("{out}.toml");
    std::fs::write(world.path(&file), text).unwrap();
    file
}

fn arguments<'a>(stage: &'a str, file: &'a str) -> Vec<&'a str> {
    let interval = ["--interval-start", "2026-01-12", "--interval-end", "2026-01-20"];
    ["learn", stage, file].into_iter().chain(interval).collect()
}

#[test]
fn a_killed_reinforcement_goes_on_to_the_same_adapter_and_a_night_runs_with_it() {
    let world = world();
    let file = weekly(&world, "whole");
    let out = world.curec(&arguments("reinforce", &file));
    expect_code(&out, 2);
    assert!(stderr(&out).contains("curec learn align"), "{}", stderr(&out));
    expect_code(&world.curec(&arguments("align", &file)), 0);
    let out = world.curec(&arguments("reinforce", &file));
    expect_code(&out, 2);
    assert!(stderr(&out).contains("curec learn reward"), "{}", stderr(&out));
    // Without its record nobody knows what the adapter has learned from.
    let record = world.path("whole/align.json");
    std::fs::rename(&record, world.path("align.json")).unwrap();
    let out = world.curec(&arguments("reward", &file));
    expect_code(&out, 2);
    assert!(stderr(&out).contains("the alignment has not ended"), "{}", stderr(&out));
    std::fs::rename(world.path("align.json"), record).unwrap();
    expect_code(&world.curec(&arguments("reward", &file)), 0);
    let copied = Command::new("cp").arg("-r").arg(world.path("whole")).arg(world.path("killed")).status().unwrap();
    assert!(copied.success());

    let out = world.curec(&arguments("reinforce", &file));
    expect_code(&out, 0);
    let done = summary(&out);
    assert_eq!((&done["status"], &done["method"]), (&"reinforced".into(), &"best-of-n".into()), "{done}");
    assert_eq!((&done["rounds"], &done["ended"]), (&40.into(), &"finished".into()), "{done}");
    assert!(done["prompts"].as_u64().unwrap() > 0 && done["shared"].as_f64().unwrap() > 0.3, "{done}");
    for file in ["reinforce-best-of-n.json", "reinforce-best-of-n.jsonl"] {
        assert!(world.path("whole").join(file).exists(), "{file}");
    }
    let curve = std::fs::read_to_string(world.path("whole/reinforce-best-of-n.jsonl")).unwrap();
    for line in curve.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let rank = line["rank"].as_f64().unwrap();
        assert!((-1.0..=1.0).contains(&rank), "{line}");
    }
    // One adapter: two of alignment's ranks and three of reinforcement's.
    let config = std::fs::read(world.path("whole/adapter-best-of-n/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!((&config["r"], &config["target_modules"]), (&5.into(), &serde_json::json!(["q_proj", "v_proj"])));

    let file = weekly(&world, "killed");
    let checkpoint = world.path("killed/reinforce-best-of-n.safetensors");
    let mut child =
        world.command(&arguments("reinforce", &file)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !checkpoint.exists() && begun.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(checkpoint.exists(), "it was not killed after a round");
    let adapter = |out: &str| world.path(out).join("adapter-best-of-n/adapter_model.safetensors");
    assert!(!adapter("killed").exists(), "it was killed too late to prove anything");
    let out = world.curec(&arguments("reinforce", &file));
    expect_code(&out, 0);
    assert!(stderr(&out).contains("reinforcement goes on"), "{}", stderr(&out));
    let of = |out: &str| std::fs::read(adapter(out)).unwrap();
    assert!(of("whole") == of("killed"), "the adapters differ");

    let adapter = format!("model.adapter={}", world.path("whole/adapter-best-of-n").display());
    expect_code(&world.run(&["--set", &adapter]), 0);
}

#[test]
fn what_cannot_be_reinforced_is_refused_with_what_to_do() {
    let world = world();
    let file = weekly(&world, "work");
    let text = std::fs::read_to_string(world.path(&file)).unwrap();
    for (from, to, says) in [
        ("answers = 2", "answers = 1", "answers"),
        ("rounds = 40", "rounds = 0", "rounds"),
        ("rank = 3", "rank = 3\nfrom = \"../other\"", "from"),
        ("rank = 3", "rank = 3\ntemperature = 0.0", "temperature"),
        ("anchor = 0.5", "anchor = 0.5\nrank_weight = -0.1", "rank_weight"),
        ("anchor = 0.5", "ancor = 0.5", "ancor"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(world.path(&file), text.replace(from, to)).unwrap();
        let out = world.curec(&arguments("reinforce", &file));
        expect_code(&out, 2);
        assert!(stderr(&out).contains(says), "{to}: {}", stderr(&out));
    }
    let out = world.curec(&[arguments("reinforce", &file), vec!["--method", "ppo"]].concat());
    expect_code(&out, 2);
    assert!(stderr(&out).contains("best-of-n"), "{}", stderr(&out));
}
