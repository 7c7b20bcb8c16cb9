//! Routes that applications had before.

use super::{bare, canary, service, stalled, workload};
use anyhow::{Result, ensure};
use harness::{World, at, shared};
use serde_json::{Value, json};

const GATE: &str = r#"{"webhooks": [{"name": "gate", "type": "confirm-promotion", "url": "http://127.0.0.1:9/"}], "stepWeight": 50}"#;

fn virtual_service(ns: &str, http: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService",
        "metadata": {"name": "app", "namespace": ns, "labels": {"team": "shop"}, "annotations": {"mail": "shop@example"}},
        "spec": {
            "hosts": ["shop.example.com"], "gateways": ["istio-system/public"], "http": http,
            "tls": [{"match": [{"port": 443, "sniHosts": ["shop.example.com"]}], "route": [{"destination": {"host": "tls"}}]}],
        },
    })
}

fn rules(timeout: &str) -> Value {
    json!([
        {"name": "static", "match": [{"uri": {"prefix": "/static"}}], "route": [{"destination": {"host": "cdn"}}]},
        {"name": "old", "match": [{"uri": {"prefix": "/old"}}], "redirect": {"uri": "/new"}},
        {"name": "api", "match": [{"uri": {"prefix": "/api"}}], "retries": {"attempts": 0},
            "mirror": {"host": "audit"}, "route": [{"destination": {"host": "app", "port": {"number": 80}}, "headers": {"request": {"set": {"x": "y"}}}}]},
        {"name": "app", "timeout": timeout, "fault": {"abort": {"percentage": {"value": 0.1}, "httpStatus": 500}},
            "route": [{"destination": {"host": "app"}}]},
    ])
}

async fn application(prefix: &str, route: impl Fn(&str) -> Value) -> Result<String> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace(prefix).await?;
    world.cp.apply(service(&ns, "app", &json!({"app": "app"}))).await?;
    world.cp.apply(workload(&ns, "app", "app:v1", &json!({"app": "app"}))).await?;
    world.cp.apply(route(&ns)).await?;
    world.until(&ns, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    Ok(ns)
}

/// The route with every pair of destinations turned back into the one that its owner wrote.
fn without_pairs(route: &Value, list: &str, destinations: &str) -> Value {
    let mut spec = at(route, "/spec").clone();
    let rules = spec.get_mut(list).and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten() {
        let Some(all) = rule.get_mut(destinations).and_then(Value::as_array_mut) else { continue };
        all.retain(|one| !one.to_string().contains("app-canary"));
        for one in all.iter_mut().filter(|one| one.to_string().contains("app-primary")) {
            let text = one.to_string().replace("app-primary", "app");
            *one = serde_json::from_str(&text).unwrap_or_default();
            if list == "http" {
                one.as_object_mut().map(|one| one.remove("weight"));
            } else {
                one.as_object_mut().map(|one| one.insert("weight".into(), 1.into()));
            }
        }
    }
    spec
}

async fn released_half(world: &World, ns: &str) -> Result<()> {
    world.flux(workload(ns, "app", "app:v2", &json!({"app": "app"}))).await?;
    world.until(ns, "canary", "app", "half of it", |c| at(c, "/status/canaryWeight") == 50).await?;
    Ok(())
}

/// Only where requests go to the application is changed, in each rule that leads there; the owner's next apply in the middle
/// of a release changes what it changes, and leaving then gives everything back.
#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_service_stays_its_owners() -> Result<()> {
    let (world, _) = shared().await;
    for layout in ["primary-copy", "in-place"] {
        let ns = application("ownroute", |ns| virtual_service(ns, rules("3s"))).await?;
        let before = world.get(&ns, "vs", "app").await?;
        let analysis: Value = serde_json::from_str(GATE)?;
        world
            .cp
            .apply(canary(&ns, "app", layout, &json!({"analysis": analysis, "service": {"timeout": "9s"}})))
            .await?;
        let adopted = world.phase(&ns, "Initialized").await?;
        ensure!(at(&adopted, "/status/warnings").to_string().contains("timeout"), "{adopted:#}");
        released_half(world, &ns).await?;
        let half = world
            .until(&ns, "vs", "app", "both rules at half", |vs| {
                [2, 3].iter().all(|rule| at(vs, &format!("/spec/http/{rule}/route/1/weight")) == 50)
            })
            .await?;
        ensure!(without_pairs(&half, "http", "route") == *at(&before, "/spec"), "{layout}: {half:#}");
        ensure!(at(&half, "/metadata/labels") == at(&before, "/metadata/labels"));
        ensure!(at(&half, "/spec/http/2/route/1/headers") == at(&before, "/spec/http/2/route/0/headers"));
        // The owner's next apply.
        world.cp.apply(virtual_service(&ns, rules("4s"))).await?;
        let mended = world
            .until(&ns, "vs", "app", "at half again", |vs| {
                at(vs, "/spec/http/3/timeout") == "4s" && at(vs, "/spec/http/3/route/1/weight") == 50
            })
            .await?;
        let wanted = virtual_service(&ns, rules("4s"));
        ensure!(without_pairs(&mended, "http", "route") == *at(&wanted, "/spec"), "{layout}: {mended:#}");
        world.delete(&ns, "canary", "app").await?;
        world.gone(&ns, "canary", "app").await?;
        let after = world.get(&ns, "vs", "app").await?;
        ensure!(at(&after, "/spec") == at(&wanted, "/spec"), "{layout}: {after:#}");
        for part in ["labels", "annotations"] {
            let (is, was) = (at(&after, "/metadata").get(part), at(&before, "/metadata").get(part));
            ensure!(is.map(bare) == was.map(bare), "{layout}: {part} {is:?} {was:?}");
        }
    }
    Ok(())
}

fn http_route(ns: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "app", "namespace": ns},
        "spec": {
            "parentRefs": [{"name": "public", "namespace": "default"}], "hostnames": ["shop.example.com"],
            "rules": [
                {"matches": [{"path": {"type": "PathPrefix", "value": "/old"}}], "filters": [
                    {"type": "RequestRedirect", "requestRedirect": {"statusCode": 301, "hostname": "new.example.com"}}]},
                {"matches": [{"path": {"type": "PathPrefix", "value": "/static"}}], "backendRefs": [{"name": "cdn", "port": 80}]},
                {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x", "value": "y"}]}}],
                    "timeouts": {"request": "3s"}, "backendRefs": [{"name": "app", "port": 80}]},
            ],
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_route_stays_its_owners() -> Result<()> {
    let (world, _) = shared().await;
    for layout in ["primary-copy", "in-place"] {
        let ns = application("ownhttp", http_route).await?;
        let before = world.get(&ns, "httproute", "app").await?;
        let analysis: Value = serde_json::from_str(GATE)?;
        let spec = json!({"provider": "gatewayapi:v1", "analysis": analysis,
            "service": {"gatewayRefs": [{"name": "other", "namespace": "default"}]}});
        world.cp.apply(canary(&ns, "app", layout, &spec)).await?;
        world.phase(&ns, "Initialized").await?;
        released_half(world, &ns).await?;
        let half = world
            .until(&ns, "httproute", "app", "half", |r| at(r, "/spec/rules/2/backendRefs/1/weight") == 50)
            .await?;
        ensure!(without_pairs(&half, "rules", "backendRefs") == *at(&before, "/spec"), "{layout}: {half:#}");
        world.delete(&ns, "canary", "app").await?;
        world.gone(&ns, "canary", "app").await?;
        ensure!(bare(&world.get(&ns, "httproute", "app").await?) == bare(&before), "{layout}");
    }
    Ok(())
}

/// What cannot be kept is named, and nothing is touched.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_cannot_be_kept_is_named() -> Result<()> {
    let (world, _) = shared().await;
    for (http, part) in [
        (
            json!([{"name": "split", "route": [{"destination": {"host": "app"}, "weight": 90}, {"destination": {"host": "beta"}, "weight": 10}]}]),
            "split",
        ),
        (
            json!([{"name": "by-version", "route": [{"destination": {"host": "app", "subset": "v1"}}]}]),
            "by-version",
        ),
        (json!([{"name": "other", "route": [{"destination": {"host": "cdn"}}]}]), "Service app"),
    ] {
        let ns = application("rule", |ns| virtual_service(ns, http.clone())).await?;
        let before =
            [bare(&world.get(&ns, "vs", "app").await?), bare(&world.get(&ns, "deploy", "app").await?)];
        world.cp.apply(canary(&ns, "app", "primary-copy", &json!({}))).await?;
        stalled(&ns, "app", "Refused", part).await?;
        ensure!(
            [bare(&world.get(&ns, "vs", "app").await?), bare(&world.get(&ns, "deploy", "app").await?)]
                == before
        );
    }
    Ok(())
}
