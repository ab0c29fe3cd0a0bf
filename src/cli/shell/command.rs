//! What a person typed into the shell: statements, or a command that begins with a backslash.
//!
//! Knows the commands' names and their arguments. Knows nothing of what they do.

use crate::query::statements;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Nothing was typed.
    Nothing,
    /// SQL.
    Statements(String),
    /// List the tables.
    Tables,
    /// Show the columns of a table.
    Columns(String),
    /// List the saved queries.
    Queries,
    /// Run a saved query.
    Query(String),
    /// Run the statements of a file.
    File(String),
    /// Tell how long statements take, or stop telling it; without a value the other way round.
    Timing(Option<bool>),
    /// List the commands.
    Help,
    /// Leave.
    Quit,
    /// There is no such command, or it lacks its argument: what is wrong.
    Wrong(String),
}

/// The commands, for completion.
pub(super) const NAMES: [&str; 6] = ["\\?", "\\d", "\\i", "\\q", "\\query", "\\timing"];

/// What `\?` says.
pub(super) const HELP: &str = "\
SQL ends with a semicolon and may span lines. It only reads.

\\d              list the tables
\\d TABLE        the columns of a table, with their types
\\query          list the saved queries
\\query NAME     run a saved query
\\i FILE         run the statements of a file
\\timing [on|off]  tell how long statements take
\\?              this list
\\q              leave; Ctrl-D too

Tab completes tables, columns, functions and commands. Ctrl-C clears what was typed, or stops the query that runs.
";

/// Whether Enter ends what was typed; otherwise it begins another line.
pub(super) fn is_finished(text: &str) -> bool {
    let text = text.trim();
    text.starts_with('\\') || word(text).is_some() || !statements::goes_on(text)
}

/// What to do about what was typed.
pub(super) fn parse(text: &str) -> Command {
    let text = text.trim();
    if let Some(command) = word(text) {
        return command;
    }
    let Some(command) = text.strip_prefix('\\') else {
        return match text {
            "" => Command::Nothing,
            _ => Command::Statements(text.to_owned()),
        };
    };
    let command = command.trim_end_matches(';').trim_end();
    let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let argument = plain(argument.trim());
    match (name, argument.as_str()) {
        ("d" | "dt", "") => Command::Tables,
        ("d", _) => Command::Columns(argument),
        ("query", "") => Command::Queries,
        ("query", _) => Command::Query(argument),
        ("i", "") => Command::Wrong("\\i needs the name of a file".into()),
        ("i", _) => Command::File(argument),
        ("timing", "") => Command::Timing(None),
        ("timing", "on" | "off") => Command::Timing(Some(argument == "on")),
        ("timing", _) => Command::Wrong(format!("\\timing is on or off, not {argument:?}")),
        ("?" | "h" | "help", "") => Command::Help,
        ("q" | "quit", "") => Command::Quit,
        _ if NAMES.iter().any(|known| known[1..] == *name) => Command::Wrong(format!("\\{name} takes no argument")),
        _ => Command::Wrong(format!("there is no command {:?}", format!("\\{name}"))),
    }
}

/// The command that people type without a backslash.
fn word(text: &str) -> Option<Command> {
    match text.trim_end_matches(';').trim_end().to_ascii_lowercase().as_str() {
        "quit" | "exit" => Some(Command::Quit),
        "help" => Some(Command::Help),
        _ => None,
    }
}

/// An argument without its quotes; without any a backslash is before a character that completion has escaped.
fn plain(argument: &str) -> String {
    for quote in ['\'', '"'] {
        let inner = argument.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner.to_owned();
        }
    }
    let (mut text, mut is_escaped) = (String::with_capacity(argument.len()), false);
    for c in argument.chars() {
        is_escaped = c == '\\' && !is_escaped;
        if !is_escaped {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_begin_with_a_backslash() {
        for (text, command) in [
            ("", Command::Nothing),
            (" \n", Command::Nothing),
            ("\\d", Command::Tables),
            (" \\d; ", Command::Tables),
            ("\\d item", Command::Columns("item".into())),
            ("\\d \"item\";", Command::Columns("item".into())),
            ("\\query", Command::Queries),
            ("\\query cost", Command::Query("cost".into())),
            ("\\i a b.sql", Command::File("a b.sql".into())),
            ("\\i 'a b.sql'", Command::File("a b.sql".into())),
            ("\\i a\\ b\\\\c.sql", Command::File("a b\\c.sql".into())),
            ("\\timing", Command::Timing(None)),
            ("\\timing on", Command::Timing(Some(true))),
            ("\\timing off", Command::Timing(Some(false))),
            ("\\?", Command::Help),
            ("help", Command::Help),
            ("\\q", Command::Quit),
            ("EXIT;", Command::Quit),
            ("select 1;", Command::Statements("select 1;".into())),
            ("quit 1", Command::Statements("quit 1".into())),
        ] {
            assert_eq!(parse(text), command, "{text:?}");
        }
        for (text, said) in [
            ("\\i", "file"),
            ("\\timing soon", "on or off"),
            ("\\q now", "no argument"),
            ("\\drop item", "\\\\drop"),
            ("\\", "no command"),
        ] {
            assert!(matches!(parse(text), Command::Wrong(why) if why.contains(said)), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn enter_ends_a_command_at_once_and_a_statement_at_its_semicolon() {
        for text in ["", "\\d", "\\d it", "quit", "Help;", "select 1;", "select\n1;\n"] {
            assert!(is_finished(text), "{text:?}");
        }
        for text in ["select 1", "select ';", "exit 1", "select '\\q"] {
            assert!(!is_finished(text), "{text:?}");
        }
    }

    #[test]
    fn the_help_names_every_command() {
        assert!(NAMES.iter().all(|name| HELP.lines().any(|line| line.starts_with(name))));
    }
}
