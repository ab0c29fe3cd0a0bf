//! What goes to standard output: texts, and the rows of a query in a form that was asked for.
//!
//! Knows formats, readers that go away, and that nothing which is printed may steer a terminal or a spreadsheet; knows nothing
//! of commands.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use clap::ValueEnum;
use futures::TryStreamExt;

use crate::config::has_colours;
use crate::destination::{Destination, Opened};
use crate::error::{Error, Kind, Result};
use crate::printable::{self, Guard, Shape, Tone, Toned};
use crate::query::session::Rows;
use crate::telemetry::beside_bar;

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

/// Writes text for people to standard output; a reader that has gone away is no error of ours.
pub(crate) fn print(text: &str) -> Result<()> {
    write_out(&printable::terminal(text))
}

/// Writes text with tones for people to standard output, with colours where there are to be some.
pub(crate) fn print_toned(pieces: &[Toned]) -> Result<()> {
    write_out(&printable::toned(pieces, has_colours(Out::Stdout.is_terminal())))
}

/// Writes JSON to standard output.
pub(crate) fn print_json(text: &str) -> Result<()> {
    write_out(&printable::json(text))
}

fn write_out(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(output_error)
}

/// Says something to a person, on standard error. Whether anybody listens decides nothing.
pub(crate) fn say(text: &str) {
    let _ = beside_bar(|| writeln!(std::io::stderr().lock(), "{}", printable::terminal(text)));
}

/// Says on standard error what went wrong, where, and what to do; `before` says what was done meanwhile.
pub(crate) fn say_error(before: &str, error: &Error) {
    let mut pieces = vec![Toned { tone: Tone::Wrong, text: "error".into() }];
    pieces.push(Toned { tone: Tone::Plain, text: format!(": {before}") });
    pieces.extend(error.pieces());
    let text = printable::toned(&pieces, has_colours(std::io::stderr().is_terminal()));
    let _ = beside_bar(|| writeln!(std::io::stderr().lock(), "{text}"));
}

/// Writes a command's one-line JSON: to its file, where one was asked for, and to standard output in any case.
pub(crate) fn tell(line: &serde_json::Value, summary: Option<&Destination>) -> Result<()> {
    let line = format!("{line}\n");
    let written = summary.map_or(Ok(()), |to| to.write(printable::json(&line).as_bytes()));
    // Once is enough where the summary is asked for on standard output.
    if summary.is_some_and(Destination::is_stdout) {
        return written;
    }
    let printed = print_json(&line);
    written.and(printed)
}

/// Whether a person reads standard output: it is a terminal, and JSON is not asked for.
pub(crate) fn is_for_a_person(json: bool) -> bool {
    !json && Out::Stdout.is_terminal()
}

/// Writes a command's one-line JSON to the file that was asked for alone: a person sees something else.
pub(crate) fn save(line: &serde_json::Value, summary: Option<&Destination>) -> Result<()> {
    summary.map_or(Ok(()), |to| to.write(printable::json(&format!("{line}\n")).as_bytes()))
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

/// Where a result goes.
pub(crate) enum Out {
    /// Standard output.
    Stdout,
    /// What `--output` names.
    Opened(Opened),
}

impl Out {
    /// What `--output` names, standard output without it.
    ///
    /// # Errors
    /// As [`Destination::open`].
    pub(crate) fn open(to: Option<&Destination>) -> Result<Out> {
        to.map_or(Ok(Out::Stdout), |to| to.open().map(Out::Opened))
    }

    /// Whether a person is looking at it.
    pub(crate) fn is_terminal(&self) -> bool {
        match self {
            Out::Stdout => std::io::stdout().is_terminal(),
            Out::Opened(opened) => opened.is_terminal(),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Out::Stdout => std::io::stdout().flush().map_err(output_error),
            Out::Opened(opened) => opened.finish(),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Out::Stdout => std::io::stdout().write(bytes),
            Out::Opened(opened) => opened.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Out::Stdout => std::io::stdout().flush(),
            Out::Opened(opened) => opened.flush(),
        }
    }
}

/// Writes the rows of a query; as CSV, texts that a spreadsheet would take for formulas only where `is_raw` asks for them.
///
/// # Errors
/// `Kind::BrokenPipe` where the reader has gone; `Kind::Usage` for rows that the format cannot hold; the query's.
pub(crate) async fn write_rows(rows: Rows, format: Format, is_raw: bool, mut to: Out) -> Result<()> {
    let shape = match format {
        Format::Table => Shape::Terminal,
        Format::Json => Shape::Json,
        // For programs it stays what it is.
        Format::Csv if to.is_terminal() => Shape::Terminal,
        Format::Csv | Format::Parquet => Shape::Raw,
    };
    let is_broken = Arc::new(AtomicBool::new(false));
    let mut out = Guard::new(Watched { inner: &mut to, is_broken: is_broken.clone() }, shape);
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
    if !matches!(format, Format::Table) {
        rows.each_name_once()?;
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
            let fit = |batch: RecordBatch| if is_raw { Ok(batch) } else { without_formulas(&batch).map_err(arrow) };
            writer.write(&fit(RecordBatch::new_empty(schema))?).map_err(arrow)?;
            while let Some(batch) = rows.try_next().await? {
                writer.write(&fit(batch)?).map_err(arrow)?;
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
    out.flush().map_err(output_error)?;
    to.finish()
}

/// Rows whose texts and names no spreadsheet takes for formulas; numbers stay numbers.
fn without_formulas(batch: &RecordBatch) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    let is_text = |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_text = |kind: &DataType| match kind {
        DataType::Dictionary(_, values) => is_text(values),
        kind => is_text(kind),
    };
    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let name = printable::cell(field.name()).into_owned();
        let column = match is_text(field.data_type()) {
            true => {
                let texts = arrow::compute::cast(column, &DataType::Utf8)?;
                let fit = texts.as_string::<i32>().iter().map(|text| text.map(printable::cell));
                Arc::new(fit.collect::<StringArray>()) as ArrayRef
            }
            false => column.clone(),
        };
        fields.push(Field::new(name, column.data_type().clone(), true));
        columns.push(column);
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::{DictionaryArray, Int64Array, StringViewArray};
    use arrow::datatypes::Int32Type;

    #[test]
    fn only_texts_are_kept_from_being_formulas() {
        let text = StringViewArray::from(vec![Some("=HYPERLINK(\"x\")"), Some("plain"), None]);
        let code: DictionaryArray<Int32Type> = vec![Some("@a"), Some("-7"), None].into_iter().collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("=name", Arc::new(text)),
            ("code", Arc::new(code)),
            ("n", Arc::new(Int64Array::from(vec![Some(-1), Some(2), None]))),
        ];
        let fit = without_formulas(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        let mut out = Vec::new();
        arrow::csv::WriterBuilder::new().with_header(true).build(&mut out).write(&fit).unwrap();
        let csv = String::from_utf8(out).unwrap();
        assert_eq!(csv, "'=name,code,n\n\"'=HYPERLINK(\"\"x\"\")\",'@a,-1\nplain,-7,2\n,,\n");
    }
}
