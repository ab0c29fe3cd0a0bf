//! Merging the response store: no row lost, none paid twice, whatever dies half way and whatever a record holds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::common;
use crate::common::{World, expect_code, january, stderr, stdout};
use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array,
};
use bytes::Bytes;
use curec::error::{Error, Kind, Result};
use curec::table::contract::Contract;
use curec::table::partition::{append_segment, segments};
use curec::table::segment::{Segments, remove_replaced, remove_rows, replace};
use curec::table::store::Location;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const AS_OF: i64 = 893_116_800_000_000;

fn contract() -> Contract {
    Contract::builtin("response").unwrap()
}

/// Answers (key, text or error): a text that begins with `!` is an error.
fn answers(rows: &[(&str, &str)]) -> RecordBatch {
    let schema = contract().arrow_schema(None);
    let pick = |f: fn(&str) -> Option<&str>| -> ArrayRef {
        Arc::new(rows.iter().map(|(_, said)| f(said)).collect::<StringArray>())
    };
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "prompt_key" => Arc::new(StringArray::from_iter_values(rows.iter().map(|(key, _)| key))) as ArrayRef,
            "text" => pick(|said| (!said.starts_with('!')).then_some(said)),
            "error" => pick(|said| said.strip_prefix('!')),
            "model_digest" => Arc::new(StringArray::from(vec!["m"; rows.len()])),
            "created_timestamp" => {
                Arc::new(TimestampMicrosecondArray::from(vec![AS_OF; rows.len()]).with_timezone("UTC"))
            }
            _ if !field.is_nullable() => Arc::new(Int64Array::from(vec![1; rows.len()])),
            _ => new_null_array(field.data_type(), rows.len()),
        })
        .collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

async fn append(root: &Location, rows: &[(&str, &str)]) -> String {
    append_segment(root, &contract(), &answers(rows)).await.unwrap().unwrap().name
}

fn stream(batch: RecordBatch) -> impl futures::Stream<Item = Result<RecordBatch>> {
    futures::stream::iter([Ok(batch)])
}

/// What the segments that count say: answers by key, with how often each stands there.
async fn said(root: &Location) -> BTreeMap<(String, String), usize> {
    let mut found = BTreeMap::new();
    for entry in segments(root, "response").await.unwrap() {
        let bytes = entry.location.get().await.unwrap().unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap().map(Result::unwrap) {
            let column = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
            let (keys, texts, errors) = (column("prompt_key"), column("text"), column("error"));
            for i in 0..batch.num_rows() {
                let what = if texts.is_valid(i) { texts.value(i).to_string() } else { format!("!{}", errors.value(i)) };
                *found.entry((keys.value(i).to_string(), what)).or_default() += 1;
            }
        }
    }
    found
}

fn expected(rows: &[(&str, &str)]) -> BTreeMap<(String, String), usize> {
    rows.iter().map(|(key, what)| ((key.to_string(), what.to_string()), 1)).collect()
}

async fn merging_at_any_point(root: Location) {
    let rows = [("a", "1"), ("b", "2"), ("c", "!too_long")];
    for row in rows {
        append(&root, &[row]).await;
    }
    let staging = root.child("_staging/gc/response");
    let all = segments(&root, "response").await.unwrap();
    let contract = contract();

    // It fails while the rows are made, or is dropped in the middle: nothing has happened.
    let failing = futures::stream::iter([Ok(answers(&rows)), Err(Error::new(Kind::Temporary, "gone"))]);
    assert_eq!(replace(&root, &contract, &staging, &all, failing).await.unwrap_err().kind(), Kind::Temporary);
    let stuck = futures::StreamExt::chain(stream(answers(&rows)), futures::stream::pending());
    let dropped = tokio::time::timeout(Duration::from_millis(30), replace(&root, &contract, &staging, &all, stuck));
    assert!(dropped.await.is_err());
    assert_eq!(segments(&root, "response").await.unwrap().len(), 3);
    assert_eq!(said(&root).await, expected(&rows));

    let merged = merge_names(replace(&root, &contract, &staging, &all, stream(answers(&rows))).await);
    assert_eq!(said(&root).await, expected(&rows));
    assert_eq!(segments(&root, "response").await.unwrap().len(), 1);
    let found = Segments::find(&root, "response").await.unwrap();
    assert_eq!(found.all.len(), 4, "old segments go later");
    assert!(
        found.has_replaced() && found.small().is_empty(),
        "a merged one is not merged again while its record stands"
    );

    // Died before the record: every row stands, some twice, and the next merge comes to the same file.
    let record = root.child("response").list().await.unwrap();
    let record = record.into_iter().find(|e| e.location.name().starts_with("_replaced-")).unwrap().location;
    let bytes = record.get().await.unwrap().unwrap();
    record.delete().await.unwrap();
    assert!(said(&root).await.values().all(|n| *n == 2));
    let again = segments(&root, "response").await.unwrap();
    assert_eq!(again.len(), 4);
    assert_eq!(merge_names(replace(&root, &contract, &staging, &again, stream(answers(&rows))).await), merged);
    assert_eq!(said(&root).await, expected(&rows));
    assert_eq!(record.get().await.unwrap().unwrap(), bytes);

    // The merged segment is gone, whatever took it: the old ones count again.
    let at = root.child("response").child(&merged[0]);
    let kept = at.get().await.unwrap().unwrap();
    at.delete().await.unwrap();
    assert_eq!(said(&root).await, expected(&rows));
    assert_eq!(remove_replaced(&root, "response", |_| true).await.unwrap().0, 0, "only they hold the rows now");
    at.put(kept).await.unwrap();

    // Died while old segments were removed.
    all[1].location.delete().await.unwrap();
    assert_eq!(said(&root).await, expected(&rows));
    assert_eq!(remove_replaced(&root, "response", |_| false).await.unwrap().0, 0);
    assert_eq!(remove_replaced(&root, "response", |_| true).await.unwrap().0, 2);
    assert_eq!(said(&root).await, expected(&rows));
    let left = root.child("response").list().await.unwrap();
    assert_eq!(left.iter().map(|e| e.location.name()).collect::<Vec<_>>(), [merged[0].as_str()]);
    assert!(staging.list().await.unwrap().is_empty());

    // A run that answers the same again, segment for segment, is heard.
    append(&root, &[rows[0]]).await;
    assert_eq!(said(&root).await[&("a".to_string(), "1".to_string())], 2);
    // Rows are taken out of every segment, and segments without them stay as they are.
    let other = append(&root, &[("d", "4")]).await;
    let gone = remove_rows(&root, &contract, &staging, "prompt_key", &["a".to_string()].into()).await.unwrap();
    assert_eq!(gone, (2, 2));
    assert_eq!(said(&root).await, expected(&[("b", "2"), ("c", "!too_long"), ("d", "4")]));
    assert!(segments(&root, "response").await.unwrap().iter().any(|e| e.location.name() == other));
}

fn merge_names(names: Result<Vec<String>>) -> Vec<String> {
    let names = names.unwrap();
    assert_eq!(names.len(), 1, "{names:?}");
    names
}

#[tokio::test]
async fn merging_loses_nothing_wherever_it_dies_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    merging_at_any_point(Location::parse(dir.path().to_str().unwrap()).unwrap()).await;
}

#[tokio::test]
async fn merging_loses_nothing_wherever_it_dies_in_memory() {
    merging_at_any_point(Location::parse("memory://merge/w").unwrap()).await;
}

#[tokio::test]
async fn no_record_can_make_a_row_disappear() {
    let root = Location::parse("memory://records/w").unwrap();
    let (x, y) = (append(&root, &[("a", "1")]).await, append(&root, &[("b", "2")]).await);
    let rows = expected(&[("a", "1"), ("b", "2")]);
    let record =
        |replaced: &[&str], by: &[&str]| serde_json::json!({ "format": 1, "replaced": replaced, "by": by }).to_string();
    let first = root.child("response/_replaced-1.json");
    let damaged = [
        String::new(),
        "null".into(),
        "{\"format\":1}".into(),
        "[".repeat(100_000),
        record(&[&x, &y], &[]),
        record(&[&x, &y], &[&x]),
        record(&[&x], &["seg-absent.parquet"]),
        record(&[&x], &["../response/seg-absent.parquet"]),
        record(&["_replaced-1.json"], &[&x]),
        record(&[&x], &[&y]).replace("\"format\"", "\"extra\":1,\"format\""),
    ];
    for text in damaged {
        first.put(Bytes::from(text.clone())).await.unwrap();
        assert_eq!(said(&root).await, rows, "{}", &text[..text.len().min(80)]);
        remove_replaced(&root, "response", |_| true).await.unwrap();
        assert_eq!(said(&root).await, rows, "{}", &text[..text.len().min(80)]);
    }
    // Two records in a circle: neither counts.
    first.put(Bytes::from(record(&[&x], &[&y]))).await.unwrap();
    root.child("response/_replaced-2.json").put(Bytes::from(record(&[&y], &[&x]))).await.unwrap();
    assert_eq!(said(&root).await, rows);
    // A newer curec's record is not guessed at.
    first.put(Bytes::from(record(&[&x], &[&y]).replace("\"format\":1", "\"format\":2"))).await.unwrap();
    assert_eq!(segments(&root, "response").await.unwrap_err().kind(), Kind::Config);
}

/// Where nothing passes each prompt is asked as often as the job allows, over runs, and never again.
#[test]
fn refused_answers_are_asked_for_again_as_often_as_the_job_allows() {
    let world = World::new();
    let run = |attempts: &str, more: &[&str]| {
        let set = ["--set", "check.min_words=1000", "--set", "check.max_words=2000", "--set", attempts];
        let out = world.run(&[&set[..], more].concat());
        expect_code(&out, 0);
        common::summary(&out)
    };
    let by_attempt = || {
        let query = "select attempt, accepted, count(*) as n, count(distinct prompt_key) as k from response group by 1, 2 order by 1";
        let of = |r: &serde_json::Value| (r["attempt"].as_u64(), r["accepted"].as_bool(), r["n"] == r["k"]);
        world.sql(query).iter().map(of).collect::<Vec<_>>()
    };
    let args = ["plan", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21", "--json"];
    let plan = |attempts: &str| -> serde_json::Value {
        serde_json::from_str(&stdout(&world.curec(&[&args[..], &["--full", "--set", attempts]].concat()))).unwrap()
    };
    // Before any run further attempts are expected of a few.
    let tokens = |attempts: &str| plan(attempts)["work"]["prompt_tokens"].as_f64().unwrap();
    let [once, thrice] = ["sampling.attempts=1", "sampling.attempts=3"].map(tokens);
    let first = run("sampling.attempts=1", &[]);
    assert_eq!(Some(once), first["prompt_tokens"].as_f64());
    assert!((thrice / once - 1.1856).abs() < 0.01, "{once} {thrice}");
    assert_eq!(by_attempt(), [(Some(1), Some(false), true)]);
    let prompts = first["generated"].as_u64().unwrap();
    assert_eq!(first["asked_again"], 0);
    let reasons = world.sql("select prompt_key, reason, error from reason order by 1, 2");

    // A larger number asks again for what was refused; the first attempt still counts where none passes.
    let planned = plan("sampling.attempts=3");
    let third = run("sampling.attempts=3", &[]);
    assert_eq!((&third["generated"], &third["asked_again"]), (&(2 * prompts).into(), &prompts.into()), "{third}");
    let (most, paid) = (&planned["work"]["completion_tokens_at_most"], third["completion_tokens"].as_u64());
    assert!(most.as_u64() >= paid && most.as_u64() <= paid.map(|paid| 4 * paid), "{planned} {third}");
    assert_eq!(by_attempt(), [1, 2, 3].map(|n| (Some(n), Some(false), true)));
    assert_eq!(world.sql("select prompt_key, reason, error from reason order by 1, 2"), reasons);
    let texts = world.sql("select count(distinct text) as n from response")[0]["n"].as_u64().unwrap();
    assert!(texts > prompts, "further attempts say the same again");
    assert_eq!(run("sampling.attempts=3", &["--full"])["generated"], 0);

    // In one run, and in any other batching, the same answers come.
    let answers = "select prompt_key, attempt, text from response order by 1, 2";
    let before = world.sql(answers);
    std::fs::remove_dir_all(world.path("warehouse")).unwrap();
    let all = run("sampling.attempts=3", &["--set", "model.slots=2"]);
    assert_eq!(all["generated"], 3 * prompts);
    assert_eq!(world.sql(answers), before);
}

/// The checks divide the tiny model's answers by their length: the first that is long enough counts, and nothing is asked after it.
#[test]
fn of_several_answers_the_first_that_passes_counts() {
    let world = World::new();
    expect_code(&world.run(&[]), 0);
    let lengths = world.sql("select n_words from reason_score order by 1");
    let middle = lengths[lengths.len() / 2]["n_words"].as_u64().unwrap() + 1;
    std::fs::remove_dir_all(world.path("warehouse")).unwrap();
    expect_code(&world.run(&["--set", "sampling.attempts=3", "--set", &format!("check.min_words={middle}")]), 0);
    let keys =
        |having: &str| world.sql(&format!("select prompt_key from response group by 1 having {having} order by 1"));
    assert!(!keys("count(*) > 1 and bool_or(accepted)").is_empty(), "no further attempt passes: the test says nothing");
    assert!(!keys("bool_and(accepted)").is_empty(), "no first attempt passes");
    assert!(
        keys("max(attempt) > coalesce(min(attempt) filter (where accepted), 3)").is_empty(),
        "asked after it passed"
    );
    assert!(keys("max(attempt) <> count(*)").is_empty());
    // What counts is what passed, and scores say the same as the answers' own mark.
    let wrong = world.sql(
        "select s.prompt_key from reason_score as s \
         join (select prompt_key, bool_or(accepted) as passed from response group by 1) as a on a.prompt_key = s.prompt_key \
         where a.passed <> s.accepted",
    );
    assert!(wrong.is_empty(), "{wrong:?}");
}

fn responses(world: &World, name: &str) -> Vec<PathBuf> {
    let found = std::fs::read_dir(world.path("warehouse/response")).unwrap().map(|e| e.unwrap().path());
    found.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with(name)).collect()
}

/// `curec gc` over many small segments, with what a run finds before and after.
#[test]
fn gc_merges_small_segments_and_runs_find_the_same_answers() {
    let world = World::new();
    expect_code(&world.run(&["--set", "response.flush_rows=1"]), 0);
    let published = world.published();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let root = Location::parse(world.path("warehouse").to_str().unwrap()).unwrap();
    runtime.block_on(async {
        for i in 0..60 {
            append(&root, &[(&format!("k{i:02}"), "said")]).await;
        }
        // Failed, then answered; failed twice; answered twice, differently; the same row in two segments.
        append(&root, &[("k07", "!empty")]).await;
        append(&root, &[("late", "!empty"), ("never", "!too_long")]).await;
        append(&root, &[("late", "at last")]).await;
        append(&root, &[("never", "!empty")]).await;
        append(&root, &[("both", "one"), ("k11", "said")]).await;
        append(&root, &[("both", "two")]).await;
    });
    let before = responses(&world, "seg-");
    let query = "select distinct prompt_key, text, error from response order by 1, 2, 3";
    let kept: Vec<_> = world
        .sql(query)
        .into_iter()
        .filter(|r| !(r["prompt_key"] == "k07" || r["prompt_key"] == "late") || r["error"].is_null())
        .collect();

    // While a run is live the old segments stay: it may have listed them.
    let lease = world.path("warehouse/_leases/dt=2026-02-01.json");
    let holder = "{\"host\":\"elsewhere\",\"pid\":1,\"run_id\":\"night-7\"}";
    let far = january(1, 0) * 2;
    let text = format!("{{\"format\":1,\"holder\":{holder},\"epoch\":1,\"expires\":{far},\"released\":false}}");
    std::fs::write(&lease, text).unwrap();
    let out = world.curec(&["gc", "job.toml"]);
    expect_code(&out, 0);
    assert!(stdout(&out).contains(&format!("merged {} response segments into 1\n", before.len())), "{}", stdout(&out));
    assert_eq!(world.sql(query), kept);
    let rows = world.sql("select count(*) as n from response");
    assert_eq!(rows[0]["n"].as_u64().unwrap() as usize, kept.len(), "a row stands twice");
    assert!(before.iter().all(|p| p.exists()));
    expect_code(&world.curec(&["gc", "job.toml"]), 0);
    assert!(before.iter().all(|p| p.exists()));

    // A record of two days ago: whoever listed before it is done.
    let record = responses(&world, "_replaced-").remove(0);
    let old = std::time::SystemTime::now() - Duration::from_secs(2 * 86_400);
    std::fs::File::options().write(true).open(&record).unwrap().set_modified(old).unwrap();
    expect_code(&world.curec(&["gc", "job.toml"]), 0);
    assert!(!before.iter().any(|p| p.exists()) && !record.exists());
    assert_eq!(responses(&world, "").len(), 1);
    assert_eq!(world.sql(query), kept);
    std::fs::remove_file(&lease).unwrap();

    // A run builds the same from it and pays for nothing.
    let out = world.run(&["--full"]);
    expect_code(&out, 0);
    assert_eq!(common::summary(&out)["generated"], 0, "{}", stderr(&out));
    assert_eq!(world.published(), published);
    // Few segments are left alone.
    let out = world.curec(&["gc", "job.toml"]);
    assert!(!stdout(&out).contains("merged"), "{}", stdout(&out));
}

/// Every change that a merge makes, and the removal after it, as the last one of a process.
#[test]
fn gc_that_was_killed_loses_no_answer() {
    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let root = Location::parse(world.path("warehouse").to_str().unwrap()).unwrap();
    let gc = |fail_point: &str| {
        let mut command = world.command(&["gc", "job.toml"]);
        if !fail_point.is_empty() {
            command.env("CUREC_FAIL_POINT", fail_point);
        }
        command.output().unwrap()
    };
    // The first changes are the merge, the later ones of the second call the removal of 70 segments.
    for n in (1..12).chain([20, 40, 79]) {
        let _ = std::fs::remove_dir_all(world.path("warehouse"));
        let keys: Vec<String> = (0..70).map(|i| format!("k{i:02}")).collect();
        let rows: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "said")).collect();
        runtime.block_on(async {
            for row in &rows {
                append(&root, &[*row]).await;
            }
        });
        let fail_point = format!("after:{n}");
        let killed = [gc(&fail_point), gc(&fail_point)].map(|out| !out.status.success());
        if n == 1 && !killed[0] {
            println!("skipped: this build has no fail points");
            return;
        }
        let found = runtime.block_on(said(&root));
        assert!(expected(&rows).keys().eq(found.keys()), "killed after change {n}");
        for _ in 0..3 {
            expect_code(&gc(""), 0);
        }
        assert_eq!(runtime.block_on(said(&root)), expected(&rows), "killed after change {n}");
        assert_eq!(responses(&world, "").len(), 1, "killed after change {n}");
    }
}
