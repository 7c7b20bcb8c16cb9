//! Processes that come and go, on a control plane of their own: crashes, hand-overs, and rest.

use anyhow::{Context, Result, ensure};
use ground::{AuditRequest, Mark, SIDETRACK};
use harness::objects::{lawful, pod_image, pods_of};
use harness::outside::Outside;
use harness::{
    Sidetrack, World, at, canary, deployment, eventually, free_port, image, in_place, service, weight,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ALONE: &[&str] = &["--enable-leader-election=false"];

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_killed_restarted_replaced_and_idle() -> Result<()> {
    let world = World::start(true).await?;
    let outside = Outside::start().await?;
    let alone = world.run(ALONE)?;
    world.wait_for_webhook().await.with_context(|| alone.logged().unwrap_or_default())?;
    let alone = killed(&world, alone, PRIMARY_COPY).await.context("kill -9 during a release")?;
    let alone = killed(&world, alone, IN_PLACE).await.context("kill -9 during a release in place")?;
    idle(&world, &outside, alone).await.context("at rest")?;
    replaced(&world).await.context("two processes")?;
    reverted(&world).await.context("a revert while nobody leads")
}

/// A layout: the namespace's prefix, its Canary, and the Deployment of the primary.
type Layout = (&'static str, fn(&str, &Value) -> Value, &'static str);
const PRIMARY_COPY: Layout = ("crash", canary, "app-primary");
const IN_PLACE: Layout = ("crashinplace", in_place, "app");

async fn app(world: &World, prefix: &str, spec: Value) -> Result<String> {
    of_layout(world, (prefix, canary), spec).await
}

async fn of_layout(
    world: &World,
    (prefix, canary): (&str, fn(&str, &Value) -> Value),
    spec: Value,
) -> Result<String> {
    let ns = world.cp.namespace(prefix).await?;
    let canary = canary(&ns, &spec);
    // In place the owner's Service has to be there; the other layout makes one.
    if at(&canary, "/metadata/annotations/sidetrack.dev~1layout") == "in-place" {
        world.flux(service(&ns)).await?;
    }
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.cp.apply(canary).await?;
    world.phase(&ns, "Initialized").await?;
    Ok(ns)
}

/// Whatever is being done when it is killed, the release comes to the same end, a step an interval.
async fn killed(world: &World, mut sidetrack: Sidetrack, layout: Layout) -> Result<Sidetrack> {
    let (prefix, canary, primary) = layout;
    let ns = of_layout(world, (prefix, canary), json!({"analysis": {"stepWeight": 10}})).await?;
    let timeline = world.timeline(&ns, &["canary", "vs", "pod"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let mut kills = 0;
    let mut version = String::new();
    loop {
        // Each kill falls a little later after a status write: before its effect, within it, after it.
        let now = world
            .until(&ns, "canary", "app", "status is written", |c| {
                at(c, "/metadata/resourceVersion") != version.as_str()
                    || at(c, "/status/phase") == "Succeeded"
            })
            .await?;
        if at(&now, "/status/phase") == "Succeeded" {
            break;
        }
        version = at(&now, "/metadata/resourceVersion").as_str().unwrap_or_default().to_owned();
        let instant = Instant::now() + Duration::from_millis(7 * kills % 40);
        tokio::time::sleep_until(instant.into()).await;
        sidetrack.kill();
        kills += 1;
        sidetrack = world.run(ALONE)?;
    }
    ensure!(kills >= 5, "killed {kills} times only");
    ensure!(image(&world.get(&ns, "deploy", primary).await?) == "app:v2");
    timeline
        .obeys(world, |cluster, _| match primary {
            // In place the primary's pods roll behind weight: that is the promotion.
            "app" => {
                let of_canary = pods_of(cluster, "app-canary");
                ensure!(of_canary.iter().all(|p| pod_image(p) == "app:v2"));
                Ok(())
            }
            _ => lawful(cluster),
        })
        .await?;
    let weights = timeline.values(world, "vs", "app", weight).await?;
    ensure!(weights == [0, 10, 20, 30, 40, 50, 0], "{weights:?}");
    let step = |c: &Value| -> Option<(i64, Timestamp)> {
        let run = at(c, "/status/run");
        Some((at(run, "/weight").as_i64()?, at(run, "/lastStep").as_str()?.parse().ok()?))
    };
    let mut steps = timeline.values(world, "canary", "app", step).await?;
    // A step that was only meant when the process was killed is taken by the next one, and counts from then.
    steps.reverse();
    steps.dedup_by_key(|(weight, _)| *weight);
    steps.reverse();
    let steps: Vec<Timestamp> = steps.into_iter().map(|(_, at)| at).collect();
    ensure!(steps.len() >= 5);
    for (before, after) in steps.iter().zip(steps.iter().skip(1)) {
        let apart = after.duration_since(*before);
        ensure!(apart.as_millis() >= 1000, "steps {apart} apart: {steps:?}");
    }
    Ok(sidetrack)
}

/// What the process asked for since, the election and the watches that began before aside.
async fn requests(world: &World, since: Mark) -> Result<Vec<AuditRequest>> {
    let mut all = world.cp.audit().requests_since(since, SIDETRACK).await?;
    all.retain(|r| r.resource != "leases" && r.verb != "watch");
    Ok(all)
}

/// At rest nothing is asked of the API server; a new process reads, and writes nothing.
async fn idle(world: &World, outside: &Outside, sidetrack: Sidetrack) -> Result<()> {
    outside.says("/check", 400, "no");
    let hook = json!([{"name": "check", "type": "pre-rollout", "url": outside.url("/check")}]);
    app(world, "initialized", json!({})).await?;
    let failed = app(world, "failed", json!({"analysis": {"threshold": 1, "webhooks": hook}})).await?;
    world.flux(deployment(&failed, "v2", 2)).await?;
    world.phase(&failed, "Failed").await?;
    // A window without a request is the proof; what a release leaves to tidy up comes first.
    eventually("three seconds pass without a request", async || {
        let since = world.cp.audit().mark().await?;
        let end = Instant::now() + Duration::from_secs(3);
        tokio::time::sleep_until(end.into()).await;
        Ok(requests(world, since).await?.is_empty().then_some(()))
    })
    .await?;
    let since = world.cp.audit().mark().await?;
    sidetrack.kill();
    let sidetrack = world.run(ALONE)?;
    world.wait_for_webhook().await?;
    let read = eventually("the new process has listed Canaries", async || {
        let all = world.cp.audit().requests_since(since, SIDETRACK).await?;
        Ok(all.iter().any(|r| r.resource == "virtualservices").then_some(()))
    });
    read.await?;
    let end = Instant::now() + Duration::from_secs(3);
    tokio::time::sleep_until(end.into()).await;
    let writes: Vec<AuditRequest> =
        requests(world, since).await?.into_iter().filter(AuditRequest::is_write).collect();
    ensure!(writes.is_empty(), "a process that starts at rest wrote {writes:#?}");
    sidetrack.kill();
    Ok(())
}

/// A standby takes over from a leader that crashes, and at once from one that is asked to end.
async fn replaced(world: &World) -> Result<()> {
    let elsewhere = || format!("--webhook-bind=127.0.0.1:{}", free_port());
    let leads = async |process: &Sidetrack| {
        eventually("it leads", async || Ok(process.logged()?.contains("Became the leader").then_some(())))
            .await
    };
    let first = world.run(&["--lease-duration=3s", &elsewhere()])?;
    leads(&first).await?;
    let second = world.run(&["--lease-duration=60s", "--shutdown-delay=0s"])?;
    world.wait_for_webhook().await?;
    let ns = app(world, "standby", json!({"analysis": {"stepWeight": 5}})).await?;
    let timeline = world.timeline(&ns, &["vs", "pod"]).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight 10", |vs| weight(vs) == Some(10)).await?;
    first.kill();
    world.until(&ns, "vs", "app", "the standby goes on", |vs| weight(vs) >= Some(20)).await?;
    let third = world.run(&["--lease-duration=5s", &elsewhere()])?;
    eventually("the third stands by", async || {
        Ok(third.logged()?.contains("Starting leader election").then_some(()))
    })
    .await?;
    let asked = Instant::now();
    second.terminate()?;
    leads(&third).await?;
    ensure!(asked.elapsed() < Duration::from_secs(30), "the lease of 60 s was not given back");
    world.phase(&ns, "Succeeded").await?;
    let weights = timeline.values(world, "vs", "app", weight).await?;
    ensure!(weights == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 0], "{weights:?}");
    timeline.obeys(world, |cluster, _| lawful(cluster)).await
}

/// Interlock §4, rule 5: in place a revert needs a webhook, and nobody who leads.
async fn reverted(world: &World) -> Result<()> {
    // Of those before; who has a long lease does not look at another's often.
    let lease = ["-n", "sidetrack-system", "delete", "lease", "sidetrack"];
    world.kubectl(&lease).await?;
    let elsewhere = format!("--webhook-bind=127.0.0.1:{}", free_port());
    let leader = world.run(&["--lease-duration=600s", &elsewhere])?;
    eventually("it leads", async || Ok(leader.logged()?.contains("Became the leader").then_some(()))).await?;
    let standby = world.run(&["--lease-duration=3s"])?;
    world.wait_for_webhook().await?;
    let spec = json!({"analysis": {"stepWeight": 5, "maxWeight": 100}});
    let ns = of_layout(world, ("downinplace", in_place), spec).await?;
    let names = async || -> Result<Vec<String>> {
        let all = world.list(&ns, "pod", "app=app").await?;
        Ok(all.iter().filter_map(|p| at(p, "/metadata/name").as_str().map(str::to_owned)).collect())
    };
    let before = names().await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    leader.kill();
    let share = weight(&world.get(&ns, "vs", "app").await?);
    world.flux(deployment(&ns, "v1", 2)).await?;
    let freed = world.get(&ns, "deploy", "app").await?;
    ensure!(image(&freed) == "app:v1" && at(&freed, "/spec/paused").is_null(), "{freed:#}");
    let current = |d: &Value| at(d, "/status/observedGeneration") == at(d, "/metadata/generation");
    world.until(&ns, "deploy", "app", "Kubernetes has seen it", current).await?;
    ensure!(names().await? == before, "a pod was restarted");
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == share, "nobody leads, nobody moves traffic");
    // The lease of the one that died is long.
    world.kubectl(&lease).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == Some(0) && names().await? == before);
    world.gone(&ns, "deploy", "app-canary").await?;
    drop(standby);
    Ok(())
}
