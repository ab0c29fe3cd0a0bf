//! One request with a short time limit, for what is told over HTTP.
//!
//! Knows HTTP and how to keep what is secret out of its errors. Knows nothing of what is told.

use std::sync::LazyLock;
use std::time::Duration;

use url::Url;

use crate::error::{Error, Kind, Result};
use crate::table::redact::redact;

/// So much of a server's words stands in an error, in characters.
const SHOWN: usize = 200;

/// One for the process, made when the first request is: that reads the system's certificates. Redirections are not followed,
/// since a POST that is redirected becomes a GET.
static CLIENT: LazyLock<Option<reqwest::Client>> = LazyLock::new(|| {
    let limit = Duration::from_secs(2);
    let redirected = reqwest::redirect::Policy::none();
    reqwest::Client::builder().timeout(limit).connect_timeout(limit).redirect(redirected).build().ok()
});

/// How a body is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// It replaces what is there.
    Put,
    /// It is added.
    Post,
}

/// Names and values of headers; the values are secrets.
pub type Headers = [(String, String)];

/// The header that a key is sent in.
pub fn bearer(key: &str) -> (String, String) {
    (AUTHORIZATION.to_owned(), format!("Bearer {key}"))
}

const AUTHORIZATION: &str = "authorization";

/// Sends a body. A user and a password in the address go into the header for them, unless `headers` has it.
///
/// # Errors
/// `Kind::Temporary` where there is no answer in two seconds, or one that does not say that it is well.
pub async fn send(method: Method, to: &Url, content_type: &'static str, headers: &Headers, body: String) -> Result<()> {
    let client = CLIENT.as_ref().ok_or_else(|| Error::new(Kind::Internal, "cannot make an HTTP client"))?;
    let mut address = to.clone();
    if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(AUTHORIZATION)) {
        // One header of its kind. Without a host there is nobody to send it to.
        let _ = address.set_username("");
        let _ = address.set_password(None);
    }
    let request = match method {
        Method::Put => client.put(address),
        Method::Post => client.post(address),
    };
    let mut request = request.header("content-type", content_type).body(body);
    for (name, value) in headers {
        request = request.header(name.as_str(), value.as_str());
    }
    let failed = |what: String| Error::new(Kind::Temporary, what).with("address", shown(to));
    let of_library = |e: reqwest::Error| failed(redact(&causes(&e.without_url())));
    let mut response = request.send().await.map_err(of_library)?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    // The beginning of it is enough, and a server may send on without an end.
    let said = response.chunk().await.ok().flatten().unwrap_or_default();
    let said = without(&String::from_utf8_lossy(&said), to, headers);
    let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    Err(failed(format!("the server answers {status}: {}", said.trim())))
}

/// The address without a user, a password and a path.
pub fn shown(address: &Url) -> String {
    let port = address.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{}{port}", address.scheme(), address.host_str().unwrap_or_default())
}

/// A server's words without what was sent to it as a secret.
fn without(said: &str, to: &Url, headers: &Headers) -> String {
    // A value may hold its secret behind the name of a scheme: `Bearer KEY`.
    let values = headers.iter().flat_map(|(_, value)| [value.as_str(), value.rsplit(' ').next().unwrap_or_default()]);
    let secrets = values.chain(to.password()).filter(|secret| !secret.is_empty());
    redact(&secrets.fold(said.to_owned(), |said, secret| said.replace(secret, "***")))
}

/// An error with what caused it: a library's own words say only that the request failed.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Answers one request, and gives back what it was.
    fn server(answer: &'static str) -> (Url, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://user:hunter22@{}/metrics", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"the body") {
                let n = stream.read(&mut buffer).unwrap();
                assert!(n > 0, "the request ends early");
                request.extend_from_slice(&buffer[..n]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        (Url::parse(&address).unwrap(), served)
    }

    #[tokio::test]
    async fn credentials_go_into_headers_and_into_no_error() {
        let (to, served) = server("HTTP/1.1 202 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        send(Method::Put, &to, "text/plain", &[], "the body".into()).await.unwrap();
        let request = served.join().unwrap();
        assert!(request.starts_with("PUT /metrics HTTP/1.1\r\n"), "{request}");
        // base64 of user:hunter22
        assert!(request.to_lowercase().contains("authorization: basic dxnlcjpodw50zxiymg=="), "{request}");

        let (to, served) = server(
            "HTTP/1.1 500 x\r\ncontent-length: 33\r\nconnection: close\r\n\r\nno \x1b[31m hunter22 nor sesame1234 ",
        );
        let told = send(Method::Post, &to, "text/plain", &[bearer("sesame1234")], "the body".into()).await.unwrap_err();
        let request = served.join().unwrap();
        assert!(request.contains("Bearer sesame1234"));
        assert_eq!(request.to_lowercase().matches("authorization:").count(), 1, "{request}");
        let told = told.explain();
        assert!(told.contains("500") && told.contains("127.0.0.1") && told.contains("nor ***"), "{told}");
        for secret in ["hunter22", "sesame1234", "user", "\x1b"] {
            assert!(!told.contains(secret), "{told}");
        }
    }

    #[tokio::test]
    async fn an_address_where_nobody_listens_is_an_error_that_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = Url::parse(&format!("http://{}/x", listener.local_addr().unwrap())).unwrap();
        drop(listener);
        let told = send(Method::Post, &to, "text/plain", &[], String::new()).await.unwrap_err().explain();
        assert!(told.contains("address: http://127.0.0.1:"), "{told}");
        assert!(!told.contains("/x"), "{told}");
    }
}
