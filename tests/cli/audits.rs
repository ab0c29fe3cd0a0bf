//! Audits of every kind against broken table definitions, with the real binary: nothing is published, the rows are
//! shown and stand in the quarantine, the next good run publishes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{World, expect_code, stderr, stdout, summary};
use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use curec::error::Kind;
use curec::night::graph::Graph;
use curec::query::audit::audit;
use curec::query::session::{Session, SessionOptions};
use curec::table::contract::Contract;
use serde_json::Value;

/// Digests of all files of a warehouse but what a run may leave when it publishes nothing: its manifest, its lease, and
/// the quarantine.
fn production(world: &World) -> BTreeMap<String, String> {
    let root = world.path("warehouse");
    let mut found = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            let name = entry.strip_prefix(&root).unwrap().display().to_string();
            match entry.is_dir() {
                true if ["_runs", "_leases", "_quarantine"].contains(&name.as_str()) => {}
                true => folders.push(entry),
                false => {
                    found.insert(name, blake3::hash(&std::fs::read(&entry).unwrap()).to_hex().to_string());
                }
            }
        }
    }
    found
}

/// The built-in definition of a table (`sql`, `schemas`) with one text replaced.
fn changed(folder: &str, file: &str, from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(common::project().join(folder).join(file)).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from:?} in {file}");
    text.replace(from, to)
}

fn run(world: &World, dt: i64, more: &[&str]) -> std::process::Output {
    let (start, end) = (format!("2026-01-{dt:02}"), format!("2026-01-{:02}", dt + 1));
    let mut args = vec!["run", "job.toml", "--interval-start", &start, "--interval-end", &end];
    args.extend(more);
    world.curec(&args)
}

struct Case {
    folder: &'static str,
    table: &'static str,
    from: &'static str,
    to: &'static str,
    audit: &'static str,
    failing: i64,
    /// Column and value of the first failing row.
    shows: (&'static str, Value),
}

fn cases() -> Vec<Case> {
    let case = |table, from, to, audit, failing, shows: (&'static str, Value)| Case {
        folder: "sql",
        table,
        from,
        to,
        audit,
        failing,
        shows,
    };
    let odd = r#"u03'); drop table item; -- <b>{"a": 1}</b>"#;
    vec![
        case(
            "user_history",
            "cast(s.n_events as bigint) as n_events",
            "case when s.user_id in ('u03', 'u05') then 'many' else cast(s.n_events as varchar) end as n_events",
            "type(n_events)",
            2,
            ("n_events", "many".into()),
        ),
        case(
            "user_history",
            "    s.last_event_timestamp,\n",
            "    case when s.user_id >= 'u03' then s.last_event_timestamp end as last_event_timestamp,\n",
            "not_null(last_event_timestamp)",
            3,
            ("last_event_timestamp", Value::Null),
        ),
        case(
            "user_history",
            "from summary as s",
            "from (select * from summary union all select * from summary where user_id < 'u02') as s",
            "unique(user_id, as_of)",
            2,
            ("user_id", "u00".into()),
        ),
        case(
            "user_history",
            "cast(s.user_id as varchar) as user_id",
            "case when s.user_id = 'u03' then '' else s.user_id end as user_id",
            "min_length(user_id)",
            1,
            ("user_id", "".into()),
        ),
        case(
            "user_history",
            "cast(s.n_events as bigint) as n_events",
            "cast(-s.n_events as bigint) as n_events",
            "min(n_events)",
            24,
            ("user_id", "u00".into()),
        ),
        Case {
            folder: "schemas",
            ..case("user_history", "min = 1\n", "min = 1\nmax = 1\n", "max(n_events)", 24, ("user_id", "u00".into()))
        },
        case(
            "user_history",
            "case when s.n_ratings > 0 then cast(s.rating_sum as double) / cast(s.n_ratings as double) end",
            "case when s.user_id = 'u03' then cast('NaN' as double) else 1.0 end",
            "finite(mean_rating)",
            1,
            ("mean_rating", "NaN".into()),
        ),
        case(
            "user_history",
            "cast(s.n_likes as bigint) as n_likes",
            "cast(s.n_events + 1 as bigint) as n_likes",
            "counts_add_up",
            24,
            ("user_id", "u00".into()),
        ),
        case(
            "reason_prompt",
            "case when h.n_likes > 0 then 'like' else 'dislike' end as verdict",
            "case when h.user_id = 'u03' then 'adore''; --' else 'like' end as verdict",
            "values(verdict)",
            1,
            ("verdict", "adore'; --".into()),
        ),
        case(
            "reason_prompt",
            "cast(h.user_id as varchar) as user_id",
            r#"case when h.user_id = 'u03' then 'u03''); drop table item; -- <b>{"a": 1}</b>' else h.user_id end as user_id"#,
            "foreign_key(user_id, as_of -> user_history)",
            1,
            ("user_id", odd.into()),
        ),
        case(
            "reason",
            "cast(p.prompt_key as varchar) as prompt_key",
            "concat(p.prompt_key, case when p.item_id = 'i07' then 'x' else '' end) as prompt_key",
            "foreign_key(kind, user_id, item_id, as_of, prompt_key -> reason_prompt)",
            1,
            ("item_id", "i07".into()),
        ),
        case(
            "item_feature",
            "    $as_of as event_timestamp",
            "    $interval_start as event_timestamp",
            "foreign_key(item_id, event_timestamp -> item_audience)",
            18,
            ("event_timestamp", "2026-01-20T00:00:00Z".into()),
        ),
        case(
            "user_history",
            "from summary as s",
            "from (select * from summary where user_id < 'u03') as s",
            "row_count_drift",
            3,
            ("", Value::Null),
        ),
    ]
}

#[test]
fn an_audit_of_any_kind_refuses_shows_keeps_and_leaves_production_alone() {
    let world = World::new();
    expect_code(&run(&world, 19, &[]), 0);
    expect_code(&run(&world, 20, &[]), 0);
    let published = production(&world);
    let mut refused = 0;
    for case in cases() {
        let Case { folder, table, from, to, audit, failing, shows } = case;
        let overrides = world.path(&format!("{folder}-{refused}"));
        std::fs::create_dir_all(&overrides).unwrap();
        let file = format!("{table}.{}", if folder == "sql" { "sql" } else { "toml" });
        std::fs::write(overrides.join(&file), changed(folder, &file, from, to)).unwrap();
        let set = format!("project.{folder}={}", overrides.display());
        let out = run(&world, 20, &["--set", &set, "--set", "audit.row_count_band=2"]);
        refused += 1;
        let said = stderr(&out);
        assert_eq!(out.status.code(), Some(1), "{audit}: {said}");
        assert_eq!(production(&world), published, "{audit} changed what was published");
        let run_id = summary(&out)["run_id"].as_str().unwrap().to_owned();
        assert!(said.contains(audit) && said.contains("quarantine"), "{audit}: {said}");

        // Exactly the rows of that run, at most twenty, the shown ones among them.
        let rows = world.sql(&format!("select * from quarantine where run_id = '{run_id}' order by audit, place"));
        assert!(rows.len() <= 20, "{audit}: {} rows", rows.len());
        let ours: Vec<&Value> = rows.iter().filter(|r| r["audit"] == audit).collect();
        assert!(!ours.is_empty(), "{audit}: {rows:?}");
        let first = ours[0];
        assert_eq!(first["n_failing"], failing, "{audit}: {first}");
        assert_eq!((&first["table_name"], &first["severity"]), (&table.into(), &"error".into()), "{first}");
        assert_eq!(first["dt"], "2026-01-20");
        if shows.0.is_empty() {
            assert_eq!((ours.len(), &first["place"], &first["failing_row"]), (1, &0.into(), &Value::Null), "{first}");
        } else {
            let row: Value = serde_json::from_str(first["failing_row"].as_str().unwrap()).unwrap();
            assert_eq!(row[shows.0], shows.1, "{audit}: {row}");
            assert!(said.contains(first["failing_row"].as_str().unwrap()), "{audit} is not shown: {said}");
        }
        let manifest = world.path(&format!("warehouse/_runs/{run_id}/manifest.json"));
        let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
        assert_eq!(manifest["status"], "audit");
        assert!(manifest["audits"].as_array().unwrap().iter().any(|a| a["audit"] == audit), "{manifest}");
    }

    // The next good run publishes, and what failed before is still known.
    let overrides = world.path("good");
    std::fs::create_dir_all(&overrides).unwrap();
    let good = changed("sql", "user_history.sql", "from summary as s", "from summary as s /* mended */");
    std::fs::write(overrides.join("user_history.sql"), good).unwrap();
    let set = format!("project.sql={}", overrides.display());
    let out = run(&world, 20, &["--set", &set, "--set", "audit.row_count_band=2"]);
    expect_code(&out, 0);
    assert_eq!(summary(&out)["status"], "published");
    let runs = world.sql("select count(distinct run_id) as n from quarantine");
    assert_eq!(runs[0]["n"], refused);

    // Old entries go with gc, young ones stay.
    let gc = |days: &str| world.curec(&["gc", "job.toml", "--set", &format!("audit.quarantine_days={days}")]);
    expect_code(&gc("1"), 0);
    assert_eq!(world.sql("select count(distinct run_id) as n from quarantine")[0]["n"], refused);
    let out = gc("0");
    expect_code(&out, 0);
    assert!(stdout(&out).contains(&format!("{refused} old file(s)")), "{}", stdout(&out));
    assert_eq!(world.sql("select count(*) as n from quarantine")[0]["n"], 0);
    assert_eq!(std::fs::read_dir(world.path("warehouse/_quarantine")).map_or(0, |d| d.count()), 0);
}

#[test]
fn a_warning_publishes_and_is_kept() {
    let world = World::new();
    let schemas = world.path("schemas");
    std::fs::create_dir(&schemas).unwrap();
    let audit = "[[audit]]\nname = \"some\"\nseverity = \"warn\"\ndescription = \"A test.\"\n\
                 sql = \"select user_id, as_of from this where user_id < 'u02' order by user_id\"\n\n[[audit]]\nname = \"counts_add_up\"";
    let text = changed("schemas", "user_history.toml", "[[audit]]\nname = \"counts_add_up\"", audit);
    std::fs::write(schemas.join("user_history.toml"), text).unwrap();
    let set = format!("project.schemas={}", schemas.display());
    expect_code(&world.run(&["--set", &set]), 0);
    let rows = world.sql("select severity, place, failing_row from quarantine order by place");
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[1]["severity"], "warn");
    let row: Value = serde_json::from_str(rows[1]["failing_row"].as_str().unwrap()).unwrap();
    assert_eq!((&row["user_id"], &row["as_of"]), (&"u01".into(), &"2026-01-21T00:00:00Z".into()));
}

fn contract(more: &str) -> Result<Contract, curec::error::Error> {
    let text = "name = \"child\"\nversion = \"1.0\"\nrole = \"derived\"\ngrain = [\"a\", \"b\"]\n\
                [[column]]\nname = \"a\"\ntype = \"utf8\"\nnullable = true\n\
                [[column]]\nname = \"b\"\ntype = \"int64\"\nnullable = true\n";
    Contract::parse(&format!("{text}{more}"), "child.toml")
}

#[test]
fn mistakes_in_foreign_keys_are_all_told_with_their_lines() {
    let more = "[[foreign_key]]\ncolumns = [\"a\", \"c\"]\nreferences = \"child\"\nto = [\"x\"]\nwhere = \" \"\n";
    let said = contract(more).unwrap_err().explain();
    for what in ["c in [[foreign_key]] is no column", "line 15: references", "line 16: 1 columns in to", "line 17"] {
        assert!(said.contains(what), "{what:?} is not in {said}");
    }
    assert!(contract("[[foreign_key]]\ncolumns = []\nreferences = \"parent\"\n").is_err());
    assert!(contract("[[foreign_key]]\ncolumns = [\"a\"]\nreferences = \"p\"\non = \"x\"\n").is_err());
    let good = contract("[[foreign_key]]\ncolumns = [\"a\"]\nreferences = \"parent\"\n").unwrap();
    assert_eq!(good.foreign_keys[0].to, ["a"]);

    // Between contracts: the parent, its columns and their types.
    let parent = "name = \"parent\"\nversion = \"1.0\"\nrole = \"derived\"\n\
                  [[column]]\nname = \"a\"\ntype = \"int64\"\nnullable = true\n";
    let parent = Contract::parse(parent, "parent.toml").unwrap();
    let said = Contract::check_references(&[&parent, &good]).unwrap_err().to_string();
    assert!(said.contains("a is utf8, but parent.a is int64"), "{said}");
    let said = Contract::check_references(&[&good, &parent]).unwrap_err().to_string();
    assert!(said.contains("references parent, which is no table made before it"), "{said}");
    let other = contract("[[foreign_key]]\ncolumns = [\"b\"]\nreferences = \"parent\"\n").unwrap();
    let said = Contract::check_references(&[&parent, &other]).unwrap_err().to_string();
    assert!(said.contains("b is no column of parent"), "{said}");

    // Of the built-in ones the graph looks at all.
    let graph = Graph::builtin().unwrap();
    let held = |name: &str| graph.contract(name).unwrap().foreign_keys.iter().map(|key| key.references.clone());
    assert!(graph.published().filter(|name| name.ends_with("_feature")).all(|name| held(name).count() == 1));
    assert_eq!(held("reason_prompt").collect::<Vec<_>>(), ["user_history", "item_audience"]);
}

fn session() -> Session {
    Session::new(SessionOptions { threads: 2, memory_limit: 1 << 30, ..SessionOptions::default() }).unwrap()
}

#[tokio::test]
async fn a_foreign_key_compares_nulls_with_nulls_and_looks_only_where_it_should() {
    let session = session();
    let values = |rows: &str| format!("select column1 as a, column2 as b from (values {rows})");
    session.register_view("parent", &values("('x', 1), (null, 2), ('y', null)"), &[]).await.unwrap();
    let child = "('x', 1), (null, 2), ('y', null), ('it''s', 2), (null, 3), ('y', 4)";
    session.register_view("child", &values(child), &[]).await.unwrap();
    let key = "[[foreign_key]]\ncolumns = [\"a\", \"b\"]\nreferences = \"parent\"\n";
    let report = audit(&session, &contract(key).unwrap(), "child", &[], None).await.unwrap();
    let found = report.errors().next().unwrap();
    assert_eq!(found.audit, "foreign_key(a, b -> parent)");
    assert_eq!(found.rows, [r#"{"a":"it's","b":2}"#, r#"{"a":"y","b":4}"#, r#"{"a":null,"b":3}"#]);
    let key = format!("{key}where = \"a = 'it''s' or b = 1\"\n");
    let report = audit(&session, &contract(&key).unwrap(), "child", &[], None).await.unwrap();
    assert_eq!(report.errors().map(|f| f.failing).collect::<Vec<_>>(), [1], "{report}");
    // A condition or a parent that cannot be is a mistake in the contract.
    for more in ["references = \"parent\"\nwhere = \"nothing = 1\"\n", "references = \"nobody\"\n"] {
        let contract = contract(&format!("[[foreign_key]]\ncolumns = [\"a\"]\n{more}")).unwrap();
        let error = audit(&session, &contract, "child", &[], None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{}", error.explain());
        assert!(error.to_string().contains("foreign_key(a -> "), "{error}");
    }
}

/// A key compared otherwise than the rest would make the join quadratic: 10^12 comparisons instead of a second.
#[tokio::test]
async fn keys_of_a_million_rows_are_audited_in_seconds() {
    let session = session();
    let rows = 1_000_000_usize;
    let make = |from: usize, rows: usize| {
        let user = (from..from + rows).map(|i| (i % 2 == 0).then(|| format!("u{i:07}")));
        let item = (from..from + rows).map(|i| (i % 2 == 1).then(|| format!("i{i:07}")));
        let kind = (from..from + rows).map(|i| if i % 2 == 0 { "history" } else { "item" });
        RecordBatch::try_from_iter_with_nullable([
            ("kind", Arc::new(StringArray::from_iter_values(kind)) as ArrayRef, true),
            ("user_id", Arc::new(user.collect::<StringArray>()) as ArrayRef, true),
            ("item_id", Arc::new(item.collect::<StringArray>()) as ArrayRef, true),
            ("as_of", Arc::new(TimestampMicrosecondArray::from(vec![0; rows]).with_timezone("UTC")) as ArrayRef, true),
            (
                "prompt_key",
                Arc::new(StringArray::from_iter_values((from..from + rows).map(|i| format!("k{i}")))) as ArrayRef,
                true,
            ),
        ])
        .unwrap()
    };
    let batches = |from: usize| (0..rows / 8000).map(|b| make(from + b * 8000, 8000)).collect::<Vec<_>>();
    for (name, from) in [("reason_prompt", 0), ("reason", 3)] {
        session.register_batches(name, make(0, 1).schema(), batches(from)).unwrap();
    }
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/reason.toml")).unwrap();
    // Its grain and its foreign key, without the columns that do not matter here.
    let (head, rest) = text.split_at(text.find("[[column]]\nname = \"reason\"").unwrap());
    let key = &rest[rest.find("[[foreign_key]]").unwrap()..rest.find("[[audit]]").unwrap()];
    let contract = Contract::parse(&format!("{head}{key}"), "reason.toml").unwrap();
    let started = Instant::now();
    let report = audit(&session, &contract, "reason", &[], None).await.unwrap();
    let seconds = started.elapsed();
    // The last three rows are past the parent's.
    let found: Vec<_> = report.errors().map(|f| (f.audit.as_str(), f.failing)).collect();
    assert_eq!(found, [("foreign_key(kind, user_id, item_id, as_of, prompt_key -> reason_prompt)", 3)], "{report}");
    assert!(seconds < Duration::from_secs(20), "took {seconds:?}");
    println!("audits of {rows} rows: {seconds:?}");
}
