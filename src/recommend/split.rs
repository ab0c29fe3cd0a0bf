//! Which events are trained on, validated on and tested on; the cases that a recommender is asked.
//!
//! **Global temporal split** (method: "Time to Split", arXiv 2507.16289, its `GTS` with validation `by_time`): one
//! moment cuts the log for all users. `test_from` is the `train_quantile` of all timestamps, `valid_from` the
//! `valid_quantile` of the timestamps before it. Events before `valid_from` are trained on; everything that is fitted
//! (popularity, co-occurrence, projections, models) may use those alone ([`Split::train`]). A cut is a timestamp of the
//! log, and events at a cut stand after it; the paper's code interpolates between two and puts events at the cut before
//! it. On logs without ties at the cut the parts are the same up to one event.
//!
//! **Cold items**, first seen after `valid_from`, stay in the catalogue and are ranked like all others; a model without
//! content knows nothing of them, and metrics count them in the tier `0`. Ids, the size of the catalogue and from when on an item
//! can be recommended ([`Split::first_seen`]) are therefore all that is known of the future, and are the same for every arm.
//!
//! **Cases.** A case asks for one event of the held-out part, given the user's events *strictly before its moment*:
//! events at the same moment are neither history nor seen. Cases without any history are left out, and counted
//! ([`Split::without_history`]). There is no leave-one-out: it trains on events that are later than what it tests
//! (arXiv 2010.11060).

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::recommend::data::{Event, Log, Timelines};

/// Which of a user's held-out events are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// The last one, by (timestamp, item).
    Last,
    /// The first one.
    First,
    /// Every one of them, each given all that came before it.
    Successive,
}

/// A held-out part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// From `valid_from` to before `test_from`.
    Valid,
    /// From `test_from` on, to before `test_until`.
    Test,
}

/// One question: what comes next for this user?
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case<'a> {
    /// Dense id of the user.
    pub user: u32,
    /// Items of the user's events strictly before `timestamp`, the oldest first; never empty. They are the first
    /// `history.len()` events of the user's timeline, where their ratings and moments stand.
    pub history: &'a [u32],
    /// Dense id of the item that came.
    pub target: u32,
    /// How the user rated it; a label, never an input.
    pub rating: Option<f32>,
    /// When: microseconds since 1970, UTC.
    pub timestamp: i64,
}

/// A log cut in three. What does not depend on the cut is shared with the log and with its other splits.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    events: Arc<Vec<Event>>,
    valid_at: usize,
    test_at: usize,
    test_end: usize,
    valid_from: i64,
    test_from: i64,
    test_until: i64,
    timelines: Arc<Timelines>,
    train_counts: Vec<u32>,
    first_seen: Arc<Vec<i64>>,
}

/// Cuts a log at two moments for all users; see the module.
///
/// # Errors
/// `Kind::Config` for quantiles outside (0, 1); `Kind::Input` where a part would be empty.
pub fn temporal(log: &Log, train_quantile: f64, valid_quantile: f64) -> Result<Split> {
    let mut found = rolling(log, &[train_quantile], valid_quantile)?;
    found.pop().ok_or_else(|| Error::new(Kind::Internal, "a split is missing"))
}

/// As [`temporal`] at each of `origins`, ascending quantiles; the test part of each ends where the next one's begins.
///
/// # Errors
/// As [`temporal`]; `Kind::Config` for origins that do not ascend; `Kind::Input` where two fall on the same moment.
pub fn rolling(log: &Log, origins: &[f64], valid_quantile: f64) -> Result<Vec<Split>> {
    origins.iter().chain([&valid_quantile]).try_for_each(|q| within(*q))?;
    if origins.is_empty() || !origins.is_sorted_by(|a, b| a < b) {
        return Err(Error::new(Kind::Config, "the origins of a split must ascend, and there must be one or more"));
    }
    let events = log.events();
    let cuts: Vec<(usize, i64)> = origins.iter().map(|q| cut(events, *q)).collect::<Result<_>>()?;
    if !cuts.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(Error::new(Kind::Input, "two origins of the split fall on the same moment")
            .with("events", events.len())
            .hint("fewer origins, or a longer log"));
    }
    let ends = cuts.iter().skip(1).copied().chain([(events.len(), i64::MAX)]);
    let whole = Whole::new(log);
    cuts.iter().copied().zip(ends).map(|(test, end)| whole.cut_at(test, end, valid_quantile)).collect()
}

/// Cuts a log at moments that are given (microseconds since 1970, UTC): the test part goes from the first to before the
/// second one. What lies before it is cut as by [`temporal`].
///
/// # Errors
/// As [`temporal`].
pub fn between(log: &Log, [test_from, test_until]: [i64; 2], valid_quantile: f64) -> Result<Split> {
    within(valid_quantile)?;
    let place = |moment: i64| log.events().partition_point(|e| e.timestamp < moment);
    let (test_at, test_end) = (place(test_from), place(test_until));
    if test_at >= test_end {
        return Err(empty(log.events().len()));
    }
    Whole::new(log).cut_at((test_at, test_from), (test_end, test_until), valid_quantile)
}

fn within(quantile: f64) -> Result<()> {
    if quantile > 0.0 && quantile < 1.0 {
        return Ok(());
    }
    Err(Error::new(Kind::Config, "a quantile of the split lies outside (0, 1)").with("quantile", quantile))
}

/// What all splits of a log share.
struct Whole {
    events: Arc<Vec<Event>>,
    timelines: Arc<Timelines>,
    first_seen: Arc<Vec<i64>>,
}

impl Whole {
    fn new(log: &Log) -> Whole {
        let mut first_seen = vec![i64::MAX; log.items().len()];
        for event in log.events() {
            let first = &mut first_seen[event.item as usize];
            *first = event.timestamp.min(*first);
        }
        let timelines = Arc::new(Timelines::new(log));
        Whole { events: log.shared_events(), timelines, first_seen: Arc::new(first_seen) }
    }

    /// The split whose test part begins and ends at these events and moments.
    fn cut_at(
        &self,
        (test_at, test_from): (usize, i64),
        (test_end, test_until): (usize, i64),
        valid_quantile: f64,
    ) -> Result<Split> {
        let (valid_at, valid_from) = cut(&self.events[..test_at], valid_quantile)?;
        let mut train_counts = vec![0; self.first_seen.len()];
        self.events[..valid_at].iter().for_each(|event| train_counts[event.item as usize] += 1);
        Ok(Split {
            events: Arc::clone(&self.events),
            valid_at,
            test_at,
            test_end,
            valid_from,
            test_from,
            test_until,
            timelines: Arc::clone(&self.timelines),
            train_counts,
            first_seen: Arc::clone(&self.first_seen),
        })
    }
}

fn empty(events: usize) -> Error {
    Error::new(Kind::Input, "a part of the split would be empty: the log is too short, or has too few moments")
        .with("events", events)
}

/// The first event at the moment below which (a share of at most) `quantile` of the events lie, and that moment.
fn cut(events: &[Event], quantile: f64) -> Result<(usize, i64)> {
    // The product is exact enough for any log that fits into memory: no rank is off by one below 2^52 events.
    let rank = (events.len() as f64 * quantile).floor() as usize;
    let moment = events.get(rank).map_or(i64::MIN, |e| e.timestamp);
    let at = events.partition_point(|e| e.timestamp < moment);
    if at == 0 {
        return Err(empty(events.len()).with("quantile", quantile));
    }
    Ok((at, moment))
}

impl Split {
    /// Events before `valid_from`, by (timestamp, user, item): all that may be fitted on.
    pub fn train(&self) -> &[Event] {
        &self.events[..self.valid_at]
    }

    /// Events of a held-out part, by (timestamp, user, item).
    pub fn events(&self, part: Part) -> &[Event] {
        match part {
            Part::Valid => &self.events[self.valid_at..self.test_at],
            Part::Test => &self.events[self.test_at..self.test_end],
        }
    }

    /// The first moment that is not trained on: microseconds since 1970, UTC.
    pub fn valid_from(&self) -> i64 {
        self.valid_from
    }

    /// The first moment that is tested: microseconds since 1970, UTC.
    pub fn test_from(&self) -> i64 {
        self.test_from
    }

    /// The first moment after the test part: microseconds since 1970, UTC; the end of time where it is the log's end.
    pub fn test_until(&self) -> i64 {
        self.test_until
    }

    /// The moment of every item's first event in the whole log: microseconds since 1970, UTC; the end of time for an item
    /// without one. Says from when on an item can be recommended, and may say nothing else.
    pub fn first_seen(&self) -> &[i64] {
        &self.first_seen
    }

    /// All users' events of the whole log. What lies before `valid_from` is for training
    /// ([`Timelines::before`]), what lies before a case's moment is its history.
    pub fn timelines(&self) -> &Timelines {
        &self.timelines
    }

    /// Number of training events of every item of the catalogue; 0 for a cold one.
    pub fn train_counts(&self) -> &[u32] {
        &self.train_counts
    }

    /// The cases of a held-out part: users in the order of their ids, one user's cases in time order.
    ///
    /// Users without an event in the part have no case.
    pub fn cases(&self, part: Part, target: Target) -> Vec<Case<'_>> {
        let mut cases = Vec::new();
        for user in 0..self.timelines.users() {
            cases.extend(self.user_cases(user, part, target).filter(|case| !case.history.is_empty()));
        }
        cases
    }

    /// How many cases of a part were left out because nothing is known of the user at that moment.
    pub fn without_history(&self, part: Part, target: Target) -> usize {
        let users = 0..self.timelines.users();
        users.flat_map(|u| self.user_cases(u, part, target)).filter(|case| case.history.is_empty()).count()
    }

    fn user_cases(&self, user: u32, part: Part, target: Target) -> impl Iterator<Item = Case<'_>> {
        let line = self.timelines.of(user);
        let (from, to) = match part {
            Part::Valid => (self.valid_from, self.test_from),
            Part::Test => (self.test_from, self.test_until),
        };
        let first = line.timestamps.partition_point(|t| *t < from);
        // The end of time is inclusive: there is no moment after it that an event could be cut off at.
        let end = if to == i64::MAX { line.len() } else { line.timestamps.partition_point(|t| *t < to) };
        let range = match target {
            _ if first == end => first..end,
            Target::Last => end - 1..end,
            Target::First => first..first + 1,
            Target::Successive => first..end,
        };
        range.map(move |i| case(&self.timelines, user, i))
    }
}

/// The case that asks for a user's `i`-th event.
fn case(timelines: &Timelines, user: u32, i: usize) -> Case<'_> {
    let line = timelines.of(user);
    let timestamp = line.timestamps[i];
    let known = line.timestamps.partition_point(|t| *t < timestamp);
    Case { user, history: &line.items[..known], target: line.items[i], rating: line.ratings[i], timestamp }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    /// A log of (user, item, timestamp); the rating is the row's number.
    fn log(rows: &[(u32, u32, i64)]) -> Log {
        let ids = |n: u32, c: char| (0..n).map(|i| format!("{c}{i:06}")).collect();
        let (users, items) = (rows.iter().map(|r| r.0 + 1).max(), rows.iter().map(|r| r.1 + 1).max());
        let events = rows.iter().enumerate().map(|(i, (user, item, timestamp))| Event {
            user: *user,
            item: *item,
            rating: Some(i as f32),
            timestamp: *timestamp,
        });
        Log::new(ids(users.unwrap_or(0), 'u'), ids(items.unwrap_or(0), 'i'), events.collect()).unwrap()
    }

    const ROWS: [(u32, u32, i64); 12] = [
        (0, 0, 1),
        (1, 1, 2),
        (0, 2, 3),
        (1, 0, 4),
        (0, 3, 5),
        (1, 2, 6), // trained on
        (0, 4, 7),
        (1, 3, 7), // validated on
        (0, 5, 8),
        (0, 1, 9),
        (0, 6, 9),
        (2, 0, 9), // tested
    ];

    #[test]
    fn one_moment_cuts_the_log_for_all_users() {
        let split = temporal(&log(&ROWS), 0.7, 0.8).unwrap();
        assert_eq!((split.valid_from(), split.test_from()), (7, 8));
        assert_eq!(split.train().len(), 6);
        assert_eq!(split.events(Part::Valid).iter().map(|e| (e.user, e.item)).collect::<Vec<_>>(), [(0, 4), (1, 3)]);
        assert_eq!(split.events(Part::Test).len(), 4);
        assert_eq!(split.train_counts(), [2, 1, 2, 1, 0, 0, 0], "cold items stay in the catalogue");
        assert_eq!(split.timelines().before(0, split.valid_from()).items, [0, 2, 3]);
    }

    #[test]
    fn events_at_the_cut_stand_after_it() {
        let rows: Vec<_> = (0..10).map(|i| (0, i, if (4..9).contains(&i) { 4 } else { i64::from(i) })).collect();
        let split = temporal(&log(&rows), 0.7, 0.5).unwrap();
        assert_eq!((split.valid_from(), split.test_from()), (2, 4));
        assert_eq!((split.train().len(), split.events(Part::Valid).len(), split.events(Part::Test).len()), (2, 2, 6));
    }

    #[test]
    fn a_case_knows_what_came_before_its_moment() {
        let split = temporal(&log(&ROWS), 0.7, 0.8).unwrap();
        let cases = |part, target| -> Vec<(u32, Vec<u32>, u32, i64)> {
            let cases = split.cases(part, target);
            cases.into_iter().map(|c| (c.user, c.history.to_vec(), c.target, c.timestamp)).collect()
        };
        let (before_8, before_9) = (vec![0, 2, 3, 4], vec![0, 2, 3, 4, 5]);
        let successive =
            [(0, before_8.clone(), 5, 8), (0, before_9.clone(), 1, 9), (0, before_9.clone(), 6, 9)].to_vec();
        assert_eq!(cases(Part::Test, Target::Successive), successive);
        assert_eq!(cases(Part::Test, Target::Last), [(0, before_9, 6, 9)], "what came at the same moment is unknown");
        assert_eq!(cases(Part::Test, Target::First), [(0, before_8, 5, 8)]);
        assert_eq!(split.without_history(Part::Test, Target::Last), 1, "user 2 is new");
        assert_eq!(cases(Part::Valid, Target::Successive), [(0, vec![0, 2, 3], 4, 7), (1, vec![1, 0, 2], 3, 7)]);
        assert_eq!(split.cases(Part::Valid, Target::First)[0].rating, Some(6.0));
    }

    #[test]
    fn origins_roll_and_no_event_is_tested_twice() {
        let log = log(&ROWS);
        let splits = rolling(&log, &[0.5, 0.7], 0.8).unwrap();
        assert_eq!(splits.iter().map(|s| (s.test_from(), s.test_until())).collect::<Vec<_>>(), [(7, 8), (8, i64::MAX)]);
        let tested =
            |split: &Split| -> Vec<(u32, u32)> { split.events(Part::Test).iter().map(|e| (e.user, e.item)).collect() };
        assert_eq!(tested(&splits[0]), [(0, 4), (1, 3)]);
        let asked =
            |split: &Split| split.cases(Part::Test, Target::Successive).iter().map(|c| c.target).collect::<Vec<_>>();
        assert_eq!((asked(&splits[0]), asked(&splits[1])), (vec![4, 3], vec![5, 1, 6]));
        assert_eq!(splits[1], temporal(&log, 0.7, 0.8).unwrap());
        assert_eq!(splits[0].first_seen(), [1, 2, 3, 5, 7, 8, 9]);
        for (origins, kind) in
            [(&[0.7, 0.5][..], Kind::Config), (&[][..], Kind::Config), (&[0.6, 0.65][..], Kind::Input)]
        {
            assert_eq!(rolling(&log, origins, 0.8).unwrap_err().kind(), kind, "{origins:?}");
        }
    }

    #[test]
    fn a_log_is_cut_between_moments() {
        let log = log(&ROWS);
        let split = between(&log, [7, 9], 0.8).unwrap();
        assert_eq!((split.valid_from(), split.test_from(), split.test_until()), (5, 7, 9));
        assert_eq!((split.train().len(), split.events(Part::Valid).len(), split.events(Part::Test).len()), (4, 2, 3));
        let asked: Vec<u32> = split.cases(Part::Test, Target::Successive).iter().map(|case| case.target).collect();
        assert_eq!(asked, [4, 5, 3], "what comes at 9 is not asked for");
        for (range, quantile, kind) in [
            ([7, 7], 0.8, Kind::Input),
            ([0, 9], 0.8, Kind::Input),
            ([90, 99], 0.8, Kind::Input),
            ([7, 9], 1.0, Kind::Config),
        ] {
            assert_eq!(between(&log, range, quantile).unwrap_err().kind(), kind, "{range:?}");
        }
    }

    #[test]
    fn an_impossible_split_is_refused() {
        for (rows, q, kind) in [
            (&ROWS[..], 1.0, Kind::Config),
            (&ROWS[..], f64::NAN, Kind::Config),
            (&ROWS[..0], 0.9, Kind::Input),
            (&[(0, 0, 5), (1, 0, 5)], 0.9, Kind::Input),
        ] {
            assert_eq!(temporal(&log(rows), q, 0.9).unwrap_err().kind(), kind);
        }
    }

    proptest! {
        /// Nothing that is fitted or known at a moment depends on what happens from that moment on.
        #[test]
        fn the_future_is_not_known(
            rows in prop::collection::vec((0..6_u32, 0..9_u32, 0..40_i64), 20..120),
            seed in any::<u64>(),
        ) {
            let one = log(&rows);
            let Ok(split) = temporal(&one, 0.8, 0.8) else { return Ok(()) };
            prop_assert!(split.train().iter().all(|e| e.timestamp < split.valid_from()));
            let valid = split.valid_from()..split.test_from();
            prop_assert!(split.events(Part::Valid).iter().all(|e| valid.contains(&e.timestamp)));
            prop_assert!(split.events(Part::Test).iter().all(|e| e.timestamp >= split.test_from()));
            for (part, target) in [(Part::Test, Target::Successive), (Part::Valid, Target::Last)] {
                for case in split.cases(part, target) {
                    // Another future: from the case's moment on users do other things, and like them otherwise.
                    let (items, texts) = (one.items().len() as u32, (one.users().to_vec(), one.items().to_vec()));
                    let other = one.events().iter().map(|e| match e.timestamp < case.timestamp {
                        true => *e,
                        false => Event { item: (e.item + 1 + (seed % 7) as u32) % items, rating: None, ..*e },
                    });
                    let other = temporal(&Log::new(texts.0, texts.1, other.collect()).unwrap(), 0.8, 0.8).unwrap();
                    prop_assert_eq!(split.train(), other.train());
                    prop_assert_eq!(split.train_counts(), other.train_counts());
                    let known = split.timelines().before(case.user, case.timestamp);
                    prop_assert_eq!(known.items, case.history);
                    prop_assert_eq!(other.timelines().before(case.user, case.timestamp), known);
                }
            }
        }
    }
}
