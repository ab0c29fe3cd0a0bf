//! What is wrong with a job's models, as far as a look tells: for `curec check`.
//!
//! Knows headers, endpoints and devices. Fetches nothing and loads no weights of the generator.

use std::path::PathBuf;

use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::generate::endpoint::Endpoint;
use crate::generate::model_place::Place;
use crate::llm::adapter::Adapter;
use crate::llm::device;
use crate::llm::encoder_files::EncoderFiles;
use crate::llm::weights::ModelFiles;

/// What a look at a job's models has found.
#[derive(Debug, Default)]
pub struct Looked {
    /// What is wrong, each error with its key of the job.
    pub wrong: Vec<Error>,
    /// The files of the encoder, where they are on this machine and sound.
    pub encoder: Option<EncoderFiles>,
}

/// Looks at a job's models, each for itself, as far as headers tell, and opens the device. Fetches nothing and loads no weights
/// of the generator: of a model on a store only whether it is there is told.
pub async fn look(job: &Job) -> Looked {
    let model = &job.spec.model;
    let mut looked = Looked::default();
    let found = match Endpoint::of(job) {
        Ok(None) => look_at(job, "model.generator", &model.generator, &mut looked.wrong).await,
        Ok(Some(endpoint)) => {
            let keyed = |e: Error| match e.context().iter().any(|(name, _)| *name == "key") {
                true => e,
                false => e.with("key", "model.generator"),
            };
            looked.wrong.extend(endpoint.look().await.map_err(keyed).err());
            None
        }
        Err(e) => {
            looked.wrong.push(e);
            None
        }
    };
    let generator = found.and_then(|path| {
        let read = ModelFiles::open(&path).and_then(|files| {
            files.tokenizer()?;
            files.chat_template()?;
            Ok(files)
        });
        read.map_err(|e| looked.wrong.push(e.with("key", "model.generator"))).ok()
    });
    if let Some(files) = &generator {
        let (prompt, answer) = (job.spec.longest_prompt(), job.spec.sampling.max_new_tokens);
        looked.wrong.extend(demand_positions(prompt, answer, files.config().max_positions).err());
    }
    if let Some(path) = look_at(job, "model.adapter", &model.adapter, &mut looked.wrong).await
        && let Some(Err(e)) = generator.as_ref().map(|files| Adapter::read(&path, files.config()))
    {
        looked.wrong.push(e.with("key", "model.adapter"));
    }
    if let Some(path) = look_at(job, "model.encoder", &model.encoder, &mut looked.wrong).await {
        match EncoderFiles::open(&path) {
            Ok(files) => looked.encoder = Some(files),
            Err(e) => looked.wrong.push(e.with("key", "model.encoder")),
        }
    }
    if let Err(e) = device::guarded("opening the device", || device::open(&model.device)) {
        looked.wrong.push(e.with("key", "model.device"));
    }
    looked
}

/// Refuses a model with fewer positions than the longest prompt and its answer need, in tokens: in a night such prompts stay
/// without an answer.
///
/// # Errors
/// [`Kind::Config`] with the figures and the key that helps.
pub(super) fn demand_positions(prompt: usize, answer: usize, positions: usize) -> Result<()> {
    if prompt.saturating_add(answer) <= positions {
        return Ok(());
    }
    let error = Error::new(
        Kind::Config,
        format!(
            "a prompt of {prompt} tokens and an answer of {answer} need {} positions, the model has {positions}",
            prompt.saturating_add(answer)
        ),
    );
    Err(match positions.saturating_sub(answer) {
        0 => error
            .with("key", "sampling.max_new_tokens")
            .hint("lower [sampling] max_new_tokens, or take a model with more positions"),
        room => error.with("key", "model.max_positions").hint(format!(
            "set [model] max_positions = {positions}, so that evidence is shortened to {room} tokens, or take a model with more \
             positions"
        )),
    })
}

/// The path of one model on this machine; `None` where none is named, it is elsewhere, or something is wrong, which is noted.
async fn look_at(job: &Job, key: &'static str, text: &str, wrong: &mut Vec<Error>) -> Option<PathBuf> {
    if text.is_empty() {
        return None;
    }
    let looked = match Place::new(job, key, text) {
        Ok(place) => place.look().await.map_err(|e| e.with("key", key)),
        // It has the key already.
        Err(e) => Err(e),
    };
    looked.unwrap_or_else(|e| {
        wrong.push(e);
        None
    })
}
