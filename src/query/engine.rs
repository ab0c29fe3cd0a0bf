//! Where the queries of a session are computed: in this process, or on a cluster.
//!
//! Knows DataFusion's frames and streams. Knows nothing of tables; of clusters only that there may be one.

#[cfg(feature = "cluster")]
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::lit;
use datafusion::prelude::{DataFrame, SessionConfig};
use futures::TryStreamExt;

#[cfg(feature = "cluster")]
use crate::query::cluster::client::Cluster;
use crate::table::store::Location;

/// Where queries are computed.
#[derive(Debug, Clone, Default)]
pub enum Engine {
    /// In this process.
    #[default]
    Local,
    /// By the executors of a cluster.
    #[cfg(feature = "cluster")]
    Cluster(Arc<Cluster>),
}

impl Engine {
    /// Whether queries are computed in this process.
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Engine::Local)
    }

    /// A session's settings as the engine needs them.
    pub(super) fn config(&self, config: SessionConfig) -> SessionConfig {
        match self {
            Engine::Local => config,
            #[cfg(feature = "cluster")]
            Engine::Cluster(cluster) => cluster.config(config),
        }
    }

    /// The folder for rows that a session keeps; `None`: a temporary folder of this machine will do.
    pub(super) fn set_aside(&self) -> Option<&Location> {
        match self {
            Engine::Local => None,
            #[cfg(feature = "cluster")]
            Engine::Cluster(cluster) => Some(cluster.set_aside()),
        }
    }

    /// The rows of a frame, in order.
    pub(super) async fn stream(&self, frame: DataFrame) -> DfResult<SendableRecordBatchStream> {
        match self {
            Engine::Local => frame.execute_stream().await,
            #[cfg(feature = "cluster")]
            Engine::Cluster(cluster) => cluster.stream(frame).await,
        }
    }

    /// The number of a frame's rows.
    pub(super) async fn count(&self, frame: DataFrame) -> DfResult<u64> {
        if self.is_local() {
            return frame.count().await.map(|n| n as u64);
        }
        let counted = frame.aggregate(Vec::new(), vec![count(lit(1_i64))])?;
        let batches: Vec<_> = self.stream(counted).await?.try_collect().await?;
        let values = batches.iter().find(|batch| batch.num_rows() > 0).map(|batch| batch.column(0));
        let counts = values.and_then(|values| values.as_primitive_opt::<Int64Type>());
        counts
            .filter(|counts| counts.is_valid(0))
            .map(|counts| counts.value(0) as u64)
            .ok_or_else(|| DataFusionError::Internal("a count gave no number".into()))
    }
}
