//! From the first write of a Deployment on: what a policy selects is enrolled at admission, released, and let go.

use anyhow::{Result, ensure};
use harness::objects::pod_image;
use harness::stage::{
    enforced, enrolled, in_configuration, key, message, namespace, phase, policy, runs, said,
};
use harness::{at, canary, deployment, eventually, image, shared};
use serde_json::{Value, json};
use sidetrack::api::keys;

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_protected_from_its_first_write_and_plain_when_the_policy_goes() -> Result<()> {
    let (world, _) = shared().await;
    enforced(world, "first-write", &json!({})).await?;
    let ns = namespace(world, "first-write").await?;
    let made = world.cp.apply_as("flux", "kustomize-controller", deployment(&ns, "v1", 2)).await?;
    let made = serde_json::to_value(&made[0])?;
    ensure!(enrolled(&made) && key(&made, keys::PROMOTED).is_some(), "{made:#}");
    ensure!(at(&made, "/spec/paused").is_null(), "the first revision runs: {made:#}");
    let canary = phase(world, &ns, "app", "Initialized").await?;
    ensure!(at(&canary, "/metadata/ownerReferences/0/name") == "first-write", "{canary:#}");
    ensure!(at(&canary, "/spec/service/targetPort") == 8080, "{canary:#}");
    let pods = world.list(&ns, "pod", "app=app").await?;

    let held = world.cp.apply_as("flux", "kustomize-controller", deployment(&ns, "v2", 2)).await?;
    let held = serde_json::to_value(&held[0])?;
    ensure!(at(&held, "/spec/paused") == true && key(&held, keys::HOLD).is_some(), "{held:#}");
    phase(world, &ns, "app", "Progressing").await?;
    let canary_pods = world
        .until(&ns, "deploy", "app-canary", "canary pods", |d| at(d, "/status/readyReplicas") == 2)
        .await?;
    ensure!(image(&canary_pods) == "app:v2");
    for pod in &pods {
        let name = at(pod, "/metadata/name").as_str().unwrap_or_default();
        ensure!(!world.get(&ns, "pod", name).await?.is_null(), "a pod of v1 went before the promotion");
    }
    phase(world, &ns, "app", "Succeeded").await?;
    runs(world, &ns, "app", "v2").await?;
    let of_policy =
        world.until("", "policy", "first-write", "one enrolled", |p| at(p, "/status/enrolled") == 1).await?;
    ensure!(at(&of_policy, "/status/selected") == 1, "{of_policy:#}");

    // v3 is held while the policy goes: the Deployment gets the promoted revision back, plain.
    world.flux(deployment(&ns, "v3", 2)).await?;
    world.delete("", "policy", "first-write").await?;
    world.gone("", "policy", "first-write").await?;
    world.gone(&ns, "canary", "app").await?;
    in_configuration(world, "first-write", false).await?;
    let plain = runs(world, &ns, "app", "v2").await?;
    ensure!(!enrolled(&plain) && !plain.to_string().contains("sidetrack.dev/hold"), "{plain:#}");
    world.flux(deployment(&ns, "v4", 2)).await?;
    runs(world, &ns, "app", "v4").await?;
    Ok(())
}

/// Whoever may write Deployments deletes one and makes it again with what nobody has approved: the promoted revision comes back,
/// the other one waits.
#[tokio::test(flavor = "multi_thread")]
async fn deleting_and_making_again_is_no_way_past_a_policy() -> Result<()> {
    let (world, _) = shared().await;
    for layout in ["in-place", "primary-copy"] {
        let team = format!("made-again-{layout}");
        enforced(world, &team, &json!({"layout": layout, "approval": {"required": true}})).await?;
        let ns = namespace(world, &team).await?;
        world.flux(deployment(&ns, "v1", 2)).await?;
        phase(world, &ns, "app", "Initialized").await?;
        let uid = at(&world.get(&ns, "canary", "app").await?, "/metadata/uid").clone();
        world.kubectl(&["-n", &ns, "delete", "deploy", "app"]).await?;
        world.flux(deployment(&ns, "v9", 2)).await?;
        let waits = phase(world, &ns, "app", "Waiting").await?;
        ensure!(
            message(&waits, "Ready").contains("approval") && at(&waits, "/metadata/uid") == &uid,
            "{waits:#}"
        );
        let primary = if layout == "in-place" { "app" } else { "app-primary" };
        let label = format!("app={primary}");
        eventually("the promoted revision has its pods, and nobody else any", async || {
            let pods = world.list(&ns, "pod", &label).await?;
            let live = pods.iter().filter(|pod| at(pod, "/metadata/deletionTimestamp").is_null());
            let live: Vec<&str> = live.map(pod_image).collect();
            let target = world.get(&ns, "deploy", "app").await?;
            let held = image(&target) == "app:v9" && at(&target, "/spec/paused") == true;
            Ok((live == ["app:v1"; 2] && held).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// The write that brings a Deployment under a policy may bring a new template as well.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_update_of_what_a_policy_comes_to_select_is_held() -> Result<()> {
    let (world, _) = shared().await;
    for (layout, primary, generated, images) in [
        ("in-place", "app", "app-canary", &["app:v2"][..]),
        ("primary-copy", "app-primary", "app-primary", &["app:v1", "app:v2"]),
    ] {
        let team = format!("first-update-{layout}");
        let spec = json!({"layout": layout, "selector": {"matchLabels": {"protect": "yes"}}});
        enforced(world, &team, &spec).await?;
        let ns = namespace(world, &team).await?;
        let timeline = world.timeline(&ns, &["deploy"]).await?;
        world.flux(deployment(&ns, "v1", 2)).await?;
        let before = runs(world, &ns, "app", "v1").await?;
        ensure!(!enrolled(&before), "{before:#}");
        let mut update = deployment(&ns, "v2", 2);
        json_patch::merge(&mut update, &json!({"metadata": {"labels": {"protect": "yes"}}}));
        let held = world.cp.apply_as("flux", "kustomize-controller", update.clone()).await?;
        let held = serde_json::to_value(&held[0])?;
        ensure!(enrolled(&held) && at(&held, "/spec/paused") == true, "{layout}: {held:#}");
        let done = phase(world, &ns, "app", "Succeeded").await?;
        let first = key(&held, keys::PROMOTED).unwrap_or_default();
        ensure!(at(&done, "/status/history/0/revision") == first, "{layout}: {done:#}");
        let image_of = |d: &Value| Some(image(d).to_owned());
        let ran = timeline.values(world, "deploy", generated, image_of).await?;
        ensure!(ran == images, "{layout}: {ran:?}");
        ensure!(image(&world.get(&ns, "deploy", primary).await?) == "app:v2", "{layout}");
    }
    Ok(())
}

/// Nothing had run of the first revision when the second one came: the second one is the first.
#[tokio::test(flavor = "multi_thread")]
async fn two_writes_at_once_leave_nothing_held_for_ever() -> Result<()> {
    let (world, _) = shared().await;
    enforced(world, "two-writes", &json!({})).await?;
    let ns = namespace(world, "two-writes").await?;
    world.flux(deployment(&ns, "v1", 1)).await?;
    world.flux(deployment(&ns, "v2", 1)).await?;
    eventually("v2 runs", async || {
        let live = world.get(&ns, "deploy", "app").await?;
        let canary = world.get(&ns, "canary", "app").await?;
        let done = ["Initialized", "Succeeded"].iter().any(|p| at(&canary, "/status/phase") == *p);
        Ok((done && image(&live) == "app:v2" && at(&live, "/spec/paused").as_bool() != Some(true))
            .then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_of_the_teams_own_wins() -> Result<()> {
    let (world, _) = shared().await;
    enforced(world, "own-canary", &json!({})).await?;
    let ns = namespace(world, "own-canary").await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    phase(world, &ns, "app", "Initialized").await?;
    // Of the same name: it is theirs from then on.
    let mut own = canary(&ns, &json!({"analysis": {"stepWeight": 10}}));
    json_patch::merge(&mut own, &json!({"metadata": {"annotations": {keys::LAYOUT: "in-place"}}}));
    world.cp.apply_as("flux", "kustomize-controller", own.clone()).await?;
    let theirs = world
        .until(&ns, "canary", "app", "no policy's any more", |c| at(c, "/metadata/ownerReferences").is_null())
        .await?;
    ensure!(at(&theirs, "/spec/analysis/stepWeight") == 10, "{theirs:#}");
    let told =
        world.until("", "policy", "own-canary", "said", |p| !at(p, "/status/others/0").is_null()).await?;
    ensure!(at(&told, "/status/others/0/reason") == "it has a Canary of its own, app", "{told:#}");
    // A policy that changes does not take it back.
    world.cp.apply(policy("own-canary", &json!({"canary": {"analysis": {"stepWeight": 25}}}))).await?;
    said(world, "own-canary", "Enforced").await?;
    ensure!(at(&world.get(&ns, "canary", "app").await?, "/spec/analysis/stepWeight") == 10);

    // Of another name: the one that the policy made goes.
    let other = namespace(world, "own-canary").await?;
    world.flux(deployment(&other, "v1", 2)).await?;
    phase(world, &other, "app", "Initialized").await?;
    json_patch::merge(&mut own, &json!({"metadata": {"namespace": other, "name": "mine"}}));
    world.cp.apply_as("flux", "kustomize-controller", own).await?;
    world.gone(&other, "canary", "app").await?;
    phase(world, &other, "mine", "Initialized").await?;
    world.flux(deployment(&other, "v2", 2)).await?;
    phase(world, &other, "mine", "Succeeded").await?;
    runs(world, &other, "app", "v2").await?;
    Ok(())
}

/// What was there before the policy is taken over as it is; a change of the policy reaches the Canaries that it made.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_before_is_adopted_and_follows_the_policy() -> Result<()> {
    let (world, _) = shared().await;
    let ns = namespace(world, "before").await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    runs(world, &ns, "app", "v1").await?;
    let pods = world.list(&ns, "pod", "app=app").await?;
    enforced(world, "before", &json!({})).await?;
    phase(world, &ns, "app", "Initialized").await?;
    let after = world.list(&ns, "pod", "app=app").await?;
    let names =
        |all: &[serde_json::Value]| all.iter().map(|p| at(p, "/metadata/name").clone()).collect::<Vec<_>>();
    ensure!(names(&pods) == names(&after), "adopting restarts no pod");
    world.cp.apply(policy("before", &json!({"canary": {"analysis": {"stepWeight": 25}}}))).await?;
    world.until(&ns, "canary", "app", "the change", |c| at(c, "/spec/analysis/stepWeight") == 25).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let done = phase(world, &ns, "app", "Succeeded").await?;
    ensure!(message(&done, "Ready").contains("runs revision"), "{done:#}");
    Ok(())
}
