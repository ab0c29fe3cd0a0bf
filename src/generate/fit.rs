//! Evidence, shortened so that its prompt fits: what gives way first, and how a piece is shortened.
//!
//! Knows evidence and numbers of tokens. How a prompt is rendered and its tokens are counted is told by a [`Measure`].
//!
//! A prompt that fits is counted once and nothing of it changes. Else what says least gives way, in turn, until the prompt
//! fits. `own` are the titles that the verdict is about: the disliked ones of a history of dislikes, else the liked ones;
//! `other` are those on the other side. `major` is what backs the verdict: the faults of what is disliked, else the praise;
//! `minor` is the other.
//!
//! | turn | field | what happens to it |
//! |---|---|---|
//! | 1 | content, praise, fault | a sentence is cut to a third of the tokens |
//! | | titles, attributes, keywords | a piece is cut to an eighth of the tokens |
//! | 2 | related | all go |
//! | 3 | other | all go |
//! | 4 | own | one stays |
//! | 5 | keywords | six stay |
//! | 6 | attributes | four stay |
//! | 7 | minor | one stays |
//! | 8 | major | one stays |
//! | 9 | content | two stay |
//! | 10 | keywords | three stay |
//! | 11 | attributes | two stay |
//! | 12 | content | one stays |
//! | 13 | minor, own | shortened word by word, then gone |
//! | 14 | attributes | all go |
//! | 15 | major, keywords, content | shortened word by word, then gone |
//! | 16 | subject | shortened word by word |
//!
//! The last piece of a list goes first. Words are cut between characters as people see them, never inside one. A field that
//! the template does not show stays as it is.

use unicode_segmentation::UnicodeSegmentation;

use crate::error::Result;
use crate::generate::prompt::Evidence;

/// How a prompt is made of evidence, and how long texts are.
pub trait Measure {
    /// Question and stem.
    ///
    /// # Errors
    /// Where the template cannot be rendered.
    fn render(&self, evidence: &Evidence) -> Result<(String, String)>;

    /// Tokens of the whole prompt: the chat around the question, and the stem.
    ///
    /// # Errors
    /// Where the text cannot be tokenized.
    fn prompt(&self, question: &str, stem: &str) -> Result<usize>;

    /// Tokens of a text alone.
    ///
    /// # Errors
    /// As [`Measure::prompt`].
    fn text(&self, text: &str) -> Result<usize>;
}

/// More bytes than this are no token of ordinary text: what is longer by it than all tokens together is cut before anything
/// is counted.
const LONGEST_TOKEN: usize = 32;
/// A piece that is shortened to fewer tokens says nothing, and goes.
const LEAST: usize = 4;
/// Tokens of the subject that stay where not even the bare template fits.
const BARE_SUBJECT: usize = 8;

/// A list of the evidence, by what it is to the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Related,
    Other,
    Own,
    Keywords,
    Attributes,
    Minor,
    Major,
    Content,
}

/// What happens to a field in its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// So many pieces stay.
    Stay(usize),
    /// The last piece is shortened, then gone; then the one before it.
    Words,
}

/// Turns 2 to 15 of the table above.
const TURNS: &[(Field, Turn)] = &[
    (Field::Related, Turn::Stay(0)),
    (Field::Other, Turn::Stay(0)),
    (Field::Own, Turn::Stay(1)),
    (Field::Keywords, Turn::Stay(6)),
    (Field::Attributes, Turn::Stay(4)),
    (Field::Minor, Turn::Stay(1)),
    (Field::Major, Turn::Stay(1)),
    (Field::Content, Turn::Stay(2)),
    (Field::Keywords, Turn::Stay(3)),
    (Field::Attributes, Turn::Stay(2)),
    (Field::Content, Turn::Stay(1)),
    (Field::Minor, Turn::Words),
    (Field::Own, Turn::Words),
    (Field::Attributes, Turn::Stay(0)),
    (Field::Major, Turn::Words),
    (Field::Keywords, Turn::Words),
    (Field::Content, Turn::Words),
];

/// The first turn: the part of all tokens that one piece may have is one by this number.
const SHARES: &[(Field, usize)] = &[
    (Field::Content, 3),
    (Field::Major, 3),
    (Field::Minor, 3),
    (Field::Own, 8),
    (Field::Other, 8),
    (Field::Related, 8),
    (Field::Attributes, 8),
    (Field::Keywords, 8),
];

impl Field {
    fn of(self, evidence: &mut Evidence) -> &mut Vec<String> {
        let is_disliked = evidence.verdict == "dislike";
        let swaps_titles = is_disliked && evidence.kind == "history";
        match self {
            Field::Related => &mut evidence.related,
            Field::Own if swaps_titles => &mut evidence.disliked,
            Field::Own => &mut evidence.liked,
            Field::Other if swaps_titles => &mut evidence.liked,
            Field::Other => &mut evidence.disliked,
            Field::Keywords => &mut evidence.keywords,
            Field::Attributes => &mut evidence.attributes,
            Field::Major if is_disliked => &mut evidence.fault,
            Field::Major => &mut evidence.praise,
            Field::Minor if is_disliked => &mut evidence.praise,
            Field::Minor => &mut evidence.fault,
            Field::Content => &mut evidence.content,
        }
    }
}

/// Evidence that was shortened where it had to be, with the prompt that it makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// What the prompt shows, and what the template never shows.
    pub evidence: Evidence,
    /// The question.
    pub question: String,
    /// How the answer begins.
    pub stem: String,
}

/// The evidence, shortened so that its prompt has at most `budget` tokens. Where not even the bare template has so few, no
/// more than the beginning of the subject is left. A prompt that fits is rendered once.
///
/// # Errors
/// Those of `measure`; how long or strange a text is makes none.
pub fn fit(evidence: &Evidence, budget: usize, measure: &impl Measure) -> Result<Fitted> {
    let whole = clipped(evidence, budget);
    let (question, stem) = measure.render(&whole)?;
    let tokens = measure.prompt(&question, &stem)?;
    if tokens <= budget {
        return Ok(Fitted { evidence: whole, question, stem });
    }
    let mut fitting = Fitting { measure, budget, evidence: whole.clone(), question, stem, tokens, is_exact: true };
    fitting.cut_long_pieces()?;
    for (field, turn) in TURNS {
        fitting.take(*field, *turn)?;
    }
    fitting.shorten_subject()?;
    if !fitting.is_really_over()? {
        let Fitting { evidence, question, stem, .. } = fitting;
        return Ok(Fitted { evidence, question, stem });
    }
    let subject = match whole.subject {
        Some(subject) if measure.text(&subject)? > BARE_SUBJECT => Some(shortened(&subject, BARE_SUBJECT, measure)?),
        subject => subject,
    };
    let evidence = Evidence { kind: whole.kind, verdict: whole.verdict, subject, ..Evidence::default() };
    let (question, stem) = measure.render(&evidence)?;
    Ok(Fitted { evidence, question, stem })
}

/// Evidence on its way to a prompt that fits.
struct Fitting<'a, M> {
    measure: &'a M,
    budget: usize,
    evidence: Evidence,
    question: String,
    stem: String,
    /// Tokens of the prompt, estimated unless `is_exact`.
    tokens: usize,
    is_exact: bool,
}

impl<M: Measure> Fitting<'_, M> {
    /// Whether the prompt is too long. An estimate is trusted where it says so: it errs by little.
    fn is_over(&mut self) -> Result<bool> {
        if self.tokens > self.budget { Ok(true) } else { self.is_really_over() }
    }

    /// Whether the prompt would be another if it had `next` for its evidence.
    fn shows(&self, next: &Evidence) -> Result<bool> {
        let (question, stem) = self.measure.render(next)?;
        Ok(question != self.question || stem != self.stem)
    }

    /// As [`Fitting::is_over`], without an estimate.
    fn is_really_over(&mut self) -> Result<bool> {
        if !self.is_exact {
            self.tokens = self.measure.prompt(&self.question, &self.stem)?;
            self.is_exact = true;
        }
        Ok(self.tokens > self.budget)
    }

    /// How often the prompt shows `bytes` that are not in `question` and `stem`: a title may stand in the stem as well.
    fn times(&self, question: &str, stem: &str, bytes: usize) -> usize {
        let gone = (self.question.len() + self.stem.len()).saturating_sub(question.len() + stem.len());
        ((gone + bytes / 2) / bytes.max(1)).max(1)
    }

    /// Goes on with `next`, in which one piece has `bytes` and `tokens` less.
    fn go_on(&mut self, next: Evidence, bytes: usize, tokens: usize) -> Result<()> {
        let (question, stem) = self.measure.render(&next)?;
        self.evidence = next;
        if question == self.question && stem == self.stem {
            return Ok(());
        }
        let times = self.times(&question, &stem, bytes);
        self.tokens = self.tokens.saturating_sub(tokens.saturating_mul(times));
        (self.question, self.stem, self.is_exact) = (question, stem, false);
        Ok(())
    }

    /// The first turn: no piece takes the place of all others.
    fn cut_long_pieces(&mut self) -> Result<()> {
        for (field, share) in SHARES {
            let most = (self.budget / share).max(1);
            // No token is shorter than a byte.
            let is_long = |piece: &String| piece.len() > most;
            let mut without = self.evidence.clone();
            let list = field.of(&mut without);
            if !list.iter().any(is_long) {
                continue;
            }
            list.clear();
            if !self.is_over()? || !self.shows(&without)? {
                continue;
            }
            for place in 0..field.of(&mut self.evidence).len() {
                let piece = field.of(&mut self.evidence)[place].clone();
                if !is_long(&piece) || !self.is_over()? {
                    continue;
                }
                let tokens = self.measure.text(&piece)?;
                if tokens <= most {
                    continue;
                }
                let left = shortened(&piece, most, self.measure)?;
                let (bytes, freed) = (piece.len() - left.len(), tokens.saturating_sub(self.measure.text(&left)?));
                let mut next = self.evidence.clone();
                field.of(&mut next)[place] = left;
                self.go_on(next, bytes, freed)?;
            }
        }
        Ok(())
    }

    /// One of the turns 2 to 15.
    fn take(&mut self, field: Field, turn: Turn) -> Result<()> {
        let stays = match turn {
            Turn::Stay(pieces) => pieces,
            Turn::Words => 0,
        };
        let mut without = self.evidence.clone();
        let list = field.of(&mut without);
        if list.len() <= stays {
            return Ok(());
        }
        list.truncate(stays);
        let is_over = if turn == Turn::Words { self.is_really_over()? } else { self.is_over()? };
        if !is_over || !self.shows(&without)? {
            return Ok(());
        }
        while self.is_over()? {
            let mut next = self.evidence.clone();
            if field.of(&mut next).len() <= stays {
                break;
            }
            let Some(piece) = field.of(&mut next).pop() else { break };
            let tokens = self.measure.text(&piece)?;
            let left = if turn == Turn::Words { self.left_of(&piece, tokens, LEAST, &next)? } else { None };
            let rest = left.as_deref().unwrap_or_default();
            let (bytes, freed) = (piece.len() - rest.len(), tokens.saturating_sub(self.measure.text(rest)?));
            field.of(&mut next).extend(left);
            self.go_on(next, bytes, freed)?;
        }
        Ok(())
    }

    /// The last turn.
    fn shorten_subject(&mut self) -> Result<()> {
        while self.is_really_over()? {
            let Some(subject) = self.evidence.subject.clone() else { break };
            let tokens = self.measure.text(&subject)?;
            let without = Evidence { subject: None, ..self.evidence.clone() };
            let left = self.left_of(&subject, tokens, 1, &without)?;
            let rest = left.as_deref().unwrap_or_default();
            let (bytes, freed) = (subject.len() - rest.len(), tokens.saturating_sub(self.measure.text(rest)?));
            self.go_on(Evidence { subject: left, ..without }, bytes, freed)?;
        }
        Ok(())
    }

    /// What is left of a piece of `tokens` where as much of it goes as the prompt is too long; none where that is less than
    /// `least` tokens. `without` is the evidence without the piece.
    fn left_of(&self, piece: &str, tokens: usize, least: usize, without: &Evidence) -> Result<Option<String>> {
        let (question, stem) = self.measure.render(without)?;
        let over = self.tokens.saturating_sub(self.budget).div_ceil(self.times(&question, &stem, piece.len()));
        let most = tokens.saturating_sub(over.max(1));
        if most < least {
            return Ok(None);
        }
        Ok(Some(shortened(piece, most, self.measure)?).filter(|left| !left.is_empty() && left.len() < piece.len()))
    }
}

/// The evidence without what can be in no prompt of `budget` tokens, so that nothing that follows takes long.
fn clipped(evidence: &Evidence, budget: usize) -> Evidence {
    let most = budget.max(1).saturating_mul(LONGEST_TOKEN);
    let list = |pieces: &[String]| {
        let (mut kept, mut room) = (Vec::new(), most);
        for piece in pieces.iter().take(budget.max(1)) {
            let begin = beginning(piece, room);
            room -= begin.len();
            if !begin.is_empty() || piece.is_empty() {
                kept.push(begin.to_owned());
            }
            if begin.len() < piece.len() {
                break;
            }
        }
        kept
    };
    let Evidence {
        kind,
        subject,
        verdict,
        liked,
        disliked,
        related,
        attributes,
        content,
        praise,
        fault,
        keywords,
        extra,
    } = evidence;
    Evidence {
        kind: kind.clone(),
        subject: subject.as_deref().map(|subject| beginning(subject, most).to_owned()).filter(|left| !left.is_empty()),
        verdict: verdict.clone(),
        liked: list(liked),
        disliked: list(disliked),
        related: list(related),
        attributes: list(attributes),
        content: list(content),
        praise: list(praise),
        fault: list(fault),
        keywords: list(keywords),
        extra: extra.clone(),
    }
}

/// Whole characters, as people see them, of at most `bytes` bytes.
fn beginning(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let ends = text.grapheme_indices(true).map(|(at, cluster)| at + cluster.len());
    &text[..ends.take_while(|end| *end <= bytes).last().unwrap_or(0)]
}

/// The first words of a text that have at most `most` tokens; of a first word that is too long its first characters, as
/// people see them. Empty where not even one has so few.
fn shortened(text: &str, most: usize, measure: &impl Measure) -> Result<String> {
    let text = beginning(text, most.saturating_mul(LONGEST_TOKEN));
    let characters: Vec<usize> = text.grapheme_indices(true).map(|(at, cluster)| at + cluster.len()).collect();
    let words = text.split_word_bound_indices().filter(|(_, word)| !word.trim().is_empty());
    let words = words.map(|(at, word)| at + word.len()).filter(|end| characters.binary_search(end).is_ok()).collect();
    for ends in [words, characters] {
        // The ends before `low` leave a text that is short enough.
        let (mut low, mut high) = (0, ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match measure.text(without_loose_end(&text[..ends[middle]]))? <= most {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let left = low.checked_sub(1).map_or("", |last| without_loose_end(&text[..ends[last]]));
        if !left.is_empty() {
            return Ok(left.to_owned());
        }
    }
    Ok(String::new())
}

/// A beginning of a text without marks at its end after which something must come.
fn without_loose_end(text: &str) -> &str {
    let is_loose = |c: char| {
        c.is_whitespace()
            || matches!(c, ',' | ';' | ':' | '(' | '[' | '-' | '–' | '—' | '，' | '、' | '；' | '：' | '（')
    };
    text.trim_end_matches(is_loose)
}

#[cfg(test)]
mod tests;
