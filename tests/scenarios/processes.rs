//! Processes that come and go, on a control plane of their own: crashes, hand-overs, and rest.

use crate::harness::outside::Outside;
use crate::harness::{Sidetrack, World, at, canary, deployment, eventually, free_port, image, weight};
use anyhow::{Context, Result, ensure};
use ground::{AuditRequest, Mark, SIDETRACK};
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
    let alone = killed(&world, alone).await.context("kill -9 during a release")?;
    idle(&world, &outside, alone).await.context("at rest")?;
    replaced(&world).await.context("two processes")
}

async fn app(world: &World, prefix: &str, spec: Value) -> Result<String> {
    let ns = world.cp.namespace(prefix).await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.cp.apply(canary(&ns, &spec)).await?;
    world.phase(&ns, "Initialized").await?;
    Ok(ns)
}

/// Whatever is being done when it is killed, the release comes to the same end, a step an interval.
async fn killed(world: &World, mut sidetrack: Sidetrack) -> Result<Sidetrack> {
    let ns = app(world, "crash", json!({"analysis": {"stepWeight": 10}})).await?;
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
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    timeline.obeys(world, |cluster, _| crate::harness::objects::lawful(cluster)).await?;
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
    timeline.obeys(world, |cluster, _| crate::harness::objects::lawful(cluster)).await
}
