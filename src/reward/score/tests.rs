//! What is refused and why, and which of two reasons has the higher score.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::table::contract::Contract;

fn check() -> CheckSpec {
    CheckSpec {
        min_mean_logprob: -2.0,
        min_grounding: 1.0,
        max_repetition: 0.2,
        min_words: 4,
        max_words: 30,
        min_language: 0.2,
        language: "en".into(),
        require_finished: true,
        min_concrete: 1,
        max_copied_words: 8,
    }
}

fn row(reason: &str) -> Scored<'_> {
    Scored {
        reason: Some(reason),
        error: None,
        finish: Some("stop"),
        logprob_sum: Some(-10.0),
        completion_tokens: 10,
        verdict: "like",
        evidence: vec!["Heat (1995)", "Crime"],
        titles: vec!["Heat (1995)"],
        disliked: vec!["Cats"],
        ..Scored::default()
    }
}

/// As [`row`], with sentences and keywords.
fn told(reason: &str) -> Scored<'_> {
    Scored {
        sentences: vec![
            "A career thief plans one last robbery in Los Angeles while a tired detective hunts him down.",
            "The gunfights are loud and Al Pacino is at his best, a great movie.",
        ],
        keywords: vec!["heist"],
        ..row(reason)
    }
}

#[test]
fn each_check_refuses_what_it_is_for() {
    let v = Vocabulary::new(["Crime", "Comedy"]);
    let refusal = |r: &Scored<'_>| score(r, &check(), &v).refusal;
    assert_eq!(refusal(&row("People like Heat because it is a crime story.")), None);
    assert_eq!(refusal(&Scored::default()), Some(Refusal::NoEvidence));
    assert_eq!(refusal(&Scored { reason: None, ..row("") }), Some(Refusal::Error));
    assert_eq!(refusal(&Scored { reason: None, error: Some("bad_format"), ..row("") }), Some(Refusal::BadFormat));
    assert_eq!(refusal(&row("People like Heat because it is")), Some(Refusal::Unfinished));
    assert_eq!(refusal(&row("It is so.")), Some(Refusal::TooShort));
    assert_eq!(refusal(&row("People like Heat because it is a comedy.")), Some(Refusal::Ungrounded));
    assert_eq!(refusal(&row("People like Heat because of Titanic.")), Some(Refusal::Ungrounded));
    assert_eq!(refusal(&row("The user is not a fan of Heat and it.")), Some(Refusal::Polarity));
    assert_eq!(refusal(&row("so it is so it is so it is so it is so it is.")), Some(Refusal::Repetition));
    let unlikely = Scored { logprob_sum: Some(-50.0), ..row("People like Heat because it is a crime story.") };
    assert_eq!(refusal(&unlikely), Some(Refusal::Unlikely));
    let bare = Scored { evidence: vec![], ..row("People like it because it is good.") };
    assert_eq!(refusal(&bare), Some(Refusal::NoEvidence));
}

#[test]
fn what_fits_anything_is_general() {
    let v = Vocabulary::new(["Crime", "Comedy"]);
    let refusal = |r: &Scored<'_>| score(r, &check(), &v).refusal;
    let general = "People pick Heat for it is a great crime movie with the best of all.";
    assert_eq!(refusal(&row(general)), None, "there is nothing else to say");
    assert_eq!(refusal(&told(general)), Some(Refusal::General));
    assert_eq!(refusal(&told("People pick Heat for the detectives and for what they do.")), None, "a plural counts");
    assert_eq!(refusal(&told("People pick Heat for its heists and what is like them.")), None);
    assert_eq!(score(&told(general), &CheckSpec { min_concrete: 0, ..check() }, &v).refusal, None);
    let few = Scored { sentences: vec!["Heat is great."], keywords: vec!["Crime"], ..row(general) };
    assert_eq!(refusal(&few), None, "the evidence itself says no more");
    let bare = Scored { evidence: vec![], titles: vec![], ..told("They like it for the heists and the gunfights.") };
    assert_eq!(refusal(&bare), None, "sentences are evidence");
}

#[test]
fn the_built_in_stems_are_general() {
    use crate::generate::prompt::PromptTemplate;
    for kind in ["item", "history", "pair"] {
        for verdict in ["like", "dislike", "mixed"] {
            let evidence = Evidence {
                kind: kind.into(),
                verdict: verdict.into(),
                subject: Some("Heat (1995)".into()),
                keywords: vec!["heist".into()],
                ..Evidence::default()
            };
            let stem = PromptTemplate::load(kind).unwrap().stem(&evidence).unwrap();
            // Even where the evidence says it all.
            let texts = [stem.as_str(), "heist"];
            assert_eq!(checks::concrete(&stem, &texts, &["Heat (1995)"]), (0, 1), "{stem}");
        }
    }
}

#[test]
fn what_copies_a_sentence_is_refused() {
    let v = Vocabulary::default();
    let refusal = |r: &Scored<'_>| score(r, &check(), &v).refusal;
    // Eight words, and nine.
    let eight = "People like that a career thief plans one last robbery in it, or so they say.";
    let nine = "People like that a career thief plans one last robbery in Los, or so they say.";
    assert_eq!(refusal(&told(eight)), None);
    assert_eq!(refusal(&told(nine)), Some(Refusal::Copied));
    assert_eq!(score(&told(nine), &CheckSpec { max_copied_words: 0, ..check() }, &v).refusal, None);
    let titled =
        Scored { sentences: vec!["In Heat a thief in Heat and a man of Heat meet for the last time."], ..row("") };
    let reason = "They like that a thief in Heat and a man of Heat meet and part.";
    assert_eq!(refusal(&Scored { reason: Some(reason), ..titled }), None, "eight words without the titles");
}

#[test]
fn what_sentences_name_is_held() {
    let v = Vocabulary::new(["Crime", "Comedy"]);
    let refusal = |r: &Scored<'_>| score(r, &check(), &v).refusal;
    assert_eq!(refusal(&told("People pick Heat for the gunfights and for Al Pacino.")), None);
    assert_eq!(refusal(&told("They like the heist and Al Pacino's gunfights in it.")), None);
    assert_eq!(refusal(&told("People pick Heat for the gunfights and for Tom Hanks.")), Some(Refusal::Ungrounded));
    assert_eq!(refusal(&row("People pick Heat because of what Al Pacino does.")), Some(Refusal::Ungrounded));
}

#[test]
fn evidence_is_held_against_in_full() {
    let list = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect::<Vec<_>>();
    let history = Evidence {
        kind: "history".into(),
        verdict: "like".into(),
        liked: list(&["Heat (1995)"]),
        disliked: list(&["Cats"]),
        related: list(&["Ronin"]),
        attributes: list(&["Crime", "By: Michael Mann"]),
        content: list(&["Alien: Covenant (2017): crew, planet"]),
        praise: list(&["Al Pacino is at his best."]),
        fault: list(&["Too long."]),
        keywords: list(&["heist"]),
        ..Evidence::default()
    };
    let row = Scored::from_evidence(&history);
    let names = ["Heat (1995)", "Cats", "Ronin", "Crime", "By: Michael Mann", "Michael Mann", "Alien: Covenant (2017)"];
    assert_eq!(row.evidence, names);
    assert_eq!(row.sentences, ["Alien: Covenant (2017): crew, planet", "Al Pacino is at his best.", "Too long."]);
    assert_eq!((row.keywords.as_slice(), row.verdict), (&["heist"][..], "like"));
    assert_eq!(
        (row.titles.as_slice(), row.disliked.as_slice()),
        (&["Heat (1995)", "Alien: Covenant (2017)"][..], &["Cats"][..])
    );
    let item = Evidence { kind: "item".into(), subject: Some("Thief".into()), ..history.clone() };
    let row = Scored::from_evidence(&item);
    assert_eq!(row.titles, ["Thief", "Heat (1995)"], "an item's content has no titles");
    assert_eq!(row.evidence[0], "Thief");
    assert!(row.has_evidence() && !Scored::from_evidence(&Evidence::default()).has_evidence());
}

#[test]
fn the_contract_lists_every_refusal() {
    let contract = Contract::builtin("reason_score").unwrap();
    let values = contract.column("refusal").unwrap().values.clone().unwrap();
    assert_eq!(values, Refusal::ALL.map(Refusal::as_str));
}

#[test]
fn a_language_without_sentence_marks_ends_where_the_model_does() {
    let v = Vocabulary::new([]).in_language("th");
    let thai = |finish| score(&Scored { finish: Some(finish), ..row("พวกเขาชอบหนังเรื่องนี้") }, &check(), &v).refusal;
    assert_eq!(thai("stop"), None);
    assert_eq!(thai("length"), Some(Refusal::Unfinished));
    let english = score(&row("People like Heat because it is a crime story."), &check(), &v);
    assert_eq!((english.refusal, english.language), (Some(Refusal::Language), Some(0.0)));
}

#[test]
fn the_score_is_between_zero_and_one() {
    let s = score(&row("People like Heat because it is a crime story."), &check(), &Vocabulary::default());
    assert!((s.score.unwrap() - (-1.0f64).exp()).abs() < 1e-12);
}
