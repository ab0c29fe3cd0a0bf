//! Further columns of a file as texts `Label: value`, behind those that the file has in `attributes`.
//!
//! Knows Arrow's types and how texts are cleaned. Knows nothing of which columns a job names.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListBuilder, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, TimestampMicrosecondType};
use chrono::DateTime;
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use crate::columns::at;
use crate::query::clean_text::{one_line, texts};
use crate::table::cast::without_zone;

/// At most so many values of a list.
const MAX_VALUES: usize = 3;
/// At most so many characters of a value.
const MAX_CHARS: usize = 60;
/// How dates are written.
const DATE: &str = "%Y-%m-%d";

/// The list `own` and behind it a text for each of `found`, a label and a column, in this order. A null, blank or empty
/// value gives no text.
pub(super) fn labelled(own: Expr, found: Vec<(String, Expr)>) -> Expr {
    let (labels, columns): (Vec<String>, Vec<Expr>) = found.into_iter().unzip();
    function(labels).call(std::iter::once(own).chain(columns).collect())
}

fn function(labels: Vec<String>) -> ScalarUDF {
    let signature = Signature::new(TypeSignature::Any(labels.len() + 1), Volatility::Immutable);
    ScalarUDF::new_from_impl(Labelled { labels, signature })
}

const NAME: &str = "labelled";

/// What such a function knows, for one that travels to another process; `None` for any other function.
#[cfg(feature = "cluster")]
pub(super) fn packed(function: &ScalarUDF) -> Option<serde_json::Value> {
    Some(function.inner().downcast_ref::<Labelled>()?.labels.clone().into())
}

/// The function again; `None` for what is none.
#[cfg(feature = "cluster")]
pub(super) fn unpacked(name: &str, packed: &serde_json::Value) -> Option<ScalarUDF> {
    let labels = packed.as_array().filter(|_| name == NAME)?.iter();
    Some(function(labels.map(|label| Some(label.as_str()?.to_owned())).collect::<Option<_>>()?))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Labelled {
    labels: Vec<String>,
    signature: Signature,
}

impl ScalarUDFImpl for Labelled {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(texts())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<DfResult<Vec<_>>>()?;
        let own = cast(&arrays[0], &texts())?;
        let said = self.labels.iter().zip(&arrays[1..]).map(|(label, array)| lines(label, array));
        let said = said.collect::<DfResult<Vec<_>>>()?;
        let own = own.as_list::<i32>();
        let mut all = ListBuilder::new(StringBuilder::new());
        for row in 0..rows {
            let mut is_there = own.is_valid(row);
            if is_there {
                own.value(row).as_string::<i32>().iter().for_each(|text| all.values().append_option(text));
            }
            for text in said.iter().filter_map(|lines| lines[row].as_ref()) {
                all.values().append_value(text);
                is_there = true;
            }
            all.append(is_there);
        }
        Ok(ColumnarValue::Array(Arc::new(all.finish())))
    }
}

/// A column's values as lines behind a label.
fn lines(label: &str, array: &ArrayRef) -> DfResult<Vec<Option<String>>> {
    let (DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _)) = array.data_type()
    else {
        let said = values(array)?.into_iter().map(|value| Some(format!("{label}: {}", value?)));
        return Ok(said.collect());
    };
    let lists = cast(array, &DataType::List(Arc::clone(child)))?;
    let lists = lists.as_list::<i32>();
    let said = (0..lists.len()).map(|row| {
        let mut kept: Vec<String> = Vec::new();
        if lists.is_valid(row) {
            for value in values(&lists.value(row))?.into_iter().flatten() {
                if kept.len() < MAX_VALUES && !kept.contains(&value) {
                    kept.push(value);
                }
            }
        }
        Ok((!kept.is_empty()).then(|| format!("{label}: {}", kept.join(", "))))
    });
    said.collect()
}

/// Values as people write them, each on one line of bounded length; `None` where there is nothing to say.
fn values(array: &ArrayRef) -> DfResult<Vec<Option<String>>> {
    let as_text =
        |array: &ArrayRef| Ok::<_, arrow::error::ArrowError>(cast(array, &DataType::Utf8)?.as_string::<i32>().clone());
    let rows = 0..array.len();
    Ok(match array.data_type() {
        DataType::Null => vec![None; array.len()],
        DataType::Boolean => {
            let said = array.as_boolean().iter().map(|is| Some(if is? { "yes" } else { "no" }.to_owned()));
            said.collect()
        }
        DataType::Dictionary(_, value) => values(&cast(array, value)?)?,
        DataType::Date32 | DataType::Date64 => {
            let dates = cast(array, &DataType::Date32)?.as_primitive::<Date32Type>().clone();
            let date = |row| dates.is_valid(row).then(|| dates.value_as_date(row)).flatten();
            rows.map(|row| Some(date(row)?.format(DATE).to_string())).collect()
        }
        DataType::Timestamp(..) => {
            // The date of UTC. What lies in no calendar says nothing.
            let Some(naive) = without_zone(array) else { return Ok(vec![None; array.len()]) };
            let moments = naive.as_primitive::<TimestampMicrosecondType>().iter();
            let said = moments.map(|micros| Some(DateTime::from_timestamp_micros(micros?)?.format(DATE).to_string()));
            said.collect()
        }
        t if t.is_numeric() => {
            let written = as_text(array)?;
            rows.map(|row| number(at(&written, row)?)).collect()
        }
        _ => {
            let written = as_text(array)?;
            rows.map(|row| one_line(at(&written, row)?, MAX_CHARS)).collect()
        }
    })
}

/// A number without zeros at its end; `None` for what is none.
fn number(written: &str) -> Option<String> {
    if matches!(written, "NaN" | "inf" | "-inf" | "nan") {
        return None;
    }
    let is_plain = written.contains('.') && !written.contains(['e', 'E']);
    let short = if is_plain { written.trim_end_matches('0').trim_end_matches('.') } else { written };
    Some(if short == "-0" { "0" } else { short }.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use arrow::array::{
        BooleanArray, Date32Array, Decimal128Array, DictionaryArray, FixedSizeListArray, Float32Array, Float64Array,
        Int64Array, LargeListArray, NullArray, StringArray, TimestampMillisecondArray, TimestampNanosecondArray,
    };
    use arrow::datatypes::Int32Type;

    fn said(array: impl Array + 'static) -> Vec<String> {
        let array: ArrayRef = Arc::new(array);
        lines("L", &array).unwrap().into_iter().map(|line| line.unwrap_or_else(|| "-".into())).collect()
    }

    #[test]
    fn values_are_written_as_people_write_them() {
        let long = "very ".repeat(20);
        let cut = format!("L: {}", "very ".repeat(12).trim_end());
        assert_eq!(
            said(StringArray::from(vec![Some(" PG\n13 "), Some(" "), None, Some(&long)])),
            ["L: PG 13", "-", "-", &cut]
        );
        assert_eq!(said(BooleanArray::from(vec![Some(true), Some(false), None])), ["L: yes", "L: no", "-"]);
        assert_eq!(said(Int64Array::from(vec![Some(-7), None, Some(1200)])), ["L: -7", "-", "L: 1200"]);
        let floats = Float32Array::from(vec![12.0, 12.99, f32::NAN, -0.0, 100.0, f32::INFINITY]);
        assert_eq!(said(floats), ["L: 12", "L: 12.99", "-", "L: 0", "L: 100", "-"]);
        assert_eq!(said(Float64Array::from(vec![0.5, f64::NEG_INFINITY])), ["L: 0.5", "-"]);
        let decimals = Decimal128Array::from(vec![1250, 1000]).with_precision_and_scale(6, 2).unwrap();
        assert_eq!(said(decimals), ["L: 12.5", "L: 10"]);
        assert_eq!(
            said(Date32Array::from(vec![Some(0), Some(-1), None, Some(i32::MAX)])),
            ["L: 1970-01-01", "L: 1969-12-31", "-", "-"]
        );
        let moment = TimestampMillisecondArray::from(vec![-1, 86_400_000]).with_timezone("Europe/Berlin");
        assert_eq!(said(moment), ["L: 1969-12-31", "L: 1970-01-02"], "the date of UTC");
        assert_eq!(said(TimestampNanosecondArray::from(vec![1])), ["L: 1970-01-01"]);
        assert_eq!(said(TimestampMillisecondArray::from(vec![Some(i64::MAX / 1000), None])), ["-", "-"]);
        let dictionary: DictionaryArray<Int32Type> = vec![Some("a"), None, Some("a")].into_iter().collect();
        assert_eq!(said(dictionary), ["L: a", "-", "L: a"]);
        assert_eq!(said(NullArray::new(2)), ["-", "-"]);
    }

    #[test]
    fn of_a_list_three_values_count() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        [Some("A"), None, Some(" "), Some("A "), Some("B"), Some("C"), Some("D")]
            .iter()
            .for_each(|text| lists.values().append_option(*text));
        lists.append(true);
        lists.append(false);
        lists.append(true);
        let lists = lists.finish();
        assert_eq!(said(lists.clone()), ["L: A, B, C", "-", "-"]);
        assert_eq!(said(lists.slice(1, 2)), ["-", "-"]);
        let years = LargeListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1999), Some(2003)]), None]);
        assert_eq!(said(years), ["L: 1999, 2003", "-"]);
        let pairs = [Some(vec![Some(1), Some(2)]), None, Some(vec![None, Some(3)])];
        let pairs = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(pairs, 2);
        assert_eq!(said(pairs), ["L: 1, 2", "-", "L: 3"]);
    }
}
