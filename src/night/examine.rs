//! A job's tables without a row: contracts, definitions and audits are read, held against each other and planned, and all
//! mistakes are told at once.
//!
//! Knows what a run makes its tables from. Opens no input and no partition, and computes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::{Interval, Job};
use crate::error::{Error, Kind, Result};
use crate::generate::functions;
use crate::generate::models::Models;
use crate::night::graph::{EARLIER, Examined, Graph, RESPONSE};
use crate::night::prepare::{ZERO_EMBEDDING, params_at, setting_of, settings_of};
use crate::night::tables::{folder, new_session, with_every_column};
use crate::project::column;
use crate::query::audit;
use crate::query::model::Model;
use crate::query::session::{Param, Session};
use crate::table::build::{Build, By};
use crate::table::contract::Contract;

/// Stands for the width of vectors where the encoder is not known.
const SOME_WIDTH: usize = 8;

/// Numbers that weekly stages give to the tables that they make, besides what a night gives.
const OF_STAGES: [&str; 5] = ["train_quantile", "valid_quantile", "rows_per_user", "pairs_per_user", "max_examples"];

/// Everything that is wrong with the contracts, definitions and audits of a job, its own and those that come with curec.
/// `width` is that of the encoder's vectors, where it is known and its files are on this machine.
pub async fn tables(job: &Job, models: &Arc<Models>, width: Option<usize>, interval: Interval) -> Vec<Error> {
    let Examined { graph, broken, mut errors } = Graph::examine(job);
    if let Some(graph) = graph
        && let Err(e) = plan_all(job, &graph, &broken, models, width, interval, &mut errors).await
    {
        errors.push(e);
    }
    errors
}

async fn plan_all(
    job: &Job,
    graph: &Graph,
    broken: &BTreeSet<String>,
    models: &Arc<Models>,
    width: Option<usize>,
    interval: Interval,
    errors: &mut Vec<Error>,
) -> Result<()> {
    let session = new_session(job)?;
    functions::all(models).into_iter().for_each(|f| session.register_function(f));
    let wide = width.unwrap_or(SOME_WIDTH);
    for (name, contract) in graph.contracts() {
        let columns = match name.as_str() {
            RESPONSE => with_every_column(contract)?.arrow_schema(Some(wide)),
            _ => contract.arrow_schema(Some(wide)),
        };
        session.register_batches(name, columns.clone(), Vec::new())?;
        if graph.is_published(name) {
            session.register_batches(&format!("{EARLIER}{name}"), columns, Vec::new())?;
        }
    }
    let settings = settings_of(&job.spec)?;
    let mut params = params_at(&job.spec, interval, graph.contract("interaction")?);
    params.push((ZERO_EMBEDDING, Param::ZeroVector(wide)));
    params.extend(OF_STAGES.map(|name| (name, Param::Int(1))));
    for table in graph.order() {
        let (contract, build) = (graph.contract(table)?, graph.build(table)?);
        let in_contract = |e: Error| match own_contract(job, table) {
            Some(file) => e.with("file", file).with("table", table),
            None => e.with("table", table),
        };
        let condition = build.condition.as_deref().map(|c| c.split_once('=').map_or(c, |(name, _)| name).trim());
        for name in build.settings.iter().map(String::as_str).chain(condition) {
            if let Err(e) = setting_of(&settings, name) {
                errors.push(in_contract(e));
            }
        }
        // Of a file that cannot be read all is told, and the type of `embed` is told by the encoder.
        let definition = graph.definition(table)?;
        if broken.contains(table) || (width.is_none() && definition.functions().contains("embed")) {
            continue;
        }
        let is_projected = !job.spec.model.projection.is_empty() && column::projected(contract).is_some();
        match planned(&session, contract, build, definition, is_projected, &params).await {
            Ok(()) => errors.extend(audit::plan(&session, contract, table, &params).await?),
            Err(e) => errors.push(e),
        }
    }
    Ok(())
}

/// The file of a contract of the job's own.
fn own_contract(job: &Job, table: &str) -> Option<String> {
    let file = folder(&job.spec.project.schemas)?.join(format!("{table}.toml"));
    file.exists().then(|| file.display().to_string())
}

/// Plans a definition as its step does; where it `is_projected`, a column of the contract is not the definition's.
async fn planned(
    session: &Session,
    contract: &Contract,
    build: &Build,
    definition: &Model,
    is_projected: bool,
    params: &[(&str, Param)],
) -> Result<()> {
    let rows = match build.by {
        By::Sql | By::Generate if is_projected => {
            definition.planned(session, &column::defined(contract), params).await?
        }
        By::Sql | By::Generate => definition.planned(session, contract, params).await?,
        By::Score | By::Pool | By::Correct => definition.rows(session, build.joins, params).await?,
    };
    let schema = rows.schema();
    if build.by == By::Pool
        && let Some(lacking) = ["entity_id", "reason"].into_iter().find(|name| schema.column_with_name(name).is_none())
    {
        let error = Error::new(Kind::Config, format!("the SQL has no column {lacking}"));
        return Err(definition
            .place(error.hint("what is pooled gives entity_id and reason, and may give part, all of them texts")));
    }
    rows.analyse().map_err(|e| definition.place(e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    #[tokio::test]
    async fn the_tables_that_come_with_curec_have_no_mistakes() {
        let text = "name = 'n'\n[input]\ninteraction = 'a'\nitem = 'b'\n[model]\ngenerator = 'g'\nencoder = 'e'\n";
        let job = Job::parse(text, "job.toml", &[], &BTreeMap::new()).unwrap();
        let models = Models::new(&job).unwrap();
        let interval = Interval::parse("2026-01-20", "2026-01-21").unwrap();
        for width in [None, Some(32)] {
            let wrong = tables(&job, &models, width, interval).await;
            assert!(wrong.is_empty(), "{wrong:#?}");
        }
    }
}
