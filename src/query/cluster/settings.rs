//! The settings of sessions on a cluster, for its client, its scheduler and its executors.
//!
//! Knows Ballista's settings and what of them must hold for the same rows to come out as in one process.

use std::time::Duration;

use ballista_core::config::{BALLISTA_JOB_NAME, BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK};
use ballista_core::extension::SessionConfigExt;
use datafusion::common::Result as DfResult;
use datafusion::common::config::ConfigOptions;
use datafusion::prelude::SessionConfig;

use crate::query::state::config_of;

/// Partitions of a plan, and so tasks of a stage, where a job does not say.
pub const PARTITIONS: usize = 16;

/// Rows per batch, as everywhere.
const BATCH_ROWS: usize = 8192;

/// The largest message between the processes: a plan names each file that it reads.
pub(super) const MESSAGE_BYTES: usize = 256 << 20;

/// An executor that was not heard of for so long is dead, and others do its work: with the time until somebody looks, half a minute.
/// It asks for work every five seconds at least, however busy it is.
pub(super) const EXECUTOR_TIMEOUT: Duration = Duration::from_secs(25);

/// So often is looked for dead executors.
pub(super) const REAPER_INTERVAL: Duration = Duration::from_secs(5);

/// A query that no executor could take for so long ends: there is none, and none has come.
pub(super) const SCHEDULING_TIMEOUT: Duration = Duration::from_secs(120);

/// So long are the rows of a finished query kept for a client that reads them. What lies between its stages goes at once.
pub(super) const RESULT_TTL: Duration = Duration::from_secs(3600);

/// The name of queries whose tasks are files of prompts.
pub(super) const PROMPTS: &str = "curec prompts";

/// What the ids of executors begin with that are given no prompts.
pub(super) const TABLES_ONLY: &str = "tables-only-";

/// What the text of a fault says that may pass.
pub(super) const FOR_NOW: &str = "an executor cannot go on for now";

/// The settings of the scheduler and the executors before a client sends its own.
pub(super) fn base() -> SessionConfig {
    of_cluster(config_of(PARTITIONS, BATCH_ROWS), PARTITIONS)
}

/// A session's settings on a cluster.
///
/// Plans are made by the client and cut at their shuffles. A join that holds one side in memory as a whole would see a part
/// of it in each process, so both sides are divided by their keys, always; and they are sorted, since sorted rows can spill.
/// Filters that one operator fills for another, subqueries in memory and round robins do not cross processes: upgrading the
/// settings turns them off.
pub(super) fn of_cluster(config: SessionConfig, partitions: usize) -> SessionConfig {
    let mut config = config
        .upgrade_for_ballista()
        // With one, joins would hold a side in memory as a whole.
        .with_target_partitions(partitions.max(2))
        .with_ballista_adaptive_query_planner(false)
        .with_ballista_broadcast_join_threshold_bytes(0)
        .with_ballista_broadcast_join_threshold_rows(0)
        .with_ballista_grpc_client_max_message_size(MESSAGE_BYTES)
        // A stage of many partitions would be one task otherwise.
        .set_usize(BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK, 1);
    let settings = config.options_mut();
    settings.optimizer.hash_join_single_partition_threshold = 0;
    settings.optimizer.hash_join_single_partition_threshold_rows = 0;
    // The planner of stages knows unions better than their interleaving.
    settings.optimizer.prefer_existing_union = true;
    // Tasks would read files twice.
    settings.execution.enable_file_stream_work_stealing = false;
    config
}

/// Makes each file of a query a task of its own, of those that [`PROMPTS`] names.
///
/// # Errors
/// None that is known; DataFusion's.
pub(super) fn apart(options: &mut ConfigOptions, files: usize) -> DfResult<()> {
    options.execution.target_partitions = files.max(2);
    // Neither are files cut, nor is one task given two of them.
    options.optimizer.repartition_file_scans = false;
    options.set(BALLISTA_JOB_NAME, PROMPTS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_query_of_prompts_is_told_by_its_name() {
        let mut config = base();
        apart(config.options_mut(), 70).unwrap();
        assert_eq!(config.options().execution.target_partitions, 70);
        assert!(!config.options().optimizer.repartition_file_scans);
        let entries = config.options().entries();
        let name = entries.iter().find(|entry| entry.key == BALLISTA_JOB_NAME).unwrap();
        assert_eq!(name.value.as_deref(), Some(PROMPTS));
        let others = base().options().entries();
        assert!(others.iter().all(|entry| entry.value.as_deref() != Some(PROMPTS)));
    }

    #[test]
    fn nothing_is_left_to_timing_or_to_one_process() {
        let config = base();
        let (optimizer, execution) = (&config.options().optimizer, &config.options().execution);
        assert!(!execution.enable_file_stream_work_stealing);
        assert!(!optimizer.enable_dynamic_filter_pushdown && !optimizer.enable_round_robin_repartition);
        assert!(!optimizer.enable_physical_uncorrelated_scalar_subquery && !optimizer.prefer_hash_join);
        assert!(optimizer.repartition_joins && optimizer.hash_join_single_partition_threshold == 0);
        assert_eq!(execution.target_partitions, PARTITIONS);
        let ballista = config.ballista_config();
        assert_eq!(ballista.max_partitions_per_task(), 1);
        assert!(!config.ballista_adaptive_query_planner_enabled());
        assert_eq!(config.ballista_broadcast_join_threshold_bytes(), 0);
        assert!(
            REAPER_INTERVAL * 3 < EXECUTOR_TIMEOUT
                && EXECUTOR_TIMEOUT + REAPER_INTERVAL <= Duration::from_secs(30)
                && SCHEDULING_TIMEOUT > EXECUTOR_TIMEOUT * 2
        );
    }
}
