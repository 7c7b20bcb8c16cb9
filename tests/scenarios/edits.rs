//! What people change on a Canary while it serves, and who else writes on what it made.

use crate::in_place::adopted;
use anyhow::{Result, ensure};
use harness::{at, deployment, eventually, image, initialized, service_of, shared, weight};
use serde_json::{Value, json};

fn adopted_service(canary: &Value) -> &Value {
    at(canary, "/status/adopted/service")
}

/// The run ends on the route on which it began; then its application is served by the new name, and no weight is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn in_place_a_service_that_is_renamed_in_a_run_keeps_its_route_until_the_run_is_over() -> Result<()> {
    let (world, _) = shared().await;
    let ns = adopted("renamed", &json!({})).await?;
    let mut other = service_of(&ns, "web");
    json_patch::merge(&mut other, &json!({"spec": {"selector": {"app": "app"}}}));
    world.flux(other).await?;
    let pods = crate::in_place::pods(world, &ns, "app").await?;
    let timeline = world.timeline(&ns, &["vs"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "a weight", |vs| weight(vs) == Some(25)).await?;
    world.merge(&ns, "canary", "app", json!({"spec": {"service": {"name": "web"}}})).await?;
    world.until(&ns, "vs", "app", "the next weight", |vs| weight(vs) == Some(50)).await?;
    let canary = world.get(&ns, "canary", "app").await?;
    let warnings = at(&canary, "/status/warnings").to_string();
    ensure!(warnings.contains("spec.service.name was app and is web"), "{canary:#}");
    let canary = world
        .until(&ns, "canary", "app", "the other name", |c| {
            adopted_service(c) == "web" && at(c, "/status/phase") == "Initialized"
        })
        .await?;
    ensure!(at(&canary, "/status/canaryWeight") == 0, "{canary:#}");
    for (kind, name) in
        [("vs", "app"), ("svc", "app-primary"), ("svc", "app-canary"), ("deploy", "app-canary")]
    {
        world.gone(&ns, kind, name).await?;
    }
    ensure!(timeline.values(world, "vs", "app", weight).await? == [0, 25, 50, 0]);
    ensure!(image(&world.get(&ns, "deploy", "app").await?) == "app:v2");
    ensure!(crate::in_place::pods(world, &ns, "app").await?.len() == pods.len());
    world.flux(deployment(&ns, "v3", 2)).await?;
    world.until(&ns, "vs", "web", "a weight by the new name", |vs| weight(vs) == Some(25)).await?;
    world.phase(&ns, "Succeeded").await?;
    Ok(())
}

/// Nothing that was made for the provider before stays, and no request is lost: the target serves meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn another_provider_is_taken_up_between_releases() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("provider", &json!({})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Succeeded").await?;
    world.merge(&ns, "canary", "app", json!({"spec": {"provider": "smi:v1alpha2"}})).await?;
    let canary = world
        .until(&ns, "canary", "app", "the other provider", |c| {
            at(c, "/status/adopted/provider") == "smi:v1alpha2" && at(c, "/status/phase") == "Initialized"
        })
        .await?;
    world.gone(&ns, "vs", "app").await?;
    ensure!(!world.get(&ns, "split:v1alpha2", "app").await?.is_null());
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    let past = at(&canary, "/status/history").as_array().map_or(0, Vec::len);
    ensure!(past == 2, "{:#}", at(&canary, "/status/history"));
    Ok(())
}

/// A Deployment of another name: the one before is plain again, and no finalizer of ours keeps its namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_renamed_is_let_go() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("target", &json!({})).await?;
    let mut next = deployment(&ns, "v9", 1);
    json_patch::merge(
        &mut next,
        &json!({"metadata": {"name": "next"}, "spec": {"selector": {"matchLabels": {"app": "next"}},
            "template": {"metadata": {"labels": {"app": "next"}}}}}),
    );
    world.flux(next).await?;
    world.merge(&ns, "canary", "app", json!({"spec": {"targetRef": {"name": "next"}}})).await?;
    let old = world
        .until(&ns, "deploy", "app", "it is plain and has its pods", |d| {
            at(d, "/metadata/labels/sidetrack.dev~1canary").is_null() && at(d, "/status/readyReplicas") == 2
        })
        .await?;
    ensure!(!old.to_string().contains("sidetrack.dev/traffic"), "{old:#}");
    world.gone(&ns, "deploy", "app-primary").await?;
    world.until(&ns, "canary", "app", "the new one", |c| at(c, "/status/phase") == "Initialized").await?;
    world.until(&ns, "deploy", "next-primary", "its pods", |d| at(d, "/status/readyReplicas") == 1).await?;
    Ok(())
}

/// A gateway that never takes the route up keeps neither a rejected revision's pods nor a Canary that leaves.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_gone_does_not_keep_a_canary_from_leaving() -> Result<()> {
    let (world, _) = shared().await;
    let gateway = json!({"name": "gateway", "namespace": "default"});
    let spec = json!({"provider": "gatewayapi:v1", "progressDeadlineSeconds": 15, "service": {"gatewayRefs": [gateway]}});
    let ns = initialized("stale", &spec).await?;
    let status = json!({"status": {"parents": [{
        "controllerName": "example.com/gateway", "parentRef": gateway,
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}],
    }]}});
    let patch = kube::api::Patch::Merge(&status);
    world.api(&ns, "httproute")?.patch_status("app", &kube::api::PatchParams::default(), &patch).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let canary = world.phase(&ns, "Failed").await?;
    let why = at(&canary, "/status/conditions").to_string();
    ensure!(why.contains("parent gateway is not ready"), "{why}");
    world.delete(&ns, "canary", "app").await?;
    world.gone(&ns, "canary", "app").await?;
    world
        .until(&ns, "deploy", "app", "the promoted revision serves", |d| {
            image(d) == "app:v1" && at(d, "/status/readyReplicas") == 2
        })
        .await?;
    Ok(())
}

/// Cloud controllers write on Services: nobody fights about it.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_on_a_service_of_ours_stays() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("negs", &json!({})).await?;
    let note = json!({"metadata": {"annotations": {"cloud.example.com/neg-status": "{}"}, "labels": {"seen": "yes"}}});
    for name in ["app", "app-canary", "app-primary"] {
        world.merge(&ns, "svc", name, note.clone()).await?;
    }
    // What is ours is repaired meanwhile, so the controller has seen it all.
    world.merge(&ns, "svc", "app-canary", json!({"spec": {"selector": {"app": "other"}}})).await?;
    world.until(&ns, "svc", "app-canary", "repaired", |s| at(s, "/spec/selector/app") == "app").await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Succeeded").await?;
    eventually("all of it is there", async || {
        for name in ["app", "app-canary", "app-primary"] {
            let metadata = at(&world.get(&ns, "svc", name).await?, "/metadata").clone();
            if at(&metadata, "/labels/seen") != "yes" || !metadata.to_string().contains("neg-status") {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}
