//! Forgetting users (privacy requests): their rows vanish from every table, from the answers that only they caused,
//! from what dead runs left, from the quarantine and from the reports.
//!
//! The answers go first, because the tables tell whose they are. Then every day is rewritten under its lease: all of its
//! tables are staged and audited in the order in which they are made, so that each one's record can name what the tables
//! before it will hold, and published in the opposite order. Dying anywhere and running again completes it: a table that
//! is published already fits the ones before it once these are rewritten, since the same rows give the same bytes.
//! Fingerprints stay, so the next plan has nothing to do.
//!
//! User ids are data, compared byte for byte; they never become part of SQL, and the manifest holds only their digests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use arrow::array::Array;
use chrono::Utc;
use futures::{StreamExt, TryStreamExt};

use crate::columns::at;
use crate::config::{Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::job::compact;
use crate::job::manifest::{Forgotten, Manifest, TableRecord};
use crate::job::record::now;
use crate::job::scrub::{QUARANTINES, Scrub};
use crate::job::tables::{TABLES, content, contract_of, files_in, locate, new_session, rows_of, upstream};
use crate::query::audit::audit;
use crate::query::session::{Param, TableFile};
use crate::table::contract::Contract;
use crate::table::filter::{count_matching, read_texts, rows_without};
use crate::table::input::{InputTable, open_input};
use crate::table::lease::{Held, Holder, Lease};
use crate::table::partition::{self, CommitRecord, Publisher, StagedTable, commit_record, live_runs, partitions};
use crate::table::segment::{self, segments};
use crate::table::store::{Entry, Location};
use crate::table::write::{StagedFile, Stamp};

/// Files read at once while looking for a user.
const FILES_AT_ONCE: usize = 16;

/// What to forget, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The user ids, exactly as they stand in the tables.
    pub users: BTreeSet<String>,
    /// Only say what would go.
    pub dry_run: bool,
    /// Remove also the answers whose prompts stand in no partition: nobody can tell whose they were.
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
    /// Where the manifest is.
    pub manifest: Option<Location>,
    /// What the caller has to know, one sentence each.
    pub warnings: Vec<String>,
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
        match &self.manifest {
            Some(manifest) => writeln!(f, "manifest: {manifest}"),
            None => writeln!(f, "nothing was changed; files that dead runs left would be removed as well"),
        }
    }
}

/// Forgets users.
///
/// # Errors
/// [`Kind::Busy`] naming the run while any run is live; [`Kind::Usage`] without a user; [`Kind::Audit`] when what stays of
/// a table breaks its contract; [`Kind::Input`] for damaged files; the store's. Running it again completes it.
pub async fn forget(job: &Job, options: &Options) -> Result<Done> {
    if options.users.is_empty() || options.users.contains("") {
        return Err(Error::new(Kind::Usage, "a user id is missing or empty").hint("name it with --user-id"));
    }
    let started = (Instant::now(), now());
    let root = locate(job, &job.spec.warehouse)?;
    let mut contracts = BTreeMap::new();
    for table in TABLES.iter().chain(&["interaction", "review", "response"]) {
        contracts.insert(table.to_string(), contract_of(job, table)?);
    }
    let run_id = format!("forget-{}-{}", Utc::now().format("%Y%m%dT%H%M%S%3fZ"), std::process::id());
    let work = Work { job, options, root, contracts, run_id };
    refuse_live(live_runs(&work.root).await?)?;
    let days = work.days().await?;
    let mut done = Done { dry_run: options.dry_run, users: options.users.len(), ..Done::default() };
    for (table, rows) in days.values().flatten() {
        let sum = done.rows.entry(table.clone()).or_default();
        *sum = (sum.0 + rows, sum.1 + 1);
    }
    done.forgotten.inputs = work.inputs(&mut done.warnings).await?;
    if options.dry_run {
        work.look(&mut done).await?;
        return Ok(done);
    }
    let leases = days.keys().map(|dt| format!("dt={dt}")).chain([compact::LEASE.to_string()]);
    let ttl = Duration::from_secs_f64(job.spec.publish.lease_seconds);
    let held = Held::acquire(&work.root, leases, &Holder::here(&work.run_id), ttl).await?;
    let outcome = work.under_lease(&held, &days, &mut done).await;
    held.release().await;
    let tables = outcome?;
    let garbage = partition::gc(&work.root).await?;
    done.garbage = garbage.staged_files + garbage.orphans;
    if !garbage.live_runs.is_empty() {
        let runs = garbage.live_runs.join(", ");
        done.warnings
            .push(format!("{runs} began meanwhile: run `curec gc` when it has ended, files of dead runs stay"));
    }
    done.manifest = Some(work.write_manifest(started, tables, &mut done).await?);
    Ok(done)
}

fn refuse_live(runs: Vec<String>) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Busy, format!("{} is working on this warehouse", runs.join(", ")))
        .hint("nothing was changed; run the same command again when it has ended"))
}

/// Rows to remove by table, of one day.
type Counts = BTreeMap<String, u64>;

struct Work<'a> {
    job: &'a Job,
    options: &'a Options,
    root: Location,
    contracts: BTreeMap<String, Contract>,
    run_id: String,
}

impl Work<'_> {
    /// The derived tables whose contracts have all of these columns.
    fn tables_with(&self, columns: &[&str]) -> impl Iterator<Item = &'static str> {
        TABLES.into_iter().filter(|table| columns.iter().all(|c| self.contracts[*table].column(c).is_some()))
    }

    fn scrub(&self) -> Scrub<'_> {
        Scrub { root: &self.root, users: &self.options.users, is_dry: self.options.dry_run }
    }

    /// The days that hold rows of the users, and how many by table.
    async fn days(&self) -> Result<BTreeMap<String, Counts>> {
        let mut files = Vec::new();
        for table in self.tables_with(&["user_id"]) {
            for record in partitions(&self.root, table).await? {
                let folder = partition::partition(&self.root, table, &record.dt)?;
                let place = |name: &str, bytes| (table, record.dt.clone(), folder.child(name), bytes);
                files.extend(record.files.iter().map(|f| place(&f.name, f.bytes)));
            }
        }
        let mut counted = futures::stream::iter(files.into_iter().map(|(table, dt, file, bytes)| async move {
            let n = count_matching(&file, bytes, "user_id", &self.options.users).await?;
            Ok::<_, Error>((table, dt, n))
        }))
        .buffer_unordered(FILES_AT_ONCE);
        let mut days: BTreeMap<String, Counts> = BTreeMap::new();
        while let Some((table, dt, n)) = counted.try_next().await? {
            if n > 0 {
                *days.entry(dt).or_default().entry(table.to_string()).or_default() += n;
            }
        }
        Ok(days)
    }

    /// Input tables that still hold rows of the users.
    async fn inputs(&self, warnings: &mut Vec<String>) -> Result<Vec<String>> {
        let input = &self.job.spec.input;
        let mut naming = Vec::new();
        for (table, text) in [("interaction", &input.interaction), ("review", &input.review)] {
            if text.is_empty() {
                continue;
            }
            let found = match open_input(&self.contracts[table], &locate(self.job, text)?).await {
                Ok(found) => found,
                Err(e) => {
                    warnings.push(format!(
                        "the input {table} could not be looked at ({e}): make sure it does not bring the users back"
                    ));
                    continue;
                }
            };
            let source = found.columns.iter().find(|c| c.name == "user_id").and_then(|c| c.source.as_deref());
            let mut rows = 0;
            for file in &found.files {
                rows += count_matching(&file.location, file.bytes, source.unwrap_or("user_id"), &self.options.users)
                    .await?;
            }
            if rows > 0 {
                naming.push(table.to_string());
                warnings.push(format!(
                    "the input {table} still holds {rows} row(s) of the users: the next run that reads them brings them \
                     back until the input is mended"
                ));
            }
        }
        Ok(naming)
    }

    /// Fills in what a dry run has to tell besides the tables.
    async fn look(&self, done: &mut Done) -> Result<()> {
        let keys = self.prompt_keys().await?;
        let mut answers = 0;
        for entry in segments(&self.root, "response").await? {
            answers += count_matching(&entry.location, entry.size, "prompt_key", &keys).await?;
        }
        done.rows.insert("response".to_string(), (answers, 0));
        self.scrub().quarantine(&mut done.forgotten).await?;
        self.scrub().runs(&mut done.forgotten).await
    }

    /// Everything that needs the leases; returns the partitions that were rewritten.
    async fn under_lease(
        &self,
        held: &Held,
        days: &BTreeMap<String, Counts>,
        done: &mut Done,
    ) -> Result<Vec<TableRecord>> {
        refuse_live(live_runs(&self.root).await?.into_iter().filter(|run| *run != self.run_id).collect())?;
        if self.days().await? != *days {
            return Err(Error::new(Kind::Busy, "another run has published meanwhile; nothing was changed")
                .hint("run the same command again"));
        }
        let keys = self.prompt_keys().await?;
        let publisher = Publisher::new(self.root.clone(), &self.run_id);
        let contract = &self.contracts["response"];
        // No reader holds a lease now: what merged segments stand for may go, and must, since it names answers.
        segment::remove_replaced(&self.root, "response", |_| true).await?;
        let staging = publisher.staging().child("response");
        let (answers, _) = segment::remove_rows(&self.root, contract, &staging, "prompt_key", &keys).await?;
        done.rows.insert("response".to_string(), (answers, 0));
        let mut tables = Vec::new();
        for (dt, counts) in days {
            held.check().await?;
            tables.extend(self.rewrite(dt, counts, held.get(&format!("dt={dt}"))?, &publisher).await?);
        }
        self.scrub().quarantine(&mut done.forgotten).await?;
        self.scrub().runs(&mut done.forgotten).await?;
        Ok(tables)
    }

    /// Keys of prompts that are the users' and nobody else's.
    async fn prompt_keys(&self) -> Result<BTreeSet<String>> {
        let columns = ["user_id", "prompt_key"];
        let (mut published, mut left) = (Vec::new(), Vec::new());
        for table in self.tables_with(&columns) {
            for record in partitions(&self.root, table).await? {
                let folder = partition::partition(&self.root, table, &record.dt)?;
                published.extend(record.files.iter().map(|f| (folder.child(&f.name), f.bytes)));
            }
            // What a dead run had staged, or an audit kept out, was asked all the same.
            for folder in ["_staging", QUARANTINES[0]] {
                let is_of = |e: &Entry| e.location.url().contains(&format!("/{table}/dt="));
                let found = self.root.child(folder).list().await?;
                left.extend(found.into_iter().filter(|e| is_of(e) && e.location.name().ends_with(".parquet")));
            }
        }
        let mut keys = BTreeSet::new();
        let is_theirs = |user: Option<&str>| user.is_some_and(|user| self.options.users.contains(user));
        for (file, bytes) in &published {
            each_pair(file, *bytes, |user, key| _ = is_theirs(user) && keys.insert(key.to_string())).await?;
        }
        for file in left {
            // A torn file of a dead run tells nothing, and goes anyway.
            let found =
                each_pair(&file.location, file.size, |user, key| _ = is_theirs(user) && keys.insert(key.to_string()));
            if let Err(e) = found.await
                && e.kind() != Kind::Input
            {
                return Err(e);
            }
        }
        let mut others = BTreeSet::new();
        if !keys.is_empty() || self.options.unlinked {
            for (file, bytes) in &published {
                each_pair(file, *bytes, |user, key| {
                    if !is_theirs(user) && (self.options.unlinked || keys.contains(key)) {
                        others.insert(key.to_string());
                    }
                })
                .await?;
            }
        }
        if self.options.unlinked {
            for entry in segments(&self.root, "response").await? {
                let Some(mut rows) = read_texts(&entry.location, entry.size, &["prompt_key"]).await? else { continue };
                while let Some(texts) = rows.try_next().await? {
                    keys.extend(texts.iter().flatten().flatten().map(str::to_string));
                }
            }
        }
        Ok(&keys - &others)
    }

    /// Rewrites one day without the users.
    async fn rewrite(
        &self,
        dt: &str,
        counts: &Counts,
        lease: &Lease,
        publisher: &Publisher,
    ) -> Result<Vec<TableRecord>> {
        let session = new_session(self.job)?;
        // What each table held and what it will hold.
        let mut held: BTreeMap<&str, [String; 2]> = BTreeMap::new();
        let mut staged = Vec::new();
        for table in TABLES {
            let Some(record) = commit_record(&self.root, table, dt).await? else { continue };
            let contract = &self.contracts[table];
            let mut parts = record.parts.clone();
            for name in upstream(table) {
                if let (Some(known), Some([was, is])) = (parts.get_mut(&rows_of(name)), held.get(name))
                    && known == was
                {
                    known.clone_from(is);
                }
            }
            let is_moved = parts != record.parts;
            let was = content(record.files.iter().map(|f| f.blake3.as_str()));
            let stamp =
                Stamp { fingerprint: record.fingerprint.clone(), parts, created_timestamp: record.created_timestamp };
            let n = counts.get(table).copied().unwrap_or(0);
            let new = match n {
                0 => self.as_it_stands(&record, stamp, publisher)?,
                _ => self.stage(contract, &record, &stamp, publisher).await?,
            };
            let files: Vec<TableFile> = match n {
                0 => files_in(&self.root, &record)?,
                _ => new.files.iter().map(|f| f.location.clone().into()).collect(),
            };
            // Those that stay as well: audits may look at the tables before theirs.
            session.register_files(table, contract, &files).await?;
            held.insert(table, [was, content(new.files.iter().map(|f| f.blake3.as_str()))]);
            if n > 0 {
                audit(&session, contract, table, &moments(&record), None).await?.into_result()?;
            }
            if n > 0 || is_moved {
                staged.push((n, new));
            }
        }
        let mut done = Vec::new();
        for (n, table) in staged.into_iter().rev() {
            let record = publisher.publish(lease, table).await?;
            tracing::info!(table = record.table, dt, rows = n, "forgotten");
            if n > 0 {
                done.push(TableRecord {
                    table: record.table.clone(),
                    dt: dt.to_string(),
                    action: "rewritten".into(),
                    rows: record.rows(),
                    bytes: record.files.iter().map(|f| f.bytes).sum(),
                    files: record.files.iter().map(|f| f.name.clone()).collect(),
                    fingerprint: record.fingerprint.clone(),
                    ..TableRecord::default()
                });
            }
        }
        done.reverse();
        Ok(done)
    }

    /// Stages a partition's rows without the users'.
    async fn stage(
        &self,
        contract: &Contract,
        record: &CommitRecord,
        stamp: &Stamp,
        publisher: &Publisher,
    ) -> Result<StagedTable> {
        let mut tables: Vec<InputTable> = Vec::new();
        for file in files_in(&self.root, record)? {
            tables.push(open_input(contract, &file.location).await?);
        }
        let rows = rows_without(contract, &tables, "user_id", &self.options.users);
        publisher.stage(contract, &record.dt, stamp, rows).await
    }

    /// A partition whose files stay, to be published with another stamp.
    fn as_it_stands(&self, record: &CommitRecord, stamp: Stamp, publisher: &Publisher) -> Result<StagedTable> {
        let folder = partition::partition(&self.root, &record.table, &record.dt)?;
        let file = |f: &partition::CommittedFile| StagedFile {
            location: folder.child(&f.name),
            name: f.name.clone(),
            rows: f.rows,
            bytes: f.bytes,
            blake3: f.blake3.clone(),
        };
        Ok(StagedTable {
            table: record.table.clone(),
            contract_version: record.contract_version.clone(),
            dt: record.dt.clone(),
            // Nothing lies there: publishing removes the folder that it names.
            location: publisher.staging().child(&record.table).child(&format!("dt={}", record.dt)),
            files: record.files.iter().map(file).collect(),
            rows: record.rows(),
            schema: self.contracts[&record.table].arrow_schema(None),
            stamp,
        })
    }

    async fn write_manifest(
        &self,
        (started, started_at): (Instant, String),
        tables: Vec<TableRecord>,
        done: &mut Done,
    ) -> Result<Location> {
        let digest = |user: &String| blake3::hash(user.as_bytes()).to_hex().to_string();
        let users: BTreeSet<String> = self.options.users.iter().map(digest).collect();
        done.forgotten.users = users.into_iter().collect();
        done.forgotten.rows = done.rows.iter().map(|(table, (rows, _))| (table.clone(), *rows)).collect();
        let here = Holder::here(&self.run_id);
        let manifest = Manifest {
            format: 1,
            curec: format!("curec {}", env!("CARGO_PKG_VERSION")),
            run_id: self.run_id.clone(),
            job: self.job.spec.name.clone(),
            job_file: self.job.origin.clone(),
            status: "forgotten".into(),
            started_at,
            finished_at: now(),
            seconds: started.elapsed().as_secs_f64(),
            host: here.host,
            pid: here.pid,
            tables,
            forgotten: Some(done.forgotten.clone()),
            ..Manifest::default()
        };
        let text =
            serde_json::to_string_pretty(&manifest).context(Kind::Internal, || "the manifest is not JSON".into())?;
        let location = self.root.child("_runs").child(&self.run_id).child("manifest.json");
        location.put(text.into()).await?;
        Ok(location)
    }
}

/// Hands every (user, prompt) of a file to `take`. A file without these columns has none.
async fn each_pair(file: &Location, bytes: u64, mut take: impl FnMut(Option<&str>, &str)) -> Result<()> {
    let Some(mut rows) = read_texts(file, bytes, &["user_id", "prompt_key"]).await? else { return Ok(()) };
    while let Some(texts) = rows.try_next().await? {
        let [users, keys] = &texts[..] else { continue };
        for i in 0..keys.len() {
            if let Some(key) = at(keys, i) {
                take(at(users, i), key);
            }
        }
    }
    Ok(())
}

/// The moments that audits may ask for, as the partition's record tells them.
fn moments(record: &CommitRecord) -> Vec<(&'static str, Param)> {
    let interval = record.parts.get("interval").and_then(|text| text.split_once('/'));
    let Some(interval) = interval.and_then(|(start, end)| Interval::parse(start, end).ok()) else { return Vec::new() };
    let moment = |t: chrono::DateTime<Utc>| Param::Timestamp(t.timestamp_micros());
    vec![
        ("interval_start", moment(interval.start)),
        ("interval_end", moment(interval.end)),
        ("as_of", moment(interval.end)),
    ]
}
