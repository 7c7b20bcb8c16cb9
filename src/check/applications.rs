//! Findings about what Sidetrack works on: Canaries, their targets and whoever else writes to them.

use super::facts::{Adoption, Facts};
use super::finding::Finding;
use super::finding::Level::{Error, Info, Warning};
use super::installation::deployment_of;
use crate::api::keys;
use crate::check::adoption::changes;
use crate::install::rights::SECRETS_ROLE;
use crate::object::{Key, Kind, key, list, text};
use crate::rollout::subject::{Config, Subject};
use serde_json::Value;
use std::collections::BTreeMap;

/// What kubectl leaves behind.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Looks at every Canary and what it needs.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = flagger(facts);
    let canaries = match &facts.canaries {
        Ok(canaries) => canaries,
        Err(refusal) => {
            found.push(Finding::unknown("what Canaries there are is", refusal));
            return found;
        }
    };
    let config = facts.config();
    let mut names: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    let before = found.len();
    for object in canaries {
        match Subject::new(object.clone(), BTreeMap::new(), BTreeMap::new(), &BTreeMap::new(), &config) {
            Ok(subject) => {
                let target = (subject.names.namespace.clone(), subject.names.target.clone());
                names.entry(target).or_default().push(subject.names.canary.clone());
                found.extend(canary(facts, &subject, &config));
            }
            Err(error) => found.push(Finding::new(
                Error,
                format!("Canary {} cannot be read", name(object)),
                error.to_string(),
                "correct it",
            )),
        }
    }
    for ((namespace, target), canaries) in names.iter().filter(|(_, canaries)| canaries.len() > 1) {
        found.push(Finding::new(
            Error,
            format!("Canaries {} in {namespace} name one target, Deployment {target}", canaries.join(", ")),
            "each would route and scale it against the other",
            "delete all but one",
        ));
    }
    found.extend(secrets(facts));
    for finding in adoptions(facts) {
        // What a spec asks for is judged without looking at anything else, too.
        if finding.why.is_empty() || !found.iter().any(|said| said.why == finding.why) {
            found.push(finding);
        }
    }
    if found.len() == before {
        found.push(Finding::ok(format!("Canaries: {}, none with a complaint", canaries.len())));
    }
    found
}

/// What adopting would do, or why it would not be done.
fn adoptions(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for Adoption { policy, canary, preview } in &facts.adoptions {
        let of = match policy {
            Some(policy) => format!("CanaryPolicy {policy}: {canary}"),
            None => format!("Canary {canary}"),
        };
        let seen = match preview {
            Ok(seen) => seen,
            Err(refusal) => {
                found.push(Finding::unknown(&format!("what adopting {canary} would do is"), refusal));
                continue;
            }
        };
        for refusal in &seen.refusals {
            let level = if policy.is_some() { Warning } else { Error };
            found.push(Finding::new(level, format!("{of} is refused"), refusal.clone(), ""));
        }
        if seen.refusals.is_empty() && !seen.changes.is_empty() {
            let what = format!("{of} would be adopted: {}", changes(seen).join("; "));
            found.push(Finding::new(Info, what, "", ""));
        }
        for warning in seen.warnings.iter().filter(|_| policy.is_some()) {
            found.push(Finding::new(Warning, format!("{of} has a warning"), warning.clone(), ""));
        }
    }
    found
}

fn name(object: &Value) -> String {
    let (namespace, name) = key(object);
    format!("{namespace}/{name}")
}

fn canary(facts: &Facts, subject: &Subject<'_>, config: &Config) -> Vec<Finding> {
    let canary = format!("Canary {}/{}", subject.names.namespace, subject.names.canary);
    let mut found = Vec::new();
    for refusal in &subject.review.refusals {
        found.push(Finding::new(
            Error,
            format!("{canary} is refused"),
            refusal.clone(),
            "change its spec as the reason says; until then nothing is released and nothing of it is touched",
        ));
    }
    for warning in &subject.review.warnings {
        found.push(Finding::new(Warning, format!("{canary} has a warning"), warning.clone(), ""));
    }
    let mut unserved: Vec<Kind> = Subject::references(&subject.canary, config)
        .into_iter()
        .map(|reference| reference.kind)
        .filter(|kind| matches!(kind, Kind::Route(_)) && facts.served.get(kind) == Some(&Ok(false)))
        .collect();
    unserved.dedup();
    for kind in unserved {
        found.push(Finding::new(
            Error,
            format!(
                "{canary} routes with {} {}, which this cluster does not serve",
                kind.api_version(),
                kind.as_str()
            ),
            "its traffic cannot be shifted",
            "install the traffic router's definitions, or name another provider",
        ));
    }
    let deployment = |name: &str| facts.deployments.get(&(subject.names.namespace.clone(), name.to_owned()));
    match deployment(&subject.names.target) {
        Some(Ok(Some(live))) => {
            let primary = deployment(&subject.names.primary).and_then(|p| p.as_ref().ok()?.as_ref());
            found.extend(target(&canary, subject, live, primary));
        }
        Some(Ok(None)) => found.push(Finding::new(
            Warning,
            format!("{canary} names Deployment {}, which does not exist", subject.names.target),
            "nothing is released until it does",
            "apply it",
        )),
        _ => {}
    }
    found.extend(autoscalers(facts, &canary, subject));
    found
}

fn target(canary: &str, subject: &Subject<'_>, live: &Value, primary: Option<&Value>) -> Vec<Finding> {
    let mut found = Vec::new();
    // In place the Deployment keeps its pods, and no apply of the same number changes anything.
    if states_replicas(live) && !subject.names.in_place() {
        found.push(Finding::new(
            Info,
            format!("the manifest of {canary}'s Deployment {} states replicas", subject.names.target),
            "while the webhook is down, kubectl apply and Flux fail for this file",
            "leave spec.replicas out of the manifest; the number of pods stays as it is",
        ));
    }
    let requested = live.pointer("/metadata/annotations").and_then(|a| a.get(keys::REQUESTED_REPLICAS));
    let running = primary.and_then(|p| p.pointer("/spec/replicas")).and_then(Value::as_i64).unwrap_or(0);
    if requested.and_then(Value::as_str) == Some("0") && running > 0 {
        found.push(Finding::new(
            Warning,
            format!("{canary} is asked for 0 replicas and its primary has {running}"),
            "the request was not taken yet, or an autoscaler or a person has scaled the primary since",
            format!(
                "kubectl -n {} scale deployment {} --replicas 0",
                subject.names.namespace, subject.names.primary
            ),
        ));
    }
    found
}

/// Whether somebody who applies the object states how many pods it has.
fn states_replicas(live: &Value) -> bool {
    let annotations = live.pointer("/metadata/annotations");
    let last_applied = annotations
        .and_then(|a| a.get(LAST_APPLIED)?.as_str())
        .and_then(|applied| serde_json::from_str::<Value>(applied).ok());
    let applied = list(live, "/metadata/managedFields").iter().any(|entry| {
        text(entry, "/operation") == "Apply" && entry.pointer("/fieldsV1/f:spec/f:replicas").is_some()
    });
    applied || last_applied.is_some_and(|applied| applied.pointer("/spec/replicas").is_some())
}

fn autoscalers(facts: &Facts, canary: &str, subject: &Subject<'_>) -> Vec<Finding> {
    let Some(Ok(all)) = facts.autoscalers.get(&subject.names.namespace) else { return Vec::new() };
    let own = subject.spec().autoscaler_ref.as_ref().map(|reference| reference.name.as_str());
    let foreign = all.iter().filter(|scaler| {
        text(scaler, "/spec/scaleTargetRef/kind") == "Deployment"
            && text(scaler, "/spec/scaleTargetRef/name") == subject.names.target
            && Some(text(scaler, "/metadata/name")) != own
    });
    let finding = |scaler: &Value| {
        Finding::new(
            Warning,
            format!(
                "HorizontalPodAutoscaler {} scales the target of {canary}, which does not name it",
                name(scaler)
            ),
            "it scales the canary's pods, between releases too, and not the primary's",
            format!("name it in spec.autoscalerRef of {canary}"),
        )
    };
    foreign.map(finding).collect()
}

fn secrets(facts: &Facts) -> Vec<Finding> {
    let denied = facts.secrets.iter().filter(|used| used.allowed == Ok(false));
    let finding = |used: &super::facts::SecretUse| {
        Finding::new(
            Warning,
            format!("{} names Secret {}, which Sidetrack may not read", used.user, used.secret),
            "its checks fail, or its alerts are not sent",
            format!(
                "kubectl apply -n {} -f manifests/secrets-role.yaml (Role {SECRETS_ROLE})",
                used.namespace
            ),
        )
    };
    denied.map(finding).collect()
}

/// Two controllers on the same Canaries move the same routes.
fn flagger(facts: &Facts) -> Vec<Finding> {
    let deployments = match &facts.flaggers {
        Ok(deployments) => deployments,
        Err(refusal) => return vec![Finding::unknown("whether Flagger runs is", refusal)],
    };
    let runs = |d: &&Value| {
        let images = list(d, "/spec/template/spec/containers").iter().map(|c| text(c, "/image"));
        let replicas = d.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        replicas > 0 && images.into_iter().any(is_flagger)
    };
    let finding = |d: &Value| {
        let (namespace, name) = key(d);
        Finding::new(
            if deployment_of(facts).is_some() { Error } else { Warning },
            format!("Flagger runs: Deployment {namespace}/{name}"),
            "both would release, scale and route the same applications against each other",
            format!(
                "stop it before Sidetrack runs: kubectl -n {namespace} scale deployment {name} --replicas 0"
            ),
        )
    };
    deployments.iter().filter(runs).map(finding).collect()
}

/// Whether an image is Flagger's, not that of its load tester.
fn is_flagger(image: &str) -> bool {
    let path = image.split('@').next().unwrap_or(image);
    let last = path.rsplit('/').next().unwrap_or(path);
    last.split(':').next() == Some("flagger")
}
