//! What a reward model reads: a user and an item at a time, the history before it, reasons, and items' attributes.
//!
//! Knows dense ids and reasons as vectors, and that no example may look ahead. Knows nothing of the model.

use crate::error::{Error, Kind, Result};

/// A past event of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// Dense id.
    pub item: u32,
    /// Whether the user liked it.
    pub liked: bool,
    /// When, in any unit that [`RewardExample`]'s time is in.
    pub time: i64,
}

/// A user and an item at a time, the outcome, and reasons that were written for it.
#[derive(Debug, Clone)]
pub struct RewardExample<'a> {
    user: u32,
    item: u32,
    history: &'a [Past],
    reasons: Vec<&'a [f32]>,
    corrupted: Vec<&'a [f32]>,
    label: bool,
    time: i64,
}

impl<'a> RewardExample<'a> {
    /// `history` in time order; only its end is read. `reasons` are vectors of texts for this very pair, of any kinds: training
    /// draws one of them every epoch. `corrupted` are vectors of texts that say something untrue of it, maybe none.
    ///
    /// # Errors
    /// `Kind::Input` where an event of the history is not strictly before `time` (rule R1: a reward may not look ahead) or
    /// out of order, or there is no reason.
    pub fn new(
        who: (u32, u32),
        history: &'a [Past],
        reasons: Vec<&'a [f32]>,
        corrupted: Vec<&'a [f32]>,
        label: bool,
        time: i64,
    ) -> Result<Self> {
        let bare = Self::bare(who, history, label, time)?;
        if reasons.is_empty() {
            return Err(Error::new(Kind::Input, "an example has no reason")
                .with("user", bare.user)
                .with("item", bare.item)
                .with("time", time)
                .hint("leave out pairs that no reason was written for"));
        }
        Ok(RewardExample { reasons, corrupted, ..bare })
    }

    /// As [`RewardExample::new`], without a reason: it may be judged and is nothing to learn from.
    pub(crate) fn bare((user, item): (u32, u32), history: &'a [Past], label: bool, time: i64) -> Result<Self> {
        let bad = |why: &str| Error::new(Kind::Input, why).with("user", user).with("item", item).with("time", time);
        if history.iter().any(|past| past.time >= time) {
            return Err(bad("an example's history holds an event that is not before it")
                .hint("cut histories strictly before the time of the example"));
        }
        if !history.is_sorted_by_key(|past| past.time) {
            return Err(bad("an example's history is not in time order"));
        }
        Ok(RewardExample { user, item, history, reasons: Vec::new(), corrupted: Vec::new(), label, time })
    }

    /// The same with other items; `history` has the times of the old one.
    pub(crate) fn of_items<'b>(&'b self, item: u32, history: &'b [Past]) -> RewardExample<'b>
    where
        'a: 'b,
    {
        RewardExample { item, history, ..self.clone() }
    }

    /// Number of the user.
    pub fn user(&self) -> u32 {
        self.user
    }

    /// Dense id of the item.
    pub fn item(&self) -> u32 {
        self.item
    }

    /// What is known of the user.
    pub fn history(&self) -> &'a [Past] {
        self.history
    }

    /// Vectors of the reasons.
    pub fn reasons(&self) -> &[&'a [f32]] {
        &self.reasons
    }

    /// Vectors of texts that say something untrue.
    pub fn corrupted(&self) -> &[&'a [f32]] {
        &self.corrupted
    }

    /// Whether the user liked the item.
    pub fn label(&self) -> bool {
        self.label
    }

    /// When it was.
    pub fn time(&self) -> i64 {
        self.time
    }
}

/// What is known of every item: categorical attributes, such as genres, and maybe the vector of its title.
#[derive(Debug, Clone, PartialEq)]
pub struct Attributes {
    of_items: Vec<Vec<u32>>,
    kinds: usize,
    titles: Vec<f32>,
    width: usize,
}

impl Attributes {
    /// `of_items[item]` are ids below `kinds`; an item may have none.
    ///
    /// # Errors
    /// `Kind::Input` for an id that is not below `kinds`.
    pub fn new(of_items: Vec<Vec<u32>>, kinds: usize) -> Result<Self> {
        if let Some(item) = of_items.iter().position(|of| of.iter().any(|a| *a as usize >= kinds)) {
            return Err(Error::new(Kind::Input, "an item has an attribute that does not exist").with("item", item));
        }
        Ok(Attributes { of_items, kinds, titles: Vec::new(), width: 0 })
    }

    /// The same with the vectors of the items' titles, `[items, width]`; zero where an item has none.
    ///
    /// # Errors
    /// `Kind::Input` where there is not one vector for every item, or a value is no number.
    pub fn with_titles(self, width: usize, titles: Vec<f32>) -> Result<Self> {
        if width == 0 || titles.len() != width * self.of_items.len() || titles.iter().any(|v| !v.is_finite()) {
            return Err(Error::new(Kind::Input, "the titles' vectors do not fit the items, or hold what is no number")
                .with("width", width)
                .with("values", titles.len())
                .with("items", self.of_items.len()));
        }
        Ok(Attributes { titles, width, ..self })
    }

    /// The vectors of the items' titles, `[items, width]`; empty where there are none.
    pub fn titles(&self) -> &[f32] {
        &self.titles
    }

    /// Values of a title's vector; 0 where there are none.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Tells whether two are the same: blake3, 32 hex digits.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut number = |n: usize| _ = hasher.update(&(n as u64).to_le_bytes());
        // Numbers of values stand before them, so that no two give the same bytes.
        [self.kinds, self.width, self.of_items.len()].into_iter().for_each(&mut number);
        for of in &self.of_items {
            number(of.len());
            of.iter().for_each(|attribute| number(*attribute as usize));
        }
        self.titles.iter().for_each(|v| _ = hasher.update(&v.to_le_bytes()));
        hasher.finalize().to_hex()[..32].to_string()
    }

    /// Those of an item; none where there is no such item.
    pub fn of(&self, item: u32) -> &[u32] {
        self.of_items.get(item as usize).map_or(&[], Vec::as_slice)
    }

    /// Attribute ids lie below this.
    pub(crate) fn kinds(&self) -> usize {
        self.kinds
    }

    /// Number of items.
    pub fn items(&self) -> usize {
        self.of_items.len()
    }
}
