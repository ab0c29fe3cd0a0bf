//! Written examples: evidence with the notes and the reason that a person wrote for it, in files of JSON lines.
//!
//! A line is an object: `id`, `kind` (`item` or `history`), `subject` (an item's title), `verdict`, the lists `liked`, `disliked`,
//! `related`, `attributes`, `content`, `praise`, `fault` and `keywords` as the table `reason_prompt` has them, where there is
//! something to say, and `notes` and `reason`, the answer. The question is asked by the same templates as a night's. A tenth
//! of the examples, by the digest of their ids, is held out. Knows nothing of logs: who learns from such examples alone learns
//! how to say something, and no taste.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Context, Error, Kind, Result};
use crate::generate::answers::Examples;
use crate::generate::format;
use crate::generate::prompt::{self, Evidence};
use crate::settings::read_text;
use crate::weekly::question::Question;

/// Of 256 examples so many are held out.
const HELD_OUT: u8 = 26;

/// What an example is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum About {
    Item,
    History,
}

/// What the reason argues for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Like,
    Mixed,
    Dislike,
}

/// One line.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    kind: About,
    subject: Option<String>,
    verdict: Verdict,
    #[serde(default)]
    liked: Vec<String>,
    #[serde(default)]
    disliked: Vec<String>,
    #[serde(default)]
    related: Vec<String>,
    #[serde(default)]
    attributes: Vec<String>,
    #[serde(default)]
    content: Vec<String>,
    #[serde(default)]
    praise: Vec<String>,
    #[serde(default)]
    fault: Vec<String>,
    #[serde(default)]
    keywords: Vec<String>,
    notes: String,
    reason: String,
}

impl Line {
    fn question(self, examples: &Examples) -> Result<Question> {
        let kind = match self.kind {
            About::Item => "item",
            About::History => "history",
        };
        let verdict = match self.verdict {
            Verdict::Like => "like",
            Verdict::Mixed => "mixed",
            Verdict::Dislike => "dislike",
        };
        let Line { id, subject, liked, disliked, related, attributes, content, praise, fault, keywords, .. } = self;
        let prose: Vec<String> = content.iter().chain(&praise).chain(&fault).cloned().collect();
        let names = liked.iter().chain(&disliked).chain(&related).chain(&attributes).chain(&keywords);
        let facts: Vec<String> = names.chain(&prose).chain(&subject).cloned().collect();
        let evidence = Evidence {
            kind: kind.into(),
            subject,
            verdict: verdict.into(),
            liked,
            disliked,
            related,
            attributes,
            content,
            praise,
            fault,
            keywords,
            extra: Vec::new(),
        };
        Ok(Question {
            is_held_out: blake3::hash(id.as_bytes()).as_bytes()[0] < HELD_OUT,
            id,
            task: kind.into(),
            prompt: examples.question(&evidence)?,
            stem: format::STEM.into(),
            answer: format::render(&self.notes, &self.reason, None),
            evidence: facts.clone(),
            facts,
            prose,
            asked: None,
        })
    }
}

/// The examples of a file.
///
/// # Errors
/// `Kind::Config` where it cannot be read; `Kind::Input` naming file and line for what is no such example, or has an id twice.
pub(crate) fn read(path: &Path) -> Result<Vec<Question>> {
    let hint = "[align] written names files of JSON lines; docs/learning.md shows one";
    let text = read_text(path, "the written examples", hint)?;
    let examples = Examples::new()?;
    let (mut found, mut ids) = (Vec::new(), std::collections::HashSet::new());
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = |e: Error| e.with("file", path.display()).with("line", n + 1).hint(hint);
        let line: Line =
            serde_json::from_str(line).context(Kind::Input, || "a line is no written example".into()).map_err(place)?;
        let why = match &line {
            line if !ids.insert(line.id.clone()) => Some("an id stands twice"),
            line if prompt::is_blank(&line.reason) => Some("a written example has no reason"),
            line if line.kind == About::Item && line.subject.is_none() => {
                Some("a written example of an item has no subject")
            }
            _ => None,
        };
        if let Some(why) = why {
            return Err(place(Error::new(Kind::Input, why).with("id", &line.id)));
        }
        found.push(line.question(&examples)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = r#"{"id": "a", "kind": "item", "subject": "Harbour Lights", "verdict": "like", "attributes": ["Novels"], "content": ["A keeper tends a light."], "keywords": ["keeper"], "notes": "a keeper; a light", "reason": "People pick it for the keeper."}"#;

    fn of(text: &str) -> Result<Vec<Question>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path())
    }

    #[test]
    fn a_line_becomes_a_question_of_the_nights_templates() {
        let found = of(&format!("{GOOD}\n\n{}\n", GOOD.replace("\"a\"", "\"b\""))).unwrap();
        assert_eq!(found.len(), 2);
        let first = &found[0];
        assert!(first.prompt.contains("A keeper tends a light.") && first.prompt.contains("Harbour Lights"));
        assert_eq!(first.answer, "a keeper; a light</think><reason>People pick it for the keeper.</reason>");
        assert!(first.evidence.contains(&"Novels".to_owned()) && first.prose == ["A keeper tends a light."]);
    }

    #[test]
    fn mistakes_name_file_and_line() {
        for (text, why) in [
            (format!("{GOOD}\n{{"), "line: 2"),
            (format!("{GOOD}\n{GOOD}"), "an id stands twice"),
            (GOOD.replace("People pick it for the keeper.", " "), "has no reason"),
            (GOOD.replace("\"subject\": \"Harbour Lights\", ", ""), "has no subject"),
            (GOOD.replace("notes", "note"), "note"),
        ] {
            let error = of(&text).err().unwrap();
            assert_eq!(error.kind(), Kind::Input, "{text}");
            assert!(error.explain().contains(why) && error.explain().contains("file"), "{}", error.explain());
        }
        assert_eq!(read(Path::new("nowhere.jsonl")).err().unwrap().kind(), Kind::Config);
    }

    #[test]
    fn a_tenth_is_held_out_and_text_is_no_tag() {
        let lines: String = (0..400).map(|n| GOOD.replace("\"a\"", &format!("\"{n}\"")) + "\n").collect();
        let held_out = of(&lines).unwrap().iter().filter(|q| q.is_held_out).count();
        assert!((20..=60).contains(&held_out), "{held_out}");
        let found = of(&GOOD.replace("a keeper; a light", "x</think>")).unwrap();
        assert!(found[0].answer.starts_with("x</think><reason>"), "{}", found[0].answer);
    }
}
