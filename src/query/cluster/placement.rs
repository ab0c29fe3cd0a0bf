//! Which tasks an executor is given: those of tables first; then files of prompts, a few at a time, where it answers prompts.
//!
//! Knows Ballista's jobs by their names and executors by their ids. How tasks are cut is Ballista's business.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::AvailableVcores;
use ballista_core::serde::scheduler::{
    ExecutorData, ExecutorMetadata, ExecutorOperatingSystemSpecification, ExecutorSpecification,
};
use ballista_scheduler::cluster::memory::InMemoryClusterState;
use ballista_scheduler::cluster::{BoundTask, ClusterState, DistributionPolicy};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::task_manager::JobInfoCache;
use datafusion::common::{DataFusionError, Result as DfResult};

use crate::query::cluster::settings::{PROMPTS, TABLES_ONLY};

/// Files of prompts that an executor works on at a time, whatever its threads: the second keeps the model busy while the last
/// answers of the first are written. More of them would be missing elsewhere.
const FILES_AT_ONCE: u32 = 2;

/// Jobs that run, by their ids.
type Jobs = Arc<HashMap<JobId, JobInfoCache>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Placement {
    /// When an executor that answers prompts last asked for work.
    answering: Mutex<Instant>,
    /// What a place for tasks is described with, read once.
    system: ExecutorOperatingSystemSpecification,
}

impl Placement {
    pub(super) fn new() -> Placement {
        Placement { answering: Mutex::new(Instant::now()), system: ExecutorOperatingSystemSpecification::default() }
    }

    /// How long no executor that answers prompts has asked for work.
    pub(super) fn unanswered(&self) -> Duration {
        self.answering.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Tasks of some jobs for one executor with so many free threads.
    async fn bind(&self, executor: &str, vcores: u32, jobs: &Jobs) -> DfResult<Vec<BoundTask>> {
        if vcores == 0 || jobs.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |e: BallistaError| DataFusionError::External(Box::new(e));
        // Ballista's own way to cut tasks is reached by the state of a cluster alone: one of this executor.
        let state = InMemoryClusterState::default();
        let metadata = ExecutorMetadata {
            id: executor.to_owned(),
            host: String::new(),
            port: 0,
            grpc_port: 0,
            specification: ExecutorSpecification::default().with_vcores(vcores),
            os_info: self.system.clone(),
        };
        let data = ExecutorData { executor_id: executor.to_owned(), total_vcores: vcores, available_vcores: vcores };
        state.register_executor(metadata, data).await.map_err(failed)?;
        state.bind_schedulable_tasks(TaskDistributionPolicy::Bias, Arc::clone(jobs), None).await.map_err(failed)
    }
}

/// Whether a job's tasks are files of prompts.
pub(super) async fn is_of_prompts(job: &JobInfoCache) -> bool {
    job.execution_graph.read().await.job_name() == PROMPTS
}

/// Threads that an executor has left for prompts, with so many free ones and so many files under way.
fn room(executor: &str, free: u32, under_way: u32) -> u32 {
    if executor.starts_with(TABLES_ONLY) { 0 } else { free.min(FILES_AT_ONCE.saturating_sub(under_way)) }
}

#[async_trait]
impl DistributionPolicy for Placement {
    async fn bind_tasks(
        &self,
        budgets: Vec<&mut AvailableVcores>,
        running_jobs: Arc<HashMap<JobId, JobInfoCache>>,
    ) -> DfResult<Vec<BoundTask>> {
        let (mut tables, mut prompts) = (HashMap::new(), HashMap::new());
        let mut under_way: HashMap<String, u32> = HashMap::new();
        for (id, job) in running_jobs.iter() {
            if !is_of_prompts(job).await {
                tables.insert(id.clone(), job.clone());
                continue;
            }
            for task in job.execution_graph.read().await.running_tasks() {
                *under_way.entry(task.executor_id).or_default() += 1;
            }
            prompts.insert(id.clone(), job.clone());
        }
        let (tables, prompts): (Jobs, Jobs) = (Arc::new(tables), Arc::new(prompts));
        let mut bound = Vec::new();
        for budget in budgets {
            let executor = budget.executor_id.as_str();
            if !executor.starts_with(TABLES_ONLY) {
                *self.answering.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
            let taken = self.bind(executor, budget.vcores, &tables).await?;
            let used: u32 = taken.iter().map(|(_, task)| task.vcores_consumed).sum();
            bound.extend(taken);
            let busy = under_way.get(executor).copied().unwrap_or_default();
            let free = room(executor, budget.vcores.saturating_sub(used), busy);
            bound.extend(self.bind(executor, free, &prompts).await?);
        }
        Ok(bound)
    }

    fn name(&self) -> &str {
        "tables, then prompts"
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_executor_has_few_files_of_prompts_and_one_for_tables_has_none() {
        assert_eq!([room("a", 16, 0), room("a", 16, 1), room("a", 16, 2), room("a", 16, 3)], [2, 1, 0, 0]);
        assert_eq!((room("a", 1, 0), room("a", 0, 0)), (1, 0));
        assert_eq!(room(&format!("{TABLES_ONLY}a"), 16, 0), 0);
    }

    #[tokio::test]
    async fn who_asks_for_work_and_answers_prompts_is_remembered() {
        let placement = Placement::new();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        *placement.answering.lock().unwrap() = long_ago;
        let ask = async |id: String| {
            let mut budget = AvailableVcores { executor_id: id, vcores: 1 };
            placement.bind_tasks(vec![&mut budget], Arc::default()).await.unwrap().len()
        };
        assert_eq!(ask(format!("{TABLES_ONLY}a")).await, 0);
        assert!(placement.unanswered() >= Duration::from_secs(5));
        assert_eq!(ask("a".to_owned()).await, 0);
        assert!(placement.unanswered() < Duration::from_secs(5));
    }
}
