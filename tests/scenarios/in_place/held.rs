//! A primary that is held: who scales and restarts it meets what runs, never what is held.

use super::{adopted, pods};
use anyhow::{Context as _, Result, ensure};
use harness::objects::{pods_of, ready};
use harness::outside::Outside;
use harness::{World, at, deployment, eventually, shared};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// v1 runs, v2 was rejected and is held.
async fn rejected(world: &World, prefix: &str) -> Result<String> {
    let outside = Outside::start().await?;
    outside.says("/load", 400, "no");
    let hook = json!([{"name": "load", "type": "rollout", "url": outside.url("/load")}]);
    let ns = adopted(prefix, &json!({"analysis": {"threshold": 1, "webhooks": hook}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Failed").await?;
    world.gone(&ns, "deploy", "app-canary").await?;
    Ok(ns)
}

async fn only_v1(world: &World, ns: &str, count: usize) -> Result<()> {
    world
        .until(ns, "deploy", "app", &format!("{count} pods"), |d| {
            let ready = at(d, "/status/readyReplicas").as_u64().unwrap_or(0);
            at(d, "/spec/replicas") == count && usize::try_from(ready) == Ok(count)
        })
        .await?;
    let all = pods(world, ns, "app").await?;
    ensure!(all.iter().all(|(_, image)| image == "app:v1"), "{all:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_an_autoscaler_scales_what_runs_also_from_nothing() -> Result<()> {
    let (world, _) = shared().await;
    let ns = rejected(world, "scaler").await?;
    let limits = |min: i32, max: i32| {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "app", "namespace": ns},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
                "minReplicas": min, "maxReplicas": max,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": 80}}}]},
        })
    };
    let timeline = world.timeline(&ns, &["pod"]).await?;
    world.cp.apply(limits(4, 6)).await?;
    only_v1(world, &ns, 4).await.context("scaled up by the autoscaler")?;
    world.cp.apply(limits(1, 3)).await?;
    only_v1(world, &ns, 3).await.context("scaled down by the autoscaler")?;
    // Of what has no pods an autoscaler keeps its hands off.
    world.scale(&ns, "app", 0).await?;
    only_v1(world, &ns, 0).await.context("scaled to nothing")?;
    world.until(&ns, "deploy", "app", "no pods", |d| at(d, "/status/replicas").is_null()).await?;
    world.cp.apply(limits(2, 3)).await?;
    world.scale(&ns, "app", 1).await?;
    only_v1(world, &ns, 2).await.context("scaled up from nothing, and further by the autoscaler")?;
    timeline
        .obeys(world, |cluster, _| {
            let all = pods_of(cluster, "app");
            let held = all.iter().any(|p| harness::objects::pod_image(p) == "app:v2");
            ensure!(!held, "a pod runs what is held");
            Ok(())
        })
        .await
}

fn budget(ns: &str, least: i32) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "app", "namespace": ns},
        "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "app"}}},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_a_held_primary_is_restarted_pod_by_pod_within_its_budget() -> Result<()> {
    let (world, sidetrack) = shared().await;
    let ns = rejected(world, "restart").await?;
    let names = async || -> Result<BTreeSet<String>> {
        Ok(pods(world, &ns, "app").await?.into_iter().map(|(name, _)| name).collect())
    };
    let before = names().await?;
    let native = world.kubectl_says(&["-n", &ns, "rollout", "restart", "deploy/app"]).await?;
    ensure!(native.contains("can't restart paused deployment"), "{native}");

    world.cp.apply(budget(&ns, 2)).await?;
    eventually("the budget is known", async || {
        let text = world.kubectl(&["-n", &ns, "get", "pdb", "app", "-o", "json"]).await?;
        let budget: Value = serde_json::from_str(&text)?;
        Ok((at(&budget, "/status/currentHealthy") == 2).then_some(()))
    })
    .await?;
    // Pods are older than a request by whole seconds.
    eventually("the pods are older than now", async || {
        let second = |text: &str| text.parse::<jiff::Timestamp>().map(|at| at.as_second());
        let all = world.list(&ns, "pod", "app=app").await?;
        let made: Vec<i64> =
            all.iter().filter_map(|p| second(at(p, "/metadata/creationTimestamp").as_str()?).ok()).collect();
        let now = sidetrack::clock::now().as_second();
        Ok(made.iter().all(|made| *made < now).then_some(()))
    })
    .await?;
    let timeline = world.timeline(&ns, &["pod"]).await?;
    let late = world.plugin(&ns, &["restart", "app", "--reason", "leak", "--timeout", "1s"]).await?;
    ensure!(late.code == 1, "{late:?}");
    let says = |c: &Value| {
        at(c, "/status/request/message")
            == "The primary is being restarted; its next pod waits: \
                Cannot evict pod as it would violate the pod's disruption budget."
    };
    let waits = world.until(&ns, "canary", "app", "the budget is named", says).await?;
    ensure!(at(&waits, "/status/request/outcome") == "Accepted", "{waits:#}");
    ensure!(names().await? == before, "no pod may go yet");
    world.cp.apply(budget(&ns, 1)).await?;
    let done = world
        .until(&ns, "canary", "app", "the restart is done", |c| at(c, "/status/request/outcome") == "Taken")
        .await?;
    ensure!(at(&done, "/status/phase") == "Failed", "v2 is held as before: {done:#}");
    only_v1(world, &ns, 2).await?;
    ensure!(names().await?.is_disjoint(&before), "{before:?} are still there");
    let held = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&held, "/spec/paused") == true && !held.to_string().contains("restartedAt"), "{held:#}");
    ensure!(sidetrack.logged()?.contains(&format!("alice asked to restart app.{ns}")));
    timeline
        .obeys(world, |cluster, state| {
            let there = |p: &&Value| ready(p) && at(p, "/metadata/deletionTimestamp").is_null();
            let serving = pods_of(cluster, "app").into_iter().filter(there).count();
            let begun = cluster.len() >= 2 || state.object.is_none();
            ensure!(!begun || serving >= 1, "no pod serves");
            Ok(())
        })
        .await
}
