#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::operate::simulate_world::tests::{SMALL, TOLD, described};
use crate::operate::simulate_world::{Signal, Taken};
use crate::recommend::data::Log;
use crate::recommend::metrics::{self, Scorer, rank_cases};
use crate::recommend::split::{Case, Part, Split, Target, temporal};
use crate::statistics::{Contrast, paired_bootstrap};
use crate::table::store::Location;

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
    let row = |a| categories.iter().zip(split.train_counts()).map(|(b, n)| common(a, b) * (*n as f32 + 1.0)).collect();
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
    let told = against_popularity(&split, texts(&described(TOLD)));
    assert!(told.interval.low > 0.025, "{told:?}");
    // Who goes by the log alone finds something, and less.
    let met = against_popularity(&split, co_consumption(&split));
    assert!(met.interval.low > 0.0 && met.interval.mean < told.interval.low, "{met:?} {told:?}");
    let attributed = against_popularity(&split, attributes(&split, &categories));
    assert!(attributed.interval.mean < 0.01, "{attributed:?}");
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
    let names: Vec<_> = std::fs::read_dir(folder.path().join("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing is left beside the two files: {names:?}");
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
