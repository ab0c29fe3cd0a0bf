//! Delta logs beside published tables: they follow every publish, at once or later, and never name a file that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use curec::error::Kind;
use curec::table::contract::Contract;
use curec::table::delta_write::{demand_followable, follow};
use curec::table::lease::{Holder, Lease};
use curec::table::partition::{Publisher, gc};
use curec::table::published::partitions;
use curec::table::store::Location;
use curec::table::write::Stamp;
use serde_json::Value;

const CONTRACT: &str = "name = \"t\"\nversion = \"1.0\"\nrole = \"derived\"\ngrain = [\"id\"]\nsorted_by = [\"id\"]\n\
                        partition_by = \"dt\"\n[[column]]\nname = \"id\"\ntype = \"utf8\"\nnullable = false\n\
                        [[column]]\nname = \"n\"\ntype = \"int64\"\nnullable = true\n";

/// A warehouse with one table.
struct Place {
    root: Location,
    contract: Contract,
    lease: Lease,
}

impl Place {
    async fn new(root: Location) -> Place {
        let lease = Lease::acquire(&root, "t", Holder::here("run"), Duration::from_secs(600)).await.unwrap();
        Place { root, contract: Contract::parse(CONTRACT, "t.toml").unwrap(), lease }
    }

    /// Publishes so many rows of a day.
    async fn publish(&self, day: u32, rows: usize, begins_log: bool) {
        let publisher = Publisher::new(self.root.clone(), "run").with_delta_logs(begins_log);
        let stamp = Stamp { fingerprint: format!("{day}-{rows}"), parts: BTreeMap::new(), created_timestamp: 0 };
        let ids: StringArray = (0..rows).map(|i| Some(format!("{day:02}-{i:05}"))).collect();
        let numbers = Int64Array::from_iter_values((0..rows).map(|i| i as i64));
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(ids) as ArrayRef, true),
            ("n", Arc::new(numbers) as ArrayRef, true),
        ]);
        let batches = if rows == 0 { Vec::new() } else { vec![Ok(batch.unwrap())] };
        let rows = futures::stream::iter(batches);
        let staged = publisher.stage(&self.contract, &dt(day), &stamp, rows).await.unwrap();
        publisher.publish(&self.lease, staged).await.unwrap();
    }

    async fn follow(&self) -> Option<u64> {
        follow(&self.root, "t", Some(&self.contract.arrow_schema(None)), true).await.unwrap()
    }

    fn log(&self) -> Location {
        self.root.child("t/_delta_log")
    }

    /// The actions of each version, in order.
    async fn versions(&self) -> Vec<Vec<Value>> {
        let mut versions = Vec::new();
        for entry in self.log().list().await.unwrap() {
            if entry.location.name().ends_with(".json") {
                assert_eq!(entry.location.name(), format!("{:020}.json", versions.len()), "a version is missing");
                let bytes = entry.location.get().await.unwrap().unwrap();
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                versions.push(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect());
            }
        }
        versions
    }

    /// The files that the log counts, by path, with their rows.
    async fn counted(&self) -> BTreeMap<String, i64> {
        let mut files = BTreeMap::new();
        for version in self.versions().await {
            for action in &version {
                if let Some(path) = action["remove"]["path"].as_str() {
                    assert!(files.remove(path).is_some(), "{path} is removed and was not there");
                }
            }
            for action in version.iter().filter(|action| action["add"].is_object()) {
                let stats: Value = serde_json::from_str(action["add"]["stats"].as_str().unwrap()).unwrap();
                let path = action["add"]["path"].as_str().unwrap().to_owned();
                assert!(files.insert(path, stats["numRecords"].as_i64().unwrap()).is_none());
            }
        }
        files
    }

    /// The same by the commit records.
    async fn published(&self) -> BTreeMap<String, i64> {
        let mut files = BTreeMap::new();
        for record in partitions(&self.root, "t").await.unwrap() {
            for file in &record.files {
                files.insert(format!("dt={}/{}", record.dt, file.name), file.rows as i64);
            }
        }
        files
    }

    async fn expect_true(&self) {
        let counted = self.counted().await;
        assert_eq!(counted, self.published().await);
        for path in counted.keys() {
            assert!(self.root.child("t").child(path).head().await.unwrap().is_some(), "{path} is gone");
        }
    }
}

fn dt(day: u32) -> String {
    format!("2026-01-{day:02}")
}

fn kinds(version: &[Value]) -> Vec<&str> {
    version.iter().map(|action| action.as_object().unwrap().keys().next().unwrap().as_str()).collect()
}

async fn follows_every_publish(root: Location) {
    let place = Place::new(root).await;
    place.publish(1, 3, false).await;
    assert!(place.log().list().await.unwrap().is_empty());

    // A table that had no log gets one over all of its days.
    place.publish(2, 5, true).await;
    place.expect_true().await;
    let versions = place.versions().await;
    assert_eq!(versions.len(), 1);
    assert_eq!(kinds(&versions[0]), ["commitInfo", "protocol", "metaData", "add", "add"]);
    let metadata = &versions[0][2]["metaData"];
    let schema: Value = serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
    let types: Vec<(&str, &str)> = schema["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| (field["name"].as_str().unwrap(), field["type"].as_str().unwrap()))
        .collect();
    assert_eq!(types, [("id", "string"), ("n", "long"), ("dt", "date")]);
    assert_eq!(metadata["partitionColumns"], serde_json::json!(["dt"]));
    let add = &versions[0][3]["add"];
    assert_eq!(add["partitionValues"]["dt"], "2026-01-01");
    let file = place.root.child("t").child(add["path"].as_str().unwrap()).head().await.unwrap().unwrap();
    assert_eq!(add["size"], file.size);
    assert_eq!(add["modificationTime"], file.last_modified.timestamp_millis());

    // What is published already adds no version.
    place.publish(2, 5, true).await;
    assert_eq!(place.follow().await, None);
    assert_eq!(place.versions().await.len(), 1);

    // One version takes the old files of a day away and brings the new ones; a job that begins no logs keeps them too.
    place.publish(1, 4, false).await;
    place.expect_true().await;
    let versions = place.versions().await;
    assert_eq!((versions.len(), kinds(&versions[1])), (2, vec!["commitInfo", "remove", "add"]));

    // A day without rows.
    place.publish(2, 0, true).await;
    place.expect_true().await;
    let versions = place.versions().await;
    assert_eq!((versions.len(), kinds(&versions[2])), (3, vec!["commitInfo", "remove"]));
    assert_eq!(place.counted().await.into_values().collect::<Vec<_>>(), [4]);
}

#[tokio::test]
async fn a_log_follows_every_publish_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    follows_every_publish(Location::parse(dir.path().to_str().unwrap()).unwrap()).await;
}

#[tokio::test]
async fn a_log_follows_every_publish_in_memory() {
    follows_every_publish(Location::parse("memory://delta-follows/w").unwrap()).await;
}

#[tokio::test]
async fn a_log_that_was_left_behind_catches_up() {
    let place = Place::new(Location::parse("memory://delta-behind/w").unwrap()).await;
    place.publish(1, 3, true).await;
    place.publish(2, 3, true).await;
    place.publish(1, 7, true).await;
    // As if the run had died between its commit and the log's version.
    place.log().child("00000000000000000002.json").delete().await.unwrap();
    assert_ne!(place.counted().await, place.published().await);
    assert_eq!(place.follow().await, Some(2));
    place.expect_true().await;
    assert_eq!(place.follow().await, None);

    // A publish of another day brings it up to date as well.
    place.log().child("00000000000000000002.json").delete().await.unwrap();
    place.publish(3, 2, true).await;
    place.expect_true().await;
}

#[tokio::test]
async fn gc_removes_no_file_that_a_log_still_names() {
    let place = Place::new(Location::parse("memory://delta-gc/w").unwrap()).await;
    place.publish(1, 3, true).await;
    let before: BTreeSet<String> = place.counted().await.into_keys().collect();
    let old = place.root.child("t").child(before.first().unwrap());
    let bytes = old.get().await.unwrap().unwrap();
    place.publish(1, 0, true).await;
    // Died between commit and log: the old file is there, the record does not list it, the log still names it.
    place.log().child("00000000000000000001.json").delete().await.unwrap();
    old.put(bytes).await.unwrap();
    place.lease.release().await.unwrap();
    assert_eq!(gc(&place.root).await.unwrap().orphans, 1);
    assert!(old.head().await.unwrap().is_none());
    place.expect_true().await;
    assert_eq!(place.versions().await.len(), 2);
}

#[tokio::test]
async fn of_many_writers_each_sees_what_the_others_wrote() {
    let place = Place::new(Location::parse("memory://delta-many/w").unwrap()).await;
    for day in 1..=9 {
        place.publish(day, day as usize, false).await;
    }
    let tries = (0..8).map(|_| {
        let (root, schema) = (place.root.clone(), place.contract.arrow_schema(None));
        tokio::spawn(async move { follow(&root, "t", Some(&schema), true).await.unwrap() })
    });
    // Writers of the very same bytes may all hold theirs for written.
    let wrote = futures::future::join_all(tries).await.into_iter().filter_map(|done| done.unwrap());
    assert_eq!(wrote.collect::<BTreeSet<u64>>(), BTreeSet::from([0]));
    assert_eq!(place.versions().await.len(), 1);
    place.expect_true().await;
    // Days of one table published at once: two jobs, say.
    futures::future::join_all((1..=9).map(|day| place.publish(day, 20, true))).await;
    place.expect_true().await;
}

#[tokio::test]
async fn checkpoints_stand_for_many_versions() {
    let place = Place::new(Location::parse("memory://delta-checkpoints/w").unwrap()).await;
    place.publish(1, 1, true).await;
    for rows in 1..=52 {
        place.publish(2, rows, true).await;
    }
    place.expect_true().await;
    assert_eq!(place.versions().await.len(), 53);
    let last = place.log().child("_last_checkpoint").get().await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&last).unwrap(), serde_json::json!({ "version": 50, "size": 4 }));
    // Nothing is lost with the versions before it.
    for version in 0..=50 {
        place.log().child(&format!("{version:020}.json")).delete().await.unwrap();
    }
    assert_eq!(place.follow().await, None);
    place.publish(1, 2, true).await;
    let bytes = place.log().child("00000000000000000053.json").get().await.unwrap().unwrap();
    assert_eq!(String::from_utf8(bytes.to_vec()).unwrap().lines().count(), 3);
}

#[tokio::test]
async fn a_log_that_another_tool_has_changed_is_told() {
    let place = Place::new(Location::parse("memory://delta-foreign/w").unwrap()).await;
    place.publish(1, 3, true).await;
    let line =
        "{\"protocol\":{\"minReaderVersion\":3,\"minWriterVersion\":7,\"readerFeatures\":[\"deletionVectors\"]}}";
    place.log().child("00000000000000000001.json").put(Bytes::from_static(line.as_bytes())).await.unwrap();
    let schema = place.contract.arrow_schema(None);
    let error = follow(&place.root, "t", Some(&schema), true).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.advice().unwrap().contains("_delta_log"), "{error}");
    assert_eq!(demand_followable(&place.root, "t").await.unwrap_err().kind(), Kind::Config);
    assert!(demand_followable(&place.root, "table_without_a_log").await.is_ok());

    // Garbage of another table goes all the same; what the log may name stays.
    let orphans = ["t", "u"].map(|table| place.root.child(table).child("dt=2026-01-01/part-orphan.parquet"));
    for orphan in &orphans {
        orphan.put(Bytes::from_static(b"x")).await.unwrap();
    }
    place.lease.release().await.unwrap();
    assert_eq!(gc(&place.root).await.unwrap_err().kind(), Kind::Config);
    assert!(orphans[0].head().await.unwrap().is_some() && orphans[1].head().await.unwrap().is_none());

    for entry in place.log().list().await.unwrap() {
        entry.location.delete().await.unwrap();
    }
    assert_eq!(place.follow().await, Some(0));
    place.expect_true().await;
}
