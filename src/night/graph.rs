//! The tables of a job as a graph: what each one reads, and the order in which they are made.
//!
//! Nodes are the contracts that have a `[build]` section, curec's own and the job's; edges come from the parsed SQL of
//! their definitions, and from `reads` where no SQL says it. Knows contracts and definitions; knows nothing of inputs'
//! files, models or partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::config::Job;
use crate::error::{Context, Error, Kind, Result};
use crate::night::tables::{folder, of_job};
use crate::query::model::Model;
use crate::table::build::{Build, By};
use crate::table::contract::{self, Contract, Role};

/// Begins the name under which a definition reads what earlier runs have published of a table: `earlier_reason`.
pub const EARLIER: &str = "earlier_";

/// The answers of the language model.
pub const RESPONSE: &str = "response";

/// The tables of a job.
#[derive(Debug)]
pub struct Graph {
    contracts: BTreeMap<String, Contract>,
    definitions: BTreeMap<String, Model>,
    /// What a table reads: tables, inputs, stores, and what earlier runs have published.
    reads: BTreeMap<String, BTreeSet<String>>,
    /// All tables that come before one, whether it reads them itself or not.
    ancestors: BTreeMap<String, BTreeSet<String>>,
    /// The tables that are built, each one behind those that it reads.
    order: Vec<String>,
}

/// What becomes of an error in the files of a table, which is named where it is one's: it ends the reading, or it is noted and
/// the file passed over.
type Tell<'a> = dyn FnMut(&str, Error) -> Result<()> + 'a;

/// The reading ends with the first error.
fn end(_: &str, error: Error) -> Result<()> {
    Err(error)
}

/// The tables of a job whose files may have mistakes.
#[derive(Debug)]
pub struct Examined {
    /// What could be read; a file with mistakes is replaced by the one that comes with curec, or left out. `None` where tables
    /// read each other in a circle.
    pub graph: Option<Graph>,
    /// Tables whose own files have mistakes.
    pub broken: BTreeSet<String>,
    /// The mistakes.
    pub errors: Vec<Error>,
}

/// Names of the files with an extension in a folder of the job.
fn names_in(folder: Option<&Path>, extension: &str) -> Result<BTreeSet<String>> {
    let Some(folder) = folder else { return Ok(BTreeSet::new()) };
    let failed = || format!("cannot read the folder {}", folder.display());
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).context(Kind::Config, failed)? {
        let path = entry.context(Kind::Config, failed)?.path();
        if let (Some(name), true) = (path.file_stem(), path.extension().is_some_and(|e| e == extension)) {
            let name = name.to_string_lossy();
            // What editors and file systems leave beside a file is no table.
            if !name.starts_with('.') {
                names.insert(name.into_owned());
            }
        }
    }
    Ok(names)
}

/// All contracts of a job, its own and curec's, by name: what is published can be read without any definition.
///
/// # Errors
/// [`Kind::Config`] for contracts that cannot be read, or that a job cannot bring.
pub fn contracts_of(job: &Job) -> Result<BTreeMap<String, Contract>> {
    contracts(Some(job), &mut end)
}

/// Those of a job, or curec's own.
fn contracts(job: Option<&Job>, tell: &mut Tell<'_>) -> Result<BTreeMap<String, Contract>> {
    let schemas = job.and_then(|job| folder(&job.spec.project.schemas));
    let mut names: BTreeSet<String> = contract::builtin_names().map(str::to_owned).collect();
    let own = or_told(names_in(schemas, "toml"), "project.schemas", tell)?;
    names.extend(own.iter().cloned());
    let mut contracts = BTreeMap::new();
    for name in names {
        let found = Contract::find(&name, schemas).and_then(|contract| {
            if let (true, Some(schemas)) = (own.contains(&name), schemas) {
                held_to_own(&contract).map_err(|e| e.with("file", schemas.join(format!("{name}.toml")).display()))?;
            }
            match job {
                Some(job) => of_job(contract, job),
                None => Ok(contract),
            }
        });
        match found {
            Ok(contract) => _ = contracts.insert(name, contract),
            Err(e) => {
                tell(&name, e)?;
                // So that whoever reads the table can be looked at.
                if let Ok(contract) = Contract::builtin(&name) {
                    contracts.insert(name, contract);
                }
            }
        }
    }
    Ok(contracts)
}

/// The names in a folder that a key names; none where the error was told.
fn or_told(names: Result<BTreeSet<String>>, key: &'static str, tell: &mut Tell<'_>) -> Result<BTreeSet<String>> {
    match names {
        Ok(names) => Ok(names),
        Err(e) => tell("", e.with("key", key)).map(|()| BTreeSet::new()),
    }
}

impl Graph {
    /// The tables of a job: curec's own contracts and definitions, replaced and joined by those of `[project] schemas` and
    /// `sql`.
    ///
    /// # Errors
    /// [`Kind::Config`] for contracts and definitions that cannot be read, do not fit together, name tables that nobody
    /// knows, or read each other in a circle.
    pub fn of(job: &Job) -> Result<Graph> {
        Self::read(Some(job), &mut end)
    }

    /// The same for whoever tells all mistakes at once.
    pub fn examine(job: &Job) -> Examined {
        let (mut broken, mut errors) = (BTreeSet::new(), Vec::new());
        let read = Self::read(Some(job), &mut |table, error| {
            if !table.is_empty() {
                broken.insert(table.to_owned());
            }
            errors.push(error);
            Ok(())
        });
        let graph = read.map_err(|e| errors.push(e)).ok();
        Examined { graph, broken, errors }
    }

    /// The tables that come with curec.
    ///
    /// # Errors
    /// None that is known; as [`Graph::of`].
    pub fn builtin() -> Result<Graph> {
        Self::read(None, &mut end)
    }

    fn read(job: Option<&Job>, tell: &mut Tell<'_>) -> Result<Graph> {
        let contracts = contracts(job, tell)?;
        let sql = job.and_then(|job| folder(&job.spec.project.sql));
        let schemas = job.and_then(|job| folder(&job.spec.project.schemas));
        for name in or_told(names_in(sql, "sql"), "project.sql", tell)? {
            // Of a contract that cannot be read everything is told already.
            let is_told = || schemas.is_some_and(|folder| folder.join(format!("{name}.toml")).exists());
            let lacks = match contracts.get(&name) {
                Some(contract) => contract.build.is_none(),
                None => !is_told(),
            };
            if lacks {
                let file = sql.map_or_else(String::new, |f| f.join(format!("{name}.sql")).display().to_string());
                let error = Error::new(Kind::Config, format!("there is no contract with a [build] for {name}.sql"));
                let hint =
                    format!("write {name}.toml into the folder that [project] schemas names, or remove the file");
                tell(&name, error.with("file", file).hint(hint))?;
            }
        }
        let mut definitions = BTreeMap::new();
        for (name, _) in contracts.iter().filter(|(_, contract)| contract.build.is_some()) {
            match Model::find(name, sql) {
                Ok(definition) => _ = definitions.insert(name.clone(), definition),
                Err(e) => {
                    tell(name, e)?;
                    if let Ok(definition) = Model::builtin(name) {
                        definitions.insert(name.clone(), definition);
                    }
                }
            }
        }
        Self::linked(contracts, definitions, tell)
    }

    fn linked(
        contracts: BTreeMap<String, Contract>,
        definitions: BTreeMap<String, Model>,
        tell: &mut Tell<'_>,
    ) -> Result<Graph> {
        let generated = definitions.keys().filter(|name| by(&contracts, name) == Some(By::Generate));
        let generated: Vec<String> = generated.cloned().collect();
        let mut reads: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, definition) in &definitions {
            let build = contracts[name].build.as_ref();
            let mut of = definition.tables().clone();
            of.extend(build.iter().flat_map(|build| build.reads.iter().cloned()));
            if of.contains(RESPONSE) && by(&contracts, name) == Some(By::Sql) {
                // The answers are those to the night's prompts: they are there once these were asked.
                of.extend(generated.iter().cloned());
            }
            for read in &of {
                let base = read.strip_prefix(EARLIER).unwrap_or(read);
                let is_known = contracts.get(base).is_some_and(|contract| match &contract.build {
                    Some(build) => build.publish || base == read,
                    None => contract.role != Role::Derived && base == read,
                });
                if !is_known {
                    let known: Vec<&str> = contracts.keys().map(String::as_str).collect();
                    let what = format!("the table {name} reads {read}, which is no table of this job");
                    let error = Error::new(Kind::Config, what)
                        .with("file", definition.origin())
                        .hint(format!("known tables: {}", known.join(", ")));
                    tell(name, error)?;
                }
            }
            reads.insert(name.clone(), of);
        }
        let ancestors = ancestors(&contracts, &reads)?;
        for name in generated.iter().flat_map(|table| &ancestors[table]) {
            if let Err(e) = plain(&contracts, name) {
                tell(name, e)?;
            }
        }
        let order = ordered(&contracts, &ancestors);
        let graph = Graph { contracts, definitions, reads, ancestors, order };
        let outside = graph.contracts.values().filter(|contract| contract.build.is_none());
        let inside = graph.order.iter().filter_map(|name| graph.contracts.get(name));
        if let Err(e) = Contract::check_references(&outside.chain(inside).collect::<Vec<_>>()) {
            tell("", e)?;
        }
        Ok(graph)
    }

    /// The contract of a table.
    ///
    /// # Errors
    /// [`Kind::Config`] for a name that no contract has.
    pub fn contract(&self, table: &str) -> Result<&Contract> {
        self.contracts
            .get(table)
            .ok_or_else(|| Error::new(Kind::Config, format!("there is no contract for a table {table}")))
    }

    /// All contracts by name.
    pub fn contracts(&self) -> &BTreeMap<String, Contract> {
        &self.contracts
    }

    /// How a table is built.
    ///
    /// # Errors
    /// [`Kind::Config`] for a name without a `[build]`.
    pub fn build(&self, table: &str) -> Result<&Build> {
        let build = self.contract(table)?.build.as_ref();
        build.ok_or_else(|| Error::new(Kind::Config, format!("the contract of {table} has no [build]")))
    }

    /// The definition of a table.
    ///
    /// # Errors
    /// [`Kind::Config`] for a name without one.
    pub fn definition(&self, table: &str) -> Result<&Model> {
        self.definitions
            .get(table)
            .ok_or_else(|| Error::new(Kind::Config, "no SQL makes this table").with("table", table))
    }

    /// All definitions by table.
    pub fn definitions(&self) -> &BTreeMap<String, Model> {
        &self.definitions
    }

    /// The tables that are built, published or not, each one behind those that it reads.
    pub fn order(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }

    /// The tables that are published, in order.
    pub fn published(&self) -> impl Iterator<Item = &str> {
        self.order().filter(|table| self.is_published(table))
    }

    /// Whether a table is published.
    pub fn is_published(&self, table: &str) -> bool {
        self.contracts.get(table).and_then(|contract| contract.build.as_ref()).is_some_and(|build| build.publish)
    }

    /// What a table reads itself: tables, inputs, stores, and [`EARLIER`] ones.
    pub fn reads(&self, table: &str) -> impl Iterator<Item = &str> {
        self.reads.get(table).into_iter().flatten().map(String::as_str)
    }

    /// The table and the unpublished tables that only it and others like it read on the way from published ones: what is
    /// made anew whenever it is made. In order, the table last.
    pub fn parts(&self, table: &str) -> Vec<&str> {
        let mut found = BTreeSet::from([table]);
        let mut waiting = vec![table];
        while let Some(next) = waiting.pop() {
            for read in self.reads(next).filter(|read| self.definitions.contains_key(*read) && !self.is_published(read))
            {
                if found.insert(read) {
                    waiting.push(read);
                }
            }
        }
        self.order().filter(|name| found.contains(name)).collect()
    }

    /// The published tables that a table is made from: those that its [`Graph::parts`] read. In order.
    pub fn upstream(&self, table: &str) -> Vec<&str> {
        let parts = self.parts(table);
        let read: BTreeSet<&str> = parts.iter().flat_map(|part| self.reads(part)).collect();
        self.published().filter(|name| *name != table && read.contains(name)).collect()
    }

    /// All tables that come before any of these, in order; these are not among them.
    pub fn before(&self, tables: &[&str]) -> Vec<&str> {
        let is_before = |name: &&str| {
            !tables.contains(name)
                && tables.iter().any(|t| self.ancestors.get(*t).is_some_and(|all| all.contains(*name)))
        };
        self.order().filter(is_before).collect()
    }
}

fn by(contracts: &BTreeMap<String, Contract>, table: &str) -> Option<By> {
    contracts.get(table)?.build.as_ref().map(|build| build.by)
}

/// Holds a contract of the job's folder against what a job can bring: steps in Rust are curec's own.
fn held_to_own(own: &Contract) -> Result<()> {
    let refused = |why: &str| Err(Error::new(Kind::Config, format!("the contract of {} {why}", own.name)));
    let known = contract::builtin_names().any(|name| name == own.name);
    let theirs = match known {
        true => Contract::builtin(&own.name)?.build,
        false => None,
    };
    match (&own.build, &theirs) {
        (None, None) if known => Ok(()),
        (None, None) => match own.role {
            Role::Derived => refused("has no [build]: nothing would make the table"),
            _ => refused("is for a new input or store; a job can only bring tables of the role derived"),
        },
        (None, Some(_)) => {
            refused("has no [build]: copy the section from the contract that comes with curec, `schemas/` has it")
        }
        (Some(_), None) if known => refused("has a [build], but this table is not made by a run"),
        (Some(own), None) if own.by != By::Sql && own.by != By::Pool => {
            refused(&format!("has by = {:?}: a job's own tables are made by \"sql\" or \"pool\"", own.by.name()))
        }
        (Some(own), Some(theirs)) if own.by != theirs.by || own.publish != theirs.publish => {
            refused(&format!("must keep by = {:?} and publish = {} in its [build]", theirs.by.name(), theirs.publish))
        }
        (Some(own), Some(theirs))
            if own.condition != theirs.condition
                || !theirs.settings.iter().all(|setting| own.settings.contains(setting))
                || !theirs.reads.iter().all(|table| own.reads.contains(table))
                || !theirs.models.iter().all(|model| own.models.contains(model)) =>
        {
            refused(
                "must keep condition, settings, reads and models of the contract that comes with curec, and may add to the lists",
            )
        }
        _ if own.name.starts_with(EARLIER) => {
            refused("begins with \"earlier_\": under such names definitions read what earlier runs have published")
        }
        _ => Ok(()),
    }
}

/// Refuses a table before the prompts that more than its SQL makes: `curec plan` and the examples of learning make them too,
/// and only a run has the steps.
fn plain(contracts: &BTreeMap<String, Contract>, table: &str) -> Result<()> {
    let build = contracts.get(table).and_then(|contract| contract.build.as_ref());
    if build.is_some_and(|build| build.by == By::Sql) {
        return Ok(());
    }
    Err(Error::new(Kind::Config, format!("prompts are made from {table}, which is not made by SQL alone"))
        .hint("what prompts are made from has by = \"sql\""))
}

/// All tables before each table: by what it reads, and by the foreign keys that its rows are held against.
fn ancestors(
    contracts: &BTreeMap<String, Contract>,
    reads: &BTreeMap<String, BTreeSet<String>>,
) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let before = |name: &String| {
        let keys = contracts.get(name).into_iter().flat_map(|contract| &contract.foreign_keys);
        let keys = keys.map(|key| &key.references);
        reads.get(name).into_iter().flatten().chain(keys).filter(|read| reads.contains_key(*read))
    };
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while found.len() < reads.len() {
        let next =
            reads.keys().find(|name| !found.contains_key(*name) && before(name).all(|read| found.contains_key(read)));
        let Some(name) = next else {
            let circle: Vec<&str> =
                reads.keys().filter(|name| !found.contains_key(*name)).map(String::as_str).collect();
            return Err(Error::new(Kind::Config, "table definitions read each other in a circle")
                .with("tables", circle.join(", ")));
        };
        let mut all = BTreeSet::new();
        for read in before(name) {
            all.insert(read.clone());
            all.extend(found.get(read).into_iter().flatten().cloned());
        }
        found.insert(name.clone(), all);
    }
    Ok(found)
}

/// Each table behind its ancestors. Of the published tables that could be next, those come first whose step needs the
/// least (SQL before models), then those with the fewest tables before them; an unpublished table comes just before the
/// first one that needs it.
fn ordered(contracts: &BTreeMap<String, Contract>, ancestors: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let build = |name: &String| contracts.get(name).and_then(|contract| contract.build.as_ref());
    let is_published = |name: &String| build(name).is_some_and(|build| build.publish);
    let rank = |name: &String| (build(name).map(|build| build.by), ancestors[name].len(), name.clone());
    let mut published: Vec<&String> = ancestors.keys().filter(|name| is_published(name)).collect();
    published.sort_by_key(|name| rank(name));
    let mut unpublished: Vec<&String> = ancestors.keys().filter(|name| !is_published(name)).collect();
    // More tables stand before a table than before any of its ancestors.
    unpublished.sort_by_key(|name| (ancestors[*name].len(), (*name).clone()));
    let mut order: Vec<String> = Vec::new();
    while !published.is_empty() {
        let is_next =
            |name: &&String| ancestors[*name].iter().all(|before| !is_published(before) || order.contains(before));
        let place = published.iter().position(is_next).unwrap_or(0);
        let next = published.remove(place);
        order.extend(unpublished.extract_if(.., |name| ancestors[next].contains(*name)).cloned());
        order.push(next.clone());
    }
    order.extend(unpublished.into_iter().cloned());
    order
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A graph of tables without columns of interest: name, `[build]`, SQL.
    fn graph(tables: &[(&str, &str, &str)]) -> Result<Graph> {
        let (mut contracts, mut definitions) = (BTreeMap::new(), BTreeMap::new());
        for name in ["interaction", "response"] {
            contracts.insert(name.to_owned(), Contract::builtin(name)?);
        }
        for (name, build, sql) in tables {
            let partition = if build.contains("publish = false") { "" } else { "partition_by = \"dt\"\n" };
            let text = format!(
                "name = \"{name}\"\nversion = \"1.0\"\nrole = \"derived\"\n{partition}[build]\n{build}\n\
                 [[column]]\nname = \"a\"\ntype = \"utf8\"\nnullable = true\n"
            );
            contracts.insert((*name).to_owned(), Contract::parse(&text, name)?);
            definitions.insert((*name).to_owned(), Model::parse(name, sql, name)?);
        }
        Graph::linked(contracts, definitions, &mut end)
    }

    #[test]
    fn the_built_in_tables_stand_in_the_order_of_the_data_flow() {
        let graph = Graph::builtin().unwrap();
        let published: Vec<&str> = graph.published().collect();
        assert_eq!(
            published,
            [
                "user_history",
                "item_known",
                "item_audience",
                "reason_prompt",
                "item_correction",
                "correction_prompt",
                "reason_correction",
                "reason",
                "reason_field",
                "reason_score",
                "pair_feature",
                "item_feature",
                "user_feature"
            ]
        );
        let place = |name: &str| graph.order().position(|table| table == name).unwrap();
        for table in graph.order() {
            for read in graph.reads(table).filter(|read| graph.build(read).is_ok()) {
                assert!(place(read) < place(table), "{table} is made before {read}");
            }
        }
        assert_eq!(
            graph.upstream("user_feature"),
            ["user_history", "reason_prompt", "reason_correction", "reason", "reason_score"]
        );
        assert_eq!(graph.parts("item_feature"), ["item_words", "item_embedding", "item_feature"]);
        assert_eq!(graph.parts("item_correction"), ["item_rewrite", "item_correction"]);
        assert_eq!(
            graph.upstream("item_feature"),
            ["item_audience", "reason_prompt", "item_correction", "reason", "reason_score"]
        );
        assert_eq!(graph.upstream("pair_feature"), ["reason_prompt", "reason", "reason_score"]);
        let before = graph.before(&["alignment_example"]);
        assert!(
            before.contains(&"opinion") && before.contains(&"reason_prompt") && !before.contains(&"reason"),
            "{before:?}"
        );
    }

    #[test]
    fn an_unpublished_table_comes_just_before_the_first_that_needs_it() {
        let (hidden, shown) = ("by = \"sql\"\npublish = false", "by = \"sql\"");
        let graph = graph(&[
            ("z", shown, "select a from interaction"),
            ("a", hidden, "select a from interaction"),
            ("b", hidden, "select a from a"),
            ("c", shown, "select a from b"),
            ("lonely", hidden, "select a from c"),
        ])
        .unwrap();
        assert_eq!(graph.order().collect::<Vec<_>>(), ["z", "a", "b", "c", "lonely"]);
        assert_eq!((graph.parts("c"), graph.upstream("c")), (vec!["a", "b", "c"], vec![]));
        assert_eq!(graph.upstream("lonely"), ["c"]);
    }

    #[test]
    fn circles_and_unknown_tables_are_named() {
        let build = "by = \"sql\"";
        let error =
            graph(&[("a", build, "select a from b"), ("b", build, "select a from a"), ("c", build, "select 1 as a")]);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("a, b"), "{error}");
        let error = graph(&[("a", build, "select a from nothing")]).unwrap_err().to_string();
        assert!(error.contains("a reads nothing"), "{error}");
        // Only what is published has earlier partitions.
        assert!(graph(&[("a", build, "select a from earlier_b"), ("b", build, "select 1 as a")]).is_ok());
        assert!(graph(&[("a", build, "select a from earlier_interaction")]).is_err());
    }

    #[test]
    fn who_reads_answers_comes_after_those_who_ask() {
        let graph = graph(&[
            ("asks", "by = \"generate\"", "select a from interaction"),
            ("counts", "by = \"sql\"", "select a from response"),
        ])
        .unwrap();
        assert_eq!(graph.upstream("counts"), ["asks"]);
    }
}
