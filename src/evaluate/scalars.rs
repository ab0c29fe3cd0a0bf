//! The scalar columns of a table of features as vectors: counts, scores, flags and enumerations, each a value or more.
//!
//! Knows contracts, record batches and vectors by item; knows nothing of arms, or of which night published a row. What a column
//! becomes is decided by its contract, so that vectors have one width whatever the rows hold, and a job's own columns count as
//! curec's do.

use arrow::array::RecordBatch;

use crate::columns;
use crate::error::Result;
use crate::evaluate::collaborative::ItemVectors;
use crate::recommend::adaptor::Vectors;
use crate::table::column_type::ColumnType;
use crate::table::contract::{Column, Contract};

/// A column that deviates by less than this share of its mean (squared) is the same for all: the rest is rounding.
const NEGLIGIBLE: f64 = 1e-12;
/// So many deviations from the mean a value counts at most: a flag that few items of training have would outshout the rest.
const MOST: f64 = 10.0;

/// What a column's values become.
#[derive(Debug, Clone, PartialEq)]
enum Values {
    /// log1p, with the number's sign.
    Count,
    /// As they are; true is 1.
    Number,
    /// A place for each value that the contract allows: 1 where it is that one.
    OneOf(Vec<String>),
}

/// One column.
#[derive(Debug, Clone, PartialEq)]
struct Scalar {
    name: String,
    values: Values,
    /// Whether one more value tells nulls from zeros.
    is_nullable: bool,
}

impl Scalar {
    /// Places of its values.
    fn places(&self) -> usize {
        match &self.values {
            Values::Count | Values::Number => 1,
            Values::OneOf(known) => known.len(),
        }
    }

    /// The same with that of its nulls.
    fn width(&self) -> usize {
        self.places() + usize::from(self.is_nullable)
    }

    /// Its values by row; nothing for a null, or for a number that is none.
    fn read(&self, batch: &RecordBatch) -> Result<ItemVectors> {
        match &self.values {
            Values::Count => self.numbers(batch, |n| n.signum() * n.abs().ln_1p()),
            Values::Number => self.numbers(batch, |x| x),
            Values::OneOf(known) => {
                let found = columns::text(batch, &self.name)?;
                let one_of = |said: &str| -> Vec<f32> { known.iter().map(|one| f32::from(one == said)).collect() };
                Ok(found.iter().map(|said| said.map(one_of)).collect())
            }
        }
    }

    fn numbers(&self, batch: &RecordBatch, of: fn(f64) -> f64) -> Result<ItemVectors> {
        let found = columns::floats(batch, &self.name)?;
        let value = |x: f64| Some(of(x) as f32).filter(|x| x.is_finite()).map(|x| vec![x]);
        Ok(found.iter().map(|x| x.and_then(value)).collect())
    }
}

/// The scalar columns of a table of features, in the contract's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalars {
    columns: Vec<Scalar>,
}

impl Scalars {
    /// Those of a contract: whole numbers (as counts), numbers, flags, and texts of which the contract names all values. Keys,
    /// moments, other texts, lists and vectors are none.
    pub fn of(contract: &Contract) -> Self {
        let scalar = |column: &Column| -> Option<Scalar> {
            let values = match (&column.column_type, &column.values) {
                (ColumnType::Int32 | ColumnType::Int64, _) => Values::Count,
                (ColumnType::Float32 | ColumnType::Float64 | ColumnType::Bool, _) => Values::Number,
                (ColumnType::Utf8, Some(known)) => Values::OneOf(known.clone()),
                _ => return None,
            };
            Some(Scalar { name: column.name.clone(), values, is_nullable: column.nullable })
        };
        let columns = contract.columns.iter().filter(|column| !contract.grain.contains(&column.name));
        Scalars { columns: columns.filter_map(scalar).collect() }
    }

    /// The values of every row, not standardised yet: a null is zeros and, behind them, 1 in the place of its column's nulls.
    ///
    /// # Errors
    /// `Kind::Internal` where the rows lack a column, or have it in a type that cannot be read.
    pub fn rows(&self, batch: &RecordBatch) -> Result<Vec<Vec<f32>>> {
        let mut rows: Vec<Vec<f32>> = vec![Vec::new(); batch.num_rows()];
        for column in &self.columns {
            for (row, said) in rows.iter_mut().zip(column.read(batch)?) {
                let is_null = said.is_none();
                row.extend(said.unwrap_or_else(|| vec![0.0; column.places()]));
                if column.is_nullable {
                    row.push(f32::from(is_null));
                }
            }
        }
        Ok(rows)
    }

    /// Which columns differ among the items that are learned from, and which are the same for all, for people. `rows` are those of
    /// [`Scalars::rows`], by dense id.
    pub fn told(&self, rows: &ItemVectors, is_learned: &dyn Fn(usize) -> bool) -> String {
        let rows = learned(rows, is_learned);
        let (mut from, mut differ, mut same) = (0, Vec::new(), Vec::new());
        for column in &self.columns {
            let places = from..from + column.width();
            from = places.end;
            let mut said = rows.iter().map(|row| row.get(places.clone()));
            let first = said.next();
            let names = if said.all(|other| Some(other) == first) { &mut same } else { &mut differ };
            names.push(column.name.as_str());
        }
        let named = |names: Vec<&str>| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        format!("items that training met differ in {}, and not in {}", named(differ), named(same))
    }
}

/// The rows that are learned from.
fn learned<'a>(rows: &'a ItemVectors, is_learned: &dyn Fn(usize) -> bool) -> Vec<&'a [f32]> {
    rows.iter().enumerate().filter(|(item, _)| is_learned(*item)).filter_map(|(_, row)| row.as_deref()).collect()
}

/// Rows as of several moments, by dense id, each value less its mean and divided by its deviation, both over the items that
/// `is_learned` names as of the first moment. What is the same for all of these is 0 at every moment; what lies more than 10
/// deviations away counts as 10.
///
/// # Errors
/// `Kind::Input` for values that are not numbers.
pub fn standardised(moments: &[&ItemVectors], is_learned: &dyn Fn(usize) -> bool) -> Result<Vec<Vectors>> {
    let rows = moments.first().map_or_else(Vec::new, |first| learned(first, is_learned));
    let n = rows.len().max(1) as f64;
    // Vectors of no items have a width too.
    let width = moments.iter().flat_map(|told| told.iter().flatten()).map(Vec::len).max().unwrap_or(0).max(1);
    let scale = |place: usize| -> (f64, f64) {
        let values = || rows.iter().filter_map(|row| row.get(place)).map(|x| f64::from(*x));
        let mean = values().sum::<f64>() / n;
        let variance = values().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let differs = variance > 0.0 && variance > NEGLIGIBLE * mean * mean;
        (mean, if differs { 1.0 / variance.sqrt() } else { 0.0 })
    };
    let scales: Vec<(f64, f64)> = (0..width).map(scale).collect();
    let made = |row: &Option<Vec<f32>>| -> Vec<f32> {
        let value =
            |((mean, scale), x): (&(f64, f64), &f32)| ((f64::from(*x) - mean) * scale).clamp(-MOST, MOST) as f32;
        let mut values: Vec<f32> = scales.iter().zip(row.iter().flatten()).map(value).collect();
        values.resize(width, 0.0);
        values
    };
    let of_moment = |told: &&ItemVectors| {
        let values: Vec<Vec<f32>> = told.iter().map(made).collect();
        Vectors::new(width, values.concat(), told.iter().map(Option::is_some).collect())
    };
    moments.iter().map(of_moment).collect()
}

#[cfg(test)]
mod tests;
