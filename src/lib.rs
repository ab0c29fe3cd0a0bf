//! **curec** turns interaction logs into *reasons* and content features for recommenders.
//!
//! ```text
//! interaction, item, review, pair     inputs, owned by others, under contract
//!    └─ sql ─▶ user_history, item_audience          who did what before t; who picks an item and why
//!         └─ sql ─▶ reason_prompt                   one row per thing to explain, with its fingerprint
//!              └─ generate() ─▶ response ─▶ reason  the language model; pay once per fingerprint
//!                   └─ checks ─▶ reason_score
//!                        └─ embed() ─▶ item_feature, user_feature, pair_feature ─▶ the ranker
//! ```
//!
//! The modules stand in the order of the data flow. **Direction rule**: a file may `use crate::` only what stands
//! before its own module here (`ci/check.sh` enforces it). Arrow record batches are the one currency between layers.

pub mod printable;
/// What people write, as plain sentences and as the words that carry its content. Knows nothing of tables or prompts.
pub mod plain_text {
    pub mod lines;
    pub mod words;
    pub mod sentences;
}
pub mod excerpt;
pub mod error;
pub mod fingerprint;

pub mod paths;
pub mod gzip;
pub mod columns;
mod toml_table;
mod variables;
pub mod secrets;
pub mod resolved;
pub mod settings;
pub mod undated;
pub mod epoch;
/// The job: what a person wrote, what it may be, and what it means.
pub mod config {
    #[expect(clippy::disallowed_methods, reason = "the one module that reads the environment")]
    pub mod environment;
    pub mod interval;
    pub mod meaning;
    pub mod watch;
    pub mod spec;
    mod endpoint_rules;
    mod rules;
    pub mod job;

    pub use self::environment::{
        endpoint_key, environment, has_colours, lineage_key, state_folder, store_variables, temporary_folder,
        trace_headers, trace_parent,
    };
    pub use self::interval::{Interval, MAX_LOOKBACK_DAYS, parse_moment};
    pub use self::job::{DEFAULTS, Job, temporary_places};
    pub use self::meaning::{Meaning, Meanings};
    pub use self::rules::parse_bytes;
    pub use self::spec::{
        BudgetSpec, CheckSpec, CorrectSpec, HistorySpec, JobSpec, NO_CLUSTER, PriceSpec, PromptSpec, QuerySpec,
        ResponseSpec, host_and_port, is_address,
    };
    pub use self::watch::WatchSpec;
}
#[expect(clippy::disallowed_methods, reason = "logs and progress go to standard error")]
pub mod telemetry;
pub mod background;
pub mod cancel;
pub mod directory_lock;
pub mod scratch;
pub mod disk;
pub mod whole_folder;
#[expect(clippy::disallowed_methods, reason = "/dev/stdout and /dev/stderr are destinations too")]
pub mod destination;

/// Tables on object stores: contracts, URLs, the publisher.
pub mod table {
    pub mod redact;
    pub mod traffic;
    pub mod write_layer;
    pub mod durable;
    pub mod credentials;
    pub mod faults;
    pub mod file_lock;
    pub mod store_error;
    pub mod store;
    #[cfg(test)]
    pub(crate) mod counted_store;
    pub mod local_folder;
    pub mod fetch;
    pub mod builtin;
    pub mod build;
    pub mod column_type;
    pub mod contract;
    mod contract_file;
    pub mod finding;
    pub mod cast;
    pub mod rules;
    pub mod keys;
    pub mod row_json;
    pub mod check;
    pub mod bad_rows;
    pub mod footer;
    pub mod parquet_file;
    pub mod source;
    mod delta_checkpoint;
    pub mod delta_log;
    pub mod listing;
    pub mod labels;
    pub mod mapping;
    mod preview_files;
    pub mod preview;
    pub mod input;
    pub mod sample;
    pub mod lease;
    pub mod commit;
    pub mod published;
    mod delta_schema;
    pub mod delta_write;
    pub mod write;
    pub mod row_group;
    pub mod filter;
    pub mod segment;
    pub mod partition;
    pub mod as_of;
    pub mod quarantine;
}

/// How a run went, told to what watches it: Prometheus' text format, OpenLineage's events, OpenTelemetry's spans, and what
/// takes them there in the background. Knows nothing of nights.
pub mod watch {
    pub mod exposition;
    pub mod lineage;
    pub mod trace;
    pub mod http;
    pub mod courier;
    pub mod places;
    pub mod run;
}

/// DataFusion: the session, the tables made by SQL, audits. Knows nothing of language models.
pub mod query {
    pub mod texts;
    pub mod datafusion_error;
    pub mod good_rows;
    pub mod event_meaning;
    pub mod clean_text;
    pub mod sentences;
    pub mod aggregation;
    pub mod min_by;
    pub mod latest;
    pub mod most_frequent;
    pub mod labelled;
    pub mod state;
    pub mod memory;
    /// Ballista: what carries queries to a cluster, and what answers them there.
    #[cfg(feature = "cluster")]
    pub mod cluster {
        pub mod settings;
        pub mod apart;
        pub mod carried;
        pub mod stores;
        pub mod plan;
        pub mod listener;
        pub mod placement;
        pub mod scheduler;
        pub mod executor;
        pub mod client;
    }
    pub mod engine;
    pub mod options;
    pub mod parameters;
    pub mod scan;
    pub mod set_aside;
    pub mod read_only;
    pub mod statements;
    pub mod saved;
    pub mod session;
    #[cfg(feature = "cluster")]
    pub mod parts;
    pub mod model;
    pub mod audit;
}

/// CPU kernels on plain slices: what is compiled for each instruction set. Knows nothing of tensors or models.
pub mod kernels {
    pub mod isa;
    pub mod arithmetic;
    pub mod tile;
    pub mod narrow;
    pub mod product;
    pub mod rows;
    pub mod norm;
    pub mod activation;
    pub mod softmax;
    pub mod heads;
    pub mod cached_attention;
    pub mod packed_attention;
    pub mod row_attention;
}

/// Language models in Burn. Knows nothing of tables or SQL.
pub mod llm {
    pub mod device;
    pub mod jinja;
    pub mod chat;
    pub mod word_cache;
    pub mod word_patterns;
    pub mod tokenizer;
    pub mod grammar;
    pub mod file;
    pub mod tensor_format;
    pub mod tensor_files;
    pub mod decoder_config;
    pub mod hugging_face;
    pub mod gguf;
    pub mod llama_cpp;
    pub mod weights;
    pub mod adapter;
    pub mod merged;
    pub mod kv_cache;
    pub mod ops;
    pub mod decoder;
    pub mod sampler;
    pub mod encoder_files;
    pub mod encoder;
}

/// What trains: weights, Adam, layers, one random generator. Knows nothing of what is learned.
pub mod network {
    pub mod random;
    pub mod parameters;
    pub mod layers;
}

pub mod statistics;

/// Versions of what was learned: adapters and reward models, and which of them is in use.
pub mod registry {
    pub mod card;
    pub mod promotions;
    pub mod versions;
    pub mod export;
}

/// Where tables and language models meet: prompts, batches, the engine, and the SQL functions over it.
pub mod generate {
    pub mod fields;
    pub mod format;
    pub mod prompt;
    pub mod fit;
    pub mod answers;
    mod copying;
    pub mod row;
    #[cfg(test)]
    pub(crate) mod mock_decoder;
    pub mod batcher;
    pub mod device_thread;
    pub mod engine;
    pub mod chat_completions;
    pub mod token_count;
    pub mod endpoint;
    mod model_place;
    pub mod model_look;
    pub mod models;
    pub mod writing;
    #[cfg(feature = "cluster")]
    pub mod sent;
    #[cfg(feature = "cluster")]
    pub mod turn;
    pub mod functions;
    #[cfg(feature = "cluster")]
    pub mod carried;
}

/// What a reason is worth: checks, the score, the reward model.
pub mod reward {
    pub mod language;
    pub mod names;
    pub mod checks;
    pub mod text_metrics;
    pub mod score;
    pub mod choose;
    pub mod example;
    pub mod model;
    pub mod train;
    pub mod judge;
    pub mod saved;
}

pub mod feature;
pub mod marks;

/// Texts mapped to where the log has what they go with: closed forms, cross-fitted. No step of training.
pub mod project {
    pub mod linear;
    pub mod space;
    pub mod map;
    pub mod saved;
    pub mod column;
}

/// How the language model learns: a differentiable decoder with low-rank adapters, packing, losses, the loops.
pub mod learn {
    pub mod packing;
    pub mod loss;
    pub mod host;
    pub mod generic;
    pub mod trainable;
    pub mod optimise;
    pub mod supervised;
    pub mod worth;
    pub mod rollout;
    pub mod curve;
    pub mod lessons;
    pub mod rounds;
}

/// Recommenders that read the features: the log, its split, metrics, SASRec and DIN.
pub mod recommend {
    pub mod data;
    pub mod split;
    pub mod metrics;
    pub mod host;
    pub mod attention;
    pub mod softmax_loss;
    pub mod adaptor;
    pub mod fit;
    pub mod item_table;
    pub mod transformer;
    pub mod sasrec;
    pub mod log_linear;
    pub mod din;
}

/// What a text of an item, or of a user's history, is worth to a recommender that knows the item, or the user, by this text alone; whether
/// that may be a reward, and what is to stand in the place of items' reasons.
pub mod worth {
    pub mod whose;
    pub mod events;
    pub mod text;
    pub mod item;
    pub mod history;
    pub mod gates;
    pub mod choice;
    pub mod correction;
    pub mod recommender;
}

/// One run of a job, from its inputs to what is published: plan, run, audits, manifest, report.
pub mod night {
    pub mod manifest;
    pub mod measures;
    pub mod funnel;
    pub mod drawing;
    pub mod report;
    pub mod index_page;
    pub mod history;
    pub mod learned;
    mod snapshot;
    pub mod tables;
    pub mod graph;
    pub mod prepare;
    pub mod examine;
    pub mod made_from;
    pub mod decide;
    pub mod owner;
    pub mod spending;
    pub mod receipts;
    pub mod generation;
    pub mod asking;
    mod correction_case;
    mod correction_text;
    mod correction_rows;
    pub mod correct;
    #[cfg(feature = "cluster")]
    pub mod answering;
    #[cfg(feature = "cluster")]
    mod dispatch;
    mod engine;
    pub mod plan;
    pub mod samples;
    mod compare;
    pub mod record;
    mod watched;
    pub mod verify;
    pub mod publish;
    pub mod steps;
    pub mod run;
    pub mod warehouse;
    pub mod lookback;
}

/// What features are worth to a recommender: the arms of the ablation, their nights, the statistics, the page.
pub mod evaluate {
    pub mod results;
    pub mod results_text;
    pub mod whitening;
    pub mod history_blocks;
    pub mod baseline;
    pub mod word_space;
    pub mod ease;
    pub mod collaborative;
    pub mod item_windows;
    pub mod scalars;
    pub mod arm;
    pub mod arms;
    pub mod agreement;
    /// The ablation: the same recommenders with other content features, and what tells them apart.
    pub mod ablation {
        pub mod training;
        mod contrast;
        mod neighbours;
        mod trials;
        mod ranking;
        mod judging;
        pub mod run;
    }
    pub mod page;
    pub mod text_quality;
    pub mod arm_text;
    pub mod published;
    pub mod history_nights;
    pub mod evaluation_file;
    mod logged_items;
    mod origin_nights;
    pub mod arm_data;
    mod window_nights;
    pub mod evaluation;
}

/// How the models improve, week by week: examples, align, reward, reinforce, gate, publish.
pub mod weekly {
    pub mod examples;
    pub mod specificity;
    pub mod question;
    pub mod written;
    pub mod teacher;
    pub mod teacher_log;
    mod asking;
    pub mod teacher_endpoint;
    pub mod teacher_model;
    pub mod weekly_file;
    pub mod watched;
    pub mod align;
    pub mod reward;
    pub mod negatives;
    pub mod reinforce;
    pub mod next_items;
    mod worth_data;
    mod worth_answers;
    pub mod worth_fit;
    mod worth_rows;
    pub mod worth_teach;
    pub mod worth;
    mod project_data;
    pub mod project_fit;
    pub mod project;
    pub mod gate;
    pub mod learning_page;
    pub mod improve;
}

/// What an operator does with logs, runs and tables: import, inspect, export, compact, forget, clean up.
pub mod operate {
    /// `curec import`: known public data sets become Parquet files that satisfy the input contracts.
    pub mod import {
        pub mod frames;
        mod plain;
        pub mod lines;
        pub mod separated;
        pub mod times;
        pub mod titles;
        pub mod rows;
        pub mod descriptions;
        pub mod writing;
        pub mod movielens;
        pub mod csv;
        pub mod jsonl;
    }
    pub mod inspect;
    /// `curec init`: a job for somebody's own logs, proposed from a sample of them.
    pub mod init {
        mod texts;
        mod names;
        mod moments;
        mod ratings;
        mod events;
        mod proposal;
        mod conversion;
        mod job_file;
        mod report;
        mod schedule;
        pub mod run;
    }
    mod simulate_texts;
    pub mod simulate_world;
    mod simulate_rows;
    pub mod simulate;
    pub mod runs;
    pub mod garbage;
    pub mod compact;
    pub mod tellers;
    pub mod scrub;
    pub mod pseudonym;
    /// `curec forget`: users vanish from everything that is kept.
    pub mod forget {
        pub mod record;
        mod find;
        mod rewrite;
        pub mod run;
    }
    pub mod export;
    pub mod feast;
    pub mod about;
    pub mod explain;
    mod explanation;
    mod check_notes;
    mod check_inputs;
    pub mod check;
}

/// The command line.
#[expect(clippy::disallowed_methods, reason = "prints results; a second signal ends the process at once")]
pub mod cli {
    pub mod output;
    mod shown;
    pub mod arguments;
    pub mod models;
    pub mod config;
    pub mod cluster;
    pub mod learn;
    pub mod run;
    /// The shell that `curec sql` opens on a terminal.
    pub mod shell {
        mod command;
        mod completion;
        mod editor;
        pub mod session;
    }
    pub mod sql;
    pub mod export;
    pub mod explain;
    pub mod check;
    pub mod forget;
    pub mod import;
    pub mod init;
    pub mod runs;
    pub mod manual;
    pub mod commands;
}
