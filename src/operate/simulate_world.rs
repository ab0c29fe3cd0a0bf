//! A simulated world: who takes which item when, and what an item's description says.
//!
//! Knows random numbers and words; knows nothing of tables or files.
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
//! Every draw is a function of the seed and an id.

use std::collections::HashSet;

use crate::error::{Error, Kind, Result};
use crate::network::random::Random;
use crate::operate::simulate_texts::Subjects;

/// The share of a user's events that are of a taste.
pub const COHERENCE: f64 = 0.8;
/// The first moment of every log: 2026-01-01T00:00:00Z.
pub const START: i64 = 1_767_225_600_000_000;

/// Draws before a taste, and then the catalogue, counts as exhausted for a user.
const DRAWS: usize = 64;
/// With [`Signal::Content`], the share of the log's time within which a new item loses three quarters of its pull.
const FRESH: f64 = 0.1;
/// Numbers that keep the random streams of users, items, the deal, descriptions and what groups are about apart.
const USERS: u64 = 1 << 32;
pub(super) const ITEMS: u64 = 2 << 32;
pub(super) const DEAL: u64 = 3 << 32;
const TEXTS: u64 = 4 << 32;
const SUBJECTS: u64 = 5 << 32;

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
pub(super) struct Taken {
    pub(super) item: u32,
    pub(super) rating: f32,
    pub(super) timestamp: i64,
}

/// Everything that is drawn once.
pub(super) struct World {
    pub(super) options: Options,
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
    /// Deals groups and releases.
    ///
    /// # Errors
    /// `Kind::Usage` for options that make no log.
    pub(super) fn new(options: Options) -> Result<Self> {
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
    pub(super) fn events(&self, user: u32) -> Vec<Taken> {
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
    pub(super) fn description(&self, item: u32) -> Option<String> {
        let mut random = Random::numbered(self.options.seed, TEXTS + u64::from(item));
        self.subjects.as_ref().map(|subjects| subjects.text(self.group[item as usize] as usize, &mut random))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    use crate::plain_text::words::content_words;

    pub(crate) const SMALL: Options = Options {
        users: 600,
        items: 300,
        events_per_user: 20,
        tastes: 6,
        days: 100,
        seed: 1,
        signal: Signal::CoConsumption,
    };
    pub(crate) const TOLD: Options = Options { signal: Signal::Content, ..SMALL };

    /// The words of every item's description.
    pub(crate) fn described(options: Options) -> Vec<Vec<String>> {
        let world = World::new(options).unwrap();
        (0..world.options.items).map(|item| content_words(&world.description(item).unwrap())).collect()
    }

    #[test]
    fn descriptions_of_one_group_are_alike_and_not_equal() {
        let world = World::new(TOLD).unwrap();
        let words = described(TOLD);
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
}
