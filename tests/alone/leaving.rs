//! Coming from Flagger and leaving altogether, by the plugin.

use anyhow::{Context as _, Result, ensure};
use harness::objects::ready;
use harness::outside::Outside;
use harness::{World, at, canary, deployment, eventually, image, in_place, service, weight};
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
    // The other layout.
    let other = world.cp.namespace("cart").await?;
    world.flux(service(&other)).await?;
    world.flux(deployment(&other, "v1", 2)).await?;
    world.cp.apply(in_place(&other, &json!({"analysis": {"stepWeight": 5, "maxWeight": 100}}))).await?;
    world.phase(&other, "Initialized").await?;
    let mut unserved = canary(&ns, &json!({"provider": "appmesh", "targetRef": {"name": "other"}}));
    json_patch::merge(&mut unserved, &json!({"metadata": {"name": "other"}}));
    world.cp.apply(unserved).await?;
    let mut target = deployment(&ns, "v1", 1);
    json_patch::merge(
        &mut target,
        &json!({"metadata": {"name": "other"}, "spec": {"selector": {"matchLabels": {"app": "other"}},
            "template": {"metadata": {"labels": {"app": "other"}}}}}),
    );
    world.flux(target).await?;

    world
        .until(&ns, "canary", "other", "it is refused", |c| {
            at(c, "/status/conditions").to_string().contains("appmesh")
        })
        .await?;
    let refused = world.plugin(&ns, &["status", "other", "--wait"]).await?;
    ensure!(refused.code == 4 && refused.out.contains("appmesh"), "it is waited for: {refused:?}");
    let one = world.plugin(&other, &["migrate"]).await?;
    ensure!(
        one.out.contains(&format!("  {other}/app")) && !one.out.contains(&format!("{ns}/app")),
        "{one:?}"
    );
    let one = world.plugin(&other, &["migrate", "--yes"]).await?;
    ensure!(one.code != 0 && one.err.contains("Flagger serves the whole cluster"), "{one:?}");
    let plan = world.plugin("", &["migrate"]).await?;
    for part in [
        &format!("scale deployment flagger in {ns} (Flagger) to 0"),
        &format!("  {ns}/app"),
        &format!("{ns}/other: "),
        "Nothing was changed; do it with --yes.",
    ] {
        ensure!(plan.code == 0 && plan.out.contains(part), "{part:?}: {plan:?}");
    }
    ensure!(at(&world.get(&ns, "deploy", "flagger").await?, "/spec/replicas") == 1);
    let refused = world.plugin("", &["migrate", "--yes"]).await?;
    ensure!(
        refused.code != 0 && refused.err.contains("one Canary would be released by nobody"),
        "{refused:?}"
    );
    ensure!(at(&world.get(&ns, "deploy", "flagger").await?, "/spec/replicas") == 1);
    let moved = world.plugin("", &["migrate", "--yes", "--leave-unserved"]).await?;
    ensure!(
        moved.code == 0 && moved.out.contains(&format!("scaled deployment flagger in {ns} to 0")),
        "{moved:?}"
    );
    ensure!(at(&world.get(&ns, "deploy", "flagger").await?, "/spec/replicas") == 0);

    // One of them is left in the middle of a release.
    world.flux(deployment(&other, "v2", 2)).await?;
    world.until(&other, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    let none = world.plugin("nosuch", &["uninstall", "--yes"]).await?;
    ensure!(none.code == 0 && none.out.contains("no Canary is in namespace nosuch"), "{none:?}");
    let one = world.plugin(&other, &["uninstall"]).await?;
    ensure!(one.out.contains(&format!("delete canary {other}/app")), "{one:?}");
    ensure!(!one.out.contains(&ns) && !one.out.contains("Namespace sidetrack-system"), "{one:?}");
    let plan = world.plugin("", &["uninstall"]).await?;
    ensure!(plan.out.contains(&format!("delete canary {ns}/app and wait")), "{plan:?}");
    ensure!(!world.get(&ns, "canary", "app").await?.is_null(), "a plan changes nothing");
    let left = world.plugin("", &["uninstall", "--yes"]).await?;
    ensure!(left.code == 0 && left.out.contains(&format!("canary {ns}/app is gone")), "{left:?}");
    let app = world.get(&ns, "deploy", "app").await?;
    ensure!(image(&app) == "app:v1" && at(&app, "/status/readyReplicas") == 2, "{app:#}");
    ensure!(!at(&app, "/metadata").to_string().contains("sidetrack.dev/canary"), "{app:#}");
    let cart = world.get(&other, "deploy", "app").await?;
    ensure!(image(&cart) == "app:v1" && at(&cart, "/spec/paused").is_null(), "{cart:#}");
    ensure!(!at(&cart, "/metadata").to_string().contains("sidetrack.dev/canary"), "{cart:#}");
    world.gone(&other, "deploy", "app-canary").await?;
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

/// Interlock §5.13: the running template and no pause in one patch, and no pod is restarted by it.
#[tokio::test(flavor = "multi_thread")]
async fn applications_are_left_by_hand_while_nothing_of_ours_runs() -> Result<()> {
    const HEADING: &str = "With nothing of Sidetrack running";
    let world = World::start(false).await?;
    let sidetrack = world.run(&["--enable-leader-election=false"])?;
    world.wait_for_webhook().await?;
    let (cart, shop) = (world.cp.namespace("cart").await?, world.cp.namespace("shop").await?);
    let outside = Outside::start().await?;
    outside.says("/gate", 403, "not yet");
    let gate = json!([{"name": "gate", "type": "confirm-rollout", "url": outside.url("/gate")}]);
    world.flux(service(&cart)).await?;
    world.flux(deployment(&cart, "v1", 2)).await?;
    world.flux(deployment(&shop, "v1", 2)).await?;
    world.until(&cart, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    world.cp.apply(in_place(&cart, &json!({"analysis": {"stepWeight": 5, "maxWeight": 100}}))).await?;
    world.cp.apply(canary(&shop, &json!({"analysis": {"webhooks": gate}}))).await?;
    for ns in [&cart, &shop] {
        world.phase(ns, "Initialized").await?;
        world.flux(deployment(ns, "v2", 2)).await?;
    }
    world.until(&cart, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    world.phase(&shop, "Waiting").await?;
    sidetrack.kill();

    let names = async |ns: &str| -> Result<Vec<String>> {
        let all = world.list(ns, "pod", "app=app").await?;
        let ready = all.iter().filter(|pod| ready(pod));
        Ok(ready.filter_map(|p| at(p, "/metadata/name").as_str().map(str::to_owned)).collect())
    };
    let before = names(&cart).await?;
    let said = world.as_documented("leaving.md", HEADING, &cart).await?;
    left(&world, &cart).await.with_context(|| said.clone())?;
    ensure!(names(&cart).await? == before, "a pod was restarted");

    let said = world.as_documented("leaving.md", HEADING, &shop).await?;
    world.scale(&shop, "app", 2).await?;
    left(&world, &shop).await.with_context(|| said.clone())
}

/// A plain Deployment of v1 with its pods, and nothing of ours beside it.
async fn left(world: &World, ns: &str) -> Result<()> {
    for (kind, name) in [
        ("canary", "app"),
        ("deploy", "app-canary"),
        ("deploy", "app-primary"),
        ("svc", "app-canary"),
        ("vs", "app"),
    ] {
        world.gone(ns, kind, name).await?;
    }
    let app = world
        .until(ns, "deploy", "app", "it has its pods", |d| {
            at(d, "/status/readyReplicas") == 2 && at(d, "/status/updatedReplicas") == 2
        })
        .await?;
    ensure!(image(&app) == "app:v1" && at(&app, "/spec/paused").is_null(), "{app:#}");
    ensure!(!at(&app, "/metadata").to_string().contains("sidetrack.dev/canary"), "{app:#}");
    Ok(())
}
