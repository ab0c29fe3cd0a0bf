//! What a stage asks with, wherever its prompts are answered.
//!
//! Names what is known of a stage when its prompts are; does nothing with it.

use std::sync::Arc;

use crate::cancel::CancelToken;
use crate::config::Job;
use crate::generate::models::Models;
use crate::night::generation::{Checks, Sink};
use crate::query::session::Session;
use crate::telemetry::Progress;

/// See the module.
pub struct Asking<'a> {
    /// The run's tables, and where they are made.
    pub session: &'a Session,
    /// The job.
    pub job: &'a Job,
    /// Its models.
    pub models: &'a Arc<Models>,
    /// What answers are held against; `None`: nothing.
    pub checks: Option<&'a Checks>,
    /// Where answers go.
    pub sink: &'a Sink<'a>,
    /// Ends the stage.
    pub stop: &'a CancelToken,
    /// How far it is.
    pub progress: &'a Progress,
}
