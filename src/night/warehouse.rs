//! The warehouse of a job as a session for queries: every published table, the inputs, the answers, the quarantine.
//!
//! Knows where tables lie; what cannot be read keeps nobody from querying the rest. Makes nothing.

use futures::{StreamExt, TryStreamExt, stream};

use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::generate::functions;
use crate::generate::models::Models;
use crate::night::graph::{RESPONSE, contracts_of};
use crate::night::tables::{self, locate};
use crate::query::session::{Session, TableFile};
use crate::table::contract::Contract;
use crate::table::published::published;
use crate::table::quarantine;
use crate::table::store::Location;

/// Published tables opened at once. Each reads many records and footers at once itself.
const TABLES_AT_ONCE: usize = 3;

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
    let is_published = |contract: &&Contract| contract.build.as_ref().is_some_and(|build| build.publish);
    let derived: Vec<&Contract> = contracts.values().filter(is_published).collect();
    open_published(&session, &root, &derived).await?;
    let contract = &contracts[RESPONSE];
    if let Err(e) = tables::register_responses(&session, &root, contract).await {
        without(&session, RESPONSE, contract, false, there(e)?)?;
    }
    let contract = &contracts["quarantine"];
    let failed = async {
        let files: Vec<TableFile> = quarantine::files(&root).await?.into_iter().map(TableFile::from).collect();
        session.register_files("quarantine", contract, &files).await
    };
    if let Err(e) = failed.await {
        without(&session, "quarantine", contract, false, there(e)?)?;
    }
    Ok(session)
}

/// Registers published tables, several at once; one that cannot be read keeps nobody from the others.
async fn open_published(session: &Session, root: &Location, contracts: &[&Contract]) -> Result<()> {
    let opened: Vec<_> = contracts.iter().map(|contract| open_one(session, root, contract)).collect();
    stream::iter(opened).buffered(TABLES_AT_ONCE).try_collect().await
}

/// Registers the days of one published table.
async fn open_one(session: &Session, root: &Location, contract: &Contract) -> Result<()> {
    let table = contract.name.as_str();
    let found = async {
        let mut files = Vec::new();
        for day in published(root, table).await? {
            for (file, entry) in tables::files_in(root, &day.record)?.into_iter().zip(day.entries) {
                files.push((TableFile { entry, ..file }, day.record.dt.clone()));
            }
        }
        session.register_published(table, contract, &files).await
    };
    match found.await {
        Ok(()) => Ok(()),
        Err(e) => without(session, table, contract, true, there(e)?),
    }
}

/// An error that concerns one table alone; whatever may pass ends the opening.
fn there(e: Error) -> Result<Error> {
    if e.kind() == Kind::Temporary { Err(e) } else { Ok(e) }
}

/// Goes on without a table that cannot be read; who asks for it is told why.
fn without(session: &Session, table: &str, contract: &Contract, is_published: bool, why: Error) -> Result<()> {
    tracing::warn!(table, error = %why, "this table cannot be queried");
    session.register_unreadable(table, contract, is_published, why)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::Int64Type;
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::query::session::SessionOptions;
    use crate::table::counted_store::CountedStore;

    const DAYS: usize = 400;
    /// As many as 3 s have of 30 ms.
    const MOST_ROUNDS: usize = 100;

    fn contract(table: usize) -> Contract {
        let text = format!(
            "name = \"t{table}\"\nversion = \"1.0\"\nrole = \"derived\"\ngrain = [\"id\"]\nsorted_by = [\"id\"]\n\
             partition_by = \"dt\"\n[[column]]\nname = \"id\"\ntype = \"int64\"\nnullable = false\n"
        );
        Contract::parse(&text, "t.toml").unwrap()
    }

    /// One row as Parquet.
    fn data() -> Bytes {
        let ids = Arc::new(Int64Array::from(vec![7])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("id", ids)]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap().into()
    }

    fn record(table: &str, dt: &str, data: &Bytes) -> Bytes {
        let blake3 = blake3::hash(data).to_hex().to_string();
        let file = serde_json::json!({ "name": "part-0.parquet", "rows": 1, "bytes": data.len(), "blake3": blake3 });
        let record = serde_json::json!({
            "format": 1, "table": table, "contract_version": "1.0", "dt": dt, "files": [file], "fingerprint": "f",
            "parts": {}, "created_timestamp": 0, "run_id": "r", "lease_epoch": 1,
        });
        record.to_string().into()
    }

    async fn sum(session: &Session, text: &str) -> i64 {
        let rows = session.sql(text, &[]).await.unwrap().collect().await.unwrap();
        rows[0].column(0).as_primitive::<Int64Type>().value(0)
    }

    #[tokio::test]
    async fn four_hundred_days_of_nine_tables_open_in_few_rounds() {
        let (objects, counted, rounds) = CountedStore::twice();
        let [filled, root] = [objects, counted].map(|store| Location::on(store, "memory://rounds/w").unwrap());
        let contracts: Vec<Contract> = (0..9).map(contract).collect();
        let data = data();
        let first = chrono::NaiveDate::from_ymd_opt(2025, 1, 1).unwrap();
        for contract in &contracts {
            for day in first.iter_days().take(DAYS) {
                let folder = filled.child(&contract.name).child(&format!("dt={day}"));
                folder.child("part-0.parquet").put(data.clone()).await.unwrap();
                let record = record(&contract.name, &day.to_string(), &data);
                folder.child("_commit.json").put(record).await.unwrap();
            }
        }
        let session = Session::new(SessionOptions::default()).unwrap();
        let all: Vec<&Contract> = contracts.iter().collect();
        rounds.drive(open_published(&session, &root, &all)).await.unwrap();
        let (n, most) = (rounds.rounds(), rounds.most_at_once());
        assert!(n <= MOST_ROUNDS, "{n} rounds");
        // A listing of each table, then a record and a footer of each day: nothing is asked for twice.
        assert_eq!(rounds.requests(), 9 * (1 + 2 * DAYS));
        assert!((64..=64 * TABLES_AT_ONCE).contains(&most), "{most} requests at once");
        let text = "select sum(id) + count(distinct dt) from t8";
        assert_eq!(rounds.drive(sum(&session, text)).await, 7 * 400 + 400);
    }
}
