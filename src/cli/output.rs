//! What goes to standard output: texts, and the rows of a query in a form that was asked for.
//!
//! Knows formats and readers that go away; knows nothing of commands.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use futures::TryStreamExt;

use crate::error::{Error, Kind, Result};
use crate::query::session::Rows;

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON object a line.
    Json,
    /// With a header line.
    Csv,
    /// A Parquet file; not for a terminal.
    Parquet,
}

/// A line for every file written.
pub(crate) fn file_lines(files: &[(PathBuf, u64)]) -> String {
    files.iter().map(|(file, rows)| format!("{}  {rows} rows\n", file.display())).collect()
}

/// Writes data to standard output; a reader that has gone away is no error of ours.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(output_error)
}

fn output_error(e: std::io::Error) -> Error {
    let kind = if e.kind() == std::io::ErrorKind::BrokenPipe { Kind::BrokenPipe } else { Kind::Temporary };
    Error::new(kind, "cannot write the output").source(e)
}

/// A writer that remembers that its reader has gone: Arrow's writers turn that into a text among others.
struct Watched<W> {
    inner: W,
    is_broken: Arc<AtomicBool>,
}

impl<W: Write> Watched<W> {
    fn watch<T>(&self, result: std::io::Result<T>) -> std::io::Result<T> {
        if result.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
            self.is_broken.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let result = self.inner.write(bytes);
        self.watch(result)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let result = self.inner.flush();
        self.watch(result)
    }
}

/// Writes the rows of a query.
///
/// # Errors
/// `Kind::BrokenPipe` where the reader has gone; `Kind::Usage` for rows that the format cannot hold; the query's.
pub(crate) async fn write_rows(rows: Rows, format: Format, out: impl Write + Send) -> Result<()> {
    let is_broken = Arc::new(AtomicBool::new(false));
    let mut out = Watched { inner: out, is_broken: is_broken.clone() };
    let schema = rows.schema();
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| match is_broken.load(Ordering::Relaxed) {
        true => output_error(std::io::ErrorKind::BrokenPipe.into()),
        false => Error::new(Kind::Usage, "cannot write the result in this format").source(e),
    };
    let arrow = |e: arrow::error::ArrowError| failed(e.into());
    let parquet = |e: parquet::errors::ParquetError| failed(e.into());
    let nested = schema.fields().iter().find(|f| f.data_type().is_nested());
    if let (Format::Csv, Some(field)) = (format, nested) {
        return Err(Error::new(Kind::Usage, "CSV cannot hold lists")
            .with("column", field.name())
            .hint("name other columns, use array_to_string(column, ', '), or --format json"));
    }
    let mut rows = rows.stream().await?;
    match format {
        Format::Table => {
            let batches: Vec<_> = rows.try_collect().await?;
            let table = arrow::util::pretty::pretty_format_batches_with_schema(schema, &batches).map_err(arrow)?;
            writeln!(out, "{table}").map_err(output_error)?;
        }
        Format::Json => {
            let mut writer = arrow::json::WriterBuilder::new()
                .with_explicit_nulls(true)
                .build::<_, arrow::json::writer::LineDelimited>(&mut out);
            while let Some(batch) = rows.try_next().await? {
                writer.write(&batch).map_err(arrow)?;
            }
            writer.finish().map_err(arrow)?;
        }
        Format::Csv => {
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(&mut out);
            writer.write(&arrow::array::RecordBatch::new_empty(schema)).map_err(arrow)?;
            while let Some(batch) = rows.try_next().await? {
                writer.write(&batch).map_err(arrow)?;
            }
        }
        Format::Parquet => {
            let mut writer = parquet::arrow::ArrowWriter::try_new(&mut out, schema, None).map_err(parquet)?;
            while let Some(batch) = rows.try_next().await? {
                writer.write(&batch).map_err(parquet)?;
            }
            writer.close().map_err(parquet)?;
        }
    }
    out.flush().map_err(output_error)
}
