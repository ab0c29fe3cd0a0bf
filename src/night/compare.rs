//! Tonight beside what was: the last runs in numbers, and the version before in reasons and in items' vectors.
//!
//! The version before is the partition that a run replaces, or else that of the last interval before it. Knows what a run has
//! staged and where the runs before have left their numbers. Nothing here fails a run: what cannot be read is not shown, and
//! the report says so.

use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Float32Type;
use futures::TryStreamExt;

use crate::columns::{at, integers, text};
use crate::error::{Error, Kind, Result};
use crate::night::decide::TablePlan;
use crate::night::history;
use crate::night::measures::{Moved, MovedCount, VectorMean};
use crate::night::prepare::Prepared;
use crate::night::report::{Changed, Details, Versions};
use crate::night::samples::samples;
use crate::night::tables::files_in;
use crate::query::session::Session;
use crate::query::texts;
use crate::reward::names::Vocabulary;
use crate::table::partition::{CommitRecord, commit_record};

/// The tables that are compared row by row.
const REASON: &str = "reason";
const ITEM_FEATURE: &str = "item_feature";
/// Begins the names under which queries read them as they were.
const BEFORE: &str = "before_";
/// How long a comparison may take: no run waits longer for what only helps to look at it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Fills in what the report shows of the runs before.
pub(super) async fn compare(
    prepared: &Prepared,
    session: &Session,
    plans: &[TablePlan],
    words: &Vocabulary,
    details: &mut Details,
) {
    let runs = prepared.root.child("_runs");
    let mut untold = Vec::new();
    match history::last(&runs, &prepared.job.spec.name, prepared.interval).await {
        Ok(before) => details.before = before,
        Err(e) => untold.push(unread("the last runs", &e)),
    }
    let last = details.before.last().map(|run| run.dt.clone());
    let compared = async {
        details.measures.mean_vector = mean_vector(session).await?;
        if let Some(before) = version_before(prepared, plans, REASON, last.as_deref()).await? {
            register(prepared, session, &before).await?;
            details.versions = Some(versions(session, &before, words).await?);
        }
        if let Some(before) = version_before(prepared, plans, ITEM_FEATURE, last.as_deref()).await? {
            register(prepared, session, &before).await?;
            details.measures.moved = Some(moved(session, &before).await?);
        }
        Ok::<(), Error>(())
    };
    match tokio::time::timeout(PATIENCE, compared).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => untold.push(unread("the version before", &e)),
        Err(_) => {
            tracing::warn!("the report does not show the version before: comparing takes too long");
            untold.push("the version before (comparing takes too long)".to_owned());
        }
    }
    let Details { measures, before, .. } = details;
    measures.measure_distance(before);
    // The vectors have told what they can: a report has no use for them.
    before.iter_mut().for_each(|run| run.mean_vector.clear());
    details.note = (!untold.is_empty()).then(|| format!("Could not be read and is not shown: {}.", untold.join("; ")));
}

/// Logs why something is not shown; returns what a page says of it, without what a store says.
fn unread(what: &str, why: &Error) -> String {
    tracing::warn!(error = %why, "the report does not show {what}");
    format!("{what} ({})", why.kind().name())
}

/// The partition that tonight's takes the place of, or that of the last day before it.
async fn version_before(
    prepared: &Prepared,
    plans: &[TablePlan],
    table: &str,
    last: Option<&str>,
) -> Result<Option<CommitRecord>> {
    // A table that is kept is no version after its own.
    let replaced = plans.iter().find(|plan| plan.table == table && plan.is_build());
    if let Some(standing) = replaced.and_then(|plan| plan.standing.clone()) {
        return Ok(Some(standing));
    }
    match last {
        Some(dt) => commit_record(&prepared.root, table, dt).await,
        None => Ok(None),
    }
}

async fn register(prepared: &Prepared, session: &Session, record: &CommitRecord) -> Result<()> {
    let (table, files) = (&record.table, files_in(&prepared.root, record)?);
    session.register_files(&format!("{BEFORE}{table}"), prepared.graph.contract(table)?, &files).await
}

/// Reasons that stand in both versions, and some that are in other words.
async fn versions(session: &Session, before: &CommitRecord, words: &Vocabulary) -> Result<Versions> {
    let mut found = Versions { against: before.dt.clone(), ..Versions::default() };
    for batch in session.sql(texts::CHANGED_TALLY, &[]).await?.collect().await? {
        let sum = |name: &str| Ok::<u64, Error>(integers(&batch, name)?.iter().flatten().sum::<i64>() as u64);
        found.common += sum("common")?;
        found.same += sum("same")?;
    }
    let rows = session.sql(texts::CHANGED_SAMPLES, &[]).await?.collect().await?;
    let mut was = Vec::new();
    for batch in &rows {
        let column = text(batch, "reason_before")?;
        was.extend((0..batch.num_rows()).map(|i| at(&column, i).unwrap_or_default().to_owned()));
    }
    let now = samples(&rows, words)?;
    found.changed = now.into_iter().zip(was).map(|(now, before)| Changed { now, before }).collect();
    Ok(found)
}

/// The mean of tonight's vectors of items.
async fn mean_vector(session: &Session) -> Result<Vec<f64>> {
    let mut mean = VectorMean::default();
    let mut rows = session.sql(texts::ITEM_VECTORS, &[]).await?.stream().await?;
    while let Some(batch) = rows.try_next().await? {
        vectors(&batch, "embedding")?.iter().for_each(|vector| mean.push(vector));
    }
    Ok(mean.finish())
}

/// How many items have another vector than before.
async fn moved(session: &Session, before: &CommitRecord) -> Result<Moved> {
    let mut count = MovedCount::default();
    // Sorted joins spill: two versions of a large catalogue's vectors need not fit in memory.
    let mut rows = session.sql_with_sorted_joins(texts::MOVED_VECTORS, &[]).await?.stream().await?;
    while let Some(batch) = rows.try_next().await? {
        let (now, was) = (vectors(&batch, "embedding")?, vectors(&batch, "embedding_before")?);
        now.iter().zip(&was).for_each(|(now, was)| count.push(now, was));
    }
    Ok(count.finish(&before.dt))
}

/// The vectors of a column; an empty one stands for null.
fn vectors(batch: &RecordBatch, name: &str) -> Result<Vec<Vec<f32>>> {
    let lists = batch.column_by_name(name).and_then(|column| column.as_fixed_size_list_opt());
    let lists = lists.ok_or_else(|| Error::new(Kind::Internal, "vectors are no lists").with("column", name))?;
    let vector = |row: usize| match lists.is_valid(row) {
        true => lists.value(row).as_primitive_opt::<Float32Type>().map(|v| v.values().to_vec()).unwrap_or_default(),
        false => Vec::new(),
    };
    Ok((0..lists.len()).map(vector).collect())
}
