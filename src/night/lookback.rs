//! Late and corrected data: intervals before the one of the run, built again where they are no longer up to date.
//!
//! Knows which intervals stand and whether their fingerprints fit; everything else is a run like any other.

use std::collections::BTreeMap;

use crate::cancel::CancelToken;
use crate::config::{Interval, Job};
use crate::error::{Error, Kind, Result};
use crate::night::decide::TablePlan;
use crate::night::prepare::{Prepared, find};
use crate::night::run::{Options, run};
use crate::table::redact::redact;

/// What became of an interval before the one of the run.
#[derive(Debug)]
pub struct LookedBack {
    /// Its partition.
    pub dt: String,
    /// `not_published`, `not_arrived`, `up_to_date`, `published`, `not_looked_at`, `learned_later` (it stays as it is, as a
    /// model of the job has learned from events after it), `no_snapshot` (it stays as it is, as every snapshot of the items
    /// is of a later day), or the kind of the error.
    pub status: String,
    /// The run that built it, where one did.
    pub run_id: Option<String>,
    /// Why it was built: the tables with their reasons.
    pub why: BTreeMap<String, Vec<String>>,
    /// What went wrong.
    pub error: Option<Error>,
}

/// The status of a day that no model of the job may write of.
const LEARNED_LATER: &str = "learned_later";

/// The status of a day before the first snapshot of the items.
const NO_SNAPSHOT: &str = "no_snapshot";

impl LookedBack {
    fn new(interval: &Interval, status: &str) -> LookedBack {
        let (dt, status) = (interval.dt(), status.to_string());
        LookedBack { dt, status, run_id: None, why: BTreeMap::new(), error: None }
    }

    fn failed(interval: &Interval, error: Error) -> LookedBack {
        let status = error.kind().name();
        LookedBack { error: Some(error), ..LookedBack::new(interval, status) }
    }

    /// For the summary.
    pub fn json(&self) -> serde_json::Value {
        let error = self.error.as_ref().map(|e| redact(&e.to_string()));
        serde_json::json!({
            "dt": self.dt, "status": self.status, "run_id": self.run_id, "why": self.why, "error": error,
        })
    }
}

/// Looks at the intervals in the `days` before one, oldest first, and builds those again that were published before and
/// whose fingerprints no longer fit; each like a run of its own, with its own lease and manifest. An interval that was
/// never published stays so unless `[interval] lookback_missing` allows to build it, and one that fails does not keep the others from being looked at.
pub async fn look_back(
    job: &Job,
    interval: Interval,
    days: u64,
    options: Options,
    stop: &CancelToken,
) -> Vec<LookedBack> {
    let intervals = interval.lookback(days);
    let Some(first) = intervals.first() else { return Vec::new() };
    let prepared = match find(job, *first).await {
        Ok(prepared) => prepared,
        Err(e) => {
            // The run itself will meet the same error, unless it has passed by then.
            let rest = intervals.iter().skip(1).map(|i| LookedBack::new(i, "not_looked_at"));
            return std::iter::once(LookedBack::failed(first, e)).chain(rest).collect();
        }
    };
    let mut all = Vec::new();
    for interval in &intervals {
        all.push(match look_at(job, &prepared.without_inputs(*interval), &options, stop).await {
            Ok(found) => found,
            Err(e) => LookedBack::failed(interval, e),
        });
    }
    all
}

/// Looks at an interval, of which `found` has no inputs yet.
async fn look_at(job: &Job, found: &Prepared, options: &Options, stop: &CancelToken) -> Result<LookedBack> {
    let interval = found.interval;
    stop.check()?;
    let is_published = found.is_published().await?;
    if !is_published && !found.is_looked_back_at().await? {
        return Ok(LookedBack::new(&interval, "not_published"));
    }
    let prepared = found.at(interval).await?;
    // Not an error: without the snapshots before it, such a day would fail in every night that reaches it.
    if let Err(why) = prepared.check_snapshot() {
        tracing::warn!(dt = interval.dt(), why = %why, "a day before the first snapshot of the items is not built");
        return Ok(LookedBack::new(&interval, NO_SNAPSHOT));
    }
    let plans = prepared.decide(false, false).await?;
    if !plans.iter().any(TablePlan::is_build) {
        return Ok(LookedBack::new(&interval, "up_to_date"));
    }
    // Not an error: after every promotion the days before it would fail, and what was published by an older version is right.
    if let Err(why) = prepared.check_learned(&plans) {
        let what = match is_published {
            true => "a published day that is not up to date stays as it is",
            false => "a day that was never published is not built",
        };
        tracing::warn!(dt = interval.dt(), why = %why, "{what}");
        return Ok(LookedBack::new(&interval, LEARNED_LATER));
    }
    let builds = plans.iter().filter(|p| p.is_build());
    let why: BTreeMap<_, _> = builds.map(|p| (p.table.clone(), p.why.clone())).collect();
    tracing::info!(
        dt = interval.dt(),
        tables = why.len(),
        "{}",
        match is_published {
            true => "building a published day again: it is no longer up to date",
            false => "building a day that was never published",
        }
    );
    // What is asked of the run's own interval is not asked of these. Its metrics tell of these days as well.
    let watch = options.watch.without_metrics();
    let options =
        Options { full: false, retry_failed: false, allow_empty: false, voice: options.voice, watch, lookback_code: 0 };
    let mut job = job.clone();
    if !is_published {
        job.spec.interval.empty = "wait".into();
    }
    // Boxed: the future of a run is large, and this one would hold two.
    let own = own_stop(stop);
    let mut looked = match Box::pin(run(&job, interval, options, own.stop.clone())).await {
        Ok(done) => {
            let run_id = (!done.nothing_to_do).then(|| done.manifest.run_id.clone());
            let status = if done.nothing_to_do { "up_to_date" } else { "published" };
            LookedBack { run_id, ..LookedBack::new(&interval, status) }
        }
        // Its own night has told that; it is looked at again as long as the lookback reaches it.
        Err(e) if e.kind() == Kind::NotArrived && !is_published => {
            tracing::warn!(dt = interval.dt(), "the events of a day that was never published have still not arrived");
            LookedBack::new(&interval, e.kind().name())
        }
        Err(e) => LookedBack::failed(&interval, e),
    };
    looked.why = why;
    Ok(looked)
}

/// A cancel token of one run: it follows the caller's, but a run that stops because it has lost its lease stops alone.
struct OwnStop {
    stop: CancelToken,
    follow: tokio::task::JoinHandle<()>,
}

fn own_stop(whole: &CancelToken) -> OwnStop {
    let (stop, whole) = (CancelToken::default(), whole.clone());
    let follower = stop.clone();
    let follow = tokio::spawn(async move {
        whole.requested().await;
        follower.request();
    });
    OwnStop { stop, follow }
}

impl Drop for OwnStop {
    fn drop(&mut self) {
        self.follow.abort();
    }
}

/// The days that were looked back at, in a sentence for a person; empty where none was built and none failed.
pub fn story(days: &[LookedBack]) -> String {
    let part = |what: &str, chosen: &dyn Fn(&LookedBack) -> bool| {
        let chosen: Vec<&str> = days.iter().filter(|d| chosen(d)).map(|d| d.dt.as_str()).collect();
        (!chosen.is_empty()).then(|| format!("{what} {}", chosen.join(", ")))
    };
    let built = part("built", &|d| d.status == "published");
    let failed = part("failed", &|d| d.error.is_some());
    let stay = part("not built again, as a model has learned from later events:", &|d| d.status == LEARNED_LATER);
    let parts: Vec<String> = [built, stay, failed].into_iter().flatten().collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("Looked back at {} interval(s): {}.", days.len(), parts.join("; ")),
    }
}

/// The exit code of the days that were looked back at, 0 where none failed. One that may pass (75) comes before one that
/// will not: running the same command again fixes it, and then reports what is left.
pub fn exit_code(days: &[LookedBack]) -> u8 {
    let codes = || days.iter().filter_map(|d| d.error.as_ref()).map(|e| e.kind().exit_code());
    codes().find(|code| *code == 75).or_else(|| codes().min()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn intervals() -> Vec<Interval> {
        Interval::parse("2026-01-20", "2026-01-21").unwrap().lookback(3)
    }

    #[test]
    fn the_story_tells_of_what_was_built_and_what_failed() {
        let days = intervals();
        let days = [
            LookedBack::new(&days[0], "published"),
            LookedBack::failed(&days[1], Error::new(Kind::Audit, "no")),
            LookedBack::new(&days[2], "up_to_date"),
        ];
        assert_eq!(story(&days), "Looked back at 3 interval(s): built 2026-01-17; failed 2026-01-18.");
        assert_eq!(story(&days[2..]), "");
    }

    #[test]
    fn of_several_failures_one_that_may_pass_decides() {
        let first = &intervals()[0];
        let day = |kind| LookedBack::failed(first, Error::new(kind, "no"));
        assert_eq!(exit_code(&[day(Kind::Audit), day(Kind::Busy), day(Kind::Model)]), 75);
        assert_eq!(exit_code(&[day(Kind::Audit), day(Kind::Model)]), 1);
        assert_eq!(exit_code(&[LookedBack::new(first, "published")]), 0);
    }
}
