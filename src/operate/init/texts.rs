//! Rows of text files, as far as a proposal needs them: separated values with a header, or JSON lines.
//!
//! Knows both forms and guesses types from values. Knows nothing of what columns mean, and reads no file.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    new_null_array,
};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use serde_json::{Map, Value};

use crate::error::{Context, Error, Kind, Result};

/// Separators that a header can tell.
const SEPARATORS: [u8; 4] = [b'\t', b',', b';', b'|'];

/// How files hold rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Parquet, which a job reads.
    Parquet,
    /// Separated values, with the separator.
    Separated(u8),
    /// A JSON object a line.
    JsonLines,
}

/// The rows of text files of one kind.
///
/// # Errors
/// `Kind::Input` for what is neither separated values with a header nor JSON lines.
pub(super) fn read(texts: &[String]) -> Result<(Layout, RecordBatch)> {
    let first = texts.first().map(|text| text.trim_start()).unwrap_or_default();
    if first.starts_with('[') {
        return Err(Error::new(Kind::Input, "the file is a JSON array, not JSON lines")
            .hint("write Parquet first, in DuckDB: COPY (FROM read_json('FILE')) TO 'FILE.parquet' (FORMAT parquet)"));
    }
    if first.starts_with('{') {
        return Ok((Layout::JsonLines, json_lines(texts)?));
    }
    let separator = separator_of(first.lines().next().unwrap_or_default());
    Ok((Layout::Separated(separator), separated(texts, separator)?))
}

/// How many texts of separated values lack a column that the first one has; [`read`] passes them over.
pub(super) fn with_other_columns(texts: &[String], layout: Layout) -> usize {
    let Layout::Separated(separator) = layout else { return 0 };
    let names = |text: &String| -> Vec<String> {
        let mut reader = csv::ReaderBuilder::new().delimiter(separator).flexible(true).from_reader(text.as_bytes());
        reader.headers().map(|header| header.iter().map(str::to_owned).collect()).unwrap_or_default()
    };
    let wanted = texts.first().map(names).unwrap_or_default();
    let lacks = |text: &&String| {
        let found = names(text);
        wanted.iter().any(|name| !found.contains(name))
    };
    texts.iter().filter(lacks).count()
}

/// The separator that stands most often in a header; a comma where none does.
fn separator_of(header: &str) -> u8 {
    let count = |separator: u8| header.bytes().filter(|b| *b == separator).count();
    // The first of those that stand equally often.
    let best = SEPARATORS.into_iter().rev().max_by_key(|separator| count(*separator));
    best.filter(|separator| count(*separator) > 0).unwrap_or(b',')
}

fn separated(texts: &[String], separator: u8) -> Result<RecordBatch> {
    let mut names: Vec<String> = Vec::new();
    let mut columns: Vec<Vec<Option<String>>> = Vec::new();
    for text in texts {
        let mut reader = csv::ReaderBuilder::new().delimiter(separator).flexible(true).from_reader(text.as_bytes());
        let header = reader.headers().context(Kind::Input, || "the file has no header line".to_owned())?.clone();
        if names.is_empty() {
            names = header.iter().map(str::to_owned).collect();
            columns = vec![Vec::new(); names.len()];
        }
        // Files of one kind may order their columns differently; another file is not sampled.
        let places: Option<Vec<usize>> = names.iter().map(|name| header.iter().position(|n| n == name)).collect();
        let Some(places) = places else { continue };
        // A record that does not fit its header is for the importer to refuse.
        for record in reader.records().flatten().filter(|record| record.len() == header.len()) {
            for (column, place) in columns.iter_mut().zip(&places) {
                let value = record.get(*place).filter(|value| !value.is_empty() && *value != "\\N");
                column.push(value.map(str::to_owned));
            }
        }
    }
    if names.iter().all(|name| name.trim().is_empty()) {
        return Err(Error::new(Kind::Input, "the file has no header line").hint("the first line must name the columns"));
    }
    batch_of(names.into_iter().zip(columns.iter().map(|values| typed(values))))
}

/// Whole numbers, numbers or texts, as all values allow. A number with leading zeros is a text, such as an id.
fn typed(values: &[Option<String>]) -> ArrayRef {
    let is_whole = |text: &String| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        (digits.len() == 1 || !digits.starts_with('0'))
            && digits.bytes().all(|b| b.is_ascii_digit())
            && text.parse::<i64>().is_ok()
    };
    let is_number = |text: &String| {
        let is_padded = text.len() > 1 && text.starts_with('0') && !text.starts_with("0.");
        !is_padded && text.parse::<f64>().is_ok_and(f64::is_finite)
    };
    let has_any = values.iter().flatten().next().is_some();
    if has_any && values.iter().flatten().all(is_whole) {
        return Arc::new(values.iter().map(|value| value.as_ref()?.parse::<i64>().ok()).collect::<Int64Array>());
    }
    if has_any && values.iter().flatten().all(is_number) {
        return Arc::new(values.iter().map(|value| value.as_ref()?.parse::<f64>().ok()).collect::<Float64Array>());
    }
    Arc::new(values.iter().map(Option::as_deref).collect::<StringArray>())
}

fn json_lines(texts: &[String]) -> Result<RecordBatch> {
    let mut names: Vec<String> = Vec::new();
    let mut rows: Vec<Map<String, Value>> = Vec::new();
    for line in texts.iter().flat_map(|text| text.lines()).filter(|line| !line.trim().is_empty()) {
        let row: Map<String, Value> = serde_json::from_str(line).map_err(|e| {
            Error::new(Kind::Input, "a line is no JSON object")
                .with("line", rows.len() + 1)
                .source(e.to_string())
                .hint("JSON lines hold one object a line")
        })?;
        for name in row.keys() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        rows.push(row);
    }
    batch_of(names.into_iter().filter_map(|name| values_of(&rows, &name).map(|array| (name, array))))
}

/// A column of JSON rows; `None` where it holds values of several plain kinds. What is nested, but for lists of texts and lists of
/// such lists, is a structure without fields: its type says that no job reads it, and its values are left out.
fn values_of(rows: &[Map<String, Value>], name: &str) -> Option<ArrayRef> {
    let values: Vec<Option<&Value>> = rows.iter().map(|row| row.get(name).filter(|value| !value.is_null())).collect();
    let said: Vec<&Value> = values.iter().flatten().copied().collect();
    let array: ArrayRef = match &said[..] {
        said if said.iter().all(|value| value.is_string()) => {
            Arc::new(values.iter().map(|value| value.and_then(Value::as_str)).collect::<StringArray>())
        }
        said if said.iter().all(|value| value.is_i64()) => {
            Arc::new(values.iter().map(|value| value.and_then(Value::as_i64)).collect::<Int64Array>())
        }
        said if said.iter().all(|value| value.is_number()) => {
            Arc::new(values.iter().map(|value| value.and_then(Value::as_f64)).collect::<Float64Array>())
        }
        said if said.iter().all(|value| value.is_boolean()) => {
            Arc::new(values.iter().map(|value| value.and_then(Value::as_bool)).collect::<BooleanArray>())
        }
        said if said.iter().all(|value| is_texts(value)) => {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for value in &values {
                let parts = value.and_then(Value::as_array);
                parts
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .for_each(|text| lists.values().append_value(text));
                lists.append(value.is_some());
            }
            Arc::new(lists.finish())
        }
        said if said.iter().all(|value| is_lists_of_texts(value)) => {
            let mut lists = ListBuilder::new(ListBuilder::new(StringBuilder::new()));
            for value in &values {
                for list in value.and_then(Value::as_array).into_iter().flatten() {
                    let parts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
                    parts.for_each(|text| lists.values().values().append_value(text));
                    lists.values().append(true);
                }
                lists.append(value.is_some());
            }
            Arc::new(lists.finish())
        }
        said if said.iter().any(|value| value.is_object() || value.is_array()) => {
            new_null_array(&DataType::Struct(Fields::empty()), rows.len())
        }
        _ => return None,
    };
    Some(array)
}

fn is_texts(value: &Value) -> bool {
    value.as_array().is_some_and(|parts| parts.iter().all(|part| part.is_string() || part.is_null()))
}

fn is_lists_of_texts(value: &Value) -> bool {
    value.as_array().is_some_and(|lists| lists.iter().all(is_texts))
}

fn batch_of(columns: impl Iterator<Item = (String, ArrayRef)>) -> Result<RecordBatch> {
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for (name, array) in columns {
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    }
    if arrays.is_empty() {
        return Err(Error::new(Kind::Input, "the file has no column that can be read"));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .context(Kind::Internal, || "sampled rows do not go together".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn kinds(text: &str) -> (Layout, Vec<(String, DataType)>, usize) {
        let (layout, batch) = read(&[text.to_owned()]).unwrap();
        let schema = batch.schema();
        let kinds = schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect();
        (layout, kinds, batch.num_rows())
    }

    #[test]
    fn separated_values_have_the_types_that_all_of_them_allow() {
        let (layout, found, rows) = kinds("a;b;c;d\n1;0.5;007;\n-2;3;8;x;y\n3;1e3;9;\\N\n");
        assert_eq!((layout, rows), (Layout::Separated(b';'), 2));
        let wanted = [DataType::Int64, DataType::Float64, DataType::Utf8, DataType::Utf8];
        assert_eq!(found.into_iter().map(|(_, kind)| kind).collect::<Vec<_>>(), wanted);
        assert_eq!(kinds("user_id:token\titem_id:token\n1\t2\n").0, Layout::Separated(b'\t'));
        assert_eq!(kinds("alone\n1\n").0, Layout::Separated(b','));
        assert!(read(&["\n".to_owned()]).is_err());
    }

    #[test]
    fn files_with_other_columns_are_counted() {
        let texts = ["a,b\n1,2\n", "b,a\n1,2\n", "a,c\n1,2\n"].map(str::to_owned);
        assert_eq!(with_other_columns(&texts, Layout::Separated(b',')), 1);
        assert_eq!(with_other_columns(&texts, Layout::JsonLines), 0);
    }

    #[test]
    fn every_row_that_was_read_counts() {
        let lines: String = (0..6_000).map(|i| format!("{i},x\n")).collect();
        assert_eq!(kinds(&format!("n,t\n{lines}")).2, 6_000);
        let lines: String = (0..6_000).map(|i| format!("{{\"n\":{i}}}\n")).collect();
        assert_eq!(kinds(&lines).2, 6_000);
    }

    #[test]
    fn json_lines_have_the_columns_of_all_lines() {
        let text = "{\"u\":\"a\",\"n\":1,\"tags\":[\"x\",null],\"style\":{\"k\":1},\"paths\":[[\"x\",\"y\"],[]]}\n\n\
                    {\"u\":null,\"n\":2.5,\"ok\":true}\n";
        let (layout, found, rows) = kinds(text);
        assert_eq!((layout, rows), (Layout::JsonLines, 2));
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["u", "n", "tags", "style", "paths", "ok"]);
        assert!(found[1].1 == DataType::Float64 && found[3].1 == DataType::Struct(Fields::empty()), "{found:?}");
        let child = |kind: &DataType| match kind {
            DataType::List(child) => child.data_type().clone(),
            kind => kind.clone(),
        };
        assert_eq!((child(&found[2].1), child(&child(&found[4].1))), (DataType::Utf8, DataType::Utf8));
        assert!(read(&["[{\"u\":1}]".to_owned()]).unwrap_err().message().contains("array"));
        assert!(read(&["{\"u\":1}\nnothing\n".to_owned()]).unwrap_err().to_string().contains("line: 2"));
    }
}
