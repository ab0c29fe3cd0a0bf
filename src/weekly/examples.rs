//! `curec learn examples`: the questions and answers that a language model is aligned with, for a job and an interval.
//!
//! Knows jobs, table definitions and where rows go. Nothing is published: the tables are made as of the interval's start,
//! in a session of their own, and only the interval's events tell the labels.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use chrono::Duration;
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};

use crate::config::{Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::night::graph::{EARLIER, Graph};
use crate::night::prepare::{Prepared, prepare};
use crate::night::tables::{self, like_threshold};
use crate::night::verify::nothing_to_learn;
use crate::query::session::{Param, Session};
use crate::table::write::write_local;

/// The table of the examples.
const ALIGNMENT: &str = "alignment_example";

/// Rows that [`examples`] wrote.
///
/// # Errors
/// [`Kind::Input`] where there is no such file, or it is damaged.
pub fn read(path: &Path) -> Result<Vec<RecordBatch>> {
    let failed = || format!("cannot read the examples in `{}`", path.display());
    let file = std::fs::File::open(path).context(Kind::Input, failed)?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|b| b.build()).context(Kind::Input, failed)?;
    reader.collect::<std::result::Result<_, _>>().context(Kind::Input, failed)
}

/// A session with the inputs up to the interval's end, and as of its start every table that `table` is made from; with the
/// job's tables. Every user and item with an event before the interval counts, whatever the job's limits.
///
/// # Errors
/// As [`prepare`] and [`Prepared::rows`](crate::night::prepare::Prepared::rows).
pub(crate) async fn evidence_for(job: &Job, interval: Interval, table: &str) -> Result<(Session, Arc<Graph>)> {
    let prepared = prepare(job, interval).await?;
    let tables = prepared.graph.before(&[table]);
    Ok((evidence(&prepared, &tables).await?, prepared.graph.clone()))
}

/// The same with users' opinions and what these are made of.
///
/// # Errors
/// As [`evidence_for`].
pub(crate) async fn opinions(prepared: &Prepared) -> Result<Session> {
    const OPINION: &str = "opinion";
    let mut tables = prepared.graph.before(&[OPINION]);
    tables.push(OPINION);
    evidence(prepared, &tables).await
}

/// The same with these tables, which stand in order.
///
/// # Errors
/// As [`evidence_for`].
pub(crate) async fn evidence(prepared: &Prepared, tables: &[&str]) -> Result<Session> {
    for (name, input) in prepared.inputs.iter().filter(|(name, _)| *name != tables::PAIR) {
        tables::hold_bad_rows(prepared.graph.contract(name)?, input).await?;
    }
    let session = prepared.session().await?;
    // Nobody learns from a night's candidates.
    session.register_files(tables::PAIR, prepared.graph.contract(tables::PAIR)?, &[]).await?;
    // Evidence is what a run knows that ends where the interval begins; the session holds the interval's events too.
    let start = prepared.interval.start;
    let before = prepared.at(Interval { start: start - Duration::days(1), end: start }).await?;
    if tables::has_snapshots(&prepared.job)
        && let Some(items) = before.inputs.get(tables::ITEM)
    {
        // The session has the snapshot that stands at the interval's end.
        before.check_snapshot()?;
        let contract = prepared.graph.contract(tables::ITEM)?;
        tables::hold_bad_rows(contract, items).await?;
        tables::register_input(&session, contract, items).await?;
    }
    for name in tables {
        // Every item counts; what earlier nights had does not matter.
        for earlier in prepared.graph.reads(name).filter(|read| !session.has_table(read)) {
            if let Some(base) = earlier.strip_prefix(EARLIER) {
                session.register_files(earlier, prepared.graph.contract(base)?, &[]).await?;
            }
        }
        let (contract, definition) = (prepared.graph.contract(name)?, prepared.graph.definition(name)?);
        if !prepared.is_made(name)? {
            session.register_files(name, contract, &[]).await?;
            continue;
        }
        let mut params = before.params_of(definition)?;
        for (name, value) in &mut params {
            match *name {
                "user_active_days" | "item_active_days" => *value = Param::Int(110_000),
                "max_users" | "max_items" => *value = Param::Int(0),
                "items" => *value = Param::Text("active".into()),
                _ => {}
            }
        }
        let rows = definition.run(&session, contract, &params).await?;
        session.register_spilled(name, contract, rows).await?;
    }
    Ok(session)
}

/// Puts a stage's examples in the place of those of before, whose `record` goes first: were the stage cut short, it would tell
/// of others.
///
/// # Errors
/// `Kind::Temporary` where the record cannot be removed; as [`write_local`].
pub(crate) fn replace(file: &Path, rows: &[RecordBatch], record: &Path) -> Result<()> {
    match std::fs::remove_file(record) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(Kind::Temporary, "cannot remove a record").with("file", record.display()).source(e))
        }
        _ => write_local(file, rows),
    }
}

/// How many examples, at most.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
pub struct Size {
    /// In all; half of them pairs (see `sql/alignment_example.sql`).
    #[serde(rename = "max")]
    pub max_examples: u64,
    /// Pairs of each label and user.
    pub pairs_per_user: u64,
}

impl Default for Size {
    fn default() -> Self {
        Size { max_examples: 12_000, pairs_per_user: 8 }
    }
}

/// Rows of `alignment_example`, sorted by `example_id`: evidence from before the interval, labels from the interval. With
/// `out`, they are written to that Parquet file as well.
///
/// Every user and item with an event before the interval counts, whatever the job's limits: who is active in the interval
/// may have paused before it.
///
/// # Errors
/// As [`prepare`] and [`Model::run`](crate::query::model::Model::run); [`Kind::NotArrived`] when the interval has no event yet, [`Kind::Input`] when
/// there is not one example.
pub async fn examples(job: &Job, interval: Interval, size: Size, out: Option<&Path>) -> Result<Vec<RecordBatch>> {
    let (session, graph) = evidence_for(job, interval, ALIGNMENT).await?;
    let contract = graph.contract(ALIGNMENT)?;
    let whole = |n: u64| Param::Int(i64::try_from(n).unwrap_or(i64::MAX / 100));
    let params = [
        ("interval_start", Param::Timestamp(interval.start.timestamp_micros())),
        ("interval_end", Param::Timestamp(interval.end.timestamp_micros())),
        ("like_threshold", like_threshold(&job.spec.history, graph.contract("interaction")?)),
        ("pairs_per_user", whole(size.pairs_per_user)),
        ("max_examples", whole(size.max_examples.min(1 << 40))),
    ];
    let rows: Vec<RecordBatch> =
        graph.definition(ALIGNMENT)?.run(&session, contract, &params).await?.try_collect().await?;
    if rows.iter().all(|batch| batch.num_rows() == 0) {
        let needs = "the interval needs rated events, and enough events before it";
        return Err(nothing_to_learn(job, interval, &session, "there is nothing to make examples of", needs).await?);
    }
    if let Some(out) = out {
        write_local(out, &rows)?;
    }
    Ok(rows)
}
