//! What the settings of a job may be whose generator is an endpoint, and which of them a server cannot follow.
//!
//! Knows the settings; opens nothing and asks nobody. A setting that would be without effect is refused rather than ignored.

use crate::config::spec::JobSpec;
use crate::settings::Layers;

/// What curec itself says in each request.
const OWN: [&str; 5] = ["messages", "model", "n", "stream", "logprobs"];

/// Notes what is wrong with the settings of an endpoint.
pub(super) fn validate(s: &JobSpec, p: &mut Layers<'_>) {
    let model = &s.model;
    if !matches!(model.endpoint_stem.as_str(), "ask" | "continue") {
        p.problem("model.endpoint_stem", format!("must be ask or continue, got `{}`", model.endpoint_stem));
    }
    match model.body() {
        None => p.problem("model.endpoint_body", "must be empty or one JSON object, such as {\"top_k\": 20}"),
        Some(body) => {
            for name in OWN.iter().filter(|name| body.contains_key(**name)) {
                p.problem("model.endpoint_body", format!("must not set `{name}`, which curec sets itself"));
            }
        }
    }
    if model.endpoint().is_none() {
        return;
    }
    p.demand(
        model.adapter.is_empty(),
        "model.adapter",
        "cannot be used with an endpoint: curec cannot load an adapter into a server. Serve the adapter or the merged model \
         there (`curec models export --merged` writes one) and name it in model.endpoint_model",
    );
    p.demand(
        s.sampling.max_copied_words == 0,
        "sampling.max_copied_words",
        "must be 0 with an endpoint: a server cannot be told to avoid words of the prompt. [check] max_copied_words refuses \
         such answers",
    );
    p.demand(
        s.sampling.top_k == 0,
        "sampling.top_k",
        "must be 0 with an endpoint: the protocol does not know it. Where the server does: model.endpoint_body = \
         '{\"top_k\": 20}'",
    );
    p.demand(
        s.sampling.repetition_penalty == 1.0 || p.is_default("sampling.repetition_penalty"),
        "sampling.repetition_penalty",
        "must be 1.0 or left out with an endpoint: the protocol does not know it. Where the server does: \
         model.endpoint_body = '{\"repetition_penalty\": 1.1}'",
    );
    p.demand(
        s.prompt.fields().is_empty(),
        "prompt.fields",
        "must be empty with an endpoint: curec can hold only a model that it runs itself to the form of such answers",
    );
    // A rewrite's question is for an aligned model, which begins its answer in its format.
    p.demand(
        s.correct.judge.is_empty() || s.correct.template != "aligned-rewrite" || model.continues_stem(),
        "correct.template",
        "the built-in aligned-rewrite needs an aligned model that goes on with the beginning of its answer: set \
         model.endpoint_stem = \"continue\", or name a template of your own",
    );
}
