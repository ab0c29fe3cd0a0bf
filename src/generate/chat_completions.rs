//! The protocol of OpenAI-compatible endpoints: `POST {address}/chat/completions` and `GET {address}/models`.
//!
//! Knows HTTP, which failures may pass, how long to wait, and how an answer is told. What is asked, and what becomes of answers,
//! is for its callers to know: [`crate::generate::endpoint`] for the night, `weekly/teacher_endpoint.rs` for a teacher. The key
//! goes into the header of each request and nowhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

use crate::cancel::CancelToken;
use crate::error::{Context, Error, Kind, Result};
use crate::secrets;

/// So much of a server's words stands in an error.
const SHOWN: usize = 300;
/// Bytes of an answer at most: what is longer is no answer of a language model.
const MOST: usize = 16 << 20;
/// The longest pause that curec makes by itself.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A server that asks for more is not waited for, and a clock must hold it.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);
/// Times a prompt is answered with an error before the server is asked something else, to see whether it answers at all.
const TRIES_OF_ITS_OWN: u32 = 5;

/// How long a request that failed is made again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The pause before the second try; doubled before each further one. A longer `Retry-After` counts instead.
    pub first: Duration,
    /// Since the first failure, or since another request was answered where the server only asks to slow down.
    pub whole: Duration,
    /// A request without a whole answer after so long has failed.
    pub timeout: Duration,
}

/// An endpoint and how to speak to it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    address: Url,
    key: Option<String>,
    patience: Patience,
    /// Answers so far, of all requests.
    answered: Arc<AtomicU64>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Its text, with the white space around it: it may go on with something.
    pub text: String,
    /// Why it ended, in the server's words.
    pub finish: Option<String>,
    /// Sum of the log-likelihoods of its tokens, where the server tells them.
    pub logprob_sum: Option<f64>,
    /// What it took, where the server tells it.
    pub usage: Option<Usage>,
}

/// Tokens of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt: u64,
    /// Of those, such as the server had at hand.
    pub cached: u64,
    /// Of the answer.
    pub completion: u64,
}

/// How a request ended that was not answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Failed {
    /// It may go through later: the endpoint is down, or too busy for long.
    Later(String),
    /// This prompt was answered with an error of the server each time, while others are answered.
    Broken(String),
    /// This prompt will not be answered.
    Refused(String),
    /// Nor will any other.
    All {
        /// The status; 200 for an answer that is none.
        status: u16,
        /// What the server said.
        what: String,
    },
}

/// How one try ended.
enum Tried {
    Ended(Failed),
    Again {
        what: String,
        /// The server's own word for how long to wait.
        after: Option<Duration>,
        why: Why,
    },
}

/// Why a try failed that may be made again.
#[derive(Clone, Copy, PartialEq)]
enum Why {
    /// No whole answer came.
    Silent,
    /// The server asks to slow down.
    Busy,
    /// The server has failed.
    Broken,
}

impl Client {
    /// `address` is what stands before `/chat/completions`; `place` names the setting in errors.
    ///
    /// # Errors
    /// [`Kind::Config`] for an address that is none or holds credentials, and for a key that cannot stand in a header.
    pub fn new(place: &str, address: &str, key: Option<String>, patience: Patience) -> Result<Client> {
        let bad = |what: &str| Error::new(Kind::Config, format!("{place}: {what}"));
        let mut address = Url::parse(address).map_err(|e| bad("this is no address").source(e))?;
        let is_secret = |name: &str| secrets::is_secret(name) || matches!(name, "key" | "sig" | "code");
        let is_told = address.query_pairs().any(|(name, _)| is_secret(&name));
        if !address.username().is_empty() || address.password().is_some() || is_told {
            return Err(bad("an address must hold no credentials").hint("set the key as OPENAI_API_KEY"));
        }
        if key.as_ref().is_some_and(|key| key.chars().any(char::is_control)) {
            return Err(bad("the variable OPENAI_API_KEY holds a line end or another control character")
                .hint("set it to the key alone; a line end at its very end is left out"));
        }
        let path = address.path().trim_end_matches('/').to_owned();
        address.set_path(&path);
        let http = reqwest::Client::builder()
            .timeout(patience.timeout)
            // A prompt that is sent on elsewhere would be another request.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context(Kind::Internal, || "cannot make an HTTP client".into())?;
        Ok(Client { http, address, key, patience, answered: Arc::default() })
    }

    /// Where prompts are sent to.
    pub fn completions(&self) -> Url {
        self.at("chat/completions")
    }

    fn at(&self, what: &str) -> Url {
        let mut url = self.address.clone();
        url.set_path(&format!("{}/{what}", self.address.path().trim_end_matches('/')));
        url
    }

    /// The answer to a request; one that failed in a way that may pass is made again, until `stop` is requested.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn complete(&self, body: &Value, stop: &CancelToken) -> Result<Reply, Failed> {
        let text = body.to_string();
        let mut pause = self.patience.first;
        let mut until: Option<Instant> = None;
        let (mut seen, mut broken) = (self.answered.load(Ordering::Relaxed), 0);
        loop {
            let (what, after, why) = match self.ask(&text).await {
                Ok(reply) => return Ok(reply),
                Err(Tried::Ended(failed)) => return Err(failed),
                Err(Tried::Again { what, after, why }) => (what, after, why),
            };
            let answered = self.answered.load(Ordering::Relaxed);
            // From the first failure on, since a try may last longer than all patience; and where a busy server answers others
            // meanwhile, this one waits for its turn.
            if until.is_none() || (why == Why::Busy && answered > seen) {
                (until, pause) = (Some(Instant::now() + self.patience.whole), self.patience.first);
            }
            seen = answered;
            broken += u32::from(why == Why::Broken);
            let wait = after.map_or(pause, |after| after.max(self.patience.first));
            let is_late = until.is_some_and(|until| Instant::now() + wait > until);
            if (is_late || broken == TRIES_OF_ITS_OWN) && why == Why::Broken && self.answers_others(body).await {
                return Err(Failed::Broken(what));
            }
            if is_late {
                return Err(Failed::Later(match after {
                    Some(after) => format!("{what} (it asks to wait {} s)", after.as_secs()),
                    None => what,
                }));
            }
            tracing::debug!("the endpoint is asked again: {what}");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.requested() => return Err(Failed::Later(what)),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether the server answers a request of a word with a word: then it is the prompt on which it fails.
    async fn answers_others(&self, body: &Value) -> bool {
        let mut short = body.clone();
        short["messages"] = json!([{"role": "user", "content": "Hello"}]);
        if short.get("max_tokens").is_some() {
            short["max_tokens"] = 1.into();
        }
        if let Some(fields) = short.as_object_mut() {
            fields.retain(|name, _| name != "continue_final_message" && name != "add_generation_prompt");
        }
        self.ask(&short.to_string()).await.is_ok()
    }

    /// The names of the models that the endpoint serves, in its order. Asked once.
    ///
    /// # Errors
    /// Why it does not tell.
    pub async fn models(&self) -> Result<Vec<String>, Failed> {
        let told = self.send(self.http.get(self.at("models"))).await.map_err(|tried| match tried {
            Tried::Ended(failed) => failed,
            Tried::Again { what, .. } => Failed::Later(what),
        })?;
        let names = told["data"].as_array().map(|models| {
            models.iter().filter_map(|model| model["id"].as_str()).map(str::to_owned).collect::<Vec<_>>()
        });
        names.ok_or_else(|| Failed::All { status: 200, what: self.shown(&told.to_string()) })
    }

    async fn ask(&self, body: &str) -> Result<Reply, Tried> {
        let request = self.http.post(self.completions()).header("content-type", "application/json");
        let said = self.send(request.body(body.to_owned())).await?;
        let choice = &said["choices"][0];
        if !choice["message"].is_object() {
            return Err(Tried::Ended(Failed::All { status: 200, what: self.shown(&said.to_string()) }));
        }
        self.answered.fetch_add(1, Ordering::Relaxed);
        Ok(reply(choice, &said["usage"]))
    }

    async fn send(&self, mut request: reqwest::RequestBuilder) -> Result<Value, Tried> {
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        // The address stands in the error already; a library's words may hold it with more.
        let silent = |e: reqwest::Error| {
            let mut what = e.to_string();
            if let Some(cause) = innermost(&e) {
                what = format!("{what}: {cause}");
            }
            // A server that took it and did not end may stumble over this prompt alone.
            let why = if e.is_timeout() && !e.is_connect() { Why::Broken } else { Why::Silent };
            Tried::Again { what: self.shown(&what), after: None, why }
        };
        let mut response = request.send().await.map_err(|e| silent(e.without_url()))?;
        let status = response.status();
        let after = response.headers().get("retry-after").and_then(|value| retry_after(value.to_str().ok()?));
        let mut bytes = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|e| silent(e.without_url()))? {
            bytes.extend_from_slice(&part);
            if bytes.len() > MOST {
                let what = format!("{status}: an answer of more than {} MiB", MOST >> 20);
                return Err(Tried::Ended(Failed::All { status: status.as_u16(), what }));
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let what = || format!("{status}: {}", self.shown(&text));
        let again = |why| Err(Tried::Again { what: what(), after, why });
        match status.as_u16() {
            200..=299 => {
                serde_json::from_str(&text).map_err(|_| Tried::Ended(Failed::All { status: 200, what: what() }))
            }
            429 => again(Why::Busy),
            503 if after.is_some() => again(Why::Busy),
            408 | 409 | 424 | 425 | 500..=599 => again(Why::Broken),
            // Of this one prompt: its words, its length, a filter. All else, such as an empty account, is of every other as well.
            400 | 413 | 422 | 451 => Err(Tried::Ended(Failed::Refused(what()))),
            status => Err(Tried::Ended(Failed::All { status, what: what() })),
        }
    }

    /// A server's words, cut, and without the key, which some repeat.
    fn shown(&self, text: &str) -> String {
        let text = match &self.key {
            Some(key) if !key.is_empty() => text.replace(key.as_str(), "***"),
            _ => text.to_owned(),
        };
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
        line.trim().to_owned()
    }
}

/// The words of the error that lies at the bottom of another, such as "connection refused".
fn innermost(error: &dyn std::error::Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(next) = cause.source() {
        cause = next;
    }
    Some(cause.to_string())
}

/// How long a server asks to wait: seconds, or a moment.
fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds).min(FOREVER));
    }
    let moment = DateTime::parse_from_rfc2822(value.trim()).ok()?;
    // One that has passed asks for no pause.
    Some((moment.to_utc() - Utc::now()).to_std().unwrap_or_default().min(FOREVER))
}

fn reply(choice: &Value, usage: &Value) -> Reply {
    let of_tokens = |tokens: &Vec<Value>| {
        let all: Option<Vec<f64>> = tokens.iter().map(|token| token["logprob"].as_f64()).collect();
        all.filter(|all| !all.is_empty()).map(|all| all.iter().sum::<f64>())
    };
    let count = |value: &Value| value.as_u64();
    Reply {
        text: choice["message"]["content"].as_str().unwrap_or_default().to_owned(),
        finish: choice["finish_reason"].as_str().map(str::to_owned),
        logprob_sum: choice["logprobs"]["content"].as_array().and_then(of_tokens),
        usage: count(&usage["prompt_tokens"]).zip(count(&usage["completion_tokens"])).map(|(prompt, completion)| {
            Usage {
                prompt,
                cached: count(&usage["prompt_tokens_details"]["cached_tokens"]).unwrap_or(0).min(prompt),
                completion,
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_server_says_how_long_to_wait_in_seconds_or_by_a_moment() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO), "it has passed");
        let later = (Utc::now() + chrono::TimeDelta::seconds(100)).to_rfc2822();
        let wait = retry_after(&later).unwrap();
        assert!((90..=100).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after(&u64::MAX.to_string()), Some(FOREVER));
    }

    #[test]
    fn an_answer_is_read_with_what_the_server_tells_of_it() {
        let usage = json!({"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}});
        let choice = json!({
            "message": {"role": "assistant", "content": " Because. \n"},
            "finish_reason": "length",
            "logprobs": {"content": [{"token": "Because", "logprob": -0.5}, {"token": ".", "logprob": -0.25}]},
        });
        let told = reply(&choice, &usage);
        assert_eq!((told.text.as_str(), told.finish.as_deref()), (" Because. \n", Some("length")));
        assert_eq!(told.logprob_sum, Some(-0.75));
        assert_eq!(told.usage, Some(Usage { prompt: 7, cached: 5, completion: 3 }));
        // What it does not tell is not known, and a refusal without content has no text.
        let bare = reply(&json!({"message": {"content": null}, "logprobs": {"content": []}}), &Value::Null);
        assert_eq!(bare, Reply { text: String::new(), finish: None, logprob_sum: None, usage: None });
    }

    #[test]
    fn an_address_ends_as_it_should_and_holds_no_secret() {
        let patience = Patience { first: Duration::ZERO, whole: Duration::ZERO, timeout: Duration::from_secs(1) };
        let client = |address: &str| Client::new("[model] generator", address, None, patience);
        for address in ["http://host/v1", "http://host/v1/"] {
            assert_eq!(client(address).unwrap().completions().as_str(), "http://host/v1/chat/completions");
            assert_eq!(client(address).unwrap().at("models").as_str(), "http://host/v1/models");
        }
        assert_eq!(client("http://host").unwrap().completions().as_str(), "http://host/chat/completions");
        let told = client("http://user:word@host/v1").err().unwrap().explain();
        assert!(
            told.contains("[model] generator") && told.contains("credentials") && !told.contains("word@"),
            "{told}"
        );
    }
}
