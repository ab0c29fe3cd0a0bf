//! Answers to questions of learning, a teacher's or the model's own, one JSON object a line, each appended as it comes:
//! nothing is asked twice.
//!
//! A run that was killed asks only what has no line yet, and a later run nothing that it knows. A line stands under a key that
//! is made of everything that its answer follows from, so that another question, model or setting is another line. What is no
//! line, as after a kill, is left out and swallows none that comes after it. Knows lines and keys; who is asked, and what the
//! answers are worth, it does not know.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::weekly::teacher::Answers;

/// A line of the file. Without a text the question was refused, or its answer is no text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Digest of all that the answer follows from.
    pub question: String,
    /// Who asked first.
    pub example_id: String,
    /// Which of several answers to the question; 0 is the first.
    #[serde(default)]
    pub sample: usize,
    /// The answer.
    pub answer_text: Option<String>,
    /// How it ended, as in the table `response`; not of a teacher's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish: Option<String>,
    /// Sum of natural-log likelihoods of its tokens; not of a teacher's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprob_sum: Option<f64>,
    /// Tokens of the question.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Microseconds since the line before, or since asking began.
    #[serde(default)]
    pub micros: u64,
}

/// The file, open to be appended to, and what stands in it.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    lines: HashMap<String, Line>,
    since: Instant,
}

impl Log {
    /// Reads the file, which is made where there is none.
    ///
    /// # Errors
    /// `Kind::Config` where it cannot be read; `Kind::Temporary` where it cannot be written to.
    pub fn open(path: &Path) -> Result<Log> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(e) => {
                return Err(Error::new(Kind::Config, "cannot read the answers of before")
                    .with("file", path.display())
                    .source(e));
            }
        };
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let lines = lines.map(|line| (line.question.clone(), line)).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(|e| failed(path, e))?;
        // A line that was cut short must not swallow the next one.
        if bytes.last().is_some_and(|byte| *byte != b'\n') {
            file.write_all(b"\n").map_err(|e| failed(path, e))?;
        }
        Ok(Log { path: path.to_owned(), file, lines, since: Instant::now() })
    }

    /// Whether the question with this key was asked.
    pub fn holds(&self, key: &str) -> bool {
        self.lines.contains_key(key)
    }

    /// The line of the question with this key.
    pub fn line(&self, key: &str) -> Option<&Line> {
        self.lines.get(key)
    }

    /// Appends a line; the time that it took is filled in here.
    ///
    /// # Errors
    /// `Kind::Temporary` where it cannot be written.
    pub fn keep(&mut self, line: Line) -> Result<()> {
        let micros = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let line = Line { micros, ..line };
        let text = serde_json::to_string(&line).context(Kind::Internal, || "an answer".into())?;
        self.file.write_all(format!("{text}\n").as_bytes()).map_err(|e| failed(&self.path, e))?;
        self.since = Instant::now();
        self.lines.insert(line.question.clone(), line);
        Ok(())
    }

    /// What stands in the file under these keys, each with the `example_id` that it answers; several answers to a question in
    /// the order of their keys. Tokens and time of a key count once, whoever asked.
    pub fn answers<'a>(&self, asked: impl Iterator<Item = (&'a str, &'a str)>) -> Answers {
        let (mut found, mut counted, mut ids) = (Answers::default(), HashSet::new(), HashSet::new());
        for (id, key) in asked {
            ids.insert(id);
            let Some(line) = self.lines.get(key) else { continue };
            if counted.insert(key) {
                found.prompt_tokens += line.prompt_tokens;
                found.completion_tokens += line.completion_tokens;
                found.micros = found.micros.saturating_add(line.micros);
            }
            if let Some(text) = &line.answer_text {
                found.given += 1;
                found.texts.entry(id.to_owned()).or_default().push(text.clone());
            }
        }
        found.unanswered = ids.len() - found.texts.len();
        found
    }
}

fn failed(path: &Path, e: std::io::Error) -> Error {
    Error::new(Kind::Temporary, "cannot keep an answer").with("file", path.display()).source(e)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(key: &str, sample: usize, text: Option<&str>) -> Line {
        let (question, example_id) = (key.to_owned(), "q".to_owned());
        let answer_text = text.map(str::to_owned);
        let (finish, logprob_sum) = (None, None);
        Line {
            question,
            example_id,
            sample,
            answer_text,
            finish,
            logprob_sum,
            prompt_tokens: 5,
            completion_tokens: 2,
            micros: 0,
        }
    }

    #[test]
    fn what_was_cut_short_swallows_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::open(&path).unwrap();
        log.keep(line("a", 0, Some("one"))).unwrap();
        log.keep(line("b", 1, Some("two\nlines"))).unwrap();
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        let mut log = Log::open(&path).unwrap();
        assert!(log.holds("a") && !log.holds("b"));
        log.keep(line("b", 1, Some("three"))).unwrap();
        log.keep(line("c", 0, None)).unwrap();
        let log = Log::open(&path).unwrap();
        assert_eq!(log.lines.len(), 3, "{log:?}");
        // The endpoint's lines of before have neither a sample nor a time.
        let old = r#"{"question":"d","example_id":"q","answer_text":"x","prompt_tokens":1,"completion_tokens":1}"#;
        assert_eq!(serde_json::from_str::<Line>(old).unwrap().sample, 0);

        let asked = [("q", "a"), ("q", "b"), ("r", "c"), ("s", "nowhere"), ("t", "a")];
        let found = log.answers(asked.into_iter());
        assert_eq!(
            (found.texts["q"].clone(), found.texts["t"].clone()),
            (vec!["one".into(), "three".into()], vec!["one".into()])
        );
        assert_eq!((found.given, found.unanswered), (3, 2));
        assert_eq!((found.prompt_tokens, found.completion_tokens), (15, 6), "what two ask is paid for once");
    }
}
