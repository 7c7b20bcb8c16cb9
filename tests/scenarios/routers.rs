//! Every router: the weights of a release, and what other people do to the routes meanwhile.

use crate::in_place::adopted;
use anyhow::{Result, ensure};
use harness::outside::{Outside, no_sample, sample};
use harness::{at, deployment, eventually, image, initialized, shared, weight};
use serde_json::{Value, json};

/// Plays a release and compares the weights that the route passed through.
async fn story(ns: &str, kind: &'static str, read: fn(&Value) -> Option<i64>) -> Result<()> {
    let (world, _) = shared().await;
    let timeline = world.timeline(ns, &[kind]).await?;
    world.flux(deployment(ns, "v2", 2)).await?;
    world.phase(ns, "Succeeded").await?;
    let weights = timeline.values(world, kind, "app", read).await?;
    ensure!(weights == [0, 25, 50, 0], "weights were {weights:?}");
    let primary = world.get(ns, "deploy", "app-primary").await?;
    let primary = if primary.is_null() { world.get(ns, "deploy", "app").await? } else { primary };
    ensure!(image(&primary) == "app:v2");
    Ok(())
}

/// The same in both layouts.
async fn both(prefix: &str, provider: &str, kind: &'static str) -> Result<()> {
    let spec = json!({"provider": provider});
    let ns = initialized(prefix, &spec).await?;
    story(&ns, kind, split_weight).await?;
    let ns = adopted(&format!("{prefix}inplace"), &spec).await?;
    story(&ns, kind, split_weight).await
}

fn split_weight(split: &Value) -> Option<i64> {
    let all = split.pointer("/spec/backends")?.as_array()?;
    let weight = all.iter().find(|b| b["service"] == "app-canary")?.get("weight")?;
    weight.as_i64().or_else(|| weight.as_str()?.parse().ok())
}

fn route_weight(route: &Value) -> Option<i64> {
    let all = route.pointer("/spec/rules/0/backendRefs")?.as_array()?;
    all.iter().find(|b| b["name"] == "app-canary")?.get("weight")?.as_i64()
}

#[tokio::test(flavor = "multi_thread")]
async fn smi_v1alpha1_splits_the_traffic() -> Result<()> {
    both("smi1", "smi:v1alpha1", "split:v1alpha1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn smi_v1alpha2_splits_the_traffic() -> Result<()> {
    both("smi2", "smi:v1alpha2", "split:v1alpha2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn smi_v1alpha3_splits_the_traffic() -> Result<()> {
    both("smi3", "smi:v1alpha3", "split:v1alpha3").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traefik_service_splits_the_traffic() -> Result<()> {
    let spec = json!({"provider": "traefik"});
    let ns = initialized("traefik", &spec).await?;
    story(&ns, "traefikservice", traefik_weight).await?;
    let (world, _) = shared().await;
    let route = world.get(&ns, "traefikservice", "app").await?;
    let services = json!([{"name": "app-primary", "namespace": ns, "port": 80, "weight": 100}]);
    ensure!(route["spec"] == json!({"weighted": {"services": services}}), "{route:#}");
    let ns = adopted("traefikinplace", &spec).await?;
    story(&ns, "traefikservice", traefik_weight).await
}

/// One that was there before is its owner's: nothing is released behind it, and it is not touched.
#[tokio::test(flavor = "multi_thread")]
async fn a_traefik_service_of_somebody_elses_is_left_alone() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("traefiktaken").await?;
    let theirs = json!({"apiVersion": "traefik.io/v1alpha1", "kind": "TraefikService",
        "metadata": {"name": "app", "namespace": ns},
        "spec": {"weighted": {"services": [{"name": "app", "port": 80}]}}});
    world.flux(theirs).await?;
    let before = world.get(&ns, "traefikservice", "app").await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.cp.apply(harness::canary(&ns, &json!({"provider": "traefik"}))).await?;
    let refused =
        format!("TraefikService app.{ns} exists and was not made for this Canary; it is not overwritten.");
    world
        .until(&ns, "canary", "app", "the refusal", |canary| {
            canary.pointer("/status/conditions").is_some_and(|c| c.to_string().contains(&refused))
        })
        .await?;
    ensure!(world.get(&ns, "traefikservice", "app").await? == before);
    Ok(())
}

fn traefik_weight(service: &Value) -> Option<i64> {
    let all = service.pointer("/spec/weighted/services")?.as_array()?;
    // The canary's entry is there only while it gets some.
    all.iter().find(|b| b["name"] == "app-canary").map_or(Some(0), |b| b["weight"].as_i64())
}

fn behind_a_gateway() -> Value {
    json!({"provider": "gatewayapi:v1", "service": {"gatewayRefs": [{"name": "gateway", "namespace": "default"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_api_splits_the_traffic_and_its_status_is_waited_for() -> Result<()> {
    let ns = initialized("gateway", &behind_a_gateway()).await?;
    waited_for(&ns, "app").await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_gateway_api_splits_the_traffic_and_its_status_is_waited_for() -> Result<()> {
    let ns = adopted("gatewayinplace", &behind_a_gateway()).await?;
    waited_for(&ns, "app-canary").await
}

/// A release behind a gateway that takes up a generation when it is told to; `canary` has the canary's pods.
async fn waited_for(ns: &str, canary: &str) -> Result<()> {
    let (world, _) = shared().await;
    let gateway = json!({"name": "gateway", "namespace": "default"});
    let accept = async |least: i64| {
        let route = world.get(ns, "httproute", "app").await?;
        if route_weight(&route) < Some(least) {
            return Ok(());
        }
        let status = json!({"status": {"parents": [{
            "controllerName": "example.com/gateway", "parentRef": gateway,
            "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
                "observedGeneration": at(&route, "/metadata/generation")}],
        }]}});
        let patch = kube::api::Patch::Merge(&status);
        let api = world.api(ns, "httproute")?;
        api.patch_status("app", &kube::api::PatchParams::default(), &patch).await?;
        anyhow::Ok(())
    };
    accept(0).await?;
    let timeline = world.timeline(ns, &["httproute", "deploy"]).await?;
    world.flux(deployment(ns, "v2", 2)).await?;
    world.event(ns, "parent gateway is not ready (status: True, observed generation: 1").await?;
    eventually("the weights are taken up, and the last is promoted", async || {
        accept(1).await?;
        let now = world.get(ns, "canary", "app").await?;
        Ok((at(&now, "/status/phase") == "Finalising").then_some(()))
    })
    .await?;
    // Weight 0 stands in the route, but the gateway has not seen it: the canary keeps its pods.
    let target = world.get(ns, "deploy", canary).await?;
    ensure!(at(&target, "/spec/replicas") == 2, "pods went before the gateway knew");
    eventually("the gateway has taken up the route", async || {
        accept(0).await?;
        let now = world.get(ns, "canary", "app").await?;
        Ok((at(&now, "/status/phase") == "Succeeded").then_some(()))
    })
    .await?;
    let weights = timeline.values(world, "httproute", "app", route_weight).await?;
    ensure!(weights == [0, 25, 50, 0], "weights were {weights:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_edits_stay_and_foreign_weights_do_not() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("requests", 200, &no_sample());
    let ns = initialized(
        "foreign",
        &json!({"metricsServer": outside.url(""), "analysis": {"threshold": 1000, "metrics": [
            {"name": "requests", "query": "requests", "thresholdRange": {"min": 1}}]}}),
    )
    .await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight 25", |vs| weight(vs) == Some(25)).await?;
    let timeline = world.timeline(&ns, &["vs"]).await?;
    let fault = json!({"abort": {"httpStatus": 418, "percentage": {"value": 0}}});
    let edit = json!([{"op": "add", "path": "/spec/http/0/fault", "value": fault}]);
    world.edit(&ns, "vs", "app", edit).await?;
    world.event(&ns, "no values found").await?;
    ensure!(timeline.values(world, "vs", "app", weight).await? == [25], "an edit resets no weight");

    let reset = json!([{"op": "replace", "path": "/spec/http/0/route/0/weight", "value": 100},
        {"op": "replace", "path": "/spec/http/0/route/1/weight", "value": 0}]);
    world.edit(&ns, "vs", "app", reset).await?;
    world.until(&ns, "vs", "app", "weight 25 again", |vs| weight(vs) == Some(25)).await?;
    world
        .event(&ns, &format!("Routes of app.{ns} were changed to canary weight 0, restoring weight 25"))
        .await?;

    world.delete(&ns, "vs", "app").await?;
    world.until(&ns, "vs", "app", "it is made again", |vs| weight(vs) == Some(25)).await?;
    world
        .edit(&ns, "vs", "app", json!([{"op": "add", "path": "/spec/http/0/fault", "value": fault}]))
        .await?;
    outside.says("requests", 200, &sample("2"));
    world.phase(&ns, "Succeeded").await?;
    let route = world.get(&ns, "vs", "app").await?;
    ensure!(weight(&route) == Some(0) && *at(&route, "/spec/http/0/fault") == fault);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_service_of_the_owner_are_adopted_and_kept_when_the_canary_goes() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("adopt").await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    let metadata = json!({"name": "app", "namespace": ns, "labels": {"team": "shop"}});
    world
        .flux(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {
        "selector": {"app": "app"},
        "ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "admin", "port": 9901}]}}))
        .await?;
    world
        .flux(json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService",
        "metadata": metadata, "spec": {"hosts": ["shop.example.com"],
        "http": [{"route": [{"destination": {"host": "app"}}]}]}}))
        .await?;
    world.cp.apply(harness::canary(&ns, &json!({"service": {"hosts": ["shop.example.com"]}}))).await?;
    world.phase(&ns, "Initialized").await?;
    let service = world.get(&ns, "svc", "app").await?;
    ensure!(
        at(&service, "/spec/selector/app") == "app-primary"
            && at(&service, "/metadata/labels/team") == "shop"
    );
    ensure!(service.to_string().contains("\"admin\""), "the owner's own port stays: {service:#}");
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == Some(0));
    story(&ns, "vs", weight).await?;
    world.delete(&ns, "canary", "app").await?;
    world.gone(&ns, "canary", "app").await?;
    let service = world.get(&ns, "svc", "app").await?;
    ensure!(at(&service, "/spec/selector/app") == "app", "{service:#}");
    let route = world.get(&ns, "vs", "app").await?;
    ensure!(at(&route, "/spec/http/0/route/0/destination/host") == "app", "{route:#}");
    Ok(())
}
