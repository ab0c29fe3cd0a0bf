//! A decoder's files: one interface to a GGUF file or a Hugging Face directory.
//!
//! Knows where configuration, tensors, tokenizer and chat template come from in either. Knows nothing of devices. All of
//! a model's tensors are checked when it is opened, before any is read.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::{Context, Error, Kind, Result};
use crate::llm::chat::ChatTemplate;
use crate::llm::decoder_config::{DecoderConfig, Family, SUPPORTED};
use crate::llm::file::{map_file, read_json, read_text};
use crate::llm::gguf::Gguf;
use crate::llm::hugging_face::{TokenizerOutline, directory_config, directory_template, special_token};
use crate::llm::llama_cpp::{gguf_config, gguf_name, gguf_tokenizer, unpermute, whole_gguf};
use crate::llm::tensor_files::{HostTensor, KeptTensor, TensorFiles, digest_bytes};
use crate::llm::tokenizer::Tokenizer;

/// A model on disk, opened: headers are read and checked, weights stay in the memory map until asked for.
#[derive(Debug)]
pub struct ModelFiles {
    path: PathBuf,
    config: DecoderConfig,
    source: Source,
    found_ends: Vec<u32>,
    digest: OnceLock<String>,
}

#[derive(Debug)]
enum Source {
    Gguf(Gguf),
    Directory(TensorFiles),
}

impl ModelFiles {
    /// Opens a GGUF file, a Hugging Face directory, or a directory that holds nothing but one GGUF file.
    ///
    /// # Errors
    /// `Kind::Model` where a file is missing, truncated or not supported, or a tensor is missing or has another shape.
    pub fn open(path: &Path) -> Result<ModelFiles> {
        let path = resolve(path)?;
        let (config, source) = if path.is_dir() {
            let files = TensorFiles::open(&path)?;
            let config = directory_config(&path, &files)?;
            (config, Source::Directory(files))
        } else {
            if path.extension().is_some_and(|e| e == "safetensors") {
                return Err(Error::new(Kind::Model, "a safetensors file alone is not a model")
                    .with("file", path.display())
                    .hint("name the directory that holds it together with config.json and tokenizer.json"));
            }
            let gguf = Gguf::open(&path)?;
            whole_gguf(&gguf).map_err(|e| e.with("file", path.display()))?;
            let config = gguf_config(&gguf).map_err(|e| e.with("file", path.display()))?;
            (config, Source::Gguf(gguf))
        };
        let mut files = ModelFiles { path, config, source, found_ends: Vec::new(), digest: OnceLock::new() };
        files.check_tensors()?;
        files.find_ends()?;
        Ok(files)
    }

    /// Adds end-of-turn tokens that the configuration does not name: the end token of the tokenizer's files and the
    /// token that the chat template writes after an answer. The template's comes first, because an answer ends with it.
    fn find_ends(&mut self) -> Result<()> {
        // A template that does not parse is reported when it is used.
        let after = self.chat_template().map(|t| t.after_answer()).unwrap_or_default();
        let after = after.trim_start();
        let (mut of_template, mut of_tokenizer) = (None, Vec::new());
        match &self.source {
            Source::Gguf(gguf) => {
                let types = gguf.i32s("tokenizer.ggml.token_type").unwrap_or_default();
                let tokens = gguf.strs("tokenizer.ggml.tokens").unwrap_or_default();
                // Control tokens and those that users added.
                let added = tokens.iter().enumerate().filter(|(i, _)| matches!(types.get(*i), Some(3 | 4)));
                let fits = added.filter(|(_, token)| !token.is_empty() && after.starts_with(token.as_str()));
                of_template = fits.max_by_key(|(_, token)| token.len()).and_then(|(i, _)| u32::try_from(i).ok());
            }
            Source::Directory(_) => {
                let added = TokenizerOutline::read(&self.path)?.unwrap_or_default().added_tokens;
                let fits = added.iter().filter(|t| !t.content.is_empty() && after.starts_with(t.content.as_str()));
                of_template = of_template.or(fits.max_by_key(|t| t.content.len()).map(|t| t.id));
                let about = [
                    read_json(&self.path.join("tokenizer_config.json"))?.unwrap_or_default(),
                    read_json(&self.path.join("special_tokens_map.json"))?.unwrap_or_default(),
                ];
                let eos: Vec<&str> = about.iter().filter_map(|file| special_token(file, "eos_token")).collect();
                of_tokenizer.extend(added.iter().filter(|t| eos.contains(&t.content.as_str())).map(|t| t.id));
            }
        }
        let is_new = |id: &u32| !self.config.eos_ids.contains(id) && (*id as usize) < self.config.vocab_size;
        let of_template = of_template.filter(is_new);
        of_tokenizer.retain(|id| is_new(id) && of_template != Some(*id));
        of_tokenizer.dedup();
        self.found_ends = of_template.into_iter().chain(of_tokenizer.iter().copied()).collect();
        self.config.eos_ids =
            of_template.into_iter().chain(self.config.eos_ids.iter().copied()).chain(of_tokenizer).collect();
        Ok(())
    }

    /// End-of-turn tokens that only the tokenizer's files name; generation stops at them too.
    pub fn found_ends(&self) -> &[u32] {
        &self.found_ends
    }

    /// The model's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's or folder's name without its path, which may be published.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The decoder's configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The model's folder if it has Hugging Face's layout.
    pub fn directory(&self) -> Option<&Path> {
        matches!(self.source, Source::Directory(_)).then_some(self.path.as_path())
    }

    /// The text of a special token as a GGUF file names it, such as `bos` or `eos`.
    pub(crate) fn gguf_token(&self, role: &str) -> Option<&str> {
        let Source::Gguf(gguf) = &self.source else { return None };
        let id = gguf.u32(&format!("tokenizer.ggml.{role}_token_id"))?;
        gguf.strs("tokenizer.ggml.tokens")?.get(id as usize).map(String::as_str)
    }

    fn check_tensors(&self) -> Result<()> {
        let mut wrong = Vec::new();
        for (name, expected) in self.config.tensors() {
            match self.shape(&name) {
                None => wrong.push(format!("{name} is missing")),
                Some(found) if found != expected => wrong.push(format!("{name} is {found:?}, not {expected:?}")),
                Some(_) => {}
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let more = if wrong.len() > 4 { format!("; and {} more", wrong.len() - 4) } else { String::new() };
        wrong.truncate(4);
        Err(Error::new(Kind::Model, format!("the weights do not fit the configuration: {}{more}", wrong.join("; ")))
            .with("file", self.path.display())
            .hint("the model is incomplete or its configuration belongs to another: fetch all of its files again"))
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        match &self.source {
            Source::Gguf(gguf) => gguf.info(&gguf_name(name)?).map(|i| i.shape.as_slice()),
            Source::Directory(files) => files.shape(name),
        }
    }

    /// One tensor by its Hugging Face name (`model.layers.0.self_attn.q_proj.weight`), as f32.
    ///
    /// # Errors
    /// `Kind::Model` where the model has no such tensor.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        self.kept(name).map(KeptTensor::widened)
    }

    /// The same with the bits that its file has.
    ///
    /// # Errors
    /// `Kind::Model` where the model has no such tensor.
    pub fn kept(&self, name: &str) -> Result<KeptTensor> {
        let gguf = match &self.source {
            Source::Directory(files) => return files.kept(name),
            Source::Gguf(gguf) => gguf,
        };
        let stored = gguf_name(name).unwrap_or_else(|| name.to_owned());
        let mut matrix = gguf.matrix(&stored)?;
        let shape = gguf.info(&stored).map(|i| i.shape.clone()).unwrap_or_default();
        if self.config.family == Family::Llama {
            let heads = match name.rsplit('.').nth(1) {
                Some("q_proj") => Some(self.config.heads),
                Some("k_proj") => Some(self.config.kv_heads),
                _ => None,
            };
            if let Some(heads) = heads {
                matrix = unpermute(matrix, heads, self.config.head_dim);
            }
        }
        Ok(KeptTensor { shape, matrix })
    }

    /// BLAKE3 over every file of the model that decides its output, 32 hex digits; computed once. The model's name and
    /// path do not matter.
    ///
    /// # Errors
    /// `Kind::Model` where a file cannot be read.
    pub fn digest(&self) -> Result<String> {
        if let Some(digest) = self.digest.get() {
            return Ok(digest.clone());
        }
        let mut hasher = blake3::Hasher::new();
        match &self.source {
            Source::Gguf(gguf) => digest_bytes(&mut hasher, "gguf", gguf.bytes()),
            Source::Directory(files) => files.digest(
                &mut hasher,
                &self.path,
                &[
                    "chat_template.jinja",
                    "config.json",
                    "generation_config.json",
                    "special_tokens_map.json",
                    "tokenizer.json",
                    "tokenizer_config.json",
                ],
            )?,
        }
        let mut digest = hasher.finalize().to_hex().to_string();
        digest.truncate(32);
        Ok(self.digest.get_or_init(|| digest).clone())
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// `Kind::Model` where it is missing, of an unknown type, or larger than the model's embedding.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let (tokenizer, file) = match &self.source {
            Source::Directory(_) => {
                let file = self.path.join("tokenizer.json");
                (Tokenizer::from_json(&map_file(&file)?), file)
            }
            Source::Gguf(gguf) => (gguf_tokenizer(gguf), self.path.clone()),
        };
        let tokenizer = tokenizer.map_err(|e| e.with("file", file.display()))?;
        if tokenizer.vocab_size() > self.config.vocab_size {
            return Err(Error::new(
                Kind::Model,
                format!(
                    "the tokenizer does not fit the model: it has {} tokens, the model's embedding {}",
                    tokenizer.vocab_size(),
                    self.config.vocab_size
                ),
            )
            .with("file", file.display())
            .hint("take the tokenizer from where the model came from"));
        }
        Ok(tokenizer)
    }

    /// The model's chat template.
    ///
    /// # Errors
    /// `Kind::Model` where the model has none or it does not parse.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        let none = || {
            Error::new(Kind::Model, "the model has no chat template")
                .with("file", self.path.display())
                .hint("use an instruction-tuned model, or add chat_template.jinja to its directory")
        };
        match &self.source {
            Source::Gguf(gguf) => {
                let source = gguf.str("tokenizer.chat_template").ok_or_else(none)?;
                let tokens = gguf.strs("tokenizer.ggml.tokens").unwrap_or_default();
                let text = |key: &str| gguf.u32(key).and_then(|id| tokens.get(id as usize)).map_or("", String::as_str);
                let (bos, eos) = (text("tokenizer.ggml.bos_token_id"), text("tokenizer.ggml.eos_token_id"));
                ChatTemplate::new(source, bos, eos)
            }
            Source::Directory(_) => {
                let about = read_json(&self.path.join("tokenizer_config.json"))?.unwrap_or_default();
                let special = read_json(&self.path.join("special_tokens_map.json"))?.unwrap_or_default();
                let text = |key: &str| {
                    special_token(&about, key).or_else(|| special_token(&special, key)).unwrap_or_default().to_owned()
                };
                let source = match read_text(&self.path.join("chat_template.jinja"))? {
                    Some(source) => source,
                    None => directory_template(&about).ok_or_else(none)?,
                };
                ChatTemplate::new(&source, &text("bos_token"), &text("eos_token"))
            }
        }
        .map_err(|e| e.with("file", self.path.display()))
    }
}

/// The file or directory that `path` refers to.
fn resolve(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        return Err(Error::new(Kind::Model, "the model does not exist")
            .with("file", path.display())
            .hint("check the path; ci/quickstart.sh fetches the models of the examples"));
    }
    if !path.is_dir() || path.join("config.json").exists() {
        return Ok(path.to_owned());
    }
    let entries = std::fs::read_dir(path).context(Kind::Model, || format!("cannot list {}", path.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(Error::new(Kind::Model, "the directory holds several GGUF files")
            .with("file", path.display())
            .hint("name one of them; parts of a split model (-00001-of-00003) must be joined first")),
        (None, _) => Err(Error::new(Kind::Model, "the directory has no config.json and no GGUF file")
            .with("file", path.display())
            .hint(SUPPORTED)),
    }
}
