//! The figures of the README, counted from outside: by the API server's audit log, by watches and by the kernel.
//!
//! `cargo bench --bench figures -- [--quick] [--only NAME]`; `NAME` is one of release, webhook, strangers, latency, policy, idle,
//! memory.

#[path = "figures/idle.rs"]
mod idle;
#[path = "figures/latency.rs"]
mod latency;
#[path = "figures/policy.rs"]
mod policy;
#[path = "figures/release.rs"]
mod release;
#[path = "figures/report.rs"]
mod report;
#[path = "figures/strangers.rs"]
mod strangers;
#[path = "figures/webhook.rs"]
mod webhook;

#[path = "figures/api.rs"]
mod api;

use anyhow::{Context as _, Result};
use harness::World;
use report::Report;
use std::time::{Duration, Instant};

/// When the growing number of Canaries is cut, counted from the start.
const GROWTH_ENDS: Duration = Duration::from_secs(11 * 60);

/// Settings as a cluster has them, where the harness' defaults are quicker.
const AS_SHIPPED: [&str; 2] = ["--min-interval=10s", "--drain-delay=5s"];

#[tokio::main]
async fn main() -> Result<()> {
    let started = Instant::now();
    let mut report = Report::from_args();
    webhook::handler(&mut report).await?;

    let world = World::start(true).await?;
    let window = report.either(Duration::from_secs(60), Duration::from_secs(10));
    let sidetrack = world.run(&AS_SHIPPED)?;
    world.wait_for_webhook().await.with_context(|| sidetrack.logged().unwrap_or_default())?;
    let one = api::Api::new(&world, "one").await?;
    release::prepare(&one).await?;
    idle::measure(&world, &sidetrack, &mut report, 1, window).await?;
    release::measure(&world, &one, &mut report).await?;
    webhook::added(&world, &mut report).await?;
    drop(sidetrack);
    strangers::measure(&world, &mut report).await?;

    if report.wants("latency") || report.wants("idle") || report.wants("memory") {
        let sidetrack = world.run(&[])?;
        world.wait_for_webhook().await.with_context(|| sidetrack.logged().unwrap_or_default())?;
        latency::measure(&world, &mut report).await?;
        drop(sidetrack);
    }
    if report.wants("policy") {
        policy::measure(&mut report, window).await?;
    }
    if report.wants("idle") || report.wants("memory") {
        let sidetrack = world.run(&[])?;
        let many = api::Api::new(&world, "many").await?;
        let ends = started + GROWTH_ENDS;
        let reached = idle::grow(&many, 0, report.either(500, 20) - 1, ends).await?;
        idle::measure(&world, &sidetrack, &mut report, reached + 1, window).await?;
        if report.wants("memory") {
            let reached = idle::grow(&many, reached, report.either(1000, 40) - 1, ends).await?;
            idle::memory(&world, &sidetrack, &mut report, reached + 1).await?;
        }
    }
    println!("{:.0} s", started.elapsed().as_secs_f64());
    report.write()
}
