//! A teacher's answers in place of the templates': filtered as a model's own would be.
//!
//! Knows questions and answers; who the teacher was it does not know, and it asks nobody: [`crate::weekly::teacher_endpoint`]
//! does. A file of answers is Parquet with the columns
//! `example_id` (as in `alignment_example.parquet`) and `answer_text` (with or without the stem). An answer is taken when it
//! is in the format, its reason names nothing but the question's evidence, and its verdict is the template's; else the
//! template's own answer stays, and the account says why. Only questions that train are answered anew: held-out ones keep
//! the templates' answers, so that losses and measures of different teachers compare.

use std::collections::HashMap;
use std::path::Path;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};

use crate::columns::{at, text};
use crate::error::{Context, Error, Kind, Result};
use crate::generate::format;
use crate::reward::checks::{self, Vocabulary};

/// What became of a teacher's answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Answers that there are.
    pub given: usize,
    /// Those that train.
    pub taken: usize,
    /// Answers to questions that there are not, or that are held out; and all but the last one to a question.
    pub unasked: usize,
    /// Refused: not in the format.
    pub broken: usize,
    /// Refused: the reason names what the evidence does not hold.
    pub ungrounded: usize,
    /// Refused: not the template's verdict.
    pub wrong: usize,
    /// Questions that an endpoint did not want to answer.
    #[serde(default)]
    pub unanswered: usize,
    /// Tokens of the questions, as an endpoint counts them, over all runs.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// And of the answers.
    #[serde(default)]
    pub completion_tokens: u64,
}

/// A question that trains.
#[derive(Debug)]
pub struct Taught<'a> {
    /// Its `example_id`.
    pub id: &'a str,
    /// With this the answer begins.
    pub stem: &'a str,
    /// Everything that the answer may name.
    pub evidence: &'a [String],
    /// The template's answer, stem left out.
    pub answer: &'a mut String,
}

/// The answers in a file, by `example_id`, and how many rows had one.
///
/// # Errors
/// `Kind::Config` where there is no such file; `Kind::Input` where it is none of these.
pub fn read(path: &Path) -> Result<(HashMap<String, String>, usize)> {
    let broken = |what: &str| Error::new(Kind::Input, what.to_owned()).with("file", path.display());
    let hint = "it needs the text columns example_id and answer_text";
    let file = std::fs::File::open(path).map_err(|e| {
        Error::new(Kind::Config, "cannot read the teacher's answers").with("file", path.display()).source(e)
    })?;
    let rows = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.build())
        .map_err(|e| broken("the teacher's answers are no Parquet file").source(e))?;
    let (mut found, mut given) = (HashMap::new(), 0);
    for batch in rows {
        let batch = batch.context(Kind::Input, || format!("cannot read rows of `{}`", path.display()))?;
        if let Some(missing) = ["example_id", "answer_text"].iter().find(|name| batch.column_by_name(name).is_none()) {
            return Err(broken("the teacher's answers lack a column").with("column", missing).hint(hint));
        }
        let (ids, answers) = (text(&batch, "example_id")?, text(&batch, "answer_text")?);
        for row in 0..batch.num_rows() {
            if let (Some(id), Some(answer)) = (at(&ids, row), at(&answers, row)) {
                given += 1;
                found.insert(id.to_owned(), answer.to_owned());
            }
        }
    }
    Ok((found, given))
}

/// Puts the teacher's answers where the templates' stood, as far as they pass.
pub fn teach<'a>(
    questions: impl Iterator<Item = Taught<'a>>,
    answers: &HashMap<String, String>,
    given: usize,
    vocabulary: &Vocabulary,
) -> Account {
    let mut account = Account { given, ..Account::default() };
    for question in questions {
        let Some(answer) = answers.get(question.id) else { continue };
        let answer = answer.trim();
        let answer = answer.strip_prefix(question.stem).unwrap_or(answer);
        let [said, taught] = [answer, question.answer.as_str()].map(|text| format!("{}{text}", question.stem));
        let evidence: Vec<&str> = question.evidence.iter().map(String::as_str).collect();
        let verdict = format::parse(&taught).ok().and_then(|t| t.verdict);
        match format::parse(&said) {
            Err(_) => account.broken += 1,
            Ok(said) if said.verdict != verdict => account.wrong += 1,
            Ok(said) if checks::grounding(said.reason, &evidence, vocabulary) < 1.0 => account.ungrounded += 1,
            Ok(_) => {
                account.taken += 1;
                *question.answer = answer.to_owned();
            }
        }
    }
    account.unasked = given - account.taken - account.broken - account.ungrounded - account.wrong;
    account
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::table::write::write_local;
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use std::sync::Arc;

    const TEMPLATE: &str = "Alpha goes with it</think><reason>The user likes Alpha.</reason><verdict>yes</verdict>";

    fn answer(reason: &str, verdict: &str) -> String {
        format!("so</think><reason>{reason}</reason><verdict>{verdict}</verdict>")
    }

    #[test]
    fn only_what_passes_replaces_a_template() {
        let good = answer("Who likes Alpha likes drama.", "yes");
        let answers = [
            ("good", good.clone()),
            ("stem", format!("<think>{good}")),
            ("held", good.clone()),
            ("nobody", good.clone()),
            ("broken", "It is good.".into()),
            ("wrong", answer("Who likes Alpha likes drama.", "no")),
            ("silent", "so</think><reason>Who likes Alpha likes drama.</reason>".into()),
            ("invented", answer("Who likes Omega likes horror.", "yes")),
        ];
        let rows: [(&str, ArrayRef); 2] = [
            ("example_id", Arc::new(StringArray::from_iter_values(answers.iter().map(|(id, _)| *id)))),
            ("answer_text", Arc::new(StringArray::from_iter_values(answers.iter().map(|(_, text)| text)))),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("teacher.parquet");
        write_local(&path, &[RecordBatch::try_from_iter(rows).unwrap()]).unwrap();
        let (answers, given) = read(&path).unwrap();
        let ids = ["good", "stem", "broken", "wrong", "silent", "invented", "other"];
        let evidence: Vec<String> = ["Alpha", "Beta", "Drama"].map(str::to_owned).into();
        let mut taught = vec![TEMPLATE.to_owned(); ids.len()];
        let questions = ids.iter().zip(&mut taught);
        let questions = questions.map(|(id, answer)| Taught { id, stem: "<think>", evidence: &evidence, answer });
        let account = teach(questions, &answers, given, &Vocabulary::new(["Drama", "Horror"]));
        let expected =
            Account { given: 8, taken: 2, unasked: 2, broken: 1, ungrounded: 1, wrong: 2, ..Account::default() };
        assert_eq!(account, expected);
        for (id, answer) in ids.iter().zip(&taught) {
            assert_eq!(answer, if ["good", "stem"].contains(id) { &good } else { TEMPLATE }, "{id}");
        }
    }

    #[test]
    fn what_is_no_teachers_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(&folder.path().join("none")).unwrap_err().to_string().contains("teacher"));
        let path = folder.path().join("other.parquet");
        let rows: [(&str, ArrayRef); 1] = [("id", Arc::new(StringArray::from(vec!["a"])))];
        write_local(&path, &[RecordBatch::try_from_iter(rows).unwrap()]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("example_id"));
        std::fs::write(&path, "no").unwrap();
        assert!(read(&path).is_err());
    }
}
