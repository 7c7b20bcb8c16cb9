//! `kubectl sidetrack` where the target is the primary.

use super::{adopted, pods};
use anyhow::{Result, ensure};
use harness::{at, deployment, image, shared, weight};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn in_place_a_release_is_looked_at_steered_and_undone() -> Result<()> {
    let (world, _) = shared().await;
    let ns = adopted("lookinplace", &json!({"analysis": {"interval": "5m"}})).await?;
    let before = pods(world, &ns, "app").await?;
    let done = async |args: &[&str]| -> Result<String> {
        let said = world.plugin(&ns, args).await?;
        ensure!(said.code == 0 && said.err.is_empty(), "{args:?}: {said:?}");
        Ok(said.out)
    };
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.until(&ns, "vs", "app", "the first step", |vs| weight(vs) == Some(25)).await?;
    let tree = done(&["tree", "app"]).await?;
    let line = |start: &str| tree.lines().find(|l| l.contains(start)).unwrap_or_default().to_owned();
    let target = line("Deployment app  ");
    let (runs, holds) = target.split_once("  holds ").unwrap_or_default();
    ensure!(runs.contains("runs ") && runs.contains("app:v1  2/2 ready"), "{tree}");
    ensure!(holds.contains("app:v2  applied by kustomize-controller flux"), "{tree}");
    ensure!(line("ReplicaSet app-canary-").contains("app:v2  2/2 ready"), "{tree}");
    let of_target = tree.lines().find(|l| l.contains("ReplicaSet app-") && !l.contains("-canary-"));
    ensure!(of_target.is_some_and(|l| l.contains("app:v1  2/2 ready")), "{tree}");
    let diff = done(&["diff", "app"]).await?;
    ensure!(diff.lines().any(|l| l.starts_with('-') && l.contains("app:v1")), "{diff}");
    ensure!(diff.lines().any(|l| l.starts_with('+') && l.contains("app:v2")), "{diff}");
    let open = world.plugin(&ns, &["status", "app"]).await?;
    ensure!(open.code == 4 && open.out.contains("Progressing, weight 25"), "{open:?}");
    ensure!(done(&["pause", "app"]).await?.contains("taken"));
    ensure!(done(&["tree", "app"]).await?.contains("Progressing (paused)"));
    done(&["resume", "app"]).await?;
    done(&["abort", "app", "--reason", "looks wrong"]).await?;
    let rejected = world.plugin(&ns, &["status", "app", "--wait"]).await?;
    ensure!(rejected.code == 3 && rejected.out.contains("aborted by alice: looks wrong"), "{rejected:?}");
    let tree = done(&["tree", "app"]).await?;
    ensure!(tree.contains("app:v2, rejected") && tree.contains("kubectl sidetrack undo app"), "{tree}");

    // What runs already passes at once, by the webhook itself.
    done(&["undo", "app"]).await?;
    let freed = world.get(&ns, "deploy", "app").await?;
    ensure!(image(&freed) == "app:v1" && at(&freed, "/spec/paused").is_null(), "{freed:#}");
    ensure!(done(&["status", "app", "--wait"]).await?.contains("promoted: The primary runs revision"));
    ensure!(pods(world, &ns, "app").await? == before, "no pod of the primary was restarted");
    world.flux(deployment(&ns, "v3", 2)).await?;
    world.until(&ns, "vs", "app", "the first step", |vs| weight(vs) == Some(25)).await?;
    done(&["promote", "app"]).await?;
    ensure!(done(&["status", "app", "--wait"]).await?.contains("promoted"));
    let history = done(&["history", "app"]).await?;
    let outcomes: Vec<&str> = history.lines().skip(1).filter_map(|l| l.split_whitespace().nth(1)).collect();
    ensure!(outcomes.iter().filter(|o| **o == "promoted").count() >= 2, "{history}");
    ensure!(outcomes.contains(&"rejected") && history.contains("app:v3"), "{history}");
    // An earlier revision is analysed as any other.
    done(&["undo", "app"]).await?;
    world.until(&ns, "vs", "app", "the first step", |vs| weight(vs) == Some(25)).await?;
    done(&["skip", "app"]).await?;
    world.phase(&ns, "Succeeded").await?;
    ensure!(pods(world, &ns, "app").await?.iter().all(|(_, image)| image == "app:v1"));
    Ok(())
}
