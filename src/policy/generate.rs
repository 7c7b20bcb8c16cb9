//! The Canary that a policy makes for a Deployment.

use crate::api::canary_policy::CanaryPolicySpec;
use crate::api::{CanarySpec, TargetRef, keys};
use crate::object::Kind;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The port that an application is reached at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Port of the Service; 80 where it is not known.
    pub port: Option<i32>,
    /// What it leads to in a pod, by number or name.
    pub target: Option<Value>,
}

/// Returns the spec of the Canary; the policy's own port wins over the one that was found.
#[must_use]
pub fn spec(policy: &CanaryPolicySpec, target: &str, found: Option<Port>) -> CanarySpec {
    let template = &policy.canary;
    let mut service = template.service.clone();
    if service.port == 0
        && let Some(found) = found
    {
        service.port = found.port.unwrap_or(80);
        if service.target_port.is_none() {
            service.target_port = found.target.and_then(|target| serde_json::from_value(target).ok());
        }
    }
    CanarySpec {
        provider: template.provider.clone(),
        metrics_server: template.metrics_server.clone(),
        target_ref: TargetRef {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            name: target.into(),
        },
        service,
        analysis: template.analysis.clone(),
        progress_deadline_seconds: template.progress_deadline_seconds,
        skip_analysis: template.skip_analysis,
        ..CanarySpec::default()
    }
}

/// The policy that makes a Canary.
#[derive(Clone, Copy, Debug)]
pub struct Maker<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its `metadata.uid`.
    pub uid: &'a str,
    /// Its layout.
    pub layout: &'a str,
}

/// Returns the Canary as it is to be made, the digest of its spec with it.
#[must_use]
pub fn canary(maker: Maker<'_>, namespace: &str, name: &str, spec: &CanarySpec) -> Value {
    json!({
        "apiVersion": Kind::Canary.api_version(), "kind": Kind::Canary.as_str(),
        "metadata": {
            "namespace": namespace, "name": name,
            "labels": {keys::POLICY: maker.name},
            "annotations": {keys::LAYOUT: maker.layout, keys::SPEC_DIGEST: digest(spec)},
            "ownerReferences": [owner(maker)],
        },
        "spec": spec,
    })
}

/// Returns the reference by which the policy owns it.
#[must_use]
pub fn owner(maker: Maker<'_>) -> Value {
    json!({
        "apiVersion": Kind::CanaryPolicy.api_version(), "kind": Kind::CanaryPolicy.as_str(),
        "name": maker.name, "uid": maker.uid, "controller": true, "blockOwnerDeletion": false,
    })
}

/// Returns a short hash of a spec, by which a Canary is known to say what its policy says, or of a part of one.
#[must_use]
pub fn digest(spec: &impl Serialize) -> String {
    let hash = Sha256::digest(serde_json::to_vec(spec).unwrap_or_default());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(service: &Value) -> CanaryPolicySpec {
        serde_json::from_value(json!({"canary": {"service": service, "analysis": {"stepWeight": 10}}}))
            .unwrap()
    }

    #[test]
    fn the_port_is_the_policys_else_the_one_found() {
        let found = || Some(Port { port: Some(81), target: Some("http".into()) });
        let service = |policy: &Value, found| {
            serde_json::to_value(spec(&self::policy(policy), "app", found).service).unwrap()
        };
        assert_eq!(service(&json!({}), found()), json!({"port": 81, "targetPort": "http"}));
        assert_eq!(service(&json!({"port": 9000}), found())["port"], 9000);
        assert_eq!(service(&json!({"retries": {"attempts": 2}}), found())["retries"]["attempts"], 2);
        assert_eq!(
            service(&json!({}), Some(Port { port: None, target: Some(8080.into()) })),
            json!({"port": 80, "targetPort": 8080})
        );
    }

    #[test]
    fn another_spec_has_another_digest() {
        let of = |weight: i32| {
            let mut policy = policy(&json!({"port": 80}));
            policy.canary.analysis.step_weight = Some(weight);
            digest(&spec(&policy, "app", None))
        };
        assert_eq!(of(10), of(10));
        assert_ne!(of(10), of(20));
    }
}
