//! The items of a data set that somebody meets at some time, as a file in the place of the whole catalogue.
//!
//! Items that nobody meets are never ranked: their texts would be made for nothing, and a catalogue may hold twenty times as many.
//! Knows a job's inputs; knows nothing of arms, nights or origins.

use std::path::{Path, PathBuf};

use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::night::graph::contracts_of;
use crate::night::tables::{inputs_of, new_session, open_input_of, register_input};
use crate::query::texts;
use crate::table::write::write_local;

/// See the module.
#[derive(Clone)]
pub(crate) struct LoggedItems {
    job: Job,
    file: PathBuf,
}

impl LoggedItems {
    /// Of the job's inputs; nothing is written yet.
    pub(crate) fn new(job: Job, file: PathBuf) -> LoggedItems {
        LoggedItems { job, file }
    }

    /// Where they are written.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Writes the file, in a folder that is there.
    ///
    /// # Errors
    /// `Kind::Input` where no item of the log stands in the catalogue, and for what the inputs' contracts refuse; what store and
    /// disk say.
    pub(crate) async fn write(&self) -> Result<()> {
        let (session, contracts) = (new_session(&self.job)?, contracts_of(&self.job)?);
        for (table, text) in inputs_of(&self.job).filter(|(table, _)| ["interaction", "item"].contains(table)) {
            let contract = &contracts[table];
            let input = open_input_of(&self.job, contract, text).await?;
            register_input(&session, contract, &input).await?;
        }
        let rows = session.sql(texts::ITEMS_OF_THE_LOG, &[]).await?.collect().await?;
        if rows.iter().all(|batch| batch.num_rows() == 0) {
            return Err(Error::new(Kind::Input, "no item of the log stands in the catalogue")
                .with("input.item", &self.job.spec.input.item)
                .hint("ids must be written alike in both tables"));
        }
        write_local(&self.file, &rows)
    }
}
