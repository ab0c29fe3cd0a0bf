//! `[input.columns]`, `[input] timestamp_unit` and `[events]` with the real binary: a night over a log in its owner's columns is
//! the night over the same log in ours, and events mean what the job says they mean.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMillisecondArray,
};
use serde_json::Value;

use crate::common::{
    Event, World, events, expect_code, items, january, stderr, summary, write, write_events, write_items,
};

/// Where a world has its two inputs.
const LOG: &str = "input/interaction.parquet";
const CATALOGUE: &str = "input/item.parquet";

/// The number in an id of a test log.
fn number(id: &str) -> i64 {
    id[1..].parse().unwrap()
}

/// The test log with whole numbers for ids and whole seconds.
fn numbered() -> Vec<Event> {
    let event = |e: Event| Event {
        user: number(&e.user).to_string(),
        item: number(&e.item).to_string(),
        rating: e.rating,
        at: e.at.map(|ms| ms / 1000 * 1000),
    };
    events().into_iter().map(event).collect()
}

/// A world with [`numbered`] in our columns.
fn ours() -> World {
    let world = World::new();
    write_events(&world.path(LOG), &numbered());
    let items: Vec<_> = items().into_iter().map(|(id, title)| (number(&id).to_string(), title)).collect();
    write_items(&world.path(CATALOGUE), &items);
    world
}

const COLUMNS: &str = "[input.columns.interaction]\nuser_id = \"uid\"\nitem_id = \"sku\"\nevent = \"what\"\nrating = \"stars\"\n\
                       event_timestamp = \"ts\"\n[input.columns.item]\nitem_id = \"sku\"\ntitle = \"name\"\ncategories = \"tags\"\n";

/// A world with [`numbered`] in other columns and types, and a column of ours that means something else.
fn theirs() -> World {
    let world = World::new();
    let log = numbered();
    let columns: [(&str, ArrayRef); 6] = [
        ("uid", Arc::new(log.iter().map(|e| e.user.parse::<i64>().ok()).collect::<Int64Array>())),
        ("sku", Arc::new(log.iter().map(|e| e.item.parse::<i32>().ok()).collect::<Int32Array>())),
        ("what", Arc::new(log.iter().map(|_| Some("rating")).collect::<StringArray>())),
        ("stars", Arc::new(log.iter().map(|e| e.rating.map(f64::from)).collect::<Float64Array>())),
        ("ts", Arc::new(log.iter().map(|e| e.at.map(|ms| ms / 1000)).collect::<Int64Array>())),
        ("user_id", Arc::new(log.iter().map(|_| Some("nobody")).collect::<StringArray>())),
    ];
    write(&world.path(LOG), &RecordBatch::try_from_iter_with_nullable(columns.map(|(n, a)| (n, a, true))).unwrap());
    let all = items();
    let mut tags = ListBuilder::new(StringBuilder::new());
    for i in 0..all.len() {
        tags.values().append_value(if i % 2 == 0 { "Crime" } else { "Comedy" });
        tags.append(true);
    }
    let columns: [(&str, ArrayRef); 3] = [
        ("sku", Arc::new(all.iter().map(|(id, _)| i32::try_from(number(id)).ok()).collect::<Int32Array>())),
        ("name", Arc::new(all.iter().map(|(_, title)| title.clone()).collect::<StringArray>())),
        ("tags", Arc::new(tags.finish())),
    ];
    write(
        &world.path(CATALOGUE),
        &RecordBatch::try_from_iter_with_nullable(columns.map(|(n, a)| (n, a, true))).unwrap(),
    );
    world.write_job(COLUMNS);
    let job = std::fs::read_to_string(world.path("job.toml")).unwrap();
    std::fs::write(world.path("job.toml"), job.replace("[input]\n", "[input]\ntimestamp_unit = \"s\"\n")).unwrap();
    world
}

#[test]
fn a_night_over_foreign_columns_is_the_night_over_ours() {
    let (ours, theirs) = (ours(), theirs());
    expect_code(&ours.run(&[]), 0);
    expect_code(&theirs.run(&[]), 0);
    for (table, key) in [
        ("interaction", "user_id, item_id, event_timestamp"),
        ("item", "item_id"),
        ("user_history", "user_id"),
        ("item_audience", "item_id"),
        ("item_feature", "item_id"),
        ("user_feature", "user_id"),
    ] {
        let query = format!("select * from {table} order by {key}");
        let (found, wanted) = (theirs.sql(&query), ours.sql(&query));
        assert!(!wanted.is_empty(), "{table}");
        assert_eq!(found, wanted, "{table}");
    }
    assert_eq!(summary(&theirs.run(&[]))["status"], "nothing_to_do");

    // Whoever else reads the log reads it so, too.
    let export = theirs.curec(&["export", "job.toml", "--out", "out"]);
    expect_code(&export, 0);
    assert_eq!(summary(&export)["rows"], numbered().len());
    let explained = theirs.curec(&["explain", "job.toml", "--user-id", "99"]);
    assert!(stderr(&explained).contains("the log has no event of"), "{}", stderr(&explained));
    let forgotten = theirs.curec(&["forget", "job.toml", "--user-id", "3"]);
    expect_code(&forgotten, 0);
    assert!(stderr(&forgotten).contains("interaction still holds 12 row(s)"), "{}", stderr(&forgotten));
}

#[test]
fn what_the_files_and_the_contract_lack_is_named() {
    let world = World::new();
    for (column, carried) in [("user_id", "uid"), ("rating", "stars")] {
        let out = world.run(&["--set", &format!("input.columns.interaction.{column}={carried}")]);
        expect_code(&out, 1);
        let key = format!("input.columns.interaction.{column}");
        for part in [carried, &key, "interaction.parquet", "user_id, item_id, event, rating, timestamp"] {
            assert!(stderr(&out).contains(part), "{part:?} is not in: {}", stderr(&out));
        }
    }
    let out = world.run(&["--set", "input.columns.interaction.user=uid"]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("the contract of interaction has no column user"), "{}", stderr(&out));
    assert!(world.published().is_empty());
    // A number does not say its unit.
    let theirs = theirs();
    let out = theirs.run(&["--set", "input.timestamp_unit="]);
    expect_code(&out, 1);
    assert!(stderr(&out).contains("timestamp_unit"), "{}", stderr(&out));
    // Our own name for a column is none of another.
    expect_code(&world.run(&[]), 0);
    let same = world.run(&["--set", "input.columns.interaction.user_id=user_id", "--set", "events.meaning.click=like"]);
    assert_eq!(summary(&same)["status"], "nothing_to_do");
}

/// What happened, without ratings: user, item, event, milliseconds.
type Happened = (String, String, &'static str, i64);

/// The test log without ratings: what was rated well was bought, the rest returned.
fn bought() -> Vec<Happened> {
    let happened = |e: Event| {
        let what = if e.rating == Some(5.0) { "purchase" } else { "return" };
        (e.user, e.item, what, e.at.unwrap())
    };
    events().into_iter().map(happened).collect()
}

fn write_happened(world: &World, log: &[Happened]) {
    let at: TimestampMillisecondArray = log.iter().map(|e| Some(e.3)).collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("user_id", Arc::new(log.iter().map(|e| Some(e.0.as_str())).collect::<StringArray>())),
        ("item_id", Arc::new(log.iter().map(|e| Some(e.1.as_str())).collect::<StringArray>())),
        ("event", Arc::new(log.iter().map(|e| Some(e.2)).collect::<StringArray>())),
        ("timestamp", Arc::new(at.with_timezone("UTC"))),
    ];
    write(&world.path(LOG), &RecordBatch::try_from_iter(columns).unwrap());
}

const EVENTS: &str = "[events]\nother = \"drop\"\n\
                      [events.meaning]\npurchase = \"like\"\nreturn = \"dislike\"\nview = \"none\"\n";

/// What users and items are, but for ratings.
fn tastes(world: &World) -> [Vec<Value>; 2] {
    let user = "user_id, n_events, n_likes, n_dislikes, liked_titles, disliked_titles, top_categories";
    let item = "item_id, n_events, n_users, n_likes, n_dislikes, co_consumed, liker_also, disliker_prefers";
    [
        world.sql(&format!("select {user} from user_history order by user_id")),
        world.sql(&format!("select {item} from item_audience order by item_id")),
    ]
}

/// What the history of u00 says of an item.
fn seen(world: &World, item: &str) -> Vec<Value> {
    world.sql(&format!(
        "select seen['liked'] as liked from (select unnest(recent) as seen from user_history where user_id = 'u00') \
         where seen['item_id'] = '{item}'"
    ))
}

#[test]
fn events_mean_what_the_job_says() {
    let rated = World::new();
    expect_code(&rated.run(&[]), 0);

    // Likes, dislikes, and what is not read: without a key as without any value, and twice the same.
    let world = World::new();
    let mut log = bought();
    log.extend([1, 1, 2].map(|hour| ("u00".to_owned(), "i01".to_owned(), "bot", january(18, hour))));
    write_happened(&world, &log);
    world.write_job(EVENTS);
    expect_code(&world.run(&[]), 0);
    assert_eq!(tastes(&world), tastes(&rated));
    assert_eq!(world.sql("select count(*) as n from interaction")[0]["n"], bought().len());
    assert_eq!(world.sql("select count(*) as n from interaction where event = 'bot'")[0]["n"], 0);
    let told = world.sql("select event_liked('purchase') as a, event_liked('return') as b, event_liked('view') as c");
    assert_eq!((&told[0]["a"], &told[0]["b"]), (&Value::Bool(true), &Value::Bool(false)));
    assert!(told[0].get("c").is_none_or(Value::is_null), "{}", told[0]);

    // What says nothing is in the history, and is no like and no dislike; it takes nothing from what says something.
    let before = tastes(&world);
    log.push(("u00".to_owned(), "i01".to_owned(), "view", january(19, 1)));
    log.push(("u00".to_owned(), "i00".to_owned(), "view", january(19, 2)));
    write_happened(&world, &log);
    expect_code(&world.run(&[]), 0);
    let [users, _] = tastes(&world);
    let (mut had, has) = (before[0][0].clone(), users[0].clone());
    assert_eq!(has["user_id"], "u00");
    had["n_events"] = (had["n_events"].as_u64().unwrap() + 2).into();
    for key in ["n_events", "n_likes", "n_dislikes"] {
        assert_eq!(has[key], had[key], "{key}");
    }
    let liked = seen(&world, "i01");
    assert_eq!(liked.len(), 1);
    assert!(liked[0].get("liked").is_none_or(Value::is_null), "{}", liked[0]);
    assert_eq!(seen(&world, "i00")[0]["liked"], true);

    // Another meaning is another night.
    assert_eq!(summary(&world.run(&[]))["status"], "nothing_to_do");
    assert_eq!(summary(&world.run(&["--set", "events.meaning.view=dislike"]))["status"], "published");
    assert_eq!(seen(&world, "i01")[0]["liked"], false);
    assert_eq!(seen(&world, "i00")[0]["liked"], false, "the latest event that says anything counts");
    let out = world.run(&["--set", "events.meaning.view=hate"]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("must be like, dislike, none or drop, got `hate`"), "{}", stderr(&out));
}

#[test]
fn a_rating_says_it_better_than_its_event() {
    let (plain, world) = (World::new(), World::new());
    world.write_job("[events]\nother = \"dislike\"\n");
    expect_code(&plain.run(&[]), 0);
    expect_code(&world.run(&[]), 0);
    assert_eq!(tastes(&world), tastes(&plain));
}

#[test]
fn what_a_rating_means_is_told_by_the_user_s_own_ratings() {
    // Seconds watched: u0 watches little, u1 ten times as long, and u2 once for a second.
    let world = World::new();
    let watched = |user: &str, item: i64, seconds: f32| Event {
        user: user.to_owned(),
        item: format!("i{item:02}"),
        rating: Some(seconds),
        at: Some(january(20, item)),
    };
    let mut log: Vec<Event> = Vec::new();
    for item in 0..6i64 {
        log.push(watched("u0", item, (item + 1) as f32 * 10.0));
        log.push(watched("u1", item, (item + 1) as f32 * 100.0));
    }
    log.push(watched("u2", 0, 1.0));
    // What comes at the interval's end is not known yet.
    log.push(Event { at: Some(january(21, 0)), ..watched("u0", 6, 9000.0) });
    write_events(&world.path(LOG), &log);
    let likes = |settings: &[&str]| -> Vec<String> {
        // Of a user who dislikes the one thing that they have met there is nothing to ask.
        let all = settings.iter().chain(&["budget.max_failed_fraction=1.0"]);
        let settings: Vec<&str> = all.flat_map(|setting| ["--set", *setting]).collect();
        expect_code(&world.run(&settings), 0);
        let rows = world.sql("select user_id, n_likes, n_dislikes from user_history order by user_id");
        rows.iter()
            .map(|row| format!("{} {} {}", row["user_id"].as_str().unwrap(), row["n_likes"], row["n_dislikes"]))
            .collect()
    };
    assert_eq!(likes(&[]), ["u0 6 0", "u1 6 0", "u2 0 1"]);
    // From the fourth of six on.
    assert_eq!(likes(&["events.like_quantile=0.5"]), ["u0 3 3", "u1 3 3", "u2 0 1"]);
    assert_eq!(likes(&["events.like_quantile=0.5", "events.like_values=1"]), ["u0 3 3", "u1 3 3", "u2 1 0"]);
    let liked = world.sql(
        "select seen['item_id'] as item from (select unnest(recent) as seen from user_history where user_id = 'u1') \
         where seen['liked'] order by 1",
    );
    let liked: Vec<&str> = liked.iter().map(|row| row["item"].as_str().unwrap()).collect();
    assert_eq!(liked, ["i03", "i04", "i05"]);
    let out = world.run(&["--set", "events.like_quantile=1"]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("events.like_quantile: must be between 0 and 0.99"), "{}", stderr(&out));
}
