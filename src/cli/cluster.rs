//! `curec cluster`: the processes that make a run's tables where one machine is too small.
//!
//! Knows its flags and prints where each process listens; what they do, [`crate::query`] knows. A binary that was built without
//! a cluster says how to build one that has it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::error::Result;

/// Where a scheduler listens unless it is told otherwise: on this machine alone.
const SCHEDULER: &str = "127.0.0.1:50050";
/// Where an executor listens: on this machine alone, on any port that is free.
const EXECUTOR: &str = "127.0.0.1:0";
/// Bytes of memory that an executor's tasks may hold.
const MEMORY: &str = "1 GiB";

/// See the module.
#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Take queries from runs, cut them into tasks and give them to executors. Stop it with SIGTERM.
    #[command(before_help = "Examples:
    curec cluster scheduler
    curec cluster scheduler --bind 10.0.0.7:50050")]
    Scheduler(SchedulerArgs),
    /// Compute tasks that a scheduler gives out. Stop it with SIGTERM: others do what it had not finished.
    #[command(before_help = "Examples:
    curec cluster executor --scheduler df://127.0.0.1:50050
    curec cluster executor --scheduler df://10.0.0.7:50050 --bind 10.0.0.8:50051 --device cuda:0
    curec cluster executor --scheduler df://10.0.0.7:50050 --bind 10.0.0.9:50051 --tables-only \\
        --memory-limit '24 GiB'")]
    Executor(ExecutorArgs),
}

#[derive(Debug, Args)]
pub(super) struct SchedulerArgs {
    /// Where to listen. Whoever reaches this address can read what the executors can: keep it inside a private network.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = SCHEDULER)]
    bind: SocketAddr,
}

#[derive(Debug, Args)]
#[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "only its help is shown"))]
pub(super) struct ExecutorArgs {
    /// The scheduler's address. An executor waits for one that does not answer yet.
    #[arg(long, value_name = "df://HOST:PORT")]
    scheduler: String,
    /// Where other executors and runs fetch rows; without a port, or with port 0, on any that is free.
    #[arg(long, value_name = "ADDRESS[:PORT]", default_value = EXECUTOR, value_parser = parse_bind)]
    bind: SocketAddr,
    /// The name or address by which they reach this executor, where it is not the one it listens on.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Tasks at a time; 0 is as many as the machine has threads.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Where this executor's models are: auto, cpu, wgpu, wgpu:N or cuda:N, whatever the job of a run says.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// Make tables alone, and answer no prompts.
    #[arg(long)]
    tables_only: bool,
    /// Memory that all tasks together may hold; larger sorts and joins spill to disk.
    #[arg(long, value_name = "SIZE", default_value = MEMORY)]
    memory_limit: String,
    /// Where to spill, and where rows between tasks lie; without it the system's temporary folder.
    #[arg(long, value_name = "FOLDER")]
    spill_dir: Option<PathBuf>,
}

/// An address, with a port or without.
fn parse_bind(text: &str) -> std::result::Result<SocketAddr, String> {
    let alone = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 0));
    text.parse::<SocketAddr>()
        .or_else(|_| alone())
        .map_err(|_| format!("`{text}` is no IP address; write 127.0.0.1:50051"))
}

impl ClusterCommand {
    /// Runs the process until it is stopped; returns the exit code.
    #[cfg(feature = "cluster")]
    pub(super) fn execute(self) -> Result<u8> {
        use std::sync::Arc;

        use crate::cancel::CancelToken;
        use crate::cli::arguments::{block_on, watch_signals};
        use crate::cli::output::print;
        use crate::config::{parse_bytes, store_variables};
        use crate::error::{Error, Kind};
        use crate::llm::device;
        use crate::night::answering::{NightCarrier, Place};
        use crate::query::cluster::carried::Carrier;
        use crate::query::cluster::executor::{self, ExecutorOptions};
        use crate::query::cluster::listener::{address_of, listen, url_of};
        use crate::query::cluster::scheduler;
        use crate::table::store::StoreOptions;

        let stop = CancelToken::default();
        watch_signals(stop.clone());
        let stores = StoreOptions { vars: store_variables(), ..StoreOptions::default() };
        let done = match self {
            ClusterCommand::Scheduler(args) => block_on(async move {
                let carrier: Arc<dyn Carrier> = Arc::new(NightCarrier::default());
                let listener = listen(args.bind).await?;
                print(&format!("scheduler at df://{}\n", address_of(&listener)?))?;
                tokio::select! {
                    ended = scheduler::serve(listener, carrier, stores) => ended,
                    () = stop.requested() => Ok(()),
                }
            }),
            ClusterCommand::Executor(args) => {
                let bind = args.bind;
                let wrong = || {
                    Error::new(Kind::Usage, "must be a size of at least 16 MiB, such as `4 GiB`")
                        .with("--memory-limit", &args.memory_limit)
                };
                let options = ExecutorOptions {
                    scheduler: url_of(&args.scheduler).map_err(|e| e.of_kind(Kind::Usage))?,
                    memory_limit: parse_bytes(args.memory_limit.trim()).filter(|n| *n >= 16 << 20).ok_or_else(wrong)?,
                    host: args.host,
                    threads: args.threads,
                    tables_only: args.tables_only,
                    spill_dir: args.spill_dir,
                    stores,
                };
                if !args.tables_only {
                    // A device that is not there is told at once, and not by the first prompts.
                    device::open(&args.device).map_err(|e| e.with("--device", &args.device))?;
                }
                let device = Some(args.device);
                block_on(async move {
                    let listener = listen(bind).await?;
                    let address = address_of(&listener)?;
                    let name =
                        options.host.clone().map_or_else(|| address.to_string(), |host| format!("{host} ({address})"));
                    let place = Place { name, stores: options.stores.clone(), device };
                    let carrier: Arc<dyn Carrier> = Arc::new(NightCarrier::on(place));
                    print(&format!("executor at {address}\n"))?;
                    executor::serve(listener, options, carrier, stop).await
                })
            }
        };
        done.map(|()| 0)
    }

    /// Says how to build a binary that has a cluster.
    #[cfg(not(feature = "cluster"))]
    pub(super) fn execute(self) -> Result<u8> {
        use crate::config::NO_CLUSTER;
        use crate::error::{Error, Kind};

        let process = match self {
            ClusterCommand::Scheduler(args) => format!("a scheduler at {}", args.bind),
            ClusterCommand::Executor(args) => format!("an executor of {}", args.scheduler),
        };
        Err(Error::new(Kind::Usage, NO_CLUSTER).with("process", process))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_listens_on_a_public_address_unless_it_is_told_to() {
        for default in [SCHEDULER, EXECUTOR] {
            assert!(parse_bind(default).unwrap().ip().is_loopback(), "{default}");
        }
        assert_eq!(parse_bind("10.0.0.8").unwrap(), "10.0.0.8:0".parse().unwrap());
        assert_eq!(parse_bind("[::1]:7").unwrap().port(), 7);
        assert!(parse_bind("host:7").is_err() && parse_bind("").is_err());
    }
}
