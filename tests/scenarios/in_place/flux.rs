//! Flux with its very requests where the target is the primary.

use super::adopted;
use crate::flux::{annotation, unchanged};
use anyhow::{Result, ensure};
use harness::flux::reconcile;
use harness::outside::Outside;
use harness::{at, deployment, image, in_place, shared, weight};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn in_place_flux_finds_nothing_to_do_at_each_stage_of_a_release() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/gate", 403, "not yet");
    let hooks = json!([{"name": "gate", "type": "confirm-rollout", "url": outside.url("/gate")}]);
    let spec = json!({"analysis": {"webhooks": hooks, "stepWeight": 5, "maxWeight": 25}});
    let ns = adopted("fluxinplace", &spec).await?;
    // The number of pods stands in Git too.
    let version = |v: &str| deployment(&ns, v, 2);
    unchanged(world, &ns, &version("v1"), "at rest").await?;

    ensure!(reconcile(world, &version("v2")).await?, "a new revision is configured");
    world.phase(&ns, "Waiting").await?;
    unchanged(world, &ns, &version("v2"), "while v2 is held").await?;
    let held = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&held, "/spec/paused") == true && image(&held) == "app:v2");
    ensure!(annotation(&held, "applied-by") == Some("kustomize-controller flux"));
    // Somebody scales by hand, and Flux puts back what Git says: pods of what runs come and go.
    world.kubectl(&["-n", &ns, "scale", "deploy/app", "--replicas=3"]).await?;
    world.until(&ns, "deploy", "app", "three pods", |d| at(d, "/status/readyReplicas") == 3).await?;
    ensure!(reconcile(world, &version("v2")).await?, "two pods stand in Git");
    world.until(&ns, "deploy", "app", "two pods", |d| at(d, "/status/replicas") == 2).await?;
    ensure!(at(&world.get(&ns, "deploy", "app").await?, "/spec/paused") == true);
    unchanged(world, &ns, &version("v2"), "with its replicas").await?;
    ensure!(reconcile(world, &version("v3")).await?, "v3 supersedes it");
    unchanged(world, &ns, &version("v3"), "while v3 is held").await?;
    ensure!(reconcile(world, &version("v1")).await?, "a revert while held is configured");
    let free = |d: &Value| annotation(d, "hold").is_none() && at(d, "/spec/paused").as_bool() != Some(true);
    ensure!(free(&world.get(&ns, "deploy", "app").await?), "and passes at once");
    world.until(&ns, "canary", "app", "the run is over", |c| at(c, "/status/run").is_null()).await?;
    unchanged(world, &ns, &version("v1"), "after the revert").await?;

    outside.says("/gate", 200, "");
    ensure!(reconcile(world, &version("v2")).await?, "v2 again");
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    unchanged(world, &ns, &version("v2"), "during the analysis").await?;
    world.phase(&ns, "Succeeded").await?;
    unchanged(world, &ns, &version("v2"), "after the promotion").await?;
    ensure!(free(&world.get(&ns, "deploy", "app").await?));

    outside.says("/gate", 403, "no");
    ensure!(reconcile(world, &version("v4")).await?, "v4");
    world.phase(&ns, "Waiting").await?;
    ensure!(world.plugin(&ns, &["abort", "app"]).await?.code == 0);
    world.phase(&ns, "Failed").await?;
    world.until(&ns, "canary", "app", "the run is over", |c| at(c, "/status/run").is_null()).await?;
    unchanged(world, &ns, &version("v4"), "after a rollback").await?;
    Ok(())
}

/// With `force`, Flux deletes and makes again what an API server calls invalid (422): that must not happen to what is held.
#[tokio::test(flavor = "multi_thread")]
async fn in_place_flux_with_force_is_never_told_to_make_the_deployment_again() -> Result<()> {
    let (world, _) = shared().await;
    let ns = adopted("fluxforce", &json!({"analysis": {"stepWeight": 5, "maxWeight": 100}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    let mut other = deployment(&ns, "v2", 2);
    json_patch::merge(
        &mut other,
        &json!({"spec": {"selector": {"matchLabels": {"team": "shop"}},
            "template": {"metadata": {"labels": {"team": "shop"}}}}}),
    );
    let refused =
        reconcile(world, &other).await.err().and_then(|error| match error.downcast::<kube::Error>() {
            Ok(kube::Error::Api(status)) => Some(status),
            _ => None,
        });
    let status = refused.ok_or_else(|| anyhow::anyhow!("it was not refused by the API server"))?;
    ensure!(status.code == 403, "{status:?}");
    ensure!(!status.message.contains("is immutable"), "{status:?}");
    ensure!(image(&world.get(&ns, "deploy", "app").await?) == "app:v2");
    world.cp.apply(in_place(&ns, &json!({}))).await?;
    world.phase(&ns, "Succeeded").await?;
    Ok(())
}
