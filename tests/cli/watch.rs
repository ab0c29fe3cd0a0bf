//! What a run tells those who watch it: metrics in a file and on a Pushgateway, OpenLineage events, and that a place which
//! fails or hangs changes nothing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{World, expect_code, python_tests, python_with, stderr, stdout, summary};
use crate::night::{Night, signal};

const SUCCESS: &str = "curec_last_success_timestamp_seconds{curec_job=\"test\"}";
const STATUS: &str = "curec_last_run_exit_status{curec_job=\"test\"}";
const NOT_TAKEN: &str = "what this run tells was not taken";

/// The samples of a page in Prometheus' text format, read strictly: each family has its help and type once, right before its
/// samples, and no sample stands twice.
fn samples(page: &str) -> BTreeMap<String, f64> {
    samples_of("test", page)
}

/// The same of a page of another job.
pub(crate) fn samples_of(job: &str, page: &str) -> BTreeMap<String, f64> {
    let label = format!("{{curec_job=\"{job}\"");
    assert!(page.ends_with('\n'), "the last line has no end: {page}");
    let (mut found, mut families, mut family) = (BTreeMap::new(), Vec::<String>::new(), String::new());
    let lines: Vec<&str> = page.lines().collect();
    for (n, line) in lines.iter().enumerate() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split_once(' ').unwrap().0.to_owned();
            assert!(!families.contains(&family), "{family} stands twice: {page}");
            assert_eq!(lines[n + 1], format!("# TYPE {family} gauge"));
            assert!(lines[n + 2].starts_with(&format!("{family}{{")), "{family} has no sample: {page}");
            families.push(family.clone());
        } else if !line.starts_with("# TYPE ") {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let labels = sample.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not of {family}"));
            assert!(labels.starts_with(&label) && labels.ends_with("\"}"), "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(found.insert(sample.to_owned(), value).is_none(), "{line} stands twice");
        }
    }
    found
}

pub(crate) fn events(world: &World, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(world.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn states(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["eventType"].as_str().unwrap()).collect()
}

/// The flags of places on a receiver, and of none else.
fn told_to(address: &str) -> Vec<String> {
    ["pushgateway", "openlineage", "otlp"]
        .iter()
        .flat_map(|key| ["--set".to_owned(), format!("watch.{key}={address}")])
        .collect()
}

fn run(world: &World, more: &[String]) -> Output {
    world.run(&more.iter().map(String::as_str).collect::<Vec<_>>())
}

/// How a receiver treats its requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Takes,
    Refuses,
    Hangs,
}

pub(crate) struct Request {
    /// Method and path.
    pub(crate) what: String,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// An HTTP server on this machine that keeps what it was sent; serves until the process ends.
pub(crate) struct Receiver {
    pub(crate) address: String,
    pub(crate) seen: Arc<Mutex<Vec<Request>>>,
}

impl Receiver {
    pub(crate) fn new(manner: Manner) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = kept.clone();
                std::thread::spawn(move || serve(stream.unwrap(), manner, &kept));
            }
        });
        Receiver { address, seen }
    }

    /// The spans that a collector has been sent, by request.
    pub(crate) fn spans(&self) -> Vec<Vec<Value>> {
        let seen = self.seen.lock().unwrap();
        let traces = seen.iter().filter(|request| request.what == "POST /v1/traces");
        let spans = |request: &Request| {
            let told: Value = serde_json::from_str(&request.body).unwrap();
            let resource = &told["resourceSpans"][0];
            assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "curec", "{told}");
            resource["scopeSpans"][0]["spans"].as_array().unwrap().clone()
        };
        traces.map(spans).collect()
    }

    /// What a Pushgateway would show of the requests, by group: PUT replaces a group.
    fn groups(&self) -> BTreeMap<String, BTreeMap<String, f64>> {
        let seen = self.seen.lock().unwrap();
        let put = seen.iter().filter_map(|r| Some((r.what.strip_prefix("PUT ")?.to_owned(), samples(&r.body))));
        put.collect()
    }
}

fn serve(mut stream: TcpStream, manner: Manner, seen: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        // Who was given up on may go at any moment.
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let what = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    seen.lock().unwrap().push(Request { what, head, body: String::from_utf8(body).unwrap() });
    let status = match manner {
        Manner::Takes => "202 Accepted",
        Manner::Refuses => "500 Internal Server Error",
        Manner::Hangs => {
            std::thread::sleep(Duration::from_secs(60));
            return;
        }
    };
    let _ =
        stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").as_bytes());
}

#[test]
fn a_failed_run_keeps_the_last_success_in_the_file() {
    let world = World::new();
    let metrics = world.path("test.prom");
    let told = [format!("watch.prometheus_file={}", metrics.display())];
    let flags = ["--set", &told[0]];
    let read = || samples(&std::fs::read_to_string(&metrics).unwrap());

    let out = world.run(&flags);
    expect_code(&out, 0);
    let (first, line) = (read(), summary(&out));
    assert_eq!((first[STATUS], first.contains_key(SUCCESS)), (0.0, true), "{first:?}");
    for (table, rows) in line["rows"].as_object().unwrap() {
        let sample = format!("curec_last_run_rows_published{{curec_job=\"test\",table=\"{table}\"}}");
        assert_eq!(first[&sample], rows.as_f64().unwrap(), "{sample}");
    }
    for (sample, key) in [
        ("curec_last_run_answers", "generated"),
        ("curec_last_run_prompt_tokens", "prompt_tokens"),
        ("curec_last_run_completion_tokens", "completion_tokens"),
    ] {
        let value = first[&format!("{sample}{{curec_job=\"test\"}}")];
        assert!(value > 0.0 && value == line[key].as_f64().unwrap(), "{sample}: {value}, {line}");
    }
    let step = "curec_last_run_step_duration_seconds{curec_job=\"test\",step=\"generate\"}";
    assert!(first[step] > 0.0, "{first:?}");
    assert_eq!(first["curec_last_run_budget_reached{curec_job=\"test\"}"], 0.0);

    // The log of the day is late: nothing is published, and when it last went well is still known.
    let out = world.run(&[&flags[..], &["--set", "input.interaction=nowhere.parquet"]].concat());
    assert_ne!(out.status.code(), Some(0), "{}", stderr(&out));
    let failed = read();
    assert_eq!(failed[STATUS], f64::from(out.status.code().unwrap()));
    assert_eq!(failed[SUCCESS], first[SUCCESS]);
    assert!(failed["curec_last_run_timestamp_seconds{curec_job=\"test\"}"] > first[SUCCESS], "{failed:?}");
    assert!(!failed.keys().any(|sample| sample.contains("rows_published")), "{failed:?}");

    // Nothing to do is a success, too.
    let out = world.run(&flags);
    assert_eq!(summary(&out)["status"], "nothing_to_do");
    let again = read();
    assert!(again[STATUS] == 0.0 && again[SUCCESS] > first[SUCCESS], "{again:?}");
    let kept = "curec_last_run_rows_published{curec_job=\"test\",table=\"item_feature\"}";
    assert_eq!(again[kept], first[kept]);
}

#[test]
fn a_pushgateway_keeps_the_last_success_of_a_failed_run() {
    let world = World::new();
    let receiver = Receiver::new(Manner::Takes);
    let address = format!("http://watcher:hunter22@{}", receiver.address);
    let flags = ["--set".to_owned(), format!("watch.pushgateway={address}")];
    expect_code(&run(&world, &flags), 0);
    let (of_run, of_success) = ("/metrics/job/test", "/metrics/job/test/outcome/success");
    let first = receiver.groups();
    assert_eq!(first.keys().collect::<Vec<_>>(), [of_run, of_success]);
    assert_eq!(first[of_run][STATUS], 0.0);
    assert!(first[of_success][SUCCESS] > 0.0 && !first[of_run].contains_key(SUCCESS));

    let late = ["--set".to_owned(), "input.interaction=nowhere.parquet".to_owned()];
    let out = run(&world, &[&flags[..], &late].concat());
    assert_ne!(out.status.code(), Some(0));
    let failed = receiver.groups();
    assert_eq!(failed[of_run][STATUS], f64::from(out.status.code().unwrap()));
    assert_eq!(failed[of_success], first[of_success]);
    for request in receiver.seen.lock().unwrap().iter() {
        let head = request.head.to_lowercase();
        assert!(head.contains("authorization: basic ") && head.contains("content-type: text/plain"), "{head}");
    }
    // The password is in no manifest either.
    let folders = std::fs::read_dir(world.path("warehouse/_runs")).unwrap();
    // Beside them lies the page of all runs.
    let manifests = folders.map(|run| run.unwrap().path().join("manifest.json")).filter(|at| at.is_file());
    let manifests: Vec<_> = manifests.collect();
    assert!(!manifests.is_empty());
    for manifest in manifests {
        let text = std::fs::read_to_string(manifest).unwrap();
        assert!(text.contains("watch.pushgateway") && !text.contains("hunter22"), "{text}");
    }
}

#[test]
fn lineage_tells_what_a_run_reads_and_makes() {
    let world = World::new();
    let flags = ["--set", "watch.openlineage=events.jsonl", "--set", "watch.openlineage_namespace=nights"];
    let out = world.run(&flags);
    expect_code(&out, 0);
    let rows = summary(&out)["rows"].clone();
    let of_run = events(&world, "events.jsonl");
    assert_eq!(states(&of_run), ["START", "RUNNING", "COMPLETE"]);
    let id = of_run[0]["run"]["runId"].as_str().unwrap();
    for event in &of_run {
        assert_eq!(event["run"]["runId"], id);
        assert_eq!((&event["job"]["namespace"], &event["job"]["name"]), (&"nights".into(), &"test".into()));
    }
    let named = |tables: &Value, ending: &str| -> Value {
        let tables = tables.as_array().unwrap();
        let found = tables.iter().find(|table| table["name"].as_str().unwrap().ends_with(ending));
        found.unwrap_or_else(|| panic!("{ending} is not in {tables:?}")).clone()
    };
    let done = &of_run[2];
    let log = named(&done["inputs"], "/input/interaction.parquet");
    assert_eq!(log["namespace"], "file");
    assert!(log["inputFacets"]["inputStatistics"]["rowCount"].as_u64() > Some(0), "{log}");
    let columns = |table: &Value| -> Vec<String> {
        let fields = table["facets"]["schema"]["fields"].as_array().unwrap();
        fields.iter().map(|field| field["name"].as_str().unwrap().to_owned()).collect()
    };
    assert!(columns(&log).contains(&"event_timestamp".to_owned()), "{log}");
    for (table, n) in rows.as_object().unwrap() {
        let made = named(&done["outputs"], &format!("/warehouse/{table}"));
        assert_eq!(&made["outputFacets"]["outputStatistics"]["rowCount"], n, "{made}");
        assert!(!columns(&made).is_empty());
        // What is under way has no amount yet.
        let planned = named(&of_run[1]["outputs"], &format!("/warehouse/{table}"));
        assert_eq!(planned["outputFacets"], serde_json::json!({}));
    }

    let out = world.run(&[&flags[..], &["--set", "input.interaction=nowhere.parquet"]].concat());
    assert_ne!(out.status.code(), Some(0));
    expect_code(&world.run(&flags), 0);
    let all = events(&world, "events.jsonl");
    assert_eq!(states(&all[3..]), ["START", "FAIL", "START", "COMPLETE"]);
    let failed = &all[4]["run"];
    assert_ne!(failed["runId"], id);
    assert!(failed["facets"]["errorMessage"]["message"].as_str().is_some_and(|why| !why.is_empty()), "{failed}");
    assert_eq!(all[6]["outputs"], serde_json::json!([]), "nothing was to do");
    as_the_schema_wants(&world, "events.jsonl");
}

/// OpenLineage's own client reads the events strictly, where there is one.
pub(crate) fn as_the_schema_wants(world: &World, name: &str) {
    checked(world, "test_lineage.py", "CUREC_EVENTS", name);
}

/// A file of the world as a Python test takes it, which a variable tells where it is.
fn checked(world: &World, test: &str, variable: &str, name: &str) {
    let Some(python) = python_with("ci/test-requirements.txt") else { return };
    python_tests(&python, test, &[(variable, world.path(name))]);
}

#[test]
fn a_signal_is_told_as_an_abort() {
    let night = Night::on_disk();
    let receiver = Receiver::new(Manner::Takes);
    let to = format!("watch.otlp=http://{}", receiver.address);
    let slow = ["model.slots=1", "sampling.max_new_tokens=100", "watch.openlineage=events.jsonl", &to];
    let mut flags: Vec<&str> = slow.iter().flat_map(|setting| ["--set", *setting]).collect();
    flags.push("--log-json");
    let mut child = night.run(&flags).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"generating\"")), "it never began to generate");
    let rest = std::thread::spawn(move || lines.map(|l| l.unwrap() + "\n").collect::<String>());
    signal(&child, "-TERM");
    let out = child.wait_with_output().unwrap();
    let said = rest.join().unwrap();
    assert_eq!(out.status.code(), Some(75), "{said}");
    let told = events(&night.world, "events.jsonl");
    assert_eq!(states(&told), ["START", "RUNNING", "ABORT"], "{said}");
    let outputs = told[2]["outputs"].as_array().unwrap();
    assert!(!outputs.is_empty() && outputs.iter().all(|table| table["outputFacets"] == serde_json::json!({})));
    as_the_schema_wants(&night.world, "events.jsonl");
    // The step that it was in is told with the same words.
    let spans = receiver.spans().remove(0);
    let last = spans.last().unwrap();
    assert_eq!((&last["name"], &last["status"]), (&Value::from("generate"), &spans[0]["status"]));
    assert_eq!(last["status"]["code"], 2, "{last}");
    assert!(spans[1..spans.len() - 1].iter().all(|span| span.get("status").is_none()), "{spans:?}");
}

#[test]
fn a_receiver_takes_the_events_over_http() {
    let world = World::new();
    let receiver = Receiver::new(Manner::Takes);
    let setting = format!("watch.openlineage=http://{}", receiver.address);
    let args = ["run", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21", "--set", &setting];
    let out = world.command(&args).env("OPENLINEAGE_API_KEY", "sesame1234\n").output().unwrap();
    expect_code(&out, 0);
    let seen = receiver.seen.lock().unwrap();
    assert!(seen.iter().all(|request| request.what == "POST /api/v1/lineage"));
    assert!(seen.iter().all(|request| request.head.contains("Bearer sesame1234\r\n")));
    let told: Vec<Value> = seen.iter().map(|request| serde_json::from_str(&request.body).unwrap()).collect();
    assert_eq!(states(&told), ["START", "RUNNING", "COMPLETE"]);
}

/// An attribute of a span.
pub(crate) fn attribute(span: &Value, key: &str) -> Value {
    let all = span["attributes"].as_array().unwrap();
    let found = all.iter().find(|told| told["key"] == key).unwrap_or_else(|| panic!("{key} is not in {span}"));
    let value = found["value"].as_object().unwrap();
    value.values().next().unwrap().clone()
}

#[test]
fn a_collector_takes_a_span_for_the_run_and_one_for_each_step() {
    let world = World::new();
    let receiver = Receiver::new(Manner::Takes);
    let to = format!("watch.otlp=http://{}", receiver.address);
    let day = ["run", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
    let flags = ["--set", &to, "--set", "watch.openlineage=events.jsonl"];
    let run = |parent: &str, more: &[&str]| {
        let mut command = world.command(&[&day[..], &flags[..], more].concat());
        command.env("TRACEPARENT", parent).env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=sesame%201234");
        command.output().unwrap()
    };
    // What is no parent is none.
    let out = run("nobody", &[]);
    expect_code(&out, 0);
    let line = summary(&out);
    {
        let seen = receiver.seen.lock().unwrap();
        assert_eq!(seen.len(), 1);
        let head = seen[0].head.to_lowercase();
        assert!(
            head.contains("api-key: sesame 1234\r\n") && head.contains("content-type: application/json\r\n"),
            "{head}"
        );
    }
    let spans = receiver.spans().remove(0);
    let (whole, steps) = spans.split_first().unwrap();
    let lineage = events(&world, "events.jsonl");
    assert_eq!(whole["traceId"], lineage[0]["run"]["runId"].as_str().unwrap().replace('-', ""));
    assert_eq!(whole["name"], "curec run");
    assert!(whole.get("parentSpanId").is_none() && whole.get("status").is_none(), "{whole}");
    assert_eq!(attribute(whole, "curec.run_id"), line["run_id"]);
    assert_eq!(attribute(whole, "curec.exit_code"), "0");
    assert_eq!(attribute(whole, "gen_ai.usage.output_tokens"), line["completion_tokens"].to_string());
    let manifest = world.path("warehouse/_runs").join(line["run_id"].as_str().unwrap()).join("manifest.json");
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let names = |of: &[Value], key: &str| of.iter().map(|step| step[key].clone()).collect::<Vec<_>>();
    assert_eq!(names(steps, "name"), names(manifest["stages"].as_array().unwrap(), "stage"));
    let nanos = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<i64>().unwrap();
    // Moments of the manifest are of whole milliseconds.
    let slack = 5_000_000;
    let mut last = nanos(whole, "startTimeUnixNano") - slack;
    for step in steps {
        assert_eq!((&step["traceId"], &step["parentSpanId"]), (&whole["traceId"], &whole["spanId"]));
        let (began, ended) = (nanos(step, "startTimeUnixNano"), nanos(step, "endTimeUnixNano"));
        assert!(last <= began && began <= ended && ended <= nanos(whole, "endTimeUnixNano") + slack, "{step}");
        last = began - slack;
    }

    // Who started it, as a scheduler does, finds the run under its own span, and why it failed.
    let out =
        run("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", &["--set", "input.interaction=nowhere.parquet"]);
    assert_ne!(out.status.code(), Some(0));
    let spans = receiver.spans().remove(1);
    assert_eq!(spans[0]["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(spans[0]["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(spans[0]["status"]["code"], 2);
    assert!(spans[0]["status"]["message"].as_str().is_some_and(|why| !why.is_empty()), "{spans:?}");
    assert_eq!(attribute(&spans[0], "curec.exit_code"), out.status.code().unwrap().to_string());
    let bodies: String = receiver.seen.lock().unwrap().iter().map(|request| request.body.clone() + "\n").collect();
    std::fs::write(world.path("traces.jsonl"), bodies).unwrap();
    checked(&world, "test_traces.py", "CUREC_TRACES", "traces.jsonl");
}

#[test]
fn a_receiver_that_refuses_is_a_warning_for_each_place() {
    let world = World::new();
    let receiver = Receiver::new(Manner::Refuses);
    let out = run(&world, &told_to(&format!("http://watcher:hunter22@{}", receiver.address)));
    expect_code(&out, 0);
    assert_eq!(summary(&out)["status"], "published");
    let said = stderr(&out);
    // Three events failed, and are told of once.
    assert_eq!(said.matches(NOT_TAKEN).count(), 3, "{said}");
    for part in ["watch.pushgateway", "watch.openlineage", "watch.otlp", "500"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!said.contains("hunter22"), "{said}");
}

#[test]
fn a_receiver_that_hangs_slows_no_run() {
    let world = World::new();
    expect_code(&world.run(&[]), 0);
    let began = Instant::now();
    expect_code(&world.run(&[]), 0);
    let alone = began.elapsed();

    let receiver = Receiver::new(Manner::Hangs);
    let began = Instant::now();
    let out = run(&world, &told_to(&format!("http://{}", receiver.address)));
    let watched = began.elapsed();
    expect_code(&out, 0);
    assert_eq!(summary(&out)["status"], "nothing_to_do");
    // Two seconds at the end, and some for a machine that has other things to do.
    assert!(watched < alone + Duration::from_secs(30), "{watched:?} instead of {alone:?}");
    assert!(!receiver.seen.lock().unwrap().is_empty(), "nothing was sent");
    let said = stderr(&out);
    assert!(said.contains(NOT_TAKEN) || said.contains("the rest is given up"), "{said}");
}

#[test]
fn settings_that_cannot_work_are_refused_without_their_passwords() {
    let world = World::new();
    for (setting, says) in [
        ("watch.prometheus_file=metrics.txt", "ends in .prom"),
        ("watch.pushgateway=host:9091", "http://"),
        ("watch.pushgateway=http://host/?key=hunter22", "neither `?` nor `#`"),
        ("watch.openlineage=kafka://user:hunter22@host/topic", "http://"),
        ("watch.otlp=collector:4318", "http://"),
        ("watch.otlp=http://host/?key=hunter22", "neither `?` nor `#`"),
    ] {
        let out = world.run(&["--set", setting]);
        expect_code(&out, 2);
        let said = stderr(&out) + &stdout(&out);
        assert!(said.contains(says) && !said.contains("hunter22"), "{said}");
    }
}
