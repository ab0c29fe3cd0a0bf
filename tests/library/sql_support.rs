//! What the SQL tests share: a session with stand-ins for the functions that render prompts.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use curec::generate::functions;
use curec::night::graph::Graph;
use curec::query::session::{Param, Session, SessionOptions};
use curec::table::build::By;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use futures::TryStreamExt;

/// A session with `threads` partitions, small batches, the stand-ins, and the functions that need no model.
pub(crate) fn session(threads: usize, batch_size: usize) -> Session {
    let options = SessionOptions { threads, batch_size, memory_limit: 1 << 30, ..SessionOptions::default() };
    let session = Session::new(options).unwrap();
    functions::without_model().into_iter().for_each(|f| session.register_function(f));
    let text = DataType::Utf8;
    let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    let evidence =
        vec![text.clone(), text.clone(), text.clone(), list.clone(), list.clone(), list.clone(), list.clone()];
    for (name, tag, arguments) in [
        ("render_prompt", "prompt", evidence.clone()),
        ("render_stem", "stem", evidence),
        ("prompt_key", "key", vec![text.clone(), text.clone()]),
    ] {
        let join = move |arguments: &[ColumnarValue]| {
            let arrays = ColumnarValue::values_to_arrays(arguments)?;
            let rows = arrays.first().map_or(0, |a| a.len());
            let joined = (0..rows).map(|i| {
                let cells: Vec<_> = arrays.iter().map(|a| cell(a, i)).collect();
                format!("{tag}({})", cells.join("|"))
            });
            Ok(ColumnarValue::Array(Arc::new(StringArray::from_iter_values(joined)) as ArrayRef))
        };
        session.register_function(create_udf(name, arguments, text.clone(), Volatility::Immutable, Arc::new(join)));
    }
    session
}

/// One value as text.
pub(crate) fn cell(array: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    ArrayFormatter::try_new(array, &options).unwrap().value(row).to_string()
}

/// Makes a table from its built-in definition under its contract, and before it the unpublished ones that a run makes
/// for it, and registers them; returns its rows. Of a table that a step in Rust makes, these
/// are the definition's rows, before the step.
pub(crate) async fn run(
    session: &Session,
    table: &str,
    params: &[(&str, Param)],
) -> curec::error::Result<Vec<RecordBatch>> {
    let graph = Graph::builtin()?;
    for name in graph.parts(table).into_iter().filter(|name| *name != table) {
        // A script may have put the table there itself, without what it is made from and without its parameters.
        let is_given = |param: &String| params.iter().any(|(given, _)| given == param);
        if graph.build(name)?.by == By::Sql
            && graph.reads(name).all(|read| session.has_table(read))
            && graph.definition(name)?.params().iter().all(is_given)
        {
            make(session, &graph, name, params).await?;
        }
    }
    make(session, &graph, table, params).await
}

async fn make(
    session: &Session,
    graph: &Graph,
    table: &str,
    params: &[(&str, Param)],
) -> curec::error::Result<Vec<RecordBatch>> {
    let (contract, build, definition) = (graph.contract(table)?, graph.build(table)?, graph.definition(table)?);
    let rows = match build.by {
        By::Sql | By::Generate => definition.run(session, contract, params).await?,
        By::Score | By::Pool | By::Correct => definition.rows(session, build.joins, params).await?.stream().await?,
    };
    let batches: Vec<_> = rows.try_collect().await?;
    let schema = batches.first().map_or_else(|| contract.arrow_schema(None), RecordBatch::schema);
    session.register_batches(table, schema, batches.clone())?;
    Ok(batches)
}
