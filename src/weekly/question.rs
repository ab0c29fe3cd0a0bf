//! Questions with the answers that are taught: rows of `alignment_example`, and what their answers may name.
//!
//! Knows the columns of the examples. Knows nothing of where they come from or who learns from them.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;

use crate::columns::{at, column, integers, text, text_lists};
use crate::error::Result;

/// A question with the answer that was taught, or would have been.
pub(crate) struct Question {
    pub(crate) id: String,
    pub(crate) task: String,
    pub(crate) is_held_out: bool,
    pub(crate) prompt: String,
    pub(crate) stem: String,
    pub(crate) answer: String,
    /// Everything that the answer may name.
    pub(crate) evidence: Vec<String>,
    /// Those that tell of what is asked; without what only stands beside it, such as a wrong choice.
    pub(crate) facts: Vec<String>,
    /// Those that are no names but texts of somebody.
    pub(crate) prose: Vec<String>,
    /// Of questions about a user and an item.
    pub(crate) asked: Option<Asked>,
}

/// Of whom and what a question is about that has an outcome.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) user: String,
    pub(crate) item: String,
    /// Whether the user liked the item.
    pub(crate) label: bool,
    /// The moment, in microseconds since 1970; what is known is from before it.
    pub(crate) time: i64,
}

/// What an answer to a question may name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evidence {
    /// What tells of the question.
    pub(crate) facts: Vec<String>,
    /// Those of the facts that are no names but texts of somebody.
    pub(crate) prose: Vec<String>,
    /// What only stands beside it: other choices, a reason that is to be written again.
    pub(crate) beside: Vec<String>,
}

/// The evidence of every row of `alignment_example`. Columns that a table does not have hold nothing.
pub(crate) fn evidence(batch: &RecordBatch) -> Result<Vec<Evidence>> {
    let lists = |names: &[&str]| -> Result<Vec<Vec<Vec<String>>>> {
        let there = names.iter().filter(|name| batch.column_by_name(name).is_some());
        there.map(|name| text_lists(batch, name)).collect()
    };
    let names = lists(&["liked", "disliked", "related", "attributes", "keywords"])?;
    let (prose, beside) = (lists(&["content", "praise", "fault"])?, lists(&["extra"])?);
    let subject = text(batch, "subject")?;
    let of_row = |lists: &[Vec<Vec<String>>], row: usize| -> Vec<String> {
        lists.iter().flat_map(|list| list[row].iter()).filter(|text| !text.is_empty()).cloned().collect()
    };
    let evidence = |row: usize| {
        let (prose, subject) = (of_row(&prose, row), at(&subject, row).map(str::to_owned));
        let facts = of_row(&names, row).into_iter().chain(prose.iter().cloned()).chain(subject);
        Evidence { facts: facts.filter(|text| !text.is_empty()).collect(), prose, beside: of_row(&beside, row) }
    };
    Ok((0..batch.num_rows()).map(evidence).collect())
}

/// Rows of `alignment_example` as questions.
pub(crate) fn questions(rows: &[RecordBatch]) -> Result<Vec<Question>> {
    let mut found = Vec::new();
    for batch in rows {
        let [part, prompt, stem, answer] =
            ["part", "prompt_text", "answer_stem", "answer_text"].map(|name| text(batch, name));
        let (part, prompt, stem, answer) = (part?, prompt?, stem?, answer?);
        let ids = text(batch, "example_id")?;
        let (task, users, items) = (text(batch, "task")?, text(batch, "user_id")?, text(batch, "item_id")?);
        let labels = column(batch, "label", &DataType::Boolean)?.as_boolean().clone();
        let times = integers(batch, "as_of")?;
        let asked = |row: usize| -> Option<Asked> {
            let of_pair = task.value(row) == "pair" && labels.is_valid(row);
            let (user, item) = (at(&users, row)?.to_owned(), at(&items, row)?.to_owned());
            of_pair.then(|| Asked { user, item, label: labels.value(row), time: times.value(row) })
        };
        let mut evidence = evidence(batch)?;
        found.extend((0..batch.num_rows()).map(|row| {
            let Evidence { facts, prose, beside } = std::mem::take(&mut evidence[row]);
            Question {
                id: ids.value(row).to_owned(),
                task: task.value(row).to_owned(),
                is_held_out: part.value(row) == "valid",
                prompt: prompt.value(row).to_owned(),
                stem: stem.value(row).to_owned(),
                answer: answer.value(row).to_owned(),
                evidence: facts.iter().cloned().chain(beside).collect(),
                facts,
                prose,
                asked: asked(row),
            }
        }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    #[test]
    fn evidence_is_read_from_the_columns_that_there_are() {
        use arrow::array::{ArrayRef, ListBuilder, StringArray, StringBuilder};
        let lists = |rows: [&[&str]; 2]| -> ArrayRef {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for row in rows {
                row.iter().for_each(|text| lists.values().append_value(text));
                lists.append(true);
            }
            Arc::new(lists.finish())
        };
        let old: [(&str, ArrayRef); 3] = [
            ("subject", Arc::new(StringArray::from(vec![Some("Alpha"), None]))),
            ("liked", lists([&["Beta"], &[""]])),
            ("extra", lists([&["Gamma"], &[]])),
        ];
        let found = evidence(&RecordBatch::try_from_iter(old.clone()).unwrap()).unwrap();
        assert_eq!(
            (found[0].facts.as_slice(), found[0].beside.as_slice()),
            (&["Beta".into(), "Alpha".into()][..], &["Gamma".into()][..])
        );
        assert!(found[1].facts.is_empty() && found[0].prose.is_empty());
        let new = [("praise", lists([&["so warm"], &[]])), ("keywords", lists([&["heist"], &["space"]]))];
        let found = evidence(&RecordBatch::try_from_iter(old.into_iter().chain(new)).unwrap()).unwrap();
        assert_eq!(found[0].facts, ["Beta", "heist", "so warm", "Alpha"]);
        assert_eq!(
            (found[0].prose.as_slice(), found[1].facts.as_slice()),
            (&["so warm".into()][..], &["space".into()][..])
        );
    }
}
