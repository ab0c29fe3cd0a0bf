//! What every store must do, in memory, on local disk, on s3s-fs in the process and on moto; and what becomes of single
//! operations when the S3 server fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::TimestampMicrosecondArray;
use arrow::array::{ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use bytes::Bytes;
use curec::error::{Kind, Result};
use curec::table::contract::Contract;
use curec::table::fetch::fetch;
use curec::table::lease::{Holder, Lease};
use curec::table::partition::{Publisher, commit_record, gc};
use curec::table::store::{Location, StoreOptions};
use curec::table::traffic::traffic;
use curec::table::write::Stamp;
use object_store::ObjectStoreExt;
use object_store::buffered::BufWriter;
use tokio::io::AsyncWriteExt;

use crate::common::words;
use crate::s3;
use crate::s3::{Call, Fault, Moto, Rule, Server, options};

fn bytes(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

async fn text(at: &Location) -> Option<String> {
    at.get().await.unwrap().map(|b| String::from_utf8(b.to_vec()).unwrap())
}

async fn names_below(root: &Location) -> Vec<String> {
    let relative = |e: curec::table::store::Entry| e.location.relative_to(root).unwrap();
    root.list().await.unwrap().into_iter().map(relative).collect()
}

/// Whole objects: write, read, look, copy, remove.
async fn objects(root: &Location) {
    let a = root.child("a/one");
    assert!(a.get().await.unwrap().is_none() && a.head().await.unwrap().is_none());
    assert!(root.list().await.unwrap().is_empty());
    a.put(bytes("1")).await.unwrap();
    a.put(bytes("two")).await.unwrap();
    assert_eq!(text(&a).await.as_deref(), Some("two"));
    let entry = a.head().await.unwrap().unwrap();
    assert_eq!((entry.size, entry.location.url()), (3, a.url()));
    assert_eq!(a.digest().await.unwrap(), blake3::hash(b"two").to_hex().to_string());

    let empty = root.child("a/empty");
    empty.put(Bytes::new()).await.unwrap();
    assert_eq!((text(&empty).await.as_deref(), empty.head().await.unwrap().unwrap().size), (Some(""), 0));

    let b = root.child("b/copy");
    b.put(bytes("old")).await.unwrap();
    a.copy_to(&b).await.unwrap();
    assert_eq!(text(&b).await.as_deref(), Some("two"));
    let error = root.child("nothing").copy_to(&b).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Input, "{error:?}");
    assert_eq!(root.child("nothing").digest().await.unwrap_err().kind(), Kind::Input);
    let elsewhere = Location::parse("memory://conformance-copy/x").unwrap();
    a.copy_to(&elsewhere).await.unwrap();
    assert_eq!(text(&elsewhere).await.as_deref(), Some("two"));

    for _ in 0..2 {
        b.delete().await.unwrap();
        assert!(b.head().await.unwrap().is_none());
    }
    assert_eq!(names_below(root).await, ["a/empty", "a/one"]);
}

/// The one primitive that publishing needs; `at_once`: the store claims to be atomic.
async fn conditions(root: &Location, at_once: bool) {
    let at = root.child("x/_commit.json");
    assert!(at.put_new(bytes("1")).await.unwrap());
    assert!(!at.put_new(bytes("2")).await.unwrap());
    assert!(!at.put_if(None, bytes("2")).await.unwrap());
    let (first, seen) = at.get_versioned().await.unwrap().unwrap();
    assert_eq!(first, bytes("1"));
    assert!(at.put_if(Some(&seen), bytes("22")).await.unwrap());
    assert!(!at.put_if(Some(&seen), bytes("333")).await.unwrap());
    assert_eq!(text(&at).await.as_deref(), Some("22"));
    // What is there already counts as written: nobody can tell it from a write whose answer was lost.
    assert!(at.put_new(bytes("22")).await.unwrap() && at.put_if(Some(&seen), bytes("22")).await.unwrap());
    at.delete().await.unwrap();
    assert!(!at.put_if(Some(&seen), bytes("4")).await.unwrap());
    assert!(at.get().await.unwrap().is_none());

    // Of many that come at once, one wins, and what it wrote stays.
    for round in 0..3 {
        let at = root.child(&format!("race/{round}"));
        let mut seen = None;
        for step in ["create", "update"] {
            let writers = (0..8).map(|i| {
                let (at, seen) = (at.clone(), seen.clone());
                tokio::spawn(async move { (i, at.put_if(seen.as_ref(), bytes(&format!("{step} {i}"))).await.unwrap()) })
            });
            let mut done = Vec::new();
            match at_once {
                true => done = futures::future::join_all(writers).await,
                false => {
                    for writer in writers {
                        done.push(writer.await);
                    }
                }
            }
            let won: Vec<usize> =
                done.into_iter().map(|r| r.unwrap()).filter(|(_, won)| *won).map(|(i, _)| i).collect();
            assert_eq!(won.len(), 1, "round {round}, {step}: {won:?}");
            let (now, version) = at.get_versioned().await.unwrap().unwrap();
            assert_eq!(now, bytes(&format!("{step} {}", won[0])));
            seen = Some(version);
        }
    }
}

/// Listings: by path, whole segments, more than a page, and names that need care.
async fn listings(root: &Location, many: usize) {
    for name in ["t/dt=2026-01-20/b", "t/dt=2026-01-20/a", "t/c", "tt/d"] {
        root.child(name).put(bytes(name)).await.unwrap();
    }
    assert_eq!(names_below(&root.child("t")).await, ["c", "dt=2026-01-20/a", "dt=2026-01-20/b"]);

    let odd = [
        "a b",
        "100%",
        "50%25",
        "ä/ü ö.parquet",
        "plus+sign",
        "a&b<c>",
        "it's \"q\"",
        "x=1/y=2",
        "semi;colon,",
        "日本/語",
        "question?mark",
        "hash#tag",
        "tilde~",
        "at@sign:colon",
        "(par)[br]{cu}",
        "dots..dots",
        "star*",
        "bar|caret^",
    ];
    let folder = root.child("odd");
    for name in odd {
        folder.child(name).put(bytes(name)).await.unwrap();
    }
    let entries = folder.list().await.unwrap();
    assert_eq!(entries.len(), odd.len(), "{:?}", entries.iter().map(|e| e.location.url()).collect::<Vec<_>>());
    for entry in &entries {
        let name = text(&entry.location).await.expect("a listed object can be read");
        assert_eq!(entry.location, folder.child(&name), "{name}");
        assert_eq!(entry.size, name.len() as u64, "{name}");
        let copy = root.child("copied").child(&name);
        entry.location.copy_to(&copy).await.unwrap();
        assert_eq!(text(&copy).await.as_deref(), Some(name.as_str()));
        entry.location.delete().await.unwrap();
        assert!(entry.location.head().await.unwrap().is_none(), "{name}");
    }
    assert!(folder.list().await.unwrap().is_empty());

    let folder = root.child("many");
    let puts = (0..many).map(|i| {
        let at = folder.child(&format!("{i:05}"));
        async move { at.put(Bytes::from_static(b"x")).await.unwrap() }
    });
    futures::StreamExt::for_each_concurrent(futures::stream::iter(puts), 16, |put| put).await;
    let listed = names_below(&folder).await;
    assert_eq!(listed.len(), many);
    assert!(listed.is_sorted());
}

/// Bytes that look like nothing in particular.
fn noise(length: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"noise");
    let mut all = vec![0; length];
    hasher.finalize_xof().fill(&mut all);
    all
}

async fn write_big(at: &Location, content: &[u8]) -> std::io::Result<()> {
    let mut writer = BufWriter::with_capacity(at.store(), at.path().clone(), 5 << 20);
    for piece in content.chunks(1 << 20) {
        writer.write_all(piece).await?;
    }
    writer.shutdown().await
}

/// Several parts, ranges, and an upload that is given up.
async fn big(root: &Location) {
    let content = noise((12 << 20) + 7);
    let at = root.child("big");
    write_big(&at, &content).await.unwrap();
    assert_eq!(at.head().await.unwrap().unwrap().size, content.len() as u64);
    assert_eq!(at.digest().await.unwrap(), blake3::hash(&content).to_hex().to_string());
    let (from, to) = ((5 << 20) - 3, (5 << 20) + 3);
    let range = at.store().get_range(at.path(), from as u64..to as u64).await.unwrap();
    assert_eq!(range, content[from..to]);

    let at = root.child("given up");
    let mut writer = BufWriter::with_capacity(at.store(), at.path().clone(), 5 << 20);
    writer.write_all(&content).await.unwrap();
    writer.abort().await.unwrap();
    assert!(at.head().await.unwrap().is_none());
    assert_eq!(names_below(root).await, ["big"]);
}

const DT: &str = "2026-01-20";

fn features(rows: usize) -> RecordBatch {
    let times = || -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![0; rows]).with_timezone("UTC")) };
    let values: Float32Array = (0..rows * 8).map(|i| Some((i as f32).sin())).collect();
    let field = Arc::new(Field::new("item", DataType::Float32, true));
    let ids: StringArray = (0..rows).map(|i| Some(format!("i{i:07}"))).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("n_reasons", Arc::new(Int64Array::from(vec![2; rows])) as ArrayRef, true),
        ("item_id", Arc::new(ids), true),
        ("event_timestamp", times(), true),
        ("created_timestamp", times(), true),
        ("embedding", Arc::new(FixedSizeListArray::try_new(field, 8, Arc::new(values), None).unwrap()), true),
        ("mean_score", Arc::new(Float32Array::from(vec![0.5; rows])), true),
        ("missing", Arc::new(BooleanArray::from(vec![false; rows])), true),
        ("source", Arc::new(StringArray::from(vec!["reason"; rows])), true),
        ("words", words(rows), true),
    ])
    .unwrap()
}

/// A holder of whom this machine cannot tell whether it lives.
fn other_host(run: &str) -> Holder {
    Holder { host: "elsewhere".into(), pid: 1, run_id: run.into(), process: String::new() }
}

async fn take(root: &Location, run: &str, ttl: Duration) -> Result<Lease> {
    Lease::acquire(root, "dt=2026-01-20", other_host(run), ttl).await
}

async fn stage(publisher: &Publisher, rows: usize) -> curec::table::partition::StagedTable {
    let contract = Contract::builtin("item_feature").unwrap();
    let stamp = Stamp { fingerprint: rows.to_string(), parts: BTreeMap::new(), created_timestamp: 0 };
    publisher.stage(&contract, DT, &stamp, futures::stream::iter([Ok(features(rows))])).await.unwrap()
}

/// Leases and the publisher: publish, publish something else over it, and be overtaken.
async fn publishing(root: &Location) {
    let long = Duration::from_secs(60);
    let lease = take(root, "run-1", long).await.unwrap();
    let error = take(root, "run-2", long).await.unwrap_err();
    assert!(error.kind() == Kind::Busy && error.to_string().contains("run-1"), "{error}");
    let publisher = Publisher::new(root.clone(), "run-1");
    let staged = stage(&publisher, 10).await;
    let first = publisher.publish(&lease, staged).await.unwrap();
    lease.renew().await.unwrap();
    let staged = stage(&publisher, 11).await;
    let second = publisher.publish(&lease, staged).await.unwrap();
    assert_ne!(first.files, second.files);
    let folder = format!("item_feature/dt={DT}");
    let expected = ["_commit.json".to_owned(), second.files[0].name.clone()];
    assert_eq!(names_below(&root.child(&folder)).await, expected);
    let file = root.child(&folder).child(&second.files[0].name);
    assert_eq!(file.digest().await.unwrap(), second.files[0].blake3);
    lease.release().await.unwrap();

    // A holder that sleeps through its time is overtaken and cannot publish any more.
    let short = Duration::from_millis(800);
    let publisher = Publisher::new(root.clone(), "run-3");
    let staged = stage(&publisher, 12).await;
    let slow = take(root, "run-3", short).await.unwrap();
    tokio::time::sleep(short).await;
    let next = take(root, "run-4", long).await.unwrap();
    assert!(next.epoch > slow.epoch);
    assert_eq!(slow.renew().await.unwrap_err().kind(), Kind::Busy);
    assert_eq!(publisher.publish(&slow, staged).await.unwrap_err().kind(), Kind::Busy);
    assert_eq!(commit_record(root, "item_feature", DT).await.unwrap().as_ref(), Some(&second));
    next.release().await.unwrap();
    assert_eq!(gc(root).await.unwrap().staged_files, 1);
    assert_eq!(names_below(&root.child("_staging")).await, Vec::<String>::new());
    assert_eq!(names_below(&root.child(&folder)).await, expected);
}

async fn conformance(root: Location, at_once: bool, many: usize) {
    objects(&root.child("objects")).await;
    conditions(&root.child("conditions"), at_once).await;
    listings(&root.child("listings"), many).await;
    big(&root.child("big files")).await;
    publishing(&root.child("warehouse")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory() {
    conformance(Location::parse("memory://conformance/w").unwrap(), true, 1003).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_local_disk() {
    let folder = tempfile::tempdir().unwrap();
    conformance(Location::parse(folder.path().to_str().unwrap()).unwrap(), true, 1003).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_s3s() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bucket")).unwrap();
    let server = Server::new(folder.path());
    conformance(server.location("s3://bucket/some/prefix"), true, 1003).await;
    // Puts and gets take the bucket for a folder here.
    assert_eq!(server.location("s3://not-there/w").list().await.unwrap_err().kind(), Kind::Config);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_moto() {
    let Some(moto) = Moto::start(&["bucket"]) else { return };
    // It looks and then writes, in threads: two that come at once may both win. And it is slow.
    conformance(moto.location("s3://bucket/some/prefix"), false, 50).await;
    no_bucket(moto.location("s3://not-there/w")).await;
}

/// A bucket that does not exist is a mistake in the job, not an empty one and not one that comes back.
async fn no_bucket(root: Location) {
    for error in [
        root.child("x").put(bytes("1")).await.unwrap_err(),
        root.child("x").put_new(bytes("1")).await.unwrap_err(),
        root.list().await.unwrap_err(),
        root.child("x").get().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Config, "{error:?}");
    }
}

/// A server with one bucket.
fn faulty() -> (tempfile::TempDir, Server, Location) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bucket")).unwrap();
    let server = Server::new(folder.path());
    let root = server.location("s3://bucket/w");
    (folder, server, root)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_put_whose_answer_was_lost_is_known_as_ours() {
    let (_folder, server, root) = faulty();
    let is_conditional = |call: &Call| call.is_conditional;
    for fault in [Fault::ResetAfter, Fault::ResetBefore, Fault::Status(500), Fault::Status(503), Fault::TornRequest] {
        let at = root.child(&format!("{fault:?}"));
        server.fail(Some(Rule::every(1, fault).at_most(1).of(is_conditional)));
        assert!(at.put_new(bytes("mine")).await.unwrap(), "{fault:?}");
        assert_eq!(server.injected(), 1);
        let (_, seen) = at.get_versioned().await.unwrap().unwrap();
        server.fail(Some(Rule::every(1, fault).at_most(1).of(is_conditional)));
        assert!(at.put_if(Some(&seen), bytes("mine again")).await.unwrap(), "{fault:?}");
        assert_eq!(server.injected(), 1);
        assert_eq!(text(&at).await.as_deref(), Some("mine again"));
        // Another's write stays another's.
        server.fail(Some(Rule::every(1, fault).at_most(1).of(is_conditional)));
        assert!(!at.put_if(Some(&seen), bytes("late")).await.unwrap(), "{fault:?}");
        server.fail(Some(Rule::every(1, fault).at_most(1).of(is_conditional)));
        assert!(!at.put_new(bytes("late")).await.unwrap(), "{fault:?}");
        assert_eq!(text(&at).await.as_deref(), Some("mine again"));
    }
    // Not one answer to a put arrives, but a look does.
    let at = root.child("deaf");
    server.fail(Some(Rule::every(1, Fault::ResetAfter).of(is_conditional)));
    assert!(at.put_new(bytes("mine")).await.unwrap());
    // Nothing arrives at all: nobody knows, and a rerun finds out.
    server.fail(Some(Rule::every(1, Fault::ResetAfter)));
    assert_eq!(at.put_new(bytes("mine")).await.unwrap_err().kind(), Kind::Temporary);
    server.fail(None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_and_a_commit_whose_answers_were_lost_hold() {
    let (_folder, server, root) = faulty();
    server.fail(Some(Rule::every(2, Fault::ResetAfter).of(|call| call.is_conditional)));
    publishing(&root).await;
    assert!(server.injected() >= 4, "{}", server.injected());
}

#[tokio::test(flavor = "multi_thread")]
async fn torn_and_refused_transfers_are_made_again() {
    let (_folder, server, root) = faulty();
    let content = noise((11 << 20) + 1);
    let digest = blake3::hash(&content).to_hex().to_string();
    let is_part = |call: &Call| call.query.contains("partNumber");
    let is_end = |call: &Call| call.method == "POST" && call.query.contains("uploadId");
    for (i, (fault, concerns)) in [
        (Fault::TornRequest, is_part as fn(&Call) -> bool),
        (Fault::ResetAfter, is_part),
        (Fault::Status(503), is_part),
        (Fault::ResetAfter, is_end),
        (Fault::Status(500), is_end),
        (Fault::TornAnswer, |call| call.query.contains("uploads")),
    ]
    .into_iter()
    .enumerate()
    {
        let at = root.child(&format!("up/{i}"));
        server.fail(Some(Rule::every(1, fault).at_most(1).of(concerns)));
        let written = write_big(&at, &content).await;
        assert_eq!(server.injected(), 1, "{fault:?}");
        // An upload whose completion was carried out but not answered cannot be completed twice here; the table writer looks.
        let is_lost_end = fault == Fault::ResetAfter && i == 3;
        assert_eq!(written.is_ok(), !is_lost_end, "{fault:?} {i}: {written:?}");
        server.fail(None);
        assert_eq!(at.digest().await.unwrap(), digest, "{fault:?} {i}");
    }
    let at = root.child("up/0");
    for fault in [Fault::TornAnswer, Fault::Status(503), Fault::ResetBefore] {
        server.fail(Some(Rule::every(1, fault).at_most(3).of(|call| call.method == "GET")));
        let before = traffic();
        assert_eq!(at.digest().await.unwrap(), digest, "{fault:?}");
        assert_eq!(server.injected(), 3, "{fault:?}");
        assert!(traffic().since(before).retries >= 3);
        server.fail(Some(Rule::every(2, fault)));
        assert_eq!(root.list().await.unwrap().len(), 6, "{fault:?}");
        root.list().await.unwrap();
        let copy = root.child("copy");
        at.copy_to(&copy).await.unwrap();
        copy.delete().await.unwrap();
        assert!(server.injected() >= 2, "{fault:?}");
        server.fail(Some(Rule::every(1, fault).at_most(1).of(|call| call.method != "GET")));
        copy.delete().await.unwrap();
        assert!(copy.head().await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_table_of_many_parts_survives_a_lost_completion() {
    let (_folder, server, root) = faulty();
    let publisher = Publisher::new(root.clone(), "run");
    server.fail(Some(Rule::every(1, Fault::ResetAfter).of(|c| c.method == "POST" && c.query.contains("uploadId"))));
    let staged = stage(&publisher, 800_000).await;
    assert!(staged.files[0].bytes > 10 << 20, "{} bytes are one put", staged.files[0].bytes);
    assert!(server.injected() > 0);
    server.fail(None);
    assert_eq!(staged.files[0].location.digest().await.unwrap(), staged.files[0].blake3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_away_is_temporary_and_takes_no_longer_than_allowed() {
    let (_folder, server, _) = faulty();
    let impatient = StoreOptions {
        timeout: Duration::from_millis(300),
        max_retries: 2,
        retry_timeout: Duration::from_secs(5),
        ..options(&server.endpoint)
    };
    let at = Location::parse_with("s3://bucket/w/x", &impatient).unwrap();
    at.put(bytes("1")).await.unwrap();
    for fault in [Fault::Stall(Duration::from_secs(20)), Fault::Status(503), Fault::ResetBefore, Fault::TornAnswer] {
        server.fail(Some(Rule::every(1, fault)));
        let started = std::time::Instant::now();
        let error = at.get().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Temporary, "{fault:?}: {error:?}");
        assert!(started.elapsed() < Duration::from_secs(10), "{fault:?} took {:?}", started.elapsed());
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let impatient = StoreOptions { vars: s3::variables(&format!("http://{nobody}")), ..impatient };
    let at = Location::parse_with("s3://bucket/w/x", &impatient).unwrap();
    assert_eq!(at.get().await.unwrap_err().kind(), Kind::Temporary);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_fetched_whole_or_not_at_all() {
    let (_folder, server, root) = faulty();
    let cache = tempfile::tempdir().unwrap();
    let content = noise((20 << 20) + 5);
    let model = root.child("model");
    model.child("config.json").put(bytes("{}")).await.unwrap();
    model.child("model.safetensors").put(Bytes::from(content.clone())).await.unwrap();

    server.fail(Some(Rule::every(1, Fault::TornAnswer).of(|call| call.path.contains("safetensors"))));
    let error = fetch(&model, cache.path()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Temporary, "{error:?}");
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "a part stayed");

    server.fail(Some(Rule::every(3, Fault::TornAnswer)));
    let (a, b) = tokio::join!(fetch(&model, cache.path()), fetch(&model, cache.path()));
    assert_eq!(a.as_ref().unwrap(), b.as_ref().unwrap());
    assert!(server.injected() > 0);
    assert_eq!(std::fs::read(a.unwrap().join("model.safetensors")).unwrap(), content);
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 1);
    server.fail(None);
    let file = fetch(&model.child("model.safetensors"), cache.path()).await.unwrap();
    assert_eq!(std::fs::metadata(file).unwrap().len(), content.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_error_quotes_what_a_server_echoes() {
    let (_folder, server, _) = faulty();
    let mut options = StoreOptions { max_retries: 0, ..options(&server.endpoint) };
    options.vars.insert("AWS_SESSION_TOKEN".into(), s3::TOKEN.into());
    let root = Location::parse_with("s3://bucket/w", &options).unwrap();
    for status in [400, 403, 500, 503] {
        server.fail(Some(Rule::every(1, Fault::Echo(status))));
        let contract = Contract::builtin("item_feature").unwrap();
        for said in [
            format!("{:?}", root.child("x").put(bytes("1")).await.unwrap_err()),
            format!("{:?}", root.child("x").put_new(bytes("1")).await.unwrap_err()),
            format!("{:?}", root.child("x").get().await.unwrap_err()),
            format!("{:?}", root.child("x").delete().await.unwrap_err()),
            format!("{:?}", root.list().await.unwrap_err()),
            format!("{:?}", root.store().get(root.path()).await.unwrap_err()),
            format!("{:?}", write_big(&root.child("big"), &noise(6 << 20)).await.unwrap_err()),
        ] {
            for secret in [s3::SECRET, s3::KEY, s3::TOKEN, "wJalrXUtnFEMI%2F", "SignedHeaders"] {
                assert!(!said.contains(secret), "{status}: {secret} in {said}");
            }
            assert!(said.contains("quoted"), "the server's words are lost: {said}");
        }
        // Begins with a HEAD, whose answer has no words.
        let said = format!("{:?}", curec::table::input::open_input(&contract, &root).await.unwrap_err());
        assert!(!said.contains(s3::SECRET) && !said.contains(s3::KEY), "{said}");
    }
}
