//! Background tasks that must run while SQL keeps every worker of the runtime busy: signal handling, lease renewal, the
//! grace time of a stopped run.
//!
//! Knows one runtime with one thread; knows nothing of the tasks.

use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// One for the process. Never shut down: other tasks share the connections that a lease renewal has opened.
static BACKGROUND: LazyLock<Option<Runtime>> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).thread_name("background").enable_all().build().ok());

/// Spawns `work`, which mostly sleeps, on the background runtime; on the current one if no thread could be started.
pub fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    match &*BACKGROUND {
        Some(runtime) => runtime.spawn(work),
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
        let (sender, receiver) = std::sync::mpsc::channel();
        runtime.block_on(async {
            let (begun, is_begun) = tokio::sync::oneshot::channel();
            let busy = tokio::spawn(async move {
                begun.send(()).unwrap();
                // Blocks the only worker until the background task sends.
                receiver.recv_timeout(Duration::from_secs(20))
            });
            is_begun.await.unwrap();
            spawn(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                sender.send(()).unwrap();
            });
            busy.await.unwrap().unwrap();
        });
    }
}
