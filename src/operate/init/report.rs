//! What `curec init` says to a person, and the README that it leaves.
//!
//! Every text of the data is written out in its line. Knows proposals; prints nothing.

use chrono::NaiveDate;

use crate::operate::init::conversion::{Inputs, shell};
use crate::operate::init::job_file::UNDECIDED;
use crate::operate::init::proposal::{Mapping, Proposal};
use crate::printable::line;

/// The story of a proposal, with what to do next.
pub(super) fn story(proposal: &Proposal, looked_at: &[String], next: &[String], folder: &str) -> String {
    let mut told = String::new();
    for (mapping, sentence) in proposal.mappings().zip(looked_at) {
        told.push_str(&format!("{}\n", line(sentence)));
        told.push_str(&table(mapping));
    }
    if proposal.item.is_none() {
        told.push_str("item: none named (--items); the job gets an empty item file, so prompts say nothing of items\n");
    }
    match &proposal.events {
        Some(events) => {
            let name = proposal.interaction.carried("event").unwrap_or_default();
            told.push_str(&format!("events, by {}\n", line(name)));
            for event in &events.values {
                let meaning = event.meaning.map_or(UNDECIDED, |meaning| meaning.name());
                let value = if event.value.trim().is_empty() { "(empty)" } else { event.value.as_str() };
                let why = if event.meaning.is_none() { event.why() } else { "" };
                let why = if why.is_empty() { String::new() } else { format!(": {why}") };
                told.push_str(&format!("  {meaning:<10} {} ({} rows){why}\n", line(value), event.rows));
            }
            told.push_str(&format!("  {:<10} all others\n", events.other.name()));
        }
        None => told.push_str("events: the log has no event column\n"),
    }
    match &proposal.scale {
        Some(scale) => told.push_str(&format!("ratings: explicit feedback, {}\n", line(&scale.about))),
        None => told.push_str("ratings: none, implicit feedback\n"),
    }
    if proposal.last_day.is_none() {
        told.push_str("day: not found in the sample; replace YYYY-MM-DD by yours\n");
    }
    told.push_str(&format!("\nwritten: {}\nnext:\n", line(folder)));
    for command in next {
        told.push_str(&format!("  {}\n", line(command)));
    }
    told
}

fn table(mapping: &Mapping) -> String {
    let mut told = String::new();
    for taken in &mapping.taken {
        let about = if taken.about.is_empty() { String::new() } else { format!("  ({})", taken.about) };
        told.push_str(&format!("  {:<16} {}{}\n", taken.column, line(&taken.carried), line(&about)));
    }
    for open in &mapping.open {
        let need = match (open.is_needed, open.is_left_out()) {
            (true, _) => "; no job runs without it",
            (_, true) => "; not read until then",
            _ => "",
        };
        told.push_str(&format!("  {:<16} {UNDECIDED}: {}{need}\n", open.column, line(&open.why)));
    }
    for note in &mapping.notes {
        told.push_str(&format!("  note: {}\n", line(note)));
    }
    told
}

/// The commands to go on with: those that write inputs first, then a look at the job, what would stop it, its plan, its
/// run and a query.
pub(super) fn next(inputs: &Inputs, folder: &str, day: Option<NaiveDate>) -> Vec<String> {
    let job = shell(&format!("{folder}/job.toml"));
    let (start, end) = match day.and_then(|day| Some((day, day.succ_opt()?))) {
        Some((day, after)) => (day.to_string(), after.to_string()),
        None => ("YYYY-MM-DD".to_owned(), "YYYY-MM-DD".to_owned()),
    };
    let interval = format!("--interval-start {start} --interval-end {end}");
    let mut next = inputs.commands.clone();
    next.extend([
        format!("curec config {job}"),
        format!("curec check {job}"),
        format!("curec plan {job} {interval}"),
        format!("curec run {job} {interval}"),
        format!("curec sql --job {job} \"select reason from reason limit 5\""),
    ]);
    next
}

/// The README of the folder. `missing` are the keys of `[model]` that nobody has set.
pub(super) fn readme(name: &str, next: &[String], missing: &[&str], has_sql: bool) -> String {
    let commands: String = next.iter().map(|command| format!("    {}\n", line(command))).collect();
    let sql = match has_sql {
        true => "`sql/` and `schemas/` are copies of the built-in definitions and contracts, which the job uses.\n",
        false => "",
    };
    let models = match missing {
        [] => String::new(),
        missing => format!(" Set {} under `[model]` first.", missing.join(" and ")),
    };
    format!(
        "# {name}\n\n\
         A job of curec, proposed by `curec init` from a sample of the logs. Read `job.toml`: what could not be told is marked\n\
         {UNDECIDED} there. Then:\n\n{commands}\n\
         The day is the last one seen in the logs that was not in the future, if any.{models}\n\n\
         One of these runs it every night; read its head: `nightly.cron` (with `nightly.logrotate`), `systemd/`,\n\
         `kubernetes/nightly.yaml`, or for Airflow 3 `nightly_dag.py` or, with pods, `nightly_pod_dag.py`.\n\
         `prompts/` has copies of the built-in prompts.\n{sql}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_names_what_is_missing_and_ends_with_a_line() {
        let next = ["curec check job.toml".to_owned()];
        let both = readme("mine", &next, &["generator", "encoder"], false);
        assert!(both.contains("Set generator and encoder under `[model]` first.") && both.ends_with(".\n"), "{both}");
        let none = readme("mine", &next, &[], true);
        assert!(
            !none.contains("[model]") && none.contains("    curec check job.toml\n") && none.ends_with(".\n"),
            "{none}"
        );
    }
}
