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
    let rows = session.sql(&merge(contract), &[]).await?.stream().await?;
    held.check().await?;
    let staging = root.child("_staging").child(run_id).child(&contract.name);
    done.into = segment::replace(root, contract, &staging, &small, rows).await?.len();
    done.merged = small.len();
    Ok(done)
}

/// The rows worth keeping of the table `small`, each once, in an order that does not depend on the files.
fn merge(contract: &Contract) -> String {
    let quoted = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
    let names: Vec<String> = contract.columns.iter().map(|c| quoted(&c.name)).collect();
    let columns = |of: &str| names.iter().map(|n| format!("{of}.{n}")).collect::<Vec<_>>().join(", ");
    let key = contract.grain.iter().map(|name| format!("kept.{}", quoted(name)));
    let order: Vec<String> = key.chain((1..=names.len()).map(|i| i.to_string())).collect();
    format!(
        "select {} from (\
           select {} from small as s where s.error is null \
           union select {} from small as s \
           left anti join (select r.prompt_key from response as r where r.error is null and r.text is not null) as a \
             on a.prompt_key = s.prompt_key \
           where s.error is not null) as kept \
         order by {}",
        columns("kept"),
        columns("s"),
        columns("s"),
        order.join(", ")
    )
}
