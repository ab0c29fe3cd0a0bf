//! A table's contract: what its columns are, what its rows must hold, how its file is written.
//!
//! Knows `schemas/<table>.toml` and Arrow's types. Knows nothing of SQL (audits are carried as text), of files or of how
//! tables get published.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef, TimeUnit};
use serde::Deserialize;
use toml::Spanned;

use crate::config::Meanings;
use crate::error::{Context, Error, Kind, Result};
use crate::excerpt::Excerpt;
use crate::table::build::Build;
use crate::table::builtin::{self, CONTRACTS};
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
    foreign_key: Vec<ForeignKeySpec>,
    #[serde(default)]
    audit: Vec<AuditSpec>,
    #[serde(default)]
    writer: Option<Spanned<Writer>>,
    build: Option<Spanned<Build>>,
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
    /// Values that came after the others, in one line: no part of the digest.
    #[serde(default)]
    added_values: Vec<String>,
    min: Option<f64>,
    max: Option<f64>,
    #[serde(default)]
    finite: bool,
    min_length: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForeignKeySpec {
    columns: Spanned<Vec<Spanned<String>>>,
    references: Spanned<String>,
    to: Option<Spanned<Vec<String>>>,
    #[serde(rename = "where")]
    filter: Option<Spanned<String>>,
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
    "decimal",
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

/// The names of the contracts that come with curec, sorted.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    CONTRACTS.iter().map(|(name, _)| *name)
}

/// The digest of a contract's text: 32 hex digits. One more allowed value makes nothing wrong that was published, so the lines
/// `added_values = [...]` are left out.
fn digest_of(text: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for line in text.split_inclusive('\n').filter(|line| !line.starts_with("added_values")) {
        hasher.update(line.as_bytes());
    }
    hasher.finalize().to_hex().as_str()[..32].to_owned()
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
                Some(span) => error.with("line", line(span.start)).showing(Some(Excerpt::of_bytes(text, span))),
                None => error,
            }
        })?;
        let mut problems: Vec<(Range<usize>, String)> = Vec::new();
        let mut columns: Vec<Column> = Vec::new();
        for spanned in spec.column {
            let column = spanned.into_inner();
            let name = column.name.get_ref().clone();
            if columns.iter().any(|c| c.name == name) {
                problems.push((column.name.span(), format!("column {name} stands twice")));
            }
            for accept in &column.accept {
                if !ACCEPT.contains(&accept.get_ref().as_str()) {
                    let message = format!("{} is no type that can be accepted", accept.get_ref());
                    problems.push((accept.span(), message));
                }
            }
            let column_type = ColumnType::parse(column.column_type.get_ref()).unwrap_or_else(|| {
                let message = format!("{} is no column type", column.column_type.get_ref());
                problems.push((column.column_type.span(), message));
                ColumnType::Utf8
            });
            columns.push(Column {
                name,
                column_type,
                nullable: column.nullable,
                description: column.description,
                aliases: column.aliases,
                accept: column.accept.into_iter().map(Spanned::into_inner).collect(),
                values: column.values.map(|values| values.into_iter().chain(column.added_values).collect()),
                min: column.min,
                max: column.max,
                finite: column.finite,
                min_length: column.min_length,
                carried: None,
                epoch: None,
            });
        }
        if columns.is_empty() {
            problems.push((0..0, "the contract has no [[column]]".into()));
        }
        let name_ok =
            |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !name_ok(spec.name.get_ref()) {
            problems.push((spec.name.span(), "a table's name is lower case letters, digits and _".into()));
        }
        let parts: Vec<&str> = spec.version.get_ref().split('.').collect();
        if parts.len() != 2 || parts.iter().any(|p| p.parse::<u32>().is_err()) {
            problems.push((spec.version.span(), "the version is not of the form major.minor".into()));
        }
        for key in spec.grain.iter().chain(&spec.sorted_by) {
            if !columns.iter().any(|c| c.name == *key.get_ref()) {
                problems.push((key.span(), format!("{} is no column of this table", key.get_ref())));
            }
        }
        let mut foreign_keys = Vec::new();
        for key in spec.foreign_key {
            let at = key.columns.span();
            for column in key.columns.get_ref() {
                if !columns.iter().any(|c| c.name == *column.get_ref()) {
                    let message = format!("{} in [[foreign_key]] is no column of this table", column.get_ref());
                    problems.push((column.span(), message));
                }
            }
            if key.columns.get_ref().is_empty() {
                problems.push((at, "the foreign key has no columns".into()));
            }
            if !name_ok(key.references.get_ref()) || key.references.get_ref() == spec.name.get_ref() {
                let message = format!("references names another table, not {:?}", key.references.get_ref());
                problems.push((key.references.span(), message));
            }
            if let Some(to) = &key.to
                && to.get_ref().len() != key.columns.get_ref().len()
            {
                let (there, here) = (to.get_ref().len(), key.columns.get_ref().len());
                problems.push((to.span(), format!("{there} columns in to, but {here} in columns")));
            }
            if let Some(filter) = key.filter.as_ref().filter(|f| f.get_ref().trim().is_empty()) {
                problems.push((filter.span(), "the foreign key's where is empty".into()));
            }
            let columns: Vec<_> = key.columns.into_inner().into_iter().map(Spanned::into_inner).collect();
            foreign_keys.push(ForeignKey {
                to: key.to.map_or_else(|| columns.clone(), Spanned::into_inner),
                columns,
                references: key.references.into_inner(),
                filter: key.filter.map(Spanned::into_inner),
            });
        }
        let mut audits = Vec::new();
        for audit in spec.audit {
            if audit.sql.get_ref().trim().is_empty() {
                problems.push((audit.sql.span(), "the audit has no query".into()));
            }
            audits.push(Audit {
                name: audit.name.into_inner(),
                severity: audit.severity,
                description: audit.description,
                sql: audit.sql.into_inner(),
            });
        }
        let of_writer = spec.writer.as_ref().map_or(0..0, Spanned::span);
        let writer = spec.writer.map(Spanned::into_inner).unwrap_or_default();
        let named = [&writer.bloom_filter, &writer.byte_stream_split, &writer.no_dictionary, &writer.no_statistics];
        for name in named.into_iter().flatten() {
            if !columns.iter().any(|c| c.name == *name) {
                problems.push((of_writer.clone(), format!("{name} in [writer] is no column of this table")));
            }
        }
        if writer.zstd_level().is_err() {
            problems
                .push((of_writer.clone(), format!("{} is no compression (zstd(3), snappy, none)", writer.compression)));
        }
        if writer.row_group_bytes == 0 || writer.file_bytes == 0 {
            problems.push((of_writer, "row_group_bytes and file_bytes are at least 1".into()));
        }
        if let Some(build) = &spec.build {
            let at = build.span();
            if spec.role != Role::Derived {
                problems.push((at.clone(), "only a table of the role derived has a [build]".into()));
            }
            if build.get_ref().publish != spec.partition_by.is_some() {
                problems
                    .push((at, "a table with publish = true has partition_by = \"dt\", another one has none".into()));
            }
        }
        if let Some((at, first)) = problems.first().cloned() {
            let mut message = first;
            for (at, other) in &problems[1..] {
                message.push_str(&format!("; line {}: {other}", line(at.start)));
            }
            let error = Error::new(Kind::Config, message).with("file", origin).with("line", line(at.start));
            let places = problems.into_iter().map(|(at, _)| Excerpt::of_bytes(text, at));
            let error = places.fold(error, |error, place| error.showing(Some(place)));
            return Err(error.hint(format!("types that can be accepted: {}", ACCEPT.join(", "))));
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
            foreign_keys,
            audits,
            writer,
            build: spec.build.map(Spanned::into_inner),
            events: Meanings::default(),
            digest: digest_of(text),
        })
    }

    /// A contract that comes with curec.
    ///
    /// # Errors
    /// `Kind::Config` for a name that none has.
    pub fn builtin(name: &str) -> Result<Self> {
        match builtin::text(CONTRACTS, name) {
            Some(text) => Self::parse(text, &format!("schemas/{name}.toml")),
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
