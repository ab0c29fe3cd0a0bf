//! Windows of a world whose texts are of known quality.

#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::network::random::Random;
use crate::worth::item::tests::{normals, said as text, unit};

const ITEMS: usize = 120;
const USERS: usize = 400;
const TEXT: usize = 16;
const WIDTH: usize = 8;
/// Events of a block; one a second.
const EVENTS: i64 = 3000;
/// What nights publish is the worst of an item's reasons.
const PUBLISHED: f64 = 4.0;
const OTHERS: [f64; 3] = [0.1, 0.5, 1.5];

/// Item vectors are a linear function of what is true of an item, and texts say that with noise. What a user is after at a moment
/// is drawn for it, and the user takes what it asks for.
struct World {
    vectors: Vec<f32>,
    said: Said,
    events: Vec<Event>,
}

/// What a user is after at a moment.
fn state(user: u32, timestamp: i64) -> Vec<f32> {
    let mut random = Random::new(5, "state").child(u64::from(user)).child(timestamp as u64);
    normals(&mut random, WIDTH).into_iter().map(|x| x as f32).collect()
}

impl World {
    fn new() -> World {
        let mut random = Random::new(1, "windows");
        let random = &mut random;
        let turn: Vec<Vec<f64>> = (0..TEXT).map(|_| normals(random, WIDTH)).collect();
        let truth: Vec<Vec<f64>> = (0..ITEMS).map(|_| unit(normals(random, TEXT))).collect();
        let value = |truth: &[f64], k: usize| truth.iter().zip(&turn).map(|(x, row)| x * row[k]).sum::<f64>() as f32;
        let vectors: Vec<f32> =
            truth.iter().flat_map(|truth| (0..WIDTH).map(|k| value(truth, k)).collect::<Vec<_>>()).collect();
        let evidence = truth.iter().map(|truth| Some(text(random, truth, 0.7))).collect();
        let published = truth.iter().map(|truth| Some(text(random, truth, PUBLISHED))).collect();
        let others = truth.iter().map(|truth| OTHERS.map(|noise| text(random, truth, noise)).to_vec()).collect();
        let said = Said { published, is_reason: vec![true; ITEMS], evidence, others };
        let event = |timestamp: i64| {
            let user = random.below(USERS) as u32;
            let state = state(user, timestamp);
            let score = |vector: &[f32]| state.iter().zip(vector).map(|(s, v)| f64::from(s * v)).sum::<f64>().exp();
            let weights: Vec<f64> = vectors.chunks_exact(WIDTH).map(score).collect();
            let (mut left, mut item) = (random.unit() * weights.iter().sum::<f64>(), 0);
            while item + 1 < ITEMS && left >= weights[item] {
                left -= weights[item];
                item += 1;
            }
            Event { user, item: item as u32, rating: None, timestamp }
        };
        let events = (0..4 * EVENTS).map(event).collect();
        World { vectors, said, events }
    }

    /// The same with the items of the events from a moment to another dealt anew among them.
    fn dealt(mut self, [from, until]: [i64; 2]) -> World {
        let range = from as usize..until as usize;
        let mut items: Vec<u32> = self.events[range.clone()].iter().map(|event| event.item).collect();
        Random::new(8, "dealt").shuffle(&mut items);
        self.events[range].iter_mut().zip(items).for_each(|(event, item)| event.item = item);
        self
    }

    fn log(&self) -> Arc<Log> {
        let ids = |n: usize| (0..n).map(|i| format!("{i:03}")).collect::<Vec<String>>();
        Arc::new(Log::new(ids(USERS), ids(ITEMS), self.events.clone()).unwrap())
    }

    fn windows(&self, permutations: u64) -> Windows {
        let judging = Judging { worth: Settings::default(), least_events: 5, valid_quantile: 0.8, permutations };
        Windows::new(self.log(), judging)
    }

    /// Judges by block `n`, asking a recommender that knows what is true; it sees nothing of after the block.
    fn judge(&self, windows: &mut Windows, n: i64) {
        let until = (n + 1) * EVENTS;
        let recommend = |split: &Split, cases: &[Case<'_>]| -> Result<Recommended> {
            let lines = split.timelines();
            assert!((0..lines.users()).all(|user| lines.of(user).timestamps.iter().all(|moment| *moment < until)));
            assert!(cases.iter().all(|case| (n * EVENTS..until).contains(&case.timestamp)));
            let states = cases.iter().flat_map(|case| state(case.user, case.timestamp)).collect();
            Ok(Recommended { width: WIDTH, vectors: self.vectors.clone(), states })
        };
        windows.judge([n * EVENTS, until], &self.said, &recommend).unwrap();
    }

    /// What stands as of the ends of the first three blocks, the second and the third of which judged.
    fn walk(&self, permutations: u64) -> (Windows, [ItemVectors; 3]) {
        let mut windows = self.windows(permutations);
        let first = windows.stand(EVENTS, &self.said);
        self.judge(&mut windows, 1);
        let second = windows.stand(2 * EVENTS, &self.said);
        self.judge(&mut windows, 2);
        let third = windows.stand(3 * EVENTS, &self.said);
        (windows, [first, second, third])
    }
}

fn holds(round: &Round) -> bool {
    round.found.as_ref().is_some_and(|found| found.holds)
}

#[test]
fn what_is_confirmed_stands_from_the_next_window_on() {
    let world = World::new();
    let (windows, [first, second, _]) = world.walk(3);
    assert!(first == world.said.published, "nobody had judged yet");
    let [one, two] = windows.rounds() else { panic!("{:?}", windows.rounds()) };
    assert!(holds(one) && one.window == [EVENTS, 2 * EVENTS] && one.why.is_empty(), "{one:?}");
    let found = one.found.as_ref().unwrap();
    assert!(found.rewritten > found.kept && found.evidence > 0, "{found:?}");
    // What stands is judged in the next window, and not once more what it took the place of.
    let again = two.found.as_ref().unwrap();
    assert!(again.kept > found.kept, "{found:?} {again:?}");
    assert!(one.confirmed_by_chance + two.confirmed_by_chance <= 2, "{one:?} {two:?}");
    let (mut changed, mut evidence) = (0, 0);
    for (item, vector) in second.iter().enumerate().filter(|(item, vector)| **vector != world.said.published[*item]) {
        changed += 1;
        let is_evidence = *vector == world.said.evidence[item];
        evidence += usize::from(is_evidence);
        assert!(is_evidence || world.said.others[item].iter().any(|text| Some(text) == vector.as_ref()));
    }
    assert_eq!((changed, evidence), (found.rewritten + found.evidence, found.evidence));
    // A choice reaches events of after its window alone.
    let of = |from: i64, until: i64| windows.reach(&world.events[from as usize..until as usize]);
    assert_eq!(of(0, 2 * EVENTS), Reach { events: 2 * EVENTS as usize, could: 0, did: 0 });
    let after = of(2 * EVENTS, 4 * EVENTS);
    assert!(after.did > 0 && after.did <= after.could && after.could * 10 > after.events * 3, "{after:?}");
}

#[test]
fn no_later_event_changes_what_stands() {
    let (plain, later) = (World::new(), World::new().dealt([2 * EVENTS, 4 * EVENTS]));
    assert!(plain.events != later.events);
    let ((one, stood), (other, stands)) = (plain.walk(0), later.walk(0));
    assert!(stood[..2] == stands[..2] && one.rounds()[0] == other.rounds()[0]);
    assert!(stood[0] != stood[1] && one.rounds()[1] != other.rounds()[1], "the window itself does tell");
}

/// With labels that say nothing of anybody's taste nothing is confirmed beyond chance, by whichever deal.
#[test]
fn of_permuted_labels_nothing_is_confirmed_beyond_chance() {
    let world = World::new().dealt([0, 4 * EVENTS]);
    let (windows, stood) = world.walk(10);
    let confirmed =
        windows.rounds().iter().map(|round| u64::from(holds(round)) + round.confirmed_by_chance).sum::<u64>();
    assert!(windows.rounds().iter().all(|round| round.found.as_ref().is_some_and(|found| found.items > 30)));
    assert!(confirmed <= 4, "{confirmed} of 22 at 0.05 each: {:?}", windows.rounds());
    if !windows.rounds().iter().any(holds) {
        assert!(stood.iter().all(|vectors| *vectors == world.said.published));
        let reach = windows.reach(&world.events[3 * EVENTS as usize..]);
        assert!(reach.could > 0 && reach.did == 0, "{reach:?}");
    }
}

#[test]
fn a_window_that_tells_too_little_changes_nothing() {
    let world = World::new();
    let never = |_: &Split, _: &[Case<'_>]| -> Result<Recommended> { panic!("nobody is to be asked") };
    let silent = Said { others: Vec::new(), is_reason: vec![false; ITEMS], ..world.said.clone() };
    let dumb = Said { evidence: vec![None; ITEMS], ..world.said.clone() };
    for (window, said, why) in [
        ([5 * EVENTS, 6 * EVENTS], &world.said, "empty"),
        ([0, 1], &world.said, "empty"),
        ([EVENTS, 2 * EVENTS], &silent, "no item has a reason"),
        ([EVENTS, 2 * EVENTS], &dumb, "nothing is said"),
    ] {
        let mut windows = world.windows(2);
        windows.judge(window, said, &never).unwrap();
        let round = &windows.rounds()[0];
        assert!(round.found.is_none() && round.why.contains(why), "{why}: {round:?}");
        assert!(windows.stand(2 * EVENTS, &world.said) == world.said.published);
        assert_eq!(windows.reach(&world.events[2 * EVENTS as usize..]).could, 0);
    }
    // What is no lack of events ends it.
    let stopped = |_: &Split, _: &[Case<'_>]| -> Result<Recommended> { Err(Error::new(Kind::Interrupted, "stopped")) };
    let mut windows = world.windows(0);
    let refused = windows.judge([EVENTS, 2 * EVENTS], &world.said, &stopped).unwrap_err();
    assert!(refused.kind() == Kind::Interrupted && windows.rounds().is_empty());
}

/// No more than 25 items can be judged, and choices of fewer than 30 are never confirmed.
#[test]
fn items_of_which_nothing_can_be_confirmed_could_not_change() {
    let world = World::new();
    let of_few = |(item, text): (usize, &Option<Vec<f32>>)| text.clone().filter(|_| item < 25);
    let evidence = world.said.evidence.iter().enumerate().map(of_few).collect();
    let few = World { said: Said { evidence, ..world.said.clone() }, ..world };
    let mut windows = few.windows(0);
    few.judge(&mut windows, 1);
    let found = windows.rounds()[0].found.clone().unwrap();
    assert!((1..30).contains(&found.items) && !found.holds, "{found:?}");
    assert!(windows.stand(2 * EVENTS, &few.said) == few.said.published);
    assert_eq!(windows.reach(&few.events[2 * EVENTS as usize..]).could, 0);
}

#[test]
fn what_stands_follows_the_nights_but_for_words_that_were_chosen() {
    let world = World::new();
    let mut windows = world.windows(0);
    let chosen = world.said.others[2][0].clone();
    windows.standing[1] = Standing::Evidence;
    windows.standing[2] = Standing::Other(chosen.clone());
    windows.standing[3] = Standing::Evidence;
    let mut said = world.said.clone();
    said.published[0] = Some(vec![0.25; TEXT]);
    said.evidence[1] = Some(vec![0.5; TEXT]);
    said.evidence[3] = None;
    said.is_reason[4] = false;
    let stands = windows.stand(7, &said);
    assert!(stands[0] == said.published[0] && stands[1] == said.evidence[1] && stands[2] == Some(chosen));
    assert!(stands[3] == said.published[3], "there is no evidence to fall back on");
    let (candidates, meant) = windows.candidates(&said);
    let of = |item: u32| candidates.iter().position(|of| of.item == item).map(|at| (&candidates[at], &meant[at]));
    assert!(of(3).is_none(), "nothing to compare with");
    let current = |item: u32| of(item).unwrap().0.current;
    assert!(current(0) == said.published[0].as_deref() && current(1).is_none() && current(4).is_none());
    // The reason of the nights can come back, and what stands is no rewrite of itself.
    assert_eq!([0, 1, 2, 4].map(|item| of(item).unwrap().1.len()), [3, 4, 3, 3]);
    assert!(of(1).unwrap().1[0] == Standing::Own && of(2).unwrap().1[0] == Standing::Own);
    assert!(of(2).unwrap().1.iter().all(|standing| *standing != windows.standing[2]));
}
