//! The places of `[watch]`, and what each is told: a file for node_exporter, a Pushgateway, a receiver or file of lineage, a
//! collector of traces.
//!
//! Knows how each place keeps what a run before has told of its success. Tells nothing that it was not given.

use std::fmt;
use std::fs::Permissions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use url::Url;

use crate::config::{WatchSpec, lineage_key, trace_headers, trace_parent};
use crate::error::{Context, Error, Kind, Result};
use crate::scratch::Partial;
use crate::watch::courier::Courier;
use crate::watch::exposition::Exposition;
use crate::watch::http::{self, Method};
use crate::watch::trace::Parent;

const SUCCESS: &str = "curec_last_success_timestamp_seconds";
const SUCCESS_HELP: &str = "When a run of the job last succeeded, in seconds since 1970 UTC.";
/// The longest file of metrics that is read back, in bytes: ours are far smaller.
const MAX_PAGE: u64 = 1 << 20;
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

/// Where a run tells how it goes. Cheap to clone: all clones share the places. By default there are none.
#[derive(Clone, Default)]
pub struct Watch {
    places: Option<Arc<Places>>,
    without_metrics: bool,
}

struct Places {
    file: Option<PathBuf>,
    gateway: Option<Url>,
    lineage: Option<Lineage>,
    namespace: String,
    traces: Option<Traces>,
    courier: Courier,
}

#[derive(Clone)]
enum Lineage {
    File(PathBuf),
    Address(Url, Vec<(String, String)>),
}

/// A collector of traces, what it is sent besides, and the span of who started this process.
struct Traces {
    to: Url,
    headers: Vec<(String, String)>,
    parent: Option<Parent>,
}

impl fmt::Debug for Watch {
    /// Without addresses: they may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("is_on", &self.places.is_some()).finish_non_exhaustive()
    }
}

impl Watch {
    /// The places of settings that were held against their rules.
    pub fn of(spec: &WatchSpec) -> Watch {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        let lineage = match Url::parse(&spec.openlineage) {
            Ok(url) if spec.openlineage.contains("://") => {
                let headers = lineage_key().iter().map(|key| http::bearer(key)).collect();
                Some(Lineage::Address(with_path(url, LINEAGE), headers))
            }
            _ => path(&spec.openlineage).map(Lineage::File),
        };
        let (file, gateway) = (path(&spec.prometheus_file), Url::parse(&spec.pushgateway).ok());
        let traces = Url::parse(&spec.otlp).ok().map(|url| Traces {
            to: with_path(url, TRACES),
            headers: trace_headers(),
            parent: trace_parent().as_deref().and_then(Parent::parse),
        });
        if file.is_none() && gateway.is_none() && lineage.is_none() && traces.is_none() {
            return Watch::default();
        }
        let namespace = spec.openlineage_namespace.clone();
        let places = Places { file, gateway, lineage, namespace, traces, courier: Courier::default() };
        Watch { places: Some(Arc::new(places)), without_metrics: false }
    }

    /// The same places but those of metrics, for a run that is part of another.
    pub fn without_metrics(&self) -> Watch {
        Watch { without_metrics: true, ..self.clone() }
    }

    /// Whether anybody wants metrics.
    pub fn wants_metrics(&self) -> bool {
        !self.without_metrics && self.places.as_ref().is_some_and(|p| p.file.is_some() || p.gateway.is_some())
    }

    /// The namespace of the job's lineage, where anybody wants that.
    pub fn lineage_namespace(&self) -> Option<&str> {
        self.places.as_ref().filter(|places| places.lineage.is_some()).map(|places| places.namespace.as_str())
    }

    /// Whether anybody wants traces.
    pub fn wants_traces(&self) -> bool {
        self.places.as_ref().is_some_and(|places| places.traces.is_some())
    }

    /// Tells the metrics of a run of `job` that has ended; returns at once. When a run last succeeded is added: `at`, or what
    /// the place knows of an earlier run.
    pub fn tell_metrics(&self, job: &str, metrics: Exposition, is_success: bool, at: DateTime<Utc>) {
        let Some(places) = self.places.as_ref().filter(|_| self.wants_metrics()) else { return };
        let seconds = at.timestamp_millis() as f64 / 1000.0;
        if let Some(file) = places.file.clone() {
            let (job, mut metrics) = (job.to_owned(), metrics.clone());
            let write = move || {
                let success = if is_success { Some(seconds) } else { last_success(&job, &file)? };
                if let Some(success) = success {
                    metrics.gauge(SUCCESS, SUCCESS_HELP, success);
                }
                replace(&file, &metrics.text())
            };
            places.courier.take("watch.prometheus_file", Box::pin(blocking(write)));
        }
        if let Some(gateway) = &places.gateway {
            let of_run = group(gateway, &["job", job]);
            // A group of its own: what replaces the run's metrics leaves it alone.
            let of_success = group(gateway, &["job", job, "outcome", "success"]);
            let mut success = Exposition::of(job);
            success.gauge(SUCCESS, SUCCESS_HELP, seconds);
            let push = async move {
                http::send(Method::Put, &of_run, TEXT, &[], metrics.text()).await?;
                match is_success {
                    true => http::send(Method::Put, &of_success, TEXT, &[], success.text()).await,
                    false => Ok(()),
                }
            };
            places.courier.take("watch.pushgateway", Box::pin(push));
        }
    }

    /// Tells one event of a run's lineage; returns at once.
    pub fn tell_lineage(&self, event: &Value) {
        let Some(places) = &self.places else { return };
        let Some(lineage) = places.lineage.clone() else { return };
        let event = event.to_string();
        match lineage {
            Lineage::File(file) => {
                places.courier.take("watch.openlineage", Box::pin(blocking(move || append(&file, &event))));
            }
            Lineage::Address(to, headers) => {
                let send = async move { http::send(Method::Post, &to, JSON, &headers, event).await };
                places.courier.take("watch.openlineage", Box::pin(send));
            }
        }
    }

    /// Tells the spans of a run, which `request` makes under the span that the process was started in; returns at once.
    pub fn tell_trace(&self, request: impl FnOnce(Option<&Parent>) -> Value) {
        let Some(places) = &self.places else { return };
        let Some(Traces { to, headers, parent }) = &places.traces else { return };
        let (to, headers, body) = (to.clone(), headers.clone(), request(parent.as_ref()).to_string());
        let send = async move { http::send(Method::Post, &to, JSON, &headers, body).await };
        places.courier.take("watch.otlp", Box::pin(send));
    }

    /// Waits until all is told, for two seconds at most.
    pub async fn settle(&self) {
        if let Some(places) = &self.places {
            places.courier.settle().await;
        }
    }
}

/// The path at which receivers take events.
const LINEAGE: &str = "/api/v1/lineage";
/// The path at which collectors take spans.
const TRACES: &str = "/v1/traces";

/// An address with the path that all of its kind have, unless it names one.
fn with_path(mut address: Url, path: &str) -> Url {
    if matches!(address.path(), "" | "/") {
        address.set_path(path);
    }
    address
}

/// The address of a group of metrics.
fn group(gateway: &Url, labels: &[&str]) -> Url {
    let mut address = gateway.clone();
    if let Ok(mut path) = address.path_segments_mut() {
        path.pop_if_empty().push("metrics").extend(labels);
    }
    address
}

/// Work with files, which may hang, on a thread of its own.
async fn blocking(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    tokio::task::spawn_blocking(work).await.context(Kind::Internal, || "the work broke off".into())?
}

/// When a run last succeeded, as the file of metrics tells; `None` where there is no file or it does not say.
fn last_success(job: &str, file: &Path) -> Result<Option<f64>> {
    let failed = |e: std::io::Error| of_file("cannot read the last success from it", file, e);
    match std::fs::metadata(file) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
        Ok(found) if !found.is_file() || found.len() > MAX_PAGE => {
            let hint = "name a file that only curec writes";
            return Err(Error::new(Kind::Config, "it is no file of metrics").with("file", file.display()).hint(hint));
        }
        Ok(_) => {}
    }
    let page = std::fs::read(file).map_err(failed)?;
    Ok(Exposition::of(job).read_back(SUCCESS, &String::from_utf8_lossy(&page)))
}

/// Writes a file as a whole: whoever reads it meanwhile reads the one before. The name beside it does not end in .prom.
fn replace(file: &Path, text: &str) -> Result<()> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let part = Partial::new(file.with_file_name(format!(".{name}.part-{}", std::process::id())));
    let failed = |e: std::io::Error| of_file("cannot write the metrics", file, e);
    std::fs::write(part.path(), text).map_err(failed)?;
    // Another user's node_exporter reads it, whatever the umask.
    std::fs::set_permissions(part.path(), Permissions::from_mode(0o644)).map_err(failed)?;
    std::fs::rename(part.path(), file).map_err(failed)
}

/// Appends a line in one go, so that lines of several processes stay whole.
fn append(file: &Path, line: &str) -> Result<()> {
    let failed = |e: std::io::Error| of_file("cannot append the event", file, e);
    let mut open = std::fs::OpenOptions::new().append(true).create(true).open(file).map_err(failed)?;
    open.write_all(format!("{line}\n").as_bytes()).map_err(failed)
}

/// What went wrong with a file, in the message itself: a warning shows no source.
fn of_file(what: &str, file: &Path, e: std::io::Error) -> Error {
    Error::new(Kind::Temporary, format!("{what}: {e}")).with("file", file.display())
}

#[cfg(test)]
mod tests;
