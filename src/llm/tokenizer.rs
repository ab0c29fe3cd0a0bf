//! Text to token ids and back, with data kept apart from control words.
//!
//! Knows tokenizer.json and GGUF vocabularies. Knows nothing of models, prompts or templates.

use crate::error::{Error, Kind, Result};

/// A stretch of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Our own literal words: special tokens in it are parsed.
    Control(&'a str),
    /// Data: never parsed as special tokens.
    Text(&'a str),
}

/// A byte-level BPE, WordPiece or other tokenizer, without padding and truncation.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    digest: String,
}

impl Tokenizer {
    /// Reads a tokenizer.json.
    ///
    /// # Errors
    /// `Kind::Model` where it does not parse.
    pub fn from_json(_bytes: &[u8]) -> Result<Tokenizer> {
        Err(Error::new(Kind::Internal, "tokenizers are not written yet"))
    }

    /// Token ids of a prompt; special tokens are looked for inside [`Piece::Control`] only. No BOS is added.
    ///
    /// # Errors
    /// `Kind::Internal` where the tokenizer library fails.
    pub fn encode(&self, _pieces: &[Piece<'_>]) -> Result<Vec<u32>> {
        Err(Error::new(Kind::Internal, "tokenizers are not written yet"))
    }

    /// Token ids of plain data.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(&[Piece::Text(text)])
    }

    /// Token ids of our own words, special tokens parsed.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_control(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(&[Piece::Control(text)])
    }

    /// The text of `ids`; incomplete UTF-8 at the end comes back as U+FFFD.
    ///
    /// # Errors
    /// `Kind::Internal` where the tokenizer library fails.
    pub fn decode(&self, _ids: &[u32], _skip_special: bool) -> Result<String> {
        Err(Error::new(Kind::Internal, "tokenizers are not written yet"))
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        0
    }

    /// The id of a token given as the vocabulary writes it.
    pub fn token_id(&self, _token: &str) -> Option<u32> {
        None
    }

    /// Whether `id` is a control token.
    pub fn is_special(&self, _id: u32) -> bool {
        false
    }

    /// BLAKE3 of everything that decides the ids, 32 hex digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}
