//! Whether what reasons are worth to a recommender may be a reward: the conditions that come before any reinforcement.
//!
//! Knows worths and what can be measured of them; knows nothing of texts, encoders, models or where a log comes from.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cancel::CancelToken;
use crate::error::Result;
use crate::network::random::Random;
use crate::registry::card::Check;
use crate::statistics::{Interval, RESAMPLES, paired_bootstrap, quantile, spearman};
use crate::worth::events::{Settings, dot, mean};
use crate::worth::text::{Known, Worth};
use crate::worth::whose::Count;

const CONFIDENCE: f64 = 0.95;
/// Fewer items, or users, are no sample.
pub(super) const LEAST_ITEMS: usize = 30;
/// Least rank correlation of what two halves say, corrected for length.
const RELIABLE: f64 = 0.5;
/// The same of worths less the mean of their item, or user. An item's reasons differ less than items do, so less is asked. As a
/// reliability, the number is the share of a difference among an item's reasons that is no chance: of what the best of
/// several promises, so much is kept. Below a fifth a reward pays for chance, and just above 0 half of all rewards
/// without any meaning would pass.
const RELIABLE_WITHIN: f64 = 0.2;
/// Least rank correlation with what the next block of time says.
const LASTING: f64 = 0.2;
/// Least rank correlation with what another set of folds says.
const AGREEING: f64 = 0.5;

/// The standard deviation of a sample; `None` for fewer than two values.
fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    Some((values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    (!values.is_empty()).then(|| quantile(&values, 0.5))
}

/// What was found of a reward before anything is rewarded. Reasons are pairs of an item, or a user, and a text; only those
/// count whose worth is known. Halves are those of the users where items are described, of the items where users are. What could
/// not be computed is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gates {
    /// Whether all conditions hold.
    pub passed: bool,
    /// Items, or users, with reasons.
    #[serde(flatten)]
    pub of: Count,
    /// Their reasons.
    pub reasons: usize,
    /// Rank correlation of the worth by the events of one half with that by the other half's.
    pub split_half: Option<f64>,
    /// The same for both together (Spearman 1910 and Brown 1910): 2 r / (1 + r) where r is above 0.
    pub split_half_corrected: Option<f64>,
    /// As `split_half`, of worths less the mean of their item, or user: whether halves agree on an item's reasons, not on items.
    pub split_half_within: Option<f64>,
    /// The same for both together, as `split_half_corrected`.
    pub split_half_within_corrected: Option<f64>,
    /// Rank correlation with the worth by the next block of time.
    pub next_block: Option<f64>,
    /// Rank correlation with the worth by a map of other folds.
    pub other_folds: Option<f64>,
    /// Mean worth in nats, with its 95 % interval over items, or users.
    pub own: Option<Interval>,
    /// Mean worth of reasons that were given to others.
    pub shuffled: Option<Interval>,
    /// Mean of the first less the second.
    pub own_less_shuffled: Option<Interval>,
    /// Mean of log p by the evidence, less that by a map learned from shuffled pairs, in nats.
    pub learned: Option<Interval>,
    /// Rank correlation of the worth with how far the reason goes along with everybody's taste beyond the evidence, of which no
    /// worth is made: how far it lifts its item for the mean of all states, or how much of that mean it gives its user. Near 1 a
    /// reason is paid for promising popularity all the same.
    pub with_popularity: Option<f64>,
    /// Rank correlation of the worth with how far the text's vector lies from the mean of all reasons: near 1 a reason is
    /// paid for being unlike others.
    pub with_length: Option<f64>,
    /// The standard deviation of the worth among the reasons of an item, or user, median over those with several.
    pub spread: Option<f64>,
    /// The standard error of a worth from its events, root of the mean square over these reasons; median over the same.
    pub noise: Option<f64>,
    /// Whether the spread is above 0 and no less than the noise. Else a reward of such reasons is chance, and whoever
    /// rewards must stop.
    pub is_told_apart: bool,
    /// The conditions.
    pub gate: Vec<Check>,
}

/// What is known of one reason, in nats an event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// Dense id of its item, or the place of its user.
    pub item: u32,
    /// Its worth.
    pub worth: f64,
    /// Its worth by the events of each half.
    pub halves: [Option<f64>; 2],
    /// Its worth by the next block of time.
    pub later: Option<f64>,
    error: Option<f64>,
    refolded: Option<f64>,
    stranger: Option<f64>,
    popularity: f64,
    length: f64,
}

#[cfg(test)]
impl Judged {
    /// A reason of which nothing is known but what halves say.
    pub(crate) fn by_halves(item: u32, halves: [Option<f64>; 2]) -> Judged {
        Judged {
            item,
            worth: 0.0,
            halves,
            later: None,
            error: None,
            refolded: None,
            stranger: None,
            popularity: 0.0,
            length: 1.0,
        }
    }
}

/// Each reason's item, or user, with a reason of another one, in the order of `texts`; nothing where there is no other one.
fn of_others<'a>(texts: &[(u32, &'a [f32])], seed: u64) -> Vec<(u32, &'a [f32])> {
    let mut by_item: BTreeMap<u32, Vec<&'a [f32]>> = BTreeMap::new();
    texts.iter().for_each(|(item, text)| by_item.entry(*item).or_default().push(*text));
    if by_item.len() < 2 {
        return Vec::new();
    }
    let mut items: Vec<u32> = by_item.keys().copied().collect();
    Random::new(seed, "shuffled reasons").shuffle(&mut items);
    let others: BTreeMap<u32, u32> = items.iter().copied().zip(items.iter().copied().cycle().skip(1)).collect();
    let mut taken: BTreeMap<u32, usize> = BTreeMap::new();
    let other = |(item, _): &(u32, &'a [f32])| {
        let reasons = by_item.get(others.get(item)?)?;
        let place = taken.entry(*item).or_default();
        let text = reasons[*place % reasons.len()];
        *place += 1;
        Some((*item, text))
    };
    texts.iter().filter_map(other).collect()
}

/// Rank correlation of the pairs.
fn correlation(pairs: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.unzip();
    spearman(&a, &b)
}

/// A correlation by halves as it is by both together (Spearman 1910 and Brown 1910).
fn corrected(r: f64) -> f64 {
    if r > 0.0 { 2.0 * r / (1.0 + r) } else { r }
}

/// The mean of values, with its interval over items, or users; `None` for no values.
pub(super) fn over_items(values: impl Iterator<Item = (u32, f64)>, seed: u64) -> Result<Option<Interval>> {
    let (items, values): (Vec<u32>, Vec<f64>) = values.unzip();
    if values.is_empty() {
        return Ok(None);
    }
    Ok(Some(paired_bootstrap(&[values.as_slice()], &items, RESAMPLES, CONFIDENCE, seed)?.interval))
}

/// The half that a user, or an item, is in, 0 or 1. The first one chooses, where anything is chosen.
pub(super) fn half_of(by: u32, seed: u64) -> usize {
    usize::from(Random::new(seed, "halves").child(u64::from(by)).bits() & 1 == 1)
}

/// What worths are measured of, and by which events they are measured again.
#[derive(Clone, Copy)]
pub struct Yardstick<'a> {
    /// Those who are described.
    pub known: &'a Known<'a>,
    /// Its product with where a text leads says how far the text goes along with everybody's taste, `width` values.
    pub everyone: &'a [f32],
    /// R by the events that it would reward by.
    pub now: &'a dyn Fn(&Settings) -> Result<Worth>,
    /// R by those of the block of time after these.
    pub next: &'a dyn Fn(&Settings) -> Result<Worth>,
}

/// What is known of each reason, in the order of `texts`; `None` where it has no worth.
fn judged(
    worth: &Worth,
    yardstick: &Yardstick<'_>,
    texts: &[(u32, &[f32])],
    settings: &Settings,
    stop: &CancelToken,
) -> Result<Vec<Option<Judged>>> {
    let Yardstick { known, everyone, now, next } = *yardstick;
    stop.check()?;
    let later = next(settings)?.all(texts)?;
    stop.check()?;
    let refolded = Settings { fold_seed: settings.fold_seed.wrapping_add(1), ..*settings };
    let refolded = now(&refolded)?.all(texts)?;
    stop.check()?;
    let strangers = worth.all(&of_others(texts, settings.seed))?;
    let of_reason = |(n, (item, text)): (usize, &(u32, &[f32]))| -> Result<Option<Judged>> {
        let Some(told) = worth.by_event(*item, text)? else { return Ok(None) };
        let mut by_half: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
        for (by, nats) in &told {
            by_half[half_of(*by, settings.seed)].push(*nats);
        }
        let nats: Vec<f64> = told.into_iter().map(|(_, nats)| nats).collect();
        let lifted = |vector: Option<Vec<f32>>| vector.map_or(0.0, |vector| dot(everyone, &vector));
        let popularity = lifted(worth.mapped(*item, text)?) - lifted(worth.mapped_evidence(known, *item)?);
        Ok(mean(&nats).map(|found| Judged {
            item: *item,
            worth: found,
            halves: [mean(&by_half[0]), mean(&by_half[1])],
            error: deviation(&nats).map(|deviation| deviation / (nats.len() as f64).sqrt()),
            later: later[n],
            refolded: refolded[n],
            stranger: strangers.get(n).copied().flatten(),
            popularity,
            length: worth.distance(text),
        }))
    };
    texts.par_iter().enumerate().map(of_reason).collect()
}

/// What each half says of an item's reasons, or a user's, less what it says in the mean; nothing of a single reason.
fn within(reasons: &[&Judged]) -> Vec<(f64, f64)> {
    let both: Vec<(f64, f64)> = reasons.iter().filter_map(|one| one.halves[0].zip(one.halves[1])).collect();
    let (a, b): (Vec<f64>, Vec<f64>) = both.iter().copied().unzip();
    match (mean(&a), mean(&b)) {
        (Some(of_a), Some(of_b)) if both.len() > 1 => both.into_iter().map(|(a, b)| (a - of_a, b - of_b)).collect(),
        _ => Vec::new(),
    }
}

/// Whether R of these reasons may be a reward. `texts` are vectors of reasons with those that they describe, best several of each.
/// `worth` is R: what the yardstick's `now` gives by `settings`.
///
/// Halves, the next block and other folds must agree on the order of the reasons. But they agree as well on a map that has
/// learned nothing: a direction that is wrong is wrong for everybody. So the map must beat one that has learned from
/// shuffled pairs, and an item's reasons those of other items, by the low ends of 95 % intervals over items; other items'
/// reasons must be worth nothing in the mean. An item's reasons must differ by more than the noise, and halves must agree on
/// them: the order of the items is no help to whoever chooses among one item's reasons. So it is with users.
///
/// Beside the gates, what is known of each text, in the order of `texts`; `None` where its worth is not known.
///
/// # Errors
/// As the yardstick, and as [`Worth::mapped`]; `Kind::Interrupted` after a signal.
pub fn gates(
    worth: &Worth,
    yardstick: &Yardstick<'_>,
    texts: &[(u32, &[f32])],
    settings: &Settings,
    stop: &CancelToken,
) -> Result<(Gates, Vec<Option<Judged>>)> {
    let found = judged(worth, yardstick, texts, settings, stop)?;
    let whose = yardstick.known.whose;
    let judged: Vec<&Judged> = found.iter().flatten().collect();
    let mut by_item: BTreeMap<u32, Vec<&Judged>> = BTreeMap::new();
    judged.iter().copied().for_each(|one| by_item.entry(one.item).or_default().push(one));

    let split_half = correlation(judged.iter().filter_map(|one| one.halves[0].zip(one.halves[1])));
    let split_half_corrected = split_half.map(corrected);
    let split_half_within = correlation(by_item.values().flat_map(|reasons| within(reasons)));
    let split_half_within_corrected = split_half_within.map(corrected);
    let next_block = correlation(judged.iter().filter_map(|one| Some((one.worth, one.later?))));
    let other_folds = correlation(judged.iter().filter_map(|one| Some((one.worth, one.refolded?))));
    let with_popularity = correlation(judged.iter().map(|one| (one.worth, one.popularity)));
    let with_length = correlation(judged.iter().map(|one| (one.worth, one.length)));

    let own = over_items(judged.iter().map(|one| (one.item, one.worth)), settings.seed)?;
    let strangers = || judged.iter().filter_map(|one| Some((one, one.stranger?)));
    let shuffled = over_items(strangers().map(|(one, stranger)| (one.item, stranger)), settings.seed)?;
    let own_less_shuffled =
        over_items(strangers().map(|(one, stranger)| (one.item, one.worth - stranger)), settings.seed)?;
    stop.check()?;
    let learned = over_items(worth.learned(yardstick.known, settings)?.into_iter(), settings.seed)?;

    let (mut spreads, mut noises) = (Vec::new(), Vec::new());
    for reasons in by_item.values() {
        let worths: Vec<f64> = reasons.iter().map(|one| one.worth).collect();
        let squares: Vec<f64> = reasons.iter().filter_map(|one| one.error).map(|error| error * error).collect();
        if let Some((spread, square)) = deviation(&worths).zip(mean(&squares)) {
            spreads.push(spread);
            noises.push(square.sqrt());
        }
    }
    let (spread, noise) = (median(spreads), median(noises));
    let is_told_apart = spread.zip(noise).is_some_and(|(spread, noise)| spread > 0.0 && spread >= noise);

    let at_least = |what: &str, value: Option<f64>, least: f64| Check {
        what: format!("{what} >= {least}"),
        value: value.unwrap_or(0.0),
        holds: value.is_some_and(|value| value >= least),
    };
    let above_zero = |what: &str, interval: Option<Interval>| Check {
        what: format!("{what}, low end of its interval > 0"),
        value: interval.map_or(0.0, |interval| interval.low),
        holds: interval.is_some_and(|interval| interval.low > 0.0),
    };
    let items = by_item.len();
    let (described, judges, one) = (whose.described(), whose.judges(), whose.one());
    let gate = vec![
        Check {
            what: format!("{described} with reasons of known worth >= {LEAST_ITEMS}"),
            value: items as f64,
            holds: items >= LEAST_ITEMS,
        },
        above_zero("log-likelihood by the evidence's map less that by a map of shuffled pairs", learned),
        at_least(
            &format!(
                "rank correlation of the worth by one half of the {judges} with that by the other, corrected for length"
            ),
            split_half_corrected,
            RELIABLE,
        ),
        at_least(
            &format!("rank correlation of halves within {described}, corrected for length"),
            split_half_within_corrected,
            RELIABLE_WITHIN,
        ),
        at_least("rank correlation with the worth by the next block of time", next_block, LASTING),
        at_least("rank correlation with the worth by other folds", other_folds, AGREEING),
        Check {
            what: format!("mean worth of other {described}' reasons <= 0"),
            value: shuffled.map_or(0.0, |interval| interval.mean),
            holds: shuffled.is_some_and(|interval| interval.mean <= 0.0),
        },
        above_zero(&format!("mean worth of reasons less that of other {described}' reasons"), own_less_shuffled),
        Check {
            what: format!("deviation of the worth among {one}'s reasons >= its noise, {:.5}", noise.unwrap_or(0.0)),
            value: spread.unwrap_or(0.0),
            holds: is_told_apart,
        },
    ];
    let gates = Gates {
        passed: gate.iter().all(|check| check.holds),
        of: whose.count(items),
        reasons: judged.len(),
        split_half,
        split_half_corrected,
        split_half_within,
        split_half_within_corrected,
        next_block,
        other_folds,
        own,
        shuffled,
        own_less_shuffled,
        learned,
        with_popularity,
        with_length,
        spread,
        noise,
        is_told_apart,
        gate,
    };
    Ok((gates, found))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::Kind;
    use crate::worth::item::tests::{NOISES, World, settings};

    fn of_texts(world: &World, texts: &[(u32, &[f32])], stop: &CancelToken) -> Result<(Gates, Vec<Option<Judged>>)> {
        let (known, blocks) = (world.known(), [world.block(0), world.block(1)]);
        let by = |block: usize, settings: &Settings| Worth::of_items(&known, &blocks[block], texts, settings);
        let (everyone, worth) = (blocks[0].mean_state(known.width), by(0, &settings())?);
        let yardstick = Yardstick {
            known: &known,
            everyone: &everyone,
            now: &|settings| by(0, settings),
            next: &|settings| by(1, settings),
        };
        gates(&worth, &yardstick, texts, &settings(), stop)
    }

    fn of(world: &World) -> Gates {
        of_texts(world, &world.texts(), &CancelToken::default()).unwrap().0
    }

    #[test]
    fn it_stops_after_a_signal() {
        let (world, stop) = (World::new(true), CancelToken::default());
        stop.request();
        let stopped = of_texts(&world, &world.texts(), &stop).unwrap_err();
        assert_eq!(stopped.kind(), Kind::Interrupted);
    }

    #[test]
    fn better_reasons_are_worth_more_and_the_gates_hold() {
        let world = World::new(true);
        let worths = world.worth().all(&world.texts()).unwrap();
        let quality = NOISES.iter().cycle().map(|noise| -noise);
        let ranked = correlation(worths.iter().zip(quality).filter_map(|(worth, quality)| Some(((*worth)?, quality))));
        assert!(ranked.unwrap() > 0.5, "{ranked:?}");
        let gates = of(&world);
        assert!(gates.passed && gates.gate.len() == 9 && gates.is_told_apart, "{gates:?}");
        assert!(gates.shuffled.unwrap().high < 0.0 && gates.split_half < gates.split_half_corrected, "{gates:?}");
        assert!(gates.split_half_within < gates.split_half_within_corrected, "{gates:?}");
        let kept: Gates = serde_json::from_str(&serde_json::to_string(&gates).unwrap()).unwrap();
        assert_eq!(kept.gate.len(), 9);
    }

    #[test]
    fn what_is_known_of_a_text_stands_at_its_place() {
        let world = World::new(true);
        let nothing = vec![0.0_f32; world.reasons[0].1.len()];
        let mut texts = world.texts();
        texts[1].1 = &nothing;
        let (gates, found) = of_texts(&world, &texts, &CancelToken::default()).unwrap();
        let worth = Worth::of_items(&world.known(), &world.block(0), &texts, &settings()).unwrap();
        let worths = worth.all(&texts).unwrap();
        assert_eq!(found.iter().map(|one| one.map(|one| one.worth)).collect::<Vec<_>>(), worths);
        assert!(found[1].is_none() && gates.reasons == found.iter().flatten().count(), "{gates:?}");
        let one = found[0].unwrap();
        assert!(one.item == 0 && one.halves.iter().all(Option::is_some) && one.later.is_some(), "{one:?}");
        // What all users say lies between what the halves say.
        let [low, high] = [f64::min, f64::max].map(|of| of(one.halves[0].unwrap(), one.halves[1].unwrap()));
        assert!(low - 1e-12 <= one.worth && one.worth <= high + 1e-12, "{one:?}");
    }

    #[test]
    fn agreement_by_halves_counts_more_for_the_whole() {
        assert!((corrected(0.5) - 2.0 / 3.0).abs() < 1e-12 && corrected(1.0) == 1.0);
        assert!(corrected(0.0) == 0.0 && corrected(-0.4) == -0.4);
    }

    /// Halves, blocks and folds agree on a map of nothing as well as on a good one: only the controls tell.
    #[test]
    fn texts_that_tell_nothing_do_not_pass() {
        let gates = of(&World::new(false));
        assert!(!gates.passed, "{gates:?}");
        assert!(gates.learned.unwrap().low <= 0.0 && gates.own_less_shuffled.unwrap().low <= 0.0, "{gates:?}");
        assert!(gates.split_half_corrected.unwrap() > RELIABLE && gates.next_block.unwrap() > LASTING, "{gates:?}");
    }

    #[test]
    fn reasons_that_are_alike_are_not_told_apart() {
        let mut world = World::new(true);
        for of_item in world.reasons.chunks_exact_mut(NOISES.len()) {
            let first = of_item[0].1.clone();
            of_item.iter_mut().for_each(|(_, text)| text.clone_from(&first));
        }
        let alike = of(&world);
        assert!(alike.spread.unwrap() < 1e-9 && !alike.is_told_apart && !alike.passed, "{alike:?}");
        // One reason an item: there is nothing to tell apart, and of one item there are no strangers.
        world.reasons.truncate(1);
        let one = of(&world);
        assert!(one.spread.is_none() && one.shuffled.is_none() && !one.is_told_apart && !one.passed, "{one:?}");
        let within = one.gate.iter().find(|check| check.what.contains("within items")).unwrap();
        assert!(one.split_half_within_corrected.is_none() && !within.holds, "{one:?}");
    }

    #[test]
    fn the_same_bits_on_any_number_of_threads() {
        let world = World::new(true);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (world.worth().all(&world.texts()).unwrap(), of(&world)))
        };
        assert_eq!(run(1), run(3));
    }
}
