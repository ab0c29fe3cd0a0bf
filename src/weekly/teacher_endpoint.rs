//! A teacher behind an OpenAI-compatible endpoint (`POST {address}/chat/completions`): every question is asked once.
//!
//! Knows the file of answers to which each is appended as it comes ([`crate::weekly::teacher_log`]): a run that was killed asks
//! only what has no answer yet, and a later run pays for no answer twice. A refusal is kept like an answer, so that a training
//! that was killed goes on with the same examples; without the file all is asked again. The protocol is left to
//! [`crate::generate::chat_completions`]. How a question is put and what the answers are worth stands in
//! [`crate::weekly::teacher`], for every teacher the same.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::cancel::CancelToken;
use crate::error::{Error, Kind, Result};
use crate::generate::chat_completions::{Client, Failed, Patience, Usage};
use crate::weekly::teacher::{Answers, Asked};
use crate::weekly::teacher_log::{Line, Log};

/// How long a question is asked again before the endpoint counts as down.
const PATIENCE: Patience =
    Patience { first: Duration::from_secs(1), whole: Duration::from_secs(60), timeout: Duration::from_secs(180) };

/// Whom to ask, and how.
#[derive(Clone)]
pub struct Endpoint {
    client: Client,
    model: String,
    max_tokens: u64,
    at_once: usize,
}

impl Endpoint {
    /// `address` is what stands before `/chat/completions`; `key` goes into the header of each request and nowhere else.
    ///
    /// # Errors
    /// `Kind::Config` for an address that is none or holds credentials, and where no model is named.
    pub fn new(address: &str, model: &str, key: Option<String>, max_tokens: u64, at_once: usize) -> Result<Endpoint> {
        Endpoint::with(address, model, key, max_tokens, at_once, PATIENCE)
    }

    fn with(
        address: &str,
        model: &str,
        key: Option<String>,
        max_tokens: u64,
        at_once: usize,
        patience: Patience,
    ) -> Result<Endpoint> {
        let client = Client::new("[align] teacher", address, key, patience)?;
        if model.is_empty() {
            return Err(Error::new(Kind::Config, "[align] teacher: an endpoint wants a model")
                .hint("set [align] teacher_model"));
        }
        Ok(Endpoint { client, model: model.to_owned(), max_tokens, at_once: at_once.max(1) })
    }

    /// The questions' answers; those that are not in `file` are asked for and appended to it.
    ///
    /// # Errors
    /// `Kind::Config` where the endpoint takes no key, no such model or no question at all; `Kind::Temporary` where it cannot
    /// be reached for long, `Kind::Interrupted` after a signal: what was answered is kept.
    pub async fn ask(&self, questions: &[Asked], file: &Path, stop: &CancelToken) -> Result<Answers> {
        let mut log = Log::open(file)?;
        let keys: Vec<String> = questions.iter().map(|question| self.digest(question)).collect();
        let mut new = HashSet::new();
        // Of two questions in the same words one is asked.
        let mut pending: Vec<(&Asked, &String)> = questions.iter().zip(&keys).collect();
        pending.retain(|(_, key)| !log.holds(key) && new.insert(*key));
        tracing::info!(questions = questions.len(), pending = pending.len(), "asking the teacher");
        let mut answers =
            futures::stream::iter(pending)
                .map(|(question, key)| async move {
                    (question, key, self.client.complete(&self.body(question), stop).await)
                })
                .buffer_unordered(self.at_once);
        let mut refusal = None;
        while let Some((question, key, answered)) = stop.or(async { Ok(answers.next().await) }).await? {
            let (text, usage) = match answered {
                Ok(reply) => (Some(reply.text.trim().to_owned()), reply.usage.unwrap_or_default()),
                Err(Failed::Refused(what)) => {
                    tracing::warn!(example_id = question.id, "the teacher refused a question: {what}");
                    refusal = Some(what);
                    (None, Usage::default())
                }
                Err(Failed::Later(what) | Failed::Broken(what)) => {
                    return Err(self
                        .error(Kind::Temporary, "the teacher does not answer", &what)
                        .hint("answers so far are kept; run the same command again"));
                }
                Err(Failed::All { what, .. }) => {
                    return Err(self
                        .error(Kind::Config, "the teacher takes no questions", &what)
                        .hint("look at [align] teacher and teacher_model, at the variable OPENAI_API_KEY, and at the account behind it; \
                               answers so far are kept"));
                }
            };
            log.keep(Line {
                question: key.clone(),
                example_id: question.id.clone(),
                sample: 0,
                answer_text: text,
                finish: None,
                logprob_sum: None,
                prompt_tokens: usage.prompt,
                completion_tokens: usage.completion,
                micros: 0,
            })?;
        }
        let found =
            log.answers(questions.iter().zip(&keys).map(|(question, key)| (question.id.as_str(), key.as_str())));
        if found.texts.is_empty() && found.unanswered > 0 {
            let why = refusal.unwrap_or_else(|| "in an earlier run".to_owned());
            return Err(self
                .error(Kind::Config, "the teacher refused every question", &why)
                .with("file", file.display())
                .hint("remove the file to ask again"));
        }
        Ok(found)
    }

    fn error(&self, kind: Kind, what: &str, why: &str) -> Error {
        Error::new(kind, format!("{what}: {why}")).with("endpoint", self.client.completions())
    }

    /// Everything that an answer follows from.
    fn digest(&self, question: &Asked) -> String {
        let body = self.body(question).to_string();
        blake3::hash(format!("{} {body}", self.client.completions()).as_bytes()).to_hex()[..32].to_owned()
    }

    fn body(&self, question: &Asked) -> Value {
        json!({
            "model": self.model,
            "messages": [{"role": "user", "content": question.text()}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    type Seen = Arc<Mutex<Vec<(String, String)>>>;

    /// A server that answers each request by `answer`, from its number and its body; keeps heads and bodies.
    fn server(answer: impl Fn(usize, &str) -> (u16, String) + Send + 'static) -> (String, Seen) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1/", listener.local_addr().unwrap());
        let seen = Seen::default();
        let kept = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut head, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
                        break;
                    }
                    if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                        length = n.trim().parse().unwrap();
                    }
                    head += &line;
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let body = String::from_utf8(body).unwrap();
                let n = {
                    let mut kept = kept.lock().unwrap();
                    kept.push((head, body.clone()));
                    kept.len() - 1
                };
                let (status, text) = answer(n, &body);
                let reply = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nretry-after: 0\r\nconnection: close\r\n\r\n{text}",
                    text.len()
                );
                stream.write_all(reply.as_bytes()).unwrap();
            }
        });
        (address, seen)
    }

    fn said(content: &str) -> (u16, String) {
        let usage = json!({"prompt_tokens": 7, "completion_tokens": 3});
        (200, json!({"choices": [{"message": {"role": "assistant", "content": content}}], "usage": usage}).to_string())
    }

    fn endpoint(address: &str) -> Endpoint {
        let key = Some("sk-secret".to_owned());
        let patience = Patience {
            first: Duration::from_millis(1),
            whole: Duration::from_millis(200),
            timeout: Duration::from_secs(180),
        };
        Endpoint::with(address, "m", key, 99, 2, patience).unwrap()
    }

    fn questions(n: usize) -> Vec<Asked> {
        let verdict = |i: usize| [None, Some(true), Some(false)][i % 3];
        (0..n)
            .map(|i| Asked {
                id: format!("q{i}"),
                prompt: format!("About \"Alpha {i}\"\n?"),
                stem: "<think>".into(),
                verdict: verdict(i),
            })
            .collect()
    }

    #[tokio::test]
    async fn every_question_is_paid_for_once_and_told_its_outcome() {
        let (address, seen) = server(|n, _| match n {
            0 => (429, "slow down".into()),
            1 => (503, "not now".into()),
            _ => said(" <think>a</think><reason>b</reason> "),
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("teacher.jsonl");
        let (endpoint, stop) = (endpoint(&address), CancelToken::default());
        let answers = endpoint.ask(&questions(3), &file, &stop).await.unwrap();
        assert_eq!(answers.texts.len(), 3);
        assert_eq!(answers.texts["q1"], ["<think>a</think><reason>b</reason>"]);
        assert_eq!((answers.given, answers.unanswered), (3, 0));
        assert_eq!((answers.prompt_tokens, answers.completion_tokens), (21, 9));
        {
            let seen = seen.lock().unwrap();
            assert_eq!(seen.len(), 5, "two were asked again");
            let (head, body) = &seen[4];
            assert!(head.starts_with("POST /v1/chat/completions ") && head.contains("Bearer sk-secret"), "{head}");
            let body: Value = serde_json::from_str(body).unwrap();
            assert_eq!((&body["model"], &body["max_tokens"]), (&json!("m"), &json!(99)));
            let has = |what: &str| seen.iter().any(|(_, body)| body.contains(what));
            assert!(has("<verdict>yes</verdict>") && has("<verdict>no</verdict>") && has("Alpha 0"));
        }
        // What is kept is not asked again, also after a line that was cut short; what is new is.
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("sk-secret"));
        let whole: Vec<&str> = text.lines().collect();
        std::fs::write(&file, format!("{}\n{}\n{}", whole[0], whole[1], &whole[2][..20])).unwrap();
        let answers = endpoint.ask(&questions(4), &file, &stop).await.unwrap();
        assert_eq!((answers.texts.len(), seen.lock().unwrap().len()), (4, 7));
        assert_eq!(endpoint.ask(&questions(4), &file, &stop).await.unwrap(), answers);
        assert_eq!(seen.lock().unwrap().len(), 7);
        // Another model's answers are other answers.
        let other = Endpoint { model: "n".into(), ..endpoint };
        other.ask(&questions(1), &file, &stop).await.unwrap();
        assert_eq!(seen.lock().unwrap().len(), 8);
    }

    #[tokio::test]
    async fn what_fails_says_what_to_do_and_keeps_the_key_to_itself() {
        let folder = tempfile::tempdir().unwrap();
        for (status, text, kind, says) in [
            (401, "no such key sk-secret", Kind::Config, "OPENAI_API_KEY"),
            (404, "no such model", Kind::Config, "teacher_model"),
            (402, "insufficient balance", Kind::Config, "the account behind it"),
            (200, "<html>", Kind::Config, "<html>"),
            (200, "{\"object\": \"list\"}", Kind::Config, "object"),
            (400, "too long", Kind::Config, "every question"),
            (500, "out of order", Kind::Temporary, "run the same command again"),
        ] {
            let (address, _) = server(move |_, _| (status, text.to_owned()));
            let file = folder.path().join(format!("{status}-{}", text.len()));
            let error = endpoint(&address).ask(&questions(3), &file, &CancelToken::default()).await.unwrap_err();
            let told = error.explain();
            assert_eq!(error.kind(), kind, "{told}");
            assert!(told.contains(says) && !told.contains("sk-secret"), "{told}");
        }
        // An account that runs empty says nothing of the questions that are left: they are asked when it is full again.
        let (address, seen) = server(|n, _| if n == 1 { (402, "empty".into()) } else { said("x") });
        let (file, one) = (folder.path().join("empty"), Endpoint { at_once: 1, ..endpoint(&address) });
        one.ask(&questions(3), &file, &CancelToken::default()).await.unwrap_err();
        let answers = one.ask(&questions(3), &file, &CancelToken::default()).await.unwrap();
        assert_eq!((answers.texts.len(), answers.unanswered, seen.lock().unwrap().len()), (3, 0, 4));

        // One that is refused is one less, the next time too.
        let (address, seen) =
            server(|_, body| if body.contains("Alpha 1") { (400, "too long".into()) } else { said("x") });
        let file = folder.path().join("some");
        let answers = endpoint(&address).ask(&questions(3), &file, &CancelToken::default()).await.unwrap();
        assert_eq!((answers.texts.len(), answers.unanswered), (2, 1));
        let again = endpoint(&address).ask(&questions(3), &file, &CancelToken::default()).await.unwrap();
        assert!(again == answers && seen.lock().unwrap().len() == 3);

        let bad = |address: &str, model: &str| Endpoint::new(address, model, None, 1, 1).err().unwrap().explain();
        assert!(bad("http://user:word@host/v1", "m").contains("credentials"));
        assert!(!bad("http://user:word@host/v1", "m").contains("word@"));
        assert!(bad("http://host/v1", "").contains("teacher_model"));
        assert!(bad("http://", "m").contains("no address"));
        let two_lines = Endpoint::new("http://host/v1", "m", Some("sk-a\nsk-b".into()), 1, 1).err().unwrap().explain();
        assert!(two_lines.contains("OPENAI_API_KEY") && !two_lines.contains("sk-a"), "{two_lines}");
    }
}
