//! `curec learn evaluate` on tiny models: vectors of items alone, then of users' histories as well, corrected night after
//! night, from the same folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::common::{World, expect_code, stderr, stdout, summary};
use crate::correct;
use crate::night::{signal, wait_for};

/// An evaluation's file with its work in `evaluation`. The job's judge corrects in A6 alone.
fn evaluation(world: &World, arms: &str, histories: &str) -> String {
    let judge = world.path("judge").display().to_string();
    let text = format!(
        "name = \"tiny\"\nout = \"evaluation\"\narms = {arms}\nseeds = 1\ntargets = [\"last\"]\nresamples = 50\n\
         confidence = 0.95\ndevice = \"cpu\"\n[split]\norigins = [0.8]\nvalid_quantile = 0.8\n{histories}\
         [reading]\nor_free = false\n\
         [sasrec]\nhidden = 8\ninner = 8\nlayers = 1\nheads = 1\nlength = 10\ndropout = 0.1\nbatch = 64\nepochs = 2\n\
         patience = 1\nlearning_rates = [0.01]\n\
         [din]\nhidden = 4\nlength = 5\ndropout = 0.0\nbatch = 64\nlike_threshold = 4.0\nepochs = 1\npatience = 1\n\
         learning_rates = [0.01]\n\
         [[data]]\nname = \"logs\"\njob = \"job.toml\"\nset = [\"correct.judge=\"]\n\
         [[data.text]]\narm = \"A6\"\nset = [\"correct.judge={judge}\"]\n"
    );
    std::fs::write(world.path("evaluation.toml"), text).unwrap();
    let out = world.curec(&["learn", "evaluate", "evaluation.toml"]);
    expect_code(&out, 0);
    assert_eq!(summary(&out)["status"], "evaluated");
    std::fs::read_to_string(world.path("evaluation/ABLATION.md")).unwrap()
}

/// Checkpoints by name.
fn checkpoints(world: &World) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(world.path("evaluation/work")).unwrap().map(|e| e.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().to_string(), std::fs::read(&path).unwrap()))
        .collect()
}

/// The numbers of the fact that begins with `what`.
fn fact(page: &str, what: &str) -> Vec<u64> {
    let begins = format!("- **{what}");
    let line = page.lines().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("{what}: {page}"));
    let (_, said) = line.split_once("**: ").unwrap();
    said.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

/// The warehouse of the nights that describe histories, in an arm's folder.
fn nights(world: &World, folder: &str) -> PathBuf {
    let folder = world.path("evaluation").join("work").join("logs").join(folder);
    let mut found = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
    let is_theirs = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("histories-");
    found.find(is_theirs).unwrap_or_else(|| panic!("no nights in {}", folder.display())).join("warehouse")
}

fn count(world: &World, folder: &str, query: &str) -> i64 {
    let warehouse = format!("warehouse={}", nights(world, folder).display());
    let out = world.curec(&["sql", "--job", "job.toml", "--set", &warehouse, "--format", "json", query]);
    assert!(out.status.success(), "{query}\n{}", stderr(&out));
    let row: Value = serde_json::from_str(stdout(&out).lines().next().unwrap()).unwrap();
    row["n"].as_i64().unwrap()
}

#[test]
fn histories_are_described_block_by_block_and_what_has_none_goes_on_as_it_was() {
    const ARMS: &str = "[\"A0\", \"A1\", \"A2\", \"A3\", \"A4b\", \"A6\", \"A7\", \"A9\"]";
    let world = correct::world();
    let page = evaluation(&world, "[\"A0\", \"A2\", \"A9\"]", "");
    assert!(page.contains("histories have no vectors but in A9") && !page.contains("histories as of"), "{page}");
    let alone = checkpoints(&world);
    assert_eq!(alone.len(), 6);

    let page = evaluation(&world, ARMS, "[histories]\nblocks = 3\nmax_users = 20\n");
    assert!(!page.contains("histories have no vectors but in A9"), "{page}");
    let with = checkpoints(&world);
    assert!(alone.iter().all(|(name, bytes)| with[name] == *bytes), "a training without histories was done again");
    let new: Vec<&String> = with.keys().filter(|name| !alone.contains_key(*name)).collect();
    assert!(new.len() == 12 && new.iter().all(|name| name.contains("-histories-")), "{new:?}");

    let mut told = Vec::new();
    for what in [
        "attributes (A1, A2)",
        "accepted reasons (A3)",
        "the templates' reasons (A4b)",
        "accepted reasons after correction (A6, A7)",
    ] {
        let numbers = fact(&page, &format!("logs, histories: {what}"));
        let [users, moments, seen, train, tested, test] = numbers[..] else { panic!("{what}: {numbers:?}") };
        assert!((10..=24).contains(&users) && moments == 3, "{what}: {numbers:?}");
        assert!(seen > 20 && seen < train && tested > 10 && tested <= test, "{what}: {numbers:?}");
        told.push(users);
    }
    assert!(told[3] >= told[1], "correction takes no reason away that was accepted: {told:?}");

    // Nights: a description as of three moments, from the day before the first on, and one question for all items.
    for folder in ["", "A6"] {
        let n = |query| count(&world, folder, query);
        assert_eq!(n("select count(distinct as_of) as n from reason where kind = 'history'"), 3);
        assert_eq!(n("select count(distinct prompt_key) as n from reason where kind = 'item'"), 1);
        assert!(
            n("select max(n) as n from (select count(*) as n from reason where kind = 'history' group by dt)") <= 20
        );
        assert!(n("select count(*) as n from reason_prompt where kind = 'history' and cardinality(related) > 0") > 0);
    }
    assert_eq!(count(&world, "", "select count(*) as n from reason_correction"), 0);
    let corrected = fact(&page, "logs, corrections (A6)");
    assert!(corrected[0] > 0, "nothing was corrected: {corrected:?}");
    assert_eq!(corrected[1] as i64, count(&world, "A6", "select count(*) as n from reason_correction"));

    // A judge that has learned from what is held out tells nothing of it.
    std::fs::write(world.path("reward.json"), "{\"interval_end\": \"2026-01-20T00:00:00+00:00\"}").unwrap();
    let refused = world.curec(&["learn", "evaluate", "evaluation.toml"]);
    expect_code(&refused, 2);
    let said = stderr(&refused);
    assert!(said.contains("must not hold out") && said.contains("arm: A6") && said.contains("2026-01-20"), "{said}");
    std::fs::remove_file(world.path("reward.json")).unwrap();

    // The same again, paid for and learned already.
    let read = |name: &str| std::fs::read(world.path("evaluation").join(name)).unwrap();
    let tables = || ["measurement.parquet", "contrast.parquet"].map(read);
    let answers = || ["", "A6"].map(|folder| count(&world, folder, "select count(*) as n from response"));
    let before = (tables(), answers(), facts(&page));
    let page = evaluation(&world, ARMS, "[histories]\nblocks = 3\nmax_users = 20\n");
    assert!((tables(), answers(), facts(&page)) == before, "the second time it was something else");
    assert!(checkpoints(&world) == with);

    // Texts of other nights are refused, with what to do.
    let text = std::fs::read_to_string(world.path("evaluation.toml")).unwrap();
    let other = text.replace("valid_quantile = 0.8\n", "valid_quantile = 0.8\nrefreshes = 0\n");
    std::fs::write(world.path("evaluation.toml"), &other).unwrap();
    let refused = world.curec(&["learn", "evaluate", "evaluation.toml"]);
    expect_code(&refused, 2);
    let said = stderr(&refused);
    assert!(said.contains("texts of other nights") && said.contains("refreshes of before"), "{said}");

    // What the log cannot be asked is told before models and adapters are looked for.
    let judge = world.path("judge").display().to_string();
    let impossible = text.replace("like_threshold = 4.0", "like_threshold = 99.0").replace(&judge, "nowhere");
    std::fs::write(world.path("evaluation.toml"), impossible).unwrap();
    let refused = world.curec(&["learn", "evaluate", "evaluation.toml"]);
    expect_code(&refused, 1);
    assert!(stderr(&refused).contains("likes and dislikes"), "{}", stderr(&refused));

    // The scalar columns of the same nights' features, alone and beside the evidence.
    let page = evaluation(&world, "[\"A0\", \"A2r\", \"A2x\", \"A2rx\"]", "");
    let published = fact(&page, "logs, the scalar columns, as published (A2x, A2rx)");
    let [rows, items] = published[..] else { panic!("{published:?}") };
    assert!(rows > 0 && rows <= items && rows >= fact(&page, "logs, the evidence, as published (A2r, A2rx)")[0]);
    let told = page.lines().find(|line| line.starts_with("- **logs, what the scalar columns tell**")).unwrap();
    assert!(["n_reasons", "mean_score", "missing", "source"].iter().all(|name| told.contains(name)), "{told}");
    let scalars = ["sasrec-A2x-0", "sasrec-A2rx-0", "din-A2x-0", "din-A2rx-0"];
    let new = checkpoints(&world);
    assert!(scalars.iter().all(|name| new.keys().any(|known| known.contains(name))), "{:?}", new.keys());
}

/// A tiny log has too few items for any choice to be confirmed: they are judged all the same, and what they have stays.
#[test]
fn reasons_of_items_are_judged_window_by_window_and_what_is_not_confirmed_changes_nothing() {
    let world = World::new();
    let text = "name = \"windows\"\nout = \"evaluation\"\narms = [\"A0\", \"A2r\", \"A2w\", \"A4\", \"A4s\", \"A6i\", \"A6w\"]\n\
                seeds = 1\ntargets = [\"successive\"]\nresamples = 50\nconfidence = 0.95\ndevice = \"cpu\"\n\
                [split]\norigins = [0.8]\nvalid_quantile = 0.8\nrefreshes = 2\n\
                [windows]\nleast_events = 1\npermutations = 2\nhidden = 4\nbatch = 32\nepochs = 1\n\
                [reading]\nor_free = false\n\
                [log_linear]\nhidden = 4\nwidths = []\nbatch = 64\nepochs = 1\npatience = 1\nlearning_rates = [0.01]\n\
                [[data]]\nname = \"logs\"\njob = \"job.toml\"\n\
                [[data.text]]\narm = \"A4\"\nset = [\"sampling.max_new_tokens=5\"]\n\
                [[data.text]]\narm = \"A4s\"\n\
                set = [\"sampling.temperature=0.9\", \"budget.max_failed_fraction=0.5\"]\nsamples = 2\n";
    std::fs::write(world.path("evaluation.toml"), text).unwrap();
    let evaluated = || {
        expect_code(&world.curec(&["learn", "evaluate", "evaluation.toml"]), 0);
        std::fs::read_to_string(world.path("evaluation/ABLATION.md")).unwrap()
    };
    let page = evaluated();
    let rounds = page.lines().find(|line| line.starts_with("- **logs, reasons of items corrected (A6i, A6w)**"));
    let rounds = rounds.unwrap_or_else(|| panic!("{page}"));
    assert!(rounds.contains("among the reason, 2 samples and the evidence"), "{rounds}");
    // By training events before the origin's night, by those of the validation part, and by the first half of the test part.
    assert_eq!(rounds.matches("by events from ").count(), 3, "{rounds}");
    assert!(rounds.contains(" judged, ") && !rounds.contains(": confirmed"), "{rounds}");
    let numbers = fact(&page, "logs, what correction reached (A6i, A6w)");
    let [could, events, did, confirmed, windows, by_chance, dealt] = numbers[..] else { panic!("{numbers:?}") };
    assert!(events > 0 && (1..=3).contains(&windows) && dealt == 2 * windows, "{numbers:?}");
    // There are 18 items, and of fewer than 30 nothing can be confirmed.
    assert_eq!([could, did, confirmed, by_chance], [0; 4]);
    assert!(page.contains(" could_change | changed | confirmed | confirmed_by_chance "), "{page}");
    // What was judged at the origin was written in a warehouse of its own.
    for folder in ["aligned", "evidence", "A4s-0", "A4s-1"] {
        let folder = world.path("evaluation").join("work").join("logs").join(folder);
        let mut found = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name());
        assert!(found.any(|name| name.to_string_lossy().starts_with("judged-")), "{}", folder.display());
    }
    // Where nothing is confirmed the arm is A4, and beside the words A4w would be the same.
    let of_arm: Vec<&str> = page.lines().filter(|line| line.starts_with("| log-linear | A6i |")).collect();
    assert!(
        !of_arm.is_empty() && of_arm.iter().all(|line| page.contains(&line.replacen("A6i", "A4", 1))),
        "{of_arm:?}"
    );
    assert!(checkpoints(&world).keys().any(|name| name.contains("A6w-of-A4s")));

    // The same again, paid for already.
    let table = || std::fs::read(world.path("evaluation/measurement.parquet")).unwrap();
    let before = (facts(&page), table());
    assert!((facts(&evaluated()), table()) == before, "the second time it was something else");
}

#[test]
fn nights_that_publish_both_are_paid_for_by_those_that_publish_reasons() {
    let world = World::new();
    let item = world.path("item.j2").display().to_string();
    let text = format!(
        "name = \"tiny\"\nout = \"evaluation\"\narms = [\"A0\", \"A4\", \"A4r\"]\nseeds = 1\ntargets = [\"last\"]\nresamples = 50\n\
         device = \"cpu\"\n[split]\norigins = [0.8]\nvalid_quantile = 0.8\nrefreshes = 1\n[reading]\nor_free = false\n\
         [sasrec]\nhidden = 8\ninner = 8\nlayers = 1\nheads = 1\nlength = 10\ndropout = 0.1\nbatch = 64\nepochs = 2\n\
         patience = 1\nlearning_rates = [0.01]\n[[data]]\nname = \"logs\"\njob = \"job.toml\"\n\
         set = [\"feature.vector_of=evidence\"]\n[[data.text]]\narm = \"A4\"\nset = [\"prompt.item={item}\"]\n"
    );
    std::fs::write(world.path("evaluation.toml"), text).unwrap();
    let out = world.curec(&["learn", "evaluate", "evaluation.toml"]);
    expect_code(&out, 0);
    let page = std::fs::read_to_string(world.path("evaluation/ABLATION.md")).unwrap();
    let reasons = fact(&page, "logs, accepted reasons of the aligned model (A4)");
    let both =
        fact(&page, "logs, the mean of the aligned model's accepted reasons and the evidence, as published (A4r)");
    assert_eq!(both, reasons, "both have vectors of the same items: {page}");

    // Arms say what vectors are of, whatever the job says, and no answer is paid for twice.
    let sql = |folder: &str, query: &str| {
        let warehouse = world.path("evaluation").join("work").join("logs").join(folder).join("warehouse");
        let set = format!("warehouse={}", warehouse.display());
        let out = world.curec(&["sql", "--job", "job.toml", "--set", &set, "--format", "json", query]);
        assert!(out.status.success(), "{query}\n{}", stderr(&out));
        let row: Value = serde_json::from_str(stdout(&out).lines().next().unwrap()).unwrap();
        row["n"].as_i64().unwrap()
    };
    let of = |source: &str| format!("select count(*) as n from item_feature where source = '{source}'");
    assert!(sql("aligned", &of("reason")) > 0 && sql("aligned", &of("both")) == 0);
    assert_eq!((sql("A4r", &of("both")), sql("A4r", &of("reason"))), (sql("aligned", &of("reason")), 0));
    let answers = "select count(*) as n from response";
    assert_eq!(sql("A4r", answers), sql("aligned", answers));
}

/// What a page says was run.
fn facts(page: &str) -> Vec<String> {
    page.lines().filter(|line| line.starts_with("- **logs")).map(str::to_owned).collect()
}

/// The epochs that a checkpoint holds.
fn epochs(checkpoint: &Path) -> usize {
    let bytes = std::fs::read(checkpoint).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header["__metadata__"]["epochs"].as_str().unwrap().lines().count()
}

#[test]
fn one_process_works_in_a_folder_and_a_signal_keeps_the_epochs() {
    let world = World::new();
    let write = |epochs: usize| {
        let text = format!(
            "name = \"long\"\nout = \"long\"\narms = [\"A0\"]\nseeds = 1\ntargets = [\"last\"]\nresamples = 50\n\
             confidence = 0.95\ndevice = \"cpu\"\n[split]\norigins = [0.8]\nvalid_quantile = 0.8\n[sasrec]\n\
             hidden = 8\ninner = 8\nlayers = 1\nheads = 1\nlength = 10\ndropout = 0.1\nbatch = 64\nepochs = {epochs}\n\
             patience = 100000\nlearning_rates = [0.01]\n[[data]]\nname = \"logs\"\njob = \"job.toml\"\n"
        );
        std::fs::write(world.path("evaluation.toml"), text).unwrap();
    };
    write(100_000);
    let arguments = ["learn", "evaluate", "evaluation.toml"];
    let child = world.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let checkpoint = world.path("long").join("work").join("logs-sasrec-A0-0-0.01.safetensors");
    wait_for("a checkpoint", || checkpoint.exists());

    let second = world.curec(&arguments);
    expect_code(&second, 75);
    let said = stderr(&second);
    assert!(said.contains("another process learns") && said.contains(&format!("process {}", child.id())), "{said}");

    signal(&child, "-TERM");
    let out = child.wait_with_output().unwrap();
    expect_code(&out, 75);
    assert!(stderr(&out).contains("stopped by a signal"), "{}", stderr(&out));
    let kept = epochs(&checkpoint);
    assert!((1..100_000).contains(&kept), "{kept}");

    write(kept + 1);
    expect_code(&world.curec(&arguments), 0);
    assert_eq!(epochs(&checkpoint), kept + 1, "it did not go on where it was");
}
