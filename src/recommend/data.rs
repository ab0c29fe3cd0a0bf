//! The log as recommenders read it: dense ids, events in time order, one timeline a user.
//!
//! Knows the input tables' contracts. Knows nothing of splits, models or metrics.
//!
//! Ids are dense and in the order of the id texts, so that equal logs give equal ids, however their rows were ordered.
//! The catalogue is every item of the log and, where an item table is given, every item in it: an item without any
//! event has an id and can be ranked.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, TimeUnit, TimestampMicrosecondType};

use crate::columns;
use crate::config::Meanings;
use crate::error::{Error, Kind, Result};
use crate::table::bad_rows::BadRows;
use crate::table::contract::Contract;
use crate::table::input::{InputReader, InputTable, open_input};
use crate::table::store::Location;

/// One interaction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// Dense id of the user.
    pub user: u32,
    /// Dense id of the item.
    pub item: u32,
    /// How much the user liked it, on the data set's own scale.
    pub rating: Option<f32>,
    /// Microseconds since 1970, UTC.
    pub timestamp: i64,
}

/// All interactions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Log {
    users: Vec<String>,
    items: Vec<String>,
    /// Shared with the splits of the log.
    events: Arc<Vec<Event>>,
}

impl Log {
    /// From dense ids; sorts the events. `users` and `items` are the id texts, in ascending order, each once.
    ///
    /// # Errors
    /// `Kind::Internal` when an event names an id that is not there or the texts are not ascending.
    pub fn new(users: Vec<String>, items: Vec<String>, mut events: Vec<Event>) -> Result<Self> {
        let ascending = |ids: &[String]| ids.is_sorted_by(|a, b| a < b) && u32::try_from(ids.len()).is_ok();
        let known = |e: &Event| (e.user as usize) < users.len() && (e.item as usize) < items.len();
        if !ascending(&users) || !ascending(&items) || !events.iter().all(known) {
            return Err(Error::new(Kind::Internal, "a log's ids are not dense and ascending"));
        }
        let rating = |e: &Event| e.rating.unwrap_or(f32::NEG_INFINITY);
        events.sort_by(|a, b| {
            // A dislike without a rating is negative infinity, too.
            let key = |e: &Event| (e.timestamp, e.user, e.item, e.rating.is_some());
            key(a).cmp(&key(b)).then(rating(a).total_cmp(&rating(b)))
        });
        Ok(Log { users, items, events: Arc::new(events) })
    }

    /// Reads the `interaction` table at `interactions` and, for the catalogue, the `item` table at `items`, without rows
    /// that break their contract.
    ///
    /// # Errors
    /// `Kind::Input` as the contract's checks say, where more than the share `max_bad_fraction` of a table's rows break it;
    /// `Kind::Temporary` where the store fails.
    pub async fn read(interactions: &Location, items: Option<&Location>, max_bad_fraction: f64) -> Result<Self> {
        let mut inputs = Vec::new();
        for (table, at) in [("interaction", Some(interactions)), ("item", items)] {
            let Some(at) = at else { continue };
            let contract = Contract::builtin(table)?;
            let input = open_input(&contract, at).await?.allowing(max_bad_fraction);
            inputs.push((contract, input));
        }
        Self::of(&inputs).await
    }

    /// Reads inputs that were opened: `interaction` and, for the catalogue, `item`, in the types of the built-in contracts. An
    /// event that says without a rating that its user does not like the item has a rating below all others.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub async fn of(inputs: &[(Contract, InputTable)]) -> Result<Self> {
        let mut builder = LogBuilder::default();
        for (contract, input) in inputs {
            let mut bad = BadRows::new(contract);
            let is_catalogue = contract.name == "item";
            builder.events_mean = contract.events.clone();
            for file in &input.files {
                let mut reader = InputReader::open(contract, input, file).await?;
                while let Some(batch) = reader.next_good(&mut bad).await? {
                    if is_catalogue { builder.push_items(&batch)? } else { builder.push(&batch)? }
                }
            }
            bad.within(input.max_bad_fraction)?;
        }
        builder.finish()
    }

    /// Id texts of the users: position = dense id.
    pub fn users(&self) -> &[String] {
        &self.users
    }

    /// Id texts of the catalogue: position = dense id.
    pub fn items(&self) -> &[String] {
        &self.items
    }

    /// Events by (timestamp, user, item).
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The same, shared.
    pub(crate) fn shared_events(&self) -> Arc<Vec<Event>> {
        Arc::clone(&self.events)
    }
}

/// Gathers a [`Log`] from batches of the input tables.
#[derive(Debug, Default)]
pub struct LogBuilder {
    users: HashMap<String, u32>,
    items: HashMap<String, u32>,
    events: Vec<Event>,
    /// What events without a rating say.
    events_mean: Meanings,
}

impl LogBuilder {
    /// Adds rows of the `interaction` contract.
    ///
    /// # Errors
    /// `Kind::Internal` for a batch without the contract's columns; `Kind::Input` where there are more than 2^32 ids.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let (users, items) = (columns::text(batch, "user_id")?, columns::text(batch, "item_id")?);
        let ratings = columns::column(batch, "rating", &DataType::Float32)?;
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let times = columns::column(batch, "event_timestamp", &utc)?;
        let (ratings, times) =
            (ratings.as_primitive::<Float32Type>(), times.as_primitive::<TimestampMicrosecondType>());
        let names = match self.events_mean.is_default() {
            true => None,
            false => Some(columns::text(batch, "event")?),
        };
        for i in 0..batch.num_rows() {
            let said = names.as_ref().and_then(|names| self.events_mean.of(columns::at(names, i)).liked());
            let unrated = (said == Some(false)).then_some(f32::NEG_INFINITY);
            self.events.push(Event {
                user: provisional(&mut self.users, users.value(i))?,
                item: provisional(&mut self.items, items.value(i))?,
                rating: ratings.is_valid(i).then(|| ratings.value(i)).or(unrated),
                timestamp: times.value(i),
            });
        }
        Ok(())
    }

    /// Adds the items of the `item` contract to the catalogue.
    ///
    /// # Errors
    /// As [`LogBuilder::push`].
    pub fn push_items(&mut self, batch: &RecordBatch) -> Result<()> {
        let items = columns::text(batch, "item_id")?;
        for id in items.iter().flatten() {
            provisional(&mut self.items, id)?;
        }
        Ok(())
    }

    /// The log, with ids in the order of their texts.
    ///
    /// # Errors
    /// As [`Log::new`].
    pub fn finish(mut self) -> Result<Log> {
        let (users, user_of) = settled(self.users);
        let (items, item_of) = settled(self.items);
        for event in &mut self.events {
            event.user = user_of[event.user as usize];
            event.item = item_of[event.item as usize];
        }
        Log::new(users, items, self.events)
    }
}

/// The id of a text in the order of arrival.
fn provisional(ids: &mut HashMap<String, u32>, text: &str) -> Result<u32> {
    if let Some(id) = ids.get(text) {
        return Ok(*id);
    }
    let id = u32::try_from(ids.len()).map_err(|_| Error::new(Kind::Input, "more than 2^32 users or items"))?;
    ids.insert(text.to_owned(), id);
    Ok(id)
}

/// Texts in ascending order, and the final id of every provisional one.
fn settled(ids: HashMap<String, u32>) -> (Vec<String>, Vec<u32>) {
    let mut sorted: Vec<(String, u32)> = ids.into_iter().collect();
    sorted.sort_unstable();
    let mut position = vec![0; sorted.len()];
    for (new, (_, old)) in sorted.iter().enumerate() {
        position[*old as usize] = new as u32;
    }
    (sorted.into_iter().map(|(text, _)| text).collect(), position)
}

/// Every user's events in the order (timestamp, item), in columns, so that a history is a slice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timelines {
    starts: Vec<usize>,
    items: Vec<u32>,
    ratings: Vec<Option<f32>>,
    timestamps: Vec<i64>,
}

/// One user's events: parallel slices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timeline<'a> {
    /// Dense ids of the items.
    pub items: &'a [u32],
    /// Their ratings.
    pub ratings: &'a [Option<f32>],
    /// Microseconds since 1970, UTC, ascending.
    pub timestamps: &'a [i64],
}

impl Timelines {
    /// Gathers a log by user.
    pub fn new(log: &Log) -> Self {
        let mut starts = vec![0; log.users.len() + 1];
        for event in log.events() {
            starts[event.user as usize + 1] += 1;
        }
        for user in 0..log.users.len() {
            starts[user + 1] += starts[user];
        }
        let mut next = starts.clone();
        let n = log.events.len();
        let (mut items, mut ratings, mut timestamps) = (vec![0; n], vec![None; n], vec![0; n]);
        // Events come by (timestamp, user, item): each user's are already in order.
        for event in log.events() {
            let at = next[event.user as usize];
            (items[at], ratings[at], timestamps[at]) = (event.item, event.rating, event.timestamp);
            next[event.user as usize] += 1;
        }
        Timelines { starts, items, ratings, timestamps }
    }

    /// Number of users.
    pub fn users(&self) -> u32 {
        self.starts.len().saturating_sub(1) as u32
    }

    /// All events of a user; empty for an id that is not there.
    pub fn of(&self, user: u32) -> Timeline<'_> {
        let range = self.range(user);
        Timeline {
            items: &self.items[range.clone()],
            ratings: &self.ratings[range.clone()],
            timestamps: &self.timestamps[range],
        }
    }

    /// A user's events with a timestamp below `cut`.
    pub fn before(&self, user: u32, cut: i64) -> Timeline<'_> {
        self.of(user).first(self.of(user).timestamps.partition_point(|t| *t < cut))
    }

    fn range(&self, user: u32) -> Range<usize> {
        match self.starts.get(user as usize..user as usize + 2) {
            Some(ends) => ends[0]..ends[1],
            None => 0..0,
        }
    }
}

impl<'a> Timeline<'a> {
    /// The first `n` events.
    pub fn first(&self, n: usize) -> Timeline<'a> {
        Timeline { items: &self.items[..n], ratings: &self.ratings[..n], timestamps: &self.timestamps[..n] }
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no event.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use arrow::array::{ArrayRef, Float32Array, StringArray, TimestampMicrosecondArray};

    fn batch(rows: &[(&str, &str, Option<f32>, i64)]) -> RecordBatch {
        let utc = rows.iter().map(|r| Some(r.3)).collect::<TimestampMicrosecondArray>().with_timezone("UTC");
        RecordBatch::try_from_iter([
            ("user_id", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0))) as ArrayRef),
            ("item_id", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1)))),
            ("rating", Arc::new(rows.iter().map(|r| r.2).collect::<Float32Array>())),
            ("event_timestamp", Arc::new(utc)),
        ])
        .unwrap()
    }

    fn log(rows: &[(&str, &str, Option<f32>, i64)], catalogue: &[&str]) -> Log {
        let mut builder = LogBuilder::default();
        rows.chunks(2).for_each(|chunk| builder.push(&batch(chunk)).unwrap());
        let ids: ArrayRef = Arc::new(StringArray::from(catalogue.to_vec()));
        builder.push_items(&RecordBatch::try_from_iter([("item_id", ids)]).unwrap()).unwrap();
        builder.finish().unwrap()
    }

    #[test]
    fn ids_follow_their_texts_whatever_the_order_of_the_rows() {
        let rows = [("b", "y", None, 30), ("a", "x", Some(4.0), 20), ("b", "x", Some(1.0), 20), ("a", "z", None, 10)];
        let one = log(&rows, &["z", "w"]);
        let mut turned = rows;
        turned.reverse();
        assert_eq!(one, log(&turned, &["w"]));
        assert_eq!(one.users(), ["a", "b"]);
        assert_eq!(one.items(), ["w", "x", "y", "z"], "an item without events is in the catalogue");
        let keys: Vec<(i64, u32, u32)> = one.events().iter().map(|e| (e.timestamp, e.user, e.item)).collect();
        assert_eq!(keys, [(10, 0, 3), (20, 0, 1), (20, 1, 1), (30, 1, 2)]);
    }

    #[test]
    fn a_timeline_holds_one_users_events_in_order() {
        let rows = [("b", "y", None, 30), ("a", "x", Some(4.0), 20), ("b", "x", Some(1.0), 20), ("a", "z", None, 10)];
        let lines = Timelines::new(&log(&rows, &[]));
        assert_eq!(lines.users(), 2);
        assert_eq!(lines.of(0).items, [2, 0]);
        assert_eq!(lines.of(1).ratings, [Some(1.0), None]);
        assert_eq!(lines.before(1, 30).items, [0], "strictly before");
        assert_eq!((lines.before(1, 31).len(), lines.of(2).len()), (2, 0));
    }

    #[test]
    fn a_log_refuses_ids_that_are_not_there() {
        let event = Event { user: 0, item: 1, rating: None, timestamp: 0 };
        assert_eq!(Log::new(vec!["a".into()], vec!["x".into()], vec![event]).unwrap_err().kind(), Kind::Internal);
        assert!(Log::new(vec!["b".into(), "a".into()], Vec::new(), Vec::new()).is_err());
    }
}
