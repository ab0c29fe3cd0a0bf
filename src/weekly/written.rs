//! Written examples: evidence with the notes and the reason that a person wrote for it, in files of JSON lines.
//!
//! A line is an object: `id`, `kind` (`item`, `history` or `pair`), `subject` (the title of an item, of itself or of a pair), `verdict`, the lists `liked`, `disliked`,
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
    Pair,
}

impl About {
    fn as_str(self) -> &'static str {
        match self {
            About::Item => "item",
            About::History => "history",
            About::Pair => "pair",
        }
    }
}

/// What the reason argues for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Like,
    Mixed,
    Dislike,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Verdict::Like => "like",
            Verdict::Mixed => "mixed",
            Verdict::Dislike => "dislike",
        }
    }
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
    fn evidence(&self) -> Evidence {
        Evidence {
            kind: self.kind.as_str().into(),
            subject: self.subject.clone(),
            verdict: self.verdict.as_str().into(),
            liked: self.liked.clone(),
            disliked: self.disliked.clone(),
            related: self.related.clone(),
            attributes: self.attributes.clone(),
            content: self.content.clone(),
            praise: self.praise.clone(),
            fault: self.fault.clone(),
            keywords: self.keywords.clone(),
            extra: Vec::new(),
        }
    }

    fn question(self, examples: &Examples) -> Result<Question> {
        let evidence = self.evidence();
        let prompt = examples.question(&evidence)?;
        let Evidence { kind, subject, liked, disliked, related, attributes, content, praise, fault, keywords, .. } =
            evidence;
        let prose: Vec<String> = [content, praise, fault].concat();
        let names = [liked, disliked, related, attributes, keywords].concat().into_iter();
        let facts: Vec<String> = names.chain(prose.iter().cloned()).chain(subject).collect();
        Ok(Question {
            is_held_out: blake3::hash(self.id.as_bytes()).as_bytes()[0] < HELD_OUT,
            id: self.id,
            task: kind,
            prompt,
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
            line if line.kind != About::History && line.subject.is_none() => {
                Some("a written example of an item or a pair has no subject")
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

    #[test]
    fn what_ships_passes_the_checks_of_a_night() {
        use crate::config::CheckSpec;
        use crate::reward::names::Vocabulary;
        use crate::reward::score::{Scored, score};
        let check = CheckSpec {
            min_mean_logprob: -2.5,
            min_grounding: 1.0,
            max_repetition: 0.2,
            min_words: 6,
            max_words: 35,
            min_language: 0.2,
            require_finished: true,
            min_concrete: 1,
            max_copied_words: 8,
            language: "en".into(),
        };
        let (mut refused, mut reasons) = (Vec::new(), std::collections::HashSet::new());
        let mut concrete = 0;
        for name in ["films", "things", "summaries", "histories", "pairs"] {
            let text = std::fs::read_to_string(format!("jobs/written/{name}.jsonl")).unwrap();
            let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            // Films and other things are two catalogues.
            let is_of_films = |line: &Line| ["film-", "h-", "p-"].iter().any(|begin| line.id.starts_with(begin));
            let of = |films: bool| lines.iter().filter(move |line| is_of_films(line) == films);
            let [films, things] =
                [true, false].map(|films| Vocabulary::new(of(films).flat_map(|l| &l.attributes).map(String::as_str)));
            for line in &lines {
                let vocabulary = if is_of_films(line) { &films } else { &things };
                assert!(reasons.insert(line.reason.clone()), "{name} {}: somebody else's reason", line.id);
                let evidence = line.evidence();
                let row = Scored {
                    reason: Some(&line.reason),
                    finish: Some("stop"),
                    logprob_sum: Some(-1.0),
                    completion_tokens: 40,
                    ..Scored::from_evidence(&evidence)
                };
                let found = score(&row, &check, vocabulary);
                concrete += usize::from(found.concreteness == Some(1.0));
                let why = found.refusal;
                let invented = row.mentions(&line.reason, vocabulary).invented;
                refused.extend(
                    why.map(|why| format!("{name} {}: {} {invented:?} {}", line.id, why.as_str(), line.reason)),
                );
            }
        }
        assert!(refused.is_empty(), "{} refused:\n{}", refused.len(), refused.join("\n"));
        assert!(10 * concrete > 9 * reasons.len(), "{concrete} of {} say six concrete words", reasons.len());
    }
}
