//! `curec config`: defaults, resolved files, the origin of each value, and no credential in any of it.

use crate::common::{World, expect_code, stderr, stdout};

/// What it prints of a file, with these variables.
fn config(world: &World, args: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = world.command(&[&["config"], args].concat());
    let out = command.envs(variables.iter().copied()).output().unwrap();
    expect_code(&out, 0);
    stdout(&out)
}

fn lines_of<'a>(printed: &'a str, section: &str) -> Vec<&'a str> {
    let lines = printed.lines().skip_while(|line| *line != format!("[{section}]")).skip(1);
    lines.take_while(|line| !line.starts_with('[')).filter(|line| !line.is_empty()).collect()
}

#[test]
fn a_job_is_told_with_origins_and_without_credentials() {
    let world = World::new();
    let job = "name = \"nightly\"\nwarehouse = \"s3://key:hunter2@bucket/lake\"\n[input]\ninteraction = \"${IN:-input}/i\"\n\
               item = \"${IN:-input}/item\"\nreview = \"https://host/${DATA_TOKEN}?sig=hunter3\"\n[model]\n\
               generator = \"g\"\nencoder = \"${ENCODER}\"\nslots = 3\n";
    std::fs::write(world.path("told.toml"), job).unwrap();
    let variables = [("DATA_TOKEN", "hunter4"), ("ENCODER", "minilm"), ("CUREC_MODEL__THREADS", "2")];
    let args = ["told.toml", "--set", "history.events=7"];
    let printed = config(&world, &args, &variables);
    for line in [
        "name = \"nightly\"  # line 1",
        "warehouse = \"s3://***@bucket/lake\"  # line 2",
        "interaction = \"input/i\"  # line 4, variable IN is not set",
        "review = \"https://host/***?sig=***\"  # line 6, variable DATA_TOKEN by ${DATA_TOKEN}",
        "encoder = \"minilm\"  # line 9, variable ENCODER by ${ENCODER}",
        "slots = 3  # line 10",
        "threads = 2  # variable CUREC_MODEL__THREADS",
        "events = 7  # --set",
        "max_users = 0  # default",
    ] {
        assert!(printed.lines().any(|found| found == line), "{line}: {printed}");
    }
    assert!(!printed.contains("hunter"), "{printed}");

    // It is a job file, which comes to the same.
    std::fs::write(world.path("again.toml"), &printed).unwrap();
    let values = |printed: &str| -> Vec<String> {
        printed.lines().skip(1).map(|line| line.split("  # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(values(&config(&world, &["again.toml"], &[])), values(&printed));
}

#[test]
fn weekly_and_evaluation_files_are_known_by_their_sections() {
    let world = World::new();
    std::fs::write(world.path("w.toml"), "name = \"w\"\njob = \"job.toml\"\nout = \"work\"\n[gate]\n").unwrap();
    let printed = config(&world, &["w.toml"], &[]);
    assert!(
        printed.contains("job = \"job.toml\"  # line 2") && printed.contains("questions = 256  # default"),
        "{printed}"
    );
    assert!(lines_of(&printed, "align").contains(&"rank = 6  # default"), "{printed}");
    assert!(!printed.contains("[registry]"), "{printed}");
    std::fs::write(world.path("again.toml"), &printed).unwrap();
    assert!(config(&world, &["again.toml", "--weekly"], &[]).contains("rank = 6  # line"));

    let evaluation = "name = \"e\"\nout = \"work\"\n[din]\nhidden = 4\n[[data]]\nname = \"d\"\njob = \"job.toml\"\n\
                      set = [\"input.item=s3://k:hunter2@b/x\", \"model.encoder=${E}\"]\n";
    std::fs::write(world.path("e.toml"), evaluation).unwrap();
    let printed = config(&world, &["e.toml"], &[("E", "minilm")]);
    assert_eq!(lines_of(&printed, "din")[0], "hidden = 4  # line 4");
    let set = "set = [\"input.item=s3://***@b/x\", \"model.encoder=minilm\"]  # line 8, variable E by ${E}";
    assert!(printed.contains(set) && !printed.contains("hunter") && !printed.contains("sasrec"), "{printed}");
    std::fs::write(world.path("again.toml"), &printed).unwrap();
    assert!(config(&world, &["again.toml"], &[]).contains("like_threshold = 4.0  # line"));
}

#[test]
fn defaults_are_printed_and_mistakes_are_told() {
    let world = World::new();
    for (args, key) in [(&[][..], "max_step_tokens = 512"), (&["--weekly"], "[align]"), (&["--evaluation"], "[[data]]")]
    {
        assert!(config(&world, args, &[]).contains(key), "{args:?}");
    }
    std::fs::write(world.path("w.toml"), "name = \"w\"\n[align]\nrnk = 2\n").unwrap();
    let out = world.curec(&["config", "w.toml"]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("w.toml:3: align.rnk: unknown key; did you mean `rank`?"), "{}", stderr(&out));
    // What the project ships is right.
    for file in ["nightly", "quickstart", "movielens", "weekly", "ablation", "ablation_amazon", "ablation_control"] {
        let path = crate::common::project().join(format!("jobs/{file}.toml")).display().to_string();
        config(&world, &[&path], &[]);
    }
}
