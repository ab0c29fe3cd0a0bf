//! `curec config`: every key with its default, or the resolved values of a file and where each came from.
//!
//! Knows the three kinds of files; what their keys mean is in [`crate::config`], [`crate::weekly::weekly_file`] and
//! [`crate::evaluate::evaluation_file`].

use std::path::{Path, PathBuf};

use clap::Args;
use toml::Table;

use crate::cli::output::print;
use crate::config::{self, Job};
use crate::error::{Error, Kind, Result};
use crate::evaluate::evaluation_file;
use crate::secrets::{MASK, is_secret};
use crate::settings;
use crate::table::redact;
use crate::weekly::weekly_file;

/// Which defaults or which file to print.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// A job file, a weekly file or an evaluation's file: its sections tell which. Without a file the defaults are printed.
    file: Option<PathBuf>,
    /// Defaults of the weekly file, or read the file as one.
    #[arg(long)]
    weekly: bool,
    /// Defaults of an evaluation's file, or read the file as one.
    #[arg(long, conflicts_with = "weekly")]
    evaluation: bool,
    /// Override a key of the job file, for example `--set model.device=wgpu`.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "file", conflicts_with_all = ["weekly", "evaluation"])]
    overrides: Vec<String>,
}

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Job,
    Weekly,
    Evaluation,
}

impl ConfigArgs {
    /// Prints it.
    ///
    /// # Errors
    /// `Kind::Config` for a file that is wrong.
    pub(crate) fn execute(self) -> Result<()> {
        let named = match (self.weekly, self.evaluation) {
            (true, _) => Some(Form::Weekly),
            (_, true) => Some(Form::Evaluation),
            _ => None,
        };
        let Some(file) = &self.file else {
            return print(match named.unwrap_or(Form::Job) {
                Form::Job => config::DEFAULTS,
                Form::Weekly => weekly_file::DEFAULTS,
                Form::Evaluation => evaluation_file::DEFAULTS,
            });
        };
        let form = match named {
            Some(form) => form,
            None => form_of(file)?,
        };
        let resolved = match form {
            Form::Job => Job::load(file, &self.overrides)?.resolved,
            _ if !self.overrides.is_empty() => {
                return Err(Error::new(Kind::Usage, "--set is for job files").with("file", file.display()));
            }
            Form::Weekly => weekly_file::resolve(file)?.1,
            Form::Evaluation => evaluation_file::resolve(file)?.1,
        };
        redact::remember(&config::environment());
        print(&resolved.print(&masked))
    }
}

/// What a file is, by sections that the others do not have; a job where nothing tells.
fn form_of(file: &Path) -> Result<Form> {
    let text = settings::read_text(file, "the file", "pass the path of a job file, for example jobs/nightly.toml")?;
    let Ok(table) = toml::from_str::<Table>(&text) else { return Ok(Form::Job) };
    let has = |names: &[&str]| names.iter().any(|name| table.contains_key(*name));
    if has(&["data", "arms", "sasrec", "din"]) {
        return Ok(Form::Evaluation);
    }
    Ok(if has(&["job", "align", "reinforce", "reward", "gate"]) { Form::Weekly } else { Form::Job })
}

/// The text without what is a credential by its form: users in URLs, and what a URL's query is signed with.
fn masked(text: &str) -> String {
    let text = redact::redact(text);
    match text.split_once('?') {
        Some((before, query)) if before.contains("://") => format!("{before}?{}", masked_query(query)),
        _ => text,
    }
}

fn masked_query(query: &str) -> String {
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_secret(name) || name.eq_ignore_ascii_case("sig") => format!("{name}={MASK}"),
        _ => pair.to_owned(),
    };
    query.split('&').map(pair).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_urls_are_masked() {
        for (text, want) in [
            ("s3://u:hunter2@bucket/x", "s3://***@bucket/x"),
            ("https://h/x?sig=abc&v=1", "https://h/x?sig=***&v=1"),
            ("https://h/x?v=1&access_token=abc", "https://h/x?v=1&access_token=***"),
            ("https://h/x?X-Amz-Signature=abc", "https://h/x?X-Amz-Signature=***"),
            ("what? sig=x", "what? sig=x"),
            ("data/x.parquet", "data/x.parquet"),
        ] {
            assert_eq!(masked(text), want);
        }
    }
}
