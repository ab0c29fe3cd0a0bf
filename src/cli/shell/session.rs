//! The shell: reads what a person types, does it, tells what went wrong, and goes on.
//!
//! The terminal is read on the main thread, outside of the runtime, which has its threads for what was asked. Knows what the
//! commands do; knows nothing of keys or of SQL.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use arrow::datatypes::Schema;
use tokio::runtime::Runtime;

use crate::cli::arguments::{Foreground, GIVE_UP_RUNTIME, new_runtime};
use crate::cli::output::{Format, Out, print, say, say_error, write_rows};
use crate::cli::shell::command::{self, Command};
use crate::cli::shell::completion::Words;
use crate::cli::shell::editor::{Editor, Typed};
use crate::config::{Job, state_folder};
use crate::error::{Error, Kind, Result};
use crate::night::warehouse;
use crate::printable;
use crate::query::session::Session;
use crate::query::{saved, statements};
use crate::settings::read_text;

/// The history's place below the folder of a person's state.
const HISTORY: &str = "curec/sql_history";

/// Opens the shell on the job's tables, until the person leaves.
///
/// # Errors
/// Those of opening the tables; `Kind::Temporary` where the terminal is gone. What fails in the shell is told there.
pub(crate) fn open(job: &Job, format: Format, is_raw: bool) -> Result<()> {
    let folder = Some(&job.spec.project.sql).filter(|folder| !folder.is_empty()).map(Path::new);
    let foreground = Foreground::hear();
    let runtime = new_runtime()?;
    let session = runtime.block_on(foreground.of(warehouse::session_of(job)))?;
    let words = runtime.block_on(words_of(&session, folder))?;
    let mut editor = Editor::open(words, state_folder().map(|state| state.join(HISTORY)))?;
    say(&format!("{} tables; \\? lists the commands, \\q leaves", session.table_names().len()));
    let mut shell = Shell { session, folder, format, is_raw, is_timed: false, runtime, foreground };
    loop {
        let text = match editor.read()? {
            Typed::Text(text) => text,
            Typed::Cleared => continue,
            Typed::End => break,
        };
        match shell.act(command::parse(&text)) {
            Ok(true) => {}
            Ok(false) => break,
            // Nobody sees what it says any more.
            Err(e) if e.kind() == Kind::BrokenPipe => return Err(e),
            Err(e) if e.kind() == Kind::Interrupted => say("stopped"),
            Err(e) => say_error("", &e),
        }
    }
    shell.runtime.shutdown_timeout(GIVE_UP_RUNTIME);
    Ok(())
}

/// The names that Tab completes.
async fn words_of(session: &Session, folder: Option<&Path>) -> Result<Words> {
    let mut tables = BTreeMap::new();
    for table in session.table_names() {
        let schema = session.columns_of(&table).await?;
        let columns = schema.iter().flat_map(|schema| schema.fields()).map(|field| field.name().clone());
        tables.insert(table, columns.collect());
    }
    // A folder that cannot be read is told when somebody asks for a query.
    let queries = saved::all(folder).unwrap_or_default().into_keys().collect();
    Ok(Words::new(tables, session.function_names(), queries))
}

/// What stays from one command to the next.
struct Shell<'a> {
    session: Session,
    /// The job's own definitions.
    folder: Option<&'a Path>,
    format: Format,
    is_raw: bool,
    is_timed: bool,
    runtime: Runtime,
    foreground: Foreground,
}

impl Shell<'_> {
    /// Does what was typed; `false` to leave.
    fn act(&mut self, command: Command) -> Result<bool> {
        match command {
            Command::Nothing => {}
            Command::Statements(text) => self.run(&text, None)?,
            Command::Tables => {
                let names = self.session.table_names();
                print(&names.iter().map(|name| format!("{}\n", printable::line(name))).collect::<String>())?;
            }
            Command::Columns(table) => {
                let found = self.runtime.block_on(self.session.columns_of(&table))?;
                let schema = found.ok_or_else(|| {
                    let error = Error::new(Kind::Usage, "there is no table of this name").with("table", &table);
                    error.hint("\\d lists the tables")
                })?;
                print(&columns_text(&schema))?;
            }
            Command::Queries => print(&saved::listed(&saved::all(self.folder)?))?,
            Command::Query(name) => {
                let query = saved::find(&name, self.folder)?;
                self.run(&query.text, Some(&query.origin))?;
            }
            Command::File(path) => {
                let text = read_text(Path::new(&path), "the file of statements", "\\i takes a file of SQL statements")?;
                self.run(&text, Some(&path))?;
            }
            Command::Timing(on) => {
                self.is_timed = on.unwrap_or(!self.is_timed);
                print(if self.is_timed { "timing is on\n" } else { "timing is off\n" })?;
            }
            Command::Help => print(command::HELP)?,
            Command::Quit => return Ok(false),
            Command::Wrong(why) => return Err(Error::new(Kind::Usage, why).hint("\\? lists the commands")),
        }
        Ok(true)
    }

    /// Runs statements one after the other, up to the first that fails.
    fn run(&self, text: &str, file: Option<&str>) -> Result<()> {
        let statements = statements::split(text, file)?;
        let all = async {
            for statement in &statements {
                let place = |e: Error| statement.placed(e, file);
                let started = Instant::now();
                let rows = self.session.sql_read_only(&statement.in_place(), &[]).await.map_err(place)?;
                write_rows(rows, self.format, self.is_raw, Out::Stdout).await.map_err(place)?;
                if self.is_timed {
                    print(&format!("time: {:.3} s\n", started.elapsed().as_secs_f64()))?;
                }
            }
            Ok::<_, Error>(())
        };
        self.runtime.block_on(self.foreground.of(all))
    }
}

/// The columns of a table with their types, one a line.
fn columns_text(schema: &Schema) -> String {
    let names: Vec<_> = schema.fields().iter().map(|field| printable::line(field.name())).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, field) in names.iter().zip(schema.fields()) {
        let not_null = if field.is_nullable() { "" } else { ", never null" };
        text.push_str(&format!("{name:width$}  {}{not_null}\n", field.data_type()));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field};

    use super::*;
    use crate::query::session::SessionOptions;

    fn schema() -> Arc<Schema> {
        let id = Field::new("id", DataType::Int64, false);
        Arc::new(Schema::new(vec![id, Field::new("evil\u{1b}[2J", DataType::Utf8, true)]))
    }

    fn shell() -> Shell<'static> {
        let session = Session::new(SessionOptions::default()).unwrap();
        session.register_batches("t", schema(), Vec::new()).unwrap();
        let (runtime, foreground) = (new_runtime().unwrap(), Foreground::default());
        let (folder, format) = (None, Format::Csv);
        Shell { session, folder, format, is_raw: false, is_timed: false, runtime, foreground }
    }

    #[test]
    fn columns_have_types_and_steer_nothing() {
        let expected = format!("{:13}  Int64, never null\nevil\\u{{1b}}[2J  Utf8\n", "id");
        assert_eq!(columns_text(&schema()), expected);
    }

    #[test]
    fn a_mistake_is_told_and_the_shell_goes_on() {
        let mut shell = shell();
        for (text, said) in [
            ("selec 1;", "selec"),
            ("select nothing from t;", "nothing"),
            ("drop table t;", "DROP TABLE"),
            ("\\d nowhere", "no table"),
            ("\\query nowhere", "saved query"),
            ("\\i absent.sql", "absent.sql"),
            ("\\x", "no command"),
        ] {
            let e = shell.act(command::parse(text)).unwrap_err();
            assert!(e.explain().to_lowercase().contains(&said.to_lowercase()), "{text}: {}", e.explain());
        }
        assert!(shell.act(command::parse("\\timing on")).unwrap() && shell.is_timed);
        assert!(shell.act(command::parse("\\timing")).unwrap() && !shell.is_timed);
        assert!(shell.act(command::parse("select id from t;")).unwrap());
        assert!(!shell.act(command::parse("\\q")).unwrap());
    }

    #[test]
    fn tables_columns_and_functions_are_completed() {
        let shell = shell();
        let words = shell.runtime.block_on(words_of(&shell.session, None)).unwrap();
        assert_eq!(words.complete("select * from ", 14).1, ["t"]);
        assert_eq!(words.complete("select t.", 9).1, ["id"]);
        assert!(words.complete("select array_agg", 16).1.contains(&"array_agg(".to_owned()));
        assert!(words.complete("select row_num", 14).1.contains(&"row_number(".to_owned()));
        assert!(words.complete("\\query co", 9).1.contains(&"cost".to_owned()));
    }
}
