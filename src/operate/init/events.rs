//! The values of an event column, and what they most likely mean.
//!
//! Knows words. What meanings do is for [`crate::config::Meaning`] to say.

use std::collections::BTreeMap;

use arrow::array::ArrayRef;

use crate::config::Meaning;
use crate::operate::init::moments::texts;
use crate::operate::init::names::bare;

/// A column with more values than this tells no kinds of events.
pub(super) const MOST: usize = 50;

/// Somebody wants the item.
const WANTED: &[&str] = &[
    "purchase",
    "purchased",
    "buy",
    "bought",
    "order",
    "ordered",
    "transaction",
    "checkout",
    "paid",
    "payment",
    "conversion",
    "cart",
    "addtocart",
    "basket",
    "addtobasket",
    "like",
    "liked",
    "love",
    "favorite",
    "favourite",
    "fav",
    "wishlist",
    "addtowishlist",
    "bookmark",
    "save",
    "saved",
    "upvote",
    "thumbsup",
    "share",
    "recommend",
    "subscribe",
    "follow",
    "install",
    "rent",
    "borrow",
    "complete",
    "completed",
    "finish",
    "finished",
];
/// Somebody has looked at it: nothing where something says more, else nobody can tell.
const SEEN: &[&str] = &[
    "view", "views", "viewed", "pv", "pageview", "detail", "click", "clicked", "open", "play", "played", "listen",
    "stream", "watch", "watched", "visit", "read", "start",
];
/// Somebody does not want it.
const UNWANTED: &[&str] = &[
    "dislike",
    "disliked",
    "skip",
    "skipped",
    "hide",
    "hidden",
    "block",
    "notinterested",
    "thumbsdown",
    "downvote",
    "return",
    "returned",
    "refund",
    "refunded",
    "cancel",
    "cancelled",
    "canceled",
    "reject",
    "unlike",
    "unfollow",
    "unsubscribe",
    "uninstall",
    "dismiss",
    "removefromwishlist",
];
/// The item was shown, or nobody was there: not even met.
const NOISE: &[&str] = &["impression", "impressions", "exposure", "show", "shown", "bot", "crawler", "heartbeat"];
/// The rating says it.
const RATED: &[&str] = &["rate", "rated", "rating", "review", "reviewed"];
/// It says neither.
const NEITHER: &[&str] = &["removefromcart", "removefrombasket"];

/// A value of the event column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    /// The value.
    pub(super) value: String,
    /// Its rows in the sample.
    pub(super) rows: usize,
    /// What it means; `None`: nobody can tell.
    pub(super) meaning: Option<Meaning>,
    /// Whether it is a weak sign of liking, and the sample has no better one.
    pub(super) is_weak: bool,
}

impl Event {
    /// Why nobody can tell what it means.
    pub(super) fn why(&self) -> &'static str {
        match self.is_weak {
            true => "the sample has no stronger sign of liking: like, or none if the log has one",
            false => "unknown word",
        }
    }
}

/// The events of a log.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Events {
    /// The most frequent first.
    pub(super) values: Vec<Event>,
    /// What all others mean.
    pub(super) other: Meaning,
}

/// How many different values a column has.
pub(super) fn different(array: &ArrayRef) -> usize {
    counted(array).len()
}

fn counted(array: &ArrayRef) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for text in texts(array) {
        *counts.entry(text).or_default() += 1;
    }
    counts
}

/// What the values of an event column mean, beside ratings or without.
pub(super) fn events_of(array: &ArrayRef, is_rated: bool) -> Events {
    let mut values: Vec<Event> =
        counted(array).into_iter().map(|(value, rows)| Event { value, rows, meaning: None, is_weak: false }).collect();
    values.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.value.cmp(&b.value)));
    let is = |event: &Event, words: &[&str]| words.contains(&bare(&event.value).as_str());
    let says_more = is_rated || values.iter().any(|event| is(event, WANTED));
    for event in &mut values {
        event.is_weak = !says_more && is(event, SEEN);
        event.meaning = match &*event {
            event if is(event, WANTED) => Some(Meaning::Like),
            event if is(event, SEEN) => says_more.then_some(Meaning::Nothing),
            event if is(event, UNWANTED) => Some(Meaning::Dislike),
            event if is(event, NOISE) => Some(Meaning::Dropped),
            event if is(event, NEITHER) || (is_rated && is(event, RATED)) => Some(Meaning::Nothing),
            _ => None,
        };
    }
    let is_told = is_rated || values.iter().any(|event| event.meaning == Some(Meaning::Like));
    Events { values, other: if is_told { Meaning::Nothing } else { Meaning::Like } }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::StringArray;

    use super::*;

    fn meanings(values: &[&str], is_rated: bool) -> (Vec<(String, Option<Meaning>)>, Meaning) {
        let events = events_of(&(Arc::new(StringArray::from(values.to_vec())) as ArrayRef), is_rated);
        (events.values.into_iter().map(|event| (event.value, event.meaning)).collect(), events.other)
    }

    fn one(value: &str, meaning: Option<Meaning>) -> (String, Option<Meaning>) {
        (value.to_owned(), meaning)
    }

    #[test]
    fn a_view_is_nothing_where_something_says_more_and_else_for_people_to_decide() {
        let (found, other) = meanings(&["view", "view", "view", "buy", "return", "zap", "Impression", "buy"], false);
        let wanted = [
            one("view", Some(Meaning::Nothing)),
            one("buy", Some(Meaning::Like)),
            one("Impression", Some(Meaning::Dropped)),
            one("return", Some(Meaning::Dislike)),
            one("zap", None),
        ];
        assert_eq!((found, other), (wanted.to_vec(), Meaning::Nothing));
        let (found, other) = meanings(&["click", "skip"], false);
        let wanted = [one("click", None), one("skip", Some(Meaning::Dislike))];
        assert_eq!((found, other), (wanted.to_vec(), Meaning::Like));
        let weak = events_of(&(Arc::new(StringArray::from(vec!["view", "zap"])) as ArrayRef), false);
        let why: Vec<&str> = weak.values.iter().map(Event::why).collect();
        assert!(why[0].contains("stronger sign") && why[1].contains("unknown word"), "{why:?}");
        let (found, other) = meanings(&["rating", "view"], true);
        assert_eq!(found, [one("rating", Some(Meaning::Nothing)), one("view", Some(Meaning::Nothing))]);
        assert_eq!(other, Meaning::Nothing);
        assert_eq!(meanings(&["rating"], false), (vec![one("rating", None)], Meaning::Like));
    }
}
