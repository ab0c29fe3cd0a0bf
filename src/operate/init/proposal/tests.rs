//! Proposals for logs as they are found: public sets by their columns, a click log, columns that fit alike.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Date32Array, Float64Array, Int64Array, StringArray};

use super::*;
use crate::config::{Job, Meaning};
use crate::operate::init::conversion::{AllAsked, Asked, inputs_of};
use crate::operate::init::job_file::{Frame, UNDECIDED, job_file};
use crate::operate::init::texts::read;
use crate::table::mapping::as_carried;

/// As on a certain day.
fn propose(log: &Seen, items: Option<&Seen>, reviews: Option<&Seen>) -> Result<Proposal> {
    super::propose(log, items, reviews, NaiveDate::from_ymd_opt(2026, 6, 1).unwrap())
}

fn text(text: &str) -> Seen {
    let (layout, batch) = read(&[text.to_owned()]).unwrap();
    Seen { layout, batch, in_path: Vec::new(), greatest: Vec::new(), notes: Vec::new() }
}

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Seen {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap();
    Seen { layout: Layout::Parquet, batch, in_path: Vec::new(), greatest: Vec::new(), notes: Vec::new() }
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn integers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

/// `column = name` of what is taken, and the columns that are open.
fn told(mapping: &Mapping) -> (Vec<String>, Vec<&str>) {
    let taken = mapping.taken.iter().map(|taken| format!("{} = {}", taken.column, taken.carried)).collect();
    (taken, mapping.open.iter().map(|open| open.column.as_str()).collect())
}

fn asked(seen: &Seen, name: &str) -> Asked {
    let pattern = format!("/in/{name}");
    Asked { place: Some(pattern.clone()), pattern, layout: seen.layout }
}

/// The text of the job, which the product's own reader has taken, and the commands before it.
fn job(log: &Seen, items: Option<&Seen>, reviews: Option<&Seen>) -> (String, Vec<String>) {
    let proposal = propose(log, items, reviews).unwrap();
    let asked = AllAsked {
        interaction: asked(log, "log"),
        item: items.map(|items| asked(items, "items")),
        review: reviews.map(|reviews| asked(reviews, if reviews.batch == log.batch { "log" } else { "reviews" })),
    };
    let inputs = inputs_of(&proposal, &asked, "/job");
    let frame = Frame {
        name: "mine",
        folder: "/job",
        generator: "/models/g",
        encoder: "/models/e",
        has_sql: false,
        looked_at: &["all of it".to_owned()],
    };
    let text = job_file(&proposal, &inputs, &frame);
    let job = Job::parse(&text, "job.toml", &[], &BTreeMap::new()).unwrap();
    assert_eq!((job.spec.prompt.item.as_str(), job.spec.prompt.history.as_str()), ("item", "history"));
    for table in ["interaction", "item", "review"] {
        as_carried(Contract::builtin(table).unwrap(), &job.spec).unwrap();
    }
    for mapping in proposal.mappings().filter(|_| inputs.commands.iter().all(|c| c.starts_with("duckdb"))) {
        let taken = mapping.taken.iter().map(|taken| (taken.column.clone(), taken.carried.clone()));
        let left_out = mapping.open.iter().filter(|open| open.is_left_out());
        let wanted: Vec<(String, String)> =
            taken.chain(left_out.map(|open| (open.column.clone(), String::new()))).collect();
        assert_eq!(job.spec.input.columns.of(mapping.table), wanted, "{text}");
    }
    (text, inputs.commands)
}

#[test]
fn movielens_as_recbole_has_it() {
    let log = text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n\
         196\t242\t3\t881250949\n186\t302\t5\t891717742\n22\t377\t1\t878887116\n",
    );
    let items = text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n\
         242\tKolya\t1996\tComedy\n302\tL.A. Confidential\t1997\tCrime Film-Noir\n",
    );
    let found = propose(&log, Some(&items), None).unwrap();
    let (taken, open) = told(&found.interaction);
    let wanted = [
        "user_id = user_id:token",
        "item_id = item_id:token",
        "rating = rating:float",
        "event_timestamp = timestamp:float",
    ];
    assert_eq!((taken, open), (wanted.map(str::to_owned).to_vec(), vec![]));
    assert_eq!((found.unit(), found.last_day.unwrap().to_string()), ("s", "1998-04-04".to_owned()));
    assert_eq!(found.scale.as_ref().unwrap().threshold, Some(4.0));
    assert!(found.events.is_none());
    let (taken, _) = told(found.item.as_ref().unwrap());
    let wanted = ["item_id = item_id:token", "title = movie_title:token_seq", "release_year = release_year:token"];
    assert_eq!(taken, wanted);
    assert_eq!(found.attributes, [("class:token_seq".to_owned(), "Class".to_owned())]);

    // Both files have one call of the importer, after which the columns have our names.
    let (text, commands) = job(&log, Some(&items), None);
    assert_eq!(commands.len(), 1);
    for part in ["curec import csv /in/log --items /in/items --mapping", "separator=tab", "user_id=user_id:token"] {
        assert!(commands[0].contains(part), "{part}: {}", commands[0]);
    }
    assert!(!text.contains("timestamp_unit") && !text.contains("\nuser_id ="), "{text}");
    assert!(text.contains("\ninteraction = \"/job/input/interaction.parquet\"\n"), "{text}");
}

#[test]
fn amazons_reviews_and_metadata() {
    let log = text(
        "{\"overall\":5.0,\"verified\":true,\"reviewTime\":\"09 13, 2009\",\"reviewerID\":\"A1\",\"asin\":\"B1\",\"reviewerName\":\"N\",\
         \"reviewText\":\"Good.\",\"summary\":\"Fine\",\"unixReviewTime\":1252800000,\"style\":{\"Size:\":\"L\"}}\n\
         {\"overall\":1.0,\"reviewerID\":\"A2\",\"asin\":\"B2\",\"unixReviewTime\":1262800000,\"vote\":\"3\"}\n",
    );
    let items = text(
        "{\"asin\":\"B1\",\"title\":\"T\",\"brand\":\"B\",\"category\":[\"Beauty\"],\"description\":[\"D\"],\"price\":\"$9.99\",\
         \"also_buy\":[\"B2\"],\"rank\":\"5 in Beauty\",\"main_cat\":\"All Beauty\"}\n",
    );
    let found = propose(&log, Some(&items), Some(&log)).unwrap();
    let wanted = ["user_id = reviewerID", "item_id = asin", "rating = overall", "event_timestamp = unixReviewTime"];
    assert_eq!(told(&found.interaction), (wanted.map(str::to_owned).to_vec(), vec![]));
    assert!(found.interaction.notes.iter().any(|note| note.contains("not from reviewTime")));
    let (taken, _) = told(found.review.as_ref().unwrap());
    assert!(taken.contains(&"text = reviewText".to_owned()) && taken.contains(&"summary = summary".to_owned()));
    let (taken, open) = told(found.item.as_ref().unwrap());
    let wanted =
        ["item_id = asin", "title = title", "categories = category", "description = description", "brand = brand"];
    assert_eq!(taken, wanted);
    assert_eq!(open, ["price"], "a text with a sign is for the importer");
    assert_eq!(found.attributes, [("main_cat".to_owned(), "Main cat".to_owned())], "undated columns are left out");

    let (text, commands) = job(&log, Some(&items), Some(&log));
    assert_eq!(commands, ["curec import jsonl /in/log --metadata /in/items --out /job/input"]);
    assert!(text.contains("\nreview = \"/job/input/review.parquet\"\n"), "{text}");
    let without = propose(&log, None, None).unwrap();
    assert!(without.interaction.notes.iter().any(|note| note.contains("--reviews")));
}

#[test]
fn a_scale_of_ten_is_told() {
    let log = parquet(vec![
        ("user_id", integers(&[1, 2, 3])),
        ("item_id", texts(&["tt1", "tt2", "tt3"])),
        ("rating", integers(&[0, 7, 10])),
        ("timestamp", integers(&[1_361_893_633, 1_362_062_307, 1_362_062_624])),
    ]);
    let found = propose(&log, None, None).unwrap();
    assert_eq!((found.scale.as_ref().unwrap().threshold, found.unit()), (Some(8.0), "s"));
    let (text, commands) = job(&log, None, None);
    assert!(commands.is_empty());
    for part in ["\nlike_threshold = 8.0\n", "\ntimestamp_unit = \"s\"\n", "\nitem = \"/job/input/item.parquet\"\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn sets_without_moments_or_users_are_told_what_they_lack() {
    let needed = |seen: &Seen| -> Vec<String> {
        let found = propose(seen, None, None).unwrap();
        let (text, _) = job(seen, None, None);
        assert!(text.contains(UNDECIDED), "{text}");
        found.interaction.open.into_iter().filter(|open| open.is_needed).map(|open| open.column).collect()
    };
    // Pairs alone; pairs with scores; explanations of pairs; turns of dialogues.
    assert_eq!(needed(&text("user,item\n1,1193\n1,661\n")), ["event_timestamp"]);
    assert_eq!(
        needed(&text("user_id,item_id,rating,plot\nur1,tt1,8,A plot\nur2,tt2,3,Another\n")),
        ["event_timestamp"]
    );
    let explained = parquet(vec![
        ("user_id", integers(&[1])),
        ("item_id", integers(&[2])),
        ("title", texts(&["T"])),
        ("user_summary", texts(&["S"])),
        ("item_summary", texts(&["S"])),
        ("explanation", texts(&["E"])),
    ]);
    assert_eq!(needed(&explained), ["event_timestamp"]);
    let dialogue =
        parquet(vec![("dialogue_id", texts(&["1"])), ("context", texts(&["C"])), ("explanation", texts(&["E"]))]);
    assert_eq!(needed(&dialogue), ["user_id", "item_id", "event_timestamp"]);
}

#[test]
fn a_click_log_with_events_and_milliseconds() {
    let events = ["view", "view", "cart", "purchase", "zoom"];
    let log = parquet(vec![
        ("customer_id", integers(&[1, 2, 3, 4, 5])),
        ("sku", texts(&["a", "b", "c", "d", "e"])),
        ("action", texts(&events)),
        ("ts", integers(&[1_768_867_200_000; 5])),
        ("user_agent", texts(&["x"; 5])),
    ]);
    let found = propose(&log, None, None).unwrap();
    assert_eq!((found.unit(), found.last_day.unwrap().to_string().as_str()), ("ms", "2026-01-20"));
    assert!(found.scale.is_none());
    let meanings: Vec<_> =
        found.events.as_ref().unwrap().values.iter().map(|e| (e.value.as_str(), e.rows, e.meaning)).collect();
    let wanted = [
        ("view", 2, Some(Meaning::Nothing)),
        ("cart", 1, Some(Meaning::Like)),
        ("purchase", 1, Some(Meaning::Like)),
        ("zoom", 1, None),
    ];
    assert_eq!(meanings, wanted);
    let (text, _) = job(&log, None, None);
    for part in [
        "\nuser_id = \"customer_id\"\n",
        "\nevent = \"action\"\n",
        "\nother = \"none\"\n",
        "\npurchase = \"like\"\n",
        "\nview = \"none\"\n",
        "\n# zoom = \"like\"\n",
        "implicit feedback",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn of_columns_that_fit_alike_none_is_taken() {
    let log = parquet(vec![
        ("user", texts(&["a"])),
        ("customer_id", integers(&[1])),
        ("asin", texts(&["B1"])),
        ("parent_asin", texts(&["B0"])),
        ("created_at", texts(&["2026-01-20 10:00:00"])),
        ("stars", Arc::new(Float64Array::from(vec![4321.0])) as ArrayRef),
    ]);
    let found = propose(&log, None, None).unwrap();
    let (taken, open) = told(&found.interaction);
    assert_eq!((taken, open), (vec![], vec!["user_id", "item_id", "rating", "event_timestamp"]));
    assert_eq!(found.interaction.open[0].found, ["user", "customer_id"]);
    assert!(found.interaction.open[3].why.contains("pd.to_datetime"), "{}", found.interaction.open[3].why);
    let (text, _) = job(&log, None, None);
    for part in ["# user_id = \"user\"\n", "# user_id = \"customer_id\"\n", "# item_id = \"parent_asin\"\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The items' file tells which of two it is, and our own name is no question.
    let items = parquet(vec![("parent_asin", texts(&["B0"])), ("title", texts(&["T"]))]);
    let found = propose(&log, Some(&items), None).unwrap();
    assert_eq!(found.interaction.carried("item_id"), Some("parent_asin"));
    let own = parquet(vec![("user", texts(&["a"])), ("user_id", texts(&["b"])), ("item_id", texts(&["i"]))]);
    let found = propose(&own, None, None).unwrap();
    assert_eq!(found.interaction.carried("user_id"), Some("user_id"));
    assert!(found.interaction.notes[0].contains("not from user"), "{:?}", found.interaction.notes);
}

#[test]
fn hostile_names_and_values_stay_text() {
    let log = parquet(vec![
        ("user_id", texts(&["a", "b"])),
        ("\n[model]\nitem.id", texts(&["i", "j"])),
        ("User\u{1b}[2J-ID", texts(&["a", "b"])),
        ("item_id", texts(&["i", "j"])),
        ("timestamp", integers(&[1_768_867_200, 1_768_867_201])),
        ("action", texts(&["buy\"]\n[model]\ngenerator = \"x", "a.b"])),
    ]);
    let (text, _) = job(&log, None, None);
    let read: toml::Table = toml::from_str(&text).unwrap();
    assert_eq!(read["model"]["generator"].as_str(), Some("/models/g"));
    assert!(!text.contains('\u{1b}'), "{text}");
    let variable = parquet(vec![("userId", texts(&["a"])), ("${HOME}_id", texts(&["b"])), ("sku", texts(&["${x}"]))]);
    job(&variable, None, None);
    let event = parquet(vec![("event", texts(&["${HOME}"]))]);
    job(&event, None, None);
    let labelled = parquet(vec![("item_id", texts(&["i"])), ("${HOME}", texts(&["x"])), ("colour", texts(&["red"]))]);
    let own = parquet(vec![("user_id", texts(&["a"])), ("item_id", texts(&["i"])), ("event", texts(&["${HOME}"]))]);
    let (text, _) = job(&own, Some(&labelled), None);
    assert!(!text.contains("${HOME}") && text.contains("# colour = \"Colour\"\n"), "{text}");
    let found = propose(&own, Some(&labelled), None).unwrap().item.unwrap();
    assert!(found.notes.iter().any(|note| note.contains("cannot name the column ${HOME}")), "{:?}", found.notes);
}

#[test]
fn what_the_contract_does_not_take_is_converted_or_not_read() {
    let log = parquet(vec![
        ("user_id", texts(&["a"])),
        ("item_id", texts(&["i"])),
        ("timestamp", integers(&[1_768_867_200])),
    ]);
    // Texts for lists: in CSV they are split by the command, in Parquet they are left out.
    let items = text("item_id,title,category\ni,T,a;b\nj,U,c\n");
    let (file, commands) = job(&log, Some(&items), None);
    assert_eq!(commands.len(), 1);
    for part in ["SELECT * REPLACE (string_split(CAST(\"category\" AS VARCHAR), ", ") AS \"category\") FROM read_csv("]
    {
        assert!(commands[0].contains(part), "{part}: {}", commands[0]);
    }
    assert!(commands[0].contains(";") && file.contains("\ncategories = \"category\"\n"), "{file}");
    // The importer splits them itself.
    let clicks = text("user_id,item_id,timestamp\n1,i,1768867200\n");
    let (_, commands) = job(&clicks, Some(&items), None);
    assert!(commands.len() == 1 && commands[0].contains("category_separator=;"), "{commands:?}");
    let lines = text("{\"item_id\":\"i\",\"description\":[\"A\",\"B\"],\"price\":\"$1\"}\n");
    let (file, commands) = job(&log, Some(&lines), None);
    assert!(commands[0].contains("array_to_string(\"description\", "), "{}", commands[0]);
    assert!(file.contains("\nprice = \"\"\n"), "{file}");
    let stored = parquet(vec![("item_id", texts(&["i"])), ("categories", texts(&["a"])), ("year", texts(&["x"]))]);
    let (file, commands) = job(&log, Some(&stored), None);
    assert!(commands.is_empty() && file.contains("\ncategories = \"\"\n"), "{file}");
    assert!(!file.contains("\nrelease_year = \"\"\n"), "nothing is read under that name: {file}");
}

#[test]
fn days_written_as_dates_become_moments() {
    let log = text("{\"user\":1,\"item\":2,\"datum\":\"2026-01-20\"}\n");
    let (_, commands) = job(&log, None, None);
    assert!(commands[0].contains("CAST(\"datum\" AS TIMESTAMP) AS \"datum\""), "{}", commands[0]);
    let stored = parquet(vec![
        ("user", texts(&["a"])),
        ("item", texts(&["i"])),
        ("date", Arc::new(Date32Array::from(vec![20_000])) as ArrayRef),
    ]);
    let found = propose(&stored, None, None).unwrap();
    assert!(found.interaction.open[0].why.contains("CAST(date AS TIMESTAMP)"), "{:?}", found.interaction.open);
}

#[test]
fn the_last_day_is_that_of_the_files_and_lacks_are_told() {
    let mut log = parquet(vec![
        ("user_id", Arc::new(StringArray::from(vec![Some("a"), None])) as ArrayRef),
        ("item_id", texts(&["i", "j"])),
        ("timestamp", integers(&[1_768_867_200, 1_768_867_201])),
    ]);
    log.notes.push("1 file is not read".to_owned());
    log.greatest = vec![
        ("timestamp".to_owned(), integers(&[1_768_867_201, 1_769_040_000])),
        ("timestamp".to_owned(), integers(&[253_402_214_400])),
        ("user_id".to_owned(), integers(&[1_900_000_000])),
    ];
    let found = propose(&log, None, Some(&log)).unwrap();
    assert_eq!(found.last_day.unwrap().to_string(), "2026-01-22");
    let notes = &found.interaction.notes;
    assert!(notes[0].contains("not read") && notes[1].contains("user_id has no value in 1 of 2 rows"), "{notes:?}");
    assert!(found.review.unwrap().notes.iter().any(|note| note.contains("no column is read as text")));
}

#[test]
fn nested_columns_of_json_lines_are_flattened_or_not_read() {
    let log = parquet(vec![
        ("user_id", texts(&["a"])),
        ("item_id", texts(&["i"])),
        ("timestamp", integers(&[1_768_867_200])),
    ]);
    let items = text(
        "{\"item_id\":\"i\",\"categories\":[[\"A\",\"B\"],[\"C\"]],\"description\":{\"x\":1},\"people\":[{\"name\":\"N\"}]}\n\
         {\"item_id\":\"j\",\"categories\":null,\"brand\":[[\"A\"]]}\n",
    );
    let (file, commands) = job(&log, Some(&items), None);
    let wanted = "SELECT * REPLACE (flatten(\"categories\") AS \"categories\") FROM read_json(";
    assert!(commands[0].contains(wanted), "{}", commands[0]);
    for part in ["\ncategories = \"categories\"\n", "\ndescription = \"\"\n", "\npeople = \"\"\n", "\nbrand = \"\"\n"] {
        assert!(file.contains(part), "{part}: {file}");
    }
    let open = propose(&log, Some(&items), None).unwrap().item.unwrap().open;
    assert!(open[0].why.contains("it holds nested values") && open[0].is_left_out(), "{open:?}");
}

#[test]
fn the_separator_of_lists_is_told_by_their_texts() {
    let log = text("user_id,item_id,timestamp\n1,i,1768867200\n");
    let commands = |values: &[&str]| {
        let rows: String = values.iter().map(|value| format!("i\t{value}\n")).collect();
        let like = text("user_id\titem_id\ttimestamp\n1\ti\t1768867200\n");
        let items = text(&format!("item_id\tcategories\n{rows}"));
        let (file, converted) = job(&log, Some(&items), None);
        // Without the quotes of the shell.
        let plain = |command: &String| command.replace("'\\''", "'");
        let both: Vec<String> = job(&like, Some(&items), None).1.iter().map(plain).collect();
        (file, plain(&converted[1]), both)
    };
    // With a file of items in another form than the log's, and with one that the importer could read, too.
    for (values, between, imported) in [
        (&["Action, Drama", "War"][..], "', ')", None),
        (&["A > B > C", "A"][..], "' > ')", Some("category_separator=>")),
        (&["Action, Drama|War", "War"][..], "'|')", Some("--items")),
        (&["Action, Drama;War", "War"][..], "';')", Some("category_separator=;")),
        (&["Action", "War"][..], "'|')", Some("--items")),
        (&["Home, Garden", "a", "b", "c", "d", "e"][..], "'|')", Some("--items")),
    ] {
        let (_, converted, both) = commands(values);
        assert!(converted.contains(between), "{values:?}: {converted}");
        match imported {
            Some(part) => assert!(both.len() == 1 && both[0].contains(part), "{values:?}: {both:?}"),
            None => assert!(both.len() == 2 && both[1].contains(between), "{values:?}: {both:?}"),
        }
    }
    // The importer would split them at its own separator.
    let (file, converted, both) = commands(&["['Action', 'Drama']", "['War']"]);
    assert!(file.contains("\ncategories = \"\"\n") && file.contains("begin with `[`"), "{file}");
    assert!(!converted.contains("REPLACE") && both.len() == 2 && !both[0].contains("--items"), "{both:?}");
}

#[test]
fn moments_to_come_do_not_tell_the_day() {
    // 20 January 2026, 1 January 2035.
    let mut moments = vec![1_768_867_200; 200];
    moments.push(2_051_222_400);
    let of = |moments: &[i64], greatest: Vec<i64>| {
        let ids: Vec<&str> = moments.iter().map(|_| "a").collect();
        let mut log =
            parquet(vec![("user_id", texts(&ids)), ("item_id", texts(&ids)), ("timestamp", integers(moments))]);
        log.greatest = vec![("timestamp".to_owned(), integers(&greatest))];
        let found = propose(&log, None, None).unwrap();
        let note = found.interaction.notes.into_iter().find(|note| note.contains("after today"));
        (found.last_day.map(|day| day.to_string()), note.unwrap_or_default())
    };
    let (day, note) = of(&moments, vec![253_402_214_400]);
    assert!(day.as_deref() == Some("2026-01-20") && note.contains("up to 9999-12-31"), "{day:?} {note}");
    let (day, note) = of(&moments, Vec::new());
    assert!(day.as_deref() == Some("2026-01-20") && note.contains("up to 2035-01-01"), "{day:?} {note}");
    assert_eq!(of(&moments[..200], Vec::new()), (Some("2026-01-20".to_owned()), String::new()));
    let (day, note) = of(&moments[200..], Vec::new());
    assert!(day.is_none() && !note.is_empty(), "{day:?} {note}");
}
