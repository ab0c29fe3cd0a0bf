//! `curec init` with the real binary: somebody's own logs, the folder that is proposed, and a plan and a night of it.

use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

use crate::common::{World, events, expect_code, fixture, items, stderr, stdout, summary, write};

const DAY: [&str; 4] = ["--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];

/// Keys for the tiny models of the tests.
const TINY: [&str; 26] = [
    "--set",
    "model.device=cpu",
    "--set",
    "model.max_positions=256",
    "--set",
    "model.slots=4",
    "--set",
    "model.max_step_tokens=256",
    "--set",
    "evidence.tokens=240",
    "--set",
    "sampling.max_new_tokens=6",
    "--set",
    "check.language=none",
    "--set",
    "check.min_grounding=0",
    "--set",
    "check.min_words=1",
    "--set",
    "check.min_mean_logprob=-1000",
    "--set",
    "check.require_finished=false",
    "--set",
    "prompt.item=item.j2",
    "--set",
    "prompt.history=history.j2",
];

/// The test log as a shop has it: what was rated well was bought, the rest looked at; whole milliseconds.
fn write_shop(world: &World) {
    let log = events();
    let columns: [(&str, ArrayRef); 4] = [
        ("customer_id", Arc::new(log.iter().map(|e| Some(e.user.as_str())).collect::<StringArray>())),
        ("sku", Arc::new(log.iter().map(|e| Some(e.item.as_str())).collect::<StringArray>())),
        (
            "action",
            Arc::new(
                log.iter()
                    .map(|e| Some(if e.rating == Some(5.0) { "purchase" } else { "view" }))
                    .collect::<StringArray>(),
            ),
        ),
        ("ts", Arc::new(log.iter().map(|e| e.at).collect::<Int64Array>())),
    ];
    write(&world.path("shop/log.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
    let all = items();
    let columns: [(&str, ArrayRef); 3] = [
        ("sku", Arc::new(all.iter().map(|(id, _)| Some(id.as_str())).collect::<StringArray>())),
        ("name", Arc::new(all.iter().map(|(_, title)| title.clone()).collect::<StringArray>())),
        ("colour", Arc::new(all.iter().map(|_| Some("red")).collect::<StringArray>())),
    ];
    write(&world.path("shop/items.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
}

/// `curec init` with the tests' models.
fn init(world: &World, more: &[&str]) -> std::process::Output {
    let (writer, encoder) = (world.path("writer").display().to_string(), fixture("tiny-bert").display().to_string());
    // Whatever the clock of the machine says.
    world.curec(&[&["init", "--at", "2026-06-01", "--generator", &writer, "--encoder", &encoder], more].concat())
}

#[test]
fn a_shops_log_becomes_a_job_that_runs() {
    let world = World::new();
    write_shop(&world);
    let out = init(&world, &["--interactions", "shop/log.parquet", "--items", "shop/items.parquet", "mine"]);
    expect_code(&out, 0);
    let said = stdout(&out);
    for part in
        ["customer_id", "ms since 1970", "purchase", "implicit feedback", "curec check", "curec plan", "2026-01-20"]
    {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    let schedules = [
        "nightly.cron",
        "nightly.logrotate",
        "nightly_dag.py",
        "nightly_pod_dag.py",
        "systemd/curec-mine.service",
        "systemd/curec-mine.timer",
        "kubernetes/nightly.yaml",
    ];
    for file in ["job.toml", "README.md", "prompts/item.j2", "prompts/history.j2"].iter().chain(&schedules) {
        assert!(world.path("mine").join(file).exists(), "{file}");
    }
    // What names a folder names the job's own.
    for file in schedules.iter().filter(|file| !file.ends_with(".logrotate") && !file.ends_with(".timer")) {
        let text = std::fs::read_to_string(world.path("mine").join(file)).unwrap();
        assert!(
            text.contains(&*world.path("mine").to_string_lossy()) && !text.contains("/opt/curec"),
            "{file}: {text}"
        );
    }
    let job = std::fs::read_to_string(world.path("mine/job.toml")).unwrap();
    for part in ["\nitem_id = \"sku\"\n", "\ntitle = \"name\"\n", "\npurchase = \"like\"\n", "# colour = \"Colour\"\n"]
    {
        assert!(job.contains(part), "{part:?} is not in: {job}");
    }
    let of = |command: &str| world.curec(&[&[command, "mine/job.toml"], &DAY[..], &TINY[..]].concat());
    let plan = of("plan");
    expect_code(&plan, 0);
    assert!(stdout(&plan).contains("user_history"), "{}", stdout(&plan));
    let run = of("run");
    expect_code(&run, 0);
    assert_eq!(summary(&run)["status"], "published");
    let told = world.curec(&[
        "sql",
        "--job",
        "mine/job.toml",
        "--format",
        "json",
        "select sum(n_likes) as likes, sum(n_dislikes) as dislikes from item_audience",
    ]);
    expect_code(&told, 0);
    let told: serde_json::Value = serde_json::from_str(stdout(&told).trim()).unwrap();
    assert!(told["likes"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(told["dislikes"], 0, "a view is no dislike");

    // Nothing that is there is written over.
    let again = init(&world, &["--interactions", "shop/log.parquet", "mine"]);
    expect_code(&again, 2);
    assert!(stderr(&again).contains("holds something"), "{}", stderr(&again));
    assert_eq!(std::fs::read_to_string(world.path("mine/job.toml")).unwrap(), job);
}

#[test]
fn its_schedules_are_read_by_the_programs_that_they_are_for() {
    let world = World::new();
    write_shop(&world);
    let folder = "my 100% \"job\"";
    expect_code(&init(&world, &["--interactions", "shop/log.parquet", folder]), 0);
    let of = |file: &str| world.path(folder).join(file).display().to_string();
    let (service, timer) = (of("systemd/curec-my-100---job.service"), of("systemd/curec-my-100---job.timer"));
    match Command::new("systemd-analyze").args(["verify", &service, &timer]).output() {
        Err(_) => println!("skipped: systemd-analyze is not installed"),
        Ok(out) => {
            // Other units of this machine that it looks at on the way may have faults of theirs.
            let told = format!("{}{}", stdout(&out), stderr(&out));
            assert!(out.status.success() && !told.contains("curec"), "{told}");
        }
    }
    let python = std::env::var_os("CUREC_PYTHON").unwrap_or_else(|| "python3".into());
    let run = |args: &[&str]| Command::new(&python).args(args).output();
    let parse = "import ast, sys; [ast.parse(open(name, encoding='utf-8').read()) for name in sys.argv[1:]]";
    match run(&["-c", parse, &of("nightly_dag.py"), &of("nightly_pod_dag.py")]) {
        Err(_) => println!("skipped: no python3"),
        Ok(out) => assert!(out.status.success(), "{}", stderr(&out)),
    }
    if !run(&["-c", "import kubernetes_validate"]).is_ok_and(|out| out.status.success()) {
        println!("skipped: no Python with kubernetes-validate (CUREC_PYTHON; ci/test.sh makes one)");
        return;
    }
    let validated = run(&["-m", "kubernetes_validate", "--strict", &of("kubernetes/nightly.yaml")]).unwrap();
    let told = stdout(&validated);
    assert!(validated.status.success() && told.contains("passed for resource cronjob/curec-my-100---job"), "{told}");
}

#[test]
fn a_csv_log_without_items_is_imported_and_planned() {
    let world = World::new();
    let lines: String =
        events().iter().map(|e| format!("{};{};{};{}\n", e.user, e.item, e.rating.unwrap(), e.at.unwrap())).collect();
    std::fs::write(world.path("log.csv"), format!("uid;movieId;stars;time\n{lines}")).unwrap();
    // An empty folder is as good as none.
    std::fs::create_dir(world.path("mine")).unwrap();
    let out = init(&world, &["--interactions", "log.csv", "--edit", "sql", "mine"]);
    expect_code(&out, 0);
    let said = stdout(&out);
    assert!(said.contains("4 and more are likes"), "{said}");
    let command = said.lines().map(str::trim).find(|line| line.starts_with("curec import csv")).unwrap().to_owned();
    for part in ["user_id=uid", "item_id=movieId", "event_timestamp=time", "time_unit=ms", "separator=;"] {
        assert!(command.contains(part), "{part:?} is not in: {command}");
    }
    let of = |file: &str| world.path("mine").join(file);
    assert!(of("sql/opinion.sql").exists() && of("sql/queries/cost.sql").exists() && of("schemas/item.toml").exists());
    // The line that is printed, but that a shell would have to quote.
    let words: Vec<String> = command.split(' ').skip(1).map(|word| word.trim_matches('"').to_owned()).collect();
    expect_code(&world.curec(&words.iter().map(String::as_str).collect::<Vec<_>>()), 0);
    let plan = world.curec(&[&["plan", "mine/job.toml"], &DAY[..], &TINY[..]].concat());
    expect_code(&plan, 0);
    let config = world.curec(&["config", "mine/job.toml"]);
    expect_code(&config, 0);
    assert!(stdout(&config).contains("like_threshold = 4.0"), "{}", stdout(&config));
}

#[test]
fn what_cannot_be_told_or_read_is_said() {
    let world = World::new();
    // Two columns fit alike, and a name steers the terminal.
    let columns: [(&str, ArrayRef); 4] = [
        ("user", Arc::new(StringArray::from(vec!["a"]))),
        ("customer\u{1b}[2J", Arc::new(StringArray::from(vec!["a"]))),
        ("uid", Arc::new(StringArray::from(vec!["a"]))),
        ("sku", Arc::new(StringArray::from(vec!["b"]))),
    ];
    write(&world.path("odd/dt=2026-01-20/log.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
    let out = init(&world, &["--interactions", "odd", "odd-job"]);
    expect_code(&out, 0);
    let said = stdout(&out);
    assert!(said.contains("UNDECIDED: user, uid fit alike"), "{said}");
    assert!(said.contains("no column has a name like it") && !said.contains('\u{1b}'), "{said}");
    let job = std::fs::read_to_string(world.path("odd-job/job.toml")).unwrap();
    assert!(job.contains("# user_id = \"uid\"\n") && job.contains("\nitem_id = \"sku\"\n"), "{job}");
    expect_code(&world.curec(&["config", "odd-job/job.toml"]), 0);

    // JSON lines are converted first; what is not there is named.
    std::fs::write(world.path("log.jsonl"), "{\"user\":1,\"item\":2,\"ts\":1768867200,\"event\":\"play\"}\n").unwrap();
    let out = init(&world, &["--interactions", "log*.jsonl", "json-job"]);
    expect_code(&out, 0);
    assert!(stdout(&out).contains("duckdb -c \"COPY (FROM read_json("), "{}", stdout(&out));
    let out = init(&world, &["--interactions", "nowhere.csv", "no-job"]);
    expect_code(&out, 2);
    let told = stderr(&out);
    assert!(told.contains("nowhere.csv") && told.contains("check --interactions"), "{told}");
    assert!(!told.contains("job file") && !world.path("no-job").exists(), "{told}");
}

#[test]
fn a_column_of_another_type_does_not_stop_the_job() {
    let world = World::new();
    write_shop(&world);
    let all = items();
    let texts = |value: &str| Arc::new(all.iter().map(|_| Some(value)).collect::<StringArray>()) as ArrayRef;
    let columns: [(&str, ArrayRef); 3] = [
        ("sku", Arc::new(all.iter().map(|(id, _)| Some(id.as_str())).collect::<StringArray>())),
        ("title", texts("T")),
        // The contract wants a list.
        ("categories", texts("a|b")),
    ];
    write(&world.path("shop/typed.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
    let out = init(&world, &["--interactions", "shop/log.parquet", "--items", "shop/typed.parquet", "mine"]);
    expect_code(&out, 0);
    assert!(stdout(&out).contains("not read until then"), "{}", stdout(&out));
    let job = std::fs::read_to_string(world.path("mine/job.toml")).unwrap();
    assert!(job.contains("\ncategories = \"\"\n"), "{job}");
    expect_code(&world.curec(&[&["plan", "mine/job.toml"], &DAY[..], &TINY[..]].concat()), 0);
}
