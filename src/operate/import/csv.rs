//! CSV files of interactions and items, with a mapping that says what their columns carry.
//!
//! Knows the mapping. Knows nothing of particular data sets.

use std::collections::BTreeMap;
use std::path::Path;

use crate::epoch::EpochUnit;
use crate::error::{Error, Kind, Result};
use crate::operate::import::descriptions::without_items;
use crate::operate::import::frames::apart;
use crate::operate::import::rows::{interaction_frame, item_rows};
use crate::operate::import::separated::Source;
use crate::operate::import::times::Timestamps;
use crate::operate::import::titles::{movie_title, price, split_categories};
use crate::operate::import::writing::{ImportReport, Output};

/// What the columns of CSV files carry.
#[derive(Debug, Clone)]
pub struct CsvMapping {
    /// Contract column to CSV column, such as `user_id` to `userId`. Columns that are not named keep their name.
    pub columns: BTreeMap<String, String>,
    /// What the timestamps are.
    pub time_unit: Timestamps,
    /// The character between fields.
    pub separator: u8,
    /// The character around fields that hold separators or line breaks; `None`: quotation marks are ordinary
    /// characters.
    pub quote: Option<u8>,
    /// The character between the categories, or the people, of one field.
    pub category_separator: char,
    /// Whether titles such as `Matrix, The (1999)` become `The Matrix (1999)`.
    pub turn_articles: bool,
}

impl Default for CsvMapping {
    fn default() -> Self {
        let columns = BTreeMap::new();
        CsvMapping {
            columns,
            time_unit: Timestamps::Counted(EpochUnit::Seconds),
            separator: b',',
            quote: Some(b'"'),
            category_separator: '|',
            turn_articles: false,
        }
    }
}

impl CsvMapping {
    /// Reads `user_id=userId,item_id=movieId,time_unit=ms,separator=;,quote=none,category_separator=/,turn_articles=true`.
    ///
    /// # Errors
    /// `Kind::Usage` for anything that is not of this form.
    pub fn parse(text: &str) -> Result<Self> {
        let mut mapping = CsvMapping::default();
        for part in text.split(',').filter(|p| !p.trim().is_empty()) {
            let bad = || {
                Error::new(Kind::Usage, format!("{part:?} in the mapping is not understood"))
                    .hint("write column=csv_column, time_unit=s|ms|us|ns|text, separator=tab|;, quote=none, turn_articles=true")
            };
            let (key, value) = part.split_once('=').map(|(k, v)| (k.trim(), v.trim())).ok_or_else(bad)?;
            match key {
                "time_unit" => {
                    mapping.time_unit = match value {
                        "text" => Timestamps::Text,
                        unit => Timestamps::Counted(EpochUnit::parse(unit).ok_or_else(bad)?),
                    }
                }
                "separator" => {
                    mapping.separator = match value {
                        "tab" => b'\t',
                        one if one.len() == 1 => one.as_bytes()[0],
                        _ => return Err(bad()),
                    }
                }
                "quote" => {
                    mapping.quote = match value {
                        "none" => None,
                        one if one.len() == 1 => Some(one.as_bytes()[0]),
                        _ => return Err(bad()),
                    }
                }
                "category_separator" => mapping.category_separator = value.chars().next().ok_or_else(bad)?,
                "turn_articles" => mapping.turn_articles = value.parse().map_err(|_| bad())?,
                "user_id" | "item_id" | "rating" | "event" | "event_timestamp" | "title" | "categories"
                | "description" | "brand" | "release_year" | "people" | "price" => {
                    mapping.columns.insert(key.to_owned(), value.to_owned());
                }
                _ => return Err(bad()),
            }
        }
        Ok(mapping)
    }
}

/// Imports CSV files of interactions and, where given, items with the descriptions of a file of their own.
///
/// # Errors
/// `Kind::Input` naming file and line for missing files and bad lines; `Kind::Usage` for descriptions without items;
/// `Kind::Temporary` where writing fails.
pub fn import(
    interactions: &Path,
    items: Option<&Path>,
    descriptions: Option<&Path>,
    mapping: &CsvMapping,
    out: &Path,
) -> Result<ImportReport> {
    match (items, descriptions) {
        (None, Some(path)) => Err(without_items(path, "--items")),
        _ => apart(|| read_and_write(interactions, items, descriptions, mapping, out)),
    }
}

fn read_and_write(
    interactions: &Path,
    items: Option<&Path>,
    descriptions: Option<&Path>,
    mapping: &CsvMapping,
    out: &Path,
) -> Result<ImportReport> {
    let named = |header: &[String], name: &str| {
        let wanted = mapping.columns.get(name).cloned().unwrap_or_else(|| name.to_owned());
        header.contains(&wanted).then_some(wanted)
    };
    let source = Source::open(interactions, mapping.separator, mapping.quote)?;
    let header = source.header()?;
    let need = |name: &str| named(&header, name).ok_or_else(|| source.missing(name, &header));
    let (user, item) = (need("user_id")?, need("item_id")?);
    let timestamp = match mapping.columns.contains_key("event_timestamp") {
        true => need("event_timestamp")?,
        false => named(&header, "timestamp").map_or_else(|| need("event_timestamp"), Ok)?,
    };
    for (column, wanted) in &mapping.columns {
        if ["user_id", "rating", "event", "event_timestamp"].contains(&column.as_str()) && !header.contains(wanted) {
            return Err(source.missing(column, &header));
        }
    }
    let frame = interaction_frame(
        &source,
        &user,
        &item,
        named(&header, "rating").as_deref(),
        named(&header, "event").as_deref(),
        &timestamp,
        mapping.time_unit,
    )?;
    let mut output = Output::new(out)?;
    output.interactions(frame)?;
    if let Some(path) = items {
        let source = Source::open(path, mapping.separator, mapping.quote)?;
        let header = source.header()?;
        let id = named(&header, "item_id").ok_or_else(|| source.missing("item_id", &header))?;
        let optional = ["title", "release_year", "categories", "description", "brand", "people", "price"];
        let mut columns = vec![("item_id", Some(id))];
        columns.extend(optional.map(|name| (name, named(&header, name))));
        let items = item_rows(&source, &columns, |row| {
            if let Some(text) = row.release_year_text.as_deref() {
                let year = text.trim().parse::<i32>();
                row.release_year = Some(year.map_err(|_| format!("{text:?} is no year"))?);
            }
            if mapping.turn_articles {
                let (title, year) = movie_title(row.title.as_deref(), None);
                row.title = title;
                row.release_year = row.release_year.or(year);
            }
            if let Some(text) = row.price_text.as_deref() {
                row.price = Some(price(text).ok_or_else(|| format!("{text:?} is no price"))?);
            }
            row.people = split_categories(row.people_text.as_deref(), mapping.category_separator);
            row.categories = split_categories(row.categories_text.as_deref(), mapping.category_separator);
            Ok(())
        })?;
        output.items(items, descriptions)?;
    }
    output.publish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_mapping_is_read_or_refused() {
        let mapping = CsvMapping::parse("user_id=userId,item_id=movieId,time_unit=ms,turn_articles=true").unwrap();
        assert_eq!(mapping.columns["user_id"], "userId");
        assert_eq!(mapping.time_unit, Timestamps::Counted(EpochUnit::Millis));
        assert_eq!((mapping.quote, CsvMapping::parse("quote=none").unwrap().quote), (Some(b'"'), None));
        assert_eq!(CsvMapping::parse("nonsense=1").unwrap_err().kind(), Kind::Usage);
    }
}
