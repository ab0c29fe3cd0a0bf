//! Rows that are set aside for the queries of one session, in a file that other processes read as well.
//!
//! Knows Parquet's writer and locations. Knows nothing of sessions; whoever names the folder removes it.

use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use futures::{Stream, StreamExt};
use parquet::arrow::AsyncArrowWriter;
use parquet::file::properties::WriterProperties;

use crate::error::Result;
use crate::table::contract::Contract;
use crate::table::store::Location;
use crate::table::write::{HashingWriter, unwritable, writer_properties};

/// Encoded bytes after which a row group of a table without a contract ends.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// So many files this process has set aside: a table may be made twice, and its first file may still be read.
static FILES: AtomicU64 = AtomicU64::new(0);

/// Writes rows into a file of `folder`; returns where it is, `None` without a batch, and how many rows there are.
///
/// # Errors
/// The stream's own; the store's.
pub(super) async fn set_aside(
    folder: &Location,
    name: &str,
    contract: Option<&Contract>,
    mut rows: impl Stream<Item = Result<RecordBatch>> + Unpin,
) -> Result<(Option<Location>, u64)> {
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let at = folder.child(&format!("{name}-{number}.parquet"));
    let mut open: Option<AsyncArrowWriter<HashingWriter>> = None;
    let mut n = 0;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        let writer = match &mut open {
            Some(writer) => writer,
            None => {
                let properties = match contract {
                    Some(contract) => writer_properties(contract, &batch.schema(), None)?,
                    None => WriterProperties::builder().set_max_row_group_bytes(Some(ROW_GROUP_BYTES)).build(),
                };
                let sink = HashingWriter::new(at.clone());
                let writer = AsyncArrowWriter::try_new(sink, batch.schema(), Some(properties));
                open.insert(writer.map_err(|e| unwritable(&e, &at))?)
            }
        };
        writer.write(&batch).await.map_err(|e| unwritable(&e, &at))?;
        n += batch.num_rows() as u64;
    }
    let Some(writer) = open else { return Ok((None, n)) };
    writer.close().await.map_err(|e| unwritable(&e, &at))?;
    Ok((Some(at), n))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    #[tokio::test]
    async fn a_table_that_is_made_twice_has_two_files() {
        let folder = Location::parse("memory://set-aside/run").unwrap();
        let batch = || {
            let ids = Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef;
            RecordBatch::try_from_iter([("id", ids)]).unwrap()
        };
        let rows = |n: usize| futures::stream::iter((0..n).map(|_| Ok(batch())).collect::<Vec<_>>());
        let (first, n) = set_aside(&folder, "t", None, rows(2)).await.unwrap();
        let (second, _) = set_aside(&folder, "t", None, rows(1)).await.unwrap();
        assert_eq!(n, 6);
        assert_ne!(first.unwrap().url(), second.unwrap().url());
        assert_eq!(folder.list().await.unwrap().len(), 2);
        let (none, n) = set_aside(&folder, "t", None, rows(0)).await.unwrap();
        assert!(none.is_none() && n == 0);
        assert_eq!(folder.list().await.unwrap().len(), 2, "nothing is written without rows");
    }
}
