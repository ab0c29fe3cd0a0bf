//! Tables that SQL makes: `sql/<table>.sql`, what each one reads and calls, their order, and their rows under contract.
//!
//! Knows the session and contracts; knows nothing of where rows go or when they are made.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use arrow::datatypes::SchemaRef;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Expr, Value, visit_expressions};
use futures::StreamExt;

use crate::error::{Context, Error, Kind, Result};
use crate::query::datafusion_error::place_of;
use crate::query::session::{BatchStream, Param, Rows, Session};
use crate::table::build::Joins;
use crate::table::builtin::{self, DEFINITIONS};
use crate::table::cast::cast_batch;
use crate::table::contract::Contract;

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
        let mut statements = DFParser::parse_sql(text).map_err(|e| {
            let place = place_of(&e, text);
            let error =
                Error::new(Kind::Config, "a table's definition is not valid SQL").with("file", origin).source(e);
            let error = match &place {
                Some(found) => error.with("line", found.line()),
                None => error,
            };
            error.showing(place)
        })?;
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
        let text = builtin::text(DEFINITIONS, name)
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
        DEFINITIONS.iter().map(|(n, _)| *n)
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

    /// The definition's rows as its SQL makes them, planned as `joins` says. `params` may hold more than it needs.
    ///
    /// # Errors
    /// `Kind::Config` when a parameter has no value or the SQL cannot be planned.
    pub async fn rows(&self, session: &Session, joins: Joins, params: &[(&str, Param)]) -> Result<Rows> {
        let given: Vec<_> = params.iter().filter(|(n, _)| self.params.contains(*n)).cloned().collect();
        let absent: Vec<_> = self
            .params
            .iter()
            .filter(|p| !given.iter().any(|(n, _)| *n == p.as_str()))
            .map(|p| format!("${p}"))
            .collect();
        if !absent.is_empty() {
            return Err(
                self.place(Error::new(Kind::Config, format!("no value for the parameter {}", absent.join(", "))))
            );
        }
        let rows = match joins {
            Joins::AsWritten => session.sql_as_written(&self.text, &given).await,
            Joins::Sorted => session.sql_with_sorted_joins(&self.text, &given).await,
            Joins::Planned => session.sql(&self.text, &given).await,
        };
        rows.map_err(|e| self.place(e))
    }

    /// The error with the table and its file.
    pub fn place(&self, error: Error) -> Error {
        error.with("table", &self.name).with("file", &self.origin)
    }

    /// The definition's rows, sorted as the contract says and held against its columns. Nothing is computed.
    ///
    /// # Errors
    /// As [`Model::rows`]; `Kind::Config` when the columns are not the contract's.
    pub async fn planned(&self, session: &Session, contract: &Contract, params: &[(&str, Param)]) -> Result<Rows> {
        let joins = contract.build.as_ref().map(|build| build.joins).unwrap_or_default();
        let rows = self.rows(session, joins, params).await?;
        self.compare(&rows.schema(), contract).map_err(|e| self.place(e))?;
        rows.sorted_by(&contract.sorted_by)
    }

    /// The table's rows in the contract's columns, order and types, sorted as the contract says. They are not held
    /// against the contract yet: any column may hold nulls, and a batch with a value that does not fit its column comes
    /// as the SQL made it. That is staging's business, which finds all bad rows and not just the first.
    ///
    /// # Errors
    /// As [`Model::rows`]; `Kind::Config` when the columns are not the contract's.
    pub async fn run(&self, session: &Session, contract: &Contract, params: &[(&str, Param)]) -> Result<BatchStream> {
        let rows = self.planned(session, contract, params).await?;
        let stream = rows.stream().await.map_err(|e| self.place(e))?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::query::session::SessionOptions;

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
    fn what_is_no_sql_names_its_line() {
        let error = Model::parse("t", "select a +\n) from s", "t.sql").unwrap_err();
        assert!(error.to_string().contains("(file: t.sql, line: 2)"), "{error}");
        assert!(error.explain().contains("\n  --> t.sql:2:1\n   |\n 2 | ) from s\n   | ^"), "{}", error.explain());
    }

    #[tokio::test]
    async fn a_column_that_is_not_there_is_found_without_reading_a_row() {
        let session = Session::new(SessionOptions { threads: 1, ..SessionOptions::default() }).unwrap();
        let contract = Contract::builtin("item").unwrap();
        session.register_batches("item", contract.arrow_schema(None), Vec::new()).unwrap();
        for (sql, line, marked) in [
            ("select\n    item_id,\n    titel\nfrom item", 3, "t.sql:3:5\n   |\n 3 |     titel\n   |     ^^^^^"),
            (
                "select item_id\nfrom item\nwhere titel is null",
                3,
                "t.sql:3:7\n   |\n 3 | where titel is null\n   |       ^^^^^",
            ),
        ] {
            let model = Model::parse("t", sql, "t.sql").unwrap();
            let error = model.rows(&session, Joins::Planned, &[]).await.err().unwrap();
            assert_eq!(error.kind(), Kind::Config);
            let at = error.context().iter().find(|(key, _)| *key == "line").map(|(_, at)| at.clone());
            assert_eq!(at, Some(line.to_string()), "{error}");
            assert!(error.explain().contains(marked), "{}", error.explain());
        }
        let model = Model::parse("t", "select abs(title) as a from item", "t.sql").unwrap();
        let planned = model.rows(&session, Joins::Planned, &[]).await;
        assert!(planned.and_then(Rows::analyse).is_err());
        let model = Model::parse("t", "select abs(price) as a from item", "t.sql").unwrap();
        assert!(model.rows(&session, Joins::Planned, &[]).await.and_then(Rows::analyse).is_ok());
    }

    #[test]
    fn anything_but_one_select_is_refused() {
        for text in ["drop table t", "select 1; select 2", "", "copy t to 'x'", "selec"] {
            assert_eq!(Model::parse("t", text, "t.sql").unwrap_err().kind(), Kind::Config, "{text}");
        }
    }
}
