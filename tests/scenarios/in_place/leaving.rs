//! Leaving from wherever a release stands: a plain Deployment, on the right revision, with its pods.

use super::{adopted, plain, pods};
use anyhow::{Context as _, Result, ensure};
use harness::objects::{pod_image, pods_of};
use harness::outside::Outside;
use harness::{World, at, deployment, eventually, image, in_place, service, shared, weight};
use serde_json::{Value, json};

async fn gone(world: &World, ns: &str) -> Result<()> {
    world.kubectl(&["-n", ns, "delete", "canary", "app"]).await?;
    Ok(())
}

/// A gate that nobody opens.
async fn closed(kind: &str) -> Result<Value> {
    let outside = Outside::start().await?;
    outside.says("/gate", 403, "not yet");
    Ok(json!({"analysis": {"webhooks": [{"name": "gate", "type": kind, "url": outside.url("/gate")}]}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_leaving_at_a_gate_leaves_what_runs() -> Result<()> {
    let (world, _) = shared().await;
    for (prefix, kind, phase) in
        [("outgate", "confirm-rollout", "Waiting"), ("outdoor", "confirm-promotion", "WaitingPromotion")]
    {
        let ns = adopted(prefix, &closed(kind).await?).await?;
        let before = pods(world, &ns, "app").await?;
        world.flux(deployment(&ns, "v2", 2)).await?;
        world.phase(&ns, phase).await?;
        gone(world, &ns).await?;
        plain(world, &ns, "v1").await.context(phase)?;
        ensure!(pods(world, &ns, "app").await? == before, "{phase}: a pod was restarted");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_leaving_a_paused_run_and_an_application_without_pods() -> Result<()> {
    let (world, _) = shared().await;
    let paused = adopted("outpaused", &json!({"analysis": {"interval": "5m"}})).await?;
    let before = pods(world, &paused, "app").await?;
    world.flux(deployment(&paused, "v2", 2)).await?;
    world.until(&paused, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    ensure!(world.plugin(&paused, &["pause", "app"]).await?.code == 0);
    gone(world, &paused).await?;
    plain(world, &paused, "v1").await.context("paused")?;
    ensure!(pods(world, &paused, "app").await? == before, "a pod was restarted");

    let empty = adopted("outempty", &json!({})).await?;
    world.scale(&empty, "app", 0).await?;
    world.flux(deployment(&empty, "v2", 0)).await?;
    let says = |c: &Value| at(c, "/status/conditions").to_string().contains("scaled to 0");
    world.until(&empty, "canary", "app", "v2 waits for pods", says).await?;
    gone(world, &empty).await?;
    world.gone(&empty, "canary", "app").await?;
    let left = world.get(&empty, "deploy", "app").await?;
    ensure!(image(&left) == "app:v1" && at(&left, "/spec/paused").is_null(), "{left:#}");
    world.scale(&empty, "app", 2).await?;
    plain(world, &empty, "v1").await.context("scaled up again")
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_leaving_before_it_was_adopted_leaves_the_owners_pause() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("outinit").await?;
    world.flux(service(&ns)).await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.until(&ns, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    world.kubectl(&["-n", &ns, "rollout", "pause", "deploy/app"]).await?;
    let before = pods(world, &ns, "app").await?;
    world.cp.apply(in_place(&ns, &json!({}))).await?;
    world.phase(&ns, "Initializing").await?;
    gone(world, &ns).await?;
    world.gone(&ns, "canary", "app").await?;
    ensure!(at(&world.get(&ns, "deploy", "app").await?, "/spec/paused") == true, "the pause is his own");
    world.kubectl(&["-n", &ns, "rollout", "resume", "deploy/app"]).await?;
    plain(world, &ns, "v1").await?;
    ensure!(pods(world, &ns, "app").await? == before, "a pod was restarted");
    Ok(())
}

/// v2 rolled by break-glass and got stuck half-way; v3 is analysed against that mix.
async fn mixed(world: &World, prefix: &str, spec: &Value) -> Result<String> {
    let mut all = json!({"progressDeadlineSeconds": 3, "analysis": {"stepWeight": 5, "maxWeight": 100}});
    json_patch::merge(&mut all, spec);
    let ns = adopted(prefix, &all).await?;
    let generation = at(&world.get(&ns, "deploy", "app").await?, "/metadata/generation").to_string();
    let glass = json!({"metadata": {"annotations": {"sidetrack.dev/break-glass": format!("{generation} outage")}},
        "spec": {"template": {"metadata": {"labels": {"ready": "never"}},
            "spec": {"containers": [{"name": "app", "image": "app:v2"}]}}}});
    world.kubectl(&["-n", &ns, "patch", "deploy/app", "-p", &glass.to_string()]).await?;
    let late = |c: &Value| at(c, "/status/conditions").to_string().contains("is late");
    world.until(&ns, "canary", "app", "the roll is late", late).await?;
    let fix = json!({"spec": {"template": {"metadata": {"labels": {"ready": null}},
            "spec": {"containers": [{"name": "app", "image": "app:v3"}]}}}});
    world.kubectl(&["-n", &ns, "patch", "deploy/app", "-p", &fix.to_string()]).await?;
    world
        .until(&ns, "canary", "app", "status says that it is mixed", |c| {
            at(c, "/status/revisions/mixed").is_string()
        })
        .await?;
    Ok(ns)
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_leaving_a_mixed_primary_gives_it_the_promoted_revision() -> Result<()> {
    let (world, _) = shared().await;
    let ns = mixed(world, "outmixed", &json!({})).await?;
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    gone(world, &ns).await?;
    plain(world, &ns, "v1").await?;
    eventually("all pods are of v1", async || {
        Ok(pods(world, &ns, "app").await?.iter().all(|(_, image)| image == "app:v1").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_undo_makes_a_mixed_primary_whole_again() -> Result<()> {
    let (world, _) = shared().await;
    let ns = mixed(world, "unmixed", &json!({})).await?;
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    ensure!(world.plugin(&ns, &["abort", "app"]).await?.code == 0);
    world.phase(&ns, "Failed").await?;
    let tree = world.plugin(&ns, &["tree", "app"]).await?.out;
    ensure!(tree.contains("all pods of the promoted revision again"), "{tree}");
    ensure!(world.plugin(&ns, &["undo", "app"]).await?.code == 0);
    let whole = world
        .until(&ns, "canary", "app", "it is whole", |c| {
            at(c, "/status/revisions/mixed").is_null() && at(c, "/status/phase") == "Succeeded"
        })
        .await?;
    ensure!(at(&whole, "/status/run").is_null() || at(&whole, "/status/run/stage") == "Closing");
    eventually("all pods are of v1", async || {
        Ok(pods(world, &ns, "app").await?.iter().all(|(_, image)| image == "app:v1").then_some(()))
    })
    .await
}

/// The owner's way out without us: one write that breaks the glass and takes our label off.
#[tokio::test(flavor = "multi_thread")]
async fn in_place_the_owner_leaves_in_one_write() -> Result<()> {
    let (world, _) = shared().await;
    let ns = adopted("outowner", &closed("confirm-promotion").await?).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "WaitingPromotion").await?;
    let said = world.as_documented("leaving.md", "The owner's own way out, in place", &ns).await?;
    world.gone(&ns, "canary", "app").await.with_context(|| said.clone())?;
    // Nothing was stated about the template: what was held rolls.
    plain(world, &ns, "v2").await.context(said)
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_routes_of_the_owner_are_given_back() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("outroutes").await?;
    world.flux(service(&ns)).await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.until(&ns, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    let hosts = json!(["shop.example.com"]);
    world
        .flux(json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService",
            "metadata": {"name": "app", "namespace": ns},
            "spec": {"hosts": hosts, "http": [{"route": [{"destination": {"host": "app"}}]}]}}))
        .await?;
    let theirs = world.get(&ns, "svc", "app").await?;
    let spec = json!({"service": {"hosts": hosts}, "analysis": {"stepWeight": 5, "maxWeight": 100}});
    world.cp.apply(in_place(&ns, &spec)).await?;
    world.phase(&ns, "Initialized").await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    gone(world, &ns).await?;
    world.gone(&ns, "canary", "app").await?;
    let route = world.get(&ns, "vs", "app").await?;
    ensure!(at(&route, "/spec/http/0/route/0/destination/host") == "app", "{route:#}");
    ensure!(at(&route, "/spec/http/0/route/1").is_null(), "{route:#}");
    ensure!(world.get(&ns, "svc", "app").await? == theirs, "the owner's Service is as it was");
    Ok(())
}

/// A Deployment is saved while a rejected revision is held on it, and made again from that: what ran goes on running, and of
/// what was rejected there is no pod at any time.
#[tokio::test(flavor = "multi_thread")]
async fn in_place_a_rejected_revision_that_is_restored_stays_out() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/check", 500, "no");
    let check = json!([{"name": "check", "type": "pre-rollout", "url": outside.url("/check")}]);
    let ns = adopted("restored", &json!({"analysis": {"webhooks": check}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Failed").await?;
    let timeline = world.timeline(&ns, &["pod"]).await?;
    let saved = world.kubectl(&["-n", &ns, "get", "deploy", "app", "-o", "json"]).await?;
    let file = world.cp.logs().join("saved.json");
    std::fs::write(&file, saved)?;
    let file = file.to_string_lossy().into_owned();
    world.kubectl(&["-n", &ns, "replace", "--force", "-f", &file]).await?;
    let restored = world
        .until(&ns, "deploy", "app", "v1 has its pods again, v2 is held", |d| {
            image(d) == "app:v2" && at(d, "/spec/paused") == true && at(d, "/status/readyReplicas") == 2
        })
        .await?;
    ensure!(at(&restored, "/status/updatedReplicas").as_i64().unwrap_or(0) == 0, "{restored:#}");
    let all = pods(world, &ns, "app").await?;
    ensure!(all.iter().all(|(_, image)| image == "app:v1"), "{all:?}");
    timeline
        .obeys(world, |cluster, _| {
            let of = pods_of(cluster, "app");
            ensure!(of.into_iter().all(|p| pod_image(p) != "app:v2"), "v2 ran");
            Ok(())
        })
        .await
}

/// What a backup keeps of an object: its name, labels, annotations and content.
fn backed_up(object: &Value, namespace: &str) -> Value {
    let mut object = object.clone();
    let of = |field: &str| at(&object, &format!("/metadata/{field}")).clone();
    let metadata = json!({"namespace": namespace, "name": of("name"), "labels": of("labels"), "annotations": of("annotations")});
    if let Some(object) = object.as_object_mut() {
        object.insert("metadata".into(), metadata);
        object.remove("status");
    }
    object
}

/// A namespace is restored from a backup that has no status, as most have, taken while a rejected revision was held.
#[tokio::test(flavor = "multi_thread")]
async fn in_place_a_backup_without_status_brings_the_promoted_revision_back() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/check", 500, "no");
    let check = json!([{"name": "check", "type": "pre-rollout", "url": outside.url("/check")}]);
    let ns = adopted("backup", &json!({"analysis": {"webhooks": check}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Failed").await?;
    let other = world.cp.namespace("restore").await?;
    let timeline = world.timeline(&other, &["pod"]).await?;
    world.flux(service(&other)).await?;
    // Stored templates first, as the tools go by kind in the order of the alphabet.
    let mut objects = vec![world.get(&ns, "canary", "app").await?];
    for revision in world.list(&ns, "controllerrevision", "").await? {
        let name = at(&revision, "/metadata/name").as_str().unwrap_or_default();
        objects.push(world.get(&ns, "controllerrevision", name).await?);
    }
    objects.push(world.get(&ns, "deploy", "app").await?);
    for object in &objects {
        world.cp.apply(backed_up(object, &other)).await?;
    }
    world
        .until(&other, "deploy", "app", "v1 has its pods, v2 is held", |d| {
            image(d) == "app:v2" && at(d, "/spec/paused") == true && at(d, "/status/readyReplicas") == 2
        })
        .await?;
    world.phase(&other, "Failed").await?;
    timeline
        .obeys(world, |cluster, _| {
            let of = pods_of(cluster, "app");
            ensure!(of.into_iter().all(|p| pod_image(p) == "app:v1"), "v2 ran");
            Ok(())
        })
        .await
}
