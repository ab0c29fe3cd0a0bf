//! A reason held against its evidence, word by word: what of the evidence it uses, and which of its words come from nowhere.
//!
//! Pure functions of texts, for people who look; checks and scores are not made from them. Knows words and titles; knows
//! nothing of where they are shown.

use std::collections::BTreeSet;

use unicode_segmentation::UnicodeSegmentation;

use crate::plain_text::words::content_words;

/// Words that say whom a reason is about and that it is one. Every reason has some of them, whatever its evidence holds.
const FRAME: &str = "people user viewer reader listener player customer fan audience like enjoy love prefer dislike choose \
                     pick seek want film movie item title";

/// A piece of a text; all pieces in their order are the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What stands there.
    pub text: String,
    /// Whether it is to be marked.
    pub is_marked: bool,
}

/// A reason beside its evidence.
#[derive(Debug, Clone)]
pub struct Marks {
    reason: String,
    /// Content words of the reason.
    said: BTreeSet<String>,
    /// Content words of the evidence and of every reason's frame.
    held: BTreeSet<String>,
    /// All words of the reason, with a space before each and after the last.
    spoken: String,
}

impl Marks {
    /// For a reason and all texts of its evidence.
    pub fn new<'a>(reason: &str, evidence: impl IntoIterator<Item = &'a str>) -> Marks {
        let mut held: BTreeSet<String> = evidence.into_iter().flat_map(content_words).collect();
        held.extend(content_words(FRAME));
        Marks {
            reason: reason.to_owned(),
            said: content_words(reason).into_iter().collect(),
            held,
            spoken: format!(" {} ", words(reason)),
        }
    }

    /// A text of the evidence, with what the reason uses of it marked: all of it where the reason names it whole (a year in
    /// parentheses at its end aside), else the content words that the reason has too.
    pub fn used(&self, text: &str) -> Vec<Piece> {
        if self.names(text) {
            return vec![Piece { text: text.to_owned(), is_marked: true }];
        }
        pieces(text, |word| content_words(word).iter().any(|word| self.said.contains(word)))
    }

    /// The reason, with the content words marked that no text of its evidence holds.
    pub fn unsupported(&self) -> Vec<Piece> {
        pieces(&self.reason, |word| content_words(word).iter().any(|word| !self.held.contains(word)))
    }

    fn names(&self, text: &str) -> bool {
        let name = words(without_year(text));
        // "It" stands in every other sentence.
        let tells = name.contains(' ') || name.contains(|c: char| c.is_numeric()) || !content_words(&name).is_empty();
        !name.is_empty() && tells && self.spoken.contains(&format!(" {name} "))
    }
}

/// The marked texts among pieces, each once, in their order.
pub fn marked(pieces: &[Piece]) -> Vec<&str> {
    let mut found = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.is_marked) {
        if !found.contains(&piece.text.as_str()) {
            found.push(piece.text.as_str());
        }
    }
    found
}

/// A text cut into pieces; marked words that only a space divides are one piece.
fn pieces(text: &str, is_marked: impl Fn(&str) -> bool) -> Vec<Piece> {
    let mut found: Vec<Piece> = Vec::new();
    for part in text.split_word_bounds() {
        let is_marked = is_marked(part);
        if is_marked
            && let [.., before, space] = &mut found[..]
            && before.is_marked
            && space.text == " "
        {
            before.text.push(' ');
            before.text.push_str(part);
            found.pop();
            continue;
        }
        match found.last_mut().filter(|last| last.is_marked == is_marked) {
            Some(last) => last.text.push_str(part),
            None => found.push(Piece { text: part.to_owned(), is_marked }),
        }
    }
    found
}

/// All words of a text in lower case, a space between them.
fn words(text: &str) -> String {
    text.unicode_words().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

/// A title without its year: "Heat (1995)" is "Heat".
fn without_year(title: &str) -> &str {
    match title.trim_end().rsplit_once(" (") {
        Some((name, year)) if year.strip_suffix(')').is_some_and(|y| y.len() == 4 && y.parse::<u16>().is_ok()) => name,
        _ => title,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marked pieces in brackets.
    fn shown(pieces: &[Piece]) -> String {
        let show = |p: &Piece| if p.is_marked { format!("[{}]", p.text) } else { p.text.clone() };
        pieces.iter().map(show).collect()
    }

    #[test]
    fn words_that_the_reason_uses_are_marked_and_those_from_nowhere_too() {
        let evidence = ["A slow heist with a bleak ending.", "Thriller", "Heat (1995)"];
        let marks = Marks::new("People who enjoy Heat pick it for bleak heists and witty robots.", evidence);
        assert_eq!(shown(&marks.used(evidence[0])), "A slow [heist] with a [bleak] ending.");
        assert_eq!(shown(&marks.used("bleak heist")), "[bleak heist]");
        assert_eq!(shown(&marks.used(evidence[1])), "Thriller");
        assert_eq!(shown(&marks.used(evidence[2])), "[Heat (1995)]");
        let unsupported = marks.unsupported();
        assert_eq!(shown(&unsupported), "People who enjoy Heat pick it for bleak heists and [witty robots].");
        assert_eq!(marked(&unsupported), ["witty robots"]);
    }

    #[test]
    fn a_title_is_marked_whole_only_where_the_reason_names_it() {
        let marks = Marks::new("It is as loud as Mission: Impossible and 1984.", []);
        assert_eq!(shown(&marks.used("Mission: Impossible (1996)")), "[Mission: Impossible (1996)]");
        assert_eq!(shown(&marks.used("Impossible Things (1996)")), "[Impossible] Things (1996)");
        assert_eq!(shown(&marks.used("1984")), "[1984]");
        assert_eq!(shown(&marks.used("It (1990)")), "It (1990)", "a word that says nothing is no title");
        assert_eq!(shown(&marks.used("Loudspeaker (1996)")), "Loudspeaker (1996)");
    }

    #[test]
    fn pieces_are_the_text_whatever_it_is() {
        let texts =
            ["", " ", "a\x1b[2J\u{202e}b", "千と千尋の神隠し", "l'été <b>", "Ночной дозор", "(((", "x ()", " (1995)"];
        for reason in texts {
            let marks = Marks::new(reason, texts);
            let whole = |pieces: &[Piece]| pieces.iter().map(|p| p.text.as_str()).collect::<String>();
            for text in texts {
                assert_eq!(whole(&marks.used(text)), text);
            }
            assert_eq!(whole(&marks.unsupported()), reason);
            assert!(marked(&marks.unsupported()).is_empty(), "{reason:?} is its own evidence");
        }
        let marks = Marks::new("Ночной дозор", ["Дозор"]);
        assert_eq!(shown(&marks.used("Дозор")), "[Дозор]");
        assert_eq!(shown(&marks.unsupported()), "[Ночной] дозор");
    }
}
