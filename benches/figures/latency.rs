//! How soon a new template runs: from the return of the client's write to the watch event with pods asked for.

use crate::api::{Api, canary, deployment, new_template};
use crate::report::{Report, quantile};
use anyhow::{Context as _, Result};
use futures::{StreamExt as _, pin_mut};
use harness::{PATIENCE, World};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Replicas of a Deployment and when they were seen.
type Seen = (i32, Instant);

/// The Canary that is released again and again, alone: side by side, releases would measure how the control plane shares
/// its cores.
const NAME: &str = "app";

/// Releases at random moments.
pub(crate) async fn measure(world: &World, report: &mut Report) -> Result<()> {
    if !report.wants("latency") {
        return Ok(());
    }
    let api = Api::new(world, "latency").await?;
    let (sender, seen) = watch::channel((0, Instant::now()));
    let following = tokio::spawn(follow(api.clone(), sender));
    let (mut writes, mut samples) = releases(&api, report.either(100, 2), seen).await?;
    following.abort();
    let beside = "goal 100; Flagger: half an interval";
    let count = samples.len();
    let (half, most) = (quantile(&mut samples, 0.5), quantile(&mut samples, 0.99));
    report.figure(&format!("apply to scale-up, p50 of {count}"), half, "ms", beside);
    report.figure(&format!("apply to scale-up, p99 of {count}"), most, "ms", beside);
    let (half, most) = (quantile(&mut writes, 0.5), quantile(&mut writes, 0.99));
    report.figure("the apply itself, p50", half, "ms", "each scale-up takes three such writes");
    report.figure("the apply itself, p99", most, "ms", "");
    Ok(())
}

async fn follow(api: Api, sender: watch::Sender<Seen>) {
    let deployments = kube::Api::<Deployment>::namespaced(api.client, &api.namespace);
    let events = watcher(deployments, watcher::Config::default()).default_backoff().applied_objects();
    pin_mut!(events);
    while let Some(event) = events.next().await {
        if let Ok(deployment) = event
            && deployment.name_any() == NAME
        {
            let replicas = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(0);
            sender.send_replace((replicas, Instant::now()));
        }
    }
}

/// Milliseconds that each write took, and from its return to pods asked for.
async fn releases(api: &Api, rounds: usize, mut seen: watch::Receiver<Seen>) -> Result<(Vec<f64>, Vec<f64>)> {
    api.create("deployments", &deployment(api, NAME)).await?;
    let mut object = canary(api, NAME, &json!({"interval": "1s", "stepWeight": 50, "maxWeight": 50}));
    json_patch::merge(&mut object, &json!({"spec": {"skipAnalysis": true}}));
    api.create("canaries", &object).await?;
    let (mut writes, mut samples) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        api.phase(NAME, &["Initialized", "Succeeded"], PATIENCE).await?;
        seen.wait_for(|(replicas, _)| *replicas == 0).await.context("the watch ended")?;
        let random = RandomState::new().build_hasher().finish();
        // Anywhere within an interval, as people write.
        tokio::time::sleep(Duration::from_millis(random % 1000)).await;
        let begun = Instant::now();
        api.merge("deployments", NAME, &new_template(round + 2)).await?;
        let written = Instant::now();
        let scaled = seen.wait_for(|(replicas, _)| *replicas > 0);
        let (_, at) = *tokio::time::timeout(PATIENCE, scaled).await.context("no pods")??;
        writes.push((written - begun).as_secs_f64() * 1e3);
        samples.push(at.saturating_duration_since(written).as_secs_f64() * 1e3);
    }
    Ok((writes, samples))
}
