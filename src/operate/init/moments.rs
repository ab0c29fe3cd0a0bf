//! What a column that tells when holds: moments, whole numbers of some unit, or texts.
//!
//! Knows values, not names.

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};
use chrono::{DateTime, NaiveDate};

use crate::epoch::EpochUnit;
use crate::operate::import::times::parse_time;
use crate::table::cast::without_zone;

/// 1990 and 2100, in seconds since 1970: numbers between them are moments of a log.
const YEARS: (f64, f64) = (631_152_000.0, 4_102_444_800.0);
/// The share of values that must be moments, in hundredths.
const MOST: usize = 99;

/// How a column says when.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Moments {
    /// As timestamps.
    Stored,
    /// As whole numbers of a unit since 1970.
    Counted(&'static str),
    /// As numbers with fractions, of a unit.
    Fractions(&'static str),
    /// As texts that `curec import csv` understands.
    Texts,
    /// In no way that is known, and why.
    Unknown(String),
}

/// How a column says when, by its values.
pub(super) fn moments_of(array: &ArrayRef) -> Moments {
    let kind = array.data_type();
    if matches!(kind, DataType::Timestamp(..)) {
        return Moments::Stored;
    }
    if kind.is_integer() || kind.is_floating() {
        let values = numbers(array);
        return match (unit_of(&values), kind.is_integer()) {
            (Some(unit), true) => Moments::Counted(unit),
            (Some(unit), false) => Moments::Fractions(unit),
            (None, _) => Moments::Unknown(no_unit(&values)),
        };
    }
    if !is_text(kind) {
        return Moments::Unknown(format!("{kind} is no moment: write a timestamp"));
    }
    let texts = texts(array);
    let understood = texts.iter().filter(|text| parse_time(text).is_some()).count();
    match texts.first() {
        None => Moments::Unknown("it holds no value in the sample".to_owned()),
        Some(_) if understood * 100 >= texts.len() * MOST => Moments::Texts,
        Some(first) => {
            let first: String = first.chars().take(40).collect();
            Moments::Unknown(format!("texts such as `{first}` are read by no importer: write 2026-11-21 10:00:00"))
        }
    }
}

/// The unit in which nearly all values lie between 1990 and 2100.
fn unit_of(values: &[f64]) -> Option<&'static str> {
    let (low, high) = YEARS;
    let fits = |per: f64| values.iter().filter(|value| (low * per..high * per).contains(*value)).count();
    let found = EpochUnit::ALL.into_iter().find(|unit| fits(unit.per_second()) * 100 >= values.len() * MOST);
    found.filter(|_| !values.is_empty()).map(EpochUnit::name)
}

fn no_unit(values: &[f64]) -> String {
    match values.first() {
        None => "it holds no value in the sample".to_owned(),
        Some(first) => {
            let days = values.iter().all(|value| (1.99e7..2.1e7).contains(value));
            let hint = if days { ": they look like days (20261121)" } else { "" };
            format!("numbers such as {first} count no seconds, ms, us or ns since 1970 between 1990 and 2100{hint}")
        }
    }
}

/// The latest day of a column that is not after `until`, UTC.
pub(super) fn last_day(array: &ArrayRef, moments: &Moments, until: NaiveDate) -> Option<NaiveDate> {
    let micros: Vec<i64> = match moments {
        Moments::Counted(unit) | Moments::Fractions(unit) => {
            let per = EpochUnit::parse(unit)?.per_second();
            numbers(array).into_iter().map(|value| (value / per * 1e6) as i64).collect()
        }
        Moments::Stored => {
            let naive = without_zone(array)?;
            naive.as_primitive_opt::<TimestampMicrosecondType>()?.iter().flatten().collect()
        }
        Moments::Texts => texts(array).iter().filter_map(|text| parse_time(text)).collect(),
        Moments::Unknown(_) => return None,
    };
    let days = micros.into_iter().filter_map(DateTime::from_timestamp_micros).map(|at| at.date_naive());
    days.filter(|day| *day <= until).max()
}

/// Whether a type holds texts, in a dictionary or plain.
pub(super) fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, value) => value.is_string(),
        kind => kind.is_string(),
    }
}

/// The finite numbers of a column.
pub(super) fn numbers(array: &ArrayRef) -> Vec<f64> {
    let Ok(cast) = cast(array, &DataType::Float64) else { return Vec::new() };
    let Some(numbers) = cast.as_primitive_opt::<Float64Type>() else { return Vec::new() };
    numbers.iter().flatten().filter(|value| value.is_finite()).collect()
}

/// The texts of a column that are not null.
pub(super) fn texts(array: &ArrayRef) -> Vec<String> {
    let Ok(cast) = cast(array, &DataType::Utf8) else { return Vec::new() };
    let Some(texts) = cast.as_string_opt::<i32>() else { return Vec::new() };
    texts.iter().flatten().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray};

    use super::*;

    #[test]
    fn the_size_of_numbers_tells_their_unit() {
        let of = |value: i64| moments_of(&(Arc::new(Int64Array::from(vec![Some(value), None])) as ArrayRef));
        // 20 April 1998, and 20 January 2026.
        for second in [893_030_400, 1_768_867_200] {
            assert_eq!(of(second), Moments::Counted("s"));
            assert_eq!(of(second * 1_000), Moments::Counted("ms"));
            assert_eq!(of(second * 1_000_000), Moments::Counted("us"));
            assert_eq!(of(second * 1_000_000_000), Moments::Counted("ns"));
        }
        for no_moment in [0, 17, 20_260_120, 20_260_120_101_500, -1] {
            assert!(matches!(of(no_moment), Moments::Unknown(_)), "{no_moment}");
        }
        let Moments::Unknown(why) = of(20_260_120) else { unreachable!() };
        assert!(why.contains("look like days"), "{why}");
        let fractions: ArrayRef = Arc::new(Float64Array::from(vec![893_030_400.5]));
        assert_eq!(moments_of(&fractions), Moments::Fractions("s"));
        let counted: ArrayRef = Arc::new(Int64Array::from(vec![893_030_400_000, 893_116_800_000]));
        let last = |until: NaiveDate| last_day(&counted, &Moments::Counted("ms"), until).map(|day| day.to_string());
        let found = last(NaiveDate::MAX).unwrap();
        assert_eq!(found, "1998-04-21");
        let until = |day: u32| last(NaiveDate::from_ymd_opt(1998, 4, day).unwrap());
        assert_eq!((until(20), until(19)), (Some("1998-04-20".to_owned()), None));
    }

    #[test]
    fn texts_are_moments_where_the_importer_reads_them() {
        let of = |text: &str| moments_of(&(Arc::new(StringArray::from(vec![text])) as ArrayRef));
        assert_eq!(of("2026-01-20 10:00:00"), Moments::Texts);
        assert!(matches!(of("09 13, 2009"), Moments::Unknown(_)));
        let none: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
        assert!(matches!(moments_of(&none), Moments::Unknown(_)));
    }
}
