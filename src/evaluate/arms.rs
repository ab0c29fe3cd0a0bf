//! The arms of the ablation: what a recommender is told about items and users in each.
//!
//! Knows splits, vectors by item and vectors of histories; knows nothing of recommenders, or of how a vector was made. Arms
//! differ in their vectors alone: every one has both fields, so that all models have the same weights.
//!
//! Histories have a whitening of their own: they speak of users in other words than items are spoken of, and where items
//! hardly differ a shared one would make much of that.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::evaluate::history_blocks::HistoryVectors;
use crate::evaluate::whitening::Whitening;
use crate::network::random::Random;
use crate::recommend::adaptor::{Content, Histories, Vectors};
use crate::recommend::split::Split;

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
    /// A4e: what A2 and A4 say, one after the other in one text: what a reason adds to its evidence.
    Beside,
    /// A4s: accepted reasons of the aligned model, several sampled for a question, their vectors pooled.
    Sampled,
    /// A5a: accepted reasons of a model aligned with the best of several answers.
    BestOf,
    /// A5b: accepted reasons of a model that learned from several answers, weighted by what they are worth.
    Weighted,
    /// A5: accepted reasons of the reinforced model.
    Reinforced,
    /// A6: accepted reasons after correction. Nights correct what they say of histories.
    Corrected,
    /// A6n: as A6, of the aligned model: correction without reinforcement.
    CorrectedAligned,
    /// A7: the reasons of A6, or of A3 where A6 is not run, dealt out to other items and users.
    Shuffled,
    /// A9: the answer itself, given with the question: what comes next and whether it is liked. Never a result: the proof
    /// that the yardstick sees a leak.
    Leak,
    /// A10: reasons written without the items' titles.
    Anonymous,
}

impl Arm {
    /// All of them, in order.
    pub const ALL: [Arm; 16] = [
        Arm::NoText,
        Arm::Random,
        Arm::Attributes,
        Arm::ZeroShot,
        Arm::Aligned,
        Arm::Templates,
        Arm::Beside,
        Arm::Sampled,
        Arm::BestOf,
        Arm::Weighted,
        Arm::Reinforced,
        Arm::Corrected,
        Arm::CorrectedAligned,
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
            Arm::Beside => "A4e",
            Arm::Sampled => "A4s",
            Arm::BestOf => "A5a",
            Arm::Weighted => "A5b",
            Arm::Reinforced => "A5",
            Arm::Corrected => "A6",
            Arm::CorrectedAligned => "A6n",
            Arm::Shuffled => "A7",
            Arm::Leak => "A9",
            Arm::Anonymous => "A10",
        }
    }

    /// Whether its texts are those of the nightly job with other keys, which someone has to name.
    pub fn wants_keys(self) -> bool {
        matches!(
            self,
            Arm::Aligned
                | Arm::Sampled
                | Arm::BestOf
                | Arm::Weighted
                | Arm::Reinforced
                | Arm::Corrected
                | Arm::CorrectedAligned
        )
    }

    /// Whether its nights correct what they say of histories.
    pub fn corrects(self) -> bool {
        matches!(self, Arm::Corrected | Arm::CorrectedAligned)
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

    /// The arm whose texts of histories it has, where `arms` are run. The leak gives the answer instead; of what is sampled
    /// several times only items have so many texts.
    pub fn histories_of(self, arms: &[Arm]) -> Option<Arm> {
        match self {
            Arm::Leak => None,
            Arm::Sampled => Some(Arm::Aligned),
            other => other.texts_of(arms),
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
    /// Of what those arms say of histories, where they are asked to.
    pub histories: BTreeMap<Arm, HistoryVectors>,
    /// The arms that are run: they decide whose texts are shuffled.
    pub arms: &'a [Arm],
}

impl Data<'_> {
    /// What an arm says of histories, if anything.
    pub fn histories_of(&self, arm: Arm) -> Option<&HistoryVectors> {
        self.histories.get(&arm.histories_of(self.arms)?).filter(|told| !told.is_empty())
    }
}

/// What a recommender is told in an arm: vectors of items, and of histories where there are some. Every arm has both fields,
/// so that all have the same weights.
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
        draw(&mut raw, seed, "random vectors");
    }
    let mut vectors = whitened(&raw, &|item| split.train_counts()[item] > 0)?;
    if arm == Arm::Shuffled {
        vectors = dealt(&vectors, seed)?;
    }
    let lines = split.timelines();
    let histories = match data.histories_of(arm) {
        _ if arm == Arm::Leak => {
            let next = |(item, rating): (&u32, &Option<f32>)| {
                let liked = rating.is_none_or(|r| r >= data.liked);
                Some(item + if liked { items as u32 } else { 0 })
            };
            let latest: Vec<Vec<Option<u32>>> = (0..lines.users())
                .map(|user| lines.of(user))
                .map(|line| line.items.iter().zip(line.ratings).map(next).chain([None]).collect())
                .collect();
            Histories::new(answers(&vectors)?, &latest)?
        }
        Some(told) => Histories::new(of_histories(arm, told, split, seed)?, &told.by_known(lines))?,
        None => Histories::new(absent(items)?, &HistoryVectors::default().by_known(lines))?,
    };
    Ok(Content { items: Some(vectors), histories: Some(histories) })
}

/// The vectors of histories as an arm has them.
fn of_histories(arm: Arm, told: &HistoryVectors, split: &Split, seed: u64) -> Result<Vectors> {
    let mut raw: Vec<Option<Vec<f32>>> = told.vectors().iter().cloned().map(Some).collect();
    if arm == Arm::Random {
        draw(&mut raw, seed, "random histories");
    }
    let vectors = whitened(&raw, &|at| told.keys()[at].1 <= split.valid_from())?;
    match arm {
        Arm::Shuffled => dealt_at_once(&vectors, told.keys(), seed),
        _ => Ok(vectors),
    }
}

/// Random vectors in the place of those that are there.
fn draw(raw: &mut [Option<Vec<f32>>], seed: u64, name: &str) {
    let mut random = Random::new(seed, name);
    raw.iter_mut().flatten().flatten().for_each(|value| *value = random.normal() as f32);
}

/// The vectors that are there, dealt out anew among the items that have one.
fn dealt(vectors: &Vectors, seed: u64) -> Result<Vectors> {
    let owners: Vec<usize> = (0..vectors.len()).filter(|item| vectors.has(*item)).collect();
    let mut givers = owners.clone();
    Random::new(seed, "shuffled reasons").shuffle(&mut givers);
    let mut from: Vec<usize> = (0..vectors.len()).collect();
    owners.iter().zip(givers).for_each(|(owner, giver)| from[*owner] = giver);
    taken(vectors, &from)
}

/// Vectors of histories, each given to the next user of a random round over those of the same moment: nobody keeps their own
/// where there is another, and nobody hears of anything that came later.
fn dealt_at_once(vectors: &Vectors, keys: &[(u32, i64)], seed: u64) -> Result<Vectors> {
    let mut rounds: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    keys.iter().enumerate().for_each(|(at, (_, moment))| rounds.entry(*moment).or_default().push(at));
    let mut random = Random::new(seed, "shuffled histories");
    let mut from: Vec<usize> = (0..vectors.len()).collect();
    for mut round in rounds.into_values() {
        random.shuffle(&mut round);
        let next = round.iter().cycle().skip(1);
        round.iter().zip(next).for_each(|(owner, giver)| from[*owner] = *giver);
    }
    taken(vectors, &from)
}

/// Each with the values of the one that `from` names for it.
fn taken(vectors: &Vectors, from: &[usize]) -> Result<Vectors> {
    let values = from.iter().flat_map(|at| vectors.row(*at)).copied().collect();
    Vectors::new(WIDTH, values, (0..vectors.len()).map(|at| vectors.has(at)).collect())
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

/// Principal components, learned from those that `is_fitted` says may be learned from: of training alone.
fn whitened(raw: &[Option<Vec<f32>>], is_fitted: &dyn Fn(usize) -> bool) -> Result<Vectors> {
    let fitted: Vec<&[f32]> =
        raw.iter().enumerate().filter(|(at, _)| is_fitted(*at)).filter_map(|(_, v)| v.as_deref()).collect();
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
            histories: BTreeMap::new(),
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
    /// A vector for even users as of two moments of training, for user 2 as of the later alone.
    fn told(name: &str) -> HistoryVectors {
        let mut random = Random::new(4, name);
        let keys = (0..60).step_by(2).flat_map(|user| [(user, 5_000_000), (user, 10_000_000)]);
        let mut vector = |key| (key, (0..12).map(|_| random.normal() as f32).collect());
        keys.filter(|key| *key != (2, 5_000_000)).map(&mut vector).collect::<BTreeMap<(u32, i64), Vec<f32>>>().into()
    }

    #[test]
    fn histories_are_told_to_the_arms_that_have_texts_and_to_no_event_before_them() {
        let split = temporal(&log(), 0.9, 0.9).unwrap();
        let alone = data(&split);
        let mut with = data(&split);
        with.histories = [(Arm::Attributes, told("a")), (Arm::ZeroShot, told("r"))].into();
        // What has no texts of histories is what it was, to the digest.
        for arm in [Arm::NoText, Arm::Leak, Arm::Aligned] {
            assert!(with.histories_of(arm).is_none());
            let digest = |data: &Data<'_>| content(arm, data, 0).unwrap().digest();
            assert_eq!(digest(&with), digest(&alone), "{arm:?}");
        }
        let of = |arm, seed| content(arm, &with, seed).unwrap();
        for (arm, by_seed) in
            [(Arm::Attributes, false), (Arm::ZeroShot, false), (Arm::Random, true), (Arm::Shuffled, true)]
        {
            assert!(of_items(&of(arm, 0)) == of_items(&content(arm, &alone, 0).unwrap()), "{arm:?}: other items");
            let histories = |seed| of(arm, seed).histories.unwrap();
            assert!((histories(0) != histories(1)) == by_seed, "{arm:?}");
            let histories = histories(0);
            let lines = split.timelines();
            for user in 0..60 {
                // An event a second.
                let seen: Vec<Option<u32>> = (0..=lines.of(user).len()).map(|n| histories.latest(user, n)).collect();
                let at = |moment| with.histories[&Arm::Attributes].latest(user, moment);
                let (early, late) = (at(5_000_000), at(10_000_000));
                assert_eq!((early.is_some(), late.is_some()), (user % 2 == 0 && user != 2, user % 2 == 0), "{user}");
                assert!(
                    seen[..5].iter().all(Option::is_none) && seen[5..10].iter().all(|s| *s == early),
                    "{arm:?} {user}"
                );
                assert!(seen[10..].iter().all(|s| *s == late), "{arm:?} {user}: {seen:?}");
            }
        }
        assert!(of(Arm::Random, 0).digest() != of(Arm::Attributes, 0).digest());
    }

    #[test]
    fn shuffled_histories_are_other_users_of_the_same_moment() {
        let split = temporal(&log(), 0.9, 0.9).unwrap();
        let told = told("r");
        let of = |arm| of_histories(arm, &told, &split, 3).unwrap();
        let (own, shuffled) = (of(Arm::ZeroShot), of(Arm::Shuffled));
        for moment in [5_000_000, 10_000_000] {
            let at: Vec<usize> = (0..own.len()).filter(|at| told.keys()[*at].1 == moment).collect();
            let sorted = |vectors: &Vectors| {
                let mut rows: Vec<String> = at.iter().map(|at| format!("{:?}", vectors.row(*at))).collect();
                rows.sort();
                rows
            };
            assert!(at.len() > 20 && sorted(&own) == sorted(&shuffled));
            assert!(at.iter().all(|at| own.row(*at) != shuffled.row(*at)), "someone kept their own");
        }
    }

    #[test]
    fn histories_of_the_held_out_part_are_not_fitted_on() {
        let split = temporal(&log(), 0.5, 0.9).unwrap();
        let held_out = split.valid_from() + 1;
        let with = |value: f32| {
            let mut found: BTreeMap<(u32, i64), Vec<f32>> =
                told("a").keys().iter().copied().zip(told("a").vectors().iter().cloned()).collect();
            found.insert((59, held_out), vec![value; 12]);
            of_histories(Arm::Attributes, &found.into(), &split, 0).unwrap()
        };
        let (one, other) = (with(0.0), with(1e6));
        let last = one.len() - 1;
        assert!((0..last).all(|at| one.row(at) == other.row(at)) && one.row(last) != other.row(last));
    }
}
