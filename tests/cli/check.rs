//! `curec check` with the real binary: a sound job has no problem, and one with many tells them all at once, each with its
//! place; nothing is written.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use serde_json::Value;

use crate::common::{
    Event, World, events, expect_code, items, january, stderr, stdout, write, write_events, write_items,
};

const AT: &str = "2026-01-20";

/// What a check of the world's job finds, as JSON, with its exit code.
fn check(world: &World, code: i32, more: &[&str]) -> Value {
    let out = world.curec(&[&["check", "job.toml", "--at", AT, "--json"][..], more].concat());
    expect_code(&out, code);
    assert!(!stderr(&out).contains("panicked"), "{}", stderr(&out));
    serde_json::from_str(&stdout(&out)).unwrap()
}

/// Findings whose file ends and whose text contains so.
fn found<'a>(checked: &'a Value, file: &str, what: &str) -> Vec<&'a Value> {
    let text = |value: &'a Value| value.as_str().unwrap_or_default();
    let all = checked["found"].as_array().unwrap().iter();
    all.filter(|note| text(&note["file"]).ends_with(file) && text(&note["what"]).contains(what)).collect()
}

/// Asserts that there is one such problem, with its line.
fn problem(checked: &Value, file: &str, line: Option<u64>, what: &str) {
    let found = found(checked, file, what);
    assert_eq!(found.len(), 1, "{file}: {what}: {checked:#}");
    assert_eq!((found[0]["severity"].as_str(), found[0]["line"].as_u64()), (Some("problem"), line), "{checked:#}");
}

/// The line of the job file that begins so.
fn line_of(world: &World, begin: &str) -> Option<u64> {
    let job = std::fs::read_to_string(world.path("job.toml")).unwrap();
    job.lines().position(|line| line.starts_with(begin)).map(|line| line as u64 + 1)
}

fn with_events(change: impl FnMut(&mut Event)) -> World {
    let world = World::new();
    let mut log = events();
    log.iter_mut().for_each(change);
    write_events(&world.path("input/interaction.parquet"), &log);
    world
}

#[test]
fn a_sound_job_has_no_problems_and_nothing_is_written() {
    let world = World::new();
    let before = listing(&world);
    let out = world.curec(&["check", "job.toml", "--at", AT]);
    expect_code(&out, 0);
    assert_eq!(stdout(&out), "0 problems, 0 warnings\n");
    assert_eq!(listing(&world), before, "something was written");
    assert_eq!(check(&world, 0, &[])["found"], serde_json::json!([]));
    // A warehouse that is tried is as it was.
    expect_code(&world.curec(&["check", "job.toml", "--at", AT, "--write"]), 0);
    assert_eq!(std::fs::read_dir(world.path("warehouse")).unwrap().count(), 0);
    assert_eq!(check(&world, 2, &["--set", "warehouse=item.j2", "--write"])["problems"], 1);
}

/// Every file and folder of a world.
fn listing(world: &World) -> Vec<std::path::PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![world.path("")]);
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            found.push(path.clone());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn five_faults_of_five_kinds_are_told_in_one_run() {
    let world = with_events(|event| event.item = event.item.replace('i', "item-"));
    for folder in ["sql", "schemas"] {
        std::fs::create_dir_all(world.path(folder)).unwrap();
    }
    let opinion = include_str!("../../sql/opinion.sql");
    std::fs::write(world.path("sql/opinion.sql"), format!("{opinion}\n, no_such_column\n")).unwrap();
    let item = "=== user\n{{ subject }}\n{% if praise %}\n{{ no_such_field }}\n{% endif %}\n=== assistant\nx\n";
    std::fs::write(world.path("item.j2"), item).unwrap();
    let (sql, schemas) = (world.path("sql"), world.path("schemas"));
    let project = format!("[project]\nsql = {:?}\nschemas = {:?}\n", sql.display(), schemas.display());
    world.write_job(&format!("{project}[history2]\nevents = 3\n"));
    std::fs::remove_file(world.path("writer/model.safetensors")).unwrap();
    let checked = check(&world, 2, &[]);
    problem(&checked, "job.toml", line_of(&world, "[history2]"), "history2: unknown key");
    let end = opinion.lines().count() as u64 + 2;
    problem(&checked, "sql/opinion.sql", Some(end), "no_such_column");
    problem(&checked, "item.j2", Some(4), "cannot render its section `user`");
    assert_eq!(found(&checked, "interaction.parquet", "0 of 288 events of the sample (0.0 %)").len(), 1, "{checked:#}");
    let models = checked["found"].as_array().unwrap().iter().filter(|note| note["part"] == "models");
    assert_eq!(models.filter(|note| note["what"].to_string().contains("model.generator")).count(), 1, "{checked:#}");
    assert_eq!(checked["problems"], 5, "{checked:#}");
    // The same for people.
    let out = world.curec(&["check", "job.toml", "--at", AT]);
    expect_code(&out, 2);
    for part in ["problem: settings: history2: unknown key", "    what to do: ", "item.j2:4: problem: templates: "] {
        assert!(stdout(&out).contains(part), "{part}: {}", stdout(&out));
    }
    assert!(stdout(&out).ends_with("5 problems, 0 warnings\n"), "{}", stdout(&out));
    assert!(!world.path("warehouse").exists());
}

#[test]
fn a_job_file_that_is_none_is_the_only_problem() {
    let world = World::new();
    std::fs::write(world.path("job.toml"), "name = \"n\"\n[input\n").unwrap();
    let checked = check(&world, 2, &[]);
    problem(&checked, "job.toml", Some(2), "the job file is not TOML");
    assert_eq!(checked["problems"], 1);
    let missing = world.curec(&["check", "nowhere.toml"]);
    expect_code(&missing, 2);
    assert!(
        stdout(&missing).contains("nowhere.toml: problem: settings: cannot read the job file"),
        "{}",
        stdout(&missing)
    );
}

#[test]
fn contracts_definitions_and_audits_of_the_job_s_own_are_planned() {
    let world = World::new();
    for folder in ["sql", "schemas"] {
        std::fs::create_dir_all(world.path(folder)).unwrap();
    }
    let contract = |name: &str, more: &str| {
        format!(
            "name = \"{name}\"\nversion = \"1.0\"\nrole = \"derived\"\npartition_by = \"dt\"\n[build]\nby = \"sql\"\n{more}\
             [[column]]\nname = \"user_id\"\ntype = \"utf8\"\nnullable = false\n"
        )
    };
    let write = |name: &str, text: &str| std::fs::write(world.path(name), text).unwrap();
    let users = "select cast(user_id as varchar) as user_id\nfrom interaction\n";
    // Columns that are not the contract's, a function that does not take what it gets, and what cannot be parsed.
    write("schemas/a.toml", &contract("a", ""));
    write("sql/a.sql", &users.replace("as user_id", "as id"));
    write("schemas/b.toml", &contract("b", ""));
    write("sql/b.sql", "select user_id\nfrom item_feature\n");
    write("schemas/c.toml", &contract("c", ""));
    write("sql/c.sql", "select user_id +\n) from interaction\n");
    // A setting that there is not, an audit that names no column, a contract with a mistake, a definition without one.
    write("schemas/d.toml", &contract("d", "settings = [\"no.such\"]\n"));
    write("sql/d.sql", users);
    let audit = "[[audit]]\nname = \"odd\"\nseverity = \"warn\"\nsql = \"select * from this where nobody = 1\"\n";
    write("schemas/e.toml", &(contract("e", "") + audit));
    write("sql/e.sql", users);
    write("schemas/f.toml", &contract("f", "").replace("utf8", "text"));
    write("sql/f.sql", users);
    write("sql/g.sql", users);
    let (sql, schemas) = (world.path("sql"), world.path("schemas"));
    world.write_job(&format!("[project]\nsql = {:?}\nschemas = {:?}\n", sql.display(), schemas.display()));
    let checked = check(&world, 2, &[]);
    problem(&checked, "sql/a.sql", None, "missing: user_id; not in the contract: id");
    problem(&checked, "sql/b.sql", Some(1), "user_id");
    problem(&checked, "sql/c.sql", Some(2), "not valid SQL");
    problem(&checked, "schemas/d.toml", None, "the setting no.such");
    problem(&checked, "", None, "audit: odd");
    problem(&checked, "schemas/f.toml", Some(9), "text is no column type");
    problem(&checked, "sql/g.sql", None, "no contract with a [build] for g.sql");
    assert_eq!(checked["problems"], 7, "{checked:#}");
}

#[test]
fn models_and_inputs_that_are_not_there_are_told_each_at_its_key() {
    let world = World::new();
    let set = ["--set", "model.encoder=nowhere", "--set", "model.adapter=writer", "--set", "model.device=cuda:77"];
    let checked = check(&world, 2, &set);
    for key in ["model.encoder", "model.adapter", "model.device"] {
        assert_eq!(found(&checked, "", &format!("key: {key}")).len(), 1, "{key}: {checked:#}");
    }
    assert_eq!(checked["problems"], 3, "{checked:#}");
    std::fs::remove_file(world.path("input/item.parquet")).unwrap();
    std::fs::write(world.path("input/interaction.parquet"), "user,item\n").unwrap();
    let checked = check(&world, 2, &[]);
    problem(&checked, "item.parquet", None, "no such file or folder yet");
    problem(&checked, "interaction.parquet", None, "not a Parquet file");
    assert_eq!(checked["problems"], 2, "{checked:#}");
}

#[test]
fn a_model_with_too_few_positions_is_told_at_its_key_with_the_figures() {
    let world = World::new();
    let job = std::fs::read_to_string(world.path("job.toml")).unwrap();
    // The tiny model has 256. Evidence takes no more of them than max_positions leaves it.
    std::fs::write(world.path("job.toml"), job.replace("\ntokens = 240\n", "\ntokens = 300\n")).unwrap();
    assert_eq!(check(&world, 0, &[])["problems"], 0);
    std::fs::write(world.path("job.toml"), job.replace("max_positions = 256", "max_positions = 512")).unwrap();
    assert_eq!(check(&world, 0, &[])["problems"], 0);
    let both =
        job.replace("max_positions = 256", "max_positions = 512").replace("\ntokens = 240\n", "\ntokens = 300\n");
    std::fs::write(world.path("job.toml"), both).unwrap();
    let checked = check(&world, 2, &[]);
    let what = "a prompt of 300 tokens and an answer of 6 need 306 positions, the model has 256";
    problem(&checked, "job.toml", line_of(&world, "max_positions"), what);
    let advice = found(&checked, "job.toml", what)[0]["advice"].as_str().unwrap().to_owned();
    assert!(advice.contains("max_positions = 256") && advice.contains("250 tokens"), "{advice}");
    assert_eq!(checked["problems"], 1, "{checked:#}");
    // A plan warns of it.
    let plan = world.curec(&["plan", "job.toml", "--interval-start", AT, "--interval-end", "2026-01-21"]);
    expect_code(&plan, 0);
    assert!(stderr(&plan).contains(what), "{}", stderr(&plan));
    assert_eq!(check(&world, 0, &["--set", "model.max_positions=256"])["problems"], 0);
    // No room for any prompt.
    let checked = check(&world, 2, &["--set", "sampling.max_new_tokens=256"]);
    assert_eq!(found(&checked, "", "key: sampling.max_new_tokens").len(), 1, "{checked:#}");
}

#[test]
fn rows_that_break_the_contract_are_told_of_all_inputs() {
    let world = with_events(|event| {
        if event.user == "u03" {
            event.rating = Some(f32::NAN);
        }
    });
    let mut all = items();
    all.push(all[3].clone());
    write_items(&world.path("input/item.parquet"), &all);
    let checked = check(&world, 2, &[]);
    problem(&checked, "interaction.parquet", None, "12 finite(rating)");
    problem(&checked, "item.parquet", None, "the same key stands twice");
    assert_eq!(checked["problems"], 2, "{checked:#}");
    let allowed = check(&world, 2, &["--set", "input.max_bad_fraction=0.5"]);
    let left_out =
        found(&allowed, "interaction.parquet", "12 of 288 rows of the sample break the contract and are left out");
    assert_eq!(left_out.len(), 1, "{allowed:#}");
    assert_eq!((&allowed["problems"], &allowed["warnings"]), (&Value::from(1), &Value::from(1)), "{allowed:#}");
}

#[test]
fn events_without_a_meaning_without_ratings_or_from_the_future_are_told() {
    let warned = |checked: &Value, what: &str| {
        let found = found(checked, "interaction.parquet", what);
        assert_eq!(found.len(), 1, "{what}: {checked:#}");
        found[0]["severity"].as_str().unwrap().to_owned()
    };
    let world = with_events(|event| event.rating = None);
    let checked = check(&world, 0, &[]);
    assert_eq!(warned(&checked, "has a rating"), "warning");
    let checked = check(&world, 0, &["--set", "events.meaning.view=none"]);
    assert!(found(&checked, "", "has a rating").is_empty(), "{checked:#}");
    assert_eq!(warned(&checked, "does not name: `rating`; [events] other makes them `like`"), "warning");
    let checked = check(&world, 2, &["--set", "events.meaning.rating=none"]);
    assert_eq!(warned(&checked, "says that a user likes an item"), "problem");

    let world = with_events(|event| {
        if event.user == "u03" {
            event.at = Some(january(25, 0) + event.at.unwrap() % 1_000_000);
        }
    });
    assert_eq!(warned(&check(&world, 0, &[]), "12 of 288 events of the sample lie in the future"), "warning");
    let out = world.curec(&["check", "job.toml", "--at", "2025-12-01"]);
    expect_code(&out, 2);
    assert!(stdout(&out).contains("all 288 events of the sample lie in the future of 2025-12-02"), "{}", stdout(&out));
}

#[test]
fn some_unknown_items_are_a_warning() {
    let world = World::new();
    write_items(&world.path("input/item.parquet"), &items()[1..]);
    let checked = check(&world, 0, &[]);
    let found = found(&checked, "interaction.parquet", "1 items are not, such as `i00`");
    assert_eq!(found.len(), 1, "{checked:#}");
    assert_eq!((&checked["problems"], &checked["warnings"]), (&Value::from(0), &Value::from(1)));
}

#[test]
fn all_columns_that_are_wrong_are_told_at_once_and_begin_no_finding() {
    let world = World::new();
    let texts = |text: &str| Arc::new(StringArray::from(vec![text; 2])) as ArrayRef;
    let numbers = || Arc::new(Float64Array::from(vec![1.5, 2.5])) as ArrayRef;
    let put = |name: &str, columns: Vec<(&str, ArrayRef)>| {
        write(&world.path(name), &RecordBatch::try_from_iter(columns).unwrap());
    };
    let forged = "x\nproblem: models: forged";
    put("input/interaction.parquet", vec![("user_id", numbers()), ("rating", texts("good")), (forged, texts("y"))]);
    put("input/item.parquet", vec![("item_id", texts("i")), ("title", numbers())]);
    let log = ["column: user_id", "the column item_id is missing", "column: rating", "event_timestamp is missing"];
    let checked = check(&world, 2, &[]);
    log.iter().for_each(|what| problem(&checked, "interaction.parquet", None, what));
    problem(&checked, "item.parquet", None, "column: title");
    assert_eq!(checked["problems"], 5, "{checked:#}");
    let out = world.curec(&["check", "job.toml", "--at", AT]);
    assert!(stdout(&out).contains(r"x\u{a}problem: models: forged"), "{}", stdout(&out));
    assert!(!stdout(&out).lines().any(|line| line.starts_with("problem: models")), "{}", stdout(&out));
    // Names that neither contract nor files have hide nothing of that.
    let unknown = ["input.columns.interaction.nobody=a", "input.columns.interaction.nowhere=b"];
    let labels = ["evidence.attributes.colour=Colour", "evidence.attributes.size=Size"];
    let set: Vec<&str> = unknown.iter().chain(&labels).flat_map(|pair| ["--set", *pair]).collect();
    let checked = check(&world, 2, &set);
    log.iter().for_each(|what| problem(&checked, "interaction.parquet", None, what));
    for what in
        ["no column nobody", "no column nowhere", "no file has the column colour", "no file has the column size"]
    {
        assert_eq!(found(&checked, "", what).len(), 1, "{what}: {checked:#}");
    }
    // A night that is refused says as much.
    let night = world.run(&[]);
    expect_code(&night, 1);
    for what in
        ["column: user_id", "also: the column item_id is missing", "also: the column event_timestamp is missing"]
    {
        assert!(stderr(&night).contains(what), "{what}: {}", stderr(&night));
    }
}

#[test]
fn an_item_table_without_rows_is_a_warning_of_its_own() {
    let world = World::new();
    write_items(&world.path("input/item.parquet"), &[]);
    let checked = check(&world, 0, &[]);
    assert_eq!(found(&checked, "item.parquet", "the item table has no rows").len(), 1, "{checked:#}");
    assert_eq!((&checked["problems"], &checked["warnings"]), (&Value::from(0), &Value::from(1)), "{checked:#}");
    let out = world.curec(&["check", "job.toml", "--at", AT]);
    assert!(stdout(&out).ends_with("\n0 problems, 1 warning\n"), "{}", stdout(&out));
}

#[test]
fn a_column_without_a_value_is_mapped_wrongly_and_not_to_be_left_out() {
    let world = with_events(|event| event.at = None);
    let checked = check(&world, 2, &[]);
    problem(&checked, "interaction.parquet", None, "288 not_null(event_timestamp)");
    let advice = checked["found"][0]["advice"].as_str().unwrap();
    assert!(advice.contains("mapped wrongly") && advice.contains("[input.columns]"), "{advice}");
    assert!(!advice.contains("max_bad_fraction"), "{advice}");
    assert_eq!(checked["problems"], 1, "{checked:#}");
}
