//! The words that carry the content of what a person wrote.
//!
//! The lists of words are English with the commonest of German, French, Spanish and Chinese; what is in no list is kept, in
//! every script. Pure functions of the text: knows nothing of tables, prompts or models.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use unicode_segmentation::UnicodeSegmentation;

use crate::plain_text::lines::{beginning, is_kana, is_unspaced, plain_lines};

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

/// Characters of Chinese that are grammar nearly always: a pair of characters that holds one is no word of content.
const PARTICLES: &[char] = &[
    '的', '了', '着', '们', '我', '你', '您', '他', '她', '它', '这', '那', '哪', '谁', '吗', '呢', '吧', '啊', '呀',
    '嘛', '哦', '是', '在', '也', '很', '而', '但', '与', '和', '及', '或', '被', '把', '让', '从', '之', '其', '此',
    '个', '一', '并', '且', '又', '还', '已', '仍', '每', '各', '些', '么', '什', '最', '們', '這', '個', '並', '還',
    '麼', '讓', '與', '從', '誰', '嗎', '著',
];

/// Pairs of characters of Chinese that say nothing, as the lists above.
const EMPTY_PAIRS: &[&str] = &[
    "不错", "东西", "书中", "书里", "书籍", "产品", "作品", "作者", "值得", "出来", "别人", "剧情", "发现", "可以",
    "可能", "喜欢", "喜歡", "因为", "因為", "大家", "如果", "开始", "影片", "影评", "情节", "感觉", "所以", "所有",
    "推荐", "推薦", "故事", "时候", "有点", "没有", "沒有", "然后", "特别", "电影", "看到", "知道", "虽然", "觉得",
    "讲述", "认为", "起来", "购买", "部分", "非常", "電影", "内容", "不会", "不能", "不要", "只有", "覺得", "部电",
];

/// Letters that French and Italian elide before a vowel.
const ELISIONS: &[&str] = &["l", "d", "j", "c", "n", "s", "m", "t", "qu", "dell", "nell", "all", "dall", "un"];

/// The words that carry the content of a text, lower case, each once, in the order in which they first stand.
///
/// Without function words, words that say nothing in a review, numbers and words of fewer than three letters. A plain
/// English plural is its singular ("robots" is "robot"). In scripts without spaces, every two characters that stand
/// together are a word; in Chinese none of them is a particle ([`whole_words`] puts longer words together again). The text
/// is read as [`split_sentences`](crate::plain_text::sentences::split_sentences) reads it.
pub fn content_words(text: &str) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut add = |word: String| {
        if seen.insert(word.clone()) {
            found.push(word);
        }
    };
    for line in plain_lines(beginning(text).0) {
        // Japanese writes some of the particles' characters in its words.
        let is_chinese = !line.contains(is_kana);
        let mut from = 0;
        let (mut spaced, mut unspaced) = (String::new(), Vec::<&str>::new());
        for cluster in line.graphemes(true) {
            from += cluster.len();
            let is_in_run = cluster.starts_with(is_unspaced);
            let is_particle = is_chinese && cluster.starts_with(PARTICLES);
            match is_in_run {
                true if is_particle => {}
                true => unspaced.push(cluster),
                false => spaced.push_str(cluster),
            }
            let is_last = from == line.len();
            if (is_in_run || is_last) && !spaced.is_empty() {
                spaced.unicode_words().for_each(|words| words_within(words).for_each(&mut add));
                spaced.clear();
            }
            if (!is_in_run || is_particle || is_last) && !unspaced.is_empty() {
                let pairs = unspaced.windows(2).map(|pair| pair.concat());
                pairs.filter(|pair| !EMPTY_PAIRS.contains(&pair.as_str())).for_each(&mut add);
                unspaced.clear();
            }
        }
    }
    found
}

/// Words as people read them: of scripts without spaces, the pairs of characters of [`content_words`] put together where
/// they belong together in `texts`; other words as they are.
///
/// No dictionary is asked. Two pairs that overlap are one word where neither stands anywhere without the other; a pair that
/// stands only together with a more frequent one is no word of its own ("爱情" and the "情故" of "爱情故事"). A word has at
/// most eight characters, and the place of the first of its pairs.
pub fn whole_words(words: &[&str], texts: &[&str]) -> Vec<String> {
    let mut found: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let times = |piece: &str| texts.iter().map(|text| text.matches(piece).count()).sum::<usize>();
    while let Some((first, second, joined)) = overlap(&found, times) {
        let (stays, goes) = (first.min(second), first.max(second));
        if let Some(joined) = joined {
            found[stays] = joined;
            found.remove(goes);
        } else {
            // The less frequent one.
            let is_first = times(&found[first]) < times(&found[second]);
            found.remove(if is_first { first } else { second });
        }
    }
    found
}

/// Longest word that is put together, in characters as people see them.
const MAX_WHOLE: usize = 8;

/// The first two words that overlap in the texts, the places of the left and the right one: what they are together, or `None`
/// where one of them stands elsewhere too.
fn overlap(words: &[String], times: impl Fn(&str) -> usize) -> Option<(usize, usize, Option<String>)> {
    for (first, left) in words.iter().enumerate().filter(|(_, word)| word.starts_with(is_unspaced)) {
        let last = left.graphemes(true).next_back().unwrap_or_default();
        for (second, right) in words.iter().enumerate() {
            let Some(rest) = right.strip_prefix(last).filter(|rest| first != second && !rest.is_empty()) else {
                continue;
            };
            let joined = format!("{left}{rest}");
            let [together, of_left, of_right] = [times(&joined), times(left), times(right)];
            if together == 0 || joined.graphemes(true).count() > MAX_WHOLE {
                continue;
            }
            if together == of_left && together == of_right {
                return Some((first, second, Some(joined)));
            }
            if together == of_left || together == of_right {
                return Some((first, second, None));
            }
        }
    }
    None
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
        assert_eq!(
            content_words("他是孤独的灯塔守望者，喜欢和海鸥聊天。"),
            ["孤独", "灯塔", "塔守", "守望", "望者", "海鸥", "鸥聊", "聊天"]
        );
        assert_eq!(
            content_words("一致性が在る"),
            ["一致", "致性", "性が", "が在", "在る"],
            "Japanese has words with them"
        );
        assert_eq!(content_words("The U.S. is on, 👍 12 go ok"), Vec::<String>::new());
        assert!(content_words("").is_empty());
    }

    #[test]
    fn pairs_of_characters_are_put_together_as_the_texts_have_them() {
        let whole = |words: &[&str], texts: &[&str]| whole_words(words, texts);
        assert_eq!(whole(&["守望", "灯塔", "望者"], &["灯塔守望者", "灯塔", "守望者的灯"]), ["守望者", "灯塔"]);
        assert_eq!(whole(&["robot", "机器", "器人"], &["一个robot，机器人"]), ["robot", "机器人"]);
        // What stands across two words stands only where they meet.
        assert_eq!(whole(&["爱情", "情感", "感人"], &["爱情感人", "爱情", "感人"]), ["爱情", "感人"]);
        assert_eq!(whole(&["爱情", "情感"], &["没有"]), ["爱情", "情感"], "nothing is joined that no text has");
        assert_eq!(whole(&["哈哈"], &["哈哈哈哈"]), ["哈哈"]);
        assert!(whole(&[], &["灯塔"]).is_empty());
        let long = "甲乙丙丁戊己庚辛壬癸";
        let pairs = content_words(long);
        let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
        assert!(whole(&pairs, &[long]).iter().all(|word| word.chars().count() <= MAX_WHOLE));
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
