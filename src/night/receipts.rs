//! Receipts: what a process that answers prompts for another one's run leaves for it, one for each segment of answers.
//!
//! Knows keys, errors and numbers of tokens, and a folder. A receipt stands before its segment does: whoever finds no segment
//! knows that its process ended in between, and that the answers were paid for and lost.

use std::collections::BTreeSet;

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Kind, Result};
use crate::table::lease::AT_ONCE;
use crate::table::store::Location;

/// What the name of a receipt ends with, after that of its segment.
const SUFFIX: &str = ".json";

/// An answer that was paid for, or a prompt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    /// The prompt's key.
    pub key: String,
    /// 1 the first time that it was asked.
    pub attempt: u32,
    /// Whether the checks let the answer stand; `None` where nothing was checked.
    pub accepted: Option<bool>,
    /// Why there is no answer, as `response` has it.
    pub error: Option<String>,
    /// Tokens of the prompt, where it was answered.
    pub prompt_tokens: u64,
    /// Of those, tokens whose prefill was shared.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
}

impl Paid {
    /// Whether the prompt is not asked again, where it may be asked `attempts` times.
    pub fn settles(&self, attempts: u32) -> bool {
        self.error.is_some() || self.accepted != Some(false) || self.attempt >= attempts
    }
}

/// The receipts of a folder, at any depth.
#[derive(Debug, Clone)]
pub struct Receipts(Location);

impl Receipts {
    /// Those of a folder, which need not be there.
    pub fn at(folder: Location) -> Receipts {
        Receipts(folder)
    }

    /// Leaves the receipt of a segment that is about to be written.
    ///
    /// # Errors
    /// The store's.
    pub async fn leave(&self, segment: &str, rows: &[Paid]) -> Result<()> {
        let text = serde_json::to_vec(rows).context(Kind::Internal, || "a receipt".into())?;
        self.0.child(&format!("{segment}{SUFFIX}")).put(text.into()).await
    }

    /// The receipts that are not `known`, each with its segment's name. They are known then.
    ///
    /// # Errors
    /// `Kind::Input` for one that is damaged; the store's.
    pub async fn found(&self, known: &mut BTreeSet<String>) -> Result<Vec<(String, Vec<Paid>)>> {
        let is_new = |at: &Location| at.name().ends_with(SUFFIX) && !known.contains(at.url());
        let new: Vec<Location> = self.0.list().await?.into_iter().map(|entry| entry.location).filter(is_new).collect();
        let reads: Vec<_> = new.iter().map(Location::get).collect();
        let texts: Vec<_> = stream::iter(reads).buffered(AT_ONCE).try_collect().await?;
        let mut found = Vec::new();
        for (at, text) in new.iter().zip(texts) {
            let Some(text) = text else { continue };
            let rows = serde_json::from_slice(&text).context(Kind::Input, || format!("a damaged receipt: {at}"))?;
            found.push((at.name().trim_end_matches(SUFFIX).to_owned(), rows));
            known.insert(at.url().to_owned());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn paid(key: &str, attempt: u32, accepted: Option<bool>) -> Paid {
        let (prompt_tokens, cached_tokens, completion_tokens) = (3, 1, 2);
        Paid { key: key.into(), attempt, accepted, error: None, prompt_tokens, cached_tokens, completion_tokens }
    }

    #[test]
    fn what_is_settled_is_not_asked_again() {
        assert!(paid("a", 1, Some(true)).settles(3) && paid("a", 1, None).settles(3));
        assert!(!paid("a", 2, Some(false)).settles(3) && paid("a", 3, Some(false)).settles(3));
        let failed = Paid { error: Some("too_long".into()), ..paid("a", 1, None) };
        assert!(failed.settles(3));
    }

    #[tokio::test]
    async fn a_receipt_is_found_once_at_any_depth() {
        let folder = Location::parse("memory://receipts/wave").unwrap();
        let (all, one) = (Receipts::at(folder.clone()), Receipts::at(folder.child("part")));
        let mut known = BTreeSet::new();
        assert!(all.found(&mut known).await.unwrap().is_empty());
        let rows = vec![paid("a", 1, Some(true)), paid("b", 1, Some(false))];
        one.leave("seg-1.parquet", &rows).await.unwrap();
        folder.child("stop").put("stop".into()).await.unwrap();
        assert_eq!(all.found(&mut known).await.unwrap(), [("seg-1.parquet".to_owned(), rows)]);
        one.leave("seg-2.parquet", &[paid("c", 1, None)]).await.unwrap();
        assert_eq!(all.found(&mut known).await.unwrap()[0].0, "seg-2.parquet");
        assert_eq!(one.found(&mut BTreeSet::new()).await.unwrap().len(), 2);
        assert!(all.found(&mut known).await.unwrap().is_empty());
        folder.child("part/seg-3.parquet.json").put("[".into()).await.unwrap();
        assert_eq!(all.found(&mut known).await.unwrap_err().kind(), Kind::Input);
    }
}
