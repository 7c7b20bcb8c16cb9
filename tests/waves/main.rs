//! Waves across clusters: three real control planes with a Sidetrack each, which read each other's Canaries by the account of
//! `manifests/peer-reader.yaml`, and one source that applies the same Deployment to all three.

use anyhow::{Context as _, Result, ensure};
use harness::flux::reconcile;
use harness::objects::Timeline;
use harness::outside::Outside;
use harness::stage::{TEAM, enforced, message, phase, runs};
use harness::{Sidetrack, World, at, deployment, eventually, image, service};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::path::Path;

const POLICY: &str = "waves";
const NAMESPACE: &str = "shop";
const SOAK: SignedDuration = SignedDuration::from_secs(3);

struct Cluster {
    world: World,
    sidetrack: Sidetrack,
    /// The load test of its releases.
    outside: Outside,
    name: &'static str,
}

fn template(file: &str) -> Result<String> {
    Ok(std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests").join(file))?)
}

impl Cluster {
    async fn start(name: &'static str) -> Result<Self> {
        let world = World::start(false).await?;
        let sidetrack = world.run(&[])?;
        world.wait_for_webhook().await.with_context(|| sidetrack.logged().unwrap_or_default())?;
        world
            .cp
            .apply(json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": NAMESPACE, "labels": {TEAM: POLICY}}}))
            .await?;
        world.cp.apply(service(NAMESPACE)).await?;
        Ok(Self { world, sidetrack, outside: Outside::start().await?, name })
    }

    /// What the policy says here, with the cluster that comes before.
    fn spec(&self, after: Option<&str>) -> Value {
        let hook = json!({"name": "load-test", "type": "rollout", "url": self.outside.url("/load")});
        let wave = after.map(|before| json!({"after": [before], "soak": format!("{}s", SOAK.as_secs())}));
        json!({"wave": wave, "canary": {"analysis": {"threshold": 1, "webhooks": [hook]}}})
    }

    /// A Secret with a kubeconfig by which another cluster reads this one's Canaries, and nothing else.
    async fn peer_secret(&self) -> Result<Value> {
        self.world.cp.apply(template("peer-reader.yaml")?.as_str()).await?;
        let token = ["-n", "sidetrack-system", "create", "token", "sidetrack-peer"];
        let token = self.world.kubectl(&token).await?;
        let authority = base64(self.world.cp.ca_pem());
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "peer",
            "clusters": [{"name": "peer", "cluster": {
                "server": self.world.cp.url(), "certificate-authority-data": authority}}],
            "users": [{"name": "peer", "user": {"token": token.trim()}}],
            "contexts": [{"name": "peer", "context": {"cluster": "peer", "user": "peer"}}],
        });
        Ok(json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": self.name, "namespace": "sidetrack-system", "labels": {"sidetrack.dev/peer": "true"}},
            "stringData": {"kubeconfig": kubeconfig.to_string()},
        }))
    }

    /// Waits until the policy says something, and is ready all the while.
    async fn policy_says(&self, what: &str, says: impl Fn(&str) -> bool) -> Result<()> {
        let ready = |p: &Value| at(p, "/status/conditions/0/status") == "True";
        let text = |p: &Value| says(message(p, "Ready"));
        self.world.until("", "policy", POLICY, what, |p| ready(p) && text(p)).await?;
        Ok(())
    }

    /// Waits until the release here waits, with words that contain these.
    async fn waits(&self, words: &str) -> Result<Value> {
        let waits = |c: &Value| at(c, "/status/phase") == "Waiting" && message(c, "Ready").contains(words);
        let canary = self.world.until(NAMESPACE, "canary", "app", words, waits).await;
        canary.with_context(|| self.sidetrack.logged().unwrap_or_default())
    }

    async fn runs(&self, version: &str) -> Result<()> {
        phase(&self.world, NAMESPACE, "app", "Succeeded")
            .await
            .and(runs(&self.world, NAMESPACE, "app", version).await)
            .with_context(|| format!("{}: {}", self.name, self.sidetrack.logged().unwrap_or_default()))?;
        Ok(())
    }

    /// When a promotion was that status tells of last.
    async fn promoted(&self) -> Result<Timestamp> {
        let canary = self.world.get(NAMESPACE, "canary", "app").await?;
        let history = at(&canary, "/status/history").as_array();
        let last = history.into_iter().flatten().rfind(|past| at(past, "/outcome") == "Promoted");
        Ok(last.and_then(|past| at(past, "/at").as_str()).context("no promotion")?.parse()?)
    }
}

fn base64(text: &str) -> Value {
    // As the API's own bytes are written.
    json!(k8s_openapi::ByteString(text.as_bytes().to_vec()))
}

async fn apply(clusters: &[&Cluster], version: &str) -> Result<()> {
    for cluster in clusters {
        let wrote = reconcile(&cluster.world, &deployment(NAMESPACE, version, 2)).await?;
        ensure!(wrote, "{version} is nothing new in {}", cluster.name);
    }
    Ok(())
}

/// Whether a Canary was ever in motion.
async fn ever_released(timeline: &Timeline, world: &World, version: &str) -> Result<bool> {
    let images = timeline.values(world, "deploy", "app-canary", |d| Some(image(d).to_owned())).await?;
    Ok(images.iter().any(|found| found == &format!("app:{version}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_rolls_from_cluster_to_cluster() -> Result<()> {
    let (first, second, third) =
        (Cluster::start("eu-1").await?, Cluster::start("eu-2").await?, Cluster::start("us-1").await?);
    let all = [&first, &second, &third];

    // What is missing is said, and picked up as soon as it is there.
    enforced(&first.world, POLICY, &first.spec(None)).await?;
    enforced(&second.world, POLICY, &second.spec(Some("eu-1"))).await?;
    enforced(&third.world, POLICY, &third.spec(Some("eu-2"))).await?;
    let unread = "cluster eu-1 cannot be asked: Secret eu-1 in sidetrack-system may not be read: apply peers-role.yaml";
    second.policy_says("the right is missing", |text| text.contains(unread)).await?;
    for cluster in [&second, &third] {
        cluster.world.cp.apply(template("peers-role.yaml")?.as_str()).await?;
    }
    let unnamed = "there is no Secret eu-1 with label sidetrack.dev/peer: \"true\" in sidetrack-system";
    second.policy_says("the Secret is missing", |text| text.contains(unnamed)).await?;

    // The first revision of a Deployment has nothing to be compared with: it waits for nobody.
    apply(&all, "v1").await?;
    for cluster in all {
        phase(&cluster.world, NAMESPACE, "app", "Initialized").await?;
    }
    second.world.cp.apply(first.peer_secret().await?).await?;
    third.world.cp.apply(second.peer_secret().await?).await?;
    for cluster in [&second, &third] {
        cluster.policy_says("its wave is followed", |text| !text.contains("Wave:")).await?;
    }

    rolls(&first, &second, &third).await?;
    rejected(&first, &second, &third).await?;

    // A newer revision starts its own wave.
    second.outside.says("/load", 200, "");
    apply(&all, "v4").await?;
    for cluster in all {
        cluster.runs("v4").await?;
    }

    down(&first, &second).await?;

    // A Secret that goes closes the gate, and one that comes back opens it.
    second.world.delete("sidetrack-system", "secret", "eu-1").await?;
    second.policy_says("the Secret is gone", |text| text.contains(unnamed)).await?;
    second.world.cp.apply(first.peer_secret().await?).await?;
    second.policy_says("its wave is followed again", |text| !text.contains("Wave:")).await
}

async fn rolls(first: &Cluster, second: &Cluster, third: &Cluster) -> Result<()> {
    let timeline = second.world.timeline(NAMESPACE, &["canary"]).await?;
    // The later ones get it first.
    apply(&[third, second], "v2").await?;
    second.waits("waits for its wave: cluster eu-1 runs revision ").await?;
    third.waits("waits for its wave: cluster eu-2 ").await?;
    apply(&[first], "v2").await?;
    for cluster in [first, second, third] {
        cluster.runs("v2").await?;
    }
    let said =
        timeline.values(&second.world, "canary", "app", |c| Some(message(c, "Ready").to_owned())).await?;
    let soaked = said.iter().any(|text| text.contains("was promoted in eu-1, soak until "));
    ensure!(soaked, "{said:#?}");
    let times = [first.promoted().await?, second.promoted().await?, third.promoted().await?];
    for pair in times.windows(2) {
        ensure!(matches!(pair, [before, after] if after.duration_since(*before) >= SOAK), "{times:?}");
    }
    Ok(())
}

/// The first promotes, the second rejects, the third stays on what it has.
async fn rejected(first: &Cluster, second: &Cluster, third: &Cluster) -> Result<()> {
    let timeline = third.world.timeline(NAMESPACE, &["deploy"]).await?;
    second.outside.says("/load", 500, "too slow");
    apply(&[first, second, third], "v3").await?;
    first.runs("v3").await?;
    phase(&second.world, NAMESPACE, "app", "Failed").await?;
    let failed = phase(&third.world, NAMESPACE, "app", "Failed").await?;
    let text = message(&failed, "Stalled");
    ensure!(text.contains("was rejected (it was rejected in cluster eu-2)"), "{text}");
    eventually("it is over", async || {
        let canary = third.world.get(NAMESPACE, "canary", "app").await?;
        Ok(at(&canary, "/status/run").is_null().then_some(()))
    })
    .await?;
    ensure!(!ever_released(&timeline, &third.world, "v3").await?, "v3 had pods in us-1");
    let pods = third.world.list(NAMESPACE, "pod", "app=app").await?;
    let of_v2 = |pod: &Value| harness::objects::pod_image(pod) == "app:v2";
    ensure!(!pods.is_empty() && pods.iter().all(of_v2), "{pods:#?}");
    Ok(())
}

/// A cluster that is down keeps the gate closed, and says so.
async fn down(first: &Cluster, second: &Cluster) -> Result<()> {
    first.world.cp.crash_api_server();
    second
        .policy_says("it is not heard", |text| text.contains("cluster eu-1 has not been heard since "))
        .await?;
    apply(&[second], "v5").await?;
    let held = second.waits("cluster eu-1 has not been heard since ").await?;
    ensure!(message(&held, "Ready").ends_with(": it cannot be reached."), "{held:#}");
    first.world.cp.restart_api_server().await?;
    second.waits("cluster eu-1 runs revision ").await?;
    eventually("the webhook of eu-1 is asked again", async || {
        Ok(apply(&[first], "v5").await.is_ok().then_some(()))
    })
    .await?;
    first.runs("v5").await?;
    second.runs("v5").await?;
    second.policy_says("it is heard", |text| !text.contains("Wave:")).await
}
