//! A place in a text that a person wrote: the line that it stands in, with the place marked under it.
//!
//! Knows lines, and how wide they are on a screen. Knows nothing of what is wrong there, nor of files.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use crate::printable::{self, Tone, Toned};

/// Places of one error that are shown; of more, words alone tell. Each holds its line, and all may stand in one long line.
pub const MOST: usize = 20;
/// Columns of the screen that a line takes at most; of a longer one the part around the place is shown.
const WIDEST: usize = 100;
/// Columns before the place that such a part has at most.
const BEFORE: usize = 40;
/// What stands where a line was cut.
const CUT: &str = "...";
/// A tab goes on to the next multiple of so many columns.
const TAB: usize = 4;

/// A place in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    line: usize,
    column: usize,
    length: usize,
    text: String,
    label: String,
}

/// What stands in one or more columns of the screen.
struct Cell {
    shown: String,
    width: usize,
    is_marked: bool,
}

impl Excerpt {
    /// The place of some bytes of a text; of several lines the first.
    pub fn of_bytes(text: &str, bytes: Range<usize>) -> Excerpt {
        let start = text.floor_char_boundary(bytes.start);
        let end = text.floor_char_boundary(bytes.end).max(start);
        let from = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let until = text[start..].find('\n').map_or(text.len(), |at| start + at);
        Excerpt {
            line: text[..start].matches('\n').count() + 1,
            column: text[from..start].chars().count() + 1,
            length: text[start..end.min(until)].chars().count().max(1),
            text: text[from..until].trim_end_matches('\r').to_owned(),
            label: String::new(),
        }
    }

    /// The place of `length` characters from a line and a column on, both from 1; `None` where the text has no such line.
    pub fn at(text: &str, line: usize, column: usize, length: usize) -> Option<Excerpt> {
        let of_line = text.split('\n').nth(line.checked_sub(1)?)?;
        Some(Excerpt {
            line,
            column: column.max(1),
            length: length.max(1),
            text: of_line.trim_end_matches('\r').to_owned(),
            label: String::new(),
        })
    }

    /// The place behind the last character of a text that is not blank.
    pub fn at_end(text: &str) -> Excerpt {
        let end = text.trim_end().len();
        Excerpt::of_bytes(text, end..end)
    }

    /// The same with some words behind the mark; none where they are empty.
    pub fn labelled(mut self, label: impl Into<String>) -> Excerpt {
        self.label = label.into();
        self
    }

    /// The same, and what follows the place in its line is not shown.
    pub fn without_rest(mut self) -> Excerpt {
        let kept = (self.column - 1).saturating_add(self.length);
        if self.text.chars().nth(kept).is_some() {
            self.text = self.text.chars().take(kept).collect::<String>() + " " + CUT;
        }
        self
    }

    /// The line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column of the first character, from 1.
    pub fn column(&self) -> usize {
        self.column
    }

    /// The whole line as it stands in the text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The place as a person sees it, each line after a line end: where it is, the line, and the mark under it. `file` names the
    /// text.
    pub fn pieces(&self, file: &str) -> Vec<Toned> {
        let (line, marks) = self.lines();
        let number = self.line.to_string();
        let edge = " ".repeat(number.len());
        let piece = |tone, text: String| Toned { tone, text };
        let place = format!("{}:{}:{}", printable::line(file), self.line, self.column);
        let label = if self.label.is_empty() { String::new() } else { format!(" {}", printable::line(&self.label)) };
        vec![
            piece(Tone::Quiet, format!("\n {edge}--> ")),
            piece(Tone::Plain, place),
            piece(Tone::Quiet, format!("\n {edge} |\n {number} | ")),
            piece(Tone::Plain, line),
            piece(Tone::Quiet, format!("\n {edge} | ")),
            piece(Tone::Wrong, format!("{marks}{label}")),
        ]
    }

    /// The line, cut around the place where it is long, and the marks that stand under it.
    fn lines(&self) -> (String, String) {
        let cells = self.cells();
        let place = cells.iter().position(|cell| cell.is_marked).unwrap_or_default();
        let whole: usize = cells.iter().map(|cell| cell.width).sum();
        let mut first = 0;
        if whole > WIDEST {
            let mut before: usize = cells[..place].iter().map(|cell| cell.width).sum();
            while before > BEFORE {
                before -= cells[first].width;
                first += 1;
            }
        }
        let mut line = String::from(if first > 0 { CUT } else { "" });
        let mut marks = " ".repeat(line.len());
        let (mut taken, mut marked) = (line.len(), 0);
        for cell in &cells[first..] {
            if taken + cell.width > WIDEST {
                line.push_str(CUT);
                break;
            }
            taken += cell.width;
            line.push_str(&cell.shown);
            if cell.is_marked {
                marked += cell.width;
            } else if marked == 0 {
                marks.push_str(&" ".repeat(cell.width));
            }
        }
        marks.push_str(&"^".repeat(marked.max(1)));
        (line.trim_end().to_owned(), marks)
    }

    /// What stands in the line, and a blank behind it where the place is there.
    fn cells(&self) -> Vec<Cell> {
        let (mut cells, mut column, mut width) = (Vec::new(), 1_usize, 0_usize);
        for grapheme in self.text.graphemes(true) {
            let n = grapheme.chars().count();
            let shown = match grapheme {
                "\t" => " ".repeat(TAB - width % TAB),
                other => printable::line(other).into_owned(),
            };
            let is_marked = column < self.column.saturating_add(self.length) && column + n > self.column;
            let wide = shown.width();
            cells.push(Cell { shown, width: wide, is_marked });
            column += n;
            width += wide;
        }
        if !cells.iter().any(|cell| cell.is_marked) {
            cells.push(Cell { shown: " ".to_owned(), width: 1, is_marked: true });
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Without colours, as a terminal has it.
    fn told(excerpt: &Excerpt) -> String {
        printable::toned(&excerpt.pieces("job.toml"), false)
    }

    #[test]
    fn a_place_is_marked_in_its_line() {
        let text = "name = 'n'\n[model]\ndevise = 'cpu'\n";
        let excerpt = Excerpt::of_bytes(text, 19..25).labelled("did you mean `device`?");
        assert_eq!((excerpt.line(), excerpt.column(), excerpt.text()), (3, 1, "devise = 'cpu'"));
        assert_eq!(
            told(&excerpt),
            "\n  --> job.toml:3:1\n   |\n 3 | devise = 'cpu'\n   | ^^^^^^ did you mean `device`?"
        );
        assert_eq!(Some(excerpt), Excerpt::at(text, 3, 1, 6).map(|e| e.labelled("did you mean `device`?")));
        // Of several lines the first; bytes that the text does not have are its end.
        assert_eq!(told(&Excerpt::of_bytes(text, 11..30)), "\n  --> job.toml:2:1\n   |\n 2 | [model]\n   | ^^^^^^^");
        assert_eq!(told(&Excerpt::of_bytes("a", 7..9)), "\n  --> job.toml:1:2\n   |\n 1 | a\n   |  ^");
        assert_eq!(
            told(&Excerpt::at_end("select a +\n\n")),
            "\n  --> job.toml:1:11\n   |\n 1 | select a +\n   |           ^"
        );
        assert_eq!((Excerpt::at("a", 0, 1, 1), Excerpt::at("a", 2, 1, 1)), (None, None));
        assert!(told(&Excerpt::at("a\r\nb", 1, 1, usize::MAX).unwrap()).ends_with(" 1 | a\n   | ^"));
    }

    #[test]
    fn marks_stand_under_wide_and_written_out_characters() {
        let marked = |text: &str, column| Excerpt::at(text, 1, column, 1).unwrap().lines();
        assert_eq!(marked("a\tb = 1", 3), ("a   b = 1".into(), "    ^".into()));
        assert_eq!(marked("千と = 1", 2), ("千と = 1".into(), "  ^^".into()));
        assert_eq!(marked("e\u{301} = 1", 6), ("e\u{301} = 1".into(), "    ^".into()));
        assert_eq!(
            marked("a\x1b[2J\u{202e} = 1", 9),
            ("a\\u{1b}[2J\\u{202e} = 1".into(), format!("{}^", " ".repeat(20)))
        );
        let hostile = Excerpt::at("a\x1b]0;x\x07", 1, 1, 1).unwrap().labelled("b\x1b[2J\nc");
        let shown = told(&hostile);
        assert!(shown.chars().all(|c| !printable::steers(c) || c == '\n'), "{shown:?}");
        assert_eq!(shown.lines().count(), 5, "{shown:?}");
    }

    #[test]
    fn of_a_long_line_the_part_around_the_place_is_shown() {
        let text = format!("{}x = 1{}", "a".repeat(500), "b".repeat(500));
        let (line, marks) = Excerpt::at(&text, 1, 501, 5).unwrap().lines();
        assert_eq!((line.len(), marks.len()), (WIDEST + CUT.len(), CUT.len() + BEFORE + 5));
        assert!(line.starts_with("...a") && line.ends_with("b..."), "{line}");
        assert_eq!(&line[CUT.len() + BEFORE..marks.len()], "x = 1");
        assert!(marks.ends_with(" ^^^^^"));
        let (line, marks) = Excerpt::at(&text, 1, 3, 1).unwrap().lines();
        assert!(line.starts_with("aaa") && line.ends_with("a..."), "{line}");
        assert_eq!(marks, "  ^");
    }

    #[test]
    fn the_rest_of_a_line_can_be_kept_back() {
        let excerpt = Excerpt::at("pass = 'hunter2'", 1, 1, 4).unwrap().without_rest();
        assert_eq!(excerpt.lines(), ("pass ...".into(), "^^^^".into()));
        let whole = Excerpt::at("pass", 1, 1, 4).unwrap();
        assert_eq!(whole.clone().without_rest(), whole);
    }
}
