//! What the SQL tests share: a session with stand-ins for the functions that render prompts.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, StructArray, new_null_array};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use curec::generate::functions;
use curec::night::graph::{EARLIER, Graph};
use curec::query::session::{Param, Session, SessionOptions};
use curec::table::build::By;
use curec::table::contract::Contract;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use futures::TryStreamExt;

/// A session with `threads` partitions, small batches, the stand-ins, and the functions that need no model.
pub(crate) fn session(threads: usize, batch_size: usize) -> Session {
    let options = SessionOptions { threads, batch_size, memory_limit: 1 << 30, ..SessionOptions::default() };
    let session = Session::new(options).unwrap();
    functions::without_model().into_iter().for_each(|f| session.register_function(f));
    let text = DataType::Utf8;
    let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    let evidence: Vec<DataType> =
        std::iter::repeat_n(text.clone(), 3).chain(std::iter::repeat_n(list.clone(), 8)).collect();
    // Everything fits.
    let lists = ["liked", "disliked", "related", "attributes", "content", "praise", "fault", "keywords"];
    let fields: Fields = std::iter::once(Field::new("subject", text.clone(), true))
        .chain(lists.map(|name| Field::new(name, list.clone(), true)))
        .chain(["prompt_text", "answer_stem"].map(|name| Field::new(name, text.clone(), true)))
        .collect();
    let fitted = fields.clone();
    let fit = move |arguments: &[ColumnarValue]| {
        let mut arrays = ColumnarValue::values_to_arrays(arguments)?;
        let (prompt, stem) = (joined("prompt", &arrays), joined("stem", &arrays));
        // Kind and verdict stay as they are.
        arrays.remove(2);
        arrays.remove(0);
        arrays.extend([prompt, stem]);
        Ok(ColumnarValue::Array(Arc::new(StructArray::try_new(fitted.clone(), arrays, None)?) as ArrayRef))
    };
    let key = |arguments: &[ColumnarValue]| {
        Ok(ColumnarValue::Array(joined("key", &ColumnarValue::values_to_arrays(arguments)?)))
    };
    let made = DataType::Struct(fields);
    let is_pure = Volatility::Immutable;
    session.register_function(create_udf("fit_evidence", evidence, made, is_pure, Arc::new(fit)));
    session.register_function(create_udf("prompt_key", vec![text.clone(), text.clone()], text, is_pure, Arc::new(key)));
    session
}

/// A text for each row: its cells, and what they stand for.
fn joined(tag: &str, arrays: &[ArrayRef]) -> ArrayRef {
    let rows = arrays.first().map_or(0, |a| a.len());
    let texts = (0..rows).map(|i| {
        let cells: Vec<_> = arrays.iter().map(|a| cell(a, i)).collect();
        format!("{tag}({})", cells.join("|"))
    });
    Arc::new(StringArray::from_iter_values(texts))
}

/// Rows with nulls for the columns that a table's contract allows to lack, as its files are read.
pub(crate) fn padded(table: &str, rows: Vec<RecordBatch>) -> Vec<RecordBatch> {
    let contract = Contract::builtin(table).unwrap();
    let pad = |batch: RecordBatch| {
        let (mut fields, mut columns) = (batch.schema().fields().to_vec(), batch.columns().to_vec());
        for field in contract.arrow_schema(None).fields() {
            if field.is_nullable() && batch.column_by_name(field.name()).is_none() {
                columns.push(new_null_array(field.data_type(), batch.num_rows()));
                fields.push(field.clone());
            }
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    };
    rows.into_iter().map(pad).collect()
}

/// One value as text.
pub(crate) fn cell(array: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    ArrayFormatter::try_new(array, &options).unwrap().value(row).to_string()
}

/// Tables that a test need not tell of: nobody wrote anything, nobody is a candidate, nothing was chosen, and one threshold is
/// everybody's.
const OPTIONAL: [&str; 8] = [
    "review",
    "pair",
    "pair_candidate",
    "pair_opinion",
    "pair_evidence",
    "item_choice",
    "item_correction",
    "like_level",
];

/// What a test did not say, and nothing was published before.
fn lacking(session: &Session, graph: &Graph, table: &str) -> Vec<String> {
    let reads = graph.parts(table).into_iter().flat_map(|part| graph.reads(part));
    let empty = reads.filter(|read| read.starts_with(EARLIER) || OPTIONAL.contains(read));
    empty.filter(|read| !session.has_table(read)).map(str::to_owned).collect()
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
    for read in lacking(session, &graph, table) {
        let contract = graph.contract(read.strip_prefix(EARLIER).unwrap_or(&read))?;
        session.register_batches(&read, contract.arrow_schema(None), Vec::new())?;
    }
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
