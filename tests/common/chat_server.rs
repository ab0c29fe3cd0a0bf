//! A small server of chat completions: what it answers follows from the prompt alone, and it can refuse, wait, or be down.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What the server says to a prompt.
pub enum Said {
    /// An answer, made of the prompt.
    Answer,
    /// A status with a body, and a number of seconds for `Retry-After`.
    Status(u16, String, Option<u64>),
    /// Nothing: the connection is closed.
    Nothing,
}

type Answer = Box<dyn Fn(usize, &str) -> Said + Send + Sync>;

pub struct ChatServer {
    pub address: String,
    state: Arc<State>,
}

struct State {
    /// By the number of the request and the words of its prompt.
    answer: Answer,
    models: Vec<&'static str>,
    /// Whether usage and log-likelihoods are told.
    tells: bool,
    pause: Duration,
    is_down: AtomicBool,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    /// Head and body of each request for an answer.
    seen: Mutex<Vec<(String, Value)>>,
    /// The prompts that were answered.
    answered: Mutex<Vec<String>>,
    looks: AtomicUsize,
}

impl ChatServer {
    /// A server that answers everything, so many milliseconds late.
    pub fn new(milliseconds: u64) -> ChatServer {
        ChatServer::with(milliseconds, true, vec!["m"], Box::new(|_, _| Said::Answer))
    }

    pub fn saying(answer: impl Fn(usize, &str) -> Said + Send + Sync + 'static) -> ChatServer {
        ChatServer::with(0, true, vec!["m"], Box::new(answer))
    }

    pub fn with(milliseconds: u64, tells: bool, models: Vec<&'static str>, answer: Answer) -> ChatServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(State {
            answer,
            models,
            tells,
            pause: Duration::from_millis(milliseconds),
            is_down: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            seen: Mutex::default(),
            answered: Mutex::default(),
            looks: AtomicUsize::new(0),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = shared.clone();
                // A client that is killed breaks its connections.
                std::thread::spawn(move || stream.and_then(|stream| serve(&state, stream)));
            }
        });
        ChatServer { address, state }
    }

    /// Heads and bodies of the requests so far.
    pub fn seen(&self) -> Vec<(String, Value)> {
        self.state.seen.lock().unwrap().clone()
    }

    /// The prompts that were answered, in order.
    pub fn answered(&self) -> Vec<String> {
        self.state.answered.lock().unwrap().clone()
    }

    /// Requests for the list of models.
    pub fn looks(&self) -> usize {
        self.state.looks.load(Ordering::SeqCst)
    }

    pub fn most_in_flight(&self) -> usize {
        self.state.most_in_flight.load(Ordering::SeqCst)
    }

    pub fn set_down(&self, is_down: bool) {
        self.state.is_down.store(is_down, Ordering::SeqCst);
    }
}

fn serve(state: &State, stream: TcpStream) -> std::io::Result<()> {
    if state.is_down.load(Ordering::SeqCst) {
        return Ok(());
    }
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        head += &line;
    }
    if head.starts_with("GET /v1/models ") {
        state.looks.fetch_add(1, Ordering::SeqCst);
        let models: Vec<Value> = state.models.iter().map(|id| json!({"id": id, "object": "model"})).collect();
        return reply(stream, 200, &json!({"object": "list", "data": models}).to_string(), None);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert!(head.starts_with("POST /v1/chat/completions "), "{head}");
    let prompt = body["messages"][0]["content"].as_str().unwrap().to_owned();
    let number = {
        let mut seen = state.seen.lock().unwrap();
        seen.push((head, body.clone()));
        seen.len() - 1
    };
    let now = state.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    state.most_in_flight.fetch_max(now, Ordering::SeqCst);
    std::thread::sleep(state.pause);
    let said = match state.is_down.load(Ordering::SeqCst) {
        true => Said::Nothing,
        false => (state.answer)(number, &prompt),
    };
    state.in_flight.fetch_sub(1, Ordering::SeqCst);
    match said {
        Said::Nothing => Ok(()),
        Said::Status(status, text, after) => reply(stream, status, &text, after),
        Said::Answer => {
            let digest = blake3::hash(prompt.as_bytes()).to_hex();
            let words = format!("People like it because of {}.", &digest[..8]);
            let mut answer = json!({
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": words}}],
            });
            if state.tells {
                let tokens: Vec<Value> = words.split(' ').map(|word| json!({"token": word, "logprob": -0.5})).collect();
                answer["usage"] =
                    json!({"prompt_tokens": prompt.split_whitespace().count() + 5, "completion_tokens": tokens.len()});
                answer["choices"][0]["logprobs"] = json!({ "content": tokens });
            }
            state.answered.lock().unwrap().push(prompt);
            reply(stream, 200, &answer.to_string(), None)
        }
    }
}

fn reply(mut stream: TcpStream, status: u16, text: &str, after: Option<u64>) -> std::io::Result<()> {
    let after = after.map_or_else(String::new, |after| format!("retry-after: {after}\r\n"));
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n{after}connection: close\r\n\r\n", text.len());
    stream.write_all((head + text).as_bytes())
}
