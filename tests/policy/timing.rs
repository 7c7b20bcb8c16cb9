//! When releases may begin: freeze windows, turns, and revisions that were rejected.

use anyhow::{Context as _, Result, ensure};
use harness::stage::{enforced, key, message, named, namespace, phase, policy, runs};
use harness::{at, deployment, image, service_of, shared};
use jiff::{SignedDuration, tz::TimeZone};
use serde_json::{Value, json};
use sidetrack::api::keys;
use sidetrack::clock;

const ALWAYS: &str = "* * * * *";

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_holds_what_is_applied_and_break_glass_passes_it_with_a_word() -> Result<()> {
    let (world, _) = shared().await;
    let freeze = json!({"freeze": [{"schedule": ALWAYS, "duration": "5m", "reason": "inventory"}]});
    enforced(world, "freeze", &freeze).await?;
    let ns = namespace(world, "freeze").await?;
    let glass = namespace(world, "freeze").await?;
    for ns in [&ns, &glass] {
        world.flux(deployment(ns, "v1", 2)).await?;
        phase(world, ns, "app", "Initialized").await?;
        world.flux(deployment(ns, "v2", 2)).await?;
        let held = phase(world, ns, "app", "Waiting").await?;
        let text = message(&held, "Ready");
        ensure!(
            text.starts_with("Frozen until ") && text.ends_with(": inventory (policy freeze)."),
            "{text}"
        );
        ensure!(world.get(ns, "deploy", "app-canary").await?.is_null());
    }
    let frozen = world.get("", "policy", "freeze").await?;
    ensure!(at(&frozen, "/status/frozen/reason") == "inventory", "{frozen:#}");

    let live = world.get(&glass, "deploy", "app").await?;
    let generation = at(&live, "/metadata/generation");
    let mut fix = deployment(&glass, "v3", 2);
    json_patch::merge(
        &mut fix,
        &json!({"metadata": {"annotations": {keys::BREAK_GLASS: format!("{generation} shop is down")}}}),
    );
    world.cp.apply_as("alice", "kubectl", fix).await?;
    runs(world, &glass, "app", "v3").await?;

    world.cp.apply(policy("freeze", &json!({}))).await?;
    phase(world, &ns, "app", "Succeeded").await?;
    runs(world, &ns, "app", "v2").await?;
    Ok(())
}

/// In the layout in which a break-glass goes the controller's way it is told whose freeze it passed.
#[tokio::test(flavor = "multi_thread")]
async fn a_break_glass_that_passes_a_freeze_leaves_an_event() -> Result<()> {
    let (world, _) = shared().await;
    let freeze = json!({"layout": "primary-copy", "freeze": [{"schedule": ALWAYS, "duration": "5m", "reason": "inventory"}]});
    enforced(world, "freeze-copy", &freeze).await?;
    let ns = namespace(world, "freeze-copy").await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    phase(world, &ns, "app", "Initialized").await?;
    let live = world.get(&ns, "deploy", "app").await?;
    let generation = at(&live, "/metadata/generation");
    let mut fix = deployment(&ns, "v2", 2);
    json_patch::merge(
        &mut fix,
        &json!({"metadata": {"annotations": {keys::BREAK_GLASS: format!("{generation} shop is down")}}}),
    );
    world.cp.apply_as("alice", "kubectl", fix).await?;
    phase(world, &ns, "app", "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    let said = world.event(&ns, "Break-glass by kubectl alice").await?;
    ensure!(said.contains("inventory (policy freeze-copy)"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_goes_when_the_window_ends() -> Result<()> {
    let (world, _) = shared().await;
    enforced(world, "window", &json!({})).await?;
    let ns = namespace(world, "window").await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    phase(world, &ns, "app", "Initialized").await?;
    // A window that began with this minute and ends a few seconds from now.
    let now = clock::now().to_zoned(TimeZone::UTC);
    let seconds = now.second() + 8;
    let schedule = format!("{} {} {} {} *", now.minute(), now.hour(), now.day(), now.month());
    let freeze =
        json!({"freeze": [{"schedule": schedule, "duration": format!("{seconds}s"), "reason": "a moment"}]});
    world.cp.apply(policy("window", &freeze)).await?;
    world.until("", "policy", "window", "frozen", |p| at(p, "/status/frozen/reason") == "a moment").await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    phase(world, &ns, "app", "Waiting").await?;
    let end = now.start_of_day()?.with().hour(now.hour()).minute(now.minute()).build()?.timestamp();
    let end = end.checked_add(SignedDuration::from_secs(seconds.into()))?;
    phase(world, &ns, "app", "Progressing").await?;
    ensure!(clock::now() >= end, "it went before the window ended");
    phase(world, &ns, "app", "Succeeded").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_wait_for_their_turn_and_the_longest_in_line_goes_first() -> Result<()> {
    let (world, _) = shared().await;
    enforced(world, "turns", &json!({"maxConcurrentReleases": 1})).await?;
    let ns = namespace(world, "turns").await?;
    let names = ["one", "two", "three", "four"];
    for name in names {
        world.flux(service_of(&ns, name)).await?;
        world.flux(named(&ns, name, "v1", 1)).await?;
    }
    for name in names {
        phase(world, &ns, name, "Initialized").await?;
    }
    let timeline = world.timeline(&ns, &["canary"]).await?;
    world.flux(named(&ns, "one", "v2", 1)).await?;
    let first = phase(world, &ns, "one", "Progressing").await?;
    let revision = at(&first, "/status/run/revision").as_str().context("no run")?.to_owned();
    let ask = async |verb: &str| {
        let request = format!("{verb} {revision} 1");
        world
            .merge(&ns, "canary", "one", json!({"metadata": {"annotations": {keys::REQUEST: request}}}))
            .await
    };
    // The first one stays where it is until all others have been seen in line.
    ask("pause").await?;
    for name in ["two", "three", "four"] {
        world.flux(named(&ns, name, "v2", 1)).await?;
        let waits =
            world.until(&ns, "canary", name, "in line", |c| !at(c, "/status/queued").is_null()).await?;
        let text = message(&waits, "Ready");
        ensure!(text.starts_with("It waits for its turn: policy turns lets 1 run at once"), "{text}");
    }
    let line =
        world.until("", "policy", "turns", "the line", |p| at(p, "/status/releases/waiting") == 3).await?;
    let queue: Vec<String> = ["two", "three", "four"].map(|name| format!("{ns}/{name}")).into();
    ensure!(at(&line, "/status/releases/queue") == &json!(queue), "{line:#}");
    ask("resume").await?;
    for name in names {
        phase(world, &ns, name, "Succeeded").await?;
    }
    let mut began = Vec::new();
    timeline
        .obeys(world, |cluster, _| {
            let stage = |canary: &Value| at(canary, "/status/run/stage").as_str().map(str::to_owned);
            let running: Vec<&String> = cluster
                .iter()
                .filter(|(_, canary)| stage(canary).is_some_and(|stage| stage != "Gated"))
                .map(|((_, name), _)| name)
                .collect();
            for name in &running {
                if !began.contains(*name) {
                    began.push((*name).clone());
                }
            }
            ensure!(running.len() <= 1, "{running:?} run at once");
            Ok(())
        })
        .await?;
    ensure!(began == names, "{began:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_revision_is_not_tried_again_until_somebody_says_so() -> Result<()> {
    let (world, _) = shared().await;
    enforced(world, "quarantine", &json!({"canary": {"progressDeadlineSeconds": 8}})).await?;
    let ns = namespace(world, "quarantine").await?;
    world.flux(deployment(&ns, "v1", 1)).await?;
    phase(world, &ns, "app", "Initialized").await?;
    let mut bad = deployment(&ns, "v2", 1);
    json_patch::merge(
        &mut bad,
        &json!({"spec": {"progressDeadlineSeconds": 8, "template": {"metadata": {"labels": {"ready": "never"}}}}}),
    );
    let mut good = deployment(&ns, "v1", 1);
    json_patch::merge(&mut good, &json!({"spec": {"progressDeadlineSeconds": 8}}));
    world.flux(bad.clone()).await?;
    phase(world, &ns, "app", "Failed").await?;
    world.flux(good).await?;
    world.until(&ns, "deploy", "app", "the revert", |d| key(d, keys::HOLD).is_none()).await?;
    world.until(&ns, "canary", "app", "at rest", |c| at(c, "/status/run").is_null()).await?;
    // Git says it once more.
    world.flux(bad).await?;
    let held = world
        .until(&ns, "canary", "app", "held", |c| message(c, "Stalled").contains("it was rejected before"))
        .await?;
    ensure!(at(&held, "/status/phase") == "Failed", "{held:#}");
    ensure!(world.get(&ns, "deploy", "app-canary").await?.is_null());
    let revision = at(&held, "/status/revisions/failed")
        .as_str()
        .context("none failed")?
        .get(..10)
        .unwrap_or_default()
        .to_owned();
    world
        .merge(&ns, "canary", "app", json!({"metadata": {"annotations": {keys::REQUEST: format!("retry {revision} 1 the network was down")}}}))
        .await?;
    phase(world, &ns, "app", "Progressing").await?;
    // The newest revision wins.
    world.flux(deployment(&ns, "v3", 1)).await?;
    phase(world, &ns, "app", "Succeeded").await?;
    runs(world, &ns, "app", "v3").await?;
    Ok(())
}
