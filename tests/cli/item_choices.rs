//! Correction of items' reasons from outside: a file of choices changes the vectors of the items that it names, from the end of
//! its interval on, and nothing else.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use serde_json::Value;

use crate::common::{World, expect_code, january, stderr, stdout, summary, write};

const REWRITE: &str = "A slow story about a heist in the rain.";

/// A row of choices. Its interval ends with a day of January.
#[derive(Clone)]
struct Choice {
    item: String,
    key: String,
    chosen: &'static str,
    reason: Option<&'static str>,
    tokens: Option<i64>,
    end: i64,
}

fn write_choices(path: &Path, rows: &[Choice]) {
    let text =
        |of: &dyn Fn(&Choice) -> Option<String>| Arc::new(rows.iter().map(of).collect::<StringArray>()) as ArrayRef;
    let ends = rows.iter().map(|row| Some(january(row.end, 0) * 1000)).collect::<TimestampMicrosecondArray>();
    let columns: [(&str, ArrayRef); 8] = [
        ("item_id", text(&|row| Some(row.item.clone()))),
        ("prompt_key", text(&|row| Some(row.key.clone()))),
        ("chosen", text(&|row| Some(row.chosen.to_owned()))),
        ("reason", text(&|row| row.reason.map(str::to_owned))),
        ("finish", text(&|row| row.reason.map(|_| "stop".to_owned()))),
        ("logprob_sum", Arc::new(rows.iter().map(|row| row.tokens.map(|n| -0.1 * n as f64)).collect::<Float64Array>())),
        ("completion_tokens", Arc::new(rows.iter().map(|row| row.tokens).collect::<Int64Array>())),
        ("from_end", Arc::new(ends.with_timezone("UTC"))),
    ];
    write(path, &RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap());
}

fn named(world: &World, file: &str) -> String {
    format!("correct.item_choices={}", world.path(file).display())
}

fn run(world: &World, more: &[&str]) -> Output {
    let out = world.run(more);
    expect_code(&out, 0);
    out
}

fn plan(world: &World, set: &str) -> String {
    let out = world.curec(&[
        "plan",
        "job.toml",
        "--interval-start",
        "2026-01-20",
        "--interval-end",
        "2026-01-21",
        "--set",
        set,
    ]);
    expect_code(&out, 0);
    stdout(&out)
}

/// The rows of item_feature, by item.
fn features(world: &World) -> BTreeMap<String, Value> {
    let rows = world.sql("select * from item_feature order by item_id");
    rows.into_iter().map(|row| (row["item_id"].as_str().unwrap().to_owned(), row)).collect()
}

fn vector(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Whether a feature's vector is that of a text which a query makes, scaled to length 1.
fn is_of(world: &World, feature: &Value, text: &str) -> bool {
    let query = format!("select embed({text}) as v from reason_prompt where item_id = {} limit 1", quoted(feature));
    let found = vector(&world.sql(&query)[0]["v"]);
    let length = found.iter().map(|x| x * x).sum::<f64>().sqrt();
    vector(&feature["embedding"]).iter().zip(found).all(|(x, y)| (x - y / length).abs() < 1e-4)
}

fn quoted(feature: &Value) -> String {
    format!("'{}'", feature["item_id"].as_str().unwrap())
}

/// Items whose reasons the night accepts, each with the key of its question.
fn accepted(world: &World) -> Vec<(String, String)> {
    let query = "select r.item_id, r.prompt_key from reason as r join reason_score as s on s.kind = r.kind and s.item_id = r.item_id \
                 where r.kind = 'item' and s.accepted order by r.item_id";
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    world.sql(query).iter().map(|row| (text(row, "item_id"), text(row, "prompt_key"))).collect()
}

/// Six choices: the evidence, a rewrite, the evidence by another question of the item, one of an interval that ends a day later, one that keeps, and
/// a rewrite of which the model's figures are not known.
fn choices(items: &[(String, String)]) -> Vec<Choice> {
    assert!(items.len() >= 6, "too few reasons are accepted: {items:?}");
    let row = |n: usize, chosen, reason, tokens, end| {
        let (item, key): (String, String) = items[n].clone();
        Choice { item, key, chosen, reason, tokens, end }
    };
    let mut rows = vec![
        row(0, "evidence", None, None, 21),
        row(1, "rewrite", Some(REWRITE), Some(9), 20),
        row(2, "evidence", None, None, 20),
        row(3, "evidence", None, None, 22),
        row(4, "reason", Some("As it is."), Some(4), 20),
        row(5, "rewrite", Some(REWRITE), None, 20),
    ];
    rows[2].key = "of-another-night".to_owned();
    rows
}

#[test]
fn what_was_chosen_stands_in_the_place_of_the_nights_own_reason() {
    let world = World::new();
    run(&world, &[]);
    let (before, files) = (features(&world), world.published());
    assert!(files.iter().all(|(name, _)| !name.starts_with("item_correction")), "{files:?}");
    let items = accepted(&world);
    let rows = choices(&items);
    write_choices(&world.path("choices.parquet"), &rows);
    let set = named(&world, "choices.parquet");
    let line = summary(&run(&world, &["--set", &set]));
    assert_eq!(line["generated"], 0, "{line}");

    let after = features(&world);
    let of = |n: usize| &after[&items[n].0];
    assert_eq!((&of(0)["source"], &of(0)["n_reasons"]), (&"evidence".into(), &0.into()), "{}", of(0));
    let said = "array_to_string(array_concat(make_array(subject), attributes, content, praise, fault, keywords), ' ')";
    assert!(is_of(&world, of(0), said) && of(0)["embedding"] != before[&items[0].0]["embedding"]);
    assert_eq!((&of(1)["source"], &of(1)["n_reasons"]), (&"reason".into(), &1.into()), "{}", of(1));
    assert!(is_of(&world, of(1), &format!("'{REWRITE}'")) && of(1)["mean_score"].as_f64().unwrap() > 0.0, "{}", of(1));
    assert_eq!(of(2)["source"], "evidence", "which question was asked says nothing: {}", of(2));
    let touched = [&items[0].0, &items[1].0, &items[2].0];
    for (item, row) in &before {
        assert!(touched.contains(&item) || row == &after[item], "{item} was not chosen for: {}", after[item]);
    }

    // A table tells what became of each choice, and so does the explanation.
    let corrections = world.sql("select item_id, correction, reason, refusal from item_correction order by item_id");
    let told: BTreeMap<&str, &str> =
        corrections.iter().map(|row| (row["item_id"].as_str().unwrap(), row["correction"].as_str().unwrap())).collect();
    let fates = [(0, "evidence"), (1, "rewritten"), (2, "evidence"), (4, "kept"), (5, "refused")];
    let expected: BTreeMap<&str, &str> = fates.iter().map(|(n, fate)| (items[*n].0.as_str(), *fate)).collect();
    assert_eq!(told, expected, "{corrections:?}");
    let refused = corrections.iter().find(|row| row["correction"] == "refused").unwrap();
    assert_eq!((&refused["refusal"], &refused["reason"]), (&"empty".into(), &Value::Null));
    let explained = |item: &str| stdout(&world.curec(&["explain", "job.toml", "--item-id", item, "--set", &set]));
    let text = explained(&items[1].0);
    assert!(
        text.contains("\ncorrection\n") && text.contains(REWRITE) && text.contains("known from 2026-01-20"),
        "{text}"
    );
    assert!(!explained(&items[3].0).contains("\ncorrection\n"));

    // Nothing that does not read the choices was made again.
    let others = |files: Vec<(String, String)>| -> Vec<(String, String)> {
        files
            .into_iter()
            .filter(|(name, _)| !name.starts_with("item_feature/") && !name.starts_with("item_correction/"))
            .collect()
    };
    assert_eq!(others(files), others(world.published()));
    let published = world.published();
    assert!(plan(&world, &set).contains("nothing to do"), "{}", plan(&world, &set));
    run(&world, &["--set", &set]);
    assert_eq!(world.published(), published);

    // Another file is another night for these tables alone.
    let mut changed = rows.clone();
    changed[0].chosen = "reason";
    write_choices(&world.path("choices.parquet"), &changed);
    run(&world, &["--set", &set]);
    let again = features(&world);
    assert_eq!((&again[&items[0].0], &again[&items[1].0]), (&before[&items[0].0], &after[&items[1].0]));

    // Without the key the features are what they were, and nobody tells of a correction.
    run(&world, &[]);
    assert_eq!(features(&world), before);
    assert!(!explained(&items[1].0).contains("\ncorrection\n"));
}

#[test]
fn a_choice_that_is_gone_is_none_and_a_wrong_one_is_refused() {
    let world = World::new();
    run(&world, &[]);
    let before = features(&world);
    // What could not be confirmed was removed from its folder.
    let out = run(&world, &["--set", &named(&world, "choices.parquet")]);
    assert!(stderr(&out).contains("nothing is chosen for items' reasons"), "{}", stderr(&out));
    assert_eq!(features(&world), before);
    let out = world.run(&["--set", &named(&world, "nowhere/choices.parquet")]);
    expect_code(&out, 1);
    assert!(stderr(&out).contains("correct.item_choices"), "{}", stderr(&out));

    let rows = choices(&accepted(&world));
    let refused = |rows: &[Choice], parts: &[&str]| {
        write_choices(&world.path("choices.parquet"), rows);
        let out = world.run(&["--set", &named(&world, "choices.parquet")]);
        expect_code(&out, 1);
        let told = stderr(&out);
        assert!(parts.iter().all(|part| told.contains(part)), "{parts:?}: {told}");
    };
    let mut wrong = rows.clone();
    wrong[3].chosen = "better";
    refused(&wrong, &["choices.parquet", "chosen", "row: 3"]);
    let mut twice = rows.clone();
    twice[4].item.clone_from(&rows[1].item);
    refused(&twice, &["choices.parquet", "item_id", "row: 4", "the same key stands twice"]);
    assert_eq!(features(&world), before, "a refused file changes nothing");
}
