//! Tables that are made on a cluster: real processes on ports of this machine, and the library's client and executors.
//!
//! Needs `--features cluster`; `ci/cluster.sh` builds and runs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "fences are for the product")]

#[path = "../common/mod.rs"]
mod common;
mod files;
#[path = "../common/night.rs"]
mod night;
mod nights;
mod processes;
mod prompts;
#[path = "../common/s3.rs"]
mod s3;
