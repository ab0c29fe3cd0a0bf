//! Audits: queries that return a staged table's bad rows, some made from its contract, some written in it.
//!
//! Knows the session and contracts; decides nothing about publishing, it only reports. The SQL of audits is built here and
//! stands in no file: its tables and columns are those that contracts name.

use std::fmt;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use crate::error::{Error, Kind, Result};
use crate::query::session::{Param, Rows, Session};
use crate::table::column_type::ColumnType;
use crate::table::contract::{Contract, ForeignKey, Role, Severity};
use crate::table::finding::{Finding, Rule, shares};
use crate::table::row_json::json_rows;

/// The table's rows the last time, and by which factor they may change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Rows of the partition before this one.
    pub previous_rows: u64,
    /// A factor of at least 1: 2 refuses fewer than half and more than twice as many.
    pub band: f64,
}

/// What all audits of a table found.
#[derive(Debug, Clone)]
pub struct AuditReport {
    /// The table.
    pub table: String,
    /// Its rows.
    pub n_rows: u64,
    /// Audits that ran.
    pub audits: usize,
    /// Those that found rows, in the order in which they ran.
    pub found: Vec<Finding>,
}

impl AuditReport {
    /// Whether nothing forbids publishing.
    pub fn passed(&self) -> bool {
        self.errors().next().is_none()
    }

    /// Audits of severity error that found rows.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.found.iter().filter(|f| f.severity == Severity::Error)
    }

    /// Audits of severity warn that found rows.
    pub fn warnings(&self) -> impl Iterator<Item = &Finding> {
        self.found.iter().filter(|f| f.severity == Severity::Warn)
    }

    /// The report as an error when it forbids publishing.
    ///
    /// # Errors
    /// `Kind::Audit` naming the first audit that failed, with the whole report as its source.
    pub fn into_result(self) -> Result<Self> {
        let Some(first) = self.errors().next() else { return Ok(self) };
        let message = format!("the audit {} found {} bad rows; nothing was published", first.audit, first.failing);
        Err(Error::new(Kind::Audit, message).with("table", &self.table).source(self.to_string()))
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rows, failed) = (self.n_rows, self.found.len());
        write!(f, "{}: {rows} rows, {} audits, {failed} with findings", self.table, self.audits)?;
        self.found.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

struct Check {
    name: String,
    severity: Severity,
    description: String,
    /// Bad rows.
    sql: String,
    /// Where `sql` only filters rows: by what. All such checks are counted in one pass.
    condition: Option<String>,
}

/// Runs all audits of a table that is registered as `table`: those that follow from its contract (unique grain, nulls,
/// allowed values, ranges, finite numbers, empty texts, foreign keys), its own, and the drift of its row count. Parents
/// of foreign keys are the tables that the session knows by their names.
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

/// Plans the audits of a table that is registered as `table` without running them, but for those that a column's rules make
/// and that are sound for any contract, and returns what is wrong with them.
///
/// # Errors
/// `Kind::Internal` when the session refuses.
pub async fn plan(session: &Session, contract: &Contract, table: &str, params: &[(&str, Param)]) -> Result<Vec<Error>> {
    let _turn = session.this.lock().await;
    session.register_alias("this", table).await?;
    let mut wrong = Vec::new();
    for check in checks_of(contract).iter().filter(|check| check.condition.is_none()) {
        if let Err(e) = session.sql(&check.sql, params).await.and_then(Rows::analyse) {
            wrong.push(e.with("table", &contract.name).with("audit", &check.name));
        }
    }
    session.deregister("this")?;
    Ok(wrong)
}

/// The audits that follow from a contract, and its own.
fn checks_of(contract: &Contract) -> Vec<Check> {
    let own = contract.audits.iter().map(|a| Check {
        name: a.name.clone(),
        severity: a.severity,
        description: a.description.clone(),
        sql: a.sql.clone(),
        condition: None,
    });
    generated(contract).into_iter().chain(own).collect()
}

async fn run_all(
    session: &Session,
    contract: &Contract,
    params: &[(&str, Param)],
    drift: Option<Drift>,
) -> Result<AuditReport> {
    let checks = checks_of(contract);
    let (n_rows, failing) = count(session, contract, &checks, params).await?;
    let mut found = Vec::new();
    for ((check, failing), share) in checks.iter().zip(&failing).zip(shares(&failing)) {
        if *failing == 0 {
            continue;
        }
        let place = |e: Error| e.with("table", &contract.name).with("audit", &check.name);
        let bad = session.sql(&check.sql, params).await.map_err(place)?;
        // Without an order of its own, which rows are kept would be chance.
        let key = match check.sql.to_lowercase().contains("order by") {
            true => Vec::new(),
            false => contract.grain.iter().filter(|c| bad.schema().column_with_name(c).is_some()).cloned().collect(),
        };
        let mut rows = Vec::new();
        for batch in bad.sorted_by(&key)?.limit(share)?.collect().await.map_err(place)? {
            rows.extend(json_rows(&batch)?);
        }
        let Check { name, severity, description, .. } = check;
        let (audit, description) = (name.clone(), description.clone());
        found.push(Finding { audit, severity: *severity, description, failing: *failing, rows });
    }
    let drift = drift.filter(|d| d.previous_rows > 0);
    if let Some(drift) = drift {
        let (now, before) = (n_rows as f64, drift.previous_rows as f64);
        if now > before * drift.band || now * drift.band < before {
            found.push(Finding {
                audit: "row_count_drift".into(),
                severity: Severity::Error,
                description: format!("{n_rows} rows against {} the last time", drift.previous_rows),
                failing: n_rows,
                rows: Vec::new(),
            });
        }
    }
    let audits = checks.len() + usize::from(drift.is_some());
    Ok(AuditReport { table: contract.name.clone(), n_rows, audits, found })
}

/// The table's rows and how many rows each check finds.
async fn count(
    session: &Session,
    contract: &Contract,
    checks: &[Check],
    params: &[(&str, Param)],
) -> Result<(u64, Vec<u64>)> {
    let mut columns = vec!["count(*) as n".to_owned()];
    for (i, check) in checks.iter().enumerate() {
        columns.extend(check.condition.as_ref().map(|c| format!("count(*) filter (where {c}) as n{i}")));
    }
    let place = |e: Error| e.with("table", &contract.name);
    let pass = format!("select {} from this", columns.join(", "));
    let counted = session.sql(&pass, &[]).await.map_err(place)?.collect().await.map_err(place)?;
    let value = |name: &str| {
        let column = counted.first().and_then(|b| b.column_by_name(name)?.as_primitive_opt::<Int64Type>());
        let value = column.filter(|c| !c.is_empty()).and_then(|c| u64::try_from(c.value(0)).ok());
        value.ok_or_else(|| place(Error::new(Kind::Internal, "an audit was not counted")))
    };
    let mut failing = Vec::with_capacity(checks.len());
    for (i, check) in checks.iter().enumerate() {
        let place = |e: Error| place(e).with("audit", &check.name);
        failing.push(match check.condition {
            Some(_) => value(&format!("n{i}"))?,
            None => session.sql(&check.sql, params).await.map_err(place)?.count().await.map_err(place)?,
        });
    }
    Ok((value("n")?, failing))
}

/// The audits that follow from a contract. Bad rows are shown by their key.
fn generated(contract: &Contract) -> Vec<Check> {
    let key: Vec<_> = contract.grain.iter().map(|c| quote(c)).collect();
    let order = if key.is_empty() { String::new() } else { format!(" order by {}", key.join(", ")) };
    let error = |name: String, description: &str, sql: String, condition: Option<String>| Check {
        name,
        severity: Severity::Error,
        description: description.into(),
        sql,
        condition,
    };
    let mut checks = Vec::new();
    // A store only grows: a retried row stands in it twice.
    if !key.is_empty() && contract.role != Role::Store {
        let name = Rule::Unique.audit(&contract.grain.join(", "));
        let sql = format!(
            "select {0}, count(*) as n from this group by {0} having count(*) > 1 order by {0}",
            key.join(", ")
        );
        checks.push(error(name, Rule::Unique.description(), sql, None));
    }
    for column in &contract.columns {
        let name = quote(&column.name);
        let shown: Vec<_> = key.iter().filter(|k| **k != name).cloned().chain([name.clone()]).collect();
        let mut add = |rule: Rule, condition: String| {
            let sql = format!("select {} from this where {condition}{order}", shown.join(", "));
            checks.push(error(rule.audit(&column.name), rule.description(), sql, Some(condition)));
        };
        if !column.nullable {
            add(Rule::NotNull, format!("{name} is null"));
        }
        if let Some(values) = &column.values {
            let list: Vec<_> = values.iter().map(|v| format!("'{}'", v.replace('\'', "''"))).collect();
            add(Rule::Values, format!("{name} not in ({})", list.join(", ")));
        }
        if let Some(min) = column.min {
            add(Rule::Min, format!("{name} < {min:?}"));
        }
        if let Some(max) = column.max {
            add(Rule::Max, format!("{name} > {max:?}"));
        }
        if let Some(length) = column.min_length {
            add(Rule::MinLength, format!("octet_length({name}) < {length}"));
        }
        let infinite = |v: &str| format!("(isnan({v}) or abs({v}) = cast('Infinity' as double))");
        match &column.column_type {
            ColumnType::Float32 | ColumnType::Float64 if column.finite => {
                add(Rule::Finite, infinite(&format!("cast({name} as double)")));
            }
            ColumnType::Vector | ColumnType::FixedVector(_) if column.finite => {
                let shown = if key.is_empty() { "number".to_owned() } else { key.join(", ") };
                let keys = if key.is_empty() { String::new() } else { format!("{}, ", key.join(", ")) };
                let sql = format!(
                    "select distinct {shown} from (select {keys}cast(unnest({name}) as double) as number from this) \
                     where {} order by {shown}",
                    infinite("number")
                );
                checks.push(error(Rule::Finite.audit(&column.name), Rule::Finite.description(), sql, None));
            }
            _ => {}
        }
    }
    checks.extend(contract.foreign_keys.iter().map(|foreign| {
        let name = format!("foreign_key({} -> {})", foreign.columns.join(", "), foreign.references);
        error(name, "Every row has its parent.", orphans(foreign, &key, &order), None)
    }));
    checks
}

/// The rows without a parent. All keys are compared alike, null with null: a key compared otherwise would become a
/// filter, and the join quadratic.
fn orphans(foreign: &ForeignKey, key: &[String], order: &str) -> String {
    let columns: Vec<_> = foreign.columns.iter().map(|c| quote(c)).collect();
    let shown: Vec<_> = key.iter().chain(columns.iter().filter(|c| !key.contains(c))).cloned().collect();
    let keys = columns.iter().zip(&foreign.to).map(|(c, to)| format!("(c.{c} is not distinct from p.{})", quote(to)));
    let keys: Vec<_> = keys.collect();
    let filter = foreign.filter.as_ref().map(|f| format!(" where ({f})")).unwrap_or_default();
    format!(
        "select {} from (select * from this{filter}) as c left anti join {} as p on {}{order}",
        shown.join(", "),
        quote(&foreign.references),
        keys.join(" and ")
    )
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
