//! Rows of an input that break its contract: how many of which kind, and whether a run can do without them.
//!
//! Which rows those are is said by [`judge_column`](crate::table::rules::judge_column) alone. Knows nothing of files
//! or of what the other rows are for.

use crate::error::{Error, Result};
use crate::table::contract::Contract;
use crate::table::finding::{Finding, Findings};

/// Above this share the rows are not what is wrong: something that the job says of them is.
const MOST: f64 = 0.5;

/// Bad rows as they are met.
#[derive(Debug)]
pub struct BadRows {
    pub(crate) findings: Findings,
    pub(crate) rows: u64,
    pub(crate) bad: u64,
}

/// What was left out of an input.
#[derive(Debug, Clone, Default)]
pub struct LeftOut {
    /// Rows that broke the contract, each counted once.
    pub rows: u64,
    /// What they broke, by audit; a row may break several. Twenty rows are kept over all of them.
    pub found: Vec<Finding>,
}

impl BadRows {
    /// None yet.
    pub fn new(contract: &Contract) -> Self {
        BadRows { findings: Findings::new(contract), rows: 0, bad: 0 }
    }

    /// What was left out, where its share of the rows is not above `limit`.
    ///
    /// # Errors
    /// `Kind::Input` naming the first bad row, how many there are of which kind, and the setting; the source is
    /// [`Findings`].
    pub fn within(self, limit: f64) -> Result<LeftOut> {
        let share = self.bad as f64 / self.rows.max(1) as f64;
        if share <= limit {
            return Ok(LeftOut { rows: self.bad, found: self.findings.into_warnings() });
        }
        let kinds = kinds(self.findings.found());
        let (bad, rows) = (self.bad, self.rows);
        let error = self.findings.into_error().unwrap_or_else(|| {
            // A share above a limit means that there was one.
            Error::new(crate::error::Kind::Internal, "bad rows were counted and not noted")
        });
        let needed = (share * 1e6).ceil() / 1e6;
        let hint = match share > MOST {
            true => "most rows break the contract, so a column is probably mapped wrongly: look at [input.columns] in the job, and \
                     at [input] timestamp_unit where it is about moments"
                .to_owned(),
            false => format!(
                "fix them, or let them be left out up to a share of all rows: [input] max_bad_fraction is {limit}, and \
                 {needed} would do"
            ),
        };
        Err(error.with("bad_rows", format!("{bad} of {rows}: {kinds}")).hint(hint))
    }
}

/// `2 not_null(user_id), 1 finite(rating)`.
pub fn kinds(found: &[Finding]) -> String {
    let mut kinds: Vec<_> = found.iter().map(|f| format!("{} {}", f.failing, f.audit)).collect();
    kinds.sort();
    kinds.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::Kind;
    use crate::table::finding::Rule;

    #[test]
    fn a_share_is_advised_only_where_most_rows_are_good() {
        let contract = Contract::builtin("interaction").unwrap();
        for (n, has, lacks) in [(5, "0.5 would do", "mapped wrongly"), (6, "mapped wrongly", "max_bad_fraction")] {
            let mut noted = BadRows::new(&contract);
            (noted.rows, noted.bad) = (10, n);
            noted.findings.add(Rule::NotNull, "user_id", String::new, || Error::new(Kind::Input, "null"));
            let told = noted.within(0.0).unwrap_err().explain();
            assert!(told.contains(has) && !told.contains(lacks), "{told}");
        }
    }
}
