//! A teacher's answers in place of the templates': asked for in one way, filtered as a model's own would be.
//!
//! Knows the kinds of teachers by their names, the question as it is put to one, and what an answer is worth; it asks nobody:
//! [`crate::weekly::teacher_endpoint`] and [`crate::weekly::teacher_model`] do. A file of answers is Parquet with the columns
//! `example_id` (as in `alignment_example.parquet`) and `answer_text` (with or without the stem). An answer is taken when it
//! is in the format, its reason names nothing but the question's evidence and copies no long run of it, and its verdict is the
//! template's; of several the most specific one, see [`crate::weekly::specificity`]. Else the template's own answer stays, and
//! the account says why. Only questions that train are answered anew: held-out ones keep the templates' answers, so that losses
//! and measures of different teachers compare.
//!
//! Of a question with an outcome a teacher is told the outcome: what it writes is learned from and never becomes a feature,
//! so a hint is no leak (Reason4Rec does the same). Titles are data: whatever they say, an answer counts only if it passes.

use std::collections::HashMap;
use std::path::Path;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};

use crate::columns::{at, text};
use crate::config::is_address;
use crate::error::{Context, Error, Kind, Result};
use crate::generate::format;
use crate::reward::checks;
use crate::reward::names::Vocabulary;
use crate::weekly::specificity::{self, COPIED, Rarity, specificity};

/// The format's tags, about which white space says nothing.
const TAGS: [&str; 6] = ["<think>", "</think>", "<reason>", "</reason>", "<verdict>", "</verdict>"];

/// What `[align] teacher` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// The address of an OpenAI-compatible endpoint.
    Endpoint(&'a str),
    /// A Parquet file of answers.
    File(&'a Path),
    /// A model that curec runs: a GGUF file, a Hugging Face directory, or the URL of one of these.
    Model(&'a str),
}

impl Source<'_> {
    /// An address is an endpoint, a name that ends in `.parquet` a file of answers, and everything else a model: a `.gguf`
    /// file, a folder with a `config.json`, or a URL, which is looked at when it is fetched.
    ///
    /// # Errors
    /// `Kind::Config` where it is none of these.
    pub fn of(teacher: &str) -> Result<Source<'_>> {
        if is_address(teacher) {
            return Ok(Source::Endpoint(teacher));
        }
        let (path, lower) = (Path::new(teacher), teacher.to_ascii_lowercase());
        if lower.ends_with(".parquet") {
            return Ok(Source::File(path));
        }
        let is_model = match teacher.contains("://") {
            true => true,
            false => (lower.ends_with(".gguf") && path.is_file()) || path.join("config.json").is_file(),
        };
        if is_model {
            return Ok(Source::Model(teacher));
        }
        Err(Error::new(Kind::Config, "[align] teacher is none that is known").with("teacher", teacher).hint(
            "name a model (a .gguf file that is there, a folder with config.json, or the URL of one), a .parquet file \
                   of answers, or the http(s) address of an endpoint",
        ))
    }
}

/// A question as it is put to a teacher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its `example_id`.
    pub id: String,
    /// What the model is asked.
    pub prompt: String,
    /// With this the answer begins.
    pub stem: String,
    /// The outcome, where the answer ends in a verdict.
    pub verdict: Option<bool>,
}

impl Asked {
    /// The question's words: what the model is asked, the format, and the outcome.
    pub fn text(&self) -> String {
        let verdict = match self.verdict {
            None => String::new(),
            Some(liked) => format!("<verdict>{}</verdict>", if liked { "yes" } else { "no" }),
        };
        format!(
            "{}\n\nAnswer in one line, in exactly this format:\n<think>at most 30 words of notes</think><reason>one sentence of \
             at most 40 words</reason>{verdict}\nThe reason names only titles and categories that stand in the lines above, \
             as they stand there, and tells why in its own words.",
            self.prompt
        )
    }

    /// The tag with which an answer in the format ends.
    pub fn last_tag(&self) -> &'static str {
        if self.verdict.is_some() { "</verdict>" } else { "</reason>" }
    }
}

/// What a teacher said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// By `example_id`; several to a question in their order.
    pub texts: HashMap<String, Vec<String>>,
    /// Answers that there are.
    pub given: usize,
    /// Questions without an answer.
    pub unanswered: usize,
    /// Tokens of all questions, asked now or before, as the teacher counts them.
    pub prompt_tokens: u64,
    /// And of the answers.
    pub completion_tokens: u64,
    /// Time spent asking over all runs, in microseconds.
    pub micros: u64,
}

/// What became of a teacher's answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// Answers that there are.
    pub given: usize,
    /// Those that train.
    pub taken: usize,
    /// Answers to questions that there are not, or that are held out; and of a file all but the last one to a question.
    pub unasked: usize,
    /// Refused: not in the format.
    pub broken: usize,
    /// Refused: the reason names what the evidence does not hold.
    pub ungrounded: usize,
    /// Refused: not the template's verdict.
    pub wrong: usize,
    /// Refused: the reason repeats a long run of words of the evidence.
    #[serde(default)]
    pub copied: usize,
    /// They pass, and another answer to the same question is no less specific.
    #[serde(default)]
    pub surpassed: usize,
    /// Questions that an endpoint refused, or that a model could not answer.
    #[serde(default)]
    pub unanswered: usize,
    /// Tokens of the questions, as the teacher counts them, over all runs.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// And of the answers.
    #[serde(default)]
    pub completion_tokens: u64,
    /// Seconds spent asking, over all runs.
    #[serde(default)]
    pub seconds: f64,
    /// Mean answers to a question that has one.
    #[serde(default)]
    pub answers_per_question: f64,
    /// Mean specificity of the reasons that are taught in place of a template's; none where there are none.
    #[serde(default)]
    pub specificity: Option<f64>,
    /// And of the templates' reasons to the same questions.
    #[serde(default)]
    pub template_specificity: Option<f64>,
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
    /// What the evidence tells of the question: what only stands beside it, such as a wrong choice, is left out.
    pub facts: &'a [String],
    /// Texts of the evidence that are no names: what is not to be copied.
    pub prose: &'a [String],
    /// The template's answer, stem left out.
    pub answer: &'a mut String,
}

/// Why an answer is not taught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Broken,
    Wrong,
    Ungrounded,
    Copied,
}

/// The answers in a file.
///
/// # Errors
/// `Kind::Config` where there is no such file; `Kind::Input` where it is none of these.
pub fn read(path: &Path) -> Result<Answers> {
    let broken = |what: &str| Error::new(Kind::Input, what.to_owned()).with("file", path.display());
    let hint = "it needs the text columns example_id and answer_text";
    let file = std::fs::File::open(path).map_err(|e| {
        Error::new(Kind::Config, "cannot read the teacher's answers").with("file", path.display()).source(e)
    })?;
    let rows = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.build())
        .map_err(|e| broken("the teacher's answers are no Parquet file").source(e))?;
    let mut found = Answers::default();
    for batch in rows {
        let batch = batch.context(Kind::Input, || format!("cannot read rows of `{}`", path.display()))?;
        if let Some(missing) = ["example_id", "answer_text"].iter().find(|name| batch.column_by_name(name).is_none()) {
            return Err(broken("the teacher's answers lack a column").with("column", missing).hint(hint));
        }
        let (ids, answers) = (text(&batch, "example_id")?, text(&batch, "answer_text")?);
        for row in 0..batch.num_rows() {
            if let (Some(id), Some(answer)) = (at(&ids, row), at(&answers, row)) {
                found.given += 1;
                found.texts.insert(id.to_owned(), vec![answer.to_owned()]);
            }
        }
    }
    Ok(found)
}

/// Puts the teacher's answers where the templates' stood, as far as they pass: of each question the most specific one, of
/// equals the first.
pub fn teach<'a>(questions: impl Iterator<Item = Taught<'a>>, answers: &Answers, vocabulary: &Vocabulary) -> Account {
    let questions: Vec<Taught<'a>> = questions.collect();
    let rarity = Rarity::of(questions.iter().map(|question| question.facts));
    let mut account = Account {
        given: answers.given,
        unanswered: answers.unanswered,
        prompt_tokens: answers.prompt_tokens,
        completion_tokens: answers.completion_tokens,
        seconds: answers.micros as f64 / 1e6,
        answers_per_question: answers.given as f64 / answers.texts.len().max(1) as f64,
        ..Account::default()
    };
    let (mut taught, mut templates) = (0.0, 0.0);
    for question in questions {
        let Some(said) = answers.texts.get(question.id) else { continue };
        let worth = |answer: &str| {
            let whole = format!("{}{answer}", question.stem);
            format::parse(&whole).map_or(0.0, |parts| specificity(parts.reason, question.facts, &rarity))
        };
        let (mut best, mut passed): (Option<(f64, String)>, usize) = (None, 0);
        for answer in said {
            match pass(&question, answer, vocabulary) {
                Err(Refused::Broken) => account.broken += 1,
                Err(Refused::Wrong) => account.wrong += 1,
                Err(Refused::Ungrounded) => account.ungrounded += 1,
                Err(Refused::Copied) => account.copied += 1,
                Ok(answer) => {
                    passed += 1;
                    let worth = worth(&answer);
                    if best.as_ref().is_none_or(|(most, _)| worth > *most) {
                        best = Some((worth, answer));
                    }
                }
            }
        }
        account.surpassed += passed.saturating_sub(1);
        if let Some((most, answer)) = best {
            account.taken += 1;
            taught += most;
            templates += worth(question.answer.as_str());
            *question.answer = answer;
        }
    }
    let mean = |sum: f64| (account.taken > 0).then(|| sum / account.taken as f64);
    (account.specificity, account.template_specificity) = (mean(taught), mean(templates));
    let refused = account.broken + account.ungrounded + account.wrong + account.copied;
    account.unasked = account.given.saturating_sub(account.taken + account.surpassed + refused);
    account
}

/// An answer as it is taught, stem left out, or why it is not.
fn pass(question: &Taught<'_>, answer: &str, vocabulary: &Vocabulary) -> Result<String, Refused> {
    let answer = answer.trim();
    let answer = on_one_line(answer.strip_prefix(question.stem).unwrap_or(answer));
    let [said, taught] = [answer.as_str(), question.answer.as_str()].map(|text| format!("{}{text}", question.stem));
    let said = format::parse(&said).map_err(|_| Refused::Broken)?;
    if said.verdict != format::parse(&taught).ok().and_then(|taught| taught.verdict) {
        return Err(Refused::Wrong);
    }
    let evidence: Vec<&str> = question.evidence.iter().map(String::as_str).collect();
    if checks::grounding(said.reason, &evidence, vocabulary) < 1.0 {
        return Err(Refused::Ungrounded);
    }
    if specificity::copies(said.reason, question.prose, COPIED) {
        return Err(Refused::Copied);
    }
    Ok(answer)
}

/// The answer with single spaces and none about tags: models break lines between the parts, which the format does not.
fn on_one_line(answer: &str) -> String {
    let mut line = answer.split_whitespace().collect::<Vec<&str>>().join(" ");
    for tag in TAGS {
        line = line.replace(&format!(" {tag}"), tag).replace(&format!("{tag} "), tag);
    }
    line
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
        let answers = read(&path).unwrap();
        let ids = ["good", "stem", "broken", "wrong", "silent", "invented", "other"];
        let evidence: Vec<String> = ["Alpha", "Beta", "Drama"].map(str::to_owned).into();
        let mut taught = vec![TEMPLATE.to_owned(); ids.len()];
        let questions = ids.iter().zip(&mut taught);
        let questions = questions.map(|(id, answer)| Taught {
            id,
            stem: "<think>",
            evidence: &evidence,
            facts: &evidence,
            prose: &[],
            answer,
        });
        let account = teach(questions, &answers, &Vocabulary::new(["Drama", "Horror"]));
        let expected = Account {
            given: 8,
            taken: 2,
            unasked: 2,
            broken: 1,
            ungrounded: 1,
            wrong: 2,
            answers_per_question: 1.0,
            // All have the same evidence: nothing is specific.
            specificity: Some(0.0),
            template_specificity: Some(0.0),
            ..Account::default()
        };
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

    #[test]
    fn of_several_answers_the_most_specific_one_that_passes_is_taught() {
        let facts = [vec!["Alpha", "Drama", "heists on trains"], vec!["Beta", "Drama"], vec!["Gamma", "Drama"]];
        let facts = facts.map(|texts| texts.into_iter().map(str::to_owned).collect::<Vec<String>>());
        let prose = vec!["It is a tale of nine very old robbers who rob a train at night.".to_owned()];
        let evidence: Vec<String> = facts[0].iter().chain(&prose).cloned().collect();
        let mut taught = vec![TEMPLATE.to_owned(); 3];
        let texts = HashMap::from([
            (
                "a".to_owned(),
                vec![
                    answer("It is a drama that people like.", "yes"),
                    answer("The heists on trains are like Omega.", "yes"),
                    answer("Alpha has heists on trains.", "no"),
                    "<think> notes\n</think>\n<reason> Its heists happen on trains. </reason>\n<verdict>yes</verdict>"
                        .into(),
                    answer("Its heists happen on trains.", "yes"),
                    answer("A tale of nine very old robbers who rob a train, with heists on trains.", "yes"),
                    "no".into(),
                ],
            ),
            ("b".to_owned(), vec![answer("It is like Omega.", "yes")]),
        ]);
        let answers = Answers { texts, given: 8, unanswered: 1, micros: 1_500_000, ..Answers::default() };
        let questions = ["a", "b", "c"].iter().zip(&mut taught).zip(&facts).map(|((id, answer), facts)| Taught {
            id,
            stem: "<think>",
            evidence: &evidence,
            facts,
            prose: &prose,
            answer,
        });
        let account = teach(questions, &answers, &Vocabulary::new(["Drama"]));
        assert_eq!(taught[0], "notes</think><reason>Its heists happen on trains.</reason><verdict>yes</verdict>");
        assert_eq!((taught[1].as_str(), taught[2].as_str()), (TEMPLATE, TEMPLATE));
        let Account { taken, surpassed, broken, ungrounded, wrong, copied, unasked, .. } = account;
        assert_eq!((taken, surpassed, broken, ungrounded, wrong, copied, unasked), (1, 2, 1, 2, 1, 1, 0));
        assert_eq!((account.given, account.unanswered, account.seconds), (8, 1, 1.5));
        assert_eq!(account.answers_per_question, 4.0);
        // The template names Alpha, one rare word of four; the answer has two of five.
        let (taught, template) = (account.specificity.unwrap(), account.template_specificity.unwrap());
        assert!((taught - 2.0 * 3_f64.ln() / 5_f64.sqrt()).abs() < 1e-12, "{taught}");
        assert!((template - 3_f64.ln() / 4_f64.sqrt()).abs() < 1e-12, "{template}");
    }

    #[test]
    fn a_teacher_is_told_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (gguf, model, empty) = (path("model.GGUF"), path("model"), path("empty"));
        std::fs::write(&gguf, "").unwrap();
        std::fs::create_dir(&model).unwrap();
        std::fs::create_dir(&empty).unwrap();
        std::fs::write(folder.path().join("model/config.json"), "{}").unwrap();
        for address in ["http://host/v1", "HTTPS://host/v1"] {
            assert_eq!(Source::of(address).unwrap(), Source::Endpoint(address));
        }
        let file = "nowhere/answers.Parquet";
        assert_eq!(Source::of(file).unwrap(), Source::File(Path::new(file)));
        for name in [gguf.as_str(), &model, "s3://bucket/model", "s3://bucket/model.gguf"] {
            assert_eq!(Source::of(name).unwrap(), Source::Model(name));
        }
        for name in [empty.as_str(), &path("nowhere.gguf"), &path("nowhere"), "answers.csv"] {
            let error = Source::of(name).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{name}");
            let told = error.explain();
            assert!(
                [".gguf", "config.json", ".parquet", "http(s)", name].iter().all(|what| told.contains(what)),
                "{told}"
            );
        }
    }

    #[test]
    fn a_question_tells_its_outcome_and_how_its_answer_ends() {
        let of = |verdict| Asked { id: "q".into(), prompt: "About Alpha?".into(), stem: "<think>".into(), verdict };
        let [none, yes, no] = [None, Some(true), Some(false)].map(of);
        assert!(none.text().starts_with("About Alpha?\n\nAnswer in one line") && !none.text().contains("verdict"));
        assert!(yes.text().contains("</reason><verdict>yes</verdict>\n"));
        assert!(no.text().contains("</reason><verdict>no</verdict>\n"));
        assert_eq!((none.last_tag(), no.last_tag()), ("</reason>", "</verdict>"));
    }
}
