//! `curec learn examples`: the questions and answers that a language model is aligned with, for a job and an interval.
//!
//! Knows jobs, table definitions and where rows go. Nothing is published: the tables are made as of the interval's start,
//! in a session of their own, and only the interval's events tell the labels.

use std::path::Path;

use arrow::array::RecordBatch;
use chrono::Duration;
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};

use crate::config::{Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::night::tables::{self, contract_of, like_threshold, prepare};
use crate::night::verify::nothing_to_learn;
use crate::query::model::Model;
use crate::query::session::{Param, Session};
use crate::table::write::write_local;

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

/// Tables that examples are made from, in the order in which they are made.
const BEFORE: [&str; 7] =
    ["opinion", "user_history", "item_taste", "item_pair", "item_category", "item_audience", "reason_prompt"];

/// A session with the inputs up to the interval's end, and `tables` as of its start, made in this order. Every user and item
/// with an event before the interval counts, whatever the job's limits.
///
/// # Errors
/// As [`prepare`] and [`Model::run`].
pub(crate) async fn evidence(job: &Job, interval: Interval, tables: &[&'static str]) -> Result<Session> {
    let prepared = prepare(job, interval).await?;
    for (name, input) in &prepared.inputs {
        tables::hold_bad_rows(&prepared.contracts[name], input).await?;
    }
    let session = tables::session(&prepared).await?;
    // Evidence is what a run knows that ends where the interval begins; the session holds the interval's events too.
    let before = Interval { start: interval.start - Duration::days(1), end: interval.start };
    let mut params = tables::params(&prepared.at(before))?;
    for (name, value) in &mut params {
        match *name {
            "user_active_days" | "item_active_days" => *value = Param::Int(110_000),
            "max_users" | "max_items" => *value = Param::Int(0),
            _ => {}
        }
    }
    for name in tables {
        let contract = &prepared.contracts[*name];
        let rows = prepared.sql[*name].run(&session, contract, &params).await?;
        session.register_aside(name, contract, rows).await?;
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
/// As [`prepare`] and [`Model::run`]; [`Kind::NotArrived`] when the interval has no event yet, [`Kind::Input`] when
/// there is not one example.
pub async fn examples(job: &Job, interval: Interval, size: Size, out: Option<&Path>) -> Result<Vec<RecordBatch>> {
    let session = evidence(job, interval, &BEFORE).await?;
    let contract = contract_of(job, "alignment_example")?;
    let sql = (!job.spec.project.sql.is_empty()).then(|| Path::new(&job.spec.project.sql));
    let model = Model::find(contract.name.as_str(), sql)?;
    let whole = |n: u64| Param::Int(i64::try_from(n).unwrap_or(i64::MAX / 100));
    let params = [
        ("interval_start", Param::Timestamp(interval.start.timestamp_micros())),
        ("interval_end", Param::Timestamp(interval.end.timestamp_micros())),
        ("like_threshold", like_threshold(&job.spec.history, &contract_of(job, "interaction")?)),
        ("pairs_per_user", whole(size.pairs_per_user)),
        ("max_examples", whole(size.max_examples.min(1 << 40))),
    ];
    let rows: Vec<RecordBatch> = model.run(&session, &contract, &params).await?.try_collect().await?;
    if rows.iter().all(|batch| batch.num_rows() == 0) {
        let needs = "the interval needs rated events, and enough events before it";
        return Err(nothing_to_learn(job, interval, &session, "there is nothing to make examples of", needs).await?);
    }
    if let Some(out) = out {
        write_local(out, &rows)?;
    }
    Ok(rows)
}
