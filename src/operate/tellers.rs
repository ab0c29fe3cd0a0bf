//! Prompts about items, and about pairs of users and items, show sentences of reviews. Which of these a user wrote, and what
//! was made of them.
//!
//! A row of `reason_prompt` names its tellers: everybody whose sentences it may show. What follows from such a row is found
//! by its item and day: the reason, its score, its correction, and the vector of the item or the pair. Rows that show sentences
//! and name no teller are of versions that did not write them down: they are counted, so that somebody can be told. Knows
//! nothing of why rows go.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::ProjectionMask;

use crate::columns::{at, text, text_lists};
use crate::error::{Context, Kind, Result};
use crate::table::filter::{count_matching, read_texts};
use crate::table::parquet_file::{damaged, open_parquet};
use crate::table::store::Location;

/// The table whose rows show sentences and name their tellers.
pub const PROMPTS: &str = "reason_prompt";

/// This one and those with what was made of it, each with a column `item_id`.
pub const TELLING: [&str; 7] =
    [PROMPTS, "reason", "reason_field", "reason_score", "item_correction", "item_feature", "pair_feature"];

/// The items, by day, of whose prompts certain users are tellers: of the item's own, or of a pair's that has the item.
#[derive(Debug, Clone, Default)]
pub struct Told {
    days: BTreeMap<String, BTreeSet<String>>,
    /// All items of all days.
    items: BTreeSet<String>,
    /// How many prompts about items and pairs show sentences and do not tell whose, by day.
    silent: BTreeMap<String, u64>,
}

impl Told {
    /// Adds what a file of [`PROMPTS`] tells of these users; those that it names go to `found`.
    ///
    /// # Errors
    /// As [`each_prompt`].
    pub async fn read(
        &mut self,
        dt: &str,
        file: &Location,
        bytes: u64,
        users: &BTreeSet<String>,
        mut found: impl FnMut(&str),
    ) -> Result<()> {
        each_prompt(file, bytes, |prompt| {
            let Some(item) = prompt.item_id else { return };
            if prompt.is_silent {
                *self.silent.entry(dt.to_owned()).or_default() += 1;
            }
            prompt.tellers.iter().for_each(|user| found(user));
            if prompt.tellers.iter().any(|user| users.contains(user)) {
                self.days.entry(dt.to_owned()).or_default().insert(item.to_owned());
                self.items.insert(item.to_owned());
            }
        })
        .await
    }

    /// The items whose rows in a table of a day hold something of the users; `None` without any.
    pub fn of(&self, table: &str, dt: &str) -> Option<&BTreeSet<String>> {
        self.days.get(dt).filter(|_| TELLING.contains(&table))
    }

    /// The items of all days.
    pub fn items(&self) -> &BTreeSet<String> {
        &self.items
    }

    /// What has to be known of prompts that do not tell whose sentences they show.
    pub fn warning(&self) -> Option<String> {
        let (first, last) = (self.silent.keys().next()?, self.silent.keys().next_back()?);
        let (prompts, days) = (self.silent.values().sum::<u64>(), self.silent.len());
        Some(format!(
            "{prompts} prompt(s) about items, in {days} day(s) from {first} to {last}, hold sentences of reviews and do not \
             tell whose: an earlier version published them, and they stay, with what was made of them. Take the users' \
             reviews out of the input, build these days again (--lookback), and run the same command again with --unlinked"
        ))
    }
}

/// A prompt, as far as it says whose sentences it shows.
#[derive(Debug)]
pub struct Prompt<'a> {
    /// The item that it is about.
    pub item_id: Option<&'a str>,
    /// Its key.
    pub key: Option<&'a str>,
    /// Users whose sentences it may show.
    pub tellers: &'a [String],
    /// Whether it shows sentences and does not tell whose.
    pub is_silent: bool,
}

/// Hands every row of a file of [`PROMPTS`] to `take`. A file without items and keys has none.
///
/// # Errors
/// As [`open_parquet`]; [`Kind::Internal`] for columns of other types.
pub async fn each_prompt(file: &Location, bytes: u64, mut take: impl FnMut(&Prompt<'_>)) -> Result<()> {
    let builder = open_parquet(file, bytes).await?;
    let place = |name: &str| builder.schema().index_of(name).ok();
    if place("item_id").is_none() || place("prompt_key").is_none() {
        return Ok(());
    }
    // Earlier versions have fewer columns.
    let columns = ["item_id", "prompt_key", "praise", "fault", "tellers"];
    let roots: Vec<usize> = columns.into_iter().filter_map(place).collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let mut batches = builder.with_projection(mask).build().map_err(|e| damaged(&e, file))?;
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(|e| damaged(&e, file))?;
        let lists = |name: &str| match batch.column_by_name(name) {
            Some(_) => text_lists(&batch, name),
            None => Ok(vec![Vec::new(); batch.num_rows()]),
        };
        let (items, keys) = (text(&batch, "item_id")?, text(&batch, "prompt_key")?);
        let (praise, fault, tellers) = (lists("praise")?, lists("fault")?, lists("tellers")?);
        for (i, tellers) in tellers.iter().enumerate() {
            let item_id = at(&items, i);
            let is_silent = item_id.is_some() && tellers.is_empty() && !(praise[i].is_empty() && fault[i].is_empty());
            take(&Prompt { item_id, key: at(&keys, i), tellers, is_silent });
        }
    }
    Ok(())
}

/// Rows of a file that are about one of the items and of none of the users: the latter are counted by their users.
///
/// # Errors
/// As [`read_texts`].
pub async fn count_others(
    file: &Location,
    bytes: u64,
    users: &BTreeSet<String>,
    items: &BTreeSet<String>,
) -> Result<u64> {
    let Some(mut rows) = read_texts(file, bytes, &["item_id", "user_id"]).await? else {
        return count_matching(file, bytes, "item_id", items).await;
    };
    let mut n = 0;
    while let Some(texts) = rows.try_next().await? {
        let [about, owners] = &texts[..] else { continue };
        let is_theirs = |i| at(owners, i).is_some_and(|user| users.contains(user));
        let is_told = |i| at(about, i).is_some_and(|item| items.contains(item));
        n += (0..about.len()).filter(|i| is_told(*i) && !is_theirs(*i)).count() as u64;
    }
    Ok(n)
}

/// Hands the key of every row of a file to `take`, and whether the row is of one of the users or about one of the items. A
/// file without users or keys has none.
///
/// # Errors
/// As [`read_texts`].
pub async fn each_key(
    file: &Location,
    bytes: u64,
    users: &BTreeSet<String>,
    items: Option<&BTreeSet<String>>,
    mut take: impl FnMut(bool, &str),
) -> Result<()> {
    let columns = ["prompt_key", "user_id", "item_id"];
    let columns = if items.is_some() { &columns[..] } else { &columns[..2] };
    let Some(mut rows) = read_texts(file, bytes, columns).await? else { return Ok(()) };
    while let Some(texts) = rows.try_next().await? {
        let [keys, owners, about @ ..] = &texts[..] else { continue };
        for i in 0..keys.len() {
            let Some(key) = at(keys, i) else { continue };
            let is_of_user = at(owners, i).is_some_and(|user| users.contains(user));
            let is_told =
                |items: &BTreeSet<String>| about.iter().any(|a| at(a, i).is_some_and(|id| items.contains(id)));
            take(is_of_user || items.is_some_and(is_told), key);
        }
    }
    Ok(())
}

/// The rows of a batch that are about none of the items.
///
/// # Errors
/// [`Kind::Internal`] where there are items and the batch has no column `item_id`.
pub fn without_items(batch: RecordBatch, items: Option<&BTreeSet<String>>) -> Result<RecordBatch> {
    let Some(items) = items else { return Ok(batch) };
    let ids = text(&batch, "item_id")?;
    let keep: BooleanArray = ids.iter().map(|id| Some(!id.is_some_and(|id| items.contains(id)))).collect();
    filter_record_batch(&batch, &keep).context(Kind::Internal, || "cannot leave rows out".into())
}
