//! Which values break a contract's rules, and how an error says so.
//!
//! Knows contracts and columns of values. Knows nothing of files, rows of a file or keys.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::Result;
use crate::table::cast::cast_what_fits;
use crate::table::column_type::ColumnType;
use crate::table::contract::Column;
use crate::table::finding::Rule;

/// The years 0 to 10000 as microseconds since 1970 UTC. Placeholders for "never" and "always" (years 1 and 9999, in any
/// time zone) lie within; beyond it calendars and their texts fail, and units overflow.
pub(crate) const MOMENTS: std::ops::Range<i64> = -62_167_219_200_000_000..253_433_923_200_000_000;

/// Whether a value of a column of physical type `found` can break the contract; other columns need no check.
pub(crate) fn can_break(column: &Column, found: &DataType) -> bool {
    let has_rule =
        column.min_length.is_some() || column.values.is_some() || column.min.is_some() || column.max.is_some();
    let can_misfit = found.is_numeric() && found != &column.column_type.arrow(0);
    !column.nullable || column.finite || has_rule || can_misfit || column.column_type == ColumnType::TimestampUs
}

/// Rows whose value breaks a column's rules, each with the rule.
pub(crate) type Broken = Vec<(usize, Rule)>;

/// A column of an input in the contract's type, with null in place of what does not fit, and the rows whose value
/// breaks the contract. Checks and queries both take the bad rows from here.
///
/// # Errors
/// As [`cast_what_fits`].
pub(crate) fn judge_column(column: &Column, found: &ArrayRef) -> Result<(ArrayRef, Broken), Vec<usize>> {
    let width = match (&column.column_type, found.data_type()) {
        (ColumnType::Vector, DataType::FixedSizeList(_, n)) => usize::try_from(*n).unwrap_or(0),
        _ => 0,
    };
    let (cast, lost) = cast_what_fits(column, found, width)?;
    if !can_break(column, found.data_type()) {
        return if lost.is_empty() { Ok((cast, Vec::new())) } else { Err(lost) };
    }
    let mut bad: Vec<(usize, Rule)> = lost.iter().map(|row| (*row, Rule::Type)).collect();
    if !column.nullable && cast.null_count() > lost.len() {
        let is_missing = |row: &usize| cast.is_null(*row) && lost.binary_search(row).is_err();
        bad.extend((0..cast.len()).filter(is_missing).map(|row| (row, Rule::NotNull)));
    }
    each_bad_value(column, &cast, |row, rule| bad.push((row, rule)));
    Ok((cast, bad))
}

/// Calls `bad` for every value of a column that its contract does not allow; nulls are not looked at.
pub(crate) fn each_bad_value(column: &Column, array: &ArrayRef, mut bad: impl FnMut(usize, Rule)) {
    if let Some(strings) = array.as_string_opt::<i32>() {
        if column.min_length.is_none() && column.values.is_none() {
            return;
        }
        for (row, value) in strings.iter().enumerate() {
            let Some(value) = value else { continue };
            if column.min_length.is_some_and(|n| value.len() < n) {
                bad(row, Rule::MinLength);
            } else if column.values.as_ref().is_some_and(|allowed| !allowed.iter().any(|a| a == value)) {
                bad(row, Rule::Values);
            }
        }
        return;
    }
    if let Some(times) = array.as_primitive_opt::<TimestampMicrosecondType>() {
        let is_bad = |time: i64| !MOMENTS.contains(&time);
        times
            .iter()
            .enumerate()
            .filter(|(_, time)| time.is_some_and(is_bad))
            .for_each(|(row, _)| bad(row, Rule::Moment));
        return;
    }
    if array.as_fixed_size_list_opt().is_some() {
        if column.finite {
            (0..array.len()).filter(|row| infinite_in_vector(array, *row).is_some()).for_each(|r| bad(r, Rule::Finite));
        }
        return;
    }
    if !column.finite && column.min.is_none() && column.max.is_none() {
        return;
    }
    let broken = |value: f64| {
        if column.finite && !value.is_finite() {
            Some(Rule::Finite)
        } else if column.min.is_some_and(|min| value < min) {
            Some(Rule::Min)
        } else {
            column.max.is_some_and(|max| value > max).then_some(Rule::Max)
        }
    };
    macro_rules! scan {
        ($type:ty) => {
            if let Some(values) = array.as_primitive_opt::<$type>() {
                for (row, value) in values.iter().enumerate() {
                    if let Some(rule) = value.and_then(|v| broken(v as f64)) {
                        bad(row, rule);
                    }
                }
            }
        };
    }
    scan!(Float32Type);
    scan!(Float64Type);
    scan!(Int32Type);
    scan!(Int64Type);
}

/// The first number of a row's vector that is not finite.
fn infinite_in_vector(array: &ArrayRef, row: usize) -> Option<f32> {
    let lists = array.as_fixed_size_list_opt().filter(|l| l.is_valid(row))?;
    let width = usize::try_from(lists.value_length()).ok()?;
    let values = lists.values().as_primitive_opt::<Float32Type>()?.values();
    values.get(row * width..(row + 1) * width)?.iter().copied().find(|v| !v.is_finite())
}

/// A value as the file has it, for people; timestamps as a number with its unit, since they may be outside of any
/// calendar.
pub(crate) fn value_text(found: &ArrayRef, row: usize) -> String {
    let one = found.slice(row, 1);
    let (one, unit) = match found.data_type() {
        DataType::Timestamp(unit, _) => (cast(&one, &DataType::Int64).unwrap_or(one), format!(" {unit}")),
        _ => (one, String::new()),
    };
    let text = ArrayFormatter::try_new(&one, &FormatOptions::default()).map(|f| f.value(0).to_string());
    let text: String = text.unwrap_or_else(|_| "a value".into()).chars().take(80).collect();
    format!("{text}{unit}")
}

/// What is wrong with a value, for people.
pub(crate) fn problem(column: &Column, batch: &RecordBatch, row: usize, rule: Rule) -> String {
    let Some(array) = batch.column_by_name(&column.name) else { return rule.description().to_owned() };
    let text = array.as_string_opt::<i32>().map(|a| a.value(row)).unwrap_or_default();
    let number = infinite_in_vector(array, row).map(f64::from).or_else(|| {
        let one = cast(&array.slice(row, 1), &DataType::Float64).ok()?;
        one.as_primitive_opt::<Float64Type>().map(|v| v.value(0))
    });
    let number = || number.unwrap_or_default();
    match rule {
        Rule::NotNull => "null in a column that must not hold nulls".into(),
        Rule::MinLength if text.is_empty() => "empty text".into(),
        Rule::MinLength => "text is too short".into(),
        Rule::Values => {
            let shown: String = text.chars().take(40).collect();
            format!("{shown:?} is not one of {}", column.values.as_deref().unwrap_or_default().join(", "))
        }
        Rule::Finite => format!("{} is not a finite number", number()),
        Rule::Moment => {
            let times = array.as_primitive_opt::<TimestampMicrosecondType>();
            let time = times.map(|times| times.value(row)).unwrap_or_default();
            format!("{time} microseconds since 1970 are no moment of the years 0 to 10000")
        }
        Rule::Min => format!("{} is less than {}", number(), column.min.unwrap_or_default()),
        Rule::Max => format!("{} is greater than {}", number(), column.max.unwrap_or_default()),
        Rule::Type | Rule::Unique | Rule::Order => rule.description().to_owned(),
    }
}
