//! Writes that the API server refuses are stated, counted, and tried again.

use super::{canary, condition, service, stalled, workload};
use anyhow::{Result, ensure};
use harness::{at, deployment, eventually, image, shared};
use serde_json::{Value, json};

/// An admission policy on the namespaces with this label value, and its binding.
fn rule(name: &str, group: &str, resource: &str, expression: &str) -> [Value; 2] {
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{"apiGroups": [group], "apiVersions": ["*"],
                "operations": ["CREATE", "UPDATE"], "resources": [resource]}]},
            "validations": [{"expression": expression, "message": format!("the rule {name} says no")}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"rule": name}}}},
    });
    [policy, binding]
}

/// Puts a rule in force in a namespace.
async fn in_force(
    ns: &str,
    name: &str,
    group: &str,
    resource: &str,
    expression: &str,
    probe: Value,
) -> Result<()> {
    let (world, _) = shared().await;
    for object in rule(name, group, resource, expression) {
        world.cp.apply(object).await?;
    }
    world.merge("", "namespace", ns, json!({"metadata": {"labels": {"rule": name}}})).await?;
    let file = world.cp.logs().join(format!("{name}.json"));
    std::fs::write(&file, probe.to_string())?;
    let file = file.display().to_string();
    eventually("the rule is in force", async || {
        let said = world
            .kubectl_says(&["apply", "--dry-run=server", "--server-side", "--force-conflicts", "-f", &file])
            .await?;
        Ok(said.contains("says no").then_some(()))
    })
    .await
}

async fn lifted(ns: &str) -> Result<()> {
    let (world, _) = shared().await;
    world.merge("", "namespace", ns, json!({"metadata": {"labels": {"rule": null}}})).await?;
    Ok(())
}

/// At adoption: stated in the API server's words, one Event, and done when it may be.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_object_is_told_in_the_api_servers_words() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("quota").await?;
    let quota = |services: &str| {
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": ns},
        "spec": {"hard": {"count/services": services}}})
    };
    world.cp.apply(quota("1")).await?;
    world.cp.apply(service(&ns, "app", &json!({"app": "app"}))).await?;
    world.cp.apply(deployment(&ns, "v1", 2)).await?;
    world.cp.apply(canary(&ns, "app", "primary-copy", &json!({}))).await?;
    let why = stalled(&ns, "app", "WriteRefused", "exceeded quota: q").await?;
    ensure!(why.contains(&format!("create Service {ns}/app-canary")), "{why}");
    world.event(&ns, "exceeded quota: q").await?;
    world.cp.apply(quota("9")).await?;
    let adopted = world.phase(&ns, "Initialized").await?;
    ensure!(condition(&adopted, "Stalled", "WriteRefused").is_none());
    Ok(())
}

/// A promotion that may not be written fails at the threshold: the revision is rejected, and traffic is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_promotion_ends_as_a_rejection_with_the_reason() -> Result<()> {
    let (world, _) = shared().await;
    let ns = harness::initialized("refusedpromotion", &json!({"analysis": {"stepWeight": 50}})).await?;
    let expression = "!object.metadata.name.endsWith('-primary') || object.spec.template.spec.containers[0].image == 'app:v1'";
    in_force(
        &ns,
        "primary-stays",
        "apps",
        "deployments",
        expression,
        workload(&ns, "probe-primary", "app:v9", &json!({"app": "probe"})),
    )
    .await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let failed = world.phase(&ns, "Failed").await?;
    let why = condition(&failed, "Stalled", "Failed").unwrap_or_default();
    ensure!(why.contains("the rule primary-stays says no"), "{why}");
    ensure!(at(&failed, "/status/canaryWeight") == 0);
    let route = world.get(&ns, "vs", "app").await?;
    ensure!(harness::weight(&route) == Some(0), "{route:#}");
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v1");
    lifted(&ns).await
}

/// A step that may not be taken is no step: status has the weight that the route has, and the run ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_weight_is_not_stated_as_set() -> Result<()> {
    let (world, _) = shared().await;
    let ns = harness::initialized("refusedweight", &json!({"analysis": {"stepWeight": 25, "threshold": 3}}))
        .await?;
    let expression = "object.spec.http.all(h, h.route.all(r, !r.destination.host.endsWith('-canary') || r.?weight.orValue(0) < 50))";
    let mut probe = world.get(&ns, "vs", "app").await?;
    if let Some(weight) = probe.pointer_mut("/spec/http/0/route/1/weight") {
        *weight = 50.into();
    }
    probe.pointer_mut("/metadata").and_then(Value::as_object_mut).map(|m| m.remove("managedFields"));
    in_force(&ns, "half-is-too-much", "networking.istio.io", "virtualservices", expression, probe).await?;
    let timeline = world.timeline(&ns, &["canary", "vs"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let failed = world.phase(&ns, "Failed").await?;
    let why = condition(&failed, "Stalled", "Failed").unwrap_or_default();
    ensure!(why.contains("half-is-too-much says no"), "{why}");
    timeline
        .obeys(world, |cluster, state| {
            let refused = cluster
                .get(&("canary", "app".to_owned()))
                .filter(|c| condition(c, "Stalled", "WriteRefused").is_some());
            let route = cluster.get(&("vs", "app".to_owned())).and_then(harness::weight);
            let stated = refused.and_then(|c| at(c, "/status/canaryWeight").as_i64());
            ensure!(stated.is_none() || stated == route, "{stated:?} stated, {route:?} set: {state:?}");
            Ok(())
        })
        .await?;
    lifted(&ns).await
}

/// A held revision is named with what is in its way, and nothing says that all is well.
#[tokio::test(flavor = "multi_thread")]
async fn what_holds_up_a_release_is_told_and_nobody_takes_it_for_done() -> Result<()> {
    let (world, _) = shared().await;
    let ns = harness::initialized("heldup", &json!({"service": {"portDiscovery": true}})).await?;
    let expression = "object.metadata.name == 'app' || object.spec.ports.size() < 2";
    let mut probe = service(&ns, "probe", &json!({"app": "probe"}));
    if let Some(ports) = probe.pointer_mut("/spec/ports") {
        *ports = json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}]);
    }
    in_force(&ns, "one-port", "", "services", expression, probe).await?;
    let mut next = deployment(&ns, "v2", 2);
    if let Some(ports) = next.pointer_mut("/spec/template/spec/containers/0/ports") {
        *ports = json!([{"containerPort": 8080}, {"name": "metrics", "containerPort": 9090}]);
    }
    world.flux(next).await?;
    let why = stalled(&ns, "app", "WriteRefused", "the rule one-port says no").await?;
    ensure!(why.starts_with("Revision ") && why.contains(" is held. "), "{why}");
    let canary = world.get(&ns, "canary", "app").await?;
    for type_ in ["Ready", "Promoted"] {
        let all = at(&canary, "/status/conditions").as_array().cloned().unwrap_or_default();
        let status = all.iter().find(|c| at(c, "/type") == type_).map(|c| at(c, "/status").clone());
        ensure!(status.is_some_and(|s| s != "True"), "{type_}: {canary:#}");
    }
    lifted(&ns).await?;
    world.phase(&ns, "Succeeded").await?;
    Ok(())
}
