//! Where the queries of a night are computed and its prompts answered, as `[query]` says: in this process, or on a cluster.
//!
//! Knows a job and its models. Only a run's own tables are made there; whoever looks at a warehouse does so in one process.

use crate::error::Result;
use crate::night::asking::Asking;
use crate::night::generation::generate;
use crate::night::manifest::Usage;
use crate::night::prepare::Prepared;
use crate::night::spending::Unpaid;
use crate::query::session::{BatchStream, Engine};
use crate::table::store::Location;

/// The engine of a prepared job. On a cluster, rows that are no table's yet lie in the folder `set_aside`, which all executors read.
///
/// # Errors
/// `Kind::Config` where the job's engine cannot be had; `Kind::Model` where the generator's files cannot be read.
pub(super) async fn engine_of(prepared: &Prepared, set_aside: Location) -> Result<Engine> {
    match prepared.job.spec.query.is_local() {
        true => Ok(Engine::Local),
        false => cluster_of(prepared, set_aside).await,
    }
}

/// Has prompts answered: by the executors of the session's cluster, or here. An endpoint is asked from here, wherever tables are
/// made: its limits are those of one client.
///
/// # Errors
/// As [`generate`]; on a cluster those of its queries.
pub(super) async fn answers(asking: &Asking<'_>, pending: BatchStream, usage: &mut Usage) -> Result<Option<Unpaid>> {
    #[cfg(feature = "cluster")]
    if let Some(folder) = asking.session.shared_folder()
        && asking.models.endpoint().is_none()
    {
        return crate::night::dispatch::answers(asking, folder, pending, usage).await;
    }
    generate(pending, asking.models, asking.checks, asking.sink, asking.stop, asking.progress, usage).await
}

#[cfg(feature = "cluster")]
async fn cluster_of(prepared: &Prepared, set_aside: Location) -> Result<Engine> {
    use std::sync::Arc;

    use crate::config::QuerySpec;
    use crate::night::answering::{NightCarrier, Place};
    use crate::night::tables::{query_memory, spill_dir};
    use crate::query::cluster::client::Cluster;
    use crate::query::cluster::executor::ExecutorOptions;
    use crate::table::store::StoreOptions;

    let job = &prepared.job;
    let QuerySpec { scheduler, partitions, .. } = &job.spec.query;
    let is_standalone = job.spec.query.is_standalone();
    let here = || Place { name: "this process".into(), stores: StoreOptions::of(job), device: None };
    let carrier = Arc::new(NightCarrier::of(job, &prepared.models, is_standalone.then(here))?);
    let cluster = match is_standalone {
        true => {
            let options = ExecutorOptions {
                scheduler: String::new(),
                host: None,
                threads: 0,
                tables_only: false,
                memory_limit: query_memory(job),
                spill_dir: spill_dir(job),
                stores: StoreOptions::of(job),
            };
            Cluster::standalone(1, *partitions, set_aside, carrier, options).await?
        }
        false => Cluster::remote(scheduler, *partitions, set_aside, carrier)?,
    };
    tracing::info!(scheduler, partitions, "tables are made on a cluster");
    Ok(Engine::Cluster(Arc::new(cluster)))
}

#[cfg(not(feature = "cluster"))]
async fn cluster_of(_: &Prepared, _: Location) -> Result<Engine> {
    use crate::config::NO_CLUSTER;
    use crate::error::{Error, Kind};

    Err(Error::new(Kind::Config, NO_CLUSTER).with("key", "query.engine"))
}
