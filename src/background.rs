//! What must go on while SQL keeps every worker of the runtime busy: signals, leases, the time that a stopped run is let
//! finish.
//!
//! Knows a thread of its own; knows nothing of what is kept.

use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// One for the process. Never ended: connections that a lease's renewal has opened are shared with everybody.
static KEEPERS: LazyLock<Option<Runtime>> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).thread_name("keeper").enable_all().build().ok());

/// Starts `work`, which sleeps nearly always, beside the runtime that computes; in that one where no thread is to be had.
pub fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    match &*KEEPERS {
        Some(keepers) => keepers.spawn(work),
        None => tokio::spawn(work),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::spawn;

    #[test]
    fn it_goes_on_while_all_workers_compute() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        runtime.block_on(async {
            let (begun, is_begun) = tokio::sync::oneshot::channel();
            let busy = tokio::spawn(async move {
                begun.send(()).unwrap();
                // A worker that never gives way until it hears from the keeper.
                told.recv_timeout(Duration::from_secs(20))
            });
            is_begun.await.unwrap();
            spawn(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                tell.send(()).unwrap();
            });
            busy.await.unwrap().unwrap();
        });
    }
}
