//! A Delta log beside the partitions of a published table, for readers that know nothing of commit records.
//!
//! Commit records are the truth; the log follows them. A version of it takes away the files that no record lists any more
//! and brings those that one lists, in one step, so that its readers see the old day or the new one. Each version is
//! written only where there is none yet: of two writers one looks again. Whoever removes data files calls [`follow`]
//! first; where a run died between its commit and the log's version, the next one writes it. Knows files and records; knows
//! nothing of rows.

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::error::{Context, Error, Kind, Result};
use crate::table::commit::{CommitRecord, RECORD, check_dt, commit_record};
use crate::table::delta_checkpoint::encode_checkpoint;
use crate::table::delta_log::{AddFile, FOLDER, Log, Metadata, Protocol};
use crate::table::delta_schema::{DAY, schema_string};
use crate::table::lease::AT_ONCE;
use crate::table::store::{Entry, Location};

/// A reader reads a checkpoint and the versions after it; so many there may be.
const CHECKPOINT_EVERY: u64 = 50;

/// How often a version is tried that another writer has taken.
const TRIES: usize = 20;

/// Records that are newer than the log's last version less this are read: longer than a writer takes between its look at
/// the records and its version.
const SLACK: TimeDelta = TimeDelta::days(1);

/// Brings the Delta log of a table in line with its commit records, where it has one or `create` wants one, and returns
/// the version that it wrote; `None` where nothing had to change. `schema` is that of the rows that are published now.
///
/// # Errors
/// `Kind::Config` where another tool has changed the log in a way that this cannot go on from; `Kind::Input` for a damaged
/// log or record; `Kind::Temporary` where other writers were always faster; the store's.
pub async fn follow(root: &Location, table: &str, schema: Option<&Schema>, create: bool) -> Result<Option<u64>> {
    let folder = root.child(table);
    for _ in 0..TRIES {
        let log = read_ours(&folder).await?;
        if log.is_none() && !(create && schema.is_some()) {
            return Ok(None);
        }
        // After the log: what it says of a day is never newer than the record that is read now.
        let changes = Changes::find(root, table, log.as_ref()).await?;
        let Some(lines) = changes.lines(log.as_ref(), schema, &folder)? else { return Ok(None) };
        let version = log.as_ref().map_or(0, |log| log.version + 1);
        if folder.child(FOLDER).child(&format!("{version:020}.json")).put_new(lines).await? {
            if version > 0
                && version.is_multiple_of(CHECKPOINT_EVERY)
                && let Err(e) = write_checkpoint(&folder).await
            {
                tracing::warn!(table, error = %e, "no checkpoint of the Delta log was written; readers read it without");
            }
            return Ok(Some(version));
        }
    }
    Err(Error::new(Kind::Temporary, "other writers were always faster at the Delta log")
        .with("table", table)
        .hint("run it again"))
}

/// Refuses a table whose Delta log [`follow`] could not go on from: whoever asks first does not find it out halfway.
///
/// # Errors
/// `Kind::Config` where another tool has changed the log so; `Kind::Input` for a damaged log; the store's.
pub async fn demand_followable(root: &Location, table: &str) -> Result<()> {
    read_ours(&root.child(table)).await.map(|_| ())
}

/// The log of a table, where it has one and it is one that this module may go on from.
async fn read_ours(folder: &Location) -> Result<Option<Log>> {
    let log = Log::read(folder).await.map_err(|e| match e.kind() {
        Kind::Input => e.hint(ANEW),
        _ => e,
    })?;
    if let Some(log) = &log {
        refuse_foreign(log, folder)?;
    }
    Ok(log)
}

const ANEW: &str = "remove the table's folder _delta_log; the next run writes a new one from the commit records";

/// Refuses a log that another tool has made into something that this module's versions do not fit.
fn refuse_foreign(log: &Log, folder: &Location) -> Result<()> {
    let Protocol { min_reader_version, min_writer_version, .. } = log.protocol;
    let is_ours = min_reader_version <= 1 && min_writer_version <= 2 && log.metadata.partition_columns == [DAY];
    if is_ours {
        return Ok(());
    }
    Err(Error::new(Kind::Config, "another tool has changed the Delta log of this table")
        .with("file", folder.child(FOLDER))
        .with("protocol", format!("reader {min_reader_version}, writer {min_writer_version}"))
        .hint(ANEW))
}

/// What lies in a day's folder.
#[derive(Default)]
struct Day {
    /// The data files by their names.
    files: BTreeMap<String, Entry>,
    /// When its commit record was written.
    recorded: Option<DateTime<Utc>>,
}

/// Whether a day's record need not be read: the day holds the files that the log has, no more, and its record is older
/// than the log's last version. Whoever wrote that version had seen it.
fn is_settled(day: Option<&Day>, live: &BTreeMap<String, AddFile>, log: &Log) -> bool {
    let Some(day) = day else { return false };
    let is_old = day.recorded.is_some_and(|recorded| recorded + SLACK < log.last_modified);
    is_old && day.files.keys().eq(live.keys())
}

/// What the next version of a log holds.
#[derive(Default)]
struct Changes {
    removed: Vec<AddFile>,
    added: Vec<AddFile>,
    /// Whether the table has a commit record at all.
    is_published: bool,
}

impl Changes {
    async fn find(root: &Location, table: &str, log: Option<&Log>) -> Result<Changes> {
        let folder = root.child(table);
        let mut days: BTreeMap<String, Day> = BTreeMap::new();
        for entry in folder.list().await? {
            let relative = entry.location.relative_to(&folder).unwrap_or_default();
            let Some((dt, name)) = day_of(&relative) else { continue };
            let day = days.entry(dt.to_owned()).or_default();
            if name == RECORD {
                day.recorded = Some(entry.last_modified);
            } else if name.ends_with(".parquet") && !name.starts_with('_') {
                day.files.insert(name.to_owned(), entry);
            }
        }
        let mut changes = Changes { is_published: days.values().any(|d| d.recorded.is_some()), ..Changes::default() };
        let mut live: BTreeMap<String, BTreeMap<String, AddFile>> = BTreeMap::new();
        for (path, file) in log.iter().flat_map(|log| &log.files) {
            match day_of(path) {
                Some((dt, name)) => {
                    live.entry(dt.to_owned()).or_default().insert(name.to_owned(), file.clone());
                }
                None => changes.removed.push(file.clone()),
            }
        }
        let none = BTreeMap::new();
        let is_open = |dt: &&String| {
            let live = live.get(*dt).unwrap_or(&none);
            log.is_none_or(|log| !is_settled(days.get(*dt), live, log))
        };
        let mut open: Vec<String> = days.keys().chain(live.keys()).filter(is_open).cloned().collect();
        open.sort();
        open.dedup();
        let read = |dt: String| async move {
            let record = commit_record(root, table, &dt).await?;
            Ok::<(String, Option<CommitRecord>), Error>((dt, record))
        };
        let records: Vec<(String, Option<CommitRecord>)> =
            stream::iter(open).map(read).buffered(AT_ONCE).try_collect().await?;
        for (dt, record) in records {
            let live = live.remove(&dt).unwrap_or_default();
            changes.take_day(&dt, record.as_ref(), days.get(&dt), live);
        }
        Ok(changes)
    }

    /// Compares what a day's record lists with what the log has of it.
    fn take_day(
        &mut self,
        dt: &str,
        record: Option<&CommitRecord>,
        day: Option<&Day>,
        mut live: BTreeMap<String, AddFile>,
    ) {
        let mut added = Vec::new();
        for file in record.iter().flat_map(|record| &record.files) {
            if live.remove(&file.name).is_some() {
                continue;
            }
            let Some(entry) = day.and_then(|day| day.files.get(&file.name)) else {
                // Half a day must not be seen; the next run of that day builds it anew.
                tracing::warn!(dt, file = file.name, "a published file is gone; the Delta log keeps the day as it was");
                return;
            };
            added.push(AddFile {
                path: encoded(&format!("dt={dt}/{}", file.name)),
                partition_values: BTreeMap::from([(DAY.to_owned(), Some(dt.to_owned()))]),
                size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
                modification_time: entry.last_modified.timestamp_millis(),
                data_change: true,
                stats: Some(json!({ "numRecords": file.rows }).to_string()),
                deletion_vector: None,
            });
        }
        self.added.extend(added);
        self.removed.extend(live.into_values());
    }

    /// The lines of the next version; `None` where there is nothing to say.
    fn lines(&self, log: Option<&Log>, schema: Option<&Schema>, folder: &Location) -> Result<Option<Bytes>> {
        let now = Utc::now().timestamp_millis();
        let before = log.map(|log| &log.metadata);
        let metadata = match schema {
            None => None,
            Some(schema) => {
                let text = schema_string(schema, before.map(|m| m.schema_string.as_str()))?;
                match before {
                    Some(before) if before.schema_string == text => None,
                    Some(before) => Some(Metadata { schema_string: text, ..before.clone() }),
                    None => Some(new_metadata(text, folder, now)),
                }
            }
        };
        let is_same = self.added.is_empty() && self.removed.is_empty() && metadata.is_none();
        if (log.is_some() && is_same) || (log.is_none() && !self.is_published) {
            return Ok(None);
        }
        let mut actions = vec![json!({ "commitInfo": {
            "timestamp": now,
            "operation": "WRITE",
            "operationParameters": { "mode": "Overwrite" },
            "engineInfo": concat!("curec/", env!("CARGO_PKG_VERSION")),
            "isBlindAppend": false,
        } })];
        if log.is_none() {
            actions.push(json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 2 } }));
        }
        actions.extend(metadata.map(|metadata| json!({ "metaData": metadata })));
        actions.extend(self.removed.iter().map(|file| {
            json!({ "remove": {
                "path": file.path,
                "deletionTimestamp": now,
                "dataChange": true,
                "extendedFileMetadata": true,
                "partitionValues": file.partition_values,
                "size": file.size,
            } })
        }));
        actions.extend(self.added.iter().map(|file| json!({ "add": file })));
        let text: String = actions.iter().map(|action| format!("{action}\n")).collect();
        Ok(Some(Bytes::from(text)))
    }
}

fn new_metadata(schema_string: String, folder: &Location, now: i64) -> Metadata {
    let hex = blake3::hash(format!("{} {now}", folder.url()).as_bytes()).to_hex();
    let part = |from: usize, to: usize| &hex.as_str()[from..to];
    Metadata {
        id: [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-"),
        name: Some(folder.name().to_owned()),
        description: None,
        format: json!({ "provider": "parquet", "options": {} }),
        schema_string,
        partition_columns: vec![DAY.to_owned()],
        configuration: BTreeMap::new(),
        created_time: Some(now),
    }
}

/// The date and the name of `dt=2026-01-20/part-0.parquet`; `None` for any other path.
fn day_of(path: &str) -> Option<(&str, &str)> {
    let (folder, name) = path.split_once('/')?;
    let dt = folder.strip_prefix("dt=")?;
    (check_dt(dt).is_ok() && !name.contains('/')).then_some((dt, name))
}

/// A path as a log writes it.
fn encoded(path: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/=".contains(byte);
    path.bytes()
        .map(|byte| if is_plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Writes what stands now as a checkpoint, and where to find it.
async fn write_checkpoint(folder: &Location) -> Result<()> {
    let Some(log) = Log::read(folder).await? else { return Ok(()) };
    let mut actions: Vec<Value> = vec![json!({ "protocol": log.protocol }), json!({ "metaData": log.metadata })];
    // What a checkpoint repeats changes no rows.
    let still = |file: &AddFile| AddFile { data_change: false, ..file.clone() };
    actions.extend(log.files.values().map(|file| json!({ "add": still(file) })));
    let at = folder.child(FOLDER);
    let bytes = encode_checkpoint(&actions)?;
    at.child(&format!("{:020}.checkpoint.parquet", log.version)).put(Bytes::from(bytes)).await?;
    let last = serde_json::to_vec(&json!({ "version": log.version, "size": actions.len() }));
    let last = last.context(Kind::Internal, || "the last checkpoint".into())?;
    at.child("_last_checkpoint").put(Bytes::from(last)).await
}
