//! Items that a user never met, as popular as one that the user did meet: those that a reason is to lift its item above.
//!
//! Popularity is how many users met an item before the interval, `n_users` of `item_audience` as of its start: an item that
//! nobody had met then is no negative. What a user met counts up to the interval's end, and nothing after it is read. Which
//! items are taken depends on ids and numbers alone, never on the order of the work. Knows jobs and tables; knows nothing of
//! answers, or of who ranks.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;

use crate::columns::{integers, text};
use crate::config::{Interval, Job};
use crate::error::Result;
use crate::learn::worth::NEGATIVES;
use crate::night::prepare::prepare;
use crate::query::session::Param;
use crate::query::texts;
use crate::weekly::examples;

/// How popular items are, and what users met.
#[derive(Debug, Clone, Default)]
pub struct Negatives {
    /// Users by item.
    popularity: BTreeMap<String, i64>,
    /// Items by user.
    met: BTreeMap<String, BTreeSet<String>>,
}

impl Negatives {
    /// What the job's inputs tell of all items as of the interval's start, and of these users up to its end.
    ///
    /// # Errors
    /// What inputs and the disk say.
    pub async fn read(job: &Job, interval: Interval, users: &BTreeSet<&str>) -> Result<Negatives> {
        let session = examples::opinions(&prepare(job, interval).await?).await?;
        let mut found = Negatives::default();
        let mut rows = session.sql(texts::ITEM_POPULARITY, &[]).await?.stream().await?;
        while let Some(batch) = rows.try_next().await? {
            let (items, counts) = (text(&batch, "item_id")?, integers(&batch, "n_users")?);
            found.popularity.extend(items.iter().flatten().map(str::to_owned).zip(counts.values().iter().copied()));
        }
        let params = [
            ("interval_start", Param::Timestamp(interval.start.timestamp_micros())),
            ("interval_end", Param::Timestamp(interval.end.timestamp_micros())),
        ];
        let mut rows = session.sql(texts::ITEMS_MET, &params).await?.stream().await?;
        while let Some(batch) = rows.try_next().await? {
            let (of, items) = (text(&batch, "user_id")?, text(&batch, "item_id")?);
            let pairs = of.iter().zip(items.iter()).filter_map(|(user, item)| Some((user?, item?)));
            for (user, item) in pairs.filter(|(user, _)| users.contains(user)) {
                // A user's name is copied once and not for every event.
                match found.met.get_mut(user) {
                    Some(met) => _ = met.insert(item.to_owned()),
                    None => _ = found.met.insert(user.to_owned(), BTreeSet::from([item.to_owned()])),
                }
            }
        }
        Ok(found)
    }

    /// At most [`NEGATIVES`] known items that the user never met, those first that are nearest to the item in popularity;
    /// among equally near ones the digest of user, item and negative decides.
    pub fn near(&self, user_id: &str, item_id: &str, is_known: impl Fn(&str) -> bool) -> Vec<&str> {
        let met = self.met.get(user_id);
        let own = self.popularity.get(item_id).copied().unwrap_or(0);
        let is_strange = |item: &str| item != item_id && is_known(item) && !met.is_some_and(|met| met.contains(item));
        let all = self.popularity.iter().filter(|(item, _)| is_strange(item));
        let mut near: Vec<(u64, &str)> = all.map(|(item, n)| (n.abs_diff(own), item.as_str())).collect();
        if near.len() > NEGATIVES {
            // Most are too far: they need no digest.
            let (farthest, _) = *near.select_nth_unstable_by_key(NEGATIVES - 1, |(distance, _)| *distance).1;
            near.retain(|(distance, _)| *distance <= farthest);
        }
        let draw = |other: &str| *blake3::hash(format!("rank {user_id} {item_id} {other}").as_bytes()).as_bytes();
        near.sort_by_cached_key(|(distance, other)| (*distance, draw(other)));
        near.truncate(NEGATIVES);
        near.into_iter().map(|(_, item)| item).collect()
    }

    /// Equal for equal items and users: blake3, 32 hex digits.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut add = |text: &str| _ = hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        for (item, n) in &self.popularity {
            add(item);
            add(&n.to_string());
        }
        for (user, met) in &self.met {
            // How many there are tells where the next user begins.
            add(&met.len().to_string());
            add(user);
            met.iter().for_each(|item| add(item));
        }
        hasher.finalize().to_hex()[..32].to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(n: usize) -> String {
        format!("i{n:03}")
    }

    /// Items of which the n-th is met by `popularity(n)` users; u met the first four.
    fn of(items: usize, popularity: impl Fn(usize) -> i64) -> Negatives {
        let popularity = (0..items).map(|n| (item(n), popularity(n))).collect();
        let met = BTreeMap::from([("u".to_owned(), (0..4).map(item).collect())]);
        Negatives { popularity, met }
    }

    fn sorted(found: Vec<&str>) -> Vec<String> {
        let mut found: Vec<String> = found.into_iter().map(str::to_owned).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn the_nearest_that_the_user_never_met_are_taken() {
        let negatives = of(200, |n| n as i64);
        let found = negatives.near("u", "i100", |_| true);
        assert_eq!(sorted(found.clone()), (75..=125).filter(|n| *n != 100).map(item).collect::<Vec<_>>());
        assert_eq!(sorted(found[..2].to_vec()), ["i099", "i101"], "the nearest first");
        // Met ones, the item itself, and what the judge does not know are left out.
        let expected: Vec<String> = (4..54).map(item).collect();
        assert_eq!(sorted(negatives.near("u", "i001", |_| true)), expected);
        let expected: Vec<String> = (0..=50).filter(|n| *n != 1).map(item).collect();
        assert_eq!(sorted(negatives.near("somebody", "i001", |_| true)), expected);
        assert_eq!(negatives.near("u", "i001", |item| item < "i006"), ["i004", "i005"]);
        assert!(negatives.near("u", "i001", |_| false).is_empty());
    }

    #[test]
    fn among_the_equally_popular_the_draw_is_the_questions_own_and_always_the_same() {
        let negatives = of(200, |_| 7);
        let of_question = |user, item| negatives.near(user, item, |_| true);
        let found = of_question("u", "i000");
        assert_eq!(found.len(), NEGATIVES);
        assert_eq!(found, of_question("u", "i000"));
        assert_ne!(sorted(found.clone()), sorted(of_question("v", "i000")));
        assert_ne!(sorted(found.clone()), sorted(of_question("u", "i001")));
        // An item of another popularity takes no place from those that are nearer.
        let more = of(201, |n| if n == 200 { 8 } else { 7 });
        assert_eq!(found, more.near("u", "i000", |_| true));
    }

    #[test]
    fn digests_tell_popularity_and_what_was_met() {
        let digest = of(9, |n| n as i64).digest();
        assert_eq!(digest, of(9, |n| n as i64).digest());
        assert_ne!(digest, of(9, |_| 1).digest());
        let mut other = of(9, |n| n as i64);
        other.met.entry("u".into()).or_default().insert(item(5));
        assert_ne!(digest, other.digest());
    }
}
