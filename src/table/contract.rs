//! A table's contract: what its columns are, what its rows must hold, how its file is written; and the checks that
//! hold inputs against it.
//!
//! Knows `schemas/<table>.toml`, Arrow and Parquet. Knows nothing of SQL (audits are carried as text), of runs or of how
//! tables get published. Every refusal names the file, the column, the row (0-based in its file) and the row's key.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Field, FieldRef, Float32Type, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::{BoxFuture, FutureExt};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::arrow::{ProjectionMask, async_reader::ParquetRecordBatchStream};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use serde::Deserialize;
use toml::Spanned;

use crate::error::{Context, Error, Kind, Result};
use crate::table::store::{Entry, Location, fail, missing};

/// Rows per batch when files are read for checking.
const BATCH_ROWS: usize = 8192;
/// Key hashes held at once while looking for duplicates: 256 MiB.
const KEY_HASHES: usize = 32 << 20;

/// Who makes a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Others; curec only reads it.
    Input,
    /// curec, anew for every interval.
    Derived,
    /// curec, append-only.
    Store,
}

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
    /// A list of something.
    List(Box<ColumnType>),
    /// Named fields.
    Struct(Vec<(String, ColumnType)>),
}

impl ColumnType {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(inner) = text.strip_prefix("list<").and_then(|t| t.strip_suffix('>')) {
            return Some(ColumnType::List(Box::new(Self::parse(inner)?)));
        }
        if let Some(inner) = text.strip_prefix("struct<").and_then(|t| t.strip_suffix('>')) {
            let mut fields = Vec::new();
            for part in split_top(inner) {
                let (name, kind) = part.split_once(':')?;
                fields.push((name.trim().to_owned(), Self::parse(kind)?));
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
            ColumnType::Vector => {
                let width = i32::try_from(width).unwrap_or(i32::MAX);
                DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, false)), width)
            }
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

/// One column of a contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub column_type: ColumnType,
    /// Whether it may hold nulls; such a column of an input may be absent.
    pub nullable: bool,
    /// What it means.
    pub description: String,
    /// Other names under which an input may carry it.
    pub aliases: Vec<String>,
    /// Names of other physical types that an input may carry it in.
    pub accept: Vec<String>,
    /// The only values allowed.
    pub values: Option<Vec<String>>,
    /// The least value allowed.
    pub min: Option<f64>,
    /// The greatest value allowed.
    pub max: Option<f64>,
    /// Whether NaN and infinities are refused.
    pub finite: bool,
    /// The least length of a text, in bytes.
    pub min_length: Option<usize>,
}

/// How much an audit's finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is published.
    Error,
    /// It is reported.
    Warn,
}

/// A query that returns a table's bad rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Its name.
    pub name: String,
    /// What a finding does.
    pub severity: Severity,
    /// What it guards.
    pub description: String,
    /// The query; `this` is the staged table.
    pub sql: String,
}

/// How a table's Parquet files are written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Writer {
    /// `zstd(1..22)`, `snappy` or `none`.
    pub compression: String,
    /// Encoded bytes after which a row group ends.
    pub row_group_bytes: usize,
    /// Encoded bytes after which a new file begins.
    pub file_bytes: usize,
    /// Columns with a bloom filter.
    pub bloom_filter: Vec<String>,
    /// Columns whose values are written as byte streams.
    pub byte_stream_split: Vec<String>,
    /// Columns without a dictionary.
    pub no_dictionary: Vec<String>,
    /// Columns without statistics.
    pub no_statistics: Vec<String>,
}

impl Default for Writer {
    fn default() -> Self {
        Writer {
            compression: "zstd(3)".into(),
            row_group_bytes: 64 << 20,
            file_bytes: 256 << 20,
            bloom_filter: Vec::new(),
            byte_stream_split: Vec::new(),
            no_dictionary: Vec::new(),
            no_statistics: Vec::new(),
        }
    }
}

/// A table's contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Contract {
    /// The table's name.
    pub name: String,
    /// `major.minor`: a new nullable column is minor, anything else major.
    pub version: String,
    /// What one row is.
    pub description: String,
    /// Who makes it.
    pub role: Role,
    /// Columns that together are unique: within a partition, or within the whole of an input. May be empty for inputs.
    pub grain: Vec<String>,
    /// Columns by which every file is sorted, ascending, nulls last.
    pub sorted_by: Vec<String>,
    /// The partition column, which the files do not hold.
    pub partition_by: Option<String>,
    /// Whether a job may leave the input out.
    pub optional: bool,
    /// The columns, in the order of the file.
    pub columns: Vec<Column>,
    /// The audits.
    pub audits: Vec<Audit>,
    /// How files are written.
    pub writer: Writer,
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContractSpec {
    name: Spanned<String>,
    version: Spanned<String>,
    #[serde(default)]
    description: String,
    role: Role,
    #[serde(default)]
    grain: Vec<Spanned<String>>,
    #[serde(default)]
    sorted_by: Vec<Spanned<String>>,
    partition_by: Option<String>,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    column: Vec<Spanned<ColumnSpec>>,
    #[serde(default)]
    audit: Vec<AuditSpec>,
    #[serde(default)]
    writer: Option<Spanned<Writer>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnSpec {
    name: Spanned<String>,
    #[serde(rename = "type")]
    column_type: Spanned<String>,
    nullable: bool,
    #[serde(default)]
    description: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    accept: Vec<Spanned<String>>,
    values: Option<Vec<String>>,
    min: Option<f64>,
    max: Option<f64>,
    #[serde(default)]
    finite: bool,
    min_length: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditSpec {
    name: Spanned<String>,
    severity: Severity,
    #[serde(default)]
    description: String,
    sql: Spanned<String>,
}

macro_rules! builtins {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/", $name, ".toml")))),+]
    };
}

/// The contracts that come with curec, in the order of the data flow.
const BUILTIN: &[(&str, &str)] = builtins![
    "interaction",
    "item",
    "review",
    "user_history",
    "item_audience",
    "reason_prompt",
    "response",
    "reason",
    "reason_score",
    "item_feature",
    "user_feature",
];

/// The physical types that `accept` may name.
const ACCEPT: &[&str] = &[
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "large_utf8",
    "utf8_view",
    "dictionary",
    "large_list",
    "timestamp_s",
    "timestamp_ms",
    "timestamp_us",
    "timestamp_ns",
    "timestamp_naive",
    "date32",
];

/// The names of the contracts that come with curec, in the order of the data flow.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

/// A contract that comes with curec.
///
/// # Errors
/// `Kind::Config` for a name that none has.
pub fn builtin(name: &str) -> Result<Contract> {
    Contract::builtin(name)
}

impl Contract {
    /// Reads a contract; `origin` is the file name that errors show.
    ///
    /// # Errors
    /// `Kind::Config`, with line numbers, for anything that is not a sound contract.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let line = |at: usize| text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1;
        let spec: ContractSpec = toml::from_str(text).map_err(|e| {
            let error = Error::new(Kind::Config, format!("not a valid contract: {}", e.message())).with("file", origin);
            match e.span() {
                Some(span) => error.with("line", line(span.start)),
                None => error,
            }
        })?;
        let mut problems: Vec<(usize, String)> = Vec::new();
        let mut columns: Vec<Column> = Vec::new();
        for spanned in spec.column {
            let column = spanned.into_inner();
            let name = column.name.get_ref().clone();
            if columns.iter().any(|c| c.name == name) {
                problems.push((line(column.name.span().start), format!("column {name} stands twice")));
            }
            for accept in &column.accept {
                if !ACCEPT.contains(&accept.get_ref().as_str()) {
                    let known = ACCEPT.join(", ");
                    let message = format!("{} is no type that can be accepted (known: {known})", accept.get_ref());
                    problems.push((line(accept.span().start), message));
                }
            }
            let column_type = ColumnType::parse(column.column_type.get_ref()).unwrap_or_else(|| {
                let message = format!("{} is no column type", column.column_type.get_ref());
                problems.push((line(column.column_type.span().start), message));
                ColumnType::Utf8
            });
            columns.push(Column {
                name,
                column_type,
                nullable: column.nullable,
                description: column.description,
                aliases: column.aliases,
                accept: column.accept.into_iter().map(Spanned::into_inner).collect(),
                values: column.values,
                min: column.min,
                max: column.max,
                finite: column.finite,
                min_length: column.min_length,
            });
        }
        if columns.is_empty() {
            problems.push((1, "the contract has no [[column]]".into()));
        }
        let name_ok =
            |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !name_ok(spec.name.get_ref()) {
            problems.push((line(spec.name.span().start), "a table's name is lower case letters, digits and _".into()));
        }
        let parts: Vec<&str> = spec.version.get_ref().split('.').collect();
        if parts.len() != 2 || parts.iter().any(|p| p.parse::<u32>().is_err()) {
            problems.push((line(spec.version.span().start), "the version is not of the form major.minor".into()));
        }
        for key in spec.grain.iter().chain(&spec.sorted_by) {
            if !columns.iter().any(|c| c.name == *key.get_ref()) {
                problems.push((line(key.span().start), format!("{} is no column of this table", key.get_ref())));
            }
        }
        let mut audits = Vec::new();
        for audit in spec.audit {
            if audit.sql.get_ref().trim().is_empty() {
                problems.push((line(audit.sql.span().start), "the audit has no query".into()));
            }
            audits.push(Audit {
                name: audit.name.into_inner(),
                severity: audit.severity,
                description: audit.description,
                sql: audit.sql.into_inner(),
            });
        }
        let writer_line = spec.writer.as_ref().map_or(1, |w| line(w.span().start));
        let writer = spec.writer.map(Spanned::into_inner).unwrap_or_default();
        let named = [&writer.bloom_filter, &writer.byte_stream_split, &writer.no_dictionary, &writer.no_statistics];
        for name in named.into_iter().flatten() {
            if !columns.iter().any(|c| c.name == *name) {
                problems.push((writer_line, format!("{name} in [writer] is no column of this table")));
            }
        }
        if writer.zstd_level().is_err() {
            problems.push((writer_line, format!("{} is no compression (zstd(3), snappy, none)", writer.compression)));
        }
        if writer.row_group_bytes == 0 || writer.file_bytes == 0 {
            problems.push((writer_line, "row_group_bytes and file_bytes are at least 1".into()));
        }
        if let Some((at, first)) = problems.first().cloned() {
            let mut message = first;
            for (at, other) in &problems[1..] {
                message.push_str(&format!("; line {at}: {other}"));
            }
            return Err(Error::new(Kind::Config, message).with("file", origin).with("line", at));
        }
        Ok(Contract {
            name: spec.name.into_inner(),
            version: spec.version.into_inner(),
            description: spec.description,
            role: spec.role,
            grain: spec.grain.into_iter().map(Spanned::into_inner).collect(),
            sorted_by: spec.sorted_by.into_iter().map(Spanned::into_inner).collect(),
            partition_by: spec.partition_by,
            optional: spec.optional,
            columns,
            audits,
            writer,
            digest: blake3::hash(text.as_bytes()).to_hex().as_str()[..32].to_owned(),
        })
    }

    /// A contract that comes with curec.
    ///
    /// # Errors
    /// `Kind::Config` for a name that none has.
    pub fn builtin(name: &str) -> Result<Self> {
        match BUILTIN.iter().find(|(n, _)| *n == name) {
            Some((_, text)) => Self::parse(text, &format!("schemas/{name}.toml")),
            None => Err(Error::new(Kind::Config, format!("there is no contract for a table {name}"))
                .hint(format!("known tables: {}", builtin_names().collect::<Vec<_>>().join(", ")))),
        }
    }

    /// The contract of `name`: from `<folder>/<name>.toml` where that exists, else the one that comes with curec.
    ///
    /// # Errors
    /// `Kind::Config` where the file cannot be read or is no sound contract.
    pub fn find(name: &str, folder: Option<&std::path::Path>) -> Result<Self> {
        let Some(path) = folder.map(|f| f.join(format!("{name}.toml"))).filter(|p| p.exists()) else {
            return Self::builtin(name);
        };
        let text = std::fs::read_to_string(&path)
            .context(Kind::Config, || format!("cannot read the contract {}", path.display()))?;
        let contract = Self::parse(&text, &path.display().to_string())?;
        if contract.name != name {
            return Err(Error::new(Kind::Config, format!("the contract is for a table {}", contract.name))
                .with("file", path.display()));
        }
        Ok(contract)
    }

    /// The Arrow schema of its files. `vector_width` is the width of vector columns; without it they have width 0, which
    /// serves for tables that do not exist yet.
    pub fn arrow_schema(&self, vector_width: Option<usize>) -> SchemaRef {
        Arc::new(Schema::new(self.fields(vector_width.unwrap_or(0), true)))
    }

    /// Fields of all columns; with `strict` false every column may hold nulls, so that checks can name them.
    fn fields(&self, width: usize, strict: bool) -> Vec<Field> {
        let nullable = |c: &Column| c.nullable || !strict;
        self.columns.iter().map(|c| Field::new(&c.name, c.column_type.arrow(width), nullable(c))).collect()
    }

    /// Digest of the contract's text: 32 hex digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// The vector column, if it has one.
    pub fn vector_column(&self) -> Option<&Column> {
        self.columns.iter().find(|c| c.column_type == ColumnType::Vector)
    }

    /// What breaking this contract is: others' input, or our own rows.
    fn refusal(&self) -> Kind {
        if self.role == Role::Input { Kind::Input } else { Kind::Audit }
    }

    /// How this contract differs from an older one of the same table.
    pub fn change_since(&self, older: &Contract) -> Change {
        let kept = |old: &Column| {
            self.column(&old.name).is_some_and(|new| new.column_type == old.column_type && new.nullable == old.nullable)
        };
        let added_nullable = |c: &Column| c.nullable || older.column(&c.name).is_some();
        if !older.columns.iter().all(kept)
            || !self.columns.iter().all(added_nullable)
            || self.grain != older.grain
            || self.partition_by != older.partition_by
        {
            return Change::Major;
        }
        if self.columns.len() == older.columns.len() { Change::None } else { Change::Minor }
    }
}

/// The distance between two versions of a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Readers see no difference.
    None,
    /// Nullable columns came in.
    Minor,
    /// Anything else.
    Major,
}

impl Writer {
    /// The zstd level, `None` for snappy, `Some(0)` for no compression.
    pub(crate) fn zstd_level(&self) -> Result<Option<i32>, ()> {
        match self.compression.as_str() {
            "snappy" => Ok(None),
            "none" => Ok(Some(0)),
            other => {
                let level = other.strip_prefix("zstd(").and_then(|t| t.strip_suffix(')')).and_then(|t| t.parse().ok());
                level.filter(|l| (1..=22).contains(l)).map(Some).ok_or(())
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- columns

/// Whether an input's column of physical type `found` can be read as `column`.
fn accepts(column: &Column, found: &DataType) -> bool {
    let named = |n: &str| column.accept.iter().any(|a| a == n);
    if let (ColumnType::List(inner), Some(child)) = (&column.column_type, list_child(found)) {
        let plain = matches!(found, DataType::List(_));
        let loose = named("large_list");
        let child_ok = match (inner.as_ref(), child.data_type()) {
            (ColumnType::Utf8, DataType::Utf8) => true,
            (ColumnType::Utf8, t) => loose && is_text(t),
            (inner, t) => same_shape(inner, t),
        };
        return (plain || loose) && child_ok;
    }
    match (&column.column_type, found) {
        (ColumnType::Utf8, DataType::Utf8)
        | (ColumnType::Bool, DataType::Boolean)
        | (ColumnType::Int32, DataType::Int32)
        | (ColumnType::Int64, DataType::Int64)
        | (ColumnType::Float32, DataType::Float32)
        | (ColumnType::Float64, DataType::Float64)
        | (ColumnType::Date32, DataType::Date32) => true,
        (ColumnType::TimestampUs, DataType::Timestamp(unit, zone)) => {
            let unit_ok = match unit {
                TimeUnit::Microsecond => true,
                TimeUnit::Second => named("timestamp_s"),
                TimeUnit::Millisecond => named("timestamp_ms"),
                TimeUnit::Nanosecond => named("timestamp_ns"),
            };
            unit_ok && (zone.is_some() || named("timestamp_naive"))
        }
        (ColumnType::TimestampUs, DataType::Date32) => named("date32"),
        (ColumnType::Utf8, DataType::Dictionary(_, value)) => named("dictionary") && accepts(column, value),
        (ColumnType::Vector, DataType::FixedSizeList(child, _)) => child.data_type() == &DataType::Float32,
        (ColumnType::Struct(_), t) => same_shape(&column.column_type, t),
        (_, t) => physical_name(t).is_some_and(named),
    }
}

fn same_shape(wanted: &ColumnType, found: &DataType) -> bool {
    match (wanted, found) {
        (ColumnType::List(inner), t) => list_child(t).is_some_and(|c| same_shape(inner, c.data_type())),
        (ColumnType::Struct(fields), DataType::Struct(found)) => {
            fields.iter().all(|(name, kind)| found.iter().any(|f| f.name() == name && same_shape(kind, f.data_type())))
        }
        (ColumnType::Utf8, t) => is_text(t),
        (ColumnType::TimestampUs, DataType::Timestamp(..)) => true,
        (kind, t) => &kind.arrow(0) == t,
    }
}

fn is_text(found: &DataType) -> bool {
    matches!(found, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn list_child(found: &DataType) -> Option<&FieldRef> {
    match found {
        DataType::List(child)
        | DataType::LargeList(child)
        | DataType::ListView(child)
        | DataType::LargeListView(child)
        | DataType::FixedSizeList(child, _) => Some(child),
        _ => None,
    }
}

fn physical_name(found: &DataType) -> Option<&'static str> {
    Some(match found {
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::UInt8 => "uint8",
        DataType::UInt16 => "uint16",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float16 => "float16",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        DataType::LargeUtf8 => "large_utf8",
        DataType::Utf8View => "utf8_view",
        DataType::Date32 => "date32",
        _ => return None,
    })
}

/// Casts one column to the contract's type.
///
/// # Errors
/// `Err(Some(row))` names the first value that does not fit; `Err(None)` a cast that is not possible at all.
fn cast_column(column: &Column, found: &ArrayRef, width: usize) -> Result<ArrayRef, Option<usize>> {
    let target = column.column_type.arrow(width);
    if found.data_type() == &target {
        return Ok(Arc::clone(found));
    }
    if column.column_type == ColumnType::Vector {
        return as_vector(found, width);
    }
    let safe = CastOptions { safe: true, format_options: FormatOptions::default() };
    let cast = match (&column.column_type, without_zone(found)) {
        // A timestamp without a zone is read as UTC, and Arrow would want a time zone database to say so.
        (ColumnType::TimestampUs, Some(naive)) => {
            Arc::new(naive.as_primitive::<TimestampMicrosecondType>().clone().with_timezone("UTC"))
        }
        _ => cast_with_options(found, &target, &safe).map_err(|_| None)?,
    };
    // Null counts of a dictionary's keys are not those of its values.
    if cast.null_count() > found.logical_null_count() {
        let lost = (0..cast.len()).find(|row| cast.is_null(*row) && found.is_valid(*row));
        if lost.is_some() {
            return Err(lost);
        }
    }
    Ok(cast)
}

/// A vector column from any list of floats; `Err(Some(row))` where a row's width or a value is wrong.
fn as_vector(found: &ArrayRef, width: usize) -> Result<ArrayRef, Option<usize>> {
    let field = Arc::new(Field::new("item", DataType::Float32, false));
    let size = i32::try_from(width).map_err(|_| None)?;
    let wanted = DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, true)), size);
    let safe = CastOptions { safe: true, format_options: FormatOptions::default() };
    let cast = cast_with_options(found, &wanted, &safe).map_err(|_| None)?;
    if let Some(row) = (0..cast.len()).find(|row| cast.is_null(*row) && found.is_valid(*row)) {
        return Err(Some(row));
    }
    let lists = cast.as_fixed_size_list();
    let values = lists.values();
    if values.null_count() > 0 {
        // Under a null list the values are null as well; the checker names that row as null.
        let bad = (0..values.len()).find(|i| values.is_null(*i) && lists.is_valid(i / width.max(1)));
        if let Some(bad) = bad {
            return Err(Some(bad / width.max(1)));
        }
    }
    let data = values.as_primitive::<Float32Type>().values().clone();
    let values = Arc::new(arrow::array::Float32Array::new(data, None));
    let vector = FixedSizeListArray::try_new(field, size, values, lists.nulls().cloned()).map_err(|_| None)?;
    Ok(Arc::new(vector))
}

/// Brings a batch that we made ourselves (from SQL, say) into the contract's columns, order and types, and checks it.
///
/// Shapes: any batch that has every column by name; the result has exactly [`Contract::arrow_schema`]. The vector width
/// is taken from the batch.
///
/// # Errors
/// `Kind::Internal` for a missing column or a type that cannot be cast; [`Checker`]'s for rows that break the contract.
pub fn conform(contract: &Contract, batch: &RecordBatch, checker: &mut Checker<'_>) -> Result<RecordBatch> {
    let mut width = 0;
    let mut arrays = Vec::with_capacity(contract.columns.len());
    for column in &contract.columns {
        let place = |e: Error| e.with("table", &contract.name).with("column", &column.name);
        let found = batch
            .column_by_name(&column.name)
            .ok_or_else(|| place(Error::new(Kind::Internal, "the rows made for a table lack one of its columns")))?;
        if let (ColumnType::Vector, DataType::FixedSizeList(_, n)) = (&column.column_type, found.data_type()) {
            width = usize::try_from(*n).unwrap_or(0);
        }
        arrays.push(cast_column(column, found, width).map_err(|row| match row {
            Some(row) => checker.refuse(column, batch, row, "a value does not fit the column's type"),
            None => {
                place(Error::new(Kind::Internal, format!("{} cannot become {}", found.data_type(), column.column_type)))
            }
        })?);
    }
    finish_batch(contract, arrays, batch.num_rows(), width, checker)
}

fn finish_batch(
    contract: &Contract,
    arrays: Vec<ArrayRef>,
    rows: usize,
    width: usize,
    checker: &mut Checker<'_>,
) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let loose = Arc::new(Schema::new(contract.fields(width, false)));
    let batch = RecordBatch::try_new_with_options(loose, arrays, &options)
        .context(Kind::Internal, || format!("rows of table {}", contract.name))?;
    checker.check(&batch)?;
    let strict = contract.arrow_schema(Some(width));
    RecordBatch::try_new_with_options(strict, batch.columns().to_vec(), &options)
        .context(Kind::Internal, || format!("rows of table {}", contract.name))
}

// ------------------------------------------------------------------------------------------------------------ rows

/// Holds the rows of one file against a contract: nulls, NaN and infinities, ranges, allowed values, empty texts.
///
/// Feed it the file's batches in order, in the contract's columns.
pub struct Checker<'a> {
    contract: &'a Contract,
    file: String,
    rows: u64,
    nulls: Vec<u64>,
    /// The name of each column in the file, where it is another.
    sources: BTreeMap<String, String>,
}

impl<'a> Checker<'a> {
    /// A checker for one file; `file` is what errors show.
    pub fn new(contract: &'a Contract, file: impl fmt::Display) -> Self {
        let nulls = vec![0; contract.columns.len()];
        Checker { contract, file: file.to_string(), rows: 0, nulls, sources: BTreeMap::new() }
    }

    /// Rows seen.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Nulls seen, by column.
    pub fn nulls(&self) -> impl Iterator<Item = (&str, u64)> {
        self.contract.columns.iter().map(|c| c.name.as_str()).zip(self.nulls.iter().copied())
    }

    /// Checks the next rows; columns are found by name.
    ///
    /// # Errors
    /// `Kind::Input` for inputs, `Kind::Audit` for our own tables, naming file, column, row and key.
    pub fn check(&mut self, batch: &RecordBatch) -> Result<()> {
        for (i, column) in self.contract.columns.iter().enumerate() {
            let Some(array) = batch.column_by_name(&column.name) else {
                continue;
            };
            let nulls = array.logical_null_count();
            self.nulls[i] += nulls as u64;
            if nulls > 0 && !column.nullable {
                let row = (0..array.len()).find(|row| array.is_null(*row)).unwrap_or(0);
                return Err(self.refuse(column, batch, row, "null in a column that must not hold nulls"));
            }
            if let Some((row, problem)) = bad_value(column, array) {
                return Err(self.refuse(column, batch, row, &problem));
            }
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// The error for one row of the batch that is being looked at.
    fn refuse(&self, column: &Column, batch: &RecordBatch, row: usize, problem: &str) -> Error {
        let mut error = Error::new(self.contract.refusal(), problem)
            .with("table", &self.contract.name)
            .with("file", &self.file)
            .with("column", self.sources.get(&column.name).unwrap_or(&column.name))
            .with("row", self.rows + row as u64);
        if let Some(key) = key_text(self.contract, batch, row) {
            error = error.with("key", key);
        }
        error
    }
}

/// The row's grain columns as `user_id=1, item_id=7`.
pub(crate) fn key_text(contract: &Contract, batch: &RecordBatch, row: usize) -> Option<String> {
    let names: Vec<&str> = match contract.grain.is_empty() {
        false => contract.grain.iter().map(String::as_str).collect(),
        true => contract.columns.iter().filter(|c| !c.nullable).map(|c| c.name.as_str()).collect(),
    };
    let format = FormatOptions::default().with_null("null");
    let mut parts = Vec::new();
    for name in names {
        let Some(array) = batch.column_by_name(name) else { continue };
        // The formatter knows zones by name only with a time zone database; UTC needs none.
        let array = match array.data_type() {
            DataType::Timestamp(_, Some(_)) => without_zone(array)?,
            _ => Arc::clone(array),
        };
        let text = ArrayFormatter::try_new(&array, &format).ok()?.value(row).to_string();
        let text: String = text.chars().take(80).collect();
        parts.push(format!("{name}={text}"));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Timestamps in microseconds without their zone: the same instants, in UTC.
fn without_zone(array: &ArrayRef) -> Option<ArrayRef> {
    let DataType::Timestamp(unit, _) = array.data_type() else { return None };
    macro_rules! strip {
        ($type:ty) => {
            Arc::new(array.as_primitive::<$type>().clone().with_timezone_opt(None::<&str>)) as ArrayRef
        };
    }
    let naive = match unit {
        TimeUnit::Second => strip!(TimestampSecondType),
        TimeUnit::Millisecond => strip!(TimestampMillisecondType),
        TimeUnit::Microsecond => strip!(TimestampMicrosecondType),
        TimeUnit::Nanosecond => strip!(TimestampNanosecondType),
    };
    let safe = CastOptions { safe: true, format_options: FormatOptions::default() };
    cast_with_options(&naive, &DataType::Timestamp(TimeUnit::Microsecond, None), &safe).ok()
}

/// The first value of a column that its contract does not allow.
fn bad_value(column: &Column, array: &ArrayRef) -> Option<(usize, String)> {
    if let Some(strings) = array.as_string_opt::<i32>() {
        for (row, value) in strings.iter().enumerate() {
            let Some(value) = value else { continue };
            if column.min_length.is_some_and(|n| value.len() < n) {
                return Some((row, if value.is_empty() { "empty text".into() } else { "text is too short".into() }));
            }
            if column.values.as_ref().is_some_and(|allowed| !allowed.iter().any(|a| a == value)) {
                let shown: String = value.chars().take(40).collect();
                let allowed = column.values.as_deref().unwrap_or_default().join(", ");
                return Some((row, format!("{shown:?} is not one of {allowed}")));
            }
        }
        return None;
    }
    if let Some(lists) = array.as_fixed_size_list_opt() {
        let width = usize::try_from(lists.value_length()).unwrap_or(0).max(1);
        let values = lists.values().as_primitive_opt::<Float32Type>()?;
        let bad = column.finite.then(|| values.values().iter().position(|v| !v.is_finite())).flatten();
        return bad.map(|i| (i / width, format!("{} is not a finite number", values.value(i))));
    }
    let check = |row: usize, value: f64| -> Option<(usize, String)> {
        if column.finite && !value.is_finite() {
            return Some((row, format!("{value} is not a finite number")));
        }
        if column.min.is_some_and(|min| value < min) {
            return Some((row, format!("{value} is less than {}", column.min.unwrap_or_default())));
        }
        if column.max.is_some_and(|max| value > max) {
            return Some((row, format!("{value} is greater than {}", column.max.unwrap_or_default())));
        }
        None
    };
    if !column.finite && column.min.is_none() && column.max.is_none() {
        return None;
    }
    macro_rules! scan {
        ($type:ty) => {
            if let Some(values) = array.as_primitive_opt::<$type>() {
                return values.iter().enumerate().find_map(|(row, v)| check(row, v? as f64));
            }
        };
    }
    scan!(Float32Type);
    scan!(Float64Type);
    scan!(Int32Type);
    scan!(Int64Type);
    None
}

// ---------------------------------------------------------------------------------------------------------- inputs

/// One file of an input.
#[derive(Debug, Clone)]
pub struct InputFile {
    /// Where it is.
    pub location: Location,
    /// Rows, from its footer.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// What its content is known by: blake3 for local files, the store's tag elsewhere.
    pub digest: String,
    /// Values of the Hive partition columns in its path.
    pub partition: Vec<(String, String)>,
}

/// How a contract's column is found in the files.
#[derive(Debug, Clone)]
pub struct InputColumn {
    /// Its name in the contract.
    pub name: String,
    /// The contract's Arrow type.
    pub target: DataType,
    /// The files' column that carries it; `None`: read as null.
    pub source: Option<String>,
    /// That column's physical Arrow type.
    pub source_type: Option<DataType>,
}

/// An input that fits its contract as far as footers tell.
#[derive(Debug, Clone)]
pub struct InputTable {
    /// The contract's name.
    pub table: String,
    /// What the job named: a file or a folder.
    pub location: Location,
    /// Its files in the order of their paths.
    pub files: Vec<InputFile>,
    /// The physical schema of the files, restricted to the columns that the contract reads.
    pub schema: SchemaRef,
    /// Where each column of the contract comes from.
    pub columns: Vec<InputColumn>,
    /// Names of Hive partition columns in the paths, in order.
    pub hive_columns: Vec<String>,
}

impl InputTable {
    /// Rows of all files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows).sum()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// One digest over the contents of all files and their places below the input's location: 32 hex digits.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for file in &self.files {
            let place = file.location.relative_to(&self.location).unwrap_or_default();
            hasher.update(format!("{}:{place}:{}\n", place.len(), file.digest).as_bytes());
        }
        hasher.finalize().to_hex().as_str()[..32].to_owned()
    }
}

/// What a full look at an input found.
#[derive(Debug, Clone, Default)]
pub struct InputReport {
    /// Rows.
    pub rows: u64,
    /// Nulls by column of the contract.
    pub nulls: BTreeMap<String, u64>,
    /// The first and last `event_timestamp`, microseconds since 1970 UTC, where the contract has that column.
    pub time_range: Option<(i64, i64)>,
    /// What is allowed but worth knowing, one sentence each.
    pub warnings: Vec<String>,
}

impl InputReport {
    /// Items without a title.
    pub fn null_titles(&self) -> u64 {
        self.nulls.get("title").copied().unwrap_or(0)
    }
}

/// Reads one object for the Parquet reader.
#[derive(Debug)]
pub struct ObjectReader {
    store: Arc<dyn ObjectStore>,
    path: object_store::path::Path,
    size: u64,
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { Ok(self.store.get_range(&self.path, range).await?) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { Ok(self.store.get_ranges(&self.path, &ranges).await?) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        let metadata = options.map(|o| o.metadata_options().clone());
        let size = self.size;
        async move {
            let reader =
                ParquetMetaDataReader::new().with_metadata_options(metadata).with_prefetch_hint(Some(64 << 10));
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

/// Opens a Parquet file of `size` bytes by its footer.
///
/// # Errors
/// `Kind::Input` naming the file where it is missing, truncated or not Parquet; the store's own errors.
pub async fn open_parquet(at: &Location, size: u64) -> Result<ParquetRecordBatchStreamBuilder<ObjectReader>> {
    let reader = ObjectReader { store: at.store(), path: at.path().clone(), size };
    match ParquetRecordBatchStreamBuilder::new(reader).await {
        Ok(builder) => Ok(builder.with_batch_size(BATCH_ROWS)),
        Err(error) => {
            if let Some(error) = store_error(&error) {
                return Err(fail(error, "read", at));
            }
            let end = size.min(4);
            let start = at.store().get_range(at.path(), 0..end).await.unwrap_or_default();
            let what = match &start[..] {
                b"PAR1" => "the Parquet file is truncated or damaged: it has no readable footer",
                b"" => "the file is empty, not Parquet",
                _ => "not a Parquet file",
            };
            Err(Error::new(Kind::Input, what).with("file", at).with("bytes", size).source(error))
        }
    }
}

/// The store's error inside a Parquet error: a network fault is no reason to call a file damaged.
fn store_error(error: &ParquetError) -> Option<&object_store::Error> {
    match error {
        ParquetError::External(inner) => inner.downcast_ref::<object_store::Error>(),
        _ => None,
    }
}

/// Lists an input (one file, a folder, or Hive partitions) and holds every file's footer against the contract.
///
/// # Errors
/// `Kind::Input` naming the file and column: nothing there, not Parquet, truncated, a column missing or of a wrong type, files
/// that differ among themselves. The store's own errors.
pub async fn open_input(contract: &Contract, at: &Location) -> Result<InputTable> {
    let entries = list_parquet(contract, at).await?;
    let mut files = Vec::with_capacity(entries.len());
    let mut columns: Vec<InputColumn> = Vec::new();
    let mut seen_in: BTreeMap<String, (DataType, Location)> = BTreeMap::new();
    for column in &contract.columns {
        let target = column.column_type.arrow(0);
        columns.push(InputColumn { name: column.name.clone(), target, source: None, source_type: None });
    }
    let mut hive_columns: Vec<String> = Vec::new();
    for entry in entries {
        let builder = open_parquet(&entry.location, entry.size).await?;
        for (column, found) in contract.columns.iter().zip(&mut columns) {
            let Some(field) = find_column(contract, column, builder.schema(), &entry.location)? else { continue };
            match seen_in.get(&column.name) {
                None => {
                    found.source = Some(field.name().clone());
                    found.source_type = Some(field.data_type().clone());
                    if column.column_type == ColumnType::Vector {
                        found.target = field.data_type().clone();
                    }
                    seen_in.insert(column.name.clone(), (field.data_type().clone(), entry.location.clone()));
                }
                Some((kind, _)) if kind == field.data_type() && found.source.as_ref() == Some(field.name()) => {}
                Some((kind, first)) => {
                    let here = format!("{} {}", field.name(), field.data_type());
                    let there = format!("{} {kind} in {first}", found.source.as_deref().unwrap_or_default());
                    return Err(Error::new(Kind::Input, format!("files of one input differ: {here}, but {there}"))
                        .with("table", &contract.name)
                        .with("file", &entry.location)
                        .with("column", field.name()));
                }
            }
        }
        let partition = hive_values(&entry.location, at);
        for (name, _) in &partition {
            if !hive_columns.contains(name) {
                hive_columns.push(name.clone());
            }
        }
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let digest = match (entry.location.local_path(), entry.e_tag) {
            (None, Some(tag)) => format!("{tag}-{}", entry.size),
            _ => entry.location.digest().await?,
        };
        files.push(InputFile { location: entry.location, rows, bytes: entry.size, digest, partition });
    }
    let fields: Vec<Field> =
        columns.iter().filter_map(|c| Some(Field::new(c.source.as_ref()?, c.source_type.clone()?, true))).collect();
    let schema = Arc::new(Schema::new(fields));
    Ok(InputTable { table: contract.name.clone(), location: at.clone(), files, schema, columns, hive_columns })
}

/// The file's field that carries a contract's column; `None` for a nullable column that is absent.
fn find_column(contract: &Contract, column: &Column, schema: &SchemaRef, file: &Location) -> Result<Option<Field>> {
    let names = std::iter::once(&column.name).chain(&column.aliases);
    let Some(field) = names.filter_map(|n| schema.field_with_name(n).ok()).next() else {
        if column.nullable {
            return Ok(None);
        }
        let present: Vec<&str> = schema.fields().iter().take(20).map(|f| f.name().as_str()).collect();
        let mut hint = format!("the file has the columns {}", present.join(", "));
        if !column.aliases.is_empty() {
            hint.push_str(&format!("; {} may also be called {}", column.name, column.aliases.join(" or ")));
        }
        return Err(Error::new(Kind::Input, format!("the column {} is missing", column.name))
            .with("table", &contract.name)
            .with("file", file)
            .with("column", &column.name)
            .hint(hint));
    };
    if accepts(column, field.data_type()) {
        return Ok(Some(field.clone()));
    }
    let wanted = match column.accept.is_empty() {
        true => column.column_type.to_string(),
        false => format!("{} (or {})", column.column_type, column.accept.join(", ")),
    };
    let error = Error::new(Kind::Input, format!("wrong type {}, the contract wants {wanted}", field.data_type()))
        .with("table", &contract.name)
        .with("file", file)
        .with("column", field.name());
    Err(match (&column.column_type, field.data_type().is_numeric()) {
        (ColumnType::TimestampUs, true) => error
            .hint("a number does not say its unit: store a Parquet timestamp, or let 'curec import csv' convert it"),
        _ => error,
    })
}

/// The Parquet files at a location, in the order of their paths.
async fn list_parquet(contract: &Contract, at: &Location) -> Result<Vec<Entry>> {
    let place = |e: Error| e.with("table", &contract.name);
    let local = at.local_path();
    // The local store answers a question about a folder with an I/O error; the disk knows better.
    if !local.as_ref().is_some_and(|p| p.is_dir())
        && let Some(entry) = at.head().await.map_err(place)?
    {
        return Ok(vec![entry]);
    }
    if local.is_some_and(|p| !p.exists()) {
        return Err(place(missing(at)).hint("check the path under [inputs] in the job file"));
    }
    let all = at.list().await.map_err(place)?;
    let total = all.len();
    let first = all.first().map(|e| e.location.name().to_owned());
    let hidden = |e: &Entry| {
        let path = e.location.relative_to(at).unwrap_or_default();
        path.split('/').any(|part| part.starts_with('_') || part.starts_with('.'))
    };
    let named = |e: &Entry| e.location.name().to_ascii_lowercase().ends_with(".parquet");
    let files: Vec<Entry> = all.into_iter().filter(|e| named(e) && !hidden(e)).collect();
    if files.is_empty() {
        let message = match first {
            None => "the folder is empty".to_owned(),
            Some(name) => format!("the folder holds no .parquet file (but {total} other, such as {name})"),
        };
        let error = Error::new(Kind::Input, message).with("file", at);
        return Err(place(error).hint("'curec import' converts MovieLens, CSV and JSON lines"));
    }
    Ok(files)
}

/// `key=value` folders between the input's location and the file.
fn hive_values(file: &Location, root: &Location) -> Vec<(String, String)> {
    let relative = file.relative_to(root).unwrap_or_default();
    let mut parts: Vec<&str> = relative.split('/').collect();
    parts.pop();
    let pairs = parts.into_iter().filter_map(|part| part.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), percent_decoded(value))).collect()
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let code = text.get(i + 1..i + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
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

/// A file of an input as batches in the contract's columns and types, checked.
pub struct InputReader<'a> {
    contract: &'a Contract,
    table: &'a InputTable,
    file: &'a InputFile,
    stream: ParquetRecordBatchStream<ObjectReader>,
    checker: Checker<'a>,
}

impl<'a> InputReader<'a> {
    /// Opens one file of an input.
    ///
    /// # Errors
    /// As [`open_parquet`].
    pub async fn open(contract: &'a Contract, table: &'a InputTable, file: &'a InputFile) -> Result<Self> {
        let builder = open_parquet(&file.location, file.bytes).await?;
        let root = builder.schema();
        let wanted = table.columns.iter().filter_map(|c| root.index_of(c.source.as_deref()?).ok());
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.collect::<Vec<_>>());
        let stream = builder.with_projection(mask).build().map_err(|e| damaged(&e, &file.location))?;
        let mut checker = Checker::new(contract, &file.location);
        for column in &table.columns {
            if let Some(source) = column.source.as_ref().filter(|s| **s != column.name) {
                checker.sources.insert(column.name.clone(), source.clone());
            }
        }
        Ok(InputReader { contract, table, file, stream, checker })
    }

    /// The next rows, or `None` at the end.
    ///
    /// # Errors
    /// `Kind::Input` for damaged data and for rows that break the contract.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(batch) = self.stream.try_next().await.map_err(|e| damaged(&e, &self.file.location))? else {
            return Ok(None);
        };
        let mut arrays = Vec::with_capacity(self.contract.columns.len());
        let mut width = 0;
        for (column, input) in self.contract.columns.iter().zip(&self.table.columns) {
            let found = input.source.as_ref().and_then(|s| batch.column_by_name(s));
            let Some(found) = found else {
                arrays.push(new_null_array(&input.target, batch.num_rows()));
                continue;
            };
            if let (ColumnType::Vector, DataType::FixedSizeList(_, n)) = (&column.column_type, found.data_type()) {
                width = usize::try_from(*n).unwrap_or(0);
            }
            arrays.push(cast_column(column, found, width).map_err(|row| {
                let problem = format!("a value does not fit {}", column.column_type);
                self.checker.refuse(column, &batch, row.unwrap_or(0), &problem)
            })?);
        }
        finish_batch(self.contract, arrays, batch.num_rows(), width, &mut self.checker).map(Some)
    }
}

fn damaged(error: &ParquetError, at: &Location) -> Error {
    if let Some(error) = store_error(error) {
        return fail(error, "read", at);
    }
    Error::new(Kind::Input, "the Parquet file is damaged").with("file", at).source(error.to_string())
}

/// Streams every row of an input through a [`Checker`] and looks for duplicate keys.
///
/// Memory: one batch, and at most 256 MiB of key hashes at a time; inputs with more keys are read several times.
///
/// # Errors
/// `Kind::Input` naming file, column, row and key of the first row that breaks the contract.
pub async fn check_input(contract: &Contract, table: &InputTable) -> Result<InputReport> {
    let mut report = InputReport::default();
    let passes = (table.rows() as usize).div_ceil(KEY_HASHES).max(1) as u64;
    let mut suspects: HashSet<u64> = HashSet::new();
    for pass in 0..passes {
        let mut hashes: Vec<u64> = Vec::new();
        for file in &table.files {
            let mut reader = InputReader::open(contract, table, file).await?;
            let mut keys = KeyHasher::new(contract)?;
            while let Some(batch) = reader.next().await? {
                if pass == 0 {
                    widen(&mut report.time_range, &batch);
                }
                if contract.grain.is_empty() {
                    continue;
                }
                hashes.extend(keys.hash(&batch)?.into_iter().filter(|h| h % passes == pass));
            }
            if pass == 0 {
                report.rows += reader.checker.rows();
                for (name, nulls) in reader.checker.nulls() {
                    *report.nulls.entry(name.to_owned()).or_default() += nulls;
                }
            }
        }
        hashes.sort_unstable();
        suspects.extend(hashes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]));
    }
    if !suspects.is_empty() {
        confirm_duplicates(contract, table, &suspects).await?;
    }
    if report.null_titles() > 0 {
        report.warnings.push(format!("{} of {} items have no title", report.null_titles(), report.rows));
    }
    for column in table.columns.iter().filter(|c| matches!(c.source_type, Some(DataType::Timestamp(_, None)))) {
        let source = column.source.as_deref().unwrap_or(&column.name);
        report.warnings.push(format!("the column {source} names no time zone; it is read as UTC"));
    }
    Ok(report)
}

/// Reads again and compares the keys themselves wherever their hashes met.
async fn confirm_duplicates(contract: &Contract, table: &InputTable, suspects: &HashSet<u64>) -> Result<()> {
    let mut first: BTreeMap<Vec<u8>, (Location, u64)> = BTreeMap::new();
    for file in &table.files {
        let mut reader = InputReader::open(contract, table, file).await?;
        let mut keys = KeyHasher::new(contract)?;
        let mut before = 0_u64;
        while let Some(batch) = reader.next().await? {
            let rows = keys.rows(&batch)?;
            for (i, row) in rows.iter().enumerate() {
                if !suspects.contains(&hash_of(row.as_ref())) {
                    continue;
                }
                let here = before + i as u64;
                if let Some((other, row)) = first.get(row.as_ref()) {
                    return Err(Error::new(contract.refusal(), "the same key stands twice")
                        .with("table", &contract.name)
                        .with("file", &file.location)
                        .with("column", contract.grain.join(", "))
                        .with("row", here)
                        .with("key", key_text(contract, &batch, i).unwrap_or_default())
                        .with("first", format!("row {row} of {other}")));
                }
                first.insert(row.as_ref().to_vec(), (file.location.clone(), here));
            }
            before += batch.num_rows() as u64;
        }
    }
    Ok(())
}

fn widen(range: &mut Option<(i64, i64)>, batch: &RecordBatch) {
    let Some(column) = batch.column_by_name("event_timestamp") else { return };
    let Some(times) = column.as_primitive_opt::<TimestampMicrosecondType>() else { return };
    let (low, high) = (arrow::compute::min(times), arrow::compute::max(times));
    if let (Some(low), Some(high)) = (low, high) {
        *range = Some(range.map_or((low, high), |(a, b)| (a.min(low), b.max(high))));
    }
}

/// Turns a table's grain into comparable bytes and hashes.
pub(crate) struct KeyHasher {
    names: Vec<String>,
    converter: RowConverter,
}

impl KeyHasher {
    pub(crate) fn new(contract: &Contract) -> Result<Self> {
        Self::over(contract, &contract.grain)
    }

    /// Over any columns of the contract; rows compare ascending with nulls last.
    pub(crate) fn over(contract: &Contract, names: &[String]) -> Result<Self> {
        let order = arrow::compute::SortOptions { descending: false, nulls_first: false };
        let columns = names.iter().filter_map(|n| contract.column(n));
        let fields = columns.map(|c| SortField::new_with_options(c.column_type.arrow(0), order)).collect();
        let converter =
            RowConverter::new(fields).context(Kind::Config, || format!("key of table {}", contract.name))?;
        Ok(KeyHasher { names: names.to_vec(), converter })
    }

    pub(crate) fn rows(&mut self, batch: &RecordBatch) -> Result<arrow::row::Rows> {
        let columns: Vec<ArrayRef> = self.names.iter().filter_map(|n| batch.column_by_name(n).cloned()).collect();
        self.converter.convert_columns(&columns).context(Kind::Internal, || "cannot compare keys".into())
    }

    fn hash(&mut self, batch: &RecordBatch) -> Result<Vec<u64>> {
        Ok(self.rows(batch)?.iter().map(|row| hash_of(row.as_ref())).collect())
    }
}

fn hash_of(key: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
