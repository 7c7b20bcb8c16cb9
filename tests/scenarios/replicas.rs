//! In place and without a router on a real control plane: what the EndpointSlices of the owner's Service say is the share.

use crate::in_place::plain;
use anyhow::{Result, ensure};
use harness::objects::{Cluster, pod_image};
use harness::outside::Outside;
use harness::{World, at, canary, deployment, eventually, image, service, shared};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A Canary whose share is the ratio of pods; steps of 25 and 50 %.
fn by_replicas(namespace: &str, analysis: &Value) -> Value {
    let mut object = canary(namespace, &json!({"provider": "kubernetes", "analysis": analysis}));
    json_patch::merge(
        &mut object,
        &json!({"metadata": {"annotations": {"sidetrack.dev/layout": "in-place"}}}),
    );
    object
}

/// An application of four pods is adopted.
async fn adopted(prefix: &str, analysis: &Value) -> Result<String> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace(prefix).await?;
    world.flux(service(&ns)).await?;
    world.flux(deployment(&ns, "v1", 4)).await?;
    world.until(&ns, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 4).await?;
    world.cp.apply(by_replicas(&ns, analysis)).await?;
    world.phase(&ns, "Initialized").await?;
    Ok(ns)
}

/// The pods that this EndpointSlice sends requests to.
fn serving(slice: &Value) -> impl Iterator<Item = &str> {
    let endpoints = at(slice, "/endpoints").as_array().map_or(&[][..], Vec::as_slice);
    let ready = endpoints.iter().filter(|e| at(e, "/conditions/ready") == true);
    ready.filter_map(|e| at(e, "/targetRef/name").as_str())
}

/// How many pods of the canary and of the primary get requests through the owner's Service.
fn counted<'s>(slices: impl Iterator<Item = &'s Value>) -> (usize, usize) {
    let own = slices.filter(|s| at(s, "/metadata/labels/kubernetes.io~1service-name") == "app");
    let pods: BTreeSet<&str> = own.flat_map(serving).collect();
    let canary = pods.iter().filter(|name| name.starts_with("app-canary-")).count();
    (canary, pods.len() - canary)
}

fn counted_in(cluster: &Cluster) -> (usize, usize) {
    counted(cluster.iter().filter(|((kind, _), _)| *kind == "slice").map(|(_, slice)| slice))
}

async fn counted_now(world: &World, ns: &str) -> Result<(usize, usize)> {
    Ok(counted(world.list(ns, "slice", "kubernetes.io/service-name=app").await?.iter()))
}

/// Waits for a share in status.
async fn share(world: &World, ns: &str, step: i32, percent: i32, canary: usize) -> Result<Value> {
    let wanted = json!({"by": "Replicas", "step": step, "percent": percent, "canary": canary, "primary": 4});
    let what = format!("{canary} pods at step {step}");
    world.until(ns, "canary", "app", &what, |c| *at(c, "/status/share") == wanted).await
}

/// Pods that are the primary's alone, as the owner's Deployment has made them.
async fn own_pods(world: &World, ns: &str) -> Result<BTreeSet<(String, String)>> {
    let all = world.list(ns, "pod", "app=app,!sidetrack.dev/pods").await?;
    let alive = all.iter().filter(|pod| at(pod, "/metadata/deletionTimestamp").is_null());
    let name = |pod: &Value| at(pod, "/metadata/name").as_str().unwrap_or_default().to_owned();
    Ok(alive.map(|pod| (name(pod), pod_image(pod).to_owned())).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn by_replicas_a_release_gets_its_share_in_the_owners_service() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/smoke", 400, "not yet");
    let hooks = json!([{"name": "smoke", "type": "pre-rollout", "url": outside.url("/smoke")}]);
    let ns = adopted("replicas", &json!({"threshold": 1000, "webhooks": hooks})).await?;
    let (before, theirs) = (own_pods(world, &ns).await?, world.get(&ns, "svc", "app").await?);
    ensure!(world.get(&ns, "svc", "app-primary").await?.is_null());
    let timeline = world.timeline(&ns, &["slice", "deploy", "pod"]).await?;

    world.flux(deployment(&ns, "v2", 4)).await?;
    world.event(&ns, "pre-rollout check smoke failed").await?;
    let made = world.get(&ns, "deploy", "app-canary").await?;
    ensure!(at(&made, "/status/readyReplicas") == 1 && image(&made) == "app:v2");
    ensure!(counted_now(world, &ns).await? == (0, 4), "before its hook has passed it gets no request");
    eventually("the hook reaches it through a Service of its own", async || {
        let own = world.list(&ns, "slice", "kubernetes.io/service-name=app-canary").await?;
        Ok((own.iter().flat_map(serving).count() == 1).then_some(()))
    })
    .await?;
    outside.says("/smoke", 200, "");

    let stated = share(world, &ns, 25, 20, 1).await?;
    let said = "1 of 5 ready pods are the canary's: 20 % (step 25).";
    ensure!(at(&stated, "/status/canaryWeight") == 20 && stated.to_string().contains(said), "{stated:#}");
    share(world, &ns, 50, 50, 4).await?;
    ensure!(own_pods(world, &ns).await? == before, "the owner's pods stay during the analysis");
    let done = world.phase(&ns, "Succeeded").await?;
    ensure!(at(&done, "/status/share").is_null() && at(&done, "/status/canaryWeight") == 0);
    world.gone(&ns, "deploy", "app-canary").await?;
    ensure!(own_pods(world, &ns).await?.iter().all(|(_, image)| image == "app:v2"));
    ensure!(world.get(&ns, "svc", "app").await? == theirs, "the owner's Service is as it was");

    let mut seen = BTreeSet::new();
    timeline
        .obeys(world, |cluster, state| {
            let target = cluster.get(&("deploy", "app".to_owned()));
            let held = target.is_some_and(|d| at(d, "/spec/paused") == true);
            let (canary, primary) = counted_in(cluster);
            if !held {
                return Ok(());
            }
            let made = cluster.get(&("deploy", "app-canary".to_owned()));
            let set = made.map(|d| at(d, "/metadata/annotations/sidetrack.dev~1share").as_str());
            let limit = match set.flatten().and_then(|text| text.split_once(' ')) {
                Some((_, count)) => count.parse()?,
                None => 0,
            };
            ensure!(canary <= limit, "{canary} pods get requests, {limit} were set: {state:?}");
            ensure!(primary == 4, "{primary} pods of the primary get requests");
            seen.insert(canary);
            Ok(())
        })
        .await?;
    ensure!(seen.is_superset(&BTreeSet::from([0, 1, 4])), "{seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn by_replicas_a_rejected_revision_leaves_the_service_and_a_fix_rolls() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/load", 400, "no");
    let hook = json!([{"name": "load", "type": "rollout", "url": outside.url("/load")}]);
    let ns = adopted("replicasbad", &json!({"threshold": 1, "webhooks": hook})).await?;
    let before = own_pods(world, &ns).await?;
    world.flux(deployment(&ns, "v2", 4)).await?;
    share(world, &ns, 25, 20, 1).await?;
    let failed = world.phase(&ns, "Failed").await?;
    ensure!(at(&failed, "/status/canaryWeight") == 0 && at(&failed, "/status/share").is_null());
    world.gone(&ns, "deploy", "app-canary").await?;
    ensure!(counted_now(world, &ns).await? == (0, 4) && own_pods(world, &ns).await? == before);
    outside.says("/load", 200, "");
    world.flux(deployment(&ns, "v3", 4)).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(own_pods(world, &ns).await?.iter().all(|(_, image)| image == "app:v3"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn by_replicas_a_revert_and_leaving_take_the_canarys_pods_away() -> Result<()> {
    let (world, _) = shared().await;
    let slow = json!({"stepWeight": 5, "maxWeight": 50});
    let ns = adopted("replicasback", &slow).await?;
    let before = own_pods(world, &ns).await?;
    world.flux(deployment(&ns, "v2", 4)).await?;
    share(world, &ns, 10, 20, 1).await?;
    // Somebody else's scaling is not a share that the analysis has set; the autoscaler's of the primary is followed.
    world.scale(&ns, "app-canary", 3).await?;
    world.until(&ns, "deploy", "app-canary", "what was set", |d| at(d, "/spec/replicas") == 1).await?;
    world.flux(deployment(&ns, "v1", 4)).await?;
    world.phase(&ns, "Succeeded").await?;
    world.gone(&ns, "deploy", "app-canary").await?;
    ensure!(own_pods(world, &ns).await? == before, "no pod of the primary was restarted");

    world.flux(deployment(&ns, "v2", 4)).await?;
    share(world, &ns, 10, 20, 1).await?;
    world.delete(&ns, "canary", "app").await?;
    plain(world, &ns, "v1").await?;
    ensure!(own_pods(world, &ns).await? == before, "no pod of the primary was restarted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn by_replicas_without_the_owners_service_nothing_is_touched() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("replicasno").await?;
    world.flux(deployment(&ns, "v1", 1)).await?;
    world.cp.apply(by_replicas(&ns, &json!({}))).await?;
    world
        .until(&ns, "canary", "app", "a refusal", |c| {
            at(c, "/status/conditions").to_string().contains("Service app does not exist")
        })
        .await?;
    ensure!(
        at(&world.get(&ns, "deploy", "app").await?, "/metadata/annotations/sidetrack.dev~1promoted")
            .is_null()
    );
    world.flux(service(&ns)).await?;
    world.phase(&ns, "Initialized").await?;
    Ok(())
}
