//! The hand-over to the ranker: every event with the newest feature rows that were true before or at its moment.
//!
//! A streaming as-of join. Events come from DataFusion, sorted (which spills); feature files are read as their moments come,
//! one row for each entity is held ([`crate::table::as_of`]); row groups are copied together and encoded on several threads.
//! Bytes depend on events, features and contracts only, not on the order of the events in their files or on threads.
//!
//! **Columns**: `user_id, item_id, event, rating, event_timestamp`, then every column but the key of `item_feature` and
//! `user_feature` under `item_` and `user_`. Rows are sorted by moment, user and item. Where there was no feature row yet,
//! `*_missing` is true, `*_n_reasons` 0, the embedding zeros, and `*_event_timestamp` null, which tells it from a row whose
//! reasons were all refused.
//!
//! **Files**: `part-<n>-<hash>.parquet`, staged under `_staging/` in the same folder, and `_export.json`, which is put last
//! and lists them. Knows every layer below; knows nothing of the command line.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::columns::{column, text};
use crate::config::Job;
use crate::error::{Context, Error, Kind, Result};
use crate::feature::Entity;
use crate::night::made_from::{as_of, learned_later};
use crate::night::tables::{contract_of, hold_bad_rows, locate, new_session, open_input_of, register_input};
use crate::query::session::{BatchStream, Param, Session};
use crate::query::texts;
use crate::table::as_of::{AsOf, Picked};
use crate::table::contract::{Column, Contract, Writer};
use crate::table::partition::{CommittedFile, partition};
use crate::table::published::partitions;
use crate::table::row_group::{EncodedGroup, GroupWriter};
use crate::table::store::{Location, remove_folder};
use crate::table::write::StagedFile;

/// The export's own record inside its folder.
pub const RECORD: &str = "_export.json";
/// Where files lie until all of them are whole.
const STAGING: &str = "_staging";
/// Version of the record's format.
const FORMAT: u32 = 1;
/// The columns of an event.
const EVENT: [&str; 5] = ["user_id", "item_id", "event", "rating", "event_timestamp"];
/// Rows copied and encoded at a time, so that wide rows stay in the cache: part of the format, as pages end there.
const STEP_ROWS: usize = 1024;
/// Row groups encoded at once, at most: each holds some `row_group_bytes`.
const MAX_AT_ONCE: usize = 8;

/// What to export, and where to.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder: a path or an URL.
    pub out: String,
    /// The first moment whose events are exported; `None`: the log's first.
    pub from: Option<DateTime<Utc>>,
    /// The first moment whose events are not; `None`: all of them are.
    pub to: Option<DateTime<Utc>>,
    /// Whose features.
    pub features: Vec<Entity>,
    /// Replace the export that is there.
    pub overwrite: bool,
    /// Join features too that were written by models which learned from events after their day.
    pub allow_later_training: bool,
}

/// What an export consists of: the content of `_export.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// Version of this record's own format.
    pub format: u32,
    /// The curec that wrote it.
    pub curec: String,
    /// The job.
    pub job: String,
    /// First moment, RFC 3339, where one was given.
    pub from: Option<String>,
    /// First moment after it, where one was given.
    pub to: Option<String>,
    /// Events, and so rows.
    pub rows: u64,
    /// The files in row order.
    pub files: Vec<CommittedFile>,
    /// Digest of the log that was read.
    pub interaction: String,
    /// By feature table.
    pub features: BTreeMap<String, Joined>,
}

/// One feature table of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Fingerprints of the partitions that were there, by date.
    pub partitions: BTreeMap<String, String>,
    /// Events that have no feature row.
    pub without: u64,
    /// Partitions among them that were written by models which learned from events after their day, and until when these have
    /// learned, RFC 3339: events before that moment are flattered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub learned_later: BTreeMap<String, String>,
}

impl Exported {
    /// One line of JSON for scripts.
    pub fn summary(&self, out: &str) -> serde_json::Value {
        let without = |table: &str| self.features.get(table).map(|joined| joined.without);
        serde_json::json!({
            "status": "exported",
            "job": self.job,
            "out": out,
            "rows": self.rows,
            "files": self.files.len(),
            "bytes": self.files.iter().map(|f| f.bytes).sum::<u64>(),
            "without_item_feature": without(Entity::Item.table()),
            "without_user_feature": without(Entity::User.table()),
        })
    }
}

/// Writes the training rows of a ranker.
///
/// # Errors
/// `Kind::Usage` for a folder that is not free and for an empty range; `Kind::Input` where no feature table was
/// published and for a log that cannot be read; `Kind::Config` for tables that cannot be joined; `Kind::Temporary` for the
/// store's faults and for a partition that is replaced meanwhile. The folder's earlier content stays in all cases.
pub async fn export(job: &Job, options: &Options) -> Result<Exported> {
    if let (Some(from), Some(to)) = (options.from, options.to)
        && from >= to
    {
        return Err(Error::new(Kind::Usage, "the range is empty: its start is not before its end")
            .with("from", from.to_rfc3339())
            .with("to", to.to_rfc3339())
            .hint("the end is exclusive"));
    }
    let root = locate(job, &job.spec.warehouse)?;
    let out = locate(job, &options.out)?;
    let log = locate(job, &job.spec.input.interaction)?;
    for taken in [&root, &log] {
        let is_within = out.relative_to(taken).is_some() || taken.relative_to(&out).is_some();
        if out.store_url() == taken.store_url() && is_within {
            return Err(Error::new(
                Kind::Usage,
                "an export needs a folder of its own, outside of warehouse and inputs",
            )
            .with("out", &out)
            .with("taken", taken));
        }
    }
    let before = free(&out, options.overwrite).await?;

    let mut features = BTreeMap::new();
    let mut sides = Vec::new();
    for entity in Entity::ALL.into_iter().filter(|entity| options.features.contains(entity)) {
        let (side, joined) = Side::open(job, &root, entity, options).await?;
        features.insert(entity.table().to_string(), joined);
        sides.push(side);
    }
    if !options.allow_later_training {
        refuse_later(&features)?;
    }
    if sides.is_empty() {
        return Err(Error::new(Kind::Usage, "no features are asked for").hint("pass --features item,user"));
    }
    let session = new_session(job)?;
    let contract = contract_of(job, "interaction")?;
    let input = open_input_of(job, &contract, &job.spec.input.interaction).await?;
    input.warnings.iter().for_each(|warning| tracing::warn!(table = "interaction", "{warning}"));
    hold_bad_rows(&contract, &input).await?;
    register_input(&session, &contract, &input).await?;

    let layout = Layout::of(&contract, &sides)?;
    let staging = out.child(STAGING);
    // Left by an export that was killed.
    remove_folder(&staging).await?;
    let writer = GroupWriter::new(&layout.contract, layout.schema.clone(), staging.clone())?;
    let mut merge = Merge { layout, writer, sides, running: VecDeque::new() };
    let events = events(&session, options).await?;
    let (rows, files) = match merge.run(events).await {
        Ok(done) => done,
        Err(e) => {
            merge.writer.abort().await;
            return Err(e);
        }
    };
    for side in &merge.sides {
        features.entry(side.entity.table().to_string()).or_default().without = side.without;
    }
    let done = Exported {
        format: FORMAT,
        curec: env!("CARGO_PKG_VERSION").to_string(),
        job: job.spec.name.clone(),
        from: options.from.map(|t| t.to_rfc3339()),
        to: options.to.map(|t| t.to_rfc3339()),
        rows,
        files: files.iter().map(committed).collect(),
        interaction: input.digest(),
        features,
    };
    publish(&out, &staging, &files, &done, before).await?;
    Ok(done)
}

/// Refuses features that know what came after the events they would be joined to.
fn refuse_later(features: &BTreeMap<String, Joined>) -> Result<()> {
    let of_table = |(table, joined): (&String, &Joined)| {
        joined.learned_later.iter().map(|(dt, until)| format!("{table}/dt={dt} (until {until})")).collect::<Vec<_>>()
    };
    let all: Vec<String> = features.iter().flat_map(of_table).collect();
    if all.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Usage,
        "features were written by a model that learned from events after their day: a ranker that trains on them would \
         know what came later",
    )
    .with("partitions", all.join(", "))
    .hint(
        "build these days again with a version that learned from earlier events, leave them out with --from and --to, or \
         pass --allow-later-training where nothing is measured by the export",
    ))
}

fn committed(file: &StagedFile) -> CommittedFile {
    CommittedFile { name: file.name.clone(), rows: file.rows, bytes: file.bytes, blake3: file.blake3.clone() }
}

/// What an earlier export has left in the folder.
async fn free(out: &Location, overwrite: bool) -> Result<Vec<Location>> {
    if out.local_path().is_some_and(|path| path.is_file()) {
        return Err(Error::new(Kind::Usage, "this is a file; an export needs a folder").with("out", out));
    }
    let mut before = Vec::new();
    for entry in out.list().await? {
        let name = entry.location.relative_to(out).unwrap_or_default();
        // Some tools make an empty object in place of a folder.
        if name.is_empty() || name.starts_with(&format!("{STAGING}/")) {
            continue;
        }
        let is_ours =
            name == RECORD || (name.starts_with("part-") && name.ends_with(".parquet") && !name.contains('/'));
        if !is_ours {
            return Err(Error::new(Kind::Usage, "the folder holds files that no export wrote")
                .with("out", out)
                .with("file", &entry.location)
                .hint("name an empty or new folder"));
        }
        before.push(entry.location);
    }
    if !before.is_empty() && !overwrite {
        return Err(Error::new(Kind::Usage, "there is an export in this folder already")
            .with("out", out)
            .hint("name another folder, or add --overwrite"));
    }
    Ok(before)
}

/// Puts staged files in place, the record last, and then removes what was there before. Readers that list files instead of
/// reading the record see old and new ones in between.
async fn publish(
    out: &Location,
    staging: &Location,
    files: &[StagedFile],
    done: &Exported,
    before: Vec<Location>,
) -> Result<()> {
    for file in files {
        file.location.copy_to(&out.child(&file.name)).await?;
    }
    let mut json = serde_json::to_vec_pretty(done).context(Kind::Internal, || "the export's record".into())?;
    json.push(b'\n');
    out.child(RECORD).put(Bytes::from(json)).await?;
    for old in before {
        if old.name() != RECORD && !files.iter().any(|file| file.name == old.name()) {
            old.delete().await?;
        }
    }
    remove_folder(staging).await
}

/// The events of the range, sorted, in the columns of [`EVENT`].
async fn events(session: &Session, options: &Options) -> Result<BatchStream> {
    let moment = |t: Option<DateTime<Utc>>| Param::Timestamp(t.unwrap_or_default().timestamp_micros());
    let params = [
        ("from_first", Param::Bool(options.from.is_none())),
        ("range_start", moment(options.from)),
        ("to_last", Param::Bool(options.to.is_none())),
        ("range_end", moment(options.to)),
    ];
    session.sql(texts::EVENTS_OF_RANGE, &params).await?.stream().await
}

/// The features of one kind of entity.
struct Side {
    entity: Entity,
    rows: AsOf,
    writer: Writer,
    without: u64,
}

impl Side {
    async fn open(job: &Job, root: &Location, entity: Entity, options: &Options) -> Result<(Side, Joined)> {
        let contract = contract_of(job, entity.table())?;
        let (mut files, mut joined) = (Vec::new(), Joined::default());
        for record in partitions(root, entity.table()).await? {
            let folder = partition(root, &record.table, &record.dt)?;
            files.extend(record.files.iter().map(|f| (folder.child(&f.name), f.bytes)));
            // Neither features of after the range nor models that learned before it tell what came later than an event.
            let is_joined = options.to.is_none_or(|to| as_of(&record).is_none_or(|as_of| as_of < to));
            let until = learned_later(&record.parts).map(|(_, until)| until).max();
            if let Some(until) = until.filter(|until| is_joined && options.from.is_none_or(|from| *until > from)) {
                joined.learned_later.insert(record.dt.clone(), until.to_rfc3339());
            }
            joined.partitions.insert(record.dt, record.fingerprint);
        }
        if files.is_empty() {
            let others: Vec<&str> = Entity::ALL.iter().filter(|e| **e != entity).map(|e| e.name()).collect();
            return Err(Error::new(Kind::Input, format!("no row of {} was published yet", entity.table()))
                .with("warehouse", root)
                .hint(format!(
                    "run the job for some days first (curec run), or pass --features {}",
                    others.join(",")
                )));
        }
        let writer = contract.writer.clone();
        let rows = AsOf::open(contract, entity.key(), files).await?;
        Ok((Side { entity, rows, writer, without: 0 }, joined))
    }
}

/// How the files look.
struct Layout {
    contract: Contract,
    schema: SchemaRef,
    group_rows: usize,
}

impl Layout {
    fn of(interaction: &Contract, sides: &[Side]) -> Result<Self> {
        let (mut columns, mut fields): (Vec<Column>, Vec<Field>) = (Vec::new(), Vec::new());
        for name in EVENT {
            let column = interaction.column(name).ok_or_else(|| {
                Error::new(Kind::Config, "the contract lacks a column that an export needs")
                    .with("table", &interaction.name)
                    .with("column", name)
            })?;
            fields.push(Field::new(name, column.column_type.arrow(0), column.nullable));
            columns.push(column.clone());
        }
        let mut writer = Writer::default();
        for (i, side) in sides.iter().enumerate() {
            let prefix = format!("{}_", side.entity.name());
            let own = &side.writer;
            if i == 0 {
                writer.compression.clone_from(&own.compression);
                (writer.row_group_bytes, writer.file_bytes) = (own.row_group_bytes, own.file_bytes);
            }
            for (into, from) in [
                (&mut writer.byte_stream_split, &own.byte_stream_split),
                (&mut writer.no_dictionary, &own.no_dictionary),
                (&mut writer.no_statistics, &own.no_statistics),
            ] {
                into.extend(from.iter().map(|name| format!("{prefix}{name}")));
            }
            for (column, field) in side.rows.columns(&prefix) {
                columns.push(column);
                fields.push(field);
            }
        }
        let row_bytes: usize = fields.iter().map(|field| row_bytes(field.data_type())).sum();
        let group_rows = (writer.row_group_bytes / row_bytes.max(1)).clamp(STEP_ROWS, 1 << 20) / STEP_ROWS * STEP_ROWS;
        let sorted_by = ["event_timestamp", "user_id", "item_id"].map(str::to_string).to_vec();
        let contract = Contract::made("export", columns, sorted_by, writer);
        Ok(Layout { contract, schema: Arc::new(Schema::new(fields)), group_rows })
    }
}

/// Bytes of a row's value, about.
fn row_bytes(kind: &DataType) -> usize {
    match kind {
        DataType::FixedSizeList(_, width) => 4 * usize::try_from(*width).unwrap_or(0),
        DataType::Utf8 => 24,
        DataType::List(_) | DataType::Struct(_) => 64,
        _ => 8,
    }
}

/// A row group that is being put together.
#[derive(Default)]
struct Group {
    events: Vec<RecordBatch>,
    picked: Vec<Picked>,
    rows: usize,
}

impl Group {
    fn of(sides: usize) -> Self {
        Group { picked: (0..sides).map(|_| Picked::default()).collect(), ..Group::default() }
    }

    /// Its batches of the exported columns, [`STEP_ROWS`] rows each, made one after the other.
    fn batches(self, schema: SchemaRef) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
        let first = self.events.first().map_or_else(|| schema.clone(), RecordBatch::schema);
        let failed = || "cannot join events and features".to_string();
        let events = concat_batches(&first, &self.events).context(Kind::Internal, failed)?;
        Ok((0..self.rows).step_by(STEP_ROWS).map(move |start| {
            let rows = STEP_ROWS.min(self.rows - start);
            let mut columns = events.slice(start, rows).columns().to_vec();
            for picked in &self.picked {
                columns.extend(picked.gather(start..start + rows)?);
            }
            RecordBatch::try_new(schema.clone(), columns).context(Kind::Internal, failed)
        }))
    }
}

struct Merge {
    layout: Layout,
    writer: GroupWriter,
    sides: Vec<Side>,
    /// Row groups that are being encoded, in their order.
    running: VecDeque<JoinHandle<Result<EncodedGroup>>>,
}

impl Merge {
    /// Joins all events; returns how many there were, and the files.
    async fn run(&mut self, mut events: BatchStream) -> Result<(u64, Vec<StagedFile>)> {
        let mut group = Group::of(self.sides.len());
        let mut total = 0;
        while let Some(batch) = events.try_next().await? {
            let batch = self.as_exported(&batch)?;
            let moments = batch.column(4).as_primitive::<TimestampMicrosecondType>().clone();
            let keys = self.sides.iter().map(|s| text(&batch, s.entity.key())).collect::<Result<Vec<_>>>()?;
            let mut begin = 0;
            for (row, moment) in moments.values().iter().enumerate() {
                for ((side, picked), keys) in self.sides.iter_mut().zip(&mut group.picked).zip(&keys) {
                    if *moment >= side.rows.due() {
                        side.rows.advance(*moment).await?;
                    }
                    side.without += u64::from(!side.rows.pick(keys.value(row), picked));
                    // A group that spans many days must not keep all their batches.
                    if picked.source_rows() > 4 * self.layout.group_rows + 2 * side.rows.entities() {
                        picked.condense()?;
                    }
                }
                group.rows += 1;
                if group.rows == self.layout.group_rows {
                    group.events.push(batch.slice(begin, row + 1 - begin));
                    begin = row + 1;
                    let full = std::mem::replace(&mut group, Group::of(self.sides.len()));
                    self.submit(full).await?;
                }
            }
            if begin < batch.num_rows() {
                group.events.push(batch.slice(begin, batch.num_rows() - begin));
            }
            total += batch.num_rows() as u64;
        }
        if group.rows > 0 {
            self.submit(group).await?;
        }
        while !self.running.is_empty() {
            self.write_next().await?;
        }
        Ok((total, self.writer.finish().await?))
    }

    /// Events in the exported types, none of which lacks what it is joined by.
    fn as_exported(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(EVENT.len());
        for field in self.layout.schema.fields().iter().take(EVENT.len()) {
            let array = column(batch, field.name(), field.data_type())?;
            if array.null_count() > 0 && !field.is_nullable() {
                return Err(Error::new(Kind::Input, "events lack a value that must be there")
                    .with("table", "interaction")
                    .with("column", field.name())
                    .hint("curec run refuses such a log as well and names the rows"));
            }
            columns.push(array);
        }
        let fields = self.layout.schema.fields().iter().take(EVENT.len()).cloned().collect::<Vec<_>>();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).context(Kind::Internal, || "events".into())
    }

    /// Has a row group encoded on another thread; waits while as many are as may be.
    async fn submit(&mut self, group: Group) -> Result<()> {
        // One more than threads, so that none waits while a finished one is written.
        let at_once = std::thread::available_parallelism().map_or(2, |n| n.get() + 1).min(MAX_AT_ONCE);
        while self.running.len() >= at_once {
            self.write_next().await?;
        }
        let (encoder, schema) = (self.writer.encoder(), self.layout.schema.clone());
        self.running.push_back(tokio::task::spawn_blocking(move || encoder.encode(group.batches(schema)?)));
        Ok(())
    }

    async fn write_next(&mut self) -> Result<()> {
        let Some(next) = self.running.pop_front() else { return Ok(()) };
        let group = next.await.context(Kind::Internal, || "encoding a row group did not end".into())??;
        self.writer.push(group).await
    }
}
