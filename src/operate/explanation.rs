//! An explanation as it is shown: one JSON object for programs, pieces in tones for people.
//!
//! Texts of the data stay data. Knows nothing of where the rows stood, nor of the command line.

use serde_json::{Value, json};

use crate::marks::{Piece, marked};
use crate::operate::about::About;
use crate::operate::explain::{Explanation, Row, evidence, text};
use crate::printable::{Tone, Toned, line};
use crate::project::column::COLLABORATIVE;

/// The columns that say which row it is.
const KEYS: [&str; 6] = ["kind", "user_id", "item_id", "as_of", "prompt_key", "dt"];
/// What is told of a score before its parts.
const OUTCOME: [&str; 3] = ["score", "accepted", "refusal"];
/// A field's texts stand in one line up to so many characters.
const ONE_LINE: usize = 100;
/// The vectors of a feature row, of which the latter is there where the job names a projection.
const VECTORS: [&str; 2] = ["embedding", COLLABORATIVE];
/// Numbers of a vector that are shown.
const FIRST_NUMBERS: usize = 3;

/// Why a reason was refused, in words.
fn refusal_words(code: &str) -> &'static str {
    match code {
        "no_evidence" => "there was no evidence to ask about",
        "error" => "there is no answer",
        "bad_format" => "the answer breaks its format",
        "empty" => "there is no text",
        "unfinished" => "it does not end with the end of a sentence",
        "too_short" => "it has too few words",
        "too_long" => "it has too many words",
        "language" => "it is in another language",
        "repetition" => "it repeats itself",
        "polarity" => "it argues for the opposite of its verdict",
        "ungrounded" => "it names what its evidence does not hold",
        "copied" => "it copies its evidence",
        "general" => "it would fit anything",
        "unlikely" => "the language model itself finds it unlikely",
        "budget" => "[budget] was spent before the prompt was asked; another run of the day pays for it",
        _ => "it did not pass this check",
    }
}

/// Why there is no reason, in words.
fn error_words(code: &str) -> &'static str {
    match code {
        "not_generated" => "nobody has asked the language model yet",
        "no_text" => "the answer has no text",
        "bad_format" => "the answer breaks its format",
        "too_long" => "the prompt is longer than the language model reads",
        "empty" => "the prompt is empty",
        "invalid_utf8" => "the answer is no text",
        "device_error" => "the device failed",
        "server_refused" => "the endpoint refused the prompt",
        "server_error" => "the endpoint failed on the prompt",
        "cancelled" => "the run was stopped",
        _ => "generation failed",
    }
}

/// What a feature's vector is of, in words; nothing where there is none, or where a job's own table says something else.
fn source_words(code: &str) -> Option<&'static str> {
    match code {
        "reason" => Some("the accepted reasons"),
        "evidence" => Some("the evidence"),
        "both" => Some("the accepted reasons and the evidence, half each"),
        _ => None,
    }
}

/// A value in one line.
fn figure(value: &Value) -> String {
    match value {
        Value::Number(n) if n.is_f64() => format!("{:.3}", n.as_f64().unwrap_or_default()),
        Value::String(text) => line(text).into_owned(),
        Value::Array(list) => list.iter().map(figure).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}

/// The first numbers of a vector, their count and norm.
fn vector(feature: &Row, name: &str) -> Option<(Vec<f64>, usize, f64)> {
    let numbers: Vec<f64> = feature.get(name)?.as_array()?.iter().filter_map(Value::as_f64).collect();
    let norm = numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
    Some((numbers.iter().take(FIRST_NUMBERS).copied().collect(), numbers.len(), norm))
}

impl Explanation {
    fn said(&self) -> Option<&str> {
        text(self.reason.as_ref()?, "reason")
    }

    /// What stood before the correction: of an item, what the night itself says.
    fn before_correction(&self) -> Option<&str> {
        match self.question.about {
            About::Item(_) => self.said(),
            _ => text(self.corrected.as_ref()?, "reason"),
        }
    }

    /// Whether the reason may become a feature, and why not, in words.
    fn outcome(&self) -> String {
        let Some(score) = &self.score else { return "not scored: reason_score has no row about it on that day".into() };
        if score.get("accepted") == Some(&Value::Bool(true)) {
            return "accepted".into();
        }
        match text(score, "refusal") {
            Some(code) => format!("refused ({}): {}", line(code), refusal_words(code)),
            None => "refused".into(),
        }
    }

    /// Why there is no reason, in words.
    fn failure(&self) -> String {
        let Some(reason) = &self.reason else { return "the table reason has no row about it on that day".into() };
        let code = text(reason, "error").unwrap_or("unknown");
        let detail = self.response.as_ref().and_then(|row| text(row, "error_detail"));
        let detail = detail.map_or_else(String::new, |detail| format!("; {}", line(detail)));
        format!("{} ({}){detail}", error_words(code), line(code))
    }

    /// What the model wrote, where the reason is not simply its end.
    fn answer(&self) -> Option<&str> {
        let answer = text(self.response.as_ref()?, "text")?;
        (!self.said().is_some_and(|said| said.ends_with(answer.trim_end()))).then_some(answer)
    }

    /// What is known of the answer's tokens.
    fn tokens(&self) -> Row {
        let of = |row: &Option<Row>, name: &str| row.as_ref()?.get(name).filter(|value| !value.is_null()).cloned();
        let any = |name: &str| of(&self.reason, name).or_else(|| of(&self.response, name));
        let names = ["prompt_tokens", "cached_tokens", "completion_tokens", "finish"];
        let mut all: Row = names.into_iter().filter_map(|name| Some((name.to_owned(), any(name)?))).collect();
        let generated = any("completion_tokens").and_then(|n| n.as_f64()).filter(|n| *n > 0.0);
        let mean = any("logprob_sum").and_then(|sum| Some(sum.as_f64()? / generated?));
        all.extend(mean.map(|mean| ("mean_logprob".to_owned(), json!(mean))));
        // The answers before it were refused.
        let attempt = of(&self.response, "attempt").filter(|attempt| attempt.as_i64().is_some_and(|n| n > 1));
        all.extend(attempt.map(|attempt| ("attempt".to_owned(), attempt)));
        all
    }

    /// Everything as one JSON object. `used` are the words and titles of the evidence that the reason uses, by field;
    /// `unsupported` are the words of the reason that no evidence holds.
    pub fn json(&self) -> String {
        let fields = evidence(&self.prompt);
        let used = fields.iter().map(|(name, texts)| {
            let pieces: Vec<Piece> = texts.iter().flat_map(|text| self.marks.used(text)).collect();
            ((*name).to_owned(), json!(marked(&pieces)))
        });
        let used: Row = used.collect();
        let mut shown: Row = fields.iter().map(|(name, texts)| ((*name).to_owned(), json!(texts))).collect();
        shown.insert("verdict".into(), self.prompt.get("verdict").cloned().unwrap_or_default());
        let checks = self.score.as_ref().map(|row| {
            let parts = row.iter().filter(|(name, _)| !KEYS.contains(&name.as_str()));
            parts.map(|(name, value)| (name.clone(), value.clone())).collect::<Row>()
        });
        let feature = self.feature.as_ref().map(|row| {
            let mut row = row.clone();
            for name in VECTORS {
                if let Some((first, width, norm)) = vector(&row, name) {
                    row.insert(name.into(), json!({ "first": first, "width": width, "norm": norm }));
                }
            }
            row
        });
        let correction = self.correction.as_ref().map(|row| {
            let mut row = row.clone();
            row.insert("from".into(), json!(self.before_correction()));
            row
        });
        let of =
            |row: &Option<Row>, name: &str| row.as_ref().and_then(|row| row.get(name)).cloned().unwrap_or_default();
        let object = json!({
            "kind": self.prompt.get("kind"),
            "id": self.question.about.id(),
            "user_id": self.question.about.user_id(),
            "item_id": self.question.about.item_id(),
            "dt": self.record.dt,
            "as_of": self.prompt.get("as_of"),
            "reason": self.said(),
            "error": of(&self.reason, "error"),
            "accepted": of(&self.score, "accepted"),
            "outcome": self.outcome(),
            "evidence": shown,
            "used": used,
            "unsupported": marked(&self.marks.unsupported()),
            "checks": checks,
            "tokens": self.tokens(),
            "answer": of(&self.response, "text"),
            "correction": correction,
            "feature": feature,
            "from": {
                "dt": self.record.dt,
                "run_id": self.record.run_id,
                "fingerprint": self.record.fingerprint,
                "prompt_key": self.prompt.get("prompt_key"),
                "model_digest": of(&self.response, "model_digest"),
                "answered_by": of(&self.response, "run_id"),
            },
            "prompt": { "text": self.prompt.get("prompt_text"), "stem": self.prompt.get("answer_stem") },
        });
        format!("{object}\n")
    }

    /// The same for a person: the reason first, the prompt last.
    pub fn pieces(&self) -> Vec<Toned> {
        let mut page = Page::default();
        let title = text(&self.prompt, "subject").map_or_else(String::new, |title| format!(", {}", line(title)));
        let moment = text(&self.prompt, "as_of").unwrap_or_default();
        let dt = &self.record.dt;
        page.plain(format!("{}{title}; day {dt}, events before {moment}\n\n", self.question.about.name()));
        self.reason_on(&mut page);
        self.evidence_on(&mut page);
        self.checks_on(&mut page);
        self.correction_on(&mut page);
        self.feature_on(&mut page);
        self.origin_on(&mut page);
        if let Some(answer) = self.answer() {
            page.heading("answer");
            page.block(answer);
        }
        page.heading("prompt");
        page.block(text(&self.prompt, "prompt_text").unwrap_or_default());
        if let Some(stem) = text(&self.prompt, "answer_stem").filter(|stem| !stem.is_empty()) {
            page.heading("stem");
            page.block(stem);
        }
        page.pieces
    }

    fn reason_on(&self, page: &mut Page) {
        let score = self.score.as_ref().and_then(|row| row.get("score")).filter(|score| !score.is_null());
        let score = score.map_or_else(String::new, |score| format!(", score {}", figure(score)));
        if self.said().is_none() {
            page.plain(format!("no reason: {}\n{}\n", self.failure(), self.outcome()));
            return;
        }
        let unsupported = self.marks.unsupported();
        page.marked(&unsupported, Tone::Foreign);
        page.plain(format!("\n{}{score}\n", self.outcome()));
        page.plain("marks: ");
        page.tone(Tone::Used, "used by the reason");
        page.plain(", ");
        page.tone(Tone::Foreign, "in no evidence");
        page.plain("\n");
    }

    fn evidence_on(&self, page: &mut Page) {
        page.heading("evidence");
        page.fact("verdict", self.prompt.get("verdict").map(figure).unwrap_or_default());
        for (name, texts) in evidence(&self.prompt) {
            let length: usize = texts.iter().map(|text| text.chars().count() + 2).sum();
            let between = if length > ONE_LINE { format!("\n{:14}", "") } else { "; ".to_owned() };
            page.plain(format!("  {name:<12}"));
            for (i, text) in texts.iter().enumerate() {
                if i > 0 {
                    page.plain(between.clone());
                }
                page.marked(&self.marks.used(text), Tone::Used);
            }
            page.plain("\n");
        }
    }

    fn checks_on(&self, page: &mut Page) {
        page.heading("checks");
        let Some(score) = &self.score else { return page.plain(format!("  {}\n", self.outcome())) };
        for name in OUTCOME {
            if let Some(value) = score.get(name).filter(|value| !value.is_null()) {
                page.fact(name, figure(value));
            }
        }
        let is_part = |name: &str| !KEYS.contains(&name) && !OUTCOME.contains(&name);
        let parts = score.iter().filter(|(name, value)| is_part(name) && !value.is_null());
        let parts: Vec<String> = parts.map(|(name, value)| format!("{} {}", line(name), figure(value))).collect();
        page.fact("parts", parts.join(", "));
        let tokens = self.tokens();
        let tokens = tokens.iter().map(|(name, value)| format!("{name} {}", figure(value)));
        page.fact("tokens", tokens.collect::<Vec<_>>().join(", "));
    }

    fn correction_on(&self, page: &mut Page) {
        let Some(row) = &self.correction else { return };
        let told = |name: &str| row.get(name).filter(|value| !value.is_null()).map(figure);
        page.heading("correction");
        if matches!(self.question.about, About::Item(_)) {
            return chosen_on(page, row);
        }
        let is_this = row.get("corrected_from") == self.prompt.get("prompt_key");
        page.fact(
            "outcome",
            format!(
                "{}, known from {} on; of {} reason of {}",
                told("correction").unwrap_or_default(),
                told("as_of").unwrap_or_default(),
                if is_this { "this" } else { "an earlier" },
                told("from_as_of").unwrap_or_default()
            ),
        );
        let from = self.before_correction();
        page.fact("from", from.map_or_else(|| "(it is not there any more)".to_owned(), |from| line(from).into_owned()));
        page.fact("to", told("reason").unwrap_or_else(|| "(dropped)".to_owned()));
        page.fact(
            "gain",
            format!(
                "{} before, {} after, over {} outcome(s)",
                told("gain_before").unwrap_or_default(),
                told("gain_after").unwrap_or_else(|| "none".to_owned()),
                told("n_outcomes").unwrap_or_default()
            ),
        );
    }

    fn feature_on(&self, page: &mut Page) {
        page.heading("feature");
        let Some(row) = &self.feature else {
            return page.plain(format!("  {} has no row about it on that day\n", self.question.about.table()));
        };
        let names = ["event_timestamp", "n_reasons", "mean_score", "missing", "source"];
        let told = names.into_iter().filter_map(|name| {
            let value = row.get(name).filter(|value| !value.is_null())?;
            Some(format!("{name} {}", figure(value)))
        });
        page.fact(self.question.about.table(), told.collect::<Vec<_>>().join(", "));
        if let Some(words) = text(row, "source").and_then(source_words) {
            page.fact("vector of", words);
        }
        for name in VECTORS {
            let Some((first, width, norm)) = vector(row, name) else { continue };
            let first: Vec<String> = first.iter().map(|x| format!("{x:.4}")).collect();
            let more = if width > first.len() { ", ..." } else { "" };
            page.fact(name, format!("[{}{more}], {width} numbers, norm {norm:.4}", first.join(", ")));
        }
    }

    fn origin_on(&self, page: &mut Page) {
        page.heading("from");
        let of_answer = |name: &str| self.response.as_ref().and_then(|row| text(row, name));
        let facts = [
            ("run", Some(self.record.run_id.as_str())),
            ("answered by", of_answer("run_id")),
            ("model", of_answer("model_digest")),
            ("prompt key", text(&self.prompt, "prompt_key")),
            ("fingerprint", Some(self.record.fingerprint.as_str())),
        ];
        for (name, value) in facts {
            page.fact(name, value.map_or_else(|| "not known".to_owned(), |value| line(value).into_owned()));
        }
    }
}

/// What became of an item's reason by the choice that was made for it.
fn chosen_on(page: &mut Page, row: &Row) {
    let told = |name: &str| row.get(name).filter(|value| !value.is_null()).map(figure);
    let outcome = match text(row, "correction").unwrap_or_default() {
        "kept" => "kept: no other text is worth more",
        "rewritten" => "rewritten: the text below counts in the place of the reason",
        "evidence" => "evidence: the vector is that of the evidence alone, which is worth more than the reason",
        "refused" => "refused: the checks refuse the text that was chosen, and the reason stands",
        other => other,
    };
    let since = told("from_end").unwrap_or_default();
    page.fact("outcome", format!("{}, known from {since} on", line(outcome)));
    for (name, column) in [("to", "reason"), ("refusal", "refusal")] {
        if let Some(text) = told(column) {
            page.fact(name, text);
        }
    }
    let unknown = || "unknown".to_owned();
    page.fact(
        "gain",
        format!(
            "{} by the users who chose, {} by the others, over {} event(s)",
            told("gain_of_choosing_half").unwrap_or_else(unknown),
            told("gain_of_confirming_half").unwrap_or_else(unknown),
            told("n_events").unwrap_or_else(unknown)
        ),
    );
}

/// What is shown to a person, piece by piece. Data comes in through [`Page::marked`], [`Page::block`] or [`line()`].
#[derive(Default)]
struct Page {
    pieces: Vec<Toned>,
}

impl Page {
    fn tone(&mut self, tone: Tone, text: impl Into<String>) {
        self.pieces.push(Toned { tone, text: text.into() });
    }

    fn plain(&mut self, text: impl Into<String>) {
        self.tone(Tone::Plain, text);
    }

    fn heading(&mut self, text: &str) {
        self.plain("\n");
        self.tone(Tone::Heading, text);
        self.plain("\n");
    }

    fn fact(&mut self, name: &str, value: impl AsRef<str>) {
        self.plain(format!("  {name:<12}{}{}\n", if name.len() < 12 { "" } else { " " }, value.as_ref()));
    }

    fn marked(&mut self, pieces: &[Piece], tone: Tone) {
        for piece in pieces {
            self.tone(if piece.is_marked { tone } else { Tone::Plain }, line(&piece.text));
        }
    }

    /// A text of several lines.
    fn block(&mut self, text: &str) {
        for one in text.lines() {
            self.plain(format!("  {}\n", line(one)));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::reward::score::Refusal;
    use crate::table::contract::Contract;

    #[test]
    fn every_source_of_a_vector_has_words() {
        for table in ["item_feature", "user_feature", "pair_feature"] {
            let contract = Contract::builtin(table).unwrap();
            let sources = contract.column("source").unwrap().values.clone().unwrap();
            assert_eq!(sources, ["reason", "evidence", "none", "both"], "{table}");
            let unsaid: Vec<String> = sources.into_iter().filter(|source| source_words(source).is_none()).collect();
            assert_eq!(unsaid, ["none"], "{table}");
        }
    }

    #[test]
    fn every_refusal_has_words_of_its_own() {
        for refusal in Refusal::ALL {
            assert_ne!(refusal_words(refusal.as_str()), refusal_words(""), "{}", refusal.as_str());
        }
        let Ok(contract) = Contract::find("reason", None) else { return };
        for code in contract.column("error").and_then(|column| column.values.as_ref()).into_iter().flatten() {
            assert_ne!(error_words(code), error_words(""), "{code}");
        }
    }

    #[test]
    fn figures_stand_in_one_line() {
        assert_eq!(figure(&json!(["a\x1b", 0.5, 3, true])), "a\\u{1b}; 0.500; 3; true");
        let feature = json!({ "embedding": [3.0, 4.0], "collaborative": null });
        let feature = feature.as_object().cloned().unwrap_or_default();
        assert_eq!(vector(&feature, "embedding"), Some((vec![3.0, 4.0], 2, 5.0)));
        assert_eq!(vector(&feature, COLLABORATIVE), None);
        assert_eq!(vector(&Row::new(), "embedding"), None);
    }
}
