//! A cancellation request, shared between the signal handler and the run.
//!
//! Knows one flag and who waits for it. Knows nothing of signals or of the work that is cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::error::{Error, Kind, Result};

/// Cheap to clone; all clones share one request.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<(AtomicBool, Notify)>);

impl CancelToken {
    /// Requests cancellation.
    pub fn request(&self) {
        self.0.0.store(true, Ordering::SeqCst);
        self.0.1.notify_waiters();
    }

    /// Whether cancellation was requested.
    pub fn is_requested(&self) -> bool {
        self.0.0.load(Ordering::SeqCst)
    }

    /// Waits until cancellation is requested.
    pub async fn requested(&self) {
        let notified = self.0.1.notified();
        tokio::pin!(notified);
        // Registered before the flag is read, so that a request in between is not missed.
        notified.as_mut().enable();
        if !self.is_requested() {
            notified.await;
        }
    }

    /// The result of `work`, or an error if cancellation is requested first; `work` is dropped then.
    ///
    /// # Errors
    /// Those of `work`; `Kind::Interrupted`.
    pub async fn or<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.requested() => self.check().and_then(|()| Err(Error::new(Kind::Internal, "no request to stop"))),
        }
    }

    /// An error if cancellation was requested.
    ///
    /// # Errors
    /// `Kind::Interrupted`.
    pub fn check(&self) -> Result<()> {
        if !self.is_requested() {
            return Ok(());
        }
        Err(Error::new(Kind::Interrupted, "stopped by a signal; nothing was published")
            .hint("progress is kept; run the same command again"))
    }
}
