//! The first rows of an input, held against its contract as a night holds all of them.
//!
//! Knows input files and contracts. Knows nothing of what the rows are for.

use std::collections::HashSet;

use arrow::array::RecordBatch;

use crate::error::{Error, Result};
use crate::table::bad_rows::{BadRows, LeftOut};
use crate::table::contract::Contract;
use crate::table::input::{InputFile, InputReader, InputTable, confirm_duplicates};
use crate::table::keys::KeyHasher;

/// Files that are looked into, the first and the last among them.
const FILES: usize = 16;

/// Rows from the beginning of an input's files.
#[derive(Debug, Default)]
pub struct Sample {
    /// Rows that were read, those with mistakes included.
    pub rows: u64,
    /// Those that keep the contract, in the contract's columns and types.
    pub good: Vec<RecordBatch>,
    /// Those that break it, where the job leaves as many out.
    pub left_out: LeftOut,
    /// What would refuse a run.
    pub wrong: Vec<Error>,
}

/// Reads about `most` rows of an input: the first ones of some of its files.
pub async fn sample_input(contract: &Contract, table: &InputTable, most: u64) -> Sample {
    let mut sample = Sample::default();
    let files = spread(&table.files);
    let share = most.div_ceil(files.len().max(1) as u64);
    let mut noted = BadRows::new(contract);
    for file in &files {
        if let Err(e) = read_first(contract, table, file, share, &mut noted, &mut sample.good).await {
            sample.wrong.push(e);
        }
    }
    sample.rows = noted.rows;
    match noted.within(table.max_bad_fraction) {
        Ok(left_out) => sample.left_out = left_out,
        Err(e) => sample.wrong.push(e),
    }
    let looked_into = InputTable { files: files.into_iter().cloned().collect(), ..table.clone() };
    if let Err(e) = look_for_duplicates(contract, &looked_into, &sample.good).await {
        sample.wrong.push(e);
    }
    sample
}

/// At most [`FILES`] of the files, evenly over all of them.
fn spread(files: &[InputFile]) -> Vec<&InputFile> {
    match files.len() {
        n if n > FILES => (0..FILES).map(|i| &files[i * (n - 1) / (FILES - 1)]).collect(),
        _ => files.iter().collect(),
    }
}

async fn read_first(
    contract: &Contract,
    table: &InputTable,
    file: &InputFile,
    most: u64,
    noted: &mut BadRows,
    good: &mut Vec<RecordBatch>,
) -> Result<()> {
    let mut reader = InputReader::open(contract, table, file).await?;
    let before = noted.rows;
    while noted.rows - before < most {
        let Some(batch) = reader.next_good(noted).await? else { break };
        if batch.num_rows() > 0 {
            good.push(batch);
        }
    }
    Ok(())
}

/// Refuses keys that stand twice among these rows.
async fn look_for_duplicates(contract: &Contract, table: &InputTable, rows: &[RecordBatch]) -> Result<()> {
    if contract.grain.is_empty() {
        return Ok(());
    }
    let (mut keys, mut hashes) = (KeyHasher::new(contract)?, Vec::new());
    for batch in rows {
        hashes.extend(keys.hash(batch)?);
    }
    hashes.sort_unstable();
    let suspects: HashSet<u64> = hashes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    match suspects.is_empty() {
        true => Ok(()),
        false => confirm_duplicates(contract, table, &suspects).await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::table::store::Location;

    #[test]
    fn the_files_of_a_long_log_are_looked_into_from_its_first_to_its_last() {
        let file = |n: usize| InputFile {
            location: Location::parse(&format!("/log/{n}.parquet")).unwrap(),
            rows: 1,
            bytes: 1,
            digest: String::new(),
            first_event: None,
            partition: Vec::new(),
        };
        let files: Vec<InputFile> = (0..100).map(file).collect();
        let names = |files: &[InputFile]| -> Vec<String> {
            spread(files).iter().map(|file| file.location.name().to_owned()).collect()
        };
        let chosen = names(&files);
        assert_eq!((chosen.len(), chosen[0].as_str(), chosen[15].as_str()), (16, "0.parquet", "99.parquet"));
        assert_eq!(names(&files[..16]).len(), 16);
        assert!(names(&[]).is_empty());
    }
}
