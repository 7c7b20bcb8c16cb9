//! The layout `in-place` on a real control plane: the applied Deployment stays the primary.

mod adoption;
mod flux;
mod held;
mod leaving;
mod plugin;
mod promotion;

use anyhow::{Result, ensure};
use harness::objects::{pod_image, pods_of, ready};
use harness::{World, at, canary, deployment, image, in_place, service, shared, weight};
use serde_json::{Value, json};

/// An application that runs already is adopted.
pub(crate) async fn adopted(prefix: &str, spec: &Value) -> Result<String> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace(prefix).await?;
    world.flux(service(&ns)).await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.until(&ns, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    world.cp.apply(in_place(&ns, spec)).await?;
    world.phase(&ns, "Initialized").await?;
    Ok(ns)
}

pub(crate) async fn pods(world: &World, ns: &str, app: &str) -> Result<Vec<(String, String)>> {
    let mut all: Vec<(String, String)> = world
        .list(ns, "pod", &format!("app={app}"))
        .await?
        .iter()
        .filter(|pod| at(pod, "/metadata/deletionTimestamp").is_null())
        .map(|pod| {
            (at(pod, "/metadata/name").as_str().unwrap_or_default().to_owned(), pod_image(pod).to_owned())
        })
        .collect();
    all.sort();
    Ok(all)
}

/// Nothing of ours is left, and the Deployment runs this.
pub(crate) async fn plain(world: &World, ns: &str, version: &str) -> Result<()> {
    world.gone(ns, "canary", "app").await?;
    let sets = world.list(ns, "rs", "").await?;
    // Kubernetes may copy once more what it has read before; what the second lock goes by is not among that.
    ensure!(!json!(sets).to_string().contains("sidetrack.dev/promoted"), "{sets:#?}");
    let left = world
        .until(ns, "deploy", "app", "it runs the right revision", |d| {
            image(d) == format!("app:{version}") && at(d, "/status/readyReplicas") == at(d, "/spec/replicas")
        })
        .await?;
    ensure!(at(&left, "/spec/paused").is_null());
    for part in ["labels", "annotations", "finalizers"] {
        let text = at(&left, "/metadata").get(part).cloned().unwrap_or_default().to_string();
        ensure!(!text.contains("sidetrack.dev"), "{part} has {text}");
    }
    for (kind, name) in
        [("deploy", "app-canary"), ("svc", "app-primary"), ("svc", "app-canary"), ("vs", "app")]
    {
        world.gone(ns, kind, name).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn adopting_and_releasing_in_place_touch_nothing_of_the_owner() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("inplace").await?;
    world.flux(service(&ns)).await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.until(&ns, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    let (before, theirs) = (pods(world, &ns, "app").await?, world.get(&ns, "svc", "app").await?);
    world.cp.apply(in_place(&ns, &json!({}))).await?;
    world.phase(&ns, "Initialized").await?;
    ensure!(pods(world, &ns, "app").await? == before, "adopting restarts no pod");
    ensure!(world.get(&ns, "deploy", "app-primary").await?.is_null());
    ensure!(at(&world.get(&ns, "svc", "app-primary").await?, "/spec/selector/app") == "app");

    let timeline = world.timeline(&ns, &["vs", "pod", "deploy"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "half of the traffic", |vs| weight(vs) == Some(50)).await?;
    ensure!(pods(world, &ns, "app").await? == before, "the primary's pods stay during the analysis");
    let held = world.get(&ns, "deploy", "app").await?;
    ensure!(image(&held) == "app:v2" && at(&held, "/spec/paused") == true, "Git's template, held");
    let done = world.phase(&ns, "Succeeded").await?;
    let rolled = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&rolled, "/spec/paused").is_null() && at(&rolled, "/status/updatedReplicas") == 2);
    ensure!(
        at(&done, "/status/revisions/primary")
            == at(&rolled, "/metadata/annotations/sidetrack.dev~1promoted")
    );
    world.gone(&ns, "deploy", "app-canary").await?;
    ensure!(world.get(&ns, "svc", "app").await? == theirs, "the owner's Service is as it was");
    timeline
        .obeys(world, |cluster, state| {
            let share = cluster.get(&("vs", "app".to_owned())).and_then(weight).unwrap_or(0);
            let of = |app: &str| pods_of(cluster, app).into_iter().filter(|p| ready(p)).collect::<Vec<_>>();
            let analysed = of("app-canary");
            ensure!(analysed.iter().all(|p| pod_image(p) == "app:v2"), "{state:?}");
            // The weight of this run is on its own pods only, and none of it while they are not there.
            ensure!(share == 0 || analysed.len() == 2, "weight {share} on {} pods", analysed.len());
            let held =
                cluster.get(&("deploy", "app".to_owned())).is_some_and(|d| at(d, "/spec/paused") == true);
            let old = of("app").iter().all(|p| pod_image(p) == "app:v1");
            ensure!(!held || old, "a pod of the primary runs what is held");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_a_rejected_revision_never_meets_the_primary_and_a_fix_does() -> Result<()> {
    let (world, _) = shared().await;
    let outside = harness::outside::Outside::start().await?;
    outside.says("/load", 400, "no");
    let hook = json!([{"name": "load", "type": "rollout", "url": outside.url("/load")}]);
    let ns = adopted("inplacebad", &json!({"analysis": {"threshold": 1, "webhooks": hook}})).await?;
    let before = pods(world, &ns, "app").await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Failed").await?;
    world.gone(&ns, "deploy", "app-canary").await?;
    ensure!(pods(world, &ns, "app").await? == before);
    // While it is held, the owner scales what runs, restarts nothing, and starts nothing of v2.
    world.scale(&ns, "app", 4).await?;
    world.until(&ns, "deploy", "app", "four pods", |d| at(d, "/status/readyReplicas") == 4).await?;
    ensure!(pods(world, &ns, "app").await?.iter().all(|(_, image)| image == "app:v1"));
    world.scale(&ns, "app", 0).await?;
    world.until(&ns, "deploy", "app", "no pods", |d| at(d, "/status/replicas").is_null()).await?;
    world.scale(&ns, "app", 2).await?;
    world.until(&ns, "deploy", "app", "two pods", |d| at(d, "/status/readyReplicas") == 2).await?;
    ensure!(pods(world, &ns, "app").await?.iter().all(|(_, image)| image == "app:v1"));
    outside.says("/load", 200, "");
    world.flux(deployment(&ns, "v3", 2)).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(pods(world, &ns, "app").await?.iter().all(|(_, image)| image == "app:v3"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_a_newer_revision_and_a_revert_end_the_release() -> Result<()> {
    let (world, _) = shared().await;
    let ns = adopted("inplacenew", &json!({"analysis": {"stepWeight": 5, "maxWeight": 100}})).await?;
    let before = pods(world, &ns, "app").await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    world.flux(deployment(&ns, "v3", 2)).await?;
    world
        .until(&ns, "deploy", "app-canary", "a canary of v3", |d| {
            image(d) == "app:v3" && at(d, "/metadata/deletionTimestamp").is_null()
        })
        .await?;
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    let freed = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&freed, "/spec/paused").is_null(), "the webhook itself lets a revert run");
    world.phase(&ns, "Succeeded").await?;
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == Some(0));
    world.gone(&ns, "deploy", "app-canary").await?;
    ensure!(pods(world, &ns, "app").await? == before, "no pod of the primary was restarted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_leaving_in_any_phase_leaves_a_plain_deployment() -> Result<()> {
    let (world, _) = shared().await;
    let slow = json!({"analysis": {"stepWeight": 5, "maxWeight": 100}});
    let rest = adopted("inplaceout", &json!({})).await?;
    let held = adopted("inplaceleave", &slow).await?;
    let before = pods(world, &held, "app").await?;
    world.delete(&rest, "canary", "app").await?;
    world.flux(deployment(&held, "v2", 2)).await?;
    world.until(&held, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    world.delete(&held, "canary", "app").await?;
    plain(world, &rest, "v1").await?;
    plain(world, &held, "v1").await?;
    ensure!(pods(world, &held, "app").await? == before, "no pod was restarted");
    // Without its Canary, the Deployment rolls as Kubernetes has it.
    world.flux(deployment(&held, "v2", 2)).await?;
    world
        .until(&held, "deploy", "app", "v2 rolls natively", |d| at(d, "/status/updatedReplicas") == 2)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layout_of_an_enrolled_target_is_not_changed_under_it() -> Result<()> {
    let (world, _) = shared().await;
    let ns = adopted("inplacelayout", &json!({})).await?;
    world.cp.apply(canary(&ns, &json!({}))).await?;
    let warned = world
        .until(&ns, "canary", "app", "a warning", |c| {
            at(c, "/status/warnings").to_string().contains("layout")
        })
        .await?;
    let warnings = at(&warned, "/status/warnings").to_string();
    ensure!(warnings.contains("delete the Canary"), "{warnings}");
    ensure!(world.get(&ns, "deploy", "app-primary").await?.is_null());
    Ok(())
}
