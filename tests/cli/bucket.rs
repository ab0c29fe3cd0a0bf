//! The nightly job on S3: the real binary against s3s-fs in the process and moto, undisturbed and with faults over real
//! sockets, with models on the store, and with credentials that nobody must see.

use std::process::Output;
use std::time::Duration;

use crate::common::{World, expect_code, fixture, stderr, stdout, summary};
use crate::s3::{Bucket, Call, Fault, KEY, Moto, NIGHT, Rule, SECRET, TOKEN, files, on_s3};

const TABLES: [&str; 6] =
    ["user_history", "item_audience", "reason_prompt", "reason_score", "item_feature", "user_feature"];

/// Small commits and little patience, so that there is more to be disturbed and no test waits long.
const IMPATIENT: [&str; 10] = [
    "--set",
    "response.flush_rows=8",
    "--set",
    "store.timeout_seconds=3",
    "--set",
    "store.connect_seconds=3",
    "--set",
    "store.max_retries=4",
    "--set",
    "store.retry_seconds=20",
];

fn rows(command: impl Fn(&[&str]) -> Output) -> Vec<String> {
    TABLES
        .iter()
        .map(|table| {
            let query = format!("select * from {table} order by 1, 2, 3");
            let out = command(&["sql", "--job", "job.toml", "--format", "json", &query]);
            expect_code(&out, 0);
            assert!(!out.stdout.is_empty(), "{table} is empty");
            stdout(&out)
        })
        .collect()
}

#[test]
fn a_night_on_s3_publishes_the_same_rows_as_on_disk() {
    let bucket = Bucket::new();
    let out = bucket.run("curec");
    expect_code(&out, 0);
    assert_eq!(summary(&out)["status"], "published");
    assert!(summary(&out)["report"].as_str().unwrap().starts_with("s3://lake/curec/_runs/"), "{}", stdout(&out));

    // The same rows to the bit. The files differ in one thing: a footer names the inputs by the store's tags.
    let local = World::new();
    expect_code(&local.run(&[]), 0);
    let there = rows(|args| bucket.command(args, "curec").output().unwrap());
    assert_eq!(there, rows(|args| local.curec(args)));

    let again = bucket.run("curec");
    expect_code(&again, 0);
    assert_eq!(summary(&again)["status"], "nothing_to_do");
    let gc = bucket.command(&["gc", "job.toml"], "curec").output().unwrap();
    expect_code(&gc, 0);
    assert!(stdout(&gc).starts_with("removed 0 staged file(s), 0 orphan(s)"), "{}", stdout(&gc));
    let listed = bucket.command(&["runs", "list", "job.toml", "--json"], "curec").output().unwrap();
    expect_code(&listed, 0);
    assert_eq!(summary(&listed)["run_id"], summary(&out)["run_id"], "{}", stdout(&listed));
}

#[test]
fn a_night_on_moto_publishes_the_same_rows_as_on_disk() {
    let Some(moto) = Moto::start(&["logs", "lake"]) else { return };
    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for name in ["interaction", "item"] {
        let bytes = std::fs::read(world.path(&format!("input/{name}.parquet"))).unwrap();
        let at = moto.location(&format!("s3://logs/input/{name}.parquet"));
        runtime.block_on(at.put(bytes.into())).unwrap();
    }
    let command = |args: &[&str]| {
        let mut command = world.command(args);
        on_s3(&mut command, &moto.endpoint, "curec");
        command.output().unwrap()
    };
    let out = command(&NIGHT);
    expect_code(&out, 0);
    assert_eq!(summary(&out)["status"], "published");
    expect_code(&world.run(&[]), 0);
    assert_eq!(rows(command), rows(|args| world.curec(args)));
    assert_eq!(summary(&command(&NIGHT))["status"], "nothing_to_do");
}

/// A change of a table's published partition. In the path of a request `=` is encoded.
fn is_publish(call: &Call, table: &str) -> bool {
    call.method == "PUT" && call.path.contains(&format!("/{table}/dt")) && !call.path.contains("_staging")
}

/// The manifest of a warehouse's only run.
fn manifest(bucket: &Bucket, warehouse: &str) -> serde_json::Value {
    let all = files(&bucket.world.path("s3/lake").join(warehouse).join("_runs"));
    let path = all.iter().find(|path| path.ends_with("manifest.json")).unwrap();
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn whatever_the_server_does_the_night_ends_well_or_is_simply_run_again() {
    let bucket = Bucket::new();
    let run = |warehouse: &str| bucket.command(&NIGHT, warehouse).args(IMPATIENT).output().unwrap();
    bucket.server.fail(None);
    let out = run("undisturbed");
    expect_code(&out, 0);
    let (undisturbed, requests) = (bucket.published("undisturbed"), bucket.server.requests());
    assert!(undisturbed.len() >= TABLES.len(), "{undisturbed:?}");
    assert!(requests > 60, "{requests} requests are too few to disturb");
    assert_eq!(manifest(&bucket, "undisturbed")["store"]["retries"], 0);

    let is_conditional = |call: &Call| call.is_conditional;
    let is_put = |call: &Call| call.method == "PUT";
    let faults = [
        ("500", Rule::every(7, Fault::Status(500))),
        ("503", Rule::every(5, Fault::Status(503))),
        ("reset-before", Rule::every(6, Fault::ResetBefore)),
        ("reset-after", Rule::every(6, Fault::ResetAfter)),
        ("reset-after-conditional", Rule::every(2, Fault::ResetAfter).of(is_conditional)),
        ("torn-answer", Rule::every(4, Fault::TornAnswer)),
        ("torn-request", Rule::every(3, Fault::TornRequest).of(is_put)),
        ("stall", Rule::every(40, Fault::Stall(Duration::from_secs(10))).at_most(2)),
        ("slow", Rule::every(1, Fault::Slow(Duration::from_millis(15)))),
        // More than the settings allow for: the server is gone after a while.
        ("gone-early", Rule::every(1, Fault::Status(500)).of(|call| call.path.contains("/response/"))),
        ("gone-late", Rule::every(1, Fault::ResetBefore).of(|call| is_publish(call, "item_feature"))),
        ("gone-between", Rule::every(1, Fault::ResetAfter).of(|call| is_publish(call, "user_feature"))),
    ];
    for (name, rule) in faults {
        bucket.server.fail(Some(rule));
        let out = run(name);
        let injected = bucket.server.injected();
        bucket.server.fail(None);
        assert!(injected > 0, "{name}: nothing was disturbed");
        let must_fail = name.starts_with("gone");
        let code = out.status.code();
        assert!(code == Some(75) || (code == Some(0) && !must_fail), "{name}: {code:?} {}", stderr(&out));
        let disturbed = bucket.published(name);
        if code == Some(75) {
            println!("{name}: 75 after {injected} faults");
            // Tables are published one by one: each as a whole or not at all.
            let is_right = |file: &(String, String)| undisturbed.contains(file);
            assert!(disturbed.iter().all(is_right), "{name}: {disturbed:?}");
            assert!(summary(&out)["rerun_helps"].as_bool().unwrap(), "{name}: {}", stdout(&out));
            let again = run(name);
            expect_code(&again, 0);
        } else {
            println!("{name}: 0 with {injected} faults; {}", manifest(&bucket, name)["store"]);
        }
        assert_eq!(bucket.published(name), undisturbed, "{name}");
        let gc = bucket.command(&["gc", "job.toml"], name).output().unwrap();
        expect_code(&gc, 0);
        assert_eq!(bucket.published(name), undisturbed, "{name}: gc took what belongs");
        let staged = files(&bucket.world.path("s3/lake").join(name).join("_staging"));
        assert!(staged.is_empty(), "{name}: {staged:?}");
    }
}

#[test]
fn the_report_counts_what_was_made_again() {
    let bucket = Bucket::new();
    for (name, fault, throttled) in [("a", Fault::Status(500), 0), ("b", Fault::Status(503), 9)] {
        // All of them before the manifest is written.
        bucket.server.fail(Some(Rule::every(5, fault).at_most(9)));
        let out = bucket.run(name);
        expect_code(&out, 0);
        assert_eq!(bucket.server.injected(), 9);
        let store = &manifest(&bucket, name)["store"];
        assert_eq!((store["retries"].as_u64(), store["throttled"].as_u64()), (Some(9), Some(throttled)), "{store}");
        assert!(store["requests"].as_u64().unwrap() > 60, "{store}");
        let report = summary(&out)["report"].as_str().unwrap().replace("s3://lake", "s3/lake");
        let page = std::fs::read_to_string(bucket.world.path(&report)).unwrap();
        assert!(page.contains("made again"), "the report does not tell");
    }
}

#[test]
fn models_on_the_store_are_fetched_once_and_give_the_same_rows() {
    let bucket = Bucket::new();
    let there = bucket.world.path("s3/lake/models");
    for (from, name) in [(bucket.world.path("writer"), "writer"), (fixture("tiny-bert"), "bert")] {
        for file in files(&from) {
            let target = there.join(name).join(file.strip_prefix(&from).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(&file, target).unwrap();
        }
    }
    let cache = bucket.world.path("cache");
    let models = ["--set", "model.generator=s3://lake/models/writer", "--set", "model.encoder=s3://lake/models/bert"];
    let command = |args: &[&str], warehouse: &str| {
        let mut command = bucket.command(args, warehouse);
        command.args(models).env("XDG_CACHE_HOME", &cache);
        command
    };
    // Two nights at once on a cold cache.
    let (first, second) = std::thread::scope(|scope| {
        let runs = ["a", "b"].map(|name| {
            let mut night = command(&NIGHT, name);
            scope.spawn(move || night.output().unwrap())
        });
        let [first, second] = runs.map(|run| run.join().unwrap());
        (first, second)
    });
    expect_code(&first, 0);
    expect_code(&second, 0);
    expect_code(&bucket.run("local-models"), 0);
    assert_eq!(bucket.published("a"), bucket.published("local-models"));
    assert_eq!(bucket.published("b"), bucket.published("local-models"));
    let kept = |root: &std::path::Path| std::fs::read_dir(root.join("curec/models")).unwrap().count();
    assert_eq!(kept(&cache), 2, "{:?}", files(&cache));

    // From the cache; and a query brings its model along on an empty one.
    bucket.server.fail(None);
    expect_code(&command(&NIGHT, "c").output().unwrap(), 0);
    assert_eq!(kept(&cache), 2);
    let query = ["sql", "--job", "job.toml", "--format", "json", "select embed('a') as v"];
    let mut other = command(&query, "a");
    let other_cache = bucket.world.path("other");
    let out = other.env("XDG_CACHE_HOME", &other_cache).output().unwrap();
    expect_code(&out, 0);
    assert_eq!(kept(&other_cache), 1, "{:?}", files(&other_cache));
    let plan = ["plan", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
    let out = command(&plan, "a").output().unwrap();
    expect_code(&out, 0);
    assert!(stdout(&out).contains("up to date"), "{}", stdout(&out));

    // A download that breaks off is a reason to run again, and leaves nothing.
    let torn = bucket.world.path("torn");
    bucket.server.fail(Some(Rule::every(1, Fault::TornAnswer).of(|call| call.path.contains("safetensors"))));
    let mut night = command(&NIGHT, "d");
    let out = night.args(IMPATIENT).env("XDG_CACHE_HOME", &torn).output().unwrap();
    expect_code(&out, 75);
    bucket.server.fail(None);
    assert_eq!(kept(&torn), 0, "{:?}", files(&torn));
    let out = bucket.command(&NIGHT, "e").args(["--set", "model.generator=s3://lake/models/none"]).output().unwrap();
    expect_code(&out, 2);
    assert!(stderr(&out).contains("model.generator") && stderr(&out).contains("there is no model"), "{}", stderr(&out));
}

/// Nothing that was said or written holds a credential.
fn tells_no_secret(bucket: &Bucket, out: &Output, what: &str) {
    let mut told = vec![("output".to_owned(), stdout(out) + &stderr(out))];
    for file in files(&bucket.world.path("s3")) {
        told.push((file.display().to_string(), String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned()));
    }
    for (place, text) in told {
        for secret in [SECRET, KEY, TOKEN, "wrong-secret", "hunter2", "wJalrXUtnFEMI%2F", "SignedHeaders"] {
            assert!(!text.contains(secret), "{what}: {secret} stands in {place}: {text}");
        }
        assert!(!text.contains("panicked"), "{what}: {place}: {text}");
    }
}

#[test]
fn nothing_that_is_said_or_written_holds_a_credential() {
    let bucket = Bucket::new();
    let night = |warehouse: &str, more: &[&str]| {
        let mut command = bucket.command(&NIGHT, warehouse);
        command.args(IMPATIENT).arg("-vv").args(more);
        command
    };
    let out = night("fine", &[]).output().unwrap();
    expect_code(&out, 0);
    tells_no_secret(&bucket, &out, "a good night");

    let mut wrong = night("wrong", &[]);
    let out = wrong.env("AWS_SECRET_ACCESS_KEY", "wrong-secret").output().unwrap();
    expect_code(&out, 2);
    tells_no_secret(&bucket, &out, "wrong credentials");
    assert!(!bucket.world.path("s3/lake/wrong").exists());

    for (i, url) in ["s3://AKIA:hunter2@lake/w", "s3://AKIA:hun/hunter2+@lake/w", "https://u:hunter2@lake/w"]
        .into_iter()
        .enumerate()
    {
        for key in ["warehouse", "input.interaction", "model.generator", "prompt.item", "project.sql"] {
            let out = night("url", &["--set", &format!("{key}={url}")]).output().unwrap();
            expect_code(&out, 2);
            tells_no_secret(&bucket, &out, &format!("URL {i} as {key}"));
        }
    }

    // A server that quotes what it was sent, at the start, in the middle, and when the run is written down.
    for (name, status, concerns) in [
        ("echo-all", 403, (|_| true) as fn(&Call) -> bool),
        ("echo-400", 400, |call| call.path.contains("/response/")),
        ("echo-500", 500, |call| is_publish(call, "item_feature")),
        ("echo-commit", 403, |call| call.is_conditional && call.path.contains("_commit")),
        ("echo-runs", 500, |call| call.path.contains("/_runs/")),
    ] {
        bucket.server.fail(Some(Rule::every(1, Fault::Echo(status)).of(concerns)));
        let mut command = night(name, &[]);
        let out = command.env("AWS_SESSION_TOKEN", TOKEN).output().unwrap();
        assert!(bucket.server.injected() > 0, "{name}: {}", stderr(&out));
        assert!(matches!(out.status.code(), Some(1 | 2 | 75)), "{name}: {:?} {}", out.status.code(), stderr(&out));
        bucket.server.fail(None);
        tells_no_secret(&bucket, &out, name);
    }
}

#[test]
fn settings_of_the_store_are_checked() {
    let world = World::new();
    for (setting, says) in [
        ("store.timeout_seconds=0", "store.timeout_seconds: must be between"),
        ("store.retry_seconds=1000", "store.retry_seconds: must be between"),
        ("project.sql=s3://lake/sql", "project.sql: must be a path on this machine"),
        ("prompt.item=s3://lake/item.j2", "prompt.item: must be a path on this machine"),
    ] {
        let out = world.run(&["--set", setting]);
        expect_code(&out, 2);
        assert!(stderr(&out).contains(says), "{}", stderr(&out));
    }
    let mut command = world.command(&NIGHT);
    let out = command.env("CUREC_FAIL_POINT", "sometimes").output().unwrap();
    expect_code(&out, 2);
    assert!(stderr(&out).contains("CUREC_FAIL_POINT is no fail point"), "{}", stderr(&out));
}
