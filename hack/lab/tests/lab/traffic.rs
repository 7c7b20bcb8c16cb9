//! Releases under load: what the requests themselves say.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::load::{Counts, chi_square};
use lab::sample::Traffic;

use crate::stage::{Stage, at, condition, image, until};

/// One honest draw in 10,000 is further from its weight.
const CHANCE: f64 = 15.1;

pub(crate) async fn release_through_istio(lab: Arc<Lab>) -> Result<String> {
    good(Stage::new(lab, "release-through-istio", Traffic::Istio)).await
}

pub(crate) async fn release_through_gateway_api(lab: Arc<Lab>) -> Result<String> {
    good(Stage::new(lab, "release-through-gateway-api", Traffic::Gateway)).await
}

pub(crate) async fn release_through_traefik(lab: Arc<Lab>) -> Result<String> {
    good(Stage::new(lab, "release-through-traefik", Traffic::Traefik)).await
}

pub(crate) async fn failing_release_through_traefik(lab: Arc<Lab>) -> Result<String> {
    bad(
        Stage::new(lab, "failing-release-through-traefik", Traffic::Traefik),
        "FAIL_PERCENT",
        "10",
        "request-success-rate",
    )
    .await
}

pub(crate) async fn failing_release_through_istio(lab: Arc<Lab>) -> Result<String> {
    bad(
        Stage::new(lab, "failing-release-through-istio", Traffic::Istio),
        "FAIL_PERCENT",
        "10",
        "request-success-rate",
    )
    .await
}

pub(crate) async fn failing_release_through_gateway_api(lab: Arc<Lab>) -> Result<String> {
    bad(
        Stage::new(lab, "failing-release-through-gateway-api", Traffic::Gateway),
        "FAIL_PERCENT",
        "10",
        "success-rate",
    )
    .await
}

pub(crate) async fn slow_release_through_istio(lab: Arc<Lab>) -> Result<String> {
    bad(Stage::new(lab, "slow-release-through-istio", Traffic::Istio), "DELAY_MS", "1000", "request-duration")
        .await
}

/// v2 is promoted without one failed request, and at each weight it answers that share of them.
async fn good(stage: Stage) -> Result<String> {
    let stage = stage.initialised().await?;
    let load = stage.load(100).await?;
    let weights = stage.weights();
    stage.commit("v2").await?;
    stage.phase("Succeeded").await?;
    let told = load.so_far().len();
    until("v2 has answered after its promotion", async || {
        Ok((load.so_far().len() > told + 200).then_some(()))
    })
    .await?;
    let requests = load.stop().await;
    let counts = Counts::of(&requests);
    ensure!(counts.failed == 0, "requests failed: {counts:?}");
    let mut shares = Vec::new();
    for (weight, window) in weights.windows(&requests) {
        let counts = Counts::of(&window);
        if weight == 0 || counts.total < 100 {
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "weights are up to 100")]
        let far = chi_square(counts.version("v2"), counts.total, weight as f64);
        ensure!(far < CHANCE, "at weight {weight} v2 answered {counts:?}: chi-square {far:.1}");
        shares.push(format!("{}/{} at {weight}", counts.version("v2"), counts.total));
    }
    ensure!(shares.len() >= 3, "each weight was seen for a second: {:?}", weights.so_far());
    let last: Vec<_> = requests.iter().rev().take(100).collect();
    ensure!(last.iter().all(|r| r.version == "v2"), "v2 answers everything in the end");
    Ok(format!("promoted; {} requests, 0 failed; v2 answered {}", counts.total, shares.join(", ")))
}

/// v2 is rolled back by what its requests show; the primary stays v1, and nothing fails once v2 has no weight.
async fn bad(stage: Stage, variable: &str, value: &str, metric: &str) -> Result<String> {
    let stage = stage.initialised().await?;
    let load = stage.load(100).await?;
    let weights = stage.weights();
    stage.commit_sample(&stage.sample.clone().env(variable, value), "v2").await?;
    stage.phase("Failed").await?;
    let (back, _) = until("the route is back", async || {
        Ok(weights.so_far().last().filter(|(_, weight)| *weight == 0).copied())
    })
    .await?;
    until("v1 alone has answered for three seconds", async || {
        let requests = load.so_far();
        let last = requests.iter().filter(|r| r.version == "v2").map(|r| r.at).max();
        Ok(last.is_none_or(|last| last.max(back).elapsed() > Duration::from_secs(3)).then_some(()))
    })
    .await?;
    let requests = load.stop().await;
    let counts = Counts::of(&requests);
    let top = weights.so_far().iter().map(|(_, weight)| *weight).max().unwrap_or(0);
    ensure!(top > 0 && top <= 40, "it got to weight {top}");
    let last = requests.iter().filter(|r| r.version == "v2").map(|r| r.at).max();
    let last = last.context("v2 answered nothing, so it cannot have been judged")?;
    let lag = last.saturating_duration_since(back);
    ensure!(lag < Duration::from_secs(5), "v2 still answered {lag:?} after its weight was taken away");
    let failed_elsewhere = requests.iter().filter(|r| r.failed() && r.version != "v2").count();
    ensure!(failed_elsewhere == 0, "{failed_elsewhere} requests failed that v2 did not answer: {counts:?}");
    ensure!(image(&stage.deployment("app-primary").await?) == "app:v1");
    let canary = stage.canary().await?;
    let said = at(condition(&canary, "Stalled"), "/message").as_str().unwrap_or_default();
    let named = format!("was rejected (Metric {metric}: Halt app.");
    ensure!(said.contains(&named), "Stalled names the metric: {said}");
    let events = stage.events().await?;
    // Built-in checks have words of their own.
    let reason = match metric {
        "request-success-rate" => "success rate",
        "request-duration" => "request duration",
        other => other,
    };
    ensure!(events.iter().any(|event| event.contains(reason)), "an Event names {reason}: {events:#?}");
    Ok(format!(
        "rolled back at weight {top}; v2 answered {} of {} requests, the last {:.1} s after its weight was taken away; {} failed",
        counts.version("v2"),
        counts.total,
        lag.as_secs_f64(),
        counts.failed
    ))
}
