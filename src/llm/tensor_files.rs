//! The safetensors files of a directory, as tensors in host memory.
//!
//! Knows shards, their index and digests. Knows nothing of their use.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::kernels::narrow::Matrix;
use crate::llm::file::{map_file, read_json};
use crate::llm::tensor_format::Format;
use crate::paths;

/// A tensor in host memory, row-major, in Hugging Face's layout (`[out, in]` for a linear layer).
#[derive(Debug, Clone)]
pub struct HostTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub data: Vec<f32>,
}

/// A tensor in the form in which it is kept, with fewer than 32 bits a value where its file has fewer.
#[derive(Debug, Clone)]
pub struct KeptTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Its values in row-major order; rows are the last dimension.
    pub matrix: Matrix,
}

impl From<HostTensor> for KeptTensor {
    fn from(tensor: HostTensor) -> Self {
        KeptTensor { shape: tensor.shape, matrix: Matrix::Full(tensor.data) }
    }
}

impl KeptTensor {
    /// The same values in f32.
    pub fn widened(self) -> HostTensor {
        HostTensor { shape: self.shape, data: self.matrix.widened() }
    }
}

/// The safetensors files of a directory: one, or several with an index.
pub(crate) struct TensorFiles {
    shards: Vec<Shard>,
    tensors: HashMap<String, Place>,
}

struct Shard {
    path: PathBuf,
    map: Mmap,
}

struct Place {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Byte range in the shard's file.
    range: std::ops::Range<usize>,
}

impl fmt::Debug for TensorFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorFiles").field("shards", &self.shards.len()).field("tensors", &self.tensors.len()).finish()
    }
}

impl TensorFiles {
    /// Maps the directory's weights and reads their headers.
    pub(crate) fn open(dir: &Path) -> Result<TensorFiles> {
        const SINGLE: &str = "model.safetensors";
        let index_path = dir.join("model.safetensors.index.json");
        let names: BTreeSet<String> = if dir.join(SINGLE).exists() {
            BTreeSet::from([SINGLE.to_owned()])
        } else if let Some(index) = read_json(&index_path)? {
            let bad = || {
                Error::new(Kind::Model, "the index has no weight_map of file names in its own directory")
                    .with("file", index_path.display())
                    .hint("fetch the model again")
            };
            let map = index["weight_map"].as_object().ok_or_else(bad)?;
            let plain = |v: &Value| match v.as_str() {
                Some(name) => paths::plain(name)
                    .map(str::to_owned)
                    .map_err(|e| e.with("file", index_path.display()).with("key", "weight_map")),
                None => Err(bad()),
            };
            map.values().map(plain).collect::<Result<_>>()?
        } else {
            return Err(Error::new(Kind::Model, "the model directory has no model.safetensors and no index of shards")
                .with("file", dir.display())
                .hint("only safetensors and GGUF weights can be read, not pytorch_model.bin"));
        };

        Self::open_all(names.into_iter().map(|name| dir.join(name)))
    }

    /// Maps one safetensors file.
    pub(crate) fn open_file(path: &Path) -> Result<TensorFiles> {
        Self::open_all([path.to_owned()])
    }

    fn open_all(paths: impl IntoIterator<Item = PathBuf>) -> Result<TensorFiles> {
        let mut files = TensorFiles { shards: Vec::new(), tensors: HashMap::new() };
        for path in paths {
            let map = map_file(&path)?;
            files.add(&map).map_err(|e| e.with("file", path.display()))?;
            files.shards.push(Shard { path, map });
        }
        Ok(files)
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Adds the directory of the file whose bytes these are, as the next shard.
    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let damaged = "the safetensors file is truncated or damaged";
        let hint = "fetch the model again";
        let (header, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|e| Error::new(Kind::Model, damaged).hint(hint).source(e))?;
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let start = header.saturating_add(8);
            let range = start.saturating_add(from)..start.saturating_add(to);
            if bytes.get(range.clone()).is_none() {
                return Err(Error::new(Kind::Model, damaged).with("tensor", name).hint(hint));
            }
            let place = Place { shard: self.shards.len(), dtype: info.dtype, shape: info.shape.clone(), range };
            if self.tensors.insert(name.clone(), place).is_some() {
                return Err(Error::new(Kind::Model, "two shards hold the same tensor").with("tensor", name).hint(hint));
            }
        }
        Ok(())
    }

    /// A tensor's shape.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|p| p.shape.as_slice())
    }

    /// A tensor as f32.
    pub(crate) fn tensor(&self, name: &str) -> Result<HostTensor> {
        self.kept(name).map(KeptTensor::widened)
    }

    /// A tensor with the bits that its file has.
    pub(crate) fn kept(&self, name: &str) -> Result<KeptTensor> {
        let place = self.tensors.get(name);
        let Some((place, shard)) = place.and_then(|p| Some((p, self.shards.get(p.shard)?))) else {
            return Err(Error::new(Kind::Model, "the model lacks a tensor").with("tensor", name));
        };
        let format = match place.dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::Bf16,
            other => {
                return Err(Error::new(Kind::Model, format!("tensors of type {other:?} are not supported"))
                    .with("tensor", name)
                    .with("file", shard.path.display())
                    .hint("save the model as float32, float16 or bfloat16"));
            }
        };
        let bytes = shard.map.get(place.range.clone()).unwrap_or(&[]);
        let count = bytes.len() / format.block().1;
        if place.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(count) {
            return Err(Error::new(Kind::Model, "a tensor's shape does not fit its data")
                .with("tensor", name)
                .with("file", shard.path.display()));
        }
        let columns = place.shape.last().copied().unwrap_or(1);
        Ok(KeptTensor { shape: place.shape.clone(), matrix: format.matrix(bytes, columns) })
    }

    /// Hashes the weights and those files of `names` that exist in `dir`.
    pub(crate) fn digest(&self, hasher: &mut blake3::Hasher, dir: &Path, names: &[&str]) -> Result<()> {
        for name in names {
            let path = dir.join(name);
            if path.exists() {
                digest_bytes(hasher, name, &map_file(&path)?);
            }
        }
        for shard in &self.shards {
            digest_bytes(hasher, &shard.path.file_name().unwrap_or_default().to_string_lossy(), &shard.map);
        }
        Ok(())
    }
}

/// Hashes a named file, its parts in parallel.
pub(super) fn digest_bytes(hasher: &mut blake3::Hasher, name: &str, bytes: &[u8]) {
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    let parts: Vec<blake3::Hash> = bytes.par_chunks(1 << 22).map(blake3::hash).collect();
    for part in parts {
        hasher.update(part.as_bytes());
    }
}
