//! Until when an adapter or a judge has learned: later events alone tell what it is worth.
//!
//! Knows the records that stand beside them: a registry's card, and what `learn align` and `learn reward` leave. Knows nothing
//! of logs: which moments are held out, the caller knows.

use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::{Job, parse_moment};
use crate::error::Result;
use crate::generate::registry::{Registry, SCHEME, Trained};
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
        Some(name) => Ok(Registry::of(job)?.promoted(name).await?.trained.learned_until()),
        None => Ok(Location::parse_with(named, &StoreOptions::of(job))?.local_path().as_deref().and_then(beside)),
    }
}

/// What `align.json` and `reward.json` tell.
#[derive(Deserialize)]
struct Record {
    interval_end: String,
}

/// What a registry's card tells.
#[derive(Deserialize)]
struct Told {
    trained: Trained,
}

/// The latest that a record tells in the folder, where a registry and an export have it, or in the two above it, where the
/// weekly run has it.
fn beside(folder: &Path) -> Option<DateTime<Utc>> {
    let ends = |at: &Path| {
        let of_record = |name| parse_moment("interval", &read::<Record>(&at.join(name))?.interval_end).ok();
        let of_card = read::<Told>(&at.join("card.json")).and_then(|told| told.trained.learned_until());
        [of_record("align.json"), of_record("reward.json"), of_card]
    };
    folder.ancestors().take(3).flat_map(ends).flatten().max()
}

/// A record, where it is there and one.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
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
