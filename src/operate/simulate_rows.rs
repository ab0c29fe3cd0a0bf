//! Rows of a simulated world under the input tables' contracts, and the names in them.
//!
//! Knows what `interaction` and `item` hold. Titles, categories, brands and years are drawn here, without looking at groups and
//! weights; knows nothing of files.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, Int32Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::DataType;
use rayon::prelude::*;

use crate::error::{Context, Kind, Result};
use crate::network::random::Random;
use crate::operate::simulate_world::{DEAL, ITEMS, Taken, World};
use crate::table::column_type::ColumnType;

const ADJECTIVES: [&str; 16] = [
    "Amber", "Bitter", "Crimson", "Distant", "Early", "Faded", "Gentle", "Hidden", "Iron", "Lonely", "Northern",
    "Pale", "Quiet", "Silver", "Velvet", "Wild",
];
const NOUNS: [&str; 16] = [
    "Anchor", "Bridge", "Canyon", "Door", "Ember", "Forest", "Garden", "Harbour", "Island", "Lantern", "Mirror",
    "Orchard", "River", "Shadow", "Tower", "Winter",
];
const CATEGORIES: [&str; 12] = [
    "Adventure",
    "Biography",
    "Comedy",
    "Crime",
    "Drama",
    "Fantasy",
    "History",
    "Horror",
    "Mystery",
    "Romance",
    "Thriller",
    "Western",
];

impl World {
    /// Rows of the `interaction` contract.
    pub(super) fn interactions(&self, users: Range<u32>) -> Result<RecordBatch> {
        let per_user: Vec<(u32, Vec<Taken>)> = users.into_par_iter().map(|user| (user, self.events(user))).collect();
        let rows = || per_user.iter().flat_map(|(user, taken)| taken.iter().map(move |t| (*user, t)));
        let times: TimestampMicrosecondArray = rows().map(|(_, t)| Some(t.timestamp)).collect();
        batch([
            ("user_id", Arc::new(rows().map(|(user, _)| Some(user_id(user))).collect::<StringArray>()) as ArrayRef),
            ("item_id", Arc::new(rows().map(|(_, t)| Some(item_id(t.item))).collect::<StringArray>())),
            ("event", Arc::new(rows().map(|_| Some("rating")).collect::<StringArray>())),
            ("rating", Arc::new(rows().map(|(_, t)| Some(t.rating)).collect::<Float32Array>())),
            ("event_timestamp", Arc::new(times.with_timezone("UTC"))),
        ])
    }

    /// Rows of the `item` contract. The ids of a group are a random deal, so titles by id say nothing of groups.
    pub(super) fn items(&self, items: Range<u32>) -> Result<RecordBatch> {
        let (mut categories, mut brands, mut years) = (ListBuilder::new(StringBuilder::new()), Vec::new(), Vec::new());
        for id in items.clone() {
            let mut random = Random::numbered(self.options.seed ^ DEAL, ITEMS + u64::from(id));
            let first = random.below(CATEGORIES.len());
            categories.values().append_value(CATEGORIES[first]);
            if random.unit() < 0.5 {
                let other = (first + 1 + random.below(CATEGORIES.len() - 1)) % CATEGORIES.len();
                categories.values().append_value(CATEGORIES[other]);
            }
            categories.append(true);
            brands.push(format!("Studio {}", 1 + random.below(1 + self.options.items as usize / 20)));
            years.push(1980 + random.below(46) as i32);
        }
        let texts = ColumnType::List(Box::new(ColumnType::Utf8)).arrow(0);
        let descriptions: StringArray = items.clone().map(|item| self.description(item)).collect();
        batch([
            ("item_id", Arc::new(StringArray::from_iter_values(items.clone().map(item_id))) as ArrayRef),
            ("title", Arc::new(StringArray::from_iter_values(items.clone().map(title)))),
            ("categories", Arc::new(categories.finish())),
            ("description", Arc::new(descriptions)),
            ("brand", Arc::new(StringArray::from_iter_values(brands))),
            ("release_year", Arc::new(Int32Array::from(years))),
            ("people", new_null_array(&texts, items.len())),
            ("price", new_null_array(&DataType::Float32, items.len())),
            ("attributes", new_null_array(&texts, items.len())),
        ])
    }
}

fn user_id(user: u32) -> String {
    format!("u{user:08}")
}

fn item_id(item: u32) -> String {
    format!("i{item:08}")
}

/// A title of its own for every item.
fn title(item: u32) -> String {
    let (n, words) = (item as usize, ADJECTIVES.len() * NOUNS.len());
    let name = format!("{} {}", ADJECTIVES[n % ADJECTIVES.len()], NOUNS[n / ADJECTIVES.len() % NOUNS.len()]);
    if n < words { name } else { format!("{name} {}", n / words + 1) }
}

fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> Result<RecordBatch> {
    RecordBatch::try_from_iter(columns).context(Kind::Internal, || "simulated columns do not fit together".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn titles_are_distinct() {
        let titles: HashSet<String> = (0..2000).map(title).collect();
        assert_eq!(titles.len(), 2000);
    }
}
