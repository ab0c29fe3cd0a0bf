//! A command that learns as what watches it is told: its stages as steps, its gate's verdict, what it reads and writes.
//!
//! `learn weekly` is the job of the weekly file. A stage that is run alone is a job of its own, `NAME.align`, so that nobody
//! takes it for the whole. Knows where each command reads and writes; does none of their work.

use std::collections::BTreeMap;
use std::time::Instant;

use chrono::Utc;

use crate::config::{Interval, Job};
use crate::error::{Error, Kind, Result};
use crate::learn::lessons::Method;
use crate::night::graph::contracts_of;
use crate::night::record;
use crate::night::tables::{inputs_of, locate};
use crate::table::contract::Contract;
use crate::table::store::Location;
use crate::watch::exposition::Exposition;
use crate::watch::lineage::Dataset;
use crate::watch::places::Watch;
use crate::watch::run::{End, Identity, Steps, WatchedRun, dataset};
use crate::weekly::weekly_file::Spec;
use crate::worth::whose::{TAUGHT_BY_HISTORIES, TAUGHT_BY_WORTH, Whose};

/// A command that learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learning {
    /// `curec learn weekly`
    Weekly,
    /// `curec learn align`
    Align,
    /// `curec learn reward`
    Reward,
    /// `curec learn reinforce`
    Reinforce(Method),
    /// `curec learn worth`
    Worth(Whose),
    /// `curec learn project`
    Project,
}

/// Files and folders in `out`, with the contract of those that are tables.
type Places = &'static [(&'static str, Option<&'static str>)];

const ALIGNMENT: (&str, Option<&str>) = ("alignment_example.parquet", Some("alignment_example"));
const OUTCOMES: (&str, Option<&str>) = ("reward_example.parquet", Some("reward_example"));

impl Learning {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Learning::Weekly => "weekly",
            Learning::Align => "align",
            Learning::Reward => "reward",
            Learning::Reinforce(_) => "reinforce",
            Learning::Worth(_) => "worth",
            Learning::Project => "project",
        }
    }

    /// Whether it ends by a gate, which lets what was learned through or not.
    fn has_gate(self) -> bool {
        !matches!(self, Learning::Align | Learning::Reinforce(_))
    }

    /// Whether the gate has let what was learned through; `None` where the run did not come to it.
    fn verdict(self, error: Option<&Error>) -> Option<bool> {
        match error.map(Error::kind) {
            None => Some(true),
            Some(Kind::Audit) => Some(false),
            Some(_) => None,
        }
        .filter(|_| self.has_gate())
    }

    /// What it reads in `out`, of what other commands have left there.
    fn reads(self) -> Places {
        match self {
            Learning::Reinforce(_) => &[ALIGNMENT, OUTCOMES, ("reward", None)],
            _ => &[],
        }
    }

    /// What it writes in `out`, for others to read.
    fn writes(self) -> Places {
        match self {
            Learning::Weekly => &[],
            Learning::Align => &[ALIGNMENT, ("adapter", None)],
            Learning::Reward => &[OUTCOMES, ("reward", None)],
            Learning::Reinforce(Method::BestOfN) => &[("adapter-best-of-n", None)],
            Learning::Reinforce(Method::Weighted) => &[("adapter-weighted", None)],
            Learning::Reinforce(Method::Grpo) => &[("adapter-grpo", None)],
            Learning::Reinforce(Method::Dpo) => &[("adapter-dpo", None)],
            Learning::Worth(Whose::Items) => {
                &[("item_worth.parquet", None), ("item_choice.parquet", Some("item_choice")), (TAUGHT_BY_WORTH, None)]
            }
            Learning::Worth(Whose::Histories) => &[("history_worth.parquet", None), (TAUGHT_BY_HISTORIES, None)],
            Learning::Project => &[("projection", None)],
        }
    }
}

/// A command that is watched, or not.
pub struct Watched {
    run: WatchedRun,
    of: Learning,
    began: Instant,
    steps: Steps,
    outputs: Vec<Dataset>,
}

impl Watched {
    /// Tells that a command has begun, and what it reads and writes.
    pub fn begin(spec: &Spec, of: Learning, interval: Interval) -> Watched {
        let (job, watch) = match of {
            Learning::Weekly => (spec.name.clone(), Watch::of(&spec.watch)),
            part => (format!("{}.{}", spec.name, part.name()), Watch::of(&spec.watch.of_part(part.name()))),
        };
        let (began, clock) = (Utc::now(), Instant::now());
        let out = std::path::absolute(&spec.out).unwrap_or_else(|_| spec.out.clone().into());
        let identity = Identity {
            command: format!("learn {}", of.name()),
            run_id: format!("{job}-{}-{}", began.format("%Y%m%dT%H%M%S%3fZ"), std::process::id()),
            job,
            place: format!("{} {}", record::host(), out.display()),
            interval: (interval.start.to_rfc3339(), interval.end.to_rfc3339()),
            began,
        };
        let mut run = WatchedRun::begin(&watch, identity);
        let mut outputs = Vec::new();
        if run.wants_lineage() {
            // What is wrong with the job the command itself will say.
            match datasets(spec, of) {
                Ok((read, written)) => {
                    run.reads(read);
                    outputs = written;
                    run.running(&outputs);
                }
                Err(e) => tracing::debug!(error = %e, "what is read and written is not told"),
            }
        }
        Watched { run, of, began: clock, steps: Steps::default(), outputs }
    }

    /// Takes the steps of the command while it does them.
    pub fn steps(&self) -> Steps {
        self.steps.clone()
    }

    /// Does the work, and tells how it ended.
    ///
    /// # Errors
    /// The work's.
    pub async fn through<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let outcome = work.await;
        let error = outcome.as_ref().err();
        let steps = self.steps.all();
        let end = End {
            error,
            code: error.map_or(0, |e| e.kind().exit_code()),
            seconds: self.began.elapsed().as_secs_f64(),
            steps: &steps,
            outputs: &self.outputs,
            attributes: Vec::new(),
        };
        let verdict = self.of.verdict(error);
        self.run.ended(end, |page| measured(verdict, page));
        self.run.settle().await;
        outcome
    }
}

/// Adds what commands that learn measure to the gauges that every run has.
fn measured(verdict: Option<bool>, page: &mut Exposition) {
    if let Some(passed) = verdict {
        page.gauge(
            "curec_last_run_gate_passed",
            "1 where the gate let through what was learned, 0 where it refused it.",
            f64::from(u8::from(passed)),
        );
    }
}

/// What a command reads, and what it writes.
fn datasets(spec: &Spec, of: Learning) -> Result<(Vec<Dataset>, Vec<Dataset>)> {
    let published = of == Learning::Project;
    let keys = if published { spec.as_they_come() } else { spec.overrides() };
    let job = Job::load(&spec.job, &keys)?;
    let contracts = contracts_of(&job)?;
    let out = Location::parse(&spec.out)?;
    let mut read = Vec::new();
    for (table, text) in inputs_of(&job) {
        read.push(dataset(&locate(&job, text)?, contracts.get(table)));
    }
    if published {
        let warehouse = locate(&job, &job.spec.warehouse)?;
        let tables = ["item_feature", "user_feature"];
        read.extend(tables.map(|table| dataset(&warehouse.child(table), contracts.get(table))));
    }
    read.extend(in_folder(&out, of.reads(), &contracts));
    let mut written = in_folder(&out, of.writes(), &contracts);
    let name = match of {
        Learning::Weekly => spec.registry.as_ref().map_or("", |registry| registry.name.as_str()),
        Learning::Project => spec.projection.name.as_str(),
        _ => "",
    };
    let registry = job.spec.project.registry.as_str();
    if !name.is_empty() && !registry.is_empty() {
        written.push(dataset(&locate(&job, registry)?.child(name), None));
    }
    Ok((read, written))
}

fn in_folder(out: &Location, places: Places, contracts: &BTreeMap<String, Contract>) -> Vec<Dataset> {
    let found =
        |(name, table): &(&str, Option<&str>)| dataset(&out.child(name), table.and_then(|table| contracts.get(table)));
    places.iter().map(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_has_a_verdict_where_the_run_came_to_it() {
        let error = |kind| Error::new(kind, "no");
        let (refused, stopped) = (error(Kind::Audit), error(Kind::Interrupted));
        for of in [Learning::Weekly, Learning::Reward, Learning::Worth(Whose::Items), Learning::Project] {
            let told = [None, Some(&refused), Some(&stopped)].map(|error| of.verdict(error));
            assert_eq!(told, [Some(true), Some(false), None], "{of:?}");
        }
        for of in [Learning::Align, Learning::Reinforce(Method::Grpo)] {
            assert!(of.verdict(None).is_none() && of.verdict(Some(&refused)).is_none(), "{of:?}");
        }
    }

    #[test]
    fn reinforcements_write_where_their_method_says() {
        for method in Method::ALL {
            let written = Learning::Reinforce(method).writes().iter().map(|(name, _)| (*name).to_owned());
            assert_eq!(written.collect::<Vec<String>>(), [format!("adapter-{method}")]);
        }
    }

    #[test]
    fn worths_are_written_where_their_record_says() {
        for whose in Whose::ALL {
            let written: Vec<&str> = Learning::Worth(whose).writes().iter().map(|(name, _)| *name).collect();
            assert!(written.contains(&whose.table()) && written.contains(&whose.taught()), "{written:?}");
        }
    }
}
