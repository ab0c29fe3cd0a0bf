//! `most_frequent(texts, n)`: the `n` texts that stand in most of a group's lists, as a list: the most frequent first, then by text;
//! null where there is none.
//!
//! A text counts once a list; null and blank ones do not count. Knows nothing of tables.
//!
//! It is not named `approx_top_k` or `approx_most_frequent`: these count values instead of lists, and estimate.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Builder, ListBuilder, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};

use crate::query::aggregation::{Names, OneGroup, Widen, limit, list_of, passes, plain};

pub(super) fn most_frequent() -> AggregateUDF {
    AggregateUDF::new_from_impl(MostFrequent { signature: Signature::any(2, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MostFrequent {
    signature: Signature,
}

impl MostFrequent {
    fn groups(&self, args: &AccumulatorArgs<'_>) -> DfResult<Groups> {
        plain(args)?;
        Ok(Groups::new(limit(args)?))
    }
}

impl AggregateUDFImpl for MostFrequent {
    fn name(&self) -> &str {
        "most_frequent"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        match types {
            [DataType::List(element), _] if element.data_type() == &DataType::Utf8 => Ok(list_of(DataType::Utf8)),
            _ => Err(DataFusionError::Plan("most_frequent takes lists of texts, then a number".into())),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> DfResult<Vec<FieldRef>> {
        let field =
            |name: &str, element| Arc::new(Field::new(format_state_name(args.name, name), list_of(element), true));
        Ok(vec![field("texts", DataType::Utf8), field("counts", DataType::Int64)])
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

/// A text by its number in [`Names`], and in how many lists it stands.
type Count = (u32, i64);

#[derive(Debug)]
struct Groups {
    limit: usize,
    names: Names,
    /// Of each group the texts, by number.
    counts: Vec<Vec<Count>>,
    /// Entries of `counts`.
    entries: usize,
}

impl Groups {
    fn new(limit: usize) -> Groups {
        Groups { limit, names: Names::default(), counts: Vec::new(), entries: 0 }
    }

    fn add(&mut self, group: usize, text: &str, lists: i64) {
        let number = self.names.number(Some(text));
        let counts = &mut self.counts[group];
        match counts.binary_search_by_key(&number, |(known, _)| *known) {
            Ok(at) => counts[at].1 += lists,
            Err(at) => {
                counts.insert(at, (number, lists));
                self.entries += 1;
            }
        }
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<Vec<Count>> {
        let groups = emit_to.take_needed(&mut self.counts);
        self.entries -= groups.iter().map(Vec::len).sum::<usize>();
        groups
    }
}

/// Calls `found` for each row that passes, with the texts that count in its list, each once.
fn each_list(
    column: &ArrayRef,
    filter: Option<&BooleanArray>,
    mut found: impl FnMut(usize, Option<&[&str]>),
) -> DfResult<()> {
    let lists = cast(column, &list_of(DataType::Utf8))?;
    let lists = lists.as_list::<i32>();
    let (offsets, texts) = (lists.value_offsets(), lists.values().as_string::<i32>());
    let mut once: Vec<&str> = Vec::new();
    for row in 0..lists.len() {
        if lists.is_null(row) || !passes(filter, row) {
            found(row, None);
            continue;
        }
        once.clear();
        for at in offsets[row] as usize..offsets[row + 1] as usize {
            let text = if texts.is_valid(at) { texts.value(at) } else { "" };
            if !text.trim_matches(' ').is_empty() && !once.contains(&text) {
                once.push(text);
            }
        }
        found(row, Some(once.as_slice()));
    }
    Ok(())
}

impl Widen for Groups {
    fn widen(&mut self, groups: usize) {
        if self.counts.len() < groups {
            self.counts.resize_with(groups, Vec::new);
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
        each_list(&values[0], filter, |row, texts| {
            texts.unwrap_or_default().iter().for_each(|text| self.add(group_indices[row], text, 1));
        })
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], groups: usize) -> DfResult<()> {
        self.widen(groups);
        let (lists, count_lists) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        let texts = lists.values().as_string::<i32>();
        let counts = count_lists.values().as_primitive::<Int64Type>();
        let (from, counts_from) = (lists.value_offsets(), count_lists.value_offsets());
        for (state, group) in group_indices.iter().enumerate().filter(|(state, _)| lists.is_valid(*state)) {
            let (begin, end) = (from[state] as usize, from[state + 1] as usize);
            for at in begin..end {
                self.add(*group, texts.value(at), counts.value(counts_from[state] as usize + at - begin));
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> DfResult<ArrayRef> {
        let groups = self.take(emit_to);
        let mut lists = ListBuilder::new(StringBuilder::new());
        for mut counts in groups {
            let names = &self.names;
            counts.sort_unstable_by(|(a, n), (b, m)| m.cmp(n).then_with(|| names.compare(*a, *b)));
            for (number, _) in counts.iter().take(self.limit) {
                lists.values().append_option(names.text(*number));
            }
            lists.append(!counts.is_empty());
        }
        self.names.forget(emit_to);
        Ok(Arc::new(lists.finish()))
    }

    fn state(&mut self, emit_to: EmitTo) -> DfResult<Vec<ArrayRef>> {
        let groups = self.take(emit_to);
        let (mut texts, mut numbers) = states();
        for counts in &groups {
            for (number, lists) in counts {
                texts.values().append_option(self.names.text(*number));
                numbers.values().append_value(*lists);
            }
            texts.append(!counts.is_empty());
            numbers.append(!counts.is_empty());
        }
        self.names.forget(emit_to);
        Ok(vec![Arc::new(texts.finish()), Arc::new(numbers.finish())])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        let (mut texts, mut numbers) = states();
        each_list(&values[0], filter, |_, found| {
            for text in found.unwrap_or_default() {
                texts.values().append_value(text);
                numbers.values().append_value(1);
            }
            texts.append(found.is_some());
            numbers.append(found.is_some());
        })?;
        Ok(vec![Arc::new(texts.finish()), Arc::new(numbers.finish())])
    }

    fn size(&self) -> usize {
        let groups = self.counts.capacity() * size_of::<Vec<Count>>();
        groups + 2 * self.entries * size_of::<Count>() + self.names.bytes()
    }
}

/// Builders of the two columns of a state.
fn states() -> (ListBuilder<StringBuilder>, ListBuilder<Int64Builder>) {
    (ListBuilder::new(StringBuilder::new()), ListBuilder::new(Int64Builder::new()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::query::aggregation::tests::shown;

    #[tokio::test]
    async fn texts_are_counted_once_a_list_and_ordered_by_their_number_then_by_themselves() {
        let rows = "(values (1, make_array('B', 'A', 'B')), (1, make_array('C', 'A')), (1, make_array('B', null, '  ', 'C', 'A')),
            (1, make_array('D')), (1, null), (2, make_array(' ')), (3, make_array('D', 'C'))) as t(g, texts)";
        let select =
            format!("most_frequent(texts, 3) as a, most_frequent(texts, 9) filter (where g > 1) as b from {rows}");
        let mut found = String::new();
        for sql in [format!("select g, {select} group by g order by g"), format!("select {select}")] {
            found.push_str(&shown(most_frequent(), 2, &sql).await);
            found.push('\n');
        }
        let wanted = "\
+---+-----------+--------+
| g | a         | b      |
+---+-----------+--------+
| 1 | [A, B, C] |        |
| 2 |           |        |
| 3 | [C, D]    | [C, D] |
+---+-----------+--------+
+-----------+--------+
| a         | b      |
+-----------+--------+
| [A, C, B] | [C, D] |
+-----------+--------+
";
        assert_eq!(found, wanted);
    }

    #[test]
    fn groups_leave_in_turn_and_states_without_a_stage_are_merged() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        for list in [Some(vec![Some("a"), Some("a"), Some("b")]), None, Some(vec![None]), Some(vec![Some("b")])] {
            lists.append_option(list);
        }
        let column: ArrayRef = Arc::new(lists.finish());
        let filter = BooleanArray::from(vec![Some(true), Some(true), Some(true), None]);
        let state = Groups::new(1).convert_to_state(&[Arc::clone(&column)], Some(&filter)).unwrap();
        let mut groups = Groups::new(1);
        groups.merge_batch(&state, &[0, 0, 0, 1], 2).unwrap();
        let first = groups.evaluate(EmitTo::First(1)).unwrap();
        assert_eq!(first.as_list::<i32>().value(0).as_string::<i32>().value(0), "a");
        groups.update_batch(&[column], &[0, 0, 0, 0], None, 1).unwrap();
        let rest = groups.evaluate(EmitTo::All).unwrap();
        assert_eq!(rest.len(), 1);
        assert_eq!(rest.as_list::<i32>().value(0).as_string::<i32>().value(0), "b");
        assert_eq!((groups.entries, groups.names.bytes()), (0, 0));
    }
}
