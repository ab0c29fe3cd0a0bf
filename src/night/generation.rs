//! The generate stage: prompts that nobody has answered yet go to the engine, answers come back as small segments.
//!
//! The `response` table is both the resume state and the cache across runs: what was flushed is never paid for again.
//! Rows are streamed to the engine and not pulled through a SQL function, because a query engine hands results over
//! only batch by batch, and an answer should be safe seconds after it is finished. An answer that the checks refuse is
//! asked for again at once, as often as the job allows; every answer is kept, with what the checks said.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::SchemaRef;
use futures::stream::{SelectAll, Stream, StreamExt, TryStreamExt};

use crate::cancel::CancelToken;
use crate::columns::{at, integers, text};
use crate::config::{BudgetSpec, CheckSpec, Interval, ResponseSpec};
use crate::error::{Context, Error, Kind, Result};
use crate::generate::format;
use crate::generate::models::{Models, no_device_fault};
use crate::generate::prompt::Evidence;
use crate::generate::row::{Outcome, Question, RowError, Written};
use crate::night::manifest::Usage;
use crate::night::receipts::{Paid, Receipts};
use crate::night::spending::{Limit, Purse, Unpaid};
use crate::query::session::BatchStream;
use crate::reward::names::Vocabulary;
use crate::reward::score::{Scored, evidence_of, score};
use crate::table::contract::Contract;
use crate::table::lease::Lease;
use crate::table::partition::Encoded;
use crate::table::store::Location;
use crate::telemetry::Progress;

/// Prompts handed to the engine or the endpoint at a time; two such chunks are in flight so that no slot waits for the next.
const CHUNK: usize = 1024;

/// A prompt at the engine.
struct Asked {
    key: String,
    prompt: String,
    stem: String,
    /// What the answer is held against; `None` where nothing is.
    evidence: Option<Evidence>,
    /// 1 the first time.
    attempt: u32,
}

/// One answer, or why there is none.
struct Answer {
    asked: Asked,
    prompt_tokens: u32,
    /// Whether the checks let it stand; `None` where nothing was.
    accepted: Option<bool>,
    /// Share of the stage's time, once it is shared out.
    seconds: Option<f64>,
    result: std::result::Result<Written, RowError>,
}

impl Answer {
    fn paid(&self) -> Paid {
        let tokens = |of: fn(&Written) -> u32| self.result.as_ref().map_or(0, |written| u64::from(of(written)));
        Paid {
            key: self.asked.key.clone(),
            attempt: self.asked.attempt,
            accepted: self.accepted,
            error: self.result.as_ref().err().map(|e| e.code().to_owned()),
            prompt_tokens: tokens(|written| written.prompt_tokens),
            cached_tokens: tokens(|written| written.cached_tokens),
            completion_tokens: tokens(|written| written.completion_tokens),
        }
    }
}

/// Answers as they come; an error is one of the run.
type Answers = Pin<Box<dyn Stream<Item = Result<Answer>> + Send>>;

/// Why the stage ends before its prompts do, and until when it waits for answers in flight.
struct Leaving {
    why: Error,
    until: tokio::time::Instant,
}

/// What answers are held against as they come.
pub struct Checks {
    /// What a reason must be like.
    pub check: CheckSpec,
    /// The attributes of the catalogue.
    pub vocabulary: Vocabulary,
    /// How often a prompt is asked at most until an answer stands; at least 1.
    pub attempts: u32,
}

impl Checks {
    fn accepts(&self, asked: &Asked, written: &Written) -> Option<bool> {
        let evidence = asked.evidence.as_ref()?;
        let reason = format::reason_text(&asked.stem, written.text.trim_end());
        let row = Scored {
            reason: reason.as_deref(),
            error: reason.is_none().then_some("bad_format"),
            finish: Some(written.finish.name()),
            logprob_sum: written.logprob_sum,
            completion_tokens: i64::from(written.completion_tokens),
            ..Scored::from_evidence(evidence)
        };
        Some(score(&row, &self.check, &self.vocabulary).refusal.is_none())
    }
}

/// Where answers go.
pub struct Sink<'a> {
    /// The warehouse.
    pub root: &'a Location,
    /// The contract of `response`.
    pub contract: &'a Contract,
    /// The run's right to pay for the interval.
    pub lease: &'a Lease,
    /// The run that pays.
    pub run_id: &'a str,
    /// The interval, for `created_timestamp`.
    pub interval: Interval,
    /// How often to commit.
    pub response: &'a ResponseSpec,
    /// How many rows may fail.
    pub budget: &'a BudgetSpec,
    /// Different prompts of the interval, answered before or not: what the budget's share is a share of, so that a run
    /// that goes on where another died is held to the same.
    pub total: u64,
    /// Rows to generate for.
    pub waiting: u64,
    /// What the run may still spend, where the job has a cap.
    pub purse: Option<&'a Purse>,
    /// Where a process that answers for another one's run leaves its receipts.
    pub receipts: Option<&'a Receipts>,
}

/// Generates for every row of `pending` (prompt_key, prompt_text, answer_stem; keys are distinct) and commits the
/// answers as they come. With `checks` the rows have the evidence of `reason_prompt` and `attempts`, how often each was
/// answered before, and what is refused is asked for again. Returns what a spend cap has left unpaid: once it is reached no
/// prompt is begun, nor asked again.
///
/// # Errors
/// [`Kind::Budget`] when too many rows failed and [`Kind::Interrupted`] when `stop` was requested; what had finished is
/// committed in both cases. [`Kind::Temporary`] when the device failed, or an endpoint does not answer for long, and
/// [`Kind::Config`] when it takes no prompts. [`Kind::Busy`] when another run has taken the lease, and pays.
pub async fn generate(
    mut pending: BatchStream,
    models: &Arc<Models>,
    checks: Option<&Checks>,
    sink: &Sink<'_>,
    stop: &CancelToken,
    progress: &Progress,
    usage: &mut Usage,
) -> Result<Option<Unpaid>> {
    let started = Instant::now();
    let digest = models.model_name()?;
    let mut writer = Writer { sink, digest, waiting: Vec::new(), since: started, shared_until: started };
    let mut in_flight: SelectAll<Answers> = SelectAll::new();
    let mut exhausted = false;
    let mut outstanding = 0usize;
    // What is handed over is begun, so with a cap no more than the engine has room for, and than is likely to be paid.
    let room = sink.purse.map_or(CHUNK, |_| models.at_once());
    let mut held: VecDeque<Asked> = VecDeque::new();
    let (mut begun, mut refused_last) = (0u64, 0u64);
    let (generated, prompt_tokens, completion_tokens) = (usage.generated, usage.prompt_tokens, usage.completion_tokens);
    let spent = |usage: &Usage| -> Option<Limit> {
        sink.purse?.reached(usage.prompt_tokens - prompt_tokens, usage.completion_tokens - completion_tokens)
    };
    let mut limit = None;
    // Once the stage is to end, what is in flight at an endpoint is paid and waited for; nothing more is sent.
    let (halt, mut leaving) = (CancelToken::default(), None::<Leaving>);
    let leave = |why: Error| {
        halt.request();
        Some(Leaving { why, until: tokio::time::Instant::now() + models.drain() })
    };
    let period = Duration::from_secs_f64(sink.response.flush_seconds);
    let outcome = loop {
        let is_over = |leaving: &mut Leaving| outstanding == 0 || leaving.until <= tokio::time::Instant::now();
        if let Some(Leaving { why, .. }) = leaving.take_if(is_over) {
            break Err(why);
        }
        limit = limit.or_else(|| spent(usage));
        if leaving.is_none() && limit.is_none() && !exhausted && outstanding < room {
            if held.is_empty() {
                match next_chunk(&mut pending, checks.is_some()).await {
                    Ok(Some(rows)) => held = rows.into(),
                    Ok(None) => exhausted = true,
                    Err(e) => break Err(e),
                }
                continue;
            }
            let answered = usage.generated - generated;
            let n = match sink.purse {
                None => held.len(),
                // The first answer tells what one costs.
                Some(_) if answered == 0 => usize::from(outstanding == 0),
                Some(purse) => {
                    let paid = [usage.prompt_tokens - prompt_tokens, usage.completion_tokens - completion_tokens];
                    let most = held.len().min(room - outstanding);
                    purse.room(paid, answered, outstanding as u64, most as u64) as usize
                }
            };
            if n > 0 {
                match submit(models, held.drain(..n).collect(), &halt).await {
                    Ok(answers) => in_flight.push(answers),
                    Err(e) => break Err(e),
                }
                outstanding += n;
                begun += n as u64;
                continue;
            }
        }
        if outstanding == 0 {
            break Ok(());
        }
        let flush_at = tokio::time::Instant::from_std(writer.since + period);
        let leave_at = leaving.as_ref().map_or(flush_at, |leaving| leaving.until);
        let answer = tokio::select! {
            answer = in_flight.next() => answer,
            () = tokio::time::sleep_until(flush_at) => {
                if let Err(e) = writer.flush().await {
                    break Err(e);
                }
                continue;
            }
            () = tokio::time::sleep_until(leave_at), if leaving.is_some() => continue,
            () = stop.requested(), if leaving.is_none() => {
                leaving = leave(stopped());
                continue;
            }
        };
        let mut answer = match answer {
            Some(Ok(answer)) => answer,
            Some(Err(e)) => {
                outstanding -= 1;
                // What fails because the stage is left is not why it is.
                if leaving.is_none() {
                    leaving = leave(e);
                }
                continue;
            }
            None => break Err(Error::new(Kind::Temporary, "the engine ended before all rows were answered")),
        };
        outstanding -= 1;
        if halt.is_requested() && matches!(answer.result, Err(RowError::Cancelled)) {
            continue;
        }
        let (mut tokens, mut again) = (0, None);
        match &answer.result {
            Ok(c) => {
                usage.generated += 1;
                usage.prompt_tokens += u64::from(c.prompt_tokens);
                usage.cached_tokens += u64::from(c.cached_tokens);
                usage.completion_tokens += u64::from(c.completion_tokens);
                tokens = u64::from(c.completion_tokens);
                answer.accepted = checks.and_then(|checks| checks.accepts(&answer.asked, c));
                let asked = &answer.asked;
                let may_ask = leaving.is_none() && checks.is_some_and(|checks| asked.attempt < checks.attempts);
                if answer.accepted == Some(false) && may_ask {
                    limit = limit.or_else(|| spent(usage));
                    match limit {
                        None => again = Some(asked.once_more()),
                        Some(_) => refused_last += 1,
                    }
                }
            }
            Err(e) => {
                if let Err(lost) = no_device_fault(e) {
                    break Err(lost);
                }
                tracing::warn!(prompt_key = answer.asked.key, error = e.code(), detail = %e, "a prompt failed");
                // A further attempt that fails leaves the prompt the answer that it has.
                if answer.asked.attempt == 1 {
                    *usage.failed.entry(e.code().to_string()).or_default() += 1;
                }
            }
        }
        progress.advance(u64::from(again.is_none()), tokens);
        if let Err(e) = writer.push(answer).await {
            break Err(e);
        }
        if let Some(asked) = again {
            usage.asked_again += 1;
            match submit(models, vec![asked], &halt).await {
                Ok(answers) => in_flight.push(answers),
                Err(e) => break Err(e),
            }
            outstanding += 1;
        }
        if leaving.is_none()
            && let Err(e) = within_budget(sink.budget, &usage.failed, sink.total)
        {
            leaving = leave(e);
        }
    };
    drop(in_flight);
    let flushed = writer.flush().await;
    usage.seconds += started.elapsed().as_secs_f64();
    outcome.and(flushed)?;
    let prompts = sink.waiting.saturating_sub(begun) + refused_last;
    Ok(limit.filter(|_| prompts > 0).map(|limit| Unpaid { limit, prompts }))
}

pub(super) fn stopped() -> Error {
    Error::new(Kind::Interrupted, "stopped by a signal while generating")
        .hint("finished answers are kept; run the same command again")
}

/// The share is one of all prompts, not of those that are done: prompts that are too long fail at once, before the first
/// answer, and must not stop a run that they are a small part of.
pub(super) fn within_budget(budget: &BudgetSpec, failed: &BTreeMap<String, u64>, total: u64) -> Result<()> {
    let failures: u64 = failed.values().sum();
    let over_share = failures as f64 > budget.max_failed_fraction * total as f64;
    let over_rows = budget.max_failed_rows > 0 && failures > budget.max_failed_rows;
    if !over_share && !over_rows {
        return Ok(());
    }
    let codes: Vec<String> = failed.iter().map(|(code, n)| format!("{code}: {n}")).collect();
    let message = format!("{failures} of {total} prompts failed, more than the failure budget allows");
    Err(Error::new(Kind::Budget, message)
        .with("failures", codes.join(", "))
        .hint("see `select * from response where error is not null`; fix the cause or raise [budget]"))
}

impl Asked {
    fn once_more(&self) -> Asked {
        Asked {
            key: self.key.clone(),
            prompt: self.prompt.clone(),
            stem: self.stem.clone(),
            evidence: self.evidence.clone(),
            attempt: self.attempt + 1,
        }
    }
}

/// The next rows to generate for.
async fn next_chunk(pending: &mut BatchStream, is_judged: bool) -> Result<Option<Vec<Asked>>> {
    let mut rows = Vec::new();
    while rows.len() < CHUNK {
        let Some(batch) = pending.try_next().await? else { break };
        let columns = [text(&batch, "prompt_key")?, text(&batch, "prompt_text")?, text(&batch, "answer_stem")?];
        let value = |column: &StringArray, i| at(column, i).unwrap_or_default().to_string();
        let (mut evidence, attempts) = match is_judged {
            true => (evidence_of(&batch, "")?.into_iter(), Some(integers(&batch, "attempts")?)),
            false => (Vec::new().into_iter(), None),
        };
        rows.extend((0..batch.num_rows()).map(|i| {
            let [key, prompt, stem] = &columns;
            Asked {
                key: value(key, i),
                prompt: value(prompt, i),
                stem: value(stem, i),
                evidence: evidence.next(),
                attempt: attempts.as_ref().map_or(1, |attempts| attempts.value(i) as u32 + 1),
            }
        }));
    }
    Ok((!rows.is_empty()).then_some(rows))
}

async fn submit(models: &Arc<Models>, rows: Vec<Asked>, halt: &CancelToken) -> Result<Answers> {
    let question =
        |asked: &Asked| Question { prompt: asked.prompt.clone(), stem: asked.stem.clone(), attempt: asked.attempt };
    let outcomes = models.write(rows.iter().map(question).collect(), halt).await?;
    let asked: Vec<Option<Asked>> = rows.into_iter().map(Some).collect();
    Ok(futures::stream::unfold((outcomes, asked), |(mut outcomes, mut asked)| async move {
        let answer = match outcomes.next().await? {
            Ok(Outcome { id, prompt_tokens, result }) => {
                let asked = asked.get_mut(id)?.take()?;
                Ok(Answer { asked, prompt_tokens, accepted: None, seconds: None, result })
            }
            Err(e) => Err(e),
        };
        Some((answer, (outcomes, asked)))
    })
    .boxed())
}

struct Writer<'a> {
    sink: &'a Sink<'a>,
    digest: String,
    waiting: Vec<Answer>,
    /// The last flush, whether there was something to write or not.
    since: Instant,
    /// The time up to here stands in the rows.
    shared_until: Instant,
}

impl Writer<'_> {
    async fn push(&mut self, answer: Answer) -> Result<()> {
        self.waiting.push(answer);
        if self.waiting.len() >= self.sink.response.flush_rows { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<()> {
        self.since = Instant::now();
        if self.waiting.is_empty() {
            return Ok(());
        }
        // Shared out once: rows that are tried again must give the same segment.
        let unpaid = self.waiting.iter().filter(|a| a.seconds.is_none()).count();
        if unpaid > 0 {
            let share = (self.since - self.shared_until).as_secs_f64() / unpaid as f64;
            self.waiting.iter_mut().for_each(|a| _ = a.seconds.get_or_insert(share));
            self.shared_until = self.since;
        }
        self.sink.lease.check_not_taken().await?;
        self.waiting.sort_by(|a, b| (&a.asked.key, a.asked.attempt).cmp(&(&b.asked.key, b.asked.attempt)));
        let schema = self.sink.contract.arrow_schema(None);
        let batch = rows_of(&self.waiting, schema, &self.digest, self.sink)?;
        if let Some(encoded) = Encoded::of(self.sink.contract, &batch)? {
            if let Some(receipts) = self.sink.receipts {
                let rows: Vec<Paid> = self.waiting.iter().map(Answer::paid).collect();
                receipts.leave(&encoded.segment.name, &rows).await?;
            }
            encoded.append(self.sink.root, self.sink.contract).await?;
        }
        // Only now: answers that were not committed are tried again with the next ones.
        self.waiting.clear();
        Ok(())
    }
}

fn rows_of(rows: &[Answer], schema: SchemaRef, digest: &str, sink: &Sink<'_>) -> Result<RecordBatch> {
    let done = |a: &'_ Answer| a.result.as_ref().ok().cloned();
    let texts =
        |pick: fn(&Answer) -> Option<String>| -> ArrayRef { Arc::new(rows.iter().map(pick).collect::<StringArray>()) };
    let counts = |pick: fn(&Written) -> u32| -> ArrayRef {
        Arc::new(rows.iter().map(|a| done(a).map_or(0, |c| i64::from(pick(&c)))).collect::<Int64Array>())
    };
    let columns: Result<Vec<ArrayRef>> = schema
        .fields()
        .iter()
        .map(|field| {
            Ok(match field.name().as_str() {
                "prompt_key" => texts(|a| Some(a.asked.key.clone())),
                "attempt" => Arc::new(rows.iter().map(|a| Some(i64::from(a.asked.attempt))).collect::<Int64Array>()),
                "accepted" => Arc::new(rows.iter().map(|a| a.accepted).collect::<BooleanArray>()),
                "text" => texts(|a| a.result.as_ref().ok().map(|c| c.text.trim_end().to_string())),
                "error" => texts(|a| a.result.as_ref().err().map(|e| e.code().to_string())),
                "error_detail" => texts(|a| a.result.as_ref().err().map(ToString::to_string)),
                "finish" => texts(|a| a.result.as_ref().ok().map(|c| c.finish.name().to_string())),
                "logprob_sum" => {
                    Arc::new(rows.iter().map(|a| done(a).and_then(|c| c.logprob_sum)).collect::<Float64Array>())
                }
                "prompt_tokens" => {
                    Arc::new(rows.iter().map(|a| Some(i64::from(a.prompt_tokens))).collect::<Int64Array>())
                }
                "cached_tokens" => counts(|c| c.cached_tokens),
                "completion_tokens" => counts(|c| c.completion_tokens),
                "model_digest" => Arc::new(StringArray::from(vec![digest; rows.len()])),
                "created_timestamp" => Arc::new(
                    TimestampMicrosecondArray::from(vec![sink.interval.end.timestamp_micros(); rows.len()])
                        .with_timezone_opt(timezone_of(field.data_type())),
                ),
                "run_id" => Arc::new(StringArray::from(vec![sink.run_id; rows.len()])),
                "seconds" => Arc::new(rows.iter().map(|a| a.seconds).collect::<Float64Array>()),
                name => {
                    return Err(Error::new(
                        Kind::Config,
                        "the contract of response has a column that curec does not fill",
                    )
                    .with("column", name));
                }
            })
        })
        .collect();
    RecordBatch::try_new(schema, columns?).context(Kind::Internal, || "answers do not fit the contract".into())
}

fn timezone_of(data_type: &arrow::datatypes::DataType) -> Option<Arc<str>> {
    match data_type {
        arrow::datatypes::DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn allowed(max_failed_fraction: f64, max_failed_rows: u64) -> BudgetSpec {
        let on_reached = String::new();
        BudgetSpec { max_failed_fraction, max_failed_rows, max_tokens: 0, max_minutes: 0.0, max_cost: 0.0, on_reached }
    }

    #[test]
    fn the_budget_is_a_share_of_all_prompts_or_a_number_of_rows() {
        let budget = allowed(0.1, 0);
        let failed = |n| BTreeMap::from([("too_long".to_string(), n)]);
        assert!(within_budget(&budget, &failed(20), 200).is_ok());
        let e = within_budget(&budget, &failed(21), 200).unwrap_err();
        assert_eq!(e.kind(), Kind::Budget);
        assert!(e.explain().contains("too_long: 21"));
        assert!(within_budget(&budget, &failed(1), 5).is_err(), "small runs are held to it as well");
        let rows = allowed(1.0, 1);
        assert!(within_budget(&rows, &failed(1), 2).is_ok());
        assert!(within_budget(&rows, &failed(2), 2).is_err());
    }
}
