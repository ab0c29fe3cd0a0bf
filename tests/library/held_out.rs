//! What is learned before a cut knows nothing of what happens from the cut on: not the split by SQL, not the split in
//! Rust, nor popularity, neighbours, tiers and training sequences.

use std::sync::Arc;

use crate::sql_support::{run, session};
use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use curec::evaluate::baseline::{ItemNeighbours, Popularity};
use curec::network::random::Random;
use curec::query::session::Param;
use curec::recommend::data::{Event, Log};
use curec::recommend::fit::sequences;
use curec::recommend::metrics::{Scorer, Tier};
use curec::recommend::split::{Case, Part, Split, Target, temporal};
use proptest::prelude::*;

const USERS: u32 = 9;
const ITEMS: u32 = 14;
const TRAIN_QUANTILE: f64 = 0.8;
const VALID_QUANTILE: f64 = 0.8;

/// The same ids for every log: they and the catalogue's size are all that may be known of the future.
fn log(events: &[Event]) -> Log {
    let ids = |n: u32, c: char| (0..n).map(|i| format!("{c}{i:02}")).collect();
    Log::new(ids(USERS, 'u'), ids(ITEMS, 'i'), events.to_vec()).unwrap()
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let rating = prop::option::weighted(0.8, (1..=5_u8).prop_map(f32::from));
    let event = (0..USERS, 0..ITEMS, rating, 0..60_i64);
    let event = event.prop_map(|(user, item, rating, timestamp)| Event { user, item, rating, timestamp });
    prop::collection::vec(event, 30..150)
}

/// Another future: from `cut` on items and ratings change hands, each for itself; users and moments stay.
fn permuted(events: &[Event], cut: i64, seed: u64) -> Vec<Event> {
    let mut random = Random::new(seed, "held out");
    let late = || events.iter().filter(|e| e.timestamp >= cut);
    let (mut items, mut ratings): (Vec<u32>, Vec<_>) = late().map(|e| (e.item, e.rating)).unzip();
    random.shuffle(&mut items);
    random.shuffle(&mut ratings);
    let mut labels = items.into_iter().zip(ratings);
    let change = |e: &Event| match labels.next() {
        Some((item, rating)) => Event { item, rating, ..*e },
        None => *e,
    };
    let (mut all, late): (Vec<Event>, Vec<Event>) = events.iter().partition(|e| e.timestamp < cut);
    all.extend(late.iter().map(change).collect::<Vec<_>>());
    all
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// All that is fitted, in exact bits, with a name each.
fn fitted(split: &Split) -> Vec<(&'static str, String)> {
    let catalogue = ITEMS as usize;
    // Questions that do not come from the log, so that only what was fitted tells two logs apart.
    let histories: Vec<Vec<u32>> = (0..ITEMS).map(|i| vec![i, (i * 5 + 3) % ITEMS]).collect();
    let cases: Vec<Case<'_>> = histories
        .iter()
        .map(|history| Case { user: 0, history, target: 0, rating: None, timestamp: i64::MAX })
        .collect();
    let scores = |model: &mut dyn Scorer| {
        let mut scores = vec![f32::NAN; cases.len() * catalogue];
        model.score(&cases, &mut scores).unwrap();
        format!("{:?}", bits(&scores))
    };
    let rating = |r: &Option<f32>| r.map(f32::to_bits);
    let events: Vec<_> = split.train().iter().map(|e| (e.user, e.item, rating(&e.rating), e.timestamp)).collect();
    let sequences = sequences(split);
    let sequences: Vec<_> = sequences
        .iter()
        .map(|s| (s.user, s.items.to_vec(), s.ratings.iter().map(rating).collect::<Vec<_>>()))
        .collect();
    let tiers: Vec<Tier> = split.train_counts().iter().map(|n| Tier::of(*n)).collect();
    vec![
        ("cuts", format!("{:?}", (split.valid_from(), split.test_from()))),
        ("training events", format!("{events:?}")),
        ("training counts", format!("{:?}", split.train_counts())),
        ("tiers", format!("{tiers:?}")),
        ("training sequences", format!("{sequences:?}")),
        ("popularity", scores(&mut Popularity::new(split.train(), catalogue))),
        ("neighbours", scores(&mut ItemNeighbours::new(split.train(), catalogue, 5))),
    ]
}

/// Rows of the split by SQL that are trained on, and both cuts.
fn by_sql(events: &[Event]) -> Vec<RecordBatch> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let session = session(2, 64);
        let text = |make: &dyn Fn(usize, &Event) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(events.iter().enumerate().map(|(i, e)| make(i, e))))
        };
        let times = TimestampMicrosecondArray::from_iter_values(events.iter().map(|e| e.timestamp));
        let batch = RecordBatch::try_from_iter([
            ("user_id", text(&|_, e| format!("u{:02}", e.user))),
            ("item_id", text(&|_, e| format!("i{:02}", e.item))),
            // Makes events of the same user, item and moment two.
            ("event", text(&|i, _| format!("e{i:04}"))),
            ("rating", Arc::new(Float32Array::from_iter(events.iter().map(|e| e.rating)))),
            ("event_timestamp", Arc::new(times.with_timezone("UTC"))),
        ])
        .unwrap();
        session.register_batches("interaction", batch.schema(), vec![batch]).unwrap();
        let params =
            [("train_quantile", Param::Float(TRAIN_QUANTILE)), ("valid_quantile", Param::Float(VALID_QUANTILE))];
        run(&session, "split", &params).await.unwrap();
        let mut all = Vec::new();
        for text in [
            "select * from split where part = 'train' order by event_timestamp, user_id, item_id, event",
            "select part, count(*) as n, min(event_timestamp) as starts from split group by part order by part",
        ] {
            let batches = session.sql(text, &[]).await.unwrap().collect().await.unwrap();
            all.push(concat_batches(&batches[0].schema(), &batches).unwrap());
        }
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_is_fitted_does_not_know_the_labels_from_the_cut_on(events in events(), seed in any::<u64>()) {
        let Ok(split) = temporal(&log(&events), TRAIN_QUANTILE, VALID_QUANTILE) else { return Ok(()) };
        let other = permuted(&events, split.valid_from(), seed);
        let other = temporal(&log(&other), TRAIN_QUANTILE, VALID_QUANTILE).unwrap();
        for (ours, theirs) in fitted(&split).into_iter().zip(fitted(&other)) {
            prop_assert_eq!(ours, theirs);
        }
        for part in [Part::Valid, Part::Test] {
            for case in split.cases(part, Target::Successive) {
                let line = split.timelines().of(case.user);
                let known = case.history.len();
                prop_assert_eq!(&line.items[..known], case.history);
                prop_assert!(line.timestamps[..known].iter().all(|t| *t < case.timestamp));
                prop_assert!(line.timestamps[known..].iter().all(|t| *t >= case.timestamp), "nothing is kept back");
            }
        }
    }

    /// The control: the test above can fail.
    #[test]
    fn what_is_fitted_knows_the_labels_before_the_cut(events in events(), at in any::<prop::sample::Index>()) {
        let Ok(split) = temporal(&log(&events), TRAIN_QUANTILE, VALID_QUANTILE) else { return Ok(()) };
        let early: Vec<usize> = (0..events.len()).filter(|i| events[*i].timestamp < split.valid_from()).collect();
        let chosen = early[at.index(early.len())];
        let differing = |change: &dyn Fn(&mut Event)| {
            let mut other = events.clone();
            change(&mut other[chosen]);
            let other = temporal(&log(&other), TRAIN_QUANTILE, VALID_QUANTILE).unwrap();
            let pairs = fitted(&split).into_iter().zip(fitted(&other));
            pairs.filter(|(a, b)| a != b).map(|(a, _)| a.0).collect::<Vec<_>>()
        };
        let item = differing(&|e| e.item = (e.item + 1) % ITEMS);
        for name in ["training events", "training counts", "training sequences", "popularity"] {
            prop_assert!(item.contains(&name), "{}: {:?}", name, item);
        }
        let rating = differing(&|e| e.rating = Some(e.rating.map_or(3.5, |r| r + 0.5)));
        prop_assert_eq!(rating, vec!["training events", "training sequences"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn the_split_by_sql_does_not_know_the_labels_from_the_cut_on(events in events(), seed in any::<u64>()) {
        let Ok(split) = temporal(&log(&events), TRAIN_QUANTILE, VALID_QUANTILE) else { return Ok(()) };
        // By moment, so that an early event keeps its number, which stands in its column `event`.
        let mut events = events;
        events.sort_by_key(|e| e.timestamp);
        let other = permuted(&events, split.valid_from(), seed);
        let ours = by_sql(&events);
        prop_assert_eq!(&ours, &by_sql(&other));
        let mut changed = events.clone();
        changed[0].item = (changed[0].item + 1) % ITEMS;
        prop_assert_ne!(&ours[0], &by_sql(&changed)[0], "the control: a label before the cut");
    }
}

#[test]
fn neighbours_know_who_had_what_before_the_cut() {
    let event = |user, item, timestamp| Event { user, item, rating: Some(4.0), timestamp };
    let mut events: Vec<Event> = (0..20).map(|i| event((i % 2) as u32, (i % 4) as u32, i)).collect();
    let before = fitted(&temporal(&log(&events), TRAIN_QUANTILE, VALID_QUANTILE).unwrap());
    events[0].item = 9;
    let after = fitted(&temporal(&log(&events), TRAIN_QUANTILE, VALID_QUANTILE).unwrap());
    assert!(before.last().unwrap().0 == "neighbours" && before.last() != after.last());
    let tiers = |all: &[(&str, String)]| all.iter().find(|(name, _)| *name == "tiers").unwrap().1.clone();
    assert_ne!(tiers(&before), tiers(&after), "item 9 is warm now");
}
