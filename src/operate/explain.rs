//! One reason beside everything that it came from: evidence, prompt, answer, checks, correction, feature.
//!
//! Reads published partitions, the answers and, to say why there is nothing, the inputs; changes nothing. Columns are read by
//! their names: a partition of before a column lacks it, and one that a later version adds is shown. Texts of the data stay
//! data. Knows nothing of the command line.

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Map, Value, json};

use crate::config::Job;
use crate::error::{Context, Error, Kind, Result};
use crate::marks::{Marks, Piece, marked};
use crate::night::made_from::as_of;
use crate::night::tables::{
    contract_of, files_in, inputs_of, locate, new_session, open_input_of, register_input, register_responses,
};
use crate::operate::about::About;
use crate::printable::{Tone, Toned, line};
use crate::query::session::{Param, Session};
use crate::query::texts;
use crate::table::contract::Contract;
use crate::table::partition::{CommitRecord, commit_record, partitions};
use crate::table::row_json::json_rows;
use crate::table::store::Location;

/// The columns of a prompt that are evidence, in the order in which they are shown.
const EVIDENCE: [&str; 9] =
    ["subject", "attributes", "content", "praise", "fault", "keywords", "liked", "disliked", "related"];
/// The columns that say which row it is.
const KEYS: [&str; 6] = ["kind", "user_id", "item_id", "as_of", "prompt_key", "dt"];
/// What is told of a score before its parts.
const OUTCOME: [&str; 3] = ["score", "accepted", "refusal"];
/// A field's texts stand in one line up to so many characters.
const ONE_LINE: usize = 100;
/// Numbers of an embedding that are shown.
const FIRST_NUMBERS: usize = 3;
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
    question: Question,
    /// What published the prompt.
    record: CommitRecord,
    prompt: Row,
    reason: Option<Row>,
    score: Option<Row>,
    response: Option<Row>,
    correction: Option<Row>,
    /// The reason as it was before the correction.
    corrected: Option<Row>,
    feature: Option<Row>,
    marks: Marks,
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
            files.extend(files_in(&self.root, day)?.into_iter().map(|file| (file.location, day.dt.clone())));
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

fn text<'a>(row: &'a Row, column: &str) -> Option<&'a str> {
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
fn evidence(prompt: &Row) -> Vec<(&'static str, Vec<String>)> {
    EVIDENCE.into_iter().map(|name| (name, texts_of(prompt, name))).filter(|(_, texts)| !texts.is_empty()).collect()
}

/// Why a reason was refused, in words.
fn refusal_words(code: &str) -> &'static str {
    match code {
        "no_evidence" => "there was no evidence to ask about",
        "error" => "there is no answer",
        "bad_format" => "the answer breaks its format",
        "empty" => "there is no text",
        "unfinished" => "it does not end with the end of a sentence",
        "too_short" => "it has too few words",
        "too_long" => "it has too many words",
        "language" => "it is in another language",
        "repetition" => "it repeats itself",
        "polarity" => "it argues for the opposite of its verdict",
        "ungrounded" => "it names what its evidence does not hold",
        "copied" => "it copies its evidence",
        "general" => "it would fit anything",
        "unlikely" => "the language model itself finds it unlikely",
        _ => "it did not pass this check",
    }
}

/// Why there is no reason, in words.
fn error_words(code: &str) -> &'static str {
    match code {
        "not_generated" => "nobody has asked the language model yet",
        "no_text" => "the answer has no text",
        "bad_format" => "the answer breaks its format",
        "too_long" => "the prompt is longer than the language model reads",
        "empty" => "the prompt is empty",
        "invalid_utf8" => "the answer is no text",
        "device_error" => "the device failed",
        "cancelled" => "the run was stopped",
        _ => "generation failed",
    }
}

/// A value in one line.
fn figure(value: &Value) -> String {
    match value {
        Value::Number(n) if n.is_f64() => format!("{:.3}", n.as_f64().unwrap_or_default()),
        Value::String(text) => line(text).into_owned(),
        Value::Array(list) => list.iter().map(figure).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}

/// The numbers of an embedding, their count and norm.
fn embedding(feature: &Row) -> Option<(Vec<f64>, usize, f64)> {
    let numbers: Vec<f64> = feature.get("embedding")?.as_array()?.iter().filter_map(Value::as_f64).collect();
    let norm = numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
    Some((numbers.iter().take(FIRST_NUMBERS).copied().collect(), numbers.len(), norm))
}

impl Explanation {
    fn said(&self) -> Option<&str> {
        text(self.reason.as_ref()?, "reason")
    }

    /// Whether the reason may become a feature, and why not, in words.
    fn outcome(&self) -> String {
        let Some(score) = &self.score else { return "not scored: reason_score has no row about it on that day".into() };
        if score.get("accepted") == Some(&Value::Bool(true)) {
            return "accepted".into();
        }
        match text(score, "refusal") {
            Some(code) => format!("refused ({}): {}", line(code), refusal_words(code)),
            None => "refused".into(),
        }
    }

    /// Why there is no reason, in words.
    fn failure(&self) -> String {
        let Some(reason) = &self.reason else { return "the table reason has no row about it on that day".into() };
        let code = text(reason, "error").unwrap_or("unknown");
        let detail = self.response.as_ref().and_then(|row| text(row, "error_detail"));
        let detail = detail.map_or_else(String::new, |detail| format!("; {}", line(detail)));
        format!("{} ({}){detail}", error_words(code), line(code))
    }

    /// What the model wrote, where the reason is not simply its end.
    fn answer(&self) -> Option<&str> {
        let answer = text(self.response.as_ref()?, "text")?;
        (!self.said().is_some_and(|said| said.ends_with(answer.trim_end()))).then_some(answer)
    }

    /// What is known of the answer's tokens.
    fn tokens(&self) -> Row {
        let of = |row: &Option<Row>, name: &str| row.as_ref()?.get(name).filter(|value| !value.is_null()).cloned();
        let any = |name: &str| of(&self.reason, name).or_else(|| of(&self.response, name));
        let names = ["prompt_tokens", "cached_tokens", "completion_tokens", "finish"];
        let mut all: Row = names.into_iter().filter_map(|name| Some((name.to_owned(), any(name)?))).collect();
        let generated = any("completion_tokens").and_then(|n| n.as_f64()).filter(|n| *n > 0.0);
        let mean = any("logprob_sum").and_then(|sum| Some(sum.as_f64()? / generated?));
        all.extend(mean.map(|mean| ("mean_logprob".to_owned(), json!(mean))));
        all
    }

    /// Everything as one JSON object. `used` are the words and titles of the evidence that the reason uses, by field;
    /// `unsupported` are the words of the reason that no evidence holds.
    pub fn json(&self) -> String {
        let fields = evidence(&self.prompt);
        let used = fields.iter().map(|(name, texts)| {
            let pieces: Vec<Piece> = texts.iter().flat_map(|text| self.marks.used(text)).collect();
            ((*name).to_owned(), json!(marked(&pieces)))
        });
        let used: Row = used.collect();
        let mut shown: Row = fields.iter().map(|(name, texts)| ((*name).to_owned(), json!(texts))).collect();
        shown.insert("verdict".into(), self.prompt.get("verdict").cloned().unwrap_or_default());
        let checks = self.score.as_ref().map(|row| {
            let parts = row.iter().filter(|(name, _)| !KEYS.contains(&name.as_str()));
            parts.map(|(name, value)| (name.clone(), value.clone())).collect::<Row>()
        });
        let feature = self.feature.as_ref().map(|row| {
            let mut row = row.clone();
            if let Some((first, width, norm)) = embedding(&row) {
                row.insert("embedding".into(), json!({ "first": first, "width": width, "norm": norm }));
            }
            row
        });
        let correction = self.correction.as_ref().map(|row| {
            let mut row = row.clone();
            row.insert("from".into(), json!(self.corrected.as_ref().and_then(|of| text(of, "reason"))));
            row
        });
        let of =
            |row: &Option<Row>, name: &str| row.as_ref().and_then(|row| row.get(name)).cloned().unwrap_or_default();
        let object = json!({
            "kind": self.prompt.get("kind"),
            "id": self.question.about.id(),
            "user_id": self.question.about.user_id(),
            "item_id": self.question.about.item_id(),
            "dt": self.record.dt,
            "as_of": self.prompt.get("as_of"),
            "reason": self.said(),
            "error": of(&self.reason, "error"),
            "accepted": of(&self.score, "accepted"),
            "outcome": self.outcome(),
            "evidence": shown,
            "used": used,
            "unsupported": marked(&self.marks.unsupported()),
            "checks": checks,
            "tokens": self.tokens(),
            "answer": of(&self.response, "text"),
            "correction": correction,
            "feature": feature,
            "from": {
                "dt": self.record.dt,
                "run_id": self.record.run_id,
                "fingerprint": self.record.fingerprint,
                "prompt_key": self.prompt.get("prompt_key"),
                "model_digest": of(&self.response, "model_digest"),
                "answered_by": of(&self.response, "run_id"),
            },
            "prompt": { "text": self.prompt.get("prompt_text"), "stem": self.prompt.get("answer_stem") },
        });
        format!("{object}\n")
    }

    /// The same for a person: the reason first, the prompt last.
    pub fn pieces(&self) -> Vec<Toned> {
        let mut page = Page::default();
        let title = text(&self.prompt, "subject").map_or_else(String::new, |title| format!(", {}", line(title)));
        let moment = text(&self.prompt, "as_of").unwrap_or_default();
        let dt = &self.record.dt;
        page.plain(format!("{}{title}; day {dt}, events before {moment}\n\n", self.question.about.name()));
        self.reason_on(&mut page);
        self.evidence_on(&mut page);
        self.checks_on(&mut page);
        self.correction_on(&mut page);
        self.feature_on(&mut page);
        self.origin_on(&mut page);
        if let Some(answer) = self.answer() {
            page.heading("answer");
            page.block(answer);
        }
        page.heading("prompt");
        page.block(text(&self.prompt, "prompt_text").unwrap_or_default());
        if let Some(stem) = text(&self.prompt, "answer_stem").filter(|stem| !stem.is_empty()) {
            page.heading("stem");
            page.block(stem);
        }
        page.pieces
    }

    fn reason_on(&self, page: &mut Page) {
        let score = self.score.as_ref().and_then(|row| row.get("score")).filter(|score| !score.is_null());
        let score = score.map_or_else(String::new, |score| format!(", score {}", figure(score)));
        if self.said().is_none() {
            page.plain(format!("no reason: {}\n{}\n", self.failure(), self.outcome()));
            return;
        }
        let unsupported = self.marks.unsupported();
        page.marked(&unsupported, Tone::Foreign);
        page.plain(format!("\n{}{score}\n", self.outcome()));
        page.plain("marks: ");
        page.tone(Tone::Used, "used by the reason");
        page.plain(", ");
        page.tone(Tone::Foreign, "in no evidence");
        page.plain("\n");
    }

    fn evidence_on(&self, page: &mut Page) {
        page.heading("evidence");
        page.fact("verdict", self.prompt.get("verdict").map(figure).unwrap_or_default());
        for (name, texts) in evidence(&self.prompt) {
            let length: usize = texts.iter().map(|text| text.chars().count() + 2).sum();
            let between = if length > ONE_LINE { format!("\n{:14}", "") } else { "; ".to_owned() };
            page.plain(format!("  {name:<12}"));
            for (i, text) in texts.iter().enumerate() {
                if i > 0 {
                    page.plain(between.clone());
                }
                page.marked(&self.marks.used(text), Tone::Used);
            }
            page.plain("\n");
        }
    }

    fn checks_on(&self, page: &mut Page) {
        page.heading("checks");
        let Some(score) = &self.score else { return page.plain(format!("  {}\n", self.outcome())) };
        for name in OUTCOME {
            if let Some(value) = score.get(name).filter(|value| !value.is_null()) {
                page.fact(name, figure(value));
            }
        }
        let is_part = |name: &str| !KEYS.contains(&name) && !OUTCOME.contains(&name);
        let parts = score.iter().filter(|(name, value)| is_part(name) && !value.is_null());
        let parts: Vec<String> = parts.map(|(name, value)| format!("{} {}", line(name), figure(value))).collect();
        page.fact("parts", parts.join(", "));
        let tokens = self.tokens();
        let tokens = tokens.iter().map(|(name, value)| format!("{name} {}", figure(value)));
        page.fact("tokens", tokens.collect::<Vec<_>>().join(", "));
    }

    fn correction_on(&self, page: &mut Page) {
        let Some(row) = &self.correction else { return };
        let told = |name: &str| row.get(name).filter(|value| !value.is_null()).map(figure);
        page.heading("correction");
        let is_this = row.get("corrected_from") == self.prompt.get("prompt_key");
        page.fact(
            "outcome",
            format!(
                "{}, known from {} on; of {} reason of {}",
                told("correction").unwrap_or_default(),
                told("as_of").unwrap_or_default(),
                if is_this { "this" } else { "an earlier" },
                told("from_as_of").unwrap_or_default()
            ),
        );
        let from = self.corrected.as_ref().and_then(|of| text(of, "reason"));
        page.fact("from", from.map_or_else(|| "(it is not there any more)".to_owned(), |from| line(from).into_owned()));
        page.fact("to", told("reason").unwrap_or_else(|| "(dropped)".to_owned()));
        page.fact(
            "gain",
            format!(
                "{} before, {} after, over {} outcome(s)",
                told("gain_before").unwrap_or_default(),
                told("gain_after").unwrap_or_else(|| "none".to_owned()),
                told("n_outcomes").unwrap_or_default()
            ),
        );
    }

    fn feature_on(&self, page: &mut Page) {
        page.heading("feature");
        let Some(row) = &self.feature else {
            return page.plain(format!("  {} has no row about it on that day\n", self.question.about.table()));
        };
        let names = ["event_timestamp", "n_reasons", "mean_score", "missing", "source"];
        let told = names.into_iter().filter_map(|name| {
            let value = row.get(name).filter(|value| !value.is_null())?;
            Some(format!("{name} {}", figure(value)))
        });
        page.fact(self.question.about.table(), told.collect::<Vec<_>>().join(", "));
        if let Some((first, width, norm)) = embedding(row) {
            let first: Vec<String> = first.iter().map(|x| format!("{x:.4}")).collect();
            let more = if width > first.len() { ", ..." } else { "" };
            page.fact("embedding", format!("[{}{more}], {width} numbers, norm {norm:.4}", first.join(", ")));
        }
    }

    fn origin_on(&self, page: &mut Page) {
        page.heading("from");
        let of_answer = |name: &str| self.response.as_ref().and_then(|row| text(row, name));
        let facts = [
            ("run", Some(self.record.run_id.as_str())),
            ("answered by", of_answer("run_id")),
            ("model", of_answer("model_digest")),
            ("prompt key", text(&self.prompt, "prompt_key")),
            ("fingerprint", Some(self.record.fingerprint.as_str())),
        ];
        for (name, value) in facts {
            page.fact(name, value.map_or_else(|| "not known".to_owned(), |value| line(value).into_owned()));
        }
    }
}

/// What is shown to a person, piece by piece. Data comes in through [`Page::marked`], [`Page::block`] or [`line()`].
#[derive(Default)]
struct Page {
    pieces: Vec<Toned>,
}

impl Page {
    fn tone(&mut self, tone: Tone, text: impl Into<String>) {
        self.pieces.push(Toned { tone, text: text.into() });
    }

    fn plain(&mut self, text: impl Into<String>) {
        self.tone(Tone::Plain, text);
    }

    fn heading(&mut self, text: &str) {
        self.plain("\n");
        self.tone(Tone::Heading, text);
        self.plain("\n");
    }

    fn fact(&mut self, name: &str, value: impl AsRef<str>) {
        self.plain(format!("  {name:<12}{}{}\n", if name.len() < 12 { "" } else { " " }, value.as_ref()));
    }

    fn marked(&mut self, pieces: &[Piece], tone: Tone) {
        for piece in pieces {
            self.tone(if piece.is_marked { tone } else { Tone::Plain }, line(&piece.text));
        }
    }

    /// A text of several lines.
    fn block(&mut self, text: &str) {
        for one in text.lines() {
            self.plain(format!("  {}\n", line(one)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::score::Refusal;

    #[test]
    fn every_refusal_has_words_of_its_own() {
        for refusal in Refusal::ALL {
            assert_ne!(refusal_words(refusal.as_str()), refusal_words(""), "{}", refusal.as_str());
        }
        let Ok(contract) = Contract::find("reason", None) else { return };
        for code in contract.column("error").and_then(|column| column.values.as_ref()).into_iter().flatten() {
            assert_ne!(error_words(code), error_words(""), "{code}");
        }
    }

    #[test]
    fn columns_are_read_by_name_and_empty_ones_are_no_evidence() {
        let prompt =
            json!({ "subject": null, "liked": ["Heat", ""], "keywords": [], "praise": ["loud"], "other": ["x"] });
        let prompt = prompt.as_object().cloned().unwrap_or_default();
        let fields = [("praise", vec!["loud".to_owned()]), ("liked", vec!["Heat".to_owned()])];
        assert_eq!(evidence(&prompt), fields);
        assert_eq!(figure(&json!(["a\x1b", 0.5, 3, true])), "a\\u{1b}; 0.500; 3; true");
        let feature = json!({ "embedding": [3.0, 4.0] });
        assert_eq!(embedding(&feature.as_object().cloned().unwrap_or_default()), Some((vec![3.0, 4.0], 2, 5.0)));
        assert_eq!(embedding(&Row::new()), None);
    }
}
