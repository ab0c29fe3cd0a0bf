//! Prompts in, what was written out, whether an engine of this machine writes or an endpoint.
//!
//! Knows [`Models`] and rows. Knows nothing of tables: what is kept of an answer is for the night to say.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{Stream, StreamExt};

use crate::cancel::CancelToken;
use crate::error::{Context, Kind, Result};
use crate::generate::models::{Models, no_device_fault};
use crate::generate::row::{Outcome, Question, Request, RowError, Written};

/// Outcomes as they come; an error is one of the run, not of a row.
pub type Outcomes = Pin<Box<dyn Stream<Item = Result<Outcome>> + Send>>;

impl Models {
    /// Asks. Outcomes come in any order, one for each question, by its place. Once `halt` is requested an endpoint is sent no
    /// further request. Dropping the stream gives up what is not answered.
    ///
    /// # Errors
    /// Those of loading the model, and of prompts that cannot be tokenized.
    pub async fn write(self: &Arc<Self>, questions: Vec<Question>, halt: &CancelToken) -> Result<Outcomes> {
        if let Some(endpoint) = self.endpoint() {
            return Ok(endpoint.ask(questions, halt).boxed());
        }
        let models = self.clone();
        let (answers, lengths) = tokio::task::spawn_blocking(move || -> Result<_> {
            use rayon::prelude::*;
            let requests: Result<Vec<Request>> = questions
                .par_iter()
                .enumerate()
                .map(|(i, asked)| models.request_again(i as u64, &asked.prompt, &asked.stem, asked.attempt))
                .collect();
            let requests = requests?;
            let lengths: Vec<u32> = requests.iter().map(|request| request.prompt.len() as u32).collect();
            Ok((models.engine()?.submit_blocking(requests)?, lengths))
        })
        .await
        .context(Kind::Internal, || "the generate stage was interrupted".into())??;
        let outcomes = futures::stream::unfold((answers, lengths), |(mut answers, lengths)| async move {
            let (id, result) = answers.recv().await?;
            let id = id as usize;
            let prompt_tokens = lengths.get(id).copied().unwrap_or_default();
            Some((Ok(Outcome { id, prompt_tokens, result: result.map(Written::from) }), (answers, lengths)))
        });
        Ok(outcomes.boxed())
    }

    /// What was written for each of some questions, in their order.
    ///
    /// # Errors
    /// As [`Models::write`]; those of the device and of the endpoint.
    pub async fn write_all(self: &Arc<Self>, questions: Vec<Question>) -> Result<Vec<Result<Written, RowError>>> {
        let mut results: Vec<_> = questions.iter().map(|_| Err(RowError::Cancelled)).collect();
        let mut outcomes = self.write(questions, &CancelToken::default()).await?;
        while let Some(outcome) = outcomes.next().await {
            let Outcome { id, result, .. } = outcome?;
            if let Err(e) = &result {
                no_device_fault(e)?;
            }
            if let Some(slot) = results.get_mut(id) {
                *slot = result;
            }
        }
        Ok(results)
    }

    /// Rows in flight: the engine's slots, or the requests to the endpoint.
    pub fn at_once(&self) -> usize {
        self.endpoint().map_or(self.engine_options().slots, |endpoint| endpoint.at_once()).max(1)
    }

    /// How long answers in flight are waited for where a run ends early. What an endpoint is about to say is paid; what the
    /// engine is about to say costs no more the next time.
    pub fn drain(&self) -> Duration {
        self.endpoint().map_or(Duration::ZERO, |endpoint| endpoint.drain())
    }
}
