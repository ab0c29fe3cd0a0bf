//! What an event of a log says: that its user likes the item, dislikes it, nothing of the two, or that it is not read.
//!
//! Knows the texts of the column `event`. Knows nothing of ratings, which come first, or of files.

use std::collections::BTreeMap;

/// What an event without a rating says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meaning {
    /// The user likes the item.
    Like,
    /// The user does not like it.
    Dislike,
    /// It has happened, and says nothing of liking.
    Nothing,
    /// It is not read at all, with a rating or without.
    Dropped,
}

impl Meaning {
    /// The names, as the job file writes them.
    pub const NAMES: &'static str = "like, dislike, none or drop";

    /// The meaning of that name.
    pub fn parse(name: &str) -> Option<Meaning> {
        match name {
            "like" => Some(Meaning::Like),
            "dislike" => Some(Meaning::Dislike),
            "none" => Some(Meaning::Nothing),
            "drop" => Some(Meaning::Dropped),
            _ => None,
        }
    }

    /// Its name, as the job file writes it.
    pub fn name(self) -> &'static str {
        match self {
            Meaning::Like => "like",
            Meaning::Dislike => "dislike",
            Meaning::Nothing => "none",
            Meaning::Dropped => "drop",
        }
    }

    /// Whether the user likes the item; `None`: it does not say.
    pub fn liked(self) -> Option<bool> {
        match self {
            Meaning::Like => Some(true),
            Meaning::Dislike => Some(false),
            Meaning::Nothing | Meaning::Dropped => None,
        }
    }
}

/// What each value of the column `event` means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Meanings {
    named: BTreeMap<String, Meaning>,
    other: Meaning,
}

impl Default for Meanings {
    /// Every event is a like.
    fn default() -> Self {
        Meanings { named: BTreeMap::new(), other: Meaning::Like }
    }
}

impl Meanings {
    /// Of the values that are named; `other` is what all others mean, and events without a value. A name that means the
    /// same as the others changes nothing.
    pub fn new(named: impl IntoIterator<Item = (String, Meaning)>, other: Meaning) -> Self {
        Meanings { named: named.into_iter().filter(|(_, meaning)| *meaning != other).collect(), other }
    }

    /// What an event means; `None`: it has no name.
    pub fn of(&self, event: Option<&str>) -> Meaning {
        event.and_then(|event| self.named.get(event)).copied().unwrap_or(self.other)
    }

    /// Whether every event is a like, as where a job says nothing.
    pub fn is_default(&self) -> bool {
        self.named.is_empty() && self.other == Meaning::Like
    }

    /// Whether some events are not read.
    pub fn drops(&self) -> bool {
        self.other == Meaning::Dropped || self.named.values().any(|meaning| *meaning == Meaning::Dropped)
    }

    /// The values that mean something else than the others, in order, with their meanings.
    pub fn named(&self) -> impl Iterator<Item = (&str, Meaning)> {
        self.named.iter().map(|(event, meaning)| (event.as_str(), *meaning))
    }

    /// The meaning of all others.
    pub fn other(&self) -> Meaning {
        self.other
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_that_are_not_named_mean_what_the_others_mean() {
        let named =
            ["like", "dislike", "none", "drop"].map(|name| (format!("is {name}"), Meaning::parse(name).unwrap()));
        let meanings = Meanings::new(named, Meaning::Nothing);
        for name in ["like", "dislike", "none", "drop"] {
            assert_eq!(meanings.of(Some(&format!("is {name}"))).name(), name);
        }
        assert_eq!((meanings.of(Some("Is like")), meanings.of(None)), (Meaning::Nothing, Meaning::Nothing));
        assert!(meanings.drops() && !meanings.is_default());
        assert_eq!(meanings.named().count(), 3, "the name that says what the others say is left out");
    }

    #[test]
    fn who_says_nothing_means_likes() {
        let meanings = Meanings::default();
        assert!(meanings.is_default() && !meanings.drops());
        assert_eq!(meanings.of(Some("return")).liked(), Some(true));
        assert!(Meanings::new([("click".to_owned(), Meaning::Like)], Meaning::Like).is_default());
        assert_eq!(Meaning::parse("Like"), None);
    }
}
