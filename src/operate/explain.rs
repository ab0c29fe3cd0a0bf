//! One reason and everything that it came from, looked up: evidence, prompt, answer, score, correction, feature.
//!
//! Reads published partitions, the answers and, to say why there is nothing, the inputs; changes nothing. Columns are read by
//! their names: a partition of before a column lacks it, and one that a later version adds is shown. Knows nothing of how it
//! is shown.

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Map, Value};

use crate::config::Job;
use crate::error::{Context, Error, Kind, Result};
use crate::marks::Marks;
use crate::night::made_from::{as_of, rows_of};
use crate::night::tables::{
    contract_of, files_in, inputs_of, locate, new_session, open_input_of, register_input, register_responses,
};
use crate::operate::about::About;
use crate::printable::line;
use crate::query::session::{Param, Session};
use crate::query::texts;
use crate::table::contract::Contract;
use crate::table::partition::{CommitRecord, commit_record};
use crate::table::published::partitions;
use crate::table::row_json::json_rows;
use crate::table::store::Location;

/// The columns of a prompt that are evidence, in the order in which they are shown.
const EVIDENCE: [&str; 9] =
    ["subject", "attributes", "content", "praise", "fault", "keywords", "liked", "disliked", "related"];
/// The table that tells what became of items' reasons.
const ITEM_CORRECTION: &str = "item_correction";
/// The name under which partitions are read.
const EXPLAINED: &str = "explained";

/// A row by its columns.
pub type Row = Map<String, Value>;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Question {
    /// What the reason is about.
    pub about: About,
    /// Days that begin after this moment do not count; `None`: all do.
    pub at: Option<DateTime<Utc>>,
}

/// A reason and what it came from.
#[derive(Debug)]
pub struct Explanation {
    pub(super) question: Question,
    /// What published the prompt.
    pub(super) record: CommitRecord,
    pub(super) prompt: Row,
    pub(super) reason: Option<Row>,
    pub(super) score: Option<Row>,
    pub(super) response: Option<Row>,
    /// What became of an earlier reason of the user, or of the item's of that day.
    pub(super) correction: Option<Row>,
    /// The reason as it was before the correction.
    pub(super) corrected: Option<Row>,
    pub(super) feature: Option<Row>,
    pub(super) marks: Marks,
}

/// Looks up the newest reason about an item, a user, or both together.
///
/// # Errors
/// [`Kind::Usage`] where nothing is published, or nothing about it: with the days that were looked at, and why it may be so;
/// those of partitions and stores.
pub async fn explain(job: &Job, question: &Question) -> Result<Explanation> {
    let reader = Reader { job, root: locate(job, &job.spec.warehouse)?, session: new_session(job)?, question };
    let mut days = partitions(&reader.root, "reason_prompt").await?;
    days.sort_by(|a, b| b.dt.cmp(&a.dt));
    let (looked, later): (Vec<CommitRecord>, Vec<CommitRecord>) =
        days.into_iter().partition(|day| question.counts(day));
    let (Some(newest), Some(oldest)) = (looked.first(), looked.last()) else {
        return Err(reader.nothing_published(&later));
    };
    let found = match reader.newest("reason_prompt", std::slice::from_ref(newest)).await? {
        None => reader.newest("reason_prompt", looked.get(1..).unwrap_or_default()).await?,
        found => found,
    };
    let found = found.and_then(|row| Some((looked.iter().find(|day| Some(day.dt.as_str()) == text(&row, "dt"))?, row)));
    let Some((record, prompt)) = found else {
        return Err(reader.nothing_found(newest, oldest, looked.len(), &later).await);
    };
    let dt = &record.dt;
    let is_answer = |row: &Row| row.get("prompt_key") == prompt.get("prompt_key");
    let reason = reader.of_day("reason", dt).await?.filter(is_answer);
    let score = reader.of_day("reason_score", dt).await?.filter(is_answer);
    let (mut correction, mut corrected) = (None, None);
    if matches!(question.about, About::User(_)) {
        let mut days = partitions(&reader.root, "reason_correction").await?;
        days.retain(|day| question.counts(day));
        correction = reader.newest("reason_correction", &days).await?;
    }
    if let Some(row) = &correction {
        let from = text(row, "from_as_of").and_then(|moment| DateTime::parse_from_rfc3339(moment).ok());
        let mut days = partitions(&reader.root, "reason").await?;
        days.retain(|day| from.is_some_and(|from| as_of(day).is_some_and(|moment| moment == from)));
        let is_corrected = |of: &Row| of.get("prompt_key") == row.get("corrected_from");
        corrected = reader.newest("reason", &days).await?.filter(is_corrected);
    }
    if matches!(question.about, About::Item(_)) {
        // A day that was built again without the choices has its table of before beside it.
        let feature = commit_record(&reader.root, question.about.table(), dt).await?;
        if feature.is_some_and(|feature| feature.parts.contains_key(&rows_of(ITEM_CORRECTION))) {
            correction = reader.of_day(ITEM_CORRECTION, dt).await?.filter(is_answer);
        }
    }
    let said = reason.as_ref().and_then(|row| text(row, "reason")).unwrap_or_default();
    let evidence = evidence(&prompt);
    let marks = Marks::new(said, evidence.iter().flat_map(|(_, texts)| texts).map(String::as_str));
    Ok(Explanation {
        question: question.clone(),
        record: record.clone(),
        response: reader.response(&prompt).await?,
        feature: reader.of_day(question.about.table(), dt).await?,
        prompt,
        reason,
        score,
        correction,
        corrected,
        marks,
    })
}

impl Question {
    /// Whether a partition is of a day that counts.
    fn counts(&self, day: &CommitRecord) -> bool {
        let begins = NaiveDate::parse_from_str(&day.dt, "%Y-%m-%d").ok();
        self.at.is_none_or(|at| begins.is_some_and(|day| day <= at.date_naive()))
    }
}

/// Finds rows about one entity.
struct Reader<'a> {
    job: &'a Job,
    root: Location,
    session: Session,
    question: &'a Question,
}

impl Reader<'_> {
    /// The row of the newest of these days that has one.
    async fn newest(&self, table: &str, days: &[CommitRecord]) -> Result<Option<Row>> {
        let mut files = Vec::new();
        for day in days {
            files.extend(files_in(&self.root, day)?.into_iter().map(|file| (file, day.dt.clone())));
        }
        if files.is_empty() {
            return Ok(None);
        }
        let contract = lenient(contract_of(self.job, table)?);
        self.session.register_published(EXPLAINED, &contract, &files).await?;
        let (query, params) = self.question.about.newest(contract.column("kind").is_some());
        self.first(query, &params).await
    }

    async fn of_day(&self, table: &str, dt: &str) -> Result<Option<Row>> {
        match commit_record(&self.root, table, dt).await? {
            Some(record) => self.newest(table, &[record]).await,
            None => Ok(None),
        }
    }

    async fn response(&self, prompt: &Row) -> Result<Option<Row>> {
        let Some(key) = text(prompt, "prompt_key") else { return Ok(None) };
        register_responses(&self.session, &self.root, &lenient(contract_of(self.job, "response")?)).await?;
        self.first(texts::EXPLAINED_RESPONSE, &id(key)).await
    }

    async fn first(&self, query: &str, params: &[(&str, Param)]) -> Result<Option<Row>> {
        let rows = self.session.sql(query, params).await?.collect().await?;
        for batch in rows.iter().filter(|batch| batch.num_rows() > 0) {
            if let Some(row) = json_rows(batch)?.first() {
                return serde_json::from_str(row).context(Kind::Internal, || "a row is not JSON".into()).map(Some);
            }
        }
        Ok(None)
    }

    fn nothing_published(&self, later: &[CommitRecord]) -> Error {
        let Some(first) = later.last() else {
            return Error::new(Kind::Usage, "nothing is published yet")
                .with("warehouse", &self.root)
                .hint("`curec run` publishes reasons; is it the warehouse that the job writes to?");
        };
        Error::new(Kind::Usage, "nothing was published at or before this moment")
            .with("at", self.question.at.map_or_else(String::new, |at| at.to_rfc3339()))
            .with("first day", &first.dt)
            .hint(format!("choose --at {} or later, or leave it out for the newest", first.dt))
    }

    /// Says what was looked at, and what the inputs tell of the id.
    async fn nothing_found(
        &self,
        newest: &CommitRecord,
        oldest: &CommitRecord,
        days: usize,
        later: &[CommitRecord],
    ) -> Error {
        let mut told = Vec::new();
        if let Ok(Some(row)) = self.newest("reason_prompt", later).await {
            told.push(format!("a later day has it: --at {}", text(&row, "dt").unwrap_or_default()));
        }
        told.extend(self.in_inputs().await);
        let (job, ids) = (line(&self.job.origin), self.question.about.ids());
        told.push(format!("`curec sql --job {job} \"{ids}\"` shows ids as they stand there"));
        let span = if days == 1 { newest.dt.clone() } else { format!("{days} from {} to {}", oldest.dt, newest.dt) };
        Error::new(Kind::Usage, format!("there is no reason about the {}", self.question.about.name()))
            .with("published days that were looked at", span)
            .hint(told.join("; "))
    }

    /// What catalogue and log know of the ids. A pair needs a user with events and an item of the catalogue.
    async fn in_inputs(&self) -> Vec<String> {
        let (mut told, about) = (Vec::new(), &self.question.about);
        let (events, left_out) = match about {
            About::Item(_) => (texts::EXPLAINED_ITEM_EVENTS, Some("items, item_active_days or max_items")),
            About::User(_) => (texts::EXPLAINED_USER_EVENTS, Some("user_active_days or max_users")),
            About::Pair { .. } => (texts::EXPLAINED_USER_EVENTS, None),
        };
        if left_out.is_none() {
            told.push(match self.job.spec.input.pair.as_str() {
                "" => "the job names no candidates: [input] pair".to_owned(),
                _ => "it was no candidate of [input] pair, or [pairs] left it out".to_owned(),
            });
        }
        for (table, place) in inputs_of(self.job) {
            let (query, asked) = match (table, about.user_id(), about.item_id()) {
                ("interaction", Some(asked), _) | ("interaction", None, Some(asked)) => (events, asked),
                ("item", _, Some(asked)) => (texts::EXPLAINED_ITEM_ROWS, asked),
                _ => continue,
            };
            let looked = async {
                let contract = contract_of(self.job, table)?;
                let input = open_input_of(self.job, &contract, place).await?;
                register_input(&self.session, &contract, &input).await?;
                self.first(query, &id(asked)).await
            };
            let row = match looked.await {
                Ok(row) => row.unwrap_or_default(),
                Err(e) => {
                    told.push(format!("the input {table} cannot be read: {}", e.message()));
                    continue;
                }
            };
            let moment = |name| text(&row, name).unwrap_or_default();
            let (n, of) = (row.get("n").and_then(Value::as_u64).unwrap_or(0), about.part_of(table));
            let span =
                || format!("the log has {n} event(s) of {of}, from {} to {}", moment("earliest"), moment("latest"));
            told.push(match (table, n, left_out) {
                ("item", 0, _) => format!("the catalogue does not know {of}"),
                ("item", _, _) => format!("the catalogue knows {of}"),
                (_, 0, _) => format!("the log has no event of {of}"),
                (_, _, None) => span(),
                (_, _, Some(active)) => {
                    format!("{}: it was not active in these intervals, or [history] {active} left it out", span())
                }
            });
        }
        told
    }
}

/// The parameter of a query about one id.
fn id(id: &str) -> [(&'static str, Param); 1] {
    [("id", Param::Text(id.to_owned()))]
}

/// A contract by which a partition of before one of its columns can be read.
fn lenient(mut contract: Contract) -> Contract {
    contract.columns.iter_mut().for_each(|column| column.nullable = true);
    contract
}

pub(super) fn text<'a>(row: &'a Row, column: &str) -> Option<&'a str> {
    row.get(column)?.as_str()
}

/// The texts of a column, be it a text or a list.
fn texts_of(row: &Row, column: &str) -> Vec<String> {
    let texts = match row.get(column) {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    texts.into_iter().filter(|text| !text.is_empty()).collect()
}

/// The fields of a prompt that hold something.
pub(super) fn evidence(prompt: &Row) -> Vec<(&'static str, Vec<String>)> {
    EVIDENCE.into_iter().map(|name| (name, texts_of(prompt, name))).filter(|(_, texts)| !texts.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_read_by_name_and_empty_ones_are_no_evidence() {
        let prompt =
            json!({ "subject": null, "liked": ["Heat", ""], "keywords": [], "praise": ["loud"], "other": ["x"] });
        let prompt = prompt.as_object().cloned().unwrap_or_default();
        let fields = [("praise", vec!["loud".to_owned()]), ("liked", vec!["Heat".to_owned()])];
        assert_eq!(evidence(&prompt), fields);
    }
}
