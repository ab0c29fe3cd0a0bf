//! `curec simulate`: logs of any size from a known preference structure, for tests of recommenders and of their
//! yardstick.
//!
//! Knows the input tables' contracts; knows nothing of models, splits or metrics.
//!
//! **The model.** Items are dealt into `tastes` groups of equal size by a random deal. An item's weight is `u^-0.6`
//! with u uniform in (0, 1], so that popularity has a heavy tail; three items in ten are released at a uniform moment
//! of the log's time, the others before it begins. Title, categories, brand and year are drawn without looking at
//! groups and weights: **attributes say nothing about preference**, whatever the signal.
//!
//! A user has half to one and a half times `events_per_user` events, at uniform moments. Each is of a taste with
//! probability [`COHERENCE`] and then takes an item of one group, else of the whole catalogue; within both an item is
//! drawn in proportion to its weight among those released and not yet taken by the user. What is taken from a taste is
//! rated 4 or 5, anything else 1 to 5, uniformly. A group is drawn in proportion to the weight of its items. The
//! signals differ in what follows only:
//!
//! * [`Signal::CoConsumption`]: every user has two groups of its own, drawn once and taken from at 3 to 1. Who took two
//!   items of a group will take more of it: co-consumption holds signal that attributes do not, also for items of few
//!   events.
//! * [`Signal::None`]: the group is drawn anew for every event. Neither a user's past nor co-consumption says
//!   anything; popularity is all there is to know, and it is distributed as above (up to what tastes exhaust).
//! * [`Signal::Content`]: users keep two groups as with co-consumption, and an item has a description that tells its
//!   group: six of its group's twelve words among three of no group, see `simulate_texts.rs`. With the other signals
//!   there is none. Six items in ten are released while the log runs. Of what is drawn, only `1 / (1 + a)^2` is taken,
//!   where a is the time since the release (since the log began, for what was there before) in tenths of the log; else
//!   the draw is repeated. Weights are `u^-0.3`, so that few old favourites do not hide what is new. Many events are
//!   then of items that the log hardly knows yet, and **texts alone tell who will take these**. With 4,000 users,
//!   3,000 items, 8 events a user and 120 tastes three in ten of the events in the last tenth of the time are of items
//!   with fewer than five events before.
//!
//! Every row is a function of the seed and its ids: the same options give the same bytes. Memory grows with the number
//! of items and with 1,024 users' events, not with the log.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, Int32Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::DataType;
use parquet::arrow::arrow_writer::ArrowWriter;
use rayon::prelude::*;

use crate::destination::{Destination, Opened};
use crate::error::{Context, Error, Kind, Result};
use crate::network::random::Random;
use crate::operate::simulate_texts::Subjects;
use crate::table::check::{Checker, conform};
use crate::table::column_type::ColumnType;
use crate::table::contract::Contract;
use crate::table::write::writer_properties;

/// The share of a user's events that are of a taste.
pub const COHERENCE: f64 = 0.8;
/// The first moment of every log: 2026-01-01T00:00:00Z.
pub const START: i64 = 1_767_225_600_000_000;

/// Users, or items, handed to the writer at a time: part of the format, since page borders follow from it.
const CHUNK: u32 = 1024;
/// Draws before a taste, and then the catalogue, counts as exhausted for a user.
const DRAWS: usize = 64;
/// With [`Signal::Content`], the share of the log's time within which a new item loses three quarters of its pull.
const FRESH: f64 = 0.1;
/// Numbers that keep the random streams of users, items, the deal, descriptions and what groups are about apart.
const USERS: u64 = 1 << 32;
const ITEMS: u64 = 2 << 32;
const DEAL: u64 = 3 << 32;
const TEXTS: u64 = 4 << 32;
const SUBJECTS: u64 = 5 << 32;

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

/// Where preference comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// From tastes that users keep.
    CoConsumption,
    /// From popularity alone.
    None,
    /// From tastes that users keep and descriptions tell, also of items that the log does not know yet.
    Content,
}

impl Signal {
    /// Share of the items that are released while the log runs.
    fn late(self) -> f64 {
        match self {
            Signal::CoConsumption | Signal::None => 0.3,
            Signal::Content => 0.6,
        }
    }

    /// The power of a uniform number that is an item's weight.
    fn tail(self) -> f64 {
        match self {
            Signal::CoConsumption | Signal::None => -0.6,
            Signal::Content => -0.3,
        }
    }
}

/// What to simulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Users.
    pub users: u32,
    /// Items.
    pub items: u32,
    /// Mean number of events of a user.
    pub events_per_user: u32,
    /// Groups of items; 0: one for every 50 items, at least 2.
    pub tastes: u32,
    /// Length of the log's time.
    pub days: u32,
    /// Everything is drawn from it.
    pub seed: u64,
    /// Where preference comes from.
    pub signal: Signal,
}

/// Writes `interaction.parquet` (by user, then time) and `item.parquet` (by item) into `out`; returns the files with
/// their rows.
///
/// # Errors
/// `Kind::Usage` for options that make no log, `Kind::Config` or `Kind::Temporary` where files cannot be written. Files
/// appear under their names only when both are complete.
pub fn simulate(options: Options, out: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let world = World::new(options)?;
    std::fs::create_dir_all(out)
        .map_err(|e| Error::new(Kind::Config, "cannot make the folder").with("file", out.display()).source(e))?;
    let interactions = write("interaction", out, chunks(options.users).map(|users| world.interactions(users)))?;
    let items = write("item", out, chunks(options.items).map(|items| world.items(items)))?;
    [interactions, items].into_iter().map(Partial::publish).collect()
}

fn chunks(n: u32) -> impl Iterator<Item = Range<u32>> {
    (0..n.div_ceil(CHUNK)).map(move |i| i * CHUNK..n.min((i + 1).saturating_mul(CHUNK)))
}

/// Things drawn in proportion to their weights.
#[derive(Debug, Default)]
struct Weighted {
    things: Vec<u32>,
    /// Running sums of the weights.
    sums: Vec<f64>,
}

impl Weighted {
    fn push(&mut self, thing: u32, weight: f64) {
        self.things.push(thing);
        self.sums.push(self.mass() + weight);
    }

    fn mass(&self) -> f64 {
        self.sums.last().copied().unwrap_or(0.0)
    }

    fn draw(&self, random: &mut Random) -> u32 {
        let at = random.unit() * self.mass();
        let place = self.sums.partition_point(|sum| *sum <= at);
        self.things[place.min(self.things.len() - 1)]
    }
}

/// One event of a user.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Taken {
    item: u32,
    rating: f32,
    timestamp: i64,
}

/// Everything that is drawn once.
struct World {
    options: Options,
    /// Moment of every item's release, as a share of the log's time.
    released: Vec<f64>,
    /// The group of every item.
    group: Vec<u32>,
    tastes: Vec<Weighted>,
    /// The tastes by mass.
    taste: Weighted,
    /// What the groups are about, where descriptions tell.
    subjects: Option<Subjects>,
}

impl World {
    fn new(options: Options) -> Result<Self> {
        let Options { users, items, events_per_user, days, .. } = options;
        let bad = |why: &str, hint: &str| Err(Error::new(Kind::Usage, why.to_owned()).hint(hint.to_owned()));
        if users == 0 || items < 4 || events_per_user == 0 || days == 0 {
            return bad("nothing to simulate", "ask for at least one user, four items, one event a user and one day");
        }
        let tastes = if options.tastes == 0 { (items / 50).max(2) } else { options.tastes };
        if tastes < 2 || tastes > items / 2 {
            return bad("tastes must be at least two, of at least two items each", "change --tastes or --items");
        }
        if events_per_user > items / 3 {
            return bad("users would take most of the catalogue", "ask for three times as many items as events a user");
        }
        let mut deal: Vec<u32> = (0..items).collect();
        let mut random = Random::numbered(options.seed, DEAL);
        for i in (1..deal.len()).rev() {
            deal.swap(i, random.below(i + 1));
        }
        let subjects = match options.signal {
            Signal::CoConsumption | Signal::None => None,
            Signal::Content => Some(Subjects::deal(tastes as usize, &mut Random::numbered(options.seed, SUBJECTS))),
        };
        let mut world = World {
            options,
            released: Vec::with_capacity(items as usize),
            group: deal.iter().map(|place| place % tastes).collect(),
            tastes: (0..tastes).map(|_| Weighted::default()).collect(),
            taste: Weighted::default(),
            subjects,
        };
        for id in 0..items {
            let mut random = Random::numbered(options.seed, ITEMS + u64::from(id));
            let weight = (1.0 - random.unit()).powf(options.signal.tail());
            world.released.push(if random.unit() < options.signal.late() { random.unit() } else { 0.0 });
            let group = world.group[id as usize];
            world.tastes[group as usize].push(id, weight);
        }
        for (taste, group) in world.tastes.iter().enumerate() {
            world.taste.push(taste as u32, group.mass());
        }
        Ok(world)
    }

    /// What a user takes, in time order.
    fn events(&self, user: u32) -> Vec<Taken> {
        let mut random = Random::numbered(self.options.seed, USERS + u64::from(user));
        let own = [self.taste.draw(&mut random), self.taste.draw(&mut random)];
        let mean = self.options.events_per_user as usize;
        let n = (mean.div_ceil(2) + random.below(mean / 2 * 2 + 1)).max(1);
        let length = i64::from(self.options.days) * 86_400_000_000;
        let mut moments: Vec<f64> = (0..n).map(|_| random.unit()).collect();
        moments.sort_unstable_by(f64::total_cmp);
        let (mut taken, mut known) = (Vec::with_capacity(n), HashSet::with_capacity(n));
        for moment in moments {
            let kept = if random.unit() < 0.75 { own[0] } else { own[1] };
            let taste = match self.options.signal {
                Signal::CoConsumption | Signal::Content => kept,
                Signal::None => self.taste.draw(&mut random),
            };
            let wanted = (random.unit() < COHERENCE).then_some(taste);
            let is_free = |item: u32| self.released[item as usize] <= moment && !known.contains(&item);
            let found = [wanted, None].into_iter().find_map(|wanted| {
                (0..DRAWS).find_map(|_| {
                    let group = wanted.unwrap_or_else(|| self.taste.draw(&mut random));
                    let item = self.tastes[group as usize].draw(&mut random);
                    let is_taken = is_free(item) && self.still_pulls(item, moment, &mut random);
                    is_taken.then_some((item, wanted.is_some()))
                })
            });
            // A user for whom the catalogue is exhausted leaves the event out.
            let Some((item, of_taste)) = found else { continue };
            known.insert(item);
            let stars = if of_taste { 4 + random.below(2) } else { 1 + random.below(5) };
            taken.push(Taken { item, rating: stars as f32, timestamp: START + (moment * length as f64) as i64 });
        }
        taken
    }

    /// Whether a released item is taken when it is drawn: where news count, the less often the older it is.
    fn still_pulls(&self, item: u32, moment: f64, random: &mut Random) -> bool {
        match self.options.signal {
            Signal::CoConsumption | Signal::None => true,
            Signal::Content => {
                let age = (moment - self.released[item as usize]) / FRESH;
                random.unit() * (1.0 + age) * (1.0 + age) < 1.0
            }
        }
    }

    /// What is said of an item, if anything.
    fn description(&self, item: u32) -> Option<String> {
        let mut random = Random::numbered(self.options.seed, TEXTS + u64::from(item));
        self.subjects.as_ref().map(|subjects| subjects.text(self.group[item as usize] as usize, &mut random))
    }

    /// Rows of the `interaction` contract.
    fn interactions(&self, users: Range<u32>) -> Result<RecordBatch> {
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
    fn items(&self, items: Range<u32>) -> Result<RecordBatch> {
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

/// A whole file that is not in its place yet.
struct Partial {
    file: Opened,
    target: PathBuf,
    rows: u64,
}

impl Partial {
    fn publish(self) -> Result<(PathBuf, u64)> {
        self.file.finish()?;
        Ok((self.target, self.rows))
    }
}

/// Streams batches through a table's contract into a file.
fn write(table: &str, folder: &Path, batches: impl Iterator<Item = Result<RecordBatch>>) -> Result<Partial> {
    let contract = Contract::builtin(table)?;
    let target = folder.join(format!("{table}.parquet"));
    let io = |e: String| Error::new(Kind::Temporary, "could not write").with("file", target.display()).source(e);
    let mut file = Destination::find(&target)?.open()?;
    let mut rows = 0;
    let schema = contract.arrow_schema(None);
    let properties = writer_properties(&contract, &schema, None)?;
    let mut writer = ArrowWriter::try_new(&mut file, schema, Some(properties)).map_err(|e| io(e.to_string()))?;
    let mut checker = Checker::new(&contract, target.display());
    for batch in batches {
        let batch = conform(&contract, &batch?, &mut checker)?;
        writer.write(&batch).map_err(|e| io(e.to_string()))?;
        rows += batch.num_rows() as u64;
    }
    writer.close().map_err(|e| io(e.to_string()))?;
    Ok(Partial { file, target, rows })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::collections::BTreeMap;

    use crate::plain_text::words::content_words;
    use crate::recommend::data::Log;
    use crate::recommend::metrics::{self, Scorer, rank_cases};
    use crate::recommend::split::{Case, Part, Split, Target, temporal};
    use crate::statistics::{Contrast, paired_bootstrap};
    use crate::table::store::Location;

    const SMALL: Options = Options {
        users: 600,
        items: 300,
        events_per_user: 20,
        tastes: 6,
        days: 100,
        seed: 1,
        signal: Signal::CoConsumption,
    };
    const TOLD: Options = Options { signal: Signal::Content, ..SMALL };

    /// Scores by one row of weights for every item of the history, added up.
    struct Neighbours {
        rows: Vec<Vec<f32>>,
    }

    impl Scorer for Neighbours {
        fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
            for (case, scores) in cases.iter().zip(scores.chunks_mut(self.rows.len())) {
                scores.fill(0.0);
                for item in case.history {
                    scores.iter_mut().zip(&self.rows[*item as usize]).for_each(|(s, w)| *s += w);
                }
            }
            Ok(())
        }
    }

    fn popularity(split: &Split) -> Neighbours {
        let row: Vec<f32> = split.train_counts().iter().map(|n| *n as f32).collect();
        Neighbours { rows: vec![row; split.train_counts().len()] }
    }

    /// Share of an item's training users that also took another.
    fn co_consumption(split: &Split) -> Neighbours {
        let counts = split.train_counts();
        let mut rows = vec![vec![0.0; counts.len()]; counts.len()];
        for user in 0..split.timelines().users() {
            let items = split.timelines().before(user, split.valid_from()).items;
            for (a, b) in items.iter().flat_map(|a| items.iter().map(move |b| (*a as usize, *b as usize))) {
                rows[a][b] += f32::from(u8::from(a != b)) / counts[a] as f32;
            }
        }
        Neighbours { rows }
    }

    /// Words in common.
    fn texts(words: &[Vec<String>]) -> Neighbours {
        let common = |a: &Vec<String>, b: &Vec<String>| a.iter().filter(|word| b.contains(word)).count() as f32;
        Neighbours { rows: words.iter().map(|a| words.iter().map(|b| common(a, b)).collect()).collect() }
    }

    /// Categories in common, times popularity.
    fn attributes(split: &Split, categories: &[Vec<String>]) -> Neighbours {
        let common = |a: &Vec<String>, b: &Vec<String>| a.iter().filter(|c| b.contains(c)).count() as f32;
        let row =
            |a| categories.iter().zip(split.train_counts()).map(|(b, n)| common(a, b) * (*n as f32 + 1.0)).collect();
        Neighbours { rows: categories.iter().map(row).collect() }
    }

    /// NDCG@10 of a model minus that of popularity.
    fn against_popularity(split: &Split, mut model: Neighbours) -> Contrast {
        let cases = split.cases(Part::Test, Target::Successive);
        let ndcg = |model: &mut Neighbours| -> Vec<f64> {
            let catalogue = model.rows.len();
            let ranked =
                rank_cases(model, &cases, metrics::Catalogue::all(catalogue), metrics::Options::default()).unwrap();
            ranked.iter().map(|r| r.ndcg(10)).collect()
        };
        let base = ndcg(&mut popularity(split));
        let differences: Vec<f64> = ndcg(&mut model).iter().zip(base).map(|(a, b)| a - b).collect();
        let users: Vec<u32> = cases.iter().map(|c| c.user).collect();
        paired_bootstrap(&[&differences], &users, 2000, 0.95, 1).unwrap()
    }

    /// The words of every item's description.
    fn described(world: &World) -> Vec<Vec<String>> {
        (0..world.options.items).map(|item| content_words(&world.description(item).unwrap())).collect()
    }

    async fn split(folder: &Path, options: Options, events: u64) -> Split {
        let files = simulate(options, folder).unwrap();
        let at = |name: &str| Location::parse(&folder.join(name).display().to_string()).unwrap();
        let log = Log::read(&at("interaction.parquet"), Some(&at("item.parquet")), 0.0).await.unwrap();
        // The independent reckoning of the model in Python that this test's expectations come from counts as many.
        assert_eq!((files[0].1, log.events().len(), files[1].1), (events, events as usize, 300));
        assert_eq!(log.items().len(), 300);
        temporal(&log, 0.9, 0.9).unwrap()
    }

    #[tokio::test]
    async fn co_consumption_tells_what_attributes_do_not_where_it_should_and_only_there() {
        let folder = tempfile::tempdir().unwrap();
        let world = World::new(SMALL).unwrap();
        let rows = world.items(0..SMALL.items).unwrap();
        let categories = crate::columns::text_lists(&rows, "categories").unwrap();

        let with = split(&folder.path().join("with"), SMALL, 11_892).await;
        let there = against_popularity(&with, co_consumption(&with));
        assert!(there.interval.low > 0.04, "{there:?}");
        let described = against_popularity(&with, attributes(&with, &categories));
        assert!(described.interval.low < 0.0, "{described:?}");

        let none = Options { signal: Signal::None, ..SMALL };
        let without = split(&folder.path().join("without"), none, 11_892).await;
        let absent = against_popularity(&without, co_consumption(&without));
        assert!(absent.interval.low <= 0.0 && absent.interval.mean.abs() < 0.01, "{absent:?}");
        let described = against_popularity(&without, attributes(&without, &categories));
        assert!(described.interval.low <= 0.0, "{described:?}");
    }

    #[tokio::test]
    async fn texts_tell_what_neither_popularity_nor_co_consumption_nor_attributes_do() {
        let folder = tempfile::tempdir().unwrap();
        let world = World::new(TOLD).unwrap();
        let rows = world.items(0..TOLD.items).unwrap();
        let categories = crate::columns::text_lists(&rows, "categories").unwrap();

        let split = split(folder.path(), TOLD, 11_872).await;
        let told = against_popularity(&split, texts(&described(&world)));
        assert!(told.interval.low > 0.025, "{told:?}");
        // Who goes by the log alone finds something, and less.
        let met = against_popularity(&split, co_consumption(&split));
        assert!(met.interval.low > 0.0 && met.interval.mean < told.interval.low, "{met:?} {told:?}");
        let attributed = against_popularity(&split, attributes(&split, &categories));
        assert!(attributed.interval.mean < 0.01, "{attributed:?}");
    }

    #[test]
    fn descriptions_of_one_group_are_alike_and_not_equal() {
        let world = World::new(TOLD).unwrap();
        let words = described(&world);
        let (mut same, mut other) = (Vec::new(), Vec::new());
        for (a, said) in words.iter().enumerate() {
            for (b, others) in words[..a].iter().enumerate() {
                let common = said.iter().filter(|word| others.contains(word)).count() as f64;
                if world.group[a] == world.group[b] { same.push(common) } else { other.push(common) }
            }
        }
        let mean = |counts: &[f64]| counts.iter().sum::<f64>() / counts.len() as f64;
        // Three of six words twice, three of 24, and the verb; of another group a word or two.
        assert!((mean(&same) - 4.4).abs() < 0.2, "{}", mean(&same));
        assert!(mean(&other) < mean(&same) - 1.5, "{}", mean(&other));
        let texts: HashSet<Option<String>> = (0..TOLD.items).map(|item| world.description(item)).collect();
        assert_eq!(texts.len(), 300);
    }

    #[test]
    fn many_late_events_are_of_items_that_the_log_hardly_knows() {
        // As jobs/ablation_control.toml asks for.
        let options =
            Options { users: 4000, items: 3000, events_per_user: 8, tastes: 120, days: 365, seed: 11, ..TOLD };
        let world = World::new(options).unwrap();
        let late = world.released.iter().filter(|moment| **moment > 0.0).count();
        assert!((1750..1850).contains(&late), "{late}");
        let mut log: Vec<Taken> = (0..options.users).flat_map(|user| world.events(user)).collect();
        log.sort_by_key(|taken| taken.timestamp);
        let from = START + i64::from(options.days) * 86_400_000_000 / 10 * 9;
        let (mut met, mut hardly, mut all) = (vec![0; options.items as usize], 0_i32, 0_i32);
        for taken in &log {
            let before = &mut met[taken.item as usize];
            if taken.timestamp >= from {
                all += 1;
                hardly += i32::from(*before < 5);
            }
            *before += 1;
        }
        assert!(f64::from(hardly) > 0.25 * f64::from(all) && all > 3000, "{hardly} of {all}");
    }

    #[test]
    fn the_other_signals_give_what_they_gave() {
        // From a reckoning of the model in Python: ids, stars and what user 7 takes first.
        let expected = [
            (Signal::CoConsumption, 1_755_476, 50_025, [(100, 5), (98, 4), (131, 4), (273, 5), (170, 4), (247, 5)]),
            (Signal::None, 1_742_707, 49_788, [(64, 5), (167, 2), (181, 4), (222, 5), (224, 5), (104, 5)]),
        ];
        for (signal, ids, stars, first) in expected {
            let world = World::new(Options { signal, ..SMALL }).unwrap();
            let taken: Vec<Taken> = (0..SMALL.users).flat_map(|user| world.events(user)).collect();
            assert_eq!(taken.iter().map(|t| t.item).sum::<u32>(), ids);
            assert_eq!(taken.iter().map(|t| t.rating as u32).sum::<u32>(), stars);
            let seven: Vec<(u32, u32)> = world.events(7).iter().map(|t| (t.item, t.rating as u32)).collect();
            assert_eq!(seven[..6], first);
            let items = world.items(0..SMALL.items).unwrap();
            assert_eq!(items.column_by_name("description").unwrap().null_count(), 300);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, options: Options, threads: usize| -> Vec<Vec<u8>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let files = pool.install(|| simulate(options, &folder.path().join(name))).unwrap();
            files.iter().map(|(file, _)| std::fs::read(file).unwrap()).collect()
        };
        // More users than go to the writer at a time.
        for signal in [Signal::CoConsumption, Signal::Content] {
            let options = Options { users: 2500, events_per_user: 3, signal, ..SMALL };
            let first = made("a", options, 1);
            assert_eq!(first, made("b", options, 3));
            assert_eq!(first, made("a", options, 2), "over files that stand there");
            let other = made("c", Options { seed: 2, ..options }, 2);
            assert!(first[0] != other[0] && first[1] != other[1]);
        }
        let names: Vec<_> =
            std::fs::read_dir(folder.path().join("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "nothing is left beside the two files: {names:?}");
    }

    #[test]
    fn a_user_takes_what_is_released_and_nothing_twice() {
        for signal in [Signal::CoConsumption, Signal::None, Signal::Content] {
            let world = World::new(Options { signal, ..SMALL }).unwrap();
            let length = f64::from(SMALL.days) * 86_400_000_000.0;
            let mut ratings: BTreeMap<u32, usize> = BTreeMap::new();
            for user in 0..100 {
                let taken = world.events(user);
                assert!((10..=30).contains(&taken.len()));
                assert!(taken.is_sorted_by_key(|t| t.timestamp));
                let released = |t: &Taken| world.released[t.item as usize] * length <= (t.timestamp - START + 1) as f64;
                assert!(taken.iter().all(released));
                assert_eq!(taken.iter().map(|t| t.item).collect::<HashSet<_>>().len(), taken.len());
                taken.iter().for_each(|t| *ratings.entry(t.rating as u32).or_default() += 1);
            }
            assert_eq!(ratings.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        }
    }

    #[test]
    fn titles_are_distinct() {
        let titles: HashSet<String> = (0..2000).map(title).collect();
        assert_eq!(titles.len(), 2000);
    }

    #[test]
    fn options_that_make_no_log_are_refused() {
        for options in [
            Options { users: 0, ..SMALL },
            Options { items: 3, ..SMALL },
            Options { days: 0, ..SMALL },
            Options { tastes: 1, ..SMALL },
            Options { tastes: 151, ..SMALL },
            Options { events_per_user: 101, ..SMALL },
        ] {
            let folder = tempfile::tempdir().unwrap();
            assert_eq!(simulate(options, folder.path()).unwrap_err().kind(), Kind::Usage);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
