//! DataFusion's errors as curec's: of which kind they are, and our own errors that come back through DataFusion.
//!
//! Knows error types only.

use std::sync::Arc;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

use crate::error::{Error, Kind};
use crate::excerpt::Excerpt;
use crate::table::store_error::is_store_fault;

/// Bytes of a diagnostic that still fit behind a mark.
const LONGEST_LABEL: usize = 120;

/// An error while planning: the SQL is wrong.
pub(super) fn planning(error: DataFusionError, kind: Kind) -> Error {
    Error::new(kind, format!("the SQL cannot be planned: {}", first_line(&error)))
        .hint("curec sql \"show tables\" lists the tables, \"describe item\" a table's columns")
        .source(error)
}

/// An error of the parser: the same, with the place in the text.
pub(super) fn unparsed(error: DataFusionError, kind: Kind, text: &str) -> Error {
    let place = place_of(&error, text);
    planning(error, kind).showing(place)
}

/// The place in a query that an error of the parser or the planner is about, where it tells: by its span, by where the column
/// that the planner does not know stands first, or in the words of the parser.
pub(super) fn place_of(error: &DataFusionError, text: &str) -> Option<Excerpt> {
    let size = |n: u64| usize::try_from(n).ok();
    if let Some(diagnostic) = error.diagnostic()
        && let Some(span) = diagnostic.span
    {
        let is_one_line = span.start.line == span.end.line;
        let length = if is_one_line { size(span.end.column.saturating_sub(span.start.column))? } else { usize::MAX };
        let helps = diagnostic.helps.iter().map(|help| help.message.as_str());
        let told: Vec<&str> = std::iter::once(diagnostic.message.as_str()).chain(helps).collect();
        let label = Some(told.join("; ")).filter(|told| told.len() <= LONGEST_LABEL).unwrap_or_default();
        return Some(Excerpt::at(text, size(span.start.line)?, size(span.start.column)?, length)?.labelled(label));
    }
    if let DataFusionError::SchemaError(inner, _) = error.find_root()
        && let SchemaError::FieldNotFound { field, .. } = inner.as_ref()
    {
        return first_word(text, &field.name);
    }
    let told = error.strip_backtrace();
    match parsed_place(&told) {
        Some((line, column)) => Excerpt::at(text, line, column, 1),
        None if told.contains("found: EOF") => Some(Excerpt::at_end(text)),
        None => None,
    }
}

/// Where a name stands first, comments aside.
fn first_word(text: &str, name: &str) -> Option<Excerpt> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (number, line) in text.lines().enumerate() {
        let mut at = 0;
        for word in line.split("--").next().unwrap_or_default().split(|c: char| !is_word(c)) {
            let length = word.chars().count();
            if word.eq_ignore_ascii_case(name) {
                return Excerpt::at(text, number + 1, at + 1, length);
            }
            // What divides two words is one character.
            at += length + 1;
        }
    }
    None
}

/// Line and column in an error of the parser, which tells them in words only.
fn parsed_place(told: &str) -> Option<(usize, usize)> {
    let (_, rest) = told.rsplit_once("at Line: ")?;
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    let (line, column) = rest.split_once("Column: ")?;
    Some((number(line)?, number(column)?))
}

fn first_line(error: &DataFusionError) -> String {
    error.find_root().strip_backtrace().lines().next().unwrap_or_default().to_owned()
}

/// An error while running: the kind follows from what failed.
pub(super) fn fail(error: DataFusionError, doing: &str) -> Error {
    let error = match own(error) {
        Ok(own) => return own,
        Err(error) => match find_own(&error) {
            Some(own) => return own,
            None => error,
        },
    };
    let (kind, hint) = match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => {
            (Kind::Config, Some("raise the memory limit of queries, or lower the limits on users, items and pairs"))
        }
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => (Kind::Temporary, None),
        DataFusionError::Internal(_) => (Kind::Internal, None),
        DataFusionError::SQL(..) | DataFusionError::Plan(_) | DataFusionError::SchemaError(..) => (Kind::Config, None),
        _ if is_store_fault(&error) => (Kind::Temporary, None),
        _ => (Kind::Input, None),
    };
    let mut told = Error::new(kind, format!("{doing}: {}", first_line(&error)));
    if let Some(hint) = hint {
        told = told.hint(hint);
    }
    told.source(error)
}

/// Unwraps a curec error that one of our functions returned through DataFusion.
fn own(error: DataFusionError) -> std::result::Result<Error, DataFusionError> {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(own) => Ok(*own),
            Err(inner) => match inner.downcast::<DataFusionError>() {
                Ok(nested) => own(*nested),
                Err(inner) => Err(DataFusionError::External(inner)),
            },
        },
        DataFusionError::Context(text, inner) => own(*inner).map_err(|e| DataFusionError::Context(text, Box::new(e))),
        DataFusionError::ArrowError(inner, trace) => match *inner {
            arrow::error::ArrowError::ExternalError(inner) => own(DataFusionError::External(inner)),
            other => Err(DataFusionError::ArrowError(Box::new(other), trace)),
        },
        DataFusionError::Shared(inner) => match Arc::try_unwrap(inner) {
            Ok(inner) => own(inner),
            Err(inner) => Err(DataFusionError::Shared(inner)),
        },
        other => Err(other),
    }
}

/// A copy of a curec error inside a shared error.
fn find_own(error: &DataFusionError) -> Option<Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(own) = e.downcast_ref::<Error>() {
            return Some(own.again());
        }
        cause = e.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;

    use super::*;

    #[test]
    fn the_parser_tells_places_in_words() {
        let told = "sql parser error: Expected: an expression, found: from at Line: 12, Column: 3";
        assert_eq!(parsed_place(told), Some((12, 3)));
        assert_eq!(parsed_place("sql parser error: Expected: an expression, found: EOF"), None);
    }

    #[test]
    fn a_name_is_found_as_a_word_outside_of_comments() {
        let text = "select -- titel\n    ü.untitel, titel2,\n    ü.Titel from item as ü";
        let place = first_word(text, "titel").map(|place| (place.line(), place.column()));
        assert_eq!(place, Some((3, 7)));
        assert!(first_word(text, "name").is_none());
    }

    #[test]
    fn what_is_no_sql_shows_its_place() {
        for (text, line, column) in
            [("select a +\n) from s", 2, 1), ("select (a\nfrom s", 2, 1), ("select a from", 1, 14)]
        {
            let error = DFParser::parse_sql(text).err().map(|e| (place_of(&e, text), unparsed(e, Kind::Usage, text)));
            let (place, told) = error.unzip();
            let place = place.flatten().map(|place| (place.line(), place.column()));
            assert_eq!(place, Some((line, column)), "{text}: {told:?}");
            let told = told.map(|told| told.explain()).unwrap_or_default();
            assert!(told.contains(&format!("--> sql:{line}:{column}\n")), "{told}");
        }
    }
}
