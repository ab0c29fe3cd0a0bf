//! What is refused and why, and which of two reasons has the higher score.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

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

/// What a reason is worth beside the evidence of [`told`], with a mean log-likelihood.
fn worth(reason: &str, mean: f64) -> f64 {
    let row = Scored { logprob_sum: Some(10.0 * mean), ..told(reason) };
    score(&row, &check(), &Vocabulary::new(["Crime", "Comedy"])).score.unwrap()
}

const TEMPLATE: &str = "People like Heat because it is a crime movie.";
const CONCRETE: &str = "People like Heat for a thief and a tired detective who plan a robbery and hunt each other.";

#[test]
fn the_score_is_what_its_formula_says() {
    let v = Vocabulary::new(["Crime", "Comedy"]);
    let template = score(&row(TEMPLATE), &check(), &v);
    assert_eq!((template.grounding, template.repetition, template.concreteness), (Some(1.0), Some(0.0), Some(0.0)));
    assert!((template.score.unwrap() - (-0.25f64).exp() / 2.0).abs() < 1e-12);
    let concrete = score(&told(CONCRETE), &check(), &v);
    assert_eq!((concrete.grounding, concrete.repetition, concrete.concreteness), (Some(1.0), Some(0.0), Some(1.0)));
    assert!((concrete.score.unwrap() - (-0.25f64).exp()).abs() < 1e-12);
    // What an endpoint does not tell counts nothing.
    assert_eq!(score(&Scored { logprob_sum: None, ..told(CONCRETE) }, &check(), &v).score, Some(1.0));
    assert_eq!(score(&Scored { reason: None, ..row("") }, &check(), &v).score, None);
}

#[test]
fn a_reason_of_its_evidence_is_worth_more_than_a_template() {
    assert!(worth(CONCRETE, -2.5) > worth(TEMPLATE, 0.0), "as unlikely as the default of a job allows");
    assert!(worth("People like Heat for its heist.", -0.5) > worth(TEMPLATE, -0.5));
    assert!(worth(CONCRETE, -0.5) > worth("People like Heat for a thief and a heist.", -0.5));
    assert!(worth(CONCRETE, -0.5) > worth(CONCRETE, -1.0));
}

#[test]
fn what_is_concrete_and_made_up_is_worth_little() {
    let made_up = "People like Tom Hanks for a thief and a tired detective who plan a robbery and hunt each other.";
    assert_eq!(worth(made_up, -0.5), 0.0);
    let half = "People like Heat for Tom Hanks, a thief and a tired detective who plan a robbery and hunt each other.";
    assert!((worth(half, -0.5) - worth(CONCRETE, -0.5) / 2.0).abs() < 1e-12, "one of two names is held");
}

#[test]
fn a_list_of_words_of_the_evidence_does_not_win() {
    let bare = "Thief, robbery, detective, career, heist, gunfights, tired, loud.";
    let dense = "For thief, robbery, detective, career, heist, gunfights, loud.";
    let long = "People like it for the thief, robbery, detective, career, heist, gunfights, and loud it is.";
    let again = "A thief and a robbery, a thief and a robbery, a thief and a robbery, a thief and a robbery.";
    assert!(worth(bare, -0.5) <= worth(TEMPLATE, -0.5));
    assert!(worth(dense, -0.5) < worth(CONCRETE, -0.5));
    assert!(worth(long, -0.5) <= worth(CONCRETE, -0.5), "more than enough counts nothing");
    assert!(worth(long, -0.6) < worth(CONCRETE, -0.5));
    assert!(worth(again, -0.5) < worth("A thief and a robbery are what people like of it.", -0.5));
}

#[test]
fn as_many_words_of_the_evidence_are_worth_the_same() {
    let [one, other] = ["They like the tired detective in it.", "They like the loud gunfights in it."];
    assert_eq!(worth(one, -0.5).to_bits(), worth(other, -0.5).to_bits());
    assert_eq!(worth(TEMPLATE, -0.5).to_bits(), worth("They pick Heat for it is a great one.", -0.5).to_bits());
}

proptest! {
    #[test]
    fn the_score_grows_with_each_part(
        mean in -50.0..0.5f64,
        grounding in 0.0..=1.0f64,
        repetition in 0.0..=1.0f64,
        concreteness in 0.0..=1.0f64,
        more in 0.0..=1.0f64,
    ) {
        let at = figure(Some(mean), grounding, repetition, concreteness);
        prop_assert!((0.0..=1.0).contains(&at));
        let up = |part: f64| (part + (1.0 - part) * more).min(1.0);
        for grown in [
            figure(Some(mean + more), grounding, repetition, concreteness),
            figure(None, grounding, repetition, concreteness),
            figure(Some(mean), up(grounding), repetition, concreteness),
            figure(Some(mean), grounding, repetition * more, concreteness),
            figure(Some(mean), grounding, repetition, up(concreteness)),
        ] {
            prop_assert!((at - 1e-12..=1.0).contains(&grown), "{} {}", at, grown);
        }
    }

    #[test]
    fn all_parts_of_any_text_are_shares(
        reason in prop_oneof!["\\PC{0,80}", "(thief |the |robbery, |Heat |灯塔|警察、|범죄자 ){0,30}"],
        sum in -200.0..5.0f64,
        tokens in 0..40i64,
    ) {
        let sentences = vec!["A thief plans a robbery.", "警察在灯塔里。", "범죄자가 등대에 숨는다."];
        let held = Scored {
            reason: Some(reason.as_str()), sentences, logprob_sum: Some(sum), completion_tokens: tokens, ..row("")
        };
        let found = score(&held, &check(), &Vocabulary::new(["Crime"]));
        for part in [found.score, found.grounding, found.repetition, found.concreteness] {
            prop_assert!(part.is_some_and(|part| (0.0..=1.0).contains(&part)), "{:?}", found);
        }
    }
}
