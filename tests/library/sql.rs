//! Table definitions against rows worked out by hand (`slt/*.slt`), and the session that runs them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::sql_support::{cell, padded, run, session};
use arrow::array::{
    ArrayRef, AsArray, Float32Array, Int64Array, NullArray, RecordBatch, StringArray, TimestampMicrosecondArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Int64Type, Schema};
use curec::config::HistorySpec;
use curec::error::{Error, Kind};
use curec::night::tables;
use curec::query::audit::{Drift, audit};
use curec::query::model::Model;
use curec::query::session::{Param, Session, SessionOptions, TableFile};
use curec::query::texts;
use curec::recommend::data::LogBuilder;
use curec::recommend::split::{Part, Target, temporal};
use curec::table::contract::Contract;
use curec::table::store::Location;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Volatility, create_udf};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};

/// Three statements beside queries: `set name = value`, `create table name as select ...` and `run table`.
struct Scripted {
    session: Session,
    params: BTreeMap<String, Param>,
}

impl Scripted {
    fn params(&self) -> Vec<(&str, Param)> {
        self.params.iter().map(|(n, p)| (n.as_str(), p.clone())).collect()
    }
}

fn param(text: &str) -> Param {
    if let Some(moment) = text.strip_prefix("timestamp ") {
        return Param::Timestamp(moment.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp_micros());
    }
    if let Some(width) = text.strip_prefix("zeros ") {
        return Param::ZeroVector(width.parse().unwrap());
    }
    if let Some(text) = text.strip_prefix("text ") {
        return Param::Text(text.to_owned());
    }
    text.parse().map(Param::Int).unwrap_or_else(|_| Param::Float(text.parse().unwrap()))
}

#[async_trait::async_trait]
impl AsyncDB for Scripted {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Error> {
        if let Some((name, value)) = sql.strip_prefix("set ").and_then(|s| s.split_once(" = ")) {
            self.params.insert(name.to_owned(), param(value));
            return Ok(DBOutput::StatementComplete(0));
        }
        if let Some((name, select)) = sql.strip_prefix("create table ").and_then(|s| s.split_once(" as\n")) {
            let rows = self.session.sql(select, &[]).await?;
            let mut schema = rows.schema();
            let mut batches = rows.collect().await?;
            if matches!(name, "item" | "review" | "pair" | "reason_prompt") {
                batches = padded(name, batches);
                schema = match batches.first() {
                    Some(batch) => batch.schema(),
                    None => Contract::builtin(name)?.arrow_schema(None),
                };
            }
            self.session.register_batches(name, schema, batches)?;
            return Ok(DBOutput::StatementComplete(0));
        }
        if let Some(table) = sql.strip_prefix("run ") {
            let rows = run(&self.session, table, &self.params()).await?;
            return Ok(DBOutput::StatementComplete(rows.iter().map(|b| b.num_rows() as u64).sum()));
        }
        let rows = self.session.sql(sql, &[]).await?;
        let types = vec![DefaultColumnType::Any; rows.schema().fields().len()];
        let batches = rows.collect().await?;
        let rows = batches
            .iter()
            .flat_map(|b| (0..b.num_rows()).map(move |i| b.columns().iter().map(|c| cell(c, i)).collect()));
        Ok(DBOutput::Rows { types, rows: rows.collect() })
    }

    async fn shutdown(&mut self) {}
}

#[tokio::test]
async fn every_definition_makes_the_rows_worked_out_by_hand() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let mut wrong = Vec::new();
    for table in Model::builtin_names() {
        let script = folder.join(format!("{table}.slt"));
        assert!(script.exists(), "no test for sql/{table}.sql");
        for (threads, batch_size) in [(1, 8192), (3, 2)] {
            let mut runner = Runner::new(|| async {
                Ok(Scripted { session: session(threads, batch_size), params: BTreeMap::new() })
            });
            if let Err(error) = runner.run_file_async(&script).await {
                wrong.push(format!("{table} with {threads} threads: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test]
async fn a_script_with_a_wrong_row_fails() {
    let script = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt/reason.slt")).unwrap();
    let wrong = script.replace("length -3.0 10 4", "length -3.0 10 5");
    assert_ne!(script, wrong);
    let mut runner = Runner::new(|| async { Ok(Scripted { session: session(1, 8192), params: BTreeMap::new() }) });
    assert!(runner.run_multi_async(sqllogictest::parse(&wrong).unwrap()).await.is_err());
}

#[tokio::test]
async fn sql_and_rust_cut_a_log_alike() {
    // Few moments, so that many events stand at the cuts.
    let n = 600_i64;
    let column =
        |make: &dyn Fn(i64) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values((0..n).map(make))) };
    let times: arrow::array::TimestampMicrosecondArray = (0..n).map(|i| Some(i * i * 37 % 101)).collect();
    let ratings: Float32Array = (0..n).map(|i| (i % 3 > 0).then_some((i % 5) as f32)).collect();
    let batch = RecordBatch::try_from_iter([
        ("user_id", column(&|i| format!("u{}", i * 7 % 23))),
        ("item_id", column(&|i| format!("i{}", i * i % 71 + i / 300 * 40))),
        ("event", column(&|i| format!("e{i}"))),
        ("rating", Arc::new(ratings)),
        ("event_timestamp", Arc::new(times.with_timezone("UTC"))),
    ])
    .unwrap();
    let mut builder = LogBuilder::default();
    builder.push(&batch).unwrap();
    let log = builder.finish().unwrap();
    for (train_quantile, valid_quantile) in [(0.9, 0.9), (0.8, 0.5), (0.35, 0.61)] {
        let split = temporal(&log, train_quantile, valid_quantile).unwrap();
        let session = session(2, 64);
        session.register_batches("interaction", batch.schema(), vec![batch.clone()]).unwrap();
        let params =
            [("train_quantile", Param::Float(train_quantile)), ("valid_quantile", Param::Float(valid_quantile))];
        run(&session, "split", &params).await.unwrap();
        let audited = audit(&session, &Contract::builtin("split").unwrap(), "split", &[], None).await.unwrap();
        assert!(audited.passed(), "{audited:?}");
        let asked = |text: &'static str| {
            let session = &session;
            async move {
                let batches = session.sql(text, &[]).await.unwrap().collect().await.unwrap();
                let rows = batches.iter().flat_map(|b| {
                    (0..b.num_rows()).map(|i| b.columns().iter().map(|c| cell(c, i)).collect::<Vec<_>>().join(" "))
                });
                rows.collect::<Vec<_>>()
            }
        };
        let by_part = asked(
            "select part, count(*), count(distinct item_id) filter (where cold) from split group by part order by part",
        )
        .await;
        let cold = |events: &[curec::recommend::data::Event]| {
            let items = events.iter().map(|e| e.item).filter(|i| split.train_counts()[*i as usize] == 0);
            items.collect::<std::collections::BTreeSet<_>>().len()
        };
        let parts =
            [("test", split.events(Part::Test)), ("train", split.train()), ("valid", split.events(Part::Valid))];
        let expected: Vec<_> = parts.iter().map(|(n, e)| format!("{n} {} {}", e.len(), cold(e))).collect();
        assert_eq!(by_part, expected);
        for (target, text) in [
            (
                Target::Last,
                "select user_id, item_id, n_before from split
                 where part = 'test' and last_of_part and n_before > 0 order by user_id",
            ),
            (
                Target::First,
                "select user_id, item_id, n_before from split
                 where part = 'test' and first_of_part and n_before > 0 order by user_id",
            ),
        ] {
            let mut cases: Vec<_> = split
                .cases(Part::Test, target)
                .iter()
                .map(|c| {
                    format!("{} {} {}", log.users()[c.user as usize], log.items()[c.target as usize], c.history.len())
                })
                .collect();
            cases.sort();
            assert_eq!(asked(text).await, cases);
        }
    }
}

/// The settings of a job whose threshold is written so.
fn history(threshold: f64) -> HistorySpec {
    HistorySpec {
        like_threshold: threshold,
        events: 20,
        max_pair_events: 200,
        min_support: 2,
        title_chars: 80,
        user_active_days: 0,
        items: "active".into(),
        item_active_days: 0,
        max_users: 0,
        max_items: 0,
    }
}

/// `$like_threshold` for ratings as the built-in contract has them.
fn like_threshold(threshold: f64) -> Param {
    tables::like_threshold(&history(threshold), &Contract::builtin("interaction").unwrap())
}

#[tokio::test]
async fn a_rating_of_just_the_threshold_is_a_like_and_the_next_below_is_none() {
    // Every tenth and hundredth that people write, and some that no decimal comes near.
    let thresholds = (-1000..1000).map(|n| f64::from(n) / 100.0).chain([1.0 / 3.0, 1e-40, -0.0, 123_456.7, 1e9, -1e9]);
    let session = session(2, 64);
    for threshold in thresholds {
        let rating = threshold as f32;
        assert!(rating >= history(threshold).liked() && rating.next_down() < history(threshold).liked(), "{threshold}");
        let Param::Float(value) = like_threshold(threshold) else { panic!("{threshold} is no number") };
        assert!(f64::from(rating) >= value && f64::from(rating.next_down()) < value, "{threshold}");
    }
    for threshold in [4.1, 3.3, 0.7, 0.1, 4.0] {
        let rating = threshold as f32;
        let moments: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![0, 0]).with_timezone("UTC"));
        let log = RecordBatch::try_from_iter([
            ("user_id", Arc::new(StringArray::from(vec!["u", "u"])) as ArrayRef),
            ("item_id", Arc::new(StringArray::from(vec!["at", "below"])) as ArrayRef),
            ("event", Arc::new(StringArray::from(vec!["rating", "rating"])) as ArrayRef),
            ("rating", Arc::new(Float32Array::from(vec![rating, rating.next_down()])) as ArrayRef),
            ("event_timestamp", moments),
        ])
        .unwrap();
        session.register_batches("interaction", log.schema(), vec![log]).unwrap();
        let params = [("as_of", Param::Timestamp(1_000_000)), ("like_threshold", like_threshold(threshold))];
        run(&session, "opinion", &params).await.unwrap();
        let rows = session.sql("select item_id, liked from opinion order by item_id", &[]).await.unwrap();
        let found: Vec<_> = rows
            .collect()
            .await
            .unwrap()
            .iter()
            .flat_map(|b| {
                (0..b.num_rows())
                    .map(|i| format!("{} {}", cell(b.column(0), i), cell(b.column(1), i)))
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(found, ["at true", "below false"], "{threshold}");
    }
    // A job whose own contract has ratings as doubles compares doubles.
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/interaction.toml")).unwrap();
    let double = text
        .replace("type = \"float32\"", "type = \"float64\"")
        .replace("\"float64\", \"int8\"", "\"float32\", \"int8\"");
    let double = Contract::parse(&double, "interaction.toml").unwrap();
    assert_eq!(tables::like_threshold(&history(4.3), &double), Param::Float(4.3));
}

#[tokio::test]
async fn a_parameter_without_a_value_is_named() {
    let error = run(&session(1, 64), "opinion", &[("as_of", Param::Timestamp(0))]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("$like_threshold"), "{error}");
}

#[tokio::test]
async fn a_definition_whose_columns_are_not_the_contracts_is_refused() {
    let contract = Contract::builtin("reason").unwrap();
    let model = Model::parse("reason", "select 'item' as kind, 1 as more", "mine.sql").unwrap();
    let error = model.run(&session(1, 64), &contract, &[]).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("missing: user_id") && error.to_string().contains("mine.sql"), "{error}");
    assert!(error.to_string().contains("not in the contract: more"), "{error}");
}

#[tokio::test]
async fn people_can_read_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("x.parquet");
    let target = target.display();
    let session = session(1, 64);
    session.register_view("t", "select 1 as a", &[]).await.unwrap();
    for text in
        ["select a from t", "explain select a from t", "show tables", "describe t", "show columns from t", "values (1)"]
    {
        let rows = session.sql_read_only(text, &[]).await.unwrap_or_else(|e| panic!("{text}: {e}"));
        rows.collect().await.unwrap_or_else(|e| panic!("{text}: {e}"));
    }
    for text in [
        format!("copy t to '{target}'"),
        format!("explain copy t to '{target}'"),
        format!("explain analyze copy t to '{target}'"),
        format!("create external table x stored as parquet location '{target}'"),
        "create table x as select 1".into(),
        "create view x as select 1".into(),
        "insert into t values (1)".into(),
        "delete from t".into(),
        "update t set a = 2".into(),
        "drop table t".into(),
        "set datafusion.execution.batch_size = 1".into(),
        "reset datafusion.execution.batch_size".into(),
        "select 1; select 2".into(),
        "prepare p as select 1".into(),
        "with x as (select 1) insert into t select * from x".into(),
        format!("select * from '{target}'"),
        "selec 1".into(),
        String::new(),
    ] {
        let error = session.sql_read_only(&text, &[]).await.err().unwrap_or_else(|| panic!("allowed: {text}"));
        assert_eq!(error.kind(), Kind::Usage, "{text}: {error:?}");
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    assert_eq!(session.table_names(), ["t"]);
}

#[tokio::test]
async fn an_error_of_ours_comes_through_a_query_as_it_was() {
    let session = session(2, 64);
    let broken = create_udf(
        "broken",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Volatile,
        Arc::new(|_| Err(DataFusionError::External(Box::new(Error::new(Kind::Model, "the model is gone"))))),
    );
    session.register_function(broken);
    let text = "select broken(value) as a from generate_series(1, 10) order by a";
    let error = session.sql(text, &[]).await.unwrap().collect().await.unwrap_err();
    assert_eq!((error.kind(), error.message().contains("the model is gone")), (Kind::Model, true), "{error:?}");
}

#[tokio::test]
async fn rows_that_do_not_fit_in_memory_are_spilled() {
    let folder = tempfile::tempdir().unwrap();
    let options = SessionOptions {
        memory_limit: 40 << 20,
        threads: 2,
        spill_dir: Some(folder.path().join("spill")),
        batch_size: 1024,
        ..SessionOptions::default()
    };
    let session = Session::new(options).unwrap();
    let text = "select value, sha256(cast(value as varchar)) as digest from generate_series(1, 800000) order by digest";
    let rows = session.sql(text, &[]).await.unwrap().collect().await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 800_000);
}

#[tokio::test]
async fn spilled_rows_are_read_in_the_order_in_which_they_lie() {
    let session = session(2, 4);
    let contract = Contract::builtin("opinion").unwrap();
    let text = "select concat('u', cast(100 + value / 10 as varchar)) as user_id, cast(value as varchar) as item_id,
            cast(1 as bigint) as n_events, arrow_cast(value, 'Timestamp(Microsecond, Some(\"UTC\"))') as event_timestamp,
            cast(3 as float) as rating, false as liked, cast(value % 10 + 1 as bigint) as recency
        from generate_series(1, 203) order by user_id, recency";
    let rows = session.sql(text, &[]).await.unwrap().stream().await.unwrap();
    assert_eq!(session.register_spilled("opinion", &contract, rows).await.unwrap(), 203);
    // Every thread has a file of its own, whose rows need no sorting: user_history counts on it.
    let by_user =
        "select user_id, count(*) as n, sum(recency) as places from opinion group by user_id order by user_id";
    let plan = session.explain(by_user, &[]).await.unwrap();
    assert!(plan.contains("2 groups") && plan.contains("ordering_mode=Sorted") && !plan.contains("SortExec"), "{plan}");
    let found = session.sql(by_user, &[]).await.unwrap().collect().await.unwrap();
    let shown = |batch: &RecordBatch, row| [0, 1, 2].map(|at: usize| cell(batch.column(at), row)).join(" ");
    let found: Vec<_> = found.iter().flat_map(|b| (0..b.num_rows()).map(|i| shown(b, i)).collect::<Vec<_>>()).collect();
    assert_eq!(
        (found.len(), found[0].as_str(), found[1].as_str(), found[20].as_str()),
        (21, "u100 9 54", "u101 10 55", "u120 4 10")
    );
}

fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) -> Location {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    Location::parse(path.to_str().unwrap()).unwrap()
}

#[tokio::test]
async fn files_of_different_shapes_are_one_table_in_the_contracts_types() {
    let folder = tempfile::tempdir().unwrap();
    let stamps = || Arc::new(TimestampMillisecondArray::from(vec![1_000, 2_000]).with_timezone("UTC")) as ArrayRef;
    let a = write_parquet(
        &folder.path().join("odd name %25 ä.parquet"),
        vec![
            ("user_id", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
            ("item_id", Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef),
            ("timestamp", stamps()),
            ("unknown", Arc::new(StringArray::from(vec!["?", "?"])) as ArrayRef),
        ],
    );
    let b = write_parquet(
        &folder.path().join("event=view/b.parquet"),
        vec![
            ("event_timestamp", stamps()),
            ("user_id", Arc::new(StringArray::from(vec!["3", "4"])) as ArrayRef),
            ("item_id", Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef),
            ("rating", Arc::new(Float32Array::from(vec![Some(1.5), None])) as ArrayRef),
        ],
    );
    let contract = Contract::builtin("interaction").unwrap();
    let session = session(2, 64);
    let told = vec![("event".to_owned(), Some("view".to_owned())), ("other".to_owned(), Some("1".to_owned()))];
    let files = [TableFile::from(a), TableFile { columns: told, ..b.into() }];
    session.register_files("interaction", &contract, &files).await.unwrap();
    let rows = session.sql("select * from interaction order by user_id", &[]).await.unwrap();
    let types = |s: &Schema| s.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect::<Vec<_>>();
    assert_eq!(types(&rows.schema()), types(&contract.arrow_schema(None)));
    let text = arrow::util::pretty::pretty_format_batches(&rows.collect().await.unwrap()).unwrap().to_string();
    let lines: Vec<_> = text.lines().skip(3).map(|l| l.split_whitespace().collect::<String>()).collect();
    assert_eq!(
        lines[..4],
        [
            "|1|x|||1970-01-01T00:00:01Z|",
            "|2|y|||1970-01-01T00:00:02Z|",
            "|3|x|view|1.5|1970-01-01T00:00:01Z|",
            "|4|y|view||1970-01-01T00:00:02Z|"
        ]
    );
    // No file: an empty table of the same columns.
    session.register_files("interaction", &contract, &[]).await.unwrap();
    assert_eq!(session.sql("select * from interaction", &[]).await.unwrap().count().await.unwrap(), 0);
}

#[tokio::test]
async fn names_are_names_and_columns_without_a_type_are_nulls() {
    let folder = tempfile::tempdir().unwrap();
    let contract = Contract::builtin("interaction").unwrap();
    let one = || Arc::new(StringArray::from(vec!["1"])) as ArrayRef;
    let stamp = || Arc::new(TimestampMicrosecondArray::from(vec![5]).with_timezone("UTC")) as ArrayRef;
    let names =
        ["star*.parquet", "f[1].parquet", "q?.parquet", "c#1.parquet", "%41.parquet", "a b.parquet", "~'&.parquet"];
    let mut files = Vec::new();
    for name in names.iter().chain(&["starred.parquet", "f1.parquet", "qq.parquet", "A.parquet"]) {
        let columns = vec![
            ("user_id", one()),
            ("item_id", one()),
            ("event", Arc::new(NullArray::new(1)) as ArrayRef),
            ("event_timestamp", stamp()),
        ];
        let at = write_parquet(&folder.path().join(name), columns);
        if names.contains(name) {
            files.push(TableFile { columns: vec![("rating".to_owned(), None)], ..at.into() });
        }
    }
    let session = session(2, 64);
    session.register_files("interaction", &contract, &files).await.unwrap();
    let text = "select * from interaction where event is null and rating is null";
    assert_eq!(session.sql(text, &[]).await.unwrap().count().await.unwrap(), names.len() as u64);
}

#[tokio::test]
async fn a_table_that_cannot_be_read_fails_only_who_reads_it() {
    let contract = Contract::builtin("interaction").unwrap();
    let session = session(2, 64);
    let why = Error::new(Kind::Input, "the Parquet file is damaged").with("file", "a.parquet").hint("copy it again");
    session.register_unreadable("interaction", &contract, false, why).unwrap();
    session.register_unreadable("published", &contract, true, Error::new(Kind::Config, "widths")).unwrap();
    assert_eq!(session.sql("select 1", &[]).await.unwrap().count().await.unwrap(), 1);
    for text in ["select user_id from interaction", "select count(*) from interaction"] {
        let error = session.sql_read_only(text, &[]).await.unwrap().collect().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (Kind::Input, "the Parquet file is damaged (file: a.parquet)")
        );
        assert!(error.explain().contains("copy it again"), "{}", error.explain());
    }
    let error = session.sql("select max(dt) from published", &[]).await.unwrap().collect().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
}

#[tokio::test]
async fn two_columns_of_one_name_are_told() {
    let session = session(1, 64);
    let text = "select a.x, b.x from (select 1 as x) a cross join (select 2 as x) b";
    let error = session.sql_read_only(text, &[]).await.unwrap().each_name_once().unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.explain().contains("column: x") && error.explain().contains("as other_x"), "{}", error.explain());
    session.sql_read_only("select 1 as x, 2 as \"X\"", &[]).await.unwrap().each_name_once().unwrap();
}

#[tokio::test]
async fn a_file_that_is_not_parquet_or_lacks_a_column_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let contract = Contract::builtin("interaction").unwrap();
    let bad = folder.path().join("bad.parquet");
    std::fs::write(&bad, "user_id,item_id\n").unwrap();
    let short = folder.path().join("short.parquet");
    write_parquet(&short, vec![("user_id", Arc::new(StringArray::from(vec!["1"])) as ArrayRef)]);
    for (path, word) in [(&bad, "bad.parquet"), (&short, "item_id")] {
        let file = TableFile::from(Location::parse(path.to_str().unwrap()).unwrap());
        let error = session(1, 64).register_files("interaction", &contract, &[file]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{error:?}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn six_published_files_of_seven_rows_are_42_rows_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let contract = Contract::parse(
        "name = \"t\"\nversion = \"1.0\"\nrole = \"derived\"\ngrain = [\"id\"]\nsorted_by = [\"id\"]\npartition_by = \"dt\"\n\
         [[column]]\nname = \"id\"\ntype = \"int64\"\nnullable = false\n",
        "t.toml",
    )
    .unwrap();
    let mut files = Vec::new();
    for i in 0..6_i64 {
        let dt = format!("2024-01-0{}", 1 + i / 2);
        let ids = Int64Array::from((i * 7..(i + 1) * 7).collect::<Vec<_>>());
        let path = folder.path().join(format!("t/dt={dt}/part-{i}.parquet"));
        files.push((write_parquet(&path, vec![("id", Arc::new(ids) as ArrayRef)]).into(), dt));
    }
    // Another file in the folder that no commit record lists.
    write_parquet(
        &folder.path().join("t/dt=2024-01-01/orphan.parquet"),
        vec![("id", Arc::new(Int64Array::from(vec![99])) as ArrayRef)],
    );
    let session = session(4, 8192);
    session.register_published("t", &contract, &files).await.unwrap();
    let text = "select count(*), count(distinct id), sum(id), count(distinct dt) from t";
    let rows = session.sql(text, &[]).await.unwrap().collect().await.unwrap();
    let found: Vec<_> = rows[0].columns().iter().map(|c| c.as_primitive::<Int64Type>().value(0)).collect();
    assert_eq!(found, [42, 42, 41 * 42 / 2, 3]);
    let one = session.sql("select id from t where dt = '2024-01-02'", &[]).await.unwrap().count().await.unwrap();
    assert_eq!(one, 14);
}

#[tokio::test]
async fn audits_find_each_kind_of_bad_row_and_show_it() {
    let contract = Contract::parse(
        "name = \"t\"\nversion = \"1.0\"\nrole = \"derived\"\ngrain = [\"id\"]\nsorted_by = [\"id\"]\npartition_by = \"dt\"\n\
         [[column]]\nname = \"id\"\ntype = \"utf8\"\nnullable = false\nmin_length = 1\n\
         [[column]]\nname = \"kind\"\ntype = \"utf8\"\nnullable = true\nvalues = [\"it's\", \"b\"]\n\
         [[column]]\nname = \"share\"\ntype = \"float64\"\nnullable = true\nmin = 0.0\nmax = 1.0\nfinite = true\n\
         [[column]]\nname = \"v\"\ntype = \"vector\"\nnullable = true\nfinite = true\n\
         [[audit]]\nname = \"no_zed\"\nseverity = \"warn\"\ndescription = \"d\"\nsql = \"select id from this where id = 'z'\"\n",
        "t.toml",
    )
    .unwrap();
    let session = session(2, 64);
    let make = |rows: &str| {
        format!(
            "select column1 as id, column2 as kind, column3 as share, \
             arrow_cast(column4, 'FixedSizeList(2, Float32)') as v from (values {rows})"
        )
    };
    session
        .register_view("good", &make("('a', 'it''s', 0.5, make_array(1.0, 2.0)), ('b', null, null, null)"), &[])
        .await
        .unwrap();
    let report = audit(&session, &contract, "good", &[], None).await.unwrap();
    assert!(report.passed() && report.warnings().next().is_none(), "{report}");
    assert_eq!(report.n_rows, 2);
    assert!(!session.has_table("this"));

    let nan = "cast('NaN' as double)";
    for (rows, name) in [
        ("('a', 'b', 0.5, null), ('a', 'b', 0.5, null)".to_owned(), "unique(id)"),
        ("(cast(null as varchar), 'b', 0.5, null)".to_owned(), "not_null(id)"),
        ("('', 'b', 0.5, null)".to_owned(), "min_length(id)"),
        ("('a', 'c', 0.5, null)".to_owned(), "values(kind)"),
        ("('a', 'b', -0.1, null)".to_owned(), "min(share)"),
        ("('a', 'b', 1.1, null)".to_owned(), "max(share)"),
        (format!("('a', 'b', {nan}, null)"), "finite(share)"),
        (format!("('a', 'b', 0.5, make_array(1.0, {nan}))"), "finite(v)"),
        ("('a', 'b', 0.5, make_array(cast('-Infinity' as double), 1.0))".to_owned(), "finite(v)"),
    ] {
        let rows = if rows.contains("make_array") { rows } else { rows.replace(", null)", ", make_array(0.0, 0.0))") };
        session.register_view("bad", &make(&rows), &[]).await.unwrap();
        let report = audit(&session, &contract, "bad", &[], None).await.unwrap();
        let found: Vec<_> = report.errors().map(|r| r.audit.as_str()).collect();
        assert!(found.contains(&name), "{rows}: {found:?}");
        let error = report.into_result().unwrap_err();
        assert_eq!(error.kind(), Kind::Audit);
    }

    session.register_view("warn", &make("('z', 'b', 0.5, make_array(1.0, 2.0))"), &[]).await.unwrap();
    let report = audit(&session, &contract, "warn", &[], Some(Drift { previous_rows: 2, band: 2.0 })).await.unwrap();
    let found: Vec<_> = report.warnings().map(|r| r.audit.as_str()).collect();
    assert_eq!(found, ["no_zed"]);
    assert!(report.passed() && report.to_string().contains("\n    {\"id\":\"z\"}"), "{report}");
    // One row, where a factor of two is allowed: three before are too many; so are none now or three now after one.
    for (rows, previous_rows, is_refused) in [(1, 3, true), (1, 2, false), (2, 1, false), (3, 1, true)] {
        let rows = vec!["('a', 'b', 0.5, make_array(1.0, 2.0))"; rows].join(", ");
        session.register_view("drift", &make(&rows.replace("'a'", "'z'")), &[]).await.unwrap();
        let drift = Some(Drift { previous_rows, band: 2.0 });
        let report = audit(&session, &contract, "drift", &[], drift).await.unwrap();
        let found: Vec<_> = report.errors().map(|r| r.audit.as_str()).filter(|n| *n == "row_count_drift").collect();
        assert_eq!(!found.is_empty(), is_refused, "{previous_rows} before: {report}");
    }
}

/// A key that is compared otherwise than the rest becomes a filter on a join by kind alone, which is quadratic.
#[tokio::test]
async fn the_runs_own_queries_join_by_hash_on_every_key() {
    let session = session(2, 8192);
    for table in ["reason", "reason_prompt", "reason_score", "reason_correction", "item_correction"] {
        let contract = Contract::builtin(table).unwrap();
        session.register_batches(table, contract.arrow_schema(None), Vec::new()).unwrap();
    }
    let definitions = ["reason_score", "item_embedding", "user_embedding", "pair_embedding"];
    let definitions = definitions.map(|table| Model::builtin(table).unwrap());
    let accepted = |accepted| vec![("accepted", Param::Bool(accepted))];
    let vector_of = || vec![("vector_of", Param::Text("reason".into()))];
    let mut queries: Vec<(&str, Vec<(&str, Param)>)> = definitions.iter().map(|d| (d.text(), vector_of())).collect();
    queries.extend([(texts::REPORT_SAMPLES, accepted(true)), (texts::REPORT_SAMPLES, accepted(false))]);
    let before = Contract::builtin("reason").unwrap();
    session.register_batches("before_reason", before.arrow_schema(None), Vec::new()).unwrap();
    queries.extend([texts::REFUSAL_SAMPLES, texts::CHANGED_SAMPLES, texts::CHANGED_TALLY].map(|query| (query, vec![])));
    for (query, params) in queries {
        let plan = session.explain(query, &params).await.unwrap();
        // Without rows the physical plan is empty; the logical one tells the keys.
        assert!(plan.contains("Join"), "{plan}");
        let is_filtered = ["p", "s", "b"].iter().any(|table| plan.contains(&format!("Filter: {table}.user_id")));
        assert!(!is_filtered, "{query}\n{plan}");
    }
}

#[tokio::test]
async fn at_most_twenty_bad_rows_are_kept() {
    let contract = Contract::parse(
        "name = \"t\"\nversion = \"1.0\"\nrole = \"derived\"\ngrain = [\"id\"]\nsorted_by = [\"id\"]\npartition_by = \"dt\"\n\
         [[column]]\nname = \"id\"\ntype = \"int64\"\nnullable = false\nmax = 0\n",
        "t.toml",
    )
    .unwrap();
    let session = session(2, 8);
    session.register_view("t", "select value as id from generate_series(1, 100)", &[]).await.unwrap();
    let report = audit(&session, &contract, "t", &[], None).await.unwrap();
    let worst = report.errors().next().unwrap();
    assert_eq!((worst.failing, worst.rows.len()), (100, 20));
    assert_eq!((worst.rows[0].as_str(), worst.rows[19].as_str()), ("{\"id\":1}", "{\"id\":20}"));
}
