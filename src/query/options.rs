//! What a session may use: memory, threads, a folder for rows that do not fit into memory, and where its queries are computed.
//!
//! Knows numbers and names. Knows nothing of tables or SQL.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;

use crate::config::Meanings;
use crate::error::Result;
use crate::query::datafusion_error::fail;
use crate::query::engine::Engine;
use crate::query::memory::runtime_of;

/// What a session may use.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Bytes that queries may hold in memory; operators that can spill do so beyond it.
    pub memory_limit: usize,
    /// Threads, and so partitions of a plan; 0 = as many as the machine has.
    pub threads: usize,
    /// Folder for spilled rows; `None`: the system's temporary folder.
    pub spill_dir: Option<PathBuf>,
    /// Rows per batch.
    pub batch_size: usize,
    /// What events mean, for the function `event_liked`.
    pub events: Meanings,
    /// Where queries are computed.
    pub engine: Engine,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            memory_limit: 1 << 30,
            threads: 0,
            spill_dir: None,
            batch_size: 8192,
            events: Meanings::default(),
            engine: Engine::default(),
        }
    }
}

impl SessionOptions {
    /// Threads, and so partitions of a plan.
    pub(super) fn partitions(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }

    /// The memory pool and the folder for spilled rows.
    ///
    /// # Errors
    /// As [`runtime_of`].
    pub(super) fn runtime(&self) -> Result<Arc<RuntimeEnv>> {
        runtime_of(self.memory_limit, self.spill_dir.as_deref())?
            .build_arc()
            .map_err(|e| fail(e, "cannot open a session"))
    }
}
