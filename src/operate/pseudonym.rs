//! What stands for a user's id where the id itself must not: a keyed digest.
//!
//! The key is random, made once for a warehouse and kept in it (`_forget/key`, readable by its owner alone on a local
//! disk). Who has a list of all ids but not the warehouse cannot find out which of them a digest stands for. Knows
//! nothing of who is forgotten or why.

use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;

use crate::error::{Context, Error, Kind, Result};
use crate::table::store::Location;
use crate::table::store_error::is_full;

/// The key of a warehouse.
#[derive(Clone)]
pub struct Pseudonyms {
    key: [u8; 32],
}

impl Pseudonyms {
    /// How manifests name this kind of digest.
    pub const METHOD: &str = "blake3-keyed";

    /// The warehouse's key, if it has one.
    ///
    /// # Errors
    /// `Kind::Input` where the file holds no key; the store's.
    pub async fn find(root: &Location) -> Result<Option<Pseudonyms>> {
        let at = place(root);
        let Some(bytes) = at.get().await? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        // 32 bytes as 64 hex digits: what the digest's own reader reads.
        let key = blake3::Hash::from_hex(text.trim_end()).map_err(|e| {
            Error::new(Kind::Input, "this file holds no key")
                .with("file", &at)
                .source(e)
                .hint("put it back from a backup; if it is lost, remove it: what was forgotten before is then recognised no more")
        })?;
        Ok(Some(Pseudonyms { key: *key.as_bytes() }))
    }

    /// The same; makes one where there is none. Of two who make one at once, both get the one that came first.
    ///
    /// # Errors
    /// As [`Pseudonyms::find`]; `Kind::Temporary` where the system gives no random bytes.
    pub async fn find_or_create(root: &Location) -> Result<Pseudonyms> {
        if let Some(found) = Self::find(root).await? {
            return Ok(found);
        }
        let mut key = [0; 32];
        getrandom::getrandom(&mut key).context(Kind::Temporary, || "the system gives no random bytes".into())?;
        let (at, text) = (place(root), format!("{}\n", blake3::Hash::from(key).to_hex()));
        match at.local_path() {
            Some(path) => create_private(&path, &text).map_err(|e| {
                let kind = if is_full(e.kind()) { Kind::Temporary } else { Kind::Config };
                Error::new(kind, "cannot write the key").with("file", path.display()).source(e)
            })?,
            None => _ = at.put_new(Bytes::from(text)).await?,
        }
        // Another may have come first: what stands there counts.
        let lost = || Error::new(Kind::Temporary, "the key is gone again").with("file", place(root));
        Self::find(root).await?.ok_or_else(lost)
    }

    /// What stands for an id: 64 hex digits.
    pub fn of(&self, user_id: &str) -> String {
        self.of_plain(blake3::hash(user_id.as_bytes()))
    }

    /// What stands for an id whose plain digest is known, as from a manifest of before there were keys.
    pub fn of_plain(&self, digest: blake3::Hash) -> String {
        blake3::keyed_hash(&self.key, digest.as_bytes()).to_hex().to_string()
    }
}

fn place(root: &Location) -> Location {
    root.child("_forget").child("key")
}

/// Writes a file that its owner alone can read, at no moment anybody else, where there is none yet. Stores have rules of
/// their own for who may read.
fn create_private(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)?;
    // Named as the halves of files that `gc` removes.
    let beside = path.with_file_name(format!("key#{}", std::process::id()));
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&beside, path);
    std::fs::remove_file(&beside)?;
    std::fs::File::open(folder)?.sync_all()?;
    match linked {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_digest_needs_the_warehouse_s_key() {
        let folder = tempfile::tempdir().unwrap();
        let root = |name: &str| Location::parse(folder.path().join(name).to_str().unwrap()).unwrap();
        let (a, b) = (root("a"), root("b"));
        assert!(Pseudonyms::find(&a).await.unwrap().is_none());
        let (first, second) = tokio::join!(Pseudonyms::find_or_create(&a), Pseudonyms::find_or_create(&a));
        let (first, other) = (first.unwrap(), Pseudonyms::find_or_create(&b).await.unwrap());
        assert_eq!(first.of("u1"), second.unwrap().of("u1"));
        assert_eq!(first.of("u1"), Pseudonyms::find(&a).await.unwrap().unwrap().of("u1"));
        assert_eq!(first.of_plain(blake3::hash(b"u1")), first.of("u1"));
        assert_ne!(first.of("u1"), other.of("u1"));
        assert_ne!(first.of("u1"), blake3::hash(b"u1").to_hex().to_string());
        assert_ne!(first.of("u1"), first.of("u2"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &str| std::fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode("a/_forget/key"), 0o600);
            assert_eq!(std::fs::read_dir(folder.path().join("a/_forget")).unwrap().count(), 1);
        }
        place(&a).put("no key".into()).await.unwrap();
        assert_eq!(Pseudonyms::find(&a).await.err().unwrap().kind(), Kind::Input);
    }
}
