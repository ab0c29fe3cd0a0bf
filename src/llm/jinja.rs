//! Jinja2 features that transformers' chat templates use and minijinja lacks.
//!
//! [`translate`] rewrites a template's source where only syntax differs: `"..." % x`, and the marks `{% generation %}`.
//! [`teach`] adds Python's tests, methods and value formatting to an environment. Knows nothing of messages or models.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, Output, State, context, escape_formatter};
use minijinja_contrib::pycompat;

/// The filter that implements the operator `%`: Python formats strings with it.
const PERCENT: &str = "__percent";

/// Words that may precede an operand but are not operands.
const KEYWORDS: [&str; 14] =
    ["and", "or", "not", "in", "is", "if", "else", "elif", "set", "for", "do", "call", "filter", "recursive"];

/// Makes an environment behave as Jinja2 does where minijinja does otherwise.
pub fn teach(environment: &mut Environment<'static>) {
    // Python iterates over strings and undefined values, not over None; lists, strings and mappings are sequences.
    environment.add_test("iterable", |v: &Value| !v.is_none() && v.try_iter().is_ok());
    environment.add_test("sequence", |v: &Value| {
        v.is_undefined() || matches!(v.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    environment.add_function("cycler", minijinja_contrib::globals::cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_filter(PERCENT, percent);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(print);
}

/// `None`, `True` and `False` as Python writes them.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => escape_formatter(out, state, &Value::from("None")),
        ValueKind::Bool => escape_formatter(out, state, &Value::from(if value.is_true() { "True" } else { "False" })),
        _ => escape_formatter(out, state, value),
    }
}

/// `left % right`: remainder of numbers, formatting of strings.
fn percent(state: &mut State<'_, '_>, left: &Value, right: Value) -> Result<Value, Error> {
    let Some(text) = left.as_str() else {
        let left = left.clone();
        return state.env().compile_expression("left % right")?.eval(context! { left, right });
    };
    let values: Vec<Value> = match right.downcast_object_ref::<Tuple>() {
        Some(_) => right.try_iter()?.collect(),
        None => vec![right],
    };
    format(FormatStyle::Printf, text, &values).map(Value::from)
}

/// Python's methods: those of minijinja's own list and a few more string methods.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return pycompat::unknown_method_callback(state, value, name, args) };
    match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "partition" | "rpartition" => {
            let (at,): (&str,) = from_args(args)?;
            let (whole, is_first) = (text.to_owned(), name == "partition");
            let parts = match if is_first { text.split_once(at) } else { text.rsplit_once(at) } {
                Some((before, after)) => [before.to_owned(), at.to_owned(), after.to_owned()],
                None if is_first => [whole, String::new(), String::new()],
                None => [String::new(), String::new(), whole],
            };
            Ok(Value::from(parts.to_vec()))
        }
        "rsplit" => {
            let (at, most): (&str, Option<i64>) = from_args(args)?;
            let most = most.and_then(|n| usize::try_from(n).ok());
            let mut parts: Vec<String> = match most {
                Some(n) => text.rsplitn(n.saturating_add(1), at).map(str::to_owned).collect(),
                None => text.rsplit(at).map(str::to_owned).collect(),
            };
            parts.reverse();
            Ok(Value::from(parts))
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// The template in minijinja's syntax. A malformed template is returned unchanged: the parser reports what is wrong.
pub fn translate(source: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(source.len()), source);
    while let Some(at) = rest.find("{").filter(|_| rest.contains('}')) {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = match tag.as_bytes().get(1) {
            Some(b'#') => tag[2..].find("#}").map(|end| end + 4),
            Some(b'%') => end_of(tag, "%}"),
            Some(b'{') => end_of(tag, "}}"),
            _ => Some(1),
        };
        let Some(mut end) = end else {
            rest = tag;
            break;
        };
        let inside = tag.get(2..end.saturating_sub(2)).unwrap_or_default();
        let is_tag = |name: &str| inside.trim_matches(['-', '+']).trim() == name;
        match tag.as_bytes().get(1) {
            Some(b'%') if is_tag("raw") => {
                end += end_of_raw(&tag[end..]).unwrap_or(tag.len() - end);
                out.push_str(&tag[..end]);
            }
            // Marks for training masks: their content is rendered unchanged.
            Some(b'%') if is_tag("generation") => out.push_str(&tag[..end].replacen("generation", "if true", 1)),
            Some(b'%') if is_tag("endgeneration") => out.push_str(&tag[..end].replacen("endgeneration", "endif", 1)),
            Some(b'%' | b'{') => {
                out.push_str(&tag[..2]);
                out.push_str(&without_percent(inside));
                out.push_str(&tag[end - 2..end]);
            }
            _ => out.push_str(&tag[..end]),
        }
        rest = &tag[end..];
    }
    out + rest
}

/// Where a tag that begins with `{%` or `{{` ends, ignoring quoted text and nested braces.
fn end_of(tag: &str, close: &str) -> Option<usize> {
    let (mut at, mut depth) = (2, 0usize);
    while let Some(rest) = tag.get(at..).filter(|rest| !rest.is_empty()) {
        if depth == 0 && rest.starts_with(close) {
            return Some(at + 2);
        }
        match rest.as_bytes()[0] {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            b'"' | b'\'' => at += quoted(rest) - 1,
            _ => {}
        }
        at += 1;
        while !tag.is_char_boundary(at) {
            at += 1;
        }
    }
    None
}

/// Bytes up to the end of the raw block that begins here.
fn end_of_raw(text: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + text.get(from..)?.find("{%")?;
        let end = at + text[at..].find("%}")? + 2;
        if text[at + 2..end - 2].trim_matches(['-', '+']).trim() == "endraw" {
            return Some(end);
        }
        from = at + 2;
    }
}

/// Bytes of the quoted text that begins here, including both quotes; at least one.
fn quoted(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let (mut at, bytes) = (1, text.as_bytes());
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b if b == quote => return at + 1,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Is {
    /// A string, a number or a name.
    Operand,
    Keyword,
    Open,
    Close,
    Other,
}

/// The tokens of an expression: kind, first byte and the byte after the last.
fn tokens(text: &str) -> Vec<(Is, usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = &text[at..];
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (is, bytes) = match c {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '"' | '\'' => (Is::Operand, quoted(rest)),
            '(' | '[' | '{' => (Is::Open, 1),
            ')' | ']' | '}' => (Is::Close, 1),
            '/' if rest.starts_with("//") => (Is::Other, 2),
            '*' if rest.starts_with("**") => (Is::Other, 2),
            _ if word > 0 && KEYWORDS.contains(&&rest[..word]) => (Is::Keyword, word),
            _ if word > 0 => (Is::Operand, word),
            c => (Is::Other, c.len_utf8()),
        };
        found.push((is, at, at + bytes));
        at += bytes;
    }
    found
}

/// `a % b` written as `a | __percent(b)`: a filter binds equally tightly to its left operand. If that operand is part
/// of a product or has a sign, the operator stays, because it must then be numeric.
fn without_percent(text: &str) -> String {
    let mut text = text.to_owned();
    let mut done = 0;
    while let Some((at, from, to)) = next_percent(&text, done) {
        text = format!("{}|{PERCENT}({}){}", &text[..at], text[from..to].trim(), &text[to..]);
        done = at;
    }
    text
}

/// The first operator from the byte `done` on that can be rewritten: its position, and the start and end of its right
/// operand.
fn next_percent(text: &str, done: usize) -> Option<(usize, usize, usize)> {
    let all = tokens(text);
    let is = |i: usize, what: &str| all.get(i).is_some_and(|&(_, a, b)| &text[a..b] == what);
    let kind = |i: usize| all.get(i).map(|t| t.0);
    (0..all.len()).filter(|&i| all[i].1 >= done && is(i, "%")).find_map(|i| {
        let start = operand_start(&all, i.checked_sub(1)?, &is)?;
        let before = start.checked_sub(1);
        if before.is_some_and(|b| ["*", "/", "//", "**", "%", "-", "+"].iter().any(|o| is(b, o)))
            && !(start + 1 == i && text[all[start].1..].starts_with(['"', '\'']))
        {
            return None;
        }
        let mut last = i + 1;
        while is(last, "-") {
            last += 1;
        }
        last = match kind(last)? {
            Is::Open => closing(&all, last)?,
            Is::Operand => last,
            _ => return None,
        };
        loop {
            last = match kind(last + 1) {
                Some(Is::Open) if !is(last + 1, "{") => closing(&all, last + 1)?,
                Some(Is::Other) if (is(last + 1, ".") || is(last + 1, "|")) && kind(last + 2) == Some(Is::Operand) => {
                    last + 2
                }
                _ => break,
            };
        }
        Some((all[i].1, all[i].2, all[last].2))
    })
}

/// The first token of the operand that ends with the token `end`.
fn operand_start(all: &[(Is, usize, usize)], mut end: usize, is: &impl Fn(usize, &str) -> bool) -> Option<usize> {
    loop {
        let start = match all.get(end)?.0 {
            Is::Operand => end,
            Is::Close => {
                let mut depth = 0usize;
                let open = (0..=end).rev().find(|&i| {
                    match all[i].0 {
                        Is::Close => depth += 1,
                        Is::Open => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    depth == 0
                })?;
                // The called or indexed value comes before.
                match open.checked_sub(1).filter(|&b| matches!(all[b].0, Is::Operand | Is::Close)) {
                    Some(before) => {
                        end = before;
                        continue;
                    }
                    None => open,
                }
            }
            _ => return None,
        };
        match start.checked_sub(1) {
            Some(b) if is(b, ".") || is(b, "|") => end = b.checked_sub(1)?,
            _ => return Some(start),
        }
    }
}

/// The token that closes the bracket `open`.
fn closing(all: &[(Is, usize, usize)], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    (open..all.len()).find(|&i| {
        match all[i].0 {
            Is::Open => depth += 1,
            Is::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn render(source: &str) -> String {
        let mut environment = Environment::new();
        teach(&mut environment);
        let source = translate(source);
        let variables = context! {
            tools => (), n => 7, s => "film", at => "100%", m => context! { a => 1, k => "v" }, l => vec![1, 2], yes => true,
        };
        environment.render_str(&source, variables).unwrap_or_else(|e| panic!("{source}: {e:#}"))
    }

    #[test]
    fn texts_are_formatted_with_percent() {
        for (source, says) in [
            ("{{ 'a %s' % s }}", "a film"),
            ("{{ \"%s and %d of %s\" % (s, n + 1, m.k) }}", "film and 8 of v"),
            ("{{ '%(a)s%(k)s' % m }}", "1v"),
            ("{{ '%s' % {'x': 1}.x }}", "1"),
            ("{{ '<' + '%s' % s + '>' }}", "<film>"),
            ("{{ '%s' % s | upper }}|{{ ('%s' % s) | upper }}", "FILM|FILM"),
            ("{{ '%s %%' % l[0] }}", "1 %"),
            ("{%- set f = 'x%sx' %}{{ f % s }}{{ (f ~ '.') % n }}", "xfilmxx7x."),
            ("{% if '%s' % s == 'film' %}yes{% endif %}", "yes"),
            ("{{ '%s' % '%s' % s }}", "film"),
            ("{{ n % 4 }}{{ 2 * n % 4 }}{{ -n % 4 }}{{ l | length % 2 }}{{ m['a'] % 2 == 1 }}", "3210True"),
            ("{{ '{% x %}' }}{{ '}}' }} 5 % {{ at }}", "{% x %}}} 5 % 100%"),
            ("{# 'a' % s #}{% raw %}{{ 'a %s' % s }}{% generation %}{% endraw %}", "{{ 'a %s' % s }}{% generation %}"),
        ] {
            assert_eq!(render(source), says, "{source}");
        }
    }

    #[test]
    fn generation_marks_write_what_they_enclose() {
        assert_eq!(render("a\n{%- generation -%} b {%- endgeneration %} c"), "ab c");
        assert_eq!(render("{% for x in l %}{% generation %}{{ x }}{% endgeneration %}{% endfor %}"), "12");
    }

    #[test]
    fn none_is_what_python_says() {
        let no = ["tools is iterable", "tools is not none", "tools", "tools is defined and tools", "tools is sequence"];
        for test in no {
            assert_eq!(render(&format!("{{% if {test} %}}yes{{% endif %}}")), "", "{test}");
        }
        for test in ["nothing is not none", "nothing | length == 0", "s is sequence", "s is iterable", "tools is none"]
        {
            assert_eq!(render(&format!("{{% if {test} %}}yes{{% endif %}}")), "yes", "{test}");
        }
        assert_eq!(render("{{ tools }} {{ yes }} {{ not yes }}"), "None True False");
    }

    #[test]
    fn texts_have_pythons_methods() {
        assert_eq!(
            render("{{ 'a-b-c'.rsplit('-', 1)[0] }} {{ s.removeprefix('fi') }} {{ s.removesuffix('x') }}"),
            "a-b lm film"
        );
        assert_eq!(
            render("{{ 'a=b=c'.partition('=')[2] }} {{ 'a=b=c'.rpartition('=')[0] }} {{ s.partition('?')[0] }}"),
            "b=c a=b film"
        );
        assert_eq!(render("{{ '{} {}'.format(s, n) }} {{ s.upper() }}"), "film 7 FILM");
    }

    #[test]
    fn any_text_is_translated_without_a_panic() {
        for source in [
            "{",
            "{%",
            "{{",
            "{{ 'é",
            "{% raw %}",
            "{{ % }}",
            "{{ 'a' % }}",
            "{{ ( % ) }}",
            "{{ 'a' % ( }}",
            "{#",
            "é{{é%é}}é",
            "{{ '\\",
        ] {
            let _ = translate(source);
        }
        let plain = "{% for m in messages %}{{ m['a'] }}{% endfor %}{# } #} }} %} {";
        assert_eq!(translate(plain), plain);
    }
}
