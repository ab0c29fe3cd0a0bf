//! The queries that make no table, each in a file of its own: `sql/query/<name>.sql`.
//!
//! Knows their texts only: what a query returns, reads and needs stands at the head of its file. Whoever runs one says
//! where its tables come from. The samples of the report begin with the same rows, those of `sampled_reason.sql`.

/// The items that a job asked about, with their evidence and what came of it.
pub const ASKED_ITEMS: &str = include_str!("../../sql/query/asked_items.sql");
/// Keys of all different prompts that are asked.
pub const ASKED_PROMPTS: &str = include_str!("../../sql/query/asked_prompts.sql");
/// Items that have an audience, with categories and titles.
pub const AUDIENCE_ITEMS: &str = include_str!("../../sql/query/audience_items.sql");
/// Every attribute of the catalogue as prompts show it, cut at `$title_chars`.
pub const CATALOGUE_ATTRIBUTES: &str = include_str!("../../sql/query/catalogue_attributes.sql");
/// Every title of the catalogue.
pub const CATALOGUE_TITLES: &str = include_str!("../../sql/query/catalogue_titles.sql");
/// Reasons that the version before had in other words, for the report.
pub const CHANGED_SAMPLES: &str =
    concat!(include_str!("../../sql/query/sampled_reason.sql"), include_str!("../../sql/query/changed_samples.sql"));
/// How many reasons tonight and the version before both have, and how many are the same.
pub const CHANGED_TALLY: &str = include_str!("../../sql/query/changed_tally.sql");
/// How many users met each item.
pub const CONSUMED_ITEMS: &str = include_str!("../../sql/query/consumed_items.sql");
/// Weights of pairs of items that a user has met both of.
pub const CO_CONSUMED_ITEMS: &str = include_str!("../../sql/query/co_consumed_items.sql");
/// How many corrections there are of each outcome, with mean gains.
pub const CORRECTION_TALLY: &str = include_str!("../../sql/query/correction_tally.sql");
/// Events between `$range_start` and `$range_end`, sorted.
pub const EVENTS_OF_RANGE: &str = include_str!("../../sql/query/events_of_range.sql");
/// The newest row about the item `$id` in `explained`.
pub const EXPLAINED_ITEM: &str = include_str!("../../sql/query/explained_item.sql");
/// The events of the item `$id` in the log.
pub const EXPLAINED_ITEM_EVENTS: &str = include_str!("../../sql/query/explained_item_events.sql");
/// Rows of the item `$id` in the catalogue.
pub const EXPLAINED_ITEM_ROWS: &str = include_str!("../../sql/query/explained_item_rows.sql");
/// The newest row about the user `$user_id` and the item `$item_id` in `explained`.
pub const EXPLAINED_PAIR: &str = include_str!("../../sql/query/explained_pair.sql");
/// The newest row of `$kind` about `$user_id` and `$item_id` in `explained`.
pub const EXPLAINED_REASON: &str = include_str!("../../sql/query/explained_reason.sql");
/// The response to the prompt `$id` that counts.
pub const EXPLAINED_RESPONSE: &str = include_str!("../../sql/query/explained_response.sql");
/// The newest row about the user `$id` in `explained`.
pub const EXPLAINED_USER: &str = include_str!("../../sql/query/explained_user.sql");
/// The events of the user `$id` in the log.
pub const EXPLAINED_USER_EVENTS: &str = include_str!("../../sql/query/explained_user_events.sql");
/// Keys of all different prompts that were asked and have failed.
pub const FAILED_PROMPTS: &str = include_str!("../../sql/query/failed_prompts.sql");
/// The question, the evidence and its text, of every user whose history may be asked about.
pub const HISTORY_QUESTIONS: &str =
    concat!(include_str!("../../sql/query/question.sql"), include_str!("../../sql/query/history_questions.sql"));
/// One row if there is an event between `$interval_start` and `$interval_end`.
pub const INTERVAL_EVENT: &str = include_str!("../../sql/query/interval_event.sql");
/// Who met which item before `$interval_end`.
pub const ITEMS_MET: &str = include_str!("../../sql/query/items_met.sql");
/// The rows of items that somebody has met.
pub const ITEMS_OF_THE_LOG: &str = include_str!("../../sql/query/items_of_the_log.sql");
/// Items with their categories, by id.
pub const ITEM_CATEGORIES: &str = include_str!("../../sql/query/item_categories.sql");
/// How many users met each item before the interval.
pub const ITEM_POPULARITY: &str = include_str!("../../sql/query/item_popularity.sql");
/// The question, the evidence and its text, of every item that may be asked about.
pub const ITEM_QUESTIONS: &str =
    concat!(include_str!("../../sql/query/question.sql"), include_str!("../../sql/query/item_questions.sql"));
/// Tonight's vectors of items.
pub const ITEM_VECTORS: &str = include_str!("../../sql/query/item_vectors.sql");
/// How many events there are, and how many of them have an item that has a row in `item`.
pub const KNOWN_EVENTS: &str = include_str!("../../sql/query/known_events.sql");
/// The latest `$max_events` items of each user.
pub const LATEST_ITEMS: &str = include_str!("../../sql/query/latest_items.sql");
/// Vectors of items beside those of the version before.
pub const MOVED_VECTORS: &str = include_str!("../../sql/query/moved_vectors.sql");
/// What users met for the first time between `$interval_start` and `$interval_end`.
pub const NEXT_ITEMS: &str = include_str!("../../sql/query/next_items.sql");
/// Prompts to ask: those without an answer, or with fewer than `$attempts` that were all refused; with their evidence.
pub const PENDING_PROMPTS: &str = include_str!("../../sql/query/pending_prompts.sql");
/// Rewrites to ask for: those without a response, or with errors only.
pub const PENDING_REWRITES: &str = include_str!("../../sql/query/pending_rewrites.sql");
/// One row per row of reason_prompt.
pub const PROMPTS: &str = include_str!("../../sql/query/prompts.sql");
/// What [`PENDING_PROMPTS`] gives as `prompt_that_waits`, what is worth most first.
pub const PROMPTS_BY_WORTH: &str = include_str!("../../sql/query/prompts_by_worth.sql");
/// The evidence of the prompts of `$kind` and `$dt`.
pub const PROMPT_EVIDENCE: &str = include_str!("../../sql/query/prompt_evidence.sql");
/// Accepted and corrected history reasons of `$dt`.
pub const PUBLISHED_AND_CORRECTED_REASONS: &str = include_str!("../../sql/query/published_and_corrected_reasons.sql");
/// The newest row of each item that was true at `$as_of`, with every column.
pub const PUBLISHED_ITEM_SCALARS: &str = include_str!("../../sql/query/published_item_scalars.sql");
/// The newest vector of each item that was true at `$as_of`.
pub const PUBLISHED_ITEM_VECTORS: &str = include_str!("../../sql/query/published_item_vectors.sql");
/// The words in the newest row of each item that was true at `$as_of`.
pub const PUBLISHED_ITEM_WORDS: &str = include_str!("../../sql/query/published_item_words.sql");
/// Accepted reasons of `$kind` and `$dt`.
pub const PUBLISHED_REASONS: &str = include_str!("../../sql/query/published_reasons.sql");
/// The newest vector of each user that was true at `$as_of`.
pub const PUBLISHED_USER_VECTORS: &str = include_str!("../../sql/query/published_user_vectors.sql");
/// Mean score and length of all scored reasons.
pub const REASON_MEANS: &str = include_str!("../../sql/query/reason_means.sql");
/// Scores and lengths, for histograms.
pub const REASON_MEASURES: &str = include_str!("../../sql/query/reason_measures.sql");
/// How many reasons there are of each kind and refusal.
pub const REASON_TALLY: &str = include_str!("../../sql/query/reason_tally.sql");
/// A refused reason for each refusal, for the report.
pub const REFUSAL_SAMPLES: &str =
    concat!(include_str!("../../sql/query/sampled_reason.sql"), include_str!("../../sql/query/refusal_samples.sql"));
/// Reasons for the report: accepted or refused ones, as `$accepted` says.
pub const REPORT_SAMPLES: &str =
    concat!(include_str!("../../sql/query/sampled_reason.sql"), include_str!("../../sql/query/report_samples.sql"));
/// Rows of small segments of the response store that are kept when they are merged.
pub const RESPONSE_ROWS_TO_KEEP: &str = include_str!("../../sql/query/response_rows_to_keep.sql");
/// Texts of reviews that were written at `$from` or later.
pub const REVIEW_TEXTS: &str = include_str!("../../sql/query/review_texts.sql");
/// What the templates of alignment say for the prompts of `$kind` and `$dt`.
pub const TEMPLATE_REASONS: &str = include_str!("../../sql/query/template_reasons.sql");
/// How many items have events and no row in `item`, and one of them.
pub const UNKNOWN_ITEMS: &str = include_str!("../../sql/query/unknown_items.sql");
/// What was paid for a night's prompts.
pub const USAGE: &str = include_str!("../../sql/query/usage.sql");
/// Runs that have asked a night's prompts.
pub const USAGE_RUNS: &str = include_str!("../../sql/query/usage_runs.sql");
/// Seconds that were spent on a night's prompts.
pub const USAGE_SECONDS: &str = include_str!("../../sql/query/usage_seconds.sql");

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of the evidence that a query makes.
    fn said(text: &str) -> Option<String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let words = words.join(" ");
        let (_, rest) = words.split_once("array_to_string(")?;
        Some(rest.split_once(" as said")?.0.to_owned())
    }

    #[test]
    fn evidence_is_the_text_that_nights_publish_a_vector_of() {
        for (questions, vectors) in [
            (ITEM_QUESTIONS, include_str!("../../sql/item_embedding.sql")),
            (HISTORY_QUESTIONS, include_str!("../../sql/user_embedding.sql")),
        ] {
            let published = said(vectors);
            assert!(published.as_ref().is_some_and(|said| said.contains("keywords")));
            assert_eq!(said(questions), published);
        }
    }

    #[test]
    fn features_and_their_vectors_know_the_same_evidence() {
        for (feature, embedding) in [
            (include_str!("../../sql/item_feature.sql"), include_str!("../../sql/item_embedding.sql")),
            (include_str!("../../sql/user_feature.sql"), include_str!("../../sql/user_embedding.sql")),
            (include_str!("../../sql/pair_feature.sql"), include_str!("../../sql/pair_embedding.sql")),
        ] {
            assert!(said(embedding).is_some_and(|said| said.contains("keywords")), "{embedding}");
            assert_eq!(said(feature), said(embedding));
        }
    }

    #[test]
    fn prompts_that_are_asked_and_prompts_that_wait_have_the_same_condition() {
        let condition = |text: &str| {
            let words: Vec<&str> = text.split_whitespace().collect();
            let words = words.join(" ");
            let (_, rest) = words.split_once("where p.subject")?;
            Some(rest.split_once(" )").map_or(rest, |(condition, _)| condition).to_owned())
        };
        assert!(condition(PENDING_PROMPTS).is_some_and(|condition| condition.contains("keywords")));
        assert_eq!(condition(ASKED_PROMPTS), condition(PENDING_PROMPTS));
    }
}
