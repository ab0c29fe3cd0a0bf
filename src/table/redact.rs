//! What must never be shown: credentials in URLs, in a server's answers and in the errors that quote them.
//!
//! Two nets: the values of the credentials that this process was given are blanked wherever they stand, and so is what
//! follows a credential's name or stands before the `@` of an URL, which covers those that were never ours to know.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Shorter ones are words (`test`, `minio`): blanking them would blank half of every text and hide nothing.
const SHORTEST: usize = 8;

/// Values that are blanked, as given and percent-encoded.
static SECRETS: LazyLock<Mutex<BTreeSet<String>>> = LazyLock::new(Mutex::default);

/// Remembers the credentials among a store's variables.
pub(crate) fn remember(vars: &BTreeMap<String, String>) {
    const MARKS: [&str; 5] = ["SECRET", "TOKEN", "ACCESS_KEY", "CUSTOMER_KEY", "PASSWORD"];
    let is_secret = |name: &str| {
        let name = name.to_ascii_uppercase();
        MARKS.iter().any(|mark| name.contains(mark)) && !name.ends_with("_FILE")
    };
    let found = vars.iter().filter(|(name, value)| is_secret(name) && value.len() >= SHORTEST);
    let mut secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    for (_, value) in found {
        secrets.insert(url::form_urlencoded::byte_serialize(value.as_bytes()).collect());
        secrets.insert(value.clone());
    }
}

/// The text without credentials.
pub fn redact(text: &str) -> String {
    const NAMES: [&str; 14] = [
        "x-amz-credential",
        "x-amz-signature",
        "x-amz-security-token",
        "awsaccesskeyid",
        "secretaccesskey",
        "sessiontoken",
        "securitytoken",
        "authorization",
        "signatureprovided",
        "stringtosignbytes",
        "stringtosign",
        "canonicalrequest",
        "signature=",
        "credential=",
    ];
    let text = &without_secrets(text);
    let mut clean = String::with_capacity(text.len());
    let lower = text.to_ascii_lowercase();
    let mut at = 0;
    while at < text.len() {
        let rest = &lower[at..];
        if let Some(name) = NAMES.iter().find(|n| rest.starts_with(**n)).filter(|n| names_a_value(n, rest, &clean)) {
            clean.push_str(text[at..at + name.len()].trim_end_matches('='));
            clean.push_str("=***");
            let value = &text[at + name.len()..];
            let value = value.trim_start_matches(PARTERS);
            // A header's value has blanks in it.
            let ends: &[char] = if *name == "authorization" { &['<', '"', '\n'] } else { &['&', '<', ' ', '"', '\n'] };
            at = text.len() - value.len() + value.find(ends).unwrap_or(value.len());
            continue;
        }
        if rest.starts_with("://") {
            clean.push_str("://");
            at += 3;
            if let Some(user) = user_part(&text[at..]) {
                clean.push_str("***@");
                at += user + 1;
            }
            continue;
        }
        let Some(c) = text[at..].chars().next() else { break };
        clean.push(c);
        at += c.len_utf8();
    }
    clean
}

/// What stands between a name and its value: `name=value`, `name: value`, `<name>value`, `"name": "value"`.
const PARTERS: [char; 5] = ['=', ':', '>', '"', ' '];

/// Whether a value follows: not so in `AuthorizationHeaderMalformed`, nor after a closing tag.
fn names_a_value(name: &str, rest: &str, before: &str) -> bool {
    let next = rest[name.len()..].chars().next();
    !before.ends_with('/') && (name.ends_with('=') || next.is_some_and(|c| c != ' ' && PARTERS.contains(&c)))
}

/// Where the `@` stands that ends the user part, in what follows `://`. A secret may hold a slash, and then the text
/// is no valid URL but was meant as one: `key:sec/ret@bucket`.
fn user_part(rest: &str) -> Option<usize> {
    let word = &rest[..rest.find([' ', '"', '\'', '\n', '<', '>']).unwrap_or(rest.len())];
    let authority = &word[..word.find('/').unwrap_or(word.len())];
    let whole = word.rfind('@').filter(|at| word[..*at].contains(':'));
    whole.or_else(|| authority.rfind('@'))
}

fn without_secrets(text: &str) -> String {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found: Vec<&String> = secrets.iter().filter(|s| text.contains(s.as_str())).collect();
    found.sort_by_key(|s| std::cmp::Reverse(s.len()));
    found.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
}

/// A foreign error with its causes as plain text, without credentials.
#[derive(Debug)]
pub(crate) struct Scrubbed(String);

impl Scrubbed {
    pub(crate) fn new(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            let line = cause.to_string();
            if !text.contains(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            next = cause.source();
        }
        Scrubbed(redact(&text))
    }
}

impl fmt::Display for Scrubbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Scrubbed {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn signatures_and_users_are_blanked() {
        for (text, secrets) in [
            ("GET http://u:p@h/b?X-Amz-Credential=AKIA/x&X-Amz-Signature=abc123", &["AKIA", "abc123", "u:p"][..]),
            ("<AWSAccessKeyId>AKIAX</AWSAccessKeyId>", &["AKIAX"]),
            ("not a valid URL: s3://AKIA:se/cr+et@bucket/x", &["AKIA", "se/", "cr+et"]),
            ("s3://AKIA:se@cret@bucket/x and more", &["AKIA", "se@", "cret"]),
            ("<SessionToken>tok</SessionToken> and", &["tok<"]),
            (
                "authorization: AWS4 Credential=AKIA/x, SignedHeaders=host, Signature=abc123\nand more",
                &["AKIA", "abc123", "Signed"],
            ),
            ("Credential=AKIA/x Signature=abc123", &["AKIA", "abc123"]),
            ("x-amz-security-token: tok1\n{\"SecretAccessKey\": \"sec1\", \"a\": 1}", &["tok1", "sec1"]),
        ] {
            let clean = redact(text);
            for secret in secrets {
                assert!(!clean.contains(secret), "{clean}");
            }
        }
        for harmless in [
            "<Code>SignatureDoesNotMatch</Code> your credentials",
            "AuthorizationHeaderMalformed: the authorization of </SessionToken> is wrong",
            "s3://bucket/a@b/c.parquet",
            "http://h:9000/bucket/x: 500",
            "no URL: a@b",
            "ü://ä@",
            "",
        ] {
            let clean = redact(harmless);
            assert!(clean == harmless || harmless.starts_with('ü'), "{clean}");
        }
    }

    #[test]
    fn what_we_were_given_is_blanked_wherever_it_stands() {
        let vars = [
            ("AWS_SECRET_ACCESS_KEY", "wJal/XUtn+FEMI=="),
            ("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2VjE"),
            ("AWS_REGION", "moon-north-1"),
            ("AWS_ACCESS_KEY_ID", "short"),
        ];
        remember(&vars.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
        let said = "key wJal/XUtn+FEMI== or wJal%2FXUtn%2BFEMI%3D%3D, token:IQoJb3JpZ2luX2VjE, moon-north-1, short";
        assert_eq!(redact(said), "key *** or ***, token:***, moon-north-1, short");
    }
}
