//! An API server of a newer version: what is stored was hashed as an older one showed it.

use anyhow::{Context as _, Result, ensure};
use ground::SIDETRACK;
use harness::{World, at, canary, deployment, image};
use serde_json::{Value, json};
use sidetrack::api::keys;
use sidetrack::api::names::Names;
use sidetrack::api::revision::Revision;
use sidetrack::rollout::objects::{Label, generated_template};

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

/// A newer Sidetrack, with its definition of Canary, has led in the middle of a release, and this one takes over: as in a rolling
/// upgrade, or when one is taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_a_newer_version_has_begun_goes_on_and_loses_nothing() -> Result<()> {
    let world = World::start(false).await?;
    let definition = json!([{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/status/x-kubernetes-preserve-unknown-fields", "value": true},
        {"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/run/x-kubernetes-preserve-unknown-fields", "value": true}]);
    let definition = definition.to_string();
    world.kubectl(&["patch", "crd", "canaries.flagger.app", "--type=json", "-p", &definition]).await?;
    let newer = world.run(&[])?;
    world.wait_for_webhook().await?;
    let mut applications = Vec::new();
    for make in [canary, harness::in_place] {
        let ns = world.cp.namespace("versions").await?;
        world.flux(harness::service(&ns)).await?;
        world.flux(deployment(&ns, "v1", 2)).await?;
        world.cp.apply(make(&ns, &json!({"analysis": {"interval": "5s"}}))).await?;
        world.phase(&ns, "Initialized").await?;
        world.flux(deployment(&ns, "v2", 2)).await?;
        world.until(&ns, "vs", "app", "weight on the canary", |vs| harness::weight(vs) == Some(25)).await?;
        applications.push(ns);
    }
    newer.kill();
    for ns in &applications {
        let status = json!({"status": {"verdict": {"p": "0.04"}, "run": {"stage": "Comparing", "arm": "b"}}});
        let status = status.to_string();
        world
            .kubectl(&[
                "-n",
                ns,
                "patch",
                "canary",
                "app",
                "--type=merge",
                "--subresource=status",
                "-p",
                &status,
            ])
            .await?;
    }
    let _older = world.run(&[])?;
    for ns in &applications {
        world
            .event(
                ns,
                "stands at a stage that this version of Sidetrack does not know: its analysis begins anew",
            )
            .await?;
    }
    for ns in &applications {
        let redone = world.get(ns, "canary", "app").await?;
        ensure!(at(&redone, "/status/run/arm") == "b", "{redone:#}");
    }
    for ns in &applications {
        let done = world.phase(ns, "Succeeded").await?;
        ensure!(at(&done, "/status/verdict/p") == "0.04", "{done:#}");
    }
    Ok(())
}
