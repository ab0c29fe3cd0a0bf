//! The arms of the ablation: their names, whose texts each has, and how it reads vectors.
//!
//! Knows what arms are called; knows nothing of vectors or data.

use crate::recommend::item_table::{How, Reading};

/// What a recommender is told about items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arm {
    /// A0: nothing.
    NoText,
    /// A0c: A0, and every item that training never met has its scores raised or lowered by one number that validation
    /// chooses: how much of a gain on such items is a mere offset.
    Offset,
    /// A1: a random vector each.
    Random,
    /// A1b: the scores of two trainings of A0 summed: what any second model brings.
    Ensemble,
    /// A2: attributes and co-consumption as text, without a language model.
    Attributes,
    /// A2r: what nights publish where no reason is written: the vector of the evidence (descriptions, what people praise and
    /// fault, attributes), without a language model.
    Evidence,
    /// A2c: A2r, and beside each vector where it leads in the space of co-consumption: the column `collaborative`.
    Projected,
    /// A2cc: the column `collaborative` alone.
    ProjectedAlone,
    /// A2w: A2r, and beside each vector what the item's words tell, as latent directions and as neighbours.
    Words,
    /// A2ww: the words alone.
    WordsAlone,
    /// A2x: the scalar columns of A2r's features alone: counts, scores, flags, sources.
    Scalars,
    /// A2rx: A2r, and the scalar columns beside each vector.
    ScalarsBeside,
    /// A2re: the vectors of A2r through KAR's experts, beside the id.
    ReadBeside,
    /// A2rd: as A2r, and items' own vectors stand in every training step.
    ReadKept,
    /// A2rb: as A2r, without a bound on items' own vectors.
    ReadFree,
    /// A2rw: as A2r, and an item's own vector counts in full from its first event on.
    ReadEqual,
    /// A2rs: as A2r, and items that training never met are wrong answers in training.
    ReadAll,
    /// A2ru: as A2r, and items that training never met are ranked where the model puts them.
    ReadUnraised,
    /// A2rn: as A2r, and nothing is added to scores for texts that are near to those of the history.
    ReadFar,
    /// A3: the language model's accepted reasons, as it comes.
    ZeroShot,
    /// A4: accepted reasons of the aligned model.
    Aligned,
    /// A4b: the templates' own reasons, which the aligned model is taught.
    Templates,
    /// A4e: what A2 and A4 say, one after the other in one text: what a reason adds to its evidence.
    Beside,
    /// A4s: accepted reasons of the aligned model, several sampled for a question, their vectors pooled.
    Sampled,
    /// A4r: as A4, and nights publish the mean of the reasons' vector and the evidence's, in the place of the reasons' alone.
    AlignedBoth,
    /// A4w: A4, and beside each vector what the item's words tell, as in A2w: what a ranker has where nights write reasons.
    AlignedWords,
    /// A4rw: A4r, and beside each vector what the item's words tell, as in A2w.
    AlignedBothWords,
    /// A5a: accepted reasons of a model aligned with the best of several answers.
    BestOf,
    /// A5b: accepted reasons of a model that learned from several answers, weighted by what they are worth.
    Weighted,
    /// A5: accepted reasons of the reinforced model.
    Reinforced,
    /// A6: accepted reasons after correction. Nights correct what they say of histories.
    Corrected,
    /// A6n: as A6, of the aligned model: correction without reinforcement.
    CorrectedAligned,
    /// A6i: A4, and reasons of items corrected window by window: what half of the users choose in the place of a reason, and the
    /// other half confirm, stands from the next window on.
    ItemsCorrected,
    /// A6w: A6i, and beside each vector what the item's words tell, as in A2w: the whole pipeline.
    ItemsCorrectedWords,
    /// A7: the reasons of A6, or of A3 where A6 is not run, dealt out to other items and users.
    Shuffled,
    /// A9: the answer itself, given with the question: what comes next and whether it is liked. Never a result: the proof
    /// that the yardstick sees a leak.
    Leak,
    /// A10: reasons written without the items' titles.
    Anonymous,
}

impl Arm {
    /// All of them, in order.
    pub const ALL: [Arm; 37] = [
        Arm::NoText,
        Arm::Offset,
        Arm::Random,
        Arm::Ensemble,
        Arm::Attributes,
        Arm::Evidence,
        Arm::Projected,
        Arm::ProjectedAlone,
        Arm::Words,
        Arm::WordsAlone,
        Arm::Scalars,
        Arm::ScalarsBeside,
        Arm::ReadBeside,
        Arm::ReadKept,
        Arm::ReadFree,
        Arm::ReadEqual,
        Arm::ReadAll,
        Arm::ReadUnraised,
        Arm::ReadFar,
        Arm::ZeroShot,
        Arm::Aligned,
        Arm::Templates,
        Arm::Beside,
        Arm::Sampled,
        Arm::AlignedBoth,
        Arm::AlignedWords,
        Arm::AlignedBothWords,
        Arm::BestOf,
        Arm::Weighted,
        Arm::Reinforced,
        Arm::Corrected,
        Arm::CorrectedAligned,
        Arm::ItemsCorrected,
        Arm::ItemsCorrectedWords,
        Arm::Shuffled,
        Arm::Leak,
        Arm::Anonymous,
    ];

    /// Its name in tables.
    pub fn code(self) -> &'static str {
        match self {
            Arm::NoText => "A0",
            Arm::Offset => "A0c",
            Arm::Random => "A1",
            Arm::Ensemble => "A1b",
            Arm::Attributes => "A2",
            Arm::Evidence => "A2r",
            Arm::Projected => "A2c",
            Arm::ProjectedAlone => "A2cc",
            Arm::Words => "A2w",
            Arm::WordsAlone => "A2ww",
            Arm::Scalars => "A2x",
            Arm::ScalarsBeside => "A2rx",
            Arm::ReadBeside => "A2re",
            Arm::ReadKept => "A2rd",
            Arm::ReadFree => "A2rb",
            Arm::ReadEqual => "A2rw",
            Arm::ReadAll => "A2rs",
            Arm::ReadUnraised => "A2ru",
            Arm::ReadFar => "A2rn",
            Arm::ZeroShot => "A3",
            Arm::Aligned => "A4",
            Arm::Templates => "A4b",
            Arm::Beside => "A4e",
            Arm::Sampled => "A4s",
            Arm::AlignedBoth => "A4r",
            Arm::AlignedWords => "A4w",
            Arm::AlignedBothWords => "A4rw",
            Arm::BestOf => "A5a",
            Arm::Weighted => "A5b",
            Arm::Reinforced => "A5",
            Arm::Corrected => "A6",
            Arm::CorrectedAligned => "A6n",
            Arm::ItemsCorrected => "A6i",
            Arm::ItemsCorrectedWords => "A6w",
            Arm::Shuffled => "A7",
            Arm::Leak => "A9",
            Arm::Anonymous => "A10",
        }
    }

    /// Its texts, for people.
    pub fn texts(self) -> &'static str {
        match self {
            Arm::Attributes => "attributes",
            Arm::Evidence => "the evidence, as published",
            Arm::Scalars => "the scalar columns, as published",
            Arm::ZeroShot => "accepted reasons",
            Arm::Aligned => "accepted reasons of the aligned model",
            Arm::Templates => "the templates' reasons",
            Arm::Beside => "the evidence and the accepted reasons of the aligned model",
            Arm::Sampled => "several sampled reasons of the aligned model",
            Arm::AlignedBoth => "the mean of the aligned model's accepted reasons and the evidence, as published",
            Arm::BestOf => "accepted reasons of the model aligned with the best of several",
            Arm::Weighted => "accepted reasons of the model that learned from weighted answers",
            Arm::Reinforced => "accepted reasons of the reinforced model",
            Arm::Corrected => "accepted reasons after correction",
            Arm::CorrectedAligned => "accepted reasons of the aligned model after correction",
            Arm::ItemsCorrected => "reasons of the aligned model, those of items corrected window by window",
            Arm::Anonymous => "accepted reasons without titles",
            _ => "texts of another arm",
        }
    }

    /// Whether its texts are those of the nightly job with other keys, which someone has to name.
    pub fn wants_keys(self) -> bool {
        matches!(
            self,
            Arm::Aligned
                | Arm::Sampled
                | Arm::BestOf
                | Arm::Weighted
                | Arm::Reinforced
                | Arm::Corrected
                | Arm::CorrectedAligned
        )
    }

    /// Whether its nights correct what they say of histories.
    pub fn corrects(self) -> bool {
        matches!(self, Arm::Corrected | Arm::CorrectedAligned)
    }

    /// Whether reasons of its items are corrected window by window.
    pub fn corrects_items(self) -> bool {
        matches!(self, Arm::ItemsCorrected | Arm::ItemsCorrectedWords)
    }

    /// Whether its texts of items come from nights of its own; else they are made of other arms' nights.
    pub fn has_nights(self) -> bool {
        self != Arm::ItemsCorrected
    }

    /// Whether it has the vectors of A2r.
    fn is_evidence(self) -> bool {
        matches!(self, Arm::Evidence | Arm::ScalarsBeside)
            || self.is_projected()
            || matches!(self, Arm::Words | Arm::WordsAlone)
            || self.is_reading()
    }

    /// Whether it differs from A2r in how vectors are read.
    pub fn is_reading(self) -> bool {
        matches!(
            self,
            Arm::ReadBeside
                | Arm::ReadKept
                | Arm::ReadFree
                | Arm::ReadEqual
                | Arm::ReadAll
                | Arm::ReadUnraised
                | Arm::ReadFar
        )
    }

    /// Whether it has the column `collaborative`.
    pub fn is_projected(self) -> bool {
        matches!(self, Arm::Projected | Arm::ProjectedAlone)
    }

    /// Whether it reads the words of items.
    pub fn has_words(self) -> bool {
        matches!(
            self,
            Arm::Words | Arm::WordsAlone | Arm::AlignedWords | Arm::AlignedBothWords | Arm::ItemsCorrectedWords
        )
    }

    /// Whether it has the scalar columns of A2r's features.
    pub fn has_scalars(self) -> bool {
        matches!(self, Arm::Scalars | Arm::ScalarsBeside)
    }

    /// Whether what it says of items is a text, and not numbers.
    pub fn is_text(self) -> bool {
        self != Arm::Scalars
    }

    /// Whether its items' vectors are those that nights publish, which hold the evidence's where no reason stands. The vectors
    /// of the others are made of texts here.
    pub fn is_published(self) -> bool {
        let is_text = matches!(self, Arm::Attributes | Arm::Templates | Arm::Beside | Arm::Sampled);
        !is_text && !self.is_reading() && !self.is_projected() && !self.has_words() && self != Arm::ScalarsBeside
    }

    /// How it reads vectors, where the others read them as `others` says. Where it has own vectors of its own kind, validation does
    /// not choose another one.
    pub fn reading(self, others: Reading) -> Reading {
        match self {
            Arm::ReadBeside => Reading { how: How::Experts, or_free: false, ..others },
            Arm::ReadKept => Reading { delta_dropout: 0.0, or_free: false, ..others },
            Arm::ReadFree => Reading { delta_bound: 0.0, or_free: false, ..others },
            Arm::ReadEqual => Reading { seen_weight: 0.0, or_free: false, ..others },
            Arm::ReadAll => Reading { seen_only: false, ..others },
            Arm::ReadUnraised => Reading { raise_unseen: false, ..others },
            Arm::ReadFar => Reading { near_texts: false, ..others },
            _ => others,
        }
    }

    /// The arm whose texts it has, where `arms` are run; nothing where it has none.
    pub fn texts_of(self, arms: &[Arm]) -> Option<Arm> {
        match self {
            Arm::NoText | Arm::Offset | Arm::Ensemble => None,
            Arm::Random | Arm::Leak if arms.iter().any(|arm| arm.is_evidence()) => Some(Arm::Evidence),
            Arm::Random | Arm::Leak => Some(Arm::Attributes),
            Arm::Shuffled if arms.contains(&Arm::Corrected) => Some(Arm::Corrected),
            Arm::Shuffled => Some(Arm::ZeroShot),
            Arm::AlignedWords => Some(Arm::Aligned),
            Arm::AlignedBothWords => Some(Arm::AlignedBoth),
            arm if arm.corrects_items() => Some(Arm::ItemsCorrected),
            arm if arm.is_evidence() => Some(Arm::Evidence),
            other => Some(other),
        }
    }

    /// The arm whose texts of histories it has, where `arms` are run. The leak gives the answer instead; of what is sampled
    /// several times, or published with the evidence, only items are told so; the evidence of histories is that of A2.
    pub fn histories_of(self, arms: &[Arm]) -> Option<Arm> {
        match self {
            Arm::Leak => None,
            Arm::Sampled | Arm::AlignedBoth | Arm::AlignedWords | Arm::AlignedBothWords => Some(Arm::Aligned),
            arm if arm.corrects_items() => Some(Arm::Aligned),
            Arm::Random | Arm::Scalars => Some(Arm::Attributes),
            arm if arm.is_evidence() => Some(Arm::Attributes),
            other => other.texts_of(arms),
        }
    }
}
