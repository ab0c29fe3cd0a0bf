//! What is said of clusters by a binary that has none, and of engines that nobody knows.

use crate::common::{World, expect_code, stderr, stdout};

#[test]
fn an_engine_that_nobody_knows_is_refused() {
    let world = World::new();
    let out = world.run(&["--engine", "spark"]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("query.engine: must be local or ballista, got `spark`"), "{}", stderr(&out));
    assert!(world.published().is_empty());
    let out = world.run(&["--engine", "local", "--set", "query.partitions=0"]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("query.partitions"), "{}", stderr(&out));
}

#[test]
fn processes_listen_on_this_machine_alone_unless_they_are_told_otherwise() {
    let world = World::new();
    for (command, default) in [("scheduler", "[default: 127.0.0.1:50050]"), ("executor", "[default: 127.0.0.1:0]")] {
        let out = world.curec(&["cluster", command, "--help"]);
        expect_code(&out, 0);
        let help = stdout(&out);
        let words: Vec<&str> = help.split_whitespace().collect();
        assert!(words.join(" ").contains(default), "{command}: {help}");
    }
}

#[cfg(not(feature = "cluster"))]
#[test]
fn a_binary_without_a_cluster_says_how_to_build_one_that_has_it() {
    let world = World::new();
    let out = world.run(&["--engine", "ballista"]);
    expect_code(&out, 2);
    assert!(stderr(&out).contains("query.engine") && stderr(&out).contains("--features cluster"), "{}", stderr(&out));
    assert!(world.published().is_empty());
    for args in [&["cluster", "scheduler"][..], &["cluster", "executor", "--scheduler", "df://127.0.0.1:50050"]] {
        let out = world.curec(args);
        expect_code(&out, 2);
        assert!(stderr(&out).contains("--features cluster"), "{}", stderr(&out));
    }
}
