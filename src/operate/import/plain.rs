//! Text files as plain text, whether they are packed by gzip or not.
//!
//! Knows files on this machine. Knows nothing of what they hold.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::temporary_folder;
use crate::error::{Error, Kind, Result};
use crate::gzip;
use crate::scratch::{Partial, Scratch};

/// Bytes read from a file at once.
const BUFFER: usize = 1 << 20;

/// The error for a file that cannot be read.
pub(super) fn cannot_read(path: &Path, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Input, "cannot read the file").with("file", path.display()).source(why)
}

/// Opens a file as it is.
///
/// # Errors
/// `Kind::Input` naming it.
pub(super) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| cannot_read(path, e))
}

/// Opens a file, and says whether it is packed.
fn open_and_look(path: &Path) -> Result<(File, bool)> {
    let mut file = open(path)?;
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start).map_err(|e| cannot_read(path, e))?;
    file.rewind().map_err(|e| cannot_read(path, e))?;
    Ok((file, gzip::is_packed(&start)))
}

/// The plain text of a file from its beginning to its end.
///
/// # Errors
/// `Kind::Input` naming it. What is wrong with packed data is told while it is read.
pub(super) fn plain_text(path: &Path) -> Result<BufReader<Box<dyn Read>>> {
    let (file, is_packed) = open_and_look(path)?;
    let plain: Box<dyn Read> = match is_packed {
        true => Box::new(gzip::unpacking(BufReader::with_capacity(BUFFER, file))),
        false => Box::new(file),
    };
    Ok(BufReader::with_capacity(BUFFER, plain))
}

/// A file of plain text that can be opened at any place: of a packed one an unpacked copy, removed when this is dropped.
pub(super) struct Plain {
    path: PathBuf,
    /// The copy, and the folder that holds it.
    copy: Option<(Partial, Arc<Scratch>)>,
}

impl Plain {
    /// Looks at a file, and unpacks it where it is packed.
    ///
    /// # Errors
    /// `Kind::Input` naming the file where it cannot be read or unpacked; `Kind::Temporary` where the copy cannot be written.
    pub(super) fn of(path: &Path) -> Result<Plain> {
        let (file, is_packed) = open_and_look(path)?;
        if !is_packed {
            return Ok(Plain { path: path.to_path_buf(), copy: None });
        }
        let place = temporary_folder();
        let unwritten = |e: std::io::Error| {
            Error::new(Kind::Temporary, "the file cannot be unpacked")
                .with("file", path.display())
                .with("folder", place.display())
                .hint("is there room in the folder for temporary files? TMPDIR names another one")
                .source(e)
        };
        let scratch = Scratch::within(&place).map_err(unwritten)?;
        let copy = Partial::new(scratch.entry());
        let mut written = File::create_new(copy.path()).map_err(unwritten)?;
        let mut plain = gzip::unpacking(BufReader::with_capacity(BUFFER, file));
        std::io::copy(&mut plain, &mut written).map_err(|e| match e.kind() {
            ErrorKind::InvalidData => cannot_read(path, e),
            _ => unwritten(e),
        })?;
        Ok(Plain { path: path.to_path_buf(), copy: Some((copy, scratch)) })
    }

    /// Opens the plain text.
    ///
    /// # Errors
    /// `Kind::Input` naming the file.
    pub(super) fn open(&self) -> Result<File> {
        match &self.copy {
            Some((copy, _)) => File::open(copy.path()).map_err(|e| cannot_read(&self.path, e)),
            None => open(&self.path),
        }
    }
}
