//! What commands that learn tell those who watch them: the weekly run as a job of its own, with its stages and the gate's
//! verdict, and a stage that is run alone as another job.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::{World, expect_code, stderr, summary};
use crate::night::signal;
use crate::watch::{Manner, Receiver, as_the_schema_wants, attribute, events, samples_of, states};
use crate::weekly::{arguments, registry_in, wait_for, weekly, world};

/// A weekly file that tells all places.
fn watched(world: &World, receiver: &Receiver, changes: &[(&str, &str)]) -> String {
    let places = format!(
        "[registry]\nname = \"writer\"\n[watch]\nprometheus_file = \"weekly.prom\"\npushgateway = \"http://{to}\"\n\
         openlineage = \"events.jsonl\"\notlp = \"http://{to}\"\n",
        to = receiver.address
    );
    let places = ("[registry]\nname = \"writer\"\n", places.as_str());
    weekly(world, "work", &registry_in(world, "registry"), &[changes, &[places]].concat())
}

fn page(world: &World, job: &str, file: &str) -> std::collections::BTreeMap<String, f64> {
    samples_of(job, &std::fs::read_to_string(world.path(file)).unwrap())
}

fn of_weekly(metric: &str) -> String {
    format!("curec_{metric}{{curec_job=\"weekly\"}}")
}

fn name(table: &Value) -> &str {
    table["name"].as_str().unwrap()
}

#[test]
fn the_weekly_run_tells_its_stages_and_what_the_gate_says() {
    let world = world();
    let receiver = Receiver::new(Manner::Takes);
    let out = world.curec(&arguments(&watched(&world, &receiver, &[])));
    expect_code(&out, 0);
    let did = summary(&out)["did"].clone();
    let first = page(&world, "weekly", "weekly.prom");
    assert_eq!(first[&of_weekly("last_run_exit_status")], 0.0);
    assert_eq!(first[&of_weekly("last_run_gate_passed")], 1.0);
    assert_eq!(first["curec_last_run_info{curec_job=\"weekly\",command=\"learn weekly\"}"], 1.0);
    let success = first[&of_weekly("last_success_timestamp_seconds")];
    for stage in did.as_array().unwrap() {
        let step = format!("curec_last_run_step_duration_seconds{{curec_job=\"weekly\",step={stage}}}");
        assert!(first[&step] >= 0.0, "{step}");
    }
    let of_run = events(&world, "events.jsonl");
    assert_eq!(states(&of_run), ["START", "RUNNING", "COMPLETE"]);
    for event in &of_run[1..] {
        assert_eq!((&event["job"]["namespace"], &event["job"]["name"]), (&json!("curec"), &json!("weekly")));
        let read: Vec<&str> = event["inputs"].as_array().unwrap().iter().map(name).collect();
        assert!(read.iter().any(|name| name.ends_with("/input/interaction.parquet")), "{read:?}");
        assert!(event["inputs"][0]["facets"]["schema"]["fields"].as_array().is_some_and(|all| !all.is_empty()));
        let made: Vec<&str> = event["outputs"].as_array().unwrap().iter().map(name).collect();
        assert!(made.len() == 1 && made[0].ends_with("/registry/writer"), "{made:?}");
    }
    let spans = receiver.spans().remove(0);
    assert_eq!(spans[0]["name"], "curec learn weekly");
    assert_eq!(spans[1..].iter().map(|span| span["name"].clone()).collect::<Vec<_>>(), *did.as_array().unwrap());
    assert!(spans.iter().all(|span| span.get("status").is_none()), "{spans:?}");

    // Its gate refuses: what last went well is kept, and the stages that were done before are no steps of this run.
    let out = world.curec(&arguments(&watched(&world, &receiver, &[("format = 0.0", "format = 0.98")])));
    expect_code(&out, 1);
    let refused = page(&world, "weekly", "weekly.prom");
    assert_eq!(refused[&of_weekly("last_run_exit_status")], 1.0);
    assert_eq!(refused[&of_weekly("last_run_gate_passed")], 0.0);
    assert_eq!(refused[&of_weekly("last_success_timestamp_seconds")], success);
    assert_eq!(refused.keys().filter(|sample| sample.contains("step=")).count(), 1, "{refused:?}");
    let all = events(&world, "events.jsonl");
    assert_eq!(states(&all[3..]), ["START", "RUNNING", "FAIL"]);
    let why = all[5]["run"]["facets"]["errorMessage"]["message"].as_str().unwrap();
    assert!(why.starts_with("audit: the stage gate refuses"), "{why}");
    let spans = receiver.spans().remove(1);
    assert_eq!((spans.len(), &spans[1]["name"], &spans[1]["status"]["code"]), (2, &json!("gate"), &json!(2)));
    assert_eq!((&spans[0]["status"]["code"], attribute(&spans[0], "curec.exit_code")), (&json!(2), json!("1")));
    // The Pushgateway has the last run, and beside it when one last went well.
    let seen = receiver.seen.lock().unwrap();
    let put = |group: &str| seen.iter().rev().find(|r| r.what == format!("PUT /metrics/job/weekly{group}")).unwrap();
    assert_eq!(samples_of("weekly", &put("").body)[&of_weekly("last_run_gate_passed")], 0.0);
    let of_success = samples_of("weekly", &put("/outcome/success").body);
    assert_eq!(of_success[&of_weekly("last_success_timestamp_seconds")], success);
    as_the_schema_wants(&world, "events.jsonl");
}

#[test]
fn a_stage_that_is_run_alone_is_a_job_of_its_own_and_a_signal_an_abort() {
    let world = world();
    let receiver = Receiver::new(Manner::Refuses);
    let file = watched(&world, &receiver, &[("epochs = 4", "epochs = 40")]);
    let mut arguments = arguments(&file);
    arguments[1] = "align";
    let child = world.command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a checkpoint", || world.path("work/align.safetensors").exists());
    signal(&child, "-TERM");
    let out = child.wait_with_output().unwrap();
    expect_code(&out, 75);
    assert!(stderr(&out).contains("what this run tells was not taken"), "{}", stderr(&out));
    assert!(!world.path("weekly.prom").exists(), "it is taken for the weekly run");
    let told = page(&world, "weekly.align", "weekly.align.prom");
    assert_eq!(told["curec_last_run_exit_status{curec_job=\"weekly.align\"}"], 75.0);
    assert!(!told.keys().any(|sample| sample.contains("gate_passed") || sample.contains("last_success")), "{told:?}");
    let told = events(&world, "events.jsonl");
    assert_eq!(states(&told), ["START", "RUNNING", "ABORT"]);
    assert_eq!(told[2]["job"]["name"], "weekly.align");
    let made: Vec<&str> = told[2]["outputs"].as_array().unwrap().iter().map(name).collect();
    assert!(made.len() == 2 && made[0].ends_with("/alignment_example.parquet"), "{made:?}");
    as_the_schema_wants(&world, "events.jsonl");
}

#[test]
fn places_of_a_weekly_file_that_cannot_work_are_refused() {
    let world = world();
    let wrong = ("[registry]\nname = \"writer\"\n", "[registry]\nname = \"writer\"\n[watch]\notlp = \"collector\"\n");
    let out = world.curec(&arguments(&weekly(&world, "work", &registry_in(&world, "registry"), &[wrong])));
    expect_code(&out, 2);
    assert!(stderr(&out).contains("watch.otlp: must be a URL"), "{}", stderr(&out));
}
