//! `curec learn align` on a tiny model, whole and killed in between, and a night that runs with what it left.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{World, ascii_model, expect_code, stderr, summary, write_items};
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

/// Lines of a teacher's answers, and the texts that could be read.
fn said(world: &World, out: &str) -> (usize, Vec<serde_json::Value>) {
    let text = std::fs::read_to_string(world.path(out).join("teacher_answers.jsonl")).unwrap();
    (text.lines().count(), text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[test]
fn a_model_of_this_machine_teaches_and_is_asked_nothing_twice() {
    let world = world();
    // A tiny model that reads more: a question to a teacher tells the format too, nearly one token a letter.
    ascii_model(&world.path("teacher"));
    let config = world.path("teacher/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut read: serde_json::Value = serde_json::from_str(&text).unwrap();
    read["max_position_embeddings"] = 2048.into();
    std::fs::write(&config, read.to_string()).unwrap();

    let file = weekly(&world, "taught", 1);
    let text = std::fs::read_to_string(world.path(&file)).unwrap();
    let teacher = "seed = 3\nteacher = \"teacher\"\nteacher_samples = 2\nteacher_tokens = 6";
    let text = text.replace("seed = 3", teacher);
    std::fs::write(world.path(&file), &text).unwrap();
    let record = || -> serde_json::Value {
        let out = world.curec(&arguments(&file));
        expect_code(&out, 0);
        serde_json::from_slice(&bytes(&world.path("taught/align.json"))).unwrap()
    };
    let first = record();
    let account = &first["teacher"];
    let (lines, answers) = said(&world, "taught");
    let given = account["given"].as_u64().unwrap();
    // Of sampled answers some are bytes that are no text: they are kept as such, and not asked for again.
    let each = account["answers_per_question"].as_f64().unwrap();
    assert!(given > 0 && (1.0..=2.0).contains(&each), "{account}");
    // A random model writes nothing in the format: the templates' answers stay.
    assert_eq!((account["taken"].as_u64(), account["broken"].as_u64()), (Some(0), Some(given)), "{account}");
    assert!(account["specificity"].is_null() && account["seconds"].as_f64().unwrap() > 0.0, "{account}");
    assert!(account["completion_tokens"].as_u64().unwrap() > 0, "{account}");
    assert_eq!((lines, account["unanswered"].as_u64()), (answers.len(), Some(0)), "{account}");
    let samples: Vec<u64> = answers.iter().map(|line| line["sample"].as_u64().unwrap()).collect();
    let of = |sample: u64| samples.iter().filter(|s| **s == sample).count();
    assert!(of(0) > 0 && of(0) <= of(1) && of(0) + of(1) == lines, "greedy answers may be shared: {samples:?}");

    // All of it is known: nothing is asked, and the account is the same.
    assert_eq!((&record()["teacher"], said(&world, "taught").0), (account, lines));

    // A kill cut the last line short: only that answer is asked for again, and it is the same one.
    let log = world.path("taught/teacher_answers.jsonl");
    let whole = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() - 20]).unwrap();
    record();
    let (torn, again) = said(&world, "taught");
    assert_eq!((torn, again.len()), (lines + 1, lines), "the torn line stays, the new one stands after it");
    let sorted = |mut answers: Vec<serde_json::Value>| {
        answers.iter_mut().for_each(|line| line["micros"] = 0.into());
        answers.sort_by_key(|line| line["question"].as_str().unwrap().to_owned());
        answers
    };
    assert_eq!(sorted(again), sorted(answers));

    // More answers a question: those that there are count.
    std::fs::write(world.path(&file), text.replace("teacher_samples = 2", "teacher_samples = 3")).unwrap();
    let third = record();
    assert!(third["teacher"]["given"].as_u64() >= Some(given), "{third}");
    assert_eq!(said(&world, "taught").1.len(), lines + of(1));
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
        ("seed = 3", "seed = 3\nteacher = \"nowhere.gguf\"", "a folder with config.json"),
        ("seed = 3", "seed = 3\nteacher_samples = 0", "teacher_samples"),
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
