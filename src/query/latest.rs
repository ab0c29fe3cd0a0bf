//! `latest(value, moment, event)`: the value of a group's latest row that has one.
//!
//! Of rows of one moment the one with the greatest event counts, null being the least; of rows that agree in both the greatest
//! value. Rows without a moment do not count. It is `first_value(value order by moment desc, event desc nulls last, value desc)
//! filter (where value is not null and moment is not null)`, and holds three numbers a group. Values are numbers, moments or truth
//! values. Knows nothing of tables.
//!
//! It is not named `max_by` or `arg_max`: these leave open what counts of equal moments, and their third argument is a number of
//! rows.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};

use crate::columns::at;
use crate::query::aggregation::{Names, OneGroup, Widen, is_ranked, passes, plain, ranks, unranked};

pub(super) fn latest() -> AggregateUDF {
    AggregateUDF::new_from_impl(Latest { signature: Signature::any(3, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Latest {
    signature: Signature,
}

impl Latest {
    fn groups(&self, args: &AccumulatorArgs<'_>) -> DfResult<Groups> {
        plain(args)?;
        Ok(Groups::new(args.expr_fields[0].data_type().clone()))
    }
}

impl AggregateUDFImpl for Latest {
    fn name(&self) -> &str {
        "latest"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        match types {
            [value, DataType::Timestamp(_, _), DataType::Utf8 | DataType::Null] if is_ranked(value) => {
                Ok(value.clone())
            }
            _ => Err(DataFusionError::Plan(
                "latest takes a number, a moment or a truth value, then a moment, then a text".into(),
            )),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> DfResult<Vec<FieldRef>> {
        let field = |name: &str, data_type| Arc::new(Field::new(format_state_name(args.name, name), data_type, true));
        let value = args.input_fields[0].data_type().clone();
        Ok(vec![field("value", value), field("moment", DataType::Int64), field("event", DataType::Utf8)])
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

/// The event of a group of which no row has a value.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Groups {
    /// The type of the values.
    value: DataType,
    moments: Vec<i64>,
    /// Numbers in `names`, or [`NONE`].
    events: Vec<u32>,
    ranks: Vec<u64>,
    names: Names,
}

impl Groups {
    fn new(value: DataType) -> Groups {
        Groups { value, moments: Vec::new(), events: Vec::new(), ranks: Vec::new(), names: Names::default() }
    }

    fn offer(&mut self, columns: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>) -> DfResult<()> {
        let values = ranks(&columns[0])?;
        let moments = cast(&columns[1], &DataType::Int64)?;
        let moments = moments.as_primitive::<Int64Type>();
        let events = cast(&columns[2], &DataType::Utf8)?;
        let events = events.as_string::<i32>();
        for (row, group) in groups.iter().enumerate() {
            let Some(value) = values[row].filter(|_| moments.is_valid(row) && passes(filter, row)) else { continue };
            let moment = moments.value(row);
            let (held, is_new) = (self.moments[*group], self.events[*group] == NONE);
            if !is_new && moment < held {
                continue;
            }
            let event = self.names.number(at(events, row));
            let order = match is_new || moment > held {
                true => Ordering::Greater,
                false => self.names.compare(event, self.events[*group]).then_with(|| value.cmp(&self.ranks[*group])),
            };
            if order == Ordering::Greater {
                (self.moments[*group], self.events[*group], self.ranks[*group]) = (moment, event, value);
            }
        }
        Ok(())
    }

    /// Takes groups out: their values, moments and events.
    fn release(&mut self, emit_to: EmitTo) -> DfResult<(ArrayRef, Int64Array, StringArray)> {
        let events = emit_to.take_needed(&mut self.events);
        let found = |group: usize| events[group] != NONE;
        let values = emit_to.take_needed(&mut self.ranks);
        let values = values.into_iter().enumerate().map(|(group, rank)| found(group).then_some(rank));
        let values = unranked(values, &self.value)?;
        let moments = emit_to.take_needed(&mut self.moments);
        let moments = moments.into_iter().enumerate().map(|(group, moment)| found(group).then_some(moment)).collect();
        let text = |event: &u32| if *event == NONE { None } else { self.names.text(*event) };
        let events = events.iter().map(text).collect();
        self.names.forget(emit_to);
        Ok((values, moments, events))
    }
}

impl Widen for Groups {
    fn widen(&mut self, groups: usize) {
        if self.events.len() < groups {
            self.events.resize(groups, NONE);
            self.moments.resize(groups, 0);
            self.ranks.resize(groups, 0);
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
        self.offer(values, group_indices, filter)
    }

    /// A state has the columns of a row.
    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], groups: usize) -> DfResult<()> {
        self.widen(groups);
        self.offer(states, group_indices, None)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> DfResult<ArrayRef> {
        Ok(self.release(emit_to)?.0)
    }

    fn state(&mut self, emit_to: EmitTo) -> DfResult<Vec<ArrayRef>> {
        let (values, moments, events) = self.release(emit_to)?;
        Ok(vec![values, Arc::new(moments), Arc::new(events)])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        let moments = cast(&values[1], &DataType::Int64)?;
        let moments: ArrayRef = match filter {
            Some(_) => {
                let moments = moments.as_primitive::<Int64Type>().iter().enumerate();
                Arc::new(moments.map(|(row, moment)| moment.filter(|_| passes(filter, row))).collect::<Int64Array>())
            }
            None => moments,
        };
        Ok(vec![Arc::clone(&values[0]), moments, cast(&values[2], &DataType::Utf8)?])
    }

    fn size(&self) -> usize {
        let words = self.moments.capacity() + self.ranks.capacity();
        words * size_of::<u64>() + self.events.capacity() * size_of::<u32>() + self.names.bytes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    #![allow(clippy::disallowed_methods, reason = "the function alone is tried, without the product's session")]
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::query::aggregation;

    async fn shown(sql: &str) -> String {
        aggregation::tests::shown(latest(), 8, sql).await
    }

    #[tokio::test]
    async fn it_is_the_first_value_of_the_reversed_order() {
        // Few moments and events, so that most rows are told apart by the later keys alone.
        let rows = "select value % 11 as g, to_timestamp_micros(value * 31 % 5) as moment,
                case when value % 4 > 0 then cast(value * 17 % 3 as varchar) end as event,
                cast(case when value % 3 > 0 then value * 13 % 7 end as float) as rating,
                case when value % 5 > 0 then value * 13 % 2 = 0 end as told
            from generate_series(1, 1000)";
        let order = "moment desc, event desc nulls last";
        let ours = "latest(rating, moment, event) as a, latest(told, moment, event) as b,
            latest(rating, moment, event) filter (where event = '1') as c, latest(rating, moment, event) filter (where g > 99) as d";
        let first = |value: &str, filter: &str| {
            format!("first_value({value} order by {order}, {value} desc) filter (where {value} is not null {filter})")
        };
        let theirs = format!(
            "{} as a, {} as b, {} as c, {} as d",
            first("rating", ""),
            first("told", ""),
            first("rating", "and event = '1'"),
            first("rating", "and g > 99")
        );
        for group in ["group by g order by g", ""] {
            let g = if group.is_empty() { "" } else { "g, " };
            let ours = shown(&format!("select {g}{ours} from ({rows}) {group}")).await;
            assert_eq!(ours, shown(&format!("select {g}{theirs} from ({rows}) {group}")).await);
        }
    }

    #[test]
    fn groups_leave_in_turn_and_states_without_a_stage_are_merged() {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None, Some(4)]));
        let moments: ArrayRef = Arc::new(Int64Array::from(vec![5, 5, 9, 1]));
        let events: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("b"), Some("c")]));
        let rows = [values, moments, events];
        let filter = BooleanArray::from(vec![true, true, true, false]);
        let state = Groups::new(DataType::Int64).convert_to_state(&rows, Some(&filter)).unwrap();
        let mut groups = Groups::new(DataType::Int64);
        groups.merge_batch(&state, &[0, 0, 0, 1], 3).unwrap();
        let first = groups.evaluate(EmitTo::First(1)).unwrap();
        assert_eq!(first.as_primitive::<Int64Type>(), &Int64Array::from(vec![1]), "an event comes before none");
        groups.update_batch(&rows, &[0, 0, 0, 1], None, 2).unwrap();
        let rest = groups.evaluate(EmitTo::All).unwrap();
        assert_eq!(rest.as_primitive::<Int64Type>(), &Int64Array::from(vec![1, 4]));
    }

    #[tokio::test]
    async fn it_refuses_what_it_has_no_meaning_for() {
        let session = SessionContext::new();
        session.register_udaf(latest());
        for call in
            ["latest(v, 1, 'a')", "latest('a', to_timestamp_micros(v), 'a')", "latest(v, to_timestamp_micros(v), v)"]
        {
            assert!(session.sql(&format!("select {call} from (values (1)) as t(v)")).await.is_err(), "{call}");
        }
    }
}
