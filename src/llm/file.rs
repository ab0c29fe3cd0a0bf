//! A model's files on disk: mapped into memory, read as text or JSON, with errors that name the file and the key.
//!
//! Knows nothing of what a file means.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde_json::Value;

use crate::error::{Error, Kind, Result};

/// Maps a model file into memory.
///
/// # Errors
/// `Kind::Model` where the file is missing, unreadable, empty or not a file.
pub fn map_file(path: &Path) -> Result<Mmap> {
    let fail = |message: &str| Error::new(Kind::Model, message.to_owned()).with("file", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(fail("the model file does not exist")
                .hint("check the path, or fetch the model again")
                .source(e));
        }
        Err(e) => return Err(fail("the model file cannot be opened").hint("check its permissions").source(e)),
    };
    let about = file.metadata().map_err(|e| fail("the model file cannot be examined").source(e))?;
    if !about.is_file() {
        return Err(fail("not a regular file").hint("name a GGUF file or a Hugging Face directory"));
    }
    if about.len() == 0 {
        return Err(fail("the model file is empty").hint("fetch the model again"));
    }
    // SAFETY: the map is only read. It is undefined behaviour for another process to change the file meanwhile; model
    // files are immutable by contract (they are replaced by renaming, never written in place, and their digest goes
    // into every manifest), and reading 100s of MB through a copy would double the memory of a run.
    unsafe { Mmap::map(&file) }.map_err(|e| fail("the model file cannot be mapped into memory").source(e))
}

/// A text file's content; `None` where there is no such file.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = map_file(path)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|e| Error::new(Kind::Model, "the file is not UTF-8").with("file", path.display()).source(e))?;
    Ok(Some(text.to_owned()))
}

/// A JSON file's content; `None` where there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let value = serde_json::from_slice(&map_file(path)?).map_err(|e| {
        Error::new(Kind::Model, "the file is not valid JSON")
            .with("file", path.display())
            .hint("it may be truncated: fetch the model again")
            .source(e)
    })?;
    Ok(Some(value))
}

/// A configuration file's values, read with errors that name the key.
pub(crate) struct ConfigFile {
    path: PathBuf,
    value: Value,
}

impl ConfigFile {
    /// Reads a file that must exist.
    pub(crate) fn open(path: PathBuf) -> Result<ConfigFile> {
        match read_json(&path)? {
            Some(value) if value.is_object() => Ok(ConfigFile { path, value }),
            Some(_) => Err(Error::new(Kind::Model, "the file is not a JSON object").with("file", path.display())),
            None => Err(Error::new(Kind::Model, "the model directory lacks a file")
                .with("file", path.display())
                .hint("fetch all files of the model")),
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The raw value; `None` where absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    /// A whole number of things.
    pub(crate) fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        let number = self.get(key).map(|v| v.as_u64().and_then(|n| usize::try_from(n).ok()));
        match number {
            Some(Some(n)) => Ok(n),
            Some(None) => Err(self.wrong(key, "a whole number that is not negative")),
            None => default.ok_or_else(|| self.wrong(key, "given")),
        }
    }

    /// A number.
    pub(crate) fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            Some(v) => v.as_f64().ok_or_else(|| self.wrong(key, "a number")),
            None => Ok(default),
        }
    }

    /// True or false.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false"))).transpose()
    }

    /// Token ids: one or a list.
    pub(crate) fn ids(&self, key: &str) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let all = match value {
            Value::Array(list) => list.iter().map(one).collect(),
            single => one(single).map(|id| vec![id]),
        };
        all.map(Some).ok_or_else(|| self.wrong(key, "a token id or a list of token ids"))
    }

    /// The error for a key that must be something else.
    pub(crate) fn wrong(&self, key: &str, must_be: &str) -> Error {
        Error::new(Kind::Model, format!("'{key}' must be {must_be}"))
            .with("file", self.path.display())
            .hint("mend the model's configuration, or fetch it again")
    }
}
