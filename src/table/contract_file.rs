//! A contract's text: `schemas/<table>.toml`, read and held against what a contract may say.
//!
//! Knows the form of the file, and tells all that is wrong with one at once, each with its line. Knows nothing of what a contract is
//! used for.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use crate::config::Meanings;
use crate::error::{Context, Error, Kind, Result};
use crate::excerpt::Excerpt;
use crate::table::build::Build;
use crate::table::builtin::{self, CONTRACTS};
use crate::table::column_type::ColumnType;
use crate::table::contract::{Audit, Column, Contract, ForeignKey, Role, Severity, Writer, builtin_names};

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
}
