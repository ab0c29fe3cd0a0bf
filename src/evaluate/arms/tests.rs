//! What recommenders are told in each arm.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::recommend::data::{Event, Log};
use crate::recommend::item_table::{How, Reading};
use crate::recommend::split::{Part, Target, temporal};

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

/// A data set of one origin.
pub(crate) fn data<'a>(split: &'a Split) -> Data<'a> {
    static IDS: std::sync::LazyLock<Vec<String>> =
        std::sync::LazyLock::new(|| (0..ITEMS).map(|i| format!("{i:03}")).collect());
    let texts = |(arm, name)| (arm, Texts { first: vectors(name), later: Vec::new() });
    let texts = [(Arm::Attributes, "a"), (Arm::ZeroShot, "r"), (Arm::Aligned, "l")].map(texts).into();
    let origin = Origin::new("0.9".into(), split, &IDS, texts, BTreeMap::new());
    Data { name: "walks", liked: 4.0, arms: &[], origins: vec![origin] }
}

/// What is learned from at the first origin.
fn learned(arm: Arm, data: &Data<'_>, seed: u64) -> Content {
    content(arm, data, 0, seed).unwrap().content
}

fn of_items(content: &Content) -> String {
    format!("{:?}", content.items)
}

#[test]
fn arms_differ_in_what_they_say_they_differ() {
    let split = temporal(&log(), 0.9, 0.9).unwrap();
    let data = data(&split);
    let arm = |arm, seed| of_items(&learned(arm, &data, seed));
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
    assert!(content(Arm::Anonymous, &data, 0, 0).is_err(), "its vectors were not made");

    // The same vectors, but for who has which.
    let sorted = |arm| {
        let mut raw: Vec<String> = match learned(arm, &data, 0).items {
            Some(vectors) => (0..ITEMS).map(|i| format!("{:?}", vectors.row(i))).collect(),
            None => Vec::new(),
        };
        raw.sort();
        raw
    };
    assert!(sorted(Arm::ZeroShot) == sorted(Arm::Shuffled));

    // Shuffled are the last stage's texts.
    let mut with_last = super::tests::data(&split);
    with_last.origins[0].texts.insert(Arm::Corrected, Texts { first: vectors("c"), later: Vec::new() });
    with_last.arms = &Arm::ALL;
    let of = |arm| of_items(&learned(arm, &with_last, 0));
    assert!(of(Arm::Shuffled) != arm(Arm::Shuffled, 0) && of(Arm::ZeroShot) == arm(Arm::ZeroShot, 0));

    // Only the leak knows what comes next.
    for arm in [Arm::NoText, Arm::Random, Arm::Attributes, Arm::ZeroShot, Arm::Shuffled] {
        let histories = learned(arm, &data, 0).histories.unwrap();
        assert!((0..60).all(|user| (0..18).all(|known| histories.latest(user, known).is_none())), "{arm:?}");
    }
    let told = learned(Arm::Leak, &data, 0).histories.unwrap();
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
    other.origins[0].texts.get_mut(&Arm::Attributes).unwrap().first[23] = Some(vec![1e6; 12]);
    let rows = |data: &Data<'_>| {
        let items = learned(Arm::Attributes, data, 0).items.unwrap();
        (0..ITEMS).map(|i| items.row(i).to_vec()).collect::<Vec<_>>()
    };
    let (one, other) = (rows(&one), rows(&other));
    assert!(one[..23] == other[..23] && one[23] != other[23]);
}

#[test]
fn a_case_sees_the_texts_of_its_moment_whitened_as_at_the_origin() {
    let split = temporal(&log(), 0.6, 0.9).unwrap();
    let mut data = data(&split);
    let from = [split.test_from(), split.test_from() + 3_000_000];
    let texts = data.origins[0].texts.get_mut(&Arm::Attributes).unwrap();
    let mut new = texts.first.clone();
    new[5] = Some(vec![0.5; 12]);
    texts.later = vec![(from[0], new), (from[1], texts.first.clone())];
    let told = content(Arm::Attributes, &data, 0, 0).unwrap();
    let first = told.content.items.as_ref().unwrap();
    let [new, old] = [0, 1].map(|at| &told.later[at].1.vectors);
    assert!(!first.has(5) && new.has(5) && old == first && told.first.vectors == *first);
    assert!((0..ITEMS).filter(|i| *i != 5).all(|i| new.row(i) == first.row(i)));
    assert_eq!(told.later[0].1.near.texts.as_ref(), Some(new), "texts are near by what is read");
    let cases = split.cases(Part::Test, Target::Successive);
    let windows = told.windows(&cases);
    assert_eq!(windows.iter().map(|(_, places)| places.len()).sum::<usize>(), cases.len());
    for (told, places) in &windows {
        let moments = places.iter().map(|place| cases[*place].timestamp);
        let of = told.map(|told| told.vectors.has(5));
        assert!(!places.is_empty() && moments.clone().all(|t| of == Some(t < from[1])), "{of:?}");
    }
    assert_eq!(windows.len(), 2, "before the test part nobody is asked");
    let validated = told.windows(&split.cases(Part::Valid, Target::Successive)).len();
    assert_eq!(validated, 1);
}

#[test]
fn readings_and_controls_have_the_texts_of_the_evidence_or_none() {
    let split = temporal(&log(), 0.9, 0.9).unwrap();
    let mut data = data(&split);
    data.arms = &Arm::ALL;
    let evidence = data.origins[0].texts[&Arm::Attributes].clone();
    data.origins[0].texts.insert(Arm::Evidence, evidence);
    let of = |arm| of_items(&learned(arm, &data, 0));
    let read = Arm::ALL.into_iter().filter(|arm| arm.is_reading());
    for arm in read {
        assert!(of(arm) == of(Arm::Evidence), "{arm:?}");
        let others = Reading {
            how: How::Base,
            delta_dropout: 0.2,
            delta_bound: 0.5,
            seen_weight: 1.0,
            seen_only: true,
            raise_unseen: true,
            or_free: false,
            near_ids: true,
            near_texts: true,
        };
        assert!(arm.reading(others) != others && Arm::Evidence.reading(others) == others, "{arm:?}");
    }
    assert!(of(Arm::Offset) == of(Arm::NoText) && of(Arm::Ensemble) == of(Arm::NoText));
    let projected = learned(Arm::Projected, &data, 0).items.unwrap();
    let (evidence, alone) = (learned(Arm::Evidence, &data, 0), learned(Arm::ProjectedAlone, &data, 0).items.unwrap());
    let evidence = evidence.items.unwrap();
    let both = |item: usize| [evidence.row(item), alone.row(item)].concat();
    assert!((0..ITEMS).all(|item| projected.row(item) == both(item)), "one after the other");
    assert!((0..ITEMS).any(|item| alone.row(item).iter().any(|x| *x != 0.0)));
    let fitted = data.origins[0].whitenings.lock().unwrap();
    assert_eq!(fitted.keys().collect::<Vec<_>>(), [&Arm::Evidence], "the same texts are whitened alike, and once");
}

#[test]
fn words_stand_beside_the_evidence_or_alone() {
    let split = temporal(&log(), 0.9, 0.9).unwrap();
    let mut data = data(&split);
    let evidence = data.origins[0].texts[&Arm::Attributes].first.clone();
    let from = split.test_from() + 1;
    let texts = Texts { first: evidence.clone(), later: vec![(from, evidence)] };
    data.origins[0].texts.insert(Arm::Evidence, texts);
    assert!(content(Arm::Words, &data, 0, 0).is_err(), "nobody has read words");
    let said = |item: usize| vec![format!("word{}", item % 3), format!("word{}", 3 + item % 4)];
    let first: ItemWords = (0..ITEMS).map(|item| if item == 7 { Vec::new() } else { said(item) }).collect();
    let later: ItemWords = (0..ITEMS).map(said).collect();
    data.origins[0].words = Some(Remade { first: first.clone(), later: vec![(from, later)] });
    let [evidence, both, alone] =
        [Arm::Evidence, Arm::Words, Arm::WordsAlone].map(|arm| content(arm, &data, 0, 0).unwrap());
    let items = |told: &Told| told.content.items.clone().unwrap();
    let beside = |item: usize| [items(&evidence).row(item), items(&alone).row(item)].concat();
    assert!((0..ITEMS).all(|item| items(&both).row(item) == beside(item)));
    assert!(
        !items(&alone).has(7) && alone.later[0].1.vectors.has(7) && items(&alone).has(5) && !items(&evidence).has(5)
    );
    assert!(evidence.first.near.words.is_none() && alone.first.near.texts.is_none());
    assert_eq!(both.first.near.texts, evidence.first.near.texts);
    // Beside reasons stand the same words.
    let mut reasons = data.origins[0].texts[&Arm::Evidence].clone();
    reasons.first.swap(1, 2);
    data.origins[0].texts.insert(Arm::Aligned, reasons);
    let [reasons, with_words] = [Arm::Aligned, Arm::AlignedWords].map(|arm| content(arm, &data, 0, 0).unwrap());
    let beside = |item: usize| [items(&reasons).row(item), items(&alone).row(item)].concat();
    assert!((0..ITEMS).all(|item| items(&with_words).row(item) == beside(item)));
    assert!((0..ITEMS).any(|item| items(&with_words).row(item) != items(&both).row(item)));
    // And beside reasons that were corrected, from the moment on from which these stand.
    let mut corrected = data.origins[0].texts[&Arm::Aligned].clone();
    corrected.later[0].1.swap(3, 4);
    data.origins[0].texts.insert(Arm::ItemsCorrected, corrected);
    let of_corrected = [Arm::ItemsCorrected, Arm::ItemsCorrectedWords].map(|arm| content(arm, &data, 0, 0).unwrap());
    let later = |told: &Told| told.later[0].1.vectors.clone();
    let [corrected, whole] = &of_corrected;
    assert!(items(corrected) == items(&reasons) && items(whole) == items(&with_words), "nobody had judged yet");
    assert!(later(corrected) != later(&reasons) && later(whole) != later(&with_words));
    let beside = |item: usize| [later(corrected).row(item), later(&alone).row(item)].concat();
    assert!((0..ITEMS).all(|item| later(whole).row(item) == beside(item)));
    // Nights that publish both have vectors of their own, and the same words stand beside them.
    let mut means = data.origins[0].texts[&Arm::Aligned].clone();
    means.first.swap(3, 4);
    data.origins[0].texts.insert(Arm::AlignedBoth, means);
    let [means, with_words] = [Arm::AlignedBoth, Arm::AlignedBothWords].map(|arm| content(arm, &data, 0, 0).unwrap());
    let beside = |item: usize| [items(&means).row(item), items(&alone).row(item)].concat();
    assert!((0..ITEMS).all(|item| items(&with_words).row(item) == beside(item)));
    assert!((0..ITEMS).any(|item| items(&means).row(item) != items(&reasons).row(item)));
    let histories = [Arm::AlignedBoth, Arm::AlignedBothWords].map(|arm| arm.histories_of(&Arm::ALL));
    assert_eq!(histories, [Some(Arm::Aligned); 2]);
    let topics = |told: &Moment| told.near.words.as_ref().unwrap().topics.clone();
    assert!(!topics(&both.first).has(7) && topics(&both.later[0].1).has(7));
    // What training never met teaches no weights.
    let mut other = first.clone();
    other[23] = vec!["word0".to_owned()];
    data.origins[0].words = Some(Remade { first: other, later: vec![(from, first.clone())] });
    let again = content(Arm::WordsAlone, &data, 0, 0).unwrap();
    assert!((0..23).all(|item| items(&again).row(item) == items(&alone).row(item)));
    data.origins[0].words = Some(Remade { first, later: Vec::new() });
    assert!(content(Arm::Words, &data, 0, 0).is_err(), "words of other moments");
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
    with.origins[0].histories = [(Arm::Attributes, told("a")), (Arm::ZeroShot, told("r"))].into();
    // What has no texts of histories is what it was, to the digest.
    for arm in [Arm::NoText, Arm::Leak, Arm::Aligned] {
        assert!(with.histories_of(arm, 0).is_none());
        let digest = |data: &Data<'_>| learned(arm, data, 0).digest();
        assert_eq!(digest(&with), digest(&alone), "{arm:?}");
    }
    let of = |arm, seed| learned(arm, &with, seed);
    for (arm, by_seed) in [(Arm::Attributes, false), (Arm::ZeroShot, false), (Arm::Random, true), (Arm::Shuffled, true)]
    {
        assert!(of_items(&of(arm, 0)) == of_items(&learned(arm, &alone, 0)), "{arm:?}: other items");
        let histories = |seed| of(arm, seed).histories.unwrap();
        assert!((histories(0) != histories(1)) == by_seed, "{arm:?}");
        let histories = histories(0);
        let lines = split.timelines();
        for user in 0..60 {
            // An event a second.
            let seen: Vec<Option<u32>> = (0..=lines.of(user).len()).map(|n| histories.latest(user, n)).collect();
            let at = |moment| with.origins[0].histories[&Arm::Attributes].latest(user, moment);
            let (early, late) = (at(5_000_000), at(10_000_000));
            assert_eq!((early.is_some(), late.is_some()), (user % 2 == 0 && user != 2, user % 2 == 0), "{user}");
            assert!(seen[..5].iter().all(Option::is_none) && seen[5..10].iter().all(|s| *s == early), "{arm:?} {user}");
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
