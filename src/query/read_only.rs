//! Which SQL only reads: what a person may run through `curec sql`.
//!
//! Knows SQL's syntax. Knows nothing of tables or sessions.

use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;

use crate::error::{Error, Kind, Result};
use crate::query::datafusion_error::unparsed;

/// Checks that a text is one SELECT, EXPLAIN, SHOW or DESCRIBE.
///
/// # Errors
/// `Kind::Usage` for anything that would write a file, make a table or change a setting, and for SQL that cannot be
/// parsed.
pub(super) fn check(text: &str) -> Result<()> {
    let mut statements = DFParser::parse_sql(text).map_err(|e| unparsed(e, Kind::Usage, text))?;
    match (statements.pop_front(), statements.len()) {
        (None, _) => Err(Error::new(Kind::Usage, "the SQL is empty").hint("try: select 1")),
        (Some(_), 1..) => Err(refused("more than one statement")),
        (Some(statement), 0) => allow(&statement),
    }
}

/// Checks that a statement only reads.
///
/// # Errors
/// `Kind::Usage` for anything that would write a file, make a table or change a setting.
pub(super) fn allow(statement: &Statement) -> Result<()> {
    writes(statement).map_or(Ok(()), |what| Err(refused(&what)))
}

fn refused(what: &str) -> Error {
    Error::new(Kind::Usage, format!("{what} is not allowed here"))
        .hint("curec sql only reads: SELECT, EXPLAIN, SHOW and DESCRIBE; send the rows to a file with --format and >")
}

/// What a statement would do besides reading; `None`: it only reads.
fn writes(statement: &Statement) -> Option<String> {
    match statement {
        Statement::Explain(explain) => writes(&explain.statement),
        Statement::Statement(sql) => sql_writes(sql),
        Statement::CreateExternalTable(_) => Some("CREATE EXTERNAL TABLE".into()),
        Statement::CopyTo(_) => Some("COPY".into()),
        Statement::Reset(_) => Some("RESET".into()),
    }
}

fn sql_writes(statement: &SqlStatement) -> Option<String> {
    match statement {
        SqlStatement::Query(_)
        | SqlStatement::ShowTables { .. }
        | SqlStatement::ShowColumns { .. }
        | SqlStatement::ShowVariable { .. }
        | SqlStatement::ShowVariables { .. }
        | SqlStatement::ShowFunctions { .. }
        | SqlStatement::ExplainTable { .. } => None,
        SqlStatement::Explain { statement, .. } => sql_writes(statement),
        other => {
            let text = other.to_string();
            let words = text.split_whitespace().take_while(|w| w.chars().all(|c| c.is_ascii_uppercase()));
            let head: Vec<_> = words.take(2).collect();
            Some(if head.is_empty() { "this statement".into() } else { head.join(" ") })
        }
    }
}
