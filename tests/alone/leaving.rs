//! Coming from Flagger and leaving altogether, by the plugin.

use crate::harness::{World, at, canary, deployment, eventually, image};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_taken_over_from_flagger_and_left_with_plain_deployments() -> Result<()> {
    let world = World::start(false).await?;
    let _sidetrack = world.run(&[])?;
    world.wait_for_webhook().await?;
    let ns = world.cp.namespace("shop").await?;
    let mut flagger = deployment(&ns, "v1", 1);
    json_patch::merge(
        &mut flagger,
        &json!({"metadata": {"name": "flagger", "labels": {"app": "flagger"}},
            "spec": {"selector": {"matchLabels": {"app": "flagger"}},
                "template": {"metadata": {"labels": {"app": "flagger"}}}}}),
    );
    world.flux(flagger).await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.cp.apply(canary(&ns, &json!({}))).await?;
    world.phase(&ns, "Initialized").await?;
    let mut unserved = canary(&ns, &json!({"provider": "nginx", "targetRef": {"name": "other"}}));
    json_patch::merge(&mut unserved, &json!({"metadata": {"name": "other"}}));
    world.cp.apply(unserved).await?;

    let plan = world.plugin(&ns, &["migrate"]).await?;
    for part in [
        &format!("scale deployment flagger in {ns} (Flagger) to 0"),
        &format!("  {ns}/app"),
        &format!("{ns}/other: "),
        "Nothing was changed; do it with --yes.",
    ] {
        ensure!(plan.code == 0 && plan.out.contains(part), "{part:?}: {plan:?}");
    }
    ensure!(at(&world.get(&ns, "deploy", "flagger").await?, "/spec/replicas") == 1);
    let moved = world.plugin(&ns, &["migrate", "--yes"]).await?;
    ensure!(
        moved.code == 0 && moved.out.contains(&format!("scaled deployment flagger in {ns} to 0")),
        "{moved:?}"
    );
    ensure!(at(&world.get(&ns, "deploy", "flagger").await?, "/spec/replicas") == 0);

    let plan = world.plugin(&ns, &["uninstall"]).await?;
    ensure!(plan.out.contains(&format!("delete canary {ns}/app and wait")), "{plan:?}");
    ensure!(!world.get(&ns, "canary", "app").await?.is_null(), "a plan changes nothing");
    let left = world.plugin(&ns, &["uninstall", "--yes"]).await?;
    ensure!(left.code == 0 && left.out.contains(&format!("canary {ns}/app is gone")), "{left:?}");
    let app = world.get(&ns, "deploy", "app").await?;
    ensure!(image(&app) == "app:v1" && at(&app, "/status/readyReplicas") == 2, "{app:#}");
    ensure!(!at(&app, "/metadata").to_string().contains("sidetrack.dev/canary"), "{app:#}");
    let service = world.get(&ns, "svc", "app").await?;
    ensure!(at(&service, "/spec/selector/app") == "app", "{service:#}");
    eventually("the primary is gone", async || {
        Ok(world.get(&ns, "deploy", "app-primary").await?.is_null().then_some(()))
    })
    .await?;
    for kind in ["mutatingwebhookconfiguration", "validatingadmissionpolicy", "clusterrole"] {
        let found: Value = serde_json::from_str(&world.kubectl(&["get", kind, "-o", "json"]).await?)?;
        ensure!(!at(&found, "/items").to_string().contains("\"name\":\"sidetrack"), "{kind} is left");
    }
    // The definitions stay: they hold what others made.
    world.kubectl(&["get", "crd", "metrictemplates.flagger.app"]).await?;
    // A plain Deployment again.
    world.flux(deployment(&ns, "v2", 2)).await?;
    eventually("it rolls natively", async || {
        let app = world.get(&ns, "deploy", "app").await?;
        Ok((at(&app, "/status/updatedReplicas") == 2).then_some(()))
    })
    .await
}
