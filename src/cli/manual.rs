//! `curec man`: one manual page for each command, made of what `--help` says.
//!
//! Knows how a manual page is laid out; knows nothing of any command.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::cli::output::print;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};

/// What stands before each example of a help.
const INDENT: &str = "    ";

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The folder to write to; it is made if it is missing. Pages of the same name are replaced.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

impl ManArgs {
    /// Writes the pages of a command and of all below it, and prints their paths.
    pub(super) fn execute(&self, command: Command) -> Result<()> {
        std::fs::create_dir_all(&self.out).map_err(|e| {
            Error::new(Kind::Config, "cannot make the folder").with("file", self.out.display()).source(e)
        })?;
        let mut paths = String::new();
        for (name, page) in pages(command)? {
            let path = self.out.join(name);
            disk::write_whole(&path, page).map_err(|e| {
                Error::new(Kind::Temporary, "cannot write the page").with("file", path.display()).source(e)
            })?;
            paths.push_str(&format!("{}\n", path.display()));
        }
        print(&paths)
    }
}

/// The pages of a command and of all below it, each with the name of its file.
fn pages(command: Command) -> Result<Vec<(String, Vec<u8>)>> {
    // `help` and what stands below it say the same again.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let source = format!("{} {}", command.get_name(), command.get_version().unwrap_or_default());
    let mut pages = Vec::new();
    add_pages(&command, &source, &mut pages)?;
    Ok(pages)
}

fn add_pages(command: &Command, source: &str, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    pages.push(page(command, source)?);
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        add_pages(below, source, pages)?;
    }
    Ok(())
}

fn page(command: &Command, source: &str) -> Result<(String, Vec<u8>)> {
    // The version stands at the foot of each page. The help around the options gets sections of its own.
    let plain = command.clone().version(None::<&'static str>).after_help(None::<&'static str>);
    // No date, so that the same command line makes the same page. Without the quotes the argument would be left out.
    let man = Man::new(plain).date("\"\"").source(source).manual("curec");
    let mut bytes = Vec::new();
    man.render(&mut bytes).context(Kind::Internal, || "cannot lay out a manual page".into())?;
    let around = [command.get_before_help(), command.get_after_help()];
    let around: Vec<_> = around.into_iter().flatten().map(ToString::to_string).collect();
    bytes.extend(sections(&around.join("\n\n")).into_bytes());
    Ok((man.get_filename(), bytes))
}

/// The help around the options as the sections that a manual page has: exit codes, notes, examples.
fn sections(help: &str) -> String {
    let (mut codes, mut notes, mut examples) = (Vec::new(), Vec::new(), Vec::new());
    for paragraph in help.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        if let Some(text) = paragraph.strip_prefix("Exit codes: ") {
            codes.push(text);
        } else if let Some(("Example" | "Examples", lines)) = paragraph.split_once(":\n") {
            // A page indents its sections itself; what goes on with a command stays further in.
            examples.extend(lines.lines().map(|line| line.strip_prefix(INDENT).unwrap_or(line)));
        } else {
            notes.push(paragraph);
        }
    }
    if help.is_empty() {
        return String::new();
    }
    let mut roff = Roff::new();
    for (heading, paragraphs) in [("EXIT STATUS", codes), ("NOTES", notes)] {
        if !paragraphs.is_empty() {
            roff.control("SH", [heading]);
        }
        for (n, paragraph) in paragraphs.into_iter().enumerate() {
            if n > 0 {
                roff.control("PP", []);
            }
            roff.text([roman(paragraph)]);
        }
    }
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in examples {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    roff.render()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn help_becomes_sections_and_no_line_of_it_a_request() {
        let help = "Examples:\n    tool a \\\n        --b\n    tool 'c'\n\nExit codes: 0 well;\n.so /etc/passwd";
        let codes = ".SH \"EXIT STATUS\"\n0 well;\n\\&.so /etc/passwd\n";
        let examples = ".SH EXAMPLES\n.nf\ntool a \\\\\n    \\-\\-b\ntool \\*(Aqc\\*(Aq\n.fi\n";
        assert!(sections(help).ends_with(&format!("{codes}{examples}")), "{}", sections(help));
        assert!(sections("One.\n\nTwo.").ends_with(".SH NOTES\nOne.\n.PP\nTwo.\n"));
        assert_eq!(sections(""), "");
    }

    #[test]
    fn each_visible_command_has_a_page_with_version_and_no_date() {
        let below = Command::new("below").about("Does a part").version("9");
        let command = Command::new("tool")
            .version("1.2")
            .propagate_version(true)
            .about("Does it")
            .subcommand(Command::new("group").subcommand(below).before_help("Example:\n    tool group below"))
            .subcommand(Command::new("hidden").hide(true));
        let pages = pages(command).unwrap();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tool.1", "tool-group.1", "tool-group-below.1"]);
        let text = |n: usize| String::from_utf8(pages[n].1.clone()).unwrap();
        assert!(text(0).contains(".TH tool 1 \"\" \"tool 1.2\" curec\n"), "{}", text(0));
        assert!(text(2).contains(".TH tool-group-below 1 \"\" \"tool 1.2\" curec\n"), "{}", text(2));
        assert!(text(1).ends_with(".SH EXAMPLES\n.nf\ntool group below\n.fi\n"), "{}", text(1));
        assert!(text(2).contains("tool\\-group\\-below \\- Does a part"), "{}", text(2));
    }
}
