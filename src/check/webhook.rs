//! Findings about the webhook: its configuration, whom it trusts, and whether it answers.

use super::compare::difference;
use super::facts::{Answer, Facts, Probe};
use super::finding::Finding;
use super::finding::Level::{Error, Info, Warning};
use super::installation::{INSTALL, deployment_of, webhook_configuration};
use crate::api::keys;
use crate::object::{list, text};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use x509_parser::pem::Pem;

/// Certificates are renewed long before: one that ends sooner is one that nobody renews.
const RENEWED_BY: SignedDuration = SignedDuration::from_hours(7 * 24);
const TRUST: &str = "the API server trusts no certificate of the webhook: writes to enrolled objects fail";
const INJECT: &str = "see whether Sidetrack, or cert-manager's CA injector, runs and what it logs";

/// Whether Sidetrack runs outside the cluster.
pub(super) fn is_outside(facts: &Facts) -> bool {
    webhook_configuration(facts)
        .is_some_and(|c| list(c, "/webhooks").iter().any(|w| w.pointer("/clientConfig/url").is_some()))
}

/// Whether the certificate comes from files.
pub(super) fn has_certificate_files(facts: &Facts) -> bool {
    deployment_of(facts).is_some_and(|d| {
        list(d, "/spec/template/spec/containers").to_vec().iter().any(|c| {
            list(c, "/args").iter().filter_map(Value::as_str).any(|arg| arg.contains("-tls-cert-file"))
        })
    })
}

pub(super) fn configuration(facts: &Facts, wanted: &Value, live: &Value) -> Vec<Finding> {
    let entries = list(live, "/webhooks");
    let entry = |wanted: &Value| {
        let name = text(wanted, "/name");
        match entries.iter().find(|live| text(live, "/name") == name) {
            Some(live) => self::entry(facts.now, wanted, live),
            None => vec![Finding::new(
                Error,
                format!("webhook {name} is missing in MutatingWebhookConfiguration sidetrack"),
                "changes to these objects are not seen",
                INSTALL,
            )],
        }
    };
    list(wanted, "/webhooks").iter().flat_map(entry).collect()
}

fn entry(now: Timestamp, wanted: &Value, live: &Value) -> Vec<Finding> {
    let name = format!("webhook {}", text(wanted, "/name"));
    let mut found = Vec::new();
    if text(live, "/failurePolicy") != "Fail" {
        found.push(Finding::new(
            Error,
            format!("{name} has failurePolicy {}", text(live, "/failurePolicy")),
            "whenever the webhook does not answer, a new revision is not held",
            INSTALL,
        ));
    }
    let mut wanted = wanted.clone();
    if let Some(wanted) = wanted.as_object_mut() {
        wanted.retain(|field, _| !["clientConfig", "failurePolicy"].contains(&field.as_str()));
    }
    if let Some(path) = difference(&wanted, live) {
        found.push(Finding::new(
            Warning,
            format!("{name} is not this version's: {path} differs"),
            "the webhook may be asked about too little, or too much",
            INSTALL,
        ));
    }
    found.extend(bundle(&name, now, text(live, "/clientConfig/caBundle")));
    if found.is_empty() {
        found.push(Finding::ok(name));
    }
    found
}

fn bundle(name: &str, now: Timestamp, bundle: &str) -> Option<Finding> {
    let error = |what: String| Some(Finding::new(Error, what, TRUST, INJECT));
    if bundle.is_empty() {
        return error(format!("{name} has no caBundle"));
    }
    let ends = match ends(bundle) {
        Ok(ends) => ends,
        Err(why) => return error(format!("{name} has a caBundle that cannot be read: {why}")),
    };
    // While authorities are exchanged there are several, and the old one may end first.
    let Some(last) = ends.into_iter().max() else {
        return error(format!("{name} has a caBundle without a certificate"));
    };
    if last <= now {
        return error(format!("{name} has a caBundle whose last certificate expired at {last}"));
    }
    (last.duration_since(now) < RENEWED_BY).then(|| {
        Finding::new(
            Warning,
            format!("{name} has a caBundle whose last certificate expires at {last}"),
            "it should have been renewed long before; from then on writes to enrolled objects fail",
            INJECT,
        )
    })
}

/// Returns the ends of validity of the certificates in a base64 text of PEM.
fn ends(bundle: &str) -> Result<Vec<Timestamp>, String> {
    let pem = STANDARD.decode(bundle).map_err(|e| e.to_string())?;
    let end = |pem: Result<Pem, _>| {
        let pem = pem.map_err(|e: x509_parser::error::PEMError| e.to_string())?;
        let certificate = pem.parse_x509().map_err(|e| e.to_string())?;
        Timestamp::from_second(certificate.validity().not_after.timestamp()).map_err(|e| e.to_string())
    };
    Pem::iter_from_buffer(&pem).map(end).collect()
}

/// Says what became of the dry-run writes: the API server itself connects to the webhook with the bundle it has, so
/// it is true for a webhook that cannot be reached from here, too.
pub(super) fn probes(facts: &Facts) -> Vec<Finding> {
    if webhook_configuration(facts).is_none() {
        return Vec::new();
    }
    facts.probes.iter().map(|probe| self::probe(probe, &facts.user)).collect()
}

fn probe(Probe { webhook, answer }: &Probe, user: &Answer<String>) -> Finding {
    let called = format!("dry-run write to webhook {webhook}");
    let carries = |object: &Value, field: &str, key: &str| {
        object.get("metadata").and_then(|m| m.get(field)?.get(key)).is_some()
    };
    match answer {
        Ok(object)
            if !carries(object, "labels", keys::CANARY) && !carries(object, "annotations", keys::REQUEST) =>
        {
            Finding::ok(format!("webhook {webhook} answers the API server"))
        }
        Ok(_) if user.as_deref() == Ok(keys::CONTROLLER_USER) => Finding::new(
            Info,
            format!("webhook {webhook}: whether it answers is not known"),
            "writes by Sidetrack's own ServiceAccount are not shown to it",
            "run sidetrack check as somebody else",
        ),
        Ok(_) => Finding::new(
            Error,
            format!("{called}: it was not asked, or did nothing"),
            "the key of ours that the write carried is still there: new revisions would not be held, nor requests stamped",
            "look at the namespaceSelector, objectSelector and rules of MutatingWebhookConfiguration sidetrack",
        ),
        Err(refusal) if refusal.message.contains(webhook) => Finding::new(
            Error,
            format!("{called} failed: {}", refusal.message),
            "every change of an enrolled object fails likewise",
            "see whether its pods are ready, whether the API server may reach their port 9443, and that caBundle is theirs",
        ),
        Err(refusal) => Finding {
            level: Info,
            ..Finding::unknown(&format!("webhook {webhook}: whether it answers is"), refusal)
        },
    }
}
