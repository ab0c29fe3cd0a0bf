//! How files of settings are read: layers, mistakes, origins, credentials.

use curec::error::Result;
use curec::resolved::{Place, Resolved};
use curec::secrets::{MASK, is_secret};
use curec::settings::{Form, Layers};
use serde::Deserialize;

const FORM: Form = Form {
    what: "the plan",
    file: "the plan file",
    defaults: "name = ''\nrate = 0.5\nparts = ['a']\n[work]\nsteps = 3\nurl = ''\n[gate]\nlimit = 1\n\
               [[data]]\njob = ''\nset = []\n[data.own]\nbatch = 0\n[[data.text]]\narm = ''\nsamples = 1\n",
    optional: &["gate", "data.own"],
    hint: "see the defaults",
};

#[derive(Debug, Deserialize, PartialEq)]
struct Plan {
    name: String,
    rate: f64,
    parts: Vec<String>,
    work: Work,
    gate: Option<Gate>,
    data: Vec<Data>,
}
#[derive(Debug, Deserialize, PartialEq)]
struct Work {
    steps: usize,
    url: String,
}
#[derive(Debug, Deserialize, PartialEq)]
struct Gate {
    limit: u64,
}
#[derive(Debug, Deserialize, PartialEq)]
struct Data {
    job: String,
    set: Vec<String>,
    own: Option<Own>,
    text: Vec<Text>,
}
#[derive(Debug, Deserialize, PartialEq)]
struct Own {
    batch: usize,
}
#[derive(Debug, Deserialize, PartialEq)]
struct Text {
    arm: String,
    samples: u64,
}

fn load(text: &str, env: &[(&str, &str)]) -> Result<(Plan, Resolved)> {
    let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let mut layers = Layers::read(&FORM, text, "plan.toml")?;
    layers.expand(&env);
    let plan = layers.build();
    let resolved = layers.finish()?;
    Ok((plan.unwrap(), resolved))
}

const FILE: &str = "name = 'n'\nrate = 2\n[gate]\n[[data]]\njob = 'j'\nset = ['a=${A:-b}', 'c=${TOKEN}']\n\
                    [[data.text]]\narm = 'x'\n[[data]]\njob = 'k'\nown = { batch = 4 }\n";

#[test]
fn a_file_lies_over_the_defaults() {
    let (plan, _) = load("", &[]).unwrap();
    assert_eq!((plan.rate, plan.parts.as_slice(), plan.work.steps), (0.5, &["a".to_owned()][..], 3));
    assert!(plan.gate.is_none() && plan.data.is_empty(), "optional sections and lists of sections are not there");
    let (plan, _) = load(FILE, &[("TOKEN", "t")]).unwrap();
    assert_eq!((plan.rate, plan.gate), (2.0, Some(Gate { limit: 1 })));
    assert_eq!(plan.data[0].set, ["a=b", "c=t"]);
    assert_eq!(plan.data[0].text, [Text { arm: "x".into(), samples: 1 }]);
    assert_eq!((&plan.data[0].own, &plan.data[1].own), (&None, &Some(Own { batch: 4 })));
}

#[test]
fn what_is_wrong_is_told_at_once_with_its_line() {
    let text = "nam = 'n'\nparts = 'a'\n[work]\nsteps = -1\n[[data]]\nsets = []\n[[data.text]]\nsamples = 'x'\n\
                [gate]\nlimits = 1\n";
    let told = load(text, &[]).unwrap_err().explain();
    for line in [
        "the plan has 6 problem(s)",
        "plan.toml:1: nam: unknown key; did you mean `name`?",
        "plan.toml:2: parts: must be a list, got string",
        "plan.toml:4: work.steps: must not be negative, got -1",
        "plan.toml:6: data[0].sets: unknown key; did you mean `set`?",
        "plan.toml:8: data[0].text[0].samples: must be a whole number, got string",
        "plan.toml:10: gate.limits: unknown key; did you mean `limit`?",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let told = load("data = 3\nwork = 1\ngate = []\n", &[]).unwrap_err().explain();
    assert!(told.contains("data: must be a list of sections") && told.contains("gate: must be a section"), "{told}");
    let told = load("name = '${NOBODY}'\n", &[]).unwrap_err().explain();
    assert!(told.contains("plan.toml:1: name: the variable NOBODY is not set"), "{told}");
    let told = load("parts = [1]\n", &[]).unwrap_err().explain();
    assert!(told.contains("string"), "{told}");
    assert!(load("name = 'n'\n[work\n", &[]).unwrap_err().explain().contains("line: 2"));
}

#[test]
fn what_is_wrong_is_shown_where_it_stands() {
    let text = "nam = 'n'\n[work]\nsteps\t= -1 # ten\nother = 1\n";
    let told = load(text, &[]).unwrap_err().explain();
    let shown = "the plan has 3 problem(s):\n  plan.toml:1: nam: unknown key; did you mean `name`?\n  --> plan.toml:1:1\n   |\n \
                 1 | nam = 'n'\n   | ^^^ did you mean `name`?\n  \
                 plan.toml:3: work.steps: must not be negative, got -1\n  --> plan.toml:3:9\n   |\n \
                 3 | steps   = -1 # ten\n   |           ^^\n  plan.toml:4: work.other: unknown key (file: plan.toml)\n  \
                 --> plan.toml:4:1\n   |\n 4 | other = 1\n   | ^^^^^\n  what to do: see the defaults";
    assert_eq!(told, shown);
    let told = load("name = 'n'\n[work\n", &[]).unwrap_err().explain();
    assert!(told.contains("\n  --> plan.toml:2:") && told.contains("\n 2 | [work\n"), "{told}");
    // What did not come from the file is not looked for there.
    let told = load("name = 'n'\nrate = 'x'\n", &[]).unwrap_err().explain();
    assert_eq!(told.matches("-->").count(), 1, "{told}");
}

#[test]
fn a_line_that_may_hold_a_credential_is_not_shown() {
    for (text, shown) in [
        ("api_key = 'hunter2'\n", Some("\n 1 | api_key ...\n")),
        ("rate = 's3://u:hunter2@b'\n", Some("\n 1 | rate ...\n")),
        ("rate = 'https://h/x?sig=hunter2'\n", Some("\n 1 | rate ...\n")),
        ("work = { password = 'hunter2', step = 1 }\n", None),
        ("password = hunter2\n", None),
    ] {
        let told = load(text, &[]).unwrap_err().explain();
        assert!(!told.contains("hunter2"), "{told}");
        match shown {
            Some(shown) => assert!(told.contains(shown), "{told}"),
            None => assert!(!told.contains(" 1 | "), "{told}"),
        }
    }
}

#[test]
fn what_is_printed_says_where_it_came_from_and_loads_again() {
    let url = "[work]\nurl = 's3://u:hunter2@b/${P:-p}'\n";
    let (plan, resolved) = load(&format!("{FILE}{url}"), &[("TOKEN", "hunter3")]).unwrap();
    let printed = resolved.print(&|text| text.replace("u:hunter2", MASK));
    for line in [
        "name = \"n\"  # line 1",
        "parts = [\"a\"]  # default",
        "url = \"s3://***@b/p\"  # line 13, variable P is not set",
        "set = [\"a=b\", \"c=***\"]  # line 6, variable A is not set, variable TOKEN by ${TOKEN}",
        "[[data.text]]",
    ] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    assert!(!printed.contains("hunter"), "{printed}");
    let (again, _) = load(&printed, &[]).unwrap();
    assert_eq!((&again.data[1], again.rate), (&plan.data[1], plan.rate));
    assert_eq!(again.data[0].set, ["a=b", "c=***"]);
    assert_eq!(resolved.origin("data[0].job").place, Place::Line(5));
}

#[test]
fn names_tell_credentials() {
    for name in ["AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "aws_session_token", "DB_PASSWORD", "KEY"] {
        assert!(is_secret(name), "{name}");
    }
    for name in ["max_step_tokens", "tokenizer", "TOKEN_FILE", "MONKEY", "CUREC_HOME", "HOME"] {
        assert!(!is_secret(name), "{name}");
    }
}
