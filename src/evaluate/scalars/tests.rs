//! Scalar columns from rows to what a recommender is told.

#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float32Array, Int32Array, StringArray};

use super::*;
use crate::evaluate::arm::Arm;
use crate::evaluate::arms::tests::{data, log};
use crate::evaluate::arms::{Data, Texts, content};
use crate::evaluate::results::arm_text;
use crate::recommend::split::temporal;

/// A table with a column of every kind.
fn contract() -> Contract {
    let column = |name: &str, kind: &str, more: &str| {
        format!("[[column]]\nname = \"{name}\"\ntype = \"{kind}\"\nnullable = {more}\n")
    };
    let columns = [
        column("id", "utf8", "false"),
        column("made", "timestamp_us", "false"),
        column("n", "int32", "false"),
        column("vector", "vector", "false"),
        column("share", "float32", "true"),
        column("flag", "bool", "false"),
        column("note", "utf8", "true"),
        column("kind", "utf8", "true\nvalues = [\"a\", \"b\"]"),
    ];
    let head = "name = \"t\"\nversion = \"1.0\"\nrole = \"derived\"\ngrain = [\"id\"]\nsorted_by = [\"id\"]\n";
    Contract::parse(&format!("{head}{}", columns.concat()), "t.toml").unwrap()
}

#[test]
fn columns_become_values_as_their_contract_says() {
    let scalars = Scalars::of(&contract());
    let names: Vec<&str> = scalars.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["n", "share", "flag", "kind"], "keys, moments, vectors and free texts are none");
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from(vec!["x", "y", "z"])) as ArrayRef),
        ("kind", Arc::new(StringArray::from(vec![Some("b"), None, Some("a")]))),
        ("n", Arc::new(Int32Array::from(vec![0, 7, 1]))),
        ("flag", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ("share", Arc::new(Float32Array::from(vec![Some(0.5), None, Some(f32::NAN)]))),
    ])
    .unwrap();
    let (of_7, of_1) = (8.0_f64.ln() as f32, 2.0_f64.ln() as f32);
    let expected = [
        [0.0, 0.5, 0.0, 1.0, 0.0, 1.0, 0.0],
        [of_7, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        [of_1, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0],
    ];
    let found = scalars.rows(&batch).unwrap();
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [7, 7, 7], "one width, whatever the rows hold");
    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
    assert!(found.iter().zip(&expected).all(|(a, b)| a.iter().zip(b).all(near)), "{found:?}");
    assert!(scalars.rows(&batch.slice(0, 0)).unwrap().is_empty());
    let lacking = RecordBatch::try_from_iter([("n", batch.column(2).clone())]).unwrap();
    assert!(scalars.rows(&lacking).unwrap_err().to_string().contains("share"));
}

#[test]
fn features_of_items_have_these_scalar_columns() {
    let scalars = Scalars::of(&Contract::builtin("item_feature").unwrap());
    let widths: Vec<(&str, usize)> = scalars.columns.iter().map(|c| (c.name.as_str(), c.width())).collect();
    assert_eq!(widths, [("n_reasons", 1), ("mean_score", 2), ("missing", 1), ("source", 5)]);
    // As nights without reasons publish: all items but one have evidence.
    let row = |missing: bool| {
        let (is, is_not) = (f32::from(missing), f32::from(!missing));
        Some(vec![0.0, 0.0, 1.0, is, 0.0, is_not, is, 0.0, 0.0])
    };
    let rows: ItemVectors = vec![row(false), row(false), None, row(true)];
    let told = scalars.told(&rows, &|_| true);
    assert!(told.contains("differ in missing, source, and not in n_reasons, mean_score"), "{told}");
    let told = scalars.told(&rows, &|item| item < 3);
    assert!(told.contains("differ in nothing"), "what training never met does not count: {told}");
}

#[test]
fn rows_of_every_moment_are_standardised_by_what_training_had_at_the_origin() {
    // The last item is not learned from; the second place is the same for all that are.
    let first: ItemVectors =
        vec![Some(vec![1.0, 0.1, 0.0]), Some(vec![3.0, 0.1, 0.0]), None, Some(vec![5.0, 0.1, 1.0]), Some(vec![9e9; 3])];
    let later: ItemVectors =
        vec![Some(vec![3.0, 7.0, 1.0]), None, Some(vec![4.0, 0.1, 0.0]), None, Some(vec![-9e9; 3])];
    let found = standardised(&[&first, &later], &|item| item < 4).unwrap();
    let [now, then] = &found[..] else { unreachable!("two moments") };
    assert_eq!((now.width(), now.len(), then.width(), then.len()), (3, 5, 3, 5));
    let there = |vectors: &Vectors| (0..5).map(|item| vectors.has(item)).collect::<Vec<_>>();
    assert_eq!(there(now), [true, true, false, true, true]);
    assert_eq!(there(then), [true, false, true, false, true]);
    for place in [0, 2] {
        let values: Vec<f64> = [0, 1, 3].map(|item| f64::from(now.row(item)[place])).into();
        let (sum, squares) = (values.iter().sum::<f64>(), values.iter().map(|x| x * x).sum::<f64>());
        assert!(sum.abs() < 1e-5 && (squares / 3.0 - 1.0).abs() < 1e-5, "{values:?}");
    }
    // The mean of 1, 3 and 5 is 3, their deviation the root of 8 / 3.
    let near = |a: f32, b: f64| (f64::from(a) - b).abs() < 1e-5;
    let deviation = (8.0_f64 / 3.0).sqrt();
    assert!(near(then.row(0)[0], 0.0) && near(then.row(2)[0], 1.0 / deviation), "{found:?}");
    assert!(then.row(0)[2] > 1.0 && then.row(0)[2] == now.row(3)[2], "{found:?}");
    let same = |vectors: &Vectors| (0..5).all(|item| vectors.row(item)[1] == 0.0);
    assert!(same(now) && same(then), "of what never differed nothing was learned: {found:?}");
    assert_eq!((now.row(4)[0], then.row(4)[0]), (10.0, -10.0), "what lies far away counts as 10");

    // Nobody to learn from, and nothing published.
    let nobody = standardised(&[&first, &later], &|_| false).unwrap();
    assert!((0..5).all(|item| nobody[1].row(item) == [0.0; 3]));
    let nothing: ItemVectors = vec![None; 5];
    assert_eq!(standardised(&[&nothing], &|_| true).unwrap()[0].width(), 1);
}

#[test]
fn they_are_told_alone_and_beside_the_evidence_as_of_every_moment() {
    const ARMS: [Arm; 4] = [Arm::NoText, Arm::Evidence, Arm::Scalars, Arm::ScalarsBeside];
    let split = temporal(&log(), 0.6, 0.9).unwrap();
    let mut data: Data<'_> = data(&split);
    data.arms = &ARMS;
    let (items, from) = (split.train_counts().len(), split.test_from());
    let evidence = data.origins[0].texts[&Arm::Attributes].first.clone();
    let texts = Texts { first: evidence.clone(), later: vec![(from, evidence)] };
    data.origins[0].texts.insert(Arm::Evidence, texts);
    let told = |arm, data: &Data<'_>| content(arm, data, 0, 0);
    assert!(told(Arm::Evidence, &data).is_ok());
    assert!(ARMS[2..].iter().all(|arm| told(*arm, &data).is_err()), "no night was read");

    // An item without evidence has a row that says so, and another one gets it later.
    let row = |item: usize, of: usize| Some(vec![item as f32, f32::from(item == of)]);
    let rows = |of: usize| (0..items).map(|item| row(item, of)).collect::<ItemVectors>();
    let scalars = Texts { first: rows(5), later: vec![(from, rows(6))] };
    data.origins[0].texts.insert(Arm::Scalars, scalars);
    let [evidence, alone, both] =
        [Arm::Evidence, Arm::Scalars, Arm::ScalarsBeside].map(|arm| told(arm, &data).unwrap());
    let moments = |told: &crate::evaluate::arms::Told| -> Vec<Vectors> {
        let later = told.later.iter().map(|(_, told)| told.vectors.clone());
        told.content.items.iter().cloned().chain(later).collect()
    };
    let [evidence, alone, both] = [&evidence, &alone, &both].map(moments);
    assert_eq!((evidence.len(), alone.len(), both.len()), (2, 2, 2));
    for moment in 0..2 {
        let beside = |item: usize| [evidence[moment].row(item), alone[moment].row(item)].concat();
        assert!((0..items).all(|item| both[moment].row(item) == beside(item) && both[moment].has(item)));
    }
    assert!(!evidence[0].has(5) && alone[0].has(5) && alone[0].width() == 2);
    let flag = |moment: usize, item: usize| alone[moment].row(item)[1];
    assert!(flag(0, 5) > 1.0 && flag(1, 6) == flag(0, 5) && flag(1, 5) == flag(0, 6), "by the origin's deviation");

    // Rows of other moments are not taken for those of these.
    data.origins[0].texts.get_mut(&Arm::Scalars).unwrap().later[0].0 += 1;
    assert!(told(Arm::ScalarsBeside, &data).is_err() && told(Arm::Scalars, &data).is_ok());
}

#[test]
fn their_arms_have_names_and_nights_of_the_evidence() {
    let arms = [Arm::NoText, Arm::Random, Arm::Evidence, Arm::Scalars, Arm::ScalarsBeside];
    assert_eq!([Arm::Scalars, Arm::ScalarsBeside].map(Arm::code), ["A2x", "A2rx"]);
    assert!(["A2x", "A2rx"].iter().all(|arm| arm_text(arm) != arm_text("?")));
    let of = |arm: Arm| (arm.texts_of(&arms), arm.histories_of(&arms));
    assert_eq!(of(Arm::ScalarsBeside), of(Arm::Evidence));
    assert_eq!(of(Arm::Scalars), (Some(Arm::Scalars), Some(Arm::Attributes)));
    assert_eq!(of(Arm::Random).0, Some(Arm::Evidence));
    assert_eq!(Arm::Random.texts_of(&[Arm::NoText, Arm::Scalars]), Some(Arm::Attributes), "numbers are no texts");
    assert!(Arm::Scalars.is_published() && !Arm::Scalars.is_text() && !Arm::ScalarsBeside.is_published());
    let is_in = |arm: Arm| Arm::ALL.iter().filter(|one| **one == arm).count() == 1;
    assert!(is_in(Arm::Scalars) && is_in(Arm::ScalarsBeside));
}
