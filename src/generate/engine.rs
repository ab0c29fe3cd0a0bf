//! One engine per device: an OS thread that owns the decoder, and the tokenizer and chat template that belong to it.
//!
//! Requests come in over a bounded channel, answers go back row by row as rows finish. The model is loaded by the
//! thread itself, once, when the first rows arrive; nothing of Burn ever runs on a tokio worker. Rows fail alone, a
//! panic in the device's code fails everything in flight and every later request, and nothing ever hangs.
//! Knows threads and channels. Knows nothing of SQL or prompts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::error::{Context, Error, Kind, Result};
use crate::generate::batcher::{Answer, Batcher, BatcherOptions, Completion, Detokenize, Request, RowError};
use crate::llm::adapter::Adapter;
use crate::llm::chat::ChatTemplate;
use crate::llm::decoder::{CausalLm, Decoder};
use crate::llm::device::{self, is_out_of_memory, panic_text};
use crate::llm::tokenizer::Tokenizer;
use crate::llm::weights::ModelFiles;

/// How an engine uses its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Rows in flight at once.
    pub slots: usize,
    /// Tokens per pass through the model, over all rows.
    pub max_step_tokens: usize,
    /// Tokens of prompt and answer that a row may have; the model's own limit holds as well.
    pub max_positions: usize,
    /// CPU threads; 0 takes as many as rayon's shared pool has.
    pub threads: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { slots: 32, max_step_tokens: 512, max_positions: 1024, threads: 0 }
    }
}

/// What an engine has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EngineUsage {
    /// Prompt tokens of the rows that were started.
    pub prompt_tokens: u64,
    /// Those of them that were copied from another row instead of prefilled.
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

/// The answers of one submission; ends when every row is answered. Dropping it cancels the rows that are not.
pub type Answers = mpsc::UnboundedReceiver<Answer>;

/// A model on a device, ready to generate and to score.
pub struct Engine {
    worker: Worker,
    tokenizer: Arc<Tokenizer>,
    model: Model,
    chat_template: Option<ChatTemplate>,
    device: String,
}

/// Where an engine's model comes from.
enum Model {
    Files(Arc<ModelFiles>),
    Parts { digest: String },
}

impl Engine {
    /// An engine for the model at `model_path` (a GGUF file or a Hugging Face directory) on `device` (`auto`, `cpu`,
    /// `wgpu`, `cuda:0` ...), with the adapter in the folder `adapter`, where there is one. Reads headers and the tokenizer only;
    /// the weights are loaded by [`Engine::load_blocking`] or with the first rows.
    ///
    /// # Errors
    /// `Kind::Model` where the files or the tokenizer are missing, broken or not supported.
    pub fn start(model_path: &Path, adapter: Option<&Path>, device: &str, options: EngineOptions) -> Result<Engine> {
        let files = Arc::new(ModelFiles::open(model_path)?);
        let tokenizer = Arc::new(files.tokenizer()?);
        let chat_template = files.chat_template().ok();
        let positions = options.max_positions.min(files.config().max_positions).max(1);
        let eos_ids = files.config().eos_ids.clone();
        let load: Load = {
            let (files, device) = (files.clone(), device.to_owned());
            let adapter = adapter.map(Path::to_owned);
            Box::new(move |slots| {
                let device = device::open(&device)?;
                let adapter = adapter.as_deref().map(|dir| Adapter::read(dir, files.config())).transpose()?;
                tracing::debug!(device = device.name, slots, positions, "loading the model");
                Ok(Box::new(CausalLm::load(&files, adapter.as_ref(), &device, slots, positions)?) as Box<dyn Decoder>)
            })
        };
        let worker = Worker::spawn(load, tokenizer.clone(), eos_ids, &options)?;
        Ok(Engine { worker, tokenizer, model: Model::Files(files), chat_template, device: device.to_owned() })
    }

    /// An engine around a decoder that exists already; `digest` stands for the model in fingerprints.
    ///
    /// # Errors
    /// `Kind::Temporary` where no thread can be started.
    pub fn from_parts(
        decoder: Box<dyn Decoder>,
        tokenizer: Tokenizer,
        chat_template: Option<ChatTemplate>,
        digest: String,
        eos_ids: Vec<u32>,
        options: EngineOptions,
    ) -> Result<Engine> {
        let tokenizer = Arc::new(tokenizer);
        let mut decoder = Some(decoder);
        let load: Load =
            Box::new(move |_| decoder.take().ok_or_else(|| Error::new(Kind::Internal, "the decoder was given up")));
        let worker = Worker::spawn(load, tokenizer.clone(), eos_ids, &options)?;
        let device = "given".to_owned();
        Ok(Engine { worker, tokenizer, model: Model::Parts { digest }, chat_template, device })
    }

    /// Loads the model now. Blocks until it is loaded: not for a tokio worker.
    ///
    /// # Errors
    /// What kept the device from opening or the model from loading.
    pub fn load_blocking(&self) -> Result<()> {
        self.worker.load_blocking()
    }

    /// Hands rows in. Their answers arrive as they finish, in any order, every id as often as it was given. Blocks
    /// while the engine has enough rows: not for a tokio worker.
    ///
    /// # Errors
    /// Where the model could not be loaded, or the device's code has panicked before.
    pub fn submit_blocking(&self, requests: Vec<Request>) -> Result<Answers> {
        self.worker.submit_blocking(requests)
    }

    /// As [`Engine::submit_blocking`], for tokio workers: waits without blocking.
    ///
    /// # Errors
    /// As [`Engine::submit_blocking`].
    pub async fn submit(&self, requests: Vec<Request>) -> Result<Answers> {
        self.worker.submit(requests).await
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The model's chat template.
    ///
    /// # Errors
    /// `Kind::Model` where the model has none or it does not parse.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        if let Some(template) = &self.chat_template {
            return Ok(template);
        }
        if let Model::Files(files) = &self.model {
            files.chat_template()?;
        }
        Err(Error::new(Kind::Model, "the model has no chat template"))
    }

    /// BLAKE3 over every file of the model, 32 hex digits; computed when first asked for.
    ///
    /// # Errors
    /// `Kind::Model` where a file cannot be read.
    pub fn digest(&self) -> Result<String> {
        match &self.model {
            Model::Files(files) => files.digest(),
            Model::Parts { digest } => Ok(digest.clone()),
        }
    }

    /// The device as the job names it.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What was done so far; may be read at any time, for progress and telemetry.
    pub fn usage(&self) -> EngineUsage {
        self.worker.shared.usage()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("device", &self.device).field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl Detokenize for Tokenizer {
    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode(ids, true)
    }
}

/// Submissions that may wait in the channel.
const CHANNEL_DEPTH: usize = 8;

/// Makes the decoder with so many slots, on the engine's thread.
type Load = Box<dyn FnMut(usize) -> Result<Box<dyn Decoder>> + Send>;

enum Message {
    Rows(Vec<Request>, mpsc::UnboundedSender<Answer>),
    Load(oneshot::Sender<Result<()>>),
}

/// The device's thread as seen from outside.
struct Worker {
    /// `None` only while it is dropped.
    sender: Option<mpsc::Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// What both sides of the channel see.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Why the engine takes no rows any more.
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
    fn spawn(load: Load, text: Arc<dyn Detokenize>, eos_ids: Vec<u32>, options: &EngineOptions) -> Result<Worker> {
        let (sender, receiver) = mpsc::channel(CHANNEL_DEPTH);
        let shared = Arc::new(Shared::default());
        let batcher = BatcherOptions { max_step_tokens: options.max_step_tokens, eos_ids };
        let device_thread = DeviceThread {
            receiver,
            shared: shared.clone(),
            text,
            options: batcher,
            // A step holds at least a token of every row, so more slots than that would never be used.
            slots: options.slots.clamp(1, options.max_step_tokens.max(1)),
            load: Some(load),
            running: None,
            submissions: BTreeMap::new(),
            rows: BTreeMap::new(),
            next: 0,
        };
        // The loop runs on a thread of this pool, so that the kernels' parallel loops start without a hand-over.
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

    fn load_blocking(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.channel()?.blocking_send(Message::Load(reply)).map_err(|_| self.gone())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(self.gone()))
    }

    fn submit_blocking(&self, requests: Vec<Request>) -> Result<Answers> {
        self.shared.check()?;
        let (sender, answers) = mpsc::unbounded_channel();
        self.channel()?.blocking_send(Message::Rows(requests, sender)).map_err(|_| self.gone())?;
        Ok(answers)
    }

    async fn submit(&self, requests: Vec<Request>) -> Result<Answers> {
        self.shared.check()?;
        let (sender, answers) = mpsc::unbounded_channel();
        self.channel()?.send(Message::Rows(requests, sender)).await.map_err(|_| self.gone())?;
        Ok(answers)
    }

    fn channel(&self) -> Result<&mpsc::Sender<Message>> {
        self.sender.as_ref().ok_or_else(|| self.gone())
    }

    /// Why the thread does not answer.
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

/// The device's thread from within.
struct DeviceThread {
    receiver: mpsc::Receiver<Message>,
    shared: Arc<Shared>,
    text: Arc<dyn Detokenize>,
    options: BatcherOptions,
    slots: usize,
    load: Option<Load>,
    running: Option<Running>,
    submissions: BTreeMap<u64, Submission>,
    /// Our number of a row in flight -> its submission and the caller's number. Callers choose their numbers
    /// independently of each other, so the batcher sees ours.
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

    /// Answers everything with [`RowError::Cancelled`], what still lies in the channel as well.
    fn stop(&mut self) {
        self.fail_everything(&RowError::Cancelled);
        self.receiver.close();
        while let Ok(message) = self.receiver.try_recv() {
            if let Message::Rows(requests, answers) = message {
                for request in requests {
                    // A receiver that is gone does not want to know.
                    let _ = answers.send((request.id, Err(RowError::Cancelled)));
                }
            }
        }
    }

    /// Takes messages in: waits for one where there is nothing else to do, and leaves them in the channel while many
    /// rows wait, so that callers wait too. `false` where none will come any more and nothing is left to do.
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
                    // Nobody waits for the reply any more: then nobody needs it.
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

    /// Cancels the rows whose receivers are gone.
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
            // A device that is lost stays lost for this process, and one that is full with one slot stays full.
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

    /// Takes no rows any more and lets go of the model.
    fn give_up(&mut self, kind: Kind, why: &str) {
        tracing::error!(error = why, "the engine gives up");
        // The first reason stays.
        let _ = self.shared.broken.set((kind, why.to_owned()));
        self.deliver();
        if let Some(running) = self.running.take()
            && catch_unwind(AssertUnwindSafe(|| drop(running))).is_err()
        {
            tracing::debug!("dropping the model panicked as well");
        }
    }

    /// Sends the batcher's answers to those who wait for them, and publishes its counters.
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
        // A receiver that is gone has cancelled the row.
        let _ = submission.answers.send((id, answer));
        submission.open -= 1;
        if submission.open == 0 {
            self.submissions.remove(&number);
        }
    }

    /// Answers every row that has none yet with `error`, whatever state the batcher is in.
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
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::generate::batcher::mock::{EOS, MockDecoder, MockText, reference, request};

    const POSITIONS: usize = 64;

    fn worker(decoder: MockDecoder) -> Worker {
        let mut decoder = Some(decoder);
        spawn(
            Box::new(move |_| Ok(Box::new(decoder.take().unwrap()))),
            EngineOptions { max_step_tokens: 16, ..EngineOptions::default() },
        )
    }

    fn spawn(load: Load, options: EngineOptions) -> Worker {
        Worker::spawn(load, Arc::new(MockText), vec![EOS], &options).unwrap()
    }

    fn rows(ids: std::ops::Range<u64>) -> Vec<Request> {
        ids.map(|id| request(id, &[id as u32 % 40 + 1, 2, 3], 6)).collect()
    }

    async fn all(mut answers: Answers) -> BTreeMap<u64, String> {
        let mut map = BTreeMap::new();
        let wait = async {
            while let Some((id, answer)) = answers.recv().await {
                assert!(map.insert(id, format!("{answer:?}")).is_none(), "{id} was answered twice");
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the engine hangs");
        map
    }

    fn expected(requests: &[Request]) -> BTreeMap<u64, String> {
        requests.iter().map(|request| (request.id, format!("{:?}", reference(request, POSITIONS)))).collect()
    }

    #[tokio::test]
    async fn submissions_with_the_same_ids_get_their_own_answers() {
        let worker = worker(MockDecoder::new(4, POSITIONS));
        let (mut first, mut second) = (rows(0..10), rows(0..10));
        first.iter_mut().for_each(|request| request.prompt.push(7));
        second.iter_mut().for_each(|request| request.prompt.push(9));
        let a = worker.submit(first.clone()).await.unwrap();
        let b = worker.submit(second.clone()).await.unwrap();
        let c = worker.submit(Vec::new()).await.unwrap();
        assert_eq!(all(a).await, expected(&first));
        assert_eq!(all(b).await, expected(&second));
        assert!(all(c).await.is_empty());
        let usage = worker.shared.usage();
        assert_eq!(usage.rows_done + usage.rows_failed, 20);
        assert_eq!(usage.prompt_tokens, 80);
        assert!(usage.steps > 0 && usage.busy_seconds > 0.0);
    }

    #[tokio::test]
    async fn threads_of_its_own_change_nothing() {
        let options = EngineOptions { threads: 2, max_step_tokens: 8, ..EngineOptions::default() };
        let worker = spawn(Box::new(|_| Ok(Box::new(MockDecoder::new(4, POSITIONS)))), options);
        let answers = worker.submit(rows(0..20)).await.unwrap();
        assert_eq!(all(answers).await, expected(&rows(0..20)));
    }

    #[tokio::test]
    async fn the_model_is_loaded_once_and_only_when_needed() {
        let loads = Arc::new(AtomicU64::new(0));
        let counted = loads.clone();
        let load: Load = Box::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(MockDecoder::new(4, POSITIONS)))
        });
        let worker = spawn(load, EngineOptions::default());
        assert_eq!(loads.load(Ordering::Relaxed), 0);
        let worker = Arc::new(worker);
        for _ in 0..2 {
            let worker = worker.clone();
            tokio::task::spawn_blocking(move || worker.load_blocking()).await.unwrap().unwrap();
        }
        all(worker.submit(rows(0..3)).await.unwrap()).await;
        assert_eq!(loads.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_model_that_does_not_load_fails_its_rows_and_later_submissions() {
        let load: Load = Box::new(|_| Err(Error::new(Kind::Model, "the file is truncated").with("file", "m.gguf")));
        let worker = spawn(load, EngineOptions::default());
        let answers = all(worker.submit(rows(0..3)).await.unwrap()).await;
        assert_eq!(answers.len(), 3);
        assert!(answers.values().all(|answer| answer.contains("Device(") && answer.contains("m.gguf")));
        let error = worker.submit(rows(0..1)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Model);
        assert!(error.to_string().contains("the file is truncated"));
        let error = tokio::task::spawn_blocking(move || worker.load_blocking()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::Model);
    }

    #[tokio::test]
    async fn a_panic_fails_what_is_in_flight_and_what_comes_later() {
        let mut decoder = MockDecoder::new(4, POSITIONS);
        decoder.before = Box::new(|step, _| if step == 3 { panic!("a shader did not compile") } else { Ok(()) });
        let worker = worker(decoder);
        let answers = all(worker.submit(rows(0..30)).await.unwrap()).await;
        assert_eq!(answers.len(), 30);
        let hit = answers.values().filter(|answer| answer.contains("a shader did not compile")).count();
        assert!(hit >= 20, "{hit}");
        let error = worker.submit(rows(0..1)).await.unwrap_err();
        assert!(error.to_string().contains("a shader did not compile"), "{error}");
        assert_eq!(error.kind(), Kind::Internal);
        drop(worker);
    }

    #[tokio::test]
    async fn a_device_that_is_lost_is_nothing_that_a_rerun_must_meet() {
        for panics in [false, true] {
            let mut decoder = MockDecoder::new(4, POSITIONS);
            decoder.before = Box::new(move |step, _| match step {
                3 if panics => panic!("wgpu error: Parent device is lost"),
                3 => Err(Error::new(Kind::Internal, "the logits cannot be read").source("DeviceLost")),
                _ => Ok(()),
            });
            let worker = worker(decoder);
            let answers = all(worker.submit(rows(0..30)).await.unwrap()).await;
            assert_eq!(answers.len(), 30);
            assert_eq!(worker.submit(rows(0..1)).await.unwrap_err().kind(), Kind::Temporary);
        }
        let worker = spawn(Box::new(|_| panic!("CUDA_ERROR_DEVICE_UNAVAILABLE")), EngineOptions::default());
        let error = tokio::task::spawn_blocking(move || worker.load_blocking()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::Temporary, "{error}");
    }

    #[test]
    fn a_model_that_does_not_fit_is_loaded_with_fewer_slots() {
        for panics in [false, true] {
            let load: Load = Box::new(move |slots| match slots {
                0..=4 => Ok(Box::new(MockDecoder::new(slots, POSITIONS))),
                _ if panics => panic!("out of memory"),
                _ => Err(Error::new(Kind::Temporary, "the cache does not fit").source("out of memory")),
            });
            let worker = spawn(load, EngineOptions { slots: 16, ..EngineOptions::default() });
            worker.load_blocking().unwrap();
        }
        let load: Load = Box::new(|_| Err(Error::new(Kind::Temporary, "out of memory")));
        assert!(spawn(load, EngineOptions::default()).load_blocking().is_err());
    }

    #[test]
    fn a_panic_while_loading_is_an_error() {
        let worker = spawn(Box::new(|_| panic!("no adapter")), EngineOptions::default());
        let error = worker.load_blocking().unwrap_err();
        assert!(error.to_string().contains("no adapter"));
        assert!(worker.submit_blocking(rows(0..1)).is_err());
    }

    #[tokio::test]
    async fn a_device_out_of_memory_goes_on_with_half_the_slots() {
        for panics in [false, true] {
            let mut decoder = MockDecoder::new(8, POSITIONS);
            decoder.before = Box::new(move |_, rows| match rows {
                0..=2 => Ok(()),
                _ if panics => panic!("wgpu: Out of Memory"),
                _ => Err(Error::new(Kind::Temporary, "the step failed").source("CUDA_ERROR_OUT_OF_MEMORY")),
            });
            let worker = worker(decoder);
            let answers = all(worker.submit(rows(0..20)).await.unwrap()).await;
            assert_eq!(answers, expected(&rows(0..20)));
        }
    }

    #[tokio::test]
    async fn memory_that_never_suffices_fails_the_rows() {
        let mut decoder = MockDecoder::new(4, POSITIONS);
        decoder.before = Box::new(|_, _| Err(Error::new(Kind::Temporary, "out of memory")));
        let worker = worker(decoder);
        let answers = all(worker.submit(rows(0..5)).await.unwrap()).await;
        assert_eq!(answers.len(), 5);
        assert!(answers.values().all(|answer| answer.contains("out of memory")));
    }

    #[tokio::test]
    async fn a_step_that_fails_is_not_the_end() {
        let mut decoder = MockDecoder::new(4, POSITIONS);
        decoder.before = Box::new(|step, _| match step {
            2 => Err(Error::new(Kind::Temporary, "a queue was lost")),
            _ => Ok(()),
        });
        let worker = worker(decoder);
        let answers = all(worker.submit(rows(0..12)).await.unwrap()).await;
        assert_eq!(answers.len(), 12);
        let failed = answers.values().filter(|answer| answer.contains("a queue was lost")).count();
        assert!((1..=4).contains(&failed), "{failed}");
        assert_eq!(all(worker.submit(rows(0..4)).await.unwrap()).await, expected(&rows(0..4)));
    }

    #[tokio::test]
    async fn dropping_the_receiver_cancels_its_rows() {
        let mut decoder = MockDecoder::new(2, 100_000);
        decoder.before = Box::new(|_, _| {
            #[expect(clippy::disallowed_methods, reason = "the decoder's thread, in a test")]
            std::thread::sleep(Duration::from_millis(1));
            Ok(())
        });
        let worker = worker(decoder);
        // Rows that score many tokens would take minutes.
        let endless = |id| Request { score: Some(vec![1; 90_000]), ..request(id, &[1, 2], 0) };
        let abandoned = worker.submit((0..8).map(endless).collect()).await.unwrap();
        drop(abandoned);
        assert_eq!(all(worker.submit(rows(0..4)).await.unwrap()).await, expected(&rows(0..4)));
        assert_eq!(worker.shared.usage().rows_failed, 8);
    }

    #[tokio::test]
    async fn dropping_the_engine_cancels_what_is_left_and_joins() {
        let worker = worker(MockDecoder::new(2, 100_000));
        let endless = |id| Request { score: Some(vec![1; 90_000]), ..request(id, &[1, 2], 0) };
        let answers = worker.submit((0..8).map(endless).collect()).await.unwrap();
        tokio::task::spawn_blocking(move || drop(worker)).await.unwrap();
        let answers = all(answers).await;
        assert_eq!(answers.len(), 8);
        assert!(answers.values().all(|answer| answer.contains("Cancelled")));
    }

    #[tokio::test]
    async fn many_submissions_wait_their_turn() {
        let worker = Arc::new(worker(MockDecoder::new(4, POSITIONS)));
        let tasks: Vec<_> = (0..40)
            .map(|_| {
                let worker = worker.clone();
                tokio::spawn(async move { all(worker.submit(rows(0..50)).await.unwrap()).await })
            })
            .collect();
        let expected = expected(&rows(0..50));
        for task in tasks {
            assert_eq!(task.await.unwrap(), expected);
        }
    }

    #[test]
    fn rows_may_come_from_outside_of_tokio() {
        let worker = worker(MockDecoder::new(4, POSITIONS));
        let mut answers = worker.submit_blocking(rows(0..4)).unwrap();
        let mut got = 0;
        while answers.blocking_recv().is_some() {
            got += 1;
        }
        assert_eq!(got, 4);
    }
}
