//! Sample rows of a session as the report shows them.
//!
//! Knows the columns that the report's queries give; knows nothing of which rows they choose.

use arrow::array::{Array, RecordBatch};

use crate::columns::{at, floats, text, text_lists};
use crate::config::JobSpec;
use crate::error::Result;
use crate::night::report::{BETWEEN, Sample};
use crate::query::session::{Param, Session};
use crate::query::texts;
use crate::reward::names::{Vocabulary, mentions_beside};

/// The attributes of the catalogue, for reasons of the job's language.
pub(crate) async fn vocabulary(session: &Session, spec: &JobSpec) -> Result<Vocabulary> {
    let title_chars = ("title_chars", Param::Int(spec.history.title_chars));
    let mut categories = Vec::new();
    for batch in session.sql(texts::CATALOGUE_ATTRIBUTES, &[title_chars]).await?.collect().await? {
        categories.extend(text(&batch, "category")?.iter().flatten().map(str::to_string));
    }
    Ok(Vocabulary::new(categories.iter().map(String::as_str)).in_language(&spec.check.language))
}

/// The rows of one of the report's queries; what a reason names and its evidence does not hold is found here.
pub(super) fn samples(batches: &[RecordBatch], vocabulary: &Vocabulary) -> Result<Vec<Sample>> {
    let mut all = Vec::new();
    for batch in batches {
        let [kind, entity, item] = [text(batch, "kind")?, text(batch, "entity")?, text(batch, "item")?];
        let [reason, refusal, subject] = [text(batch, "reason")?, text(batch, "refusal")?, text(batch, "subject")?];
        let score = floats(batch, "score")?;
        let names = ["attributes", "content", "praise", "fault", "keywords", "liked", "disliked", "related"];
        let lists = names.map(|name| (name, text_lists(batch, name)));
        let mut evidence: Vec<Vec<String>> = (0..batch.num_rows())
            .map(|i| at(&subject, i).map(|s| format!("about: {s}")).into_iter().collect())
            .collect();
        let (mut pieces, mut told) =
            (vec![Vec::<String>::new(); batch.num_rows()], vec![Vec::<String>::new(); batch.num_rows()]);
        for (name, lists) in lists {
            // Sentences and keywords may name what a reason names, and are no names themselves.
            let is_told = matches!(name, "content" | "praise" | "fault" | "keywords");
            let texts = if is_told { &mut told } else { &mut pieces };
            for ((held, texts), list) in evidence.iter_mut().zip(texts).zip(lists?) {
                texts.extend(list.iter().cloned());
                if !list.is_empty() {
                    held.push(format!("{name}: {}", list.join(BETWEEN)));
                }
            }
        }
        for (i, evidence) in evidence.into_iter().enumerate() {
            let names: Vec<&str> = at(&subject, i).into_iter().chain(pieces[i].iter().map(String::as_str)).collect();
            let told: Vec<&str> = told[i].iter().map(String::as_str).collect();
            let said = at(&reason, i).unwrap_or_default();
            all.push(Sample {
                invented: mentions_beside(said, &names, &told, vocabulary).invented,
                kind: kind.value(i).to_string(),
                entity: at(&entity, i).unwrap_or_default().to_string(),
                item: at(&item, i).map(str::to_string),
                evidence,
                reason: said.to_string(),
                score: score.is_valid(i).then(|| score.value(i)),
                refusal: at(&refusal, i).map(str::to_string),
            });
        }
    }
    Ok(all)
}
