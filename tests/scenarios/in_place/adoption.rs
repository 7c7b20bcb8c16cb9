//! What is adopted, and when: a Deployment as its owner left it.

use super::{adopted, pods};
use anyhow::{Result, ensure};
use harness::objects::pod_image;
use harness::{World, at, deployment, image, in_place, service, service_of, shared, weight};
use serde_json::{Value, json};

/// Waits until status says this, and makes sure that nothing was touched.
async fn waits(world: &World, ns: &str, sentence: &str) -> Result<()> {
    let says = |c: &Value| at(c, "/status/conditions").to_string().contains(sentence);
    let waiting = world.until(ns, "canary", "app", sentence, says).await?;
    ensure!(at(&waiting, "/status/phase") == "Initializing", "{waiting:#}");
    let app = world.get(ns, "deploy", "app").await?;
    ensure!(!at(&app, "/metadata").to_string().contains("sidetrack.dev"), "{app:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_a_roll_is_waited_for() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("midroll").await?;
    world.flux(service(&ns)).await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.until(&ns, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    let mut stuck = deployment(&ns, "v2", 2);
    json_patch::merge(
        &mut stuck,
        &json!({"spec": {"template": {"metadata": {"labels": {"ready": "never"}}}}}),
    );
    world.flux(stuck).await?;
    world
        .until(&ns, "deploy", "app", "it rolls", |d| {
            at(d, "/status/updatedReplicas") == 1 && at(d, "/status/replicas") == 3
        })
        .await?;
    world.cp.apply(in_place(&ns, &json!({}))).await?;
    waits(world, &ns, "has pods of more than one revision").await?;
    // The owner's roll is his own: it ends as Kubernetes has it.
    world.flux(deployment(&ns, "v3", 2)).await?;
    world.phase(&ns, "Initialized").await?;
    ensure!(pods(world, &ns, "app").await?.iter().all(|(_, image)| image == "app:v3"));
    world.flux(deployment(&ns, "v4", 2)).await?;
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    world.phase(&ns, "Succeeded").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_a_pause_of_the_owner_is_waited_for_and_kept() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("ownerpause").await?;
    world.flux(service(&ns)).await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.until(&ns, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    world.kubectl(&["-n", &ns, "rollout", "pause", "deploy/app"]).await?;
    let before = pods(world, &ns, "app").await?;
    world.cp.apply(in_place(&ns, &json!({}))).await?;
    waits(world, &ns, "is paused by its owner").await?;
    world.kubectl(&["-n", &ns, "rollout", "resume", "deploy/app"]).await?;
    world.phase(&ns, "Initialized").await?;
    // Paused again while it is enrolled: a release waits for the owner, and only for him.
    world.kubectl(&["-n", &ns, "rollout", "pause", "deploy/app"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let says = |c: &Value| at(c, "/status/conditions").to_string().contains("until its owner resumes");
    world.until(&ns, "canary", "app", "it waits for its owner", says).await?;
    ensure!(pods(world, &ns, "app").await? == before, "no pod was restarted");
    world.kubectl(&["-n", &ns, "rollout", "resume", "deploy/app"]).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(pods(world, &ns, "app").await?.iter().all(|(_, image)| image == "app:v2"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_an_application_without_pods_is_adopted_and_released_when_it_has_some() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("nopods").await?;
    world.flux(service(&ns)).await?;
    world.flux(deployment(&ns, "v1", 0)).await?;
    world.cp.apply(in_place(&ns, &json!({}))).await?;
    world.phase(&ns, "Initialized").await?;
    world.flux(deployment(&ns, "v2", 0)).await?;
    let says = |c: &Value| at(c, "/status/conditions").to_string().contains("scaled to 0");
    world.until(&ns, "canary", "app", "the release waits for pods", says).await?;
    let shown = world.plugin(&ns, &["tree", "app"]).await?;
    ensure!(shown.out.contains(&format!("kubectl scale deployment app -n {ns} --replicas=2")), "{shown:?}");
    let timeline = world.timeline(&ns, &["pod", "deploy"]).await?;
    world.kubectl(&["-n", &ns, "scale", "deployment", "app", "--replicas=2"]).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(pods(world, &ns, "app").await?.iter().all(|(_, image)| image == "app:v2"));
    timeline
        .obeys(world, |cluster, _| {
            let held =
                cluster.get(&("deploy", "app".to_owned())).is_some_and(|d| at(d, "/spec/paused") == true);
            let old = harness::objects::pods_of(cluster, "app");
            ensure!(!held || old.iter().all(|p| pod_image(p) == "app:v1"), "a pod runs what is held");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_a_deployment_that_its_owner_makes_again_goes_on_from_what_was_promoted() -> Result<()> {
    let (world, _) = shared().await;
    let ns = adopted("madeagain", &json!({"analysis": {"stepWeight": 5, "maxWeight": 100}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    let first = at(&world.get(&ns, "deploy", "app").await?, "/metadata/uid").clone();
    world.kubectl(&["-n", &ns, "delete", "deployment", "app"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let again = world
        .until(&ns, "deploy", "app", "it is adopted again", |d| {
            at(d, "/metadata/uid") != &first
                && at(d, "/metadata/annotations/sidetrack.dev~1promoted").is_string()
        })
        .await?;
    let promoted = at(&again, "/metadata/annotations/sidetrack.dev~1promoted");
    let canary = world.get(&ns, "canary", "app").await?;
    ensure!(promoted == at(&canary, "/status/revisions/primary"), "{again:#}\n{canary:#}");
    world
        .until(&ns, "canary", "app", "v2 is analysed again", |c| {
            at(c, "/status/run/stage") == "Analysing" && at(c, "/status/canaryWeight") == 5
        })
        .await?;
    let target = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&target, "/spec/paused") == true && image(&target) == "app:v2", "{target:#}");
    let all = super::pods(world, &ns, "app").await?;
    ensure!(all.iter().all(|(_, image)| image == "app:v1"), "{all:?}");
    ensure!(world.plugin(&ns, &["promote", "app"]).await?.code == 0);
    world.phase(&ns, "Succeeded").await?;
    Ok(())
}

/// Deployment, Service and Canary `other` beside `app`: each steers its own traffic.
#[tokio::test(flavor = "multi_thread")]
async fn in_place_two_canaries_in_one_namespace_do_not_meet() -> Result<()> {
    let (world, _) = shared().await;
    let renamed = |object: Value| -> Result<Value> {
        Ok(serde_json::from_str(&object.to_string().replace("\"app\"", "\"other\""))?)
    };
    // `"app"` is a label's key as well.
    let other = |version: &str, ns: &str| -> Result<Value> {
        let mut object = deployment(ns, version, 2);
        json_patch::merge(
            &mut object,
            &json!({"metadata": {"name": "other", "labels": {"app": "other"}}, "spec": {
                "selector": {"matchLabels": {"app": "other"}},
                "template": {"metadata": {"labels": {"app": "other"}}}}}),
        );
        Ok(object)
    };
    let ns = adopted("two", &json!({})).await?;
    world.flux(service_of(&ns, "other")).await?;
    world.flux(other("v1", &ns)?).await?;
    world.until(&ns, "deploy", "other", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    let outside = harness::outside::Outside::start().await?;
    outside.says("/load", 400, "no");
    let hook = json!([{"name": "load", "type": "rollout", "url": outside.url("/load")}]);
    world.cp.apply(renamed(in_place(&ns, &json!({"analysis": {"threshold": 1, "webhooks": hook}})))?).await?;
    let phase = |phase: &'static str| move |c: &Value| at(c, "/status/phase") == phase;
    world.until(&ns, "canary", "other", "it is adopted", phase("Initialized")).await?;
    let before = pods(world, &ns, "other").await?;

    let timeline = world.timeline(&ns, &["vs"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.flux(other("v2", &ns)?).await?;
    world.phase(&ns, "Succeeded").await?;
    world.until(&ns, "canary", "other", "it is rejected", phase("Failed")).await?;
    ensure!(pods(world, &ns, "app").await?.iter().all(|(_, image)| image == "app:v2"));
    ensure!(pods(world, &ns, "other").await? == before, "no pod of the other one was restarted");
    for name in ["app-canary", "other-canary"] {
        world.gone(&ns, "deploy", name).await?;
    }
    ensure!(timeline.values(world, "vs", "app", weight).await? == [0, 25, 50, 0]);
    ensure!(timeline.values(world, "vs", "other", weight).await? == [0, 25, 0]);
    Ok(())
}
