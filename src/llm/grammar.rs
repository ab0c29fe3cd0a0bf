//! Answers held to a JSON schema: which tokens may come next.
//!
//! Knows JSON schemas, the bytes of tokens and llguidance. What may come next depends on the schema and the tokens so far
//! alone, so neither order nor batch changes a row. Knows nothing of logits, prompts or what a schema is for.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use crate::error::{Error, Kind, Result};
use crate::llm::tokenizer::Tokenizer;

/// A schema for one vocabulary, ready for rows.
pub struct Grammar {
    /// Behind the text that answers begin with.
    start: Mutex<Matcher>,
    /// Tokens with a quotation mark, in ascending order.
    quotes: Arc<[u32]>,
}

impl Grammar {
    /// The grammar of `schema` for answers whose prompt ends with `begun`, the beginning of every such text.
    ///
    /// # Errors
    /// `Kind::Model` where the bytes of the vocabulary's tokens are not known; `Kind::Internal` for a schema that cannot be
    /// followed, or that `begun` does not.
    pub fn new(tokenizer: &Tokenizer, eos_ids: &[u32], schema: serde_json::Value, begun: &str) -> Result<Grammar> {
        let words = token_bytes(tokenizer)?;
        let quotes = (0u32..).zip(&words).filter(|(_, bytes)| bytes.contains(&b'"')).map(|(id, _)| id).collect();
        let ends: Vec<u32> = eos_ids.iter().copied().filter(|&id| (id as usize) < words.len()).collect();
        let Some(&first_end) = ends.first() else {
            return Err(Error::new(Kind::Model, "no token of the vocabulary ends an answer"));
        };
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, first_end), &words).with_eos_tokens(&ends);
        let begin = trie.greedy_tokenize(begun.as_bytes());
        if trie.decode(&begin) != begun.as_bytes() {
            return Err(Error::new(Kind::Model, "the vocabulary cannot spell JSON").with("text", begun));
        }
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let broken =
            |why: String| Error::new(Kind::Internal, "answers cannot be held to their schema").with("why", why);
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| broken(first_line(&e)))?;
        factory.quiet();
        // Errors would show what was generated.
        factory.limits_mut().verbose_errors = false;
        let mut matcher = Matcher::new(factory.create_parser(TopLevelGrammar::from_json_schema(schema)));
        matcher.consume_tokens(&begin).map_err(|e| broken(first_line(&e)))?;
        Ok(Grammar { start: Mutex::new(matcher), quotes })
    }

    /// The guide of one row.
    pub fn guide(&self) -> Guide {
        let matcher = self.start.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Guide { matcher: Mutex::new(matcher), quotes: self.quotes.clone(), allowed: Ok(Vec::new()) }
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

/// What an error of the library says, without the state that follows.
fn first_line(error: &impl fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Bytes of every token; added tokens that are special begin with a mark that no text has.
fn token_bytes(tokenizer: &Tokenizer) -> Result<Vec<Vec<u8>>> {
    let unknown = |why: String| {
        Error::new(
            Kind::Model,
            "the bytes of this model's tokens are not known, so its answers cannot be held to a schema",
        )
        .with("why", why)
        .hint("take a model with a byte-level or a SentencePiece vocabulary, or leave [prompt] fields empty")
    };
    let json = tokenizer.to_json()?;
    // The library panics on a byte token that is none.
    let read = std::panic::catch_unwind(AssertUnwindSafe(|| llguidance::token_bytes_from_tokenizer_json(&json)));
    let read = read.map_err(|_| unknown("a token cannot be read".to_owned()))?;
    let mut words = read.map_err(|e| unknown(first_line(&e)))?;
    let size = words.len().max(tokenizer.vocab_size());
    words.resize(size, Vec::new());
    Ok(words)
}

/// What may come next in one row.
pub struct Guide {
    /// Locked by nobody: a matcher moves between threads but is not shared.
    matcher: Mutex<Matcher>,
    quotes: Arc<[u32]>,
    /// What [`Guide::look`] has found, or why it found nothing.
    allowed: std::result::Result<Vec<u32>, String>,
}

impl Guide {
    /// Looks up which tokens may come next.
    pub fn look(&mut self) {
        let mask = self.matcher.get_mut().unwrap_or_else(PoisonError::into_inner).compute_mask();
        self.allowed = mask.map(|mask| mask.to_list()).map_err(|e| first_line(&e));
    }

    /// The tokens that may come next, in ascending order, as of the last look; none where the schema cannot be followed.
    pub fn allowed(&self) -> &[u32] {
        self.allowed.as_deref().unwrap_or_default()
    }

    /// Why the schema cannot be followed.
    pub fn failure(&self) -> Option<&str> {
        self.allowed.as_ref().err().map(String::as_str)
    }

    /// Takes the next token; returns whether the text is whole.
    ///
    /// # Errors
    /// Why the token may not come next.
    pub fn take(&mut self, token: u32) -> std::result::Result<bool, String> {
        let matcher = self.matcher.get_mut().unwrap_or_else(PoisonError::into_inner);
        matcher.consume_token(token).map_err(|e| first_line(&e))?;
        Ok(matcher.is_stopped())
    }

    /// The tokens that may be penalised for repetition: JSON repeats its quotation marks, whatever is said.
    pub fn said(&self, tokens: &[u32]) -> Vec<u32> {
        tokens.iter().copied().filter(|token| self.quotes.binary_search(token).is_err()).collect()
    }
}

impl Clone for Guide {
    fn clone(&self) -> Guide {
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Guide { matcher: Mutex::new(matcher), quotes: self.quotes.clone(), allowed: self.allowed.clone() }
    }
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guide").field("failure", &self.failure()).finish_non_exhaustive()
    }
}
