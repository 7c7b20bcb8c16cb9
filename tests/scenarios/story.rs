//! The story that Sidetrack always tells: initialisation, a release, a rejected one, a reverted one.

use anyhow::{Result, ensure};
use harness::{at, deployment, image, initialized, shared, weight};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_analysed_and_promoted() -> Result<()> {
    let (world, sidetrack) = shared().await;
    let ns = initialized("story", &json!({})).await?;
    let target = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&target, "/spec/replicas") == 0, "the target runs no pods");
    let primary = world.get(&ns, "deploy", "app-primary").await?;
    ensure!(image(&primary) == "app:v1" && at(&primary, "/status/readyReplicas") == 2);
    for service in ["app", "app-primary"] {
        let service = world.get(&ns, "svc", service).await?;
        ensure!(at(&service, "/spec/selector/app") == "app-primary");
    }
    ensure!(at(&world.get(&ns, "svc", "app-canary").await?, "/spec/selector/app") == "app");
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == Some(0));

    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "the canary has half of the traffic", |vs| weight(vs) == Some(50)).await?;
    let primary = world.get(&ns, "deploy", "app-primary").await?;
    ensure!(image(&primary) == "app:v1", "the primary is untouched during the analysis");
    let done = world.phase(&ns, "Succeeded").await?;
    ensure!(at(&done, "/status/canaryWeight") == 0);
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    ensure!(at(&world.get(&ns, "deploy", "app").await?, "/spec/replicas") == 0);
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == Some(0));

    let log = sidetrack.logged()?;
    let mut rest = log.as_str();
    for line in [
        format!("Initialization done! app.{ns}"),
        format!("New revision detected! Scaling up app.{ns}"),
        format!("Starting canary analysis for app.{ns}"),
        format!("Advance app.{ns} canary weight 25"),
        format!("Advance app.{ns} canary weight 50"),
        format!("Copying app.{ns} template spec to app-primary.{ns}"),
        format!("Promotion completed! Scaling down app.{ns}"),
    ] {
        let found = rest.find(&line);
        ensure!(found.is_some(), "{line:?} is not in the log, or not in order");
        rest = rest.get(found.unwrap_or(0)..).unwrap_or_default();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_whose_pods_never_become_ready_is_rejected() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("reject", &json!({})).await?;
    let mut bad = deployment(&ns, "v2", 2);
    json_patch::merge(
        &mut bad,
        &json!({"spec": {"progressDeadlineSeconds": 10, "template": {"metadata": {"labels": {"ready": "crashloop"}}}}}),
    );
    world.flux(bad).await?;
    let failed = world.phase(&ns, "Failed").await?;
    // What the pods died of is told when they are gone.
    let why = at(&failed, "/status/conditions").to_string();
    ensure!(why.contains("container app exited with code 1"), "{why}");
    let target = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&target, "/spec/paused") == true && at(&target, "/spec/replicas") == 0);
    let rejected = at(&target, "/metadata/annotations/sidetrack.dev~1failed");
    ensure!(rejected == at(&failed, "/status/revisions/failed"));
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v1");
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == Some(0));
    // The fix is a new revision like any other.
    world.flux(deployment(&ns, "v3", 2)).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v3");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_cancels_the_analysis() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("revert", &json!({"analysis": {"stepWeight": 5, "maxWeight": 100}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    let before = world.get(&ns, "deploy", "app-primary").await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.phase(&ns, "Succeeded").await?;
    let after = world.get(&ns, "deploy", "app-primary").await?;
    ensure!(
        at(&before, "/metadata/generation") == at(&after, "/metadata/generation"),
        "the primary never rolled"
    );
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == Some(0));
    let target = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&target, "/spec/replicas") == 0 && at(&target, "/spec/paused").is_null());
    Ok(())
}
