//! Checks of a reason's text against its evidence: grounding, polarity, concreteness, copying, repetition, length, language.
//!
//! Pure functions over text; they are the first version of a reward, before a model learns one. What differs from language
//! to language stands in [`Language`]. Knows nothing of tables, models or thresholds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::LazyLock;

use unicode_segmentation::UnicodeSegmentation;

use crate::plain_text::lines::{is_han, is_kana, is_unspaced};
use crate::plain_text::words::content_words;

/// Words that may begin with a capital letter without naming anything.
const NOT_NAMES: &[&str] = &[
    "a",
    "all",
    "also",
    "although",
    "an",
    "and",
    "as",
    "at",
    "because",
    "both",
    "but",
    "by",
    "each",
    "film",
    "films",
    "for",
    "from",
    "furthermore",
    "he",
    "her",
    "his",
    "however",
    "i",
    "if",
    "in",
    "it",
    "its",
    "movie",
    "movies",
    "number",
    "of",
    "on",
    "or",
    "overall",
    "people",
    "she",
    "so",
    "some",
    "such",
    "that",
    "the",
    "their",
    "there",
    "these",
    "they",
    "this",
    "those",
    "to",
    "viewers",
    "we",
    "what",
    "when",
    "which",
    "while",
    "who",
    "with",
    "you",
];

/// Small words that join the parts of a name ("Lord of the Rings").
const JOINS: &[&str] = &["a", "an", "at", "by", "de", "for", "in", "la", "le", "of", "on", "the", "to"];

/// Commonest English words: ordinary prose is full of them, tables, code and other languages are not.
const COMMON_ENGLISH: &[&str] = &[
    "a", "about", "after", "all", "also", "an", "and", "are", "as", "at", "be", "because", "been", "before", "being",
    "between", "but", "by", "can", "could", "did", "does", "down", "even", "every", "for", "from", "give", "had",
    "has", "have", "he", "her", "his", "how", "i", "if", "in", "into", "is", "it", "its", "just", "lets", "like",
    "likes", "made", "make", "makes", "many", "more", "most", "much", "my", "not", "of", "on", "only", "or", "other",
    "our", "out", "over", "own", "people", "she", "should", "so", "some", "such", "than", "that", "the", "their",
    "them", "then", "there", "these", "they", "this", "those", "through", "to", "too", "two", "under", "until", "up",
    "very", "was", "were", "what", "when", "where", "which", "while", "who", "whose", "why", "will", "with", "without",
    "would", "you", "your",
];

/// Phrases that say somebody does not like something.
const NEGATIVE: &[&str] = &[
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
const UNIMPRESSED: &[&str] = &[
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
const EMPTY_WORDS: &str = "absolutely actually add admire amazing appreciate audience author awesome awful bad because best better big \
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
const EMPTY_PAIRS: &[&str] = &[
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
const SENTENCE_ENDS: &[char] = &[
    '.', '!', '?', '…', '‽', '‼', '⁇', '⁈', '⁉', '。', '．', '！', '？', '｡', '﹒', '﹖', '﹗', '؟', '۔', '؞', '।',
    '॥', '։', '՜', '՞', '።', '፧', '።', '፨', '។', '៕', '။', '།', '༎', '᠃', '᙮', '܀', '܁', '܂', '\u{37e}',
];

/// Quotation marks and brackets that may close after the end of a sentence; German closes with `“` and some write `»so«`.
const CLOSING: &[char] = &[
    '"', '\'', ')', ']', '}', '”', '’', '“', '‘', '»', '«', '›', '‹', '」', '』', '》', '〉', '】', '〕', '〗', '）',
    '］', '｝', '＂',
];

/// How texts of a language are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Language {
    /// It has lists of common words and of phrases that deny.
    is_english: bool,
    /// Names are told by their capital letters; elsewhere by quotation marks.
    names_have_capitals: bool,
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
            names_have_capitals: NAMES_HAVE_CAPITALS.binary_search(&code).is_ok(),
            marks_ends: !NO_SENTENCE_MARKS.contains(&code),
            script: Script::of(code),
        }
    }

    /// Whether it is English.
    pub fn is_english(self) -> bool {
        self.is_english
    }

    /// Whether its sentences end with a mark, so that [`is_finished`] tells something.
    pub fn marks_ends(self) -> bool {
        self.marks_ends
    }

    /// How much of a text is of this language, 0 to 1: the share of common words of English, or the share of letters that
    /// are of the language's script; `None` where neither tells it.
    pub fn share(self, text: &str) -> Option<f64> {
        if self.is_english {
            return Some(english(text));
        }
        let script = self.script?;
        let letters = text.chars().filter(|c| c.is_alphabetic()).count();
        let own = text.chars().filter(|c| c.is_alphabetic() && script.holds(*c)).count();
        Some(if letters == 0 { 0.0 } else { own as f64 / letters as f64 })
    }
}

/// Whether it is a letter that has a case, or a digit: words of such scripts stand apart, and nothing is attached to names.
fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || c.is_numeric()
}

/// Words of a text as they are written, without punctuation; each character, with its marks, of a script without spaces
/// counts as one.
fn raw_words(text: &str) -> Vec<String> {
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

/// The attributes (genres, categories) that a catalogue uses, so that a mention of one can be told from plain words.
#[derive(Debug, Default, Clone)]
pub struct Vocabulary {
    attributes: HashSet<String>,
    longest: usize,
    /// Titles without punctuation and year, and the words of the longest.
    titles: HashSet<String>,
    longest_title: usize,
    language: Language,
}

impl Vocabulary {
    /// From the catalogue's attribute values; texts are English unless [`Vocabulary::in_language`] says otherwise.
    pub fn new<'a>(attributes: impl IntoIterator<Item = &'a str>) -> Self {
        // One- and two-letter values match everywhere and say nothing; nor does one character of a script without spaces.
        let attributes: HashSet<String> =
            attributes.into_iter().map(normalise).filter(|a| a.chars().count() > 2).collect();
        let longest = attributes.iter().map(|a| a.split(' ').count()).max().unwrap_or(0);
        Vocabulary { attributes, longest, ..Vocabulary::default() }
    }

    /// For texts of the language of a tag, see [`Language::of`].
    #[must_use]
    pub fn in_language(mut self, tag: &str) -> Self {
        self.language = Language::of(tag);
        self
    }

    /// The language of the texts.
    pub fn language(&self) -> Language {
        self.language
    }

    /// With the catalogue's titles. One that is a single common word of English, or an attribute, tells nothing and is left
    /// out.
    #[must_use]
    pub fn with_titles<'a>(mut self, titles: impl IntoIterator<Item = &'a str>) -> Self {
        let says_something = |title: &String| {
            let is_word = COMMON_ENGLISH.binary_search(&title.as_str()).is_ok() || NOT_NAMES.contains(&title.as_str());
            title.chars().count() > 2 && !is_word && !self.attributes.contains(title)
        };
        let titles: HashSet<String> =
            titles.into_iter().map(|title| normalise(without_year(title))).filter(says_something).collect();
        self.longest_title = titles.iter().map(|title| title.split(' ').count()).max().unwrap_or(0);
        self.titles = titles;
        self
    }

    /// Whether titles are known.
    pub fn knows_titles(&self) -> bool {
        !self.titles.is_empty()
    }

    /// Titles of the catalogue that `text` names and `shown` does not hold, normalised. The longest title that begins at a
    /// word counts, and is a name only where its first and its last word begin with a capital letter or a digit ("the game" is
    /// none) or, in scripts without capitals, where it is long enough.
    pub fn foreign_titles(&self, text: &str, shown: &str) -> Vec<String> {
        let shown = format!(" {} ", normalise(shown));
        let words: Vec<(String, bool)> = raw_words(text)
            .into_iter()
            .map(|raw| {
                let begins_like_a_name = raw.chars().next().is_some_and(|c| !c.is_lowercase());
                (raw.to_lowercase().replace('\'', ""), begins_like_a_name)
            })
            .collect();
        let (mut found, mut from) = (Vec::new(), 0);
        while from < words.len() {
            let longest = (1..=self.longest_title.min(words.len() - from)).rev().find_map(|n| {
                let run = &words[from..from + n];
                let title = run.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join(" ");
                let is_name = run[0].1 && run[n - 1].1 && is_telling(&title);
                (is_name && self.titles.contains(&title)).then_some((title, n))
            });
            from += longest.as_ref().map_or(1, |(_, n)| *n);
            found.extend(longest.map(|(title, _)| title).filter(|title| !shown.contains(&format!(" {title} "))));
        }
        found
    }

    /// Attributes that `text` mentions; a plural counts.
    fn mentioned(&self, text: &str) -> Vec<String> {
        let text = normalise(text);
        let words: Vec<&str> = text.split(' ').collect();
        let mut found = Vec::new();
        for length in 1..=self.longest.min(words.len()) {
            for some in words.windows(length) {
                let said = some.join(" ");
                let singular = said.strip_suffix("ies").map(|stem| format!("{stem}y"));
                let forms = [said.strip_suffix('s').map(str::to_string), singular, Some(said.clone())];
                found.extend(forms.into_iter().flatten().filter(|form| self.attributes.contains(form)));
            }
        }
        found
    }
}

/// Names in a text: runs of capitalised words, joined by small words, with a year in parentheses where there is one.
pub fn names(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut run: Vec<String> = Vec::new();
    let mut pending: Vec<String> = Vec::new();
    let mut sentence_start = true;
    let mut flush = |run: &mut Vec<String>, pending: &mut Vec<String>, at_start: bool| {
        pending.clear();
        while run.first().is_some_and(|w| NOT_NAMES.contains(&w.to_lowercase().as_str())) && run.len() > 1 && at_start {
            run.remove(0);
        }
        // The first word of a sentence is capitalised whatever it is: alone it names nothing for certain.
        let is_plain = run.len() == 1 && (at_start || NOT_NAMES.contains(&run[0].to_lowercase().as_str()));
        if !run.is_empty() && !is_plain {
            found.push(run.join(" "));
        }
        run.clear();
    };
    let mut run_at_start = false;
    for raw in text.split_whitespace() {
        let word = raw.trim_matches(|c: char| !c.is_alphanumeric());
        let opens_year = raw.starts_with('(') && word.len() == 4 && word.bytes().all(|b| b.is_ascii_digit());
        let capital = word.chars().next().is_some_and(|c| c.is_uppercase());
        let ends =
            raw.ends_with([',', ';', ':', '"', '،', '؛', '；', '：', '，', '、']) || raw.ends_with(SENTENCE_ENDS);
        if opens_year {
            if !run.is_empty() {
                run.push(word.to_string());
            }
            flush(&mut run, &mut pending, run_at_start);
        } else if capital || (!run.is_empty() && word.chars().next().is_some_and(|c| c.is_ascii_digit())) {
            if run.is_empty() {
                run_at_start = sentence_start;
            }
            run.append(&mut pending);
            run.push(word.to_string());
        } else if !run.is_empty() && JOINS.contains(&word) {
            pending.push(word.to_string());
        } else {
            flush(&mut run, &mut pending, run_at_start);
        }
        if ends {
            flush(&mut run, &mut pending, run_at_start);
        }
        sentence_start = raw.ends_with(SENTENCE_ENDS);
    }
    flush(&mut run, &mut pending, run_at_start);
    found
}

/// A title without its year: "Heat (1995)" is "Heat".
fn without_year(title: &str) -> &str {
    let bare = title.trim_end();
    match bare.rsplit_once(" (") {
        Some((name, year)) if year.len() == 5 && year.ends_with(')') => name.trim_end(),
        _ => bare,
    }
}

/// Texts in quotation marks of all kinds, those within others alone.
fn quoted(text: &str) -> Vec<&str> {
    let closing = |c: char| -> &'static [char] {
        match c {
            '"' => &['"'],
            '＂' => &['＂'],
            '“' => &['”'],
            '„' => &['“', '”'],
            '”' => &['”'],
            '‘' => &['’'],
            '‚' => &['‘', '’'],
            '«' => &['»'],
            '»' => &['«', '»'],
            '‹' => &['›'],
            '›' => &['‹', '›'],
            '《' => &['》'],
            '〈' => &['〉'],
            '「' => &['」'],
            '『' => &['』'],
            '｢' => &['｣'],
            '〝' => &['〞', '〟'],
            _ => &[],
        }
    };
    let mut found = Vec::new();
    // Where each began, what ends it, and whether another stands in it.
    let mut open: Vec<(usize, &[char], bool)> = Vec::new();
    for (at, c) in text.char_indices() {
        let next = at + c.len_utf8();
        // An apostrophe.
        if c == '’' && text[next..].starts_with(char::is_alphanumeric) {
            continue;
        }
        if let Some(level) = open.iter().rposition(|(_, ends, _)| ends.contains(&c)) {
            let (from, _, has_inner) = open[level];
            open.truncate(level);
            if !has_inner {
                found.push(&text[from..at]);
            }
        } else if !closing(c).is_empty() {
            open.iter_mut().for_each(|(_, _, has_inner)| *has_inner = true);
            open.push((next, closing(c), false));
        }
    }
    found
}

/// Whether a title can be told from plain words: it has capitals or digits to be known by, or letters enough.
fn is_telling(title: &str) -> bool {
    title.chars().any(is_cased) || title.chars().filter(|c| c.is_alphanumeric()).count() >= 4
}

/// Takes every occurrence of `title` out of `text`, where it stands as words of its own; returns whether there was one. In
/// scripts without capitals words stand without spaces or carry particles: there it is found within others.
fn take_out(text: &mut String, title: &str) -> bool {
    let [first, last] = [title.chars().next(), title.chars().next_back()].map(|c| c.is_some_and(is_cased));
    let is_inside = |edge: bool, c: Option<char>| edge && c.is_some_and(is_cased);
    let (mut found, mut from) = (false, 0);
    while let Some(at) = text[from..].find(title).map(|at| at + from) {
        let end = at + title.len();
        if is_inside(first, text[..at].chars().next_back()) || is_inside(last, text[end..].chars().next()) {
            from = end;
            continue;
        }
        // A comma, so that the words on both sides do not become one name.
        text.replace_range(at..end, " , ");
        from = at + 3;
        found = true;
    }
    found
}

/// What names may be quoted as, with their year and without; the longest first: "Alien 3" is not "Alien" and a 3.
fn titles_of<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut titles: Vec<&str> = names.iter().flat_map(|e| [*e, without_year(e)]).filter(|e| !e.is_empty()).collect();
    titles.sort_by_key(|title| std::cmp::Reverse(title.len()));
    titles.dedup();
    titles
}

/// What a text mentions: how much of it the evidence holds, and what it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mentions {
    /// Mentions that the evidence holds.
    pub held: usize,
    /// The others, normalised.
    pub invented: Vec<String>,
}

impl Mentions {
    /// Share that the evidence holds; 1 where nothing is mentioned.
    pub fn grounding(&self) -> f64 {
        match self.held + self.invented.len() {
            0 => 1.0,
            total => self.held as f64 / total as f64,
        }
    }
}

/// A text whose owners and parts of words stand alone: "the President's comedy-drama" is "the President comedy drama".
fn without_owners(text: &str) -> String {
    let bare = |word: &'_ str| -> String {
        let word = word.trim_end_matches(|c: char| !c.is_alphanumeric());
        word.strip_suffix("'s").or(word.strip_suffix("’s")).unwrap_or(word).to_owned()
    };
    text.split(|c: char| c.is_whitespace() || c == '-').map(bare).collect::<Vec<_>>().join(" ")
}

/// The words of a text as they are written, owners and parts of words alone, with single spaces.
fn in_words(text: &str) -> String {
    raw_words(&without_owners(text)).join(" ")
}

/// Whether a name of `text` is made of names that the evidence has as they are written: "Thanksgiving in Baltimore",
/// "Argentina's First Lady". The first word of a text has a capital letter whatever it is, so it may stand before a name where
/// a small word parts them ("Fans of Tolkien") or the evidence has it ("Laid-off Sheffield workers").
fn parts(name: &str, text: &str, as_written: &[String]) -> bool {
    let has = |part: &str| as_written.iter().any(|told| told.contains(&format!(" {part} ")));
    let (mut all, mut part) = (Vec::new(), Vec::new());
    for word in name.split_whitespace() {
        let owner = word.strip_suffix("'s").or(word.strip_suffix("’s"));
        if !JOINS.contains(&word) {
            part.push(in_words(word));
        }
        if JOINS.contains(&word) || owner.is_some() {
            all.push(std::mem::take(&mut part).join(" "));
        }
    }
    all.push(part.join(" "));
    all.retain(|part| !part.is_empty());
    let stands_alone = all.len() > 1;
    if text.trim_start().starts_with(name)
        && let Some(first) = all.first_mut()
    {
        let word = in_words(name.split_whitespace().next().unwrap_or_default());
        if (stands_alone && *first == word) || has(&word) || has(&word.to_lowercase()) {
            *first = first.strip_prefix(&word).unwrap_or(first).trim_start().to_owned();
        }
    }
    all.retain(|part| !part.is_empty());
    !all.is_empty() && all.iter().all(|part| has(part))
}

/// The titles, names and attributes that `text` mentions, held against its evidence.
///
/// Titles of the evidence are found as they stand, with or without their year. What is left and looks like a name (by its
/// capital letters where the language of the vocabulary gives them to names alone, by quotation marks in all but English)
/// counts as held when all of its words stand, in order, in one piece of the evidence. An attribute may be named in the plural.
/// After Reason4Rec's and CURec's demand that reasons be accurate; the measure itself is ours.
pub fn mentions(text: &str, evidence: &[&str], vocabulary: &Vocabulary) -> Mentions {
    mentions_beside(text, evidence, &[], vocabulary)
}

/// As [`mentions`]; `texts` are sentences and keywords of the evidence, which may name what the text names, and are no names
/// themselves. Beside them a name may be put together of others that the evidence has as they are written.
pub fn mentions_beside(text: &str, evidence: &[&str], texts: &[&str], vocabulary: &Vocabulary) -> Mentions {
    let mut rest = text.to_string();
    let named = titles_of(evidence).into_iter().filter(|title| take_out(&mut rest, title)).count();
    let held: Vec<String> = evidence
        .iter()
        .chain(texts)
        .flat_map(|e| [normalise(e), normalise(&without_owners(e))])
        .map(|e| format!(" {e} "))
        .collect();
    let mut looks_like_names = if vocabulary.language.names_have_capitals { names(&rest) } else { Vec::new() };
    if !vocabulary.language.is_english {
        // In lower case it is a word that is stressed.
        let is_title = |text: &&str| text.chars().find(|c| c.is_alphanumeric()).is_some_and(|c| !c.is_lowercase());
        looks_like_names.extend(quoted(&rest).into_iter().filter(is_title).map(str::to_owned));
    }
    // Sentences name people, and a reason says whose work it is.
    let bare = |name: &str| if texts.is_empty() { normalise(name) } else { normalise(&without_owners(name)) };
    let is_in = |name: &str| held.iter().any(|e| e.contains(&format!(" {name} ")));
    let plurals = |name: &str| {
        let of_ies = name.strip_suffix("ies").map(|stem| format!("{stem}y"));
        let to_ies = name.strip_suffix('y').map(|stem| format!("{stem}ies"));
        // "News" is no plural of "new".
        let singular = name.strip_suffix('s').filter(|stem| stem.len() > 3).map(str::to_owned);
        [Some(format!("{name}s")), to_ies, of_ies, singular]
    };
    let as_written: Vec<String> = texts.iter().chain(evidence).map(|text| format!(" {} ", in_words(text))).collect();
    // Where a name is put together of what sentences name, each part must stand there as it is written.
    let is_of_parts = |name: &String| !texts.is_empty() && parts(name, &rest, &as_written);
    let mut looks_like_names: Vec<(String, bool)> =
        looks_like_names.into_iter().map(|name| (bare(&name), is_in(&bare(&name)) || is_of_parts(&name))).collect();
    looks_like_names.retain(|(name, _)| !name.is_empty());
    // A word of a title, such as the drama of "Drama Queen", is no attribute: titles are gone by now.
    let attributes = vocabulary.mentioned(&rest).into_iter().map(|name| {
        let is_held = is_in(&name) || plurals(&name).into_iter().flatten().any(|form| is_in(&form));
        (name, is_held)
    });
    let mut found: BTreeMap<String, bool> = attributes.collect();
    looks_like_names.into_iter().for_each(|(name, is_held)| *found.entry(name).or_default() |= is_held);
    let kept = found.values().filter(|is_held| **is_held).count();
    let invented = found.into_iter().filter(|(_, is_held)| !is_held).map(|(name, _)| name).collect();
    Mentions { held: named + kept, invented }
}

/// Share of the mentions of `text` that the evidence holds, 0 to 1; see [`mentions`].
pub fn grounding(text: &str, evidence: &[&str], vocabulary: &Vocabulary) -> f64 {
    mentions(text, evidence, vocabulary).grounding()
}

/// Whether the text says the opposite of the verdict, or praises what is disliked. `titles` are those that it may
/// quote: their words ("10 Things I Hate About You") say nothing. A text that argues for a dislike says that somebody does not
/// like it, or names what only the `faults` name, the sentences of those who do not. `praised` are the other sentences. What denies is known of English alone; of
/// other languages only disliked titles tell.
pub fn contradicts(
    text: &str,
    verdict: &str,
    titles: &[&str],
    disliked: &[&str],
    faults: &[&str],
    praised: &[&str],
    language: Language,
) -> bool {
    let mut rest = text.to_string();
    titles.iter().filter(|t| !t.is_empty()).for_each(|title| {
        take_out(&mut rest, title);
    });
    let said = format!(" {} ", normalise(&rest));
    let says = |phrase: &str| !phrase.is_empty() && said.contains(&format!(" {phrase} "));
    let negative = language.is_english && NEGATIVE.iter().any(|n| says(&normalise(n)));
    let praises = |title: &str| match is_telling(title) {
        true => take_out(&mut rest.clone(), title),
        // "Hero", in Chinese, is a word that every second reason has.
        false => quoted(&rest).contains(&title),
    };
    match verdict {
        "like" => negative || disliked.iter().any(|d| !d.is_empty() && praises(d)),
        "dislike" => {
            let others: Vec<&str> = titles.iter().chain(praised).copied().collect();
            let is_told = || UNIMPRESSED.iter().any(|phrase| says(phrase)) || concrete(text, faults, &others).0 > 0;
            language.is_english && !negative && !is_told()
        }
        _ => false,
    }
}

/// An attribute that is told by a label, without it: `Director: Michael Mann` names Michael Mann.
pub fn labelled(attribute: &str) -> Option<&str> {
    let (label, value) = attribute.split_once([':', '：'])?;
    let value = value.trim();
    (!label.trim().is_empty() && !value.is_empty()).then_some(value)
}

/// Whether words of its script are compared as pairs of characters: they stand without spaces, or carry particles.
fn is_paired(c: char) -> bool {
    is_unspaced(c) || matches!(c, '\u{1100}'..='\u{11ff}' | '\u{ac00}'..='\u{d7ff}')
}

/// Words of a text that say something: no stop words, none that fits anything, no numbers, plurals as singulars. In scripts
/// without spaces, and in Korean, each pair of characters is one.
fn telling_words(text: &str) -> BTreeSet<String> {
    static EMPTY: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let folded = content_words(EMPTY_WORDS);
        folded.into_iter().chain(EMPTY_WORDS.split_whitespace().map(str::to_owned)).collect()
    });
    let says_something = |word: &String| {
        word.chars().count() > 1
            && word.chars().any(char::is_alphabetic)
            && !word.contains(is_paired)
            && !EMPTY.contains(word)
    };
    let mut found: BTreeSet<String> = content_words(text).into_iter().filter(says_something).collect();
    let mut before = "";
    for cluster in text.graphemes(true) {
        let is_part = cluster.starts_with(is_paired);
        if is_part && !before.is_empty() {
            let pair = format!("{before}{cluster}");
            if !EMPTY_PAIRS.contains(&pair.as_str()) {
                found.insert(pair);
            }
        }
        before = if is_part { cluster } else { "" };
    }
    found
}

/// How many telling words a text has in common with the sentences and keywords of its evidence, and how many there were to
/// choose from. Words of `names` (titles, attributes) do not count.
pub fn concrete(text: &str, texts: &[&str], names: &[&str]) -> (usize, usize) {
    let named: BTreeSet<String> = names.iter().flat_map(|name| telling_words(name)).collect();
    let mut there: BTreeSet<String> = texts.iter().flat_map(|text| telling_words(text)).collect();
    there.retain(|word| !named.contains(word));
    (telling_words(text).intersection(&there).count(), there.len())
}

/// Whether more than `most` words in a row are those of one of `sentences`, words of `names` left out. Where most words of
/// the text are characters of a script without spaces, two count as one.
pub fn copies(text: &str, sentences: &[&str], names: &[&str], most: usize) -> bool {
    let own = |text: &str| words(&without_names(&text.replace('’', "'"), names));
    let said = own(text);
    let characters = said.iter().filter(|word| word.starts_with(is_unspaced)).count();
    let run = if 2 * characters > said.len() { 2 * most } else { most } + 1;
    let runs: HashSet<&[String]> = said.windows(run).collect();
    !runs.is_empty() && sentences.iter().any(|sentence| own(sentence).windows(run).any(|run| runs.contains(run)))
}

/// Share of the text's three-word sequences that stood earlier in it; 0 for shorter texts. Where most words are characters
/// of a script without spaces, of its sequences of five: three words have about as many.
pub fn repetition(text: &str) -> f64 {
    let words = words(text);
    let characters = words.iter().filter(|word| word.starts_with(is_unspaced)).count();
    let length = if 2 * characters > words.len() { 5 } else { 3 };
    let total = words.len().saturating_sub(length - 1);
    if total == 0 {
        return 0.0;
    }
    let distinct: HashSet<&[String]> = words.windows(length).collect();
    1.0 - distinct.len() as f64 / total as f64
}

/// A text without the names that it quotes: what is left is its own words. Titles are found as [`mentions`] finds them.
pub fn without_names(text: &str, names: &[&str]) -> String {
    let mut rest = text.to_string();
    for title in titles_of(names) {
        take_out(&mut rest, title);
    }
    rest
}

/// Share of the words that are common words of English.
pub fn english(text: &str) -> f64 {
    let words = words(text);
    if words.is_empty() {
        return 0.0;
    }
    words.iter().filter(|w| COMMON_ENGLISH.binary_search(&w.as_str()).is_ok()).count() as f64 / words.len() as f64
}

/// Whether the text ends like a sentence, in any script: with a mark that ends one, and what closes after it.
pub fn is_finished(text: &str) -> bool {
    let is_invisible = |c: char| {
        c.is_whitespace()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.trim_end_matches(|c| is_invisible(c) || CLOSING.contains(&c)).ends_with(SENTENCE_ENDS)
}

#[cfg(test)]
mod tests;
