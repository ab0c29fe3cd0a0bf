//! Rows that the executors of a session's cluster work on a part at a time.
//!
//! Knows the session's folder and its cluster. What is done with the rows travels as a text.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionContext;
use datafusion::prelude::ident;
use futures::StreamExt;

use crate::error::{Error, Kind, Result};
use crate::query::cluster::apart;
use crate::query::cluster::client::Cluster;
use crate::query::datafusion_error::fail;
use crate::query::scan;
use crate::query::session::{BatchStream, Engine, Session};
use crate::query::set_aside::set_aside;
use crate::table::store::Location;

impl Session {
    /// Writes rows into a file of the folder that all processes share.
    ///
    /// # Errors
    /// `Kind::Temporary` when the file cannot be written; `Kind::Internal` without a cluster.
    pub async fn set_rows_aside(&self, name: &str, rows: RecordBatch) -> Result<Location> {
        let nowhere = || Error::new(Kind::Internal, "there is no folder that processes share");
        let folder = self.shared_folder().ok_or_else(nowhere)?;
        set_aside(folder, name, None, futures::stream::iter([Ok(rows)])).await?.0.ok_or_else(nowhere)
    }

    /// Has executors work on the rows of files, which are all of this schema: each file as a whole is the task of one
    /// executor, in the order in which they have time for it. What comes back is one column, a value a row.
    ///
    /// # Errors
    /// As [`Rows::stream`](crate::query::session::Rows::stream); `Kind::Internal` without a cluster.
    pub async fn work_on_files(&self, work: String, files: &[Location], schema: SchemaRef) -> Result<BatchStream> {
        let Engine::Cluster(cluster) = &self.engine else {
            return Err(Error::new(Kind::Internal, "there are no executors"));
        };
        let failed = |e: DataFusionError| fail(e, "a query failed");
        let mut state = self.context.state();
        Cluster::apart(state.config_mut().options_mut(), files.len()).map_err(failed)?;
        let context = SessionContext::new_with_state(state);
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let columns: Vec<_> = names.iter().map(ident).collect();
        let call = apart::function(names, work).call(columns);
        let frame = context.read_table(scan::plain(&context, files, schema)?).map_err(failed)?;
        let frame = frame.select(vec![call]).map_err(failed)?;
        let rows = cluster.stream(frame).await.map_err(failed)?;
        Ok(rows.map(|batch| batch.map_err(|e| fail(e, "a query failed"))).boxed())
    }
}
