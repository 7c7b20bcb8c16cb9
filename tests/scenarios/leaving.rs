//! Deletion of a Canary: its application stands on its own again, without a moment in which it does not serve.

use anyhow::{Context, Result, ensure};
use harness::objects::{Cluster, ready};
use harness::{World, at, deployment, image, initialized, shared, weight};
use serde_json::{Value, json};

/// Whether a Service has a ready pod.
fn serves(cluster: &Cluster, service: &str) -> bool {
    let selector = cluster.get(&("svc", service.to_owned())).map(|s| at(s, "/spec/selector").clone());
    let Some(Value::Object(selector)) = selector else { return false };
    cluster.iter().filter(|((kind, _), _)| *kind == "pod").any(|(_, pod)| {
        let labels = at(pod, "/metadata/labels");
        let matches = selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        matches && ready(pod) && at(pod, "/metadata/deletionTimestamp").is_null()
    })
}

/// Deletes the Canary and checks what it leaves behind, and that somebody always served.
async fn leave(world: &World, ns: &str) -> Result<()> {
    let timeline = world.timeline(ns, &["pod", "svc", "vs"]).await?;
    world.delete(ns, "canary", "app").await?;
    world.gone(ns, "canary", "app").await?;
    let target = world
        .until(ns, "deploy", "app", "the target has its pods", |d| at(d, "/status/readyReplicas") == 2)
        .await?;
    ensure!(image(&target) == "app:v1", "the target runs the promoted revision");
    ensure!(at(&target, "/spec/paused").is_null());
    let metadata = at(&target, "/metadata");
    for part in ["labels", "annotations", "finalizers"] {
        let left = metadata.get(part).cloned().unwrap_or_default().to_string();
        ensure!(!left.contains("sidetrack.dev"), "{part} has {left}");
    }
    for (kind, name) in [("deploy", "app-primary"), ("svc", "app-primary"), ("svc", "app-canary")] {
        world.gone(ns, kind, name).await?;
    }
    let service = world.get(ns, "svc", "app").await?;
    ensure!(service.is_null() || at(&service, "/spec/selector/app") == "app");
    let mut begun = false;
    timeline
        .obeys(world, |cluster, state| {
            // The recording begins with what was there, kind by kind.
            begun |= serves(cluster, "app");
            let there = cluster.contains_key(&("svc", "app".to_owned()));
            ensure!(!begun || !there || serves(cluster, "app"), "the apex Service has no ready pod");
            if begun && let Some(route) = cluster.get(&("vs", "app".to_owned())) {
                let canary = weight(route).unwrap_or(0);
                let lost = canary > 0 && !serves(cluster, "app-canary")
                    || canary < 100 && !serves(cluster, "app-primary");
                let present = ["app-primary", "app-canary"]
                    .iter()
                    .all(|s| cluster.contains_key(&("svc", (*s).to_owned())));
                ensure!(!present || !lost, "weight {canary} on a side without ready pods: {state:?}");
            }
            Ok(())
        })
        .await?;
    ensure!(begun);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn canary_deleted_at_rest_hands_over_to_the_target() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("leave", &json!({})).await?;
    leave(world, &ns).await?;
    // Without its Canary, the Deployment rolls as Kubernetes has it.
    world.flux(deployment(&ns, "v2", 2)).await?;
    world
        .until(&ns, "deploy", "app", "v2 rolls natively", |d| {
            image(d) == "app:v2" && at(d, "/status/updatedReplicas") == 2 && at(d, "/spec/paused").is_null()
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn canary_deleted_at_weight_ends_its_run_first() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("leaverun", &json!({"analysis": {"stepWeight": 5}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight", |vs| weight(vs) > Some(0)).await?;
    leave(world, &ns).await
}

#[tokio::test(flavor = "multi_thread")]
async fn canary_deleted_after_a_rejection_leaves_the_promoted_revision() -> Result<()> {
    let (world, _) = shared().await;
    let outside = harness::outside::Outside::start().await?;
    outside.says("/check", 400, "no");
    let hook = json!([{"name": "check", "type": "pre-rollout", "url": outside.url("/check")}]);
    let ns = initialized("leavefail", &json!({"analysis": {"threshold": 1, "webhooks": hook}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Failed").await?;
    leave(world, &ns).await.context("after a rejection")
}

/// `helm uninstall`, Flux's prune, `kubectl delete -f`, a namespace: in the middle of a release, in either order.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_together_in_a_release_leaves_nothing_behind() -> Result<()> {
    let (world, _) = shared().await;
    let cases =
        [["canary", "deploy"], ["deploy", "canary"], ["namespace", ""]].map(async |order| -> Result<()> {
            let ns = world.cp.namespace("together").await?;
            world.cp.apply(harness::service(&ns)).await?;
            world.flux(deployment(&ns, "v1", 2)).await?;
            world
                .cp
                .apply(harness::canary(&ns, &json!({"analysis": {"stepWeight": 2, "maxWeight": 100}})))
                .await?;
            world.phase(&ns, "Initialized").await?;
            world.flux(deployment(&ns, "v2", 2)).await?;
            world.until(&ns, "vs", "app", "some weight", |vs| weight(vs).is_some_and(|w| w > 0)).await?;
            let whole = order[0] == "namespace";
            if whole {
                world.delete("", "namespace", &ns).await?;
            } else {
                for kind in order {
                    world.delete(&ns, kind, "app").await?;
                }
            }
            for (kind, name) in [
                ("canary", "app"),
                ("deploy", "app"),
                ("deploy", "app-primary"),
                ("svc", "app-primary"),
                ("vs", "app"),
            ] {
                world.gone(&ns, kind, name).await.with_context(|| format!("{order:?}: {kind} {name}"))?;
            }
            let service = world.get(&ns, "svc", "app").await?;
            ensure!(
                whole
                    || !service.to_string().contains("sidetrack.dev/")
                        && at(&service, "/spec/selector/app") == "app",
                "{service:#}"
            );
            Ok(())
        });
    futures::future::try_join_all(cases).await?;
    Ok(())
}
