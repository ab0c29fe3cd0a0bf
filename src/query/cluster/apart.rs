//! Rows that executors work on a part at a time: each part is a file, and a task of its own.
//!
//! Knows how such work travels, as a function of all columns that holds a text. What is done with the rows, whoever has
//! written the text knows.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::query::cluster::settings::FOR_NOW;

/// The function's name in plans.
pub(super) const NAME: &str = "work_on_part";

/// What an executor does with the rows of a part.
pub trait Work: fmt::Debug + Send + Sync {
    /// Works on the rows; says of each whether something was done for it. Blocks for as long as that takes.
    ///
    /// # Errors
    /// `Kind::Temporary` where another try may succeed, on this executor or another; any other kind ends the query.
    fn on(&self, rows: RecordBatch) -> Result<BooleanArray>;
}

/// The function as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Form {
    /// Names of its arguments.
    columns: Vec<String>,
    /// What tells an executor its work.
    work: String,
}

struct OnPart {
    form: Form,
    /// `None` where the function only passes through.
    work: Option<Arc<dyn Work>>,
    signature: Signature,
}

impl OnPart {
    fn function(form: Form, work: Option<Arc<dyn Work>>) -> ScalarUDF {
        // Its results are never the same: it is called once for each part, and not by a planner.
        ScalarUDF::new_from_impl(OnPart { form, work, signature: Signature::variadic_any(Volatility::Volatile) })
    }
}

/// The function that has executors work on these columns.
pub(crate) fn function(columns: Vec<String>, work: String) -> ScalarUDF {
    OnPart::function(Form { columns, work }, None)
}

/// What the function holds; `None` for any other one.
pub(super) fn packed(function: &ScalarUDF) -> Option<Vec<u8>> {
    serde_json::to_vec(&function.inner().downcast_ref::<OnPart>()?.form).ok()
}

/// The function again; `find` finds the work of its text, where this process does any.
///
/// # Errors
/// `Kind::Input` for what is no such function; those of `find`.
pub(super) fn unpacked(packed: &[u8], find: impl FnOnce(&str) -> Result<Option<Arc<dyn Work>>>) -> Result<ScalarUDF> {
    let form: Form =
        serde_json::from_slice(packed).context(Kind::Input, || "work that was sent cannot be read".into())?;
    let work = find(&form.work)?;
    Ok(OnPart::function(form, work))
}

impl fmt::Debug for OnPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)
    }
}

impl PartialEq for OnPart {
    fn eq(&self, other: &Self) -> bool {
        self.form == other.form
    }
}

impl Eq for OnPart {}

impl Hash for OnPart {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.form.hash(state);
    }
}

/// Ballista tries again what failed in reading and writing, and nothing else.
fn told(error: Error) -> DataFusionError {
    match error.kind() {
        Kind::Temporary => DataFusionError::IoError(std::io::Error::other(format!("{FOR_NOW}: {}", error.explain()))),
        _ => DataFusionError::External(Box::new(error)),
    }
}

impl ScalarUDFImpl for OnPart {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let Some(work) = &self.work else {
            return Err(DataFusionError::Internal("this process works on no parts".into()));
        };
        let arrays: DfResult<Vec<ArrayRef>> = args.args.iter().map(|a| a.to_array(args.number_rows)).collect();
        let arrays = arrays?;
        let field = |(name, array): (&String, &ArrayRef)| Field::new(name, array.data_type().clone(), true);
        let fields: Vec<Field> = self.form.columns.iter().zip(&arrays).map(field).collect();
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
        let done = match rows.num_rows() {
            0 => BooleanArray::from(Vec::<bool>::new()),
            _ => work.on(rows).map_err(told)?,
        };
        Ok(ColumnarValue::Array(Arc::new(done)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_function_arrives_with_its_text_and_finds_its_work_there() {
        let sent = function(vec!["a".into(), "b".into()], "the work".into());
        let bytes = packed(&sent).unwrap();
        let mut asked = String::new();
        let arrived = unpacked(&bytes, |work| {
            asked = work.to_owned();
            Ok(None)
        });
        assert_eq!(arrived.unwrap(), sent);
        assert_eq!(asked, "the work");
        assert!(unpacked(b"{}", |_| Ok(None)).is_err());
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let of = |kind| told(Error::new(kind, "why").with("executor", "here"));
        let passing = of(Kind::Temporary);
        assert!(matches!(&passing, DataFusionError::IoError(e) if e.to_string().contains(FOR_NOW)), "{passing}");
        assert!(passing.to_string().contains("here"));
        assert!(matches!(of(Kind::Model), DataFusionError::External(_)));
    }
}
