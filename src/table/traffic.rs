//! What goes over the wire to an S3 store: how much, how often again, and nothing that an error may not quote.
//!
//! object_store sends and repeats the requests; this stands between it and the socket. It counts every attempt, lets
//! those be repeated that may be, and blanks credentials in what a server answers to a failed request, so that none can
//! get into an error or a log line from there. Knows HTTP and nothing of objects.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use hyper::body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};
use serde::{Deserialize, Serialize};

use crate::table::redact::redact;

/// Requests to remote stores. Local disks make none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Attempts, failed ones included.
    pub requests: u64,
    /// Attempts that failed in a way that may pass: 5xx, 408, 429, no connection, no answer in time, a torn answer. Each
    /// was made again until it succeeded or `[store]` said enough.
    pub retries: u64,
    /// Of those, the ones that the store refused because there were too many (429, 503).
    pub throttled: u64,
    /// Of those, the ones that had no answer in time.
    pub timeouts: u64,
}

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static RETRIES: AtomicU64 = AtomicU64::new(0);
static THROTTLED: AtomicU64 = AtomicU64::new(0);
static TIMEOUTS: AtomicU64 = AtomicU64::new(0);

/// The traffic of this process so far.
pub fn traffic() -> Traffic {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Traffic {
        requests: read(&REQUESTS),
        retries: read(&RETRIES),
        throttled: read(&THROTTLED),
        timeouts: read(&TIMEOUTS),
    }
}

impl Traffic {
    /// What was added since `earlier`.
    pub fn since(self, earlier: Traffic) -> Traffic {
        Traffic {
            requests: self.requests - earlier.requests,
            retries: self.retries - earlier.retries,
            throttled: self.throttled - earlier.throttled,
            timeouts: self.timeouts - earlier.timeouts,
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn count_failure(error: &HttpError) {
    count(&RETRIES);
    if matches!(error.kind(), HttpErrorKind::Timeout) {
        count(&TIMEOUTS);
    }
}

/// Makes clients whose requests are counted.
#[derive(Debug)]
pub(crate) struct Watched;

impl HttpConnector for Watched {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(WatchedClient(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct WatchedClient(HttpClient);

#[async_trait::async_trait]
impl HttpService for WatchedClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        count(&REQUESTS);
        let query = request.uri().query().unwrap_or_default();
        // Removing again what is gone is no harm, and a conditional put that comes twice is applied once: its caller finds
        // out by reading. object_store would give up on either when a connection breaks.
        let is_update = request.headers().contains_key("if-match");
        let is_conditional = is_update || request.headers().contains_key("if-none-match");
        let may_repeat = is_conditional || query.split('&').any(|part| part == "delete" || part == "delete=");
        // Every other answer is short and is read whole, so that a torn one is a failed attempt like any other.
        let is_object = request.method().as_str() == "GET" && !query.contains("list-type=");
        let again = |e: HttpError| match e.kind() {
            HttpErrorKind::Timeout | HttpErrorKind::Interrupted if may_repeat => {
                HttpError::new(HttpErrorKind::Request, e)
            }
            _ => e,
        };
        let response = self.0.execute(request).await.inspect_err(count_failure).map_err(again)?;
        let (parts, body) = response.into_parts();
        let status = parts.status.as_u16();
        if status >= 400 {
            // object_store repeats conflicting updates.
            if matches!(status, 408 | 429 | 500..) || (status == 409 && is_update) {
                count(&RETRIES);
            }
            if matches!(status, 429 | 503) {
                count(&THROTTLED);
            }
            let said = body.bytes().await.unwrap_or_default();
            let said = redact(&String::from_utf8_lossy(&said));
            return Ok(HttpResponse::from_parts(parts, said.into()));
        }
        if is_object {
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(WatchedBody(body))));
        }
        let whole = body.bytes().await.inspect_err(count_failure);
        let whole = whole.map_err(|e| HttpError::new(HttpErrorKind::Request, e))?;
        Ok(HttpResponse::from_parts(parts, whole.into()))
    }
}

/// An object's bytes; object_store asks for the rest where they break off.
struct WatchedBody(HttpResponseBody);

impl Body for WatchedBody {
    type Data = bytes::Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, HttpError>>> {
        let polled = Pin::new(&mut self.0).poll_frame(context);
        if let Poll::Ready(Some(Err(e))) = &polled {
            count_failure(e);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
