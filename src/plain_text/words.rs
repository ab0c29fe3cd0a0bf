//! The words that carry the content of what a person wrote.
//!
//! The lists of words are English with the commonest of German, French and Spanish; what is in no list is kept, in every
//! script. Pure functions of the text: knows nothing of tables, prompts or models.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use unicode_segmentation::UnicodeSegmentation;

use crate::plain_text::lines::{beginning, is_unspaced, plain_lines};

/// Words that stand in every text, whatever it is about. Those that are words of content in English ("war", "son") are not
/// here, though they are function words elsewhere.
const FUNCTION_WORDS: &str = "
    a able about above across after again against ago ah all almost along already also although always am among an and
    another any anybody anyone anything anyway anywhere are aren around as at away back be became because become been
    before behind being below beside besides between beyond both but by came can cannot come comes coming could couldn did
    didn do does doesn doing don done down during each either else enough etc even ever every everybody everyone everything
    everywhere few for from further gave give given gives go goes going gone had hadn has hasn have haven having he hence
    her here hers herself him himself his how however i if in indeed instead into is isn it its itself just keep keeps kept
    knew know known knows least less let lets made make makes making many may maybe me might mine more most much must my
    myself near need needed needs neither never no nobody none nor not nothing now nowhere of off often oh on once only onto
    or other others otherwise ought our ours ourselves out over own per perhaps put quite rather said same saw say saying
    says see seem seemed seems seen several shall she should shouldn since so some somebody someone something sometimes
    somewhere soon still such take taken takes taking than that the their theirs them themselves then there therefore these
    they think this those though thought through throughout thus till to together too took toward towards under unless until
    up upon us use used uses using usually very via want wanted wants was wasn way we well went were weren what whatever
    when whenever where whereas whether which while who whoever whole whom whose why will with within without won would
    wouldn yes yet you your yours yourself yourselves com www
    aber alle allem allen aller alles als auch auf aus bei beim bin bis bist das dass daß dein deine dem den der des dich
    die dies diese diesem diesen dieser dieses dir doch dort du durch ein eine einem einen einer eines er es etwas euch für
    gegen habe haben hatte hatten hier ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im immer ins ist jede jedem jeden jeder
    jedes jetzt kann kein keine keinen können mehr mein meine meinem meinen meiner mich mir mit muss muß müssen nach nicht
    nichts noch nur ob oder ohne schon sehr sein seine seinem seinen seiner seit sich sie sind soll sollte über um und uns
    unser unsere viel viele vom von vor waren weil wenn werden wie wieder wir wird wurde wurden würde zu zum zur zwischen
    au aux avec avoir bien ce ces cet cette comme dans de elle elles en est et être été fait il ils je la le les leur
    leurs lui mais mes moi mon même ne notre nous ou où par pas plus pour que quel quelle qui sa sans ses sont sur ta tous
    tout toute toutes très tu un une vos votre vous
    como con cuando del desde donde el ella ellos era esta está este esto estos fue han hasta hay las los más mis muy nos
    para pero por porque quien ser sobre su sus también tan te tiene todo todos una uno unos ya";

/// Words that say nothing in a review: of a hundred reviews most hold some of them, whatever they are about, so they would
/// join every two texts. Praise and blame that says what about ("boring", "durable") is content and not here.
const EMPTY_WORDS: &str = "
    absolutely actually album amazing author awesome bad best better big bit book bought buy buying completely definitely
    dvd enjoy enjoyed excellent fan far favorite favourite feel felt film find first found get gets getting glad good got
    great happy hate hated highly hope item last like liked likes literally little long look looked looking looks lot lots
    love loved loves loving movie nice one ones order ordered part perfect pretty probably product purchase purchased read
    reading real really recommend recommended review right second song star stuff super sure thank thanks thing time top
    totally track tried truly try two watch watched watching work worked works worth year
    besser buch einfach empfehlen gekauft ganz gut gute guten guter gutes kaufen produkt toll tolle
    bon bonne livre produit producto bueno buena libro película";

static STOP_WORDS: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| FUNCTION_WORDS.split_whitespace().chain(EMPTY_WORDS.split_whitespace()).collect());

/// Words with which a sentence may begin.
pub(super) static STARTERS: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| FUNCTION_WORDS.split_whitespace().collect());

/// Letters that French and Italian elide before a vowel.
const ELISIONS: &[&str] = &["l", "d", "j", "c", "n", "s", "m", "t", "qu", "dell", "nell", "all", "dall", "un"];

/// The words that carry the content of a text, lower case, each once, in the order in which they first stand.
///
/// Without function words, words that say nothing in a review, numbers and words of fewer than three letters. A plain
/// English plural is its singular ("robots" is "robot"). In scripts without spaces, every two characters that stand
/// together are a word. The text is read as [`split_sentences`](crate::plain_text::sentences::split_sentences) reads it.
pub fn content_words(text: &str) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut add = |word: String| {
        if seen.insert(word.clone()) {
            found.push(word);
        }
    };
    for line in plain_lines(beginning(text).0) {
        let mut from = 0;
        let (mut spaced, mut unspaced) = (String::new(), Vec::<&str>::new());
        for cluster in line.graphemes(true) {
            from += cluster.len();
            let is_in_run = cluster.starts_with(is_unspaced);
            match is_in_run {
                true => unspaced.push(cluster),
                false => spaced.push_str(cluster),
            }
            let is_last = from == line.len();
            if (is_in_run || is_last) && !spaced.is_empty() {
                spaced.unicode_words().for_each(|words| words_within(words).for_each(&mut add));
                spaced.clear();
            }
            if (!is_in_run || is_last) && !unspaced.is_empty() {
                unspaced.windows(2).for_each(|pair| add(pair.concat()));
                unspaced.clear();
            }
        }
    }
    found
}

/// The content words of what Unicode takes for one word: "movie.The" is two.
fn words_within(word: &str) -> impl Iterator<Item = String> {
    word.split(['.', ':', '_']).filter_map(content_word)
}

/// A word as it counts, or `None` where it says nothing.
fn content_word(word: &str) -> Option<String> {
    let lower = word.to_lowercase().replace(['’', 'ʼ', '＇'], "'");
    let mut word = lower.trim_matches(|c: char| !c.is_alphanumeric());
    if word.ends_with("n't") {
        return None;
    }
    if let Some((article, rest)) = word.split_once('\'')
        && ELISIONS.contains(&article)
        && rest.chars().count() > 1
    {
        word = rest;
    }
    word = match word.split_once('\'') {
        Some((owner, "s")) => owner,
        Some((stem, _)) if STOP_WORDS.contains(stem) => return None,
        _ => word,
    };
    // A syllable of Korean is written as one character.
    let letters = |c: char| if matches!(c, '\u{ac00}'..='\u{d7a3}') { 2 } else { usize::from(c.is_alphanumeric()) };
    let has_letters = word.chars().map(letters).sum::<usize>() > 2 && word.contains(char::is_alphabetic);
    if !has_letters || word.starts_with(char::is_numeric) || STOP_WORDS.contains(word) {
        return None;
    }
    let singular = singular(word);
    (!STOP_WORDS.contains(singular.as_ref())).then(|| singular.into_owned())
}

/// Words of English that end in `s` in the singular.
const SINGULAR: &[&str] = &[
    "alas",
    "atlas",
    "canvas",
    "chaos",
    "christmas",
    "clothes",
    "cosmos",
    "ethos",
    "gas",
    "james",
    "lens",
    "mars",
    "news",
    "pathos",
    "physics",
    "politics",
    "series",
    "species",
    "texas",
];
/// Beginnings of words in `ie`.
const IN_IE: &[&str] = &[
    "birdie", "brownie", "calorie", "collie", "cookie", "foodie", "genie", "groupie", "hippie", "hoodie", "indie",
    "junkie", "lingerie", "movie", "newbie", "pixie", "prairie", "rookie", "selfie", "smoothie", "sortie", "techie",
    "veggie", "zombie",
];
/// Words whose plural has `es` though their ends do not ask for it.
const IN_ES: &[&str] = &[
    "bonus", "bus", "campus", "cargo", "chorus", "circus", "domino", "echo", "gas", "hero", "lens", "mango",
    "mosquito", "potato", "tomato", "tornado", "torpedo", "veto", "virus", "volcano",
];

/// The singular of a plain English plural in `s`, `es` or `ies`; other words as they are.
fn singular(word: &str) -> Cow<'_, str> {
    let is_plural = word.len() > 3 && word.is_ascii() && word.ends_with('s');
    if !is_plural || word.ends_with("ss") || word.ends_with("us") || word.ends_with("is") || SINGULAR.contains(&word) {
        return Cow::Borrowed(word);
    }
    let stem = &word[..word.len() - 1];
    if let Some(begin) = word.strip_suffix("ies") {
        let is_in_ie = begin.len() < 2 || IN_IE.contains(&stem);
        return if is_in_ie { Cow::Borrowed(stem) } else { Cow::Owned(format!("{begin}y")) };
    }
    if let Some(begin) = word.strip_suffix("es") {
        let keeps_e = ["ach", "cach", "headach", "heartach", "mustach", "toothach"].contains(&begin);
        let takes_es = ["ch", "sh", "ss", "x", "zz"].iter().any(|end| begin.ends_with(end)) && !keeps_e;
        if takes_es || IN_ES.contains(&begin) {
            return Cow::Borrowed(begin);
        }
    }
    Cow::Borrowed(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_words_are_what_a_text_is_about() {
        let text = "I really love this robot! My son's robots aren't great, but it's the battery’s 20 hours that we’d buy. \
                    <br>Batteries &amp; boxes: 4K, MP3, 3D; movies and zombies.A bus with glasses";
        let expected = ["robot", "son", "battery", "hour", "box", "mp3", "zombie", "bus", "glass"];
        assert_eq!(content_words(text), expected);
        assert_eq!(content_words("L'histoire d'un homme"), ["histoire", "homme"]);
        assert_eq!(content_words("机器人大战 robot机器人"), ["机器", "器人", "人大", "大战", "robot"]);
        assert_eq!(content_words("로봇 영화"), ["로봇", "영화"]);
        assert_eq!(content_words("The U.S. is on, 👍 12 go ok"), Vec::<String>::new());
        assert!(content_words("").is_empty());
    }

    #[test]
    fn only_plain_plurals_are_folded() {
        let pairs = [
            ("robots", "robot"),
            ("stories", "story"),
            ("movies", "movie"),
            ("ties", "tie"),
            ("boxes", "box"),
            ("dishes", "dish"),
            ("classes", "class"),
            ("headaches", "headache"),
            ("houses", "house"),
            ("lenses", "lens"),
            ("heroes", "hero"),
            ("shoes", "shoe"),
            ("boss", "boss"),
            ("virus", "virus"),
            ("basis", "basis"),
            ("series", "series"),
            ("gas", "gas"),
            ("größes", "größes"),
        ];
        for (plural, expected) in pairs {
            assert_eq!(singular(plural), expected);
            assert_eq!(singular(&singular(plural)), expected, "folding twice changes nothing");
        }
    }

    #[test]
    fn lists_have_each_word_once() {
        for list in [FUNCTION_WORDS, EMPTY_WORDS] {
            let mut words: Vec<&str> = list.split_whitespace().collect();
            let count = words.len();
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), count);
        }
    }
}
