//! Tables of TOML by dotted keys: `section.name`, `list[0].name`.
//!
//! Knows tables and values. Knows nothing of files, defaults or what a key means.

use std::collections::BTreeMap;

use toml::de::DeValue;
use toml::{Spanned, Table, Value};

/// The key of a name in a section.
pub(crate) fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The keys of each section of a list, where it is one of sections.
pub(crate) fn element(list: &[Value]) -> Option<&Table> {
    list.first().and_then(Value::as_table)
}

/// Whether a value is a list of sections.
pub(crate) fn is_sections(value: &Value) -> bool {
    value.as_array().is_some_and(|list| element(list).is_some())
}

/// Calls `change` with every string and the key that it stands at; for an element of a plain list, with the list's key.
pub(crate) fn each_text(table: &mut Table, path: &str, change: &mut dyn FnMut(&str, &mut String)) {
    for (key, value) in table.iter_mut() {
        each_text_of(value, &joined(path, key), change);
    }
}

/// The same with the texts of one value.
fn each_text_of(value: &mut Value, path: &str, change: &mut dyn FnMut(&str, &mut String)) {
    match value {
        Value::Table(inner) => each_text(inner, path, change),
        Value::String(text) => change(path, text),
        Value::Array(values) => {
            for (number, value) in values.iter_mut().enumerate() {
                match value {
                    Value::Table(inner) => each_text(inner, &format!("{path}[{number}]"), change),
                    other => each_text_of(other, path, change),
                }
            }
        }
        _ => {}
    }
}

/// The value at a key, `name` or `section.name`.
pub(crate) fn value_at<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    match key.split_once('.') {
        Some((section, rest)) => value_at(table.get(section)?.as_table()?, rest),
        None => table.get(key),
    }
}

/// Puts a value at a key whose sections are there.
pub(crate) fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((section, rest)) => {
            if let Some(inner) = table.get_mut(section).and_then(Value::as_table_mut) {
                put(inner, rest, value);
            }
        }
        None => _ = table.insert(key.to_owned(), value),
    }
}

/// Every value as text, by its key behind `prefix`.
pub(crate) fn flatten(table: &Table, prefix: &str, into: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        match value {
            Value::Table(inner) => flatten(inner, &format!("{prefix}{key}."), into),
            Value::String(text) => _ = into.insert(format!("{prefix}{key}"), text.clone()),
            other => _ = into.insert(format!("{prefix}{key}"), other.to_string()),
        }
    }
}

/// What a value is, in words.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Table(_) => "a section",
        Value::Array(_) => "a list",
        Value::Datetime(_) => "a date",
    }
}

/// A value without sections.
pub(crate) fn plain(value: &Spanned<DeValue<'_>>) -> Option<Value> {
    match value.get_ref() {
        DeValue::String(s) => Some(Value::String(s.to_string())),
        DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix()).ok().map(Value::Integer),
        DeValue::Float(f) => f.as_str().parse().ok().map(Value::Float),
        DeValue::Boolean(b) => Some(Value::Boolean(*b)),
        DeValue::Array(values) => values.iter().map(plain).collect::<Option<Vec<_>>>().map(Value::Array),
        _ => None,
    }
}
