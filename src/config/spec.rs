//! The job as a person wrote it, after layering: its sections and keys, each of the right type.
//!
//! Knows keys, which `job.toml` beside this file documents. What their values may be is for `rules.rs` to say.

use serde::{Deserialize, Serialize};

use crate::config::meaning::{Meaning, Meanings};
use crate::config::watch::WatchSpec;
use crate::error::Kind;
use crate::undated::is_undated;

/// The value of `[model] endpoint_stem` by which the endpoint goes on with the beginning of an answer.
const CONTINUE: &str = "continue";

/// A job as written, after layering: every key has a value of the right type.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // every key is documented once, in config/job.toml
pub struct JobSpec {
    pub name: String,
    pub warehouse: String,
    pub input: InputSpec,
    pub interval: IntervalSpec,
    pub events: EventsSpec,
    pub history: HistorySpec,
    pub pairs: PairsSpec,
    pub evidence: EvidenceSpec,
    pub model: ModelSpec,
    pub prompt: PromptSpec,
    pub sampling: SamplingSpec,
    pub check: CheckSpec,
    pub correct: CorrectSpec,
    pub feature: FeatureSpec,
    pub budget: BudgetSpec,
    pub response: ResponseSpec,
    pub audit: AuditSpec,
    pub query: QuerySpec,
    pub resources: ResourcesSpec,
    pub publish: PublishSpec,
    pub store: StoreSpec,
    pub price: PriceSpec,
    pub watch: WatchSpec,
    pub project: ProjectSpec,
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize, Serialize)]
        #[serde(deny_unknown_fields)]
        #[allow(missing_docs)] // every key is documented once, in config/job.toml
        pub struct $name { $(pub $field: $type),* }
    };
}

section!(/// `[input]`
InputSpec {
    interaction: String, item: String, review: String, pair: String, late_days: u64, max_bad_fraction: f64,
    timestamp_unit: String, item_snapshot: String, columns: ColumnsSpec,
});
section!(/// `[input.columns]`
ColumnsSpec { interaction: NamedTexts, item: NamedTexts, review: NamedTexts, pair: NamedTexts });

impl ColumnsSpec {
    /// The columns of an input's contract that its files carry under other names, each with that name; an empty one: the
    /// column is not read.
    pub fn of(&self, table: &str) -> &[(String, String)] {
        match table {
            "interaction" => &self.interaction.0,
            "item" => &self.item.0,
            "review" => &self.review.0,
            "pair" => &self.pair.0,
            _ => &[],
        }
    }
}

section!(/// `[interval]`
IntervalSpec { empty: String, lookback_days: u64, lookback_missing: bool });

impl IntervalSpec {
    /// What an interval is whose events, or whose input, are not there.
    pub fn late(&self) -> Kind {
        if self.empty == "refuse" { Kind::Input } else { Kind::NotArrived }
    }
}

section!(/// `[events]`
EventsSpec { meaning: NamedTexts, other: String, like_quantile: f64, like_values: i64 });

impl EventsSpec {
    /// What the values of the column `event` mean.
    pub fn meanings(&self) -> Meanings {
        // `rules.rs` has refused other names.
        let of = |name: &str| Meaning::parse(name).unwrap_or(Meaning::Like);
        Meanings::new(self.meaning.0.iter().map(|(event, name)| (event.clone(), of(name))), of(&self.other))
    }
}

section!(/// `[history]`
HistorySpec {
    like_threshold: f64, events: i64, max_pair_events: i64, min_support: i64, title_chars: i64,
    user_active_days: i64, items: String, item_active_days: i64, max_users: i64, max_items: i64,
});
section!(/// `[pairs]`
PairsSpec { max_per_user: i64, max: i64 });
section!(/// `[evidence]`
EvidenceSpec {
    attributes: NamedTexts, undated: bool, tokens: usize, people_label: String, brand_label: String, year_label: String,
    price_label: String, decimal_mark: String,
});
section!(/// `[model]`
ModelSpec {
    generator: String, adapter: String, encoder: String, projection: String, cache_dir: String, device: String, threads: usize, slots: usize, max_step_tokens: usize,
    max_positions: usize, allow_later_training: bool, endpoint_model: String, endpoint_stem: String, endpoint_at_once: usize,
    endpoint_timeout_seconds: f64, endpoint_retry_seconds: f64, endpoint_logprobs: bool, endpoint_body: String, tokenizer: String,
});

/// Whether a text that names a model is the address of an endpoint.
pub fn is_address(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.starts_with("http://") || text.starts_with("https://")
}

impl JobSpec {
    /// The most tokens that a prompt is shortened to: `[evidence] tokens`, or what `[model] max_positions` leaves beside an
    /// answer where that is less. The cache that both must fit into is that of curec's own engine, and none of an endpoint's.
    pub fn longest_prompt(&self) -> usize {
        let room = match self.model.endpoint() {
            None => self.model.max_positions.saturating_sub(self.sampling.max_new_tokens),
            Some(_) => usize::MAX,
        };
        self.evidence.tokens.min(room)
    }
}

impl ModelSpec {
    /// The address of the endpoint that is the generator; `None` where it is a model that curec runs itself.
    pub fn endpoint(&self) -> Option<&str> {
        is_address(&self.generator).then_some(self.generator.as_str())
    }

    /// Whether the beginning of an answer is given to the endpoint as one, for it to go on.
    pub fn continues_stem(&self) -> bool {
        self.endpoint_stem == CONTINUE
    }

    /// What `endpoint_body` adds to each request; `None` where it is no JSON object.
    pub fn body(&self) -> Option<serde_json::Map<String, serde_json::Value>> {
        match self.endpoint_body.trim() {
            "" => Some(serde_json::Map::new()),
            text => serde_json::from_str(text).ok(),
        }
    }
}

section!(/// `[prompt]`
PromptSpec { item: String, history: String, pair: String, fields: String });

impl PromptSpec {
    /// The fields that may be asked for.
    pub const FIELDS: [&'static str; 4] = ["what", "praised", "faulted", "for_whom"];
    /// Tokens that an answer needs for each of its parts at least.
    pub const PART_TOKENS: usize = 32;

    /// The names in `fields`, in their order.
    pub fn fields(&self) -> Vec<&str> {
        self.fields.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
    }
}

section!(/// `[sampling]`
SamplingSpec {
    max_new_tokens: usize, temperature: f32, top_p: f32, top_k: usize, repetition_penalty: f32, max_copied_words: usize, attempts: usize,
    seed: u64,
});
section!(/// `[check]`
CheckSpec {
    min_mean_logprob: f64, min_grounding: f64, max_repetition: f64, min_words: usize, max_words: usize,
    min_language: f64, language: String, require_finished: bool, min_concrete: usize, max_copied_words: usize,
});
section!(/// `[correct]`
CorrectSpec {
    judge: String, template: String, days: u64, rewrites: usize, max_outcomes: i64, keep_gain: f64,
    min_improvement: f64, edit_weight: f64, item_choices: String,
});
section!(/// `[feature]`
FeatureSpec { vector_of: String });
section!(/// `[budget]`
BudgetSpec {
    max_failed_fraction: f64, max_failed_rows: u64, max_tokens: u64, max_minutes: f64, max_cost: f64, on_reached: String,
});
section!(/// `[response]`
ResponseSpec { flush_rows: usize, flush_seconds: f64 });
section!(/// `[audit]`
AuditSpec { row_count_band: f64, quarantine_days: i64 });
section!(/// `[query]`
QuerySpec { engine: String, scheduler: String, partitions: usize });

/// What is said where a cluster is asked for and this binary has none.
pub const NO_CLUSTER: &str = "this curec was built without a cluster; build it with `cargo build --release --features cluster`, or use engine = \"local\"";

/// The `host:port` of a scheduler's address, `df://host:port`; `None` for what is no such address.
pub fn host_and_port(scheduler: &str) -> Option<&str> {
    let place = scheduler.strip_prefix("df://")?;
    let (host, port) = place.rsplit_once(':')?;
    (!host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()).then_some(place)
}

impl QuerySpec {
    /// The scheduler that is started in the run's own process.
    const STANDALONE: &'static str = "standalone";

    /// Whether queries are computed in the run's own process.
    pub fn is_local(&self) -> bool {
        self.engine == "local"
    }

    /// Whether the cluster is one that the run starts in its own process.
    pub fn is_standalone(&self) -> bool {
        self.scheduler == QuerySpec::STANDALONE
    }

    /// What is wrong, each with its key.
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        match self.engine.as_str() {
            "local" => {}
            "ballista" if !cfg!(feature = "cluster") => problems.push(("query.engine", NO_CLUSTER.to_owned())),
            "ballista" => {
                if !self.is_standalone() && host_and_port(&self.scheduler).is_none() {
                    let what = format!("must be df://host:port or standalone, got `{}`", self.scheduler);
                    problems.push(("query.scheduler", what));
                }
            }
            other => problems.push(("query.engine", format!("must be local or ballista, got `{other}`"))),
        }
        problems
    }
}

section!(/// `[resources]`
ResourcesSpec { memory_limit: String, spill_dir: String });
section!(/// `[publish]`
PublishSpec { lease_seconds: f64, grace_seconds: f64, replaces: String, delta: bool });
section!(/// `[store]`
StoreSpec { timeout_seconds: f64, connect_seconds: f64, max_retries: usize, retry_seconds: f64 });
section!(/// `[price]`
PriceSpec { prompt_tokens_million: f64, completion_tokens_million: f64 });
section!(/// `[project]`
ProjectSpec { sql: String, schemas: String, registry: String });

impl EvidenceSpec {
    /// The labels of the contract's own columns, by key.
    pub fn own_labels(&self) -> [(&'static str, &str); 4] {
        let EvidenceSpec { people_label, brand_label, year_label, price_label, .. } = self;
        [
            ("people_label", people_label),
            ("brand_label", brand_label),
            ("year_label", year_label),
            ("price_label", price_label),
        ]
    }

    /// The columns that [`is_undated`] knows among those that become attributes.
    pub fn undated_columns(&self) -> impl Iterator<Item = &str> {
        self.attributes.0.iter().map(|(column, _)| column.as_str()).filter(|column| is_undated(column))
    }
}

/// Texts by name, in the order in which the settings have them. Fingerprints tell the order too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedTexts(pub Vec<(String, String)>);

impl Serialize for NamedTexts {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_seq(&self.0)
    }
}

impl<'de> Deserialize<'de> for NamedTexts {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let texts = toml::Table::deserialize(from)?;
        let pair = |(name, text): (String, toml::Value)| match text {
            toml::Value::String(text) => Ok((name, text)),
            _ => Err(serde::de::Error::custom(format!("{name} must be a string"))),
        };
        texts.into_iter().map(pair).collect::<std::result::Result<_, _>>().map(NamedTexts)
    }
}

impl HistorySpec {
    /// The least rating that is a like, as ratings are held: `float32`. Rounded as they are, so that a rating of just the
    /// threshold is a like.
    pub fn liked(&self) -> f32 {
        self.like_threshold as f32
    }
}
