//! Where a file of an input has a contract's column: in a field, under an alias, or in the path (Hive partitions).
//!
//! Checks and queries both go by [`source_of`]. Knows contracts, Arrow schemas and paths; opens no file.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::error::{Error, Kind, Result};
use crate::table::cast::accepts;
use crate::table::column_type::ColumnType;
use crate::table::contract::{Column, Contract};
use crate::table::store::Location;

/// A column in a file's path (`event=click`) and its value; `None`: null.
pub type PathColumn = (String, Option<String>);

/// How many columns an error names at most.
pub(crate) const SHOWN_COLUMNS: usize = 40;

/// How Hive and Spark write null as a folder's name.
const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Where one file has a contract's column.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// In this field.
    Field(Field),
    /// In its path: this text, or null.
    Path(Option<String>),
    /// Nowhere, or in a field without a type, as writers make it of a column without any value: all rows hold null.
    Null,
}

/// Finds a contract's column in a file; `None`: it has none. The column's own name comes before its aliases, and for
/// each name the file before its path. Checks and queries both go by this.
pub fn source_of(column: &Column, schema: &Schema, path: &[PathColumn]) -> Option<Source> {
    let mut untyped = None;
    for name in column.names() {
        match schema.field_with_name(name) {
            Ok(field) if !field.data_type().is_null() => return Some(Source::Field(field.clone())),
            Ok(_) => untyped = Some(Source::Null),
            Err(_) => {}
        }
        if let Some((_, value)) = path.iter().find(|(n, _)| n == name) {
            return Some(Source::Path(value.clone()));
        }
    }
    untyped
}

/// Where a file has a contract's column; `None` for a nullable column that is absent.
pub(crate) fn find_column(
    contract: &Contract,
    column: &Column,
    schema: &SchemaRef,
    path: &[PathColumn],
    file: &Location,
) -> Result<Option<Source>> {
    let Some(source) = source_of(column, schema, path) else {
        if let Some(carried) = column.carried.as_ref().filter(|name| !name.is_empty()) {
            return Err(not_carried(contract, column, carried, schema, path).with("file", file));
        }
        if column.nullable {
            return Ok(None);
        }
        let present: Vec<&str> = schema.fields().iter().take(20).map(|f| f.name().as_str()).collect();
        let mut hint = format!("the file has the columns {}", present.join(", "));
        if !column.aliases.is_empty() {
            hint.push_str(&format!("; {} may also be called {}", column.name, column.aliases.join(" or ")));
        }
        if let Some(near) = near(column, schema) {
            hint.push_str(&format!(
                "; if {near} is meant, say so in the job: [input.columns.{}] {} = \"{near}\"",
                contract.name, column.name
            ));
        }
        return Err(Error::new(Kind::Input, format!("the column {} is missing", column.name))
            .with("table", &contract.name)
            .with("file", file)
            .with("column", &column.name)
            .hint(hint));
    };
    let Source::Field(field) = &source else { return Ok(Some(source)) };
    if accepts(column, field.data_type()) {
        return Ok(Some(source));
    }
    let wanted = match column.accept.is_empty() {
        true => column.column_type.to_string(),
        false => format!("{} (or {})", column.column_type, column.accept.join(", ")),
    };
    Err(Error::new(Kind::Input, format!("wrong type {}, the contract wants {wanted}", field.data_type()))
        .with("table", &contract.name)
        .with("file", file)
        .with("column", field.name())
        .hint(way_out(column, field)))
}

/// The error for a column that a job says the files have, and a file has not.
fn not_carried(contract: &Contract, column: &Column, carried: &str, schema: &SchemaRef, path: &[PathColumn]) -> Error {
    let fields = schema.fields().iter().map(|field| field.name().as_str());
    let all: Vec<&str> = fields.chain(path.iter().map(|(name, _)| name.as_str())).collect();
    let more = if all.len() > SHOWN_COLUMNS { ", ..." } else { "" };
    let shown = all[..all.len().min(SHOWN_COLUMNS)].join(", ");
    Error::new(Kind::Input, format!("a file lacks the column {carried}, which the job names for {}", column.name))
        .with("table", &contract.name)
        .with("column", carried)
        .with("key", format!("input.columns.{}.{}", contract.name, column.name))
        .hint(format!("the file has the columns {shown}{more}"))
}

/// A field whose name differs from the column's in case and underscores only, as other systems write it.
pub(crate) fn near<'a>(column: &Column, schema: &'a Schema) -> Option<&'a str> {
    let bare = |name: &str| name.replace(['_', ' ', '-'], "").to_lowercase();
    let wanted: Vec<String> = column.names().map(bare).collect();
    schema.fields().iter().map(|f| f.name().as_str()).find(|name| wanted.contains(&bare(name)))
}

/// What to do about a column of a type that is not accepted.
pub(crate) fn way_out(column: &Column, field: &Field) -> String {
    let name = field.name();
    match (&column.column_type, field.data_type()) {
        (ColumnType::TimestampUs, t) if t.is_numeric() => {
            "a number does not say its unit: say it of whole numbers in [input] timestamp_unit, store a Parquet timestamp, or let \
             'curec import csv' convert it"
                .into()
        }
        (ColumnType::TimestampUs, DataType::Date32 | DataType::Date64) => format!(
            "a date has no time of day: store when it happened, or CAST({name} AS TIMESTAMP) if midnight UTC will do"
        ),
        (ColumnType::TimestampUs, _) => format!(
            "store a Parquet timestamp, in pandas pd.to_datetime({name}, utc=True), or let 'curec import csv' convert it"
        ),
        (ColumnType::Utf8, t) if t.is_floating() => format!(
            "ids are texts or integers; pandas makes floats of integers with gaps: fill or drop those, then astype(\"int64\") \
             on {name}"
        ),
        (ColumnType::Utf8, DataType::Binary | DataType::LargeBinary | DataType::BinaryView) => format!(
            "the file does not say that these bytes are text: CAST({name} AS VARCHAR) when it is written, or in Spark \
             spark.sql.parquet.binaryAsString=true where it is read"
        ),
        (ColumnType::Utf8, DataType::List(_) | DataType::LargeList(_)) => {
            format!("write it as one text when the file is made: array_to_string({name}, ' ') in DuckDB")
        }
        (ColumnType::Utf8, _) => format!("write it as text when the file is made: CAST({name} AS VARCHAR)"),
        (ColumnType::Int32 | ColumnType::Int64, t) if t.is_floating() => format!(
            "pandas makes floats of integers with gaps: astype(\"Int64\") on {name}, with a capital I, keeps both"
        ),
        (ColumnType::Int32 | ColumnType::Int64, _) => {
            format!("write it as an integer when the file is made: CAST({name} AS INTEGER)")
        }
        (ColumnType::Float32 | ColumnType::Float64, _) => {
            format!("write it as a number when the file is made: CAST({name} AS DOUBLE)")
        }
        (ColumnType::List(_), t) if t.is_string() => format!(
            "write it as a list of texts when the file is made, for example string_split({name}, '|') in DuckDB or \
             {name}.str.split(\"|\") in pandas"
        ),
        (kind, _) => format!("write {name} as {kind} when the file is made"),
    }
}

/// `key=value` folders between the input's location and the file.
pub(crate) fn hive_values(file: &Location, root: &Location) -> Vec<PathColumn> {
    let relative = file.relative_to(root).unwrap_or_default();
    let mut parts: Vec<&str> = relative.split('/').collect();
    parts.pop();
    let pairs = parts.into_iter().filter_map(|part| part.split_once('='));
    pairs.map(|(key, value)| (percent_decoded(key), (value != HIVE_NULL).then(|| percent_decoded(value)))).collect()
}

pub(crate) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    // Parsing alone would accept a sign.
    let is_hex = |hex: &&str| hex.bytes().all(|b| b.is_ascii_hexdigit());
    while i < bytes.len() {
        let code = text.get(i + 1..i + 3).filter(is_hex).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[i], code) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
