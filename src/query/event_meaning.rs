//! `event_liked(event)`: whether an event without a rating says that its user likes the item, as the job has it. And the filter
//! under queries over a log that leaves out the events that a job drops.
//!
//! Asks [`Meanings`], as the checks of inputs do. Knows nothing of ratings or of files.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use crate::columns::at;
use crate::config::{Meaning, Meanings};

/// `event_liked(event)` is true for a like, false for a dislike, and null for an event that says nothing of it.
pub(super) fn event_liked(meanings: Meanings) -> ScalarUDF {
    function(meanings, LIKED)
}

/// Whether a row is read: `event` is what the files have for that column, `None` where they have none. `None` where all rows
/// are.
pub(super) fn is_read(meanings: &Meanings, event: Option<Expr>) -> Option<Expr> {
    let event = event.unwrap_or_else(|| lit(ScalarValue::Utf8(None)));
    meanings.drops().then(|| function(meanings.clone(), IS_READ).call(vec![event]))
}

const LIKED: &str = "event_liked";
const IS_READ: &str = "event_is_read";

/// What such a function knows, for one that travels to another process; `None` for any other function.
#[cfg(feature = "cluster")]
pub(super) fn packed(function: &ScalarUDF) -> Option<serde_json::Value> {
    let meanings = &function.inner().downcast_ref::<OfEvent>()?.meanings;
    let named = meanings.named().map(|(event, meaning)| (event.to_owned(), meaning.name().into()));
    let named: serde_json::Map<String, serde_json::Value> = named.collect();
    Some(serde_json::json!({ "named": named, "other": meanings.other().name() }))
}

/// The function again; `None` for what is none of these.
#[cfg(feature = "cluster")]
pub(super) fn unpacked(name: &str, packed: &serde_json::Value) -> Option<ScalarUDF> {
    let name = [LIKED, IS_READ].into_iter().find(|known| *known == name)?;
    let meaning = |value: &serde_json::Value| Meaning::parse(value.as_str()?);
    let named = packed.get("named")?.as_object()?.iter();
    let named: Vec<(String, Meaning)> =
        named.map(|(event, value)| Some((event.clone(), meaning(value)?))).collect::<Option<_>>()?;
    Some(function(Meanings::new(named, meaning(packed.get("other")?)?), name))
}

fn function(meanings: Meanings, name: &'static str) -> ScalarUDF {
    ScalarUDF::new_from_impl(OfEvent { name, meanings, signature: Signature::any(1, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OfEvent {
    name: &'static str,
    meanings: Meanings,
    signature: Signature,
}

impl ScalarUDFImpl for OfEvent {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        if self.meanings.is_default() {
            return Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))));
        }
        let events = cast(&args.args[0].to_array(args.number_rows)?, &DataType::Utf8)?;
        let events = events.as_string::<i32>();
        let meanings = (0..events.len()).map(|row| self.meanings.of(at(events, row)));
        let told: BooleanArray = match self.name {
            IS_READ => meanings.map(|meaning| Some(meaning != Meaning::Dropped)).collect(),
            _ => meanings.map(Meaning::liked).collect(),
        };
        Ok(ColumnarValue::Array(Arc::new(told)))
    }
}
