//! One engine per device: the device thread plus the tokenizer and chat template of its model.
//!
//! Knows where a model comes from and which files belong to it. Knows nothing of SQL or prompts; the thread runs the
//! rows.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::generate::device_thread::{Answers, EngineOptions, EngineUsage, Load, Worker};
use crate::generate::row::{Detokenize, Request};
use crate::llm::adapter::Adapter;
use crate::llm::chat::ChatTemplate;
use crate::llm::decoder::{CausalLm, Decoder};
use crate::llm::device;
use crate::llm::tokenizer::Tokenizer;
use crate::llm::weights::ModelFiles;

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
    /// `wgpu`, `cuda:0` ...), with the adapter in the folder `adapter`, if any. Reads headers and the tokenizer only;
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

    /// An engine around an existing decoder; `digest` identifies the model in fingerprints.
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
    /// The error of opening the device or loading the model.
    pub fn load_blocking(&self) -> Result<()> {
        self.worker.load_blocking()
    }

    /// Submits rows. Their answers arrive as they finish, in any order, one for every submitted id. Blocks while the
    /// engine's queue is full: not for a tokio worker.
    ///
    /// # Errors
    /// If the model could not be loaded, or the device's code panicked earlier.
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

    /// BLAKE3 over every file of the model, 32 hex digits; computed on first use.
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

    /// The counters so far; may be read at any time, for progress and telemetry.
    pub fn usage(&self) -> EngineUsage {
        self.worker.usage()
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
