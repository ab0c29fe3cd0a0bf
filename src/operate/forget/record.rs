//! What a forgetting is asked for and what it says of itself: to people, to programs, and in manifests that later ones read.
//!
//! Manifests name users by keyed digests only. Knows nothing of how rows are found or taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use futures::{StreamExt, TryStreamExt};

use crate::config::Job;
use crate::error::{Context, Error, Kind, Result};
use crate::night::manifest::{Forgotten, Manifest, TableRecord};
use crate::operate::pseudonym::Pseudonyms;
use crate::table::lease::Holder;
use crate::table::partition::CommitRecord;
use crate::table::store::{Entry, Location};

/// Files read at once while looking for a user.
pub(super) const FILES_AT_ONCE: usize = 16;

/// The exit code where everything was done and some of the ids stood nowhere.
pub const UNMATCHED: u8 = 3;

/// What to forget, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The user ids, exactly as they stand in the tables.
    pub users: BTreeSet<String>,
    /// Only say what would go.
    pub dry_run: bool,
    /// Also remove the answers whose prompts are in no partition: they cannot be assigned to a user.
    pub unlinked: bool,
}

/// What was forgotten, for people; [`fmt::Display`] shows it.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// How many users.
    pub users: usize,
    /// Rows by table, and in how many partitions.
    pub rows: BTreeMap<String, (u64, usize)>,
    /// What the manifest says.
    pub forgotten: Forgotten,
    /// Files that dead runs had left.
    pub garbage: usize,
    /// Ids that stand nowhere in the warehouse or its inputs and were not forgotten before: mistyped, perhaps.
    pub unmatched: Vec<String>,
    /// Where the manifest is.
    pub manifest: Option<Location>,
    /// What the caller has to know, one sentence each.
    pub warnings: Vec<String>,
}

impl Done {
    /// 0, or [`UNMATCHED`].
    pub fn exit_code(&self) -> u8 {
        if self.unmatched.is_empty() { 0 } else { UNMATCHED }
    }

    /// The same for a program: one object.
    pub fn json(&self) -> serde_json::Value {
        let tables = self.rows.iter().map(|(table, (rows, partitions))| {
            (table.clone(), serde_json::json!({ "rows": rows, "partitions": partitions }))
        });
        serde_json::json!({
            "status": if self.dry_run { "dry_run" } else { "forgotten" },
            "users": self.users,
            "unmatched": self.unmatched,
            "tables": tables.collect::<serde_json::Map<_, _>>(),
            "quarantined_files": self.forgotten.quarantined_files,
            "run_files": self.forgotten.run_files,
            "pages_removed": self.forgotten.pages_removed,
            "garbage_files": self.garbage,
            "inputs": self.forgotten.inputs,
            "manifest": self.manifest.as_ref().map(|at| at.url()),
            "warnings": self.warnings,
        })
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} user(s)", if self.dry_run { "would forget" } else { "forgot" }, self.users)?;
        for (table, (rows, partitions)) in &self.rows {
            match partitions {
                0 => writeln!(f, "  {table:<15} {rows} row(s)")?,
                n => writeln!(f, "  {table:<15} {rows} row(s) in {n} partition(s)")?,
            }
        }
        let found = &self.forgotten;
        writeln!(f, "  quarantine      {} file(s)", found.quarantined_files)?;
        writeln!(f, "  runs            {} report(s) and manifest(s) that named a user", found.run_files)?;
        if found.pages_removed > 0 {
            writeln!(f, "  report pages    {} removed: they could not be made again", found.pages_removed)?;
        }
        if self.garbage > 0 {
            writeln!(f, "  dead runs       {} file(s) removed", self.garbage)?;
        }
        for user in &self.unmatched {
            writeln!(f, "  not found       {user:?}")?;
        }
        match &self.manifest {
            Some(manifest) => writeln!(f, "manifest: {manifest}"),
            None => writeln!(f, "nothing was changed; files that dead runs left would be removed as well"),
        }
    }
}

/// A manifest of an earlier `forget`, and what it says.
pub(super) struct Before {
    pub(super) at: Location,
    pub(super) manifest: Manifest,
    pub(super) forgotten: Forgotten,
}

/// What earlier runs of `forget` say in their manifests.
pub(super) async fn forgotten_before(root: &Location) -> Result<Vec<Before>> {
    let mut entries = root.child("_runs").list().await?;
    entries.retain(|e| e.location.name() == Manifest::NAME && e.location.url().contains("/_runs/forget-"));
    let read = |entry: Entry| async move {
        let Some(bytes) = entry.location.get().await? else { return Ok(None) };
        // One of another version, or a damaged one, tells nothing.
        let Ok(mut manifest) = Manifest::parse(&bytes) else { return Ok(None) };
        let forgotten = manifest.forgotten.take();
        Ok::<_, Error>(forgotten.map(|forgotten| Before { at: entry.location, manifest, forgotten }))
    };
    let read: Vec<_> = futures::stream::iter(entries).map(read).buffered(FILES_AT_ONCE).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

/// Manifests of before there were keys hold plain digests, which a list of all ids would tell: those go.
pub(super) async fn renew_digests(before: &[Before], pseudonyms: &Pseudonyms) -> Result<()> {
    for Before { at, manifest, forgotten } in before.iter().filter(|b| b.forgotten.digest != Pseudonyms::METHOD) {
        // What is no digest stands for nobody.
        let renewed = |text: &String| blake3::Hash::from_hex(text).ok().map(|plain| pseudonyms.of_plain(plain));
        let users: BTreeSet<String> = forgotten.users.iter().filter_map(renewed).collect();
        let forgotten =
            Forgotten { digest: Pseudonyms::METHOD.into(), users: users.into_iter().collect(), ..forgotten.clone() };
        put_json(at, &Manifest { forgotten: Some(forgotten), ..manifest.clone() }).await?;
    }
    Ok(())
}

/// The manifest of a forgetting that begins.
pub(super) fn manifest(job: &Job, run_id: &str, started_at: String) -> Manifest {
    let here = Holder::here(run_id);
    Manifest {
        format: 1,
        curec: format!("curec {}", env!("CARGO_PKG_VERSION")),
        run_id: run_id.to_owned(),
        job: job.spec.name.clone(),
        job_file: job.origin.clone(),
        status: "running".into(),
        started_at,
        host: here.host,
        pid: here.pid,
        ..Manifest::default()
    }
}

pub(super) async fn write(root: &Location, run_id: &str, manifest: &Manifest) -> Result<Location> {
    let location = root.child("_runs").child(run_id).child(Manifest::NAME);
    put_json(&location, manifest).await?;
    Ok(location)
}

async fn put_json(at: &Location, manifest: &Manifest) -> Result<()> {
    let text = serde_json::to_string_pretty(manifest).context(Kind::Internal, || "the manifest is not JSON".into())?;
    at.put(text.into()).await
}

pub(super) fn rewritten_record(record: &CommitRecord) -> TableRecord {
    TableRecord {
        table: record.table.clone(),
        dt: record.dt.clone(),
        action: "rewritten".into(),
        rows: record.rows(),
        bytes: record.files.iter().map(|f| f.bytes).sum(),
        files: record.files.iter().map(|f| f.name.clone()).collect(),
        fingerprint: record.fingerprint.clone(),
        ..TableRecord::default()
    }
}
