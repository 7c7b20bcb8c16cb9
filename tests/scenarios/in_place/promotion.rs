//! Gates and rolls: what lets a revision through, and how the primary takes it.

use super::adopted;
use anyhow::{Result, ensure};
use harness::objects::{pods_of, ready};
use harness::outside::Outside;
use harness::{at, deployment, image, in_place, service, shared, weight};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn in_place_gates_are_opened_by_whoever_may_approve() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/gate", 403, "not yet");
    outside.says("/door", 403, "not yet");
    let hooks = json!([
        {"name": "gate", "type": "confirm-rollout", "url": outside.url("/gate")},
        {"name": "door", "type": "confirm-promotion", "url": outside.url("/door")},
    ]);
    let ns = adopted("approve", &json!({"analysis": {"webhooks": hooks}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Waiting").await?;
    ensure!(world.get(&ns, "deploy", "app-canary").await?.is_null(), "no pod before its gate");
    let shown = world.plugin(&ns, &["tree", "app"]).await?.out;
    ensure!(shown.contains("confirm-rollout gate  waits") && shown.contains("door  not asked"), "{shown}");
    let approved = world.plugin(&ns, &["approve", "app", "--reason", "signed off"]).await?;
    ensure!(approved.code == 0 && approved.out.contains("The gate is open"), "{approved:?}");
    world.phase(&ns, "WaitingPromotion").await?;
    let shown = world.plugin(&ns, &["tree", "app"]).await?.out;
    ensure!(shown.contains("gate  passed on request") && shown.contains("door  waits"), "{shown}");
    let again = world.plugin(&ns, &["approve", "app"]).await?;
    ensure!(again.code == 0, "{again:?}");
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app").await?) == "app:v2");
    let none = world.plugin(&ns, &["approve", "app"]).await?;
    ensure!(none.code == 1 && none.err.contains("nothing is being released"), "{none:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_a_primary_that_is_recreated_rolls_while_the_canary_serves() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("recreate").await?;
    let version = |version: &str| {
        let mut object = deployment(&ns, version, 2);
        json_patch::merge(&mut object, &json!({"spec": {"strategy": {"type": "Recreate"}}}));
        object
    };
    world.flux(service(&ns)).await?;
    world.flux(version("v1")).await?;
    world.until(&ns, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    world.cp.apply(in_place(&ns, &json!({}))).await?;
    world.phase(&ns, "Initialized").await?;
    let timeline = world.timeline(&ns, &["vs", "pod"]).await?;
    world.flux(version("v2")).await?;
    world.phase(&ns, "Succeeded").await?;
    let weights = timeline.values(world, "vs", "app", weight).await?;
    ensure!(weights == [0, 25, 50, 100, 0], "{weights:?}");
    ensure!(image(&world.get(&ns, "deploy", "app").await?) == "app:v2");
    let mut begun = false;
    timeline
        .obeys(world, |cluster, _| {
            let serving = |app: &str| {
                let of = pods_of(cluster, app).into_iter();
                of.filter(|p: &&Value| ready(p) && at(p, "/metadata/deletionTimestamp").is_null()).count()
            };
            let share = cluster.get(&("vs", "app".to_owned())).and_then(weight);
            begun |= serving("app") == 2;
            ensure!(!begun || share.is_none_or(|w| w == 100 || serving("app") > 0), "traffic on no pod");
            ensure!(share.is_none_or(|w| w == 0 || serving("app-canary") > 0), "traffic on no pod");
            Ok(())
        })
        .await
}
