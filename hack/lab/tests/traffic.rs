//! Releases under load: what the requests themselves say.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::Lab;
use lab::load::{Counts, chi_square};
use lab::sample::Traffic;

use crate::stage::{Stage, at, image, until};

/// One honest draw in 10,000 is further from its weight.
const CHANCE: f64 = 15.1;

pub(crate) async fn release_through_istio(lab: Arc<Lab>) -> Result<String> {
    good(Stage::new(lab, "istio-good", Traffic::Istio)).await
}

pub(crate) async fn release_through_gateway_api(lab: Arc<Lab>) -> Result<String> {
    good(Stage::new(lab, "gateway-good", Traffic::Gateway)).await
}

pub(crate) async fn failing_release_through_istio(lab: Arc<Lab>) -> Result<String> {
    bad(Stage::new(lab, "istio-fails", Traffic::Istio), "FAIL_PERCENT", "10", "success").await
}

pub(crate) async fn failing_release_through_gateway_api(lab: Arc<Lab>) -> Result<String> {
    bad(Stage::new(lab, "gateway-fails", Traffic::Gateway), "FAIL_PERCENT", "10", "success").await
}

pub(crate) async fn slow_release_through_istio(lab: Arc<Lab>) -> Result<String> {
    bad(Stage::new(lab, "istio-slow", Traffic::Istio), "DELAY_MS", "200", "duration").await
}

/// v2 is promoted without one failed request, and at each weight it answers that share of them.
async fn good(stage: Stage) -> Result<String> {
    let stage = stage.initialised().await?;
    let load = stage.load(100).await?;
    let weights = stage.weights();
    stage.commit("v2").await?;
    stage.phase("Succeeded").await?;
    let told = load.so_far().len();
    until("v2 has answered after its promotion", async || Ok((load.so_far().len() > told + 200).then_some(()))).await?;
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
async fn bad(stage: Stage, variable: &str, value: &str, reason: &str) -> Result<String> {
    let stage = stage.initialised().await?;
    let load = stage.load(100).await?;
    let weights = stage.weights();
    stage.commit_sample(&stage.sample.clone().env(variable, value), "v2").await?;
    let canary = stage.phase("Failed").await?;
    until("the route is back", async || {
        Ok(weights.so_far().last().is_some_and(|(_, weight)| *weight == 0).then_some(()))
    })
    .await?;
    let back = weights.so_far().last().map(|(at, _)| *at + Duration::from_secs(1));
    until("v1 has answered for three seconds", async || {
        Ok(back.is_some_and(|back| back.elapsed() > Duration::from_secs(3)).then_some(()))
    })
    .await?;
    let requests = load.stop().await;
    let counts = Counts::of(&requests);
    let top = weights.so_far().iter().map(|(_, weight)| *weight).max().unwrap_or(0);
    ensure!(top > 0 && top <= 40, "it got to weight {top}");
    ensure!(counts.version("v2") > 0, "v2 answered nothing, so it cannot have been judged: {counts:?}");
    let after: Vec<_> = requests.iter().filter(|r| back.is_some_and(|back| r.at > back)).collect();
    ensure!(after.len() > 100, "only {} requests after the rollback", after.len());
    ensure!(after.iter().all(|r| r.version == "v1" && !r.failed()), "v2 still answers: {:?}", Counts::of(after));
    let by_v1 = requests.iter().filter(|r| r.failed() && r.version != "v2").count();
    ensure!(by_v1 == 0, "{by_v1} requests failed that v2 did not answer: {counts:?}");
    ensure!(image(&stage.deployment("app-primary").await?) == "app:v1");
    let said = at(&canary, "/status/conditions").to_string();
    ensure!(said.contains(reason), "the status names {reason}: {said}");
    Ok(format!(
        "rolled back at weight {top}; v2 answered {} of {} requests, {} of them failed; after the rollback 0 failed",
        counts.version("v2"),
        counts.total,
        counts.failed
    ))
}
