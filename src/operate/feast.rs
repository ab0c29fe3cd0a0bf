//! The feature tables as Feast sees them: a repository file in Python, printed for the ranker's feature store.
//!
//! Reads contracts; opens no store. Feast does not read commit records. Where the job keeps Delta logs the sources name that
//! format, so that a store of Feast's that reads logs (`type: duckdb`) sees a day before or after it is replaced. One that
//! lists files may see both versions meanwhile; `created_timestamp` tells them apart, and the newest wins.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::feature::Entity;
use crate::night::tables::{contract_of, locate};
use crate::table::column_type::ColumnType;

/// Columns that Feast knows by other means than its schema.
const TIMES: [&str; 2] = ["event_timestamp", "created_timestamp"];

/// Python text that defines entities, sources, feature views and one feature service named like the job.
///
/// # Errors
/// `Kind::Config` for contracts or a warehouse that cannot be read.
pub fn definition(job: &Job, entities: &[Entity]) -> Result<String> {
    let root = locate(job, &job.spec.warehouse)?;
    let (format, format_import) = if job.spec.publish.delta {
        ("    file_format=DeltaFormat(),\n", "from feast.data_format import DeltaFormat\n")
    } else {
        ("", "")
    };
    let mut types = BTreeSet::from(["String"]);
    let mut body = String::new();
    let mut views: Vec<&str> = Vec::new();
    for entity in Entity::ALL.into_iter().filter(|entity| entities.contains(entity)) {
        let (name, table, key) = (entity.name(), entity.table(), entity.key());
        let contract = contract_of(job, table)?;
        let mut fields = String::new();
        for column in contract.columns.iter().filter(|c| c.name != key && !TIMES.contains(&c.name.as_str())) {
            let Some(kind) = feast_type(&column.column_type, &mut types) else { continue };
            line(&mut fields, format_args!("        Field("))?;
            line(&mut fields, format_args!("            name={},", literal(&column.name)))?;
            line(&mut fields, format_args!("            dtype={kind},"))?;
            line(&mut fields, format_args!("            description={},", literal(&column.description)))?;
            line(&mut fields, format_args!("        ),"))?;
        }
        let path = literal(&root.child(table).to_string());
        let description = literal(&contract.description);
        let version = literal(&contract.version);
        line(
            &mut body,
            format_args!(
                "\n{name} = Entity(name=\"{name}\", join_keys=[\"{key}\"], value_type=ValueType.STRING)\n\
                 \n\
                 {table}_source = FileSource(\n    name=\"{table}_source\",\n    path={path},\n{format}    \
                     timestamp_field=\"event_timestamp\",\n    created_timestamp_column=\"created_timestamp\",\n)\n\
                 \n\
                 {table} = FeatureView(\n    name=\"{table}\",\n    description={description},\n    entities=[{name}],\n    \
                     # No expiry: an entity without a newer row keeps its last one.\n    ttl=timedelta(days=0),\n    \
                     schema=[\n        Field(name=\"{key}\", dtype=String),\n{fields}    ],\n    source={table}_source,\n    \
                     tags={{\"contract_version\": {version}}},\n)"
            ),
        )?;
        views.push(table);
    }
    let types = types.into_iter().collect::<Vec<_>>().join(", ");
    let service = literal(&job.spec.name);
    Ok(format!(
        "\"\"\"Content features that curec publishes; put this file into a Feast repository and run `feast apply`.\"\"\"\n\
         \n\
         from datetime import timedelta\n\
         \n\
         from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType\n\
         {format_import}from feast.types import {types}\n\
         {body}\n\
         # The views have columns of the same names: retrieve them with full_feature_names=True.\n\
         content_features = FeatureService(name={service}, features=[{}])\n",
        views.join(", ")
    ))
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) -> Result<()> {
    writeln!(text, "{what}").map_err(|e| Error::new(Kind::Internal, "cannot print").source(e))
}

/// A text as a Python literal. JSON's escapes mean the same in Python, and it leaves no control character as it is.
fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Feast's type, noting the names that it needs; `None` for what Feast cannot hold.
fn feast_type(kind: &ColumnType, names: &mut BTreeSet<&'static str>) -> Option<String> {
    let name = match kind {
        ColumnType::Utf8 => "String",
        ColumnType::Bool => "Bool",
        ColumnType::Int32 => "Int32",
        ColumnType::Int64 => "Int64",
        ColumnType::Float32 => "Float32",
        ColumnType::Float64 => "Float64",
        ColumnType::Date32 | ColumnType::TimestampUs => "UnixTimestamp",
        ColumnType::Vector | ColumnType::FixedVector(_) => {
            names.extend(["Array", "Float32"]);
            return Some("Array(Float32)".into());
        }
        ColumnType::List(inner)
            if !matches!(**inner, ColumnType::List(_) | ColumnType::Vector | ColumnType::FixedVector(_)) =>
        {
            let inner = feast_type(inner, names)?;
            names.insert("Array");
            return Some(format!("Array({inner})"));
        }
        ColumnType::List(_) | ColumnType::Struct(_) => return None,
    };
    names.insert(name);
    Some(name.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn texts_cannot_leave_their_literal() {
        assert_eq!(literal("a"), "\"a\"");
        assert_eq!(literal("\"); import os #\n\\"), "\"\\\"); import os #\\n\\\\\"");
        assert_eq!(literal("\u{0}"), "\"\\u0000\"");
    }

    #[test]
    fn vectors_and_lists_are_arrays() {
        let mut names = BTreeSet::new();
        assert_eq!(feast_type(&ColumnType::Vector, &mut names).unwrap(), "Array(Float32)");
        let texts = ColumnType::List(Box::new(ColumnType::Utf8));
        assert_eq!(feast_type(&texts, &mut names).unwrap(), "Array(String)");
        assert_eq!(feast_type(&ColumnType::List(Box::new(texts)), &mut names), None);
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["Array", "Float32", "String"]);
    }
}
