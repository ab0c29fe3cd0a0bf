//! What a store's error means: whether an object is missing, the setup is wrong, or trying again may help.
//!
//! Knows the errors of object_store and of the disk behind it. Knows no locations: callers say where it happened. No
//! error that leaves here holds a credential.

use std::fmt;

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

use crate::error::{Error, Kind};
use crate::table::credentials;
use crate::table::redact::Scrubbed;

/// Whether an error was caused by a store or disk fault, which may be temporary, unlike damaged data.
pub fn is_store_fault(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| e.source()).any(|e| {
        let hidden = match (e.downcast_ref::<ParquetError>(), e.downcast_ref::<ArrowError>()) {
            (Some(ParquetError::External(inner)), _) | (_, Some(ArrowError::ExternalError(inner))) => Some(&**inner),
            _ => None,
        };
        e.is::<object_store::Error>() || e.is::<std::io::Error>() || hidden.is_some_and(|e| is_store_fault(e))
    })
}

/// The error for an object that has to be there and is not.
pub fn missing(at: &dyn fmt::Display) -> Error {
    Error::new(Kind::Input, "no such file or folder").with("file", at)
}

/// Turns a store's error into curec's: `Kind::Input` for a missing object, `Kind::Config` for permissions, credentials
/// and locations that cannot work, `Kind::Temporary` for everything else.
pub fn fail(error: &object_store::Error, doing: &str, at: &dyn fmt::Display) -> Error {
    use object_store::Error as E;
    let text = Scrubbed::new(error);
    let kind = match error {
        // Stores report it as "not found" or, to a listing, like any other refusal.
        _ if names_no_bucket(&text) => Kind::Config,
        _ if credentials::are_missing(error) => return credentials::missing(at),
        // The upload was completed but the response was lost, or a lifecycle rule removed it.
        E::NotFound { .. } if text.to_string().contains("NoSuchUpload") => Kind::Temporary,
        E::NotFound { .. } => Kind::Input,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } | E::InvalidPath { .. } => Kind::Config,
        E::NotImplemented { .. } | E::NotSupported { .. } | E::UnknownConfigurationKey { .. } => Kind::Config,
        _ if io_kind(error).is_some_and(is_lasting) => Kind::Config,
        _ => Kind::Temporary,
    };
    let message = match kind {
        Kind::Input => "no such file or folder".to_owned(),
        Kind::Config => format!("not allowed to {doing}, or the location cannot work"),
        _ => format!("could not {doing}"),
    };
    let wrapped = Error::new(kind, message).with("file", at).source(text);
    match kind {
        Kind::Config => wrapped.hint("check the path, its permissions and, for S3, credentials, region and endpoint"),
        Kind::Temporary if io_kind(error).is_some_and(is_full) => wrapped.hint(FULL),
        _ => wrapped,
    }
}

/// The hint where [`is_full`] holds.
pub(crate) const FULL: &str =
    "the disk or quota is full: make room and run the same command again; what was finished is kept";

/// Whether there is no room left.
pub(crate) fn is_full(kind: std::io::ErrorKind) -> bool {
    matches!(kind, std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Whether there is no such object; a bucket that does not exist is a different error.
pub(crate) fn is_missing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) && !names_no_bucket(&Scrubbed::new(error))
}

fn names_no_bucket(text: &Scrubbed) -> bool {
    text.to_string().contains("NoSuchBucket")
}

/// The first I/O error in the chain: the local store wraps permissions and full disks into its generic error.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        next = e.source();
    }
    None
}

fn is_lasting(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind as K;
    matches!(kind, K::PermissionDenied | K::NotADirectory | K::IsADirectory | K::ReadOnlyFilesystem | K::InvalidInput)
}
