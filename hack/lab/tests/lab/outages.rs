//! What happens when a part is down in the middle of it.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use lab::Lab;
use lab::load::Counts;
use lab::sample::Traffic;
use lab::sidetrack;
use serde_json::json;

use crate::stage::{Stage, at, image, until};

/// Flux reports that it could not apply, v1 serves on; when the webhook is back the next attempt heals by itself.
pub(crate) async fn webhook_down(lab: Arc<Lab>) -> Result<String> {
    let stage = Stage::new(lab, "webhook-down", Traffic::Istio).unjudged().initialised().await?;
    let load = stage.load(50).await?;
    scale(&stage, 0).await?;
    let revision = stage.commit("v2").await?;
    let ready = stage.flux_says(&revision, "False").await?;
    let said = at(&ready, "/message").as_str().unwrap_or_default().to_owned();
    ensure!(said.contains("webhook"), "{said}");
    ensure!(image(&stage.deployment("app").await?) == "app:v1", "v2 came in unheld");
    scale(&stage, 2).await?;
    let back = Instant::now();
    stage.flux_says(&revision, "True").await?;
    let healed = back.elapsed().as_secs_f64();
    stage.phase("Succeeded").await?;
    ensure!(image(&stage.deployment("app-primary").await?) == "app:v2");
    let counts = Counts::of(&load.stop().await);
    ensure!(counts.failed == 0, "{counts:?}");
    Ok(format!(
        "Ready=False naming the webhook, v1 serves on; applied {healed:.1} s after it is back, then promoted; {} requests, 0 failed",
        counts.total
    ))
}

async fn scale(stage: &Stage, replicas: i32) -> Result<()> {
    let own: Api<Deployment> = Api::namespaced(stage.client.clone(), sidetrack::NAMESPACE);
    let patch = json!({ "spec": { "replicas": replicas } });
    own.patch("sidetrack", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), sidetrack::NAMESPACE);
    until(&format!("Sidetrack has {replicas} pods"), async || {
        let number = pods.list(&ListParams::default()).await?.items.len();
        let available = own.get("sidetrack").await?.status.and_then(|s| s.available_replicas).unwrap_or(0);
        Ok((i32::try_from(number)? == replicas && available == replicas).then_some(()))
    })
    .await
}

/// The release needs Flux no more; after its return Flux finds what it applied.
pub(crate) async fn flux_killed(lab: Arc<Lab>) -> Result<String> {
    let stage = Stage::new(lab, "flux-killed", Traffic::Istio).unjudged().initialised().await?;
    let revision = stage.commit("v2").await?;
    stage.weight(20).await?;
    stage.lab.flux()?.lock().await.restart()?;
    stage.phase("Succeeded").await?;
    ensure!(image(&stage.deployment("app-primary").await?) == "app:v2");
    stage.flux_says(&revision, "True").await?;
    let mark = stage.lab.cp.audit().mark().await?;
    until("Flux has looked twice", async || Ok((stage.looks_since(mark).await? >= 2).then_some(()))).await?;
    let writes = stage.lab.cp.audit().requests_since(mark, lab::flux::USER).await?;
    let written = writes.iter().any(|r| {
        r.namespace == stage.sample.namespace
            && r.resource == "deployments"
            && r.is_write()
            && !r.uri.contains("dryRun")
    });
    ensure!(!written, "Flux wrote the Deployment again: {writes:?}");
    Ok("the release goes on and is promoted; Flux comes back and writes nothing".to_owned())
}

/// Traffic stays where it is; the run goes on when a replica leads again.
pub(crate) async fn sidetrack_killed(lab: Arc<Lab>) -> Result<String> {
    let stage = Stage::new(lab, "sidetrack-killed", Traffic::Istio).unjudged().initialised().await?;
    let load = stage.load(50).await?;
    stage.commit("v2").await?;
    stage.weight(20).await?;
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), sidetrack::NAMESPACE);
    let params = DeleteParams::default().grace_period(0);
    pods.delete_collection(&params, &ListParams::default()).await?;
    stage.phase("Succeeded").await?;
    ensure!(image(&stage.deployment("app-primary").await?) == "app:v2");
    let counts = Counts::of(&load.stop().await);
    ensure!(counts.failed == 0, "{counts:?}");
    Ok(format!("the run goes on and is promoted; {} requests, 0 failed", counts.total))
}
