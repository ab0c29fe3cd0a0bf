#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::job::Job;
use crate::config::job::tests::{GOOD, parse};
use crate::error::Kind;

#[test]
fn what_is_read_from_this_machine_only_says_so() {
    let text = format!("{GOOD}cache_dir = 's3://b/c'\n[project]\nsql = 's3://k:hunter2@b/sql'\n");
    let told = parse(&text, &["prompt.item=s3://b/i.j2"], &[]).unwrap_err().explain();
    for key in ["model.cache_dir: must be a path", "job.toml:10: project.sql: must be a path", "prompt.item: must"] {
        assert!(told.contains(key), "{told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn labels_of_attributes_keep_their_order_and_are_held_against_their_rules() {
    let file = format!("{GOOD}[evidence]\nattributes = {{ directors = 'Director', 'a b' = 'With', age = 'Rated' }}\n");
    let pairs = |job: &Job| job.spec.evidence.attributes.0.clone();
    let pair = |column: &str, label: &str| (column.to_owned(), label.to_owned());
    let job =
        parse(&file, &["evidence.attributes.price=Costs"], &[("CUREC_EVIDENCE__ATTRIBUTES__AGE", "For")]).unwrap();
    let found = [pair("directors", "Director"), pair("a b", "With"), pair("age", "For"), pair("price", "Costs")];
    assert_eq!(pairs(&job), found);
    assert_eq!(job.settings["evidence.attributes.directors"], "Director");
    let printed = job.resolved.print(&str::to_owned);
    for line in ["[evidence.attributes]\n", "\"a b\" = \"With\"  # line 9\n", "price = \"Costs\"  # --set\n"] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    assert_eq!(pairs(&parse(&printed, &[], &[]).unwrap()), found);
    assert!(parse(GOOD, &[], &[]).unwrap().resolved.print(&str::to_owned).contains("attributes = {}  # default\n"));

    let wrong = format!("{GOOD}[evidence.attributes]\na = 1\n");
    let told = parse(&wrong, &[], &[]).unwrap_err().explain();
    assert!(told.contains("job.toml:9: evidence.attributes.a: must be a string, got integer"), "{told}");
    let long = "x".repeat(31);
    for label in ["", " ", "two\\nlines", &long] {
        let told = parse(&format!("{GOOD}[evidence.attributes]\na = \"{label}\"\n"), &[], &[]).unwrap_err().explain();
        assert!(told.contains("job.toml:9: evidence.attributes.a: must be a label"), "{told}");
    }
    assert!(parse(&format!("{GOOD}[evidence.attributes]\na = '{}'\n", &long[1..]), &[], &[]).is_ok());
    assert!(parse(&format!("{GOOD}[evidence.attributes]\nattributes = 'A'\n"), &[], &[]).is_err());
}

#[test]
fn what_a_crawl_left_undated_is_refused_unless_the_job_says_otherwise() {
    let file = format!("{GOOD}[evidence]\nattributes = {{ brand = 'By', Sales_Rank = 'Rank' }}\n");
    let refused = parse(&file, &[], &[]).unwrap_err();
    let told = refused.explain();
    assert_eq!(refused.kind(), Kind::Config);
    assert!(
        told.contains("job.toml:9: evidence.attributes.Sales_Rank: looks like") && !told.contains("attributes.brand"),
        "{told}"
    );
    let allowed = parse(&file, &["evidence.undated=true"], &[]).unwrap();
    assert_eq!(allowed.spec.evidence.undated_columns().collect::<Vec<_>>(), ["Sales_Rank"]);
}

#[test]
fn caps_are_held_against_their_rules() {
    let told = |overrides: &[&str]| parse(GOOD, overrides, &[]).unwrap_err().explain();
    assert!(told(&["budget.on_reached=later"]).contains("budget.on_reached: must be publish or stop, got `later`"));
    assert!(told(&["budget.max_minutes=-1"]).contains("budget.max_minutes: must be between 0"));
    assert!(told(&["budget.max_cost=1"]).contains("budget.max_cost: needs a price in [price]"));
    let job = parse(GOOD, &["budget.max_cost=1", "price.completion_tokens_million=2"], &[]).unwrap();
    assert_eq!((job.spec.budget.max_cost, job.spec.budget.on_reached.as_str()), (1.0, "publish"));
}

#[test]
fn columns_and_events_are_named_in_every_layer_and_held_against_their_rules() {
    let file = format!(
        "{GOOD}[input.columns.interaction]\nuser_id = 'uid'\nrating = 'Stars '\n[events]\nother = 'none'\n\
         meaning = {{ 'add to cart' = 'like', bot = 'drop' }}\n"
    );
    let env = [("CUREC_INPUT__COLUMNS__ITEM__ITEM_ID", "sku"), ("CUREC_INPUT__TIMESTAMP_UNIT", "ms")];
    let set = ["input.columns.interaction.user_id=who", "events.meaning.view.page=dislike"];
    let job = parse(&file, &set, &env).unwrap();
    let pair = |column: &str, carried: &str| (column.to_owned(), carried.to_owned());
    let columns = &job.spec.input.columns;
    assert_eq!(columns.of("interaction"), [pair("user_id", "who"), pair("rating", "Stars ")]);
    assert_eq!((columns.of("item"), columns.of("review")), (&[pair("item_id", "sku")][..], &[][..]));
    assert_eq!(job.spec.input.timestamp_unit, "ms");
    let meanings = job.spec.events.meanings();
    let of = |event: &str| meanings.of(Some(event)).name();
    assert_eq!(["add to cart", "bot", "view.page", "rating"].map(of), ["like", "drop", "dislike", "none"]);
    assert_eq!(job.settings["input.columns.interaction.user_id"], "who");

    let printed = job.resolved.print(&str::to_owned);
    for line in
        ["[input.columns.interaction]\nuser_id = \"who\"  # --set\n", "[input.columns.item]\n", "review = {}  #"]
    {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    let again = parse(&printed, &[], &[]).unwrap();
    assert_eq!(again.spec.events.meanings(), meanings);
    assert_eq!(again.spec.input.columns.of("interaction"), columns.of("interaction"));
    let nothing = parse(GOOD, &[], &[]).unwrap();
    assert!(nothing.spec.events.meanings().is_default() && nothing.spec.input.columns.of("interaction").is_empty());

    let unread = parse(GOOD, &["input.columns.item.title="], &[]).unwrap();
    assert_eq!(unread.spec.input.columns.of("item"), [pair("title", "")], "a column that is not read");

    for (set, told) in [
        ("input.columns.offer.title=name", "unknown key `input.columns.offer.title`"),
        ("input.timestamp_unit=min", "input.timestamp_unit: must be empty, s, ms, us or ns, got `min`"),
        ("events.other=maybe", "events.other: must be like, dislike, none or drop, got `maybe`"),
        ("events.meaning.click=Like", "events.meaning.click: must be like, dislike, none or drop, got `Like`"),
    ] {
        let error = parse(GOOD, &[set], &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.explain().contains(told), "{told}: {}", error.explain());
    }
}

#[test]
fn what_a_vector_is_of_is_one_of_three() {
    let of = |set: &[&str]| parse(GOOD, set, &[]).map(|job| job.spec.feature.vector_of);
    assert_eq!(of(&[]).unwrap(), "both");
    for known in ["reason", "evidence", "both"] {
        assert_eq!(of(&[format!("feature.vector_of={known}").as_str()]).unwrap(), known);
    }
    let error = parse(&format!("{GOOD}[feature]\nvector_of = 'reasons'\n"), &[], &[]).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    let told = "job.toml:9: feature.vector_of: must be reason, evidence or both, got `reasons`";
    assert!(error.explain().contains(told), "{}", error.explain());
}

#[test]
fn sizes_have_units() {
    assert_eq!(parse_bytes("2 GiB"), Some(2 << 30));
    assert_eq!(parse_bytes("512MB"), Some(512_000_000));
    assert_eq!(parse_bytes("lots"), None);
}

#[test]
fn an_endpoint_is_told_only_what_a_server_can_follow() {
    let file = GOOD.replace("'g'", "'https://host/v1'");
    let job = parse(&file, &["model.slots=2", "sampling.max_new_tokens=900"], &[]).unwrap();
    assert_eq!((job.spec.model.endpoint(), job.spec.model.continues_stem()), (Some("https://host/v1"), false));
    assert!(parse(&file, &["sampling.repetition_penalty=1.0"], &[]).is_ok());
    for (setting, says) in [
        ("model.adapter=a", "cannot load an adapter into a server"),
        ("sampling.top_k=20", "endpoint_body"),
        ("prompt.fields=what", "must be empty with an endpoint"),
        ("sampling.repetition_penalty=1.2", "endpoint_body"),
        ("sampling.max_copied_words=5", "a server cannot be told"),
        ("correct.judge=j", "endpoint_stem"),
        ("model.endpoint_stem=both", "must be ask or continue"),
        ("model.endpoint_body=[1]", "one JSON object"),
        ("model.endpoint_body={\"messages\": []}", "must not set `messages`"),
        ("model.endpoint_at_once=0", "between 1 and"),
        ("model.tokenizer=s3://b/t", "must be a path on this machine"),
    ] {
        let error = parse(&file, &[setting], &[]).unwrap_err();
        let key = setting.split_once('=').unwrap().0;
        let told = error.explain();
        assert!(error.kind() == Kind::Config && told.contains(says), "{setting}: {told}");
        assert!(key == "correct.judge" || told.contains(&format!("{key}: ")), "{setting}: {told}");
    }
    // Of a model of this machine all of it is said.
    assert!(parse(GOOD, &["model.adapter=a", "sampling.top_k=20", "sampling.max_copied_words=5"], &[]).is_ok());
    assert!(parse(&file, &["correct.judge=j", "model.endpoint_stem=continue"], &[]).is_ok());
}

#[test]
fn items_are_one_table_or_dated_snapshots() {
    let told = parse(GOOD, &["input.item_snapshot=newest"], &[]).unwrap_err().explain();
    assert!(told.contains("input.item_snapshot: must be empty or latest, got `newest`"), "{told}");
    for value in ["", "latest"] {
        let job = parse(GOOD, &[&format!("input.item_snapshot={value}")], &[]).unwrap();
        assert_eq!(job.spec.input.item_snapshot, value);
    }
}
