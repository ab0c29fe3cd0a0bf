//! Variables in texts: `${NAME}`, and `${NAME:-default}`.
//!
//! Knows how they are written; reads no environment.

use std::collections::BTreeMap;

/// The next `${...}` of a text: what stands before it, between the braces, and after it.
fn next_variable(text: &str) -> Option<(&str, &str, &str)> {
    let at = text.find("${")?;
    let end = at + text[at..].find('}')?;
    Some((&text[..at], &text[at + 2..end], &text[end + 1..]))
}

/// The names of the variables of a text.
pub(crate) fn variables(text: &str) -> Vec<&str> {
    let (mut names, mut rest) = (Vec::new(), text);
    while let Some((_, inner, after)) = next_variable(rest) {
        names.push(inner.split_once(":-").map_or(inner, |(name, _)| name));
        rest = after;
    }
    names
}

/// Replaces `${VARIABLE}` and `${VARIABLE:-default}`; or the name of a variable that is not set and has no default.
pub(crate) fn expand_text(text: &str, env: &BTreeMap<String, String>) -> std::result::Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, inner, after)) = next_variable(rest) {
        out.push_str(before);
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        match env.get(name).map(String::as_str).filter(|v| !v.is_empty()).or(default) {
            Some(value) => out.push_str(value),
            None => return Err(name.to_string()),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}
