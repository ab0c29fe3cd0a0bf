//! The reward model: it finds what reasons tell, its gates close where they should, it repeats, resumes and keeps to folds.

use std::collections::BTreeMap;
use std::sync::Arc;

use curec::error::Kind;
use curec::llm::device::ComputeDevice;
use curec::network::random::Random;
use curec::reward::example::{Attributes, Past, RewardExample};
use curec::reward::judge::{Gates, Judge, Limits};
use curec::reward::model::{Config, Judged, RewardModel};
use curec::reward::saved::{Case, Catalogue, PastEvent, SavedJudge, UNKNOWN, digest, user_number};
use curec::reward::train::{Plan, fit};

const ITEMS: usize = 12;
const WIDTH: usize = 6;

/// What a reason's first value is.
#[derive(Clone, Copy, PartialEq)]
enum Reasons {
    /// The label, turned around for users who disliked all that they had: with the history it tells the label, alone nothing.
    Anchored,
    /// Noise.
    Noise,
    /// The label itself.
    Verbatim,
}

/// User, item, reason, corrupted reason, label.
type Row = (u32, u32, Vec<f32>, Vec<f32>, bool);

struct World {
    histories: Vec<Vec<Past>>,
    rows: Vec<Row>,
}

fn world(users: u32, each: usize, reasons: Reasons) -> World {
    let mut random = Random::new(11, "world");
    let mut histories = Vec::new();
    let mut rows = Vec::new();
    for user in 0..users {
        let likes = random.below(2) == 0;
        let past = |random: &mut Random, time| Past { item: random.below(ITEMS) as u32, liked: likes, time };
        histories.push((0..4).map(|time| past(&mut random, time)).collect());
        for _ in 0..each {
            let (item, label) = (random.below(ITEMS) as u32, random.below(2) == 0);
            let mut z: Vec<f32> = (0..WIDTH).map(|_| 0.5 * random.normal() as f32).collect();
            let corrupted: Vec<f32> = (0..WIDTH).map(|_| 0.5 * random.normal() as f32).collect();
            let sign = |yes: bool| if yes { 1.0 } else { -1.0 };
            match reasons {
                Reasons::Anchored => z[0] = sign(label) * sign(likes),
                Reasons::Noise => {}
                Reasons::Verbatim => z[0] = sign(label),
            }
            rows.push((user, item, z, corrupted, label));
        }
    }
    World { histories, rows }
}

impl World {
    fn examples(&self) -> Vec<RewardExample<'_>> {
        self.rows
            .iter()
            .map(|(user, item, z, corrupted, label)| {
                let history = &self.histories[*user as usize];
                RewardExample::new((*user, *item), history, vec![z], vec![corrupted], *label, 100).unwrap()
            })
            .collect()
    }
}

fn attributes() -> Arc<Attributes> {
    Arc::new(Attributes::new((0..ITEMS as u32).map(|i| vec![i % 3]).collect(), 3).unwrap())
}

fn config() -> Config {
    Config { reason: WIDTH, projection: 16, hidden: 8, attention: [8, 4], network: [16, 8], length: 4 }
}

fn plan(epochs: usize) -> Plan {
    Plan {
        epochs,
        patience: 100,
        learning_rate: 5e-3,
        weight_decay: 1e-5,
        batch: 64,
        null_dropout: 0.3,
        unknown: 0.0,
        margin_weight: 0.5,
        margin: 0.1,
        anchor_weight: 3.0,
        folds: 2,
        validation: 0.1,
    }
}

fn judge(examples: &[&RewardExample<'_>], epochs: usize, seed: u64) -> Judge {
    let device = ComputeDevice::cpu();
    Judge::train(examples, &attributes(), &config(), &plan(epochs), None, seed, &device).unwrap()
}

fn gates(reasons: Reasons, epochs: usize) -> Gates {
    let world = world(200, 6, reasons);
    let examples = world.examples();
    let examples: Vec<&RewardExample<'_>> = examples.iter().collect();
    judge(&examples, epochs, 1).gates(&examples, 500).unwrap()
}

/// Twelve hundred examples place AUC within about 0.03.
const LIMITS: Limits = Limits { shuffled: 0.06, probe: 0.65, needs_gain: true };

fn own<'a>(examples: &[&RewardExample<'a>]) -> Vec<Vec<Option<&'a [f32]>>> {
    examples.iter().map(|e| e.reasons().iter().copied().map(Some).collect()).collect()
}

fn logits(judged: &[Vec<Judged>]) -> Vec<u32> {
    judged.iter().flatten().flat_map(|j| [j.logit.to_bits(), j.without.to_bits()]).collect()
}

#[test]
fn reasons_that_tell_something_pass_the_gates() {
    let gates = gates(Reasons::Anchored, 60);
    // In this world others' reasons cannot be told from own ones, so a judge that must not be misled says little of either.
    assert!(gates.auc > 0.8 && gates.gain.low > 0.03, "{gates:?}");
    assert!(gates.difference.interval.low > 0.2, "{gates:?}");
    gates.check(LIMITS).unwrap();
}

#[test]
fn noise_fails_the_gate_of_gain() {
    let gates = gates(Reasons::Noise, 10);
    let error = gates.check(LIMITS).unwrap_err();
    assert_eq!((error.kind(), error.kind().exit_code()), (Kind::Audit, 1));
    assert!(error.context().iter().any(|(key, _)| *key == "gain"), "{}", error.explain());
}

#[test]
fn reasons_that_spell_out_the_label_fail_the_probe() {
    let gates = gates(Reasons::Verbatim, 10);
    assert!(gates.probe.low > 0.9, "{gates:?}");
    let error = gates.check(LIMITS).unwrap_err();
    assert!(error.message().contains("probe") && error.explain().contains("verdicts"), "{}", error.explain());
}

#[test]
fn a_resumed_training_is_the_uninterrupted_one_bit_for_bit() {
    let world = world(40, 4, Reasons::Anchored);
    let examples = world.examples();
    let examples: Vec<&RewardExample<'_>> = examples.iter().collect();
    let (valid, train) = examples.split_at(30);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reward.safetensors");
    let device = ComputeDevice::cpu();
    let model = || RewardModel::new(attributes(), config(), 7, &device).unwrap();
    let run = |epochs, checkpoint| {
        let mut model = model();
        let trained = fit(&mut model, train, valid, &plan(epochs), checkpoint).unwrap();
        (trained, logits(&model.judge(&examples, &own(&examples)).unwrap()))
    };
    let whole = run(5, None);
    run(2, Some(file.as_path()));
    assert_eq!(run(5, Some(file.as_path())), whole);
    assert_eq!(run(5, None), whole, "the same seed gives the same bits");
    let mut other = model();
    let error = fit(&mut other, &train[1..], valid, &plan(5), Some(&file)).unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "a checkpoint of other examples is refused");
}

#[test]
fn a_users_labels_do_not_reach_the_model_that_judges_the_user() {
    let before = world(40, 4, Reasons::Anchored);
    let examples = before.examples();
    let examples: Vec<&RewardExample<'_>> = examples.iter().collect();
    let first = judge(&examples, 2, 3);
    let mut after = world(40, 4, Reasons::Anchored);
    after.rows.iter_mut().filter(|row| first.fold(row.0) == 0).for_each(|row| row.4 = !row.4);
    let changed = after.examples();
    let changed: Vec<&RewardExample<'_>> = changed.iter().collect();
    let second = judge(&changed, 2, 3);
    let scores = |judge: &Judge| judge.judge(&examples, &own(&examples)).unwrap();
    let (a, b) = (scores(&first), scores(&second));
    let of_fold = |judged: &[Vec<Judged>], fold: usize| -> Vec<u32> {
        let rows = examples.iter().zip(judged).filter(|(e, _)| first.fold(e.user()) == fold);
        rows.flat_map(|(_, j)| logits(std::slice::from_ref(j))).collect()
    };
    assert!(!of_fold(&a, 0).is_empty() && !of_fold(&a, 1).is_empty());
    assert_eq!(of_fold(&a, 0), of_fold(&b, 0), "their own model never saw these labels");
    assert_ne!(of_fold(&a, 1), of_fold(&b, 1), "the other model did");
    let judge_of_another_seed = judge(&examples, 2, 4);
    assert!((0..40).any(|user| judge_of_another_seed.fold(user) != first.fold(user)));
}

#[test]
fn too_few_folds_and_labels_all_alike_are_refused() {
    let mut world = world(10, 2, Reasons::Noise);
    world.rows.iter_mut().for_each(|row| row.4 = true);
    let examples = world.examples();
    let examples: Vec<&RewardExample<'_>> = examples.iter().collect();
    let train = |folds| {
        let plan = Plan { folds, ..plan(1) };
        let device = ComputeDevice::cpu();
        Judge::train(&examples, &attributes(), &config(), &plan, None, 1, &device).map(|_| ()).unwrap_err().kind()
    };
    assert_eq!(train(1), Kind::Config);
    assert_eq!(train(2), Kind::Input);
}

/// A judge of named users and items, in memory and in a folder, and the gains that it gave in memory.
struct Kept {
    folder: tempfile::TempDir,
    world: World,
    gains: Vec<f64>,
}

fn user_name(user: u32) -> String {
    format!("user {user}")
}

fn item_name(item: u32) -> String {
    format!("item {item}")
}

fn keep() -> Kept {
    let world = world(40, 4, Reasons::Anchored);
    let items: BTreeMap<String, Vec<String>> =
        (0..ITEMS as u32).map(|i| (item_name(i), vec![format!("kind {}", i % 3)])).collect();
    // Of some items no title is known.
    let title = |i: u32| (item_name(i), vec![i as f32 / ITEMS as f32, 1.0, -0.5]);
    let titles = (0..ITEMS as u32).filter(|i| i % 4 != 0).map(title).collect();
    let catalogue = Catalogue::new(&items).unwrap().with_titles(3, &titles).unwrap();
    let past = |p: &Past| Past { item: catalogue.number(&item_name(p.item)), ..*p };
    let histories: Vec<Vec<Past>> = world.histories.iter().map(|h| h.iter().map(past).collect()).collect();
    let example = |(user, item, z, corrupted, label): &'_ Row| -> (u32, u32, Vec<f32>, Vec<f32>, bool) {
        (*user, catalogue.number(&item_name(*item)), z.clone(), corrupted.clone(), *label)
    };
    let rows: Vec<Row> = world.rows.iter().map(example).collect();
    let examples: Vec<RewardExample<'_>> = rows
        .iter()
        .map(|(user, item, z, corrupted, label)| {
            let who = (user_number(&user_name(*user)), *item);
            RewardExample::new(who, &histories[*user as usize], vec![z], vec![corrupted], *label, 100).unwrap()
        })
        .collect();
    let examples: Vec<&RewardExample<'_>> = examples.iter().collect();
    let plan = Plan { unknown: 0.1, ..plan(3) };
    let device = ComputeDevice::cpu();
    let judge = Judge::train(&examples, catalogue.attributes(), &config(), &plan, None, 5, &device).unwrap();
    let gains = judge.judge(&examples, &own(&examples)).unwrap();
    let gains = gains.iter().map(|judged| f64::from(judged[0].gain)).collect();
    let gates = judge.gates(&examples, 50).unwrap();
    let folder = tempfile::tempdir().unwrap();
    SavedJudge::new(judge, catalogue.clone(), "encoder's digest", gates, true)
        .write(&folder.path().join("judge"))
        .unwrap();
    drop(examples);
    Kept { folder, world, gains }
}

impl Kept {
    fn read(&self) -> curec::error::Result<SavedJudge> {
        SavedJudge::read(&self.folder.path().join("judge"), &ComputeDevice::cpu())
    }

    /// Gains of all rows, of which `named` names the items.
    fn gains_of(&self, judge: &SavedJudge, named: impl Fn(u32) -> String) -> Vec<f64> {
        let names: Vec<String> = (0..ITEMS as u32).map(named).collect();
        let users: Vec<String> = (0..self.world.histories.len() as u32).map(user_name).collect();
        let event = |p: &Past| PastEvent { item_id: &names[p.item as usize], liked: p.liked, time: p.time };
        let histories: Vec<Vec<PastEvent<'_>>> =
            self.world.histories.iter().map(|h| h.iter().map(event).collect()).collect();
        let case = |(user, item, z, _, label): &'_ Row| -> (usize, usize, Vec<f32>, bool) {
            (*user as usize, *item as usize, z.clone(), *label)
        };
        let rows: Vec<_> = self.world.rows.iter().map(case).collect();
        let cases: Vec<Case<'_>> = rows
            .iter()
            .map(|(user, item, z, label)| Case {
                user_id: &users[*user],
                item_id: &names[*item],
                history: &histories[*user],
                label: *label,
                time: 100,
                texts: vec![z.as_slice()],
            })
            .collect();
        let gains: Vec<f64> = judge.gains(&cases).unwrap().into_iter().map(|gains| gains[0]).collect();
        let judged = judge.judged(&cases).unwrap();
        for ((case, judged), gain) in cases.iter().zip(&judged).zip(&gains).take(20) {
            assert_eq!(f64::from(judged[0].gain), *gain);
            let scores = judge.without(case, &[case.item_id, "nobody's"]).unwrap();
            assert!((scores[0] - f64::from(judged[0].without)).abs() < 1e-4, "f_0 needs no text");
            let strange = judge.without(case, &["somebody's"]).unwrap();
            assert!((scores[1] - strange[0]).abs() < 1e-4, "unknown items are one item");
        }
        gains
    }
}

#[test]
fn a_judge_that_was_read_judges_as_the_one_that_was_written() {
    let kept = keep();
    let judge = kept.read().unwrap();
    assert_eq!(kept.gains_of(&judge, item_name), kept.gains);
    assert!(kept.gains.iter().any(|gain| *gain != 0.0));
    assert_eq!(judge.encoder(), "encoder's digest");
    assert_eq!(judge.catalogue().len(), ITEMS);
    let before = digest(&kept.folder.path().join("judge")).unwrap();
    judge.write(&kept.folder.path().join("judge")).unwrap();
    assert_eq!(digest(&kept.folder.path().join("judge")).unwrap(), before, "the same weights have the same digest");
    std::fs::create_dir_all(kept.folder.path().join("mine/own")).unwrap();
    assert_eq!(judge.write(&kept.folder.path().join("mine")).unwrap_err().kind(), Kind::Usage);
    assert!(kept.folder.path().join("mine/own").exists());
}

#[test]
fn items_that_a_judge_does_not_know_are_one_item() {
    let kept = keep();
    let judge = kept.read().unwrap();
    assert_eq!(judge.catalogue().number("nobody's"), UNKNOWN);
    let strange = kept.gains_of(&judge, |_| "nobody's".into());
    assert_eq!(strange, kept.gains_of(&judge, |item| format!("other {item}")));
    assert!(strange.iter().all(|gain| gain.is_finite()) && strange != kept.gains);
    let none = Case { user_id: "u", item_id: "i", history: &[], label: true, time: 1, texts: Vec::new() };
    assert_eq!(judge.gains(std::slice::from_ref(&none)).unwrap(), [Vec::<f64>::new()]);
    let z = [0.0; WIDTH];
    let late = [PastEvent { item_id: "i", liked: true, time: 1 }];
    let late = Case { history: &late, texts: vec![&z], ..none };
    assert_eq!(judge.gains(&[late]).unwrap_err().kind(), Kind::Input, "a history ends before its case");
}

#[test]
fn a_judge_that_was_changed_on_disk_is_refused() {
    let changes = [
        ("fold-1.safetensors", "bytes"),
        ("fold-0.safetensors", "gone"),
        ("titles.safetensors", "bytes"),
        ("titles.safetensors", "gone"),
        ("judge.json", "item 3"),
    ];
    for (file, change) in changes {
        let kept = keep();
        let path = kept.folder.path().join("judge").join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        match change {
            "gone" => std::fs::remove_file(&path).unwrap(),
            "bytes" => {
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
            name => {
                let text = String::from_utf8(bytes).unwrap();
                assert!(text.contains(name));
                std::fs::write(&path, text.replace(name, "item 333")).unwrap();
            }
        }
        let error = kept.read().map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Model, "{file}");
        assert!(
            error.explain().contains("curec learn reward") && error.explain().contains(file),
            "{}",
            error.explain()
        );
    }
}
