//! One side of an as-of join: the newest row of every entity at a moment, from the files of a feature table.
//!
//! Files are opened when their first moment has come. Held are one row for each entity, the batches that these rows lie in
//! (made denser when more than half of them is stale), and, of a file that mixes moments, the rows whose time has not come:
//! neither the number of days nor that of events matters. Knows Parquet files under a contract; knows nothing of SQL, of
//! partitions or of what is joined.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float32Array, Int32Array, RecordBatch, StringArray,
    new_null_array,
};
use arrow::compute::{filter_record_batch, interleave, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Schema, TimestampMicrosecondType};
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;

use crate::error::{Context, Error, Kind, Result};
use crate::table::cast::{cast_batch, strict};
use crate::table::column_type::ColumnType;
use crate::table::contract::{Column, Contract};
use crate::table::parquet_file::{ObjectReader, earliest, open_parquet};
use crate::table::store::Location;
use crate::table::store_error::is_store_fault;

/// Footers read at once.
const FOOTERS_AT_ONCE: usize = 16;
/// Rows of batches that are made denser.
const BATCH_ROWS: usize = 8192;
/// Stale rows that are held whatever the number of entities.
const SLACK_ROWS: usize = 4 * BATCH_ROWS;

/// A row's columns but the key, for all rows of a batch.
type Values = Arc<[ArrayRef]>;

/// Which of an entity's rows is the newest: `event_timestamp`, then `created_timestamp`, then the later file.
type Rank = (i64, i64, usize);

struct Place {
    rank: Rank,
    batch: usize,
    row: usize,
}

struct Held {
    values: Values,
    rows: usize,
    live: usize,
}

struct Waiting {
    location: Location,
    bytes: u64,
    order: usize,
    first: i64,
}

/// A row whose time has not come.
struct Later {
    rank: Rank,
    batch: Arc<RecordBatch>,
    row: usize,
}

/// The newest row of every entity at a moment that only moves forward.
pub(crate) struct AsOf {
    contract: Contract,
    key: String,
    width: usize,
    /// The last is the first to be opened.
    waiting: Vec<Waiting>,
    /// The last is the first to come true.
    later: Vec<Later>,
    due: i64,
    newest: HashMap<String, Place>,
    held: HashMap<usize, Held>,
    held_rows: usize,
    /// The number of the next batch. 0 is the row of entities without one.
    next: usize,
    blank: Values,
}

impl AsOf {
    /// Looks at the files' footers. `files` (with their bytes) stand in the order of their partitions: of rows with equal
    /// timestamps the last file's counts.
    ///
    /// # Errors
    /// `Kind::Config` for a contract without what an as-of join needs, and for vectors of different widths; `Kind::Input` for
    /// a file that cannot be read; `Kind::Temporary` for one that is gone meanwhile, and for the store's faults.
    pub(crate) async fn open(contract: Contract, key: &str, files: Vec<(Location, u64)>) -> Result<Self> {
        let needed = [
            (key, ColumnType::Utf8),
            ("event_timestamp", ColumnType::TimestampUs),
            ("created_timestamp", ColumnType::TimestampUs),
        ];
        for (name, kind) in needed {
            if !contract.column(name).is_some_and(|c| c.column_type == kind && !c.nullable) {
                let message =
                    format!("a table that is joined by time needs a column {name} of type {kind} without nulls");
                return Err(Error::new(Kind::Config, message).with("table", &contract.name));
            }
        }
        let vector = contract.vector_column().map(|c| c.name.clone());
        let footers = futures::stream::iter(files.into_iter().enumerate().map(|(order, (location, bytes))| {
            let vector = &vector;
            async move {
                let builder = open_there(&location, bytes).await?;
                let first = earliest(&builder, "event_timestamp", None).unwrap_or(i64::MIN);
                let width = match vector.as_ref().and_then(|name| builder.schema().field_with_name(name).ok()) {
                    Some(field) => vector_width(field.data_type()),
                    None => None,
                };
                Ok::<_, Error>((Waiting { location, bytes, order, first }, width))
            }
        }));
        let footers: Vec<_> = footers.buffered(FOOTERS_AT_ONCE).try_collect().await?;
        let widths: BTreeSet<usize> = footers.iter().filter_map(|(_, width)| *width).collect();
        if widths.len() > 1 {
            return Err(Error::new(Kind::Config, "partitions of this table hold vectors of different widths")
                .with("table", &contract.name)
                .with("widths", widths.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
                .hint("another encoder was used for some days: run those with --full, or keep a warehouse for each encoder"));
        }
        let mut waiting: Vec<Waiting> = footers.into_iter().map(|(file, _)| file).collect();
        waiting.sort_by_key(|file| std::cmp::Reverse((file.first, file.order)));
        let width = widths.first().copied().unwrap_or(0);
        let blank =
            contract.columns.iter().filter(|c| c.name != key).map(|c| blank(c, width)).collect::<Result<_>>()?;
        let mut found = AsOf {
            contract,
            key: key.to_owned(),
            width,
            waiting,
            later: Vec::new(),
            due: i64::MAX,
            newest: HashMap::new(),
            held: HashMap::new(),
            held_rows: 0,
            next: 1,
            blank,
        };
        found.due = found.next_due();
        Ok(found)
    }

    /// The columns of every row: the contract's without the key. The names begin with `prefix`. A column may hold nulls where
    /// the contract allows them, and where an entity without a row has one.
    pub(crate) fn columns(&self, prefix: &str) -> Vec<(Column, Field)> {
        let values = self.contract.columns.iter().filter(|c| c.name != self.key).zip(self.blank.iter());
        values
            .map(|(column, blank)| {
                let nullable = column.nullable || blank.null_count() > 0;
                let column = Column { name: format!("{prefix}{}", column.name), nullable, ..column.clone() };
                let field = Field::new(&column.name, column.column_type.arrow(self.width), nullable);
                (column, field)
            })
            .collect()
    }

    /// The moment from which on [`AsOf::advance`] changes something, microseconds since 1970 UTC.
    pub(crate) fn due(&self) -> i64 {
        self.due
    }

    /// Entities that have a row.
    pub(crate) fn entities(&self) -> usize {
        self.newest.len()
    }

    /// Reads everything that is true at `now`.
    ///
    /// # Errors
    /// As [`AsOf::open`]; `Kind::Input` for rows that do not fit the contract.
    pub(crate) async fn advance(&mut self, now: i64) -> Result<()> {
        while self.waiting.last().is_some_and(|file| file.first <= now) {
            let Some(file) = self.waiting.pop() else { break };
            self.read(&file, now).await?;
        }
        while self.later.last().is_some_and(|row| row.rank.0 <= now) {
            let first = self.later.len().saturating_sub(BATCH_ROWS);
            let first = first + self.later[first..].partition_point(|row| row.rank.0 > now);
            let mut some = self.later.split_off(first);
            // Of rows of one entity the newest is the last to be admitted; the order is no more than tidy.
            some.reverse();
            let batches: Vec<&RecordBatch> = some.iter().map(|row| &*row.batch).collect();
            let indices: Vec<(usize, usize)> = some.iter().enumerate().map(|(i, row)| (i, row.row)).collect();
            let batch =
                interleave_record_batch(&batches, &indices).context(Kind::Internal, || "rows of a day".into())?;
            self.admit(&batch, |row| some[row].rank.2)?;
        }
        self.due = self.next_due();
        Ok(())
    }

    fn next_due(&self) -> i64 {
        let file = self.waiting.last().map_or(i64::MAX, |file| file.first);
        self.later.last().map_or(file, |row| row.rank.0.min(file))
    }

    async fn read(&mut self, file: &Waiting, now: i64) -> Result<()> {
        let unreadable = |e: parquet::errors::ParquetError| {
            let kind = if is_store_fault(&e) { Kind::Temporary } else { Kind::Input };
            Error::new(kind, "cannot read a Parquet file").with("file", &file.location).source(e)
        };
        let mut rows = open_there(&file.location, file.bytes).await?.build().map_err(unreadable)?;
        let waited = self.later.len();
        while let Some(batch) = rows.try_next().await.map_err(unreadable)? {
            let batch = Arc::new(self.conform(&batch).map_err(|e| e.with("file", &file.location))?);
            let moments = moments(&batch, "event_timestamp")?;
            if moments.iter().all(|moment| *moment <= now) {
                self.admit(&batch, |_| file.order)?;
                continue;
            }
            let created = self::moments(&batch, "created_timestamp")?;
            let is_due: BooleanArray = moments.iter().map(|moment| Some(*moment <= now)).collect();
            let due = filter_record_batch(&batch, &is_due).context(Kind::Internal, || "rows of a day".into())?;
            self.admit(&due, |_| file.order)?;
            let rows = (0..batch.num_rows()).filter(|row| moments[*row] > now);
            let later = |row| Later { rank: (moments[row], created[row], file.order), batch: batch.clone(), row };
            self.later.extend(rows.map(later));
        }
        if self.later.len() > waited {
            self.later.sort_by_key(|row| std::cmp::Reverse(row.rank));
        }
        Ok(())
    }

    /// A file's rows in the contract's columns and types; nullable columns that are newer than the file are nulls.
    fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut fields: Vec<Field> = Vec::with_capacity(self.contract.columns.len());
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.contract.columns.len());
        for column in &self.contract.columns {
            let array = match batch.column_by_name(&column.name) {
                Some(found) => found.clone(),
                None if column.nullable => new_null_array(&column.column_type.arrow(self.width), batch.num_rows()),
                None => {
                    return Err(Error::new(Kind::Input, "a required column is missing")
                        .with("table", &self.contract.name)
                        .with("column", &column.name));
                }
            };
            fields.push(Field::new(&column.name, array.data_type().clone(), true));
            arrays.push(array);
        }
        let whole = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .context(Kind::Internal, || format!("rows of table {}", self.contract.name))?;
        let misfit = || Error::new(Kind::Input, "rows do not fit the contract").with("table", &self.contract.name);
        match cast_batch(&self.contract, &whole)? {
            Ok(cast) => strict(&self.contract, &cast).map_err(|e| misfit().source(e)),
            Err(misfits) => Err(match misfits.first() {
                Some((column, _)) => misfit().with("column", &column.name),
                None => misfit(),
            }),
        }
    }

    /// Takes in rows whose time has come. `order` tells a row's file.
    fn admit(&mut self, batch: &RecordBatch, order: impl Fn(usize) -> usize) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let schema = batch.schema();
        let values = schema.fields().iter().zip(batch.columns()).filter(|(f, _)| *f.name() != self.key);
        let values: Values = values.map(|(_, column)| column.clone()).collect();
        let (events, created) = (moments(batch, "event_timestamp")?, moments(batch, "created_timestamp")?);
        let number = self.hold(values, batch.num_rows());
        let keys = keys(batch, &self.key)?;
        for row in 0..batch.num_rows() {
            let place = Place { rank: (events[row], created[row], order(row)), batch: number, row };
            match self.newest.get_mut(keys.value(row)) {
                Some(newer) if newer.rank > place.rank => continue,
                Some(stale) => {
                    let stale = std::mem::replace(stale, place);
                    self.release(stale.batch);
                }
                None => _ = self.newest.insert(keys.value(row).to_owned(), place),
            }
            if let Some(held) = self.held.get_mut(&number) {
                held.live += 1;
            }
        }
        if self.held.get(&number).is_some_and(|held| held.live == 0) {
            self.drop_batch(number);
        }
        self.condense()
    }

    fn hold(&mut self, values: Values, rows: usize) -> usize {
        let number = self.next;
        self.next += 1;
        self.held_rows += rows;
        self.held.insert(number, Held { values, rows, live: 0 });
        number
    }

    fn release(&mut self, batch: usize) {
        let Some(held) = self.held.get_mut(&batch) else { return };
        held.live -= 1;
        // The newest batch is still being counted.
        if held.live == 0 && batch + 1 != self.next {
            self.drop_batch(batch);
        }
    }

    fn drop_batch(&mut self, batch: usize) {
        if let Some(held) = self.held.remove(&batch) {
            self.held_rows -= held.rows;
        }
    }

    /// Copies the rows that still count out of batches in which most do not, so that a few rows do not keep days alive.
    fn condense(&mut self) -> Result<()> {
        if self.held_rows <= 2 * self.newest.len() + SLACK_ROWS {
            return Ok(());
        }
        let sparse = |held: &Held| 2 * held.live < held.rows;
        let held = &self.held;
        let is_sparse = |place: &&mut Place| held.get(&place.batch).is_some_and(sparse);
        let mut places: Vec<&mut Place> = self.newest.values_mut().filter(is_sparse).collect();
        places.sort_unstable_by_key(|place| (place.batch, place.row));
        let mut dense: Vec<(Values, usize)> = Vec::new();
        for some in places.chunks_mut(BATCH_ROWS) {
            let mut picked = Picked::default();
            for (row, place) in some.iter_mut().enumerate() {
                if let Some(old) = held.get(&place.batch) {
                    picked.push(place.batch, old, place.row);
                }
                (place.batch, place.row) = (self.next + dense.len(), row);
            }
            dense.push((picked.gather(0..some.len())?.into(), some.len()));
        }
        self.held.retain(|_, held| !sparse(held));
        self.held_rows = self.held.values().map(|held| held.rows).sum();
        for (values, rows) in dense {
            let number = self.hold(values, rows);
            if let Some(held) = self.held.get_mut(&number) {
                held.live = rows;
            }
        }
        Ok(())
    }

    /// Picks the entity's row; `false`: it has none, and a row that says so was picked.
    pub(crate) fn pick(&self, entity: &str, picked: &mut Picked) -> bool {
        let found = self.newest.get(entity).and_then(|place| Some((place, self.held.get(&place.batch)?)));
        match found {
            Some((place, held)) => picked.push(place.batch, held, place.row),
            None => picked.push(0, &Held { values: self.blank.clone(), rows: 1, live: 1 }, 0),
        }
        found.is_some()
    }
}

/// Rows of several batches, named and not yet copied.
#[derive(Default)]
pub(crate) struct Picked {
    sources: Vec<Values>,
    /// Where a batch stands among the sources, by its number.
    places: HashMap<usize, usize>,
    source_rows: usize,
    indices: Vec<(usize, usize)>,
}

impl Picked {
    fn push(&mut self, number: usize, batch: &Held, row: usize) {
        let source = *self.places.entry(number).or_insert_with(|| {
            self.sources.push(batch.values.clone());
            self.source_rows += batch.rows;
            self.sources.len() - 1
        });
        self.indices.push((source, row));
    }

    /// Rows of the batches that it keeps alive.
    pub(crate) fn source_rows(&self) -> usize {
        self.source_rows
    }

    /// Copies the rows of a range, in the order in which they were picked: one array a column.
    ///
    /// # Errors
    /// `Kind::Internal` when Arrow refuses, as it does for text of more than 2 GiB.
    pub(crate) fn gather(&self, range: Range<usize>) -> Result<Vec<ArrayRef>> {
        let columns = self.sources.first().map_or(0, |values| values.len());
        let one = |column: usize| {
            let sources: Vec<&dyn Array> = self.sources.iter().map(|values| &*values[column]).collect();
            interleave(&sources, &self.indices[range.clone()])
        };
        (0..columns).map(one).collect::<Result<_, _>>().context(Kind::Internal, || "cannot copy feature rows".into())
    }

    /// Copies what was picked so far, and so lets go of the batches.
    ///
    /// # Errors
    /// As [`Picked::gather`].
    pub(crate) fn condense(&mut self) -> Result<()> {
        let rows = self.indices.len();
        let values = self.gather(0..rows)?;
        let indices = (0..rows).map(|row| (0, row)).collect();
        *self = Picked { sources: vec![values.into()], places: HashMap::new(), source_rows: rows, indices };
        Ok(())
    }
}

/// Opens a published file, which a run may have replaced since it was listed.
async fn open_there(at: &Location, bytes: u64) -> Result<ParquetRecordBatchStreamBuilder<ObjectReader>> {
    match open_parquet(at, bytes).await {
        Err(e) if e.kind() == Kind::Input && at.head().await?.is_none() => {
            Err(Error::new(Kind::Temporary, "a file of a published table is gone")
                .with("file", at)
                .hint("if a run has replaced it meanwhile, the same command will do now; else run that day again")
                .source(e))
        }
        other => other,
    }
}

fn vector_width(kind: &DataType) -> Option<usize> {
    match kind {
        DataType::FixedSizeList(_, width) => usize::try_from(*width).ok(),
        _ => None,
    }
}

/// What stands in a column where an entity has no row: `missing` is true, `source` is none, vectors and counts of reasons are
/// zero as in rows that the feature table itself calls missing; everything else is null, the timestamps above all.
fn blank(column: &Column, width: usize) -> Result<ArrayRef> {
    let kind = column.column_type.arrow(width);
    Ok(match (&column.column_type, column.name.as_str()) {
        (ColumnType::Bool, "missing") => Arc::new(BooleanArray::from(vec![true])),
        (ColumnType::Utf8, "source") => Arc::new(StringArray::from(vec!["none"])),
        (ColumnType::Int32, "n_reasons") => Arc::new(Int32Array::from(vec![0])),
        (ColumnType::Vector, _) => {
            let DataType::FixedSizeList(field, size) = &kind else { return Ok(new_null_array(&kind, 1)) };
            let zeros = Arc::new(Float32Array::from(vec![0.0; width]));
            let zeros = FixedSizeListArray::try_new(field.clone(), *size, zeros, None);
            Arc::new(zeros.context(Kind::Internal, || "a zero vector".into())?)
        }
        _ => new_null_array(&kind, 1),
    })
}

fn lacking(name: &str) -> Error {
    Error::new(Kind::Internal, "feature rows lack a column").with("column", name)
}

fn moments<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [i64]> {
    let found = batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
    found.map(|moments| &moments.values()[..]).ok_or_else(|| lacking(name))
}

fn keys<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray> {
    batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>()).ok_or_else(|| lacking(name))
}
