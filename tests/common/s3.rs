//! S3 servers for tests: s3s-fs in the process, with faults on demand over real sockets, and moto as a child process.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use curec::table::store::{Location, StoreOptions};
use futures::StreamExt;
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};

use crate::common::World;

pub const KEY: &str = "AKIATESTACCESSKEYID1";
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYtestsecret";
pub const TOKEN: &str = "IQoJb3JpZ2luX2VjEtestsessiontoken==";

/// What a server does instead of answering.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Answers with this status and does nothing.
    Status(u16),
    /// The same, quoting all that was sent, as a hostile or chatty server may.
    Echo(u16),
    /// Breaks the connection, nothing done.
    ResetBefore,
    /// Does it and breaks the connection.
    ResetAfter,
    /// Breaks the connection in the middle of the answer's body.
    TornAnswer,
    /// Breaks the connection in the middle of the request's body, nothing done.
    TornRequest,
    /// Says nothing for so long, then breaks the connection, nothing done.
    Stall(Duration),
    /// Does it late.
    Slow(Duration),
}

/// What of a request a rule can ask for.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: String,
    pub path: String,
    pub query: String,
    pub is_conditional: bool,
}

/// Which requests meet a fault.
#[derive(Clone, Copy)]
pub struct Rule {
    pub fault: Fault,
    /// Of those concerned, every so manieth.
    pub every: usize,
    /// At most so many.
    pub limit: usize,
    pub concerns: fn(&Call) -> bool,
}

impl Rule {
    pub fn every(every: usize, fault: Fault) -> Rule {
        Rule { fault, every, limit: usize::MAX, concerns: |_| true }
    }

    pub fn of(self, concerns: fn(&Call) -> bool) -> Rule {
        Rule { concerns, ..self }
    }

    pub fn at_most(self, limit: usize) -> Rule {
        Rule { limit, ..self }
    }
}

#[derive(Default)]
struct Counts {
    rule: Option<Rule>,
    concerned: usize,
    injected: usize,
    requests: usize,
}

#[derive(Default)]
struct State {
    counts: Mutex<Counts>,
    /// s3s-fs looks at an object and then writes it: one put at a time makes that one step.
    puts: tokio::sync::Mutex<()>,
}

/// s3s-fs over a folder that holds a folder for each bucket; serves until the process ends.
#[derive(Clone)]
pub struct Server {
    pub endpoint: String,
    state: Arc<State>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Server {
    pub fn new(root: &Path) -> Server {
        let mut builder = s3s::service::S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
        builder.set_auth(s3s::auth::SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let state = Arc::new(State::default());
        let shared = state.clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    // Whatever this side closes is a reset for the other.
                    stream.set_zero_linger().unwrap();
                    let (service, state) = (service.clone(), shared.clone());
                    let handler = hyper::service::service_fn(move |request| {
                        let (service, state) = (service.clone(), state.clone());
                        async move { state.answer(&service, request).await }
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(hyper_util::rt::TokioIo::new(stream), handler);
                    tokio::spawn(connection);
                }
            });
        });
        Server { endpoint: format!("http://{}", receiver.recv().unwrap()), state }
    }

    /// From now on these requests fail; counts begin anew.
    pub fn fail(&self, rule: Option<Rule>) {
        *self.state.counts.lock().unwrap() = Counts { rule, ..Counts::default() };
    }

    /// Faults since the rule was set.
    pub fn injected(&self) -> usize {
        self.state.counts.lock().unwrap().injected
    }

    /// Requests that the rule was about, since it was set.
    pub fn concerned(&self) -> usize {
        self.state.counts.lock().unwrap().concerned
    }

    /// Requests since the rule was set.
    pub fn requests(&self) -> usize {
        self.state.counts.lock().unwrap().requests
    }

    pub fn location(&self, url: &str) -> Location {
        Location::parse_with(url, &options(&self.endpoint)).unwrap()
    }
}

impl State {
    fn next(&self, call: &Call) -> Option<Fault> {
        let mut counts = self.counts.lock().unwrap();
        counts.requests += 1;
        let rule = counts.rule.filter(|rule| (rule.concerns)(call))?;
        counts.concerned += 1;
        if counts.injected >= rule.limit || !counts.concerned.is_multiple_of(rule.every) {
            return None;
        }
        counts.injected += 1;
        Some(rule.fault)
    }

    async fn apply(
        &self,
        service: &s3s::service::S3Service,
        request: Request<Incoming>,
    ) -> Result<Response<s3s::Body>, Failure> {
        let _one = match request.method().as_str() {
            "PUT" => Some(self.puts.lock().await),
            _ => None,
        };
        service.call(request.map(s3s::Body::from)).await.map_err(|e| format!("{e:?}").into())
    }

    async fn answer(
        &self,
        service: &s3s::service::S3Service,
        request: Request<Incoming>,
    ) -> Result<Response<s3s::Body>, Failure> {
        let headers = request.headers();
        let call = Call {
            method: request.method().to_string(),
            path: request.uri().path().to_string(),
            query: request.uri().query().unwrap_or_default().to_string(),
            is_conditional: headers.contains_key("if-match") || headers.contains_key("if-none-match"),
        };
        match self.next(&call) {
            None => self.apply(service, request).await,
            Some(Fault::Slow(time)) => {
                tokio::time::sleep(time).await;
                self.apply(service, request).await
            }
            Some(Fault::Status(status)) => {
                drain(request).await;
                Ok(refusal(status, "We are sorry."))
            }
            Some(Fault::Echo(status)) => {
                let sent: Vec<String> =
                    headers.iter().map(|(k, v)| format!("{k}: {}", String::from_utf8_lossy(v.as_bytes()))).collect();
                let said = format!(
                    "key {KEY} secret {SECRET} token {TOKEN} <SecretAccessKey>{SECRET}</SecretAccessKey> \
                     quoted {} {}",
                    SECRET.replace('/', "%2F").replace('+', "%2B"),
                    sent.join("\n")
                );
                drain(request).await;
                Ok(refusal(status, &said))
            }
            Some(Fault::ResetBefore) => Err("reset before".into()),
            Some(Fault::TornRequest) => {
                let mut body = s3s::Body::from(request.into_body());
                let _ = body.next().await;
                Err("torn request".into())
            }
            Some(Fault::Stall(time)) => {
                tokio::time::sleep(time).await;
                Err("stalled".into())
            }
            Some(Fault::ResetAfter) => {
                let _ = collect(self.apply(service, request).await?).await;
                Err("reset after".into())
            }
            Some(Fault::TornAnswer) => {
                let (mut parts, body) = collect(self.apply(service, request).await?).await;
                if !parts.headers.contains_key("content-length") {
                    parts.headers.insert("content-length", (body.len().max(1)).into());
                }
                let half = body.slice(..body.len() / 2);
                Ok(Response::from_parts(parts, s3s::Body::http_body_unsync(Torn { half: Some(half), pause: None })))
            }
        }
    }
}

/// An answer before the whole request has come would break the connection instead.
async fn drain(request: Request<Incoming>) {
    let mut body = s3s::Body::from(request.into_body());
    while let Some(Ok(_)) = body.next().await {}
}

fn refusal(status: u16, message: &str) -> Response<s3s::Body> {
    let code = match status {
        503 => "SlowDown",
        403 => "SignatureDoesNotMatch",
        _ => "InternalError",
    };
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let mut response = Response::new(s3s::Body::from(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

async fn collect(response: Response<s3s::Body>) -> (hyper::http::response::Parts, Bytes) {
    let (parts, mut body) = response.into_parts();
    let mut whole = Vec::new();
    while let Some(Ok(bytes)) = body.next().await {
        whole.extend_from_slice(&bytes);
    }
    (parts, whole.into())
}

/// Half a body, a moment for it to arrive, and then nothing more.
struct Torn {
    half: Option<Bytes>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl hyper::body::Body for Torn {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(half) = self.half.take().filter(|half| !half.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(half))));
        }
        let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::from_millis(20))));
        pause.as_mut().poll(cx).map(|()| Some(Err(std::io::ErrorKind::ConnectionReset.into())))
    }
}

/// How a library user opens a store at an endpoint; impatient.
pub fn options(endpoint: &str) -> StoreOptions {
    StoreOptions {
        vars: variables(endpoint),
        timeout: Duration::from_secs(20),
        max_retries: 4,
        retry_timeout: Duration::from_secs(20),
        ..StoreOptions::default()
    }
}

/// The AWS variables for an endpoint.
pub fn variables(endpoint: &str) -> BTreeMap<String, String> {
    [
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The moto server of the Python in `CUREC_PYTHON`, until it is dropped.
pub struct Moto {
    child: Child,
    pub endpoint: String,
}

impl Moto {
    /// Starts it with empty buckets; `None` with a reason printed where there is no moto.
    pub fn start(buckets: &[&str]) -> Option<Moto> {
        let python = std::env::var_os("CUREC_PYTHON").unwrap_or_else(|| "python3".into());
        let has_moto = Command::new(&python).args(["-c", "import moto.server, flask"]).stderr(Stdio::null()).status();
        if !has_moto.is_ok_and(|status| status.success()) {
            println!("skipped: no Python with moto[server] (CUREC_PYTHON; ci/test.sh makes one)");
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(&python)
            .args(["-m", "moto.server", "--host", "127.0.0.1", "--port", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Moto { child, endpoint: format!("http://127.0.0.1:{port}") };
        let deadline = Instant::now() + Duration::from_secs(60);
        for bucket in buckets {
            while !moto.has_made(bucket, port) {
                assert!(Instant::now() < deadline, "moto does not answer on port {port}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Some(moto)
    }

    fn has_made(&self, bucket: &str, port: u16) -> bool {
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
        let request =
            format!("PUT /{bucket} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let sent = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
        sent.is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    pub fn location(&self, url: &str) -> Location {
        Location::parse_with(url, &options(&self.endpoint)).unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A world whose inputs and warehouse are in buckets of a server in the process: `s3://logs/input`, `s3://lake/...`.
pub struct Bucket {
    pub world: World,
    pub server: Server,
}

pub const NIGHT: [&str; 6] = ["run", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];

impl Bucket {
    pub fn new() -> Bucket {
        let world = World::new();
        std::fs::create_dir_all(world.path("s3/logs")).unwrap();
        std::fs::create_dir_all(world.path("s3/lake")).unwrap();
        std::fs::rename(world.path("input"), world.path("s3/logs/input")).unwrap();
        let server = Server::new(&world.path("s3"));
        Bucket { world, server }
    }

    /// A command on the warehouse `s3://lake/<warehouse>`.
    pub fn command(&self, args: &[&str], warehouse: &str) -> Command {
        let mut command = self.world.command(args);
        on_s3(&mut command, &self.server.endpoint, warehouse);
        command
    }

    pub fn run(&self, warehouse: &str) -> Output {
        self.command(&NIGHT, warehouse).output().unwrap()
    }

    /// Published data files of a warehouse with their bytes' digest, sorted.
    pub fn published(&self, warehouse: &str) -> Vec<(String, String)> {
        let root = self.world.path("s3/lake").join(warehouse);
        let is_data = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("part-");
        let is_staged = |place: &str| place.starts_with('_');
        let digest = |path: &PathBuf| blake3::hash(&std::fs::read(path).unwrap()).to_hex().to_string();
        files(&root)
            .iter()
            .filter(|path| is_data(path))
            .map(|path| (path.strip_prefix(&root).unwrap().display().to_string(), digest(path)))
            .filter(|(place, _)| !is_staged(place))
            .collect()
    }
}

/// Points a command of a [`World`] at buckets `logs` and `lake`.
pub fn on_s3(command: &mut Command, endpoint: &str, warehouse: &str) {
    command.args(["--set", &format!("warehouse=s3://lake/{warehouse}")]);
    command.args(["--set", "input.interaction=s3://logs/input/interaction.parquet"]);
    command.args(["--set", "input.item=s3://logs/input/item.parquet"]);
    command.envs(variables(endpoint));
}

/// All files below a folder, sorted.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(root) else { return found };
    for path in entries.map(|e| e.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
