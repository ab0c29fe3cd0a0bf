//! What is named, quoted and invented, on texts with known answers.

use super::*;

#[test]
fn names_are_found() {
    let found = names("People like The Matrix (1999) and Lord of the Rings, which Tom Hanks made. It is great.");
    assert_eq!(found, ["The Matrix 1999", "Lord of the Rings", "Tom Hanks"].map(String::from).to_vec());
}

#[test]
fn a_vocabulary_is_the_same_after_it_was_sent() {
    let told = Vocabulary::new(["Science Fiction", "İstanbul", "rock'n'roll", "tv"]);
    let again = Vocabulary::of_compared(told.compared());
    assert_eq!(again.digest(), told.digest());
    assert_eq!((again.longest, told.longest), (2, 2));
}

#[test]
fn titles_that_were_not_shown_are_foreign() {
    let v = Vocabulary::new(["Drama"]).with_titles([
        "Alien (1979)",
        "Alien 3 (1992)",
        "It (1990)",
        "Game, The (1997)",
        "Drama",
        "Schindler's List (1993)",
    ]);
    let shown = "The user likes Alien 3 (1992).";
    let foreign = |text: &str| v.foreign_titles(text, shown);
    assert!(foreign("They like Alien 3 (1992) and drama. It is the game. Drama").is_empty());
    assert_eq!(foreign("They like Schindler's List and Game, The (1997)."), ["schindlers list", "game the"]);
    assert_eq!(v.foreign_titles("They like Alien.", "They like Aliens."), ["alien"]);
    assert!(foreign("They like Alien.").is_empty(), "its words stand there");
    assert!(!Vocabulary::new(["Drama"]).knows_titles() && v.knows_titles());
}

#[test]
fn quotation_marks_of_all_kinds_are_read() {
    let text = "„Eins“, ‚Zwei‘, «trois», »vier«, 《五》, 「六」, “seven”, \"eight\", ”nio”, ‘it’s ten’ and 7\" wide";
    assert_eq!(quoted(text), ["Eins", "Zwei", "trois", "vier", "五", "六", "seven", "eight", "nio", "it’s ten"]);
    assert_eq!(quoted("他说“我喜欢《英雄》”。"), ["英雄"], "the inner one alone");
}

#[test]
fn what_sentences_name_may_be_named_in_other_forms() {
    let v = Vocabulary::new(["Puzzle", "Comedy", "Drama"]);
    let texts =
        ["Laid-off workers in Sheffield watch the President's men in Shakespeare's Danish tragedy, a comedy-horror."];
    let invented = |text: &str| mentions_beside(text, &["Puzzles"], &texts, &v).invented;
    for held in [
        "Laid-off Sheffield workers watch.",
        "People watch the President and Shakespeare at work.",
        "A President's men in Sheffield's streets.",
        "For fans of a hard puzzle or of puzzles.",
        "Laid-off in Sheffield, men watch a comedy.",
        "The men watch Shakespeare in Sheffield.",
        "Fans of Shakespeare watch.",
    ] {
        assert_eq!(invented(held), Vec::<String>::new(), "{held}");
    }
    for (made_up, what) in [
        ("Broke Leeds workers watch.", "broke leeds"),
        ("Stephen President watches.", "stephen president"),
        ("Fans of War of the Workers watch.", "fans of war of the workers"),
        ("They like Men in Sheffield.", "men in sheffield"),
        ("They like Sheffield Shakespeare.", "sheffield shakespeare"),
    ] {
        assert_eq!(invented(made_up), [what], "{made_up}");
    }
    assert_eq!(invented("People in Sheffield Park watch a drama."), ["drama", "sheffield park"]);
}
