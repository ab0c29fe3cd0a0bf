//! `curec forget`: a user leaves no trace, whatever the id holds; killed half way it completes; others stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::common;
use crate::common::{Event, World, expect_code, january, stderr, stdout, summary};
use crate::s3::{Bucket, Call, Fault, Rule};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Quotes, SQL, markup, a pattern, another script: an id can hold anything.
const EVIL: &str = "O'Brien\"; drop table user_history; -- <b>&amp; %_ \u{fc}\u{2603} \\";
/// Begins like the other one, and stays.
const LONGER: &str = "O'Brien\"; drop table user_history; -- <b>&amp; %_ \u{fc}\u{2603} \\x";
const NAMING: [&str; 5] = ["user_history", "reason_prompt", "reason", "reason_score", "user_feature"];

/// Five users; [`EVIL`] comes on day 12, likes what `twin` likes until day 16, and goes on alone.
fn log() -> Vec<Event> {
    let event = |user: &str, item: i64, rating: f32, day, hour| Event {
        user: user.into(),
        item: format!("i{item:02}"),
        rating: Some(rating),
        at: Some(january(day, hour)),
    };
    let mut all = Vec::new();
    for (u, user) in ["u00", "u01", LONGER].into_iter().enumerate() {
        for n in 0..12 {
            let item = (u as i64 * 5 + n * 7) % 18;
            let rating = if (item + u as i64) % 2 == 0 { 5.0 } else { 2.0 };
            all.push(event(user, item, rating, 1 + (n * 19 + u as i64) % 20, 3));
        }
        // Everybody is there on every day that is run.
        for day in [10, 16, 20] {
            all.push(event(user, (u as i64 * 3 + day) % 18, 4.0, day, 5));
        }
    }
    for user in [EVIL, "twin"] {
        for (n, day) in [12, 13, 14, 16].into_iter().enumerate() {
            all.push(event(user, 2 * n as i64, 5.0, day, 7));
        }
    }
    all.push(event(EVIL, 9, 5.0, 18, 7));
    all.push(event(EVIL, 11, 5.0, 20, 7));
    all.push(event("twin", 13, 5.0, 20, 7));
    all
}

const DAYS: [&str; 3] = ["2026-01-10", "2026-01-16", "2026-01-20"];

fn on_day(world: &World, command: &str, dt: &str, more: &[&str]) -> std::process::Output {
    let end = chrono::NaiveDate::parse_from_str(dt, "%Y-%m-%d").unwrap().succ_opt().unwrap().to_string();
    let mut args = vec![command, "job.toml", "--interval-start", dt, "--interval-end", &end];
    args.extend(more);
    world.curec(&args)
}

/// Three days published, one segment an answer.
fn world() -> World {
    let world = World::new();
    common::write_events(&world.path("input/interaction.parquet"), &log());
    for dt in DAYS {
        expect_code(&on_day(&world, "run", dt, &["--set", "response.flush_rows=1"]), 0);
    }
    world
}

fn forget(world: &World, more: &[&str]) -> std::process::Output {
    let mut args = vec!["forget", "job.toml", "--user-id", EVIL];
    args.extend(more);
    world.curec(&args)
}

fn files(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flat_map(|e| {
            let path = e.unwrap().path();
            if path.is_dir() { files(&path) } else { vec![path] }
        })
        .collect();
    found.sort();
    found
}

/// Every file below a folder with its bytes' digest.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let name = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    files(root).iter().map(|p| (name(p), blake3::hash(&std::fs::read(p).unwrap()).to_hex().to_string())).collect()
}

/// The texts of all top-level columns of a Parquet file.
fn texts(path: &Path) -> BTreeSet<String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap().build().unwrap();
    let mut found = BTreeSet::new();
    for batch in reader.map(Result::unwrap) {
        for column in batch.columns().iter().filter(|c| c.data_type() == &DataType::Utf8) {
            found.extend(column.as_string::<i32>().iter().flatten().map(str::to_string));
        }
    }
    found
}

/// Files that name [`EVIL`]: Parquet by its values, everything else by its text.
fn traces(root: &Path) -> Vec<PathBuf> {
    let quoted = |id: &str| {
        let json = serde_json::to_string(id).unwrap();
        let html = minijinja::HtmlEscape(id).to_string();
        [id.to_string(), json[1..json.len() - 1].to_string(), html]
    };
    let is_named = |text: &str| {
        let text = quoted(LONGER).iter().fold(text.to_string(), |text, longer| text.replace(longer, ""));
        quoted(EVIL).iter().any(|form| text.contains(form))
    };
    let names = |path: &PathBuf| match path.extension().is_some_and(|e| e == "parquet") {
        true => texts(path).iter().any(|text| is_named(text)),
        false => is_named(&String::from_utf8_lossy(&std::fs::read(path).unwrap())),
    };
    files(root).into_iter().filter(names).collect()
}

fn keys(world: &World, query: &str) -> BTreeSet<String> {
    world.sql(query).iter().map(|row| row["prompt_key"].as_str().unwrap().to_string()).collect()
}

fn sql_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The setting for a folder of contracts in which one of them is changed.
fn with_contract(world: &World, table: &str, change: impl Fn(String) -> String) -> String {
    let schemas = world.path("schemas");
    std::fs::create_dir_all(&schemas).unwrap();
    for entry in std::fs::read_dir(common::project().join("schemas")).unwrap().map(|e| e.unwrap().path()) {
        std::fs::copy(&entry, schemas.join(entry.file_name().unwrap())).unwrap();
    }
    let contract = schemas.join(format!("{table}.toml"));
    let (text, changed) =
        (std::fs::read_to_string(&contract).unwrap(), change(std::fs::read_to_string(&contract).unwrap()));
    assert_ne!(text, changed);
    std::fs::write(&contract, changed).unwrap();
    format!("project.schemas={}", schemas.display())
}

fn with_audits(world: &World, table: &str, queries: &[&str]) -> String {
    let audit = |(n, sql): (usize, &&str)| {
        format!("[[audit]]\nname = \"test_{n}\"\nseverity = \"error\"\ndescription = \"A test.\"\nsql = \"{sql}\"\n\n")
    };
    let audits: String = queries.iter().enumerate().map(audit).collect();
    with_contract(world, table, |text| format!("{text}\n{audits}"))
}

/// A failing audit leaves rows in the quarantine; those of before also left whole files there, and errors in manifests.
fn fail_an_audit(world: &World) {
    let set = with_audits(world, "user_feature", &["select * from this where user_id like 'O%'"]);
    expect_code(&on_day(world, "run", DAYS[2], &["--set", &set]), 1);
    let root = world.path("warehouse");
    let features = files(&root.join("user_feature/dt=2026-01-20"));
    let features = features.iter().find(|p| p.extension().is_some_and(|e| e == "parquet")).unwrap();
    let kept = root.join("_quarantine/user_feature/dt=2026-01-20/part-00000-0123456789abcdef.parquet");
    std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
    std::fs::copy(features, kept).unwrap();
    let error = format!("user_feature failed its audits\n  | {EVIL} | 1 |");
    for path in files(&root.join("_runs")).into_iter().filter(|p| p.extension().is_some_and(|e| e == "json")) {
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let manifest = if path.ends_with("report.json") { &mut json["manifest"] } else { &mut json };
        if manifest["status"] == "audit" {
            manifest["error"] = error.clone().into();
            std::fs::write(&path, json.to_string()).unwrap();
        }
    }
}

#[test]
fn a_forgotten_user_leaves_no_trace_and_nobody_else_notices() {
    let world = world();
    let root = world.path("warehouse");
    fail_an_audit(&world);
    // Enough small segments for a merge, whose old segments are still there.
    let spare = files(&root.join("response"));
    for n in 0..65 {
        std::fs::copy(&spare[0], root.join(format!("response/seg-{n:032}.parquet"))).unwrap();
    }
    expect_code(&world.curec(&["gc", "job.toml"]), 0);
    assert!(files(&root.join("response")).iter().any(|p| p.display().to_string().contains("_replaced-")));
    // What a run that was killed leaves: staged files, and a data file that no record lists.
    let history = files(&root.join("user_history/dt=2026-01-20"));
    let history = history.iter().find(|p| p.extension().is_some_and(|e| e == "parquet")).unwrap();
    for to in [
        "_staging/dead/user_history/dt=2026-01-20/part-00000.parquet",
        "user_history/dt=2026-01-16/part-00007-0123456789abcdef.parquet",
    ] {
        std::fs::create_dir_all(root.join(to).parent().unwrap()).unwrap();
        std::fs::copy(history, root.join(to)).unwrap();
    }

    let before = traces(&root);
    for place in [
        "quarantine",
        "_staging",
        "part-00007",
        "report.json",
        "report.html",
        "manifest.json",
        "user_feature",
        "reason_prompt",
    ] {
        assert!(before.iter().any(|p| p.display().to_string().contains(place)), "the test shows nothing about {place}");
    }
    let evil = sql_text(EVIL);
    let prompts = |who: &str| format!("select distinct prompt_key from reason_prompt where {who}");
    let theirs = keys(&world, &prompts(&format!("user_id = {evil}")));
    let others = keys(&world, &prompts(&format!("user_id is distinct from {evil}")));
    let (shared, own) = (&theirs & &others, &theirs - &others);
    assert!(!shared.is_empty() && !own.is_empty(), "{shared:?} {own:?}");
    let answered = keys(&world, "select distinct prompt_key from response");
    assert!(answered.is_superset(&theirs));
    let first_day = |tree: BTreeMap<String, String>| -> BTreeMap<_, _> {
        tree.into_iter().filter(|(name, _)| name.contains("dt=2026-01-10")).collect()
    };
    let untouched = first_day(tree(&root));
    let items = |published: Vec<(String, String)>| -> Vec<_> {
        published.into_iter().filter(|(name, _)| name.starts_with("item_")).collect()
    };
    let item_files = items(world.published());
    let rows: BTreeMap<&str, u64> = NAMING
        .map(|t| {
            (t, world.sql(&format!("select count(*) as n from {t} where user_id = {evil}"))[0]["n"].as_u64().unwrap())
        })
        .into();

    // Says what it would do, and does nothing.
    let whole = tree(&root);
    let dry = forget(&world, &["--dry-run"]);
    expect_code(&dry, 0);
    assert_eq!(tree(&root), whole, "a dry run changed something");

    let out = forget(&world, &[]);
    expect_code(&out, 0);
    let said = stdout(&out);
    for (table, n) in &rows {
        assert_eq!(*n, 2, "{table}");
        for said in [&said, &stdout(&dry)] {
            assert!(said.contains(&format!("  {table:<15} {n} row(s) in 2 partition(s)")), "{said}");
        }
    }
    assert!(stderr(&out).contains("still holds 6 row(s)"), "{}", stderr(&out));
    assert!(!(said + &stderr(&out)).contains(EVIL));

    assert_eq!(traces(&root), Vec::<PathBuf>::new());
    for table in NAMING {
        let ids: BTreeSet<String> = world
            .sql(&format!("select distinct user_id from {table} where user_id is not null"))
            .iter()
            .map(|r| r["user_id"].as_str().unwrap().to_string())
            .collect();
        assert_eq!(ids, ["u00", "u01", LONGER, "twin"].map(str::to_string).into(), "{table}");
    }
    // Their own answers are gone from every file, also from those that merged segments had replaced.
    assert_eq!(keys(&world, "select distinct prompt_key from response"), &answered - &own);
    for file in files(&root.join("response")) {
        assert!(file.extension().is_some_and(|e| e == "parquet"), "{}", file.display());
        assert!(texts(&file).is_disjoint(&own), "{}", file.display());
    }
    assert_eq!(first_day(tree(&root)), untouched, "a day without the user changed");
    assert_eq!(items(world.published()), item_files, "items' files changed");
    for dt in DAYS {
        let plan = stdout(&on_day(&world, "plan", dt, &[]));
        assert!(plan.contains("nothing to do"), "{plan}");
    }

    let manifests = files(&root.join("_runs"));
    let manifest = manifests.iter().find(|p| p.display().to_string().contains("/forget-")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    assert_eq!(manifest["status"], "forgotten");
    // Who has a list of all ids, but not the warehouse, cannot tell who that was.
    let digest = manifest["forgotten"]["users"][0].as_str().unwrap();
    assert!(digest.len() == 64 && digest != blake3::hash(EVIL.as_bytes()).to_hex().as_str(), "{digest}");
    assert_eq!(manifest["forgotten"]["users"].as_array().unwrap().len(), 1);
    assert_eq!(manifest["forgotten"]["rows"]["user_history"], 2);
    assert_eq!(manifest["forgotten"]["inputs"][0], "interaction");
    assert_eq!(manifest["tables"].as_array().unwrap().len(), 10, "{manifest}");
    // The reports that remain still show the others.
    let pages: Vec<_> = manifests.iter().filter(|p| p.ends_with("report.html")).collect();
    assert!(pages.len() >= 3 && pages.iter().any(|p| std::fs::read_to_string(p).unwrap().contains("twin")));

    // Again: nothing is left to do.
    let published = world.published();
    let again = forget(&world, &[]);
    expect_code(&again, 0);
    assert!(!stdout(&again).contains("partition(s)"), "{}", stdout(&again));
    assert_eq!(world.published(), published);
}

/// A world where [`EVIL`] and u00 have written a review each, which the prompts about the items show; one day published.
fn world_with_reviews() -> World {
    let world = World::new();
    common::write_events(&world.path("input/interaction.parquet"), &log());
    let text = |texts: [&str; 2]| std::sync::Arc::new(StringArray::from_iter_values(texts)) as ArrayRef;
    let times = TimestampMillisecondArray::from(vec![january(13, 0), january(14, 0)]).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 4] = [
        ("user_id", text([EVIL, "u00"])),
        ("item_id", text(["i00", "i02"])),
        ("event_timestamp", std::sync::Arc::new(times)),
        ("text", text(["Zanzibar harpoons rust in it.", "Lanterns glow over the harbour."])),
    ];
    common::write(&world.path("input/review.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
    let job = std::fs::read_to_string(world.path("job.toml")).unwrap();
    let review = format!("review = {:?}\n[history]", world.path("input/review.parquet").display().to_string());
    std::fs::write(world.path("job.toml"), job.replace("[history]", &review)).unwrap();
    let shown = "=== user\n{{ subject or attributes | join }} {{ praise | join }}\n=== assistant\nIt\n";
    std::fs::write(world.path("item.j2"), shown).unwrap();
    expect_code(&on_day(&world, "run", "2026-01-20", &[]), 0);
    world
}

#[test]
fn sentences_of_reviews_go_with_whoever_wrote_them() {
    let world = world_with_reviews();
    let root = world.path("warehouse");
    let says = |word: &str| {
        let is_saying = |path: &PathBuf| match path.extension().is_some_and(|e| e == "parquet") {
            true => texts(path).iter().any(|text| text.contains(word)),
            false => String::from_utf8_lossy(&std::fs::read(path).unwrap()).contains(word),
        };
        files(&root).into_iter().filter(is_saying).collect::<Vec<_>>()
    };
    let listed = "select count(*) as n from reason_prompt where array_to_string(praise, ' ') like '%Zanzibar%'";
    // The prompts about the item and about the one who wrote it.
    assert_eq!(world.sql(listed)[0]["n"], 2);
    assert!(says("Zanzibar").iter().any(|path| path.to_string_lossy().contains("reason_prompt")), "nothing to forget");
    let asked = keys(&world, "select prompt_key from reason_prompt where item_id = 'i00'");
    let of_others = |table: &str| world.sql(&format!("select * from {table} where item_id = 'i02'"));
    let kept = ["reason_prompt", "reason", "reason_score", "item_feature"];
    let before = kept.map(of_others);

    expect_code(&forget(&world, &[]), 0);
    assert_eq!(says("Zanzibar"), Vec::<PathBuf>::new());
    assert_eq!(world.sql(listed)[0]["n"], 0);
    for table in kept {
        let left = world.sql(&format!("select count(*) as n from {table} where item_id = 'i00'"));
        assert_eq!(left[0]["n"], 0, "{table}");
    }
    assert!(keys(&world, "select prompt_key from response").is_disjoint(&asked));
    // The item itself is nobody's.
    assert_eq!(world.sql("select count(*) as n from item_audience where item_id = 'i00'")[0]["n"], 1);
    assert_eq!(kept.map(of_others), before);
    assert!(!says("Lanterns").is_empty());
}

fn copy_tree(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
}

/// What holds once the user is forgotten, however often that died.
struct Wanted {
    published: Vec<(String, String)>,
    responses: BTreeSet<String>,
}

impl Wanted {
    fn of(world: &World) -> Wanted {
        Wanted { published: world.published(), responses: keys(world, "select prompt_key from response") }
    }

    fn check(&self, world: &World, died: &str) {
        assert_eq!(world.published(), self.published, "{died}");
        assert_eq!(keys(world, "select prompt_key from response"), self.responses, "{died}");
        assert_eq!(traces(&world.path("warehouse")), Vec::<PathBuf>::new(), "{died}");
        for dt in DAYS {
            let plan = stdout(&on_day(world, "plan", dt, &[]));
            assert!(plan.contains("nothing to do"), "{died}: {plan}");
        }
    }
}

#[test]
fn forgetting_that_died_between_any_two_tables_completes() {
    let world = world();
    let (root, before, after) = (world.path("warehouse"), world.path("before"), world.path("after"));
    copy_tree(&root, &before);
    expect_code(&forget(&world, &[]), 0);
    copy_tree(&root, &after);
    let wanted = Wanted::of(&world);
    // The order in which it publishes; the answers go first.
    let mut steps = vec!["response".to_string()];
    for dt in &DAYS[1..] {
        let tables = ["user_feature", "item_feature", "reason_score", "reason", "reason_prompt", "user_history"];
        steps.extend(tables.map(|table| format!("{table}/dt={dt}")));
    }
    for n in 1..steps.len() {
        copy_tree(&before, &root);
        for step in &steps[..n] {
            copy_tree(&after.join(step), &root.join(step));
        }
        expect_code(&forget(&world, &[]), 0);
        wanted.check(&world, &format!("died after {}", steps[n - 1]));
    }
}

#[test]
fn forgetting_that_was_killed_at_a_change_of_the_store_completes() {
    let world = world();
    let (root, before) = (world.path("warehouse"), world.path("before"));
    copy_tree(&root, &before);
    let killed_at = |n: usize| {
        copy_tree(&before, &root);
        let mut command = world.command(&["forget", "job.toml", "--user-id", EVIL]);
        !command.env("CUREC_FAIL_POINT", format!("after:{n}")).output().unwrap().status.success()
    };
    if !killed_at(1) {
        println!("skipped: this build has no fail points");
        return;
    }
    expect_code(&forget(&world, &[]), 0);
    let wanted = Wanted::of(&world);
    // Every seventh change: of every kind, in all days and most tables.
    let mut kills = 0;
    for n in (1..).step_by(7) {
        if !killed_at(n) {
            break;
        }
        kills += 1;
        expect_code(&forget(&world, &[]), 0);
        wanted.check(&world, &format!("killed after change {n}"));
    }
    assert!(kills > 5, "{kills}");
}

#[test]
fn it_waits_for_live_runs_and_names_them() {
    let world = world();
    let root = world.path("warehouse");
    let lease = root.join("_leases/dt=2026-02-01.json");
    let far = january(1, 0) * 2;
    let holder = "{\"host\":\"elsewhere\",\"pid\":1,\"run_id\":\"night-7\"}";
    let text = format!("{{\"format\":1,\"holder\":{holder},\"epoch\":1,\"expires\":{far},\"released\":false}}");
    std::fs::write(&lease, text).unwrap();
    let whole = tree(&root);
    let out = forget(&world, &[]);
    expect_code(&out, 75);
    assert!(stderr(&out).contains("night-7"), "{}", stderr(&out));
    assert_eq!(tree(&root), whole);
    std::fs::remove_file(&lease).unwrap();
    expect_code(&forget(&world, &[]), 0);
    assert_eq!(traces(&root), Vec::<PathBuf>::new());
}

#[test]
fn users_come_from_a_file_and_answers_of_nobody_go_when_asked() {
    let world = world();
    // Other sampling: the answers of before belong to no prompt any more.
    for dt in DAYS {
        expect_code(&on_day(&world, "run", dt, &["--set", "sampling.max_new_tokens=5"]), 0);
    }
    let linked = |world: &World| keys(world, "select distinct prompt_key from reason_prompt");
    let answered = |world: &World| keys(world, "select distinct prompt_key from response");
    assert!(!linked(&world).is_superset(&answered(&world)));
    std::fs::write(world.path("users.txt"), format!("{EVIL}\nnobody\n\n{LONGER}\r\n")).unwrap();
    let args = ["forget", "job.toml", "--user-file", "users.txt"];
    let out = world.curec(&args);
    expect_code(&out, 3);
    assert!(stderr(&out).contains(r#"no row is of the user \"nobody\""#), "{}", stderr(&out));
    for table in NAMING {
        let n = world.sql(&format!("select count(*) as n from {table} where user_id like 'O%'"))[0]["n"].clone();
        assert_eq!(n, 0, "{table}");
    }
    assert!(!linked(&world).is_superset(&answered(&world)), "answers went that nobody asked to remove");
    expect_code(&world.curec(&[&args[..], &["--unlinked"]].concat()), 3);
    assert!(linked(&world).is_superset(&answered(&world)));
    assert!(!answered(&world).is_empty());
    let out = on_day(&world, "run", DAYS[2], &["--set", "sampling.max_new_tokens=5"]);
    assert_eq!(summary(&out)["status"], "nothing_to_do", "{}", stderr(&out));
}

#[test]
fn wrong_arguments_are_refused() {
    let world = World::new();
    expect_code(&world.curec(&["forget", "job.toml"]), 2);
    expect_code(&world.curec(&["forget", "job.toml", "--user-id", ""]), 2);
    expect_code(&world.curec(&["forget", "job.toml", "--user-file", "absent.txt"]), 2);
    // A warehouse that holds nothing: done, and on record.
    let out = world.curec(&["forget", "job.toml", "--user-id", "-1"]);
    expect_code(&out, 3);
    assert!(stdout(&out).contains("/forget-"), "{}", stdout(&out));
    assert!(world.curec(&["forget", "--help"]).status.success());
}

#[test]
fn whatever_the_audits_of_a_contract_read_it_finishes() {
    let world = world();
    let audits = [
        "select * from this where as_of < $interval_start or n_likes < $like_threshold * -1",
        "select * from this where user_id not in (select user_id from interaction)",
        "select h.* from this as h left anti join reason_prompt as p on p.user_id = h.user_id",
        "select count(*) as n from this having count(*) < 1000",
        "select * from a_table_that_nobody_has",
    ];
    let set = with_audits(&world, "user_history", &audits);
    // A rule that came later, which the rows of before do not keep.
    let contract = world.path("schemas/user_history.toml");
    let text = std::fs::read_to_string(&contract).unwrap();
    std::fs::write(&contract, text.replacen("min = 1\n", "min = 1000\n", 1)).unwrap();
    std::fs::remove_file(world.path("input/interaction.parquet")).unwrap();
    let out = forget(&world, &["--set", &set]);
    expect_code(&out, 0);
    assert!(stderr(&out).contains("the input interaction could not be looked at"), "{}", stderr(&out));
    assert_eq!(traces(&world.path("warehouse")), Vec::<PathBuf>::new());
}

/// Everything but leases, by its bytes.
fn contents(root: &Path) -> BTreeMap<String, String> {
    tree(root).into_iter().filter(|(name, _)| !name.starts_with("_leases")).collect()
}

#[test]
fn what_cannot_be_done_is_found_out_before_anything_goes() {
    let world = world();
    let root = world.path("warehouse");
    let whole = contents(&root);
    let refused = |more: &[&str], says: &str| {
        let before = contents(&root);
        let out = forget(&world, more);
        assert!(matches!(out.status.code(), Some(1 | 2)), "{}", stderr(&out));
        assert!(stderr(&out).contains(says), "{}", stderr(&out));
        assert_eq!(contents(&root), before, "{}", stderr(&out));
        let line = summary(&forget(&world, &[more, &["--json"]].concat()));
        assert_eq!(line["rerun_helps"], false, "{line}");
    };
    // A contract that the days do not fit any more, in the last of the tables that are rewritten.
    let column = "[[column]]\nname = \"new\"\ntype = \"utf8\"\nnullable = false\ndescription = \"A test.\"\n\n[writer]";
    let set = with_contract(&world, "user_feature", |text| text.replacen("[writer]", column, 1));
    refused(&["--set", &set], "nothing was removed");
    // Damaged files: of the last day, and of the answers.
    let damaged = |file: &Path, says: &str| {
        let good = std::fs::read(file).unwrap();
        std::fs::write(file, &good[..good.len() / 2]).unwrap();
        refused(&[], says);
        std::fs::write(file, &good).unwrap();
    };
    let is_parquet = |path: &&PathBuf| path.extension().is_some_and(|e| e == "parquet");
    let last = files(&root.join("user_feature/dt=2026-01-20"));
    damaged(last.iter().find(is_parquet).unwrap(), "user_feature");
    let answers = files(&root.join("response"));
    damaged(answers.iter().rfind(is_parquet).unwrap(), "response");
    assert_eq!(contents(&root), whole);
    expect_code(&forget(&world, &[]), 0);
    assert_eq!(traces(&root), Vec::<PathBuf>::new());
}

#[test]
fn ids_that_match_nothing_are_named_and_those_of_before_are_known() {
    let world = world();
    let list = |bytes: &[u8]| std::fs::write(world.path("users.txt"), bytes).unwrap();
    let run = |more: &[&str]| {
        world.curec(&[&["forget", "job.toml", "--user-file", "users.txt", "--json"][..], more].concat())
    };
    // As an editor of Windows saves it; a blank belongs to the id, and is told.
    list(b"\xef\xbb\xbfu00\r\nu01 \r\n\r\nnobody");
    let out = run(&[]);
    expect_code(&out, 3);
    let line = summary(&out);
    assert_eq!(stdout(&out).lines().count(), 1);
    assert_eq!((&line["status"], &line["users"]), (&"forgotten".into(), &3.into()), "{line}");
    assert_eq!(line["unmatched"], serde_json::json!(["nobody", "u01 "]));
    assert_eq!(line["tables"]["user_history"], serde_json::json!({ "rows": 3, "partitions": 3 }));
    assert!(stderr(&out).contains(r#"there are rows of \"u01\""#), "{}", stderr(&out));
    let left = world.sql("select distinct user_id from user_history where user_id like 'u%'");
    assert_eq!(left.len(), 1, "{left:?}");
    // Nothing of u00 is left, neither in the warehouse nor in the input: that it was forgotten is known.
    common::write_events(
        &world.path("input/interaction.parquet"),
        &log().into_iter().filter(|e| e.user != "u00").collect::<Vec<_>>(),
    );
    list(b"u00\n");
    let out = run(&["--dry-run"]);
    expect_code(&out, 0);
    assert_eq!(summary(&out)["status"], "dry_run");
    list(b"nobody\n");
    expect_code(&run(&[]), 3);
    list("u00\n".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>().as_slice());
    let out = run(&[]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("UTF-16") && stderr(&out).contains("iconv"), "{}", stderr(&out));
    assert_eq!(summary(&out)["status"], "usage");
}

#[test]
fn plain_digests_of_before_are_replaced_and_their_users_known() {
    let world = world();
    let path = world.path("warehouse/_runs/forget-20250101T000000000Z-1/manifest.json");
    let plain = blake3::hash(b"u99").to_hex().to_string();
    expect_code(&forget(&world, &["--dry-run"]), 0);
    expect_code(&forget(&world, &[]), 0);
    let manifests = files(&world.path("warehouse/_runs"));
    let manifest = manifests.iter().find(|p| p.display().to_string().contains("/forget-")).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let forgotten = json["forgotten"].as_object_mut().unwrap();
    forgotten.remove("digest");
    forgotten.remove("unmatched");
    forgotten.insert("users".into(), serde_json::json!([plain]));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, json.to_string()).unwrap();
    for _ in 0..2 {
        expect_code(&world.curec(&["forget", "job.toml", "--user-id", "u99"]), 0);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&plain) && text.contains("blake3-keyed"), "{text}");
    }
}

/// Requests for leases that forgetting takes where a warehouse on S3 holds so many days.
fn lease_requests(bucket: &Bucket, warehouse: &str, days: u32) -> usize {
    let from = bucket.server.location("s3://lake/curec");
    let to = bucket.server.location(&format!("s3://lake/{warehouse}"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        for entry in from.list().await.unwrap() {
            let name = entry.location.relative_to(&from).unwrap();
            if !name.contains("dt=") || name.starts_with('_') {
                continue;
            }
            let bytes = entry.location.get().await.unwrap().unwrap();
            for day in 1..=days {
                let dt = format!("2026-02-{day:02}");
                let bytes = match name.ends_with("_commit.json") {
                    true => String::from_utf8(bytes.to_vec())
                        .unwrap()
                        .replace("\"2026-01-20\"", &format!("\"{dt}\""))
                        .into(),
                    false => bytes.clone(),
                };
                to.child(&name.replace("2026-01-20", &dt)).put(bytes).await.unwrap();
            }
        }
    });
    let is_lease = |call: &Call| call.path.contains("_leases");
    bucket.server.fail(Some(Rule::every(1, Fault::ResetBefore).of(is_lease).at_most(0)));
    let out = bucket.command(&["forget", "job.toml", "--user-id", "u07", "--json"], warehouse).output().unwrap();
    expect_code(&out, 0);
    assert_eq!(summary(&out)["tables"]["user_history"]["partitions"], days, "{}", stdout(&out));
    bucket.server.concerned()
}

#[test]
fn on_s3_a_day_costs_as_much_among_many_as_among_few() {
    let bucket = Bucket::new();
    expect_code(&bucket.run("curec"), 0);
    let (few, many) = (lease_requests(&bucket, "few", 3), lease_requests(&bucket, "many", 15));
    // Five times as many days, and not five times five times.
    assert!(few > 0 && many <= 5 * few, "{few} requests for 3 days, {many} for 15");
}
