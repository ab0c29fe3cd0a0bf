//! `curec learn worth` on a tiny log: a refusal with its record, answers that are paid for once, of items and of histories, who may
//! not be judged, and what cannot be measured.

use std::collections::BTreeMap;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::common::{World, expect_code, project, stderr};

/// Items that are asked about, and answers of each.
const ITEMS: usize = 6;
const SAMPLES: usize = 2;
/// Users whose histories are asked about.
const USERS: usize = 5;

/// A weekly file that leaves its work in `out`. Six items are too few for any reward. The job's own short question is asked: the
/// tiny model knows nearly one token a letter and has 256 positions.
fn weekly(world: &World, out: &str, more: &str) -> String {
    let text = format!(
        "name = \"weekly\"\njob = \"job.toml\"\nset = []\nout = \"{out}\"\ndevice = \"cpu\"\n\
         [worth]\nset = []\nhistory_set = []\nfrom = \"\"\nmost_items = {ITEMS}\nmost_users = {USERS}\n\
         samples = {SAMPLES}\ntemperature = 0.3\nfolds = 2\nnegatives = 5\nnearest = 8\n\
         hidden = 4\nbatch = 32\nepochs = 2\nlearning_rates = [0.01]\n{more}"
    );
    let file = format!("{out}.toml");
    std::fs::write(world.path(&file), text).unwrap();
    file
}

fn arguments(file: &str) -> [&str; 7] {
    ["learn", "worth", file, "--interval-start", "2026-01-12", "--interval-end", "2026-01-20"]
}

fn bytes(world: &World, name: &str) -> Vec<u8> {
    std::fs::read(world.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn record(world: &World, out: &str) -> Value {
    serde_json::from_slice(&bytes(world, &format!("{out}/worth.json"))).unwrap()
}

/// Lines of the answers, and what those that can be read say by their keys.
fn said(world: &World) -> (usize, BTreeMap<String, Value>) {
    let text = String::from_utf8(bytes(world, "work/worth_answers.jsonl")).unwrap();
    let read = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let read = read.map(|line| (line["question"].as_str().unwrap().to_owned(), line["answer_text"].clone()));
    (text.lines().count(), read.collect())
}

/// Runs it and expects a refusal; what it said.
fn refused(world: &World, file: &str) -> String {
    let out = world.curec(&arguments(file));
    expect_code(&out, 1);
    let told = stderr(&out);
    assert!(told.contains("may not be a reward, and nothing was learned"), "{told}");
    assert!(told.contains("items with reasons of known worth >= 30 (found "), "{told}");
    told
}

#[test]
fn a_refusal_leaves_a_record_and_no_answer_is_asked_for_twice() {
    let world = World::new();
    let file = weekly(&world, "work", "");
    assert!(refused(&world, &file).contains("asking about items"));
    let first = record(&world, "work");
    let count = |key: &str| first[key].as_u64().unwrap() as usize;
    assert_eq!((&first["passed"], &first["taught"]), (&false.into(), &Value::Null), "{first:#}");
    assert_eq!((count("items"), count("answers"), count("described")), (ITEMS, ITEMS * SAMPLES, 18), "{first:#}");
    let refusals: u64 = first["refused"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(count("accepted") + refusals as usize, ITEMS * SAMPLES, "{first:#}");
    assert!(count("prompt_tokens") > 0 && count("completion_tokens") > 0, "{first:#}");
    let events: Vec<u64> = first["events"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    assert!(events.len() == 2 && events.iter().all(|n| *n > 20), "{first:#}");
    let checks = first["gates"]["gate"].as_array().unwrap();
    assert_eq!((checks.len(), &checks[0]["holds"]), (9, &false.into()), "{first:#}");
    assert!(first["recommender"]["events"].as_u64().unwrap() > 50, "{first:#}");
    assert!(!world.path("work/adapter-worth").exists() && !world.path("work/item_choice.parquet").exists());
    let reach = first["reach"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&reach) && first["correction"]["gate"].as_array().unwrap().len() == 3, "{first:#}");
    let page = std::fs::read_to_string(world.path("work/report.html")).unwrap();
    assert!(page.contains("items with reasons of known worth &gt;= 30") && page.contains("does not hold"), "{page}");

    let rows: Vec<_> =
        ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(world.path("work/item_worth.parquet")).unwrap())
            .unwrap()
            .build()
            .unwrap()
            .map(|batch| batch.unwrap())
            .collect();
    assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), ITEMS * SAMPLES);
    for column in ["item_id", "sample", "reason", "accepted", "worth", "worth_of_other_half", "worth_of_next_block"] {
        assert!(rows[0].column_by_name(column).is_some(), "{column}");
    }
    let (lines, answers) = said(&world);
    // Beside the samples, what a night would publish.
    assert_eq!((lines, answers.len()), (ITEMS * (SAMPLES + 1), ITEMS * (SAMPLES + 1)));

    // Nothing has changed: nothing is asked or measured, and the same is said.
    let files = ["work/worth.json", "work/item_worth.parquet", "work/worth_answers.jsonl"];
    let before = files.map(|name| bytes(&world, name));
    let told = refused(&world, &file);
    assert!(told.contains("the record stands") && !told.contains("asking about items"), "{told}");
    assert!(before == files.map(|name| bytes(&world, name)));

    // Elsewhere the same comes out.
    refused(&world, &weekly(&world, "other", ""));
    assert_eq!(record(&world, "other"), first);

    // Measured otherwise, the same answers are measured; choices of before that are not confirmed go.
    std::fs::write(world.path("work/item_choice.parquet"), "of before").unwrap();
    let file = weekly(&world, "work", "most_events = 7\n");
    let told = refused(&world, &file);
    assert!(!told.contains("the record stands") && !told.contains("asking about items"), "{told}");
    assert_ne!(record(&world, "work")["made_from"], first["made_from"]);
    assert!(!world.path("work/item_choice.parquet").exists());
    assert_eq!(said(&world), (lines, answers.clone()));

    // A kill cut the last line short: only that answer is asked for again, and it is the same one.
    let log = world.path("work/worth_answers.jsonl");
    let whole = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() - 20]).unwrap();
    std::fs::remove_file(world.path("work/worth.json")).unwrap();
    assert!(refused(&world, &file).contains("asking about items"));
    assert_eq!(said(&world), (lines + 1, answers), "the torn line stays, the new one stands after it");

    // Other sampling is other answers.
    refused(&world, &weekly(&world, "work", "top_p = 0.5\n"));
    assert_eq!(said(&world).0, lines + 1 + ITEMS * SAMPLES);
}

#[test]
fn histories_have_a_record_and_a_table_of_their_own_beside_those_of_items() {
    let world = World::new();
    let file = weekly(&world, "work", "");
    refused(&world, &file);
    let of_items = ["work/worth.json", "work/item_worth.parquet"];
    let before = of_items.map(|name| bytes(&world, name));
    let (lines, _) = said(&world);

    let histories = |file: &str| {
        let out = world.curec(&[&arguments(file)[..], &["--of", "histories"]].concat());
        expect_code(&out, 1);
        let told = stderr(&out);
        assert!(told.contains("may not be a reward, and nothing was learned"), "{told}");
        assert!(told.contains("users with reasons of known worth >= 30 (found "), "{told}");
        told
    };
    assert!(histories(&file).contains("asking about histories"));
    let first: Value = serde_json::from_slice(&bytes(&world, "work/history_worth.json")).unwrap();
    let count = |key: &str| first[key].as_u64().unwrap() as usize;
    assert_eq!(
        (count("users"), count("answers"), &first["taught"]),
        (USERS, USERS * SAMPLES, &Value::Null),
        "{first:#}"
    );
    // All 24 users are learned from.
    assert_eq!(count("described"), 24, "{first:#}");
    assert!(["items", "correction", "reach"].iter().all(|key| first.get(key).is_none()), "{first:#}");
    let checks = first["gates"]["gate"].as_array().unwrap();
    assert_eq!((checks.len(), &checks[0]["holds"]), (9, &false.into()), "{first:#}");
    assert!(checks[2]["what"].as_str().unwrap().contains("one half of the items"), "{first:#}");

    let file_of = std::fs::File::open(world.path("work/history_worth.parquet")).unwrap();
    let rows = ParquetRecordBatchReaderBuilder::try_new(file_of).unwrap().build().unwrap();
    let rows: Vec<_> = rows.map(|batch| batch.unwrap()).collect();
    assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), USERS * SAMPLES);
    assert!(rows[0].column_by_name("user_id").is_some() && rows[0].column_by_name("item_id").is_none());
    // What a night would publish is not asked for, and the same words are asked once.
    assert!((lines + 1..=lines + USERS * SAMPLES).contains(&said(&world).0), "{}", said(&world).0);
    assert!(before == of_items.map(|name| bytes(&world, name)), "what was measured of items stands");
    assert!(!world.path("work/adapter-worth-histories").exists());
    let page = std::fs::read_to_string(world.path("work/report.html")).unwrap();
    for whose in ["items", "histories"] {
        assert!(page.contains(&format!("What reasons of {whose} are worth")), "{whose}: {page}");
    }

    // Nothing has changed for either; with fewer to learn from histories are measured anew, and asked nothing.
    let told = histories(&file);
    assert!(told.contains("the record stands") && !told.contains("asking about"), "{told}");
    let fewer = weekly(&world, "work", "max_users = 8\n");
    let told = histories(&fewer);
    assert!(!told.contains("the record stands") && !told.contains("asking about"), "{told}");
    let again: Value = serde_json::from_slice(&bytes(&world, "work/history_worth.json")).unwrap();
    let described = again["described"].as_u64().unwrap() as usize;
    assert!((8..=8 + USERS).contains(&described), "{again:#}");
    assert!(refused(&world, &fewer).contains("the record stands"), "items do not follow from that");

    let out = world.curec(&[&arguments(&file)[..], &["--of", "users"]].concat());
    expect_code(&out, 2);
    assert!(stderr(&out).contains("must be one of items, histories"), "{}", stderr(&out));
}

#[test]
fn who_has_learned_from_the_interval_is_not_judged_by_it() {
    let world = World::new();
    let file = weekly(&world, "work", "");
    let text = std::fs::read_to_string(world.path(&file)).unwrap().replace("from = \"\"", "from = \"adapter\"");
    std::fs::write(world.path(&file), &text).unwrap();
    std::fs::create_dir_all(world.path("work/adapter")).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let from = project().join("tests/fixtures/adapters/tiny-qwen3").join(name);
        std::fs::copy(from, world.path("work/adapter").join(name)).unwrap();
    }
    let learned_until = |end: &str| {
        let record = serde_json::json!({ "interval_end": end }).to_string();
        std::fs::write(world.path("work/align.json"), record).unwrap();
    };
    learned_until("2026-01-13");
    let out = world.curec(&arguments(&file));
    expect_code(&out, 2);
    for says in
        ["model.adapter has learned from events after the interval's start", "2026-01-13", "allow_later_training"]
    {
        assert!(stderr(&out).contains(says), "{says}: {}", stderr(&out));
    }
    assert!(!world.path("work/worth_answers.jsonl").exists(), "it was asked before that was told");

    // The interval may begin where the learning ends. Who allows more is warned.
    learned_until("2026-01-12");
    assert!(!refused(&world, &file).contains("has learned from events"));
    assert_ne!(record(&world, "work")["begun_with"], "");
    learned_until("2026-01-13");
    let allowed = "[worth]\nset = [\"model.allow_later_training=true\"]";
    std::fs::write(world.path(&file), text.replace("[worth]\nset = []", allowed)).unwrap();
    assert!(refused(&world, &file).contains("has learned from events"));
}

#[test]
fn what_cannot_be_measured_is_refused_with_what_to_do() {
    let world = World::new();
    let file = weekly(&world, "work", "");
    let text = std::fs::read_to_string(world.path(&file)).unwrap();
    for (from, to, says) in [
        ("samples = 2", "samples = 1", "worth.samples: one alone"),
        ("from = \"\"", "from = \"../other\"", "worth.from"),
        ("from = \"\"", "from = \"adapter-worth\"", "worth.from"),
        ("from = \"\"", "from = \"adapter\"", "curec learn align"),
        ("[worth]\nset = []", "[worth]\nset = [\"prompt.item\"]", "worth.set: write each as key=value"),
        ("[worth]\nset = []", "[worth]\nset = [\"prompt.item=nowhere.j2\"]", "nowhere.j2"),
        ("history_set = []", "history_set = [\"prompt.history\"]", "worth.history_set: write each as key=value"),
        ("nearest = 8", "nearest = 4", "worth.nearest"),
        ("learning_rates = [0.01]", "learning_rates = [0.0]", "worth.learning_rates"),
        ("hidden = 4", "hiden = 4", "hiden"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(world.path(&file), text.replace(from, to)).unwrap();
        let out = world.curec(&arguments(&file));
        expect_code(&out, 2);
        assert!(stderr(&out).contains(says), "{to}: {}", stderr(&out));
        assert!(!world.path("work/worth_answers.jsonl").exists(), "{to}: it was asked before that was told");
    }
    std::fs::write(world.path(&file), &text).unwrap();
    for (start, end, code, says) in [
        ("2025-01-01", "2025-01-02", 75, "nothing to learn from"),
        // There is no log before it.
        ("2026-01-01", "2026-01-05", 1, "nothing to measure worths by"),
    ] {
        let out = world.curec(&["learn", "worth", &file, "--interval-start", start, "--interval-end", end]);
        expect_code(&out, code);
        assert!(stderr(&out).contains(says), "{start}: {}", stderr(&out));
        assert!(!world.path("work/worth.json").exists());
    }
    // Eighteen items are too few for maps of ten folds, which is told before anything is asked.
    std::fs::write(world.path(&file), text.replace("folds = 2", "folds = 10")).unwrap();
    let out = world.curec(&arguments(&file));
    expect_code(&out, 1);
    assert!(stderr(&out).contains("item(s) have evidence and events to learn from, 20 are needed"), "{}", stderr(&out));
    assert!(!world.path("work/worth_answers.jsonl").exists());
}
