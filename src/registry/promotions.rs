//! Which version is in use: the history of promotions, changed by conditional puts.
//!
//! Knows the history's file. Knows nothing of what versions hold or whether they may be promoted.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::paths;
use crate::registry::card::{parse, to_json};
use crate::table::store::Location;

pub(super) const PROMOTED: &str = "promoted.json";

/// What a promotion was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A version was put into use.
    Promote,
    /// The version before it was put into use again.
    Rollback,
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// When.
    pub at: DateTime<Utc>,
    /// What was done.
    pub action: Action,
    /// The version in use from then on.
    pub version: String,
    /// Why.
    pub why: String,
    /// Whether the gate was overruled.
    pub forced: bool,
}

/// A name's history of promotions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotions {
    /// Oldest first.
    pub history: Vec<Promotion>,
}

impl Promotions {
    /// The version in use.
    pub fn current(&self) -> Option<&str> {
        self.stack().pop()
    }

    /// The version in use on top of those that rollbacks return to, one by one.
    pub fn stack(&self) -> Vec<&str> {
        let mut stack = Vec::new();
        for promotion in &self.history {
            match promotion.action {
                Action::Promote => stack.push(promotion.version.as_str()),
                Action::Rollback => _ = stack.pop(),
            }
        }
        stack
    }

    /// Reads the history; empty where there is none.
    ///
    /// # Errors
    /// `Kind::Input` where it is damaged; the store's.
    pub(super) async fn read(at: &Location) -> Result<Promotions> {
        let Some(bytes) = at.get().await? else { return Ok(Promotions::default()) };
        let promotions: Promotions = parse(&bytes, at)?;
        for promotion in &promotions.history {
            paths::plain(&promotion.version).map_err(|e| e.with("file", at))?;
        }
        Ok(promotions)
    }

    /// Appends to the history, if nobody else has since `next` saw it.
    ///
    /// # Errors
    /// `Kind::Busy` where another promotion came in between; those of `next`; the store's.
    pub(super) async fn append(
        at: &Location,
        next: impl FnOnce(&Promotions) -> Result<Option<Promotion>>,
    ) -> Result<()> {
        let seen = at.get_versioned().await?;
        let mut promotions: Promotions = match &seen {
            Some((bytes, _)) => parse(bytes, at)?,
            None => Promotions::default(),
        };
        let Some(promotion) = next(&promotions)? else { return Ok(()) };
        promotions.history.push(promotion);
        let bytes = Bytes::from(to_json(&promotions)?);
        match at.put_if(seen.as_ref().map(|(_, version)| version), bytes).await? {
            true => Ok(()),
            false => Err(overtaken().with("file", at)),
        }
    }
}

/// The error for a promotion that another one has overtaken.
pub(super) fn overtaken() -> Error {
    Error::new(Kind::Busy, "another promotion came in between").hint("look at `curec models show` and decide again")
}
