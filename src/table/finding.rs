//! What audits find: the rules that follow from a contract, failing rows as people and the quarantine see them.
//!
//! Knows contracts. Knows nothing of how rows are looked at or of where findings go.

use std::fmt;

use crate::error::Error;
use crate::printable::line;
use crate::table::contract::{Contract, Severity};

/// Failing rows that are kept of a table and run, over all of its audits.
pub const SHOWN_ROWS: usize = 20;

/// What a contract says of single rows and columns; each is the audit of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Type,
    NotNull,
    MinLength,
    Values,
    Finite,
    Moment,
    Min,
    Max,
    Unique,
    Order,
}

impl Rule {
    /// The audit's name: `not_null(item_id)`, `unique(item_id, as_of)`.
    pub(crate) fn audit(self, columns: &str) -> String {
        let name = match self {
            Rule::Type => "type",
            Rule::NotNull => "not_null",
            Rule::MinLength => "min_length",
            Rule::Values => "values",
            Rule::Finite => "finite",
            Rule::Moment => "moment",
            Rule::Min => "min",
            Rule::Max => "max",
            Rule::Unique => "unique",
            Rule::Order => "order",
        };
        format!("{name}({columns})")
    }

    /// What it guards, for people.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Rule::Type => "Every value fits the column's type.",
            Rule::NotNull => "The column has no nulls.",
            Rule::MinLength => "Not shorter than the least length.",
            Rule::Values => "Only the values that the contract lists.",
            Rule::Finite => "No NaN and no infinity.",
            Rule::Moment => "Only moments of the years 0 to 10000.",
            Rule::Min => "Not below the least value.",
            Rule::Max => "Not above the greatest value.",
            Rule::Unique => "The table's key stands once.",
            Rule::Order => "The rows come in the contract's order.",
        }
    }
}

/// What one audit found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The audit's name, such as `unique(item_id, as_of)` or one from the contract.
    pub audit: String,
    /// What a finding does.
    pub severity: Severity,
    /// What it guards.
    pub description: String,
    /// Rows that failed it.
    pub failing: u64,
    /// The first of them as JSON objects; over all findings of a table at most [`SHOWN_ROWS`].
    pub rows: Vec<String>,
}

impl fmt::Display for Finding {
    /// One line for the audit and one for each row. Rows are others' text: nothing in them can steer a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} rows. {}", self.severity, self.audit, self.failing, self.description)?;
        self.rows.iter().try_for_each(|row| write!(f, "\n    {}", printable(row, 400)))
    }
}

/// The text as [`line()`] shows it, cut to `most` characters.
fn printable(text: &str, most: usize) -> String {
    let kept: String = text.chars().take(most).collect();
    let rest = if text.chars().nth(most).is_some() { " ..." } else { "" };
    format!("{}{rest}", line(&kept))
}

/// How many rows of each audit are kept: one of each in turn until [`SHOWN_ROWS`] are reached.
pub(crate) fn shares(failing: &[u64]) -> Vec<usize> {
    let mut shares = vec![0_usize; failing.len()];
    let mut left = SHOWN_ROWS;
    loop {
        let before = left;
        for (share, failing) in shares.iter_mut().zip(failing) {
            if left > 0 && (*share as u64) < *failing {
                *share += 1;
                left -= 1;
            }
        }
        if left == before {
            return shares;
        }
    }
}

/// Rows that broke their contract while they were staged: the source of the error in which that ends.
#[derive(Debug)]
pub struct Findings {
    table: String,
    found: Vec<Finding>,
    first: Option<Error>,
}

impl Findings {
    pub(crate) fn new(contract: &Contract) -> Self {
        Findings { table: contract.name.clone(), found: Vec::new(), first: None }
    }

    /// The findings behind an error of [`Publisher::stage`](crate::table::partition::Publisher::stage), if it is about
    /// rows.
    pub fn of(error: &Error) -> Option<&Findings> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// One finding for each audit that failed, by name.
    pub fn found(&self) -> &[Finding] {
        &self.found
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Counts a bad row; `row` is asked for while few are kept, `error` for the very first.
    pub(crate) fn add(
        &mut self,
        rule: Rule,
        columns: &str,
        row: impl FnOnce() -> String,
        error: impl FnOnce() -> Error,
    ) {
        let audit = rule.audit(columns);
        let at = self.found.iter().position(|f| f.audit == audit).unwrap_or_else(|| {
            let description = rule.description().to_owned();
            self.found.push(Finding { audit, severity: Severity::Error, description, failing: 0, rows: Vec::new() });
            self.found.len() - 1
        });
        let finding = &mut self.found[at];
        finding.failing += 1;
        if finding.rows.len() < SHOWN_ROWS {
            finding.rows.push(row());
        }
        self.first.get_or_insert_with(error);
    }

    /// Sorts the findings by their audits and keeps of each its share of the rows.
    fn settle(&mut self) {
        self.found.sort_by(|a, b| a.audit.cmp(&b.audit));
        let counts: Vec<u64> = self.found.iter().map(|f| f.failing).collect();
        for (finding, share) in self.found.iter_mut().zip(shares(&counts)) {
            finding.rows.truncate(share);
        }
    }

    /// The error that names the first bad row and has the findings as its source; `None` where there are none.
    pub(crate) fn into_error(mut self) -> Option<Error> {
        let first = self.first.take()?;
        self.settle();
        Some(first.with("failures", self.found.iter().map(|f| f.failing).sum::<u64>()).source(self))
    }

    /// The findings as warnings: what they are about was left out.
    pub(crate) fn into_warnings(mut self) -> Vec<Finding> {
        self.settle();
        self.found.iter_mut().for_each(|finding| finding.severity = Severity::Warn);
        self.found
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: nothing was published", self.table)?;
        self.found.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

impl std::error::Error for Findings {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_rows_are_shared_out_evenly() {
        assert_eq!(shares(&[1000]), [20]);
        assert_eq!(shares(&[1000, 2, 1000]), [9, 2, 9]);
        assert_eq!(shares(&[0, 3]), [0, 3]);
        assert_eq!(shares(&[9; 30]).iter().sum::<usize>(), 20);
        assert!(shares(&[]).is_empty());
    }

    #[test]
    fn a_row_cannot_steer_a_terminal() {
        let shown = printable("a\u{1b}[31m\u{9b}b\u{202e}c", 100);
        assert_eq!(shown, "a\\u{1b}[31m\\u{9b}b\\u{202e}c");
        assert_eq!(printable(&"x".repeat(9), 3), "xxx ...");
    }
}
