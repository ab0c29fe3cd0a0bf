//! What a line of the SQL shell means, and how the word at its cursor may go on.
//!
//! Knows the shell's own commands and SQL's words; tables, columns and functions are told to it. Knows nothing of terminals.

use std::collections::{BTreeMap, BTreeSet};

use crate::query::statements;

/// What `\?` prints.
pub(super) const HELP: &str = "\
\\d          the tables
\\d TABLE    the columns of a table, with their types
\\timing     how long each statement takes, on or off
\\q          leave (so does Ctrl-D)
\\?          this list

A statement ends with a semicolon and may have several lines. Tab completes, Ctrl-R searches what was typed before, Ctrl-C
clears the input or stops the statement that runs. The functions generate(), mean_logprob() and embed() ask the job's models.
";

/// The shell's own commands.
const COMMANDS: [&str; 4] = ["\\?", "\\d", "\\q", "\\timing"];

/// Words that what reads begins with or is made of.
const KEYWORDS: [&str; 64] = [
    "all",
    "and",
    "any",
    "as",
    "asc",
    "between",
    "by",
    "case",
    "cast",
    "cross",
    "current",
    "desc",
    "describe",
    "distinct",
    "else",
    "end",
    "except",
    "exists",
    "explain",
    "false",
    "filter",
    "first",
    "following",
    "from",
    "full",
    "group",
    "having",
    "ilike",
    "in",
    "inner",
    "intersect",
    "interval",
    "is",
    "join",
    "last",
    "left",
    "like",
    "limit",
    "not",
    "null",
    "nulls",
    "offset",
    "on",
    "or",
    "order",
    "outer",
    "over",
    "partition",
    "preceding",
    "recursive",
    "right",
    "rows",
    "select",
    "semi",
    "show",
    "tables",
    "then",
    "true",
    "unbounded",
    "union",
    "using",
    "values",
    "when",
    "where",
];

/// Words after which a table's name stands.
const BEFORE_TABLES: [&str; 3] = ["from", "join", "describe"];

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// Nothing.
    Nothing,
    /// To end the shell.
    Leave,
    /// The list of commands.
    Help,
    /// The tables.
    Tables,
    /// The columns of a table.
    Columns(String),
    /// To tell times or not.
    Timing,
    /// Something that is no command.
    Unknown(String),
    /// Statements.
    Sql(String),
}

/// What a whole input asks for.
pub(super) fn read(input: &str) -> Input {
    let text = input.trim();
    if !text.starts_with('\\') {
        return match text.trim_end_matches(';').trim_end() {
            "" => Input::Nothing,
            "exit" | "quit" => Input::Leave,
            _ => Input::Sql(text.to_owned()),
        };
    }
    let command = text.trim_end_matches(';').trim_end();
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    match (name, rest.trim()) {
        ("\\q", "") => Input::Leave,
        ("\\?", "") => Input::Help,
        ("\\d", "") => Input::Tables,
        ("\\d", table) => Input::Columns(table.to_owned()),
        ("\\timing", "") => Input::Timing,
        _ => Input::Unknown(text.to_owned()),
    }
}

/// Whether an input is whole: a command, or statements up to their semicolon.
pub(super) fn is_whole(input: &str) -> bool {
    !matches!(read(input), Input::Sql(_)) || statements::is_whole(input)
}

/// Tables with their columns, and functions.
#[derive(Debug, Clone, Default)]
pub(super) struct Vocabulary {
    /// Columns by table.
    pub(super) tables: BTreeMap<String, Vec<String>>,
    /// Names of functions.
    pub(super) functions: Vec<String>,
}

impl Vocabulary {
    /// Where the word before the cursor begins, and how it may go on; `cursor` counts bytes. In a text between quotation marks
    /// nothing is known.
    pub(super) fn complete(&self, line: &str, cursor: usize) -> (usize, Vec<String>) {
        let before = line.get(..cursor).unwrap_or(line);
        if before.starts_with('\\') {
            return match before.rsplit_once(char::is_whitespace) {
                None => (0, beginning_with(before, COMMANDS)),
                Some((_, word)) => (before.len() - word.len(), beginning_with(word, self.tables.keys())),
            };
        }
        let word = before.rsplit(|c: char| !is_of_word(c)).next().unwrap_or_default();
        let start = before.len() - word.len();
        let head = before.get(..start).unwrap_or_default();
        if before.matches('\'').count() % 2 == 1 {
            return (start, Vec::new());
        }
        let words = words(line);
        if let Some(qualified) = head.strip_suffix('.') {
            let owner = qualified.rsplit(|c: char| !is_of_word(c)).next().unwrap_or_default().to_lowercase();
            return (start, beginning_with(word, self.columns_of(&owner, &words)));
        }
        let last = head.split_whitespace().next_back().unwrap_or_default().to_lowercase();
        if BEFORE_TABLES.contains(&last.as_str()) {
            return (start, beginning_with(word, self.tables.keys()));
        }
        let named: Vec<&String> = words.iter().filter_map(|word| self.tables.get(word)).flatten().collect();
        if word.is_empty() {
            return (start, beginning_with(word, named));
        }
        let columns: Vec<&String> = if named.is_empty() { self.tables.values().flatten().collect() } else { named };
        let mut found: BTreeSet<String> = beginning_with(word, columns).into_iter().collect();
        found.extend(beginning_with(word, self.tables.keys()));
        found.extend(beginning_with(word, &self.functions).iter().map(|name| format!("{name}(")));
        let is_upper = !word.chars().any(char::is_lowercase);
        let keywords = beginning_with(word, KEYWORDS).into_iter();
        found.extend(keywords.map(|keyword| if is_upper { keyword.to_uppercase() } else { keyword }));
        (start, found.into_iter().collect())
    }

    /// The columns of a table, or of the table that the words give this other name: `item as i`, `item i`.
    fn columns_of(&self, name: &str, words: &[String]) -> &[String] {
        let is_named = |rest: &[String]| match rest {
            [_, other, ..] if other == name => true,
            [_, between, other, ..] => between == "as" && other == name,
            _ => false,
        };
        let renamed = || {
            let places = (0..words.len()).filter_map(|at| words.get(at..));
            places.filter(|rest| is_named(rest)).find_map(|rest| self.tables.get(rest.first()?))
        };
        self.tables.get(name).or_else(renamed).map_or(&[], Vec::as_slice)
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words of a text in lower case.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !is_of_word(c)).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// Those of `known` that begin as `word` does, whatever its case; sorted, each once.
fn beginning_with<T: AsRef<str>>(word: &str, known: impl IntoIterator<Item = T>) -> Vec<String> {
    let word = word.to_lowercase();
    let mut found: Vec<String> = known.into_iter().map(|known| known.as_ref().to_owned()).collect();
    found.retain(|known| known.to_lowercase().starts_with(&word));
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary {
        let columns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let tables = [
            ("item".to_owned(), columns(&["item_id", "title"])),
            ("reason".to_owned(), columns(&["item_id", "reason", "dt"])),
            ("reason_score".to_owned(), columns(&["score", "accepted"])),
        ];
        Vocabulary { tables: tables.into(), functions: columns(&["count", "round", "row_number"]) }
    }

    /// Completes at the bar.
    fn completed(text: &str) -> (usize, Vec<String>) {
        let cursor = text.find('|').unwrap_or(text.len());
        vocabulary().complete(&text.replace('|', ""), cursor)
    }

    #[test]
    fn lines_mean_commands_or_statements() {
        for (line, input) in [
            ("", Input::Nothing),
            (" ;\n", Input::Nothing),
            ("\\q", Input::Leave),
            ("exit;", Input::Leave),
            ("quit", Input::Leave),
            ("\\?", Input::Help),
            (" \\d ", Input::Tables),
            ("\\d  item;", Input::Columns("item".into())),
            ("\\timing", Input::Timing),
            ("\\timing on", Input::Unknown("\\timing on".into())),
            ("\\drop item", Input::Unknown("\\drop item".into())),
            ("select '\\q';", Input::Sql("select '\\q';".into())),
        ] {
            assert_eq!(read(line), input, "{line:?}");
        }
    }

    #[test]
    fn statements_go_on_until_their_semicolon_and_commands_do_not() {
        for whole in ["", "\\d item", "\\d 'x", "quit", "select 1;", "select\n1\n;"] {
            assert!(is_whole(whole), "{whole:?}");
        }
        for open in ["select 1", "select ';", "quit it"] {
            assert!(!is_whole(open), "{open:?}");
        }
    }

    #[test]
    fn tables_columns_functions_and_keywords_are_completed_where_they_may_stand() {
        for (text, found) in [
            ("select * from rea|", vec!["reason", "reason_score"]),
            ("select * from |", vec!["item", "reason", "reason_score"]),
            ("select * from item join REASON_|", vec!["reason_score"]),
            ("select t| from item", vec!["tables", "then", "title", "true"]),
            ("select | from item", vec!["item_id", "title"]),
            ("select i.| from item as i", vec!["item_id", "title"]),
            ("select s.a| from item i join reason_score s", vec!["accepted"]),
            ("select reason.d|", vec!["dt"]),
            ("select nobody.|", vec![]),
            ("select ro|", vec!["round(", "row_number(", "rows"]),
            ("SEL|", vec!["SELECT"]),
            ("select 'rea|' from item", vec![]),
            ("select 'ü', ti|", vec!["title"]),
            ("\\|", vec!["\\?", "\\d", "\\q", "\\timing"]),
            ("\\t|", vec!["\\timing"]),
            ("\\d i|", vec!["item"]),
        ] {
            assert_eq!(completed(text).1, found, "{text}");
        }
        assert_eq!(completed("select 'ü', ti|").0, "select 'ü', ".len());
        assert_eq!(completed("select i.ti| from item i").0, "select i.".len());
        assert_eq!(completed("\\d i|").0, 3);
        assert_eq!(vocabulary().complete("select 'ü", 9).1, Vec::<String>::new(), "a cursor within a character");
    }
}
