//! What is wrong with a user's reason, what a text in its place is worth by the checks, and what a template says instead.
//!
//! Knows cases and checks; knows nothing of outcomes, judges or models.

use crate::config::CheckSpec;
use crate::error::Result;
use crate::generate::answers::Examples;
use crate::generate::format;
use crate::generate::prompt::Evidence;
use crate::night::correction_case::{Draft, User};
use crate::reward::language::{Language, normalise};
use crate::reward::names::Vocabulary;
use crate::reward::score::{Score, Scored, score};

impl User {
    /// What is wrong with the reason, the worst first: what it makes up, then what it could have said.
    pub(super) fn mistakes(&self, vocabulary: &Vocabulary) -> Vec<(&'static str, String)> {
        let (said, row) = (&self.draft.reason, Scored::from_evidence(&self.evidence));
        if !row.has_evidence() {
            return Vec::new();
        }
        let invented = row.mentions(said, vocabulary).invented;
        let Evidence { verdict, liked, disliked, related, attributes, .. } = &self.evidence;
        let own = if verdict == "dislike" { disliked } else { liked };
        let words = format!(" {} ", normalise(said));
        let is_omitted = |piece: &&String| {
            let bare = piece.rsplit_once(" (").map_or(piece.as_str(), |(title, _)| title);
            !bare.trim().is_empty() && !words.contains(&format!(" {} ", normalise(bare)))
        };
        let omitted = own.iter().chain(attributes).chain(related).filter(is_omitted);
        let invented = invented.into_iter().map(|name| ("invented", name));
        invented.chain(omitted.map(|piece| ("omitted", piece.clone()))).collect()
    }

    pub(super) fn score(&self, draft: &Draft, check: &CheckSpec, vocabulary: &Vocabulary) -> Score {
        let row = Scored {
            reason: Some(&draft.reason),
            finish: draft.finish.as_deref(),
            // A template's words were not drawn: they are neither likely nor unlikely.
            logprob_sum: if draft.is_template { Some(0.0) } else { draft.logprob_sum },
            completion_tokens: if draft.is_template { i64::MAX } else { draft.completion_tokens },
            ..Scored::from_evidence(&self.evidence)
        };
        let found = score(&row, check, vocabulary);
        Score { score: found.score.filter(|_| !draft.is_template), ..found }
    }

    /// The evidence in the words of a template, which are English.
    pub(super) fn template(&self, examples: &Examples, language: Language) -> Result<Option<Draft>> {
        let Evidence { subject, liked, disliked, related, attributes, .. } = &self.evidence;
        let has_names = subject.is_some() || [liked, disliked, related, attributes].iter().any(|l| !l.is_empty());
        if !has_names || !language.is_english() {
            return Ok(None);
        }
        let key = format!("{} {}", self.user_id, self.from_as_of);
        let answer = format!("{}{}", format::STEM, examples.answer(&self.evidence, &key)?);
        let draft = |reason: &str| Draft { reason: reason.to_string(), is_template: true, ..Draft::default() };
        Ok(format::parse(&answer).ok().map(|answer| draft(answer.reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(reason: &str, praise: &[&str]) -> User {
        let list = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect::<Vec<_>>();
        User {
            user_id: "u".into(),
            from_as_of: 0,
            corrected_from: "k".into(),
            draft: draft(reason),
            evidence: Evidence {
                kind: "history".into(),
                verdict: "like".into(),
                liked: list(&["Heat (1995)"]),
                attributes: list(&["Crime"]),
                praise: list(praise),
                ..Evidence::default()
            },
            past: Vec::new(),
            outcomes: Vec::new(),
            rewrites: Vec::new(),
        }
    }

    fn draft(reason: &str) -> Draft {
        Draft {
            reason: reason.into(),
            finish: Some("stop".into()),
            logprob_sum: Some(-1.0),
            completion_tokens: 10,
            ..Draft::default()
        }
    }

    fn check() -> CheckSpec {
        CheckSpec {
            min_mean_logprob: -2.0,
            min_grounding: 1.0,
            max_repetition: 0.2,
            min_words: 4,
            max_words: 35,
            min_language: 0.0,
            language: "en".into(),
            require_finished: true,
            min_concrete: 1,
            max_copied_words: 8,
        }
    }

    const PRAISE: &str = "The gunfights are loud and Al Pacino carries every scene of it to the very end.";
    const NAMED: &str = "The user likes Heat for the gunfights and for Al Pacino.";

    fn refusal(user: &User, draft: &Draft) -> Option<&'static str> {
        user.score(draft, &check(), &Vocabulary::new(["Crime", "Comedy"])).refusal.map(|r| r.as_str())
    }

    #[test]
    fn what_the_user_wrote_is_evidence() {
        let vocabulary = Vocabulary::new(["Crime", "Comedy"]);
        let said = user(NAMED, &[PRAISE]);
        assert_eq!(refusal(&said, &said.draft), None);
        assert_eq!(said.mistakes(&vocabulary), [("omitted", "Crime".to_string())]);
        // Without the sentences, as in days of before, nobody has named him.
        let silent = user(NAMED, &[]);
        assert_eq!(refusal(&silent, &silent.draft), Some("ungrounded"));
        assert_eq!(silent.mistakes(&vocabulary)[0], ("invented", "al pacino".to_string()));
    }

    #[test]
    fn rewrites_and_templates_are_concrete_and_in_their_own_words_where_there_are_sentences() {
        let general = "The user likes Heat because it is a crime movie.";
        let template = Draft { is_template: true, ..draft(general) };
        let copied = draft("The user likes that Al Pacino carries every scene of it to the very end.");
        let (said, silent) = (user(NAMED, &[PRAISE]), user(NAMED, &[]));
        assert_eq!(refusal(&said, &draft(general)), Some("general"));
        assert_eq!(refusal(&said, &template), Some("general"));
        assert_eq!(refusal(&said, &copied), Some("copied"));
        assert_eq!((refusal(&silent, &draft(general)), refusal(&silent, &template)), (None, None));
    }
}
