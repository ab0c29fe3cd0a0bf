//! JSON lines of reviews and metadata, as in Amazon's 5-core sets.
//!
//! Knows their fields.

use std::path::Path;

use polars::prelude::{
    Column, DataFrame, DataType, IntoLazy, IntoSeries, NamedFrom, Series, StringChunkedBuilder, col, lit,
};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::operate::import::descriptions::without_items;
use crate::operate::import::frames::{apart, sorted, unreadable};
use crate::operate::import::lines::{bad_line, each_line};
use crate::operate::import::rows::ItemRow;
use crate::operate::import::titles::price;
use crate::operate::import::writing::{ImportReport, Output};

/// The hint for lines that are not reviews.
const REVIEW_HINT: &str = "a line has reviewerID, asin, overall, unixReviewTime (whole seconds), reviewText and summary, as in \
                           Amazon's files of 2014 and 2018; rename the fields of other files";

/// Imports Amazon's 5-core JSON lines: reviews (`reviewerID`, `asin`, `overall`, `unixReviewTime`, `reviewText`,
/// `summary`) and, where given, metadata (`asin`, `title`, `categories` or `category`, `brand`, `description`,
/// `price`), with the descriptions of a file of their own. What a crawl left undated (`also_buy`, `salesRank`) is not read.
///
/// # Errors
/// `Kind::Input` naming file and line for missing files and bad lines; `Kind::Usage` for descriptions without items;
/// `Kind::Temporary` where writing fails.
pub fn import(
    reviews: &Path,
    metadata: Option<&Path>,
    descriptions: Option<&Path>,
    out: &Path,
) -> Result<ImportReport> {
    match (metadata, descriptions) {
        (None, Some(path)) => Err(without_items(path, "--metadata")),
        _ => apart(|| read_and_write(reviews, metadata, descriptions, out)),
    }
}

fn read_and_write(
    reviews: &Path,
    metadata: Option<&Path>,
    descriptions: Option<&Path>,
    out: &Path,
) -> Result<ImportReport> {
    #[derive(Deserialize)]
    #[allow(non_snake_case)]
    struct Review {
        reviewerID: String,
        asin: String,
        overall: Option<f64>,
        unixReviewTime: i64,
        reviewText: Option<String>,
        summary: Option<String>,
    }
    let names = ["reviewerID", "asin", "reviewText", "summary"];
    let mut texts = names.map(|name| StringChunkedBuilder::new(name.into(), 0));
    let (mut ratings, mut times): (Vec<Option<f64>>, Vec<i64>) = (Vec::new(), Vec::new());
    each_line(reviews, |number, line| {
        let review: Review = serde_json::from_str(line)
            .map_err(|e| bad_json(reviews, number, line, &e.to_string(), Some(REVIEW_HINT)))?;
        if review.reviewerID.is_empty() || review.asin.is_empty() {
            return Err(bad_line(reviews, number, "reviewerID or asin is empty"));
        }
        if !(-60_000_000_000..=250_000_000_000).contains(&review.unixReviewTime) {
            let why = format!("unixReviewTime is no time in seconds: {}", review.unixReviewTime);
            return Err(bad_line(reviews, number, &why).hint(REVIEW_HINT));
        }
        let said = [Some(review.reviewerID), Some(review.asin), review.reviewText, review.summary];
        texts.iter_mut().zip(said).for_each(|(column, text)| column.append_option(text));
        ratings.push(review.overall);
        times.push(review.unixReviewTime);
        Ok(())
    })?;
    let mut columns: Vec<Column> = texts.into_iter().map(|column| column.finish().into_series().into()).collect();
    columns.push(Series::new("overall".into(), ratings).into());
    columns.push(Series::new("unixReviewTime".into(), times).into());
    let lazy = DataFrame::new_infer_height(columns).map_err(|e| unreadable(reviews, &e))?.lazy();
    let lazy = lazy.select([
        col("reviewerID").alias("user_id"),
        col("asin").alias("item_id"),
        col("overall").cast(DataType::Float32).alias("rating"),
        (col("unixReviewTime") * lit(1_000_000_i64)).alias("event_timestamp"),
        col("summary"),
        col("reviewText").alias("text"),
    ]);
    let frame = sorted(lazy, &["event_timestamp", "user_id", "item_id"]).map_err(|e| unreadable(reviews, &e))?;
    let mut output = Output::new(out)?;
    output.reviews(&frame)?;
    let mut interactions =
        frame.select(["user_id", "item_id", "rating", "event_timestamp"]).map_err(|e| unreadable(reviews, &e))?;
    let event = Series::new("event".into(), vec!["rating"; frame.height()]);
    interactions.with_column(event.into()).map_err(|e| unreadable(reviews, &e))?;
    output.interactions(interactions)?;
    if let Some(path) = metadata {
        let mut rows: Vec<ItemRow> = Vec::new();
        each_line(path, |number, line| {
            rows.push(amazon_item(line).map_err(|why| bad_json(path, number, line, &why, None))?);
            Ok(())
        })?;
        rows.sort_by(|a, b| a.item_id.cmp(&b.item_id));
        // The published sets repeat items; the first one is kept.
        rows.dedup_by(|later, first| later.item_id == first.item_id);
        output.items(rows, descriptions)?;
    }
    output.publish()
}

fn amazon_item(line: &str) -> Result<ItemRow, String> {
    let value: serde_json::Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let text = |name: &str| -> Option<String> {
        let joined = match value.get(name)? {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(parts) => {
                parts.iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(" ")
            }
            _ => return None,
        };
        Some(joined).filter(|t| !t.trim().is_empty())
    };
    let item_id = text("asin").ok_or("asin is missing")?;
    let mut categories = Vec::new();
    let found = value.get("categories").or_else(|| value.get("category"));
    let mut waiting: Vec<&serde_json::Value> = found.into_iter().collect();
    while let Some(next) = waiting.pop() {
        match next {
            serde_json::Value::Array(inner) => waiting.extend(inner.iter().rev()),
            serde_json::Value::String(name) if !name.is_empty() && !categories.contains(name) => {
                categories.push(name.clone());
            }
            _ => {}
        }
    }
    let categories = found.map(|_| categories);
    let (title, description, brand) = (text("title"), text("description"), text("brand"));
    // A number in the files of 2014, a text such as `$12.99` in those of 2018; what is neither is no price.
    let price = match value.get("price") {
        Some(serde_json::Value::Number(number)) => price(&number.to_string()),
        Some(serde_json::Value::String(text)) => price(text),
        _ => None,
    };
    Ok(ItemRow { item_id, title, categories, description, brand, price, ..ItemRow::default() })
}

/// The error for a line; `hint` says what to do where that is not plain to see.
fn bad_json(path: &Path, line: u64, text: &str, why: &str, hint: Option<&str>) -> Error {
    let error = bad_line(path, line, why);
    match (text.trim_start().starts_with("{'"), hint) {
        (true, _) => {
            error.hint("these are Python literals; make JSON of each line: json.dumps(ast.literal_eval(line))")
        }
        (false, Some(hint)) => error.hint(hint),
        (false, None) => error,
    }
}
