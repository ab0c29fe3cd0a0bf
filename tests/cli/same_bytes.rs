//! What a run publishes depends on its interval, job and inputs alone; and a change rebuilds what depends on it, and
//! nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

use crate::common;
use crate::common::{World, expect_code, stderr, stdout, summary};
use crate::night::{Night, TABLES, generated};

const FEATURES: [&str; 2] = ["item_feature", "user_feature"];

#[test]
fn threads_slots_batches_and_commits_do_not_change_a_byte() {
    let night = Night::on_disk();
    expect_code(&night.run(&[]).output().unwrap(), 0);
    let (records, bytes) = (night.records(), data_files(&night));
    let again = night.run(&["--full"]).output().unwrap();
    expect_code(&again, 0);
    assert_eq!((generated(&again), data_files(&night)), (0, bytes.clone()), "--full");
    let ways: [(&str, &[&str]); 6] = [
        ("1", &["model.threads=1", "model.slots=1"]),
        ("1", &["model.threads=2", "model.slots=7"]),
        ("2", &["model.threads=1", "model.slots=32", "model.max_step_tokens=64"]),
        ("2", &["model.threads=2", "response.flush_rows=1"]),
        ("5", &["model.slots=3", "model.max_step_tokens=17", "response.flush_rows=5"]),
        ("5", &["model.threads=3", "resources.memory_limit=256 MiB"]),
    ];
    for (threads, settings) in ways {
        night.clear();
        let sets: Vec<&str> = settings.iter().flat_map(|s| ["--set", s]).collect();
        let out = night.run(&sets).env("RAYON_NUM_THREADS", threads).env("TOKIO_WORKER_THREADS", threads).output();
        expect_code(&out.unwrap(), 0);
        assert_eq!(night.records(), records, "{threads} threads, {settings:?}");
        assert_eq!(data_files(&night), bytes, "{threads} threads, {settings:?}");
    }
}

/// Published data files by their bytes.
fn data_files(night: &Night) -> BTreeMap<String, String> {
    let mut files = night.published_bytes();
    files.retain(|name, _| name.ends_with(".parquet"));
    files
}

#[test]
fn one_old_day_made_again_leaves_the_others_as_they_are() {
    let night = Night::on_disk();
    for day in 18..=20 {
        expect_code(&night.run_of(day, &[]).output().unwrap(), 0);
    }
    let others = |night: &Night| {
        let mut files = night.published_bytes();
        files.retain(|name, _| !name.contains("dt=2026-01-19/"));
        files
    };
    let (all, before) = (night.published_bytes(), others(&night));
    assert_eq!(before.len() * 3, all.len() * 2);
    // The same again, then with another setting and another input, which would change the other days too.
    expect_code(&night.run_of(19, &["--full"]).output().unwrap(), 0);
    assert_eq!(night.published_bytes(), all, "built again from the same, even its commit records stay");
    let mut events = common::events();
    events.iter_mut().step_by(3).for_each(|e| e.rating = Some(1.0));
    common::write_events(&night.input("interaction.parquet"), &events);
    let out = night.run_of(19, &["--set", "sampling.max_new_tokens=9"]).output().unwrap();
    expect_code(&out, 0);
    assert_eq!(summary(&out)["status"], "published");
    assert_ne!(night.published_bytes(), all);
    assert_eq!(others(&night), before, "another day was touched");
}

/// What a plan would build, with the reasons.
fn plan(night: &Night, more: &[&str]) -> BTreeMap<String, Vec<String>> {
    let args = ["plan", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21", "--json"];
    let out = night.command(&[&args[..], more].concat()).output().unwrap();
    expect_code(&out, 0);
    let json: serde_json::Value = serde_json::from_str(&stdout(&out)).unwrap();
    let mut found = BTreeMap::new();
    for table in json["tables"].as_array().unwrap() {
        let why = table["why"].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_string()).collect();
        if table["build"] == true {
            found.insert(table["table"].as_str().unwrap().to_string(), why);
        }
    }
    found
}

/// A change and what it has to do.
struct Case {
    what: &'static str,
    /// Changes files of the world; returns settings.
    change: fn(&World) -> Vec<String>,
    /// The tables that name the change as their reason.
    first: &'static [&'static str],
    why: &'static str,
    /// The tables that are built because of those.
    then: &'static [&'static str],
    /// Whether prompts are paid for again.
    pays: bool,
}

/// Appends a comment to a copy of a built-in file.
fn changed_copy(world: &World, folder: &str, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(common::project().join(folder).join(file)).unwrap();
    std::fs::create_dir_all(world.path(folder)).unwrap();
    let comment = if folder == "sql" { "-- Changed.\n" } else { "# Changed.\n" };
    std::fs::write(world.path(folder).join(file), comment.to_string() + &text).unwrap();
    set(&[&format!("project.{folder}={}", world.path(folder).display())])
}

fn set(settings: &[&str]) -> Vec<String> {
    settings.iter().flat_map(|s| ["--set".to_string(), s.to_string()]).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        match entry.is_dir() {
            true => copy_folder(&entry, &target),
            false => drop(std::fs::copy(&entry, target).unwrap()),
        }
    }
}

/// A copy of a model with the lowest bit of one weight flipped.
fn changed_model(from: &Path, to: &Path) {
    copy_folder(from, to);
    let weights = to.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    std::fs::write(weights, bytes).unwrap();
}

const CASES: [Case; 16] = [
    Case {
        what: "an event's rating",
        change: |world| {
            let mut events = common::events();
            // Disliked before and after, so that no prompt changes.
            events.iter_mut().find(|e| e.rating == Some(2.0)).unwrap().rating = Some(1.0);
            common::write_events(&world.path("input/interaction.parquet"), &events);
            Vec::new()
        },
        first: &["user_history", "item_audience", "reason_prompt"],
        why: "input interaction changed",
        then: &["reason", "reason_score", "item_feature", "user_feature"],
        pays: false,
    },
    Case {
        what: "an item's title",
        change: |world| {
            let mut items = common::items();
            items[0].1 = Some("Another Title (1999)".into());
            common::write_items(&world.path("input/item.parquet"), &items);
            Vec::new()
        },
        first: &["user_history", "item_audience", "reason_prompt", "reason_score", "item_feature"],
        why: "input item changed",
        then: &["reason", "user_feature"],
        pays: true,
    },
    Case {
        what: "how long a title and an attribute are",
        change: |_| set(&["history.title_chars=9"]),
        first: &["user_history", "item_audience", "reason_prompt", "reason_score"],
        why: "settings [history] changed",
        then: &["reason", "item_feature", "user_feature"],
        pays: true,
    },
    Case {
        what: "the SQL of the audience",
        change: |world| changed_copy(world, "sql", "item_audience.sql"),
        first: &["item_audience"],
        why: "sql changed",
        then: &["reason_prompt", "reason", "reason_score", "item_feature", "user_feature"],
        pays: false,
    },
    Case {
        what: "the SQL of a feature",
        change: |world| changed_copy(world, "sql", "user_feature.sql"),
        first: &["user_feature"],
        why: "sql changed",
        then: &[],
        pays: false,
    },
    Case {
        what: "an alias in the contract of an input",
        change: |world| {
            let settings = changed_copy(world, "schemas", "interaction.toml");
            let path = world.path("schemas/interaction.toml");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text.replace("aliases = [\"timestamp\"]", "aliases = [\"timestamp\", \"at\"]"))
                .unwrap();
            settings
        },
        first: &["user_history", "item_audience", "reason_prompt"],
        why: "contract interaction changed",
        then: &["reason", "reason_score", "item_feature", "user_feature"],
        pays: false,
    },
    Case {
        what: "the contract of a feature",
        change: |world| changed_copy(world, "schemas", "item_feature.toml"),
        first: &["item_feature"],
        why: "contract changed",
        then: &[],
        pays: false,
    },
    Case {
        what: "a template",
        change: |world| {
            let text = std::fs::read_to_string(world.path("item.j2")).unwrap();
            std::fs::write(world.path("item.j2"), text.replace("{{ subject", "About {{ subject")).unwrap();
            Vec::new()
        },
        first: &["reason_prompt"],
        why: "template item changed",
        then: &["reason", "reason_score", "item_feature", "user_feature"],
        pays: true,
    },
    Case {
        what: "the language model",
        change: |world| {
            changed_model(&world.path("writer"), &world.path("other"));
            set(&[&format!("model.generator={}", world.path("other").display())])
        },
        first: &["reason_prompt"],
        why: "generator changed",
        then: &["reason", "reason_score", "item_feature", "user_feature"],
        pays: true,
    },
    Case {
        what: "the length of answers",
        change: |_| set(&["sampling.max_new_tokens=7"]),
        first: &["reason_prompt"],
        why: "settings [sampling] changed",
        then: &["reason", "reason_score", "item_feature", "user_feature"],
        pays: true,
    },
    Case {
        what: "the seed of answers that are drawn",
        // Of the likeliest token alone, since the tiny model's others are no text.
        change: |_| set(&["sampling.temperature=0.5", "sampling.top_k=1", "sampling.seed=7"]),
        first: &["reason_prompt"],
        why: "settings [sampling] changed",
        then: &["reason", "reason_score", "item_feature", "user_feature"],
        pays: true,
    },
    Case {
        what: "the longest prompt",
        change: |_| set(&["model.max_positions=250"]),
        first: &["reason"],
        why: "settings [model] max_positions changed",
        then: &["reason_score", "item_feature", "user_feature"],
        pays: false,
    },
    Case {
        what: "a check",
        change: |_| set(&["check.max_words=50"]),
        first: &["reason_score"],
        why: "settings [check] changed",
        then: &["item_feature", "user_feature"],
        pays: false,
    },
    Case {
        what: "the encoder",
        change: |world| {
            changed_model(&common::fixture("tiny-bert"), &world.path("encoder"));
            set(&[&format!("model.encoder={}", world.path("encoder").display())])
        },
        first: &FEATURES,
        why: "encoder changed",
        then: &[],
        pays: false,
    },
    Case {
        what: "what vectors are of",
        change: |_| set(&["feature.vector_of=both"]),
        first: &FEATURES,
        why: "settings [feature] vector_of changed",
        then: &[],
        pays: false,
    },
    Case {
        what: "what no row depends on",
        change: |_| {
            set(&[
                "model.threads=1",
                "model.slots=2",
                "model.max_step_tokens=99",
                "response.flush_rows=3",
                "budget.max_failed_rows=9",
                "publish.grace_seconds=3",
                "resources.memory_limit=300 MiB",
                "price.prompt_tokens_million=1.0",
                "sampling.seed=7",
            ])
        },
        first: &[],
        why: "",
        then: &[],
        pays: false,
    },
];

#[test]
fn a_change_rebuilds_what_depends_on_it_and_nothing_else() {
    for case in &CASES {
        let night = Night::on_disk();
        let out = night.run(&[]).output().unwrap();
        expect_code(&out, 0);
        let prompts = generated(&out);
        let before = night.records();
        assert!(plan(&night, &[]).is_empty());

        let settings = (case.change)(&night.world);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let built = plan(&night, &settings);
        let expected: BTreeSet<&str> = case.first.iter().chain(case.then).copied().collect();
        let names: BTreeSet<&str> = built.keys().map(String::as_str).collect();
        assert_eq!(names, expected, "{}: {built:?}", case.what);
        for table in case.first {
            assert!(built[*table].iter().any(|w| w == case.why), "{}: {table}: {built:?}", case.what);
        }
        for table in case.then {
            let why = &built[*table];
            assert!(why.iter().all(|w| w.starts_with("table ")), "{}: {table}: {why:?}", case.what);
        }

        let out = night.run(&settings).output().unwrap();
        expect_code(&out, 0);
        let paid = generated(&out);
        assert_eq!(paid > 0, case.pays, "{}: {paid} of {prompts} prompts were paid for; {}", case.what, stderr(&out));
        let after = night.records();
        for table in TABLES {
            let partition = format!("{table}/dt=2026-01-20");
            let is_same = before[&partition] == after[&partition];
            assert_eq!(!is_same, expected.contains(table), "{}: {table}", case.what);
        }
        assert!(plan(&night, &settings).is_empty(), "{}: it would be built again and again", case.what);
    }
}

#[test]
fn what_the_jobs_own_sql_reads_counts_as_what_the_built_in_one_reads() {
    let night = Night::on_disk();
    let world = &night.world;
    let reviews = |user: &str| {
        let schema = Schema::new(vec![
            Field::new("user_id", DataType::Utf8, false),
            Field::new("item_id", DataType::Utf8, false),
            Field::new("event_timestamp", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        ]);
        let at = TimestampMicrosecondArray::from(vec![common::january(2, 0) * 1000]).with_timezone("UTC");
        let columns: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from(vec![user])), Arc::new(StringArray::from(vec!["i01"])), Arc::new(at)];
        common::write(&world.path("input/review.parquet"), &RecordBatch::try_new(Arc::new(schema), columns).unwrap());
    };
    reviews("u01");
    let text = std::fs::read_to_string(common::project().join("sql/item_audience.sql")).unwrap();
    let own = text.replace("where t.is_active", "where t.is_active and (select count(*) from review) >= 0");
    assert_ne!(text, own);
    std::fs::create_dir_all(world.path("sql")).unwrap();
    std::fs::write(world.path("sql/item_audience.sql"), own).unwrap();
    let text = std::fs::read_to_string(common::project().join("sql/item_feature.sql")).unwrap();
    let own = text.replace("order by item_id", "where (select count(*) from user_history) >= 0\norder by item_id");
    assert_ne!(text, own);
    std::fs::write(world.path("sql/item_feature.sql"), own).unwrap();

    let settings = set(&[
        &format!("project.sql={}", world.path("sql").display()),
        &format!("input.review={}", world.path("input/review.parquet").display()),
    ]);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    expect_code(&night.run(&settings).output().unwrap(), 0);
    assert!(plan(&night, &settings).is_empty());
    let of_feature = &night.records()["item_feature/dt=2026-01-20"]["parts"];
    assert!(
        of_feature["table user_history"].is_string() && of_feature["rows of user_history"].is_string(),
        "{of_feature}"
    );

    reviews("u02");
    let built = plan(&night, &settings);
    assert_eq!(built["item_audience"], ["input review changed"], "{built:?}");
    assert!(!built.contains_key("user_history"), "{built:?}");
}
