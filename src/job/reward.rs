//! Stands in for `curec learn reward` until its branch is merged: take that branch's file.

use serde::Serialize;

use crate::config::Interval;
use crate::error::{Error, Kind, Result};
use crate::job::stop::Stop;
use crate::job::weekly::Spec;
use crate::telemetry::Voice;

/// Nothing yet.
#[derive(Debug, Clone, Serialize)]
pub struct Done {}

/// Nothing yet.
///
/// # Errors
/// Always.
pub async fn reward(_: &Spec, _: Interval, _: Voice, _: &Stop) -> Result<Done> {
    Err(Error::new(Kind::Internal, "this branch has no reward model"))
}
