//! What published vectors are of: accepted reasons, the evidence or both, as `[feature] vector_of` says.

use std::collections::BTreeMap;
use std::process::Output;

use serde_json::Value;

use crate::common::{World, expect_code, stderr, stdout, summary};
use crate::correct;

/// Tables of features, each with its key.
const TABLES: [(&str, &str); 2] = [("item_feature", "item_id"), ("user_feature", "user_id")];

/// The night of 20 January with more flags.
fn run(world: &World, more: &[&str]) -> Output {
    let out = world.run(more);
    expect_code(&out, 0);
    out
}

/// The rows of that night by table and key.
fn features(world: &World) -> BTreeMap<(&'static str, String), Value> {
    let mut found = BTreeMap::new();
    for (table, key) in TABLES {
        for row in world.sql(&format!("select * from {table} where dt = '2026-01-20'")) {
            found.insert((table, row[key].as_str().unwrap().to_owned()), row);
        }
    }
    found
}

fn vector(row: &Value) -> Vec<f64> {
    row["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Whether a vector is the mean of two others, scaled to length 1.
fn is_mean(mean: &Value, one: &Value, other: &Value) -> bool {
    let sum: Vec<f64> = vector(one).iter().zip(vector(other)).map(|(x, y)| x + y).collect();
    let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
    vector(mean).iter().zip(&sum).all(|(x, y)| (x - y / norm).abs() < 1e-5)
}

/// Why the night would make item_feature again; empty where it would not.
fn why(world: &World, more: &[&str]) -> Vec<String> {
    let args = ["plan", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21", "--json"];
    let out = world.curec(&[&args[..], more].concat());
    expect_code(&out, 0);
    let plan: Value = serde_json::from_str(&stdout(&out)).unwrap();
    let table = plan["tables"].as_array().unwrap().iter().find(|table| table["table"] == "item_feature").unwrap();
    table["why"].as_array().unwrap().iter().map(|why| why.as_str().unwrap().to_owned()).collect()
}

#[test]
fn of_both_it_is_the_mean_of_the_two_however_many_reasons_there_are() {
    // Corrected reasons of the night before are second ones of their users.
    let world = correct::world();
    expect_code(
        &world.curec(&["run", "job.toml", "--interval-start", "2026-01-19", "--interval-end", "2026-01-20"]),
        0,
    );
    run(&world, &[]);
    let (reason, files) = (features(&world), world.published());
    assert!(reason.values().all(|row| row["source"] != "both"), "{reason:?}");

    let set = |of: &str| ["--set".to_owned(), format!("feature.vector_of={of}")];
    let with = |of: &str| {
        let set = set(of);
        let set = [set[0].as_str(), set[1].as_str()];
        assert_eq!(why(&world, &set), ["settings [feature] vector_of changed"], "{of}");
        let line = summary(&run(&world, &set));
        assert_eq!(line["generated"], 0, "{line}");
        assert!(why(&world, &set).is_empty(), "{of}");
        features(&world)
    };
    let (evidence, both) = (with("evidence"), with("both"));
    assert!(reason.keys().eq(evidence.keys()) && reason.keys().eq(both.keys()));
    let (mut of_both, mut of_several) = (BTreeMap::new(), 0);
    for (key, row) in &reason {
        let (of_evidence, mean) = (&evidence[key], &both[key]);
        if row["source"] != "reason" {
            assert!(row == of_evidence && row == mean, "{row}\n{of_evidence}\n{mean}");
            continue;
        }
        let behind = |row: &Value| (row["n_reasons"].clone(), row["mean_score"].clone());
        assert_eq!((&of_evidence["source"], behind(of_evidence)), (&"evidence".into(), (0.into(), Value::Null)));
        assert_eq!((&mean["source"], behind(mean)), (&"both".into(), behind(row)), "{mean}");
        assert!(is_mean(mean, row, of_evidence), "{row}\n{of_evidence}\n{mean}");
        assert!(vector(mean) != vector(row) && vector(mean) != vector(of_evidence), "{mean}");
        of_several += usize::from(row["n_reasons"].as_i64() > Some(1));
        of_both.insert(key.0, key.1.clone());
    }
    assert!(of_both.len() == 2 && of_several > 0, "{of_both:?}, {of_several} with several reasons");

    // Whoever asks is told what the vector is of.
    for (table, flag) in [("item_feature", "--item-id"), ("user_feature", "--user-id")] {
        let out = world.curec(&["explain", "job.toml", flag, &of_both[table]]);
        expect_code(&out, 0);
        let text = stdout(&out);
        assert!(text.contains("source both") && text.contains("the evidence, half each"), "{text}");
    }

    // Nothing else was made again, and the value of before makes the bytes of before.
    let others = |files: &[(String, String)]| -> Vec<(String, String)> {
        let is_feature =
            |name: &str| TABLES.iter().any(|(table, _)| name.starts_with(&format!("{table}/dt=2026-01-20")));
        files.iter().filter(|(name, _)| !is_feature(name)).cloned().collect()
    };
    assert_eq!(others(&world.published()), others(&files));
    run(&world, &[]);
    assert_eq!(world.published(), files);
}

#[test]
fn another_value_is_refused_with_its_place() {
    let world = World::new();
    let job = std::fs::read_to_string(world.path("job.toml")).unwrap();
    let job = job.replace("vector_of = \"reason\"", "vector_of = \"reasons\"");
    std::fs::write(world.path("job.toml"), &job).unwrap();
    let line = job.lines().position(|line| line.starts_with("vector_of")).unwrap() + 1;
    let told = "feature.vector_of: must be reason, evidence or both, got `reasons`";
    let out = world.run(&[]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains(&format!("job.toml:{line}: {told}")), "{}", stderr(&out));
    let out = world.curec(&["check", "job.toml", "--at", "2026-01-20"]);
    expect_code(&out, 2);
    assert!(stdout(&out).contains(told) && stdout(&out).contains("1 problem,"), "{}", stdout(&out));
    assert!(!world.path("warehouse").exists());
}
