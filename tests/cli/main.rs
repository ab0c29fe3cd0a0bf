//! The command line as its users meet it: whole runs of the binary, on disk and on S3, disturbed and undisturbed.
//!
//! One program for all of them, since every test program costs a minute to build.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "fences are for the product")]

mod align;
mod audits;
mod bad_rows;
mod bucket;
mod budget;
mod catalogue;
#[path = "../common/chat_server.rs"]
mod chat_server;
mod check;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod config;
mod correct;
mod delta;
mod documents;
mod endpoint;
mod evaluate;
mod examples;
mod explain;
mod export;
mod fields;
mod forget;
mod init;
mod item_choices;
mod item_columns;
mod kill;
mod languages;
mod leak;
mod models;
#[path = "../common/night.rs"]
mod night;
mod outputs;
mod own_logs;
mod own_tables;
mod packages;
mod pairs;
mod pipeline;
mod project;
mod refusals;
mod response;
mod reinforce;
mod report;
mod reward;
mod runs;
mod runs_at_once;
#[path = "../common/s3.rs"]
mod s3;
mod same_bytes;
mod schedule;
mod shell;
mod snapshots;
mod statements;
mod stopped;
mod terminal;
mod vector_of;
mod watch;
mod watch_weekly;
mod weekly;
mod worth;
