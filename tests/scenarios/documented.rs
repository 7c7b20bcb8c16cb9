//! What pages tell people to type is typed as it stands there, in another namespace.

use anyhow::{Result, ensure};
use harness::outside::Outside;
use harness::{World, at, deployment, image, initialized, shared};
use serde_json::json;

/// Types the first block below a heading of docs/rejected.md, and expects these words of it.
async fn typed(world: &World, ns: &str, heading: &str, words: &[&str]) -> Result<()> {
    let said = world.as_documented_once("rejected.md", heading, ns).await?;
    for part in words {
        ensure!(said.contains(part), "{heading}: {part:?} is not in\n{said}");
    }
    ensure!(!said.contains("rror: ") && !said.contains("not found"), "{heading}: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_rejections_can_be_followed() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("/load", 400, "no");
    let hooks = json!([{"name": "load", "type": "rollout", "url": outside.url("/load")}]);
    let ns = initialized("typed", &json!({"analysis": {"webhooks": hooks, "threshold": 1}})).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Failed").await?;
    let reason = "external check load failed";
    typed(world, &ns, "See why", &[reason, "was rejected", "app:v2", "Rolling back", "Scaling down"]).await?;
    typed(world, &ns, "Try the same revision again", &["retry of revision", "taken", reason]).await?;
    typed(world, &ns, "Skip the analysis of it", &["skip of revision", "taken"]).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");

    world.flux(deployment(&ns, "v3", 2)).await?;
    world.phase(&ns, "Failed").await?;
    typed(world, &ns, "Go back", &["rejected", "has revision", "again"]).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app").await?) == "app:v2");

    world.flux(deployment(&ns, "v4", 2)).await?;
    world.phase(&ns, "Failed").await?;
    typed(world, &ns, "Break-glass: run it now, unanalysed", &["promoted: The primary runs revision"])
        .await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v4");
    world.event(&ns, "was promoted without analysis: outage 4711").await?;
    let canary = world.get(&ns, "canary", "app").await?;
    let last = at(&canary, "/status/history").as_array().and_then(|all| all.last());
    ensure!(last.is_some_and(|past| at(past, "/outcome") == "BreakGlass"), "{canary:#}");
    Ok(())
}
