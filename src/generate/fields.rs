//! The fields of a reason: what a job asks for beside the sentence, and the line of JSON that such an answer is.
//!
//! Knows names and text; what holds an answer to its form is `llm::grammar`. Knows nothing of templates or tables.

use serde_json::{Map, Value, json};

use crate::config::PromptSpec;

/// How an answer with fields begins, before the words of the template's own beginning.
pub const OPEN: &str = r#"{"reason":""#;

/// What the fields are, for the model.
const MEANINGS: [(&str, &str); 4] = [
    ("what", "what it is about"),
    ("praised", "what is praised"),
    ("faulted", "what is faulted"),
    ("for_whom", "who it is for"),
];

/// The longest reason and the longest field, in characters.
const LONGEST: (usize, usize) = (400, 120);

/// The fields that a job asks for, in its order. None: reasons are plain text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(&'static str, &'static str)>);

impl Fields {
    /// Those of `[prompt] fields`.
    pub fn of(spec: &PromptSpec) -> Fields {
        let known = |name: &str| MEANINGS.iter().find(|(known, _)| *known == name).copied();
        Fields(spec.fields().into_iter().filter_map(known).collect())
    }

    /// Whether none is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The line that a question ends with.
    pub fn request(&self) -> String {
        let fields: Vec<String> = self.0.iter().map(|(name, meaning)| format!("\"{name}\": {meaning}")).collect();
        format!(
            "Answer with one line of JSON: {{\"reason\": that sentence, {}}}. Leave a field empty (\"\") where nothing above tells it.",
            fields.join(", ")
        )
    }

    /// The beginning of an answer whose sentence begins with `stem`.
    pub fn stem(&self, stem: &str) -> String {
        // No control characters, so that none has to be spelt: a reason is one line.
        let stem: String = stem.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let quoted = Value::from(stem).to_string();
        format!("{OPEN}{}", quoted.get(1..quoted.len() - 1).unwrap_or_default())
    }

    /// What an answer must be, stem and all, as a JSON schema.
    pub fn schema(&self) -> Value {
        self.schema_of(LONGEST)
    }

    fn schema_of(&self, (reason, field): (usize, usize)) -> Value {
        let mut properties = Map::from_iter([("reason".to_owned(), json!({"type": "string", "maxLength": reason}))]);
        let of = |name: &str| (name.to_owned(), json!({"type": "string", "maxLength": field}));
        properties.extend(self.0.iter().map(|(name, _)| of(name)));
        let required: Vec<&String> = properties.keys().collect();
        json!({
            "type": "object",
            "required": required,
            "additionalProperties": false,
            // One line without spaces between its parts; of escapes those that a quoted title needs.
            "x-guidance": {"whitespace_flexible": false, "json_allowed_escapes": "\"\\"},
            "properties": properties,
        })
    }
}

/// Whether an answer that begins with `stem` is one with fields.
pub fn is_asked(stem: &str) -> bool {
    stem.starts_with(OPEN)
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// The sentence, never blank.
    pub reason: String,
    values: Map<String, Value>,
}

impl Filled {
    /// What a field says; `None` where it is empty or was not asked for.
    pub fn field(&self, name: &str) -> Option<&str> {
        let text = self.values.get(name)?.as_str()?.trim();
        (!text.is_empty()).then_some(text)
    }
}

/// Reads an answer, the stem included. `None` where it is not whole, as where the limit of tokens cut it off, or has no
/// reason.
pub fn parse(answer: &str) -> Option<Filled> {
    let mut values: Map<String, Value> = serde_json::from_str(answer.trim()).ok()?;
    let Some(Value::String(reason)) = values.shift_remove("reason") else { return None };
    let reason = reason.trim();
    (!reason.is_empty()).then(|| Filled { reason: reason.to_owned(), values })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::llm::grammar::Grammar;
    use crate::llm::sampler::{self, Sampling};
    use crate::llm::tokenizer::Tokenizer;
    use proptest::prelude::*;

    fn asked(names: &str) -> Fields {
        let name = String::new;
        Fields::of(&PromptSpec { item: name(), history: name(), pair: name(), fields: names.into() })
    }

    fn tokenizer() -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models/tiny-qwen3/tokenizer.json");
        Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn every_field_that_a_job_may_name_has_a_meaning() {
        assert_eq!(MEANINGS.map(|(name, _)| name), PromptSpec::FIELDS);
        assert!(asked("").is_empty() && !asked(" what ").is_empty());
        assert_eq!(asked("for_whom, what").0, [MEANINGS[3], MEANINGS[0]]);
        let line = asked("praised").request();
        assert!(line.contains("\"praised\": what is praised") && !line.contains("faulted"), "{line}");
    }

    #[test]
    fn an_answer_is_its_sentence_and_its_fields() {
        let stem = asked("what,praised").stem("People pick \"Heat\"\nfor");
        assert_eq!(stem, r#"{"reason":"People pick \"Heat\" for"#);
        assert!(is_asked(&stem) && !is_asked("People") && !is_asked("<think>"));
        let filled = parse(&format!(r#"{stem} its heist.","what":" a heist","praised":""}}"#)).unwrap();
        assert_eq!(filled.reason, "People pick \"Heat\" for its heist.");
        assert_eq!(
            (filled.field("what"), filled.field("praised"), filled.field("faulted")),
            (Some("a heist"), None, None)
        );
        for broken in [r#" its heist.","what":"a he"#, r#"","what":"#, ""] {
            assert_eq!(parse(&format!("{stem}{broken}")), None, "{broken}");
        }
        assert_eq!(parse(r#"{"reason":" ","what":"x"}"#), None);
        assert_eq!(asked("what").stem(""), OPEN);
    }

    /// An answer of a model whose logits are noise, token by token; `None` where it is not whole after `limit` tokens.
    fn noise(
        grammar: &Grammar,
        tokenizer: &Tokenizer,
        sampling: &Sampling,
        seed: [u8; 32],
        limit: u64,
    ) -> Option<String> {
        let mut guide = grammar.guide();
        let mut tokens = Vec::new();
        for position in 0..limit {
            let random = |id: u64| sampler::uniform(&seed, position * 1000 + id) as f32 * 8.0;
            // Longer than the vocabulary, as the logits of padded models are.
            let logits: Vec<f32> = (0..tokenizer.vocab_size() as u64 + 4).map(random).collect();
            guide.look();
            assert_eq!(guide.failure(), None);
            let among = Some(guide.allowed());
            let chosen = sampler::choose_beside(&logits, sampling, among, &[], &guide.said(&tokens), &seed, position)
                .expect("something may always come next");
            tokens.push(chosen.token);
            if guide.take(chosen.token).unwrap() {
                return Some(tokenizer.decode(&tokens, true).unwrap());
            }
        }
        None
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn whatever_the_logits_a_whole_answer_has_its_fields(seed: [u8; 32], is_greedy: bool) {
            let (fields, tokenizer) = (asked("what,faulted"), tokenizer());
            let grammar = Grammar::new(&tokenizer, &[2], fields.schema_of((30, 8)), OPEN).unwrap();
            let temperature = if is_greedy { 0.0 } else { 1.0 };
            let sampling = Sampling { temperature, repetition_penalty: 1.1, ..Sampling::default() };
            // Each character is at most four bytes, each byte at most one token; escapes count twice.
            let text = noise(&grammar, &tokenizer, &sampling, seed, 400).expect("it ends");
            let again = noise(&grammar, &tokenizer, &sampling, seed, 400);
            prop_assert_eq!(again.as_ref(), Some(&text));
            let whole = format!("{}{text}", fields.stem(""));
            let values: Map<String, Value> = serde_json::from_str(&whole).unwrap();
            let names: Vec<&str> = values.keys().map(String::as_str).collect();
            prop_assert_eq!(names, ["reason", "what", "faulted"]);
            prop_assert!(!whole.contains(['\n', '\t']) && values.values().all(Value::is_string), "{}", whole);
            prop_assert!(values["reason"].as_str().unwrap().chars().count() <= 30, "{}", whole);
            prop_assert!(values["what"].as_str().unwrap().chars().count() <= 8, "{}", whole);
        }
    }
}
