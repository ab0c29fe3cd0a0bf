//! The wish to stop, shared between the signal handler and the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::error::{Error, Kind, Result};

/// Cheap to clone; all clones are one wish.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<(AtomicBool, Notify)>);

impl CancelToken {
    /// Asks the run to stop.
    pub fn request(&self) {
        self.0.0.store(true, Ordering::SeqCst);
        self.0.1.notify_waiters();
    }

    /// Whether it was asked.
    pub fn is_requested(&self) -> bool {
        self.0.0.load(Ordering::SeqCst)
    }

    /// Waits until it is asked.
    pub async fn requested(&self) {
        let notified = self.0.1.notified();
        tokio::pin!(notified);
        // Registered before the flag is read, so that a request in between is not missed.
        notified.as_mut().enable();
        if !self.is_requested() {
            notified.await;
        }
    }

    /// What the work gives, or an error where it is asked while the work goes on, which is given up then.
    ///
    /// # Errors
    /// The work's; `Kind::Interrupted`.
    pub async fn or<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.requested() => self.check().and_then(|()| Err(Error::new(Kind::Internal, "stopped by nobody"))),
        }
    }

    /// An error where it was asked.
    pub fn check(&self) -> Result<()> {
        if !self.is_requested() {
            return Ok(());
        }
        Err(Error::new(Kind::Interrupted, "stopped by a signal; nothing was published")
            .hint("progress is kept; run the same command again"))
    }
}
