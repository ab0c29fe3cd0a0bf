//! Vectors of users' histories as of several moments: when these are, and which vector an event may see.
//!
//! Knows splits and timelines; knows nothing of how a vector was made. The training period is cut into blocks. A vector as of
//! a block's end is made from events before it alone and is seen by events at it or later: an event sees its user's newest
//! one (method: step D4, features of block b know the reasons of blocks before it).

use std::collections::BTreeMap;

use crate::recommend::data::{Event, Timelines};
use crate::recommend::split::Split;

/// A day in microseconds.
pub const DAY: i64 = 86_400_000_000;

/// Where the training period is cut into at most `blocks` blocks of about as many events: midnights (UTC) in microseconds
/// since 1970, ascending. `last` is always the last of them; there are fewer where two would be the same, or nothing would
/// lie before the first.
pub fn moments(split: &Split, last: i64, blocks: usize) -> Vec<i64> {
    let train = split.train();
    let train = &train[..train.partition_point(|e| e.timestamp < last)];
    let first = train.first().map_or(last, |e| e.timestamp);
    let cut = |k: usize| train.get(train.len() * k / blocks).map(|e| e.timestamp.div_euclid(DAY) * DAY);
    let mut found: Vec<i64> = (1..blocks).filter_map(cut).filter(|cut| (first + 1..last).contains(cut)).collect();
    found.push(last);
    found.dedup();
    found
}

/// One vector for a user as of a moment, for some users and moments.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HistoryVectors {
    /// User and moment, ascending.
    keys: Vec<(u32, i64)>,
    vectors: Vec<Vec<f32>>,
}

impl From<BTreeMap<(u32, i64), Vec<f32>>> for HistoryVectors {
    /// By dense id of the user and moment: the vector must have been made from events before the moment alone.
    fn from(found: BTreeMap<(u32, i64), Vec<f32>>) -> Self {
        let (keys, vectors) = found.into_iter().unzip();
        HistoryVectors { keys, vectors }
    }
}

impl HistoryVectors {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// User and moment of every vector, ascending.
    pub fn keys(&self) -> &[(u32, i64)] {
        &self.keys
    }

    /// The vectors, in the order of the keys.
    pub fn vectors(&self) -> &[Vec<f32>] {
        &self.vectors
    }

    /// The place of the vector that an event of a user at `moment` sees.
    pub fn latest(&self, user: u32, moment: i64) -> Option<u32> {
        let at = self.keys.partition_point(|key| *key <= (user, moment)).checked_sub(1)?;
        (self.keys[at].0 == user).then_some(at as u32)
    }

    /// The same by user and number of known events, from 0 to all: what the event after them sees. See
    /// [`crate::recommend::adaptor::Histories::new`].
    pub fn by_known(&self, lines: &Timelines) -> Vec<Vec<Option<u32>>> {
        let of_user = |user| {
            let moments = lines.of(user).timestamps.iter().copied().chain([i64::MAX]);
            moments.map(|moment| self.latest(user, moment)).collect()
        };
        (0..lines.users()).map(of_user).collect()
    }

    /// How many users have one.
    pub fn users(&self) -> usize {
        let mut users: Vec<u32> = self.keys.iter().map(|(user, _)| *user).collect();
        users.dedup();
        users.len()
    }

    /// As of how many moments there are some.
    pub fn moments(&self) -> usize {
        let mut moments: Vec<i64> = self.keys.iter().map(|(_, moment)| *moment).collect();
        moments.sort_unstable();
        moments.dedup();
        moments.len()
    }

    /// How many of the events see one.
    pub fn seen_by(&self, events: &[Event]) -> usize {
        events.iter().filter(|e| self.latest(e.user, e.timestamp).is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::recommend::data::Log;
    use crate::recommend::split::temporal;
    use proptest::prelude::*;

    /// `rows` of user, item and moment, with `rating` for all.
    fn log(rows: &[(u32, u32, i64)], rating: impl Fn(usize) -> Option<f32>) -> Log {
        let ids = |n: u32| (0..n).map(|i| format!("{i:03}")).collect::<Vec<String>>();
        let event = |(i, (user, item, timestamp)): (usize, &(u32, u32, i64))| Event {
            user: *user,
            item: *item,
            rating: rating(i),
            timestamp: *timestamp,
        };
        Log::new(ids(6), ids(9), rows.iter().enumerate().map(event).collect()).unwrap()
    }

    /// Stands in for a night: says all that is known of a user before the moment, and nothing of who is not known.
    fn described(log: &Log, moments: &[i64]) -> HistoryVectors {
        let mut found: BTreeMap<(u32, i64), Vec<f32>> = BTreeMap::new();
        for moment in moments {
            for event in log.events().iter().filter(|e| e.timestamp < *moment) {
                let said = [event.timestamp as f32, event.item as f32, event.rating.unwrap_or(-1.0)];
                found.entry((event.user, *moment)).or_default().extend(said);
            }
        }
        found.into()
    }

    #[test]
    fn blocks_end_at_midnights_and_hold_as_many_events() {
        // One event an hour for 20 days; 0.8 * 0.9 of 480 events are trained on: up to the tenth hour of day 14.
        let rows: Vec<(u32, u32, i64)> = (0..480).map(|i| ((i % 6) as u32, (i % 9) as u32, i * DAY / 24)).collect();
        let split = temporal(&log(&rows, |_| None), 0.8, 0.9).unwrap();
        let last = split.valid_from().div_euclid(DAY) * DAY;
        assert_eq!(last, 14 * DAY);
        assert_eq!(moments(&split, last, 4), [3, 7, 10, 14].map(|d| d * DAY));
        assert_eq!(moments(&split, last, 1), [last]);
        let all = moments(&split, last, 1000);
        assert_eq!(
            all,
            (1..=14).map(|d| d * DAY).collect::<Vec<_>>(),
            "the first day's midnight has nothing before it"
        );
        assert_eq!(moments(&split, 0, 3), [0], "nothing at all lies before the last");
    }

    #[test]
    fn an_event_sees_its_users_newest_and_nobody_elses() {
        let vector = |user: u32, moment: i64| ((user, moment), vec![user as f32, moment as f32]);
        let told: HistoryVectors = BTreeMap::from([vector(1, 20), vector(1, 10), vector(3, 30)]).into();
        let seen = |user, moment| told.latest(user, moment).map(|at| told.keys()[at as usize]);
        assert_eq!([seen(1, 9), seen(1, 10), seen(1, 19)], [None, Some((1, 10)), Some((1, 10))]);
        assert_eq!([seen(1, 20), seen(1, i64::MAX)], [Some((1, 20)); 2]);
        assert_eq!([seen(0, 99), seen(2, 99), seen(4, 99), seen(3, 29)], [None; 4], "others' are not theirs");
        assert_eq!((told.users(), told.moments()), (2, 3));
        let rows = [(1, 0, 5), (1, 1, 10), (1, 2, 25), (3, 0, 25), (3, 1, 31), (5, 0, 40)];
        let log = log(&rows, |_| None);
        assert_eq!(told.seen_by(log.events()), 3);
        let lists = told.by_known(&Timelines::new(&log));
        assert_eq!(lists[1], [None, Some(0), Some(1), Some(1)], "the first is unknown when the first event comes");
        assert_eq!(lists[3], [None, Some(2), Some(2)]);
        assert_eq!((lists[0].as_slice(), lists[5].as_slice()), (&[None][..], &[None, None][..]));
    }

    proptest! {
        /// Whatever happens at t or later, what an event at t sees is the same, and it was made before t.
        #[test]
        fn what_comes_later_changes_nothing_that_an_event_sees(
            rows in prop::collection::vec((0..6_u32, 0..9_u32, 0..40_i64), 20..120),
            seed in any::<u64>(),
        ) {
            let rows: Vec<(u32, u32, i64)> = rows.iter().map(|(u, i, t)| (*u, *i, t * DAY / 4)).collect();
            let one = log(&rows, |i| Some((i % 5) as f32));
            let Ok(split) = temporal(&one, 0.8, 0.8) else { return Ok(()) };
            let last = split.valid_from().div_euclid(DAY) * DAY;
            let ends = moments(&split, last, 4);
            prop_assert!(ends.is_sorted_by(|a, b| a < b) && ends.iter().all(|m| m % DAY == 0 && *m <= split.valid_from()));
            let told = described(&one, &ends);
            let lists = told.by_known(split.timelines());
            for event in one.events() {
                // Who does what, and how they like it, is another story from t on; the clock goes on as it does.
                let changed = one.events().iter().map(|e| match e.timestamp < event.timestamp {
                    true => *e,
                    false => Event { item: (e.item + 1 + (seed % 7) as u32) % 9, rating: None, ..*e },
                });
                let other = Log::new(one.users().to_vec(), one.items().to_vec(), changed.collect()).unwrap();
                let other_split = temporal(&other, 0.8, 0.8).unwrap();
                prop_assert_eq!(&moments(&other_split, last, 4), &ends);
                let retold = described(&other, &ends);
                let seen = |told: &HistoryVectors| {
                    let at = told.latest(event.user, event.timestamp)? as usize;
                    Some((told.keys()[at], told.vectors()[at].clone()))
                };
                prop_assert_eq!(seen(&told), seen(&retold));
                let line = split.timelines().of(event.user);
                let known = line.timestamps.partition_point(|t| *t < event.timestamp);
                let listed = lists[event.user as usize][known];
                prop_assert_eq!(listed, told.latest(event.user, event.timestamp));
                if let Some(at) = listed {
                    let ((user, moment), vector) = (told.keys()[at as usize], &told.vectors()[at as usize]);
                    prop_assert!(user == event.user && moment <= event.timestamp);
                    prop_assert!(vector.len() <= 3 * known, "it tells more than is known");
                }
            }
        }
    }
}
