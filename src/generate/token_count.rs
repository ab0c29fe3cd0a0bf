//! How many tokens texts have for a model that runs elsewhere: by its tokenizer where the job names one, else estimated.
//!
//! The estimate is a token for every four ASCII characters and one for every other character: about right for English, too
//! many for most other languages, so that a prompt that fits by it fits. Knows texts; knows nothing of requests.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::llm::tokenizer::Tokenizer;

/// Tokens of the chat around a prompt, which the server adds: roles and ends of turns.
const CHAT: usize = 16;
/// ASCII characters that are a token, by the estimate.
const ASCII_PER_TOKEN: usize = 4;

/// Counts tokens.
pub enum TokenCount {
    /// By the number of characters.
    Estimate,
    /// By a tokenizer.
    By(Box<Tokenizer>),
}

impl TokenCount {
    /// By the `tokenizer.json` at `path` or in that folder; by the estimate where `path` is empty.
    ///
    /// # Errors
    /// [`Kind::Model`] where there is none, or it cannot be read.
    pub fn open(path: &str) -> Result<TokenCount> {
        if path.is_empty() {
            return Ok(TokenCount::Estimate);
        }
        let named = Path::new(path);
        let file = if named.is_dir() { named.join("tokenizer.json") } else { PathBuf::from(named) };
        let bad = |e: Error| e.with("key", "model.tokenizer").with("file", file.display());
        let bytes = std::fs::read(&file).map_err(|e| {
            bad(Error::new(Kind::Model, "the tokenizer cannot be read").source(e))
                .hint("name a tokenizer.json or a folder with one, or leave the key empty: tokens are estimated then")
        })?;
        Tokenizer::from_json(&bytes).map(|tokenizer| TokenCount::By(Box::new(tokenizer))).map_err(bad)
    }

    /// Whether the numbers are estimates.
    pub fn is_estimate(&self) -> bool {
        matches!(self, TokenCount::Estimate)
    }

    /// Tokens of a text alone.
    ///
    /// # Errors
    /// [`Kind::Internal`] where the tokenizer library fails.
    pub fn text(&self, text: &str) -> Result<usize> {
        match self {
            TokenCount::Estimate => Ok(estimate(text)),
            TokenCount::By(tokenizer) => Ok(tokenizer.encode_text(text)?.len()),
        }
    }

    /// Tokens of a whole prompt: the chat around the question, and the stem.
    ///
    /// # Errors
    /// As [`TokenCount::text`].
    pub fn prompt(&self, question: &str, stem: &str) -> Result<usize> {
        Ok(CHAT + self.text(question)? + self.text(stem)?)
    }
}

/// About so many tokens.
pub fn estimate(text: &str) -> usize {
    let ascii = text.bytes().filter(u8::is_ascii).count();
    ascii.div_ceil(ASCII_PER_TOKEN) + text.chars().filter(|c| !c.is_ascii()).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_estimate_is_by_characters() {
        assert_eq!(["", "a", "abcd", "abcde"].map(estimate), [0, 1, 1, 2]);
        assert_eq!(estimate("Käse 東京"), 1 + 1 + 2, "four of ASCII, an umlaut, two Chinese characters");
        let count = TokenCount::open("").unwrap();
        assert!(count.is_estimate());
        assert_eq!(count.prompt("abcdefgh", "ab").unwrap(), CHAT + 2 + 1);
    }

    #[test]
    fn a_tokenizer_counts_as_its_model_does() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models/tiny-qwen3");
        let count = TokenCount::open(folder).unwrap();
        let tokenizer = Tokenizer::from_json(&std::fs::read(format!("{folder}/tokenizer.json")).unwrap()).unwrap();
        let text = "A story of a heist in Los Angeles.";
        assert!(!count.is_estimate());
        assert_eq!(count.text(text).unwrap(), tokenizer.encode_text(text).unwrap().len());
        let missing = TokenCount::open("/nowhere/at/all").err().unwrap().explain();
        assert!(missing.contains("model.tokenizer") && missing.contains("estimated"), "{missing}");
    }
}
