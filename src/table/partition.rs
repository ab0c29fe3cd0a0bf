//! Publishing: stage, (audit), publish under a lease; the commit record, append-only segments, `gc`.
//!
//! A partition `<root>/<table>/dt=YYYY-MM-DD/` is what its commit record `_commit.json` lists, nothing else. Publishing
//! copies staged files to names that carry their content's hash, switches the record with one compare-and-swap, then removes
//! what the record no longer lists. Dying anywhere leaves the old or the new partition, plus files that nobody lists
//! (`gc` removes them; so does the next publish). **What a plain reader can see**: one that lists files instead of reading the record
//! sees old and new files together between the first copy and the last removal. Where a table has a Delta log
//! ([`crate::table::delta_write`]), it follows the record before anything is removed, and readers of the log see no such mixture.
//!
//! Bytes of data files depend on the rows, the contract and the stamp only: no wall clock, no host, no batch
//! boundaries. Knows nothing of SQL; audits are run by the caller on what was staged.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use crate::error::{Context, Error, Kind, Result};
use crate::table::cast::{cast_batch, strict};
use crate::table::check::Checker;
use crate::table::commit::{RECORD, check_dt};
use crate::table::contract::Contract;
use crate::table::delta_write;
use crate::table::finding::Findings;
use crate::table::lease::{AT_ONCE, FORMAT, Lease, is_live, read_lease};
use crate::table::local_folder::{lock_folder, torn_uploads};
use crate::table::store::{Entry, Location, remove_folder};
use crate::table::write::{OrderCheck, StagedFile, Stamp, TableWriter};

pub use crate::table::commit::{CommitRecord, CommittedFile, commit_record, partition, tables};
pub use crate::table::segment::{Encoded, Segment, append_segment, segments};

/// A table's partition, written under `_staging/<run id>/` and not yet visible.
#[derive(Debug, Clone)]
pub struct StagedTable {
    /// The table.
    pub table: String,
    /// The version of its contract.
    pub contract_version: String,
    /// The partition's date, `YYYY-MM-DD`.
    pub dt: String,
    /// The folder that holds the staged files and nothing else; absent when there are no rows.
    pub location: Location,
    /// The files in row order; empty when there are no rows.
    pub files: Vec<StagedFile>,
    /// Rows of all files.
    pub rows: u64,
    /// The files' schema; without rows a vector column has width 0.
    pub schema: SchemaRef,
    /// What it was made from.
    pub stamp: Stamp,
    /// The run whose rows these are, where it is not the one that publishes them.
    pub run_id: Option<String>,
}

/// Stages and publishes the partitions of one run.
#[derive(Debug, Clone)]
pub struct Publisher {
    root: Location,
    run_id: String,
    /// Whether tables without a Delta log get one.
    begins_delta_logs: bool,
}

impl Publisher {
    /// A publisher for the warehouse at `root`.
    pub fn new(root: Location, run_id: impl Into<String>) -> Self {
        Publisher { root, run_id: run_id.into(), begins_delta_logs: false }
    }

    /// The same; with `true` it gives a Delta log to tables that have none. One that is there is kept true in any case.
    pub fn with_delta_logs(self, begins_delta_logs: bool) -> Self {
        Publisher { begins_delta_logs, ..self }
    }

    /// The folder that holds everything this run has staged.
    pub fn staging(&self) -> Location {
        self.root.child("_staging").child(&self.run_id)
    }

    /// The folder for rows that this run sets aside for its own queries; no table is staged there.
    pub fn set_aside(&self) -> Location {
        self.staging().child("_set_aside")
    }

    /// Removes what this run has set aside.
    ///
    /// # Errors
    /// The store's.
    pub async fn clear_set_aside(&self) -> Result<()> {
        remove_folder(&self.set_aside()).await
    }

    /// Writes rows under `_staging/<run id>/<table>/dt=.../` and holds every one against the contract: types, nulls, ranges,
    /// order, and the grain where it is what the rows are sorted by. Whatever this run had staged there before is replaced.
    ///
    /// # Errors
    /// The stream's own; `Kind::Audit` for rows that break the contract, with all of them counted in [`Findings`];
    /// `Kind::Internal` for wrong columns or order; the store's.
    pub async fn stage(
        &self,
        contract: &Contract,
        dt: &str,
        stamp: &Stamp,
        rows: impl Stream<Item = Result<RecordBatch>>,
    ) -> Result<StagedTable> {
        check_dt(dt)?;
        let location = self.staging().child(&contract.name).child(&format!("dt={dt}"));
        remove_folder(&location).await?;
        let mut writer = TableWriter::new(contract, location.clone(), stamp);
        let mut rows = std::pin::pin!(rows);
        let mut checker = Checker::new(contract, format!("{} dt={dt}", contract.name));
        let mut order = OrderCheck::new(contract)?;
        let mut findings = Findings::new(contract);
        let outcome: Result<()> = async {
            while let Some(batch) = rows.next().await {
                let batch = batch?;
                match cast_batch(contract, &batch)? {
                    Ok(cast) => {
                        checker.find(&cast, &mut findings);
                        order.find(&cast, &mut findings)?;
                        if findings.is_empty() {
                            writer.push(strict(contract, &cast)?).await?;
                        }
                    }
                    Err(misfits) => checker.find_misfits(&batch, &misfits, &mut findings),
                }
            }
            match findings.into_error() {
                Some(error) => Err(error),
                None => writer.finish().await,
            }
        }
        .await;
        if let Err(error) = outcome {
            writer.abort().await;
            return Err(error);
        }
        Ok(StagedTable {
            table: contract.name.clone(),
            contract_version: contract.version.clone(),
            dt: dt.to_owned(),
            location,
            rows: writer.files.iter().map(|f| f.rows).sum(),
            schema: writer.schema.clone().unwrap_or_else(|| contract.arrow_schema(None)),
            files: writer.files,
            stamp: stamp.clone(),
            run_id: None,
        })
    }

    /// Makes a staged partition the published one: copies, switches the commit record, removes what is no longer listed. An
    /// empty staged table clears the partition. Publishing what is published already changes nothing.
    ///
    /// # Errors
    /// `Kind::Busy` when the lease has been lost or another publisher came first; the store's.
    pub async fn publish(&self, lease: &Lease, staged: StagedTable) -> Result<CommitRecord> {
        let folder = partition(&self.root, &staged.table, &staged.dt)?;
        let at = folder.child(RECORD);
        lease.check().await?;
        copy_missing(&staged, &folder, &folder.list().await?).await?;
        // On local disk whoever switches or cleans the table is alone in it from here on.
        let _alone = lock_folder(&folder).await?;
        let seen = at.get_versioned().await?;
        let old = match &seen {
            Some((bytes, _)) => Some(CommitRecord::parse(bytes, &at)?),
            None => None,
        };
        let fenced = || {
            Error::new(Kind::Busy, "another run has published this partition since; this one may not any more")
                .with("table", &staged.table)
                .with("dt", &staged.dt)
        };
        if old.as_ref().is_some_and(|r| r.lease_epoch > lease.epoch) {
            return Err(fenced());
        }
        let files = staged
            .files
            .iter()
            .map(|f| CommittedFile { name: f.name.clone(), rows: f.rows, bytes: f.bytes, blake3: f.blake3.clone() })
            .collect();
        let mut record = CommitRecord {
            format: FORMAT,
            table: staged.table.clone(),
            contract_version: staged.contract_version.clone(),
            dt: staged.dt.clone(),
            files,
            fingerprint: staged.stamp.fingerprint.clone(),
            parts: staged.stamp.parts.clone(),
            created_timestamp: staged.stamp.created_timestamp,
            run_id: staged.run_id.clone().unwrap_or_else(|| self.run_id.clone()),
            lease_epoch: lease.epoch,
        };
        let same = old.as_ref().is_some_and(|old| {
            record.files == old.files
                && record.fingerprint == old.fingerprint
                && record.parts == old.parts
                && record.contract_version == old.contract_version
        });
        lease.check().await?;
        if same {
            record = old.unwrap_or(record);
        } else {
            let mut json = serde_json::to_vec_pretty(&record).context(Kind::Internal, || "commit record".into())?;
            json.push(b'\n');
            at.put_if(seen.as_ref().map(|(_, version)| version), Bytes::from(json)).await?;
        }
        // What stands there decides, not the answer: a put that was sent again because its answer got lost is refused.
        if commit_record(&self.root, &staged.table, &staged.dt).await?.as_ref() != Some(&record) {
            return Err(fenced());
        }
        // Another run's cleaning may have taken a file that was there, or that was copied and not yet listed.
        let now = folder.list().await?;
        copy_missing(&staged, &folder, &now).await?;
        // Before anything goes that readers of the log still count on.
        delta_write::follow(&self.root, &staged.table, Some(&staged.schema), self.begins_delta_logs).await?;
        // A run that took over since may be copying: only the lease's holder may remove.
        lease.check().await?;
        remove_unlisted(&now, &record, &folder).await?;
        remove_folder(&staged.location).await?;
        self.remove_empty_folders(&staged.table).await;
        Ok(record)
    }

    /// Folders are a matter of local disks only; one that is not empty stays.
    async fn remove_empty_folders(&self, table: &str) {
        for folder in [self.staging().child(table), self.staging(), self.root.child("_staging")] {
            remove_if_empty(&folder).await;
        }
    }

    /// Removes everything that this run has staged.
    ///
    /// # Errors
    /// The store's.
    pub async fn abort(&self) -> Result<()> {
        remove_folder(&self.staging()).await
    }
}

/// Copies the staged files that are not among `there`, whole, to their published names.
async fn copy_missing(staged: &StagedTable, folder: &Location, there: &[Entry]) -> Result<()> {
    for file in &staged.files {
        let target = folder.child(&file.name);
        if !there.iter().any(|e| e.location == target && e.size == file.bytes) {
            file.location.copy_to(&target).await.map_err(|e| match e.kind() {
                Kind::Input => Error::new(Kind::Temporary, "a staged file is gone")
                    .with("file", &file.location)
                    .hint("`curec gc` takes the files of a run that was paused longer than its lease; run it again"),
                _ => e,
            })?;
        }
    }
    Ok(())
}

/// A file that the commit record lists and that is not there, whole; `None` where the partition is sound.
///
/// # Errors
/// The store's.
pub async fn missing_file(root: &Location, record: &CommitRecord) -> Result<Option<String>> {
    let there = partition(root, &record.table, &record.dt)?.list().await?;
    let is_there = |file: &CommittedFile| there.iter().any(|e| e.location.name() == file.name && e.size == file.bytes);
    Ok(record.files.iter().find(|file| !is_there(file)).map(|file| file.name.clone()))
}

async fn remove_unlisted(before: &[Entry], record: &CommitRecord, folder: &Location) -> Result<usize> {
    let listed: BTreeSet<&str> = record.files.iter().map(|f| f.name.as_str()).collect();
    let mut removed = 0;
    for entry in before {
        let name = entry.location.relative_to(folder).unwrap_or_default();
        if name.ends_with(".parquet") && !name.starts_with('_') && !listed.contains(name.as_str()) {
            entry.location.delete().await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// What `gc` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Staged files of runs that are no more.
    pub staged_files: usize,
    /// Data files that no commit record lists, and torn uploads.
    pub orphans: usize,
    /// Files of the quarantine that had stood there for too long.
    pub quarantined: usize,
    /// Bytes freed.
    pub bytes: u64,
    /// Runs that hold a lease; while there are any, data files stay.
    pub live_runs: Vec<String>,
}

/// Removes what dead runs left: their staged files, data files that no commit record lists, and on local disk the halves
/// of files that they were writing.
///
/// # Errors
/// The store's; a damaged commit record stops it before anything of that partition is removed. Of a table whose Delta log
/// cannot be followed nothing is removed; the first such error comes when everything else is done.
pub async fn gc(root: &Location) -> Result<GcReport> {
    // Looked at before the leases: what a run that begins now is staging is not among it.
    let staging = root.child("_staging");
    let staged = staging.list().await?;
    let run_of = |e: &Entry| e.location.relative_to(&staging).unwrap_or_default().split('/').next().map(str::to_owned);
    let mut runs: BTreeSet<String> = staged.iter().filter_map(run_of).collect();
    runs.extend(folders_in(&staging).await);
    let mut watch = Watch::new(root);
    let mut report = GcReport { live_runs: watch.live_runs().await?, ..GcReport::default() };
    for entry in staged.iter().filter(|e| run_of(e).is_some_and(|run| !report.live_runs.contains(&run))) {
        entry.location.delete().await?;
        report.staged_files += 1;
        report.bytes += entry.size;
    }
    for run in runs.iter().filter(|run| !report.live_runs.contains(run)) {
        remove_folder(&staging.child(run)).await?;
    }
    remove_if_empty(&staging).await;
    if !report.live_runs.is_empty() {
        return Ok(report);
    }
    let mut folders: BTreeMap<(String, String), Vec<Entry>> = BTreeMap::new();
    for entry in root.list().await? {
        let relative = entry.location.relative_to(root).unwrap_or_default();
        let parts: Vec<&str> = relative.split('/').collect();
        if let [table, dt, name] = parts[..]
            && let Some(dt) = dt.strip_prefix("dt=")
            && !table.starts_with(['_', '.'])
            && name.starts_with("part-")
        {
            folders.entry((table.to_owned(), dt.to_owned())).or_default().push(entry);
        }
    }
    let tables: BTreeSet<&String> = folders.keys().map(|(table, _)| table).collect();
    let (mut left_out, mut unfollowed) = (BTreeSet::new(), None);
    for table in tables {
        // A run may have died between its commit and the log's version: no log may name what goes now.
        match delta_write::follow(root, table, None, false).await {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), Kind::Config | Kind::Input) => {
                tracing::warn!(table, error = %e, "the files of this table stay: its Delta log cannot be followed");
                left_out.insert(table.clone());
                unfollowed = unfollowed.or(Some(e));
            }
            Err(e) => return Err(e),
        }
    }
    for ((table, dt), entries) in folders {
        if check_dt(&dt).is_err() || left_out.contains(&table) {
            continue;
        }
        let _alone = lock_folder(&partition(root, &table, &dt)?).await?;
        let record = commit_record(root, &table, &dt).await?;
        let listed: BTreeSet<String> =
            record.map(|r| r.files.into_iter().map(|f| f.name).collect()).unwrap_or_default();
        for entry in entries {
            if listed.contains(entry.location.name()) {
                continue;
            }
            // A run may have begun since: its copied files are not yet listed.
            if !watch.live_runs().await?.is_empty() {
                return Ok(report);
            }
            entry.location.delete().await?;
            report.orphans += 1;
            report.bytes += entry.size;
        }
    }
    for (path, size) in torn_uploads(root).await? {
        // As above; and what a live run is writing now was not there when the torn ones were looked for.
        if !watch.live_runs().await?.is_empty() {
            return Ok(report);
        }
        if tokio::fs::remove_file(path).await.is_ok() {
            report.orphans += 1;
            report.bytes += size;
        }
    }
    match unfollowed {
        Some(e) => Err(e),
        None => Ok(report),
    }
}

/// Removes a folder of a local disk that holds nothing.
async fn remove_if_empty(folder: &Location) {
    if let Some(path) = folder.local_path() {
        let _ = tokio::fs::remove_dir(path).await;
    }
}

/// The names of folders directly below a local one, which the listing of a store leaves out where they hold no file.
async fn folders_in(folder: &Location) -> Vec<String> {
    let Some(path) = folder.local_path() else { return Vec::new() };
    let Ok(mut entries) = tokio::fs::read_dir(path).await else { return Vec::new() };
    let mut names = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names
}

/// The runs that hold a lease now.
///
/// # Errors
/// `Kind::Input` for a damaged lease; the store's.
pub async fn live_runs(root: &Location) -> Result<Vec<String>> {
    Watch::new(root).live_runs().await
}

/// Looks again and again whether a run is live. A lease that is over stays over until someone writes it, which its tag
/// tells: after the first look, one listing does where nothing has changed, however many leases there are.
struct Watch<'a> {
    root: &'a Location,
    /// Tags of leases that were over, by location.
    over: BTreeMap<String, String>,
}

impl<'a> Watch<'a> {
    fn new(root: &'a Location) -> Self {
        Watch { root, over: BTreeMap::new() }
    }

    /// As [`live_runs`].
    async fn live_runs(&mut self) -> Result<Vec<String>> {
        let mut entries = self.root.child("_leases").list().await?;
        entries.retain(|e| e.e_tag.is_none() || self.over.get(e.location.url()) != e.e_tag.as_ref());
        let read = |entry: Entry| async move {
            let Some(bytes) = entry.location.get().await? else { return Ok(None) };
            let state = read_lease(&bytes, &entry.location)?;
            Ok::<_, Error>(Some((entry, state)))
        };
        let states: Vec<_> = stream::iter(entries).map(read).buffered(AT_ONCE).try_collect().await?;
        let mut runs = Vec::new();
        for (entry, state) in states.into_iter().flatten() {
            match (is_live(&state), entry.e_tag) {
                (true, _) => runs.push(state.holder.run_id),
                // What was read may be newer than its tag: then the next listing has another one.
                (false, Some(tag)) => _ = self.over.insert(entry.location.url().to_owned(), tag),
                (false, None) => {}
            }
        }
        Ok(runs)
    }
}
