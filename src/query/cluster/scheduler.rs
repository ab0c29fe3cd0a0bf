//! The scheduler of a cluster: takes plans from clients, cuts them into stages, and gives executors that ask a task.
//!
//! Knows Ballista's scheduler. It computes nothing, reads no file and remembers nothing when it ends: whoever waited for it
//! runs again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::{ConfigProducer, JobId};
use ballista_scheduler::SessionBuilder;
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use ballista_scheduler::scheduler_server::{SchedulerServer, timestamp_millis};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use tokio::net::TcpListener;

use crate::config::Meanings;
use crate::error::{Error, Kind, Result};
use crate::query::cluster::carried::{Carrier, Codec};
use crate::query::cluster::listener::address_of;
use crate::query::cluster::placement::{Placement, is_of_prompts};
use crate::query::cluster::settings::{
    self, EXECUTOR_TIMEOUT, MESSAGE_BYTES, REAPER_INTERVAL, RESULT_TTL, SCHEDULING_TIMEOUT,
};
use crate::query::cluster::stores::Stores;
use crate::query::datafusion_error::fail;
use crate::query::state::state_of;
use crate::table::store::StoreOptions;

/// Serves clients and executors on a port, until it is dropped.
///
/// # Errors
/// `Kind::Temporary` where the port is lost.
pub async fn serve(listener: TcpListener, carrier: Arc<dyn Carrier>, stores: StoreOptions) -> Result<()> {
    serve_with(listener, carrier, stores, SCHEDULING_TIMEOUT, REAPER_INTERVAL).await
}

/// As [`serve`], where a query waits `patience` for an executor, and is looked after so often.
pub(super) async fn serve_with(
    listener: TcpListener,
    carrier: Arc<dyn Carrier>,
    stores: StoreOptions,
    patience: Duration,
    look: Duration,
) -> Result<()> {
    let address = address_of(&listener)?;
    let runtime: Arc<RuntimeEnv> = RuntimeEnvBuilder::new()
        .with_object_store_registry(Arc::new(Stores::new(stores)))
        .build_arc()
        .map_err(|e| fail(e, "cannot open a session"))?;
    let functions = Arc::clone(&carrier);
    let session: SessionBuilder =
        Arc::new(move |config| state_of(config, Arc::clone(&runtime), Meanings::default(), functions.known()));
    let base: ConfigProducer = Arc::new(settings::base);
    let message = MESSAGE_BYTES as u32;
    let placement = Arc::new(Placement::new());
    let config = SchedulerConfig {
        external_host: address.ip().to_string(),
        bind_host: address.ip().to_string(),
        bind_port: address.port(),
        scheduling_policy: TaskSchedulingPolicy::PullStaged,
        task_distribution: TaskDistributionPolicy::Custom(placement.clone()),
        finished_job_data_clean_up_interval_seconds: RESULT_TTL.as_secs(),
        finished_job_state_clean_up_interval_seconds: RESULT_TTL.as_secs(),
        executor_timeout_seconds: EXECUTOR_TIMEOUT.as_secs(),
        expire_dead_executor_interval_seconds: REAPER_INTERVAL.as_secs(),
        no_executors_grace_period_seconds: EXECUTOR_TIMEOUT.as_secs(),
        grpc_server_max_decoding_message_size: message,
        grpc_server_max_encoding_message_size: message,
        grpc_client_max_message_size: message,
        override_config_producer: Some(base),
        override_session_builder: Some(session),
        override_physical_codec: Some(Arc::new(Codec::new(carrier))),
        ..SchedulerConfig::default()
    };
    let lost = |e: BallistaError| Error::new(Kind::Temporary, "the scheduler broke off").source(e.to_string());
    let cluster = BallistaCluster::new_from_config(&config).await.map_err(lost)?;
    let scheduler: Scheduler =
        create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, Arc::new(config)).await.map_err(lost)?;
    let looked_after = scheduler.clone();
    tokio::select! {
        served = start_grpc_service_with_listener(listener, scheduler) => served.map_err(lost),
        () = end_unattended(&looked_after, &placement, patience, look) => Ok(()),
    }
}

type Scheduler = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// Ends queries that no executor can take. Ballista itself ends those whose last executor is lost in their middle, and has all
/// others wait without end; so do prompts where every executor makes tables only. Never ends.
async fn end_unattended(scheduler: &Scheduler, placement: &Placement, patience: Duration, look: Duration) {
    let mut alone: Option<Instant> = None;
    loop {
        tokio::time::sleep(look).await;
        alone = if scheduler.is_ready() { None } else { alone.or_else(|| Some(Instant::now())) };
        let is_alone = alone.is_some_and(|since| since.elapsed() >= patience);
        if !is_alone && placement.unanswered() < patience {
            continue;
        }
        for job in waiting_since(scheduler, timestamp_millis().saturating_sub(patience.as_millis() as u64)) {
            let jobs = scheduler.state.task_manager.get_running_job_cache();
            let is_left = match jobs.get(&job) {
                Some(found) => is_alone || is_of_prompts(found).await,
                None => false,
            };
            if !is_left {
                continue;
            }
            tracing::warn!(%job, "no executor takes a query: it ends");
            if let Err(e) = scheduler.cancel_job(job).await {
                tracing::warn!(error = %e, "a query that no executor takes does not end");
            }
        }
    }
}

/// The queries that were there at a moment, in milliseconds since 1970, and have not ended.
fn waiting_since(scheduler: &Scheduler, moment: u64) -> Vec<JobId> {
    let running = scheduler.state.task_manager.get_running_job_cache();
    let is_waiting = |status: &Option<Status>| matches!(status, Some(Status::Running(job)) if job.started_at <= moment);
    running.iter().filter(|(_, job)| is_waiting(&job.status)).map(|(id, _)| id.clone()).collect()
}
