//! What differs from language to language: words that are common, deny or say nothing, the marks that end sentences, whether
//! capital letters tell names, and what counts as a word.
//!
//! Lists and pure functions over text. Knows nothing of evidence or of what is asked of a reason.

use unicode_segmentation::UnicodeSegmentation;

use crate::plain_text::lines::{is_han, is_kana, is_unspaced};

/// Commonest English words: ordinary prose is full of them, tables, code and other languages are not.
pub(super) const COMMON_ENGLISH: &[&str] = &[
    "a", "about", "after", "all", "also", "an", "and", "are", "as", "at", "be", "because", "been", "before", "being",
    "between", "but", "by", "can", "could", "did", "does", "down", "even", "every", "for", "from", "give", "had",
    "has", "have", "he", "her", "his", "how", "i", "if", "in", "into", "is", "it", "its", "just", "lets", "like",
    "likes", "made", "make", "makes", "many", "more", "most", "much", "my", "not", "of", "on", "only", "or", "other",
    "our", "out", "over", "own", "people", "she", "should", "so", "some", "such", "than", "that", "the", "their",
    "them", "then", "there", "these", "they", "this", "those", "through", "to", "too", "two", "under", "until", "up",
    "very", "was", "were", "what", "when", "where", "which", "while", "who", "whose", "why", "will", "with", "without",
    "would", "you", "your",
];

/// Commonest German words, as those of English.
const COMMON_GERMAN: &[&str] = &[
    "aber", "alle", "allem", "allen", "aller", "alles", "als", "also", "am", "an", "andere", "anderen", "auch", "auf",
    "aus", "bei", "beim", "bin", "bis", "bisschen", "da", "dabei", "dafür", "dagegen", "daher", "damit", "dann",
    "daran", "darauf", "darin", "das", "dass", "dazu", "daß", "dein", "dem", "den", "denen", "denn", "der", "deren",
    "des", "dessen", "die", "dies", "diese", "diesem", "diesen", "dieser", "dieses", "doch", "dort", "durch", "ein",
    "eine", "einem", "einen", "einer", "eines", "einige", "er", "es", "etwas", "für", "fürs", "gegen", "gern", "gerne",
    "hat", "hatte", "hatten", "hier", "hin", "hinter", "ich", "ihm", "ihn", "ihnen", "ihr", "ihre", "ihrem", "ihren",
    "ihrer", "im", "immer", "in", "ins", "ist", "ja", "jede", "jedem", "jeden", "jeder", "jedes", "kann", "kein",
    "keine", "keinen", "können", "könnten", "lässt", "mag", "man", "mehr", "mein", "mit", "mögen", "nach", "nicht",
    "nichts", "noch", "nur", "ob", "oder", "ohne", "schon", "sehr", "sein", "seine", "seinem", "seinen", "seiner",
    "selbst", "sich", "sie", "sind", "so", "solche", "sondern", "sowie", "statt", "trotz", "um", "und", "uns", "unter",
    "viel", "viele", "vielen", "vom", "von", "vor", "war", "waren", "warum", "was", "weil", "welche", "wenn", "wer",
    "werden", "wie", "will", "wir", "wird", "wo", "wurde", "wurden", "während", "würde", "zu", "zum", "zur", "zwar",
    "zwischen", "über",
];

/// Phrases that say somebody does not like something.
pub(super) const NEGATIVE: &[&str] = &[
    "not a fan",
    "not fans",
    "don't like",
    "do not like",
    "doesn't like",
    "does not like",
    "dislike",
    "dislikes",
    "disliked",
    "not enjoy",
    "not interested",
    "would not like",
    "not like",
    "hate",
    "hates",
    "hated",
];

/// More ways of saying that people were not won over: enough where the verdict is a dislike, and no proof against a like.
pub(super) const UNIMPRESSED: &[&str] = &[
    "disappoints many",
    "disappoints most",
    "few are won over",
    "few like",
    "few people like",
    "few people take to",
    "few take to",
    "most are not won over",
    "most do not take to",
];

/// Words that reviews of anything have, and those of the built-in stems: they say nothing of this item or user.
pub(super) const EMPTY_WORDS: &str = "absolutely actually add admire amazing appreciate audience author awesome awful bad because best better big \
    bit book brilliant buy category certain choose classic come content decent despite differ different dislike disliked do does \
    draw drawn easily effect element engaging enjoy enjoyable enjoyed entertaining entertainment especially every everybody \
    everyone excellent experience fan fantastic fault favorite favourite feel film fine find focus found full fun general genre \
    get give go goes good great hate high highly history item keep kind know large like liked likely little long look lot love \
    loved low main make man many mixed movie must need never new nice not old opinion overall part people perfect perfectly \
    person pick piece plenty point poor popular praise prefer pretty product purchase quality quite rate rating read reader real \
    really reason recommend recommended review reviewer say see seem several show simply small some something sort star stuff \
    style superb sure taste terrible thing think thought time title together top try type unique use user usual various version \
    viewer want watch way well will wonderful work worst worth year";

/// The same of languages whose words are told as pairs of characters.
pub(super) const EMPTY_PAIRS: &[&str] = &[
    "不是", "个人", "人们", "他们", "作品", "作者", "你们", "内容", "可以", "喜欢", "因为", "影片", "很多", "我们",
    "所以", "故事", "用户", "电影", "观众", "这个", "这些", "这样", "这部", "部影", "的人", "非常", "映画", "です",
    "ます", "この", "영화", "사람", "들은", "들이",
];

/// Languages in which a capital letter within a sentence marks a name. German and Luxembourgish write every noun so; other
/// scripts have no capitals.
const NAMES_HAVE_CAPITALS: &[&str] = &[
    "af", "az", "be", "bg", "bs", "ca", "cs", "cy", "da", "el", "en", "eo", "es", "et", "eu", "fi", "fil", "fo", "fr",
    "fy", "ga", "gl", "hr", "hu", "hy", "id", "is", "it", "kk", "ky", "lt", "lv", "mk", "mn", "ms", "mt", "nb", "nl",
    "nn", "no", "pl", "pt", "rm", "ro", "ru", "sk", "sl", "sq", "sr", "sv", "sw", "tg", "tl", "tr", "uk", "uz", "vi",
];

/// Languages whose sentences end without a mark.
const NO_SENTENCE_MARKS: &[&str] = &["lo", "th"];

/// Marks that end a sentence, of all scripts.
pub(super) const SENTENCE_ENDS: &[char] = &[
    '.', '!', '?', '…', '‽', '‼', '⁇', '⁈', '⁉', '。', '．', '！', '？', '｡', '﹒', '﹖', '﹗', '؟', '۔', '؞', '।',
    '॥', '։', '՜', '՞', '።', '፧', '።', '፨', '។', '៕', '။', '།', '༎', '᠃', '᙮', '܀', '܁', '܂', '\u{37e}',
];

/// Quotation marks and brackets that may close after the end of a sentence; German closes with `“` and some write `»so«`.
pub(super) const CLOSING: &[char] = &[
    '"', '\'', ')', ']', '}', '”', '’', '“', '‘', '»', '«', '›', '‹', '」', '』', '》', '〉', '】', '〕', '〗', '）',
    '］', '｝', '＂',
];

/// How texts of a language are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Language {
    /// It has lists of phrases that deny, and of words that look like names.
    is_english: bool,
    /// Its commonest words, sorted; empty where they are not known.
    common: &'static [&'static str],
    /// Names are told by their capital letters; elsewhere by quotation marks.
    pub(super) names_have_capitals: bool,
    /// Sentences end with a mark.
    marks_ends: bool,
    /// Which letters it is written with, where that tells it from others.
    script: Option<Script>,
}

/// Letters that tell a language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    Arabic,
    Chinese,
    Cyrillic,
    Devanagari,
    Greek,
    Hebrew,
    Japanese,
    Korean,
    Thai,
}

impl Script {
    fn of(code: &str) -> Option<Script> {
        Some(match code {
            "ar" | "ckb" | "fa" | "ps" | "sd" | "ug" | "ur" => Script::Arabic,
            "lzh" | "wuu" | "yue" | "zh" => Script::Chinese,
            "be" | "bg" | "kk" | "ky" | "mk" | "ru" | "tg" | "uk" => Script::Cyrillic,
            "hi" | "mr" | "ne" | "sa" => Script::Devanagari,
            "el" => Script::Greek,
            "he" | "yi" => Script::Hebrew,
            "ja" => Script::Japanese,
            "ko" => Script::Korean,
            "th" => Script::Thai,
            _ => return None,
        })
    }

    fn holds(self, c: char) -> bool {
        match self {
            Script::Arabic => {
                matches!(c, '\u{600}'..='\u{6ff}' | '\u{750}'..='\u{77f}' | '\u{870}'..='\u{8ff}' | '\u{fb50}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}')
            }
            Script::Chinese => is_han(c),
            Script::Cyrillic => matches!(c, '\u{400}'..='\u{52f}' | '\u{1c80}'..='\u{1c8f}' | '\u{a640}'..='\u{a69f}'),
            Script::Devanagari => matches!(c, '\u{900}'..='\u{97f}' | '\u{a8e0}'..='\u{a8ff}'),
            Script::Greek => matches!(c, '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}'),
            Script::Hebrew => matches!(c, '\u{590}'..='\u{5ff}' | '\u{fb1d}'..='\u{fb4f}'),
            Script::Japanese => is_han(c) || is_kana(c),
            Script::Korean => {
                is_han(c)
                    || matches!(c, '\u{1100}'..='\u{11ff}' | '\u{3130}'..='\u{318f}' | '\u{a960}'..='\u{a97f}' | '\u{ac00}'..='\u{d7ff}')
            }
            Script::Thai => matches!(c, '\u{e00}'..='\u{e7f}'),
        }
    }
}

impl Default for Language {
    fn default() -> Self {
        Language::of("en")
    }
}

impl Language {
    /// The language of a tag such as `de`, `zh-Hant` or `en-GB`. Of one that is not known here only what holds for all
    /// languages is asked.
    pub fn of(tag: &str) -> Language {
        let tag = tag.to_ascii_lowercase();
        let code = tag.split(['-', '_']).next().unwrap_or_default();
        Language {
            is_english: code == "en",
            common: match code {
                "de" => COMMON_GERMAN,
                "en" => COMMON_ENGLISH,
                _ => &[],
            },
            names_have_capitals: NAMES_HAVE_CAPITALS.binary_search(&code).is_ok(),
            marks_ends: !NO_SENTENCE_MARKS.contains(&code),
            script: Script::of(code),
        }
    }

    /// Whether it is English.
    pub fn is_english(self) -> bool {
        self.is_english
    }

    /// Whether its sentences end with a mark, so that [`is_finished`](crate::reward::checks::is_finished) tells something.
    pub fn marks_ends(self) -> bool {
        self.marks_ends
    }

    /// How much of a text is of this language, 0 to 1: the share of common words of English or German, or the share of
    /// letters that are of the language's script; `None` where neither tells it.
    pub fn share(self, text: &str) -> Option<f64> {
        if !self.common.is_empty() {
            return Some(share_of(text, self.common));
        }
        let script = self.script?;
        let letters = text.chars().filter(|c| c.is_alphabetic()).count();
        let own = text.chars().filter(|c| c.is_alphabetic() && script.holds(*c)).count();
        Some(if letters == 0 { 0.0 } else { own as f64 / letters as f64 })
    }
}

/// Words of a text as they are written, without punctuation; each character, with its marks, of a script without spaces
/// counts as one.
pub(super) fn raw_words(text: &str) -> Vec<String> {
    let (mut found, mut word) = (Vec::new(), String::new());
    let close = |word: &mut String, found: &mut Vec<String>| {
        found.push(word.trim_matches(['\'', '-']).to_owned());
        word.clear();
    };
    for cluster in text.graphemes(true) {
        match cluster.chars().next() {
            Some(c) if is_unspaced(c) => {
                close(&mut word, &mut found);
                found.push(cluster.to_owned());
            }
            Some(c) if c.is_alphanumeric() || c == '\'' || c == '-' => word.push_str(cluster),
            _ => close(&mut word, &mut found),
        }
    }
    close(&mut word, &mut found);
    found.retain(|word| !word.is_empty());
    found
}

/// Words of a text, lower case, without punctuation. In scripts without spaces (Chinese, Japanese, Thai, ...) each character
/// counts as a word.
pub fn words(text: &str) -> Vec<String> {
    raw_words(text).into_iter().map(|word| word.to_lowercase()).collect()
}

/// Letters and digits only, lower case, single spaces: what two spellings of one name have in common.
pub fn normalise(text: &str) -> String {
    words(text).join(" ").replace('\'', "")
}

/// How long a text is, in words. Two characters of a script without spaces count as one, as everywhere that sentences are
/// measured.
pub fn word_count(text: &str) -> usize {
    let words = raw_words(text);
    let characters = words.iter().filter(|word| word.starts_with(is_unspaced)).count();
    words.len() - characters + characters.div_ceil(2)
}

/// Share of the words that stand in a sorted list.
fn share_of(text: &str, common: &[&str]) -> f64 {
    let words = words(text);
    if words.is_empty() {
        return 0.0;
    }
    words.iter().filter(|word| common.binary_search(&word.as_str()).is_ok()).count() as f64 / words.len() as f64
}

#[cfg(test)]
mod tests;
