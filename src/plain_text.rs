//! Words of plain text.
//!
//! Knows text only; nothing of tables, models or thresholds.

use unicode_segmentation::UnicodeSegmentation;

/// Words that say nothing by themselves.
const STOP_WORDS: &[&str] = &[
    "a", "about", "after", "all", "also", "an", "and", "are", "as", "at", "be", "because", "been", "but", "by", "can",
    "did", "do", "does", "for", "from", "had", "has", "have", "he", "her", "his", "how", "i", "if", "in", "into", "is",
    "it", "its", "more", "most", "no", "not", "of", "on", "one", "or", "other", "our", "she", "so", "some", "such",
    "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "to", "too", "up", "us",
    "very", "was", "we", "were", "what", "when", "which", "while", "who", "why", "will", "with", "would", "you",
    "your",
];

/// The different content words of a text in the order in which they first stand there: lower case, stop words left out, the
/// plural folded into the singular.
pub fn content_words(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for word in text.unicode_words() {
        let word = word.to_lowercase().replace('\u{2019}', "'");
        let word = word.strip_suffix("'s").unwrap_or(&word);
        if STOP_WORDS.binary_search(&word).is_ok() {
            continue;
        }
        let is_plural = word.chars().count() > 3 && word.ends_with('s') && !word.ends_with("ss");
        let word = if is_plural { &word[..word.len() - 1] } else { word };
        if seen.insert(word.to_owned()) {
            found.push(word.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_words_are_told_once_and_in_the_singular() {
        assert_eq!(content_words("The trains, a train's glass: and IT glows"), ["train", "glass", "glow"]);
        assert!(STOP_WORDS.is_sorted() && content_words("").is_empty());
    }
}
