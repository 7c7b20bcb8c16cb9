//! Kubernetes' own rules, and those of others about what we write.

use super::{canary, service, workload};
use crate::in_place::adopted;
use anyhow::{Result, ensure};
use harness::{at, deployment, eventually, shared};
use serde_json::{Value, json};

/// What an admission policy makes of our write is what we wrote: no loop, and nobody is blamed for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_changes_templates_is_nobodys_edit() -> Result<()> {
    let (world, _) = shared().await;
    world.cp.apply(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": "stamp"},
        "spec": {
            "failurePolicy": "Fail", "reinvocationPolicy": "IfNeeded",
            "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"], "resources": ["deployments"]}]},
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{spec: Object.spec{template: Object.spec.template{metadata: Object.spec.template.metadata{annotations: {'made-by': object.metadata.name}}}}}"}}],
        },
    })).await?;
    world.cp.apply(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": "stamp"},
        "spec": {"policyName": "stamp", "matchResources": {"namespaceSelector": {"matchLabels": {"stamp": "yes"}}}},
    })).await?;
    for layout in ["in-place", "primary-copy"] {
        let ns = world.cp.namespace("stamp").await?;
        world.merge("", "namespace", &ns, json!({"metadata": {"labels": {"stamp": "yes"}}})).await?;
        let probe = world.cp.logs().join("stamp.json");
        std::fs::write(&probe, deployment(&ns, "v1", 2).to_string())?;
        let probe = probe.display().to_string();
        eventually("the policy acts", async || {
            let shown =
                world.kubectl_says(&["create", "--dry-run=server", "-o", "json", "-f", &probe]).await?;
            Ok(shown.contains("made-by").then_some(()))
        })
        .await?;
        world.cp.apply(service(&ns, "app", &json!({"app": "app"}))).await?;
        world.flux(deployment(&ns, "v1", 2)).await?;
        world.until(&ns, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
        world.cp.apply(canary(&ns, "app", layout, &json!({}))).await?;
        world.phase(&ns, "Initialized").await?;
        let timeline = world.timeline(&ns, &["deploy"]).await?;
        world.flux(deployment(&ns, "v2", 2)).await?;
        world.phase(&ns, "Succeeded").await?;
        let generated = if layout == "in-place" { "app-canary" } else { "app-primary" };
        let uid = |d: &Value| at(d, "/metadata/uid").as_str().map(str::to_owned);
        let mut made = timeline.values(world, "deploy", generated, uid).await?;
        made.dedup();
        ensure!(made.len() <= 1, "{layout}: {generated} was made {} times", made.len());
        ensure!(!world.has_event(&ns, "InterlockBypassed").await?, "{layout}: somebody is blamed");
    }
    Ok(())
}

/// `revisionHistoryLimit: 0`: Kubernetes keeps no ReplicaSet of the promoted revision while another one is held.
#[tokio::test(flavor = "multi_thread")]
async fn pods_of_the_promoted_revision_come_back_without_any_history() -> Result<()> {
    let (world, _) = shared().await;
    let gate = json!({"analysis": {"webhooks": [{"name": "gate", "type": "confirm-rollout", "url": "http://127.0.0.1:9/"}]}});
    let ns = adopted("nohistory", &gate).await?;
    world.merge(&ns, "deploy", "app", json!({"spec": {"revisionHistoryLimit": 0}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Waiting").await?;
    world.scale(&ns, "app", 0).await?;
    eventually("the ReplicaSet is cleaned up", async || {
        Ok(world.list(&ns, "rs", "app=app").await?.is_empty().then_some(()))
    })
    .await?;
    world.scale(&ns, "app", 2).await?;
    // The status of before it was scaled to 0 says 2 as well.
    world
        .until(&ns, "deploy", "app", "its pods are back", |d| {
            at(d, "/status/readyReplicas") == 2
                && at(d, "/status/observedGeneration") == at(d, "/metadata/generation")
        })
        .await?;
    let pods = world.list(&ns, "pod", "app=app").await?;
    ensure!(pods.iter().all(|p| harness::objects::pod_image(p) == "app:v1"), "{pods:#?}");
    let sets = world.list(&ns, "rs", "app=app").await?;
    ensure!(sets.len() == 1 && at(&sets[0], "/metadata/ownerReferences/0/kind") == "Deployment", "{sets:#?}");
    Ok(())
}

/// A roll that goes on pod by pod is not late, however long it takes in all.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_but_steady_promotion_succeeds() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("steady").await?;
    let slow = |version: &str| {
        let mut target = deployment(&ns, version, 4);
        json_patch::merge(
            &mut target,
            &json!({"spec": {"minReadySeconds": 3,
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}}),
        );
        target
    };
    world.flux(slow("v1")).await?;
    world
        .cp
        .apply(canary(
            &ns,
            "app",
            "primary-copy",
            &json!({"progressDeadlineSeconds": 10, "analysis": {"stepWeight": 50}}),
        ))
        .await?;
    world.phase(&ns, "Initialized").await?;
    world.flux(slow("v2")).await?;
    world.phase(&ns, "Succeeded").await?;
    Ok(())
}

/// What is taken out of the target is taken out of the primary; metadata follows at each promotion, of autoscalers too.
#[tokio::test(flavor = "multi_thread")]
async fn settings_and_metadata_follow_the_target() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("settings").await?;
    let target = |version: &str, metadata: Value, spec: Value| {
        let mut target = deployment(&ns, version, 2);
        json_patch::merge(&mut target, &json!({"metadata": metadata, "spec": spec}));
        target
    };
    let scaler = |query: &str| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "app", "namespace": ns, "annotations": {"metric-config/query": query}},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"}, "minReplicas": 2, "maxReplicas": 3}})
    };
    world.cp.apply(scaler("sum(a)")).await?;
    world
        .flux(target(
            "v1",
            json!({"annotations": {"owner": "a", "gone": "x"}}),
            json!({"minReadySeconds": 1}),
        ))
        .await?;
    let scaled = json!({"autoscalerRef": {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "name": "app"}, "analysis": {"stepWeight": 50}});
    world.cp.apply(canary(&ns, "app", "primary-copy", &scaled)).await?;
    world.phase(&ns, "Initialized").await?;
    let primary = world.get(&ns, "deploy", "app-primary").await?;
    ensure!(at(&primary, "/spec/minReadySeconds") == 1 && at(&primary, "/metadata/annotations/gone") == "x");
    let of_primary = world.get(&ns, "hpa", "app-primary").await?;
    ensure!(at(&of_primary, "/metadata/annotations/metric-config~1query") == "sum(a)", "{of_primary:#}");
    world.cp.apply(scaler("sum(b)")).await?;
    world.flux(target("v2", json!({"annotations": {"owner": "b"}}), json!({}))).await?;
    world.phase(&ns, "Succeeded").await?;
    let primary = world.get(&ns, "deploy", "app-primary").await?;
    ensure!(at(&primary, "/spec/minReadySeconds").is_null(), "{primary:#}");
    let annotations = at(&primary, "/metadata/annotations");
    ensure!(at(annotations, "/owner") == "b" && at(annotations, "/gone").is_null(), "{annotations:#}");
    let of_primary = world.get(&ns, "hpa", "app-primary").await?;
    ensure!(at(&of_primary, "/metadata/annotations/metric-config~1query") == "sum(b)", "{of_primary:#}");
    Ok(())
}

/// A name or a label value that would be too long is said with its length, before anything is made.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_too_long_is_refused_with_its_length() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("long").await?;
    let name = "a".repeat(58);
    world.cp.apply(workload(&ns, &name, "app:v1", &json!({"app": name}))).await?;
    world.cp.apply(canary(&ns, &name, "primary-copy", &json!({}))).await?;
    let why = super::stalled(&ns, &name, "Refused", "66 characters").await?;
    ensure!(why.contains("spec.service.name") && why.contains("Label app of the generated pods"), "{why}");
    ensure!(world.list(&ns, "svc", "").await?.is_empty());
    Ok(())
}

/// What another policy changes of each of our writes is named once, and not written again and again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_as_sent_is_named_and_left() -> Result<()> {
    let (world, _) = shared().await;
    world.cp.apply(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": "annotate"},
        "spec": {
            "failurePolicy": "Fail", "reinvocationPolicy": "IfNeeded",
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"], "resources": ["services"]}]},
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{annotations: {'seen-by': 'policy'}, labels: {'app': 'policy'}}}"}}],
        },
    })).await?;
    world.cp.apply(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": "annotate"},
        "spec": {"policyName": "annotate", "matchResources": {"namespaceSelector": {"matchLabels": {"annotate": "yes"}}}},
    })).await?;
    let ns = world.cp.namespace("annotate").await?;
    world.merge("", "namespace", &ns, json!({"metadata": {"labels": {"annotate": "yes"}}})).await?;
    let probe = world.cp.logs().join("annotate.json");
    std::fs::write(&probe, service(&ns, "probe", &json!({"app": "probe"})).to_string())?;
    let probe = probe.display().to_string();
    eventually("the policy acts", async || {
        let shown = world.kubectl_says(&["create", "--dry-run=server", "-o", "json", "-f", &probe]).await?;
        Ok(shown.contains("seen-by").then_some(()))
    })
    .await?;
    let timeline = world.timeline(&ns, &["svc"]).await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.cp.apply(canary(&ns, "app", "primary-copy", &json!({"analysis": {"stepWeight": 50}}))).await?;
    world.phase(&ns, "Initialized").await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let done = world.phase(&ns, "Succeeded").await?;
    ensure!(at(&done, "/status/warnings").to_string().contains("does not keep what is written"), "{done:#}");
    let version = |s: &Value| at(s, "/metadata/resourceVersion").as_str().map(str::to_owned);
    let mut states = timeline.values(world, "svc", "app-canary", version).await?;
    states.dedup();
    ensure!(states.len() <= 8, "it was written {} times", states.len());
    let service = world.get(&ns, "svc", "app-canary").await?;
    ensure!(at(&service, "/metadata/annotations/seen-by") == "policy", "what is not ours stays: {service:#}");
    Ok(())
}
