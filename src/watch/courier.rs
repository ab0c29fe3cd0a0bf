//! Delivers what a run tells others, in order and in the background: a place that does not answer neither fails nor slows it.
//!
//! Knows lanes, one for each place, and how long they may take. Knows nothing of what is delivered.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::background::spawn;
use crate::error::{Error, Kind, Result};

/// How long one delivery may take, and how long all that is left may take at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// What takes one thing to its place.
pub type Delivery = BoxFuture<'static, Result<()>>;

/// One lane for each place, opened when the first thing goes there.
#[derive(Default)]
pub struct Courier(Mutex<BTreeMap<&'static str, Lane>>);

struct Lane {
    waiting: UnboundedSender<Delivery>,
    work: JoinHandle<()>,
}

impl Courier {
    /// Takes over a delivery to the place that a setting names; returns at once. What fails is a warning, once for a place.
    pub fn take(&self, setting: &'static str, delivery: Delivery) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry(setting).or_insert_with(|| Lane::open(setting));
        if lane.waiting.send(delivery).is_err() {
            tracing::debug!(setting, "the background task has ended");
        }
    }

    /// Waits until all is delivered, for two seconds at most. What is left then is given up, with a warning.
    pub async fn settle(&self) {
        let lanes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        // Their senders are dropped here, so that each ends when its last thing is delivered.
        let mut left: Vec<(&'static str, JoinHandle<()>)> =
            lanes.into_iter().map(|(setting, lane)| (setting, lane.work)).collect();
        if tokio::time::timeout(PATIENCE, join_all(left.iter_mut().map(|(_, work)| work))).await.is_ok() {
            return;
        }
        for (setting, work) in left.into_iter().filter(|(_, work)| !work.is_finished()) {
            work.abort();
            tracing::warn!(
                setting,
                "not all that this run tells was taken in {} s; the rest is given up",
                PATIENCE.as_secs()
            );
        }
    }
}

impl Lane {
    fn open(setting: &'static str) -> Lane {
        let (waiting, mut deliveries) = unbounded_channel::<Delivery>();
        let work = spawn(async move {
            let mut is_told = false;
            while let Some(delivery) = deliveries.recv().await {
                let slow = || Error::new(Kind::Temporary, format!("no answer within {} s", PATIENCE.as_secs()));
                let done = tokio::time::timeout(PATIENCE, delivery).await.unwrap_or_else(|_| Err(slow()));
                match done {
                    Ok(()) => {}
                    Err(e) if is_told => tracing::debug!(setting, error = %e, "not told again"),
                    Err(e) => {
                        is_told = true;
                        tracing::warn!(setting, error = %e, "what this run tells was not taken; the run goes on");
                    }
                }
            }
        });
        Lane { waiting, work }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    #[tokio::test]
    async fn things_arrive_in_order_and_one_that_fails_keeps_none_back() {
        let (courier, seen) = (Courier::default(), Arc::new(Mutex::new(Vec::new())));
        for n in 0..20 {
            let seen = seen.clone();
            let work = async move {
                tokio::time::sleep(Duration::from_millis(20 - n)).await;
                seen.lock().unwrap().push(n);
                if n % 2 == 0 { Err(Error::new(Kind::Temporary, "no")) } else { Ok(()) }
            };
            courier.take("a", Box::pin(work));
        }
        courier.settle().await;
        assert_eq!(*seen.lock().unwrap(), (0..20).collect::<Vec<u64>>());
    }

    #[tokio::test]
    async fn a_place_that_hangs_holds_up_nobody_for_long() {
        let (courier, came) = (Courier::default(), Arc::new(AtomicUsize::new(0)));
        let began = Instant::now();
        for _ in 0..100 {
            courier.take("hangs", Box::pin(std::future::pending()));
            let came = came.clone();
            courier.take(
                "works",
                Box::pin(async move {
                    _ = came.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                }),
            );
        }
        assert!(began.elapsed() < Duration::from_millis(500), "taking over waits for the place");
        courier.settle().await;
        assert!(began.elapsed() < PATIENCE + Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(came.load(Ordering::SeqCst), 100);
        // Nothing is left to wait for.
        let again = Instant::now();
        courier.settle().await;
        assert!(again.elapsed() < Duration::from_millis(500));
    }
}
