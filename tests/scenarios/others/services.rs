//! Services that applications had before: adopting is an edit, leaving an undo.

use super::{bare, canary, service, stalled, workload};
use anyhow::{Result, ensure};
use harness::{at, shared};
use serde_json::{Value, json};

/// A Service with everything that an owner may state.
fn exposed(ns: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "app", "namespace": ns, "labels": {"team": "shop"}, "annotations": {"mail": "shop@example"}},
        "spec": {
            "type": "NodePort", "selector": {"app": "app", "tier": "web"}, "sessionAffinity": "ClientIP",
            "internalTrafficPolicy": "Local",
            "ports": [
                {"name": "web", "port": 80, "targetPort": 8080},
                {"name": "grpc", "port": 81, "targetPort": 8081, "appProtocol": "grpc"},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 8053},
                {"name": "dns-tcp", "port": 53, "targetPort": 8053},
            ],
        },
    })
}

fn spec(service: &Value) -> &Value {
    at(service, "/spec")
}

/// Ports with names, numbers and node ports, policies and metadata stay the owner's at adoption, under the owner's next apply,
/// in a release, and afterwards; the selector comes back, also for one who applies on the server, which leaves no record.
#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_service_stays_its_owners() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("exposed").await?;
    let labels = json!({"app": "app", "tier": "web"});
    world.flux(exposed(&ns)).await?;
    // Told apart by the label that the Service selects by as well, and the Deployment does not.
    let mut target = workload(&ns, "app", "app:v1", &labels);
    json_patch::merge(&mut target, &json!({"spec": {"selector": {"matchLabels": {"tier": null}}}}));
    world.flux(target.clone()).await?;
    world.until(&ns, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    let before = world.get(&ns, "svc", "app").await?;
    world.cp.apply(canary(&ns, "app", "primary-copy", &json!({}))).await?;
    world.phase(&ns, "Initialized").await?;
    let same_but_selector = |service: &Value| {
        let mut service = spec(service).clone();
        service.as_object_mut().map(|s| s.insert("selector".into(), at(&before, "/spec/selector").clone()));
        service == *spec(&before)
    };
    let adopted = world.get(&ns, "svc", "app").await?;
    ensure!(same_but_selector(&adopted), "{adopted:#}");
    ensure!(at(&adopted, "/spec/selector/app") == "app-primary");
    for part in ["/metadata/labels/team", "/metadata/annotations/mail"] {
        ensure!(at(&adopted, part) == at(&before, part), "{part}");
    }
    // The other ports are reached through a mesh as well.
    let generated = world.get(&ns, "svc", "app-canary").await?;
    ensure!(at(&generated, "/spec/ports").as_array().map(Vec::len) == Some(4), "{generated:#}");
    world.flux(exposed(&ns)).await?;
    ensure!(same_but_selector(&world.get(&ns, "svc", "app").await?), "the owner's next apply");
    json_patch::merge(
        &mut target,
        &json!({"spec": {"template": {"spec": {"containers": [
        {"name": "app", "image": "app:v2", "ports": [{"containerPort": 8080}]}]}}}}),
    );
    world.flux(target).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(same_but_selector(&world.get(&ns, "svc", "app").await?), "after a release");
    world.delete(&ns, "canary", "app").await?;
    world.gone(&ns, "canary", "app").await?;
    let after = world.get(&ns, "svc", "app").await?;
    ensure!(bare(&after) == bare(&before), "{after:#}\nwas {before:#}");
    Ok(())
}

/// What its owner asks for while it is adopted is what it goes back to.
#[tokio::test(flavor = "multi_thread")]
async fn a_selector_that_its_owner_changes_meanwhile_is_the_one_that_comes_back() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("wish").await?;
    let labels = json!({"app": "app", "tier": "web"});
    world.flux(service(&ns, "app", &json!({"app": "app"}))).await?;
    world.flux(workload(&ns, "app", "app:v1", &labels)).await?;
    world.cp.apply(canary(&ns, "app", "primary-copy", &json!({}))).await?;
    world.phase(&ns, "Initialized").await?;
    let mut wish = service(&ns, "app", &labels);
    json_patch::merge(&mut wish, &json!({"metadata": {"annotations": {"mail": "new"}}}));
    world.flux(wish).await?;
    let adopted = world.get(&ns, "svc", "app").await?;
    ensure!(
        at(&adopted, "/spec/selector/app") == "app-primary"
            && at(&adopted, "/metadata/annotations/mail") == "new"
    );
    world.delete(&ns, "canary", "app").await?;
    world.gone(&ns, "canary", "app").await?;
    let after = world.get(&ns, "svc", "app").await?;
    ensure!(
        at(&after, "/spec/selector") == &labels && at(&after, "/metadata/annotations/mail") == "new",
        "{after:#}"
    );
    Ok(())
}

/// A Service that leads elsewhere, or nowhere, is not the application's.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_lead_to_the_target_is_not_adopted() -> Result<()> {
    let (world, _) = shared().await;
    let none = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "app"},
        "spec": {"type": "ExternalName", "externalName": "db.example.com"}});
    for (layout, mut other, part) in [
        ("primary-copy", service("", "app", &json!({"app": "postgres"})), "selects other pods"),
        ("in-place", service("", "app", &json!({"app": "postgres"})), "does not select the pods of app"),
        ("primary-copy", none.clone(), "has no selector"),
        ("in-place", none, "does not select the pods of app"),
    ] {
        let ns = world.cp.namespace("elsewhere").await?;
        json_patch::merge(&mut other, &json!({"metadata": {"namespace": ns}}));
        world.cp.apply(other).await?;
        world.cp.apply(workload(&ns, "app", "app:v1", &json!({"app": "app"}))).await?;
        let before = bare(&world.get(&ns, "svc", "app").await?);
        world.cp.apply(canary(&ns, "app", layout, &json!({}))).await?;
        stalled(&ns, "app", "Refused", part).await?;
        ensure!(bare(&world.get(&ns, "svc", "app").await?) == before);
    }
    Ok(())
}

/// What portDiscovery publishes is a Service that the API server takes, protocols as stated.
#[tokio::test(flavor = "multi_thread")]
async fn discovered_ports_make_a_valid_service() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("discovery").await?;
    let mut target = workload(&ns, "app", "app:v1", &json!({"app": "app"}));
    let ports = json!([{"containerPort": 8080}, {"containerPort": 80}, {"name": "http", "containerPort": 9090},
        {"name": "dns", "containerPort": 53}, {"name": "dns-udp", "containerPort": 53, "protocol": "UDP"}]);
    if let Some(found) = target.pointer_mut("/spec/template/spec/containers/0/ports") {
        *found = ports;
    }
    world.cp.apply(target).await?;
    world.cp.apply(canary(&ns, "app", "primary-copy", &json!({"service": {"portDiscovery": true}}))).await?;
    world.phase(&ns, "Initialized").await?;
    for name in ["app", "app-primary", "app-canary"] {
        let service = world.get(&ns, "svc", name).await?;
        let shown: Vec<String> = at(&service, "/spec/ports")
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| format!("{} {}/{}", at(p, "/name"), at(p, "/port"), at(p, "/protocol")).replace('"', ""))
            .collect();
        ensure!(
            shown == ["http 80/TCP", "http-tcp 9090/TCP", "dns 53/TCP", "dns-udp 53/UDP"],
            "{name}: {shown:?}"
        );
    }
    Ok(())
}
