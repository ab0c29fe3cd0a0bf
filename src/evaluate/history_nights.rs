//! The nights of an evaluation that describe users' histories as of several moments of the training period.
//!
//! Every moment is the end of an interval that begins at the one before it. An arm's nights are run in the order of time into
//! a warehouse of their own, so that correction finds what was said before, and so that nothing of theirs is among what the
//! arm says of items. Knows which keys make a job write of histories alone, and what became of its texts; knows nothing of
//! arms' own keys and runs nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Float32Type;
use chrono::{DateTime, Days, Utc};
use serde::Deserialize;

use crate::columns;
use crate::config::{Interval, Job, MAX_LOOKBACK_DAYS};
use crate::error::{Error, Kind, Result};
use crate::evaluate::history_blocks::{HistoryVectors, moments};
use crate::feature::Pooler;
use crate::generate::models::Models;
use crate::llm::device;
use crate::query::session::Session;
use crate::query::texts;
use crate::recommend::data::Log;
use crate::recommend::split::{Part, Split};

/// `[histories]` of an evaluation's file.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)] // every key is documented once, in config/evaluation.toml
pub struct HistoriesSpec {
    pub blocks: usize,
    pub max_users: u64,
}

/// Items are asked about with these words, all of them: one question, which is paid for once. Without the items the
/// evidence of histories would lack what goes with their likes.
const NO_QUESTION: &str = "=== user\nSay one.\n=== assistant\nOne\n";

/// Writes the template that asks all things the same question into a folder; its path.
///
/// # Errors
/// `Kind::Config` where it cannot be written.
pub fn no_question(folder: &Path) -> Result<PathBuf> {
    let question = folder.join("no-question.j2");
    std::fs::write(&question, NO_QUESTION).map_err(|e| {
        Error::new(Kind::Config, "cannot write a prompt template").with("file", question.display()).source(e)
    })?;
    Ok(question)
}

/// The nights, oldest first.
pub struct Nights {
    intervals: Vec<Interval>,
    max_users: u64,
    question: PathBuf,
}

impl Nights {
    /// The nights whose ends cut the training events into blocks, the last at `last`, a midnight. A file that they need goes
    /// into `folder`.
    ///
    /// # Errors
    /// `Kind::Input` for moments outside the calendar; `Kind::Config` where the file cannot be written.
    pub fn new(spec: &HistoriesSpec, split: &Split, last: DateTime<Utc>, folder: &Path) -> Result<Nights> {
        let question = no_question(folder)?;
        let intervals = intervals(&moments(split, last.timestamp_micros(), spec.blocks))?;
        Ok(Nights { intervals, max_users: spec.max_users, question })
    }

    /// Their intervals. A history is described as of an interval's end.
    pub fn intervals(&self) -> &[Interval] {
        &self.intervals
    }

    /// Where an arm's nights publish, below the arm's folder. Other moments are other nights: theirs must not be corrected.
    pub fn warehouse(&self, folder: &Path) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        for interval in &self.intervals {
            hasher.update(&interval.end.timestamp().to_le_bytes());
        }
        folder.join(format!("histories-{}", &hasher.finalize().to_hex()[..8])).join("warehouse")
    }

    /// Keys of the night of `interval`, on top of an arm's.
    pub fn keys(&self, interval: Interval, warehouse: &Path) -> Vec<String> {
        let days = |from: DateTime<Utc>, to: DateTime<Utc>| u64::try_from((to - from).num_days()).unwrap_or(0);
        let first = self.intervals.first().map_or(interval, |first| *first);
        // The first block begins with the log; whoever does nothing in a later one is left with what was said before.
        let active = if interval == first { 0 } else { days(interval.start, interval.end) };
        let back = days(first.start, self.intervals.last().map_or(interval.start, |last| last.start));
        vec![
            format!("warehouse={}", warehouse.display()),
            format!("history.user_active_days={active}"),
            format!("history.max_users={}", self.max_users),
            "history.items=active".into(),
            "history.item_active_days=0".into(),
            "history.max_items=0".into(),
            format!("prompt.item={}", self.question.display()),
            format!("correct.days={}", back.clamp(1, MAX_LOOKBACK_DAYS)),
            // Blocks differ in their length.
            "audit.row_count_band=0.0".into(),
            // Who has done nothing yet that has a name is asked about with an empty prompt: one vector less.
            "budget.max_failed_fraction=1.0".into(),
            // These describe training events alone, and the evaluation sees to it that no model has learned from what is held
            // out. Within training, a model may have learned from events after a block.
            "model.allow_later_training=true".into(),
        ]
    }

    /// The moments, for people.
    pub fn describe(&self) -> String {
        let ends: Vec<String> = self.intervals.iter().map(|i| i.end.format("%Y-%m-%d").to_string()).collect();
        let users = match self.max_users {
            0 => "all users".to_owned(),
            n => format!("at most {n} users"),
        };
        format!("{}; {users} that were active in the block before, the latest first", ends.join(", "))
    }
}

/// From each moment to the next, and the day before the first.
fn intervals(moments: &[i64]) -> Result<Vec<Interval>> {
    let outside =
        |micros: i64| Error::new(Kind::Input, "a block ends outside the calendar").with("microseconds", micros);
    let mut found: Vec<Interval> = Vec::new();
    for micros in moments {
        let end = DateTime::<Utc>::from_timestamp_micros(*micros).ok_or_else(|| outside(*micros))?;
        let start = match found.last() {
            Some(before) => before.end,
            None => end.checked_sub_days(Days::new(1)).ok_or_else(|| outside(*micros))?,
        };
        found.push(Interval { start, end });
    }
    Ok(found)
}

/// Vectors of texts of histories, by moment; the texts of each by user, as [`crate::evaluate::arm_text::texts`] has them.
///
/// # Errors
/// What the encoder says.
pub async fn vectors(job: &Job, log: &Log, texts: Vec<(i64, Vec<(String, String)>)>) -> Result<HistoryVectors> {
    let mut found = BTreeMap::new();
    for (moment, texts) in texts {
        for (user, vector) in pooled(job, texts).await? {
            if let Ok(user) = log.users().binary_search(&user) {
                found.insert((user as u32, moment), vector);
            }
        }
    }
    Ok(found.into())
}

/// The vectors of texts, which stand in the order of what they are about; several of one are pooled as behind its feature.
///
/// # Errors
/// What the encoder says.
pub async fn pooled(job: &Job, texts: Vec<(String, String)>) -> Result<BTreeMap<String, Vec<f32>>> {
    let models = Models::new(job)?;
    models.fetch().await?;
    device::guarded_blocking("embedding", move || embed(&models, &texts)).await
}

fn embed(models: &Arc<Models>, texts: &[(String, String)]) -> Result<BTreeMap<String, Vec<f32>>> {
    let sentences: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
    let vectors = if sentences.is_empty() { Vec::new() } else { models.embed(&sentences)? };
    let mut pooler = Pooler::new(models.encoder_files()?.dimension());
    texts.iter().zip(&vectors).try_for_each(|((about, _), vector)| pooler.push(about, vector))?;
    let batch = pooler.finish()?;
    let entities = columns::text(&batch, "entity_id")?;
    let rows = batch.column_by_name("embedding").and_then(|c| c.as_fixed_size_list_opt());
    let rows = rows.ok_or_else(|| Error::new(Kind::Internal, "pooled vectors are no lists"))?;
    let vector = |row: usize| rows.value(row).as_primitive_opt::<Float32Type>().map(|v| v.values().to_vec());
    let named = |(row, entity): (usize, Option<&str>)| Some((entity?.to_owned(), vector(row)?));
    Ok(entities.iter().enumerate().filter_map(named).collect())
}

/// Who has a vector, and which events see one, for people.
pub fn coverage(told: &HistoryVectors, split: &Split) -> String {
    let of = |events| format!("{} of {}", told.seen_by(events), events.len());
    format!(
        "{} users, as of {} moments; {} training events and {} test events see one",
        told.users(),
        told.moments(),
        of(split.train()),
        of(split.events(Part::Test))
    )
}

/// What correction did in all nights of a warehouse, for people; nothing where it did nothing.
///
/// # Errors
/// What the query says.
pub async fn corrections(session: &Session) -> Result<Option<String>> {
    let (mut all, mut kept, mut parts) = (0, 0, Vec::new());
    for batch in session.sql(texts::CORRECTION_TALLY, &[]).await?.collect().await? {
        let (fates, counts) = (columns::text(&batch, "correction")?, columns::integers(&batch, "n")?);
        let (before, after) = (columns::floats(&batch, "gain_before")?, columns::floats(&batch, "gain_after")?);
        for row in 0..batch.num_rows() {
            let (fate, n) = (columns::at(&fates, row).unwrap_or_default(), counts.value(row));
            let gain = match (before.iter().nth(row).flatten(), after.iter().nth(row).flatten()) {
                (Some(before), Some(after)) if fate != "kept" => format!(", gain {before:.4} to {after:.4}"),
                (Some(before), _) => format!(", gain {before:.4}"),
                _ => String::new(),
            };
            all += n;
            kept += if fate == "kept" { n } else { 0 };
            parts.push(format!("{n} {fate}{gain}"));
        }
    }
    Ok((all > 0).then(|| {
        format!(
            "{} of {all} reasons changed: {} (mean gain in nats, by the judge, over the outcomes that chose)",
            all - kept,
            parts.join("; ")
        )
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn nights(days: &[i64]) -> Nights {
        let day = 86_400_000_000;
        let intervals = intervals(&days.iter().map(|d| d * day).collect::<Vec<_>>()).unwrap();
        Nights { intervals, max_users: 400, question: "no-question.j2".into() }
    }

    #[test]
    fn a_block_begins_where_the_one_before_it_ends() {
        let nights = nights(&[3, 7, 20]);
        let told: Vec<(String, String)> =
            nights.intervals().iter().map(|i| (i.dt(), i.end.format("%Y-%m-%d").to_string())).collect();
        let expected = [("1970-01-03", "1970-01-04"), ("1970-01-04", "1970-01-08"), ("1970-01-08", "1970-01-21")];
        assert_eq!(told, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        let active = |interval| {
            let keys = nights.keys(interval, Path::new("w"));
            assert!(
                keys.contains(&"correct.days=5".to_owned()),
                "from the start of the last to that of the first: {keys:?}"
            );
            keys.into_iter().find(|k| k.starts_with("history.user_active_days")).unwrap()
        };
        let active: Vec<String> = nights.intervals().iter().map(|i| active(*i)).collect();
        assert_eq!(active, ["0", "4", "13"].map(|days| format!("history.user_active_days={days}")));
        assert!(intervals(&[i64::MAX]).is_err() && intervals(&[]).unwrap().is_empty());
    }

    #[test]
    fn every_key_is_one_of_a_job_and_other_moments_publish_elsewhere() {
        let nights = nights(&[3, 7]);
        let keys = nights.keys(nights.intervals()[1], Path::new("elsewhere"));
        let text = "name = \"x\"\n[input]\ninteraction = \"a\"\nitem = \"b\"\n[model]\ngenerator = \"g\"\nencoder = \"e\"\n\
                    [history]\nmax_users = 1\n";
        let job = Job::parse(text, "job.toml", &keys, &BTreeMap::new()).unwrap();
        assert_eq!((job.spec.warehouse.as_str(), job.spec.history.max_users), ("elsewhere", 400));
        assert_eq!((job.spec.history.item_active_days, job.spec.prompt.item.as_str()), (0, "no-question.j2"));
        crate::generate::prompt::PromptTemplate::parse(NO_QUESTION, "no question").unwrap();
        let folder = |n: &Nights| n.warehouse(Path::new("arm"));
        assert_eq!(folder(&nights), folder(&super::tests::nights(&[3, 7])));
        assert_ne!(folder(&nights), folder(&super::tests::nights(&[4, 7])));
    }
}
