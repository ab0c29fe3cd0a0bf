//! Tables that SQL makes: `sql/<table>.sql`, what each one reads and calls, their order, and their rows under contract.
//!
//! Knows the session and contracts; knows nothing of where rows go or when they are made.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use arrow::datatypes::SchemaRef;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Expr, Value, visit_expressions};
use futures::StreamExt;

use crate::error::{Context, Error, Kind, Result};
use crate::query::session::{BatchStream, Param, Session};
use crate::table::cast::cast_batch;
use crate::table::contract::Contract;

/// The definitions inside the binary, by table.
const BUILTIN: [(&str, &str); 14] = [
    ("alignment_example", include_str!("../../sql/alignment_example.sql")),
    ("correction_case", include_str!("../../sql/correction_case.sql")),
    ("item_audience", include_str!("../../sql/item_audience.sql")),
    ("item_category", include_str!("../../sql/item_category.sql")),
    ("item_feature", include_str!("../../sql/item_feature.sql")),
    ("item_pair", include_str!("../../sql/item_pair.sql")),
    ("item_taste", include_str!("../../sql/item_taste.sql")),
    ("opinion", include_str!("../../sql/opinion.sql")),
    ("reason", include_str!("../../sql/reason.sql")),
    ("reason_prompt", include_str!("../../sql/reason_prompt.sql")),
    ("reward_example", include_str!("../../sql/reward_example.sql")),
    ("split", include_str!("../../sql/split.sql")),
    ("user_feature", include_str!("../../sql/user_feature.sql")),
    ("user_history", include_str!("../../sql/user_history.sql")),
];

/// Definitions over a whole log, whose joins are written so that the left side is the one to hold in memory.
const JOINS_AS_WRITTEN: [&str; 5] = ["item_category", "item_pair", "item_taste", "opinion", "user_history"];

/// Definitions that join wide rows, or more rows than there are events.
const SORTED_JOINS: [&str; 2] = ["item_audience", "reason_prompt"];

/// One table's definition.
#[derive(Debug, Clone)]
pub struct Model {
    name: String,
    text: String,
    origin: String,
    digest: String,
    tables: BTreeSet<String>,
    functions: BTreeSet<String>,
    params: BTreeSet<String>,
}

impl Model {
    /// Reads a definition: one SELECT.
    ///
    /// # Errors
    /// `Kind::Config` naming `origin` for anything else.
    pub fn parse(name: &str, text: &str, origin: &str) -> Result<Self> {
        let bad = |why: &str| Error::new(Kind::Config, format!("a table's definition {why}")).with("file", origin);
        let mut statements = DFParser::parse_sql(text)
            .context(Kind::Config, || "a table's definition is not valid SQL".into())
            .map_err(|e| e.with("file", origin))?;
        let (Some(statement), None) = (statements.pop_front(), statements.pop_front()) else {
            return Err(bad("is not exactly one statement"));
        };
        let Statement::Statement(sql) = &statement else { return Err(bad("is not a SELECT")) };
        if !matches!(**sql, datafusion::sql::sqlparser::ast::Statement::Query(_)) {
            return Err(bad("is not a SELECT"));
        }
        let (mut functions, mut params) = (BTreeSet::new(), BTreeSet::new());
        let _: ControlFlow<()> = visit_expressions(&**sql, |e| {
            match e {
                Expr::Function(f) => {
                    functions.insert(f.name.to_string().to_lowercase());
                }
                Expr::Value(v) => {
                    if let Value::Placeholder(name) = &v.value {
                        params.insert(name.trim_start_matches('$').to_owned());
                    }
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
        let (references, _) = resolve_table_references(&statement, true)
            .context(Kind::Config, || "cannot tell what a table's definition reads".into())
            .map_err(|e| e.with("file", origin))?;
        Ok(Model {
            name: name.to_owned(),
            text: text.to_owned(),
            origin: origin.to_owned(),
            digest: blake3::hash(text.as_bytes()).to_hex().as_str()[..32].to_owned(),
            tables: references.iter().map(|r| r.table().to_owned()).collect(),
            functions,
            params,
        })
    }

    /// The definition of a table: `<folder>/<name>.sql` where there is such a file, else the one inside the binary.
    ///
    /// # Errors
    /// `Kind::Config` when there is none, or it cannot be read or parsed.
    pub fn find(name: &str, folder: Option<&Path>) -> Result<Self> {
        if let Some(path) = folder.map(|f| f.join(format!("{name}.sql"))).filter(|p| p.exists()) {
            let text = std::fs::read_to_string(&path)
                .context(Kind::Config, || "cannot read a table's definition".into())
                .map_err(|e| e.with("file", path.display()))?;
            return Self::parse(name, &text, &path.display().to_string());
        }
        let (_, text) = BUILTIN
            .iter()
            .find(|(n, _)| *n == name)
            .ok_or_else(|| Error::new(Kind::Config, "no SQL makes this table").with("table", name))?;
        Self::parse(name, text, &format!("sql/{name}.sql (built in)"))
    }

    /// The definition inside the binary.
    ///
    /// # Errors
    /// As [`Model::find`].
    pub fn builtin(name: &str) -> Result<Self> {
        Self::find(name, None)
    }

    /// Names of all tables defined inside the binary, sorted.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(n, _)| *n)
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SQL.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Digest of the SQL's text: 32 hex digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Tables that it reads.
    pub fn tables(&self) -> &BTreeSet<String> {
        &self.tables
    }

    /// Functions that it calls, DataFusion's own among them.
    pub fn functions(&self) -> &BTreeSet<String> {
        &self.functions
    }

    /// Parameters that it needs, without the dollar sign.
    pub fn params(&self) -> &BTreeSet<String> {
        &self.params
    }

    /// The table's rows in the contract's columns, order and types, sorted as the contract says. They are not held
    /// against the contract yet: any column may hold nulls, and a batch with a value that does not fit its column comes
    /// as the SQL made it. That is staging's business, which finds all bad rows and not just the first.
    ///
    /// `params` may hold more than the definition needs.
    ///
    /// # Errors
    /// `Kind::Config` when a parameter has no value, the SQL cannot be planned, or its columns are not the contract's.
    pub async fn run(&self, session: &Session, contract: &Contract, params: &[(&str, Param)]) -> Result<BatchStream> {
        let place = |e: Error| e.with("table", &self.name).with("file", &self.origin);
        let given: Vec<_> = params.iter().filter(|(n, _)| self.params.contains(*n)).cloned().collect();
        let absent: Vec<_> = self
            .params
            .iter()
            .filter(|p| !given.iter().any(|(n, _)| *n == p.as_str()))
            .map(|p| format!("${p}"))
            .collect();
        if !absent.is_empty() {
            return Err(place(Error::new(Kind::Config, format!("no value for the parameter {}", absent.join(", ")))));
        }
        let rows = match self.name.as_str() {
            name if JOINS_AS_WRITTEN.contains(&name) => session.sql_as_written(&self.text, &given).await,
            name if SORTED_JOINS.contains(&name) => session.sql_with_sorted_joins(&self.text, &given).await,
            _ => session.sql(&self.text, &given).await,
        };
        let rows = rows.map_err(place)?;
        self.compare(&rows.schema(), contract).map_err(place)?;
        let stream = rows.sorted_by(&contract.sorted_by)?.stream().await.map_err(place)?;
        let contract = contract.clone();
        Ok(stream
            .map(move |batch| {
                let batch = batch?;
                Ok(cast_batch(&contract, &batch)?.unwrap_or(batch))
            })
            .boxed())
    }

    fn compare(&self, schema: &SchemaRef, contract: &Contract) -> Result<()> {
        let made: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let wanted: Vec<_> = contract.columns.iter().map(|c| c.name.as_str()).collect();
        if made == wanted {
            return Ok(());
        }
        let less = |a: &[&str], b: &[&str]| a.iter().filter(|n| !b.contains(n)).copied().collect::<Vec<_>>().join(", ");
        let (absent, unknown) = (less(&wanted, &made), less(&made, &wanted));
        let mut why = String::from("the columns of the SQL are not the contract's");
        if !absent.is_empty() {
            why.push_str(&format!("; missing: {absent}"));
        }
        if !unknown.is_empty() {
            why.push_str(&format!("; not in the contract: {unknown}"));
        }
        if absent.is_empty() && unknown.is_empty() {
            why.push_str(&format!("; the contract's order is {}", wanted.join(", ")));
        }
        Err(Error::new(Kind::Config, why))
    }
}

/// The models in an order in which each one stands behind what it reads; ties by name.
///
/// # Errors
/// `Kind::Config` naming the tables of a circle.
pub fn in_order(models: Vec<Model>) -> Result<Vec<Model>> {
    let mut waiting: BTreeMap<String, Model> = models.into_iter().map(|m| (m.name.clone(), m)).collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let next = waiting.values().find(|m| !m.tables.iter().any(|t| waiting.contains_key(t))).map(|m| m.name.clone());
        match next.and_then(|name| waiting.remove(&name)) {
            Some(model) => ordered.push(model),
            None => {
                let names = waiting.into_keys().collect::<Vec<_>>().join(", ");
                return Err(
                    Error::new(Kind::Config, "table definitions read each other in a circle").with("tables", names)
                );
            }
        }
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_model_knows_what_it_reads_calls_and_needs() {
        let model =
            Model::parse("t", "with x as (select f(a) as b from s where c < $as_of) select b from x", "t.sql").unwrap();
        assert_eq!(model.tables().iter().collect::<Vec<_>>(), ["s"]);
        assert_eq!(model.functions().iter().collect::<Vec<_>>(), ["f"]);
        assert_eq!(model.params().iter().collect::<Vec<_>>(), ["as_of"]);
        assert_eq!(model.digest().len(), 32);
    }

    #[test]
    fn anything_but_one_select_is_refused() {
        for text in ["drop table t", "select 1; select 2", "", "copy t to 'x'", "selec"] {
            assert_eq!(Model::parse("t", text, "t.sql").unwrap_err().kind(), Kind::Config, "{text}");
        }
    }

    #[test]
    fn every_built_in_definition_parses_and_they_order_by_what_they_read() {
        let models = Model::builtin_names().map(|n| Model::builtin(n).unwrap()).collect();
        let names: Vec<_> = in_order(models).unwrap().into_iter().map(|m| m.name).collect();
        let place = |n: &str| names.iter().position(|m| m == n).unwrap();
        assert!(place("reason_prompt") > place("item_audience") && place("reason_prompt") > place("user_history"));
        assert!(place("reason") > place("reason_prompt"));
        assert!(place("item_feature") > place("item_audience") && place("user_feature") > place("user_history"));
    }

    #[test]
    fn a_circle_is_named() {
        let model = |name: &str, other: &str| Model::parse(name, &format!("select 1 as a from {other}"), "x").unwrap();
        let error = in_order(vec![model("a", "b"), model("b", "a"), model("c", "d")]).unwrap_err();
        assert!(error.to_string().contains("a, b"), "{error}");
    }
}
