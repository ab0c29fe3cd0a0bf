//! What is grounded, repeated, copied and finished, on texts with known answers.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::reward::names::labelled;

const EVIDENCE: &[&str] = &["The Matrix (1999)", "Lord of the Rings (1978)", "Action", "Sci-Fi"];

fn vocabulary() -> Vocabulary {
    Vocabulary::new(["Action", "Sci-Fi", "Comedy", "Drama"])
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
fn a_sentence_is_concrete_and_a_list_is_not() {
    let texts =
        ["A career thief plans one last robbery in Los Angeles while a tired detective hunts him down.", "heist"];
    let of = |text: &str| concreteness(text, &texts, &["Heat (1995)", "Crime"]);
    assert_eq!(of("People like Heat because it is a crime movie."), 0.0, "names and words that fit anything");
    assert!((of("People like it for the heist.") - 1.0 / 6.0).abs() < 1e-12);
    assert!(
        (of("People like it for the heist, the heist and the heists.") - 1.0 / 6.0).abs() < 1e-12,
        "each word once"
    );
    let sentence = "A thief and a tired detective hunt each other in Los Angeles, and then there is the heist.";
    assert!((of(sentence) - 1.0).abs() < 1e-12, "{:?}", telling_words(sentence));
    assert_eq!(of("Heist, robbery, thief, detective, career."), 0.0, "nothing joins the words");
    let dense = of("So heist, robbery, thief, detective, career.");
    assert!((dense - 5.0 / 6.0 * 2.0 / 5.0).abs() < 1e-12, "one word where five telling ones need two and a half");
    assert!(dense < of("It has a heist, a robbery, a thief and a detective."));
    assert_eq!(concreteness("People like it.", &[], &[]), 0.0);
    assert_eq!(concreteness("", &texts, &[]), 0.0);
    // Pairs of characters stand for words, in prose and in lists.
    let zh = ["一群劫匪在灯塔里躲藏，警察包围了他们。"];
    let of = |text: &str| concreteness(text, &zh, &["黑帮"]);
    assert!(of("观众喜欢它，因为劫匪和警察的较量很紧张。") > 0.0);
    assert_eq!(of("劫匪、灯塔、警察、包围"), 0.0);
    assert!(concreteness("그들은 범죄자를 정말 많이 좋아한다.", &["범죄자가 등대에 숨는다."], &[]) > 0.0);
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
    assert!(repetition("很好看很好看很好看很好看很好看很好看") > 0.5);
    assert_eq!(repetition("喜欢这部影片的人也喜欢这部老片，因为节奏紧凑。"), 0.0);
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
