//! Where the questions of Canaries may go.

use anyhow::{Result, ensure};
use harness::{World, at, canary, deployment};
use serde_json::{Value, json};
use tokio::net::TcpListener;

fn with_hook(url: &str) -> Value {
    json!({"analysis": {"webhooks": [{"name": "ask", "type": "confirm-rollout", "url": url, "timeout": "10m"}]}})
}

/// What stands beside the controller, another namespace's templates and any but the named metrics servers are out of bounds,
/// by the flags of the installation: nothing of theirs is shown to who writes a Canary.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_sees_nothing_by_the_controllers_eyes() -> Result<()> {
    let world = World::start(false).await?;
    let flags = [
        "--allow-network=192.0.2.0/24",
        "--no-cross-namespace-refs",
        "--metrics-servers=prometheus.monitoring",
    ];
    let _sidetrack = world.run(&flags)?;
    world.wait_for_webhook().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/secret", listener.local_addr()?);
    let ns = world.cp.namespace("bounds").await?;
    world.flux(deployment(&ns, "v1", 1)).await?;
    world.cp.apply(canary(&ns, &with_hook(&url))).await?;
    world.phase(&ns, "Initialized").await?;
    world.flux(deployment(&ns, "v2", 1)).await?;
    let why =
        "127.0.0.1 is an address of the controller itself, which Canaries may not ask; see --allow-network";
    world
        .until(&ns, "canary", "app", "the refusal is said", |c| {
            at(c, "/status/conditions").to_string().contains(why)
        })
        .await?;
    ensure!(
        tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await.is_err(),
        "it was called"
    );

    for (spec, why) in [
        (
            json!({"metricsServer": "http://other.monitoring:9090"}),
            "which is none of the metrics servers that may be asked",
        ),
        (
            json!({"analysis": {"metrics": [{"name": "m", "templateRef": {"name": "t", "namespace": "platform"}}]}}),
            "can't access metric template t.platform, cross-namespace references are blocked",
        ),
    ] {
        let ns = world.cp.namespace("bounds").await?;
        world.flux(deployment(&ns, "v1", 1)).await?;
        world.cp.apply(canary(&ns, &spec)).await?;
        world
            .until(&ns, "canary", "app", why, |c| at(c, "/status/conditions").to_string().contains(why))
            .await?;
    }
    Ok(())
}
