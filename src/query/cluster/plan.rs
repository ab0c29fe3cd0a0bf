//! Which plans go to a cluster, and in what form.
//!
//! Knows DataFusion's operators and what Ballista does with them: it cuts a plan at its shuffles and gives each partition of
//! a piece to a task. Knows nothing of connections.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, Result as DfResult};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::physical_plan::async_func::AsyncFuncExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, replace_children_if_necessary};

/// Why a plan is computed in the client's process; `None` where the executors compute it.
pub(super) fn stays(plan: &Arc<dyn ExecutionPlan>) -> Option<&'static str> {
    let why = if plan.is::<AsyncFuncExec>() {
        Some("it asks a model")
    } else if plan.downcast_ref::<RepartitionExec>().is_some_and(RepartitionExec::preserve_order) {
        Some("a shuffle of it merges sorted rows")
    } else {
        let collects = |join: &HashJoinExec| *join.partition_mode() == PartitionMode::CollectLeft;
        plan.downcast_ref::<HashJoinExec>().is_some_and(collects).then_some("a join of it must see one side as a whole")
    };
    why.or_else(|| plan.children().into_iter().find_map(stays))
}

/// Whether a plan reads a file: what does not is computed faster than it is sent.
pub(super) fn reads_files(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let is_file = |scan: &DataSourceExec| scan.data_source().is::<FileScanConfig>();
    plan.downcast_ref::<DataSourceExec>().is_some_and(is_file) || plan.children().into_iter().any(reads_files)
}

/// The plan with nested loops that several tasks may compute. Rows of the left side that find no partner, or that are wanted
/// once however many they find, are told by a mark that all partitions of the right side share: they become one.
pub(super) fn with_shared_marks(plan: Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
    let joined = plan.transform_up(|node| {
        let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() else { return Ok(Transformed::no(node)) };
        let is_of_right = matches!(
            join.join_type(),
            JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark
        );
        if is_of_right || join.right().output_partitioning().partition_count() <= 1 {
            return Ok(Transformed::no(node));
        }
        let right: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(Arc::clone(join.right())));
        let children = vec![Arc::clone(join.left()), right];
        Ok(Transformed::yes(replace_children_if_necessary(node, children)?))
    });
    joined.map(|joined| joined.data)
}

/// Whether an operator of a plan needs rows in an order that they had before a shuffle. In one process the shuffle of one
/// sorted partition keeps it, and the planner counts on that; between processes no stage knows the order of another.
pub(super) fn leans_on_order(plan: &Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> DfResult<bool> {
    let shuffled = Arc::clone(plan).transform_up(|node| {
        let Some(shuffle) = node.downcast_ref::<RepartitionExec>() else { return Ok(Transformed::no(node)) };
        let input = shuffle.input();
        if input.output_partitioning().partition_count() > 1 || input.output_ordering().is_none() {
            return Ok(Transformed::no(node));
        }
        // It has no order, whatever it is made of.
        let input: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(Arc::clone(input)));
        Ok(Transformed::yes(replace_children_if_necessary(node, vec![input])?))
    })?;
    Ok(shuffled.transformed && SanityCheckPlan::new().optimize(shuffled.data, config).is_err())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    #![allow(clippy::disallowed_methods, reason = "plans alone are looked at, without the product's session")]
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::compute::SortOptions;
    use datafusion::datasource::MemTable;
    use datafusion::physical_expr::expressions::Column;
    use datafusion::physical_expr::{LexOrdering, Partitioning, PhysicalSortExpr};
    use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::query::cluster::settings;

    async fn planned(sql: &str) -> Arc<dyn ExecutionPlan> {
        let context = SessionContext::new_with_config(settings::base());
        for name in ["a", "b"] {
            let batch = |from: i64| {
                let ids = Arc::new(Int64Array::from(vec![from, from + 1])) as ArrayRef;
                RecordBatch::try_from_iter([("id", ids)]).unwrap()
            };
            let rows = vec![vec![batch(1)], vec![batch(2)], vec![batch(3)]];
            context.register_table(name, Arc::new(MemTable::try_new(batch(1).schema(), rows).unwrap())).unwrap();
        }
        context.sql(sql).await.unwrap().create_physical_plan().await.unwrap()
    }

    fn find<T: ExecutionPlan>(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
        if plan.is::<T>() {
            return Some(Arc::clone(plan));
        }
        plan.children().into_iter().find_map(find::<T>)
    }

    #[tokio::test]
    async fn joins_by_a_key_divide_both_sides() {
        let plan = planned("select a.id from a join b on a.id = b.id left join a as c on c.id = b.id").await;
        assert!(stays(&plan).is_none(), "{plan:?}");
        assert!(find::<HashJoinExec>(&plan).is_none());
        assert!(!reads_files(&plan), "rows in memory are no file");
    }

    #[tokio::test]
    async fn loops_that_mark_rows_of_their_left_side_are_one_task() {
        let plan = planned("select a.id from a left join b on a.id < b.id").await;
        let plan = with_shared_marks(plan).unwrap();
        let join = find::<NestedLoopJoinExec>(&plan).unwrap();
        let join = join.downcast_ref::<NestedLoopJoinExec>().unwrap();
        let is_of_right = matches!(join.join_type(), JoinType::Right);
        assert!(is_of_right || join.right().output_partitioning().partition_count() == 1, "{plan:?}");
    }

    #[tokio::test]
    async fn an_order_that_only_one_process_keeps_is_seen() {
        let config = settings::base();
        let joined = planned("select a.id from a join b on a.id = b.id order by a.id").await;
        assert!(!leans_on_order(&joined, config.options()).unwrap(), "{joined:?}");
        let sorted = planned("select id from a order by id").await;
        assert!(!leans_on_order(&sorted, config.options()).unwrap());
        let id = Arc::new(Column::new("id", 0));
        let by_id = PhysicalSortExpr::new(id.clone(), SortOptions { descending: false, nulls_first: false });
        let shuffled = RepartitionExec::try_new(sorted, Partitioning::Hash(vec![id], 4)).unwrap();
        let order = LexOrdering::new(vec![by_id]).unwrap();
        let merged: Arc<dyn ExecutionPlan> = Arc::new(SortPreservingMergeExec::new(order, Arc::new(shuffled)));
        assert!(leans_on_order(&merged, config.options()).unwrap());
    }

    #[tokio::test]
    async fn what_must_see_a_whole_side_stays() {
        let plan = planned("select id from a where id not in (select id from b)").await;
        let collects = find::<HashJoinExec>(&plan).is_some_and(|join| {
            join.downcast_ref::<HashJoinExec>().is_some_and(|j| *j.partition_mode() == PartitionMode::CollectLeft)
        });
        assert_eq!(stays(&plan).is_some(), collects, "{plan:?}");
    }
}
