//! What Sidetrack puts right between releases, and what it takes for a wish.

use anyhow::{Result, ensure};
use ground::SIDETRACK;
use harness::{at, deployment, image, initialized, shared};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn primary_scaled_to_nothing_by_hand_is_repaired() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("repair", &json!({})).await?;
    world.scale(&ns, "app-primary", 0).await?;
    world.event(&ns, &format!("app-primary.{ns} was scaled to 0 by hand, 2 are asked for: repaired")).await?;
    world
        .until(&ns, "deploy", "app-primary", "its pods are back", |d| {
            at(d, "/spec/replicas") == 2 && at(d, "/status/readyReplicas") == 2
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_primary_is_made_again_from_the_promoted_revision() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("again", &json!({})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Succeeded").await?;
    let uid = at(&world.get(&ns, "deploy", "app-primary").await?, "/metadata/uid").clone();
    world.delete(&ns, "deploy", "app-primary").await?;
    let kept = world.get(&ns, "deploy", "app-primary").await?;
    ensure!(!at(&kept, "/metadata/deletionTimestamp").is_null() && at(&kept, "/status/readyReplicas") == 2);
    // Its finalizer keeps it and its pods, as they carry the traffic, and is the controller's to take off.
    let off = json!({"metadata": {"finalizers": null}});
    let denied = world.merge(&ns, "deploy", "app-primary", off.clone()).await;
    ensure!(denied.is_err(), "anybody can take the finalizer off");
    let patch = off.to_string();
    let args = ["-n", &ns, "patch", "deploy", "app-primary", "--type=merge", "-p", &patch, "--as", SIDETRACK];
    let off = world.kubectl(&args).await;
    ensure!(off.as_ref().err().is_none_or(|e| e.to_string().contains("NotFound")), "{off:?}");
    let made = world
        .until(&ns, "deploy", "app-primary", "another one has pods", |d| {
            *at(d, "/metadata/uid") != uid && at(d, "/status/readyReplicas") == 2
        })
        .await?;
    ensure!(image(&made) == "app:v2");
    // Releases go on from there.
    world.flux(deployment(&ns, "v3", 2)).await?;
    world.until(&ns, "deploy", "app-primary", "v3 is promoted", |d| image(d) == "app:v3").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_in_git_are_the_primarys_without_a_release() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("replicas", &json!({})).await?;
    world.flux(deployment(&ns, "v1", 3)).await?;
    world.until(&ns, "deploy", "app-primary", "three pods", |d| at(d, "/status/readyReplicas") == 3).await?;
    let canary = world.get(&ns, "canary", "app").await?;
    ensure!(at(&canary, "/status/phase") == "Initialized", "no release was started");
    ensure!(at(&world.get(&ns, "deploy", "app").await?, "/spec/replicas") == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_of_the_target_restarts_the_primary() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("restart", &json!({})).await?;
    world.kubectl(&["-n", &ns, "rollout", "restart", "deployment/app"]).await?;
    let key = "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt";
    let primary =
        world.until(&ns, "deploy", "app-primary", "it is restarted", |d| !at(d, key).is_null()).await?;
    ensure!(image(&primary) == "app:v1");
    let canary = world.get(&ns, "canary", "app").await?;
    ensure!(at(&canary, "/status/phase") == "Initialized", "a restart is no release");
    ensure!(at(&world.get(&ns, "deploy", "app").await?, "/spec/replicas") == 0);
    Ok(())
}
