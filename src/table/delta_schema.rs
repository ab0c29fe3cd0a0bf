//! A table's columns as a Delta log names them.
//!
//! Knows Arrow's types and those of the Delta protocol. Knows nothing of files or versions.

use arrow::datatypes::{DataType, Schema, TimeUnit};
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};

/// The partition column of every published table.
pub(crate) const DAY: &str = "dt";

/// The schema of a published table as the log's metadata holds it, with its partition column, which is last. Columns that
/// only the schema `before` has stay: files of earlier days hold them.
///
/// Every column may be null, also where its contract forbids nulls: days from before a column was added do not have it.
///
/// # Errors
/// `Kind::Internal` for a type that no contract can have; `Kind::Input` for a schema `before` that is none.
pub(crate) fn schema_string(schema: &Schema, before: Option<&str>) -> Result<String> {
    let mut fields: Vec<Value> = Vec::new();
    for field in schema.fields() {
        let kind = delta_type(field.data_type()).ok_or_else(|| {
            Error::new(Kind::Internal, format!("the Delta protocol has no type {}", field.data_type()))
                .with("column", field.name())
        })?;
        fields.push(delta_field(field.name(), kind));
    }
    let fields = match before {
        None => fields,
        Some(before) => merged(fields, before)?,
    };
    let is_day = |field: &Value| field["name"] == DAY;
    let day = delta_field(DAY, json!("date"));
    let fields: Vec<Value> = fields.into_iter().filter(|field| !is_day(field)).chain([day]).collect();
    Ok(json!({ "type": "struct", "fields": fields }).to_string())
}

/// The fields in the order in which they came into the schema, with the types that they have now.
fn merged(mut fields: Vec<Value>, before: &str) -> Result<Vec<Value>> {
    let damaged = || Error::new(Kind::Input, "the Delta log is damaged: its schema cannot be understood");
    let before: Value = serde_json::from_str(before).map_err(|e| damaged().source(e))?;
    let old = before["fields"].as_array().ok_or_else(damaged)?;
    let mut all = Vec::with_capacity(fields.len());
    for field in old {
        match fields.iter().position(|new| new["name"] == field["name"]) {
            Some(place) => all.push(fields.remove(place)),
            None => all.push(field.clone()),
        }
    }
    all.extend(fields);
    Ok(all)
}

fn delta_field(name: &str, kind: Value) -> Value {
    json!({ "name": name, "type": kind, "nullable": true, "metadata": {} })
}

fn delta_type(kind: &DataType) -> Option<Value> {
    let name = match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string",
        DataType::Boolean => "boolean",
        DataType::Int32 => "integer",
        DataType::Int64 => "long",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Date32 => "date",
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp",
        // A vector's width is not part of the protocol.
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            let item = delta_type(item.data_type())?;
            return Some(json!({ "type": "array", "elementType": item, "containsNull": true }));
        }
        DataType::Struct(fields) => {
            let fields: Option<Vec<Value>> =
                fields.iter().map(|f| delta_type(f.data_type()).map(|kind| delta_field(f.name(), kind))).collect();
            return Some(json!({ "type": "struct", "fields": fields? }));
        }
        _ => return None,
    };
    Some(json!(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::table::column_type::ColumnType;
    use crate::table::contract::Contract;
    use arrow::datatypes::Field;

    fn schema(columns: &[(&str, &str)]) -> Schema {
        let field = |(name, kind): &(&str, &str)| Field::new(*name, ColumnType::parse(kind).unwrap().arrow(8), false);
        Schema::new(columns.iter().map(field).collect::<Vec<_>>())
    }

    #[test]
    fn every_type_of_a_contract_has_one_in_the_protocol() {
        let columns = [
            ("a", "utf8"),
            ("b", "bool"),
            ("c", "int32"),
            ("d", "int64"),
            ("e", "float32"),
            ("f", "float64"),
            ("g", "date32"),
            ("h", "timestamp_us"),
            ("i", "vector"),
            ("j", "list<struct<x:utf8,y:float64>>"),
        ];
        let text = schema_string(&schema(&columns), None).unwrap();
        let written: Value = serde_json::from_str(&text).unwrap();
        let types: Vec<Value> = written["fields"].as_array().unwrap().iter().map(|f| f["type"].clone()).collect();
        let names = ["string", "boolean", "integer", "long", "float", "double", "date", "timestamp"];
        assert_eq!(types[..8], names.map(|name| json!(name)));
        assert_eq!(types[8], json!({ "type": "array", "elementType": "float", "containsNull": true }));
        assert_eq!(types[9]["elementType"]["fields"][1]["type"], "double");
        assert_eq!((&written["fields"][10]["name"], &types[10]), (&json!("dt"), &json!("date")));
        for name in crate::table::contract::builtin_names() {
            let contract = Contract::builtin(name).unwrap();
            schema_string(&contract.arrow_schema(None), None).unwrap();
        }
    }

    #[test]
    fn columns_of_earlier_days_stay() {
        let first = schema_string(&schema(&[("a", "utf8"), ("b", "int32")]), None).unwrap();
        let second = schema_string(&schema(&[("c", "bool"), ("a", "utf8")]), Some(&first)).unwrap();
        let names = |text: &str| {
            let value: Value = serde_json::from_str(text).unwrap();
            let names = value["fields"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(&second), ["a", "b", "c", "dt"]);
        // Whoever publishes next with the first schema changes nothing.
        assert_eq!(schema_string(&schema(&[("a", "utf8"), ("b", "int32")]), Some(&second)).unwrap(), second);
        assert_eq!(schema_string(&schema(&[]), Some("[]")).unwrap_err().kind(), Kind::Input);
    }
}
