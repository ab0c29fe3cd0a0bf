//! `clean_text(value, n)`: titles and categories of the catalogue as they may stand in prompts.
//!
//! The one function of the session that cleans them, for texts and for lists of texts. Knows nothing of prompts.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListBuilder, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type};
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use unicode_segmentation::UnicodeSegmentation;

use crate::columns::{as_text_lists, at};

/// `clean_text(text, n)` is the text on one line of at most `n` characters ([`one_line`]), null where nothing is left.
/// `clean_text(list, n)` is the list of its cleaned texts, each once, without those of which nothing is left.
pub(super) fn clean_text() -> ScalarUDF {
    ScalarUDF::new_from_impl(CleanText { signature: Signature::any(2, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CleanText {
    signature: Signature,
}

impl ScalarUDFImpl for CleanText {
    fn name(&self) -> &str {
        "clean_text"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        Ok(if args.first().is_some_and(DataType::is_list) { texts() } else { DataType::Utf8 })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let [value, length] = [args.args[0].to_array(args.number_rows)?, args.args[1].to_array(args.number_rows)?];
        let lengths = cast(&length, &DataType::Int64)?.as_primitive::<Int64Type>().clone();
        let length = |row: usize| usize::try_from(lengths.value(row)).unwrap_or(0);
        let cleaned = if value.data_type().is_list() { clean_lists(&value, length) } else { clean(&value, length) };
        Ok(ColumnarValue::Array(cleaned?))
    }
}

/// A list of texts.
pub(super) fn texts() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))
}

fn clean(value: &ArrayRef, length: impl Fn(usize) -> usize) -> DfResult<ArrayRef> {
    let value = cast(value, &DataType::Utf8)?.as_string::<i32>().clone();
    let cleaned = (0..value.len()).map(|row| one_line(at(&value, row)?, length(row)));
    Ok(Arc::new(cleaned.collect::<StringArray>()))
}

fn clean_lists(value: &ArrayRef, length: impl Fn(usize) -> usize) -> DfResult<ArrayRef> {
    let lists = as_text_lists(&cast(value, &texts())?);
    let mut cleaned = ListBuilder::new(StringBuilder::new());
    for (row, list) in lists.iter().enumerate() {
        let mut kept: Vec<String> = Vec::with_capacity(list.len());
        for text in list.iter().filter_map(|text| one_line(text, length(row))) {
            if !kept.contains(&text) {
                kept.push(text);
            }
        }
        kept.iter().for_each(|text| cleaned.values().append_value(text));
        cleaned.append(value.is_valid(row));
    }
    Ok(Arc::new(cleaned.finish()))
}

/// A text on one line: white space, control characters and marks that turn the writing direction become one space, and at
/// most `chars` characters stay; no character is cut from its combining marks. `None` where nothing is left.
pub(super) fn one_line(text: &str, chars: usize) -> Option<String> {
    let is_space = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let line = text.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let (mut end, mut count) = (0, 0);
    for cluster in line.graphemes(true) {
        count += cluster.chars().count();
        if count > chars {
            break;
        }
        end += cluster.len();
    }
    Some(line[..end].trim_end()).filter(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_text_is_one_line_of_bounded_length() {
        let hindi = "फ़िल्म".repeat(3);
        assert_eq!(one_line(" Be\t\n\u{202e} ta\u{2028}", 60).as_deref(), Some("Be ta"));
        assert_eq!(one_line("A very long title", 12).as_deref(), Some("A very long"));
        assert_eq!(one_line(&hindi, 3).as_deref(), Some("फ़ि"), "a letter keeps its marks");
        assert_eq!(one_line(" \u{feff}\n", 60), None);
    }

    #[test]
    fn lists_keep_each_text_once() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        ["Crime\n", "Crime", " ", "Drama film"].iter().for_each(|text| lists.values().append_value(text));
        lists.append(true);
        lists.append(false);
        let lists: ArrayRef = Arc::new(lists.finish());
        let cleaned = clean_lists(&lists, |_| 5).unwrap();
        assert_eq!(as_text_lists(&cleaned), [vec!["Crime".to_owned(), "Drama".to_owned()], Vec::new()]);
        assert!(cleaned.is_valid(0) && cleaned.is_null(1));
    }
}
