//! `min_by(x, y, n)`: the values `x` of a group's `n` rows with the smallest `y`, as a list in that order; null where there is no row.
//!
//! Arguments are those of the function of this name in Trino and DuckDB. Rows whose `y` is null do not count. A null `x` stays in
//! the list as in Trino; DuckDB leaves it out. `y` is a number, a moment or a truth value, or a struct of two of these, such as
//! `struct(rating, recency)`: the second decides where the first is the same, and null in a struct is greater than any value, as
//! in DuckDB. What `y` does not tell apart comes in any order.
//!
//! It is `array_agg(x order by y) filter (where y is not null)` cut to `n`, and holds no more than `n` rows a group, in whatever
//! order they come. Knows nothing of tables.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, ListArray, UInt32Array, new_empty_array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};

use crate::query::aggregation::{OneGroup, Widen, alone, is_ranked, limit, list_of, passes, plain, ranks};

/// The type of a key in the state between two stages: its 128 bits, whatever they mean as a decimal.
const KEY: DataType = DataType::Decimal128(38, 0);
/// How many keys of 64 bits fit into one of 128.
const MOST_KEYS: usize = 2;
/// Rows that are held beside those that are still among the first.
const SLACK: usize = 1 << 16;

pub(super) fn min_by() -> AggregateUDF {
    AggregateUDF::new_from_impl(MinBy { signature: Signature::any(3, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MinBy {
    signature: Signature,
}

impl MinBy {
    fn groups(&self, args: &AccumulatorArgs<'_>) -> DfResult<Groups> {
        plain(args)?;
        let value = args.expr_fields[0].data_type().clone();
        Ok(Groups::new(limit(args)?, value))
    }
}

impl AggregateUDFImpl for MinBy {
    fn name(&self) -> &str {
        "min_by"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        match types {
            [value, key, _] if is_key(key) => Ok(list_of(value.clone())),
            _ => Err(DataFusionError::Plan(
                "min_by takes a number, a moment, a truth value or a struct of two of these for its second argument"
                    .into(),
            )),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> DfResult<Vec<FieldRef>> {
        let field = |name: &str, element: DataType| {
            Arc::new(Field::new(format_state_name(args.name, name), list_of(element), true))
        };
        Ok(vec![field("values", args.input_fields[0].data_type().clone()), field("keys", KEY)])
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        Ok(Box::new(OneGroup(self.groups(&args)?)))
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(self.groups(&args)?))
    }
}

/// A row that is among the first of its group: where its value lies.
#[derive(Debug)]
struct Kept {
    key: u128,
    batch: u32,
    row: u32,
}

#[derive(Debug)]
struct Groups {
    limit: usize,
    /// The type of the values.
    value: DataType,
    /// Of each group the first rows, in order.
    kept: Vec<Vec<Kept>>,
    /// The values of rows that are kept, or were when they came.
    held: Vec<ArrayRef>,
    /// Rows in `held`.
    rows: usize,
    /// Rows in `kept`.
    live: usize,
    /// Size of `held`.
    bytes: usize,
}

impl Groups {
    fn new(limit: usize, value: DataType) -> Groups {
        Groups { limit, value, kept: Vec::new(), held: Vec::new(), rows: 0, live: 0, bytes: 0 }
    }

    /// Takes rows, each with its place in `values`, its group and its key.
    fn offer(&mut self, values: &ArrayRef, rows: impl Iterator<Item = (usize, usize, u128)>) -> DfResult<()> {
        let batch = self.held.len() as u32;
        let mut chosen: Vec<u32> = Vec::new();
        for (row, group, key) in rows {
            let kept = &mut self.kept[group];
            if kept.len() >= self.limit {
                if kept.last().is_some_and(|last| last.key <= key) {
                    continue;
                }
                kept.pop();
                self.live -= 1;
            }
            let place = kept.partition_point(|other| other.key <= key);
            kept.insert(place, Kept { key, batch, row: chosen.len() as u32 });
            chosen.push(row as u32);
            self.live += 1;
        }
        if !chosen.is_empty() {
            // A copy, so that a few rows do not hold a whole batch.
            self.hold(take(values.as_ref(), &UInt32Array::from(chosen), None)?);
        }
        self.tidy()
    }

    fn hold(&mut self, values: ArrayRef) {
        self.rows += values.len();
        self.bytes += values.get_array_memory_size();
        self.held.push(values);
    }

    /// Lets go of the rows that are not among the first any more, where they are many.
    fn tidy(&mut self) -> DfResult<()> {
        if self.rows <= 2 * self.live + SLACK && (self.live > 0 || self.rows == 0) {
            return Ok(());
        }
        let mut places = Vec::with_capacity(self.live);
        for kept in self.kept.iter_mut().flatten() {
            places.push((kept.batch as usize, kept.row as usize));
            (kept.batch, kept.row) = (0, (places.len() - 1) as u32);
        }
        let dense = self.gather(&places)?;
        (self.held, self.rows, self.bytes) = (Vec::new(), 0, 0);
        if !places.is_empty() {
            self.hold(dense);
        }
        Ok(())
    }

    fn gather(&self, places: &[(usize, usize)]) -> DfResult<ArrayRef> {
        if places.is_empty() {
            return Ok(new_empty_array(&self.value));
        }
        let held: Vec<&dyn Array> = self.held.iter().map(|values| values.as_ref()).collect();
        Ok(interleave(&held, places)?)
    }

    /// Takes groups out: their values as lists, and all their keys.
    fn release(&mut self, emit_to: EmitTo) -> DfResult<(ListArray, Vec<u128>)> {
        let groups = emit_to.take_needed(&mut self.kept);
        let places: Vec<_> = groups.iter().flatten().map(|kept| (kept.batch as usize, kept.row as usize)).collect();
        let keys = groups.iter().flatten().map(|kept| kept.key).collect();
        let values = self.gather(&places)?;
        self.live -= places.len();
        self.tidy()?;
        let field = Arc::new(Field::new_list_field(self.value.clone(), true));
        let offsets = OffsetBuffer::from_lengths(groups.iter().map(Vec::len));
        let nulls: NullBuffer = groups.iter().map(|kept| !kept.is_empty()).collect();
        Ok((ListArray::try_new(field, offsets, values, Some(nulls))?, keys))
    }
}

impl Widen for Groups {
    fn widen(&mut self, groups: usize) {
        if self.kept.len() < groups {
            self.kept.resize_with(groups, Vec::new);
        }
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> DfResult<()> {
        self.widen(groups);
        let keys = keys_of(&values[1])?;
        let rows = group_indices.iter().zip(keys).enumerate().filter(|(row, _)| passes(filter, *row));
        self.offer(&values[0], rows.filter_map(|(row, (group, key))| key.map(|key| (row, *group, key))))
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], groups: usize) -> DfResult<()> {
        self.widen(groups);
        let (lists, key_lists) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        let (from, keys_from) = (lists.value_offsets(), key_lists.value_offsets());
        let keys = key_lists.values().as_primitive::<Decimal128Type>();
        let rows = group_indices.iter().enumerate().filter(|(state, _)| lists.is_valid(*state));
        let rows = rows.flat_map(|(state, group)| {
            let (begin, end) = (from[state] as usize, from[state + 1] as usize);
            let key = keys_from[state] as usize;
            (begin..end).map(move |row| (row, *group, keys.value(key + row - begin) as u128))
        });
        self.offer(lists.values(), rows)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> DfResult<ArrayRef> {
        Ok(Arc::new(self.release(emit_to)?.0))
    }

    fn state(&mut self, emit_to: EmitTo) -> DfResult<Vec<ArrayRef>> {
        let (lists, keys) = self.release(emit_to)?;
        let field = Arc::new(Field::new_list_field(KEY, true));
        let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
        let keys = ListArray::try_new(field, offsets, as_state(keys)?, nulls)?;
        Ok(vec![Arc::new(lists), Arc::new(keys)])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        let keys = keys_of(&values[1])?;
        let counted = keys.iter().enumerate().map(|(row, key)| Some(key.is_some() && passes(filter, row)));
        let counted: BooleanArray = counted.collect();
        let keys = as_state(keys.into_iter().map(Option::unwrap_or_default).collect())?;
        Ok(vec![alone(&values[0], Some(&counted))?, alone(&keys, Some(&counted))?])
    }

    fn size(&self) -> usize {
        self.kept.capacity() * size_of::<Vec<Kept>>() + 2 * self.live * size_of::<Kept>() + self.bytes
    }
}

/// Whether [`keys_of`] knows the order of a type.
fn is_key(keys: &DataType) -> bool {
    match keys {
        DataType::Struct(fields) => {
            (1..=MOST_KEYS).contains(&fields.len()) && fields.iter().all(|field| is_ranked(field.data_type()))
        }
        other => is_ranked(other),
    }
}

/// Keys as whole numbers in the same order; `None` for null. Of a struct the first field counts before the second.
fn keys_of(column: &ArrayRef) -> DfResult<Vec<Option<u128>>> {
    let Some(fields) = column.as_struct_opt() else {
        return Ok(ranks(column)?.into_iter().map(|rank| rank.map(u128::from)).collect());
    };
    let mut keys: Vec<Option<u128>> = (0..column.len()).map(|row| column.is_valid(row).then_some(0)).collect();
    for field in fields.columns() {
        for (key, rank) in keys.iter_mut().zip(ranks(field)?) {
            *key = key.map(|key| (key << 64) | u128::from(rank.unwrap_or(u64::MAX)));
        }
    }
    Ok(keys)
}

fn as_state(keys: Vec<u128>) -> DfResult<ArrayRef> {
    let keys = Decimal128Array::from_iter_values(keys.into_iter().map(|key| key as i128));
    Ok(Arc::new(keys.with_data_type(KEY)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    #![allow(clippy::disallowed_methods, reason = "the function alone is tried, without the product's session")]
    use arrow::array::{Int64Array, StringArray};
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::query::aggregation;

    async fn shown(sql: &str) -> String {
        aggregation::tests::shown(min_by(), 8, sql).await
    }

    #[tokio::test]
    async fn it_is_an_ordered_list_that_is_cut() {
        let rows = "select value % 7 as g, (value * 7919) % 1009 as k, value % 3 as half, cast(value as varchar) as v
            from generate_series(1, 1000)";
        let ours =
            "array_to_string(min_by(v, k, 5), ' ') as a, array_to_string(min_by(v, struct(half, k), 3), ' ') as b,
            array_to_string(min_by(v, k, 500) filter (where k > 900), ' ') as c";
        let theirs = "array_to_string(array_slice(array_agg(v order by k), 1, 5), ' ') as a,
            array_to_string(array_slice(array_agg(v order by half, k), 1, 3), ' ') as b,
            array_to_string(array_agg(v order by k) filter (where k > 900), ' ') as c";
        for group in ["group by g order by g", ""] {
            let g = if group.is_empty() { "" } else { "g, " };
            let ours = shown(&format!("select {g}{ours} from ({rows}) {group}")).await;
            assert_eq!(ours, shown(&format!("select {g}{theirs} from ({rows}) {group}")).await);
        }
    }

    #[tokio::test]
    async fn a_window_has_the_first_rows_so_far() {
        let rows = "select value, value % 3 as g, (value * 7919) % 1009 as k from generate_series(1, 60)";
        let so_far =
            |list: String| format!("select value, array_to_string({list}, ' ') as a from ({rows}) order by value");
        let over = "over (partition by g order by value)";
        let ours = shown(&so_far(format!("min_by(k, k, 3) {over}"))).await;
        assert_eq!(ours, shown(&so_far(format!("array_slice(array_sort(array_agg(k) {over}), 1, 3)"))).await);
    }

    #[tokio::test]
    async fn structs_are_kept_whole_null_is_last_in_a_key_of_two_and_no_key_no_row() {
        let rows = "(values ('a', cast(null as float), 1), ('b', cast(1.5 as float), 3), ('c', cast(1.5 as float), 2),
                ('d', cast(-1.5 as float), 9)) as t(v, k, n)";
        let sql = format!(
            "select min_by(named_struct('v', v), struct(k, n), 3)[2]['v'] as second, min_by(v, struct(k, n), 9) as all_of_them,
                min_by(k, k, 9) as with_a_key, min_by(v, k, 2) filter (where k is null) as none from {rows}"
        );
        let found = shown(&sql).await;
        assert!(found.contains("| c      | [d, c, b, a] | [-1.5, 1.5, 1.5] |      |"), "{found}");
        let null = shown(&format!("select min_by(case when k > 0 then v end, n, 9) as texts from {rows}")).await;
        assert!(null.contains("| [, c, b, ] |"), "a value that is null stays in its place: {null}");
    }

    #[test]
    fn groups_leave_in_turn_and_states_without_a_stage_are_merged() {
        let values: ArrayRef = Arc::new(StringArray::from(vec!["x", "y", "z", "w"]));
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![3, 1, 2, 0]));
        let rows = [Arc::clone(&values), keys];
        let filter = BooleanArray::from(vec![Some(true), None, Some(true), Some(true)]);
        let state = Groups::new(2, DataType::Utf8).convert_to_state(&rows, Some(&filter)).unwrap();
        let mut groups = Groups::new(2, DataType::Utf8);
        groups.merge_batch(&state, &[0, 1, 0, 2], 4).unwrap();
        let shown = |lists: &ArrayRef| {
            let lists = lists.as_list::<i32>();
            let texts = |list: ArrayRef| list.as_string::<i32>().iter().flatten().collect::<Vec<_>>().join(" ");
            lists.iter().map(|list| list.map(texts)).collect::<Vec<_>>()
        };
        assert_eq!(shown(&groups.evaluate(EmitTo::First(2)).unwrap()), [Some("z x".to_owned()), None]);
        groups.update_batch(&rows, &[0, 0, 1, 0], None, 2).unwrap();
        assert_eq!(shown(&groups.evaluate(EmitTo::All).unwrap()), [Some("w w".to_owned()), Some("z".to_owned())]);
        assert_eq!((groups.live, groups.rows), (0, 0));
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(1), None, None]));
        let state = Groups::new(2, DataType::Utf8).convert_to_state(&[values, keys], None).unwrap();
        groups.merge_batch(&state, &[0, 0, 0, 1], 2).unwrap();
        let left = groups.evaluate(EmitTo::All).unwrap();
        assert_eq!(shown(&left), [Some("y".to_owned()), None], "a row without a key");
    }

    #[tokio::test]
    async fn it_refuses_what_it_has_no_meaning_for() {
        let session = SessionContext::new();
        session.register_udaf(min_by());
        for call in [
            "min_by(v, v)",
            "min_by(v, v, 0)",
            "min_by(v, v, v)",
            "min_by(distinct v, v, 1)",
            "min_by(v, cast(v as varchar), 1)",
            "min_by(v, struct(v, cast(v as varchar)), 1)",
            "min_by(v, struct(v, v, v), 1)",
        ] {
            let rows = session.sql(&format!("select {call} from (values (1), (2)) as t(v)")).await;
            let failed = match rows {
                Ok(rows) => rows.collect().await.is_err(),
                Err(_) => true,
            };
            assert!(failed, "{call}");
        }
    }
}
