//! The library by its public items: importers, contracts, SQL models, stores, model files and their arithmetic.
//!
//! One program for all of them, since every test program costs a minute to build.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "fences are for the product")]

mod adapter;
mod bad_input;
#[path = "../common/mod.rs"]
mod common;
mod delta;
mod delta_input;
mod engine;
mod examples;
mod export;
mod gradients;
mod held_out;
mod item_columns;
mod languages;
#[path = "../common/parity.rs"]
mod parity;
mod parity_files;
mod parity_model;
mod point_in_time;
mod ranker_loader;
mod reinforce;
mod reward;
mod reward_texts;
#[path = "../common/s3.rs"]
mod s3;
mod settings;
mod sql;
mod sql_support;
mod store;
mod table;
