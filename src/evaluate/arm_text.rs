//! Which text an arm gives an item, or a user's history, as of an interval's end.
//!
//! Knows the published tables of the arm's job; knows nothing of vectors, or of what its texts are worth.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, ListArray};
use futures::TryStreamExt;

use crate::columns::{self, at};
use crate::config::Interval;
use crate::error::{Error, Kind, Result};
use crate::evaluate::arm::Arm;
use crate::query::session::{Param, Session};
use crate::query::texts;

/// What texts are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Items.
    Items,
    /// Users' histories.
    Histories,
}

impl About {
    fn kind(self) -> &'static str {
        match self {
            About::Items => "item",
            About::Histories => "history",
        }
    }

    /// The prompts and reasons of an interval, as queries name them.
    fn of(self, interval: Interval) -> [(&'static str, Param); 2] {
        [("kind", Param::Text(self.kind().into())), ("dt", Param::Text(interval.dt()))]
    }
}

/// Item or user and text, by id; of a history that was corrected there may be two, as behind its user's feature: what was
/// said anew, then what correction made of the reason before.
///
/// # Errors
/// What the query says.
pub async fn texts(session: &Session, arm: Arm, about: About, interval: Interval) -> Result<Vec<(String, String)>> {
    match (arm, about) {
        (Arm::Attributes, _) => attributes(session, about, interval).await,
        (Arm::Templates, _) => templates(session, about, interval).await,
        (Arm::Beside, _) => beside(session, about, interval).await,
        (arm, About::Histories) if arm.corrects() => corrected(session, interval).await,
        _ => reasons(session, about, interval).await,
    }
}

/// The evidence that prompts hold.
async fn attributes(session: &Session, about: About, interval: Interval) -> Result<Vec<(String, String)>> {
    let leads = match about {
        About::Items => [
            ("", "attributes"),
            ("People who like it like", "liked"),
            ("and", "related"),
            ("People who dislike it like", "disliked"),
        ],
        About::Histories => {
            [("", "attributes"), ("Likes", "liked"), ("What goes with it:", "related"), ("Dislikes", "disliked")]
        }
    };
    let mut rows = session.sql(texts::PROMPT_EVIDENCE, &about.of(interval)).await?.stream().await?;
    let mut texts = Vec::new();
    while let Some(batch) = rows.try_next().await? {
        let (ids, subjects) = (columns::text(&batch, "id")?, columns::text(&batch, "subject")?);
        let lists: Vec<(&str, ListArray)> = leads
            .into_iter()
            .map(|(lead, column)| {
                let list = batch.column_by_name(column).and_then(|c| c.as_list_opt::<i32>()).cloned();
                list.map(|l| (lead, l))
                    .ok_or_else(|| Error::new(Kind::Internal, "a prompt's evidence is no list").with("column", column))
            })
            .collect::<Result<_>>()?;
        for row in 0..batch.num_rows() {
            let mut text = if subjects.is_valid(row) { format!("{}. ", subjects.value(row)) } else { String::new() };
            for (lead, list) in &lists {
                let values = list.value(row);
                let names: Vec<&str> =
                    values.as_string_opt::<i32>().into_iter().flat_map(|v| v.iter().flatten()).collect();
                if !names.is_empty() {
                    text += format!("{lead} {}. ", names.join(", ")).trim_start();
                }
            }
            texts.push((ids.value(row).to_owned(), text.trim_end().to_owned()));
        }
    }
    // A history of items without titles or categories says nothing.
    texts.retain(|(_, text)| about == About::Items || !text.is_empty());
    Ok(texts)
}

/// The evidence, and after it the reason where one was accepted.
async fn beside(session: &Session, about: About, interval: Interval) -> Result<Vec<(String, String)>> {
    let said: HashMap<String, String> = reasons(session, about, interval).await?.into_iter().collect();
    let mut texts = attributes(session, about, interval).await?;
    for (id, text) in &mut texts {
        if let Some(reason) = said.get(id) {
            *text = format!("{text} {reason}");
        }
    }
    Ok(texts)
}

/// The reasons that the templates write of the same evidence: what an aligned model is taught.
async fn templates(session: &Session, about: About, interval: Interval) -> Result<Vec<(String, String)>> {
    rows(session, texts::TEMPLATE_REASONS, &about.of(interval)).await
}

/// The reasons that were accepted.
async fn reasons(session: &Session, about: About, interval: Interval) -> Result<Vec<(String, String)>> {
    rows(session, texts::PUBLISHED_REASONS, &about.of(interval)).await
}

/// As [`reasons`] of histories, and what the interval's outcomes made of those before.
async fn corrected(session: &Session, interval: Interval) -> Result<Vec<(String, String)>> {
    rows(session, texts::PUBLISHED_AND_CORRECTED_REASONS, &[("dt", Param::Text(interval.dt()))]).await
}

/// The rows of a query that have a `reason`, by `id`.
async fn rows(session: &Session, sql: &str, params: &[(&str, Param)]) -> Result<Vec<(String, String)>> {
    let mut rows = session.sql(sql, params).await?.stream().await?;
    let mut texts = Vec::new();
    while let Some(batch) = rows.try_next().await? {
        let (ids, reasons) = (columns::text(&batch, "id")?, columns::text(&batch, "reason")?);
        let row = |row| Some((ids.value(row).to_owned(), at(&reasons, row)?.to_owned()));
        texts.extend((0..batch.num_rows()).filter_map(row));
    }
    Ok(texts)
}
