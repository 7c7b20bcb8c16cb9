//! Flux as it is: what each thing that a team does in Git comes to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::flux::{self, Repository};
use lab::load::Counts;
use lab::sample::Traffic;
use serde_json::{Value, json};

use crate::stage::{Stage, at, condition, image, suspend, until};

/// Flux looks five times at what is there: nothing is written by anybody, no Event, not the same thing again.
pub(crate) async fn same_revision_again(lab: Arc<Lab>) -> Result<String> {
    let stage = Stage::new(lab, "same-revision-again", Traffic::Istio).unjudged().initialised().await?;
    let mut quiet = Vec::new();
    for version in ["v1", "v2"] {
        if version == "v2" {
            stage.commit("v2").await?;
            stage.phase("Succeeded").await?;
        }
        // The end of a release has writes of its own, Deployment status among them.
        stage.settled().await?;
        let mark = stage.lab.cp.audit().mark().await?;
        until("Flux has looked five times", async || Ok((stage.looks_since(mark).await? >= 5).then_some(())))
            .await?;
        let writes = stage.writes_since(mark).await?;
        ensure!(writes.is_empty(), "at rest on {version}: {writes:#?}");
        quiet.push(stage.looks_since(mark).await?);
    }
    Ok(format!("{} re-applies at rest: 0 writes, 0 Events", quiet.iter().sum::<usize>()))
}

/// v2's run ends, v3's starts at weight 0; v3 is what is promoted, and no request fails.
pub(crate) async fn newer_revision_during_analysis(lab: Arc<Lab>) -> Result<String> {
    let stage =
        Stage::new(lab, "newer-revision-during-analysis", Traffic::Istio).unjudged().initialised().await?;
    let load = stage.load(50).await?;
    let weights = stage.weights();
    stage.commit("v2").await?;
    stage.weight(20).await?;
    let committed = Instant::now();
    stage.commit("v3").await?;
    until("v3 is the primary", async || {
        Ok((image(&stage.deployment("app-primary").await?) == "app:v3").then_some(()))
    })
    .await?;
    stage.phase("Succeeded").await?;
    let requests = load.stop().await;
    let counts = Counts::of(&requests);
    ensure!(counts.failed == 0, "{counts:?}");
    let first =
        requests.iter().filter(|r| r.version == "v3").map(|r| r.at).min().context("v3 never answered")?;
    let seen = weights.so_far();
    let zero = seen
        .iter()
        .find(|(at, weight)| *weight == 0 && *at > committed)
        .context("weight was not taken away")?;
    ensure!(zero.0 < first, "v3 answered before v2's weight was gone");
    let again = seen.iter().find(|(at, weight)| *weight > 0 && *at > zero.0).context("no weight for v3")?;
    ensure!(again.1 == 20, "v3 started at weight {}", again.1);
    let late =
        requests.iter().filter(|r| r.version == "v2" && r.at > zero.0 + Duration::from_secs(1)).count();
    ensure!(late == 0, "v2 answered {late} requests after its weight was gone");
    Ok(format!(
        "v2 superseded, weight 0 {:.1} s after the commit, v3 analysed from the start and promoted; {} requests, 0 failed",
        zero.0.duration_since(committed).as_secs_f64(),
        counts.total
    ))
}

/// The run is cancelled; the primary is not touched at all.
pub(crate) async fn revert_during_analysis(lab: Arc<Lab>) -> Result<String> {
    let stage = Stage::new(lab, "revert-during-analysis", Traffic::Istio).unjudged().initialised().await?;
    let load = stage.load(50).await?;
    let weights = stage.weights();
    let before = stage.deployment("app-primary").await?;
    stage.commit("v2").await?;
    stage.weight(20).await?;
    let revision = stage.commit("v1").await?;
    stage.flux_says(&revision, "True").await?;
    stage.phase("Succeeded").await?;
    until("weight is gone", async || Ok(weights.so_far().last().is_some_and(|(_, w)| *w == 0).then_some(())))
        .await?;
    until("the target has no pods", async || {
        Ok((at(&stage.deployment("app").await?, "/status/replicas").as_i64().unwrap_or(0) == 0).then_some(()))
    })
    .await?;
    let counts = Counts::of(&load.stop().await);
    ensure!(counts.failed == 0, "{counts:?}");
    let primary = stage.deployment("app-primary").await?;
    ensure!(
        at(&primary, "/metadata/generation") == at(&before, "/metadata/generation"),
        "the primary was changed"
    );
    let target = stage.deployment("app").await?;
    ensure!(image(&target) == "app:v1" && at(&target, "/spec/paused").as_bool() != Some(true));
    Ok(format!(
        "run cancelled, primary untouched; v2 answered {} of {} requests, 0 failed",
        counts.version("v2"),
        counts.total
    ))
}

/// The Kustomization is not Ready before the release is over, and is then. The canary's pods are ready long before Flux, which looks
/// every five seconds and at the Deployment before the Canary, looks for the second time.
pub(crate) async fn wait_true_succeeds(lab: Arc<Lab>) -> Result<String> {
    let mut stage = Stage::new(lab, "wait-true-succeeds", Traffic::Istio).unjudged();
    stage.repository = stage.repository.with(json!({ "wait": true, "timeout": "2m" }));
    let stage = stage.initialised().await?;
    let first = at(&stage.kustomization().await?, "/status/lastAttemptedRevision").clone();
    stage.flux_says(first.as_str().unwrap_or_default(), "True").await?;
    let revision = stage.commit("v2").await?;
    let start = Instant::now();
    let mut released = None;
    until("Flux says that v2 is there", async || {
        let kustomization = stage.kustomization().await?;
        let canary = stage.canary().await?;
        let primary = stage.deployment("app-primary").await?;
        if released.is_none() && at(&canary, "/status/phase") == "Succeeded" && image(&primary) == "app:v2" {
            released = Some(Instant::now());
        }
        let ready = at(condition(&kustomization, "Ready"), "/status") == "True"
            && at(&kustomization, "/status/lastAppliedRevision") == revision.as_str();
        ensure!(!ready || released.is_some(), "Ready while the Canary says {}", at(&canary, "/status"));
        Ok(ready.then_some(()))
    })
    .await?;
    let released = released.context("never released")?;
    Ok(format!(
        "Ready {:.0} s after the commit, {:.1} s after the promotion, never before",
        start.elapsed().as_secs_f64(),
        released.elapsed().as_secs_f64()
    ))
}

/// The Kustomization fails when the release does, and says why.
pub(crate) async fn wait_true_fails(lab: Arc<Lab>) -> Result<String> {
    let mut stage = Stage::new(lab, "wait-true-fails", Traffic::Istio).unjudged();
    stage.repository = stage.repository.with(json!({ "wait": true, "timeout": "90s" }));
    stage.sample.progress_deadline = 10;
    let stage = stage.initialised().await?;
    let revision = stage.commit_sample(&stage.sample.clone().env("REFUSE_READINESS", "true"), "v2").await?;
    stage.phase("Failed").await?;
    let failed = Instant::now();
    let ready = stage.flux_says(&revision, "False").await?;
    let after = failed.elapsed().as_secs_f64();
    let reason = at(&ready, "/reason").as_str().unwrap_or_default();
    let message = at(&ready, "/message").as_str().unwrap_or_default();
    ensure!(reason == "HealthCheckFailed" && message.contains("Canary"), "it names the Canary: {ready}");
    ensure!(image(&stage.deployment("app-primary").await?) == "app:v1");
    let revision = stage.commit("v1").await?;
    stage.flux_says(&revision, "True").await?;
    Ok(format!("Ready=False, {reason}, {after:.1} s after the rollback; Ready again when v1 is back in Git"))
}

/// The primary gets the number; then Flux finds nothing to do.
pub(crate) async fn replicas_in_git(lab: Arc<Lab>) -> Result<String> {
    let mut stage = Stage::new(lab, "replicas-in-git", Traffic::Istio).unjudged().initialised().await?;
    stage.sample.replicas = Some(3);
    let revision = stage.commit("v1").await?;
    stage.flux_says(&revision, "True").await?;
    let ready = async |number: i64| {
        until(&format!("the primary has {number} pods"), async || {
            let primary = stage.deployment("app-primary").await?;
            Ok((at(&primary, "/status/readyReplicas") == number && at(&primary, "/spec/replicas") == number)
                .then_some(()))
        })
        .await
    };
    ready(3).await?;
    stage.settled().await?;
    let mark = stage.lab.cp.audit().mark().await?;
    until("Flux has looked three times", async || Ok((stage.looks_since(mark).await? >= 3).then_some(())))
        .await?;
    let writes = stage.writes_since(mark).await?;
    ensure!(writes.is_empty(), "{writes:#?}");
    let target = stage.deployment("app").await?;
    ensure!(at(&target, "/spec/replicas") == 0, "the target has {}", at(&target, "/spec/replicas"));
    stage.commit("v2").await?;
    stage.phase("Succeeded").await?;
    ready(3).await?;
    Ok("the primary gets 3 and keeps them through a release; 3 re-applies: 0 writes".to_owned())
}

/// With an HPA of the application in the same Kustomization, from nothing: the autoscaler's number is nobody else's.
pub(crate) async fn replicas_and_autoscaler(lab: Arc<Lab>) -> Result<String> {
    let mut stage = Stage::new(lab, "replicas-and-autoscaler", Traffic::Istio).unjudged();
    let namespace = &stage.sample.namespace;
    let hpa = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": "app", "namespace": namespace },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "app" },
            "minReplicas": 3, "maxReplicas": 5,
            "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 80 } } }],
        },
    });
    let mut canary = stage.sample.canary();
    if let Some(spec) = canary.get_mut("spec").and_then(Value::as_object_mut) {
        let reference =
            json!({ "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "name": "app" });
        spec.insert("autoscalerRef".to_owned(), reference);
        if let Some(service) = spec.get_mut("service").and_then(Value::as_object_mut) {
            service.insert("portName".to_owned(), json!("http"));
        }
    }
    let tree = |version: &str| {
        let objects = [
            stage.sample.namespace(),
            stage.sample.deployment(version),
            stage.sample.service(),
            hpa.clone(),
            canary.clone(),
        ];
        let named = objects
            .iter()
            .map(|o| (format!("{}.yaml", at(o, "/kind").as_str().unwrap_or_default()), o.to_string()));
        named.collect::<BTreeMap<_, _>>()
    };
    let (one, two) = (tree("v1"), tree("v2"));
    stage.repository = Repository::new(&stage.repository.name);
    stage.repository.create(&stage.client).await?;
    stage.commit_files(&one).await?;
    stage.phase("Initialized").await?;
    until("the primary's autoscaler has given it three", async || {
        Ok((at(&stage.deployment("app-primary").await?, "/status/readyReplicas") == 3).then_some(()))
    })
    .await?;
    stage.commit_files(&two).await?;
    stage.phase("Succeeded").await?;
    ensure!(image(&stage.deployment("app-primary").await?) == "app:v2");
    stage.settled().await?;
    let mark = stage.lab.cp.audit().mark().await?;
    until("Flux has looked three times", async || Ok((stage.looks_since(mark).await? >= 3).then_some(())))
        .await?;
    let mut writes = stage.writes_since(mark).await?;
    // Without a metrics server the autoscaler complains by itself.
    writes.retain(|r| {
        !(by_autoscaler(r) || r.resource == "horizontalpodautoscalers" && r.subresource == "status")
    });
    ensure!(writes.is_empty(), "{writes:#?}");
    Ok("Deployment, Service, HPA and Canary from nothing in one Kustomization; v2 promoted; 3 re-applies: 0 writes".to_owned())
}

fn by_autoscaler(request: &ground::AuditRequest) -> bool {
    request.resource == "events" && request.user == "system:kube-controller-manager"
}

/// Traffic stays on the primary; put back, the revision is analysed as any other.
pub(crate) async fn deployment_deleted_in_git(lab: Arc<Lab>) -> Result<String> {
    let stage = Stage::new(lab, "deployment-deleted-in-git", Traffic::Istio).unjudged().initialised().await?;
    let load = stage.load(50).await?;
    let mut tree = BTreeMap::new();
    for object in [stage.sample.namespace(), stage.sample.canary()] {
        tree.insert(
            format!("{}.yaml", at(&object, "/kind").as_str().unwrap_or_default()),
            object.to_string(),
        );
    }
    let revision = stage.commit_files(&tree).await?;
    stage.flux_says(&revision, "True").await?;
    until("the Deployment is gone", async || Ok(stage.deployment("app").await?.is_null().then_some(())))
        .await?;
    let told = load.so_far().len();
    until("the application was asked 200 times more", async || {
        Ok((load.so_far().len() > told + 200).then_some(()))
    })
    .await?;
    let canary = stage.canary().await?;
    let said = at(condition(&canary, "Stalled"), "/message").as_str().unwrap_or_default().to_owned();
    ensure!(!said.is_empty(), "the Canary says that its target is missing: {}", at(&canary, "/status"));
    stage.commit("v2").await?;
    until("v2 is the primary", async || {
        Ok((image(&stage.deployment("app-primary").await?) == "app:v2").then_some(()))
    })
    .await?;
    stage.phase("Succeeded").await?;
    let requests = load.stop().await;
    let counts = Counts::of(&requests);
    ensure!(counts.failed == 0, "{counts:?}");
    Ok(format!(
        "the primary serves on, Stalled: \"{said}\"; v2 analysed and promoted; {} requests, 0 failed",
        counts.total
    ))
}

/// A forced Kustomization deletes and makes anew what is immutable; an enrolled Deployment is spared, Flux told why.
pub(crate) async fn immutable_field_with_force(lab: Arc<Lab>) -> Result<String> {
    let stage =
        Stage::new(lab, "immutable-field-with-force", Traffic::Istio).unjudged().initialised().await?;
    let before = stage.deployment("app").await?;
    let mut deployment = stage.sample.deployment("v2");
    for labels in ["/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
        if let Some(Value::Object(labels)) = deployment.pointer_mut(labels) {
            labels.insert("tier".to_owned(), json!("web"));
        }
    }
    let mut tree = BTreeMap::new();
    for object in [stage.sample.namespace(), deployment, stage.sample.canary()] {
        tree.insert(
            format!("{}.yaml", at(&object, "/kind").as_str().unwrap_or_default()),
            object.to_string(),
        );
    }
    let revision = stage.commit_files(&tree).await?;
    let ready = stage.flux_says(&revision, "False").await?;
    let message = at(&ready, "/message").as_str().unwrap_or_default().to_owned();
    ensure!(message.contains("selector"), "{message}");
    let after = stage.deployment("app").await?;
    ensure!(at(&after, "/metadata/uid") == at(&before, "/metadata/uid"), "it was deleted and made anew");
    ensure!(image(&after) == "app:v1", "it is {}", image(&after));
    stage.commit("v2").await?;
    stage.phase("Succeeded").await?;
    Ok("refused, the Deployment lives on unchanged; the Kustomization says why; heals with the next commit"
        .to_owned())
}

/// Two owners take turns, each time a new revision: both are named, and nothing is released until one of them lets go.
pub(crate) async fn two_kustomizations(lab: Arc<Lab>) -> Result<String> {
    let stage = Stage::new(lab, "two-kustomizations", Traffic::Istio).unjudged().initialised().await?;
    let load = stage.load(50).await?;
    let other = Repository::new("two-kustomizations-other");
    other.create(&stage.client).await?;
    let mut tree = BTreeMap::new();
    tree.insert("deployment.yaml".to_owned(), stage.sample.deployment("v2").to_string());
    let mark = stage.lab.cp.audit().mark().await?;
    other.commit(&stage.client, stage.lab.dir(), &tree).await?;
    let said = until("the Canary names both", async || {
        let canary = stage.canary().await?;
        let stalled = condition(&canary, "Stalled");
        Ok((at(stalled, "/reason") == "Contested").then(|| at(stalled, "/message").to_string()))
    })
    .await?;
    for owner in [&stage.repository.name, &other.name] {
        ensure!(said.contains(&format!("Kustomization {}/{owner} (revision", flux::NAMESPACE)), "{said}");
    }
    ensure!(stage.events().await?.iter().any(|event| said.contains(event)), "no Event says so");
    let turns = async |mark| {
        let writes = stage.lab.cp.audit().requests_since(mark, flux::USER).await?;
        let of_ours = writes.iter().filter(|r| {
            r.namespace == stage.sample.namespace
                && r.resource == "deployments"
                && r.is_write()
                && !r.uri.contains("dryRun")
        });
        anyhow::Ok(of_ours.count())
    };
    let before = turns(mark).await?;
    let mark = stage.lab.cp.audit().mark().await?;
    until("six turns more", async || Ok((turns(mark).await? >= 6).then_some(()))).await?;
    let mut acts = stage.writes_since(mark).await?;
    acts.retain(|r| r.user == ground::SIDETRACK);
    ensure!(acts.is_empty(), "Sidetrack acted on a turn: {acts:#?}");
    suspend(&stage.lab, &other.name).await?;
    let start = Instant::now();
    until("the one that is left is what runs", async || {
        let canary = stage.canary().await?;
        let ready = at(condition(&canary, "Ready"), "/status") == "True";
        let target = stage.deployment("app").await?;
        Ok((ready && image(&target) == "app:v1" && at(&target, "/spec/paused").as_bool() != Some(true))
            .then_some(()))
    })
    .await?;
    let after = start.elapsed().as_secs_f64();
    ensure!(image(&stage.deployment("app-primary").await?) == "app:v1");
    let counts = Counts::of(&load.stop().await);
    ensure!(counts.failed == 0, "{counts:?}");
    Ok(format!(
        "after {before} turns a Warning and Stalled name both; six turns more: no release, 0 writes by Sidetrack; Ready {after:.0} s after one of them is suspended; {} requests, 0 failed",
        counts.total
    ))
}
