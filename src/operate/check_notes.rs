//! What `curec check` finds, as people and programs read it: problems and warnings, each with file and line where there is one
//! and with what to do.
//!
//! Knows errors and the lines of a job file. Knows nothing of how anything is looked at.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};

use crate::config::Job;
use crate::error::Error;
use crate::excerpt::Excerpt;
use crate::printable::{Tone, Toned, line};
use crate::resolved::Place;
use crate::settings::Problem;
use crate::table::finding::Findings;
use crate::table::redact::redact;

/// One thing that was found.
#[derive(Debug)]
struct Note {
    /// It would stop a night; else it is worth knowing.
    is_problem: bool,
    /// The part of the job that it is about.
    part: &'static str,
    file: Option<String>,
    /// From 1.
    line: Option<usize>,
    what: String,
    advice: Option<String>,
    excerpt: Option<Excerpt>,
}

/// Everything that was found, in the order in which it was looked at.
#[derive(Debug)]
pub struct Checked {
    notes: Vec<Note>,
}

/// Gathers what is found.
#[derive(Default)]
pub(super) struct Notes<'a> {
    job: Option<&'a Job>,
    /// Keys whose problems are told: what follows from them is not told again.
    told: BTreeSet<String>,
    notes: Vec<Note>,
}

impl<'a> Notes<'a> {
    /// Of a job, with what is wrong with its settings; `advice` is the same for all of that.
    pub(super) fn of(job: &'a Job, problems: Vec<Problem>, advice: &str) -> Notes<'a> {
        let mut notes = Notes { job: Some(job), ..Notes::default() };
        for Problem { key, line: at, what, excerpt } in problems {
            notes.notes.push(Note {
                is_problem: true,
                part: "settings",
                file: Some(job.origin.clone()),
                line: at,
                what: redact(&line(&what)),
                advice: Some(advice.to_owned()),
                excerpt,
            });
            notes.told.insert(key);
        }
        notes
    }

    /// Notes an error of a part.
    pub(super) fn problem(&mut self, part: &'static str, error: &Error) {
        self.note(true, part, error);
    }

    /// Notes an error on which no night trips.
    pub(super) fn warning(&mut self, part: &'static str, error: &Error) {
        self.note(false, part, error);
    }

    fn note(&mut self, is_problem: bool, part: &'static str, error: &Error) {
        let of = |name: &str| error.context().iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        let key = of("key");
        if key.as_ref().is_some_and(|key| self.told.contains(key)) {
            return;
        }
        let (mut file, mut at) = (of("file"), of("line").and_then(|text| text.parse::<usize>().ok()));
        // Without a file the line is one of something else, such as an audit.
        let is_placed = file.is_some();
        if let (None, Some(key), Some(job)) = (&file, &key, self.job) {
            file = Some(job.origin.clone());
            at = match job.resolved.origin(key).place {
                Place::Line(line) => Some(line),
                _ => None,
            };
        } else if !is_placed {
            at = None;
        }
        let is_left = |name: &str| !is_placed || !matches!(name, "file" | "line");
        let left = error.context().iter().filter(|(name, _)| is_left(name));
        let left: Vec<String> = left.map(|(name, value)| format!("{name}: {}", line(value))).collect();
        let mut what = error.message().to_owned();
        if !left.is_empty() {
            what.push_str(&format!(" ({})", left.join(", ")));
        }
        let mut cause = std::error::Error::source(error);
        while let Some(e) = cause.filter(|e| !e.is::<Findings>()) {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default();
            if !what.contains(first) {
                what.push_str(&format!(": {first}"));
            }
            cause = e.source();
        }
        // Each stands in one line: names out of the data must not be able to end it and begin another finding.
        let advice = error.advice().map(|advice| redact(&line(advice)));
        let excerpt = error.excerpts().next().cloned();
        self.notes.push(Note { is_problem, part, file, line: at, what: redact(&line(&what)), advice, excerpt });
    }

    /// All of them.
    pub(super) fn checked(self) -> Checked {
        Checked { notes: self.notes }
    }
}

impl Checked {
    /// What would stop a night.
    pub fn problems(&self) -> usize {
        self.notes.iter().filter(|note| note.is_problem).count()
    }

    /// What is allowed but worth knowing.
    pub fn warnings(&self) -> usize {
        self.notes.len() - self.problems()
    }

    /// For a person at a terminal: each with the place in its file, where that is known.
    pub fn pieces(&self) -> Vec<Toned> {
        let piece = |tone, text: String| Toned { tone, text };
        let mut pieces = Vec::new();
        for note in &self.notes {
            let tone = if note.is_problem { Tone::Wrong } else { Tone::Advice };
            pieces.push(piece(Tone::Plain, note.place()));
            pieces.push(piece(tone, note.severity().to_owned()));
            pieces.push(piece(Tone::Plain, format!(": {}: {}", note.part, note.what)));
            if let (Some(file), Some(excerpt)) = (&note.file, &note.excerpt) {
                pieces.extend(excerpt.pieces(file));
            }
            if let Some(advice) = &note.advice {
                pieces.push(piece(Tone::Advice, "\n    what to do: ".to_owned()));
                pieces.push(piece(Tone::Plain, advice.clone()));
            }
            pieces.push(piece(Tone::Plain, "\n".to_owned()));
        }
        pieces.push(piece(Tone::Plain, self.counted()));
        pieces
    }

    /// How many of each there are, in a line.
    fn counted(&self) -> String {
        let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        format!("{}, {}\n", counted(self.problems(), "problem"), counted(self.warnings(), "warning"))
    }

    /// One JSON object.
    pub fn json(&self) -> Value {
        let found = self.notes.iter().map(|note| {
            json!({
                "severity": note.severity(),
                "part": note.part,
                "file": note.file,
                "line": note.line,
                "what": note.what,
                "advice": note.advice,
            })
        });
        json!({ "problems": self.problems(), "warnings": self.warnings(), "found": found.collect::<Vec<_>>() })
    }
}

impl Note {
    fn severity(&self) -> &'static str {
        if self.is_problem { "problem" } else { "warning" }
    }

    /// File and line, as they stand before a finding; empty where it is about no file.
    fn place(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(at)) => format!("{}:{at}: ", line(file)),
            (Some(file), None) => format!("{}: ", line(file)),
            (None, _) => String::new(),
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "{}{}: {}: {}", note.place(), note.severity(), note.part, note.what)?;
            if let Some(advice) = &note.advice {
                writeln!(f, "    what to do: {advice}")?;
            }
        }
        f.write_str(&self.counted())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;
    use crate::error::Kind;
    use crate::printable;

    const JOB: &str = "name = 'n'\n[input]\ninteraction = 'a'\nitem = 'b'\n[model]\ngenerator = 'g'\nencoder = 'e'\n";

    #[test]
    fn an_error_stands_at_its_file_or_at_its_key_of_the_job() {
        let job = Job::parse(JOB, "job.toml", &[], &BTreeMap::new()).unwrap();
        let what = "model.slots: must be".into();
        let excerpt = Some(Excerpt::of_bytes("a = 1", 0..1));
        let problem = Problem { key: "model.slots".into(), line: Some(9), what, excerpt };
        let mut notes = Notes::of(&job, vec![problem], "look it up");
        let new = |what: &str| Error::new(Kind::Config, what);
        notes
            .problem("tables", &new("no SQL").with("file", "a.sql").with("line", 3).with("table", "t").hint("mend it"));
        notes.problem("models", &new("is not there").with("key", "model.encoder"));
        notes.problem("tables", &new("an audit fails").with("line", 1).with("audit", "a"));
        notes.problem("models", &new("what follows from a problem that is told").with("key", "model.slots"));
        notes.warning("inputs", &new("odd").with("key", "history.events").source(std::io::Error::other("disk")));
        let checked = notes.checked();
        assert_eq!(
            checked.to_string(),
            "job.toml:9: problem: settings: model.slots: must be\n    what to do: look it up\n\
             a.sql:3: problem: tables: no SQL (table: t)\n    what to do: mend it\n\
             job.toml:7: problem: models: is not there (key: model.encoder)\n\
             problem: tables: an audit fails (line: 1, audit: a)\n\
             job.toml: warning: inputs: odd (key: history.events): disk\n\
             4 problems, 1 warning\n"
        );
        let shown = printable::toned(&checked.pieces(), false);
        let place = "model.slots: must be\n  --> job.toml:1:1\n   |\n 1 | a = 1\n   | ^\n    what to do: look it up\n";
        assert!(shown.contains(place) && shown.ends_with("\n4 problems, 1 warning\n"), "{shown}");
        // Without places it is the same.
        assert_eq!(shown.replace("\n  --> job.toml:1:1\n   |\n 1 | a = 1\n   | ^", ""), checked.to_string());
        let json = checked.json();
        assert_eq!((&json["problems"], &json["warnings"]), (&json!(4), &json!(1)));
        assert_eq!((&json["found"][1]["file"], &json["found"][1]["line"]), (&json!("a.sql"), &json!(3)));
        assert_eq!(json["found"][3]["line"], Value::Null);
    }

    #[test]
    fn names_out_of_the_data_begin_no_finding() {
        let mut notes = Notes::default();
        let name = "a\nproblem: models: forged\x1b[2J";
        let error = Error::new(Kind::Input, format!("the column {name} is odd")).with("column", name);
        notes.problem("inputs", &error.hint(format!("rename {name}")));
        let told = notes.checked().to_string();
        assert_eq!(told.lines().count(), 3, "{told}");
        assert!(
            told.starts_with("problem: inputs: the column a\\u{a}problem: models: forged\\u{1b}[2J is odd"),
            "{told}"
        );
        assert!(told.ends_with("\n1 problem, 0 warnings\n"), "{told}");
    }
}
