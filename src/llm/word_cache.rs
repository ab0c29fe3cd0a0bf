//! Token ids of the words of a text, kept from one text to the next: the prompts of a night are made of a few thousand words.
//!
//! Knows where a text may be cut so that its pieces have the ids of the whole. Knows nothing of vocabularies.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::Result;

/// Words that are kept: some 10 MB.
const MOST: usize = 1 << 16;
/// Bytes of a word that is kept. What is longer hardly comes again.
const LONGEST: usize = 64;

/// The ids of each word.
type Ids = HashMap<Box<str>, Box<[u32]>>;

/// The ids of words; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct WordCache {
    known: Arc<RwLock<Ids>>,
}

impl WordCache {
    /// Appends the ids of `text`; `encode` appends those of a word that is not known yet.
    ///
    /// # Errors
    /// Those of `encode`.
    pub(super) fn encode(
        &self,
        text: &str,
        ids: &mut Vec<u32>,
        encode: impl Fn(&str, &mut Vec<u32>) -> Result<()>,
    ) -> Result<()> {
        let mut new: Vec<(&str, Box<[u32]>)> = Vec::new();
        {
            // Entries are whole even if a thread panicked while it held the lock.
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let has_room = known.len() < MOST;
            for word in words(text) {
                if let Some(found) = known.get(word) {
                    ids.extend_from_slice(found);
                    continue;
                }
                let from = ids.len();
                encode(word, ids)?;
                if has_room && word.len() <= LONGEST {
                    new.push((word, Box::from(&ids[from..])));
                }
            }
        }
        if !new.is_empty() {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            let room = MOST.saturating_sub(known.len());
            known.extend(new.into_iter().take(room).map(|(word, found)| (Box::from(word), found)));
        }
        Ok(())
    }
}

/// A text cut where any byte-level tokenizer cuts it: before a space between two printable ASCII characters, and behind a line end
/// between two. No pattern of words has a space or a line end inside a word, none looks back, and what stands before such a cut
/// is as far from the end of its word with the rest of the text as without it. No normal form of Unicode joins characters across it.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let bytes = rest.as_bytes();
        let is_cut = |at: &usize| match bytes[*at] {
            b' ' => bytes[at - 1].is_ascii_graphic() && bytes.get(at + 1).is_some_and(u8::is_ascii_graphic),
            here => here.is_ascii_graphic() && bytes[at - 1] == b'\n' && *at > 1 && bytes[at - 2].is_ascii_graphic(),
        };
        let end = (1..bytes.len()).find(is_cut).unwrap_or(bytes.len());
        let (word, behind) = rest.split_at(end);
        rest = behind;
        (!word.is_empty()).then_some(word)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_text_is_cut_between_printable_characters_alone() {
        let cut = |text| words(text).collect::<Vec<_>>();
        assert_eq!(cut("Item: Heat (1995)\nCategories: a"), ["Item:", " Heat", " (1995)\n", "Categories:", " a"]);
        for whole in ["", " ", "a", "a  b", "a \nb", "\n\nb", "a\n\nb", "é b", "a é", "a\u{301} b", "a\tb", " a", "a "]
        {
            assert_eq!(cut(whole).concat(), whole);
            assert!(cut(whole).len() <= 1, "{whole:?}");
        }
    }

    #[test]
    fn a_word_is_encoded_once_and_a_long_one_again() {
        let cache = WordCache::default();
        let asked = std::sync::Mutex::new(Vec::new());
        let encode = |word: &str, ids: &mut Vec<u32>| {
            asked.lock().unwrap().push(word.to_owned());
            ids.push(word.len() as u32);
            Ok(())
        };
        let long = "x".repeat(LONGEST + 1);
        for _ in 0..2 {
            let mut ids = vec![7];
            cache.clone().encode(&format!("ab c ab\n{long}"), &mut ids, encode).unwrap();
            assert_eq!(ids, [7, 2, 2, 4, LONGEST as u32 + 1]);
        }
        assert_eq!(asked.into_inner().unwrap(), ["ab", " c", " ab\n", long.as_str(), long.as_str()]);
    }

    #[test]
    fn no_more_words_are_kept_than_there_is_room_for() {
        let cache = WordCache::default();
        let encode = |word: &str, ids: &mut Vec<u32>| {
            ids.push(word.len() as u32);
            Ok(())
        };
        let many: String = (0..MOST + 9).map(|n| format!("{n} ")).collect();
        for _ in 0..2 {
            let mut ids = Vec::new();
            cache.encode(&many, &mut ids, encode).unwrap();
            assert_eq!((ids.len(), cache.known.read().unwrap().len()), (MOST + 9, MOST));
        }
    }
}
