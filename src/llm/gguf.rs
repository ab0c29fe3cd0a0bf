//! GGUF files: metadata and tensor directory.
//!
//! Knows the container. Knows nothing of architectures or of Hugging Face's names, and validates every count and offset
//! against the file's length.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Context, Error, Kind, Result};
use crate::kernels::narrow::Matrix;
use crate::llm::file::map_file;
use crate::llm::tensor_format::Format;

/// A tensor's entry in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Sizes, outermost first (GGUF writes them innermost first).
    pub shape: Vec<usize>,
    /// Storage format.
    pub format: Format,
    /// Byte range in the file; within the file by construction.
    pub range: std::ops::Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    /// Numbers: their type and byte range in the file.
    Numbers(u32, std::ops::Range<usize>),
    /// An array of arrays, which no known key has.
    Nested,
}

/// The part before the tensors' data.
#[derive(Debug, Default)]
struct Header {
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorInfo>,
}

/// An open GGUF file.
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gguf").field("path", &self.path).field("tensors", &self.header.tensors.len()).finish()
    }
}

impl Gguf {
    /// Maps a file and reads its metadata and tensor directory.
    ///
    /// # Errors
    /// `Kind::Model` where the file is missing, truncated, malformed, of another version, or holds a tensor in a
    /// format that cannot be read.
    pub fn open(path: &Path) -> Result<Gguf> {
        let map = map_file(path)?;
        let header = parse(&map).map_err(|e| e.with("file", path.display()))?;
        Ok(Gguf { path: path.to_owned(), map, header })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.tensors.keys().map(String::as_str)
    }

    /// A tensor's shape, format and byte range.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.get(name)
    }

    /// A tensor's values, row-major, with the bits that the file has.
    ///
    /// # Errors
    /// `Kind::Model` where the file has no such tensor.
    pub fn matrix(&self, name: &str) -> Result<Matrix> {
        let info = self.info(name).ok_or_else(|| self.missing("tensor", name))?;
        let bytes = self.map.get(info.range.clone()).unwrap_or(&[]);
        Ok(info.format.matrix(bytes, info.shape.last().copied().unwrap_or(0)))
    }

    /// A text.
    pub fn str(&self, key: &str) -> Option<&str> {
        match self.header.metadata.get(key) {
            Some(Value::Text(s)) => Some(s),
            _ => None,
        }
    }

    /// A non-negative integer of any width.
    pub fn u64(&self, key: &str) -> Option<u64> {
        match self.header.metadata.get(key) {
            Some(Value::Unsigned(n)) => Some(*n),
            Some(Value::Signed(n)) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// As [`Gguf::u64`], as `u32`.
    pub fn u32(&self, key: &str) -> Option<u32> {
        self.u64(key).and_then(|n| u32::try_from(n).ok())
    }

    /// A floating-point number.
    pub fn f64(&self, key: &str) -> Option<f64> {
        match self.header.metadata.get(key) {
            // Stored as f32: 1e-5 must be read as 1e-5, not as its nearest f32 value widened.
            Some(Value::Float(x)) => Some(*x),
            _ => None,
        }
    }

    /// True or false.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.header.metadata.get(key) {
            Some(Value::Bool(b)) => Some(*b),
            _ => None,
        }
    }

    /// An array of texts.
    pub fn strs(&self, key: &str) -> Option<&[String]> {
        match self.header.metadata.get(key) {
            Some(Value::Texts(a)) => Some(a),
            _ => None,
        }
    }

    /// An array of 32-bit whole numbers.
    pub fn i32s(&self, key: &str) -> Option<Vec<i32>> {
        self.numbers(key, &[4, 5], i32::from_le_bytes)
    }

    fn numbers<T>(&self, key: &str, types: &[u32], read: fn([u8; 4]) -> T) -> Option<Vec<T>> {
        match self.header.metadata.get(key) {
            Some(Value::Numbers(kind, range)) if types.contains(kind) => {
                let bytes = self.map.get(range.clone())?;
                Some(bytes.chunks_exact(4).map(|b| read([b[0], b[1], b[2], b[3]])).collect())
            }
            _ => None,
        }
    }

    /// Whether the metadata has a key, whatever its type.
    pub fn has(&self, key: &str) -> bool {
        self.header.metadata.contains_key(key)
    }

    /// The error for something that the file should have.
    pub fn missing(&self, what: &'static str, name: &str) -> Error {
        Error::new(Kind::Model, format!("the GGUF file lacks the {what} '{name}', or it has another type"))
            .with("file", self.path.display())
            .hint("convert the model again with a current llama.cpp, or take another file")
    }
}

/// A bounds-checked cursor.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len()).ok_or_else(|| {
            Error::new(Kind::Model, "the GGUF file is truncated")
                .with("byte", self.at)
                .with("needs", n)
                .with("has", self.left())
                .hint("fetch the model again")
        })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut a = [0; N];
        a.copy_from_slice(self.take(N)?);
        Ok(a)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of items of at least `least` bytes each, checked against the remaining length of the file.
    fn count(&mut self, what: &'static str, least: usize) -> Result<usize> {
        let n = self.u64()?;
        usize::try_from(n).ok().filter(|&n| n <= self.left() / least).ok_or_else(|| {
            Error::new(Kind::Model, format!("the GGUF file claims {n} {what}, more than the rest of the file can hold"))
                .with("byte", self.at)
                .hint("the file is truncated or damaged: fetch the model again")
        })
    }

    fn text(&mut self) -> Result<String> {
        let n = self.count("bytes of text", 1)?;
        Ok(String::from_utf8_lossy(self.take(n)?).into_owned())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.array::<1>()?[0])),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.array()?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array()?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.array()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.array()?))),
            6 => {
                let x = f32::from_le_bytes(self.array()?);
                Value::Float(x.to_string().parse().unwrap_or_else(|_| f64::from(x)))
            }
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => self.array_value(depth)?,
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(self.unknown_type(kind)),
        })
    }

    fn array_value(&mut self, depth: usize) -> Result<Value> {
        let kind = self.u32()?;
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                let n = self.count("texts", 8)?;
                return Ok(Value::Texts((0..n).map(|_| self.text()).collect::<Result<_>>()?));
            }
            9 if depth < 4 => {
                for _ in 0..self.count("arrays", 12)? {
                    self.array_value(depth + 1)?;
                }
                return Ok(Value::Nested);
            }
            _ => return Err(self.unknown_type(kind)),
        };
        let n = self.count("numbers", size)?;
        let start = self.at;
        self.take(n * size)?;
        Ok(Value::Numbers(kind, start..self.at))
    }

    fn unknown_type(&self, kind: u32) -> Error {
        Error::new(Kind::Model, format!("the GGUF file has a metadata value of unknown type {kind}"))
            .with("byte", self.at)
            .hint("the file is damaged or newer than curec: fetch it again or take another")
    }
}

fn parse(bytes: &[u8]) -> Result<Header> {
    let bad = |message: String| Error::new(Kind::Model, message).hint("fetch the model again, or take another file");
    let mut r = Reader { bytes, at: 0 };
    if r.take(4)? != b"GGUF" {
        return Err(bad("not a GGUF file: it does not begin with 'GGUF'".to_owned()));
    }
    let version = r.u32()?;
    if !(2..=3).contains(&version) {
        return Err(bad(format!("GGUF version {version} is not supported, only little-endian versions 2 and 3")));
    }
    let tensor_count = r.count("tensors", 24)?;
    let metadata_count = r.count("metadata entries", 13)?;

    let mut header = Header::default();
    for _ in 0..metadata_count {
        let key = r.text()?;
        let kind = r.u32()?;
        let value = r.value(kind, 0).map_err(|e| e.with("key", &key))?;
        if header.metadata.insert(key.clone(), value).is_some() {
            return Err(bad(format!("the GGUF file has the metadata key '{key}' twice")));
        }
    }

    let mut entries = Vec::with_capacity(tensor_count);
    for _ in 0..tensor_count {
        let name = r.text()?;
        let rank = r.u32()?;
        if !(1..=4).contains(&rank) {
            return Err(bad(format!("tensor '{name}' has {rank} dimensions, not 1 to 4")));
        }
        let mut shape = (0..rank).map(|_| r.u64()).collect::<Result<Vec<u64>>>()?;
        shape.reverse();
        entries.push((name, shape, r.u32()?, r.u64()?));
    }

    let alignment = match header.metadata.get("general.alignment") {
        None => 32,
        Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n as usize,
        Some(_) => return Err(bad("general.alignment is not a power of two up to 2^20".to_owned())),
    };
    let start = r.at.next_multiple_of(alignment);
    for (name, shape, format, offset) in entries {
        let info = place(&shape, format, offset, start, bytes.len()).map_err(|e| e.with("tensor", &name))?;
        if header.tensors.insert(name.clone(), info).is_some() {
            return Err(bad(format!("the GGUF file has the tensor '{name}' twice")));
        }
    }
    Ok(header)
}

/// Checks a directory entry and computes the tensor's byte range.
fn place(shape: &[u64], format: u32, offset: u64, start: usize, file_len: usize) -> Result<TensorInfo> {
    let format = Format::from_id(format).ok_or_else(|| {
        Error::new(Kind::Model, format!("tensor format {format} is not supported"))
            .hint(format!("take a file that is quantised to one of: {}", Format::SUPPORTED))
    })?;
    let (values, size) = format.block();
    let shape = shape.iter().map(|&n| usize::try_from(n)).collect::<Result<Vec<_>, _>>();
    let shape = shape.context(Kind::Model, || "a tensor's size does not fit this machine".to_owned())?;
    let row = shape.last().copied().unwrap_or(0);
    if shape.contains(&0) || !row.is_multiple_of(values) {
        return Err(Error::new(
            Kind::Model,
            format!("a tensor of shape {shape:?} cannot hold blocks of {values} values"),
        )
        .hint("the file is damaged: fetch the model again"));
    }
    let length = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).and_then(|n| (n / values).checked_mul(size));
    let begin = usize::try_from(offset).ok().and_then(|o| o.checked_add(start));
    match begin.zip(length).and_then(|(b, n)| Some((b, b.checked_add(n)?))) {
        Some((begin, end)) if end <= file_len => Ok(TensorInfo { shape, format, range: begin..end }),
        _ => Err(Error::new(Kind::Model, format!("the file of {file_len} bytes ends before a tensor does"))
            .hint("the file is truncated: fetch the model again")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use half::f16;

    use super::*;

    fn text(out: &mut Vec<u8>, s: &str) {
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s.as_bytes());
    }

    /// A small valid file: two tensors, every kind of metadata.
    fn sample() -> Vec<u8> {
        let mut b = b"GGUF".to_vec();
        b.extend(3u32.to_le_bytes());
        b.extend(2u64.to_le_bytes());
        b.extend(5u64.to_le_bytes());
        text(&mut b, "general.architecture");
        b.extend(8u32.to_le_bytes());
        text(&mut b, "llama");
        text(&mut b, "llama.block_count");
        b.extend(4u32.to_le_bytes());
        b.extend(7u32.to_le_bytes());
        text(&mut b, "eps");
        b.extend(6u32.to_le_bytes());
        b.extend(1e-5f32.to_le_bytes());
        text(&mut b, "tokens");
        b.extend(9u32.to_le_bytes());
        b.extend(8u32.to_le_bytes());
        b.extend(2u64.to_le_bytes());
        text(&mut b, "a");
        text(&mut b, "b");
        text(&mut b, "types");
        b.extend(9u32.to_le_bytes());
        b.extend(5u32.to_le_bytes());
        b.extend(2u64.to_le_bytes());
        b.extend(3i32.to_le_bytes());
        b.extend((-1i32).to_le_bytes());
        for (name, format, offset) in [("x", 0u32, 0u64), ("y", 8, 256)] {
            text(&mut b, name);
            b.extend(2u32.to_le_bytes());
            b.extend(32u64.to_le_bytes());
            b.extend(2u64.to_le_bytes());
            b.extend(format.to_le_bytes());
            b.extend(offset.to_le_bytes());
        }
        b.resize(b.len().next_multiple_of(32), 0);
        for i in 0..64 {
            b.extend((i as f32).to_le_bytes());
        }
        for _ in 0..2 {
            b.extend(f16::from_f32(0.5).to_le_bytes());
            b.extend((0..32).map(|i| (i - 16i8) as u8));
        }
        b
    }

    fn write(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn a_file_reads_back() {
        let (_dir, path) = write(&sample());
        let g = Gguf::open(&path).unwrap();
        assert_eq!(g.str("general.architecture"), Some("llama"));
        assert_eq!(g.u32("llama.block_count"), Some(7));
        assert_eq!(g.f64("eps"), Some(1e-5));
        assert_eq!(g.strs("tokens").unwrap(), ["a", "b"]);
        assert_eq!(g.i32s("types").unwrap(), [3, -1]);
        assert_eq!(g.info("x").unwrap().shape, [2, 32]);
        assert_eq!(g.matrix("x").unwrap().widened()[33], 33.0);
        assert_eq!(g.matrix("y").unwrap().widened()[32], -8.0);
        assert_eq!(g.matrix("z").unwrap_err().kind(), Kind::Model);
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = sample();
        for n in 0..whole.len() {
            let e = parse(&whole[..n]).unwrap_err();
            assert_eq!(e.kind(), Kind::Model, "{n}");
        }
        assert_eq!(Gguf::open(&write(&[]).1).unwrap_err().kind(), Kind::Model);
    }

    #[test]
    fn damaged_headers_neither_panic_nor_allocate_what_they_claim() {
        let whole = sample();
        let header = whole.len() - 64 * 4 - 2 * 34;
        for at in 0..header {
            for byte in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut b = whole.clone();
                b[at] = byte;
                if let Ok(h) = parse(&b) {
                    for t in h.tensors.values() {
                        assert!(t.range.end <= b.len() && t.range.start <= t.range.end);
                    }
                }
            }
            let mut b = whole.clone();
            let end = (at + 8).min(header);
            b[at..end].fill(0xff);
            let _ = parse(&b);
        }
    }

    #[test]
    fn wild_counts_are_refused() {
        for (at, what) in [(8, "tensors"), (16, "metadata entries"), (24, "bytes of text")] {
            for n in [u64::MAX, u64::MAX / 2, 1 << 40, 1 << 20] {
                let mut b = sample();
                b[at..at + 8].copy_from_slice(&n.to_le_bytes());
                let e = parse(&b).unwrap_err();
                assert!(e.message().contains(what), "{e}");
            }
        }
    }

    #[test]
    fn nested_arrays_end() {
        let mut b = b"GGUF".to_vec();
        b.extend(3u32.to_le_bytes());
        b.extend(0u64.to_le_bytes());
        b.extend(1u64.to_le_bytes());
        text(&mut b, "deep");
        for _ in 0..5000 {
            b.extend(9u32.to_le_bytes());
            b.extend(1u64.to_le_bytes());
        }
        assert_eq!(parse(&b).unwrap_err().kind(), Kind::Model);
    }
}
