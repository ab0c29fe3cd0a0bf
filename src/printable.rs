//! Text of others, made fit to be shown: what is printed steers neither a terminal, nor a spreadsheet, nor a page.
//!
//! One function for each place: [`terminal`], [`line()`] and [`toned`] for people's screens, [`json`] for JSON, [`cell`] for CSV,
//! [`html`] and [`pages`] for HTML. Nothing is lost: a character that steers is written out (`\u{1b}`). Knows nothing of what the
//! text is about.

use std::borrow::Cow;
use std::io::Write;

use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, HtmlEscape, Value, escape_formatter};

/// Whether a character does something other than stand there: control characters (C0, DEL, C1, so escape sequences too),
/// what ends a line without being a line feed, and what overrides the direction of the writing around it.
pub fn steers(c: char) -> bool {
    let overrides = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || overrides || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
}

/// Text of several lines as a terminal may have it: line feeds and tabs stay, all else that [`steers`] is written out.
pub fn terminal(text: &str) -> Cow<'_, str> {
    written_out(text, |c| steers(c) && c != '\n' && c != '\t')
}

/// The same for what has to stay in one line, such as a name or an id: line feeds and tabs are written out as well.
pub fn line(text: &str) -> Cow<'_, str> {
    written_out(text, steers)
}

fn written_out(text: &str, is_written_out: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_written_out) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_written_out(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// How a piece of text stands out on a screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// It does not.
    Plain,
    /// A heading.
    Heading,
    /// What is used.
    Used,
    /// What comes from nowhere.
    Foreign,
    /// What is wrong, and the word that says so.
    Wrong,
    /// What can be done.
    Advice,
    /// What only holds other things together.
    Quiet,
}

/// A piece of text with its tone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toned {
    /// How it stands out.
    pub tone: Tone,
    /// What stands there.
    pub text: String,
}

/// Pieces as a terminal may have them, each as [`terminal`]: where there are colours, used ones are bold and foreign ones
/// underlined and red; elsewhere these two stand between asterisks and between question marks, and the others as they are.
pub fn toned(pieces: &[Toned], has_colours: bool) -> String {
    let mut out = String::new();
    for Toned { tone, text } in pieces {
        let text = terminal(text);
        let (before, after) = match (tone, has_colours) {
            (Tone::Used, false) => ("*", "*"),
            (Tone::Foreign, false) => ("?", "?"),
            (_, false) | (Tone::Plain, true) => ("", ""),
            (Tone::Heading, true) => ("\x1b[4m", "\x1b[0m"),
            (Tone::Used, true) => ("\x1b[1m", "\x1b[0m"),
            (Tone::Foreign, true) => ("\x1b[4;31m", "\x1b[0m"),
            (Tone::Wrong, true) => ("\x1b[1;31m", "\x1b[0m"),
            (Tone::Advice, true) => ("\x1b[1;36m", "\x1b[0m"),
            (Tone::Quiet, true) => ("\x1b[2m", "\x1b[0m"),
        };
        out.extend([before, &text, after]);
    }
    out
}

/// JSON text that means the same and steers nothing: serializers escape C0 alone. Line feeds between objects and those of
/// pretty printing stay.
pub fn json(text: &str) -> Cow<'_, str> {
    let is_escaped = |c: char| steers(c) && !matches!(c, '\n' | '\r' | '\t');
    if !text.chars().any(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_escaped(c) {
            // All of them lie in the basic plane.
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Text as a CSV cell that no spreadsheet takes for a formula: one that begins with `=`, `+`, `-`, `@`, a tab or a line end
/// gets an apostrophe before it. A plain number stays one.
pub fn cell(text: &str) -> Cow<'_, str> {
    let begins = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    match begins && !is_number(text) {
        true => Cow::Owned(format!("'{text}")),
        false => Cow::Borrowed(text),
    }
}

/// Digits with a sign and a decimal point at most.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    [whole, fraction].iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// Text as it stands in an HTML page, in an element or in a quoted attribute.
pub fn html(text: &str) -> String {
    HtmlEscape(&terminal(text)).to_string()
}

/// Templates of HTML pages: whatever is put into one becomes [`html`], unless it was made safe.
pub fn pages() -> Environment<'static> {
    let mut pages = Environment::new();
    pages.set_auto_escape_callback(|_| AutoEscape::Html);
    pages.set_formatter(|out, state, value| {
        let is_plain =
            matches!(value.kind(), ValueKind::Undefined | ValueKind::None | ValueKind::Number | ValueKind::Bool);
        if !value.is_safe() && !is_plain {
            let text = value.to_string();
            if let Cow::Owned(clean) = terminal(&text) {
                return escape_formatter(out, state, &Value::from(clean));
            }
        }
        escape_formatter(out, state, value)
    });
    pages
}

/// What a [`Guard`] lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Bytes as they are.
    Raw,
    /// As [`terminal`].
    Terminal,
    /// As [`json`].
    Json,
}

/// A writer for text that is made fit on the way. Where a character is cut between two writes it waits for its rest.
#[derive(Debug)]
pub struct Guard<W: Write> {
    inner: W,
    shape: Shape,
    waiting: Vec<u8>,
}

impl<W: Write> Guard<W> {
    /// Guards a writer.
    pub fn new(inner: W, shape: Shape) -> Guard<W> {
        Guard { inner, shape, waiting: Vec::new() }
    }
}

impl<W: Write> Write for Guard<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let fit = match self.shape {
            Shape::Raw => return self.inner.write(bytes),
            Shape::Terminal => terminal,
            Shape::Json => json,
        };
        self.waiting.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.waiting) {
            Ok(_) => self.waiting.len(),
            // What is no text at all is replaced; only what may still become a character waits.
            Err(e) if e.error_len().is_some() => self.waiting.len(),
            Err(e) => e.valid_up_to(),
        };
        let text: Vec<u8> = self.waiting.drain(..whole).collect();
        self.inner.write_all(fit(&String::from_utf8_lossy(&text)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A title that would clear the screen, name the window, link, forge a line, and turn the writing around.
    const HOSTILE: &str = "a\x1b[2J\x1b]0;x\x07\u{9b}1m\u{7f}\r\nok\tb\u{202e}c\u{2066}d\u{2028}e\u{85}f";

    #[test]
    fn a_terminal_is_not_steered_and_nothing_is_lost() {
        let shown = terminal(HOSTILE);
        assert!(shown.chars().all(|c| !steers(c) || c == '\n' || c == '\t'), "{shown:?}");
        assert!(shown.contains("\\u{1b}[2J") && shown.contains("\\u{9b}1m\\u{7f}\\u{d}\nok\tb\\u{202e}c"), "{shown}");
        let shown = line(HOSTILE);
        assert!(!shown.chars().any(steers) && shown.contains("\\u{d}\\u{a}ok\\u{9}b"), "{shown}");
        for text in ["Amélie (2001)", "Ночной дозор", "千と千尋", "قصة", "👩‍🚀", ""] {
            assert!(matches!(line(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn tones_are_ours_alone() {
        let piece = |tone| Toned { tone, text: HOSTILE.into() };
        let pieces = [Tone::Plain, Tone::Heading, Tone::Used, Tone::Foreign].map(piece);
        let others = [Tone::Wrong, Tone::Advice, Tone::Quiet].map(piece);
        assert_eq!(toned(&others, false), terminal(HOSTILE).repeat(3));
        assert_eq!(toned(&others, true).matches('\x1b').count(), 6);
        let shown = toned(&pieces, false);
        assert!(shown.chars().all(|c| !steers(c) || c == '\n' || c == '\t'), "{shown:?}");
        assert!(shown.contains(&format!("*{0}*?{0}?", terminal(HOSTILE))), "{shown}");
        let shown = toned(&pieces, true);
        assert_eq!(shown.matches('\x1b').count(), 6, "{shown:?}");
        assert!(shown.contains(&format!("\x1b[1m{0}\x1b[0m\x1b[4;31m{0}\x1b[0m", terminal(HOSTILE))), "{shown:?}");
    }

    #[test]
    fn json_means_the_same_and_steers_nothing() {
        let value = serde_json::json!({ "title": HOSTILE, "id": "\u{9b}" });
        for text in [value.to_string(), format!("{value:#}\n")] {
            let shown = json(&text);
            assert!(shown.chars().all(|c| !steers(c) || c == '\n'), "{shown:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }

    #[test]
    fn a_cell_is_never_a_formula_and_a_number_stays_one() {
        for text in
            ["=1+1", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "--1", "-", "-1e5", "+"]
        {
            assert_eq!(cell(text), format!("'{text}"));
        }
        for text in ["-1", "+49171", "-0.5", "", "a=b", "1-2", "'=1", "Film - 2"] {
            assert_eq!(cell(text), text);
        }
    }

    #[test]
    fn html_is_text() {
        let shown = html("<b onclick=\"x\">'&\x1b\u{202e}</b>");
        assert!(!shown.contains(['<', '>', '"', '\'', '\x1b', '\u{202e}']), "{shown}");
        assert!(shown.contains("&lt;b onclick=&quot;x&quot;&gt;") && shown.contains("\\u{1b}\\u{202e}"), "{shown}");
        let mut pages = pages();
        pages.add_template("t", "<i title=\"{{ text }}\">{{ list }} {{ text|upper }} {{ n }} {{ safe }}</i>").unwrap();
        let (text, list, n) = ("<\u{202e}\"", vec!["<\x1b>"], 7);
        let safe = Value::from_safe_string("<svg/>".into());
        let page = pages.get_template("t").unwrap().render(minijinja::context! { text, list, n, safe }).unwrap();
        assert!(!page.contains(['\u{202e}', '\x1b']) && page.matches('<').count() == 3, "{page}");
        assert!(page.contains("7 <svg/>") && page.matches('"').count() == 2, "{page}");
    }

    #[test]
    fn a_guard_waits_for_the_rest_of_a_character() {
        let shown = |shape| {
            let mut out = Vec::new();
            let mut guard = Guard::new(&mut out, shape);
            HOSTILE.as_bytes().chunks(1).for_each(|byte| guard.write_all(byte).unwrap());
            guard.write_all(b"\xff.").unwrap();
            guard.flush().unwrap();
            drop(guard);
            out
        };
        let text = String::from_utf8(shown(Shape::Terminal)).unwrap();
        assert_eq!(text, format!("{}\u{fffd}.", terminal(HOSTILE)));
        assert_eq!(shown(Shape::Raw), [HOSTILE.as_bytes(), b"\xff."].concat());
    }
}
