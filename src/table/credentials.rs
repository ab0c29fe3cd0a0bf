//! Whose credentials an S3 store is opened with, and that there are some.
//!
//! Where no variable names any, a machine in the cloud may still have a role, which its metadata service tells. Elsewhere
//! nobody answers, and asking again for minutes does not help: the service is knocked at once, for seconds. Knows the
//! names of the AWS variables; knows nothing of buckets.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AwsCredential, AwsCredentialProvider};
use tokio::sync::OnceCell;
use url::Url;

use crate::error::{Error, Kind, Result};
use crate::table::redact::Scrubbed;

/// Where machines in the cloud ask for their role.
const METADATA: &str = "http://169.254.169.254";
/// It is on the machine itself or next to it.
const PATIENCE: Duration = Duration::from_secs(2);

const HINT: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN where they are temporary), or \
    AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN; curec reads variables, not ~/.aws (`aws configure export-credentials \
    --format env` prints them)";

/// What counts as yes in the AWS variables.
const TRUE: [&str; 5] = ["true", "1", "yes", "y", "on"];

/// The builder with what makes it sure of its credentials.
///
/// # Errors
/// `Kind::Config` where there are none and no service may be asked.
pub(crate) fn of(builder: AmazonS3Builder, vars: &BTreeMap<String, String>) -> Result<AmazonS3Builder> {
    let value = |name: &str| vars.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let is_true = |name: &str| value(name).is_some_and(|value| TRUE.contains(&value.to_ascii_lowercase().as_str()));
    let has_keys = value("AWS_ACCESS_KEY_ID").is_some() || value("AWS_SECRET_ACCESS_KEY").is_some();
    let has_role = ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        .iter()
        .any(|name| value(name).is_some())
        || (value("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() && value("AWS_ROLE_ARN").is_some());
    if has_keys || has_role || is_true("AWS_SKIP_SIGNATURE") {
        return Ok(builder);
    }
    if is_true("AWS_EC2_METADATA_DISABLED") {
        return Err(Error::new(Kind::Config, "there are no credentials for S3").hint(HINT));
    }
    let service = value("AWS_METADATA_ENDPOINT").unwrap_or(METADATA);
    let service =
        Url::parse(service).map_err(|e| Error::new(Kind::Config, "AWS_METADATA_ENDPOINT is no URL").source(e))?;
    let Ok(asked) = builder.clone().build() else {
        // It says itself what is wrong when it is built for good.
        return Ok(builder);
    };
    let asked = Arc::clone(asked.credentials());
    Ok(builder.with_credentials(Arc::new(Service { service, asked, answers: OnceCell::new() })))
}

/// Whether a request failed because there are no credentials.
pub(crate) fn are_missing(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| e.source()).any(|e| e.is::<Missing>())
}

/// The error for that.
pub(crate) fn missing(at: &dyn fmt::Display) -> Error {
    Error::new(Kind::Config, "there are no credentials for S3").with("file", at).hint(HINT)
}

#[derive(Debug)]
struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there are no credentials: no variable names any, and {}", self.0)
    }
}

impl std::error::Error for Missing {}

/// The role of this machine, where it has one.
#[derive(Debug)]
struct Service {
    service: Url,
    asked: AwsCredentialProvider,
    /// Whether anybody answers there; found out once.
    answers: OnceCell<std::result::Result<(), String>>,
}

impl Service {
    async fn knock(&self) -> std::result::Result<(), String> {
        let host = self.service.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = self.service.port_or_known_default().unwrap_or(80);
        let connect = tokio::task::spawn_blocking(move || {
            use std::net::ToSocketAddrs as _;
            let addresses = (host.as_str(), port).to_socket_addrs()?;
            let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
            for address in addresses {
                match std::net::TcpStream::connect_timeout(&address, PATIENCE) {
                    Ok(_) => return Ok(()),
                    Err(e) => last = e,
                }
            }
            Err(last)
        });
        match tokio::time::timeout(PATIENCE * 2, connect).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(e))) => Err(format!("no metadata service answers at {}: {e}", self.service)),
            _ => Err(format!("no metadata service answers at {}", self.service)),
        }
    }
}

fn none(why: String) -> object_store::Error {
    object_store::Error::Unauthenticated { path: String::new(), source: Box::new(Missing(why)) }
}

#[async_trait::async_trait]
impl CredentialProvider for Service {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.answers.get_or_init(|| self.knock()).await.clone().map_err(none)?;
        self.asked.get_credential().await.map_err(|e| {
            let text = Scrubbed::new(&e).to_string();
            // The service is there and knows no role of this machine, or is some other server.
            let refuses =
                ["400", "401", "403", "404", "405", "501"].iter().any(|code| text.contains(&format!(" {code} ")));
            if refuses { none(format!("the metadata service at {} gives none", self.service)) } else { e }
        })
    }
}
