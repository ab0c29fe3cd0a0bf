//! `curec check`: everything that would stop a night of a job, told at once.
//!
//! Asks each part of a night what is wrong with it: settings, templates, models, tables, the warehouse, and a sample of the
//! inputs. What one part finds keeps no other from being asked. Writes nothing, unless it is to try the warehouse.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Days, NaiveTime, Utc};

use crate::config::{Interval, Job};
use crate::error::{Error, Kind, Result};
use crate::generate::fields::Fields;
use crate::generate::model_look;
use crate::generate::models::{self, Models};
use crate::llm::encoder_files::EncoderFiles;
use crate::night::examine;
use crate::night::prepare::{FOREIGN_TEMPLATES, foreign_templates, held_to_encoder, open_projection};
use crate::night::tables::locate;
use crate::operate::check_inputs;
use crate::operate::check_notes::Notes;
use crate::registry::export;
use crate::registry::versions::{Registry, SCHEME};
use crate::reward::saved;
use crate::settings::Problem;
use crate::table::fetch::is_there;
use crate::table::store::Location;

pub use crate::operate::check_notes::Checked;

/// How to look.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The day of the night that is looked at: events after it lie in the future.
    pub at: DateTime<Utc>,
    /// Whether to write an object to the warehouse and remove it again.
    pub write: bool,
}

/// Looks at everything that a night of a job needs; `examined` is what [`Job::examine`] gave.
pub async fn check(examined: Result<(Job, Vec<Problem>)>, ask: Ask) -> Checked {
    let (job, problems) = match examined {
        Ok(examined) => examined,
        Err(e) => {
            let mut notes = Notes::default();
            notes.problem("settings", &e);
            return notes.checked();
        }
    };
    let mut notes = Notes::of(&job, problems, "`curec config` prints every key with its default and meaning");
    let interval = day_of(ask.at);
    let sound = templates(&job, &mut notes);
    let looked = model_look::look(&job).await;
    looked.wrong.iter().for_each(|e| notes.problem("models", e));
    let width = looked.encoder.as_ref().map(EncoderFiles::dimension);
    match models_of(sound) {
        Ok(models) => {
            learned(&job, &models, width.is_some(), &mut notes).await;
            let wrong = examine::tables(&job, &models, width, interval).await;
            wrong.iter().for_each(|e| notes.problem("tables", e));
        }
        Err(e) => notes.problem("models", &e),
    }
    if !job.spec.warehouse.is_empty()
        && let Err(e) = try_warehouse(&job, ask.write).await
    {
        notes.problem("warehouse", &keyed(e, "warehouse"));
    }
    check_inputs::look(&job, interval.end, &mut notes).await;
    notes.checked()
}

/// The night of the day that a moment lies in.
fn day_of(moment: DateTime<Utc>) -> Interval {
    let start = moment.date_naive().and_time(NaiveTime::MIN).and_utc();
    Interval { start, end: start.checked_add_days(Days::new(1)).unwrap_or(start) }
}

/// The error with the key of the job that it is about, unless it has one.
fn keyed(error: Error, key: &'static str) -> Error {
    match error.context().iter().any(|(name, _)| *name == "key") {
        true => error,
        false => error.with("key", key),
    }
}

/// Compiles and renders the templates; returns the job with built-in ones in the place of those that are wrong.
fn templates(job: &Job, notes: &mut Notes<'_>) -> Job {
    let fields = Fields::of(&job.spec.prompt);
    let mut sound = job.clone();
    let prompt = &mut sound.spec.prompt;
    let mut named = vec![("prompt.item", "item", &mut prompt.item), ("prompt.history", "history", &mut prompt.history)];
    if !job.spec.input.pair.is_empty() {
        named.push(("prompt.pair", "pair", &mut prompt.pair));
    }
    for (key, kind, name) in named {
        let template = models::template_of(job, name).and_then(|template| template.asking(&fields));
        if let Err(e) = template.and_then(|template| template.try_out(kind)) {
            notes.problem("templates", &keyed(e, key));
            *name = kind.to_owned();
        }
    }
    if !job.spec.correct.judge.is_empty()
        && let Err(e) = models::template_of(job, &job.spec.correct.template).and_then(|t| t.try_out("history"))
    {
        notes.problem("templates", &keyed(e, "correct.template"));
    }
    if let Some(kinds) = foreign_templates(&job.spec) {
        notes.warning("templates", &Error::new(Kind::Config, FOREIGN_TEMPLATES).with("templates", kinds));
    }
    sound
}

/// The models behind the functions of SQL, none of them opened. Where a job names one in a way that cannot be, that is told
/// already, and a name stands for it.
fn models_of(mut job: Job) -> Result<Arc<Models>> {
    Models::new(&job).or_else(|_| {
        let model = &mut job.spec.model;
        (model.generator, model.encoder, model.adapter) = ("none".to_owned(), "none".to_owned(), String::new());
        Models::new(&job)
    })
}

/// The judge and the projection; of those on a store only whether they are there.
async fn learned(job: &Job, models: &Models, has_encoder: bool, notes: &mut Notes<'_>) {
    for (key, text) in [("correct.judge", &job.spec.correct.judge), ("model.projection", &job.spec.model.projection)] {
        if text.is_empty() {
            continue;
        }
        if let Err(e) = look_at(job, key, text, has_encoder.then_some(models)).await {
            notes.problem("models", &keyed(e, key));
        }
    }
}

async fn look_at(job: &Job, key: &str, text: &str, encoder: Option<&Models>) -> Result<()> {
    let name = text.strip_prefix(SCHEME);
    let place = locate(job, if name.is_some() { &job.spec.project.registry } else { text })?;
    if place.local_path().is_none() {
        return match name {
            Some(name) => Registry::of(job)?.promoted(name).await.map(drop),
            None => is_there(&place).await,
        };
    }
    if key == "correct.judge" {
        return saved::digest(&export::judge(job, text).await?.0).map(drop);
    }
    let (_, _, projection) = open_projection(job).await?;
    encoder.map_or(Ok(()), |models| held_to_encoder(&projection, models))
}

/// Lists the warehouse's runs and, where it is to be tried, writes an object that nothing else looks at and removes it.
async fn try_warehouse(job: &Job, write: bool) -> Result<()> {
    let root = locate(job, &job.spec.warehouse)?;
    if root.local_path().is_some_and(|path| path.exists() && !path.is_dir()) {
        return Err(Error::new(Kind::Config, "the warehouse is no folder").hint("name a folder, or s3://bucket/prefix"));
    }
    root.child("_runs").list().await?;
    if write {
        let probe = root.child(&format!("_check-{}-{}", std::process::id(), Utc::now().timestamp_micros()));
        let tried = try_object(&probe).await;
        probe.delete().await?;
        tried?;
    }
    Ok(())
}

async fn try_object(probe: &Location) -> Result<()> {
    let bytes = Bytes::from_static(b"curec check\n");
    let is_written = probe.put_new(bytes.clone()).await?;
    match is_written && probe.get().await? == Some(bytes) {
        true => Ok(()),
        false => {
            Err(Error::new(Kind::Config, "what is written to the warehouse does not stand there").with("file", probe))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::parse_moment;

    #[test]
    fn a_night_is_the_day_of_its_moment() {
        for moment in ["2026-01-20", "2026-01-20T23:59:59Z"] {
            let night = day_of(parse_moment("--at", moment).unwrap());
            assert_eq!(night, Interval::parse("2026-01-20", "2026-01-21").unwrap());
        }
    }
}
