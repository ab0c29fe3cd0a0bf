//! The end of a run that has something to publish: its lease kept alive, the tables put in place, the time that a
//! stopped run is let finish.
//!
//! Knows leases and staged tables; knows nothing of what is in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cancel::CancelToken;
use crate::error::{Error, Kind, Result};
use crate::night::decide::TablePlan;
use crate::night::prepare::Prepared;
use crate::table::delta_write;
use crate::table::lease::Lease;
use crate::table::partition::{Publisher, StagedTable, commit_record};

/// Renews the lease until `finished`. A run that has lost it stops, since another one pays for the same prompts now;
/// where the store fails, publishing will find out.
pub(super) async fn renew(lease: Arc<Lease>, stop: CancelToken, mut finished: tokio::sync::oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(lease.ttl() / 3) => {}
            _ = &mut finished => return,
        }
        if let Err(e) = lease.renew().await {
            tracing::warn!(error = %e, "the lease was not renewed");
            if e.kind() == Kind::Busy {
                stop.request();
                return;
            }
        }
    }
}

/// Waits for a cancellation request and the grace time after it; a run that has begun to publish may finish.
pub(super) async fn out_of_grace(stop: CancelToken, grace: Duration, is_publishing: Arc<AtomicBool>) -> Error {
    stop.requested().await;
    tokio::time::sleep(grace).await;
    if is_publishing.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    Error::new(Kind::Interrupted, "stopped by a signal when the grace time was over; nothing was published")
        .hint("finished answers are kept; run the same command again")
}

/// Publishes what is staged, in the order in which it was made; returns its rows.
pub(super) async fn publish(
    prepared: &Prepared,
    plans: &[TablePlan],
    staged: Vec<(TablePlan, StagedTable)>,
    publisher: &Publisher,
    lease: &Lease,
) -> Result<u64> {
    let mut rows = 0;
    for plan in plans.iter().filter(|p| !p.is_build()) {
        // What is staged was made from the kept tables as they stood: a run that was overtaken may have replaced one.
        if commit_record(&prepared.root, &plan.table, &prepared.interval.dt()).await? != plan.standing {
            return Err(Error::new(Kind::Busy, "another run has replaced a table that this one was made from")
                .with("table", &plan.table)
                .hint("run it again"));
        }
    }
    for (plan, _) in &staged {
        // Before the first switch: a night must not end with some of its tables new.
        delta_write::demand_followable(&prepared.root, &plan.table).await?;
    }
    for (plan, staged) in staged {
        rows += staged.rows;
        publisher.publish(lease, staged).await?;
        tracing::debug!(table = plan.table, "published");
    }
    Ok(rows)
}

/// Brings the Delta logs of all published tables in line with what stands, where the job wants such logs: of tables that
/// had none, and of those whose log a run that died has left behind.
///
/// # Errors
/// As [`delta_write::follow`].
pub(super) async fn follow_logs(prepared: &Prepared) -> Result<()> {
    if !prepared.job.spec.publish.delta {
        return Ok(());
    }
    for table in prepared.graph.published() {
        let schema = prepared.graph.contract(table)?.arrow_schema(None);
        if let Some(version) = delta_write::follow(&prepared.root, table, Some(&schema), true).await? {
            tracing::info!(table, version, "the Delta log was brought up to date");
        }
    }
    Ok(())
}
