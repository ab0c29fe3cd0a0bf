//! The device thread: it owns a decoder and its batcher, and answers rows that arrive over a bounded channel.
//!
//! Each answer is sent as soon as its row finishes. The thread loads the model itself, once, when the first rows
//! arrive, so Burn never runs on a tokio worker. A row fails alone; a panic in the device's code fails everything in
//! flight and every later request. No request hangs. Knows threads and channels. Knows nothing of model files, prompts
//! or SQL.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::error::{Context, Error, Kind, Result};
use crate::generate::batcher::{Batcher, BatcherOptions};
use crate::generate::row::{Answer, Completion, Detokenize, Request, RowError};
use crate::llm::decoder::Decoder;
use crate::llm::device::{self, is_out_of_memory, panic_text};

/// How an engine uses its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Rows in flight at once.
    pub slots: usize,
    /// Tokens per pass through the model, over all rows.
    pub max_step_tokens: usize,
    /// Maximum tokens of prompt and answer in a row; the model's own limit applies as well.
    pub max_positions: usize,
    /// CPU threads; 0 uses the size of rayon's shared pool.
    pub threads: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { slots: 32, max_step_tokens: 512, max_positions: 1024, threads: 0 }
    }
}

/// Counters of an engine.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EngineUsage {
    /// Prompt tokens of the rows that were started.
    pub prompt_tokens: u64,
    /// How many of them were copied from another row instead of prefilled.
    pub cached_tokens: u64,
    /// Tokens generated or scored.
    pub completion_tokens: u64,
    /// Rows answered with a completion.
    pub rows_done: u64,
    /// Rows answered with an error.
    pub rows_failed: u64,
    /// Passes through the model.
    pub steps: u64,
    /// Seconds spent loading and running the model.
    pub busy_seconds: f64,
}

/// The answers of one submission; the stream ends when every row is answered. Dropping it cancels the unanswered rows.
pub type Answers = mpsc::UnboundedReceiver<Answer>;

/// Submissions that may wait in the channel.
const CHANNEL_DEPTH: usize = 8;

/// Creates the decoder with the given number of slots, on the engine's thread.
pub(super) type Load = Box<dyn FnMut(usize) -> Result<Box<dyn Decoder>> + Send>;

enum Message {
    Rows(Vec<Request>, mpsc::UnboundedSender<Answer>),
    Load(oneshot::Sender<Result<()>>),
}

/// Handle of the device thread.
pub(super) struct Worker {
    /// `None` only during drop.
    sender: Option<mpsc::Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// State shared by both sides of the channel.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Why the engine no longer accepts rows.
    broken: OnceLock<(Kind, String)>,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    rows_done: AtomicU64,
    rows_failed: AtomicU64,
    steps: AtomicU64,
    busy_micros: AtomicU64,
}

impl Shared {
    fn usage(&self) -> EngineUsage {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EngineUsage {
            prompt_tokens: read(&self.prompt_tokens),
            cached_tokens: read(&self.cached_tokens),
            completion_tokens: read(&self.completion_tokens),
            rows_done: read(&self.rows_done),
            rows_failed: read(&self.rows_failed),
            steps: read(&self.steps),
            busy_seconds: read(&self.busy_micros) as f64 / 1e6,
        }
    }

    fn busy(&self, time: Duration) {
        self.busy_micros.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn check(&self) -> Result<()> {
        match self.broken.get() {
            Some((kind, why)) => Err(Error::new(*kind, format!("the engine has stopped: {why}"))),
            None => Ok(()),
        }
    }
}

impl Worker {
    pub(super) fn spawn(
        load: Load,
        text: Arc<dyn Detokenize>,
        eos_ids: Vec<u32>,
        options: &EngineOptions,
    ) -> Result<Worker> {
        let (sender, receiver) = mpsc::channel(CHANNEL_DEPTH);
        let shared = Arc::new(Shared::default());
        let batcher = BatcherOptions { max_step_tokens: options.max_step_tokens, eos_ids };
        let device_thread = DeviceThread {
            receiver,
            shared: shared.clone(),
            text,
            options: batcher,
            // A step holds at least one token of every row, so more slots than that would never be used.
            slots: options.slots.clamp(1, options.max_step_tokens.max(1)),
            load: Some(load),
            running: None,
            submissions: BTreeMap::new(),
            rows: BTreeMap::new(),
            next: 0,
        };
        // The loop runs on a thread of this pool, so that the kernels' parallel loops start without switching threads.
        let threads = if options.threads == 0 { rayon::current_num_threads() } else { options.threads };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("curec-cpu-{i}"))
            .build()
            .context(Kind::Temporary, || format!("cannot start {threads} threads for the model"))?;
        let thread = std::thread::Builder::new()
            .name("curec-device".to_owned())
            .spawn(move || pool.install(|| device_thread.run()))
            .context(Kind::Temporary, || "cannot start the device's thread".to_owned())?;
        Ok(Worker { sender: Some(sender), thread: Some(thread), shared })
    }

    pub(super) fn load_blocking(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.channel()?.blocking_send(Message::Load(reply)).map_err(|_| self.gone())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(self.gone()))
    }

    pub(super) fn submit_blocking(&self, requests: Vec<Request>) -> Result<Answers> {
        self.shared.check()?;
        let (sender, answers) = mpsc::unbounded_channel();
        self.channel()?.blocking_send(Message::Rows(requests, sender)).map_err(|_| self.gone())?;
        Ok(answers)
    }

    pub(super) async fn submit(&self, requests: Vec<Request>) -> Result<Answers> {
        self.shared.check()?;
        let (sender, answers) = mpsc::unbounded_channel();
        self.channel()?.send(Message::Rows(requests, sender)).await.map_err(|_| self.gone())?;
        Ok(answers)
    }

    /// The counters so far.
    pub(super) fn usage(&self) -> EngineUsage {
        self.shared.usage()
    }

    fn channel(&self) -> Result<&mpsc::Sender<Message>> {
        self.sender.as_ref().ok_or_else(|| self.gone())
    }

    /// The error that explains why the thread does not answer.
    fn gone(&self) -> Error {
        match self.shared.check() {
            Err(error) => error,
            Ok(()) => Error::new(Kind::Internal, "the device's thread has ended"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the device's thread ended in a panic");
        }
    }
}

/// Where a submission's answers go.
struct Submission {
    answers: mpsc::UnboundedSender<Answer>,
    open: usize,
}

/// A loaded model and its rows.
struct Running {
    decoder: Box<dyn Decoder>,
    batcher: Batcher,
}

/// State of the device thread.
struct DeviceThread {
    receiver: mpsc::Receiver<Message>,
    shared: Arc<Shared>,
    text: Arc<dyn Detokenize>,
    options: BatcherOptions,
    slots: usize,
    load: Option<Load>,
    running: Option<Running>,
    submissions: BTreeMap<u64, Submission>,
    /// Internal id of a row in flight -> its submission and the caller's id. Callers choose their ids independently of
    /// each other, so the batcher uses internal ones.
    rows: BTreeMap<u64, (u64, u64)>,
    next: u64,
}

impl DeviceThread {
    fn run(mut self) {
        loop {
            if self.shared.stop.load(Ordering::Relaxed) {
                self.stop();
                return;
            }
            if !self.receive() {
                return;
            }
            self.cancel_abandoned();
            self.step();
        }
    }

    /// Answers everything with [`RowError::Cancelled`], including what is still in the channel.
    fn stop(&mut self) {
        self.fail_everything(&RowError::Cancelled);
        self.receiver.close();
        while let Ok(message) = self.receiver.try_recv() {
            if let Message::Rows(requests, answers) = message {
                for request in requests {
                    // A dropped receiver needs no answer.
                    let _ = answers.send((request.id, Err(RowError::Cancelled)));
                }
            }
        }
    }

    /// Receives messages: waits for one if there is nothing else to do, and leaves them in the channel while many rows
    /// are queued (back pressure). Returns `false` if the channel is closed and nothing is left to do.
    fn receive(&mut self) -> bool {
        loop {
            let message = match &self.running {
                Some(running) if !running.batcher.is_idle() => {
                    let enough = (4 * running.batcher.slots_in_use()).max(256);
                    if running.batcher.waiting() >= enough {
                        return true;
                    }
                    match self.receiver.try_recv() {
                        Ok(message) => message,
                        Err(_) => return true,
                    }
                }
                _ => match self.receiver.blocking_recv() {
                    Some(message) => message,
                    None => return false,
                },
            };
            match message {
                Message::Load(reply) => {
                    // The caller no longer waits for the reply.
                    let _ = reply.send(self.ensure_loaded());
                }
                Message::Rows(requests, answers) => self.accept(requests, answers),
            }
            if self.shared.stop.load(Ordering::Relaxed) {
                return true;
            }
        }
    }

    fn ensure_loaded(&mut self) -> Result<()> {
        self.shared.check()?;
        if self.running.is_some() {
            return Ok(());
        }
        let Some(mut load) = self.load.take() else {
            return Err(Error::new(Kind::Internal, "the model was given up"));
        };
        let began = Instant::now();
        let loaded = loop {
            let slots = self.slots;
            let loaded = catch_unwind(AssertUnwindSafe(|| load(slots))).unwrap_or_else(|panic| {
                Err(device::failed("loading the model", &panic_text(panic.as_ref()), Kind::Model))
            });
            match &loaded {
                Err(error) if slots > 1 && is_out_of_memory(&error.explain()) => {
                    self.slots = slots / 2;
                    tracing::warn!(slots = self.slots, "the device is out of memory; loading with fewer slots");
                }
                _ => break loaded,
            }
        };
        self.shared.busy(began.elapsed());
        match loaded {
            Ok(decoder) => {
                tracing::debug!(seconds = began.elapsed().as_secs_f64(), "the model is loaded");
                let batcher = Batcher::new(decoder.as_ref(), self.options.clone());
                self.running = Some(Running { decoder, batcher });
                Ok(())
            }
            Err(error) => {
                self.give_up(error.kind(), &error.to_string());
                Err(error)
            }
        }
    }

    fn accept(&mut self, mut requests: Vec<Request>, answers: mpsc::UnboundedSender<Answer>) {
        if requests.is_empty() {
            return;
        }
        self.next += 1;
        let submission = self.next;
        self.submissions.insert(submission, Submission { answers, open: requests.len() });
        for request in &mut requests {
            self.next += 1;
            self.rows.insert(self.next, (submission, request.id));
            request.id = self.next;
        }
        if let Err(error) = self.ensure_loaded() {
            self.fail_everything(&RowError::Device(error.to_string()));
        } else if let Some(running) = &mut self.running {
            running.batcher.push(requests);
            self.deliver();
        }
    }

    /// Cancels the rows whose receivers were dropped.
    fn cancel_abandoned(&mut self) {
        let gone: BTreeSet<u64> =
            self.submissions.iter().filter(|(_, s)| s.answers.is_closed()).map(|(&number, _)| number).collect();
        if gone.is_empty() {
            return;
        }
        if let Some(running) = &mut self.running {
            let rows = &self.rows;
            running.batcher.cancel(|id| rows.get(&id).is_some_and(|(submission, _)| gone.contains(submission)));
        }
        self.deliver();
    }

    fn step(&mut self) {
        let Some(Running { decoder, batcher }) = &mut self.running else { return };
        if batcher.is_idle() {
            return;
        }
        let began = Instant::now();
        let text = self.text.as_ref();
        let result = catch_unwind(AssertUnwindSafe(|| batcher.step(decoder.as_mut(), text)));
        self.shared.busy(began.elapsed());
        let (why, panicked) = match result {
            Ok(Ok(())) => return self.deliver(),
            Ok(Err(error)) => (error.explain(), false),
            Err(panic) => (panic_text(panic.as_ref()), true),
        };
        if is_out_of_memory(&why) && batcher.shrink() {
            tracing::warn!(slots = batcher.slots_in_use(), "the device is out of memory; going on with fewer slots");
        } else if panicked || device::is_fault(&why) {
            // A lost device stays lost for this process, and one that is out of memory with one slot stays so.
            let kind = if device::is_fault(&why) { Kind::Temporary } else { Kind::Internal };
            self.give_up(kind, &format!("the device failed: {why}"));
            self.fail_everything(&RowError::Device(why));
        } else {
            tracing::warn!(error = why, "a step failed");
            if batcher.fail_step(&why) == 0 {
                batcher.fail_all(&RowError::Device(why));
            }
            self.deliver();
        }
    }

    /// Accepts no more rows and frees the model.
    fn give_up(&mut self, kind: Kind, why: &str) {
        tracing::error!(error = why, "the engine gives up");
        // The first cause is kept.
        let _ = self.shared.broken.set((kind, why.to_owned()));
        self.deliver();
        if let Some(running) = self.running.take()
            && catch_unwind(AssertUnwindSafe(|| drop(running))).is_err()
        {
            tracing::debug!("dropping the model panicked as well");
        }
    }

    /// Sends the batcher's answers to their receivers and publishes its counters.
    fn deliver(&mut self) {
        let Some(running) = &mut self.running else { return };
        let answers = running.batcher.drain();
        let usage = running.batcher.usage();
        let shared = &self.shared;
        shared.prompt_tokens.store(usage.prompt_tokens, Ordering::Relaxed);
        shared.cached_tokens.store(usage.cached_tokens, Ordering::Relaxed);
        shared.completion_tokens.store(usage.completion_tokens, Ordering::Relaxed);
        shared.rows_done.store(usage.rows_done, Ordering::Relaxed);
        shared.rows_failed.store(usage.rows_failed, Ordering::Relaxed);
        shared.steps.store(usage.steps, Ordering::Relaxed);
        for (row, answer) in answers {
            self.send(row, answer);
        }
    }

    fn send(&mut self, row: u64, mut answer: Result<Completion, RowError>) {
        let Some((number, id)) = self.rows.remove(&row) else { return };
        let Some(submission) = self.submissions.get_mut(&number) else { return };
        if let Ok(completion) = &mut answer {
            completion.id = id;
        }
        // Dropping the receiver has cancelled the row.
        let _ = submission.answers.send((id, answer));
        submission.open -= 1;
        if submission.open == 0 {
            self.submissions.remove(&number);
        }
    }

    /// Answers every unanswered row with `error`, whatever state the batcher is in.
    fn fail_everything(&mut self, error: &RowError) {
        self.deliver();
        let rows: Vec<u64> = self.rows.keys().copied().collect();
        self.shared.rows_failed.fetch_add(rows.len() as u64, Ordering::Relaxed);
        for row in rows {
            self.send(row, Err(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
