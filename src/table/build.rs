//! How a table comes about: the `[build]` section of its contract.
//!
//! Knows the section's keys. What a table reads stands in its definition, `sql/<table>.sql`; here stands only what no SQL
//! says. Knows nothing of SQL or of how the steps work.

use serde::Deserialize;

/// The step that makes a table's rows from those of its definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// None: the definition's rows are the table's.
    Sql,
    /// The reward model judges earlier reasons. A definition that reads `response` has the rewrites' answers and gives
    /// corrections; one that does not gives the rewrites to ask for.
    Correct,
    /// The language model answers the prompts of `reason_prompt` that have no answer yet; then the definition is run.
    Generate,
    /// Checks and the score are worked out from each row: a reason with its evidence.
    Score,
    /// The texts of the rows (`entity_id`, `reason`) are embedded, and each entity's vectors are pooled. Where rows have a `part`,
    /// the vectors of each part are pooled first, then the parts.
    Pool,
}

impl By {
    /// The version of this way of building: it changes whenever Rust code changes what the step writes, or what a
    /// parameter of the SQL means.
    pub fn version(self) -> u32 {
        match self {
            By::Sql => 3,
            By::Correct => 4,
            By::Score => 3,
            By::Generate | By::Pool => 2,
        }
    }

    /// Its name, as contracts write it.
    pub fn name(self) -> &'static str {
        match self {
            By::Sql => "sql",
            By::Correct => "correct",
            By::Generate => "generate",
            By::Score => "score",
            By::Pool => "pool",
        }
    }
}

/// How the joins of a definition are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Joins {
    /// As DataFusion sees fit.
    #[default]
    Planned,
    /// In the order of the text, the left side held in memory: for definitions over a whole log.
    AsWritten,
    /// As merges of sorted rows, which spill: for definitions that join wide rows, or more rows than there are events.
    Sorted,
}

/// What a step uses beside the functions that the definition calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelUse {
    /// The language model with its adapter and `[sampling]`.
    Generator,
    /// The prompt templates.
    Templates,
    /// The sentence encoder.
    Encoder,
    /// The reward model that corrections are judged by, with the templates of rewrites.
    Judge,
}

/// How a table is built.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// The step that makes its rows.
    pub by: By,
    /// Whether it is published; if not, it is made for the tables after it and dropped with the run.
    #[serde(default = "published")]
    pub publish: bool,
    /// Settings of the job that it depends on, but for those that the definition names as parameters: `check`,
    /// `model.max_positions`.
    #[serde(default)]
    pub settings: Vec<String>,
    /// Tables that the step reads, but for those that the definition names.
    #[serde(default)]
    pub reads: Vec<String>,
    /// What the step uses, but for what the definition's functions tell.
    #[serde(default)]
    pub models: Vec<ModelUse>,
    /// Of its earlier partitions only the newest says anything: what an earlier one said stands in it, too.
    #[serde(default)]
    pub cumulative: bool,
    /// How joins are planned.
    #[serde(default)]
    pub joins: Joins,
    /// A setting of the job: where it is empty, false or 0, the table is not made, and who reads it finds no rows. With a text
    /// behind it, `history.items = new`: where it has another value.
    pub condition: Option<String>,
}

fn published() -> bool {
    true
}
