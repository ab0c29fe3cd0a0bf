//! What is mentioned, repeated and written in which language, on texts with known answers.
#![allow(clippy::unwrap_used)]

use super::*;

const EVIDENCE: &[&str] = &["The Matrix (1999)", "Lord of the Rings (1978)", "Action", "Sci-Fi"];

fn vocabulary() -> Vocabulary {
    Vocabulary::new(["Action", "Sci-Fi", "Comedy", "Drama"])
}

#[test]
fn names_are_found() {
    let found = names("People like The Matrix (1999) and Lord of the Rings, which Tom Hanks made. It is great.");
    assert_eq!(found, ["The Matrix 1999", "Lord of the Rings", "Tom Hanks"].map(String::from).to_vec());
}

#[test]
fn grounding_is_the_share_that_the_evidence_holds() {
    let v = vocabulary();
    assert_eq!(grounding("they enjoy action and sci-fi.", EVIDENCE, &v), 1.0);
    assert_eq!(grounding("they enjoy action and comedies.", EVIDENCE, &v), 0.5);
    assert_eq!(grounding("they enjoy Lord of the Rings.", EVIDENCE, &v), 1.0);
    assert_eq!(grounding("they enjoy Titanic.", EVIDENCE, &v), 0.0);
    assert_eq!(mentions("they enjoy action, comedies and Titanic.", EVIDENCE, &v).invented, ["comedy", "titanic"]);
    assert_eq!(grounding("nothing is named here", EVIDENCE, &v), 1.0);
    assert_eq!(grounding("Many people do not like it. Some do.", EVIDENCE, &v), 1.0, "sentences begin with capitals");
    assert_eq!(grounding("They like it. Die Hard is better.", EVIDENCE, &v), 0.0);
    assert_eq!(grounding("Number 3 comes next. Offered number 4, they pass.", EVIDENCE, &v), 1.0);
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
fn polarity() {
    let of = |text: &str, verdict: &str, titles: &[&str], disliked: &[&str]| {
        contradicts(text, verdict, titles, disliked, &[], &[], Language::default())
    };
    assert!(of("The user is not a fan of it", "like", &[], &[]));
    assert!(!of("they love its wit", "like", &[], &["Cats"]));
    assert!(of("they love Cats", "like", &[], &["Cats"]));
    assert!(!of("they love Catskills, whatever it is", "like", &[], &["Cats", "It"]));
    assert!(of("they love it", "dislike", &[], &[]));
    assert!(!of("Few people like the campy songs", "dislike", &[], &[]), "not won over");
    assert!(!of("a disappointed father and son", "like", &[], &[]), "somebody in it, not of it");
    let (faults, praised) = (["The light hinge broke in a week."], ["A light stand."]);
    let faulted = |text: &str| contradicts(text, "dislike", &[], &[], &faults, &praised, Language::default());
    assert!(!faulted("A light stand, though its hinge broke soon") && faulted("A light stand that people enjoy"));
    let title = "10 Things I Hate About You";
    assert!(!of("they love 10 Things I Hate About You and more", "like", &[title], &[]));
}

#[test]
fn polarity_demands_no_english_phrase_of_other_languages() {
    let of = |tag: &str, text: &str, verdict: &str, disliked: &[&str]| {
        contradicts(text, verdict, &[], disliked, &[], &[], Language::of(tag))
    };
    assert!(!of("de", "Sie mögen den Film nicht.", "dislike", &[]));
    assert!(!of("de", "Dislike ist hier kein englisches Wort.", "like", &[]));
    assert!(of("de", "Sie mögen Cats, weil darin getanzt wird.", "like", &["Cats"]));
    assert!(!of("zh", "他们不喜欢这部影片。", "dislike", &[]));
    assert!(of("zh", "他们喜欢英雄本色这样的影片。", "like", &["英雄本色"]), "no spaces around it");
    assert!(!of("zh", "他们喜欢有英雄的影片。", "like", &["英雄"]), "a plain word");
    assert!(of("zh", "他们喜欢《英雄》这样的影片。", "like", &["英雄"]));
    assert!(of("ar", "يحبون أفلاما كتيتانيك.", "like", &["تيتانيك"]), "a particle is written with it");
}

#[test]
fn tags_tell_the_language() {
    assert!(Language::of("en-GB").is_english() && Language::of("EN").is_english());
    assert_eq!(Language::of("de_AT"), Language::of("de"));
    assert!(!Language::of("de").names_have_capitals && Language::of("fr").names_have_capitals);
    assert!(!Language::of("none").names_have_capitals && !Language::of("none").is_english());
    assert!(!Language::of("th").marks_ends() && Language::of("km").marks_ends());
    assert!(NAMES_HAVE_CAPITALS.is_sorted(), "binary search needs it");
    assert_eq!(Language::of("de").share("Sie mögen es."), None);
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
    assert!(repetition("很好看很好看很好看很好看很好看很好看") > 0.5);
    assert_eq!(repetition("喜欢这部影片的人也喜欢这部老片，因为节奏紧凑。"), 0.0);
}

#[test]
fn quotation_marks_of_all_kinds_are_read() {
    let text = "„Eins“, ‚Zwei‘, «trois», »vier«, 《五》, 「六」, “seven”, \"eight\", ”nio”, ‘it’s ten’ and 7\" wide";
    assert_eq!(quoted(text), ["Eins", "Zwei", "trois", "vier", "五", "六", "seven", "eight", "nio", "it’s ten"]);
    assert_eq!(quoted("他说“我喜欢《英雄》”。"), ["英雄"], "the inner one alone");
}

#[test]
fn grounding_in_other_languages() {
    let de = Vocabulary::new(["Krimi", "Komödie"]).in_language("de");
    let evidence = ["Der Pate (1972)", "Das Boot", "Krimi"];
    let of = |text: &str| grounding(text, &evidence, &de);
    assert_eq!(of("Wer Das Boot mag, findet in „Der Pate“ einen Krimi mit Spannung und Atmosphäre."), 1.0);
    assert_eq!(of("Das ist „spannend“ und ein Krimi."), 1.0, "stressed, not named");
    assert!(of("Wer „Metropolis“ mag, mag auch „Der Pate“.") < 1.0);
    assert!(of("Wer Das Boot mag, mag auch diese Komödie.") < 1.0);
    let zh = Vocabulary::new(["科幻", "喜剧", "爱"]).in_language("zh-CN");
    let evidence = ["黑客帝国 (1999)", "英雄", "科幻"];
    let of = |text: &str| grounding(text, &evidence, &zh);
    assert_eq!(of("喜欢黑客帝国和《英雄》的观众也爱这部科幻片。"), 1.0);
    assert!(of("喜欢《泰坦尼克号》的观众也爱这部影片。") < 1.0);
    assert!(of("喜欢《黑客帝国2》的观众也爱这部影片。") < 1.0, "a sequel that was not shown");
    assert!(of("喜欢黑客帝国的观众也爱这部喜剧。") < 1.0);
    let ar = Vocabulary::new(["دراما", "كوميديا"]).in_language("ar");
    let evidence = ["الرسالة (1976)", "دراما"];
    let of = |text: &str| grounding(text, &evidence, &ar);
    assert_eq!(of("يحب المشاهدون فيلم «الرسالة» لأنه دراما مؤثرة."), 1.0);
    assert_eq!(of("والرسالة فيلم مؤثر."), 1.0, "with a particle");
    assert!(of("يحب المشاهدون فيلم «تيتانيك» أيضا.") < 1.0);
    assert!(of("يحب المشاهدون هذا لأنه كوميديا.") < 1.0);
    let ru = Vocabulary::new([]).in_language("ru");
    assert!(grounding("Им понравится «Титаник».", &["Солярис"], &ru) < 1.0);
    assert!(grounding("Они любят Титаник.", &["Солярис"], &ru) < 1.0);
}

#[test]
fn titles_without_a_year_are_told_apart() {
    let evidence = ["Pet Sounds", "Madman Across the Water", "Romeo and Juliet", "Rock"];
    let v = Vocabulary::new(["Rock", "Jazz"]);
    let text = "The user likes Pet Sounds and Madman Across the Water because these are rock.";
    assert_eq!(grounding(text, &evidence, &v), 1.0);
    assert_eq!(grounding("It goes with Romeo and Juliet.", &evidence, &v), 1.0);
    assert_eq!(grounding("It goes with Pet Sounds and Abbey Road.", &evidence, &v), 0.5);
    assert_eq!(grounding("Pet Sounds is jazz.", &evidence, &v), 0.5);
}

#[test]
fn labels_of_attributes_are_no_names() {
    assert_eq!(labelled("Director: Michael Mann"), Some("Michael Mann"));
    assert_eq!(labelled("导演：张艺谋"), Some("张艺谋"));
    assert!(labelled("Crime").is_none() && labelled("Crime: ").is_none() && labelled(": x").is_none());
    let attribute = "Actor: Al Pacino, Robert De Niro";
    let evidence = [attribute, labelled(attribute).unwrap()];
    let of = |text: &str| grounding(text, &evidence, &vocabulary());
    assert_eq!(of("they like what Al Pacino and Robert De Niro do."), 1.0);
    assert!(of("they like what Tom Hanks does.") < 1.0);
}

#[test]
fn telling_words_are_shared() {
    let texts = ["A heist fails, and the robbers flee from a detective.", "detective"];
    let of = |text: &str| concrete(text, &texts, &["Robber (1999)", "Crime"]).0;
    assert_eq!(of("People pick it for heists and detectives."), 2, "{:?}", telling_words(texts[0]));
    assert_eq!(of("People like this great crime movie about a robber."), 0, "its title and its category");
    assert_eq!(concrete("People like it.", &["Great!", "5", "❤❤"], &[]), (0, 0));
    let zh = ["一群劫匪在灯塔里躲藏，警察包围了他们。"];
    let of = |text: &str| concrete(text, &zh, &["灯塔"]).0;
    assert!(of("观众喜欢它，因为劫匪和警察的较量很紧张。") >= 2);
    assert_eq!(of("他们喜欢这部非常好看的电影，灯塔。"), 0);
    assert!(concrete("범죄자를 좋아한다.", &["범죄자가 등대에 숨는다."], &[]).0 >= 2, "particles differ");
}

#[test]
fn runs_of_words_are_copied() {
    let sentences = ["one two three four, five Heat (1995) six"];
    let of = |text: &str, most| copies(text, &sentences, &["Heat (1995)"], most);
    assert!(of("so One two three four five it", 4) && !of("so one two three four five it", 5));
    assert!(of("three four five six", 3) && !of("three four five six", 4), "titles aside");
    assert!(!of("short", 8) && !copies("one two three", &[], &[], 1));
    let zh = ["一群劫匪在灯塔里躲藏，警察包围了他们。"];
    assert!(copies("影片讲一群劫匪在灯塔里躲藏。", &zh, &[], 4), "nine characters and more");
    assert!(!copies("影片讲一群劫匪在灯塔里躲藏。", &zh, &[], 8));
}

#[test]
fn loops_are_repetition() {
    assert_eq!(repetition("one two three four"), 0.0);
    assert!(repetition("a b c a b c a b c a b c") > 0.6);
    assert_eq!(repetition("short"), 0.0);
}

#[test]
fn english_is_told_from_code() {
    assert!(english("they like it because of the story and the music") > 0.5);
    assert!(english("fn main let mut vec println") < 0.1);
    assert!(COMMON_ENGLISH.is_sorted(), "binary search needs it");
    let quoted = ["La Vie en Rose (2007)", "Amores Perros (2000)"];
    let text = "They like La Vie en Rose (2007) and Amores Perros too.";
    assert!(english(text) < english(&without_names(text, &quoted)), "names are of any language");
    assert_eq!(words(&without_names(text, &quoted)), ["they", "like", "and", "too"]);
}

#[test]
fn sentences_end() {
    assert!(is_finished("Yes.") && is_finished("he said \"yes.\"") && !is_finished("and then the"));
    for text in [
        "很好看。",
        "好看！」",
        "（好看。）",
        "本当？",
        "هل تحب هذا؟",
        "یہ اچھا ہے۔",
        "यह अच्छा है।",
        "एक श्लोक॥",
        "Er sagt: „So ist es.“",
        "Il dit «oui.»",
        "»So ist es!«",
        "What‽",
        "And so on…",
        "Да.\u{200f}",
        "ጥሩ ነው።",
        "ល្អ។",
        "ကောင်းတယ်။",
        "Լավ է։",
    ] {
        assert!(is_finished(text), "{text}");
    }
    for text in ["因为它们都是", "لأنه", "weil „Der Pate“", "क्योंकि", ""] {
        assert!(!is_finished(text), "{text}");
    }
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
