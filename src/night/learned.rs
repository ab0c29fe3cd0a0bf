//! Until when an adapter, a judge or a projection has learned: later events alone tell what it is worth, and what it writes
//! of earlier moments knows what came after them.
//!
//! Knows the records that stand beside them: a registry's card, and what `learn align`, `learn reward`, `learn reinforce`,
//! `learn worth` and `learn project` leave. Knows nothing of logs: which moments are held out, or which day is built, the caller knows.

use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::{Job, parse_moment};
use crate::error::Result;
use crate::registry::card::{Card, Trained};
use crate::registry::versions::{Registry, SCHEME};
use crate::table::store::{Location, StoreOptions};

/// The record of `learn worth` in the folder of its adapter: its record in `out` is there where nothing was learned too.
pub(crate) const TAUGHT: &str = "taught.json";

/// The records that stages of learning leave beside what they made.
const RECORDS: [&str; 8] = [
    "align.json",
    "reward.json",
    "reinforce-best-of-n.json",
    "reinforce-weighted.json",
    "reinforce-grpo.json",
    "reinforce-dpo.json",
    // In a projection's own folder.
    "project.json",
    // In the adapter's own folder.
    TAUGHT,
];

/// A version's card, where a registry and an export have it.
const CARD: &str = "card.json";

/// Until when a job's models have learned; none where there is no such model, or no record beside it tells.
#[derive(Debug, Clone, Default)]
pub struct Learned {
    /// The language model itself, where an adapter was merged into it.
    pub generator: Option<DateTime<Utc>>,
    /// The adapter.
    pub adapter: Option<DateTime<Utc>>,
    /// The judge.
    pub judge: Option<DateTime<Utc>>,
    /// The projection.
    pub projection: Option<DateTime<Utc>>,
}

impl Learned {
    /// The places in the job that name an adapter, a judge or a projection of which no record tells until when it has learned.
    pub fn unknown(&self, job: &Job) -> Vec<&'static str> {
        let named = [
            ("model.adapter", &job.spec.model.adapter, self.adapter),
            ("correct.judge", &job.spec.correct.judge, self.judge),
            ("model.projection", &job.spec.model.projection, self.projection),
        ];
        named.into_iter().filter(|(_, text, until)| !text.is_empty() && until.is_none()).map(|(key, ..)| key).collect()
    }
}

/// The end of the interval that an adapter or a judge has learned from, as a job names it; `None` where nothing is named, or
/// no record beside it tells.
///
/// # Errors
/// What the registry says.
pub(crate) async fn learned_until(job: &Job, named: &str) -> Result<Option<DateTime<Utc>>> {
    let card = match named.strip_prefix(SCHEME) {
        Some(name) => Some(Registry::of(job)?.promoted(name).await?),
        None => None,
    };
    told(job, named, card.as_ref()).await
}

/// The same, where the version in use was asked for already: `card` is that of what a registry has promoted.
///
/// # Errors
/// For a location that is none.
pub(crate) async fn told(job: &Job, named: &str, card: Option<&Card>) -> Result<Option<DateTime<Utc>>> {
    if named.is_empty() || named.starts_with(SCHEME) {
        return Ok(card.and_then(|card| card.trained.learned_until()));
    }
    let at = Location::parse_with(named, &StoreOptions::of(job))?;
    match at.local_path() {
        Some(path) => Ok(beside(&path)),
        None => Ok(on_store(&at).await),
    }
}

/// The same of a language model that an adapter was merged into: the card in its folder tells. Of an endpoint's nothing does.
///
/// # Errors
/// For a location that is none.
pub(crate) async fn of_generator(job: &Job) -> Result<Option<DateTime<Utc>>> {
    if job.spec.model.endpoint().is_some() {
        return Ok(None);
    }
    let at = Location::parse_with(&job.spec.model.generator, &StoreOptions::of(job))?;
    let bytes = match at.local_path() {
        Some(path) => std::fs::read(path.join(CARD)).ok(),
        None => at.child(CARD).get().await.ok().flatten().map(Vec::from),
    };
    Ok(bytes.and_then(|bytes| of_card(&bytes)))
}

/// What the records of stages tell.
#[derive(Deserialize)]
struct Record {
    interval_end: String,
}

/// What a registry's card tells.
#[derive(Deserialize)]
struct Told {
    trained: Trained,
}

fn of_record(bytes: &[u8]) -> Option<DateTime<Utc>> {
    parse_moment("interval", &read::<Record>(bytes)?.interval_end).ok()
}

fn of_card(bytes: &[u8]) -> Option<DateTime<Utc>> {
    read::<Told>(bytes)?.trained.learned_until()
}

/// The latest that a record tells in the folder, where a registry and an export have it, or in the two above it, where the
/// weekly run has it.
fn beside(folder: &Path) -> Option<DateTime<Utc>> {
    // A path that was written as `adapter` has its folders too.
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let ends = |at: &Path| {
        let bytes = |name: &str| std::fs::read(at.join(name)).ok();
        let of_records = RECORDS.map(|name| bytes(name).and_then(|b| of_record(&b)));
        of_records.into_iter().chain([bytes(CARD).and_then(|b| of_card(&b))]).collect::<Vec<_>>()
    };
    whole.ancestors().take(3).flat_map(ends).flatten().max()
}

/// The same on a store. Where a record cannot be read it tells nothing: folders above may be none of the job's business.
async fn on_store(folder: &Location) -> Option<DateTime<Utc>> {
    let mut latest = None;
    let mut at = folder.path().clone();
    for _ in 0..3 {
        for name in RECORDS.into_iter().chain([CARD]) {
            let bytes = folder.sibling(at.clone().join(name)).get().await.ok().flatten();
            let of = if name == CARD { of_card } else { of_record };
            latest = latest.max(bytes.and_then(|bytes| of(&bytes)));
        }
        let mut parts: Vec<_> = at.parts().map(|part| part.as_ref().to_owned()).collect();
        if parts.pop().is_none() {
            break;
        }
        at = parts.into_iter().collect();
    }
    latest
}

/// A record, where it is one.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
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
        // What `learn worth` taught has a record of its own, which tells nothing of the adapter that it began with.
        std::fs::create_dir_all(at("out/adapter-worth")).unwrap();
        std::fs::write(at("out/adapter-worth").join(TAUGHT), r#"{"interval_end": "2026-01-14"}"#).unwrap();
        assert_eq!(beside(&at("out/adapter-worth")), Some(parse_moment("", "2026-01-14").unwrap()));
        assert_eq!(beside(&at("out/adapter")), Some(parse_moment("", "2026-01-12").unwrap()));
        // Not what stands further away, and what is no record tells nothing.
        std::fs::write(at("align.json"), r#"{"interval_end": "2027-01-01"}"#).unwrap();
        std::fs::write(at("out/reward.json"), "{").unwrap();
        std::fs::write(at("out/reward/judge/card.json"), r#"{"trained": {"interval": null}}"#).unwrap();
        assert_eq!(beside(&at("out/reward/judge")), Some(parse_moment("", "2026-01-11").unwrap()));
    }
}
