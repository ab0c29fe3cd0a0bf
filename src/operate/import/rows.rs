//! Interactions and items of separated files, checked and sorted.
//!
//! Importers say which column carries what. Knows nothing of how tables are written.

use polars::prelude::{Column, DataFrame, DataType, Expr, IntoLazy, NamedFrom, Series, col, lit, when};

use crate::epoch::EpochUnit;
use crate::error::Result;
use crate::operate::import::frames::{ROW, row_number, sorted, text_at, unreadable};
use crate::operate::import::separated::Source;
use crate::operate::import::times::{Timestamps, parse_time};

/// Interactions with the contract's column names (`event_timestamp` in microseconds), sorted.
pub(super) fn interaction_frame(
    source: &Source,
    user: &str,
    item: &str,
    rating: Option<&str>,
    event: Option<&str>,
    timestamp: &str,
    unit: Timestamps,
) -> Result<DataFrame> {
    let wanted: Vec<&str> = [user, item, timestamp].into_iter().chain(rating).chain(event).collect();
    let mut rows = source.read(&wanted)?;
    if let Some(rating) = rating {
        rows.read_nulls(rating)?;
    }
    let lazy = rows.frame.clone().lazy();
    let blank = |name: &str| col(name).is_null().or(col(name).eq(lit("")));
    let mut problems: Vec<(&str, Expr, &str)> = vec![
        (user, blank(user), "the user is empty"),
        (item, blank(item), "the item is empty"),
        (timestamp, blank(timestamp), "the timestamp is empty"),
    ];
    if let Some(rating) = rating {
        let number = col(rating).cast(DataType::Float32);
        let finite = number.clone().gt_eq(lit(f32::MIN)).and(number.clone().lt_eq(lit(f32::MAX)));
        let bad = blank(rating).not().and(number.is_null().or(finite.not()));
        problems.push((rating, bad, "the rating is not a finite number"));
    }
    let micros = match unit {
        Timestamps::Text => None,
        // A float holds today's microseconds exactly, and files such as RecBole's say `881250949` or `881250949.0`.
        Timestamps::Counted(EpochUnit::Micros) => Some(col(timestamp).cast(DataType::Int64).cast(DataType::Float64)),
        Timestamps::Counted(unit) => Some(col(timestamp).cast(DataType::Float64) * lit(1e6 / unit.per_second())),
    };
    if let Some(micros) = &micros {
        let sane = micros.clone().gt_eq(lit(-6e16)).and(micros.clone().lt_eq(lit(2.5e17)));
        problems.push((timestamp, micros.clone().is_null().or(sane.not()), "the timestamp is no time"));
    }
    for (column, bad, why) in &problems {
        let found = lazy
            .clone()
            .filter(bad.clone())
            .select([col(ROW), col(*column).alias("value")])
            .limit(1)
            .collect()
            .map_err(|e| unreadable(&source.path, &e))?;
        if found.height() > 0 {
            let value = text_at(&found, "value", 0).unwrap_or_default();
            let value: String = value.chars().take(40).collect();
            let error = rows.bad(row_number(&found, 0), &format!("{why}: {value:?}")).with("column", column);
            return Err(match unit {
                Timestamps::Text => error,
                _ if *column == timestamp => {
                    error.hint("name what the timestamps are: --mapping time_unit=s, ms, us, ns or text")
                }
                _ => error,
            });
        }
    }
    let mut columns = vec![col(user).alias("user_id"), col(item).alias("item_id")];
    if let Some(rating) = rating {
        columns.push(col(rating).cast(DataType::Float32).alias("rating"));
    }
    columns.push(match event {
        Some(event) => col(event).alias("event"),
        None => lit("rating").alias("event"),
    });
    let lazy = match micros {
        Some(micros) => {
            // Float64 is exact below 2^53 us (year 2255); rounding undoes 1e-3 and fractions of a microsecond.
            let half = when(micros.clone().gt_eq(lit(0.0))).then(lit(0.5)).otherwise(lit(-0.5));
            let whole = (micros + half).cast(DataType::Int64);
            columns.push(whole.alias("event_timestamp"));
            lazy.select(columns)
        }
        None => {
            columns.extend([col(timestamp).alias("__time"), col(ROW)]);
            let mut frame = lazy.select(columns).collect().map_err(|e| unreadable(&source.path, &e))?;
            let mut times = Vec::with_capacity(frame.height());
            for row in 0..frame.height() {
                let text = text_at(&frame, "__time", row).unwrap_or_default();
                times.push(parse_time(&text).ok_or_else(|| {
                    rows.bad(row_number(&frame, row), &format!("the timestamp is no time: {text:?}"))
                        .with("column", timestamp)
                        .hint("write it as 2026-11-21 10:00:00+00:00")
                })?);
            }
            let times: Column = Series::new("event_timestamp".into(), times).into();
            frame.with_column(times).map_err(|e| unreadable(&source.path, &e))?;
            frame.lazy()
        }
    };
    sorted(lazy, &["event_timestamp", "user_id", "item_id", "event"]).map_err(|e| unreadable(&source.path, &e))
}

/// One item on its way into `item.parquet`.
#[derive(Debug, Clone, Default)]
pub(super) struct ItemRow {
    pub(super) item_id: String,
    pub(super) title: Option<String>,
    pub(super) release_year: Option<i32>,
    pub(super) release_year_text: Option<String>,
    pub(super) categories: Option<Vec<String>>,
    pub(super) categories_text: Option<String>,
    pub(super) description: Option<String>,
    pub(super) brand: Option<String>,
    pub(super) people: Option<Vec<String>>,
    pub(super) people_text: Option<String>,
    pub(super) price: Option<f32>,
    pub(super) price_text: Option<String>,
}

/// Items of a file, finished by `finish`, sorted by id. `columns` says which of the file's columns carries what.
pub(super) fn item_rows(
    source: &Source,
    columns: &[(&str, Option<String>)],
    finish: impl Fn(&mut ItemRow) -> Result<(), String>,
) -> Result<Vec<ItemRow>> {
    let mut selected = vec![col(ROW)];
    for (name, column) in columns {
        if let Some(column) = column {
            selected.push(col(column.as_str()).alias(*name));
        }
    }
    let wanted: Vec<&str> = columns.iter().filter_map(|(_, column)| column.as_deref()).collect();
    let read = source.read(&wanted)?;
    let frame = read.frame.clone().lazy().select(selected).collect().map_err(|e| unreadable(&source.path, &e))?;
    let mut rows: Vec<(ItemRow, u64)> = Vec::with_capacity(frame.height());
    for i in 0..frame.height() {
        let text = |name: &str| text_at(&frame, name, i).filter(|t| !t.is_empty());
        let fail = |why: &str| read.bad(i as u64, why);
        let mut row = ItemRow {
            item_id: text("item_id").ok_or_else(|| fail("the item is empty"))?,
            title: text("title"),
            release_year_text: text("release_year"),
            categories_text: text("categories"),
            description: text("description"),
            brand: text("brand"),
            people_text: text("people"),
            price_text: text("price"),
            ..ItemRow::default()
        };
        finish(&mut row).map_err(|why| fail(&why))?;
        rows.push((row, i as u64));
    }
    rows.sort_by(|(a, i), (b, j)| a.item_id.cmp(&b.item_id).then(i.cmp(j)));
    if let Some(pair) = rows.windows(2).find(|pair| pair[0].0.item_id == pair[1].0.item_id) {
        let first = read.lines.get(pair[0].1 as usize).copied().unwrap_or(0);
        return Err(read
            .bad(pair[1].1, "the item stands twice")
            .with("key", format!("item_id={}", pair[1].0.item_id))
            .with("first", format!("line {first}")));
    }
    Ok(rows.into_iter().map(|(row, _)| row).collect())
}
