//! Evidence of all lengths, with a token for every four bytes.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::generate::prompt::PromptTemplate;

/// The fitted evidence; its prompt is the one that it makes.
fn fit(evidence: &Evidence, budget: usize, measure: &Bytes) -> Result<Evidence> {
    let fitted = super::fit(evidence, budget, measure)?;
    assert_eq!((fitted.question, fitted.stem), measure.template.render(&fitted.evidence)?);
    Ok(fitted.evidence)
}

/// Counts a token for every four bytes, and ten for the chat; remembers how many prompts it was asked for.
struct Bytes {
    template: PromptTemplate,
    prompts: std::cell::Cell<usize>,
}

impl Bytes {
    fn of(template: &str) -> Bytes {
        Bytes { template: PromptTemplate::load(template).unwrap(), prompts: std::cell::Cell::new(0) }
    }

    fn tokens(&self, evidence: &Evidence) -> usize {
        let (question, stem) = self.template.render(evidence).unwrap();
        self.prompt(&question, &stem).unwrap()
    }
}

impl Measure for Bytes {
    fn render(&self, evidence: &Evidence) -> Result<(String, String)> {
        self.template.render(evidence)
    }

    fn prompt(&self, question: &str, stem: &str) -> Result<usize> {
        self.prompts.set(self.prompts.get() + 1);
        Ok((question.len() + stem.len()).div_ceil(4) + 10)
    }

    fn text(&self, text: &str) -> Result<usize> {
        Ok(text.len().div_ceil(4))
    }
}

fn some(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| (*v).to_string()).collect()
}

fn evidence() -> Evidence {
    Evidence {
        kind: "item".into(),
        subject: Some("Heat (1995)".into()),
        verdict: "like".into(),
        liked: some(&["Ronin (1998)", "Collateral (2004)", "Casino (1995)"]),
        disliked: some(&["Cats (2019)"]),
        related: some(&["Thief (1981)"]),
        attributes: some(&["Crime", "Drama", "Director: Michael Mann"]),
        content: some(&["A thief plans one last robbery.", "A tired detective hunts him."]),
        praise: some(&["The gunfights are loud and real.", "Both leads are at their best."]),
        fault: some(&["It takes three hours.", "The family scenes drag."]),
        keywords: some(&["heist", "gunfight", "detective", "thief"]),
        extra: vec![],
    }
}

#[test]
fn what_fits_stays_and_is_counted_once() {
    let bytes = Bytes::of("item");
    assert_eq!(fit(&evidence(), 1000, &bytes).unwrap(), evidence());
    assert_eq!(bytes.prompts.get(), 1);
}

#[test]
fn what_says_least_goes_first() {
    let bytes = Bytes::of("item");
    let whole = bytes.tokens(&evidence());
    let fitted = |less: usize| fit(&evidence(), whole - less, &bytes).unwrap();
    let one = fitted(1);
    assert_eq!((&one.liked, &one.fault), (&some(&["Ronin (1998)", "Collateral (2004)"]), &evidence().fault));
    assert_eq!(one.related, evidence().related, "the template does not show them");
    let two = fitted(10);
    assert_eq!((two.liked.len(), two.praise.len(), two.fault.len()), (1, 2, 1));
    assert_eq!(two.content, evidence().content);
    // Less room never leaves more of the subject, and every prompt fits.
    let bare = bytes.tokens(&Evidence { kind: "item".into(), verdict: "like".into(), ..Evidence::default() });
    for budget in (bare..whole).rev() {
        let fitted = fit(&evidence(), budget, &bytes).unwrap();
        assert!(bytes.tokens(&fitted) <= budget, "{budget}: {fitted:?}");
        assert!(fitted.subject == evidence().subject || fitted.content.is_empty(), "{fitted:?}");
        assert_eq!(fitted, fit(&evidence(), budget, &bytes).unwrap());
    }
}

#[test]
fn of_what_is_disliked_faults_stay() {
    let bytes = Bytes::of("item");
    let disliked = Evidence { verdict: "dislike".into(), ..evidence() };
    let fitted = fit(&disliked, bytes.tokens(&disliked) - 15, &bytes).unwrap();
    assert!(fitted.fault.len() > fitted.praise.len(), "{fitted:?}");
    let bytes = Bytes::of("history");
    let history = Evidence { kind: "history".into(), subject: None, content: vec![], ..disliked };
    let fitted = fit(&history, bytes.tokens(&history) - 10, &bytes).unwrap();
    assert_eq!((fitted.liked.len(), fitted.disliked), (0, history.disliked));
}

#[test]
fn nothing_is_too_long() {
    let bytes = Bytes::of("item");
    let emoji = "👩‍👩‍👧‍👦".repeat(2_000);
    for (evidence, what) in [
        (Evidence { content: vec!["many words ".repeat(100_000)], ..evidence() }, "a description of a megabyte"),
        (Evidence { content: vec!["word".repeat(250_000)], ..evidence() }, "one word of a megabyte"),
        (Evidence { keywords: vec!["🎬".to_string(); 100_000], ..evidence() }, "a catalogue of emoji"),
        (Evidence { subject: Some("Title ".repeat(1_700)), ..evidence() }, "a title of ten thousand characters"),
        (Evidence { subject: Some(emoji.clone()), praise: vec![emoji], ..evidence() }, "families"),
        (Evidence { subject: Some(format!("e{}", "\u{301}".repeat(500_000))), ..evidence() }, "one character"),
        (Evidence { praise: vec!["很好看".repeat(50_000)], ..evidence() }, "Chinese"),
    ] {
        bytes.prompts.set(0);
        let fitted = fit(&evidence, 288, &bytes).unwrap();
        assert!(bytes.tokens(&fitted) <= 288, "{what}");
        assert!(bytes.prompts.get() < 40, "{what}: {} prompts", bytes.prompts.get());
        assert_eq!(fitted.subject.is_some(), what != "one character", "{what}: {fitted:?}");
        for text in fitted.subject.iter().chain(&fitted.praise).filter(|text| text.contains('👩')) {
            assert_eq!(text.replace("👩‍👩‍👧‍👦", ""), "", "{what}: cut between characters");
        }
    }
    let long = Evidence { content: vec!["many words ".repeat(100_000)], ..evidence() };
    let fitted = fit(&long, 288, &bytes).unwrap();
    assert!(
        ["many", "words"].iter().any(|end| fitted.content[0].ends_with(end)) && fitted.content[0].len() > 200,
        "{fitted:?}"
    );
    assert!(!fitted.praise.is_empty() && !fitted.keywords.is_empty(), "one sentence does not push all else out");
}

#[test]
fn where_the_template_itself_does_not_fit_little_is_left() {
    let bytes = Bytes::of("item");
    let fitted = fit(&Evidence { subject: Some("Title ".repeat(100)), ..evidence() }, 12, &bytes).unwrap();
    let subject = fitted.subject.clone().unwrap();
    assert!(subject.starts_with("Title") && subject.len() <= 4 * BARE_SUBJECT, "{subject}");
    assert_eq!(
        fitted,
        Evidence {
            kind: "item".into(),
            verdict: "like".into(),
            subject: fitted.subject.clone(),
            ..Evidence::default()
        }
    );
    assert!(fit(&evidence(), 0, &bytes).is_ok());
}
