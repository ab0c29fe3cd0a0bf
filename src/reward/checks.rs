//! Checks of a reason's text against its evidence: grounding, polarity, repetition, length, language.
//!
//! Pure functions over text; they are the first version of a reward, before a model learns one. Knows nothing of
//! tables, models or thresholds.

use std::collections::{BTreeSet, HashSet};

/// Words that may begin with a capital letter without naming anything.
const NOT_NAMES: &[&str] = &[
    "a",
    "all",
    "also",
    "although",
    "an",
    "and",
    "as",
    "at",
    "because",
    "both",
    "but",
    "by",
    "each",
    "film",
    "films",
    "for",
    "from",
    "furthermore",
    "he",
    "her",
    "his",
    "however",
    "i",
    "if",
    "in",
    "it",
    "its",
    "movie",
    "movies",
    "number",
    "of",
    "on",
    "or",
    "overall",
    "people",
    "she",
    "so",
    "some",
    "such",
    "that",
    "the",
    "their",
    "there",
    "these",
    "they",
    "this",
    "those",
    "to",
    "viewers",
    "we",
    "what",
    "when",
    "which",
    "while",
    "who",
    "with",
    "you",
];

/// Small words that join the parts of a name ("Lord of the Rings").
const JOINS: &[&str] = &["a", "an", "at", "by", "de", "for", "in", "la", "le", "of", "on", "the", "to"];

/// Commonest English words: ordinary prose is full of them, tables, code and other languages are not.
const COMMON_ENGLISH: &[&str] = &[
    "a", "about", "all", "also", "an", "and", "are", "as", "at", "be", "because", "been", "but", "by", "can", "for",
    "from", "had", "has", "have", "he", "her", "his", "i", "if", "in", "is", "it", "its", "like", "likes", "more",
    "not", "of", "on", "or", "other", "she", "so", "such", "that", "the", "their", "them", "they", "this", "to", "was",
    "were", "what", "when", "which", "who", "will", "with", "would", "you",
];

/// Phrases that say somebody does not like something.
const NEGATIVE: &[&str] = &[
    "not a fan",
    "not fans",
    "don't like",
    "do not like",
    "doesn't like",
    "does not like",
    "dislike",
    "dislikes",
    "disliked",
    "not enjoy",
    "not interested",
    "would not like",
    "not like",
    "hate",
    "hates",
    "hated",
];

/// Words of a text, lower case, without punctuation.
pub fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '-'))
        .map(|w| w.trim_matches(['\'', '-']).to_lowercase())
        .filter(|w| !w.is_empty())
        .collect()
}

/// Letters and digits only, lower case, single spaces: what two spellings of one name have in common.
pub fn normalise(text: &str) -> String {
    words(text).join(" ").replace('\'', "")
}

/// The attributes (genres, categories) that a catalogue uses, so that a mention of one can be told from plain words.
#[derive(Debug, Default, Clone)]
pub struct Vocabulary {
    attributes: HashSet<String>,
    longest: usize,
    /// Titles without punctuation and year, and the words of the longest.
    titles: HashSet<String>,
    longest_title: usize,
}

impl Vocabulary {
    /// From the catalogue's attribute values.
    pub fn new<'a>(attributes: impl IntoIterator<Item = &'a str>) -> Self {
        // One- and two-letter values match everywhere and say nothing.
        let attributes: HashSet<String> = attributes.into_iter().map(normalise).filter(|a| a.len() > 2).collect();
        let longest = attributes.iter().map(|a| a.split(' ').count()).max().unwrap_or(0);
        Vocabulary { attributes, longest, ..Vocabulary::default() }
    }

    /// With the catalogue's titles. One that is a single common word of English, or an attribute, tells nothing and is left
    /// out.
    #[must_use]
    pub fn with_titles<'a>(mut self, titles: impl IntoIterator<Item = &'a str>) -> Self {
        let says_something = |title: &String| {
            let is_word = COMMON_ENGLISH.binary_search(&title.as_str()).is_ok() || NOT_NAMES.contains(&title.as_str());
            title.len() > 2 && !is_word && !self.attributes.contains(title)
        };
        let titles: HashSet<String> =
            titles.into_iter().map(|title| normalise(without_year(title))).filter(says_something).collect();
        self.longest_title = titles.iter().map(|title| title.split(' ').count()).max().unwrap_or(0);
        self.titles = titles;
        self
    }

    /// Whether titles are known.
    pub fn knows_titles(&self) -> bool {
        !self.titles.is_empty()
    }

    /// Titles of the catalogue that `text` names and `shown` does not hold, normalised. The longest title that begins at a
    /// word counts, and is a name only where its first and its last word begin with a capital letter or a digit: "the game" is
    /// none.
    pub fn foreign_titles(&self, text: &str, shown: &str) -> Vec<String> {
        let shown = format!(" {} ", normalise(shown));
        // As `words` cuts them, with what the cutting loses: whether they begin like names.
        let words: Vec<(String, bool)> = text
            .split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '-'))
            .filter_map(|raw| {
                let raw = raw.trim_matches(['\'', '-']);
                let is_name = raw.chars().next()?;
                Some((raw.to_lowercase().replace('\'', ""), is_name.is_uppercase() || is_name.is_numeric()))
            })
            .collect();
        let (mut found, mut from) = (Vec::new(), 0);
        while from < words.len() {
            let longest = (1..=self.longest_title.min(words.len() - from)).rev().find_map(|n| {
                let run = &words[from..from + n];
                let title = run.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join(" ");
                (run[0].1 && run[n - 1].1 && self.titles.contains(&title)).then_some((title, n))
            });
            from += longest.as_ref().map_or(1, |(_, n)| *n);
            found.extend(longest.map(|(title, _)| title).filter(|title| !shown.contains(&format!(" {title} "))));
        }
        found
    }

    /// Attributes that `text` mentions; a plural counts.
    fn mentioned(&self, text: &str) -> Vec<String> {
        let text = normalise(text);
        let words: Vec<&str> = text.split(' ').collect();
        let mut found = Vec::new();
        for length in 1..=self.longest.min(words.len()) {
            for some in words.windows(length) {
                let said = some.join(" ");
                let singular = said.strip_suffix("ies").map(|stem| format!("{stem}y"));
                let forms = [said.strip_suffix('s').map(str::to_string), singular, Some(said.clone())];
                found.extend(forms.into_iter().flatten().filter(|form| self.attributes.contains(form)));
            }
        }
        found
    }
}

/// Names in a text: runs of capitalised words, joined by small words, with a year in parentheses where there is one.
pub fn names(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut run: Vec<String> = Vec::new();
    let mut pending: Vec<String> = Vec::new();
    let mut sentence_start = true;
    let mut flush = |run: &mut Vec<String>, pending: &mut Vec<String>, at_start: bool| {
        pending.clear();
        while run.first().is_some_and(|w| NOT_NAMES.contains(&w.to_lowercase().as_str())) && run.len() > 1 && at_start {
            run.remove(0);
        }
        // The first word of a sentence is capitalised whatever it is: alone it names nothing for certain.
        let is_plain = run.len() == 1 && (at_start || NOT_NAMES.contains(&run[0].to_lowercase().as_str()));
        if !run.is_empty() && !is_plain {
            found.push(run.join(" "));
        }
        run.clear();
    };
    let mut run_at_start = false;
    for raw in text.split_whitespace() {
        let word = raw.trim_matches(|c: char| !c.is_alphanumeric());
        let opens_year = raw.starts_with('(') && word.len() == 4 && word.bytes().all(|b| b.is_ascii_digit());
        let capital = word.chars().next().is_some_and(|c| c.is_uppercase());
        let ends = raw.ends_with(['.', '!', '?', ',', ';', ':', '"']);
        if opens_year {
            if !run.is_empty() {
                run.push(word.to_string());
            }
            flush(&mut run, &mut pending, run_at_start);
        } else if capital || (!run.is_empty() && word.chars().next().is_some_and(|c| c.is_ascii_digit())) {
            if run.is_empty() {
                run_at_start = sentence_start;
            }
            run.append(&mut pending);
            run.push(word.to_string());
        } else if !run.is_empty() && JOINS.contains(&word) {
            pending.push(word.to_string());
        } else {
            flush(&mut run, &mut pending, run_at_start);
        }
        if ends {
            flush(&mut run, &mut pending, run_at_start);
        }
        sentence_start = raw.ends_with(['.', '!', '?']);
    }
    flush(&mut run, &mut pending, run_at_start);
    found
}

/// A title without its year: "Heat (1995)" is "Heat".
fn without_year(title: &str) -> &str {
    let bare = title.trim_end();
    match bare.rsplit_once(" (") {
        Some((name, year)) if year.len() == 5 && year.ends_with(')') => name.trim_end(),
        _ => bare,
    }
}

/// Takes every occurrence of `title` out of `text`, where it stands as words of its own; returns whether there was one.
fn take_out(text: &mut String, title: &str) -> bool {
    let is_inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let (mut found, mut from) = (false, 0);
    while let Some(at) = text[from..].find(title).map(|at| at + from) {
        let end = at + title.len();
        if is_inside(text[..at].chars().next_back()) || is_inside(text[end..].chars().next()) {
            from = end;
            continue;
        }
        // A comma, so that the words on both sides do not become one name.
        text.replace_range(at..end, " , ");
        from = at + 3;
        found = true;
    }
    found
}

/// What names may be quoted as, with their year and without; the longest first: "Alien 3" is not "Alien" and a 3.
fn titles_of<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut titles: Vec<&str> = names.iter().flat_map(|e| [*e, without_year(e)]).filter(|e| !e.is_empty()).collect();
    titles.sort_by_key(|title| std::cmp::Reverse(title.len()));
    titles.dedup();
    titles
}

/// What a text mentions: how much of it the evidence holds, and what it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mentions {
    /// Mentions that the evidence holds.
    pub held: usize,
    /// The others, normalised.
    pub invented: Vec<String>,
}

impl Mentions {
    /// Share that the evidence holds; 1 where nothing is mentioned.
    pub fn grounding(&self) -> f64 {
        match self.held + self.invented.len() {
            0 => 1.0,
            total => self.held as f64 / total as f64,
        }
    }
}

/// The titles, names and attributes that `text` mentions, held against its evidence.
///
/// Titles of the evidence are found as they stand, with or without their year. What is left and looks like a name counts
/// as held when all of its words stand, in order, in one piece of the evidence. After Reason4Rec's and CURec's demand
/// that reasons be accurate; the measure itself is ours.
pub fn mentions(text: &str, evidence: &[&str], vocabulary: &Vocabulary) -> Mentions {
    let mut rest = text.to_string();
    let quoted = titles_of(evidence).into_iter().filter(|title| take_out(&mut rest, title)).count();
    let held: Vec<String> = evidence.iter().map(|e| format!(" {} ", normalise(e))).collect();
    let mut found: BTreeSet<String> = names(&rest).iter().map(|n| normalise(n)).filter(|n| !n.is_empty()).collect();
    // A word of a title, such as the drama of "Drama Queen", is no attribute: titles are gone by now.
    found.extend(vocabulary.mentioned(&rest));
    let (kept, invented): (Vec<String>, Vec<String>) =
        found.into_iter().partition(|name| held.iter().any(|e| e.contains(&format!(" {name} "))));
    Mentions { held: quoted + kept.len(), invented }
}

/// Share of the mentions of `text` that the evidence holds, 0 to 1; see [`mentions`].
pub fn grounding(text: &str, evidence: &[&str], vocabulary: &Vocabulary) -> f64 {
    mentions(text, evidence, vocabulary).grounding()
}

/// Whether the text says the opposite of the verdict, or praises what is disliked. `titles` are those that it may
/// quote: their words ("10 Things I Hate About You") say nothing.
pub fn contradicts(text: &str, verdict: &str, titles: &[&str], disliked: &[&str]) -> bool {
    let mut rest = text.to_string();
    titles.iter().filter(|t| !t.is_empty()).for_each(|title| {
        take_out(&mut rest, title);
    });
    let said = format!(" {} ", normalise(&rest));
    let says = |phrase: &str| !phrase.is_empty() && said.contains(&format!(" {phrase} "));
    let negative = NEGATIVE.iter().any(|n| says(&normalise(n)));
    let mut quoted = rest.clone();
    match verdict {
        "like" => negative || disliked.iter().any(|d| !d.is_empty() && take_out(&mut quoted, d)),
        "dislike" => !negative,
        _ => false,
    }
}

/// Share of the text's three-word sequences that stood earlier in it; 0 for shorter texts.
pub fn repetition(text: &str) -> f64 {
    let words = words(text);
    let total = words.len().saturating_sub(2);
    if total == 0 {
        return 0.0;
    }
    let distinct: HashSet<&[String]> = words.windows(3).collect();
    1.0 - distinct.len() as f64 / total as f64
}

/// A text without the names that it quotes: what is left is its own words. Titles are found as [`mentions`] finds them.
pub fn without_names(text: &str, names: &[&str]) -> String {
    let mut rest = text.to_string();
    for title in titles_of(names) {
        take_out(&mut rest, title);
    }
    rest
}

/// Share of the words that are common words of English.
pub fn english(text: &str) -> f64 {
    let words = words(text);
    if words.is_empty() {
        return 0.0;
    }
    words.iter().filter(|w| COMMON_ENGLISH.binary_search(&w.as_str()).is_ok()).count() as f64 / words.len() as f64
}

/// Whether the text ends like a sentence.
pub fn is_finished(text: &str) -> bool {
    text.trim_end().trim_end_matches(['"', '\'', ')', '”', '’']).ends_with(['.', '!', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVIDENCE: &[&str] = &["The Matrix (1999)", "Lord of the Rings (1978)", "Action", "Sci-Fi"];

    fn vocabulary() -> Vocabulary {
        Vocabulary::new(["Action", "Sci-Fi", "Comedy", "Drama"])
    }

    #[test]
    fn names_are_found() {
        let found = names("People like The Matrix (1999) and Lord of the Rings, which Tom Hanks made. It is great.");
        assert_eq!(found, ["The Matrix 1999", "Lord of the Rings", "Tom Hanks"].map(String::from).to_vec());
    }

    #[test]
    fn grounding_is_the_share_that_the_evidence_holds() {
        let v = vocabulary();
        assert_eq!(grounding("they enjoy action and sci-fi.", EVIDENCE, &v), 1.0);
        assert_eq!(grounding("they enjoy action and comedies.", EVIDENCE, &v), 0.5);
        assert_eq!(grounding("they enjoy Lord of the Rings.", EVIDENCE, &v), 1.0);
        assert_eq!(grounding("they enjoy Titanic.", EVIDENCE, &v), 0.0);
        assert_eq!(mentions("they enjoy action, comedies and Titanic.", EVIDENCE, &v).invented, ["comedy", "titanic"]);
        assert_eq!(grounding("nothing is named here", EVIDENCE, &v), 1.0);
        assert_eq!(
            grounding("Many people do not like it. Some do.", EVIDENCE, &v),
            1.0,
            "sentences begin with capitals"
        );
        assert_eq!(grounding("They like it. Die Hard is better.", EVIDENCE, &v), 0.0);
        assert_eq!(grounding("Number 3 comes next. Offered number 4, they pass.", EVIDENCE, &v), 1.0);
    }

    #[test]
    fn titles_that_were_not_shown_are_foreign() {
        let v = Vocabulary::new(["Drama"]).with_titles([
            "Alien (1979)",
            "Alien 3 (1992)",
            "It (1990)",
            "Game, The (1997)",
            "Drama",
            "Schindler's List (1993)",
        ]);
        let shown = "The user likes Alien 3 (1992).";
        let foreign = |text: &str| v.foreign_titles(text, shown);
        assert!(foreign("They like Alien 3 (1992) and drama. It is the game. Drama").is_empty());
        assert_eq!(foreign("They like Schindler's List and Game, The (1997)."), ["schindlers list", "game the"]);
        assert_eq!(v.foreign_titles("They like Alien.", "They like Aliens."), ["alien"]);
        assert!(foreign("They like Alien.").is_empty(), "its words stand there");
        assert!(!Vocabulary::new(["Drama"]).knows_titles() && v.knows_titles());
    }

    #[test]
    fn polarity() {
        assert!(contradicts("The user is not a fan of it", "like", &[], &[]));
        assert!(!contradicts("they love its wit", "like", &[], &["Cats"]));
        assert!(contradicts("they love Cats", "like", &[], &["Cats"]));
        assert!(!contradicts("they love Catskills, whatever it is", "like", &[], &["Cats", "It"]));
        assert!(contradicts("they love it", "dislike", &[], &[]));
        let title = "10 Things I Hate About You";
        assert!(!contradicts("they love 10 Things I Hate About You and more", "like", &[title], &[]));
    }

    #[test]
    fn titles_without_a_year_are_told_apart() {
        let evidence = ["Pet Sounds", "Madman Across the Water", "Romeo and Juliet", "Rock"];
        let v = Vocabulary::new(["Rock", "Jazz"]);
        let text = "The user likes Pet Sounds and Madman Across the Water because these are rock.";
        assert_eq!(grounding(text, &evidence, &v), 1.0);
        assert_eq!(grounding("It goes with Romeo and Juliet.", &evidence, &v), 1.0);
        assert_eq!(grounding("It goes with Pet Sounds and Abbey Road.", &evidence, &v), 0.5);
        assert_eq!(grounding("Pet Sounds is jazz.", &evidence, &v), 0.5);
    }

    #[test]
    fn loops_are_repetition() {
        assert_eq!(repetition("one two three four"), 0.0);
        assert!(repetition("a b c a b c a b c a b c") > 0.6);
        assert_eq!(repetition("short"), 0.0);
    }

    #[test]
    fn english_is_told_from_code() {
        assert!(english("they like it because of the story and the music") > 0.5);
        assert!(english("fn main let mut vec println") < 0.1);
        assert!(COMMON_ENGLISH.is_sorted(), "binary search needs it");
        let quoted = ["La Vie en Rose (2007)", "Amores Perros (2000)"];
        let text = "They like La Vie en Rose (2007) and Amores Perros too.";
        assert!(english(text) < english(&without_names(text, &quoted)), "names are of any language");
        assert_eq!(words(&without_names(text, &quoted)), ["they", "like", "and", "too"]);
    }

    #[test]
    fn sentences_end() {
        assert!(is_finished("Yes.") && is_finished("he said \"yes.\"") && !is_finished("and then the"));
    }
}
