//! Policies without the webhook: what the API server refuses by itself, and how it heals.

use anyhow::{Context as _, Result, ensure};
use harness::{World, at, deployment, eventually, image, service};
use serde_json::{Value, json};
use sidetrack::api::keys;

const CONFIGURATION: [&str; 2] = ["mutatingwebhookconfiguration", "sidetrack-policies"];

async fn refused(world: &World, object: Value, why: &str) -> Result<()> {
    let said = world.cp.apply_as("flux", "kustomize-controller", object).await;
    let said = format!("{:#}", said.err().context("it was taken")?);
    ensure!(said.contains(why), "{said}");
    Ok(())
}

/// Names of the entries; none while the configuration is not there.
async fn entries(world: &World) -> Result<String> {
    world.kubectl_says(&[&["get", "-o", "jsonpath={.webhooks[*].name}"][..], &CONFIGURATION].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_webhook_no_new_template_of_what_a_policy_selects_runs() -> Result<()> {
    let world = World::start(false).await?;
    let sidetrack = world.run(&[])?;
    world.wait_for_webhook().await?;
    let policy = json!({
        "apiVersion": "sidetrack.dev/v1alpha1", "kind": "CanaryPolicy", "metadata": {"name": "lock"},
        "spec": {
            "namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["locked"]}]},
            "selector": {"matchExpressions": [{"key": "free", "operator": "NotIn", "values": ["yes"]}]},
            "canary": {"analysis": {"interval": "1s", "threshold": 2, "stepWeight": 50}},
        },
    });
    world.cp.apply(policy).await?;
    eventually("the API server asks", async || {
        Ok(entries(&world).await?.contains("lock.policies.sidetrack.dev").then_some(()))
    })
    .await?;
    world.kubectl(&["create", "namespace", "locked"]).await?;
    world.cp.apply(service("locked")).await?;

    // Nobody answers, nobody asks: what is made meanwhile is not enrolled.
    sidetrack.kill();
    world.kubectl(&[&["delete"][..], &CONFIGURATION].concat()).await?;
    let mut free = deployment("locked", "v1", 1);
    let pods = json!({"app": "free"});
    json_patch::merge(
        &mut free,
        &json!({"metadata": {"name": "free", "labels": {"free": "yes"}},
            "spec": {"selector": {"matchLabels": pods}, "template": {"metadata": {"labels": pods}}}}),
    );
    for app in [deployment("locked", "v1", 1), free.clone()] {
        let name = at(&app, "/metadata/name").as_str().unwrap_or_default().to_owned();
        eventually("it can be made", async || Ok(world.flux(app.clone()).await.is_ok().then_some(())))
            .await?;
        world
            .until("locked", "deploy", &name, "its pods", |d| {
                at(d, "/status/updatedReplicas") == 1
                    && at(d, "/status/observedGeneration") == at(d, "/metadata/generation")
            })
            .await?;
    }
    let why = "Deployment app is selected by CanaryPolicy lock: its new template was not held";
    refused(&world, deployment("locked", "v2", 1), why).await?;
    world.kubectl(&["-n", "locked", "scale", "deployment/app", "--replicas=2"]).await?;
    json_patch::merge(&mut free, &json!({"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}}));
    world.flux(free).await?;
    // Whoever may break the glass passes; anybody else does not, wherever the webhook is.
    let live =
        world.until("locked", "deploy", "app", "two pods", |d| at(d, "/status/updatedReplicas") == 2).await?;
    let mut glass = deployment("locked", "v2", 2);
    let text = format!("{} the shop is down", at(&live, "/metadata/generation"));
    json_patch::merge(&mut glass, &json!({"metadata": {"annotations": {keys::BREAK_GLASS: text}}}));
    world.flux(glass).await?;

    // All of it heals: the configuration is written again, and the Deployment is adopted on what runs.
    let _sidetrack = world.run(&[])?;
    eventually("the API server asks again", async || {
        Ok(entries(&world).await?.contains("lock.policies.sidetrack.dev").then_some(()))
    })
    .await?;
    world.phase("locked", "Initialized").await?;
    world.flux(deployment("locked", "v3", 2)).await?;
    let held = world.get("locked", "deploy", "app").await?;
    ensure!(at(&held, "/spec/paused") == true && image(&held) == "app:v3", "{held:#}");
    world.phase("locked", "Succeeded").await?;
    Ok(())
}
