//! The log of a Delta table, as its protocol describes it: which files count after its last version.
//!
//! `_delta_log/<version>.json` holds the changes of one version, a line an action; a checkpoint
//! (`<version>.checkpoint.parquet`) what stands after one. Knows the log of any writer. Knows nothing of commit records.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::table::delta_checkpoint::read_checkpoint;
use crate::table::source::percent_decoded;
use crate::table::store::{Entry, Location};

/// The folder of the log inside a table's folder.
pub(crate) const FOLDER: &str = "_delta_log";

/// Files of a log read at once.
const AT_ONCE: usize = 16;

/// What a reader and a writer must be able to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Protocol {
    pub(crate) min_reader_version: i64,
    pub(crate) min_writer_version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reader_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) writer_features: Option<Vec<String>>,
}

/// What the table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(default)]
    pub(crate) format: Value,
    pub(crate) schema_string: String,
    #[serde(default)]
    pub(crate) partition_columns: Vec<String>,
    #[serde(default)]
    pub(crate) configuration: BTreeMap<String, Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_time: Option<i64>,
}

/// A file that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AddFile {
    /// Its place below the table's folder, as the log writes it: percent-encoded.
    pub(crate) path: String,
    /// The values of the partition columns; one that is not there is null.
    #[serde(default)]
    pub(crate) partition_values: BTreeMap<String, Option<String>>,
    /// Bytes.
    pub(crate) size: i64,
    /// Milliseconds since 1970, UTC.
    #[serde(default)]
    pub(crate) modification_time: i64,
    #[serde(default)]
    pub(crate) data_change: bool,
    /// A JSON object as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stats: Option<String>,
    /// Which of its rows are deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deletion_vector: Option<Value>,
}

#[derive(Deserialize)]
struct RemoveFile {
    path: String,
}

/// One line of a log. Other actions, such as who committed, are passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Action {
    #[serde(default)]
    protocol: Option<Protocol>,
    #[serde(default)]
    meta_data: Option<Metadata>,
    #[serde(default)]
    add: Option<AddFile>,
    #[serde(default)]
    remove: Option<RemoveFile>,
    #[serde(default)]
    sidecar: Option<Value>,
}

/// What stands after the last version of a log.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) version: u64,
    /// When the last version was written, by the store's clock.
    pub(crate) last_modified: DateTime<Utc>,
    pub(crate) protocol: Protocol,
    pub(crate) metadata: Metadata,
    /// The files that count, by their path as it is in the store.
    pub(crate) files: BTreeMap<String, AddFile>,
}

/// The files of a log, by version.
#[derive(Debug, Default)]
struct Found {
    commits: BTreeMap<u64, Entry>,
    /// The parts of checkpoints, each with its number and how many there are.
    checkpoints: BTreeMap<u64, Vec<(u64, u64, Entry)>>,
    /// Whether there are checkpoints of a form that is not read.
    has_newer_checkpoints: bool,
}

impl Found {
    fn take(&mut self, name: &str, entry: Entry) {
        let number = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) {
            true => digits.parse::<u64>().ok(),
            false => None,
        };
        let parts: Vec<&str> = name.split('.').collect();
        let Some(version) = parts.first().copied().filter(|v| v.len() == 20).and_then(number) else { return };
        match parts[1..] {
            ["json"] => _ = self.commits.insert(version, entry),
            ["checkpoint", "parquet"] => self.checkpoints.entry(version).or_default().push((1, 1, entry)),
            ["checkpoint", part, of, "parquet"] => {
                if let (Some(part), Some(of)) = (number(part), number(of)) {
                    self.checkpoints.entry(version).or_default().push((part, of, entry));
                }
            }
            ["checkpoint", _, "json" | "parquet"] => self.has_newer_checkpoints = true,
            _ => {}
        }
    }

    /// The latest checkpoint of which every part is there.
    fn base(&self) -> Option<(u64, Vec<Entry>)> {
        self.checkpoints.iter().rev().find_map(|(version, parts)| {
            let whole = parts.iter().map(|(_, of, _)| *of).find(|of| {
                let there: BTreeSet<u64> = parts.iter().filter(|(_, o, _)| o == of).map(|(part, _, _)| *part).collect();
                there.len() as u64 == *of && there.first() == Some(&1) && there.last() == Some(of)
            })?;
            let entries = parts.iter().filter(|(_, of, _)| *of == whole).map(|(_, _, entry)| entry.clone());
            Some((*version, entries.collect()))
        })
    }
}

/// What a log says while it is read.
#[derive(Default)]
struct State {
    protocol: Option<Protocol>,
    metadata: Option<Metadata>,
    files: BTreeMap<String, AddFile>,
}

impl State {
    /// Takes in the lines of one file.
    fn apply(&mut self, lines: &[u8], at: &Location) -> Result<()> {
        let mut added = Vec::new();
        for (number, line) in lines.split(|byte| *byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let action: Action = serde_json::from_slice(line).map_err(|e| {
                Error::new(Kind::Input, format!("the Delta log is damaged: {e}"))
                    .with("file", at)
                    .with("line", number + 1)
                    .hint("restore the file from a backup, or write the table's rows to plain Parquet files anew")
            })?;
            if action.sidecar.is_some() {
                return Err(unsupported("v2Checkpoint", at));
            }
            self.protocol = action.protocol.or(self.protocol.take());
            self.metadata = action.meta_data.or(self.metadata.take());
            if let Some(remove) = action.remove {
                self.files.remove(&percent_decoded(&remove.path));
            }
            added.extend(action.add);
        }
        // Last: a version may remove a file and add it again, with other deleted rows.
        self.files.extend(added.into_iter().map(|add| (percent_decoded(&add.path), add)));
        Ok(())
    }
}

/// The error for a Delta table that needs more than curec can do.
pub(crate) fn unsupported(feature: &str, at: &Location) -> Error {
    Error::new(Kind::Input, format!("the Delta table uses the feature {feature}, which curec does not read"))
        .with("file", at)
        .hint("switch the feature off and rewrite the table, or write its current rows to plain Parquet files")
}

/// What a table may demand of its readers: what curec can do, and what matters only where files or settings use it, which
/// is looked at file by file.
const READABLE: [&str; 5] = ["columnMapping", "deletionVectors", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"];

impl Log {
    /// Refuses a table whose rows are not simply those of its files.
    ///
    /// # Errors
    /// `Kind::Input` naming the feature.
    pub(crate) fn demand_readable(&self, at: &Location) -> Result<()> {
        let mut features = self.protocol.reader_features.iter().flatten();
        if let Some(feature) = features.find(|feature| !READABLE.contains(&feature.as_str())) {
            return Err(unsupported(feature, at));
        }
        if self.protocol.min_reader_version > 3 {
            return Err(unsupported(&format!("reader version {}", self.protocol.min_reader_version), at));
        }
        let mapping = self.metadata.configuration.get("delta.columnMapping.mode").and_then(Option::as_deref);
        if mapping.is_some_and(|mode| mode != "none") {
            return Err(unsupported("columnMapping", at));
        }
        if self.files.values().any(|file| file.deletion_vector.is_some()) {
            return Err(unsupported("deletionVectors", at));
        }
        match self.metadata.format.get("provider").and_then(Value::as_str) {
            None | Some("parquet") => Ok(()),
            Some(other) => Err(unsupported(&format!("format {other}"), at)),
        }
    }

    /// The log of the table in a folder; `None` where it has none.
    ///
    /// # Errors
    /// `Kind::Input` for a log that is damaged or lacks a version, and for checkpoints of a form that is not read; the
    /// store's.
    pub(crate) async fn read(table: &Location) -> Result<Option<Log>> {
        let folder = table.child(FOLDER);
        let mut found = Found::default();
        for entry in folder.list().await? {
            let name = entry.location.relative_to(&folder).unwrap_or_default();
            found.take(&name, entry);
        }
        let base = found.base();
        let newest = found.commits.last_key_value().map(|(version, entry)| (*version, entry.last_modified));
        let at_base = base.as_ref().and_then(|(v, parts)| Some((*v, parts.iter().map(|e| e.last_modified).max()?)));
        let Some((version, last_modified)) = newest.max(at_base) else {
            return match found.has_newer_checkpoints {
                true => Err(unsupported("v2Checkpoint", &folder)),
                false => Ok(None),
            };
        };
        let mut state = State::default();
        let mut first = 0;
        if let Some((version, parts)) = base {
            for entry in parts {
                state.apply(&read_checkpoint(&entry.location, entry.size).await?, &entry.location)?;
            }
            first = version + 1;
        }
        if let Some(lacking) = (first..=version).find(|v| !found.commits.contains_key(v)) {
            if found.has_newer_checkpoints {
                return Err(unsupported("v2Checkpoint", &folder));
            }
            return Err(Error::new(Kind::Input, format!("the Delta log lacks its version {lacking}"))
                .with("file", &folder)
                .hint("restore the log from a backup, or write the table's rows to plain Parquet files anew"));
        }
        let commits: Vec<Location> = found.commits.range(first..).map(|(_, e)| e.location.clone()).collect();
        let read = |at: Location| async move {
            let gone = || Error::new(Kind::Temporary, "a file of the Delta log went away").with("file", &at);
            let bytes = at.get().await?.ok_or_else(|| gone().hint("run it again"))?;
            Ok::<(Location, Bytes), Error>((at, bytes))
        };
        let commits: Vec<(Location, Bytes)> = stream::iter(commits).map(read).buffered(AT_ONCE).try_collect().await?;
        for (at, lines) in &commits {
            state.apply(lines, at)?;
        }
        let (Some(protocol), Some(metadata)) = (state.protocol, state.metadata) else {
            return Err(Error::new(Kind::Input, "the Delta log is damaged: it does not say what the table is")
                .with("file", &folder)
                .hint("restore the log from a backup, or write the table's rows to plain Parquet files anew"));
        };
        Ok(Some(Log { version, last_modified, protocol, metadata, files: state.files }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::table::delta_checkpoint::encode_checkpoint;
    use serde_json::json;

    const PROTOCOL: &str = r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#;
    const METADATA: &str = r#"{"metaData":{"id":"1","format":{"provider":"parquet","options":{}},"schemaString":"{}","partitionColumns":["dt"],"configuration":{}}}"#;

    fn add(path: &str) -> String {
        format!(r#"{{"add":{{"path":"{path}","partitionValues":{{"dt":null}},"size":7,"dataChange":true}}}}"#)
    }

    async fn put(table: &Location, name: &str, lines: &[&str]) {
        table.child(FOLDER).child(name).put(Bytes::from(lines.join("\n"))).await.unwrap();
    }

    fn commit(version: u64) -> String {
        format!("{version:020}.json")
    }

    async fn files(table: &Location) -> Vec<String> {
        Log::read(table).await.unwrap().unwrap().files.into_keys().collect()
    }

    #[tokio::test]
    async fn removed_files_do_not_count() {
        let table = Location::parse("memory://delta-log-removed/t").unwrap();
        assert!(Log::read(&table).await.unwrap().is_none());
        put(&table, &commit(0), &[r#"{"commitInfo":{}}"#, PROTOCOL, METADATA, &add("a%20b.parquet"), &add("c")]).await;
        assert_eq!(files(&table).await, ["a b.parquet", "c"]);
        put(&table, &commit(1), &[&add("d"), r#"{"remove":{"path":"a%20b.parquet"}}"#, ""]).await;
        assert_eq!(files(&table).await, ["c", "d"]);
        // In one version a file is removed before it is added again, whatever the order of the lines.
        put(&table, &commit(2), &[&add("c"), r#"{"remove":{"path":"c"}}"#]).await;
        assert_eq!(files(&table).await, ["c", "d"]);
        // Other names do not matter.
        put(&table, "_last_checkpoint", &["{"]).await;
        put(&table, "00000000000000000001.crc", &["{"]).await;
        assert_eq!(Log::read(&table).await.unwrap().unwrap().version, 2);
    }

    #[tokio::test]
    async fn a_checkpoint_stands_for_the_versions_before_it() {
        let table = Location::parse("memory://delta-log-checkpoint/t").unwrap();
        let of = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let actions = [of(PROTOCOL), of(METADATA), of(&add("a")), of(&add("b"))];
        let bytes = encode_checkpoint(&actions).unwrap();
        let at = table.child(FOLDER).child("00000000000000000010.checkpoint.parquet");
        at.put(Bytes::from(bytes)).await.unwrap();
        assert_eq!(files(&table).await, ["a", "b"]);
        put(&table, &commit(10), &["not read"]).await;
        put(&table, &commit(11), &[r#"{"remove":{"path":"b"}}"#, &add("c")]).await;
        let log = Log::read(&table).await.unwrap().unwrap();
        assert_eq!((log.version, log.files.keys().map(String::as_str).collect::<Vec<_>>()), (11, vec!["a", "c"]));
        assert_eq!(log.metadata.partition_columns, ["dt"]);
        assert_eq!((log.files["a"].size, log.files["a"].data_change), (7, true));
        // A part of a checkpoint is none.
        let part = table.child(FOLDER).child("00000000000000000011.checkpoint.0000000001.0000000002.parquet");
        part.put(Bytes::from_static(b"PAR1")).await.unwrap();
        assert_eq!(files(&table).await, ["a", "c"]);
    }

    #[tokio::test]
    async fn a_broken_log_is_told() {
        let table = Location::parse("memory://delta-log-broken/t").unwrap();
        let refused = async |table: &Location| Log::read(table).await.unwrap_err();
        put(&table, &commit(1), &[&add("a")]).await;
        let error = refused(&table).await;
        assert!(error.kind() == Kind::Input && error.message().contains("lacks its version 0"), "{error}");
        put(&table, &commit(0), &["{}"]).await;
        assert!(refused(&table).await.message().contains("what the table is"));
        put(&table, &commit(0), &[PROTOCOL, "{\"add\":"]).await;
        let error = refused(&table).await;
        assert!(error.message().contains("damaged") && error.to_string().contains("line: 2"), "{error}");
        put(&table, &commit(0), &[PROTOCOL, &json!({ "sidecar": { "path": "x" } }).to_string()]).await;
        assert!(refused(&table).await.message().contains("v2Checkpoint"));
        let newer = Location::parse("memory://delta-log-newer/t").unwrap();
        put(&newer, "00000000000000000001.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json", &["{}"]).await;
        assert!(refused(&newer).await.message().contains("v2Checkpoint"));
    }
}
