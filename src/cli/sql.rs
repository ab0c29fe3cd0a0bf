//! `curec sql`: its flags, where its statements come from, and where rows go.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::arguments::block_on_or_stop;
use crate::cli::output::{Format, Out, print, write_rows};
use crate::cli::shell;
use crate::config::Job;
use crate::destination::Destination;
use crate::error::{Context, Error, Kind, Result};
use crate::night::warehouse;
use crate::query::{saved, statements};
use crate::settings::read_text;

#[derive(Debug, Args)]
pub(super) struct SqlArgs {
    /// The statements; `-`, or nothing where standard input is no terminal, reads them from there. On a terminal nothing opens a
    /// shell.
    #[arg(value_name = "SQL")]
    statements: Option<String>,
    /// The job whose tables and models to use.
    #[arg(long)]
    job: PathBuf,
    /// Run the statements of a file, one after the other.
    #[arg(short, long, value_name = "FILE", conflicts_with = "statements")]
    file: Option<PathBuf>,
    /// Run a saved query; without a name, list them.
    #[arg(long, value_name = "NAME", num_args = 0..=1, conflicts_with_all = ["statements", "file"])]
    query: Option<Option<String>>,
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

/// SQL, and the name of where it came from, for errors; an argument needs none.
struct Given {
    text: String,
    file: Option<String>,
}

impl SqlArgs {
    /// Runs the statements and writes their rows, or lists the saved queries; returns the exit code.
    ///
    /// # Errors
    /// The first statement's that fails; what came before it is written.
    pub(super) fn execute(self) -> Result<u8> {
        let to = self.output.as_deref().map(Destination::find).transpose()?;
        let job = Job::load(&self.job, &self.overrides)?;
        let own = Some(&job.spec.project.sql).filter(|folder| !folder.is_empty()).map(Path::new);
        let given = match (&self.statements, &self.file, &self.query) {
            (_, _, Some(None)) => {
                print(&saved::listed(&saved::all(own)?))?;
                return Ok(0);
            }
            (_, _, Some(Some(name))) => {
                let query = saved::find(name, own)?;
                Given { text: query.text, file: Some(query.origin) }
            }
            (_, Some(path), _) => {
                let text = read_text(path, "the file of statements", "-f takes a file of SQL statements")?;
                Given { text, file: Some(path.display().to_string()) }
            }
            (Some(text), ..) if text != "-" => Given { text: text.clone(), file: None },
            (None, ..) if std::io::stdin().is_terminal() => {
                if to.is_none() && self.format != Format::Parquet && Out::Stdout.is_terminal() {
                    return shell::session::open(&job, self.format, self.raw).map(|()| 0);
                }
                return Err(Error::new(Kind::Usage, "there is no statement").hint(
                    "try: curec sql --job JOB \"show tables\", -f FILE, or --query for a list of saved queries",
                ));
            }
            _ => {
                let text = std::io::read_to_string(std::io::stdin())
                    .context(Kind::Usage, || "cannot read the statements from standard input".into())?;
                Given { text, file: Some("standard input".into()) }
            }
        };
        block_on_or_stop(self.run(&job, &given, to.as_ref())).map(|()| 0)
    }

    async fn run(&self, job: &Job, given: &Given, to: Option<&Destination>) -> Result<()> {
        let file = given.file.as_deref();
        let statements = statements::split(&given.text, file)?;
        let n = statements.len();
        if n == 0 {
            let empty = Error::new(Kind::Usage, "there is no statement").hint("try: select 1");
            return Err(match file {
                None => empty,
                Some(file) => empty.with("file", file),
            });
        }
        if n > 1 && (to.is_some() || self.format == Format::Parquet) {
            return Err(Error::new(Kind::Usage, "the rows of several statements do not fit into one file")
                .with("statements", n)
                .hint(
                    "run one statement for each file, or print all with --format table, json or csv to standard output",
                ));
        }
        if to.is_none() {
            self.is_fit_for(&Out::Stdout)?;
        }
        let session = warehouse::session_of(job).await?;
        for statement in &statements {
            let place = |e: Error| statement.placed(e, file);
            let rows = session.sql_read_only(&statement.in_place(), &[]).await.map_err(place)?;
            let out = Out::open(to)?;
            self.is_fit_for(&out)?;
            write_rows(rows, self.format, self.raw, out).await.map_err(place)?;
        }
        Ok(())
    }

    fn is_fit_for(&self, out: &Out) -> Result<()> {
        if self.format == Format::Parquet && out.is_terminal() {
            return Err(Error::new(Kind::Usage, "Parquet is not for a terminal").hint("add --output result.parquet"));
        }
        Ok(())
    }
}
