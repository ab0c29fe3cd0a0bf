//! Merging the response store: a night leaves a segment every few seconds, and every reader opens all of them.
//!
//! Part of `curec gc` and of nothing else. What a merge leaves out are rows that stand twice and errors of prompts that
//! have been answered since: neither can ever be read again (`sql/reason.sql` takes an answer before any error). Safe
//! beside live runs, which only add segments; see [`segment`] for what holds when it dies.

use std::time::Duration;

use chrono::Utc;

use crate::config::Job;
use crate::error::{Kind, Result};
use crate::night::tables::{contract_of, locate, new_session};
use crate::query::session::TableFile;
use crate::query::texts;
use crate::table::contract::Contract;
use crate::table::lease::{Held, Holder};
use crate::table::partition::live_runs;
use crate::table::segment::{self, Segments};
use crate::table::store::{Entry, Location};

/// The lease of whoever rewrites the response store: `curec gc` and `curec forget` take turns.
pub const LEASE: &str = "response";

/// More small segments than this are merged. One file costs a reader one request or two; so many cost little.
const MAX_SMALL: usize = 64;

/// Replaced segments stay for so long while anything is live: longer than a reader takes that listed them before they
/// were replaced, since a night's run reads the store when it begins to generate.
const KEEP_REPLACED: chrono::TimeDelta = chrono::TimeDelta::days(1);

/// What a merge did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Segments that were merged.
    pub merged: usize,
    /// Segments that stand for them.
    pub into: usize,
    /// Segments of earlier merges that are gone.
    pub removed: usize,
    /// Bytes freed.
    pub bytes: u64,
    /// Who was at it already, so that nothing was done.
    pub busy: Option<String>,
}

/// Removes what earlier merges have replaced, then merges the small segments where there are too many.
///
/// # Errors
/// `Kind::Input` for a damaged segment; the store's. Another one at the same work is no error.
pub async fn compact(job: &Job) -> Result<Compaction> {
    let root = locate(job, &job.spec.warehouse)?;
    let contract = contract_of(job, "response")?;
    let found = Segments::find(&root, &contract.name).await?;
    if !found.has_replaced() && found.small().len() <= MAX_SMALL {
        return Ok(Compaction::default());
    }
    let is_idle = live_runs(&root).await?.is_empty();
    let holder = Holder::here(format!("gc-{}-{}", Utc::now().format("%Y%m%dT%H%M%S%3fZ"), std::process::id()));
    let ttl = Duration::from_secs_f64(job.spec.publish.lease_seconds);
    let held = match Held::acquire(&root, [LEASE.to_string()], &holder, ttl).await {
        Err(e) if e.kind() == Kind::Busy => {
            return Ok(Compaction { busy: Some(e.to_string()), ..Compaction::default() });
        }
        held => held?,
    };
    let outcome = under_lease(job, &root, &contract, &holder.run_id, &held, is_idle).await;
    held.release().await;
    outcome
}

async fn under_lease(
    job: &Job,
    root: &Location,
    contract: &Contract,
    run_id: &str,
    held: &Held,
    is_idle: bool,
) -> Result<Compaction> {
    let is_old = |record: &Entry| is_idle || Utc::now() - record.last_modified > KEEP_REPLACED;
    let (removed, bytes) = segment::remove_replaced(root, &contract.name, is_old).await?;
    let mut done = Compaction { removed, bytes, ..Compaction::default() };
    let found = Segments::find(root, &contract.name).await?;
    let small = found.small();
    if small.len() <= MAX_SMALL {
        return Ok(done);
    }
    let session = new_session(job)?;
    let files = |entries: &[Entry]| entries.iter().map(|e| e.location.clone().into()).collect::<Vec<TableFile>>();
    session.register_files("response", contract, &files(&found.current())).await?;
    session.register_files("small", contract, &files(&small)).await?;
    // All columns decide, so that the order does not depend on the files.
    let order: Vec<String> = contract.grain.iter().chain(contract.columns.iter().map(|c| &c.name)).cloned().collect();
    let rows = session.sql(texts::RESPONSE_ROWS_TO_KEEP, &[]).await?.sorted_by(&order)?.stream().await?;
    held.check().await?;
    let staging = root.child("_staging").child(run_id).child(&contract.name);
    done.into = segment::replace(root, contract, &staging, &small, rows).await?.len();
    done.merged = small.len();
    Ok(done)
}
