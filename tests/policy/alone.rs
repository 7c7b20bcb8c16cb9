//! What a policy selects and cannot release: it is left alone, and named.

use anyhow::{Result, ensure};
use harness::stage::{enforced, enrolled, named, namespace, runs};
use harness::{at, deployment, eventually, shared};
use serde_json::{Value, json};

fn alone(policy: &Value) -> Vec<String> {
    let all = at(policy, "/status/leftAlone").as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

/// A hand-made canary of the very name that the policy would need, beside an application: neither is touched, updates of both
/// run as ever, also by the API server's own lock, and the application is adopted when the name is free.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_beside_a_deployment_of_the_canarys_name_is_left_alone() -> Result<()> {
    let (world, _) = shared().await;
    let ns = namespace(world, "by-hand").await?;
    world.flux(deployment(&ns, "v1", 1)).await?;
    world.flux(named(&ns, "app-canary", "v9", 1)).await?;
    for (name, version) in [("app", "v1"), ("app-canary", "v9")] {
        runs(world, &ns, name, version).await?;
    }
    let before = at(&world.get(&ns, "deploy", "app-canary").await?, "/metadata/uid").clone();
    enforced(world, "by-hand", &json!({"canary": {"provider": "istio"}})).await?;
    // The hand-made one has no Service of its name: it is left alone as well.
    let (app, canary) = (format!("{ns}/app"), format!("{ns}/app-canary"));
    let policy = world
        .until("", "policy", "by-hand", "both are named", |p| alone(p) == [app.clone(), canary.clone()])
        .await?;
    let why = at(&policy, "/status/others").to_string();
    ensure!(why.contains("Deployment app-canary exists and was not made for Canary app"), "{why}");
    ensure!(at(&policy, "/status/enrolled") == 0, "{policy:#}");
    eventually("the API server does not ask about them", async || {
        let all = world
            .kubectl(&["get", "mutatingwebhookconfiguration", "sidetrack-policies", "-o", "json"])
            .await?;
        Ok(all.contains(&app).then_some(()))
    })
    .await?;
    for (name, version) in [("app", "v2"), ("app-canary", "v10")] {
        let next = if name == "app" { deployment(&ns, version, 1) } else { named(&ns, name, version, 1) };
        world.flux(next).await?;
        let plain = runs(world, &ns, name, version).await?;
        ensure!(!enrolled(&plain) && !plain.to_string().contains("sidetrack.dev"), "{plain:#}");
    }
    ensure!(
        at(&world.get(&ns, "deploy", "app-canary").await?, "/metadata/uid") == &before,
        "it was made anew"
    );
    world.delete(&ns, "deploy", "app-canary").await?;
    world
        .until("", "policy", "by-hand", "it is enrolled", |p| {
            at(p, "/status/enrolled") == 1 && alone(p).is_empty()
        })
        .await?;
    world.until(&ns, "canary", "app", "adopted", |c| at(c, "/status/phase") == "Initialized").await?;
    Ok(())
}

/// A Deployment that has no port cannot be routed: it is not held for a policy that will never release it.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_port_is_not_held() -> Result<()> {
    let (world, _) = shared().await;
    enforced(world, "portless", &json!({"canary": {"provider": "istio"}})).await?;
    let ns = namespace(world, "portless").await?;
    let worker = |version: &str| {
        let mut worker = named(&ns, "worker", version, 1);
        if let Some(container) =
            worker.pointer_mut("/spec/template/spec/containers/0").and_then(Value::as_object_mut)
        {
            container.remove("ports");
        }
        worker
    };
    world.flux(worker("v1")).await?;
    let name = format!("{ns}/worker");
    world.until("", "policy", "portless", "it is named", |p| alone(p).contains(&name)).await?;
    world.until(&ns, "deploy", "worker", "it is plain", |d| !enrolled(d)).await?;
    eventually("the API server does not ask about it", async || {
        let all = world
            .kubectl(&["get", "mutatingwebhookconfiguration", "sidetrack-policies", "-o", "json"])
            .await?;
        Ok(all.contains(&name).then_some(()))
    })
    .await?;
    world.flux(worker("v2")).await?;
    let plain = runs(world, &ns, "worker", "v2").await?;
    ensure!(!plain.to_string().contains("sidetrack.dev"), "{plain:#}");
    Ok(())
}
