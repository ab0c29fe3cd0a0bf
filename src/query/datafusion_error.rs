//! DataFusion's errors as curec's: of which kind they are, and our own errors that come back through DataFusion.
//!
//! Knows error types only.

use std::sync::Arc;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

use crate::error::{Error, Kind};
use crate::table::store_error::is_store_fault;

/// An error while planning: the SQL is wrong.
pub(super) fn planning(error: DataFusionError, kind: Kind) -> Error {
    Error::new(kind, format!("the SQL cannot be planned: {}", first_line(&error)))
        .hint("curec sql \"show tables\" lists the tables, \"describe item\" a table's columns")
        .source(error)
}

/// The line of a query that a planner's error is about, from 1, where it tells: by its span, else by where the column that it
/// does not know stands first.
pub(super) fn line_of(error: &DataFusionError, text: &str) -> Option<usize> {
    let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
    if let Some(span) = span {
        return usize::try_from(span.start.line).ok();
    }
    let DataFusionError::SchemaError(inner, _) = error.find_root() else { return None };
    let SchemaError::FieldNotFound { field, .. } = inner.as_ref() else { return None };
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let names = |line: &str| line.split(|c: char| !is_word(c)).any(|word| word.eq_ignore_ascii_case(&field.name));
    text.lines().position(|line| names(line.split("--").next().unwrap_or_default())).map(|line| line + 1)
}

/// The line in an error of the parser, which tells it in words only.
pub(super) fn parsed_line(told: &str) -> Option<usize> {
    let (_, rest) = told.rsplit_once("at Line: ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
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
    use super::*;

    #[test]
    fn the_parser_tells_lines_in_words() {
        let told = "sql parser error: Expected: an expression, found: from at Line: 12, Column: 3";
        assert_eq!(parsed_line(told), Some(12));
        assert_eq!(parsed_line("sql parser error: Expected: an expression, found: EOF"), None);
    }
}
