//! Forgetting users (privacy requests): their rows vanish from every table, from the answers that only they caused,
//! from what dead runs left, from the quarantine and from the reports.
//!
//! Before anything goes, everything is tried: every file is read, and all days that hold rows of the users are staged
//! without them, under their leases. What cannot be done is refused then, with the warehouse as it was. Nothing of it
//! runs a contract's audits or its rules for values: what stays are rows that passed them when they were published, and
//! an audit may read inputs that are gone. The rows are counted instead.
//!
//! Then the answers go, because the tables tell whose they are; then each day is published, its tables in the opposite
//! order of that in which they are made, so that each one's record can name what the tables before it will hold. Dying
//! anywhere and running again completes it: a table that is published already fits the ones before it once these are
//! rewritten, since the same rows give the same bytes. Fingerprints stay, so the next plan has nothing to do.
//!
//! Rows about items and pairs that hold sentences of the users' reviews go as well ([`tellers`]). Prompts alone tell which
//! these are, and of these tables they are published last; files for people are seen to before.
//!
//! User ids are data, compared byte for byte; they never become part of SQL, and manifests hold only keyed digests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use arrow::array::Array;
use chrono::Utc;
use futures::{StreamExt, TryStreamExt};

use crate::columns::at;
use crate::config::Job;
use crate::error::{Context, Error, Kind, Result};
use crate::night::graph::{Graph, RESPONSE};
use crate::night::made_from::rows_of;
use crate::night::manifest::{Forgotten, Manifest, TableRecord};
use crate::night::record::now;
use crate::night::tables::{content, files_in, inputs_of, locate};
use crate::operate::compact;
use crate::operate::pseudonym::Pseudonyms;
use crate::operate::scrub::{QUARANTINES, Scrub};
use crate::operate::tellers::{self, TELLING, Told};
use crate::table::contract::{self, Contract};
use crate::table::filter::{count_each, count_matching, read_texts, rows_without};
use crate::table::input::{InputTable, open_input};
use crate::table::lease::{Held, Holder};
use crate::table::parquet_file::open_parquet;
use crate::table::partition::{self, CommitRecord, Publisher, StagedTable, live_runs, partitions};
use crate::table::segment::{self, segments};
use crate::table::source::{Source, source_of};
use crate::table::store::{Entry, Location};
use crate::table::traffic::traffic;
use crate::table::write::{StagedFile, Stamp};

/// Files read at once while looking for a user.
const FILES_AT_ONCE: usize = 16;

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

/// Forgets users.
///
/// # Errors
/// [`Kind::Busy`] naming the run while any run is live; [`Kind::Usage`] without a user; [`Kind::Input`] for damaged files
/// and for partitions that their contract does not fit any more; the store's. Nothing was changed by any of them but the
/// store's, and running it again completes it.
pub async fn forget(job: &Job, options: &Options) -> Result<Done> {
    if options.users.is_empty() || options.users.contains("") {
        return Err(Error::new(Kind::Usage, "a user id is missing or empty").hint("name it with --user-id"));
    }
    let (started, traffic_before) = ((Instant::now(), now()), traffic());
    let root = locate(job, &job.spec.warehouse)?;
    let graph = Graph::of(job)?;
    let run_id = format!("forget-{}-{}", Utc::now().format("%Y%m%dT%H%M%S%3fZ"), std::process::id());
    let trimmed = options.users.iter().map(|user| trimmed(user).to_owned()).filter(|user| !user.is_empty());
    let looked_for = options.users.iter().cloned().chain(trimmed).collect();
    let work = Work { job, options, root, graph, run_id, looked_for };
    refuse_live(live_runs(&work.root).await?)?;
    work.refuse_unknown_tables().await?;
    let standing = work.standing().await?;
    let mut found = BTreeSet::new();
    let told = work.told(&standing, &mut found).await?;
    let mut days = work.days(&standing, &mut found).await?;
    work.count_told(&standing, &told, &mut days).await?;
    let going = Going { days, told };
    let mut done = Done { dry_run: options.dry_run, users: options.users.len(), ..Done::default() };
    for (table, rows) in going.days.values().flatten() {
        let sum = done.rows.entry(table.clone()).or_default();
        *sum = (sum.0 + rows, sum.1 + 1);
    }
    done.warnings.extend(work.tables_without_user_id());
    done.warnings.extend(work.tables_of_sentences(&going.told));
    done.warnings.extend(going.told.warning());
    done.forgotten.inputs = work.inputs(&mut found, &mut done.warnings).await;
    let keys = work.prompt_keys(&standing, &going.told, &mut found).await?;
    // Also where it is done: what cannot be read is found out now.
    work.look(&keys, &going.told, &mut found, &mut done).await?;
    let before = work.forgotten_before().await?;
    let pseudonyms = Pseudonyms::find(&work.root).await?;
    done.unmatched = work.unmatched(&found, &before, pseudonyms.as_ref(), &mut done.warnings);
    if options.dry_run {
        return Ok(done);
    }
    // First the one that every other `forget` wants too.
    let leases = [compact::LEASE.to_string()].into_iter().chain(going.days.keys().map(|dt| format!("dt={dt}")));
    let ttl = Duration::from_secs_f64(job.spec.publish.lease_seconds);
    let held = Held::acquire(&work.root, leases, &Holder::here(&work.run_id), ttl).await?;
    let mut manifest = work.manifest(started.1);
    let outcome = work.under_lease(&held, &standing, &going, &before, &mut manifest, &mut done).await;
    held.release().await;
    if outcome.is_err() {
        // What was staged names nobody who is to be forgotten; a failure to remove it must not hide the cause.
        if let Err(e) = Publisher::new(work.root.clone(), &work.run_id).abort().await {
            tracing::warn!(error = %e, "staged files stay until `curec gc`");
        }
    }
    outcome?;
    let garbage = partition::gc(&work.root).await?;
    done.garbage = garbage.staged_files + garbage.orphans;
    if !garbage.live_runs.is_empty() {
        let runs = garbage.live_runs.join(", ");
        done.warnings
            .push(format!("{runs} began meanwhile: run `curec gc` when it has ended, files of dead runs stay"));
    }
    manifest.status = "forgotten".into();
    manifest.finished_at = now();
    manifest.seconds = started.0.elapsed().as_secs_f64();
    manifest.store = traffic().since(traffic_before);
    manifest.forgotten = Some(done.forgotten.clone());
    done.manifest = Some(work.write(&manifest).await?);
    Ok(done)
}

/// An id without what people and programs add to it and do not see.
fn trimmed(user: &str) -> &str {
    user.trim_matches(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}')
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

/// What goes.
struct Going {
    days: BTreeMap<String, Counts>,
    told: Told,
}

/// The commit records of all days, by table.
type Standing = BTreeMap<String, BTreeMap<String, CommitRecord>>;

/// A manifest of an earlier `forget`, and what it says.
struct Before {
    at: Location,
    manifest: Manifest,
    forgotten: Forgotten,
}

struct Work<'a> {
    job: &'a Job,
    options: &'a Options,
    root: Location,
    graph: Graph,
    run_id: String,
    /// The ids, and what they are without blanks: to say that the latter would have been found.
    looked_for: BTreeSet<String>,
}

impl Work<'_> {
    /// The derived tables whose contracts have all of these columns.
    fn tables_with(&self, columns: &[&str]) -> Vec<&str> {
        let has_all = |table: &&str| {
            self.graph.contract(table).is_ok_and(|contract| columns.iter().all(|c| contract.column(c).is_some()))
        };
        self.graph.published().filter(has_all).collect()
    }

    /// A warning for each published table of the job's own in which nobody is looked for.
    fn tables_without_user_id(&self) -> Vec<String> {
        let is_own = |table: &&str| !contract::builtin_names().any(|known| known == *table);
        let with_user_id = self.tables_with(&["user_id"]);
        let unread = self.graph.published().filter(is_own).filter(|table| !with_user_id.contains(table));
        let warning = |table| {
            format!("the table {table} has no column user_id: if it names users in another way, their rows stay")
        };
        unread.map(warning).collect()
    }

    /// A warning for each published table of the job's own that may hold sentences which go elsewhere.
    fn tables_of_sentences(&self, told: &Told) -> Vec<String> {
        let is_own = |table: &&str| !contract::builtin_names().any(|known| known == *table);
        let is_made_of_it = |table: &&str| self.graph.upstream(table).iter().any(|read| TELLING.contains(read));
        let own = self.graph.published().filter(|_| !told.items().is_empty()).filter(is_own).filter(is_made_of_it);
        let warning = |table| {
            format!(
                "the table {table} is made from prompts about items and pairs or what followed them: if it holds what the users \
                 wrote in reviews, that stays until its days are built again"
            )
        };
        own.map(warning).collect()
    }

    /// Refuses a warehouse with tables that the job does not define: rows of the users may stand in them.
    async fn refuse_unknown_tables(&self) -> Result<()> {
        let known: BTreeSet<&str> = self.graph.published().collect();
        let published = partition::tables(&self.root).await?;
        let unknown: Vec<&str> = published.iter().map(String::as_str).filter(|table| !known.contains(table)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Config,
            format!("the warehouse holds tables that this job does not define: {}", unknown.join(", ")),
        )
        .with("warehouse", &self.root)
        .hint(
            "nothing was removed; rows of the users may stand in them. Use the job file that publishes them, or bring \
                 their contracts and SQL back into [project] schemas and sql, or remove their folders",
        ))
    }

    /// Everything that is published.
    async fn standing(&self) -> Result<Standing> {
        let mut standing = Standing::new();
        for table in self.graph.published() {
            for record in partitions(&self.root, table).await? {
                standing.entry(record.dt.clone()).or_default().insert(table.to_owned(), record);
            }
        }
        Ok(standing)
    }

    /// The published files of the tables that have these columns, with table and day.
    fn files(&self, standing: &Standing, columns: &[&str]) -> Result<Vec<(&str, String, Location, u64)>> {
        let mut files = Vec::new();
        for table in self.tables_with(columns) {
            for record in standing.values().filter_map(|day| day.get(table)) {
                let folder = partition::partition(&self.root, table, &record.dt)?;
                let place = |f: &partition::CommittedFile| (table, record.dt.clone(), folder.child(&f.name), f.bytes);
                files.extend(record.files.iter().map(place));
            }
        }
        Ok(files)
    }

    /// The days that hold rows of the users, and how many by table.
    async fn days(&self, standing: &Standing, found: &mut BTreeSet<String>) -> Result<BTreeMap<String, Counts>> {
        let files = self.files(standing, &["user_id"])?;
        let mut counted = futures::stream::iter(files.into_iter().map(|(table, dt, file, bytes)| async move {
            let each = count_each(&file, bytes, "user_id", &self.looked_for).await?;
            Ok::<_, Error>((table, dt, each))
        }))
        .buffer_unordered(FILES_AT_ONCE);
        let mut days: BTreeMap<String, Counts> = BTreeMap::new();
        while let Some((table, dt, each)) = counted.try_next().await? {
            let n: u64 = each.iter().filter(|(user, _)| self.options.users.contains(*user)).map(|(_, n)| n).sum();
            found.extend(each.into_keys());
            if n > 0 {
                *days.entry(dt).or_default().entry(table.to_string()).or_default() += n;
            }
        }
        Ok(days)
    }

    /// The items of whose prompts the users are tellers.
    async fn told(&self, standing: &Standing, found: &mut BTreeSet<String>) -> Result<Told> {
        let mut told = Told::default();
        for (table, dt, file, bytes) in self.files(standing, &["item_id"])? {
            if table == tellers::PROMPTS {
                let find = |user: &str| found.extend(self.looked_for.get(user).cloned());
                told.read(&dt, &file, bytes, &self.options.users, find).await?;
            }
        }
        Ok(told)
    }

    /// Adds the rows that hold something of what the users told and are not their own.
    async fn count_told(&self, standing: &Standing, told: &Told, days: &mut BTreeMap<String, Counts>) -> Result<()> {
        for (table, dt, file, bytes) in self.files(standing, &["item_id"])? {
            let Some(items) = told.of(table, &dt) else { continue };
            let n = tellers::count_others(&file, bytes, &self.options.users, items).await?;
            if n > 0 {
                *days.entry(dt).or_default().entry(table.to_owned()).or_default() += n;
            }
        }
        Ok(())
    }

    /// Input tables that still hold rows of the users. One that cannot be read is told and keeps nothing from going.
    async fn inputs(&self, found: &mut BTreeSet<String>, warnings: &mut Vec<String>) -> Vec<String> {
        let mut naming = Vec::new();
        for (table, text) in inputs_of(self.job) {
            if self.graph.contract(table).is_ok_and(|contract| contract.column("user_id").is_none()) {
                continue;
            }
            match self.rows_in_input(table, text, found).await {
                Ok(0) => {}
                Ok(rows) => {
                    naming.push(table.to_string());
                    warnings.push(format!(
                        "the input {table} still holds {rows} row(s) of the users: the next run that reads them brings \
                         them back until they are removed from the input"
                    ));
                }
                Err(e) => warnings.push(format!(
                    "the input {table} could not be looked at ({e}): make sure it does not bring the users back"
                )),
            }
        }
        naming
    }

    async fn rows_in_input(&self, table: &str, text: &str, found: &mut BTreeSet<String>) -> Result<u64> {
        let contract = self.graph.contract(table)?;
        let input = open_input(contract, &locate(self.job, text)?).await?;
        let mut rows = 0;
        for file in &input.files {
            let builder = open_parquet(&file.location, file.bytes).await?;
            let source = contract.column("user_id").and_then(|c| source_of(c, builder.schema(), &file.partition));
            match source {
                Some(Source::Field(field)) => {
                    let each = count_each(&file.location, file.bytes, field.name(), &self.looked_for).await?;
                    let users = each.iter().filter(|(user, _)| self.options.users.contains(*user));
                    rows += users.map(|(_, n)| n).sum::<u64>();
                    found.extend(each.into_keys());
                }
                Some(Source::Path(Some(user))) => {
                    rows += if self.options.users.contains(&user) { file.rows } else { 0 };
                    found.extend(self.looked_for.get(&user).cloned());
                }
                _ => {}
            }
        }
        Ok(rows)
    }

    /// What there is besides the tables: answers, the quarantine, files of runs. Reads all of it, changes nothing.
    async fn look(
        &self,
        keys: &BTreeSet<String>,
        told: &Told,
        found: &mut BTreeSet<String>,
        done: &mut Done,
    ) -> Result<()> {
        let contract = self.graph.contract(RESPONSE)?;
        let mut answers = 0;
        for entry in segment::Segments::find(&self.root, "response").await?.all {
            let n = count_matching(&entry.location, entry.size, "prompt_key", keys).await?;
            if n > 0 {
                open_input(contract, &entry.location).await.map_err(unfit)?;
            }
            answers += n;
        }
        done.rows.insert("response".to_string(), (answers, 0));
        let scrub = Scrub::new(&self.root, &self.options.users, told, true);
        let mut looked = Forgotten::default();
        scrub.quarantine(&mut looked).await?;
        scrub.runs(&mut looked).await?;
        found.extend(scrub.into_found());
        if done.dry_run {
            let inputs = std::mem::take(&mut done.forgotten.inputs);
            done.forgotten = Forgotten { inputs, ..looked };
        }
        Ok(())
    }

    /// What earlier runs of `forget` say in their manifests.
    async fn forgotten_before(&self) -> Result<Vec<Before>> {
        let mut entries = self.root.child("_runs").list().await?;
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

    /// The ids that were neither found nor forgotten before, with a warning where one was nearly found.
    fn unmatched(
        &self,
        found: &BTreeSet<String>,
        before: &[Before],
        pseudonyms: Option<&Pseudonyms>,
        warnings: &mut Vec<String>,
    ) -> Vec<String> {
        let known: BTreeSet<&String> = before.iter().flat_map(|b| &b.forgotten.users).collect();
        let is_known = |user: &str| {
            let plain = blake3::hash(user.as_bytes()).to_hex().to_string();
            known.contains(&plain) || pseudonyms.is_some_and(|p| known.contains(&p.of(user)))
        };
        let users = self.options.users.iter();
        let unmatched: Vec<String> = users.filter(|user| !found.contains(*user) && !is_known(user)).cloned().collect();
        for user in &unmatched {
            let near = trimmed(user);
            match near != user && found.contains(near) {
                true => warnings.push(format!(
                    "no row is of the user {user:?}, but there are rows of {near:?}: blanks belong to an id, name it \
                     without them"
                )),
                false => warnings.push(format!("no row is of the user {user:?}: nothing was there to forget")),
            }
        }
        unmatched
    }

    /// Everything that needs the leases. What can fail because of what is there comes before the first change.
    async fn under_lease(
        &self,
        held: &Held,
        standing: &Standing,
        going: &Going,
        before: &[Before],
        manifest: &mut Manifest,
        done: &mut Done,
    ) -> Result<()> {
        refuse_live(live_runs(&self.root).await?.into_iter().filter(|run| *run != self.run_id).collect())?;
        if self.standing().await? != *standing {
            return Err(Error::new(Kind::Busy, "another run has published meanwhile; nothing was changed")
                .hint("run the same command again"));
        }
        // Again: a run that came and went since may have staged or answered something.
        let keys = self.prompt_keys(standing, &going.told, &mut BTreeSet::new()).await?;
        let publisher = Publisher::new(self.root.clone(), &self.run_id);
        let mut staged = Vec::new();
        for (dt, counts) in &going.days {
            let Some(records) = standing.get(dt) else { continue };
            staged.push((dt, self.stage_day(records, counts, &going.told, &publisher).await?));
        }
        held.check().await?;
        // From here on there are changes. The digests first: who runs it again after a crash named no wrong id.
        let pseudonyms = Pseudonyms::find_or_create(&self.root).await?;
        self.renew_digests(before, &pseudonyms).await?;
        let (unmatched, users): (Vec<&String>, Vec<&String>) =
            self.options.users.iter().partition(|user| done.unmatched.contains(user));
        let digests = |users: Vec<&String>| {
            users.into_iter().map(|user| pseudonyms.of(user)).collect::<BTreeSet<_>>().into_iter().collect()
        };
        done.forgotten.digest = Pseudonyms::METHOD.into();
        (done.forgotten.users, done.forgotten.unmatched) = (digests(users), digests(unmatched));
        manifest.forgotten = Some(done.forgotten.clone());
        self.write(manifest).await?;
        // No reader holds a lease now: what merged segments stand for may go, and must, since it names answers.
        segment::remove_replaced(&self.root, "response", |_| true).await?;
        let contract = self.graph.contract(RESPONSE)?;
        let staging = publisher.staging().child("response");
        let (answers, _) = segment::remove_rows(&self.root, contract, &staging, "prompt_key", &keys).await?;
        done.rows.insert("response".to_string(), (answers, 0));
        // While the prompts still tell which samples about items have to go.
        let scrub = Scrub::new(&self.root, &self.options.users, &going.told, false);
        scrub.quarantine(&mut done.forgotten).await?;
        scrub.runs(&mut done.forgotten).await?;
        for (dt, tables) in staged {
            let lease = held.get(&format!("dt={dt}"))?;
            let mut rewritten = Vec::new();
            for (n, table) in tables.into_iter().rev() {
                let record = publisher.publish(lease, table).await?;
                tracing::info!(table = record.table, dt, rows = n, "forgotten");
                if n > 0 {
                    rewritten.push(rewritten_record(&record));
                }
            }
            manifest.tables.extend(rewritten.into_iter().rev());
        }
        done.forgotten.rows = done.rows.iter().map(|(table, (rows, _))| (table.clone(), *rows)).collect();
        Ok(())
    }

    /// Manifests of before there were keys hold plain digests, which a list of all ids would tell: those go.
    async fn renew_digests(&self, before: &[Before], pseudonyms: &Pseudonyms) -> Result<()> {
        for Before { at, manifest, forgotten } in before.iter().filter(|b| b.forgotten.digest != Pseudonyms::METHOD) {
            // What is no digest stands for nobody.
            let renewed = |text: &String| blake3::Hash::from_hex(text).ok().map(|plain| pseudonyms.of_plain(plain));
            let users: BTreeSet<String> = forgotten.users.iter().filter_map(renewed).collect();
            let forgotten = Forgotten {
                digest: Pseudonyms::METHOD.into(),
                users: users.into_iter().collect(),
                ..forgotten.clone()
            };
            put_json(at, &Manifest { forgotten: Some(forgotten), ..manifest.clone() }).await?;
        }
        Ok(())
    }

    /// Keys of prompts that are the users' or show their sentences, and are nobody else's. Users that stand in what dead
    /// runs left are found, too.
    async fn prompt_keys(
        &self,
        standing: &Standing,
        told: &Told,
        found: &mut BTreeSet<String>,
    ) -> Result<BTreeSet<String>> {
        let columns = ["user_id", "prompt_key"];
        let published = self.files(standing, &columns)?;
        let mut left = Vec::new();
        for table in self.tables_with(&columns) {
            // What a dead run had staged, or an audit kept out, was asked all the same.
            for folder in ["_staging", QUARANTINES[0]] {
                let is_of = |e: &Entry| e.location.url().contains(&format!("/{table}/dt="));
                let there = self.root.child(folder).list().await?;
                left.extend(there.into_iter().filter(|e| is_of(e) && e.location.name().ends_with(".parquet")));
            }
        }
        let mut keys = BTreeSet::new();
        let users = &self.options.users;
        for (table, dt, file, bytes) in &published {
            let take = |is_theirs: bool, key: &str| _ = is_theirs && keys.insert(key.to_string());
            tellers::each_key(file, *bytes, users, told.of(table, dt), take).await?;
        }
        for file in left {
            let mut take = |user: &str, key: &str| {
                if users.contains(user) {
                    keys.insert(key.to_string());
                    found.insert(user.to_owned());
                }
            };
            let read = async {
                if file.location.url().contains(&format!("/{}/dt=", tellers::PROMPTS)) {
                    tellers::each_prompt(&file.location, file.size, |prompt| {
                        prompt.key.iter().for_each(|key| prompt.tellers.iter().for_each(|user| take(user, key)));
                    })
                    .await?;
                }
                each_pair(&file.location, file.size, |user, key| user.iter().for_each(|user| take(user, key))).await
            };
            // A torn file of a dead run tells nothing, and goes anyway.
            if let Err(e) = read.await
                && e.kind() != Kind::Input
            {
                return Err(e);
            }
        }
        let mut others = BTreeSet::new();
        if !keys.is_empty() || self.options.unlinked {
            for (table, dt, file, bytes) in &published {
                tellers::each_key(file, *bytes, users, told.of(table, dt), |is_theirs, key| {
                    if !is_theirs && (self.options.unlinked || keys.contains(key)) {
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

    /// Stages what changes of one day, in the order in which it is made, each with the rows that go.
    async fn stage_day(
        &self,
        records: &BTreeMap<String, CommitRecord>,
        counts: &Counts,
        told: &Told,
        publisher: &Publisher,
    ) -> Result<Vec<(u64, StagedTable)>> {
        // What each table held and what it will hold.
        let mut held: BTreeMap<&str, [String; 2]> = BTreeMap::new();
        let mut staged = Vec::new();
        for table in self.graph.published() {
            let Some(record) = records.get(table) else { continue };
            let mut parts = record.parts.clone();
            for name in self.graph.published() {
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
                0 => self.as_it_stands(record, stamp, publisher)?,
                _ => self.stage(record, &stamp, n, told, publisher).await?,
            };
            held.insert(table, [was, content(new.files.iter().map(|f| f.blake3.as_str()))]);
            if n > 0 || is_moved {
                staged.push((n, new));
            }
        }
        Ok(staged)
    }

    /// Stages a partition's rows without the `n` that are the users' or hold something of what they told.
    async fn stage(
        &self,
        record: &CommitRecord,
        stamp: &Stamp,
        n: u64,
        told: &Told,
        publisher: &Publisher,
    ) -> Result<StagedTable> {
        let place = |e: Error| unfit(e).with("table", &record.table).with("dt", &record.dt);
        let contract = &without_rules(self.graph.contract(&record.table)?);
        let mut tables: Vec<InputTable> = Vec::new();
        for file in files_in(&self.root, record)? {
            tables.push(open_input(contract, &file.location).await.map_err(place)?);
        }
        let items = told.of(&record.table, &record.dt);
        let (none, users) = (BTreeSet::new(), &self.options.users);
        let (column, values) = match contract.column("user_id") {
            Some(_) => ("user_id", users),
            None => ("item_id", items.unwrap_or(&none)),
        };
        let rows = rows_without(contract, &tables, column, values);
        let rows = rows.map(|batch| tellers::without_items(batch?, items));
        let staged = publisher.stage(contract, &record.dt, stamp, rows).await.map_err(place)?;
        if staged.rows + n != record.rows() {
            let (rows, all) = (staged.rows, record.rows());
            return Err(place(Error::new(
                Kind::Input,
                format!("{n} of {all} rows are the users', but {rows} would stay"),
            )));
        }
        let (contract_version, run_id) = (record.contract_version.clone(), Some(record.run_id.clone()));
        Ok(StagedTable { contract_version, run_id, ..staged })
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
            schema: self.graph.contract(&record.table)?.arrow_schema(None),
            stamp,
            run_id: Some(record.run_id.clone()),
        })
    }

    /// The manifest of a forgetting that begins.
    fn manifest(&self, started_at: String) -> Manifest {
        let here = Holder::here(&self.run_id);
        Manifest {
            format: 1,
            curec: format!("curec {}", env!("CARGO_PKG_VERSION")),
            run_id: self.run_id.clone(),
            job: self.job.spec.name.clone(),
            job_file: self.job.origin.clone(),
            status: "running".into(),
            started_at,
            host: here.host,
            pid: here.pid,
            ..Manifest::default()
        }
    }

    async fn write(&self, manifest: &Manifest) -> Result<Location> {
        let location = self.root.child("_runs").child(&self.run_id).child(Manifest::NAME);
        put_json(&location, manifest).await?;
        Ok(location)
    }
}

async fn put_json(at: &Location, manifest: &Manifest) -> Result<()> {
    let text = serde_json::to_string_pretty(manifest).context(Kind::Internal, || "the manifest is not JSON".into())?;
    at.put(text.into()).await
}

/// A contract's columns, order and grain without its rules for values: what was published under other ones must still be
/// writable. The bytes of files do not depend on these.
fn without_rules(contract: &Contract) -> Contract {
    let mut contract = contract.clone();
    for column in &mut contract.columns {
        (column.values, column.min, column.max, column.min_length, column.finite) = (None, None, None, None, false);
    }
    contract
}

/// Says what to do where a published file and its contract do not go together.
fn unfit(error: Error) -> Error {
    match error.kind() {
        Kind::Audit | Kind::Input | Kind::Config | Kind::Internal => error.hint(
            "nothing was removed. The file is damaged, or the contract has changed since the day was published: run \
             that interval again, or set [project] schemas to the contracts it was published with; then run the same \
             command again",
        ),
        _ => error,
    }
}

fn rewritten_record(record: &CommitRecord) -> TableRecord {
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
