//! The rows of a stage's files: every answer with its worths, for people, and the choices for items' reasons, for nights.
//!
//! Knows what was measured and the contract of `item_choice`; knows nothing of how it was measured.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use chrono::{DateTime, Utc};

use crate::error::{Context, Kind, Result};
use crate::night::tables::CHOICE;
use crate::table::contract::Contract;
use crate::weekly::worth_answers::{Answer, Answers};
use crate::weekly::worth_data::Item;
use crate::weekly::worth_fit::{ChosenText, Measured};
use crate::worth::correction::{Choice, ItemChoice};
use crate::worth::gates::Judged;
use crate::worth::whose::Whose;

/// Every answer with its worths, for people: columns item_id, or of histories user_id, sample, reason, accepted, refusal,
/// is_chosen, and in nats worth, worth_of_choosing_half, worth_of_other_half, worth_of_next_block.
///
/// # Errors
/// `Kind::Internal` where the parts do not fit together.
pub(super) fn worths(whose: Whose, items: &[Item], answers: &Answers, measured: &Measured) -> Result<RecordBatch> {
    let id = if whose == Whose::Items { "item_id" } else { "user_id" };
    let chosen: BTreeSet<usize> = measured.places.iter().copied().collect();
    let all = || answers.all.iter();
    let nats = |of: &dyn Fn(&Judged) -> Option<f64>| -> ArrayRef {
        Arc::new(measured.judged.iter().map(|one| one.as_ref().and_then(of)).collect::<Float64Array>())
    };
    let ids = all().map(|answer| items.get(answer.item).map(|item| item.id.as_str()));
    let columns: [(&str, ArrayRef); 10] = [
        (id, Arc::new(ids.collect::<StringArray>())),
        ("sample", Arc::new(all().map(|answer| Some(answer.sample as i64)).collect::<Int64Array>())),
        ("reason", Arc::new(all().map(|answer| answer.reason.as_deref()).collect::<StringArray>())),
        ("accepted", Arc::new(all().map(|answer| Some(answer.accepted().is_some())).collect::<BooleanArray>())),
        ("refusal", Arc::new(all().map(|answer| answer.refusal.map(|why| why.as_str())).collect::<StringArray>())),
        (
            "is_chosen",
            Arc::new((0..answers.all.len()).map(|place| Some(chosen.contains(&place))).collect::<BooleanArray>()),
        ),
        ("worth", nats(&|one| Some(one.worth))),
        ("worth_of_choosing_half", nats(&|one| one.halves[0])),
        ("worth_of_other_half", nats(&|one| one.halves[1])),
        ("worth_of_next_block", nats(&|one| one.later)),
    ];
    let columns = columns.map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).context(Kind::Internal, || "a table of worths".into())
}

/// A choice as it is written: the item, what was chosen for it, and the answer that is the text.
struct Row<'a> {
    item: &'a Item,
    chosen: &'static str,
    answer: Option<&'a Answer>,
    of: &'a ItemChoice,
}

impl<'a> Row<'a> {
    fn new(items: &'a [Item], answers: &'a Answers, chosen: &'a ChosenText) -> Option<Self> {
        let published = || answers.nights.get(chosen.item).and_then(Option::as_ref);
        let (name, answer) = match chosen.of.choice {
            Choice::Current => ("reason", published()),
            Choice::Evidence => ("evidence", None),
            Choice::Rewrite(_) => ("rewrite", Some(answers.all.get(chosen.rewrite?)?)),
        };
        Some(Row { item: items.get(chosen.item)?, chosen: name, answer, of: &chosen.of })
    }
}

/// Rows of `item_choice`, by item: what is to stand in the place of items' reasons from `end` on.
///
/// # Errors
/// `Kind::Internal` where the rows do not fit the contract.
pub(super) fn choices(
    items: &[Item],
    answers: &Answers,
    chosen: &[ChosenText],
    end: DateTime<Utc>,
) -> Result<RecordBatch> {
    let mut rows: Vec<Row<'_>> = chosen.iter().filter_map(|one| Row::new(items, answers, one)).collect();
    rows.sort_by(|a, b| a.item.id.cmp(&b.item.id));
    let texts = |of: &dyn Fn(&Row<'_>) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<StringArray>())
    };
    let numbers =
        |of: &dyn Fn(&Row<'_>) -> Option<f64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Float64Array>()) };
    let counts =
        |of: &dyn Fn(&Row<'_>) -> Option<i64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Int64Array>()) };
    let ends = TimestampMicrosecondArray::from(vec![end.timestamp_micros(); rows.len()]).with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        texts(&|row| Some(row.item.id.clone())),
        texts(&|row| Some(row.item.prompt_key.clone())),
        texts(&|row| Some(row.chosen.to_owned())),
        texts(&|row| row.answer?.reason.clone()),
        texts(&|row| row.answer?.finish.clone()),
        numbers(&|row| row.answer?.logprob_sum),
        counts(&|row| Some(row.answer?.completion_tokens)),
        Arc::new(ends),
        numbers(&|row| Some(row.of.worth[0])),
        numbers(&|row| Some(row.of.worth[1])),
        numbers(&|row| Some(row.of.gain[0])),
        numbers(&|row| Some(row.of.gain[1])),
        counts(&|row| i64::try_from(row.of.events).ok()),
    ];
    let schema = Contract::builtin(CHOICE)?.arrow_schema(None);
    RecordBatch::try_new(schema, columns).context(Kind::Internal, || "choices do not fit item_choice".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::AsArray;

    use super::*;
    use crate::generate::prompt::Evidence;
    use crate::table::bad_rows::BadRows;
    use crate::table::input::{InputReader, open_input};
    use crate::table::store::Location;
    use crate::table::write::write_local;

    #[tokio::test]
    async fn choices_are_written_under_their_contract_by_item() {
        let item = |id: &str| Item {
            id: id.into(),
            evidence: Evidence::default(),
            prompt: String::new(),
            stem: String::new(),
            prompt_key: format!("key of {id}"),
            said: String::new(),
        };
        let answer = |item: usize, reason: &str| Answer {
            item,
            sample: 0,
            text: Some(reason.into()),
            reason: Some(reason.into()),
            refusal: None,
            finish: Some("stop".into()),
            logprob_sum: Some(-1.5),
            completion_tokens: 3,
        };
        let items = [item("d"), item("c"), item("b"), item("a")];
        let answers = Answers {
            all: vec![answer(0, "Better d."), answer(1, "Other c.")],
            nights: vec![Some(answer(0, "Good d.")), Some(answer(1, "Good c.")), Some(answer(2, "Bad b.")), None],
            ..Answers::default()
        };
        let chosen = |item: usize, choice: Choice, rewrite: Option<usize>| {
            let of = ItemChoice { choice, worth: [0.5, 0.25], gain: [0.75, 0.125], events: 9 };
            ChosenText { item, rewrite, of }
        };
        let all = [
            chosen(0, Choice::Rewrite(0), Some(0)),
            chosen(1, Choice::Current, None),
            chosen(2, Choice::Evidence, None),
            chosen(3, Choice::Current, None),
        ];
        let end = DateTime::<Utc>::from_timestamp_micros(7).unwrap();
        let rows = choices(&items, &answers, &all, end).unwrap();
        let column = |name: &str| -> Vec<Option<String>> {
            let texts = rows.column_by_name(name).unwrap().as_string::<i32>().clone();
            texts.iter().map(|text| text.map(str::to_owned)).collect()
        };
        let some = |texts: [&str; 4]| texts.map(|text| (!text.is_empty()).then(|| text.to_owned())).to_vec();
        assert_eq!(column("item_id"), some(["a", "b", "c", "d"]));
        assert_eq!(column("prompt_key"), some(["key of a", "key of b", "key of c", "key of d"]));
        // What nights say stands, and where they say nothing now a later reason may.
        assert_eq!(column("chosen"), some(["reason", "evidence", "reason", "rewrite"]));
        assert_eq!(column("reason"), some(["", "", "Good c.", "Better d."]));
        assert_eq!(column("finish"), some(["", "", "stop", "stop"]));

        // A night finds nothing wrong with it.
        let folder = tempfile::tempdir().unwrap();
        let (path, contract) = (folder.path().join("item_choice.parquet"), Contract::builtin(CHOICE).unwrap());
        write_local(&path, &[rows]).unwrap();
        let input = open_input(&contract, &Location::parse(path.to_str().unwrap()).unwrap()).await.unwrap();
        let mut reader = InputReader::open(&contract, &input, &input.files[0]).await.unwrap();
        let mut bad = BadRows::new(&contract);
        assert_eq!(reader.next_good(&mut bad).await.unwrap().unwrap().num_rows(), 4);
        bad.within(0.0).unwrap();
    }
}
