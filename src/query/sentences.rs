//! `sentences(value, n)`, `content_words(value)` and `whole_words(words, texts)`: reviews and descriptions in pieces, for SQL.
//!
//! What a sentence and a word of content are is known by [`crate::plain_text`]; this is the way there for Arrow's texts and lists
//! of texts. Knows nothing of prompts.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListBuilder, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::columns::{as_text_lists, at};
use crate::plain_text::{sentences as cut, words};
use crate::query::clean_text::texts;

/// `sentences(text, n)` is the list of the text's sentences of at most `n` words ([`cut::split_sentences`]), null
/// where the text or `n` is null. `sentences(list, n)` has those of all its texts, in order.
pub(super) fn sentences() -> ScalarUDF {
    ScalarUDF::new_from_impl(Sentences { signature: Signature::any(2, Volatility::Immutable) })
}

/// `content_words(text)` is the list of the text's words of content, each once ([`words::content_words`]), null where
/// the text is. `content_words(list)` has those of all its texts, each once.
pub(super) fn content_words() -> ScalarUDF {
    ScalarUDF::new_from_impl(ContentWords { signature: Signature::any(1, Volatility::Immutable) })
}

/// `whole_words(words, texts)`, two lists, is the first with the words of scripts without spaces put together as the texts
/// have them ([`words::whole_words`]), null where it is null.
pub(super) fn whole_words() -> ScalarUDF {
    ScalarUDF::new_from_impl(WholeWords { signature: Signature::any(2, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sentences {
    signature: Signature,
}

impl ScalarUDFImpl for Sentences {
    fn name(&self) -> &str {
        "sentences"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(texts())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let [value, words] = [args.args[0].to_array(args.number_rows)?, args.args[1].to_array(args.number_rows)?];
        let words = cast(&words, &DataType::Int64)?.as_primitive::<Int64Type>().clone();
        let split = |row: usize, texts: &[&str]| {
            let max_words = words.is_valid(row).then(|| usize::try_from(words.value(row)).unwrap_or(0))?;
            Some(texts.iter().flat_map(|text| cut::split_sentences(text, max_words)).collect())
        };
        Ok(ColumnarValue::Array(for_each_row(&value, split)?))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ContentWords {
    signature: Signature,
}

impl ScalarUDFImpl for ContentWords {
    fn name(&self) -> &str {
        "content_words"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(texts())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let value = args.args[0].to_array(args.number_rows)?;
        let words = |_: usize, texts: &[&str]| {
            let mut seen = HashSet::new();
            let words = texts.iter().flat_map(|text| words::content_words(text));
            Some(words.filter(|word| seen.insert(word.clone())).collect())
        };
        Ok(ColumnarValue::Array(for_each_row(&value, words)?))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WholeWords {
    signature: Signature,
}

impl ScalarUDFImpl for WholeWords {
    fn name(&self) -> &str {
        "whole_words"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(texts())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let [value, said] = [args.args[0].to_array(args.number_rows)?, args.args[1].to_array(args.number_rows)?];
        let said = as_text_lists(&cast(&said, &texts())?);
        let whole = |row: usize, found: &[&str]| {
            let said: Vec<&str> = said[row].iter().map(String::as_str).collect();
            Some(words::whole_words(found, &said))
        };
        Ok(ColumnarValue::Array(for_each_row(&value, whole)?))
    }
}

/// A list of texts for every row: what `pieces` makes of the row's number and its texts, one or those of a list. Null for
/// null; a list's nulls are passed over.
fn for_each_row(value: &ArrayRef, pieces: impl Fn(usize, &[&str]) -> Option<Vec<String>>) -> DfResult<ArrayRef> {
    let mut rows = ListBuilder::new(StringBuilder::new());
    let mut add = |found: Option<Vec<String>>| {
        found.iter().flatten().for_each(|piece| rows.values().append_value(piece));
        rows.append(found.is_some());
    };
    if value.data_type().is_list() {
        let lists = cast(value, &texts())?;
        let lists = lists.as_list::<i32>();
        for (row, list) in lists.iter().enumerate() {
            add(list.and_then(|list| {
                let texts: &StringArray = list.as_string::<i32>();
                pieces(row, &texts.iter().flatten().collect::<Vec<_>>())
            }));
        }
    } else {
        let texts = cast(value, &DataType::Utf8)?;
        let texts: &StringArray = texts.as_string::<i32>();
        (0..texts.len()).for_each(|row| add(at(texts, row).and_then(|text| pieces(row, &[text]))));
    }
    Ok(Arc::new(rows.finish()))
}

#[cfg(test)]
mod tests;
