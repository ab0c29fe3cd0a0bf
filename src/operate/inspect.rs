//! `curec inspect`: what a Parquet file or folder holds, read through Polars.
//!
//! Polars has its own Parquet reader, so this looks at what curec publishes with other eyes: a vector column has to show as
//! `array[f32, N]`. Knows no contract. Local files only.

use std::fmt;
use std::path::{Path, PathBuf};

use polars::prelude::{
    AnyValue, DataFrame, DataType, Expr, HiveOptions, IdxSize, LazyFrame, PlSmallStr, ScanArgsParquet, col, len,
};
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::operate::import::frames::{apart, polars_path};
use crate::table::listing::walk;

/// One column's profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnProfile {
    /// Its name.
    pub name: String,
    /// Its type in Polars' words, such as `str`, `datetime[μs, UTC]`, `array[f32, 384]`.
    pub data_type: String,
    /// Rows that hold null.
    pub nulls: u64,
    /// The least value as text; `None` for nested types and where all is null.
    pub min: Option<String>,
    /// The greatest value as text.
    pub max: Option<String>,
    /// Distinct values, null counting as one; `None` for nested types.
    pub distinct: Option<u64>,
}

/// What a file or folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// What was looked at.
    pub path: PathBuf,
    /// Parquet files.
    pub files: usize,
    /// Rows.
    pub rows: u64,
    /// The columns in order.
    pub columns: Vec<ColumnProfile>,
    /// The first rows as a table for people.
    pub head: String,
}

/// Looks at a Parquet file, or at all `.parquet` files below a folder whose names do not begin with `_` or `.`; `head` rows
/// are shown.
///
/// # Errors
/// `Kind::Input` naming the path where nothing is there or Polars cannot read it.
pub fn inspect(path: &Path, head: usize) -> Result<Inspection> {
    apart(|| look(path, head))
}

fn look(path: &Path, head: usize) -> Result<Inspection> {
    if !path.exists() {
        return Err(Error::new(Kind::Input, "no such file or folder").with("file", path.display()));
    }
    let files = if path.is_dir() { walk(path)?.parquet() } else { vec![path.to_path_buf()] };
    if files.is_empty() {
        return Err(Error::new(Kind::Input, "the folder holds no .parquet file").with("file", path.display()));
    }
    let unreadable = |e: polars::error::PolarsError| {
        Error::new(Kind::Input, "Polars cannot read it").with("file", path.display()).source(e.to_string())
    };
    let mut paths = Vec::with_capacity(files.len());
    for file in &files {
        paths.push(polars_path(file)?);
    }
    let args = ScanArgsParquet {
        glob: false,
        hive_options: HiveOptions { enabled: Some(false), ..HiveOptions::default() },
        ..ScanArgsParquet::default()
    };
    let scan = || LazyFrame::scan_parquet_files(paths.clone().into(), args.clone()).map_err(unreadable);
    let schema = scan()?.collect_schema().map_err(unreadable)?;
    let mut columns = Vec::with_capacity(schema.len());
    let mut rows = None;
    for (name, kind) in schema.iter() {
        let plain = !matches!(kind, DataType::List(_) | DataType::Struct(_) | DataType::Array(..));
        let column = || printable(name, kind);
        let mut wanted = vec![len().alias("rows"), column().null_count().alias("nulls")];
        if plain {
            wanted.extend([
                column().min().alias("min"),
                column().max().alias("max"),
                column().n_unique().alias("distinct"),
            ]);
        }
        // One column at a time, so that memory is bounded by the widest one.
        let found = scan()?.select(wanted).collect().map_err(unreadable)?;
        rows = rows.or_else(|| number(&found, "rows"));
        columns.push(ColumnProfile {
            name: name.to_string(),
            data_type: kind.to_string(),
            nulls: number(&found, "nulls").unwrap_or(0),
            min: text(&found, "min"),
            max: text(&found, "max"),
            distinct: number(&found, "distinct"),
        });
    }
    let all: Vec<Expr> = schema.iter().map(|(name, kind)| printable(name, kind)).collect();
    let few = IdxSize::try_from(head).unwrap_or(IdxSize::MAX);
    let shown = scan()?.select(all).limit(few).collect().map_err(unreadable)?;
    Ok(Inspection {
        path: path.to_path_buf(),
        files: files.len(),
        rows: rows.unwrap_or(0),
        columns,
        head: shown.to_string(),
    })
}

/// A column as it is, but moments without their zone: Polars prints those only with a time zone database.
fn printable(name: &PlSmallStr, kind: &DataType) -> Expr {
    match kind {
        DataType::Datetime(unit, Some(_)) => {
            col(name.clone()).cast(DataType::Int64).cast(DataType::Datetime(*unit, None))
        }
        _ => col(name.clone()),
    }
}

fn number(frame: &DataFrame, name: &str) -> Option<u64> {
    frame.column(name).ok()?.cast(&DataType::UInt64).ok()?.u64().ok()?.get(0)
}

fn text(frame: &DataFrame, name: &str) -> Option<String> {
    let value = match frame.column(name).ok()?.get(0).ok()? {
        AnyValue::Null => return None,
        AnyValue::String(text) => text.to_owned(),
        AnyValue::StringOwned(text) => text.to_string(),
        other => other.to_string(),
    };
    Some(value.chars().take(80).collect())
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} rows in {} file(s)\n", self.path.display(), self.rows, self.files)?;
        let header = ["column", "type", "nulls", "distinct", "min", "max"].map(str::to_owned);
        let mut table = vec![header];
        for c in &self.columns {
            let distinct = c.distinct.map(|d| d.to_string()).unwrap_or_default();
            let short = |t: &Option<String>| t.as_deref().unwrap_or_default().chars().take(32).collect::<String>();
            table.push([
                c.name.clone(),
                c.data_type.clone(),
                c.nulls.to_string(),
                distinct,
                short(&c.min),
                short(&c.max),
            ]);
        }
        let width = |i: usize| table.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
        let widths = [0, 1, 2, 3, 4, 5].map(width);
        for row in &table {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        write!(f, "\n{}", self.head)
    }
}
