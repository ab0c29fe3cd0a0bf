//! Whose a published day is: the job's that published it.
//!
//! Two jobs with one warehouse may fill different days of it. A day that the other one has published is not replaced:
//! both would do so in turn, night after night, and whoever reads the tables would never know whose they are. Knows names
//! of jobs in commit records; the lease of the day keeps two first runs apart.

use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::job::tables::TablePlan;

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
