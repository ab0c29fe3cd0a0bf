//! What a projection is learned from and judged by: vectors that nights have published, and what the log says of before the
//! interval and in it.
//!
//! Knows jobs' tables and partitions; knows nothing of maps, gates or the registry.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Float32Type;
use futures::TryStreamExt;

use crate::cancel::CancelToken;
use crate::columns::{integers, text};
use crate::error::{Error, Kind, Result};
use crate::night::made_from::{as_of, learned_later};
use crate::night::prepare::Prepared;
use crate::night::tables::files_in;
use crate::project::space::Pair;
use crate::query::session::{Param, Session, TableFile};
use crate::query::texts;
use crate::table::published::partitions;
use crate::weekly::weekly_file::ProjectionSpec;
/// What is learned from and judged by, all of before the interval but `next`.
pub(super) struct Data {
    /// Vectors of items' texts.
    pub(super) texts: BTreeMap<String, Vec<f32>>,
    /// Vectors of users' texts.
    pub(super) user_texts: BTreeMap<String, Vec<f32>>,
    /// Items that were met by how many users, by id.
    pub(super) consumed: Vec<(String, u64)>,
    /// Of these, by their places.
    pub(super) pairs: Vec<Pair>,
    /// What these users met, the latest first: those who are asked about or have a text.
    pub(super) met: BTreeMap<String, Vec<String>>,
    /// What users who are asked about met next.
    pub(super) next: BTreeMap<String, Vec<String>>,
}

/// The digest by which users are chosen.
fn digest(id: &str) -> u64 {
    blake3::hash(id.as_bytes()).as_bytes().iter().skip(16).take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// Values by ids, of which those with the least digests are kept.
struct Chosen<T> {
    most: usize,
    kept: BTreeMap<(u64, String), T>,
}

impl<T> Chosen<T> {
    fn at_most(most: usize) -> Chosen<T> {
        Chosen { most, kept: BTreeMap::new() }
    }

    fn put(&mut self, id: &str, value: T) {
        let key = (digest(id), id.to_owned());
        if self.kept.len() >= self.most && self.kept.last_key_value().is_some_and(|(last, _)| *last < key) {
            return;
        }
        self.kept.insert(key, value);
        if self.kept.len() > self.most {
            self.kept.pop_last();
        }
    }

    fn by_id(self) -> BTreeMap<String, T> {
        self.kept.into_iter().map(|((_, id), value)| (id, value)).collect()
    }
}

/// Everything that is learned from.
pub(super) async fn data(
    prepared: &Prepared,
    session: &Session,
    encoder: &str,
    of: &ProjectionSpec,
    stop: &CancelToken,
) -> Result<Data> {
    let interval = prepared.interval;
    let of_items = vectors(prepared, session, "item_feature", texts::PUBLISHED_ITEM_VECTORS, encoder, usize::MAX);
    let texts_of_items = stop.or(of_items).await?;
    let of_users = vectors(prepared, session, "user_feature", texts::PUBLISHED_USER_VECTORS, encoder, of.max_users);
    let user_texts = stop.or(of_users).await?;

    let mut consumed = Vec::new();
    let mut rows = session.sql(texts::CONSUMED_ITEMS, &[]).await?.stream().await?;
    while let Some(batch) = rows.try_next().await? {
        let (ids, counts) = (text(&batch, "item_id")?, integers(&batch, "n_users")?);
        let of_batch = ids.iter().flatten().map(str::to_owned).zip(counts.values().iter().map(|n| n.unsigned_abs()));
        consumed.extend(of_batch);
    }
    let places: HashMap<&str, u32> = consumed.iter().map(|(id, _): &(String, u64)| id.as_str()).zip(0..).collect();
    let mut pairs = Vec::new();
    let most = [("max_events", Param::Int(of.events))];
    let mut rows = session.sql(texts::CO_CONSUMED_ITEMS, &most).await?.stream().await?;
    while let Some(batch) = rows.try_next().await? {
        stop.check()?;
        let (a, b) = (text(&batch, "item_id")?, text(&batch, "other_id")?);
        let weights = integers(&batch, "weight")?;
        for row in 0..batch.num_rows() {
            let place = |id: &str| places.get(id).copied();
            // Ids are compared as texts here and there, so that the first is the lesser one.
            if let (Some(a), Some(b)) = (place(a.value(row)), place(b.value(row))) {
                pairs.push(Pair { a: a.min(b), b: a.max(b), weight: weights.value(row) });
            }
        }
    }
    pairs.sort_by_key(|pair| (pair.a, pair.b));

    let mut next: Chosen<Vec<String>> = Chosen::at_most(of.max_users);
    let range = [
        ("interval_start", Param::Timestamp(interval.start.timestamp_micros())),
        ("interval_end", Param::Timestamp(interval.end.timestamp_micros())),
    ];
    let mut by_user = ByUser::default();
    let mut rows = session.sql(texts::NEXT_ITEMS, &range).await?.stream().await?;
    while let Some(batch) = rows.try_next().await? {
        let (users, items) = (text(&batch, "user_id")?, text(&batch, "item_id")?);
        for (user, item) in users.iter().flatten().zip(items.iter().flatten()) {
            if let Some((user, items)) = by_user.push(user, item) {
                next.put(&user, items);
            }
        }
    }
    if let Some((user, items)) = by_user.last() {
        next.put(&user, items);
    }
    let next = next.by_id();

    let mut met = BTreeMap::new();
    let all = [("max_events", Param::Int(i64::MAX))];
    let is_wanted = |user: &str| next.contains_key(user) || user_texts.contains_key(user);
    let mut by_user = ByUser::default();
    let mut rows = session.sql(texts::LATEST_ITEMS, &all).await?.stream().await?;
    while let Some(batch) = rows.try_next().await? {
        stop.check()?;
        let (users, items) = (text(&batch, "user_id")?, text(&batch, "item_id")?);
        for (user, item) in users.iter().flatten().zip(items.iter().flatten()).filter(|(user, _)| is_wanted(user)) {
            met.extend(by_user.push(user, item));
        }
    }
    met.extend(by_user.last());
    Ok(Data { texts: texts_of_items, user_texts, consumed, pairs, met, next })
}

/// Rows that come by user, gathered.
#[derive(Default)]
struct ByUser {
    user: String,
    items: Vec<String>,
}

impl ByUser {
    /// Adds a row; gives the user before with all items once another one comes.
    fn push(&mut self, user: &str, item: &str) -> Option<(String, Vec<String>)> {
        let before = if self.user == user { None } else { std::mem::take(self).last() };
        if self.items.is_empty() {
            user.clone_into(&mut self.user);
        }
        self.items.push(item.to_owned());
        before
    }

    /// The last user.
    fn last(self) -> Option<(String, Vec<String>)> {
        (!self.items.is_empty()).then_some((self.user, self.items))
    }
}

/// The newest vectors of a table of features that were true when the interval began, by id: of all entities, or of
/// those `most` whose ids have the least digests. Days of another encoder do not count, nor those whose texts were written
/// by a model that has learned from the interval.
async fn vectors(
    prepared: &Prepared,
    session: &Session,
    table: &str,
    query: &str,
    encoder: &str,
    most: usize,
) -> Result<BTreeMap<String, Vec<f32>>> {
    let start = prepared.interval.start;
    let mut files: Vec<TableFile> = Vec::new();
    let mut others = 0_usize;
    for record in partitions(&prepared.root, table).await? {
        if as_of(&record).is_none_or(|as_of| as_of > start) {
            continue;
        }
        let is_of_encoder = record.parts.get("encoder").is_some_and(|of| of == encoder);
        let is_blind = learned_later(&record.parts).all(|(_, until)| until <= start);
        match is_of_encoder && is_blind {
            true => files.extend(files_in(&prepared.root, &record)?),
            false => others += 1,
        }
    }
    if others > 0 {
        tracing::warn!(
            table,
            days = others,
            "days of another encoder, or of models that know the interval, are left out"
        );
    }
    session.register_files(table, prepared.graph.contract(table)?, &files).await?;
    let mut found = Chosen::at_most(most);
    if files.is_empty() {
        return Ok(found.by_id());
    }
    let params = [("as_of", Param::Timestamp(start.timestamp_micros()))];
    let mut rows = session.sql(query, &params).await?.stream().await?;
    while let Some(batch) = rows.try_next().await? {
        let ids = text(&batch, "entity_id")?;
        let lists = batch.column_by_name("embedding").and_then(|c| c.as_fixed_size_list_opt());
        let values = lists.and_then(|lists| lists.values().as_primitive_opt::<Float32Type>());
        let (Some(lists), Some(values)) = (lists, values) else {
            return Err(Error::new(Kind::Internal, "published vectors are none").with("table", table));
        };
        let width = lists.value_length() as usize;
        for row in (0..lists.len()).filter(|row| lists.is_valid(*row)) {
            let start = lists.value_offset(row) as usize;
            let vector = values.values().get(start..start + width).unwrap_or_default().to_vec();
            // Zeros say nothing, as where vectors cancel out.
            if vector.iter().any(|x| *x != 0.0) {
                found.put(ids.value(row), vector);
            }
        }
    }
    Ok(found.by_id())
}
