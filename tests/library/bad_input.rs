//! Bad input: every refusal names the file, the column, the row or the key, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array, NullArray,
    RecordBatch, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray,
};
use arrow::datatypes::DataType;
use curec::error::{Error, Kind, Result};
use curec::query::session::{Param, Session, SessionOptions};
use curec::recommend::data::Log;
use curec::table::contract::Contract;
use curec::table::finding::{Findings, SHOWN_ROWS};
use curec::table::input::{InputReport, check_input, open_input};
use curec::table::store::Location;
use parquet::arrow::ArrowWriter;

use crate::common::shared;

fn write(path: &Path, columns: &[(&str, ArrayRef)]) {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(n, a)| (*n, Arc::clone(a), true))).unwrap();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn text(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn times(values: &[i64]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values.to_vec()).with_timezone("UTC"))
}

fn ratings(values: &[f32]) -> ArrayRef {
    Arc::new(Float32Array::from(values.to_vec()))
}

async fn look(table: &str, path: &Path) -> Result<InputReport> {
    let contract = Contract::builtin(table)?;
    let input = open_input(&contract, &Location::parse(path.to_str().unwrap())?).await?;
    check_input(&contract, &input).await
}

/// The error of an input that must be refused, after checking that it names what it has to.
async fn refused(table: &str, path: &Path, names: &[&str]) -> Error {
    fails(Kind::Input, table, path, names).await
}

/// The same for one of a kind.
async fn fails(kind: Kind, table: &str, path: &Path, names: &[&str]) -> Error {
    let error = look(table, path).await.expect_err("must be refused");
    assert_eq!(error.kind(), kind, "{}", error.explain());
    for name in names {
        assert!(error.explain().contains(name), "{name:?} is not in: {}", error.explain());
    }
    error
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("interaction.parquet");
    (dir, file)
}

#[tokio::test]
async fn a_good_input_is_accepted_in_all_its_shapes() {
    let (dir, file) = folder();
    let ms: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1_000, 2_000]));
    write(
        &dir.path().join("logs/dt=2026-11-20/a.parquet"),
        &[
            ("user_id", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
            ("item_id", Arc::new(Int64Array::from(vec![7, 8]))),
            ("rating", Arc::new(Float64Array::from(vec![3.5, 4.0]))),
            ("timestamp", ms),
            ("unknown", text(&["x", "y"])),
        ],
    );
    let contract = Contract::builtin("interaction").unwrap();
    let at = Location::parse(dir.path().join("logs").to_str().unwrap()).unwrap();
    let input = open_input(&contract, &at).await.unwrap();
    assert_eq!(input.hive_columns, ["dt"]);
    assert_eq!(input.files[0].partition, [("dt".to_owned(), Some("2026-11-20".to_owned()))]);
    assert_eq!(input.columns.iter().find(|c| c.name == "event").unwrap().source, None);
    assert_eq!(
        input.columns.iter().find(|c| c.name == "event_timestamp").unwrap().source.as_deref(),
        Some("timestamp")
    );
    let report = check_input(&contract, &input).await.unwrap();
    assert_eq!((report.rows, report.time_range), (2, Some((1_000_000, 2_000_000))));
    assert_eq!(report.nulls["event"], 2);
    assert!(report.warnings.iter().any(|w| w.contains("timestamp") && w.contains("UTC")), "{:?}", report.warnings);
    write(&file, &[("user_id", text(&[])), ("item_id", text(&[])), ("timestamp", times(&[]))]);
    assert_eq!(look("interaction", &file).await.unwrap().rows, 0);
}

#[tokio::test]
async fn a_missing_file_is_named_and_may_come_where_its_folder_is() {
    let (dir, file) = folder();
    fails(Kind::NotArrived, "interaction", &file, &["no such file", "interaction.parquet"]).await;
    refused("interaction", &dir.path().join("nowhere/log"), &["no such file", "nowhere/log", "its folder"]).await;
}

#[tokio::test]
async fn an_unreadable_file_is_named() {
    let (_dir, file) = folder();
    std::fs::write(&file, "plain").unwrap();
    let below = file.join("below.parquet");
    let error = look("interaction", &below).await.unwrap_err();
    assert!(error.explain().contains("below.parquet"), "{}", error.explain());
    assert!(!error.rerun_helps(), "{}", error.explain());
}

trait RerunHelps {
    fn rerun_helps(&self) -> bool;
}

impl RerunHelps for Error {
    fn rerun_helps(&self) -> bool {
        self.kind().rerun_helps()
    }
}

#[tokio::test]
async fn a_file_that_is_not_parquet_is_named() {
    let (_dir, file) = folder();
    std::fs::write(&file, "user_id,item_id\n1,2\n".repeat(100)).unwrap();
    refused("interaction", &file, &["not a Parquet file", "interaction.parquet"]).await;
    std::fs::write(&file, "").unwrap();
    refused("interaction", &file, &["empty", "interaction.parquet"]).await;
}

#[tokio::test]
async fn a_truncated_file_is_named_wherever_it_is_cut() {
    let (_dir, file) = folder();
    let many: Vec<String> = (0..2000).map(|i| format!("u{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let columns = [("user_id", text(&many)), ("item_id", text(&many)), ("timestamp", times(&[5; 2000]))];
    write(&file, &columns);
    let whole = std::fs::read(&file).unwrap();
    for keep in [5, 11, 100, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
        std::fs::write(&file, &whole[..keep]).unwrap();
        refused("interaction", &file, &["truncated or damaged", "interaction.parquet"]).await;
    }
    let mut damaged = whole.clone();
    for byte in &mut damaged[20..400] {
        *byte = !*byte;
    }
    std::fs::write(&file, &damaged).unwrap();
    refused("interaction", &file, &["interaction.parquet"]).await;
}

#[tokio::test]
async fn a_missing_column_is_named() {
    let (_dir, file) = folder();
    write(&file, &[("user_id", text(&["1"])), ("item_id", text(&["2"])), ("when", times(&[5]))]);
    refused("interaction", &file, &["event_timestamp", "missing", "interaction.parquet", "when", "timestamp"]).await;
}

#[tokio::test]
async fn a_wrong_type_is_named() {
    let (_dir, file) = folder();
    let number: ArrayRef = Arc::new(Int64Array::from(vec![881_250_949]));
    write(&file, &[("user_id", text(&["1"])), ("item_id", text(&["2"])), ("timestamp", number)]);
    refused("interaction", &file, &["wrong type Int64", "column: timestamp", "timestamp_us", "curec import"]).await;
    let number: ArrayRef = Arc::new(Float64Array::from(vec![1.5]));
    write(&file, &[("user_id", number), ("item_id", text(&["2"])), ("timestamp", times(&[5]))]);
    refused("interaction", &file, &["wrong type Float64", "column: user_id", "utf8"]).await;
}

#[tokio::test]
async fn files_that_differ_are_named() {
    let (dir, _) = folder();
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    write(&dir.path().join("a.parquet"), &[("item_id", text(&["1"]))]);
    write(&dir.path().join("b.parquet"), &[("item_id", ids)]);
    refused("item", dir.path(), &["differ", "item_id", "a.parquet", "b.parquet"]).await;
}

#[tokio::test]
async fn a_null_or_empty_key_is_named_with_its_row() {
    let (_dir, file) = folder();
    let users: ArrayRef = Arc::new(StringArray::from(vec![Some("1"), None]));
    write(&file, &[("user_id", users), ("item_id", text(&["2", "3"])), ("timestamp", times(&[5, 6]))]);
    refused("interaction", &file, &["null", "column: user_id", "row: 1", "user_id=null, item_id=3"]).await;
    write(&file, &[("user_id", text(&["1", ""])), ("item_id", text(&["2", "3"])), ("timestamp", times(&[5, 6]))]);
    refused("interaction", &file, &["empty text", "column: user_id", "row: 1"]).await;
}

#[tokio::test]
async fn a_duplicate_key_is_named_with_both_rows_across_files() {
    let (dir, file) = folder();
    let rows = [("user_id", text(&["1", "1"])), ("item_id", text(&["2", "2"])), ("timestamp", times(&[5, 5]))];
    write(&file, &rows);
    refused("interaction", &file, &["twice", "row: 1", "user_id=1, item_id=2", "first: row 0 of"]).await;
    let folder = dir.path().join("items");
    let many: Vec<String> = (0..9000).map(|i| format!("i{i}")).collect();
    write(&folder.join("a.parquet"), &[("item_id", text(&many.iter().map(String::as_str).collect::<Vec<_>>()))]);
    write(&folder.join("b.parquet"), &[("item_id", text(&["j", "i8500"]))]);
    refused("item", &folder, &["twice", "b.parquet", "row: 1", "item_id=i8500", "first: row 8500 of", "a.parquet"])
        .await;
}

#[tokio::test]
async fn null_timestamps_are_refused_on_the_million_pairs() {
    let Some(file) = shared("data/movielens-1m-pairs/interactions.parquet") else { return };
    let key = "user_id=1, item_id=1193";
    refused("interaction", &file, &["null", "column: timestamp", "row: 0", key, "interactions.parquet"]).await;
}

#[tokio::test]
async fn ratings_that_are_no_numbers_are_refused() {
    let (_dir, file) = folder();
    for (bad, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let columns = [
            ("user_id", text(&["1", "1"])),
            ("item_id", text(&["2", "3"])),
            ("rating", ratings(&[4.0, bad])),
            ("timestamp", times(&[5, 6])),
        ];
        write(&file, &columns);
        let names = [shown, "not a finite number", "column: rating", "row: 1", "item_id=3", "interaction.parquet"];
        refused("interaction", &file, &names).await;
    }
    // Too large for single precision: it would become infinite.
    let huge: ArrayRef = Arc::new(Float64Array::from(vec![1e300]));
    let columns = [("user_id", text(&["1"])), ("item_id", text(&["2"])), ("rating", huge), ("timestamp", times(&[5]))];
    write(&file, &columns);
    refused("interaction", &file, &["column: rating", "row: 0"]).await;
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_refused() {
    let (_dir, file) = folder();
    let years: ArrayRef = Arc::new(Int64Array::from(vec![1995, 1 << 40]));
    write(&file, &[("item_id", text(&["1", "2"])), ("release_year", years)]);
    refused("item", &file, &["does not fit int32", "column: release_year", "row: 1", "item_id=2"]).await;
}

/// 1,000 rows of which some break the contract in every way that a row can; the numbers of the good ones are 0, 1, 2, ...
fn log_with_bad_rows(path: &Path) -> Vec<usize> {
    const FAR: i64 = i64::MAX / 1_000;
    let (mut users, mut items, mut values, mut moments) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut good = Vec::new();
    for row in 0..1_000_usize {
        let (mut user, mut item) = (Some(format!("u{}", row % 50)), Some(format!("i{row}")));
        let (mut rating, mut at) = (Some(f64::from(row as u32 % 5)), Some(1_000 + row as i64));
        match row {
            10 => user = None,
            20 => item = Some(String::new()),
            30 => rating = Some(f64::NAN),
            40 => rating = Some(1e300),
            50 => at = None,
            // Seconds that overflow as microseconds, and such that no calendar has.
            60 => at = Some(FAR),
            70 => at = Some(i64::MIN / 1_000_000 + 1),
            // Two mistakes are one bad row.
            80 => (user, at) = (Some(String::new()), None),
            // These are values: no rating, and what others write for "always" and "never".
            90 => rating = None,
            91 => at = Some(-62_135_596_800),
            92 => at = Some(253_402_300_799),
            _ => {}
        }
        if !matches!(row, 10 | 20 | 30 | 40 | 50 | 60 | 70 | 80) {
            good.push(row);
        }
        users.push(user);
        items.push(item);
        values.push(rating);
        moments.push(at);
    }
    let columns: [(&str, ArrayRef); 4] = [
        ("user_id", Arc::new(StringArray::from(users))),
        ("item_id", Arc::new(StringArray::from(items))),
        ("rating", Arc::new(Float64Array::from(values))),
        ("timestamp", Arc::new(TimestampSecondArray::from(moments).with_timezone("UTC"))),
    ];
    write(path, &columns);
    good
}

#[tokio::test]
async fn bad_rows_are_counted_by_kind_and_left_out_up_to_the_limit() {
    let (_dir, file) = folder();
    let good = log_with_bad_rows(&file);
    let contract = Contract::builtin("interaction").unwrap();
    let at = Location::parse(file.to_str().unwrap()).unwrap();
    let input = open_input(&contract, &at).await.unwrap();
    // Eight of a thousand: exactly the limit is allowed.
    let report = check_input(&contract, &input.clone().allowing(0.008)).await.unwrap();
    assert_eq!((report.rows, report.left_out.rows, good.len()), (1000, 8, 992));
    let kinds: Vec<(&str, u64)> = report.left_out.found.iter().map(|f| (f.audit.as_str(), f.failing)).collect();
    let expected = [
        ("finite(rating)", 2),
        ("min_length(item_id)", 1),
        ("min_length(user_id)", 1),
        ("moment(event_timestamp)", 1),
        ("not_null(event_timestamp)", 2),
        ("not_null(user_id)", 1),
        ("type(event_timestamp)", 1),
    ];
    assert_eq!(kinds, expected);
    assert!(
        report.warnings.iter().any(|w| w.starts_with("8 of 1000 rows break the contract")),
        "{:?}",
        report.warnings
    );
    let rows = || report.left_out.found.iter().flat_map(|f| &f.rows);
    assert!(rows().count() <= SHOWN_ROWS && rows().all(|row| row.contains("interaction.parquet")));
    assert!(rows().any(|row| row.contains("row 30 of") && row.contains("u30")), "{:?}", rows().collect::<Vec<_>>());

    for limit in [0.0, 0.0079] {
        let error = check_input(&contract, &input.clone().allowing(limit)).await.unwrap_err();
        let said = error.explain();
        for part in ["row: 10", "bad_rows: 8 of 1000", "2 finite(rating)", "max_bad_fraction", "0.008 would do"] {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
        assert_eq!((error.kind(), Findings::of(&error).unwrap().found().len()), (Kind::Input, 7));
    }

    // Queries and trainings see exactly the rows that were not counted as bad.
    let session = Session::new(SessionOptions::default()).unwrap();
    session.register_input(&contract, &[at.clone().into()], &[], true).await.unwrap();
    let select = |what: &str| format!("select 1 as one from interaction where {what}");
    let params = [("end", Param::Timestamp(1_500_000_000)), ("year_2", Param::Timestamp(-62_104_060_800_000_000))];
    let n = |text: String| {
        let (session, params) = (&session, &params);
        async move { session.sql(&text, params).await.unwrap().count().await.unwrap() }
    };
    assert_eq!(n(select("true")).await, 992);
    assert_eq!(n(select("user_id is null or user_id = '' or item_id = '' or event_timestamp is null")).await, 0);
    assert_eq!(n(select("event_timestamp < $end and event_timestamp > $year_2")).await, 490);
    assert_eq!(n("select distinct item_id from interaction".into()).await, 992);
    assert_eq!(Log::read(&at, None, 0.008).await.unwrap().events().len(), 992);
    assert!(Log::read(&at, None, 0.0).await.unwrap_err().explain().contains("8 of 1000"));
}

#[tokio::test]
async fn a_key_that_stands_twice_is_refused_beside_rows_that_are_left_out() {
    let (_dir, file) = folder();
    let users: ArrayRef = Arc::new(StringArray::from(vec![None, Some("1"), None, Some("1")]));
    write(&file, &[("user_id", users), ("item_id", text(&["2", "2", "2", "2"])), ("timestamp", times(&[5, 6, 5, 6]))]);
    let contract = Contract::builtin("interaction").unwrap();
    let input = open_input(&contract, &Location::parse(file.to_str().unwrap()).unwrap()).await.unwrap();
    let said = check_input(&contract, &input.allowing(0.5)).await.unwrap_err().explain();
    assert!(said.contains("stands twice") && said.contains("row: 3") && said.contains("first: row 1 of"), "{said}");
}

#[tokio::test]
async fn nanoseconds_that_become_one_key_are_told() {
    let (_dir, file) = folder();
    let at: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![5_000_000, 5_000_300]).with_timezone("UTC"));
    write(&file, &[("user_id", text(&["1", "1"])), ("item_id", text(&["2", "2"])), ("timestamp", at)]);
    refused("interaction", &file, &["stands twice", "row: 1", "timestamp is stored in nanoseconds"]).await;
}

#[tokio::test]
async fn of_two_names_of_one_column_the_contracts_own_is_read_and_the_other_told() {
    let (_dir, file) = folder();
    for table in ["interaction", "review"] {
        let columns = [
            ("user_id", text(&["1"])),
            ("item_id", text(&["2"])),
            ("timestamp", times(&[5])),
            ("event_timestamp", times(&[6])),
        ];
        write(&file, &columns);
        let report = look(table, &file).await.unwrap();
        assert_eq!(report.time_range.map(|(first, _)| first), Some(6), "{table}");
        let told = "of the columns event_timestamp and timestamp only event_timestamp is read";
        assert_eq!(report.warnings.iter().filter(|w| w.contains(told)).count(), 1, "{:?}", report.warnings);
    }
}

/// Writes moments of the old type INT96, as Spark, Hive and Impala do: nanoseconds of the day and the Julian day.
fn write_int96(path: &Path, days: &[u32]) {
    use parquet::data_type::{ByteArray, ByteArrayType, Int96, Int96Type};
    let schema =
        "message m { required binary user_id (UTF8); required binary item_id (UTF8); required int96 timestamp; }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::file::writer::SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for _ in ["user_id", "item_id"] {
        let ids: Vec<ByteArray> = (0..days.len()).map(|i| ByteArray::from(format!("{i}").as_str())).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
    }
    let moments: Vec<Int96> = days.iter().map(|day| Int96::from(vec![7_000, 0, *day])).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int96Type>().write_batch(&moments, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[tokio::test]
async fn moments_of_the_old_type_beyond_nanoseconds_stay_what_they_are() {
    let (_dir, file) = folder();
    // 0001-01-01, 2026-01-20 and 9999-12-31 as Julian days; as nanoseconds the first and the last would come out as others.
    write_int96(&file, &[1_721_426, 2_461_061, 5_373_484]);
    let report = look("interaction", &file).await.unwrap();
    let micros = |day: i64| (day - 2_440_588) * 86_400_000_000 + 7;
    assert_eq!(report.time_range, Some((micros(1_721_426), micros(5_373_484))));
    let contract = Contract::builtin("interaction").unwrap();
    let at = Location::parse(file.to_str().unwrap()).unwrap();
    let session = Session::new(SessionOptions::default()).unwrap();
    session.register_files("interaction", &contract, &[at.into()]).await.unwrap();
    let far = "select 1 as one from interaction where event_timestamp = $first or event_timestamp = $last";
    let moments = [("first", Param::Timestamp(micros(1_721_426))), ("last", Param::Timestamp(micros(5_373_484)))];
    assert_eq!(session.sql(far, &moments).await.unwrap().count().await.unwrap(), 2);
    // Far beyond every calendar.
    write_int96(&file, &[2_461_061, 20_000_000]);
    refused("interaction", &file, &["no moment of the years", "row: 1", "column: timestamp", "item_id=1"]).await;
}

#[tokio::test]
async fn an_empty_folder_is_named() {
    let (dir, _) = folder();
    fails(Kind::NotArrived, "interaction", dir.path(), &["empty", dir.path().to_str().unwrap()]).await;
    std::fs::write(dir.path().join("ratings.csv"), "a,b").unwrap();
    refused("interaction", dir.path(), &["no .parquet file", "ratings.csv", "curec import"]).await;
    // Names that readers ignore do not count either.
    write(&dir.path().join("_staging/x.parquet"), &[("item_id", text(&["1"]))]);
    refused("item", dir.path(), &["no .parquet file"]).await;
}

#[tokio::test]
async fn items_without_title_are_accepted_and_counted() {
    let (_dir, file) = folder();
    let titles: ArrayRef = Arc::new(StringArray::from(vec![Some("A"), None, None]));
    write(&file, &[("item_id", text(&["1", "2", "3"])), ("title", titles)]);
    let report = look("item", &file).await.unwrap();
    assert_eq!((report.rows, report.null_titles()), (3, 2));
    assert!(report.warnings.iter().any(|w| w == "2 of 3 items have no title"), "{:?}", report.warnings);
    write(&file, &[("item_id", text(&["1", "2"]))]);
    assert_eq!(look("item", &file).await.unwrap().null_titles(), 2);
}

#[tokio::test]
async fn very_long_titles_are_accepted() {
    let (_dir, file) = folder();
    let long = "x".repeat(100_000);
    write(&file, &[("item_id", text(&["1", "2"])), ("title", text(&[&long, "short"]))]);
    assert_eq!(look("item", &file).await.unwrap().rows, 2);
}

#[tokio::test]
async fn the_shared_data_sets_are_accepted_or_refused_as_documented() {
    for (table, file, rows) in [
        ("interaction", "data/movielens-100k/interactions.parquet", 100_000),
        ("item", "data/movielens-100k/items.parquet", 1_682),
        ("interaction", "data/amazon-digital-music-part/interactions.parquet", 6_908),
        ("item", "data/amazon-digital-music-part/items.parquet", 7_419),
        ("review", "data/amazon-digital-music-part/reviews.parquet", 6_908),
        ("review", "data/amazon-gift-cards-5core/reviews.parquet", 2_972),
        ("interaction", "data/amazon-musical-instruments-5core/interactions.parquet", 10_261),
        ("item", "data/amazon-musical-instruments-5core/items.parquet", 900),
    ] {
        let Some(path) = shared(file) else { continue };
        assert_eq!(look(table, &path).await.unwrap().rows, rows, "{file}");
    }
    // Three of its events stand twice.
    if let Some(path) = shared("data/amazon-gift-cards-5core/interactions.parquet") {
        refused("interaction", &path, &["twice", "user_id=", "interactions.parquet"]).await;
    }
}

#[test]
fn a_broken_contract_is_refused_with_its_line() {
    let good = "name = \"t\"\nversion = \"1.0\"\nrole = \"input\"\ngrain = [\"a\"]\n[[column]]\nname = \"a\"\n\
                type = \"utf8\"\nnullable = false\n";
    Contract::parse(good, "t.toml").unwrap();
    for (from, to, line, what) in [
        ("utf8", "utf9", 7, "utf9 is no column type"),
        ("nullable", "nulable", 8, "nulable"),
        ("[\"a\"]", "[\"b\"]", 4, "b is no column"),
        ("\"1.0\"", "\"1\"", 2, "major.minor"),
        ("\"input\"", "\"inputs\"", 3, "inputs"),
        ("name = \"a\"", "name = 1", 6, "string"),
    ] {
        let error = Contract::parse(&good.replacen(from, to, 1), "t.toml").unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        let said = error.explain();
        assert!(said.contains(what) && said.contains("t.toml"), "{said}");
        assert!(said.contains(&format!("line: {line}")), "line {line} expected: {said}");
        assert!(said.contains(&format!("\n  --> t.toml:{line}:")) && said.contains("^"), "{said}");
    }
}

fn event_columns(users: &[&str], stamps: &[i64]) -> Vec<(&'static str, ArrayRef)> {
    vec![("user_id", text(users)), ("item_id", text(&vec!["x"; users.len()])), ("timestamp", times(stamps))]
}

#[tokio::test]
async fn hive_columns_count_in_keys_nulls_and_allowed_values() {
    let (dir, _) = folder();
    let log = dir.path().join("log");
    // The same item in the same moment: another event, another key.
    for event in ["click", "to%20cart%3A1", "__HIVE_DEFAULT_PARTITION__"] {
        write(&log.join(format!("event={event}/a.parquet")), &event_columns(&["1"], &[5]));
    }
    let contract = Contract::builtin("interaction").unwrap();
    let input = open_input(&contract, &Location::parse(log.to_str().unwrap()).unwrap()).await.unwrap();
    let told: Vec<Option<&str>> = input.files.iter().map(|f| f.partition[0].1.as_deref()).collect();
    assert_eq!(told, [None, Some("click"), Some("to cart:1")]);
    let report = check_input(&contract, &input).await.unwrap();
    assert_eq!((report.rows, report.nulls["event"]), (3, 1));
    // Within one event it stays a duplicate.
    write(&log.join("event=click/b.parquet"), &event_columns(&["1"], &[5]));
    refused("interaction", &log, &["twice", "event=click"]).await;

    let strict = "name = \"t\"\nversion = \"1.0\"\nrole = \"input\"\ngrain = [\"id\", \"kind\"]\n\
        [[column]]\nname = \"id\"\ntype = \"utf8\"\nnullable = false\n\
        [[column]]\nname = \"kind\"\ntype = \"utf8\"\nnullable = false\nvalues = [\"a\", \"b\"]\n\
        [[column]]\nname = \"year\"\ntype = \"int32\"\nnullable = true\n";
    let contract = Contract::parse(strict, "t.toml").unwrap();
    let table = dir.path().join("t");
    let at = Location::parse(table.to_str().unwrap()).unwrap();
    write(&table.join("kind=a/year=2026/x.parquet"), &[("id", text(&["1"]))]);
    let input = open_input(&contract, &at).await.unwrap();
    assert_eq!(check_input(&contract, &input).await.unwrap().nulls["kind"], 0);
    for (place, says) in [
        ("kind=c/year=2026", ["\"c\" is not one of a, b", "column: kind"]),
        ("kind=__HIVE_DEFAULT_PARTITION__/year=1", ["null", "column: kind"]),
        ("kind=b/year=soon", ["does not fit int32", "column: year"]),
    ] {
        write(&table.join(place).join("x.parquet"), &[("id", text(&["2"]))]);
        let input = open_input(&contract, &at).await.unwrap();
        let error = check_input(&contract, &input).await.unwrap_err().explain();
        assert!(says.iter().all(|s| error.contains(s)) && error.contains(place), "{place}: {error}");
        std::fs::remove_file(table.join(place).join("x.parquet")).unwrap();
    }
}

#[tokio::test]
async fn files_may_carry_a_column_in_any_of_its_accepted_forms() {
    let (dir, _) = folder();
    let log = dir.path().join("log");
    let texts = text(&["1"]);
    for (i, kind) in [
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
    ]
    .iter()
    .enumerate()
    {
        let mut columns = event_columns(&["1"], &[i as i64]);
        columns[0].1 = arrow::compute::cast(&texts, kind).unwrap();
        columns.push(("event", Arc::new(NullArray::new(1))));
        write(&log.join(format!("{i}.parquet")), &columns);
    }
    // Another name, another unit, another width; and an empty frame, whose columns have no type.
    let mut columns = event_columns(&["1"], &[9]);
    columns[2] = ("event_timestamp", Arc::new(TimestampMillisecondArray::from(vec![9])));
    columns.push(("rating", Arc::new(Float64Array::from(vec![0.5]))));
    write(&log.join("ms.parquet"), &columns);
    let none: ArrayRef = Arc::new(NullArray::new(0));
    write(&log.join("none.parquet"), &["user_id", "item_id", "timestamp", "event"].map(|n| (n, Arc::clone(&none))));
    let report = look("interaction", &log).await.unwrap();
    assert_eq!((report.rows, report.nulls["event"], report.nulls["rating"]), (5, 5, 4));
    assert_eq!(report.time_range, Some((0, 9_000)));
    let told = report.warnings.join("\n");
    assert!(told.contains("no time zone") && told.contains("in 1 of 6 files") && told.contains("ms.parquet"), "{told}");
    // A column without a type where there are rows is a column of nulls.
    let mut columns = event_columns(&["1"], &[7]);
    columns[1].1 = Arc::new(NullArray::new(1));
    write(&log.join("z.parquet"), &columns);
    refused("interaction", &log, &["null", "column: item_id", "z.parquet"]).await;
}

#[tokio::test]
async fn what_is_passed_over_is_told() {
    let (dir, _) = folder();
    let log = dir.path().join("log");
    let mut columns = event_columns(&["1"], &[5]);
    columns.push(("Rating", ratings(&[1.0])));
    columns.push(("event_timestamp", times(&[6])));
    write(&log.join("a.parquet"), &columns);
    std::fs::write(log.join("late.csv"), "1,2").unwrap();
    std::fs::write(log.join("_SUCCESS"), "").unwrap();
    let report = look("interaction", &log).await.unwrap();
    // The contract's own name comes first, in checks as in queries.
    assert_eq!(report.time_range, Some((6, 6)));
    let told = report.warnings.join("\n");
    for part in ["Rating", "late.csv", "event_timestamp and timestamp"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("_SUCCESS"), "{told}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_part_that_cannot_be_listed_is_named() {
    use std::os::unix::fs::symlink;
    let (dir, _) = folder();
    let log = dir.path().join("log");
    write(&dir.path().join("real/b.parquet"), &event_columns(&["2"], &[6]));
    write(&log.join("a.parquet"), &event_columns(&["1"], &[5]));
    symlink(dir.path().join("real"), log.join("dt=1")).unwrap();
    assert_eq!(look("interaction", &log).await.unwrap().rows, 2);
    let link = log.join("odd");
    for (target, says) in [
        (dir.path().join("gone.parquet"), "leads nowhere"),
        (link.clone(), "cannot be followed"),
        (dir.path().to_path_buf(), "leads back"),
        (log.clone(), "leads back"),
    ] {
        symlink(&target, &link).unwrap();
        refused("interaction", &log, &[says, "odd", "what to do"]).await;
        let error = curec::operate::inspect::inspect(&log, 1).unwrap_err();
        assert!(error.explain().contains(says), "{}", error.explain());
        std::fs::remove_file(&link).unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(log.join("s.parquet")).unwrap();
    refused("interaction", &log, &["neither a file nor a folder", "s.parquet"]).await;
    refused("interaction", &log.join("s.parquet"), &["neither a file nor a folder", "s.parquet"]).await;
}

#[tokio::test]
async fn tables_whose_log_says_which_files_count_are_refused() {
    for (log, format) in [("metadata/00000-a.metadata.json", "Iceberg"), (".hoodie/hoodie.properties", "Hudi")] {
        let (dir, _) = folder();
        let part = dir.path().join("data/dt=2026-01-20");
        write(&part.join("a.parquet"), &event_columns(&["1"], &[5]));
        assert_eq!(look("interaction", dir.path()).await.unwrap().rows, 1);
        let log = dir.path().join(log);
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        std::fs::write(&log, "{}").unwrap();
        // By whatever part of the table the job names.
        for place in [dir.path(), &dir.path().join("data"), &part] {
            refused("interaction", place, &[format, "deleted rows", "what to do", "plain"]).await;
        }
        // One file is a file.
        assert_eq!(look("interaction", &part.join("a.parquet")).await.unwrap().rows, 1);
    }
    // A part of a Delta table, or a folder of some: the table itself is read.
    let (dir, _) = folder();
    let (lake, part) = (dir.path().join("lake"), dir.path().join("lake/table/dt=2026-01-20"));
    write(&part.join("a.parquet"), &event_columns(&["1"], &[5]));
    std::fs::create_dir_all(lake.join("table/_delta_log")).unwrap();
    std::fs::write(lake.join("table/_delta_log/00000000000000000000.json"), "{}").unwrap();
    refused("interaction", &part, &["Delta", "deleted rows", "what to do", "holds _delta_log"]).await;
    refused("interaction", &lake.join("table"), &["Delta log is damaged", "what the table is", "what to do"]).await;
    assert_eq!(look("interaction", &part.join("a.parquet")).await.unwrap().rows, 1);
    let at = Location::parse("memory://lake/log").unwrap();
    at.child("_delta_log/0.json").put("{}".into()).await.unwrap();
    at.child("a.parquet").put("x".into()).await.unwrap();
    let error = open_input(&Contract::builtin("interaction").unwrap(), &at).await.unwrap_err();
    assert!(error.explain().contains("Delta"), "{}", error.explain());
}

#[tokio::test]
async fn every_refused_type_has_a_way_out() {
    let (dir, _) = folder();
    let file = dir.path().join("x.parquet");
    let ids = |array: ArrayRef| vec![("user_id", array), ("item_id", text(&["2"])), ("timestamp", times(&[5]))];
    let decimal = || Arc::new(Decimal128Array::from(vec![1_i128]).with_precision_and_scale(20, 0).unwrap());
    let moment = |array: ArrayRef| vec![("user_id", text(&["1"])), ("item_id", text(&["2"])), ("timestamp", array)];
    let mut rated = event_columns(&["1"], &[5]);
    rated.push(("rating", decimal()));
    for (columns, says) in [
        (ids(decimal()), ["Decimal128(20, 0)", "column: user_id"]),
        (ids(Arc::new(BinaryArray::from_vec(vec![b"1"]))), ["Binary", "CAST(user_id AS VARCHAR)"]),
        (ids(Arc::new(Float64Array::from(vec![1.0]))), ["Float64", "int64"]),
        (moment(text(&["2026-01-20"])), ["Utf8", "to_datetime(timestamp"]),
        (moment(Arc::new(Date32Array::from(vec![1]))), ["Date32", "CAST(timestamp AS TIMESTAMP)"]),
        (rated, ["Decimal128(20, 0)", "CAST(rating AS DOUBLE)"]),
        (
            vec![("USER_ID", text(&["1"])), ("itemId", text(&["2"]))],
            ["USER_ID", "[input.columns.interaction] user_id = \"USER_ID\""],
        ),
    ] {
        write(&file, &columns);
        refused("interaction", &file, &[says[0], says[1], "x.parquet", "what to do"]).await;
    }
    write(&file, &[("item_id", text(&["2"])), ("categories", text(&["a|b"]))]);
    refused("item", &file, &["Utf8", "list<utf8>", "string_split(categories"]).await;
}
