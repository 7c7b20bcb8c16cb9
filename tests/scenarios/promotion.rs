//! Promotions that go wrong, are skipped, are suspended or tried again, and autoscalers.

use anyhow::{Result, ensure};
use harness::{at, canary, deployment, image, initialized, shared, weight};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn promotion_whose_primary_never_gets_ready_is_taken_back() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("takeback", &json!({"progressDeadlineSeconds": 15})).await?;
    let mut broken = deployment(&ns, "v2", 2);
    broken["spec"]["template"]["metadata"]["labels"]["ready"] = json!("canaryonly");
    world.flux(broken).await?;
    world.phase(&ns, "Failed").await?;
    world.event(&ns, &format!("Promotion of app.{ns} failed, primary not ready")).await?;
    let primary = world
        .until(&ns, "deploy", "app-primary", "v1 is back", |d| at(d, "/status/readyReplicas") == 2)
        .await?;
    ensure!(image(&primary) == "app:v1");
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == Some(0));
    let target = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&target, "/spec/paused") == true && at(&target, "/spec/replicas") == 0);
    let promoted = at(&target, "/metadata/annotations/sidetrack.dev~1promoted").clone();
    ensure!(promoted == *at(&primary, "/metadata/annotations/sidetrack.dev~1promoted"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_analysis_promotes_without_weight() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("skip", &json!({"skipAnalysis": true})).await?;
    let timeline = world.timeline(&ns, &["vs"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Succeeded").await?;
    world.event(&ns, &format!("Promotion completed! Canary analysis was skipped for app.{ns}")).await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    ensure!(timeline.values(world, "vs", "app", weight).await? == [0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_canary_holds_revisions_and_releases_them_when_resumed() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("suspend", &json!({})).await?;
    world.merge(&ns, "canary", "app", json!({"spec": {"suspend": true}})).await?;
    world.event(&ns, "skipping canary run as object is suspended").await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let target = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&target, "/spec/paused") == true && at(&target, "/spec/replicas") == 0);
    world
        .until(&ns, "canary", "app", "the hold is named", |canary| {
            let conditions = at(canary, "/status/conditions").as_array().cloned().unwrap_or_default();
            let waits = |type_: &str| {
                conditions.iter().any(|c| {
                    c["type"] == type_
                        && c["status"] == "Unknown"
                        && c["message"].to_string().contains("spec.suspend is true")
                })
            };
            waits("Ready") && waits("Promoted")
        })
        .await?;
    world.merge(&ns, "canary", "app", json!({"spec": {"suspend": false}})).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_revision_is_tried_again_when_its_mark_is_removed() -> Result<()> {
    let (world, _) = shared().await;
    let outside = harness::outside::Outside::start().await?;
    outside.says("/check", 400, "no");
    let hook = json!([{"name": "check", "type": "pre-rollout", "url": outside.url("/check")}]);
    let ns = initialized("retry", &json!({"analysis": {"threshold": 1, "webhooks": hook}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Failed").await?;
    outside.says("/check", 200, "");
    world
        .merge(&ns, "deploy", "app", json!({"metadata": {"annotations": {"sidetrack.dev/failed": null}}}))
        .await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn autoscaler_is_copied_for_the_primary_and_follows_at_promotion() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("scaler").await?;
    let scaler = |max: i32| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "app", "namespace": ns},
            "spec": {"minReplicas": 2, "maxReplicas": max,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
                "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": 80}}}]}})
    };
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.flux(scaler(4)).await?;
    let reference = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "name": "app"});
    world.cp.apply(canary(&ns, &json!({"autoscalerRef": reference}))).await?;
    world.phase(&ns, "Initialized").await?;
    let copy = world.get(&ns, "hpa", "app-primary").await?;
    ensure!(at(&copy, "/spec/scaleTargetRef/name") == "app-primary" && at(&copy, "/spec/maxReplicas") == 4);
    // What the autoscaler gave the primary is its own.
    world.scale(&ns, "app-primary", 3).await?;
    world.flux(scaler(6)).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(at(&world.get(&ns, "hpa", "app-primary").await?, "/spec/maxReplicas") == 6);
    let primary = world.get(&ns, "deploy", "app-primary").await?;
    ensure!(image(&primary) == "app:v2" && at(&primary, "/spec/replicas") == 3, "{primary:#}");
    Ok(())
}
