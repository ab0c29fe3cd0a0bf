//! `curec simulate`: logs of any size from a known preference structure, for tests of recommenders and of their
//! yardstick.
//!
//! Knows the files and the input tables' contracts; what is in them is drawn by [`crate::operate::simulate_world`].
//!
//! Every row is a function of the seed and its ids: the same options give the same bytes. Memory grows with the number
//! of items and with 1,024 users' events, not with the log.

use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use parquet::arrow::arrow_writer::ArrowWriter;

use crate::destination::{Destination, Opened};
use crate::error::{Error, Kind, Result};
use crate::operate::simulate_world::{Options, World};
use crate::table::check::{Checker, conform};
use crate::table::contract::Contract;
use crate::table::write::writer_properties;

/// Users, or items, handed to the writer at a time: part of the format, since page borders follow from it.
const CHUNK: u32 = 1024;

/// Writes `interaction.parquet` (by user, then time) and `item.parquet` (by item) into `out`; returns the files with
/// their rows.
///
/// # Errors
/// `Kind::Usage` for options that make no log, `Kind::Config` or `Kind::Temporary` where files cannot be written. Files
/// appear under their names only when both are complete.
pub fn simulate(options: Options, out: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let world = World::new(options)?;
    std::fs::create_dir_all(out)
        .map_err(|e| Error::new(Kind::Config, "cannot make the folder").with("file", out.display()).source(e))?;
    let interactions = write("interaction", out, chunks(options.users).map(|users| world.interactions(users)))?;
    let items = write("item", out, chunks(options.items).map(|items| world.items(items)))?;
    [interactions, items].into_iter().map(Partial::publish).collect()
}

fn chunks(n: u32) -> impl Iterator<Item = Range<u32>> {
    (0..n.div_ceil(CHUNK)).map(move |i| i * CHUNK..n.min((i + 1).saturating_mul(CHUNK)))
}

/// A whole file that is not in its place yet.
struct Partial {
    file: Opened,
    target: PathBuf,
    rows: u64,
}

impl Partial {
    fn publish(self) -> Result<(PathBuf, u64)> {
        self.file.finish()?;
        Ok((self.target, self.rows))
    }
}

/// Streams batches through a table's contract into a file.
fn write(table: &str, folder: &Path, batches: impl Iterator<Item = Result<RecordBatch>>) -> Result<Partial> {
    let contract = Contract::builtin(table)?;
    let target = folder.join(format!("{table}.parquet"));
    let io = |e: String| Error::new(Kind::Temporary, "could not write").with("file", target.display()).source(e);
    let mut file = Destination::find(&target)?.open()?;
    let mut rows = 0;
    let schema = contract.arrow_schema(None);
    let properties = writer_properties(&contract, &schema, None)?;
    let mut writer = ArrowWriter::try_new(&mut file, schema, Some(properties)).map_err(|e| io(e.to_string()))?;
    let mut checker = Checker::new(&contract, target.display());
    for batch in batches {
        let batch = conform(&contract, &batch?, &mut checker)?;
        writer.write(&batch).map_err(|e| io(e.to_string()))?;
        rows += batch.num_rows() as u64;
    }
    writer.close().map_err(|e| io(e.to_string()))?;
    Ok(Partial { file, target, rows })
}

#[cfg(test)]
mod tests;
