//! The models of a job, opened as late as possible.
//!
//! Headers, tokenizer and digests are read first; weights are loaded when the first row needs them, so that a plan or a
//! run with nothing to do never loads a model. Models on an object store are downloaded before use. Knows the job's
//! settings; knows nothing of SQL or tables.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::config::Job;
use crate::error::{Context, Error, Kind, Result};
use crate::generate::device_thread::EngineOptions;
use crate::generate::endpoint::Endpoint;
use crate::generate::engine::Engine;
use crate::generate::fields::{self, Fields};
use crate::generate::model_look::demand_positions;
use crate::generate::model_place::Place;
use crate::generate::prompt::{self, Fingerprint, PromptTemplate, Tokenized};
use crate::generate::row::{AGAIN_TEMPERATURE, AGAIN_TOP_P, Completion, Request, RowError};
use crate::llm::adapter::Adapter;
use crate::llm::chat::ChatTemplate;
use crate::llm::device;
use crate::llm::encoder::SentenceEncoder;
use crate::llm::encoder_files::EncoderFiles;
use crate::llm::grammar::Grammar;
use crate::llm::sampler::Sampling;
use crate::llm::tokenizer::Tokenizer;
use crate::llm::weights::ModelFiles;
use crate::registry::card::Card;

/// Prompt tokens that are kept between computing the key and making the request: 64 MiB.
const TOKENIZED: usize = 1 << 24;
/// Texts that end a reason: it is one line.
const STOP: &[&str] = &["\n"];

/// The generator without its weights.
pub struct Generator {
    /// Splits texts into tokens.
    pub tokenizer: Tokenizer,
    /// The model's chat format.
    pub chat: ChatTemplate,
    /// Everything besides the prompt that a response depends on.
    pub fingerprint: Fingerprint,
    /// What answers with fields are held to.
    form: Option<Grammar>,
    tokenized: Mutex<Tokenized>,
}

impl Generator {
    /// Token ids of a prompt. They are kept for the request that may follow, see [`Models::request`].
    ///
    /// # Errors
    /// [`Kind::Internal`] where the tokenizer library fails; [`Kind::Model`] where the chat template does.
    pub fn tokenize(&self, prompt_text: &str, answer_stem: &str) -> Result<Vec<u32>> {
        let name = Tokenized::name(prompt_text, answer_stem);
        if let Some(ids) = self.tokenized().get(&name) {
            return Ok(ids.to_vec());
        }
        let ids = prompt::tokenize(&self.tokenizer, &self.chat, prompt_text, answer_stem)?;
        self.tokenized().keep(name, &ids);
        Ok(ids)
    }

    /// Number of a prompt's tokens. Ids of a prompt that has at most `most` are kept as [`Generator::tokenize`] keeps them:
    /// a longer one will not be asked.
    ///
    /// # Errors
    /// As [`Generator::tokenize`].
    pub fn count(&self, prompt_text: &str, answer_stem: &str, most: usize) -> Result<usize> {
        let name = Tokenized::name(prompt_text, answer_stem);
        if let Some(ids) = self.tokenized().get(&name) {
            return Ok(ids.len());
        }
        let ids = prompt::tokenize(&self.tokenizer, &self.chat, prompt_text, answer_stem)?;
        if ids.len() <= most {
            self.tokenized().keep(name, &ids);
        }
        Ok(ids.len())
    }

    /// Token ids for a request; removes them from the cache.
    fn take_tokens(&self, prompt_text: &str, answer_stem: &str) -> Result<Vec<u32>> {
        // Its own statement, so that the lock is not held while a prompt is tokenized.
        let held = self.tokenized().take(&Tokenized::name(prompt_text, answer_stem));
        held.map_or_else(|| prompt::tokenize(&self.tokenizer, &self.chat, prompt_text, answer_stem), Ok)
    }

    fn tokenized(&self) -> MutexGuard<'_, Tokenized> {
        // Entries are consistent even if a thread panicked while holding the lock.
        self.tokenized.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The template of a name or file. An endpoint that does not go on with the beginning of an answer is asked for it in words.
///
/// # Errors
/// As [`PromptTemplate::load`] and [`PromptTemplate::asking_for_stem`].
pub fn template_of(job: &Job, name: &str) -> Result<PromptTemplate> {
    let template = PromptTemplate::load(name)?;
    match job.spec.model.endpoint().is_some() && !job.spec.model.continues_stem() {
        true => template.asking_for_stem(),
        false => Ok(template),
    }
}

/// A row that failed because the device failed is not at fault: the whole run cannot continue.
///
/// # Errors
/// [`Kind::Temporary`] where the device has failed.
pub fn no_device_fault(error: &RowError) -> Result<()> {
    match error {
        RowError::Device(why) if device::is_fault(why) => Err(device::failed("generating", why, Kind::Temporary)),
        _ => Ok(()),
    }
}

/// The generator of a job without an adapter, downloaded to this machine.
///
/// # Errors
/// [`Kind::Model`] where there is none; the store's.
pub async fn base(job: &Job) -> Result<ModelFiles> {
    if job.spec.model.endpoint().is_some() {
        return Err(elsewhere());
    }
    ModelFiles::open(Place::new(job, "model.generator", &job.spec.model.generator)?.fetch().await?)
}

/// The error of work that needs the generator's files where a server has them.
fn elsewhere() -> Error {
    Error::new(Kind::Config, "this needs a language model that curec runs itself, and the generator is an endpoint")
        .with("key", "model.generator")
        .hint(
            "an endpoint writes the reasons of a night; what trains or scores with a model wants a Hugging Face directory or \
             a GGUF file: --set model.generator=PATH",
        )
}

/// The models of one job. Share it in an `Arc`.
pub struct Models {
    /// `None`: an endpoint writes.
    generator_place: Option<Place>,
    endpoint: Option<Arc<Endpoint>>,
    /// `None`: the base model.
    adapter_place: Option<Place>,
    encoder_place: Place,
    device: String,
    options: EngineOptions,
    sampling: Sampling,
    max_new_tokens: usize,
    longest_prompt: usize,
    seed: u64,
    templates: HashMap<&'static str, PromptTemplate>,
    fields: Fields,
    generator: OnceLock<Generator>,
    encoder_files: OnceLock<EncoderFiles>,
    engine: Mutex<Option<Arc<Engine>>>,
    encoder: Mutex<Option<Arc<SentenceEncoder>>>,
}

impl Models {
    /// Reads the templates; opens no model yet.
    pub fn new(job: &Job) -> Result<Arc<Models>> {
        let (model, sampling) = (&job.spec.model, &job.spec.sampling);
        let fields = Fields::of(&job.spec.prompt);
        let template = |name: &str| template_of(job, name)?.asking(&fields);
        let mut templates = HashMap::from([
            ("item", template(&job.spec.prompt.item)?),
            ("history", template(&job.spec.prompt.history)?),
        ]);
        // Nobody asks about pairs where the job names none: the template is no part of what is made then.
        if !job.spec.input.pair.is_empty() {
            templates.insert("pair", template(&job.spec.prompt.pair)?);
        }
        let endpoint = Endpoint::of(job)?;
        let generator_place = match endpoint {
            None => Some(Place::new(job, "model.generator", &model.generator)?),
            Some(_) => None,
        };
        Ok(Arc::new(Models {
            generator_place,
            endpoint,
            adapter_place: match model.adapter.as_str() {
                "" => None,
                text => Some(Place::new(job, "model.adapter", text)?),
            },
            encoder_place: Place::new(job, "model.encoder", &model.encoder)?,
            device: model.device.clone(),
            options: EngineOptions {
                slots: model.slots,
                max_step_tokens: model.max_step_tokens,
                max_positions: model.max_positions,
                threads: model.threads,
            },
            sampling: Sampling {
                temperature: sampling.temperature,
                top_p: sampling.top_p,
                top_k: sampling.top_k,
                repetition_penalty: sampling.repetition_penalty,
                max_copied_words: sampling.max_copied_words,
            },
            max_new_tokens: sampling.max_new_tokens,
            longest_prompt: job.spec.longest_prompt(),
            seed: sampling.seed,
            templates,
            fields,
            generator: OnceLock::new(),
            encoder_files: OnceLock::new(),
            engine: Mutex::new(None),
            encoder: Mutex::new(None),
        }))
    }

    /// Downloads models that are on an object store, and checks that the others exist. Of an endpoint it finds out which model
    /// answers, unless the job names it.
    ///
    /// # Errors
    /// [`Kind::Model`] where there is none; the store's; those of [`Endpoint::resolve`].
    pub async fn fetch(&self) -> Result<()> {
        if let Some(place) = &self.generator_place {
            place.fetch().await?;
        }
        if let Some(endpoint) = &self.endpoint {
            endpoint.resolve().await?;
            // One that cannot be read is told before anything is made.
            endpoint.tokens()?;
        }
        if let Some(adapter) = &self.adapter_place {
            adapter.fetch().await?;
        }
        self.encoder_place.fetch().await.map(|_| ())
    }

    /// The card of the adapter that a registry has promoted, once it was downloaded.
    pub fn promoted(&self) -> Option<&Card> {
        self.adapter_place.as_ref().and_then(|place| place.card.get())
    }

    /// The template for a kind of prompt.
    pub fn template(&self, kind: &str) -> Result<&PromptTemplate> {
        self.templates
            .get(kind)
            .ok_or_else(|| Error::new(Kind::Config, "there is no prompt template for this kind").with("kind", kind))
    }

    /// Tokens that evidence is shortened to, see [`crate::generate::fit`]: `[evidence] tokens`, or what `[model]
    /// max_positions` leaves beside an answer of `[sampling] max_new_tokens` where that is less and no endpoint answers.
    pub fn longest_prompt(&self) -> usize {
        self.longest_prompt
    }

    /// Digests of the templates by kind.
    pub fn template_digests(&self) -> Vec<(&'static str, &str)> {
        let mut all: Vec<_> = self.templates.iter().map(|(kind, t)| (*kind, t.digest())).collect();
        all.sort();
        all
    }

    /// The endpoint that writes; `None` where curec runs the model itself.
    pub fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.endpoint.as_ref()
    }

    /// The generator as tables and manifests name it; reads headers and the files' digests, no weights.
    ///
    /// # Errors
    /// As [`Models::generator`]; of an endpoint as [`Endpoint::resolve`].
    pub fn model_name(&self) -> Result<String> {
        match &self.endpoint {
            Some(endpoint) => endpoint.model_name(),
            None => Ok(self.generator()?.fingerprint.model_name()),
        }
    }

    /// The key under which a prompt's answers are kept.
    ///
    /// # Errors
    /// As [`Models::model_name`] and [`Generator::tokenize`].
    pub fn prompt_key(&self, prompt_text: &str, answer_stem: &str) -> Result<String> {
        match &self.endpoint {
            Some(endpoint) => endpoint.prompt_key(prompt_text, answer_stem),
            None => {
                let generator = self.generator()?;
                Ok(generator.fingerprint.prompt_key(&generator.tokenize(prompt_text, answer_stem)?))
            }
        }
    }

    /// The key of everything besides the prompt that an answer depends on.
    ///
    /// # Errors
    /// As [`Models::model_name`].
    pub fn settings_key(&self) -> Result<String> {
        match &self.endpoint {
            Some(endpoint) => endpoint.prompt_key("", ""),
            None => Ok(self.generator()?.fingerprint.prompt_key(&[])),
        }
    }

    /// Number of a prompt's tokens. Ids of a prompt that has at most `most` are kept, see [`Generator::count`].
    ///
    /// # Errors
    /// As [`Generator::tokenize`]; [`Kind::Model`] for a tokenizer that cannot be read.
    pub fn count(&self, prompt_text: &str, answer_stem: &str, most: usize) -> Result<usize> {
        match &self.endpoint {
            Some(endpoint) => endpoint.tokens()?.prompt(prompt_text, answer_stem),
            None => self.generator()?.count(prompt_text, answer_stem, most),
        }
    }

    /// Number of a text's tokens.
    ///
    /// # Errors
    /// As [`Models::count`].
    pub fn count_text(&self, text: &str) -> Result<usize> {
        match &self.endpoint {
            Some(endpoint) => endpoint.tokens()?.text(text),
            None => Ok(self.generator()?.tokenizer.encode_text(text)?.len()),
        }
    }

    /// Whether numbers of tokens are estimates.
    ///
    /// # Errors
    /// [`Kind::Model`] for a tokenizer that cannot be read.
    pub fn estimates_tokens(&self) -> Result<bool> {
        match &self.endpoint {
            Some(endpoint) => Ok(endpoint.tokens()?.is_estimate()),
            None => Ok(false),
        }
    }

    /// Tokenizer, chat template and fingerprint; reads headers and the files' digests, no weights.
    ///
    /// # Errors
    /// [`Kind::Config`] where the generator is an endpoint; [`Kind::Model`] for files that cannot be read.
    pub fn generator(&self) -> Result<&Generator> {
        if let Some(generator) = self.generator.get() {
            return Ok(generator);
        }
        let files = self.generator_files()?;
        let adapter = match self.adapter_path()? {
            Some(dir) => Adapter::digest(dir)?,
            None => String::new(),
        };
        if let Some(card) = self.promoted().filter(|card| files.digest().is_ok_and(|digest| digest != card.base_model))
        {
            let (name, version, trained_on) = (&card.name, &card.version, &card.base_model);
            tracing::warn!(
                name,
                version,
                trained_on,
                "the adapter was trained on other weights than [model] generator"
            );
        }
        if let Err(why) = demand_positions(self.longest_prompt, self.max_new_tokens, files.config().max_positions) {
            tracing::warn!(why = %why, "the longest prompts may stay without an answer");
        }
        let tokenizer = files.tokenizer()?;
        let schema = (!self.fields.is_empty()).then(|| self.fields.schema());
        let form_text = schema.as_ref().map(ToString::to_string).unwrap_or_default();
        let form =
            schema.map(|schema| Grammar::new(&tokenizer, &files.config().eos_ids, schema, fields::OPEN)).transpose()?;
        let opened = Generator {
            tokenizer,
            form,
            chat: files.chat_template()?,
            fingerprint: Fingerprint {
                model: files.digest()?,
                adapter,
                sampling: self.sampling,
                max_new_tokens: self.max_new_tokens,
                stop: STOP.iter().map(|s| s.to_string()).collect(),
                ends: files.found_ends().to_vec(),
                form: form_text,
                seed: self.seed,
            },
            tokenized: Mutex::new(Tokenized::with_room(TOKENIZED)),
        };
        Ok(self.generator.get_or_init(|| opened))
    }

    /// The generator's files, without the adapter; reads headers only.
    pub fn generator_files(&self) -> Result<ModelFiles> {
        ModelFiles::open(self.generator_place()?.path()?)
    }

    fn generator_place(&self) -> Result<&Place> {
        self.generator_place.as_ref().ok_or_else(elsewhere)
    }

    /// The adapter's folder on this machine; none: the base model.
    ///
    /// # Errors
    /// What fetching it says.
    pub fn adapter_path(&self) -> Result<Option<&Path>> {
        self.adapter_place.as_ref().map(Place::path).transpose()
    }

    /// How the engine uses its device.
    pub fn engine_options(&self) -> &EngineOptions {
        &self.options
    }

    /// The device as the job names it.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Dimension and digest of the encoder; reads no weights.
    pub fn encoder_files(&self) -> Result<&EncoderFiles> {
        if let Some(files) = self.encoder_files.get() {
            return Ok(files);
        }
        let files = EncoderFiles::open(self.encoder_place.path()?)?;
        Ok(self.encoder_files.get_or_init(|| files))
    }

    /// The running engine; the first call loads the weights. Blocks: not for a tokio worker.
    pub fn engine(&self) -> Result<Arc<Engine>> {
        let mut slot = self.engine.lock().map_err(|_| Error::new(Kind::Internal, "the engine's lock is poisoned"))?;
        if let Some(engine) = slot.as_ref() {
            return Ok(engine.clone());
        }
        let engine = Arc::new(Engine::start(
            self.generator_place()?.path()?,
            self.adapter_path()?,
            &self.device,
            self.options.clone(),
        )?);
        // A device or model that does not open is an error of the run, not of every row.
        engine.load_blocking()?;
        *slot = Some(engine.clone());
        Ok(engine)
    }

    /// Stops the engine and frees its memory and the cached token ids.
    pub fn stop_engine(&self) {
        if let Some(generator) = self.generator.get() {
            *generator.tokenized() = Tokenized::with_room(TOKENIZED);
        }
        if let Ok(mut slot) = self.engine.lock() {
            *slot = None;
        }
    }

    /// Sentence vectors, one for each text. Blocks: not for a tokio worker.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        device::guarded("embedding", || self.encoder()?.embed(texts))
    }

    fn encoder(&self) -> Result<Arc<SentenceEncoder>> {
        Ok({
            let mut slot =
                self.encoder.lock().map_err(|_| Error::new(Kind::Internal, "the encoder's lock is poisoned"))?;
            match slot.as_ref() {
                Some(encoder) => encoder.clone(),
                None => {
                    let device = device::open(&self.device)?;
                    let loaded = Arc::new(SentenceEncoder::from_files(self.encoder_files()?, &device)?);
                    slot.insert(loaded).clone()
                }
            }
        })
    }

    /// A request for one prompt; `id` is returned with its completion. A blank prompt becomes a request without tokens,
    /// which is answered with [`RowError::Empty`].
    pub fn request(&self, id: u64, prompt_text: &str, answer_stem: &str) -> Result<Request> {
        let generator = self.generator()?;
        let prompt = match prompt::is_blank(&generator.tokenizer.without_control(prompt_text)) {
            true => Vec::new(),
            false => generator.take_tokens(prompt_text, answer_stem)?,
        };
        let mut request = self.request_of(id, prompt, None)?;
        if fields::is_asked(answer_stem) {
            request.guide = generator.form.as_ref().map(Grammar::guide);
        }
        Ok(request)
    }

    /// As [`Models::request`] where `attempt` is 1. A later attempt is for a prompt whose answers were refused: the likeliest
    /// tokens would be the same again, so it draws them, from the likeliest, by a seed of its own.
    ///
    /// # Errors
    /// As [`Models::request`].
    pub fn request_again(&self, id: u64, prompt_text: &str, answer_stem: &str, attempt: u32) -> Result<Request> {
        let mut request = self.request(id, prompt_text, answer_stem)?;
        if attempt > 1 {
            let fingerprint = &self.generator()?.fingerprint;
            // Whatever the job's own are: where the likeliest token alone were left, the answer would be the same.
            request.sampling.temperature = request.sampling.temperature.max(AGAIN_TEMPERATURE);
            (request.sampling.top_p, request.sampling.top_k) = (AGAIN_TOP_P, 0);
            request.seed = fingerprint.row_seed(&format!("{}/{attempt}", fingerprint.prompt_key(&request.prompt)));
        }
        Ok(request)
    }

    fn request_of(&self, id: u64, prompt: Vec<u32>, score: Option<Vec<u32>>) -> Result<Request> {
        let generator = self.generator()?;
        let key = generator.fingerprint.prompt_key(&prompt);
        Ok(Request {
            id,
            prompt,
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling,
            seed: generator.fingerprint.row_seed(&key),
            stop: generator.fingerprint.stop.clone(),
            score,
            guide: None,
        })
    }

    /// A request that scores `answer` after `prompt_text`.
    pub fn score_request(&self, id: u64, prompt_text: &str, answer: &str) -> Result<Request> {
        let generator = self.generator()?;
        let tokens = generator.tokenizer.encode_text(answer)?;
        self.request_of(id, generator.tokenize(prompt_text, "")?, Some(tokens))
    }

    /// Runs requests whose ids are `0..n` and returns their results in that order.
    pub async fn run(
        self: &Arc<Self>,
        requests: Vec<Request>,
    ) -> Result<Vec<std::result::Result<Completion, RowError>>> {
        let mut results: Vec<_> = requests.iter().map(|_| Err(RowError::Cancelled)).collect();
        let models = self.clone();
        let mut rows = tokio::task::spawn_blocking(move || models.engine()?.submit_blocking(requests))
            .await
            .context(Kind::Internal, || "loading the model was interrupted".into())??;
        while let Some((id, result)) = rows.recv().await {
            if let Err(e) = &result {
                no_device_fault(e)?;
            }
            if let Some(slot) = results.get_mut(id as usize) {
                *slot = result;
            }
        }
        Ok(results)
    }
}
