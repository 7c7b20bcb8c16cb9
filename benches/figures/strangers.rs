//! What whoever reaches the webhook's port can make it take up.

use crate::harness::World;
use crate::report::Report;
use anyhow::{Result, ensure};
use std::sync::Arc;
use tokio::task::JoinSet;

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
            request.body(body.as_ref().clone()).send().await.map(|answer| answer.status().as_u16())
        });
    }
    let mut statuses = Vec::new();
    while let Some(answer) = calls.join_next().await {
        statuses.push(answer??);
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
    Ok(())
}
