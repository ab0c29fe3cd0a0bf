//! What a text names: titles, names and attributes, found in it and held against what it may name.
//!
//! Pure functions over text, and the words of a catalogue. Knows nothing of verdicts, thresholds or of what else is asked of a
//! reason.

use std::collections::{BTreeMap, HashSet};

use crate::reward::language::{COMMON_ENGLISH, Language, SENTENCE_ENDS, normalise, raw_words};

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

/// Whether it is a letter that has a case, or a digit: words of such scripts stand apart, and nothing is attached to names.
fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || c.is_numeric()
}

/// The attributes (genres, categories) that a catalogue uses, so that a mention of one can be told from plain words.
#[derive(Debug, Default, Clone)]
pub struct Vocabulary {
    attributes: HashSet<String>,
    longest: usize,
    /// Titles without punctuation and year, and the words of the longest.
    titles: HashSet<String>,
    longest_title: usize,
    language: Language,
}

impl Vocabulary {
    /// From the catalogue's attribute values; texts are English unless [`Vocabulary::in_language`] says otherwise.
    pub fn new<'a>(attributes: impl IntoIterator<Item = &'a str>) -> Self {
        // One- and two-letter values match everywhere and say nothing; nor does one character of a script without spaces.
        let attributes: HashSet<String> =
            attributes.into_iter().map(normalise).filter(|a| a.chars().count() > 2).collect();
        Vocabulary::of_compared(attributes)
    }

    /// From attributes as [`Vocabulary::compared`] gives them.
    pub fn of_compared(attributes: impl IntoIterator<Item = String>) -> Self {
        let attributes: HashSet<String> = attributes.into_iter().collect();
        let longest = attributes.iter().map(|a| a.split(' ').count()).max().unwrap_or(0);
        Vocabulary { attributes, longest, ..Vocabulary::default() }
    }

    /// The attributes as they are compared, sorted.
    pub fn compared(&self) -> Vec<String> {
        let mut attributes: Vec<String> = self.attributes.iter().cloned().collect();
        attributes.sort_unstable();
        attributes
    }

    /// For texts of the language of a tag, see [`Language::of`].
    #[must_use]
    pub fn in_language(mut self, tag: &str) -> Self {
        self.language = Language::of(tag);
        self
    }

    /// The language of the texts.
    pub fn language(&self) -> Language {
        self.language
    }

    /// With the catalogue's titles. One that is a single common word of English, or an attribute, tells nothing and is left
    /// out.
    #[must_use]
    pub fn with_titles<'a>(mut self, titles: impl IntoIterator<Item = &'a str>) -> Self {
        let says_something = |title: &String| {
            let is_word = COMMON_ENGLISH.binary_search(&title.as_str()).is_ok() || NOT_NAMES.contains(&title.as_str());
            title.chars().count() > 2 && !is_word && !self.attributes.contains(title)
        };
        let titles: HashSet<String> =
            titles.into_iter().map(|title| normalise(without_year(title))).filter(says_something).collect();
        self.longest_title = titles.iter().map(|title| title.split(' ').count()).max().unwrap_or(0);
        self.titles = titles;
        self
    }

    /// Tells whether two vocabularies of one language hold the same: blake3 over attributes and titles; 32 hex digits.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for texts in [&self.attributes, &self.titles] {
            let mut texts: Vec<&String> = texts.iter().collect();
            texts.sort_unstable();
            // Lengths stand before what they count, so that no two lists give the same bytes.
            hasher.update(&(texts.len() as u64).to_le_bytes());
            for text in texts {
                hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            }
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// Whether titles are known.
    pub fn knows_titles(&self) -> bool {
        !self.titles.is_empty()
    }

    /// Titles of the catalogue that `text` names and `shown` does not hold, normalised. The longest title that begins at a
    /// word counts, and is a name only where its first and its last word begin with a capital letter or a digit ("the game" is
    /// none) or, in scripts without capitals, where it is long enough.
    pub fn foreign_titles(&self, text: &str, shown: &str) -> Vec<String> {
        let shown = format!(" {} ", normalise(shown));
        let words: Vec<(String, bool)> = raw_words(text)
            .into_iter()
            .map(|raw| {
                let begins_like_a_name = raw.chars().next().is_some_and(|c| !c.is_lowercase());
                (raw.to_lowercase().replace('\'', ""), begins_like_a_name)
            })
            .collect();
        let (mut found, mut from) = (Vec::new(), 0);
        while from < words.len() {
            let longest = (1..=self.longest_title.min(words.len() - from)).rev().find_map(|n| {
                let run = &words[from..from + n];
                let title = run.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join(" ");
                let is_name = run[0].1 && run[n - 1].1 && is_telling(&title);
                (is_name && self.titles.contains(&title)).then_some((title, n))
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
fn names(text: &str) -> Vec<String> {
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
        let ends =
            raw.ends_with([',', ';', ':', '"', '،', '؛', '；', '：', '，', '、']) || raw.ends_with(SENTENCE_ENDS);
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
        sentence_start = raw.ends_with(SENTENCE_ENDS);
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

/// Texts in quotation marks of all kinds, those within others alone.
pub(super) fn quoted(text: &str) -> Vec<&str> {
    let closing = |c: char| -> &'static [char] {
        match c {
            '"' => &['"'],
            '＂' => &['＂'],
            '“' => &['”'],
            '„' => &['“', '”'],
            '”' => &['”'],
            '‘' => &['’'],
            '‚' => &['‘', '’'],
            '«' => &['»'],
            '»' => &['«', '»'],
            '‹' => &['›'],
            '›' => &['‹', '›'],
            '《' => &['》'],
            '〈' => &['〉'],
            '「' => &['」'],
            '『' => &['』'],
            '｢' => &['｣'],
            '〝' => &['〞', '〟'],
            _ => &[],
        }
    };
    let mut found = Vec::new();
    // Where each began, what ends it, and whether another stands in it.
    let mut open: Vec<(usize, &[char], bool)> = Vec::new();
    for (at, c) in text.char_indices() {
        let next = at + c.len_utf8();
        // An apostrophe.
        if c == '’' && text[next..].starts_with(char::is_alphanumeric) {
            continue;
        }
        if let Some(level) = open.iter().rposition(|(_, ends, _)| ends.contains(&c)) {
            let (from, _, has_inner) = open[level];
            open.truncate(level);
            if !has_inner {
                found.push(&text[from..at]);
            }
        } else if !closing(c).is_empty() {
            open.iter_mut().for_each(|(_, _, has_inner)| *has_inner = true);
            open.push((next, closing(c), false));
        }
    }
    found
}

/// Whether a title can be told from plain words: it has capitals or digits to be known by, or letters enough.
pub(super) fn is_telling(title: &str) -> bool {
    title.chars().any(is_cased) || title.chars().filter(|c| c.is_alphanumeric()).count() >= 4
}

/// Takes every occurrence of `title` out of `text`, where it stands as words of its own; returns whether there was one. In
/// scripts without capitals words stand without spaces or carry particles: there it is found within others.
pub(super) fn take_out(text: &mut String, title: &str) -> bool {
    let [first, last] = [title.chars().next(), title.chars().next_back()].map(|c| c.is_some_and(is_cased));
    let is_inside = |edge: bool, c: Option<char>| edge && c.is_some_and(is_cased);
    let (mut found, mut from) = (false, 0);
    while let Some(at) = text[from..].find(title).map(|at| at + from) {
        let end = at + title.len();
        if is_inside(first, text[..at].chars().next_back()) || is_inside(last, text[end..].chars().next()) {
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

/// A text whose owners and parts of words stand alone: "the President's comedy-drama" is "the President comedy drama".
fn without_owners(text: &str) -> String {
    let bare = |word: &'_ str| -> String {
        let word = word.trim_end_matches(|c: char| !c.is_alphanumeric());
        word.strip_suffix("'s").or(word.strip_suffix("’s")).unwrap_or(word).to_owned()
    };
    text.split(|c: char| c.is_whitespace() || c == '-').map(bare).collect::<Vec<_>>().join(" ")
}

/// The words of a text as they are written, owners and parts of words alone, with single spaces.
fn in_words(text: &str) -> String {
    raw_words(&without_owners(text)).join(" ")
}

/// Whether a name of `text` is made of names that the evidence has as they are written: "Thanksgiving in Baltimore",
/// "Argentina's First Lady". The first word of a text has a capital letter whatever it is, so it may stand before a name where
/// a small word parts them ("Fans of Tolkien") or the evidence has it ("Laid-off Sheffield workers").
fn parts(name: &str, text: &str, as_written: &[String]) -> bool {
    let has = |part: &str| as_written.iter().any(|told| told.contains(&format!(" {part} ")));
    let (mut all, mut part) = (Vec::new(), Vec::new());
    for word in name.split_whitespace() {
        let owner = word.strip_suffix("'s").or(word.strip_suffix("’s"));
        if !JOINS.contains(&word) {
            part.push(in_words(word));
        }
        if JOINS.contains(&word) || owner.is_some() {
            all.push(std::mem::take(&mut part).join(" "));
        }
    }
    all.push(part.join(" "));
    all.retain(|part| !part.is_empty());
    let stands_alone = all.len() > 1;
    if text.trim_start().starts_with(name)
        && let Some(first) = all.first_mut()
    {
        let word = in_words(name.split_whitespace().next().unwrap_or_default());
        if (stands_alone && *first == word) || has(&word) || has(&word.to_lowercase()) {
            *first = first.strip_prefix(&word).unwrap_or(first).trim_start().to_owned();
        }
    }
    all.retain(|part| !part.is_empty());
    !all.is_empty() && all.iter().all(|part| has(part))
}

/// The titles, names and attributes that `text` mentions, held against its evidence.
///
/// Titles of the evidence are found as they stand, with or without their year. What is left and looks like a name (by its
/// capital letters where the language of the vocabulary gives them to names alone, by quotation marks in all but English)
/// counts as held when all of its words stand, in order, in one piece of the evidence. An attribute may be named in the plural.
/// After Reason4Rec's and CURec's demand that reasons be accurate; the measure itself is ours.
pub fn mentions(text: &str, evidence: &[&str], vocabulary: &Vocabulary) -> Mentions {
    mentions_beside(text, evidence, &[], vocabulary)
}

/// As [`mentions`]; `texts` are sentences and keywords of the evidence, which may name what the text names, and are no names
/// themselves. Beside them a name may be put together of others that the evidence has as they are written.
pub fn mentions_beside(text: &str, evidence: &[&str], texts: &[&str], vocabulary: &Vocabulary) -> Mentions {
    let mut rest = text.to_string();
    let named = titles_of(evidence).into_iter().filter(|title| take_out(&mut rest, title)).count();
    let held: Vec<String> = evidence
        .iter()
        .chain(texts)
        .flat_map(|e| [normalise(e), normalise(&without_owners(e))])
        .map(|e| format!(" {e} "))
        .collect();
    let mut looks_like_names = if vocabulary.language.names_have_capitals { names(&rest) } else { Vec::new() };
    if !vocabulary.language.is_english() {
        // In lower case it is a word that is stressed.
        let is_title = |text: &&str| text.chars().find(|c| c.is_alphanumeric()).is_some_and(|c| !c.is_lowercase());
        looks_like_names.extend(quoted(&rest).into_iter().filter(is_title).map(str::to_owned));
    }
    // Sentences name people, and a reason says whose work it is.
    let bare = |name: &str| if texts.is_empty() { normalise(name) } else { normalise(&without_owners(name)) };
    let is_in = |name: &str| held.iter().any(|e| e.contains(&format!(" {name} ")));
    let plurals = |name: &str| {
        let of_ies = name.strip_suffix("ies").map(|stem| format!("{stem}y"));
        let to_ies = name.strip_suffix('y').map(|stem| format!("{stem}ies"));
        // "News" is no plural of "new".
        let singular = name.strip_suffix('s').filter(|stem| stem.len() > 3).map(str::to_owned);
        [Some(format!("{name}s")), to_ies, of_ies, singular]
    };
    let as_written: Vec<String> = texts.iter().chain(evidence).map(|text| format!(" {} ", in_words(text))).collect();
    // Where a name is put together of what sentences name, each part must stand there as it is written.
    let is_of_parts = |name: &String| !texts.is_empty() && parts(name, &rest, &as_written);
    let mut looks_like_names: Vec<(String, bool)> =
        looks_like_names.into_iter().map(|name| (bare(&name), is_in(&bare(&name)) || is_of_parts(&name))).collect();
    looks_like_names.retain(|(name, _)| !name.is_empty());
    // A word of a title, such as the drama of "Drama Queen", is no attribute: titles are gone by now.
    let attributes = vocabulary.mentioned(&rest).into_iter().map(|name| {
        let is_held = is_in(&name) || plurals(&name).into_iter().flatten().any(|form| is_in(&form));
        (name, is_held)
    });
    let mut found: BTreeMap<String, bool> = attributes.collect();
    looks_like_names.into_iter().for_each(|(name, is_held)| *found.entry(name).or_default() |= is_held);
    let kept = found.values().filter(|is_held| **is_held).count();
    let invented = found.into_iter().filter(|(_, is_held)| !is_held).map(|(name, _)| name).collect();
    Mentions { held: named + kept, invented }
}

/// A text without the names that it quotes: what is left is its own words. Titles are found as [`mentions`] finds them.
pub fn without_names(text: &str, names: &[&str]) -> String {
    let mut rest = text.to_string();
    for title in titles_of(names) {
        take_out(&mut rest, title);
    }
    rest
}

/// An attribute that is told by a label, without it: `Director: Michael Mann` names Michael Mann.
pub fn labelled(attribute: &str) -> Option<&str> {
    let (label, value) = attribute.split_once([':', '：'])?;
    let value = value.trim();
    (!label.trim().is_empty() && !value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests;
