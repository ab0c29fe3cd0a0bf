//! Words of plain text that say something.
//!
//! Knows text only.

use unicode_segmentation::UnicodeSegmentation;

/// Words that every English sentence may have, sorted.
const STOP_WORDS: &[&str] = &[
    "a", "about", "after", "all", "also", "an", "and", "any", "are", "as", "at", "be", "because", "been", "before",
    "but", "by", "can", "did", "do", "does", "even", "for", "from", "had", "has", "have", "he", "her", "him", "his",
    "how", "i", "if", "in", "into", "is", "it", "its", "just", "many", "me", "more", "most", "much", "my", "no", "not",
    "of", "on", "one", "only", "or", "other", "our", "out", "over", "own", "she", "so", "some", "such", "than", "that",
    "the", "their", "them", "then", "there", "these", "they", "this", "those", "through", "to", "too", "under", "up",
    "very", "was", "we", "were", "what", "when", "where", "which", "while", "who", "why", "will", "with", "would",
    "you", "your",
];

/// The distinct words of a text that are no stop words of English: lower case, a plural as its singular, in the order in
/// which they first stand.
pub fn content_words(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for word in text.unicode_words() {
        let lower = word.to_lowercase().replace('\u{2019}', "'");
        let bare = lower.strip_suffix("'s").unwrap_or(&lower);
        if STOP_WORDS.binary_search(&bare).is_ok() {
            continue;
        }
        let word = singular(bare);
        if !found.contains(&word) {
            found.push(word);
        }
    }
    found
}

fn singular(word: &str) -> String {
    if word.len() > 4 && word.ends_with("ies") {
        return format!("{}y", &word[..word.len() - 3]);
    }
    let is_plural = word.len() > 3 && word.ends_with('s') && !["ss", "us", "is"].iter().any(|end| word.ends_with(end));
    if !is_plural {
        return word.to_owned();
    }
    let ends_in_es = ["sses", "shes", "ches", "xes", "zes"].iter().any(|end| word.ends_with(end));
    word[..word.len() - if ends_in_es { 2 } else { 1 }].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_and_stop_words_are_folded() {
        assert_eq!(content_words("The heists and a Heist, of the city's Cities"), ["heist", "city"]);
        assert!(STOP_WORDS.is_sorted(), "binary search needs it");
    }
}
