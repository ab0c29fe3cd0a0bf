//! The lines of what a person wrote, such as a review or a description, without markup, links and invisible characters.
//!
//! Pure functions of the text: knows HTML, entities and list marks; knows nothing of sentences or words.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

/// No more characters of a text are read: a description may have a megabyte.
const MAX_CHARS: usize = 20_000;

/// No more links are looked for between two spaces.
const MAX_LINKS: usize = 100;

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

pub(super) static NAMED: LazyLock<HashMap<&'static str, char>> = LazyLock::new(|| {
    let pairs = ENTITIES.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(name, c)| Some((name, c.chars().next()?))).collect()
});

/// What numbers from 128 to 159 mean in HTML: Windows-1252.
pub(super) const WINDOWS: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ";

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

/// What is read of a text, and whether that is not all of it.
pub(super) fn beginning(text: &str) -> (&str, bool) {
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => (&text[..end], true),
        None => (text, false),
    }
}

/// The lines of a text without markup, links and invisible characters, in single spaces; none is empty.
pub(super) fn plain_lines(text: &str) -> Vec<String> {
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
