//! `curec init`: a folder with a job for somebody's own logs.
//!
//! Samples files, has `proposal.rs` propose, and writes the folder whole or not at all. Nothing that is there is replaced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use parquet::arrow::arrow_writer::ArrowWriter;

use crate::config::Job;
use crate::error::{Context, Error, Kind, Result};
use crate::generate::prompt::PromptTemplate;
use crate::operate::init::conversion::{AllAsked, Asked, inputs_of};
use crate::operate::init::job_file::{Frame, job_file};
use crate::operate::init::proposal::{Seen, propose};
use crate::operate::init::report::{next, readme, story};
use crate::operate::init::schedule::schedules;
use crate::operate::init::texts::{self, Layout};
use crate::paths;
use crate::printable::steers;
use crate::table::builtin::{CONTRACTS, DEFINITIONS, QUERIES};
use crate::table::contract::Contract;
use crate::table::preview::{PreviewRows, preview};
use crate::table::store::StoreOptions;
use crate::table::write::writer_properties;
use crate::whole_folder::new_folder;

/// Where models are unless something else is said, as in `jobs/nightly.toml`.
const MODELS: &str = "${CUREC_MODELS:-/var/lib/curec/models}";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The log: a file, a folder or a pattern, here or on S3.
    pub interactions: String,
    /// The items.
    pub items: Option<String>,
    /// The reviews.
    pub reviews: Option<String>,
    /// The language model.
    pub generator: Option<String>,
    /// The sentence encoder.
    pub encoder: Option<String>,
    /// Whether the job gets copies of the SQL and the contracts.
    pub edits_sql: bool,
    /// The day of the proposal, UTC: moments after it do not tell which day the proposed commands build.
    pub today: NaiveDate,
    /// The folder to write.
    pub folder: PathBuf,
}

/// One table as it was found.
struct Found {
    asked: Asked,
    seen: Seen,
    about: String,
}

/// Writes a folder with a job for the logs that are named; returns what is to be said of it.
///
/// # Errors
/// `Kind::Usage` for a folder that holds something, for files that are not there, and for paths that cannot stand in a job file;
/// `Kind::Input` for files that cannot be read; the stores' own errors; `Kind::Temporary` where the folder cannot be written.
pub async fn init(options: &Options, store: &StoreOptions) -> Result<String> {
    let folder = absolute(&options.folder)?;
    if Path::new(&folder).is_file() {
        return Err(Error::new(Kind::Usage, "a file is there, where the job's folder is to be")
            .with("file", &folder)
            .hint("name a folder that does not exist"));
    }
    for path in [Some(&options.interactions), options.items.as_ref(), options.reviews.as_ref(), Some(&folder)] {
        fit_for_a_job_file(path.map(String::as_str).unwrap_or_default())?;
    }
    let log = look("interaction", "--interactions", &options.interactions, store).await?;
    let items = match &options.items {
        Some(items) => Some(look("item", "--items", items, store).await?),
        None => None,
    };
    let reviews = match &options.reviews {
        Some(reviews) => Some(look("review", "--reviews", reviews, store).await?),
        None => None,
    };
    let of = |found: &Option<Found>| found.as_ref().map(|found| found.asked.clone());
    let asked = AllAsked { interaction: log.asked.clone(), item: of(&items), review: of(&reviews) };
    let told = |found: &Option<Found>| found.as_ref().map(|found| found.about.clone());
    let looked_at: Vec<String> =
        [Some(log.about.clone()), told(&items), told(&reviews)].into_iter().flatten().collect();
    let proposal =
        propose(&log.seen, items.as_ref().map(|f| &f.seen), reviews.as_ref().map(|f| &f.seen), options.today)?;
    let inputs = inputs_of(&proposal, &asked, &folder);
    let name = name_of(Path::new(&folder));
    let model = |given: &Option<String>, usual: &str| match given {
        None => Ok(format!("{MODELS}/{usual}")),
        Some(given) if given.contains("://") || given.contains("${") => Ok(given.clone()),
        Some(given) => absolute(Path::new(given)),
    };
    let (generator, encoder) = (model(&options.generator, "generator")?, model(&options.encoder, "encoder")?);
    let frame = Frame {
        name: &name,
        folder: &folder,
        generator: &generator,
        encoder: &encoder,
        has_sql: options.edits_sql,
        looked_at: &looked_at,
    };
    let job = job_file(&proposal, &inputs, &frame);
    // What is written is a job, whatever the files held. A variable in the path of a model may be set later.
    let has_variable = [&options.generator, &options.encoder].into_iter().flatten().any(|model| model.contains("${"));
    if !has_variable {
        Job::parse(&job, "the proposed job.toml", &[], &BTreeMap::new()).map_err(|e| e.of_kind(Kind::Internal))?;
    }
    let next = next(&inputs, &folder, proposal.last_day);
    let models = [("generator", &options.generator), ("encoder", &options.encoder)];
    let missing: Vec<&str> = models.into_iter().filter(|(_, given)| given.is_none()).map(|(key, _)| key).collect();
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("job.toml".to_owned(), job.into_bytes()),
        ("README.md".to_owned(), readme(&name, &next, &missing, options.edits_sql).into_bytes()),
    ];
    files.extend(schedules(&folder, &name).into_iter().map(|(file, text)| (file, text.into_bytes())));
    for prompt in ["item", "history"] {
        let text = PromptTemplate::builtin(prompt).unwrap_or_default();
        files.push((format!("prompts/{prompt}.j2"), text.as_bytes().to_vec()));
    }
    if options.items.is_none() {
        files.push(("input/item.parquet".to_owned(), no_items()?));
    }
    if options.edits_sql {
        let copies = [("sql", "sql", DEFINITIONS), ("sql/queries", "sql", QUERIES), ("schemas", "toml", CONTRACTS)];
        for (place, ending, list) in copies {
            files
                .extend(list.iter().map(|(name, text)| (format!("{place}/{name}.{ending}"), text.as_bytes().to_vec())));
        }
    }
    let has_commands = !inputs.commands.is_empty();
    new_folder(Path::new(&folder), |part| write(part, &files, has_commands))?;
    Ok(story(&proposal, &looked_at, &next, &folder))
}

fn write(part: &Path, files: &[(String, Vec<u8>)], has_commands: bool) -> Result<()> {
    let failed = || format!("cannot write below `{}`", part.display());
    if has_commands {
        // For what they write.
        std::fs::create_dir_all(part.join("input")).context(Kind::Temporary, failed)?;
    }
    for (name, bytes) in files {
        let path = part.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).context(Kind::Temporary, failed)?;
        }
        std::fs::write(&path, bytes).context(Kind::Temporary, failed)?;
    }
    Ok(())
}

async fn look(table: &str, flag: &str, text: &str, store: &StoreOptions) -> Result<Found> {
    let mut found = preview(text, store).await.map_err(|e| match e.kind() {
        Kind::Usage => e.with("table", table).hint(format!("check {flag}")),
        _ => e.with("table", table),
    })?;
    let (layout, batch, in_path, greatest) = match found.rows {
        PreviewRows::Parquet { batch, in_path, greatest } => (Layout::Parquet, batch, in_path, greatest),
        PreviewRows::Texts(texts) => {
            let (layout, batch) = texts::read(&texts).map_err(|e| e.with("file", &found.asked))?;
            let others = texts::with_other_columns(&texts, layout);
            if others > 0 {
                found
                    .notes
                    .push(format!("{others} of the files looked at lack columns of the first, and were passed over"));
            }
            (layout, batch, Vec::new(), Vec::new())
        }
    };
    let form = match layout {
        Layout::Parquet => "Parquet",
        Layout::Separated(_) => "separated values",
        Layout::JsonLines => "JSON lines",
    };
    let which = if found.is_whole { "all" } else { "sampled" };
    let about =
        format!("{table}: {} ({form}, {} file(s), {} rows, {which})", found.asked, found.files, batch.num_rows());
    let asked = Asked { place: found.place, pattern: found.asked, layout };
    Ok(Found { asked, seen: Seen { layout, batch, in_path, greatest, notes: found.notes }, about })
}

/// A path that does not depend on the current folder, without a slash at its end.
fn absolute(path: &Path) -> Result<String> {
    Ok(paths::absolute(path)?.trim_end_matches('/').to_owned())
}

/// Refuses a path that a job file would read as something else.
fn fit_for_a_job_file(path: &str) -> Result<()> {
    if path.contains("${") || path.chars().any(steers) {
        return Err(Error::new(Kind::Usage, "the path cannot stand in a job file")
            .with("file", path)
            .hint("a path there has no `${`, which begins a variable, and no control characters"));
    }
    Ok(())
}

/// A job's name after its folder: letters, digits, - and _.
fn name_of(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let fit = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = name.chars().map(fit).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "job".to_owned() } else { name.to_owned() }
}

/// A file of items that holds none: the log's items count, and nothing is told of them.
fn no_items() -> Result<Vec<u8>> {
    let broken =
        |e: parquet::errors::ParquetError| Error::new(Kind::Internal, "cannot write a file of no items").source(e);
    let contract = Contract::builtin("item")?;
    let schema = contract.arrow_schema(None);
    let properties = writer_properties(&contract, &schema, None)?;
    let mut bytes = Vec::new();
    let writer = ArrowWriter::try_new(&mut bytes, schema, Some(properties)).map_err(broken)?;
    writer.close().map_err(broken)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_the_folders() {
        for (folder, name) in [("jobs/my shop", "my-shop"), ("x_1/", "x_1"), ("..", "job"), ("\u{e9}", "job")] {
            assert_eq!(name_of(Path::new(folder)), name, "{folder}");
        }
    }
}
