//! Rows of `correction_prompt` and `reason_correction`, under their contracts.
//!
//! Knows columns; knows nothing of how a rewrite was found or chosen.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};

use crate::error::{Context, Error, Kind, Result};
use crate::night::correction_case::Draft;
use crate::reward::choose::Correction;
use crate::table::contract::Contract;

/// A row of correction_prompt.
pub(super) struct Asked {
    pub(super) user_id: String,
    pub(super) place: i64,
    pub(super) from_as_of: i64,
    pub(super) corrected_from: String,
    pub(super) mistake: &'static str,
    pub(super) what: String,
    pub(super) prompt: String,
    pub(super) stem: String,
    pub(super) key: String,
}

/// A row of reason_correction.
pub(super) struct Corrected {
    pub(super) user_id: String,
    pub(super) from_as_of: i64,
    pub(super) corrected_from: String,
    pub(super) correction: Correction,
    pub(super) gain_before: f64,
    pub(super) gain_after: Option<f64>,
    pub(super) n_outcomes: usize,
    pub(super) n_met: usize,
    pub(super) n_candidates: usize,
    pub(super) edit: Option<f64>,
    pub(super) score: Option<f64>,
    pub(super) chosen: Option<Draft>,
}

/// The rewrites to ask for, as of a moment (microseconds since 1970).
///
/// # Errors
/// `Kind::Config` for a contract with other columns.
pub(super) fn prompt_rows(rows: &[Asked], as_of: i64, contract: &Contract) -> Result<RecordBatch> {
    let texts =
        |pick: fn(&Asked) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(pick))) };
    batch_of(contract, |name| {
        Some(match name {
            "user_id" => texts(|r| &r.user_id),
            "as_of" => utc(rows.iter().map(|_| as_of)),
            "place" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.place))),
            "from_as_of" => utc(rows.iter().map(|r| r.from_as_of)),
            "corrected_from" => texts(|r| &r.corrected_from),
            "mistake" => texts(|r| r.mistake),
            "mistake_text" => texts(|r| &r.what),
            "prompt_text" => texts(|r| &r.prompt),
            "answer_stem" => texts(|r| &r.stem),
            "prompt_key" => texts(|r| &r.key),
            _ => return None,
        })
    })
}

/// What was chosen as of a moment (microseconds since 1970), by the judge of a digest.
///
/// # Errors
/// `Kind::Config` for a contract with other columns.
pub(super) fn correction_rows(
    rows: &[Corrected],
    as_of: i64,
    digest: &str,
    contract: &Contract,
) -> Result<RecordBatch> {
    let texts =
        |pick: fn(&Corrected) -> Option<&str>| -> ArrayRef { Arc::new(rows.iter().map(pick).collect::<StringArray>()) };
    let values =
        |pick: fn(&Corrected) -> Option<f64>| -> ArrayRef { Arc::new(rows.iter().map(pick).collect::<Float64Array>()) };
    let counts = |pick: fn(&Corrected) -> usize| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| pick(r) as i64)))
    };
    batch_of(contract, |name| {
        Some(match name {
            "user_id" => texts(|r| Some(&r.user_id)),
            "as_of" => utc(rows.iter().map(|_| as_of)),
            "from_as_of" => utc(rows.iter().map(|r| r.from_as_of)),
            "corrected_from" => texts(|r| Some(&r.corrected_from)),
            "correction" => texts(|r| Some(r.correction.as_str())),
            "reason" => texts(|r| r.chosen.as_ref().map(|c| c.reason.as_str())),
            "prompt_key" => texts(|r| r.chosen.as_ref()?.prompt_key.as_deref()),
            "gain_before" => values(|r| Some(r.gain_before)),
            "gain_after" => values(|r| r.gain_after),
            "n_outcomes" => counts(|r| r.n_outcomes),
            "n_met" => counts(|r| r.n_met),
            "n_candidates" => counts(|r| r.n_candidates),
            "edit" => values(|r| r.edit),
            "score" => values(|r| r.score),
            "judge" => Arc::new(StringArray::from_iter_values(rows.iter().map(|_| digest))),
            _ => return None,
        })
    })
}

fn utc(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn batch_of(contract: &Contract, fill: impl Fn(&str) -> Option<ArrayRef>) -> Result<RecordBatch> {
    let schema = contract.arrow_schema(None);
    let filled = schema.fields().iter().map(|field| {
        fill(field.name()).ok_or_else(|| {
            Error::new(Kind::Config, "a contract has a column that curec does not fill")
                .with("table", &contract.name)
                .with("column", field.name())
        })
    });
    let columns: Result<Vec<ArrayRef>> = filled.collect();
    RecordBatch::try_new(schema, columns?).context(Kind::Internal, || format!("rows do not fit {}", contract.name))
}
