//! Descriptions of simulated items: what a group of items is about, and how an item's text says so.
//!
//! Knows words and random numbers; knows nothing of weights, users or tables.
//!
//! **Groups.** A group is about two of 24 subjects and owns their words, twelve. Pairs of subjects are dealt at
//! random: no two groups have the same one until all 276 are dealt, then they are dealt anew. About every twelfth group
//! owns a word; what tells a group from all others is that it is about both subjects at once.
//!
//! **Texts.** Two sentences name three words of each subject and three words of none, in random order. Texts of a group
//! are alike, and hardly ever equal. Words of one subject mean similar things, so a sentence encoder puts texts of a
//! group side by side even where they share no word.

use crate::network::random::Random;

/// Words of a subject.
const WORDS: usize = 6;
/// Words of each of its subjects that a text names.
const NAMED: usize = 3;
/// Words of no subject that a text names.
const IDLE: usize = 3;

/// Each begins with a consonant: the article is always "a".
const SUBJECTS: [[&str; WORDS]; 24] = [
    ["badger", "hamster", "panther", "rabbit", "squirrel", "tiger"],
    ["camel", "cow", "donkey", "goat", "horse", "sheep"],
    ["falcon", "heron", "parrot", "penguin", "raven", "sparrow"],
    ["crab", "dolphin", "lobster", "salmon", "shark", "whale"],
    ["beetle", "butterfly", "cricket", "moth", "spider", "wasp"],
    ["biscuit", "cake", "muffin", "pancake", "pastry", "pudding"],
    ["cabbage", "carrot", "mushroom", "potato", "pumpkin", "turnip"],
    ["banana", "cherry", "lemon", "mango", "peach", "pear"],
    ["banjo", "cello", "flute", "guitar", "piano", "trumpet"],
    ["chisel", "drill", "hammer", "ladder", "shovel", "wrench"],
    ["bicycle", "lorry", "motorcycle", "taxi", "tractor", "van"],
    ["canoe", "ferry", "kayak", "raft", "submarine", "yacht"],
    ["beach", "desert", "glacier", "lagoon", "swamp", "volcano"],
    ["castle", "cathedral", "library", "museum", "palace", "temple"],
    ["boot", "glove", "jacket", "scarf", "skirt", "sweater"],
    ["carpet", "chair", "curtain", "pillow", "sofa", "wardrobe"],
    ["comet", "galaxy", "meteor", "planet", "rocket", "telescope"],
    ["barber", "baker", "dentist", "farmer", "nurse", "plumber"],
    ["cannon", "dagger", "helmet", "pistol", "shield", "sword"],
    ["bottle", "kettle", "mug", "saucepan", "spoon", "teapot"],
    ["bracelet", "diamond", "necklace", "pearl", "ring", "ruby"],
    ["blizzard", "drought", "flood", "fog", "hurricane", "thunderstorm"],
    ["dragon", "ghost", "mermaid", "vampire", "witch", "wizard"],
    ["camera", "computer", "printer", "radio", "telephone", "television"],
];
/// Words of no subject.
const NEUTRAL: [&str; 24] = [
    "number", "letter", "question", "corner", "morning", "moment", "promise", "colour", "shape", "circle", "reason",
    "habit", "rumour", "secret", "story", "holiday", "border", "journey", "visit", "message", "pattern", "puzzle",
    "memory", "bargain",
];

/// What every group is about.
#[derive(Debug)]
pub(super) struct Subjects {
    /// Places of the two subjects, by group.
    pairs: Vec<[usize; 2]>,
}

impl Subjects {
    /// Deals pairs of subjects to so many groups.
    pub(super) fn deal(groups: usize, random: &mut Random) -> Self {
        let mut all: Vec<[usize; 2]> = (0..SUBJECTS.len()).flat_map(|b| (0..b).map(move |a| [a, b])).collect();
        let mut pairs = Vec::with_capacity(groups + all.len());
        while pairs.len() < groups {
            random.shuffle(&mut all);
            pairs.extend_from_slice(&all);
        }
        pairs.truncate(groups);
        Subjects { pairs }
    }

    /// A text about a group.
    pub(super) fn text(&self, group: usize, random: &mut Random) -> String {
        let mut said = Vec::with_capacity(2 * NAMED + IDLE);
        for subject in self.pairs[group] {
            said.extend(some(&SUBJECTS[subject], NAMED, random));
        }
        said.extend(some(&NEUTRAL, IDLE, random));
        random.shuffle(&mut said);
        let (first, second) = said.split_at(4);
        format!("Here {} meets {}. There is also {}.", listed(&first[..1]), listed(&first[1..]), listed(second))
    }
}

/// So many of the words, drawn at random.
fn some(words: &[&'static str], n: usize, random: &mut Random) -> Vec<&'static str> {
    let mut words = words.to_vec();
    random.shuffle(&mut words);
    words.truncate(n);
    words
}

/// "a drum, a flute and a spoon".
fn listed(words: &[&str]) -> String {
    let named: Vec<String> = words.iter().map(|word| format!("a {word}")).collect();
    match named.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => named.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn words_are_of_one_subject_at_most_and_begin_with_a_consonant() {
        let words: Vec<&str> = SUBJECTS.iter().flatten().chain(&NEUTRAL).copied().collect();
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
        assert!(words.iter().all(|word| !word.starts_with(['a', 'e', 'i', 'o', 'u'])));
    }

    #[test]
    fn no_two_groups_are_about_the_same_until_all_pairs_are_dealt() {
        let dealt = |groups| Subjects::deal(groups, &mut Random::numbered(3, 0)).pairs;
        let pairs = dealt(700);
        assert_eq!(pairs.len(), 700);
        assert!(pairs.iter().all(|[a, b]| a < b && *b < SUBJECTS.len()));
        let distinct = |pairs: &[[usize; 2]]| pairs.iter().collect::<HashSet<_>>().len();
        assert_eq!([distinct(&pairs[..276]), distinct(&pairs[276..552]), distinct(&pairs[552..])], [276, 276, 148]);
        assert_eq!(dealt(20), pairs[..20], "more groups change nothing for the first ones");
    }

    #[test]
    fn a_text_names_words_of_both_subjects_and_of_none() {
        let subjects = Subjects::deal(9, &mut Random::numbered(1, 0));
        let mut random = Random::numbered(1, 1);
        for group in (0..9).chain(0..9) {
            let text = subjects.text(group, &mut random);
            let said: Vec<&str> = text.split(|c: char| !c.is_alphabetic()).collect();
            let of = |words: &[&str]| words.iter().filter(|word| said.contains(word)).count();
            let [a, b] = subjects.pairs[group];
            assert_eq!([of(&SUBJECTS[a]), of(&SUBJECTS[b]), of(&NEUTRAL)], [NAMED, NAMED, IDLE], "{text}");
            assert_eq!(said.iter().filter(|word| **word == "a").count(), 2 * NAMED + IDLE, "{text}");
            assert!(text.starts_with("Here a ") && text.ends_with('.') && text.contains(". There is also a "));
        }
        assert_eq!(listed(&["drum", "flute", "spoon"]), "a drum, a flute and a spoon");
        assert_eq!([listed(&["drum"]), listed(&[])], ["a drum", ""]);
    }
}
