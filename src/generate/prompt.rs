//! Prompts: templates over evidence, the chat they become, and the key under which a response is stored, so that it is
//! generated once.
//!
//! Knows templates, evidence and token ids. Knows nothing of SQL. Text of the evidence is data: it goes into a message
//! as text pieces, in which no control token is ever recognised.

use std::collections::HashMap;
use std::path::Path;

use minijinja::{Environment, Value, context};

use crate::error::{Context, Error, Kind, Result};
use crate::generate::fields::Fields;
use crate::generate::format;
use crate::llm::chat::{ChatTemplate, Message, OwnedPiece};
use crate::llm::sampler::Sampling;
use crate::llm::tokenizer::{Piece, Tokenizer};
use crate::settings::read_text;

/// The facts that a reason may use.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Evidence {
    /// `item`, `history` or `pair`; in alignment also its other tasks: `choose`, `rewrite`.
    pub kind: String,
    /// Title of the item that the reason is about.
    pub subject: Option<String>,
    /// `like`, `dislike` or `mixed`.
    pub verdict: String,
    /// Liked titles: of the user, or of those who like the item. Of a pair, of its user.
    pub liked: Vec<String>,
    /// Titles that are disliked.
    pub disliked: Vec<String>,
    /// Other titles that go with the subject; of a pair, those of the liked ones that do.
    pub related: Vec<String>,
    /// Attributes such as genres; `Label: value` where it is not told by itself what the value is. Of a pair, those of the item
    /// that the user likes.
    pub attributes: Vec<String>,
    /// Of an item or a pair: telling sentences of the item's description. Of a history: what liked items are, as
    /// `Title: words, words`.
    pub content: Vec<String>,
    /// Sentences in praise: that people wrote about the item, or that the user wrote.
    pub praise: Vec<String>,
    /// Sentences that find fault, the same.
    pub fault: Vec<String>,
    /// The words that say most about it.
    pub keywords: Vec<String>,
    /// Only in training examples: the items to choose from, or a bad reason and its mistake.
    pub extra: Vec<String>,
}

/// A template file: a section `=== user` with the question and a section `=== assistant` with the stem, the beginning
/// of the answer.
#[derive(Debug)]
pub struct PromptTemplate {
    env: Environment<'static>,
    digest: String,
    origin: String,
    /// What is asked for beside the sentence.
    fields: Fields,
    /// Lines of the file before the question, and before the stem.
    before: [usize; 2],
    /// Whether the question asks for the stem, and nothing begins the answer.
    asks_for_stem: bool,
}

/// Stands in a question that asks for the stem, before it.
const BEGIN_WITH: &str = "Begin the sentence with these words: ";

/// What a template may show, for messages.
const FIELDS: &str =
    "kind, subject, verdict, liked, disliked, related, attributes, content, praise, fault, keywords and extra";

impl PromptTemplate {
    /// Loads a built-in template (`item`, `history`, `pair`; `aligned-item` and so on for an aligned model, `de-item`, `zh-item`
    /// and so on in another language) or a file.
    ///
    /// # Errors
    /// [`Kind::Config`] naming the file and, for mistakes in it, the line.
    pub fn load(name: &str) -> Result<PromptTemplate> {
        if let Some(text) = Self::builtin(name) {
            return Self::parse(text, &format!("built-in template `{name}`"));
        }
        let hint = "name a built-in template (item, history, pair, or the same with aligned-, de- or zh- before it) or a file in \
                    [prompt]";
        Self::parse(&read_text(Path::new(name), "the prompt template", hint)?, name)
    }

    /// The language of a built-in template, by its name.
    pub fn language(name: &str) -> Option<&'static str> {
        Self::builtin(name)?;
        Some(match name.split_once('-') {
            Some(("de", _)) => "de",
            Some(("zh", _)) => "zh",
            _ => "en",
        })
    }

    /// The text of a built-in template.
    pub fn builtin(name: &str) -> Option<&'static str> {
        Some(match name {
            "item" => include_str!("../../jobs/templates/item.j2"),
            "history" => include_str!("../../jobs/templates/history.j2"),
            "pair" => include_str!("../../jobs/templates/pair.j2"),
            "aligned-item" => include_str!("../../jobs/templates/aligned_item.j2"),
            "aligned-history" => include_str!("../../jobs/templates/aligned_history.j2"),
            "aligned-pair" => include_str!("../../jobs/templates/aligned_pair.j2"),
            "aligned-choose" => include_str!("../../jobs/templates/aligned_choose.j2"),
            "aligned-rewrite" => include_str!("../../jobs/templates/aligned_rewrite.j2"),
            "de-item" => include_str!("../../jobs/templates/de/item.j2"),
            "de-history" => include_str!("../../jobs/templates/de/history.j2"),
            "de-pair" => include_str!("../../jobs/templates/de/pair.j2"),
            "zh-item" => include_str!("../../jobs/templates/zh/item.j2"),
            "zh-history" => include_str!("../../jobs/templates/zh/history.j2"),
            "zh-pair" => include_str!("../../jobs/templates/zh/pair.j2"),
            _ => return None,
        })
    }

    /// Parses a template; `origin` names it in errors.
    pub fn parse(text: &str, origin: &str) -> Result<PromptTemplate> {
        let bad = |what: &str| {
            Error::new(Kind::Config, format!("the prompt template {what}"))
                .with("file", origin)
                .hint("write a line `=== user`, the question, a line `=== assistant`, the start of the answer")
        };
        let (_, rest) = text.split_once("=== user\n").ok_or_else(|| bad("has no section `=== user`"))?;
        let (user, stem) =
            rest.split_once("=== assistant\n").ok_or_else(|| bad("has no section `=== assistant` after it"))?;
        let before = [rest, stem].map(|source| text[..text.len() - source.len()].lines().count());
        let mut env = Environment::new();
        env.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        // A prompt is plain text: nothing in it is escaped, and nothing in the data is ever read as a template.
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.add_filter("untag", |text: String| format::clean(&text));
        for ((name, source), before) in [("user", user), ("assistant", stem)].into_iter().zip(before) {
            env.add_template_owned(name, source.trim_end().to_string())
                .map_err(|e| bad("is not valid minijinja").with("line", before + e.line().unwrap_or(1)).source(e))?;
        }
        let digest = blake3::hash(text.as_bytes()).to_hex()[..32].to_string();
        let (origin, fields) = (origin.to_owned(), Fields::default());
        let template = PromptTemplate { env, digest, origin, fields, before, asks_for_stem: false };
        // A template that cannot render minimal evidence would fail during the nightly run.
        template.render(&Evidence::default())?;
        Ok(template)
    }

    /// The template for a model whose answer cannot be begun: a line of the question asks for an answer with the stem.
    ///
    /// # Errors
    /// [`Kind::Config`] where the stem is no words but the format of an aligned model.
    pub fn asking_for_stem(mut self) -> Result<PromptTemplate> {
        if self.stem(&Evidence::default())?.starts_with(format::STEM) {
            return Err(Error::new(
                Kind::Config,
                "the prompt template is for an aligned model, whose answer is begun for it",
            )
            .with("file", &self.origin)
            .hint(
                "an endpoint that serves one and goes on with the beginning of an answer wants [model] endpoint_stem = \
                     \"continue\"; for others name `item`, `history` and `pair`, or templates of your own, in [prompt]",
            ));
        }
        self.asks_for_stem = true;
        // Its questions are others.
        self.digest = blake3::hash(format!("{BEGIN_WITH}{}", self.digest).as_bytes()).to_hex()[..32].to_string();
        Ok(self)
    }

    /// The template with fields beside the sentence: a line after the question asks for them, and the answer begins as
    /// such answers do.
    ///
    /// # Errors
    /// [`Kind::Config`] for a template of an aligned model, whose answers have a form of their own.
    pub fn asking(mut self, fields: &Fields) -> Result<PromptTemplate> {
        if fields.is_empty() {
            return Ok(self);
        }
        if self.stem(&Evidence::default())?.starts_with(format::STEM) {
            let what = "the prompt template asks for the answer of an aligned model, which has no fields";
            return Err(Error::new(Kind::Config, what)
                .with("file", &self.origin)
                .hint("leave [prompt] fields empty, or take a template whose answer is a plain sentence"));
        }
        let named = format!("{} {}", self.digest, fields.request());
        self.digest = blake3::hash(named.as_bytes()).to_hex()[..32].to_string();
        self.fields = fields.clone();
        Ok(self)
    }

    /// Digest of the template's text, and of the fields that it asks for.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The question and the stem of the answer.
    ///
    /// # Errors
    /// [`Kind::Config`] where a section cannot be rendered for this evidence.
    pub fn render(&self, evidence: &Evidence) -> Result<(String, String)> {
        let shown = shown(evidence);
        Ok((self.question_of(&shown)?, self.stem_of(&shown)?))
    }

    /// The question alone.
    ///
    /// # Errors
    /// As [`PromptTemplate::render`].
    pub fn question(&self, evidence: &Evidence) -> Result<String> {
        self.question_of(&shown(evidence))
    }

    fn question_of(&self, shown: &Value) -> Result<String> {
        let mut question = self.section("user", shown)?;
        if self.asks_for_stem {
            let stem = self.section("assistant", shown)?;
            if !stem.is_empty() {
                question = format!("{question}\n{BEGIN_WITH}{stem}");
            }
        }
        Ok(if self.fields.is_empty() { question } else { format!("{question}\n{}", self.fields.request()) })
    }

    /// The stem of the answer alone.
    ///
    /// # Errors
    /// As [`PromptTemplate::render`].
    pub fn stem(&self, evidence: &Evidence) -> Result<String> {
        self.stem_of(&shown(evidence))
    }

    fn stem_of(&self, shown: &Value) -> Result<String> {
        if self.asks_for_stem {
            return Ok(String::new());
        }
        let stem = self.section("assistant", shown)?;
        Ok(if self.fields.is_empty() { stem } else { self.fields.stem(&stem) })
    }

    fn section(&self, name: &str, shown: &Value) -> Result<String> {
        let template = self.env.get_template(name).context(Kind::Internal, || "a template went missing".into())?;
        let text = template.render(shown.clone()).map_err(|e| {
            let error = Error::new(Kind::Config, format!("the prompt template cannot render its section `{name}`"))
                .with("file", &self.origin)
                .hint(format!("a template may show {FIELDS}"));
            let before = self.before[usize::from(name != "user")];
            match e.line() {
                Some(line) => error.with("line", before + line).source(e),
                None => error.source(e),
            }
        })?;
        Ok(text.trim().to_string())
    }

    /// Renders made evidence of each verdict, whole and bare: what a template says of fields only where they are there is
    /// looked at, too.
    ///
    /// # Errors
    /// As [`PromptTemplate::render`].
    pub fn try_out(&self, kind: &str) -> Result<()> {
        let texts = |text: &str| vec![text.to_owned(), format!("another {text}")];
        for verdict in ["like", "dislike", "mixed"] {
            let bare = Evidence { kind: kind.to_owned(), verdict: verdict.to_owned(), ..Evidence::default() };
            let whole = Evidence {
                subject: Some("a title".to_owned()),
                liked: texts("liked title"),
                disliked: texts("disliked title"),
                related: texts("related title"),
                attributes: texts("attribute"),
                content: texts("sentence."),
                praise: texts("sentence of praise."),
                fault: texts("fault."),
                keywords: texts("keyword"),
                extra: texts("extra"),
                ..bare.clone()
            };
            for evidence in [bare, whole] {
                self.render(&evidence)?;
            }
        }
        Ok(())
    }
}

/// The evidence as templates see it.
fn shown(evidence: &Evidence) -> Value {
    let Evidence { kind, subject, verdict, liked, disliked, related, attributes, .. } = evidence;
    let Evidence { content, praise, fault, keywords, extra, .. } = evidence;
    context! {
        kind, subject, verdict, liked, disliked, related, attributes, content, praise, fault, keywords, extra,
    }
}

/// Whether a text is blank: only white space, control characters and invisible marks.
pub fn is_blank(text: &str) -> bool {
    let is_mark =
        |c| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}');
    text.chars().all(|c| c.is_whitespace() || c.is_control() || is_mark(c))
}

/// Token ids of a prompt: the model's chat around `prompt_text`, and `answer_stem` as the beginning of the answer.
pub fn tokenize(tokenizer: &Tokenizer, chat: &ChatTemplate, prompt_text: &str, answer_stem: &str) -> Result<Vec<u32>> {
    let message = Message { role: "user".into(), content: prompt_text.to_string() };
    let mut pieces = chat.render(&[message], true)?;
    if !answer_stem.is_empty() {
        pieces.push(OwnedPiece::Text(answer_stem.to_string()));
    }
    let pieces: Vec<Piece<'_>> = pieces.iter().map(OwnedPiece::as_piece).collect();
    tokenizer.encode(&pieces)
}

/// Token ids of prompts, from the computation of the key to the request, so that a prompt is tokenized once for both.
/// Bounded: a prompt that does not fit is tokenized again.
#[derive(Debug)]
pub(super) struct Tokenized {
    ids: HashMap<[u8; 32], Vec<u32>>,
    room: usize,
}

/// Overhead of an entry besides its tokens, in tokens.
const ENTRY: usize = 16;

impl Tokenized {
    /// A cache with room for `tokens` token ids of 4 bytes.
    pub(super) fn with_room(tokens: usize) -> Tokenized {
        Tokenized { ids: HashMap::new(), room: tokens }
    }

    /// The map's key of a prompt.
    pub(super) fn name(prompt_text: &str, answer_stem: &str) -> [u8; 32] {
        let mut h = blake3::Hasher::new();
        h.update(&(prompt_text.len() as u64).to_le_bytes()).update(prompt_text.as_bytes());
        *h.update(answer_stem.as_bytes()).finalize().as_bytes()
    }

    /// A prompt's token ids; they stay in the cache.
    pub(super) fn get(&self, name: &[u8; 32]) -> Option<&[u32]> {
        self.ids.get(name).map(Vec::as_slice)
    }

    /// Removes and returns a prompt's token ids.
    pub(super) fn take(&mut self, name: &[u8; 32]) -> Option<Vec<u32>> {
        let ids = self.ids.remove(name)?;
        self.room += ids.len() + ENTRY;
        Some(ids)
    }

    /// Caches token ids if there is room.
    pub(super) fn keep(&mut self, name: [u8; 32], ids: &[u32]) {
        let cost = ids.len() + ENTRY;
        if cost <= self.room && self.ids.insert(name, ids.to_vec()).is_none() {
            self.room -= cost;
        }
    }
}

/// Everything that a response depends on besides its prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Fingerprint {
    /// Digest of the model's files.
    pub model: String,
    /// Digest of the adapter's files; empty without one.
    pub adapter: String,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Maximum number of new tokens.
    pub max_new_tokens: usize,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Tokens that end it and that the model's configuration does not name; see [`ModelFiles::found_ends`].
    ///
    /// [`ModelFiles::found_ends`]: crate::llm::weights::ModelFiles::found_ends
    pub ends: Vec<u32>,
    /// What answers with fields are held to; empty where no fields are asked for.
    pub form: String,
    /// Seed of the run; used only if sampling is random.
    pub seed: u64,
}

impl Fingerprint {
    /// The model as tables and manifests name it: its digest, and the adapter's where there is one.
    pub fn model_name(&self) -> String {
        match self.adapter.as_str() {
            "" => self.model.clone(),
            adapter => format!("{}+{adapter}", self.model),
        }
    }

    /// The hasher from which every prompt's key starts.
    fn base(&self) -> blake3::Hasher {
        let mut h = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            h.update(&(bytes.len() as u64).to_le_bytes());
            h.update(bytes);
        };
        field(b"curec prompt_key 1");
        field(self.model.as_bytes());
        field(self.adapter.as_bytes());
        let s = &self.sampling;
        field(&s.temperature.to_le_bytes());
        field(&s.repetition_penalty.to_le_bytes());
        if s.temperature > 0.0 {
            field(&s.top_p.to_le_bytes());
            field(&(s.top_k as u64).to_le_bytes());
            field(&self.seed.to_le_bytes());
        }
        field(&(self.max_new_tokens as u64).to_le_bytes());
        if s.max_copied_words > 0 {
            field(b"max_copied_words");
            field(&(s.max_copied_words as u64).to_le_bytes());
        }
        for stop in &self.stop {
            field(stop.as_bytes());
        }
        if !self.ends.is_empty() {
            field(b"ends");
        }
        for end in &self.ends {
            field(&end.to_le_bytes());
        }
        if !self.form.is_empty() {
            field(b"form");
            field(self.form.as_bytes());
        }
        h
    }

    /// The prompt's key: 32 hexadecimal digits. Equal on every machine and in every run.
    pub fn prompt_key(&self, prompt: &[u32]) -> String {
        let mut h = self.base();
        // At once: a call for every four bytes takes longer than their digest.
        h.update(&prompt.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
        h.finalize().to_hex()[..32].to_string()
    }

    /// Seed of the row with this key.
    pub fn row_seed(&self, prompt_key: &str) -> [u8; 32] {
        let mut h = blake3::Hasher::new();
        h.update(&self.seed.to_le_bytes());
        h.update(prompt_key.as_bytes());
        *h.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests;
