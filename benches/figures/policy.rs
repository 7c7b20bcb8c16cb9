//! What it costs to enrol hundreds of Deployments by one policy, and to have them enrolled.

use crate::api::{Api, deployment, phase_is};
use crate::idle;
use crate::report::Report;
use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use ground::SIDETRACK;
use harness::{World, eventually, service_of};
use serde_json::json;
use std::time::{Duration, Instant};

const NAMESPACES: usize = 20;
/// Requests under way at once.
const AT_ONCE: usize = 8;
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Deployments that run already are adopted by one policy, on a control plane of their own.
pub(crate) async fn measure(report: &mut Report, window: Duration) -> Result<()> {
    let each = report.either(25, 2);
    let count = NAMESPACES * each;
    let world = World::start(true).await?;
    let apis: Vec<Api> = stream::iter(0..NAMESPACES)
        .then(async |_| {
            let api = Api::new(&world, "team").await?;
            let labels = json!({"metadata": {"labels": {"team": "all"}}});
            world.merge("", "namespace", &api.namespace, labels).await?;
            anyhow::Ok(api)
        })
        .try_collect()
        .await?;
    stream::iter((0..each).flat_map(|n| apis.iter().map(move |api| (n, api))))
        .map(async |(n, api)| {
            let name = format!("app-{n}");
            api.create("services", &service_of(&api.namespace, &name)).await?;
            api.create("deployments", &deployment(api, &name)).await
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    eventually("all of them run", async || {
        for api in &apis {
            let all = api.list("deployments").await?;
            let runs =
                |d: &&serde_json::Value| d.pointer("/status/readyReplicas") == d.pointer("/spec/replicas");
            if all.iter().filter(runs).count() < each {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    let sidetrack = world.run(&[])?;
    world.wait_for_webhook().await.with_context(|| sidetrack.logged().unwrap_or_default())?;
    let audit = world.cp.audit();
    let mark = audit.mark().await?;
    let begun = Instant::now();
    world
        .cp
        .apply(json!({
            "apiVersion": "sidetrack.dev/v1alpha1", "kind": "CanaryPolicy", "metadata": {"name": "all"},
            "spec": {
                "namespaceSelector": {"matchLabels": {"team": "all"}}, "maxTargets": 1000,
                "canary": {"analysis": {"interval": "1m", "threshold": 2, "stepWeight": 10, "maxWeight": 50}},
            },
        }))
        .await?;
    ground::eventually("all of them are adopted", PATIENCE, async || {
        for api in &apis {
            let all = api.list("canaries").await?;
            if all.iter().filter(|canary| phase_is(canary, &["Initialized"])).count() < each {
                tokio::time::sleep(Duration::from_millis(500)).await; // long lists: asked seldom
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    let seconds = begun.elapsed().as_secs_f64();
    let seen = audit.requests_since(mark, SIDETRACK).await?;
    let requests = seen.iter().filter(|r| idle::is_work(r)).count();
    let name = format!("{count} Deployments in {NAMESPACES} namespaces adopted by one policy");
    report.figure(&format!("{name}: time"), seconds, "s", "Flagger: a Canary each, by hand");
    report.figure(&format!("{name}: requests for each"), requests as f64 / count as f64, "", "");
    idle::quiet(&world).await?;
    let mark = audit.mark().await?;
    tokio::time::sleep(window).await;
    let seen = audit.requests_since(mark, SIDETRACK).await?;
    let idle = seen.iter().filter(|r| idle::is_work(r)).count();
    report.figure(
        &format!("{name}: requests while idle"),
        idle as f64 * 60.0 / window.as_secs_f64(),
        "/min",
        "goal 0",
    );
    let (now, highest) = sidetrack.memory()?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    report.figure(&format!("{name}: resident memory"), mib(now), "MiB", "");
    report.figure(&format!("{name}: resident memory at its highest"), mib(highest), "MiB", "");
    Ok(())
}
