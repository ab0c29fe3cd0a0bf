//! The generator of a job behind an OpenAI-compatible endpoint: requests for prompts, their keys, and what answers become.
//!
//! Knows the job's settings of an endpoint and the rows that are asked about; [`crate::generate::chat_completions`] knows the
//! protocol. What the server refuses of one prompt is that row's error. Where it takes no prompt at all, or does not answer for
//! long, that is an error of the run. Text of the data is sent as the content of a message, with marks that servers may read as
//! control tokens taken apart.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use serde_json::{Map, Value, json};
use tokio::runtime::RuntimeFlavor;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cancel::CancelToken;
use crate::config::{self, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::generate::chat_completions::{Client, Failed, Patience, Reply, Usage};
use crate::generate::prompt::is_blank;
use crate::generate::row::{AGAIN_TEMPERATURE, AGAIN_TOP_P, Finish, Outcome, Question, RowError, Written};
use crate::generate::token_count::{TokenCount, estimate};
use crate::plain_text::lines::is_unspaced;
use crate::table::redact::redact;

/// So many names of models stand in an error.
const SHOWN: usize = 10;
/// What chat formats of known models write as control tokens besides what stands between bars.
const MARKS: [&str; 10] =
    ["<s>", "</s>", "[INST]", "[/INST]", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<<SYS>>", "<</SYS>>"];

/// The endpoint of a job.
pub struct Endpoint {
    client: Client,
    /// `[model] endpoint_model`; empty: the one that is served.
    named: String,
    model: OnceLock<String>,
    /// Whether the server goes on with the stem.
    continues: bool,
    extra: Map<String, Value>,
    asks_logprobs: bool,
    temperature: f32,
    top_p: f32,
    seed: u64,
    max_new_tokens: usize,
    at_once: usize,
    requests: Semaphore,
    /// How long answers in flight are waited for where a run ends early.
    drain: Duration,
    tokenizer: String,
    tokens: OnceLock<TokenCount>,
}

impl Endpoint {
    /// The endpoint of a job; `None` where its generator is a model that curec runs itself. Asks nobody.
    ///
    /// # Errors
    /// [`Kind::Config`] for an address or a key that cannot be.
    pub fn of(job: &Job) -> Result<Option<Arc<Endpoint>>> {
        let (model, sampling) = (&job.spec.model, &job.spec.sampling);
        let Some(address) = model.endpoint() else { return Ok(None) };
        let patience = Patience {
            first: Duration::from_secs(1),
            whole: Duration::from_secs_f64(model.endpoint_retry_seconds),
            timeout: Duration::from_secs_f64(model.endpoint_timeout_seconds),
        };
        let client = Client::new("[model] generator", address, config::endpoint_key(), patience)
            .map_err(|e| e.with("key", "model.generator"))?;
        let resolved = OnceLock::new();
        if !model.endpoint_model.is_empty() {
            resolved.get_or_init(|| model.endpoint_model.clone());
        }
        Ok(Some(Arc::new(Endpoint {
            client,
            named: model.endpoint_model.clone(),
            model: resolved,
            continues: model.continues_stem(),
            extra: model.body().unwrap_or_default(),
            asks_logprobs: model.endpoint_logprobs,
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            seed: sampling.seed,
            max_new_tokens: sampling.max_new_tokens,
            at_once: model.endpoint_at_once,
            requests: Semaphore::new(model.endpoint_at_once),
            drain: Duration::from_secs_f64(job.spec.publish.grace_seconds / 2.0),
            tokenizer: model.tokenizer.clone(),
            tokens: OnceLock::new(),
        })))
    }

    /// Finds out which model answers, where the job does not name it.
    ///
    /// # Errors
    /// [`Kind::Config`] where that is not one; [`Kind::Temporary`] where the endpoint does not answer.
    pub async fn resolve(&self) -> Result<&str> {
        if let Some(model) = self.model.get() {
            return Ok(model);
        }
        let served = self.client.models().await.map_err(|failed| self.error(failed))?;
        let model = self.only(served)?;
        Ok(self.model.get_or_init(|| model))
    }

    fn only(&self, mut served: Vec<String>) -> Result<String> {
        match (served.len(), served.pop()) {
            (1, Some(model)) => Ok(model),
            (_, None) => Err(self.about(Kind::Config, "the endpoint names no model that it serves")),
            (n, Some(last)) => {
                served.push(last);
                Err(self
                    .about(Kind::Config, &format!("the endpoint serves {n} models"))
                    .with("it serves", list(&served)))
            }
        }
        .map_err(|e: Error| e.with("key", "model.endpoint_model").hint("name the model in [model] endpoint_model"))
    }

    /// Looks whether the endpoint answers and serves the model.
    ///
    /// # Errors
    /// As [`Endpoint::resolve`]; [`Kind::Config`] where it serves other models only, and [`Kind::Model`] for a tokenizer that
    /// cannot be read.
    pub async fn look(&self) -> Result<()> {
        self.tokens()?;
        match self.client.models().await {
            Ok(served) if self.named.is_empty() => self.only(served).map(drop),
            Ok(served) if served.is_empty() || served.contains(&self.named) => Ok(()),
            Ok(served) => Err(self
                .about(Kind::Config, "the endpoint does not serve the model")
                .with("key", "model.endpoint_model")
                .with("model", &self.named)
                .with("it serves", list(&served))
                .hint("name one of those that it serves")),
            // Not every provider tells.
            Err(Failed::All { status: 404 | 405, .. }) if !self.named.is_empty() => Ok(()),
            Err(failed) => Err(self.error(failed)),
        }
    }

    /// The model's name. Asks the endpoint first if needed, as in an ad-hoc query.
    ///
    /// # Errors
    /// As [`Endpoint::resolve`].
    pub fn model(&self) -> Result<&str> {
        if let Some(model) = self.model.get() {
            return Ok(model);
        }
        let handle = tokio::runtime::Handle::try_current().ok();
        match handle.filter(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread) {
            Some(handle) => tokio::task::block_in_place(|| handle.block_on(self.resolve())),
            None => Err(Error::new(Kind::Internal, "an endpoint was used before it was asked for its model")),
        }
    }

    /// The model as tables and manifests name it.
    ///
    /// # Errors
    /// As [`Endpoint::resolve`].
    pub fn model_name(&self) -> Result<String> {
        Ok(format!("endpoint:{}", self.model()?))
    }

    /// Requests in flight at a time.
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// How long answers in flight are waited for where a run ends early: they are paid.
    pub fn drain(&self) -> Duration {
        self.drain
    }

    /// Counts tokens, by the job's tokenizer or estimated.
    ///
    /// # Errors
    /// [`Kind::Model`] for a tokenizer that cannot be read.
    pub fn tokens(&self) -> Result<&TokenCount> {
        if let Some(tokens) = self.tokens.get() {
            return Ok(tokens);
        }
        let opened = TokenCount::open(&self.tokenizer)?;
        Ok(self.tokens.get_or_init(|| opened))
    }

    /// The key of a prompt: of everything that its request says, so that another model, setting or prompt is another key. The
    /// endpoint's address is no part of it.
    ///
    /// # Errors
    /// As [`Endpoint::resolve`].
    pub fn prompt_key(&self, prompt: &str, stem: &str) -> Result<String> {
        let mut body = self.body(prompt, stem, self.temperature, self.top_p)?;
        if self.temperature > 0.0 && !self.extra.contains_key("seed") {
            body["seed"] = self.seed.into();
        }
        let mut made = Fingerprint::new("endpoint prompt", 1);
        Ok(made.add_settings("request", &body)?.digest())
    }

    fn body(&self, prompt: &str, stem: &str, temperature: f32, top_p: f32) -> Result<Value> {
        let mut messages = vec![json!({ "role": "user", "content": without_marks(prompt) })];
        let goes_on = self.continues && !stem.is_empty();
        if goes_on {
            messages.push(json!({ "role": "assistant", "content": without_marks(stem) }));
        }
        let mut body = json!({
            "model": self.model()?,
            "messages": messages,
            "max_tokens": self.max_new_tokens,
            "temperature": shortest(temperature),
        });
        if temperature > 0.0 && top_p < 1.0 {
            body["top_p"] = shortest(top_p).into();
        }
        if self.asks_logprobs {
            body["logprobs"] = true.into();
        }
        if goes_on {
            // As vLLM and SGLang want it; llama.cpp's server goes on with a last message of the assistant as it is.
            body["continue_final_message"] = true.into();
            body["add_generation_prompt"] = false.into();
        }
        if let Some(fields) = body.as_object_mut() {
            fields.extend(self.extra.clone());
            fields.retain(|_, value| !value.is_null());
        }
        Ok(body)
    }

    /// The request for one attempt. A later one is for a prompt whose answers were refused: the likeliest tokens would be the
    /// same again.
    fn request(&self, question: &Question) -> Result<Value> {
        let Question { prompt, stem, attempt } = question;
        let (temperature, top_p) = match *attempt {
            0 | 1 => (self.temperature, self.top_p),
            _ => (self.temperature.max(AGAIN_TEMPERATURE), AGAIN_TOP_P),
        };
        let mut body = self.body(prompt, stem, temperature, top_p)?;
        if temperature > 0.0 && !self.extra.contains_key("seed") {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&self.seed.to_le_bytes()).update(self.prompt_key(prompt, stem)?.as_bytes());
            hasher.update(&attempt.to_le_bytes());
            let [a, b, c, d] = *hasher.finalize().as_bytes().first_chunk::<4>().unwrap_or(&[0; 4]);
            // Servers take it for a signed number of 32 bits.
            body["seed"] = (u32::from_le_bytes([a, b, c, d]) >> 1).into();
        }
        Ok(body)
    }

    /// Asks; outcomes come as they are there, in any order, one for each question, by its place. Once `halt` is requested, by the
    /// caller or because the endpoint takes no prompts, no further request is sent, and questions that wait are
    /// [`RowError::Cancelled`]. Dropping the stream gives up all requests.
    pub fn ask(
        self: &Arc<Self>,
        questions: Vec<Question>,
        halt: &CancelToken,
    ) -> impl Stream<Item = Result<Outcome>> + Send + use<> {
        let mut tasks = JoinSet::new();
        for (id, question) in questions.into_iter().enumerate() {
            let (endpoint, halt) = (self.clone(), halt.clone());
            tasks.spawn(async move { endpoint.answer(id, &question, &halt).await });
        }
        futures::stream::unfold(tasks, |mut tasks| async move {
            let outcome = match tasks.join_next().await? {
                Ok(outcome) => outcome,
                Err(e) => Err(Error::new(Kind::Internal, "a request to the endpoint was interrupted").source(e)),
            };
            Some((outcome, tasks))
        })
        .fuse()
    }

    async fn answer(&self, id: usize, question: &Question, halt: &CancelToken) -> Result<Outcome> {
        let counted = self.tokens()?.prompt(&question.prompt, &question.stem)?;
        let counted = u32::try_from(counted).unwrap_or(u32::MAX);
        let failed = |error| Ok(Outcome { id, prompt_tokens: counted, result: Err(error) });
        if is_blank(&question.prompt) {
            return failed(RowError::Empty);
        }
        let body = self.request(question)?;
        // Held until the outcome is known: nobody is to ask an endpoint that takes no prompts.
        let _permit = tokio::select! {
            biased;
            () = halt.requested() => return failed(RowError::Cancelled),
            permit = self.requests.acquire() => permit.context(Kind::Internal, || "no request may be sent".into())?,
        };
        let replied = self.client.complete(&body, halt).await;
        match replied {
            Ok(reply) if reply.finish.as_deref() == Some("content_filter") => {
                failed(RowError::ServerRefused("its filter took the answer back".into()))
            }
            Ok(reply) => {
                let written = self.written(reply, question, counted);
                Ok(Outcome { id, prompt_tokens: written.prompt_tokens, result: Ok(written) })
            }
            Err(Failed::Refused(what)) => failed(RowError::ServerRefused(what)),
            Err(Failed::Broken(what)) => failed(RowError::ServerError(what)),
            Err(Failed::Later(_)) if halt.is_requested() => failed(RowError::Cancelled),
            Err(down) => {
                halt.request();
                Err(self.error(down))
            }
        }
    }

    fn written(&self, reply: Reply, question: &Question, counted: u32) -> Written {
        let Reply { text, finish, logprob_sum, usage } = reply;
        // A server that does not tell what an answer took is held to an estimate: caps must count something.
        let usage = usage.unwrap_or_else(|| {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| tracing::warn!("the endpoint does not tell `usage`: tokens are estimated"));
            Usage { prompt: u64::from(counted), cached: 0, completion: estimate(&text) as u64 }
        });
        let tokens = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let (text, is_whole) = match self.continues && !question.stem.is_empty() {
            true => continuation(&question.stem, &text),
            false => sentence(&text),
        };
        let is_cut = finish.as_deref() == Some("length") && !is_whole;
        Written {
            text,
            finish: if is_cut { Finish::Length } else { Finish::Stop },
            logprob_sum,
            prompt_tokens: tokens(usage.prompt),
            cached_tokens: tokens(usage.cached),
            completion_tokens: tokens(usage.completion),
        }
    }

    fn about(&self, kind: Kind, what: &str) -> Error {
        Error::new(kind, what).with("endpoint", redact(self.client.completions().as_str()))
    }

    /// The error of a run whose endpoint answers no prompt.
    fn error(&self, failed: Failed) -> Error {
        let kept = "answers so far are kept";
        match failed {
            Failed::Later(what) | Failed::Broken(what) => self
                .about(Kind::Temporary, &format!("the endpoint does not answer: {what}"))
                .hint(format!("look whether it runs, and run the same command again; {kept}")),
            Failed::Refused(what) => self
                .about(Kind::Config, &format!("the endpoint refuses the request: {what}"))
                .hint("look at [model] generator: the address ends before /chat/completions"),
            Failed::All { status, what } => {
                let advice = match status {
                    401 | 403 => "set the variable OPENAI_API_KEY to a key of this endpoint",
                    402 => "look at the account behind the key",
                    404 | 405 => {
                        "look at [model] generator, which ends before /chat/completions, mostly with /v1, and at endpoint_model"
                    }
                    _ => {
                        "look at [model] generator and endpoint_model, at the variable OPENAI_API_KEY, and at the account behind it"
                    }
                };
                self.about(Kind::Config, &format!("the endpoint takes no prompts: {what}"))
                    .hint(format!("{advice}; {kept}"))
            }
        }
    }
}

fn list(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// A number as it was written: 0.7, not the next number of twice the width.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// The text with a space in what chat formats read as control tokens: servers put the messages' texts into one text before they
/// split it.
fn without_marks(text: &str) -> String {
    let mut text = text.to_owned();
    for (bar, apart) in [("<|", "< |"), ("|>", "| >"), ("<｜", "< ｜"), ("｜>", "｜ >")] {
        text = text.replace(bar, apart);
    }
    for mark in MARKS {
        if text.contains(mark) {
            let (first, rest) = mark.split_at(1);
            text = text.replace(mark, &format!("{first} {rest}"));
        }
    }
    text
}

/// What follows the stem of an answer, which is one line, and whether that line has ended.
fn continuation(stem: &str, text: &str) -> (String, bool) {
    // Some servers give the beginning back.
    let text = text.strip_prefix(stem).unwrap_or(text);
    let (line, is_whole) = match text.split_once('\n') {
        Some((line, _)) => (line, true),
        None => (text, false),
    };
    let is_spaced = |c: char| c.is_alphanumeric() && !is_unspaced(c);
    let joins = |c: Option<char>| c.is_some_and(is_spaced);
    let space = if joins(stem.chars().last()) && joins(line.chars().next()) { " " } else { "" };
    (format!("{space}{line}"), is_whole)
}

/// The first line of an answer that says something, without the notes of a model that thinks aloud and without quotation marks
/// around all of it, and whether it has ended.
fn sentence(text: &str) -> (String, bool) {
    let text = text.trim();
    // Where the server's template opens the notes, the answer holds their end alone.
    let text = match text.split_once("</think>") {
        Some((_, rest)) => rest,
        None if text.starts_with("<think>") => "",
        None => text,
    };
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.next().unwrap_or_default();
    let inner = line.strip_prefix('"').and_then(|line| line.strip_suffix('"')).filter(|inner| !inner.contains('"'));
    (inner.unwrap_or(line).to_owned(), lines.next().is_some())
}

#[cfg(test)]
mod tests;
