//! Examples become batches: token ids one after the other, and which positions predict what.
//!
//! Knows token ids and lengths; knows nothing of texts, tensors or losses. The order depends on the seed, the epoch and the
//! examples alone.

use std::ops::Range;

use crate::error::{Error, Kind, Result};
use crate::network::random::Random;

/// A prompt and the answer to be learned. The answer ends with the token that ends a turn.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Example {
    /// Read, not learned.
    pub prompt: Vec<u32>,
    /// Every token of it is a target.
    pub answer: Vec<u32>,
    /// What each target counts; one for all where there are none.
    pub weights: Vec<f32>,
}

impl Example {
    /// Tokens that pass through the model: all but the last, which is only predicted.
    pub fn tokens(&self) -> usize {
        (self.prompt.len() + self.answer.len()).saturating_sub(1)
    }

    /// What its targets count together.
    pub fn weight(&self) -> f64 {
        match self.weights.is_empty() {
            true => self.answer.len() as f64,
            false => self.weights.iter().map(|w| f64::from(*w)).sum(),
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::new(Kind::Input, what).hint("mend the query that makes the examples"));
        if self.prompt.is_empty() || self.answer.is_empty() {
            return wrong("an example has an empty prompt or an empty answer");
        }
        if !self.weights.is_empty() && self.weights.len() != self.answer.len() {
            return wrong("an example has not one weight for every token of its answer");
        }
        match self.weights.iter().all(|w| w.is_finite()) {
            true => Ok(()),
            false => wrong("an example has a weight that is no number"),
        }
    }
}

/// Several sequences that pass through the model together and do not see each other.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Inputs of all sequences, one sequence after the other.
    pub tokens: Vec<u32>,
    /// How many inputs each sequence has.
    pub lengths: Vec<usize>,
    /// Positions in `tokens` that predict a target, ascending.
    pub rows: Vec<u32>,
    /// The tokens that they should predict.
    pub targets: Vec<u32>,
    /// What each target counts.
    pub weights: Vec<f32>,
    /// Each sequence's targets.
    pub spans: Vec<Range<usize>>,
}

impl Batch {
    /// The examples as one batch, in order.
    ///
    /// # Errors
    /// `Kind::Input` for an example without prompt or answer, or with other weights than targets.
    pub fn new<'a>(examples: impl IntoIterator<Item = &'a Example>) -> Result<Batch> {
        let mut batch = Batch::default();
        for example in examples {
            example.check()?;
            let (first, from) = (batch.tokens.len(), batch.targets.len());
            batch.tokens.extend(example.prompt.iter().chain(&example.answer).take(example.tokens()));
            batch.lengths.push(example.tokens());
            let asked = first + example.prompt.len() - 1;
            batch.rows.extend((asked..asked + example.answer.len()).map(|row| row as u32));
            batch.targets.extend(&example.answer);
            match example.weights.is_empty() {
                true => batch.weights.extend(example.answer.iter().map(|_| 1.0)),
                false => batch.weights.extend(&example.weights),
            }
            batch.spans.push(from..batch.targets.len());
        }
        Ok(batch)
    }

    /// What all targets count together.
    pub fn weight(&self) -> f64 {
        self.weights.iter().map(|w| f64::from(*w)).sum()
    }
}

/// How examples are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Most tokens of a step.
    pub step: usize,
    /// Most tokens that pass through the model at a time; at least one example.
    pub batch: usize,
}

/// The batches whose gradients are added up for one step, as places of examples.
pub type Step = Vec<Vec<usize>>;

/// An epoch's steps. Every example stands in one of them; within a step the long ones come first, so that a batch's
/// sequences are of about the same length.
pub fn steps(examples: &[Example], sizes: Sizes, seed: u64, epoch: usize) -> Vec<Step> {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    Random::new(seed, "packing").child(epoch as u64).shuffle(&mut order);
    let steps = fill(&order, examples, sizes.step);
    let batches = |mut step: Vec<usize>| {
        step.sort_by_key(|i| (std::cmp::Reverse(examples[*i].tokens()), *i));
        fill(&step, examples, sizes.batch)
    };
    steps.into_iter().map(batches).collect()
}

/// All examples in batches, the long ones first, for scoring.
pub fn batches(examples: &[Example], limit: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(examples[*i].tokens()), *i));
    fill(&order, examples, limit)
}

/// Cuts the order where the next example would not fit.
fn fill(order: &[usize], examples: &[Example], limit: usize) -> Vec<Vec<usize>> {
    let (mut parts, mut tokens) = (Vec::<Vec<usize>>::new(), 0);
    for at in order {
        let n = examples[*at].tokens();
        match parts.last_mut() {
            Some(part) if tokens + n <= limit => part.push(*at),
            _ => {
                parts.push(vec![*at]);
                tokens = 0;
            }
        }
        tokens += n;
    }
    parts
}

/// How much there is to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// Examples that fit.
    pub examples: usize,
    /// Tokens that pass through the model in an epoch.
    pub tokens: usize,
    /// Targets in an epoch.
    pub targets: usize,
    /// Examples left out because they are longer than the limit.
    pub left_out: usize,
}

/// Keeps the examples of at most `limit` tokens, and counts.
///
/// # Errors
/// As [`Batch::new`].
pub fn fitting(examples: &[Example], limit: usize) -> Result<(Vec<Example>, Account)> {
    examples.iter().try_for_each(Example::check)?;
    let kept: Vec<Example> = examples.iter().filter(|e| e.tokens() <= limit).cloned().collect();
    let account = Account {
        examples: kept.len(),
        tokens: kept.iter().map(Example::tokens).sum(),
        targets: kept.iter().map(|e| e.answer.len()).sum(),
        left_out: examples.len() - kept.len(),
    };
    Ok((kept, account))
}

/// Tells whether two sets of examples are the same: blake3 over all of them, 32 hex digits.
pub fn digest(parts: &[&[Example]]) -> String {
    let mut hasher = blake3::Hasher::new();
    for examples in parts {
        hasher.update(&(examples.len() as u64).to_le_bytes());
        for example in *examples {
            // Lengths stand before what they count, so that no two sets give the same bytes.
            for tokens in [&example.prompt, &example.answer] {
                hasher.update(&(tokens.len() as u64).to_le_bytes());
                tokens.iter().for_each(|t| {
                    hasher.update(&t.to_le_bytes());
                });
            }
            hasher.update(&(example.weights.len() as u64).to_le_bytes());
            example.weights.iter().for_each(|w| {
                hasher.update(&w.to_bits().to_le_bytes());
            });
        }
    }
    hasher.finalize().to_hex()[..32].to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn example(prompt: usize, answer: usize) -> Example {
        Example { prompt: vec![3; prompt], answer: (0..answer as u32).collect(), weights: Vec::new() }
    }

    #[test]
    fn positions_predict_the_next_token_and_the_last_one_is_not_read() {
        let mut weighted = example(3, 2);
        weighted.weights = vec![0.5, 2.0];
        let batch = Batch::new(&[example(2, 3), weighted]).unwrap();
        assert_eq!(batch.tokens, [3, 3, 0, 1, 3, 3, 3, 0]);
        assert_eq!(batch.lengths, [4, 4]);
        assert_eq!(batch.rows, [1, 2, 3, 6, 7]);
        assert_eq!(batch.targets, [0, 1, 2, 0, 1]);
        assert_eq!(batch.weights, [1.0, 1.0, 1.0, 0.5, 2.0]);
        assert_eq!(batch.spans, [0..3, 3..5]);
        assert_eq!(batch.weight(), 5.5);
        for bad in [example(0, 2), example(2, 0), Example { weights: vec![1.0], ..example(1, 2) }] {
            assert_eq!(Batch::new(&[bad]).unwrap_err().kind(), Kind::Input);
        }
    }

    #[test]
    fn every_example_is_in_one_step_and_no_batch_is_too_large() {
        let examples: Vec<Example> = (0..97).map(|i| example(1 + i * 7 % 40, 1 + i % 9)).collect();
        let sizes = Sizes { step: 200, batch: 80 };
        let first = steps(&examples, sizes, 5, 0);
        let mut seen: Vec<usize> = first.iter().flatten().flatten().copied().collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..97));
        let tokens = |part: &[usize]| part.iter().map(|i| examples[*i].tokens()).sum::<usize>();
        for step in &first {
            assert!(step.iter().map(|b| tokens(b)).sum::<usize>() <= 200);
            assert!(step.iter().all(|b| tokens(b) <= 80));
        }
        assert_eq!(first, steps(&examples, sizes, 5, 0));
        assert_ne!(first, steps(&examples, sizes, 5, 1));
        assert_ne!(first, steps(&examples, sizes, 6, 0));
        let (kept, account) = fitting(&examples, 30).unwrap();
        assert!(account.left_out > 0 && kept.iter().all(|e| e.tokens() <= 30));
        assert_eq!(account.examples + account.left_out, 97);
        assert_ne!(digest(&[&kept, &[]]), digest(&[&[], &kept]));
    }
}
