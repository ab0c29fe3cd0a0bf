//! What the aggregate functions of the session share: values as whole numbers in the same order, texts as numbers, lists of one
//! element, and the one group of a query without `group by`.
//!
//! Knows Arrow and DataFusion's traits. Knows nothing of what is aggregated.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type};
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use datafusion::physical_expr::expressions::Literal;

/// The bit that tells negative numbers.
const SIGN: u64 = 1 << 63;

/// A list of values of a type, as aggregate functions return it.
pub(super) fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(element, true)))
}

/// Whether [`ranks`] knows the order of a type.
pub(super) fn is_ranked(values: &DataType) -> bool {
    values.is_integer() || values.is_floating() || matches!(values, DataType::Boolean | DataType::Timestamp(_, _))
}

/// Numbers, moments and truth values as whole numbers in the same order, the smallest first; `None` for null.
///
/// # Errors
/// For a whole number above `i64::MAX`.
pub(super) fn ranks(values: &ArrayRef) -> DfResult<Vec<Option<u64>>> {
    let data_type = values.data_type();
    if data_type == &DataType::Boolean {
        return Ok(values.as_boolean().iter().map(|value| value.map(u64::from)).collect());
    }
    if data_type.is_floating() {
        let wide = cast(values, &DataType::Float64)?;
        return Ok(wide.as_primitive::<Float64Type>().iter().map(|value| value.map(rank_of_float)).collect());
    }
    // Without this a number that is too large would be null.
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let whole = cast_with_options(values, &DataType::Int64, &strict)?;
    Ok(whole.as_primitive::<Int64Type>().iter().map(|value| value.map(|value| (value as u64) ^ SIGN)).collect())
}

/// The values of a type that have these ranks.
pub(super) fn unranked(ranks: impl Iterator<Item = Option<u64>>, data_type: &DataType) -> DfResult<ArrayRef> {
    let values: ArrayRef = match data_type {
        DataType::Boolean => Arc::new(ranks.map(|rank| rank.map(|rank| rank == 1)).collect::<BooleanArray>()),
        floating if floating.is_floating() => {
            Arc::new(ranks.map(|rank| rank.map(float_of_rank)).collect::<Float64Array>())
        }
        _ => Arc::new(ranks.map(|rank| rank.map(|rank| (rank ^ SIGN) as i64)).collect::<Int64Array>()),
    };
    Ok(cast(&values, data_type)?)
}

/// The order of `f64::total_cmp`: the larger a negative number's bits, the smaller it is.
fn rank_of_float(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

fn float_of_rank(rank: u64) -> f64 {
    f64::from_bits(if rank & SIGN == 0 { !rank } else { rank ^ SIGN })
}

/// The last argument, which must be written as a whole number above 0.
pub(super) fn limit(args: &AccumulatorArgs<'_>) -> DfResult<usize> {
    let literal = args.exprs.last().and_then(|expr| expr.downcast_ref::<Literal>());
    match literal.map(Literal::value) {
        Some(ScalarValue::Int64(Some(limit @ 1..))) => Ok(*limit as usize),
        _ => Err(refusal(args, "takes a whole number above 0 for its last argument")),
    }
}

/// Refuses what the functions have no meaning for.
pub(super) fn plain(args: &AccumulatorArgs<'_>) -> DfResult<()> {
    match args.is_distinct || args.ignore_nulls || !args.order_bys.is_empty() {
        true => Err(refusal(args, "takes neither `distinct` nor `order by` nor `ignore nulls`")),
        false => Ok(()),
    }
}

fn refusal(args: &AccumulatorArgs<'_>, why: &str) -> DataFusionError {
    DataFusionError::Plan(format!("{} {why}", args.name))
}

/// Whether a row passes the `filter` of an aggregate.
pub(super) fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

/// Each value as a list of its own; null where the filter leaves the row out.
pub(super) fn alone(values: &ArrayRef, filter: Option<&BooleanArray>) -> DfResult<ArrayRef> {
    let nulls = filter.map(|_| (0..values.len()).map(|row| passes(filter, row)).collect::<NullBuffer>());
    let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_repeated_length(1, values.len());
    Ok(Arc::new(ListArray::try_new(field, offsets, Arc::clone(values), nulls)?))
}

/// Texts, each with a number; null is number 0.
#[derive(Debug)]
pub(super) struct Names {
    texts: Vec<String>,
    numbers: HashMap<String, u32>,
    /// The number that was asked for last: most columns say the same again and again.
    last: u32,
    bytes: usize,
}

/// The number of null.
const NULL: u32 = 0;

impl Default for Names {
    fn default() -> Self {
        Names { texts: vec![String::new()], numbers: HashMap::new(), last: NULL, bytes: 0 }
    }
}

impl Names {
    pub(super) fn number(&mut self, text: Option<&str>) -> u32 {
        let Some(text) = text else { return NULL };
        if self.last != NULL && self.texts[self.last as usize] == text {
            return self.last;
        }
        self.last = match self.numbers.get(text) {
            Some(number) => *number,
            None => {
                let number = self.texts.len() as u32;
                self.texts.push(text.to_owned());
                self.numbers.insert(text.to_owned(), number);
                self.bytes += 2 * (text.len() + size_of::<String>()) + size_of::<u64>();
                number
            }
        };
        self.last
    }

    /// The text of a number; `None` for null's.
    pub(super) fn text(&self, number: u32) -> Option<&str> {
        (number != NULL).then(|| self.texts[number as usize].as_str())
    }

    /// The order of the texts, null first.
    pub(super) fn compare(&self, a: u32, b: u32) -> Ordering {
        if a == b { Ordering::Equal } else { self.text(a).cmp(&self.text(b)) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets the texts when all groups have left: what follows, after rows were spilled, is counted anew.
    pub(super) fn forget(&mut self, emit_to: EmitTo) {
        if emit_to == EmitTo::All {
            *self = Names::default();
        }
    }
}

/// Groups that can be there before a row of them is.
pub(super) trait Widen: GroupsAccumulator {
    /// Makes room for so many groups.
    fn widen(&mut self, groups: usize);
}

/// The one group of a query without `group by`, and that of a window.
#[derive(Debug)]
pub(super) struct OneGroup<G>(pub(super) G);

impl<G: Widen + Debug + Sync> Accumulator for OneGroup<G> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let rows = values.first().map_or(0, |column| column.len());
        self.0.update_batch(values, &vec![0; rows], None, 1)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        let rows = states.first().map_or(0, |column| column.len());
        self.0.merge_batch(states, &vec![0; rows], 1)
    }

    /// A window asks for the value of every row's frame and adds rows in between: the group stays.
    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        self.0.widen(1);
        let state = self.0.state(EmitTo::All)?;
        self.0.merge_batch(&state, &[0], 1)?;
        let value = ScalarValue::try_from_array(&self.0.evaluate(EmitTo::All)?, 0)?;
        self.0.merge_batch(&state, &[0], 1)?;
        Ok(value)
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        self.0.widen(1);
        self.0.state(EmitTo::All)?.iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    #![allow(clippy::disallowed_methods, reason = "a function alone is tried, without the product's session")]
    use arrow::array::{Float32Array, UInt64Array};
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::logical_expr::AggregateUDF;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    /// What a query with one of the aggregates finds, in small batches of three partitions, so that states are made and merged.
    pub(crate) async fn shown(function: AggregateUDF, batch: usize, sql: &str) -> String {
        let config = SessionConfig::new().with_target_partitions(3).with_batch_size(batch);
        let config = config.set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
        let session = SessionContext::new_with_config(config);
        session.register_udaf(function);
        let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
        pretty_format_batches(&rows).unwrap().to_string()
    }

    #[test]
    fn ranks_have_the_order_of_their_values_and_lead_back_to_them() {
        let floats = [f64::NEG_INFINITY, -2.5, -0.0, 0.0, 1e-300, 3.0, f64::INFINITY];
        let floats: ArrayRef = Arc::new(Float64Array::from(floats.to_vec()));
        let singles: ArrayRef = Arc::new(Float32Array::from(vec![-2.5, -0.0, 0.0, 3.0]));
        let whole: ArrayRef = Arc::new(Int64Array::from(vec![i64::MIN, -1, 0, 1, i64::MAX]));
        let truths: ArrayRef = Arc::new(BooleanArray::from(vec![false, true]));
        for values in [floats, singles, whole, truths] {
            let found = ranks(&values).unwrap();
            assert!(found.is_sorted() && found.windows(2).all(|pair| pair[0] != pair[1]), "{values:?}");
            assert_eq!(&unranked(found.into_iter(), values.data_type()).unwrap(), &values);
        }
        let missing: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(1)]));
        assert_eq!(ranks(&missing).unwrap()[0], None);
        let large: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        assert!(ranks(&large).is_err(), "it is not taken for null");
    }

    #[test]
    fn names_are_numbered_once_and_compare_as_texts() {
        let mut names = Names::default();
        let numbers = ["view", "buy", "view", ""].map(|text| names.number(Some(text)));
        assert_eq!((numbers[0], names.number(Some("buy"))), (numbers[2], numbers[1]));
        assert_eq!((names.number(None), names.text(0)), (0, None));
        assert_eq!(names.text(numbers[3]), Some(""));
        assert_eq!(names.compare(numbers[1], numbers[0]), Ordering::Less);
        assert_eq!(names.compare(0, numbers[3]), Ordering::Less, "null comes before the empty text");
    }
}
