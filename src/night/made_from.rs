//! What every table of a run is made from, as the parts of a fingerprint.
//!
//! Reads job, contracts, SQL, footers and model headers; loads no model and changes nothing. What is made of fingerprints
//! (whether a partition still stands) is decided in [`crate::night::decide`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

use crate::config::{Interval, parse_moment};
use crate::error::Result;
use crate::fingerprint::Fingerprint;
use crate::generate::answers::Examples;
use crate::generate::models::template_of;
use crate::night::graph::{self, RESPONSE};
use crate::night::prepare::{Prepared, ZERO_EMBEDDING};
use crate::night::tables::{INPUTS, ITEM, files_in};
use crate::query::session::{Param, Session, TableFile};
use crate::reward::saved;
use crate::table::build::{By, ModelUse};
use crate::table::partition::{CommitRecord, commit_record};

/// Commit records of earlier days that are read at once.
const RECORDS_AT_ONCE: usize = 16;

/// The part that tells which earlier days a table leans on.
pub const EARLIER: &str = "earlier days";

/// Begins the names of parts that tell until when a model has learned that wrote of earlier events; what follows is the
/// model's place in the job, the value a moment in RFC 3339. Tables without such a part were made by no such model, as far
/// as records tell.
pub const LEARNED_LATER: &str = "learned from later events: ";

/// What was published before an interval and tables of it lean on.
pub struct Earlier {
    /// Of the tables that are read as earlier ones, oldest first.
    pub records: Vec<CommitRecord>,
}

impl Earlier {
    /// Until when models have learned that wrote what stands in these tables, where that is after the day they wrote of.
    fn learned_until(&self, tables: &BTreeSet<&str>) -> Option<DateTime<Utc>> {
        let records = self.records.iter().filter(|record| tables.contains(record.table.as_str()));
        records.flat_map(|record| learned_later(&record.parts)).map(|(_, until)| until).max()
    }
}

/// What a table is made from, but for the tables before it.
#[derive(Default)]
struct Reads {
    tables: BTreeSet<String>,
    params: BTreeSet<String>,
    settings: BTreeSet<String>,
    generator: bool,
    templates: bool,
    /// Whether evidence is shortened to the longest prompt.
    fits: bool,
    encoder: bool,
    judge: bool,
    /// Whether what the language model has written, or how likely it finds a text, stands in the rows.
    writes: bool,
}

/// Begins the names of parts that tell what the tables before one held; they are no part of a fingerprint.
pub(super) const ROWS_OF: &str = "rows of ";

/// The part that tells how many prompts behind a table a spend cap has left unpaid; no part of a fingerprint. Absent where all
/// are paid.
pub(super) const UNPAID: &str = "unpaid prompts";

/// The part that names the projection whose column stands in the rows.
pub const PROJECTION: &str = "projection";

/// The part that tells what a table before this one held.
pub fn rows_of(table: &str) -> String {
    format!("{ROWS_OF}{table}")
}

/// The moments that [`LEARNED_LATER`] tells of among a table's parts, by the model's place in the job.
pub fn learned_later(parts: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, DateTime<Utc>)> {
    parts
        .iter()
        .filter_map(|(name, until)| Some((name.strip_prefix(LEARNED_LATER)?, parse_moment("learned", until).ok()?)))
}

/// The interval that parts tell.
fn interval_of(parts: &BTreeMap<String, String>) -> Option<Interval> {
    let (start, end) = parts.get("interval")?.split_once('/')?;
    Interval::parse(start, end).ok()
}

/// The first moment after the interval that a partition was made for.
pub fn as_of(record: &CommitRecord) -> Option<DateTime<Utc>> {
    interval_of(&record.parts).map(|interval| interval.end)
}

impl Prepared {
    /// The tables whose earlier partitions a table reads, itself or through unpublished ones.
    fn earlier_of(&self, table: &str) -> BTreeSet<&str> {
        let parts = self.graph.parts(table);
        parts
            .iter()
            .flat_map(|part| self.graph.reads(part))
            .filter_map(|read| read.strip_prefix(graph::EARLIER))
            // What this job does not make says nothing, whoever may have made it before.
            .filter(|base| self.is_made(base).unwrap_or(true))
            .collect()
    }

    fn is_cumulative(&self, table: &str) -> bool {
        self.graph.build(table).is_ok_and(|build| build.cumulative)
    }

    /// Whether what earlier nights have had decides which rows a table has: it is made of a table, however far before it,
    /// that reads a cumulative one of theirs.
    pub(super) fn is_of_news(&self, table: &str) -> bool {
        let parts = self.graph.before(&[table]).into_iter().chain([table]);
        parts.flat_map(|part| self.earlier_of(part)).any(|base| self.is_cumulative(base))
    }

    /// What was published for intervals that ended before this one began, `[correct] days` back, of the tables that are
    /// read as earlier ones.
    ///
    /// # Errors
    /// As [`commit_record`].
    pub async fn earlier(&self) -> Result<Earlier> {
        let tables: BTreeSet<&str> = self.tables()?.into_iter().flat_map(|table| self.earlier_of(table)).collect();
        let day = |back| self.interval.start.date_naive().checked_sub_days(chrono::Days::new(back));
        let days: Vec<String> = (1..=self.job.spec.correct.days)
            .rev()
            .filter_map(day)
            .map(|day| day.format("%Y-%m-%d").to_string())
            .collect();
        let places = days.iter().flat_map(|dt| tables.iter().map(move |table| (*table, dt.as_str())));
        let found = futures::stream::iter(places.map(|(table, dt)| commit_record(&self.root, table, dt)));
        let found: Vec<Option<CommitRecord>> = found.buffered(RECORDS_AT_ONCE).try_collect().await?;
        let is_earlier = |record: &CommitRecord| as_of(record).is_some_and(|end| end <= self.interval.start);
        let mut records: Vec<CommitRecord> = found.into_iter().flatten().filter(is_earlier).collect();
        // Oldest first: of a cumulative table the last one stays.
        let newest: BTreeMap<String, String> = records.iter().map(|r| (r.table.clone(), r.dt.clone())).collect();
        records.retain(|r| !self.is_cumulative(&r.table) || newest.get(&r.table) == Some(&r.dt));
        Ok(Earlier { records })
    }

    /// Registers what was published before the interval of the tables that a definition reads as earlier ones.
    ///
    /// # Errors
    /// As [`Session::register_files`].
    pub(super) async fn register_earlier(&self, session: &Session, table: &str, earlier: &Earlier) -> Result<()> {
        for read in self.graph.reads(table).filter(|read| !session.has_table(read)) {
            let Some(base) = read.strip_prefix(graph::EARLIER) else { continue };
            let mut files: Vec<TableFile> = Vec::new();
            for record in earlier.records.iter().filter(|record| record.table == base) {
                files.extend(files_in(&self.root, record)?);
            }
            session.register_files(read, self.graph.contract(base)?, &files).await?;
        }
        Ok(())
    }

    /// Digest of the fingerprints of what `table` reads as earlier; `None` where it reads nothing so. Forgetting a user
    /// does not change it.
    pub(super) fn earlier_digest(&self, table: &str, earlier: &Earlier) -> Option<String> {
        let tables = self.earlier_of(table);
        if tables.is_empty() {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        for record in earlier.records.iter().filter(|record| tables.contains(record.table.as_str())) {
            hasher.update(format!("{} {} {};", record.table, record.dt, record.fingerprint).as_bytes());
        }
        Some(hasher.finalize().to_hex()[..32].to_string())
    }

    /// What `table` is made from; `made` holds what the tables before it are made from.
    pub(super) fn made_from(
        &self,
        table: &str,
        before: &BTreeMap<String, Fingerprint>,
        earlier: &Earlier,
    ) -> Result<Fingerprint> {
        let build = self.graph.build(table)?;
        let mut made = Fingerprint::new(build.by.name(), build.by.version());
        made.add("table", table).add("contract", self.graph.contract(table)?.digest());
        made.add("interval", self.interval_part()).add("sql", self.graph.definition(table)?.digest());
        for name in self.graph.parts(table).into_iter().filter(|name| *name != table) {
            let by = self.graph.build(name)?.by;
            made.add(format!("method {name}"), format!("{}/{}", by.name(), by.version()));
            made.add(format!("contract {name}"), self.graph.contract(name)?.digest());
            made.add(format!("sql {name}"), self.graph.definition(name)?.digest());
        }
        let reads = self.reads(table)?;
        // Which rows of an input count depends on whether bad ones are left out, not on how many may be.
        if self.job.spec.input.max_bad_fraction > 0.0 && INPUTS.iter().any(|name| reads.tables.contains(*name)) {
            made.add("bad rows of inputs", "left out");
        }
        for name in INPUTS.into_iter().filter(|name| reads.tables.contains(*name)) {
            made.add(format!("contract {name}"), self.graph.contract(name)?.digest());
            if let Some(input) = self.inputs.get(name) {
                made.add(format!("input {name}"), input.digest());
            }
        }
        if reads.tables.contains(RESPONSE) {
            made.add("contract response", self.graph.contract(RESPONSE)?.digest());
        }
        self.add_parameters(&reads, &mut made)?;
        for name in &reads.settings {
            let mut of = Fingerprint::new("settings", 1);
            let section = match name.split_once('.') {
                Some((section, key)) => format!("settings [{section}] {key}"),
                None => format!("settings [{name}]"),
            };
            made.add(section, of.add_settings(name, self.setting(name)?)?.digest());
        }
        if reads.generator {
            made.add("generator", self.models.model_name()?).add("settings [sampling]", self.models.settings_key()?);
        }
        if reads.templates {
            for (kind, digest) in self.models.template_digests() {
                made.add(format!("template {kind}"), digest);
            }
        }
        if reads.fits {
            // Of the three settings behind it that alone counts.
            made.add("longest prompt", self.models.longest_prompt().to_string());
        }
        if reads.encoder {
            made.add("encoder", self.models.encoder_files()?.digest());
        }
        if reads.judge {
            // Where the judge lies does not matter.
            made.add("judge", saved::digest(Path::new(&self.job.spec.correct.judge))?);
            made.add("template rewrite", template_of(&self.job, &self.job.spec.correct.template)?.digest());
            made.add("templates of answers", Examples::new()?.digest());
        }
        if let Some((projection, _)) = self.projection_of(table) {
            // Where it lies does not matter.
            made.add(PROJECTION, projection.digest());
        }
        if let Some(digest) = self.earlier_digest(table, earlier) {
            made.add(EARLIER, digest);
        }
        for name in self.graph.upstream(table) {
            // A table that this job does not make is no part.
            if let Some(of) = before.get(name) {
                made.add(format!("table {name}"), of.digest());
            }
        }
        for (place, until) in self.learned_later(table, &reads, before, earlier) {
            made.add(format!("{LEARNED_LATER}{place}"), until.to_rfc3339());
        }
        Ok(made)
    }

    /// Adds the parameters that the SQL of a table needs, but for the interval's, which is a part itself.
    fn add_parameters(&self, reads: &Reads, made: &mut Fingerprint) -> Result<()> {
        let (mut history, mut pairs) = (Fingerprint::new("parameters", 1), Fingerprint::new("parameters", 1));
        for (name, value) in self.params()? {
            let text = match value {
                _ if !reads.params.contains(name) => continue,
                Param::Timestamp(_) | Param::ZeroVector(_) => continue,
                Param::Int(v) => v.to_string(),
                Param::Float(v) => v.to_string(),
                Param::Bool(v) => v.to_string(),
                Param::Text(v) => v,
            };
            match name {
                "past_events" => made.add("past events", text),
                "max_outcomes" => made.add("settings [correct] max_outcomes", text),
                "like_quantile" | "like_values" => made.add(format!("settings [events] {name}"), text),
                "decimal_mark" => made.add("settings [evidence] decimal_mark", text),
                "vector_of" => made.add("settings [feature] vector_of", text),
                _ if name.ends_with("_label") => made.add(format!("settings [evidence] {name}"), text),
                "max_pairs_per_user" | "max_pairs" if self.job.spec.input.pair.is_empty() => continue,
                "max_pairs_per_user" | "max_pairs" => pairs.add(name, text),
                _ => history.add(name, text),
            };
        }
        if pairs.pairs().len() > 1 {
            made.add("settings [pairs]", pairs.digest());
        }
        if history.pairs().len() > 1 {
            made.add("settings [history]", history.digest());
        }
        Ok(())
    }

    /// Models that wrote what stands in a table and have learned from events after the interval, as far as records tell,
    /// and until when: those that its own steps use, and those of the tables before it.
    fn learned_later(
        &self,
        table: &str,
        reads: &Reads,
        before: &BTreeMap<String, Fingerprint>,
        earlier: &Earlier,
    ) -> BTreeMap<String, DateTime<Utc>> {
        let learned = &self.learned;
        // A prompt names the model that will be asked; the answers are what it has written.
        let (writes, judges) = (reads.writes || reads.tables.contains(RESPONSE), reads.judge);
        let models = [
            ("model.generator", writes, learned.generator),
            ("model.adapter", writes, learned.adapter),
            ("correct.judge", judges, learned.judge),
            ("model.projection", self.projection_of(table).is_some(), learned.projection),
            ("earlier reasons", true, earlier.learned_until(&self.earlier_of(table))),
        ];
        let end = self.interval.end;
        let own = models.into_iter().filter(|(_, is_used, _)| *is_used);
        let own = own.filter_map(|(place, _, until)| Some((place.to_owned(), until.filter(|until| *until > end)?)));
        let upstream = self.graph.upstream(table);
        let of_others = upstream.iter().filter_map(|name| before.get(*name)).flat_map(|of| learned_later(of.pairs()));
        of_others.map(|(place, until)| (place.to_owned(), until)).chain(own).collect()
    }

    /// What the SQL of a table and of the unpublished tables before it reads, calls and needs, and what their steps use.
    fn reads(&self, table: &str) -> Result<Reads> {
        let (mut reads, params) = (Reads::default(), self.params()?);
        for name in self.graph.parts(table) {
            let (build, definition) = (self.graph.build(name)?, self.graph.definition(name)?);
            reads.tables.extend(self.graph.reads(name).map(str::to_owned));
            reads.params.extend(definition.params().iter().cloned());
            for setting in &build.settings {
                // What SQL gets as a parameter counts as one, whoever asks for it.
                match setting.strip_prefix("history.").filter(|name| params.iter().any(|(known, _)| known == name)) {
                    Some(name) => reads.params.insert(name.to_owned()),
                    None => reads.settings.insert(setting.clone()),
                };
            }
            if build.by == By::Generate {
                // Which of its answers a prompt has depends on how often it may be asked.
                reads.settings.insert("sampling.attempts".to_owned());
            }
            for function in definition.functions() {
                match function.as_str() {
                    "render_prompt" | "render_stem" => (reads.templates, reads.generator) = (true, true),
                    "fit_evidence" => (reads.templates, reads.generator, reads.fits) = (true, true, true),
                    "prompt_key" => reads.generator = true,
                    "generate" | "mean_logprob" => (reads.generator, reads.writes) = (true, true),
                    "embed" => reads.encoder = true,
                    _ => {}
                }
            }
            let by_step: &[ModelUse] = match build.by {
                // Which model answers stands in the prompts' keys.
                By::Sql | By::Score | By::Generate => &[],
                By::Pool => &[ModelUse::Encoder],
                By::Correct => &[ModelUse::Generator, ModelUse::Encoder, ModelUse::Judge],
            };
            for used in by_step.iter().chain(&build.models) {
                match used {
                    ModelUse::Generator => reads.generator = true,
                    ModelUse::Templates => reads.templates = true,
                    ModelUse::Encoder => reads.encoder = true,
                    ModelUse::Judge => reads.judge = true,
                }
            }
        }
        reads.encoder |= reads.params.contains(ZERO_EMBEDDING);
        // Whoever reads items may read the attributes that the job makes of further columns.
        if reads.tables.contains(ITEM) && !self.job.spec.evidence.attributes.0.is_empty() {
            reads.settings.insert("evidence.attributes".to_owned());
        }
        Ok(reads)
    }
}
