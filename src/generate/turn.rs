//! Whose model is on a process's device: that of one job at a time.
//!
//! Knows the models of jobs that were sent. An executor serves many jobs, and a device that holds one model has rarely room
//! for another; so work for one job waits until that for the other has ended.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::generate::models::Models;

static HELD: Mutex<Held> = Mutex::new(Held { models: None, users: 0 });
static LEFT: Condvar = Condvar::new();

struct Held {
    /// The job's that is served, or was last.
    models: Option<Arc<Models>>,
    users: usize,
}

impl Held {
    fn are(&self, models: &Arc<Models>) -> bool {
        self.models.as_ref().is_some_and(|held| Arc::ptr_eq(held, models))
    }

    fn stop(&mut self) {
        if let Some(models) = self.models.take() {
            models.stop_engine();
        }
    }
}

fn held() -> MutexGuard<'static, Held> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to have a job's model answer; given back when it is dropped.
#[derive(Debug)]
pub struct Turn(());

impl Turn {
    /// Waits until no other job's model answers, and stops its engine. Blocks.
    pub fn take(models: &Arc<Models>) -> Turn {
        let mut held = held();
        while held.users > 0 && !held.are(models) {
            held = LEFT.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        if !held.are(models) {
            held.stop();
            held.models = Some(Arc::clone(models));
        }
        held.users += 1;
        Turn(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        held().users -= 1;
        LEFT.notify_all();
    }
}

/// Stops the engine where no work needs it: the memory is wanted for something else. Blocks.
pub fn rest() {
    let mut held = held();
    if held.users == 0 {
        held.stop();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::sync::mpsc::{TryRecvError, channel};

    use super::*;
    use crate::config::Job;

    fn models(name: &str) -> Arc<Models> {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");
        let text = format!(
            "name = '{name}'\n[input]\ninteraction = 'a'\nitem = 'b'\n[model]\ngenerator = '{models}/tiny-qwen3'\n\
             encoder = '{models}/tiny-bert'\nmax_positions = 4096\n"
        );
        Models::new(&Job::parse(&text, "job.toml", &[], &BTreeMap::new()).unwrap()).unwrap()
    }

    #[test]
    fn one_job_waits_for_another_and_not_for_itself() {
        let (one, other) = (models("one"), models("other"));
        let turns = [Turn::take(&one), Turn::take(&one)];
        let (sender, receiver) = channel();
        let waiting = std::thread::spawn(move || {
            let _turn = Turn::take(&other);
            sender.send(held().are(&other)).unwrap();
        });
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        drop(turns);
        assert!(receiver.recv().unwrap());
        waiting.join().unwrap();
        rest();
        assert!(held().models.is_none());
    }
}
