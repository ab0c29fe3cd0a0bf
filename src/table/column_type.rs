//! The types of a table's columns, as contracts write them and as Arrow has them.
//!
//! Knows their names and Arrow's types; knows nothing of contracts.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};

/// A column's type, as contracts write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnType {
    /// UTF-8 text.
    Utf8,
    /// True or false.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Single precision.
    Float32,
    /// Double precision.
    Float64,
    /// Days.
    Date32,
    /// Microseconds, UTC.
    TimestampUs,
    /// `FixedSizeList<Float32, N>`, list and values not null; N is known only when the table is made.
    Vector,
    /// The same with this N, whatever the table's other vectors are; the list may be null. No contract writes it: curec
    /// adds such columns.
    FixedVector(usize),
    /// A list of something.
    List(Box<ColumnType>),
    /// Named fields.
    Struct(Vec<(String, ColumnType)>),
}

/// How deep a column's type may nest: enough for any table, and what reads it recurses.
const MAX_NESTING: usize = 8;

impl ColumnType {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::parse_within(text, MAX_NESTING)
    }

    fn parse_within(text: &str, depth: usize) -> Option<Self> {
        let (text, depth) = (text.trim(), depth.checked_sub(1)?);
        if let Some(inner) = text.strip_prefix("list<").and_then(|t| t.strip_suffix('>')) {
            return Some(ColumnType::List(Box::new(Self::parse_within(inner, depth)?)));
        }
        if let Some(inner) = text.strip_prefix("struct<").and_then(|t| t.strip_suffix('>')) {
            let mut fields = Vec::new();
            for part in split_top(inner) {
                let (name, kind) = part.split_once(':')?;
                fields.push((name.trim().to_owned(), Self::parse_within(kind, depth)?));
            }
            return (!fields.is_empty()).then_some(ColumnType::Struct(fields));
        }
        Some(match text {
            "utf8" => ColumnType::Utf8,
            "bool" => ColumnType::Bool,
            "int32" => ColumnType::Int32,
            "int64" => ColumnType::Int64,
            "float32" => ColumnType::Float32,
            "float64" => ColumnType::Float64,
            "date32" => ColumnType::Date32,
            "timestamp_us" => ColumnType::TimestampUs,
            "vector" => ColumnType::Vector,
            _ => return None,
        })
    }

    /// The Arrow type; `width` is the N of a [`ColumnType::Vector`].
    pub fn arrow(&self, width: usize) -> DataType {
        match self {
            ColumnType::Utf8 => DataType::Utf8,
            ColumnType::Bool => DataType::Boolean,
            ColumnType::Int32 => DataType::Int32,
            ColumnType::Int64 => DataType::Int64,
            ColumnType::Float32 => DataType::Float32,
            ColumnType::Float64 => DataType::Float64,
            ColumnType::Date32 => DataType::Date32,
            ColumnType::TimestampUs => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ColumnType::Vector => vector_of(width),
            ColumnType::FixedVector(width) => vector_of(*width),
            ColumnType::List(inner) => DataType::List(Arc::new(Field::new("item", inner.arrow(width), true))),
            ColumnType::Struct(fields) => {
                DataType::Struct(fields.iter().map(|(n, t)| Field::new(n, t.arrow(width), true)).collect())
            }
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            ColumnType::Utf8 => "utf8",
            ColumnType::Bool => "bool",
            ColumnType::Int32 => "int32",
            ColumnType::Int64 => "int64",
            ColumnType::Float32 => "float32",
            ColumnType::Float64 => "float64",
            ColumnType::Date32 => "date32",
            ColumnType::TimestampUs => "timestamp_us",
            ColumnType::Vector => "vector",
            ColumnType::FixedVector(width) => return write!(f, "vector of {width}"),
            ColumnType::List(inner) => return write!(f, "list<{inner}>"),
            ColumnType::Struct(fields) => {
                f.write_str("struct<")?;
                for (i, (name, kind)) in fields.iter().enumerate() {
                    write!(f, "{}{name}:{kind}", if i == 0 { "" } else { "," })?;
                }
                ">"
            }
        };
        f.write_str(name)
    }
}

fn vector_of(width: usize) -> DataType {
    let width = i32::try_from(width).unwrap_or(i32::MAX);
    DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, false)), width)
}

/// Splits at the commas that stand outside of angle brackets.
fn split_top(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (i, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}
