//! What may be a credential, told by its name: variables, keys, and lines of files.
//!
//! Knows how credentials are called, and none of them. What must not be shown by its form is in [`crate::table::redact`].

use std::ops::Range;

use crate::excerpt::Excerpt;

/// What stands in the place of a credential.
pub const MASK: &str = "***";

/// Whether a variable or key holds a credential, by its name.
pub fn is_secret(name: &str) -> bool {
    const MARKS: [&str; 6] = ["SECRET", "TOKEN", "PASSW", "PASSPHRASE", "CREDENTIAL", "SIGNATURE"];
    const WORDS: [&str; 9] = ["KEY", "APIKEY", "PASS", "PWD", "AUTH", "AUTHORIZATION", "BEARER", "COOKIE", "SAS"];
    let name = name.to_ascii_uppercase();
    let is_key = name.split(['_', '-', '.']).any(|word| WORDS.contains(&word));
    let is_marked = MARKS.iter().any(|mark| name.contains(mark));
    // A number of tokens, what makes them, and the file that a credential stands in.
    (is_key || is_marked) && !["TOKENS", "TOKENIZER"].iter().any(|no| name.contains(no)) && !name.ends_with("_FILE")
}

/// Whether a line of a file may hold a credential, by its words and by users in URLs.
pub(crate) fn may_hold_secret(line: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let has_user = line.split("://").skip(1).any(|rest| rest.contains('@'));
    has_user || line.split(|c: char| !is_word(c)).any(|word| is_secret(word) || word.eq_ignore_ascii_case("sig"))
}

/// The place of some bytes of a file, unless a credential may stand in their line.
pub(crate) fn harmless(text: &str, bytes: Range<usize>) -> Option<Excerpt> {
    Some(Excerpt::of_bytes(text, bytes)).filter(|excerpt| !may_hold_secret(excerpt.text()))
}
