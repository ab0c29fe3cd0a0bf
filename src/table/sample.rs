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
use crate::table::listing::spread;
use crate::table::parquet_file::BATCH_ROWS;

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
    let files = looked_into(&table.files);
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
    let read = InputTable { files: files.into_iter().cloned().collect(), ..table.clone() };
    if let Err(e) = look_for_duplicates(contract, &read, &sample.good).await {
        sample.wrong.push(e);
    }
    sample
}

/// At most [`FILES`] of the files, evenly over all of them.
fn looked_into(files: &[InputFile]) -> Vec<&InputFile> {
    spread(files.len(), FILES).into_iter().map(|i| &files[i]).collect()
}

async fn read_first(
    contract: &Contract,
    table: &InputTable,
    file: &InputFile,
    most: u64,
    noted: &mut BadRows,
    good: &mut Vec<RecordBatch>,
) -> Result<()> {
    // Batches of one size that sum up to what is wanted: whole ones of the usual size would be far more.
    let batches = most.div_ceil(BATCH_ROWS as u64).max(1);
    let size = usize::try_from(most.div_ceil(batches)).unwrap_or(BATCH_ROWS).max(1);
    let mut reader = InputReader::open_in_batches(contract, table, file, size).await?;
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
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::table::input::open_input;
    use crate::table::store::Location;

    #[tokio::test]
    async fn no_more_rows_are_read_than_are_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("item.parquet");
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..10_000).map(|id| format!("i{id}"))));
        let batch = RecordBatch::try_from_iter([("item_id", ids)]).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let contract = Contract::builtin("item").unwrap();
        let input = open_input(&contract, &Location::parse(path.to_str().unwrap()).unwrap()).await.unwrap();
        for (most, rows) in [(9_000, 9_000), (5, 5), (20_000, 10_000)] {
            let sample = sample_input(&contract, &input, most).await;
            assert!(sample.wrong.is_empty(), "{:?}", sample.wrong);
            assert_eq!(
                (sample.rows, sample.good.iter().map(RecordBatch::num_rows).sum::<usize>()),
                (rows, rows as usize)
            );
        }
    }

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
            looked_into(files).iter().map(|file| file.location.name().to_owned()).collect()
        };
        let chosen = names(&files);
        assert_eq!((chosen.len(), chosen[0].as_str(), chosen[15].as_str()), (16, "0.parquet", "99.parquet"));
        assert_eq!(names(&files[..16]).len(), 16);
        assert!(names(&[]).is_empty());
    }
}
