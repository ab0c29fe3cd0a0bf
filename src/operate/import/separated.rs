//! Files of separated values, read in one pass as other tools read them, with the line of every record.
//!
//! A quotation mark counts only where it begins a field. Knows separators, quotes and lines. Knows nothing of what columns
//! mean.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use polars::prelude::{Column, DataFrame, IntoSeries, NamedFrom, Series, StringChunkedBuilder};

use crate::error::{Error, Kind, Result};
use crate::operate::import::frames::{ROW, unreadable};
use crate::operate::import::lines::{MAX_LINE, bad_line};
use crate::operate::import::plain::{Plain, cannot_read};

/// A file of separated values.
pub(super) struct Source {
    pub(super) path: PathBuf,
    separator: u8,
    quote: Option<u8>,
    plain: Plain,
}

impl Source {
    /// A file with the character between its fields and, where it has one, the character around them.
    ///
    /// # Errors
    /// As [`Plain::of`].
    pub(super) fn open(path: &Path, separator: u8, quote: Option<u8>) -> Result<Source> {
        Ok(Source { path: path.to_path_buf(), separator, quote, plain: Plain::of(path)? })
    }

    /// Reads records and fields. A field that begins with a quotation mark is quoted, and two marks in it stand for
    /// one; elsewhere a mark is an ordinary character. Empty lines are left out.
    fn reader(&self) -> Result<csv::Reader<File>> {
        let mut file = self.plain.open()?;
        let mut magic = [0; 2];
        let read = std::io::Read::read(&mut file, &mut magic).unwrap_or(0);
        let refused = |what: &str, hint: &str| {
            Err(Error::new(Kind::Input, what).with("file", self.path.display()).hint(hint.to_owned()))
        };
        match &magic[..read] {
            [0xff, 0xfe] | [0xfe, 0xff] => return refused("the file is UTF-16", "save it as UTF-8"),
            _ => {}
        }
        std::io::Seek::rewind(&mut file).map_err(|e| cannot_read(&self.path, e))?;
        Ok(csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(self.separator)
            .quoting(self.quote.is_some())
            .quote(self.quote.unwrap_or(b'"'))
            // A line ends with a line feed; a carriage return before it is removed below, a lone one ends no line.
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
            let more = reader.read_byte_record(&mut record).map_err(|e| cannot_read(&self.path, e.to_string()))?;
            if !more {
                return Ok(());
            }
            // The reader counts empty lines before a record as part of it.
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

    /// Whether the file ends inside a quoted field that is never closed, and whether it ends with a line feed.
    fn tail(&self, last: &[u8]) -> Result<(bool, bool)> {
        use std::io::{Read, Seek, SeekFrom};
        let mut open_field: Vec<u8> = self.quote.into_iter().collect();
        for byte in last {
            open_field.extend(std::iter::repeat_n(*byte, if Some(*byte) == self.quote { 2 } else { 1 }));
        }
        let mut file = self.plain.open()?;
        let mut tail = Vec::new();
        let size = file.seek(SeekFrom::End(0));
        size.and_then(|size| file.seek(SeekFrom::Start(size.saturating_sub(open_field.len() as u64 + 1))))
            .and_then(|_| file.read_to_end(&mut tail))
            .map_err(|e| cannot_read(&self.path, e))?;
        let before = tail.strip_suffix(&*open_field);
        let is_open = before.is_some_and(|b| b.last().is_none_or(|b| *b == self.separator || *b == b'\n'));
        Ok((is_open && self.quote.is_some(), tail.last() == Some(&b'\n')))
    }

    /// Adds the likely cause to the error for a record that spans `breaks` line feeds.
    fn explain(&self, error: Error, breaks: u64) -> Error {
        match self.quote.map(char::from) {
            Some(quote) if breaks > 0 => error.hint(format!(
                "a quotation mark ({quote}) begins a field here, which runs over {breaks} lines' ends; where marks are plain \
                 characters, pass --mapping quote=none"
            )),
            _ => error,
        }
    }

    /// The names in the first line.
    pub(super) fn header(&self) -> Result<Vec<String>> {
        let mut names = None;
        self.each_record(|_, fields| {
            names = Some(fields.iter().map(|name| (*name).to_owned()).collect());
            Ok(false)
        })?;
        names.ok_or_else(|| Error::new(Kind::Input, "the file has no header line").with("file", self.path.display()))
    }

    /// The error for a contract's column that no column of the file carries.
    pub(super) fn missing(&self, column: &str, header: &[String]) -> Error {
        Error::new(Kind::Input, format!("no column carries {column}"))
            .with("file", self.path.display())
            .with("column", column)
            .hint(format!("the file has {}; name the right one in the mapping", header.join(", ")))
    }

    /// The named columns as texts, with a row number. An empty field and `\N`, which databases write, are null.
    pub(super) fn read(&self, wanted: &[&str]) -> Result<Rows<'_>> {
        let mut places: Vec<(usize, StringChunkedBuilder)> = Vec::new();
        let (mut width, mut lines) = (None, Vec::new());
        self.each_record(|line, fields| {
            let Some(width) = width else {
                width = Some(fields.len());
                for name in wanted.iter().collect::<BTreeSet<_>>() {
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

/// The rows that were read from a file.
pub(super) struct Rows<'a> {
    source: &'a Source,
    pub(super) frame: DataFrame,
    /// The line on which each row begins: rows and lines differ where quoted fields hold line breaks.
    pub(super) lines: Vec<u64>,
}

impl Rows<'_> {
    /// Turns what other tools write for a missing number into null.
    pub(super) fn read_nulls(&mut self, name: &str) -> Result<()> {
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

    /// The error for a row, with the line on which it begins.
    pub(super) fn bad(&self, row: u64, why: &str) -> Error {
        let line = usize::try_from(row).ok().and_then(|row| self.lines.get(row)).copied().unwrap_or(0);
        bad_line(&self.source.path, line, why)
    }
}
