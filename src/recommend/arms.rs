//! The arms of the ablation: what a recommender is told about items in each.
//!
//! Knows splits and vectors by item; knows nothing of recommenders, or of how a vector was made. Arms differ in their
//! vectors alone: every one has both fields, so that all models have the same weights.

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
    /// A7: the reasons of A3, dealt out to other items.
    Shuffled,
    /// A9: the answer itself, given with the question: what comes next and whether it is liked. Never a result: the proof
    /// that the yardstick sees a leak.
    Leak,
    /// A10: reasons written without the items' titles.
    Anonymous,
}

impl Arm {
    /// All of them, in order.
    pub const ALL: [Arm; 8] = [
        Arm::NoText,
        Arm::Random,
        Arm::Attributes,
        Arm::ZeroShot,
        Arm::Aligned,
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
            Arm::Shuffled => "A7",
            Arm::Leak => "A9",
            Arm::Anonymous => "A10",
        }
    }

    /// Whether it needs the reasons of the language model as it comes.
    pub fn wants_reasons(self) -> bool {
        matches!(self, Arm::ZeroShot | Arm::Shuffled)
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
    /// Of attributes and co-consumption.
    pub attributes: ItemVectors,
    /// Of accepted reasons; empty where no arm wants them.
    pub reasons: ItemVectors,
    /// Of accepted reasons of the aligned model; empty where no arm wants them.
    pub aligned: ItemVectors,
    /// Of accepted reasons without titles; empty where no arm wants them.
    pub anonymous: ItemVectors,
}

/// What a recommender is told in an arm: vectors of items, and of histories in the leak alone. Every arm has both fields, so
/// that all have the same weights.
///
/// # Errors
/// `Kind::Input` where vectors are missing that the arm is made of.
pub fn content(arm: Arm, data: &Data<'_>, seed: u64) -> Result<Content> {
    let (split, items) = (data.split, data.split.train_counts().len());
    let of = |vectors: &ItemVectors, what: &str| match vectors.len() == items {
        true => Ok(vectors.clone()),
        false => {
            Err(Error::new(Kind::Input, format!("an arm wants {what}, which were not made")).with("arm", arm.code()))
        }
    };
    let raw = match arm {
        Arm::NoText => vec![None; items],
        Arm::Random => {
            let mut random = Random::new(seed, "random vectors");
            let attributes = of(&data.attributes, "attributes")?;
            let mut drawn = |v: Vec<f32>| v.iter().map(|_| random.normal() as f32).collect();
            attributes.into_iter().map(|v| v.map(&mut drawn)).collect()
        }
        Arm::Attributes | Arm::Leak => of(&data.attributes, "attributes")?,
        // The same reasons make the same vectors, whoever has them then.
        Arm::ZeroShot | Arm::Shuffled => of(&data.reasons, "reasons")?,
        Arm::Aligned => of(&data.aligned, "reasons of an aligned model")?,
        Arm::Anonymous => of(&data.anonymous, "reasons without titles")?,
    };
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
            attributes: vectors("a"),
            reasons: vectors("r"),
            aligned: vectors("l"),
            anonymous: Vec::new(),
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
        other.attributes[23] = Some(vec![1e6; 12]);
        let rows = |data: &Data<'_>| {
            let items = content(Arm::Attributes, data, 0).unwrap().items.unwrap();
            (0..ITEMS).map(|i| items.row(i).to_vec()).collect::<Vec<_>>()
        };
        let (one, other) = (rows(&one), rows(&other));
        assert!(one[..23] == other[..23] && one[23] != other[23]);
    }
}
