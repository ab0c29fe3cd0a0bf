//! Worths in a world whose texts about users are of known quality.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::cancel::CancelToken;
use crate::network::random::Random;
use crate::worth::events::{dot, mean};
use crate::worth::gates::{Gates, Yardstick, gates};
use crate::worth::item::tests::{NOISES, normals, said, settings, unit};
use crate::worth::whose::{Count, Whose};

const USERS: usize = 120;
const ITEMS: usize = 200;
const TEXT: usize = 16;
const WIDTH: usize = 8;
/// Events of a user in a block.
const TAKEN: usize = 20;

struct Held {
    met: Vec<Vec<u32>>,
    asked: Vec<Asked>,
}

/// Users' states are a linear function of what is true of them; texts say that with noise, or, where it is not told, something
/// else. Users take new items by their states.
struct World {
    ids: Vec<String>,
    states: Vec<f32>,
    counts: Vec<u32>,
    evidence: Vec<f32>,
    reasons: Vec<(u32, Vec<f32>)>,
    vectors: Vec<f32>,
    met: Vec<u32>,
    held: [Held; 2],
}

/// What users with these states take one after the other, none twice: those whose scores are highest with Gumbel's noise are
/// drawn by the softmax without replacement (Yellott 1977).
fn held(random: &mut Random, states: &[f32], vectors: &[f32]) -> Held {
    let mut held = Held { met: Vec::new(), asked: Vec::new() };
    for (user, state) in states.chunks_exact(WIDTH).enumerate() {
        let scored = vectors.chunks_exact(WIDTH).enumerate();
        let mut items: Vec<(f64, u32)> =
            scored.map(|(item, vector)| (dot(state, vector) - (-random.uniform().ln()).ln(), item as u32)).collect();
        items.sort_by(|a, b| b.0.total_cmp(&a.0));
        let items: Vec<u32> = items.into_iter().take(TAKEN).map(|(_, item)| item).collect();
        for (n, item) in items.iter().enumerate() {
            held.asked.push(Asked { user: user as u32, item: *item, case: held.met.len() });
            held.met.push(items[..n].to_vec());
        }
    }
    held
}

impl World {
    fn new(is_told: bool) -> World {
        let mut random = Random::new(1, "users");
        let random = &mut random;
        let turn: Vec<Vec<f64>> = (0..TEXT).map(|_| normals(random, WIDTH)).collect();
        let mut truths = || -> Vec<Vec<f64>> { (0..USERS).map(|_| unit(normals(random, TEXT))).collect() };
        let truth = truths();
        let texts = if is_told { truth.clone() } else { truths() };
        let value = |truth: &[f64], k: usize| truth.iter().zip(&turn).map(|(x, row)| x * row[k]).sum::<f64>() as f32;
        let states: Vec<f32> =
            truth.iter().flat_map(|truth| (0..WIDTH).map(|k| value(truth, k)).collect::<Vec<_>>()).collect();
        let vectors: Vec<f32> = normals(random, ITEMS * WIDTH).into_iter().map(|x| x as f32).collect();
        let evidence = texts.iter().flat_map(|text| said(random, text, 0.7)).collect();
        let mut reasons = Vec::new();
        for (user, text) in texts.iter().enumerate() {
            reasons.extend(NOISES.map(|noise| (user as u32, said(random, text, noise))));
        }
        let counts = (0..USERS).map(|_| 5 + random.below(55) as u32).collect();
        let met = (0..ITEMS).map(|_| (5.0 * random.unit()).exp() as u32 + 1).collect();
        let held = [held(random, &states, &vectors), held(random, &states, &vectors)];
        let ids = (0..USERS).map(|user| format!("u{user:03}")).collect();
        World { ids, states, counts, evidence, reasons, vectors, met, held }
    }

    fn known(&self) -> Known<'_> {
        let World { ids, states, counts, evidence, .. } = self;
        Known { whose: Whose::Histories, width: WIDTH, vectors: states, counts, ids, evidence }
    }

    fn items(&self) -> Items<'_> {
        Items { vectors: &self.vectors, counts: &self.met }
    }

    fn taken(&self, block: usize) -> Taken<'_> {
        let Held { met, asked } = &self.held[block];
        Taken { met: met.iter().map(Vec::as_slice).collect(), asked: asked.clone() }
    }

    fn texts(&self) -> Vec<(u32, &[f32])> {
        self.reasons.iter().map(|(user, text)| (*user, text.as_slice())).collect()
    }

    fn worth(&self) -> Worth {
        Worth::of_histories(&self.known(), &self.items(), &self.taken(0), &self.texts(), &settings()).unwrap()
    }

    fn gates(&self) -> Gates {
        let (known, items, texts) = (self.known(), self.items(), self.texts());
        let blocks = [self.taken(0), self.taken(1)];
        let by =
            |block: usize, settings: &Settings| Worth::of_histories(&known, &items, &blocks[block], &texts, settings);
        let everybody = Everybody::of(&known, &items);
        let yardstick = Yardstick {
            known: &known,
            everyone: everybody.share(),
            now: &|settings| by(0, settings),
            next: &|settings| by(1, settings),
        };
        let worth = by(0, &settings()).unwrap();
        gates(&worth, &yardstick, &texts, &settings(), &CancelToken::default()).unwrap().0
    }
}

#[test]
fn texts_that_tell_are_worth_something_and_the_gates_hold() {
    let world = World::new(true);
    let worths = world.worth().all(&world.texts()).unwrap();
    let of_quality = |n: usize| {
        let worths: Vec<f64> = worths.iter().skip(n).step_by(NOISES.len()).copied().flatten().collect();
        assert_eq!(worths.len(), USERS);
        mean(&worths).unwrap()
    };
    let means = [0, 1, 2, 3].map(of_quality);
    // The evidence stands between the second and the third.
    assert!(means[0] > 0.15 && means[1] > 0.0 && means[2] < 0.0, "{means:?}");
    assert!(means.is_sorted_by(|a, b| a > b), "{means:?}");
    let gates = world.gates();
    assert!(gates.passed && gates.gate.len() == 9 && gates.is_told_apart, "{gates:?}");
    assert!(gates.of == Count::Users(USERS) && gates.shuffled.unwrap().high < 0.0, "{gates:?}");
    let says: Vec<&str> = gates.gate.iter().map(|check| check.what.as_str()).collect();
    for what in [
        "users with reasons of known worth",
        "by one half of the items with that by the other",
        "halves within users",
        "mean worth of other users' reasons",
        "among a user's reasons >= its noise",
    ] {
        assert!(says.iter().any(|check| check.contains(what)), "{what}: {says:?}");
    }
}

/// Halves, blocks and folds agree on a map of nothing as well: only the controls tell.
#[test]
fn texts_that_tell_nothing_do_not_pass() {
    let gates = World::new(false).gates();
    let controls = [gates.learned.unwrap().low, gates.own_less_shuffled.unwrap().low];
    assert!(!gates.passed && controls.iter().any(|low| *low <= 0.0), "{gates:?}");
    assert!(gates.split_half_corrected.unwrap() > 0.5 && gates.next_block.unwrap() > 0.2, "{gates:?}");
}

#[test]
fn where_samples_differ_by_less_than_the_noise_it_is_said() {
    let mut world = World::new(true);
    let mut random = Random::new(5, "wordings");
    for of_user in world.reasons.chunks_exact_mut(NOISES.len()) {
        let first: Vec<f64> = of_user[1].1.iter().map(|x| f64::from(*x)).collect();
        of_user.iter_mut().for_each(|(_, text)| *text = said(&mut random, &first, 0.05));
    }
    let gates = world.gates();
    assert!(gates.spread.unwrap() > 0.0 && gates.spread < gates.noise && !gates.is_told_apart, "{gates:?}");
    let refused: Vec<&str> = gates.gate.iter().filter(|check| !check.holds).map(|check| check.what.as_str()).collect();
    assert!(
        !gates.passed && refused.iter().any(|what| what.contains("among a user's reasons >= its noise")),
        "{refused:?}"
    );
}

/// A text's first value places its user on the first axis, where everybody stands far out, and takes twice as much as the recommender
/// knows of: the reasons of every other user add there, which lifts for them what everybody takes and tells nobody apart.
#[test]
fn everybody_s_taste_is_worth_nothing() {
    let mut world = World::new(true);
    for (user, promise) in normals(&mut Random::new(4, "promises"), USERS).into_iter().enumerate() {
        world.states[user * WIDTH] = 2.0 + promise as f32;
        world.evidence[user * TEXT] = promise as f32;
    }
    let mut taste = world.states.clone();
    taste.iter_mut().step_by(WIDTH).for_each(|x| *x *= 2.0);
    world.held[0] = held(&mut Random::new(4, "taken"), &taste, &world.vectors);
    world.reasons = (0_u32..).zip(world.evidence.chunks_exact(TEXT).map(<[f32]>::to_vec)).collect();
    world.reasons.iter_mut().skip(1).step_by(2).for_each(|(_, text)| text[0] += 1.0);
    let (worth, everybody) = (world.worth(), Everybody::of(&world.known(), &world.items()));
    let (mut lifts, mut worths) = (<[Vec<f64>; 2]>::default(), <[Vec<f64>; 2]>::default());
    for (user, text) in world.texts() {
        let evidence = worth.mapped_evidence(&world.known(), user).unwrap().unwrap();
        let reason = worth.mapped(user, text).unwrap().unwrap();
        lifts[user as usize % 2].push(dot(everybody.share(), &reason) - dot(everybody.share(), &evidence));
        worths[user as usize % 2].extend(worth.of(user, text).unwrap());
    }
    let apart = |values: &[Vec<f64>; 2]| mean(&values[1]).unwrap() - mean(&values[0]).unwrap();
    assert!(apart(&lifts) > 0.3, "{lifts:?}");
    assert!(worths.iter().all(|worths| mean(worths).unwrap().abs() < 0.08), "{worths:?}");
    assert!(apart(&worths).abs() < 0.08, "{worths:?}");
}

#[test]
fn nothing_of_what_items_score_for_everybody_is_left() {
    let world = World::new(true);
    let (known, items) = (world.known(), world.items());
    let everybody = Everybody::of(&known, &items);
    let taste: Vec<f32> = everybody.taste.iter().map(|x| *x as f32).collect();
    assert!((dot(&taste, everybody.share()) - 1.0).abs() < 1e-4, "{everybody:?}");
    let table = everybody.taken_out_of(&items);
    let scores: Vec<f64> = table.chunks_exact(WIDTH).map(|vector| dot(&taste, vector)).collect();
    assert!(scores.iter().all(|score| (score - scores[0]).abs() < 1e-4), "{scores:?}");
    // Of whom nothing is known, nothing counts; and where nobody has a taste, nothing is taken out.
    let nobody = vec![0_u32; USERS];
    let nothing = Everybody::of(&Known { counts: &nobody, ..known }, &items);
    assert!(nothing.share().iter().all(|q| *q == 0.0) && nothing.taken_out_of(&items) == world.vectors);
}

#[test]
fn a_users_own_row_does_not_place_them() {
    let mut world = World::new(true);
    let mapped = |world: &World| -> Vec<Vec<f32>> {
        let worth = world.worth();
        let of_user = |user: u32| worth.mapped(user, &world.reasons[NOISES.len() * user as usize].1).unwrap().unwrap();
        (0..USERS as u32).map(of_user).collect()
    };
    let before = mapped(&world);
    world.states[7 * WIDTH..8 * WIDTH].fill(9.0);
    let after = mapped(&world);
    assert_eq!(before[7], after[7]);
    assert!(before.iter().zip(&after).filter(|(before, after)| before != after).count() > USERS / 2);
}

#[test]
fn new_items_that_training_met_count_and_are_what_halves_are_dealt_by() {
    let mut world = World::new(true);
    let told = |world: &World, user: u32| -> Vec<u32> {
        let text = world.reasons[NOISES.len() * user as usize].1.as_slice();
        let told = world.worth().by_event(user, text).unwrap().unwrap_or_default();
        let mut items: Vec<u32> = told.into_iter().map(|(item, _)| item).collect();
        items.sort_unstable();
        items
    };
    let mut taken: Vec<u32> = world.held[0].asked[..TAKEN].iter().map(|one| one.item).collect();
    taken.sort_unstable();
    assert_eq!(told(&world, 0), taken);
    let [unknown, again] = [world.held[0].asked[0].item, world.held[0].asked[1].item];
    world.met[unknown as usize] = 0;
    world.held[0].met[1].push(again);
    taken.retain(|item| *item != unknown && *item != again);
    assert_eq!(told(&world, 0), taken);
    world.evidence[TEXT..2 * TEXT].fill(0.0);
    assert!(told(&world, 1).is_empty(), "without evidence there is nothing to compare with");
}

#[test]
fn the_evidence_is_worth_nothing() {
    let world = World::new(true);
    let worth = world.worth();
    let evidence = worth.mapped_evidence(&world.known(), 3).unwrap().unwrap();
    let told = worth.against(3, &evidence);
    assert!(told.len() == TAKEN && told.iter().all(|(_, nats)| *nats == 0.0), "{told:?}");
    assert!(worth.of(USERS as u32, &world.reasons[0].1).is_err());
}

#[test]
fn a_loss_is_that_of_the_softmax() {
    let mut events = Events::default();
    let table = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
    events.push(5, &[2.0, 0.0], Others::Scored(vec![0, 1, 2]), &[0.0, 0.0], &table);
    let loss = |vector: &[f32]| events.losses(vector, &table).map(|(event, loss)| (event.by, loss)).next().unwrap();
    assert!(loss(&[0.0, 0.0]).0 == 5 && (loss(&[0.0, 0.0]).1 - 4.0_f64.ln()).abs() < 1e-12);
    // Scores are 2 for what was taken, and 1, 3 and 4.
    let sum = [2.0_f64, 1.0, 3.0, 4.0].map(f64::exp).iter().sum::<f64>();
    assert!((loss(&[1.0, 3.0]).1 - (sum.ln() - 2.0)).abs() < 1e-12, "{:?}", loss(&[1.0, 3.0]));
}

#[test]
fn users_go_by_their_places() {
    let case =
        |user: u32, history: &'static [u32], target: u32| Case { user, history, target, rating: None, timestamp: 0 };
    let cases = [case(4, &[1, 2], 3), case(5, &[1], 2), case(9, &[], 0)];
    let taken = Taken::of(&cases, &[4, 9]);
    assert_eq!(taken.asked, [Asked { user: 0, item: 3, case: 0 }, Asked { user: 1, item: 0, case: 1 }]);
    let met: [&[u32]; 2] = [&[1, 2], &[]];
    assert_eq!(taken.met, met);
}

#[test]
fn what_does_not_fit_is_refused() {
    let world = World::new(true);
    let (known, items, taken) = (world.known(), world.items(), || world.taken(0));
    let refused = |known: Known<'_>, items: Items<'_>, taken: Taken<'_>, settings: Settings| {
        Worth::of_histories(&known, &items, &taken, &world.texts(), &settings).err().map(|e| e.kind())
    };
    let none = Settings { negatives: 0, ..settings() };
    assert_eq!(refused(known, items, taken(), none), Some(Kind::Config));
    let many = Settings { folds: 61, ..settings() };
    assert_eq!(refused(known, items, taken(), many), Some(Kind::Input), "too few users");
    let short = Known { counts: &world.counts[1..], ..known };
    assert_eq!(refused(short, items, taken(), settings()), Some(Kind::Internal));
    for wrong in [Items { counts: &world.met[1..], ..items }, Items { vectors: &world.vectors[1..], ..items }] {
        assert_eq!(refused(known, wrong, taken(), settings()), Some(Kind::Internal));
    }
    for wrong in [
        Asked { user: USERS as u32, item: 0, case: 0 },
        Asked { user: 0, item: ITEMS as u32, case: 0 },
        Asked { user: 0, item: 0, case: USERS * TAKEN },
    ] {
        let elsewhere = Taken { asked: vec![wrong], ..taken() };
        assert_eq!(refused(known, items, elsewhere, settings()), Some(Kind::Internal), "{wrong:?}");
    }
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    let world = World::new(true);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| (world.worth().all(&world.texts()).unwrap(), world.gates()))
    };
    assert_eq!(run(1), run(3));
}
