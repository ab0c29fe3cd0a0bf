//! `curec sql` with several statements: of a file, of standard input, and saved queries.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::common::{World, expect_code, stderr, stdout};

fn sql(world: &World, more: &[&str]) -> Output {
    world.curec(&[&["sql", "--job", "job.toml"], more].concat())
}

/// The same with a text on standard input.
fn piped(world: &World, more: &[&str], text: &str) -> Output {
    let mut command = world.command(&[&["sql", "--job", "job.toml"], more].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn statements_of_files_and_of_standard_input_run_in_order() {
    let world = World::new();
    let text = "-- Two; of them\nselect ';' as a;\n\nselect count(*) as b\nfrom item;\n";
    std::fs::write(world.path("two.sql"), text).unwrap();
    let expected = "a\n;\nb\n18\n";
    for out in [
        sql(&world, &["--format", "csv", "-f", "two.sql"]),
        piped(&world, &["--format", "csv"], text),
        piped(&world, &["--format", "csv", "-"], text),
        // What begins with a comment would be a flag.
        sql(&world, &["--format", "csv", text.split_once('\n').unwrap().1]),
    ] {
        expect_code(&out, 0);
        assert_eq!(stdout(&out), expected);
    }

    // A file holds the rows of one statement.
    for more in [&["--output", "rows.csv"][..], &["--format", "parquet"]] {
        let out = sql(&world, &[&["-f", "two.sql"], more].concat());
        expect_code(&out, 2);
        assert!(stderr(&out).contains("several statements") && stdout(&out).is_empty(), "{}", stderr(&out));
    }
    assert!(!world.path("rows.csv").exists());
    std::fs::write(world.path("one.sql"), "select 1 as a;").unwrap();
    expect_code(&sql(&world, &["-f", "one.sql", "--format", "csv", "--output", "rows.csv"]), 0);
    assert_eq!(std::fs::read_to_string(world.path("rows.csv")).unwrap(), "a\n1\n");
}

#[test]
fn errors_name_the_file_and_the_statement() {
    let world = World::new();
    let told = |out: &Output, rows: &str, parts: &[&str]| {
        expect_code(out, 2);
        assert_eq!(stdout(out), rows);
        for part in parts {
            assert!(stderr(out).contains(part), "{part:?} is not in: {}", stderr(out));
        }
    };
    let of_file = |text: &str| {
        std::fs::write(world.path("some.sql"), text).unwrap();
        sql(&world, &["--format", "csv", "-f", "some.sql"])
    };
    // What can be found out before the first statement runs is.
    told(&of_file("select 1;\n\nselec 2;"), "", &["file: some.sql", "statement: 2", "line: 3"]);
    told(&of_file("select 1;\ndrop table item;"), "", &["DROP TABLE is not allowed", "file: some.sql", "statement: 2"]);
    told(&of_file("select 1; select 'open"), "", &["file: some.sql"]);
    told(&of_file("-- nothing\n"), "", &["no statement", "file: some.sql"]);
    told(&of_file("select 1 as a;\nselect nothing from item"), "a\n1\n", &["nothing", "statement: 2", "line: 2"]);
    let out = piped(&world, &[], "select 1; copy item to 'x.csv'");
    told(&out, "", &["COPY is not allowed", "file: standard input", "statement: 2"]);
    told(&sql(&world, &[]), "", &["no statement", "standard input"]);
    told(&sql(&world, &["-f", "absent.sql"]), "", &["absent.sql"]);
    told(&sql(&world, &["-f", "some.sql", "select 1"]), "", &["cannot be used with"]);
    told(&sql(&world, &["--query", "cost", "select 1"]), "", &["cannot be used with"]);
}

#[test]
fn saved_queries_are_listed_and_a_job_brings_its_own() {
    let world = World::new();
    let out = sql(&world, &["--query"]);
    expect_code(&out, 0);
    let list = stdout(&out);
    for name in ["quality-by-category", "refusals", "changed-since", "best-and-worst", "cost"] {
        assert!(list.lines().any(|line| line.starts_with(name) && line.contains('?')), "{name}: {list}");
    }
    std::fs::create_dir_all(world.path("own/queries")).unwrap();
    std::fs::write(world.path("own/queries/cost.sql"), "-- Mine\u{1b}[2J\nselect 'mine' as cost").unwrap();
    std::fs::write(world.path("secret.sql"), "select 1").unwrap();
    let own = format!("project.sql={}", world.path("own").display());
    let list = stdout(&sql(&world, &["--set", &own, "--query"]));
    assert!(list.contains("Mine\\u{1b}[2J") && !list.contains('\u{1b}') && list.contains("refusals"), "{list:?}");
    let out = sql(&world, &["--set", &own, "--format", "csv", "--query", "cost"]);
    expect_code(&out, 0);
    assert_eq!(stdout(&out), "cost\nmine\n");
    for name in ["../../secret", "nothing"] {
        let out = sql(&world, &["--set", &own, "--query", name]);
        expect_code(&out, 2);
        assert!(stderr(&out).contains("Mine") && stderr(&out).contains("changed-since"), "{}", stderr(&out));
    }
}

/// The rows of a saved query.
fn saved(world: &World, name: &str) -> Vec<Value> {
    let out = sql(world, &["--format", "json", "--query", name]);
    expect_code(&out, 0);
    stdout(&out).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn sum(rows: &[Value], column: &str) -> i64 {
    rows.iter().map(|row| row[column].as_i64().unwrap()).sum()
}

#[test]
fn saved_queries_answer_from_what_nights_publish() {
    let world = World::new();
    expect_code(
        &world.curec(&["run", "job.toml", "--interval-start", "2026-01-19", "--interval-end", "2026-01-20"]),
        0,
    );
    assert!(saved(&world, "changed-since").is_empty(), "there is one day only");
    expect_code(&world.run(&["--set", "sampling.max_new_tokens=4"]), 0);

    let scores = world.sql(
        "select s.kind, s.user_id, s.item_id, s.dt, s.accepted, r.reason from reason_score as s join reason as r \
         on (r.kind is not distinct from s.kind) and (r.user_id is not distinct from s.user_id) \
         and (r.item_id is not distinct from s.item_id) and (r.dt is not distinct from s.dt)",
    );
    let newest: Vec<&Value> = scores.iter().filter(|row| row["dt"] == "2026-01-20").collect();
    assert!(!newest.is_empty() && newest.len() < scores.len());
    let refusals = saved(&world, "refusals");
    assert_eq!(sum(&refusals, "reasons"), newest.len() as i64);
    let percent: f64 =
        refusals.iter().filter(|row| row["kind"] == "item").map(|row| row["percent"].as_f64().unwrap()).sum();
    assert!((percent - 100.0).abs() < 0.5, "{refusals:?}");

    // Every item of the tests is in one category.
    let categories = saved(&world, "quality-by-category");
    assert_eq!(sum(&categories, "reasons"), newest.iter().filter(|row| !row["item_id"].is_null()).count() as i64);
    assert!(categories.iter().all(|row| row["category"] == "Crime" || row["category"] == "Comedy"), "{categories:?}");

    let mut accepted: BTreeMap<&str, usize> = BTreeMap::new();
    for row in newest.iter().filter(|row| row["accepted"] == true) {
        *accepted.entry(row["kind"].as_str().unwrap()).or_default() += 1;
    }
    let ends = saved(&world, "best-and-worst");
    assert!(!ends.is_empty());
    assert_eq!(ends.len(), accepted.values().map(|n| (*n).min(10)).sum::<usize>());
    for pair in ends.windows(2).filter(|pair| pair[0]["kind"] == pair[1]["kind"]) {
        assert!(pair[0]["score"].as_f64().unwrap() >= pair[1]["score"].as_f64().unwrap(), "{pair:?}");
    }

    let mut days: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &scores {
        let told = format!("{} {} {}", row["dt"], row["accepted"], row["reason"]);
        days.entry(format!("{} {} {}", row["kind"], row["user_id"], row["item_id"])).or_default().push(told);
    }
    let is_same = |told: &[String]| match told {
        [a, b] => a.split_once(' ').unwrap().1 == b.split_once(' ').unwrap().1,
        _ => false,
    };
    let different = days.values().filter(|told| !is_same(told)).count();
    let changed = saved(&world, "changed-since");
    assert!(different > 0);
    let groups: BTreeMap<String, i64> = changed
        .iter()
        .map(|row| (format!("{} {}", row["kind"], row["difference"]), row["reasons"].as_i64().unwrap()))
        .collect();
    assert_eq!(groups.values().sum::<i64>(), different as i64, "{groups:?}");

    let cost = saved(&world, "cost");
    let nights: Vec<_> = cost.iter().map(|row| row["paid_on"].as_str().unwrap()).collect();
    assert_eq!(nights, ["2026-01-20", "2026-01-21"]);
    let paid = world.sql("select count(*) as attempts, sum(completion_tokens) as completion_tokens from response");
    for column in ["attempts", "completion_tokens"] {
        assert_eq!(sum(&cost, column), paid[0][column].as_i64().unwrap());
    }
    assert_eq!(sum(&cost, "answers") + sum(&cost, "failed"), sum(&cost, "attempts"));
}
