//! A table of a job's own: three files in the job's folders, and the night plans, builds, publishes, answers queries about
//! and forgets it as it does curec's own.

use serde_json::Value;

use crate::common::{World, expect_code, stderr, stdout};

const CONTRACT: &str = "name = \"user_spread\"
version = \"1.0\"
description = \"How widely a user picks.\"
role = \"derived\"
grain = [\"user_id\"]
sorted_by = [\"user_id\"]
partition_by = \"dt\"

[build]
by = \"sql\"

[[column]]
name = \"user_id\"
type = \"utf8\"
nullable = false
description = \"The user.\"

[[column]]
name = \"n_items\"
type = \"int64\"
nullable = false
description = \"Different items.\"

[[column]]
name = \"n_reasons\"
type = \"int32\"
nullable = true
description = \"Reasons behind the user's feature.\"
";

const SQL: &str = "select cast(i.user_id as varchar) as user_id, count(distinct i.item_id) as n_items,
    max(f.n_reasons) as n_reasons
from interaction as i
join user_feature as f on f.user_id = i.user_id
where i.event_timestamp < $interval_end
group by i.user_id
";

/// A world whose job has folders of its own with these files.
fn world(files: &[(&str, &str)]) -> World {
    let world = World::new();
    for folder in ["sql", "schemas"] {
        std::fs::create_dir_all(world.path(folder)).unwrap();
    }
    for (name, text) in files {
        std::fs::write(world.path(name), text).unwrap();
    }
    let (sql, schemas) = (world.path("sql"), world.path("schemas"));
    world.write_job(&format!("[project]\nsql = {:?}\nschemas = {:?}\n", sql.display(), schemas.display()));
    world
}

/// What is wrong, the job's files, what is said.
type Case = (&'static str, Vec<(&'static str, String)>, &'static str);

fn plan(world: &World, more: &[&str]) -> Value {
    let mut args = vec!["plan", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21", "--json"];
    args.extend(more);
    let out = world.curec(&args);
    expect_code(&out, 0);
    serde_json::from_str(&stdout(&out)).unwrap()
}

/// Why a table is built; empty where it is not.
fn why(plan: &Value, table: &str) -> Vec<String> {
    let tables = plan["tables"].as_array().unwrap();
    let of = tables.iter().find(|t| t["table"] == table).unwrap_or_else(|| panic!("{table} is not planned: {plan}"));
    of["why"].as_array().unwrap().iter().map(|why| why.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_table_of_a_job_s_own_is_planned_built_published_queried_and_forgotten() {
    let world = world(&[("schemas/user_spread.toml", CONTRACT), ("sql/user_spread.sql", SQL)]);
    assert_eq!(why(&plan(&world, &[]), "user_spread"), ["missing"]);
    expect_code(&world.run(&[]), 0);
    let rows = world.sql(
        "select u.user_id, u.n_items, u.n_reasons, f.n_reasons as known from user_spread as u \
                          join user_feature as f on f.user_id = u.user_id and f.dt = u.dt order by 1",
    );
    assert!(!rows.is_empty());
    assert!(
        rows.iter().all(|row| row["n_items"].as_i64().unwrap() > 0 && row["n_reasons"] == row["known"]),
        "{rows:?}"
    );
    let published = world.path("warehouse/user_spread/dt=2026-01-20");
    assert!(published.join("_commit.json").exists());

    // It stands until something that it reads changes.
    assert!(why(&plan(&world, &[]), "user_spread").is_empty());
    let changed = plan(&world, &["--set", "history.events=3"]);
    let because = why(&changed, "user_spread");
    assert!(because.contains(&"table user_feature changed".to_owned()), "{because:?}");
    assert!(!why(&changed, "user_history").is_empty());
    let other_sql = SQL.replace("max(f.n_reasons)", "min(f.n_reasons)");
    std::fs::write(world.path("sql/user_spread.sql"), &other_sql).unwrap();
    let changed = plan(&world, &[]);
    assert_eq!(why(&changed, "user_spread"), ["sql changed"]);
    assert!(why(&changed, "user_feature").is_empty(), "nothing before it is built again");
    expect_code(&world.run(&[]), 0);
    assert!(why(&plan(&world, &[]), "user_spread").is_empty());

    let user = rows[0]["user_id"].as_str().unwrap().to_owned();
    expect_code(&world.curec(&["forget", "job.toml", "--user-id", &user]), 0);
    let left = world.sql("select user_id from user_spread order by 1");
    assert_eq!(left.len(), rows.len() - 1);
    assert!(left.iter().all(|row| row["user_id"] != user.as_str()));

    // A job that does not know the table cannot tell whose rows stand in it.
    world.write_job("");
    let other = rows[1]["user_id"].as_str().unwrap();
    let out = world.curec(&["forget", "job.toml", "--user-id", other]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("user_spread"), "{}", stderr(&out));
}

#[test]
fn a_definition_that_is_replaced_depends_on_what_it_reads_now() {
    let world = world(&[]);
    expect_code(&world.run(&[]), 0);
    let feature = include_str!("../../sql/item_feature.sql");
    // Items that nobody has in a history get no feature: the table leans on user_history now.
    let narrower = feature.replace(
        "left join found as f on f.item_id = t.item_id",
        "left join found as f on f.item_id = t.item_id\nleft semi join (select count(*) as n from user_history) as u on u.n > 0",
    );
    assert_ne!(feature, narrower);
    std::fs::write(world.path("sql/item_feature.sql"), narrower).unwrap();
    let changed = plan(&world, &[]);
    assert_eq!(why(&changed, "item_feature"), ["sql changed", "table user_history changed"]);
    assert!(why(&changed, "user_feature").is_empty());
}

#[test]
fn what_a_job_cannot_bring_is_refused_with_what_to_do() {
    let contract = |build: &str| CONTRACT.replace("[build]\nby = \"sql\"\n", build);
    let circle = SQL.replace("interaction as i", "user_spread as i");
    let cases: [Case; 7] = [
        ("a definition without a contract", vec![("sql/user_spread.sql", SQL.into())], "no contract with a [build]"),
        (
            "a contract without a definition",
            vec![("schemas/user_spread.toml", CONTRACT.into())],
            "no SQL makes this table",
        ),
        ("no [build]", vec![("schemas/user_spread.toml", contract(""))], "has no [build]"),
        (
            "a step of curec's own",
            vec![
                ("schemas/user_spread.toml", contract("[build]\nby = \"generate\"\n")),
                ("sql/user_spread.sql", SQL.into()),
            ],
            "a job's own tables are made by",
        ),
        (
            "a table that nobody knows",
            vec![
                ("schemas/user_spread.toml", CONTRACT.into()),
                ("sql/user_spread.sql", SQL.replace("join user_feature", "join user_featuer")),
            ],
            "reads user_featuer, which is no table",
        ),
        (
            "a circle",
            vec![("schemas/user_spread.toml", CONTRACT.into()), ("sql/user_spread.sql", circle)],
            "in a circle",
        ),
        (
            "a setting that does not exist",
            vec![
                ("schemas/user_spread.toml", contract("[build]\nby = \"sql\"\nsettings = [\"history.evnts\"]\n")),
                ("sql/user_spread.sql", SQL.into()),
            ],
            "history.evnts",
        ),
    ];
    for (what, files, said) in cases {
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let world = world(&files);
        let out = world.run(&[]);
        expect_code(&out, 2);
        assert!(stderr(&out).contains(said), "{what}: {}", stderr(&out));
        assert!(!world.path("warehouse/user_spread").exists(), "{what}");
    }
}

#[test]
fn a_definition_that_is_no_sql_shows_where() {
    let wrong = SQL.replace("group by", "group bye");
    let world = world(&[("schemas/user_spread.toml", CONTRACT), ("sql/user_spread.sql", &wrong)]);
    let out = world.run(&[]);
    expect_code(&out, 2);
    let place =
        format!("--> {}:6:1\n   |\n 6 | group bye i.user_id\n   | ^", world.path("sql/user_spread.sql").display());
    assert!(stderr(&out).contains(&place), "{}", stderr(&out));
}
