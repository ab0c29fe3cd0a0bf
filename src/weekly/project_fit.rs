//! A projection learned from data and judged by what users took next: the map, its controls, and the gate's conditions.
//!
//! Knows the data in memory; knows nothing of where it comes from or where the projection goes.

use std::collections::HashMap;

use serde::Serialize;

use crate::config::Interval;
use crate::error::Result;
use crate::network::random::Random;
use crate::project::linear::nearest_rotation;
use crate::project::map::{CrossFitted, Row};
use crate::project::saved::{Origin, Projection};
use crate::project::space::{WIDTH, item_vectors};
use crate::registry::card::Check;
use crate::statistics;
use crate::weekly::next_items::{Asked, Found, Vectors, difference, found, ranks};
use crate::weekly::project_data::Data;
use crate::weekly::weekly_file::ProjectionSpec;

/// Items of fewer users are told apart.
const RARE: u64 = 5;

/// What some vectors found, of all next items and of those that fewer than five users had met.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// Of all.
    pub all: Found,
    /// Of the rare ones.
    pub rare: Found,
}

/// What was measured of the map of users: profiles are their mapped vectors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OfUsers {
    /// Users that it has learned from.
    pub learned: usize,
    /// Users that it was judged by.
    pub users: usize,
    /// Their next items.
    pub next: usize,
    /// By the map.
    pub mapped: Found,
    /// By a map that learned from shuffled pairs.
    pub shuffled: Found,
    /// Mean reciprocal rank of the first less that of the second.
    pub mapped_less_shuffled: statistics::Interval,
    /// Whether the low end of that is above `least_gain`, and enough users were asked about, so that users have a map.
    pub is_kept: bool,
}

/// A finished run: `project.json` beside the projection.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// Whether the gate holds.
    pub passed: bool,
    /// First moment of the interval, before which it has learned.
    pub interval_start: String,
    /// First moment after it.
    pub interval_end: String,
    /// What it is known by.
    pub digest: String,
    /// Digest of the encoder.
    pub encoder: String,
    /// Items with a vector: those that are ranked.
    pub items: usize,
    /// Of those, learned from: they have a place in the space of co-consumption.
    pub learned: usize,
    /// Pairs of items that were met by the same user.
    pub pairs: usize,
    /// Users that were asked about.
    pub users: usize,
    /// Their next items.
    pub next: usize,
    /// Of those, rare ones.
    pub rare: usize,
    /// By the vectors of the texts.
    pub text: Measured,
    /// By the mapped ones.
    pub mapped: Measured,
    /// By those of a map that learned from shuffled pairs.
    pub shuffled: Measured,
    /// By text and mapped vectors beside each other, of one length in the mean.
    pub beside: Measured,
    /// By the mapped ones of the version in use; none where there is none for this encoder.
    pub in_use: Option<Measured>,
    /// Mean reciprocal ranks: mapped less shuffled.
    pub mapped_less_shuffled: statistics::Interval,
    /// Mapped less text.
    pub mapped_less_text: statistics::Interval,
    /// Both less text.
    pub beside_less_text: statistics::Interval,
    /// Mapped less those of the version in use.
    pub mapped_less_in_use: Option<statistics::Interval>,
    /// The map of users; none where too few have a vector and a history.
    pub of_users: Option<OfUsers>,
    /// The gate's conditions.
    pub gate: Vec<Check>,
    /// The version in use whose space it was turned towards, and which it was held against.
    pub turned_towards: Option<String>,
    /// The version in the registry; none where no name is set, and in the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}
/// The same rows with the targets and weights of others of them: a map learned from them knows texts and the space, and
/// not which belongs to which.
fn shuffled<'a>(rows: &[Row<'a>], random: &mut Random) -> Vec<Row<'a>> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    random.shuffle(&mut order);
    let other = |(row, at): (&Row<'a>, usize)| Row { target: rows[at].target, weight: rows[at].weight, ..*row };
    rows.iter().zip(order).map(other).collect()
}

/// Turns the space so that it lies as the version before has it: the same direction means the same from week to week.
fn turned(space: &mut [f64], rows: &[(usize, &str, &[f32], f64)], before: &Projection) -> Result<()> {
    let mut product = vec![vec![0.0; WIDTH]; WIDTH];
    for (place, id, text, weight) in rows {
        let Some(was) = before.item().apply(id, text)? else { continue };
        for (row, y) in product.iter_mut().zip(&space[place * WIDTH..(place + 1) * WIDTH]) {
            row.iter_mut().zip(&was).for_each(|(to, f)| *to += weight * y * f64::from(*f));
        }
    }
    let turn = nearest_rotation(&product)?;
    for vector in space.chunks_exact_mut(WIDTH) {
        let mut moved = [0.0; WIDTH];
        for (y, row) in vector.iter().zip(&turn) {
            moved.iter_mut().zip(row).for_each(|(to, r)| *to += y * r);
        }
        vector.copy_from_slice(&moved);
    }
    Ok(())
}

/// What was learned and found; in place of it what was counted, where there is nothing to learn from or to judge by.
pub(super) fn work(
    data: &Data,
    of: &ProjectionSpec,
    interval: Interval,
    encoder: &str,
    before: Option<(String, Projection)>,
) -> Result<std::result::Result<(Projection, Done), String>> {
    let ids: Vec<&str> = data.texts.keys().map(String::as_str).collect();
    let texts: Vec<&[f32]> = data.texts.values().map(Vec::as_slice).collect();
    let candidates: HashMap<&str, usize> = ids.iter().copied().zip(0..).collect();
    let places: HashMap<&str, usize> = data.consumed.iter().map(|(id, _)| id.as_str()).zip(0..).collect();
    let mut space = item_vectors(data.consumed.len(), &data.pairs, of.shrinkage, of.seed)?;
    let learned: Vec<(usize, &str, &[f32], f64)> = data
        .consumed
        .iter()
        .enumerate()
        .filter(|(place, _)| space[place * WIDTH..(place + 1) * WIDTH].iter().any(|x| *x != 0.0))
        .filter_map(|(place, (id, n))| {
            let n = *n as f64;
            Some((place, id.as_str(), texts[*candidates.get(id.as_str())?], n / (n + of.prior)))
        })
        .collect();
    let asked = asked(data, of, &candidates);
    if learned.len() < 2 * of.folds || asked.is_empty() {
        return Ok(Err(format!(
            "{} item(s) with a vector, {} pair(s) of {} item(s) that were met before, {} of these with a vector and a place \
             (needed: {}), and {} user(s) to be asked about (needed: 1)",
            ids.len(),
            data.pairs.len(),
            data.consumed.len(),
            learned.len(),
            2 * of.folds,
            asked.len()
        )));
    }
    if let Some((_, before)) = &before {
        turned(&mut space, &learned, before)?;
    }
    let of_place = |place: usize| &space[place * WIDTH..(place + 1) * WIDTH];
    let rows: Vec<Row<'_>> = learned
        .iter()
        .map(|(place, id, text, weight)| Row { id, text, target: of_place(*place), weight: *weight })
        .collect();
    let map = CrossFitted::fit(&rows, of.folds, of.ridge, true)?;
    let control =
        CrossFitted::fit(&shuffled(&rows, &mut Random::new(of.seed, "shuffled items")), of.folds, of.ridge, true)?;

    let input = texts.first().map_or(0, |text| text.len());
    let raw = Vectors::new(input, texts.iter().map(|text| text.to_vec()));
    let image = |map: &CrossFitted| -> Result<Vectors> {
        let images = ids.iter().zip(&texts).map(|(id, text)| Ok(map.apply(id, text)?.unwrap_or_default()));
        Ok(Vectors::new(WIDTH, images.collect::<Result<Vec<_>>>()?))
    };
    let (mapped, control) = (image(&map)?, image(&control)?);
    let in_use = before.as_ref().map(|(_, before)| image(before.item())).transpose()?;
    let beside = raw.of_mean_length_one().beside(&mapped.of_mean_length_one());

    let users: Vec<Asked> = asked.iter().map(|(_, user)| user.clone()).collect();
    let whose: Vec<u32> =
        users.iter().zip(0..).flat_map(|(user, number)| user.next.iter().map(move |_| number)).collect();
    let counts: HashMap<&str, u64> = data.consumed.iter().map(|(id, n)| (id.as_str(), *n)).collect();
    let is_rare: Vec<bool> = users
        .iter()
        .flat_map(|user| &user.next)
        .map(|item| counts.get(ids[*item]).copied().unwrap_or(0) < RARE)
        .collect();
    let by = |vectors: &Vectors| ranks(vectors, &users, |user| Some(vectors.sum(&users[user].history)));
    let [of_text, of_mapped, of_control, of_beside] = [&raw, &mapped, &control, &beside].map(by);
    let measured = |ranks: &[f64]| {
        let rare: Vec<f64> =
            ranks.iter().zip(&is_rare).filter(|(_, is_rare)| **is_rare).map(|(rank, _)| *rank).collect();
        Measured { all: found(ranks), rare: found(&rare) }
    };
    let less = |a: &[f64], b: &[f64]| difference(a, b, &whose, of.resamples, of.seed);
    let (mapped_less_shuffled, beside_less_text) = (less(&of_mapped, &of_control)?, less(&of_beside, &of_text)?);
    let of_in_use = in_use.as_ref().map(by);
    let mapped_less_in_use = of_in_use.as_ref().map(|of_in_use| less(&of_mapped, of_in_use)).transpose()?;
    let (text, in_use) = (measured(&of_text), of_in_use.as_ref().map(|ranks| measured(ranks)));

    let (user_map, of_users) = map_of_users(data, of, &asked, &mapped, &places, &space)?.unzip();
    let user_map = user_map.filter(|_| of_users.is_some_and(|of_users: OfUsers| of_users.is_kept));
    let turned_towards = before.map(|(version, _)| version);
    let origin = Origin {
        encoder: encoder.to_owned(),
        items: rows.len(),
        users: of_users.filter(|of_users| of_users.is_kept).map_or(0, |of_users| of_users.learned),
        learned_before: interval.start.to_rfc3339(),
        turned_towards: turned_towards.clone(),
    };
    let learned = rows.len();
    let projection = Projection::new(map, user_map, origin)?;
    let mut gate = vec![
        Check {
            what: format!("users who were asked about >= {}", of.least_judged),
            value: users.len() as f64,
            holds: users.len() >= of.least_judged,
        },
        Check {
            what: format!(
                "mean reciprocal rank of mapped vectors less that of a shuffled map's, low end > {}",
                of.least_gain
            ),
            value: mapped_less_shuffled.low,
            holds: mapped_less_shuffled.low > of.least_gain,
        },
        not_below("text and mapped vectors", "texts", beside_less_text, of.margin, text),
    ];
    if let (Some(less), Some(in_use)) = (mapped_less_in_use, in_use) {
        gate.push(not_below("mapped vectors", "those of the version in use", less, of.margin, in_use));
    }
    let done = Done {
        passed: gate.iter().all(|check| check.holds),
        interval_start: interval.start.to_rfc3339(),
        interval_end: interval.end.to_rfc3339(),
        digest: projection.digest().to_owned(),
        encoder: encoder.to_owned(),
        items: ids.len(),
        learned,
        pairs: data.pairs.len(),
        users: users.len(),
        next: whose.len(),
        rare: is_rare.iter().filter(|is_rare| **is_rare).count(),
        text,
        mapped: measured(&of_mapped),
        shuffled: measured(&of_control),
        beside: measured(&of_beside),
        in_use,
        mapped_less_shuffled,
        mapped_less_text: less(&of_mapped, &of_text)?,
        beside_less_text,
        mapped_less_in_use,
        of_users,
        gate,
        turned_towards,
        version: None,
    };
    Ok(Ok((projection, done)))
}

/// The condition that something finds no less than something else, but for a share of what the latter finds.
fn not_below(what: &str, other: &str, less: statistics::Interval, margin: f64, baseline: Measured) -> Check {
    let allowed = margin * baseline.all.mrr;
    Check {
        what: format!(
            "mean reciprocal rank of {what} less that of {other}, low end >= -{allowed:.5} ({margin} of the latter's)"
        ),
        value: less.low,
        holds: less.low >= -allowed,
    }
}

/// The users who are asked about, by id: with a history and next items that have vectors.
fn asked<'a>(data: &'a Data, of: &ProjectionSpec, candidates: &HashMap<&str, usize>) -> Vec<(&'a str, Asked)> {
    let number = |item: &String| candidates.get(item.as_str()).copied();
    let history = usize::try_from(of.history).unwrap_or(usize::MAX);
    let of_user = |(user, next): (&'a String, &'a Vec<String>)| {
        let met = data.met.get(user)?;
        let mut asked = Asked {
            history: met.iter().take(history).filter_map(number).collect(),
            met: met.iter().filter_map(number).collect(),
            next: next.iter().filter_map(number).collect(),
        };
        asked.met.sort_unstable();
        (!asked.history.is_empty() && !asked.next.is_empty()).then_some((user.as_str(), asked))
    };
    data.next.iter().filter_map(of_user).collect()
}

/// The map of users, whose place in the space is the mean of what they met last, and what it finds; `None` where fewer
/// users than `least_learned` have a vector and a place, or none of them is asked about.
fn map_of_users(
    data: &Data,
    of: &ProjectionSpec,
    asked: &[(&str, Asked)],
    items: &Vectors,
    places: &HashMap<&str, usize>,
    space: &[f64],
) -> Result<Option<(CrossFitted, OfUsers)>> {
    let history = usize::try_from(of.history).unwrap_or(usize::MAX);
    let place_of = |user: &String| -> Option<(Vec<f64>, f64)> {
        let mut sum = vec![0.0; WIDTH];
        let mut n = 0.0;
        for item in data.met.get(user)?.iter().take(history) {
            let Some(place) = places.get(item.as_str()) else { continue };
            sum.iter_mut().zip(&space[place * WIDTH..(place + 1) * WIDTH]).for_each(|(to, x)| *to += x);
            n += 1.0;
        }
        let is_somewhere = sum.iter().any(|x| *x != 0.0);
        is_somewhere.then(|| (sum.iter().map(|x| x / n).collect(), n / (n + of.prior)))
    };
    let texts = data.user_texts.iter();
    let known: Vec<_> = texts.filter_map(|(user, text)| Some(((user, text), place_of(user)?))).collect();
    let rows: Vec<Row<'_>> =
        known.iter().map(|((id, text), (target, weight))| Row { id, text, target, weight: *weight }).collect();
    let judged: Vec<&(&str, Asked)> = asked.iter().filter(|(user, _)| data.user_texts.contains_key(*user)).collect();
    let needed = of.least_learned.max(2 * of.folds);
    if rows.len() < needed || judged.is_empty() {
        tracing::warn!(found = rows.len(), needed, asked = judged.len(), "too few users: they get no map");
        return Ok(None);
    }
    let map = CrossFitted::fit(&rows, of.folds, of.ridge, false)?;
    let control = shuffled(&rows, &mut Random::new(of.seed, "shuffled users"));
    let control = CrossFitted::fit(&control, of.folds, of.ridge, false)?;
    let users: Vec<Asked> = judged.iter().map(|(_, user)| user.clone()).collect();
    let whose: Vec<u32> =
        users.iter().zip(0..).flat_map(|(user, number)| user.next.iter().map(move |_| number)).collect();
    let by = |map: &CrossFitted| {
        let profile = |user: usize| {
            let id = judged[user].0;
            let image = map.apply(id, data.user_texts.get(id)?).ok()??;
            Some(image.into_iter().map(f64::from).collect())
        };
        ranks(items, &users, profile)
    };
    let (of_map, of_control) = (by(&map), by(&control));
    let mapped_less_shuffled = difference(&of_map, &of_control, &whose, of.resamples, of.seed)?;
    let of_users = OfUsers {
        learned: rows.len(),
        users: users.len(),
        next: whose.len(),
        mapped: found(&of_map),
        shuffled: found(&of_control),
        mapped_less_shuffled,
        is_kept: users.len() >= of.least_judged && mapped_less_shuffled.low > of.least_gain,
    };
    Ok(Some((map, of_users)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;
    use crate::project::map::Affine;
    use crate::project::space::Pair;
    use crate::weekly::weekly_file::parse;

    const ITEMS: usize = 160;
    const GROUPS: usize = 8;
    const USERS: usize = 200;
    /// Items of a user of before the interval, and of the interval.
    const MET: usize = 8;
    const NEXT: usize = 2;

    /// Users take most from the items of their group.
    #[derive(Clone, Copy, PartialEq)]
    enum Signal {
        /// Texts tell the groups.
        Planted,
        /// Texts tell other groups than those that users go by.
        Shuffled,
        /// Texts tell groups, and users go by none.
        None,
    }

    /// The group and as many values that say nothing.
    fn told(group: usize, random: &mut Random) -> Vec<f32> {
        let value = |k: usize| match k < GROUPS {
            true if k == group => 1.0,
            true => 0.0,
            false => random.normal() as f32,
        };
        (0..2 * GROUPS).map(value).collect()
    }

    fn world(signal: Signal) -> Data {
        let mut random = Random::new(7, "planted");
        let item = |i: usize| format!("i{i:03}");
        let mut data = Data {
            texts: BTreeMap::new(),
            user_texts: BTreeMap::new(),
            consumed: (0..ITEMS).map(|i| (item(i), 0)).collect(),
            pairs: Vec::new(),
            met: BTreeMap::new(),
            next: BTreeMap::new(),
        };
        for i in 0..ITEMS {
            let group = if signal == Signal::Shuffled { random.below(GROUPS) } else { i % GROUPS };
            data.texts.insert(item(i), told(group, &mut random));
        }
        let mut pairs: BTreeMap<(u32, u32), i64> = BTreeMap::new();
        for user in 0..USERS {
            let group = user % GROUPS;
            let mut taken: Vec<usize> = Vec::new();
            while taken.len() < MET + NEXT {
                let any = random.below(ITEMS);
                let is_own = random.uniform() < if signal == Signal::None { 0.0 } else { 0.8 };
                let one = if is_own { any - any % GROUPS + group } else { any };
                if !taken.contains(&one) {
                    taken.push(one);
                }
            }
            let id = format!("u{user:03}");
            data.user_texts.insert(id.clone(), told(group, &mut random));
            let (met, next) = taken.split_at(MET);
            for a in met {
                data.consumed[*a].1 += 1;
                for b in met.iter().filter(|b| a < *b) {
                    *pairs.entry((*a as u32, *b as u32)).or_default() += 1_000_000 / MET as i64;
                }
            }
            data.met.insert(id.clone(), met.iter().map(|i| item(*i)).collect());
            data.next.insert(id, next.iter().map(|i| item(*i)).collect());
        }
        data.pairs = pairs.into_iter().map(|((a, b), weight)| Pair { a, b, weight }).collect();
        data
    }

    fn defaults() -> ProjectionSpec {
        parse("name = 'w'\njob = 'j'\nout = 'o'\n", "w", &BTreeMap::new()).unwrap().0.projection
    }

    fn learned(data: &Data, of: &ProjectionSpec, before: Option<(String, Projection)>) -> (Projection, Done) {
        let interval = Interval::parse("2026-01-13", "2026-01-20").unwrap();
        work(data, of, interval, "encoder", before).unwrap().unwrap()
    }

    #[test]
    fn a_planted_signal_passes_the_gate_and_none_does_not() {
        let (projection, done) = learned(&world(Signal::Planted), &defaults(), None);
        assert!(done.passed && done.gate.len() == 3, "{:?}", done.gate);
        assert!(done.mapped.all.mrr > 1.5 * done.text.all.mrr, "{:?} {:?}", done.mapped, done.text);
        assert_eq!((done.items, done.learned, done.users, done.next), (ITEMS, ITEMS, USERS, USERS * NEXT));
        // There are fewer users than a map of them needs.
        assert!(done.of_users.is_none() && projection.user().is_none() && done.in_use.is_none());
        for signal in [Signal::Shuffled, Signal::None] {
            let (_, done) = learned(&world(signal), &defaults(), None);
            assert!(!done.passed && !done.gate[1].holds, "{:?}", done.gate);
        }
    }

    #[test]
    fn few_users_do_not_pass_and_get_no_map() {
        let data = world(Signal::Planted);
        let (_, done) = learned(&data, &ProjectionSpec { least_judged: USERS + 1, ..defaults() }, None);
        let failed: Vec<&Check> = done.gate.iter().filter(|check| !check.holds).collect();
        assert!(matches!(failed[..], [check] if check.value == USERS as f64), "{:?}", done.gate);
        assert!(failed[0].what.contains(&format!(">= {}", USERS + 1)));
        let (projection, done) = learned(&data, &ProjectionSpec { least_learned: USERS, ..defaults() }, None);
        let of_users = done.of_users.unwrap();
        assert!(of_users.is_kept && projection.user().is_some(), "{of_users:?}");
        assert_eq!((of_users.learned, of_users.users), (USERS, USERS));
    }

    #[test]
    fn a_map_is_held_against_the_version_in_use() {
        let data = world(Signal::Planted);
        let (first, _) = learned(&data, &defaults(), None);
        let in_use = || Some(("0001-ab".to_owned(), first.clone()));
        let (_, done) = learned(&data, &defaults(), in_use());
        assert!(done.passed && done.gate.len() == 4, "{:?}", done.gate);
        assert_eq!(done.turned_towards.as_deref(), Some("0001-ab"));
        // Weights that cost too much leave nothing but the mean.
        let (_, done) = learned(&data, &ProjectionSpec { ridge: 1e6, ..defaults() }, in_use());
        assert!(!done.gate[3].holds && done.gate[3].what.contains("version in use"), "{:?}", done.gate);
    }

    #[test]
    fn where_there_is_nothing_to_learn_it_is_counted() {
        let mut data = world(Signal::Planted);
        data.texts.clear();
        let interval = Interval::parse("2026-01-13", "2026-01-20").unwrap();
        let counts = work(&data, &defaults(), interval, "encoder", None).unwrap().unwrap_err();
        assert!(counts.starts_with("0 item(s) with a vector") && counts.contains("(needed: 10)"), "{counts}");
    }

    #[test]
    fn a_planted_rotation_is_found_and_not_its_transpose() {
        let mut random = Random::new(1, "turned");
        let any: Vec<Vec<f64>> = (0..WIDTH).map(|_| (0..WIDTH).map(|_| random.normal()).collect()).collect();
        let turn = nearest_rotation(&any).unwrap();
        let space: Vec<f64> = (0..200 * WIDTH).map(|_| random.normal()).collect();
        let texts: Vec<Vec<f32>> = space.chunks(WIDTH).map(|v| v.iter().map(|x| *x as f32).collect()).collect();
        // The version before has each vector turned.
        let values: Vec<f32> = turn.iter().flatten().chain(&[0.0; WIDTH]).map(|x| *x as f32).collect();
        let before = Affine::new(WIDTH, WIDTH, values).unwrap();
        let before = CrossFitted::of(vec![before.clone(), before.clone()], before, None).unwrap();
        let origin = Origin {
            encoder: "encoder".to_owned(),
            items: 200,
            users: 0,
            learned_before: "2026-01-01T00:00:00+00:00".to_owned(),
            turned_towards: None,
        };
        let before = Projection::new(before, None, origin).unwrap();
        let rows: Vec<(usize, &str, &[f32], f64)> =
            texts.iter().enumerate().map(|(place, text)| (place, "any", text.as_slice(), 1.0)).collect();
        let mut moved = space.clone();
        turned(&mut moved, &rows, &before).unwrap();
        let off = |part: &dyn Fn(usize, usize) -> f64| {
            let (mut off, mut all) = (0.0, 0.0);
            for (was, is) in space.chunks(WIDTH).zip(moved.chunks(WIDTH)) {
                for (k, is) in is.iter().enumerate() {
                    let wanted: f64 = was.iter().enumerate().map(|(j, x)| x * part(j, k)).sum();
                    off += (is - wanted) * (is - wanted);
                    all += wanted * wanted;
                }
            }
            off / all
        };
        let (same, transposed) = (off(&|j, k| turn[j][k]), off(&|j, k| turn[k][j]));
        assert!(same < 1e-4 && transposed > 0.5, "{same} {transposed}");
    }
}
