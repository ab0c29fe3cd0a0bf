//! Words of plain text that say something.
//!
//! Knows text only.

use unicode_segmentation::UnicodeSegmentation;

/// Words that every English sentence may have, sorted.
const STOP_WORDS: &[&str] = &[
    "a", "about", "after", "all", "also", "an", "and", "any", "are", "as", "at", "be", "because", "been", "but", "by",
    "can", "do", "does", "for", "from", "had", "has", "have", "he", "her", "his", "how", "i", "if", "in", "into", "is",
    "it", "its", "like", "more", "most", "much", "no", "not", "of", "on", "one", "or", "other", "our", "out", "she",
    "so", "some", "such", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those",
    "to", "too", "up", "very", "was", "we", "were", "what", "when", "which", "while", "who", "why", "will", "with",
    "would", "you", "your",
];

/// The distinct words of a text that are no stop words of English: lower case, a plural as its singular, in the order in
/// which they first stand.
pub fn content_words(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for word in text.unicode_words() {
        let word = singular(&word.to_lowercase());
        if STOP_WORDS.binary_search(&word.as_str()).is_err() && !found.contains(&word) {
            found.push(word);
        }
    }
    found
}

fn singular(word: &str) -> String {
    match word.strip_suffix("ies") {
        Some(begin) if begin.len() > 1 => format!("{begin}y"),
        _ if word.len() > 3 && word.ends_with('s') && !word.ends_with("ss") => word[..word.len() - 1].to_owned(),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_are_folded_and_stop_words_left_out() {
        assert!(STOP_WORDS.is_sorted(), "binary search needs it");
        assert_eq!(content_words("The heists and a Heist of the Cities"), ["heist", "city"]);
    }
}
