//! The webhook's certificates under writes: whatever happens to what is stored, no write is lost to it.

use anyhow::{Context as _, Result, ensure};
use harness::{World, at, deployment, eventually};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const SECRET: &str = "sidetrack-webhook-tls";

/// A Deployment that the webhook is asked about.
fn probe() -> Result<Deployment> {
    let mut probe = deployment("default", "v1", 1);
    json_patch::merge(&mut probe, &json!({"metadata": {"labels": {"sidetrack.dev/canary": "probe"}}}));
    Ok(serde_json::from_value(probe)?)
}

/// Whether the webhook answered one dry run: it strips the label.
async fn asked(client: &Client) -> Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let made = api.create(&PostParams { dry_run: true, ..PostParams::default() }, &probe()?).await?;
    ensure!(!made.metadata.labels.unwrap_or_default().contains_key("sidetrack.dev/canary"), "not asked");
    Ok(())
}

fn bundles(configuration: &Value) -> Vec<&Value> {
    let hooks = at(configuration, "/webhooks").as_array();
    hooks.into_iter().flatten().map(|hook| at(hook, "/clientConfig/caBundle")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_lost_when_certificates_are_deleted_or_the_process_replaced() -> Result<()> {
    let world = World::start(false).await?;
    let first = world.run(&["--lease-duration=3s"])?;
    world.wait_for_webhook().await?;
    let configuration = async || {
        let text = world.kubectl(&["get", "mutatingwebhookconfiguration", "sidetrack", "-o", "json"]).await?;
        anyhow::Ok(serde_json::from_str::<Value>(&text)?)
    };
    let before = configuration().await?;
    ensure!(bundles(&before).len() == 4 && bundles(&before).iter().all(|b| b.is_string()), "{before:#}");

    let (stop, passed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    // A client each: a connection pool must not hide that a handshake failed. The API server's own connections to the
    // webhook close when its process says so.
    let client = world.cp.client();
    let (stopped, count) = (stop.clone(), passed.clone());
    let writer = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            asked(&client).await?;
            count.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    });
    let more = async |n: usize| {
        let goal = passed.load(Ordering::Relaxed) + n;
        eventually("further writes pass", async || {
            ensure!(!writer.is_finished(), "a write was lost");
            Ok((passed.load(Ordering::Relaxed) >= goal).then_some(()))
        })
        .await
    };
    more(20).await?;

    // Deleted, the Secret comes back with what is served.
    let secrets: Api<Secret> = Api::namespaced(world.cp.client(), "sidetrack-system");
    let stored = secrets.get(SECRET).await?;
    for _ in 0..3 {
        let uid = secrets.get(SECRET).await?.metadata.uid;
        secrets.delete(SECRET, &DeleteParams::default()).await?;
        let restored = eventually("the Secret is back", async || {
            Ok(secrets.get_opt(SECRET).await?.filter(|s| s.metadata.uid != uid))
        })
        .await?;
        ensure!(restored.data == stored.data, "the same certificates");
        more(10).await?;
    }
    // Broken, its leaf is issued anew and served at once: a rotation by force.
    let broken = json!({"data": {"tls.crt": "QQ=="}});
    world
        .kubectl(&[
            "-n",
            "sidetrack-system",
            "patch",
            "secret",
            SECRET,
            "--type=merge",
            "-p",
            &broken.to_string(),
        ])
        .await?;
    let renewed = eventually("a new certificate is issued", async || {
        let secret = secrets.get(SECRET).await?;
        let leaf = |s: &Secret| s.data.as_ref().and_then(|d| d.get("tls.crt")).map(|b| b.0.clone());
        Ok((leaf(&secret).is_some_and(|l| l != b"A") && leaf(&secret) != leaf(&stored)).then_some(secret))
    })
    .await?;
    let authority = |s: &Secret| s.data.as_ref().and_then(|d| d.get("ca.crt")).cloned();
    ensure!(authority(&renewed) == authority(&stored), "by the same authority");
    let stored = renewed;
    more(10).await?;
    // The configuration applied again, as each installation does, keeps its bundle.
    world.install_webhook().await?;
    ensure!(bundles(&configuration().await?) == bundles(&before), "the bundle stays");
    more(10).await?;
    stop.store(true, Ordering::Relaxed);
    writer.await??;

    // Wiped, the bundle comes back.
    let wipe = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"},
                      {"op": "replace", "path": "/webhooks/1/clientConfig/caBundle", "value": "QQ=="}]);
    let wiped = world
        .kubectl(&[
            "patch",
            "mutatingwebhookconfiguration",
            "sidetrack",
            "--type=json",
            "-p",
            &wipe.to_string(),
        ])
        .await;
    // An API server that reads the bundle refuses the second; then the first alone is wiped.
    if wiped.is_err() {
        let wipe = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]).to_string();
        world
            .kubectl(&["patch", "mutatingwebhookconfiguration", "sidetrack", "--type=json", "-p", &wipe])
            .await?;
    }
    eventually("the bundle is back", async || {
        Ok((bundles(&configuration().await?) == bundles(&before)).then_some(()))
    })
    .await?;
    world.wait_for_webhook().await?;

    // Another process goes on with the same certificates, even where the Secret was deleted while nobody looked.
    first.kill();
    let second = world.run(&["--lease-duration=3s"])?;
    world.wait_for_webhook().await?;
    ensure!(
        secrets.get(SECRET).await?.data == stored.data
            && bundles(&configuration().await?) == bundles(&before)
    );
    second.kill();
    secrets.delete(SECRET, &DeleteParams::default()).await?;
    let _third = world.run(&["--lease-duration=3s"])?;
    world.wait_for_webhook().await.context("new certificates")?;
    ensure!(secrets.get(SECRET).await?.data != stored.data, "made anew");
    Ok(())
}
