//! What a run would build and why: every table's fingerprint against the partition that stands.
//!
//! Knows fingerprints and commit records; makes nothing.

use std::collections::BTreeMap;

use crate::error::{Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::night::made_from::{ROWS_OF, UNPAID, learned_later, rows_of};
use crate::night::prepare::Prepared;
use crate::night::tables::{content, count, files_in, new_session};
use crate::query::texts;
use crate::table::build::By;
use crate::table::partition::{CommitRecord, commit_record, missing_file};

/// What happens to one table.
#[derive(Debug, Clone)]
pub struct TablePlan {
    /// Its name.
    pub table: String,
    /// What it is made from, by part.
    pub parts: BTreeMap<String, String>,
    /// Digest of the parts.
    pub fingerprint: String,
    /// Why it is built; empty: it is up to date.
    pub why: Vec<String>,
    /// The partition as it stands.
    pub standing: Option<CommitRecord>,
}

impl TablePlan {
    /// Whether the table is built.
    pub fn is_build(&self) -> bool {
        !self.why.is_empty()
    }
}

impl Prepared {
    /// Refuses to build what a model would write that has learned from events after the interval, unless the job allows it.
    ///
    /// # Errors
    /// [`Kind::Config`], with the ways out.
    pub fn check_learned(&self, plans: &[TablePlan]) -> Result<()> {
        let of_plan = plans.iter().filter(|plan| plan.is_build()).flat_map(|plan| learned_later(&plan.parts));
        let Some((place, until)) = of_plan.max_by_key(|(_, until)| *until) else { return Ok(()) };
        if self.job.spec.model.allow_later_training {
            return Ok(());
        }
        Err(Error::new(
            Kind::Config,
            format!("{place} has learned from events after this interval: its features would know what came later"),
        )
        .with("learned until", until.to_rfc3339())
        .with("interval ends", self.interval.end.to_rfc3339())
        .hint(
            "take a version that learned from earlier events (`curec models list` shows their intervals, `curec models \
             promote` or `export` brings one back), or set [model] allow_later_training = true: the days are then marked, \
             and `curec export` refuses them unless it is told --allow-later-training",
        ))
    }

    /// Different prompts of the standing partition of `reason` that were asked and failed.
    pub async fn failed_prompts(&self) -> Result<u64> {
        let Some(record) = commit_record(&self.root, "reason", &self.interval.dt()).await? else { return Ok(0) };
        let session = new_session(&self.job)?;
        session.register_files("reason", self.graph.contract("reason")?, &files_in(&self.root, &record)?).await?;
        count(&session, texts::FAILED_PROMPTS).await
    }

    /// Compares every table with its partition. `force` builds all; `retry_failed` asks failed prompts again. What is made
    /// from a table that is built is built as well.
    pub async fn decide(&self, force: bool, retry_failed: bool) -> Result<Vec<TablePlan>> {
        self.check_snapshot()?;
        let dt = self.interval.dt();
        let mut made: BTreeMap<String, Fingerprint> = BTreeMap::new();
        let mut contents: BTreeMap<String, String> = BTreeMap::new();
        let retry_failed = retry_failed && self.failed_prompts().await? > 0;
        let mut plans: Vec<TablePlan> = Vec::new();
        let earlier = self.earlier().await?;
        for table in self.tables()? {
            let of_table = self.made_from(table, &made, &earlier)?;
            let (fingerprint, parts) = (of_table.digest(), of_table.pairs().clone());
            let upstream = self.graph.upstream(table);
            let standing = commit_record(&self.root, table, &dt).await?;
            let mut why = Vec::new();
            match &standing {
                _ if force => why.push("--full".to_string()),
                None => why.push("missing".to_string()),
                Some(old) if old.fingerprint != fingerprint => {
                    let is_compared = |name: &String| !name.starts_with(ROWS_OF) && name != UNPAID;
                    let changed = |name: &String| is_compared(name) && old.parts.get(name) != parts.get(name);
                    let mut names: Vec<&String> =
                        parts.keys().chain(old.parts.keys()).filter(|name| changed(name)).collect();
                    names.sort();
                    names.dedup();
                    why.extend(names.into_iter().map(|name| format!("{name} changed")));
                }
                Some(old) => {
                    let replaced = |name: &&&str| {
                        let known = old.parts.get(&rows_of(name));
                        known.is_some_and(|known| contents.get(**name) != Some(known))
                    };
                    why.extend(upstream.iter().filter(replaced).map(|name| format!("table {name} was replaced")));
                    let unpaid = old.parts.get(UNPAID);
                    why.extend(unpaid.map(|prompts| format!("[budget] left {prompts} prompt(s) unpaid")));
                }
            }
            if let Some(standing) = &standing
                && why.is_empty()
                && let Some(file) = missing_file(&self.root, standing).await?
            {
                why.push(format!("its file {file} is gone"));
            }
            if let Some(standing) = &standing {
                contents.insert(table.to_owned(), content(standing.files.iter().map(|f| f.blake3.as_str())));
            }
            if why.is_empty() && retry_failed && self.graph.build(table)?.by == By::Generate {
                why.push("--retry-failed".to_string());
            }
            if why.is_empty() {
                // Equal fingerprints do not mean equal rows where a table is made again because its prompts had failed
                // or because a crash had left it behind.
                let is_built = |name: &&&str| plans.iter().any(|p| p.table == **name && p.is_build());
                why.extend(upstream.iter().filter(is_built).map(|name| format!("table {name} is built")));
            }
            made.insert(table.to_owned(), of_table);
            plans.push(TablePlan { table: table.to_string(), parts, fingerprint, why, standing });
        }
        Ok(plans)
    }
}
