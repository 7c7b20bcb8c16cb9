//! Other people's objects: what Sidetrack did not make it does not take, rewrite or delete, and what it adopts it gives back.

mod dependants;
mod names;
mod refusals;
mod routes;
mod rules;
mod selectors;
mod services;

use anyhow::{Result, ensure};
use harness::{World, at, shared};
use serde_json::{Map, Value, json};

/// A Deployment with these labels on its pods, by all of which it selects them.
pub(crate) fn workload(namespace: &str, name: &str, image: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                {"name": "app", "image": image, "ports": [{"containerPort": 8080}]}]}},
        },
    })
}

/// A Service with these labels for a selector, and port 80.
pub(crate) fn service(namespace: &str, name: &str, selector: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": selector, "ports": [{"name": "web", "port": 80, "targetPort": 8080}]},
    })
}

/// A Canary of this name for the Deployment of this name, in a layout.
pub(crate) fn canary(namespace: &str, name: &str, layout: &str, spec: &Value) -> Value {
    let mut canary = harness::canary(namespace, spec);
    let named = json!({"metadata": {"name": name, "annotations": {"sidetrack.dev/layout": layout}},
        "spec": {"targetRef": {"name": name}}});
    json_patch::merge(&mut canary, &named);
    canary
}

/// Waits until a Canary says why it touches nothing, in words that contain these; returns the whole sentence.
pub(crate) async fn stalled(ns: &str, name: &str, reason: &str, part: &str) -> Result<String> {
    let (world, _) = shared().await;
    let says = |canary: &Value| condition(canary, "Stalled", reason).filter(|text| text.contains(part));
    let canary = world.until(ns, "canary", name, &format!("{reason}: {part}"), |c| says(c).is_some()).await?;
    Ok(says(&canary).unwrap_or_default())
}

/// The message of a condition that has this reason.
pub(crate) fn condition(canary: &Value, type_: &str, reason: &str) -> Option<String> {
    let all = canary.pointer("/status/conditions")?.as_array()?;
    let one = all.iter().find(|c| at(c, "/type") == type_ && at(c, "/reason") == reason)?;
    one.get("message")?.as_str().map(str::to_owned)
}

/// An object without what every write changes: the way it was made stays, and whose fields are whose.
pub(crate) fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["resourceVersion", "managedFields", "generation"] {
            metadata.remove(field);
        }
    }
    object.as_object_mut().map(|o| o.remove("status"));
    object
}

/// Pods that a Service has behind it now, by the Deployments that they are of.
pub(crate) async fn behind(world: &World, ns: &str, service: &str) -> Result<Map<String, Value>> {
    let selector = at(&world.get(ns, "svc", service).await?, "/spec/selector").clone();
    let pairs: Vec<String> = selector
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    ensure!(!pairs.is_empty(), "Service {service} selects nothing");
    let mut found = Map::new();
    for pod in world.list(ns, "pod", &pairs.join(",")).await? {
        let set = at(&pod, "/metadata/ownerReferences/0/name").as_str().unwrap_or_default();
        let deployment = set.rsplit_once('-').map_or(set, |(name, _)| name);
        let count = found.get(deployment).and_then(Value::as_i64).unwrap_or(0);
        found.insert(deployment.to_owned(), (count + 1).into());
    }
    Ok(found)
}
