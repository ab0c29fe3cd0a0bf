//! Whose texts `curec learn worth` measures: reasons of items, or of users' histories.
//!
//! Knows the words, files and folders of each; knows nothing of how anything is measured.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The folder of `out` for the adapter that `learn worth` teaches by reasons of items.
pub const TAUGHT_BY_WORTH: &str = "adapter-worth";
/// The same by reasons of histories.
pub const TAUGHT_BY_HISTORIES: &str = "adapter-worth-histories";

/// Whose texts are measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Whose {
    /// Reasons of items.
    #[default]
    Items,
    /// Reasons of users' histories.
    Histories,
}

impl Whose {
    /// Both.
    pub const ALL: [Whose; 2] = [Whose::Items, Whose::Histories];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Whose::Items => "items",
            Whose::Histories => "histories",
        }
    }

    /// Whom the texts describe.
    pub fn described(self) -> &'static str {
        match self {
            Whose::Items => "items",
            Whose::Histories => "users",
        }
    }

    /// One of them.
    pub fn one(self) -> &'static str {
        match self {
            Whose::Items => "an item",
            Whose::Histories => "a user",
        }
    }

    /// What is dealt into halves, of which one chooses and the other tells what is kept: an item's events differ by their users, a
    /// user's by their items.
    pub fn judges(self) -> &'static str {
        match self {
            Whose::Items => "users",
            Whose::Histories => "items",
        }
    }

    /// What a run has measured, in `out`.
    pub fn record(self) -> &'static str {
        match self {
            Whose::Items => "worth.json",
            Whose::Histories => "history_worth.json",
        }
    }

    /// All answers with their worths, in `out`.
    pub fn table(self) -> &'static str {
        match self {
            Whose::Items => "item_worth.parquet",
            Whose::Histories => "history_worth.parquet",
        }
    }

    /// The folder of `out` for the adapter that is taught.
    pub fn taught(self) -> &'static str {
        match self {
            Whose::Items => TAUGHT_BY_WORTH,
            Whose::Histories => TAUGHT_BY_HISTORIES,
        }
    }

    /// So many of them.
    pub fn count(self, n: usize) -> Count {
        match self {
            Whose::Items => Count::Items(n),
            Whose::Histories => Count::Users(n),
        }
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Whose {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let names = Whose::ALL.map(Whose::name).join(", ");
        Whose::ALL.into_iter().find(|whose| whose.name() == text).ok_or_else(|| format!("must be one of {names}"))
    }
}

/// How many of those that texts describe, under their name in a record: flattened it is the key `items` or `users`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Count {
    /// Items.
    Items(usize),
    /// Users.
    Users(usize),
}

impl Count {
    /// The number alone.
    pub fn number(self) -> usize {
        match self {
            Count::Items(n) | Count::Users(n) => n,
        }
    }

    /// Whose texts describe them.
    pub fn whose(self) -> Whose {
        match self {
            Count::Items(_) => Whose::Items,
            Count::Users(_) => Whose::Histories,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Record {
        passed: bool,
        #[serde(flatten)]
        of: Count,
        reasons: usize,
    }

    #[test]
    fn a_count_stands_in_a_record_under_its_name() {
        for (whose, text) in [
            (Whose::Items, r#"{"passed":true,"items":3,"reasons":9}"#),
            (Whose::Histories, r#"{"passed":true,"users":3,"reasons":9}"#),
        ] {
            let record = Record { passed: true, of: whose.count(3), reasons: 9 };
            assert_eq!(serde_json::to_string(&record).unwrap(), text);
            assert_eq!(serde_json::from_str::<Record>(text).unwrap(), record);
            assert_eq!((record.of.number(), record.of.whose()), (3, whose));
        }
        assert!(serde_json::from_str::<Record>(r#"{"passed":true,"reasons":9}"#).is_err());
    }

    #[test]
    fn names_are_read_as_they_are_shown() {
        for whose in Whose::ALL {
            assert_eq!(whose.to_string().parse::<Whose>(), Ok(whose));
        }
        assert_eq!("users".parse::<Whose>(), Err("must be one of items, histories".to_owned()));
    }
}
