//! What rewards are learned from: whatever becomes of a week, the texts about it are the same, and histories end before it;
//! of a newcomer, whatever becomes of what follows the cut.

use std::collections::BTreeSet;

use curec::columns::{column, text};
use curec::operate::simulate::simulate;
use curec::operate::simulate_world::{Options, START, Signal};
use curec::query::audit::audit;
use curec::query::session::{Param, Session};
use curec::table::contract::Contract;
use curec::table::store::Location;
use curec::weekly::reward::{Asked, asked, blind_texts};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::DataType;

use crate::sql_support::{run, session};

const DAY: i64 = 86_400_000_000;

/// A simulated log, of which `rating` says what the ratings of the interval are.
fn rated(rating: &str) -> String {
    format!(
        "select * replace (cast(case when event_timestamp >= $interval_start then {rating} else rating end as float) \
         as rating) from log"
    )
}

/// A simulated log in which every third user does everything in the interval, in the same order. What they say of the second
/// half of their items, which they meet at moments of their own, becomes `late`.
fn with_newcomers(late: &str) -> String {
    format!(
        "select user_id, item_id, event,
            cast(case when is_new and 2 * place > n + 1 then {late} else rating end as float) as rating,
            event_timestamp
        from (
            select
                *,
                cast(row_number() over (partition by user_id order by event_timestamp, item_id) as bigint) as place,
                count(*) over (partition by user_id) as n
            from (
                select user_id, item_id, event, rating, is_new,
                    case when is_new then arrow_cast(
                            cast($interval_start as bigint) + (cast(event_timestamp as bigint) - {START}) * 3 / 10,
                            'Timestamp(Microsecond, Some(\"UTC\"))')
                        else event_timestamp end as event_timestamp
                from (select *, substr(md5(user_id), 1, 1) < '5' as is_new from log)
            )
        )"
    )
}

/// The rows over the log that the query `log` makes.
async fn rows(folder: &std::path::Path, log: &str, rows_per_user: i64) -> (Session, Vec<RecordBatch>) {
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
        ("items", Param::Text("new".into())),
        ("item_active_days", Param::Int(1000)),
        ("max_users", Param::Int(0)),
        ("max_items", Param::Int(0)),
        ("history_events", Param::Int(20)),
        ("min_support", Param::Int(3)),
        ("max_pair_events", Param::Int(100)),
        ("title_chars", Param::Int(60)),
        ("people_label", Param::Text("By".into())),
        ("brand_label", Param::Text("Brand".into())),
        ("year_label", Param::Text("Year".into())),
        ("price_label", Param::Text("Price".into())),
        ("decimal_mark", Param::Text(".".into())),
        ("rows_per_user", Param::Int(rows_per_user)),
        ("max_examples", Param::Int(100_000)),
    ];
    let log = session.sql(log, &params).await.unwrap().collect().await.unwrap();
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
    let (before, labels) = met(&rows(folder.path(), &rated("rating"), 1000).await.1);
    // Four and more become three and less, and the other way round.
    let (after, flipped) = met(&rows(folder.path(), &rated("7 - rating"), 1000).await.1);
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
    let (session, rows) = rows(folder.path(), &rated("cast(null as float)"), 10).await;
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

/// The events of all histories of what was met, and whether they were liked.
async fn histories(session: &Session) -> (Vec<String>, Vec<String>) {
    let events =
        "select concat(example_id, ' ', past['item_id'], ' ', cast(past['event_timestamp'] as varchar)) as event,
            cast(past['liked'] as varchar) as liked
        from (select example_id, unnest(history) as past from reward_example where not sampled)
        order by event";
    let (mut seen, mut liked) = (Vec::new(), Vec::new());
    for batch in session.sql(events, &[]).await.unwrap().collect().await.unwrap() {
        seen.extend(text(&batch, "event").unwrap().iter().flatten().map(str::to_owned));
        liked.extend(text(&batch, "liked").unwrap().iter().flatten().map(str::to_owned));
    }
    (seen, liked)
}

#[tokio::test]
async fn what_newcomers_say_after_their_cut_changes_no_text() {
    let folder = log();
    let (session, first) = rows(folder.path(), &with_newcomers("rating"), 1000).await;
    let before = met(&first);
    // Items of those whose events were moved into the interval: of the first half or not.
    let halves = "select e.user_id, e.item_id, i.title,
            case when 2 * cast(row_number() over (
                    partition by e.user_id order by e.event_timestamp, e.item_id) as bigint)
                <= count(*) over (partition by e.user_id) + 1 then 'early' else 'late' end as half
        from interaction as e
        join log as l on l.user_id = e.user_id and l.item_id = e.item_id
        join item as i on i.item_id = e.item_id
        where l.event_timestamp <> e.event_timestamp";
    let (mut newcomers, mut early, mut late) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for batch in session.sql(halves, &[]).await.unwrap().collect().await.unwrap() {
        let [users, items, titles, halves] = ["user_id", "item_id", "title", "half"].map(|n| text(&batch, n).unwrap());
        for i in 0..batch.num_rows() {
            let user = users.value(i).to_owned();
            newcomers.insert(user.clone());
            match halves.value(i) {
                "early" => early.insert((user, titles.value(i).to_owned())),
                _ => late.insert((user, items.value(i).to_owned())),
            };
        }
    }
    let is_new = |asked: &Asked| newcomers.contains(&asked.user_id);
    let of_newcomers: Vec<&Asked> = before.0.iter().filter(|asked| is_new(asked)).collect();
    assert!(of_newcomers.len() > 100 && of_newcomers.len() < before.0.len(), "{}", of_newcomers.len());
    for asked in &of_newcomers {
        assert!(late.contains(&(asked.user_id.clone(), asked.item_id.clone())), "{asked:?} was met before the cut");
        let e = &asked.evidence;
        for title in e.liked.iter().chain(&e.disliked).chain(&e.related) {
            assert!(
                early.contains(&(asked.user_id.clone(), title.clone())),
                "{title} is not from before the cut: {e:?}"
            );
        }
    }
    assert!(of_newcomers.iter().any(|asked| !asked.evidence.related.is_empty()), "nothing goes with anything");

    let (other, second) = rows(folder.path(), &with_newcomers("7 - rating"), 1000).await;
    let after = met(&second);
    assert_eq!(before.0, after.0, "questions and evidence");
    assert_eq!(blind_texts(&before.0).unwrap(), blind_texts(&after.0).unwrap());
    for (asked, (label, flipped)) in before.0.iter().zip(before.1.iter().zip(&after.1)) {
        assert_eq!(label != flipped, is_new(asked), "{asked:?}");
    }

    let (seen, liked) = histories(&session).await;
    let (seen_after, liked_after) = histories(&other).await;
    assert_eq!(seen, seen_after, "what histories are of");
    assert_ne!(liked, liked_after, "later examples know what became of earlier ones");
}
