//! What it costs to have Canaries that nothing happens to: requests and memory.

use crate::api::{Api, canary, deployment, phase_is};
use crate::report::Report;
use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use ground::{AuditRequest, SIDETRACK};
use harness::{Sidetrack, World, eventually};
use serde_json::json;
use std::time::{Duration, Instant};

/// Pause in which nothing may happen for it to be quiet.
const QUIET: Duration = Duration::from_secs(4);
/// Canaries made at once.
const AT_ONCE: usize = 8;

/// Whether a request has to do with Canaries, and not with the process alone.
pub(crate) fn is_work(request: &AuditRequest) -> bool {
    request.resource != "leases" && request.verb != "watch"
}

/// Waits until Sidetrack requests nothing but its lease and its watches.
pub(crate) async fn quiet(world: &World) -> Result<()> {
    let audit = world.cp.audit();
    eventually("nothing is left to do", async || {
        let mark = audit.mark().await?;
        tokio::time::sleep(QUIET).await;
        let seen = audit.requests_since(mark, SIDETRACK).await?;
        Ok((!seen.iter().any(is_work)).then_some(()))
    })
    .await
}

/// Counts the requests of idle Canaries, and notes the memory where there is one.
pub(crate) async fn measure(
    world: &World,
    sidetrack: &Sidetrack,
    report: &mut Report,
    canaries: usize,
    window: Duration,
) -> Result<()> {
    if report.wants("idle") {
        quiet(world).await?;
        let audit = world.cp.audit();
        let mark = audit.mark().await?;
        tokio::time::sleep(window).await;
        let seen = audit.requests_since(mark, SIDETRACK).await?;
        let per_minute = |n: usize| n as f64 * 60.0 / window.as_secs_f64();
        let work: Vec<_> = seen.iter().filter(|r| is_work(r)).collect();
        let leases = seen.iter().filter(|r| r.resource == "leases").count();
        let watches = seen.iter().filter(|r| r.verb == "watch").count();
        report.figure(
            &format!("requests per idle canary, {canaries} canaries"),
            per_minute(work.len()) / canaries as f64,
            "/min",
            "goal 0; Flagger 14 a tick",
        );
        for request in work {
            Report::detail(&format!("{} {}", request.verb, request.uri));
        }
        report.figure(&format!("lease renewals, {canaries} canaries"), per_minute(leases), "/min", "");
        report.figure(&format!("watch re-opens, {canaries} canaries"), per_minute(watches), "/min", "");
    }
    if canaries == 1 {
        memory(world, sidetrack, report, canaries).await?;
    }
    Ok(())
}

/// Notes resident memory, now and at its highest.
pub(crate) async fn memory(
    world: &World,
    sidetrack: &Sidetrack,
    report: &mut Report,
    canaries: usize,
) -> Result<()> {
    if report.wants("memory") {
        quiet(world).await?;
        let (now, highest) = sidetrack.memory()?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let beside = if canaries == 1 { "Flagger 57" } else { "Flagger 114 at 1000" };
        report.figure(&format!("resident memory, {canaries} canaries"), mib(now), "MiB", beside);
        report.figure(
            &format!("resident memory at its highest, {canaries} canaries"),
            mib(highest),
            "MiB",
            "",
        );
    }
    Ok(())
}

/// Makes Canaries until there are `to`, or time is up, and waits for `Initialized`; returns how many there are.
pub(crate) async fn grow(api: &Api, from: usize, to: usize, ends: Instant) -> Result<usize> {
    let begun = Instant::now();
    let made: Vec<usize> = stream::iter(from..to)
        .map(async |n| {
            if Instant::now() > ends {
                return Ok(0);
            }
            let name = format!("app-{n}");
            api.create("deployments", &deployment(api, &name)).await?;
            let analysis = json!({"interval": "1m"});
            api.create("canaries", &canary(api, &name, &analysis)).await?;
            anyhow::Ok(1)
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let made = from + made.into_iter().sum::<usize>();
    loop {
        let all = api.list("canaries").await?;
        let reached = all.iter().filter(|c| phase_is(c, &["Initialized"])).count();
        if reached >= made || Instant::now() > ends {
            let seconds = begun.elapsed().as_secs_f64();
            Report::detail(&format!("{reached} of {to} further canaries initialized after {seconds:.0} s"));
            return Ok(reached);
        }
        // Hundreds of objects a list: asked seldom.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
