//! Lines of a file, and errors that name one.
//!
//! Knows text files, packed by gzip or not. Knows nothing of what lines hold.

use std::io::BufRead;
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::operate::import::plain::{cannot_read, plain_text};

/// The longest line that an importer takes: 16 MiB.
pub(super) const MAX_LINE: usize = 16 << 20;

/// Every line without its end, numbered from 1.
fn each_raw_line(path: &Path, mut visit: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let mut reader = plain_text(path)?;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        // One byte more than allowed shows that a line is too long without reading all of it.
        let mut limited = std::io::Read::take(&mut reader, MAX_LINE as u64 + 1);
        let read = limited.read_until(b'\n', &mut line).map_err(|e| cannot_read(path, e))?;
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
pub(super) fn each_line(path: &Path, mut visit: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
    each_raw_line(path, |number, line| {
        let text = std::str::from_utf8(line).map_err(|_| bad_line(path, number, "not UTF-8"))?;
        let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        if text.trim().is_empty() { Ok(()) } else { visit(number, text) }
    })
}

/// The error for a line, counted from 1.
pub(super) fn bad_line(path: &Path, line: u64, why: &str) -> Error {
    Error::new(Kind::Input, format!("bad line: {why}")).with("file", path.display()).with("line", line)
}
