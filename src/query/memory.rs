//! The memory of a session, and the folder for rows that do not fit into it.
//!
//! Knows DataFusion's memory pools and disk manager. Knows nothing of tables or SQL.

use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, TrackConsumersPool,
};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;

use crate::config::temporary_folder;
use crate::error::{Error, Kind, Result};
use crate::scratch::Scratch;

/// Memory of so many bytes, and the folder for spilled rows: `spill_dir`, or the system's temporary folder.
///
/// # Errors
/// `Kind::Config` when the spill folder cannot be used; `Kind::Temporary` when it could not be created this time.
pub(super) fn runtime_of(memory_limit: usize, spill_dir: Option<&Path>) -> Result<RuntimeEnvBuilder> {
    let top = NonZeroUsize::MIN.saturating_add(4);
    let pool = TrackConsumersPool::new(FairSpillPool::new(memory_limit), top);
    let scratch = match spill_dir {
        Some(folder) => Some(Scratch::within(folder).map_err(|e| {
            let is_final = matches!(
                e.kind(),
                ErrorKind::PermissionDenied
                    | ErrorKind::ReadOnlyFilesystem
                    | ErrorKind::NotADirectory
                    | ErrorKind::AlreadyExists
            );
            let kind = if is_final { Kind::Config } else { Kind::Temporary };
            Error::new(kind, "cannot create the folder for spilled rows").with("folder", folder.display()).source(e)
        })?),
        None => Scratch::within(&temporary_folder())
            .inspect_err(|e| tracing::debug!(error = %e, "no temporary folder: what does not fit in memory fails"))
            .ok(),
    };
    let mode = match &scratch {
        Some(scratch) => DiskManagerMode::Directories(vec![scratch.path().to_path_buf()]),
        None => DiskManagerMode::Disabled,
    };
    Ok(RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(Pool { pool, _scratch: scratch }))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(mode)))
}

/// A memory pool that keeps the folder for spilled rows alive as long as anything may spill.
#[derive(Debug)]
struct Pool {
    pool: TrackConsumersPool<FairSpillPool>,
    _scratch: Option<Arc<Scratch>>,
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.pool.fmt(f)
    }
}

impl MemoryPool for Pool {
    fn name(&self) -> &str {
        self.pool.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.pool.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.pool.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.pool.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.pool.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> datafusion::error::Result<()> {
        self.pool.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.pool.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.pool.memory_limit()
    }
}
