//! The first rows of some files of a place, before anything is known of their columns: what a mapping is proposed from.
//!
//! Knows Parquet files and texts on a store. Which files a place means, [`find`] says. Knows nothing of contracts, or of how texts hold
//! rows.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema};
use futures::TryStreamExt;
use futures::future::FutureExt;
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::RowSelection;

use crate::error::{Context, Error, Kind, Result};
use crate::gzip;
use crate::table::listing::spread;
use crate::table::parquet_file::{damaged, greatest_of, open_parquet, torn};
use crate::table::preview_files::{Found, find};
use crate::table::source::hive_values;
use crate::table::store::{Entry, Location, StoreOptions};
use crate::table::store_error::{fail, missing};

/// Rows are taken from so many places of the files at most: files, and row groups where there are fewer files.
const PARTS: usize = 8;
/// So many rows of each place at most.
const ROWS: usize = 500;
/// So many bytes of the beginning of a text file at most.
const TEXT_BYTES: u64 = 512 << 10;
/// So many bytes of its end at most, where there are more: logs grow there.
const TAIL_BYTES: u64 = 64 << 10;

/// Some rows of an input.
#[derive(Debug)]
pub struct Preview {
    /// What a job can name: a file or a folder. `None` where only some files of a folder were asked for.
    pub place: Option<String>,
    /// The files that were asked for: a path or URL, perhaps with `*`; local ones are absolute.
    pub asked: String,
    /// How many files there are.
    pub files: usize,
    /// Whether these are all rows of all files.
    pub is_whole: bool,
    /// What is worth knowing beside, one sentence each.
    pub notes: Vec<String>,
    /// The rows.
    pub rows: PreviewRows,
}

/// Rows as the files hold them.
#[derive(Debug)]
pub enum PreviewRows {
    /// Of Parquet files: all of their columns, and those of their paths as texts, which are named.
    Parquet {
        /// The rows.
        batch: RecordBatch,
        /// The columns that stand in the paths.
        in_path: Vec<String>,
        /// The greatest values of numbers and timestamps by the files' statistics: the column, and a value for every row group.
        greatest: Vec<(String, ArrayRef)>,
    },
    /// The beginnings and ends of text files, whole lines.
    Texts(Vec<String>),
}

/// Looks at a file, a folder or files that a pattern such as `logs/*.csv` names, here or on S3. At most 4,000 rows are read of
/// Parquet files, and the first 512 KiB and last 64 KiB of eight text files.
///
/// # Errors
/// `Kind::Usage` where nothing is there, naming it; `Kind::Input` where nothing can be read; `Kind::Config` for a place that
/// cannot be opened; the store's own errors.
pub async fn preview(text: &str, options: &StoreOptions) -> Result<Preview> {
    let nothing =
        |what: &str, file: &str| Error::new(Kind::Usage, what).with("file", file).hint("check the path or the pattern");
    let found = find(text, options).await.map_err(|e| match e.kind() {
        // Nobody waits for a file here.
        Kind::NotArrived => nothing(e.message().trim_end_matches(" yet"), text),
        Kind::Input if e.message() == missing(&text).message() => nothing(e.message(), text),
        _ => e,
    })?;
    let Found { root, entries, place, asked, mut notes } = found;
    let Some(first) = entries.first() else {
        return Err(nothing("no file is there", &asked));
    };
    let files = entries.len();
    if is_parquet(first).await? {
        let ParquetRows { union, in_path, greatest, is_whole } = parquet_rows(&entries, &root).await?;
        notes.extend(union.notes());
        let rows = PreviewRows::Parquet { batch: union.batch()?, in_path, greatest };
        return Ok(Preview { place, asked, files, is_whole, notes, rows });
    }
    let chosen = spread(files, PARTS);
    let (mut texts, mut is_whole) = (Vec::new(), chosen.len() == files);
    for entry in chosen.into_iter().filter_map(|place| entries.get(place)) {
        let (text, is_cut) = text_of(entry).await?;
        is_whole &= !is_cut;
        texts.push(text);
    }
    Ok(Preview { place, asked, files, is_whole, notes, rows: PreviewRows::Texts(texts) })
}

async fn is_parquet(entry: &Entry) -> Result<bool> {
    let at = &entry.location;
    if entry.size == 0 {
        return Err(Error::new(Kind::Input, "the file is empty").with("file", at));
    }
    let start = at.store().get_range(at.path(), 0..entry.size.min(4)).await.map_err(|e| fail(&e, "read", at))?;
    Ok(&start[..] == b"PAR1")
}

/// The beginning and the end of a text file, and whether there is more of it.
async fn text_of(entry: &Entry) -> Result<(String, bool)> {
    let at = &entry.location;
    let end = entry.size.min(TEXT_BYTES);
    let bytes = match end {
        0 => bytes::Bytes::new(),
        _ => at.store().get_range(at.path(), 0..end).await.map_err(|e| fail(&e, "read", at))?,
    };
    let refused = |what: &str, hint: &str| Error::new(Kind::Input, what).with("file", at).hint(hint);
    let (is_packed, is_part) = (gzip::is_packed(&bytes), end < entry.size);
    let (bytes, is_cut) = match is_packed {
        true => {
            let (plain, is_all) = gzip::beginning(&bytes, !is_part, TEXT_BYTES as usize)
                .map_err(|e| refused("cannot read the file", "pack it anew with gzip, or fetch it again").source(e))?;
            (bytes::Bytes::from(plain), !is_all)
        }
        false => (bytes, is_part),
    };
    match &bytes[..] {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err(refused("the file is UTF-16", "save it as UTF-8")),
        _ => {}
    }
    let whole = match is_cut {
        true => bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1),
        false => bytes.len(),
    };
    let text = std::str::from_utf8(&bytes[..whole]).map_err(|_| {
        refused(
            "the file is neither Parquet nor text in UTF-8",
            "name Parquet, CSV or JSON lines; convert others, for example: iconv -f LATIN1 -t UTF-8",
        )
    })?;
    let mut text = text.trim_start_matches('\u{feff}').to_owned();
    // The end of a packed file cannot be read alone.
    if is_cut && !is_packed {
        let start = end.max(entry.size.saturating_sub(TAIL_BYTES));
        let tail = at.store().get_range(at.path(), start..entry.size).await.map_err(|e| fail(&e, "read", at))?;
        text.push_str(tail_of(&text, &tail));
    }
    Ok((text, is_cut))
}

/// The whole lines of a piece from the end of a text; nothing where a quoted value may go over its first line.
fn tail_of<'a>(text: &str, bytes: &'a [u8]) -> &'a str {
    let is_end = |b: &u8| *b == b'\n';
    let (Some(first), Some(last)) = (bytes.iter().position(is_end), bytes.iter().rposition(is_end)) else { return "" };
    let lines = std::str::from_utf8(&bytes[first + 1..last + 1]).unwrap_or_default();
    let is_json = text.trim_start().starts_with('{');
    if is_json || !lines.contains('"') { lines } else { "" }
}

/// A column that is put together from pieces of several files.
struct Pieces {
    name: String,
    kind: DataType,
    arrays: Vec<ArrayRef>,
    /// The first of the files, by their number, that lacks it or has it in another type.
    lacking: Option<usize>,
}

/// Columns of several files, row by row; a file that lacks a column, or has it in another type, has nulls.
#[derive(Default)]
struct Union {
    columns: Vec<Pieces>,
    rows: usize,
    /// The files, as far as rows of them were added.
    files: Vec<String>,
}

impl Union {
    /// Adds rows of the last of the files.
    fn add(&mut self, columns: &[(String, ArrayRef)], rows: usize) {
        let file = self.files.len().saturating_sub(1);
        for (name, array) in columns {
            if !self.columns.iter().any(|c| c.name == *name) {
                let kind = array.data_type().clone();
                let arrays = vec![new_null_array(&kind, self.rows)];
                self.columns.push(Pieces { name: name.clone(), kind, arrays, lacking: (file > 0).then_some(0) });
            }
        }
        for column in &mut self.columns {
            let found = columns.iter().find(|(name, array)| *name == column.name && *array.data_type() == column.kind);
            if found.is_none() {
                column.lacking = column.lacking.or(Some(file));
            }
            column
                .arrays
                .push(found.map_or_else(|| new_null_array(&column.kind, rows), |(_, array)| Arc::clone(array)));
        }
        self.rows += rows;
    }

    /// One sentence for every column that some of the files lack.
    fn notes(&self) -> Vec<String> {
        let lacking = self.columns.iter().filter_map(|column| Some((&column.name, self.files.get(column.lacking?)?)));
        lacking
            .map(|(name, file)| {
                format!("not all files have the column {name}, or it has another type there: see {file}")
            })
            .collect()
    }

    fn batch(self) -> Result<RecordBatch> {
        let broken = || "sampled rows do not go together".to_owned();
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        for Pieces { name, kind, arrays: pieces, .. } in self.columns {
            let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
            arrays.push(concat(&pieces).context(Kind::Internal, broken)?);
            fields.push(Field::new(name, kind, true));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
            .context(Kind::Internal, broken)
    }
}

/// Some rows of Parquet files.
struct ParquetRows {
    union: Union,
    /// The names of columns in their paths.
    in_path: Vec<String>,
    greatest: Vec<(String, ArrayRef)>,
    /// Whether these are all rows.
    is_whole: bool,
}

/// Of one row group of `rows` rows the ranges of rows at `places` places, from the first rows to the last. One place alone lies as
/// far from the beginning as `part` says, from 0 to 1.
fn ranges_of(rows: usize, places: usize, part: f64) -> Vec<Range<usize>> {
    if rows <= places * ROWS {
        return std::iter::once(0..rows).collect();
    }
    let most = rows - ROWS;
    let start = |place: usize| match places {
        1 => ((most as f64 * part) as usize).min(most),
        _ => place * most / (places - 1),
    };
    (0..places).map(|place| start(place)..start(place) + ROWS).collect()
}

/// Rows from places that are spread over files, over their row groups, and over the rows of these.
async fn parquet_rows(entries: &[Entry], root: &Location) -> Result<ParquetRows> {
    let chosen = spread(entries.len(), PARTS);
    let each = (PARTS / chosen.len().max(1)).max(1);
    let mut is_whole = chosen.len() == entries.len();
    let (mut union, mut in_path, mut greatest) = (Union::default(), Vec::new(), Vec::new());
    let last = chosen.len().saturating_sub(1).max(1) as f64;
    for (nth, entry) in chosen.into_iter().filter_map(|place| entries.get(place)).enumerate() {
        union.files.push(entry.location.to_string());
        let builder = open_parquet(&entry.location, entry.size).await?;
        let groups = builder.metadata().num_row_groups();
        // A file without rows has columns all the same.
        let empty = RecordBatch::new_empty(Arc::clone(builder.schema()));
        for field in builder.schema().fields().iter().filter(|field| is_ordered(field.data_type())) {
            greatest.extend(greatest_of(&builder, field.name()).map(|values| (field.name().clone(), values)));
        }
        let path = hive_values(&entry.location, root);
        let mut batches = vec![empty];
        let some = spread(groups, each);
        is_whole &= some.len() == groups;
        let places = (each / some.len().max(1)).max(1);
        let last_group = some.len().saturating_sub(1);
        for (place, group) in some.into_iter().enumerate() {
            let rows = usize::try_from(builder.metadata().row_group(group).num_rows()).unwrap_or(0);
            let part = if last_group == 0 { nth as f64 / last } else { place as f64 / last_group as f64 };
            let ranges = ranges_of(rows, places, part);
            is_whole &= ranges.iter().map(ExactSizeIterator::len).sum::<usize>() == rows;
            let builder = open_parquet(&entry.location, entry.size).await?;
            let selection = RowSelection::from_consecutive_ranges(ranges.into_iter(), rows);
            let builder = builder.with_row_groups(vec![group]).with_row_selection(selection).with_batch_size(ROWS);
            let stream = std::panic::catch_unwind(AssertUnwindSafe(|| builder.build()));
            let mut stream = stream.unwrap_or_else(|_| Err(torn())).map_err(|e| damaged(&e, &entry.location))?;
            loop {
                let next = AssertUnwindSafe(stream.try_next()).catch_unwind().await.unwrap_or_else(|_| Err(torn()));
                match next.map_err(|e| damaged(&e, &entry.location))? {
                    Some(batch) => batches.push(batch),
                    None => break,
                }
            }
        }
        for batch in batches {
            let schema = batch.schema();
            let fields = schema.fields().iter().map(|f| f.name().clone());
            let mut columns: Vec<(String, ArrayRef)> = fields.zip(batch.columns().iter().cloned()).collect();
            for (name, value) in &path {
                if columns.iter().any(|(known, _)| known == name) {
                    continue;
                }
                let texts = StringArray::from(vec![value.as_deref(); batch.num_rows()]);
                columns.push((name.clone(), Arc::new(texts)));
                if !in_path.contains(name) {
                    in_path.push(name.clone());
                }
            }
            union.add(&columns, batch.num_rows());
        }
    }
    Ok(ParquetRows { union, in_path, greatest, is_whole })
}

/// Whether the greatest value of a column says when a log ends.
fn is_ordered(kind: &DataType) -> bool {
    kind.is_integer() || kind.is_floating() || matches!(kind, DataType::Timestamp(..))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use parquet::arrow::arrow_writer::ArrowWriter;

    use super::*;

    #[tokio::test]
    async fn texts_of_a_folder_are_of_one_kind() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str| folder.path().join(name);
        std::fs::write(of("a.csv"), "x,y\n1,2\n").unwrap();
        std::fs::write(of("b.csv"), "x,y\n3,4\n").unwrap();
        std::fs::write(of("notes.md"), "no rows").unwrap();
        let at = folder.path().display().to_string();
        let found = preview(&at, &StoreOptions::default()).await.unwrap();
        assert_eq!((found.files, found.is_whole), (2, true));
        assert!(found.asked.ends_with("/**/*.csv"), "{}", found.asked);
        let PreviewRows::Texts(texts) = found.rows else { unreachable!() };
        assert_eq!(texts, ["x,y\n1,2\n", "x,y\n3,4\n"]);
        let one = preview(&format!("{at}/b*.csv"), &StoreOptions::default()).await.unwrap();
        assert_eq!((one.files, one.place), (1, None));
        std::fs::write(of("packed.csv"), [0x1f, 0x8b, 8, 0]).unwrap();
        let packed = preview(&of("packed.csv").display().to_string(), &StoreOptions::default()).await.unwrap_err();
        let told = packed.explain();
        assert!(told.contains("packed.csv") && told.contains("gzip data"), "{told}");
        let none = preview(&of("none.csv").display().to_string(), &StoreOptions::default()).await.unwrap_err();
        assert_eq!(none.kind(), Kind::Usage);
        assert!(!none.explain().contains("job file") && !none.message().contains("yet"), "{none:?}");
        let far = preview(&of("no/such/file.csv").display().to_string(), &StoreOptions::default()).await.unwrap_err();
        assert_eq!(far.kind(), Kind::Usage);
        std::fs::write(of("log.jsonl"), "{}\n").unwrap();
        std::fs::remove_file(of("packed.csv")).unwrap();
        let beside = preview(&at, &StoreOptions::default()).await.unwrap();
        assert_eq!(beside.notes, ["1 file(s) beside the .csv files are not read"]);
    }

    #[tokio::test]
    async fn the_end_of_a_long_text_is_read_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.csv");
        let lines: String = (0..100_000).map(|i| format!("{i},x\n")).collect();
        std::fs::write(&file, format!("n,t\n{lines}")).unwrap();
        let found = preview(&file.display().to_string(), &StoreOptions::default()).await.unwrap();
        assert!(!found.is_whole);
        let PreviewRows::Texts(texts) = found.rows else { unreachable!() };
        assert!(texts[0].starts_with("n,t\n0,x\n") && texts[0].ends_with("\n99999,x\n"));
        assert!(texts[0].lines().all(|line| line == "n,t" || line.ends_with(",x")));
        assert_eq!(tail_of("a,b\n", b"x\n1,\"two\nlines\"\n"), "", "nobody knows where its values begin");
        assert_eq!(tail_of("{}\n", b"\"}\n{\"a\":1}\n{"), "{\"a\":1}\n");
    }

    #[tokio::test]
    async fn places_are_spread_over_the_rows_of_a_row_group() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, columns: Vec<(&str, ArrayRef)>| {
            let batch = RecordBatch::try_from_iter(columns).unwrap();
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
        };
        let numbers = |range: Range<i64>| Arc::new(range.collect::<Int64Array>()) as ArrayRef;
        write("a.parquet", vec![("n", numbers(0..20_000))]);
        let at = folder.path().display().to_string();
        let found = preview(&format!("{at}/a.parquet"), &StoreOptions::default()).await.unwrap();
        assert!(!found.is_whole && found.notes.is_empty());
        let PreviewRows::Parquet { batch, greatest, .. } = found.rows else { unreachable!() };
        let read = batch.column(0).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!((read.len(), read[0], read[3_999]), (4_000, 0, 19_999));
        assert!(read.contains(&10_000) || read.iter().any(|n| (8_000..12_000).contains(n)), "the middle too");
        assert_eq!((greatest[0].0.as_str(), greatest[0].1.as_primitive::<Int64Type>().value(0)), ("n", 19_999));

        write("b.parquet", vec![("n", numbers(0..3)), ("m", numbers(0..3))]);
        std::fs::write(folder.path().join("c.csv"), "n\n1\n").unwrap();
        let both = preview(&at, &StoreOptions::default()).await.unwrap();
        assert_eq!(both.notes.len(), 2, "{:?}", both.notes);
        assert!(
            both.notes[0].contains("c.csv") && both.notes[1].contains("not all files have the column m"),
            "{:?}",
            both.notes
        );
    }

    #[test]
    fn ranges_of_a_row_group_go_from_its_first_rows_to_its_last() {
        let of = |rows: usize, places: usize, part: f64| -> Vec<(usize, usize)> {
            ranges_of(rows, places, part).into_iter().map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(of(1_000, 2, 0.0), [(0, 1_000)]);
        assert_eq!(of(2_500, 2, 0.0), [(0, 500), (2_000, 2_500)]);
        assert_eq!((of(2_500, 1, 0.0), of(2_500, 1, 1.0)), (vec![(0, 500)], vec![(2_000, 2_500)]));
    }

    #[tokio::test]
    async fn packed_texts_are_looked_at_like_plain_ones() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str| folder.path().join(name);
        let pack = |name: &str, text: &str| {
            let file = std::fs::File::create(of(name)).unwrap();
            let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::default());
            packed.write_all(text.as_bytes()).unwrap();
            packed.finish().unwrap();
        };
        pack("a.csv.gz", "x,y\n1,2\n");
        pack("b.CSV.GZ", "x,y\n3,4\n");
        std::fs::write(of("notes.gz"), "no rows").unwrap();
        let at = folder.path().display().to_string();
        let found = preview(&at, &StoreOptions::default()).await.unwrap();
        assert_eq!((found.files, found.is_whole), (2, true));
        assert!(found.asked.ends_with("/**/*.csv.gz"), "{}", found.asked);
        let PreviewRows::Texts(texts) = found.rows else { unreachable!() };
        assert_eq!(texts, ["x,y\n1,2\n", "x,y\n3,4\n"]);
        // Of a long one the first lines, whole ones.
        let long: String = (0..100_000).map(|i| format!("{i},{}\n", i * 7)).collect();
        pack("long.csv.gz", &long);
        let found = preview(&of("long.csv.gz").display().to_string(), &StoreOptions::default()).await.unwrap();
        assert!(!found.is_whole);
        let PreviewRows::Texts(texts) = found.rows else { unreachable!() };
        assert!(texts[0].len() > 500_000 && texts[0].ends_with('\n') && long.starts_with(&texts[0]));
    }
}
