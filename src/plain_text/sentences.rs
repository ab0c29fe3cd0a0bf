//! What a person wrote, such as a review or a description, cut into sentences.
//!
//! Abbreviations and ends of sentences are those of English, with the commonest of German, French and Spanish. Pure functions
//! of the text: knows nothing of tables, prompts or models.

use std::collections::HashSet;

use unicode_segmentation::UnicodeSegmentation;

use crate::plain_text::lines::{beginning, is_unspaced, plain_lines};
use crate::plain_text::words::STARTERS;

/// No more sentences come from one text.
const MAX_SENTENCES: usize = 200;
/// A sentence that is cut at a clause keeps at least as many words.
const MIN_CLAUSE_WORDS: usize = 5;

/// Titles before a name: with a capital letter they never end a sentence.
const TITLES: &[&str] = &[
    "mr", "mrs", "ms", "mx", "dr", "prof", "rev", "hon", "gen", "col", "capt", "cpt", "lt", "sgt", "maj", "gov", "sen",
    "messrs", "mme", "mlle", "hr", "fr", "sra", "dra",
];
/// Abbreviations that never end a sentence.
const NEVER_LAST: &[&str] = &[
    "vs", "eg", "ie", "e.g", "i.e", "cf", "a.k.a", "aka", "approx", "feat", "z.b", "d.h", "u.a", "bzw", "ca", "evtl",
    "ggf", "inkl", "sog", "aprox", "bspw", "ehem", "geb", "gest", "hrsg", "insb", "m.e", "o.g", "u.u", "v.a", "vgl",
    "zzgl",
];
/// Abbreviations that end no sentence before a number.
const BEFORE_NUMBERS: &[&str] = &[
    "no", "nos", "nr", "vol", "vols", "fig", "figs", "ch", "chap", "pt", "pts", "p", "pp", "pg", "sec", "ep", "art",
    "op", "ver", "bd", "kap", "abs", "nº", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct",
    "okt", "nov", "dec", "dez",
];
/// Abbreviations that end a sentence where a new one seems to begin.
const PERHAPS_LAST: &[&str] = &[
    "inc", "ltd", "co", "corp", "bros", "jr", "sr", "esq", "st", "mt", "ft", "dept", "est", "ave", "blvd", "rd",
    "univ", "assn", "rep", "pres",
];
/// Abbreviations that end a sentence only before a capital letter.
const SHORTENED: &[&str] =
    &["etc", "min", "max", "hrs", "sec", "lbs", "incl", "usw", "std", "mio", "mrd", "env", "tel"];
/// Words of two letters that people end sentences with, without a capital letter after it.
const SHORT_ENDS: &[&str] = &["it", "me", "us", "so", "up", "on", "do", "go", "to", "in", "tv", "ok", "cd", "of", "is"];
/// Words before a German ordinal ("am 3. Oktober", "die 2. Staffel").
const BEFORE_ORDINALS: &[&str] = &[
    "ab", "am", "beim", "bis", "das", "dem", "den", "der", "des", "die", "ein", "eine", "einem", "einen", "einer",
    "im", "ins", "seit", "vom", "zum", "zur",
];
/// Words before a letter that is no initial.
const BEFORE_LETTERS: &[&str] = &["class", "grade", "hepatitis", "option", "part", "plan", "side", "type", "vitamin"];
/// Words of German after an ordinal: months, and what is counted.
const AFTER_ORDINALS: &[&str] = &[
    "januar",
    "februar",
    "märz",
    "april",
    "mai",
    "juni",
    "juli",
    "august",
    "september",
    "oktober",
    "november",
    "dezember",
    "auflage",
    "band",
    "folge",
    "geburtstag",
    "jahrhundert",
    "jahrhunderts",
    "kapitel",
    "klasse",
    "staffel",
    "stock",
    "teil",
    "weltkrieg",
    "weltkriegs",
];
/// Words that begin a clause.
const CONJUNCTIONS: &[&str] = &["and", "but", "und", "aber", "et", "mais", "y", "pero"];
/// What may stand between the mark that ends a sentence and the end.
const CLOSING: &[char] = &['"', '\'', ')', ']', '”', '’', '“', '»', '」', '』', '）'];

/// Quotation marks that open, each with those that may close it; the first of these closes nothing else.
const QUOTES: &[(char, &[char])] = &[
    ('“', &['”']),
    ('„', &['“', '”']),
    ('«', &['»']),
    ('»', &['«']),
    ('「', &['」']),
    ('『', &['』']),
    ('《', &['》']),
];

/// What a person wrote, as sentences of at most `max_words` words, in order, each once.
///
/// HTML, the marks of Markdown and lists, links, e-mail addresses, control characters and invisible ones are left out, and
/// white space is one space; the end of a line or of an item of a list ends a sentence too. A longer sentence ends at its
/// last clause that leaves five words or more, else after `max_words` words with `…`; in scripts without spaces two
/// characters count as a word. Pieces without a letter are left out. Of a text no more than its first 20,000 characters are
/// read, and no more than 200 sentences come from it; with `max_words` 0 there are none.
pub fn split_sentences(text: &str, max_words: usize) -> Vec<String> {
    let (head, is_cut) = beginning(text);
    let lines = plain_lines(head);
    let mut sentences: Vec<&str> = lines.iter().flat_map(|line| sentences_of(line)).filter_map(tidy).collect();
    // Its end was not read.
    if is_cut && sentences.len() > 1 {
        sentences.pop();
    }
    let mut seen = HashSet::new();
    sentences
        .into_iter()
        .filter_map(|sentence| shorten(sentence, max_words))
        .filter(|sentence| seen.insert(sentence.clone()))
        .take(MAX_SENTENCES)
        .collect()
}

/// The sentences of a line, by Unicode's boundaries and without their usual faults.
fn sentences_of(line: &str) -> Vec<&str> {
    let mut ends: Vec<usize> = line.split_sentence_bound_indices().map(|(at, sentence)| at + sentence.len()).collect();
    // Unicode ends no sentence before a small letter, at an ellipsis, or where the space was forgotten.
    for (at, mark) in line.match_indices(['.', '…']) {
        let end = at + mark.len();
        match line[end..].chars().next() {
            Some(' ') => ends.push(end + 1),
            Some(c) if mark == "." && c.is_uppercase() => ends.push(end),
            _ => {}
        }
    }
    ends.sort_unstable();
    ends.dedup();
    let (mut found, mut from) = (Vec::new(), 0);
    for end in ends {
        if is_sentence_end(&line[from..end], &line[end..]) {
            found.push(&line[from..end]);
            from = end;
        }
    }
    found
}

/// Whether a sentence ends between what stands before, from its begin, and what stands after.
fn is_sentence_end(before: &str, after: &str) -> bool {
    let Some((at, first)) = after.char_indices().take(40).find(|(_, c)| c.is_alphanumeric()) else { return true };
    let whole = before.trim_end();
    let bare = whole.trim_end_matches(CLOSING);
    let is_closed = bare.len() < whole.len();
    let (head, last) = bare.rsplit_once(' ').unwrap_or(("", bare));
    // Characters of scripts without spaces are no part of the word: else a sentence of thirty of them would have no end.
    let last = match last.char_indices().rev().take(80).find(|(_, c)| is_unspaced(*c)) {
        Some((at, c)) => &last[at + c.len_utf8()..],
        None => last,
    };
    let last = last.trim_start_matches(|c: char| !c.is_alphanumeric());
    // No word.
    if last.len() > 80 {
        return whole.len() < before.len();
    }
    match bare.chars().next_back() {
        Some('…') => is_unspaced(first) || (!first.is_lowercase() && before.split_whitespace().take(3).count() == 3),
        Some('!' | '?') if first.is_lowercase() => {
            // "Jeopardy! is", "'Why?' he asked".
            let name = last.trim_end_matches(['!', '?']);
            let is_name = name.starts_with(char::is_uppercase) && name.chars().skip(1).any(char::is_lowercase);
            !is_closed && !is_name
        }
        Some('.') => {
            let is_attached = whole.len() == before.len() && at == 0;
            is_full_stop(head, last.trim_end_matches('.'), &after[at..], is_attached, is_closed)
        }
        _ => true,
    }
}

/// Whether the dot after `word` ends the sentence. `head` is the sentence before the word, `next` what stands after it from
/// the first letter or digit on; `is_attached` without a space, `is_closed` with a closing mark between.
fn is_full_stop(head: &str, word: &str, next: &str, is_attached: bool, is_closed: bool) -> bool {
    let next_word = next.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let next_lower = next_word.to_lowercase();
    let starts = STARTERS.contains(next_lower.as_str());
    let [is_capital, is_small, is_number] =
        [char::is_uppercase, char::is_lowercase, char::is_numeric].map(|is| next.starts_with(is));
    let lower = word.to_lowercase();
    let is = |list: &[&str]| list.contains(&lower.as_str());
    let is_letter = |word: &str| word.chars().count() == 1 && word.chars().all(char::is_alphabetic);
    if is_attached && is_capital {
        // "movie.The"
        return is_word(word) && !is(TITLES) && starts;
    }
    if word.is_empty() {
        return !is_small;
    }
    if is(NEVER_LAST) || (is(TITLES) && word.starts_with(char::is_uppercase)) {
        return false;
    }
    let is_roman = next_word.len() > 1 && next_word.bytes().all(|b| b"IVXL".contains(&b));
    if is(BEFORE_NUMBERS) && (is_number || is_roman) {
        return false;
    }
    let before = head.rsplit(' ').next().unwrap_or_default().to_lowercase();
    if word.bytes().all(|b| b.is_ascii_digit()) {
        let is_ordinal = AFTER_ORDINALS.contains(&next_lower.as_str()) || BEFORE_ORDINALS.contains(&before.as_str());
        let is_day = is_ordinal && word.len() < 3;
        return !is_small && !is_day;
    }
    // "10/10. would buy again"
    let is_score = word.contains('/') && word.bytes().all(|b| b.is_ascii_digit() || b == b'/');
    if is_score {
        return true;
    }
    if is_small || is_number {
        let is_short = is(PERHAPS_LAST) || is(BEFORE_NUMBERS) || is(SHORTENED) || is(TITLES);
        return !is_closed && is_word(word) && !(is_short && is_small);
    }
    let is_part = |part: &str| matches!(part.chars().count(), 1 | 2) && part.chars().all(char::is_alphabetic);
    if is(PERHAPS_LAST) || (word.contains('.') && word.split('.').all(is_part)) {
        return starts || !is_capital;
    }
    if is_letter(word) && word != "I" {
        // "J. K. Rowling", "z. B.", "u. a. Krimis", but "vitamin C".
        let is_initial = word.starts_with(char::is_uppercase) && !BEFORE_LETTERS.contains(&before.as_str());
        let goes_on = is_letter(next_word) && next[next_word.len()..].starts_with('.');
        let is_second = before.strip_suffix('.').is_some_and(is_letter);
        return !(goes_on || ((is_initial || is_second) && is_capital && !starts));
    }
    true
}

/// Whether it is a word that is written out, not shortened.
fn is_word(word: &str) -> bool {
    let letters = word.chars().count();
    let is_short_end = || SHORT_ENDS.contains(&word.to_lowercase().as_str());
    let has_length = letters >= if word.is_ascii() { 3 } else { 5 };
    let has_letters = word.chars().all(|c| c.is_alphabetic() || matches!(c, '\'' | '’' | '-' | '/'));
    has_letters && (has_length || is_short_end())
}

/// A sentence without what is left of lists and marks at its ends; `None` without a letter.
fn tidy(sentence: &str) -> Option<&str> {
    let is_left = |c: char| c.is_whitespace() || ",;:.!?-–—)]}*|>=、，。；：！？".contains(c);
    let is_right = |c: char| c.is_whitespace() || ",;:-–—([{=<*|/\\、，；：".contains(c);
    let mut sentence = sentence.trim_start_matches(is_left).trim_end_matches(is_right);
    // Of a quotation of several sentences.
    if sentence.matches('"').count() == 1 {
        let inner = sentence.trim_matches('"');
        sentence = if inner.len() < sentence.len() { inner.trim() } else { sentence };
    }
    for (opens, closes) in QUOTES {
        if let Some(inner) = sentence.strip_prefix(*opens).filter(|inner| !inner.contains(*closes)) {
            sentence = inner.trim_start();
        } else if let Some(inner) = sentence.strip_suffix(closes[0]).filter(|_| is_unopened(sentence, closes[0])) {
            sentence = inner.trim_end();
        }
    }
    sentence.contains(char::is_alphabetic).then_some(sentence)
}

/// Whether nothing in a sentence opens the quotation that its last mark closes.
fn is_unopened(sentence: &str, mark: char) -> bool {
    let before = sentence.strip_suffix(mark).unwrap_or(sentence);
    let mut of_mark = QUOTES.iter().filter(|(_, closes)| closes.contains(&mark));
    !before.contains(mark) && !of_mark.any(|(opens, _)| before.contains(*opens))
}

/// A sentence of at most `max_words` words; `None` where nothing is left.
fn shorten(sentence: &str, max_words: usize) -> Option<String> {
    let ends = word_ends(sentence);
    let limit = max_words.saturating_mul(2);
    if ends.last().is_some_and(|(_, halves)| *halves <= limit) {
        return Some(sentence.to_owned());
    }
    let (end, _) = *ends.iter().take_while(|(_, halves)| *halves <= limit).last()?;
    let enough = ends.iter().find(|(_, halves)| *halves >= 2 * MIN_CLAUSE_WORDS).map(|(at, _)| *at);
    let clause = enough.filter(|enough| *enough <= end).and_then(|enough| {
        let marks = sentence[enough..].char_indices().map(|(at, c)| (at + enough, c)).take_while(|(at, _)| *at <= end);
        marks.filter(|(at, c)| is_clause_mark(&sentence[*at..], *c)).last()
    });
    if let Some(clause) = clause.and_then(|(at, _)| tidy(&sentence[..at])) {
        return Some(clause.to_owned());
    }
    Some(format!("{}…", &sentence[..end]))
}

/// Whether a clause ends before `rest`, which begins with `c`.
fn is_clause_mark(rest: &str, c: char) -> bool {
    let after = &rest[c.len_utf8()..];
    match c {
        ',' | ';' => after.starts_with(' '),
        '，' | '；' | '、' | '،' | '؛' => true,
        '—' | '–' => !after.starts_with(|c: char| c.is_ascii_digit()),
        ' ' => {
            let word = after.split(' ').next().unwrap_or_default();
            word == "-" || word == "--" || CONJUNCTIONS.contains(&word)
        }
        _ => false,
    }
}

/// Where each word ends, and how many halves of words stand up to there: a character of a script without spaces is half a
/// word.
fn word_ends(text: &str) -> Vec<(usize, usize)> {
    let (mut ends, mut halves, mut open) = (Vec::new(), 0, None);
    for (at, cluster) in text.grapheme_indices(true) {
        let c = cluster.chars().next().unwrap_or(' ');
        let (is_half, is_letter) = (is_unspaced(c), c.is_alphanumeric());
        let is_apart = c.is_whitespace() || (!c.is_ascii() && !is_letter && c != '’');
        if (is_half || is_apart)
            && let Some(end) = open.take()
        {
            halves += 2;
            ends.push((end, halves));
        }
        if is_half {
            halves += 1;
            ends.push((at + cluster.len(), halves));
        } else if is_letter {
            open = Some(at + cluster.len());
        }
    }
    if let Some(end) = open {
        ends.push((end, halves + 2));
    }
    ends
}

#[cfg(test)]
mod tests;
