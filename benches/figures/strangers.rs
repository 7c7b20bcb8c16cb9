//! What whoever reaches the webhook's port can make it take up.

use crate::api::{Api, deployment, new_template};
use crate::report::{Report, quantile};
use crate::webhook::labels;
use anyhow::{Result, ensure};
use ground::SIDETRACK;
use harness::World;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Size of the largest body that is read.
const LARGEST: usize = 8 << 20;

/// A review whose object has so many small objects in a list, and so many bytes in all.
fn review(small: usize, bytes: usize) -> Vec<u8> {
    let list = vec![r#"{"":0}"#; small].join(",");
    let text = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u","operation":"CREATE","kind":{{"group":"apps","version":"v1","kind":"Deployment"}},"resource":{{"group":"apps","version":"v1","resource":"deployments"}},"userInfo":{{"username":"x"}},"name":"x","namespace":"x","object":{{"list":[{list}],"text":"@"}}}}}}"#
    );
    let padding = bytes.saturating_sub(text.len());
    text.replace('@', &"x".repeat(padding)).into_bytes()
}

/// Sends bodies side by side and returns how they were answered.
async fn send(client: &reqwest::Client, url: &str, body: Vec<u8>, times: usize) -> Result<Vec<u16>> {
    let body = Arc::new(body);
    let mut calls = JoinSet::new();
    for _ in 0..times {
        let (client, url, body) = (client.clone(), url.to_owned(), body.clone());
        calls.spawn(async move {
            let request = client.post(url).header("content-type", "application/json");
            let answer = request.body(body.as_ref().clone()).send().await;
            // Beyond the budget the answer comes before the body has been taken, and the connection ends.
            answer.map_or(503, |answer| answer.status().as_u16())
        });
    }
    let mut statuses = Vec::new();
    while let Some(answer) = calls.join_next().await {
        statuses.push(answer?);
    }
    statuses.sort_unstable();
    Ok(statuses)
}

/// Peak memory after each kind of body.
pub(crate) async fn measure(world: &World, report: &mut Report) -> Result<()> {
    if !report.wants("strangers") {
        return Ok(());
    }
    let client = reqwest::Client::builder().danger_accept_invalid_certs(true).build()?;
    let url = format!("https://{}/mutate", world.webhook);
    for (what, body, times, expected) in [
        ("one of 8 MiB, all small values", review((LARGEST - 1024) / 7, 0), 1, 413),
        ("one of 60,000 small values", review(60_000, 0), 1, 200),
        ("64 at once of 2.9 MB, 200,000 small values", review(200_000, 2_900_000), 64, 413),
        ("64 at once of 2.9 MB", review(1000, 2_900_000), 64, 200),
    ] {
        // Each in a process of its own: the peak of one is not seen under that of another.
        let sidetrack = world.run(&[])?;
        world.wait_for_webhook().await?;
        let (before, _) = sidetrack.memory()?;
        let statuses = send(&client, &url, body, times).await?;
        ensure!(statuses.contains(&expected), "{what}: {statuses:?}");
        let (_, highest) = sidetrack.memory()?;
        #[expect(clippy::cast_precision_loss, reason = "a figure")]
        let mib = highest.saturating_sub(before) as f64 / f64::from(1 << 20);
        let served = statuses.iter().filter(|status| **status == 200).count();
        report.figure(
            &format!("webhook, {what}: memory at its highest over before"),
            mib,
            "MiB",
            &format!("{served} answered"),
        );
        sidetrack.kill();
    }
    others(world, report, &client, &url).await
}

/// What writes of others take while somebody holds more connections than there are and sends the largest bodies, one after the
/// other; by turns with none of it.
async fn others(world: &World, report: &mut Report, client: &reqwest::Client, url: &str) -> Result<()> {
    let _sidetrack = world.run(&[])?;
    world.wait_for_webhook().await?;
    let api = Api::new(world, "others").await?;
    let mut target = deployment(&api, "app");
    json_patch::merge(
        &mut target,
        &json!({"metadata": {"labels": labels()}, "spec": {"paused": true, "replicas": 0}}),
    );
    api.by(world.cp.client_as(SIDETRACK)).create("deployments", &target).await?;
    let api = api.by(world.cp.client_as("flux"));
    let (mut version, mut quiet, mut noisy) = (1, Vec::new(), Vec::new());
    for _ in 0..report.either(8, 2) {
        for (samples, noise) in [(&mut quiet, false), (&mut noisy, true)] {
            let stop = CancellationToken::new();
            let (mut idle, mut senders) = (Vec::new(), JoinSet::new());
            if noise {
                for _ in 0..1100 {
                    idle.extend(TcpStream::connect(&world.webhook).await);
                }
                let (client, url, stop) = (client.clone(), url.to_owned(), stop.clone());
                let body = review((LARGEST - 1024) / 7, 0);
                senders.spawn(async move {
                    while !stop.is_cancelled() {
                        let _ = send(&client, &url, body.clone(), 1).await;
                    }
                });
            }
            for _ in 0..30 {
                version += 1;
                let started = Instant::now();
                api.merge("deployments", "app", &new_template(version)).await?;
                samples.push(started.elapsed().as_secs_f64() * 1e3);
            }
            stop.cancel();
            while senders.join_next().await.is_some() {}
        }
    }
    for (name, share) in [("median", 0.5), ("p90", 0.9)] {
        let (calm, storm) = (quantile(&mut quiet, share), quantile(&mut noisy, share));
        report.figure(
            &format!("update beside a stranger with 1100 connections and 8 MiB bodies / in quiet, {name}"),
            storm / calm,
            "",
            "goal 1.5",
        );
    }
    Ok(())
}
