//! What nights have published of items until a moment, by dense id: the newest vector, or the newest row's scalar columns or words.
//!
//! Knows the table `item_feature` of a warehouse; knows nothing of arms, or of what a vector is for.

use std::collections::HashMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Float32Type;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;

use crate::columns;
use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::evaluate::collaborative::ItemVectors;
use crate::evaluate::scalars::Scalars;
use crate::evaluate::word_space::ItemWords;
use crate::night::graph::contracts_of;
use crate::query::session::{Param, Session};
use crate::query::texts;

/// The scalar columns of a job's features of items.
///
/// # Errors
/// As [`contracts_of`].
pub fn scalar_columns(job: &Job) -> Result<Scalars> {
    Ok(Scalars::of(&contracts_of(job)?["item_feature"]))
}

/// The newest vector of each item; none where nothing was said of it.
///
/// # Errors
/// What the query says.
pub async fn vectors(session: &Session, moment: DateTime<Utc>, items: &[String]) -> Result<ItemVectors> {
    let read = |batch: &RecordBatch| -> Result<ItemVectors> {
        let vectors = batch.column_by_name("embedding").and_then(|c| c.as_fixed_size_list_opt());
        let vectors = vectors.ok_or_else(|| Error::new(Kind::Internal, "published vectors are no lists"))?;
        let vector = |row: usize| vectors.value(row).as_primitive_opt::<Float32Type>().map(|v| v.values().to_vec());
        Ok((0..batch.num_rows()).map(vector).collect())
    };
    newest(session, texts::PUBLISHED_ITEM_VECTORS, moment, items, read).await
}

/// The scalar columns `of` each item's newest row, not standardised yet; none where no night has published one.
///
/// # Errors
/// What the query says; as [`Scalars::rows`].
pub async fn scalars(session: &Session, of: &Scalars, moment: DateTime<Utc>, items: &[String]) -> Result<ItemVectors> {
    let read = |batch: &RecordBatch| -> Result<ItemVectors> { Ok(of.rows(batch)?.into_iter().map(Some).collect()) };
    newest(session, texts::PUBLISHED_ITEM_SCALARS, moment, items, read).await
}

/// Whether each item's newest vector is that of a reason; not where it is the evidence's, or there is none.
///
/// # Errors
/// What the query says.
pub async fn are_reasons(session: &Session, moment: DateTime<Utc>, items: &[String]) -> Result<Vec<bool>> {
    let read = |batch: &RecordBatch| -> Result<Vec<Option<bool>>> {
        let sources = columns::text(batch, "source")?;
        Ok((0..batch.num_rows()).map(|row| Some(columns::at(&sources, row) == Some("reason"))).collect())
    };
    let found = newest(session, texts::PUBLISHED_ITEM_SCALARS, moment, items, read).await?;
    Ok(found.into_iter().map(Option::unwrap_or_default).collect())
}

/// The words of each item's newest row; none where no night has published some.
///
/// # Errors
/// What the query says.
pub async fn words(session: &Session, moment: DateTime<Utc>, items: &[String]) -> Result<ItemWords> {
    let read = |batch: &RecordBatch| Ok(columns::text_lists(batch, "words")?.into_iter().map(Some).collect());
    let found = newest(session, texts::PUBLISHED_ITEM_WORDS, moment, items, read).await?;
    Ok(found.into_iter().map(Option::unwrap_or_default).collect())
}

/// What `read` makes of the rows of a query of what was true at a moment, whose last row of an item counts.
async fn newest<T>(
    session: &Session,
    sql: &str,
    moment: DateTime<Utc>,
    items: &[String],
    read: impl Fn(&RecordBatch) -> Result<Vec<Option<T>>>,
) -> Result<Vec<Option<T>>> {
    let mut known: HashMap<String, T> = HashMap::new();
    let as_of = [("as_of", Param::Timestamp(moment.timestamp_micros()))];
    let mut rows = session.sql(sql, &as_of).await?.stream().await?;
    while let Some(batch) = rows.try_next().await? {
        let ids = columns::text(&batch, "entity_id")?;
        for (row, said) in read(&batch)?.into_iter().enumerate() {
            if let Some(said) = said {
                known.insert(ids.value(row).to_owned(), said);
            }
        }
    }
    Ok(items.iter().map(|item| known.remove(item)).collect())
}
