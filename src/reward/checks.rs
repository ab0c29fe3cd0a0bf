//! Checks of a reason's text against its evidence: grounding, polarity, concreteness, copying, repetition, length, language.
//!
//! Pure functions over text; they are the first version of a reward, before a model learns one. What differs from language
//! to language stands in [`Language`], what a text names in [`Vocabulary`]. Knows nothing of tables, models or thresholds.

use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

use unicode_segmentation::UnicodeSegmentation;

use crate::plain_text::lines::is_unspaced;
use crate::plain_text::words::content_words;
use crate::reward::language::{
    CLOSING, EMPTY_PAIRS, EMPTY_WORDS, Language, NEGATIVE, SENTENCE_ENDS, UNIMPRESSED, normalise, words,
};
use crate::reward::names::{Vocabulary, is_telling, mentions, quoted, take_out, without_names};

/// Share of the mentions of `text` that the evidence holds, 0 to 1; see [`mentions`].
pub fn grounding(text: &str, evidence: &[&str], vocabulary: &Vocabulary) -> f64 {
    mentions(text, evidence, vocabulary).grounding()
}

/// Whether the text says the opposite of the verdict, or praises what is disliked. `titles` are those that it may
/// quote: their words ("10 Things I Hate About You") say nothing. A text that argues for a dislike says that somebody does not
/// like it, or names what only the `faults` name, the sentences of those who do not. `praised` are the other sentences. What denies is known of English alone; of
/// other languages only disliked titles tell.
pub fn contradicts(
    text: &str,
    verdict: &str,
    titles: &[&str],
    disliked: &[&str],
    faults: &[&str],
    praised: &[&str],
    language: Language,
) -> bool {
    let mut rest = text.to_string();
    titles.iter().filter(|t| !t.is_empty()).for_each(|title| {
        take_out(&mut rest, title);
    });
    let said = format!(" {} ", normalise(&rest));
    let says = |phrase: &str| !phrase.is_empty() && said.contains(&format!(" {phrase} "));
    let negative = language.is_english() && NEGATIVE.iter().any(|n| says(&normalise(n)));
    let praises = |title: &str| match is_telling(title) {
        true => take_out(&mut rest.clone(), title),
        // "Hero", in Chinese, is a word that every second reason has.
        false => quoted(&rest).contains(&title),
    };
    match verdict {
        "like" => negative || disliked.iter().any(|d| !d.is_empty() && praises(d)),
        "dislike" => {
            let others: Vec<&str> = titles.iter().chain(praised).copied().collect();
            let is_told = || UNIMPRESSED.iter().any(|phrase| says(phrase)) || concrete(text, faults, &others).0 > 0;
            language.is_english() && !negative && !is_told()
        }
        _ => false,
    }
}

/// Whether words of its script are compared as pairs of characters: they stand without spaces, or carry particles.
fn is_paired(c: char) -> bool {
    is_unspaced(c) || matches!(c, '\u{1100}'..='\u{11ff}' | '\u{ac00}'..='\u{d7ff}')
}

/// Words of a text that say something: no stop words, none that fits anything, no numbers, plurals as singulars. In scripts
/// without spaces, and in Korean, each pair of characters is one.
fn telling_words(text: &str) -> BTreeSet<String> {
    static EMPTY: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let folded = content_words(EMPTY_WORDS);
        folded.into_iter().chain(EMPTY_WORDS.split_whitespace().map(str::to_owned)).collect()
    });
    let says_something = |word: &String| {
        word.chars().count() > 1
            && word.chars().any(char::is_alphabetic)
            && !word.contains(is_paired)
            && !EMPTY.contains(word)
    };
    let mut found: BTreeSet<String> = content_words(text).into_iter().filter(says_something).collect();
    found.extend(pairs(text).into_iter().filter(|pair| !EMPTY_PAIRS.contains(&pair.as_str())));
    found
}

/// Every two characters in a row of scripts whose words are compared so.
fn pairs(text: &str) -> Vec<String> {
    let (mut found, mut before) = (Vec::new(), "");
    for cluster in text.graphemes(true) {
        let is_part = cluster.starts_with(is_paired);
        if is_part && !before.is_empty() {
            found.push(format!("{before}{cluster}"));
        }
        before = if is_part { cluster } else { "" };
    }
    found
}

/// The telling words that a text has in common with `texts`, and how many there were to choose from; without words of `names`.
fn shared(text: &str, texts: &[&str], names: &[&str]) -> (BTreeSet<String>, usize) {
    let named: BTreeSet<String> = names.iter().flat_map(|name| telling_words(name)).collect();
    let mut there: BTreeSet<String> = texts.iter().flat_map(|text| telling_words(text)).collect();
    there.retain(|word| !named.contains(word));
    (telling_words(text).intersection(&there).cloned().collect(), there.len())
}

/// How many telling words a text has in common with the sentences and keywords of its evidence, and how many there were to
/// choose from. Words of `names` (titles, attributes) do not count.
pub fn concrete(text: &str, texts: &[&str], names: &[&str]) -> (usize, usize) {
    let (shared, there) = shared(text, texts, names);
    (shared.len(), there)
}

/// So many different concrete words are enough: of the reasons in `jobs/written/`, more than nine in ten have as many.
pub const CONCRETE_ENOUGH: usize = 6;

/// How concrete a text is, 0 to 1: how many different telling words it shares with the sentences and keywords of its evidence
/// (see [`concrete`]), of [`CONCRETE_ENOUGH`]; more count nothing. In prose other words join them. Where more than two words in
/// three are telling ones, as in a list, it is less by as much as words to join them are missing: nothing for a bare list.
pub fn concreteness(text: &str, texts: &[&str], names: &[&str]) -> f64 {
    let (shared, _) = shared(text, texts, names);
    if shared.is_empty() {
        return 0.0;
    }
    let pairs = pairs(text);
    let words: Vec<String> = words(text).into_iter().filter(|word| !word.contains(is_paired)).collect();
    let telling = pairs.iter().filter(|pair| shared.contains(*pair)).count()
        + words.iter().filter(|word| !telling_words(word).is_disjoint(&shared)).count();
    let others = pairs.len() + words.len() - telling;
    let said = shared.len().min(CONCRETE_ENOUGH) as f64 / CONCRETE_ENOUGH as f64;
    said * (2.0 * others as f64 / telling.max(1) as f64).min(1.0)
}

/// Whether more than `most` words in a row are those of one of `sentences`, words of `names` left out. Where most words of
/// the text are characters of a script without spaces, two count as one.
pub fn copies(text: &str, sentences: &[&str], names: &[&str], most: usize) -> bool {
    let own = |text: &str| words(&without_names(&text.replace('’', "'"), names));
    let said = own(text);
    let characters = said.iter().filter(|word| word.starts_with(is_unspaced)).count();
    let run = if 2 * characters > said.len() { 2 * most } else { most } + 1;
    let runs: HashSet<&[String]> = said.windows(run).collect();
    !runs.is_empty() && sentences.iter().any(|sentence| own(sentence).windows(run).any(|run| runs.contains(run)))
}

/// Share of the text's three-word sequences that stood earlier in it; 0 for shorter texts. Where most words are characters
/// of a script without spaces, of its sequences of five: three words have about as many.
pub fn repetition(text: &str) -> f64 {
    let words = words(text);
    let characters = words.iter().filter(|word| word.starts_with(is_unspaced)).count();
    let length = if 2 * characters > words.len() { 5 } else { 3 };
    let total = words.len().saturating_sub(length - 1);
    if total == 0 {
        return 0.0;
    }
    let distinct: HashSet<&[String]> = words.windows(length).collect();
    1.0 - distinct.len() as f64 / total as f64
}

/// Whether the text ends like a sentence, in any script: with a mark that ends one, and what closes after it.
pub fn is_finished(text: &str) -> bool {
    let is_invisible = |c: char| {
        c.is_whitespace()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.trim_end_matches(|c| is_invisible(c) || CLOSING.contains(&c)).ends_with(SENTENCE_ENDS)
}

#[cfg(test)]
mod tests;
