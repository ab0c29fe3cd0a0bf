//! The client of a cluster: plans queries as a process of its own does, and has the executors compute them.
//!
//! Knows the scheduler's address and the folder that all processes share. Plans are made here and not by the scheduler, from
//! the same tables and functions as everywhere; what a plan cannot have computed elsewhere is computed here. Rows come when
//! a query has been computed as a whole. Knows nothing of jobs.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ballista_core::execution_plans::execute_physical_plan;
use ballista_core::extension::SessionConfigExt;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::{DataFrame, SessionConfig};
use datafusion_proto::physical_plan::AsExecutionPlan;
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures::TryStreamExt;
use tokio::task::JoinHandle;

use crate::cancel::CancelToken;
use crate::error::{Error, Kind, Result};
use crate::query::cluster::carried::{Carrier, Codec};
use crate::query::cluster::executor::{self, ExecutorOptions};
use crate::query::cluster::listener::{address_of, listen, url_of};
use crate::query::cluster::plan::{leans_on_order, reads_files, stays, with_shared_marks};
use crate::query::cluster::{scheduler, settings};
use crate::table::redact::redact;
use crate::table::store::Location;

pub use crate::query::cluster::settings::PARTITIONS;

/// Characters of what the cluster says of a failure that are told; its own log has the rest.
const TOLD: usize = 2000;

/// What of an error says that another try may succeed: somebody was not reached, or has ended.
const PASSING: [&str; 18] = [
    settings::FOR_NOW,
    "transport error",
    "transport::Error(Transport",
    "Connection refused",
    "connection error",
    "Connection reset",
    "Broken pipe",
    "Stream closed",
    "GrpcConnectionError",
    "Could not connect",
    "Shuffle fetch partition error",
    "FetchFailed",
    "FetchPartitionError",
    "xecutor lost",
    "no executors",
    // A store did not answer an executor, although its requests were made again.
    "Generic { store:",
    "Generic S3 error",
    "error sending request",
];

/// How the scheduler tells that it has ended a query itself: no executor took it.
const UNATTENDED: &str = "failed: Cancelled";

/// A cluster that computes queries.
pub struct Cluster {
    scheduler: String,
    partitions: usize,
    set_aside: Location,
    codec: Codec,
    /// The scheduler and the executors that live in this process.
    _own: Vec<Own>,
}

/// A task that ends with the cluster that it belongs to.
struct Own(JoinHandle<()>);

impl Drop for Own {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("scheduler", &self.scheduler).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster of a scheduler, `df://host:port`. Plans are cut into `partitions`, and rows that a session keeps lie in the
    /// folder `set_aside`, which all executors read. Opens no connection.
    ///
    /// # Errors
    /// `Kind::Config` for an address that is none.
    pub fn remote(
        scheduler: &str,
        partitions: usize,
        set_aside: Location,
        carrier: Arc<dyn Carrier>,
    ) -> Result<Cluster> {
        Ok(Cluster {
            scheduler: url_of(scheduler)?,
            partitions,
            set_aside,
            codec: Codec::new(carrier),
            _own: Vec::new(),
        })
    }

    /// A scheduler and so many executors in this process, on ports of this machine alone: to try what a cluster does. The
    /// executors share `options` but for the scheduler, which is the one that is started.
    ///
    /// # Errors
    /// `Kind::Config` where no port can be opened.
    pub async fn standalone(
        executors: usize,
        partitions: usize,
        set_aside: Location,
        carrier: Arc<dyn Carrier>,
        options: ExecutorOptions,
    ) -> Result<Cluster> {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = listen(here).await?;
        let url = format!("http://{}", address_of(&listener)?);
        let mut own =
            vec![owned("the scheduler", scheduler::serve(listener, Arc::clone(&carrier), options.stores.clone()))];
        for _ in 0..executors.max(1) {
            let options = ExecutorOptions { scheduler: url.clone(), host: None, ..options.clone() };
            let served = executor::serve(listen(here).await?, options, Arc::clone(&carrier), CancelToken::default());
            own.push(owned("an executor", served));
        }
        Ok(Cluster { scheduler: url, partitions, set_aside, codec: Codec::new(carrier), _own: own })
    }

    /// The folder for rows that a session keeps.
    pub(crate) fn set_aside(&self) -> &Location {
        &self.set_aside
    }

    /// A session's settings as its cluster needs them.
    pub(crate) fn config(&self, config: SessionConfig) -> SessionConfig {
        settings::of_cluster(config, self.partitions)
    }

    /// Makes each file that a session's next query reads a task of its own.
    ///
    /// # Errors
    /// None that is known; DataFusion's.
    pub(crate) fn apart(options: &mut ConfigOptions, files: usize) -> DfResult<()> {
        settings::apart(options, files)
    }

    /// The rows of a frame, in order, once the executors have computed them.
    pub(crate) async fn stream(&self, frame: DataFrame) -> DfResult<SendableRecordBatchStream> {
        let (state, plan) = frame.into_parts();
        let task = state.task_ctx();
        let plan = state.create_physical_plan(&plan).await?;
        if !reads_files(&plan) {
            return execute_stream(plan, task);
        }
        let plan = with_shared_marks(plan)?;
        let why = match stays(&plan) {
            None if leans_on_order(&plan, state.config().options())? => Some("it counts on an order behind a shuffle"),
            why => why,
        };
        if let Some(why) = why {
            tracing::debug!(why, "a query is computed here and not on the cluster");
            return execute_stream(plan, task);
        }
        if let Err(e) = PhysicalPlanNode::try_from_physical_plan(Arc::clone(&plan), &self.codec) {
            tracing::warn!(error = %e.strip_backtrace(), "a query is computed here: it cannot be sent to the cluster");
            return execute_stream(plan, task);
        }
        tracing::debug!(scheduler = self.scheduler, "a query goes to the cluster");
        let (config, session) = (state.config().clone(), state.session_id().to_owned());
        let (settings, schema, scheduler) = (config.ballista_config(), plan.schema(), self.scheduler.clone());
        let sent =
            execute_physical_plan::<PhysicalPlanNode>(scheduler.clone(), &settings, plan, &self.codec, session, config);
        let rows = sent.await.map_err(|e| failed(&e, &scheduler))?;
        let rows = rows.map_err(move |e| failed(&e, &scheduler));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// A task of this process that belongs to a cluster.
fn owned(what: &'static str, work: impl Future<Output = Result<()>> + Send + 'static) -> Own {
    Own(tokio::spawn(async move {
        if let Err(e) = work.await {
            tracing::error!(error = %e, "{what} of the cluster in this process has ended");
        }
    }))
}

/// An error of the cluster as one of ours. It comes as a text, whatever it was.
fn failed(error: &DataFusionError, scheduler: &str) -> DataFusionError {
    let told = error.strip_backtrace();
    let is_passing = PASSING.iter().any(|sign| told.contains(sign));
    let is_full = told.contains("ResourcesExhausted") || told.contains("Resources exhausted");
    let (kind, hint) = match (is_full, is_passing) {
        _ if told.contains(UNATTENDED) => (
            Kind::Temporary,
            "start an executor, one without --tables-only for prompts, and run the same command again",
        ),
        (true, _) => (Kind::Config, "raise --memory-limit of the executors, or [query] partitions"),
        (_, true) => (Kind::Temporary, "are the scheduler and an executor running? run the same command again"),
        _ => (Kind::Input, "`--engine local` computes the same in this process, and may say more"),
    };
    let told: String = match told.contains(UNATTENDED) {
        true => format!("no executor took it within {} seconds", settings::SCHEDULING_TIMEOUT.as_secs()),
        false => redact(&told).chars().take(TOLD).collect(),
    };
    let error = Error::new(kind, "the cluster did not compute a query").with("scheduler", scheduler).source(told);
    DataFusionError::External(Box::new(error.hint(hint)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    #![allow(clippy::disallowed_methods, reason = "plans alone are made, without the product's session")]
    use std::time::Duration;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::prelude::{ParquetReadOptions, SessionContext};
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::table::store::StoreOptions;

    fn kind(told: &str) -> Kind {
        let DataFusionError::External(error) = failed(&DataFusionError::Execution(told.into()), "http://host:1") else {
            unreachable!("an error of ours")
        };
        error.downcast::<Error>().unwrap().kind()
    }

    #[test]
    fn what_may_pass_is_told_apart_from_what_will_not() {
        assert_eq!(kind("TonicError(transport error)"), Kind::Temporary);
        assert_eq!(kind("tonic::transport::Error(Transport, ConnectError(..))"), Kind::Temporary);
        assert_eq!(kind("no executors remain to run the tasks for this job"), Kind::Temporary);
        assert_eq!(kind("Stream closed without job completing"), Kind::Temporary);
        assert_eq!(kind("Job x failed: ObjectStore(Generic { store: \"S3\", source: .. })"), Kind::Temporary);
        assert_eq!(kind("Job x failed: ResourcesExhausted(\"Failed to allocate\")"), Kind::Config);
        assert_eq!(kind("Job x failed: Cast error: Can't cast value"), Kind::Input);
        assert_eq!(kind("Job x failed: Cancelled"), Kind::Temporary);
        let tried = format!("Task 3 in Stage 1 failed 4 times: IoError({}: the device is busy)", settings::FOR_NOW);
        assert_eq!(kind(&tried), Kind::Temporary);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_query_that_no_executor_takes_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let ids = Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("id", ids)]).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let carrier: Arc<dyn Carrier> = Arc::new(crate::query::cluster::carried::Nothing);
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("df://{}", address_of(&listener).unwrap());
        let (patience, look) = (Duration::from_millis(300), Duration::from_millis(50));
        let served = scheduler::serve_with(listener, Arc::clone(&carrier), StoreOptions::default(), patience, look);
        let _scheduler = owned("the scheduler", served);
        let at = Location::parse("memory://client/nobody").unwrap();
        let cluster = Cluster::remote(&url, 4, at, carrier).unwrap();
        let context = SessionContext::new_with_config(settings::base());
        let path = path.to_str().unwrap();
        let frame = context.read_parquet(path, ParquetReadOptions::default()).await.unwrap();
        let DataFusionError::External(why) = cluster.stream(frame).await.err().unwrap() else {
            unreachable!("an error of ours")
        };
        let why = why.downcast::<Error>().unwrap();
        assert_eq!(why.kind(), Kind::Temporary);
        assert!(why.explain().contains("no executor took it"), "{}", why.explain());
    }

    #[test]
    fn a_cluster_is_named_by_its_schedulers_address() {
        let at = Location::parse("memory://client/aside").unwrap();
        let carrier: Arc<dyn Carrier> = Arc::new(crate::query::cluster::carried::Nothing);
        assert!(Cluster::remote("host:1", 4, at.clone(), Arc::clone(&carrier)).is_err());
        let cluster = Cluster::remote("df://host:1", 4, at, carrier).unwrap();
        assert_eq!(format!("{cluster:?}"), "Cluster { scheduler: \"http://host:1\", .. }");
    }
}
