//! What a run may spend on the language model (`[budget]`), and whether it has: sums and comparisons.
//!
//! Knows settings, counts of tokens and times. Knows nothing of prompts, engines and tables.

use std::fmt;
use std::time::Instant;

use crate::config::{BudgetSpec, JobSpec, PriceSpec};
use crate::error::{Error, Kind};
use crate::night::manifest::Usage;

/// The caps of a job that has any: tokens, minutes, cost.
#[derive(Debug, Clone)]
pub struct Cap {
    budget: BudgetSpec,
    price: PriceSpec,
}

/// What was spent, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// Prompt tokens of answers.
    pub prompt_tokens: f64,
    /// Generated tokens.
    pub completion_tokens: f64,
    /// Minutes since the generate stage began.
    pub minutes: f64,
}

/// A cap that is reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Its key in `[budget]`.
    pub key: &'static str,
    /// Its value: tokens, minutes, or units of the job's currency.
    pub value: f64,
}

/// What a cap has left unpaid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unpaid {
    /// The cap.
    pub limit: Limit,
    /// Prompts that were never asked, or whose answer was refused and that would have been asked again; at least 1.
    pub prompts: u64,
}

/// What a run may still spend.
#[derive(Debug, Clone)]
pub struct Purse {
    cap: Cap,
    began: Instant,
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl Cap {
    /// The caps of a job; `None` where it has none.
    pub fn of(spec: &JobSpec) -> Option<Cap> {
        let budget = &spec.budget;
        let is_set = budget.max_tokens > 0 || budget.max_minutes > 0.0 || budget.max_cost > 0.0;
        is_set.then(|| Cap { budget: budget.clone(), price: spec.price.clone() })
    }

    /// Every cap that is set, with what was spent of it.
    fn limits(&self, spent: &Spent) -> impl Iterator<Item = (Limit, f64)> + use<> {
        let (budget, price) = (&self.budget, &self.price);
        let cost = (spent.prompt_tokens * price.prompt_tokens_million
            + spent.completion_tokens * price.completion_tokens_million)
            / 1e6;
        let all = [
            ("max_tokens", budget.max_tokens as f64, spent.prompt_tokens + spent.completion_tokens),
            ("max_minutes", budget.max_minutes, spent.minutes),
            ("max_cost", budget.max_cost, cost),
        ];
        all.into_iter().filter(|(_, value, _)| *value > 0.0).map(|(key, value, spent)| (Limit { key, value }, spent))
    }

    /// The first cap that is reached: as much was spent as it allows, or more.
    pub fn reached(&self, spent: &Spent) -> Option<Limit> {
        self.limits(spent).find(|(limit, spent)| *spent >= limit.value).map(|(limit, _)| limit)
    }

    /// Whether a run that has reached a cap ends without publishing.
    pub fn stops(&self) -> bool {
        self.budget.on_reached == "stop"
    }

    /// The error of such a run: `of` are the prompts that were to be answered in all, `paid` is what the run has paid for.
    pub fn stopped(&self, unpaid: &Unpaid, of: u64, paid: &Usage) -> Error {
        let (limit, prompts) = (unpaid.limit, unpaid.prompts);
        Error::new(Kind::Budget, format!("[budget] {limit} is reached, and {prompts} of {of} prompts are not paid"))
            .with("answers of this run", paid.generated)
            .with("prompt tokens", paid.prompt_tokens)
            .with("generated tokens", paid.completion_tokens)
            .hint(format!(
                "nothing was published; the answers are kept and never paid for twice. Run the same command again to pay for \
                 as much once more, raise {}, or set [budget] on_reached = \"publish\" to publish what there is",
                limit.key
            ))
    }
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits: Vec<String> = self.limits(&Spent::default()).map(|(limit, _)| limit.to_string()).collect();
        f.write_str(&limits.join(", "))
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.value)
    }
}

impl Purse {
    /// The purse of a run whose generate stage began at `began` and that has paid for so much already.
    pub fn new(cap: Cap, began: Instant, paid: &Usage) -> Purse {
        Purse { cap, began, prompt_tokens: paid.prompt_tokens, completion_tokens: paid.completion_tokens }
    }

    /// The cap that is reached now, with so many tokens paid for since the purse was made.
    pub fn reached(&self, prompt_tokens: u64, completion_tokens: u64) -> Option<Limit> {
        self.cap.reached(&Spent {
            prompt_tokens: (self.prompt_tokens + prompt_tokens) as f64,
            completion_tokens: (self.completion_tokens + completion_tokens) as f64,
            minutes: self.began.elapsed().as_secs_f64() / 60.0,
        })
    }

    /// How many prompts, `most` at most, may be begun beside those in flight: with all of these, each at the mean price of the `answered`
    /// ones, which took so many prompt and generated tokens, no cap of tokens or cost is reached before the last. At least 1 where
    /// none is in flight.
    pub fn room(&self, [prompt, completion]: [u64; 2], answered: u64, in_flight: u64, most: u64) -> u64 {
        let likely = |tokens: u64, begun: u64| tokens + (tokens as f64 / answered.max(1) as f64 * begun as f64) as u64;
        // The last one may reach it.
        let fits = |n: &u64| {
            let begun = in_flight + n - 1;
            self.reached(likely(prompt, begun), likely(completion, begun)).is_none()
        };
        (1..=most).rev().find(fits).unwrap_or(u64::from(in_flight == 0 && most > 0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cap(max_tokens: u64, max_minutes: f64, max_cost: f64, on_reached: &str) -> Cap {
        Cap {
            budget: BudgetSpec {
                max_failed_fraction: 1.0,
                max_failed_rows: 0,
                max_tokens,
                max_minutes,
                max_cost,
                on_reached: on_reached.into(),
            },
            price: PriceSpec { prompt_tokens_million: 2.0, completion_tokens_million: 8.0 },
        }
    }

    fn spent(prompt_tokens: f64, completion_tokens: f64, minutes: f64) -> Spent {
        Spent { prompt_tokens, completion_tokens, minutes }
    }

    #[test]
    fn a_cap_is_reached_by_what_it_names_and_by_nothing_else() {
        let key = |cap: &Cap, spent: Spent| cap.reached(&spent).map(|limit| limit.key);
        let tokens = cap(100, 0.0, 0.0, "publish");
        assert_eq!(key(&tokens, spent(90.0, 9.0, 1e9)), None);
        assert_eq!(key(&tokens, spent(90.0, 10.0, 0.0)), Some("max_tokens"));
        let minutes = cap(0, 1.5, 0.0, "publish");
        assert_eq!(key(&minutes, spent(1e9, 1e9, 1.4)), None);
        assert_eq!(key(&minutes, spent(0.0, 0.0, 1.5)), Some("max_minutes"));
        // A million of each: 2 and 8.
        let cost = cap(0, 0.0, 10.0, "publish");
        assert_eq!(key(&cost, spent(1e6, 0.99e6, 1e9)), None);
        assert_eq!(key(&cost, spent(1e6, 1e6, 0.0)), Some("max_cost"));
        let all = cap(100, 1.5, 10.0, "publish");
        assert_eq!(key(&all, spent(1e6, 1e6, 0.0)), Some("max_tokens"), "the first of several");
        assert_eq!(all.to_string(), "max_tokens 100, max_minutes 1.5, max_cost 10");
    }

    #[test]
    fn what_was_paid_before_counts() {
        let paid = Usage { prompt_tokens: 60, completion_tokens: 10, ..Usage::default() };
        let purse = Purse::new(cap(100, 0.0, 0.0, "publish"), Instant::now(), &paid);
        assert_eq!(purse.reached(20, 9), None);
        assert_eq!(purse.reached(20, 10), Some(Limit { key: "max_tokens", value: 100.0 }));
    }

    #[test]
    fn no_more_is_begun_than_is_likely_to_be_paid() {
        let purse = Purse::new(cap(100, 0.0, 0.0, "publish"), Instant::now(), &Usage::default());
        // Two answers took 20 tokens: 80 are left for eight more.
        let room = |in_flight, most| purse.room([16, 4], 2, in_flight, most);
        assert_eq!([room(0, 32), room(3, 32), room(8, 32), room(0, 5), room(0, 0)], [8, 5, 0, 5, 0]);
        assert_eq!(purse.room([100, 4], 2, 0, 9), 1, "who asks has not reached it, and one may always be begun");
        let free = Purse::new(cap(0, 1e6, 0.0, "publish"), Instant::now(), &Usage::default());
        assert_eq!(free.room([1 << 40, 1 << 40], 1, 100, 32), 32, "minutes are not foreseen");
    }

    #[test]
    fn a_run_that_stops_says_how_far_it_came_and_what_to_do() {
        let cap = cap(100, 0.0, 0.0, "stop");
        assert!(cap.stops());
        let limit = cap.reached(&spent(100.0, 0.0, 0.0)).unwrap();
        let paid = Usage { generated: 12, prompt_tokens: 95, completion_tokens: 7, ..Usage::default() };
        let error = cap.stopped(&Unpaid { limit, prompts: 30 }, 42, &paid);
        assert_eq!(error.kind(), Kind::Budget);
        let told = error.explain();
        for part in ["max_tokens 100 is reached, and 30 of 42 prompts", "answers of this run: 12", "kept", "on_reached"]
        {
            assert!(told.contains(part), "{told}");
        }
    }
}
