//! Audits: queries that return a staged table's bad rows, some made from its contract, some written in it.
//!
//! Knows the session and contracts; decides nothing about publishing, it only reports.

use std::fmt;

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;

use crate::error::{Error, Kind, Result};
use crate::query::session::{Param, Session};
use crate::table::contract::{ColumnType, Contract, Role, Severity};

/// Failing rows kept for people to read.
pub const SHOWN_ROWS: usize = 20;

/// The table's rows the last time, and by which factor they may change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Rows of the partition before this one.
    pub previous_rows: u64,
    /// A factor of at least 1: 2 refuses fewer than half and more than twice as many.
    pub band: f64,
}

/// What one audit found.
#[derive(Debug, Clone)]
pub struct AuditResult {
    /// The audit's name, such as `unique(item_id, as_of)` or one from the contract.
    pub name: String,
    /// What a finding does.
    pub severity: Severity,
    /// What it guards.
    pub description: String,
    /// Rows that it returned.
    pub failing: u64,
    /// Some of them, up to [`SHOWN_ROWS`].
    pub rows: Vec<RecordBatch>,
}

/// What all audits of a table found.
#[derive(Debug, Clone)]
pub struct AuditReport {
    /// The table.
    pub table: String,
    /// Its rows.
    pub n_rows: u64,
    /// One result per audit, in the order in which they ran.
    pub results: Vec<AuditResult>,
}

impl AuditReport {
    /// Whether nothing forbids publishing.
    pub fn passed(&self) -> bool {
        self.errors().next().is_none()
    }

    /// Audits of severity error that found rows.
    pub fn errors(&self) -> impl Iterator<Item = &AuditResult> {
        self.results.iter().filter(|r| r.failing > 0 && r.severity == Severity::Error)
    }

    /// Audits of severity warn that found rows.
    pub fn warnings(&self) -> impl Iterator<Item = &AuditResult> {
        self.results.iter().filter(|r| r.failing > 0 && r.severity == Severity::Warn)
    }

    /// The report as an error when it forbids publishing.
    ///
    /// # Errors
    /// `Kind::Audit` naming the first audit that failed, with all of them in the hint.
    pub fn into_result(self) -> Result<Self> {
        let Some(first) = self.errors().next() else { return Ok(self) };
        let message = format!("audit {} found {} bad rows", first.name, first.failing);
        Err(Error::new(Kind::Audit, message).with("table", &self.table).hint(format!("nothing was published\n{self}")))
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bad = self.results.iter().filter(|r| r.failing > 0).count();
        write!(f, "{}: {} rows, {} audits, {bad} with findings", self.table, self.n_rows, self.results.len())?;
        for result in self.results.iter().filter(|r| r.failing > 0) {
            let weight = match result.severity {
                Severity::Error => "error",
                Severity::Warn => "warn",
            };
            write!(f, "\n  {weight} {}: {} rows. {}", result.name, result.failing, result.description)?;
            if let Ok(table) = pretty_format_batches(&result.rows) {
                for line in table.to_string().lines() {
                    write!(f, "\n    {line}")?;
                }
            }
        }
        Ok(())
    }
}

struct Check {
    name: String,
    severity: Severity,
    description: String,
    sql: String,
}

/// Runs all audits of a table that is registered as `table`: those that follow from its contract (unique grain, nulls,
/// allowed values, ranges, finite numbers, empty texts), its own, and the drift of its row count.
///
/// # Errors
/// `Kind::Config` when an audit's SQL cannot be planned, else as a query's. Bad rows are no error.
pub async fn audit(
    session: &Session,
    contract: &Contract,
    table: &str,
    params: &[(&str, Param)],
    drift: Option<Drift>,
) -> Result<AuditReport> {
    // All audits call their table `this`; two tables audited at once must take turns.
    let _turn = session.this.lock().await;
    session.register_alias("this", table).await?;
    let report = run_all(session, contract, params, drift).await;
    session.deregister("this")?;
    report
}

async fn run_all(
    session: &Session,
    contract: &Contract,
    params: &[(&str, Param)],
    drift: Option<Drift>,
) -> Result<AuditReport> {
    let n_rows = session.sql("select 1 as one from this", &[]).await?.count().await?;
    let mut results = Vec::new();
    let own = contract.audits.iter().map(|a| Check {
        name: a.name.clone(),
        severity: a.severity,
        description: a.description.clone(),
        sql: a.sql.clone(),
    });
    for check in generated(contract).into_iter().chain(own) {
        let place = |e: Error| e.with("table", &contract.name).with("audit", &check.name);
        let failing = session.sql(&check.sql, params).await.map_err(place)?.count().await.map_err(place)?;
        let rows = if failing == 0 {
            Vec::new()
        } else {
            let rows = session.sql(&check.sql, params).await.map_err(place)?;
            rows.limit(SHOWN_ROWS)?.collect().await.map_err(place)?
        };
        let Check { name, severity, description, .. } = check;
        results.push(AuditResult { name, severity, description, failing, rows });
    }
    if let Some(drift) = drift.filter(|d| d.previous_rows > 0) {
        let (now, before) = (n_rows as f64, drift.previous_rows as f64);
        let is_out = now > before * drift.band || now * drift.band < before;
        results.push(AuditResult {
            name: "row_count_drift".into(),
            severity: Severity::Error,
            description: format!("{n_rows} rows against {} the last time", drift.previous_rows),
            failing: u64::from(is_out),
            rows: Vec::new(),
        });
    }
    Ok(AuditReport { table: contract.name.clone(), n_rows, results })
}

/// The audits that follow from a contract. Bad rows are shown by their key.
fn generated(contract: &Contract) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |name: String, description: &str, sql: String| {
        checks.push(Check { name, severity: Severity::Error, description: description.into(), sql });
    };
    let key: Vec<_> = contract.grain.iter().map(|c| quote(c)).collect();
    // A store only grows: a retried row stands in it twice.
    if !key.is_empty() && contract.role != Role::Store {
        add(
            format!("unique({})", contract.grain.join(", ")),
            "The table's key stands once.",
            format!(
                "select {0}, count(*) as n from this group by {0} having count(*) > 1 order by {0}",
                key.join(", ")
            ),
        );
    }
    for column in &contract.columns {
        let name = quote(&column.name);
        let shown: Vec<_> = key.iter().filter(|k| **k != name).cloned().chain([name.clone()]).collect();
        let bad_rows = |condition: String| {
            let order = if key.is_empty() { String::new() } else { format!(" order by {}", key.join(", ")) };
            format!("select {} from this where {condition}{order}", shown.join(", "))
        };
        if !column.nullable {
            add(format!("not_null({})", column.name), "The column has no nulls.", bad_rows(format!("{name} is null")));
        }
        if let Some(values) = &column.values {
            let list: Vec<_> = values.iter().map(|v| format!("'{}'", v.replace('\'', "''"))).collect();
            add(
                format!("values({})", column.name),
                "Only the values that the contract lists.",
                bad_rows(format!("{name} not in ({})", list.join(", "))),
            );
        }
        if let Some(min) = column.min {
            add(format!("min({})", column.name), "Not below the least value.", bad_rows(format!("{name} < {min:?}")));
        }
        if let Some(max) = column.max {
            add(
                format!("max({})", column.name),
                "Not above the greatest value.",
                bad_rows(format!("{name} > {max:?}")),
            );
        }
        if let Some(length) = column.min_length {
            add(
                format!("min_length({})", column.name),
                "Not shorter than the least length.",
                bad_rows(format!("octet_length({name}) < {length}")),
            );
        }
        let infinite = |v: &str| format!("isnan({v}) or abs({v}) = cast('Infinity' as double)");
        match &column.column_type {
            ColumnType::Float32 | ColumnType::Float64 if column.finite => {
                let sql = bad_rows(infinite(&format!("cast({name} as double)")));
                add(format!("finite({})", column.name), "No NaN and no infinity.", sql);
            }
            ColumnType::Vector if column.finite => {
                let shown = if key.is_empty() { "number".to_owned() } else { key.join(", ") };
                let keys = if key.is_empty() { String::new() } else { format!("{}, ", key.join(", ")) };
                let sql = format!(
                    "select distinct {shown} from (select {keys}cast(unnest({name}) as double) as number from this) \
                     where {} order by {shown}",
                    infinite("number")
                );
                add(format!("finite({})", column.name), "No NaN and no infinity in a vector.", sql);
            }
            _ => {}
        }
    }
    checks
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
