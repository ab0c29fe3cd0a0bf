//! Stands in for `curec learn reinforce` until its branch is merged: take that branch's file.

use std::str::FromStr;

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
#[derive(Debug, Clone)]
pub struct Method;

impl FromStr for Method {
    type Err = Error;
    fn from_str(_: &str) -> Result<Method> {
        Ok(Method)
    }
}

/// Nothing yet.
///
/// # Errors
/// Always.
pub async fn reinforce(_: &Spec, _: Interval, _: Method, _: Voice, _: &Stop) -> Result<Done> {
    Err(Error::new(Kind::Internal, "this branch has no reinforcement"))
}
