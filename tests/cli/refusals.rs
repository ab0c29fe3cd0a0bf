//! What the binary refuses: each bad input ends with its exit code, a message that says what, where and what to do, no
//! backtrace, and nothing published.

use std::process::Output;

use crate::common;
use crate::common::{Event, World, events, expect_code, fixture, january, stderr, stdout, summary, write_events};

/// Asserts the code, that all of `says` stands in the message, and that nothing was published.
fn refused(world: &World, out: &Output, code: i32, says: &[&str]) {
    let text = stderr(out);
    expect_code(out, code);
    for part in says {
        assert!(text.contains(part), "the message lacks `{part}`:\n{text}");
    }
    assert!(
        !text.contains("panicked") && !text.contains("stack backtrace") && !text.contains("RUST_BACKTRACE"),
        "{text}"
    );
    assert!(world.published().is_empty(), "something was published");
}

fn with_events(change: impl FnOnce(&mut Vec<Event>)) -> World {
    let world = World::new();
    let mut log = events();
    change(&mut log);
    write_events(&world.path("input/interaction.parquet"), &log);
    world
}

#[test]
fn missing_unreadable_and_truncated_files() {
    let world = World::new();
    let file = world.path("input/interaction.parquet");
    let whole = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    // Most likely late: the folder that it is to lie in is there.
    refused(&world, &world.run(&[]), 75, &["interaction.parquet", "yet", "run again"]);
    refused(&world, &world.run(&["--set", "interval.empty=refuse"]), 1, &["interaction.parquet"]);
    refused(&world, &world.run(&["--set", "input.interaction=nowhere/log"]), 1, &["nowhere/log", "its folder"]);
    std::fs::write(&file, "user,item\n1,2\n").unwrap();
    refused(&world, &world.run(&[]), 1, &["interaction.parquet", "not a Parquet file"]);
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    refused(&world, &world.run(&[]), 1, &["interaction.parquet", "truncated"]);
    std::fs::write(&file, "").unwrap();
    refused(&world, &world.run(&[]), 1, &["interaction.parquet", "empty"]);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    refused(&world, &world.run(&["--allow-empty"]), 75, &["interaction.parquet", "empty"]);
    // What Spark leaves while it writes, and what will never be Parquet.
    std::fs::create_dir(file.join("_temporary")).unwrap();
    std::fs::write(file.join("_temporary/part-0.parquet"), "PAR1").unwrap();
    refused(&world, &world.run(&[]), 75, &["interaction.parquet", "yet"]);
    std::fs::write(file.join("log.csv"), "user,item\n").unwrap();
    refused(&world, &world.run(&[]), 1, &["log.csv", "curec import"]);
}

#[test]
fn text_files_are_refused_with_the_command_that_converts_them() {
    let world = World::new();
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let csv = "user_id,item_id\nu1,i1\n".as_bytes();
    let files: [(&str, &[u8], &str); 6] = [
        ("log.csv", csv, "curec import csv LOG"),
        ("log.CSV.gz", &gzip, "curec import csv LOG"),
        ("log.tsv", csv, "curec import csv LOG"),
        ("log.jsonl", b"{\"user_id\": \"u1\"}\n", "curec import jsonl LOG"),
        ("log.json.gz", &gzip, "curec import jsonl LOG"),
        ("log.gz", &gzip, "curec import` writes it"),
    ];
    for (name, bytes, command) in files {
        std::fs::write(world.path("input").join(name), bytes).unwrap();
        let set = format!("input.interaction=input/{name}");
        refused(&world, &world.run(&["--set", &set]), 1, &[name, "not a Parquet file", command]);
        // A folder of nothing else.
        let folder = world.path("input").join(format!("folder-{name}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
        let set = format!("input.interaction=input/folder-{name}");
        refused(&world, &world.run(&["--set", &set]), 1, &[name, "no .parquet file", command]);
    }
}

#[test]
fn nulls_duplicates_and_numbers_that_are_none() {
    let world = with_events(|log| log[7].at = None);
    refused(&world, &world.run(&[]), 1, &["interaction.parquet", "timestamp", "row: 7"]);
    let world = with_events(|log| log[9].rating = Some(f32::NAN));
    refused(&world, &world.run(&[]), 1, &["interaction.parquet", "rating", "row: 9"]);
    let world = with_events(|log| log[9].rating = Some(f32::INFINITY));
    refused(&world, &world.run(&[]), 1, &["rating", "row: 9"]);
    let world = with_events(|log| {
        let first = log[0].clone();
        log.push(first);
    });
    refused(&world, &world.run(&[]), 1, &["interaction.parquet", "user_id", "u"]);
    let world = World::new();
    let mut items = common::items();
    items.push(items[3].clone());
    common::write_items(&world.path("input/item.parquet"), &items);
    refused(&world, &world.run(&[]), 1, &["item.parquet", "i03"]);
}

#[test]
fn columns_that_are_missing_or_of_the_wrong_type() {
    let world = World::new();
    let items = world.path("input/item.parquet");
    std::fs::copy(&items, world.path("input/interaction.parquet")).unwrap();
    refused(&world, &world.run(&[]), 1, &["interaction.parquet", "user_id"]);
    let world = World::new();
    let schema = arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new(
        "item_id",
        arrow::datatypes::DataType::Float64,
        false,
    )]);
    let ids = std::sync::Arc::new(arrow::array::Float64Array::from(vec![1.0, 2.0]));
    let batch = arrow::array::RecordBatch::try_new(std::sync::Arc::new(schema), vec![ids]).unwrap();
    common::write(&world.path("input/item.parquet"), &batch);
    refused(&world, &world.run(&[]), 1, &["item.parquet", "item_id", "Float64"]);
}

#[test]
fn logs_without_timestamps() {
    let Some(pairs) = common::shared("data/movielens-1m-pairs/interactions.parquet") else { return };
    let world = World::new();
    let set = format!("input.interaction={}", pairs.display());
    refused(&world, &world.run(&["--set", &set]), 1, &["interactions.parquet", "timestamp", "row: 0"]);
}

#[test]
fn intervals() {
    let world = World::new();
    let run =
        |start: &str, end: &str| world.curec(&["run", "job.toml", "--interval-start", start, "--interval-end", end]);
    refused(&world, &run("2026-01-20", "2026-01-20"), 2, &["interval", "exclusive"]);
    refused(&world, &run("yesterday", "2026-01-20"), 2, &["--interval-start", "yesterday", "2026-11-21"]);
    refused(&world, &world.curec(&["run", "job.toml"]), 2, &["--interval-start"]);
    refused(&world, &world.curec(&["runn"]), 2, &["run"]);
    // A night without events is most likely a log that has not arrived; emptying the tables must be asked for.
    let late = run("2020-01-20", "2020-01-21");
    refused(&world, &late, 75, &["no event", "2020-01-20", "--allow-empty"]);
    let line = summary(&late);
    assert_eq!((&line["status"], &line["rerun_helps"]), (&"not_arrived".into(), &true.into()), "{line}");
    let set = |value: &str| {
        let set = format!("interval.empty={value}");
        world.curec(&[
            "run",
            "job.toml",
            "--interval-start",
            "2020-01-20",
            "--interval-end",
            "2020-01-21",
            "--set",
            &set,
        ])
    };
    let final_one = set("refuse");
    refused(&world, &final_one, 1, &["no event"]);
    assert_eq!((&summary(&final_one)["status"], &summary(&final_one)["rerun_helps"]), (&"input".into(), &false.into()));
    refused(&world, &set("sometimes"), 2, &["interval.empty", "wait, refuse or publish"]);
    expect_code(&set("publish"), 0);
    let args = ["run", "job.toml", "--interval-start", "2020-01-20", "--interval-end", "2020-01-21", "--allow-empty"];
    let out = world.curec(&args);
    expect_code(&out, 0);
    assert_eq!(summary(&out)["reasons"], 0, "{}", stdout(&out));
    assert!(world.published().is_empty());
}

#[test]
fn unknown_items_are_accepted() {
    let world = with_events(|log| {
        let at = Some(january(20, 5));
        log.push(Event { user: "u00".into(), item: "never-listed".into(), rating: Some(5.0), at });
    });
    let out = world.run(&[]);
    expect_code(&out, 0);
    assert_eq!(world.sql("select title from item_audience where item_id = 'never-listed'").len(), 1);
    let fate = world.sql(
        "select r.error, s.refusal from reason r join reason_score s on s.prompt_key = r.prompt_key \
                          where r.item_id = 'never-listed'",
    );
    assert_eq!((&fate[0]["error"], &fate[0]["refusal"]), (&"not_generated".into(), &"no_evidence".into()));
    assert!(stderr(&out).contains("not in `item`, for example never-listed"), "{}", stderr(&out));
}

#[test]
fn job_files() {
    let world = World::new();
    let absent = ["run", "absent.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
    refused(&world, &world.curec(&absent), 2, &["absent.toml", "what to do"]);
    let text = "name = 3\n[model]\ndevise = \"cpu\"\nslots = \"many\"\n[chek]\na = 1\n";
    std::fs::write(world.path("job.toml"), text).unwrap();
    let says =
        ["job.toml:1: name", "job.toml:3: model.devise", "`device`", "job.toml:4: model.slots", "job.toml:5: chek"];
    refused(&world, &world.run(&[]), 2, &says);
    std::fs::write(world.path("job.toml"), "name = \"a\n").unwrap();
    refused(&world, &world.run(&[]), 2, &["not TOML", "line: 1"]);
}

#[test]
fn models() {
    let world = World::new();
    let generator = |path: &std::path::Path| format!("model.generator={}", path.display());
    let run = |path: &std::path::Path| world.run(&["--set", &generator(path)]);
    refused(&world, &run(&world.path("nowhere")), 2, &["nowhere", "what to do"]);
    refused(&world, &run(&world.path("input")), 2, &["config.json"]);

    let whole = std::fs::read(fixture("tiny-llama.gguf")).unwrap();
    let torn = world.path("torn.gguf");
    std::fs::write(&torn, &whole[..whole.len() - 1000]).unwrap();
    refused(&world, &run(&torn), 2, &["torn.gguf"]);
    std::fs::write(&torn, b"GGUFxxxx").unwrap();
    refused(&world, &run(&torn), 2, &["torn.gguf"]);

    let copy = |name: &str, change: &dyn Fn(&str) -> String| {
        let folder = world.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        for entry in std::fs::read_dir(fixture("tiny-llama-f16")).unwrap().map(|e| e.unwrap().path()) {
            std::fs::copy(&entry, folder.join(entry.file_name().unwrap())).unwrap();
        }
        let config = folder.join("config.json");
        std::fs::write(&config, change(&std::fs::read_to_string(&config).unwrap())).unwrap();
        folder
    };
    let foreign =
        copy("foreign", &|c| c.replace("LlamaForCausalLM", "MambaForCausalLM").replace("\"llama\"", "\"mamba\""));
    refused(&world, &run(&foreign), 2, &["foreign", "amba"]);
    let weights = copy("torn-weights", &|c| c.to_string());
    let bytes = std::fs::read(weights.join("model.safetensors")).unwrap();
    std::fs::write(weights.join("model.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    refused(&world, &run(&weights), 2, &["model.safetensors"]);
    let misfit = copy("misfit", &|c| c.to_string());
    std::fs::copy(fixture("tiny-qwen2/tokenizer.json"), misfit.join("tokenizer.json")).unwrap();
    let big = std::fs::read_to_string(misfit.join("tokenizer.json")).unwrap();
    let more = big.replacen(
        "\"added_tokens\":[",
        "\"added_tokens\":[{\"id\": 99999, \"content\": \"<|far|>\", \
        \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true},",
        1,
    );
    assert_ne!(big, more, "the fixture's tokenizer looks different");
    std::fs::write(misfit.join("tokenizer.json"), more).unwrap();
    refused(&world, &run(&misfit), 2, &["tokenizer"]);

    let out = world.run(&["--set", "model.device=cuda:0"]);
    if !cfg!(feature = "cuda") {
        refused(&world, &out, 2, &["cuda"]);
    }
    let out = world.run(&["--set", "model.device=tpu"]);
    refused(&world, &out, 2, &["tpu", "cpu"]);
}

#[test]
fn a_day_that_another_job_has_published_is_not_replaced() {
    let world = World::new();
    expect_code(&world.run(&[]), 0);
    let published = world.published();
    let other = ["--set", "name=other"];
    let otherwise = [&other[..], &["--set", "history.like_threshold=3.0"]].concat();
    // What would not be replaced is no matter.
    expect_code(&world.run(&other), 0);
    let plan = ["plan", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
    for out in [world.run(&otherwise), world.curec(&[&plan[..], &otherwise].concat())] {
        expect_code(&out, 2);
        let said = stderr(&out);
        assert!(said.contains("the job test has published") && said.contains("the job other would replace"), "{said}");
        assert!(said.contains("replaces = \"test\""), "{said}");
    }
    assert_eq!(world.published(), published);
    // Whose a day is outlives a user who is forgotten.
    expect_code(&world.curec(&["forget", "job.toml", "--user-id", "u07", "--set", "name=third"]), 0);
    expect_code(&world.run(&otherwise), 2);
    // Another day is free, and a job may be renamed.
    let next = ["run", "job.toml", "--interval-start", "2026-01-19", "--interval-end", "2026-01-20"];
    expect_code(&world.curec(&[&next[..], &otherwise].concat()), 0);
    expect_code(&world.run(&[&otherwise[..], &["--set", "publish.replaces=before, test"]].concat()), 0);
    expect_code(&world.run(&["--set", "history.like_threshold=3.5"]), 2);
}
