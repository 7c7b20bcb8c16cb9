//! A revision that arrives while another one is on its way.

use anyhow::{Result, ensure};
use harness::objects::{Cluster, lawful, pod_image, pods_of};
use harness::outside::{Outside, no_sample, sample};
use harness::{at, deployment, image, initialized, shared, weight};
use serde_json::json;

fn weight_in(cluster: &Cluster) -> i64 {
    cluster.get(&("vs", "app".to_owned())).and_then(weight).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_revision_gets_pods_only_after_the_weight_of_the_older_is_gone() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("newer", &json!({"analysis": {"stepWeight": 10}})).await?;
    let timeline = world.timeline(&ns, &["pod", "vs"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight 20", |vs| weight(vs) == Some(20)).await?;
    world.flux(deployment(&ns, "v3", 2)).await?;
    world.event(&ns, &format!("New revision detected! Restarting analysis for app.{ns}")).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v3");
    let mut seen = false;
    timeline
        .obeys(world, |cluster, state| {
            lawful(cluster)?;
            let newer = pods_of(cluster, "app").into_iter().any(|p| pod_image(p) == "app:v3");
            if newer && !seen {
                seen = true;
                ensure!(weight_in(cluster) == 0, "weight {} meets v3", weight_in(cluster));
            }
            let primary = pods_of(cluster, "app-primary");
            ensure!(primary.iter().all(|p| pod_image(p) != "app:v2"), "v2 was never promoted: {state:?}");
            Ok(())
        })
        .await?;
    ensure!(seen);
    let weights = timeline.values(world, "vs", "app", weight).await?;
    ensure!(weights.ends_with(&[0, 10, 20, 30, 40, 50, 0]), "{weights:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn revision_that_arrives_during_promotion_comes_next() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("next", &json!({})).await?;
    let timeline = world.timeline(&ns, &["pod", "vs", "canary"]).await?;
    // Pods of the primary take their time.
    let mut slow = deployment(&ns, "v2", 2);
    slow["spec"]["template"]["metadata"]["annotations"] = json!({"ready-after": "2"});
    world.flux(slow).await?;
    world.phase(&ns, "Promoting").await?;
    world.flux(deployment(&ns, "v3", 2)).await?;
    world.until(&ns, "deploy", "app-primary", "v3 is promoted", |d| image(d) == "app:v3").await?;
    world.phase(&ns, "Succeeded").await?;
    let phases = timeline
        .values(world, "canary", "app", |c| at(c, "/status/phase").as_str().map(str::to_owned))
        .await?;
    let outcomes = phases.iter().filter(|p| *p == "Succeeded").count();
    ensure!(outcomes == 2, "both revisions were promoted, one after the other: {phases:?}");
    timeline.obeys(world, |cluster, _| lawful(cluster)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn target_deleted_at_weight_leaves_the_primary_serving() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("deleted", &json!({"analysis": {"stepWeight": 5}})).await?;
    let timeline = world.timeline(&ns, &["pod", "vs"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight", |vs| weight(vs) > Some(0)).await?;
    world.delete(&ns, "deploy", "app").await?;
    world.gone(&ns, "deploy", "app").await?;
    world.phase(&ns, "Failed").await?;
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == Some(0));
    let primary = world.get(&ns, "deploy", "app-primary").await?;
    ensure!(image(&primary) == "app:v1" && at(&primary, "/status/readyReplicas") == 2);
    let mut stood = false;
    timeline
        .obeys(world, |cluster, _| {
            let pods = pods_of(cluster, "app").len();
            stood |= pods == 2 && weight_in(cluster) > 0;
            ensure!(!stood || pods > 0 || weight_in(cluster) == 0, "weight on no pods");
            Ok(())
        })
        .await?;
    // Applied again, it is adopted; what the primary does not run is analysed.
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn canary_whose_pods_lose_readiness_loses_its_weight() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("requests", 200, &no_sample());
    let spec = json!({"metricsServer": outside.url(""), "analysis": {"threshold": 1000, "metrics": [
        {"name": "requests", "query": "requests", "thresholdRange": {"min": 1}}]}});
    let ns = initialized("unready", &spec).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight", |vs| weight(vs) == Some(25)).await?;
    // The label makes the fake kubelet leave them unready.
    for pod in world.list(&ns, "pod", "app=app").await? {
        let name = at(&pod, "/metadata/name").as_str().unwrap_or_default();
        world.merge(&ns, "pod", name, json!({"metadata": {"labels": {"ready": "never"}}})).await?;
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let patch = kube::api::Patch::Strategic(&status);
        world.api(&ns, "pod")?.patch_status(name, &kube::api::PatchParams::default(), &patch).await?;
    }
    world.until(&ns, "vs", "app", "no weight", |vs| weight(vs) == Some(0)).await?;
    world.event(&ns, &format!("no ready pods of app.{ns} at weight 25")).await?;
    for pod in world.list(&ns, "pod", "app=app").await? {
        let name = at(&pod, "/metadata/name").as_str().unwrap_or_default();
        world.merge(&ns, "pod", name, json!({"metadata": {"labels": {"ready": null}}})).await?;
    }
    outside.says("requests", 200, &sample("1"));
    let done = world.phase(&ns, "Succeeded").await?;
    ensure!(at(&done, "/status/canaryWeight") == 0);
    Ok(())
}
