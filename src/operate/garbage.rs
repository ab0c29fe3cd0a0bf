//! `curec gc`: removes what dead runs left behind, and what has stood in the quarantine for long.
//!
//! Knows the warehouse and the quarantine; leaves alone what a live run holds.

use chrono::Utc;

use crate::config::Job;
use crate::error::Result;
use crate::night::tables::locate;
use crate::table::{partition, quarantine};

/// Removes what dead runs left behind, and what has stood in the quarantine for long.
pub async fn collect_garbage(job: &Job) -> Result<partition::GcReport> {
    let root = locate(job, &job.spec.warehouse)?;
    let report = partition::gc(&root).await;
    let before = Utc::now() - chrono::Duration::days(job.spec.audit.quarantine_days);
    let (files, bytes) = quarantine::clean(&root, before).await?;
    let mut report = report?;
    report.quarantined = files;
    report.bytes += bytes;
    Ok(report)
}
