//! The SQL shell: a prompt on the terminal, statements until somebody leaves.
//!
//! Knows the line editor, its history and signals. What lines mean is said by `shell_words.rs`, how rows are printed by
//! `output.rs`.

use std::path::PathBuf;
use std::time::Instant;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, CompletionType, Config, Editor, Helper};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::output::{Format, Out, print, say, write_rows};
use crate::cli::shell_words::{self, HELP, Input, Vocabulary};
use crate::config;
use crate::error::{Context, Error, Kind, Result};
use crate::query::session::Session;
use crate::query::statements;

/// Inputs that the history keeps.
const HISTORY: usize = 5000;

/// The shell, apart from its line editor.
pub(super) struct Shell<'a> {
    session: &'a Session,
    format: Format,
    is_raw: bool,
    tells_times: bool,
}

impl<'a> Shell<'a> {
    /// A shell that prints rows in a format; in CSV, `is_raw` keeps texts that look like formulas as they are.
    pub(super) fn new(session: &'a Session, format: Format, is_raw: bool) -> Shell<'a> {
        Shell { session, format, is_raw, tells_times: false }
    }

    /// Reads and runs what is typed until somebody leaves. What fails is told, and the shell goes on.
    ///
    /// # Errors
    /// `Kind::Temporary` for a terminal that cannot be read; `Kind::BrokenPipe` where nobody reads the rows any more.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut editor = editor().context(Kind::Temporary, || "cannot open the terminal".into())?;
        editor.set_helper(Some(Assistant(vocabulary(self.session).await)));
        let mut history = history_file();
        if let Some(file) = history.as_ref().filter(|file| file.exists())
            && let Err(e) = editor.load_history(file)
        {
            tracing::warn!(file = %file.display(), error = %e, "cannot read the history");
        }
        say("Statements end with a semicolon; \\? lists the shell's own commands, \\q leaves.");
        loop {
            let line = match editor.readline("curec> ") {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => return Ok(()),
                Err(e) => return Err(Error::new(Kind::Temporary, "cannot read from the terminal").source(e)),
            };
            let input = shell_words::read(&line);
            if input == Input::Nothing {
                continue;
            }
            let kept = editor.add_history_entry(line.trim_end()).and_then(|_| match &history {
                Some(file) => editor.append_history(file),
                None => Ok(()),
            });
            if let Err(e) = kept {
                tracing::warn!(error = %e, "the history is not kept");
                history = None;
            }
            if input == Input::Leave {
                return Ok(());
            }
            match self.follow(input).await {
                Err(e) if e.kind() == Kind::BrokenPipe => return Err(e),
                Err(e) => say(&format!("error: {}", e.explain())),
                Ok(()) => {}
            }
        }
    }

    async fn follow(&mut self, input: Input) -> Result<()> {
        match input {
            Input::Nothing | Input::Leave => Ok(()),
            Input::Help => print(HELP),
            Input::Tables => {
                print(&self.session.table_names().iter().map(|name| format!("{name}\n")).collect::<String>())
            }
            Input::Columns(table) => print(&self.columns(&table).await?),
            Input::Timing => {
                self.tells_times = !self.tells_times;
                say(if self.tells_times { "Times are told." } else { "Times are not told." });
                Ok(())
            }
            Input::Unknown(text) => {
                Err(Error::new(Kind::Usage, format!("there is no command {text}")).hint("\\? lists the commands"))
            }
            Input::Sql(text) => self.statements(&text).await,
        }
    }

    async fn columns(&self, table: &str) -> Result<String> {
        let columns = self.session.columns_of(table).await?;
        let width = columns.fields().iter().map(|field| field.name().chars().count()).max().unwrap_or_default();
        let line = |name: &str, kind: &str, is_nullable: bool| {
            format!("{name:width$}  {kind}{}\n", if is_nullable { "" } else { " not null" })
        };
        let fields = columns.fields().iter();
        Ok(fields.map(|field| line(field.name(), &field.data_type().to_string(), field.is_nullable())).collect())
    }

    async fn statements(&self, text: &str) -> Result<()> {
        for statement in statements::split(text, None)? {
            let begun = Instant::now();
            until_interrupted(async {
                let rows = self.session.sql_read_only(&statement.text, &[]).await?;
                write_rows(rows, self.format, self.is_raw, Out::Stdout).await
            })
            .await?;
            if self.tells_times {
                say(&format!("{:.3} s", begun.elapsed().as_secs_f64()));
            }
        }
        Ok(())
    }
}

/// The result of `work`, unless Ctrl-C comes first; `work` is dropped then.
async fn until_interrupted(work: impl Future<Output = Result<()>>) -> Result<()> {
    // Hears only what comes from now on, not the Ctrl-C that stopped the statement before.
    let mut interrupt = signal(SignalKind::interrupt()).context(Kind::Temporary, || "cannot hear signals".into())?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err(Error::new(Kind::Interrupted, "stopped")),
    }
}

async fn vocabulary(session: &Session) -> Vocabulary {
    let mut words = Vocabulary { functions: session.function_names(), ..Vocabulary::default() };
    for table in session.table_names() {
        if let Ok(columns) = session.columns_of(&table).await {
            words.tables.insert(table, columns.fields().iter().map(|field| field.name().clone()).collect());
        }
    }
    words
}

fn editor() -> rustyline::Result<Editor<Assistant, DefaultHistory>> {
    let config = Config::builder()
        .max_history_size(HISTORY)?
        .history_ignore_dups(true)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        // Rows may go to a file: the prompt is on the terminal all the same.
        .behavior(Behavior::PreferTerm)
        .build();
    Editor::with_config(config)
}

/// Where the history is kept, with its folder; `None` where it cannot be.
fn history_file() -> Option<PathBuf> {
    let folder = config::state_folder()?;
    match std::fs::create_dir_all(&folder) {
        Ok(()) => Some(folder.join("sql_history")),
        Err(e) => {
            tracing::warn!(folder = %folder.display(), error = %e, "the history is not kept");
            None
        }
    }
}

/// What the line editor asks while somebody types.
struct Assistant(Vocabulary);

impl Completer for Assistant {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        cursor: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.0.complete(line, cursor))
    }
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match shell_words::is_whole(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {}

impl Helper for Assistant {}
