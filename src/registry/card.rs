//! What is known of a version: how it was trained, its gate, its files; as JSON and as a README.
//!
//! Knows the card's form. Knows nothing of where versions lie or which of them is in use.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::parse_moment;
use crate::error::{Context, Error, Kind, Result};
use crate::table::store::Location;

/// The folder of a version that holds its reward model.
pub(super) const REWARD: &str = "reward";
/// The folder of a version that holds its projection.
pub(super) const PROJECTION: &str = "projection";

/// One condition of the gate that a version passes before it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The condition, such as `format >= 0.98`.
    pub what: String,
    /// The measured value.
    pub value: f64,
    /// Whether the condition holds.
    pub holds: bool,
}

impl Check {
    /// The condition with what was found, for people: whole numbers as they are, others with four places.
    pub fn told(&self) -> String {
        let Check { what, value, .. } = self;
        if value.fract() == 0.0 { format!("{what} (found {value})") } else { format!("{what} (found {value:.4})") }
    }
}

/// How a version was trained, as reported by the training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trained {
    /// First day of the data, and the first day after it.
    pub interval: Option<[String; 2]>,
    /// Measures by name.
    pub metrics: Map<String, Value>,
    /// Seeds of the training.
    pub seeds: Vec<u64>,
    /// The gate; it holds when it has conditions and all of them hold.
    pub gate: Vec<Check>,
    /// Sample answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
}

impl Trained {
    /// The end of the interval that it was trained on, where that is known.
    pub fn learned_until(&self) -> Option<DateTime<Utc>> {
        self.interval.as_ref().and_then(|[_, end]| parse_moment("interval", end).ok())
    }

    /// Reads a JSON file.
    ///
    /// # Errors
    /// `Kind::Usage` where the file cannot be read or is something else.
    pub fn read(path: &Path) -> Result<Trained> {
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(Kind::Usage, "cannot read what is told of the training")
                .with("file", path.display())
                .hint("it may hold interval, metrics, seeds, gate and samples; `curec models add --help` tells their form")
                .source(e)
        };
        let bytes = std::fs::read(path).map_err(|e| failed(e.into()))?;
        serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))
    }
}

/// A held-out question and the model's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The kind of question, such as `pair`.
    pub task: String,
    /// The prompt.
    pub question: String,
    /// The answer, its stem included.
    pub answer: String,
}

/// What is known of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// The model's name in the registry.
    pub name: String,
    /// Its number and the beginning of its digest: `0003-1a2b3c4d`.
    pub version: String,
    /// When it was added.
    pub created: DateTime<Utc>,
    /// Digest of the model that the adapter was trained for; empty where it has no adapter.
    pub base_model: String,
    /// Digest of the adapter, as fingerprints and manifests have it; empty where it has none.
    pub adapter: String,
    /// Digest of the sentence encoder whose vectors its reward model or its projection reads, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
    /// Digest of the projection, where it is one and no adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection: Option<String>,
    /// How it was trained.
    pub trained: Trained,
    /// BLAKE3 of every file, by its path in the version.
    pub files: BTreeMap<String, String>,
}

impl Card {
    /// Whether the gate has conditions and all of them hold.
    pub fn gate_holds(&self) -> bool {
        !self.trained.gate.is_empty() && self.trained.gate.iter().all(|check| check.holds)
    }

    /// The files of its reward model, by their path in the version; none where it has none.
    pub(super) fn reward_files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files_in(REWARD)
    }

    /// The files of a folder of the version, by their path in it, with their digests.
    pub(super) fn files_in(&self, folder: &str) -> impl Iterator<Item = (&str, &str)> {
        let inside = move |file: &str| file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        self.files.iter().filter(move |(file, _)| inside(file)).map(|(file, digest)| (file.as_str(), digest.as_str()))
    }

    /// The card as indented JSON.
    ///
    /// # Errors
    /// `Kind::Internal`.
    pub fn json(&self) -> Result<String> {
        to_json(self)
    }

    /// The card for people, as Markdown.
    pub fn readme(&self) -> String {
        let Card { name, version, base_model, adapter, trained, .. } = self;
        let mut text = match &self.projection {
            Some(projection) => {
                let encoder = self.encoder.as_deref().unwrap_or("not told");
                format!(
                    "# {name} {version}\n\nA projection: it maps the vectors of texts to where the log has what texts like them go \
                     with.\n\n| | |\n|---|---|\n| projection (digest) | `{projection}` |\n| encoder (digest) | `{encoder}` |\n"
                )
            }
            None => format!(
                "---\nlibrary_name: peft\ntags: [lora]\n---\n\n# {name} {version}\n\nA LoRA adapter in PEFT's format that \
                 makes a language model write reasons for recommendations.\n\n| | |\n|---|---|\n| base model (digest) | \
                 `{base_model}` |\n| adapter (digest) | `{adapter}` |\n"
            ),
        };
        // Writing to a String cannot fail.
        if self.reward_files().next().is_some() {
            let encoder = self.encoder.as_deref().unwrap_or("not told");
            let _ = writeln!(text, "| reward model | `{REWARD}/`, reads vectors of the encoder `{encoder}` |");
        }
        if let Some([start, end]) = &trained.interval {
            let _ = writeln!(text, "| data | from {start} to before {end} |");
        }
        let seeds: Vec<String> = trained.seeds.iter().map(u64::to_string).collect();
        let _ = writeln!(text, "| seeds | {} |", if seeds.is_empty() { "not told".into() } else { seeds.join(", ") });
        let _ = writeln!(text, "\n## Gate\n");
        for Check { what, value, holds } in &trained.gate {
            let _ = writeln!(text, "* {what}: {value}, {}", if *holds { "holds" } else { "does **not** hold" });
        }
        if trained.gate.is_empty() {
            let _ = writeln!(text, "Not asked.");
        }
        let metrics = serde_json::to_string_pretty(&trained.metrics).unwrap_or_default();
        let _ = write!(text, "\n## Measures\n\n```json\n{metrics}\n```\n");
        if !trained.samples.is_empty() {
            let _ = writeln!(text, "\n## Samples\n\nHeld-out questions and what the model answers, as they came.");
        }
        for (i, Sample { task, question, answer }) in trained.samples.iter().enumerate() {
            let task: String = task.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
            let (question, answer) = (quoted(question), quoted(answer));
            let _ = write!(text, "\n### {}. {task}\n\n{question}\n\nAnswer:\n\n{answer}\n", i + 1);
        }
        text
    }
}

/// Text of the data as a Markdown quotation that shows it literally: line by line, without markup, HTML or links.
fn quoted(text: &str) -> String {
    let mut out = String::new();
    for line in text.trim().lines() {
        // Two spaces keep the end of a line.
        out += if out.is_empty() { "> " } else { "  \n> " };
        let mut is_number = true;
        for c in line.trim().chars() {
            match c {
                c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => out.push(' '),
                // A number with one of these begins a list.
                '.' | ')' if is_number => out.extend(['\\', c]),
                '.' | ')' | ',' | ';' | '\'' | '"' | '?' | '%' | '/' => out.push(c),
                c if c.is_ascii_punctuation() => out.extend(['\\', c]),
                c => out.push(c),
            }
            is_number &= c.is_ascii_digit();
        }
    }
    out
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).context(Kind::Internal, || "a record of the registry".into())?;
    Ok(text + "\n")
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], at: &Location) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::new(Kind::Input, "a record of the registry is damaged")
            .with("file", at)
            .hint("restore it from a backup of the registry")
            .source(e)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn samples_are_shown_as_they_are() {
        let evil = "# Title\n1. <script>x</script> [l](http://e) `f` *g*\r\n\n- end";
        let sample = Sample { task: "pa#ir".into(), question: evil.into(), answer: evil.into() };
        let trained = Trained { samples: vec![sample.clone(), sample], ..Trained::default() };
        let card = Card {
            name: "x".into(),
            version: "0001-ab".into(),
            created: DateTime::UNIX_EPOCH,
            base_model: "b".into(),
            adapter: "a".into(),
            encoder: None,
            projection: None,
            trained,
            files: BTreeMap::new(),
        };
        let text = card.readme();
        assert!(!text.contains(" <script") && !text.contains("](") && !text.contains("http://"), "{text}");
        let headings: Vec<&str> = text.lines().filter(|l| l.starts_with('#')).collect();
        assert_eq!(headings[headings.len() - 3..], ["## Samples", "### 1. pair", "### 2. pair"]);
        assert!(text.contains("> \\# Title  \n> 1\\. \\<script\\>"), "{text}");
        assert!(text.contains("\n> \\- end"), "{text}");
        let back: Trained = serde_json::from_str(&serde_json::to_string(&card.trained).unwrap()).unwrap();
        assert_eq!(back, card.trained);
        assert!(!serde_json::to_string(&Trained::default()).unwrap().contains("samples"), "old cards keep their bytes");
    }
}
