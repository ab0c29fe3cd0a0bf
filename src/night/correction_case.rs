//! Cases of the correct stage: a user's reason, the evidence that it leaned on, and what became of it.
//!
//! Knows the columns of `correction_case`, with or without the rewrites that were asked for; knows nothing of judges, checks or
//! models.

use arrow::array::{
    Array, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, TimestampMicrosecondType};

use crate::columns::{at, column, floats, integers, text};
use crate::error::{Error, Kind, Result};
use crate::generate::prompt::Evidence;
use crate::reward::score::evidence_of;

/// A reason, what it leaned on, and what became of it.
pub(super) struct User {
    pub(super) user_id: String,
    pub(super) from_as_of: i64,
    pub(super) corrected_from: String,
    pub(super) draft: Draft,
    pub(super) evidence: Evidence,
    /// Item, liked, time; oldest first.
    pub(super) past: Vec<(String, bool, i64)>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) rewrites: Vec<Draft>,
}

/// An item that the user met in the interval, or one like it that the user did not.
pub(super) struct Outcome {
    pub(super) item_id: String,
    pub(super) is_liked: bool,
    pub(super) time: i64,
    pub(super) is_met: bool,
}

/// A text and how it came about.
#[derive(Clone, Default)]
pub(super) struct Draft {
    pub(super) reason: String,
    /// Of a rewrite.
    pub(super) prompt_key: Option<String>,
    pub(super) finish: Option<String>,
    pub(super) logprob_sum: Option<f64>,
    pub(super) completion_tokens: i64,
    pub(super) is_template: bool,
}

/// A column of lists of structs, row by row.
fn structs(batch: &RecordBatch, name: &str) -> Result<Vec<Option<StructArray>>> {
    let found = batch
        .column_by_name(name)
        .and_then(|c| c.as_list_opt::<i32>())
        .ok_or_else(|| Error::new(Kind::Internal, "a query lacks a column of lists").with("column", name))?;
    (0..found.len())
        .map(|i| match found.is_null(i) {
            true => Ok(None),
            false => match found.value(i).as_struct_opt() {
                Some(rows) => Ok(Some(rows.clone())),
                None => Err(Error::new(Kind::Internal, "a list holds no structs").with("column", name)),
            },
        })
        .collect()
}

fn booleans(batch: &RecordBatch, name: &str) -> Result<BooleanArray> {
    Ok(column(batch, name, &DataType::Boolean)?.as_boolean().clone())
}

fn moments(batch: &RecordBatch, name: &str) -> Result<TimestampMicrosecondArray> {
    let utc = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
    Ok(column(batch, name, &utc)?.as_primitive::<TimestampMicrosecondType>().clone())
}

fn number(array: &Float64Array, i: usize) -> Option<f64> {
    array.is_valid(i).then(|| array.value(i))
}

/// The cases of a batch.
///
/// # Errors
/// `Kind::Internal` where it lacks a column.
pub(super) fn users(batch: &RecordBatch) -> Result<Vec<User>> {
    let [user_id, corrected_from] = [text(batch, "user_id")?, text(batch, "corrected_from")?];
    let [reason, finish] = [text(batch, "reason")?, text(batch, "finish")?];
    let (from_as_of, logprob_sum) = (moments(batch, "from_as_of")?, floats(batch, "logprob_sum")?);
    let tokens = integers(batch, "completion_tokens")?;
    let mut evidence = evidence_of(batch, "history")?;
    let (past, outcomes) = (structs(batch, "past")?, structs(batch, "outcomes")?);
    let rewrites = match batch.column_by_name("rewrites") {
        Some(_) => structs(batch, "rewrites")?,
        None => vec![None; batch.num_rows()],
    };
    let owned = |array: &StringArray, i| at(array, i).unwrap_or_default().to_string();
    (0..batch.num_rows())
        .map(|i| {
            let mut user = User {
                user_id: owned(&user_id, i),
                from_as_of: from_as_of.value(i),
                corrected_from: owned(&corrected_from, i),
                draft: Draft {
                    reason: owned(&reason, i),
                    finish: at(&finish, i).map(str::to_string),
                    logprob_sum: number(&logprob_sum, i),
                    completion_tokens: tokens.value(i),
                    ..Draft::default()
                },
                evidence: std::mem::take(&mut evidence[i]),
                past: Vec::new(),
                outcomes: Vec::new(),
                rewrites: Vec::new(),
            };
            if let Some(rows) = &past[i] {
                let rows = RecordBatch::from(rows);
                let (item, liked) = (text(&rows, "item_id")?, booleans(&rows, "liked")?);
                let time = moments(&rows, "event_timestamp")?;
                user.past = (0..rows.num_rows()).map(|k| (owned(&item, k), liked.value(k), time.value(k))).collect();
            }
            if let Some(rows) = &outcomes[i] {
                let rows = RecordBatch::from(rows);
                let (item, liked) = (text(&rows, "item_id")?, booleans(&rows, "liked")?);
                let (time, met) = (moments(&rows, "event_timestamp")?, booleans(&rows, "is_met")?);
                let outcome = |k| Outcome {
                    item_id: owned(&item, k),
                    is_liked: liked.value(k),
                    time: time.value(k),
                    is_met: met.value(k),
                };
                user.outcomes = (0..rows.num_rows()).map(outcome).collect();
            }
            if let Some(rows) = &rewrites[i] {
                let rows = RecordBatch::from(rows);
                let [key, reason, finish] =
                    [text(&rows, "prompt_key")?, text(&rows, "reason")?, text(&rows, "finish")?];
                let (sum, tokens) = (floats(&rows, "logprob_sum")?, integers(&rows, "completion_tokens")?);
                user.rewrites.extend((0..rows.num_rows()).filter_map(|k| {
                    Some(Draft {
                        // Where the answer format is broken there is none.
                        reason: at(&reason, k)?.to_string(),
                        prompt_key: at(&key, k).map(str::to_string),
                        finish: at(&finish, k).map(str::to_string),
                        logprob_sum: number(&sum, k),
                        completion_tokens: tokens.value(k),
                        is_template: false,
                    })
                }));
            }
            Ok(user)
        })
        .collect()
}
