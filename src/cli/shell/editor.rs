//! What is typed on a terminal, line by line: editing, history, completion.
//!
//! The only file that knows rustyline. What a person typed is kept in a file that only they can read, where there is a place for
//! it; without one the shell works as well. Knows nothing of what is done with a line.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Helper};

use crate::cli::shell::command::is_finished;
use crate::cli::shell::completion::Words;
use crate::error::{Error, Kind, Result};
use crate::printable;

/// What stands before the cursor.
const PROMPT: &str = "curec> ";

/// Entries that the history keeps.
const ENTRIES: usize = 1000;

/// What came from the terminal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// A whole statement or command.
    Text(String),
    /// Ctrl-C: what was typed is forgotten.
    Cleared,
    /// Ctrl-D: nothing comes any more.
    End,
}

/// The terminal.
pub(super) struct Editor {
    lines: rustyline::Editor<Assistant, FileHistory>,
    /// Where the history is kept; `None` where it is not.
    history: Option<PathBuf>,
}

impl Editor {
    /// Opens the terminal, with the history of this file.
    ///
    /// # Errors
    /// `Kind::Temporary` where the terminal cannot be used.
    pub(super) fn open(words: Words, history: Option<PathBuf>) -> Result<Editor> {
        let config = Config::builder().completion_type(CompletionType::List).history_ignore_space(true);
        let config = config.max_history_size(ENTRIES).map_err(|e| broken(&e))?.build();
        let mut lines = rustyline::Editor::with_config(config).map_err(|e| broken(&e))?;
        lines.set_helper(Some(Assistant { words, files: FilenameCompleter::new() }));
        let mut editor = Editor { lines, history };
        if let Some(path) = editor.history.clone()
            && let Err(why) = editor.load(&path)
        {
            editor.forgo(&why);
        }
        Ok(editor)
    }

    /// Waits for a statement or a command. Blocks: no thread of a runtime may call it.
    ///
    /// # Errors
    /// `Kind::Temporary` where the terminal is gone.
    pub(super) fn read(&mut self) -> Result<Typed> {
        match self.lines.readline(PROMPT) {
            Ok(text) => {
                self.remember(&text);
                Ok(Typed::Text(text))
            }
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => Ok(Typed::Cleared),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(e) => Err(broken(&e)),
        }
    }

    fn load(&mut self, path: &Path) -> std::result::Result<(), String> {
        if let Some(folder) = path.parent() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|e| e.to_string())?;
        }
        match self.lines.load_history(path) {
            Err(ReadlineError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            loaded => loaded.map_err(|e| e.to_string()),
        }
    }

    fn remember(&mut self, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        let mut kept = self.lines.add_history_entry(text).map(drop);
        // At once: another shell may end later, and this one may be killed.
        if let Some(path) = &self.history {
            kept = kept.and_then(|()| self.lines.append_history(path));
        }
        if let Err(e) = kept {
            self.forgo(&e.to_string());
        }
    }

    /// Goes on without a file for the history.
    fn forgo(&mut self, why: &str) {
        if let Some(path) = self.history.take() {
            tracing::debug!(file = %path.display(), why, "the history is not kept");
        }
    }
}

fn broken(error: &ReadlineError) -> Error {
    Error::new(Kind::Temporary, "cannot read from the terminal").source(error.to_string())
}

/// What helps while a line is typed.
struct Assistant {
    words: Words,
    files: FilenameCompleter,
}

impl Helper for Assistant {}

impl Highlighter for Assistant {}

impl Hinter for Assistant {
    type Hint = String;
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_finished(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        if line.trim_start().starts_with("\\i ") {
            let (start, mut files) = self.files.complete_path(line, position)?;
            // Shown as they are.
            files.retain(|file| !file.display.chars().chain(file.replacement.chars()).any(printable::steers));
            return Ok((start, files));
        }
        let (start, names) = self.words.complete(line, position);
        Ok((start, names.into_iter().map(|name| Pair { display: name.clone(), replacement: name }).collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_history_is_kept_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/curec/sql_history");
        let mut editor = Editor::open(Words::default(), Some(path.clone())).unwrap();
        for text in ["select 1\n  as one;", "  \n", " select 'no';", "\\d"] {
            editor.remember(text);
        }
        drop(editor);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let mut again = Editor::open(Words::default(), Some(path)).unwrap();
        let kept: Vec<&String> = again.lines.history().iter().collect();
        assert_eq!(kept, ["select 1\n  as one;", "\\d"]);
        again.remember("\\q");
        assert!(again.history.is_some());
    }

    #[test]
    fn a_history_that_cannot_be_kept_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        std::fs::write(&taken, [0xff, 0xfe, b'\n']).unwrap();
        // A folder that is a file, a file that is a folder, and a file that holds no text.
        for path in [taken.join("curec/sql_history"), folder.path().to_owned(), taken.clone()] {
            let mut editor = Editor::open(Words::default(), Some(path)).unwrap();
            editor.remember("select 1;");
            assert!(editor.history.is_none());
        }
        assert_eq!(std::fs::read(&taken).unwrap(), [0xff, 0xfe, b'\n']);
    }
}
