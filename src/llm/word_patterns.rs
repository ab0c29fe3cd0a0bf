//! What byte-level tokenizers take for words: the patterns by which a text is cut before its pieces are encoded.
//!
//! Knows the steps of the tokenizer library and llama.cpp's names for them. Knows nothing of vocabularies.

use tokenizers::SplitDelimiterBehavior;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use crate::error::{Error, Kind, Result};

/// The supported GGUF pre-tokenizer types.
pub(super) const PRE_TYPES: &str =
    "smollm, default, gpt-2, llama-bpe, llama3, llama-v3, smaug-bpe, qwen2, deepseek-r1-qwen";

/// Patterns of words, as models name them: no word has white space behind anything else, but for line ends.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Patterns without white space.
const MARKS: &str = r"[\p{P}\$\+<=>\^~\|]+";
const NUMBERS: &str = r"\p{N}+";
const DIGITS: &str = r"[0-9][0-9][0-9]";

/// Whether a tokenizer encodes each for itself what the cache of words takes for words ([`crate::llm::word_cache`]): a byte-level
/// BPE whose words are told by patterns that are known.
pub(super) fn is_cut_at_words(inner: &tokenizers::Tokenizer) -> bool {
    let is_bpe = matches!(inner.get_model(), ModelWrapper::BPE(bpe) if bpe.dropout.is_none());
    let is_plain = matches!(inner.get_normalizer(), None | Some(NormalizerWrapper::NFC(_)));
    let steps: &[PreTokenizerWrapper] = match inner.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::Sequence(steps)) => steps.as_ref(),
        Some(step) => std::slice::from_ref(step),
        None => &[],
    };
    let is_known = |step: &PreTokenizerWrapper| match step {
        PreTokenizerWrapper::Digits(_) => true,
        PreTokenizerWrapper::ByteLevel(bytes) => !bytes.add_prefix_space,
        PreTokenizerWrapper::Split(split) => {
            let is_isolated = split.behavior == SplitDelimiterBehavior::Isolated && !split.invert;
            let known = [GPT2, LLAMA3, QWEN2, MARKS, NUMBERS, DIGITS];
            is_isolated && matches!(&split.pattern, SplitPattern::Regex(found) if known.contains(&found.as_str()))
        }
        _ => false,
    };
    let has_words = |step: &PreTokenizerWrapper| match step {
        PreTokenizerWrapper::ByteLevel(bytes) => bytes.use_regex,
        PreTokenizerWrapper::Split(split) => {
            matches!(&split.pattern, SplitPattern::Regex(found) if [GPT2, LLAMA3, QWEN2].contains(&found.as_str()))
        }
        _ => false,
    };
    // Where bytes are spelt as letters first, no pattern finds white space.
    let first = steps.iter().find(|&step| has_words(step) || matches!(step, PreTokenizerWrapper::ByteLevel(_)));
    is_bpe && is_plain && steps.iter().all(is_known) && first.is_some_and(has_words)
}

/// llama.cpp's pre-tokenizers: the steps, whether words of the vocabulary skip the merges, and whether text is
/// normalised (NFC) first.
pub(super) fn word_splitter(pre: &str) -> Result<(Vec<PreTokenizerWrapper>, bool, bool)> {
    let split = |pattern: &str| {
        Split::new(SplitPattern::Regex(pattern.to_owned()), SplitDelimiterBehavior::Isolated, false)
            .map(PreTokenizerWrapper::Split)
            .map_err(internal)
    };
    let bytes = |gpt2_words| PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, gpt2_words));
    Ok(match pre {
        "smollm" => (vec![PreTokenizerWrapper::Digits(Digits::new(true)), bytes(true)], false, false),
        "gpt-2" | "gpt2" => (vec![bytes(true)], false, false),
        "default" => (vec![split(MARKS)?, split(GPT2)?, split(NUMBERS)?, split(DIGITS)?, bytes(false)], false, false),
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => {
            (vec![split(LLAMA3)?, bytes(false)], pre != "smaug-bpe", false)
        }
        "qwen2" | "deepseek-r1-qwen" => (vec![split(QWEN2)?, bytes(false)], false, true),
        other => {
            return Err(Error::new(Kind::Model, format!("the pre-tokenizer type '{other}' is not supported"))
                .hint(format!("supported are {PRE_TYPES}; or use the model's Hugging Face directory")));
        }
    })
}

/// The error for what the tokenizer library refuses.
pub(super) fn internal(source: tokenizers::Error) -> Error {
    Error::new(Kind::Internal, "the tokenizer library failed").source(source)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokenizers::models::bpe::BPE;
    use tokenizers::normalizers::NFD;
    use tokenizers::pre_tokenizers::sequence::Sequence;

    use super::*;

    fn tokenizer(steps: Vec<PreTokenizerWrapper>) -> tokenizers::Tokenizer {
        let mut inner = tokenizers::Tokenizer::new(BPE::default());
        inner.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(steps))));
        inner
    }

    #[test]
    fn words_are_cut_by_known_steps_alone() {
        for pre in ["smollm", "gpt-2", "default", "llama-bpe", "qwen2"] {
            let mut steps = word_splitter(pre).unwrap().0;
            assert!(is_cut_at_words(&tokenizer(steps.clone())), "{pre}");
            let mut inner = tokenizer(steps.clone());
            inner.with_normalizer(Some(NFD)).unwrap();
            assert!(!is_cut_at_words(&inner), "{pre}, another normal form");
            let pattern = SplitPattern::Regex(r"\S+\s*".to_owned());
            let other = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
            steps.insert(0, PreTokenizerWrapper::Split(other));
            assert!(!is_cut_at_words(&tokenizer(steps)), "{pre}, another pattern");
        }
        let bytes =
            |prefix, words| tokenizer(vec![PreTokenizerWrapper::ByteLevel(ByteLevel::new(prefix, true, words))]);
        assert!(is_cut_at_words(&bytes(false, true)));
        assert!(!is_cut_at_words(&bytes(true, true)), "a space is put before the text");
        assert!(!is_cut_at_words(&bytes(false, false)), "nothing tells words");
        let mut steps = word_splitter("llama-bpe").unwrap().0;
        steps.reverse();
        assert!(!is_cut_at_words(&tokenizer(steps)), "white space is spelt as letters before words are told");
    }
}
