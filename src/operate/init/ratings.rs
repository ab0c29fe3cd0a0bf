//! The scale of a rating column, and from which rating on it says that somebody likes an item.
//!
//! Knows values, not names.

use arrow::array::ArrayRef;

use crate::operate::init::moments::numbers;

/// Ratings above this are counts or times, not opinions.
const MOST: f64 = 100.0;

/// What a rating column looks like.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    /// From which rating on it is a like; `None`: nobody can tell.
    pub(super) threshold: Option<f64>,
    /// The scale and the reason, for people.
    pub(super) about: String,
}

/// The scale of a column of numbers; `None` where it holds none.
pub(super) fn scale_of(array: &ArrayRef) -> Option<Scale> {
    let mut values = numbers(array);
    let (all, zeros) = (values.len(), values.iter().filter(|value| **value == 0.0).count());
    values.sort_by(f64::total_cmp);
    values.dedup();
    let (low, high) = (*values.first()?, *values.last()?);
    let (threshold, why) = match (low, high) {
        (low, high) if high > MOST || low < -MOST => (None, "this is no scale of ratings: perhaps counts or seconds"),
        _ if values.len() == 1 => (Some(high), "one value only: whatever has it is a like"),
        (_, high) if high <= 1.0 && values.len() <= 3 => (Some(high), "the highest value is a like"),
        (low, high) if high <= 1.0 && low >= 0.0 => (Some(0.8), "shares of 1: a guess, look at their distribution"),
        (_, high) if high <= 3.0 => (Some(high), "the highest value is a like"),
        (_, high) if high <= 5.0 => (Some(4.0), "a scale of 5: 4 and more are likes"),
        (_, high) if high <= 10.0 => (Some(8.0), "a scale of 10: 8 and more are likes"),
        _ => (Some(80.0), "a scale of 100: 80 and more are likes"),
    };
    let mut about = format!("{low} to {high} in the sample, {why}");
    if high > 1.0 && low == 0.0 && values.len() > 1 && zeros * 5 >= all {
        about.push_str(&format!(
            "; {zeros} of {all} are 0: if 0 stands for no rating, make it null, or it says that the item is not liked"
        ));
    }
    Some(Scale { threshold, about })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::Float64Array;

    use super::*;

    #[test]
    fn the_threshold_follows_the_scale() {
        let of = |values: &[f64]| scale_of(&(Arc::new(Float64Array::from(values.to_vec())) as ArrayRef));
        for (values, threshold) in [
            (&[1.0, 3.0, 5.0][..], Some(4.0)),
            (&[0.5, 2.5, 5.0], Some(4.0)),
            (&[1.0, 7.0, 10.0], Some(8.0)),
            (&[10.0, 55.0, 100.0], Some(80.0)),
            (&[0.0, 1.0], Some(1.0)),
            (&[-1.0, 0.0, 1.0], Some(1.0)),
            (&[0.1, 0.3, 0.5, 0.9], Some(0.8)),
            (&[1.0, 1.0], Some(1.0)),
            (&[3.0, 4000.0], None),
        ] {
            assert_eq!(of(values).unwrap().threshold, threshold, "{values:?}");
        }
        assert_eq!(of(&[]), None);
        assert!(of(&[0.0, 0.0, 7.0, 10.0]).unwrap().about.contains("2 of 4 are 0"));
    }
}
