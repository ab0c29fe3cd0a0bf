//! What a reason is about: an item, a user, or what an item has for a user. Where its rows stand and how they are found.
//!
//! Knows names of tables and their keys; reads nothing.

use crate::printable::line;
use crate::query::session::Param;
use crate::query::texts;

/// What somebody asks about, by ids as they stand in the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// Why people pick the item.
    Item(String),
    /// What the user is after.
    User(String),
    /// Why the user may like the item.
    Pair {
        /// The user.
        user_id: String,
        /// The item.
        item_id: String,
    },
}

impl About {
    /// The feature table.
    pub fn table(&self) -> &'static str {
        match self {
            About::Item(_) => "item_feature",
            About::User(_) => "user_feature",
            About::Pair { .. } => "pair_feature",
        }
    }

    /// The item, where there is one.
    pub fn item_id(&self) -> Option<&str> {
        match self {
            About::Item(id) | About::Pair { item_id: id, .. } => Some(id),
            About::User(_) => None,
        }
    }

    /// The user, where there is one.
    pub fn user_id(&self) -> Option<&str> {
        match self {
            About::User(id) | About::Pair { user_id: id, .. } => Some(id),
            About::Item(_) => None,
        }
    }

    /// Its id, where it is one.
    pub fn id(&self) -> Option<&str> {
        match self {
            About::Item(id) | About::User(id) => Some(id),
            About::Pair { .. } => None,
        }
    }

    /// What of it an input table tells, for messages.
    pub fn part_of(&self, table: &str) -> &'static str {
        match (self, table) {
            (About::Pair { .. }, "item") => "the item",
            (About::Pair { .. }, _) => "the user",
            _ => "it",
        }
    }

    /// For messages: its ids made fit to be shown.
    pub fn name(&self) -> String {
        match self {
            About::Item(id) => format!("item `{}`", line(id)),
            About::User(id) => format!("user `{}`", line(id)),
            About::Pair { user_id, item_id } => {
                format!("pair of user `{}` and item `{}`", line(user_id), line(item_id))
            }
        }
    }

    /// A query that shows ids of this kind as they stand in the tables.
    pub fn ids(&self) -> &'static str {
        match self {
            About::Item(_) => "select dt, item_id from reason_prompt where kind = 'item' limit 5",
            About::User(_) => "select dt, user_id from reason_prompt where kind = 'history' limit 5",
            About::Pair { .. } => "select dt, user_id, item_id from reason_prompt where kind = 'pair' limit 5",
        }
    }

    /// The query for the newest row of a table, and its parameters. `has_kinds`: the table has rows of every kind.
    pub(crate) fn newest(&self, has_kinds: bool) -> (&'static str, Vec<(&'static str, Param)>) {
        let text = |text: &str| Param::Text(text.to_owned());
        let kind = match self {
            About::Item(_) => "item",
            About::User(_) => "history",
            About::Pair { .. } => "pair",
        };
        let [user_id, item_id] = [self.user_id(), self.item_id()].map(Option::unwrap_or_default);
        match self {
            _ if has_kinds => {
                let params = vec![("kind", text(kind)), ("user_id", text(user_id)), ("item_id", text(item_id))];
                (texts::EXPLAINED_REASON, params)
            }
            About::Item(id) => (texts::EXPLAINED_ITEM, vec![("id", text(id))]),
            About::User(id) => (texts::EXPLAINED_USER, vec![("id", text(id))]),
            About::Pair { .. } => (texts::EXPLAINED_PAIR, vec![("user_id", text(user_id)), ("item_id", text(item_id))]),
        }
    }
}
