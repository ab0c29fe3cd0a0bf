//! The warehouse of a job as a session for queries: every published table, the inputs, the answers, the quarantine.
//!
//! Knows where tables lie; what cannot be read keeps nobody from querying the rest. Makes nothing.

use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::generate::functions;
use crate::generate::models::Models;
use crate::night::graph::{RESPONSE, contracts_of};
use crate::night::tables::{self, locate};
use crate::query::session::{Session, TableFile};
use crate::table::contract::Contract;
use crate::table::{partition, quarantine};

/// A session with every table of the job's warehouse and the job's functions, for ad-hoc queries.
pub async fn session_of(job: &Job) -> Result<Session> {
    let session = tables::new_session(job)?;
    let contracts = contracts_of(job)?;
    let root = locate(job, &job.spec.warehouse)?;
    functions::all(&Models::new(job)?).into_iter().for_each(|f| session.register_function(f));
    for (table, text) in tables::inputs_of(job) {
        let contract = &contracts[table];
        let found = async {
            let found = tables::open_input_of(job, contract, text).await?;
            found.warnings.iter().for_each(|warning| tracing::warn!(table, "{warning}"));
            tables::register_input(&session, contract, &found).await
        };
        // A missing input must not keep people from querying published tables.
        if let Err(e) = found.await {
            without(&session, table, contract, false, e)?;
        }
    }
    let there = |e: Error| if e.kind() == Kind::Temporary { Err(e) } else { Ok(e) };
    let is_published = |contract: &&Contract| contract.build.as_ref().is_some_and(|build| build.publish);
    for contract in contracts.values().filter(is_published) {
        let table = contract.name.as_str();
        let found = async {
            let mut files = Vec::new();
            for record in partition::partitions(&root, table).await? {
                let dt = record.dt.clone();
                files.extend(tables::files_in(&root, &record)?.into_iter().map(|f| (f.location, dt.clone())));
            }
            session.register_published(table, contract, &files).await
        };
        if let Err(e) = found.await {
            without(&session, table, contract, true, there(e)?)?;
        }
    }
    let contract = &contracts[RESPONSE];
    if let Err(e) = tables::register_responses(&session, &root, contract).await {
        without(&session, RESPONSE, contract, false, there(e)?)?;
    }
    let contract = &contracts["quarantine"];
    let failed = async {
        let files: Vec<TableFile> = quarantine::files(&root).await?.into_iter().map(|e| e.location.into()).collect();
        session.register_files("quarantine", contract, &files).await
    };
    if let Err(e) = failed.await {
        without(&session, "quarantine", contract, false, there(e)?)?;
    }
    Ok(session)
}

/// Goes on without a table that cannot be read; who asks for it is told why.
fn without(session: &Session, table: &str, contract: &Contract, is_published: bool, why: Error) -> Result<()> {
    tracing::warn!(table, error = %why, "this table cannot be queried");
    session.register_unreadable(table, contract, is_published, why)
}
