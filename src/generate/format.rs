//! The answer format of an aligned model: `<think>…</think><reason>…</reason>`, followed by `<verdict>yes|no</verdict>`
//! if a verdict is asked for. All of it is on one line.
//!
//! Knows text only. It lives here and not with the rewards because the SQL functions parse answers.

use std::fmt;

use crate::generate::fields;

/// Start of the assistant's turn; a template whose stem begins with it asks for this format.
pub const STEM: &str = "<think>";

const TAGS: [&str; 6] = ["<think>", "</think>", "<reason>", "</reason>", "<verdict>", "</verdict>"];

/// The parts of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The notes; may be empty.
    pub think: &'a str,
    /// The reason, never blank.
    pub reason: &'a str,
    /// Whether the user will like it, where the answer says so.
    pub verdict: Option<bool>,
}

/// Why a text is not a valid answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It does not begin with closed notes.
    Think,
    /// No closed reason follows the notes at once.
    Reason,
    /// The reason is blank.
    Blank,
    /// A tag stands inside a part.
    Nested,
    /// What follows the reason is not exactly one verdict of `yes` or `no`.
    Verdict,
    /// It is longer than a line.
    Line,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Broken::Think => "the answer does not begin with <think>...</think>",
            Broken::Reason => "no <reason>...</reason> follows the notes",
            Broken::Blank => "the reason is blank",
            Broken::Nested => "a tag stands inside another",
            Broken::Verdict => "what follows the reason is no <verdict>yes</verdict> or <verdict>no</verdict>",
            Broken::Line => "the answer is longer than a line",
        })
    }
}

/// The first tag of the format in a text, in any case: where it begins and how long it is.
fn tag_in(text: &str) -> Option<(usize, usize)> {
    // Titles hardly ever hold the character that every tag begins with.
    if !text.contains('<') {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    TAGS.iter().filter_map(|tag| lower.find(tag).map(|at| (at, tag.len()))).min()
}

/// Text from data, stripped of line breaks and of the format's tags, so that it can neither open nor close a part.
pub fn clean(text: &str) -> String {
    let mut text = text.replace(['\n', '\r'], " ");
    // Removing a tag may leave a new tag.
    while let Some((at, length)) = tag_in(&text) {
        text.replace_range(at..at + length, "");
    }
    text
}

/// The content of the part that `text` begins with, and what follows it.
fn part<'a>(text: &'a str, open: &str, close: &str, broken: Broken) -> Result<(&'a str, &'a str), Broken> {
    let (inner, rest) = text.strip_prefix(open).and_then(|t| t.split_once(close)).ok_or(broken)?;
    if tag_in(inner).is_some() { Err(Broken::Nested) } else { Ok((inner.trim(), rest)) }
}

/// The parts of an answer, the stem included. Nothing may stand between parts; white space around the answer and at the
/// edges of a part is ignored.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(answer: &str) -> Result<Answer<'_>, Broken> {
    let text = answer.trim();
    if text.contains(['\n', '\r']) {
        return Err(Broken::Line);
    }
    let (think, rest) = part(text, "<think>", "</think>", Broken::Think)?;
    let (reason, rest) = part(rest, "<reason>", "</reason>", Broken::Reason)?;
    if reason.is_empty() {
        return Err(Broken::Blank);
    }
    let verdict = match rest {
        "" => None,
        "<verdict>yes</verdict>" => Some(true),
        "<verdict>no</verdict>" => Some(false),
        _ => return Err(Broken::Verdict),
    };
    Ok(Answer { think, reason, verdict })
}

/// What the model writes after [`STEM`]; parts are cleaned of tags.
pub fn render(think: &str, reason: &str, verdict: Option<bool>) -> String {
    let verdict = match verdict {
        None => "",
        Some(true) => "<verdict>yes</verdict>",
        Some(false) => "<verdict>no</verdict>",
    };
    format!("{}</think><reason>{}</reason>{verdict}", clean(think).trim(), clean(reason).trim())
}

/// Extracts the reason from what a model wrote after a stem: the inner text if the stem begins the format, the sentence if it
/// begins an answer with [`fields`], else stem and text unchanged. `None` if the format is broken.
pub fn reason_text(stem: &str, text: &str) -> Option<String> {
    let whole = format!("{stem}{text}");
    if fields::is_asked(stem) {
        return fields::parse(&whole).map(|filled| filled.reason);
    }
    if !stem.trim_start().starts_with(STEM) {
        return Some(whole);
    }
    parse(&whole).ok().map(|answer| answer.reason.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answers_have_parts() {
        let answer = parse("<think> a; b </think><reason>It is so.</reason><verdict>no</verdict>\n").unwrap();
        assert_eq!(answer, Answer { think: "a; b", reason: "It is so.", verdict: Some(false) });
        assert_eq!(parse("<think></think><reason>x</reason>").unwrap().verdict, None);
    }

    #[test]
    fn whatever_is_broken_is_told() {
        for (text, broken) in [
            ("", Broken::Think),
            ("It is so.", Broken::Think),
            ("<think>a", Broken::Think),
            ("<think>a</think>", Broken::Reason),
            ("<think>a</think> <reason>b</reason>", Broken::Reason),
            ("<think>a</think><reason>b", Broken::Reason),
            ("<think>a</think><reason> </reason>", Broken::Blank),
            ("<think>a<think>b</think><reason>c</reason>", Broken::Nested),
            ("<think>a</think><reason>b<REASON>c</reason>", Broken::Nested),
            ("<think>a<reason>b</reason></think><reason>c</reason>", Broken::Nested),
            ("<think>a</think><reason>b</reason><reason>c</reason>", Broken::Verdict),
            ("<think>a</think><reason>b</reason><verdict>maybe</verdict>", Broken::Verdict),
            ("<think>a</think><reason>b</reason><verdict>yes</verdict> so", Broken::Verdict),
            ("<think>a</think>\n<reason>b</reason>", Broken::Line),
        ] {
            assert_eq!(parse(text), Err(broken), "{text}");
        }
    }

    #[test]
    fn only_a_stem_of_the_format_asks_for_it() {
        assert_eq!(
            reason_text("They like it because", " <think> it is.").unwrap(),
            "They like it because <think> it is."
        );
        assert_eq!(reason_text(STEM, "a</think><reason>b.</reason>").unwrap(), "b.");
        assert_eq!(reason_text(STEM, "a</think><reason>b."), None);
        // Asked about a pair, an aligned model answers with a verdict: the reason alone is kept.
        assert_eq!(reason_text(STEM, "a</think><reason>b.</reason><verdict>no</verdict>").unwrap(), "b.");
    }

    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            prop::sample::select(TAGS.to_vec()).prop_map(String::from),
            prop::sample::select(vec!["<th", "ink>", "</rea", "son>", "<VERDICT>", "\n", "ß", "<"])
                .prop_map(String::from),
            "[a-z ]{0,6}",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read_back(think in hostile(), reason in hostile(), verdict: Option<bool>) {
            prop_assume!(!clean(&reason).trim().is_empty());
            let text = format!("{STEM}{}", render(&think, &reason, verdict));
            let (think, reason) = (clean(&think), clean(&reason));
            prop_assert_eq!(parse(&text), Ok(Answer { think: think.trim(), reason: reason.trim(), verdict }));
        }

        #[test]
        fn parsing_never_panics_and_keeps_no_tag(text in hostile()) {
            if let Ok(answer) = parse(&text) {
                prop_assert!(tag_in(answer.reason).is_none() && tag_in(answer.think).is_none());
            }
        }
    }
}
