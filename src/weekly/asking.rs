//! Requests to an engine whose answers are kept one by one as they come.
//!
//! Knows the engine and the file of answers ([`crate::weekly::teacher_log`]): killed, it loses what is under way and nothing
//! else. What is asked, and what an answer is worth, its callers know.

use futures::stream::{self, SelectAll, StreamExt};

use crate::cancel::CancelToken;
use crate::error::{Error, Kind, Result};
use crate::generate::device_thread::Answers as Rows;
use crate::generate::engine::Engine;
use crate::generate::models::no_device_fault;
use crate::generate::row::{Answer, Finish, Request, RowError};
use crate::telemetry::Progress;
use crate::weekly::teacher_log::{Line, Log};

/// Answers handed to the engine at a time; two such chunks are in flight, so that no slot waits for the next.
const CHUNK: usize = 1024;

/// An answer that is not there yet.
pub(super) struct Pending {
    /// Digest of all that the answer follows from.
    pub(super) key: String,
    /// Who asks.
    pub(super) example_id: String,
    /// Which of several answers to the question.
    pub(super) sample: usize,
    /// What the engine is asked; its id counts nothing.
    pub(super) request: Request,
    /// The tag that ends an answer and is part of it. Where there is none, the line tells how the answer ended and how likely
    /// it was as well.
    pub(super) tag: Option<String>,
}

impl Pending {
    /// The line of its answer, before there is one.
    fn line(&self) -> Line {
        Line {
            question: self.key.clone(),
            example_id: self.example_id.clone(),
            sample: self.sample,
            answer_text: None,
            finish: None,
            logprob_sum: None,
            prompt_tokens: 0,
            completion_tokens: 0,
            micros: 0,
        }
    }
}

/// Asks, and keeps every answer as it comes. A question that the model cannot answer has a line without a text.
///
/// # Errors
/// `Kind::Temporary` where the device fails or the file cannot be written; `Kind::Interrupted` after a signal.
pub(super) async fn ask(
    engine: &Engine,
    pending: Vec<Pending>,
    log: &mut Log,
    progress: &Progress,
    stop: &CancelToken,
) -> Result<()> {
    let (mut waiting, mut whose) = (Vec::with_capacity(pending.len()), Vec::with_capacity(pending.len()));
    for (at, one) in pending.into_iter().enumerate() {
        whose.push((one.line(), one.tag));
        waiting.push(Request { id: at as u64, ..one.request });
    }
    let mut waiting = waiting.into_iter();
    let (mut in_flight, mut outstanding) = (SelectAll::new(), 0);
    loop {
        if outstanding < CHUNK && waiting.len() > 0 {
            let chunk: Vec<Request> = waiting.by_ref().take(CHUNK).collect();
            outstanding += chunk.len();
            // Answers that are not there yet are cancelled with the receiver.
            let rows = stop.or(engine.submit(chunk)).await?;
            let next = |mut rows: Rows| async move { rows.recv().await.map(|answer| (answer, rows)) };
            in_flight.push(stream::unfold(rows, next).boxed());
            continue;
        }
        if outstanding == 0 {
            return Ok(());
        }
        let answered: Option<Answer> = stop.or(async { Ok(in_flight.next().await) }).await?;
        let lost = || Error::new(Kind::Temporary, "the model ended before all questions were answered");
        let (id, result) = answered.ok_or_else(lost)?;
        outstanding -= 1;
        let Some((line, tag)) = usize::try_from(id).ok().and_then(|at| whose.get(at)) else {
            continue;
        };
        let mut line = line.clone();
        match result {
            Ok(done) => {
                let mut text = done.text;
                match tag {
                    Some(tag) => {
                        // Ended by the tag; a token that ends the answer counts one more.
                        if done.finish == Finish::Stop && done.completion_tokens as usize == done.tokens.len() {
                            text.push_str(tag);
                        }
                        line.answer_text = Some(text.trim().to_owned());
                    }
                    None => {
                        line.answer_text = Some(text.trim_end().to_owned());
                        line.finish = Some(done.finish.name().to_owned());
                        line.logprob_sum = Some(done.logprob_sum);
                    }
                }
                line.prompt_tokens = u64::from(done.prompt_tokens);
                line.completion_tokens = u64::from(done.completion_tokens);
            }
            Err(RowError::Cancelled) => return Err(lost()),
            Err(e) => {
                no_device_fault(&e)?;
                let (example_id, sample) = (&line.example_id, line.sample);
                tracing::warn!(example_id, sample, error = e.code(), detail = %e, "the model failed at a question");
            }
        }
        progress.advance(1, line.completion_tokens);
        log.keep(line)?;
    }
}
