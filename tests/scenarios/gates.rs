//! Hooks: gates that wait, checks that reject, and what each of them is told.

use anyhow::{Result, ensure};
use harness::objects::{pod_image, pods_of};
use harness::outside::Outside;
use harness::{at, deployment, eventually, image, initialized, shared, weight};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

fn hooks(hooks: Value) -> Value {
    json!({"analysis": {"webhooks": hooks}})
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_gate_keeps_each_revision_out_until_it_opens() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/gate", 403, "not today");
    let url = outside.url("/gate");
    let ns =
        initialized("gate", &hooks(json!([{"name": "ask", "type": "confirm-rollout", "url": url}]))).await?;
    let timeline = world.timeline(&ns, &["pod"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let waiting = world.phase(&ns, "Waiting").await?;
    ensure!(
        waiting.to_string().contains("Confirm-rollout check ask has not passed: not today"),
        "{waiting:#}"
    );
    world.event(&ns, &format!("Halt app.{ns} advancement waiting for approval ask")).await?;
    let second = at(&waiting, "/status/lastAppliedSpec").clone();
    let asked = outside.heard("/gate");
    ensure!(asked.iter().any(|h| {
        h.body["name"] == "app" && h.body["namespace"] == ns.as_str() && h.body["checksum"] == second
    }));

    // A newer revision takes the older one's place at the gate.
    world.flux(deployment(&ns, "v3", 2)).await?;
    world
        .until(&ns, "canary", "app", "the gate is about v3", |c| {
            at(c, "/status/phase") == "Waiting" && *at(c, "/status/lastAppliedSpec") != second
        })
        .await?;
    let target = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&target, "/spec/paused") == true && at(&target, "/spec/replicas") == 0);
    ensure!(outside.heard("/gate").last().is_some_and(|h| h.body["phase"] == "Waiting"));
    outside.says("/gate", 200, "");
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v3");
    world.event(&ns, "Confirm-rollout check ask passed").await?;
    timeline
        .obeys(world, |cluster, _| {
            let all = pods_of(cluster, "app").into_iter().chain(pods_of(cluster, "app-primary"));
            ensure!(all.into_iter().all(|p| pod_image(p) != "app:v2"), "v2 never passed its gate");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn revert_at_a_closed_gate_ends_the_wait() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/gate", 403, "");
    let url = outside.url("/gate");
    let ns = initialized("ungate", &hooks(json!([{"name": "ask", "type": "confirm-rollout", "url": url}])))
        .await?;
    let before = world.get(&ns, "deploy", "app-primary").await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Waiting").await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.phase(&ns, "Succeeded").await?;
    let target = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&target, "/spec/paused").is_null() && at(&target, "/spec/replicas") == 0);
    ensure!(at(&target, "/metadata/annotations/sidetrack.dev~1hold").is_null());
    let after = world.get(&ns, "deploy", "app-primary").await?;
    ensure!(at(&before, "/metadata/generation") == at(&after, "/metadata/generation"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn promotion_waits_at_its_weight_for_approval() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/promote", 403, "");
    let url = outside.url("/promote");
    let hook = json!([{"name": "promote", "type": "confirm-promotion", "url": url}]);
    let ns = initialized("approve", &hooks(hook)).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let waiting = world.phase(&ns, "WaitingPromotion").await?;
    ensure!(at(&waiting, "/status/canaryWeight") == 50);
    let asked = outside.heard("/promote").len();
    eventually("it is asked again", async || Ok((outside.heard("/promote").len() > asked + 1).then_some(())))
        .await?;
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == Some(50));
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v1");
    let waiting = world.get(&ns, "canary", "app").await?;
    ensure!(at(&waiting, "/status/failedChecks") == 0, "a closed gate is no failure");
    outside.says("/promote", 202, "");
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_pre_rollout_rejects_before_any_traffic() -> Result<()> {
    let (world, sidetrack) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/accept", 400, "smoke test failed");
    let ns = initialized(
        "prerollout",
        &hooks(json!([
            {"name": "smoke", "type": "pre-rollout", "url": outside.url("/accept"),
             "metadata": {"type": "bash", "cmd": "true"}},
            {"name": "tell", "type": "post-rollout", "url": outside.url("/tell")},
        ])),
    )
    .await?;
    let timeline = world.timeline(&ns, &["vs"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let failed = world.phase(&ns, "Failed").await?;
    let said = format!("Halt app.{ns} advancement pre-rollout check smoke failed smoke test failed");
    world.event(&ns, &said).await?;
    ensure!(sidetrack.logged()?.contains(&said));
    let asked = outside.heard("/accept");
    ensure!(asked.len() == 2, "threshold 2, asked {} times", asked.len());
    for request in &asked {
        ensure!(request.body["metadata"] == json!({"type": "bash", "cmd": "true"}), "{request:?}");
        ensure!(request.body["phase"] == "Progressing");
    }
    ensure!(timeline.values(world, "vs", "app", weight).await? == [0]);
    world.until(&ns, "canary", "app", "the run is over", |c| at(c, "/status/run").is_null()).await?;
    let told = outside.heard("/tell");
    ensure!(told.len() == 1, "told {told:?}");
    ensure!(told[0].body["phase"] == "Failed" && told[0].body.get("metadata").is_none());
    ensure!(told[0].body["checksum"] == *at(&failed, "/status/lastAppliedSpec"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_rollout_hook_rejects_at_weight_and_success_is_told() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/load", 500, "boom");
    let ns = initialized(
        "rollout",
        &hooks(json!([
            {"name": "load", "url": outside.url("/load")},
            {"name": "tell", "type": "post-rollout", "url": outside.url("/tell")},
        ])),
    )
    .await?;
    let timeline = world.timeline(&ns, &["vs"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Failed").await?;
    let said = format!("Halt app.{ns} advancement external check load failed");
    let message = world.event(&ns, &said).await?;
    ensure!(message.ends_with("giving up after 1 attempt(s)"), "{message}");
    ensure!(timeline.values(world, "vs", "app", weight).await? == [0, 25, 0]);
    outside.says("/load", 200, "");
    // What failed is not tried again by itself; a new revision is.
    world.flux(deployment(&ns, "v3", 2)).await?;
    world.phase(&ns, "Succeeded").await?;
    world.event(&ns, "Post-rollout check tell passed").await?;
    // The Event may be of the first release.
    eventually("both ends are told", async || Ok((outside.heard("/tell").len() >= 2).then_some(()))).await?;
    let phases: Vec<Value> = outside.heard("/tell").iter().map(|h| h.body["phase"].clone()).collect();
    ensure!(phases == ["Failed", "Succeeded"], "{phases:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_hook_that_agrees_rolls_back() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/rollback", 403, "");
    let hook = json!([{"name": "stop", "type": "rollback", "url": outside.url("/rollback")}]);
    let ns = initialized("rollback", &json!({"analysis": {"webhooks": hook, "stepWeight": 10}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight 20", |vs| weight(vs) == Some(20)).await?;
    world.event(&ns, "Rollback hook stop not signaling a rollback").await?;
    outside.says("/rollback", 200, "");
    let failed = world.phase(&ns, "Failed").await?;
    ensure!(at(&failed, "/status/failedChecks") == 0);
    world.event(&ns, &format!("Rolling back app.{ns} manual webhook invoked")).await?;
    world.event(&ns, &format!("Canary failed! Scaling down app.{ns}")).await?;
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == Some(0));
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_is_tried_again_as_often_as_it_allows_and_no_longer_than_it_says() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.is_silent("/slow");
    let hook = json!([{"name": "slow", "type": "pre-rollout", "url": outside.url("/slow"),
        "timeout": "200ms", "retries": 1}]);
    let ns = initialized("retries", &json!({"analysis": {"webhooks": hook, "threshold": 1}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Failed").await?;
    let said = world.event(&ns, &format!("Halt app.{ns} advancement pre-rollout check slow failed")).await?;
    ensure!(said.contains("giving up after 2 attempt(s)") && said.contains("deadline exceeded"), "{said}");
    ensure!(outside.heard("/slow").len() == 2);
    Ok(())
}

/// A hook that never answers is asked for its own Canary only, and no longer than that wants to know.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_ends_with_the_revision_and_with_the_canary() -> Result<()> {
    let (world, _) = shared().await;
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", silent.local_addr()?);
    let hook = json!([{"name": "ask", "type": "confirm-rollout", "url": url, "timeout": "10m"}]);
    let ns = world.cp.namespace("silent").await?;
    world.flux(deployment(&ns, "v1", 1)).await?;
    world.cp.apply(harness::canary(&ns, &hooks(hook))).await?;
    world.phase(&ns, "Initialized").await?;
    world.flux(deployment(&ns, "v2", 1)).await?;
    let (mut of_v2, _) = silent.accept().await?;
    world.flux(deployment(&ns, "v3", 1)).await?;
    // It is read to its end: nobody waits for the answer about v2 any more.
    of_v2.read_to_end(&mut Vec::new()).await?;
    let (mut of_v3, _) = silent.accept().await?;
    world.kubectl(&["-n", &ns, "delete", "canary", "app", "--wait=false"]).await?;
    of_v3.read_to_end(&mut Vec::new()).await?;
    Ok(())
}
