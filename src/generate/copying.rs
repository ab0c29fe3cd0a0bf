//! Which tokens would go on copying the prompt: what keeps an answer's own words its own.
//!
//! Knows the token ids and texts of one row. Knows nothing of models, batches or what the words say.

use crate::error::Result;

/// The words of a prompt, by tokens.
///
/// After HuggingFace's `encoder_no_repeat_ngram_size`, counted in words instead of tokens: a word that was begun may be ended, and
/// words with a capital letter or a digit are not counted, so that a long title may be named. Words are told by the space before
/// them, so scripts without spaces are not held to it. A copy that is spelt in other tokens is not seen; the checks see it.
#[derive(Debug)]
pub(super) struct Copying {
    /// Whether each token begins a word.
    begins: Vec<bool>,
    /// Whether that word counts.
    counts: Vec<bool>,
    most: usize,
}

impl Copying {
    /// Holds nothing back.
    pub(super) fn none(prompt: &[u32]) -> Copying {
        Copying { begins: vec![false; prompt.len()], counts: vec![false; prompt.len()], most: usize::MAX }
    }

    /// For answers that may repeat at most `most` words of the prompt in a row. `text` is what tokens say.
    ///
    /// # Errors
    /// Those of `text`.
    pub(super) fn of(prompt: &[u32], most: usize, text: impl Fn(&[u32]) -> Result<String>) -> Result<Copying> {
        let (mut begins, mut counts) = (Vec::with_capacity(prompt.len()), Vec::with_capacity(prompt.len()));
        for (at, &token) in prompt.iter().enumerate() {
            // Beside the token before it: some tokenizers drop the space at the beginning of a text.
            let before = at.checked_sub(1).map(|before| prompt[before]);
            let both = text(&before.into_iter().chain([token]).collect::<Vec<u32>>())?;
            let one = before.map(|before| text(&[before])).transpose()?.unwrap_or_default();
            let own = both.get(one.len()..).unwrap_or_default();
            let word = own.trim_start();
            begins.push(at == 0 || own.starts_with(char::is_whitespace));
            counts.push(word.chars().next().is_some_and(|c| c.is_alphabetic() && !c.is_uppercase()));
        }
        Ok(Copying { begins, counts, most })
    }

    /// Tokens that would make one word too many.
    pub(super) fn held_back(&self, prompt: &[u32], generated: &[u32]) -> Vec<u32> {
        let is_too_long = |end: usize| {
            let same = (0..end).rev().zip(generated.iter().rev()).take_while(|(at, said)| prompt[*at] == **said);
            same.filter(|(at, _)| self.begins[*at] && self.counts[*at]).nth(self.most.saturating_sub(1)).is_some()
        };
        let Some(last) = generated.last() else { return Vec::new() };
        let may_go_on = |at: &usize| self.begins[*at] && self.counts[*at] && prompt[*at - 1] == *last;
        (1..prompt.len()).filter(may_go_on).filter(|at| is_too_long(*at)).map(|at| prompt[at]).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What tokens say that are words; those with an underscore go on with the word before them.
    fn said(words: &[&str], ids: &[u32]) -> String {
        let all =
            ids.iter().map(|&id| words[id as usize]).fold(String::new(), |text, word| match word.strip_prefix('_') {
                Some(rest) => text + rest,
                None => text + " " + word,
            });
        // As tokenizers do that mark the beginnings of words.
        all.trim_start().to_owned()
    }

    fn held_back(text: &'static str, prompt: usize, most: usize) -> Vec<&'static str> {
        let mut words: Vec<&str> = Vec::new();
        let ids: Vec<u32> = text
            .split(' ')
            .map(|word| {
                let at = words.iter().position(|known| *known == word).unwrap_or_else(|| {
                    words.push(word);
                    words.len() - 1
                });
                at as u32
            })
            .collect();
        let copying = Copying::of(&ids[..prompt], most, |ids| Ok(said(&words, ids))).unwrap();
        copying.held_back(&ids[..prompt], &ids[prompt..]).iter().map(|id| words[*id as usize]).collect()
    }

    #[test]
    fn the_word_that_is_one_too_many_is_held_back() {
        // The prompt has seven tokens.
        assert_eq!(held_back("a quiet keeper tends the old light | a quiet keeper", 7, 3), ["tends"]);
        assert!(held_back("a quiet keeper tends the old light | a quiet", 7, 3).is_empty());
        assert!(held_back("a quiet keeper tends the old light a dull keeper", 7, 3).is_empty());
        assert!(held_back("a quiet keeper tends the old light", 7, 3).is_empty(), "nothing is said yet");
    }

    #[test]
    fn a_word_that_was_begun_is_ended() {
        assert!(held_back("a quiet keep _er tends it | a quiet keep", 6, 2).is_empty());
        assert_eq!(held_back("a quiet keep _er tends it | a quiet keep _er", 6, 3), ["tends"]);
    }

    #[test]
    fn titles_may_be_named_whole() {
        let title = "like The Lord of the Rings by Tolkien | The Lord of the";
        assert!(held_back(title, 8, 3).is_empty(), "of and the are two, and no capital is held back");
        assert_eq!(held_back("she and Tolkien tend lights | she and Tolkien", 5, 2), ["tend"]);
    }

    #[test]
    fn every_place_of_the_prompt_counts() {
        let mut held = held_back("so we go up so we go down | so we go", 8, 3);
        held.sort_unstable();
        assert_eq!(held, ["down", "up"]);
    }
}
