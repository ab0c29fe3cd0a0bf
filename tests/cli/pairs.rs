//! Candidates of users and items: each gets a reason and a feature, nothing else changes for them, and they are forgotten,
//! planned and explained like all others.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, TimestampMillisecondArray};

use crate::common::{World, expect_code, january, stderr, stdout, summary, write};

/// Writes candidates: user, item, rank.
fn write_pairs(path: &Path, pairs: &[(&str, &str, Option<i32>)]) {
    let columns: [(&str, ArrayRef); 3] = [
        ("user_id", Arc::new(StringArray::from_iter_values(pairs.iter().map(|p| p.0)))),
        ("item_id", Arc::new(StringArray::from_iter_values(pairs.iter().map(|p| p.1)))),
        ("rank", Arc::new(pairs.iter().map(|p| p.2).collect::<Int32Array>())),
    ];
    write(path, &RecordBatch::try_from_iter(columns).unwrap());
}

/// A world with a short template for pairs, which shows what they have that items and histories have not.
fn world() -> World {
    let world = World::new();
    let pair = "=== user\n{{ subject }} {{ related | join(', ') }} {{ praise | join }}\n=== assistant\nFor {{ liked[:1] | join }}\n";
    std::fs::write(world.path("pair.j2"), pair).unwrap();
    world
}

/// The settings that name the candidates.
fn named(world: &World, pairs: &str) -> Vec<String> {
    ["--set".into(), format!("input.pair={}", world.path(pairs).display())]
        .into_iter()
        .chain(["--set".into(), format!("prompt.pair={}", world.path("pair.j2").display())])
        .collect()
}

fn run(world: &World, settings: &[String], more: &[&str]) -> Output {
    let settings: Vec<&str> = settings.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let out = world.run(&settings);
    expect_code(&out, 0);
    out
}

fn plan(world: &World, settings: &[String]) -> String {
    let mut args = vec!["plan", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
    args.extend(settings.iter().map(String::as_str));
    let out = world.curec(&args);
    expect_code(&out, 0);
    stdout(&out)
}

/// The pairs of a table, each as `user item`.
fn pairs_of(world: &World, table: &str, condition: &str) -> Vec<String> {
    let query = format!("select concat(user_id, ' ', item_id) as pair from {table} where {condition} order by 1");
    world.sql(&query).iter().map(|row| row["pair"].as_str().unwrap().to_owned()).collect()
}

fn number(world: &World, query: &str) -> i64 {
    world.sql(query)[0]["n"].as_i64().unwrap()
}

const ASKED: [&str; 3] = ["u00 i02", "u00 i04", "u01 i03"];

/// u00 has three candidates of which two count; one stands twice, one user and one item are known to nobody.
fn write_candidates(world: &World) {
    write_pairs(
        &world.path("pair.parquet"),
        &[
            ("u00", "i04", Some(2)),
            ("u00", "i02", Some(1)),
            ("u00", "i00", Some(3)),
            ("u00", "i02", Some(4)),
            ("u01", "i03", None),
            ("u01", "gone", None),
            ("nobody", "i00", Some(1)),
        ],
    );
}

#[test]
fn candidates_get_reasons_and_features() {
    let world = world();
    write_candidates(&world);
    let mut settings = named(&world, "pair.parquet");
    settings.extend(["--set".into(), "pairs.max_per_user=2".into()]);
    let prompts = |plan: &str| {
        let line = plan.lines().find(|line| line.contains("  prompts ")).unwrap_or_else(|| panic!("{plan}"));
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(prompts(&plan(&world, &settings)), prompts(&plan(&world, &[])) + 3);

    let line = summary(&run(&world, &settings, &[]));
    assert_eq!(line["rows"]["pair_feature"], 3, "{line}");
    assert_eq!(line["reasons"], 18 + 24 + 3, "{line}");
    for table in ["reason_prompt", "reason", "reason_score"] {
        assert_eq!(pairs_of(&world, table, "kind = 'pair'"), ASKED, "{table}");
    }
    assert_eq!(pairs_of(&world, "pair_feature", "true"), ASKED);
    let shown = world.sql(
        "select subject, verdict, cardinality(liked) as n, array_to_string(related, '; ') as related, prompt_text \
         from reason_prompt where kind = 'pair' and item_id = 'i02'",
    );
    assert_eq!((&shown[0]["subject"], &shown[0]["verdict"]), (&"Film Number 2 (1972)".into(), &"like".into()));
    assert_eq!(shown[0]["n"], 4, "{shown:?}");
    let (prompt, related) = (shown[0]["prompt_text"].as_str().unwrap(), shown[0]["related"].as_str().unwrap());
    assert!(!related.is_empty() && related.split("; ").all(|title| prompt.contains(title)), "{shown:?}");
    // Accepted reasons are what the features are of, refused ones leave the evidence.
    assert_eq!(
        number(
            &world,
            "select count(*) as n from pair_feature as f join reason_score as s \
             on s.kind = 'pair' and s.user_id = f.user_id and s.item_id = f.item_id \
             where (f.source = 'reason') = s.accepted and not f.missing and array_length(f.embedding) = 32"
        ),
        3
    );
    assert!(plan(&world, &settings).contains("nothing to do"));
    // Of both, it stands beside the evidence.
    run(&world, &settings, &["--set", "feature.vector_of=both"]);
    assert_eq!(
        number(
            &world,
            "select count(*) as n from pair_feature as f join reason_score as s \
             on s.kind = 'pair' and s.user_id = f.user_id and s.item_id = f.item_id \
             where (f.source = 'both') = s.accepted and (f.n_reasons = 1) = s.accepted and not f.missing"
        ),
        3
    );
    let report = std::fs::read_to_string(line["report"].as_str().unwrap()).unwrap();
    assert!(report.contains("pair u00 and i02"), "the report shows no pair");

    // Another limit changes the pairs, and what is asked already is not paid for again.
    let line = summary(&run(&world, &settings, &["--set", "pairs.max=2"]));
    assert_eq!(pairs_of(&world, "pair_feature", "true"), ["u00 i02", "u01 i03"]);
    assert_eq!(line["generated"], 0, "{line}");
}

#[test]
fn without_candidates_nothing_is_asked_and_with_them_nothing_else_changes() {
    let world = world();
    let everything: Vec<String> = (0..18).map(|i| format!("i{i:02}")).collect();
    let pairs: Vec<(&str, &str, Option<i32>)> = everything.iter().map(|item| ("u00", item.as_str(), None)).collect();
    write_pairs(&world.path("pair.parquet"), &pairs);
    // Few items are active tonight.
    let few = ["--set", "history.item_active_days=1"];
    run(&world, &[], &few);
    assert_eq!(number(&world, "select count(*) as n from reason_prompt where kind = 'pair'"), 0);
    assert!(!world.path("warehouse/pair_feature").exists());
    assert!(!plan(&world, &[]).contains("pair_feature"), "{}", plan(&world, &[]));
    // Rows, since the footer of a file tells what was read as well.
    let others = |world: &World| {
        [
            "select * from user_history order by user_id",
            "select * from item_audience order by item_id",
            "select * from item_feature order by item_id",
            "select * from user_feature order by user_id",
        ]
        .map(|query| world.sql(query))
    };
    let before = others(&world);
    assert!(before.iter().all(|rows| !rows.is_empty()), "{before:?}");

    let more = [&few[..], &["--set", "pairs.max_per_user=0"]].concat();
    run(&world, &named(&world, "pair.parquet"), &more);
    assert_eq!(number(&world, "select count(*) as n from pair_feature"), 18);
    assert_eq!(others(&world), before, "rows of items and users changed");
    // An item that nobody asks about tonight is described like any other.
    let idle = "kind = 'pair' and item_id not in (select item_id from item_audience)";
    let asked = number(&world, &format!("select count(*) as n from reason_prompt where {idle}"));
    let full = format!(
        "select count(*) as n from reason_prompt where {idle} and subject is not null and cardinality(attributes) > 0"
    );
    let related = format!("select count(*) as n from reason_prompt where {idle} and cardinality(related) > 0");
    assert!(asked > 0 && number(&world, &full) > 0 && number(&world, &related) > 0, "{asked} idle candidates");
}

#[test]
fn a_night_has_the_candidates_of_its_day() {
    let world = world();
    write_pairs(&world.path("pairs/dt=2026-01-19/a.parquet"), &[("u00", "i01", None)]);
    write_pairs(&world.path("pairs/dt=2026-01-20/a.parquet"), &[("u00", "i02", None)]);
    write_pairs(&world.path("pairs/dt=2026-01-21/a.parquet"), &[("u00", "i03", None)]);
    run(&world, &named(&world, "pairs"), &[]);
    assert_eq!(pairs_of(&world, "pair_feature", "true"), ["u00 i02"]);
    // Other nights' make this one look no different.
    write_pairs(&world.path("pairs/dt=2026-01-21/b.parquet"), &[("u00", "i04", None)]);
    assert!(plan(&world, &named(&world, "pairs")).contains("nothing to do"));
    write_pairs(&world.path("pairs/dt=2026-01-20/b.parquet"), &[("u00", "i04", None)]);
    run(&world, &named(&world, "pairs"), &[]);
    assert_eq!(pairs_of(&world, "pair_feature", "true"), ["u00 i02", "u00 i04"]);
    // One that is not there yet is waited for.
    std::fs::create_dir_all(world.path("late")).unwrap();
    let out = world.run(&["--set", &format!("input.pair={}", world.path("late").display())]);
    expect_code(&out, 75);
    // One without ids is refused.
    let columns: [(&str, ArrayRef); 1] = [("user_id", Arc::new(StringArray::from_iter_values(["u00"])))];
    write(&world.path("wrong.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
    let out = world.run(&["--set", &format!("input.pair={}", world.path("wrong.parquet").display())]);
    expect_code(&out, 1);
    assert!(stderr(&out).contains("item_id"), "{}", stderr(&out));
}

#[test]
fn an_aligned_models_answer_is_read_without_its_verdict() {
    let world = world();
    write_candidates(&world);
    let mut settings = named(&world, "pair.parquet");
    settings.extend(["--set".into(), "prompt.pair=aligned-pair".into()]);
    run(&world, &settings, &[]);
    // This model has not been taught the format.
    assert_eq!(pairs_of(&world, "reason", "kind = 'pair' and error = 'bad_format'").len(), 4);
    assert_eq!(pairs_of(&world, "pair_feature", "source = 'evidence'").len(), 4);
}

#[test]
fn a_pair_is_explained_and_its_user_and_item_as_before() {
    let world = world();
    write_candidates(&world);
    run(&world, &named(&world, "pair.parquet"), &[]);
    let explained = |ids: &[&str]| {
        let out = world.curec(&[&["explain", "job.toml"], ids].concat());
        expect_code(&out, 0);
        stdout(&out)
    };
    let pair = explained(&["--user-id", "u00", "--item-id", "i02"]);
    assert!(pair.starts_with("pair of user `u00` and item `i02`, Film Number 2 (1972); day 2026-01-20"), "{pair}");
    assert!(pair.contains("pair_feature"), "{pair}");
    for (ids, kind) in [(["--user-id", "u00"], "history"), (["--item-id", "i02"], "item")] {
        let text = explained(&[&ids[..], &["--json"]].concat());
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["kind"], &json["id"]), (&kind.into(), &ids[1].into()), "{text}");
    }
    let out = world.curec(&["explain", "job.toml", "--user-id", "u00", "--item-id", "i05"]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("no reason about the pair of user `u00` and item `i05`"), "{}", stderr(&out));
    assert!(stderr(&out).contains("the job names no candidates"), "{}", stderr(&out));
}

#[test]
fn forgetting_takes_a_users_pairs_and_those_that_show_the_users_sentences() {
    let world = world();
    write_pairs(
        &world.path("pair.parquet"),
        &[("u00", "i02", None), ("u00", "i03", None), ("u01", "i02", None), ("u01", "i04", None)],
    );
    // u00 is the only one who wrote: of i02, which is a candidate for u00 as well.
    let at = TimestampMillisecondArray::from(vec![january(13, 0)]).with_timezone("UTC");
    let text = |text: &str| Arc::new(StringArray::from_iter_values([text])) as ArrayRef;
    let columns: [(&str, ArrayRef); 4] = [
        ("user_id", text("u00")),
        ("item_id", text("i02")),
        ("event_timestamp", Arc::new(at)),
        ("text", text("Zanzibar harpoons rust in it.")),
    ];
    write(&world.path("review.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
    let mut settings = named(&world, "pair.parquet");
    settings.extend(["--set".into(), format!("input.review={}", world.path("review.parquet").display())]);
    run(&world, &settings, &[]);
    let told = "kind = 'pair' and array_has(tellers, 'u00') and array_to_string(praise, ' ') like '%Zanzibar%'";
    assert_eq!(pairs_of(&world, "reason_prompt", told), ["u00 i02", "u01 i02"]);
    let going = "kind = 'pair' and (user_id = 'u00' or item_id = 'i02')";
    let keys = format!(
        "select count(*) as n from response where prompt_key in (select prompt_key from reason_prompt where {going}) \
         and prompt_key not in (select prompt_key from reason_prompt where not ({going}))"
    );
    let gone = number(&world, &keys);
    assert!(gone > 0);
    let answers = number(&world, "select count(*) as n from response");

    let mut args = vec!["forget", "job.toml", "--user-id", "u00"];
    args.extend(settings.iter().map(String::as_str));
    let dry = world.curec(&[&args[..], &["--dry-run"]].concat());
    expect_code(&dry, 0);
    assert!(stdout(&dry).contains("pair_feature    3 row(s) in 1 partition(s)"), "{}", stdout(&dry));
    let out = world.curec(&args);
    expect_code(&out, 0);
    assert!(stderr(&out).contains("the input pair still holds 2 row(s)"), "{}", stderr(&out));
    for table in ["reason_prompt", "reason", "reason_score"] {
        assert_eq!(pairs_of(&world, table, "kind = 'pair'"), ["u01 i04"], "{table}");
    }
    assert_eq!(pairs_of(&world, "pair_feature", "true"), ["u01 i04"]);
    assert!(number(&world, "select count(*) as n from response") <= answers - gone);
    for entry in std::fs::read_dir(world.path("warehouse/_runs")).unwrap().map(|e| e.unwrap().path()) {
        for name in ["report.json", "report.html"] {
            let text = std::fs::read_to_string(entry.join(name)).unwrap_or_default();
            assert!(!text.contains("Zanzibar"), "{} shows the sentence", entry.display());
        }
    }
    assert!(plan(&world, &settings).contains("nothing to do"));
}
