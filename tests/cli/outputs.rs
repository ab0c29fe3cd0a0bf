//! What commands print and where: pipes, devices and links stay what they are, a summary that cannot be written is found out
//! before the work, and no text of others steers a terminal or a spreadsheet.

use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::common::{World, expect_code, stderr, stdout, summary, write_items};

const QUERY: &str = "select 1 as one, 'b' as two";
const CSV: &str = "one,two\n1,b\n";

fn to(world: &World, output: &str) -> Output {
    world.curec(&["sql", "--job", "job.toml", "--format", "csv", "--output", output, QUERY])
}

fn is_steering(text: &str) -> bool {
    text.chars().any(|c| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2028}'))
}

#[test]
fn what_is_at_an_output_stays_what_it_is() {
    let world = World::new();
    let at = |name: &str| world.path(name);
    // A file is replaced whole, through links as well; nothing is left beside it.
    std::fs::create_dir(at("real")).unwrap();
    std::fs::write(at("real/file"), "a longer text of before").unwrap();
    symlink("real/file", at("link")).unwrap();
    expect_code(&to(&world, "link"), 0);
    assert!(std::fs::symlink_metadata(at("link")).unwrap().is_symlink());
    assert_eq!(std::fs::read_to_string(at("real/file")).unwrap(), CSV);
    assert_eq!(std::fs::read_dir(at("real")).unwrap().count(), 1);

    // A pipe stays one, and its reader gets all.
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let reader = Command::new("cat").arg(at("pipe")).stdout(Stdio::piped()).spawn().unwrap();
    expect_code(&to(&world, "pipe"), 0);
    assert_eq!(stdout(&reader.wait_with_output().unwrap()), CSV);
    assert!(std::fs::metadata(at("pipe")).unwrap().file_type().is_fifo());

    let out = to(&world, "/dev/stdout");
    expect_code(&out, 0);
    assert_eq!(stdout(&out), CSV);
    expect_code(&to(&world, "/dev/null"), 0);
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    // With standard output in a file, what was written to it before stays.
    let script = format!(
        "echo before; {} sql --job job.toml --format csv --output /dev/stdout \"{QUERY}\"; echo after",
        env!("CARGO_BIN_EXE_curec")
    );
    let kept = std::fs::File::create(at("kept")).unwrap();
    let status =
        Command::new("sh").args(["-c", &script]).current_dir(at("")).stdout(kept).stderr(Stdio::null()).status();
    assert!(status.unwrap().success());
    assert_eq!(std::fs::read_to_string(at("kept")).unwrap(), format!("before\n{CSV}after\n"));

    for (output, says) in [("real", "folder"), ("nowhere/out", "folder")] {
        let out = to(&world, output);
        expect_code(&out, 2);
        assert!(stderr(&out).contains(output) && stderr(&out).contains(says), "{}", stderr(&out));
    }
    // A query that fails leaves the file of before.
    let failing = world.curec(&["sql", "--job", "job.toml", "--format", "csv", "--output", "link", "select nothing"]);
    expect_code(&failing, 2);
    assert_eq!(std::fs::read_to_string(at("real/file")).unwrap(), CSV);
}

#[test]
fn a_summary_goes_where_it_is_asked_for_or_the_run_does_not_begin() {
    let world = World::new();
    let out = world.run(&["--summary", "nowhere/summary.json"]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("nowhere/summary.json"), "{}", stderr(&out));
    assert_eq!(summary(&out)["status"], "usage", "standard output has its line all the same");
    assert!(world.published().is_empty() && !world.path("warehouse").exists(), "found out before the work");
    let folder = world.path("closed");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o555)).unwrap();
    // Whoever may write everywhere cannot see the difference.
    if std::fs::write(folder.join("probe"), "").is_err() {
        expect_code(&world.run(&["--summary", "closed/summary.json"]), 2);
        assert!(world.published().is_empty());
    }

    symlink("summary.json", world.path("link.json")).unwrap();
    let out = world.run(&["--summary", "link.json"]);
    expect_code(&out, 0);
    let written: Value = serde_json::from_slice(&std::fs::read(world.path("summary.json")).unwrap()).unwrap();
    assert_eq!(written, summary(&out));
    assert!(std::fs::symlink_metadata(world.path("link.json")).unwrap().is_symlink());
    let out = world.run(&["--summary", "/dev/stdout"]);
    expect_code(&out, 0);
    assert!(stdout(&out).contains("nothing_to_do"), "{}", stdout(&out));
}

#[test]
fn a_wrong_configuration_has_its_line_and_its_summary() {
    let world = World::new();
    let told = |args: &[&str], status: &str, says: &str| {
        let path = world.path("summary.json");
        let _ = std::fs::remove_file(&path);
        let out = world.curec(&[args, &["--summary", "summary.json"]].concat());
        expect_code(&out, 2);
        let line = summary(&out);
        assert_eq!(stdout(&out).lines().count(), 1, "{}", stdout(&out));
        assert_eq!(line, serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()).unwrap());
        assert_eq!((&line["status"], &line["rerun_helps"]), (&status.into(), &false.into()), "{line}");
        assert!(line["error"].as_str().unwrap().contains(says), "{line}");
        line
    };
    let day = ["--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
    let line = told(&[&["run", "absent.toml"][..], &day].concat(), "config", "absent.toml");
    assert_eq!(line["interval_start"], "2026-01-20T00:00:00+00:00", "{line}");
    told(&[&["run", "job.toml", "--set", "model.slots=many"][..], &day].concat(), "config", "model.slots");
    let backwards = ["run", "job.toml", "--interval-start", "2026-01-21", "--interval-end", "2026-01-20"];
    assert_eq!(told(&backwards, "usage", "interval")["interval_start"], Value::Null);
    std::fs::write(world.path("broken.toml"), "name = \"a\n").unwrap();
    told(&[&["run", "broken.toml"][..], &day].concat(), "config", "not TOML");

    let out = world.curec(&[&["learn", "weekly", "absent.toml"][..], &day].concat());
    expect_code(&out, 2);
    assert_eq!((&summary(&out)["status"], &summary(&out)["rerun_helps"]), (&"config".into(), &false.into()));
}

#[test]
fn no_text_of_others_steers_a_terminal_or_a_spreadsheet() {
    let world = World::new();
    let mut items = crate::common::items();
    let hostile = "=HYPERLINK(\"x\")\x1b[2J\x1b]0;t\x07\u{9b}1m\u{202e}\u{2028}\r";
    items[0].1 = Some(hostile.into());
    write_items(&world.path("input/item.parquet"), &items);
    let query = "select item_id, title, -1 as n from item where item_id = 'i00'";
    let shown = |format: &[&str]| {
        let out = world.curec(&[&["sql", "--job", "job.toml"], format, &[query]].concat());
        expect_code(&out, 0);
        stdout(&out)
    };
    let table = shown(&[]);
    assert!(!is_steering(&table) && table.contains("\\u{1b}[2J"), "{table:?}");
    let json = shown(&["--format", "json"]);
    assert!(!is_steering(&json), "{json:?}");
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["title"], hostile);
    // For programs a CSV's text is the text, but no formula; its numbers are numbers.
    let csv = shown(&["--format", "csv"]);
    assert!(csv.contains("\"'=HYPERLINK(\"\"x\"\")\x1b[2J") && csv.trim_end().ends_with(",-1"), "{csv:?}");
    assert!(shown(&["--format", "csv", "--raw"]).contains("\"=HYPERLINK"));

    let out = world.curec(&["inspect", "input/item.parquet", "--rows", "2"]);
    expect_code(&out, 0);
    assert!(!is_steering(&stdout(&out)) && stdout(&out).contains("i00"), "{:?}", stdout(&out));

    let out = world.run(&["--set", "input.item=a\x1b[2J\nerror: all is well/item.parquet"]);
    let text = stderr(&out) + &stdout(&out);
    assert!(!is_steering(&text) && text.contains("all is well"), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("error: all is well")), "{text}");
    let out = world.run(&[]);
    expect_code(&out, 0);
    assert!(!is_steering(&(stderr(&out) + &stdout(&out))), "{:?}", stderr(&out));
    let report = summary(&out)["report"].as_str().unwrap().to_owned();
    assert!(!is_steering(&std::fs::read_to_string(report).unwrap()));
    let out = world.curec(&["runs", "show", "job.toml", "latest"]);
    assert!(!is_steering(&stdout(&out)));
}
