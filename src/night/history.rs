//! The runs of a warehouse in one file, so that a night sees all of them with few requests.
//!
//! `_runs/index.json` holds a line for each manifest, `_runs/index.html` shows them. Manifests are what counts: the file is made
//! complete from those that lie there and that it does not hold, such as of runs of before there was an index, or of two that
//! wrote it at once. Nothing here fails a run: who cannot read or write it says so in the log. Knows places and manifests;
//! knows nothing of tables.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::config::Interval;
use crate::error::{Context, Error, Kind, Result};
use crate::night::index_page::{Row, page};
use crate::night::manifest::Manifest;
use crate::night::measures::{LAST_RUNS, Measures};
use crate::table::store::{Location, Version};

/// The lines, and the page of them, in `_runs/`.
const LINES: &str = "index.json";
const PAGE: &str = "index.html";
/// The format of the lines that this code writes and reads.
const FORMAT: u32 = 1;
/// Files read at once.
const AT_ONCE: usize = 16;
/// How often a run writes its line where others write theirs at the same time.
const ATTEMPTS: usize = 5;
/// How long a run waits for the store: none of this is worth more.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Lines {
    format: u32,
    runs: Vec<Row>,
}

/// A line for each manifest below `runs`, the newest first, and the version of the file that held those that were known.
async fn rows(runs: &Location) -> Result<(Vec<Row>, Option<Version>)> {
    let file = runs.child(LINES);
    // The listing comes after the file: a line that stood there then has its manifest by now.
    let kept = file.get_versioned().await?;
    let entries = runs.list().await?;
    let (kept, version) = kept.unzip();
    // A damaged file, or one of another version, is made anew from the manifests.
    let kept = kept.and_then(|bytes| serde_json::from_slice::<Lines>(&bytes).ok());
    let kept = kept.filter(|lines| lines.format == FORMAT).map(|lines| lines.runs).unwrap_or_default();
    let mut known: BTreeMap<String, Row> = kept.into_iter().map(|row| (row.run_id.clone(), row)).collect();
    let (mut manifests, mut reports) = (BTreeMap::new(), BTreeSet::new());
    for entry in entries {
        let relative = entry.location.relative_to(runs).unwrap_or_default();
        match relative.split_once('/') {
            Some((id, Manifest::NAME)) => _ = manifests.insert(id.to_owned(), entry.location),
            Some((id, "report.html")) => _ = reports.insert(id.to_owned()),
            _ => {}
        }
    }
    known.retain(|id, row| manifests.contains_key(id) && row.status != "running");
    let unknown = manifests.into_iter().filter(|(id, _)| !known.contains_key(id));
    let read = unknown.map(|(id, at)| async move {
        // What is damaged, or gone meanwhile, has no line; `curec runs list` tells of it.
        let manifest = Manifest::parse(&at.get().await.ok()??).ok()?;
        (manifest.run_id == id).then(|| Row::of(&manifest, false))
    });
    let read: Vec<Option<Row>> = futures::stream::iter(read.collect::<Vec<_>>()).buffered(AT_ONCE).collect().await;
    known.extend(read.into_iter().flatten().map(|row| (row.run_id.clone(), row)));
    let mut all: Vec<Row> = known.into_values().collect();
    all.iter_mut().for_each(|row| row.has_report = reports.contains(&row.run_id));
    sort(&mut all);
    Ok((all, version))
}

/// The newest first.
fn sort(rows: &mut [Row]) {
    rows.sort_by(|a, b| (&b.started_at, &b.run_id).cmp(&(&a.started_at, &a.run_id)));
}

/// Of a job's published runs those of the last intervals that end before one begins, a run for each interval, the newest
/// interval first.
fn last_of<'a>(rows: &'a [Row], job: &str, interval: Interval) -> Vec<&'a Row> {
    let mut found: BTreeMap<&str, &Row> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.job == job && row.status == "published") {
        // Rows come with the newest run first: of an interval that was built again that one counts.
        if row.interval().is_some_and(|before| before.end <= interval.start) {
            found.entry(&row.interval_start).or_insert(row);
        }
    }
    found.into_values().rev().take(LAST_RUNS).collect()
}

/// The last runs of a job that published an interval before one, in numbers, oldest first. Those that left none, as runs of
/// before there were any did, are passed over.
///
/// # Errors
/// The store's; [`Kind::Temporary`] where it does not answer in time.
pub async fn last(runs: &Location, job: &str, interval: Interval) -> Result<Vec<Measures>> {
    in_time(read_last(runs, job, interval)).await
}

async fn read_last(runs: &Location, job: &str, interval: Interval) -> Result<Vec<Measures>> {
    let (rows, _) = rows(runs).await?;
    let oldest_first = last_of(&rows, job, interval).into_iter().rev();
    let read = oldest_first.map(|row| read_measures(runs, row.run_id.clone())).collect::<Vec<_>>();
    let found: Vec<Result<Option<Measures>>> = futures::stream::iter(read).buffered(AT_ONCE).collect().await;
    let found = found.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(found.into_iter().flatten().collect())
}

async fn read_measures(runs: &Location, run_id: String) -> Result<Option<Measures>> {
    let bytes = runs.child(&run_id).child(Measures::NAME).get().await?;
    Ok(bytes.and_then(|bytes| Measures::parse(&bytes)).filter(|measures| measures.run_id == run_id))
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => Err(Error::new(Kind::Temporary, "the warehouse does not answer in time")),
    }
}

/// Writes a run's line into the file, and the page of all lines; a warning says where that fails.
pub async fn note(runs: &Location, manifest: &Manifest) {
    if let Err(e) = in_time(write(runs, manifest)).await {
        tracing::warn!(error = %e, "the page over all runs is not up to date; the next run brings it up to date");
    }
}

async fn write(runs: &Location, manifest: &Manifest) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let (mut all, version) = rows(runs).await?;
        let known = all.iter().find(|row| row.run_id == manifest.run_id);
        let row = Row::of(manifest, known.is_some_and(|row| row.has_report));
        all.retain(|row| row.run_id != manifest.run_id);
        all.push(row);
        sort(&mut all);
        let html = page(&all)?;
        let lines = serde_json::to_string(&Lines { format: FORMAT, runs: all });
        let lines = lines.context(Kind::Internal, || "the lines of runs are not JSON".into())?;
        let lines = Bytes::from(lines);
        if runs.child(LINES).put_if(version.as_ref(), lines.clone()).await? {
            runs.child(PAGE).put(html.into()).await?;
            // Whoever has written lines since may have put a newer page before this one.
            if runs.child(LINES).get().await?.is_none_or(|now| now == lines) {
                return Ok(());
            }
        }
    }
    Err(Error::new(Kind::Busy, "other runs write the lines of runs at the same time").with("file", runs.child(LINES)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::night::manifest;

    fn run(day: u32, n: u32) -> Manifest {
        Manifest {
            format: manifest::FORMAT,
            run_id: format!("nightly-202601{day:02}T03000{n}000Z-{n}"),
            job: "nightly".into(),
            status: "published".into(),
            interval_start: format!("2026-01-{day:02}T00:00:00+00:00"),
            interval_end: format!("2026-01-{:02}T00:00:00+00:00", day + 1),
            started_at: format!("2026-02-{day:02}T03:00:0{n}.000Z"),
            ..Manifest::default()
        }
    }

    async fn put(runs: &Location, manifest: &Manifest) {
        let folder = runs.child(&manifest.run_id);
        folder.child(Manifest::NAME).put(serde_json::to_vec(manifest).unwrap().into()).await.unwrap();
        let measures =
            Measures { run_id: manifest.run_id.clone(), dt: manifest.interval_start.clone(), ..Measures::default() };
        folder.child(Measures::NAME).put(serde_json::to_vec(&measures).unwrap().into()).await.unwrap();
    }

    async fn ids(runs: &Location) -> Vec<String> {
        let kept: Lines = serde_json::from_slice(&runs.child(LINES).get().await.unwrap().unwrap()).unwrap();
        kept.runs.into_iter().map(|row| row.run_id).collect()
    }

    fn day(day: u32) -> Interval {
        Interval::parse(&format!("2026-01-{day:02}"), &format!("2026-01-{:02}", day + 1)).unwrap()
    }

    #[tokio::test]
    async fn runs_of_before_there_was_an_index_come_into_it_and_damaged_files_end_nothing() {
        let runs = Location::parse("memory://history-heals/_runs").unwrap();
        for n in [1, 2] {
            put(&runs, &run(n, 1)).await;
        }
        runs.child(&run(1, 1).run_id).child("report.html").put("x".into()).await.unwrap();
        runs.child("broken-1/manifest.json").put("{".into()).await.unwrap();
        note(&runs, &run(3, 1)).await;
        // Its own manifest may not be there yet: the line is.
        let all = [run(3, 1).run_id, run(2, 1).run_id, run(1, 1).run_id];
        assert_eq!(ids(&runs).await, all);
        put(&runs, &run(3, 1)).await;
        for damaged in ["{", "{\"format\": 9, \"runs\": []}"] {
            runs.child(LINES).put(damaged.into()).await.unwrap();
            note(&runs, &run(3, 1)).await;
            assert_eq!(ids(&runs).await, all, "{damaged}");
        }
        let page = String::from_utf8(runs.child(PAGE).get().await.unwrap().unwrap().to_vec()).unwrap();
        assert_eq!(page.matches("report.html\"").count(), 1, "{page}");
        runs.child(&run(2, 1).run_id).child(Manifest::NAME).delete().await.unwrap();
        note(&runs, &run(3, 1)).await;
        assert_eq!(ids(&runs).await.len(), 2, "a run that was removed has no line");
    }

    #[tokio::test]
    async fn a_run_that_was_under_way_is_looked_at_again() {
        let runs = Location::parse("memory://history-running/_runs").unwrap();
        put(&runs, &Manifest { status: "running".into(), ..run(1, 1) }).await;
        note(&runs, &run(2, 1)).await;
        put(&runs, &run(1, 1)).await;
        put(&runs, &run(2, 1)).await;
        let (rows, _) = rows(&runs).await.unwrap();
        assert!(rows.len() == 2 && rows.iter().all(|row| row.status == "published"), "{rows:?}");
    }

    #[tokio::test]
    async fn many_that_write_at_once_lose_no_line() {
        let runs = Location::parse("memory://history-at-once/_runs").unwrap();
        let manifests: Vec<Manifest> = (1..=4).map(|n| run(n, 1)).collect();
        for manifest in &manifests {
            put(&runs, manifest).await;
        }
        futures::future::join_all(manifests.iter().map(|m| note(&runs, m))).await;
        assert_eq!(ids(&runs).await.len(), 4);
    }

    #[tokio::test]
    async fn the_last_runs_are_those_of_the_last_intervals_before_one() {
        let runs = Location::parse("memory://history-last/_runs").unwrap();
        for n in 1..=12 {
            put(&runs, &run(n, 1)).await;
        }
        // Built again since, of another job, and one that failed.
        put(&runs, &Manifest { started_at: "2026-03-01T00:00:00.000Z".into(), ..run(8, 2) }).await;
        put(&runs, &Manifest { job: "other".into(), ..run(9, 3) }).await;
        put(&runs, &Manifest { status: "audit".into(), ..run(9, 4) }).await;
        runs.child(&run(7, 1).run_id).child(Measures::NAME).put("damaged".into()).await.unwrap();
        let found: Vec<String> = last(&runs, "nightly", day(10)).await.unwrap().into_iter().map(|m| m.run_id).collect();
        let mut expected: Vec<String> = [3, 4, 5, 6, 8, 9].map(|n| run(n, 1).run_id).to_vec();
        expected[4] = run(8, 2).run_id;
        assert_eq!(found, expected, "no later day, each interval once, oldest first");
        assert!(last(&runs, "nightly", day(1)).await.unwrap().is_empty());
    }
}
