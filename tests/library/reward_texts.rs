//! What rewards are learned from: whatever becomes of a week, the texts about it are the same, and histories end before it.

use curec::columns::{column, text};
use curec::job::reward::{Asked, asked, blind_texts};
use curec::query::audit::audit;
use curec::query::session::{Param, Session};
use curec::recommend::simulate::{Options, START, Signal, simulate};
use curec::table::contract::Contract;
use curec::table::store::Location;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::DataType;

use crate::sql_support::{run, session};

const DAY: i64 = 86_400_000_000;

/// The rows over a simulated log, of which `rating` says what the ratings of the interval are.
async fn rows(folder: &std::path::Path, rating: &str, rows_per_user: i64) -> (Session, Vec<RecordBatch>) {
    let session = session(2, 64);
    for (table, name) in [("interaction", "log"), ("item", "item")] {
        let files = [Location::parse(folder.join(format!("{table}.parquet")).to_str().unwrap()).unwrap().into()];
        session.register_files(name, &Contract::builtin(table).unwrap(), &files).await.unwrap();
    }
    let start = START + 70 * DAY;
    let params = [
        ("as_of", Param::Timestamp(start)),
        ("interval_start", Param::Timestamp(start)),
        ("interval_end", Param::Timestamp(START + 100 * DAY)),
        ("like_threshold", Param::Float(4.0)),
        ("user_active_days", Param::Int(1000)),
        ("item_active_days", Param::Int(1000)),
        ("max_users", Param::Int(0)),
        ("max_items", Param::Int(0)),
        ("history_events", Param::Int(20)),
        ("min_support", Param::Int(3)),
        ("max_pair_events", Param::Int(100)),
        ("title_chars", Param::Int(60)),
        ("rows_per_user", Param::Int(rows_per_user)),
        ("max_examples", Param::Int(100_000)),
    ];
    let log = format!(
        "select * replace (cast(case when event_timestamp >= $interval_start then {rating} else rating end as float) \
         as rating) from log"
    );
    let log = session.sql(&log, &params).await.unwrap().collect().await.unwrap();
    session.register_batches("interaction", log[0].schema(), log).unwrap();
    for table in ["user_history", "item_audience"] {
        run(&session, table, &params).await.unwrap();
    }
    let rows = run(&session, "reward_example", &params).await.unwrap();
    (session, rows)
}

fn flags(rows: &[RecordBatch], name: &str) -> Vec<bool> {
    let of =
        |batch: &RecordBatch| column(batch, name, &DataType::Boolean).unwrap().as_boolean().values().iter().collect();
    rows.iter().flat_map(|batch| -> Vec<bool> { of(batch) }).collect()
}

/// Those that a user met, with their labels.
fn met(rows: &[RecordBatch]) -> (Vec<Asked>, Vec<bool>) {
    let all: Vec<Asked> = rows.iter().flat_map(|batch| asked(batch).unwrap()).collect();
    let (labels, sampled) = (flags(rows, "label"), flags(rows, "sampled"));
    all.into_iter().zip(labels).zip(sampled).filter(|(_, sampled)| !sampled).map(|(row, _)| row).unzip()
}

fn log() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        users: 120,
        items: 120,
        events_per_user: 30,
        tastes: 4,
        days: 100,
        seed: 11,
        signal: Signal::CoConsumption,
    };
    simulate(options, folder.path()).unwrap();
    folder
}

#[tokio::test]
async fn flipping_every_label_leaves_every_text_as_it_is() {
    let folder = log();
    let (before, labels) = met(&rows(folder.path(), "rating", 1000).await.1);
    // Four and more become three and less, and the other way round.
    let (after, flipped) = met(&rows(folder.path(), "7 - rating", 1000).await.1);
    assert!(before.len() > 200 && labels.contains(&true) && labels.contains(&false));
    assert!(labels.iter().zip(&flipped).all(|(a, b)| a != b));
    assert_eq!(before, after, "questions and evidence");
    let texts = blind_texts(&before).unwrap();
    assert_eq!(texts, blind_texts(&after).unwrap());
    assert!(texts.iter().filter(|t| t.corrupted.is_some()).count() > texts.len() / 2);
    // Whether something goes with the item is told, so not all texts are alike but for the title.
    assert!(texts.iter().any(|t| t.template.contains("goes with nothing") || t.template.contains("with none of")));
    assert!(texts.iter().any(|t| t.template.contains("which the user likes")));
}

#[tokio::test]
async fn likes_without_dislikes_are_given_items_never_met_and_histories_end_before() {
    let folder = log();
    // Nothing but likes, as of a log without ratings.
    let (session, rows) = rows(folder.path(), "cast(null as float)", 10).await;
    let contract = Contract::builtin("reward_example").unwrap();
    let audited = audit(&session, &contract, "reward_example", &[], None).await.unwrap();
    assert!(audited.passed(), "{audited}");
    let (labels, sampled) = (flags(&rows, "label"), flags(&rows, "sampled"));
    assert!(labels.iter().zip(&sampled).all(|(label, sampled)| label != sampled), "what was met is liked");
    let n = sampled.iter().filter(|s| **s).count();
    assert!(4 * n > labels.len(), "{n} of {} were never met", labels.len());
    let known = "select count(*) as n from reward_example as r join log as l
        on l.user_id = r.user_id and l.item_id = r.item_id where r.sampled
        union all
        select count(*) from (select event_timestamp, unnest(history) as seen from reward_example)
        where seen['event_timestamp'] >= event_timestamp
        union all
        select count(*) from reward_example where cardinality(history) not between 1 and 20";
    for batch in session.sql(known, &[]).await.unwrap().collect().await.unwrap() {
        let n = column(&batch, "n", &DataType::Utf8).unwrap();
        assert!(n.as_string::<i32>().iter().all(|n| n == Some("0")), "{n:?}");
    }
    assert!(
        rows.iter().all(|batch| text(batch, "prompt_text").unwrap().iter().flatten().all(|p| !p.contains("verdict")))
    );
}
