//! An API server of a newer version: what is stored was hashed as an older one showed it.

use crate::harness::{World, at, canary, deployment, image};
use anyhow::{Context as _, Result, ensure};
use ground::SIDETRACK;
use serde_json::{Value, json};
use sidetrack::api::keys;
use sidetrack::rollout::naming::Names;
use sidetrack::rollout::objects::{Label, generated_template};
use sidetrack::rollout::revision::Revision;

/// The template as an API server showed it that had other defaults and another field.
fn older(template: &Value) -> Value {
    let mut older = template.clone();
    json_patch::merge(&mut older, &json!({"spec": {"dnsPolicy": null, "retired": true}}));
    older
}

/// Rewrites a stored template and the records of its hash, as they would have been.
async fn age(world: &World, ns: &str) -> Result<Revision> {
    let target = world.get(ns, "deploy", "app").await?;
    let old = older(at(&target, "/spec/template"));
    let names = Names::new(ns, "app", "app", None);
    let label = Label::of(&target).context("no label")?;
    let was = Revision::of(at(&target, "/spec/template"));
    let now = Revision::of(&old);

    let of_v1 = world.get(ns, "controllerrevision", &names.snapshot(&was)).await?;
    let stored = json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 1,
        "metadata": {
            "name": names.snapshot(&now), "namespace": ns, "labels": at(&of_v1, "/metadata/labels"),
            "ownerReferences": at(&of_v1, "/metadata/ownerReferences"),
        },
        "data": {"spec": {"template": old}},
    });
    world.delete(ns, "controllerrevision", &names.snapshot(&was)).await?;
    world.cp.apply(stored).await?;

    let written = Revision::of(&generated_template(&old, &label, &names));
    for (name, records) in [
        ("app", json!({keys::PROMOTED: now.as_str()})),
        ("app-primary", json!({keys::PROMOTED: now.as_str(), keys::TEMPLATE: written.as_str()})),
    ] {
        let patch = json!({"metadata": {"annotations": records}}).to_string();
        world
            .kubectl(&["-n", ns, "patch", "deploy", name, "--type=merge", "-p", &patch, "--as", SIDETRACK])
            .await?;
    }
    let patch = json!({"status": {"revisions": {"primary": now.as_str()}, "lastPromotedSpec": now.short()}});
    let patch = patch.to_string();
    world
        .kubectl(&["-n", ns, "patch", "canary", "app", "--type=merge", "--subresource=status", "-p", &patch])
        .await?;
    Ok(now)
}

#[tokio::test(flavor = "multi_thread")]
async fn other_defaults_of_the_api_server_are_no_new_revision() -> Result<()> {
    let world = World::start(false).await?;
    let sidetrack = world.run(&[])?;
    world.wait_for_webhook().await?;
    let ns = world.cp.namespace("upgrade").await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.cp.apply(canary(&ns, &json!({}))).await?;
    world.phase(&ns, "Initialized").await?;
    sidetrack.kill();
    let old = age(&world, &ns).await?;

    let sidetrack = world.run(&[])?;
    let promoted = "/metadata/annotations/sidetrack.dev~1promoted";
    let target = world
        .until(&ns, "deploy", "app", "its records name what is live", |d| {
            *at(d, promoted) == Revision::of(at(d, "/spec/template")).as_str()
        })
        .await?;
    ensure!(*at(&target, promoted) != old.as_str() && at(&target, "/spec/paused").is_null());
    let primary = world
        .until(&ns, "deploy", "app-primary", "its records name what is live", |d| {
            *at(d, "/metadata/annotations/sidetrack.dev~1template")
                == Revision::of(at(d, "/spec/template")).as_str()
        })
        .await?;
    ensure!(at(&primary, promoted) == at(&target, promoted) && at(&primary, "/status/readyReplicas") == 2);
    let stated = world.get(&ns, "canary", "app").await?;
    ensure!(at(&stated, "/status/revisions/primary") == at(&target, promoted), "{stated:#}");
    ensure!(at(&stated, "/status/phase") == "Initialized");
    let logged = sidetrack.logged()?;
    ensure!(!logged.contains("InterlockBypassed") && !logged.contains("New revision detected"), "{logged}");

    // A release and a revert go as ever.
    world.flux(deployment(&ns, "v2", 2)).await?;
    let stated = world.phase(&ns, "Succeeded").await?;
    ensure!(at(&stated, "/status/revisions/primary") != at(&target, promoted));
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    Ok(())
}
