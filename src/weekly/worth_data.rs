//! What worths are measured of and by: items, or users' histories, with their questions and evidence as of the interval's start, and
//! the log until its end, cut into what is learned from and two blocks of what came next.
//!
//! Knows jobs' tables, and how much is needed to learn from. Knows nothing of models, or of what answers are worth.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use arrow::array::StringArray;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;

use crate::columns::{at, text};
use crate::error::{Context, Error, Kind, Result};
use crate::generate::prompt::Evidence;
use crate::night::prepare::Prepared;
use crate::night::samples;
use crate::night::verify::nothing_to_learn;
use crate::query::session::{Param, Session};
use crate::query::texts;
use crate::recommend::data::{Log, LogBuilder};
use crate::recommend::fit::sequences;
use crate::recommend::split::{self, Case, Part, Split, Target};
use crate::reward::names::Vocabulary;
use crate::reward::score::{Scored, evidence_of};
use crate::weekly::examples;
use crate::weekly::weekly_file::WorthSpec;
use crate::worth::history::is_told_by;
use crate::worth::text::least_learned;
use crate::worth::whose::Whose;

/// The table of questions; it is made here, with all that it is made from.
const QUESTIONS: &str = "reason_prompt";
/// What a run cannot do without.
const NEEDS: &str = "the log needs events before the interval to learn from, and in it events of two moments or more, of users and \
                     items that were there before; take a longer interval, or a later one";

/// What worths cannot be learned without.
const LEARNS: &str = "take a later interval, which has more of the log before it, or fewer [worth] folds";

/// An item, or a user's history, that may be asked about.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    /// Its id, or the user's.
    pub(super) id: String,
    /// What a reason may lean on.
    pub(super) evidence: Evidence,
    /// The question.
    pub(super) prompt: String,
    /// With this the answer begins.
    pub(super) stem: String,
    /// The key of the question, as nights publish it that ask the same.
    pub(super) prompt_key: String,
    /// The text whose vector nights publish while there is no reason.
    pub(super) said: String,
}

/// Everything that is read.
pub(super) struct Data {
    /// What the texts are about.
    pub(super) whose: Whose,
    /// By id: items that somebody met before the interval and of which something can be said; or users of whom something can be
    /// said, no more of them than are learned from and asked about.
    pub(super) items: Vec<Item>,
    /// All events of before the interval's end.
    pub(super) log: Log,
    /// Its test part is the interval.
    pub(super) split: Split,
    /// The first moment of the second block: microseconds since 1970, UTC.
    pub(super) middle: i64,
    /// What reasons may name besides their evidence.
    pub(super) vocabulary: Vocabulary,
}

impl Data {
    /// The cases of both blocks: what came next in the interval, for users of whom something is known. Of histories those that say
    /// something of their user.
    pub(super) fn blocks(&self) -> [Vec<Case<'_>>; 2] {
        blocks(self.whose, &self.split, self.middle)
    }

    /// How many have a place: see [`Data::place`].
    pub(super) fn places(&self) -> usize {
        match self.whose {
            Whose::Items => self.log.items().len(),
            Whose::Histories => self.items.len(),
        }
    }

    /// The number that an item or user goes by where worths are measured: an item's dense id, and a user's place among those who are
    /// described, so that nothing is kept of others.
    pub(super) fn place(&self, id: &str) -> Option<u32> {
        match self.whose {
            Whose::Items => self.dense(id),
            Whose::Histories => {
                let found = self.items.binary_search_by(|item| item.id.as_str().cmp(id)).ok();
                found.and_then(|place| u32::try_from(place).ok())
            }
        }
    }

    /// The first moment of the second block.
    pub(super) fn next_block(&self) -> String {
        DateTime::<Utc>::from_timestamp_micros(self.middle).map_or_else(String::new, |moment| moment.to_rfc3339())
    }

    /// Which of the items, or users, are asked about: those with the most cases in the first block, by which answers are chosen, of
    /// as many the lesser id; at most `most`. Without such a case there would be no worth.
    pub(super) fn asked(&self, most: usize) -> Vec<usize> {
        let counts = counted(self.whose, &self.blocks()[0]);
        let count = |item: &Item| {
            let dense = self.dense(&item.id);
            dense.and_then(|dense| counts.get(&dense)).copied().unwrap_or(0)
        };
        let mut places: Vec<(usize, usize)> =
            self.items.iter().map(count).enumerate().filter(|(_, count)| *count > 0).collect();
        // Items stand by id, and the sort is stable.
        places.sort_by_key(|(_, count)| Reverse(*count));
        places.into_iter().take(most).map(|(place, _)| place).collect()
    }

    /// The share of the interval's events whose item is one of these.
    pub(super) fn share_of_events(&self, ids: &BTreeSet<&str>) -> f64 {
        let events = self.split.events(Part::Test);
        let is_of = |item: u32| self.log.items().get(item as usize).is_some_and(|id| ids.contains(id.as_str()));
        let of_these = events.iter().filter(|event| is_of(event.item)).count();
        of_these as f64 / events.len().max(1) as f64
    }

    /// Why worths cannot be learned; none where a user has two events that train, and enough items of these have evidence.
    fn too_little(&self, folds: usize) -> Option<String> {
        if sequences(&self.split).iter().all(|line| line.items.len() < 2) {
            return Some("no user has two events to learn from".to_owned());
        }
        let counts = self.split.train_counts();
        let is_learned = |item: &&Item| match self.whose {
            Whose::Items => self.dense(&item.id).is_some_and(|dense| counts[dense as usize] > 0),
            Whose::Histories => self.history(&item.id).is_some_and(|case| !case.history.is_empty()),
        };
        let (learned, needed) = (self.items.iter().filter(is_learned).count(), least_learned(folds));
        let whose = if self.whose == Whose::Items { "item(s)" } else { "user(s)" };
        (learned < needed)
            .then(|| format!("{learned} {whose} have evidence and events to learn from, {needed} are needed"))
    }

    /// What a user had met at the interval's start, as a case of which nothing is asked; none for one who is not in the log.
    pub(super) fn history(&self, id: &str) -> Option<Case<'_>> {
        let (user, timestamp) = (dense(self.log.users(), id)?, self.split.test_from());
        let history = self.split.timelines().before(user, timestamp).items;
        Some(Case { user, history, target: 0, rating: None, timestamp })
    }

    /// The dense id of an item, or user, of the log.
    fn dense(&self, id: &str) -> Option<u32> {
        match self.whose {
            Whose::Items => dense(self.log.items(), id),
            Whose::Histories => dense(self.log.users(), id),
        }
    }

    /// Tells whether two runs read the same: blake3 over questions, evidence, vocabulary and events; 32 hex digits.
    ///
    /// # Errors
    /// `Kind::Internal` for evidence that has no serialised form.
    pub(super) fn digest(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        // Lengths stand before what they count, so that no two logs give the same bytes.
        for count in [self.items.len(), self.log.users().len(), self.log.items().len()] {
            hasher.update(&(count as u64).to_le_bytes());
        }
        let mut push = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        // The key follows from the question and the model.
        for Item { id, evidence, prompt, stem, said, .. } in &self.items {
            let evidence = serde_json::to_string(evidence).context(Kind::Internal, || "evidence has no form".into())?;
            [id, prompt, stem, said, &evidence].into_iter().for_each(|part| push(part));
        }
        self.log.users().iter().chain(self.log.items()).for_each(|id| push(id));
        for event in self.log.events() {
            hasher.update(&event.user.to_le_bytes()).update(&event.item.to_le_bytes());
            hasher.update(&event.timestamp.to_le_bytes());
        }
        hasher.update(self.vocabulary.digest().as_bytes());
        Ok(hasher.finalize().to_hex()[..32].to_owned())
    }
}

/// The position of an id among those that ascend.
fn dense(ids: &[String], id: &str) -> Option<u32> {
    ids.binary_search_by(|other| other.as_str().cmp(id)).ok().and_then(|at| u32::try_from(at).ok())
}

/// See [`Data::blocks`].
fn blocks(whose: Whose, split: &Split, middle: i64) -> [Vec<Case<'_>>; 2] {
    let mut cases = split.cases(Part::Test, Target::Successive);
    if whose == Whose::Histories {
        cases.retain(|case| is_told_by(case.target, case.history, split.train_counts()));
    }
    let (now, next) = cases.into_iter().partition(|case| case.timestamp < middle);
    [now, next]
}

/// Cases by the dense id of their item, or of their user.
fn counted(whose: Whose, cases: &[Case<'_>]) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for case in cases {
        let dense = if whose == Whose::Items { case.target } else { case.user };
        *counts.entry(dense).or_default() += 1;
    }
    counts
}

/// Ids of the users whose histories are read: as many as are asked about and have the most cases in the first block, and as many
/// as are learned from, whose ids have the least digests. Texts and vectors of all others would only take room.
fn of_interest(log: &Log, now: &[Case<'_>], of: &WorthSpec, start: i64) -> BTreeSet<String> {
    let mut most: Vec<(u32, usize)> = counted(Whose::Histories, now).into_iter().collect();
    // They stand by id, and the sort is stable.
    most.sort_by_key(|(_, count)| Reverse(*count));
    let known: BTreeSet<u32> =
        log.events().iter().take_while(|event| event.timestamp < start).map(|event| event.user).collect();
    let digest = |user: u32| log.users().get(user as usize).map(|id| *blake3::hash(id.as_bytes()).as_bytes());
    let mut least: Vec<([u8; 32], u32)> = known.into_iter().filter_map(|user| Some((digest(user)?, user))).collect();
    least.sort_unstable();
    let asked = most.into_iter().take(of.most_users).map(|(user, _)| user);
    let users = asked.chain(least.into_iter().take(of.max_users).map(|(_, user)| user));
    users.filter_map(|user| log.users().get(user as usize).cloned()).collect()
}

/// Reads everything: `prepared` is the job for the interval whose events are the judge; `of` says which share of the log before
/// it trains, in how many folds it is learned from, and by how many users.
///
/// # Errors
/// What the inputs say; `Kind::NotArrived` where the interval has no event yet, `Kind::Input` where there is nothing to learn
/// from or to judge by.
pub(super) async fn data(prepared: &Prepared, of: &WorthSpec, whose: Whose) -> Result<Data> {
    let interval = prepared.interval;
    let mut tables = prepared.graph.before(&[QUESTIONS]);
    tables.push(QUESTIONS);
    let session = examples::evidence(prepared, &tables).await?;
    let vocabulary = samples::vocabulary(&session, &prepared.job.spec).await?;
    let log = log(&session, interval.end.timestamp_micros()).await?;
    let range = [interval.start, interval.end].map(|moment| moment.timestamp_micros());
    let (split, middle) = match split::between(&log, range, of.valid_quantile) {
        Ok(split) => {
            let middle = middle(&split);
            (Some(split), middle)
        }
        Err(e) if e.kind() == Kind::Input => (None, None),
        Err(e) => return Err(e),
    };
    let (Some(split), Some(middle)) = (split, middle) else {
        let what = format!(
            "there is nothing to measure worths by: {} event(s) of {} user(s) and {} item(s) until the interval's end",
            log.events().len(),
            log.users().len(),
            log.items().len()
        );
        return Err(nothing_to_learn(&prepared.job, interval, &session, &what, NEEDS).await?);
    };
    let wanted = match whose {
        Whose::Items => None,
        Whose::Histories => Some(of_interest(&log, &blocks(whose, &split, middle)[0], of, range[0])),
    };
    let items = questions(&session, whose, wanted.as_ref()).await?;
    let data = Data { whose, items, log, split, middle, vocabulary };
    let [now, next] = data.blocks().map(|cases| cases.len());
    if now == 0 || next == 0 || data.asked(1).is_empty() {
        let described = if whose == Whose::Items { "item(s)" } else { "user(s)" };
        let what = format!(
            "there is nothing to measure worths by: {now} and {next} event(s) of known users in the two blocks of the \
             interval, {} {described} that can be asked about",
            data.items.len()
        );
        return Err(nothing_to_learn(&prepared.job, interval, &session, &what, NEEDS).await?);
    }
    // Answers are paid for: what would end the run after them is told before.
    if let Some(why) = data.too_little(of.folds) {
        let what = format!("there is too little to learn worths from: {why}");
        return Err(nothing_to_learn(&prepared.job, interval, &session, &what, LEARNS).await?);
    }
    Ok(data)
}

/// The moment that cuts the test part into two blocks of about as many events; none where all of them are of one moment.
fn middle(split: &Split) -> Option<i64> {
    let events = split.events(Part::Test);
    let first = events.first()?.timestamp;
    let middle = events.get(events.len() / 2)?.timestamp;
    // Events of one moment stay together: where the first block would be empty, the second one begins with the next moment.
    match middle > first {
        true => Some(middle),
        false => events.iter().map(|event| event.timestamp).find(|moment| *moment > first),
    }
}

/// All events of before a moment.
async fn log(session: &Session, end: i64) -> Result<Log> {
    let params = [
        ("from_first", Param::Bool(true)),
        ("range_start", Param::Timestamp(0)),
        ("to_last", Param::Bool(false)),
        ("range_end", Param::Timestamp(end)),
    ];
    let mut builder = LogBuilder::default();
    let mut rows = session.sql(texts::EVENTS_OF_RANGE, &params).await?.stream().await?;
    while let Some(batch) = rows.try_next().await? {
        builder.push(&batch)?;
    }
    builder.finish()
}

/// The items, or users' histories, of the table of questions of which something can be said; of those with `wanted` ids alone, where
/// these are given.
async fn questions(session: &Session, whose: Whose, wanted: Option<&BTreeSet<String>>) -> Result<Vec<Item>> {
    let (query, id, kind) = match whose {
        Whose::Items => (texts::ITEM_QUESTIONS, "item_id", "item"),
        Whose::Histories => (texts::HISTORY_QUESTIONS, "user_id", "history"),
    };
    let mut found = Vec::new();
    let mut rows = session.sql(query, &[]).await?.stream().await?;
    while let Some(batch) = rows.try_next().await? {
        let [ids, prompts, stems, keys, said] =
            [id, "prompt_text", "answer_stem", "prompt_key", "said"].map(|name| text(&batch, name));
        let (ids, prompts, stems, keys, said) = (ids?, prompts?, stems?, keys?, said?);
        for (row, evidence) in evidence_of(&batch, kind)?.into_iter().enumerate() {
            let said = at(&said, row).unwrap_or_default();
            if said.is_empty() || !Scored::from_evidence(&evidence).has_evidence() {
                continue;
            }
            let own = |column: &StringArray| at(column, row).unwrap_or_default().to_owned();
            let id = own(&ids);
            if wanted.is_some_and(|wanted| !wanted.contains(&id)) {
                continue;
            }
            found.push(Item {
                id,
                prompt: own(&prompts),
                stem: own(&stems),
                prompt_key: own(&keys),
                said: said.to_owned(),
                evidence,
            });
        }
    }
    match found.is_sorted_by(|a, b| a.id < b.id) {
        true => Ok(found),
        false => Err(Error::new(Kind::Internal, "questions do not stand by their ids")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::recommend::data::Event;

    /// User 0 and 1 meet items until 100; what comes from 100 on is the interval.
    const EVENTS: [(u32, u32, i64); 12] = [
        (0, 0, 1),
        (1, 1, 2),
        (0, 1, 3),
        (1, 0, 4),
        (0, 2, 5),
        (0, 2, 100),
        (1, 2, 100),
        (1, 1, 101),
        (0, 3, 102),
        (1, 3, 103),
        (2, 0, 104), // Nothing is known of this user.
        (0, 0, 105),
    ];

    fn made(events: &[(u32, u32, i64)]) -> Data {
        let ids = |n: usize, c: char| (0..n).map(|i| format!("{c}{i}")).collect::<Vec<String>>();
        let event = |(user, item, timestamp): &(u32, u32, i64)| Event {
            user: *user,
            item: *item,
            rating: None,
            timestamp: *timestamp,
        };
        let log = Log::new(ids(3, 'u'), ids(5, 'i'), events.iter().map(event).collect()).unwrap();
        let split = split::between(&log, [100, 200], 0.8).unwrap();
        let item = |id: &str| Item {
            id: id.to_owned(),
            evidence: Evidence::default(),
            prompt: format!("about {id}"),
            stem: String::new(),
            prompt_key: String::new(),
            said: id.to_owned(),
        };
        let middle = middle(&split).unwrap();
        let vocabulary = Vocabulary::new([]);
        Data { whose: Whose::Items, items: ["i0", "i2", "i3", "i4"].map(item).into(), log, split, middle, vocabulary }
    }

    #[test]
    fn the_interval_is_cut_into_two_blocks() {
        let data = made(&EVENTS);
        assert_eq!(data.middle, 102);
        let of = |cases: &[Case<'_>]| cases.iter().map(|case| (case.user, case.target)).collect::<Vec<_>>();
        let [now, next] = data.blocks();
        assert_eq!((of(&now), of(&next)), (vec![(0, 2), (1, 2), (1, 1)], vec![(0, 3), (0, 0), (1, 3)]));
        assert!(next.iter().all(|case| case.history.len() >= 4), "what came in the first block is known in the second");
        // Five of seven come at once: the second block begins after them.
        let mut crowded = EVENTS;
        crowded.iter_mut().skip(5).take(5).for_each(|event| event.2 = 100);
        assert_eq!(made(&crowded).middle, 104);
        let alone = &EVENTS[..7];
        let log = made(&EVENTS).log;
        let events: Vec<Event> = log.events().iter().take(alone.len()).copied().collect();
        let log = Log::new(log.users().to_vec(), log.items().to_vec(), events).unwrap();
        assert_eq!(middle(&split::between(&log, [100, 200], 0.8).unwrap()), None, "all of one moment");
    }

    #[test]
    fn items_with_the_most_events_of_the_first_block_are_asked_about() {
        let data = made(&EVENTS);
        // i2 came twice; i1 cannot be asked about, i0 and i3 came in the second block alone, and i4 did not come.
        assert_eq!((data.asked(9), data.asked(0)), (vec![1], vec![]));
        // i3 comes twice in the first block now, and i2 once.
        let mut other = EVENTS;
        other.iter_mut().skip(5).take(5).for_each(|event| event.2 = 100);
        other[5].1 = 1;
        let other = made(&other);
        assert_eq!((other.asked(9), other.asked(1)), (vec![2, 1], vec![2]));
        assert_eq!((data.place("i3"), data.place("i9"), data.places()), (Some(3), None, 5));
        // Of seven events; that of a user of whom nothing is known is one of them.
        assert_eq!(data.share_of_events(&BTreeSet::from(["i0", "i4", "i9"])), 2.0 / 7.0);
        assert_eq!(data.share_of_events(&BTreeSet::new()), 0.0);
    }

    /// The same log, of which the users' histories are asked about.
    fn of_histories(events: &[(u32, u32, i64)], users: &[&str]) -> Data {
        let data = made(events);
        let item = data.items[0].clone();
        let items = users.iter().map(|id| Item { id: (*id).to_owned(), ..item.clone() }).collect();
        Data { whose: Whose::Histories, items, ..data }
    }

    #[test]
    fn of_histories_new_items_that_training_met_are_told() {
        // User 0 meets i0, i1 and i2 before the interval, user 1 i1 and i0; i2 came too late to be trained on.
        let events =
            [&EVENTS[..5], &[(1, 2, 100), (0, 0, 101), (2, 1, 101), (2, 0, 102), (1, 1, 103), (2, 1, 104)]].concat();
        let data = of_histories(&events, &["u1", "u2"]);
        let of = |cases: &[Case<'_>]| cases.iter().map(|case| (case.user, case.target)).collect::<Vec<_>>();
        let [now, next] = data.blocks();
        // What was met again says nothing of its user, and nothing is known of user 2 until the first event.
        assert_eq!((of(&now), of(&next), data.middle), (vec![], vec![(2, 0)], 102));
        assert_eq!((data.place("u2"), data.place("u0"), data.places()), (Some(1), None, 2));
        let met = |id: &str| data.history(id).map(|case| (case.user, case.history.to_vec()));
        assert_eq!((met("u0"), met("u1")), (Some((0, vec![0, 1, 2])), Some((1, vec![1, 0]))));
        assert_eq!((met("u2"), met("u9")), (Some((2, vec![])), None));
        assert!(data.too_little(1).unwrap().starts_with("1 user(s) have evidence"), "{:?}", data.too_little(1));
        assert_eq!(of_histories(&events, &["u0", "u1"]).too_little(1), None);
    }

    #[test]
    fn users_with_the_most_told_events_are_asked_about_and_some_learned_from() {
        let events = [
            (0, 0, 1),
            (1, 1, 2),
            (2, 2, 3),
            (0, 1, 4),
            (0, 3, 5),
            (1, 3, 6),
            (2, 4, 90),
            (1, 0, 100),
            (2, 0, 101),
            (2, 1, 102),
            (0, 2, 110),
            (1, 2, 111),
            (2, 3, 112),
        ];
        let data = of_histories(&events, &["u0", "u1", "u2"]);
        assert_eq!((data.middle, data.asked(9), data.asked(1)), (110, vec![2, 1], vec![2]));
        let spec = |most_users: usize, max_users: usize| {
            let text = format!(
                "name = 'w'\njob = 'job.toml'\nout = 'work'\n[worth]\nmost_users = {most_users}\nmax_users = {max_users}\n"
            );
            crate::weekly::weekly_file::parse(&text, "weekly.toml", &BTreeMap::new()).unwrap().0.worth
        };
        let [now, _] = data.blocks();
        let of = |most: usize, max: usize| of_interest(&data.log, &now, &spec(most, max), 100);
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<String>>();
        assert!(of(9, 1).is_superset(&ids(&["u1", "u2"])), "{:?}", of(9, 1));
        assert_eq!(of(1, 9), ids(&["u0", "u1", "u2"]), "nobody of whom nothing is known");
        assert!(of(1, 1).contains("u2") && of(1, 1).len() <= 2, "{:?}", of(1, 1));
    }

    #[test]
    fn what_is_too_little_to_learn_from_is_told() {
        let told = |events: &[(u32, u32, i64)]| made(events).too_little(1);
        // Training met i0 and i1, and of these i0 alone has evidence.
        assert!(told(&EVENTS).unwrap().starts_with("1 item(s) have evidence"), "{:?}", told(&EVENTS));
        let of =
            |learned: [(u32, u32, i64); 4]| told(&[learned, [(1, 1, 9), (1, 1, 9), (0, 1, 100), (0, 0, 101)]].concat());
        assert_eq!(of([(0, 0, 1), (0, 2, 2), (0, 3, 3), (0, 0, 4)]), None);
        assert!(of([(0, 0, 1), (1, 2, 2), (2, 3, 3), (2, 1, 9)]).unwrap().starts_with("no user"));
    }

    #[test]
    fn what_is_read_has_a_digest() {
        let (data, mut other) = (made(&EVENTS), made(&EVENTS));
        assert_eq!(data.digest().unwrap(), other.digest().unwrap());
        other.items[2].evidence.liked.push("Alpha".into());
        assert_ne!(data.digest().unwrap(), other.digest().unwrap());
        let named = Data { vocabulary: Vocabulary::new(["Crime"]), ..made(&EVENTS) };
        assert_ne!(data.digest().unwrap(), named.digest().unwrap());
        let [one, turned] = [["Crime", "Drama"], ["Drama", "Crime"]].map(|names| Vocabulary::new(names).digest());
        assert_eq!(one, turned);
        let mut later = EVENTS;
        later[11].2 += 1;
        assert_ne!(data.digest().unwrap(), made(&later).digest().unwrap());
    }
}
