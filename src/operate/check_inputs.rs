//! The inputs' part of `curec check`: a sample of each is held against its contract, and against what the job says of it.
//!
//! Knows inputs and what events mean. Reads the first rows of some files, and of items all ids.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch};
use chrono::{DateTime, Utc};

use crate::columns::{at, floats, integers, text};
use crate::config::{Job, Meanings};
use crate::error::{Error, Kind, Result};
use crate::night::tables::{CHOICE, contract_of, inputs_of, new_session, open_input_of, register_input};
use crate::operate::check_notes::Notes;
use crate::query::texts;
use crate::table::bad_rows::kinds;
use crate::table::contract::Contract;
use crate::table::input::InputTable;
use crate::table::sample::{Sample, sample_input};

/// Rows of each input that are looked at, about.
const ROWS: u64 = 20_000;
/// Below this share of events whose items are known the ids are taken to be of two kinds.
const LEAST_KNOWN: f64 = 0.5;
/// Names of events that are shown.
const SHOWN: usize = 5;
/// 1980-01-01, in microseconds since 1970: no log is older, and numbers read in a wrong unit are.
const OLDEST: i64 = 315_532_800_000_000;

/// The part's name.
const PART: &str = "inputs";

/// An input with its contract and its sample.
struct Looked {
    contract: Contract,
    input: InputTable,
    sample: Sample,
}

/// Looks at every input that the job names; events from `end` on lie in the future.
pub(super) async fn look(job: &Job, end: DateTime<Utc>, notes: &mut Notes<'_>) {
    let mut found: BTreeMap<&str, Looked> = BTreeMap::new();
    for (table, place) in inputs_of(job) {
        let Some(contract) = contract_in_part(job, table, notes) else { continue };
        let input = match open_input_of(job, &contract, place).await {
            Ok(input) => input,
            Err(e) => {
                for e in e.into_all() {
                    let is_given = e.context().iter().any(|(name, _)| *name == "key");
                    let e = if is_given { e } else { e.with("key", key_of(table)) };
                    // Without its file nothing is chosen, and nobody waits for it.
                    match table == CHOICE && e.kind() == Kind::NotArrived {
                        true => notes.warning(PART, &e),
                        false => notes.problem(PART, &e),
                    }
                }
                continue;
            }
        };
        let sample = sample_input(&contract, &input, ROWS).await;
        tell_of_rows(&contract, &input, &sample, notes);
        found.insert(table, Looked { contract, input, sample });
    }
    let Some(log) = found.get("interaction") else { return };
    if let Err(e) = look_at_events(job, log, end, notes) {
        notes.problem(PART, &e);
    }
    if let Some(items) = found.get("item").filter(|items| items.input.rows() > 0)
        && let Err(e) = look_for_items(job, log, items, notes).await
    {
        notes.problem(PART, &e);
    }
}

/// The contract of an input, without the columns of `[input.columns]` that it does not have, so that they hide nothing else;
/// `None`: it cannot be read. The first thing that is wrong with it is told where the tables are.
fn contract_in_part(job: &Job, table: &str, notes: &mut Notes<'_>) -> Option<Contract> {
    let (mut job, mut is_first) = (job.clone(), true);
    loop {
        let error = match contract_of(&job, table) {
            Ok(contract) => return Some(contract),
            Err(e) => e,
        };
        if !std::mem::take(&mut is_first) {
            notes.problem(PART, &error);
        }
        let (_, key) = error.context().iter().find(|(name, _)| *name == "key")?;
        let column = key.strip_prefix(&format!("input.columns.{table}."))?;
        let carried = &mut job.spec.input.columns;
        let named = match table {
            "interaction" => &mut carried.interaction.0,
            "item" => &mut carried.item.0,
            "review" => &mut carried.review.0,
            _ => &mut carried.pair.0,
        };
        let before = named.len();
        named.retain(|(name, _)| name != column);
        if named.len() == before {
            return None;
        }
    }
}

/// The key of the job that names an input.
fn key_of(table: &str) -> String {
    if table == CHOICE { "correct.item_choices".to_owned() } else { format!("input.{table}") }
}

fn of_input(input: &InputTable, what: String) -> Error {
    Error::new(Kind::Input, what).with("file", &input.location).with("table", &input.table)
}

/// What the rows themselves say.
fn tell_of_rows(contract: &Contract, input: &InputTable, sample: &Sample, notes: &mut Notes<'_>) {
    for e in &sample.wrong {
        notes.problem(PART, e);
    }
    for warning in &input.warnings {
        notes.warning(PART, &of_input(input, warning.clone()));
    }
    let Sample { rows, left_out, good, .. } = sample;
    if left_out.rows > 0 {
        let (n, kinds) = (left_out.rows, kinds(&left_out.found));
        let what = format!("{n} of {rows} rows of the sample break the contract and are left out: {kinds}");
        notes.warning(PART, &of_input(input, what));
    }
    if *rows == 0 && sample.wrong.is_empty() {
        let what = match contract.name.as_str() {
            "item" => "the item table has no rows: nothing is told of items",
            _ => "the input has no rows",
        };
        notes.warning(PART, &of_input(input, what.to_owned()));
    }
    let titles = contract.column("title").filter(|_| contract.name == "item");
    let is_untitled =
        |batch: &RecordBatch| batch.column_by_name("title").is_none_or(|c| c.logical_null_count() == c.len());
    if titles.is_some() && !good.is_empty() && good.iter().all(is_untitled) {
        let error = of_input(input, "no item of the sample has a title".to_owned());
        let hint =
            "prompts name items by their titles: where they are in another column, say so in [input.columns.item]";
        notes.warning(PART, &error.hint(hint));
    }
}

/// What the events of the sample say.
#[derive(Debug, Default, PartialEq)]
struct Events {
    n: u64,
    /// From the moment on that is the end of what is known.
    later: u64,
    /// Before 1980.
    ancient: u64,
    rated: u64,
    liked: u64,
    /// Events without a rating, by the value of `event`.
    unrated: BTreeMap<Option<String>, u64>,
}

impl Events {
    fn add(&mut self, batch: &RecordBatch, meanings: &Meanings, threshold: f64, end: i64) -> Result<()> {
        let has = |name: &str| batch.column_by_name(name).is_some();
        let times = integers(batch, "event_timestamp")?;
        let ratings = if has("rating") { Some(floats(batch, "rating")?) } else { None };
        let events = if has("event") { Some(text(batch, "event")?) } else { None };
        for row in 0..batch.num_rows() {
            self.n += 1;
            self.later += u64::from(times.value(row) >= end);
            self.ancient += u64::from(times.value(row) < OLDEST);
            let event = events.as_ref().and_then(|events| at(events, row));
            match ratings.as_ref().filter(|ratings| ratings.is_valid(row)) {
                Some(ratings) => {
                    self.rated += 1;
                    self.liked += u64::from(ratings.value(row) >= threshold);
                }
                None => {
                    self.liked += u64::from(meanings.of(event).liked() == Some(true));
                    *self.unrated.entry(event.map(str::to_owned)).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    /// Values of `event` that `is_meant` does not know, the most frequent first, and how many events have them.
    fn values(&self, is_meant: impl Fn(&str) -> bool) -> (Vec<String>, u64) {
        let unknown = self.unrated.iter().filter(|(event, _)| event.as_deref().is_none_or(|event| !is_meant(event)));
        let mut unknown: Vec<_> = unknown.collect();
        unknown.sort_by_key(|(event, n)| (std::cmp::Reverse(**n), (*event).clone()));
        let name =
            |event: &Option<String>| event.as_ref().map_or("none at all".to_owned(), |event| format!("`{event}`"));
        (unknown.iter().map(|(event, _)| name(event)).collect(), unknown.iter().map(|(_, n)| **n).sum())
    }
}

/// Moments that cannot be, and what events mean.
fn look_at_events(job: &Job, log: &Looked, end: DateTime<Utc>, notes: &mut Notes<'_>) -> Result<()> {
    let Looked { contract, input, sample } = log;
    let mut events = Events::default();
    for batch in &sample.good {
        events.add(batch, &contract.events, f64::from(job.spec.history.liked()), end.timestamp_micros())?;
    }
    let Events { n, later, ancient, rated, liked, .. } = events;
    if n == 0 {
        return Ok(());
    }
    let problem = |notes: &mut Notes<'_>, what: String, hint: &str| {
        notes.problem(PART, &of_input(input, what).hint(hint));
    };
    let warning = |notes: &mut Notes<'_>, what: String, hint: &str| {
        notes.warning(PART, &of_input(input, what).hint(hint));
    };
    let unit = "is [input] timestamp_unit that of the files? --at says of which day to look at the log";
    match later {
        0 => {}
        later if later == n => problem(notes, format!("all {n} events of the sample lie in the future of {end}"), unit),
        later => warning(notes, format!("{later} of {n} events of the sample lie in the future of {end}"), unit),
    }
    if ancient == n {
        problem(notes, format!("all {n} events of the sample lie before 1980"), unit);
    } else if ancient > 0 {
        warning(notes, format!("{ancient} of {n} events of the sample lie before 1980"), unit);
    }
    let spec = &job.spec.events;
    let meaning = "say in [events] what the values of the column event mean; [history] like_threshold says from which rating on \
                   an item is liked";
    // By quantiles some of every user's ratings are likes.
    if liked == 0 && spec.like_quantile == 0.0 {
        problem(notes, format!("none of {n} events of the sample says that a user likes an item"), meaning);
    }
    if rated == 0 && spec.meaning.0.is_empty() {
        warning(
            notes,
            format!("none of {n} events of the sample has a rating: [events] alone says what they mean"),
            meaning,
        );
    }
    let is_named = |event: &str| spec.meaning.0.iter().any(|(name, _)| name == event);
    let (values, of) = events.values(is_named);
    let shown = values.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    let more = if values.len() > SHOWN { ", ..." } else { "" };
    let other = &spec.other;
    if !spec.meaning.0.is_empty() && of > 0 {
        let what = format!(
            "{of} of {n} events of the sample have no rating and a value of the column event that [events] meaning does not name: \
             {shown}{more}; [events] other makes them `{other}`"
        );
        warning(notes, what, "name them in [events] meaning; values are compared letter by letter");
    } else if spec.meaning.0.is_empty() && values.len() > 1 {
        let what = format!("events of several kinds without a rating all count as `{other}`: {shown}{more}");
        warning(notes, what, meaning);
    }
    Ok(())
}

/// Whether the events' items are those of the item table.
async fn look_for_items(job: &Job, log: &Looked, items: &Looked, notes: &mut Notes<'_>) -> Result<()> {
    let Some(first) = log.sample.good.first() else { return Ok(()) };
    let session = new_session(job)?;
    session.register_batches("interaction", first.schema(), log.sample.good.clone())?;
    register_input(&session, &items.contract, &items.input).await?;
    let (mut n, mut known) = (0_i64, 0_i64);
    for batch in session.sql(texts::KNOWN_EVENTS, &[]).await?.collect().await? {
        n += integers(&batch, "n")?.iter().flatten().sum::<i64>();
        known += integers(&batch, "known")?.iter().flatten().sum::<i64>();
    }
    let (mut unknown, mut example) = (0_i64, String::new());
    for batch in session.sql(texts::UNKNOWN_ITEMS, &[]).await?.collect().await? {
        unknown += integers(&batch, "n")?.iter().flatten().sum::<i64>();
        example = at(&text(&batch, "example")?, 0).unwrap_or_default().to_owned();
    }
    if unknown == 0 {
        return Ok(());
    }
    let mut there = String::new();
    if let Some(batch) = items.sample.good.first() {
        let ids = text(batch, "item_id")?;
        there = at(&ids, 0).map_or_else(String::new, |id| format!(", where ids are like `{id}`"));
    }
    let share = known as f64 / n.max(1) as f64;
    let what = format!(
        "{known} of {n} events of the sample ({:.1} %) have an item that is in the table item{there}; {unknown} items are not, \
         such as `{example}`",
        100.0 * share
    );
    let hint = "both tables need the same ids, which are compared letter by letter: `7` is neither `07` nor `7.0`";
    let error = of_input(&log.input, what).hint(hint);
    match share < LEAST_KNOWN {
        true => notes.problem(PART, &error),
        false => notes.warning(PART, &error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float32Array, StringArray, TimestampMicrosecondArray};

    use super::*;
    use crate::config::Meaning;

    #[test]
    fn events_are_counted_by_what_they_say() {
        let columns: [(&str, ArrayRef); 3] = [
            (
                "event_timestamp",
                Arc::new(
                    TimestampMicrosecondArray::from(vec![5, OLDEST, OLDEST + 9, OLDEST + 10]).with_timezone("UTC"),
                ),
            ),
            ("rating", Arc::new(Float32Array::from(vec![Some(4.0), Some(1.0), None, None]))),
            ("event", Arc::new(StringArray::from(vec![Some("rate"), None, Some("buy"), None]))),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, a)| (n, a, true))).unwrap();
        let meanings = Meanings::new([("buy".to_owned(), Meaning::Like)], Meaning::Nothing);
        let mut events = Events::default();
        events.add(&batch, &meanings, 4.0, OLDEST + 10).unwrap();
        let unrated = BTreeMap::from([(None, 1), (Some("buy".to_owned()), 1)]);
        assert_eq!(events, Events { n: 4, later: 1, ancient: 1, rated: 2, liked: 2, unrated });
        assert_eq!(events.values(|event| event == "buy"), (vec!["none at all".to_owned()], 1));
        assert_eq!(events.values(|_| false).1, 2);
    }
}
