//! What generated text is worth beside a reference, and how generic it is.
//!
//! Knows text only. Grounding in evidence is in `reward::checks`.
//!
//! BLEU, distinct-n and USR work on tokens as the caller cut them ([`tokens`]: at white space, as PETER's tokenised
//! output); ROUGE-L cuts its text itself, as the package rouge-score does. A hypothesis has one reference, but in
//! [`bleu_of_many`], where it has several.

use std::collections::{HashMap, HashSet};

/// The tokens of a text: cut at white space, nothing else changed.
pub fn tokens(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// Corpus BLEU in points, 0 to 100, of n-grams up to `order` (1 for BLEU-1, 4 for BLEU-4).
///
/// Papineni et al. 2002 as in PETER's `bleu.py`: n-gram counts clipped by the one reference and pooled over the corpus,
/// no smoothing (an order without any match makes it 0), brevity penalty `exp(1 - reference length / hypothesis
/// length)` for a corpus that is shorter than its references. PETER cuts both texts at its maximal length first; that
/// is the caller's choice.
pub fn bleu<T: AsRef<str>>(pairs: &[(Vec<T>, Vec<T>)], order: usize) -> f64 {
    pooled(pairs.iter().map(|(hypothesis, reference)| (hypothesis, std::slice::from_ref(reference))), order)
}

/// The same where hypotheses have several references, as Papineni et al. 2002 have it: an n-gram counts at most as often
/// as in the reference that has most of it, and the reference whose length is nearest (of two the shorter) is the one
/// that the brevity penalty looks at. More references, more points: comparable only over the same references. A
/// hypothesis without references does not count.
pub fn bleu_of_many<T: AsRef<str>>(pairs: &[(Vec<T>, Vec<Vec<T>>)], order: usize) -> f64 {
    pooled(pairs.iter().map(|(hypothesis, references)| (hypothesis, references.as_slice())), order)
}

fn pooled<'a, T: AsRef<str> + 'a>(pairs: impl Iterator<Item = (&'a Vec<T>, &'a [Vec<T>])>, order: usize) -> f64 {
    let (mut matches, mut totals) = (vec![0_usize; order], vec![0_usize; order]);
    let (mut hypothesis_length, mut reference_length) = (0_usize, 0_usize);
    for (hypothesis, references) in pairs {
        let nearest = |length: &usize| (length.abs_diff(hypothesis.len()), *length);
        let Some(length) = references.iter().map(Vec::len).min_by_key(nearest) else { continue };
        hypothesis_length += hypothesis.len();
        reference_length += length;
        for n in 1..=order {
            let mut in_reference: HashMap<Vec<&str>, usize> = HashMap::new();
            for (gram, count) in references.iter().flat_map(|reference| counts(reference, n)) {
                let most = in_reference.entry(gram).or_default();
                *most = count.max(*most);
            }
            for (gram, count) in counts(hypothesis, n) {
                matches[n - 1] += count.min(in_reference.get(&gram).copied().unwrap_or(0));
                totals[n - 1] += count;
            }
        }
    }
    if order == 0 || matches.contains(&0) {
        return 0.0;
    }
    let logs = matches.iter().zip(&totals).map(|(m, t)| (*m as f64 / *t as f64).ln());
    let precision = (logs.sum::<f64>() / order as f64).exp();
    let penalty = (1.0 - reference_length as f64 / hypothesis_length as f64).min(0.0).exp();
    100.0 * precision * penalty
}

/// How often every n-gram stands in a text.
fn counts<T: AsRef<str>>(tokens: &[T], n: usize) -> HashMap<Vec<&str>, usize> {
    let mut counts = HashMap::new();
    for gram in tokens.windows(n) {
        *counts.entry(gram.iter().map(AsRef::as_ref).collect()).or_default() += 1;
    }
    counts
}

/// Sentence-level ROUGE-L, F1 (equal weight to precision and recall), 0 to 1, as rouge-score's `rougeL` without
/// stemming: texts become runs of `a-z0-9` of the lower-cased text, and the longest common subsequence is measured. 0
/// where one side is empty.
pub fn rouge_l(hypothesis: &str, reference: &str) -> f64 {
    let (hypothesis, reference) = (hypothesis.to_lowercase(), reference.to_lowercase());
    let (a, b) = (plain_words(&hypothesis), plain_words(&reference));
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let common = longest_common(&a, &b) as f64;
    let (precision, recall) = (common / a.len() as f64, common / b.len() as f64);
    if common == 0.0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) }
}

fn plain_words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect()
}

/// Length of the longest common subsequence.
fn longest_common(a: &[&str], b: &[&str]) -> usize {
    let mut row = vec![0_usize; b.len() + 1];
    for x in a {
        let mut corner = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { corner + 1 } else { above.max(row[j]) };
            corner = above;
        }
    }
    row[b.len()]
}

/// The sentences of a text: cut after `.`, `!` and `?` before white space, and at line breaks; trimmed, none empty. An
/// abbreviation ends a sentence, too.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in text.lines() {
        let (mut from, mut ended) = (0, false);
        for (at, c) in line.char_indices() {
            if ended && c.is_whitespace() {
                found.push(&line[from..at]);
                from = at;
            }
            ended = matches!(c, '.' | '!' | '?') || (ended && matches!(c, '"' | '\'' | ')'));
        }
        found.push(&line[from..]);
    }
    found.into_iter().map(str::trim).filter(|s| !s.is_empty()).collect()
}

/// Share of the corpus's n-grams that are distinct (Li et al. 2016); 0 where there is none. `n` is at least 1.
pub fn distinct<T: AsRef<str>>(texts: &[Vec<T>], n: usize) -> f64 {
    let n = n.max(1);
    let grams = || texts.iter().flat_map(|text| text.windows(n));
    let distinct: HashSet<Vec<&str>> = grams().map(|gram| gram.iter().map(AsRef::as_ref).collect()).collect();
    distinct.len() as f64 / grams().count().max(1) as f64
}

/// Unique sentence ratio (PETER's USR): share of the texts that are distinct; 0 without texts.
pub fn unique_sentences<T: AsRef<str>>(texts: &[Vec<T>]) -> f64 {
    let distinct: HashSet<Vec<&str>> = texts.iter().map(|t| t.iter().map(AsRef::as_ref).collect()).collect();
    distinct.len() as f64 / texts.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::Value;

    fn near(ours: f64, theirs: &Value) {
        let theirs = theirs.as_f64().unwrap();
        assert!((ours - theirs).abs() < 1e-6, "{ours} is not {theirs}");
    }

    #[test]
    fn texts_are_worth_what_nltk_sacrebleu_and_rouge_score_say() {
        let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/metrics/expected.json")).unwrap();
        let (texts, expected) = (&all["text"]["pairs"], &all["text"]["expected"]);
        let texts: Vec<(String, String)> = serde_json::from_value(texts.clone()).unwrap();
        let pairs: Vec<_> = texts.iter().map(|(h, r)| (tokens(h), tokens(r))).collect();
        let chosen: Vec<usize> = serde_json::from_value(expected["nltk"]["pairs"].clone()).unwrap();
        let chosen: Vec<_> = chosen.into_iter().map(|i| pairs[i].clone()).collect();
        for order in [1, 2, 4] {
            near(bleu(&pairs, order), &expected["sacrebleu"][format!("bleu_{order}")]);
            near(bleu(&chosen, order), &expected["nltk"][format!("bleu_{order}")]);
        }
        near(bleu(&pairs[1..2], 4), &expected["sacrebleu"]["bleu_4_of_pair_1"]);
        near(bleu(&pairs[..1], 4), &expected["sacrebleu"]["bleu_4_of_pair_0"]);
        for ((hypothesis, reference), theirs) in texts.iter().zip(expected["rouge_score"].as_array().unwrap()) {
            near(rouge_l(hypothesis, reference), theirs);
        }
        let hypotheses: Vec<_> = pairs.into_iter().map(|(h, _)| h).collect();
        for n in [1, 2, 3] {
            near(distinct(&hypotheses, n), &expected["definition"][format!("distinct_{n}")]);
        }
        near(unique_sentences(&hypotheses), &expected["definition"]["usr"]);
    }

    #[test]
    fn one_of_many_references_is_as_good_as_the_only_one() {
        let case = |references: &[&'static str]| {
            vec![(tokens("the cat sat on the mat"), references.iter().map(|r| tokens(r)).collect::<Vec<_>>())]
        };
        assert!((bleu_of_many(&case(&["the cat sat on the mat"]), 4) - 100.0).abs() < 1e-9);
        assert!((bleu_of_many(&case(&["no", "the cat sat on the mat", "a dog"]), 4) - 100.0).abs() < 1e-9);
        let one = [(tokens("the cat sat on the mat"), tokens("a cat sat on the mat today"))];
        let same = bleu_of_many(&case(&["a cat sat on the mat today"]), 4);
        assert!((bleu(&one, 4) - same).abs() < 1e-12 && same < 100.0);
        // Both halves of the text are found, each in a reference of its own; "the" stands at most once in each.
        assert!((bleu_of_many(&case(&["the cat sat", "on a mat"]), 1) - 100.0 * 5.0 / 6.0).abs() < 1e-9);
        // The nearest length counts: five and seven are as near, and the shorter costs nothing.
        assert!((bleu_of_many(&case(&["the cat sat on mat the mat", "the cat sat on mat"]), 1) - 100.0).abs() < 1e-9);
        assert_eq!(bleu_of_many(&case(&[]), 4), 0.0);
    }

    #[test]
    fn sentences_end_where_they_end() {
        let text = "One. Two!  \"Three?\" Four 4.5 is\nfive\n\n";
        assert_eq!(sentences(text), ["One.", "Two!", "\"Three?\"", "Four 4.5 is", "five"]);
        assert!(sentences(" \n ").is_empty());
    }

    #[test]
    fn nothing_is_worth_nothing() {
        let none: [(Vec<&str>, Vec<&str>); 0] = [];
        assert_eq!(bleu(&none, 4), 0.0);
        assert_eq!(bleu(&[(tokens(""), tokens("a b"))], 1), 0.0);
        assert_eq!(rouge_l("", "a"), 0.0);
        assert_eq!((distinct::<&str>(&[], 2), unique_sentences::<&str>(&[])), (0.0, 0.0));
    }
}
