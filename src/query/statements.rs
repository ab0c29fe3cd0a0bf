//! Texts of several SQL statements: where each begins and ends.
//!
//! Knows SQL's syntax, as DataFusion's parser reads it: a semicolon in a text, a name or a comment ends nothing. Knows nothing of
//! tables or sessions.

use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

use crate::error::{Error, Kind, Result};
use crate::query::datafusion_error::unparsed;
use crate::query::read_only;

/// One statement of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The statement, without its semicolon.
    pub text: String,
    /// Its number in the text, from 1.
    pub number: usize,
    /// The line of the text on which it begins, from 1.
    pub line: u64,
    /// The column of that line on which it begins, from 1.
    pub column: u64,
}

impl Statement {
    /// The statement where it stands in its text: what is wrong with it then has the text's lines and columns.
    pub fn in_place(&self) -> String {
        let before = |n: u64, what: &str| what.repeat(usize::try_from(n.saturating_sub(1)).unwrap_or_default());
        format!("{}{}{}", before(self.line, "\n"), before(self.column, " "), self.text)
    }

    /// An error of this statement, with the file that it stands in, its number and its line; unchanged without a file.
    pub fn placed(&self, error: Error, file: Option<&str>) -> Error {
        placed(error, file, self.number, self.line)
    }
}

fn placed(error: Error, file: Option<&str>, number: usize, line: u64) -> Error {
    match file {
        None => error,
        Some(file) => error.with("file", file).with("statement", number).with("line", line),
    }
}

/// The statements of a text that only read; none where it is empty. Errors name `file`, where there is one.
///
/// # Errors
/// `Kind::Usage` for text that cannot be parsed, and for a statement that would write a file, make a table or change a setting.
pub fn split(text: &str, file: Option<&str>) -> Result<Vec<Statement>> {
    let unread = |e: Error| match file {
        None => e,
        Some(file) => e.with("file", file),
    };
    let mut parser = DFParserBuilder::new(text).build().map_err(|e| unread(unparsed(e, Kind::Usage, text)))?;
    let mut statements: Vec<Statement> = Vec::new();
    loop {
        while parser.parser.consume_token(&Token::SemiColon) {}
        let first = parser.parser.peek_token();
        if first.token == Token::EOF {
            return Ok(statements);
        }
        let (number, Location { line, column }) = (statements.len() + 1, first.span.start);
        let place = |e: Error| placed(e, file, number, line);
        let statement = parser.parse_statement().map_err(|e| place(unparsed(e, Kind::Usage, text)))?;
        read_only::allow(&statement).map_err(place)?;
        let next = parser.parser.peek_token();
        if !matches!(next.token, Token::SemiColon | Token::EOF) {
            let message = format!("the SQL cannot be planned: expected the end of the statement, found {}", next.token);
            return Err(place(Error::new(Kind::Usage, message).hint("statements are divided by semicolons")));
        }
        let whole = text.get(offset(text, first.span.start)..offset(text, next.span.start)).unwrap_or_default();
        statements.push(Statement { text: whole.trim_end().to_owned(), number, line, column });
    }
}

/// Whether a text that somebody is typing goes on: its last statement has no semicolon yet, or it is open as of [`is_open`].
pub fn goes_on(text: &str) -> bool {
    match tokens(text) {
        None => is_open(text),
        Some(tokens) => {
            let last = tokens.iter().rev().find(|token| !matches!(token, Token::Whitespace(_)));
            last.is_some_and(|token| *token != Token::SemiColon)
        }
    }
}

/// Whether a text ends inside a quoted text, a quoted name or a comment that spans lines.
pub fn is_open(text: &str) -> bool {
    let ends = ["'", "\"", "`", "*/", "$$"];
    tokens(text).is_none() && ends.iter().any(|end| tokens(&format!("{text}{end}")).is_some())
}

/// The tokens of a text; `None` where it cannot be divided into any.
fn tokens(text: &str) -> Option<Vec<Token>> {
    Tokenizer::new(&GenericDialect {}, text).tokenize().ok()
}

/// The byte at which a place of the text lies: lines and columns count characters from 1; line 0 is the end of the text.
fn offset(text: &str, place: Location) -> usize {
    let (mut line, mut column) = (1, 1);
    for (at, c) in text.char_indices() {
        if (line, column) == (place.line, place.column) {
            return at;
        }
        (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
    }
    text.len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn semicolons_of_texts_names_and_comments_divide_nothing() {
        let text = "-- first; of all\nselect ';' as \"a;b\" /* ; */;\n;\n\
                    \x20 select 'ü\n;' -- ;\n  as b ; explain\nselect 1 -- end";
        let statements = split(text, None).unwrap();
        let told: Vec<_> = statements.iter().map(|s| (s.number, s.line, s.text.as_str())).collect();
        let expected = [
            (1, 2, "select ';' as \"a;b\" /* ; */"),
            (2, 4, "select 'ü\n;' -- ;\n  as b"),
            (3, 6, "explain\nselect 1 -- end"),
        ];
        assert_eq!(told, expected);
        assert_eq!(statements[1].in_place(), format!("\n\n\n  {}", statements[1].text));
        for empty in ["", " ; ;\n", "-- nothing\n"] {
            assert!(split(empty, None).unwrap().is_empty(), "{empty:?}");
        }
    }

    #[test]
    fn a_text_goes_on_until_its_semicolon() {
        for text in [
            "select 1",
            "select 1; select 2",
            "select ';",
            "select 'it''",
            "select \"a;",
            "select 1 /* ;",
            "select 1 -- ;",
        ] {
            assert!(goes_on(text), "{text}");
        }
        for text in [
            "",
            " \n",
            "-- nothing",
            "select 1;",
            "select 1; -- done",
            "select ';' /* ; */ ;\n",
            "selec;",
            "select 1 ? ;",
        ] {
            assert!(!goes_on(text), "{text}");
        }
        assert!(["select '", "select \"a", "select 1 /* b"].iter().all(|text| is_open(text)));
        assert!(!["select 'a'", "select 1 -- it's", ""].iter().any(|text| is_open(text)));
    }

    #[test]
    fn mistakes_and_writes_are_refused_with_their_place() {
        for (text, statement, line) in [
            ("select 1;\n\nselec 2;", 2, 3),
            ("select 1;\ndrop table item", 2, 2),
            ("select 1\nselect 2", 1, 1),
            ("select 1; copy item to 'x.csv'; select 2", 2, 1),
        ] {
            let e = split(text, Some("a.sql")).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage, "{text}");
            let place: Vec<_> = e.context().iter().map(|(key, value)| format!("{key} {value}")).collect();
            assert_eq!(place, ["file a.sql".to_owned(), format!("statement {statement}"), format!("line {line}")]);
            assert!(split(text, None).unwrap_err().context().is_empty(), "{text}");
        }
        let e = split("select 1; select 'open", Some("a.sql")).unwrap_err();
        assert!(e.kind() == Kind::Usage && e.to_string().contains("a.sql"), "{e}");
    }
}
