//! Files that are read by several tasks, each row once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use curec::error::Kind;
use curec::query::cluster::carried::{Carrier, Nothing};
use curec::query::cluster::client::Cluster;
use curec::query::cluster::executor::ExecutorOptions;
use curec::query::session::{Engine, Session, SessionOptions, TableFile};
use curec::table::contract::Contract;
use curec::table::store::{Location, StoreOptions};

use crate::common;

const FILES: i64 = 6;
const ROWS: i64 = 7;

fn contract() -> Contract {
    let text = "name = \"t\"\nversion = \"1.0\"\nrole = \"derived\"\ngrain = [\"id\"]\nsorted_by = [\"id\"]\npartition_by = \"dt\"\n\
                [[column]]\nname = \"id\"\ntype = \"int64\"\nnullable = false\n\
                [[column]]\nname = \"third\"\ntype = \"int64\"\nnullable = false\n";
    Contract::parse(text, "t.toml").unwrap()
}

/// Six files of seven rows: the ids 0 to 41, and a column that is the same for every third of them.
fn files(folder: &Path) -> Vec<TableFile> {
    let file = |number: i64| {
        let ids: Vec<i64> = (number * ROWS..(number + 1) * ROWS).collect();
        let thirds: ArrayRef = Arc::new(ids.iter().map(|id| Some(id % 3)).collect::<Int64Array>());
        let batch =
            RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(ids)) as ArrayRef), ("third", thirds)]);
        let path = folder.join(format!("part {number}.parquet"));
        common::write(&path, &batch.unwrap());
        TableFile::from(Location::parse(path.to_str().unwrap()).unwrap())
    };
    (0..FILES).map(file).collect()
}

async fn session(engine: Engine, files: &[TableFile]) -> Session {
    let session = Session::new(SessionOptions { engine, ..SessionOptions::default() }).unwrap();
    session.register_files("t", &contract(), files).await.unwrap();
    session
}

async fn cluster(folder: &Path, executors: usize) -> Engine {
    let carrier: Arc<dyn Carrier> = Arc::new(Nothing);
    let options = ExecutorOptions {
        scheduler: String::new(),
        host: None,
        threads: 2,
        tables_only: false,
        memory_limit: 256 << 20,
        spill_dir: Some(folder.join("spill")),
        stores: StoreOptions::default(),
    };
    let aside = Location::parse(folder.join("aside").to_str().unwrap()).unwrap();
    Engine::Cluster(Arc::new(Cluster::standalone(executors, 8, aside, carrier, options).await.unwrap()))
}

async fn ids(session: &Session, sql: &str) -> Vec<i64> {
    let batches = session.sql(sql, &[]).await.unwrap().collect().await.unwrap();
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_files_of_seven_rows_are_forty_two_rows_each_key_once() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    for executors in [1, 2] {
        let session = session(cluster(folder.path(), executors).await, &files).await;
        let all = ids(&session, "select id from t order by id").await;
        assert_eq!(all, (0..FILES * ROWS).collect::<Vec<_>>(), "{executors} executors");
        let unordered = ids(&session, "select id from t").await;
        assert_eq!(unordered.len(), 42);
        assert_eq!(unordered.into_iter().collect::<BTreeSet<_>>().len(), 42);
        assert_eq!(session.sql("select id from t where third = 1", &[]).await.unwrap().count().await.unwrap(), 14);
        let totals = ids(&session, "select sum(id) from t group by third order by third").await;
        assert_eq!(totals, [0, 1, 2].map(|third| (0..42).filter(|id| id % 3 == third).sum::<i64>()));
    }
}

/// Shapes of the tables' own SQL: joins of all kinds, windows, ordered lists, the session's own aggregates, values as they stand,
/// empty tables.
const SHAPES: [&str; 11] = [
    "select a.id from t as a join t as b on a.id = b.id + 1 order by a.id",
    "select a.id, b.id as other from t as a left join t as b on b.third = a.third and b.id < a.id order by a.id, b.id",
    "select coalesce(a.id, b.id) from t as a full join (select id + 20 as id from t) as b on a.id = b.id order by 1",
    "select a.id from t as a left join t as b on b.id > a.id + 39 order by a.id, b.id",
    "select id from t as a where exists (select 1 from t as b where b.id = 41) order by id",
    "select id, row_number() over (partition by third order by id desc) as place from t order by id",
    "select third, array_to_string(array_agg(id order by id desc), ',') from t group by third order by third",
    "select third, array_to_string(min_by(id, struct(id % 5, id), 3), ',') as a,
        array_to_string(min_by(id, id, 2) filter (where id > 9), ',') as b,
        latest(id, to_timestamp(id % 5), cast(third as varchar)) as c,
        array_to_string(most_frequent(make_array(cast(id % 2 as varchar), 'x'), 2), ',') as d
    from t group by third order by third",
    "select array_to_string(min_by(id, struct(third, id), 4), ',') as a from t",
    "select t.id, n.n from t cross join (select count(*) as n from t) as n order by t.id",
    "select id from t where id in (select id from nothing) union all select id from t where id < 3 order by id",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_of_a_query_gives_the_same_rows_as_in_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let shown = |batches: &[RecordBatch]| arrow::util::pretty::pretty_format_batches(batches).unwrap().to_string();
    let (local, there) = (session(Engine::Local, &files).await, session(cluster(folder.path(), 2).await, &files).await);
    for session in [&local, &there] {
        session.register_batches("nothing", contract().arrow_schema(None), Vec::new()).unwrap();
    }
    for sql in SHAPES {
        let wanted = local.sql(sql, &[]).await.unwrap().collect().await.unwrap();
        let found = there.sql(sql, &[]).await.unwrap().collect().await.unwrap();
        assert_eq!(shown(&found), shown(&wanted), "{sql}");
        let found = there.sql_as_written(sql, &[]).await.unwrap().collect().await.unwrap();
        assert_eq!(shown(&found), shown(&wanted), "as written: {sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_session_keeps_lie_where_executors_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let session = session(cluster(folder.path(), 1).await, &files).await;
    let rows = session.sql("select id, third from t where id >= 40 order by id", &[]).await.unwrap();
    let n = session.register_spilled("kept", &contract(), rows.stream().await.unwrap()).await.unwrap();
    assert_eq!((n, ids(&session, "select id from kept order by id").await), (2, vec![40, 41]));
    let batch = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef)]).unwrap();
    session.register_rows("given", batch.schema(), vec![batch]).await.unwrap();
    let joined = ids(&session, "select t.id from t join given as g on g.id = t.id order by t.id").await;
    assert_eq!(joined, [7, 8]);
    let aside: Vec<_> = std::fs::read_dir(folder.path().join("aside")).unwrap().collect();
    assert_eq!(aside.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_goes_to_the_cluster_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let aside = Location::parse(folder.path().join("aside").to_str().unwrap()).unwrap();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let carrier: Arc<dyn Carrier> = Arc::new(Nothing);
    let nobody = Cluster::remote(&format!("df://127.0.0.1:{port}"), 8, aside, carrier).unwrap();
    let session = session(Engine::Cluster(Arc::new(nobody)), &files).await;
    let why = session.sql("select id from t order by id", &[]).await.unwrap().collect().await.unwrap_err();
    assert_eq!(why.kind(), Kind::Temporary, "{why}");
    // What reads no file asks nobody.
    assert_eq!(ids(&session, "select 7").await, [7]);
}
