//! Whose a published day is: the job's that published it.
//!
//! Two jobs with one warehouse may fill different days of it. A day that the other one has published is not replaced:
//! both would do so in turn, night after night, and whoever reads the tables would never know whose they are. Knows names
//! of jobs in commit records; the lease of the day keeps two first runs apart.

use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::night::decide::TablePlan;

/// The jobs whose days a job may replace besides its own.
pub fn replaced_jobs(job: &Job) -> impl Iterator<Item = &str> {
    job.spec.publish.replaces.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// Refuses to build a table of a day that another job has published.
///
/// # Errors
/// [`Kind::Config`] naming both jobs.
pub fn check(job: &Job, plans: &[TablePlan]) -> Result<()> {
    let own = job.spec.name.as_str();
    for plan in plans.iter().filter(|plan| plan.is_build()) {
        let Some(record) = &plan.standing else { continue };
        let Some(owner) = record.job().filter(|owner| *owner != own && !replaced_jobs(job).any(|name| name == *owner))
        else {
            continue;
        };
        let (table, dt) = (&plan.table, &record.dt);
        let message = format!("the job {owner} has published {table} dt={dt}; the job {own} would replace it");
        return Err(Error::new(Kind::Config, message)
            .with("warehouse", &job.spec.warehouse)
            .with("run", &record.run_id)
            .hint(format!(
                "give {own} a `warehouse` of its own; or, where {owner} was renamed or {own} takes its place, set \
                 [publish] replaces = \"{owner}\" in the job file of {own}"
            )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use crate::table::partition::CommitRecord;

    #[test]
    fn a_run_s_id_tells_its_job() {
        let job = |run_id: &str| {
            let record = CommitRecord {
                format: 1,
                table: "reason".into(),
                contract_version: "1.0".into(),
                dt: "2026-01-20".into(),
                files: Vec::new(),
                fingerprint: String::new(),
                parts: BTreeMap::new(),
                created_timestamp: 0,
                run_id: run_id.into(),
                lease_epoch: 1,
            };
            record.job().map(str::to_owned)
        };
        assert_eq!(job("nightly-20260121T031500123Z-4711").as_deref(), Some("nightly"));
        assert_eq!(job("night-ly_2-20260121T031500123Z-1").as_deref(), Some("night-ly_2"));
        for unknown in ["", "run-1", "nightly-4711", "nightly-20260121-4711", "forget-20260121T031500123Z-4711"] {
            assert_eq!(job(unknown), None, "{unknown}");
        }
    }
}
