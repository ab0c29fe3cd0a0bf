//! Nothing at or after t reaches a row for t: not on the user's side, not on the item's, not in a prompt.

use std::sync::Arc;

use crate::sql_support::{padded, run, session};
use arrow::array::{
    ArrayRef, Float32Array, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::row::{RowConverter, SortField};
use curec::query::session::Param;
use proptest::prelude::*;

/// 2024-01-10 00:00 UTC.
const T: i64 = 1_704_844_800_000_000;
const HOUR: i64 = 3_600_000_000;
const TABLES: [&str; 5] = ["user_history", "item_audience", "pair_evidence", "reason_prompt", "correction_case"];

#[derive(Debug, Clone, PartialEq)]
struct Event {
    user: String,
    item: String,
    rating: Option<f32>,
    at: i64,
}

fn events(hours: std::ops::Range<i64>, n: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Event>> {
    let event =
        (0..7_u8, 0..8_u8, prop::option::weighted(0.9, 1..=5_u8), hours).prop_map(|(user, item, rating, hour)| Event {
            user: format!("u{user}"),
            item: format!("i{item}"),
            rating: rating.map(f32::from),
            at: T + hour * HOUR,
        });
    prop::collection::vec(event, n)
}

/// The rows of all tables, each value as its exact bits; one threshold is everybody's.
fn tables(log: &[Event], threads: usize, batch_size: usize) -> Vec<Vec<Vec<u8>>> {
    tables_by(log, threads, batch_size, 0.0)
}

/// The same where a user's own ratings tell what a like is, from this quantile on.
fn tables_by(log: &[Event], threads: usize, batch_size: usize, quantile: f64) -> Vec<Vec<Vec<u8>>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let session = session(threads, batch_size);
        let times = TimestampMicrosecondArray::from(log.iter().map(|e| e.at).collect::<Vec<_>>()).with_timezone("UTC");
        let text = |f: fn(&Event) -> &str| Arc::new(StringArray::from_iter_values(log.iter().map(f))) as ArrayRef;
        let interaction = RecordBatch::try_from_iter_with_nullable([
            ("user_id", text(|e| &e.user), false),
            ("item_id", text(|e| &e.item), false),
            ("event", arrow::array::new_null_array(&arrow::datatypes::DataType::Utf8, log.len()), true),
            ("rating", Arc::new(Float32Array::from_iter(log.iter().map(|e| e.rating))) as ArrayRef, true),
            ("event_timestamp", Arc::new(times) as ArrayRef, false),
        ])
        .unwrap();
        let mut categories = ListBuilder::new(StringBuilder::new());
        for i in 0..7 {
            categories.values().append_value(format!("c{}", i % 3));
            categories.values().append_value("all");
            categories.append(true);
        }
        let ids: Vec<_> = (0..7).map(|i| format!("i{i}")).collect();
        let titles = StringArray::from_iter(ids.iter().map(|i| (i != "i3").then(|| format!("Title {i}"))));
        let descriptions =
            StringArray::from_iter_values(ids.iter().map(|i| format!("The {i} has strings. Its tone is warm.")));
        let item = RecordBatch::try_from_iter_with_nullable([
            ("item_id", Arc::new(StringArray::from_iter_values(&ids)) as ArrayRef, false),
            ("title", Arc::new(titles) as ArrayRef, true),
            ("categories", Arc::new(categories.finish()) as ArrayRef, true),
            ("description", Arc::new(descriptions) as ArrayRef, true),
        ])
        .unwrap();
        session.register_batches("interaction", interaction.schema(), vec![interaction.clone()]).unwrap();
        // Everybody writes a line about everything.
        let line = |e: &Event| {
            let tone = ["hollow", "thin", "plain", "warm", "golden"][e.rating.map_or(2, |r| r as usize - 1)];
            format!("A {tone} tone, says {}. The {} strings of {} stay.", e.user, tone, e.item)
        };
        let written = Arc::new(StringArray::from_iter_values(log.iter().map(line))) as ArrayRef;
        let taken = |name: &str| interaction.column_by_name(name).unwrap().clone();
        let review = RecordBatch::try_from_iter_with_nullable([
            ("user_id", taken("user_id"), false),
            ("item_id", taken("item_id"), false),
            ("event_timestamp", taken("event_timestamp"), false),
            ("rating", taken("rating"), true),
            ("text", written, true),
        ])
        .unwrap();
        let review = padded("review", vec![review]);
        session.register_batches("review", review[0].schema(), review).unwrap();
        let item = padded("item", vec![item]);
        session.register_batches("item", item[0].schema(), item).unwrap();
        // Everything is a candidate for everybody, also for who comes later, and also what nobody has met.
        let pairs = "select concat('u', u) as user_id, concat('i', i) as item_id, cast(i * 5 % 8 as bigint) as rank, \
                     cast(null as varchar) as dt \
                     from (select value as u from generate_series(0, 7)) cross join (select value as i from generate_series(0, 7)) \
                     union all select 'new', 'i1', cast(0 as bigint), cast(null as varchar)";
        session.register_view("pair", pairs, &[]).await.unwrap();
        // Every user had a reason two days before t.
        let reasons = format!(
            "select 'history' as kind, user_id, \
               arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))') as as_of, 'k' as prompt_key, 'So.' as reason, \
               'stop' as finish, -1.0 as logprob_sum, cast(2 as bigint) as completion_tokens, \
               cast(null as varchar) as subject, 'like' as verdict, make_array('Title 1') as liked, \
               cast(make_array() as varchar[]) as disliked, cast(make_array() as varchar[]) as related, \
               make_array('c1') as attributes, cast(null as varchar[]) as content, \
               cast(null as varchar[]) as praise, cast(null as varchar[]) as fault, \
               cast(null as varchar[]) as keywords \
             from (select column1 as user_id from (values ('u0'), ('u1'), ('u2'), ('u3'), ('u4'), ('u5'), ('u6'), ('new')))",
            T - 48 * HOUR
        );
        for name in ["earlier_reason", "earlier_reason_prompt"] {
            session.register_view(name, &reasons, &[]).await.unwrap();
        }
        let params = [
            ("as_of", Param::Timestamp(T)),
            ("interval_start", Param::Timestamp(T - 48 * HOUR)),
            ("interval_end", Param::Timestamp(T)),
            ("past_events", Param::Int(5)),
            ("max_outcomes", Param::Int(4)),
            ("user_active_days", Param::Int(2)),
            ("items", Param::Text("new".into())),
            ("item_active_days", Param::Int(3)),
            ("max_users", Param::Int(5)),
            ("max_items", Param::Int(6)),
            ("like_threshold", Param::Float(4.0)),
            ("like_quantile", Param::Float(quantile)),
            ("like_values", Param::Int(2)),
            ("history_events", Param::Int(4)),
            ("min_support", Param::Int(1)),
            ("max_pair_events", Param::Int(6)),
            ("title_chars", Param::Int(40)),
            ("max_pairs_per_user", Param::Int(3)),
            ("max_pairs", Param::Int(12)),
            ("people_label", Param::Text("By".into())),
            ("brand_label", Param::Text("Brand".into())),
            ("year_label", Param::Text("Year".into())),
            ("price_label", Param::Text("Price".into())),
            ("decimal_mark", Param::Text(".".into())),
        ];
        let mut all = Vec::new();
        for table in TABLES {
            let batches = run(&session, table, &params).await.unwrap();
            let Some(first) = batches.first() else {
                all.push(Vec::new());
                continue;
            };
            let whole = concat_batches(&first.schema(), &batches).unwrap();
            let fields = whole.schema().fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
            let converter = RowConverter::new(fields).unwrap();
            let rows = converter.convert_columns(whole.columns()).unwrap();
            all.push(rows.iter().map(|r| r.as_ref().to_vec()).collect());
        }
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_happens_at_or_after_t_changes_no_bit(
        past in events(-96..0, 5..60),
        future in events(0..48, 0..30),
        other_future in events(0..48, 0..30),
        shuffled in any::<prop::sample::Index>(),
    ) {
        let log = |future: &[Event]| [past.as_slice(), future].concat();
        let expected = tables(&log(&future), 1, 8192);
        // Other events with other labels, in another order of rows, by other threads, in other batches.
        let mut other = log(&other_future);
        let by = shuffled.index(other.len());
        other.rotate_left(by);
        other.reverse();
        prop_assert_eq!(&expected, &tables(&other, 3, 7));
        // The same events with all labels turned.
        let turned: Vec<_> =
            future.iter().cloned().map(|e| Event { rating: e.rating.map(|r| 6.0 - r), ..e }).collect();
        prop_assert_eq!(&expected, &tables(&log(&turned), 2, 3));
        prop_assert_eq!(&expected, &tables(&past, 1, 8192));
    }

    #[test]
    fn nor_does_it_change_from_which_rating_on_a_user_likes(
        past in events(-96..0, 5..60),
        future in events(0..48, 1..30),
    ) {
        let whole = [past.as_slice(), &future].concat();
        prop_assert_eq!(tables_by(&past, 2, 64, 0.6), tables_by(&whole, 1, 8192, 0.6));
    }

    #[test]
    fn what_happens_just_before_t_changes_every_table(past in events(-96..0, 5..60)) {
        let with = |rating: f32, at: i64| {
            let last = Event { user: "new".into(), item: "i0".into(), rating: Some(rating), at };
            tables(&[past.as_slice(), &[last]].concat(), 2, 64)
        };
        let (liked, disliked) = (with(5.0, T - 1), with(1.0, T - 1));
        for (i, table) in TABLES.iter().enumerate() {
            prop_assert_ne!(&liked[i], &disliked[i], "{}", table);
        }
        // One microsecond later it is the label of t, and nobody sees it.
        prop_assert_eq!(with(5.0, T), with(1.0, T));
    }
}
