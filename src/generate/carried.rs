//! How the functions of prompts travel to a cluster: with the job whose templates and tokenizer they need.
//!
//! Knows [`functions`] and what is sent of a job. Functions that need a model's weights do not travel.

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

use crate::config::Job;
use crate::error::Result;
use crate::generate::functions;
use crate::generate::models::Models;
use crate::generate::sent::Sent;
use crate::query::cluster::carried::Carrier;

/// Packs the functions of one job, or of whatever job was sent.
#[derive(Debug, Default)]
pub struct JobCarrier {
    /// The job of this process; `None` in a scheduler and an executor, which serve all jobs.
    own: Option<Arc<Sent>>,
    /// Where this process opens models that were sent; `None`: on their job's own device.
    device: Option<String>,
}

impl JobCarrier {
    /// For the client of a job, whose models are there.
    ///
    /// # Errors
    /// As [`Sent::of`].
    pub fn of(job: &Job, models: &Models) -> Result<JobCarrier> {
        Ok(JobCarrier { own: Some(Arc::new(Sent::of(job, models)?)), device: None })
    }

    /// For an executor; `device` where it has one of its own.
    pub fn on(device: Option<String>) -> JobCarrier {
        JobCarrier { own: None, device }
    }
}

impl Carrier for JobCarrier {
    fn known(&self) -> Vec<ScalarUDF> {
        functions::without_model()
    }

    fn pack(&self, function: &ScalarUDF) -> Result<Option<Vec<u8>>> {
        Ok(functions::sent_with(function, self.own.as_ref()).map(|sent| sent.bytes()))
    }

    fn unpack(&self, name: &str, packed: &[u8]) -> Result<Option<ScalarUDF>> {
        Ok(functions::of_sent(name, Arc::new(Sent::arrived(packed)?.on(self.device.clone()))))
    }
}
