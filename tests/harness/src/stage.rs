//! What the scenarios share: a policy that selects namespaces by a label of its own, and applications in them.

use crate::{World, at, deployment, eventually, service};
use anyhow::Result;
use serde_json::{Value, json};
use sidetrack::api::keys;
use sidetrack::object::escape;

/// Label of the namespaces that a policy selects; its value is the policy's name.
pub const TEAM: &str = "team";

/// A policy that selects the namespaces with its label; `spec` is merged over quick defaults.
pub fn policy(name: &str, spec: &Value) -> Value {
    let mut policy = json!({
        "apiVersion": "sidetrack.dev/v1alpha1", "kind": "CanaryPolicy", "metadata": {"name": name},
        "spec": {
            "namespaceSelector": {"matchLabels": {TEAM: name}},
            "canary": {
                "progressDeadlineSeconds": 60,
                "analysis": {"interval": "1s", "threshold": 2, "stepWeight": 50, "maxWeight": 50},
            },
        },
    });
    if let Some(target) = policy.get_mut("spec") {
        json_patch::merge(target, spec);
    }
    policy
}

/// Applies a policy and waits until it acts.
pub async fn enforced(world: &World, name: &str, spec: &Value) -> Result<()> {
    world.cp.apply(policy(name, spec)).await?;
    said(world, name, "Enforced").await?;
    in_configuration(world, name, true).await
}

/// Waits until a policy's condition has this reason; returns the policy.
pub async fn said(world: &World, name: &str, reason: &str) -> Result<Value> {
    let of_now = |p: &Value| at(p, "/status/observedGeneration") == at(p, "/metadata/generation");
    world
        .until("", "policy", name, reason, |p| at(p, "/status/conditions/0/reason") == reason && of_now(p))
        .await
}

/// Waits until the API server asks for a policy, or does not any more.
pub async fn in_configuration(world: &World, name: &str, asked: bool) -> Result<()> {
    let entry = format!("{name}.policies.sidetrack.dev");
    eventually("the webhook configuration follows", async || {
        let all = world
            .kubectl(&["get", "mutatingwebhookconfiguration", "sidetrack-policies", "-o", "json"])
            .await?;
        Ok((all.contains(&entry) == asked).then_some(()))
    })
    .await
}

/// A namespace that a policy selects, with the Service of application `app`.
pub async fn namespace(world: &World, team: &str) -> Result<String> {
    let name = world.cp.namespace(team).await?;
    world.merge("", "namespace", &name, json!({"metadata": {"labels": {TEAM: team}}})).await?;
    world.cp.apply(service(&name)).await?;
    Ok(name)
}

/// A Deployment under another name than `app`.
pub fn named(namespace: &str, name: &str, version: &str, replicas: i32) -> Value {
    let mut deployment = deployment(namespace, version, replicas);
    json_patch::merge(
        &mut deployment,
        &json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}}}},
        }),
    );
    deployment
}

/// A key of ours on an object.
pub fn key<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer(&format!("/metadata/annotations/{}", escape(key)))?.as_str()
}

/// Whether a Deployment carries our label.
pub fn enrolled(deployment: &Value) -> bool {
    deployment.pointer(&format!("/metadata/labels/{}", escape(keys::CANARY))).is_some()
}

/// What a condition of a Canary says.
pub fn message<'a>(canary: &'a Value, type_: &str) -> &'a str {
    let all = canary.pointer("/status/conditions").and_then(Value::as_array);
    let one = all.into_iter().flatten().find(|c| at(c, "/type") == type_);
    one.and_then(|c| at(c, "/message").as_str()).unwrap_or_default()
}

/// Waits for a phase of a Canary.
pub async fn phase(world: &World, ns: &str, name: &str, phase: &str) -> Result<Value> {
    world.until(ns, "canary", name, phase, |c| at(c, "/status/phase") == phase).await
}

/// Waits until a Deployment runs a version and is no more in motion: promoted in place.
pub async fn runs(world: &World, ns: &str, name: &str, version: &str) -> Result<Value> {
    let image = format!("app:{version}");
    world
        .until(ns, "deploy", name, &image, |d| {
            crate::image(d) == image
                && at(d, "/spec/paused").as_bool() != Some(true)
                && at(d, "/status/observedGeneration") == at(d, "/metadata/generation")
                && at(d, "/status/updatedReplicas") == at(d, "/spec/replicas")
                && at(d, "/status/replicas") == at(d, "/spec/replicas")
        })
        .await
}
