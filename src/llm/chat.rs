//! Chat templates: messages to the pieces of a prompt.
//!
//! Knows minijinja and the habits of Hugging Face's templates. Knows nothing of token ids.

use crate::error::{Error, Kind, Result};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`; our own word, never data.
    pub role: String,
    /// What is said: data.
    pub content: String,
}

/// A stretch of a rendered prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnedPiece {
    /// The template's own words.
    Control(String),
    /// A message's content.
    Text(String),
}

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
}

impl ChatTemplate {
    /// Parses a template; `bos` and `eos` are the tokens that it may name.
    ///
    /// # Errors
    /// `Kind::Model` where it does not parse.
    pub fn new(source: &str, _bos: &str, _eos: &str) -> Result<Self> {
        Ok(ChatTemplate { source: source.to_owned() })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// `Kind::Model` where the template fails or refuses the messages.
    pub fn render(&self, _messages: &[Message], _add_generation_prompt: bool) -> Result<Vec<OwnedPiece>> {
        Err(Error::new(Kind::Internal, "chat templates are not written yet"))
    }
}
