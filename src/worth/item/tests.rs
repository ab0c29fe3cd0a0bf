//! Worths in a world whose texts are of known quality.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::worth::events::{loss, mean};
use crate::worth::whose::Whose;

const ITEMS: usize = 120;
const TEXT: usize = 16;
const WIDTH: usize = 8;
const EVENTS: usize = 3000;
const USERS: usize = 400;
/// Noise of an item's reasons, as a share of what is true in them.
pub(crate) const NOISES: [f64; 4] = [0.1, 0.5, 1.5, 4.0];

struct Held {
    states: Vec<f32>,
    met: Vec<[u32; 1]>,
    asked: Vec<Asked>,
}

/// Item vectors are a linear function of what is true of an item; texts say that with noise, or, where they are not
/// told, something else. Users take what their states ask for.
pub(crate) struct World {
    ids: Vec<String>,
    vectors: Vec<f32>,
    counts: Vec<u32>,
    evidence: Vec<f32>,
    pub(crate) reasons: Vec<(u32, Vec<f32>)>,
    held: [Held; 2],
}

pub(crate) fn normals(random: &mut Random, n: usize) -> Vec<f64> {
    (0..n).map(|_| random.normal()).collect()
}

/// Of length 1, as an encoder's vectors.
pub(crate) fn unit(values: Vec<f64>) -> Vec<f64> {
    let length = values.iter().map(|x| x * x).sum::<f64>().sqrt();
    values.into_iter().map(|x| x / length).collect()
}

/// A text that says what is true with noise, of the same width.
pub(crate) fn said(random: &mut Random, truth: &[f64], noise: f64) -> Vec<f32> {
    let scale = noise / (truth.len() as f64).sqrt();
    let noisy = truth.iter().zip(normals(random, truth.len())).map(|(x, e)| x + scale * e).collect();
    unit(noisy).into_iter().map(|x| x as f32).collect()
}

fn held(random: &mut Random, vectors: &[f32]) -> Held {
    let mut held = Held { states: Vec::new(), met: Vec::new(), asked: Vec::new() };
    for case in 0..EVENTS {
        let state: Vec<f32> = normals(random, WIDTH).into_iter().map(|x| x as f32).collect();
        let weights: Vec<f64> = vectors.chunks_exact(WIDTH).map(|vector| dot(&state, vector).exp()).collect();
        let mut left = random.unit() * weights.iter().sum::<f64>();
        let mut item = 0;
        while item + 1 < ITEMS && left >= weights[item] {
            left -= weights[item];
            item += 1;
        }
        held.asked.push(Asked { user: random.below(USERS) as u32, item: item as u32, case });
        held.states.extend(state);
        held.met.push([((item + 1) % ITEMS) as u32]);
    }
    held
}

impl World {
    pub(crate) fn new(is_told: bool) -> World {
        let mut random = Random::new(1, "world");
        let random = &mut random;
        let turn: Vec<Vec<f64>> = (0..TEXT).map(|_| normals(random, WIDTH)).collect();
        let mut truths = || -> Vec<Vec<f64>> { (0..ITEMS).map(|_| unit(normals(random, TEXT))).collect() };
        let truth = truths();
        let texts = if is_told { truth.clone() } else { truths() };
        let value = |truth: &[f64], k: usize| truth.iter().zip(&turn).map(|(x, row)| x * row[k]).sum::<f64>() as f32;
        let vectors: Vec<f32> =
            truth.iter().flat_map(|truth| (0..WIDTH).map(|k| value(truth, k)).collect::<Vec<_>>()).collect();
        let evidence = texts.iter().flat_map(|text| said(random, text, 0.7)).collect();
        let mut reasons = Vec::new();
        for (item, text) in texts.iter().enumerate() {
            reasons.extend(NOISES.map(|noise| (item as u32, said(random, text, noise))));
        }
        let counts = (0..ITEMS).map(|_| (5.0 * random.unit()).exp() as u32 + 1).collect();
        let held = [held(random, &vectors), held(random, &vectors)];
        World { ids: (0..ITEMS).map(|i| format!("i{i:03}")).collect(), vectors, counts, evidence, reasons, held }
    }

    /// The same with the items of all events dealt anew: what users are after says nothing of what they take.
    pub(crate) fn dealt(mut self) -> World {
        let mut random = Random::new(2, "dealt");
        for held in &mut self.held {
            let mut items: Vec<u32> = held.asked.iter().map(|one| one.item).collect();
            random.shuffle(&mut items);
            held.asked.iter_mut().zip(items).for_each(|(one, item)| one.item = item);
        }
        self
    }

    pub(crate) fn known(&self) -> Known<'_> {
        let World { ids, vectors, counts, evidence, .. } = self;
        Known { whose: Whose::Items, width: WIDTH, vectors, counts, ids, evidence }
    }

    pub(crate) fn block(&self, n: usize) -> Block<'_> {
        let Held { states, met, asked } = &self.held[n];
        Block { states, met: met.iter().map(<[u32; 1]>::as_slice).collect(), asked: asked.clone() }
    }

    pub(crate) fn texts(&self) -> Vec<(u32, &[f32])> {
        self.reasons.iter().map(|(item, text)| (*item, text.as_slice())).collect()
    }

    pub(crate) fn worth(&self) -> Worth {
        Worth::of_items(&self.known(), &self.block(0), &self.texts(), &settings()).unwrap()
    }
}

pub(crate) fn settings() -> Settings {
    Settings { negatives: 40, nearest: 60, seed: 1, fold_seed: 1, ..Settings::default() }
}

#[test]
fn an_items_own_row_does_not_place_it() {
    let mut world = World::new(true);
    let mapped = |world: &World| -> Vec<Vec<f32>> {
        let worth = world.worth();
        let of_item = |item: u32| worth.mapped(item, &world.reasons[4 * item as usize].1).unwrap().unwrap();
        (0..ITEMS as u32).map(of_item).collect()
    };
    let before = mapped(&world);
    world.vectors[7 * WIDTH..8 * WIDTH].fill(9.0);
    let after = mapped(&world);
    assert_eq!(before[7], after[7]);
    assert!(before.iter().zip(&after).filter(|(before, after)| before != after).count() > ITEMS / 2);
}

#[test]
fn the_evidence_is_worth_nothing_and_what_is_not_there_has_no_worth() {
    let mut world = World::new(true);
    world.evidence[5 * TEXT..6 * TEXT].fill(0.0);
    world.counts[6] = 0;
    world.held[0].asked.retain(|one| one.item != 4);
    let worth = world.worth();
    let of = |item: u32, text: &[f32]| worth.of(item, text).unwrap();
    let evidence = worth.mapped_evidence(&world.known(), 3).unwrap().unwrap();
    let told = worth.against(3, &evidence);
    assert!(!told.is_empty() && told.iter().all(|(_, nats)| *nats == 0.0), "{told:?}");
    let text = world.reasons[0].1.as_slice();
    assert_eq!([of(4, text), of(5, text), of(3, &[0.0; TEXT])], [None; 3], "no event, no evidence, no text");
    assert!(of(6, text).is_some(), "an item that training never met has a text and events all the same");
    assert!(worth.of(ITEMS as u32, text).is_err() && worth.of(0, &text[1..]).is_err());
    assert!(worth.of(0, &[text, &[1.0]].concat()).is_err() && worth.mapped_evidence(&world.known(), 999).is_err());
    assert!(worth.of(0, &[f32::NAN; TEXT]).is_err());
}

/// Reasons of another length or style lie elsewhere, which tells nothing of any item.
#[test]
fn where_a_kind_of_text_lies_is_worth_nothing() {
    let mut world = World::new(true);
    let shift = normals(&mut Random::new(3, "shift"), TEXT);
    let move_all = |world: &mut World| {
        let texts = world.reasons.iter_mut().map(|(_, text)| text);
        texts.for_each(|text| text.iter_mut().zip(&shift).for_each(|(x, by)| *x += *by as f32));
    };
    let before = world.worth().all(&world.texts()).unwrap();
    move_all(&mut world);
    let after = world.worth().all(&world.texts()).unwrap();
    assert!(before.iter().flatten().count() > 2 * ITEMS, "{before:?}");
    for (before, after) in before.iter().zip(&after) {
        assert!(before.is_some() == after.is_some(), "{before:?} {after:?}");
        let far = before.zip(*after).map_or(0.0, |(before, after)| (before - after).abs());
        assert!(far < 1e-4, "{before:?} {after:?}");
    }
    // In the words of the evidence, and of another kind all the same: worth as much as the evidence.
    let evidence = world.evidence.chunks_exact(TEXT).map(<[f32]>::to_vec);
    world.reasons = (0_u32..).zip(evidence).collect();
    move_all(&mut world);
    let same = world.worth().all(&world.texts()).unwrap();
    assert!(same.iter().flatten().count() > ITEMS / 2, "{same:?}");
    assert!(same.iter().flatten().all(|worth| worth.abs() < 1e-4), "{same:?}");
}

/// A text's first value places its item on the first axis, of which all states say the same: the reasons of every other item
/// add there, which lifts these items for everybody and tells nobody apart.
#[test]
fn everybody_s_taste_is_worth_nothing() {
    let mut world = World::new(true);
    for (item, promise) in normals(&mut Random::new(4, "promises"), ITEMS).into_iter().enumerate() {
        world.vectors[item * WIDTH] = promise as f32;
        world.evidence[item * TEXT] = promise as f32;
    }
    world.held[0].states.iter_mut().step_by(WIDTH).for_each(|x| *x = 2.0);
    let mut reasons: Vec<(u32, Vec<f32>)> =
        (0_u32..).zip(world.evidence.chunks_exact(TEXT).map(<[f32]>::to_vec)).collect();
    reasons.iter_mut().skip(1).step_by(2).for_each(|(_, text)| text[0] += 1.0);
    world.reasons = reasons;
    let (worth, everyone) = (world.worth(), world.block(0).mean_state(WIDTH));
    let (mut lifts, mut worths) = (<[Vec<f64>; 2]>::default(), <[Vec<f64>; 2]>::default());
    for (item, text) in world.texts() {
        let evidence = worth.mapped_evidence(&world.known(), item).unwrap().unwrap();
        let lifted = dot(&everyone, &worth.mapped(item, text).unwrap().unwrap()) - dot(&everyone, &evidence);
        lifts[item as usize % 2].push(lifted);
        worths[item as usize % 2].extend(worth.of(item, text).unwrap());
    }
    let apart = |values: &[Vec<f64>; 2]| mean(&values[1]).unwrap() - mean(&values[0]).unwrap();
    assert!(apart(&lifts) > 1.0, "{lifts:?}");
    assert!(worths.iter().all(|worths| mean(worths).unwrap().abs() < 0.1), "{worths:?}");
    assert!(apart(&worths).abs() < 0.1, "{worths:?}");
}

#[test]
fn no_more_events_count_than_asked_for() {
    let world = World::new(true);
    let few = Settings { most_events: 5, ..settings() };
    let few = Worth::of_items(&world.known(), &world.block(0), &world.texts(), &few).unwrap();
    let all = world.worth();
    for (item, text) in world.texts() {
        let (few, all) = (few.by_event(item, text).unwrap(), all.by_event(item, text).unwrap());
        let (few, all) = (few.unwrap_or_default(), all.unwrap_or_default());
        assert!(few.len() == all.len().min(5) && all.len() <= 50 && few == all[..few.len()]);
    }
}

#[test]
fn negatives_are_as_popular_and_were_not_met() {
    let counts: Vec<u32> = (0..200).map(|i| if i < 100 { 3 } else { i }).collect();
    let popularity = Popularity::new(&counts, 1);
    let settings = Settings { negatives: 10, nearest: 20, ..Settings::default() };
    let of = |user: u32, item: u32, met: &[u32]| {
        let found = popularity.negatives(&Asked { user, item, case: 0 }, counts[item as usize], met, &settings);
        let mut sorted = found.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(sorted.len() == found.len() && !found.contains(&item) && !found.iter().any(|i| met.contains(i)));
        found
    };
    let met: Vec<u32> = (0..90).collect();
    let found = of(1, 150, &[149, 151]);
    assert!(found.len() == 10 && found.iter().all(|item| (138..=163).contains(item)), "{found:?}");
    assert!(found == of(1, 150, &[149, 151]) && found != of(2, 150, &[149, 151]));
    assert!(of(1, 5, &[]).iter().all(|item| *item < 100) && of(1, 5, &[]) != of(1, 6, &[]));
    assert!(of(1, 95, &met).iter().all(|item| (90..112).contains(item)), "what is left, and the next ones");
    let everything: Vec<u32> = (1..200).collect();
    assert!(of(1, 0, &everything).is_empty());
    assert!(Popularity::new(&[0, 0], 1).items.is_empty(), "what training never met is no negative");
}

#[test]
fn a_loss_is_that_of_the_softmax() {
    assert!((loss(0.0, log_sum(&[0.0, 2.0_f64.ln()]).unwrap()) - 4.0_f64.ln()).abs() < 1e-12);
    assert!((loss(-800.0, 800.0) - 1600.0).abs() < 1e-9 && loss(800.0, -800.0) == 0.0 && log_sum(&[]).is_none());
}

#[test]
fn dealt_events_keep_their_users_and_how_often_each_item_comes() {
    let world = World::new(true);
    let (block, dealt) = (world.block(0), world.block(0).dealt(3));
    let items = |block: &Block<'_>| block.asked.iter().map(|one| one.item).collect::<Vec<u32>>();
    let sorted = |block: &Block<'_>| {
        let mut items = items(block);
        items.sort_unstable();
        items
    };
    let others = |block: &Block<'_>| block.asked.iter().map(|one| (one.user, one.case)).collect::<Vec<_>>();
    assert!(items(&block) != items(&dealt) && sorted(&block) == sorted(&dealt) && others(&block) == others(&dealt));
    assert!(items(&dealt) == items(&block.dealt(3)) && items(&dealt) != items(&block.dealt(4)));
}

#[test]
fn a_block_is_made_of_cases() {
    let case =
        |user: u32, history: &'static [u32], target: u32| Case { user, history, target, rating: None, timestamp: 0 };
    let cases = [case(4, &[1, 2], 3), case(2, &[], 0)];
    let block = Block::of(&cases, &[1.0, 2.0, 3.0, 6.0]);
    assert_eq!(block.asked, [Asked { user: 4, item: 3, case: 0 }, Asked { user: 2, item: 0, case: 1 }]);
    assert_eq!((block.met[0], block.mean_state(2)), (&[1, 2][..], vec![2.0, 4.0]));
}

#[test]
fn what_does_not_fit_is_refused() {
    let world = World::new(true);
    let refused = |known: Known<'_>, block: Block<'_>, settings: Settings| {
        Worth::of_items(&known, &block, &world.texts(), &settings).err().map(|e| e.kind())
    };
    let (known, block) = (world.known(), || world.block(0));
    for wrong in [
        Settings { most_events: 0, ..settings() },
        Settings { negatives: 61, ..settings() },
        Settings { folds: 1, ..settings() },
        Settings { ridge: 0.0, ..settings() },
        Settings { prior: f64::NAN, ..settings() },
    ] {
        assert_eq!(refused(known, block(), wrong), Some(Kind::Config));
    }
    assert_eq!(refused(known, block(), Settings { folds: 61, ..settings() }), Some(Kind::Input), "too few items");
    let short = Known { counts: &world.counts[1..], ..known };
    assert_eq!(refused(short, block(), settings()), Some(Kind::Internal));
    let wide = Known { width: WIDTH + 1, ..known };
    assert_eq!(refused(wide, block(), settings()), Some(Kind::Internal));
    let mut elsewhere = block();
    elsewhere.asked[0].case = EVENTS;
    assert_eq!(refused(known, elsewhere, settings()), Some(Kind::Internal));
    assert_eq!(refused(known, Block { states: &[], ..block() }, settings()), Some(Kind::Internal));
    for wrong in [(ITEMS as u32, &[1.0; TEXT][..]), (0, &[1.0; TEXT - 1][..]), (0, &[f32::NAN; TEXT][..])] {
        let refused = Worth::of_items(&known, &block(), &[wrong], &settings()).err().map(|e| e.kind());
        assert_eq!(refused, Some(Kind::Internal));
    }
}
