//! What is to stand in the place of items' reasons: for each item the text that half of the users choose, and whether the other
//! half confirm the choices.
//!
//! A candidate is the reason that nights publish, another reason, or the evidence, by which an item goes that has no reason. Half
//! of the users choose the one that is worth most to them; of equals that which is published stays. The other half tell what is
//! gained over it. Of 30 items or more two things must hold, since either alone can be had by chance or for nothing:
//!
//! * the gain, mean over items, is above 0 by the low end of its 95 % interval;
//! * it is higher than where the confirming events are dealt to other items that are about as popular. A text that lifts its item
//!   whoever asks, as one that says little does beside one that errs, gains as much by others' events as by its own, and
//!   does not pass.
//!
//! Knows vectors, events and numbers of items; knows nothing of texts, files or nights.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::random::Random;
use crate::registry::card::Check;
use crate::statistics::Interval;
use crate::worth::events::{Settings, mean};
use crate::worth::gates::{LEAST_ITEMS, half_of, over_items};
use crate::worth::text::{Known, Worth};

/// How often the confirming events are dealt anew.
const DEALS: u64 = 999;
/// Least number of items, next to each other by how many events they were trained on, among which events are dealt.
const ALIKE: usize = 10;
/// The share of deals that may gain as much.
const BY_CHANCE: f64 = 0.05;

/// What an item's text may be.
#[derive(Debug, Clone)]
pub struct Candidates<'a> {
    /// The dense id of the item.
    pub item: u32,
    /// The vector of the reason that nights publish; none where they publish the evidence's.
    pub current: Option<&'a [f32]>,
    /// The vectors of other reasons.
    pub rewrites: Vec<&'a [f32]>,
}

/// Which candidate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// What nights publish.
    Current,
    /// The evidence, in the place of a reason.
    Evidence,
    /// One of the rewrites.
    Rewrite(usize),
}

/// The choice of an item. Each pair of numbers is in nats an event, by the users who chose and by the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ItemChoice {
    /// What is to stand there.
    pub choice: Choice,
    /// Its worth against the evidence.
    pub worth: [f64; 2],
    /// That worth less the worth of what nights publish.
    pub gain: [f64; 2],
    /// Events that told, of both halves.
    pub events: usize,
}

/// Whether choices are confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// Whether all conditions hold.
    pub holds: bool,
    /// Items that were judged: with enough events, of both halves, and something to choose from.
    pub items: usize,
    /// Of those, the ones that keep what nights publish.
    pub kept: usize,
    /// That another reason was chosen for.
    pub rewritten: usize,
    /// That the evidence was chosen for, in the place of a reason.
    pub evidence: usize,
    /// The gain over what nights publish by the users who chose, mean over items with its 95 % interval.
    pub promised: Option<Interval>,
    /// The same by the others.
    pub confirmed: Option<Interval>,
    /// How often the confirming events were dealt to other items.
    pub deals: u64,
    /// The share of deals by which the choices gain as much, the true one among them.
    pub p: f64,
    /// The conditions.
    pub gate: Vec<Check>,
}

impl Correction {
    /// Whether so many items were judged that choices can be confirmed at all.
    pub fn is_sample(&self) -> bool {
        self.items >= LEAST_ITEMS
    }
}

/// A judged item, with where what it has and what is chosen lead.
struct Judged {
    item: u32,
    chosen: ItemChoice,
    /// Where what nights publish leads, and where the choice does; none where nothing changes.
    change: Option<[Vec<f32>; 2]>,
}

/// The means of losses by half; `None` where a half has none.
fn by_half(losses: &[(u32, f64)], seed: u64) -> Option<[f64; 2]> {
    let of = |half: usize| {
        let nats = losses.iter().filter(|(user, _)| half_of(*user, seed) == half).map(|(_, nats)| *nats);
        mean(&nats.collect::<Vec<f64>>())
    };
    Some([of(0)?, of(1)?])
}

/// The choice of one item; `None` where it is not judged.
fn judged(
    worth: &Worth,
    known: &Known<'_>,
    of: &Candidates<'_>,
    settings: &Settings,
    least_events: usize,
) -> Result<Option<Judged>> {
    let place = |text: &[f32]| worth.mapped(of.item, text);
    let Some(evidence) = worth.mapped_evidence(known, of.item)? else { return Ok(None) };
    let own = worth.losses(of.item, &evidence);
    if own.len() < least_events {
        return Ok(None);
    }
    let Some(of_evidence) = by_half(&own, settings.seed) else { return Ok(None) };
    let told = |vector: &[f32]| by_half(&worth.losses(of.item, vector), settings.seed);
    let mut candidates: Vec<(Choice, [f64; 2], Vec<f32>)> = Vec::new();
    if let Some(current) = of.current {
        let Some(vector) = place(current)? else { return Ok(None) };
        candidates.extend(told(&vector).map(|losses| (Choice::Current, losses, vector)));
        candidates.push((Choice::Evidence, of_evidence, evidence));
    } else {
        candidates.push((Choice::Current, of_evidence, evidence));
    }
    for (n, rewrite) in of.rewrites.iter().enumerate() {
        if let Some(vector) = place(rewrite)? {
            candidates.extend(told(&vector).map(|losses| (Choice::Rewrite(n), losses, vector)));
        }
    }
    let Some((current, others)) = candidates.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Ok(None);
    };
    let best = others.iter().fold(current, |best, next| if next.1[0] < best.1[0] { next } else { best });
    let chosen = ItemChoice {
        choice: best.0,
        worth: [0, 1].map(|half: usize| of_evidence[half] - best.1[half]),
        gain: [0, 1].map(|half: usize| current.1[half] - best.1[half]),
        events: own.len(),
    };
    let change = (best.0 != Choice::Current).then(|| [current.2.clone(), best.2.clone()]);
    Ok(Some(Judged { item: of.item, chosen, change }))
}

/// What a change gains by the confirming half of the events of an item, its own or another.
fn gain(worth: &Worth, [from, to]: &[Vec<f32>; 2], events_of: u32, seed: u64) -> f64 {
    let losses = |vector: &[f32]| by_half(&worth.losses(events_of, vector), seed).map_or(0.0, |[_, told]| told);
    losses(from) - losses(to)
}

/// Groups of about [`ALIKE`] items that were trained on about as many events; places in `found`.
fn alike(found: &[&Judged], counts: &[u32], seed: u64) -> Vec<Vec<usize>> {
    let ties = Random::new(seed, "alike");
    let mut places: Vec<usize> = (0..found.len()).collect();
    places.sort_by_cached_key(|place| {
        let item = found[*place].item;
        (counts[item as usize], ties.child(u64::from(item)).bits())
    });
    let groups = (places.len() / ALIKE).max(1);
    let bound = |n: usize| n * places.len() / groups;
    (0..groups).map(|n| places[bound(n)..bound(n + 1)].to_vec()).collect()
}

/// The share of deals by which the choices gain as much as by their own events, the true one among them.
fn by_chance(worth: &Worth, found: &[&Judged], counts: &[u32], seed: u64) -> f64 {
    let groups = alike(found, counts, seed);
    // What each item's change gains by the events of each item of its group.
    let table = |group: &Vec<usize>| -> Vec<Vec<f64>> {
        let of_item = |place: &usize| -> Vec<f64> {
            let change = found[*place].change.as_ref();
            let by = |other: &usize| change.map_or(0.0, |change| gain(worth, change, found[*other].item, seed));
            group.iter().map(by).collect()
        };
        group.par_iter().map(of_item).collect()
    };
    let tables: Vec<Vec<Vec<f64>>> = groups.iter().map(table).collect();
    let own: f64 = tables.iter().flat_map(|table| table.iter().enumerate().map(|(n, row)| row[n])).sum();
    let deals = Random::new(seed, "dealt events");
    let is_as_good = |deal: &u64| {
        let mut random = deals.child(*deal);
        let mut sum = 0.0;
        for table in &tables {
            let mut others: Vec<usize> = (0..table.len()).collect();
            random.shuffle(&mut others);
            sum += table.iter().zip(others).map(|(row, other)| row[other]).sum::<f64>();
        }
        // A deal that changes nothing sums the same numbers, maybe in another order.
        sum >= own - 1e-9
    };
    let as_good = (0..DEALS).into_par_iter().filter(is_as_good).count();
    (as_good + 1) as f64 / (DEALS + 1) as f64
}

/// The choice of each item, in the order of `candidates`, and whether they are confirmed. Items with fewer than `least_events`
/// events, with none of one half of the users, or with nothing to choose from are not judged: `None`. `worth` was made of `known`
/// by `settings`. The same inputs give the same bits on any number of threads.
///
/// # Errors
/// As [`Worth::mapped`].
pub fn correction(
    worth: &Worth,
    known: &Known<'_>,
    candidates: &[Candidates<'_>],
    settings: &Settings,
    least_events: usize,
) -> Result<(Correction, Vec<Option<ItemChoice>>)> {
    let of_item = |of: &Candidates<'_>| judged(worth, known, of, settings, least_events);
    let all = candidates.par_iter().map(of_item).collect::<Result<Vec<Option<Judged>>>>()?;
    let found: Vec<&Judged> = all.iter().flatten().collect();
    let of_half = |half: usize| over_items(found.iter().map(|one| (one.item, one.chosen.gain[half])), settings.seed);
    let (promised, confirmed) = (of_half(0)?, of_half(1)?);
    let p = by_chance(worth, &found, known.counts, settings.seed);
    let gate = vec![
        Check {
            what: "gain of the chosen texts over those that nights publish, by the users who did not choose, low end of its \
                   interval > 0"
                .to_owned(),
            value: confirmed.map_or(0.0, |gain| gain.low),
            holds: confirmed.is_some_and(|gain| gain.low > 0.0),
        },
        Check {
            what: format!("items that were judged >= {LEAST_ITEMS}"),
            value: found.len() as f64,
            holds: found.len() >= LEAST_ITEMS,
        },
        Check {
            what: format!("share of deals of the events to other items by which as much is gained <= {BY_CHANCE}"),
            value: p,
            holds: p <= BY_CHANCE,
        },
    ];
    let count = |is: fn(Choice) -> bool| found.iter().filter(|one| is(one.chosen.choice)).count();
    let correction = Correction {
        holds: gate.iter().all(|check| check.holds),
        items: found.len(),
        kept: count(|choice| choice == Choice::Current),
        rewritten: count(|choice| matches!(choice, Choice::Rewrite(_))),
        evidence: count(|choice| choice == Choice::Evidence),
        promised,
        confirmed,
        deals: DEALS,
        p,
        gate,
    };
    Ok((correction, all.iter().map(|one| one.as_ref().map(|one| one.chosen)).collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::worth::item::tests::{NOISES, World, settings};

    const LEAST: usize = 5;

    /// Of each item: nights publish the reason with the noise of that place, and the others may take its place.
    fn candidates(world: &World, current: Option<usize>) -> Vec<Candidates<'_>> {
        let mut all = Vec::new();
        for reasons in world.reasons.chunks_exact(NOISES.len()) {
            let others = reasons.iter().enumerate().filter(|(n, _)| Some(*n) != current);
            all.push(Candidates {
                item: reasons[0].0,
                current: current.map(|n| reasons[n].1.as_slice()),
                rewrites: others.map(|(_, (_, text))| text.as_slice()).collect(),
            });
        }
        all
    }

    fn of(world: &World, candidates: &[Candidates<'_>]) -> (Correction, Vec<Option<ItemChoice>>) {
        correction(&world.worth(), &world.known(), candidates, &settings(), LEAST).unwrap()
    }

    #[test]
    fn bad_reasons_are_replaced_and_the_other_half_confirms_it() {
        let world = World::new(true);
        let (found, chosen) = of(&world, &candidates(&world, Some(NOISES.len() - 1)));
        assert!(found.holds && found.p <= 0.01 && found.confirmed.unwrap().low > 0.0, "{found:?}");
        // The half that chose promises more than is true.
        assert!(found.promised.unwrap().mean > found.confirmed.unwrap().mean, "{found:?}");
        assert_eq!(found.kept + found.rewritten + found.evidence, found.items, "{found:?}");
        assert!(found.rewritten > found.kept && found.evidence > 0, "{found:?}");
        assert_eq!(chosen.iter().flatten().count(), found.items);
        for one in chosen.iter().flatten() {
            assert!(one.events >= LEAST && one.gain[0] >= 0.0, "{one:?}");
            match one.choice {
                Choice::Current => assert_eq!(one.gain, [0.0; 2]),
                Choice::Evidence => assert_eq!(one.worth, [0.0; 2]),
                Choice::Rewrite(n) => assert!(n < 3 && one.gain[0] > 0.0, "{one:?}"),
            }
        }
        let kept: Correction = serde_json::from_str(&serde_json::to_string(&found).unwrap()).unwrap();
        assert_eq!((kept.gate.len(), kept.deals), (3, 999));
    }

    /// A vector that says little is worth more than one that says something wrong, by everybody's events: halves of the users
    /// agree on that, and only dealt events tell.
    #[test]
    fn where_nobody_s_taste_tells_of_an_item_nothing_is_confirmed() {
        let world = World::new(true).dealt();
        let (found, _) = of(&world, &candidates(&world, Some(NOISES.len() - 1)));
        assert!(found.items > 30 && found.rewritten > 0, "{found:?}");
        assert!(found.p > BY_CHANCE && !found.holds, "{found:?}");
    }

    #[test]
    fn what_cannot_be_better_is_kept() {
        let world = World::new(true);
        let known = world.known();
        // Nights publish what the evidence says, and so does the only other text.
        let same = |item: u32| {
            let text = known.evidence_of(item as usize);
            Candidates { item, current: Some(text), rewrites: vec![text] }
        };
        let all: Vec<Candidates<'_>> = (0..30).map(same).collect();
        // Beside no reasons but these, what says the same as the evidence lies where it does.
        let texts: Vec<(u32, &[f32])> = all.iter().filter_map(|of| Some((of.item, of.current?))).collect();
        let worth = Worth::of_items(&known, &world.block(0), &texts, &settings()).unwrap();
        let (found, chosen) = correction(&worth, &known, &all, &settings(), LEAST).unwrap();
        assert!(found.items > 0 && found.kept == found.items && !found.holds && found.p == 1.0, "{found:?}");
        assert!(chosen.iter().flatten().all(|one| one.choice == Choice::Current && one.gain == [0.0; 2]));
    }

    #[test]
    fn items_without_enough_to_tell_are_not_judged() {
        let world = World::new(true);
        let mut all = candidates(&world, None);
        // Nights publish the evidence of all of them; the first one has nothing else.
        all[0].rewrites.clear();
        let (found, chosen) = of(&world, &all);
        assert!(chosen[0].is_none() && found.evidence == 0 && found.rewritten > 0, "{found:?}");
        // No item has more than fifty events that count.
        let (found, chosen) = correction(&world.worth(), &world.known(), &all, &settings(), 51).unwrap();
        assert!(
            chosen.iter().all(Option::is_none)
                && (found.items, found.confirmed, found.holds) == (0, None, false)
                && found.p == 1.0,
            "{found:?}"
        );
    }

    #[test]
    fn of_fewer_than_thirty_items_nothing_is_confirmed() {
        let world = World::new(true);
        let all = candidates(&world, Some(NOISES.len() - 1));
        let (_, chosen) = of(&world, &all);
        let judged: Vec<Candidates<'_>> =
            all.into_iter().zip(chosen).filter_map(|(one, choice)| choice.map(|_| one)).collect();
        let some = [29, 30].map(|n: usize| of(&world, &judged[..n]).0);
        let told = some.map(|found| (found.items, found.is_sample(), found.gate[1].holds));
        assert_eq!(told, [(29, false, false), (30, true, true)]);
    }

    #[test]
    fn items_are_dealt_among_those_that_are_about_as_popular() {
        let chosen = ItemChoice { choice: Choice::Current, worth: [0.0; 2], gain: [0.0; 2], events: 9 };
        let all: Vec<Judged> = (0..25).map(|item| Judged { item, chosen, change: None }).collect();
        let counts: Vec<u32> = (0..25).map(|item| (item * 7) % 25).collect();
        let found: Vec<&Judged> = all.iter().collect();
        let groups = alike(&found, &counts, 1);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [12, 13]);
        let most = groups[0].iter().map(|place| counts[*place]).max();
        assert!(most < groups[1].iter().map(|place| counts[*place]).min(), "{groups:?}");
        assert!(alike(&[], &counts, 1)[0].is_empty());
    }

    #[test]
    fn the_same_bits_on_any_number_of_threads() {
        let world = World::new(true);
        let all = candidates(&world, Some(3));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| of(&world, &all))
        };
        assert_eq!(run(1), run(3));
    }
}
