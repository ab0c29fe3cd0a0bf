//! Tags, words and English, on texts with known answers.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::reward::names::without_names;

#[test]
fn tags_tell_the_language() {
    assert!(Language::of("en-GB").is_english() && Language::of("EN").is_english());
    assert_eq!(Language::of("de_AT"), Language::of("de"));
    assert!(!Language::of("de").names_have_capitals && Language::of("fr").names_have_capitals);
    assert!(!Language::of("none").names_have_capitals && !Language::of("none").is_english());
    assert!(!Language::of("th").marks_ends() && Language::of("km").marks_ends());
    assert!(NAMES_HAVE_CAPITALS.is_sorted(), "binary search needs it");
    assert_eq!(Language::of("fr").share("Ils l'aiment."), None);
    assert_eq!(Language::of("de").share("Sie mögen Tänze."), Some(2.0 / 3.0));
    assert_eq!(Language::of("zh").share("他们喜欢这部影片。"), Some(1.0));
    assert_eq!(Language::of("ar").share("They like it."), Some(0.0));
    assert_eq!(Language::of("ja").share("映画が好き ok"), Some(5.0 / 7.0));
}

#[test]
fn words_are_characters_where_there_are_no_spaces() {
    assert_eq!(words("喜欢《Heat》的人，12部"), ["喜", "欢", "heat", "的", "人", "12", "部"]);
    assert_eq!(words("ที่นี่ดี").len(), 3, "vowels and tones belong to their consonant");
    assert_eq!(words("हिन्दी फ़िल्म"), ["हिन्दी", "फ़िल्म"], "marks do not end a word");
    assert_eq!(words("영화를 좋아한다."), ["영화를", "좋아한다"]);
    assert_eq!(words("يحبون الأفلام."), ["يحبون", "الأفلام"]);
    assert_eq!(words("'Sci-fi' isn't -- all_of it: 3.5"), ["sci-fi", "isn't", "all", "of", "it", "3", "5"]);
}

#[test]
fn german_is_told_from_english() {
    let german = |text: &str| Language::of("de-CH").share(text).unwrap();
    assert!(german("Wer die Enge der Räume schätzt, findet sie auch hier.") > 0.4);
    assert!(german("Ein Leuchtturmwärter trotzt Stürmen, und Leser loben Bootsfahrten.") >= 0.2);
    assert!(german("They like it because of the story and the music.") < 0.2);
    assert!(COMMON_GERMAN.is_sorted(), "binary search needs it");
}

#[test]
fn two_characters_are_as_long_as_a_word() {
    assert_eq!(word_count("喜欢《Heat》的人，12部"), 5);
    assert_eq!(word_count("他们喜欢这部影片。"), 4);
    assert_eq!(word_count("Die Größe ist 1.234,5 – na ja"), 8);
    assert_eq!(word_count("。"), 0);
}

#[test]
fn english_is_told_from_code() {
    let english = |text: &str| Language::of("en").share(text).unwrap();
    assert!(english("they like it because of the story and the music") > 0.5);
    assert!(english("fn main let mut vec println") < 0.1);
    assert!(COMMON_ENGLISH.is_sorted(), "binary search needs it");
    let quoted = ["La Vie en Rose (2007)", "Amores Perros (2000)"];
    let text = "They like La Vie en Rose (2007) and Amores Perros too.";
    assert!(english(text) < english(&without_names(text, &quoted)), "names are of any language");
    assert_eq!(words(&without_names(text, &quoted)), ["they", "like", "and", "too"]);
}
