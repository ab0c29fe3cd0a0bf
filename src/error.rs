//! The one error type: a kind, a message that says what happened, context that says where, a hint that says what to
//! do, and the source.
//!
//! The kind decides the exit code and whether running again as is can help. What it tells is made of others' text and fit to
//! be printed. Of other modules it knows [`crate::printable`] and [`crate::excerpt`] alone.

use std::error::Error as StdError;
use std::fmt;

use crate::excerpt::{self, Excerpt};
use crate::printable::{self, Tone, Toned};

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// The job file, a contract file, an SQL file or a template is wrong.
    Config,
    /// A model file is missing, truncated, unsupported or does not fit its tokenizer.
    Model,
    /// An input is missing, unreadable or breaks its contract.
    Input,
    /// What the interval is made from is not there yet: its log is late.
    NotArrived,
    /// Staged rows failed an audit; nothing was published.
    Audit,
    /// More rows failed than the job's failure budget allows, or a spend cap was reached and the job does not publish then.
    Budget,
    /// The store, network or device failed in a way that may pass; progress is kept.
    Temporary,
    /// Another run holds the lease.
    Busy,
    /// A signal asked the run to stop; progress is kept.
    Interrupted,
    /// The reader of our standard output has gone; not a failure.
    BrokenPipe,
    /// A defect in curec.
    Internal,
}

impl Kind {
    /// The process's exit code: 0, 1 (refused, a rerun does not help), 2 (usage or configuration), 75 (run it again).
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::BrokenPipe => 0,
            Kind::Input | Kind::Audit | Kind::Budget | Kind::Internal => 1,
            Kind::Usage | Kind::Config | Kind::Model => 2,
            Kind::NotArrived | Kind::Temporary | Kind::Busy | Kind::Interrupted => 75,
        }
    }

    /// Whether the same command can succeed when it is simply run again.
    pub fn rerun_helps(self) -> bool {
        self.exit_code() == 75
    }

    /// Lower-case name for JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::Config => "config",
            Kind::Model => "model",
            Kind::Input => "input",
            Kind::NotArrived => "not_arrived",
            Kind::Audit => "audit",
            Kind::Budget => "budget",
            Kind::Temporary => "temporary",
            Kind::Busy => "busy",
            Kind::Interrupted => "interrupted",
            Kind::BrokenPipe => "broken_pipe",
            Kind::Internal => "internal",
        }
    }
}

/// An error with its kind, place, advice and source.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    context: Vec<(&'static str, String)>,
    /// Each with the line of the message that it belongs to, from 0; one that the message does not have is its last.
    excerpts: Vec<(usize, Excerpt)>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    others: Vec<Error>,
}

/// `Result` with curec's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` whose message says what happened, in one sentence without a full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let (context, excerpts, others) = (Vec::new(), Vec::new(), Vec::new());
        Error(Box::new(Inner { kind, message: message.into(), context, excerpts, hint: None, source: None, others }))
    }

    /// The first of some errors, which keeps the others; `None` where there is none.
    pub fn of_all(errors: Vec<Error>) -> Option<Self> {
        let mut errors = errors.into_iter();
        let mut first = errors.next()?;
        first.0.others.extend(errors);
        Some(first)
    }

    /// Adds a place: `file`, `column`, `row`, `key`, `line`, `table` ...
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Shows the place in a text, where it is known; the context's `file` names the text. Of many places the first are shown.
    pub fn showing(self, excerpt: Option<Excerpt>) -> Self {
        match excerpt {
            Some(excerpt) => self.showing_after(usize::MAX, excerpt),
            None => self,
        }
    }

    /// The same after one line of the message, from 0.
    pub fn showing_after(mut self, line: usize, place: Excerpt) -> Self {
        if self.0.excerpts.len() < excerpt::MOST {
            self.0.excerpts.push((line, place));
        }
        self
    }

    /// Says what the user can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps the error that caused this one.
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error, of another kind.
    pub(crate) fn of_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The same error for one more reader; what caused it is kept as text.
    pub(crate) fn again(&self) -> Self {
        let mut causes = Vec::new();
        let mut next = StdError::source(self);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        let source = (!causes.is_empty()).then(|| causes.join(": ").into());
        let Inner { kind, message, context, excerpts, hint, others, .. } = &*self.0;
        let (message, context, excerpts) = (message.clone(), context.clone(), excerpts.clone());
        let (hint, others) = (hint.clone(), others.iter().map(Error::again).collect());
        Error(Box::new(Inner { kind: *kind, message, context, excerpts, hint, source, others }))
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The message alone, without place, hint or source.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The places, in the order in which they were added.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// The places in texts that it shows.
    pub fn excerpts(&self) -> impl Iterator<Item = &Excerpt> {
        self.0.excerpts.iter().map(|(_, excerpt)| excerpt)
    }

    /// What the user can do about it, where that is known.
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// This error and the others that were found with it, each alone.
    pub fn into_all(mut self) -> Vec<Error> {
        let others = std::mem::take(&mut self.0.others);
        std::iter::once(self).chain(others).collect()
    }

    /// The whole story for a person, several lines: what, where, caused by, what to do, and what else was found, a line each.
    pub fn explain(&self) -> String {
        printable::toned(&self.pieces(), false)
    }

    /// The same in pieces with their tones.
    pub fn pieces(&self) -> Vec<Toned> {
        let piece = |tone, text: String| Toned { tone, text };
        let file = self.0.context.iter().find(|(key, _)| *key == "file").map_or("sql", |(_, file)| file.as_str());
        let head = self.to_string();
        let last = head.matches('\n').count();
        let mut pieces = Vec::new();
        for (number, text) in head.split('\n').enumerate() {
            pieces.push(piece(Tone::Plain, if number == 0 { text.to_owned() } else { format!("\n{text}") }));
            let here = self.0.excerpts.iter().filter(|(line, _)| (*line).min(last) == number);
            here.for_each(|(_, excerpt)| pieces.extend(excerpt.pieces(file)));
        }
        let mut source = self.0.source.as_deref().map(|s| s as &dyn StdError);
        while let Some(cause) = source {
            pieces.push(piece(Tone::Quiet, "\n  caused by: ".into()));
            pieces.push(piece(Tone::Plain, cause.to_string()));
            source = cause.source();
        }
        if let Some(hint) = &self.0.hint {
            pieces.push(piece(Tone::Advice, "\n  what to do: ".into()));
            pieces.push(piece(Tone::Plain, hint.clone()));
        }
        for other in &self.0.others {
            pieces.push(piece(Tone::Quiet, "\n  also: ".into()));
            pieces.push(piece(Tone::Plain, printable::line(&other.to_string()).into_owned()));
        }
        pieces
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable::terminal(&self.0.message))?;
        for (i, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key}: {}", if i == 0 { " (" } else { ", " }, printable::line(value))?;
        }
        if self.0.context.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.explain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

/// Turns any foreign error into [`Error`] where it happens.
pub trait Context<T> {
    /// Wraps the error with a kind and a message; the original stays as the source.
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::new(kind, message()).source(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_what_where_why_and_what_to_do() {
        let e = Error::new(Kind::Input, "null in a required column")
            .with("file", "a.parquet")
            .with("row", 7)
            .hint("drop the row")
            .source(std::io::Error::other("disk"));
        assert_eq!(e.to_string(), "null in a required column (file: a.parquet, row: 7)");
        assert!(e.explain().contains("caused by: disk"));
        assert!(e.explain().ends_with("what to do: drop the row"));
        assert_eq!(e.kind().exit_code(), 1);
        assert!(!e.kind().rerun_helps());
        let late = e.of_kind(Kind::NotArrived);
        assert_eq!((late.kind().exit_code(), late.kind().name(), late.kind().rerun_helps()), (75, "not_arrived", true));
    }

    #[test]
    fn errors_that_are_found_together_are_told_together() {
        assert!(Error::of_all(Vec::new()).is_none());
        let new = |what: &str| Error::new(Kind::Input, what).with("file", "a.parquet");
        let all = || vec![new("one").hint("mend it"), new("two"), new("three\nfour")];
        let first = Error::of_all(all()).map(|e| (e.to_string(), e.explain(), e.again().explain(), e.into_all().len()));
        let told = "one (file: a.parquet)\n  what to do: mend it\n  also: two (file: a.parquet)\n  \
                    also: three\\u{a}four (file: a.parquet)";
        assert_eq!(first, Some(("one (file: a.parquet)".into(), told.into(), told.into(), 3)));
    }

    #[test]
    fn a_place_is_shown_under_the_line_that_tells_of_it() {
        let text = "a = 1\nbb = x\n";
        let place = |bytes| Excerpt::of_bytes(text, bytes);
        let e = Error::new(Kind::Config, "two problems:\n  t.toml:1: a\n  t.toml:2: bb")
            .with("file", "t.toml")
            .showing_after(1, place(0..1))
            .showing(Some(place(11..12)))
            .showing(None)
            .hint("mend it");
        let told = "two problems:\n  t.toml:1: a\n  --> t.toml:1:1\n   |\n 1 | a = 1\n   | ^\n  t.toml:2: bb (file: t.toml)\n  \
                    --> t.toml:2:6\n   |\n 2 | bb = x\n   |      ^\n  what to do: mend it";
        assert_eq!((e.explain().as_str(), e.again().explain().as_str()), (told, told));
        // What programs and records get stays as it was.
        assert_eq!(e.to_string(), "two problems:\n  t.toml:1: a\n  t.toml:2: bb (file: t.toml)");
        let typed = Error::new(Kind::Usage, "what").showing(Some(place(0..1)));
        assert!(typed.explain().contains("\n  --> sql:1:1\n"), "{}", typed.explain());
    }

    #[test]
    fn what_an_error_tells_steers_nothing() {
        let e = Error::new(Kind::Input, "bad id `\x1b[2J`\nsecond line")
            .with("file", "a\nerror: all is well\u{202e}.parquet")
            .hint("look\u{9b}")
            .source(std::io::Error::other("\x1b]0;title\x07"));
        let told = e.explain();
        assert!(told.chars().all(|c| !printable::steers(c) || c == '\n'), "{told:?}");
        assert!(told.starts_with("bad id `\\u{1b}[2J`\nsecond line (file: a\\u{a}error: all is well"), "{told}");
        assert_eq!(told.lines().count(), 4, "{told}");
    }
}
