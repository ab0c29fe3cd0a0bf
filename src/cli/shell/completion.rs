//! What Tab may put in the place of the word before the cursor: tables, columns, functions, keywords, commands.
//!
//! Knows names, and enough of SQL to tell which of them fit. Knows nothing of terminals.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::shell::command::NAMES;
use crate::printable;
use crate::query::statements;

/// Words of SQL that stand in queries.
const KEYWORDS: &str = "all and any as asc between by case cast cross current_date date desc describe distinct else end \
escape except exists explain false filter following from full group having in inner intersect interval is join left like \
limit natural not null nulls offset on or order outer over partition preceding range right row rows select semi show \
similar tables then timestamp true try_cast unbounded union unnest using values when where window with";

/// After these stands a table.
const BEFORE_TABLES: [&str; 4] = ["from", "join", "describe", "table"];

/// The names that a session has.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Each table's columns.
    tables: BTreeMap<String, Vec<String>>,
    functions: Vec<String>,
    queries: Vec<String>,
}

impl Words {
    /// Names for completion. What would steer a terminal is left out: candidates are shown as they are.
    pub(super) fn new(
        mut tables: BTreeMap<String, Vec<String>>,
        mut functions: Vec<String>,
        mut queries: Vec<String>,
    ) -> Words {
        let is_fit = |name: &String| !name.chars().any(printable::steers);
        tables.retain(|table, _| is_fit(table));
        tables.values_mut().for_each(|columns| columns.retain(is_fit));
        functions.retain(is_fit);
        queries.retain(is_fit);
        Words { tables, functions, queries }
    }

    /// The byte where the word before the cursor begins, and what may stand in its place, sorted.
    pub(super) fn complete(&self, line: &str, position: usize) -> (usize, Vec<String>) {
        let before = line.get(..position).unwrap_or(line);
        if let Some(command) = before.trim_start().strip_prefix('\\') {
            return self.complete_command(before, command);
        }
        let length: usize = before.chars().rev().take_while(|c| is_of_word(*c)).map(char::len_utf8).sum();
        let (head, word) = before.split_at(before.len() - length);
        let found = match statements::is_open(before) {
            true => BTreeSet::new(),
            false => self.fitting(line, head, word),
        };
        (head.len(), found.into_iter().collect())
    }

    /// The same for a command and its argument; `command` is the end of `before`, without the backslash.
    fn complete_command(&self, before: &str, command: &str) -> (usize, Vec<String>) {
        let Some((name, _)) = command.split_once(char::is_whitespace) else {
            let start = before.len() - command.len() - 1;
            let typed = &before[start..];
            return (
                start,
                NAMES.iter().filter(|name| name.starts_with(typed)).map(|name| (*name).to_owned()).collect(),
            );
        };
        let argument = command.rsplit(char::is_whitespace).next().unwrap_or_default();
        let mut names: Vec<&str> = match name {
            "d" => self.tables.keys().map(String::as_str).collect(),
            "query" => self.queries.iter().map(String::as_str).collect(),
            "timing" => vec!["off", "on"],
            _ => Vec::new(),
        };
        names.sort_unstable();
        let fitting = names.into_iter().filter(|name| begins(name, argument)).map(str::to_owned).collect();
        (before.len() - argument.len(), fitting)
    }

    /// The names that may stand where `word` was begun, after `head`, in the statement `line`.
    fn fitting(&self, line: &str, head: &str, word: &str) -> BTreeSet<String> {
        let columns_of = |tables: Vec<&String>| -> BTreeSet<String> {
            let columns = tables.into_iter().filter_map(|table| self.tables.get(table)).flatten();
            columns.filter(|column| begins(column, word)).map(|column| quoted(column)).collect()
        };
        if let Some(owner) = head.strip_suffix('.') {
            let owner = words(owner).last().unwrap_or_default();
            return columns_of(match self.table_called(line, owner) {
                Some(table) => vec![table],
                None => self.mentioned(line),
            });
        }
        let tables = self.tables.keys().filter(|table| begins(table, word)).map(|table| quoted(table));
        let last = words(head).last().unwrap_or_default().to_ascii_lowercase();
        if BEFORE_TABLES.contains(&last.as_str()) {
            return tables.collect();
        }
        // Everything is no answer.
        if word.is_empty() {
            return BTreeSet::new();
        }
        let mentioned = self.mentioned(line);
        let mut found = columns_of(if mentioned.is_empty() { self.tables.keys().collect() } else { mentioned });
        found.extend(tables);
        found.extend(self.functions.iter().filter(|name| begins(name, word)).map(|name| format!("{name}(")));
        let is_upper = !word.chars().any(char::is_lowercase);
        let keywords = KEYWORDS.split_whitespace().filter(|keyword| begins(keyword, word));
        found.extend(keywords.map(|keyword| if is_upper { keyword.to_uppercase() } else { keyword.to_owned() }));
        found
    }

    /// The tables whose names stand in a text.
    fn mentioned(&self, text: &str) -> Vec<&String> {
        let named: BTreeSet<String> = words(text).map(str::to_lowercase).collect();
        self.tables.keys().filter(|table| named.contains(&table.to_lowercase())).collect()
    }

    /// The table of that name, or the one that a text gives it to: `from item i`, `join item as i`.
    fn table_called(&self, text: &str, name: &str) -> Option<&String> {
        let named = |name: &str| self.tables.keys().find(|table| table.eq_ignore_ascii_case(name));
        if let Some(table) = named(name) {
            return Some(table);
        }
        let all: Vec<&str> = words(text).filter(|word| !word.eq_ignore_ascii_case("as")).collect();
        all.windows(2).find_map(|pair| match pair {
            [table, alias] if alias.eq_ignore_ascii_case(name) => named(table),
            _ => None,
        })
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Names, keywords and numbers of a text, as far as one can tell without parsing it.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !is_of_word(c)).filter(|word| !word.is_empty())
}

fn begins(name: &str, word: &str) -> bool {
    name.to_lowercase().starts_with(&word.to_lowercase())
}

/// A name as it stands in SQL: between quotes where SQL would take it for another one.
fn quoted(name: &str) -> String {
    let mut chars = name.chars();
    let is_plain = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Words {
        let columns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let tables = [
            ("item", columns(&["item_id", "title", "Odd name"])),
            ("item_taste", columns(&["item_id", "liked"])),
            ("reason", columns(&["reason", "dt"])),
            ("evil\u{1b}[2J", columns(&[])),
        ];
        let tables = tables.into_iter().map(|(table, columns)| (table.to_owned(), columns)).collect();
        Words::new(tables, columns(&["count", "lower", "low\u{9b}"]), columns(&["cost", "changed-since"]))
    }

    /// What Tab offers where `|` stands in a text.
    fn offered(text: &str) -> Vec<String> {
        let position = text.find('|').unwrap_or(text.len());
        let (start, found) = session().complete(&text.replace('|', ""), position);
        assert!(start <= position, "{text}");
        found
    }

    #[test]
    fn tables_stand_after_from_and_join() {
        assert_eq!(offered("select * from "), ["item", "item_taste", "reason"]);
        assert_eq!(offered("select * from ITEM"), ["item", "item_taste"]);
        assert_eq!(offered("select * from item join re"), ["reason"]);
        assert_eq!(offered("select ti| from nowhere"), ["timestamp", "title"]);
        assert_eq!(session().complete("select * from re", 16).0, 14);
    }

    #[test]
    fn columns_are_those_of_the_tables_that_are_mentioned() {
        assert_eq!(offered("select li| from item"), ["like", "limit"]);
        assert_eq!(offered("select li| from item_taste"), ["like", "liked", "limit"]);
        assert_eq!(offered("select item.| from item"), ["\"Odd name\"", "item_id", "title"]);
        assert_eq!(offered("select t.| from item, item_taste as t"), ["item_id", "liked"]);
        assert_eq!(offered("select t.l| from item i join item_taste t"), ["liked"]);
        assert_eq!(offered("select x.d| from reason"), ["dt"]);
    }

    #[test]
    fn functions_and_keywords_follow_what_was_typed() {
        assert_eq!(offered("select lo"), ["lower("]);
        assert_eq!(offered("sel"), ["select"]);
        assert_eq!(offered("SEL"), ["SELECT"]);
        assert_eq!(offered("select "), Vec::<String>::new());
        assert_eq!(offered(""), Vec::<String>::new());
    }

    #[test]
    fn texts_comments_and_what_steers_are_left_alone() {
        for text in ["select 'ite", "select \"ite", "select 1 /* ite", "select * from evil", "select zzz"] {
            assert_eq!(offered(text), Vec::<String>::new(), "{text}");
        }
        // No byte of a character is taken for a word's beginning.
        assert_eq!(session().complete("sélect ü", 9), (8, Vec::new()));
        assert_eq!(session().complete("ü", 1), (0, Vec::new()));
    }

    #[test]
    fn commands_have_arguments() {
        assert_eq!(offered("\\"), NAMES);
        assert_eq!(offered(" \\q"), ["\\q", "\\query"]);
        assert_eq!(offered("\\d it"), ["item", "item_taste"]);
        assert_eq!(offered("\\query c"), ["changed-since", "cost"]);
        assert_eq!(offered("\\timing o"), ["off", "on"]);
        assert_eq!(session().complete("\\query ch", 9).0, 7);
    }
}
