//! Moving over from Flagger: its objects, as it makes them, under a Sidetrack that has not seen them before.

use anyhow::{Result, ensure};
use harness::{World, at, canary, deployment, image, shared, weight};
use serde_json::{Value, json};
use sidetrack::api::keys;

/// What Flagger 1.44 leaves of a release that succeeded: the target at 0, `app-primary` without anything of ours, Services,
/// routes, and its own words in status.
async fn flaggers(world: &World, ns: &str) -> Result<()> {
    // Until everything is there nobody may look.
    world.cp.apply(canary(ns, &json!({"suspend": true}))).await?;
    let uid = at(&world.get(ns, "canary", "app").await?, "/metadata/uid").clone();
    let owner = json!([{"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "name": "app", "uid": uid,
        "controller": true, "blockOwnerDeletion": true}]);
    world.flux(deployment(ns, "v1", 0)).await?;
    let mut primary = deployment(ns, "v1", 2);
    json_patch::merge(
        &mut primary,
        &json!({"metadata": {"name": "app-primary", "labels": {"app": "app-primary"}, "ownerReferences": owner},
            "spec": {"selector": {"matchLabels": {"app": "app-primary"}},
                "template": {"metadata": {"labels": {"app": "app-primary"},
                    "annotations": {"flagger-id": "54c07173-7f2c-4486-bee5-2f1d1dcddfd6"}}}}}),
    );
    world.create(ns, "deploy", primary).await?;
    let metadata = |name: &str| {
        json!({"namespace": ns, "name": name, "labels": {"app": name}, "ownerReferences": owner,
            "annotations": {"helm.toolkit.fluxcd.io/driftDetection": "disabled",
                "kustomize.toolkit.fluxcd.io/reconcile": "disabled"}})
    };
    for (name, selects) in [("app", "app-primary"), ("app-canary", "app"), ("app-primary", "app-primary")] {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(name),
            "spec": {"selector": {"app": selects},
                "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}]}});
        world.create(ns, "svc", service).await?;
    }
    let route = |host: &str, weight: i64| json!({"destination": {"host": host}, "weight": weight});
    let routes = json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService",
        "metadata": metadata("app"), "spec": {"gateways": ["mesh"], "hosts": ["app"],
            "http": [{"route": [route("app-primary", 100), route("app-canary", 0)]}]}});
    world.create(ns, "vs", routes).await?;
    world
        .until(ns, "deploy", "app-primary", "Flagger's primary serves", |d| {
            at(d, "/status/availableReplicas") == 2
        })
        .await?;
    let said = json!({"phase": "Succeeded", "canaryWeight": 0, "failedChecks": 0, "iterations": 0,
        "lastAppliedSpec": "6c6994d68d", "lastPromotedSpec": "6c6994d68d", "trackedConfigs": {},
        "lastTransitionTime": "2025-12-31T23:00:00Z",
        "conditions": [{"type": "Promoted", "status": "True", "reason": "Succeeded",
            "message": "Canary analysis completed successfully, promotion finished.",
            "lastTransitionTime": "2025-12-31T23:00:00Z", "lastUpdateTime": "2025-12-31T23:00:00Z"}]});
    let patch = json!({"status": said}).to_string();
    world
        .kubectl(&["-n", ns, "patch", "canary", "app", "--subresource=status", "--type=merge", "-p", &patch])
        .await?;
    world.merge(ns, "canary", "app", json!({"spec": {"suspend": false}})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn flaggers_primary_is_guarded_before_the_first_release() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("takeover").await?;
    let timeline = world.timeline(&ns, &["deploy"]).await?;
    flaggers(world, &ns).await?;
    let label = |d: &Value, key: &str| at(d, "/metadata/labels").get(key).cloned().unwrap_or_default();
    let finalizer = json!([keys::TRAFFIC_FINALIZER]);
    world
        .until(&ns, "deploy", "app", "the target is adopted", |d| label(d, keys::ROLE) == keys::ROLE_TARGET)
        .await?;
    let guarded = |d: &Value| {
        label(d, keys::ROLE) == keys::ROLE_GENERATED && *at(d, "/metadata/finalizers") == finalizer
    };
    timeline
        .obeys(world, |cluster, state| {
            let object = |name: &str| cluster.get(&("deploy", name.to_owned()));
            let adopted = object("app").is_some_and(|d| !label(d, keys::ROLE).is_null());
            let early = adopted && !object("app-primary").is_some_and(guarded);
            ensure!(!early, "the target is adopted before its primary is guarded: {state:?}");
            Ok(())
        })
        .await?;
    world
        .until(&ns, "canary", "app", "status names the revision", |c| {
            !at(c, "/status/revisions/primary").is_null()
        })
        .await?;

    let edit =
        json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "app:evil"}]);
    let refused = world.edit(&ns, "deploy", "app-primary", edit).await;
    ensure!(refused.is_err_and(|e| format!("{e:#}").contains("Deployment app")), "the webhook lets it pass");
    // No webhook is asked about status, which may change annotations: the admission policies are.
    let forged = json!({"metadata": {"annotations": {keys::PROMOTED: "forged"}}}).to_string();
    let forged = world
        .kubectl(&["-n", &ns, "patch", "deploy", "app-primary", "--subresource=status", "-p", &forged])
        .await;
    ensure!(forged.is_err(), "the admission policies let it pass");

    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v1");
    world
        .until(&ns, "canary", "app", "v2 is promoted", |c| {
            at(c, "/status/phase") == "Succeeded" && at(c, "/status/run").is_null()
        })
        .await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    Ok(())
}
