//! What several runs leave together: usage across kills, failed prompts, late and corrected data, `curec runs`.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{Event, World, events, expect_code, january, stderr, stdout, summary, write_events};
use serde_json::Value;

/// Files of a folder, sorted; none where there is no folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn usage_adds_up_over_a_kill() {
    let run = ["run", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
    let slow = ["--set", "sampling.max_new_tokens=100", "--set", "model.slots=1", "--set", "response.flush_rows=1"];
    let undisturbed = World::new();
    let out = undisturbed.command(&run).args(slow).output().unwrap();
    expect_code(&out, 0);
    let whole = summary(&out);
    let all = &whole["usage_all"];
    for (of_all, of_run) in
        [("answered", "generated"), ("prompt_tokens", "prompt_tokens"), ("completion_tokens", "completion_tokens")]
    {
        assert_eq!(all[of_all], whole[of_run], "{of_all}: {whole}");
    }
    assert_eq!((&all["runs"], &all["failed_attempts"], &whole["failed_prompts"]), (&1.into(), &0.into(), &0.into()));
    let seconds = all["seconds"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds <= whole["seconds"].as_f64().unwrap(), "{whole}");

    let world = World::new();
    let mut child = world.command(&run).args(slow).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while files(&world.path("warehouse/response")).len() < 3 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "the run had ended before it was killed");
    let out = world.command(&run).args(slow).output().unwrap();
    expect_code(&out, 0);
    let after = summary(&out);
    let (this, paid) = (after["completion_tokens"].as_u64().unwrap(), after["usage_all"]["completion_tokens"].as_u64());
    assert!(this > 0 && Some(this) < paid, "the kill did not come in the middle: {after}");
    for key in ["answered", "prompt_tokens", "completion_tokens", "failed_attempts"] {
        assert_eq!(after["usage_all"][key], all[key], "{key}: {after}");
    }
    assert_eq!(after["usage_all"]["runs"], 2, "{after}");
    assert!(after["usage_all"]["seconds"].as_f64().unwrap() > 0.0, "{after}");
    assert_eq!(world.published(), undisturbed.published());
    let report = std::fs::read_to_string(after["report"].as_str().unwrap()).unwrap();
    assert!(report.contains("whichever run paid (2 run(s))"), "the report does not tell of the other run");

    // Both that paid can be looked up; the killed one could not say how it ended.
    for row in world.sql("select distinct run_id from response order by run_id") {
        let id = row["run_id"].as_str().unwrap();
        let shown = world.curec(&["runs", "show", "job.toml", id, "--json"]);
        expect_code(&shown, 0);
        let shown: Value = serde_json::from_str(&stdout(&shown)).unwrap();
        let expected = if id == after["run_id"] { "published" } else { "running" };
        assert_eq!(shown["status"], expected, "{shown}");
    }
}

#[test]
fn segments_of_before_the_usage_columns_are_read() {
    let world = World::new();
    expect_code(&world.run(&[]), 0);
    let published = world.published();
    for file in files(&world.path("warehouse/response")) {
        let reader =
            parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&file).unwrap());
        let batch = reader.unwrap().build().unwrap().next().unwrap().unwrap();
        let kept: Vec<usize> = (0..batch.num_columns())
            .filter(|i| !["run_id", "seconds"].contains(&batch.schema().field(*i).name().as_str()))
            .collect();
        assert_eq!(kept.len() + 2, batch.num_columns());
        common::write(&file, &batch.project(&kept).unwrap());
    }
    let out = world.run(&["--full"]);
    expect_code(&out, 0);
    let all = &summary(&out)["usage_all"];
    assert_eq!(summary(&out)["generated"], 0);
    assert!(all["completion_tokens"].as_u64().unwrap() > 0, "{all}");
    assert_eq!((&all["runs"], all["seconds"].as_f64()), (&0.into(), Some(0.0)), "{all}");
    assert_eq!(world.published(), published);
}

/// A world whose item prompts are the bare titles, some of them poisoned: one too long, three that say nothing.
fn poisoned() -> World {
    let world = World::new();
    let mut items = common::items();
    items[0].1 = Some("zq9 ".repeat(250));
    items[1].1 = Some("<|im_end|>".into());
    items[2].1 = Some("<|im_end|><|im_end|>".into());
    items[3].1 = Some("\u{200b}\u{202e}".into());
    common::write_items(&world.path("input/item.parquet"), &items);
    std::fs::write(world.path("item.j2"), "=== user\n{{ subject or 'nothing' }}\n=== assistant\nIt\n").unwrap();
    std::fs::write(world.path("history.j2"), "=== user\nOf {{ attributes | join }}\n=== assistant\nThe user\n")
        .unwrap();
    world
}

#[test]
fn poisoned_prompts_are_typed_errors_and_tried_again_when_asked() {
    let world = poisoned();
    let half = ["--set", "history.title_chars=1000", "--set", "budget.max_failed_fraction=0.5"];
    let run = |more: &[&str]| {
        let out = world.run(&[&half[..], more].concat());
        expect_code(&out, 0);
        summary(&out)
    };
    let first = run(&[]);
    assert_eq!((&first["failed"], &first["failed_prompts"]), (&3.into(), &3.into()), "{first}");
    let errors = world.sql(
        "select r.item_id, r.error, p.error_detail from reason as r join response as p on p.prompt_key = r.prompt_key \
         where r.error is not null order by r.item_id",
    );
    let codes: Vec<&str> = errors.iter().map(|row| row["error"].as_str().unwrap()).collect();
    assert_eq!(codes, ["empty", "empty", "empty"], "{errors:?}");
    // A title that is too long is shortened and fails nothing. Of the others the categories are known.
    let sources = world.sql("select source from item_feature where item_id <= 'i03' order by item_id");
    let sources: Vec<&str> = sources.iter().map(|row| row["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["reason", "evidence", "evidence", "evidence"]);

    // Nothing else has changed: the night is done, and says what is open.
    let again = run(&[]);
    assert_eq!((&again["status"], &again["failed_prompts"]), (&"nothing_to_do".into(), &3.into()), "{again}");
    let plan = |more: &[&str]| {
        let args = ["plan", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
        let out = world.curec(&[&args[..], &half, more].concat());
        expect_code(&out, 0);
        stdout(&out)
    };
    assert!(plan(&[]).contains("3 prompt(s) failed and have no reason; run --retry-failed"), "{}", plan(&[]));
    assert!(plan(&["--full"]).contains("3 prompt(s) failed before and are tried again"), "{}", plan(&["--full"]));
    let json: Value = serde_json::from_str(&plan(&["--json"])).unwrap();
    assert_eq!(json["failed_prompts"], 3, "{json}");

    // Whoever builds the reasons again tries them again. Alone they are over the budget, of all prompts they are not.
    for (flag, attempts) in [("--full", 6), ("--retry-failed", 9)] {
        let again = run(&[flag]);
        assert_eq!((&again["generated"], &again["failed"]), (&0.into(), &3.into()), "{flag}: {again}");
        assert_eq!(again["usage_all"]["failed_attempts"], attempts, "{flag}: {again}");
        assert_eq!(again["usage_all"]["prompt_tokens"], first["prompt_tokens"], "{flag}: {again}");
    }

    common::write_items(&world.path("input/item.parquet"), &common::items());
    assert_eq!(run(&[])["failed_prompts"], 0);
    let shown = stdout(&world.curec(&["runs", "show", "job.toml", "latest"]));
    assert!(!shown.contains("--retry-failed"), "{shown}");
}

#[test]
fn the_budget_counts_rows_while_the_run_goes_on() {
    let world = poisoned();
    let set = ["--set", "history.title_chars=1000", "--set", "budget.max_failed_fraction=1.0"];
    let out = world.run(&[&set[..], &["--set", "budget.max_failed_rows=2"]].concat());
    expect_code(&out, 1);
    assert!(stderr(&out).contains("failure budget") && stderr(&out).contains("empty: "), "{}", stderr(&out));
    assert!(world.published().is_empty());
    let failed = world.sql("select count(*) as n from response where error is not null")[0]["n"].as_u64();
    assert_eq!(failed, Some(3), "the run did not stop at the row that was too much");
    expect_code(&world.run(&[&set[..], &["--set", "budget.max_failed_rows=4"]].concat()), 0);
}

/// A world whose log is a Hive partition a day, and commands on its nights.
struct Days(World);

impl Days {
    fn write(&self, day: i64, events: &[Event]) {
        write_events(&self.0.path(&format!("input/days/dt=2026-01-{day:02}/log.parquet")), events);
    }

    fn of(day: i64) -> Vec<Event> {
        let range = january(day, 0)..january(day + 1, 0);
        events().into_iter().filter(|e| range.contains(&e.at.unwrap())).collect()
    }

    fn command(&self, command: &str, day: i64, more: &[&str]) -> Output {
        let (start, end) = (format!("2026-01-{day:02}"), format!("2026-01-{:02}", day + 1));
        let set = format!("input.interaction={}", self.0.path("input/days").display());
        let args = [command, "job.toml", "--interval-start", &start, "--interval-end", &end, "--set", &set];
        self.0.curec(&[&args[..], more].concat())
    }

    fn run(&self, day: i64, more: &[&str]) -> Value {
        let out = self.command("run", day, more);
        expect_code(&out, 0);
        summary(&out)
    }

    /// Published files of a day with their digests.
    fn published(&self, day: i64) -> Vec<(String, String)> {
        let dt = format!("dt=2026-01-{day:02}");
        self.0.published().into_iter().filter(|(name, _)| name.contains(&dt)).collect()
    }
}

/// The days that were looked back at: (day of the month, status).
fn looked(summary: &Value) -> Vec<(&str, &str)> {
    fn one(day: &Value) -> (&str, &str) {
        (&day["dt"].as_str().unwrap()["2026-01-".len()..], day["status"].as_str().unwrap())
    }
    summary["lookback"].as_array().unwrap().iter().map(one).collect()
}

#[test]
fn a_day_whose_log_came_after_its_night_is_made_up_for_where_the_job_allows_it() {
    let days = Days(World::new());
    (1..=18).for_each(|day| days.write(day, &Days::of(day)));
    assert_eq!(days.run(18, &[])["status"], "published");
    // The log of the 19th is late: nothing is published, run it again.
    let out = days.command("run", 19, &[]);
    expect_code(&out, 75);
    assert_eq!((&summary(&out)["status"], &summary(&out)["rerun_helps"]), (&"not_arrived".into(), &true.into()));
    let missing = ["--lookback", "2", "--set", "interval.lookback_missing=true"];
    days.write(20, &Days::of(20));
    // It has still not come the night after: that night is published all the same.
    let done = days.run(20, &missing);
    assert_eq!(
        (&done["status"], looked(&done)),
        (&"published".into(), vec![("18", "up_to_date"), ("19", "not_arrived")])
    );
    days.write(19, &Days::of(19));
    assert_eq!(looked(&days.run(20, &["--lookback", "2"])), [("18", "up_to_date"), ("19", "not_published")]);
    let plan = stdout(&days.command("plan", 20, &missing));
    assert!(plan.contains("looking back, job test for dt=2026-01-19"), "{plan}");
    let done = days.run(20, &missing);
    assert_eq!(looked(&done), [("18", "up_to_date"), ("19", "published")]);
    assert!(!days.published(19).is_empty());
    assert_eq!(looked(&days.run(20, &missing)), [("18", "up_to_date"), ("19", "up_to_date")]);

    // A week that was published for the day stays: it is no day that is missing.
    let set = format!("input.interaction={}", days.0.path("input/days").display());
    let week = ["run", "job.toml", "--interval-start", "2026-01-10", "--interval-end", "2026-01-17", "--set", &set];
    expect_code(&days.0.curec(&week), 0);
    let week = days.published(10);
    let done = days.run(11, &["--lookback", "1", "--set", "interval.lookback_missing=true"]);
    assert_eq!(looked(&done), [("10", "not_published")]);
    assert_eq!(days.published(10), week);
}

#[test]
fn a_lookback_builds_what_late_and_corrected_rows_have_changed() {
    let days = Days(World::new());
    (1..=16).for_each(|day| days.write(day, &Days::of(day)));
    // Night after night: a new day's log leaves the days before it alone.
    for day in 17..=20 {
        days.write(day, &Days::of(day));
        let done = days.run(day, &["--lookback", "3"]);
        assert_eq!(done["status"], "published");
        let changed = looked(&done).iter().filter(|(_, s)| !["up_to_date", "not_published"].contains(s)).count();
        assert_eq!((looked(&done).len(), changed), (3, 0), "{done}");
    }
    let done = days.run(20, &[]);
    assert_eq!((&done["status"], &done["lookback"]), (&"nothing_to_do".into(), &Value::Array(Vec::new())));

    // The same content written again is no change.
    days.write(18, &Days::of(18));
    let done = days.run(20, &["--set", "interval.lookback_days=3"]);
    assert_eq!(looked(&done), [("17", "up_to_date"), ("18", "up_to_date"), ("19", "up_to_date")]);
    expect_code(&days.command("run", 20, &["--lookback", "3", "--skip-exit-code"]), 99);

    // A row that arrives late.
    let mut late = Days::of(18);
    late.push(Event { user: "u00".into(), item: "i17".into(), rating: Some(5.0), at: Some(january(18, 23)) });
    days.write(18, &late);
    let before: Vec<_> = (17..=20).map(|day| days.published(day)).collect();
    let plan = stdout(&days.command("plan", 20, &["--lookback", "3"]));
    assert!(plan.contains("looking back, dt=2026-01-17 is up to date"), "{plan}");
    assert!(plan.contains("looking back, job test for dt=2026-01-18") && plan.contains("input interaction"), "{plan}");
    let json = stdout(&days.command("plan", 20, &["--lookback", "3", "--json"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["lookback"][1]["tables"][0]["build"], true, "{json}");
    assert_eq!(days.run(20, &["--lookback", "0"])["lookback"], Value::Array(Vec::new()));
    let done = days.run(20, &["--lookback", "3"]);
    assert_eq!(looked(&done), [("17", "up_to_date"), ("18", "published"), ("19", "published")]);
    assert_eq!(done["lookback"][1]["why"]["user_history"][0], "input interaction changed", "{done}");
    let after: Vec<_> = (17..=20).map(|day| days.published(day)).collect();
    assert_eq!(after[0], before[0], "a day before the late row was touched");
    assert!((1..4).all(|i| after[i] != before[i]));
    // Each is a run of its own.
    let listed = stdout(&days.0.curec(&["runs", "list", "job.toml", "--json"]));
    let id = &done["lookback"][1]["run_id"];
    let run: Value =
        listed.lines().map(|l| serde_json::from_str(l).unwrap()).find(|r: &Value| r["run_id"] == *id).unwrap();
    assert_eq!(run["interval_start"], "2026-01-18T00:00:00+00:00", "{listed}");

    // A corrected rating of an old day: what lies in the lookback is mended, what lies before it stays.
    let mut corrected = Days::of(3);
    corrected[0].rating = Some(1.0);
    days.write(3, &corrected);
    let before: Vec<_> = (17..=20).map(|day| days.published(day)).collect();
    let done = days.run(20, &["--lookback", "2"]);
    assert_eq!(looked(&done), [("18", "published"), ("19", "published")]);
    assert_eq!(done["status"], "published");
    assert_eq!(days.published(17), before[0]);
    let mended: Vec<_> = (18..=20).map(|day| days.published(day)).collect();

    // As if it had always been so.
    std::fs::rename(days.0.path("warehouse"), days.0.path("before")).unwrap();
    for day in 18..=20 {
        days.run(day, &[]);
    }
    assert_eq!((18..=20).map(|day| days.published(day)).collect::<Vec<_>>(), mended);
}

#[test]
fn a_day_that_fails_does_not_keep_the_others_from_being_built() {
    let days = Days(World::new());
    (1..=20).for_each(|day| days.write(day, &Days::of(day)));
    days.run(18, &[]);
    days.run(19, &[]);
    // An audit that only the rows of the 18th fail; a changed contract makes every day out of date.
    let schemas = days.0.path("schemas");
    std::fs::create_dir(&schemas).unwrap();
    for file in files(&common::project().join("schemas")) {
        std::fs::copy(&file, schemas.join(file.file_name().unwrap())).unwrap();
    }
    let contract = schemas.join("user_feature.toml");
    let text = std::fs::read_to_string(&contract).unwrap();
    let audit = "[[audit]]\nname = \"not_the_18th\"\nseverity = \"error\"\ndescription = \"A test.\"\n\
                 sql = \"select * from this where cast(created_timestamp as varchar) like '2026-01-19%'\"\n\n[writer]";
    std::fs::write(&contract, text.replacen("[writer]", audit, 1)).unwrap();
    let set = format!("project.schemas={}", schemas.display());
    let old = days.published(18);
    let metrics = days.0.path("test.prom");
    let watch = format!("watch.prometheus_file={}", metrics.display());
    let out = days.command("run", 20, &["--lookback", "3", "--set", &set, "--set", &watch]);
    expect_code(&out, 1);
    let done = summary(&out);
    // The metrics are of the interval itself, but for the exit code.
    let told = std::fs::read_to_string(&metrics).unwrap();
    for part in
        ["exit_status{curec_job=\"test\"} 1\n", "interval_end_timestamp_seconds{curec_job=\"test\"} 1768953600\n"]
    {
        assert!(told.contains(part) && told.contains("curec_last_success_timestamp_seconds{"), "{told}");
    }
    assert_eq!(looked(&done), [("17", "not_published"), ("18", "audit"), ("19", "published")], "{}", stderr(&out));
    assert_eq!(done["status"], "published");
    assert!(done["lookback"][1]["error"].as_str().unwrap().contains("not_the_18th"), "{done}");
    assert!(stderr(&out).contains("looking back at dt=2026-01-18"), "{}", stderr(&out));
    assert_eq!(days.published(18), old);
    assert!(!days.published(20).is_empty());
    // The interval's own error comes first.
    let out = days.command("run", 20, &["--lookback", "3", "--set", &set, "--set", "model.generator=nowhere"]);
    expect_code(&out, 2);
    assert_eq!(summary(&out)["status"], "model");
    expect_code(&days.command("run", 20, &["--lookback", "4000"]), 2);
}

#[test]
fn partitions_later_than_late_days_are_not_read() {
    let days = Days(World::new());
    (1..=20).for_each(|day| days.write(day, &Days::of(day)));
    days.run(20, &[]);
    // An event of the 20th that was filed under the 23rd, two days after the interval's end.
    let filed = Event { user: "u00".into(), item: "i17".into(), rating: Some(5.0), at: Some(january(20, 23)) };
    days.write(23, &[filed]);
    assert_eq!(days.run(20, &[])["status"], "nothing_to_do");
    assert_eq!(days.run(20, &["--set", "input.late_days=2"])["status"], "published");
}

#[test]
fn runs_are_listed_shown_and_compared() {
    let world = World::new();
    let runs = |args: &[&str]| {
        let out = world.curec(&[&["runs"], args].concat());
        expect_code(&out, 0);
        stdout(&out)
    };
    assert_eq!(runs(&["list", "job.toml", "--json"]), "", "nothing has run");
    let first = summary(&world.run(&[]));
    let second = summary(&world.run(&["--set", "check.max_words=50"]));
    let [first, second] = [&first, &second].map(|s| s["run_id"].as_str().unwrap().to_string());
    // A run whose input is missing, and one whose setting holds a credential: both leave a manifest, without it.
    let out = world.run(&["--set", "input.item=nowhere/nowhere.parquet"]);
    expect_code(&out, 1);
    let out = world.run(&["--set", "input.review=s3://key:a-sec/ret@bucket/x"]);
    expect_code(&out, 2);

    let listed: Vec<Value> =
        runs(&["list", "job.toml", "--json"]).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let statuses: Vec<&str> = listed.iter().map(|r| r["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["config", "input", "published", "published"], "{listed:?}");
    assert_eq!((&listed[2]["run_id"], &listed[3]["run_id"]), (&second.as_str().into(), &first.as_str().into()));
    assert_eq!((&listed[3]["reasons"], &listed[2]["generated"]), (&42.into(), &0.into()), "{listed:?}");
    assert!(listed[1]["error"].as_str().unwrap().contains("nowhere.parquet"), "{listed:?}");
    let text = runs(&["list", "job.toml", "--limit", "3"]);
    assert_eq!(text.lines().count(), 1 + 3, "{text}");
    let status_at = text.find("status").unwrap();
    assert!(text.lines().nth(3).unwrap()[status_at..].starts_with("published"), "columns are not aligned:\n{text}");
    let latest = runs(&["show", "job.toml", "latest", "--json"]);
    assert!(!latest.contains("a-sec") && !stderr(&out).contains("a-sec"), "a credential was written: {latest}");

    let shown = runs(&["show", "job.toml", &second]);
    assert!(shown.contains("settings [check] changed") && shown.contains("all runs"), "{shown}");
    let shown: Value = serde_json::from_str(&runs(&["show", "job.toml", &second, "--json"])).unwrap();
    assert_eq!(shown["settings"]["check.max_words"], "50");

    let text = runs(&["diff", "job.toml", &first, &second]);
    let line =
        |what: &str| text.lines().find(|l| l.starts_with(what)).unwrap_or_else(|| panic!("no {what} in\n{text}"));
    assert!(line("settings.check.max_words").ends_with("50"), "{text}");
    line("tables.reason_score.parts.settings [check]");
    line("tables.reason_score.fingerprint");
    line("stages.generate.seconds");
    let same =
        |l: &str| l.starts_with("tables.reason_prompt.parts") || l.starts_with("inputs.") || l.contains("started_at");
    assert!(!text.lines().any(same), "{text}");
    let json: Value = serde_json::from_str(&runs(&["diff", "job.toml", &first, &second, "--json"])).unwrap();
    assert_eq!((&json["a"], &json["b"]), (&first.as_str().into(), &second.as_str().into()));

    let ambiguous = world.curec(&["runs", "show", "job.toml", "test-"]);
    expect_code(&ambiguous, 2);
    assert!(stderr(&ambiguous).contains("4 runs begin with") && stderr(&ambiguous).contains(&first));
    expect_code(&world.curec(&["runs", "diff", "job.toml", "latest", "absent"]), 2);
    std::fs::write(world.path(&format!("warehouse/_runs/{first}/manifest.json")), "{\"format\": 1").unwrap();
    let out = world.curec(&["runs", "list", "job.toml"]);
    expect_code(&out, 0);
    assert!(stdout(&out).lines().last().unwrap().contains("damaged"), "{}", stdout(&out));
    assert!(stderr(&out).contains(&first), "no warning: {}", stderr(&out));
    expect_code(&world.curec(&["runs", "show", "job.toml", &first]), 1);
}
