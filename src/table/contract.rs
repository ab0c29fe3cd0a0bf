//! A table's contract: what its columns are, what its rows must hold, how its file is written.
//!
//! Knows Arrow's types, and how contracts lean on each other. Knows nothing of the text that a contract is read from, of SQL (audits
//! are carried as text), of files or of how tables get published.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef, TimeUnit};
use serde::Deserialize;

use crate::config::Meanings;
use crate::error::{Error, Kind, Result};
use crate::table::build::Build;
use crate::table::builtin::CONTRACTS;
use crate::table::column_type::ColumnType;

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
    /// The only name under which a job's files carry it; empty: it is not read, whatever the files have.
    pub carried: Option<String>,
    /// What whole numbers in it count since 1970, where a job's files may hold such for moments.
    pub epoch: Option<TimeUnit>,
}

impl Column {
    /// The names under which an input may carry it: its own first, or the job's alone. None for one that is not read.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let is_own = self.carried.is_none();
        let own = std::iter::once(&self.name).chain(&self.aliases).filter(move |_| is_own);
        self.carried.iter().filter(|name| !name.is_empty()).chain(own).map(String::as_str)
    }
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

impl Severity {
    /// Its name, as contracts write it.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warn => "warn",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
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

/// Rows of this table that another table must have: a row without a parent is bad. Nulls match nulls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    /// Columns of this table.
    pub columns: Vec<String>,
    /// The parent: a table that is made before this one.
    pub references: String,
    /// The parent's columns, in the same order.
    pub to: Vec<String>,
    /// SQL condition on this table's rows; `None`: all of them.
    pub filter: Option<String>,
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
    /// Columns whose values are written as byte streams, which Spark's own reader does not know.
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
    /// The tables that its rows lean on.
    pub foreign_keys: Vec<ForeignKey>,
    /// The audits.
    pub audits: Vec<Audit>,
    /// How files are written.
    pub writer: Writer,
    /// How a run makes it; `None` for inputs, and for tables that something else makes.
    pub build: Option<Build>,
    /// What events mean in a job's files.
    pub events: Meanings,
    /// Of its text and of what was added to it.
    pub(super) digest: String,
}

/// The names of the contracts that come with curec, sorted.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    CONTRACTS.iter().map(|(name, _)| *name)
}

impl Contract {
    /// A contract that the program makes for files that are no table of a warehouse; it was checked by nobody.
    pub(crate) fn made(name: &str, columns: Vec<Column>, sorted_by: Vec<String>, writer: Writer) -> Self {
        Contract {
            name: name.to_owned(),
            version: "1.0".to_owned(),
            description: String::new(),
            role: Role::Derived,
            grain: Vec::new(),
            sorted_by,
            partition_by: None,
            optional: false,
            columns,
            foreign_keys: Vec::new(),
            audits: Vec::new(),
            writer,
            build: None,
            events: Meanings::default(),
            digest: String::new(),
        }
    }

    /// The same contract with one more column, the last one, which is written as a vector is; its digest tells of the column.
    pub(crate) fn with_column(mut self, column: Column) -> Self {
        let told = format!("{} column {} {} {}", self.digest, column.name, column.column_type, column.description);
        self.digest = blake3::hash(told.as_bytes()).to_hex().as_str()[..32].to_owned();
        let writer = &mut self.writer;
        for list in [&mut writer.no_dictionary, &mut writer.no_statistics] {
            list.push(column.name.clone());
        }
        self.columns.push(column);
        self
    }

    /// The same contract under another digest.
    pub(crate) fn told_apart(self, digest: String) -> Self {
        Contract { digest, ..self }
    }

    /// Holds foreign keys against the tables that they name: each exists, is made before this one, and has columns of
    /// the same types. `contracts` stand in the order in which their tables are made.
    ///
    /// # Errors
    /// `Kind::Config` naming every mistake.
    pub fn check_references(contracts: &[&Contract]) -> Result<()> {
        let mut problems = Vec::new();
        for (place, contract) in contracts.iter().enumerate() {
            for key in &contract.foreign_keys {
                let mut add = |what: String| problems.push(format!("{}: [[foreign_key]] {what}", contract.name));
                let Some(parent) = contracts[..place].iter().find(|c| c.name == key.references) else {
                    add(format!("references {}, which is no table made before it", key.references));
                    continue;
                };
                for (child, to) in key.columns.iter().zip(&key.to) {
                    match (contract.column(child), parent.column(to)) {
                        (_, None) => add(format!("{to} is no column of {}", parent.name)),
                        (Some(a), Some(b)) if a.column_type != b.column_type => {
                            add(format!("{child} is {}, but {}.{to} is {}", a.column_type, parent.name, b.column_type));
                        }
                        _ => {}
                    }
                }
            }
        }
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Error::new(Kind::Config, format!("contracts do not fit together: {}", problems.join("; ")))),
        }
    }

    /// The Arrow schema of its files. `vector_width` is the width of vector columns; without it they have width 0, which
    /// serves for tables that do not exist yet.
    pub fn arrow_schema(&self, vector_width: Option<usize>) -> SchemaRef {
        Arc::new(Schema::new(self.fields(vector_width.unwrap_or(0), true)))
    }

    /// Fields of all columns; with `strict` false every column may hold nulls, so that checks can name them.
    pub(crate) fn fields(&self, width: usize, strict: bool) -> Vec<Field> {
        let nullable = |c: &Column| c.nullable || !strict;
        self.columns.iter().map(|c| Field::new(&c.name, c.column_type.arrow(width), nullable(c))).collect()
    }

    /// Digest of the contract's text but for values that came later, and of what was added to it: 32 hex digits.
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
    pub(crate) fn refusal(&self) -> Kind {
        if self.role == Role::Input { Kind::Input } else { Kind::Audit }
    }
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
