//! Further columns of an input that a job names with a label: which columns can become texts `Label: value`.
//!
//! Knows Arrow's types and contracts. Knows nothing of how the texts are made.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;

use crate::error::{Error, Kind};
use crate::table::column_type::ColumnType;
use crate::table::contract::Contract;
use crate::table::source::SHOWN_COLUMNS;

/// A column of the files, and the label that its values get.
pub type Label = (String, String);

/// The column of the contract that takes the texts.
pub(crate) const ATTRIBUTES: &str = "attributes";

/// Whether values of this type can be said as a short text.
fn can_be_text(found: &DataType) -> bool {
    let is_plain = |t: &DataType| match t {
        DataType::Null | DataType::Boolean | DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => true,
        t => t.is_numeric() || t.is_string(),
    };
    let is_value = |t: &DataType| match t {
        DataType::Dictionary(_, value) => is_plain(value),
        t => is_plain(t),
    };
    match found {
        DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _) => {
            is_value(child.data_type())
        }
        found => is_value(found),
    }
}

/// Holds labels against what an input has: `fields` are the columns of its files with their types, `hive` those of its
/// paths. Returns what is wrong, `Kind::Config` naming each column that no file has, or whose type cannot be said, or the
/// contract's column that is not there to take the texts.
pub(crate) fn wrong_labels(
    contract: &Contract,
    labels: &[Label],
    fields: &BTreeMap<String, Vec<DataType>>,
    hive: &[String],
) -> Vec<Error> {
    let mut errors = Vec::new();
    let texts = ColumnType::List(Box::new(ColumnType::Utf8));
    if !labels.is_empty() && contract.column(ATTRIBUTES).is_none_or(|column| column.column_type != texts) {
        let error = Error::new(Kind::Config, "the contract has no column that takes what [evidence] attributes names");
        errors.push(error.with("table", &contract.name).with("column", ATTRIBUTES).hint(
            "copy the column from the built-in contract into the one in [project] schemas, or name no attributes",
        ));
    }
    for (name, _) in labels {
        let wrong = |what: String| {
            Error::new(Kind::Config, what)
                .with("table", &contract.name)
                .with("key", format!("evidence.attributes.{name}"))
        };
        let Some(types) = fields.get(name) else {
            if hive.contains(name) {
                continue;
            }
            let all: Vec<&str> = fields.keys().chain(hive).map(String::as_str).collect();
            let more = if all.len() > SHOWN_COLUMNS { ", ..." } else { "" };
            let shown = all[..all.len().min(SHOWN_COLUMNS)].join(", ");
            errors.push(wrong(format!("no file has the column {name}")).hint(format!("there are {shown}{more}")));
            continue;
        };
        if let Some(found) = types.iter().find(|found| !can_be_text(found)) {
            let error = wrong(format!("the column {name} has the type {found}, of which no short text can be made"));
            let hint = "write it as texts, numbers, dates or a list of these when the file is made, or leave it out";
            errors.push(error.hint(hint));
        }
    }
    errors
}
