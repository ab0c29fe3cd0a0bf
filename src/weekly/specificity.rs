//! How specific a reason is: whether its words stand in the evidence of its own question and in few others'.
//!
//! A reason is worth teaching for what it says of this question. A word counts its *rarity*, ln(questions / questions whose
//! evidence holds it), if the question's own evidence holds it: a word that stands in every question's evidence counts
//! nothing, one that the evidence does not hold nothing either. The sum is divided by the square root of the number of words,
//! so that neither a bare list of names nor a long sentence around one of them is best. A reason that repeats a long run of
//! words of an evidence text is no reason but a copy ([`copies`]).
//!
//! Pure functions over text; knows nothing of teachers, tables or models.

use std::collections::{HashMap, HashSet};

use crate::plain_text::words::content_words;
use crate::reward::language;

/// So many words in a row may stand in a reason as they stand in an evidence text.
pub const COPIED: usize = 8;

/// How rare words are among the evidence of questions.
#[derive(Debug, Clone, Default)]
pub struct Rarity {
    questions: usize,
    /// In how many questions' evidence a word stands.
    holding: HashMap<String, usize>,
}

impl Rarity {
    /// From the evidence texts of every question.
    pub fn of<'a>(evidence: impl IntoIterator<Item = &'a [String]>) -> Rarity {
        let mut rarity = Rarity::default();
        for texts in evidence {
            rarity.questions += 1;
            for word in words_of(texts) {
                *rarity.holding.entry(word).or_default() += 1;
            }
        }
        rarity
    }

    /// ln(questions / questions whose evidence holds the word), in nats; 0 for a word that all hold, or none.
    pub fn of_word(&self, word: &str) -> f64 {
        self.holding.get(word).map_or(0.0, |holding| (self.questions as f64 / *holding as f64).ln())
    }
}

fn words_of(texts: &[String]) -> HashSet<String> {
    texts.iter().flat_map(|text| content_words(text)).collect()
}

/// The sum of the rarities of the reason's content words that its own evidence holds, each counted once, over the square root
/// of the number of the reason's words; 0 for a reason without words. Higher is more specific; there is no upper bound.
pub fn specificity(reason: &str, evidence: &[String], rarity: &Rarity) -> f64 {
    let length = language::words(reason).len();
    if length == 0 {
        return 0.0;
    }
    let held = words_of(evidence);
    // In the order of the reason: a sum of floats depends on it.
    let told: f64 =
        content_words(reason).iter().filter(|word| held.contains(*word)).map(|word| rarity.of_word(word)).sum();
    told / (length as f64).sqrt()
}

/// Whether more than `most` words in a row stand in the reason as in one of the texts, whatever their case and punctuation.
pub fn copies(reason: &str, texts: &[String], most: usize) -> bool {
    let run = most.saturating_add(1);
    let said = language::words(reason);
    if said.len() < run {
        return false;
    }
    texts.iter().any(|text| {
        let words = language::words(text);
        let runs: HashSet<&[String]> = words.windows(run).collect();
        said.windows(run).any(|words| runs.contains(words))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn words_of_this_question_and_of_few_others_count() {
        let evidence = [
            texts(&["Heat", "heists and trains", "Drama"]),
            texts(&["Alien", "Drama"]),
            texts(&["Up", "balloons", "Drama"]),
            texts(&["Ran", "balloons", "Drama"]),
        ];
        let rarity = Rarity::of(evidence.iter().map(Vec::as_slice));
        assert_eq!((rarity.of_word("drama"), rarity.of_word("nowhere")), (0.0, 0.0));
        assert_eq!((rarity.of_word("heist"), rarity.of_word("balloon")), (4_f64.ln(), 2_f64.ln()));
        let of = |reason: &str, question: usize| specificity(reason, &evidence[question], &rarity);
        // Five words, of which one is rare; the plural is the singular.
        assert!((of("A drama about a heist.", 0) - 4_f64.ln() / 5_f64.sqrt()).abs() < 1e-12);
        // Another question's words, and words of nobody, tell nothing of this one.
        assert_eq!((of("A drama about a heist.", 1), of("It is great fun.", 0)), (0.0, 0.0));
        // A word counts once; more words around it cost.
        assert!(of("Heist, heist, heist.", 0) < of("Heist.", 0));
        assert!(of("It has a heist, which many people who watch films like.", 0) < of("It has a heist.", 0));
        assert!(of("A heist on trains.", 0) > of("A heist.", 0), "two rare words tell more than one");
        assert!(of("It has balloons.", 2) < of("It has trains.", 0), "two questions have balloons");
        assert_eq!((of("", 0), specificity("Heat", &[], &rarity)), (0.0, 0.0));
        assert_eq!(specificity("Heat", &evidence[0], &Rarity::default()), 0.0);
    }

    #[test]
    fn long_runs_of_words_are_copies() {
        let evidence = texts(&["Short.", "One two three four, five six seven eight nine ten."]);
        let copied = |reason: &str| copies(reason, &evidence, COPIED);
        assert!(!copied("So: one two three four five six seven eight, and so on."));
        assert!(copied("So: ONE two three four five six seven eight nine!"));
        assert!(copied("two three four five six seven eight nine ten"));
        assert!(!copied("one two three four and five six seven eight nine"), "a run is of one piece");
        assert!(!copied("") && !copies("one two", &[], 1) && copies("one two", &evidence, 1));
        assert!(!copies("one two", &evidence, usize::MAX));
    }
}
