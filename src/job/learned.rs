//! Until when an adapter or a judge has learned: later events alone tell what it is worth.
//!
//! Knows the records that stand beside them: a registry's card, and what `learn align` and `learn reward` leave. Knows nothing
//! of logs: which moments are held out, the caller knows.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::config::{Job, parse_moment};
use crate::error::Result;
use crate::generate::registry::{Registry, SCHEME};
use crate::table::store::{Location, StoreOptions};

/// The end of the interval that an adapter or a judge has learned from, as a job names it; `None` where nothing is named, no
/// record stands beside it, or it lies on a store.
///
/// # Errors
/// What the registry says.
pub(crate) async fn learned_until(job: &Job, named: &str) -> Result<Option<DateTime<Utc>>> {
    if named.is_empty() {
        return Ok(None);
    }
    match named.strip_prefix(SCHEME) {
        Some(name) => Ok(Registry::of(job)?.promoted(name).await?.learned_until()),
        None => Ok(Location::parse_with(named, &StoreOptions::of(job))?.local_path().as_deref().and_then(beside)),
    }
}

/// The latest that a record tells in the folder, where a registry and an export have it, or in the two above it, where the
/// weekly run has it.
fn beside(folder: &Path) -> Option<DateTime<Utc>> {
    let read = |path: PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).ok()?).ok();
    let ends = |at: &Path| {
        let records = ["align.json", "reward.json"].map(|name| Some(read(at.join(name))?["interval_end"].clone()));
        let card = read(at.join("card.json")).map(|card| card["trained"]["interval"][1].clone());
        records.into_iter().chain([card]).flatten()
    };
    folder.ancestors().take(3).flat_map(ends).filter_map(|end| parse_moment("interval", end.as_str()?).ok()).max()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_latest_of_the_records_beside_it_counts() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("out/reward/judge")).unwrap();
        assert_eq!(beside(&at("out/reward/judge")), None);
        std::fs::write(at("out/align.json"), r#"{"interval_end": "2026-01-11T00:00:00+00:00"}"#).unwrap();
        assert_eq!(beside(&at("out/adapter")), Some(parse_moment("", "2026-01-11").unwrap()));
        std::fs::write(at("out/reward.json"), r#"{"interval_end": "2026-01-12T00:00:00+00:00"}"#).unwrap();
        assert_eq!(beside(&at("out/reward/judge")), Some(parse_moment("", "2026-01-12").unwrap()));
        std::fs::write(at("out/reward/judge/card.json"), r#"{"trained": {"interval": ["x", "2026-01-13"]}}"#).unwrap();
        assert_eq!(beside(&at("out/reward/judge")), Some(parse_moment("", "2026-01-13").unwrap()));
        // Not what stands further away, and what is no record tells nothing.
        std::fs::write(at("align.json"), r#"{"interval_end": "2027-01-01"}"#).unwrap();
        std::fs::write(at("out/reward.json"), "{").unwrap();
        std::fs::write(at("out/reward/judge/card.json"), r#"{"trained": {"interval": null}}"#).unwrap();
        assert_eq!(beside(&at("out/reward/judge")), Some(parse_moment("", "2026-01-11").unwrap()));
    }
}
