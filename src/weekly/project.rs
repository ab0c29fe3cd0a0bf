//! `curec learn project`: from the vectors that nights have published and the log to a map between them, judged by what
//! came next.
//!
//! Learned is from what was before the interval's start, texts and events alike; the interval's first meetings of users
//! and items are the judge. What is judged is what is published: nothing is learned again from the interval. So a run
//! needs nights before the interval, and no model but the encoder's name.
//!
//! Knows jobs, folders and the registry; what is learned from is in [`crate::weekly::project_data`], how it is learned and
//! judged in [`crate::weekly::project_fit`].

use chrono::Utc;
use serde_json::Value;

use crate::cancel::CancelToken;
use crate::config::{Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::night::prepare::prepare;
use crate::night::verify::nothing_to_learn;
use crate::project::saved::{Projection, RECORD};
use crate::project::space::WIDTH;
use crate::registry::card::{Check, Trained};
use crate::registry::versions::Registry;
use crate::weekly::examples;
use crate::weekly::project_data::data;
use crate::weekly::project_fit::{Done, work};
use crate::weekly::weekly_file::Spec;

/// The folder in `out` of what passed: a job may name it.
pub const FOLDER: &str = "projection";
/// The folder in `out` of what did not pass: what a job may use stands as it was.
pub const REFUSED: &str = "projection-refused";
/// What a run cannot do without.
const NEEDS: &str = "nights before the interval must have published vectors of items that users have met together, and users must \
                     meet further ones of them in the interval; `curec run` the days before it, or take a longer interval";
/// Learns a projection and judges it. It is written into the folder `projection` of `out`, or into `projection-refused`
/// where the gate does not hold; where `[projection] name` is set, into the registry too, and into use if the gate holds.
///
/// # Errors
/// What the inputs, the warehouse and the registry say; [`Kind::Input`] where there is nothing to learn from or to
/// judge by; [`Kind::Audit`] where the gate does not hold, after all was written; [`Kind::Interrupted`] after a signal.
pub async fn project(spec: &Spec, interval: Interval, stop: &CancelToken) -> Result<Done> {
    let of = spec.projection.clone();
    let out = spec.folder()?;
    let job = Job::load(&spec.job, &spec.as_they_come())?;
    let registry = match of.name.as_str() {
        "" => None,
        name => {
            let registry = Registry::of(&job)?;
            // A name that cannot be one is told of now.
            registry.check_kind(name, true).await.map_err(|e| e.with("key", "projection.name"))?;
            Some(registry)
        }
    };
    let prepared = prepare(&job, interval).await?;
    let encoder = prepared.models.encoder_files()?.digest().to_owned();
    let session = examples::opinions(&prepared).await?;
    let data = data(&prepared, &session, &encoder, &of, stop).await?;
    tracing::info!(
        texts = data.texts.len(),
        consumed = data.consumed.len(),
        pairs = data.pairs.len(),
        users = data.next.len(),
        "learning a projection"
    );
    let before = match &registry {
        Some(registry) => earlier(registry, &job, &of.name, interval, &encoder).await?,
        None => None,
    };
    stop.check()?;
    let settings = of.clone();
    let worked = tokio::task::spawn_blocking(move || work(&data, &settings, interval, &encoder, before));
    let worked = worked.await.context(Kind::Internal, || "learning a projection was interrupted".into())??;
    let (projection, mut done) = match worked {
        Ok(learned) => learned,
        Err(counts) => {
            let what = format!("there is nothing to learn a projection from: {counts}");
            return Err(nothing_to_learn(&job, interval, &session, &what, NEEDS).await?);
        }
    };
    stop.check()?;
    let record = serde_json::to_string_pretty(&done).context(Kind::Internal, || "the record of a projection".into())?;
    // A job that names the folder goes on with what passed.
    let folder = out.join(if done.passed { FOLDER } else { REFUSED });
    projection.write(&folder, &[(RECORD, record + "\n")])?;
    if let Some(registry) = &registry {
        let days = [interval.start, interval.end].map(|moment| moment.format("%Y-%m-%d").to_string());
        let why = format!("projection over {} to before {}", days[0], days[1]);
        let trained = Trained {
            interval: Some(days),
            metrics: metrics(&done)?,
            seeds: vec![of.seed],
            gate: done.gate.clone(),
            samples: Vec::new(),
        };
        let (digest, encoder) = (projection.digest(), &projection.origin().encoder);
        let card = registry.add_projection(&of.name, &folder, digest, encoder, trained, Utc::now()).await?;
        if card.gate_holds() {
            registry.promote(&of.name, &card.version, &why, false, Utc::now()).await?;
        }
        done.version = Some(card.version);
    }
    let failed: Vec<String> = done.gate.iter().filter(|check| !check.holds).map(Check::told).collect();
    match failed.is_empty() {
        true => Ok(done),
        false => Err(Error::new(Kind::Audit, format!("the projection's gate does not hold: {}", failed.join("; ")))
            .with("record", folder.join(RECORD).display())
            .hint("more users, a longer log or texts that say more may help; what is in use stays in use")),
    }
}

/// What a card tells: all that was measured.
fn metrics(done: &Done) -> Result<serde_json::Map<String, Value>> {
    let told = serde_json::to_value(done).context(Kind::Internal, || "the record of a projection".into())?;
    match told {
        Value::Object(mut told) => {
            // The card has these in places of their own.
            ["gate", "interval_start", "interval_end", "digest", "encoder"]
                .into_iter()
                .for_each(|key| _ = told.remove(key));
            Ok(told)
        }
        _ => Err(Error::new(Kind::Internal, "measures are no object")),
    }
}

/// The version in use, if it was judged by an interval that ended before this one's end, on the same encoder's vectors;
/// else the first such version that rollbacks would return to. A run that is repeated finds the same one, and not what it
/// has promoted itself; a version that was rolled back is none.
async fn earlier(
    registry: &Registry,
    job: &Job,
    name: &str,
    interval: Interval,
    encoder: &str,
) -> Result<Option<(String, Projection)>> {
    let promotions = registry.promotions(name).await?;
    for version in promotions.stack().into_iter().rev() {
        let card = registry.find(name, version).await?;
        let is_earlier = card.trained.learned_until().is_some_and(|until| until < interval.end);
        if !is_earlier || card.projection.is_none() || card.encoder.as_deref() != Some(encoder) {
            continue;
        }
        let projection = Projection::read(&registry.fetch_projection(&card, &job.cache_dir).await?)?;
        return Ok((projection.item().output() == WIDTH).then_some((card.version, projection)));
    }
    Ok(None)
}
