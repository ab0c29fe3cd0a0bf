//! What a person wrote, such as a review or a description, as plain sentences and as the words that carry its content.
//!
//! Markup, links and invisible characters go, then the text is cut. Pure functions of the text: knows nothing of tables,
//! prompts or models. The lists of words are English with the commonest of German, French and Spanish; what is in no list
//! is kept, in every script.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use unicode_segmentation::UnicodeSegmentation;

/// No more characters of a text are read: a description may have a megabyte.
const MAX_CHARS: usize = 20_000;
/// No more sentences come from one text.
const MAX_SENTENCES: usize = 200;
/// No more links are looked for between two spaces.
const MAX_LINKS: usize = 100;
/// A sentence that is cut at a clause keeps at least as many words.
const MIN_CLAUSE_WORDS: usize = 5;

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
static STARTERS: LazyLock<HashSet<&'static str>> = LazyLock::new(|| FUNCTION_WORDS.split_whitespace().collect());

/// Titles before a name: with a capital letter they never end a sentence.
const TITLES: &[&str] = &[
    "mr", "mrs", "ms", "mx", "dr", "prof", "rev", "hon", "gen", "col", "capt", "cpt", "lt", "sgt", "maj", "gov", "sen",
    "messrs", "mme", "mlle", "hr", "fr", "sra", "dra",
];
/// Abbreviations that never end a sentence.
const NEVER_LAST: &[&str] = &[
    "vs", "eg", "ie", "e.g", "i.e", "cf", "a.k.a", "aka", "approx", "feat", "z.b", "d.h", "u.a", "bzw", "ca", "evtl",
    "ggf", "inkl", "sog", "aprox",
];
/// Abbreviations that end no sentence before a number.
const BEFORE_NUMBERS: &[&str] = &[
    "no", "nos", "nr", "vol", "vols", "fig", "figs", "ch", "chap", "pt", "pts", "p", "pp", "pg", "sec", "ep", "art",
    "op", "ver", "bd", "kap", "abs", "nº", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct",
    "okt", "nov", "dec", "dez",
];
/// Abbreviations that end a sentence where a new one seems to begin.
const PERHAPS_LAST: &[&str] = &[
    "inc", "ltd", "co", "corp", "bros", "jr", "sr", "esq", "st", "mt", "ft", "dept", "est", "ave", "blvd", "rd",
    "univ", "assn", "rep", "pres",
];
/// Abbreviations that end a sentence only before a capital letter.
const SHORTENED: &[&str] =
    &["etc", "min", "max", "hrs", "sec", "lbs", "incl", "usw", "std", "mio", "mrd", "env", "tel"];
/// Words of two letters that people end sentences with, without a capital letter after it.
const SHORT_ENDS: &[&str] = &["it", "me", "us", "so", "up", "on", "do", "go", "to", "in", "tv", "ok", "cd", "of", "is"];
/// Words before a German ordinal ("am 3. Oktober", "die 2. Staffel").
const BEFORE_ORDINALS: &[&str] =
    &["ab", "am", "bis", "das", "dem", "den", "der", "die", "im", "seit", "vom", "zum", "zur"];
/// Words before a letter that is no initial.
const BEFORE_LETTERS: &[&str] = &["class", "grade", "hepatitis", "option", "part", "plan", "side", "type", "vitamin"];
/// Months of German, after an ordinal.
const GERMAN_MONTHS: &[&str] = &[
    "januar",
    "februar",
    "märz",
    "april",
    "mai",
    "juni",
    "juli",
    "august",
    "september",
    "oktober",
    "november",
    "dezember",
];
/// Words that begin a clause.
const CONJUNCTIONS: &[&str] = &["and", "but", "und", "aber", "et", "mais", "y", "pero"];
/// What may stand between the mark that ends a sentence and the end.
const CLOSING: &[char] = &['"', '\'', ')', ']', '”', '’', '“', '»', '」', '』', '）'];
/// Letters that French and Italian elide before a vowel.
const ELISIONS: &[&str] = &["l", "d", "j", "c", "n", "s", "m", "t", "qu", "dell", "nell", "all", "dall", "un"];
/// Marks of lists that stand nowhere else.
const BULLETS: &[char] = &['•', '‣', '▪', '●', '◦', '►', '▶', '■', '□', '➤', '✓', '✔', '✅', '☑', '⁃'];

/// HTML elements that end no line. Each end of the others does.
const INLINE: &[&str] = &[
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd",
    "label", "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var", "wbr",
];
/// HTML elements that end a line.
const BLOCKS: &[&str] = &[
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "br",
    "button",
    "caption",
    "center",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "header",
    "hr",
    "html",
    "iframe",
    "img",
    "input",
    "li",
    "link",
    "main",
    "meta",
    "nav",
    "object",
    "ol",
    "option",
    "p",
    "pre",
    "script",
    "section",
    "select",
    "style",
    "summary",
    "table",
    "tbody",
    "td",
    "textarea",
    "tfoot",
    "th",
    "thead",
    "title",
    "tr",
    "ul",
    "video",
];

/// Named characters of HTML, each with what it is. Spaces and invisible ones are in [`entity`].
const ENTITIES: &str = "
    amp=& lt=< gt=> quot=\" apos=' iexcl=¡ cent=¢ pound=£ curren=¤ yen=¥ brvbar=¦ sect=§ uml=¨ copy=© ordf=ª laquo=« not=¬
    reg=® macr=¯ deg=° plusmn=± sup2=² sup3=³ acute=´ micro=µ para=¶ middot=· cedil=¸ sup1=¹ ordm=º raquo=» frac14=¼
    frac12=½ frac34=¾ iquest=¿ Agrave=À Aacute=Á Acirc=Â Atilde=Ã Auml=Ä Aring=Å AElig=Æ Ccedil=Ç Egrave=È Eacute=É Ecirc=Ê
    Euml=Ë Igrave=Ì Iacute=Í Icirc=Î Iuml=Ï ETH=Ð Ntilde=Ñ Ograve=Ò Oacute=Ó Ocirc=Ô Otilde=Õ Ouml=Ö times=× Oslash=Ø
    Ugrave=Ù Uacute=Ú Ucirc=Û Uuml=Ü Yacute=Ý THORN=Þ szlig=ß agrave=à aacute=á acirc=â atilde=ã auml=ä aring=å aelig=æ
    ccedil=ç egrave=è eacute=é ecirc=ê euml=ë igrave=ì iacute=í icirc=î iuml=ï eth=ð ntilde=ñ ograve=ò oacute=ó ocirc=ô
    otilde=õ ouml=ö divide=÷ oslash=ø ugrave=ù uacute=ú ucirc=û uuml=ü yacute=ý thorn=þ yuml=ÿ OElig=Œ oelig=œ Scaron=Š
    scaron=š Yuml=Ÿ fnof=ƒ circ=ˆ tilde=˜ ndash=– mdash=— horbar=― lsquo=‘ rsquo=’ sbquo=‚ ldquo=“ rdquo=” bdquo=„ dagger=†
    Dagger=‡ bull=• hellip=… permil=‰ prime=′ Prime=″ lsaquo=‹ rsaquo=› frasl=⁄ euro=€ trade=™ larr=← uarr=↑ rarr=→ darr=↓
    harr=↔ minus=− infin=∞ asymp=≈ ne=≠ le=≤ ge=≥ hearts=♥ star=☆ starf=★ check=✓ num=# excl=! dollar=$ percnt=% lpar=(
    rpar=) ast=* plus=+ comma=, period=. sol=/ colon=: semi=; equals== quest=? commat=@ lsqb=[ rsqb=] lowbar=_ lbrace={
    rbrace=} verbar=| bsol=\\ grave=` hyphen=‐ dash=‐";

static NAMED: LazyLock<HashMap<&'static str, char>> = LazyLock::new(|| {
    let pairs = ENTITIES.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(name, c)| Some((name, c.chars().next()?))).collect()
});

/// What numbers from 128 to 159 mean in HTML: Windows-1252.
const WINDOWS: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ";

/// Whether a character is Chinese, as Chinese, Japanese and older Korean write it.
pub fn is_han(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{2fdf}' | '\u{3005}'..='\u{3007}' | '\u{3021}'..='\u{3029}' | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// Whether a character is Japanese hiragana or katakana.
pub fn is_kana(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{ff66}'..='\u{ff9f}')
}

/// Whether words of its script stand without spaces between them: Chinese, Japanese, Thai, Lao, Khmer, Burmese.
pub fn is_unspaced(c: char) -> bool {
    let in_south_east = || matches!(c, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}');
    c.is_alphanumeric() && (is_han(c) || is_kana(c) || matches!(c, '\u{3100}'..='\u{312f}') || in_south_east())
}

/// What a person wrote, as sentences of at most `max_words` words, in order, each once.
///
/// HTML, the marks of Markdown and lists, links, e-mail addresses, control characters and invisible ones are left out, and
/// white space is one space; the end of a line or of an item of a list ends a sentence too. A longer sentence ends at its
/// last clause that leaves five words or more, else after `max_words` words with `…`; in scripts without spaces two
/// characters count as a word. Pieces without a letter are left out. Of a text no more than its first 20,000 characters are
/// read, and no more than 200 sentences come from it; with `max_words` 0 there are none.
pub fn split_sentences(text: &str, max_words: usize) -> Vec<String> {
    let (head, is_cut) = beginning(text);
    let lines = plain_lines(head);
    let mut sentences: Vec<&str> = lines.iter().flat_map(|line| sentences_of(line)).filter_map(tidy).collect();
    // Its end was not read.
    if is_cut && sentences.len() > 1 {
        sentences.pop();
    }
    let mut seen = HashSet::new();
    sentences
        .into_iter()
        .filter_map(|sentence| shorten(sentence, max_words))
        .filter(|sentence| seen.insert(sentence.clone()))
        .take(MAX_SENTENCES)
        .collect()
}

/// The words that carry the content of a text, lower case, each once, in the order in which they first stand.
///
/// Without function words, words that say nothing in a review, numbers and words of fewer than three letters. A plain
/// English plural is its singular ("robots" is "robot"). In scripts without spaces, every two characters that stand
/// together are a word. The text is read as [`split_sentences`] reads it.
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

/// What is read of a text, and whether that is not all of it.
fn beginning(text: &str) -> (&str, bool) {
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => (&text[..end], true),
        None => (text, false),
    }
}

// ---- Markup, links, invisible characters ----

/// The lines of a text without markup, links and invisible characters, in single spaces; none is empty.
fn plain_lines(text: &str) -> Vec<String> {
    let mut text = Cow::Borrowed(text);
    // Data sets hold texts that were encoded twice.
    for _ in 0..3 {
        match decoded(&text) {
            Some(decoded) => text = Cow::Owned(decoded),
            None => break,
        }
    }
    let text = visible(&without_tags(&text));
    let lines = text.split('\n').map(|line| {
        let words = in_single_spaces(&without_brackets(line));
        with_ellipses(without_list_mark(&words))
    });
    lines.filter(|line| !line.is_empty()).collect()
}

/// The text with HTML's names and numbers of characters replaced; `None` where it has none.
fn decoded(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut is_changed) = (text, false);
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '#').unwrap_or(rest.len() - 1);
        let (name, after) = (&rest[1..=length], &rest[length + 1..]);
        // Old pages leave the semicolon out.
        let is_whole = after.starts_with(';')
            || (matches!(name, "amp" | "quot" | "lt" | "gt" | "nbsp") && !after.starts_with('='))
            || name.starts_with('#');
        match entity(name).filter(|_| is_whole) {
            Some(c) => {
                out.push(c);
                rest = after.strip_prefix(';').unwrap_or(after);
                is_changed = true;
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    is_changed.then_some(out)
}

/// The character of a name such as `eacute`, `#233` or `#xe9`.
fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => number.parse().ok()?,
        };
        let windows = || WINDOWS.chars().nth(code.checked_sub(128)? as usize);
        return windows().or_else(|| char::from_u32(code));
    }
    match name {
        "nbsp" | "ensp" | "emsp" | "thinsp" | "Tab" => Some(' '),
        "NewLine" => Some('\n'),
        "shy" | "lrm" | "rlm" => Some('\u{ad}'),
        "zwj" => Some('\u{200d}'),
        "zwnj" => Some('\u{200c}'),
        _ => NAMED.get(name).copied(),
    }
}

/// The text without HTML's tags and comments, and without what stands in scripts and style sheets. A tag that ends a line
/// becomes a line end.
fn without_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        let Some((name, is_end, after)) = tag(rest) else {
            out.push('<');
            rest = &rest[1..];
            continue;
        };
        rest = after;
        if !is_end && (name == "script" || name == "style") {
            let closing = ["</script", "</SCRIPT", "</style", "</STYLE"];
            rest = closing.iter().filter_map(|end| rest.find(end)).min().map_or("", |at| &rest[at..]);
        }
        match (INLINE.contains(&name.as_str()), BLOCKS.contains(&name.as_str())) {
            (true, _) => {}
            (_, true) => out.push('\n'),
            _ => out.push(' '),
        }
    }
    out.push_str(rest);
    out
}

/// The name of the tag that `text` begins with, whether it is an end tag, and what follows it. `None` where it is no tag:
/// `<3`, `a <b and c> d`.
fn tag(text: &str) -> Option<(String, bool, &str)> {
    let inner = text.strip_prefix('<')?;
    let (is_end, inner) = inner.strip_prefix('/').map_or((false, inner), |inner| (true, inner));
    let inner = inner.strip_prefix('!').unwrap_or(inner);
    let length = inner.find(|c: char| !c.is_ascii_alphanumeric()).filter(|length| *length > 0)?;
    let name = inner[..length].to_ascii_lowercase();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let inner = &inner[length..];
    let (mut quote, mut before, mut end, mut broken) = (None, ' ', None, None);
    for (at, c) in inner.char_indices().take(2_000) {
        match (quote, c) {
            (Some(mark), _) => {
                if c == '>' && broken.is_none() {
                    broken = Some(at);
                }
                if c == mark {
                    quote = None;
                }
            }
            (None, '"' | '\'') if before == '=' => quote = Some(c),
            (None, '>') => {
                end = Some(at);
                break;
            }
            (None, '<') => break,
            _ => {}
        }
        before = c;
    }
    // A quotation mark that nothing closes.
    let end = end.or(broken)?;
    let attributes = inner[..end].trim_end_matches('/').trim();
    let is_tag = attributes.is_empty() || attributes.contains('=') || name == "doctype" || is_end;
    let begins_well = inner.starts_with(['>', '/']) || inner.starts_with(char::is_whitespace);
    (is_tag && begins_well).then(|| (name, is_end, &inner[end + 1..]))
}

/// Characters that are not seen: they steer the direction of writing, join, or mark.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffd}' | '\u{e0000}'..='\u{e007f}')
}

/// The text without invisible characters, with spaces of one kind, and a line feed for whatever ends a line or marks an
/// item of a list. A joiner stays within words and emoji that are written with it.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        let next = chars.peek().copied().unwrap_or(' ');
        let is_apart = before.is_whitespace() && next.is_whitespace();
        let joins = |c: char| !c.is_ascii() && !c.is_whitespace() && !is_invisible(c);
        let shown = match c {
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => '\n',
            c if BULLETS.contains(&c) => '\n',
            // It showed a bullet as an emoji.
            '\u{fe0f}' if before.is_whitespace() => continue,
            '*' | '·' | '|' | '¶' if is_apart => '\n',
            c if c.is_whitespace() => ' ',
            '\u{200c}' | '\u{200d}' if joins(before) && joins(next) => c,
            c if is_invisible(c) => continue,
            c => c,
        };
        out.push(shown);
        before = shown;
    }
    out
}

/// A line in which `[text](address)` is its text, as are `[[ASIN:… text]]` and `[[text]]`; `[[VIDEOID:…]]` is nothing.
fn without_brackets(line: &str) -> Cow<'_, str> {
    if !line.contains('[') {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, inner)) = rest.split_once("[[") {
        let Some((text, after)) = inner.split_once("]]") else { break };
        out.push_str(before);
        out.push_str(match text.split_once(':') {
            Some(("VIDEOID", _)) => "",
            Some(("ASIN", text)) => text.split_once(' ').map_or("", |(_, title)| title),
            _ => text,
        });
        rest = after;
    }
    out.push_str(rest);
    let (line, mut out) = (out, String::new());
    let mut rest = line.as_str();
    while let Some((before, target)) = rest.split_once("](") {
        out.push_str(before);
        let end = target.bytes().take(1_000).position(|b| b == b')' || b == b' ');
        let end = end.filter(|end| target[*end..].starts_with(')'));
        let is_address = ["http", "www.", "/", "#", "mailto:"].iter().any(|begin| target.starts_with(begin));
        match (end, out.rfind('[')) {
            (Some(end), Some(open)) if is_address => {
                let text = out.split_off(open);
                // A picture's.
                if out.ends_with('!') {
                    out.pop();
                }
                out.push_str(&text[1..]);
                rest = &target[end + 1..];
            }
            _ => {
                out.push_str("](");
                rest = target;
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// A line in single spaces, without links, e-mail addresses and marks of emphasis. A mark that stands alone belongs to the
/// word before it.
fn in_single_spaces(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for raw in line.split_whitespace() {
        let bare = without_links(raw);
        let word = without_emphasis(&bare);
        let is_left_over = bare.len() < raw.len() && !word.contains(char::is_alphanumeric);
        if word.is_empty() || (is_left_over && !word.starts_with(['.', '!', '?', ',', ';', ':', ')'])) {
            continue;
        }
        let is_mark = is_left_over || word == ")" || word == ";" || word.chars().all(|c| ".,!?…".contains(c));
        if !out.is_empty() && !is_mark {
            out.push(' ');
        }
        // Nothing precedes it but what ended already.
        if !(is_left_over && out.ends_with(['.', '!', '?', ',', ';', ':'])) {
            out.push_str(&word);
        }
    }
    out
}

/// A word without the links and e-mail addresses in it; marks after them stay.
fn without_links(word: &str) -> Cow<'_, str> {
    let (mut out, mut rest) = (String::new(), word);
    // Each looks through the whole rest.
    for _ in 0..MAX_LINKS {
        let Some((before, after)) = around_link(rest) else { break };
        out.push_str(before);
        rest = after;
    }
    if rest.len() == word.len() { Cow::Borrowed(word) } else { Cow::Owned(out + rest) }
}

/// What stands before and after the first link or e-mail address of a word. Of addresses without `http` and `www` only
/// those with a path count: people write "Amazon.com" for the company.
fn around_link(word: &str) -> Option<(&str, &str)> {
    if !word.contains(['@', '/', '.', ':']) {
        return None;
    }
    // As long as the word, byte for byte.
    let lower = word.to_ascii_lowercase();
    let begins_word = |at: &usize| !lower[..*at].ends_with(|c: char| c.is_ascii_alphanumeric());
    let full = ["http://", "https://", "ftp://", "mailto:"].iter().filter_map(|scheme| lower.find(scheme)).min();
    let short = lower.find("www.").filter(begins_word);
    if let Some(start) = full.into_iter().chain(short).min() {
        return Some((&word[..start], after_link(&word[start..])));
    }
    if let Some((start, end)) = email(word) {
        return Some((&word[..start], &word[end..]));
    }
    let start = lower.find(|c: char| c.is_ascii_alphanumeric())?;
    let (host, _) = lower[start..].split_once('/')?;
    let (names, top) = host.rsplit_once('.')?;
    let is_top = matches!(top, "be" | "co" | "com" | "de" | "gl" | "io" | "ly" | "net" | "org" | "uk");
    let is_host = is_top && names.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
    is_host.then(|| (&word[..start], after_link(&word[start..])))
}

/// What follows the address that `text` begins with. The marks at its end are the sentence's.
fn after_link(text: &str) -> &str {
    let is_of_address = |c: char| c.is_ascii_graphic() && !"<>\"{}|\\^`".contains(c);
    let address = &text[..text.find(|c| !is_of_address(c)).unwrap_or(text.len())];
    let has_parentheses = address.contains('(');
    let is_mark = |c: char| ".,;:!?'*_]".contains(c) || (c == ')' && !has_parentheses);
    &text[address.trim_end_matches(is_mark).len()..]
}

/// Where the first e-mail address of a word begins and ends.
fn email(word: &str) -> Option<(usize, usize)> {
    let (name, domain) = word.split_once('@')?;
    let of_name = |c: char| c.is_ascii_alphanumeric() || "._%+-".contains(c);
    let start = name.trim_end_matches(of_name).len();
    let length = domain.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-')).unwrap_or(domain.len());
    let domain = domain[..length].trim_end_matches(['.', '-']);
    let top = domain.rsplit_once('.').map(|(_, top)| top)?;
    let is_top = top.len() >= 2 && top.bytes().all(|b| b.is_ascii_alphabetic());
    (start < name.len() && is_top).then(|| (start, name.len() + 1 + domain.len()))
}

/// A word without Markdown's marks of emphasis and escapes; "f**k" and "snake_case" stay.
fn without_emphasis(word: &str) -> Cow<'_, str> {
    if !word.contains(['*', '_', '`', '~', '\\']) {
        return Cow::Borrowed(word);
    }
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(c) = rest.chars().next() {
        let run = rest.len() - rest.trim_start_matches(c).len();
        let after = rest[run..].chars().next();
        let is_inside =
            out.ends_with(|c: char| c.is_ascii_alphanumeric()) && after.is_some_and(|c| c.is_ascii_alphanumeric());
        match c {
            '*' | '_' if !is_inside => {}
            '`' if is_inside => out.push('\''),
            '`' => {}
            '~' if run > 1 => {}
            '\\' if after.is_some_and(|c| c.is_ascii_punctuation()) => {}
            _ => out.push_str(&rest[..run]),
        }
        rest = &rest[run..];
    }
    Cow::Owned(out)
}

/// A line without what makes it an item of a list, a heading or a quotation: `- `, `2. `, `a) `, `## `, `> `.
fn without_list_mark(line: &str) -> &str {
    let mut line = line.trim_start_matches([' ', '-', '–', '—', '+', '>', '|', '=', '·', '→', '⇒']);
    let heading = line.trim_start_matches('#');
    if line.len() - heading.len() > 1 || heading.starts_with(' ') {
        line = heading.trim_start();
    }
    for ticked in ["[ ] ", "[x] ", "[X] "] {
        line = line.strip_prefix(ticked).unwrap_or(line);
    }
    let Some((mark, rest)) = line.split_once(' ') else { return line };
    let number = mark.trim_start_matches('(').trim_end_matches(['.', ')']);
    let is_number = matches!(number.len(), 1 | 2) && number.bytes().all(|b| b.is_ascii_digit());
    let is_letter = mark.ends_with(')') && number.len() == 1 && number.bytes().all(|b| b.is_ascii_alphabetic());
    let is_mark = mark.len() <= 5 && mark.ends_with(['.', ')']) && (is_number || is_letter);
    if is_mark { rest } else { line }
}

/// A line in which three dots or more are `…`.
fn with_ellipses(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(['.', '…']) {
        out.push_str(&rest[..at]);
        let after = rest[at..].trim_start_matches(['.', '…']);
        let dots = &rest[at..rest.len() - after.len()];
        out.push_str(if dots.len() > 2 { "…" } else { dots });
        rest = after;
    }
    out.push_str(rest);
    out
}

// ---- Sentences ----

/// The sentences of a line, by Unicode's boundaries and without their usual faults.
fn sentences_of(line: &str) -> Vec<&str> {
    let mut ends: Vec<usize> = line.split_sentence_bound_indices().map(|(at, sentence)| at + sentence.len()).collect();
    // Unicode ends no sentence before a small letter, at an ellipsis, or where the space was forgotten.
    for (at, mark) in line.match_indices(['.', '…']) {
        let end = at + mark.len();
        match line[end..].chars().next() {
            Some(' ') => ends.push(end + 1),
            Some(c) if mark == "." && c.is_uppercase() => ends.push(end),
            _ => {}
        }
    }
    ends.sort_unstable();
    ends.dedup();
    let (mut found, mut from) = (Vec::new(), 0);
    for end in ends {
        if is_sentence_end(&line[from..end], &line[end..]) {
            found.push(&line[from..end]);
            from = end;
        }
    }
    found
}

/// Whether a sentence ends between what stands before, from its begin, and what stands after.
fn is_sentence_end(before: &str, after: &str) -> bool {
    let Some((at, first)) = after.char_indices().take(40).find(|(_, c)| c.is_alphanumeric()) else { return true };
    let whole = before.trim_end();
    let bare = whole.trim_end_matches(CLOSING);
    let is_closed = bare.len() < whole.len();
    let (head, last) = bare.rsplit_once(' ').unwrap_or(("", bare));
    let last = last.trim_start_matches(|c: char| !c.is_alphanumeric());
    // No word.
    if last.len() > 80 {
        return whole.len() < before.len();
    }
    match bare.chars().next_back() {
        Some('…') => is_unspaced(first) || (!first.is_lowercase() && before.split_whitespace().take(3).count() == 3),
        Some('!' | '?') if first.is_lowercase() => {
            // "Jeopardy! is", "'Why?' he asked".
            let name = last.trim_end_matches(['!', '?']);
            let is_name = name.starts_with(char::is_uppercase) && name.chars().skip(1).any(char::is_lowercase);
            !is_closed && !is_name
        }
        Some('.') => {
            let is_attached = whole.len() == before.len() && at == 0;
            is_full_stop(head, last.trim_end_matches('.'), &after[at..], is_attached, is_closed)
        }
        _ => true,
    }
}

/// Whether the dot after `word` ends the sentence. `head` is the sentence before the word, `next` what stands after it from
/// the first letter or digit on; `is_attached` without a space, `is_closed` with a closing mark between.
fn is_full_stop(head: &str, word: &str, next: &str, is_attached: bool, is_closed: bool) -> bool {
    let next_word = next.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let next_lower = next_word.to_lowercase();
    let starts = STARTERS.contains(next_lower.as_str());
    let [is_capital, is_small, is_number] =
        [char::is_uppercase, char::is_lowercase, char::is_numeric].map(|is| next.starts_with(is));
    let lower = word.to_lowercase();
    let is = |list: &[&str]| list.contains(&lower.as_str());
    let is_letter = |word: &str| word.chars().count() == 1 && word.chars().all(char::is_alphabetic);
    if is_attached && is_capital {
        // "movie.The"
        return is_word(word) && !is(TITLES) && starts;
    }
    if word.is_empty() {
        return !is_small;
    }
    if is(NEVER_LAST) || (is(TITLES) && word.starts_with(char::is_uppercase)) {
        return false;
    }
    let is_roman = next_word.len() > 1 && next_word.bytes().all(|b| b"IVXL".contains(&b));
    if is(BEFORE_NUMBERS) && (is_number || is_roman) {
        return false;
    }
    let before = head.rsplit(' ').next().unwrap_or_default().to_lowercase();
    if word.bytes().all(|b| b.is_ascii_digit()) {
        let is_ordinal = GERMAN_MONTHS.contains(&next_lower.as_str()) || BEFORE_ORDINALS.contains(&before.as_str());
        let is_day = is_ordinal && word.len() < 3;
        return !is_small && !is_day;
    }
    // "10/10. would buy again"
    let is_score = word.contains('/') && word.bytes().all(|b| b.is_ascii_digit() || b == b'/');
    if is_score {
        return true;
    }
    if is_small || is_number {
        let is_short = is(PERHAPS_LAST) || is(BEFORE_NUMBERS) || is(SHORTENED) || is(TITLES);
        return !is_closed && is_word(word) && !(is_short && is_small);
    }
    let is_part = |part: &str| matches!(part.chars().count(), 1 | 2) && part.chars().all(char::is_alphabetic);
    if is(PERHAPS_LAST) || (word.contains('.') && word.split('.').all(is_part)) {
        return starts || !is_capital;
    }
    if is_letter(word) && word != "I" {
        // "J. K. Rowling", "z. B.", but "vitamin C".
        let is_initial = word.starts_with(char::is_uppercase) && !BEFORE_LETTERS.contains(&before.as_str());
        let goes_on = is_letter(next_word) && next[next_word.len()..].starts_with('.');
        return !(goes_on || (is_initial && is_capital && !starts));
    }
    true
}

/// Whether it is a word that is written out, not shortened.
fn is_word(word: &str) -> bool {
    let letters = word.chars().count();
    let is_short_end = || SHORT_ENDS.contains(&word.to_lowercase().as_str());
    let has_length = letters >= if word.is_ascii() { 3 } else { 5 };
    let has_letters = word.chars().all(|c| c.is_alphabetic() || matches!(c, '\'' | '’' | '-' | '/'));
    has_letters && (has_length || is_short_end())
}

/// A sentence without what is left of lists and marks at its ends; `None` without a letter.
fn tidy(sentence: &str) -> Option<&str> {
    let is_left = |c: char| c.is_whitespace() || ",;:.!?-–—)]}*|>=、，。；：！？".contains(c);
    let is_right = |c: char| c.is_whitespace() || ",;:-–—([{=<*|/\\、，；：".contains(c);
    let mut sentence = sentence.trim_start_matches(is_left).trim_end_matches(is_right);
    // Of a quotation of several sentences.
    if sentence.matches('"').count() == 1 {
        let inner = sentence.trim_matches('"');
        sentence = if inner.len() < sentence.len() { inner.trim() } else { sentence };
    }
    if sentence.starts_with('“') && !sentence.contains('”') {
        sentence = sentence.trim_start_matches('“').trim_start();
    } else if sentence.ends_with('”') && !sentence.contains(['“', '„']) {
        sentence = sentence.trim_end_matches('”').trim_end();
    }
    sentence.contains(char::is_alphabetic).then_some(sentence)
}

/// A sentence of at most `max_words` words; `None` where nothing is left.
fn shorten(sentence: &str, max_words: usize) -> Option<String> {
    let ends = word_ends(sentence);
    let limit = max_words.saturating_mul(2);
    if ends.last().is_some_and(|(_, halves)| *halves <= limit) {
        return Some(sentence.to_owned());
    }
    let (end, _) = *ends.iter().take_while(|(_, halves)| *halves <= limit).last()?;
    let enough = ends.iter().find(|(_, halves)| *halves >= 2 * MIN_CLAUSE_WORDS).map(|(at, _)| *at);
    let clause = enough.filter(|enough| *enough <= end).and_then(|enough| {
        let marks = sentence[enough..].char_indices().map(|(at, c)| (at + enough, c)).take_while(|(at, _)| *at <= end);
        marks.filter(|(at, c)| is_clause_mark(&sentence[*at..], *c)).last()
    });
    if let Some(clause) = clause.and_then(|(at, _)| tidy(&sentence[..at])) {
        return Some(clause.to_owned());
    }
    Some(format!("{}…", &sentence[..end]))
}

/// Whether a clause ends before `rest`, which begins with `c`.
fn is_clause_mark(rest: &str, c: char) -> bool {
    let after = &rest[c.len_utf8()..];
    match c {
        ',' | ';' => after.starts_with(' '),
        '，' | '；' | '、' | '،' | '؛' => true,
        '—' | '–' => !after.starts_with(|c: char| c.is_ascii_digit()),
        ' ' => {
            let word = after.split(' ').next().unwrap_or_default();
            word == "-" || word == "--" || CONJUNCTIONS.contains(&word)
        }
        _ => false,
    }
}

/// Where each word ends, and how many halves of words stand up to there: a character of a script without spaces is half a
/// word.
fn word_ends(text: &str) -> Vec<(usize, usize)> {
    let (mut ends, mut halves, mut open) = (Vec::new(), 0, None);
    for (at, cluster) in text.grapheme_indices(true) {
        let c = cluster.chars().next().unwrap_or(' ');
        let (is_half, is_letter) = (is_unspaced(c), c.is_alphanumeric());
        let is_apart = c.is_whitespace() || (!c.is_ascii() && !is_letter && c != '’');
        if (is_half || is_apart)
            && let Some(end) = open.take()
        {
            halves += 2;
            ends.push((end, halves));
        }
        if is_half {
            halves += 1;
            ends.push((at + cluster.len(), halves));
        } else if is_letter {
            open = Some(at + cluster.len());
        }
    }
    if let Some(end) = open {
        ends.push((end, halves + 2));
    }
    ends
}

// ---- Words ----

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
mod tests;
