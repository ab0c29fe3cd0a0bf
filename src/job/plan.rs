//! What a run would build and why, and what its generate stage would cost.
//!
//! Changes nothing and loads no model: evidence and prompts are made in memory, tokens are counted.

use std::fmt;

use crate::config::{Interval, Job};
use crate::error::Result;
use crate::job::tables::{TablePlan, prepare};
use crate::table::partition::CommitRecord;

/// A plan for people and programs.
#[derive(Debug)]
pub struct Plan {
    job: String,
    dt: String,
    warehouse: String,
    inputs: Vec<(String, usize, u64)>,
    tables: Vec<TablePlan>,
    /// What the generate stage would do, where the prompts are known.
    work: Option<Work>,
}

/// Prompts and tokens that a run would pay for.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Work {
    /// Rows to explain.
    pub prompts: u64,
    /// Different prompts.
    pub distinct: u64,
    /// Of those, answered by earlier runs.
    pub answered: u64,
    /// Prompt tokens of the rest.
    pub prompt_tokens: u64,
    /// At most so many new tokens.
    pub completion_tokens_at_most: u64,
    /// Minutes, at the speed of the job's last run or, without one, of a two-core CPU.
    pub minutes: f64,
    /// Price at the job's rates.
    pub price: f64,
}

/// Plans a run.
pub async fn plan(job: &Job, interval: Interval, full: bool) -> Result<Plan> {
    let prepared = prepare(job, interval).await?;
    let tables = prepared.decide(full, false).await?;
    let inputs = prepared.inputs.iter().map(|(name, i)| (name.clone(), i.files.len(), i.rows())).collect();
    let work = match tables.iter().any(TablePlan::is_build) {
        true => Some(estimate(&prepared).await?),
        false => None,
    };
    Ok(Plan {
        job: job.spec.name.clone(),
        dt: interval.dt(),
        warehouse: prepared.root.url().to_string(),
        inputs,
        tables,
        work,
    })
}

impl Plan {
    /// One JSON object.
    pub fn json(&self) -> serde_json::Value {
        let tables: Vec<_> = self
            .tables
            .iter()
            .map(|t| {
                serde_json::json!({
                    "table": t.table,
                    "dt": self.dt,
                    "build": t.is_build(),
                    "why": t.why,
                    "fingerprint": t.fingerprint,
                    "rows_standing": t.standing.as_ref().map(CommitRecord::rows),
                })
            })
            .collect();
        serde_json::json!({
            "job": self.job, "dt": self.dt, "warehouse": self.warehouse, "tables": tables, "work": self.work,
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "job {} for dt={} in {}", self.job, self.dt, self.warehouse)?;
        for (name, files, rows) in &self.inputs {
            writeln!(f, "  reads  {name:<15} {files} file(s), {rows} rows")?;
        }
        for t in &self.tables {
            let why = if t.is_build() { format!("build: {}", t.why.join(", ")) } else { "up to date".into() };
            writeln!(f, "  table  {:<15} {why}", t.table)?;
        }
        match &self.work {
            Some(w) => writeln!(
                f,
                "  prompts {} ({} different, {} answered before); {} prompt tokens, at most {} new tokens, about {:.1} minutes, price {:.2}",
                w.prompts, w.distinct, w.answered, w.prompt_tokens, w.completion_tokens_at_most, w.minutes, w.price
            ),
            None => writeln!(f, "nothing to do"),
        }
    }
}
