//! Paths: what people name, made absolute ([`absolute`]), and names that files give for other files: what a card, an index, a
//! record or a listing names is never trusted as a path.
//!
//! [`relative`] judges the name alone, for stores as for disks; [`inside`] also follows links on this machine's disk. **Who
//! follows links**: a model's directory and a warehouse are laid out by their owner, and Hugging Face's cache links
//! `snapshots/x/f` to `blobs/y`; there the name alone counts. A registry is filled by others: nothing in it leads out of it.
//! Knows nothing of what the files hold.

use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};

/// A path that a person named, so that it does not depend on the current folder; a slash at its end stays.
///
/// # Errors
/// [`Kind::Usage`] for a path that is empty or not UTF-8, and where the current folder is not there.
pub fn absolute(path: &Path) -> Result<String> {
    let bad = || Error::new(Kind::Usage, "the path cannot be used").with("file", path.display());
    let absolute = std::path::absolute(path).map_err(|e| bad().source(e))?;
    absolute.into_os_string().into_string().map_err(|_| bad().hint("name a path in UTF-8"))
}

/// A name as a path below the folder of the file that gives it: parts divided by `/`, none of them empty, `.` or `..`; not
/// absolute, no drive, no backslash, no control character.
///
/// # Errors
/// [`Kind::Model`] for any other, with the name; the caller adds the file that gives it.
pub fn relative(name: &str) -> Result<&str> {
    let has_drive = name.as_bytes().get(1) == Some(&b':') && name.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_plain = |part: &str| !matches!(part, "" | "." | "..");
    let is_safe = !has_drive && !name.contains(|c: char| c == '\\' || c.is_control()) && name.split('/').all(is_plain);
    is_safe.then_some(name).ok_or_else(|| {
        Error::new(Kind::Model, "a file names a path that may lead out of its folder")
            .with("name", format!("{name:?}"))
            .hint("do not use it before you know where it comes from; fetch it again, or restore it from a backup")
    })
}

/// As [`relative`], of one part alone: a file or folder right in the folder.
///
/// # Errors
/// As [`relative`].
pub fn plain(name: &str) -> Result<&str> {
    match relative(name)?.contains('/') {
        false => Ok(name),
        true => Err(Error::new(Kind::Model, "a file names a path where it must name a file beside it")
            .with("name", format!("{name:?}"))
            .hint("fetch it again, or restore it from a backup")),
    }
}

/// The path of `name` below `root` on this machine's disk, where no link leads out of `root`. A file that is not there is
/// none that leads out; `root` itself may be a link.
///
/// # Errors
/// As [`relative`]; [`Kind::Model`] where a link leads out or the disk does not tell.
pub fn inside(root: &Path, name: &str) -> Result<PathBuf> {
    let path = root.join(relative(name)?);
    let real = |path: &Path| match path.canonicalize() {
        Ok(real) => Ok(Some(real)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(Kind::Model, || format!("cannot find out where `{}` lies", path.display())),
    };
    match (real(root)?, real(&path)?) {
        (Some(root), Some(file)) if !file.starts_with(&root) => {
            Err(Error::new(Kind::Model, "a link leads out of the folder")
                .with("file", path.display())
                .with("folder", root.display())
                .hint("put the file itself there instead of the link"))
        }
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_a_person_names_does_not_depend_on_the_folder() {
        let beside = absolute(Path::new("a/b")).unwrap();
        assert!(Path::new(&beside).is_absolute() && Path::new(&beside).ends_with("a/b"), "{beside}");
        assert_eq!(absolute(Path::new(&beside)).unwrap(), beside);
        assert_eq!(absolute(Path::new("")).unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn only_names_below_the_folder_are_taken() {
        for name in ["a", "a/b.json", "dt=2026-01-01/part-1.parquet", "..a", "a..b/...", "ü b", "ab:c"] {
            assert_eq!(relative(name).unwrap(), name);
        }
        let bad = [
            "",
            ".",
            "..",
            "/",
            "/etc/passwd",
            "../a",
            "a/../../b",
            "a/..",
            "a//b",
            "a/",
            "./a",
            "a\\..\\b",
            "\\\\host\\x",
            "C:x",
            "c:/x",
            "a\0b",
            "a\nb",
        ];
        for name in bad {
            let e = relative(name).unwrap_err();
            assert_eq!(e.kind(), Kind::Model, "{name:?}");
            assert!(!e.explain().contains('\0'), "a name cannot steer a terminal");
            assert!(inside(Path::new("/tmp"), name).is_err() && plain(name).is_err(), "{name:?}");
        }
        assert!(plain("a/b").is_err() && plain("a").is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_inside() {
        use std::os::unix::fs::symlink;
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = own.path().join("root");
        std::fs::create_dir_all(root.join("real")).unwrap();
        std::fs::write(root.join("real/f"), "x").unwrap();
        std::fs::write(other.path().join("secret"), "x").unwrap();
        symlink("real", root.join("within")).unwrap();
        symlink(other.path(), root.join("out")).unwrap();
        symlink(other.path().join("secret"), root.join("real/secret")).unwrap();
        symlink(&root, own.path().join("linked")).unwrap();
        for root in [root.clone(), own.path().join("linked")] {
            assert!(inside(&root, "real/f").is_ok() && inside(&root, "within/f").is_ok());
            assert!(inside(&root, "nothing/yet").is_ok());
            for name in ["out/secret", "real/secret", "out"] {
                let e = inside(&root, name).unwrap_err();
                assert!(e.explain().contains("link"), "{name}: {e}");
            }
        }
    }
}
