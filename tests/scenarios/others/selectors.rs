//! Labels that applications share.

use super::{behind, canary, service, stalled, workload};
use anyhow::{Result, ensure};
use harness::{at, shared};
use serde_json::{Value, json};

fn component(name: &str) -> Value {
    json!({"app.kubernetes.io/name": "mc", "app.kubernetes.io/component": name})
}

/// Two components of one application, told apart by a label that is not the telling one: at rest and in a release nobody
/// meets the other's pods.
#[tokio::test(flavor = "multi_thread")]
async fn components_of_one_application_stay_apart() -> Result<()> {
    let (world, _) = shared().await;
    for (layout, primary) in [("in-place", "mc-api"), ("primary-copy", "mc-api-primary")] {
        let ns = world.cp.namespace("components").await?;
        world.cp.apply(service(&ns, "mc-api", &component("api"))).await?;
        for (name, image) in [("mc-api", "app:v1"), ("mc-worker", "worker:v1")] {
            world.cp.apply(workload(&ns, name, image, &component(name.trim_start_matches("mc-")))).await?;
            world.until(&ns, "deploy", name, "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
        }
        let gate = json!({"analysis": {"stepWeight": 50, "webhooks": [
            {"name": "gate", "type": "confirm-promotion", "url": "http://127.0.0.1:9/"}]}});
        world.cp.apply(canary(&ns, "mc-api", layout, &gate)).await?;
        world.until(&ns, "canary", "mc-api", "adopted", |c| at(c, "/status/phase") == "Initialized").await?;
        let selector = |service: &Value| at(service, "/spec/selector/app.kubernetes.io~1component").clone();
        for name in ["mc-api", "mc-api-primary", "mc-api-canary"] {
            ensure!(selector(&world.get(&ns, "svc", name).await?) == "api", "{layout}: {name}");
        }
        world.flux(workload(&ns, "mc-api", "app:v2", &component("api"))).await?;
        world.until(&ns, "canary", "mc-api", "half of it", |c| at(c, "/status/canaryWeight") == 50).await?;
        let canary_pods = if layout == "in-place" { "mc-api-canary" } else { "mc-api" };
        for (service, pods) in [("mc-api-primary", primary), ("mc-api-canary", canary_pods)] {
            let found = behind(world, &ns, service).await?;
            ensure!(
                found.keys().all(|name| name == pods),
                "{layout}: Service {service} has pods of {found:?}"
            );
            ensure!(found.contains_key(pods), "{layout}: Service {service} has none");
        }
    }
    Ok(())
}

/// Where the labels do not tell two workloads apart, no selector could: it is refused with the other one's name.
#[tokio::test(flavor = "multi_thread")]
async fn a_selector_that_would_meet_others_is_refused_with_their_name() -> Result<()> {
    let (world, _) = shared().await;
    let cases = ["in-place", "primary-copy"].map(async |layout: &str| -> Result<()> {
        let ns = world.cp.namespace("overlap").await?;
        world.cp.apply(service(&ns, "web", &json!({"app": "shop", "part": "web"}))).await?;
        let labels = |part: &str| json!({"app": "shop", "part": part});
        // As charts do that select by less than they label with.
        let loose = |name: &str, kind: &str, part: &str| {
            let mut object = workload(&ns, name, "app:v1", &labels(part));
            let select = json!({"kind": kind, "spec": {"selector": {"matchLabels": {"part": null}}}});
            json_patch::merge(&mut object, &select);
            object
        };
        world.cp.apply(loose("web", "Deployment", "web")).await?;
        let mut set = loose("queue", "StatefulSet", "queue");
        json_patch::merge(&mut set, &json!({"spec": {"serviceName": "queue"}}));
        world.cp.apply(set).await?;
        world.until(&ns, "deploy", "web", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
        world.cp.apply(canary(&ns, "web", layout, &json!({}))).await?;
        let why = stalled(&ns, "web", "Refused", "StatefulSet queue").await?;
        ensure!(
            why.contains("label in spec.selector.matchLabels that only its own pods have"),
            "{layout}: {why}"
        );
        ensure!(
            at(&world.get(&ns, "deploy", "web").await?, "/metadata/labels").is_null(),
            "{layout}: touched"
        );
        Ok(())
    });
    futures::future::try_join_all(cases).await?;
    Ok(())
}

/// Rules about a pod's own kind keep meaning it, whatever the Deployment is called.
#[tokio::test(flavor = "multi_thread")]
async fn pods_stay_apart_from_their_own_kind() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("spread").await?;
    let mut target = workload(&ns, "mc-api", "app:v1", &component("api"));
    let own = json!({"matchLabels": {"app.kubernetes.io/name": "mc"}});
    let rules = json!({"spec": {"template": {"spec": {
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchExpressions": [
                {"key": "app.kubernetes.io/name", "operator": "In", "values": ["mc"]}]}}}]}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": own, "matchLabelKeys": ["pod-template-hash"]}]}}}});
    json_patch::merge(&mut target, &rules);
    world.cp.apply(target).await?;
    world.cp.apply(service(&ns, "mc-api", &component("api"))).await?;
    world.cp.apply(canary(&ns, "mc-api", "primary-copy", &json!({}))).await?;
    let primary = world.until(&ns, "deploy", "mc-api-primary", "made", |_| true).await?;
    let spec = at(&primary, "/spec/template/spec");
    let anti = "/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/podAffinityTerm/labelSelector";
    ensure!(
        at(spec, anti)
            == &json!({"matchExpressions": [
        {"key": "app.kubernetes.io/name", "operator": "In", "values": ["mc-primary"]}]}),
        "{spec:#}"
    );
    let spread = at(spec, "/topologySpreadConstraints/0");
    ensure!(at(spread, "/labelSelector/matchLabels/app.kubernetes.io~1name") == "mc-primary", "{spread:#}");
    ensure!(at(spread, "/matchLabelKeys/0") == "pod-template-hash");
    Ok(())
}
