//! `curec import`: turns known public data sets into Parquet files that satisfy the input contracts.
//!
//! Fields are read as other tools read them (a quotation mark counts only where it begins a field), in one pass, and keep the
//! line on which they stand; Polars sorts. What is written goes through the contract's own checks and writer, so that what comes out
//! is what `open_input` accepts, byte for byte the same every time. Reads and writes local files only. A bad line is an error
//! with file and line; files appear under their names only when all of them are complete.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, Int32Array, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use parquet::arrow::arrow_writer::ArrowWriter;
use polars::prelude::{
    Column, DataFrame, DataType, Expr, IntoLazy, IntoSeries, LazyFrame, NamedFrom, PlRefPath, Series,
    SortMultipleOptions, StringChunkedBuilder, col, lit, when,
};
use serde::Deserialize;

use crate::destination::{Destination, Opened};
use crate::error::{Context, Error, Kind, Result};
use crate::table::check::{Checker, conform};
use crate::table::contract::Contract;
use crate::table::write::writer_properties;

/// Rows per batch when files are written.
const CHUNK_ROWS: usize = 8192;
/// The longest line that an importer takes: 16 MiB.
const MAX_LINE: usize = 16 << 20;
/// Names of the helper column that counts rows.
const ROW: &str = "__row";

/// What an import wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// The files written, with their rows.
    pub files: Vec<(PathBuf, u64)>,
    /// Lines left out because an identical one had come before.
    pub duplicates: u64,
    /// Items without a title.
    pub items_without_title: u64,
}

/// What a timestamp column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeUnit {
    /// Seconds since 1970, UTC; fractions allowed.
    #[default]
    Seconds,
    /// Milliseconds since 1970, UTC.
    Millis,
    /// Microseconds since 1970, UTC.
    Micros,
    /// Nanoseconds since 1970, UTC.
    Nanos,
    /// Text such as `2026-11-21T10:00:00Z`, `2026-11-21 10:00:00` (UTC), `2026-11-21 12:00:00.000+02`, `2026-11-21 10:00:00 UTC`
    /// or `2026-11-21`.
    Text,
}

/// Which columns of CSV files carry what.
#[derive(Debug, Clone)]
pub struct CsvMapping {
    /// Contract column to CSV column, such as `user_id` to `userId`. Columns that are not named keep their name.
    pub columns: BTreeMap<String, String>,
    /// What the timestamps are.
    pub time_unit: TimeUnit,
    /// Between fields.
    pub separator: u8,
    /// Around fields that hold separators or line breaks; `None`: quotation marks are characters like any other.
    pub quote: Option<u8>,
    /// Between the categories of one field.
    pub category_separator: char,
    /// Whether titles read `Matrix, The (1999)` and are to become `The Matrix (1999)`.
    pub turn_articles: bool,
}

impl Default for CsvMapping {
    fn default() -> Self {
        let columns = BTreeMap::new();
        CsvMapping {
            columns,
            time_unit: TimeUnit::Seconds,
            separator: b',',
            quote: Some(b'"'),
            category_separator: '|',
            turn_articles: false,
        }
    }
}

impl CsvMapping {
    /// Reads `user_id=userId,item_id=movieId,time_unit=ms,separator=;,quote=none,category_separator=/,turn_articles=true`.
    ///
    /// # Errors
    /// `Kind::Usage` for anything that is not of this form.
    pub fn parse(text: &str) -> Result<Self> {
        let mut mapping = CsvMapping::default();
        for part in text.split(',').filter(|p| !p.trim().is_empty()) {
            let bad = || {
                Error::new(Kind::Usage, format!("{part:?} in the mapping is not understood"))
                    .hint("write column=csv_column, time_unit=s|ms|us|ns|text, separator=tab|;, quote=none, turn_articles=true")
            };
            let (key, value) = part.split_once('=').map(|(k, v)| (k.trim(), v.trim())).ok_or_else(bad)?;
            match key {
                "time_unit" => {
                    mapping.time_unit = match value {
                        "s" => TimeUnit::Seconds,
                        "ms" => TimeUnit::Millis,
                        "us" => TimeUnit::Micros,
                        "ns" => TimeUnit::Nanos,
                        "text" => TimeUnit::Text,
                        _ => return Err(bad()),
                    }
                }
                "separator" => {
                    mapping.separator = match value {
                        "tab" => b'\t',
                        one if one.len() == 1 => one.as_bytes()[0],
                        _ => return Err(bad()),
                    }
                }
                "quote" => {
                    mapping.quote = match value {
                        "none" => None,
                        one if one.len() == 1 => Some(one.as_bytes()[0]),
                        _ => return Err(bad()),
                    }
                }
                "category_separator" => mapping.category_separator = value.chars().next().ok_or_else(bad)?,
                "turn_articles" => mapping.turn_articles = value.parse().map_err(|_| bad())?,
                "user_id" | "item_id" | "rating" | "event" | "event_timestamp" | "title" | "categories"
                | "description" | "brand" | "release_year" => {
                    mapping.columns.insert(key.to_owned(), value.to_owned());
                }
                _ => return Err(bad()),
            }
        }
        Ok(mapping)
    }
}

/// Imports RecBole's atomic files (`*.inter`, `*.item`) of a MovieLens set from `dir` into `out/interaction.parquet` and
/// `out/item.parquet`. Titles become what people say: `Matrix, The` of 1999 is `The Matrix (1999)`.
///
/// # Errors
/// `Kind::Input` naming file and line for missing files and bad lines; `Kind::Temporary` where writing fails.
pub fn movielens(dir: &Path, out: &Path) -> Result<ImportReport> {
    apart(|| import_movielens(dir, out))
}

fn import_movielens(dir: &Path, out: &Path) -> Result<ImportReport> {
    let inter = only_file(dir, "inter")?;
    let items = only_file(dir, "item")?;
    let mut names = Atomic::open(&inter)?;
    let source = Source { path: inter, separator: b'\t', quote: None };
    let frame = interaction_frame(
        &source,
        &names.need("user_id")?,
        &names.need("item_id")?,
        names.find(&["rating"]).as_deref(),
        None,
        &names.need("timestamp")?,
        TimeUnit::Seconds,
    )?;
    names = Atomic::open(&items)?;
    let (title, year) = (names.find(&["movie_title", "title"]), names.find(&["release_year", "year"]));
    let columns = [
        ("item_id", Some(names.need("item_id")?)),
        ("title", title),
        ("release_year", year),
        ("categories", names.find(&["class", "genre", "genres"])),
    ];
    let source = Source { path: items, separator: b'\t', quote: None };
    let items = item_rows(&source, &columns, |row| {
        let (title, year) = movie_title(row.title.as_deref(), row.release_year_text.as_deref());
        row.title = title;
        row.release_year = year;
        row.categories = split_categories(row.categories_text.as_deref(), ' ');
        Ok(())
    })?;
    let mut output = Output::new(out)?;
    output.interactions(frame)?;
    output.items(items)?;
    output.publish()
}

/// Imports CSV files of interactions and, where given, items.
///
/// # Errors
/// As [`movielens`].
pub fn csv(interactions: &Path, items: Option<&Path>, mapping: &CsvMapping, out: &Path) -> Result<ImportReport> {
    apart(|| import_csv(interactions, items, mapping, out))
}

fn import_csv(interactions: &Path, items: Option<&Path>, mapping: &CsvMapping, out: &Path) -> Result<ImportReport> {
    let named = |header: &[String], name: &str| {
        let wanted = mapping.columns.get(name).cloned().unwrap_or_else(|| name.to_owned());
        header.contains(&wanted).then_some(wanted)
    };
    let source = Source { path: interactions.to_path_buf(), separator: mapping.separator, quote: mapping.quote };
    let header = source.header()?;
    let need = |name: &str| named(&header, name).ok_or_else(|| source.missing(name, &header));
    let (user, item) = (need("user_id")?, need("item_id")?);
    let timestamp = match mapping.columns.contains_key("event_timestamp") {
        true => need("event_timestamp")?,
        false => named(&header, "timestamp").map_or_else(|| need("event_timestamp"), Ok)?,
    };
    for (column, wanted) in &mapping.columns {
        if ["user_id", "rating", "event", "event_timestamp"].contains(&column.as_str()) && !header.contains(wanted) {
            return Err(source.missing(column, &header));
        }
    }
    let frame = interaction_frame(
        &source,
        &user,
        &item,
        named(&header, "rating").as_deref(),
        named(&header, "event").as_deref(),
        &timestamp,
        mapping.time_unit,
    )?;
    let mut output = Output::new(out)?;
    output.interactions(frame)?;
    if let Some(path) = items {
        let source = Source { path: path.to_path_buf(), separator: mapping.separator, quote: mapping.quote };
        let header = source.header()?;
        let id = named(&header, "item_id").ok_or_else(|| source.missing("item_id", &header))?;
        let optional = ["title", "release_year", "categories", "description", "brand"];
        let mut columns = vec![("item_id", Some(id))];
        columns.extend(optional.map(|name| (name, named(&header, name))));
        let items = item_rows(&source, &columns, |row| {
            if let Some(text) = row.release_year_text.as_deref() {
                let year = text.trim().parse::<i32>();
                row.release_year = Some(year.map_err(|_| format!("{text:?} is no year"))?);
            }
            if mapping.turn_articles {
                let (title, year) = movie_title(row.title.as_deref(), None);
                row.title = title;
                row.release_year = row.release_year.or(year);
            }
            row.categories = split_categories(row.categories_text.as_deref(), mapping.category_separator);
            Ok(())
        })?;
        output.items(items)?;
    }
    output.publish()
}

/// Imports Amazon's 5-core JSON lines: reviews (`reviewerID`, `asin`, `overall`, `unixReviewTime`, `reviewText`, `summary`) and, where
/// given, metadata (`asin`, `title`, `categories` or `category`, `brand`, `description`).
///
/// # Errors
/// As [`movielens`].
pub fn jsonl(reviews: &Path, metadata: Option<&Path>, out: &Path) -> Result<ImportReport> {
    apart(|| import_jsonl(reviews, metadata, out))
}

fn import_jsonl(reviews: &Path, metadata: Option<&Path>, out: &Path) -> Result<ImportReport> {
    #[derive(Deserialize)]
    #[allow(non_snake_case)]
    struct Review {
        reviewerID: String,
        asin: String,
        overall: Option<f64>,
        unixReviewTime: i64,
        reviewText: Option<String>,
        summary: Option<String>,
    }
    let names = ["reviewerID", "asin", "reviewText", "summary"];
    let mut texts = names.map(|name| StringChunkedBuilder::new(name.into(), 0));
    let (mut ratings, mut times): (Vec<Option<f64>>, Vec<i64>) = (Vec::new(), Vec::new());
    each_line(reviews, |number, line| {
        let review: Review = serde_json::from_str(line)
            .map_err(|e| bad_json(reviews, number, line, &e.to_string(), Some(REVIEW_HINT)))?;
        if review.reviewerID.is_empty() || review.asin.is_empty() {
            return Err(bad_line(reviews, number, "reviewerID or asin is empty"));
        }
        if !(-60_000_000_000..=250_000_000_000).contains(&review.unixReviewTime) {
            let why = format!("unixReviewTime is no time in seconds: {}", review.unixReviewTime);
            return Err(bad_line(reviews, number, &why).hint(REVIEW_HINT));
        }
        let said = [Some(review.reviewerID), Some(review.asin), review.reviewText, review.summary];
        texts.iter_mut().zip(said).for_each(|(column, text)| column.append_option(text));
        ratings.push(review.overall);
        times.push(review.unixReviewTime);
        Ok(())
    })?;
    let mut columns: Vec<Column> = texts.into_iter().map(|column| column.finish().into_series().into()).collect();
    columns.push(Series::new("overall".into(), ratings).into());
    columns.push(Series::new("unixReviewTime".into(), times).into());
    let lazy = DataFrame::new_infer_height(columns).map_err(|e| unreadable(reviews, &e))?.lazy();
    let lazy = lazy.select([
        col("reviewerID").alias("user_id"),
        col("asin").alias("item_id"),
        col("overall").cast(DataType::Float32).alias("rating"),
        (col("unixReviewTime") * lit(1_000_000_i64)).alias("event_timestamp"),
        col("summary"),
        col("reviewText").alias("text"),
    ]);
    let frame = sorted(lazy, &["event_timestamp", "user_id", "item_id"]).map_err(|e| unreadable(reviews, &e))?;
    let mut output = Output::new(out)?;
    output.reviews(&frame)?;
    let mut interactions =
        frame.select(["user_id", "item_id", "rating", "event_timestamp"]).map_err(|e| unreadable(reviews, &e))?;
    let event = Series::new("event".into(), vec!["rating"; frame.height()]);
    interactions.with_column(event.into()).map_err(|e| unreadable(reviews, &e))?;
    output.interactions(interactions)?;
    if let Some(path) = metadata {
        let mut rows: Vec<ItemRow> = Vec::new();
        each_line(path, |number, line| {
            rows.push(amazon_item(line).map_err(|why| bad_json(path, number, line, &why, None))?);
            Ok(())
        })?;
        rows.sort_by(|a, b| a.item_id.cmp(&b.item_id));
        // The published sets repeat items; the first stands.
        rows.dedup_by(|later, first| later.item_id == first.item_id);
        output.items(rows)?;
    }
    output.publish()
}

/// Runs Polars on a thread of its own: it blocks in ways that a thread of an asynchronous runtime may not, and a defect
/// in it shall end the command, not the process.
pub(crate) fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let joined = std::thread::scope(|scope| scope.spawn(work).join());
    joined.unwrap_or_else(|_| Err(Error::new(Kind::Internal, "Polars broke off while it read the files")))
}

fn amazon_item(line: &str) -> Result<ItemRow, String> {
    let value: serde_json::Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let text = |name: &str| -> Option<String> {
        let joined = match value.get(name)? {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(parts) => {
                parts.iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(" ")
            }
            _ => return None,
        };
        Some(joined).filter(|t| !t.trim().is_empty())
    };
    let item_id = text("asin").ok_or("asin is missing")?;
    let mut categories = Vec::new();
    let found = value.get("categories").or_else(|| value.get("category"));
    let mut waiting: Vec<&serde_json::Value> = found.into_iter().collect();
    while let Some(next) = waiting.pop() {
        match next {
            serde_json::Value::Array(inner) => waiting.extend(inner.iter().rev()),
            serde_json::Value::String(name) if !name.is_empty() && !categories.contains(name) => {
                categories.push(name.clone());
            }
            _ => {}
        }
    }
    let categories = found.map(|_| categories);
    let (title, description, brand) = (text("title"), text("description"), text("brand"));
    Ok(ItemRow { item_id, title, categories, description, brand, ..ItemRow::default() })
}

// --------------------------------------------------------------------------------------------------------- titles

/// A film's title as people say it, and its year: `("Matrix, The", "1999")` gives `The Matrix (1999)`. A year at the title's
/// end wins over a year column that holds none; a title that says it is unknown, without a year, is no title.
fn movie_title(title: Option<&str>, year: Option<&str>) -> (Option<String>, Option<i32>) {
    let plausible = |y: &i32| (1870..=2100).contains(y);
    let mut year = year.and_then(|y| y.trim().parse::<i32>().ok()).filter(plausible);
    let Some(mut name) = title.map(str::trim).filter(|t| !t.is_empty()) else { return (None, year) };
    let inside = name.strip_suffix(')').and_then(|t| t.rsplit_once('('));
    if let Some((before, digits)) = inside
        && digits.len() == 4
        && let Some(found) = digits.parse::<i32>().ok().filter(plausible)
    {
        name = before.trim_end();
        year = year.or(Some(found));
    }
    // MovieLens-100k's item 267: `unknown`, in RecBole's file `unkonwn`.
    if year.is_none() && ["unknown", "unkonwn"].contains(&name.to_lowercase().as_str()) {
        return (None, None);
    }
    let mut turned = String::with_capacity(name.len());
    for (i, part) in name.split('(').enumerate() {
        if i > 0 {
            turned.push('(');
        }
        let (part, rest) = match part.find(')') {
            Some(end) if i > 0 => part.split_at(end),
            _ => (part, ""),
        };
        let trimmed = part.trim_end();
        turned.push_str(&turn_article(trimmed));
        turned.push_str(&part[trimmed.len()..]);
        turned.push_str(rest);
    }
    match year {
        Some(year) => (Some(format!("{turned} ({year})")), Some(year)),
        None => (Some(turned), None),
    }
}

/// `Matrix, The` to `The Matrix`; anything else as it is.
fn turn_article(title: &str) -> String {
    const ARTICLES: [&str; 19] = [
        "The", "A", "An", "La", "Le", "Les", "L'", "Il", "Lo", "I", "El", "Los", "Las", "Der", "Die", "Das", "Det",
        "Den", "O",
    ];
    match title.rsplit_once(", ") {
        Some((name, article)) if ARTICLES.contains(&article) => {
            let space = if article.ends_with('\'') { "" } else { " " };
            format!("{article}{space}{name}")
        }
        _ => title.to_owned(),
    }
}

fn split_categories(text: Option<&str>, separator: char) -> Option<Vec<String>> {
    let parts = text?.split(separator).map(str::trim);
    let known = parts.filter(|c| !c.is_empty() && *c != "unknown" && *c != "(no genres listed)");
    Some(known.map(str::to_owned).collect())
}

// ---------------------------------------------------------------------------------------------------------- sources

/// A file of separated values.
struct Source {
    path: PathBuf,
    separator: u8,
    quote: Option<u8>,
}

impl Source {
    /// Reads records and fields. What begins with a quotation mark is quoted, two of them within stand for one, and a mark
    /// elsewhere is a character; empty lines are left out.
    fn reader(&self) -> Result<csv::Reader<File>> {
        let mut file = open(&self.path)?;
        let mut magic = [0; 2];
        let read = std::io::Read::read(&mut file, &mut magic).unwrap_or(0);
        let refused = |what: &str, hint: &str| {
            Err(Error::new(Kind::Input, what).with("file", self.path.display()).hint(hint.to_owned()))
        };
        match &magic[..read] {
            [0x1f, 0x8b] => return refused("the file is compressed", "unpack it first, with gunzip"),
            [0xff, 0xfe] | [0xfe, 0xff] => return refused("the file is UTF-16", "save it as UTF-8"),
            _ => {}
        }
        std::io::Seek::rewind(&mut file)
            .map_err(|e| Error::new(Kind::Input, "cannot read the file").with("file", self.path.display()).source(e))?;
        Ok(csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(self.separator)
            .quoting(self.quote.is_some())
            .quote(self.quote.unwrap_or(b'"'))
            // A line ends in a line feed; what stands before it is taken off below. A lone carriage return ends none.
            .terminator(csv::Terminator::Any(b'\n'))
            .buffer_capacity(1 << 20)
            .from_reader(file))
    }

    /// Visits every record with the line on which it begins.
    fn each_record(&self, mut visit: impl FnMut(u64, &[&str]) -> Result<bool>) -> Result<()> {
        let mut reader = self.reader()?;
        let size = reader.get_ref().metadata().map_or(0, |m| m.len());
        let mut record = csv::ByteRecord::new();
        loop {
            let before = reader.position().clone();
            let more = reader.read_byte_record(&mut record).map_err(|e| {
                Error::new(Kind::Input, "cannot read the file").with("file", self.path.display()).source(e.to_string())
            })?;
            if !more {
                return Ok(());
            }
            // Empty lines before it belong to the record as far as the reader counts.
            let breaks = record.iter().flatten().filter(|b| **b == b'\n').count() as u64;
            let after = reader.position();
            let mut ends = breaks + 1;
            if after.byte() >= size {
                let (is_open, is_ended) = self.tail(record.iter().next_back().unwrap_or_default())?;
                if is_open {
                    let line = after.line().saturating_sub(breaks);
                    return Err(self.explain(bad_line(&self.path, line, "a quotation mark is never closed"), breaks));
                }
                ends = breaks + u64::from(is_ended);
            }
            let line = before.line().max(after.line().saturating_sub(ends));
            if after.byte() - before.byte() > MAX_LINE as u64 {
                return Err(self.explain(bad_line(&self.path, line, "longer than 16 MiB"), breaks));
            }
            let texts: std::result::Result<Vec<&str>, _> = record.iter().map(std::str::from_utf8).collect();
            let mut fields = texts.map_err(|_| {
                bad_line(&self.path, line, "not UTF-8").hint("convert the file, for example: iconv -f LATIN1 -t UTF-8")
            })?;
            if let Some(last) = fields.last_mut() {
                *last = last.strip_suffix('\r').unwrap_or(last);
            }
            if fields == [""] {
                continue;
            }
            if !visit(line, &fields).map_err(|e| self.explain(e, breaks))? {
                return Ok(());
            }
        }
    }

    /// Whether the file ends within its last field, which a quotation mark opened and none closed; and whether it ends in a
    /// line's end.
    fn tail(&self, last: &[u8]) -> Result<(bool, bool)> {
        use std::io::{Read, Seek, SeekFrom};
        let mut open_field: Vec<u8> = self.quote.into_iter().collect();
        for byte in last {
            open_field.extend(std::iter::repeat_n(*byte, if Some(*byte) == self.quote { 2 } else { 1 }));
        }
        let mut file = open(&self.path)?;
        let mut tail = Vec::new();
        let size = file.seek(SeekFrom::End(0));
        size.and_then(|size| file.seek(SeekFrom::Start(size.saturating_sub(open_field.len() as u64 + 1))))
            .and_then(|_| file.read_to_end(&mut tail))
            .map_err(|e| Error::new(Kind::Input, "cannot read the file").with("file", self.path.display()).source(e))?;
        let before = tail.strip_suffix(&*open_field);
        let is_open = before.is_some_and(|b| b.last().is_none_or(|b| *b == self.separator || *b == b'\n'));
        Ok((is_open && self.quote.is_some(), tail.last() == Some(&b'\n')))
    }

    /// An error about a record that runs over `breaks` lines' ends, with what may be behind it.
    fn explain(&self, error: Error, breaks: u64) -> Error {
        match self.quote.map(char::from) {
            Some(quote) if breaks > 0 => error.hint(format!(
                "a quotation mark ({quote}) begins a field here, which runs over {breaks} lines' ends; where marks are plain \
                 characters, pass --mapping quote=none"
            )),
            _ => error,
        }
    }

    fn header(&self) -> Result<Vec<String>> {
        let mut names = None;
        self.each_record(|_, fields| {
            names = Some(fields.iter().map(|name| (*name).to_owned()).collect());
            Ok(false)
        })?;
        names.ok_or_else(|| Error::new(Kind::Input, "the file has no header line").with("file", self.path.display()))
    }

    fn missing(&self, column: &str, header: &[String]) -> Error {
        Error::new(Kind::Input, format!("no column carries {column}"))
            .with("file", self.path.display())
            .with("column", column)
            .hint(format!("the file has {}; name the right one in the mapping", header.join(", ")))
    }

    /// The named columns as texts, with a row number. Nothing at all and `\N`, which databases write, are null.
    fn read(&self, wanted: &[&str]) -> Result<Rows<'_>> {
        let mut places: Vec<(usize, StringChunkedBuilder)> = Vec::new();
        let (mut width, mut lines) = (None, Vec::new());
        self.each_record(|line, fields| {
            let Some(width) = width else {
                width = Some(fields.len());
                for name in wanted.iter().collect::<std::collections::BTreeSet<_>>() {
                    let mut found = fields.iter().enumerate().filter(|(_, field)| ***field == **name);
                    match (found.next(), found.next()) {
                        (Some((place, _)), None) => {
                            places.push((place, StringChunkedBuilder::new((*name).into(), 0)));
                        }
                        (Some(_), Some(_)) => {
                            return Err(bad_line(&self.path, line, &format!("the header has the column {name} twice")));
                        }
                        (None, _) => return Err(bad_line(&self.path, line, &format!("no column {name}"))),
                    }
                }
                return Ok(true);
            };
            if fields.len() != width {
                return Err(bad_line(&self.path, line, &format!("{} fields, the header has {width}", fields.len())));
            }
            for (place, column) in &mut places {
                column.append_option(Some(fields[*place]).filter(|text| !text.is_empty() && *text != "\\N"));
            }
            lines.push(line);
            Ok(true)
        })?;
        let mut columns: Vec<Column> = places.into_iter().map(|(_, c)| c.finish().into_series().into()).collect();
        columns.push(Series::new(ROW.into(), (0..lines.len() as u64).collect::<Vec<u64>>()).into());
        let frame = DataFrame::new_infer_height(columns).map_err(|e| unreadable(&self.path, &e))?;
        Ok(Rows { source: self, frame, lines })
    }
}

/// What was read of a file.
struct Rows<'a> {
    source: &'a Source,
    frame: DataFrame,
    /// On which line each row begins: rows and lines differ where quoted fields hold line breaks.
    lines: Vec<u64>,
}

impl Rows<'_> {
    /// What other tools write for no number becomes null in a column of numbers.
    fn read_nulls(&mut self, name: &str) -> Result<()> {
        const NULLS: [&str; 7] = ["NA", "N/A", "#N/A", "NULL", "null", "None", "none"];
        let failed = |e| unreadable(&self.source.path, &e);
        let column = self.frame.column(name).and_then(|c| c.str()).map_err(failed)?;
        let mut read = StringChunkedBuilder::new(name.into(), column.len());
        for row in 0..column.len() {
            read.append_option(column.get(row).map(str::trim).filter(|text| !text.is_empty() && !NULLS.contains(text)));
        }
        let read: Column = read.finish().into_series().into();
        self.frame.with_column(read).map_err(failed)?;
        Ok(())
    }

    fn bad(&self, row: u64, why: &str) -> Error {
        let line = usize::try_from(row).ok().and_then(|row| self.lines.get(row)).copied().unwrap_or(0);
        bad_line(&self.source.path, line, why)
    }
}

/// The header of one of RecBole's atomic files: `name:type` by name.
struct Atomic {
    path: PathBuf,
    header: Vec<String>,
}

impl Atomic {
    fn open(path: &Path) -> Result<Self> {
        let source = Source { path: path.to_path_buf(), separator: b'\t', quote: None };
        Ok(Atomic { path: path.to_path_buf(), header: source.header()? })
    }

    fn find(&self, names: &[&str]) -> Option<String> {
        let bare = |full: &String| full.split(':').next().unwrap_or_default().to_owned();
        names.iter().find_map(|name| self.header.iter().find(|full| bare(full) == *name).cloned())
    }

    fn need(&self, name: &str) -> Result<String> {
        self.find(&[name]).ok_or_else(|| {
            let source = Source { path: self.path.clone(), separator: b'\t', quote: None };
            source.missing(name, &self.header)
        })
    }
}

fn only_file(dir: &Path, extension: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).map_err(|e| {
        Error::new(Kind::Input, "cannot read the folder")
            .with("file", dir.display())
            .source(e)
            .hint("name the folder that holds RecBole's .inter and .item files")
    })?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        n => Err(Error::new(Kind::Input, format!("{n} files end in .{extension}, one is wanted"))
            .with("file", dir.display())),
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::new(Kind::Input, "cannot read the file").with("file", path.display()).source(e))
}

/// Every line without its end, numbered from 1.
fn each_raw_line(path: &Path, mut visit: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::with_capacity(1 << 20, open(path)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        // One byte more than allowed shows that a line is too long without reading all of it.
        let mut limited = std::io::Read::take(&mut reader, MAX_LINE as u64 + 1);
        let read = limited
            .read_until(b'\n', &mut line)
            .map_err(|e| Error::new(Kind::Input, "cannot read the file").with("file", path.display()).source(e))?;
        if read == 0 {
            break;
        }
        if read > MAX_LINE {
            return Err(bad_line(path, number, "longer than 16 MiB"));
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        visit(number, &line)?;
    }
    Ok(())
}

/// Every line as text, without a byte order mark; empty ones are left out.
fn each_line(path: &Path, mut visit: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
    each_raw_line(path, |number, line| {
        let text = std::str::from_utf8(line).map_err(|_| bad_line(path, number, "not UTF-8"))?;
        let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        if text.trim().is_empty() { Ok(()) } else { visit(number, text) }
    })
}

fn bad_line(path: &Path, line: u64, why: &str) -> Error {
    Error::new(Kind::Input, format!("bad line: {why}")).with("file", path.display()).with("line", line)
}

/// What lines of reviews hold.
const REVIEW_HINT: &str = "a line has reviewerID, asin, overall, unixReviewTime (whole seconds), reviewText and summary, as in \
                           Amazon's files of 2014 and 2018; rename the fields of other files";

/// `hint` is what to do where it is not plain to see.
fn bad_json(path: &Path, line: u64, text: &str, why: &str, hint: Option<&str>) -> Error {
    let error = bad_line(path, line, why);
    match (text.trim_start().starts_with("{'"), hint) {
        (true, _) => {
            error.hint("these are Python literals; make JSON of each line: json.dumps(ast.literal_eval(line))")
        }
        (false, Some(hint)) => error.hint(hint),
        (false, None) => error,
    }
}

/// A path for Polars, absolute: `~x` and `a://b` are names of files here.
pub(crate) fn polars_path(path: &Path) -> Result<PlRefPath> {
    let absolute = std::path::absolute(path)
        .map_err(|e| Error::new(Kind::Input, "the file cannot be read").with("file", path.display()).source(e))?;
    PlRefPath::try_from_path(&absolute).map_err(|e| unreadable(path, &e))
}

fn unreadable(path: &Path, error: &polars::error::PolarsError) -> Error {
    Error::new(Kind::Input, "the file cannot be read").with("file", path.display()).source(error.to_string())
}

// ------------------------------------------------------------------------------------------------------------- rows

fn sorted(lazy: LazyFrame, by: &[&str]) -> polars::error::PolarsResult<DataFrame> {
    let by: Vec<String> = by.iter().map(|s| (*s).to_owned()).collect();
    lazy.sort(by, SortMultipleOptions::default().with_maintain_order(true)).collect()
}

/// Interactions with the contract's column names (`event_timestamp` in microseconds), sorted.
fn interaction_frame(
    source: &Source,
    user: &str,
    item: &str,
    rating: Option<&str>,
    event: Option<&str>,
    timestamp: &str,
    unit: TimeUnit,
) -> Result<DataFrame> {
    let wanted: Vec<&str> = [user, item, timestamp].into_iter().chain(rating).chain(event).collect();
    let mut rows = source.read(&wanted)?;
    if let Some(rating) = rating {
        rows.read_nulls(rating)?;
    }
    let lazy = rows.frame.clone().lazy();
    let empty = |name: &str| col(name).is_null().or(col(name).eq(lit("")));
    let blank = |name: &str| col(name).is_null().or(col(name).eq(lit("")));
    let mut problems: Vec<(&str, Expr, &str)> = vec![
        (user, empty(user), "the user is empty"),
        (item, empty(item), "the item is empty"),
        (timestamp, empty(timestamp), "the timestamp is empty"),
    ];
    if let Some(rating) = rating {
        let number = col(rating).cast(DataType::Float32);
        let finite = number.clone().gt_eq(lit(f32::MIN)).and(number.clone().lt_eq(lit(f32::MAX)));
        let bad = blank(rating).not().and(number.is_null().or(finite.not()));
        problems.push((rating, bad, "the rating is not a finite number"));
    }
    let micros = match unit {
        TimeUnit::Text => None,
        // A float holds today's microseconds exactly, and files such as RecBole's say `881250949` or `881250949.0`.
        TimeUnit::Seconds => Some(col(timestamp).cast(DataType::Float64) * lit(1e6)),
        TimeUnit::Millis => Some(col(timestamp).cast(DataType::Float64) * lit(1e3)),
        TimeUnit::Micros => Some(col(timestamp).cast(DataType::Int64).cast(DataType::Float64)),
        TimeUnit::Nanos => Some(col(timestamp).cast(DataType::Float64) * lit(1e-3)),
    };
    if let Some(micros) = &micros {
        let sane = micros.clone().gt_eq(lit(-6e16)).and(micros.clone().lt_eq(lit(2.5e17)));
        problems.push((timestamp, micros.clone().is_null().or(sane.not()), "the timestamp is no time"));
    }
    for (column, bad, why) in &problems {
        let found = lazy
            .clone()
            .filter(bad.clone())
            .select([col(ROW), col(*column).alias("value")])
            .limit(1)
            .collect()
            .map_err(|e| unreadable(&source.path, &e))?;
        if found.height() > 0 {
            let value = text_at(&found, "value", 0).unwrap_or_default();
            let value: String = value.chars().take(40).collect();
            let error = rows.bad(row_number(&found, 0), &format!("{why}: {value:?}")).with("column", column);
            return Err(match unit {
                TimeUnit::Text => error,
                _ if *column == timestamp => {
                    error.hint("name what the timestamps are: --mapping time_unit=s, ms, us, ns or text")
                }
                _ => error,
            });
        }
    }
    let mut columns = vec![col(user).alias("user_id"), col(item).alias("item_id")];
    if let Some(rating) = rating {
        columns.push(col(rating).cast(DataType::Float32).alias("rating"));
    }
    columns.push(match event {
        Some(event) => col(event).alias("event"),
        None => lit("rating").alias("event"),
    });
    let lazy = match micros {
        Some(micros) => {
            // Float64 is exact below 2^53 us (year 2255); rounding undoes 1e-3 and fractions of a microsecond.
            let half = when(micros.clone().gt_eq(lit(0.0))).then(lit(0.5)).otherwise(lit(-0.5));
            let whole = (micros + half).cast(DataType::Int64);
            columns.push(whole.alias("event_timestamp"));
            lazy.select(columns)
        }
        None => {
            columns.extend([col(timestamp).alias("__time"), col(ROW)]);
            let mut frame = lazy.select(columns).collect().map_err(|e| unreadable(&source.path, &e))?;
            let mut times = Vec::with_capacity(frame.height());
            for row in 0..frame.height() {
                let text = text_at(&frame, "__time", row).unwrap_or_default();
                times.push(parse_time(&text).ok_or_else(|| {
                    rows.bad(row_number(&frame, row), &format!("the timestamp is no time: {text:?}"))
                        .with("column", timestamp)
                        .hint("write it as 2026-11-21 10:00:00+00:00")
                })?);
            }
            let times: Column = Series::new("event_timestamp".into(), times).into();
            frame.with_column(times).map_err(|e| unreadable(&source.path, &e))?;
            frame.lazy()
        }
    };
    sorted(lazy, &["event_timestamp", "user_id", "item_id", "event"]).map_err(|e| unreadable(&source.path, &e))
}

/// Microseconds since 1970 of a text; a time without a zone is UTC.
fn parse_time(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(date) = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros());
    }
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let date = chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let (time, east) = match rest.rfind(['+', '-']) {
        Some(at) => (&rest[..at], offset_seconds(&rest[at..])?),
        None => (["Z", "z", "UTC", "GMT"].iter().find_map(|zone| rest.strip_suffix(zone)).unwrap_or(rest), 0),
    };
    // A comma before the fraction, as ISO 8601 allows and loggers write.
    let time = time.trim_end().replace(',', ".");
    let time = ["%H:%M:%S%.f", "%H:%M"].iter().find_map(|form| chrono::NaiveTime::parse_from_str(&time, form).ok())?;
    date.and_time(time).and_utc().timestamp_micros().checked_sub(east * 1_000_000)
}

/// Seconds east of Greenwich of `+02:00`, `+0200` or `+02`.
fn offset_seconds(text: &str) -> Option<i64> {
    let (sign, digits) = text.split_at_checked(1)?;
    let digits = digits.replace(':', "");
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = digits.split_at(2);
    let minutes = if minutes.is_empty() { 0 } else { minutes.parse::<i64>().ok()? };
    let seconds = hours.parse::<i64>().ok()? * 3600 + minutes * 60;
    (minutes < 60 && seconds <= 15 * 3600).then_some(if sign == "-" { -seconds } else { seconds })
}

fn row_number(frame: &DataFrame, row: usize) -> u64 {
    let column = frame.column(ROW).ok().and_then(|c| c.cast(&DataType::UInt64).ok());
    column.and_then(|c| c.u64().ok().and_then(|numbers| numbers.get(row))).unwrap_or(0)
}

fn text_at(frame: &DataFrame, name: &str, row: usize) -> Option<String> {
    frame.column(name).ok()?.str().ok()?.get(row).map(str::to_owned)
}

/// One item on its way into `item.parquet`.
#[derive(Debug, Clone, Default)]
struct ItemRow {
    item_id: String,
    title: Option<String>,
    release_year: Option<i32>,
    release_year_text: Option<String>,
    categories: Option<Vec<String>>,
    categories_text: Option<String>,
    description: Option<String>,
    brand: Option<String>,
}

/// Items of a file, finished by `finish`, sorted by id. `columns` says which of the file's columns carries what.
fn item_rows(
    source: &Source,
    columns: &[(&str, Option<String>)],
    finish: impl Fn(&mut ItemRow) -> Result<(), String>,
) -> Result<Vec<ItemRow>> {
    let mut selected = vec![col(ROW)];
    for (name, column) in columns {
        if let Some(column) = column {
            selected.push(col(column.as_str()).alias(*name));
        }
    }
    let wanted: Vec<&str> = columns.iter().filter_map(|(_, column)| column.as_deref()).collect();
    let read = source.read(&wanted)?;
    let frame = read.frame.clone().lazy().select(selected).collect().map_err(|e| unreadable(&source.path, &e))?;
    let mut rows: Vec<(ItemRow, u64)> = Vec::with_capacity(frame.height());
    for i in 0..frame.height() {
        let text = |name: &str| text_at(&frame, name, i).filter(|t| !t.is_empty());
        let fail = |why: &str| read.bad(i as u64, why);
        let mut row = ItemRow {
            item_id: text("item_id").ok_or_else(|| fail("the item is empty"))?,
            title: text("title"),
            release_year_text: text("release_year"),
            categories_text: text("categories"),
            description: text("description"),
            brand: text("brand"),
            ..ItemRow::default()
        };
        finish(&mut row).map_err(|why| fail(&why))?;
        rows.push((row, i as u64));
    }
    rows.sort_by(|(a, i), (b, j)| a.item_id.cmp(&b.item_id).then(i.cmp(j)));
    if let Some(pair) = rows.windows(2).find(|pair| pair[0].0.item_id == pair[1].0.item_id) {
        let first = read.lines.get(pair[0].1 as usize).copied().unwrap_or(0);
        return Err(read
            .bad(pair[1].1, "the item stands twice")
            .with("key", format!("item_id={}", pair[1].0.item_id))
            .with("first", format!("line {first}")));
    }
    Ok(rows.into_iter().map(|(row, _)| row).collect())
}

// ----------------------------------------------------------------------------------------------------------- output

/// Files on their way: written beside their final names, renamed together, removed when anything fails.
struct Output {
    folder: PathBuf,
    ready: Vec<(Opened, PathBuf, u64)>,
    report: ImportReport,
}

impl Output {
    fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .map_err(|e| Error::new(Kind::Config, "cannot make the folder").with("file", folder.display()).source(e))?;
        Ok(Output { folder: folder.to_path_buf(), ready: Vec::new(), report: ImportReport::default() })
    }

    fn write(&mut self, table: &str, rows: usize, batch: impl Fn(usize, usize) -> Result<RecordBatch>) -> Result<()> {
        let contract = Contract::builtin(table)?;
        let target = self.folder.join(format!("{table}.parquet"));
        let io = |e: String| Error::new(Kind::Temporary, "could not write").with("file", target.display()).source(e);
        let mut file = Destination::find(&target)?.open()?;
        let schema = contract.arrow_schema(None);
        let properties = writer_properties(&contract, &schema, None)?;
        let mut writer = ArrowWriter::try_new(&mut file, schema, Some(properties)).map_err(|e| io(e.to_string()))?;
        let mut checker = Checker::new(&contract, target.display());
        let mut start = 0;
        while start < rows {
            let count = CHUNK_ROWS.min(rows - start);
            let checked = conform(&contract, &batch(start, count)?, &mut checker)?;
            writer.write(&checked).map_err(|e| io(e.to_string()))?;
            start += count;
        }
        writer.close().map_err(|e| io(e.to_string()))?;
        self.ready.push((file, target, rows as u64));
        Ok(())
    }

    fn interactions(&mut self, frame: DataFrame) -> Result<()> {
        let rows = frame.height();
        let keep = self.unique_rows(&frame)?;
        self.report.duplicates += (rows - keep.len()) as u64;
        let texts = |name: &str| Texts::of(&frame, name);
        let (users, items, events) = (texts("user_id")?, texts("item_id")?, texts("event")?);
        let ratings = frame.column("rating").ok().and_then(|c| c.f32().ok());
        let times = integers(&frame, "event_timestamp")?;
        self.write("interaction", keep.len(), |start, count| {
            let picked = || keep[start..start + count].iter().copied();
            let rating: Float32Array = picked().map(|i| ratings.and_then(|r| r.get(i))).collect();
            let time: TimestampMicrosecondArray = picked().map(|i| times.get(i)).collect();
            batch_of([
                ("user_id", users.array(picked())),
                ("item_id", items.array(picked())),
                ("event", events.array(picked())),
                ("rating", Arc::new(rating) as ArrayRef),
                ("event_timestamp", Arc::new(time.with_timezone("UTC"))),
            ])
        })
    }

    /// Rows of a sorted frame without those that repeat the one before in every column.
    fn unique_rows(&self, frame: &DataFrame) -> Result<Vec<usize>> {
        let texts = |name: &str| Texts::of(frame, name);
        let (users, items, events) = (texts("user_id")?, texts("item_id")?, texts("event")?);
        let ratings = frame.column("rating").ok().and_then(|c| c.f32().ok());
        let times = integers(frame, "event_timestamp")?;
        let rating = |i: usize| ratings.and_then(|r| r.get(i));
        let same_key = |a: usize, b: usize| {
            times.get(a) == times.get(b)
                && users.get(a) == users.get(b)
                && items.get(a) == items.get(b)
                && events.get(a) == events.get(b)
        };
        let mut keep: Vec<usize> = Vec::with_capacity(frame.height());
        for row in 0..frame.height() {
            match keep.last() {
                Some(last) if same_key(*last, row) => {
                    if rating(*last) != rating(row) {
                        let key = format!(
                            "user_id={}, item_id={}, event_timestamp={}",
                            users.get(row).unwrap_or_default(),
                            items.get(row).unwrap_or_default(),
                            times.get(row).unwrap_or_default()
                        );
                        return Err(Error::new(Kind::Input, "the same event stands twice with different ratings")
                            .with("key", key));
                    }
                }
                _ => keep.push(row),
            }
        }
        Ok(keep)
    }

    fn reviews(&mut self, frame: &DataFrame) -> Result<()> {
        let texts = |name: &str| Texts::of(frame, name);
        let (users, items) = (texts("user_id")?, texts("item_id")?);
        let (summaries, bodies) = (texts("summary")?, texts("text")?);
        let ratings = frame.column("rating").ok().and_then(|c| c.f32().ok());
        let times = integers(frame, "event_timestamp")?;
        self.write("review", frame.height(), |start, count| {
            let picked = || start..start + count;
            let rating: Float32Array = picked().map(|i| ratings.and_then(|r| r.get(i))).collect();
            let time: TimestampMicrosecondArray = picked().map(|i| times.get(i)).collect();
            batch_of([
                ("user_id", users.array(picked())),
                ("item_id", items.array(picked())),
                ("event_timestamp", Arc::new(time.with_timezone("UTC")) as ArrayRef),
                ("rating", Arc::new(rating)),
                ("summary", summaries.array(picked())),
                ("text", bodies.array(picked())),
            ])
        })
    }

    fn items(&mut self, rows: Vec<ItemRow>) -> Result<()> {
        self.report.items_without_title = rows.iter().filter(|row| row.title.is_none()).count() as u64;
        self.write("item", rows.len(), |start, count| {
            let part = &rows[start..start + count];
            let mut categories = ListBuilder::new(StringBuilder::new());
            for row in part {
                for category in row.categories.iter().flatten() {
                    categories.values().append_value(category);
                }
                categories.append(row.categories.is_some());
            }
            let text = |pick: fn(&ItemRow) -> Option<&str>| -> ArrayRef {
                Arc::new(part.iter().map(pick).collect::<StringArray>())
            };
            let years: Int32Array = part.iter().map(|row| row.release_year).collect();
            batch_of([
                ("item_id", text(|row| Some(row.item_id.as_str()))),
                ("title", text(|row| row.title.as_deref())),
                ("categories", Arc::new(categories.finish()) as ArrayRef),
                ("description", text(|row| row.description.as_deref())),
                ("brand", text(|row| row.brand.as_deref())),
                ("release_year", Arc::new(years)),
            ])
        })
    }

    /// Gives every file its name.
    fn publish(mut self) -> Result<ImportReport> {
        for (file, target, rows) in std::mem::take(&mut self.ready) {
            file.finish()?;
            self.report.files.push((target, rows));
        }
        Ok(std::mem::take(&mut self.report))
    }
}

fn batch_of<const N: usize>(columns: [(&str, ArrayRef); N]) -> Result<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .context(Kind::Internal, || "rows to import".into())
}

/// A text column of a frame.
struct Texts<'a>(&'a polars::prelude::StringChunked);

impl<'a> Texts<'a> {
    fn of(frame: &'a DataFrame, name: &str) -> Result<Self> {
        let column = frame.column(name).and_then(|c| c.str());
        column.map(Texts).context(Kind::Internal, || format!("column {name} to import"))
    }

    fn get(&self, row: usize) -> Option<&'a str> {
        self.0.get(row)
    }

    fn array(&self, rows: impl Iterator<Item = usize>) -> ArrayRef {
        Arc::new(rows.map(|row| self.get(row)).collect::<StringArray>())
    }
}

fn integers<'a>(frame: &'a DataFrame, name: &str) -> Result<&'a polars::prelude::Int64Chunked> {
    frame.column(name).and_then(|c| c.i64()).context(Kind::Internal, || format!("column {name} to import"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn title(title: &str, year: &str) -> String {
        movie_title(Some(title), Some(year)).0.unwrap_or_else(|| "-".into())
    }

    #[test]
    fn titles_become_what_people_say() {
        assert_eq!(title("Toy Story", "1995"), "Toy Story (1995)");
        assert_eq!(title("Matrix, The", "1999"), "The Matrix (1999)");
        assert_eq!(title("Postino, Il", "1994"), "Il Postino (1994)");
        assert_eq!(title("Good, The Bad and The Ugly, The", "1966"), "The Good, The Bad and The Ugly (1966)");
        assert_eq!(
            title("Horseman on the Roof, The (Hussard sur le toit, Le)", "1995"),
            "The Horseman on the Roof (Le Hussard sur le toit) (1995)"
        );
        assert_eq!(
            title("Star Maker, The (Uomo delle stelle, L')", "1995"),
            "The Star Maker (L'Uomo delle stelle) (1995)"
        );
        assert_eq!(title("Maybe, Maybe Not (Bewegte Mann, Der)", "1994"), "Maybe, Maybe Not (Der Bewegte Mann) (1994)");
        assert_eq!(title("To Wong Foo, Thanks for Everything", "1995"), "To Wong Foo, Thanks for Everything (1995)");
        assert_eq!(title("Land Before Time III: The Time of the Great Giving (1995)", "V"), {
            "Land Before Time III: The Time of the Great Giving (1995)"
        });
        assert_eq!(title("unkonwn", "unkonwn"), "-");
        assert_eq!(title("No Year", ""), "No Year");
        assert_eq!(title("\"Quoted\" (odd", "2000"), "\"Quoted\" (odd (2000)");
        assert_eq!(movie_title(None, Some("1999")), (None, Some(1999)));
        assert_eq!(movie_title(Some("Heat (1995)"), None), (Some("Heat (1995)".into()), Some(1995)));
    }

    #[test]
    fn times_of_many_kinds() {
        for text in [
            "1998-04-20",
            "1998-04-20T00:00:00Z",
            "1998-04-20 00:00:00",
            "1998-04-20T02:00:00+02:00",
            "1998-04-20 00:00",
            "1998-04-20 00:00:00 UTC",
            "1998-04-20 02:00:00.0+02",
            "1998-04-19T20:30:00-0330",
            "1998-04-20t00:00:00z",
            "1998-04-20 00:00:00,000",
            "1998-04-20 00:00:00.0000000 +00:00",
        ] {
            assert_eq!(parse_time(text), Some(893_030_400_000_000), "{text}");
        }
        for text in
            ["yesterday", "1998-04-20 00:00:00 CET", "1998-04-20 00:00:00+2", "1998-04-20 00:00:00+02:75", "1998-13-01"]
        {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn a_mapping_is_read_or_refused() {
        let mapping = CsvMapping::parse("user_id=userId,item_id=movieId,time_unit=ms,turn_articles=true").unwrap();
        assert_eq!(mapping.columns["user_id"], "userId");
        assert_eq!(mapping.time_unit, TimeUnit::Millis);
        assert_eq!((mapping.quote, CsvMapping::parse("quote=none").unwrap().quote), (Some(b'"'), None));
        assert_eq!(CsvMapping::parse("nonsense=1").unwrap_err().kind(), Kind::Usage);
    }
}
