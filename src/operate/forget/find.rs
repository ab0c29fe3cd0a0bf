//! Where users stand: in published tables, inputs, answers, what dead runs left, the quarantine and the files of runs.
//!
//! Reads all of it, counts it and says what could not be looked at; changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::Array;
use futures::{StreamExt, TryStreamExt};

use crate::columns::at;
use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::night::graph::{Graph, RESPONSE};
use crate::night::made_from::PROJECTION;
use crate::night::manifest::Forgotten;
use crate::night::tables::{inputs_of, locate};
use crate::operate::forget::record::{Before, Done, FILES_AT_ONCE, Options};
use crate::operate::pseudonym::Pseudonyms;
use crate::operate::scrub::{QUARANTINES, Scrub};
use crate::operate::tellers::{self, TELLING, Told};
use crate::project::column;
use crate::table::contract;
use crate::table::filter::{count_each, count_matching, read_texts};
use crate::table::input::open_input;
use crate::table::parquet_file::open_parquet;
use crate::table::partition::{self, CommitRecord};
use crate::table::published::partitions;
use crate::table::segment::{self, segments};
use crate::table::source::{Source, source_of};
use crate::table::store::{Entry, Location};

/// Rows to remove by table, of one day.
pub(super) type Counts = BTreeMap<String, u64>;

/// The commit records of all days, by table.
pub(super) type Standing = BTreeMap<String, BTreeMap<String, CommitRecord>>;

/// A warehouse, and who is looked for in it.
pub(super) struct Work<'a> {
    pub(super) job: &'a Job,
    pub(super) options: &'a Options,
    pub(super) root: Location,
    pub(super) graph: Graph,
    pub(super) run_id: String,
    /// The ids, and what they are without blanks: to say that the latter would have been found.
    pub(super) looked_for: BTreeSet<String>,
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
    pub(super) fn tables_without_user_id(&self) -> Vec<String> {
        let is_own = |table: &&str| !contract::builtin_names().any(|known| known == *table);
        let with_user_id = self.tables_with(&["user_id"]);
        let unread = self.graph.published().filter(is_own).filter(|table| !with_user_id.contains(table));
        let warning = |table| {
            format!("the table {table} has no column user_id: if it names users in another way, their rows stay")
        };
        unread.map(warning).collect()
    }

    /// A warning for each published table of the job's own that may hold sentences which go elsewhere.
    pub(super) fn tables_of_sentences(&self, told: &Told) -> Vec<String> {
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
    pub(super) async fn refuse_unknown_tables(&self) -> Result<()> {
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

    /// Refuses days with rows that go, where a projection made a column of them and the job names none: what stays would
    /// lose it for good, under a fingerprint that says it is there.
    pub(super) fn refuse_without_projection(&self, standing: &Standing, days: &BTreeMap<String, Counts>) -> Result<()> {
        let mut lost = Vec::new();
        for (dt, counts) in days {
            for table in counts.keys() {
                let record = standing.get(dt).and_then(|day| day.get(table));
                let has_column = record.is_some_and(|record| record.parts.contains_key(PROJECTION));
                if has_column && column::projected(self.graph.contract(table)?).is_none() {
                    lost.push(format!("{table}/dt={dt}"));
                }
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Config, "a projection has made a column of these days, and the job names none")
            .with("partitions", lost.join(", "))
            .with("column", column::COLLABORATIVE)
            .hint(
                "nothing was removed; what stays of these days would lose the column. Name the projection in [model] projection, \
                 as the job does that published them (`--set model.projection=registry:NAME`), and run the same command again",
            ))
    }

    /// Everything that is published.
    pub(super) async fn standing(&self) -> Result<Standing> {
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
    pub(super) async fn days(
        &self,
        standing: &Standing,
        found: &mut BTreeSet<String>,
    ) -> Result<BTreeMap<String, Counts>> {
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
    pub(super) async fn told(&self, standing: &Standing, found: &mut BTreeSet<String>) -> Result<Told> {
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
    pub(super) async fn count_told(
        &self,
        standing: &Standing,
        told: &Told,
        days: &mut BTreeMap<String, Counts>,
    ) -> Result<()> {
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
    pub(super) async fn inputs(&self, found: &mut BTreeSet<String>, warnings: &mut Vec<String>) -> Vec<String> {
        let mut naming = Vec::new();
        if !self.job.spec.correct.item_choices.is_empty() {
            warnings.push(
                "the input item_choice may hold texts that echo what the users wrote, as may what `curec learn worth` left beside \
                 it: run that again without the users, or remove the file"
                    .to_owned(),
            );
        }
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
    pub(super) async fn look(
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

    /// Keys of prompts that are the users' or show their sentences, and are nobody else's. Users that stand in what dead
    /// runs left are found, too.
    pub(super) async fn prompt_keys(
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

    /// The ids that were neither found nor forgotten before, with a warning where one was nearly found.
    pub(super) fn unmatched(
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
}

/// An id without what people and programs add to it and do not see.
pub(super) fn trimmed(user: &str) -> &str {
    user.trim_matches(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}')
}

/// Says what to do where a published file and its contract do not go together.
pub(super) fn unfit(error: Error) -> Error {
    match error.kind() {
        Kind::Audit | Kind::Input | Kind::Config | Kind::Internal => error.hint(
            "nothing was removed. The file is damaged, or the contract has changed since the day was published: run \
             that interval again, or set [project] schemas to the contracts it was published with; then run the same \
             command again",
        ),
        _ => error,
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
