//! Days without the rows that go: each partition staged anew, under the fingerprint that it had.
//!
//! Knows contracts and commit records; knows nothing of who is forgotten beyond ids and items.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;

use crate::error::{Error, Kind, Result};
use crate::night::made_from::rows_of;
use crate::night::tables::{content, files_in};
use crate::operate::forget::find::{Counts, Work, unfit};
use crate::operate::tellers::{self, Told};
use crate::table::contract::Contract;
use crate::table::filter::rows_without;
use crate::table::input::{InputTable, open_input};
use crate::table::partition::{self, CommitRecord, Publisher, StagedTable};
use crate::table::write::{StagedFile, Stamp};

impl Work<'_> {
    /// Stages what changes of one day, in the order in which it is made, each with the rows that go.
    pub(super) async fn stage_day(
        &self,
        records: &BTreeMap<String, CommitRecord>,
        counts: &Counts,
        told: &Told,
        publisher: &Publisher,
    ) -> Result<Vec<(u64, StagedTable)>> {
        // What each table held and what it will hold.
        let mut held: BTreeMap<&str, [String; 2]> = BTreeMap::new();
        let mut staged = Vec::new();
        for table in self.graph.published() {
            let Some(record) = records.get(table) else { continue };
            let mut parts = record.parts.clone();
            for name in self.graph.published() {
                if let (Some(known), Some([was, is])) = (parts.get_mut(&rows_of(name)), held.get(name))
                    && known == was
                {
                    known.clone_from(is);
                }
            }
            let is_moved = parts != record.parts;
            let was = content(record.files.iter().map(|f| f.blake3.as_str()));
            let stamp =
                Stamp { fingerprint: record.fingerprint.clone(), parts, created_timestamp: record.created_timestamp };
            let n = counts.get(table).copied().unwrap_or(0);
            let new = match n {
                0 => self.as_it_stands(record, stamp, publisher)?,
                _ => self.stage(record, &stamp, n, told, publisher).await?,
            };
            held.insert(table, [was, content(new.files.iter().map(|f| f.blake3.as_str()))]);
            if n > 0 || is_moved {
                staged.push((n, new));
            }
        }
        Ok(staged)
    }

    /// Stages a partition's rows without the `n` that are the users' or hold something of what they told.
    async fn stage(
        &self,
        record: &CommitRecord,
        stamp: &Stamp,
        n: u64,
        told: &Told,
        publisher: &Publisher,
    ) -> Result<StagedTable> {
        let place = |e: Error| unfit(e).with("table", &record.table).with("dt", &record.dt);
        let contract = &without_rules(self.graph.contract(&record.table)?);
        let mut tables: Vec<InputTable> = Vec::new();
        for file in files_in(&self.root, record)? {
            tables.push(open_input(contract, &file.location).await.map_err(place)?);
        }
        let items = told.of(&record.table, &record.dt);
        let (none, users) = (BTreeSet::new(), &self.options.users);
        let (column, values) = match contract.column("user_id") {
            Some(_) => ("user_id", users),
            None => ("item_id", items.unwrap_or(&none)),
        };
        let rows = rows_without(contract, &tables, column, values);
        let rows = rows.map(|batch| tellers::without_items(batch?, items));
        let staged = publisher.stage(contract, &record.dt, stamp, rows).await.map_err(place)?;
        if staged.rows + n != record.rows() {
            let (rows, all) = (staged.rows, record.rows());
            return Err(place(Error::new(
                Kind::Input,
                format!("{n} of {all} rows are the users', but {rows} would stay"),
            )));
        }
        let (contract_version, run_id) = (record.contract_version.clone(), Some(record.run_id.clone()));
        Ok(StagedTable { contract_version, run_id, ..staged })
    }

    /// A partition whose files stay, to be published with another stamp.
    fn as_it_stands(&self, record: &CommitRecord, stamp: Stamp, publisher: &Publisher) -> Result<StagedTable> {
        let folder = partition::partition(&self.root, &record.table, &record.dt)?;
        let file = |f: &partition::CommittedFile| StagedFile {
            location: folder.child(&f.name),
            name: f.name.clone(),
            rows: f.rows,
            bytes: f.bytes,
            blake3: f.blake3.clone(),
        };
        Ok(StagedTable {
            table: record.table.clone(),
            contract_version: record.contract_version.clone(),
            dt: record.dt.clone(),
            // Nothing lies there: publishing removes the folder that it names.
            location: publisher.staging().child(&record.table).child(&format!("dt={}", record.dt)),
            files: record.files.iter().map(file).collect(),
            rows: record.rows(),
            schema: self.graph.contract(&record.table)?.arrow_schema(None),
            stamp,
            run_id: Some(record.run_id.clone()),
        })
    }
}

/// A contract's columns, order and grain without its rules for values: what was published under other ones must still be
/// writable. The bytes of files do not depend on these.
fn without_rules(contract: &Contract) -> Contract {
    let mut contract = contract.clone();
    for column in &mut contract.columns {
        (column.values, column.min, column.max, column.min_length, column.finite) = (None, None, None, None, false);
    }
    contract
}
