//! Which events are trained on, validated on and tested on; the cases that a recommender is asked.
//!
//! **Global temporal split** (method: "Time to Split", arXiv 2507.16289, its `GTS` with validation `by_time`): one moment
//! cuts the log for all users. `test_from` is the `train_quantile` of all timestamps, `valid_from` the `valid_quantile` of the
//! timestamps before it. Events before `valid_from` are trained on; everything that is fitted (popularity, co-occurrence,
//! projections, models) may use those alone ([`Split::train`]). A cut is a timestamp of the log, and events at a cut stand
//! after it; the paper's code interpolates between two and puts events at the cut before it. On logs without ties at the
//! cut the parts are the same up to one event.
//!
//! **Cold items**, first seen after `valid_from`, stay in the catalogue and are ranked like all others; a model without
//! content knows nothing of them, and metrics count them in the tier `cold`. The ids and the size of the catalogue are therefore
//! the only thing that is known of the future, and are the same for every arm.
//!
//! **Cases.** A case asks for one event of the held-out part, given the user's events *strictly before its moment*: events at
//! the same moment are neither history nor seen. Cases without any history are left out, and counted
//! ([`Split::without_history`]). [`leave_one_out`] exists to compare with published tables only: it trains on events that are
//! later than what it tests (arXiv 2010.11060).

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
    /// From `test_from` on.
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

/// A log cut in three.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    events: Vec<Event>,
    valid_at: usize,
    test_at: usize,
    valid_from: i64,
    test_from: i64,
    timelines: Timelines,
    train_counts: Vec<u32>,
}

/// Cuts a log at two moments for all users; see the module.
///
/// # Errors
/// `Kind::Config` for quantiles outside (0, 1); `Kind::Input` where a part would be empty.
pub fn temporal(log: &Log, train_quantile: f64, valid_quantile: f64) -> Result<Split> {
    for (name, q) in [("train_quantile", train_quantile), ("valid_quantile", valid_quantile)] {
        if !(q > 0.0 && q < 1.0) {
            return Err(Error::new(Kind::Config, "a quantile of the split lies outside (0, 1)").with(name, q));
        }
    }
    let events = log.events();
    let (test_at, test_from) = cut(events, train_quantile)?;
    let (valid_at, valid_from) = cut(&events[..test_at], valid_quantile)?;
    let mut train_counts = vec![0; log.items().len()];
    for event in &events[..valid_at] {
        train_counts[event.item as usize] += 1;
    }
    let (events, timelines) = (events.to_vec(), Timelines::new(log));
    Ok(Split { events, valid_at, test_at, valid_from, test_from, timelines, train_counts })
}

/// The first event at the moment below which (a share of at most) `quantile` of the events lie, and that moment.
fn cut(events: &[Event], quantile: f64) -> Result<(usize, i64)> {
    // The product is exact enough for any log that fits into memory: no rank is off by one below 2^52 events.
    let rank = (events.len() as f64 * quantile).floor() as usize;
    let moment = events.get(rank).map_or(i64::MIN, |e| e.timestamp);
    let at = events.partition_point(|e| e.timestamp < moment);
    if at == 0 {
        return Err(Error::new(
            Kind::Input,
            "a part of the split would be empty: the log is too short, or has too few moments",
        )
        .with("events", events.len())
        .with("quantile", quantile));
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
            Part::Test => &self.events[self.test_at..],
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
            Part::Test => (self.test_from, i64::MAX),
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

/// Leave-one-out, as most published tables have it: a user's last event, by (timestamp, item), is the test, the one before it
/// the validation, and the rest is trained on. **Leaks the future**: for comparison with published tables only.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaveOneOut {
    timelines: Timelines,
}

/// See [`LeaveOneOut`].
pub fn leave_one_out(log: &Log) -> LeaveOneOut {
    LeaveOneOut { timelines: Timelines::new(log) }
}

impl LeaveOneOut {
    /// All users' events; the first [`LeaveOneOut::train_len`] of each are trained on.
    pub fn timelines(&self) -> &Timelines {
        &self.timelines
    }

    /// How many of a user's events are trained on: all but two, or all of them where there are fewer than three.
    pub fn train_len(&self, user: u32) -> usize {
        let n = self.timelines.of(user).len();
        if n < 3 { n } else { n - 2 }
    }

    /// One case for every user of at least three events. The history is every event before the target *in order*, as
    /// in the published tables, not in time: events at the target's moment may be in it.
    pub fn cases(&self, part: Part) -> Vec<Case<'_>> {
        let back = match part {
            Part::Valid => 2,
            Part::Test => 1,
        };
        let users = (0..self.timelines.users()).filter(|u| self.timelines.of(*u).len() >= 3);
        users
            .map(|user| {
                let line = self.timelines.of(user);
                let at = line.len() - back;
                Case { history: &line.items[..at], ..case(&self.timelines, user, at) }
            })
            .collect()
    }
}
