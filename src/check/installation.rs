//! Findings about the installation: definitions, rights, pods, webhook and second lock.

use super::compare::{difference, dropped_fields};
use super::facts::{Asked, Facts, Installed};
use super::finding::Finding;
use super::finding::Level::{Error, Info, Warning};
use super::webhook;
use crate::admission::{configuration, requests};
use crate::install::rights::{Right, Scope};
use crate::install::workload;
use crate::object::{list, text};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::BTreeMap;

/// The oldest served minor version: the first with ValidatingAdmissionPolicy in `v1`.
const OLDEST_MINOR: u32 = 30;
/// A leader renews its Lease every few seconds.
const RENEWED_WITHIN: SignedDuration = SignedDuration::from_mins(1);
/// How to put an installation right.
pub(super) const INSTALL: &str =
    "apply this version's manifests: sidetrack manifests --image IMAGE | kubectl apply -f -";

/// Looks at everything that the manifests install.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![version(&facts.version)];
    for installed in &facts.installed {
        found.extend(object(facts, installed));
    }
    found.extend(rights(facts));
    // Where no replica is ready that is said, and is the cause.
    let ready = |deployment: &Value| deployment.pointer("/status/readyReplicas").and_then(Value::as_i64);
    if deployment_of(facts).map_or_else(|| webhook::is_outside(facts), |d| ready(d) > Some(0)) {
        found.push(leader(facts));
    }
    found.extend(webhook::probes(facts));
    found
}

pub(super) fn version(version: &Value) -> Finding {
    let name = format!("API server {}", text(version, "/gitVersion"));
    // Some distributions write `33+`.
    let minor = text(version, "/minor").trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>();
    match minor {
        Ok(minor) if text(version, "/major") == "1" && minor < OLDEST_MINOR => Finding::new(
            Error,
            format!("{name} is older than 1.{OLDEST_MINOR}"),
            "it has no ValidatingAdmissionPolicy in version v1: without the webhook nothing would hold a revision",
            format!("upgrade the cluster to 1.{OLDEST_MINOR} or newer"),
        ),
        _ => Finding::ok(name),
    }
}

fn object(facts: &Facts, installed: &Installed) -> Vec<Finding> {
    let Installed { wanted, live } = installed;
    let kind = text(wanted, "/kind");
    let name = format!("{kind} {}", text(wanted, "/metadata/name"));
    let live = match live {
        Ok(Some(live)) => live,
        Ok(None) => return missing(facts, kind, &name).into_iter().collect(),
        Err(refusal) => return vec![Finding::unknown(&format!("{name} is"), refusal)],
    };
    match kind {
        "CustomResourceDefinition" => vec![definition(&name, wanted, live)],
        "Deployment" => deployment(&name, wanted, live),
        "MutatingWebhookConfiguration" => webhook::configuration(facts, wanted, live),
        "ValidatingAdmissionPolicy" => vec![policy(&name, wanted, live)],
        "ValidatingAdmissionPolicyBinding" => vec![binding(&name, wanted, live)],
        _ => vec![Finding::ok(name)],
    }
}

fn missing(facts: &Facts, kind: &str, name: &str) -> Option<Finding> {
    let what = format!("{name} is missing");
    let (level, why) = match kind {
        "CustomResourceDefinition" => (Error, "objects of this kind cannot be stored, nor acted on"),
        "MutatingWebhookConfiguration" => {
            (Error, "no new pod template is held; the second lock, where it is there, refuses them instead")
        }
        "ValidatingAdmissionPolicy" | "ValidatingAdmissionPolicyBinding"
            if requests::NAMES.iter().any(|one| name.ends_with(&format!(" {one}"))) =>
        {
            (
                Error,
                "rights on releases are not asked for: whoever may patch a Canary may promote, skip, and rewrite it",
            )
        }
        "ValidatingAdmissionPolicy" | "ValidatingAdmissionPolicyBinding" => {
            (Warning, "when the webhook configuration is deleted or fails open, revisions get past unseen")
        }
        "PodDisruptionBudget" => (Warning, "draining nodes may end all replicas at once"),
        "NetworkPolicy" if !webhook::is_outside(facts) => (Info, "every port of its pods can be reached"),
        "ResourceQuota" if !webhook::is_outside(facts) => {
            (Info, "a cluster that limits priorities to quotas (GKE) makes no pod of it")
        }
        "NetworkPolicy" | "ResourceQuota" => return None,
        // Outside a cluster neither is of use, and the namespace keeps only Lease and Secret.
        "Deployment" | "Service" if webhook::is_outside(facts) => {
            return (kind == "Deployment").then(|| {
                Finding::new(Info, what, "the webhook is reached by a URL: Sidetrack runs somewhere else", "")
            });
        }
        _ => (Error, "Sidetrack cannot run without it"),
    };
    Some(Finding::new(level, what, why, INSTALL))
}

fn definition(name: &str, wanted: &Value, live: &Value) -> Finding {
    let established = list(live, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == "Established" && text(c, "/status") == "True");
    if !established {
        return Finding::new(
            Error,
            format!("{name} is not established"),
            "the API server does not serve this kind; its conditions say why",
            format!("kubectl describe crd {}", text(live, "/metadata/name")),
        );
    }
    let schema = |definition: &Value| {
        let version = list(definition, "/spec/versions").iter().find(|v| text(v, "/name") == "v1beta1")?;
        version.pointer("/schema/openAPIV3Schema").cloned()
    };
    let (ours, theirs) = (schema(wanted).unwrap_or_default(), schema(live).unwrap_or_default());
    let dropped = dropped_fields(&ours, &theirs);
    if let Some(first) = dropped.first() {
        return Finding::new(
            Error,
            format!("{name} is not this version's: it lacks {} fields, {first} among them", dropped.len()),
            "the API server drops them when an object is stored; a status that is dropped is a run that is forgotten",
            INSTALL,
        );
    }
    let differs = difference(&wanted["spec"], &live["spec"])
        .or_else(|| difference(&theirs, &ours).map(|path| format!("versions[].schema: {path}")));
    match differs {
        Some(path) => Finding::new(
            Warning,
            format!("{name} is not this version's: spec.{path} differs"),
            "what is accepted and shown may differ from what this version documents",
            INSTALL,
        ),
        None => Finding::ok(name),
    }
}

fn deployment(name: &str, wanted: &Value, live: &Value) -> Vec<Finding> {
    let count = |pointer: &str, default| live.pointer(pointer).and_then(Value::as_i64).unwrap_or(default);
    let (replicas, ready) = (count("/spec/replicas", 1), count("/status/readyReplicas", 0));
    let what = format!("{name} has {ready} of {replicas} replicas ready");
    let look = "kubectl -n sidetrack-system describe pods, and their logs";
    let mut found = vec![match (replicas, ready) {
        (_, 0) => {
            Finding::new(Error, what, "nobody answers the webhook: enrolled objects cannot be changed", look)
        }
        (_, ready) if ready < replicas => {
            Finding::new(Warning, what, "one more failure may be one too many", look)
        }
        (1, _) => Finding::new(
            Warning,
            what,
            "while its only pod moves, enrolled objects cannot be changed",
            "kubectl -n sidetrack-system scale deployment sidetrack --replicas 2",
        ),
        _ => Finding::ok(what),
    }];
    let version = |object| text(object, "/metadata/labels/app.kubernetes.io~1version").to_owned();
    let (ours, theirs) = (version(wanted), version(live));
    if ours != theirs {
        let theirs = if theirs.is_empty() { "unknown" } else { &theirs };
        found.push(Finding::new(
            Info,
            format!("{name} is version {theirs}, this binary is {ours}"),
            "definitions and policies are judged by what this binary would install",
            "check with the binary that is installed",
        ));
    }
    found
}

fn policy(name: &str, wanted: &Value, live: &Value) -> Finding {
    if let Some(warning) = list(live, "/status/typeChecking/expressionWarnings").first() {
        return Finding::new(
            Warning,
            format!("{name}: {} does not type-check", text(warning, "/fieldRef")),
            text(warning, "/warning"),
            INSTALL,
        );
    }
    same(name, wanted, live, "the second lock may let through, or refuse, what it should not")
}

fn binding(name: &str, wanted: &Value, live: &Value) -> Finding {
    same(name, wanted, live, "the policy may not be in force")
}

fn same(name: &str, wanted: &Value, live: &Value, why: &str) -> Finding {
    match difference(&wanted["spec"], &live["spec"]) {
        Some(path) => {
            Finding::new(Warning, format!("{name} is not this version's: spec.{path} differs"), why, INSTALL)
        }
        None => Finding::ok(name),
    }
}

/// Whether some replica leads: the others answer the webhook and release nothing.
fn leader(facts: &Facts) -> Finding {
    const WHY: &str = "new revisions are held and none is released; requests are not answered";
    let lease = match &facts.lease {
        Ok(Some(lease)) => lease,
        Ok(None) => {
            return Finding::new(
                Error,
                "nobody leads: there is no Lease sidetrack",
                WHY,
                "see why no replica could take it: kubectl -n sidetrack-system logs deployment/sidetrack",
            );
        }
        Err(refusal) => return Finding::unknown("Lease sidetrack is", refusal),
    };
    let holder = text(lease, "/spec/holderIdentity");
    let renewed = text(lease, "/spec/renewTime").parse::<Timestamp>().ok();
    let idle = renewed.map(|renewed| facts.now.duration_since(renewed));
    match idle {
        Some(idle) if !holder.is_empty() && idle <= RENEWED_WITHIN => Finding::ok(format!("{holder} leads")),
        _ => {
            let since = renewed.map_or_else(|| "never".into(), |renewed| format!("last at {renewed}"));
            let seconds = lease.pointer("/spec/leaseDurationSeconds").and_then(Value::as_i64).unwrap_or(0);
            Finding::new(
                Error,
                format!(
                    "nobody leads: {holder:?} holds Lease sidetrack for {seconds} s and renewed it {since}"
                ),
                WHY,
                "if that replica is gone, delete the Lease, another one takes it at once: \
                 kubectl -n sidetrack-system delete lease sidetrack",
            )
        }
    }
}

/// One finding a resource that something is missing for.
fn rights(facts: &Facts) -> Vec<Finding> {
    const WHY: &str = "the step that needs it fails, and with it every release that comes to that step";
    const DO: &str = "apply rbac.yaml of this version's manifests: sidetrack manifests --out DIR";
    let mut missing: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    // Who mounts certificate files needs no right to a Secret of its own.
    let needed =
        |asked: &&Asked| asked.right.scope != Scope::Certificates || !webhook::has_certificate_files(facts);
    for asked in facts.rights.iter().filter(needed) {
        match asked.allowed {
            Ok(true) => {}
            Ok(false) => missing.entry(name_of(&asked.right)).or_default().push(asked.verb),
            Err(ref refusal) => {
                return vec![Finding::unknown("the rights of ServiceAccount sidetrack are", refusal)];
            }
        }
    }
    if missing.is_empty() {
        return vec![Finding::ok("ServiceAccount sidetrack has every right that it needs")];
    }
    if facts.rights.iter().all(|asked| asked.allowed == Ok(false)) {
        return vec![Finding::new(Error, "ServiceAccount sidetrack has no right at all", WHY, DO)];
    }
    let found = missing.into_iter().map(|(resource, verbs)| {
        let what = format!("ServiceAccount sidetrack may not {} {resource}", verbs.join(", "));
        Finding::new(Error, what, WHY, DO)
    });
    found.collect()
}

/// Names a resource as `kubectl auth can-i` takes it: `deployments.apps/scale`, `secrets/NAME`.
fn name_of(right: &Right) -> String {
    let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
    let dot = if right.group.is_empty() { "" } else { "." };
    let last = right.name.unwrap_or(subresource);
    let slash = if last.is_empty() { "" } else { "/" };
    format!("{resource}{dot}{}{slash}{last}", right.group)
}

/// Returns the live webhook configuration.
pub(super) fn webhook_configuration(facts: &Facts) -> Option<&Value> {
    facts.live("MutatingWebhookConfiguration", configuration::NAME)
}

/// Returns the live Deployment.
pub(super) fn deployment_of(facts: &Facts) -> Option<&Value> {
    facts.live("Deployment", workload::NAME)
}
