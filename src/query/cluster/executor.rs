//! An executor of a cluster: asks the scheduler for tasks, computes them, and hands their rows to other executors and clients.
//!
//! Knows Ballista's executor. Rows between stages lie in a temporary folder of this process, which ends with it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow_flight::flight_service_server::FlightServiceServer;
use ballista_core::extension::SessionConfigExt;
use ballista_core::ids::new_instance_id;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{ExecutorRegistration, ExecutorStoppedParams};
use ballista_core::serde::scheduler::{ExecutorOperatingSystemSpecification, ExecutorSpecification};
use ballista_core::utils::{GrpcClientConfig, GrpcServerConfig, create_grpc_client_endpoint, create_grpc_server};
use ballista_core::{BALLISTA_PROTOCOL_VERSION, ConfigProducer, RuntimeProducer};
use ballista_executor::execution_loop::poll_loop;
use ballista_executor::executor::Executor;
use ballista_executor::flight_service::BallistaFlightService;
use ballista_executor::health::ExecutorHealth;
use ballista_executor::metrics::LoggingMetricsCollector;
use futures::StreamExt;
use tokio::net::TcpListener;

use crate::cancel::CancelToken;
use crate::config::{Meanings, temporary_folder};
use crate::error::{Error, Kind, Result};
use crate::query::cluster::carried::{Carrier, codec};
use crate::query::cluster::listener::address_of;
use crate::query::cluster::settings::{self, MESSAGE_BYTES, RESULT_TTL, TABLES_ONLY};
use crate::query::cluster::stores::Stores;
use crate::query::datafusion_error::fail;
use crate::query::memory::runtime_of;
use crate::query::state::state_of;
use crate::scratch::Scratch;
use crate::table::store::StoreOptions;

/// Between two tries to reach the scheduler.
const AGAIN: Duration = Duration::from_millis(500);

/// So long is waited for the scheduler to hear that an executor ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// So often is looked for rows that nobody fetched; the scheduler has most of them removed before.
const CLEANING: Duration = Duration::from_secs(600);

/// What an executor may use, and whom it asks.
#[derive(Debug, Clone)]
pub struct ExecutorOptions {
    /// The scheduler's URL, `http://host:port`.
    pub scheduler: String,
    /// The name or address by which others reach this executor; `None`: the one that it listens on.
    pub host: Option<String>,
    /// Tasks at a time; 0 = as many as the machine has threads.
    pub threads: usize,
    /// Whether it is given no prompts.
    pub tables_only: bool,
    /// Bytes that all tasks together may hold in memory; operators that can spill do so beyond it.
    pub memory_limit: usize,
    /// Folder for spilled rows and for those between stages; `None`: the system's temporary folder.
    pub spill_dir: Option<PathBuf>,
    /// With what stores are opened here.
    pub stores: StoreOptions,
}

/// Computes tasks until `stop` is requested.
///
/// # Errors
/// `Kind::Config` for an address that is none and where the temporary folder cannot be used; `Kind::Temporary` where the port
/// is lost.
pub async fn serve(
    listener: TcpListener,
    options: ExecutorOptions,
    carrier: Arc<dyn Carrier>,
    stop: CancelToken,
) -> Result<()> {
    let address = address_of(&listener)?;
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let work = Work::make(&options)?;
    let registration = registration_of(&options, address, threads);
    let executor = Arc::new(executor_of(&options, &registration, &work.text, &carrier, threads)?);
    let config = GrpcClientConfig::from(&settings::base().ballista_config());
    let endpoint = create_grpc_client_endpoint(options.scheduler.clone(), Some(&config)).map_err(|e| {
        Error::new(Kind::Config, "not the address of a scheduler").with("address", &options.scheduler).source(e)
    })?;
    let mut is_told = false;
    let channel = loop {
        match endpoint.connect().await {
            Ok(channel) => break channel,
            Err(e) if !is_told => {
                is_told = true;
                tracing::warn!(scheduler = options.scheduler, error = %e, "the scheduler does not answer yet; waiting for it");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.requested() => return Ok(()),
        }
    };
    let mut scheduler = SchedulerGrpcClient::new(channel)
        .max_encoding_message_size(MESSAGE_BYTES)
        .max_decoding_message_size(MESSAGE_BYTES);
    let service = FlightServiceServer::new(BallistaFlightService::new(work.text.clone()))
        .max_encoding_message_size(MESSAGE_BYTES)
        .max_decoding_message_size(MESSAGE_BYTES);
    let accepted = futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(socket, _)| {
            // Rows are waited for; a socket that is closed already says so when it is read.
            let _ = socket.set_nodelay(true);
            socket
        });
        Some((accepted, listener))
    });
    let rows =
        create_grpc_server(&GrpcServerConfig::default()).add_service(service).serve_with_incoming(accepted.boxed());
    let tasks = poll_loop(scheduler.clone(), Arc::clone(&executor), codec(&carrier), None, None, ExecutorHealth::new());
    let broken = |what: String| Error::new(Kind::Temporary, "the executor broke off").source(what);
    let ended = tokio::select! {
        served = rows => served.map_err(|e| broken(e.to_string())),
        asked = tasks => asked.map_err(|e| broken(e.to_string())),
        () = work.keep_clean() => Ok(()),
        () = stop.requested() => Ok(()),
    };
    // Others do its tasks at once, instead of after its death was noticed.
    let farewell = ExecutorStoppedParams { executor_id: registration.id, reason: "stopped".to_owned() };
    match tokio::time::timeout(SHUTDOWN_TIMEOUT, scheduler.executor_stopped(farewell)).await {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => tracing::debug!(error = %e, "the scheduler was not told that an executor ends"),
        Err(_) => tracing::debug!("the scheduler did not hear that an executor ends"),
    }
    ended
}

/// An address as others write it in a URL; `None` for all addresses of a machine: the scheduler knows from which one it is asked.
fn host_of(address: IpAddr) -> Option<String> {
    match address {
        address if address.is_unspecified() => None,
        IpAddr::V4(address) => Some(address.to_string()),
        IpAddr::V6(address) => Some(format!("[{address}]")),
    }
}

fn registration_of(options: &ExecutorOptions, address: SocketAddr, threads: usize) -> ExecutorRegistration {
    let kind = if options.tables_only { TABLES_ONLY } else { "" };
    ExecutorRegistration {
        id: format!("{kind}{}", new_instance_id()),
        host: options.host.clone().or_else(|| host_of(address.ip())),
        port: u32::from(address.port()),
        // Nobody calls: executors ask.
        grpc_port: u32::from(address.port()),
        specification: Some(ExecutorSpecification::default().with_vcores(threads as u32).into()),
        os_info: Some(ExecutorOperatingSystemSpecification::default().into()),
        ballista_protocol_version: BALLISTA_PROTOCOL_VERSION,
    }
}

fn executor_of(
    options: &ExecutorOptions,
    registration: &ExecutorRegistration,
    work: &str,
    carrier: &Arc<dyn Carrier>,
    threads: usize,
) -> Result<Executor> {
    let opened = |e| fail(e, "cannot open a session");
    let runtime = runtime_of(options.memory_limit, options.spill_dir.as_deref())?
        .with_object_store_registry(Arc::new(Stores::new(options.stores.clone())))
        .build_arc()
        .map_err(opened)?;
    let state =
        state_of(settings::base(), Arc::clone(&runtime), Meanings::default(), carrier.known()).map_err(opened)?;
    let functions = Arc::new(BallistaFunctionRegistry::from(&state));
    // One for all tasks: they share its memory, its stores and the footers that were read.
    let runtimes: RuntimeProducer = Arc::new(move |_| Ok(Arc::clone(&runtime)));
    let configs: ConfigProducer = Arc::new(settings::base);
    let measured = Arc::new(LoggingMetricsCollector::default());
    let registration = registration.clone();
    Ok(Executor::with_default_execution_engine(registration, work, runtimes, configs, functions, measured, threads))
}

/// The folder for rows between stages.
struct Work {
    folder: PathBuf,
    text: String,
    /// The folder ends with it.
    _scratch: Arc<Scratch>,
}

impl Work {
    fn make(options: &ExecutorOptions) -> Result<Work> {
        let place = options.spill_dir.clone().unwrap_or_else(temporary_folder);
        let unusable = |e: std::io::Error| {
            Error::new(Kind::Config, "cannot create the folder for rows between stages")
                .with("folder", place.display())
                .source(e)
        };
        let scratch = Scratch::within(&place).map_err(unusable)?;
        let folder = scratch.entry();
        std::fs::create_dir_all(&folder).map_err(unusable)?;
        let text = folder.to_str().ok_or_else(|| {
            Error::new(Kind::Config, "the temporary folder's path is not in UTF-8").with("folder", folder.display())
        })?;
        Ok(Work { text: text.to_owned(), folder: folder.clone(), _scratch: scratch })
    }

    /// Removes what was written long ago and nobody asked to remove, as of a scheduler that has ended. Never ends.
    async fn keep_clean(&self) {
        loop {
            tokio::time::sleep(CLEANING).await;
            let folder = self.folder.clone();
            let cleaned = tokio::task::spawn_blocking(move || clean(&folder, RESULT_TTL * 2)).await;
            if let Err(e) = cleaned {
                tracing::debug!(error = %e, "the folder for rows between stages was not looked through");
            }
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Other executors of this process may still hold the folder around it.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Removes the folders in which nothing was written for so long.
fn clean(folder: &Path, age: Duration) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_old = newest(&path).and_then(|at| at.elapsed().ok()).is_some_and(|old| old > age);
        if path.is_dir() && is_old {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// When a folder, or the newest of what is below it, was written.
fn newest(path: &Path) -> Option<SystemTime> {
    let own = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let below = std::fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| newest(&entry.path()));
    own.into_iter().chain(below).max()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn options(place: &Path) -> ExecutorOptions {
        ExecutorOptions {
            scheduler: "http://127.0.0.1:1".into(),
            host: None,
            threads: 1,
            tables_only: false,
            memory_limit: 64 << 20,
            spill_dir: Some(place.to_path_buf()),
            stores: StoreOptions::default(),
        }
    }

    #[test]
    fn rows_between_stages_end_with_their_executor() {
        let place = tempfile::tempdir().unwrap();
        let work = Work::make(&options(place.path())).unwrap();
        let folder = work.folder.clone();
        std::fs::create_dir_all(folder.join("job/1")).unwrap();
        clean(&folder, Duration::from_secs(60));
        assert!(folder.join("job/1").is_dir(), "what is new stays");
        clean(&folder, Duration::ZERO);
        assert!(!folder.join("job").exists());
        drop(work);
        assert!(!folder.exists());
    }

    #[test]
    fn others_reach_an_executor_where_it_listens_unless_it_says_otherwise() {
        let place = tempfile::tempdir().unwrap();
        let address: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        let told = registration_of(&options(place.path()), address, 3);
        assert_eq!((told.host.as_deref(), told.port), (Some("127.0.0.1"), 4711));
        assert!(!told.id.starts_with(TABLES_ONLY));
        let tables = ExecutorOptions { tables_only: true, ..options(place.path()) };
        assert!(registration_of(&tables, address, 3).id.starts_with(TABLES_ONLY));
        assert_eq!(host_of("0.0.0.0".parse().unwrap()), None);
        assert_eq!(host_of("::1".parse().unwrap()).as_deref(), Some("[::1]"));
        let named = ExecutorOptions { host: Some("executor-0".into()), ..options(place.path()) };
        assert_eq!(registration_of(&named, address, 3).host.as_deref(), Some("executor-0"));
    }

    #[tokio::test]
    async fn an_executor_that_waits_for_its_scheduler_stops() {
        let place = tempfile::tempdir().unwrap();
        let listener = crate::query::cluster::listener::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let stop = CancelToken::default();
        stop.request();
        let carrier: Arc<dyn Carrier> = Arc::new(crate::query::cluster::carried::Nothing);
        serve(listener, options(place.path()), carrier, stop).await.unwrap();
    }
}
