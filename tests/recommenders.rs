//! Recommenders: they learn, do not look ahead, repeat and resume, agree with RecBole and with differences of their loss.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "fences are for the product")]

mod common;

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Tensor;
use curec::error::{Error, Kind};
use curec::evaluate::baseline::{ItemNeighbours, Popularity};
use curec::llm::device::ComputeDevice;
use curec::llm::ops::into_vec;
use curec::network::layers::Pass;
use curec::network::parameters::Parameters;
use curec::network::random::Random;
use curec::recommend::adaptor::{Content, Histories, Vectors};
use curec::recommend::data::{Event, Log};
use curec::recommend::din::{self, Din, Labels};
use curec::recommend::fit::{Epoch, Model, Plan, Sequence, Trained, fit, fit_by, mean_ndcg, sequences};
use curec::recommend::metrics::{Catalogue, Options, Scorer, rank_cases};
use curec::recommend::sasrec::{self, Batch, Rows, SasRec};
use curec::recommend::softmax_loss::Loss;
use curec::recommend::split::{Case, Part, Target, temporal};
use curec::telemetry::Voice;
use safetensors::SafeTensors;

// ---------------------------------------------------------------------------------------------------------------------
// A world where the next item is known
// ---------------------------------------------------------------------------------------------------------------------

const ITEMS: usize = 30;

/// Users who walk around a circle of items, from different starts.
fn circle(users: usize, steps: usize) -> Vec<Vec<u32>> {
    (0..users).map(|u| (0..steps).map(|s| ((7 * u + s) % ITEMS) as u32).collect()).collect()
}

/// Everything but the last event is for training.
fn training(walks: &[Vec<u32>]) -> Vec<Sequence<'_>> {
    let of = |(user, walk)| {
        let walk: &Vec<u32> = walk;
        Sequence { user: user as u32, items: &walk[..walk.len() - 1], ratings: &[] }
    };
    walks.iter().enumerate().map(of).collect()
}

/// The last event of everybody.
fn cases(walks: &[Vec<u32>]) -> Vec<Case<'_>> {
    let of = |(user, walk)| {
        let walk: &Vec<u32> = walk;
        let last = walk.len() - 1;
        Case { user: user as u32, history: &walk[..last], target: walk[last], rating: None, timestamp: 0 }
    };
    walks.iter().enumerate().map(of).collect()
}

/// A circle repeats items: seen ones stay candidates.
fn plan(epochs: usize) -> Plan {
    let ranking = Options { mask_seen: false, ..Options::default() };
    Plan { ranking, ..Plan::new(epochs, 1000, 5e-3) }
}

fn small() -> sasrec::Config {
    let base = sasrec::Config::recbole();
    sasrec::Config {
        hidden: 16,
        inner: 32,
        heads: 2,
        length: 8,
        dropout: 0.1,
        attention_dropout: Some(0.1),
        batch: 64,
        ..base
    }
}

fn small_din() -> din::Config {
    let base = din::Config::published();
    din::Config { hidden: 12, attention: [8, 4], network: [24, 8], length: 4, batch: 64, ..base }
}

fn sas(config: sasrec::Config, content: Option<Arc<Content>>, seed: u64) -> SasRec {
    SasRec::new(ITEMS, config, content, seed, &ComputeDevice::cpu()).unwrap()
}

fn scores(model: &mut impl Scorer, cases: &[Case<'_>]) -> Vec<f32> {
    let mut scores = vec![f32::NAN; cases.len() * ITEMS];
    model.score(cases, &mut scores).unwrap();
    scores
}

fn case(history: &[u32]) -> Case<'_> {
    Case { user: 0, history, target: 0, rating: None, timestamp: 0 }
}

// ---------------------------------------------------------------------------------------------------------------------
// They learn
// ---------------------------------------------------------------------------------------------------------------------

#[test]
fn sasrec_learns_a_circle_with_either_loss_and_either_kind_of_rows() {
    let walks = circle(30, 25);
    let (data, cases) = (training(&walks), cases(&walks));
    let gbce = Loss::Gbce { negatives: 8, calibration: 0.75 };
    for (loss, rows) in [(Loss::CrossEntropy, Rows::Packed), (Loss::CrossEntropy, Rows::Prefixes), (gbce, Rows::Packed)]
    {
        let mut model = sas(sasrec::Config { loss, rows, ..small() }, None, 1);
        let before = ndcg(&mut model, &cases);
        let trained = fit(&mut model, &data, &cases, Catalogue::all(ITEMS), &plan(60)).unwrap();
        assert!(before < 0.6, "{before}");
        assert!(trained.best_score > 0.95, "{loss:?} {rows:?}: {:?}", trained.epochs.last());
        let targets: usize = data.iter().map(|s| s.items.len() - 1).sum();
        assert!(trained.epochs.iter().all(|e| e.targets == targets), "every event but the first is a target once");
        assert_eq!(ndcg(&mut model, &cases), trained.best_score, "the model holds the best weights");
    }
}

#[test]
fn din_learns_what_goes_together() {
    // Even users take even items, odd users odd ones.
    let mut random = Random::new(5, "din");
    let walks: Vec<Vec<u32>> =
        (0..60).map(|u| (0..16).map(|_| (2 * random.below(ITEMS / 2) + u % 2) as u32).collect()).collect();
    let (data, cases) = (training(&walks), cases(&walks));
    let mut model = Din::new(ITEMS, small_din(), None, 3, &ComputeDevice::cpu()).unwrap();
    fit(&mut model, &data, &[], Catalogue::all(ITEMS), &plan(30)).unwrap();
    let scores = scores(&mut model, &cases);
    let right = scores.chunks(ITEMS).zip(&cases).filter(|(scores, case)| {
        let mean = |parity| (0..ITEMS / 2).map(|i| scores[2 * i + parity]).sum::<f32>();
        let parity = case.target as usize % 2;
        mean(parity) > mean(1 - parity)
    });
    assert_eq!(right.count(), cases.len());
}

#[test]
fn din_learns_ratings_and_predicts_them() {
    // Liked and disliked items alternate in every history: whose history it is tells nothing.
    let items: Vec<Vec<u32>> = (0..40).map(|u| (0..12).map(|s| ((u * 5 + s * 7) % ITEMS) as u32).collect()).collect();
    let ratings: Vec<Vec<Option<f32>>> =
        items.iter().map(|w| w.iter().map(|i| Some(if i % 3 == 0 { 5.0 } else { 2.0 })).collect()).collect();
    let data: Vec<Sequence<'_>> = items
        .iter()
        .zip(&ratings)
        .enumerate()
        .map(|(user, (items, ratings))| Sequence { user: user as u32, items, ratings })
        .collect();
    let config = din::Config { labels: Labels::Rated { liked: 4.0 }, ..small_din() };
    let mut model = Din::new(ITEMS, config, None, 3, &ComputeDevice::cpu()).unwrap();
    fit(&mut model, &data, &[], Catalogue::all(ITEMS), &plan(60)).unwrap();
    let cases: Vec<Case<'_>> = (0..ITEMS as u32).map(|target| Case { target, ..case(&items[0]) }).collect();
    for (item, p) in model.predict(&cases).unwrap().into_iter().enumerate() {
        assert!(if item % 3 == 0 { p > 0.8 } else { p < 0.2 }, "{item}: {p}");
    }
}

fn ndcg(model: &mut dyn Scorer, cases: &[Case<'_>]) -> f64 {
    let options = Options { mask_seen: false, ..Options::default() };
    let ranked = rank_cases(model, cases, Catalogue::all(ITEMS), options).unwrap();
    ranked.iter().map(|r| r.ndcg(10)).sum::<f64>() / ranked.len() as f64
}

// ---------------------------------------------------------------------------------------------------------------------
// They look at what they should, and at nothing else
// ---------------------------------------------------------------------------------------------------------------------

/// Two sequences in one row, then padding.
fn rows_of(first: &[u32], second: &[u32], padding: u32) -> Batch {
    let mut batch = Batch::empty();
    for sequence in [first, second] {
        sequence.iter().enumerate().for_each(|(place, item)| batch.push(*item, place, None));
    }
    while batch.items.len() < 8 {
        batch.push(padding, 0, None);
    }
    batch
}

fn hidden(model: &SasRec, batch: &Batch) -> Vec<f32> {
    let mut pass = Pass::scoring(model.parameters());
    into_vec(model.hidden(&mut pass, batch).unwrap()).unwrap()
}

#[test]
fn a_token_sees_its_own_past_only() {
    let model = sas(small(), None, 1);
    let base = hidden(&model, &rows_of(&[1, 2, 3], &[4, 5, 6], 0));
    let same = |other: &[f32], tokens: std::ops::Range<usize>| {
        let at = tokens.start * 16..tokens.end * 16;
        base[at.clone()].iter().zip(&other[at]).all(|(a, b)| a.to_bits() == b.to_bits())
    };
    let padding = hidden(&model, &rows_of(&[1, 2, 3], &[4, 5, 6], 9));
    assert!(same(&padding, 0..6) && !same(&padding, 6..8), "what stands in the padding changes nothing");
    let later = hidden(&model, &rows_of(&[1, 2, 9], &[4, 5, 6], 0));
    assert!(same(&later, 0..2) && !same(&later, 2..3) && same(&later, 3..6), "no look ahead, none into the neighbour");
    let earlier = hidden(&model, &rows_of(&[9, 2, 3], &[4, 5, 6], 0));
    assert!(!same(&earlier, 0..1) && !same(&earlier, 2..3) && same(&earlier, 3..6));
}

#[test]
fn scores_depend_on_the_history_alone() {
    let walks = circle(300, 12);
    let cases = cases(&walks);
    let mut sasrec = sas(small(), None, 1);
    let mut din = Din::new(ITEMS, small_din(), None, 1, &ComputeDevice::cpu()).unwrap();
    let models: [&mut dyn Scorer; 2] = [&mut sasrec, &mut din];
    for (m, model) in models.into_iter().enumerate() {
        let mut all = vec![0.0; cases.len() * ITEMS];
        model.score(&cases, &mut all).unwrap();
        let mut one = vec![0.0; ITEMS];
        for i in [0, 1, 7, 255, 256, 299] {
            model.score(&cases[i..i + 1], &mut one).unwrap();
            let apart = one.iter().zip(&all[i * ITEMS..]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-6, "model {m}, case {i}: alone and among others differ by {apart}");
        }
        // Only the last items count, however long the history.
        let long: Vec<u32> = [9, 9, 9, 9, 9].iter().chain(&walks[3][3..11]).copied().collect();
        let (mut short_scores, mut long_scores) = (vec![0.0; ITEMS], vec![0.0; ITEMS]);
        model.score(&[case(&walks[3][3..11])], &mut short_scores).unwrap();
        model.score(&[case(&long)], &mut long_scores).unwrap();
        assert_eq!(short_scores, long_scores, "model {m}");
    }
}

#[test]
fn din_scores_pairs_and_the_catalogue_alike() {
    let model = Din::new(ITEMS, small_din(), None, 4, &ComputeDevice::cpu()).unwrap();
    for history in [&[3, 4, 5, 6, 7][..], &[9]] {
        let all = scores(&mut model.clone(), &[case(history)]);
        let pairs: Vec<Case<'_>> = (0..ITEMS as u32).map(|target| Case { target, ..case(history) }).collect();
        let probabilities = model.predict(&pairs).unwrap();
        for (score, p) in all.iter().zip(probabilities) {
            assert!((1.0 / (1.0 + (-score).exp()) - p).abs() < 1e-5, "{score} {p}");
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Gradients
// ---------------------------------------------------------------------------------------------------------------------

type Gradients = Vec<(String, Option<Vec<f32>>)>;

fn gradients<M: Model>(model: &M, batch: &M::Batch, random: &Random) -> (f64, Gradients) {
    let parameters = model.parameters();
    let mut pass = Pass::training(parameters, random.clone());
    let step = model.learn(&mut pass, batch).unwrap();
    let found = step.loss.backward();
    let of = |name: &str| {
        let leaf: Tensor<2> = pass.leaves.at(parameters.slot(name).unwrap());
        leaf.grad(&found).map(|g| into_vec(g.inner()).unwrap())
    };
    (step.value, parameters.names().map(|name| (name.to_owned(), of(name))).collect())
}

fn features() -> Arc<Content> {
    let mut random = Random::new(9, "features");
    let mut vectors = |n: usize| {
        let values = (0..n * 5).map(|_| random.normal() as f32).collect();
        Vectors::new(5, values, (0..n).map(|i| i % 4 != 1).collect()).unwrap()
    };
    let items = vectors(ITEMS);
    // Every user has a vector from the third event on, another from the sixth.
    let latest: Vec<Vec<Option<u32>>> =
        (0..40).map(|u| (0..40).map(|n| (n >= 3).then_some((2 * u + u32::from(n >= 6)) % 20)).collect()).collect();
    let histories = Histories::new(vectors(20), &latest).unwrap();
    Arc::new(Content { items: Some(items), histories: Some(histories), seen: None })
}

/// Opens the gates, which begin at zero and would hide what is behind them.
fn open_gates(parameters: &mut Parameters) {
    for field in ["item", "history"] {
        let slot = parameters.slot(&format!("adaptor.{field}.output")).unwrap();
        parameters.write(slot, vec![0.7]).unwrap();
    }
}

/// Weights that are far from symmetric, so that a wrong gradient shows.
fn stir(parameters: &mut Parameters) {
    let names: Vec<String> = parameters.names().map(str::to_owned).collect();
    for name in names {
        let slot = parameters.slot(&name).unwrap();
        let mut random = Random::new(21, &name);
        let values = parameters.read(slot).unwrap();
        let stirred = values.into_iter().map(|v| v + 0.2 * random.normal() as f32).collect();
        parameters.write(slot, stirred).unwrap();
    }
}

#[test]
fn gradients_by_hand_are_those_of_automatic_differentiation() {
    let walks = circle(9, 21);
    let data = training(&walks);
    for (loss, rows) in [
        (Loss::CrossEntropy, Rows::Packed),
        (Loss::CrossEntropy, Rows::Prefixes),
        (Loss::Gbce { negatives: 5, calibration: 0.5 }, Rows::Packed),
    ] {
        let config = sasrec::Config { dropout: 0.0, attention_dropout: Some(0.0), loss, rows, batch: 100, ..small() };
        let mut found: Vec<(f64, Gradients)> = Vec::new();
        for device in [ComputeDevice::cpu(), ComputeDevice::cpu_reference()] {
            let mut model = SasRec::new(ITEMS, config.clone(), Some(features()), 6, &device).unwrap();
            stir(model.parameters_mut());
            let batches = model.batches(&data, &mut Random::new(2, "batches"));
            assert_eq!(batches.len(), 2, "one whole batch and one with padding");
            for batch in batches {
                found.push(gradients(&model, &batch, &Random::new(3, "learn")));
            }
        }
        for (by_hand, automatic) in found[..2].iter().zip(&found[2..]) {
            assert!((by_hand.0 - automatic.0).abs() < 1e-5, "{} {}", by_hand.0, automatic.0);
            for ((name, a), (_, b)) in by_hand.1.iter().zip(&automatic.1) {
                let (a, b) = (a.as_ref().expect(name), b.as_ref().expect(name));
                let most = b.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
                assert!(b.iter().any(|v| *v != 0.0), "{name} is not reached");
                for (a, b) in a.iter().zip(b) {
                    assert!((a - b).abs() < 2e-4 * most, "{loss:?} {rows:?} {name}: {a} {b}");
                }
            }
        }
    }
}

/// With dropout the masks of the backward pass must be those of the forward pass.
#[test]
fn gradients_with_dropout_are_the_slopes_of_the_loss() {
    let walks = circle(4, 13);
    let data = training(&walks);
    let config = sasrec::Config { dropout: 0.3, attention_dropout: Some(0.4), batch: 100, ..small() };
    let mut model = sas(config, None, 6);
    stir(model.parameters_mut());
    let batch = model.batches(&data, &mut Random::new(2, "batches")).remove(0);
    let random = Random::new(3, "learn");
    let (_, found) = gradients(&model, &batch, &random);
    let value =
        |model: &SasRec| model.learn(&mut Pass::training(model.parameters(), random.clone()), &batch).unwrap().value;
    for (name, gradient) in found {
        let (slot, gradient) = (model.parameters().slot(&name).unwrap(), gradient.unwrap());
        let values = model.parameters().read(slot).unwrap();
        // Along the gradient the slope is its length: one check for the whole weight.
        let length = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        if length < 1e-4 {
            continue;
        }
        let mut at = |step: f64| {
            let moved = values.iter().zip(&gradient).map(|(v, g)| v + (step * f64::from(*g) / length) as f32).collect();
            model.parameters_mut().write(slot, moved).unwrap();
            value(&model)
        };
        let step = 5e-3;
        let slope = (at(step) - at(-step)) / (2.0 * step);
        model.parameters_mut().write(slot, values.clone()).unwrap();
        assert!((slope - length).abs() < 0.02 * length + 1e-3, "{name}: slope {slope}, gradient {length}");
    }
}

#[test]
fn din_reaches_all_its_weights() {
    let walks = circle(9, 15);
    let data = training(&walks);
    let mut model = Din::new(ITEMS, small_din(), Some(features()), 6, &ComputeDevice::cpu()).unwrap();
    open_gates(model.parameters_mut());
    let batch = model.batches(&data, &mut Random::new(2, "batches")).remove(0);
    let (_, found) = gradients(&model, &batch, &Random::new(3, "learn"));
    for (name, gradient) in found {
        let gradient = gradient.unwrap_or_default();
        assert!(gradient.iter().any(|g| *g != 0.0) && gradient.iter().all(|g| g.is_finite()), "{name}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// RecBole's SASRec
// ---------------------------------------------------------------------------------------------------------------------

#[test]
fn sasrec_is_recboles() {
    let path = common::project().join("tests/fixtures/recommend/sasrec.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let read = |name: &str| -> Vec<f32> {
        let data = file.tensor(name).unwrap();
        data.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let config = sasrec::Config {
        hidden: 16,
        inner: 24,
        length: 6,
        dropout: 0.0,
        attention_dropout: Some(0.0),
        ..sasrec::Config::recbole()
    };
    // RecBole counts items from 1.
    let histories: [&[u32]; 4] = [&[2], &[0, 1, 2, 3, 4, 5], &[6, 18, 6], &[17, 16, 15, 14]];
    let targets = vec![0, 1, 18, 17];
    let mut batch = Batch::empty();
    for history in histories {
        history.iter().enumerate().for_each(|(place, item)| batch.push(*item, place, None));
        batch.asked.push(batch.items.len() as u32 - 1);
        batch.pad(6);
    }
    batch.targets = targets;
    for device in [ComputeDevice::cpu(), ComputeDevice::cpu_reference()] {
        let mut model = SasRec::new(19, config.clone(), None, 0, &device).unwrap();
        let names: Vec<String> = model.parameters().names().map(str::to_owned).collect();
        for name in &names {
            let slot = model.parameters().slot(name).unwrap();
            model.parameters_mut().write(slot, read(name)).unwrap();
        }
        let close = |what: &str, ours: &[f32], theirs: &[f32]| {
            assert_eq!(ours.len(), theirs.len(), "{what}");
            for (a, b) in ours.iter().zip(theirs) {
                assert!((a - b).abs() < 1e-4, "{what}: {a}, RecBole {b}");
            }
        };
        let cases: Vec<Case<'_>> = histories.iter().map(|h| case(h)).collect();
        let mut scores = vec![0.0; 4 * 19];
        model.score(&cases, &mut scores).unwrap();
        close("scores", &scores, &read("expected.scores"));
        let (loss, found) = gradients(&model, &batch, &Random::new(0, "learn"));
        close("loss", &[loss as f32], &read("expected.loss"));
        for (name, gradient) in found {
            close(&name, &gradient.unwrap(), &read(&format!("gradient.{name}")));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Content
// ---------------------------------------------------------------------------------------------------------------------

#[test]
fn with_the_gate_at_zero_features_change_nothing() {
    let walks = circle(20, 14);
    let (data, cases) = (training(&walks), cases(&walks));
    let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a == b);

    let (mut without, mut with) = (sas(small(), None, 2), sas(small(), Some(features()), 2));
    assert!(with.parameters().count() > without.parameters().count());
    assert!(same(&scores(&mut without, &cases), &scores(&mut with, &cases)));
    fit(&mut with, &data, &[], Catalogue::all(ITEMS), &plan(1)).unwrap();
    let gate = with.parameters().read(with.parameters().slot("adaptor.item.output").unwrap()).unwrap();
    assert!(gate[0] != 0.0, "the gate learns from the first step on");
    fit(&mut without, &data, &[], Catalogue::all(ITEMS), &plan(1)).unwrap();
    assert!(!same(&scores(&mut without, &cases), &scores(&mut with, &cases)));

    let device = ComputeDevice::cpu();
    let mut without = Din::new(ITEMS, small_din(), None, 2, &device).unwrap();
    let mut with = Din::new(ITEMS, small_din(), Some(features()), 2, &device).unwrap();
    assert!(same(&scores(&mut without, &cases), &scores(&mut with, &cases)));
    fit(&mut with, &data, &[], Catalogue::all(ITEMS), &plan(1)).unwrap();
    fit(&mut without, &data, &[], Catalogue::all(ITEMS), &plan(1)).unwrap();
    assert!(!same(&scores(&mut without, &cases), &scores(&mut with, &cases)));
}

#[test]
fn a_missing_vector_adds_nothing_and_a_history_vector_waits_for_its_events() {
    let content = features();
    let histories = content.histories.as_ref().unwrap();
    assert_eq!(histories.latest(1, 2), None);
    assert_eq!((histories.latest(1, 3), histories.latest(1, 6)), (Some(2), Some(3)));
    assert_eq!(histories.latest(2, 6), None, "vector 5 is missing");
    assert_eq!((histories.latest(99, 3), histories.latest(1, 99)), (None, None));

    // Items 1, 5, 9 ... have no vector: as candidates they keep their scores when the gate opens.
    let items_only = Arc::new(Content { items: content.items.clone(), histories: None, seen: None });
    let mut model = Din::new(ITEMS, small_din(), Some(items_only), 2, &ComputeDevice::cpu()).unwrap();
    let closed = scores(&mut model, &[case(&[1, 5])]);
    let slot = model.parameters().slot("adaptor.item.output").unwrap();
    model.parameters_mut().write(slot, vec![0.7]).unwrap();
    let open = scores(&mut model, &[case(&[1, 5])]);
    for (item, (closed, open)) in closed.iter().zip(&open).enumerate() {
        assert_eq!(closed == open, item % 4 == 1, "{item}: {closed} {open}");
    }
    let refused = Vectors::new(2, vec![f32::NAN, 0.0], vec![true]).unwrap_err();
    assert_eq!(refused.kind(), Kind::Input);
    let short = Content { items: Some(Vectors::new(1, vec![0.0], vec![true]).unwrap()), histories: None, seen: None };
    let refused = SasRec::new(ITEMS, small(), Some(Arc::new(short)), 0, &ComputeDevice::cpu());
    assert_eq!(refused.err().unwrap().kind(), Kind::Input);
}

// ---------------------------------------------------------------------------------------------------------------------
// They repeat and resume
// ---------------------------------------------------------------------------------------------------------------------

fn bits(parameters: &Parameters) -> Vec<u32> {
    let slots = parameters.names().map(|n| parameters.slot(n).unwrap());
    slots.flat_map(|s| parameters.read(s).unwrap()).map(f32::to_bits).collect()
}

fn curve(trained: &Trained) -> Vec<(u64, Option<u64>)> {
    trained.epochs.iter().map(|e| (e.loss.to_bits(), e.score.map(f64::to_bits))).collect()
}

#[test]
fn equal_seeds_give_equal_bits_and_other_seeds_do_not() {
    let walks = circle(20, 14);
    let (data, cases) = (training(&walks), cases(&walks));
    let run = |seed| {
        let mut model = sas(small(), Some(features()), seed);
        let trained = fit(&mut model, &data, &cases, Catalogue::all(ITEMS), &plan(3)).unwrap();
        (curve(&trained), bits(model.parameters()))
    };
    let (one, same, other) = (run(1), run(1), run(2));
    assert_eq!(one, same);
    assert_ne!(one.1, other.1);
    let run = |seed| {
        let mut model = Din::new(ITEMS, small_din(), None, seed, &ComputeDevice::cpu()).unwrap();
        let trained = fit(&mut model, &data, &cases, Catalogue::all(ITEMS), &plan(2)).unwrap();
        (curve(&trained), bits(model.parameters()))
    };
    assert_eq!(run(1), run(1));
}

#[test]
fn a_resumed_training_ends_where_an_uninterrupted_one_does() {
    let walks = circle(20, 14);
    let (data, cases) = (training(&walks), cases(&walks));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let mut straight = sas(small(), None, 1);
    let whole = fit(&mut straight, &data, &cases, Catalogue::all(ITEMS), &plan(6)).unwrap();
    for epochs in [2, 3, 6, 6] {
        let mut model = sas(small(), None, 1);
        let part = fit(
            &mut model,
            &data,
            &cases,
            Catalogue::all(ITEMS),
            &Plan { checkpoint: Some(path.clone()), ..plan(epochs) },
        )
        .unwrap();
        assert_eq!(curve(&part), curve(&whole)[..epochs]);
        if epochs == 6 {
            assert_eq!(bits(model.parameters()), bits(straight.parameters()));
            assert_eq!(part.best_epoch, whole.best_epoch);
        }
    }
    assert_eq!(names(dir.path()), ["state.safetensors"], "nothing half written stays");

    // Stopped between epochs it keeps those that it has.
    let stopped = Plan { checkpoint: Some(dir.path().join("stopped.safetensors")), ..plan(6) };
    for (left, done) in [(2, None), (1, None), (3, Some(6)), (0, Some(6))] {
        let asked = Cell::new(0);
        let go_on = || {
            asked.set(asked.get() + 1);
            if asked.get() <= left { Ok(()) } else { Err(Error::new(Kind::Interrupted, "a wish")) }
        };
        let mut model = sas(small(), None, 1);
        let mut score = |model: &mut SasRec| mean_ndcg(model, &cases, Catalogue::all(ITEMS), stopped.ranking);
        match (fit_by(&mut model, &data, &cases, &stopped, &go_on, &mut score), done) {
            (Ok(trained), Some(epochs)) => {
                assert_eq!((curve(&trained), trained.epochs.len()), (curve(&whole), epochs));
                assert_eq!(bits(model.parameters()), bits(straight.parameters()));
            }
            (Err(error), None) => assert_eq!(error.kind(), Kind::Interrupted),
            (result, _) => panic!("{left}: {result:?}"),
        }
    }

    let resume = |model: &mut SasRec| {
        fit(model, &data, &cases, Catalogue::all(ITEMS), &Plan { checkpoint: Some(path.clone()), ..plan(7) })
            .unwrap_err()
    };
    assert_eq!(resume(&mut sas(small(), None, 2)).kind(), Kind::Config, "another seed's checkpoint");
    let fewer = Plan { checkpoint: Some(path.clone()), ..plan(5) };
    let error = fit(&mut sas(small(), None, 1), &data, &cases, Catalogue::all(ITEMS), &fewer).unwrap_err();
    assert!(error.kind() == Kind::Config && error.to_string().contains("more epochs"), "{error}");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(resume(&mut sas(small(), None, 1)).kind(), Kind::Model, "a torn checkpoint is not trained on");
}

#[test]
fn a_checkpoint_of_other_data_of_the_same_size_is_refused() {
    let walks = circle(20, 14);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let rated: Vec<Vec<Option<f32>>> = walks.iter().map(|walk| vec![Some(4.0); walk.len() - 1]).collect();
    let train = |walks: &[Vec<u32>], ratings: &[Vec<Option<f32>>], valid: &[Case<'_>], content: &Arc<Content>| {
        let data: Vec<Sequence<'_>> =
            training(walks).into_iter().zip(ratings).map(|(s, ratings)| Sequence { ratings, ..s }).collect();
        let mut model = sas(small(), Some(content.clone()), 1);
        let result =
            fit(&mut model, &data, valid, Catalogue::all(ITEMS), &Plan { checkpoint: Some(path.clone()), ..plan(1) });
        result.map(|trained| trained.epochs.len()).map_err(|e| (e.kind(), e.to_string()))
    };
    let (valid, content) = (cases(&walks), features());
    assert_eq!(train(&walks, &rated, &valid, &content), Ok(1));
    assert_eq!(train(&walks, &rated, &valid, &content), Ok(1), "the same data goes on");

    let refused = |what: &str, result: Result<usize, (Kind, String)>| {
        let (kind, message) = result.expect_err(what);
        assert_eq!(kind, Kind::Config, "{what}");
        assert!(message.contains("the checkpoint belongs to another training"), "{what}: {message}");
    };
    let mut other = rated.clone();
    other[3][5] = Some(3.0);
    refused("a rating", train(&walks, &other, &valid, &content));
    other[3][5] = None;
    refused("a rating that is none", train(&walks, &other, &valid, &content));
    let mut other = walks.clone();
    other[3].swap(4, 5);
    refused("an order", train(&other, &rated, &valid, &content));
    let mut other = valid.clone();
    other[3].target = (other[3].target + 1) % ITEMS as u32;
    refused("a validation case", train(&walks, &rated, &other, &content));

    // Of vectors the lowest bit, and who has which.
    let vectors =
        |value: f32, present: bool| Vectors::new(1, vec![1.0, value, 3.0], vec![true, present, true]).unwrap();
    let digest = |items: Vectors, latest: [Option<u32>; 2]| {
        let histories = Histories::new(vectors(2.0, true), &[latest.to_vec()]).unwrap();
        Content { items: Some(items), histories: Some(histories), seen: None }.digest()
    };
    let base = digest(vectors(2.0, true), [None, Some(0)]);
    assert_eq!(base, digest(vectors(2.0, true), [None, Some(0)]));
    assert_ne!(base, digest(vectors(f32::from_bits(2.0_f32.to_bits() + 1), true), [None, Some(0)]));
    assert_ne!(base, digest(vectors(2.0, false), [None, Some(0)]));
    assert_ne!(base, digest(vectors(2.0, true), [None, Some(1)]));
    assert_ne!(base, digest(vectors(2.0, true), [Some(0), None]));
    let mut other = Content::clone(&content);
    let values = (0..ITEMS * 5).map(|i| i as f32).collect();
    other.items = Some(Vectors::new(5, values, vec![true; ITEMS]).unwrap());
    refused("vectors", train(&walks, &rated, &valid, &Arc::new(other)));
    assert_eq!(train(&walks, &rated, &valid, &content), Ok(1), "a refusal leaves the checkpoint as it is");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn weights_come_back_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let model = sas(small(), None, 1);
    model.parameters().save(&path, HashMap::from([("seed".to_owned(), "1".to_owned())])).unwrap();
    let mut other = sas(small(), None, 2);
    assert_ne!(bits(model.parameters()), bits(other.parameters()));
    assert_eq!(other.parameters_mut().load(&path).unwrap()["seed"], "1");
    assert_eq!(bits(model.parameters()), bits(other.parameters()));
    let mut wide = sas(sasrec::Config { hidden: 32, ..small() }, None, 1);
    assert_eq!(wide.parameters_mut().load(&path).unwrap_err().kind(), Kind::Model);
}

#[test]
fn training_stops_when_nothing_gets_better() {
    let walks = circle(6, 9);
    let (data, cases) = (training(&walks), cases(&walks));
    let mut model = sas(small(), None, 1);
    let still = Plan { patience: 3, learning_rate: 0.0, ..plan(50) };
    let trained = fit(&mut model, &data, &cases, Catalogue::all(ITEMS), &still).unwrap();
    assert_eq!((trained.epochs.len(), trained.best_epoch), (4, 1));
    let nothing: Vec<Sequence<'_>> = data.iter().map(|s| Sequence { items: &s.items[..1], ..*s }).collect();
    assert_eq!(fit(&mut model, &nothing, &cases, Catalogue::all(ITEMS), &plan(1)).unwrap_err().kind(), Kind::Input);
}

// ---------------------------------------------------------------------------------------------------------------------
// For real: measured by hand, not in CI
// ---------------------------------------------------------------------------------------------------------------------

fn movielens() -> Option<Log> {
    use arrow::array::AsArray;
    use arrow::datatypes::{Float32Type, TimestampMillisecondType};
    let path = common::shared("data/movielens-100k/interactions.parquet")?;
    let file = std::fs::File::open(path).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    type Row = (String, String, f32, i64);
    let mut rows: Vec<Row> = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap().clone();
        let (users, items) = (column("user_id"), column("item_id"));
        let (ratings, times) = (column("rating"), column("timestamp"));
        for i in 0..batch.num_rows() {
            rows.push((
                users.as_string::<i32>().value(i).to_owned(),
                items.as_string::<i32>().value(i).to_owned(),
                ratings.as_primitive::<Float32Type>().value(i),
                times.as_primitive::<TimestampMillisecondType>().value(i) * 1000,
            ));
        }
    }
    let ids = |pick: fn(&Row) -> String| {
        let mut ids: Vec<String> = rows.iter().map(pick).collect();
        ids.sort();
        ids.dedup();
        ids
    };
    let (users, items) = (ids(|r| r.0.clone()), ids(|r| r.1.clone()));
    let at = |ids: &[String], id: &String| ids.binary_search(id).unwrap() as u32;
    let events = rows.iter().map(|(user, item, rating, timestamp)| {
        let (user, item) = (at(&users, user), at(&items, item));
        Event { user, item, rating: Some(*rating), timestamp: *timestamp }
    });
    let events = events.collect();
    Some(Log::new(users, items, events).unwrap())
}

/// `CUREC_SEEDS=5 CUREC_ROWS=prefixes CUREC_EPOCHS=3 ... -- --ignored --nocapture movielens`
#[test]
#[ignore = "measures: minutes"]
fn movielens_under_the_temporal_split() {
    let setting = |name: &str, otherwise: usize| -> usize {
        std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise)
    };
    let Some(log) = movielens() else { return };
    let split = temporal(&log, 0.9, 0.9).unwrap();
    let (data, catalogue) = (sequences(&split), log.items().len());
    let valid = split.cases(Part::Valid, Target::Successive);
    let test = split.cases(Part::Test, Target::Successive);
    println!("{} train events, {} valid, {} test cases", split.train().len(), valid.len(), test.len());
    let report = |name: &str, model: &mut dyn Scorer| {
        let mut mean = |cases: &[Case<'_>], masks: bool| {
            let ranking = Options { mask_seen: masks, ..Options::default() };
            let ranked = rank_cases(model, cases, Catalogue::all(catalogue), ranking).unwrap();
            ranked.iter().map(|r| r.ndcg(10)).sum::<f64>() / ranked.len() as f64
        };
        println!(
            "{name}: NDCG@10 valid {:.4}, test {:.4} (seen items left out), {:.4} (kept)",
            mean(&valid, true),
            mean(&test, true),
            mean(&test, false)
        );
    };
    report("popularity", &mut Popularity::new(split.train(), catalogue));
    report("item-kNN, 100 neighbours", &mut ItemNeighbours::new(split.train(), catalogue, 100));
    let rows = if std::env::var("CUREC_ROWS").is_ok_and(|v| v == "prefixes") { Rows::Prefixes } else { Rows::Packed };
    let device = ComputeDevice::cpu();
    let say = |name: &str, seed: usize, trained: &Trained| {
        let seconds: f64 = trained.epochs.iter().map(|e| e.seconds).sum();
        let per_second =
            |of: fn(&Epoch) -> usize| trained.epochs.iter().map(of).sum::<usize>() as f64 / seconds.max(1e-9);
        println!(
            "{name} seed {seed}: best epoch {} of {}, valid {:.4}, {:.0} sequences/s, {:.0} targets/s, {:.2} s/epoch",
            trained.best_epoch,
            trained.epochs.len(),
            trained.best_score,
            per_second(|e| e.sequences),
            per_second(|e| e.targets),
            seconds / trained.epochs.len() as f64
        );
    };
    for seed in 0..setting("CUREC_SEEDS", 1) {
        let patience = setting("CUREC_PATIENCE", 10);
        let plan = Plan { voice: Voice::JsonLines, ..Plan::new(setting("CUREC_EPOCHS", 200), patience, 1e-3) };
        let dropout = setting("CUREC_DROPOUT_PERCENT", 50) as f64 / 100.0;
        let config = sasrec::Config {
            hidden: setting("CUREC_HIDDEN", 64),
            inner: setting("CUREC_INNER", 256),
            layers: setting("CUREC_LAYERS", 2),
            length: setting("CUREC_LENGTH", 50),
            batch: setting("CUREC_BATCH", 2048),
            dropout,
            rows,
            ..sasrec::Config::recbole()
        };
        let mut model = SasRec::new(catalogue, config, None, seed as u64, &device).unwrap();
        let trained = fit(&mut model, &data, &valid, Catalogue::all(catalogue), &plan).unwrap();
        say("SASRec", seed, &trained);
        report("SASRec", &mut model);
        if std::env::var("CUREC_DIN").is_ok() {
            let mut model = Din::new(catalogue, din::Config::published(), None, seed as u64, &device).unwrap();
            let trained =
                fit(&mut model, &data, &valid, Catalogue::all(catalogue), &Plan { patience: 3, ..plan }).unwrap();
            say("DIN", seed, &trained);
            report("DIN", &mut model);
        }
    }
}
