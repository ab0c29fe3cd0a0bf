//! A job that another process has sent with a plan: enough to open its models here, and to know that they are the same.
//!
//! Knows a job's settings and models; knows nothing of SQL. No credential is sent: stores and endpoints are opened with those of
//! this process.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::config::{Job, environment};
use crate::error::{Context, Error, Kind, Result};
use crate::generate::models::Models;

/// Jobs whose models a process keeps open. Without weights they are small.
const OPEN: usize = 8;

/// The settings that prompts, their keys and their answers depend on, as keys or beginnings of keys. Others stay: some hold
/// passwords.
const WANTED: [&str; 10] =
    ["name", "warehouse", "input.", "model.", "prompt.", "sampling.", "evidence.", "project.", "check.", "response."];

/// Keys whose values may be paths.
const PATHS: [&str; 10] = [
    "model.generator",
    "model.adapter",
    "model.encoder",
    "model.tokenizer",
    "model.projection",
    "prompt.item",
    "prompt.history",
    "prompt.pair",
    "project.registry",
    "project.schemas",
];

/// A job's text, and the device that takes the place of its own.
type Key = (String, Option<String>);

/// The models of the jobs that were sent.
static OPENED: Mutex<BTreeMap<Key, Arc<Models>>> = Mutex::new(BTreeMap::new());
/// Held while models are opened: others that want the same wait for it.
static OPENING: Mutex<()> = Mutex::new(());

/// A job as it is sent.
#[derive(PartialEq, Eq)]
pub struct Sent {
    text: String,
    /// Where its models are opened here; `None`: on the job's own device.
    device: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Form {
    /// The settings by key, as texts.
    settings: BTreeMap<String, String>,
    /// The generator as tables name it.
    model: String,
}

impl fmt::Debug for Sent {
    /// Without the settings, which no log needs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sent")
    }
}

impl Sent {
    /// The job of this process, whose models are there. Paths are named as every process has them.
    ///
    /// # Errors
    /// As [`Models::model_name`].
    pub fn of(job: &Job, models: &Models) -> Result<Sent> {
        let is_wanted = |key: &str| WANTED.iter().any(|wanted| key.starts_with(wanted));
        let mut settings = job.settings.clone();
        settings.retain(|key, _| is_wanted(key));
        for key in PATHS {
            if let Some(value) = settings.get_mut(key) {
                *value = absolute(value)?;
            }
        }
        let form = Form { settings, model: models.model_name()? };
        let text = serde_json::to_string(&form).context(Kind::Internal, || "a job cannot be sent".into())?;
        Ok(Sent { text, device: None })
    }

    /// What another process has sent.
    ///
    /// # Errors
    /// `Kind::Input` for what is no text.
    pub fn arrived(bytes: &[u8]) -> Result<Sent> {
        std::str::from_utf8(bytes)
            .map(|text| Sent { text: text.to_owned(), device: None })
            .map_err(|e| Error::new(Kind::Input, "a job that was sent is no text").source(e))
    }

    /// The same job, whose models are opened on a device of this process; `None`: on the job's own.
    #[must_use]
    pub fn on(self, device: Option<String>) -> Sent {
        Sent { device, ..self }
    }

    /// The bytes that are sent.
    pub fn bytes(&self) -> Vec<u8> {
        self.text.clone().into_bytes()
    }

    /// The text that is sent.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The job's models, downloaded and compared with those of the process that has sent it. Blocks, the first time for long.
    ///
    /// # Errors
    /// `Kind::Model` where this process finds other models; as [`Job::parse`], [`Models::new`] and [`Models::fetch`].
    pub fn models(&self) -> Result<Arc<Models>> {
        if let Some(models) = self.opened() {
            return Ok(models);
        }
        on_a_thread_that_may_block(|runtime| {
            let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(models) = self.opened() {
                return Ok(models);
            }
            let models = self.open(runtime)?;
            let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
            if opened.len() >= OPEN {
                opened.clear();
            }
            opened.insert(self.key(), models.clone());
            Ok(models)
        })
    }

    fn opened(&self) -> Option<Arc<Models>> {
        OPENED.lock().unwrap_or_else(PoisonError::into_inner).get(&self.key()).cloned()
    }

    fn key(&self) -> Key {
        (self.text.clone(), self.device.clone())
    }

    fn form(&self) -> Result<Form> {
        serde_json::from_str(&self.text).context(Kind::Input, || "a job that was sent cannot be read".into())
    }

    /// The job, as far as it was sent.
    ///
    /// # Errors
    /// `Kind::Input` for what is none; as [`Job::parse`].
    pub fn job(&self) -> Result<Job> {
        let mut form = self.form()?;
        if let Some(device) = &self.device {
            form.settings.insert("model.device".to_owned(), device.clone());
        }
        let settings: Vec<String> = form.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        // Settings of this process's own are none of the job's.
        let is_setting = |name: &str| name == "CUREC_WAREHOUSE" || name.starts_with("CUREC_") && name.contains("__");
        let variables = environment().into_iter().filter(|(name, _)| !is_setting(name)).collect();
        Job::parse("", "the client's job", &settings, &variables)
    }

    fn open(&self, runtime: &Handle) -> Result<Arc<Models>> {
        let models = Models::new(&self.job()?)?;
        runtime.block_on(models.fetch())?;
        let (wanted, found) = (self.form()?.model, models.model_name()?);
        if found != wanted {
            return Err(Error::new(Kind::Model, "this process of the cluster has another model than the client")
                .with("the client's", wanted)
                .with("this process's", found)
                .hint("the same files must lie under the same paths or URLs for all processes"));
        }
        Ok(models)
    }
}

/// A path that is there, from the root on; anything else as it is.
fn absolute(value: &str) -> Result<String> {
    if value.is_empty() || value.contains("://") || value.starts_with("registry:") || !Path::new(value).exists() {
        return Ok(value.to_owned());
    }
    let path = std::path::absolute(value).context(Kind::Config, || format!("cannot resolve {value}"))?;
    Ok(path.display().to_string())
}

/// Does work that blocks and waits; the runtime goes on with its other work on another thread.
///
/// # Errors
/// Those of `work`; `Kind::Internal` outside of a runtime of several threads.
pub(crate) fn on_a_thread_that_may_block<T>(work: impl FnOnce(&Handle) -> Result<T>) -> Result<T> {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(|| work(&runtime))
        }
        _ => Err(Error::new(Kind::Internal, "models of a job that was sent are opened by an executor's threads alone")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn job(more: &str) -> Job {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");
        let text = format!(
            "name = 'n'\n[input]\ninteraction = 'a'\nitem = 'b'\n[evidence.attributes]\n'colour' = 'Colour'\n[model]\n\
             generator = '{models}/tiny-qwen3'\nencoder = '{models}/tiny-bert'\nmax_positions = 4096\n{more}"
        );
        Job::parse(&text, "job.toml", &[], &BTreeMap::new()).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_job_that_was_sent_gives_the_same_keys() {
        let job = job("[sampling]\ntemperature = 0.3\nseed = 7\n[watch]\npushgateway = 'http://u:hunter2@host:9091'\n");
        let models = Models::new(&job).unwrap();
        let sent = Sent::of(&job, &models).unwrap();
        let arrived = Sent::arrived(&sent.bytes()).unwrap();
        assert!(sent == arrived && !sent.text().contains("hunter2"));
        let there = arrived.models().unwrap();
        assert_eq!(there.prompt_key("a prompt", "stem").unwrap(), models.prompt_key("a prompt", "stem").unwrap());
        assert_eq!(there.longest_prompt(), models.longest_prompt());
        assert!(Arc::ptr_eq(&there, &Sent::arrived(&sent.bytes()).unwrap().models().unwrap()), "opened twice");
        assert_eq!(format!("{sent:?}"), "Sent");
        assert_eq!(arrived.job().unwrap().spec.model.device, job.spec.model.device);
        let here = arrived.on(Some("cpu".into()));
        assert_eq!(here.job().unwrap().spec.model.device, "cpu");
        let (own, opened) = (here.models().unwrap(), sent.models().unwrap());
        assert!(own.device() == "cpu" && !Arc::ptr_eq(&own, &opened));
        assert_eq!(own.prompt_key("a prompt", "stem").unwrap(), opened.prompt_key("a prompt", "stem").unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn another_model_is_refused_by_name() {
        let job = job("");
        let sent = Sent::of(&job, &Models::new(&job).unwrap()).unwrap();
        let mut form = sent.form().unwrap();
        form.model = "another-model".into();
        let why = Sent { text: serde_json::to_string(&form).unwrap(), device: None }.models().err().unwrap();
        assert_eq!(why.kind(), Kind::Model);
        assert!(why.to_string().contains("another-model"), "{why}");
    }

    #[test]
    fn paths_are_named_as_every_process_has_them() {
        assert_eq!(absolute("s3://bucket/model").unwrap(), "s3://bucket/model");
        assert_eq!(absolute("registry:writer").unwrap(), "registry:writer");
        assert_eq!(absolute("de-item").unwrap(), "de-item", "the name of a built-in template");
        let here = absolute("Cargo.toml").unwrap();
        assert!(Path::new(&here).is_absolute() && here.ends_with("Cargo.toml"), "{here}");
    }
}
