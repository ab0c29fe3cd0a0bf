//! The weekly file's keys: into which types they go, and what is refused.

#![allow(clippy::unwrap_used)]
use super::*;

const FILE: &str = "name = 'w'\njob = 'job.toml'\nout = 'work'\n";

fn read(text: &str) -> Result<Spec> {
    Ok(parse(&format!("{FILE}{text}"), "weekly.toml", &BTreeMap::new())?.0)
}

#[test]
fn keys_go_into_the_types_that_the_steps_use() {
    let spec = read("[align]\nrank = 2\nepochs = 3\n[reinforce]\nratio_clip = 0.3\ntop_p = 1\n").unwrap();
    assert_eq!((spec.align.shape.rank, spec.align.learning.epochs), (2, 3));
    assert_eq!((spec.align.shape.alpha, spec.align.learning.max_steps), (12.0, 140));
    let learning = &spec.reinforce.learning;
    assert_eq!((learning.grpo.ratio_clip, learning.grpo.kl, learning.sampling.top_p), (0.3, 0.04, 1.0));
    assert_eq!((spec.reward.plan.folds, spec.reward.limits.needs_gain), (4, true));
    assert!(spec.gate.is_none() && spec.registry.is_none());
    assert!(spec.gate().unwrap_err().explain().contains("has no [gate]"));
    let spec = read("[gate]\n[registry]\nname = 'writer'\n").unwrap();
    assert_eq!(spec.gate().unwrap().0.questions, 256);
}

#[test]
fn bounds_of_a_projection_are_told() {
    let spec = read("").unwrap().projection;
    assert_eq!((spec.least_judged, spec.least_learned, spec.margin), (100, 500, 0.05));
    let told = read("[projection]\nfolds = 1\nridge = 0\nleast_judged = 0\nleast_learned = 0\nmargin = -1\n");
    let told = told.unwrap_err().explain();
    for line in [
        "weekly.toml:5: projection.folds: a map is for those it did not learn from, so 2 to 100",
        "weekly.toml:6: projection.ridge: must be from 0.000001 to 1000000",
        "weekly.toml:7: projection.least_judged: must be positive",
        "weekly.toml:8: projection.least_learned: must be positive",
        "weekly.toml:9: projection.margin: must not be below 0",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(read("[projection]\nfolds = 101\n").is_err() && read("[projection]\nridge = 1e7\n").is_err());
}

#[test]
fn a_projection_has_a_name_of_its_own() {
    assert!(read("[registry]\nname = 'writer'\n[projection]\nname = 'map'\n").is_ok());
    let told = read("[registry]\nname = 'writer'\n[projection]\nname = 'writer'\n").unwrap_err().explain();
    assert!(told.contains("projection.name: is the adapters' in [registry]"), "{told}");
}

#[test]
fn what_may_not_be_is_told_with_its_line() {
    let text = "[align]\nlearning_rate = 0\ntargets = ['q']\nteacher = 'https://host/v1'\nteacher_samples = 0\n\
                teacher_temperature = 0\n[reward]\nsecond_seed = 0\n\
                [reinforce]\nanswers = 1\ntemperature = 0\n[registry]\n";
    let told = read(text).unwrap_err().explain();
    for line in [
        "the weekly file has 9 problem(s)",
        "weekly.toml:5: align.learning_rate: must be above 0",
        "weekly.toml:6: align.targets: name one or more of q_proj",
        "align.teacher_model: name the model",
        "weekly.toml:8: align.teacher_samples: must be positive",
        "weekly.toml:9: align.teacher_temperature: must be above 0",
        "weekly.toml:11: reward.second_seed: the second judge",
        "weekly.toml:13: reinforce.answers: one alone",
        "weekly.toml:14: reinforce.temperature: must be above 0",
        "registry.name: must not be empty",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let told = parse("", "weekly.toml", &BTreeMap::new()).unwrap_err().explain();
    assert!(["name", "out", "job"].iter().all(|key| told.contains(&format!("{key}: must be set"))), "{told}");
}

#[test]
fn bounds_of_a_worth_are_told() {
    let spec = read("").unwrap().worth;
    assert_eq!((spec.samples, spec.most_items, spec.from.as_str()), (8, 300, "adapter"));
    assert_eq!((spec.set.as_slice(), spec.learning_rates.len()), (&["prompt.item=aligned-item".to_owned()][..], 2));
    let text = "[worth]\nsamples = 1\nfrom = 'adapter-worth'\nset = ['x']\nlearning_rates = []\nnegatives = 500\n\
                folds = 1\nvalid_quantile = 1\ntemperature = 0\nprior = -1\n";
    let told = read(text).unwrap_err().explain();
    for line in [
        "the weekly file has 9 problem(s)",
        "weekly.toml:5: worth.samples: one alone",
        "weekly.toml:6: worth.from: name a folder that stands in `out`",
        "weekly.toml:7: worth.set: write each as key=value",
        "weekly.toml:8: worth.learning_rates: name one or more, each above 0",
        "worth.nearest: must be at least worth.negatives",
        "weekly.toml:10: worth.folds: an item is mapped",
        "weekly.toml:11: worth.valid_quantile: must be between 0 and 1",
        "weekly.toml:12: worth.temperature: must be above 0",
        "weekly.toml:13: worth.prior: must not be below 0",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(read("[worth]\nfrom = ''\n").is_ok() && read("[worth]\nfrom = '../x'\n").is_err());
    assert_eq!((spec.most_users, spec.max_users), (300, 5000));
    assert_eq!(spec.history_set, ["prompt.history=aligned-history"]);
    let told = read("[worth]\nfrom = 'adapter-worth-histories'\nhistory_set = ['x']\nmost_users = 0\nmax_users = 0\n");
    let told = told.unwrap_err().explain();
    for key in ["worth.from", "worth.history_set: write each", "worth.most_users: must be", "worth.max_users: must be"]
    {
        assert!(told.contains(key), "{key}: {told}");
    }
}

/// What was measured of items stands while it does not follow from other values, and keys of histories are none of its values.
#[test]
fn worths_of_items_do_not_follow_from_keys_of_histories() {
    let plain = read("").unwrap().worth;
    let keys = serde_json::to_value(&plain).unwrap();
    assert!(keys.get("most_items").is_some(), "{keys}");
    assert!(["history_set", "most_users", "max_users"].iter().all(|key| keys.get(key).is_none()), "{keys}");
}
