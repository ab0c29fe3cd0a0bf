//! The arms of the ablation: what a recommender is told about items in each.
//!
//! Knows splits and vectors by item; knows nothing of recommenders, or of how a vector was made. Arms differ in their
//! vectors alone: every one has both fields, so that all models have the same weights.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::network::random::Random;
use crate::recommend::adaptor::{Content, Histories, Vectors};
use crate::recommend::split::Split;
use crate::recommend::whitening::Whitening;

/// A leaked label among values of variance one.
const LABEL: f32 = 3.0;
/// Width of a vector on its way into the adaptor.
const WIDTH: usize = 64;

/// What a recommender is told about items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arm {
    /// A0: nothing.
    NoText,
    /// A1: a random vector each.
    Random,
    /// A2: attributes and co-consumption as text, without a language model.
    Attributes,
    /// A3: the language model's accepted reasons, as it comes.
    ZeroShot,
    /// A4: accepted reasons of the aligned model.
    Aligned,
    /// A4b: the templates' own reasons, which the aligned model is taught.
    Templates,
    /// A5a: accepted reasons of a model aligned with the best of several answers.
    BestOf,
    /// A5: accepted reasons of the reinforced model.
    Reinforced,
    /// A6: accepted reasons after correction.
    Corrected,
    /// A7: the reasons of A6, or of A3 where A6 is not run, dealt out to other items.
    Shuffled,
    /// A9: the answer itself, given with the question: what comes next and whether it is liked. Never a result: the proof
    /// that the yardstick sees a leak.
    Leak,
    /// A10: reasons written without the items' titles.
    Anonymous,
}

impl Arm {
    /// All of them, in order.
    pub const ALL: [Arm; 12] = [
        Arm::NoText,
        Arm::Random,
        Arm::Attributes,
        Arm::ZeroShot,
        Arm::Aligned,
        Arm::Templates,
        Arm::BestOf,
        Arm::Reinforced,
        Arm::Corrected,
        Arm::Shuffled,
        Arm::Leak,
        Arm::Anonymous,
    ];

    /// Its name in tables.
    pub fn code(self) -> &'static str {
        match self {
            Arm::NoText => "A0",
            Arm::Random => "A1",
            Arm::Attributes => "A2",
            Arm::ZeroShot => "A3",
            Arm::Aligned => "A4",
            Arm::Templates => "A4b",
            Arm::BestOf => "A5a",
            Arm::Reinforced => "A5",
            Arm::Corrected => "A6",
            Arm::Shuffled => "A7",
            Arm::Leak => "A9",
            Arm::Anonymous => "A10",
        }
    }

    /// Whether its texts are those of the nightly job with other keys, which someone has to name.
    pub fn wants_keys(self) -> bool {
        matches!(self, Arm::Aligned | Arm::BestOf | Arm::Reinforced | Arm::Corrected)
    }

    /// The arm whose texts it has, where `arms` are run; nothing where it has none.
    pub fn texts_of(self, arms: &[Arm]) -> Option<Arm> {
        match self {
            Arm::NoText => None,
            Arm::Random | Arm::Leak => Some(Arm::Attributes),
            Arm::Shuffled if arms.contains(&Arm::Corrected) => Some(Arm::Corrected),
            Arm::Shuffled => Some(Arm::ZeroShot),
            other => Some(other),
        }
    }
}

/// The sentence vector of every item of the catalogue, where there is a text.
pub type ItemVectors = Vec<Option<Vec<f32>>>;

/// A data set on its way through the arms.
pub struct Data<'a> {
    /// Its name.
    pub name: &'a str,
    /// The log, cut in three.
    pub split: &'a Split,
    /// A rating of at least this is a like; events without one are likes. For the leak, which tells it.
    pub liked: f32,
    /// Of the texts of every arm that has texts of its own ([`Arm::texts_of`]).
    pub texts: BTreeMap<Arm, ItemVectors>,
    /// The arms that are run: they decide whose texts are shuffled.
    pub arms: &'a [Arm],
}

/// What a recommender is told in an arm: vectors of items, and of histories in the leak alone. Every arm has both fields, so
/// that all have the same weights.
///
/// # Errors
/// `Kind::Input` where vectors are missing that the arm is made of.
pub fn content(arm: Arm, data: &Data<'_>, seed: u64) -> Result<Content> {
    let (split, items) = (data.split, data.split.train_counts().len());
    let mut raw = match arm.texts_of(data.arms) {
        None => vec![None; items],
        Some(of) => data.texts.get(&of).filter(|vectors| vectors.len() == items).cloned().ok_or_else(|| {
            Error::new(Kind::Input, "an arm wants texts that were not made")
                .with("arm", arm.code())
                .with("texts", of.code())
        })?,
    };
    if arm == Arm::Random {
        let mut random = Random::new(seed, "random vectors");
        raw.iter_mut().flatten().flatten().for_each(|value| *value = random.normal() as f32);
    }
    let mut vectors = whitened(&raw, split.train_counts())?;
    if arm == Arm::Shuffled {
        vectors = dealt(&vectors, seed)?;
    }
    let lines = split.timelines();
    let latest: Vec<Vec<Option<u32>>> = (0..lines.users())
        .map(|user| {
            let line = lines.of(user);
            let next = |(item, rating): (&u32, &Option<f32>)| {
                let liked = rating.is_none_or(|r| r >= data.liked);
                (arm == Arm::Leak).then_some(item + if liked { items as u32 } else { 0 })
            };
            line.items.iter().zip(line.ratings).map(next).chain([None]).collect()
        })
        .collect();
    let of_histories = match arm {
        Arm::Leak => answers(&vectors)?,
        _ => absent(items)?,
    };
    Ok(Content { items: Some(vectors), histories: Some(Histories::new(of_histories, &latest)?) })
}

/// The vectors that are there, dealt out anew among the items that have one.
fn dealt(vectors: &Vectors, seed: u64) -> Result<Vectors> {
    let owners: Vec<usize> = (0..vectors.len()).filter(|item| vectors.has(*item)).collect();
    let mut givers = owners.clone();
    Random::new(seed, "shuffled reasons").shuffle(&mut givers);
    let mut from: Vec<usize> = (0..vectors.len()).collect();
    owners.iter().zip(givers).for_each(|(owner, giver)| from[*owner] = giver);
    let values = from.iter().flat_map(|item| vectors.row(*item)).copied().collect();
    Vectors::new(WIDTH, values, (0..vectors.len()).map(|item| vectors.has(item)).collect())
}

/// What gives an answer away: the vector of every item, its last value telling a dislike; then the same for a like.
fn answers(vectors: &Vectors) -> Result<Vectors> {
    let rows = [-LABEL, LABEL].into_iter().flat_map(|label| {
        (0..vectors.len()).map(move |item| {
            let mut row = vectors.row(item).to_vec();
            row[WIDTH - 1] = label;
            row
        })
    });
    Vectors::new(WIDTH, rows.flatten().collect(), vec![true; 2 * vectors.len()])
}

fn absent(items: usize) -> Result<Vectors> {
    Vectors::new(WIDTH, vec![0.0; items * WIDTH], vec![false; items])
}

/// Principal components, learned from items with training events alone.
fn whitened(raw: &ItemVectors, train_counts: &[u32]) -> Result<Vectors> {
    let fitted: Vec<&[f32]> =
        raw.iter().zip(train_counts).filter(|(_, n)| **n > 0).filter_map(|(v, _)| v.as_deref()).collect();
    if fitted.len() < 2 {
        return absent(raw.len());
    }
    let whitening = Whitening::fit(&fitted, WIDTH)?;
    let values: Vec<Vec<f32>> =
        raw.par_iter().map(|v| v.as_ref().map_or_else(|| vec![0.0; WIDTH], |v| whitening.apply(v))).collect();
    Vectors::new(WIDTH, values.concat(), raw.iter().map(Option::is_some).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::recommend::data::{Event, Log};
    use crate::recommend::split::temporal;

    const ITEMS: usize = 24;

    /// Users who take items in no order at all, each once; item 23 comes only at the end.
    pub(crate) fn log() -> Log {
        let ids = |n: usize| (0..n).map(|i| format!("{i:03}")).collect::<Vec<String>>();
        let mut random = Random::new(3, "walks");
        let mut events = Vec::new();
        for user in 0..60_u32 {
            let mut items: Vec<u32> = (0..ITEMS as u32 - 1).collect();
            random.shuffle(&mut items);
            for (step, item) in items.into_iter().take(18).enumerate() {
                let rating = Some(if random.below(2) == 0 { 5.0 } else { 2.0 });
                events.push(Event { user, item, rating, timestamp: 1_000_000 * step as i64 + i64::from(user) });
            }
        }
        events.push(Event { user: 0, item: 23, rating: Some(5.0), timestamp: 30_000_000 });
        Log::new(ids(60), ids(ITEMS), events).unwrap()
    }

    fn vectors(name: &str) -> ItemVectors {
        let mut random = Random::new(9, name);
        (0..ITEMS).map(|i| (i != 5).then(|| (0..12).map(|_| random.normal() as f32).collect())).collect()
    }

    pub(crate) fn data<'a>(split: &'a Split) -> Data<'a> {
        Data {
            name: "walks",
            split,
            liked: 4.0,
            texts: [(Arm::Attributes, "a"), (Arm::ZeroShot, "r"), (Arm::Aligned, "l")]
                .map(|(arm, name)| (arm, vectors(name)))
                .into(),
            arms: &[],
        }
    }

    fn of_items(content: &Content) -> String {
        format!("{:?}", content.items)
    }

    #[test]
    fn arms_differ_in_what_they_say_they_differ() {
        let split = temporal(&log(), 0.9, 0.9).unwrap();
        let data = data(&split);
        let arm = |arm, seed| of_items(&content(arm, &data, seed).unwrap());
        assert!(!arm(Arm::NoText, 0).contains("true"), "no vector is there");
        for (of, by_seed) in [
            (Arm::NoText, false),
            (Arm::Attributes, false),
            (Arm::Aligned, false),
            (Arm::Random, true),
            (Arm::Shuffled, true),
        ] {
            assert!((arm(of, 0) != arm(of, 1)) == by_seed, "{of:?}");
        }
        let distinct: std::collections::BTreeSet<String> =
            [Arm::NoText, Arm::Random, Arm::Attributes, Arm::ZeroShot, Arm::Aligned, Arm::Shuffled]
                .map(|a| arm(a, 0))
                .into();
        assert_eq!(distinct.len(), 6);
        assert!(content(Arm::Anonymous, &data, 0).is_err(), "its vectors were not made");

        // The same vectors, but for who has which.
        let sorted = |arm| {
            let mut raw: Vec<String> = match content(arm, &data, 0).unwrap().items {
                Some(vectors) => (0..ITEMS).map(|i| format!("{:?}", vectors.row(i))).collect(),
                None => Vec::new(),
            };
            raw.sort();
            raw
        };
        assert!(sorted(Arm::ZeroShot) == sorted(Arm::Shuffled));

        // Shuffled are the last stage's texts.
        let mut with_last = super::tests::data(&split);
        with_last.texts.insert(Arm::Corrected, vectors("c"));
        with_last.arms = &Arm::ALL;
        let of = |arm| of_items(&content(arm, &with_last, 0).unwrap());
        assert!(of(Arm::Shuffled) != arm(Arm::Shuffled, 0) && of(Arm::ZeroShot) == arm(Arm::ZeroShot, 0));

        // Only the leak knows what comes next.
        for arm in [Arm::NoText, Arm::Random, Arm::Attributes, Arm::ZeroShot, Arm::Shuffled] {
            let histories = content(arm, &data, 0).unwrap().histories.unwrap();
            assert!((0..60).all(|user| (0..18).all(|known| histories.latest(user, known).is_none())), "{arm:?}");
        }
        let told = content(Arm::Leak, &data, 0).unwrap().histories.unwrap();
        let line = split.timelines().of(7);
        let next =
            line.items.iter().zip(line.ratings).map(|(i, r)| Some(i + if *r == Some(5.0) { ITEMS as u32 } else { 0 }));
        assert_eq!((0..line.len()).map(|known| told.latest(7, known)).collect::<Vec<_>>(), next.collect::<Vec<_>>());
        assert_eq!(told.latest(7, line.len()), None);
    }

    #[test]
    fn what_was_not_trained_on_is_not_fitted_on() {
        let split = temporal(&log(), 0.9, 0.9).unwrap();
        assert_eq!(split.train_counts()[23], 0);
        let (one, mut other) = (data(&split), data(&split));
        other.texts.get_mut(&Arm::Attributes).unwrap()[23] = Some(vec![1e6; 12]);
        let rows = |data: &Data<'_>| {
            let items = content(Arm::Attributes, data, 0).unwrap().items.unwrap();
            (0..ITEMS).map(|i| items.row(i).to_vec()).collect::<Vec<_>>()
        };
        let (one, other) = (rows(&one), rows(&other));
        assert!(one[..23] == other[..23] && one[23] != other[23]);
    }
}
