//! `curec sql`: its flags and where rows go.

use std::path::PathBuf;

use clap::Args;

use crate::cli::output::{Format, Out, write_rows};
use crate::config::Job;
use crate::destination::Destination;
use crate::error::{Context, Error, Kind, Result};
use crate::night::warehouse;
use crate::query::session::Session;

#[derive(Debug, Args)]
pub(super) struct SqlArgs {
    /// The query; `-` reads it from standard input.
    query: String,
    /// The job whose tables and models to use.
    #[arg(long)]
    job: PathBuf,
    /// Override a key of the job file.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Write the result to this file, pipe or device instead of standard output. A file is replaced whole.
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// In CSV, write texts that spreadsheets take for formulas (they begin with =, +, - or @) without an apostrophe before
    /// them.
    #[arg(long)]
    raw: bool,
}

/// Runs the query and writes its rows; returns the exit code.
pub(super) async fn query(args: SqlArgs) -> Result<u8> {
    let to = args.output.as_deref().map(Destination::find).transpose()?;
    let job = Job::load(&args.job, &args.overrides)?;
    let text = match args.query.as_str() {
        "-" => std::io::read_to_string(std::io::stdin()).context(Kind::Usage, || "cannot read the query".into())?,
        text => text.to_string(),
    };
    let not_for_terminals =
        || Error::new(Kind::Usage, "Parquet is not for a terminal").hint("add --output result.parquet");
    if args.format == Format::Parquet && to.is_none() && Out::Stdout.is_terminal() {
        return Err(not_for_terminals());
    }
    let session: Session = warehouse::session_of(&job).await?;
    let rows = session.sql_read_only(&text, &[]).await?;
    let out = Out::open(to.as_ref())?;
    if args.format == Format::Parquet && out.is_terminal() {
        return Err(not_for_terminals());
    }
    write_rows(rows, args.format, args.raw, out).await?;
    Ok(0)
}
