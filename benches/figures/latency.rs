//! How soon a new template runs: from the return of the client's write to the watch event with pods asked for.

use crate::api::{Api, canary, deployment, new_template};
use crate::harness::{PATIENCE, World};
use crate::report::{Report, quantile};
use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Canaries that are released side by side, each again and again.
const CANARIES: usize = 4;

/// Replicas of a Deployment and when they were seen.
type Seen = (i32, Instant);

/// Releases at random moments.
pub(crate) async fn measure(world: &World, report: &mut Report) -> Result<()> {
    if !report.wants("latency") {
        return Ok(());
    }
    let api = Api::new(world, "latency").await?;
    let names: Vec<String> = (0..CANARIES).map(|n| format!("app-{n}")).collect();
    let mut senders = HashMap::new();
    let mut tasks = Vec::new();
    let rounds = report.either(13, 2);
    for name in names {
        let (sender, seen) = watch::channel((0, Instant::now()));
        senders.insert(name.clone(), sender);
        tasks.push(releases(&api, name, rounds, seen));
    }
    let following = tokio::spawn(follow(api.clone(), senders));
    let samples = try_join_all(tasks).await?;
    following.abort();
    let mut samples: Vec<f64> = samples.into_iter().flatten().collect();
    let beside = "goal 100; Flagger: half an interval";
    let count = samples.len();
    let (half, most) = (quantile(&mut samples, 0.5), quantile(&mut samples, 0.99));
    report.figure(&format!("apply to scale-up, p50 of {count}"), half, "ms", beside);
    report.figure(&format!("apply to scale-up, p99 of {count}"), most, "ms", beside);
    Ok(())
}

async fn follow(api: Api, senders: HashMap<String, watch::Sender<Seen>>) {
    let deployments = kube::Api::<Deployment>::namespaced(api.client, &api.namespace);
    let events = watcher(deployments, watcher::Config::default()).default_backoff().applied_objects();
    pin_mut!(events);
    while let Some(event) = events.next().await {
        if let Ok(deployment) = event
            && let Some(sender) = senders.get(&deployment.name_any())
        {
            let replicas = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(0);
            sender.send_replace((replicas, Instant::now()));
        }
    }
}

async fn releases(
    api: &Api,
    name: String,
    rounds: usize,
    mut seen: watch::Receiver<Seen>,
) -> Result<Vec<f64>> {
    api.create("deployments", &deployment(api, &name)).await?;
    let analysis = json!({"interval": "1s", "stepWeight": 50, "maxWeight": 50});
    api.create("canaries", &canary(api, &name, &analysis)).await?;
    let mut samples = Vec::new();
    for round in 0..rounds {
        api.phase(&name, &["Initialized", "Succeeded"], PATIENCE).await?;
        seen.wait_for(|(replicas, _)| *replicas == 0).await.context("the watch ended")?;
        let random = RandomState::new().build_hasher().finish();
        // Anywhere within an interval, as people write.
        tokio::time::sleep(Duration::from_millis(random % 1000)).await;
        api.merge("deployments", &name, &new_template(round + 2)).await?;
        let written = Instant::now();
        let scaled = seen.wait_for(|(replicas, _)| *replicas > 0);
        let (_, at) = *tokio::time::timeout(PATIENCE, scaled).await.context("no pods")??;
        samples.push(at.saturating_duration_since(written).as_secs_f64() * 1e3);
    }
    Ok(samples)
}
